"""How far a family of shuffles is from true ones: statistics with known distributions, and designs that fail them.

    python benchmarks/sampler_quality.py     a table of designs, in markdown; about a quarter of an hour

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
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import sampler
from sampler import TABLE_MAX, hash_key

Order = Callable[[int, int, int], np.ndarray]
FALSE_ALARM = 1e-4  # chance that true shuffles fail one verdict, over all of its statistics together (Bonferroni)
BINS = 64
SIZES = {4097: 1500, 65537: 400, 131072: 200, 1_000_003: 24}  # n: number of seeds, for the printed table


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
        with mock.patch.object(sampler, "ROUNDS", rounds):
            return sampler._feistel(np.arange(n, dtype=np.uint64), n, hash_key(seed, epoch, n, 0)).astype(np.int64)

    return order


def affine(n: int, seed: int, epoch: int) -> np.ndarray:
    """x -> f x + c mod n, the full-period linear congruential generator of random access."""
    factor = hash_key(seed, epoch, 1) % n
    while math.gcd(factor, n) > 1:
        factor += 1
    return (np.arange(n) * factor + hash_key(seed, epoch, 2) % n) % n


def chunk_local(n: int, seed: int, epoch: int) -> np.ndarray:
    """A true shuffle inside each tenth of the range, the tenths in order: what a shuffle buffer comes to."""
    chunks = np.array_split(np.arange(n), 10)
    return np.concatenate([np.random.default_rng((seed, epoch)).permutation(chunk) for chunk in chunks])


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
    expected = counts.sum() / counts.size if expected is None else expected
    return chi_square_score(((counts - expected) ** 2 / expected).sum(), counts.size - 1 if dof is None else dof)


def chi_square_score(chi2: float, dof: int) -> float:
    """z of a value that is chi-square distributed."""
    return ((chi2 / dof) ** (1 / 3) - (1 - 2 / (9 * dof))) / math.sqrt(2 / (9 * dof))


def poisson_score(count: int, mean: float) -> float:
    """z of a Poisson count: at most k has the chance that chi-square of 2k + 2 exceeds 2 * mean."""
    return -chi_square_score(2 * mean, 2 * (count + 0.5))


def p_value(z: float) -> float:
    """Two-sided chance of a normal z-score at least that far from 0."""
    return math.erfc(abs(z) / math.sqrt(2))


def inversions(order: np.ndarray) -> int:
    """Pairs i < j with order[i] > order[j] (Kendall's tau), by a radix sort of a permutation of range(n)."""
    n, total, order = len(order), 0, np.array(order)
    for bit in reversed(range(n.bit_length())):  # here equal high bits stand together, in their original order
        ones = order >> bit & 1
        start = order >> bit + 1 << bit + 1  # where the elements with the same high bits begin
        before = np.cumsum(ones) - ones
        before -= before[start]  # of the same high bits: how many ones stand before
        total += int(before[ones == 0].sum())
        place = start + np.where(ones == 1, (1 << bit) + before, np.arange(n) - start - before)
        order[place] = order.copy()
    return total


def cycles(order: np.ndarray) -> int:
    """Cycles of a permutation: each element learns the least of its next 1, 2, 4, ... successors."""
    least = np.arange(len(order))
    for _ in range(len(order).bit_length()):
        least, order = np.minimum(least, least[order]), order[order]
    return int((least == np.arange(len(least))).sum())


# --- the suite ---


def lags(n: int) -> dict[str, int]:
    """1 and 2, and those at which the Feistel network shows first: its columns, b = about sqrt(n)."""
    b = -(-n // (math.isqrt(n - 1) + 1))
    return {"1": 1, "2": 2, "b-1": b - 1, "b": b, "2b": 2 * b}


def statistics(order: Order, n: int, keys: int) -> dict[str, float]:
    """z-scores of order(n, seed, epoch) for seeds 0 .. keys - 1 and epochs 0 and 1. At least 10 keys, n >= 1000."""
    here, centre, variance = np.arange(n), (n - 1) / 2, (n * n - 1) / 12
    window = 1 << int(math.log2(n / 2)) // 2
    counts = {f"differences at lag {name}": np.zeros(BINS, dtype=np.int64) for name in lags(n)}
    counts |= {"differences of epochs": np.zeros(BINS, dtype=np.int64), "differences of seeds": np.zeros(BINS, int)}
    grid, neighbours = np.zeros(1024, dtype=np.int64), np.zeros(256, dtype=np.int64)
    scores = {f"serial correlation at lag {name}": [] for name in lags(n)} | {"inversions": []}
    correlations = {"correlation of epochs": [], "correlation of seeds": []}
    agreements = dict.fromkeys(["fixed points", "agreements of epochs", "agreements of seeds", "seed + epoch"], 0)
    found_cycles, distinct = 0, 0
    previous = None
    for seed in range(keys):
        p, q = order(n, seed, 0), order(n, seed, 1)
        for name, lag in lags(n).items():
            counts[f"differences at lag {name}"] += np.bincount((p[lag:] - p[:-lag]) % n * BINS // n, minlength=BINS)
            r = ((p[lag:] - centre) * (p[:-lag] - centre)).mean() / variance
            scores[f"serial correlation at lag {name}"].append((r + 1 / n) * math.sqrt(n - lag))
        mean, spread = n * (n - 1) / 4, math.sqrt(n * (n - 1) * (2 * n + 5) / 72)
        scores["inversions"].append((inversions(p) - mean) / spread)
        grid += np.bincount(here * 32 // n * 32 + p * 32 // n, minlength=1024)
        neighbours += np.bincount(p * 16 // n * 16 + np.roll(p, -1) * 16 // n, minlength=256)
        cells = (p[: n // window * window] * window // n).reshape(-1, window) + here[: n // window, None] * window
        distinct += np.count_nonzero(np.bincount(cells.ravel()))
        found_cycles += cycles(p)
        agreements["fixed points"] += int((p == here).sum())
        for name, other in [("epochs", q), ("seeds", previous and previous[0])]:
            if other is not None:
                counts[f"differences of {name}"] += np.bincount((p - other) % n * BINS // n, minlength=BINS)
                r = ((p - centre) * (other - centre)).mean() / variance
                correlations[f"correlation of {name}"].append(r * math.sqrt(n - 1))
                agreements[f"agreements of {name}"] += int((p == other).sum())
        if previous:  # (seed, epoch) = (s, 1) and (s + 1, 0): the same order where the two are added up
            agreements["seed + epoch"] += int((p == previous[1]).sum())
        previous = p, q

    found = {}
    for name, z in scores.items():
        found[name] = sum(z) / math.sqrt(keys)
        found[f"{name}, spread"] = chi_square_score(np.square(z).sum(), keys)
    for name, z in correlations.items():
        found[name] = sum(z) / math.sqrt(len(z))
    for name, seen in counts.items():  # never 0 within an order: the first bin holds one difference less
        first = 1 if "lag" in name else 0
        share = np.bincount(np.arange(first, n) * BINS // n, minlength=BINS) / (n - first)
        found[name] = chi_square(seen, seen.sum() * share)
    for name, count in agreements.items():
        found[name] = poisson_score(count, keys if name in ("fixed points", "agreements of epochs") else keys - 1)
    row = np.bincount(here * 32 // n)  # positions in a row, and indices in a column, of the grid
    found["grid of 32 x 32"] = chi_square(grid, keys * np.outer(row, row).ravel() / n, dof=31 * 31)
    row = np.bincount(here * 16 // n)
    found["neighbours, 16 x 16"] = chi_square(neighbours, keys * np.outer(row, row).ravel() / n, dof=15 * 15)
    harmonic, squares = (1 / np.arange(1, n + 1)).sum(), (1 / np.arange(1, n + 1) ** 2).sum()
    found["cycles"] = (found_cycles - keys * harmonic) / math.sqrt(keys * (harmonic - squares))
    # cells of n / window indices that a window of as many positions leaves empty: all of it lies in the other cells
    log_c = [math.lgamma(k + 1) for k in (n - n / window, n - window, n - n / window - window, n)]
    empty = window * math.exp(log_c[0] + log_c[1] - log_c[2] - log_c[3])
    windows = keys * (n // window)
    spread = math.sqrt(windows * window * (math.exp(-1) - 2 * math.exp(-2)))
    found["distinct per window"] = (distinct - windows * (window - empty)) / spread
    return {name: float(z) for name, z in found.items()}


def worst(found: dict[str, float]) -> tuple[str, float]:
    """Name and z-score of the statistic furthest from what true shuffles give."""
    return max(found.items(), key=lambda item: abs(item[1]))


def passes(found: dict[str, float]) -> bool:
    """Whether true shuffles would be this far off with a chance of at least FALSE_ALARM."""
    return all(math.isfinite(z) for z in found.values()) and p_value(worst(found)[1]) * len(found) >= FALSE_ALARM


def main() -> None:
    """Print a markdown table of designs and sizes."""
    print("| n | seeds | design | worst \\|z\\| | in | p < 1e-3 | p < 1e-6 | verdict |")
    print("|---|---|---|---|---|---|---|---|")
    begin = time.perf_counter()
    for n, keys in SIZES.items():
        used = "table (argsort of hashes)" if n <= TABLE_MAX else f"Feistel, {sampler.ROUNDS} rounds"
        for design, order in DESIGNS.items():
            found = statistics(order, n, keys)
            name, z = worst(found)
            few = [sum(p_value(z) < level for z in found.values()) for level in (1e-3, 1e-6)]
            label = f"**{design}**" if design == used else design
            verdict = "passes" if passes(found) else "**fails**"
            print(f"| {n} | {keys} | {label} | {abs(z):.1f} | {name} | {few[0]} | {few[1]} | {verdict} |", flush=True)
    print(
        f"\n{len(found)} statistics a row, over two epochs of each seed; bold: what sampler.permute uses for this n.\n"
        f"A row fails where true shuffles would be as far off in fewer than 1 of {1 / FALSE_ALARM:.0f} rows "
        f"(smallest p times {len(found)}, Bonferroni). {time.perf_counter() - begin:.0f} s."
    )


if __name__ == "__main__":
    main()
