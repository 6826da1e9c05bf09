"""Several checkpoints side by side: a table of their scores with the differences, and a picture.

    python evaluate.py --plot='out/scores/demo out/scores/smollm2'
    python evaluate.py --plot='out/scores/demo-step_*'              the steps of one run: a curve for each task

Two models that are asked the same items are right and wrong at mostly the same ones. The difference of each item has
therefore a smaller spread than two accuracies have. Of 1,000 items 30 are right in one model only, 50 in the other
only, all others in both or none: the difference is +2.0 ±0.9, where accuracies of 40 and 42 % alone would give +2.0
±2.2. Such a difference is called paired here.
"""

import glob
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import atomic
from errors import read_json
from tasks import core
from tasks.figures import NO_SHARES, Figure, in_table, mean, ratio, show
from tasks.results import SCORES_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "scores.png"
ASKED = ("context", "choices", "answer", "bytes")  # columns that say what was asked
STEP = re.compile(r"(?P<run>.+)-step_(?P<step>\d+)")  # how evaluate.py names the results of a run's checkpoint
BAR_ERRORS = 1.96  # standard errors of a 95 % bar


@dataclass(frozen=True)
class Scores:
    """What evaluate.py has written about one checkpoint."""

    name: str
    folder: Path
    tasks: dict[str, Any]
    families: dict[str, Any]

    def record(self, label: str) -> dict[str, Any] | None:
        """The record of a task or family."""
        return self.families.get(label) or self.tasks.get(label)

    def figure(self, label: str) -> Figure | None:
        """The figure of a task that is usually quoted."""
        record = self.record(label)
        return None if record is None else Figure(**record["figures"][record["headline"]])

    def rows(self, label: str, columns: Sequence[str]) -> pa.Table | None:
        """Columns of the items of a task, as many of them as it has; None where the file has gone."""
        path = self.folder / f"{label}.parquet"
        if not path.is_file():
            return None
        file = pq.ParquetFile(path)
        return file.read([name for name in columns if name in file.schema_arrow.names])


@dataclass(frozen=True)
class Difference:
    """How much more another model has, and the standard error of that."""

    value: float
    error: float | None
    is_paired: bool


def read_scores(plot: str) -> list[Scores]:
    """The results in these folders (patterns, with spaces between them). Raises ValueError where there are none."""
    folders = []
    for pattern in plot.split():
        found = sorted(glob.glob(str(Path(pattern).expanduser())))
        folders += map(Path, found or [pattern])
    folders = list(dict.fromkeys(folders))

    all_scores = []
    for folder in folders:
        path = folder / SCORES_FILE
        if not path.is_file():
            raise ValueError(f"{folder} has no {SCORES_FILE}; run: python evaluate.py --out_dir={folder} --tasks=...")
        content = read_json(path)
        same_name = [other for other in folders if other.name == folder.name]
        name = folder.name if len(same_name) == 1 else str(folder)
        all_scores.append(Scores(name, folder, content["tasks"], content["families"]))
    return all_scores


def labels_of(all_scores: Sequence[Scores]) -> list[str]:
    """The tasks that are shown, in the order in which they are found, then families. Sets of a family are shown by its
    mean alone; the tasks of CORE each."""
    tasks: list[str] = []
    families: list[str] = []
    hidden: set[str] = set()
    for scores in all_scores:
        tasks += scores.tasks
        families += scores.families
        for label, family in scores.families.items():
            hidden.update([] if is_core(label) else family["members"])
    return [label for label in dict.fromkeys(tasks + families) if label not in hidden]


# --- differences ---


def difference(label: str, one: Scores, other: Scores) -> Difference | None:
    """What `other` has more than `one`; None where only one of them has the task."""
    figures = [one.figure(label), other.figure(label)]
    if None in figures or one.record(label)["headline"] != other.record(label)["headline"]:
        return None
    if label in one.families:
        return difference_of_family(label, one, other)

    record = one.record(label)
    paired = paired_difference(label, record["headline"], one, other)
    if paired is not None:
        return paired
    return Difference(figures[1].value - figures[0].value, error_of_two(*figures), is_paired=False)


def error_of_two(one: Figure, other: Figure) -> float | None:
    """The standard error of a difference of independent figures."""
    if one.error is None or other.error is None:
        return None
    return math.hypot(one.error, other.error)


def paired_difference(label: str, headline: str, one: Scores, other: Scores) -> Difference | None:
    """The mean of the items' differences, and its standard error; None where the items are not the same."""
    tables = [scores.rows(label, [*ASKED, headline, "logprob"]) for scores in (one, other)]
    if None in tables:
        return None
    asked = [table.select([name for name in ASKED if name in table.column_names]) for table in tables]
    if not asked[0].equals(asked[1]):
        return None

    if headline == "bits_per_byte":
        bits = [-table["logprob"].to_numpy() / math.log(2) for table in tables]
        figure = ratio(bits[1] - bits[0], tables[0]["bytes"].to_numpy())
    else:
        values = [table[headline].to_numpy(zero_copy_only=False).astype(np.float64) for table in tables]
        figure = mean(values[1] - values[0])
    return Difference(figure.value, figure.error, is_paired=True)


def difference_of_family(label: str, one: Scores, other: Scores) -> Difference | None:
    """The difference of a family's mean, from those of its sets; None where the two have other sets."""
    members = one.families[label]["members"]
    if members != other.families[label]["members"]:
        return None

    of_sets = [difference(member, one, other) for member in members]
    weights = np.array([weight_of(one.tasks[member], label) for member in members])
    weights /= weights.sum() if not is_core(label) else len(members)
    value = other.figure(label).value - one.figure(label).value
    errors = [found.error for found in of_sets]
    error = None if None in errors else float(np.sqrt(np.square(weights * np.array(errors)).sum()))
    return Difference(value, error, all(found.is_paired for found in of_sets))


def is_core(label: str) -> bool:
    """Whether a family is CORE, or a part of it."""
    return label.split("-")[0] == core.NAME


def weight_of(record: dict[str, Any], family: str) -> float:
    """How much a set counts: by its items; in CORE by how far its accuracy is stretched when it is centred."""
    if is_core(family):
        return 1 / (1 - record["figures"]["chance"]["value"])
    return float(record["items"])


# --- the table ---


def table(all_scores: Sequence[Scores]) -> str:
    """A line for each task: the figure of each checkpoint, and what it has more than the first."""
    first, *others = all_scores
    lines = [["", first.name, *(cell for scores in others for cell in (scores.name, "difference"))]]
    for label in labels_of(all_scores):
        lines.append([f"{label}  {headline_of(label, all_scores)}", cell_of(first, label)])
        for scores in others:
            lines[-1] += [cell_of(scores, label), difference_cell(label, first, scores)]

    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("   ".join([f"{line[0]:<{widths[0]}}", *cells]).rstrip())
    return "\n".join(text)


def headline_of(label: str, all_scores: Sequence[Scores]) -> str:
    """The name of the figure that is shown of a task."""
    return next(record["headline"] for scores in all_scores if (record := scores.record(label)) is not None)


def cell_of(scores: Scores, label: str) -> str:
    """49.5 ±3.5; or a dash."""
    figure = scores.figure(label)
    if figure is None:
        return "-"
    headline = scores.record(label)["headline"]
    return show(headline, Figure(figure.value, figure.error)).removeprefix(f"{headline} ")


def difference_cell(label: str, one: Scores, other: Scores) -> str:
    """+2.0 ±0.9 paired."""
    found = difference(label, one, other)
    if found is None:
        return "-"
    is_share = one.record(label)["headline"] not in NO_SHARES
    value = in_table(found.value, is_share, digits=3)
    sign = "" if value.startswith("-") else "+"
    error = "" if found.error is None else f" ±{in_table(found.error, is_share, digits=2)}"
    return f"{sign}{value}{error}{' paired' if found.is_paired else ' '}"


# --- the picture ---


def draw(all_scores: Sequence[Scores], path: Path) -> None:
    """One picture of all: a row for each task; of the steps of one run, curves over the steps."""
    from matplotlib.figure import Figure as Picture  # 0.3 s, needed once

    labels = labels_of(all_scores)
    shares = [label for label in labels if headline_of(label, all_scores) not in NO_SHARES]
    groups = [group for group in (shares, [label for label in labels if label not in shares]) if group]
    run = run_of(all_scores)

    heights = [4] * len(groups) if run else [0.6 + len(group) * (0.2 + 0.12 * len(all_scores)) for group in groups]
    picture = Picture(figsize=(10 if run else 8, sum(heights) + 1), dpi=120, layout="tight")
    panels = picture.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
    for axes, group in zip(panels, groups, strict=True):
        if run:
            draw_curves(axes, all_scores, group)
        else:
            draw_rows(axes, all_scores, group)
        axes.grid(alpha=0.3)
        if run:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", frameon=False)
    if run:
        panels[0].set_title(f"{run}: scores, with intervals of 95 %")
    else:
        panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    with atomic.new_file(path) as temporary:
        picture.savefig(temporary, format="png")


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
        places = []
        values = []
        bars = []
        for row, label in enumerate(labels):
            figure = scores.figure(label)
            if figure is not None:
                places.append(row - 0.4 + room * (number + 0.5))
                values.append(scale * figure.value)
                bars.append([scale * reach for reach in bar_of(figure)])
        if values:
            reaches = np.array(bars).T  # (2, tasks)
            axes.errorbar(values, places, xerr=reaches, fmt="o", ms=4, lw=1, color=f"C{number}", label=scores.name)

    chances = [chance_of(label, all_scores) for label in labels]
    known = [(row, scale * chance) for row, chance in enumerate(chances) if chance is not None]
    if known:
        rows, values = np.array(known).T
        axes.vlines(values, rows - 0.4, rows + 0.4, color="black", lw=1, ls=":", label="chance")

    axes.set_yticks(range(len(labels)), [f"{label}  {name}" for label, name in zip(labels, headlines, strict=True)])
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

        steps = [step_of(scores) + number * shift for scores in having]
        figures = [scores.figure(label) for scores in having]
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


def compare(plot: str, out_dir: str | None) -> None:
    """Print the table and draw the picture, beside the first folder or into out_dir."""
    all_scores = read_scores(plot)
    if not labels_of(all_scores):
        raise ValueError(f"{plot}: no task was scored")
    print(table(all_scores))
    if len(all_scores) > 1:
        print("(difference: from the first, and its standard error; paired: from the differences of each item)")

    folder = all_scores[0].folder.parent if out_dir is None else Path(out_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    draw(all_scores, folder / PICTURE)
    print(f"wrote {folder / PICTURE}")
