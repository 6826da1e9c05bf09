"""What a language model has to beat: a compressor and n-grams, on the same validation text, in bits per byte.

    python yardsticks.py data/pydocs        writes data/pydocs/yardsticks.json, which train.py shows beside its own

n-grams of tokens are counted on the training split and interpolated by Witten and Bell's rule (Chen and Goodman 1998,
"An empirical study of smoothing techniques for language modeling", sec. 2.5), the lowest order with a uniform one.
"""

import lzma
import math
import sys
from pathlib import Path

import numpy as np

import atomic
from shards import Shards
from tokenizer import Tokenizer

TRAIN, VAL = 20_000_000, 2_000_000  # tokens at most: the n-grams' memory is about 100 bytes a token


def xz_bits_per_byte(text: bytes) -> float:
    """Size of `xz -9` of the text, in bits per byte of text."""
    return 8 * len(lzma.compress(text, preset=9)) / len(text)


def ngram_nats(train: np.ndarray, val: np.ndarray, vocab_size: int, order: int) -> float:
    """Total nats of the tokens `val` (1-D) under interpolated n-grams of `order` 1, 2 or 3 counted on `train` (1-D).

    Witten-Bell: p(w | h) = (c(hw) + t(h) p(w | shorter h)) / (c(h) + t(h)), with t(h) the number of different words
    seen after h. The first tokens of `val` use the orders that fit.
    """
    p = np.full(len(val), 1.0 / vocab_size)
    for n in range(1, min(order, len(train), len(val)) + 1):
        grams, counts = np.unique(_grams(train, n, vocab_size), return_counts=True)
        contexts, start = np.unique(grams // vocab_size, return_index=True)
        totals = np.add.reduceat(counts, start)
        types = np.diff(np.append(start, len(grams)))
        wanted = _grams(val, n, vocab_size)
        c_hw, _ = _look_up(wanted, grams, counts)
        c_h, i = _look_up(wanted // vocab_size, contexts, totals)
        t_h = np.where(c_h > 0, types[i], 0)
        seen = c_h > 0
        shorter = p[n - 1 :]
        p[n - 1 :] = np.where(seen, (c_hw + t_h * shorter) / np.maximum(1, c_h + t_h), shorter)
    return float(-np.log(p).sum())


def _grams(tokens: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Each run of n tokens as one integer in base vocab_size (below 2^63 for n = 3 and vocab_size < 2^21)."""
    key = np.zeros(len(tokens) - n + 1, dtype=np.int64)
    for k in range(n):
        key = key * vocab_size + tokens[k : len(tokens) - n + 1 + k].astype(np.int64)
    return key


def _look_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values at the sorted keys equal to `wanted`, 0 where absent; the indices used)."""
    i = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[i] == wanted, values[i], 0), i


def measure(train: np.ndarray, val: np.ndarray, text: bytes, vocab_size: int) -> dict[str, float]:
    """Bits per byte of `text` (the validation text, whose tokens are `val`) for each yardstick."""
    found = {"xz -9": xz_bits_per_byte(text)}
    for order, name in ((2, "bigram"), (3, "trigram")):
        found[name] = ngram_nats(train, val, vocab_size, order) / math.log(2) / len(text)
    return {name: round(bits, 4) for name, bits in found.items()}


def main(folder: str) -> None:
    """Measure a finished data folder. Raises ValueError for one that is not."""
    train, val = (Shards(folder, split) for split in ("train", "val"))
    tokenizer, ids = Tokenizer.load(folder), val.all(VAL)
    text = tokenizer.decode(ids[ids != tokenizer.end_of_text].tolist()).encode()
    found = measure(train.all(TRAIN), ids, text, tokenizer.vocab_size)
    atomic.write_json(Path(folder, "yardsticks.json"), found)
    for name, bits in found.items():
        print(f"{name + ', bits per byte of validation':<36}{bits:>14.3f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python yardsticks.py data/<name>")
    try:
        main(sys.argv[1])
    except ValueError as error:
        sys.exit(f"error: {error}")
