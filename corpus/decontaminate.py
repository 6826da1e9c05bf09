"""Which documents contain a text of an evaluation: overlap of 13-grams (GPT-3, Brown et al. 2020, appendix C).

As there, words are lower-case and without punctuation, and N is the 5th percentile of the lengths of a file's texts, at
least 8 and at most 13. Shorter texts have no N-gram: they are counted, not looked for. Other than there a document goes
as a whole, not the place alone, and N-grams that many documents share count as well: later scores are clean, and
what went is listed with the text that it holds, so that a common phrase can be told from a leak.
"""

import functools
import io
import itertools
import json
import re
import string
import unicodedata
from collections.abc import Iterator
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


def write_ngrams(source: str, path: Path) -> None:
    """Write the N-grams of all texts in the files of `source` (a row is a text) to `path`, for Evaluation.

    Raises ValueError for a pattern without files, for one that names a dump, and for what cannot be read.
    """
    from corpus.sources import find_pieces, read_rows  # here: the processes that look for the N-grams do not need it

    names: list[str] = []  # of all texts
    files: list[dict[str, Any]] = []
    columns = [np.empty((3, 0), np.uint64)]  # of each N-gram: its hash, the number of its text, N

    pieces = find_pieces(source, None)[0]
    for name, pieces_of_file in itertools.groupby(pieces, lambda piece: piece.name):
        texts: list[bytes] = []
        first_text = len(names)
        for piece in pieces_of_file:
            for row, fields in read_rows(piece):
                names.append(f"{name}#{row}")
                texts.append(plain_words(" ".join(strings(fields))))

        n = choose_n(texts)
        hashes, counts = hash_shingles(texts, n)
        owners = first_text + np.repeat(np.arange(len(texts)), counts)
        of_file = np.empty((3, hashes.size), np.uint64)
        of_file[0] = hashes
        of_file[1] = owners
        of_file[2] = n
        columns.append(of_file)

        too_short = int((counts == 0).sum())
        files.append({"file": name, "n": n, "texts": len(texts), "too_short": too_short})

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
        best_share = np.zeros(len(texts))
        best_text = np.zeros(len(texts), np.int64)
        n_held = np.zeros(len(texts), np.int64)

        for n, (known, owners) in self.by_n.items():
            which, hashes = self._known_ngrams(words, n, known)
            for document in np.unique(which):
                held = np.unique(hashes[which == document])
                first = np.searchsorted(known, held, "left")
                last = np.searchsorted(known, held, "right")
                owners_of_held = np.concatenate([owners[a:b] for a, b in zip(first, last, strict=True)])

                candidates, counts = np.unique(owners_of_held, return_counts=True)
                shares = counts / self.totals[candidates]
                top = shares.argmax()
                if shares[top] > best_share[document]:
                    best_share[document] = shares[top]
                    best_text[document] = candidates[top]
                    n_held[document] = counts[top]

        return best_text, n_held

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
