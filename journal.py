"""What a run leaves to be looked at: metrics.jsonl, speed.jsonl, loss.png, and Weights & Biases when asked.

metrics.jsonl holds what equal runs have equal, speed.jsonl the times and rates.
"""

import json
import math
import secrets
from pathlib import Path
from typing import Any

import atomic


class Journal:
    """Appends lines to the files of a run in `out_dir`, rewound to `step`: after a resume no line stands twice.

    wandb_options: arguments of wandb.init, or None for no wandb; a resumed run continues under the same id.
    """

    def __init__(self, out_dir: Path, step: int, wandb_options: dict[str, Any] | None = None):
        self.out_dir, self.run = out_dir, None
        for path in (out_dir / "metrics.jsonl", out_dir / "speed.jsonl"):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
            atomic.write(path, "".join(line for line in lines if step and _step_of(line) <= step).encode())
        if wandb_options is not None:
            import wandb  # 0.4 s and a background process: only when asked

            id_file = out_dir / "wandb_id"
            run_id = id_file.read_text(encoding="utf-8") if id_file.is_file() else secrets.token_hex(4)
            id_file.write_text(run_id, encoding="utf-8")
            quiet = wandb.Settings(silent=True)
            self.run = wandb.init(id=run_id, resume="allow", dir=out_dir, settings=quiet, **wandb_options)

    def log(self, metrics: dict[str, Any], speed: dict[str, Any] | None = None) -> None:
        """Append `metrics` (with its step) to metrics.jsonl, and `speed` with the same step to speed.jsonl."""
        _append(self.out_dir / "metrics.jsonl", metrics)
        if speed is not None:
            _append(self.out_dir / "speed.jsonl", {"step": metrics["step"], **speed})
        if self.run is not None:
            self.run.log(metrics | (speed or {}), step=metrics["step"])

    def close(self) -> None:
        """End the wandb run, if there is one."""
        if self.run is not None:
            self.run.finish()


def _append(path: Path, values: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut off by a kill


def plot(out_dir: Path, yardsticks: dict[str, float], nats_per_bit_per_byte: float) -> None:
    """Draw loss.png from metrics.jsonl: training and validation loss, the yardsticks (bits per byte) as level lines.

    nats_per_bit_per_byte: nats per token that one bit per byte of the validation text is.
    """
    from matplotlib.figure import Figure  # 0.3 s, needed once a run

    rows = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(8, 5), dpi=120, layout="tight")
    axes, scale = figure.subplots(), nats_per_bit_per_byte
    styles = {"loss": ("training", {"lw": 0.8, "alpha": 0.7}), "val_loss": ("validation", {"marker": "o", "ms": 4})}
    for key in sorted({key for row in rows for key in row if key.startswith("val_loss/")}):  # of several corpora
        styles[key] = (f"validation, {key.partition('/')[2]}", {"marker": ".", "lw": 0.8})
    for key, (label, style) in styles.items():
        if points := [(row["step"], row[key]) for row in rows if key in row]:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    for i, (name, bits) in enumerate(yardsticks.items()):
        axes.axhline(bits * scale, color=f"C{i + 2}", ls="--", lw=1, label=f"{name}: {bits:.3f} bits per byte")
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)", title=f"{out_dir.name}: loss")
    right = axes.secondary_yaxis("right", functions=(lambda y: y / scale, lambda y: y * scale))
    right.set_ylabel("bits per byte of validation text")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic.new_file(out_dir / "loss.png") as temporary:
        figure.savefig(temporary, format="png")
