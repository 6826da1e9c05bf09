"""Part sampler of bench.py: the indices of one rank, next to torch's samplers and a permutation of numpy's.

    python bench.py --part=sampler                       five minutes; a list of 1e8 indices takes 4.8 GB of memory
    python bench.py --part=sampler --largest=1e6         lists up to n = 1e6 only, for a small machine

Every turn is a fresh process.
"""

import functools
import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.utils.data

from benchmarks.bench_config import BenchConfig, Figures, Record, TakeTurns
from benchmarks.bench_figures import (
    Spread,
    fraction,
    largest_of,
    number,
    ratios,
    scaled,
    shown,
    summary,
    target,
    target_lines,
)
from sampler import DistributedStreamSampler

INDICES = 5_000_000  # drawn after the first one, for the rate
SEEK_N, SEEK_TO, SEEK_REPEATS = 10**12, 10**11, 200
COLUMNS = {  # figure -> its heading in the table, and the factor to the heading's unit
    "peak_bytes": ("peak MB (min-max)", 1e-6),
    "first_s": ("first index ms", 1e3),
    "rate": ("million indices/s", 1e-6),
    "epoch_s": ("whole epoch s", 1),
}


# --- the samplers ---


@dataclass(frozen=True)
class Candidate:
    """A sampler: how to build the indices of a rank, and what one index costs where all of them are held."""

    build: Callable[[int, int], Iterable[int]]  # (n, rank)
    replicas: int = 1
    rank: int = 0  # the one measured
    bytes_per_index: int = 0  # for each of the n, on every rank; measured at n = 1e8
    whole_epoch: bool = False  # timed, at n = largest


def ours(n: int, rank: int = 0) -> DistributedStreamSampler:
    """Of one process."""
    return DistributedStreamSampler(n, 1, rank)


def ours_of_eight(n: int, rank: int) -> DistributedStreamSampler:
    """Of eight processes."""
    return DistributedStreamSampler(n, 8, rank)


def random_sampler(n: int, rank: int = 0) -> torch.utils.data.RandomSampler:
    """torch's, of one process."""
    return torch.utils.data.RandomSampler(range(n))


def distributed_sampler(n: int, rank: int) -> torch.utils.data.DistributedSampler:
    """torch's, of eight processes."""
    return torch.utils.data.DistributedSampler(range(n), num_replicas=8, rank=rank)


def numpy_permutation(n: int, rank: int = 0) -> Iterator[int]:
    """The obvious way without torch: 8 bytes an index, made Python integers a block at a time."""
    order = np.random.default_rng(0).permutation(n)
    for begin in range(0, n, 16384):
        yield from order[begin : begin + 16384].tolist()


OURS, PEER = "NonLlama", "RandomSampler"
LIST_BYTES = 48  # of an index in a list of torch's: 8 in a tensor, 8 in a list, 32 for an int
CANDIDATES = {
    OURS: Candidate(ours, whole_epoch=True),
    f"{OURS}, rank 0 of 8": Candidate(ours_of_eight, replicas=8, rank=0),
    PEER: Candidate(random_sampler, bytes_per_index=LIST_BYTES, whole_epoch=True),
    "DistributedSampler, rank 3 of 8": Candidate(distributed_sampler, 8, 3, bytes_per_index=LIST_BYTES),
    "numpy permutation": Candidate(numpy_permutation, bytes_per_index=8, whole_epoch=True),
}


def every_index_once(candidates: dict[str, Candidate], n: int = 100_000) -> str:
    """Draw an epoch on all ranks of each sampler. Raises ValueError where that is not a shuffle of range(n)."""
    for name, candidate in candidates.items():
        ranks = [candidate.build(n, rank) for rank in range(candidate.replicas)]
        drawn = np.array(list(itertools.chain.from_iterable(ranks)))
        complete = np.array_equal(np.sort(drawn), np.arange(n))
        in_order = np.array_equal(drawn, np.arange(n))
        if not complete or in_order:
            raise ValueError(f"{name}: an epoch of n={n:,} is not every index once in a shuffled order")
    return f"over all ranks an epoch of n={n:,} is every index once, for each of {len(candidates)} samplers"


# --- one turn ---


def draw(name: str, n: int, whole_epoch: bool) -> Figures:
    """One turn: seconds until the first index (building included), indices/s after it, seconds of a whole epoch.

    Indices are drawn by deque(maxlen=0): a for loop would add its own time to every sampler, and bring them closer.
    """
    candidate = CANDIDATES[name]

    begin_s = time.perf_counter()
    indices = iter(candidate.build(n, candidate.rank))
    next(indices)
    first_s = time.perf_counter()

    count = min(INDICES, n // candidate.replicas - 1)
    deque(itertools.islice(indices, count), maxlen=0)
    rate = count / (time.perf_counter() - first_s)

    epoch_s = None
    if whole_epoch:
        deque(indices, maxlen=0)  # to its end: giving a list back takes time as well
        epoch_s = time.perf_counter() - begin_s
    return {"first_s": first_s - begin_s, "rate": rate, "epoch_s": epoch_s}


def seek() -> Figures:
    """One turn: seconds for seek() and the first index, at position 0 and far away; median of many, interleaved."""
    sampler = DistributedStreamSampler(SEEK_N, 8, 0)

    def seconds_at(position: int) -> float:
        begin_s = time.perf_counter()
        sampler.seek(position)
        next(iter(sampler))
        return time.perf_counter() - begin_s

    near, far = [], []
    for _ in range(SEEK_REPEATS):
        near.append(seconds_at(0))
        far.append(seconds_at(SEEK_TO))
    return {
        "near_s": statistics.median(near),
        "far_s": statistics.median(far),
        "far_over_near": statistics.median(b / a for a, b in zip(near, far, strict=True)),
    }


# --- the part ---


def power(n: int) -> str:
    """1e8 for 100000000; digits where that would round."""
    short = f"{n:g}"
    return short.replace("e+0", "e").replace("e+", "e") if float(short) == n else str(n)


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    import psutil  # of requirements-dev.txt: bench.py says so when it is missing

    return psutil.virtual_memory().available


def absent(needs: int, n: int, largest: int, available: int) -> str | None:
    """Why n indices of `needs` bytes are not tried; None: they are. A quarter more than that must be available."""
    if needs * 1.25 > available:
        return f"does not fit: needs about {needs / 1e9:,.0f} GB"
    if needs and n > largest:
        return f"not run: above --largest={power(largest)}, needs about {needs / 1e9:,.1f} GB"
    return None


def record(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Memory, time to the first index, rate and whole epochs of samplers that shuffle n samples."""
    agreement = every_index_once(CANDIDATES)
    available = available_bytes()

    results: dict[str, dict[str, Any]] = {}
    cases: dict[str, Callable[[], Figures]] = {}
    for n in sorted({min(10**6, cfg.largest), cfg.largest, 10**9, 10**12}):
        for name, candidate in CANDIDATES.items():
            key = f"{power(n)} {name}"
            needs = n * candidate.bytes_per_index
            why_absent = absent(needs, n, cfg.largest, available)
            results[key] = {"n": n, "sampler": name, "needs_bytes": needs, "absent": why_absent}
            if why_absent is None:
                whole_epoch = candidate.whole_epoch and n == cfg.largest
                cases[key] = functools.partial(draw, name, n, whole_epoch)

    samples = take_turns(cases | {"seek": seek}, cfg.rounds, "sampler")

    for key in cases:
        results[key].update(summary(samples[key]))
        peer = f"{power(results[key]['n'])} {PEER}"
        results[key]["of_peer"] = ratios(samples[key], samples[peer], COLUMNS) if peer in cases else {}
    seek_summary = summary(samples["seek"])

    return {
        "title": "the indices that one rank draws, from a shuffle of n samples",
        "check": agreement,
        "peak_is": "peak resident set of a fresh process above its baseline before building (libraries loaded)",
        "memory_available_bytes": available,
        "results": results,
        "seek": seek_summary,
        "targets": targets(results, seek_summary, cfg.largest),
        "samples": samples,
    }


def targets(results: dict[str, Any], seek: dict[str, Spread], largest: int) -> list[dict[str, Any]]:
    """The targets are set for --largest=1e8; at a smaller n a list is smaller and they are harder to meet."""
    at = f"at n={power(largest)}"
    of_peer = results[f"{power(largest)} {OURS}"]["of_peer"]
    all_of_ours = [row for row in results.values() if row["sampler"].startswith(OURS)]
    peak_mb = [row["peak_bytes"]["median"] / 1e6 for row in all_of_ours]

    by_n = {row["n"]: row["peak_bytes"] for row in all_of_ours if row["sampler"] == OURS}
    low, high = min(by_n), max(by_n)
    growth = scaled(by_n[high], 1 / by_n[low]["median"])

    return [
        target(f"peak memory {at} at most 1/1000 of {PEER}'s", of_peer.get("peak_bytes"), 1 / 1000),
        target("peak memory at every n at most 8 MB", largest_of(peak_mb), 8, unit=" MB"),
        target(f"peak memory at n={power(high)} at most 1.5 times that at n={power(low)}", growth, 1.5),
        target(f"first index {at} in at most 1/1000 of {PEER}'s time", of_peer.get("first_s"), 1 / 1000),
        target(f"a whole epoch {at} in at most 0.8 of {PEER}'s time", of_peer.get("epoch_s"), 0.8),
        target(
            f"seek to position {power(SEEK_TO)} of n={power(SEEK_N)} in at most twice the time of position 0",
            seek["far_over_near"],
            2,
        ),
    ]


def cells(row: dict[str, Any]) -> list[str]:
    """The figures of a row as they are printed."""
    return [shown(scaled(row[name], factor)) for name, (_, factor) in COLUMNS.items()]


def peer_cells(row: dict[str, Any]) -> list[str]:
    """The same, divided by the peer's in the same round."""
    return [shown(row["of_peer"].get(name), fraction) for name in COLUMNS]


def line(n: str, name: str, columns: Iterable[str] = ()) -> str:
    """A line of the table."""
    return f"{n:5} {name:32}" + "".join(f"{column:>27}" for column in columns)


def table(record: Record) -> list[str]:
    """Lines for a reader: the figures, those of RandomSampler in the same round, the targets."""
    lines = [line("n", "", [heading for heading, _ in COLUMNS.values()])]
    for row in record["results"].values():
        if row["absent"]:
            lines.append(f"{line(power(row['n']), row['sampler'])}  {row['absent']}")
        else:
            lines.append(line(power(row["n"]), row["sampler"], cells(row)))

    lines.append(f"divided by {PEER}'s figure in the same round, median (min-max):")
    for row in record["results"].values():
        if row["sampler"] != PEER and row.get("of_peer"):
            lines.append(line(power(row["n"]), row["sampler"], peer_cells(row)))

    near, far = (shown(scaled(record["seek"][key], 1e3), number) for key in ("near_s", "far_s"))
    lines.append(f"seek and first index, n={power(SEEK_N)}: position 0 {near} ms, position {power(SEEK_TO)} {far} ms")
    return [*lines, *target_lines(record["targets"]), f"peak MB: {record['peak_is']}"]
