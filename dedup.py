"""Which documents are removed because another one says the same: exact and near-duplicates (MinHash-LSH, verified).

    python dedup.py --source='data/pydocs/documents/*.parquet' --out=out/dedup
    python dedup.py --source=... --out=... --against='eval/*.jsonl'      remove what overlaps an evaluation first
    python dedup.py --source=... --out=... --against=arc_easy,piqa --task_dir=data/eval

In canonical order (longest first, then content hash, then id) a document is removed only when its exact Jaccard
similarity with a document that is kept is at least the threshold: no chains, and the same result for any order of
input, cut into parts and number of processes. Similarity is of sets of 5-word shingles; a character of a script that
writes no spaces counts as a word.
LSH (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3) proposes pairs: with b bands of r values a pair of
similarity s is found with probability 1 - (1 - s^r)^b, for 25 x 5 that is 0.990 at s = 0.7 and 0.9999 at 0.8.

The steps; none holds texts or Python objects of all documents, and out/work keeps what the longer ones have finished:
    sketches    every part by itself: hashes of id, content and bands, 256 bytes a document on disk (corpus/sketches.py)
    exact       canonical order; of equal texts the first stays, and the others take no part in what follows
    bands       documents with an equal band form a bucket (corpus/near.py, with a worked example)
    shingles    of all documents in buckets, from their texts, to one file
    duplicates  in canonical order, each document that is kept removes the later ones like it (corpus/near.py)
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import functools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import atomic
from corpus.decontaminate import Evaluation, write_ngrams
from corpus.documents import changed_file, files_matching, state_of, string_array
from corpus.minhash import BANDS, ROWS, SHINGLE, hash_shingles, join_words, squeeze
from corpus.near import (
    Removals,
    Shingles,
    bucket_bands,
    crowd_cells,
    groups,
    select,
    unpack,
    unpack_low,
)
from corpus.pool import ORPHANS_S, map_parts, stage
from corpus.report import AGAINST, EXACT, KEPT, KINDS, NEAR, found_probability, make_report, plot
from corpus.sketches import (
    BYTES,
    CHARS,
    CONTENT,
    EVALUATION,
    SHINGLES,
    Documents,
    read_batches,
    sketch_part,
)
from errors import read_json

if TYPE_CHECKING:
    from tasks.against import Against

FEW_SHINGLES = 1 << 20  # up to so many, one process is faster than starting workers
WORK_VERSION = 4  # of the files in out/work: those of another version are made anew
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kept_id", pa.string()),
        ("similarity", pa.float64()),
        ("kind", pa.string()),
    ]
)


@dataclass(frozen=True)
class DedupConfig:
    """Settings of `python dedup.py`."""

    source: str = ""  # pattern of document parquet files (columns id, text)
    out: str = ""  # folder for duplicates.parquet, report.json and report.png
    threshold: float = 0.7  # exact Jaccard similarity at which a document is a duplicate
    against: str | None = None  # tasks, or 'eval/*.jsonl': what shares an N-gram with a text of theirs is removed
    task_dir: str | None = None  # a folder with the files of these tasks; None: from the Hugging Face hub
    num_workers: int = 2  # processes


# --- the threshold ---

USUAL_RECALL = 0.95  # below, a note says how many of the pairs are found
LEAST_RECALL = 0.05  # below, the threshold is refused


def check_range(name: str, threshold: float) -> None:
    """Raise ValueError for a threshold (the setting `name`) outside (0, 1]."""
    if not 0 < threshold <= 1:
        percent = f"; {threshold:g} % is {threshold / 100:g}" if 1 < threshold <= 100 else ""
        raise ValueError(f"{name} ({threshold}) must be above 0 and at most 1; 0.7 is usual{percent}")


def check_threshold(name: str, threshold: float) -> None:
    """Raise ValueError for a threshold outside (0, 1], or so low that hardly a pair is found."""
    check_range(name, threshold)
    recall = found_probability(threshold)
    if recall < LEAST_RECALL:
        too_few = f"only {100 * recall:.1f} % of the pairs with this similarity are found by {BANDS} bands of {ROWS}"
        raise ValueError(f"{name} ({threshold}) is too low: {too_few}; give 0.3 or more, 0.7 is usual")


def threshold_note(name: str, threshold: float) -> str | None:
    """What to print about a threshold below the steep part of the S-curve; None for a usual one."""
    recall = found_probability(threshold)
    if recall >= USUAL_RECALL:
        return None
    found = f"{100 * recall:.0f} % of the pairs whose similarity is just {threshold} are found"
    return f"note: {name}={threshold} is below the S-curve's reach: {found} (docs/dedup.md)"


# --- the work folder ---


def open_work_folder(parts: list[Path], out: Path, threshold: float, against: "Against | None") -> Path:
    """The folder of work files, emptied if they are of other settings, other files or another version.

    Deletes an old report.json: its presence means complete.
    """
    files = []
    for path in parts:
        status = path.stat()
        files.append([str(path), status.st_size, status.st_mtime_ns])
    header = {
        "version": WORK_VERSION,
        "scheme": "affine32",
        "seed": 1,
        "shingle": SHINGLE,
        "bands": BANDS,
        "rows": ROWS,
        "threshold": threshold,
        "against": against.identity() if against else None,
        "parts": files,
    }
    work = out / "work"
    path = work / "header.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if before != header:
        shutil.rmtree(work, ignore_errors=True)
        atomic.write_json(path, header)

    (out / "report.json").unlink(missing_ok=True)  # its presence means complete
    return work


# --- sketches ---


def sketch_documents(parts: list[Path], work: Path, ngrams: Path | None, workers: int) -> Documents:
    """Make the sketches of the parts that have none yet. ngrams: those of the evaluation, from write_ngrams."""
    sketches: list[Path] = []
    jobs = []  # ((part, sketch file), bytes)
    for i, part in enumerate(parts):
        sketch = work / f"part_{i:05d}.npy"
        sketches.append(sketch)
        if not sketch.is_file():
            jobs.append(((part, sketch), part.stat().st_size))

    map_parts(functools.partial(sketch_part, ngrams), jobs, workers, "sketches")
    return Documents(parts, sketches)


# --- exact ---


def canonical_order(documents: Documents) -> np.ndarray:
    """The places of all documents, uint32: longest first, then by content hash, then by id.

    From here on a document is called by its rank, its index in this array.
    """
    keys = np.stack(
        [
            ~documents.field(CHARS),  # the longest first
            documents.field(CONTENT),
            documents.field(CONTENT + 1),
        ]
    )
    order = np.lexsort(keys[::-1])  # lexsort's last key counts first
    order = order.astype(np.uint32)

    # Few documents have equal keys. Only their ids are read.
    tied, group = groups(keys[:, order])
    places = order[tied]
    ids = documents.ids(places)
    by_id = sorted(range(tied.size), key=lambda i: (group[i], ids[i]))
    order[tied] = places[by_id]
    return order


def first_of_equal_content(documents: Documents, order: np.ndarray) -> np.ndarray:
    """For each rank the lowest rank with equal content, uint32: its own for the first, and for most documents."""
    content = np.stack(
        [
            documents.field(CONTENT)[order],
            documents.field(CONTENT + 1)[order],
        ]
    )
    by_content = np.lexsort(content[::-1])  # stable: ranks of equal content ascend
    equal, group = groups(content[:, by_content])

    ranks = by_content[equal]
    group_begins = np.searchsorted(group, group)
    first = np.arange(order.size, dtype=np.uint32)
    first[ranks] = ranks[group_begins]
    return first


# --- shingles ---


def shingle_part(job: tuple[Path, Path, np.ndarray, np.ndarray]) -> None:
    """Write the shingles of some documents of a part into the file of near.Shingles, their number before them.

    job: (the part, the file, rows of the documents in the part, where in the file the shingles of each begin).
    """
    path, target, rows, starts = job
    next_start = iter(starts.tolist())
    with open(target, "r+b") as file:
        for _, texts in read_batches(path, rows):
            words = [join_words(data) for data in squeeze(texts)]
            shingles, counts = hash_shingles(words)
            of_documents = np.split(shingles, np.cumsum(counts))[:-1]
            for of_document in of_documents:
                hashes = np.unique(of_document)
                number = np.uint64(hashes.size)
                file.seek(8 * (next(next_start) - 1))
                file.write(np.append(number, hashes).tobytes())


def write_shingles(
    documents: Documents,
    order: np.ndarray,
    ranks: np.ndarray,
    work: Path,
    workers: int,
) -> Shingles:
    """The shingles of the documents at `ranks`, in work/shingles, made if it is not there."""
    # A document has room in the file for the number of its shingles and for all of them, repeated ones included. The
    # file begins with a 0, the number of shingles of all documents that are not there.
    n_shingles = documents.field(SHINGLES)[order[ranks]]
    room = 1 + n_shingles.astype(np.int64)
    starts = np.ones(order.size, np.int64)
    starts[ranks] = 2 + np.cumsum(room) - room

    if not (work / "shingles").is_file():
        with atomic.new_file(work / "shingles") as temporary:
            temporary.write_bytes(bytes(8))
            jobs = []
            for path, which, rows in documents.by_part(order[ranks]):
                starts_of_part = starts[ranks[which]]
                jobs.append(((path, temporary, rows, starts_of_part), rows.size))

            needed = workers if room.sum() > FEW_SHINGLES else 1
            map_parts(shingle_part, jobs, needed, "shingles", unit=" docs")
    return Shingles(work / "shingles", starts)


# --- near duplicates ---


@dataclass
class NearResult:
    """What find_near finds."""

    removals: Removals
    counts: dict[str, Any]  # for the report


def find_near(
    documents: Documents,
    order: np.ndarray,
    ranks: np.ndarray,
    threshold: float,
    work: Path,
    workers: int,
    seconds: dict[str, float],
) -> NearResult:
    """Compare the documents `ranks`: the steps bands, shingles and duplicates, each with its time in `seconds`."""
    with stage("bands", seconds):
        places = order[ranks]
        bands = (documents.field(band)[places] for band in range(BANDS))
        buckets = bucket_bands(bands, ranks)

    with stage("shingles", seconds):
        candidates = np.union1d(unpack_low(buckets.entries), buckets.crowd)
        shingles = write_shingles(documents, order, candidates.astype(np.int64), work, workers)

    with stage("duplicates", seconds):
        crowd_members, crowd_queries = crowd_cells(shingles, buckets.crowd, threshold, buckets.n_cells)
        members = np.concatenate([buckets.entries, crowd_members])
        queries = np.concatenate([buckets.entries, crowd_queries])
        removals = select(shingles, members, queries, threshold)

    levels = removals.compared_by_similarity
    counts = {
        "candidates": candidates.size,  # documents that share a band with another
        "crowded": buckets.crowd.size,  # documents in buckets above near.CROWD
        "pairs_in_buckets": buckets.pairs_in_buckets,  # a pair counts in each band that it shares
        "pairs_in_crowds": buckets.pairs_in_crowds,
        "compared": int(levels.sum()),  # exact similarities computed
        "compared_by_similarity": levels.tolist(),
        "sizes_too_unlike": removals.sizes_too_unlike,
    }
    return NearResult(removals, counts)


# --- what becomes of each document ---


@dataclass
class Verdicts:
    """What becomes of each document, by rank."""

    kind: np.ndarray  # int8: its number in report.KINDS, or KEPT
    kept: np.ndarray  # the rank of the document that it is a duplicate of; its own where it is kept
    similarity: np.ndarray  # with that document


def judge(overlaps_evaluation: np.ndarray, first: np.ndarray, removals: Removals) -> Verdicts:
    """What becomes of each document.

    Copies of one text share the fate of the first copy: removed with it as near-duplicates, or, if it is kept, removed
    as its exact duplicates.

    overlaps_evaluation: by rank, whether it shares an N-gram with an evaluation text.
    first: from first_of_equal_content.
    """
    similarity = removals.similarity[first]
    kept = removals.removed_by[first]

    is_near = similarity > 0  # what equals a near-duplicate is one, too
    is_exact = kept != np.arange(kept.size)
    kind = np.select([overlaps_evaluation, is_near, is_exact], [AGAINST, NEAR, EXACT], KEPT)
    return Verdicts(kind.astype(np.int8), kept, np.where(is_near, similarity, 1.0))


def write_duplicates(
    path: Path,
    documents: Documents,
    order: np.ndarray,
    verdicts: Verdicts,
    evaluation: Evaluation | None,
) -> None:
    """Write duplicates.parquet: id, kept_id, similarity and kind of each document that goes, in canonical order."""
    removed = np.flatnonzero(verdicts.kind)
    kind = verdicts.kind[removed]
    kept = verdicts.kept[removed]
    similarity = verdicts.similarity[removed]

    names = ["kept", *KINDS]
    kinds = [names[number] for number in kind]
    ids = documents.ids(order[removed])
    kept_ids = documents.ids(order[kept])
    if evaluation is not None:
        packed = documents.field(EVALUATION)
        texts, n_held = unpack(packed[order[removed]])
        for i in np.flatnonzero(kind == AGAINST):
            text = texts[i]
            kept_ids[i] = evaluation.names[text]
            similarity[i] = n_held[i] / evaluation.totals[text]

    columns = [
        string_array(ids),
        string_array(kept_ids),
        float_array(similarity),
        string_array(kinds),
    ]
    with atomic.new_file(path) as temporary:
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary)


def float_array(values: np.ndarray) -> pa.Array:
    """pa.array of float64, which would import pandas where that is installed (see documents.string_array)."""
    buffer = pa.py_buffer(values)
    return pa.Array.from_buffers(pa.float64(), values.size, [None, buffer])


# --- all steps ---


def find_duplicates(
    parts: list[Path],
    out: Path,
    threshold: float,
    workers: int,
    against: str | None = None,
    task_dir: str | None = None,
) -> dict[str, Any]:
    """Write duplicates.parquet, report.json, report.png and times.json in `out`, for `parts`; returns the report.

    against: tasks and files (tasks/against.py); documents that share an N-gram with a text of theirs (decontaminate.py)
    are removed before duplicates are looked for. task_dir: where the files of the tasks are.
    An interrupted run goes on where it was, from out/work. `out` is locked meanwhile. Raises ValueError for a threshold
    outside (0, 1], when another process is writing to `out`, for two documents with the same id, and for evaluation
    files that cannot be read.
    """
    check_range("threshold", threshold)
    with atomic.lock(out, ORPHANS_S, functools.partial(print, flush=True)):
        states = {str(path): state_of(path) for path in parts}
        evaluations = None
        if against:
            evaluations = read_against(against, task_dir)
            states |= evaluations.states
        try:
            return run_steps(parts, out, threshold, workers, evaluations, states)
        except (ValueError, OSError):
            refuse_changed_files(states, out)  # why it cannot be read, perhaps
            raise


def read_against(against: str, task_dir: str | None) -> "Against":
    """The tasks and files that --against names."""
    from tasks.against import Against  # here: the processes of the steps do not need it

    return Against.read(against, task_dir)


def refuse_changed_files(states: dict[str, list[int]], out: Path) -> None:
    """Raise ValueError when a file is not in its state any more. What was made of it is deleted."""
    changed = changed_file(states)
    if changed is not None:
        shutil.rmtree(out / "work", ignore_errors=True)
        raise ValueError(f"{changed} while duplicates were looked for; run the same command again when it is complete")


def run_steps(
    parts: list[Path],
    out: Path,
    threshold: float,
    workers: int,
    against: "Against | None",
    states: dict[str, list[int]],
) -> dict[str, Any]:
    """find_duplicates, in a folder that is locked. states: of the files that are read, {path: state_of(path)}."""
    work = open_work_folder(parts, out, threshold, against)
    seconds: dict[str, float] = {}

    with stage("sketches", seconds):
        ngrams = work / "evaluation.npz" if against else None
        if ngrams and not ngrams.is_file():
            write_ngrams(against.texts(), ngrams)
        documents = sketch_documents(parts, work, ngrams, workers)
        documents.check_ids()

    with stage("exact", seconds):
        order = canonical_order(documents)
        first = first_of_equal_content(documents, order)
        n_held = unpack_low(documents.field(EVALUATION))
        overlaps_evaluation = n_held[order] > 0
        # A text too short for a shingle has an empty sketch, which would match every other empty one.
        too_short = documents.field(SHINGLES)[order] == 0
        is_first = first == np.arange(order.size)

    compared = np.flatnonzero(is_first & ~too_short & ~overlaps_evaluation)
    near = find_near(documents, order, compared, threshold, work, workers, seconds)

    refuse_changed_files(states, out)
    verdicts = judge(overlaps_evaluation, first, near.removals)
    evaluation = Evaluation(ngrams) if ngrams else None
    write_duplicates(out / "duplicates.parquet", documents, order, verdicts, evaluation)

    details = {"too_short_for_near": int(too_short.sum())}
    details.update(near.counts)
    details["evaluation"] = evaluation.files if evaluation else []
    details["settings"] = {"threshold": threshold, "shingle_words": SHINGLE, "bands": BANDS, "rows": ROWS}
    size_bytes = documents.field(BYTES)[order]
    report = make_report(verdicts.kind, verdicts.kept, verdicts.similarity, size_bytes, details)

    plot(report, out / "report.png")
    atomic.write_json(out / "times.json", seconds)
    atomic.write_json(out / "report.json", report)  # last: its presence means complete
    shutil.rmtree(work)
    return report


def find_duplicates_once(
    parts: list[Path],
    out: Path,
    threshold: float,
    workers: int,
    against: str | None,
    task_dir: str | None = None,
) -> dict[str, Any]:
    """find_duplicates, unless `out` has its report; returns the report."""
    if not (out / "report.json").is_file():
        find_duplicates(parts, out, threshold, workers, against, task_dir)
    # Left when killed right after the report.
    shutil.rmtree(out / "work", ignore_errors=True)
    (out / "lock").unlink(missing_ok=True)
    return read_json(out / "report.json")


# --- the command ---


def check_part(path: Path) -> None:
    """Raise ValueError for a file that is no parquet file with the columns id and text, strings."""
    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid:
        raise ValueError(f"{path}: no whole parquet file; prepare_wiki.py --until=documents makes some") from None

    types = dict(zip(schema.names, schema.types, strict=True))
    for name in ("id", "text"):
        if types.get(name) not in (pa.string(), pa.large_string()):
            columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
            raise ValueError(f"{path}: no column '{name}' of strings (columns: {columns})")


def refuse_data_folder(out: Path) -> None:
    """Raise ValueError when `out` holds files of a data job, which takes them for its own."""
    data_dirs = [out]
    if out.name == "dedup":
        data_dirs.append(out.parent)
    for data_dir in data_dirs:
        if (data_dir / "manifest.json").is_file():
            program = "prepare_chat.py" if (data_dir / "conversations").is_dir() else "prepare_wiki.py"
            raise ValueError(f"{out} belongs to {program} --data_dir={data_dir}; give another --out")


def main(cfg: DedupConfig) -> None:
    """Find the duplicates of a set of document files."""
    if not cfg.source or not cfg.out:
        raise ValueError("give --source='folder/*.parquet' and --out=folder")
    folder = Path(cfg.source)
    if folder.is_dir():
        of_data = folder / "documents"  # a folder of prepare_wiki.py is given
        pattern = (of_data if of_data.is_dir() else folder) / "*.parquet"
        raise ValueError(f"{folder} is a folder; give a quoted pattern of its files: '{pattern}'")
    parts = [Path(path) for path in files_matching(cfg.source)]
    if not parts:
        raise ValueError(f"{cfg.source}: no such file; give a quoted pattern such as 'parts/*.parquet'")
    if cfg.num_workers < 1:
        raise ValueError(f"num_workers ({cfg.num_workers}) must be at least 1")
    check_threshold("threshold", cfg.threshold)
    out = Path(cfg.out)
    refuse_data_folder(out)
    for path in parts:
        check_part(path)
    if cfg.task_dir is not None and cfg.against is None:
        raise ValueError(f"--task_dir={cfg.task_dir} holds files of tasks, but --against names no task")

    note = threshold_note("threshold", cfg.threshold)
    if note:
        print(note, flush=True)
    report = find_duplicates(parts, out, cfg.threshold, cfg.num_workers, cfg.against, cfg.task_dir)
    seconds = json.loads((out / "times.json").read_text(encoding="utf-8"))
    print_summary(report, seconds, cfg.out)


def print_summary(report: dict[str, Any], seconds: dict[str, float], out: str) -> None:
    """Print the counts, what was written, and how long each step took."""
    kinds = [kind for kind in KINDS if report[kind]]
    for name in ("documents", *kinds, "kept", "bytes", "bytes_removed", "compared"):
        description = f"  {KINDS[name]}" if name in KINDS else ""
        print(f"{name:>14} {report[name]:>12,}{description}")

    total_s = sum(seconds.values())
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"wrote {out}/duplicates.parquet, report.json and report.png in {total_s:.0f} s: {times}")


if __name__ == "__main__":
    configurator.run(main, DedupConfig)
