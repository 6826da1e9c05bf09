"""Which documents go because another one says the same: exact duplicates, then MinHash-LSH near-duplicates, verified.

    python dedup.py --source='data/pydocs/documents/*.parquet' --out=out/dedup
    python dedup.py --source=... --out=... --against='eval/*.jsonl'      documents with a text of an evaluation go first

In canonical order (longest first, then content hash, then id) a document is removed only when its exact Jaccard
similarity with a document that is kept is at least the threshold: no chains, and the same result for any order of
input, cut into parts and number of processes. Similarity is of sets of 5-word shingles; a character of a script that
writes no spaces counts as a word.
LSH (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3) proposes pairs: with b bands of r values a pair of
similarity s is found with probability 1 - (1 - s^r)^b, for 25 x 5 that is 0.990 at s = 0.7 and 0.9999 at 0.8.

The steps; none holds texts or Python objects of all documents, and out/work keeps what the longer ones have finished:
    sketches    every part by itself: hashes of id, content and bands, 256 bytes a document on disk
    exact       canonical order; of equal texts the first stays, and the others take no part in what follows
    bands       documents with an equal band form a bucket
    shingles    of all documents in buckets, from their texts, to one file
    duplicates  in canonical order, each document that is kept removes the later ones like it
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import functools
import glob
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from tqdm import tqdm

import atomic
from corpus.decontaminate import Evaluation, write_ngrams
from corpus.documents import read_documents, string_array
from corpus.minhash import BANDS, ROWS, SHINGLE, band_hashes, hash_shingles, join_words, signatures, squeeze
from corpus.pool import map_parts, read_cached, stage
from corpus.report import KINDS, make_report, plot

BATCH_CHARS = 512 << 10  # text hashed at once: many documents for each call of numpy, and still in the cache
CROWD = 64  # members above which a bucket is not compared pair by pair, but through rare shingles
BLOCK = 1 << 20  # shingles in memory at once
# rows of a sketch file, after those of the bands; EVALUATION: from Evaluation.find
CONTENT, ID, CHARS, BYTES, SHINGLES, EVALUATION = (BANDS + i for i in (0, 2, 3, 4, 5, 6))
LEVELS = 50  # steps of similarity, from 0 to 1, in which compared pairs are counted
SCHEMA = pa.schema([("id", pa.string()), ("kept_id", pa.string()), ("similarity", pa.float64()), ("kind", pa.string())])


@dataclass(frozen=True)
class DedupConfig:
    """Settings of `python dedup.py`."""

    source: str = ""  # pattern of document parquet files (columns id, text)
    out: str = ""  # folder for duplicates.parquet, report.json and report.png
    threshold: float = 0.7  # exact Jaccard similarity at which a document is a duplicate
    against: str | None = None  # pattern of files (.jsonl, .parquet, .txt): documents with a text of theirs go, too
    num_workers: int = 2  # processes


# --- sketches: what is kept of every document, on disk ---


def read_batches(path: Path, rows: np.ndarray | None = None) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (ids, texts) of all documents of a part, or of those in `rows`, about BATCH_CHARS at a time."""
    ids, texts, chars = [], [], 0
    for row, (document_id, text) in enumerate(read_documents(path, rows=rows)):
        if document_id is None or text is None:
            raise ValueError(f"{path}: row {row} has no {'id' if document_id is None else 'text'}")
        ids.append(document_id)
        texts.append(text)
        chars += len(text)
        if chars >= BATCH_CHARS:
            yield ids, texts
            ids, texts, chars = [], [], 0
    yield ids, texts


def sketch_part(ngrams: Path | None, job: tuple[Path, Path]) -> None:
    """Write the sketches of one part, (BANDS + 7, documents) uint64; a pure function of the file and the N-grams."""
    path, target = job
    evaluation, found = read_cached(Evaluation, ngrams) if ngrams else None, []
    for ids, texts in read_batches(path):
        squeezed = squeeze(texts)
        shingles, counts = hash_shingles(list(map(join_words, squeezed)))
        content = np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, squeezed)), ">u8").reshape(-1, 2).T
        sizes = [len(text) if text.isascii() else len(text.encode()) for text in texts]
        held = evaluation.find(texts) if evaluation else np.zeros(len(texts), np.uint64)
        numbers = np.array([[*map(xxhash.xxh3_64_intdigest, ids)], [*map(len, texts)], sizes, counts, held], np.uint64)
        found.append(np.concatenate([band_hashes(signatures(shingles, counts)), content, numbers]))
    whole = io.BytesIO()
    np.save(whole, np.concatenate(found, axis=1))
    atomic.write(target, whole.getbuffer())  # np.save would not notice that the disk is full


class Documents:
    """The document files and their sketches. A document's place is its number in the order of files and rows."""

    def __init__(self, paths: list[Path], sketches: list[Path]):
        self.paths, self.sketches = paths, sketches
        self.starts = np.cumsum([0, *(np.load(path, mmap_mode="r").shape[1] for path in sketches)])

    def column(self, row: int) -> np.ndarray:
        """One row of all sketches: a number of every document, by place."""
        return np.concatenate([np.load(path, mmap_mode="r")[row] for path in self.sketches])

    def by_part(self, places: np.ndarray) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
        """Yield (path, which of `places` are in it, their rows, ascending) for the parts that hold any."""
        order = np.argsort(places, kind="stable")
        for i, which in enumerate(np.split(order, np.searchsorted(places[order], self.starts))[1:-1]):
            if which.size:
                yield self.paths[i], which, places[which] - self.starts[i]

    def ids(self, places: np.ndarray) -> list[str]:
        """The ids of the documents at `places`."""
        found = np.empty(places.size, object)
        for path, which, rows in self.by_part(places):
            found[which] = [document_id for (document_id,) in read_documents(path, ("id",), rows)]
        return found.tolist()

    def check_ids(self) -> None:
        """Raise ValueError with both places when two documents have one id: equal hashes, then the ids themselves."""
        members, sizes = buckets(self.column(ID))
        for same in np.split(members, np.cumsum(sizes)[:-1]):
            places = [f"{path}, row {row}" for path, _, rows in self.by_part(same) for row in rows]
            ids = self.ids(same[:1000])
            for place, document_id in zip(places, ids, strict=False):
                if ids.count(document_id) > 1:
                    other = places[len(ids) - 1 - ids[::-1].index(document_id)]
                    advice = "correct them, or begin an empty folder with --id_column=None to have them made"
                    found = f"two documents have the id '{document_id}': {place} and {other}"
                    raise ValueError(f"{found}; ids must be unique: {advice}")


def canonical_order(documents: Documents) -> tuple[np.ndarray, np.ndarray]:
    """Return (places in canonical order, for each rank the first rank with equal content)."""
    keys = np.stack([~documents.column(CHARS), documents.column(CONTENT), documents.column(CONTENT + 1)])
    order = np.lexsort(keys[::-1]).astype(np.uint32)  # documents are numbered in 32 bits here and in the cells
    keys = keys[:, order]
    tied, group = groups(keys)
    ids = documents.ids(order[tied])  # of few documents
    order[tied] = order[tied][sorted(range(tied.size), key=lambda k: (group[k], ids[k]))]
    first = np.arange(order.size, dtype=np.uint32)
    by_content = np.lexsort(keys[:0:-1])  # stable: ranks of equal content ascend
    equal, group = groups(keys[1:, by_content])
    first[by_content[equal]] = by_content[equal][np.searchsorted(group, group)]
    return order, first


def groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of sorted columns, those that equal a neighbour: (their indices, the number of the group of each)."""
    follows = np.zeros(keys.shape[1], bool)  # equals the one before
    follows[1:] = (keys[:, 1:] == keys[:, :-1]).all(axis=0)
    shared = follows.copy()
    shared[:-1] |= follows[1:]
    return np.flatnonzero(shared), np.cumsum(~follows[shared]) - 1


# --- candidates ---


def buckets(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (the indices that share a hash, bucket after bucket and ascending in each, the sizes of the buckets)."""
    order = np.argsort(hashes)
    shared, group = groups(hashes[order][None])
    members = order[shared]
    return members[np.lexsort((members, group))], np.bincount(group)


def expand(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges start, start + 1, ... of `counts` numbers, one after the other: (which range, number)."""
    which = np.repeat(np.arange(counts.size), counts)
    return which, np.arange(which.size) + (starts - np.cumsum(counts) + counts)[which]


class Shingles:
    """Sorted unique shingle hashes of the candidates in a file; documents are called by their rank."""

    def __init__(self, path: Path, starts: np.ndarray):
        self.values, self.starts = np.asarray(np.memmap(path, np.uint64, "r")), starts
        self.sizes = self.values[starts - 1].astype(np.int64)

    def read(self, ranks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (some of `ranks`, which of these each of their hashes is of, the hashes), about BLOCK at a time."""
        ends = np.cumsum(self.sizes[ranks])
        for part in np.split(ranks, np.searchsorted(ends, np.arange(BLOCK, ends[-1:].sum(), BLOCK))):
            which, at = expand(self.starts[part], self.sizes[part])
            yield part, which, self.values[at]

    def jaccard(self, one: int, others: np.ndarray) -> np.ndarray:
        """Exact |a & b| / |a | b| of the sets of one document and of each of the others."""
        mine, shared = self.values[self.starts[one] :][: self.sizes[one]], []
        for part, which, values in self.read(others):
            at = np.minimum(np.searchsorted(mine, values), mine.size - 1)
            shared.append(np.bincount(which[mine[at] == values], minlength=part.size))
        both = np.concatenate(shared)
        return both / (mine.size + self.sizes[others] - both)


def shingle_part(job: tuple[Path, Path, np.ndarray, np.ndarray]) -> None:
    """Write the shingles of the documents in `rows` of a part to the file, their number before them."""
    path, target, rows, starts = job
    next_start = iter(starts.tolist())
    with open(target, "r+b") as file:
        for _, texts in read_batches(path, rows):
            shingles, counts = hash_shingles(list(map(join_words, squeeze(texts))))
            for hashes in np.split(shingles, np.cumsum(counts))[:-1]:
                hashes = np.unique(hashes)
                file.seek(8 * next(next_start) - 8)
                file.write(np.append(np.uint64(hashes.size), hashes).tobytes())


def write_shingles(documents: Documents, order: np.ndarray, ranks: np.ndarray, work: Path, workers: int) -> Shingles:
    """The shingles of the documents at `ranks` of `order`, in work/shingles."""
    room = documents.column(SHINGLES)[order[ranks]].astype(np.int64) + 1  # repetitions included, and the number
    starts = np.ones(order.size, np.int64)  # the file begins with a 0, the number of all that are not there
    starts[ranks] = 2 + np.cumsum(room) - room
    if not (work / "shingles").is_file():
        with atomic.new_file(work / "shingles") as temporary:
            temporary.write_bytes(bytes(8))
            of_parts = documents.by_part(order[ranks])
            jobs = [((path, temporary, rows, starts[ranks[which]]), rows.size) for path, which, rows in of_parts]
            # processes take longer to start than few shingles to make
            map_parts(shingle_part, jobs, workers if room.sum() > BLOCK else 1, "shingles", unit=" docs")
    return Shingles(work / "shingles", starts)


def crowd_cells(shingles: Shingles, crowd: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """(stores, asks) of cells in which any two documents of `crowd` with J >= threshold meet.

    A template ("X is a village in ...") puts thousands of documents that are not similar enough into one bucket, and to
    compare each with each would be quadratic. Order the shingles of each document from rare to common. Of two documents
    with J >= t the larger, of n shingles, has their first common one among its first n - ceil(t n) + 1 (its long
    prefix), the smaller among n - ceil(2 t / (1 + t) n) + 1 (short); Bayardo et al. 2007; PPJoin, Xiao et al. 2008. So
    documents meet by what is rare in them and no pair is lost; two long prefixes need not meet.
    """
    bits = min(int(shingles.sizes[crowd].sum()).bit_length() + 1, 26)
    frequency = np.zeros(1 << bits, np.uint32)  # hashed: a collision costs time, not pairs
    for _, _, values in shingles.read(crowd):
        slots, times = np.unique(values >> np.uint64(64 - bits), return_counts=True)
        frequency[slots] += times.astype(np.uint32)
    found = []
    for ranks, which, values in shingles.read(crowd):
        often, sizes = frequency[values >> np.uint64(64 - bits)], shingles.sizes[ranks]
        order = np.lexsort((values, often, which))
        position = np.arange(which.size) - (np.cumsum(sizes) - sizes)[which]
        long, short = (sizes - np.ceil(t * sizes - 1e-9) for t in (threshold, 2 * threshold / (1 + threshold)))
        use = (position <= long[which]) & (often[order] > 1)
        found.append((values[order][use], ranks[which[use]], (position > short[which])[use]))
    values, ranks, is_long = (np.concatenate(column) for column in zip(*found, strict=True))
    members, sizes = buckets(values)
    short = (np.repeat(np.arange(sizes.size), sizes) << 33 | ranks[members]).astype(np.uint64)
    is_long = is_long[members]
    long = short | np.uint64(1 << 32)
    return np.where(is_long, long, short), np.concatenate([short, long[~is_long]])


# --- which document goes ---


def meet(documents: Documents, order: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Return (cell << 32 | rank for the documents of each bucket up to CROWD, ranks of those in larger buckets,
    pairs in the buckets of the two kinds, where a pair counts in every band that it shares).
    """
    cells, crowded, n_cells, pairs = [], np.zeros(order.size, bool), 0, np.zeros(2, np.int64)
    for band in tqdm(range(BANDS), desc="bands", disable=None):
        members, sizes = buckets(documents.column(band)[order[ranks]])
        small, members = np.repeat(sizes <= CROWD, sizes), ranks[members]
        np.add.at(pairs, (sizes > CROWD).astype(np.int64), sizes * (sizes - 1) // 2)
        crowded[members[~small]] = True
        cells.append(((np.repeat(np.arange(sizes.size), sizes) + n_cells << 32 | members)[small]).astype(np.uint64))
        n_cells += sizes.size
    return np.concatenate(cells), np.flatnonzero(crowded), pairs.tolist()


def select(shingles: Shingles, stores: np.ndarray, asks: np.ndarray, threshold: float) -> tuple[np.ndarray, ...]:
    """Return (for each rank the similarity with the document that removes it or 0, that one's rank; pairs compared by
    similarity, in LEVELS steps; how many were not since their sizes differ too much).

    stores, asks: cell << 32 | rank. In canonical order each document that no earlier one removed is kept, and is
    compared with the later ones stored in the cells that it asks; of equally similar ones the first removes. What is
    removed asks nothing: a bucket of n near-duplicates costs n comparisons.
    """
    best, by = np.zeros(shingles.sizes.size), np.arange(shingles.sizes.size)
    levels, unlike = np.zeros(LEVELS + 1, np.int64), 0
    stores = np.sort(stores)
    asks = asks[np.argsort(asks.astype(np.uint32), kind="stable")]  # by rank
    starts = np.searchsorted(stores, asks, "right")
    counts = np.searchsorted(stores, asks | np.uint64(0xFFFFFFFF), "right") - starts
    stored, some = stores.astype(np.uint32), counts > 0
    ranks, first = np.unique(asks.astype(np.uint32)[some], return_index=True)
    starts, counts, ends = starts[some], counts[some], np.append(first[1:], some.sum())
    for i, one in enumerate(tqdm(ranks, desc="duplicates", unit=" docs", disable=None)):
        if best[one]:
            continue
        others = np.unique(stored[expand(starts[first[i] : ends[i]], counts[first[i] : ends[i]])[1]])
        a, b = shingles.sizes[one], shingles.sizes[others]
        alike = np.minimum(a, b) >= threshold * np.maximum(a, b) - 1e-6  # J is at most their ratio
        unlike, others = unlike + alike.size - alike.sum(), others[alike]
        similarity = shingles.jaccard(one, others)
        levels += np.bincount((similarity * LEVELS + 1e-9).astype(np.int64), minlength=LEVELS + 1)
        more = (similarity >= threshold) & (similarity > best[others])
        best[others[more]], by[others[more]] = similarity[more], one
    levels[-2] += levels[-1]  # J = 1 belongs to the last step
    return best, by, levels[:-1], int(unlike)


# --- the whole ---


def begin(parts: list[Path], out: Path, threshold: float, against: str | None) -> Path:
    """The folder of work files, emptied if they are of other settings, other files or another version."""
    from corpus.sources import find_pieces  # here: the processes of the steps do not need it

    header = {"version": 2, "scheme": "affine32", "seed": 1, "shingle": SHINGLE, "bands": BANDS, "rows": ROWS}
    header |= {"threshold": threshold, "against": find_pieces(against, None)[1] if against else None}
    header["parts"] = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in parts]
    path = out / "work/header.json"
    if not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != header:
        shutil.rmtree(path.parent, ignore_errors=True)
        atomic.write_json(path, header)
    (out / "report.json").unlink(missing_ok=True)  # its presence means complete
    return path.parent


def find_duplicates(parts: list[Path], out: Path, threshold: float, workers: int, against: str | None = None) -> dict:
    """Write duplicates.parquet, report.json, report.png and times.json in `out`, for `parts`; returns the report.

    against: a pattern of files; documents that contain a text of theirs (decontaminate.py) go before all others.
    An interrupted run goes on where it was, from out/work. Raises ValueError for a threshold outside (0, 1], for two
    documents with the same id, and for evaluation files that cannot be read.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold ({threshold}) must be above 0 and at most 1; 0.7 is usual")
    work, seconds = begin(parts, out, threshold, against), dict[str, float]()
    with stage("sketches", seconds):
        ngrams = work / "evaluation.npz" if against else None
        if ngrams and not ngrams.is_file():
            write_ngrams(against, ngrams)
        sketches = [work / f"part_{i:05d}.npy" for i in range(len(parts))]
        missing = [job for job in zip(parts, sketches, strict=True) if not job[1].is_file()]
        jobs = [(job, job[0].stat().st_size) for job in missing]
        map_parts(functools.partial(sketch_part, ngrams), jobs, workers, "sketches")
        documents = Documents(parts, sketches)
        documents.check_ids()
    with stage("exact", seconds):
        order, first = canonical_order(documents)
        # a text too short for a shingle has an empty sketch, which would match every other empty one
        ranks, too_short = np.arange(order.size), documents.column(SHINGLES)[order] == 0
        held = documents.column(EVALUATION)[order]
    with stage("bands", seconds):
        stores, crowd, pairs = meet(documents, order, np.flatnonzero((first == ranks) & ~too_short & (held == 0)))
    with stage("shingles", seconds):
        candidates = np.union1d(stores.astype(np.uint32), crowd).astype(np.int64)
        shingles = write_shingles(documents, order, candidates, work, workers)
    with stage("duplicates", seconds):
        more_stores, more_asks = crowd_cells(shingles, crowd, threshold)
        cells = stores + (np.uint64(2 * more_stores.size) << np.uint64(32))  # beyond the numbers of the crowds' cells
        stores, asks = np.concatenate([cells, more_stores]), np.concatenate([cells, more_asks])
        similarity, by, levels, unlike = select(shingles, stores, asks, threshold)
    near, kept = similarity[first] > 0, by[first]  # what equals a near-duplicate is one, too
    kind = np.select([held > 0, near, kept != ranks], [1, 3, 2]).astype(np.int8)  # 0: kept, else the number in KINDS
    similarity = np.where(near, similarity[first], 1.0)
    removed = np.flatnonzero(kind)
    kept_ids, values = documents.ids(order[kept[removed]]), similarity[removed]
    evaluation = Evaluation(ngrams) if ngrams else None
    for i in np.flatnonzero(kind[removed] == 1):
        kept_ids[i], values[i] = evaluation.row(int(held[removed[i]]))
    with atomic.new_file(out / "duplicates.parquet") as temporary:
        kinds = [[*KINDS][i - 1] for i in kind[removed]]
        ids, kept_ids, kinds = map(string_array, (documents.ids(order[removed]), kept_ids, kinds))
        values = pa.Array.from_buffers(pa.float64(), values.size, [None, pa.py_buffer(values)])
        pq.write_table(pa.table([ids, kept_ids, values, kinds], schema=SCHEMA), temporary)
    further: dict[str, Any] = {"too_short_for_near": int(too_short.sum())}
    # documents that share a band, those in buckets above CROWD; pairs in buckets (one counts in each band it shares);
    # exact similarities computed, and in LEVELS steps; not computed since the sizes alone put them below the threshold
    further |= {"candidates": candidates.size, "crowded": crowd.size, "pairs_in_buckets": pairs[0]}
    further |= {"pairs_in_crowds": pairs[1], "compared": int(levels.sum()), "compared_by_similarity": levels.tolist()}
    further |= {"sizes_too_unlike": unlike, "evaluation": evaluation.files if evaluation else []}
    further["settings"] = {"threshold": threshold, "shingle_words": SHINGLE, "bands": BANDS, "rows": ROWS}
    report = make_report(kind, kept, similarity, documents.column(BYTES)[order], further)
    plot(report, out / "report.png")
    atomic.write_json(out / "times.json", seconds)
    atomic.write_json(out / "report.json", report)  # last: its presence means complete
    shutil.rmtree(work)
    return report


def main(cfg: DedupConfig) -> None:
    """Find the duplicates of a set of document files."""
    parts = sorted(Path(path) for path in glob.glob(cfg.source))
    if not parts or not cfg.out:
        raise ValueError("give --source='folder/*.parquet' (files that exist) and --out=folder")
    if cfg.num_workers < 1:
        raise ValueError(f"num_workers ({cfg.num_workers}) must be at least 1")
    for path in parts:
        try:
            schema = pq.read_schema(path)
        except pa.ArrowInvalid:
            raise ValueError(f"{path}: no whole parquet file; prepare_wiki.py --until=documents makes some") from None
        for name in ("id", "text"):
            if name not in schema.names or schema.field(name).type not in (pa.string(), pa.large_string()):
                columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
                raise ValueError(f"{path}: no column '{name}' of strings (columns: {columns})")
    report = find_duplicates(parts, Path(cfg.out), cfg.threshold, cfg.num_workers, cfg.against)
    for name in ("documents", *(kind for kind in KINDS if report[kind]), "kept", "bytes", "bytes_removed", "compared"):
        print(f"{name:>14} {report[name]:>12,}{'  ' + KINDS[name] if name in KINDS else ''}")
    seconds = json.loads(Path(cfg.out, "times.json").read_text(encoding="utf-8"))
    print(f"wrote {cfg.out}/duplicates.parquet, report.json and report.png in {sum(seconds.values()):.0f} s: ", end="")
    print(", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))


if __name__ == "__main__":
    configurator.run(main, DedupConfig)
