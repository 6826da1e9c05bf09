"""What dedup.py holds of all documents, measured for as many as you like on made-up sketches.

python benchmarks/dedup_bands.py --documents=6400000         as many as English Wikipedia has
"""

import resource
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator
from benchmarks.bench_wiki import empty
from corpus.minhash import BANDS
from corpus.near import Buckets, bucket_bands
from corpus.sketches import EVALUATION, Documents
from dedup import canonical_order, first_of_equal_content

PART = 100_000  # documents in a file of sketches


@dataclass(frozen=True)
class BandsConfig:
    """Settings of `python benchmarks/dedup_bands.py`."""

    documents: int = 6_400_000  # made-up sketches
    out: str = "out/bench/bands.tmp"  # folder of the sketches, removed afterwards


def write_sketches(count: int, folder: Path) -> list[Path]:
    """Made-up sketches of `count` documents.

    A document in 20 shares three bands with its neighbour, one in 200 five with a crowd; the rest are random.
    """
    draw = np.random.default_rng(0)
    paths = []
    for begin in range(0, count, PART):
        n = min(PART, count - begin)
        rows = draw.integers(0, 1 << 64, (EVALUATION + 1, n), dtype=np.uint64)
        alike = np.flatnonzero(draw.random(n - 1) < 0.05)
        rows[:3, alike + 1] = rows[:3, alike]
        rows[5:10, draw.random(n) < 0.005] = 7
        paths.append(folder / f"{begin:09d}.npy")
        np.save(paths[-1], rows)
    return paths


def measured(name: str, count: int, work: Callable, *args: Any) -> Any:
    """work(*args); prints its seconds and the peak of what it allocated, for each document."""
    tracemalloc.reset_peak()
    start_s = time.perf_counter()
    result = work(*args)
    seconds = time.perf_counter() - start_s
    peak = tracemalloc.get_traced_memory()[1]
    print(f"{name}: {seconds:.1f} s, at most {peak / count:.1f} bytes a document", flush=True)
    return result


def exact(documents: Documents) -> np.ndarray:
    """The step "exact" of dedup.py; returns the canonical order."""
    order = canonical_order(documents)
    first_of_equal_content(documents, order)
    return order


def put_in_buckets(documents: Documents, order: np.ndarray) -> Buckets:
    """The step "bands" of dedup.py."""
    bands = (documents.field(band)[order] for band in range(BANDS))
    return bucket_bands(bands, np.arange(order.size))


def main(cfg: BandsConfig) -> None:
    """Canonical order and buckets of made-up sketches: seconds, and memory for each document."""
    count = cfg.documents
    folder = empty(Path(cfg.out))
    sketches = write_sketches(count, folder)
    disk = sum(path.stat().st_size for path in sketches)
    print(f"{count:,} documents, {BANDS} bands: {disk / count:.0f} bytes a document on disk", flush=True)

    parts = [path.with_suffix(".parquet") for path in sketches]  # not opened: no two documents are equal here
    documents = Documents(parts, sketches)
    tracemalloc.start()
    order = measured("exact", count, exact, documents)
    buckets = measured("bands", count, put_in_buckets, documents, order)
    tracemalloc.stop()

    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pairs = f"pairs in buckets {buckets.pairs_in_buckets:,}, in crowds {buckets.pairs_in_crowds:,}"
    print(f"{pairs}; the process at most {process / count:.0f} bytes a document, file pages too")
    shutil.rmtree(folder)


if __name__ == "__main__":
    configurator.run(main, BandsConfig, show=False)
