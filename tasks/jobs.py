"""From tasks to ids: a job is one task, ready for a model.

There are three kinds: answers and texts are scored (ScoringJob, TextJob: how likely is it?), other answers are written
by the model (WritingJob). evaluate.py does jobs from the command line, train.py at its evaluations.
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from chat_template import ChatTemplate
from model import Llama
from scoring import Batch, CompactItems, Plan, Score, score_batch, windows
from tasks import core, figures, writing
from tasks.figures import TableRow
from tasks.names import load_named
from tasks.prompts import Encoder, prompts, requests
from tasks.rows import Questions, Texts
from tasks.statistics import Figure
from tasks.writing import Writer
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


class Job(ABC):
    """One task, ready for a model.

    Attributes:
        label: the task's name and what was asked differently: arc_easy-5shot-chat.
        source: its items or documents.
    """

    label: str
    source: Questions | Texts

    # --- what is asked ---

    @abstractmethod
    def __len__(self) -> int:
        """What a bar counts: items, or windows of documents."""

    @abstractmethod
    def sha256(self) -> str:
        """Of all ids that the model is asked with, and of all else that the results follow from."""

    @abstractmethod
    def largest_id(self) -> int:
        """Of all ids that the model is asked with."""

    @abstractmethod
    def count_cut(self, block_size: int) -> int:
        """Items of which the model sees a part only: they are longer than its context, and cut on the left."""

    # --- the work ---

    @abstractmethod
    def only(self, numbers: Sequence[int]) -> Self:
        """These items of it: number 0 is the first of them."""

    @abstractmethod
    def batches(self, block_size: int, batch_tokens: int) -> list[Any]:
        """The items, as they are computed together; each batch has a prefix (trees.Prefix)."""

    @abstractmethod
    def do(self, model: Llama, batch: Any) -> list[tuple[int, Any]]:
        """The results of the items of a batch: [(number of the item, its result)]."""

    @staticmethod
    @abstractmethod
    def to_json(result: Any) -> Any:
        """A result, for a file; from_json gives the same again."""

    @staticmethod
    @abstractmethod
    def from_json(value: Any) -> Any:
        """The result again."""

    # --- what became of it ---

    @abstractmethod
    def rows(self, results: Sequence[Any]) -> list[TableRow]:
        """What became of each item or document, a row each."""

    @abstractmethod
    def figures(self, rows: Sequence[TableRow], samples: int = 0) -> dict[str, Figure]:
        """The figures of the task. samples: of a bootstrap, for an interval; 0: without."""


@dataclass(frozen=True)
class ScoringJob(Job):
    """Questions with their answers: how likely is each?

    Attributes:
        items: the requests of each item, one a choice.
    """

    label: str
    source: Questions
    items: CompactItems

    def __len__(self) -> int:
        return len(self.items)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for item in self.items:
            for request in item:
                lengths = [len(request.context), len(request.continuation)]
                digest.update(np.array(lengths + request.context + request.continuation, np.uint32).tobytes())
        return digest.hexdigest()

    def largest_id(self) -> int:
        return max(max(request.context + request.continuation) for item in self.items for request in item)

    def count_cut(self, block_size: int) -> int:
        longest = [max(len(request.context) + len(request.continuation) for request in item) for item in self.items]
        return sum(length > block_size + 1 for length in longest)

    def only(self, numbers: Sequence[int]) -> Self:
        return dataclasses.replace(self, items=CompactItems(self.items[number] for number in numbers))

    def batches(self, block_size: int, batch_tokens: int) -> list[Batch]:
        return Plan(self.items, block_size, batch_tokens).batches

    def do(self, model: Llama, batch: Batch) -> list[tuple[int, list[Score]]]:
        return score_batch(model, batch)

    @staticmethod
    def to_json(scores: list[Score]) -> Any:
        """[[logprob, greedy], ...]; floats of JSON are exact."""
        return [[score.logprob, score.greedy] for score in scores]

    @staticmethod
    def from_json(values: Any) -> list[Score]:
        return [Score(*value) for value in values]

    def tokens(self) -> list[list[int]]:
        """How many are scored of each request."""
        return [[len(request.continuation) for request in item] for item in self.items]

    def rows(self, scores: Sequence[list[Score]]) -> list[TableRow]:
        return figures.choice_rows(self.source, self.tokens(), scores)

    def figures(self, rows: Sequence[TableRow], samples: int = 0) -> dict[str, Figure]:
        return figures.choice_figures(self.source, rows, samples)


@dataclass(frozen=True)
class TextJob(ScoringJob):
    """Documents, in windows: an item is a window with one request.

    Attributes:
        owners: the number of the document of each window.
    """

    source: Texts
    owners: list[int]

    def count_cut(self, block_size: int) -> int:
        return 0

    def only(self, numbers: Sequence[int]) -> Self:
        owners = [self.owners[number] for number in numbers]
        return dataclasses.replace(super().only(numbers), owners=owners)

    def rows(self, scores: Sequence[list[Score]]) -> list[TableRow]:
        return figures.text_rows(self.source, self.owners, self.tokens(), scores)

    def figures(self, rows: Sequence[TableRow], samples: int = 0) -> dict[str, Figure]:
        return figures.text_figures(rows, samples)


@dataclass(frozen=True)
class WritingJob(Job):
    """Questions to which the model writes the answers.

    Attributes:
        prompts: the ids that stand before each answer; they leave room for it, for they are cut on the left.
        lengths: of the prompts before they were cut.
        writer: where and when an answer ends.
    """

    label: str
    source: Questions
    prompts: list[list[int]]
    lengths: list[int]
    writer: Writer

    def __len__(self) -> int:
        return len(self.prompts)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(np.array([len(prompt), *prompt], np.uint32).tobytes())
        ends = [self.writer.max_new_tokens, sorted(self.writer.stop_ids), self.writer.until]
        digest.update(json.dumps(ends).encode())
        return digest.hexdigest()

    def largest_id(self) -> int:
        return max(map(max, self.prompts))

    def count_cut(self, block_size: int) -> int:
        return sum(length > len(prompt) for length, prompt in zip(self.lengths, self.prompts, strict=True))

    def only(self, numbers: Sequence[int]) -> Self:
        prompts = [self.prompts[number] for number in numbers]
        lengths = [self.lengths[number] for number in numbers]
        return dataclasses.replace(self, prompts=prompts, lengths=lengths)

    def batches(self, block_size: int, batch_tokens: int) -> list[writing.Batch]:
        return list(writing.in_batches(self.prompts, self.writer.max_new_tokens, batch_tokens))

    def do(self, model: Llama, batch: writing.Batch) -> list[tuple[int, str]]:
        asked = [self.prompts[place] for place in batch.places]
        answers = self.writer.write(model, asked, batch.prefix)
        return list(zip(batch.places, answers, strict=True))

    @staticmethod
    def to_json(answer: str) -> Any:
        return answer

    @staticmethod
    def from_json(value: Any) -> str:
        return value

    def rows(self, answers: Sequence[str]) -> list[TableRow]:
        return figures.written_rows(self.source, answers)

    def figures(self, rows: Sequence[TableRow], samples: int = 0) -> dict[str, Figure]:
        return figures.written_figures(self.source, rows, samples)


# --- from names to jobs ---


def make_jobs(names: Sequence[str], asking: Asking, tokenizer: Tokenizer, block_size: int) -> Iterator[Job]:
    """The jobs that these names mean. Raises ValueError, in one line, for all that can be wrong with them."""
    encoder = Encoder(tokenizer)
    seen = set()
    for name in names:
        for source in sources(name, asking):
            if source.name in seen:
                raise ValueError(f"{name}: a task named {source.name} is asked already; results go by this name")
            seen.add(source.name)
            if isinstance(source, Texts):
                yield text_job(source, asking, encoder, block_size)
            elif source.writing is not None:
                yield writing_job(source, asking, encoder, block_size)
            else:
                yield scoring_job(source, asking, encoder)


def sources(name: str, asking: Asking) -> Iterable[Questions | Texts]:
    """The tasks and texts that a name means."""
    if name == core.NAME and (asking.shots or asking.template is not None):
        advice = "ask it by python evaluate.py without --shots and --chat"
        raise ValueError(f"core has examples of its own and no chat template; {advice}")
    return load_named(name, asking.task_dir)


def scoring_job(source: Questions, asking: Asking, encoder: Encoder) -> ScoringJob:
    """The requests of each item, one a choice."""
    source = dataclasses.replace(source, items=source.items[: asking.limit])
    items = CompactItems(requests(source, encoder, asking.shots, asking.shots_seed, asking.template))
    return ScoringJob(label_of(source, asking), source, items)


def writing_job(source: Questions, asking: Asking, encoder: Encoder, block_size: int) -> WritingJob:
    """What stands before the answer to each item. Raises ValueError where the model's context has no room for both."""
    source = dataclasses.replace(source, items=source.items[: asking.limit])
    max_new_tokens = source.writing.max_new_tokens
    room = block_size - max_new_tokens
    if room < 1:
        raise ValueError(
            f"{source.name}: an answer has up to {max_new_tokens} tokens, but the model's context only {block_size}: "
            "no room for a question"
        )

    whole = prompts(source, encoder, asking.shots, asking.shots_seed, asking.template)
    cut = [ids[-room:] for ids in whole]
    lengths = [len(ids) for ids in whole]
    stop_ids = encoder.tokenizer.stops if asking.template is None else asking.template.stop_ids
    writer = Writer(encoder.tokenizer, source.writing.until, stop_ids, max_new_tokens)
    return WritingJob(label_of(source, asking), source, cut, lengths, writer)


def text_job(source: Texts, asking: Asking, encoder: Encoder, block_size: int) -> TextJob:
    """Each document in windows: disjoint ones, or with --stride overlapping ones."""
    source = dataclasses.replace(source, documents=[text for text in source.documents if text][: asking.limit])
    if not source.documents:
        raise ValueError(f"{source.origin} holds no text")
    if asking.stride is not None and asking.stride > block_size:
        raise ValueError(f"stride ({asking.stride}) must be at most the model's context, {block_size} tokens")

    items = CompactItems()
    owners = []
    for number, text in enumerate(source.documents):
        for window in windows(encoder.document(text), block_size, asking.stride):
            items.append([window])
            owners.append(number)
    return TextJob(label_of(source, asking), source, items, owners)


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


def shared_label(job: Job) -> str:
    """The label under which a job's figures stand: of the set blimp_passive_1-5shot it is blimp-5shot."""
    source = job.source
    if not source.family:
        return job.label
    return source.family + job.label.removeprefix(source.name)


def check_ids(jobs: Sequence[Job], rows: int) -> None:
    """Raise ValueError for an id that the embedding has no row for (a token that a folder added without one)."""
    for job in jobs:
        largest = job.largest_id()
        if largest >= rows:
            raise ValueError(f"{job.label}: it has a token of id {largest}, but the model's embedding {rows} rows")
