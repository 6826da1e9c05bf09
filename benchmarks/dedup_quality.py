"""How well duplicates are found, on planted pairs among templated stubs, and on articles of two dates.

    python benchmarks/dedup_quality.py planted                     600 pairs and 100,000 stubs; some two minutes
    python benchmarks/dedup_quality.py dates OLD.xml.bz2 NEW.xml.bz2   the articles that are in both dumps

The reference is exact: sets of shingles as tuples of strings.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from corpus.clean import normalise
from corpus.minhash import band_hashes, hash_shingles, join_words, signatures, squeeze
from corpus.report import found_probability
from corpus.sources import Truncated, cut_parts, find_pieces, read_part
from dedup import find_duplicates

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]
BINS = (0.7, 0.75, 0.8, 0.85, 0.9, 1.01)


def hashed(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The shingles of texts as dedup.py makes them: (hashes, how many each text has)."""
    return hash_shingles(list(map(join_words, squeeze(texts))))


def shingle_hashes(text: str) -> np.ndarray:
    """Sorted unique 64-bit hashes of the 5-word shingles of `text`; empty when it has fewer than 5 words."""
    return np.unique(hashed([text])[0])


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
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def exact(a: str, b: str) -> float:
    """Jaccard similarity; of texts too short for a shingle: whether they are equal but for whitespace."""
    left, right = shingles(a), shingles(b)
    if not left or not right:
        return float(a.split() == b.split())
    return len(left & right) / len(left | right)


def words(draw: random.Random, count: int) -> list[str]:
    return ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(8)) for _ in range(count)]


def edited(draw: random.Random, tokens: list[str], edits: int, fresh: list[str]) -> list[str]:
    """A near-duplicate: words replaced, removed or inserted at random places."""
    tokens = list(tokens)
    for _ in range(edits):
        i = draw.randrange(len(tokens))
        tokens[i : i + draw.randint(0, 1)] = draw.sample(fresh, draw.randint(0, 1))
    return tokens


def made(out: Path) -> dict[str, bytes]:
    """The files of a run; seconds, which no two runs have equal, left out."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "times.json"}


def write(path: Path, documents: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"id": pa.array(documents, pa.string()), "text": pa.array(documents.values(), pa.string())}
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


# --- planted pairs among stubs ---


def stub(draw: random.Random, k: int, slots: int) -> str:
    """'X is a village in ...': a template with a name and `slots` numbers in it."""
    name = f"name{k}"
    numbers = [draw.randint(1, 40) for _ in range(slots)]
    facts = " ".join(f"the number of fact {i} is {number} as counted here" for i, number in enumerate(numbers))
    return (
        f"{name} is a village in the district of {draw.choice('ABCDEFGH')} in the north of the country where {facts} ."
    )


def planted(draw: random.Random, pairs: int, stubs: int, others: int) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Pairs of J .5 to 1: words edited or one block rewritten, half of them Chinese; stubs; unrelated documents."""
    documents, ids = {}, []
    for k in range(pairs):
        chinese, block = k % 2, k // 2 % 2
        tokens = draw.choices(HAN, k=draw.randint(100, 300)) if chinese else words(draw, draw.randint(60, 200))
        fresh = HAN if chinese else words(draw, 80)
        if block:
            size = draw.randint(1, len(tokens) // 5)
            start = draw.randrange(len(tokens) - size)
            other = tokens[:start] + draw.choices(fresh, k=size) + tokens[start + size :]
        else:
            other = edited(draw, tokens, draw.randint(1, max(2, len(tokens) // 18)), fresh)
        for name, found in (("a", tokens), ("b", other)):
            documents[f"{k}{name}"] = ("" if chinese else " ").join(found)
        ids.append((f"{k}a", f"{k}b"))
    documents |= {f"stub {k}": stub(draw, k, k % 4) for k in range(stubs)}
    vocabulary = words(draw, 3000)
    documents |= {f"other {k}": " ".join(draw.choices(vocabulary, k=draw.randint(5, 150))) for k in range(others)}
    return documents, ids


def found_by_bins(documents: dict[str, str], pairs: list[tuple[str, str]], removed: dict[str, Any]) -> dict[str, Any]:
    """Of the planted pairs: {bin: [found, all]} by exact similarity, and how many below 0.7 were removed."""
    bins = {f"{low:.2f}": [0, 0] for low in BINS[:-1]} | {"below": [0, 0]}
    for pair in pairs:
        similarity = exact(*(documents[i] for i in pair))
        low = max((low for low in BINS[:-1] if similarity >= low), default=None)
        row = bins["below" if low is None else f"{low:.2f}"]
        row[0] += bool(set(pair) & set(removed))
        row[1] += 1
    return bins


def planted_report(folder: Path, pairs: int, stubs: int, others: int, ways: list[tuple[int, int]]) -> dict[str, Any]:
    """Find what was planted, once for each (parts, workers) in another order of documents.

    Returns {found: bins, wrong: removed rows whose exact similarity is another or below 0.7, equal: whether all ways
    gave the same bytes, report, seconds}.
    """
    documents, of_pairs = planted(random.Random(13), pairs, stubs, others)
    results, seconds = [], []
    for n, (parts, workers) in enumerate(ways):
        ids = random.Random(n).sample(list(documents), len(documents))
        paths = [write(folder / f"{n}/{k:03d}.parquet", {i: documents[i] for i in ids[k::parts]}) for k in range(parts)]
        report = find_duplicates(paths, folder / f"{n}/out", 0.7, workers)
        results.append(made(folder / f"{n}/out"))
        seconds.append(json.loads((folder / f"{n}/out/times.json").read_text(encoding="utf-8")))
    rows = pq.read_table(folder / "0/out/duplicates.parquet").to_pylist()
    removed = {row["id"]: row for row in rows}
    wrong = 0
    for row in rows:
        similarity = exact(documents[row["id"]], documents[row["kept_id"]])
        wrong += similarity < 0.7 or abs(similarity - row["similarity"]) > 1e-12 or row["kept_id"] in removed
    return {
        "documents": len(documents),
        "removed": len(rows),
        "wrong": wrong,
        "found": found_by_bins(documents, of_pairs, removed),
        "equal": all(files == results[0] for files in results),
        "report": report,
        "seconds": seconds,
    }


# --- the same articles at two dates ---


def articles(path: str) -> dict[str, str]:
    """Title -> cleaned text of the articles of a dump; of one that is cut off what comes before."""
    found = {}
    for part in cut_parts(find_pieces(path)[0]):
        try:
            for document in read_part(part):
                if not isinstance(document, str) and document.text:
                    found[document.title] = normalise(document.text)
        except Truncated:
            pass
    return found


def share_a_band(one: str, other: str) -> bool:
    """Whether LSH proposes the pair."""
    bands = band_hashes(signatures(*hashed([one, other])))
    return bool((bands[:, 0] == bands[:, 1]).any())


def dates_report(folder: Path, old: str, new: str) -> list[dict[str, Any]]:
    """For each article of both dumps: its exact similarity, whether LSH proposes the pair, whether one is removed."""
    before, after = articles(old), articles(new)
    documents = {f"old/{title}": text for title, text in before.items()}
    documents |= {f"new/{title}": text for title, text in after.items()}
    find_duplicates([write(folder / "both.parquet", documents)], folder / "out", 0.7, 1)
    rows = pq.read_table(folder / "out/duplicates.parquet").to_pylist()
    linked = {frozenset((row["id"], row["kept_id"])) for row in rows}
    found = []
    for title in sorted(before.keys() & after.keys()):
        texts = before[title], after[title]
        if not all(shingles(text) for text in texts):
            continue
        pair = frozenset((f"old/{title}", f"new/{title}"))
        found.append({"title": title, "similarity": exact(*texts), "proposed": share_a_band(*texts)})
        found[-1]["removed"] = pair in linked
    return sorted(found, key=lambda row: -row["similarity"])


def main(way: str, *arguments: str) -> None:
    """Print one of the two reports."""
    with tempfile.TemporaryDirectory() as folder:
        if way == "planted":
            start_s = time.perf_counter()
            ways = [(4, 2), (1, 1), (11, 7)]
            found = planted_report(Path(folder), 600, 100_000, 2000, ways)
            print(f"{found['documents']:,} documents, {found['removed']:,} removed, {found['wrong']} of them wrongly")
            for low, (got, total) in found["found"].items():
                print(f"  planted pairs, J from {low}: {got} of {total} found")
            report = found["report"]
            keys = ("candidates", "crowded", "pairs_in_buckets", "pairs_in_crowds", "sizes_too_unlike", "compared")
            print(", ".join(f"{key} {report[key]:,}" for key in keys))
            for (parts, workers), seconds in zip(ways, found["seconds"], strict=True):
                print(f"  {parts} parts, {workers} workers: {seconds}")
            print(f"the same bytes in all: {found['equal']}; {time.perf_counter() - start_s:.0f} s in all")
            return
        rows = dates_report(Path(folder), *arguments)
        print("| article | exact J | chance | proposed | removed |\n|---|--:|--:|---|---|")
        for row in rows:
            marks = ["yes" if row[key] else "no" for key in ("proposed", "removed")]
            chance = found_probability(np.float64(row["similarity"]))
            print(f"| {row['title']} | {row['similarity']:.4f} | {chance:.4f} | {marks[0]} | {marks[1]} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
