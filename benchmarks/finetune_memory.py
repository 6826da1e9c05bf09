"""How much memory a step of fine-tuning takes on a GPU, computed: which model fits on which card, and how.

    python benchmarks/finetune_memory.py          the table of docs/finetuning.md

Weights, gradients and AdamW's two moments are counted by the parameter. What the forward pass keeps for the backward
pass is counted in a real one: two small models that differ by a block run on the CPU under bfloat16 autocast, and each
tensor that autograd saves is added up. The rest, as the loss' chunk of logits, follows from its sizes.
Nothing here was measured on a GPU: its allocator takes 5 to 10 % more, so a tenth of the card is left free.
"""

import contextlib
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import cpu_ops
import lora
import model
from benchmarks.bench_finetune import SMOLLM2_135M
from model import Llama, ModelConfig, on_meta

GB = 2**30
USABLE = 0.9  # of a card
CARDS_GB = (12, 24, 80)
T = 64  # tokens that are tried
RANK = 16
ADAPTERS = lora.LoraSettings(RANK, 2 * RANK, lora.MATRICES)

MODELS = {
    "SmolLM2-135M": SMOLLM2_135M,
    "SmolLM2-360M": ModelConfig(
        vocab_size=49152, n_layer=32, n_head=15, n_kv_head=5, n_embd=960, ffn_hidden=2560, block_size=2048
    ),
    "Qwen3-0.6B": ModelConfig(
        vocab_size=151936,
        n_layer=28,
        n_head=16,
        n_kv_head=8,
        n_embd=1024,
        ffn_hidden=3072,
        head_dim=128,
        qk_norm=True,
        block_size=2048,
    ),
    "TinyLlama-1.1B": ModelConfig(
        vocab_size=32000,
        n_layer=22,
        n_head=32,
        n_kv_head=4,
        n_embd=2048,
        ffn_hidden=5632,
        tie_embeddings=False,
        block_size=2048,
    ),
    "SmolLM2-1.7B": ModelConfig(
        vocab_size=49152, n_layer=24, n_head=32, n_kv_head=32, n_embd=2048, ffn_hidden=8192, block_size=2048
    ),
    "Llama-3.1-8B": ModelConfig(
        vocab_size=128256,
        n_layer=32,
        n_head=32,
        n_kv_head=8,
        n_embd=4096,
        ffn_hidden=14336,
        tie_embeddings=False,
        block_size=2048,
    ),
}


# --- what a forward pass keeps ---


class AttentionOfAGpu(torch.autograd.Function):
    """What FlashAttention keeps for its backward pass, and no arithmetic."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (B, H, T, D); k, v: (B, Hkv, T, D). Returns (B, H, T, D)."""
        halves = [x.bfloat16() for x in (q, k, v, q)]  # the last for the output
        logsumexp = q.new_empty(q.shape[:-1])  # (B, H, T)
        ctx.save_for_backward(*halves, logsumexp)
        return q.clone()


def attend_like_a_gpu(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """In the place of torch's attention."""
    return AttentionOfAGpu.apply(q, k, v)


class NormOfAGpu(torch.autograd.Function):
    """What torch's RMSNorm keeps for its backward pass on a GPU, and no arithmetic."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x: (..., width) float32. Returns its shape in `dtype`."""
        scale = x.new_empty(x.shape[:-1])
        ctx.save_for_backward(x, scale)
        return x.to(dtype, copy=True)


def norm_like_a_gpu(norm: model.RMSNorm, x: Tensor) -> Tensor:
    """In the place of RMSNorm.forward."""
    return NormOfAGpu.apply(x.to(model.at_least_float32(x.dtype)), model.product_dtype(x))


def bytes_saved(shape: ModelConfig, with_lora: bool) -> int:
    """Bytes that a forward pass over T tokens keeps for the backward pass, but parameters."""
    llama = Llama(shape)
    if with_lora:
        lora.add_adapters(llama, ADAPTERS)
        lora.narrow_frozen(llama, torch.bfloat16)
    own = {parameter.untyped_storage().data_ptr() for parameter in llama.parameters()}

    saved: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = tensor  # held, so that no other tensor gets its place
        return tensor

    ids = torch.zeros(1, T, dtype=torch.int64)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(cpu_ops, "available", lambda: False))
        stack.enter_context(mock.patch.object(model.RMSNorm, "forward", norm_like_a_gpu))
        stack.enter_context(mock.patch.object(model.F, "scaled_dot_product_attention", attend_like_a_gpu))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        x = llama.model(ids)
    del x
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def bytes_per_token(shape: ModelConfig, with_lora: bool) -> float:
    """Bytes that one block keeps for one token: what a second block adds."""
    small = dataclasses.replace(shape, vocab_size=64, tie_embeddings=True)
    one = bytes_saved(dataclasses.replace(small, n_layer=1), with_lora)
    two = bytes_saved(dataclasses.replace(small, n_layer=2), with_lora)
    rounded_weights = 0
    if not with_lora:
        # autocast keeps a bfloat16 copy of each matrix until the backward pass is done; it does not grow with T
        with torch.device("meta"):
            block = model.Block(small, 0)
        rounded_weights = 2 * sum(parameter.numel() for parameter in block.parameters() if parameter.dim() == 2)
    return (two - one - rounded_weights) / T


# --- the whole step ---


@dataclass(frozen=True)
class Memory:
    """Bytes of a step, computed."""

    fixed: float  # weights, gradients, moments, rounded copies, the loss' chunk
    per_token: float  # of a micro-batch
    per_token_recomputed: float  # with --recompute=True

    def tokens(self, card_gb: float, recompute: bool) -> int:
        """Tokens of a micro-batch that fit; below 0: not even the model fits."""
        left = USABLE * card_gb * GB - self.fixed
        per_token = self.per_token_recomputed if recompute else self.per_token
        return int(left / per_token)


def memory_of(shape: ModelConfig, with_lora: bool) -> Memory:
    """The memory of fine-tuning a model in bfloat16 autocast, all its weights or LoRA of rank 16 on all matrices."""
    llama = on_meta(shape)
    blocks = sum(parameter.numel() for parameter in llama.model.layers.parameters() if parameter.dim() == 2)
    if with_lora:
        lora.add_adapters(llama, ADAPTERS)
        lora.narrow_frozen(llama, torch.bfloat16)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in llama.parameters())
    trained = llama.num_parameters(trainable=True)
    gradients_and_moments = 3 * 4 * trained
    rounded = 0 if with_lora else 2 * blocks

    # The loss: the head rounded, a chunk of rows of logits, twice in float32 and once rounded, and the sum of gradients
    V, C = shape.vocab_size, shape.n_embd
    rows = model.chunk_rows(V, C, wants_weight=not with_lora)
    loss = 2 * V * C + rows * V * (4 + 4 + 2)
    if not with_lora:
        loss += 4 * V * C

    fixed = weights + gradients_and_moments + rounded + loss
    block = bytes_per_token(shape, with_lora)
    ends = 4 * C * 4  # the stream before and after the last norm, and its gradients
    kept_of_a_block = 4 * C  # its input
    recomputed = shape.n_layer * kept_of_a_block + 2 * block + ends
    return Memory(fixed, shape.n_layer * block + 2 * block + ends, recomputed)


def cell(memory: Memory, card_gb: float) -> str:
    """Tokens of a micro-batch, rounded down to 256, and whether blocks must be computed again; at most 64 x 1024."""
    for recompute in (False, True):
        tokens = min(memory.tokens(card_gb, recompute) // 256 * 256, 65536)
        if tokens >= 2048 or (recompute and tokens >= 256):
            return f"{tokens:,}" + (" r" if recompute else "")
    return "-"


def main() -> None:
    """Print the table."""
    print("| model | trained | fixed | " + " | ".join(f"{card} GB" for card in CARDS_GB) + " |")
    print("|---|---|---|" + "---|" * len(CARDS_GB))
    for name, shape in MODELS.items():
        for with_lora in (False, True):
            memory = memory_of(shape, with_lora)
            what = "LoRA" if with_lora else "all"
            cells = [cell(memory, card) for card in CARDS_GB]
            print(f"| {name} | {what} | {memory.fixed / GB:.1f} GB | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
