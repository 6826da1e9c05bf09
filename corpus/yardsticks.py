"""What a language model has to beat: a compressor and n-grams, on the same validation text, in bits per byte.

prepare_wiki.py writes them to yardsticks.json; train.py shows them beside its own loss. n-grams of tokens are counted
on the training split and interpolated by Witten and Bell's rule (Chen and Goodman 1998, "An empirical study of
smoothing techniques for language modeling", sec. 2.5), the lowest order with a uniform one.
"""

import functools
import lzma
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shards import Shards
from tokenizer import Tokenizer

TRAIN_TOKENS = 20_000_000  # at most, from the beginning of the training split
VAL_TOKENS = 2_000_000  # at most, from the beginning of the validation split
GROUP_TOKENS = 2_000_000  # n-grams in memory at once; each needs some 40 bytes


@dataclass(frozen=True)
class Sample:
    """What a yardstick is given."""

    train: np.ndarray  # token ids to learn from, 1-D
    val: np.ndarray  # token ids of the validation text, 1-D
    text: bytes  # what `val` spells, in UTF-8
    vocab_size: int


def measure(train: Shards, val: Shards, tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of the validation text for each yardstick: {"xz -9": 1.9, "bigram": 2.0, "trigram": 1.7}."""
    val_ids = val.all(VAL_TOKENS)
    text_ids = val_ids[val_ids != tokenizer.end_of_text]
    text = tokenizer.decode(text_ids.tolist()).encode()
    return measure_sample(Sample(train.all(TRAIN_TOKENS), val_ids, text, tokenizer.vocab_size))


def measure_sample(sample: Sample) -> dict[str, float]:
    """Bits per byte of the sample's text for each of YARDSTICKS, rounded."""
    return {name: round(yardstick(sample), 4) for name, yardstick in YARDSTICKS.items()}


def xz_bits_per_byte(sample: Sample) -> float:
    """Size of `xz -9` of the text, in bits per byte of text."""
    return 8 * len(lzma.compress(sample.text, preset=9)) / len(sample.text)


def ngram_bits_per_byte(sample: Sample, order: int) -> float:
    """Bits per byte of text under n-grams of tokens up to `order`."""
    nats = ngram_nats(sample.train, sample.val, sample.vocab_size, order)
    return nats / math.log(2) / len(sample.text)


# A new yardstick is a function and one more entry.
YARDSTICKS: dict[str, Callable[[Sample], float]] = {
    "xz -9": xz_bits_per_byte,
    "bigram": functools.partial(ngram_bits_per_byte, order=2),
    "trigram": functools.partial(ngram_bits_per_byte, order=3),
}


def ngram_nats(train: np.ndarray, val: np.ndarray, vocab_size: int, order: int) -> float:
    """Total nats of the tokens `val` (1-D) under interpolated n-grams of `order` 1, 2 or 3 counted on `train` (1-D).

    Witten-Bell: p(w | h) = (c(hw) + t(h) p(w | shorter h)) / (c(h) + t(h)), where c counts in `train` and t(h) is the
    number of different words seen after h. The first tokens of `val` use the orders that fit.
    """
    p = np.full(len(val), 1.0 / vocab_size)
    for n in range(1, min(order, len(train), len(val)) + 1):
        c_hw, c_h, t_h = count_ngrams(train, val, vocab_size, n)
        shorter = p[n - 1 :]
        interpolated = (c_hw + t_h * shorter) / np.maximum(1, c_h + t_h)
        p[n - 1 :] = np.where(c_h > 0, interpolated, shorter)
    return float(-np.log(p).sum())


def count_ngrams(train: np.ndarray, val: np.ndarray, vocab_size: int, n: int) -> tuple[np.ndarray, ...]:
    """For each n-gram hw of `val`: c(hw), c(h) and t(h) in `train`; three arrays of len(val) - n + 1 numbers.

    Bounded memory: the n-grams of `train` are counted group by group. A group holds those whose last token leaves the
    same rest, so all occurrences of an n-gram are in one group, and c(h) and t(h) are sums over the groups. The text
    1 2 1 2 1 3 has the bigrams 12, 21, 12, 21, 13; with V = 10 these are their numbers, too. With two groups:
        group 0    12 twice              after h = 1: c = 2, t = 1
        group 1    21 twice, 13 once     after h = 1: c = 1, t = 1      together c(1) = 3, t(1) = 2
    """
    wanted = number_ngrams(val, np.arange(len(val) - n + 1), vocab_size, n)
    wanted_contexts = wanted // vocab_size
    c_hw = np.zeros(len(wanted), np.int64)
    c_h = np.zeros(len(wanted), np.int64)
    t_h = np.zeros(len(wanted), np.int64)

    groups = -(-len(train) // GROUP_TOKENS)
    for group in range(groups):
        starts = np.flatnonzero(train[n - 1 :] % groups == group)
        numbers = number_ngrams(train, starts, vocab_size, n)
        if not len(numbers):
            continue
        ngrams, counts = np.unique(numbers, return_counts=True)
        contexts, first = np.unique(ngrams // vocab_size, return_index=True)
        totals = np.add.reduceat(counts, first)
        followers = np.diff(first, append=len(ngrams))

        c_hw += look_up(wanted, ngrams, counts)
        c_h += look_up(wanted_contexts, contexts, totals)
        t_h += look_up(wanted_contexts, contexts, followers)
    return c_hw, c_h, t_h


def number_ngrams(tokens: np.ndarray, starts: np.ndarray, vocab_size: int, n: int) -> np.ndarray:
    """The n tokens from each start as one number in base vocab_size (below 2^63 for n = 3 and vocab_size < 2^21)."""
    numbers = np.zeros(len(starts), np.int64)
    for k in range(n):
        numbers = numbers * vocab_size + tokens[starts + k]
    return numbers


def look_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each wanted key, 0 where it is absent. keys: sorted."""
    places = np.searchsorted(keys, wanted)
    places = np.minimum(places, len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
