"""What dedup.py leaves to be looked at: report.json (equal runs have equal bytes) and report.png; lines of counts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import atomic
from corpus.minhash import BANDS, ROWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Why a document is removed. Its number is its place here, from 1; 0 is a document that is kept.
KINDS = {"against": "with evaluation texts", "exact": "exact duplicates", "near": "near duplicates"}
KEPT = 0
AGAINST, EXACT, NEAR = range(1, 4)


def found_probability(similarity: np.ndarray) -> np.ndarray:
    """The S-curve: the chance that LSH finds a pair (Leskovec et al., Mining of Massive Datasets, 3.4.2)."""
    return 1 - (1 - similarity**ROWS) ** BANDS


def count_line(name: str, value: int, whole: int | None = None) -> str:
    """A line of the table after preparation: a name, which may be cut, a number, and its share of the whole."""
    label = name if len(name) <= 36 else name[:33] + "..."
    share = f"{100 * value / whole:>8.1f} %" if whole else ""
    return f"{label:<36}{value:>14,}{share}"


# --- report.json ---


def make_report(
    kind: np.ndarray,
    kept: np.ndarray,
    similarity: np.ndarray,
    size_bytes: np.ndarray,
    details: dict[str, Any],
) -> dict[str, Any]:
    """The report of what happened to the documents, each array with an entry for every one.

    kind: the number in KINDS, or KEPT; kept, similarity: the document that it is a duplicate of, and how similar;
    details: what the report holds besides.
    """
    count_by_kind: dict[str, int] = {}
    bytes_by_kind: dict[str, int] = {}
    for number, name in enumerate(["kept", *KINDS]):
        of_kind = kind == number
        count_by_kind[name] = int(of_kind.sum())
        bytes_by_kind[name] = int(size_bytes[of_kind].sum())

    report = {"documents": kind.size}
    for name in (*KINDS, "kept"):
        report[name] = count_by_kind[name]
    report["bytes"] = sum(bytes_by_kind.values())
    report["bytes_removed"] = report["bytes"] - bytes_by_kind["kept"]
    report["bytes_by_kind"] = bytes_by_kind

    is_duplicate = (kind == EXACT) | (kind == NEAR)
    report["clusters"] = count_clusters(kept[is_duplicate])

    # How many of the removed near-duplicates a higher threshold would remove at most, and what LSH finds there.
    near = similarity[kind == NEAR]
    report["near_at_least"] = {}
    for percent in range(70, 100, 5):
        at_least = near >= percent / 100
        report["near_at_least"][f"{percent / 100:.2f}"] = int(at_least.sum())
    report["found_probability"] = {}
    for percent in range(50, 100, 5):
        chance = found_probability(percent / 100)
        report["found_probability"][f"{percent / 100:.2f}"] = round(chance, 4)
    return report | details


def count_clusters(kept: np.ndarray) -> dict[str, int]:
    """How many clusters there are by size: {"2": ..., "3-4": ..., "5-8": ..., "9-16": ...}, to the largest.

    A cluster is a document that is kept and its duplicates, exact or near. kept: the kept document of each duplicate.
    """
    _, duplicates = np.unique(kept, return_counts=True)
    # A cluster with d duplicates has d + 1 documents. In binary, d = 1 has 1 digit; 2 and 3 have 2; 4 to 7 have 3.
    digits = np.frexp(duplicates)[1]
    counts = np.bincount(digits, minlength=2).tolist()

    clusters = {"2": counts[1]}
    for i in range(2, len(counts)):
        clusters[f"{2 ** (i - 1) + 1}-{2**i}"] = counts[i]
    return clusters


# --- report.png ---


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw a report: similarities of the pairs compared and the S-curve, sizes of clusters, what became of the text."""
    from matplotlib.figure import Figure  # 0.3 s, needed once a run

    figure = Figure(figsize=(15, 4), dpi=100)
    left, middle, right = figure.subplots(1, 3, width_ratios=(5, 3, 3))
    draw_pairs(left, report)
    draw_clusters(middle, report)
    draw_text(right, report)
    # Margins by hand: a layout engine draws everything twice.
    figure.subplots_adjust(
        left=0.05,
        right=0.99,
        top=0.97,
        bottom=0.13,
        wspace=0.35,
    )

    with atomic.new_file(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_pairs(axes: "Axes", report: dict[str, Any]) -> None:
    """The similarities of the pairs that were compared, and over them the chance that LSH finds such a pair."""
    levels = report["compared_by_similarity"]
    if not any(levels):
        axes.text(0.5, 0.5, "no pair was compared", ha="center", transform=axes.transAxes)
        axes.set_ylim(0, 1)
    edges = np.linspace(0, 1, len(levels) + 1)
    axes.stairs(levels, edges, fill=True, alpha=0.5)
    axes.set_xlabel("exact Jaccard similarity of documents with a common band")
    axes.set_ylabel("pairs")
    axes.set_yscale("symlog")

    curve = axes.twinx()
    similarity = np.linspace(0, 1, 201)
    threshold = report["settings"]["threshold"]
    chance = found_probability(similarity)
    curve.plot(similarity, chance, "C1", label=f"chance to be found, {BANDS} bands of {ROWS}")
    curve.axvline(threshold, color="C3", ls="--", lw=1, label=f"threshold {threshold}")
    curve.set_ylim(0, 1.02)
    curve.set_ylabel("chance to be found")
    curve.legend(loc="upper left")


def draw_clusters(axes: "Axes", report: dict[str, Any]) -> None:
    """How many clusters there are of each size."""
    clusters = report["clusters"]
    if not any(clusters.values()):
        axes.text(0.5, 0.5, "no duplicates", ha="center", transform=axes.transAxes)
        axes.set_ylim(0, 1)
    axes.bar(list(clusters), list(clusters.values()))
    axes.set_xlabel("documents in a cluster, of which one is kept")
    axes.set_ylabel("clusters")
    axes.set_yscale("symlog")


def draw_text(axes: "Axes", report: dict[str, Any]) -> None:
    """How much of the text is kept, and how much goes for each reason."""
    megabytes = {}
    for name, size_bytes in report["bytes_by_kind"].items():
        if size_bytes or name == "kept":
            megabytes[name] = size_bytes / 1e6

    total_bytes = max(1, report["bytes"])
    labels = [f"{size:,.1f} MB, {1e8 * size / total_bytes:.1f} %" for size in megabytes.values()]
    colors = [f"C{i}" for i in range(len(megabytes))]
    bars = axes.barh(list(megabytes), list(megabytes.values()), color=colors)
    axes.bar_label(bars, labels, padding=3)
    axes.margins(x=0.7)
    axes.set_xlabel(f"MB of text in {report['documents']:,} documents")
