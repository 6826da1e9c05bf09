"""Parts of bench.py: train (an optimizer step) and sample (generated tokens), next to what a user would pick instead.

A part is a function from the settings of bench.py to a Part, whose variants are timed in one process.
"""

import ctypes
import dataclasses
import functools
import importlib
import itertools
import math
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

from benchmarks import bench_peers
from benchmarks.bench_config import BenchConfig
from benchmarks.bench_figures import need
from benchmarks.bench_peers import Parameters, compare_parameters, count_parameters
from device import (
    M_MMAP_MAX,
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    keep_freed_memory,
    pick_device,
    pick_dtype,
    weight_dtype,
)
from hf_config import hf_config
from model import Llama, ModelConfig
from sample import generate

OURS = "NonLlama"  # the name of our variant
NEW_TOKENS, PROMPT_TOKENS = 256, 32  # of a text in the part sample
MEMORY_CALLS = 3  # the first allocates gradients and optimizer state, the others show what a steady state adds
CHECK_STEPS = 3  # optimizer steps whose losses must agree before anything is timed
# Largest relative difference of the first of these losses, and of those after a step: AdamW makes a whole step of a
# gradient that is nothing but rounding. float32 is what decides: there 1e-6 was measured on a CPU, where GELU for SiLU
# gives 2e-4 or more, RoPE of another base 2e-3, norm_eps 1e-4 for 1e-5 gives 4e-5. Rounding to bfloat16 moves the
# losses of both sides by 1.5e-3 and 6e-3 at size 124m, where transformers rounds the logits too.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 5e-3, torch.float16: 5e-3}
LATER_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}


class Size(NamedTuple):
    """The shape of a model, and the windows in a batch of the part train."""

    shape: ModelConfig
    batch_size: int


SIZES = {
    # that of config/demo.py
    "small": Size(
        ModelConfig(vocab_size=4096, block_size=128, n_layer=4, n_head=4, n_kv_head=2, n_embd=128, ffn_hidden=384), 12
    ),
    # 10.7M: that of nanoGPT on characters
    "10m": Size(
        ModelConfig(vocab_size=128, block_size=256, n_layer=6, n_head=6, n_kv_head=3, n_embd=384, ffn_hidden=1152), 16
    ),
    # those of nanoGPT on characters, in its README for a CPU and for a GPU, with as many parameters to 1 %
    "0.8m": Size(
        ModelConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_kv_head=2, n_embd=128, ffn_hidden=388), 12
    ),
    "10.6m": Size(
        ModelConfig(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_kv_head=3, n_embd=384, ffn_hidden=1160), 16
    ),
    # that of GPT-2's smallest; so few tokens that a step ends on a CPU: --batch=8x1024 on a GPU
    "124m": Size(
        ModelConfig(vocab_size=50304, block_size=256, n_layer=12, n_head=12, n_kv_head=12, n_embd=768, ffn_hidden=2048),
        2,
    ),
}


BeforeTurn = Callable[[str, Callable[[], Any]], None]  # (name of the variant, what is timed): makes ready for it


def nothing(name: str, call: Callable[[], Any]) -> None:
    """Nothing is to be made ready."""


@dataclass(frozen=True)
class Part:
    """What is compared: ours first, then the peers. The first peer is the 1.00 of the ratios."""

    variants: dict[str, Callable[[], Callable[[], Any]]]  # name -> builds a callable that does one unit of work
    title: str  # one unit of work, for the reader
    unit: str  # what the rate counts, e.g. tokens
    units_per_call: int
    check: Callable[[dict[str, Callable[[], Any]]], str]  # given what was built: the agreement in words, or ValueError
    memory_calls: int = MEMORY_CALLS
    before_turn: BeforeTurn = nothing


def adamw(model: torch.nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """As train.py has it; it goes by Hugging Face's names, so that it is the same for both."""
    groups = Llama.parameter_groups(model, weight_decay=0.1)
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=device.type != "mps")


def optimizer_step(
    model: torch.nn.Module,
    loss_of: Callable,
    batches: Iterable[torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    optimizer: torch.optim.Optimizer | None = None,
    max_norm: float | None = 1.0,
) -> Callable[..., torch.Tensor]:
    """A callable that takes the next batch, (B, T + 1) ids in memory, and one step as train.py does; returns the loss.

    loss_of(x, y): the mean loss in nats per token of inputs and targets, (B, T) each. dtype: of the matrix products,
    unless the call says another. optimizer: None: train.py's. max_norm: None: gradients are not clipped.
    """
    optimizer = optimizer or adamw(model, device)
    source = itertools.cycle(batches)

    def step(dtype: torch.dtype = dtype) -> torch.Tensor:
        tokens = next(source).to(device, non_blocking=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def same_losses(variants: dict[str, Callable[..., torch.Tensor]], dtype: torch.dtype) -> str:
    """Take CHECK_STEPS optimizer steps with each variant, in float32 and then in `dtype` if it is another.

    Raises ValueError when their first losses differ by more than TOLERANCE, or later ones by more than LATER_TOLERANCE.
    """
    agreements = []
    for kind in dict.fromkeys((torch.float32, dtype)):
        losses = first_losses(variants, kind)
        ours, *peers = losses.values()
        differences = [[abs(a / b - 1) for a, b in zip(ours, peer, strict=True)] for peer in peers]
        firsts = [first for first, *_ in differences]
        laters = [difference for _, *later in differences for difference in later]
        same_first = all(difference <= TOLERANCE[kind] for difference in firsts)  # a NaN is not
        same_later = all(difference <= LATER_TOLERANCE[kind] for difference in laters)
        if not (same_first and same_later):
            raise ValueError(f"the variants do not compute the same; losses of {CHECK_STEPS} steps in {kind}: {losses}")
        name = str(kind).removeprefix("torch.")
        largest = max(firsts + laters)
        tolerances = f"{TOLERANCE[kind]:.0e}, then {LATER_TOLERANCE[kind]:.0e}"
        agreements.append(f"{largest:.0e} in {name} (tolerance {tolerances})")
    return f"losses of {CHECK_STEPS} steps agree to " + ", ".join(agreements)


def first_losses(variants: dict[str, Callable[..., torch.Tensor]], dtype: torch.dtype) -> dict[str, list[float]]:
    """The losses of the next CHECK_STEPS steps of each variant, without TF32: its rounding would hide differences."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    losses = {}
    for name, step in variants.items():
        losses[name] = [step(dtype).item() for _ in range(CHECK_STEPS)]
    torch.set_float32_matmul_precision(precision)
    return losses


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


def size_of(cfg: BenchConfig) -> Size:
    """The shape and batch that --size and --batch name. Raises ValueError for a batch that is none."""
    shape, batch_size = SIZES[cfg.size]
    if not cfg.batch:
        return Size(shape, batch_size)
    windows, _, tokens = cfg.batch.partition("x")
    if not (windows.isdecimal() and tokens.isdecimal() and int(windows) and int(tokens)):
        raise ValueError(f"batch ({cfg.batch}) must be windows x tokens, such as --batch=2x256")
    return Size(dataclasses.replace(shape, block_size=int(tokens)), int(windows))


class Training:
    """What the variants of the part train share, and how each is built: a callable that takes one optimizer step."""

    def __init__(self, cfg: BenchConfig):
        self.cfg = cfg
        self.device = pick_device(cfg.device)
        keep_freed_memory(self.device, same_sizes=True)  # as train.py does
        self.dtype = pick_dtype(cfg.dtype, self.device)  # of matrix products
        self.shape, self.batch_size = size_of(cfg)
        self.counts: dict[str, Parameters] = {}  # of what has been built

        random = torch.Generator().manual_seed(0)
        size = (8, self.batch_size, self.shape.block_size + 1)
        self.batches = torch.randint(self.shape.vocab_size, size, generator=random)
        if self.device.type == "cuda":
            self.batches = self.batches.pin_memory()

    def called(self, name: str, model: torch.nn.Module) -> torch.nn.Module:
        """What a step calls of a model."""
        self.counts[name] = count_parameters(model)
        return torch.compile(model) if self.cfg.compile else model

    def ours(self) -> Callable[[], torch.Tensor]:
        """Our model with fused AdamW."""
        model = start(self.shape).to(self.device)
        call = self.called(OURS, model)
        return optimizer_step(model, lambda x, y: call(x, y) / y.numel(), self.batches, self.device, self.dtype)

    def transformers(self) -> Callable[[], torch.Tensor]:
        """transformers' Llama with the same weights and optimizer."""
        library = need("transformers")
        config = library.LlamaConfig(**hf_config(self.shape, 0), use_cache=False)
        model = library.LlamaForCausalLM(config)
        model.load_state_dict(start(self.shape).state_dict())
        model.to(self.device).train()
        call = self.called("transformers", model)

        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            # shift_labels: targets that are shifted already, so that both score the same B * T tokens
            return call(x, labels=y, shift_labels=y.contiguous()).loss

        return optimizer_step(model, loss_of, self.batches, self.device, self.dtype)

    def checkout(self, row: bench_peers.Row) -> Callable[[], torch.Tensor]:
        """A peer with weights and an optimizer of its own."""
        torch.manual_seed(0)
        trainer = row.build(self.shape)
        model = trainer.model.to(self.device).train()
        call = self.called(row.name, model)

        def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return trainer.loss_of(call, x, y)

        dtype = row.dtype if row.autocast else torch.float32
        own = (trainer.optimizer, trainer.max_norm)
        return optimizer_step(model, loss_of, self.batches, self.device, dtype, *own)


def as_its_script(name: str, call: Callable[[], Any]) -> None:
    """Freed memory is kept for our step, and for the others handed back as by default; then a step, to get used to it.

    glibc takes arrays above a threshold from the system one by one, and gives the end of its heap back where twice as
    much is free. 32 MB is the highest threshold that its own rule arrives at: below it the others would lose more.
    """
    if name == OURS:
        keep_freed_memory(torch.device("cpu"), same_sizes=True)
    else:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 65536)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)
    call()


def train_part(cfg: BenchConfig) -> Part:
    """One full optimizer step: batch from memory, forward, backward, clipping, optimizer, zero_grad.

    Ours and transformers' have the same weights and fused AdamW. Peers that are checkouts (bench_peers.py) have weights
    and optimizers of their own: of them it is checked that they have as many parameters and learn.
    """
    need("transformers")
    importlib.import_module("torch._dynamo")  # 75 MB that the first optimizer imports: not the memory of a variant
    training = Training(cfg)
    shape, batch_size, dtype = training.shape, training.batch_size, training.dtype
    if training.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # as train.py does, for all

    variants = {OURS: training.ours, f"transformers {version('transformers')}": training.transformers}
    own_mathematics = list(variants)  # these two compute the same
    for row in bench_peers.rows(cfg, dtype):
        variants[row.name] = functools.partial(training.checkout, row)

    def check(built: dict[str, Callable[..., torch.Tensor]]) -> str:
        agreement = same_losses({name: built[name] for name in own_mathematics}, dtype)
        others = {name: step for name, step in built.items() if name not in own_mathematics}
        if not others:
            return agreement
        return f"{agreement}; {all_learn(others, shape.vocab_size)}; {compare_parameters(training.counts)}"

    name = str(dtype).removeprefix("torch.")
    compiled = ", compiled" if cfg.compile else ""
    on_glibc = training.device.type == "cpu" and platform.libc_ver()[0] == "glibc"
    apart = cfg.kept_memory == "ours" and on_glibc
    return Part(
        variants=variants,
        title=f"one optimizer step, {batch_size} x {shape.block_size} tokens, size {cfg.size}, {name}{compiled}"
        + (", freed memory kept for ours alone" if apart else ""),
        unit="tokens",
        units_per_call=batch_size * shape.block_size,
        check=check,
        before_turn=as_its_script if apart else nothing,
    )


def all_learn(steps: dict[str, Callable[..., torch.Tensor]], vocab_size: int) -> str:
    """Take CHECK_STEPS steps with each. Raises ValueError where the first loss is not that of a guess, or the last not
    finite: a model that does not compute or is not trained would be fast.
    """
    for name, step in steps.items():
        first, *_, last = (step().item() for _ in range(CHECK_STEPS))
        guess = math.log(vocab_size)
        if not abs(first / guess - 1) < 0.2 or not math.isfinite(last) or last == first:
            raise ValueError(f"{name} is not trained: its losses are {first} and {last}, a guess has {guess:.3f}")
    return "the others begin at the loss of a guess and change"


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
    first tokens of every text must be the same.
    """
    ours, *peers = (call().cpu() for call in variants.values())
    agree = min(int((ours == peer).cummin(1).values.sum(1).min()) for peer in peers)
    if agree < 16:
        raise ValueError(f"the variants do not compute the same: only {agree} greedy tokens are equal")
    return f"at least the first {agree} of {ours.shape[1]} greedy tokens of every text are equal"


def sample_part(cfg: BenchConfig, size: str, batch_size: int) -> Part:
    """Greedy generation of NEW_TOKENS tokens after a prompt of PROMPT_TOKENS, for a batch of texts."""
    transformers = need("transformers")
    device = pick_device(cfg.device)
    dtype = weight_dtype(cfg.dtype, device)
    shape = dataclasses.replace(SIZES[size].shape, block_size=1024)
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
        built = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(shape, 0)))
        built.load_state_dict(start(shape).state_dict())
        built.to(device, dtype).eval()
        options = {
            "attention_mask": torch.ones_like(prompts),
            "max_new_tokens": NEW_TOKENS,
            "do_sample": False,
            "eos_token_id": None,  # it never ends early
            "pad_token_id": 0,
        }
        return lambda: built.generate(prompts, **options)[:, PROMPT_TOKENS:]

    def plain() -> Callable[[], torch.Tensor]:
        built = model()
        return lambda: uncached(built, prompts, NEW_TOKENS)

    variants = {"NonLlama": ours, f"transformers {version('transformers')} generate": theirs}
    if batch_size == 1:
        variants["without a cache"] = plain
    precision = str(dtype).removeprefix("torch.")
    return Part(
        variants=variants,
        title=f"{NEW_TOKENS} new tokens after {PROMPT_TOKENS}, size {size}, texts at once: {batch_size}, {precision}",
        unit="tokens",
        units_per_call=batch_size * NEW_TOKENS,
        check=same_tokens,
        memory_calls=1,
    )
