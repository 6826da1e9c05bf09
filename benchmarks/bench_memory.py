"""Part memory of bench.py: the peak of a training step with a large vocabulary, next to a loss with all logits at once.

    OMP_NUM_THREADS=1 python bench.py --part=memory --device=cpu

The shape is GPT-2's smallest with Llama 3's vocabulary, on 4,096 tokens. Every turn is a process of its own, on the
CPU: two full optimizer steps, of which the second has AdamW's moments already. Both sides have the same weights, and
their losses must agree. What is counted is the largest resident set above that of the imported libraries.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.bench_config import BenchConfig, Figures, Record, TakeTurns
from benchmarks.bench_figures import ratios, scaled, shown, summary, target, target_lines
from benchmarks.bench_model import optimizer_step, start
from device import keep_freed_memory, pick_dtype
from model import Llama, ModelConfig, on_meta

SHAPE = ModelConfig(
    vocab_size=128256,
    block_size=1024,
    n_layer=12,
    n_head=12,
    n_kv_head=12,
    n_embd=768,
    ffn_hidden=2048,
)
ROWS, T = 4, 1024
STEPS = 2

OURS, FULL = "NonLlama", "full logits"
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-3}  # relative, of the first losses
MOST = 0.6  # of the memory of full logits

LossOf = Callable[[Llama, torch.Tensor, torch.Tensor], torch.Tensor]


def loss_in_chunks(model: Llama, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As train.py has it."""
    return model(x, y) / y.numel()


def loss_of_full_logits(model: Llama, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """All (B * T, V) logits, as most trainers have them."""
    logits = model(x)  # (B, T, V)
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def take_steps(loss_of: LossOf, dtype: torch.dtype) -> Figures:
    """One turn: the first loss, and CPU-seconds of the last step."""
    device = torch.device("cpu")
    # As train.py does; the arrays of full logits are so large that their holes in the heap would be gigabytes.
    keep_freed_memory(device, same_sizes=loss_of is not loss_of_full_logits)
    model = start(SHAPE)
    random = torch.Generator().manual_seed(0)
    batches = torch.randint(SHAPE.vocab_size, (STEPS, ROWS, T + 1), generator=random)
    step = optimizer_step(model, lambda x, y: loss_of(model, x, y.contiguous()), batches, device, dtype)

    loss = step().item()
    begin_s = time.process_time()
    for _ in range(STEPS - 1):
        step()
    return {"loss": loss, "cpu_s": (time.process_time() - begin_s) / (STEPS - 1)}


def same_loss(own: Figures, full: Figures, dtype: torch.dtype) -> str:
    """Raises ValueError when the first losses differ by more than TOLERANCE."""
    difference = abs(own["loss"] / full["loss"] - 1)
    if not difference <= TOLERANCE[dtype]:  # a NaN is not
        raise ValueError(f"the sides do not compute the same; losses: {own['loss']} and {full['loss']}")
    return f"the first losses agree to {difference:.0e} (tolerance {TOLERANCE[dtype]:.0e})"


def record(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Both losses."""
    dtype = pick_dtype(cfg.dtype, torch.device("cpu"))
    cases = {
        OURS: functools.partial(take_steps, loss_in_chunks, dtype),
        FULL: functools.partial(take_steps, loss_of_full_logits, dtype),
    }
    samples = take_turns(cases, cfg.rounds, "memory")

    results: dict[str, dict[str, Any]] = {}
    for name, rows in samples.items():
        results[name] = {**summary(rows), "over_full": ratios(rows, samples[FULL], ["peak_bytes", "cpu_s"])}

    short = str(dtype).removeprefix("torch.")
    parameters = on_meta(SHAPE).num_parameters()
    title = f"a step of {ROWS} x {T} tokens, 12 x 768, V = {SHAPE.vocab_size:,}, {parameters:,} parameters, {short}"
    over = results[OURS]["over_full"]["peak_bytes"]
    return {
        "title": title,
        "check": same_loss(samples[OURS][0], samples[FULL][0], dtype),
        "results": results,
        "targets": [target(f"at most {100 * MOST:.0f} % of the memory of full logits", over, MOST)],
        "samples": samples,
    }


def table(record: Record) -> list[str]:
    """Lines for a reader: peak memory and CPU-seconds of a step, and both over those of full logits."""
    width = max(map(len, record["results"]))
    lines = [f"{'':{width}} {'peak, MB':>24} {'x full logits':>20} {'CPU s a step':>24} {'x full logits':>20}"]
    for name, row in record["results"].items():
        peak = shown(scaled(row["peak_bytes"], 1e-6))
        over = row["over_full"]
        times = shown(row["cpu_s"])
        lines.append(
            f"{name:{width}} {peak:>24} {shown(over['peak_bytes']):>20} {times:>24} {shown(over['cpu_s']):>20}"
        )
    return [*lines, *target_lines(record["targets"])]
