"""CORE of DataComp-LM (Li et al. 2024, arXiv 2406.11794): 22 tasks, each with its own number of examples, and one mean.

    python evaluate.py --checkpoint=out/smollm2 --tasks=core --task_dir=llm-foundry/scripts/eval/local_data

core.tsv lists the tasks. Their files are those of llm-foundry, anywhere in the folder or one folder below. There are
three kinds of rows:

    choice      {"query": "Why?", "choices": ["a", "b"], "gold": 0}                     which choice after the query
    schema      {"context_options": ["a", "b"], "continuation": "c", "gold": 0}         after which context the rest
    language    {"context": "Two and two are", "continuation": "four"}                  is it what the model would write

A choice is taken by its log-probability a token. An accuracy is centred, (accuracy - chance) / (1 - chance): 0 is
guessing, 1 is perfect. CORE is the mean of the 22 centred accuracies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.rows import ROW_FORMATS, Protocol, Questions, as_items, file_rows, kind_of
from tasks.task import TASKS, Item, Row

NAME = "core"
KINDS = {"choice": "query", "schema": "context_options", "language": "context"}  # and the key that its rows have


@dataclass(frozen=True)
class CoreTask:
    """A line of core.tsv."""

    name: str
    file: str  # as llm-foundry calls it, without its ending
    kind: str
    shots: int
    chance: float  # what guessing gives, 0 to 1
    before_answer: str  # on a line of its own, or ""
    same_as: str  # our task of which the hub's rows make the same prompts, or ""

    def read(self, row: Row) -> Item:
        """The question that a row asks."""
        is_foundry = KINDS[self.kind] in row
        if self.same_as and not is_foundry:
            return TASKS[self.same_as].read(row)

        if self.kind == "schema":
            options = [option.strip() for option in row["context_options"]]
            return Item("", options, row["gold"], ending=row["continuation"].strip())
        before_answer = f"\n{self.before_answer}" if self.before_answer else ""
        if self.kind == "choice":
            return Item(row["query"].strip() + before_answer, row["choices"], row["gold"])
        return Item(row["context"].strip() + before_answer, [row["continuation"].strip()])

    def find(self, folder: Path) -> Path | None:
        """Its file in a folder, or in a folder of that; it may hold a part of the items, arc_easy_part.jsonl."""
        for stem in filter(None, (self.file, self.same_as)):
            for name in (stem, f"{stem}_part"):
                for path in sorted([*folder.glob(f"{name}.*"), *folder.glob(f"*/{name}.*")]):
                    if kind_of(path) in ROW_FORMATS:
                        return path
        return None


def read_table() -> dict[str, CoreTask]:
    """The tasks by name."""
    lines = Path(__file__).with_name("core.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    tasks = {}
    for name, file, kind, shots, baseline, before_answer, same_as in rows[1:]:
        optional = [value.replace("-", "") for value in (before_answer, same_as)]
        tasks[name] = CoreTask(name, file, kind, int(shots), float(baseline) / 100, *optional)
    return tasks


CORE = read_table()


def missing(names: Sequence[str]) -> list[str]:
    """The tasks that are not among those of these names, which begin with core_."""
    return [name for name in CORE if f"{NAME}_{name}" not in names]


def load_core(task_dir: str | None) -> Iterator[Questions]:
    """Those of the tasks whose files are at hand. Raises ValueError when there are none."""
    if task_dir is None:
        raise ValueError(
            "core is read from files: give --task_dir with llm-foundry's scripts/eval/local_data (tasks/core.py)"
        )
    folder = Path(task_dir).expanduser()
    files = {name: path for name, task in CORE.items() if (path := task.find(folder)) is not None}
    if not files:
        wanted = ", ".join(sorted({f"{task.file}.jsonl" for task in CORE.values()}))
        raise ValueError(f"{task_dir} has none of the files of core: {wanted}")

    for name, path in files.items():
        task = CORE[name]
        items = as_items(task.read, file_rows(path), str(path))
        headline = "acc" if task.kind == "language" else "acc_tokens"
        protocol = Protocol(task.shots, "\n", task.chance)
        yield Questions(f"{NAME}_{name}", items, items, str(path), headline, family=NAME, protocol=protocol)
