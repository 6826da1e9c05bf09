"""kernels.cpp for Python: products with few rows, and blocks for one new token, called with torch's tensors.

    w = kernels.int8_matrix(rows, columns, packed, scales)
    y = kernels.multiply(w, x)                              # x: (..., columns) float32 -> (..., rows)

Without a C++ compiler `library()` is None, with a note: torch then computes the same numbers more slowly (native.py).
"""

import ctypes
import functools

import torch
from torch import Tensor

import native

SOURCE = "kernels.cpp"

FLOAT32, BFLOAT16, INT8, INT4 = range(4)  # kinds of matrices
OCTET = 8  # rows of a matrix that stand together
GROUP = 32  # numbers of x that share a scale


class Matrix(ctypes.Structure):
    """A matrix as kernels.cpp sees it. Holds addresses: its tensors must outlive it."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("weights", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minimums", ctypes.c_void_p),
    ]


class Block(ctypes.Structure):
    """A block of the decoder as kernels.cpp sees it. Holds addresses: its tensors must outlive it."""

    _fields_ = [
        ("qkv", Matrix),
        ("o", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("input_norm", ctypes.c_void_p),
        ("output_norm", ctypes.c_void_p),
        ("qkv_bias", ctypes.c_void_p),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("H", ctypes.c_int64),
        ("Hkv", ctypes.c_int64),
        ("D", ctypes.c_int64),
        ("eps", ctypes.c_float),
    ]


POINTER = ctypes.c_void_p
NUMBER = ctypes.c_int64
ARGUMENTS = {
    "multiply": [ctypes.POINTER(Matrix), POINTER, NUMBER, POINTER, NUMBER],
    "block_input": [ctypes.POINTER(Block), POINTER, NUMBER, NUMBER, *[POINTER] * 2, NUMBER, *[POINTER] * 3, NUMBER],
    "block_output": [ctypes.POINTER(Block), POINTER, POINTER, NUMBER, POINTER, NUMBER],
    "one_token": [POINTER, NUMBER, POINTER, NUMBER, *[POINTER] * 2, NUMBER, *[POINTER] * 3, *[NUMBER] * 3],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, with a note on standard error, where they cannot be compiled."""
    return native.functions(SOURCE, ARGUMENTS)


# --- matrices ---


def float_matrix(weight: Tensor) -> Matrix:
    """weight: (rows, columns) float32 or bfloat16, contiguous."""
    assert weight.is_contiguous(), weight.stride()
    kind = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}[weight.dtype]
    return Matrix(kind, *weight.shape, 0, weight.data_ptr(), None, None)


def integer_matrix(
    rows: int, columns: int, packed: Tensor, scales: Tensor, minimums: Tensor | None = None, group: int = 0
) -> Matrix:
    """packed, scales, minimums: as quantized.py packs them; with minimums it is int4."""
    assert packed.is_contiguous() and scales.is_contiguous(), (packed.stride(), scales.stride())
    kind = INT8 if minimums is None else INT4
    last = None if minimums is None else minimums.data_ptr()
    return Matrix(kind, rows, columns, group, packed.data_ptr(), scales.data_ptr(), last)


# --- calls ---


def multiply(matrix: Matrix, x: Tensor) -> Tensor:
    """x @ matrix.T; x: (..., columns) float32 on the CPU. Returns (..., rows) float32."""
    x = x.contiguous()
    y = x.new_empty((*x.shape[:-1], matrix.rows))
    rows = x.numel() // matrix.columns
    library().multiply(ctypes.byref(matrix), x.data_ptr(), rows, y.data_ptr(), torch.get_num_threads())
    return y
