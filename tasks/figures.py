"""From results to figures: what became of each item, and the task's accuracy, perplexity or bits per byte.

There are three kinds of tasks: choices, whose log-probabilities are compared; answers that the model writes; and texts.
Each has a function that makes a row of every item, and one that makes figures of the rows. docs/evaluation.md works one
item by hand.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from scoring import Score
from tasks import core
from tasks.rows import Questions, Texts
from tasks.statistics import Figure, bootstrap, centred, error_of_sum, mean, perplexity, ratio
from tasks.task import Item

ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_tokens")

TableRow = dict[str, Any]  # of an item, in its task's parquet file
TaskRecord = dict[str, Any]  # of a task, in scores.json


# --- choices ---


def choice_rows(source: Questions, tokens: Sequence[list[int]], scores: Sequence[list[Score]]) -> list[TableRow]:
    """A row for each item: the question, what the model found, and whether it was right.

    tokens, scores: of each item, one number of tokens and one score a choice.
    """
    rows = []
    for number, item in enumerate(source.items):
        found = scores[number]
        row = {
            "item": number,
            "context": item.context,
            "choices": list(item.choices),
            "answer": item.answer,
            **is_right(source, item, tokens[number], found),
            "logprobs": [score.logprob for score in found],
            "greedy": [score.greedy for score in found],
            "tokens": tokens[number],
        }
        rows.append(row)
    return rows


def is_right(source: Questions, item: Item, tokens: list[int], scores: list[Score]) -> dict[str, bool]:
    """Whether an item was answered rightly, by each way to look at it."""
    if not source.has_choices:
        return {"acc": scores[0].greedy}  # it is what the model would write
    if source.protocol is not None:
        lengths = {"acc_tokens": tokens}
    else:
        lengths = {"acc": [1] * len(scores)}
        if not item.ending:  # else what is scored is the same for all choices
            lengths["acc_norm"] = [len(choice) for choice in item.choices]
            lengths["acc_bytes"] = [len(choice.encode()) for choice in item.choices]
    return {name: likeliest(scores, of_choices) == item.answer for name, of_choices in lengths.items()}


def likeliest(scores: Sequence[Score], lengths: Sequence[int]) -> int:
    """The choice with the largest log-probability, each divided by a length.

    Longer choices are less likely: divided by their length they can be compared. Of two choices of 10 and 20 characters
    with -12 and -18 nats the first is the likeliest as it is, and the second by character: -1.2 and -0.9.
    """
    logprobs = np.array([score.logprob for score in scores])
    return int((logprobs / np.array(lengths)).argmax())


def choice_figures(source: Questions, rows: Sequence[TableRow], samples: int) -> dict[str, Figure]:
    """Accuracies and what guessing gives; with one choice an item, accuracy and perplexity."""
    figures = {}
    for name in ACCURACIES:
        if name in rows[0]:
            figures[name] = mean([row[name] for row in rows], samples)

    if source.protocol is not None:
        chance = source.protocol.chance
        figures["centred"] = centred(figures[source.headline], chance)
        figures["chance"] = Figure(chance)
    elif source.has_choices:
        guessed = [1 / len(item.choices) for item in source.items]
        figures["chance"] = Figure(float(np.mean(guessed)))
    else:
        figures["perplexity"] = perplexity([row["logprobs"][0] for row in rows], samples)
    return figures


# --- written answers ---


def written_rows(source: Questions, answers: Sequence[str]) -> list[TableRow]:
    """A row for each item: what the model has written, what each rule finds in it, and whether that is right."""
    rows = []
    writing = source.writing
    for number, (item, written) in enumerate(zip(source.items, answers, strict=True)):
        row = {"item": number, "context": item.context, "answer": item.right, "written": written}
        found = {name: rule(written) for name, rule in writing.rules.items()}
        for name, text in found.items():
            row[f"{name}_found"] = text
        for name, text in found.items():
            row[name] = writing.is_right(text, item.right)
        rows.append(row)
    return rows


def written_figures(source: Questions, rows: Sequence[TableRow], samples: int) -> dict[str, Figure]:
    """By each rule, the share of the answers that are right."""
    return {name: mean([row[name] for row in rows], samples) for name in source.writing.rules}


# --- texts ---


def text_rows(
    source: Texts, owners: Sequence[int], tokens: Sequence[list[int]], scores: Sequence[list[Score]]
) -> list[TableRow]:
    """A row for each document: its bytes and tokens, and its log-probability, the sum over its windows.

    owners: the document of each window; tokens, scores: one of each window.
    """
    rows = []
    for number, text in enumerate(source.documents):
        rows.append({"item": number, "bytes": len(text.encode()), "tokens": 0, "logprob": 0.0})
    for owner, (n_tokens,), (score,) in zip(owners, tokens, scores, strict=True):
        rows[owner]["tokens"] += n_tokens
        rows[owner]["logprob"] += score.logprob
    return rows


def text_figures(rows: Sequence[TableRow], samples: int) -> dict[str, Figure]:
    """Bits per byte of all documents together."""
    bits = np.array([-row["logprob"] / math.log(2) for row in rows])
    n_bytes = np.array([row["bytes"] for row in rows])
    tokens = sum(row["tokens"] for row in rows)
    bytes_per_token = float(n_bytes.sum()) / tokens
    return {"bits_per_byte": ratio(bits, n_bytes, samples), "bytes_per_token": Figure(bytes_per_token)}


# --- families ---


def figures_of_family(
    sources: Sequence[Questions],
    records: Sequence[TaskRecord],
    sets: Sequence[Sequence[TableRow]] = (),
    samples: int = 0,
) -> tuple[str, dict[str, Figure]]:
    """Which figure of a family is quoted, and all of them: means over all items, for CORE over its tasks.

    sources, records, sets: of each set, the last its rows, which are only read for a bootstrap of so many samples.
    """
    if sources[0].family == core.NAME:
        missing = core.missing([source.name for source in sources])
        headline = "mean_of_a_part" if missing else "CORE"
        return headline, {headline: mean_of_tasks(records, sets, samples)}

    figures = pooled(records)
    if samples:
        figures = with_intervals(figures, sets, samples)
    return records[0]["headline"], figures


def pooled(records: Sequence[TaskRecord]) -> dict[str, Figure]:
    """Means over the items of all sets."""
    n = np.array([record["items"] for record in records])
    figures = {}
    for name in records[0]["figures"]:
        of_sets = [Figure(**record["figures"][name]) for record in records]
        values = np.array([figure.value for figure in of_sets])
        value = float((n * values).sum() / n.sum())
        error = error_of_sum([figure.error for figure in of_sets], n / n.sum())
        figures[name] = Figure(value, error)
    return figures


def with_intervals(figures: dict[str, Figure], sets: Sequence[Sequence[TableRow]], samples: int) -> dict[str, Figure]:
    """Figures of a family with their intervals. sets: the rows of each set, of which a sample draws as many."""
    n = np.array([len(rows) for rows in sets])

    def over_items(means: list[float]) -> float:
        return float(np.dot(n, means) / n.sum())

    found = {}
    for name, figure in figures.items():
        interval = None
        if name in sets[0][0]:
            interval = bootstrap([column(rows, name) for rows in sets], over_items, samples)
        found[name] = dataclasses.replace(figure, interval=interval)
    return found


def column(rows: Sequence[TableRow], name: str) -> np.ndarray:
    """One value of each row, (n,) float64."""
    return np.array([row[name] for row in rows], np.float64)


def mean_of_tasks(records: Sequence[TaskRecord], sets: Sequence[Sequence[TableRow]], samples: int) -> Figure:
    """The mean of the tasks' centred accuracies, each as important as the others, whatever the number of its items."""
    of_tasks = [Figure(**record["figures"]["centred"]) for record in records]
    value = float(np.mean([figure.value for figure in of_tasks]))
    weights = np.full(len(of_tasks), 1 / len(of_tasks))
    error = error_of_sum([figure.error for figure in of_tasks], weights)

    interval = None
    if samples:
        chances = np.array([record["figures"]["chance"]["value"] for record in records])
        columns = [column(rows, record["headline"]) for record, rows in zip(records, sets, strict=True)]

        def centred_mean(means: list[float]) -> float:
            return float(np.mean((means - chances) / (1 - chances)))

        interval = bootstrap(columns, centred_mean, samples)
    return Figure(value, error, interval)
