"""Which training window comes next: a keyed permutation with no table, whose whole state is one position.

(sampler.py orders data; sample.py writes text.)

train.py takes its windows from IndexStream (through mixture.py). DistributedStreamSampler gives the same order to any
torch DataLoader: a drop-in for torch's DistributedSampler. Only numpy is needed.

torch's samplers hold the shuffled order of the whole dataset as a Python list on every rank. Here position g has epoch
g // n and index permute(g % n, n, seed, epoch), computed when it is asked for: any position in O(1), nothing stored.

In the order of this file: hash_key and permute (one shuffle), quantize and schedule (several sources), IndexStream
(what stands at a position), TAILS and DistributedStreamSampler (the share of one rank). docs/sampler.md has it in
pictures.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np

ALGO_VERSION = 1  # golden vectors in tests/test_sampler.py freeze the outputs: they are part of the checkpoint format
TABLE_MAX = 1 << 16  # up to this n a sorted table of at most 512 KiB: the network is not uniform for tiny n
ROUNDS = 8  # with 4, correlations at lags of sqrt(n) can be measured, with 6 none; 8 leave a margin
N_MAX = 1 << 62
FIRST_BLOCK = 256  # indices computed at first; each block is twice the one before, up to `block`
PERIOD = 1 << 16  # positions after which the pattern of a mixture repeats: weights are rounded to parts of it
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment, 2^64 / golden ratio


# --- one shuffle ---


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
    """A 64-bit key that depends on every value and on their order.

    Each value is absorbed separately, never added up: (seed 0, epoch 1) and (seed 1, epoch 0) have different keys.
    Raises ValueError for a value outside 0 .. 2^64 - 1.
    """
    key = 0
    for value in values:
        if not 0 <= value <= MASK:
            raise ValueError(f"{value} is outside 0 .. 2^64 - 1, the range of seeds, epochs and sizes")
        absorbed = ((key ^ int(value)) + GAMMA) & MASK
        key = int(mix(np.array([absorbed], dtype=np.uint64))[0])
    return key


def permute(pos: np.ndarray | int, n: int, seed: int, epoch: int = 0, stream: int = 0) -> np.ndarray | int:
    """Images of positions under the permutation of range(n) that (seed, epoch, stream) name.

    pos: integers in range(n), any shape and order. Returns int64 of the same shape (an int for an int).
    A bijection of range(n) for 1 <= n < 2^62, in O(len(pos)) memory and pure integer arithmetic, so that the order is
    the same on every machine and version. Up to n = 2^16 from a table, above by a Feistel network.
    Raises ValueError for n or a position out of range. Not for secrets.
    """
    if not 1 <= n < N_MAX:
        raise ValueError(f"n ({n}) must be at least 1 and below 2^62")
    x = _checked(pos, n)
    key = hash_key(seed, epoch, n, stream)

    if n <= TABLE_MAX:
        images = _table(n, key)[x.astype(np.int64)]
    else:
        images = _feistel(x.astype(np.uint64).ravel(), n, key).astype(np.int64).reshape(x.shape)

    return int(images) if np.ndim(pos) == 0 else images


def _checked(positions: np.ndarray | Sequence[int] | int, end: int) -> np.ndarray:
    """Positions as an array. Raises ValueError for one that is no integer, or outside range(end)."""
    x = np.asarray(positions)
    if x.size == 0:
        return x
    if not np.issubdtype(x.dtype, np.integer) or int(x.min()) < 0 or int(x.max()) >= end:
        raise ValueError(f"positions must be integers, none outside range({end}), not {x.ravel()[:3].tolist()}...")
    return x


@functools.lru_cache(maxsize=4)
def _table(n: int, key: int) -> np.ndarray:
    """All n images: the positions sorted by a hash of each."""
    counters = np.arange(1, n + 1, dtype=np.uint64)
    hashes = mix(counters * np.uint64(GAMMA) + np.uint64(key))
    return np.argsort(hashes, kind="stable")


def _feistel(x: np.ndarray, n: int, key: int) -> np.ndarray:
    """Images of positions (uint64) by an alternating Feistel network (Black and Rogaway 2002, "Ciphers with arbitrary
    finite domains").

    Positions are cells of a grid with `a` rows and `b` columns, a * b >= n. n = 10 gives 4 rows and 3 columns: position
    7 is in row 7 // 3 = 2, column 7 % 3 = 1. A round shifts all cells of a column by rows, or all cells of a row by
    columns, so that no two cells ever meet.

    The grid has a few cells more than n, here 10 and 11. A position that lands there goes through the network again:
    with the shifts of `_rounds` position 3 lands on cell 10, that one on 11, and that one on 8, which is below n.
    No other position reaches 8, since the only way there leads through 11.
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)  # rounded up
    keys = [hash_key(key, r) for r in range(ROUNDS)]

    x = _rounds(x, a, b, keys)
    beyond = np.flatnonzero(x >= n)
    while beyond.size:  # fewer than a of the a * b cells lie beyond n, so few positions walk again
        x[beyond] = _rounds(x[beyond], a, b, keys)
        beyond = beyond[x[beyond] >= n]
    return x


def _rounds(x: np.ndarray, a: int, b: int, keys: list[int]) -> np.ndarray:
    """Where the cells x of the grid land after len(keys) rounds.

    By hand, with a = 4 rows, b = 3 columns and two rounds. Say that the hash shifts columns 0, 1, 2 by 2, 0, 3 rows in
    the first round, and rows 0, 1, 2, 3 by 1, 2, 0, 1 columns in the second:

        cell 0: row 0, column 0    row 0 + 2 = 2           column 0 + 0 = 0    cell 2 * 3 + 0 = 6
        cell 3: row 1, column 0    row 1 + 2 = 3           column 0 + 1 = 1    cell 3 * 3 + 1 = 10
        cell 5: row 1, column 2    row 1 + 3 = 0 (mod 4)   column 2 + 1 = 0    cell 0 * 3 + 0 = 0

    The half that the hash looks at stays as it is, so a round can be undone: it is a permutation of the cells.
    """
    row, column = np.divmod(x, np.uint64(b))
    shifted, fixed = row, column
    for r, key in enumerate(keys):
        m = a if r % 2 == 0 else b  # rows are shifted in even rounds, columns in odd ones
        total = _shift(fixed, key, m)
        total += shifted
        # total mod m: it is below 2 m, and where it is below m, total - m wraps round to something huge
        moved = np.minimum(total, total - np.uint64(m))
        shifted, fixed = fixed, moved
    row, column = shifted, fixed  # ROUNDS is even: each is in its place again
    return row * np.uint64(b) + column


def _shift(half: np.ndarray, key: int, m: int) -> np.ndarray:
    """A hash of each value with the key, scaled to range(m): its upper 32 bits times m, divided by 2^32."""
    hashes = mix(half + np.uint64(key))
    hashes >>= np.uint64(32)
    hashes *= np.uint64(m)
    hashes >>= np.uint64(32)
    return hashes


# --- several sources ---


def quantize(weights: Sequence[float], period: int = PERIOD) -> list[int]:
    """Weights as integers that sum to `period`, by largest remainder.

    Whole numbers whose sum is at most `period`, such as [3, 1], are returned as they are.

    quantize([0.5, 0.3, 0.2], period=8): the shares of 8 are 4, 2.4 and 1.6. Rounded down, 4, 2 and 1, they sum to 7;
    the one that is missing goes to the largest remainder, 0.6: [4, 2, 2].

    Raises ValueError for a weight that is negative, not finite, or positive and below one part in the period.
    """
    for weight in weights:
        if not 0 <= weight < math.inf:  # a NaN fails it too
            raise ValueError(f"weight {weight} must be a finite number of at least 0 (weights {list(weights)})")
    total = sum(weights)
    if not total > 0:
        raise ValueError(f"weights {list(weights)} sum to {total}; at least one must be positive")
    if all(float(weight).is_integer() for weight in weights) and total <= period:
        return [int(weight) for weight in weights]

    shares = [period * (weight / total) for weight in weights]
    for weight, share in zip(weights, shares, strict=True):
        if weight > 0 and share < 1:
            small = f"weight {weight} of a sum of {total} is below one part in {period}"
            raise ValueError(f"{small}; raise it or make it 0")

    counts = [int(share) for share in shares]
    missing = period - sum(counts)
    by_remainder = sorted(range(len(shares)), key=lambda k: counts[k] - shares[k])  # the largest comes first
    for k in by_remainder[:missing]:
        counts[k] += 1
    return counts


def schedule(counts: Sequence[int]) -> np.ndarray:
    """Which source each of sum(counts) positions takes: source k counts[k] times, as evenly as can be.

    schedule([3, 1]) is 0, 0, 1, 0: the one sample of source 1 comes neither first nor last.

    Earliest deadline first among the eligible (Tijdeman 1980, "The chairman assignment problem"). After t of P
    positions the fair number of samples of source k is counts[k] / P * t. With K sources no number is ever further
    from the fair one than 1 - 1 / (2K - 2): a source is eligible when its next sample would not take it further above,
    and its deadline is the first position at which it would be as far below without that sample.

    Returns int16 (P,).
    """
    period = sum(counts)
    sources = [k for k, count in enumerate(counts) if count > 0]
    if len(sources) == 1:
        return np.full(period, sources[0], dtype=np.int16)

    slack = 2 * (len(sources) - 1)  # all is multiplied by it and by the period: integers only, nothing is rounded
    taken = [0] * len(counts)

    def eligible(k: int, t: int) -> bool:
        return slack * (counts[k] * t - period * taken[k]) >= period

    def deadline(k: int) -> int:
        return -(-period * (slack * (taken[k] + 1) - 1) // (slack * counts[k]))  # rounded up

    pattern = np.empty(period, dtype=np.int16)
    for t in range(1, period + 1):
        candidates = [k for k in sources if eligible(k, t)]
        chosen = min(candidates, key=lambda k: (deadline(k), k))
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
        self,
        sizes: int | Sequence[int],
        weights: Sequence[float] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        run: int = 1,
    ):
        self.sizes = [int(size) for size in np.atleast_1d(sizes)]
        if not self.sizes or not all(1 <= size < N_MAX for size in self.sizes):
            raise ValueError(f"sizes {self.sizes} must be at least 1 and below 2^62 each")
        if weights is None and len(self.sizes) == 1:
            weights = [1]
        if weights is None or len(weights) != len(self.sizes):
            raise ValueError(f"{len(self.sizes)} sources need as many weights, not {weights}")
        if run < 1:
            raise ValueError(f"run ({run}) must be at least 1")
        hash_key(seed)  # refuses a seed out of range

        self.seed = int(seed)
        self.shuffle = shuffle
        self.run = run
        self.counts = quantize(weights)
        self.pattern = schedule(self.counts)  # the source of each position of a period

        # how many of the same source stand before each position of the period; for 0, 0, 1, 0: 0, 1, 0, 2
        self.before = np.zeros(len(self.pattern), dtype=np.int64)
        for k, count in enumerate(self.counts):
            self.before[self.pattern == k] = np.arange(count)

    def at(self, positions: np.ndarray | Sequence[int] | int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(source, index, epoch) of global positions, three int64 arrays of their shape. O(len(positions)) memory."""
        g = _checked(positions, N_MAX).astype(np.int64)

        if len(self.sizes) == 1:  # the same as below, a quarter faster
            source = np.zeros_like(g)
            epoch, place = np.divmod(g, self.sizes[0])
        else:
            # counts 3 and 1, pattern 0 0 1 0: position 6 is slot 2 of cycle 1, so source 1, which came 1 * 1 + 0 times
            cycle, slot = np.divmod(g, len(self.pattern))
            source = self.pattern[slot].astype(np.int64)
            earlier = cycle * np.array(self.counts)[source] + self.before[slot]
            epoch, place = np.divmod(earlier, np.array(self.sizes)[source])

        index = self._shuffled(place, source, epoch) if self.shuffle else place
        return source, index, epoch

    def drawn(self, position: int) -> np.ndarray:
        """Samples of each source, int64 (K,), among global positions 0 .. position - 1."""
        cycles, rest = divmod(position, len(self.pattern))
        of_the_rest = np.bincount(self.pattern[:rest], minlength=len(self.sizes))
        return cycles * np.array(self.counts) + of_the_rest

    def _shuffled(self, place: np.ndarray, source: np.ndarray, epoch: np.ndarray) -> np.ndarray:
        """Images of places, arrays of one shape: all places of the same source and epoch are permuted at once."""
        shape = np.shape(place)
        place, source, epoch = np.ravel(place), np.ravel(source), np.ravel(epoch)
        if place.size == 0:
            return place.reshape(shape)

        if source.min() == source.max() and epoch.min() == epoch.max():  # nearly every block: no need to sort
            groups = [slice(None)]
        else:
            by_epoch = np.lexsort((source, epoch))
            changes = np.diff(source[by_epoch]) | np.diff(epoch[by_epoch])
            groups = np.split(by_epoch, np.flatnonzero(changes) + 1)

        index = np.empty_like(place)
        for group in groups:
            index[group] = self._permuted(place[group], int(source[group][0]), int(epoch[group][0]))
        return index.reshape(shape)

    def _permuted(self, place: np.ndarray, source: int, epoch: int) -> np.ndarray:
        """Images of places, int64 (N,), of one source in one epoch; with `run`, groups of neighbours stay together.

        n = 11, run = 4: groups 0-3 and 4-7 are permuted; 8, 9 and 10 fill no group and come last. Then all indices
        are rotated: an offset hashed from the epoch is added modulo n, so that different samples come last in each
        epoch.
        """
        n = self.sizes[source]
        if self.run == 1:
            return permute(place, n, self.seed, epoch, source)

        groups = n // self.run
        index = place.copy()
        grouped = place < groups * self.run
        group, inside = np.divmod(place[grouped], self.run)
        index[grouped] = permute(group, max(1, groups), self.seed, epoch, source) * self.run + inside

        offset = hash_key(self.seed, epoch, source, n) % n
        return (index + offset) % n


# --- the share of one rank ---


def full_rows(left: int, num_replicas: int, rank: int) -> int:
    """Rows that every rank has a sample of."""
    return left // num_replicas


def own_rows(left: int, num_replicas: int, rank: int) -> int:
    """Rows that this rank has a sample of: one more for the ranks that the last, shorter row reaches."""
    return (left + num_replicas - 1 - rank) // num_replicas


@dataclass(frozen=True)
class Tail:
    """Where an iteration ends, and what becomes of a last row that is shorter than the others.

    Ten samples on four ranks make two full rows and one of two samples:

        rank      0  1  2  3
        row 0     0  1  2  3
        row 1     4  5  6  7
        row 2     8  9            `left` is 10: full_rows is 2 for all ranks, own_rows 3, 3, 2, 2

    rows: (left, num_replicas, rank) -> how many rows of the `left` samples this rank draws.
    per_epoch: an iteration is (the rest of) an epoch; else it runs on across epochs until `total` samples.
    beyond: (positions, n, end) -> what to draw for positions from `end` on, for a tail whose rows reach there.
    """

    rows: Callable[[int, int, int], int]
    per_epoch: bool = True
    beyond: Callable[[np.ndarray, int, int], np.ndarray] | None = None

    def end(self, start: int, n: int, total: int) -> int:
        """Position at which an iteration from `start` ends, for epochs of n samples."""
        if not self.per_epoch:
            return total
        return (start // n + 1) * n


# A new tail is one more entry.
TAILS = {
    "drop": Tail(rows=full_rows),  # the last full row ends an epoch: each epoch drops different samples
    "exact": Tail(rows=own_rows),  # every sample once: ranks may differ by one; for evaluation
    "stream": Tail(
        rows=full_rows, per_epoch=False
    ),  # on across epochs: only a last row of `total` that is not full is dropped
}


class Block:
    """Some indices, and how many of them have been handed out.

    block = Block([7, 2, 9]); after two calls of next(iter(block)) taken() is 2.

    Counting each index would take twice the time of all the rest. The iterator of a list knows how many items it has
    left, and has moved on before it hands out an item: in the body of a loop taken() already counts the current item.
    """

    def __init__(self, indices: list[int]):
        self.size = len(indices)
        self._left = iter(indices)

    def __iter__(self) -> Iterator[int]:
        return self._left

    def taken(self) -> int:
        """Indices handed out so far."""
        return self.size - operator.length_hint(self._left)


def process_group() -> tuple[int, int]:
    """(world size, rank) of torch.distributed where it is initialised, else (1, 0)."""
    import torch.distributed as dist  # here: those who want the order alone need no torch

    if not (dist.is_available() and dist.is_initialized()):
        return 1, 0
    return dist.get_world_size(), dist.get_rank()


class DistributedStreamSampler:
    """Indices of one rank; a drop-in for torch's DistributedSampler whose whole state is one global position.

    dataset: anything with a length, a number of samples, or an IndexStream (of several sources the index is the one
    that ConcatDataset gives). num_replicas, rank: from torch.distributed when it is initialised, else 1 and 0.
    Row i = 0, 1, ... holds the positions from start + i * num_replicas on, one for each rank.

    tail: "drop" ends an epoch at its last full row (each epoch drops different samples), "exact" ends with its last
    sample (ranks may differ by one; for evaluation), "stream" runs on across epochs until `total` samples have been
    drawn over all ranks (rounded down to full rows; None: for ever). Mixed sources have no common epoch
    and take "stream".

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
        if num_replicas is None or rank is None:
            default_size, default_rank = process_group()
            num_replicas = default_size if num_replicas is None else num_replicas
            rank = default_rank if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise ValueError(f"rank ({rank}) must be at least 0 and below num_replicas ({num_replicas})")

        if isinstance(dataset, IndexStream):
            stream = dataset
        else:
            n = dataset if isinstance(dataset, int | np.integer) else len(dataset)
            stream = IndexStream(n, seed=seed, shuffle=shuffle)
        several = len(stream.sizes) > 1

        if tail not in TAILS:
            raise ValueError(f"tail={tail!r} must be one of: {', '.join(TAILS)}")
        if several and TAILS[tail].per_epoch:
            raise ValueError(f"tail={tail!r}: {len(stream.sizes)} mixed sources have no common epoch; use 'stream'")
        if total is not None and (TAILS[tail].per_epoch or total < 0):
            raise ValueError(f"total ({total}) goes with tail='stream' and is at least 0")
        if block < 1:
            raise ValueError(f"block ({block}) must be at least 1")

        self.num_replicas = num_replicas
        self.rank = rank
        self.stream = stream
        self.tail = tail
        self.total = N_MAX if total is None else total
        self.block = block
        self.several = several
        self.source_offsets = np.concatenate([[0], np.cumsum(stream.sizes)])  # index of each source's first sample
        self.loaded = False  # a state has been loaded, and nothing was drawn since

        self._position = 0  # of the block's first row
        self._block: Block | None = None  # being handed out
        self._end = N_MAX  # of the iteration that the block belongs to

    @property
    def position(self) -> int:
        """Samples that all ranks together have drawn, including the one that was yielded last."""
        if self._block is None:
            return self._position
        return min(self._position + self._block.taken() * self.num_replicas, self._end)

    @property
    def epoch(self) -> int:
        """Complete passes over the source; always 0 for several sources, which have no common epoch."""
        return 0 if self.several else self.position // self.stream.sizes[0]

    def __len__(self) -> int:
        """Samples that this rank has yet to draw: of the current epoch, or of `total`."""
        if self._end_from(0) == N_MAX:
            raise TypeError("an endless stream has no length; give total=")
        return self._rows_from(self.position)

    def __iter__(self) -> Iterator[int]:
        return self._draw(self.position)  # a generator: until its first next() nothing changes

    def _end_from(self, start: int) -> int:
        """Position at which an iteration from `start` ends; N_MAX: never."""
        return TAILS[self.tail].end(start, self.stream.sizes[0], self.total)

    def _rows_from(self, start: int) -> int:
        """Rows that this rank draws in an iteration from `start`."""
        left = max(0, self._end_from(start) - start)
        return TAILS[self.tail].rows(left, self.num_replicas, self.rank)

    def _draw(self, start: int) -> Iterator[int]:
        """Yield this rank's indices from global position `start` to the end of the iteration, a block at a time."""
        self.loaded = False
        end = self._end_from(start)
        rows = self._rows_from(start)

        drawn = 0
        size = min(self.block, FIRST_BLOCK)
        while drawn < rows:
            count = min(size, rows - drawn)
            first = start + drawn * self.num_replicas
            block = Block(self._indices(self._positions(first, count, end)))

            self._position = first
            self._block = block
            self._end = end
            yield from block

            drawn += count
            size = min(self.block, 2 * size)

        if TAILS[self.tail].per_epoch:  # the next epoch begins, also for a rank that had no sample left
            self._position = end
            self._block = None

    def _positions(self, first: int, rows: int, end: int) -> np.ndarray:
        """The position of this rank in each row, int64 (rows,): of three ranks, rank 1 has first + 1, + 4, + 7, ...

        With several sources the ranks change places in each row, at random: of two ranks and two sources in equal
        shares, rank 0 would otherwise get one source for ever.
        """
        begins = first + np.arange(rows) * self.num_replicas
        rank = self.rank
        if self.several:
            turn = mix(begins.astype(np.uint64)) % np.uint64(self.num_replicas)
            rank = (self.rank + turn.astype(np.int64)) % self.num_replicas
        positions = begins + rank

        beyond = TAILS[self.tail].beyond
        if beyond is not None:
            outside = positions >= end
            positions[outside] = beyond(positions[outside], self.stream.sizes[0], end)
        return positions

    def _indices(self, positions: np.ndarray) -> list[int]:
        """What stands at positions, as the index in all sources one after the other."""
        source, index, _ = self.stream.at(positions)
        if self.several:
            index = self.source_offsets[source] + index
        return index.tolist()

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, as DistributedSampler does. Not needed: epochs follow from the position.

        Just after load_state_dict the epoch that the state is in may be named without losing the place in it.
        """
        if self.several:
            raise ValueError("mixed sources have no common epoch; drop set_epoch")
        if self.loaded and epoch == self.epoch:
            return
        self.seek(epoch * self.stream.sizes[0])

    def seek(self, position: int) -> None:
        """Continue from a global position, in O(1)."""
        if not 0 <= position < N_MAX:
            raise ValueError(f"position ({position}) must be at least 0 and below 2^62")
        self._position = int(position)
        self._block = None
        self.loaded = False

    def state_dict(self) -> dict[str, Any]:
        """All there is to save: what names the order, and the global position. The same on every rank."""
        return self.state_at(self.position)

    def state_at(self, consumed: int) -> dict[str, Any]:
        """The state after `consumed` samples over all ranks, whatever loader workers have drawn ahead."""
        return {
            "algo": ALGO_VERSION,
            "sizes": self.stream.sizes,
            "weights": self.stream.counts,
            "seed": self.stream.seed,
            "shuffle": self.stream.shuffle,
            "run": self.stream.run,
            "position": int(consumed),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of any number of ranks. Raises ValueError that names the field which differs."""
        for key, own in self.state_dict().items():
            if key not in state:
                raise ValueError(f"the state has no '{key}'")
            if key != "position" and state[key] != own:
                raise ValueError(f"the state has {key}={state[key]}, this sampler {own}: another order of samples")
        if not isinstance(state["position"], int):
            raise ValueError(f"the state has position={state['position']!r}, which is not a whole number")
        self.seek(state["position"])
        self.loaded = True
