"""What dedup.py keeps of every document, on disk: hashes of its id, content and bands, and its sizes. 256 bytes.

A sketch file is a matrix in numpy's format, (BANDS + 7, documents) uint64, one for each part: a row is read alone, for
all documents, and no step holds more than a few rows.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import xxhash

import atomic
from corpus.decontaminate import Evaluation
from corpus.documents import read_documents
from corpus.minhash import BANDS, band_hashes, hash_shingles, join_words, signatures, squeeze
from corpus.near import group_equal, pack
from corpus.pool import read_cached

BATCH_CHARS = 512 << 10  # text hashed at once: many documents for each call of numpy, and still in the cache

# Rows of a sketch file. The first BANDS are the hashes of the bands.
CONTENT = BANDS  # and the row after it: 128 bits of hash of the text, whitespace as one space
ID = BANDS + 2  # hash of the id
CHARS = BANDS + 3
BYTES = BANDS + 4
SHINGLES = BANDS + 5  # how many, repeated ones counted each time
EVALUATION = BANDS + 6  # packed: (which evaluation text, how many of its N-grams the document holds), from Evaluation
N_ROWS = BANDS + 7


def read_batches(
    path: Path,
    rows: np.ndarray | None = None,
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (ids, texts) of all documents of a part, or of those in `rows`, about BATCH_CHARS at a time.

    Raises ValueError for a document without id or text.
    """
    return in_batches(whole_documents(path, rows))


def whole_documents(path: Path, rows: np.ndarray | None) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of the documents of a part. Raises ValueError where one is missing."""
    for row, (document_id, text) in enumerate(read_documents(path, rows=rows)):
        if document_id is None:
            raise ValueError(f"{path}: row {row} has no id")
        if text is None:
            raise ValueError(f"{path}: row {row} has no text")
        yield document_id, text


def in_batches(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (ids, texts) of documents, about BATCH_CHARS at a time."""
    ids: list[str] = []
    texts: list[str] = []
    n_chars = 0
    for document_id, text in documents:
        ids.append(document_id)
        texts.append(text)
        n_chars += len(text)
        if n_chars >= BATCH_CHARS:
            yield ids, texts
            ids, texts, n_chars = [], [], 0

    yield ids, texts


def sketch_texts(ids: list[str], texts: list[str], evaluation: Evaluation | None) -> np.ndarray:
    """The sketches of some documents, (N_ROWS, documents) uint64."""
    squeezed = squeeze(texts)
    words = list(map(join_words, squeezed))
    shingles, counts = hash_shingles(words)
    digests = b"".join(map(xxhash.xxh3_128_digest, squeezed))
    content = np.frombuffer(digests, ">u8").reshape(-1, 2)
    id_hashes = list(map(xxhash.xxh3_64_intdigest, ids))

    sketches = np.zeros((N_ROWS, len(texts)), np.uint64)
    sketches[:BANDS] = band_hashes(signatures(shingles, counts))
    sketches[CONTENT], sketches[CONTENT + 1] = content.T
    sketches[ID] = np.array(id_hashes, np.uint64)
    sketches[CHARS] = list(map(len, texts))
    sketches[BYTES] = list(map(size_bytes, texts))
    sketches[SHINGLES] = counts
    if evaluation is not None:
        sketches[EVALUATION] = pack(*evaluation.find(texts))
    return sketches


def size_bytes(text: str) -> int:
    """How long a text is in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def sketch_part(ngrams: Path | None, job: tuple[Path, Path]) -> None:
    """Write the sketches of one part; a pure function of the file and of the evaluation's N-grams, if there are any.

    job: (the part, the sketch file).
    """
    path, target = job
    evaluation = read_cached(Evaluation, ngrams) if ngrams else None

    batches: list[np.ndarray] = []
    for ids, texts in read_batches(path):
        sketches = sketch_texts(ids, texts, evaluation)
        batches.append(sketches)

    file = io.BytesIO()
    np.save(file, np.concatenate(batches, axis=1))
    atomic.write(target, file.getbuffer())  # np.save would not notice that the disk is full


class Documents:
    """The document files and their sketches. A document's place is its number in the order of files and rows."""

    def __init__(self, paths: list[Path], sketches: list[Path]):
        self.paths = paths
        self.sketches = sketches
        sizes = [self._open(path).shape[1] for path in sketches]
        self.starts = np.cumsum([0, *sizes])  # the first place of each part, and the end

    @staticmethod
    def _open(path: Path) -> np.ndarray:
        return np.load(path, mmap_mode="r")

    def field(self, number: int) -> np.ndarray:
        """One field of all documents, by place: CONTENT, CHARS and so on, or the number of a band."""
        fields = [self._open(path)[number] for path in self.sketches]
        return np.concatenate(fields)

    def by_part(self, places: np.ndarray) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
        """Yield (path, which of `places` are in it, their rows, ascending) for the parts that hold any."""
        order = np.argsort(places, kind="stable")
        part_bounds = np.searchsorted(places[order], self.starts)
        for i, path in enumerate(self.paths):
            which = order[part_bounds[i] : part_bounds[i + 1]]
            if which.size:
                rows = places[which] - self.starts[i]
                yield path, which, rows

    def ids(self, places: np.ndarray) -> list[str]:
        """The ids of the documents at `places`."""
        ids = np.empty(places.size, object)
        for path, which, rows in self.by_part(places):
            found = read_documents(path, ("id",), rows)
            ids[which] = [document_id for (document_id,) in found]
        return ids.tolist()

    def check_ids(self) -> None:
        """Raise ValueError with both places when two documents have one id: equal hashes, then the ids themselves."""
        members, sizes = group_equal(self.field(ID))
        bounds = np.cumsum(sizes)[:-1]
        for same_hash in np.split(members, bounds):
            ids = self.ids(same_hash[:1000])
            repeated = [document_id for document_id in ids if ids.count(document_id) > 1]
            if not repeated:
                continue

            equal = [i for i, document_id in enumerate(ids) if document_id == repeated[0]]
            first, last = self._name(same_hash[equal[0]]), self._name(same_hash[equal[-1]])
            raise ValueError(
                f"two documents have the id '{repeated[0]}': {first} and {last}; ids must be unique: "
                "correct them, or let the data job make them: --id_column=None and a new --data_dir"
            )

    def _name(self, place: int) -> str:
        [(path, _, rows)] = self.by_part(np.array([place]))
        return f"{path}, row {rows[0]}"
