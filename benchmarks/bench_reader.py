"""Part reader of bench.py: batches of random windows from a token file, next to np.memmap.

    python bench.py --part=reader --out=/mnt/x/read.json the token file is made beside the record: measures that disk

Every turn is a fresh process.
"""

import contextlib
import ctypes
import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.bench_config import BenchConfig, Figures, Record, Samples, TakeTurns
from benchmarks.bench_figures import Spread, largest_of, ratios, shown, summary, target, target_lines
from sampler import hash_key
from shards import Shards, Windows

T, BATCH, SEED = 2048, 32, 0
WARM_WINDOWS = 1 << 16  # half a second
COLD_SHARE = 2000  # a cold turn reads one window in so many: read-ahead of 1 MB and more each warms the file up
COLD_LIMIT = 0.01  # of the file may be in memory before a turn that counts as cold
READ_BYTES = 16 << 20

Read = Callable[[np.ndarray], np.ndarray]  # indices of a batch -> int64 (B, T + 1)


# --- the readers ---


def windows_of(path: Path) -> Windows:
    """The file as one shard of this repository's format."""
    entry = {"file": path.name, "tokens": path.stat().st_size // 2, "bytes": 0}
    meta = {"vocab_size": 1 << 16, "dtype": "<u2", "splits": {"train": [entry]}}
    return Windows(Shards(path.parent, "train", meta), T, SEED)


def starts_of(indices: np.ndarray) -> list[int]:
    """Where the windows of epoch 0 start, as shards.Windows says."""
    offset = hash_key(SEED, 0, 0) % T
    return (offset + indices * T).tolist()


def memmap_batch(data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The same windows from a mapped file: the slices, made int64 as they are copied."""
    out = np.empty((len(indices), T + 1), dtype=np.int64)
    for row, start in enumerate(starts_of(indices)):
        out[row] = data[start : start + T + 1]
    return out


def read_ours(path: Path) -> Read:
    """As train.py reads."""
    windows = windows_of(path)
    return lambda indices: windows.get(indices, np.zeros(len(indices), dtype=np.int64))


def read_held(path: Path) -> Read:
    """One mapping for the whole run."""
    data = np.memmap(path, dtype="<u2", mode="r")
    return lambda indices: memmap_batch(data, indices)


def read_reopened(path: Path) -> Read:
    """A mapping for each batch, as nanoGPT does so that memory does not seem to grow."""
    return lambda indices: memmap_batch(np.memmap(path, dtype="<u2", mode="r"), indices)


OURS, HELD = "NonLlama", "np.memmap held open"
READERS: dict[str, Callable[[Path], Read]] = {
    OURS: read_ours,
    HELD: read_held,
    "np.memmap opened for each batch": read_reopened,
}


def same_windows(path: Path, readers: dict[str, Callable[[Path], Read]], count: int = 1024) -> str:
    """Read random windows with each. Raises ValueError where they differ from what lies in the file."""
    indices = np.random.default_rng(1).integers(len(windows_of(path)), size=count)
    rows = [np.fromfile(path, "<u2", T + 1, offset=2 * start) for start in starts_of(indices)]
    wanted = np.array(rows, dtype=np.int64)
    for name, build in readers.items():
        windows = build(path)(indices)
        if windows.dtype != np.int64 or not np.array_equal(windows, wanted):
            raise ValueError(f"{name}: the windows are not those that lie in the file, or not int64")
    return f"{count:,} random windows of {T + 1} tokens are equal, int64, for each of {len(readers)} readers"


# --- the token file, and how much of it is in memory ---


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
        write_random(path, size_bytes)
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_random(path: Path, size_bytes: int) -> None:
    """Fill a file with random bytes, an even number."""
    random = np.random.default_rng(0)
    with open(path, "wb") as file:
        for begin in tqdm(range(0, size_bytes, READ_BYTES), desc="reader: token file", unit=" blocks", disable=None):
            count = min(READ_BYTES, size_bytes - begin)
            file.write(random.bytes(count // 2 * 2))
        file.flush()
        os.fsync(file.fileno())  # dirty pages cannot be evicted


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


def load_into_memory(path: Path) -> None:
    """Read the file once, so that the page cache holds it."""
    with open(path, "rb", buffering=0) as file:
        while file.read(READ_BYTES):
            pass


def usage() -> dict[str, int]:
    """Bytes that this process read from the disk, and its resident memory: own (anon) and of mapped files; Linux."""
    result = {}
    with contextlib.suppress(OSError), open("/proc/self/io", encoding="utf-8") as file:
        for line in file:
            key, value = line.split(":")
            if key == "read_bytes":
                result[key] = int(value)
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            key, value = line.split(":", 1)
            if key in ("RssAnon", "RssFile"):
                result[key] = int(value.split()[0]) * 1024
    return result


def read_ahead_kb(path: Path) -> int | None:
    """Read-ahead of the file's device; None where the system does not say. A partition has that of its disk."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    for place in (f"bdi/{device}", f"../dev/block/{device}/queue", f"../dev/block/{device}/../queue"):
        with contextlib.suppress(OSError):
            return int(Path("/sys/class", place, "read_ahead_kb").read_text())
    return None


# --- one turn ---


def read_windows(path: Path, name: str, cold: bool) -> Figures:
    """One turn: windows/s, and what the process read and grew by meanwhile."""
    total = len(windows_of(path))
    count = -(-total // COLD_SHARE) if cold else WARM_WINDOWS
    batches = np.random.default_rng(2).integers(total, size=(-(-count // BATCH), BATCH))

    READERS[name](path)(batches[0])  # buffers and code that the first call brings in
    if cold:
        evict(path)
    else:
        load_into_memory(path)
    in_memory = resident(path)

    read = READERS[name](path)
    before = usage()
    begin_s = time.perf_counter()
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


def spoiled(state: str, in_memory: Spread | None) -> str | None:
    """Why turns are not what they should be, from the share of the file that was in memory; None: they are."""
    if in_memory is None:
        return f"unknown whether {state}: no mincore here"
    if state == "cold" and in_memory["max"] > COLD_LIMIT:
        return f"not cold: {in_memory['max']:.0%} of the file stayed in memory"
    if state == "warm" and in_memory["min"] < 1 - COLD_LIMIT:
        return f"not warm: {in_memory['min']:.0%} of the file was in memory"
    return None


# --- the part ---


def record(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Rate, disk traffic and memory of reading random windows, from the disk (cold) and from the page cache (warm)."""
    path = Path(cfg.out or "out/bench/reader.json").with_name("reader_tokens.bin").absolute()
    with token_file(path, cfg.file_mb * 10**6):
        agreement = same_windows(path, READERS)
        read_ahead = read_ahead_kb(path)
        cases = {}
        for state in ("cold", "warm"):
            for name in READERS:
                cases[f"{state} {name}"] = functools.partial(read_windows, path, name, state == "cold")
        samples = take_turns(cases, cfg.rounds, "reader")

    results: dict[str, dict[str, Any]] = {}
    for key in cases:
        state, name = key.split(" ", 1)
        row = {"state": state, "reader": name, **summary(samples[key])}
        row["spoiled"] = spoiled(state, row["in_memory"])
        row["of_peer"] = ratios(samples[key], samples[f"{state} {HELD}"], ["rate"])
        results[key] = row

    return {
        "title": f"batches of {BATCH} random windows of {T + 1} tokens, {cfg.file_mb:,} MB of uint16 to int64",
        "check": agreement,
        "read_ahead_kb": read_ahead,
        "results": results,
        "targets": targets(results, samples),
        "samples": samples,
    }


def targets(results: dict[str, Any], samples: Samples) -> list[dict[str, Any]]:
    """Only turns that were cold, or warm, speak for it."""

    def rate_ratio(state: str) -> Spread | None:
        if any(results[f"{state} {name}"]["spoiled"] for name in (OURS, HELD)):
            return None
        return results[f"{state} {OURS}"]["of_peer"]["rate"]

    turns = samples[f"cold {OURS}"] + samples[f"warm {OURS}"]
    growth_mb = None
    if all(turn["anon_bytes"] is not None for turn in turns):
        growth_mb = largest_of((turn["anon_bytes"] + turn["mapped_bytes"]) / 1e6 for turn in turns)
    return [
        target(f"cold at least 3 times the rate of {HELD}", rate_ratio("cold"), 3, most=False),
        target(f"warm at least the rate of {HELD}", rate_ratio("warm"), 1, most=False),
        target("resident memory grows by at most 2 MB in every turn", growth_mb, 2, unit=" MB"),
    ]


def table(record: Record) -> list[str]:
    """Lines for a reader: rates, the ratio to np.memmap held open in the same round, disk and memory, the targets."""
    read_ahead = "unknown" if record["read_ahead_kb"] is None else f"{record['read_ahead_kb']:,} KiB"
    width = max(map(len, record["results"]))
    heads = f"{'windows/s (min-max)':>30} {'x held open':>20} {'KiB from disk':>14} {'mapped MB':>10} {'own MB':>8}"
    lines = [f"read-ahead of the device: {read_ahead}", f"{'':{width}} {heads} {'in memory before':>17}"]

    def median(figure: Spread | None, unit: float) -> str:
        return "n/a" if figure is None else f"{figure['median'] / unit:,.1f}"

    for key, row in record["results"].items():
        rate = shown(row["rate"])
        ratio = shown(row["of_peer"]["rate"])
        disk = median(row["disk_bytes_per_window"], 1024)
        mapped = median(row["mapped_bytes"], 1e6)
        own = median(row["anon_bytes"], 1e6)
        before = "unknown" if row["in_memory"] is None else f"{row['in_memory']['max']:.1%}"
        remark = f"  ({row['spoiled']})" if row["spoiled"] else ""
        lines.append(f"{key:{width}} {rate:>30} {ratio:>20} {disk:>14} {mapped:>10} {own:>8} {before:>17}{remark}")

    lines.append("KiB from disk: for each window; mapped and own MB: growth of RssFile and RssAnon over a turn (Linux)")
    return [*lines, *target_lines(record["targets"])]
