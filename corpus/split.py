"""Which of the documents that deduplication left are for training, and which for validation."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corpus.documents import read_documents
from corpus.pool import read_cached


def source_file(document_id: str) -> str:
    """The file that an id names, its part before '#'. Raises ValueError for the source's own ids, which name none."""
    name, hash_mark, _ = document_id.rpartition("#")
    if not hash_mark:
        advice = "set --id_column=None (and give an empty --data_dir if documents are there already)"
        raise ValueError(f"split_by=file needs ids that name a file, not '{document_id}'; {advice}")
    return name


def fraction(key: str) -> float:
    """A number in [0, 1) hashed from `key`."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def removed_ids(path: Path) -> frozenset[str]:
    """The ids in a duplicates.parquet."""
    return frozenset(document_id for (document_id,) in read_documents(path, ("id",)))


@dataclass(frozen=True)
class Splitter:
    """Which part of a kept document goes to which split.

    By id or by file a document goes to validation when a hash, a number in [0, 1), is below val_fraction.

    By position all kept texts are one stream of characters, and validation is its end. With val_fraction = 0.25 and

        part 0: "abcd", "efg"      part 1: "hij"      part 2: "kl"          the stream is abcdefghijkl

    validation begins at character int(12 * 0.75) = 9. The parts start at characters 0, 7 and 10. So the document of
    part 1 is cut after 9 - 7 = 2 characters: "hi" is for training, "j" for validation. It ends in validation.
    """

    by: str
    val_fraction: float
    folder: Path

    def kept(self, path: Path, columns: tuple[str, ...] = ("id", "text")) -> Iterator[tuple]:
        """`columns`, of which the id is the first, of the documents of a part that dedup left."""
        removed = read_cached(removed_ids, self.folder / "dedup/duplicates.parquet")
        return (row for row in read_documents(path, columns) if row[0] not in removed)

    def is_val(self, document_id: str) -> bool:
        """Whether a document is for validation, by the hash of its id or of its file."""
        key = source_file(document_id) if self.by == "file" else document_id
        return fraction(key) < self.val_fraction

    def starts(self, paths: list[Path]) -> list[int]:
        """By position: the character of the stream at which each part starts, and at last the length of the stream.

        Else all are 0, and nothing is read.
        """
        if self.by != "position":
            return [0] * (len(paths) + 1)
        chars = [sum(len(text) for _, text in self.kept(path)) for path in paths]
        return list(itertools.accumulate(chars, initial=0))

    def cut(self, chars: int) -> int:
        """By position: the character of the stream, of `chars` in all, at which validation begins."""
        return int(chars * (1 - self.val_fraction))

    def check(self, paths: list[Path]) -> None:
        """Raise ValueError when a split would be empty."""
        if self.by == "position":
            chars = self.starts(paths)[-1]
            if not 0 < self.cut(chars) < chars:
                raise ValueError(f"one split of {chars} characters is empty; change val_fraction ({self.val_fraction})")
            return
        sides = Counter(self.is_val(document_id) for path in paths for (document_id,) in self.kept(path, ("id",)))
        if len(sides) < 2:
            full, empty, remedy = ("val", "train", "lower") if True in sides else ("train", "val", "raise")
            one_sided = f"all {sides.total()} documents fell into the {full} split and none into {empty}"
            raise ValueError(f"{one_sided}; {remedy} --val_fraction ({self.val_fraction}), or add text")

    def pieces(self, path: Path, start: int, cut: int) -> Iterator[tuple[str, str, bool]]:
        """Yield (split, text, whether the document ends there) for the kept documents of a part.

        start: where the part starts in the stream; cut: where validation begins. Both only for by="position".
        """
        for document_id, text in self.kept(path):
            if self.by != "position":
                yield ("val" if self.is_val(document_id) else "train"), text, True
                continue

            train_chars = min(max(0, cut - start), len(text))
            if train_chars > 0:
                yield "train", text[:train_chars], train_chars == len(text)
            if train_chars < len(text):
                yield "val", text[train_chars:], True
            start += len(text)
