"""What the loop trains on: rows of tokens on the host, and the batch of tensors that they become.

mixture.py says which rows; packing.py and shards.py make them.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from shards import IGNORE


@dataclass(frozen=True)
class Batch:
    """What one forward-backward pass is given: tensors by name, and the number of things that its loss is a sum over.

    Each kind of batch is a subclass that names its tensors.
    """

    count: int  # scored tokens, or pairs; counted on the host, so that nobody waits for the device

    def pinned(self) -> Self:
        """The batch in memory that the system never moves, from which a CUDA device copies by itself."""
        return self._map(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> Self:
        """The batch with its tensors on `device`. The host does not wait for the copy of a pinned batch."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The batch with each tensor changed."""
        changed = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                changed[field.name] = change(value)
        return dataclasses.replace(self, **changed)


class ReadAhead:
    """What each step needs, read by a thread while the loop computes the step before.

    read(step) must follow from the step alone: then nothing depends on how far the thread is, and a run that stops and
    goes on reads the same. stop: the step that is no longer read. The device is the thread's, which pins memory for it.
    """

    def __init__(self, read: Callable[[int], Any], stop: int, device: torch.device):
        self.read = read
        self.stop = stop
        self.thread = ThreadPoolExecutor(1, "read-ahead", initializer=use_device, initargs=(device,))
        self.coming: tuple[int, Future] | None = None  # the step that is being read

    def take(self, step: int) -> Any:
        """read(step); the next step's is begun. An error of the thread is raised here, in the step that it is of."""
        if self.coming is None or self.coming[0] != step:
            self._begin(step)
        _, future = self.coming
        result = future.result()

        self.coming = None
        if step + 1 < self.stop:
            self._begin(step + 1)
        return result

    def _begin(self, step: int) -> None:
        self.coming = step, self.thread.submit(self.read, step)

    def close(self) -> None:
        """End the thread."""
        self.thread.shutdown(cancel_futures=True)


def use_device(device: torch.device) -> None:
    """The CUDA device of a thread; a new one would begin with the first of the machine."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


@dataclass(frozen=True)
class TokenBatch(Batch):
    """Rows of tokens: each target is the token that follows its input."""

    inputs: torch.Tensor  # (B, T) int64 ids
    targets: torch.Tensor  # (B, T) int64 ids, IGNORE where nothing is scored
    cu_seqlens: torch.Tensor | None = None  # (n + 1,) int32: model.Documents, for packed rows; None: one a row
    scored: torch.Tensor | None = None  # (count,) int64: places of the scored targets in the B * T; None: all are


@dataclass(frozen=True)
class TokenRows:
    """Training rows on the host, int64 (B, T) each."""

    inputs: np.ndarray  # ids
    targets: np.ndarray  # ids, IGNORE where nothing is scored
    positions: np.ndarray | None = None  # of each token in its document; None: one document a row, from 0 on

    @classmethod
    def windows(cls, tokens: np.ndarray) -> Self:
        """The rows of text windows (B, T + 1), which are not copied."""
        return cls(tokens[:, :-1], tokens[:, 1:])

    @classmethod
    def empty(cls, B: int, T: int) -> Self:
        """Rows of one document each, in which nothing is scored."""
        inputs = np.zeros((B, T), np.int64)
        targets = np.full((B, T), IGNORE, np.int64)
        positions = np.tile(np.arange(T), (B, 1))
        return cls(inputs, targets, positions)

    @classmethod
    def merge(cls, parts: list[tuple[np.ndarray, Self]]) -> Self:
        """One set of rows out of several: each part says which places (B_part,) of the result its rows take."""
        B = sum(len(places) for places, _ in parts)
        T = parts[0][1].inputs.shape[1]
        inputs = np.empty((B, T), np.int64)
        targets = np.empty((B, T), np.int64)
        positions = np.empty((B, T), np.int64)
        for places, rows in parts:
            inputs[places] = rows.inputs
            targets[places] = rows.targets
            positions[places] = np.arange(T) if rows.positions is None else rows.positions

        packed = any(rows.positions is not None for _, rows in parts)
        return cls(inputs, targets, positions if packed else None)

    def batch(self) -> TokenBatch:
        """What the model is trained on: tensors, of which inputs and targets share the arrays' memory."""
        places = np.flatnonzero(self.targets != IGNORE)  # found on the host: nobody waits for the device
        count = len(places)
        scored = torch.from_numpy(places) if count < self.targets.size else None

        cu_seqlens = None
        if self.positions is not None:
            # positions 0 1 2 3 0 1 | 0 1 2 3 4 5: documents begin at 0, 4 and 6, and the last ends at 12
            begins = np.flatnonzero(self.positions == 0)
            cu_seqlens = torch.from_numpy(np.append(begins, self.positions.size).astype(np.int32))
        return TokenBatch(count, torch.from_numpy(self.inputs), torch.from_numpy(self.targets), cu_seqlens, scored)
