"""Which training window comes next: a keyed permutation with no table, whose whole state is one position.

(sampler.py orders data; sample.py writes text.)

train.py takes its windows from IndexStream (through mixture.py). DistributedStreamSampler gives the same order to any
torch DataLoader: a drop-in for torch's DistributedSampler. Only numpy is needed.

torch's samplers hold the shuffled order of the whole dataset as a Python list on every rank. Here position g has epoch
g // n and index permute(g % n, n, seed, epoch), computed when it is asked for: any position in O(1), nothing stored.
"""

import functools
import math
import operator
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np

ALGO_VERSION = 1  # golden vectors in tests/test_sampler.py freeze the outputs: they are part of the checkpoint format
TABLE_MAX = 1 << 16  # up to here an exact shuffle from a table of at most 512 KiB; 8 rounds are too few below n = 6
ROUNDS = 8  # 4 rounds show at lags of sqrt(n); 6 pass; 8 leave a margin
N_MAX = 1 << 62
FIRST_BLOCK = 256  # indices computed at first; each block is twice the one before, up to `block`
PERIOD = 1 << 16  # positions after which the pattern of a mixture repeats: weights are rounded to parts of it
MASK = (1 << 64) - 1
Shares = Sequence[float] | None
GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment, 2^64 / golden ratio


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea and Flood 2014) on uint64, in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@functools.lru_cache(maxsize=4096)
def hash_key(*values: int) -> int:
    """A 64-bit key that depends on every value and on their order; each is absorbed separately, never added up."""
    key = 0
    for value in values:
        if not 0 <= value <= MASK:
            raise ValueError(f"{value} is outside 0 .. 2^64 - 1, the range of seeds, epochs and sizes")
        key = int(mix(np.array([(key ^ int(value)) + GAMMA & MASK], dtype=np.uint64))[0])
    return key


def _checked(positions: np.ndarray | Sequence[int] | int, end: int) -> np.ndarray:
    """Positions as an array. Raises ValueError for one that is no integer, or outside range(end)."""
    x = np.asarray(positions)
    if x.size and not (np.issubdtype(x.dtype, np.integer) and 0 <= int(x.min()) and int(x.max()) < end):
        raise ValueError(f"positions must be integers, none outside range({end}), not {x.ravel()[:3].tolist()}...")
    return x


def permute(pos: np.ndarray | int, n: int, seed: int, epoch: int = 0, stream: int = 0) -> np.ndarray | int:
    """Images of positions under the permutation of range(n) that (seed, epoch, stream) name.

    pos: integers in range(n), any shape and order. Returns int64 of the same shape (an int for an int).
    A bijection of range(n) for 1 <= n < 2^62, in O(len(pos)) memory and pure integer arithmetic, so that the order is
    the same on every machine and version. n <= 2^16: argsort of hashes. Above: an alternating Feistel network on
    Z_a x Z_b with a * b >= n (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), walking the few
    images beyond n. Raises ValueError for n or a position out of range. Not for secrets.
    """
    if not 1 <= n < N_MAX:
        raise ValueError(f"n ({n}) must be at least 1 and below 2^62")
    x = _checked(pos, n)
    key = hash_key(seed, epoch, n, stream)
    if n <= TABLE_MAX:
        out = _table(n, key)[x.astype(np.int64)]
    else:
        out = _feistel(x.astype(np.uint64).ravel(), n, key).astype(np.int64).reshape(x.shape)
    return int(out) if np.ndim(pos) == 0 else out


@functools.lru_cache(maxsize=4)
def _table(n: int, key: int) -> np.ndarray:
    hashes = mix(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(key))
    return np.argsort(hashes, kind="stable")


def _feistel(x: np.ndarray, n: int, key: int) -> np.ndarray:
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    keys = [hash_key(key, r) for r in range(ROUNDS)]
    x = _rounds(x, a, b, keys)
    beyond = np.flatnonzero(x >= n)
    while beyond.size:  # a * b - n < a + b images lie beyond n: walk on until each is inside
        x[beyond] = _rounds(x[beyond], a, b, keys)
        beyond = beyond[x[beyond] >= n]
    return x


def _rounds(x: np.ndarray, a: int, b: int, keys: list[int]) -> np.ndarray:
    left, right = np.divmod(x, np.uint64(b))  # left in Z_a, right in Z_b
    for r, key in enumerate(keys):
        m = np.uint64((a, b)[r % 2])
        f = mix(right + np.uint64(key))
        f >>= np.uint64(32)
        f *= m
        f >>= np.uint64(32)  # the hash's high half, scaled to Z_m
        f += left
        left, right = right, np.minimum(f, f - m)  # f mod m: below m, f - m wraps round to something huge
    return left * np.uint64(b) + right


def quantize(weights: Sequence[float], period: int = PERIOD) -> list[int]:
    """Weights as integers that sum to `period`, by largest remainder; integers of a smaller sum stay as they are.

    Raises ValueError for a weight that is negative, not finite, or positive and below one part in the period.
    """
    if bad := [weight for weight in weights if not 0 <= weight < math.inf]:
        raise ValueError(f"weight {bad[0]} must be a finite number of at least 0 (weights {list(weights)})")
    if not (total := sum(weights)) > 0:
        raise ValueError(f"weights {list(weights)} sum to {total}; at least one must be positive")
    if all(float(weight).is_integer() for weight in weights) and total <= period:
        return [int(weight) for weight in weights]
    shares = [period * (weight / total) for weight in weights]
    if small := [weight for weight, share in zip(weights, shares, strict=True) if weight > 0 and share < 1]:
        raise ValueError(f"weight {small[0]} of a sum of {total} is below one part in {period}; raise it or make it 0")
    counts = [int(share) for share in shares]
    for k in sorted(range(len(shares)), key=lambda k: counts[k] - shares[k])[: period - sum(counts)]:
        counts[k] += 1
    return counts


def schedule(counts: Sequence[int]) -> np.ndarray:
    """Which source each of sum(counts) positions takes: source k counts[k] times, as evenly as can be.

    Earliest deadline first among the eligible (Tijdeman 1980, "The chairman assignment problem"): after t positions a
    source has had within 1 - 1 / (2K - 2) of its counts[k] / P * t. Returns int16 (P,).
    """
    period, sources = sum(counts), [k for k, count in enumerate(counts) if count]
    if len(sources) == 1:
        return np.full(period, sources[0], dtype=np.int16)
    wide, taken = 2 * (len(sources) - 1), [0] * len(counts)
    pattern = np.empty(period, dtype=np.int16)
    for t in range(1, period + 1):
        eligible = (k for k in sources if wide * (counts[k] * t - period * taken[k]) >= period)
        # the deadline of k is the first t at which it would be too late for its next turn
        chosen = min(eligible, key=lambda k: (-(-period * (wide * (taken[k] + 1) - 1) // (wide * counts[k])), k))
        pattern[t - 1] = chosen
        taken[chosen] += 1
    return pattern


class IndexStream:
    """What stands at global position g = 0, 1, 2, ...: a source, an index in it, and the source's own epoch.

    One source is walked in a fresh permutation each epoch. Several are mixed by weight, at every moment within one
    sample of their (quantised) shares, each with its own epochs. Random access, no state.

    sizes: samples of each source. weights: their shares; None for one source. shuffle=False keeps each source's order.
    run=G permutes groups of G neighbours instead of single samples, for disks that are slow to seek.
    """

    def __init__(
        self, sizes: int | Sequence[int], weights: Shares = None, seed: int = 0, shuffle: bool = True, run: int = 1
    ):
        self.sizes = [int(size) for size in np.atleast_1d(sizes)]
        if not self.sizes or not all(1 <= size < N_MAX for size in self.sizes):
            raise ValueError(f"sizes {self.sizes} must be at least 1 and below 2^62 each")
        weights = [1] * len(self.sizes) if weights is None and len(self.sizes) == 1 else weights
        if weights is None or len(weights) != len(self.sizes):
            raise ValueError(f"{len(self.sizes)} sources need as many weights, not {weights}")
        if run < 1:
            raise ValueError(f"run ({run}) must be at least 1")
        hash_key(seed)  # refuses a seed out of range
        self.counts, self.seed, self.shuffle, self.run = quantize(weights), int(seed), shuffle, run
        self.pattern = schedule(self.counts)
        # how often its source came before, within the period
        self.turn = np.zeros(len(self.pattern), dtype=np.int64)
        for k in range(len(self.sizes)):
            mine = self.pattern == k
            self.turn[mine] = np.arange(mine.sum())

    def at(self, positions: np.ndarray | Sequence[int] | int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(source, index, epoch) of global positions, three int64 arrays of their shape. O(len(positions)) memory."""
        g = _checked(positions, N_MAX).astype(np.int64)
        if len(self.sizes) == 1:  # the same, a quarter faster
            source, (epoch, place) = np.zeros_like(g), np.divmod(g, self.sizes[0])
        else:
            cycle, turn = np.divmod(g, len(self.pattern))
            source = self.pattern[turn].astype(np.int64)
            local = cycle * np.array(self.counts)[source] + self.turn[turn]  # samples of this source that came before
            epoch, place = np.divmod(local, np.array(self.sizes)[source])
        return source, self._indices(place, source, epoch) if self.shuffle else place, epoch

    def drawn(self, position: int) -> np.ndarray:
        """Samples of each source, int64 (K,), among global positions 0 .. position - 1."""
        cycles, rest = divmod(position, len(self.pattern))
        return cycles * np.array(self.counts) + np.bincount(self.pattern[:rest], minlength=len(self.sizes))

    def _indices(self, place: np.ndarray, source: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """Images of places (any shape) in the order of their source and epoch, each of which is permuted at once."""
        flat = [np.ravel(part) for part in (place, source, epoch)]
        index = flat[0].copy()
        if all(part.size and part.min() == part.max() for part in flat[1:]):  # nearly every block: no need to sort
            groups = [slice(None)]
        else:
            order = np.lexsort(flat[1:])
            borders = np.flatnonzero(np.diff(flat[1][order]) | np.diff(flat[2][order])) + 1
            groups = np.split(order, borders) if index.size else []
        for mine in groups:
            places, sources, epochs = (part[mine] for part in flat)
            index[mine] = self._permuted(places, int(sources[0]), int(epochs[0]))
        return index.reshape(np.shape(place))

    def _permuted(self, place: np.ndarray, source: int, epoch: int) -> np.ndarray:
        n = self.sizes[source]
        if self.run == 1:
            return permute(place, n, self.seed, epoch, source)
        groups, index = n // self.run, place.copy()
        whole = place < groups * self.run
        group, inside = np.divmod(place[whole], self.run)
        index[whole] = permute(group, max(1, groups), self.seed, epoch, source) * self.run + inside
        # the n % run samples that fill no group come last: a turn of the circle makes them others in each epoch
        return (index + hash_key(self.seed, epoch, source, n) % n) % n


def process_group() -> tuple[int, int]:
    """(world size, rank) of torch.distributed where it is initialised, else (1, 0)."""
    import torch.distributed as dist  # here: those who want the order alone need no torch

    if not (dist.is_available() and dist.is_initialized()):
        return 1, 0
    return dist.get_world_size(), dist.get_rank()


class DistributedStreamSampler:
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
        default_size, default_rank = process_group()
        self.num_replicas = default_size if num_replicas is None else num_replicas
        self.rank = default_rank if rank is None else rank
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
