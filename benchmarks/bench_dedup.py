"""Parts of bench.py: signatures (MinHash of documents on one core) and dedup (parquet to the list of what goes).

    python bench.py --part=signatures      next to datasketch, one update per shingle and its generator
    python bench.py --part=dedup           next to text-dedup and datatrove, each in an environment made for it
    python benchmarks/bench_dedup.py bands 6400000    what dedup.py holds of all documents, on made-up sketches

The first run installs the two into out/bench/env_*, some 2 GB; a round of dedup takes eight minutes on two cores. All
get the same documents (bench_wiki.corpus) and look for shingles of 5 words. They do not do the same: text-dedup and
datatrove remove by buckets alone, without comparing texts, and datatrove cuts words with spaCy; what each removed is
printed.
"""

import functools
import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from benchmarks.bench_figures import Samples, need, ratios, shown, spread, summary, target, target_lines
from benchmarks.bench_wiki import WORKERS, all_texts, corpus, empty, turn, workspace

OURS, UPDATE, GENERATOR = "NonLlama", "m.update, legacy", "generator"
SIGNED, DOCUMENTS, INDEXED = 3000, 40_000, 20_000  # documents: of a turn of signatures, of dedup, in MinHashLSH
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

    from corpus.minhash import BANDS, ROWS, SHINGLE, hash_shingles, join_words, signatures, squeeze

    texts, count = list(itertools.islice(all_texts(folder), SIGNED)), BANDS * ROWS

    def shingles(text: str) -> set[bytes]:
        words = text.split()
        return {" ".join(words[i : i + SHINGLE]).encode() for i in range(len(words) - SHINGLE + 1)}

    def ours() -> None:
        for begin in range(0, len(texts), 160):  # 512 kB, as dedup.py does
            signatures(*hash_shingles(list(map(join_words, squeeze(texts[begin : begin + 160])))))

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


# --- bands: as many documents as all of Wikipedia ---


def bands(count: int, folder: str = "out/bench/bands.tmp") -> None:
    """Canonical order and buckets of `count` made-up sketches: seconds, and memory for each document.

    A document in 20 shares three bands with its neighbour, one in 200 five with a crowd; the rest are random.
    """
    import numpy as np

    from corpus.minhash import BANDS
    from dedup import EVALUATION, Documents, canonical_order, meet

    draw, part, work = np.random.default_rng(0), 100_000, empty(Path(folder))
    sketches, paths = [], []
    for begin in range(0, count, part):
        n = min(part, count - begin)
        rows = draw.integers(0, 1 << 64, (EVALUATION + 1, n), dtype=np.uint64)
        alike = np.flatnonzero(draw.random(n - 1) < 0.05)
        rows[:3, alike + 1] = rows[:3, alike]
        rows[5:10, draw.random(n) < 0.005] = 7
        np.save(work / f"{begin:09d}.npy", rows)
        sketches.append(work / f"{begin:09d}.npy")
        paths.append(work / f"{begin:09d}.parquet")  # is not opened: no two documents have equal content here
    disk = sum(path.stat().st_size for path in sketches)
    print(f"{count:,} documents, {BANDS} bands: {disk / count:.0f} bytes a document on disk", flush=True)
    found: dict[str, Any] = {}

    def order() -> None:
        found["order"], found["first"] = canonical_order(found["documents"])

    def buckets() -> None:
        found["cells"], found["crowd"], found["pairs"] = meet(found["documents"], found["order"], np.arange(count))

    found["documents"] = Documents(paths, sketches)
    tracemalloc.start()
    for name, work_of in (("exact", order), ("bands", buckets)):
        tracemalloc.reset_peak()
        start_s = time.perf_counter()
        work_of()
        seconds, peak = time.perf_counter() - start_s, tracemalloc.get_traced_memory()[1]
        print(f"{name}: {seconds:.1f} s, at most {peak / count:.1f} bytes a document", flush=True)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"pairs in buckets {found['pairs']}; the process at most {process / count:.0f} bytes a document, file pages too"
    )
    shutil.rmtree(work)


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
    ours = [sys.executable, str(Path(__file__).parents[1] / "dedup.py"), f"--source={pattern}"]
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
    kept = need("datasets").load_from_disk(str(out("text-dedup") / "kept")).num_rows
    lines = sum(len(path.read_bytes().splitlines()) for path in out("datatrove").glob("out/removed/*.jsonl"))
    ours = json.loads((out(OURS) / "out/report.json").read_text(encoding="utf-8"))
    return {
        OURS: ours["exact"] + ours["near"],
        "text-dedup": count - kept,
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
        + f"; a document in MinHashLSH takes {index:,.0f} bytes of memory, here 256 on disk",
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


def signatures_table(record: dict[str, Any]) -> list[str]:
    """Lines for a reader: documents a second, the targets."""
    rows = {name: row["rate"] for name, row in record["results"].items()}
    lines = [f"{name:20}{shown(rate):>32} documents/s" for name, rate in rows.items()]
    return [*lines, *target_lines(record["targets"])]


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "bands" or not sys.argv[2].isdigit():
        sys.exit("python bench_dedup.py bands COUNT; the other parts: python bench.py --part=signatures,dedup")
    bands(int(sys.argv[2]), *sys.argv[3:])
