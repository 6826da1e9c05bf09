"""Part finetune of bench.py: a step of fine-tuning 135M parameters, all or LoRA's, next to transformers and peft.

    OMP_NUM_THREADS=1 python bench.py --part=finetune                     the shape of SmolLM2-135M, random weights
    OMP_NUM_THREADS=1 python bench.py --part=finetune --data=data/alpaca  also: which share of the places packing uses

Every turn is a process of its own, on the CPU. A step is forward, backward, clipping and AdamW on 4 x 256 tokens, one
document a row, of which the last ones of each row are scored (--scored). All sides begin with the same weights, and
with LoRA with the same adapters on all seven matrices of a block: their losses are compared.

What is counted are CPU seconds, and the largest resident set of the whole process with its libraries.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lora
from benchmarks.bench_config import BenchConfig, Figures, Record, Samples, TakeTurns
from benchmarks.bench_figures import need, peak_rss, ratios, speed_table, spread, summary, target, target_lines
from benchmarks.bench_model import optimizer_step, start
from chat_shards import Conversations
from device import keep_freed_memory, pick_dtype
from hf_config import hf_config
from model import IGNORE, Llama, ModelConfig
from packing import Packs

SMOLLM2_135M = ModelConfig(
    vocab_size=49152,
    block_size=2048,
    n_layer=30,
    n_head=9,
    n_kv_head=3,
    n_embd=576,
    ffn_hidden=1536,
)
ROWS, T = 4, 256
STEPS = 2  # that are timed, after one that allocates the moments
ADAPTERS = lora.LoraSettings(rank=8, alpha=16, targets=lora.MATRICES)

# Largest relative difference of the last losses. Measured on a CPU in float32: 2e-5 of all weights, 0 of adapters. In
# bfloat16 7e-3: with weights that are so large (bench_model.start) rounding changes half of a gradient, on either side.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

BLOCK = 1024  # of the rows that conversations are packed into
PADDED_TOGETHER = 16  # conversations in a batch that is padded to its longest

Built = tuple[torch.nn.Module, Callable[..., torch.Tensor]]  # parameters to train are in the first; the second: loss

FULL, FULL_PEER = "full, NonLlama", "full, transformers"
LORA, LORA_PEER, LORA_PEER_BF16 = "LoRA, NonLlama", "LoRA, peft", "LoRA, peft, base in bf16"


# --- what is compared ---


def ours(dtype: torch.dtype, scored: torch.Tensor, adapters: bool) -> Built:
    """As train.py does it. scored: which places of a row are, (T,) bool."""
    keep_freed_memory(torch.device("cpu"), same_sizes=False)
    model = start(SMOLLM2_135M)
    if adapters:
        model = with_adapters(model)
        lora.narrow_frozen(model, dtype)
    places = scored.repeat(ROWS).nonzero().squeeze(1)  # as the batch has them, made on the host

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.masked_fill(~scored, IGNORE)
        return model(x, y, scored=places) / len(places)

    return model, loss_of


def theirs(dtype: torch.dtype, scored: torch.Tensor, adapters: bool, base_dtype: torch.dtype) -> Built:
    """transformers' model with its attention by SDPA, in peft's where there are adapters."""
    transformers = need("transformers")
    config = transformers.LlamaConfig(**hf_config(SMOLLM2_135M, 0), use_cache=False)
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(start(SMOLLM2_135M).state_dict())
    model.to(base_dtype).train()
    called = give_adapters(model) if adapters else model

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.masked_fill(~scored, IGNORE)
        # shift_labels: targets that are shifted already, so that both score the same tokens
        return called(x, labels=y, shift_labels=y).loss

    return model, loss_of


def with_adapters(model: Llama) -> Llama:
    """Our model, frozen, with adapters as a run begins with."""
    lora.add_adapters(model, ADAPTERS)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter, value in lora.initial_adapters(model):
            parameter.copy_(value)
    return model


def give_adapters(model: torch.nn.Module) -> torch.nn.Module:
    """peft's model around transformers' one, with the values that with_adapters gives."""
    peft = need("peft")
    options = {"r": ADAPTERS.rank, "lora_alpha": ADAPTERS.alpha, "target_modules": list(ADAPTERS.targets)}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**options, task_type="CAUSAL_LM"))

    values = {
        name: value for name, value in with_adapters(Llama(SMOLLM2_135M)).named_parameters() if value.requires_grad
    }
    with torch.no_grad():
        for name, value in values.items():
            wrapped.get_parameter(f"base_model.model.{name}.default.weight").copy_(value)
    return wrapped


def cases_of(dtype: torch.dtype) -> dict[str, Callable[[torch.Tensor], Built]]:
    """Name -> what builds it, given which places of a row are scored. A peer follows what it is compared with."""
    float32 = torch.float32
    cases = {
        FULL: functools.partial(ours, dtype, adapters=False),
        FULL_PEER: functools.partial(theirs, dtype, adapters=False, base_dtype=float32),
        LORA: functools.partial(ours, dtype, adapters=True),
        LORA_PEER: functools.partial(theirs, dtype, adapters=True, base_dtype=float32),
    }
    if dtype == torch.bfloat16:
        cases[LORA_PEER_BF16] = functools.partial(theirs, dtype, adapters=True, base_dtype=dtype)
    return cases


def take_steps(build: Callable[[torch.Tensor], Built], dtype: torch.dtype, share: float) -> Figures:
    """One turn: CPU seconds of a step, tokens a CPU second, the last loss, and the largest resident set."""
    scored = torch.arange(T) >= T - round(share * T)  # (T,)
    random = torch.Generator().manual_seed(0)
    batches = torch.randint(SMOLLM2_135M.vocab_size, (1 + STEPS, ROWS, T + 1), generator=random)

    model, loss_of = build(scored)
    step = optimizer_step(model, loss_of, batches, torch.device("cpu"), dtype)
    step()
    begin_s = time.process_time()
    for _ in range(STEPS):
        loss = step()
    cpu_s = (time.process_time() - begin_s) / STEPS
    return {"cpu_s": cpu_s, "rate": ROWS * T / cpu_s, "loss": loss.item(), "memory_bytes": peak_rss()}


def same_losses(samples: Samples, dtype: torch.dtype) -> str:
    """Raises ValueError when the last losses of ours and a peer differ by more than TOLERANCE."""
    differences = []
    for own, peers in ((FULL, [FULL_PEER]), (LORA, [LORA_PEER, LORA_PEER_BF16])):
        for peer in peers:
            if peer in samples:
                a, b = samples[own][0]["loss"], samples[peer][0]["loss"]
                differences.append(abs(a / b - 1))
                if not differences[-1] <= TOLERANCE[dtype]:  # a NaN is not
                    raise ValueError(f"the sides do not compute the same; losses of {own}: {a}, {peer}: {b}")
    return f"the last of {1 + STEPS} losses agrees to {max(differences):.0e} (tolerance {TOLERANCE[dtype]:.0e})"


# --- packing ---


def useful_places(folder: Path) -> dict[str, float]:
    """Shares of the places of training rows that hold a token: packed here, and padded in two usual ways."""
    conversations = Conversations(folder, "train")
    packed = Packs(conversations, BLOCK, seed=0).useful

    lengths = np.minimum(conversations.lengths - 1, BLOCK)
    lengths = np.random.default_rng(0).permutation(lengths)
    whole = len(lengths) // PADDED_TOGETHER * PADDED_TOGETHER
    batches = lengths[:whole].reshape(-1, PADDED_TOGETHER)
    return {
        "packed": packed,
        f"padded to the longest of {PADDED_TOGETHER}": batches.sum() / (PADDED_TOGETHER * batches.max(1).sum()),
        "padded to the block": float(lengths.mean() / BLOCK),
    }


# --- the part ---


def record(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Steps of both sides, and what packing wastes where --data names a folder."""
    if not 0 < cfg.scored <= 1:
        raise ValueError(f"scored ({cfg.scored}) must be above 0 and at most 1: the share of tokens that are learnt")
    packing = useful_places(Path(cfg.data)) if cfg.data else None

    dtype = pick_dtype(cfg.dtype, torch.device("cpu"))
    cases = {}
    for name, build in cases_of(dtype).items():
        cases[name] = functools.partial(take_steps, build, dtype, cfg.scored)
    samples = take_turns(cases, cfg.rounds, "finetune")

    results: dict[str, dict[str, Any]] = {}
    for name, rows in samples.items():
        own = FULL if name.startswith("full") else LORA
        results[name] = {**summary(rows), "ours_over_it": ratios(samples[own], rows, ["rate", "memory_bytes"])}

    targets = [
        target("full: at least 1.1 times transformers' tokens", results[FULL_PEER]["ours_over_it"]["rate"], 1.1, False)
    ]
    for peer in (LORA_PEER, LORA_PEER_BF16):
        if peer in results:
            over = results[peer]["ours_over_it"]
            targets.append(target(f"LoRA: at least 1.2 times the tokens of {peer[6:]}", over["rate"], 1.2, most=False))
            targets.append(target(f"LoRA: at most 3/4 of the memory of {peer[6:]}", over["memory_bytes"], 0.75))
    if packing:
        percent = spread([100 * packing["packed"]])
        targets.append(target("useful places of packed rows: at least 99 %", percent, 99, most=False, unit=" %"))

    what = f"a step of {ROWS} x {T} tokens, {100 * cfg.scored:.0f} % of them scored"
    name = str(dtype).removeprefix("torch.")
    return {
        "title": f"{what}, the shape of SmolLM2-135M, {name}, LoRA of rank {ADAPTERS.rank}",
        "check": same_losses(samples, dtype),
        "packing": packing,
        "results": results,
        "targets": targets,
        "samples": samples,
    }


def table(record: Record) -> list[str]:
    """Lines for a reader: tokens a CPU second, memory, and ours over each peer's in the same round."""
    lines = speed_table(record["results"], "tokens/CPU s")
    for name, share in (record["packing"] or {}).items():
        lines.append(f"places of rows of {BLOCK:,} that hold a token, {name}: {100 * share:.1f} %")
    return [*lines, *target_lines(record["targets"])]
