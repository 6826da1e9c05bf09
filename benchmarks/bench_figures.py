"""What the parts of bench.py share: figures over rounds, ratios, targets.

It imports nothing large: processes that are weighed import it too.
"""

import contextlib
import importlib
import resource
import statistics
import sys
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.bench_config import Figures

Spread = dict[str, float]  # median, min, max


def spread(values: Iterable[float]) -> Spread:
    """Median, min and max."""
    values = list(values)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def largest_of(values: Iterable[float]) -> Spread:
    """The spread with the largest as its middle: for a target that every value has to meet."""
    result = spread(values)
    result["median"] = result["max"]
    return result


def summary(samples: list[Figures]) -> dict[str, Spread | None]:
    """The spread of each figure over the rounds; None for one that this system does not tell."""
    result = {}
    for name, value in samples[0].items():
        result[name] = None if value is None else spread(sample[name] for sample in samples)
    return result


def ratios(own: list[Figures], peer: list[Figures], names: Iterable[str]) -> dict[str, Spread]:
    """Own figure / the peer's, within each round, for those figures that both have; then its spread."""
    result = {}
    for name in names:
        if own[0].get(name) is None or not peer[0].get(name):
            continue
        result[name] = spread(mine[name] / theirs[name] for mine, theirs in zip(own, peer, strict=True))
    return result


def number(x: float) -> str:
    """1.41 or 4,816."""
    return f"{x:.2f}" if x < 100 else f"{x:,.0f}"


def fraction(x: float) -> str:
    """0.85 as it is, 0.0005 as 1/2,000."""
    return f"1/{1 / x:,.0f}" if 0 < x < 0.01 else f"{x:.2f}"


def shown(figure: Spread | None, format: Callable[[float], str] = number) -> str:
    """`median (min-max)`; a dash for nothing."""
    if not figure:
        return "-"
    return f"{format(figure['median'])} ({format(figure['min'])}-{format(figure['max'])})"


def scaled(figure: Spread | None, factor: float) -> Spread | None:
    """A figure in another unit."""
    return None if figure is None else {key: value * factor for key, value in figure.items()}


def target(text: str, measured: Spread | None, limit: float, most: bool = True, unit: str = "") -> dict[str, Any]:
    """A target, what was measured and whether its median meets it; None: it could not be measured.

    most: the limit is the most that is allowed; else the least.
    """
    if measured is None:
        met = None
    elif most:
        met = bool(measured["median"] <= limit)
    else:
        met = bool(measured["median"] >= limit)
    return {"target": text, "measured": measured, "limit": limit, "unit": unit, "met": met}


def target_lines(targets: list[dict[str, Any]]) -> list[str]:
    """One line for each target, with what was measured (a ratio, if it has no unit) and `met` or `missed`."""
    verdicts = {True: "met", False: "missed", None: "not measured"}
    lines = ["targets:"]
    for row in targets:
        measured = shown(row["measured"], number if row["unit"] else fraction)
        lines.append(f"  {row['target']}: {measured}{row['unit']}, {verdicts[row['met']]}")
    return lines


def speed_table(results: dict[str, dict[str, Any]], rate: str) -> list[str]:
    """A line for each row: its speed and memory, and ours over these in the same round.

    results: {name: {"rate", "memory_bytes", "ours_over_it": {"rate", "memory_bytes"}}}, spreads. rate: its unit.
    """
    width = max(map(len, results))
    title = f"{rate} (min-max)"
    lines = [f"{'':{width}} {title:>24} {'memory, MB':>24} {'ours: speed x':>20} {'memory x':>20}"]
    for name, row in results.items():
        speed = shown(row["rate"])
        memory = shown(scaled(row["memory_bytes"], 1e-6))
        over = row["ours_over_it"]
        speed_over = shown(over["rate"])
        memory_over = shown(over["memory_bytes"])
        lines.append(f"{name:{width}} {speed:>24} {memory:>24} {speed_over:>20} {memory_over:>20}")
    return lines


def need(module: str) -> Any:
    """Import a package of requirements-dev.txt. Raises ValueError with the pip line when it does not import."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{module} does not import ({error}); run: pip install -r requirements-dev.txt") from None


def peak_rss() -> int:
    """Largest resident set of this process so far, in bytes.

    From /proc where there is one: Linux hands ru_maxrss down, a small child of a process of 500 MB starts with 500 MB.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
