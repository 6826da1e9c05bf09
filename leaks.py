"""Which items of a task occur in a corpus: python leaks.py --corpus=data/wiki --tasks=piqa --task_dir=data/eval

    python leaks.py --corpus=data/wiki --tasks=arc_easy,mmlu             tasks from the Hugging Face hub
    python leaks.py --corpus='texts/*.jsonl' --tasks='eval/*.jsonl'      files of documents, files of evaluation texts

--corpus is a folder of prepare_wiki.py or prepare_chat.py, of which both splits are made text again; or files, as
prepare_wiki.py reads them. --tasks is what prepare_wiki.py --against takes, and the rule is the same: a document holds
an item when they have N words in a row in common, N between 8 and 13 (corpus/decontaminate.py). So a corpus of texts
that was made with --against=arc_easy holds no item of arc_easy.

leaks.jsonl has a line for each pair of an item and a document, with the words; leaks.json has the counts. No model is
needed. A run that was interrupted goes on where it was.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import functools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import atomic
from chat_shards import Conversations
from corpus.decontaminate import Evaluation, plain_words, write_ngrams
from corpus.documents import unchanged_source
from corpus.pool import ORPHANS_S, map_parts, print_now, read_cached
from corpus.sketches import in_batches
from corpus.sources import Piece, cut_parts, describe, find_pieces, local_states, read_part
from errors import read_json
from shards import Shards, read_meta
from tasks.against import WILDCARDS, Against
from tasks.rows import corpus_tokenizer
from tokenizer import Tokenizer

VERSION = 1  # of the files in the work folder: those of another version are made anew
SPLITS = ("train", "val")
BLOCK_TOKENS = 1 << 20  # of a corpus: what a process looks through at once
STRONGEST = 20  # items of each task in leaks.json, those of which most is found
SHOWN_CHARS = 100  # of their words, when they are printed


@dataclass(frozen=True)
class LeaksConfig:
    """Settings of `python leaks.py`."""

    corpus: str = ""  # a folder such as data/wiki, or files 'texts/*.jsonl'
    tasks: str = ""  # names of tasks, and patterns of files with evaluation texts, with commas between them
    task_dir: str | None = None  # a folder with the tasks' files (tasks/rows.py); None: from the Hugging Face hub
    text_column: str = "text"  # field with the text, where the corpus is files
    out_dir: str | None = None  # results; None: out/leaks/<name of the corpus>
    show: int = 3  # items of each task to print, those of which most is found; at most 20
    num_workers: int | None = None  # processes; None: one for each CPU core

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not self.corpus:
            raise ValueError(
                "--corpus names nothing to look through; give a folder, data/wiki, or files, 'texts/*.jsonl'"
            )
        if not self.tasks:
            raise ValueError("--tasks names no task; try --tasks=arc_easy,piqa (python evaluate.py --help lists them)")
        if self.show < 0:
            raise ValueError(f"show ({self.show}) must be at least 0")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers ({self.num_workers}) must be at least 1")


# --- the corpus, part by part ---


@dataclass(frozen=True)
class TokenPart:
    """A block of tokens in a folder of shards: the documents, or conversations, that begin in it."""

    folder: Path
    split: str
    block: tuple[int, int, int]  # from Shards.blocks

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield ("", text); these documents have no ids."""
        tokenizer = read_cached(Tokenizer.load, self.folder / "tokenizer.json")
        for ids in self._ids(tokenizer.end_of_text):
            yield "", tokenizer.decode(ids.tolist(), show_special=False)

    def _ids(self, end_of_text: int) -> Iterator[np.ndarray]:
        meta = read_meta(self.folder)
        if meta.get("kind") == "chat":
            conversations = Conversations(self.folder, self.split, meta)
            for number in conversations.begin_in(self.block):
                ids, _ = conversations.read(number)
                yield ids
        else:
            shards = Shards(self.folder, self.split, meta, read_ahead=True)
            yield from shards.documents(self.block, end_of_text)


@dataclass(frozen=True)
class FilePart:
    """Pieces of files."""

    pieces: list[Piece]
    text_column: str
    split: str = ""

    def documents(self) -> Iterator[tuple[str, str]]:
        """Yield (id, text)."""
        for document in read_part(self.pieces, self.text_column):
            if not isinstance(document, str):  # the name of what a page of a dump is, if it is no article
                yield document.id, document.text


@dataclass(frozen=True)
class Corpus:
    """What is looked through.

    Attributes:
        description: in a few words.
        identity: JSON that says whether it is still the same.
        states: of its files, where they may change (documents.changed_file).
        parts: each with its size.
        size, unit: of all parts, for the progress bar.
    """

    description: str
    identity: dict[str, Any]
    states: dict[str, list[int]]
    parts: Iterator[tuple[TokenPart | FilePart, int]]
    size: int
    unit: str


def open_corpus(cfg: LeaksConfig) -> Corpus:
    """What --corpus names. Raises ValueError, in one line, for what cannot be looked through."""
    folder = Path(cfg.corpus).expanduser()
    is_data_folder = any((folder / name).exists() for name in ("meta.json", "manifest.json", "train.bin"))
    return token_corpus(folder) if is_data_folder else file_corpus(cfg.corpus, cfg.text_column)


def token_corpus(folder: Path) -> Corpus:
    """A folder of shards, with the tokenizer that makes text of them."""
    meta = read_meta(folder)
    corpus_tokenizer(folder)
    splits = [Shards(folder, split, meta) for split in SPLITS]
    size = sum(shards.tokens for shards in splits)
    return Corpus(f"{size:,} tokens", meta["splits"], {}, token_parts(splits), size, " tokens")


def token_parts(splits: list[Shards]) -> Iterator[tuple[TokenPart, int]]:
    """All blocks, split after split."""
    for shards in splits:
        for block in shards.blocks(BLOCK_TOKENS):
            _, start, stop = block
            yield TokenPart(shards.folder, shards.split, block), stop - start


def file_corpus(pattern: str, text_column: str) -> Corpus:
    """Files of documents."""
    states = local_states(pattern)
    pieces, identity = find_pieces(pattern, text_column)
    size = sum(piece.size_bytes for piece in pieces)
    identity = identity | {"text_column": text_column}
    return Corpus(describe(pieces), identity, states, file_parts(pieces, text_column), size, "B")


def file_parts(pieces: list[Piece], text_column: str) -> Iterator[tuple[FilePart, int]]:
    """All pieces, some together, long ones cut."""
    for part in cut_parts(pieces):
        yield FilePart(part, text_column), sum(piece.size_bytes for piece in part)


# --- looking through a part ---


@dataclass(frozen=True)
class Found:
    """A document that holds N-grams of an evaluation text."""

    number: int  # of the document in its part
    id: str  # of the document; "" where it has none
    text: int  # as Evaluation numbers them
    held: int  # N-grams of the text that the document holds
    words: str  # the longest run that both have


def look_through(ngrams: Path, job: tuple[TokenPart | FilePart, Path]) -> tuple[Path, str]:
    """Write what is found in a part, a line each, and a last line of counts; returns (the path, the part's split).

    A pure function of the part and of the N-grams. job: (the part, the path). What is there is not made again.
    """
    part, path = job
    if path.is_file():
        return path, part.split

    evaluation = read_cached(Evaluation, ngrams)
    n_documents = 0
    with atomic.new_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for ids, texts in in_batches(part.documents()):
            for found in look_at(evaluation, ids, texts, n_documents):
                write_line(file, asdict(found))
            n_documents += len(texts)
        write_line(file, {"documents": n_documents})
    return path, part.split


def write_line(file: Any, value: dict[str, Any]) -> None:
    """An object of a jsonl file."""
    file.write(json.dumps(value, ensure_ascii=False) + "\n")


def look_at(evaluation: Evaluation, ids: list[str], texts: list[str], first: int) -> Iterator[Found]:
    """What is found in some documents, in their order. first: the number of the first of them."""
    words = [plain_words(text) for text in texts]
    overlaps = evaluation.overlaps(words)
    in_order = np.argsort(overlaps.documents, kind="stable")
    for i in in_order.tolist():
        document = int(overlaps.documents[i])
        text = int(overlaps.texts[i])
        run = evaluation.longest_run(words[document], text)
        yield Found(first + document, ids[document], text, int(overlaps.n_held[i]), run)


# --- all parts together ---


@dataclass(frozen=True)
class Leak:
    """A line of leaks.jsonl."""

    task: str  # or the name of a file
    item: int  # counted from 0, as in evaluate.py's files; or the row of the file
    document: str  # its id; or train#12, the document 12 of that split, counted from 0
    n: int  # words in an N-gram
    held: int  # N-grams of the item that the document holds
    ngrams: int  # N-grams of the item
    words: str  # the longest run of words that both have

    @property
    def share(self) -> float:
        """How much of the item the document holds."""
        return self.held / self.ngrams


class Findings:
    """What is found of each task: the strongest leak of each item, and in how many documents there are any."""

    def __init__(self, evaluation: Evaluation):
        self.evaluation = evaluation
        self.of_task: list[dict[int, Leak]] = [{} for _ in evaluation.files]  # item -> its leak with the most N-grams
        self.documents = [0] * len(evaluation.files)
        self.ends = np.cumsum([file["texts"] for file in evaluation.files])  # of the tasks' texts: 2, 5 for 2 and 3

    def task_of(self, text: int) -> int:
        """The place in evaluation.files of a text's task."""
        return int(np.searchsorted(self.ends, text, side="right"))

    def leak(self, found: Found, document: str) -> Leak:
        """What is found, in the words of leaks.jsonl."""
        task, _, item = self.evaluation.names[found.text].rpartition("#")
        n = self.evaluation.files[self.task_of(found.text)]["n"]
        total = int(self.evaluation.totals[found.text])
        return Leak(task, int(item), document, n, found.held, total, found.words)

    def add(self, text: int, leak: Leak) -> None:
        """Keep the leak if it is the strongest of its item; of equal ones the first."""
        of_task = self.of_task[self.task_of(text)]
        before = of_task.get(leak.item)
        if before is None or leak.held > before.held:
            of_task[leak.item] = leak

    def report(self) -> list[dict[str, Any]]:
        """The counts of each task, and its strongest leaks."""
        reports = []
        for file, leaks, documents in zip(self.evaluation.files, self.of_task, self.documents, strict=True):
            shares = [leak.share for leak in leaks.values()]
            strongest = sorted(leaks.values(), key=lambda leak: (-leak.share, -leak.held, leak.item))
            of_task = {
                "task": file["file"],
                "items": file["texts"],
                "n": file["n"],
                "too_short": file["too_short"],  # they have no N-gram and cannot be found
                "found": len(shares),
                "half": sum(share >= 0.5 for share in shares),
                "all": sum(share == 1 for share in shares),
                "documents": documents,
                "strongest": [asdict(leak) for leak in strongest[:STRONGEST]],
            }
            reports.append(of_task)
        return reports


def gather(parts: list[tuple[Path, str]], evaluation: Evaluation, path: Path) -> dict[str, Any]:
    """Write leaks.jsonl to `path` from the files of the parts, in their order; returns what leaks.json says.

    parts: from look_through. In memory is one leak for each item.
    """
    findings = Findings(evaluation)
    n_documents: dict[str, int] = {}  # of a split, up to this part
    with atomic.new_file(path) as temporary, open(temporary, "w", encoding="utf-8") as leaks:
        for part, split in parts:
            first = n_documents.get(split, 0)
            holding = set()  # (a document, a task of which it holds an item)
            with open(part, encoding="utf-8") as file:
                for line in file:
                    fields = json.loads(line)
                    if "documents" in fields:  # the last line
                        n_documents[split] = first + fields["documents"]
                        continue

                    found = Found(**fields)
                    leak = findings.leak(found, found.id or f"{split}#{first + found.number}")
                    write_line(leaks, asdict(leak))
                    findings.add(found.text, leak)
                    holding.add((found.number, findings.task_of(found.text)))

            for _, task in holding:
                findings.documents[task] += 1
    return {"documents": sum(n_documents.values()), "tasks": findings.report()}


def find_leaks(corpus: Corpus, against: Against, out: Path, workers: int) -> dict[str, Any]:
    """Write leaks.jsonl and leaks.json in `out`, unless they are there; returns what leaks.json says.

    An interrupted run goes on where it was, from out/leaks_work. `out` is locked meanwhile.
    """
    done = out / "leaks.json"
    header = {"version": VERSION, "corpus": corpus.identity, "evaluation": against.identity()}
    header = json.loads(json.dumps(header))  # as it is read again
    if done.is_file():
        report = read_json(done)
        if report.get("of") == header:
            print_now(f"{done}: looked for before")
            return report

    work = open_work_folder(out, header)
    with unchanged_source(corpus.states | against.states, done, [work]):
        ngrams = work / "evaluation.npz"
        if not ngrams.is_file():
            write_ngrams(against.texts(), ngrams)

        look = functools.partial(look_through, ngrams)
        parts = map_parts(look, make_jobs(corpus, work), workers, "leaks", corpus.size, corpus.unit)

        report = gather(parts, Evaluation(ngrams), out / "leaks.jsonl")
        report["of"] = header
        atomic.write_json(done, report)
    shutil.rmtree(work)
    return report


def make_jobs(corpus: Corpus, work: Path) -> Iterator[tuple[tuple[TokenPart | FilePart, Path], int]]:
    """Yield ((part, the path of what is found in it), size)."""
    for number, (part, size) in enumerate(corpus.parts):
        yield (part, work / f"part_{number:05d}.jsonl"), size


def open_work_folder(out: Path, header: dict[str, Any]) -> Path:
    """The folder of work files, emptied if they are of another corpus, other tasks or another version.

    Deletes old results: the presence of leaks.json means complete.
    """
    work = out / "leaks_work"
    path = work / "header.json"
    if not path.is_file() or read_json(path) != header:
        shutil.rmtree(work, ignore_errors=True)
        atomic.write_json(path, header)
    (out / "leaks.json").unlink(missing_ok=True)
    (out / "leaks.jsonl").unlink(missing_ok=True)
    return work


# --- the command ---


def name_of(corpus: str) -> str:
    """A name for the results: of data/wiki "wiki", of 'texts/*.jsonl' "texts"."""
    path = Path(corpus)
    while any(mark in path.name for mark in WILDCARDS):
        path = path.parent
    return path.name.partition(".")[0] or "corpus"


def main(cfg: LeaksConfig) -> None:
    """Look for the items, and print how many of each task are found and the strongest leaks."""
    cfg.check()
    against = Against.read(cfg.tasks, cfg.task_dir, "--tasks")
    corpus = open_corpus(cfg)
    print_now(f"{cfg.corpus}: {corpus.description}")

    out = Path(cfg.out_dir).expanduser() if cfg.out_dir is not None else Path("out/leaks") / name_of(cfg.corpus)
    workers = cfg.num_workers or os.cpu_count() or 1
    with atomic.lock(out, ORPHANS_S, print_now):
        report = find_leaks(corpus, against, out, workers)

    print_table(report)
    for of_task in report["tasks"]:
        for leak in of_task["strongest"][: cfg.show]:
            print_leak(Leak(**leak))
    print(f"wrote {out}/leaks.jsonl, a line for each item and document, and leaks.json")


def print_table(report: dict[str, Any]) -> None:
    """The counts of each task."""
    width = max(len(of_task["task"]) for of_task in report["tasks"])
    print(f"{report['documents']:,} documents")
    print(f"{'':<{width}}    items   N  too short   found    half     all  documents")
    for of_task in report["tasks"]:
        counts = f"{of_task['items']:>9,} {of_task['n']:>3} {of_task['too_short']:>10,}"
        found = f"{of_task['found']:>7,} {of_task['half']:>7,} {of_task['all']:>7,} {of_task['documents']:>10,}"
        print(f"{of_task['task']:<{width}}{counts} {found}")

    if any(of_task["too_short"] for of_task in report["tasks"]):
        print("too short: items of fewer than N words, which are not looked for")


def print_leak(leak: Leak) -> None:
    """One item, and where it is."""
    words = leak.words
    if len(words) > SHOWN_CHARS:
        words = words[: SHOWN_CHARS - 3] + "..."
    counts = f"{leak.held} of {leak.ngrams} {leak.n}-grams"
    print(f"{leak.task}, item {leak.item}, in {leak.document}: {counts}: {words}")


if __name__ == "__main__":
    configurator.run(main, LeaksConfig, show=False)
