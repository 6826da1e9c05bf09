"""Muon: momentum, made orthogonal, as the update of a matrix (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

A gradient's matrix has a few large singular values and many small ones: a step along it changes a few directions only.
Muon replaces them all by about 1, so that each direction learns at the same rate. AdamW does something like it number
by number; Muon does it to the matrix as a whole.

Five rounds of matrix products do not lift the smallest values to 1. With even rows the rows, one for each output of the
matrix, are made equally long before (MuonEq: Chang et al. 2026, arXiv 2603.28254, variant R), so that outputs whose
gradient is small learn as well. On characters that is better, on the demo's words worse (docs/LOG.md).
"""

import math
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

import onednn
from parallel import own_share

# a, b, c of a x + b x^3 + c x^5, applied to each singular value x five times: it is steep at 0 (a = 3.4445), and takes
# what lies between 0.01 and 1 to between 0.7 and 1.2 (Jordan et al. 2024).
COEFFICIENTS = [(3.4445, -4.7750, 2.0315)] * 5
SMALLEST_NORM = 1e-7  # a matrix of zeros is divided by this, and stays one
SMALLEST_ROW = 1e-15  # likewise of a row; far below any gradient, and its square is a float32
UPDATE_RMS = 0.2  # root mean square of AdamW's updates (Liu et al. 2025, arXiv 2502.16982, 2.2)

# Matrices of one shape are multiplied together, up to so many numbers: small ones leave a device idle one by one, and
# of large ones a few at a time bound the memory.
STACK_NUMBERS = 1 << 24


def orthogonalise(matrices: Tensor) -> Tensor:
    """U V' of each matrix U S V', roughly: singular values from 0.7 to 1.2. (n, R, C), which stays as it is.

    Newton-Schulz: with X = U S V', a X + b (X X') X + c (X X')^2 X is U (a S + b S^3 + c S^5) V', so that matrix
    products alone change the singular values, and leave U and V as they are. Computed in the dtype that they have.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    X = matrices.mT if tall else matrices  # X X' is the smaller one of the two products

    norms = torch.linalg.matrix_norm(X, keepdim=True)  # at least the largest singular value: all are then at most 1
    X = X / norms.clamp(min=SMALLEST_NORM)
    for a, b, c in COEFFICIENTS:
        gram = onednn.products(X, X.mT)
        polynomial = onednn.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b X X' + c (X X')^2
        X = onednn.baddbmm(X, polynomial, X, beta=a)
    return X.mT if tall else X


def row_lengths(matrices: Tensor) -> Tensor:
    """The length of each row of (n, R, C), (n, R, 1); never 0, so that one can divide by it."""
    lengths = torch.linalg.vector_norm(matrices, dim=2, keepdim=True)
    return lengths.clamp(min=SMALLEST_ROW)


class Muon(torch.optim.Optimizer):
    """Updates of matrices (R, C): momentum with Nesterov's look ahead, made orthogonal, as large as AdamW's.

    Weight decay is decoupled. Without even rows the numbers are those of torch.optim.Muon with
    adjust_lr_fn="match_rms_adamw", and so is the state; but matrices of one shape are multiplied together, in `dtype`,
    and FSDP may divide them.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        dtype: torch.dtype,
        *,
        momentum: float = 0.95,
        has_even_rows: bool = False,
    ):
        """groups: dictionaries of params and weight_decay; dtype: of the products (float64 matrices keep theirs).

        has_even_rows: the rows of what is made orthogonal are equally long.
        """
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0})
        self.dtype = dtype
        self.has_even_rows = has_even_rows

    @torch.no_grad()
    def step(self, finite: Tensor) -> None:
        """Update all matrices that have a gradient, where `finite`, a bool scalar on their device, is True.

        Where it is False nothing changes, whatever the gradients are. The host does not wait to know which.
        """
        for group in self.param_groups:
            for matrices in alike(group["params"]):
                self._update(matrices, group, finite)

    def _update(self, matrices: list[Tensor], group: dict, finite: Tensor) -> None:
        """Update matrices of one shape: of divided ones this process' rows."""
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)

        weights = [own_share(matrix) for matrix in matrices]
        gradients = [own_share(matrix.grad) for matrix in matrices]
        momenta = [own_share(self.state[matrix]["momentum_buffer"]) for matrix in matrices]

        # Of a step that is skipped the gradient is taken to be the momentum, which then stays as it is.
        gradients = [torch.where(finite, *pair) for pair in zip(gradients, momenta, strict=True)]

        # Momentum, and the gradient on the way to where it leads
        keep = group["momentum"]
        torch._foreach_lerp_(momenta, gradients, 1 - keep)
        directions = torch._foreach_lerp(gradients, momenta, keep)

        # Rows of one length
        stack = torch.stack(directions)  # (n, R, C); of divided matrices this process' rows, which are whole
        if self.has_even_rows:
            stack /= row_lengths(stack)

        # Orthogonal, in `dtype`
        wide = weights[0].dtype
        stack = stack.to(wide if wide == torch.float64 else self.dtype)
        first = matrices[0]
        if isinstance(first, DTensor):
            updates = orthogonalise_divided(list(stack), first)
        else:
            updates = list(orthogonalise(stack))
        updates = [update.to(wide) for update in updates]

        # An orthogonal (R, C) has min(R, C) ones among its R C numbers' squares: its rms is 1 / sqrt(max(R, C))
        size = UPDATE_RMS * math.sqrt(max(first.shape))
        rate = group["lr"]
        left = torch.full_like(finite, 1 - rate * group["weight_decay"], dtype=wide)  # of the weights, after decay
        torch._foreach_mul_(weights, left.masked_fill(~finite, 1))
        updates = [torch.where(finite, update, 0) for update in updates]
        torch._foreach_add_(weights, updates, alpha=-rate * size)


def alike(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Those with a gradient, in lists of one shape that have at most STACK_NUMBERS numbers, or are a single one."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_shape.setdefault(parameter.shape, []).append(parameter)

    for shape, matrices in by_shape.items():
        count = max(1, STACK_NUMBERS // shape.numel())
        for begin in range(0, len(matrices), count):
            yield matrices[begin : begin + count]


# --- matrices that FSDP divides ---


def orthogonalise_divided(shares: list[Tensor], matrix: DTensor) -> list[Tensor]:
    """This process' rows of each matrix, made orthogonal as a whole; shares: its rows before, matrix: one of the shape.

    In each turn every process collects the rows of one matrix, makes it orthogonal, and sends the rows back. Five
    matrices of two processes take three turns:

        turn         0    1    2
        process 0    A    C    E
        process 1    B    D    -

    So each has one whole matrix at a time, and each matrix is computed once.
    """
    mesh = matrix.device_mesh
    updates = []
    for begin in range(0, len(shares), mesh.size()):
        updates += take_turn(shares[begin : begin + mesh.size()], matrix)
    return updates


def take_turn(shares: list[Tensor], matrix: DTensor) -> list[Tensor]:
    """One turn: the first process makes the first matrix orthogonal, and so on; there may be fewer of them."""
    mesh = matrix.device_mesh
    R, C = matrix.shape
    has_matrix = mesh.get_local_rank() < len(shares)

    # How many numbers this process has for each, and how many of its own matrix the others have
    numbers_of_a_share = shares[0].numel()
    for_others = [numbers_of_a_share if rank < len(shares) else 0 for rank in range(mesh.size())]
    from_others = [rows * C if has_matrix else 0 for rows in rows_of_processes(R, mesh.size())]

    collected = exchange(torch.cat(shares).flatten(), for_others, from_others, mesh)
    if has_matrix:
        collected = orthogonalise(collected.view(1, R, C)).flatten()
    returned = exchange(collected, from_others, for_others, mesh)
    return list(returned.view(len(shares), -1, C).unbind())


def rows_of_processes(R: int, size: int) -> list[int]:
    """How many of R rows each process has, as torch.chunk divides them: 5 rows of 4 processes are 2, 2, 1, 0."""
    most = math.ceil(R / size)
    return [max(0, min(most, R - rank * most)) for rank in range(size)]


def exchange(numbers: Tensor, for_others: list[int], from_others: list[int], mesh: dist.DeviceMesh) -> Tensor:
    """Send each process its part of `numbers`, one after the other; returns what they sent, in the order of ranks."""
    received = numbers.new_empty(sum(from_others))
    dist.all_to_all_single(received, numbers, from_others, for_others, group=mesh.get_group())
    return received
