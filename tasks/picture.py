"""Scores of several checkpoints as one picture: rows of dots, or curves over the steps of a run."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import atomic
from tasks.compare import Scores, headline_of, is_core, labels_of
from tasks.statistics import NO_SHARES, Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

STEP = re.compile(r"(?P<run>.+)-step_(?P<step>\d+)")  # how evaluate.py names the results of a run's checkpoint
BAR_ERRORS = 1.96  # standard errors of a 95 % bar


def draw(all_scores: Sequence[Scores], path: Path) -> None:
    """One picture of all: a row for each task; of the steps of one run, curves over the steps."""
    labels = labels_of(all_scores)
    shares = [label for label in labels if headline_of(label, all_scores) not in NO_SHARES]
    others = [label for label in labels if label not in shares]
    groups = [group for group in (shares, others) if group]

    run = run_of(all_scores)
    picture = picture_of_run(all_scores, groups, run) if run else picture_of_rows(all_scores, groups)
    with atomic.new_file(path) as temporary:
        picture.savefig(temporary, format="png")


def picture_of_run(all_scores: Sequence[Scores], groups: Sequence[list[str]], run: str) -> "Picture":
    """The steps of a run: a panel for each group of tasks, a curve for each task."""
    picture, panels = new_picture(width=10, heights=[4.0] * len(groups))
    for axes, group in zip(panels, groups, strict=True):
        draw_curves(axes, all_scores, group)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    panels[0].set_title(f"{run}: scores, with intervals of 95 %")
    return picture


def picture_of_rows(all_scores: Sequence[Scores], groups: Sequence[list[str]]) -> "Picture":
    """Different checkpoints: a panel for each group of tasks, a row for each task."""
    row_height = 0.2 + 0.12 * len(all_scores)
    picture, panels = new_picture(width=8, heights=[0.6 + row_height * len(group) for group in groups])
    for axes, group in zip(panels, groups, strict=True):
        draw_rows(axes, all_scores, group)
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    return picture


def new_picture(width: float, heights: list[float]) -> tuple["Picture", Sequence["Axes"]]:
    """A picture with panels of these heights, one below the other; inches."""
    from matplotlib.figure import Figure as Picture  # 0.3 s, needed once

    picture = Picture(figsize=(width, sum(heights) + 1), dpi=120, layout="tight")
    panels = picture.subplots(len(heights), squeeze=False, height_ratios=heights)[:, 0]
    for axes in panels:
        axes.grid(alpha=0.3)
    return picture, panels


def run_of(all_scores: Sequence[Scores]) -> str | None:
    """The run of which these are several steps; None where they are not."""
    matches = [STEP.fullmatch(scores.name) for scores in all_scores]
    runs = {match["run"] if match else None for match in matches}
    return runs.pop() if len(runs) == 1 and len(all_scores) > 1 else None


def bar_of(figure: Figure) -> tuple[float, float]:
    """How far the 95 % interval reaches to the left and to the right of the figure."""
    if figure.interval is not None:
        low, high = figure.interval
        return figure.value - low, high - figure.value
    reach = BAR_ERRORS * (figure.error or 0.0)
    return reach, reach


def chance_of(label: str, all_scores: Sequence[Scores]) -> float | None:
    """What guessing gives; of a centred mean 0."""
    for scores in all_scores:
        record = scores.record(label)
        if record is not None and "chance" in record["figures"]:
            return record["figures"]["chance"]["value"]
    return 0.0 if is_core(label) else None


def draw_rows(axes: "Axes", all_scores: Sequence[Scores], labels: Sequence[str]) -> None:
    """A row for each task, from above; a dot for each checkpoint, one below the other; a line where guessing is."""
    headlines = [headline_of(label, all_scores) for label in labels]
    scale = 1 if headlines[0] in NO_SHARES else 100
    room = 0.8 / len(all_scores)
    for number, scores in enumerate(all_scores):
        shift = room * (number + 0.5) - 0.4
        figures = {row: scores.figure(label) for row, label in enumerate(labels)}
        scored = [row for row, figure in figures.items() if figure is not None]
        if not scored:
            continue

        places = [row + shift for row in scored]
        values = [scale * figures[row].value for row in scored]
        reaches = scale * np.array([bar_of(figures[row]) for row in scored]).T  # (2, tasks)
        style = {"fmt": "o", "ms": 4, "lw": 1, "color": f"C{number}"}
        axes.errorbar(values, places, xerr=reaches, label=scores.name, **style)

    chances = {row: chance_of(label, all_scores) for row, label in enumerate(labels)}
    rows = np.array([row for row, chance in chances.items() if chance is not None])
    if len(rows):
        values = [scale * chances[row] for row in rows]
        axes.vlines(values, rows - 0.4, rows + 0.4, color="black", lw=1, ls=":", label="chance")

    titles = [f"{label}  {headline}" for label, headline in zip(labels, headlines, strict=True)]
    axes.set_yticks(range(len(labels)), titles)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("per cent, with intervals of 95 %" if scale == 100 else "bits per byte (lower is better)")


def draw_curves(axes: "Axes", all_scores: Sequence[Scores], labels: Sequence[str]) -> None:
    """A curve for each task over the steps of a run; dotted where guessing is. Each is a little to the right of the one
    before, so that their intervals do not hide each other."""
    shift = 0.006 * max(map(step_of, all_scores))
    for number, label in enumerate(labels):
        headline = headline_of(label, all_scores)
        scale = 1 if headline in NO_SHARES else 100
        having = [scores for scores in all_scores if scores.figure(label) is not None]
        having.sort(key=step_of)

        figures = [scores.figure(label) for scores in having]
        steps = [step_of(scores) + number * shift for scores in having]
        values = [scale * figure.value for figure in figures]
        reaches = scale * np.array([bar_of(figure) for figure in figures]).T  # (2, steps)
        style = {"color": f"C{number}", "marker": "o", "ms": 4, "lw": 1, "elinewidth": 0.7}
        axes.errorbar(steps, values, yerr=reaches, label=f"{label}  {headline}", **style)

        chance = chance_of(label, all_scores)
        if chance is not None:
            axes.axhline(scale * chance, color=f"C{number}", ls=":", lw=1)
    axes.set_xlabel("optimizer step")
    shares = headline_of(labels[0], all_scores) not in NO_SHARES
    axes.set_ylabel("per cent (dotted: chance)" if shares else "bits per byte")


def step_of(scores: Scores) -> int:
    """The step of a checkpoint of a run."""
    match = STEP.fullmatch(scores.name)
    assert match is not None, scores.name
    return int(match["step"])
