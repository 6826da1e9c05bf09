"""From tasks to ids: a job is one task, ready to be scored by a model.

evaluate.py scores jobs from the command line, train.py at its evaluations.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chat_template import ChatTemplate
from scoring import Request, windows
from tasks.prompts import Encoder, requests
from tasks.rows import Questions, Texts, load
from tokenizer import Tokenizer


@dataclass(frozen=True)
class Asking:
    """How the items of tasks are asked."""

    task_dir: str | None = None  # a folder with the tasks' files; None: from the Hugging Face hub
    shots: int = 0  # examples before each question
    shots_seed: int | None = None  # draw the examples; None: the first ones
    limit: int | None = None  # the first items, or documents, of each task
    stride: int | None = None  # of texts: tokens that a window predicts; None: all
    template: ChatTemplate | None = None  # ask by this chat template


@dataclass(frozen=True)
class Job:
    """One task, ready to be scored.

    Attributes:
        label: the task's name and what was asked differently: arc_easy-5shot-chat.
        source: its items or documents.
        items: what scoring.py computes: the requests of each item, or one request for each window of a document.
        owners: the number of the item or document of each of these.
    """

    label: str
    source: Questions | Texts
    items: list[list[Request]]
    owners: list[int]

    def sha256(self) -> str:
        """Of all ids that the model is asked with."""
        digest = hashlib.sha256()
        for item in self.items:
            for request in item:
                lengths = [len(request.context), len(request.continuation)]
                digest.update(np.array(lengths + request.context + request.continuation, np.uint32).tobytes())
        return digest.hexdigest()


def make_jobs(names: Sequence[str], asking: Asking, tokenizer: Tokenizer, block_size: int) -> Iterator[Job]:
    """The jobs that these names mean. Raises ValueError, in one line, for all that can be wrong with them."""
    encoder = Encoder(tokenizer)
    for name in names:
        for source in load(name, asking.task_dir):
            if isinstance(source, Texts):
                yield text_job(source, asking, encoder, block_size)
            else:
                yield question_job(source, asking, encoder)


def question_job(source: Questions, asking: Asking, encoder: Encoder) -> Job:
    """The requests of each item, one a choice."""
    source = dataclasses.replace(source, items=source.items[: asking.limit])
    items = requests(source, encoder, asking.shots, asking.shots_seed, asking.template)
    owners = list(range(len(items)))
    return Job(label_of(source, asking), source, items, owners)


def text_job(source: Texts, asking: Asking, encoder: Encoder, block_size: int) -> Job:
    """Each document in windows: disjoint ones, or with --stride overlapping ones."""
    source = dataclasses.replace(source, documents=[text for text in source.documents if text][: asking.limit])
    if not source.documents:
        raise ValueError(f"{source.origin} holds no text")
    if asking.stride is not None and asking.stride > block_size:
        raise ValueError(f"stride ({asking.stride}) must be at most the model's context, {block_size} tokens")

    items = []
    owners = []
    for number, text in enumerate(source.documents):
        for window in windows(encoder.document(text), block_size, asking.stride):
            items.append([window])
            owners.append(number)
    return Job(label_of(source, asking), source, items, owners)


def label_of(source: Questions | Texts, asking: Asking) -> str:
    """The name of a task's files: two runs that ask differently have different ones."""
    parts = [source.name]
    if isinstance(source, Texts):
        parts += [f"stride{asking.stride}"] if asking.stride else []
    else:
        parts += [f"{asking.shots}shot"] if asking.shots else []
        parts += [f"seed{asking.shots_seed}"] if asking.shots and asking.shots_seed is not None else []
        parts += ["chat"] if asking.template else []
    parts += [f"first{asking.limit}"] if asking.limit else []
    return "-".join(parts)


def check_ids(jobs: Sequence[Job], rows: int) -> None:
    """Raise ValueError for an id that the embedding has no row for (a token that a folder added without one)."""
    for job in jobs:
        largest = max(max(request.context + request.continuation) for item in job.items for request in item)
        if largest >= rows:
            raise ValueError(f"{job.label}: it has a token of id {largest}, but the model's embedding {rows} rows")


def count_cut(job: Job, block_size: int) -> int:
    """Items whose context is cut on the left, for it is longer than the model's."""
    longest = [max(len(request.context) + len(request.continuation) for request in item) for item in job.items]
    return sum(length > block_size + 1 for length in longest)
