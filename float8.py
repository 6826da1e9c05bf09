"""Matrix products in float8, twice as fast as in bfloat16 on GPUs that have them (Ada, Hopper and later): --float8.

Micikevicius et al. 2022, arXiv 2209.05433: inputs and weights in e4m3, which has 3 bits of mantissa and ends at 448,
gradients in e5m2, which has 2 bits and ends at 57,344. Each tensor is multiplied by a factor first, so that its largest
number is the format's largest; the product is divided by both factors. Weights, sums and all other work stay as they
are. Only the products of training: evaluation and the text that is written use the run's own format.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import Decoder, Linear, product_dtype

FORWARD = torch.float8_e4m3fn
BACKWARD = torch.float8_e5m2
MULTIPLE = 16  # what the sizes of a product must be multiples of
SMALLEST_SCALE = 1e-12  # for a tensor of zeros


def quantize(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in the 8-bit format `kind`, and the float32 scalar that it has to be multiplied by to be x again.

    Example in e4m3: of (1, -2, 0.3) the largest is 2 and the scalar 2/448; 224, -448, 67.2 are rounded to 224, -448, 64
    (from 64 to 128 numbers are 8 apart), which is 1, -2, 0.286.
    """
    largest = torch.finfo(kind).max
    scale = (x.abs().amax().float() / largest).clamp(min=SMALLEST_SCALE)
    scaled = (x / scale).clamp(-largest, largest)  # rounding may pass the end, where e4m3 has NaN
    return scaled.to(kind), scale


def product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """a @ b.T of quantized (M, K) and (N, K), as (M, N) in `dtype`: the hardware wants both with K innermost."""
    a8, a_scale = a
    b8, b_scale = b
    return torch._scaled_mm(a8, b8.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=dtype)


class Float8Product(torch.autograd.Function):
    """x @ weight.T and its two gradients, each a product in float8. What is kept between is 8 bits wide."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """x: (N, in); weight: (out, in). Returns (N, out) in `dtype`."""
        x8, x_scale = quantize(x, FORWARD)
        w8, w_scale = quantize(weight, FORWARD)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.dtypes = x.dtype, weight.dtype
        return product((x8, x_scale), (w8, w_scale), dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """grad: (N, out). Returns the gradients of x and weight."""
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        x_dtype, w_dtype = ctx.dtypes
        g8, g_scale = quantize(grad, BACKWARD)

        w8_turned = w8.t().contiguous()  # (in, out)
        x8_turned = x8.t().contiguous()  # (in, N)
        g8_turned = g8.t().contiguous()  # (out, N)
        grad_x = product((g8, g_scale), (w8_turned, w_scale), x_dtype)  # (N, in)
        grad_weight = product((g8_turned, g_scale), (x8_turned, x_scale), w_dtype)  # (out, in)
        return grad_x, grad_weight, None


class Float8Linear(Linear):
    """A Linear whose products are in float8 where gradients are wanted."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features). Returns (..., out_features)."""
        if not torch.is_grad_enabled():
            return super().forward(x)

        rows = x.flatten(0, -2)  # (N, in)
        if len(rows) % MULTIPLE:
            missing = MULTIPLE - len(rows) % MULTIPLE
            rows = F.pad(rows, (0, 0, 0, missing))
        y = Float8Product.apply(rows, self.weight, product_dtype(x))
        y = y[: x.numel() // self.in_features].view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias.to(y.dtype)


def use_float8(model: Decoder) -> None:
    """Give the matrices of the blocks products in float8. The head and the embedding keep theirs.

    Raises ValueError for a size that the hardware does not multiply.
    """
    for name, module in model.layers.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if module.in_features % MULTIPLE or module.out_features % MULTIPLE:
            sizes = f"{module.out_features} x {module.in_features}"
            raise ValueError(f"--float8 needs sizes that are multiples of {MULTIPLE}, and layers.{name} is {sizes}")
        module.__class__ = Float8Linear


def check_device(device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError where float8 cannot be multiplied. A CPU can, to try it: it gains nothing."""
    if dtype != torch.bfloat16:
        raise ValueError(f"--float8 goes with products in bfloat16, not {dtype}; give --dtype=bfloat16")
    if device.type == "cpu":
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError("--float8 needs an NVIDIA GPU of the Ada or Hopper generation or later; leave it out")
