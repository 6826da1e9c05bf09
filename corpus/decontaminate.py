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
from corpus.minhash import hash_shingles, join_words

SHORTEST, LONGEST = 8, 13  # N
PERCENTILE = 5
ASCII_MARKS = string.punctuation.encode() + bytes(i for i in range(0x80) if chr(i).isspace())
TO_SPACES = bytes.maketrans(ASCII_MARKS, b" " * len(ASCII_MARKS))
OTHERS = re.compile(r"[^\x00-\x7f]+")  # str.translate is fast in ASCII alone


@functools.cache
def marks() -> dict[int, str]:
    """Punctuation, symbols and spaces beyond ASCII, to be replaced by spaces."""
    letters = map(chr, range(0x80, 0x110000))
    return {ord(i): " " for i in letters if i.isspace() or unicodedata.category(i)[0] in "PS"}


def plain_words(text: str) -> bytes:
    """The words of `text` as join_words gives them, lower-case, without punctuation and variants of letters (NFKC)."""
    text = OTHERS.sub(lambda run: run[0].translate(marks()), unicodedata.normalize("NFKC", text).lower())
    return join_words(b" ".join(text.encode().translate(TO_SPACES).split()))


def strings(value: Any) -> Iterator[str]:
    """All strings in a row of a file, in order: question, choices, passage, whatever their names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def write_ngrams(source: str, path: Path) -> None:
    """Write the N-grams of all texts in the files of `source` (a row is a text) to `path`, for Evaluation.

    Raises ValueError for a pattern without files, for one that names a dump, and for what cannot be read.
    """
    from corpus.sources import find_pieces, read_rows  # here: the processes that look for the N-grams do not need it

    names, files, columns = list[str](), list[dict[str, Any]](), [np.empty((3, 0), np.uint64)]
    for name, pieces in itertools.groupby(find_pieces(source, None)[0], lambda piece: piece.name):
        rows = [(row, plain_words(" ".join(strings(fields)))) for piece in pieces for row, fields in read_rows(piece)]
        lengths = [text.count(b" ") + 1 for _, text in rows] or [0]
        n = int(np.clip(np.percentile(lengths, PERCENTILE), SHORTEST, LONGEST))
        hashes, counts = hash_shingles([text for _, text in rows], n)
        owners = np.repeat(np.arange(len(names), len(names) + len(rows)), counts)
        columns.append(np.stack([hashes, owners.astype(np.uint64), np.full(hashes.size, n, np.uint64)]))
        names += [f"{name}#{row}" for row, _ in rows]
        files.append({"file": name, "n": n, "texts": len(rows), "too_short": int((counts == 0).sum())})
    found = np.unique(np.concatenate(columns, axis=1), axis=1)  # each N-gram of a text once; sorted by hash
    whole = io.BytesIO()
    np.savez(whole, ngrams=found, names=np.array(json.dumps(names)), files=np.array(json.dumps(files)))
    atomic.write(path, whole.getbuffer())


class Evaluation:
    """The N-grams of evaluation texts, from write_ngrams.

    names: file#row of each text; totals: how many N-grams it has; files: {file, n, texts, too_short} of each file.
    """

    def __init__(self, path: Path):
        with np.load(path) as file:
            ngrams, self.names, self.files = file["ngrams"], *(json.loads(str(file[key])) for key in ("names", "files"))
        self.totals = np.bincount(ngrams[1].astype(np.int64), minlength=len(self.names))
        self.of_size = {int(n): ngrams[:2, ngrams[2] == n] for n in np.unique(ngrams[2])}
        self.shift = np.uint64(64 - min(26, ngrams.shape[1].bit_length() + 4))
        self.slots = np.zeros(1 << (64 - int(self.shift)), bool)  # one in 16 is taken: most N-grams need one look
        self.slots[ngrams[0] >> self.shift] = True

    def find(self, texts: list[str]) -> np.ndarray:
        """For each of `texts` the number of the evaluation text of which it holds the largest share, plus 1, times
        2^32, plus how many N-grams it holds of that; 0 if it holds none. uint64.
        """
        words, best, found = list(map(plain_words, texts)), np.zeros(len(texts)), np.zeros(len(texts), np.uint64)
        for n, (known, owners) in self.of_size.items():
            hashes, counts = hash_shingles(words, n)
            likely = np.flatnonzero(self.slots[hashes >> self.shift])
            at = np.minimum(np.searchsorted(known, hashes[likely]), known.size - 1)
            likely = likely[known[at] == hashes[likely]]
            which, hashes = np.repeat(np.arange(len(texts)), counts)[likely], hashes[likely]
            for i in np.unique(which):
                mine = np.unique(hashes[which == i])
                ranges = zip(*(np.searchsorted(known, mine, side) for side in ("left", "right")), strict=True)
                held, times = np.unique(np.concatenate([owners[a:b] for a, b in ranges]), return_counts=True)
                shares = times / self.totals[held.astype(np.int64)]
                top = shares.argmax()
                if shares[top] > best[i]:
                    best[i], found[i] = shares[top], int(held[top]) + 1 << 32 | int(times[top])
        return found

    def row(self, found: int) -> tuple[str, float]:
        """What a number from find says: (the name of the evaluation text, the share of its N-grams)."""
        text, held = (found >> 32) - 1, found & 0xFFFFFFFF
        return self.names[text], held / self.totals[text]
