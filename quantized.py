"""Weights as small integers: how they are rounded, how they lie in files and in memory, and the modules that use them.

quantize.py writes such folders; checkpoint.py reads them. Two formats, both of the weights alone:

    int8    a row of a matrix (an output channel) has a scale:            weight = scale * q,            q from -127 on
    int4    a group of 32 weights of a row has a scale and a minimum:     weight = scale * q + minimum,  q in 0 ... 15

Example, int4 with groups of 4: the weights 0.11 0.25 -0.20 0.40 lie between -0.20 and 0.40. With q = 0 for -0.20 and
q = 15 for 0.40 the scale is 0.60 / 15 = 0.04, q is 8 11 0 15, and the weights are read as 0.12 0.24 -0.20 0.40.

In files a matrix <name>.weight becomes these tensors, row after row, for anyone to read:

    int8    <name>.weight_int8  (out, in) int8        <name>.weight_scale  (out,) float32
    int4    <name>.weight_int4  (out, in / 2) uint8   <name>.weight_scale, <name>.weight_min  (out, in / group) float16
            byte j holds weight 2 j in its low half and weight 2 j + 1 in its high half

config.json says which:

    "quantization_config": {"quant_method": "nonllama", "bits": 4, "group_size": 32, "head_bits": 8}

A product also rounds what it multiplies with: each 32 numbers of x to int8 with one scale, as llama.cpp does. So the
sums are of integers, which a CPU adds fast, and exactly. kernels.cpp does it; without a compiler torch does the same.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from errors import one_line
from kernels import GROUP, OCTET
from model import Linear, Llama

METHOD = "nonllama"  # quant_method in config.json
BITS = (8, 4)
HEAD_BITS = (16, 8, 4)  # 16: embedding and head stay what they are
LARGEST_GROUP = 1 << 15
ROWS_AT_ONCE = 1024  # of a matrix that is rounded: what a large one takes besides stays small

# How much of the range between the smallest and the largest weight of a group is tried for int4. A smaller one rounds
# the extremes more and all others less.
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)

Pieces = dict[str, Tensor]  # what a matrix is in files: end of the name -> tensor


# --- settings ---


@dataclass(frozen=True)
class Scheme:
    """How the matrices of a model are rounded."""

    bits: int  # of the matrices of the blocks: 8 or 4
    group_size: int = GROUP  # int4: weights that share scale and minimum
    head_bits: int = 8  # of embedding and head: 8, 4, or 16 for as they are

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits={self.bits!r:.80} is not implemented here; 8 and 4 are")
        if self.head_bits not in HEAD_BITS:
            raise ValueError(f"head_bits={self.head_bits!r:.80} is not implemented here; 16, 8 and 4 are")
        is_size = type(self.group_size) is int and GROUP <= self.group_size <= LARGEST_GROUP
        if not is_size or self.group_size % GROUP:
            raise ValueError(f"group_size={self.group_size!r:.80} must be a multiple of {GROUP}; try {GROUP}")

    def of(self, name: str) -> int:
        """Bits of the module `name`, such as model.layers.0.mlp.up_proj or lm_head."""
        in_block = name.startswith("model.layers.")
        return self.bits if in_block else self.head_bits

    def check_columns(self, name: str, columns: int) -> None:
        """Raise ValueError when groups do not fit into the rows of a matrix."""
        if self.of(name) == 4 and columns % self.group_size:
            fitting = [size for size in range(GROUP, columns + 1, GROUP) if columns % size == 0]
            advice = f"try --group_size={max(fitting)}" if fitting else "give --bits=8"
            raise ValueError(f"{name} has rows of {columns} weights, not a multiple of {self.group_size}; {advice}")

    def check_model(self, model: Llama) -> None:
        """Raise ValueError when groups do not fit into the rows of a model's matrices."""
        for name, _, columns in quantizable(model):
            self.check_columns(name, columns)

    def as_config(self) -> dict[str, Any]:
        """config.json's quantization_config."""
        return {"quant_method": METHOD, **asdict(self)}

    def __str__(self) -> str:
        if self.bits == 8:
            body = "int8 (a scale a row)"
        else:
            body = f"int4 (groups of {self.group_size})"
        head = "as they were" if self.head_bits == 16 else f"int{self.head_bits}"
        return f"{body}, embedding and head {head}"


def parse_scheme(config: dict[str, Any]) -> Scheme | None:
    """What a config.json says of quantization; None when nothing. Raises ValueError for another program's format."""
    found = config.get("quantization_config")
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found
    if method != METHOD:
        advice = "get the folder of the model before it was quantized, and: python quantize.py"
        raise ValueError(f"quantization_config={found!r:.80} is not implemented here; {advice}")

    fields = {key: value for key, value in found.items() if key != "quant_method"}
    with one_line("quantization_config: ", TypeError, ValueError):
        return Scheme(**fields)


# --- rounding ---


def round_matrix(weight: Tensor, bits: int, group_size: int) -> Pieces:
    """weight: (out, in), any float type. Returns its pieces, a few rows at a time."""
    parts = [round_rows(rows.float(), bits, group_size) for rows in weight.split(ROWS_AT_ONCE)]
    return {end: torch.cat([part.pop(end) for part in parts]) for end in list(parts[0])}


def round_rows(weight: Tensor, bits: int, group_size: int) -> Pieces:
    """weight: (rows, in) float32."""
    if bits == 8:
        return round_to_int8(weight)
    return round_to_int4(weight, group_size)


def round_to_int8(weight: Tensor) -> Pieces:
    """weight: (rows, in) float32."""
    largest = weight.abs().amax(1)  # (rows,)
    scale = largest / 127
    divisor = scale.masked_fill(scale == 0, 1)
    q = (weight / divisor[:, None]).round_().clamp_(-127, 127)
    return {"weight_int8": q.to(torch.int8), "weight_scale": scale}


def round_to_int4(weight: Tensor, group_size: int) -> Pieces:
    """weight: (rows, in) float32. Of several ranges the one with the smallest squared error is taken for each group."""
    groups = weight.unflatten(1, (-1, group_size))  # (rows, G, group)
    least = groups.amin(2)  # (rows, G)
    most = groups.amax(2)
    middle = (least + most) / 2
    half = (most - least) / 2

    best_error = torch.full_like(least, torch.inf)
    best = [torch.zeros_like(least), torch.zeros_like(least), torch.zeros_like(groups)]
    for share in SHARES:
        scale = to_half(2 * half * share / 15)
        minimum = to_half(middle - half * share)
        divisor = scale.masked_fill(scale == 0, 1)
        q = ((groups - minimum[..., None]) / divisor[..., None]).round_().clamp_(0, 15)
        error = (q * scale[..., None] + minimum[..., None] - groups).square_().sum(2)  # (rows, G)

        better = error < best_error
        best_error = torch.where(better, error, best_error)
        for place, value in enumerate((scale, minimum, q)):
            chosen = better[..., None] if value.dim() == 3 else better
            best[place] = torch.where(chosen, value, best[place])

    scale, minimum, q = best
    q = q.flatten(1).to(torch.uint8)  # (rows, in)
    both = q[:, 0::2] | (q[:, 1::2] << 4)  # (rows, in / 2)
    return {"weight_int4": both, "weight_scale": scale.half(), "weight_min": minimum.half()}


def to_half(x: Tensor) -> Tensor:
    """x as float16 holds it, in float32; what is too large for it becomes its largest number."""
    largest = torch.finfo(torch.float16).max
    return x.clamp(-largest, largest).half().float()


def restore(pieces: Pieces) -> Tensor:
    """The weights that the pieces stand for, (out, in) float32."""
    scale = pieces["weight_scale"].float()
    if "weight_int8" in pieces:
        return pieces["weight_int8"].float() * scale[:, None]

    q = unpack_int4(pieces["weight_int4"]).float()  # (out, in)
    groups = q.unflatten(1, (scale.shape[1], -1))  # (out, G, group)
    minimum = pieces["weight_min"].float()
    return (groups * scale[..., None] + minimum[..., None]).flatten(1)


def unpack_int4(both: Tensor) -> Tensor:
    """0 ... 15 of each weight, (out, in) uint8, from two in a byte, (out, in / 2)."""
    return torch.stack((both & 15, both >> 4), dim=2).flatten(1)


def round_activations(x: Tensor) -> Tensor:
    """x as products see it: each 32 numbers, to the last of a row, as multiples of 1/127 of the largest. (..., in)."""
    columns = x.shape[-1]
    groups = F.pad(x, (0, -columns % GROUP)).unflatten(-1, (-1, GROUP))  # (..., G, 32)
    largest = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, 0)
    integers = (groups * inverse).round_()
    return (integers * (largest / 127)).flatten(-2)[..., :columns]


# --- a matrix in memory ---


def piece_shapes(rows: int, columns: int, bits: int, group_size: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of each piece in a file: safetensors' name of its type, and its shape."""
    if bits == 8:
        return {"weight_int8": ("I8", (rows, columns)), "weight_scale": ("F32", (rows,))}
    groups = columns // group_size
    halves = ("F16", (rows, groups))
    return {"weight_int4": ("U8", (rows, columns // 2)), "weight_scale": halves, "weight_min": halves}


class QuantizedMatrix(nn.Module):
    """A matrix (out, in) as kernels.cpp multiplies it, and what torch needs of it.

    Padded with zeros to whole octets of rows, and to 32 columns. Empty until `fill`.
    """

    def __init__(self, rows: int, columns: int, bits: int, group_size: int):
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.bits = bits
        self.group_size = group_size
        self.padded_rows = rows + -rows % OCTET
        self.padded_columns = columns + -columns % GROUP
        for name in ("packed", "scale", "minimum"):
            self.register_buffer(name, None, persistent=False)
        self._as_float: Tensor | None = None

    def fill(self, pieces: Pieces, device: str | torch.device = "cpu") -> None:
        """Take in what a file has, or `round_matrix`."""
        if self.bits == 8:
            q = pieces["weight_int8"]
            self.scale = F.pad(pieces["weight_scale"], (0, self.padded_rows - self.rows)).to(device)
        else:
            both = pieces["weight_int4"]
            q = torch.stack((both & 15, both >> 4), dim=2).flatten(1)
            self.scale = self._by_octets(pieces["weight_scale"]).to(device)
            self.minimum = self._by_octets(pieces["weight_min"]).to(device)

        padding = (0, self.padded_columns - self.columns, 0, self.padded_rows - self.rows)
        self.packed = self._pack(F.pad(q, padding)).to(device)

    def _pack(self, q: Tensor) -> Tensor:
        """(rows, columns), padded, in the layout of kernels.cpp."""
        octets = q.unflatten(0, (-1, OCTET))  # (octets, 8, columns)
        if self.bits == 8:
            fours = octets.unflatten(2, (-1, 4))  # (octets, 8, steps, 4)
            return fours.transpose(1, 2).contiguous()  # (octets, steps, 8, 4)
        eights = octets.unflatten(2, (-1, 2, 4))  # (octets, 8, steps, 2, 4)
        low, high = eights.transpose(1, 2).unbind(3)  # (octets, steps, 8, 4) each
        return (low | (high << 4)).contiguous()

    def _by_octets(self, x: Tensor) -> Tensor:
        """(rows, G) -> (octets, G, 8)."""
        padded = F.pad(x, (0, 0, 0, self.padded_rows - self.rows))
        return padded.unflatten(0, (-1, OCTET)).transpose(1, 2).contiguous()

    def look_up(self, ids: Tensor) -> Tensor:
        """The rows of these numbers, (..., in) float32."""
        octet, place = ids // OCTET, ids % OCTET
        fours = self.packed[octet, :, place]  # (..., steps, 4)
        if self.bits == 8:
            rows = fours.flatten(-2)[..., : self.columns].float()
            return rows * self.scale[ids][..., None]

        q = torch.stack((fours & 15, fours >> 4), dim=-2)  # (..., steps, 2, 4)
        q = q.flatten(-3)[..., : self.columns].float()
        scale = self.scale[octet, :, place].float()  # (..., G)
        minimum = self.minimum[octet, :, place].float()
        groups = q.unflatten(-1, (-1, self.group_size))
        return (groups * scale[..., None] + minimum[..., None]).flatten(-2)

    def restore(self) -> Tensor:
        """All weights, (out, in) float32."""
        return self.look_up(torch.arange(self.rows, device=self.packed.device))

    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def for_kernels(self) -> kernels.Matrix:
        """What kernels.py calls kernels.cpp with."""
        group = self.group_size if self.bits == 4 else 0
        return kernels.integer_matrix(self.rows, self.columns, self.packed, self.scale, self.minimum, group)

    def multiply(self, x: Tensor) -> Tensor:
        """x @ matrix.T in float32, of activations that are rounded; x: (..., in). Returns (..., out).

        On a GPU, or without a C++ compiler, the weights are made floats at the first product, and stay so.
        """
        x = x.float()
        on_cpu = x.device.type == "cpu"
        if on_cpu and kernels.library() is not None:
            return kernels.multiply(self.for_kernels(), x)

        if self._as_float is None or self._as_float.device != x.device:
            self._as_float = self.restore()
        return F.linear(round_activations(x), self._as_float)


def stack(matrices: list[QuantizedMatrix]) -> QuantizedMatrix:
    """One matrix of these, one below the other; each of them must end with a whole octet.

    They become parts of it: nothing is in memory twice.
    """
    first = matrices[0]
    assert not any(matrix.rows % OCTET for matrix in matrices[:-1]), [matrix.rows for matrix in matrices]
    rows = sum(matrix.rows for matrix in matrices)
    together = QuantizedMatrix(rows, first.columns, first.bits, first.group_size)
    for name in ("packed", "scale", "minimum"):
        parts = [getattr(matrix, name) for matrix in matrices]
        if parts[0] is None:
            continue
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        setattr(together, name, whole)
        for matrix, part in zip(matrices, whole.split([len(part) for part in parts]), strict=True):
            setattr(matrix, name, part)
    return together


# --- modules ---


class QuantizedLinear(nn.Module):
    """A Linear of a QuantizedMatrix."""

    def __init__(self, matrix: QuantizedMatrix, bias: nn.Parameter | None = None):
        super().__init__()
        self.matrix = matrix
        self.in_features = matrix.columns
        self.out_features = matrix.rows
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """The weights, (out, in) float32, made anew each time."""
        return self.matrix.restore()

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in). Returns (..., out)."""
        y = self.matrix.multiply(x)
        if self.bias is not None:
            y = y + self.bias.float()
        return y.to(x.dtype)


class QuantizedEmbedding(nn.Module):
    """An Embedding of a QuantizedMatrix: rows are made floats when they are looked up."""

    def __init__(self, matrix: QuantizedMatrix, dtype: torch.dtype):
        super().__init__()
        self.matrix = matrix
        self.dtype = dtype

    @property
    def weight(self) -> Tensor:
        """The weights, (V, C) float32, made anew each time."""
        return self.matrix.restore()

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, T). Returns (B, T, C)."""
        return self.matrix.look_up(ids).to(self.dtype)


def put_quantized(model: Llama, scheme: Scheme, dtype: torch.dtype) -> dict[str, QuantizedMatrix]:
    """Replace the matrices of a model on "meta" by quantized ones, in place. Returns them, empty, by their names.

    dtype: of the stream between blocks. A tied head is the embedding's matrix, and has no name of its own. Raises
    ValueError for groups that do not fit.
    """
    found: dict[str, QuantizedMatrix] = {}
    for name, rows, columns in quantizable(model):
        bits = scheme.of(name)
        scheme.check_columns(name, columns)
        if bits == 16:
            continue
        found[name] = QuantizedMatrix(rows, columns, bits, scheme.group_size)

        parent, _, own_name = name.rpartition(".")
        if own_name == "embed_tokens":
            replacement: nn.Module = QuantizedEmbedding(found[name], dtype)
        else:
            replacement = QuantizedLinear(found[name], model.get_submodule(name).bias)
        setattr(model.get_submodule(parent), own_name, replacement)

    if model.cfg.tie_embeddings and scheme.head_bits != 16:
        model.lm_head = QuantizedLinear(found["model.embed_tokens"])
    return found


def quantizable(model: Llama) -> Iterator[tuple[str, int, int]]:
    """Name, rows and columns of each matrix that can be rounded: those of the blocks, embedding and head."""
    for name, module in list(model.named_modules()):
        is_tied_head = name == "lm_head" and model.cfg.tie_embeddings
        if isinstance(module, (Linear, nn.Embedding)) and not is_tied_head:
            yield name, *module.weight.shape
