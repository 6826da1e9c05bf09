"""Parts of bench.py: tokens (documents to token shards) and dump (a MediaWiki dump to documents), as whole commands.

    python bench.py --part=tokens --encoding=gpt2.tiktoken           next to nanoGPT's way, datasets.map and a memmap
    python bench.py --part=dump --dump=enwiki-pages-articles.xml.bz2  next to bzcat
    python benchmarks/bench_wiki.py corpus 1000000 out/1m 0   a million documents (3 GB)
    python benchmarks/bench_wiki.py watch python prepare_wiki.py ...      seconds and memory, all processes

A turn is a command in a fresh process; its memory is the largest sum of the proportional set sizes of its processes.
"""

import bz2
import functools
import itertools
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from benchmarks.bench_figures import Samples, need, ratios, spread, summary, target, target_lines

WORKERS = 2
PART = 2500  # documents in a part of a corpus: 8 MB
OURS = "NonLlama"


def watch(command: list[str]) -> dict[str, float]:
    """Run a command; returns wall seconds, CPU seconds, and the peak memory of all its processes in bytes (PSS).

    CPU seconds are those the system counts for processes that were waited for; or the sum of what each process had used
    when it was last seen, if that is more: the workers of a fork server are waited for by nobody.
    """
    psutil = need("psutil")
    before, start_s, peak, wait_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0, 0.01
    seen: dict[int, float] = {}
    errors = tempfile.TemporaryFile()  # a pipe that nobody reads would stop a talkative command after 64 kB
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    while process.poll() is None:
        total = 0
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                memory, times = one.memory_full_info(), one.cpu_times()
                seen[one.pid] = times.user + times.system
                total += getattr(memory, "pss", memory.rss)
            except psutil.Error:
                continue  # it has just ended
        peak = max(peak, total)
        time.sleep(wait_s)
        wait_s = min(0.25, 1.5 * wait_s)  # a short command is weighed as well
    seconds, after = time.perf_counter() - start_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        errors.seek(0)
        raise ValueError(f"{' '.join(command)} failed: {errors.read().decode(errors='replace')[-1000:]}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_s": max(cpu_s, sum(seen.values())), "tree_bytes": peak}


def turn(folder: Path, command: list[str]) -> dict[str, float]:
    """One run of a command that writes to `folder`, which is emptied before."""
    empty(folder)
    return watch(command)


def empty(folder: Path) -> Path:
    """The folder, there and without content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def workspace(cfg: Any, part: str) -> Path:
    """An empty folder beside the record."""
    return empty((Path(cfg.out or "out/bench/x").parent / f"{part}.tmp").absolute())


def this(*arguments: Any) -> list[str]:
    """This file as a command."""
    return [sys.executable, __file__, *map(str, arguments)]


# --- a corpus of any size ---


def corpus(count: int, folder: str, seed: int = 0) -> None:
    """Write `count` documents to folder/part_*.parquet: lengths log-normal, mean 3.1 kB, median 1.5 kB, as Wikipedia's.

    Text is made of runs of three words of the docstrings on this machine, at random: unrelated documents share next to
    no shingle. One in a hundred is a copy of another with every thirtieth word changed.
    """
    from corpus.documents import Document, DocumentWriter
    from corpus.pydocs import docstrings, python_files, python_packages

    files = (file for package in python_packages() for file in python_files(*package))
    texts = (document.text for file in files for document in docstrings(*file))
    words = " ".join(itertools.islice(texts, 20_000)).split()
    draw, kept = random.Random(seed), [" ".join(words[i : i + 3]) for i in range(0, len(words) - 3, 3)]
    Path(folder).mkdir(parents=True, exist_ok=True)
    before = ""
    for begin in range(0, count, PART):
        size_bytes, writer = 0, DocumentWriter(f"{folder}/part_{begin // PART:05d}.parquet")
        for number in range(begin, min(count, begin + PART)):
            size = int(min(200_000, draw.lognormvariate(7.31, 1.2)))
            text = " ".join(draw.choices(kept, k=max(1, size // 18)))
            if number % 100 == 99:
                text = " ".join("changed" if i % 30 == 7 else word for i, word in enumerate(before.split(" ")))
            writer.add(Document(f"synthetic/{seed}/{number}", f"Title {number}", "", text))
            before = text
            size_bytes += len(text.encode())
        writer.close({"bytes": size_bytes})


# --- tokens: documents to token shards ---


def encode_ours(documents: str, encoding: str, out: str) -> None:
    """The stage of prepare_wiki.py, from its parts and a tokenizer's name to shards."""
    from corpus.documents import DocumentWriter
    from prepare_wiki import PrepareConfig, Splitter, make_shards, make_tokenizer

    cfg = PrepareConfig(source="-", data_dir=out, tokenizer=encoding, val_fraction=0.01)
    Path(out, "dedup").mkdir(parents=True)
    writer = DocumentWriter(f"{out}/dedup/duplicates.parquet")  # none
    writer.close({})
    parts, split = sorted(Path(documents).glob("*.parquet")), Splitter("id", cfg.val_fraction, Path(out))
    make_tokenizer(cfg, parts, split, Path(out))
    make_shards(cfg, parts, split, WORKERS)


def encode_nanogpt(documents: str, encoding: str, out: str) -> None:
    """The way of nanoGPT's data/openwebtext/prepare.py: datasets.map in processes, then one memmap in 64 pieces."""
    import datasets
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = load_tiktoken_bpe(encoding)  # what tiktoken.get_encoding("gpt2") is made of
    encoder = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})

    def encode(row: dict) -> dict:
        ids = encoder.encode_ordinary(row["text"]) + [len(ranks)]
        return {"ids": ids, "len": len(ids)}

    files = {"train": f"{documents}/*.parquet"}
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=out)
    rows = rows.map(encode, remove_columns=rows.column_names, num_proc=WORKERS)
    total, begin = int(np.sum(rows["len"], dtype=np.uint64)), 0
    data = np.memmap(f"{out}/train.bin", dtype=np.uint16, mode="w+", shape=(total,))
    for piece in range(64):
        ids = np.concatenate(rows.shard(64, piece, contiguous=True).with_format("numpy")["ids"][:])
        data[begin : begin + len(ids)] = ids
        begin += len(ids)
    data.flush()


def token_sums(folder: Path) -> tuple[int, int]:
    """How many tokens the .bin files of a folder hold, and their sum: the same whatever their order."""
    found = [np.fromfile(path, dtype="<u2") for path in folder.glob("*.bin")]
    return sum(map(len, found)), sum(int(ids.sum(dtype=np.uint64)) for ids in found)


def tokens(cfg: Any, take_turns: Callable[..., Samples]) -> dict[str, Any]:
    """Documents to shards, our way and nanoGPT's, two processes each."""
    work = workspace(cfg, "tokens")
    corpus(cfg.documents, f"{work}/documents")
    size_bytes = sum(len(text.encode()) for text in all_texts(work / "documents"))
    cases = {}
    for name, way in ((OURS, "ours"), ("nanoGPT's way", "nanogpt")):
        command = this(way, work / "documents", cfg.encoding, work / way / "out")
        cases[name] = functools.partial(turn, work / way, command)
    samples = take_turns(cases, cfg.rounds, "tokens")
    ours, theirs = (token_sums(work / way / "out") for way in ("ours", "nanogpt"))
    if ours != theirs:
        raise ValueError(f"the ways differ: tokens and their sum are {ours} and {theirs}")
    shutil.rmtree(work)
    times = ratios(samples["nanoGPT's way"], samples[OURS], ["seconds"])["seconds"]
    peak = spread(row["tree_bytes"] / (WORKERS + 1) / 1e6 for row in samples[OURS])
    return {
        "title": f"{cfg.documents:,} documents, {size_bytes / 1e6:.0f} MB, parquet to token files, {WORKERS} processes",
        "check": f"both wrote the same {ours[0]:,} tokens",
        "bytes": size_bytes,
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("times as fast as nanoGPT's way: at least 4.5", times, 4.5, most=False),
            target("peak memory for each of the three processes at most 300 MB", peak, 300, unit=" MB"),
        ],
        "samples": samples,
    }


def all_texts(folder: Path) -> Iterator[str]:
    """The texts of document parts."""
    from corpus.documents import read_documents

    return (text for path in sorted(folder.glob("*.parquet")) for (text,) in read_documents(path, ("text",)))


# --- dump: a MediaWiki dump to documents ---


def large_dump(source: str, size_bytes: int, single: Path, multi: Path) -> int:
    """Repeat the pages of a dump until they hold `size_bytes`, in one stream and 100 pages a stream; their bytes."""
    data = (bz2.open if source.endswith(".bz2") else open)(source, "rb").read()
    first = data.index(b"<page>")
    pages = re.findall(rb"\s*<page>.*?</page>", data[first:], re.DOTALL)
    pages = list(itertools.islice(itertools.cycle(pages), size_bytes * len(pages) // len(data) + 1))
    groups = [data[:first], *(b"".join(pages[i : i + 100]) for i in range(0, len(pages), 100)), b"\n</mediawiki>\n"]
    single.write_bytes(bz2.compress(b"".join(groups)))
    multi.write_bytes(b"".join(map(bz2.compress, groups)))
    return sum(map(len, groups))


def dump(cfg: Any, take_turns: Callable[..., Samples]) -> dict[str, Any]:
    """A dump to documents: of one stream next to bzcat, of many with one process and with two."""
    work = workspace(cfg, "dump")
    single, multi = work / "bench-20240101-pages.xml.bz2", work / "bench-20240101-multistream.xml.bz2"
    size_bytes = large_dump(cfg.dump, cfg.dump_mb * 10**6, single, multi)
    unpack = [sys.executable, "-c", "import bz2, sys; [len(i) for i in bz2.open(sys.argv[1])]", str(single)]
    unpack = ["bzcat", str(single)] if shutil.which("bzcat") else unpack
    cases: dict[str, Callable] = {"bzcat": functools.partial(turn, work / "none", unpack)}
    for name, path, workers in (("one stream", single, 2), ("multistream, 1", multi, 1), ("multistream, 2", multi, 2)):
        arguments = [f"--source={path}", f"--data_dir={work}/out/data", "--until=documents", f"--num_workers={workers}"]
        program = [sys.executable, str(Path(__file__).parents[1] / "prepare_wiki.py"), *arguments]
        cases[name] = functools.partial(turn, work / "out", program)
    samples = take_turns(cases, cfg.rounds, "dump")
    shutil.rmtree(work)
    one = ratios(samples["one stream"], samples["bzcat"], ["seconds"])["seconds"]
    two = ratios(samples["multistream, 1"], samples["multistream, 2"], ["seconds"])["seconds"]
    return {
        "title": f"a dump of {size_bytes / 1e6:.0f} MB, .xml.bz2 to parquet documents",
        "check": "the documents are those of tests/test_dump.py",
        "bytes": size_bytes,
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("one stream, 2 processes: at most twice the time of bzcat", one, 2),
            target("multistream: 2 processes at least 1.6 times as fast as 1", two, 1.6, most=False),
        ],
        "samples": samples,
    }


def table(record: dict[str, Any]) -> list[str]:
    """Lines for a reader: seconds, megabytes a second, memory of all processes; the targets."""
    lines = [f"{'':18}{'seconds (min-max)':>24}{'MB/s':>8}{'CPU s':>8}{'peak MB, all':>14}"]
    for name, row in record["results"].items():
        seconds = row["seconds"]
        shown = f"{seconds['median']:.1f} ({seconds['min']:.1f}-{seconds['max']:.1f})"
        rate, cpu = record["bytes"] / seconds["median"] / 1e6, row["cpu_s"]["median"]
        lines.append(f"{name:18}{shown:>24}{rate:>8.1f}{cpu:>8.1f}{row['tree_bytes']['median'] / 1e6:>14,.0f}")
    return [*lines, *target_lines(record["targets"])]


def main(way: str, *arguments: str) -> None:
    """What a turn runs, and the commands of this file's docstring."""
    if way == "watch":
        found = watch(list(arguments))
        print(", ".join(f"{key} {value:,.1f}" for key, value in found.items()))
    else:
        ways = {"ours": encode_ours, "nanogpt": encode_nanogpt, "corpus": corpus}
        ways[way](*(int(argument) if argument.isdigit() else argument for argument in arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
