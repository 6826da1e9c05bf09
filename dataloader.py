"""The sampler for your own DataLoader: a drop-in for torch's DistributedSampler, whose state is one number.

train.py takes its windows from IndexStream itself (mixture.py); this gives the same order to any torch loop.
"""

import operator
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch.distributed as dist
import torch.utils.data

from sampler import ALGO_VERSION, FIRST_BLOCK, N_MAX, IndexStream, mix
from shards import Windows


class WindowDataset(Windows):
    """The training windows as a torch Dataset: dataset[i], and dataset.__getitems__(indices), which a DataLoader takes
    for a whole batch, are those of `epoch`."""

    epoch = 0

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        found = np.asarray(indices, dtype=np.int64)
        if found.size and not (0 <= found.min() and found.max() < len(self)):
            raise IndexError(f"window {found.min()} .. {found.max()} of {len(self)}")
        return self.get(found, np.full(len(found), self.epoch))

    def __getitem__(self, index: int) -> np.ndarray:
        return self.__getitems__([index])[0]


class DistributedStreamSampler(torch.utils.data.Sampler[int]):
    """Indices of one rank; a drop-in for torch's DistributedSampler whose whole state is one global position.

    dataset: anything with a length, a number of samples, or an IndexStream (of several sources the index is the one
    that ConcatDataset gives). num_replicas, rank: from torch.distributed when it is initialised,
    else 1 and 0. Row i = 0, 1, ... holds the positions from start + i * num_replicas on, one for each rank.

    tail: "drop" ends an epoch at its last full row (each epoch drops other samples), "exact" ends with its last
    sample (ranks may differ by one; for evaluation), "stream" runs on across epochs until `total` samples have been
    drawn over all ranks (None: for ever). Mixed sources have no common epoch and take "stream".

    The state is the number of samples that all ranks have drawn together: any number of ranks, batch size or workers
    continues from it. Loader workers draw ahead, so what was trained on is the trainer's to count: state_at(consumed).
    """

    def __init__(
        self,
        dataset: Sized | int | IndexStream,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        tail: str = "drop",
        total: int | None = None,
        block: int = 16384,
    ):
        ready = dist.is_available() and dist.is_initialized()
        self.num_replicas = num_replicas if num_replicas is not None else dist.get_world_size() if ready else 1
        self.rank = rank if rank is not None else dist.get_rank() if ready else 0
        if not 0 <= self.rank < self.num_replicas:
            raise ValueError(f"rank ({self.rank}) must be at least 0 and below num_replicas ({self.num_replicas})")
        if not isinstance(dataset, IndexStream):
            n = dataset if isinstance(dataset, int | np.integer) else len(dataset)
            dataset = IndexStream(n, seed=seed, shuffle=shuffle)
        if tail not in ("drop", "exact", "stream"):
            raise ValueError(f"tail={tail!r} must be 'drop', 'exact' or 'stream'")
        if len(dataset.sizes) > 1 and tail != "stream":
            raise ValueError(f"tail={tail!r}: {len(dataset.sizes)} mixed sources have no common epoch; use 'stream'")
        if total is not None and (tail != "stream" or total < 0):
            raise ValueError(f"total ({total}) goes with tail='stream' and is at least 0")
        if block < 1:
            raise ValueError(f"block ({block}) must be at least 1")
        self.stream, self.tail, self.block = dataset, tail, block
        self.total = N_MAX if total is None else total
        self.first = np.concatenate([[0], np.cumsum(dataset.sizes)])  # index of each source's first sample
        self._position = 0
        self._block: tuple[int, int, Iterator[int]] | None = None  # being yielded: position after it, its end, the rest
        self.loaded = False

    @property
    def position(self) -> int:
        """Samples that all ranks together have drawn, the one that was yielded last among them."""
        if self._block is None:
            return self._position
        after, end, rest = self._block
        return min(after - operator.length_hint(rest) * self.num_replicas, end)

    def _end(self, start: int) -> int:
        """Position at which iteration from `start` ends; N_MAX: never."""
        n = self.stream.sizes[0]
        return self.total if self.tail == "stream" else (start // n + 1) * n

    def _rows(self, start: int) -> int:
        left, W = max(0, self._end(start) - start), self.num_replicas
        return (left + W - 1 - self.rank) // W if self.tail == "exact" else left // W

    def __len__(self) -> int:
        """Samples that this rank has yet to draw: of the current epoch, or of `total`."""
        if self._end(0) == N_MAX:
            raise TypeError("an endless stream has no length; give total=")
        return self._rows(self.position)

    def __iter__(self) -> Iterator[int]:
        return self._draw(self.position)  # a generator: until its first next() nothing changes

    def _draw(self, start: int) -> Iterator[int]:
        W = self.num_replicas
        self.loaded = False
        rows, end = self._rows(start), self._end(start)
        several = len(self.stream.sizes) > 1
        begin, size = 0, min(self.block, FIRST_BLOCK)
        while begin < rows:
            row = np.arange(begin, min(rows, begin + size))
            base = start + row * W
            rank = self.rank
            if several:  # else W = 2 and shares of 1/2 give each rank one source
                rank = (self.rank + mix(base.astype(np.uint64)) % np.uint64(W)).astype(np.int64) % W
            source, index, _ = self.stream.at(base + rank)
            # The position is not counted for each index, which took twice the time of all the rest, but read off the
            # iterator: a list's has moved on before it hands out an item, so whoever asks then has this sample.
            rest = iter((self.first[source] + index if several else index).tolist())
            self._block = (start + (begin + len(row)) * W, end, rest)
            yield from rest
            begin, size = begin + len(row), min(self.block, 2 * size)
        if self.tail != "stream":
            self._position, self._block = end, None  # the next epoch begins, also for a rank that had no sample left

    @property
    def epoch(self) -> int:
        """Passes over the (first) source that are complete."""
        return self.position // self.stream.sizes[0] if len(self.stream.sizes) == 1 else 0

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, as DistributedSampler does. Not needed: epochs follow from the position.

        Just after load_state_dict the epoch that the state is in may be named without losing the place in it.
        """
        if len(self.stream.sizes) > 1:
            raise ValueError("mixed sources have no common epoch; drop set_epoch")
        if not (self.loaded and epoch == self.epoch):
            self.seek(epoch * self.stream.sizes[0])

    def seek(self, position: int) -> None:
        """Continue from a global position, in O(1)."""
        if not 0 <= position < N_MAX:
            raise ValueError(f"position ({position}) must be at least 0 and below 2^62")
        self._position, self._block, self.loaded = int(position), None, False

    def state_dict(self) -> dict[str, Any]:
        """All there is to save: what names the order, and the global position. The same on every rank."""
        return self.state_at(self.position)

    def state_at(self, consumed: int) -> dict[str, Any]:
        """The state after `consumed` samples over all ranks, whatever loader workers have drawn ahead."""
        order = {"algo": ALGO_VERSION, "sizes": self.stream.sizes, "weights": self.stream.counts}
        order |= {key: getattr(self.stream, key) for key in ("seed", "shuffle", "run")}
        return order | {"position": int(consumed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of any number of ranks. Raises ValueError that names the field which differs."""
        for key, own in self.state_dict().items():
            if key not in state:
                raise ValueError(f"the state has no '{key}'")
            if key != "position" and state[key] != own:
                raise ValueError(f"the state has {key}={state[key]}, this sampler {own}: another order of samples")
        if not isinstance(state["position"], int):
            raise ValueError(f"the state has position={state['position']!r}, no whole number")
        self.seek(state["position"])
        self.loaded = True
