"""What --against means: the texts of tasks, and of files, that a corpus must not hold.

    --against=arc_easy,mmlu --task_dir=data/eval      tasks, read as evaluate.py reads them
    --against='eval/*.jsonl'                          files of any rows: all strings in a row are its text

The text of an item is its question with the right answer. prepare_wiki.py, prepare_chat.py and dedup.py drop documents
that hold a piece of one, leaks.py lists them (corpus/decontaminate.py has the rule).
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.decontaminate import EvaluationTexts, strings
from corpus.documents import files_matching, state_of
from corpus.sources import find_pieces, local_states, read_rows
from tasks.names import load_named, split_names
from tasks.rows import Questions, is_own
from tasks.task import Item

WILDCARDS = "*?["
FRAME = re.compile(r"^Question: |\n(Answer:|答案：)$")  # what prompts put around a question


@dataclass(frozen=True)
class Against:
    """Tasks, and patterns of files."""

    tasks: list[Questions]
    patterns: list[str]
    states: dict[str, list[int]]  # of the files on this disk: what documents.changed_file looks at again

    @classmethod
    def read(cls, against: str, task_dir: str | None, setting: str = "--against") -> "Against":
        """Read the tasks, and find the files. Raises ValueError, in one line, for what is not there.

        setting: what a user gave it as.
        """
        names = names_in(against)
        if not names:
            raise ValueError(f"{setting} names no task and no file; try {setting}='eval/*.jsonl'")
        patterns = [name for name in names if is_pattern(name)]
        task_names = [name for name in names if name not in patterns]

        states: dict[str, list[int]] = {}
        for pattern in patterns:
            find_pieces(pattern, None)  # raises if there are none
            states |= local_states(pattern)

        if task_dir is not None and not task_names:
            raise ValueError(f"--task_dir={task_dir} holds files of tasks, but no task is named, only {against}")
        tasks = [questions for name in task_names for questions in load_named(name, task_dir)]
        if task_dir is not None:
            states |= {questions.origin: state_of(questions.origin) for questions in tasks}
        return cls(tasks, patterns, states)

    def identity(self) -> dict[str, Any]:
        """What says whether the texts are still the same, as JSON."""
        files: dict[str, Any] = {}
        for pattern in self.patterns:
            files |= find_pieces(pattern, None)[1]
        items = {questions.name: sha256_of_items(questions.items) for questions in self.tasks}
        return {"files": files, "tasks": items}

    def texts(self) -> Iterator[EvaluationTexts]:
        """The texts of each task and of each file."""
        for questions in self.tasks:
            texts = map(text_of, questions.items)
            yield EvaluationTexts(questions.name, dict(enumerate(texts)))
        for pattern in self.patterns:
            yield from texts_of_files(pattern)


def check_against(against: str | None, task_dir: str | None) -> None:
    """Raise ValueError for settings of a data job that name nothing, or what is not there."""
    if against is not None:
        Against.read(against, task_dir)
    elif task_dir is not None:
        raise ValueError(f"--task_dir={task_dir} holds files of tasks, but --against names no task")


def names_in(against: str) -> list[str]:
    """What --against lists, each once. A path that holds a comma is one name."""
    if files_matching(os.path.expanduser(against)):
        return [against]
    return split_names(against)


def is_pattern(name: str) -> bool:
    """Whether a name means files, not a task."""
    return is_own(name) or Path(name).exists() or any(mark in name for mark in WILDCARDS)


def text_of(item: Item) -> str:
    """The question with the right answer, without "Question:" and "Answer:"."""
    question = FRAME.sub("", item.context)
    return f"{question} {item.right} {item.ending}"


def sha256_of_items(items: list[Item]) -> str:
    """Of all that is looked for."""
    texts = [text_of(item) for item in items]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def texts_of_files(pattern: str) -> Iterator[EvaluationTexts]:
    """The texts of each file: all strings in a row, whatever their keys, are one."""
    pieces, _ = find_pieces(pattern, None)
    for name, pieces_of_file in itertools.groupby(pieces, lambda piece: piece.name):
        texts = {}
        for piece in pieces_of_file:
            for row, fields in read_rows(piece):
                texts[row] = " ".join(strings(fields))
        yield EvaluationTexts(name, texts)
