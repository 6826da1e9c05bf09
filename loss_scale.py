"""The factor that keeps small gradients alive in float16, of which bfloat16 and float32 have no need.

float16 ends at 6e-8: the gradient of a mean over thousands of tokens has many numbers below. So the loss is multiplied
by a large factor before its gradients are computed, and they are divided by it afterwards, in float32 (Micikevicius et
al. 2018, arXiv 1710.03740, 3.2). Where the factor makes a gradient infinite the step is skipped, and the factor halved;
after many good steps it is doubled. It is a power of two, so that nothing is rounded by it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from parallel import own_share

FIRST = 2.0**16  # factor of the first step
LARGEST = 2.0**24
GROWTH_STEPS = 2000  # good steps in a row, after which it is doubled


class LossScale:
    """The factor of a run, and the good steps since it last changed: scalars on the device, which no step waits for."""

    def __init__(self, device: torch.device):
        self.factor = torch.full((), FIRST, device=device)
        self.good_steps = torch.zeros((), device=device)

    def apply(self, loss: Tensor) -> Tensor:
        """The loss whose gradients are computed."""
        return loss * self.factor

    def remove(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Divide the gradients by the factor, in place."""
        grads = [own_share(parameter.grad) for parameter in parameters if parameter.grad is not None]
        if grads:
            torch._foreach_mul_(grads, 1 / self.factor)

    def update(self, finite: Tensor) -> None:
        """After a step. finite: a bool scalar, whether it was taken."""
        self.good_steps = (self.good_steps + 1) * finite
        grows = self.good_steps >= GROWTH_STEPS
        change = torch.where(finite, 1.0 + grows, 0.5)
        self.factor = (self.factor * change).clamp(1.0, LARGEST)
        self.good_steps = self.good_steps * ~grows

    def state(self) -> dict[str, float]:
        """For a checkpoint, JSON's types."""
        return {"factor": self.factor.item(), "good_steps": self.good_steps.item()}

    def load(self, state: dict[str, float]) -> None:
        """Go on from state()."""
        self.factor.fill_(state["factor"])
        self.good_steps.fill_(state["good_steps"])
