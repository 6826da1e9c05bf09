"""What a block computes on a CPU besides its matrix products; cpu_ops.cpp says how.

    y = cpu_ops.attention(q, k, v, cos, sin, begins)       where cpu_ops.suits(q)
    y = cpu_ops.gated_silu(gate, up)                       where cpu_ops.suits_eager(gate)
    y = cpu_ops.rms_norm(x, gain, eps, dtype)              where cpu_ops.suits_eager(x)

Attention is an operator of torch: torch.compile and FLOP counting know it by what is registered below. The other two
are functions for eager mode, for torch.compile makes such functions itself. Without a C++ compiler nothing suits.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

import native

SOURCE = "cpu_ops.cpp"
DTYPES = (torch.float32, torch.bfloat16)


def suits(q: Tensor) -> bool:
    """Whether `attention` takes queries (..., D): on a CPU, of one of its dtypes, in pairs of features."""
    return q.device.type == "cpu" and q.dtype in DTYPES and q.shape[-1] % 2 == 0 and available()


def suits_eager(x: Tensor) -> bool:
    """Whether `gated_silu` and `rms_norm` take x."""
    return x.device.type == "cpu" and x.dtype in DTYPES and not torch.compiler.is_compiling() and available()


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether cpu_ops.cpp is compiled, or can be."""
    return native.library(SOURCE) is not None


# --- attention ---


def attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D)) v of rotated queries and keys (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    q: (B, T, H, D); k, v: (B, T, Hkv, D), the same dtype, not yet rotated. cos, sin: (T, D) or (B, 1, T, D) float32,
    as model.rope_tables makes them. begins: (n + 1,) integers, where each run of tokens that see each other begins in
    the B * T tokens, and B * T: the rows, or the documents of packed rows. Computed in float32. Returns (B, T, H, D).
    """
    y, _ = torch.ops.nonllama.attention(q, k, v, cos, sin, begins)
    return y


@torch.library.custom_op("nonllama::attention", mutates_args=())
def forward(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """As `attention`; the second result is each token's log-sum-exp of its scores, (B, T, H), for the gradient."""
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    y = torch.empty_like(q)
    logsumexp = torch.empty(q.shape[:-1], dtype=torch.float32)
    call("attention_forward", [q, k, v, cos, sin, begins], [q, k, v, y, logsumexp])
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
    call("attention_backward", [q, k, v, cos, sin, begins], [q, k, v, y, logsumexp, grad, *grads])
    return grads


def call(name: str, task: list[Tensor], arrays: list[Tensor]) -> None:
    """Call a function of cpu_ops.cpp; task: q, k, v, cos, sin, begins."""
    q, k, _, cos, sin, begins = task
    H, D = q.shape[2:]
    Hkv = k.shape[2]
    cos, sin = cos.contiguous(), sin.contiguous()
    begins = begins.to(torch.int64).contiguous()

    table_rows = cos.numel() // D
    n_segments = len(begins) - 1
    sizes = (ctypes.c_int64 * 6)(H, Hkv, D, table_rows, n_segments, torch.get_num_threads())
    in_bfloat16 = ctypes.c_bool(q.dtype == torch.bfloat16)

    function = getattr(native.library(SOURCE), name)
    function(in_bfloat16, sizes, *map(address, [cos, sin, begins, *arrays]))


def address(x: Tensor) -> ctypes.c_void_p:
    """Where the numbers of a contiguous tensor lie."""
    assert x.is_contiguous(), x.stride()
    return ctypes.c_void_p(x.data_ptr())


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


class GatedSilu(torch.autograd.Function):
    """`gated_silu` and its gradient."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up: (..., F). Returns (..., F)."""
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        hidden = torch.empty_like(gate)
        function = native.library(SOURCE).gated_silu_forward
        function(*size_of(gate), *map(address, [gate, up, hidden]))
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """grad: (..., F). Returns the gradients of gate and up."""
        gate, up = ctx.saved_tensors
        grad = grad.contiguous()
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        function = native.library(SOURCE).gated_silu_backward
        function(*size_of(gate), *map(address, [gate, up, grad, grad_gate, grad_up]))
        return grad_gate, grad_up


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up with silu(x) = x / (1 + exp(-x)), computed in float32; gate, up: (..., F), of one dtype."""
    return GatedSilu.apply(gate, up)


def size_of(x: Tensor) -> tuple[ctypes.c_bool, ctypes.c_int64, ctypes.c_int64]:
    """Whether x is in bfloat16, how many numbers it has, and the threads that shall compute."""
    in_bfloat16 = ctypes.c_bool(x.dtype == torch.bfloat16)
    return in_bfloat16, ctypes.c_int64(x.numel()), ctypes.c_int64(torch.get_num_threads())


# --- the norm ---


class RMSNorm(torch.autograd.Function):
    """`rms_norm` and its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """x: (..., width). Returns (..., width) in `dtype`."""
        x, gain = x.contiguous(), gain.contiguous()
        y = torch.empty_like(x, dtype=dtype)
        scales = torch.empty(x.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(x, gain, scales)

        lines, width, threads = lines_of(x)
        function = native.library(SOURCE).norm_forward
        arrays = map(address, [x, gain, y, scales])
        function(*formats_of(x, y), lines, width, ctypes.c_float(eps), threads, *arrays)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        """grad: (..., width). Returns the gradients of x and gain."""
        x, gain, scales = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_gain = torch.empty_like(gain) if ctx.needs_input_grad[1] else None

        function = native.library(SOURCE).norm_backward
        arrays = map(address, [x, gain, scales, grad, grad_x])
        gain_address = None if grad_gain is None else address(grad_gain)
        function(*formats_of(x, grad), *lines_of(x), *arrays, gain_address)
        return grad_x, grad_gain, None, None


def rms_norm(x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean of x^2 + eps) * gain (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4), computed in float32.

    x: (..., width); gain: (width,) float32; dtype: of the result, float32 or bfloat16.
    """
    return RMSNorm.apply(x, gain, eps, dtype)


def formats_of(x: Tensor, y: Tensor) -> tuple[ctypes.c_bool, ctypes.c_bool]:
    """Which of the two are in bfloat16."""
    return ctypes.c_bool(x.dtype == torch.bfloat16), ctypes.c_bool(y.dtype == torch.bfloat16)


def lines_of(x: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]:
    """Lines of x, their width, and the threads that shall compute."""
    width = x.shape[-1]
    return ctypes.c_int64(x.numel() // width), ctypes.c_int64(width), ctypes.c_int64(torch.get_num_threads())
