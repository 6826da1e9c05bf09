"""torch.compile: when --compile=auto takes it, and what happens where it cannot work.

Compiling takes time before the first step, and makes every step faster. On a GPU it always pays. On a CPU it needs a
C++ compiler, and a run that is long enough.
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
FLOPS_PER_THREAD = 1e11  # what a thread computes in a second of eager training, for the estimate of a run's length


@dataclass(frozen=True)
class Choice:
    """Whether a run is compiled, and why, in words."""

    on: bool
    why: str


def choose(
    setting: Setting, before: bool | None, flops: float, device: torch.device, packed: bool, divided: bool
) -> Choice:
    """What --compile means for a run.

    before: whether the run that is resumed was compiled, None for a new one: the bits of its results hang on it. flops:
    of the whole run, in this process. packed: rows hold documents, whose number differs from batch to batch. divided:
    by FSDP.
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

    seconds = flops / (FLOPS_PER_THREAD * torch.get_num_threads())
    if seconds < LONG_RUN_S:
        return Choice(False, f"a run of about {seconds / 60:.0f} minutes is too short")
    if not has_cpp_compiler():
        return Choice(False, "there is no C++ compiler")
    return Choice(True, f"a run of about {seconds / 3600:.1f} hours")


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
