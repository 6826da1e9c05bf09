"""Parts of bench.py: signatures (MinHash of documents on one core) and dedup (parquet to the list of what goes).

    python bench.py --part=signatures      next to datasketch, one update per shingle and its generator
    python bench.py --part=dedup           next to text-dedup and datatrove, each in an environment made for it

The first run installs the two into out/bench/env_*, some 2 GB; a round of dedup takes eight minutes on two cores. All
get the same documents (synthetic_corpus.py) and look for shingles of 5 words. They do not do the same: text-dedup and
datatrove remove by buckets alone, without comparing texts, and datatrove cuts words with spaCy; what each removed is
printed.
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

from benchmarks.bench_config import BenchConfig, Figures, Record, TakeTurns
from benchmarks.bench_figures import need, ratios, shown, spread, summary, target, target_lines
from benchmarks.bench_wiki import ROOT, WORKERS, all_texts, text_bytes, turn, workspace
from benchmarks.synthetic_corpus import write_corpus

OURS, UPDATE, GENERATOR = "NonLlama", "m.update, legacy", "generator"
SIGNED, DOCUMENTS, INDEXED = 3000, 40_000, 20_000  # documents: of a turn of signatures, of dedup, in MinHashLSH
TEXT_DEDUP, TROVE = "text-dedup", "datatrove"
PEERS = {TEXT_DEDUP: ["text-dedup==0.4.0"], TROVE: ["datatrove[io,processing]==0.10.1", "spacy==3.8.18"]}

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


def sign(way: str, folder: Path) -> Figures:
    """Make the signatures of SIGNED documents in one of the ways; texts are in memory, libraries imported."""
    from datasketch import MinHash

    from corpus.minhash import BANDS, ROWS, SHINGLE, hash_shingles, join_words, signatures, squeeze

    texts = list(itertools.islice(all_texts(folder), SIGNED))
    permutations = BANDS * ROWS

    def shingles(text: str) -> set[bytes]:
        words = text.split()
        return {" ".join(words[i : i + SHINGLE]).encode() for i in range(len(words) - SHINGLE + 1)}

    def ours() -> None:
        for begin in range(0, len(texts), 160):  # 512 kB, as dedup.py does
            squeezed = squeeze(texts[begin : begin + 160])
            signatures(*hash_shingles(list(map(join_words, squeezed))))

    def update() -> None:
        for text in texts:
            minhash = MinHash(permutations, scheme="legacy")
            for shingle in shingles(text):
                minhash.update(shingle)

    def generator() -> None:
        for _ in MinHash.generator(map(shingles, texts), num_perm=permutations):
            pass

    ways = {OURS: ours, UPDATE: update, GENERATOR: generator}
    start_s = time.perf_counter()
    ways[way]()
    seconds = time.perf_counter() - start_s
    return {"seconds": seconds, "rate": len(texts) / seconds}


def signatures_part(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Signatures of the same documents by numpy here, and by datasketch in two ways; one core each."""
    work = workspace(cfg, "signatures")
    write_corpus(SIGNED, work / "documents")
    cases = {name: functools.partial(sign, name, work / "documents") for name in (OURS, UPDATE, GENERATOR)}
    samples = take_turns(cases, cfg.rounds, "signatures")
    shutil.rmtree(work)

    over_update = ratios(samples[OURS], samples[UPDATE], ["rate"])["rate"]
    over_generator = ratios(samples[OURS], samples[GENERATOR], ["rate"])["rate"]
    return {
        "title": f"{SIGNED:,} documents, 125 permutations, 5-word shingles, one core",
        "check": "equal to datasketch's for the same hash of a shingle: tests/test_dedup.py",
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("times as fast as one m.update a shingle (scheme legacy): at least 28", over_update, 28, most=False),
            target("times as fast as MinHash.generator: at least 5", over_generator, 5, most=False),
        ],
        "samples": samples,
    }


def signatures_table(record: Record) -> list[str]:
    """Lines for a reader: documents a second, the targets."""
    lines = [f"{name:20}{shown(row['rate']):>32} documents/s" for name, row in record["results"].items()]
    return [*lines, *target_lines(record["targets"])]


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
    """The whole commands, two processes each. out: the folder that each writes to, by its name."""
    pattern = f"{documents}/*.parquet"

    ours = [sys.executable, str(ROOT / "dedup.py")]
    ours += [f"--source={pattern}", f"--out={out(OURS)}/out", f"--num_workers={WORKERS}"]

    text_dedup = [environment(TEXT_DEDUP), "-m", "text_dedup.minhash"]
    text_dedup += ["--path", "parquet", "--data_files", pattern, "--split", "train", "--column", "text"]
    text_dedup += ["--output", f"{out(TEXT_DEDUP)}/kept", "--cache_dir", f"{out(TEXT_DEDUP)}/cache"]
    text_dedup += ["--num_perm", "128", "--b", "14", "--r", "9", "--num_proc", str(WORKERS)]

    datatrove = [environment(TROVE), f"{documents.parent}/datatrove_job.py"]
    datatrove += [str(documents), f"{out(TROVE)}/out", str(WORKERS)]

    return {OURS: ours, TEXT_DEDUP: text_dedup, TROVE: datatrove}


def removed(out: Callable[[str], Path], count: int) -> dict[str, int]:
    """How many of `count` documents each of them removed."""
    report = json.loads((out(OURS) / "out/report.json").read_text(encoding="utf-8"))
    kept = need("datasets").load_from_disk(str(out(TEXT_DEDUP) / "kept")).num_rows
    files = out(TROVE).glob("out/removed/*.jsonl")
    return {
        OURS: report["exact"] + report["near"],
        TEXT_DEDUP: count - kept,
        TROVE: sum(len(path.read_bytes().splitlines()) for path in files),
    }


def index_bytes() -> Figures:
    """Bytes that a document takes in datasketch's MinHashLSH, 14 bands of 9; for a fresh process."""
    import numpy as np
    from datasketch import LeanMinHash, MinHash, MinHashLSH

    index = MinHashLSH(params=(14, 9), num_perm=126)
    values = np.random.default_rng(0)
    seed = MinHash(126)
    process = need("psutil").Process()
    before = process.memory_info().rss
    for number in range(INDEXED):
        seed.hashvalues[:] = values.integers(0, 1 << 32, 126, dtype=np.uint32)
        index.insert(number, LeanMinHash(seed))
    return {"bytes": (process.memory_info().rss - before) / INDEXED}


def dedup_part(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Parquet to the list of what goes, verification included where there is one, per second of CPU."""
    work = workspace(cfg, "dedup")
    documents = work / "documents"
    write_corpus(DOCUMENTS, documents)
    (work / "datatrove_job.py").write_text(DATATROVE, encoding="utf-8")

    cases = {}
    for name, command in commands(documents, work.joinpath).items():
        cases[name] = functools.partial(turn, work / name, command)
    samples = take_turns(cases, cfg.rounds, "dedup")

    removed_by = removed(work.joinpath, DOCUMENTS)
    per_document = take_turns({"index": index_bytes}, 1, "MinHashLSH")["index"][0]["bytes"]
    size_bytes = text_bytes(documents)
    shutil.rmtree(work)

    counts = ", ".join(f"{name} {count}" for name, count in removed_by.items())
    index = f"a document in MinHashLSH takes {per_document:,.0f} bytes of memory, here 256 on disk"
    over = {name: ratios(samples[name], samples[OURS], ["cpu_s"])["cpu_s"] for name in PEERS}
    return {
        "title": f"{DOCUMENTS:,} documents, {size_bytes / 1e6:.0f} MB, parquet to what goes, {WORKERS} processes",
        "check": f"removed: {counts}; {index}",
        "bytes": size_bytes,
        "removed": removed_by,
        "index_bytes": spread([per_document]),
        "results": {name: summary(rows) for name, rows in samples.items()},
        "targets": [
            target("CPU seconds of text-dedup 0.4.0 over ours: at least 15", over[TEXT_DEDUP], 15, most=False),
            target("CPU seconds of datatrove 0.10.1 over ours: at least 20", over[TROVE], 20, most=False),
        ],
        "samples": samples,
    }
