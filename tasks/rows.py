"""Where the rows of tasks come from: the hub, a folder of local files, or a file of the user's.

In a folder (--task_dir) the file of arc_easy is arc_easy.jsonl, and examples for few-shot prompts are taken from
arc_easy_shots.jsonl, if it is there; sets of a family lie in a folder, blimp/passive_1.jsonl. Files may be .json, .csv
or .parquet, or packed (.gz), and part of a data set (arc_easy_part.jsonl). Rows have the columns of the data set on the
hub, or those of llm-foundry. The archives of MMLU, C-Eval and CMMLU are unpacked into folders mmlu, ceval and cmmlu:
their csv files are found as deep as they lie there, mmlu/data/test/anatomy_test.csv.

A file of the user's is given by its path. Its rows say what it is:

    {"context": "2 + 2 =", "choices": ["3", "4"], "answer": 1}       answer: the place, from 0 on, or the text
    {"question": "2 + 2 =", "answer": "4"}
    {"text": "Two and two are four."}                                 documents: bits per byte

So does .txt, which is one document; and a folder that prepare_wiki.py made: its validation documents.
"""

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from corpus.sources import FORMATS, find_pieces, format_suffix, read_csv, read_rows
from errors import one_line
from shards import Shards
from tasks import exams, questions, written  # noqa: F401  (their tasks are in TASKS)
from tasks.task import TASKS, Item, Row, Task, Writing, find_task, one_set
from tokenizer import Tokenizer, replace_lone_surrogates

ROW_FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")
TEXT_FORMATS = ("txt", "md", "html")
SHOTS = "_shots"  # at the end of a file's name: examples, not items
BLOCK_TOKENS = 1 << 20  # of a corpus, in memory at once


@dataclass(frozen=True)
class Protocol:
    """How a benchmark asks each of its tasks, whatever --shots says; its examples are drawn anew for each item."""

    shots: int
    separator: str  # between examples
    chance: float  # what it takes for the accuracy of guessing


@dataclass(frozen=True)
class Questions:
    """The items of one task."""

    name: str
    items: list[Item]
    examples: list[Item]  # what few-shot prompts show; perhaps the items themselves
    origin: str  # in words
    headline: str = "acc"
    description: str = ""
    family: str = ""
    writing: Writing | None = None  # the model writes the answers
    protocol: Protocol | None = None  # of a benchmark that the task is a part of
    unit = "items"

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def has_choices(self) -> bool:
        """Whether there is something to choose from."""
        return any(len(item.choices) > 1 for item in self.items)


@dataclass(frozen=True)
class Texts:
    """Documents whose bits per byte are wanted."""

    name: str
    documents: list[str]
    origin: str
    family: str = ""
    headline = "bits_per_byte"
    unit = "documents"

    def __len__(self) -> int:
        return len(self.documents)


def load(name: str, task_dir: str | None) -> list[Questions | Texts]:
    """What --tasks means by this name: a task, all sets of a family, or a file or folder of the user's.

    task_dir: the folder with the tasks' files; None: the hub. Raises ValueError, in one line, for what is not there or
    has another layout.
    """
    if is_own(name):
        return [own(Path(name).expanduser())]

    folder = None if task_dir is None else Path(task_dir).expanduser()
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--task_dir={task_dir} is no folder")
    known = TASKS.get(name)
    if known is None or not known.is_family:
        return [load_task(find_task(name), folder)]

    names = local_sets(folder, known) if folder is not None else hub_sets(known)
    return [load_task(one_set(known, set_name), folder, family=name) for set_name in names]


def load_task(task: Task, folder: Path | None, family: str = "") -> Questions:
    """The items of one task, and its examples."""
    if folder is None:
        rows, origin = hub_rows(task, task.split)
        items = as_items(task.read, rows, origin)
        examples = items
        if task.shots is not None:
            examples = as_items(task.read, *hub_rows(task, task.shots))
    else:
        file = local_file(task, folder)
        if file is None:
            names = [f"{stem}.jsonl" for stem in stems(task)]
            if task.archive is not None:
                names.append(f"{family_of(task)}/{task.archived(task.split)}")
            wanted = " or ".join(names)
            raise ValueError(
                f"{folder} has no file for {task.name}, such as {wanted}; without --task_dir it is fetched"
            )
        origin = str(file)
        items = as_items(task.read, task_rows(task, file), origin)
        examples_file = local_file(task, folder, SHOTS)
        examples = items
        if examples_file is not None:
            examples = as_items(task.read, task_rows(task, examples_file), str(examples_file))
    return Questions(task.name, items, examples, origin, task.headline, task.description, family, task.writing)


def as_items(read: Callable[[Row], Item], rows: Sequence[Row], origin: str) -> list[Item]:
    """The rows as items. Raises ValueError that names the row which cannot be one."""
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(read(row))
        except KeyError as error:
            keys = ", ".join(map(str, row))
            raise ValueError(f"{origin}, row {number}: another layout: no {error}, only {keys:.200}") from None
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{origin}, row {number}: {error}") from None
    if not items:
        raise ValueError(f"{origin} has no rows")
    return items


# --- local files ---


def family_of(task: Task) -> str:
    """The name of the family that a set belongs to; of a family itself its name."""
    return task.name.removesuffix(f"_{task.set_name}") if task.set_name else task.name


def stems(task: Task) -> list[str]:
    """How the file of a task may be called, without its ending."""
    if task.set_name:
        return [f"{family_of(task)}/{task.set_name}", task.name]
    return [task.name, f"{task.name}_part"]


def local_file(task: Task, folder: Path, suffix: str = "") -> Path | None:
    """The file of a task, or with the suffix SHOTS its examples; None when it is not there."""
    for stem in stems(task):
        place = folder / f"{stem}{suffix}"
        for path in sorted(place.parent.glob(f"{place.name}.*")):
            if kind_of(path) in ROW_FORMATS:
                return path

    split = task.shots if suffix == SHOTS else task.split
    archived = archived_files(task, folder, split)
    return archived[0] if archived else None


def archived_files(task: Task, folder: Path, split: str) -> list[Path]:
    """The files of a split as the authors' archive has them: of one set, or of all sets of a family."""
    if task.archive is None:
        return []
    below = glob.escape(str(folder / family_of(task)))
    found = glob.glob(f"{below}/**/{task.archived(split)}", recursive=True)
    return sorted(map(Path, found))


def local_sets(folder: Path, family: Task) -> list[str]:
    """The sets of a family that lie in the folder. Raises ValueError when there are none."""
    names = set()
    if family.archive is not None:
        before_set, after_set = Path(family.archived(family.split)).name.split("*")
        for path in archived_files(family, folder, family.split):
            names.add(path.name.removeprefix(before_set).removesuffix(after_set))

    if not names:
        for path in (folder / family.name).glob("*"):
            stem = path.name.partition(".")[0]
            if kind_of(path) in ROW_FORMATS and not stem.endswith(SHOTS):
                names.add(stem)

    if not names:
        raise ValueError(f"{folder} has no folder {family.name} with a file for each of its sets")
    return sorted(names)


def kind_of(path: Path) -> str | None:
    """The format of a file by its name; None for an unknown one."""
    suffix = format_suffix(path.name)
    return next((kind for kind, form in FORMATS.items() if suffix in form.suffixes), None)


def file_rows(path: Path) -> list[Row]:
    """All rows of a file. (prepare_wiki.py --against reads evaluation files by the same functions.)"""
    pieces, _ = find_pieces(str(path), None)
    return [fields for piece in pieces for _, fields in read_rows(piece)]


def task_rows(task: Task, path: Path) -> list[Row]:
    """All rows of a file of a task; the authors' own file may have no line that names the columns."""
    splits = [task.split, task.shots]
    is_archived = task.archive is not None and path.name in [Path(task.archived(split)).name for split in splits]
    if task.columns is None or not is_archived:
        return file_rows(path)

    pieces, _ = find_pieces(str(path), None)
    return [fields for piece in pieces for _, fields in read_csv(piece, columns=list(task.columns))]


# --- the hub ---


def hub_rows(task: Task, split: str) -> tuple[list[Row], str]:
    """The rows of a split, and where they come from. What was downloaded before is not downloaded again."""
    import datasets

    what = f"{task.hub} ({task.config}), {split}" if task.config else f"{task.hub}, {split}"
    with one_line(f"{task.name}: {what} cannot be had from the hub; give local files with --task_dir: "):
        builder = datasets.load_dataset_builder(task.hub, task.config)
        is_here = Path(builder.cache_dir).is_dir()
        if split == task.split or not is_here:
            how = "downloaded before" if is_here else "downloading"
            print(f"{task.name}: {what} of the hub, {how}: {builder.cache_dir}", file=sys.stderr)
        builder.download_and_prepare()
        rows = builder.as_dataset(split)
    return list(rows), f"hub: {what}, revision {builder.hash}"


def hub_sets(family: Task) -> list[str]:
    """The names of a family's sets; those that were downloaded before, when the hub cannot be reached."""
    import datasets

    failure = f"the sets of {family.name} cannot be had from the hub; give local files with --task_dir"
    with one_line(f"{failure}: "):
        names = datasets.get_dataset_config_names(family.hub)

    if names == ["default"]:  # what `datasets` says when it does not know
        folder = Path(datasets.config.HF_DATASETS_CACHE) / family.hub.replace("/", "___")
        names = sorted(path.name for path in folder.glob("*") if path.is_dir())
        if not names:
            raise ValueError(f"{failure}: it cannot be reached, and there are none in {folder}")
        print(f"{family.name}: the hub cannot be reached; {len(names)} sets are in {folder}", file=sys.stderr)
    return [name for name in names if name not in ("all", "auxiliary_train")]


# --- files of the user's ---


def is_own(name: str) -> bool:
    """Whether --tasks names a path, not a task."""
    is_path = kind_of(Path(name)) in (*ROW_FORMATS, *TEXT_FORMATS) or "/" in name
    return is_path or (name not in TASKS and Path(name).is_dir())


def own(path: Path) -> Questions | Texts:
    """A file, or a folder of tokens, by its path."""
    if path.is_dir():
        return Texts(path.name, list(validation_documents(path)), f"{path}, val")
    if not path.is_file():
        raise ValueError(f"{path}: no such file, and no task of this name")

    rows = file_rows(path)
    name = path.name.partition(".")[0]
    if rows and isinstance(rows[0].get("text"), str):
        documents = [text_of(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]
        return Texts(name, documents, str(path))
    items = as_items(own_item, rows, str(path))
    alone = [number for number, item in enumerate(items, start=1) if len(item.choices) == 1]
    if alone and len(alone) < len(items):
        raise ValueError(f"{path}, row {alone[0]}: it has one answer, other rows have choices; make two files of them")
    return Questions(name, items, items, str(path))


def own_item(row: Row) -> Item:
    """A question of the user's, in one of the two layouts."""
    if "choices" not in row:
        if not isinstance(row.get("question"), str) or not isinstance(row.get("answer"), str):
            keys = ", ".join(map(str, row))
            wanted = "context, choices, answer; or question, answer, both texts; or text"
            raise ValueError(f"another layout: it has {keys:.200}; wanted are {wanted}")
        return Item(row["question"], [row["answer"]])

    answer = row["answer"]
    if isinstance(answer, str) and answer in row["choices"]:
        answer = list(row["choices"]).index(answer)
    return Item(row["context"], row["choices"], answer)


def text_of(row: Row, where: str) -> str:
    """The text of a document."""
    if not isinstance(row.get("text"), str):
        raise ValueError(f'{where}: no "text", which the first row has')
    return replace_lone_surrogates(row["text"])


def validation_documents(folder: Path) -> Iterator[str]:
    """The texts of a corpus's validation documents."""
    shards = Shards(folder, "val")
    tokenizer = corpus_tokenizer(folder)
    for block in shards.blocks(BLOCK_TOKENS):
        for ids in shards.documents(block, tokenizer.end_of_text):
            text = tokenizer.decode(ids.tolist())
            if text:
                yield text


def corpus_tokenizer(folder: Path) -> Tokenizer:
    """What makes text of a corpus's ids. Raises ValueError for a folder without one."""
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json: its ids cannot be made text")
    return Tokenizer.load(folder)
