"""Documents with evaluation texts against sets of N-grams made of strings, document by document."""

import gzip
import json
import random
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, examples, write_documents, write_rows
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import dedup
from corpus import decontaminate, minhash
from corpus.decontaminate import Evaluation, plain_words, write_ngrams
from corpus.minhash import hash_shingles, join_words, squeeze
from dedup import find_duplicates
from prepare_wiki import PrepareConfig, main
from tasks.against import texts_of_files

pytestmark = pytest.mark.usefixtures("no_plot")
LETTERS = string.ascii_lowercase


def some_words(draw: random.Random, count: int) -> list[str]:
    return ["".join(draw.choices(LETTERS, k=6)) for _ in range(count)]


def evaluation_of(folder: Path, *files: list) -> Evaluation:
    for i, rows in enumerate(files):
        write_rows(folder / f"eval/{i}.jsonl", rows)
    write_ngrams(texts_of_files(f"{folder}/eval/*.jsonl"), folder / "ngrams.npz")
    return Evaluation(folder / "ngrams.npz")


def hits(evaluation: Evaluation, texts: list[str]) -> list[tuple[int, int] | None]:
    """(number of the text, N-grams) for each document, None for one that holds none."""
    which, counts = evaluation.find(texts)
    assert which[counts == 0].tolist() == [0] * int((counts == 0).sum())
    return [(int(text), int(count)) if count else None for text, count in zip(which, counts, strict=True)]


# --- what is compared ---


@given(st.lists(st.text(st.sampled_from("ab 机器"), max_size=40), min_size=1, max_size=6), st.integers(2, 14))
@examples(200)
def test_hashes_of_n_words_are_as_many_and_as_different_as_the_n_grams(texts, n):
    cut = list(map(join_words, squeeze(texts)))
    hashes, counts = hash_shingles(cut, n)
    lists = [text.decode().split(" ") if text else [] for text in cut]
    expected = [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in lists]
    assert counts.tolist() == [len(row) for row in expected]
    number = {}
    assert [number.setdefault(h, len(number)) for h in hashes.tolist()] == [
        known.setdefault(gram, len(known)) for known in [{}] for row in expected for gram in row
    ]


@pytest.mark.parametrize(
    "one, other",
    [
        ("The cat, it said, sat!", "the CAT it said sat"),
        ("don’t “go” — now…", 'don\'t "go" - now'),
        ("ﬁne Ａ１", "fine a1"),
        ("a  b\n\tc", "a b c"),
        ("机器，学习。", "机器学习"),
        ("x=1+2", "x 1 2"),
    ],
)
def test_case_punctuation_and_forms_of_letters_make_no_difference(one, other):
    assert plain_words(one) == plain_words(other)


def test_marks_that_belong_to_letters_are_kept():
    assert plain_words("हिन्दी में").decode() == "हिन्दी में" and plain_words("cafe\u0301") == "café".encode()


def test_strings_are_found_in_lists_and_objects_in_order():
    row = {"q": "a", "n": 3, "none": None, "choices": ["b", {"text": "c", "gold": True}], "label": 1.5}
    assert list(decontaminate.strings(row)) == ["a", "b", "c"]


@pytest.mark.parametrize("lengths, n", [([30] * 20, 13), ([10] * 20, 10), ([3] * 20, 8), ([9] + [40] * 99, 13)])
def test_n_is_the_5th_percentile_of_the_lengths_between_8_and_13(tmp_path, lengths, n):
    """The paper's rule; the last: one short text of a hundred is not the 5th percentile."""
    draw = random.Random(0)
    evaluation = evaluation_of(tmp_path, [{"text": " ".join(some_words(draw, length))} for length in lengths])
    short = sum(length < n for length in lengths)
    assert evaluation.files == [{"file": "0.jsonl", "n": n, "texts": len(lengths), "too_short": short}]
    assert evaluation.totals.tolist() == [max(0, length - n + 1) for length in lengths]


# --- what is found ---


@given(data=st.data(), seed=st.integers(0, 10_000))
@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_overlap_is_that_of_sets_of_strings(tmp_path_factory, data, seed):
    """Texts of two files, of N 8 to 13, over few words, so that N-grams are shared by many."""
    draw, folder = random.Random(seed), tmp_path_factory.mktemp("x")
    pool = some_words(draw, 3)
    files = [
        [{"text": " ".join(draw.choices(pool[:2], k=draw.randint(5, size)))} for _ in range(draw.randint(1, 5))]
        for size in data.draw(st.lists(st.integers(8, 25), min_size=1, max_size=2))
    ]
    evaluation = evaluation_of(folder, *files)
    texts = [" ".join(draw.choices(pool, k=draw.randint(0, 60))) for _ in range(12)] + [""]
    texts += [f"{texts[0]} {files[0][0]['text']} {texts[1]}"]
    sets, which = [], 0
    for found, rows in zip(evaluation.files, files, strict=True):
        for row in rows:
            tokens = row["text"].split()
            sets.append((found["n"], {tuple(tokens[i : i + found["n"]]) for i in range(len(tokens) - found["n"] + 1)}))
    assert evaluation.totals.tolist() == [len(grams) for _, grams in sets]
    assert evaluation.names == [f"{f['file']}#{i}" for f, rows in zip(evaluation.files, files, strict=True)
                                for i in range(len(rows))]  # fmt: skip
    for text, found in zip(texts, hits(evaluation, texts), strict=True):
        tokens = text.split()
        held = []
        for n, grams in sets:
            held.append(len(grams & {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}))
        shares = [count / max(1, len(grams)) for count, (_, grams) in zip(held, sets, strict=True)]
        if max(held) == 0:
            assert found is None
        else:
            which, count = found
            assert count == held[which] and shares[which] == max(shares)


def test_the_largest_share_is_named_and_a_repeated_ngram_counts_once(tmp_path):
    """The document holds more N-grams of the long text, but all of the short one, and one of these twice."""
    draw = random.Random(9)
    long, short = some_words(draw, 40), some_words(draw, 9)
    evaluation = evaluation_of(tmp_path, [{"text": " ".join(long)}], [{"text": " ".join(short)}])
    assert [row["n"] for row in evaluation.files] == [13, 9] and evaluation.totals.tolist() == [28, 1]
    document = [*long[:20], *some_words(draw, 3), *short, *some_words(draw, 3), *short]
    assert hits(evaluation, [" ".join(document), " ".join(long[:20] + long[:20])]) == [(1, 1), (0, 8)]


def test_of_texts_of_one_file_that_with_the_largest_share_is_named(tmp_path):
    draw = random.Random(10)
    long, short = some_words(draw, 40), some_words(draw, 14)
    evaluation = evaluation_of(
        tmp_path, [{"text": " ".join(long)}, {"text": " ".join(short)}, {"text": " ".join(some_words(draw, 30))}]
    )
    assert evaluation.totals.tolist() == [28, 2, 18]
    assert hits(evaluation, [" ".join([*long[:20], *short])]) == [(1, 2)]


def test_the_longest_run_of_common_words_is_shown(tmp_path):
    """Not the first, nor two runs with a word between them."""
    draw = random.Random(11)
    text = some_words(draw, 30)
    evaluation = evaluation_of(tmp_path, [{"text": "a b c d e f g h i"}, {"text": " ".join(text)}])
    assert evaluation.files[0]["n"] == 10
    document = [*text[:11], "x", *text[3:20], "x", *text[20:30], *some_words(draw, 5)]
    assert evaluation.longest_run(plain_words(" ".join(document)), 1) == " ".join(text[3:20])


def test_a_text_is_found_in_any_batch(tmp_path):
    draw = random.Random(1)
    rows = [{"text": " ".join(some_words(draw, 20))} for _ in range(30)]
    texts = [" ".join([*some_words(draw, 50), rows[i]["text"]] if i % 3 else some_words(draw, 70)) for i in range(30)]
    evaluation = evaluation_of(tmp_path, rows)
    expected = [(i, 8) if i % 3 else None for i in range(30)]
    assert hits(evaluation, texts) == expected
    assert [hit for text in texts for hit in hits(evaluation, [text])] == expected
    assert evaluation.names == [f"0.jsonl#{i}" for i in range(30)] and (evaluation.totals == 8).all()


def test_equal_slots_are_no_overlap(tmp_path):
    """Half a million N-grams of other texts: some fall into the slots of the evaluation's, none is one."""
    draw, pool = random.Random(2), some_words(random.Random(3), 5000)
    evaluation = evaluation_of(tmp_path, [{"text": " ".join(draw.choices(pool, k=200))} for _ in range(50)])
    texts = [" ".join(draw.choices(pool, k=5000)) for _ in range(100)]
    hashes = hash_shingles([plain_words(text) for text in texts], 13)[0]
    assert evaluation.slots[hashes >> evaluation.shift].sum() > 10_000
    assert hits(evaluation, texts) == [None] * 100


# --- in dedup.py and prepare_wiki.py ---


def test_documents_with_an_evaluation_text_go_first_and_are_listed(tmp_path):
    draw = random.Random(4)
    question = " ".join(some_words(draw, 16))
    body = {name: " ".join(some_words(draw, 80)) for name in "abcde"}
    documents = {
        "leak": f"{body['a']} {question.upper()}! {body['b']}",
        "leak, copied": f"{body['a']}\n{question.upper()}! {body['b']}",
        "like the leak": f"{body['a']} {' '.join(question.split()[:11])} {body['b']}",  # 11 words: no 13-gram
        "partly": f"{body['c']}, {' '.join(question.split()[2:15])}",
        "clean": body["d"],
        "clean, copied": body["d"],
        "short": "a b",
    }
    write_rows(tmp_path / "eval/q.jsonl", [{"label": 0, "query": question, "choices": []}] * 1)
    path = write_documents(tmp_path / "in.parquet", documents)
    report = find_duplicates([path], tmp_path / "out", 0.7, 1, f"{tmp_path}/eval/*.jsonl")
    rows = {row.pop("id"): row for row in pq.read_table(tmp_path / "out/duplicates.parquet").to_pylist()}
    text = {"kept_id": "q.jsonl#0", "kind": "against"}
    assert rows == {
        "leak": text | {"similarity": 1.0},
        "leak, copied": text | {"similarity": 1.0},
        "partly": text | {"similarity": 0.25},  # one of the four 13-grams
        "clean, copied": {"kept_id": "clean", "similarity": 1.0, "kind": "exact"},
    }
    assert [report[key] for key in ("documents", "against", "exact", "near", "kept")] == [7, 3, 1, 0, 3]
    assert report["evaluation"] == [{"file": "q.jsonl", "n": 13, "texts": 1, "too_short": 0}]
    removed_bytes = sum(len(documents[i].encode()) for i in ("leak", "leak, copied", "partly"))
    assert report["bytes_by_kind"]["against"] == removed_bytes
    alone = find_duplicates([path], tmp_path / "alone", 0.7, 1)
    assert [alone[key] for key in ("against", "exact", "near", "kept", "evaluation")] == [0, 2, 1, 4, []]


@pytest.mark.parametrize("workers, parts", [(2, 7)])
def test_what_goes_is_the_same_for_any_cut_and_number_of_workers(tmp_path, workers, parts):
    draw = random.Random(5)
    rows = [{"text": " ".join(some_words(draw, draw.randint(5, 30)))} for _ in range(40)]
    documents = {}
    for i in range(200):
        begin = draw.choice(rows)["text"] if i % 4 == 0 else ""
        documents[f"{i}"] = documents[f"{i - 1}"] if i % 10 == 9 else f"{begin} {' '.join(some_words(draw, 40))}"
    write_rows(tmp_path / "eval/a.jsonl", rows)
    found = []
    for name, ids, n, w in (("a", list(documents), 1, 1), ("b", draw.sample(list(documents), 200), parts, workers)):
        paths = [
            write_documents(tmp_path / f"{name}{k}.parquet", {i: documents[i] for i in ids[k::n]}) for k in range(n)
        ]
        find_duplicates(paths, tmp_path / name, 0.7, w, f"{tmp_path}/eval/*.jsonl")
        found.append([(tmp_path / name / file).read_bytes() for file in ("duplicates.parquet", "report.json")])
    assert found[0] == found[1] and json.loads(found[0][1])["against"] >= 30


def test_other_evaluation_files_begin_the_work_anew(tmp_path, monkeypatch):
    draw = random.Random(6)
    texts = [" ".join(some_words(draw, 30)) for _ in range(4)]
    path = write_documents(tmp_path / "in.parquet", {f"{i}": text for i, text in enumerate(texts)})
    source = str(write_rows(tmp_path / "eval.jsonl", [{"text": texts[0]}]))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dedup, "select", interrupt)
        find_duplicates([path], tmp_path / "out", 0.7, 1, source)
    assert (tmp_path / "out/work/part_00000.npy").is_file()
    write_rows(tmp_path / "eval.jsonl", [{"text": texts[1]}, {"text": texts[2]}])
    assert find_duplicates([path], tmp_path / "out", 0.7, 1, source)["against"] == 2


def test_prepare_wiki_drops_them_and_says_so(tmp_path, capsys):
    draw = random.Random(7)
    texts = [" ".join(some_words(draw, 40)) for _ in range(30)]
    source = write_rows(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    against = write_rows(tmp_path / "eval.jsonl", [{"passage": text} for text in texts[:5]])
    settings = {"source": str(source), "vocab_size": 300, "val_fraction": 0.2, "num_workers": 1}
    main(PrepareConfig(**settings, data_dir=f"{tmp_path}/data", against=str(against)))
    assert "dropped: with evaluation texts" in capsys.readouterr().out
    meta = json.loads((tmp_path / "data/meta.json").read_text())
    assert sum(shard["documents"] for shards in meta["splits"].values() for shard in shards) == 25
    assert meta["provenance"]["dedup"]["against"] == 5
    with pytest.raises(ValueError, match="was begun with against="):
        main(PrepareConfig(**settings, data_dir=f"{tmp_path}/data"))


@pytest.mark.parametrize("name", ["absent/*.jsonl", "dump.xml", "bad.jsonl", "eval.docx", "cut.jsonl.gz"])
def test_what_cannot_be_read_is_refused_by_name(tmp_path, name):
    (tmp_path / "dump.xml").write_text('<mediawiki xml:lang="en"><siteinfo></siteinfo>')
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "eval.docx").write_text("x")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:40])
    path = write_documents(tmp_path / "in.parquet", {"a": "b"})
    with pytest.raises(ValueError, match=name.partition("*")[0]) as error:
        find_duplicates([path], tmp_path / "out", 0.7, 1, f"{tmp_path}/{name}")
    assert "\n" not in str(error.value)


def test_parquet_and_text_files_hold_evaluation_texts_too(tmp_path):
    draw = random.Random(8)
    texts = [" ".join(some_words(draw, 20)) for _ in range(3)]
    pq.write_table(pa.table({"question": [texts[0]], "answers": [["no", texts[1]]]}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text(texts[2])
    write_ngrams(texts_of_files(f"{tmp_path}/*.*"), tmp_path / "ngrams")
    evaluation = Evaluation(tmp_path / "ngrams")
    assert evaluation.names == ["a.parquet#0", "b.txt#0"]
    assert hits(evaluation, texts) == [(0, 8), (0, 8), (1, 8)]


def test_files_without_texts_find_nothing(tmp_path):
    assert hits(evaluation_of(tmp_path, [], [{"label": 1}]), ["a b c", ""]) == [None, None]


@pytest.mark.real_data
def test_lambada_is_found_where_it_was_planted_and_nowhere_else(tmp_path):
    """Every tenth article of another corpus gets a passage in its middle; the other nine have no 13 words in common."""
    with gzip.open(SHARED / "eval/lambada_openai.jsonl.gz", "rt", encoding="utf-8") as file:
        passages = [json.loads(line) for line in file]
    with gzip.open(SHARED / "dedup/articles_1000.train.gz", "rt", encoding="utf-8") as file:
        articles = [line.split(" ", 1)[1].split() for line in file]
    planted = {}
    for i in range(0, len(articles), 10):
        row = passages[7 * i % len(passages)]
        text = f"{row['context']} {row['continuation']}"
        articles[i] = [*articles[i][:40], *text.upper().split(), *articles[i][40:]]
        planted[i] = 7 * i % len(passages)
    write_ngrams(texts_of_files(str(SHARED / "eval/lambada_openai.jsonl.gz")), tmp_path / "ngrams")
    evaluation = Evaluation(tmp_path / "ngrams")
    assert evaluation.files[0]["n"] == 13 and evaluation.files[0]["texts"] == 5153
    of_articles = hits(evaluation, [" ".join(article) for article in articles])
    found = {i: hit for i, hit in enumerate(of_articles) if hit is not None}
    assert {i: hit[0] for i, hit in found.items()} == planted
    assert all(count == evaluation.totals[text] for text, count in found.values())
    assert minhash.SHINGLE == 5  # the shingles of near-duplicates stay as they are
