"""The optimizer and its schedule: AdamW, or Muon for the matrices of the blocks and AdamW for the rest."""

import math
from typing import Any

import torch

from model import Llama


def learning_rate(step: int, cfg: Any) -> float:
    """AdamW's rate of the update that makes step `step` + 1; cfg: a TrainConfig.

    Linear warm-up; then linear or cosine decay to min_lr, or (wsd, Hu et al. 2024, arXiv 2404.06395) the peak until the
    last decay_iters steps, which are linear: a run that has more steps than it began with decays at its new end.
    """
    if step < cfg.warmup_iters:
        return cfg.learning_rate * (step + 1) / cfg.warmup_iters
    end = cfg.lr_decay_iters if cfg.lr_decay_iters is not None else cfg.max_iters
    begin = max(cfg.warmup_iters, end - cfg.decay_iters) if cfg.schedule == "wsd" else cfg.warmup_iters
    done = min(1.0, max(0, step - begin) / max(1, end - begin))
    left = 0.5 * (1 + math.cos(math.pi * done)) if cfg.schedule == "cosine" else 1 - done
    return cfg.min_lr + left * (cfg.learning_rate - cfg.min_lr)


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), with Muon (Jordan et al. 2024) for the blocks' matrices
    when cfg.optimizer says so: its update is scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982, 2.2), its rate
    is cfg.muon_lr at the peak of the same schedule.
    """

    def __init__(self, model: Llama, cfg: Any, device: torch.device):
        matrices, others = model.parameter_groups(cfg.weight_decay)
        muon, self.scales = cfg.optimizer == "muon", [1.0]
        options = {"lr": cfg.learning_rate, "betas": (cfg.beta1, cfg.beta2), "fused": device.type != "mps"}
        self.parts = [torch.optim.AdamW([others] if muon else [matrices, others], **options)]
        if muon:
            options = {"lr": cfg.muon_lr, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
            self.parts.append(torch.optim.Muon([matrices], **options))
            self.scales.append(cfg.muon_lr / cfg.learning_rate)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = self.parts[0].state
        for part in self.parts:
            part.state = self.state  # one for all: its keys are parameters

    def step(self, rate: float, finite: torch.Tensor) -> None:
        """Update the parameters at AdamW's rate `rate`, unless `finite`, a bool scalar, is False. Clears the gradients.

        The fused AdamW decides that on the device; Muon, and AdamW on MPS, wait for the answer.
        """
        for part, scale in zip(self.parts, self.scales, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * scale
            if part.defaults.get("fused"):
                part.grad_scale, part.found_inf = None, (~finite).float()  # as torch.amp.GradScaler would
                part.step()
            elif finite:
                part.step()
            part.zero_grad(set_to_none=True)
