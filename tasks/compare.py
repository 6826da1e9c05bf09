"""Several checkpoints side by side: a table of their scores with the differences. (picture.py draws them.)

    python evaluate.py --plot='out/scores/demo out/scores/smollm2'
    python evaluate.py --plot='out/scores/demo-step_*'              the steps of one run: a curve for each task

Two models that are asked the same items are right and wrong at mostly the same ones. The difference of each item has
therefore a smaller spread than two accuracies have. Of 1,000 items 30 are right in one model only, 50 in the other
only, all others in both or none: the difference is +2.0 ±0.9, where accuracies of 40 and 42 % alone would give +2.0
±2.2. Such a difference is called paired here.
"""

import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from errors import read_json
from tasks import core
from tasks.results import SCORES_FILE
from tasks.statistics import NO_SHARES, Figure, error_of_sum, in_table, mean, ratio, show

ASKED = ("context", "choices", "answer", "bytes")  # columns that say what was asked


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
    before = one.figure(label)
    after = other.figure(label)
    if before is None or after is None or one.record(label)["headline"] != other.record(label)["headline"]:
        return None
    if label in one.families:
        return difference_of_family(label, one, other)

    record = one.record(label)
    paired = paired_difference(label, record["headline"], one, other)
    if paired is not None:
        return paired
    error = error_of_sum([before.error, after.error], [-1, 1])
    return Difference(after.value - before.value, error, is_paired=False)


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
    value = other.figure(label).value - one.figure(label).value
    weights = weights_of([one.tasks[member] for member in members], label)
    error = error_of_sum([found.error for found in of_sets], weights)
    return Difference(value, error, all(found.is_paired for found in of_sets))


def is_core(label: str) -> bool:
    """Whether a family is CORE, or a part of it."""
    return label.split("-")[0] == core.NAME


def weights_of(records: Sequence[dict[str, Any]], family: str) -> np.ndarray:
    """How much the difference of each set counts in that of the family: by its items; in CORE all tasks alike, each by
    how far its accuracy is stretched when it is centred."""
    if is_core(family):
        chances = np.array([record["figures"]["chance"]["value"] for record in records])
        return 1 / (1 - chances) / len(records)
    n = np.array([record["items"] for record in records])
    return n / n.sum()


# --- the table ---


def table(all_scores: Sequence[Scores]) -> str:
    """A line for each task: the figure of each checkpoint, and what it has more than the first."""
    first, *others = all_scores
    header = ["", first.name]
    for scores in others:
        header += [scores.name, "difference"]

    lines = [header]
    for label in labels_of(all_scores):
        line = [f"{label}  {headline_of(label, all_scores)}", cell_of(first, label)]
        for scores in others:
            line += [cell_of(scores, label), difference_cell(label, first, scores)]
        lines.append(line)
    return aligned(lines)


def aligned(lines: Sequence[list[str]]) -> str:
    """Cells in columns: the first ones begin, the others end below each other."""
    first_width, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for first, *others in lines:
        cells = [f"{first:<{first_width}}"]
        for cell, width in zip(others, widths, strict=True):
            cells.append(f"{cell:>{width}}")
        text.append("   ".join(cells).rstrip())
    return "\n".join(text)


def headline_of(label: str, all_scores: Sequence[Scores]) -> str:
    """The name of the figure that is shown of a task."""
    records = [scores.record(label) for scores in all_scores]
    return next(record["headline"] for record in records if record is not None)


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
