"""Scores on tasks while a model is trained: what train.py --eval_tasks=piqa,arc_easy measures at its evaluations.

evaluate.py finds the same figures on the checkpoint of that step. docs/evaluation.md says what may differ.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

from model import Llama
from parallel import World
from tasks.figures import TaskRecord, figures_of_family
from tasks.jobs import Job, WritingJob, shared_label
from tasks.rows import Texts
from tasks.statistics import NO_SHARES, Figure, as_json, show

FOLLOW_FROM_ITEMS = ("chance", "bytes_per_token")  # figures that no training changes
BAR_AFTER_S = 3  # seconds of scoring after which a bar is shown


@dataclass(frozen=True)
class Result:
    """What a task came to, or all sets of a family together."""

    name: str  # in metrics.jsonl
    headline: str  # the figure that is usually quoted
    figures: dict[str, Figure]

    @property
    def key(self) -> str:
        """The headline's name in metrics.jsonl."""
        return f"eval/{self.name}/{self.headline}"

    @property
    def is_accuracy(self) -> bool:
        """Whether the headline is a share of the items."""
        return self.headline not in NO_SHARES

    @property
    def chance(self) -> float | None:
        """What guessing gives; None where there is nothing to choose from."""
        return self.figures["chance"].value if "chance" in self.figures else None


def shown_name(job: Job) -> str:
    """The task's or family's label without its limit: arc_easy-5shot-first500 is shown as arc_easy-5shot."""
    return re.sub(r"-first\d+$", "", shared_label(job))


def by_name(jobs: Sequence[Job]) -> dict[str, list[int]]:
    """Which jobs are shown under a name: the sets of a family under one, any other task by itself."""
    groups: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        groups.setdefault(shown_name(job), []).append(number)
    return groups


def describe(jobs: Sequence[Job], block_size: int) -> list[str]:
    """A line for each name: what is asked, where it comes from, and how much of it is cut."""
    lines = []
    for name, numbers in by_name(jobs).items():
        own = [jobs[number] for number in numbers]
        source = own[0].source
        if isinstance(source, Texts):
            lines.append(f"eval: {name}, bits per byte of {source.origin}")
            continue

        items = sum(map(len, own))
        others = f" and {len(own) - 1} more" if len(own) > 1 else ""
        line = f"eval: {name}, {items:,} items of {source.origin}{others}"
        cut = sum(job.count_cut(block_size) for job in own)
        if cut:
            line += f"; {cut:,} of them cut on the left, longer than the context of {block_size} tokens"
        lines.append(line)
    return lines


@torch.no_grad()
def do_jobs(model: Llama, jobs: Sequence[Job], batch_tokens: int, world: World) -> list[Result]:
    """The results of all jobs, the same in each process; every process must call it.

    model: in eval mode; with fsdp its root is left gathered. batch_tokens: computed together. Raises ValueError, in all
    processes, for logits that are NaN or infinite.
    """
    total = sum(map(len, jobs))
    no_bar = True if world.rank > 0 else None  # None: no bar where the output is not a terminal
    found = []
    with tqdm(total=total, unit=" items", leave=False, delay=BAR_AFTER_S, disable=no_bar) as bar:
        for job in jobs:
            bar.set_description(job.label)
            rows = job.rows(do_job(model, job, batch_tokens, world, bar))
            found.append(job.figures(rows))
    return results_of(jobs, found)


def do_job(model: Llama, job: Job, batch_tokens: int, world: World, bar: tqdm) -> list[Any]:
    """What the model makes of each item. The processes take turns: of 5 batches, process 0 of 2 does 0, 2 and 4,
    process 1 does 1, 3 and once more 4.

    So all make equally many passes: with fsdp none could make one alone, for each pass gathers what the others have.
    How many passes an answer takes that is to be written nobody knows before: with fsdp all write all of them.
    """
    together = isinstance(model, FSDPModule) and isinstance(job, WritingJob)
    processes = 1 if together else world.size
    rank = 0 if together else world.rank

    # Made anew each time: a prefix keeps keys and values, which are those of the weights that there were.
    batches = job.batches(model.cfg.block_size, batch_tokens)
    for batch in batches:
        batch.prefix.read(model)  # in all processes, also in one that will not need it

    done: dict[int, Any] = {}
    failure = None  # to be raised when all are here
    for turn in range(0, len(batches), processes):
        batch = batches[min(turn + rank, len(batches) - 1)]
        try:
            results = job.do(model, batch)
        except ValueError as error:
            failure = str(error)
            continue
        done.update(results)
        bar.update(min(len(results) * processes, bar.total - bar.n))

    for part, message in world.gather((done, failure)):
        if message is not None:
            raise ValueError(message)
        done |= part
    return [done[number] for number in range(len(job))]


def results_of(jobs: Sequence[Job], found: Sequence[dict[str, Figure]]) -> list[Result]:
    """The figures of each job under the names that are shown; those of a family together."""
    results = []
    for name, numbers in by_name(jobs).items():
        sources = [jobs[number].source for number in numbers]
        if sources[0].family:
            records = [as_record(jobs[number], found[number]) for number in numbers]
            headline, figures = figures_of_family(sources, records)
        else:
            headline = sources[0].headline
            figures = found[numbers[0]]
        results.append(Result(name, headline, figures))
    return results


def as_record(job: Job, figures: dict[str, Figure]) -> TaskRecord:
    """A set as figures_of_family takes it."""
    return {"items": len(job), "headline": job.source.headline, "figures": as_json(figures)}


def metrics_of(results: Sequence[Result]) -> dict[str, float]:
    """eval/piqa/acc_norm and so on for metrics.jsonl, and for each headline its standard error."""
    metrics = {}
    for result in results:
        for name, figure in result.figures.items():
            if name not in FOLLOW_FROM_ITEMS:
                metrics[f"eval/{result.name}/{name}"] = figure.value
        error = result.figures[result.headline].error
        if error is not None:
            metrics[f"{result.key}_stderr"] = error
    return metrics


def line_of(results: Sequence[Result]) -> str:
    """The headlines: piqa acc_norm 55.2 ±2.2 (chance 50.0) | arc_easy acc 31.4 ±2.1 (chance 25.0)."""
    parts = []
    for result in results:
        part = f"{result.name} {show(result.headline, result.figures[result.headline])}"
        if result.chance is not None:
            part += f" (chance {100 * result.chance:.1f})"
        parts.append(part)
    return " | ".join(parts)
