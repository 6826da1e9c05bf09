"""torch.compile: when --compile=auto takes it, and what happens where it cannot work.

Compiling takes time before the first step, and makes every step faster. On a GPU it always pays. On a CPU it needs a
C++ compiler, and a run that is long enough.

With --cuda_graphs torch also records what a compiled pass launches on a GPU, and then launches all of it at once: a
small model waits for the host between launches otherwise.
"""

from dataclasses import dataclass
from typing import Literal

import torch

import native

Setting = Literal["auto"] | bool  # of --compile

# On a CPU a long run is one of so many seconds. Compiling takes a minute of one core or less. With two threads it saved
# a fifth of a step's time at 0.8M parameters and a sixth at 1.3M in bfloat16, an eighth at 0.8M in float32; with one
# thread, or at 10.65M, next to nothing (AMD EPYC, docs/LOG.md).
LONG_RUN_S = 15 * 60

# What a thread computes in a second of eager training, for the estimate of a run's length: in formats of 16 bits (with
# AVX-512's bf16, at 0.8M to 10.65M parameters, 1.1e11 to 1.7e11) and in float32 (AVX2, 0.8M: 5e10; 1.3M, Muon: 3e10).
FLOPS_PER_THREAD_16 = 1e11
FLOPS_PER_THREAD_32 = 4e10


@dataclass(frozen=True)
class Choice:
    """Whether a run is compiled, and why, in words."""

    on: bool
    why: str


def choose(
    setting: Setting,
    before: bool | None,
    flops: float,
    device: torch.device,
    dtype: torch.dtype,
    packed: bool,
    divided: bool,
) -> Choice:
    """What --compile means for a run.

    before: whether the run that is resumed was compiled, None for a new one: the bits of its results hang on it. flops:
    of the whole run, in this process. dtype: of products. packed: rows hold documents, whose number differs from batch
    to batch. divided: by FSDP.
    """
    if setting != "auto":
        return Choice(setting, f"--compile={setting}")
    if before is not None:
        return Choice(before, "as before it was resumed")
    if packed:
        return Choice(False, "packed rows differ in shape from batch to batch")
    if device.type == "cuda":
        return Choice(True, "on a GPU")
    if device.type != "cpu" or divided:
        return Choice(False, f"{device.type}{', fsdp' if divided else ''}")

    flops_per_thread = FLOPS_PER_THREAD_16 if dtype.itemsize == 2 else FLOPS_PER_THREAD_32
    seconds = flops / (flops_per_thread * torch.get_num_threads())
    if seconds < LONG_RUN_S:
        return Choice(False, f"a run of about {seconds / 60:.0f} minutes is too short")
    if not has_cpp_compiler():
        return Choice(False, "there is no C++ compiler")
    return Choice(True, f"a run of about {seconds / 3600:.1f} hours")


def check_cuda_graphs(device: torch.device, setting: Setting, packed: bool, divided: bool) -> None:
    """Raise ValueError where --cuda_graphs cannot work; the arguments are those of `choose`."""
    wrong = None
    if device.type != "cuda":
        wrong = f"is for a GPU, and this run is on {device.type}"
    elif setting is False:
        wrong = "replays compiled passes, and --compile=False has none"
    elif packed:
        wrong = "needs batches of one shape, and the packed rows of conversations differ"
    elif divided:
        wrong = "cannot be had with --parallel=fsdp, which gathers each block within a pass"
    if wrong is not None:
        raise ValueError(f"--cuda_graphs=True {wrong}; leave it out")


def for_training(model: torch.nn.Module, packed: bool, cuda_graphs: bool) -> torch.nn.Module:
    """torch.compile of the model, its passes as CUDA graphs where they are wanted.

    Windows of text have one shape. torch would take it for one of many, and make slower code, once the last batch of an
    evaluation has been smaller; packed rows do differ.
    """
    dynamic = None if packed else False  # None: torch finds out
    return torch.compile(model, dynamic=dynamic, mode="reduce-overhead" if cuda_graphs else None)


def has_cpp_compiler() -> bool:
    """Whether there is a C++ compiler for torch.compile on a CPU."""
    return native.find_compiler() is not None


def compiler_error(device: torch.device) -> str | None:
    """What torch.compile says where it cannot compile a small function and its gradient here, a line; None: it can."""

    def function(x: torch.Tensor) -> torch.Tensor:
        return (2 * x).sin().sum()

    x = torch.ones(64, device=device, requires_grad=True)
    try:
        torch.compile(function)(x).backward()
    except Exception as error:  # of the compiler, of the linker, of Triton, of an unsupported Python: all end in eager
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"{lines[0]:.200}"
    return None
