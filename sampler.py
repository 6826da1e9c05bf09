"""Which training window comes next: a keyed permutation with no table, whose whole state is one position.

(sampler.py orders data; sample.py writes text.)

torch's samplers hold the shuffled order of the whole dataset as a Python list on every rank. Here position g has epoch
g // n and index permute(g % n, n, seed, epoch), computed when it is asked for: any position in O(1), nothing stored.
"""

import functools
import math

import numpy as np

ALGO_VERSION = 1  # golden vectors in tests/test_sampler.py freeze the outputs: they are part of the checkpoint format
TABLE_MAX = 1 << 16  # up to here an exact shuffle from a table of at most 512 KiB; 8 rounds are too few below n = 6
ROUNDS = 8  # 4 rounds show at lags of sqrt(n); 6 pass; 8 leave a margin
N_MAX = 1 << 62
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15  # splitmix64's increment, 2^64 / golden ratio


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea and Flood 2014) on uint64, in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def hash_key(*values: int) -> int:
    """A 64-bit key that depends on every value and on their order; each is absorbed separately, never added up."""
    key = 0
    for value in values:
        if not 0 <= value <= MASK:
            raise ValueError(f"{value} is outside 0 .. 2^64 - 1, the range of seeds, epochs and sizes")
        key = int(_mix(np.array([(key ^ value) + GAMMA & MASK], dtype=np.uint64))[0])
    return key


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
    x = np.asarray(pos)
    if x.size and not np.issubdtype(x.dtype, np.integer):
        raise ValueError(f"positions must be integers, not {x.dtype}")
    if x.size and not (0 <= int(x.min()) and int(x.max()) < n):
        raise ValueError(f"position {int(x.min())} .. {int(x.max())} outside range({n})")
    key = hash_key(seed, epoch, n, stream)
    if n <= TABLE_MAX:
        out = _table(n, key)[x.astype(np.int64)]
    else:
        out = _feistel(x.astype(np.uint64).ravel(), n, key).astype(np.int64).reshape(x.shape)
    return int(out) if np.ndim(pos) == 0 else out


@functools.lru_cache(maxsize=4)
def _table(n: int, key: int) -> np.ndarray:
    hashes = _mix(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(key))
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
    sizes = (np.uint64(a), np.uint64(b))
    for r, key in enumerate(keys):
        m = sizes[r % 2]
        f = _mix(right + np.uint64(key))
        f >>= np.uint64(32)
        f *= m
        f >>= np.uint64(32)  # the hash's high half, scaled to Z_m
        f += left
        left, right = right, np.minimum(f, f - m)  # f mod m: below m, f - m wraps round to something huge
    return left * np.uint64(b) + right
