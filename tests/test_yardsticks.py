"""n-grams against dictionaries counted one by one, probabilities that sum to one, and the xz program's size."""

import json
import lzma
import math
import shutil
import subprocess
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from conftest import TINY, examples
from hypothesis import example, given
from hypothesis import strategies as st

import train
from corpus import yardsticks
from corpus.yardsticks import Sample, measure_sample, ngram_nats, xz_bits_per_byte
from shards import Shards
from tokenizer import Tokenizer


def probability(train: list[int], history: tuple[int, ...], word: int, V: int) -> Fraction:
    """Witten-Bell, interpolated down to the uniform distribution, from the definition."""
    n = len(history) + 1
    grams = Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1))
    shorter = probability(train, history[1:], word, V) if history else Fraction(1, V)
    after = {gram[-1]: count for gram, count in grams.items() if gram[:-1] == history}
    if not after:
        return shorter
    types, total = len(after), sum(after.values())
    return (after.get(word, 0) + types * shorter) / Fraction(total + types)


def reference_nats(train: list[int], val: list[int], V: int, order: int) -> float:
    total = 0.0
    for i, word in enumerate(val):
        history = tuple(val[max(0, i - order + 1) : i])
        total -= math.log(probability(train, history, word, V))
    return total


def nats(train: list[int], val: list[int], V: int, order: int, dtype: str = "<u2") -> float:
    return ngram_nats(np.array(train, dtype=dtype), np.array(val, dtype=dtype), V, order)


@pytest.mark.parametrize("order", [1, 2, 3])
@given(st.data())
@examples(60)
def test_ngrams_equal_dictionaries_counted_one_by_one(order, data):
    V = data.draw(st.integers(2, 5))
    tokens = st.integers(0, V - 1)
    train = data.draw(st.lists(tokens, min_size=order, max_size=40))
    val = data.draw(st.lists(tokens, min_size=order, max_size=12))
    assert nats(train, val, V, order) == pytest.approx(reference_nats(train, val, V, order), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
@given(st.lists(st.integers(0, 2), max_size=4), st.lists(st.integers(0, 2), max_size=4))
@example([], [0])
@example([1], [1, 1])
@example([0, 1], [0])
@examples(30)
def test_texts_shorter_than_the_order_use_the_orders_that_fit(order, train, val):
    assert nats(train, val, 3, order) == pytest.approx(reference_nats(train, val, 3, order), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("context", [(0, 1), (1, 0), (3, 3), (2, 4), (4, 4), (0, 4)])
def test_probabilities_sum_to_one_after_seen_and_unseen_contexts(order, context):
    train, V = [0, 1, 2, 0, 1, 3, 0, 1, 2, 1, 0, 3, 3, 1], 5  # 4 is never seen
    p = [math.exp(nats(train, list(context), V, order) - nats(train, [*context, word], V, order)) for word in range(V)]
    assert sum(p) == pytest.approx(1, abs=1e-12) and min(p) > 0


def test_worked_by_hand():
    """Train 0 1 0 2: p(0) = (2 + 3/4) / (4 + 3); after 0 come 1 and 2, so p(1|0) = (1 + 2 p(1)) / (2 + 2)."""
    train, V = [0, 1, 0, 2], 4
    p0, p1 = 2.75 / 7, 1.75 / 7
    assert nats(train, [0], V, 1) == pytest.approx(-math.log(p0))
    assert nats(train, [0, 1], V, 2) == pytest.approx(-math.log(p0) - math.log((1 + 2 * p1) / 4))


def test_large_vocabularies_do_not_overflow():
    V, draw = 1 << 20, np.random.default_rng(0)
    train = draw.choice([0, 1, V // 2, V - 2, V - 1], 300).tolist()
    val = draw.choice([0, 1, 2, V // 2, V - 1], 30).tolist()
    assert nats(train, val, V, 3, "<u4") == pytest.approx(reference_nats(train, val, V, 3), rel=1e-12)
    small = nats([0, 65535, 65535], [65535, 0], 65536, 2)
    assert small == pytest.approx(reference_nats([0, 65535, 65535], [65535, 0], 65536, 2))


def test_longer_contexts_predict_a_periodic_text_better():
    train = [0, 0, 1] * 100
    one, two, three = (nats(train, train, 3, order) for order in (1, 2, 3))
    assert three < two / 2 < one / 2


TEXTS = [b"a", b"abc" * 1000, bytes(range(256)) * 40, "机器学习".encode() * 500]
TEXTS += [np.random.default_rng(0).bytes(300_000) * 2]  # a repetition farther back than a fast preset looks


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_xz_is_the_size_of_what_xz_writes(text):
    packed = lzma.compress(text, format=lzma.FORMAT_XZ, preset=9)
    assert lzma.decompress(packed) == text
    if shutil.which("xz"):
        packed = subprocess.run(["xz", "-9", "-T1", "-c"], input=text, capture_output=True, check=True).stdout
    sample = Sample(np.array([]), np.array([]), text, 9)
    assert xz_bits_per_byte(sample) == pytest.approx(8 * len(packed) / len(text))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("group_tokens", [1, 7, 50])
def test_counted_in_groups_they_are_the_counts_of_one_group(monkeypatch, n, group_tokens):
    """And no group is larger than it should be: its n-grams are counted at once, which is what costs memory."""
    draw = np.random.default_rng(0)
    train, val = draw.integers(0, 7, 300), draw.integers(0, 8, 60)
    expected = yardsticks.count_ngrams(train, val, 8, n)
    sizes, real = [], yardsticks.number_ngrams

    def watched(tokens, *args):
        ngrams = real(tokens, *args)
        if tokens is train:
            sizes.append(len(ngrams))
        return ngrams

    monkeypatch.setattr(yardsticks, "number_ngrams", watched)
    monkeypatch.setattr(yardsticks, "GROUP_TOKENS", group_tokens)
    for counts, same in zip(yardsticks.count_ngrams(train, val, 8, n), expected, strict=True):
        assert counts.tolist() == same.tolist()
    assert sum(sizes) == 300 - n + 1 and len(sizes) == -(-300 // group_tokens)
    assert max(sizes) < 110


def test_bits_are_for_each_byte_of_the_text():
    draw = np.random.default_rng(1)
    train, val = draw.integers(0, 9, 500), draw.integers(0, 9, 80)
    text = b"some text of another length than the tokens"
    found = measure_sample(Sample(train, val, text, 9))
    assert list(found) == ["xz -9", "bigram", "trigram"]
    assert found["xz -9"] == pytest.approx(8 * len(lzma.compress(text, preset=9)) / len(text), abs=1e-4)
    for order, name in ((2, "bigram"), (3, "trigram")):
        bits = reference_nats(train.tolist(), val.tolist(), 9, order) / math.log(2) / len(text)
        assert found[name] == pytest.approx(bits, abs=1e-4)


def test_prepare_wiki_measures_the_folder_and_training_shows_it(data_dir, tmp_path, capsys):
    ids, tokenizer = {split: Shards(data_dir, split).all() for split in ("train", "val")}, Tokenizer.load(data_dir)
    text = "".join(tokenizer.decode([i]) for i in ids["val"].tolist() if i != tokenizer.end_of_text).encode()
    expected = measure_sample(Sample(ids["train"], ids["val"], text, 300))
    assert json.loads((data_dir / "yardsticks.json").read_text()) == expected
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path / "run"), **TINY | {"max_iters": 1}))
    assert (
        f"on the same text: xz -9 {expected['xz -9']:.3f}, bigram {expected['bigram']:.3f}" in capsys.readouterr().out
    )
