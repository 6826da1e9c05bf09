"""Draw docs/sampler_order.png and docs/sampler_memory.png.

python bench.py --part=sampler && python benchmarks/plot_sampler.py
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator
from sampler import permute


@dataclass(frozen=True)
class PlotConfig:
    """Settings of `python benchmarks/plot_sampler.py`."""

    record: str = str(ROOT / "out/bench/sampler.json")  # of bench.py --part=sampler
    out: str = str(ROOT / "docs")  # folder of the pictures


def plot_order(path: Path, n: int = 1000, chunks: int = 10) -> None:
    """Index drawn at each position: a full shuffle, a shuffle inside chunks, an affine map."""
    positions = np.arange(n)
    size = n // chunks
    random = np.random.default_rng(0)
    chunked = np.concatenate([random.permutation(size) + k * size for k in range(chunks)])
    panels = {
        "sampler.permute": permute(positions, n, seed=0),
        f"shuffled within {chunks} chunks": chunked,
        f"affine map (387 i + 1) mod {n}": (387 * positions + 1) % n,
    }

    figure, axes = plt.subplots(1, 3, figsize=(9, 3.5), sharey=True, layout="constrained")
    for axis, (title, index) in zip(axes, panels.items(), strict=True):
        assert len(set(index.tolist())) == n, title
        axis.plot(positions, index, ".", markersize=2)
        axis.set(xlabel="position", aspect="equal")
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel("index drawn there")
    figure.savefig(path, dpi=110)


def plot_memory(record: Path, path: Path) -> None:
    """Peak memory against n: measured points, and hollow ones for what bytes per index predict where none was run."""
    results = json.loads(record.read_text(encoding="utf-8"))["results"].values()
    samplers = list(dict.fromkeys(row["sampler"] for row in results))

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, marker in zip(samplers, "osv^D", strict=True):
        rows = [row for row in results if row["sampler"] == name]
        n = np.array([row["n"] for row in rows])
        measured = np.array([not row["absent"] for row in rows])
        size_bytes = [row["needs_bytes"] if row["absent"] else row["peak_bytes"]["median"] for row in rows]
        megabytes = np.array(size_bytes) / 1e6

        linestyle = ":" if "rank" in name else "-"  # two pairs of lines coincide: one of each is dotted
        (line,) = axis.loglog(n, megabytes, marker, linestyle=linestyle, fillstyle="none", label=name)
        axis.loglog(n[measured], megabytes[measured], marker, color=line.get_color())

    axis.set(xlabel="samples", ylabel="peak memory on one rank, MB", title="filled: measured; hollow: predicted")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(cfg: PlotConfig) -> None:
    """Draw both."""
    record, folder = Path(cfg.record), Path(cfg.out)
    if not record.is_file():
        raise ValueError(f"{record} is missing; run: python bench.py --part=sampler")
    plot_order(folder / "sampler_order.png")
    plot_memory(record, folder / "sampler_memory.png")


if __name__ == "__main__":
    configurator.run(main, PlotConfig, show=False)
