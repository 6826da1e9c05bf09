"""From scores to figures: what became of each item, and the task's accuracy, perplexity or bits per byte.

docs/evaluation.md works one item by hand.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scoring import Score
from tasks import core
from tasks.jobs import Job, WritingJob
from tasks.rows import Questions, Texts
from tasks.task import Item

ACCURACIES = ("acc", "acc_norm", "acc_bytes", "acc_tokens")
NO_SHARES = ("perplexity", "bits_per_byte", "bytes_per_token")  # figures that are no part of the items
SEED = 1337  # of the samples of a bootstrap


@dataclass(frozen=True)
class Figure:
    """A number, and how far it may be from that of endlessly many such items."""

    value: float
    error: float | None = None  # standard error; None: of one item nothing is known
    interval: tuple[float, float] | None = None  # by a bootstrap: 95 % of its samples lie between the two


def bootstrap(groups: Sequence[np.ndarray], figure: Callable[[list[Any]], float], samples: int) -> tuple[float, float]:
    """Between which two values 95 % of the samples' figures lie (percentile interval, Efron 1979).

    groups: the items of each set, (n,) or (n, columns). A sample draws as many items of each set, with replacement;
    figure: what follows from the means of the sets. The draws are the same each time.
    """
    draw = np.random.default_rng(SEED)
    found = []
    for _ in range(samples):
        means = [group[draw.integers(len(group), size=len(group))].mean(axis=0) for group in groups]
        found.append(figure(means))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def mean(values: Sequence[float], samples: int = 0) -> Figure:
    """The mean, and its standard error: the sample's deviation over the square root of n. samples: of a bootstrap."""
    n = len(values)
    column = np.array(values, np.float64)
    error = float(np.std(column, ddof=1)) / math.sqrt(n) if n > 1 else None
    interval = bootstrap([column], lambda means: means[0], samples) if samples else None
    return Figure(float(column.mean()), error, interval)


def choice_row(item: Item, scores: Sequence[Score]) -> dict[str, Any]:
    """What became of one item: is the right choice the likeliest, as it is, by character and by byte?

    Longer choices are less likely: divided by their length they can be compared. Two choices of 10 and 20 characters
    with -12 and -18 nats: acc takes the first, acc_norm (-1.2, -0.9) the second.
    """
    logprobs = np.array([score.logprob for score in scores])
    characters = np.array([len(choice) for choice in item.choices])
    n_bytes = np.array([len(choice.encode()) for choice in item.choices])
    row = {
        "acc": int(logprobs.argmax()) == item.answer,
        "acc_norm": int((logprobs / characters).argmax()) == item.answer,
        "acc_bytes": int((logprobs / n_bytes).argmax()) == item.answer,
    }
    if item.ending:  # what is scored is the same for all choices
        del row["acc_norm"], row["acc_bytes"]
    return row


def likeliest_a_token(scores: Sequence[Score], tokens: Sequence[int]) -> int:
    """The choice whose tokens are the likeliest on average, as CORE takes it."""
    logprobs = np.array([score.logprob for score in scores])
    return int((logprobs / np.array(tokens)).argmax())


def question_rows(job: Job, scores: Sequence[Sequence[Score]]) -> list[dict[str, Any]]:
    """A row for each item: the question, what the model found, and whether it was right."""
    rows = []
    has_choices = any(len(item.choices) > 1 for item in job.source.items)
    for number, (item, found) in enumerate(zip(job.source.items, scores, strict=True)):
        tokens = [len(request.continuation) for request in job.items[number]]
        if not has_choices:
            figures = {"acc": found[0].greedy}
        elif job.source.protocol is not None:
            figures = {"acc_tokens": likeliest_a_token(found, tokens) == item.answer}
        else:
            figures = choice_row(item, found)
        rows.append(
            {
                "item": number,
                "context": item.context,
                "choices": list(item.choices),
                "answer": item.answer,
                **figures,
                "logprobs": [score.logprob for score in found],
                "greedy": [score.greedy for score in found],
                "tokens": tokens,
            }
        )
    return rows


def question_figures(source: Questions, rows: Sequence[dict[str, Any]], samples: int) -> dict[str, Figure]:
    """The task's figures: accuracies and what guessing gives; with one choice an item, accuracy and perplexity."""
    figures = {key: mean([row[key] for row in rows], samples) for key in ACCURACIES if key in rows[0]}
    if source.protocol is not None:
        chance = source.protocol.chance
        centred_figure = centred(figures[source.headline], chance)
        return figures | {"centred": centred_figure, "chance": Figure(chance)}
    if any(len(item.choices) > 1 for item in source.items):
        chance = np.mean([1 / len(item.choices) for item in source.items])
        return figures | {"chance": Figure(float(chance))}

    logprobs = [row["logprobs"][0] for row in rows]
    logprob = mean(logprobs)
    perplexity = perplexity_of(logprob.value)
    error = None if logprob.error is None else perplexity * logprob.error  # exp's slope
    interval = None
    if samples:
        interval = bootstrap([np.array(logprobs)], lambda means: perplexity_of(means[0]), samples)
    return figures | {"perplexity": Figure(perplexity, error, interval)}


def centred(accuracy: Figure, chance: float) -> Figure:
    """0 for guessing, 1 for perfect: an accuracy of 40 % where chance is 25 % is (0.40 - 0.25) / (1 - 0.25) = 0.2."""
    scale = 1 - chance
    error = None if accuracy.error is None else accuracy.error / scale
    interval = None
    if accuracy.interval is not None:
        low, high = accuracy.interval
        interval = ((low - chance) / scale, (high - chance) / scale)
    return Figure((accuracy.value - chance) / scale, error, interval)


def perplexity_of(logprob: float) -> float:
    """exp of minus a mean log-probability, as far as floats go."""
    return math.exp(min(-logprob, 700.0))


def written_rows(job: WritingJob, answers: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each item: what the model has written, what each rule finds in it, and whether that is right."""
    rows = []
    writing = job.source.writing
    for number, (item, written) in enumerate(zip(job.source.items, answers, strict=True)):
        found = {name: rule(written) for name, rule in writing.rules.items()}
        rows.append(
            {
                "item": number,
                "context": item.context,
                "answer": item.right,
                "written": written,
                **{f"{name}_found": text for name, text in found.items()},
                **{name: writing.is_right(text, item.right) for name, text in found.items()},
            }
        )
    return rows


def written_figures(source: Questions, rows: Sequence[dict[str, Any]], samples: int) -> dict[str, Figure]:
    """By each rule, the share of the answers that are right."""
    return {name: mean([row[name] for row in rows], samples) for name in source.writing.rules}


def text_rows(job: Job, scores: Sequence[Sequence[Score]]) -> list[dict[str, Any]]:
    """A row for each document: its bytes and tokens, and its log-probability, the sum over its windows."""
    texts = job.source.documents
    rows = [{"item": i, "bytes": len(text.encode()), "tokens": 0, "logprob": 0.0} for i, text in enumerate(texts)]
    for owner, item, found in zip(job.owners, job.items, scores, strict=True):
        rows[owner]["tokens"] += len(item[0].continuation)
        rows[owner]["logprob"] += found[0].logprob
    return rows


def ratio(parts: np.ndarray, wholes: np.ndarray, samples: int = 0) -> Figure:
    """The sum of `parts` over that of `wholes`, and its standard error, both (n,): bits and bytes of documents."""
    n = len(parts)
    value = float(parts.sum() / wholes.sum())
    error = None
    if n > 1:
        rest = parts - value * wholes  # what a document has more than its share
        error = float(np.std(rest, ddof=1) / wholes.mean() / math.sqrt(n))

    interval = None
    if samples:
        columns = np.stack([parts, wholes], axis=1)
        interval = bootstrap([columns], lambda means: means[0][0] / means[0][1], samples)
    return Figure(value, error, interval)


def text_figures(rows: Sequence[dict[str, Any]], samples: int) -> dict[str, Figure]:
    """Bits per byte of all documents together."""
    bits = np.array([-row["logprob"] / math.log(2) for row in rows])
    n_bytes = np.array([row["bytes"] for row in rows])
    tokens = sum(row["tokens"] for row in rows)
    bytes_per_token = float(n_bytes.sum()) / tokens
    return {"bits_per_byte": ratio(bits, n_bytes, samples), "bytes_per_token": Figure(bytes_per_token)}


def rows_of(job: Job | WritingJob, results: Sequence[Any]) -> list[dict[str, Any]]:
    """What became of each item or document, a row each."""
    if isinstance(job, WritingJob):
        return written_rows(job, results)
    if isinstance(job.source, Texts):
        return text_rows(job, results)
    return question_rows(job, results)


def figures_of(job: Job | WritingJob, rows: Sequence[dict[str, Any]], samples: int = 0) -> dict[str, Figure]:
    """The figures of a task. samples: of a bootstrap, for an interval; 0: without."""
    if isinstance(job, WritingJob):
        return written_figures(job.source, rows, samples)
    if isinstance(job.source, Texts):
        return text_figures(rows, samples)
    return question_figures(job.source, rows, samples)


def show(name: str, figure: Figure) -> str:
    """acc 49.5 ±3.5, in per cent, with an interval [42.8, 56.3] as well; perplexity and bits as they are."""
    is_share = name not in NO_SHARES
    shown = [name, in_table(figure.value, is_share)]
    if figure.error is not None:
        shown.append(f"±{in_table(figure.error, is_share, digits=2)}")
    if figure.interval is not None:
        low, high = figure.interval
        shown.append(f"[{in_table(low, is_share)}, {in_table(high, is_share)}]")
    return " ".join(shown)


def in_table(value: float, is_share: bool, digits: int = 4) -> str:
    """0.495 as 49.5, for a share; else as many digits."""
    return f"{100 * value:.1f}" if is_share else f"{value:.{digits}g}"


def pooled(records: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Means over the items of all sets. Their errors are independent: the squares add up."""
    n = np.array([record["items"] for record in records])
    figures = {}
    for name in records[0]["figures"]:
        values = np.array([record["figures"][name]["value"] for record in records])
        errors = [record["figures"][name]["error"] for record in records]
        error = None
        if None not in errors:
            error = float(np.sqrt(np.square(n * np.array(errors)).sum()) / n.sum())
        figures[name] = Figure(float((n * values).sum() / n.sum()), error)
    return figures


def figures_of_family(
    sources: Sequence[Questions],
    records: Sequence[dict[str, Any]],
    rows: Sequence[Sequence[dict[str, Any]]] = (),
    samples: int = 0,
) -> tuple[str, dict[str, Figure]]:
    """Which figure of a family is quoted, and all of them: means over all items, for CORE over its tasks.

    sources, records, rows: of each set; rows are only read for a bootstrap of so many samples.
    """
    if sources[0].family == core.NAME:
        missing = core.missing([source.name for source in sources])
        headline = "mean_of_a_part" if missing else "CORE"
        return headline, {headline: mean_of_tasks(records, rows, samples)}

    figures = pooled(records)
    if samples:
        figures = with_intervals(figures, rows, samples)
    return records[0]["headline"], figures


def with_intervals(
    figures: dict[str, Figure], sets: Sequence[Sequence[dict[str, Any]]], samples: int
) -> dict[str, Figure]:
    """Figures of a family with their intervals. sets: the rows of each set, of which a sample draws as many."""
    n = np.array([len(rows) for rows in sets])
    found = {}
    for name, figure in figures.items():
        if name in sets[0][0]:
            groups = [np.array([row[name] for row in rows], np.float64) for rows in sets]
            interval = bootstrap(groups, lambda means: float(np.dot(n, means) / n.sum()), samples)
            figure = dataclasses.replace(figure, interval=interval)
        found[name] = figure
    return found


def mean_of_tasks(records: Sequence[dict[str, Any]], sets: Sequence[Sequence[dict[str, Any]]], samples: int) -> Figure:
    """The mean of the tasks' centred accuracies, each as important as the others, whatever the number of its items.

    sets: the rows of each task, only read for an interval.
    """
    figures = [Figure(**record["figures"]["centred"]) for record in records]
    value = float(np.mean([figure.value for figure in figures]))
    errors = [figure.error for figure in figures]
    error = None if None in errors else float(np.sqrt(np.square(errors).sum()) / len(errors))

    interval = None
    if samples:
        chances = np.array([record["figures"]["chance"]["value"] for record in records])
        groups = [
            np.array([row[record["headline"]] for row in rows], np.float64)
            for record, rows in zip(records, sets, strict=True)
        ]
        interval = bootstrap(groups, lambda means: float(np.mean((means - chances) / (1 - chances))), samples)
    return Figure(value, error, interval)
