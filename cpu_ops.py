"""What a model computes on a CPU besides its matrix products; cpu_ops.cpp says how.

    y = cpu_ops.attention(q, k, v, cos, sin, begins)       where cpu_ops.suits(q)
    y = cpu_ops.gated_silu(gate, up)                       where cpu_ops.suits_eager(gate)
    y = cpu_ops.rms_norm(x, gain, eps, dtype)              where cpu_ops.suits_eager(x)
    logprobs = cpu_ops.target_logprobs(logits, targets)    where cpu_ops.takes(logits)
    logprobs, grad = cpu_ops.target_logprobs_with_gradient(logits, targets)         the same

Attention is an operator of torch: torch.compile and FLOP counting know it by what is registered below. The loss is
one under torch.compile only. The other two are functions for eager mode, for torch.compile makes such functions itself.
Without a C++ compiler nothing suits.
"""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

import native

SOURCE = "cpu_ops.cpp"
DTYPES = (torch.float32, torch.bfloat16)

# The functions of cpu_ops.cpp: formats (is it bfloat16?), then sizes and threads, then addresses.
FORMAT, NUMBER, POINTER = ctypes.c_bool, ctypes.c_int64, ctypes.c_void_p
ARGUMENTS = {
    "attention_forward": [FORMAT, *[NUMBER] * 6, *[POINTER] * 8],
    "attention_backward": [FORMAT, *[NUMBER] * 6, *[POINTER] * 12],
    "gated_silu_forward": [FORMAT, *[NUMBER] * 2, *[POINTER] * 3],
    "gated_silu_backward": [FORMAT, *[NUMBER] * 2, *[POINTER] * 5],
    "norm_forward": [FORMAT, FORMAT, NUMBER, NUMBER, ctypes.c_float, NUMBER, *[POINTER] * 4],
    "norm_backward": [FORMAT, FORMAT, *[NUMBER] * 3, *[POINTER] * 6],
    "softmax_loss_and_gradient": [FORMAT, *[NUMBER] * 3, *[POINTER] * 4],
}


# --- where it can be used ---


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None, with a note on standard error, where they cannot be compiled."""
    return native.functions(SOURCE, ARGUMENTS)


def takes(x: Tensor) -> bool:
    """Whether the functions take tensors like x: on a CPU, of one of their dtypes."""
    return x.device.type == "cpu" and x.dtype in DTYPES and available()


def suits(q: Tensor) -> bool:
    """Whether `attention` takes queries (..., D): features come in pairs."""
    return q.shape[-1] % 2 == 0 and takes(q)


def suits_eager(x: Tensor) -> bool:
    """Whether `gated_silu` and `rms_norm` take x."""
    return not torch.compiler.is_compiling() and takes(x)


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether cpu_ops.cpp is compiled, or can be."""
    return library() is not None


# --- what the functions are given ---


def address(x: Tensor) -> int:
    """Where the numbers of a contiguous tensor lie."""
    assert x.is_contiguous(), x.stride()
    return x.data_ptr()


def is_bfloat16(x: Tensor) -> bool:
    """The format of x, as the functions want to know it."""
    return x.dtype == torch.bfloat16


# --- attention ---


def attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D)) v of rotated queries and keys (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    q: (B, T, H, D); k, v: (B, T, Hkv, D), the same dtype, not yet rotated. cos, sin: (T, D) or (B, 1, T, D) float32,
    as model.rope_tables makes them. begins: (n + 1,) integers, where each run of tokens that see each other begins in
    the B * T tokens, and B * T: the rows, or the documents of packed rows. Computed in float32. Returns (B, T, H, D).
    """
    if torch.compiler.is_compiling():
        y, _ = torch.ops.nonllama.attention(q, k, v, cos, sin, begins)
        return y
    return AttentionOnCPU.apply(q, k, v, cos, sin, begins)


class AttentionOnCPU(torch.autograd.Function):
    """`attention` and its gradient in eager mode: the operators below, whose own gradient takes 0.2 ms a call more."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> Tensor:
        """As `attention`."""
        inputs = (q, k, v, cos, sin, begins)
        y, logsumexp = torch.ops.nonllama.attention(*inputs)
        keep(ctx, inputs, (y, logsumexp))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """grad: (B, T, H, D). Returns the gradients of the six arguments."""
        return gradient(ctx, grad, None)


@torch.library.custom_op("nonllama::attention", mutates_args=())
def forward(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """As `attention`; the second result is each token's log-sum-exp of its scores, (B, T, H), for the gradient."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    y = torch.empty_like(q)
    logsumexp = torch.empty(q.shape[:-1], dtype=torch.float32)
    call("attention_forward", [q, k, cos, sin, begins], [q, k, v, y, logsumexp])
    return y, logsumexp


@torch.library.custom_op("nonllama::attention_backward", mutates_args=())
def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    begins: Tensor,
    y: Tensor,
    logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v; grad, y: (B, T, H, D), logsumexp: (B, T, H)."""
    q, k, v, grad = q.contiguous(), k.contiguous(), v.contiguous(), grad.contiguous()
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    call("attention_backward", [q, k, cos, sin, begins], [q, k, v, y, logsumexp, grad, *grads])
    return grads


def call(name: str, task: list[Tensor], arrays: list[Tensor]) -> None:
    """Call a function of cpu_ops.cpp; task: q, k, cos, sin, begins."""
    q, k, cos, sin, begins = task
    H, D = q.shape[2:]
    Hkv = k.shape[2]
    table_rows = cos.numel() // D
    n_segments = len(begins) - 1

    function = getattr(library(), name)
    sizes = (H, Hkv, D, table_rows, n_segments, torch.get_num_threads())
    tables = (cos.contiguous(), sin.contiguous(), begins.to(torch.int64).contiguous())
    function(is_bfloat16(q), *sizes, *map(address, [*tables, *arrays]))


# What torch has to know of the operators.


@forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of the results."""
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:-1], dtype=torch.float32)


@backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes and dtypes of the results."""
    shape_of = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    return tuple(shape_of)


def keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    """What the gradient needs."""
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def gradient(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    """The gradients of attention's six arguments."""
    if grad is None:
        return (None,) * 6
    return *torch.ops.nonllama.attention_backward(grad, *ctx.saved_tensors), None, None, None


forward.register_autograd(gradient, setup_context=keep)


# FLOPs of a model are counted as if all T x T scores were computed, and none twice.


@register_flop_formula(torch.ops.nonllama.attention)
def forward_flops(q: tuple, *rest: tuple, out_shape: tuple | None = None, **kwargs) -> int:
    """Two products: q k', and the probabilities with v."""
    B, T, H, D = q
    return 2 * 2 * B * H * T * T * D


@register_flop_formula(torch.ops.nonllama.attention_backward)
def backward_flops(grad: tuple, *rest: tuple, out_shape: tuple | None = None, **kwargs) -> int:
    """Two products for each of the forward pass."""
    return 2 * forward_flops(grad)


# --- silu(gate) * up ---


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up with silu(x) = x / (1 + exp(-x)), computed in float32; gate, up: (..., F), of one dtype."""
    return GatedSiluOnCPU.apply(gate, up)


class GatedSiluOnCPU(torch.autograd.Function):
    """`gated_silu` and its gradient."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up: (..., F). Returns (..., F)."""
        gate = gate.contiguous()
        up = up.contiguous()
        ctx.save_for_backward(gate, up)

        hidden = torch.empty_like(gate)
        arrays = map(address, [gate, up, hidden])
        library().gated_silu_forward(is_bfloat16(gate), gate.numel(), torch.get_num_threads(), *arrays)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """grad: (..., F). Returns the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        grad = grad.contiguous()

        grad_gate = torch.empty_like(gate)
        grad_up = torch.empty_like(up)
        arrays = map(address, [gate, up, grad, grad_gate, grad_up])
        library().gated_silu_backward(is_bfloat16(gate), gate.numel(), torch.get_num_threads(), *arrays)
        return grad_gate, grad_up


# --- the norm ---


def rms_norm(x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean of x^2 + eps) * gain (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4), computed in float32.

    x: (..., width); gain: (width,) float32; dtype: of the result, float32 or bfloat16.
    """
    return RMSNormOnCPU.apply(x, gain, eps, dtype)


class RMSNormOnCPU(torch.autograd.Function):
    """`rms_norm` and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """x: (..., width). Returns (..., width) in `dtype`."""
        x = x.contiguous()
        gain = gain.contiguous()
        y = torch.empty_like(x, dtype=dtype)
        scales = torch.empty(x.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(x, gain, scales)

        formats = (is_bfloat16(x), is_bfloat16(y))
        sizes = (scales.numel(), x.shape[-1])  # lines, width
        arrays = map(address, [x, gain, y, scales])
        library().norm_forward(*formats, *sizes, eps, torch.get_num_threads(), *arrays)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """grad: (..., width). Returns the gradients of x and gain."""
        x, gain, scales = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_gain = torch.empty_like(gain) if ctx.needs_input_grad[1] else None

        formats = (is_bfloat16(x), is_bfloat16(grad))
        sizes = (scales.numel(), x.shape[-1])  # lines, width
        arrays = map(address, [x, gain, scales, grad, grad_x])
        address_of_gain = None if grad_gain is None else address(grad_gain)
        library().norm_backward(*formats, *sizes, torch.get_num_threads(), *arrays, address_of_gain)
        return grad_x, grad_gain, None, None


# --- the loss, of logits that want no gradient by autograd: model.py asks for it, and carries it on ---


def target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """log p[target] of each row with p = softmax(logits). Returns (rows,) float32.

    logits: (rows, V); targets: (rows,) integers. Raises IndexError for a target that is no column.
    """
    if torch.compiler.is_compiling():
        return torch.ops.nonllama.target_logprobs(logits, targets)
    return softmax_loss(logits, targets, None)


def target_logprobs_with_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As target_logprobs, and the gradient of -log p[target], (rows, V), which may overwrite the logits.

    It is p - (1 at the target, 0 elsewhere), computed in float32 and then rounded to the logits' dtype.
    """
    if torch.compiler.is_compiling():
        return torch.ops.nonllama.target_logprobs_with_gradient(logits, targets)
    logits = logits.contiguous()
    return softmax_loss(logits, targets, logits), logits


def softmax_loss(logits: Tensor, targets: Tensor, grads: Tensor | None) -> Tensor:
    """log p[target] of each row, (rows,); the gradient of -log p[target] is written to grads, which may be logits."""
    rows, V = logits.shape
    assert targets.shape == (rows,), (targets.shape, logits.shape)
    logits = logits.contiguous()
    targets = targets.to(torch.int64).contiguous()
    logprobs = torch.empty(rows, dtype=torch.float32)
    if rows == 0:
        return logprobs

    smallest, largest = (x.item() for x in targets.aminmax())
    if smallest < 0 or largest >= V:
        raise IndexError(f"targets from {smallest} to {largest} for {V} logits")

    sizes = (rows, V)
    arrays = map(address, [logits, targets, logprobs])
    address_of_grads = None if grads is None else address(grads)
    library().softmax_loss_and_gradient(is_bfloat16(logits), *sizes, torch.get_num_threads(), *arrays, address_of_grads)
    return logprobs


@torch.library.custom_op("nonllama::target_logprobs", mutates_args=())
def logprobs_operator(logits: Tensor, targets: Tensor) -> Tensor:
    """As target_logprobs."""
    return softmax_loss(logits, targets, None)


@torch.library.custom_op("nonllama::target_logprobs_with_gradient", mutates_args=())
def gradient_operator(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As target_logprobs_with_gradient; the logits stay."""
    grads = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return softmax_loss(logits, targets, grads), grads


@logprobs_operator.register_fake
def _(logits: Tensor, targets: Tensor) -> Tensor:
    """Shape and dtype of the result."""
    return logits.new_empty(len(logits), dtype=torch.float32)


@gradient_operator.register_fake
def _(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of the results."""
    grads = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return logits.new_empty(len(logits), dtype=torch.float32), grads
