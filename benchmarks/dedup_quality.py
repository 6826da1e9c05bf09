"""How well duplicates are found, on planted pairs among templated stubs, and on articles of two dates.

    python benchmarks/dedup_quality.py                                 600 pairs and 100,000 stubs; some two minutes
    python benchmarks/dedup_quality.py --part=dates --old=OLD.xml.bz2 --new=NEW.xml.bz2    the articles in both dumps

The reference is exact: sets of shingles as tuples of strings.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator  # before the others: Ctrl-C during their import is one line too

# isort: split
import json
import random
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.clean import normalise
from corpus.minhash import band_hashes, hash_shingles, join_words, signatures, squeeze
from corpus.report import found_probability
from corpus.sources import Truncated, cut_parts, find_pieces, read_part
from dedup import find_duplicates

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]
BINS = (0.7, 0.75, 0.8, 0.85, 0.9)  # similarities at which the bins of a table begin
THRESHOLD = 0.7
WAYS = [(4, 2), (1, 1), (11, 7)]  # (parts, workers): the planted documents go through all of them
COUNTS = ("candidates", "crowded", "pairs_in_buckets", "pairs_in_crowds", "sizes_too_unlike", "compared")


@dataclass(frozen=True)
class QualityConfig:
    """Settings of `python benchmarks/dedup_quality.py`."""

    part: Literal["planted", "dates"] = "planted"  # made-up pairs, or the articles of two dumps
    pairs: int = 600  # planted
    stubs: int = 100_000  # of four templates
    others: int = 2000  # unrelated documents
    old: str = ""  # of --part=dates: a dump
    new: str = ""  # a later dump of the same wiki

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if self.part == "dates" and not (self.old and self.new):
            raise ValueError("--part=dates compares two dumps: give --old=OLD.xml.bz2 and --new=NEW.xml.bz2")
        for key in ("pairs", "stubs", "others"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")


# --- what dedup.py computes ---


def hashed(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of texts as dedup.py makes them: (hashes, how many each text has)."""
    words = [join_words(data) for data in squeeze(texts)]
    return hash_shingles(words)


def shingle_hashes(text: str) -> np.ndarray:
    """Sorted unique 64-bit hashes of the 5-word shingles of `text`; empty when it has fewer than 5 words."""
    hashes, _ = hashed([text])
    return np.unique(hashes)


def share_a_band(text: str, other: str) -> bool:
    """Whether LSH proposes the pair."""
    bands = band_hashes(signatures(*hashed([text, other])))
    return bool((bands[:, 0] == bands[:, 1]).any())


# --- the reference ---


def shingles(text: str) -> set[tuple[str, ...]]:
    """The set of 5-word shingles, as tuples of strings; a Han character is a word."""
    words: list[str] = []
    for token in text.split():
        run = ""
        for character in token:
            if "\u4e00" <= character <= "\u9fff":
                words += [run] if run else []
                words.append(character)
                run = ""
            else:
                run += character
        words += [run] if run else []
    starts = range(len(words) - 4)
    return {tuple(words[i : i + 5]) for i in starts}


def exact(a: str, b: str) -> float:
    """Jaccard similarity; of texts too short for a shingle: whether they are equal but for whitespace."""
    left, right = shingles(a), shingles(b)
    if not left or not right:
        return float(a.split() == b.split())
    return len(left & right) / len(left | right)


# --- made-up documents ---


def words(draw: random.Random, count: int) -> list[str]:
    """Words of eight random letters: no two are equal."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(draw.choice(letters) for _ in range(8)) for _ in range(count)]


def edited(
    draw: random.Random,
    tokens: list[str],
    edits: int,
    fresh: list[str],
) -> list[str]:
    """A near-duplicate: words replaced, removed or inserted at random places."""
    tokens = list(tokens)
    for _ in range(edits):
        i = draw.randrange(len(tokens))
        inserted = draw.sample(fresh, draw.randint(0, 1))
        removed = draw.randint(0, 1)
        tokens[i : i + removed] = inserted
    return tokens


def rewritten(draw: random.Random, tokens: list[str], fresh: list[str]) -> list[str]:
    """A near-duplicate: one block, up to a fifth of the words, is replaced by other words."""
    size = draw.randint(1, len(tokens) // 5)
    start = draw.randrange(len(tokens) - size)
    return tokens[:start] + draw.choices(fresh, k=size) + tokens[start + size :]


def stub(draw: random.Random, k: int, slots: int) -> str:
    """'X is a village in ...': a template with a name and `slots` numbers in it."""
    numbers = [draw.randint(1, 40) for _ in range(slots)]
    facts = " ".join(f"the number of fact {i} is {number} as counted here" for i, number in enumerate(numbers))
    district = draw.choice("ABCDEFGH")
    return f"name{k} is a village in the district of {district} in the north of the country where {facts} ."


def planted(
    draw: random.Random,
    pairs: int,
    stubs: int,
    others: int,
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """(id -> text, pairs of ids). Pairs have J of 0.5 to 1: words edited or one block rewritten, half are Chinese.

    Besides there are stubs of four templates and unrelated documents.
    """
    documents: dict[str, str] = {}
    ids: list[tuple[str, str]] = []
    for k in range(pairs):
        is_chinese = k % 2 == 1
        if is_chinese:
            tokens = draw.choices(HAN, k=draw.randint(100, 300))
            fresh = HAN
        else:
            tokens = words(draw, draw.randint(60, 200))
            fresh = words(draw, 80)

        if k // 2 % 2 == 1:
            like_it = rewritten(draw, tokens, fresh)
        else:
            edits = draw.randint(1, max(2, len(tokens) // 18))
            like_it = edited(draw, tokens, edits, fresh)

        space = "" if is_chinese else " "
        documents[f"{k}a"] = space.join(tokens)
        documents[f"{k}b"] = space.join(like_it)
        ids.append((f"{k}a", f"{k}b"))

    for k in range(stubs):
        documents[f"stub {k}"] = stub(draw, k, k % 4)
    vocabulary = words(draw, 3000)
    for k in range(others):
        tokens = draw.choices(vocabulary, k=draw.randint(5, 150))
        documents[f"other {k}"] = " ".join(tokens)
    return documents, ids


# --- files ---


def write(path: Path, documents: dict[str, str]) -> Path:
    """Write documents (id -> text) to a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": pa.array(documents, pa.string()),
            "text": pa.array(documents.values(), pa.string()),
        }
    )
    pq.write_table(table, path, row_group_size=7)
    return path


def made(out: Path) -> dict[str, bytes]:
    """The files of a run; seconds, which no two runs have equal, left out."""
    paths = [path for path in out.iterdir() if path.name != "times.json"]
    return {path.name: path.read_bytes() for path in paths}


# --- planted pairs among stubs ---


def found_by_bins(
    documents: dict[str, str],
    pairs: list[tuple[str, str]],
    removed: dict[str, Any],
) -> dict[str, list[int]]:
    """{bin: [found, all]} of the planted pairs, by exact similarity: of "below" 0.7 none should be removed."""
    bins = {f"{low:.2f}": [0, 0] for low in BINS}
    bins["below"] = [0, 0]
    for a, b in pairs:
        similarity = exact(documents[a], documents[b])
        lows = [low for low in BINS if similarity >= low]
        row = bins[f"{lows[-1]:.2f}" if lows else "below"]
        row[0] += a in removed or b in removed
        row[1] += 1
    return bins


def count_wrong(documents: dict[str, str], removed: dict[str, dict[str, Any]]) -> int:
    """How many removed documents are not similar enough, or have another similarity, or name one that went."""
    wrong = 0
    for document_id, row in removed.items():
        similarity = exact(documents[document_id], documents[row["kept_id"]])
        is_right = similarity >= THRESHOLD and abs(similarity - row["similarity"]) <= 1e-12
        wrong += not is_right or row["kept_id"] in removed
    return wrong


def planted_report(
    folder: Path,
    pairs: int,
    stubs: int,
    others: int,
    ways: list[tuple[int, int]],
) -> dict[str, Any]:
    """Find what was planted, once for each (parts, workers) in another order of documents.

    Returns {documents, removed, wrong: see count_wrong, found: see found_by_bins, equal: whether all ways gave the
    same bytes, report, seconds}.
    """
    documents, of_pairs = planted(random.Random(13), pairs, stubs, others)

    results, seconds = [], []
    for n, (parts, workers) in enumerate(ways):
        ids = random.Random(n).sample(list(documents), len(documents))
        paths = []
        for k in range(parts):
            of_part = {i: documents[i] for i in ids[k::parts]}
            paths.append(write(folder / f"{n}/{k:03d}.parquet", of_part))
        out = folder / f"{n}/out"
        report = find_duplicates(paths, out, THRESHOLD, workers)
        results.append(made(out))
        times = (out / "times.json").read_text(encoding="utf-8")
        seconds.append(json.loads(times))

    rows = pq.read_table(folder / "0/out/duplicates.parquet").to_pylist()
    removed = {row["id"]: row for row in rows}
    return {
        "documents": len(documents),
        "removed": len(rows),
        "wrong": count_wrong(documents, removed),
        "found": found_by_bins(documents, of_pairs, removed),
        "equal": all(files == results[0] for files in results),
        "report": report,
        "seconds": seconds,
    }


def print_planted(cfg: QualityConfig, folder: Path) -> None:
    """Find what was planted, and print how much of it was found."""
    start_s = time.perf_counter()
    result = planted_report(folder, cfg.pairs, cfg.stubs, cfg.others, WAYS)
    seconds = time.perf_counter() - start_s

    print(f"{result['documents']:,} documents, {result['removed']:,} removed, {result['wrong']} of them wrongly")
    for low, (n_found, n_all) in result["found"].items():
        print(f"  planted pairs, J from {low}: {n_found} of {n_all} found")
    print(", ".join(f"{key} {result['report'][key]:,}" for key in COUNTS))
    for (parts, workers), of_way in zip(WAYS, result["seconds"], strict=True):
        print(f"  {parts} parts, {workers} workers: {of_way}")
    print(f"the same bytes in all: {result['equal']}; {seconds:.0f} s in all")


# --- the same articles at two dates ---


def articles(path: str) -> dict[str, str]:
    """Title -> cleaned text of the articles of a dump; of one that is cut off what comes before."""
    texts: dict[str, str] = {}
    pieces, _ = find_pieces(path)
    for part in cut_parts(pieces):
        try:
            for document in read_part(part):
                is_article = not isinstance(document, str)  # a string is the reason why a page is none
                if is_article and document.text:
                    texts[document.title] = normalise(document.text)
        except Truncated:
            pass
    return texts


def dates_report(folder: Path, old: str, new: str) -> list[dict[str, Any]]:
    """For each article of both dumps: its exact similarity, whether LSH proposes the pair, whether one is removed."""
    before, after = articles(old), articles(new)
    documents = {f"old/{title}": text for title, text in before.items()}
    documents |= {f"new/{title}": text for title, text in after.items()}

    path = write(folder / "both.parquet", documents)
    find_duplicates([path], folder / "out", THRESHOLD, 1)
    removed = pq.read_table(folder / "out/duplicates.parquet").to_pylist()
    linked = {(row["id"], row["kept_id"]) for row in removed}

    rows = []
    for title in sorted(before.keys() & after.keys()):
        text, later_text = before[title], after[title]
        if not shingles(text) or not shingles(later_text):
            continue
        old_id, new_id = f"old/{title}", f"new/{title}"
        row = {
            "title": title,
            "similarity": exact(text, later_text),
            "proposed": share_a_band(text, later_text),
            "removed": (old_id, new_id) in linked or (new_id, old_id) in linked,
        }
        rows.append(row)
    return sorted(rows, key=lambda row: -row["similarity"])


def print_dates(cfg: QualityConfig, folder: Path) -> None:
    """Print a table in Markdown of the articles that are in both dumps."""
    print("| article | exact J | chance | proposed | removed |\n|---|--:|--:|---|---|")
    for row in dates_report(folder, cfg.old, cfg.new):
        chance = found_probability(np.float64(row["similarity"]))
        proposed = "yes" if row["proposed"] else "no"
        removed = "yes" if row["removed"] else "no"
        print(f"| {row['title']} | {row['similarity']:.4f} | {chance:.4f} | {proposed} | {removed} |")


def main(cfg: QualityConfig) -> None:
    """Print one of the two reports."""
    cfg.check()
    with tempfile.TemporaryDirectory() as folder:
        if cfg.part == "planted":
            print_planted(cfg, Path(folder))
        else:
            print_dates(cfg, Path(folder))


if __name__ == "__main__":
    configurator.run(main, QualityConfig)
