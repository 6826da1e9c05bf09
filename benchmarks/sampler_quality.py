"""How far a family of shuffles is from true ones: statistics with known distributions, and designs that fail them.

    python benchmarks/sampler_quality.py                        a table of designs, in markdown; a quarter of an hour
    python benchmarks/sampler_quality.py --n=4097 --seeds=100   one size of it, with fewer seeds: seconds

A design is a function order(n, seed, epoch) -> (n,) that should be a true permutation for each (seed, epoch). Every
statistic pools all keys and is returned as a z-score: about normal(0, 1) for true shuffles, far from 0 where a pattern
shows. The expectations are exact; no threshold was fitted to a design.

Not asked: the sign. A Feistel network on Z_a x Z_b with a and b both odd makes permutations of one sign only. That is
one bit of log2(n!), and no statistic of a training run depends on it.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator
import sampler
from sampler import TABLE_MAX, hash_key

Order = Callable[[int, int, int], np.ndarray]
FALSE_ALARM = 1e-4  # chance that true shuffles fail one verdict, over all of its statistics together (Bonferroni)
BINS = 64
SIZES = {4097: 1500, 65537: 400, 131072: 200, 1_000_003: 24}  # n: number of seeds, for the printed table


@dataclass(frozen=True)
class QualityConfig:
    """Settings of `python benchmarks/sampler_quality.py`."""

    n: int | None = None  # size of the shuffles, at least 1000; None: 4097, 65537, 131072 and 1000003
    seeds: int | None = None  # at least 10; None: 1500 for n = 4097, fewer for larger n


# --- designs ---


def numpy_permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The control: shuffles that are taken for true."""
    return np.random.default_rng((seed, epoch)).permutation(n)


def table(n: int, seed: int, epoch: int) -> np.ndarray:
    """sampler.py's design up to TABLE_MAX: argsort of hashes."""
    return sampler._table(n, hash_key(seed, epoch, n, 0))


def feistel(rounds: int) -> Order:
    """sampler.py's design above TABLE_MAX, with another number of rounds."""

    def order(n: int, seed: int, epoch: int) -> np.ndarray:
        positions = np.arange(n, dtype=np.uint64)
        with mock.patch.object(sampler, "ROUNDS", rounds):
            return sampler._feistel(positions, n, hash_key(seed, epoch, n, 0)).astype(np.int64)

    return order


def affine(n: int, seed: int, epoch: int) -> np.ndarray:
    """x -> f x + c mod n, the full-period linear congruential generator of random access."""
    factor = hash_key(seed, epoch, 1) % n
    while math.gcd(factor, n) > 1:
        factor += 1
    offset = hash_key(seed, epoch, 2) % n
    return (np.arange(n) * factor + offset) % n


def chunk_local(n: int, seed: int, epoch: int) -> np.ndarray:
    """A true shuffle inside each tenth of the range, the tenths in order: what a shuffle buffer comes to."""
    shuffled = []
    for chunk in np.array_split(np.arange(n), 10):
        shuffled.append(np.random.default_rng((seed, epoch)).permutation(chunk))
    return np.concatenate(shuffled)


DESIGNS: dict[str, Order] = {
    "numpy permutation (control)": numpy_permutation,
    "table (argsort of hashes)": table,
    "Feistel, 4 rounds": feistel(4),
    "Feistel, 6 rounds": feistel(6),
    "Feistel, 8 rounds": feistel(8),
    "affine map": affine,
    "chunk-local shuffle, 10 chunks": chunk_local,
}


# --- z-scores of single statistics ---


def chi_square(counts: np.ndarray, expected: np.ndarray | float | None = None, dof: int | None = None) -> float:
    """Chi-square of counts as a z-score (Wilson and Hilferty 1931). Default: equal expectations."""
    if expected is None:
        expected = counts.sum() / counts.size
    if dof is None:
        dof = counts.size - 1
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return chi_square_score(chi2, dof)


def chi_square_score(chi2: float, dof: int) -> float:
    """z of a value that is chi-square distributed: the cube root of chi2 / dof is nearly normal."""
    variance = 2 / (9 * dof)
    return ((chi2 / dof) ** (1 / 3) - (1 - variance)) / math.sqrt(variance)


def poisson_score(count: int, mean: float) -> float:
    """z of a Poisson count: at most k has the chance that chi-square of 2k + 2 exceeds 2 * mean."""
    return -chi_square_score(2 * mean, 2 * (count + 0.5))


def p_value(z: float) -> float:
    """Two-sided chance of a normal z-score at least that far from 0."""
    return math.erfc(abs(z) / math.sqrt(2))


def inversions(order: np.ndarray) -> int:
    """Pairs i < j with order[i] > order[j] (Kendall's tau), by a radix sort of a permutation of range(n).

    Bit by bit from the highest, elements with equal higher bits stand together, in their original order. Among them
    each 1 that stands before a 0 is an inversion: 2 0 3 1 has highest bits 1 0 1 0, three such pairs. Then the zeros
    move before the ones, 0 1 2 3, and the next bit counts inside the pairs 0 1 and 2 3.
    """
    order = np.array(order)
    n = len(order)
    total = 0
    for bit in reversed(range(n.bit_length())):
        ones = order >> bit & 1
        group_start = (order >> (bit + 1)) << (bit + 1)  # where the elements with the same higher bits begin
        ones_before = np.cumsum(ones) - ones
        ones_before -= ones_before[group_start]  # of the same group
        total += int(ones_before[ones == 0].sum())

        zeros_before = np.arange(n) - group_start - ones_before
        place = group_start + np.where(ones == 1, (1 << bit) + ones_before, zeros_before)
        order[place] = order.copy()
    return total


def cycles(order: np.ndarray) -> int:
    """Cycles of a permutation: each element learns the least of its next 1, 2, 4, ... successors."""
    positions = np.arange(len(order))
    least = positions.copy()
    for _ in range(len(order).bit_length()):
        least = np.minimum(least, least[order])
        order = order[order]
    return int((least == positions).sum())  # the least element of each cycle


# --- the suite ---


def lags(n: int) -> dict[str, int]:
    """1 and 2, and those at which the Feistel network shows first: its columns, b = about sqrt(n)."""
    b = -(-n // (math.isqrt(n - 1) + 1))
    return {"1": 1, "2": 2, "b-1": b - 1, "b": b, "2b": 2 * b}


def statistics(order: Order, n: int, keys: int) -> dict[str, float]:
    """z-scores of order(n, seed, epoch) for seeds 0 .. keys - 1 and epochs 0 and 1. At least 10 keys, n >= 1000."""
    tally = Tally(n)
    previous = None
    for seed in range(keys):
        first, second = order(n, seed, 0), order(n, seed, 1)
        tally.add_shuffle(first)
        tally.add_pair("epochs", first, second)
        if previous is not None:
            tally.add_pair("seeds", first, previous[0])
            # (seed, epoch) = (s, 1) and (s + 1, 0): the same order where the two are added up
            tally.agreements["seed + epoch"] += int((first == previous[1]).sum())
        previous = first, second
    return {name: float(z) for name, z in tally.scores(keys).items()}


class Tally:
    """What is counted over the shuffles of one design and size."""

    def __init__(self, n: int):
        self.n = n
        self.here = np.arange(n)
        self.centre = (n - 1) / 2  # mean of range(n)
        self.variance = (n * n - 1) / 12
        self.window = 1 << int(math.log2(n / 2)) // 2  # positions in a window: a power of two, about sqrt(n / 2)

        self.differences = {f"differences at lag {name}": np.zeros(BINS, dtype=np.int64) for name in lags(n)}
        self.differences["differences of epochs"] = np.zeros(BINS, dtype=np.int64)
        self.differences["differences of seeds"] = np.zeros(BINS, dtype=np.int64)
        self.z_scores: dict[str, list[float]] = {f"serial correlation at lag {name}": [] for name in lags(n)}
        self.z_scores["inversions"] = []
        self.correlations: dict[str, list[float]] = {"correlation of epochs": [], "correlation of seeds": []}
        self.agreements = {"fixed points": 0, "agreements of epochs": 0, "agreements of seeds": 0, "seed + epoch": 0}
        self.grid = np.zeros(32 * 32, dtype=np.int64)
        self.neighbours = np.zeros(16 * 16, dtype=np.int64)
        self.cycles = 0
        self.distinct = 0

    def add_shuffle(self, p: np.ndarray) -> None:
        """Count what one shuffle shows by itself."""
        n = self.n

        for name, lag in lags(n).items():
            self.differences[f"differences at lag {name}"] += self._histogram(p[lag:] - p[:-lag])
            r = ((p[lag:] - self.centre) * (p[:-lag] - self.centre)).mean() / self.variance
            self.z_scores[f"serial correlation at lag {name}"].append((r + 1 / n) * math.sqrt(n - lag))

        mean = n * (n - 1) / 4
        deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 72)
        self.z_scores["inversions"].append((inversions(p) - mean) / deviation)

        self.agreements["fixed points"] += int((p == self.here).sum())
        self.cycles += cycles(p)

        cells = self.here * 32 // n * 32 + p * 32 // n  # (position, index), each in 32 parts
        self.grid += np.bincount(cells, minlength=self.grid.size)
        cells = p * 16 // n * 16 + np.roll(p, -1) * 16 // n  # (index, next index), each in 16 parts
        self.neighbours += np.bincount(cells, minlength=self.neighbours.size)

        # how many of `window` parts of the range the indices of each window fall into, all windows together
        windows = n // self.window
        parts = (p[: windows * self.window] * self.window // n).reshape(windows, self.window)
        parts += np.arange(windows)[:, None] * self.window  # other numbers in each window
        self.distinct += np.count_nonzero(np.bincount(parts.ravel()))

    def add_pair(self, name: str, p: np.ndarray, other: np.ndarray) -> None:
        """Count what two shuffles have in common. name: what they differ in, epochs or seeds."""
        self.differences[f"differences of {name}"] += self._histogram(p - other)
        r = ((p - self.centre) * (other - self.centre)).mean() / self.variance
        self.correlations[f"correlation of {name}"].append(r * math.sqrt(self.n - 1))
        self.agreements[f"agreements of {name}"] += int((p == other).sum())

    def _histogram(self, differences: np.ndarray) -> np.ndarray:
        """Differences modulo n, in BINS bins."""
        return np.bincount(differences % self.n * BINS // self.n, minlength=BINS)

    def scores(self, keys: int) -> dict[str, float]:
        """The z-score of each statistic, after `keys` shuffles."""
        n = self.n
        scores = {}

        for name, z in self.z_scores.items():
            scores[name] = sum(z) / math.sqrt(keys)
            scores[f"{name}, spread"] = chi_square_score(np.square(z).sum(), keys)
        for name, z in self.correlations.items():
            scores[name] = sum(z) / math.sqrt(len(z))

        for name, seen in self.differences.items():
            smallest = 1 if "lag" in name else 0  # within an order a difference is never 0
            share = np.bincount(np.arange(smallest, n) * BINS // n, minlength=BINS) / (n - smallest)
            scores[name] = chi_square(seen, seen.sum() * share)
        for name, count in self.agreements.items():
            pairs = keys if name in ("fixed points", "agreements of epochs") else keys - 1
            scores[name] = poisson_score(count, pairs)

        scores["grid of 32 x 32"] = self._grid_score(self.grid, 32, keys)
        scores["neighbours, 16 x 16"] = self._grid_score(self.neighbours, 16, keys)
        scores["cycles"] = self._cycles_score(keys)
        scores["distinct per window"] = self._distinct_score(keys)
        return scores

    def _grid_score(self, counts: np.ndarray, side: int, keys: int) -> float:
        """Chi-square of a grid of side * side cells. n is no multiple of side: rows differ in size by one."""
        row = np.bincount(self.here * side // self.n)
        expected = keys * np.outer(row, row).ravel() / self.n
        return chi_square(counts, expected, dof=(side - 1) ** 2)

    def _cycles_score(self, keys: int) -> float:
        """A shuffle of n has 1 + 1/2 + ... + 1/n cycles in the mean."""
        harmonic = (1 / np.arange(1, self.n + 1)).sum()
        squares = (1 / np.arange(1, self.n + 1) ** 2).sum()
        return (self.cycles - keys * harmonic) / math.sqrt(keys * (harmonic - squares))

    def _distinct_score(self, keys: int) -> float:
        """The range has `window` parts of n / window indices. How many of them does a window of positions miss?

        A part is missed when the whole window lies among the other indices: C(n - part, window) / C(n, window).
        """
        n, window = self.n, self.window
        part = n / window

        def log_choose(of: float, k: float) -> float:
            return math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)

        missed = window * math.exp(log_choose(n - part, window) - log_choose(n, window))
        windows = keys * (n // window)
        deviation = math.sqrt(windows * window * (math.exp(-1) - 2 * math.exp(-2)))
        return (self.distinct - windows * (window - missed)) / deviation


def worst(scores: dict[str, float]) -> tuple[str, float]:
    """Name and z-score of the statistic furthest from what true shuffles give."""
    return max(scores.items(), key=lambda item: abs(item[1]))


def passes(scores: dict[str, float]) -> bool:
    """Whether true shuffles would be this far off with a chance of at least FALSE_ALARM."""
    if not all(math.isfinite(z) for z in scores.values()):
        return False
    _, z = worst(scores)
    return p_value(z) * len(scores) >= FALSE_ALARM


def main(cfg: QualityConfig) -> None:
    """Print a markdown table of designs and sizes."""
    if (cfg.n is not None and cfg.n < 1000) or (cfg.seeds is not None and cfg.seeds < 10):
        raise ValueError(f"n ({cfg.n}) must be at least 1000, seeds ({cfg.seeds}) at least 10")
    sizes = list(SIZES) if cfg.n is None else [cfg.n]

    print("| n | seeds | design | worst \\|z\\| | in | p < 1e-3 | p < 1e-6 | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    begin_s = time.perf_counter()
    for n in sizes:
        seeds = cfg.seeds or SIZES.get(n, 24)
        for design, order in DESIGNS.items():
            scores = statistics(order, n, seeds)
            print(row(n, seeds, design, scores), flush=True)

    print(
        f"\n{len(scores)} statistics a row, over two epochs of each seed; bold: what sampler.permute uses for this n.\n"
        f"A row fails where true shuffles would be as far off in fewer than 1 of {1 / FALSE_ALARM:.0f} rows "
        f"(smallest p times {len(scores)}, Bonferroni). {time.perf_counter() - begin_s:.0f} s."
    )


def row(n: int, seeds: int, design: str, scores: dict[str, float]) -> str:
    """A line of the table."""
    used = "table (argsort of hashes)" if n <= TABLE_MAX else f"Feistel, {sampler.ROUNDS} rounds"
    label = f"**{design}**" if design == used else design
    name, z = worst(scores)
    below_3 = sum(p_value(z) < 1e-3 for z in scores.values())
    below_6 = sum(p_value(z) < 1e-6 for z in scores.values())
    verdict = "passes" if passes(scores) else "**fails**"
    return f"| {n} | {seeds} | {label} | {abs(z):.1f} | {name} | {below_3} | {below_6} | {verdict} |"


if __name__ == "__main__":
    configurator.run(main, QualityConfig, show=False)
