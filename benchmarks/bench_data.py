"""Parts of bench.py: sampler (which sample comes next) and reader (its tokens), next to what a user would pick instead.

    python bench.py --part=sampler                       five minutes; a list of 1e8 indices takes 4.8 GB of memory
    python bench.py --part=sampler --largest=1e6         lists up to n = 1e6 only, for a small machine
    python bench.py --part=reader --out=/mnt/x/read.json the token file is made beside the record: measures that disk

Every turn is a fresh process. A part is a function (settings, take_turns) -> record; bench.py has the harness.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.utils.data
from tqdm import tqdm

from benchmarks.bench_figures import Samples, fraction, largest_of, ratios, shown, summary, target, target_lines
from sampler import DistributedStreamSampler, hash_key
from shards import Shards, Windows

# --- sampler: the indices of one rank ---

INDICES = 5_000_000  # drawn after the first one, for the rate
SEEK_N, SEEK_TO, SEEK_REPEATS = 10**12, 10**11, 200
FIGURES = ("peak_bytes", "first_s", "rate", "epoch_s")


def numpy_permutation(n: int, rank: int = 0) -> Iterator[int]:
    """The obvious way without torch: 8 bytes an index, made Python integers a block at a time."""
    order = np.random.default_rng(0).permutation(n)
    for begin in range(0, n, 16384):
        yield from order[begin : begin + 16384].tolist()


def random_sampler(n: int, rank: int = 0) -> torch.utils.data.RandomSampler:
    """torch's, of one process."""
    return torch.utils.data.RandomSampler(range(n))


def distributed_sampler(n: int, rank: int) -> torch.utils.data.DistributedSampler:
    """torch's, of eight processes."""
    return torch.utils.data.DistributedSampler(range(n), num_replicas=8, rank=rank)


@dataclass(frozen=True)
class Candidate:
    """A sampler: how to build the indices of a rank, and what one index costs where all of them are held."""

    build: Callable[[int, int], Iterable[int]]  # (n, rank)
    replicas: int = 1
    rank: int = 0  # the one measured
    bytes_per_index: int = 0  # for each of the n, on every rank; measured at n = 1e8
    whole_epoch: bool = False  # timed, at n = largest


OURS, PEER = "NonLlama", "RandomSampler"
CANDIDATES = {
    OURS: Candidate(lambda n, rank: DistributedStreamSampler(n, 1, rank), whole_epoch=True),
    f"{OURS}, rank 0 of 8": Candidate(lambda n, rank: DistributedStreamSampler(n, 8, rank), 8, 0),
    PEER: Candidate(random_sampler, bytes_per_index=48, whole_epoch=True),  # 8 in a tensor, 8 in a list, 32 for an int
    "DistributedSampler, rank 3 of 8": Candidate(distributed_sampler, 8, 3, bytes_per_index=48),
    "numpy permutation": Candidate(numpy_permutation, bytes_per_index=8, whole_epoch=True),
}


def every_index_once(candidates: dict[str, Candidate], n: int = 100_000) -> str:
    """Draw an epoch on all ranks of each sampler. Raises ValueError where that is not a shuffle of range(n)."""
    for name, candidate in candidates.items():
        drawn = np.array([index for rank in range(candidate.replicas) for index in candidate.build(n, rank)])
        if not np.array_equal(np.sort(drawn), np.arange(n)) or np.array_equal(drawn, np.arange(n)):
            raise ValueError(f"{name}: an epoch of n={n:,} is not every index once in a shuffled order")
    return f"over all ranks an epoch of n={n:,} is every index once, for each of {len(candidates)} samplers"


def draw(name: str, n: int, whole_epoch: bool) -> dict[str, float | None]:
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
    deque(indices if whole_epoch else (), maxlen=0)  # to its end: giving a list back takes time as well
    epoch_s = time.perf_counter() - begin_s if whole_epoch else None
    return {"first_s": first_s - begin_s, "rate": rate, "epoch_s": epoch_s}


def seek() -> dict[str, float]:
    """One turn: seconds for seek() and the first index, at position 0 and far away; median of many, interleaved."""
    sampler = DistributedStreamSampler(SEEK_N, 8, 0)

    def at(position: int) -> float:
        begin_s = time.perf_counter()
        sampler.seek(position)
        next(iter(sampler))
        return time.perf_counter() - begin_s

    pairs = [(at(0), at(SEEK_TO)) for _ in range(SEEK_REPEATS)]
    near_s, far_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"near_s": near_s, "far_s": far_s, "far_over_near": statistics.median(far / near for near, far in pairs)}


def power(n: int) -> str:
    """1e8 for 100000000; digits where that would round."""
    return f"{n:g}".replace("e+0", "e").replace("e+", "e") if float(f"{n:g}") == n else str(n)


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


def sampler(cfg: Any, take_turns: Callable[..., Samples]) -> dict[str, Any]:
    """Memory, time to the first index, rate and whole epochs of samplers that shuffle n samples."""
    agreement = every_index_once(CANDIDATES)
    available = available_bytes()
    results: dict[str, dict[str, Any]] = {}
    cases: dict[str, Callable[[], dict[str, Any]]] = {}
    for n in sorted({min(10**6, cfg.largest), cfg.largest, 10**9, 10**12}):
        for name, candidate in CANDIDATES.items():
            key, needs = f"{power(n)} {name}", n * candidate.bytes_per_index
            results[key] = {"n": n, "sampler": name, "needs_bytes": needs}
            results[key]["absent"] = absent(needs, n, cfg.largest, available)
            if not results[key]["absent"]:
                cases[key] = functools.partial(draw, name, n, candidate.whole_epoch and n == cfg.largest)
    samples = take_turns(cases | {"seek": seek}, cfg.rounds, "sampler")
    for key in cases:
        results[key] |= summary(samples[key])
        peer = f"{power(results[key]['n'])} {PEER}"
        results[key]["of_peer"] = ratios(samples[key], samples[peer], FIGURES) if peer in cases else {}
    found = summary(samples["seek"])
    return {
        "title": "the indices that one rank draws, from a shuffle of n samples",
        "check": agreement,
        "peak_is": "peak resident set of a fresh process above its baseline before building (libraries loaded)",
        "memory_available_bytes": available,
        "results": results,
        "seek": found,
        "targets": sampler_targets(results, found, cfg.largest),
        "samples": samples,
    }


def sampler_targets(results: dict[str, Any], seek: dict[str, Any], largest: int) -> list[dict[str, Any]]:
    """The targets are set for --largest=1e8; at a smaller n a list is smaller and they are harder to meet."""
    at = f"at n={power(largest)}"
    ours = {row["n"]: row["peak_bytes"] for row in results.values() if row["sampler"] == OURS}
    peaks = [row["peak_bytes"]["median"] / 1e6 for row in results.values() if row["sampler"].startswith(OURS)]
    low, high = power(min(ours)), power(max(ours))
    growth = {key: ours[max(ours)][key] / ours[min(ours)]["median"] for key in ("median", "min", "max")}
    of_peer = results[f"{power(largest)} {OURS}"]["of_peer"].get
    return [
        target(f"peak memory {at} at most 1/1000 of {PEER}'s", of_peer("peak_bytes"), 1 / 1000),
        target("peak memory at every n at most 8 MB", largest_of(peaks), 8, unit=" MB"),
        target(f"peak memory at n={high} at most 1.5 times that at n={low}", growth, 1.5),
        target(f"first index {at} in at most 1/1000 of {PEER}'s time", of_peer("first_s"), 1 / 1000),
        target(f"a whole epoch {at} in at most 0.8 of {PEER}'s time", of_peer("epoch_s"), 0.8),
        target(
            f"seek to position {power(SEEK_TO)} of n={power(SEEK_N)} in at most twice the time of position 0",
            seek["far_over_near"],
            2,
        ),
    ]


def sampler_table(record: dict[str, Any]) -> list[str]:
    """Lines for a reader: the figures, those of RandomSampler in the same round, the targets."""
    results, seek = record["results"], record["seek"]
    scale = {"peak_bytes": 1e-6, "first_s": 1e3, "rate": 1e-6, "epoch_s": 1}

    def line(n: str, name: str, cells: Iterable[str]) -> str:
        return f"{n:5} {name:32}" + "".join(f"{cell:>27}" for cell in cells)

    lines = [line("n", "", ["peak MB (min-max)", "first index ms", "million indices/s", "whole epoch s"])]
    for row in results.values():
        start = line(power(row["n"]), row["sampler"], [])
        if row["absent"]:
            lines.append(f"{start}  {row['absent']}")
            continue
        cells = (row[key] and {k: v * scale[key] for k, v in row[key].items()} for key in FIGURES)
        lines.append(start + "".join(f"{shown(cell):>27}" for cell in cells))
    lines.append(f"divided by {PEER}'s figure in the same round, median (min-max):")
    for row in results.values():
        if row["sampler"] != PEER and row.get("of_peer"):
            cells = (shown(row["of_peer"].get(key), fraction) for key in FIGURES)
            lines.append(line(power(row["n"]), row["sampler"], cells))
    near, far = (shown({k: 1e3 * v for k, v in seek[key].items()}) for key in ("near_s", "far_s"))
    lines.append(f"seek and first index, n={power(SEEK_N)}: position 0 {near} ms, position {power(SEEK_TO)} {far} ms")
    return [*lines, *target_lines(record["targets"]), f"peak MB: {record['peak_is']}"]


# --- reader: batches of random windows from a token file ---

T, BATCH, SEED = 2048, 32, 0
WARM_WINDOWS = 1 << 16  # half a second
COLD_SHARE = 2000  # a cold turn reads one window in so many: read-ahead of 1 MB and more each warms the file up
COLD_LIMIT = 0.01  # of the file may be in memory before a turn that counts as cold
READ_BYTES = 16 << 20

Read = Callable[[np.ndarray], np.ndarray]  # indices of a batch -> int64 (B, T + 1)


def windows_of(path: Path) -> Windows:
    """The file as one shard of this repository's format."""
    entry = {"file": path.name, "tokens": path.stat().st_size // 2, "bytes": 0}
    meta = {"vocab_size": 1 << 16, "dtype": "<u2", "splits": {"train": [entry]}}
    return Windows(Shards(path.parent, "train", meta), T, SEED)


def read_ours(path: Path) -> Read:
    """As train.py reads."""
    windows = windows_of(path)
    return lambda indices: windows.get(indices, np.zeros(len(indices), dtype=np.int64))


def starts_of(indices: np.ndarray) -> list[int]:
    """Where the windows of epoch 0 start, as shards.Windows says."""
    return (hash_key(SEED, 0, 0) % T + indices * T).tolist()


def memmap_batch(data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The same windows from a mapped file: the slices, made int64 as they are copied."""
    out = np.empty((len(indices), T + 1), dtype=np.int64)
    for row, start in enumerate(starts_of(indices)):
        out[row] = data[start : start + T + 1]
    return out


def read_held(path: Path) -> Read:
    """One mapping for the whole run."""
    data = np.memmap(path, dtype="<u2", mode="r")
    return lambda indices: memmap_batch(data, indices)


def read_reopened(path: Path) -> Read:
    """A mapping for each batch, as nanoGPT does so that memory does not seem to grow."""
    return lambda indices: memmap_batch(np.memmap(path, dtype="<u2", mode="r"), indices)


HELD = "np.memmap held open"
READERS: dict[str, Callable[[Path], Read]] = {
    OURS: read_ours,
    HELD: read_held,
    "np.memmap opened for each batch": read_reopened,
}


def same_windows(path: Path, readers: dict[str, Callable[[Path], Read]], count: int = 1024) -> str:
    """Read random windows with each. Raises ValueError where they differ from what lies in the file."""
    indices = np.random.default_rng(1).integers(len(windows_of(path)), size=count)
    wanted = [np.fromfile(path, "<u2", T + 1, offset=2 * start) for start in starts_of(indices)]
    wanted = np.array(wanted, dtype=np.int64)
    for name, build in readers.items():
        found = build(path)(indices)
        if found.dtype != np.int64 or not np.array_equal(found, wanted):
            raise ValueError(f"{name}: the windows are not those that lie in the file, or not int64")
    return f"{count:,} random windows of {T + 1} tokens are equal, int64, for each of {len(readers)} readers"


@contextlib.contextmanager
def token_file(path: Path, size_bytes: int) -> Iterator[Path]:
    """Random tokens on the disk, not sparse; removed afterwards. Raises ValueError when the disk has not the room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of a run that was killed
    free = shutil.disk_usage(path.parent).free
    if free < 1.1 * size_bytes:
        raise ValueError(
            f"{path.parent} has {free / 1e9:.1f} GB free, the token file takes {size_bytes / 1e9:.1f} GB and a tenth "
            "should stay free; lower --file_mb or name another disk with --out"
        )
    try:
        random, sizes = np.random.default_rng(0), range(0, size_bytes, READ_BYTES)
        with open(path, "wb") as file:
            for begin in tqdm(sizes, desc="reader: token file", unit=" blocks", disable=None):
                file.write(random.bytes(min(READ_BYTES, size_bytes - begin) // 2 * 2))
            file.flush()
            os.fsync(file.fileno())  # dirty pages cannot be evicted
        yield path
    finally:
        path.unlink(missing_ok=True)


def resident(path: Path) -> float | None:
    """Which share of the file's pages the page cache holds, by mincore; None where the system does not say."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    pages = np.zeros(-(-data.size // os.sysconf("SC_PAGE_SIZE")), dtype=np.uint8)
    with contextlib.suppress(OSError, AttributeError):
        mincore = ctypes.CDLL(None).mincore
        mincore.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
        if mincore(data.ctypes.data, data.size, pages.ctypes.data) == 0:
            return float(np.mean(pages & 1))
    return None


def evict(path: Path) -> None:
    """Ask the system to drop the file's pages; without posix_fadvise (macOS) or on a tmpfs they stay."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def usage() -> dict[str, int]:
    """Bytes that this process read from the disk, and its resident memory: own (anon) and of mapped files; Linux."""
    found = {}
    for path, keys in (("io", {"read_bytes": 1}), ("status", {"RssAnon": 1024, "RssFile": 1024})):
        with contextlib.suppress(OSError), open(f"/proc/self/{path}", encoding="utf-8") as file:
            pairs = (line.split(":", 1) for line in file)
            found |= {key: int(value.split()[0]) * keys[key] for key, value in pairs if key in keys}
    return found


def read_windows(path: Path, name: str, cold: bool) -> dict[str, float | None]:
    """One turn: windows/s, and what the process read and grew by meanwhile."""
    total = len(windows_of(path))
    count = -(-total // COLD_SHARE) if cold else WARM_WINDOWS
    batches = np.random.default_rng(2).integers(total, size=(-(-count // BATCH), BATCH))
    READERS[name](path)(batches[0])  # buffers and code that the first call brings in
    if cold:
        evict(path)
    else:
        with open(path, "rb", buffering=0) as file:
            while file.read(READ_BYTES):
                pass
    in_memory = resident(path)
    read = READERS[name](path)
    before, begin_s = usage(), time.perf_counter()
    for indices in batches:
        read(indices)
    took_s = time.perf_counter() - begin_s
    grew = {key: value - before[key] for key, value in usage().items()}
    return {
        "rate": batches.size / took_s,
        "disk_bytes_per_window": grew["read_bytes"] / batches.size if "read_bytes" in grew else None,
        "mapped_bytes": grew.get("RssFile"),
        "anon_bytes": grew.get("RssAnon"),
        "in_memory": in_memory,
    }


def read_ahead_kb(path: Path) -> int | None:
    """Read-ahead of the file's device; None where the system does not say. A partition has that of its disk."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for place in (f"bdi/{device}", f"../dev/block/{device}/queue", f"../dev/block/{device}/../queue"):
        with contextlib.suppress(OSError):
            return int(Path("/sys/class", place, "read_ahead_kb").read_text())
    return None


def spoiled(state: str, in_memory: dict[str, float] | None) -> str | None:
    """Why turns are not what they should be, from the share of the file that was in memory; None: they are."""
    if in_memory is None:
        return f"unknown whether {state}: no mincore here"
    if state == "cold" and in_memory["max"] > COLD_LIMIT:
        return f"not cold: {in_memory['max']:.0%} of the file stayed in memory"
    if state == "warm" and in_memory["min"] < 1 - COLD_LIMIT:
        return f"not warm: {in_memory['min']:.0%} of the file was in memory"
    return None


def reader(cfg: Any, take_turns: Callable[..., Samples]) -> dict[str, Any]:
    """Rate, disk traffic and memory of reading random windows, from the disk (cold) and from the page cache (warm)."""
    path = Path(cfg.out or "out/bench/reader.json").with_name("reader_tokens.bin").absolute()
    results: dict[str, dict[str, Any]] = {}
    with token_file(path, cfg.file_mb * 10**6):
        agreement = same_windows(path, READERS)
        read_ahead = read_ahead_kb(path)
        cases = {
            f"{state} {name}": functools.partial(read_windows, path, name, state == "cold")
            for state in ("cold", "warm")
            for name in READERS
        }
        samples = take_turns(cases, cfg.rounds, "reader")
    for key in cases:
        state, name = key.split(" ", 1)
        row = results[key] = {"state": state, "reader": name} | summary(samples[key])
        row["spoiled"] = spoiled(state, row["in_memory"])
        row["of_peer"] = ratios(samples[key], samples[f"{state} {HELD}"], ["rate"])
    return {
        "title": f"batches of {BATCH} random windows of {T + 1} tokens, {cfg.file_mb:,} MB of uint16 to int64",
        "check": agreement,
        "read_ahead_kb": read_ahead,
        "results": results,
        "targets": reader_targets(results, samples),
        "samples": samples,
    }


def reader_targets(results: dict[str, Any], samples: Samples) -> list[dict[str, Any]]:
    """Only turns that were cold, or warm, speak for it."""

    def ratio(state: str) -> dict[str, float] | None:
        usable = not any(results[f"{state} {name}"]["spoiled"] for name in (OURS, HELD))
        return results[f"{state} {OURS}"]["of_peer"]["rate"] if usable else None

    turns = [turn for key, found in samples.items() if results[key]["reader"] == OURS for turn in found]
    known = all(turn["anon_bytes"] is not None for turn in turns)
    growth_mb = largest_of((turn["anon_bytes"] + turn["mapped_bytes"]) / 1e6 for turn in turns) if known else None
    return [
        target(f"cold at least 3 times the rate of {HELD}", ratio("cold"), 3, most=False),
        target(f"warm at least the rate of {HELD}", ratio("warm"), 1, most=False),
        target("resident memory grows by at most 2 MB in every turn", growth_mb, 2, unit=" MB"),
    ]


def reader_table(record: dict[str, Any]) -> list[str]:
    """Lines for a reader: rates, the ratio to np.memmap held open in the same round, disk and memory, the targets."""
    read_ahead = "unknown" if record["read_ahead_kb"] is None else f"{record['read_ahead_kb']:,} KiB"
    width = max(map(len, record["results"]))
    heads = f"{'windows/s (min-max)':>30} {'x held open':>20} {'KiB from disk':>14} {'mapped MB':>10} {'own MB':>8}"
    lines = [f"read-ahead of the device: {read_ahead}", f"{'':{width}} {heads} {'in memory before':>17}"]
    for key, row in record["results"].items():
        disk, mapped, anon = (
            "n/a" if row[name] is None else f"{row[name]['median'] / unit:,.1f}"
            for name, unit in (("disk_bytes_per_window", 1024), ("mapped_bytes", 1e6), ("anon_bytes", 1e6))
        )
        before = "unknown" if row["in_memory"] is None else f"{row['in_memory']['max']:.1%}"
        rate, ratio = shown(row["rate"]), shown(row["of_peer"]["rate"])
        cells = f"{rate:>30} {ratio:>20} {disk:>14} {mapped:>10} {anon:>8} {before:>17}"
        lines.append(f"{key:{width}} {cells}" + (f"  ({row['spoiled']})" if row["spoiled"] else ""))
    lines += ["KiB from disk: for each window; mapped and own MB: growth of RssFile and RssAnon over a turn (Linux)"]
    return lines + target_lines(record["targets"])


PARTS = {"sampler": sampler, "reader": reader}
TABLES = {"sampler": sampler_table, "reader": reader_table}
