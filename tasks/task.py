"""What a task is: where its rows come from, and the function that makes a question of a row.

    @task("arc_easy", hub="allenai/ai2_arc", config="ARC-Easy", split="test", shots="train")
    def arc(row):
        return Item(f"Question: {row['question']}\\nAnswer:", row["choices"]["text"], ...)

The model is asked how likely each choice is after the context; evaluate.py puts a space between them, examples before
them, and counts how often the right choice is the likeliest. To add a task, write such a function at the end of
questions.py: CONTRIBUTING.md shows one. (tasks/rows.py reads the rows: of the hub, of local files, of a user's files.)

With `writing=Writing(...)` the model writes an answer instead: tasks/written.py has such tasks.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokenizer import replace_lone_surrogates

Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One question, its choices, and which of them is right. Raises ValueError for what cannot be scored.

    With one choice there is nothing to choose from: what counts is how likely it is, and whether it is what the model
    would write by itself.
    """

    context: str  # what stands before each choice; "": the choice begins a text
    choices: Sequence[str]
    answer: int = 0  # the right one, counted from 0
    gap: str = " "  # between context and choice, unless a chat template stands there
    ending: str = ""  # where the choices stand inside a sentence: its end, which alone is scored (WinoGrande)

    def __post_init__(self) -> None:
        if isinstance(self.choices, str) or not all(isinstance(choice, str) for choice in self.choices):
            raise ValueError(f"its choices are not a list of texts: {self.choices!r:.80}")
        if not isinstance(self.context, str):
            raise ValueError(f"its context is not a text: {self.context!r:.80}")
        object.__setattr__(self, "context", replace_lone_surrogates(self.context))
        object.__setattr__(self, "choices", tuple(map(replace_lone_surrogates, self.choices)))
        empty = [number for number, choice in enumerate(self.choices, start=1) if not choice]
        if empty or not self.choices:
            raise ValueError(f"choice {empty[0]} is empty" if empty else "it has no choices")
        if type(self.answer) is not int or not 0 <= self.answer < len(self.choices):
            raise ValueError(f"its answer {self.answer!r:.80} is none of its {len(self.choices)} choices (from 0 on)")

    @property
    def right(self) -> str:
        """The choice that is right."""
        return self.choices[self.answer]


def place_of(answer: str, labels: Sequence[str]) -> int:
    """Where the answer stands among the labels, from 0 on: "B" of A B C D is 1. Raises ValueError for another label."""
    labels = list(labels)
    answer = answer.strip()
    if answer not in labels:
        raise ValueError(f"its answer {answer!r:.80} is none of {', '.join(labels)}")
    return labels.index(answer)


Rule = Callable[[str], str]


@dataclass(frozen=True)
class Writing:
    """How a model writes an answer, and when it is right: what a rule finds in the text is the item's own answer.

    Writing(until=["Question:"], rules={"exact_match": first_line})
    """

    until: Sequence[str]  # the text ends before the first of these
    rules: Mapping[str, Rule]  # the name of a figure -> what of the text is compared with the right answer
    normalise: Rule = str.strip  # of both, before they are compared
    max_new_tokens: int = 256  # of an answer

    def is_right(self, found: str, answer: str) -> bool:
        """Whether what a rule has found is the answer."""
        return self.normalise(found) == self.normalise(answer)


@dataclass(frozen=True)
class Task:
    """Where the rows of a task come from, and how they become items.

    A family has many sets, each a config of the same data set on the hub: blimp_passive_1 is the set passive_1 of
    blimp. Its authors may have published a file for each set and split: archive says how they are called, and columns
    what is in them where their first line does not say it.
    """

    name: str
    read: Callable[[Row], Item]
    hub: str  # the data set's name on the Hugging Face hub
    split: str
    config: str | None = None
    shots: str | None = None  # the split that examples are taken from; None: they are other items of the task
    headline: str = "acc"  # the figure that is usually quoted
    writing: Writing | None = None  # the model writes its answer; None: it says how likely each choice is
    is_family: bool = False
    describe: Callable[[str], str] | None = None  # of a set: what stands before everything else
    archive: str | None = None  # the authors' csv files: "{set}_{split}.csv"
    columns: Sequence[str] | None = None  # of these files; None: the first line names them
    set_name: str = ""

    @property
    def description(self) -> str:
        """What stands before the examples; mostly nothing."""
        return self.describe(self.set_name) if self.describe else ""

    def archived(self, split: str) -> str:
        """How the authors call the file of this set, or with the set "*" those of all sets: anatomy_test.csv."""
        return self.archive.format(set=self.set_name or "*", split=split)


TASKS: dict[str, Task] = {}


def task(name: str, **settings: Any) -> Callable[[Callable[[Row], Item]], Callable[[Row], Item]]:
    """Add a task to TASKS: its rows are read by the function below."""

    def add(read: Callable[[Row], Item]) -> Callable[[Row], Item]:
        TASKS[name] = Task(name, read, **settings)
        return read

    return add


def find_task(name: str) -> Task:
    """The task of this name, or of this set of a family. Raises ValueError with the nearest name."""
    known = TASKS.get(name)
    if known is not None:
        return known
    families = [task for task in TASKS.values() if task.is_family and name.startswith(f"{task.name}_")]
    if families:
        family = max(families, key=lambda task: len(task.name))
        return one_set(family, name.removeprefix(f"{family.name}_"))

    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TASKS)}"
    raise ValueError(f"no task is called {name!r}; {hint} (a file is given by its path, with its ending)")


def one_set(family: Task, set_name: str) -> Task:
    """The task that is one set of a family."""
    return replace(family, name=f"{family.name}_{set_name}", config=set_name, set_name=set_name, is_family=False)
