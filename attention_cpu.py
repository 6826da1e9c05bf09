"""Causal attention with rotary positions on a CPU, as operators of torch: attention_cpu.cpp says how it is computed.

    y = attention_cpu.attention(q, k, v, cos, sin, begins)       where attention_cpu.suits(q)

torch.compile, FLOP counting and autograd know the operators by what is registered below.
"""

import ctypes

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

import native

SOURCE = "attention_cpu.cpp"
DTYPES = (torch.float32, torch.bfloat16)


def suits(q: Tensor) -> bool:
    """Whether queries (..., D) are for this file: on a CPU, in one of its dtypes, and there is a compiler."""
    if q.device.type != "cpu" or q.dtype not in DTYPES or q.shape[-1] % 2:
        return False
    return available()


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether attention_cpu.cpp is compiled, or can be."""
    return native.library(SOURCE) is not None


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
    """Call a function of attention_cpu.cpp; task: q, k, v, cos, sin, begins."""
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


# --- what torch has to know ---


@forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of the results."""
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:-1], dtype=torch.float32)


@backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes and dtypes of the results."""
    shape_of = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v)]
    return tuple(shape_of)


def keep(ctx, inputs: tuple, output: tuple) -> None:
    """What the gradient needs."""
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def gradient(ctx, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
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
