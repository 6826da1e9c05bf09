"""Which documents go because another one says the same: exact duplicates, then MinHash-LSH near-duplicates, verified.

    python dedup.py --source='data/pydocs/documents/*.parquet' --out=out/dedup

In canonical order (longest first, then content hash, then id) a document is removed only when its exact Jaccard
similarity with a document that is kept is at least the threshold: no chains, and the same result for any order of input
and any number of processes. Similarity is of sets of 5-word shingles; a character of a script that writes no spaces
counts as a word.
LSH (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3) proposes pairs: with b bands of r values a pair of
similarity s is found with probability 1 - (1 - s^r)^b, for 25 x 5 that is 0.990 at s = 0.7 and 0.9999 at 0.8.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import glob
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasketch import LeanMinHash, MinHash, MinHashLSH
from tqdm import tqdm

import atomic
from documents import map_parts, read_documents

SHINGLE = 5
BANDS, ROWS = 25, 5
# Thai, Lao, Burmese, Khmer, kana, Han: no spaces between words
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")
SCHEMA = pa.schema([("id", pa.string()), ("kept_id", pa.string()), ("similarity", pa.float64()), ("kind", pa.string())])


@dataclass(frozen=True)
class DedupConfig:
    """Settings of `python dedup.py`."""

    source: str = ""  # pattern of document parquet files (columns id, text)
    out: str = ""  # folder for duplicates.parquet and report.json
    threshold: float = 0.7  # exact Jaccard similarity at which a document is a duplicate
    num_workers: int = 2  # processes


@dataclass(frozen=True)
class Sketch:
    """What is kept of one document while duplicates are looked for."""

    id: str
    chars: int
    size_bytes: int
    content: bytes  # 128-bit hash of the text with its whitespace collapsed
    shingles: np.ndarray  # sorted unique uint64 hashes; empty for a text shorter than one shingle
    minhash: np.ndarray  # (BANDS * ROWS,) uint32


def shingle_hashes(text: str) -> np.ndarray:
    """Sorted unique 64-bit hashes of the 5-word shingles of `text`; empty when it has fewer than 5 words."""
    words = WORD.findall(text)
    shingles = {" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}
    return np.array(sorted(xxhash.xxh3_64_intdigest(shingle) for shingle in shingles), dtype=np.uint64)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Exact |a & b| / |a | b| of two sorted arrays of unique hashes."""
    both = np.intersect1d(a, b, assume_unique=True).size
    return both / (a.size + b.size - both)


def sketch_part(path: Path) -> list[Sketch]:
    """Sketch every document of one part; a pure function of the file."""
    found = []
    for row, (document_id, text) in enumerate(read_documents(path)):
        if document_id is None or text is None:
            raise ValueError(f"{path}: row {row} has no {'id' if document_id is None else 'text'}")
        content = xxhash.xxh3_128_digest(" ".join(text.split()))
        shingles = shingle_hashes(text)
        minhash = MinHash(num_perm=BANDS * ROWS, hashfunc=int)  # shingles come hashed: their low 32 bits are used
        minhash.update_batch((shingles & np.uint64(0xFFFFFFFF)).tolist())
        values = minhash.hashvalues.astype(np.uint32)
        found.append(Sketch(document_id, len(text), len(text.encode()), content, shingles, values))
    return found


def select(sketches: list[Sketch], threshold: float) -> list[tuple[str, str, float, str]]:
    """Return the removed documents as (id, kept_id, similarity, kind), in canonical order."""
    order = sorted(sketches, key=lambda s: (-s.chars, s.content, s.id))
    seed, scheme = (reference := MinHash(num_perm=BANDS * ROWS)).seed, reference.scheme
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    kept_by_content: dict[bytes, str] = {}
    removed = []
    for rank, sketch in enumerate(tqdm(order, desc="duplicates", unit=" docs", disable=None)):
        if sketch.content in kept_by_content:
            removed.append((sketch.id, kept_by_content[sketch.content], 1.0, "exact"))
            continue
        if sketch.shingles.size:  # an empty sketch would match every other empty one
            minhash = LeanMinHash(seed=seed, hashvalues=sketch.minhash, scheme=scheme)
            similar = [(jaccard(sketch.shingles, order[k].shingles), -k) for k in index.query(minhash)]
            similarity, k = max(similar, default=(0.0, 0))
            if similarity >= threshold:
                removed.append((sketch.id, order[-k].id, similarity, "near"))
                continue
            index.insert(rank, minhash)
        kept_by_content[sketch.content] = sketch.id
    return removed


def find_duplicates(parts: list[Path], out: Path, threshold: float, num_workers: int) -> dict:
    """Write out/duplicates.parquet and out/report.json for the documents in `parts`; returns the report.

    Raises ValueError for a threshold outside (0, 1] and for two documents with the same id.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold ({threshold}) must be above 0 and at most 1; 0.7 is usual")
    sizes = [path.stat().st_size for path in parts]
    sketched = map_parts(sketch_part, zip(parts, sizes, strict=True), num_workers, "sketches", sum(sizes))
    places: dict[str, str] = {}
    for path, sketches in zip(parts, sketched, strict=True):
        for row, sketch in enumerate(sketches):
            place = f"{path}, row {row}"
            if sketch.id in places:
                raise ValueError(
                    f"two documents have the id '{sketch.id}': {places[sketch.id]} and {place}; "
                    "ids must be unique: correct them, or begin an empty folder with --id_column=None to have them made"
                )
            places[sketch.id] = place
    sketches = [sketch for part in sketched for sketch in part]
    removed = select(sketches, threshold)
    with atomic.new_file(out / "duplicates.parquet") as temporary:
        columns = [list(column) for column in zip(*removed, strict=True)] or [[]] * len(SCHEMA)
        pq.write_table(pa.table(columns, schema=SCHEMA), temporary)
    size_bytes = {sketch.id: sketch.size_bytes for sketch in sketches}
    near = [similarity for _, _, similarity, kind in removed if kind == "near"]
    report = {
        "documents": len(sketches),
        "exact": len(removed) - len(near),
        "near": len(near),
        "kept": len(sketches) - len(removed),
        "bytes": sum(size_bytes.values()),
        "bytes_removed": sum(size_bytes[row[0]] for row in removed),
        "too_short_for_near": sum(sketch.shingles.size == 0 for sketch in sketches),
        "settings": {"threshold": threshold, "shingle_words": SHINGLE, "bands": BANDS, "rows": ROWS},
        # how many of the removed near-duplicates a higher threshold would remove at most, and what LSH finds there
        "near_at_least": {f"{t / 100:.2f}": sum(s >= t / 100 for s in near) for t in range(70, 100, 5)},
        "found_probability": {
            f"{s / 100:.2f}": round(1 - (1 - (s / 100) ** ROWS) ** BANDS, 4) for s in range(50, 100, 5)
        },
    }
    atomic.write_json(out / "report.json", report)
    return report


def main(cfg: DedupConfig) -> None:
    """Find the duplicates of a set of document files."""
    parts = sorted(Path(path) for path in glob.glob(cfg.source))
    if not parts or not cfg.out:
        raise ValueError("give --source='folder/*.parquet' (files that exist) and --out=folder")
    for path in parts:
        try:
            schema = pq.read_schema(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a parquet file: {error}") from None
        for name in ("id", "text"):
            if name not in schema.names:
                raise ValueError(f"{path}: no column {name} (columns: {', '.join(schema.names)})")
            if schema.field(name).type not in (pa.string(), pa.large_string()):
                raise ValueError(f"{path}: column {name} holds {schema.field(name).type}, not strings")
    report = find_duplicates(parts, Path(cfg.out), cfg.threshold, cfg.num_workers)
    for key in ("documents", "exact", "near", "kept", "bytes", "bytes_removed"):
        print(f"{key:>14} {report[key]:>12,}")
    print(f"wrote {cfg.out}/duplicates.parquet and {cfg.out}/report.json")


if __name__ == "__main__":
    configurator.run(main, DedupConfig)
