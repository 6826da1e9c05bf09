"""Duplicates against an exact reference: sets of shingles as strings, every pair compared."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedup import BANDS, ROWS, SHINGLE, DedupConfig, find_duplicates, jaccard, main, shingle_hashes

REPO = Path(__file__).parents[1]
HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]


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


def write(path: Path, documents: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"id": pa.array(documents, pa.string()), "text": pa.array(documents.values(), pa.string())}
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


def run(tmp_path: Path, documents: dict[str, str], threshold: float = 0.7, parts: int = 1, workers: int = 1):
    """(removed rows {id: (kept_id, similarity, kind)}, report, the bytes of both files)."""
    ids = list(documents)
    chunks = [ids[k::parts] for k in range(parts)]
    paths = [write(tmp_path / f"in/{k}.parquet", {i: documents[i] for i in chunk}) for k, chunk in enumerate(chunks)]
    out = tmp_path / "out"
    report = find_duplicates(paths, out, threshold, workers)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert report == json.loads(files["report.json"]) and len(files) == 2
    rows = pq.read_table(out / "duplicates.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["kept_id"], row["similarity"], row["kind"]) for row in rows}, report, files


def check(documents: dict[str, str], removed: dict, threshold: float) -> None:
    """Every removed document has its exact similarity, at least the threshold, with one that is kept."""
    for document_id, (kept_id, similarity, kind) in removed.items():
        assert kept_id not in removed and kept_id != document_id
        assert similarity == pytest.approx(exact(documents[document_id], documents[kept_id]), abs=1e-12)
        assert similarity >= threshold
        if kind == "exact":
            assert documents[document_id].split() == documents[kept_id].split()


def corpus(seed: int, families: int = 40) -> dict[str, str]:
    """English and Chinese originals, each with near-duplicates of few to many edits, and exact ones."""
    draw = random.Random(seed)
    documents = {}
    for k in range(families):
        chinese = k % 2
        fresh = HAN if chinese else words(draw, 50)
        original = [draw.choice(HAN) for _ in range(200)] if chinese else words(draw, draw.randint(40, 200))
        for n, edits in enumerate((0, 0, 1, 3, 6, 12, 25)):
            tokens = edited(draw, original, edits, fresh)
            documents[f"{k}/{n}"] = ("" if chinese else draw.choice([" ", " ", "\n"])).join(tokens)
    return documents


# --- shingles ---


@given(st.text(st.sampled_from("ab机器，。 \n\t\u3000."), max_size=60))
@settings(max_examples=200, deadline=None)
def test_there_are_as_many_hashes_as_different_shingles(text):
    hashes = shingle_hashes(text)
    assert hashes.dtype == np.uint64 and len(hashes) == len(shingles(text))
    assert np.array_equal(hashes, np.unique(hashes))


@given(*[st.lists(st.sampled_from("a b c d 机 器".split()), min_size=5, max_size=25).map(" ".join)] * 2)
@settings(max_examples=100, deadline=None)
def test_jaccard_equals_that_of_the_string_sets(a, b):
    assert jaccard(shingle_hashes(a), shingle_hashes(b)) == exact(a, b)


def test_whitespace_is_no_part_of_a_shingle_and_words_are_not_glued():
    assert np.array_equal(shingle_hashes("a b c d e f"), shingle_hashes(" a\tb\n\nc  d e\u3000f\n"))
    assert np.array_equal(shingle_hashes("机器学习模型"), shingle_hashes("机 器学\n习模型"))
    assert not np.array_equal(shingle_hashes("a b c d ef"), shingle_hashes("a b c de f"))


@pytest.mark.parametrize(
    "text",
    ["กขคงจฉ", "ကခဂဃငစ", "កខគឃងច", "ひらがなです", "カタカナデス", "丂丄丅丆丏丒", "𠀀𠀁𠀂𠀃𠀄𠀅", "豈更車賈滑串"],
)
def test_a_character_of_a_script_without_spaces_counts_as_a_word(text):
    assert len(shingle_hashes(text)) == len(text) - SHINGLE + 1


def test_a_script_with_spaces_is_cut_at_them():
    assert len(shingle_hashes("한국어는 띄어쓰기를 하는 언어 입니다 네")) == 2
    assert len(shingle_hashes("Это длинное предложение из шести слов")) == 2


# --- what goes and what stays ---


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_removed_document_is_like_one_that_is_kept(tmp_path, seed, threshold):
    documents = corpus(seed)
    removed, report, _ = run(tmp_path, documents, threshold)
    check(documents, removed, threshold)
    assert report["near"] > 40 and report["exact"] > 0


def test_every_planted_pair_of_high_similarity_is_found(tmp_path):
    """Recall: no two documents that stay have J >= 0.8 (each such pair is missed with p < 0.0001)."""
    documents = corpus(2, families=60)
    removed, _, _ = run(tmp_path, documents)
    families: dict[str, list[str]] = {}
    for document_id in documents:
        families.setdefault(document_id.split("/")[0], []).append(document_id)
    pairs = [(a, b) for ids in families.values() for i, a in enumerate(ids) for b in ids[:i]]
    alike = [(a, b) for a, b in pairs if exact(documents[a], documents[b]) >= 0.8]
    assert len(alike) > 300
    assert [(a, b) for a, b in alike if a not in removed and b not in removed] == []


def test_the_result_is_that_of_comparing_every_pair_in_canonical_order(tmp_path):
    """Longest first, each with all that were kept before it: the pairs that LSH leaves out change nothing here."""
    documents = corpus(3, families=16)
    expected: dict[str, tuple[str, float]] = {}
    kept: list[str] = []
    content = {i: " ".join(text.split()) for i, text in documents.items()}
    for document_id in sorted(documents, key=lambda i: (-len(documents[i]), xxhash.xxh3_128_digest(content[i]), i)):
        similar = [(exact(documents[document_id], documents[other]), -n, other) for n, other in enumerate(kept)]
        similarity, _, other = max(similar, default=(0.0, 0, ""))
        if similarity >= 0.7:
            expected[document_id] = other, similarity
        else:
            kept.append(document_id)
    removed, _, _ = run(tmp_path, documents)
    assert {i: (other, similarity) for i, (other, similarity, _) in removed.items()} == expected
    assert list(removed) == list(expected) and len(expected) > 50


def test_a_chain_removes_only_what_is_like_a_kept_document(tmp_path):
    """A ~ B ~ C with A unlike C: B goes, A and C stay."""
    tokens = words(random.Random(0), 200)
    documents = {name: " ".join(tokens[12 * k : 100 + 10 * k]) for k, name in enumerate("ABC")}
    assert exact(documents["A"], documents["B"]) > 0.75 and exact(documents["B"], documents["C"]) > 0.75
    assert exact(documents["A"], documents["C"]) < 0.65
    removed, _, _ = run(tmp_path, documents)
    assert list(removed) == ["B"] and removed["B"][0] == "A"


@pytest.mark.parametrize(
    "texts",
    [
        ["one two three four", "two three four five", "", "a", "b", "one", "one two"],
        ["机器学习", "深度学习", "你好", "您好", "好"],
        ["机器学习是人工智能的一个重要分支。", "床前明月光，疑是地上霜。", "人工智能的发展历史很长很长。"],
        ["日本語の文章です", "これはペンです", "ภาษาไทย", "ไทย"],
        ["a b c d e", "b c d e f", "v w x y z"],
    ],
    ids=["short", "short Chinese", "unspaced Chinese", "Japanese and Thai", "one shingle"],
)
def test_short_and_unspaced_documents_survive_unless_truly_equal(tmp_path, texts):
    documents = {f"{i}": text for i, text in enumerate(texts)}
    removed, report, _ = run(tmp_path, documents)
    assert removed == {} and report["kept"] == len(texts)
    twice = documents | {f"again {i}": f" {text}\n" for i, text in documents.items()}
    removed, report, _ = run(tmp_path, twice)
    check(twice, removed, 0.7)
    assert len(removed) == len(texts) and {kind for _, _, kind in removed.values()} == {"exact"}


def test_equal_text_is_an_exact_duplicate_whatever_its_whitespace(tmp_path):
    text = " ".join(words(random.Random(0), 50))
    removed, _, _ = run(tmp_path, {"b": text, "a": text, "c": "  " + text.replace(" ", "\n\n")})
    assert {i: (kept, similarity, kind) for i, (kept, similarity, kind) in removed.items()} == {
        "a": ("c", 1.0, "exact"),
        "b": ("c", 1.0, "exact"),
    }


def test_the_threshold_itself_is_a_duplicate(tmp_path):
    tokens = words(random.Random(1), 200)
    documents = {"a": " ".join(tokens[:84]), "b": " ".join(tokens[:64])}  # 80 shingles, 60 of them shared
    assert exact(documents["a"], documents["b"]) == 0.75
    assert list(run(tmp_path, documents, threshold=0.75)[0]) == ["b"]
    assert list(run(tmp_path, documents, threshold=0.7501)[0]) == []


def test_the_most_similar_kept_document_is_named(tmp_path):
    draw = random.Random(2)
    tokens, other = words(draw, 120), words(draw, 40)
    documents = {
        "far": " ".join(tokens[:100] + other[:28]),
        "near": " ".join(tokens[:100] + other[30:] + ["x"] * 14),
        "copy": " ".join(tokens[:100] + other[30:]),
    }
    removed, _, _ = run(tmp_path, documents)
    assert removed["copy"][0] == "near"


# --- the same result every time ---


@pytest.mark.parametrize("parts, workers", [(1, 1), (5, 1), (3, 2)])
def test_files_are_equal_for_any_order_of_input_cut_and_number_of_workers(tmp_path, parts, workers):
    documents = corpus(4, families=12)
    _, _, expected = run(tmp_path / "reference", documents)
    ids = list(documents)
    random.Random(parts).shuffle(ids)
    _, _, found = run(tmp_path / "other", {i: documents[i] for i in ids}, parts=parts, workers=workers)
    assert found == expected


@given(st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_of_few_words_and_any_order_give_one_result(tmp_path, draw):
    """Small vocabularies: many ties in length, many exact and short documents."""
    documents = {f"{i}": " ".join(draw.choices("abc", k=draw.randint(0, 12))) for i in range(40)}
    removed, _, files = run(tmp_path, documents)
    check(documents, removed, 0.7)
    ids = list(documents)
    draw.shuffle(ids)
    assert run(tmp_path, {i: documents[i] for i in ids})[2] == files


# --- LSH ---


def test_the_chance_of_a_pair_to_be_found_follows_the_curve(tmp_path):
    """Pairs of known similarity, and a threshold that accepts every candidate."""
    draw, pairs = random.Random(5), 150
    for shared, size in ((40, 70), (50, 74), (60, 80)):  # J about 0.40, 0.51, 0.60
        documents = {}
        for k in range(pairs):
            tokens = words(draw, 2 * size - shared + 4)
            documents[f"{k}a"] = " ".join(tokens[: size + 4])
            documents[f"{k}b"] = " ".join(tokens[size - shared :])
        similarity = exact(documents["0a"], documents["0b"])
        assert similarity == shared / (2 * size - shared)
        removed, report, _ = run(tmp_path, documents, threshold=0.01)
        p = 1 - (1 - similarity**ROWS) ** BANDS
        assert 0.2 < p < 0.95
        assert abs(len(removed) - pairs * p) < 4 * (pairs * p * (1 - p)) ** 0.5, similarity
        check(documents, removed, 0.01)


# --- the report ---


def test_the_report_adds_up(tmp_path):
    documents = corpus(6, families=20) | {f"short {i}": f"{i} 短" for i in range(5)}
    removed, report, _ = run(tmp_path, documents)
    kinds = [kind for _, _, kind in removed.values()]
    assert report["documents"] == len(documents) == report["kept"] + len(removed)
    assert (report["exact"], report["near"]) == (kinds.count("exact"), kinds.count("near")) and min(
        report["exact"], report["near"]
    )
    assert report["bytes"] == sum(len(text.encode()) for text in documents.values())
    assert report["bytes_removed"] == sum(len(documents[i].encode()) for i in removed)
    assert report["too_short_for_near"] == 5
    assert report["settings"]["threshold"] == 0.7
    for level, count in report["near_at_least"].items():
        assert count == sum(kind == "near" and s >= float(level) for _, s, kind in removed.values())
    for level, p in report["found_probability"].items():
        assert p == pytest.approx(1 - (1 - float(level) ** ROWS) ** BANDS, abs=1e-4)


@pytest.mark.parametrize("documents", [{}, {"a": "one two three four five six"}])
def test_without_duplicates_the_files_are_there_and_empty(tmp_path, documents):
    removed, report, files = run(tmp_path, documents)
    assert removed == {} and report["kept"] == len(documents)
    schema = pq.read_schema(tmp_path / "out/duplicates.parquet")
    assert schema.names == ["id", "kept_id", "similarity", "kind"]
    assert [str(kind) for kind in schema.types] == ["string", "string", "double", "string"]


def test_the_documents_are_not_touched(tmp_path):
    path = write(tmp_path / "in.parquet", corpus(7, families=3))
    before = path.read_bytes(), path.stat().st_mtime_ns
    find_duplicates([path], tmp_path / "out", 0.7, 1)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


# --- mistakes ---


@pytest.mark.parametrize("same_file", [True, False])
def test_two_documents_with_one_id_are_refused_with_both_places(tmp_path, same_file):
    columns = {"id": ["x", "y", "z"], "text": ["a", "b", "c"]}
    pq.write_table(pa.table(columns | ({"id": ["x", "y", "y"]} if same_file else {})), tmp_path / "0.parquet")
    pq.write_table(pa.table({"id": ["q" if same_file else "y"], "text": ["d"]}), tmp_path / "1.parquet")
    with pytest.raises(ValueError) as error:
        find_duplicates([tmp_path / "0.parquet", tmp_path / "1.parquet"], tmp_path / "out", 0.7, 1)
    first, second = "0.parquet, row 1", "0.parquet, row 2" if same_file else "1.parquet, row 0"
    assert re.search(f"'y'.*{re.escape(first)} and .*{re.escape(second)}", str(error.value))
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, 70, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(tmp_path, threshold):
    path = write(tmp_path / "in.parquet", {"a": "b"})
    with pytest.raises(ValueError, match="threshold .* must be above 0 and at most 1"):
        find_duplicates([path], tmp_path / "out", threshold, 1)


TEXT = " ".join(words(random.Random(0), 20))
BAD_TABLES = {
    "no text": {"id": ["1"], "body": ["a"]},
    "no id": {"text": ["a"]},
    "null text": {"id": ["1", "2"], "text": [TEXT, None]},
    "null id": {"id": ["1", None], "text": [TEXT, TEXT]},
    "numbers as text": {"id": ["1", "2"], "text": [3, 4]},
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_parquet_file_of_another_shape_is_refused_by_name(tmp_path, name):
    pq.write_table(pa.table(BAD_TABLES[name]), tmp_path / "in.parquet")
    with pytest.raises(ValueError) as error:
        main(DedupConfig(source=f"{tmp_path}/*.parquet", out=f"{tmp_path}/out", num_workers=1))
    assert str(error.value).startswith(f"{tmp_path}/in.parquet") and "\n" not in str(error.value)
    assert not (tmp_path / "out/report.json").exists()


def test_numbers_as_ids_are_refused_by_name_or_work(tmp_path):
    pq.write_table(pa.table({"id": [1, 2], "text": [TEXT, TEXT]}), tmp_path / "in.parquet")
    try:
        main(DedupConfig(source=f"{tmp_path}/in.parquet", out=f"{tmp_path}/out", num_workers=1))
    except ValueError as error:
        assert "in.parquet" in str(error)
    else:
        assert pq.read_table(tmp_path / "out/duplicates.parquet")["id"].to_pylist() == ["2"]


def test_what_is_no_parquet_file_is_refused_by_name(tmp_path):
    (tmp_path / "in.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError) as error:
        main(DedupConfig(source=f"{tmp_path}/in.parquet", out=f"{tmp_path}/out"))
    assert str(error.value).startswith(f"{tmp_path}/in.parquet")


def test_the_command_line(tmp_path):
    """One run that works, one without arguments."""
    documents = {"a": TEXT, "b": TEXT, "c": TEXT.rpartition(" ")[0]}
    write(tmp_path / "in/0.parquet", documents)
    command = [sys.executable, str(REPO / "dedup.py")]
    arguments = [f"--source={tmp_path}/in/*.parquet", f"--out={tmp_path}/out", "--num_workers=1"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(r"exact +1\n +near +1\n +kept +1\n", done.stdout) and "duplicates.parquet" in done.stdout
    removed = pq.read_table(tmp_path / "out/duplicates.parquet").to_pylist()
    assert [(row["id"], row["kept_id"]) for row in removed] == [("b", "a"), ("c", "a")]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("error: give --source=") and "--out" in failed.stderr
