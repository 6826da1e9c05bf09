"""Products with a matrix of small integers: kernels.cpp next to the operators that torch has for them.

    OMP_NUM_THREADS=1 python benchmarks/products.py

Of SmolLM2's gate and up together, (3072, 576), sixteen different ones in turn, so that weights come from memory as they
do in a model. Times are of one product, the median of interleaved rounds. What torch's operators give is compared with
the rounded weights first: int8 takes bfloat16 and keeps it as it is, int4 as well; _int_mm takes int8, to which
each row is rounded first, and wants more than 16 rows of it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import kernels
from quantized import QuantizedMatrix, restore, round_matrix, unpack_int4

OUT, IN = 3072, 576
MATRICES = 16
GROUP = 32
INNER_TILES = 2  # what torch's int4 operator wants to know; a CPU does not use it
TOLERANCE = 0.03  # of the largest result: bfloat16, or activations of 8 bits

Product = Callable[[Tensor], Tensor]  # (rows, IN) float32 -> (rows, OUT)


@dataclass(frozen=True)
class ProductsConfig:
    """Settings of `python benchmarks/products.py`."""

    rounds: int = 15  # turns of each product and number of rows


def by_kernels(weight: Tensor, bits: int) -> tuple[Product, Tensor]:
    """Ours, and the weights that it stands for."""
    pieces = round_matrix(weight, bits, GROUP)
    matrix = QuantizedMatrix(OUT, IN, bits, GROUP)
    matrix.fill(pieces)
    return matrix.multiply, restore(pieces)


def by_torch_int8(weight: Tensor) -> tuple[Product, Tensor]:
    """_weight_int8pack_mm."""
    pieces = round_matrix(weight, 8, GROUP)
    scale = pieces["weight_scale"].bfloat16()
    q = pieces["weight_int8"]
    return lambda x: torch._weight_int8pack_mm(x.bfloat16(), q, scale), restore(pieces)


def by_torch_int4(weight: Tensor) -> tuple[Product, Tensor]:
    """_weight_int4pack_mm_for_cpu, which reads weights as (q - 8) * scale + middle."""
    pieces = round_matrix(weight, 4, GROUP)
    q = unpack_int4(pieces["weight_int4"])  # (OUT, IN)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), INNER_TILES)

    scale = pieces["weight_scale"].float()  # (OUT, groups)
    middle = pieces["weight_min"].float() + 8 * scale
    scales = torch.stack((scale, middle), dim=2).transpose(0, 1).contiguous().bfloat16()  # (groups, OUT, 2)

    def product(x: Tensor) -> Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), packed, GROUP, scales)

    return product, restore(pieces)


def by_torch_int_mm(weight: Tensor) -> tuple[Product, Tensor]:
    """_int_mm: integers times integers."""
    pieces = round_matrix(weight, 8, GROUP)
    turned = pieces["weight_int8"].t().contiguous()
    scale = pieces["weight_scale"]

    def product(x: Tensor) -> Tensor:
        x_scale = x.abs().amax(1, keepdim=True) / 127
        q = (x / x_scale).round_().to(torch.int8)
        return torch._int_mm(q, turned).float() * x_scale * scale

    return product, restore(pieces)


def by_float(weight: Tensor) -> tuple[Product, Tensor]:
    """The product of the weights as they are."""
    return lambda x: x @ weight.t(), weight


KINDS: dict[str, tuple[Callable[[Tensor], tuple[Product, Tensor]], range]] = {  # and the numbers of rows that it takes
    "float32 by torch": (by_float, range(1, 1000)),
    "int8 by kernels.cpp": (lambda weight: by_kernels(weight, 8), range(1, 1000)),
    "int4 by kernels.cpp": (lambda weight: by_kernels(weight, 4), range(1, 1000)),
    "_weight_int8pack_mm, bfloat16": (by_torch_int8, range(1, 1000)),
    "_weight_int4pack_mm_for_cpu, bfloat16": (by_torch_int4, range(1, 1000)),
    "_int_mm, int8 with int8": (by_torch_int_mm, range(17, 1000)),
}
ROWS = (1, 4, 8, 32)


def checked(name: str, product: Product, weight: Tensor) -> None:
    """Raise ValueError unless a product is that of the weights."""
    x = torch.randn(32, IN)
    exact = x @ weight.t()
    difference = ((product(x).float() - exact).abs().max() / exact.abs().max()).item()
    if not difference < TOLERANCE:
        raise ValueError(f"{name} does not compute the product: {difference:.3f} of the largest result off")


@torch.inference_mode()
def main(cfg: ProductsConfig) -> None:
    """Check, time in turns, print."""
    if kernels.library() is None:
        raise ValueError("kernels.cpp is not compiled; install g++")
    torch.manual_seed(0)
    weights = [0.02 * torch.randn(OUT, IN) for _ in range(MATRICES)]
    products: dict[str, list[Product]] = {}
    for name, (build, _) in KINDS.items():
        built = [build(weight) for weight in weights]
        checked(name, *built[0])
        products[name] = [product for product, _ in built]

    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(cfg.rounds):
        for rows in ROWS:
            x = torch.randn(rows, IN)
            for name, (_, fitting) in KINDS.items():
                if rows in fitting:
                    begin_s = time.perf_counter()
                    for product in products[name]:
                        product(x)
                    times.setdefault((name, rows), []).append((time.perf_counter() - begin_s) / MATRICES)

    heads = "".join(f"{rows:>4} rows" for rows in ROWS)
    print(f"microseconds of a product, ({OUT}, {IN}), {torch.get_num_threads()} threads\n{'':38}{heads}")
    for name in KINDS:
        cells = [times.get((name, rows)) for rows in ROWS]
        shown = "".join(f"{'-':>9}" if cell is None else f"{1e6 * statistics.median(cell):9,.0f}" for cell in cells)
        print(f"{name:38}{shown}")


if __name__ == "__main__":
    configurator.run(main, ProductsConfig)
