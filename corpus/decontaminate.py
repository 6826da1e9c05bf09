"""Which documents contain a text of an evaluation: overlap of 13-grams (GPT-3, Brown et al. 2020, appendix C).

As there, words are lower-case and without punctuation, and N is the 5th percentile of the lengths of a file's texts, at
least 8 and at most 13. Shorter texts have no N-gram: they are counted, not looked for. Other than there a document goes
as a whole, not the place alone, and N-grams that many documents share count as well: later scores are clean, and
what went is listed with the text that it holds, so that a common phrase can be told from a leak.

dedup.py asks for the one text of which a document holds most (Evaluation.find), leaks.py for all of them (overlaps).
tasks/against.py says which texts an evaluation has.
"""

import functools
import io
import json
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import atomic
from corpus.minhash import ASCII_SPACES, hash_shingles, join_words

SHORTEST, LONGEST = 8, 13  # N
PERCENTILE = 5

ASCII_MARKS = string.punctuation.encode() + ASCII_SPACES
MARKS_TO_SPACES = bytes.maketrans(ASCII_MARKS, b" " * len(ASCII_MARKS))
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")  # str.translate is fast in ASCII alone


# --- words ---


@functools.cache
def marks() -> dict[int, str]:
    """Punctuation, symbols and spaces beyond ASCII, to be replaced by spaces: for str.translate."""
    table: dict[int, str] = {}
    for code in range(0x80, 0x110000):
        character = chr(code)
        category = unicodedata.category(character)[0]
        if category in "PS" or character.isspace():
            table[code] = " "
    return table


def plain_words(text: str) -> bytes:
    """The words of `text` as join_words gives them, lower-case, without punctuation and variants of letters (NFKC)."""
    text = unicodedata.normalize("NFKC", text).lower()
    table = marks()
    text = BEYOND_ASCII.sub(lambda run: run[0].translate(table), text)
    words = text.encode().translate(MARKS_TO_SPACES).split()
    return join_words(b" ".join(words))


def strings(value: Any) -> Iterator[str]:
    """All strings in a row of a file, in order: question, choices, passage, whatever their names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


# --- the N-grams of evaluations ---


def choose_n(texts: list[bytes]) -> int:
    """N for the texts of a file (from plain_words): the 5th percentile of their lengths in words, within 8 to 13."""
    if not texts:
        return SHORTEST
    lengths = [text.count(b" ") + 1 for text in texts]
    length = np.percentile(lengths, PERCENTILE)
    return int(np.clip(length, SHORTEST, LONGEST))


@dataclass(frozen=True)
class EvaluationTexts:
    """The texts of a file or of a task."""

    name: str
    texts: dict[int, str]  # by the number of the row or of the item


def write_ngrams(sources: Iterable[EvaluationTexts], path: Path) -> None:
    """Write the N-grams of all texts to `path`, for Evaluation."""
    names: list[str] = []  # of all texts
    files: list[dict[str, Any]] = []
    columns = [np.empty((3, 0), np.uint64)]  # of each N-gram: its hash, the number of its text, N

    for source in sources:
        first_text = len(names)
        names += [f"{source.name}#{number}" for number in source.texts]

        texts = [plain_words(text) for text in source.texts.values()]
        n = choose_n(texts)
        hashes, counts = hash_shingles(texts, n)
        owners = first_text + np.repeat(np.arange(len(texts)), counts)
        of_source = np.empty((3, hashes.size), np.uint64)
        of_source[0] = hashes
        of_source[1] = owners
        of_source[2] = n
        columns.append(of_source)

        too_short = int((counts == 0).sum())
        files.append({"file": source.name, "n": n, "texts": len(texts), "too_short": too_short})

    ngrams = np.concatenate(columns, axis=1)
    ngrams = np.unique(ngrams, axis=1)  # each N-gram of a text once; sorted by hash
    file = io.BytesIO()
    np.savez(
        file,
        ngrams=ngrams,
        names=np.array(json.dumps(names)),
        files=np.array(json.dumps(files)),
    )
    atomic.write(path, file.getbuffer())


@dataclass(frozen=True)
class Overlaps:
    """Which documents hold N-grams of which texts. All int64, an entry for each pair of the two."""

    documents: np.ndarray
    texts: np.ndarray
    n_held: np.ndarray  # how many different N-grams of the text the document holds


class Evaluation:
    """The N-grams of evaluation texts, from write_ngrams.

    names: file#row of each text; totals: how many N-grams it has; files: {file, n, texts, too_short} of each file.
    """

    def __init__(self, path: Path):
        with np.load(path) as file:
            hashes, owners, sizes = file["ngrams"]
            self.names: list[str] = json.loads(str(file["names"]))
            self.files: list[dict[str, Any]] = json.loads(str(file["files"]))

        owners = owners.astype(np.int64)
        self.totals = np.bincount(owners, minlength=len(self.names))
        self.by_n: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # N: (sorted hashes, the text of each)
        for n in np.unique(sizes):
            of_size = sizes == n
            self.by_n[int(n)] = hashes[of_size], owners[of_size]

        # A table by the first bits of a hash, of which at most one slot in 16 is taken: most N-grams of a document need
        # one look there and no binary search.
        bits = min(26, hashes.size.bit_length() + 4)
        self.shift = np.uint64(64 - bits)
        self.slots = np.zeros(1 << bits, bool)
        self.slots[hashes >> self.shift] = True

    def find(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """For each of `texts`, the evaluation text of which it holds the largest share of N-grams.

        Returns (the number of that text in `names`, how many of its N-grams the document holds), int64. A document that
        holds none has (0, 0). Of equal shares the one with the smaller N counts, then the first text.
        """
        words = [plain_words(text) for text in texts]
        best_text = np.zeros(len(texts), np.int64)
        n_held = np.zeros(len(texts), np.int64)

        found = self.overlaps(words)
        shares = found.n_held / self.totals[found.texts]
        largest_first = np.lexsort([-shares, found.documents])  # equal ones stay in their order
        documents, places = np.unique(found.documents[largest_first], return_index=True)
        best = largest_first[places]
        best_text[documents] = found.texts[best]
        n_held[documents] = found.n_held[best]
        return best_text, n_held

    def overlaps(self, words: list[bytes]) -> Overlaps:
        """All pairs of a document (from plain_words) and a text that have an N-gram in common.

        In the order of N, then by document, then by text.
        """
        documents = [np.empty(0, np.int64)]
        texts = [np.empty(0, np.int64)]
        n_held = [np.empty(0, np.int64)]

        for n, (known, owners) in self.by_n.items():
            which, hashes = self._known_ngrams(words, n, known)
            for document in np.unique(which):
                held = np.unique(hashes[which == document])
                first = np.searchsorted(known, held, "left")
                last = np.searchsorted(known, held, "right")
                owners_of_held = np.concatenate([owners[a:b] for a, b in zip(first, last, strict=True)])

                of_document, counts = np.unique(owners_of_held, return_counts=True)
                documents.append(np.full(of_document.size, document))
                texts.append(of_document)
                n_held.append(counts)

        return Overlaps(np.concatenate(documents), np.concatenate(texts), np.concatenate(n_held))

    def longest_run(self, words: bytes, text: int) -> str:
        """The longest run of words of a document (from plain_words) of which all N-grams are those of a text.

        With N = 3, the document "so the cat sat on the mat" and the text "a cat sat on the rug":

            N-grams     so the cat, the cat sat, cat sat on, sat on the, on the mat
            held                                 yes         yes                       -> "cat sat on the"
        """
        n, of_text = self.ngrams_of(text)
        hashes, _ = hash_shingles([words], n)
        is_held = np.isin(hashes, of_text)

        # Where runs of held N-grams begin, and where the N-gram after them is: of 0 1 1 0 1 at 1 and 4, 3 and 5.
        steps = np.diff(is_held.astype(np.int8), prepend=0, append=0)
        begins = np.flatnonzero(steps == 1)
        ends = np.flatnonzero(steps == -1)
        longest = (ends - begins).argmax()

        run = words.split(b" ")[begins[longest] : ends[longest] + n - 1]
        return b" ".join(run).decode()

    def ngrams_of(self, text: int) -> tuple[int, np.ndarray]:
        """(N, the sorted hashes of the N-grams) of an evaluation text that has some."""
        for n, (hashes, owners) in self._by_text.items():
            begin, end = np.searchsorted(owners, [text, text + 1])
            if begin < end:
                return n, hashes[begin:end]
        raise AssertionError(f"text {text} has no N-gram")

    @functools.cached_property
    def _by_text(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """by_n in the order of the texts."""
        sorted_by_text = {}
        for n, (hashes, owners) in self.by_n.items():
            order = np.argsort(owners, kind="stable")
            sorted_by_text[n] = (hashes[order], owners[order])
        return sorted_by_text

    def _known_ngrams(
        self,
        words: list[bytes],
        n: int,
        known: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The n-grams of documents that are among `known`, sorted hashes: (which document, hash)."""
        hashes, counts = hash_shingles(words, n)
        which = np.repeat(np.arange(len(words)), counts)

        slots = hashes >> self.shift
        likely = np.flatnonzero(self.slots[slots])
        nearest = np.searchsorted(known, hashes[likely])
        nearest = np.minimum(nearest, known.size - 1)

        is_known = known[nearest] == hashes[likely]
        positions = likely[is_known]
        return which[positions], hashes[positions]
