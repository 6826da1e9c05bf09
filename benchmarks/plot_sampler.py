"""Draw docs/sampler_order.png and docs/sampler_memory.png.

python bench.py --part=sampler && python benchmarks/plot_sampler.py
"""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder
DOCS = ROOT / "docs"
from sampler import permute

RECORD = ROOT / "out/bench/sampler.json"


def order(path: Path, n: int = 1000, chunks: int = 10) -> None:
    """Index drawn at each position: a full shuffle, a shuffle inside chunks, an affine map."""
    places, size, random = np.arange(n), n // chunks, np.random.default_rng(0)
    chunked = np.concatenate([random.permutation(size) + k * size for k in range(chunks)])
    panels = {
        "sampler.permute": permute(places, n, seed=0),
        f"shuffled within {chunks} chunks": chunked,
        f"affine map (387 i + 1) mod {n}": (387 * places + 1) % n,
    }
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), sharey=True, layout="constrained")
    for axis, (title, index) in zip(axes, panels.items(), strict=True):
        assert len(set(index.tolist())) == n, title
        axis.plot(places, index, ".", markersize=2)
        axis.set(xlabel="position", aspect="equal")
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("index drawn there")
    figure.savefig(path, dpi=110)


def memory(path: Path) -> None:
    """Peak memory against n: measured points, and hollow ones for what bytes per index predict where none was run."""
    results = json.loads(RECORD.read_text(encoding="utf-8"))["results"].values()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    samplers = list(dict.fromkeys(row["sampler"] for row in results))
    for name, marker in zip(samplers, "osv^D", strict=True):
        rows = [row for row in results if row["sampler"] == name]
        megabytes = [(row["needs_bytes"] if row["absent"] else row["peak_bytes"]["median"]) / 1e6 for row in rows]
        n, run = np.array([row["n"] for row in rows]), [not row["absent"] for row in rows]
        style = {"marker": marker, "linestyle": ":" if "rank" in name else "-", "fillstyle": "none"}
        (line,) = axis.loglog(n, megabytes, label=name, **style)  # two pairs of lines coincide: one of each is dotted
        axis.loglog(n[run], np.array(megabytes)[run], marker, color=line.get_color())
    axis.set(xlabel="samples", ylabel="peak memory on one rank, MB", title="filled: measured; hollow: predicted")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if not RECORD.is_file():
        sys.exit(f"{RECORD.relative_to(DOCS.parent)} is missing; run: python bench.py --part=sampler")
    order(DOCS / "sampler_order.png")
    memory(DOCS / "sampler_memory.png")
