"""Parts of bench.py: tokens (documents to token shards) and dump (a MediaWiki dump to documents), as whole commands.

    python bench.py --part=tokens --encoding=gpt2.tiktoken           next to nanoGPT's way, datasets.map and a memmap
    python bench.py --part=dump --dump=enwiki-pages-articles.xml.bz2  next to bzcat

A turn is a command in a fresh process, run and weighed by watch.py. This file is itself such a command: one of the two
ways to token shards, as in

    python benchmarks/bench_wiki.py --way=nanogpt --documents=out/1m --encoding=gpt2.tiktoken --out=out/tokens
"""

import bz2
import functools
import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator
from benchmarks.bench_config import BenchConfig, Figures, Record, TakeTurns
from benchmarks.bench_figures import ratios, shown, spread, summary, target, target_lines
from benchmarks.synthetic_corpus import write_corpus
from benchmarks.watch import watch

WORKERS = 2
OURS, NANOGPT = "NonLlama", "nanoGPT's way"


# --- what dedup uses as well ---


def turn(folder: Path, command: list[str]) -> Figures:
    """One run of a command that writes to `folder`, which is emptied before."""
    empty(folder)
    return watch(command)


def empty(folder: Path) -> Path:
    """The folder, there and without content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def workspace(cfg: BenchConfig, part: str) -> Path:
    """An empty folder beside the record."""
    record = Path(cfg.out or "out/bench/x")
    return empty((record.parent / f"{part}.tmp").absolute())


def all_texts(folder: Path) -> Iterator[str]:
    """The texts of document parts."""
    from corpus.documents import read_documents

    for path in sorted(folder.glob("*.parquet")):
        for (text,) in read_documents(path, ("text",)):
            yield text


def text_bytes(folder: Path) -> int:
    """UTF-8 bytes of the texts of document parts."""
    return sum(len(text.encode()) for text in all_texts(folder))


# --- tokens: documents to token shards ---


@dataclass(frozen=True)
class EncodeConfig:
    """Settings of `python benchmarks/bench_wiki.py`."""

    way: Literal["ours", "nanogpt"] = "ours"  # what a turn of tokens runs
    documents: str = ""  # folder of parquet parts
    encoding: str = ""  # path of a file gpt2.tiktoken
    out: str = ""  # folder of the token files


def encode_ours(documents: Path, encoding: str, out: Path) -> None:
    """The stage of prepare_wiki.py, from its parts and a tokenizer's name to shards."""
    from corpus.documents import DocumentWriter
    from prepare_wiki import PrepareConfig, Splitter, make_shards, make_tokenizer

    cfg = PrepareConfig(source="-", data_dir=str(out), tokenizer=encoding, val_fraction=0.01)
    (out / "dedup").mkdir(parents=True)
    no_duplicates = DocumentWriter(f"{out}/dedup/duplicates.parquet")
    no_duplicates.close({})

    parts = sorted(documents.glob("*.parquet"))
    split = Splitter("id", cfg.val_fraction, out)
    make_tokenizer(cfg, parts, split, out)
    make_shards(cfg, parts, split, WORKERS)


def encode_nanogpt(documents: Path, encoding: str, out: Path) -> None:
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
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(out))
    rows = rows.map(encode, remove_columns=rows.column_names, num_proc=WORKERS)

    total = int(np.sum(rows["len"], dtype=np.uint64))
    data = np.memmap(out / "train.bin", dtype=np.uint16, mode="w+", shape=(total,))
    begin = 0
    for piece in range(64):
        ids = np.concatenate(rows.shard(64, piece, contiguous=True).with_format("numpy")["ids"][:])
        data[begin : begin + len(ids)] = ids
        begin += len(ids)
    data.flush()


def main(cfg: EncodeConfig) -> None:
    """What a turn of the part tokens runs."""
    encode = encode_ours if cfg.way == "ours" else encode_nanogpt
    encode(Path(cfg.documents), cfg.encoding, Path(cfg.out))


def token_sums(folder: Path) -> tuple[int, int]:
    """How many tokens the .bin files of a folder hold, and their sum: the same whatever their order."""
    count, total = 0, 0
    for path in folder.glob("*.bin"):
        ids = np.fromfile(path, dtype="<u2")
        count += len(ids)
        total += int(ids.sum(dtype=np.uint64))
    return count, total


def tokens(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Documents to shards, our way and nanoGPT's, two processes each."""
    work = workspace(cfg, "tokens")
    documents = work / "documents"
    write_corpus(cfg.documents, documents)
    size_bytes = text_bytes(documents)

    def case(way: str) -> Callable[[], Figures]:
        arguments = [f"--way={way}", f"--documents={documents}", f"--encoding={cfg.encoding}"]
        command = [sys.executable, __file__, *arguments, f"--out={work / way / 'out'}"]
        return functools.partial(turn, work / way, command)

    cases = {OURS: case("ours"), NANOGPT: case("nanogpt")}
    samples = take_turns(cases, cfg.rounds, "tokens")
    ours = token_sums(work / "ours/out")
    theirs = token_sums(work / "nanogpt/out")
    if ours != theirs:
        raise ValueError(f"the ways differ: tokens and their sum are {ours} and {theirs}")
    shutil.rmtree(work)

    times = ratios(samples[NANOGPT], samples[OURS], ["seconds"])["seconds"]
    processes = WORKERS + 1
    peak_mb = spread(row["tree_bytes"] / processes / 1e6 for row in samples[OURS])
    return {
        "title": f"{cfg.documents:,} documents, {size_bytes / 1e6:.0f} MB, parquet to token files, {WORKERS} processes",
        "check": f"both wrote the same {ours[0]:,} tokens",
        "bytes": size_bytes,
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("times as fast as nanoGPT's way: at least 4.5", times, 4.5, most=False),
            target("peak memory for each of the three processes at most 300 MB", peak_mb, 300, unit=" MB"),
        ],
        "samples": samples,
    }


# --- dump: a MediaWiki dump to documents ---


def large_dump(source: str, size_bytes: int, single: Path, multi: Path) -> int:
    """Repeat the pages of a dump until they hold `size_bytes`, in one stream and 100 pages a stream; their bytes."""
    with (bz2.open if source.endswith(".bz2") else open)(source, "rb") as file:
        data = file.read()
    first = data.index(b"<page>")
    pages = re.findall(rb"\s*<page>.*?</page>", data[first:], re.DOTALL)
    wanted = size_bytes * len(pages) // len(data) + 1
    pages = list(itertools.islice(itertools.cycle(pages), wanted))

    streams = [data[:first]]
    for begin in range(0, len(pages), 100):
        streams.append(b"".join(pages[begin : begin + 100]))
    streams.append(b"\n</mediawiki>\n")

    single.write_bytes(bz2.compress(b"".join(streams)))
    multi.write_bytes(b"".join(map(bz2.compress, streams)))
    return sum(map(len, streams))


def dump(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """A dump to documents: of one stream next to bzcat, of many with one process and with two."""
    work = workspace(cfg, "dump")
    single = work / "bench-20240101-pages.xml.bz2"
    multi = work / "bench-20240101-multistream.xml.bz2"
    size_bytes = large_dump(cfg.dump, cfg.dump_mb * 10**6, single, multi)

    if shutil.which("bzcat"):
        unpack = ["bzcat", str(single)]
    else:
        unpack = [sys.executable, "-c", "import bz2, sys; [len(i) for i in bz2.open(sys.argv[1])]", str(single)]

    def case(path: Path, workers: int) -> Callable[[], Figures]:
        arguments = [f"--source={path}", f"--data_dir={work}/out/data", "--until=documents", f"--num_workers={workers}"]
        command = [sys.executable, str(ROOT / "prepare_wiki.py"), *arguments]
        return functools.partial(turn, work / "out", command)

    cases = {
        "bzcat": functools.partial(turn, work / "none", unpack),
        "one stream": case(single, 2),
        "multistream, 1": case(multi, 1),
        "multistream, 2": case(multi, 2),
    }
    samples = take_turns(cases, cfg.rounds, "dump")
    shutil.rmtree(work)

    over_bzcat = ratios(samples["one stream"], samples["bzcat"], ["seconds"])["seconds"]
    speedup = ratios(samples["multistream, 1"], samples["multistream, 2"], ["seconds"])["seconds"]
    return {
        "title": f"a dump of {size_bytes / 1e6:.0f} MB, .xml.bz2 to parquet documents",
        "check": "the documents are those of tests/test_dump.py",
        "bytes": size_bytes,
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("one stream, 2 processes: at most twice the time of bzcat", over_bzcat, 2),
            target("multistream: 2 processes at least 1.6 times as fast as 1", speedup, 1.6, most=False),
        ],
        "samples": samples,
    }


def table(record: Record) -> list[str]:
    """Lines for a reader: seconds, megabytes a second, memory of all processes; the targets."""
    lines = [f"{'':18}{'seconds (min-max)':>24}{'MB/s':>8}{'CPU s':>8}{'peak MB, all':>14}"]
    for name, row in record["results"].items():
        seconds = shown(row["seconds"], "{:.1f}".format)
        rate = record["bytes"] / row["seconds"]["median"] / 1e6
        cpu_s = row["cpu_s"]["median"]
        peak_mb = row["tree_bytes"]["median"] / 1e6
        lines.append(f"{name:18}{seconds:>24}{rate:>8.1f}{cpu_s:>8.1f}{peak_mb:>14,.0f}")
    return [*lines, *target_lines(record["targets"])]


if __name__ == "__main__":
    configurator.run(main, EncodeConfig, show=False)
