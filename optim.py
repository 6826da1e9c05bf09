"""The optimizer and its schedule: AdamW, or Muon for the matrices of the blocks and AdamW for the rest.

Muon (muon.py) amplifies rounding: its update divides a matrix by its singular values, the smallest of which are noise.
Runs of one and of two processes, which differ in the order of sums alone, have weights that differ by 9e-3 after 30
steps.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch

from device import pick_dtype
from model import Llama
from muon import Muon


class OptimizerSettings(Protocol):
    """What is read here of the settings of a run; train.py's TrainConfig has it."""

    optimizer: str  # adamw or muon
    learning_rate: float  # AdamW's, at its peak
    muon_lr: float  # Muon's, at its peak
    muon_even_rows: bool  # MuonEq
    min_lr: float  # at the end of the decay
    warmup_iters: int  # steps of linear increase from 0
    max_iters: int  # steps of the run
    lr_decay_iters: int | None  # step at which min_lr is reached; None: max_iters
    schedule: str  # a key of SCHEDULES
    decay_iters: int  # wsd: steps of the decay
    weight_decay: float
    beta1: float
    beta2: float
    dtype: str  # of matrix products, Muon's too unless it is float16


# --- schedules: the shape of the decay, 1 at the peak and 0 at the end ---


def decay_end(cfg: OptimizerSettings) -> int:
    """The step at which the decay ends."""
    return cfg.max_iters if cfg.lr_decay_iters is None else cfg.lr_decay_iters


def progress(step: int, begin: int, end: int) -> float:
    """How much of the way from `begin` to `end` is done: 0 before, 1 after."""
    return min(1.0, max(0, step - begin) / max(1, end - begin))


def linear(step: int, cfg: OptimizerSettings) -> float:
    """Evenly down from the end of the warm-up."""
    return 1 - progress(step, cfg.warmup_iters, decay_end(cfg))


def cosine(step: int, cfg: OptimizerSettings) -> float:
    """Half a cosine wave from the end of the warm-up (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5)."""
    return 0.5 * (1 + math.cos(math.pi * progress(step, cfg.warmup_iters, decay_end(cfg))))


def wsd(step: int, cfg: OptimizerSettings) -> float:
    """Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): the peak until the last decay_iters steps.

    A run that has more steps than it began with decays at its new end.
    """
    begin = max(cfg.warmup_iters, decay_end(cfg) - cfg.decay_iters)
    return 1 - progress(step, begin, decay_end(cfg))


Schedule = Callable[[int, OptimizerSettings], float]
SCHEDULES: dict[str, Schedule] = {"linear": linear, "cosine": cosine, "wsd": wsd}


def learning_rate(step: int, cfg: OptimizerSettings) -> float:
    """AdamW's rate in the update that makes step `step` + 1: linear warm-up, then cfg.schedule down to min_lr."""
    if step < cfg.warmup_iters:
        return cfg.learning_rate * (step + 1) / cfg.warmup_iters
    height = SCHEDULES[cfg.schedule](step, cfg)
    return cfg.min_lr + height * (cfg.learning_rate - cfg.min_lr)


# --- the optimizer ---


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), with Muon (Jordan et al. 2024) for the blocks' matrices
    when cfg.optimizer says so: its update is scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982, 2.2), its rate
    is cfg.muon_lr at the peak of the same schedule.

    Attributes, as torch's optimizers have them: param_groups; state, parameter -> its moments.
    """

    def __init__(self, model: Llama, cfg: OptimizerSettings, device: torch.device):
        matrices, others = model.parameter_groups(cfg.weight_decay)
        adamw_groups = [others] if cfg.optimizer == "muon" else [matrices, others]
        betas = (cfg.beta1, cfg.beta2)
        fused = device.type != "mps"
        adamw = torch.optim.AdamW(adamw_groups, lr=cfg.learning_rate, betas=betas, fused=fused)
        self.parts: list[torch.optim.Optimizer] = [adamw]
        self.scales = [1.0]  # of each part's rate, in AdamW's

        if cfg.optimizer == "muon":
            dtype = pick_dtype(cfg.dtype, device)
            if dtype == torch.float16:
                dtype = torch.float32  # float16 ends at 6e-8, where many numbers of a gradient are
            muon = Muon([matrices], lr=cfg.muon_lr, dtype=dtype, has_even_rows=cfg.muon_even_rows)
            self.parts.append(muon)
            self.scales.append(cfg.muon_lr / cfg.learning_rate)

        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = adamw.state
        for part in self.parts:
            part.state = self.state  # one for all: its keys are parameters
        self.keeps_gradients = False

    def keep_gradients(self) -> None:
        """From now on each gradient stays where it is, and is 0 between steps, instead of an array that comes and goes.

        A CUDA graph writes its gradients to the same place each time. Where a parameter has none yet, autograd takes
        that array itself for the sum, and the next micro-batch overwrites it: torch 2.1 then counted one micro-batch of
        four (github.com/pytorch/pytorch/issues/96693), later versions raise (169545). To an array that is there it
        adds.
        """
        self.keeps_gradients = True
        for parameter in self._parameters():
            parameter.grad = torch.zeros_like(parameter)

    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _clear_gradients(self) -> None:
        if self.keeps_gradients:
            torch._foreach_zero_([parameter.grad for parameter in self._parameters()])
            return
        for parameter in self._parameters():
            parameter.grad = None

    def step(self, rate: float, finite: torch.Tensor) -> None:
        """Update the parameters at AdamW's rate `rate`, unless `finite`, a bool scalar, is False. Clears the gradients.

        Muon and the fused AdamW decide that on the device; AdamW on MPS waits for the answer.
        """
        for part, scale in zip(self.parts, self.scales, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * scale

            if isinstance(part, Muon):
                part.step(finite)
            elif part.defaults.get("fused"):
                part.grad_scale = None  # these two attributes are how torch.amp.GradScaler has a step skipped
                part.found_inf = (~finite).float()
                part.step()
            elif finite:
                part.step()
        self._clear_gradients()
