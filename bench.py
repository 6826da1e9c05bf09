"""Speed and peak memory of each part of this repository, next to what a user would pick instead.

    python bench.py --part=train                  one optimizer step: our Llama against transformers' of the same size
    python bench.py --part=train --size=10m --dtype=float32 --rounds=3
    python bench.py --part=sample                 generated tokens, against transformers' generate and without a cache
    python bench.py --part=sampler                shuffled indices, up to n = 1e12, against torch's samplers
    python bench.py --part=reader                 random windows of a token file against np.memmap, cold and warm
    OMP_NUM_THREADS=1 python bench.py             beside other jobs: threads that wait for each other spoil every number

All variants of a part take turns, A B, A B, ...: what disturbs the machine for a while disturbs each of them. The
result is a ratio per round, its median and range over the rounds; a lone time says little. Variants are checked to
compute the same before they are timed. Peak memory comes from a fresh process for each variant. What is printed, with
every sample and the hardware, is kept in out/bench/<part>.json.

A new part is a function from BenchConfig to Part, entered in PARTS: its variants are timed in one process. Where every
turn needs a fresh process it is a function that makes a record, entered in bench_data.PARTS.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import importlib
import itertools
import multiprocessing
import multiprocessing.resource_tracker
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

import atomic
import bench_data
from checkpoint import hf_config
from model import Llama, ModelConfig
from sample import generate, pick_device
from train import pick_dtype

ROUNDS = {"sampler": 3, "reader": 5}  # their turns begin with a new process and its imports: 3 seconds each
NEW_TOKENS, PROMPT_TOKENS = 256, 32  # of a text in the part sample
MEMORY_CALLS = 3  # the first allocates gradients and optimizer state, the others show what a steady state adds
CHECK_STEPS = 3  # optimizer steps whose losses must agree before anything is timed
# Largest relative difference of these losses. Measured on a CPU: 1e-6 in float32, 3e-4 in bfloat16 (size 10m).
# For comparison: GELU for SiLU gives 2e-4 or more, RoPE of another base 2e-3, norm_eps 1e-4 for 1e-5 gives 4e-5.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-3}
SIZES = {  # name -> shape, windows in a batch
    "small": (ModelConfig(4096, 128, n_layer=4, n_head=4, n_kv_head=2, n_embd=128, ffn_hidden=384), 12),  # demo.py
    "10m": (ModelConfig(4096, 256, n_layer=6, n_head=6, n_kv_head=3, n_embd=384, ffn_hidden=1152), 16),  # 10.6M + 1.6M
    "124m": (ModelConfig(50304, 1024, 12, 12, 12, 768, 2048), 4),  # the size of GPT-2's smallest
}


@dataclass(frozen=True)
class BenchConfig:
    """Settings of `python bench.py`."""

    part: str = "train"  # names separated by commas, or all
    rounds: int | None = None  # turns of each variant; None: train 7, reader 5, sample and sampler 3
    seconds: float = 1.0  # train, sample: about the length of a turn; at least one call
    size: Literal["small", "10m", "124m"] = "small"  # train: 1.3M parameters, 1536 tokens a batch; 12.2M, 4096; 124M
    device: str = "auto"  # train, sample: cpu, cuda, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # train: of the matrix products (autocast); sample: of the weights; auto: as in train.py, sample.py
    )
    largest: int = 10**8  # sampler: samplers that hold a list run up to this n (1e8: 4.8 GB); whole epochs and targets
    file_mb: int = 2000  # reader: size of the token file, which is made beside the record and removed afterwards
    out: str = ""  # JSON record; empty: out/bench/<part>.json

    def check(self) -> list[str]:
        """The parts wanted. Raises ValueError for settings that cannot work."""
        if (self.rounds is not None and self.rounds < 1) or not self.seconds >= 0:
            raise ValueError(f"rounds ({self.rounds}) must be at least 1, seconds ({self.seconds}) at least 0")
        if self.largest < 1000 or self.file_mb < 1:
            raise ValueError(f"largest ({self.largest}) must be at least 1000, file_mb ({self.file_mb}) at least 1")
        known = [*PARTS, *bench_data.PARTS]
        names = known if self.part == "all" else self.part.split(",")
        names = [full for name in names for full in (list(SAMPLE_PARTS) if name == "sample" else [name])]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"unknown part '{unknown[0]}'; known parts: {', '.join(known)}, all")
        if self.out and len(names) > 1:
            raise ValueError(f"--out={self.out} is one file, but there are {len(names)} parts; drop --out")
        return names


@dataclass(frozen=True)
class Part:
    """What is compared: ours first, then the peers. The first peer is the 1.00 of the ratios."""

    variants: dict[str, Callable[[], Callable[[], Any]]]  # name -> builds a callable that does one unit of work
    title: str  # one unit of work, for the reader
    unit: str  # what the rate counts, e.g. tokens
    units_per_call: int
    check: Callable[[dict[str, Callable[[], Any]]], str]  # given what was built: the agreement in words, or ValueError
    memory_calls: int = MEMORY_CALLS


def need(module: str) -> Any:
    """Import a package of requirements-dev.txt. Raises ValueError with the pip line when it does not import."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} does not import ({error}); run: pip install -r requirements-dev.txt") from None


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
    multiprocessing.resource_tracker.ensure_running()  # starting it would unblock the signal below
    pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for this process alone
        try:
            future = pool.submit(function, *args)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return future.result()
    except concurrent.futures.process.BrokenProcessPool:
        raise ValueError(f"the process that measures {what} was killed (out of memory?)") from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
    cfg = dataclasses.replace(cfg, rounds=cfg.rounds or ROUNDS.get(name, 7))
    if name in bench_data.PARTS:
        return origin(name, cfg, torch.device("cpu")) | bench_data.PARTS[name](cfg, take_turns)
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
    return "\n".join(lines + bench_data.TABLES.get(record["part"], times_table)(record))


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


def optimizer_step(
    model: torch.nn.Module, loss_of: Callable, batches: Iterable[torch.Tensor], device: torch.device, dtype: torch.dtype
) -> Callable[..., torch.Tensor]:
    """A callable that takes the next batch, (B, T + 1) ids in memory, and one step as train.py does; returns the loss.

    loss_of(x, y): the mean loss in nats per token of inputs and targets, (B, T) each. dtype: of the matrix products,
    unless the call says another.
    """
    groups = Llama.parameter_groups(model, weight_decay=0.1)  # goes by Hugging Face's names: the same for both
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=device.type != "mps")
    source = itertools.cycle(batches)

    def step(dtype: torch.dtype = dtype) -> torch.Tensor:
        tokens = next(source).to(device, non_blocking=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def same_losses(variants: dict[str, Callable[..., torch.Tensor]], dtype: torch.dtype) -> str:
    """Take CHECK_STEPS optimizer steps with each variant, in float32 and then in `dtype` if it is another.

    Raises ValueError when their losses differ by more than TOLERANCE.
    """
    matmul_precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # no TF32, whose rounding would hide what is looked for
    losses = {
        kind: {name: [step(kind).item() for _ in range(CHECK_STEPS)] for name, step in variants.items()}
        for kind in dict.fromkeys((torch.float32, dtype))
    }
    torch.set_float32_matmul_precision(matmul_precision)
    words = []
    for kind, found in losses.items():
        ours, *peers = found.values()
        worst = max(abs(a / b - 1) for peer in peers for a, b in zip(ours, peer, strict=True))
        if not worst <= TOLERANCE[kind]:
            raise ValueError(f"the variants do not compute the same; losses of {CHECK_STEPS} steps in {kind}: {found}")
        words.append(f"{worst:.0e} in {str(kind).removeprefix('torch.')} (tolerance {TOLERANCE[kind]:.0e})")
    return f"losses of {CHECK_STEPS} steps agree to " + ", ".join(words)


def start(shape: ModelConfig) -> Llama:
    """Our model with the weights that all variants start from, larger than at initialisation so that errors show.

    At initialisation the loss is near log V whatever the blocks do: RoPE of another base moves it by 2e-6 of its value.
    """
    torch.manual_seed(0)
    model = Llama(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def train_part(cfg: BenchConfig) -> Part:
    """One full optimizer step, eager: batch from memory, forward, backward, clipping, fused AdamW, zero_grad."""
    config, llama = (getattr(need("transformers"), name) for name in ("LlamaConfig", "LlamaForCausalLM"))
    importlib.import_module("torch._dynamo")  # 75 MB that the first optimizer imports: not the memory of a variant
    device = pick_device(cfg.device)
    dtype = pick_dtype(cfg.dtype, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as train.py does, for both
    shape, batch_size = SIZES[cfg.size]
    random = torch.Generator().manual_seed(0)
    batches = torch.randint(shape.vocab_size, (8, batch_size, shape.block_size + 1), generator=random)
    if device.type == "cuda":
        batches = batches.pin_memory()

    def ours() -> Callable[[], torch.Tensor]:
        model = start(shape).to(device)
        return optimizer_step(model, lambda x, y: model(x, y) / y.numel(), batches, device, dtype)

    def theirs() -> Callable[[], torch.Tensor]:
        model = llama(config(**hf_config(shape, 0), use_cache=False))
        model.load_state_dict(start(shape).state_dict())
        model.to(device).train()
        # shift_labels: targets that are shifted already, so that both score the same B * T tokens
        return optimizer_step(
            model, lambda x, y: model(x, labels=y, shift_labels=y.contiguous()).loss, batches, device, dtype
        )

    tokens = batch_size * shape.block_size
    return Part(
        variants={"NonLlama": ours, f"transformers {version('transformers')}": theirs},
        title=f"one optimizer step, {tokens:,} tokens, size {cfg.size}, {str(dtype).removeprefix('torch.')}",
        unit="tokens",
        units_per_call=tokens,
        check=lambda variants: same_losses(variants, dtype),
    )


def uncached(model: Llama, prompts: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Greedy continuation, (B, new_tokens) ids, with the whole text computed again for each token, as nanoGPT does."""
    tokens = prompts  # (B, T)
    with torch.inference_mode():
        for _ in range(new_tokens):
            logits = model(tokens, last=True)[:, -1]  # (B, V)
            tokens = torch.cat((tokens, logits.argmax(1, keepdim=True)), dim=1)
    return tokens[:, prompts.shape[1] :]


def same_tokens(variants: dict[str, Callable[[], torch.Tensor]]) -> str:
    """Generate with each variant. Raises ValueError when they differ before rounding could make them.

    In float32 two near-equal logits change places once in some thousand tokens, and a text goes on from there; the
    first tokens of the first text must be the same.
    """
    ours, *peers = (call().cpu() for call in variants.values())
    agree = min(int((ours == peer).cummin(1).values.sum(1).min()) for peer in peers)
    if agree < 16:
        raise ValueError(f"the variants do not compute the same: only {agree} greedy tokens are equal")
    return f"at least the first {agree} of {ours.shape[1]} greedy tokens of every text are equal"


def sample_part(cfg: BenchConfig, size: str, batch_size: int) -> Part:
    """Greedy generation of NEW_TOKENS tokens after a prompt of PROMPT_TOKENS, for a batch of texts."""
    config, llama = (getattr(need("transformers"), name) for name in ("LlamaConfig", "LlamaForCausalLM"))
    device = pick_device(cfg.device)
    dtype = torch.bfloat16 if (cfg.dtype == "auto" and device.type == "cuda") else torch.float32
    dtype = getattr(torch, cfg.dtype) if cfg.dtype != "auto" else dtype
    shape = dataclasses.replace(SIZES[size][0], block_size=1024)
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(shape.vocab_size, (batch_size, PROMPT_TOKENS), generator=random).to(device)

    def model() -> Llama:
        return start(shape).to(device, dtype).eval()

    def ours() -> Callable[[], torch.Tensor]:
        built = model()

        def call() -> torch.Tensor:
            steps = generate(built, prompts.tolist(), NEW_TOKENS, shape.vocab_size, temperature=0)
            return torch.tensor(list(steps)).t()

        return call

    def theirs() -> Callable[[], torch.Tensor]:
        built = llama(config(**hf_config(shape, 0)))
        built.load_state_dict(start(shape).state_dict())
        built.to(device, dtype).eval()
        ends = {"eos_token_id": None, "pad_token_id": 0, "do_sample": False, "max_new_tokens": NEW_TOKENS}
        options = {"attention_mask": torch.ones_like(prompts), **ends}
        return lambda: built.generate(prompts, **options)[:, PROMPT_TOKENS:]

    def plain() -> Callable[[], torch.Tensor]:
        built = model()
        return lambda: uncached(built, prompts, NEW_TOKENS)

    variants = {"NonLlama": ours, f"transformers {version('transformers')} generate": theirs}
    if batch_size == 1:
        variants["without a cache"] = plain
    return Part(
        variants=variants,
        title=f"{NEW_TOKENS} new tokens after {PROMPT_TOKENS}, size {size}, texts at once: {batch_size}, "
        + str(dtype).removeprefix("torch."),
        unit="tokens",
        units_per_call=batch_size * NEW_TOKENS,
        check=same_tokens,
        memory_calls=1,
    )


SAMPLE_PARTS: dict[str, Callable[[BenchConfig], Part]] = {
    f"sample-{size}-{batch_size}": functools.partial(sample_part, size=size, batch_size=batch_size)
    for size in ("10m", "124m")
    for batch_size in (1, 8)
}
PARTS: dict[str, Callable[[BenchConfig], Part]] = {"train": train_part, **SAMPLE_PARTS}
ROUNDS |= dict.fromkeys(SAMPLE_PARTS, 3)


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
