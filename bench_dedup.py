"""Parts of bench.py: signatures (MinHash of documents on one core) and dedup (parquet to the list of what goes).

    python bench.py --part=signatures      next to datasketch, one update per shingle and its generator
    python bench.py --part=dedup           next to text-dedup and datatrove, each in an environment made for it

The first run installs the two into out/bench/env_*, some 2 GB. All get the same documents (bench_wiki.corpus) and look
for shingles of 5 words. They do not do the same: text-dedup and datatrove remove by buckets alone, without comparing
texts, and datatrove cuts words with spaCy; what each removed is printed.
"""

import functools
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_figures import Samples, need, ratios, shown, spread, summary, target, target_lines
from bench_wiki import WORKERS, all_texts, corpus, turn

OURS, UPDATE, GENERATOR = "NonLlama", "m.update, legacy", "generator"
SIGNED, DOCUMENTS, INDEXED = 1000, 20_000, 20_000  # documents: of a turn of signatures, of dedup, in MinHashLSH
PEERS = {"text-dedup": ["text-dedup==0.4.0"], "datatrove": ["datatrove[io,processing]==0.10.1", "spacy==3.8.18"]}

# As in datatrove's examples/minhash_deduplication.py: its defaults, 14 buckets of 8.
DATATROVE = """
import sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import minhash
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

source, out, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = minhash.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
tasks = len(list(Path(source).glob("*.parquet")))

def run(steps, tasks):
    LocalPipelineExecutor(steps, tasks=tasks, workers=workers).run()

if __name__ == "__main__":
    run([ParquetReader(source), minhash.MinhashDedupSignature(out + "/sig", config=config)], tasks)
    run([minhash.MinhashDedupBuckets(out + "/sig", out + "/buckets", config=config)], config.num_buckets)
    run([minhash.MinhashDedupCluster(out + "/buckets", out + "/remove", config=config)], 1)
    exclude = JsonlWriter(out + "/removed", compression=None)
    run([ParquetReader(source), minhash.MinhashDedupFilter(out + "/remove", exclusion_writer=exclude)], tasks)
"""


# --- signatures ---


def sign(way: str, folder: Path) -> dict[str, float]:
    """Make the signatures of SIGNED documents in one of the ways; texts are in memory, libraries imported."""
    from datasketch import MinHash

    from minhash import BANDS, ROWS, SHINGLE, hash_shingles, join_words, permutations, signatures, squeeze

    texts, count = list(itertools.islice(all_texts(folder), SIGNED)), BANDS * ROWS
    factors = permutations()

    def shingles(text: str) -> set[bytes]:
        words = text.split()
        return {" ".join(words[i : i + SHINGLE]).encode() for i in range(len(words) - SHINGLE + 1)}

    def ours() -> None:
        for begin in range(0, len(texts), 40):  # 128 kB, as dedup.py does
            signatures(*hash_shingles([join_words(squeeze(text)) for text in texts[begin : begin + 40]]), factors)

    def update() -> None:
        for text in texts:
            found = MinHash(count, scheme="legacy")
            for shingle in shingles(text):
                found.update(shingle)

    def generator() -> None:
        for _ in MinHash.generator(map(shingles, texts), num_perm=count):
            pass

    start_s = time.perf_counter()
    {OURS: ours, UPDATE: update, GENERATOR: generator}[way]()
    seconds = time.perf_counter() - start_s
    return {"seconds": seconds, "rate": len(texts) / seconds}


def signatures_part(cfg: Any, take_turns: Callable[..., Samples]) -> dict[str, Any]:
    """Signatures of the same documents by numpy here, and by datasketch in two ways; one core each."""
    work = workspace(cfg, "signatures")
    corpus(SIGNED, f"{work}/documents")
    cases = {name: functools.partial(sign, name, work / "documents") for name in (OURS, UPDATE, GENERATOR)}
    samples = take_turns(cases, cfg.rounds, "signatures")
    shutil.rmtree(work)
    of = {name: ratios(samples[OURS], samples[name], ["rate"])["rate"] for name in (UPDATE, GENERATOR)}
    return {
        "title": f"{SIGNED:,} documents, 125 permutations, 5-word shingles, one core",
        "check": "equal to datasketch's for the same hash of a shingle: tests/test_dedup.py",
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("times as fast as one m.update a shingle (scheme legacy): at least 28", of[UPDATE], 28, most=False),
            target("times as fast as MinHash.generator: at least 5", of[GENERATOR], 5, most=False),
        ],
        "samples": samples,
    }


# --- dedup ---


def environment(name: str) -> str:
    """The interpreter of a peer's own environment, made when it is not there."""
    folder = Path("out/bench") / f"env_{name}"
    python = folder.absolute() / "bin/python"
    if not (folder / "installed").is_file():
        print(f"installing {' '.join(PEERS[name])} into {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS[name]], check=True, stderr=subprocess.DEVNULL)
        (folder / "installed").touch()
    return str(python)


def commands(documents: Path, out: Callable[[str], Path]) -> dict[str, list[str]]:
    """The whole commands, two processes each."""
    pattern, workers = f"{documents}/*.parquet", str(WORKERS)
    ours = [sys.executable, str(Path(__file__).with_name("dedup.py")), f"--source={pattern}"]
    theirs = [environment("text-dedup"), "-m", "text_dedup.minhash", "--path", "parquet", "--data_files", pattern]
    theirs += ["--split", "train", "--column", "text", "--num_proc", workers, "--output", f"{out('text-dedup')}/kept"]
    theirs += ["--cache_dir", f"{out('text-dedup')}/cache", "--num_perm", "128", "--b", "14", "--r", "9"]
    return {
        OURS: [*ours, f"--out={out(OURS)}/out", f"--num_workers={workers}"],
        "text-dedup": theirs,
        "datatrove": [environment("datatrove"), f"{documents.parent}/datatrove_job.py", str(documents)]
        + [f"{out('datatrove')}/out", workers],
    }


def removed(out: Callable[[str], Path], count: int) -> dict[str, int]:
    """How many documents each of them removed."""
    kept = json.loads((out("text-dedup") / "kept/dataset_info.json").read_text(encoding="utf-8"))["splits"]
    lines = sum(len(path.read_bytes().splitlines()) for path in out("datatrove").glob("out/removed/*.jsonl"))
    ours = json.loads((out(OURS) / "out/report.json").read_text(encoding="utf-8"))
    return {
        OURS: ours["exact"] + ours["near"],
        "text-dedup": count - sum(split["num_examples"] for split in kept.values()),
        "datatrove": lines,
    }


def index_bytes() -> dict[str, float]:
    """Bytes that a document takes in datasketch's MinHashLSH, 14 bands of 9; for a fresh process."""
    import numpy as np
    from datasketch import LeanMinHash, MinHash, MinHashLSH

    index, values = MinHashLSH(params=(14, 9), num_perm=126), np.random.default_rng(0)
    process, seed = need("psutil").Process(), MinHash(126)
    before = process.memory_info().rss
    for number in range(INDEXED):
        seed.hashvalues[:] = values.integers(0, 1 << 32, 126, dtype=np.uint32)
        index.insert(number, LeanMinHash(seed))
    return {"bytes": (process.memory_info().rss - before) / INDEXED}


def dedup_part(cfg: Any, take_turns: Callable[..., Samples]) -> dict[str, Any]:
    """Parquet to the list of what goes, verification included where there is one, per second of CPU."""
    work = workspace(cfg, "dedup")
    corpus(DOCUMENTS, f"{work}/documents")
    (work / "datatrove_job.py").write_text(DATATROVE, encoding="utf-8")
    found = commands(work / "documents", work.joinpath)
    cases = {name: functools.partial(turn, work / name, command) for name, command in found.items()}
    samples = take_turns(cases, cfg.rounds, "dedup")
    gone = removed(work.joinpath, DOCUMENTS)
    index = take_turns({"index": index_bytes}, 1, "MinHashLSH")["index"][0]["bytes"]
    size_bytes = sum(len(text.encode()) for text in all_texts(work / "documents"))
    shutil.rmtree(work)
    of = {name: ratios(samples[name], samples[OURS], ["cpu_s"])["cpu_s"] for name in PEERS}
    return {
        "title": f"{DOCUMENTS:,} documents, {size_bytes / 1e6:.0f} MB, parquet to what goes, {WORKERS} processes",
        "check": "removed: "
        + ", ".join(f"{name} {count}" for name, count in gone.items())
        + f"; a document in MinHashLSH takes {index:,.0f} bytes of memory, here 248 on disk",
        "bytes": size_bytes,
        "removed": gone,
        "index_bytes": spread([index]),
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("CPU seconds of text-dedup 0.4.0 over ours: at least 15", of["text-dedup"], 15, most=False),
            target("CPU seconds of datatrove 0.10.1 over ours: at least 20", of["datatrove"], 20, most=False),
        ],
        "samples": samples,
    }


def workspace(cfg: Any, part: str) -> Path:
    """An empty folder beside the record."""
    work = (Path(cfg.out or "out/bench/x").parent / f"{part}.tmp").absolute()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def signatures_table(record: dict[str, Any]) -> list[str]:
    """Lines for a reader: documents a second, the targets."""
    rows = {name: row["rate"] for name, row in record["results"].items()}
    lines = [f"{name:20}{shown(rate):>32} documents/s" for name, rate in rows.items()]
    return [*lines, *target_lines(record["targets"])]
