"""What a run leaves to be looked at: metrics.jsonl, speed.jsonl, loss.png, scores.png, and Weights & Biases when asked.

metrics.jsonl holds what equal runs have equal, speed.jsonl the times and rates.
"""

import json
import math
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Journal:
    """Appends lines to the files of a run in `out_dir`.

    resumed_at: the step at which the run in out_dir goes on; lines after it are dropped, so that none stands twice.
    None: a run begins here, and lines that an earlier one left are dropped.
    wandb_options: arguments of wandb.init, or None for no wandb. A run that goes on keeps its id.
    """

    def __init__(self, out_dir: Path, resumed_at: int | None, wandb_options: dict[str, Any] | None = None):
        self.out_dir = out_dir
        self.wandb_run = None
        for name in ("metrics.jsonl", "speed.jsonl"):
            rewind(out_dir / name, resumed_at)

        if wandb_options is not None:
            import wandb  # 0.4 s and a background process: only when asked

            self.wandb_run = wandb.init(
                id=wandb_id(out_dir, resumed=resumed_at is not None),
                resume="allow",
                dir=out_dir,
                settings=wandb.Settings(silent=True),
                **wandb_options,
            )

    def log(self, metrics: dict[str, Any], speed: dict[str, Any] | None = None) -> None:
        """Append `metrics` (with its step) to metrics.jsonl, and `speed` with the same step to speed.jsonl.

        Numbers that are NaN or infinite become null: JSON has no other way to write them.
        """
        metrics = {key: _finite_or_none(value) for key, value in metrics.items()}
        _append(self.out_dir / "metrics.jsonl", metrics)
        if speed is not None:
            _append(self.out_dir / "speed.jsonl", {"step": metrics["step"], **speed})
        if self.wandb_run is not None:
            self.wandb_run.log(metrics | (speed or {}), step=metrics["step"])

    def close(self) -> None:
        """End the wandb run, if there is one."""
        if self.wandb_run is not None:
            self.wandb_run.finish()


class NoJournal:
    """The journal of the processes other than the first: it writes nothing."""

    def log(self, metrics: dict[str, Any], speed: dict[str, Any] | None = None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def rewind(path: Path, step: int | None) -> None:
    """Keep the lines of a journal file up to `step`, and drop one that a kill cut off; None: drop all lines."""
    kept = ""
    if step is not None and path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if _step_of(line) <= step)
    atomic.write(path, kept.encode())


def wandb_id(out_dir: Path, resumed: bool) -> str:
    """The id of the run in out_dir, kept in its file wandb_id: a new one unless the run goes on."""
    file = out_dir / "wandb_id"
    if resumed and file.is_file():
        return file.read_text(encoding="utf-8")
    new_id = secrets.token_hex(4)
    file.write_text(new_id, encoding="utf-8")
    return new_id


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
    rows = _read_metrics(out_dir)
    figure, axes = _new_picture()
    _draw_losses(axes, rows)
    _draw_texts(axes, rows, nats_per_bit_per_byte)
    for name, bits in yardsticks.items():
        label = f"{name}: {bits:.3f} bits per byte"
        nats = bits * nats_per_bit_per_byte
        next_color = f"C{len(axes.get_lines())}"
        axes.axhline(nats, color=next_color, ls="--", lw=1, label=label)

    def to_bits(nats: float) -> float:
        return nats / nats_per_bit_per_byte

    def to_nats(bits: float) -> float:
        return bits * nats_per_bit_per_byte

    axes.set_title(f"{out_dir.name}: loss")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss (nats per token)")
    right = axes.secondary_yaxis("right", functions=(to_bits, to_nats))
    right.set_ylabel("bits per byte of validation text")
    _finish(figure, axes, out_dir / "loss.png")


def plot_scores(out_dir: Path, chances: dict[str, float | None]) -> None:
    """Draw scores.png from metrics.jsonl: accuracies over the step in per cent, and what guessing gives as level lines.

    chances: for each key of metrics.jsonl what guessing gives, 0.25 or None. The band around a curve is one standard
    error, from `<key>_stderr`.
    """
    rows = _read_metrics(out_dir)
    figure, axes = _new_picture()
    for i, (key, chance) in enumerate(chances.items()):
        color = f"C{i}"
        label = key.removeprefix("eval/").replace("/", " ")
        points = [row for row in rows if row.get(key) is not None]
        steps = [row["step"] for row in points]
        shares = [100 * row[key] for row in points]
        errors = [100 * row.get(f"{key}_stderr", 0) for row in points]
        axes.plot(steps, shares, color=color, marker="o", ms=4, label=label)

        lower = [share - error for share, error in zip(shares, errors, strict=True)]
        upper = [share + error for share, error in zip(shares, errors, strict=True)]
        axes.fill_between(steps, lower, upper, color=color, alpha=0.15, lw=0)
        if chance is not None:
            axes.axhline(100 * chance, color=color, ls="--", lw=1)

    axes.set_title(f"{out_dir.name}: scores (dashed: guessing; band: one standard error)")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("accuracy (%)")
    _finish(figure, axes, out_dir / "scores.png")


def _read_metrics(out_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    text = (out_dir / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _new_picture() -> tuple["Figure", "Axes"]:
    """A figure with one pair of axes."""
    from matplotlib.figure import Figure  # 0.3 s, needed once a run

    figure = Figure(figsize=(8, 5), dpi=120, layout="tight")
    return figure, figure.subplots()


def _finish(figure: "Figure", axes: "Axes", path: Path) -> None:
    """Grid and legend, then the file."""
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic.new_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_losses(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    """A curve for the training loss, one for the validation loss, and one for each corpus of several."""
    _draw_curve(axes, rows, "loss", "training", lw=0.8, alpha=0.7)
    _draw_curve(axes, rows, "val_loss", "validation", marker="o", ms=4)
    keys = {key for row in rows for key in row}
    for key in sorted(keys):
        kind, slash, corpus = key.partition("/")
        if kind == "val_loss" and slash:
            _draw_curve(axes, rows, key, f"validation, {corpus}", marker=".", lw=0.8)


def _draw_texts(axes: "Axes", rows: list[dict[str, Any]], nats_per_bit_per_byte: float) -> None:
    """A curve for the bits per byte of each text among eval_tasks."""
    keys = {key for row in rows for key in row}
    for key in sorted(keys):
        if key.startswith("eval/") and key.endswith("/bits_per_byte"):
            label = f"{key.split('/')[1]}, bits per byte"
            _draw_curve(axes, rows, key, label, scale=nats_per_bit_per_byte, marker="s", ms=3, lw=0.8)


def _draw_curve(
    axes: "Axes", rows: list[dict[str, Any]], key: str, label: str, scale: float = 1.0, **style: Any
) -> None:
    """The values of `key`, times `scale`, over the step; nothing where no row has it."""
    shown = [row for row in rows if key in row]
    if not shown:
        return
    steps = [row["step"] for row in shown]
    values = [math.nan if row[key] is None else row[key] * scale for row in shown]  # NaN: a gap
    axes.plot(steps, values, label=label, **style)
