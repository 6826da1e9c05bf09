"""Duplicates against an exact reference: sets of shingles as strings, every pair compared."""

import functools
import gzip
import json
import random
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from conftest import REPO, SHARED, examples
from datasketch import MinHash, MinHashLSH
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

import dedup
from benchmarks import dedup_quality
from benchmarks.dedup_quality import (
    HAN,
    QualityConfig,
    dates_report,
    edited,
    exact,
    hashed,
    made,
    planted,
    planted_report,
    shingle_hashes,
    shingles,
    stub,
    words,
    write,
)
from corpus import minhash, near
from corpus.clean import UNSPACED
from corpus.minhash import BANDS, ROWS, SHINGLE
from corpus.near import pack, unpack
from dedup import KINDS, DedupConfig, find_duplicates, main

pytestmark = pytest.mark.usefixtures("no_plot")
FRESH_FOLDER = [HealthCheck.function_scoped_fixture]


def run(tmp_path: Path, documents: dict[str, str], threshold: float = 0.7, parts: int = 1, workers: int = 1):
    """(removed rows {id: (kept_id, similarity, kind)}, report, the bytes of both files)."""
    ids = list(documents)
    paths = []
    for k in range(parts):
        of_part = {i: documents[i] for i in ids[k::parts]}
        paths.append(write(tmp_path / f"in/{k}.parquet", of_part))
    out = tmp_path / "out"
    report = find_duplicates(paths, out, threshold, workers)

    files = made(out)
    assert files.keys() == {"duplicates.parquet", "report.json", "report.png"}
    assert report == json.loads(files["report.json"])
    rows = pq.read_table(out / "duplicates.parquet").to_pylist()
    removed = {row["id"]: (row["kept_id"], row["similarity"], row["kind"]) for row in rows}
    assert len(removed) == len(rows)
    return removed, report, files


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
        is_chinese = k % 2 == 1
        fresh = HAN if is_chinese else words(draw, 50)
        original = [draw.choice(HAN) for _ in range(200)] if is_chinese else words(draw, draw.randint(40, 200))
        for n, edits in enumerate((0, 0, 1, 3, 6, 12, 25)):
            tokens = edited(draw, original, edits, fresh)
            space = "" if is_chinese else draw.choice([" ", " ", "\n"])
            documents[f"{k}/{n}"] = space.join(tokens)
    return documents


def shuffled(draw: random.Random, documents: dict[str, str]) -> dict[str, str]:
    ids = list(documents)
    draw.shuffle(ids)
    return {i: documents[i] for i in ids}


def canonical_key(documents: dict[str, str], document_id: str) -> tuple:
    """By which documents are ordered: the longest first, then a hash of the content, then the id."""
    text = documents[document_id]
    content = xxhash.xxh3_128_digest(" ".join(text.split()))
    return -len(text), content, document_id


# --- words and shingles ---

SPACES = [*filter(str.isspace, map(chr, range(0x3001)))]
# Beside whitespace: letters whose UTF-8 has a byte that would be whitespace by itself (0x85, 0xA0), and a NUL.
SOME = st.text(st.sampled_from([*SPACES, *"   aéàÅ–機\x00\x1b"]), max_size=12)


@given(st.lists(SOME, max_size=6))
@example([" a  b ", " \n", "  c", "d\u3000"])
@examples(500)
def test_whitespace_is_what_python_cuts_at_and_none_goes_to_the_next_text(texts):
    assert minhash.squeeze(texts) == [" ".join(text.split()).encode() for text in texts]


def test_whitespace_is_no_part_of_a_shingle_and_words_are_not_glued():
    assert np.array_equal(shingle_hashes("a b c d e f"), shingle_hashes(" a\tb\n\nc  d e\u3000f\n"))
    assert np.array_equal(shingle_hashes("机器学习模型"), shingle_hashes("机 器学\n习模型"))
    assert not np.array_equal(shingle_hashes("a b c d ef"), shingle_hashes("a b c de f"))


@pytest.mark.parametrize(
    "text",
    ["กขคงจฉ", "ကခဂဃငစ", "កខគឃងច", "ひらがなです", "カタカナデス", "丂丄丅丆丏丒", "𠀀𠀁𠀂𠀃𠀄𠀅", "豈更車賈滑串"]
    + [
        "བོད་ཡིག་",
        "ᥖᥭᥰᥖᥬᥳ",
        "ᦅᧄᦺᦑᦅᧄ",
        "ᨣᩴᩤᨾᩮᩬ",
        "ᬩᬲᬩᬮᬶᬩ",
        "ꦧꦱꦗꦮꦧꦱ",
        "ꆈꌠꁱꂷꆈꌠ",
        "ꪼꪕꪒꪾꪼꪕ",
        "ｶﾀｶﾅﾓｼﾞ",
        "\U00017000\U00017001" * 3,
    ],
)
def test_a_character_of_a_script_without_spaces_counts_as_a_word(text):
    assert len(shingle_hashes(text)) == len(text) - SHINGLE + 1


def test_unspaced_scripts_are_those_whose_lines_unicode_breaks_anywhere():
    """The classes of UAX 14 from the package `regex`, for all letters but those of Hangul and the wide Latin ones."""
    regex = pytest.importorskip("regex")
    breaks = regex.compile(r"[\p{L}--[\p{Script=Hangul}\p{Script=Latin}]&&\p{Line_Break=%s}]", regex.V1).pattern
    kinds = [regex.compile(breaks % kind, regex.V1) for kind in ("SA", "ID", "CJ", "AK", "AS")]
    unspaced = re.compile(f"[{UNSPACED}]")
    letters = [chr(code) for code in range(0x110000) if chr(code).isalpha()]
    missing = [hex(ord(i)) for i in letters if not unspaced.match(i) and any(kind.match(i) for kind in kinds)]
    assert [code for code in missing if not code.startswith("0x30")] == []  # signs between kana, words by themselves
    first_bytes = {chr(code).encode("utf-8", "replace")[0] for code in range(0x110000) if unspaced.match(chr(code))}
    assert not first_bytes & set(minhash.BYTES_OF_SPACED_TEXT)


def test_a_script_with_spaces_is_cut_at_them():
    assert len(shingle_hashes("한국어는 띄어쓰기를 하는 언어 입니다 네")) == 2
    assert len(shingle_hashes("Это длинное предложение из шести слов")) == 2


def test_shingles_of_two_texts_as_in_the_docstring():
    hashes, counts = minhash.hash_shingles([b"a b c", b"dd e"], size=2)
    assert counts.tolist() == [2, 1]
    assert hashes.tolist() == [reference_hash(pair.split()) for pair in ("a b", "b c", "dd e")]


# --- signatures and candidates, against datasketch ---


def reference_hash(words: list[str]) -> int:
    """The hash of a shingle by its definition, in Python's integers."""
    data = " ".join(words).encode()
    value = 0
    for byte in reversed(data):  # Horner's rule
        value = (value * minhash.BASE + byte) % 2**64
    value = (value + len(data)) % 2**64
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 1):
        value = (value ^ value >> 33) * factor % 2**64
    return value


def by_definition(text: str) -> list[int]:
    found = minhash.WORD.findall(text)
    return [reference_hash(found[i : i + 5]) for i in range(len(found) - 4)]


def texts_of_many_sizes() -> list[str]:
    """From nothing over 20 bytes to 200 kB: English, Chinese, mixed, with every kind of whitespace and a NUL."""
    draw = random.Random(11)
    texts = ["", " ", "a", "a b c d", "a b c d e", "one two three four five", "机器学习模型", "机器 学习"]
    texts += ["\x00 a b c d e\x00", "ab\u3000cd\x85ef\x1cgh\xa0ij kl", "x机yz器学w 习 é模–型q"]
    texts += ["႟Ⴀ㇀ㇰ a b c d 𠀀𠀁x𿿽", "한국어는 띄어쓰기를 하는 언어 입니다 네"]
    for count in (4, 5, 6, 50, 1000):
        texts.append(" ".join(words(draw, count)))
        texts.append("".join(draw.choices(HAN, k=count)))
        texts.append("é".join(draw.choices(HAN + [" "], k=count)))
    return [*texts, " ".join(words(draw, 22_000)), "".join(draw.choices(HAN, k=66_000)), "a b c d e"]


def test_shingles_and_signatures_are_those_of_datasketch_bit_for_bit():
    texts = texts_of_many_sizes()
    assert max(len(text.encode()) for text in texts) > 190_000
    hashes, counts = hashed(texts)
    found = minhash.signatures(hashes, counts)
    assert found.dtype == np.uint32
    for k, text in enumerate(texts):
        expected = by_definition(text)
        start = int(counts[:k].sum())
        assert hashes[start : start + counts[k]].tolist() == expected

        sketch = MinHash(num_perm=BANDS * ROWS, hashfunc=lambda value: value & 0xFFFFFFFF)
        for value in expected[:50]:
            sketch.update(value)
        sketch.update_batch(expected)
        assert sketch.hashvalues.dtype == np.uint32 and np.array_equal(found[:, k], sketch.hashvalues)


@given(st.lists(st.text(st.sampled_from("ab机𠀀é–\x00 \n\u3000႟Ⴀ"), max_size=30), min_size=1, max_size=6))
@examples(200)
def test_a_text_has_the_same_shingles_in_any_batch(texts):
    """Content across batches: neither neighbours nor what is beyond a text's ends change its shingles."""
    hashes, counts = hashed(texts)
    assert hashes.tolist() == [value for text in texts for value in by_definition(text)]
    assert counts.tolist() == [len(by_definition(text)) for text in texts]


def lsh_pairs(texts: list[str]) -> set[tuple[int, int]]:
    """Candidate pairs of datasketch.MinHashLSH, one document after the other; texts without shingles are left out."""
    lsh, pairs = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS)), set()
    for k, text in enumerate(texts):
        hashes = shingle_hashes(text)
        if hashes.size:
            sketch = MinHash(num_perm=BANDS * ROWS, hashfunc=int)
            sketch.update_batch((hashes & np.uint64(0xFFFFFFFF)).tolist())
            pairs |= {(other, k) for other in lsh.query(sketch)}
            lsh.insert(k, sketch)
    return pairs


def buckets_of(texts: list[str]) -> near.Buckets:
    """What dedup.py makes of the bands of texts; a text is called by its number."""
    hashes, counts = hashed(texts)
    with_shingles = np.flatnonzero(counts)
    bands = minhash.band_hashes(minhash.signatures(hashes, counts))
    return near.bucket_bands(bands[:, with_shingles], with_shingles)


def meetings(members: np.ndarray, queries: np.ndarray) -> set[tuple[int, int]]:
    """Pairs (earlier, later) of documents of which the one looks up a cell that the other is a member of."""
    ranks_of_cell: dict[int, set[int]] = {}
    for cell, rank in zip(*(column.tolist() for column in unpack(members)), strict=True):
        ranks_of_cell.setdefault(cell, set()).add(rank)
    pairs = set()
    for cell, rank in zip(*(column.tolist() for column in unpack(queries)), strict=True):
        pairs |= {(rank, other) for other in ranks_of_cell.get(cell, ()) if other > rank}
    return pairs


def test_candidate_pairs_are_those_of_MinHashLSH(monkeypatch):
    draw = random.Random(12)
    stubs = [stub(draw, k, 3) for k in range(200)]
    texts = [*corpus(12, families=20).values(), *stubs, *texts_of_many_sizes()[:-3]]
    expected = lsh_pairs(texts)
    assert len(expected) > 1000

    monkeypatch.setattr(near, "CROWD", len(texts))
    found = buckets_of(texts)
    assert meetings(found.entries, found.entries) == expected and found.crowd.size == 0
    assert found.pairs_in_crowds == 0 and found.pairs_in_buckets >= len(expected)

    monkeypatch.setattr(near, "CROWD", 10)
    some = buckets_of(texts)
    pairs, crowd = meetings(some.entries, some.entries), set(some.crowd.tolist())
    assert pairs < expected and all(pair in pairs or crowd.issuperset(pair) for pair in expected)
    assert some.pairs_in_crowds > 0
    assert some.pairs_in_buckets + some.pairs_in_crowds == found.pairs_in_buckets


@pytest.mark.parametrize("hashes", [[], [5], [5, 5], [1, 2, 3], [7, 1, 7, 2, 1, 7]])
def test_buckets_are_the_indices_of_equal_hashes(hashes):
    members, sizes = near.group_equal(np.array(hashes, np.uint64))
    expected = [[i for i, other in enumerate(hashes) if other == h] for h in sorted(set(hashes)) if hashes.count(h) > 1]
    assert [b.tolist() for b in np.split(members, np.cumsum(sizes)[:-1]) if b.size] == expected


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1)), max_size=20))
@examples(100)
def test_what_is_packed_comes_back_and_is_sorted_by_the_first_number(pairs):
    packed = pack(np.array([a for a, _ in pairs], np.int64), np.array([b for _, b in pairs], np.int64))
    high, low = unpack(np.sort(packed))
    assert list(zip(high.tolist(), low.tolist(), strict=True)) == sorted(pairs)


# --- similarity, and which document goes ---


def shingle_file(path: Path, sets: list[np.ndarray]) -> near.Shingles:
    """The file that dedup writes, made with spare room behind each document."""
    starts, rows, end = [], [np.zeros(1, np.uint64)], 1
    for k, hashes in enumerate(sets):
        rows += [np.append(np.uint64(hashes.size), hashes), np.zeros(k % 3, np.uint64)]
        starts.append(end + 1)
        end += hashes.size + 1 + k % 3
    np.concatenate(rows).tofile(path)
    return near.Shingles(path, np.array(starts))


@given(
    st.lists(st.lists(st.sampled_from("a b c d 机 器".split()), min_size=5, max_size=25).map(" ".join), min_size=2),
    st.sampled_from([3, 1 << 20]),
)
@examples(200, suppress_health_check=FRESH_FOLDER)
def test_jaccard_equals_that_of_the_string_sets(tmp_path, texts, block):
    file = shingle_file(tmp_path / "shingles", [shingle_hashes(text) for text in texts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "BLOCK", block)
        found = file.jaccard(0, np.arange(len(texts)))
    assert found.tolist() == [exact(texts[0], text) for text in texts]


def test_the_worked_example_of_near(tmp_path):
    """Three documents whose shingles are numbers: 0 and 1 share 86 of 106, 1 and 2 too, 0 and 2 76 of 116."""
    sets = [np.arange(0, 96), np.arange(10, 106), np.arange(20, 116)]
    file = shingle_file(tmp_path / "shingles", [numbers.astype(np.uint64) for numbers in sets])
    bands = np.array([[7, 7, 4], [3, 5, 5], [9, 9, 8]], np.uint64)
    buckets = near.bucket_bands(bands, np.arange(3))
    entries = list(zip(*(column.tolist() for column in unpack(buckets.entries)), strict=True))
    assert entries == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 1)]

    removals = near.select(file, buckets.entries, buckets.entries, 0.7)
    assert removals.similarity.tolist() == [0, 86 / 106, 0] and removals.removed_by.tolist() == [0, 0, 2]
    assert removals.compared_by_similarity.sum() == 1
    lower = near.select(file, buckets.entries, buckets.entries, 0.9)
    assert lower.similarity.tolist() == [0, 0, 0] and lower.compared_by_similarity.sum() == 2


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_every_removed_document_is_like_one_that_is_kept(tmp_path, threshold):
    documents = corpus(0)
    removed, report, _ = run(tmp_path, documents, threshold)
    check(documents, removed, threshold)
    assert report["near"] > 40 and report["exact"] > 0


def test_no_two_documents_stay_that_are_very_similar(tmp_path):
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
    sets = {i: shingles(text) for i, text in documents.items()}
    expected: dict[str, tuple[str, float]] = {}
    kept: list[str] = []
    for document_id in sorted(documents, key=functools.partial(canonical_key, documents)):
        own = sets[document_id]
        similar = [(len(own & sets[other]) / len(own | sets[other]), -n, other) for n, other in enumerate(kept)]
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


SHORT = {
    "short": ["one two three four", "two three four five", "", "a", "b", "one", "one two"],
    "short Chinese": ["机器学习", "深度学习", "你好", "您好", "好"],
    "unspaced Chinese": ["机器学习是人工智能的一个重要分支。", "床前明月光，疑是地上霜。", "人工智能的发展历史很长。"],
    "Japanese and Thai": ["日本語の文章です", "これはペンです", "ภาษาไทย", "ไทย"],
    "one shingle": ["a b c d e", "b c d e f", "v w x y z"],
}


@pytest.mark.parametrize("name", SHORT)
def test_short_and_unspaced_documents_survive_unless_truly_equal(tmp_path, name):
    documents = {f"{i}": text for i, text in enumerate(SHORT[name])}
    removed, report, _ = run(tmp_path, documents)
    assert removed == {} and report["kept"] == len(documents)
    twice = documents | {f"again {i}": f" {text}\n" for i, text in documents.items()}
    removed, report, _ = run(tmp_path, twice)
    check(twice, removed, 0.7)
    assert len(removed) == len(documents) and {kind for _, _, kind in removed.values()} == {"exact"}


def test_equal_text_is_an_exact_duplicate_whatever_its_whitespace(tmp_path):
    text = " ".join(words(random.Random(0), 50))
    removed, _, _ = run(tmp_path, {"b": text, "a": text, "c": "  " + text.replace(" ", "\n\n")})
    assert removed == {"a": ("c", 1.0, "exact"), "b": ("c", 1.0, "exact")}


def test_the_threshold_itself_is_a_duplicate(tmp_path):
    tokens = words(random.Random(1), 200)
    documents = {"a": " ".join(tokens[:84]), "b": " ".join(tokens[:64])}  # 80 shingles, 60 of them shared
    assert exact(documents["a"], documents["b"]) == 0.75
    assert list(run(tmp_path, documents, threshold=0.75)[0]) == ["b"]
    assert list(run(tmp_path, documents, threshold=0.7501)[0]) == []


@pytest.mark.parametrize("longer", [14, 25])
def test_the_most_similar_kept_document_is_named(tmp_path, longer):
    """Of two kept documents that are like it, whether the more similar one is the later or the earlier of them."""
    draw = random.Random(2)
    tokens, other = words(draw, 120), words(draw, 40)
    documents = {
        "far": " ".join(tokens[:100] + other[:28]),
        "near": " ".join(tokens[:100] + other[30:] + [f"new{i:05}" for i in range(longer)]),
        "copy": " ".join(tokens[:100] + other[30:]),
    }
    assert (len(documents["near"]) > len(documents["far"])) == (longer == 25)
    assert 0.7 < exact(documents["copy"], documents["far"]) < exact(documents["copy"], documents["near"])
    removed, _, _ = run(tmp_path, documents)
    assert removed.keys() == {"copy"} and removed["copy"][0] == "near"


# --- the same result every time ---


@pytest.mark.parametrize("parts, workers", [(5, 1), (3, 2)])
def test_files_are_equal_for_any_order_of_input_cut_and_number_of_workers(tmp_path, monkeypatch, parts, workers):
    documents = corpus(4, families=12)
    _, _, expected = run(tmp_path / "reference", documents)
    monkeypatch.setattr(dedup, "FEW_SHINGLES", 100)  # enough for processes
    monkeypatch.setattr(near, "BLOCK", 100)
    _, _, found = run(tmp_path / "other", shuffled(random.Random(parts), documents), parts=parts, workers=workers)
    assert found == expected


@given(st.randoms(use_true_random=False))
@examples(100, suppress_health_check=FRESH_FOLDER)
def test_texts_of_few_words_and_any_order_give_one_result(tmp_path, draw):
    """Small vocabularies: many ties in length, many exact and short documents."""
    documents = {f"{i}": " ".join(draw.choices("abc", k=draw.randint(0, 12))) for i in range(40)}
    removed, _, files = run(tmp_path, documents)
    check(documents, removed, 0.7)
    assert run(tmp_path, shuffled(draw, documents))[2] == files


# --- the result against a greedy pass over all candidate pairs ---


def reference(documents: dict[str, str], threshold: float) -> dict[str, tuple[str, float, str]]:
    """Equal texts first; then in canonical order, each with the kept ones among its candidates, compared as strings."""
    content = {i: " ".join(text.split()) for i, text in documents.items()}
    order = sorted(documents, key=functools.partial(canonical_key, documents))
    leader: dict[str, str] = {}
    for i in order:
        leader.setdefault(content[i], i)
    distinct = list(leader.values())
    texts = [documents[i] for i in distinct]

    crowd = buckets_of(texts).crowd.tolist()
    pairs = lsh_pairs(texts) | {(a, b) for b in crowd for a in crowd if a < b}
    earlier: dict[int, list[int]] = {}
    for a, b in pairs:
        earlier.setdefault(b, []).append(a)

    sets = [shingles(text) for text in texts]
    result: dict[str, tuple[str, float, str]] = {}
    for k, i in enumerate(distinct):
        kept = [a for a in earlier.get(k, []) if distinct[a] not in result]
        similar = [(len(sets[k] & sets[a]) / len(sets[k] | sets[a]), -a) for a in kept]
        similarity, a = max(similar, default=(0.0, 0))
        if similarity >= threshold:
            result[i] = distinct[-a], similarity, "near"
    for i in order:
        first = leader[content[i]]
        if i != first:
            result[i] = result.get(first, (first, 1.0, "exact"))
    return {i: result[i] for i in order if i in result}


def tangle(draw: random.Random) -> dict[str, str]:
    """Chains, ties, stubs of one template, copies with other whitespace and short texts, in any order."""
    documents: dict[str, str] = {}
    for k in range(draw.randint(1, 4)):
        tokens = words(draw, 80)
        step, size = draw.randint(1, 6), draw.randint(25, 50)
        for n in range(draw.randint(2, 10)):  # A ~ B ~ C, A unlike C; equal lengths
            documents[f"chain {k}/{n}"] = " ".join(tokens[step * n : step * n + size])
    documents |= {f"stub {k}": stub(draw, k % 50, draw.randint(1, 2)) for k in range(draw.randint(0, 60))}
    documents |= {f"few {k}": " ".join(draw.choices("abc", k=draw.randint(0, 12))) for k in range(draw.randint(0, 30))}
    for k, document_id in enumerate(draw.choices(list(documents), k=10)):
        documents[f"copy {k}"] = documents[document_id].replace(" ", draw.choice(["  ", "\n", " "]))
    return shuffled(draw, documents)


@given(st.randoms(use_true_random=False), st.sampled_from([0.3, 0.5, 0.7, 0.75, 1.0]))
@examples(40)
@pytest.mark.parametrize("crowd, block", [(1, 5), (3, 100), (64, 1 << 20)])
def test_the_result_is_that_of_a_greedy_pass_over_all_candidates(tmp_path_factory, crowd, block, draw, threshold):
    documents = tangle(draw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "CROWD", crowd)
        patch.setattr(near, "BLOCK", block)
        removed, _, _ = run(tmp_path_factory.mktemp("run"), documents, threshold, parts=draw.randint(1, 3))
        expected = reference(documents, threshold)
    assert list(removed) == list(expected)
    for i, (kept_id, similarity, kind) in expected.items():
        assert removed[i] == (kept_id, pytest.approx(similarity, abs=1e-12), kind)


# --- planted pairs among stubs ---


def test_planted_pairs_are_found_among_templated_stubs(tmp_path):
    """Precision and recall: what goes has its exact similarity, and of the planted pairs 99 % are found."""
    documents, pairs = planted(random.Random(13), pairs=400, stubs=4000, others=500)
    removed, report, files = run(tmp_path / "a", documents, parts=4, workers=2)
    check(documents, removed, 0.7)
    similarity = {pair: exact(*(documents[i] for i in pair)) for pair in pairs}
    high = [pair for pair, value in similarity.items() if value >= 0.7]
    found = [pair for pair in high if set(pair) & set(removed)]
    assert len(high) > 250 and len(found) >= 0.99 * len(high)
    assert not any(set(pair) & set(removed) for pair, value in similarity.items() if value < 0.7)
    assert report["crowded"] > 2500 and 100 < sum(i.startswith("stub") for i in removed) < 4000
    assert not any(i.startswith("other") for i in removed)
    assert run(tmp_path / "b", shuffled(random.Random(1), documents), parts=7)[2] == files


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_planted_pairs_are_found_among_100_000_stubs_in_any_cut(tmp_path):
    found = planted_report(tmp_path, 600, 100_000, 2000, [(4, 2), (1, 1), (11, 7)])
    high = [row for low, row in found["found"].items() if low != "below"]
    assert found["wrong"] == 0 and found["equal"] and found["found"]["below"][0] == 0
    assert sum(total for _, total in high) > 450 and all(total > 20 for _, total in high)
    assert sum(got for got, _ in high) >= 0.99 * sum(total for _, total in high)
    assert found["report"]["compared"] < found["documents"] ** 2 / 2 / 100  # of all pairs


def test_the_benchmark_of_quality_prints_what_it_found(capsys, monkeypatch):
    monkeypatch.setattr(dedup_quality, "WAYS", [(4, 1), (1, 1)])
    dedup_quality.main(QualityConfig(pairs=20, stubs=100, others=10))
    printed = capsys.readouterr().out
    assert re.match(r"150 documents, \d+ removed, 0 of them wrongly\n", printed)
    assert "the same bytes in all: True" in printed and "4 parts, 1 workers" in printed
    with pytest.raises(ValueError, match="--old=OLD.xml.bz2"):
        dedup_quality.main(QualityConfig(part="dates", new="b.xml"))


@pytest.mark.parametrize("kind, slots, kept", [("alike", (30,), 1), ("unlike", (8, 25, 44), 1500)])
def test_a_crowd_costs_few_comparisons(tmp_path, kind, slots, kept):
    """1500 texts of 60 words, 59 or 57 of them a template: J 0.84 or 0.58; each with each is a million pairs."""
    draw, documents = random.Random(14), {}
    for k in range(1500):
        tokens = [f"word{i}" for i in range(60)]
        for slot, word in zip(slots, words(draw, len(slots)), strict=True):
            tokens[slot] = word
        documents[f"{k}"] = " ".join(tokens)
    removed, report, _ = run(tmp_path, documents)
    assert report["kept"] == kept and report["crowded"] > 1450 and report["compared"] < 2 * len(documents)


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95, 1.0])
def test_documents_of_a_crowd_meet_if_they_are_similar(tmp_path, threshold):
    """crowd_cells against all pairs: sizes from 1 to 60 shingles, rare and common ones."""
    draw = random.Random(15)
    vocabulary = words(draw, 12)
    texts = [" ".join(draw.choices(vocabulary[: draw.randint(2, 12)], k=draw.randint(5, 64))) for _ in range(80)]
    for text in texts[:40]:
        tokens = text.split()
        for _ in range(2):
            near_copy = edited(draw, tokens, draw.randint(0, 3), vocabulary + ["rare"])
            texts.append(" ".join(near_copy + ["x"] * 5))
        texts.append(text + " " + " ".join(tokens[: draw.randint(1, 20)]))

    file = shingle_file(tmp_path / "shingles", [shingle_hashes(text) for text in texts])
    members, queries = near.crowd_cells(file, np.arange(len(texts)), threshold, first_cell=1000)
    assert unpack(members)[0].min() >= 1000
    met = meetings(members, queries)
    sets = [shingles(text) for text in texts]
    pairs = [(a, b) for b in range(len(texts)) for a in range(b)]
    alike = {(a, b) for a, b in pairs if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= threshold}
    assert len(alike) >= 10 and alike <= met
    assert threshold < 0.5 or len(met) < len(texts) ** 2 / 2


def test_documents_of_a_crowd_do_not_meet_by_two_long_positions(tmp_path):
    """Ten shingles at a threshold of 0.7: two short positions, two long ones, and six that are not used.

    Shingles 50 to 55 are in all five documents; those in two documents come before them, those in one before these.
    """
    common = list(range(50, 56))
    sets = [
        [1, 2, 30, 31, *common],  # 0: 30 and 31 in long positions
        [3, 4, 30, 31, *common],  # 1: the same
        [5, 40, 41, 42, *common],  # 2: 40 in a short position, 41 and 42 in long ones
        [6, 7, 8, 40, *common],  # 3: 40 in a long position
        [9, 10, 41, 42, *common],  # 4: 41 and 42 in long positions
    ]
    hashes = [np.sort(np.array(numbers, np.uint64) << np.uint64(57)) for numbers in sets]
    file = shingle_file(tmp_path / "shingles", hashes)
    members, queries = near.crowd_cells(file, np.arange(5), 0.7, first_cell=0)
    assert meetings(members, queries) == {(2, 3)}


@pytest.mark.real_data
@pytest.mark.parametrize("count, pairs", [(100, 5), (1000, 10)])
def test_the_known_pairs_of_real_articles_are_found(tmp_path, count, pairs):
    with gzip.open(SHARED / f"dedup/articles_{count}.train.gz", "rt", encoding="utf-8") as file:
        documents = dict(line.rstrip("\n").split(" ", 1) for line in file)
    removed, report, _ = run(tmp_path, documents)
    check(documents, removed, 0.7)
    known = [line.split() for line in (SHARED / f"dedup/articles_{count}.truth").read_text().splitlines()]
    assert len(documents) == count and len(known) == pairs
    for a, b in known:
        assert (removed.get(a) or removed[b])[0] in (a, b)


@pytest.mark.slow
@pytest.mark.real_data
def test_articles_of_two_dates_are_found(tmp_path):
    names = ("enwiki-2014-wp2txt", "enwiki-2016-gensim-shortened")
    rows = dates_report(tmp_path, *(str(SHARED / f"wiki/xml/{name}.xml.bz2") for name in names))
    assert len(rows) > 90
    high = [row for row in rows if row["similarity"] >= 0.8]
    assert len(high) > 20 and all(row["proposed"] and row["removed"] for row in high)
    assert not any(row["removed"] for row in rows if row["similarity"] < 0.7)


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


# --- interrupted ---


def note_sketches(monkeypatch, jobs: list[tuple]) -> None:
    """From here on the jobs of sketch_part are appended to `jobs`."""
    original = dedup.sketch_part
    monkeypatch.setattr(dedup, "sketch_part", lambda *args: (jobs.append(args[-1]), original(*args)))


def interrupt(*_) -> None:
    raise KeyboardInterrupt


STAGES = ["open_work_folder", "sketch_part", "canonical_order", "bucket_bands", "shingle_part", "crowd_cells", "select"]
FILES = {"duplicates.parquet": (pq, "write_table"), "report.json": (dedup.atomic, "write_json")}
# The call that is interrupted, where it is not the first: the second part, or report.json after header and times.
CALLS = {"sketch_part": 2, "shingle_part": 2, "report.json": 3}


@pytest.mark.parametrize("when, stage", [*(("before", stage) for stage in [*STAGES, *FILES]), ("after", "report.json")])
def test_an_interrupted_run_goes_on_and_gives_the_same_files(tmp_path, monkeypatch, stage, when):
    """Before each step; that is after the step before it, so that only the last one is interrupted after it."""
    documents = corpus(8, families=4)
    paths = [write(tmp_path / f"in/{k}.parquet", {i: documents[i] for i in list(documents)[k::3]}) for k in range(3)]
    find_duplicates(paths, tmp_path / "expected", 0.7, 1)
    module, name = FILES.get(stage, (dedup, stage))
    original, calls = getattr(module, name), []

    def stopped(*args):
        calls.append(args)
        if len(calls) < CALLS.get(stage, 1):
            return original(*args)
        if when == "after":
            original(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, name, stopped)
        find_duplicates(paths, tmp_path / "out", 0.7, 1)
    assert (tmp_path / "out/report.json").exists() == (when == "after")
    parts_done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/work").glob("part_*.npy")}
    if stage == "sketch_part":
        assert len(parts_done) == 1

    worked: list[tuple] = []
    note_sketches(monkeypatch, worked)
    find_duplicates(paths, tmp_path / "out", 0.7, 1)
    assert not {sketch for _, sketch in worked} & set(parts_done) and len(worked) + len(parts_done) == 3
    assert made(tmp_path / "out") == made(tmp_path / "expected")


@pytest.mark.parametrize("change", ["threshold", "file", "version"])
def test_work_files_of_other_settings_or_files_are_made_anew(tmp_path, monkeypatch, change):
    path = write(tmp_path / "in.parquet", corpus(9, families=4))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dedup, "select", interrupt)
        find_duplicates([path], tmp_path / "out", 0.7, 1)
    threshold = 0.9 if change == "threshold" else 0.7
    if change == "file":
        write(path, corpus(10, families=5))
    if change == "version":
        header = tmp_path / "out/work/header.json"
        text = header.read_text()
        assert '"version": 4' in text
        header.write_text(text.replace('"version": 4', '"version": 2'))
    worked: list[tuple] = []
    note_sketches(monkeypatch, worked)
    report = find_duplicates([path], tmp_path / "out", threshold, 1)
    assert len(worked) == 1 and report == find_duplicates([path], tmp_path / "fresh", threshold, 1)


def test_an_unfinished_run_has_no_report(tmp_path, monkeypatch):
    """Not that of a run before it: the report's presence means that duplicates.parquet is complete."""
    path = write(tmp_path / "in.parquet", corpus(9, families=2))
    find_duplicates([path], tmp_path / "out", 0.7, 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dedup, "select", interrupt)
        find_duplicates([path], tmp_path / "out", 0.5, 1)
    assert not (tmp_path / "out/report.json").exists()


def test_a_full_disk_is_an_error_and_the_next_run_goes_on(tmp_path, monkeypatch):
    original = Path.write_bytes

    def no_space(path: Path, data) -> int:
        if "part_" not in path.name:
            return original(path, data)
        original(path, bytes(data)[:1000])
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "in.parquet", corpus(9, families=4))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "write_bytes", no_space)
        find_duplicates([path], tmp_path / "out", 0.7, 1)
    assert [p.name for p in (tmp_path / "out/work").iterdir()] == ["header.json"]
    assert find_duplicates([path], tmp_path / "out", 0.7, 1) == find_duplicates([path], tmp_path / "fresh", 0.7, 1)


@pytest.mark.parametrize("step", ["sketch_documents", "find_near", "write_duplicates"])
def test_a_second_run_in_a_folder_is_refused_and_does_no_harm(tmp_path, monkeypatch, step):
    """While the first is in the middle of its steps; with the same and with other settings."""
    path = write(tmp_path / "in.parquet", corpus(8, families=4))
    out = tmp_path / "out"
    expected = find_duplicates([path], tmp_path / "alone", 0.7, 1)
    monkeypatch.setattr(dedup, "ORPHANS_S", 0)
    real, calls = getattr(dedup, step), []

    def with_a_second(*args):
        calls.append(args)
        if len(calls) == 1:
            for threshold in (0.7, 0.9):
                with pytest.raises(ValueError, match=f"another process is writing to {out}; stop it, or give another"):
                    find_duplicates([path], out, threshold, 1)
        return real(*args)

    monkeypatch.setattr(dedup, step, with_a_second)
    assert find_duplicates([path], out, 0.7, 1) == expected
    assert made(out) == made(tmp_path / "alone") and len(calls) == 1


@pytest.mark.parametrize("step", ["canonical_order", "find_near"])
@pytest.mark.parametrize("name", ["in/1.parquet", "eval.jsonl"])
@pytest.mark.parametrize("how", ["overwritten", "deleted"])
def test_an_input_that_changes_meanwhile_is_refused_and_no_work_is_kept(tmp_path, monkeypatch, name, how, step):
    documents = corpus(8, families=4)
    paths = [write(tmp_path / f"in/{k}.parquet", {i: documents[i] for i in list(documents)[k::2]}) for k in range(2)]
    (tmp_path / "eval.jsonl").write_text(json.dumps({"text": " ".join("abcdefghijklmnop")}) + "\n")
    out, real = tmp_path / "out", getattr(dedup, step)

    def after_a_change(*args):
        path = tmp_path / name
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(ValueError) as error:
        patch.setattr(dedup, step, after_a_change)
        find_duplicates(paths, out, 0.7, 1, against=f"{tmp_path}/eval.jsonl")
    assert str(error.value).startswith(f"{tmp_path / name} was {how} while duplicates were looked for; run the same")
    assert not list(out.glob("*"))


@pytest.mark.parametrize("threshold, said", [(0.4, "23 % of the pairs"), (0.6, "87 % of the pairs"), (0.7, None)])
def test_a_threshold_below_the_reach_of_the_curve_says_so(tmp_path, capsys, threshold, said):
    path = write(tmp_path / "in [1]/a.parquet", {"a": TEXT})
    main(DedupConfig(source=f"{path.parent}/*.parquet", out=str(tmp_path / "out"), threshold=threshold))
    shown = capsys.readouterr().out
    assert said in shown if said else "note:" not in shown
    with pytest.raises(ValueError, match=r"threshold \(0.25\) is too low: only 2.4 % .* give 0.3 or more"):
        main(DedupConfig(source=str(path), out=str(tmp_path / "none"), threshold=0.25))
    assert not (tmp_path / "none").exists()


# --- memory ---


def test_a_band_takes_at_most_50_bytes_a_document():
    """Counted by tracemalloc, to which numpy reports its arrays: the same on every machine."""
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[::10] = hashes[1::10]  # a fifth of the documents in buckets
    peaks = []
    for _ in range(3):  # a thread that another test left may take memory meanwhile: the smallest counts
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        members, sizes = near.group_equal(hashes)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        tracemalloc.stop()
    assert members.size == 20_000 and (sizes == 2).all()
    assert min(peaks) + hashes.nbytes <= 50 * hashes.size


# --- the report ---


def test_the_report_adds_up(tmp_path):
    documents = corpus(6, families=20) | {f"short {i}": f"{i} 短" for i in range(5)}
    removed, report, _ = run(tmp_path, documents)
    kinds = [kind for _, _, kind in removed.values()]
    assert report["documents"] == len(documents) == report["kept"] + len(removed)
    assert report["exact"] == kinds.count("exact") > 0 and report["near"] == kinds.count("near") > 0
    assert report["bytes"] == sum(len(text.encode()) for text in documents.values())
    assert report["bytes_removed"] == sum(len(documents[i].encode()) for i in removed)
    assert report["too_short_for_near"] == 5
    assert report["settings"] == {"threshold": 0.7, "shingle_words": SHINGLE, "bands": BANDS, "rows": ROWS}
    for level, count in report["near_at_least"].items():
        assert count == sum(kind == "near" and s >= float(level) for _, s, kind in removed.values())
    for level, p in report["found_probability"].items():
        assert p == pytest.approx(1 - (1 - float(level) ** ROWS) ** BANDS, abs=1e-4)


def test_what_a_kill_right_after_the_report_leaves_is_removed_by_the_next_run(tmp_path):
    """The report is there, so nothing is done again; a lock and work files that nobody needs may lie beside it."""
    run(tmp_path, corpus(6, families=5))
    (out,) = {path.parent for path in tmp_path.rglob("report.json")}
    (out / "work").mkdir()
    (out / "lock").touch()
    dedup.find_duplicates_once([], out, 0.7, 1, None)
    assert not (out / "work").exists() and not (out / "lock").exists()


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
    "numbers as ids": {"id": [1, 2], "text": [TEXT, TEXT]},
    "not parquet": None,
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_file_of_another_shape_is_refused_by_name(tmp_path, name):
    path = tmp_path / "in.parquet"
    if BAD_TABLES[name] is None:
        path.write_bytes(b"not parquet at all")
    else:
        pq.write_table(pa.table(BAD_TABLES[name]), path)
    with pytest.raises(ValueError) as error:
        main(DedupConfig(source=f"{tmp_path}/*.parquet", out=f"{tmp_path}/out", num_workers=1))
    assert str(error.value).startswith(f"{tmp_path}/in.parquet") and "\n" not in str(error.value)
    assert not (tmp_path / "out/report.json").exists()


@pytest.mark.parametrize("workers", [0, -1])
def test_a_number_of_workers_below_1_is_refused(tmp_path, workers):
    path = write(tmp_path / "in.parquet", {"a": "b"})
    with pytest.raises(ValueError, match=rf"num_workers \({workers}\)"):
        main(DedupConfig(source=str(path), out=f"{tmp_path}/out", num_workers=workers))
    assert not (tmp_path / "out").exists()


def test_the_command_line_imports_neither_scipy_nor_pandas(tmp_path):
    """A run in a process of its own. Each of the two takes half a second and 50 MB. datasketch imports scipy; pyarrow
    imports pandas, where it is installed, for pa.array of a list.
    """
    documents = {"a": TEXT, "b": TEXT, "c": TEXT.rpartition(" ")[0]}
    write(tmp_path / "in/0.parquet", documents)
    code = "import sys, configurator, dedup; print(*sys.modules)\n"
    code += "configurator.run(dedup.main, dedup.DedupConfig); print(*sys.modules)"
    arguments = [f"--source={tmp_path}/in/*.parquet", f"--out={tmp_path}/out", "--num_workers=1"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(r"exact +1 .*\n +near +1 .*\n +kept +1\n", done.stdout) and "duplicates.parquet" in done.stdout
    assert KINDS["against"] not in done.stdout and re.search(r"\d+ s: sketches \d+ s, exact", done.stdout)
    removed = pq.read_table(tmp_path / "out/duplicates.parquet").to_pylist()
    assert [(row["id"], row["kept_id"]) for row in removed] == [("b", "a"), ("c", "a")]
    imported, used = done.stdout.splitlines()[0].split(), done.stdout.splitlines()[-1].split()
    assert "pyarrow.parquet" in imported and "matplotlib" not in imported  # which a worker process needs not
    assert "matplotlib" in used and not {"scipy", "pandas", "datasketch", "torch"}.intersection(used)


def test_without_arguments_the_command_says_what_to_give(tmp_path):
    done = subprocess.run(
        [sys.executable, REPO / "dedup.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: give --source=") and "--out" in done.stderr


def test_a_source_that_is_no_file_is_named_with_a_pattern_that_works(tmp_path):
    (tmp_path / "data/documents").mkdir(parents=True)
    for source, complaint in (
        (tmp_path / "none/*.parquet", "none/*.parquet: no such file"),
        (tmp_path / "data", f"of its files: '{tmp_path}/data/documents/*.parquet'"),
        (tmp_path / "data/documents", f"of its files: '{tmp_path}/data/documents/*.parquet'"),
    ):
        with pytest.raises(ValueError) as error:
            main(DedupConfig(source=str(source), out=str(tmp_path / "out")))
        assert complaint in str(error.value)
