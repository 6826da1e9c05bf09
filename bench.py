"""Speed and peak memory of each part of this repository, next to what a user would pick instead.

    python bench.py --part=train                  one optimizer step: our Llama against transformers' of the same size
    python bench.py --part=train --size=10m --dtype=float32 --rounds=3
    python bench.py --part=sample                 generated tokens, against transformers' generate and without a cache
    python bench.py --part=sampler                shuffled indices, up to n = 1e12, against torch's samplers
    python bench.py --part=reader                 random windows of a token file against np.memmap, cold and warm
    python bench.py --part=tokens --encoding=gpt2.tiktoken    documents to shards, against datasets.map
    python bench.py --part=dump --dump=x.xml.bz2  a MediaWiki dump to documents, against bzcat
    python bench.py --part=signatures,dedup       MinHash and duplicates, against datasketch, text-dedup and datatrove
    OMP_NUM_THREADS=1 python bench.py             beside other jobs: threads that wait for each other spoil every number

All variants of a part take turns, A B, A B, ...: what disturbs the machine for a while disturbs each of them. The
result is a ratio per round, its median and range over the rounds; a lone time says little. Variants are checked to
compute the same before they are timed. Peak memory comes from a fresh process for each variant. What is printed, with
every sample and the hardware, is kept in out/bench/<part>.json.

A new part is a function from BenchConfig to Part, entered in bench_model.PARTS: its variants are timed in one process.
Where every turn needs a fresh process it is a function that makes a record, entered in FRESH below.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import dataclasses
import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

import atomic
from benchmarks import bench_data, bench_dedup, bench_wiki
from benchmarks.bench_figures import need
from benchmarks.bench_model import PARTS, SAMPLE_PARTS, Part
from corpus.pool import worker_pool
from sample import pick_device

# sampler, reader: a turn begins with a new process and its imports, 3 seconds; sample: one takes up to a minute
ROUNDS = {"train": 7, "sample": 3, "sampler": 3, "reader": 5, "tokens": 3, "dump": 3, "signatures": 5, "dedup": 3}
FRESH = bench_data.PARTS | {"tokens": bench_wiki.tokens, "dump": bench_wiki.dump}
FRESH |= {"signatures": bench_dedup.signatures_part, "dedup": bench_dedup.dedup_part}
TABLES = bench_data.TABLES | dict.fromkeys(("tokens", "dump", "dedup"), bench_wiki.table)
TABLES["signatures"] = bench_dedup.signatures_table


@dataclass(frozen=True)
class BenchConfig:
    """Settings of `python bench.py`."""

    part: str = "train"  # names separated by commas, or all (but dedup; tokens and dump if their files are given)
    rounds: int | None = None  # turns of each variant; None: train 7, reader and signatures 5, all others 3
    seconds: float = 1.0  # train, sample: about the length of a turn; at least one call
    size: Literal["small", "10m", "124m"] = "small"  # train: 1536, 4096 and 4096 tokens a batch
    device: str = "auto"  # train, sample: cpu, cuda, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # train: of the matrix products (autocast); sample: of the weights; auto: as in train.py, sample.py
    )
    largest: int = 10**8  # sampler: samplers that hold a list run up to this n (1e8: 4.8 GB); whole epochs and targets
    file_mb: int = 2000  # reader: size of the token file, which is made beside the record and removed afterwards
    documents: int = 200_000  # tokens: how many, 3 kB each
    encoding: str = ""  # tokens: the path of a file gpt2.tiktoken
    dump: str = ""  # dump: a MediaWiki dump, whole or a slice, .xml or .xml.bz2; its pages are repeated
    dump_mb: int = 300  # dump: decompressed size of what is read
    out: str = ""  # JSON record; empty: out/bench/<part>.json

    def check(self) -> list[str]:
        """The parts wanted. Raises ValueError for settings that cannot work."""
        if (self.rounds is not None and self.rounds < 1) or not self.seconds >= 0:
            raise ValueError(f"rounds ({self.rounds}) must be at least 1, seconds ({self.seconds}) at least 0")
        if self.largest < 1000 or self.file_mb < 1:
            raise ValueError(f"largest ({self.largest}) must be at least 1000, file_mb ({self.file_mb}) at least 1")
        known = [*PARTS, *FRESH]
        needs = {"tokens": ("encoding", "a file gpt2.tiktoken"), "dump": ("dump", "a MediaWiki dump, .xml or .xml.bz2")}
        given = [name for name in known if name not in needs or getattr(self, needs[name][0])]
        given.remove("dedup")  # it installs 2 GB: by its name only
        names = given if self.part == "all" else self.part.split(",")
        names = [full for name in names for full in (list(SAMPLE_PARTS) if name == "sample" else [name])]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"unknown part '{unknown[0]}'; known parts: {', '.join(known)}, all")
        for name in set(names) & set(needs):
            key, what = needs[name]
            if not Path(getattr(self, key)).is_file():
                raise ValueError(f"part {name} needs --{key}=, the path of {what}; '{getattr(self, key)}' is no file")
        if self.out and len(names) > 1:
            raise ValueError(f"--out={self.out} is one file, but there are {len(names)} parts; drop --out")
        return names


def measure(
    variants: dict[str, Callable[[], Any]], rounds: int, seconds: float, device: torch.device, desc: str = "bench"
) -> dict[str, list[float]]:
    """Seconds per call of each variant, one sample a round: A B C, A B C, ... after a warm-up in the same order.

    A sample is the mean over the calls that fill about `seconds`: their number is set once, by the last warm-up call.
    """

    def synchronize() -> None:
        if device.type != "cpu":  # a GPU is still working when a call returns
            torch.accelerator.synchronize(device)

    def timed(call: Callable[[], Any], n: int) -> float:
        synchronize()
        start_s = time.perf_counter()
        for _ in range(n):
            call()
        synchronize()
        return (time.perf_counter() - start_s) / n

    calls = {}
    for name, call in variants.items():
        begin_s = time.perf_counter()
        took_s = timed(call, 1)
        while time.perf_counter() - begin_s < seconds:
            took_s = timed(call, 1)
        calls[name] = max(1, round(seconds / took_s))
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in tqdm(range(rounds), desc=desc, unit=" rounds", disable=None):
        for name, call in variants.items():
            samples[name].append(timed(call, calls[name]))
    return samples


def summarize(samples: dict[str, list[float]], units_per_call: int) -> dict[str, dict[str, float]]:
    """Median, min and max of the seconds per call; units per second; the ratio: times as fast as the first peer.

    The ratio is taken within each round, peer's seconds / own seconds, then its median, min and max over the rounds.
    """
    names = list(samples)
    peer = samples[names[min(1, len(names) - 1)]]
    results = {}
    for name, own in samples.items():
        ratios = [theirs / ours for theirs, ours in zip(peer, own, strict=True)]
        median_s = statistics.median(own)
        results[name] = {"median_s": median_s, "min_s": min(own), "max_s": max(own), "rate": units_per_call / median_s}
        results[name] |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return results


def peak_rss() -> int:
    """Largest resident set of this process so far, in bytes.

    From /proc where there is one: Linux hands ru_maxrss down, a small child of a process of 500 MB starts with 500 MB.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def baseline_rss() -> int:
    """Resident set of this process in bytes. On Linux its peak so far, of the imports, is forgotten."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")
    return need("psutil").Process().memory_info().rss


def peak_memory_here(part: Callable[[BenchConfig], Part], cfg: BenchConfig, name: str) -> int:
    """Bytes that building the variant and calling it memory_calls times adds at the peak; for a fresh process."""
    built, device = part(cfg), pick_device(cfg.device)  # libraries and inputs: below the baseline
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        baseline = torch.cuda.memory_allocated(device)
    else:
        baseline = baseline_rss()
    call = built.variants[name]()
    for _ in range(built.memory_calls):
        call()
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_rss()) - baseline


def weighed_turn(turn: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a turn, and as peak_bytes what it adds to the resident set at its peak; for a fresh process."""
    baseline = baseline_rss()
    figures = turn()
    return figures | {"peak_bytes": peak_rss() - baseline}


def alone(what: str, function: Callable, *args: Any) -> Any:
    """function(*args) from a process of its own: it inherits no peak, no free memory and no mapped file of another."""
    with worker_pool(1, f"the process that measures {what} was killed (out of memory?)") as submit:
        return submit(function, *args).result()


def take_turns(
    cases: dict[str, Callable[[], dict[str, Any]]], rounds: int, desc: str
) -> dict[str, list[dict[str, Any]]]:
    """The figures of each case, one sample a round: A B C, A B C, ..., every turn in a fresh process.

    A case is a callable that can be pickled. peak_bytes is added to its figures.
    """
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    with tqdm(total=rounds * len(cases), desc=desc, unit=" turns", disable=None) as bar:
        for _ in range(rounds):
            for name, turn in cases.items():
                samples[name].append(alone(name, weighed_turn, turn))
                bar.update()
    return samples


def hardware(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on: processors, threads, memory, system, versions, and the load at the start."""
    psutil, cpu = need("psutil"), platform.processor()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    return {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": list(os.getloadavg()),  # of the last 1, 5 and 15 minutes
    }


def git_commit() -> str | None:
    """The commit of this file's folder, with -dirty for uncommitted changes; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    return None


def origin(name: str, cfg: BenchConfig, device: torch.device) -> dict[str, Any]:
    """What every record begins with: where and when its numbers come from."""
    return {
        "part": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "hardware": hardware(device),
        "settings": dataclasses.asdict(cfg),
    }


def run_part(name: str, cfg: BenchConfig) -> dict[str, Any]:
    """Check, time and weigh the variants of a part; returns the record, JSON's types only."""
    cfg = dataclasses.replace(cfg, rounds=cfg.rounds or ROUNDS.get(name.partition("-")[0], 7))
    if name in FRESH:
        return origin(name, cfg, torch.device("cpu")) | FRESH[name](cfg, take_turns)
    device = pick_device(cfg.device)
    measured, part = origin(name, cfg, device), PARTS[name](cfg)
    variants = {key: build() for key, build in part.variants.items()}
    agreement = part.check(variants)
    samples = measure(variants, cfg.rounds, cfg.seconds, device, name)
    variants.clear()  # room for the processes below
    results = summarize(samples, part.units_per_call)
    for key in tqdm(results, desc=f"{name}: memory", unit=" variants", disable=None):
        results[key]["peak_bytes"] = alone(f"the memory of {key}", peak_memory_here, PARTS[name], cfg, key)
    figure = "allocated GPU memory (torch.cuda.max_memory_allocated)" if device.type == "cuda" else "resident set"
    return measured | {
        "title": part.title,
        "unit": part.unit,
        "units_per_call": part.units_per_call,
        "check": agreement,
        "peak_is": f"peak {figure} of a fresh process above its baseline before building (libraries and inputs loaded)",
        "results": results,
        "samples_s": samples,
    }


def table(record: dict[str, Any]) -> str:
    """The record for a reader."""
    machine = record["hardware"]
    lines = [
        f"{record['part']}: {record['title']}",
        f"check: {record['check']}",
        f"{machine['gpu'] or machine['cpu']}, {machine['threads']} of {machine['cores']} cores, "
        f"torch {machine['torch']}, load average {machine['load_average'][0]:.1f}",
    ]
    return "\n".join(lines + TABLES.get(record["part"], times_table)(record))


def times_table(record: dict[str, Any]) -> list[str]:
    """Lines of a Part's record: milliseconds per call, rate, ratio to the first peer, MB (10^6 bytes)."""
    results = record["results"]
    peer, width = list(results)[min(1, len(results) - 1)], max(map(len, results))
    lines = [
        f"{'':{width}} {'ms per call (min-max)':>32} {record['unit'] + '/s':>12} {'x ' + peer:>22} {'peak MB':>9}",
    ]
    for name, row in results.items():
        median, low, high = (f"{1000 * row[key]:,.2f}" for key in ("median_s", "min_s", "max_s"))
        ratio = f"{row['ratio']:.2f} ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
        peak = f"{row['peak_bytes'] / 1e6:,.1f}"
        lines.append(f"{name:{width}} {f'{median} ({low}-{high})':>32} {row['rate']:>12,.0f} {ratio:>22} {peak:>9}")
    for other in list(results)[2:]:
        ours, theirs = (record["samples_s"][key] for key in (next(iter(results)), other))
        times = [b / a for a, b in zip(ours, theirs, strict=True)]
        shown = f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
        lines.append(f"{next(iter(results))} is {shown} times as fast as {other}")
    return [*lines, f"peak MB: {record['peak_is']}"]


def main(cfg: BenchConfig) -> None:
    """Measure the parts asked for; print and keep the result of each."""
    for name in cfg.check():
        try:
            record = run_part(name, cfg)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; no record of {name} was written") from None
        out = Path(cfg.out or f"out/bench/{name}.json")
        atomic.write_json(out, record)
        print(f"\n{table(record)}\nwrote {out}", flush=True)


if __name__ == "__main__":
    configurator.run(main, BenchConfig)
