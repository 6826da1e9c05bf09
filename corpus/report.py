"""What dedup.py leaves to be looked at: report.json (equal runs have equal bytes) and report.png."""

from pathlib import Path
from typing import Any

import numpy as np

import atomic
from corpus.minhash import BANDS, ROWS

# of what is removed
KINDS = {"against": "with evaluation texts", "exact": "exact duplicates", "near": "near duplicates"}


def found_probability(similarity: np.ndarray) -> np.ndarray:
    """The S-curve: the chance that LSH finds a pair (Leskovec et al., Mining of Massive Datasets, 3.4.2)."""
    return 1 - (1 - similarity**ROWS) ** BANDS


def make_report(
    kind: np.ndarray, kept: np.ndarray, similarity: np.ndarray, size_bytes: np.ndarray, further: dict[str, Any]
) -> dict[str, Any]:
    """The report of what happened to the documents, each array with an entry for every one.

    kind: 0 for what is kept, else the number in KINDS, from 1; kept, similarity: the document that it is a duplicate
    of, and how similar; further: what the report holds besides.
    """
    names = ("kept", *KINDS)
    counts = dict(zip(names, np.bincount(kind, minlength=len(names)).tolist(), strict=True))
    sizes = np.bincount(kind, size_bytes, len(names)).astype(np.int64)
    report = {"documents": kind.size} | {name: counts[name] for name in (*KINDS, "kept")}
    report |= {"bytes": int(sizes.sum()), "bytes_removed": int(sizes[1:].sum())}
    report["bytes_by_kind"] = dict(zip(names, sizes.tolist(), strict=True))
    # a cluster: a document that is kept and its duplicates, exact or near
    members = np.unique(kept[kind > names.index("against")], return_counts=True)[1] + 1
    steps = np.bincount(np.frexp(members - 1)[1], minlength=2).tolist()
    report["clusters"] = {f"{2**i // 2 + 1}-{2**i}" if i > 1 else "2": n for i, n in enumerate(steps) if i}
    # how many of the removed near-duplicates a higher threshold would remove at most, and what LSH finds there
    near = similarity[kind == names.index("near")]
    report["near_at_least"] = {f"{t / 100:.2f}": int((near >= t / 100).sum()) for t in range(70, 100, 5)}
    chances = {s: found_probability(s / 100) for s in range(50, 100, 5)}
    report["found_probability"] = {f"{s / 100:.2f}": round(chance, 4) for s, chance in chances.items()}
    return report | further


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw a report: similarities of the pairs compared and the S-curve, sizes of clusters, what became of the text."""
    from matplotlib.figure import Figure  # 0.3 s, needed once a run

    figure, threshold = Figure(figsize=(15, 4), dpi=100), report["settings"]["threshold"]
    pairs, clusters, text = figure.subplots(1, 3, width_ratios=(5, 3, 3))
    levels, curve, s = report["compared_by_similarity"], pairs.twinx(), np.linspace(0, 1, 201)
    pairs.stairs(levels, np.linspace(0, 1, len(levels) + 1), fill=True, alpha=0.5)
    pairs.set(xlabel="exact Jaccard similarity of documents with a common band", ylabel="pairs", yscale="symlog")
    curve.plot(s, found_probability(s), "C1", label=f"chance to be found, {BANDS} bands of {ROWS}")
    curve.axvline(threshold, color="C3", ls="--", lw=1, label=f"threshold {threshold}")
    curve.set(ylim=(0, 1.02), ylabel="chance to be found")
    curve.legend(loc="upper left")
    clusters.bar(list(report["clusters"]), list(report["clusters"].values()))
    clusters.set(xlabel="documents in a cluster, of which one is kept", ylabel="clusters", yscale="symlog")
    shares = {name: size / 1e6 for name, size in report["bytes_by_kind"].items() if size or name == "kept"}
    labels = [f"{size:,.1f} MB, {1e8 * size / max(1, report['bytes']):.1f} %" for size in shares.values()]
    bars = text.barh(list(shares), list(shares.values()), color=[f"C{i}" for i in range(len(shares))])
    text.bar_label(bars, labels, padding=3)
    text.margins(x=0.7)
    figure.subplots_adjust(left=0.05, right=0.99, top=0.97, bottom=0.13, wspace=0.35)  # faster than a layout engine
    text.set(xlabel=f"MB of text in {report['documents']:,} documents")
    with atomic.new_file(path) as temporary:
        figure.savefig(temporary, format="png")
