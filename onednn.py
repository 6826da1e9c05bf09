"""Matrix products in float32 on a CPU by oneDNN, where torch's own choice, MKL, is the slower of the two.

    y = onednn.linear(x, weight, bias)          where onednn.suits(x, weight): F.linear, with its gradient
    c = onednn.product(a, b)                    a @ b by the faster of the two, for no gradient

torch gives float32 to MKL, which leaves half of an AMD processor with AVX-512 unused: 100 GFLOP/s a core of a Zen 5,
where oneDNN reaches 200 to 250 (docs/LOG.md). Without AVX-512, and on Intel's processors, MKL is as fast or faster.
One exception: for a matrix of 49,152 rows, a head, it needs a third more time.

Both are float32 throughout, and add in another order. With AVX-512 an element by oneDNN is 1 to 2.5 times as far from
the exact one as by MKL, a log-probability twice (of a sentence: 1e-4 nats). Without it, where one feature of the
stream is 24,800, it was 7 times as far: there oneDNN multiplies heads only.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import flop_registry, register_flop_formula

# torch's own operator for a product by oneDNN. Its name is private.
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

FEW_ROWS = 32  # MKL multiplies so many rows of a matrix as fast
WORTH_STARTING = 1 << 21  # multiplications; starting oneDNN takes 8 microseconds more
MANY_ROWS = 8192  # of a matrix, usually a head: there oneDNN is faster on all processors


# --- where it is faster ---


@functools.cache
def leads() -> bool:
    """Whether oneDNN is faster than MKL on this processor, whatever the matrices."""
    features = torch.cpu.get_capabilities()
    is_amd = str(features.get("cpu_name", "")).startswith("AMD")
    return AVAILABLE and is_amd and bool(features.get("avx512_f"))


# torch.compile takes what these two return for constants.


@torch.compiler.assume_constant_result
def leads_here() -> bool:
    """`leads`."""
    return leads()


@torch.compiler.assume_constant_result
def may_be_rounded() -> bool:
    """Whether products in float32 may be computed in a shorter format (torch.set_float32_matmul_precision)."""
    return torch.get_float32_matmul_precision() != "highest"


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes x @ weight.T faster, and as F.linear would; x: (..., in), weight: (out, in)."""
    on_cpu = x.device.type == weight.device.type == "cpu"
    in_float32 = x.dtype == weight.dtype == torch.float32
    if not (AVAILABLE and on_cpu and in_float32):
        return False
    if torch.is_autocast_enabled("cpu") or may_be_rounded():
        return False

    width = x.shape[-1]
    if x.numel() <= FEW_ROWS * width:
        return False
    if leads_here():
        return x.numel() * weight.shape[0] >= WORTH_STARTING
    no_gradient = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return no_gradient and weight.shape[0] >= MANY_ROWS


# --- the products ---


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias; x: (..., in), weight: (out, in), bias: (out,), all float32. Returns (..., out).

    Its gradient has no gradient of its own.
    """
    return LinearByOneDNN.apply(x, weight, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b by oneDNN where it suits, else by torch; a: (R, K), b: (K, C). For no gradient."""
    return multiply(a, b.t()) if suits(a, b.t()) else a @ b


def products(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of each of n pairs, by the faster of the two; a: (n, R, K), b: (n, K, C). Returns (n, R, C)."""
    if not suits_each(a, b):
        return a @ b
    results = a.new_empty(len(a), a.shape[1], b.shape[2])
    for result, first, second in zip(results, a, b.mT, strict=True):
        result.copy_(multiply(first, second))
    return results


def baddbmm(total: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float = 1.0) -> Tensor:
    """beta total + alpha a @ b of each of n, as torch.baddbmm; total: (n, R, C), a: (n, R, K), b: (n, K, C)."""
    if not suits_each(a, b):
        return torch.baddbmm(total, a, b, beta=beta, alpha=alpha)
    return products(a, b).mul_(alpha).add_(total, alpha=beta)


def suits_each(a: Tensor, b: Tensor) -> bool:
    """Whether n products, (n, R, K) by (n, K, C), suit."""
    return len(a) > 0 and suits(a[0], b[0].t())


def multiply(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b.T + bias by oneDNN; a: (..., in), b: (out, in), also as .t() of what lies the other way round."""
    if torch.compiler.is_compiling():
        return torch.ops.nonllama.multiply(a, b, bias)
    nothing_after = ("none", [], "")  # no activation
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, *nothing_after)


class LinearByOneDNN(torch.autograd.Function):
    """`linear`, and its gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x: (..., in). Returns (..., out)."""
        wants_x, wants_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """grad: (..., out). Returns the gradients of x, weight and bias, of those that are wanted."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None

        if wants_x:
            grad_x = multiply(grad, weight.t())  # (..., in)
        grad_rows = grad.flatten(0, -2)  # (rows, out)
        if wants_weight:
            x_rows = x.flatten(0, -2)  # (rows, in)
            grad_weight = multiply(grad_rows.t(), x_rows.t())  # (out, in)
        if wants_bias:
            grad_bias = grad_rows.sum(0)
        return grad_x, grad_weight, grad_bias


# --- for torch.compile, which replaces torch's operator by its own version, and that copies transposed inputs ---


@torch.library.custom_op("nonllama::multiply", mutates_args=())
def operator(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """As `multiply`."""
    return multiply(a, b, bias)


@operator.register_fake
def _(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Shape and dtype of the result."""
    return a.new_empty((*a.shape[:-1], b.shape[0]))


# torch's operator needs the formula as well, unless torch knows one.
COUNTED = [torch.ops.nonllama.multiply]
if AVAILABLE and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    COUNTED.append(torch.ops.mkldnn._linear_pointwise)


@register_flop_formula(COUNTED)
def flops(a: tuple, b: tuple, *rest: Any, out_shape: tuple | None = None, **kwargs: Any) -> int:
    """A multiplication and an addition for each number of a and row of b."""
    return 2 * math.prod(a) * b[0]
