"""Speed and peak memory of each part of this repository, next to what a user would pick instead.

    python bench.py --part=train                  one optimizer step: our Llama against transformers' of the same size
    python bench.py --part=train --size=10m --dtype=float32 --rounds=3
    python bench.py --part=train --size=10.6m --nanogpt=path/to/nanoGPT --litgpt=path/to/litgpt --compile=True
    python bench.py --part=memory                 peak memory of a step with a large vocabulary, against full logits
    python bench.py --part=sample                 generated tokens, against transformers' generate and without a cache
    python bench.py --part=finetune               a step of fine-tuning, full and LoRA, against transformers and peft
    python bench.py --part=evaluate --task_dir=data/eval      scores of tasks, against lm-evaluation-harness
    python bench.py --part=generate --checkpoint=out/smollm2  text by 32, 16, 8 and 4 bits, transformers and llama.cpp
    python bench.py --part=serve --checkpoint=out/smollm2     serve.py with one, 8 and 64 clients, against sample.py
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

A new part is a function in benchmarks/ and one entry in PARTS, below: in_one_process for a function from BenchConfig to
bench_model.Part, whose variants are timed in one process; in_fresh_processes where every turn needs a process of its
own, for a function (BenchConfig, take_turns) that makes the record, and one that prints it.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import dataclasses
import datetime
import functools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import atomic
from benchmarks import (
    bench_dedup,
    bench_evaluate,
    bench_finetune,
    bench_generate,
    bench_memory,
    bench_model,
    bench_reader,
    bench_sampler,
    bench_serve,
    bench_wiki,
)
from benchmarks.bench_config import BenchConfig, Figures, Record, Samples, TakeTurns
from benchmarks.bench_figures import need, peak_rss
from benchmarks.bench_model import BeforeTurn, Part, nothing
from corpus.pool import worker_pool
from device import pick_device

# --- the parts ---


@dataclass(frozen=True)
class Entry:
    """What bench.py knows of a part."""

    measure: Callable[[str, BenchConfig], Record]  # (name of the part, settings); without what every record has
    table: Callable[[Record], list[str]]  # its lines for a reader
    rounds: int  # unless --rounds says another number
    on_device: bool = False  # it runs on --device; else on the CPU
    needs: str = ""  # a setting that has to name a file
    needs_what: str = ""  # what is in that file
    needs_folder: bool = False  # it is a folder
    in_all: bool = True  # --part=all measures it


def in_one_process(part: Callable[[BenchConfig], Part], rounds: int) -> Entry:
    """A part whose variants are timed in this process."""
    return Entry(functools.partial(time_part, part), times_table, rounds, on_device=True)


def in_fresh_processes(
    record: Callable[[BenchConfig, TakeTurns], Record],
    table: Callable[[Record], list[str]],
    rounds: int,
    **options: Any,
) -> Entry:
    """A part whose turns are processes of their own. options: the rest of an Entry."""

    def measure(name: str, cfg: BenchConfig) -> Record:
        return record(cfg, take_turns)

    return Entry(measure, table, rounds, **options)


def parts() -> dict[str, Entry]:
    """All parts, in the order of --part=all. `sample` is short for the four whose names begin with it."""
    sample = {}
    for size in ("10m", "124m"):
        for batch_size in (1, 8):
            part = functools.partial(bench_model.sample_part, size=size, batch_size=batch_size)
            sample[f"sample-{size}-{batch_size}"] = in_one_process(part, rounds=3)  # a turn takes up to a minute

    return {
        "train": in_one_process(bench_model.train_part, rounds=7),
        **sample,
        "memory": in_fresh_processes(  # 10 GB: by its name only
            bench_memory.record, bench_memory.table, rounds=1, in_all=False
        ),
        "finetune": in_fresh_processes(bench_finetune.record, bench_finetune.table, rounds=3),
        "generate": in_fresh_processes(  # it needs a folder: by its name only
            bench_generate.record, bench_generate.table, rounds=3, in_all=False
        ),
        "evaluate": in_fresh_processes(
            bench_evaluate.record,
            bench_evaluate.table,
            rounds=3,
            needs="task_dir",
            needs_what="a folder with the files of hellaswag and arc_easy",
            needs_folder=True,
        ),
        "serve": in_fresh_processes(
            bench_serve.record,
            bench_serve.table,
            rounds=3,
            needs="checkpoint",
            needs_what="a Hugging Face folder, or a run",
            needs_folder=True,
            in_all=False,
        ),
        "sampler": in_fresh_processes(bench_sampler.record, bench_sampler.table, rounds=3),
        "reader": in_fresh_processes(bench_reader.record, bench_reader.table, rounds=5),
        "tokens": in_fresh_processes(
            bench_wiki.tokens, bench_wiki.table, rounds=3, needs="encoding", needs_what="a file gpt2.tiktoken"
        ),
        "dump": in_fresh_processes(
            bench_wiki.dump, bench_wiki.table, rounds=3, needs="dump", needs_what="a MediaWiki dump, .xml or .xml.bz2"
        ),
        "signatures": in_fresh_processes(bench_dedup.signatures_part, bench_dedup.signatures_table, rounds=5),
        "dedup": in_fresh_processes(  # it installs 2 GB: by its name only
            bench_dedup.dedup_part, bench_wiki.table, rounds=3, in_all=False
        ),
    }


def parts_wanted(cfg: BenchConfig) -> list[str]:
    """Names of the parts that --part asks for. Raises ValueError for settings that cannot work."""
    if (cfg.rounds is not None and cfg.rounds < 1) or not cfg.seconds >= 0:
        raise ValueError(f"rounds ({cfg.rounds}) must be at least 1, seconds ({cfg.seconds}) at least 0")
    if cfg.largest < 1000 or cfg.file_mb < 1:
        raise ValueError(f"largest ({cfg.largest}) must be at least 1000, file_mb ({cfg.file_mb}) at least 1")

    names = []
    for name in cfg.part.split(","):
        if name == "all":
            for known, entry in PARTS.items():
                file_is_given = not entry.needs or getattr(cfg, entry.needs)
                if entry.in_all and file_is_given:
                    names.append(known)
        elif name == "sample":
            names += [known for known in PARTS if known.startswith("sample-")]
        elif name in PARTS:
            names.append(name)
        else:
            raise ValueError(f"unknown part '{name}'; known parts: {', '.join(PARTS)}, all")

    for name in names:
        entry = PARTS[name]
        if entry.needs:
            check_path(name, entry, getattr(cfg, entry.needs))
    if cfg.out and len(names) > 1:
        raise ValueError(f"--out={cfg.out} is one file, but there are {len(names)} parts; drop --out")
    return names


def check_path(name: str, entry: Entry, path: str) -> None:
    """Raise ValueError when the path is not the file or folder that the part needs."""
    kind = "folder" if entry.needs_folder else "file"
    is_there = Path(path).is_dir() if entry.needs_folder else Path(path).is_file()
    if not path or not is_there:
        raise ValueError(f"part {name} needs --{entry.needs}=, the path of {entry.needs_what}; '{path}' is no {kind}")


# --- variants timed in one process ---


def measure(
    variants: dict[str, Callable[[], Any]],
    rounds: int,
    seconds: float,
    device: torch.device,
    desc: str = "bench",
    before_turn: BeforeTurn = nothing,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds per call of each variant, one sample a round: A B C, A B C, ... after a warm-up in the same order.

    A sample is the mean over the calls that fill about `seconds`: their number is set once, by the last warm-up call.
    Returns what a clock says, and the CPU-seconds of all threads of this process. before_turn(name, call) is not timed.
    """
    calls = {}
    for name, call in variants.items():
        before_turn(name, call)
        begin_s = time.perf_counter()
        took_s, _ = seconds_a_call(call, 1, device)
        while time.perf_counter() - begin_s < seconds:
            took_s, _ = seconds_a_call(call, 1, device)
        calls[name] = max(1, round(seconds / took_s))

    samples: dict[str, list[float]] = {name: [] for name in variants}
    cpu_samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in tqdm(range(rounds), desc=desc, unit=" rounds", disable=None):
        for name, call in variants.items():
            before_turn(name, call)
            took_s, cpu_s = seconds_a_call(call, calls[name], device)
            samples[name].append(took_s)
            cpu_samples[name].append(cpu_s)
    return samples, cpu_samples


def seconds_a_call(call: Callable[[], Any], n: int, device: torch.device) -> tuple[float, float]:
    """Mean seconds and CPU-seconds of n calls, until the device has finished them."""
    synchronize(device)
    start_s = time.perf_counter()
    start_cpu_s = time.process_time()
    for _ in range(n):
        call()
    synchronize(device)
    cpu_s = time.process_time() - start_cpu_s
    return (time.perf_counter() - start_s) / n, cpu_s / n


def synchronize(device: torch.device) -> None:
    """Wait for a GPU, which is still working when a call returns."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def summarize(samples: dict[str, list[float]], units_per_call: int) -> dict[str, dict[str, float]]:
    """Median, min and max of the seconds per call; units per second; the ratio: times as fast as the first peer.

    The ratio is taken within each round, peer's seconds / own seconds, then its median, min and max over the rounds.
    """
    peer = samples[first_peer(samples)]
    results = {}
    for name, own in samples.items():
        times_as_fast = [theirs / ours for theirs, ours in zip(peer, own, strict=True)]
        median_s = statistics.median(own)
        results[name] = {
            "median_s": median_s,
            "min_s": min(own),
            "max_s": max(own),
            "rate": units_per_call / median_s,
            "ratio": statistics.median(times_as_fast),
            "ratio_min": min(times_as_fast),
            "ratio_max": max(times_as_fast),
        }
    return results


def first_peer(variants: dict[str, Any]) -> str:
    """The variant that the others are compared with: the second one, or the only one."""
    names = list(variants)
    return names[1] if len(names) > 1 else names[0]


def time_part(build: Callable[[BenchConfig], Part], name: str, cfg: BenchConfig) -> Record:
    """Check, time and weigh the variants of a part."""
    device = pick_device(cfg.device)
    part = build(cfg)
    variants = {key: make() for key, make in part.variants.items()}
    agreement = part.check(variants)
    samples, cpu_samples = measure(variants, cfg.rounds, cfg.seconds, device, name, part.before_turn)
    variants.clear()  # room for the processes below

    results = summarize(samples, part.units_per_call)
    for key in tqdm(results, desc=f"{name}: memory", unit=" variants", disable=None):
        results[key]["peak_bytes"] = alone(f"the memory of {key}", peak_memory_here, build, cfg, key)

    figure = "allocated GPU memory (torch.cuda.max_memory_allocated)" if device.type == "cuda" else "resident set"
    return {
        "title": part.title,
        "unit": part.unit,
        "units_per_call": part.units_per_call,
        "check": agreement,
        "peak_is": f"peak {figure} of a fresh process above its baseline before building (libraries and inputs loaded)",
        "results": results,
        "cpu_results": summarize(cpu_samples, part.units_per_call) if device.type == "cpu" else {},
        "samples_s": samples,
        "cpu_samples_s": cpu_samples,
    }


def ratio_text(row: dict[str, float]) -> str:
    """`median (min-max)` of the ratio to the first peer."""
    return f"{row['ratio']:.2f} ({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"


def times_table(record: Record) -> list[str]:
    """Lines of a Part's record: milliseconds per call, rate, ratio to the first peer, MB (10^6 bytes); on a CPU also
    milliseconds of its threads, and their ratio, which other jobs on the machine disturb less.
    """
    results = record["results"]
    peer = first_peer(results)
    width = max(map(len, results))
    heads = f"{'ms per call (min-max)':>32} {record['unit'] + '/s':>12} {'x ' + peer:>22} {'peak MB':>9}"
    if record["cpu_results"]:
        heads += f" {'CPU ms':>10} {'x in CPU time':>18}"
    lines = [f"{'':{width}} {heads}"]
    for name, row in results.items():
        median, low, high = (f"{1000 * row[key]:,.2f}" for key in ("median_s", "min_s", "max_s"))
        times = f"{median} ({low}-{high})"
        peak = f"{row['peak_bytes'] / 1e6:,.1f}"
        line = f"{name:{width}} {times:>32} {row['rate']:>12,.0f} {ratio_text(row):>22} {peak:>9}"
        if record["cpu_results"]:
            cpu = record["cpu_results"][name]
            line += f" {1000 * cpu['median_s']:>10,.2f} {ratio_text(cpu):>18}"
        lines.append(line)

    ours, *_ = results
    for other in list(results)[2:]:
        rounds = zip(record["samples_s"][ours], record["samples_s"][other], strict=True)
        times_as_fast = [theirs_s / ours_s for ours_s, theirs_s in rounds]
        low, high = min(times_as_fast), max(times_as_fast)
        median = statistics.median(times_as_fast)
        lines.append(f"{ours} is {median:.2f} ({low:.2f}-{high:.2f}) times as fast as {other}")
    return [*lines, f"peak MB: {record['peak_is']}"]


# --- turns in fresh processes, and their memory ---


def take_turns(cases: dict[str, Callable[[], Figures]], rounds: int, desc: str) -> Samples:
    """The figures of each case, one sample a round: A B C, A B C, ..., every turn in a fresh process.

    A case is a callable that can be pickled. peak_bytes is added to its figures.
    """
    samples: Samples = {name: [] for name in cases}
    with tqdm(total=rounds * len(cases), desc=desc, unit=" turns", disable=None) as bar:
        for _ in range(rounds):
            for name, turn in cases.items():
                samples[name].append(alone(name, weighed_turn, turn))
                bar.update()
    return samples


def alone(what: str, function: Callable, *args: Any) -> Any:
    """function(*args) from a process of its own: it inherits no peak, no free memory and no mapped file of another."""
    with worker_pool(1, f"the process that measures {what} was killed (out of memory?)") as submit:
        return submit(function, *args).result()


def weighed_turn(turn: Callable[[], Figures]) -> Figures:
    """The figures of a turn, and as peak_bytes what it adds to the resident set at its peak; for a fresh process."""
    baseline = baseline_rss()
    figures = turn()
    return {**figures, "peak_bytes": peak_rss() - baseline}


def peak_memory_here(build: Callable[[BenchConfig], Part], cfg: BenchConfig, name: str) -> int:
    """Bytes that building the variant and calling it memory_calls times adds at the peak; for a fresh process."""
    part = build(cfg)  # libraries and inputs: below the baseline
    device = pick_device(cfg.device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    baseline = torch.cuda.memory_allocated(device) if on_gpu else baseline_rss()

    call = part.variants[name]()
    part.before_turn(name, call)
    for _ in range(part.memory_calls):
        call()

    peak = torch.cuda.max_memory_allocated(device) if on_gpu else peak_rss()
    return peak - baseline


def baseline_rss() -> int:
    """Resident set of this process in bytes. On Linux its peak so far, of the imports, is forgotten."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")
    return need("psutil").Process().memory_info().rss


# --- records ---


def hardware(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on: processors, threads, memory, system, versions, and the load at the start."""
    psutil = need("psutil")
    return {
        "cpu": cpu_name(),
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


def cpu_name() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def git_commit() -> str | None:
    """The commit of this file's folder, with -dirty for uncommitted changes; None without git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    return None


def run_part(name: str, cfg: BenchConfig) -> Record:
    """Measure a part; returns the record, JSON's types only: where and when its numbers come from, and the numbers."""
    entry = PARTS[name]
    cfg = dataclasses.replace(cfg, rounds=cfg.rounds or entry.rounds)
    device = pick_device(cfg.device) if entry.on_device else torch.device("cpu")
    origin = {
        "part": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "hardware": hardware(device),
        "settings": dataclasses.asdict(cfg),
    }
    return {**origin, **entry.measure(name, cfg)}


def table(record: Record) -> str:
    """The record for a reader."""
    machine = record["hardware"]
    lines = [
        f"{record['part']}: {record['title']}",
        f"check: {record['check']}",
        f"{machine['gpu'] or machine['cpu']}, {machine['threads']} of {machine['cores']} cores, "
        f"torch {machine['torch']}, load average {machine['load_average'][0]:.1f}",
        *PARTS[record["part"]].table(record),
    ]
    return "\n".join(lines)


def main(cfg: BenchConfig) -> None:
    """Measure the parts asked for; print and keep the result of each."""
    for name in parts_wanted(cfg):
        try:
            record = run_part(name, cfg)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; no record of {name} was written") from None
        out = Path(cfg.out or f"out/bench/{name}.json")
        atomic.write_json(out, record)
        print(f"\n{table(record)}\nwrote {out}", flush=True)


PARTS = parts()

if __name__ == "__main__":
    configurator.run(main, BenchConfig)
