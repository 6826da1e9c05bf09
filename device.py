"""The device that a program runs on: which one, in which number format, how fast it is, how full it may get."""

import contextlib
import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from errors import one_line

# What torch's errors say when memory is full: on a CPU, on CUDA and MPS, and for more bytes than int64 counts.
OUT_OF_MEMORY_SIGNS = ("allocate memory", "out of memory", "Storage size calculation overflowed")
# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
CGROUP = Path("/sys/fs/cgroup")  # where Linux tells a container its limits
# Of dense matrix products in bfloat16, by a part of the device's name: the makers' data sheets. The first that fits
# counts, so "H100 PCIe" stands before "H100".
PEAK_TFLOPS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


def pick_device(name: str) -> torch.device:
    """'auto' is cuda when there is one, else cpu. Raises ValueError for a device this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    with one_line(f"--device={name} cannot be used here: ", RuntimeError, AssertionError):
        device = torch.empty(0, device=name).device
    if device.type == "meta":
        raise ValueError("--device=meta holds shapes and no numbers; choose cpu, cuda or mps")
    return device


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Raise ValueError, in one line that ends with `advice`, for any error that says that the memory is full.

    In a process that torchrun started, only process 0 of a machine says it in one line; the others raise RuntimeError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        first_line = (str(error) or "the host has no more").splitlines()[0]
        known = any(sign in first_line for sign in OUT_OF_MEMORY_SIGNS)
        if not known and not isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            raise
        kind = ValueError if os.environ.get("LOCAL_RANK", "0") == "0" else RuntimeError
        raise kind(f"out of memory: {first_line:.200}; {advice}") from None


def weight_dtype(name: str, device: torch.device) -> torch.dtype:
    """Of weights and cache: 'auto' is bfloat16 on CUDA, else float32."""
    usual = "bfloat16" if device.type == "cuda" else "float32"
    return getattr(torch, usual if name == "auto" else name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 on a device that multiplies it in hardware; float16 on GPUs that have that alone; else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        has_tensor_cores = torch.cuda.get_device_capability(device) >= (7, 0)  # Volta and Turing: V100, T4
        return torch.float16 if has_tensor_cores else torch.float32
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        if features.get("avx512_bf16") or features.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


def peak_flops(device: torch.device) -> float | None:
    """What the device could do in a second, None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for part, tflops in PEAK_TFLOPS.items():
        if part in name:
            return tflops * 1e12
    return None


def keep_freed_memory(device: torch.device, same_sizes: bool) -> None:
    """Have this process keep the memory that it frees, for the next time it needs as much. On a CPU, with Linux' glibc.

    A training step needs and frees the same arrays again and again. By default glibc gives the end of its heap back to
    the system when 64 MB of it are free, takes arrays above 32 MB from the system one by one, and the system clears
    every page anew: 4 % of the time of a small model's step, 12 % with the head of GPT-2 (docs/LOG.md).

    same_sizes: whether the next step needs arrays of the same sizes. If not, those above 32 MB stay out of the heap:
    each would leave a hole that the next one does not fit into.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    if same_sizes:
        libc.mallopt(M_MMAP_MAX, 0)  # all arrays are part of the heap
    else:
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # what glibc arrives at by itself; setting one fixes the other
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def free_memory() -> int | None:
    """Bytes that programs can still have without swapping; None where the system does not say (not Linux).

    In a container the smaller of the machine's and what its own limit leaves.
    """
    found = []
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="utf-8") as lines:
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):  # no such limit is no file, or the word max
        limit = int(CGROUP.joinpath("memory.max").read_text())
        used = int(CGROUP.joinpath("memory.current").read_text())
        found.append(max(0, limit - used))
    return min(found, default=None)


def peak_memory(device: torch.device) -> str:
    """The most memory that this process has had, on its device or else on the host."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB on the GPU of process 0"
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{peak / 1e6:,.0f} MB of process 0"
