"""What the parts of bench.py share: figures over rounds, ratios, targets.

It imports nothing large: processes that are weighed import it too.
"""

import importlib
import statistics
from collections.abc import Callable, Iterable
from typing import Any

Samples = dict[str, list[dict[str, Any]]]  # case -> the figures of each round


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, min and max."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def largest_of(values: Iterable[float]) -> dict[str, float]:
    """The spread with the largest as its middle: for a target that every value has to meet."""
    found = spread(values)
    return found | {"median": found["max"]}


def summary(samples: list[dict[str, Any]]) -> dict[str, dict[str, float] | None]:
    """The spread of each figure over the rounds; None for one that this system does not tell."""
    return {key: None if samples[0][key] is None else spread(s[key] for s in samples) for key in samples[0]}


def ratios(own: list[dict[str, Any]], peer: list[dict[str, Any]], figures: Iterable[str]) -> dict[str, Any]:
    """Own figure / the peer's, within each round, for those figures that both have; then its spread."""
    common = [key for key in figures if own[0].get(key) is not None and peer[0].get(key)]
    return {key: spread(a[key] / b[key] for a, b in zip(own, peer, strict=True)) for key in common}


def number(x: float) -> str:
    """1.41 or 4,816."""
    return f"{x:.2f}" if x < 100 else f"{x:,.0f}"


def shown(found: dict[str, float] | None, format: Callable[[float], str] = number) -> str:
    """`median (min-max)`; a dash for nothing."""
    return f"{format(found['median'])} ({format(found['min'])}-{format(found['max'])})" if found else "-"


def fraction(x: float) -> str:
    """0.85 as it is, 0.0005 as 1/2,000."""
    return f"1/{1 / x:,.0f}" if 0 < x < 0.01 else f"{x:.2f}"


def target(
    text: str, measured: dict[str, float] | None, limit: float, most: bool = True, unit: str = ""
) -> dict[str, Any]:
    """A target, what was measured and whether its median meets it; None: it could not be measured."""
    met = None if measured is None else bool(measured["median"] <= limit if most else measured["median"] >= limit)
    return {"target": text, "measured": measured, "limit": limit, "unit": unit, "met": met}


def target_lines(targets: list[dict[str, Any]]) -> list[str]:
    """One line for each target, with what was measured (a ratio, if it has no unit) and `met` or `missed`."""
    lines, verdicts = ["targets:"], {True: "met", False: "missed", None: "not measured"}
    for row in targets:
        measured = shown(row["measured"], number if row["unit"] else fraction) + row["unit"]
        lines.append(f"  {row['target']}: {measured}, {verdicts[row['met']]}")
    return lines


def need(module: str) -> Any:
    """Import a package of requirements-dev.txt. Raises ValueError with the pip line when it does not import."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} does not import ({error}); run: pip install -r requirements-dev.txt") from None
