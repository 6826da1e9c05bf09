"""Numbers and how sure they are: means, ratios, bootstrap intervals, and how they are printed."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NO_SHARES = ("perplexity", "bits_per_byte", "bytes_per_token")  # figures that are no part of the items
SEED = 1337  # of the samples of a bootstrap


@dataclass(frozen=True)
class Figure:
    """A number, and how far it may be from that of endlessly many such items."""

    value: float
    error: float | None = None  # standard error; None: of one item nothing is known
    interval: tuple[float, float] | None = None  # by a bootstrap: 95 % of its samples lie between the two


def as_json(figures: dict[str, Figure]) -> dict[str, Any]:
    """The figures as they stand in scores.json."""
    return {name: dataclasses.asdict(figure) for name, figure in figures.items()}


def bootstrap(groups: Sequence[np.ndarray], figure: Callable[[list[Any]], float], samples: int) -> tuple[float, float]:
    """Between which two values 95 % of the samples' figures lie (percentile interval, Efron 1979).

    groups: the items of each set, (n,) or (n, columns). A sample draws as many items of each set, with replacement;
    figure: what follows from the means of the sets. The draws are the same each time.
    """
    generator = np.random.default_rng(SEED)
    found = []
    for _ in range(samples):
        means = []
        for group in groups:
            drawn = generator.integers(len(group), size=len(group))
            means.append(group[drawn].mean(axis=0))
        found.append(figure(means))

    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def mean(values: Sequence[float], samples: int = 0) -> Figure:
    """The mean, and its standard error: the sample's deviation over the square root of n. samples: of a bootstrap."""
    n = len(values)
    column = np.array(values, np.float64)

    error = None
    if n > 1:
        error = float(np.std(column, ddof=1)) / math.sqrt(n)
    interval = None
    if samples:
        interval = bootstrap([column], lambda means: means[0], samples)
    return Figure(float(column.mean()), error, interval)


def ratio(parts: np.ndarray, wholes: np.ndarray, samples: int = 0) -> Figure:
    """The sum of `parts` over that of `wholes`, and its standard error, both (n,): bits and bytes of documents."""
    n = len(parts)
    value = float(parts.sum() / wholes.sum())

    error = None
    if n > 1:
        rest = parts - value * wholes  # what a document has more than its share
        error = float(np.std(rest, ddof=1) / wholes.mean() / math.sqrt(n))
    interval = None
    if samples:
        columns = np.stack([parts, wholes], axis=1)
        interval = bootstrap([columns], lambda means: means[0][0] / means[0][1], samples)
    return Figure(value, error, interval)


def centred(accuracy: Figure, chance: float) -> Figure:
    """0 for guessing, 1 for perfect: an accuracy of 40 % where chance is 25 % is (0.40 - 0.25) / (1 - 0.25) = 0.2."""
    scale = 1 - chance
    value = (accuracy.value - chance) / scale

    error = None
    if accuracy.error is not None:
        error = accuracy.error / scale
    interval = None
    if accuracy.interval is not None:
        low, high = accuracy.interval
        interval = ((low - chance) / scale, (high - chance) / scale)
    return Figure(value, error, interval)


def perplexity(logprobs: Sequence[float], samples: int = 0) -> Figure:
    """exp of minus the mean log-probability of an answer, as far as floats go."""

    def of_mean(logprob: float) -> float:
        return math.exp(min(-logprob, 700.0))

    logprob = mean(logprobs)
    value = of_mean(logprob.value)

    error = None
    if logprob.error is not None:
        error = value * logprob.error  # exp's slope
    interval = None
    if samples:
        interval = bootstrap([np.array(logprobs)], lambda means: of_mean(means[0]), samples)
    return Figure(value, error, interval)


def error_of_sum(errors: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The standard error of a weighted sum of independent figures: the squares add up. None where one is not known."""
    if None in errors:
        return None
    squares = np.square(np.array(weights) * np.array(errors))
    return float(np.sqrt(squares.sum()))


# --- for a reader ---


def show(name: str, figure: Figure) -> str:
    """acc 49.5 ±3.5, in per cent, with an interval [42.8, 56.3] as well; perplexity and bits as they are."""
    is_share = name not in NO_SHARES
    shown = [name, in_table(figure.value, is_share)]
    if figure.error is not None:
        shown.append(f"±{in_table(figure.error, is_share, digits=2)}")
    if figure.interval is not None:
        low, high = figure.interval
        shown.append(f"[{in_table(low, is_share)}, {in_table(high, is_share)}]")
    return " ".join(shown)


def in_table(value: float, is_share: bool, digits: int = 4) -> str:
    """0.495 as 49.5, for a share; else as many digits."""
    return f"{100 * value:.1f}" if is_share else f"{value:.{digits}g}"
