"""Shingles of many texts at once, and their MinHash signatures, equal to datasketch's bit for bit."""

import functools
import itertools

import numpy as np

from corpus.clean import WORD

SHINGLE = 5
BANDS, ROWS = 25, 5
ASCII = bytes(range(0x80))
SPACES = bytes.maketrans(ASCII, bytes(ord(" ") if chr(i).isspace() else i for i in ASCII))
RARE_SPACES = [chr(code).encode() for code in range(0x80, 0x3001) if chr(code).isspace()]
SPACED_BYTES = bytes([*range(0xE0), 0xE2])  # UTF-8 without any other byte has none of clean.UNSPACED
BASE = 0x9E3779B97F4A7C15  # of the polynomial: odd, so that it has an inverse mod 2^64
# MurmurHash3's finalisers by bytes of a value: (shift, factor)
FMIX = {4: ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))}
FMIX[8] = ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 1))
# a and b of the permutations a * x + b mod 2^32: those of datasketch.MinHash(scheme="affine32", seed=1), which are not
# taken from there since it imports scipy, 50 MB and most of a second. RandomState's numbers never change (NEP 19).
DRAW = np.random.RandomState(1)
FACTORS = 2 * DRAW.randint(0, 1 << 31, BANDS * ROWS, np.uint32) + 1
SHIFTS = DRAW.randint(0, 1 << 32, BANDS * ROWS, np.uint32)


def squeeze(texts: list[str]) -> list[bytes]:
    """Each text in UTF-8 with one space for all that str.split cuts at: " ".join(text.split()), but many at once."""
    found = [text.encode() for text in texts]
    rest = b"".join(data for data in found if not data.isascii()).translate(None, ASCII)
    if any(space in rest for space in RARE_SPACES):
        found = [data if data.isascii() else " ".join(data.decode().split()).encode() for data in found]
    whole, ends = b"".join(found).translate(SPACES), np.cumsum(list(map(len, found)))
    data = np.frombuffer(whole, np.uint8)
    space = data == ord(" ")
    again = np.flatnonzero(space[1:] & space[:-1])  # a run of spaces may go on in the next text: it belongs to none
    if again.size:
        whole, ends = np.delete(data, again).tobytes(), ends - np.searchsorted(again, ends)
    return [whole[start:end].strip() for start, end in itertools.pairwise([0, *ends.tolist()])]


def join_words(squeezed: bytes) -> bytes:
    """The words of a text (from squeeze) in UTF-8 with one space between them; characters of UNSPACED are words."""
    if squeezed.isascii() or not squeezed.translate(None, SPACED_BYTES):  # no slow pass over most texts
        return squeezed
    words = squeezed.decode().split(" ")
    return " ".join(word if word.isascii() else " ".join(WORD.findall(word)) for word in words).encode()


def fmix(values: np.ndarray) -> np.ndarray:
    """Mix the bits of uint32 or uint64 `values` in place (MurmurHash3's finaliser, a bijection)."""
    for shift, factor in FMIX[values.itemsize]:
        values ^= values >> values.dtype.type(shift)
        values *= values.dtype.type(factor)
    return values


@functools.cache
def powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and BASE^-i mod 2^64 for i < 2^bits."""
    steps = np.full((2, 1 << bits), [[BASE], [pow(BASE, -1, 1 << 64)]], np.uint64)
    steps[:, 0] = 1
    return tuple(np.cumprod(steps, axis=1))


def hash_shingles(texts: list[bytes], size: int = SHINGLE) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes of the `size`-word shingles of all `texts` (from join_words), in order, and how many each text has.

    A shingle's hash is a difference of prefix sums of byte * BASE^i (Karp and Rabin 1987, for all shingles at once),
    mixed. Two shingles get one hash with p about 2^-64: among the 10^6 pairs of two articles of 1000, with 5e-14.
    """
    data = np.frombuffer(b" ".join(texts) + b" ", np.uint8)
    ends = np.flatnonzero(data == ord(" "))
    word_ends = np.searchsorted(ends, np.cumsum([len(text) + 1 for text in texts]))  # words up to the end of each text
    counts = np.maximum(np.diff(word_ends, prepend=0) - (size - 1), 0)
    power, inverse = powers(max(18, data.size.bit_length()))
    sums = np.empty(data.size + 1, np.uint64)
    sums[0], sums[1:] = 0, data  # in place: numpy's product of uint8 and uint64 is four times slower
    sums[1:] *= power[: data.size]
    np.cumsum(sums, out=sums)
    starts, ends = np.append(0, ends + 1)[: ends[size - 1 :].size], ends[size - 1 :]
    hashes = (sums[ends] - sums[starts]) * inverse[starts] + (ends - starts).astype(np.uint64)
    whole = np.ones(hashes.size + size - 1, bool)
    for i in range(1, size):  # the last words of a text begin no shingle
        whole[word_ends - i] = False
    return fmix(hashes[whole[: hashes.size]]), counts


def signatures(shingles: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(BANDS * ROWS, texts) uint32: datasketch's MinHash (scheme affine32) of the low 32 bits, all texts in one pass.

    The column of a text without shingles is all ones, as in datasketch: it would equal every other such column.
    """
    some = np.flatnonzero(counts)
    starts, minima = (np.cumsum(counts) - counts)[some], np.empty((BANDS * ROWS, some.size), np.uint32)
    low = fmix(shingles.astype(np.uint32))
    permuted = np.empty_like(low)
    for factor, shift, row in zip(FACTORS, SHIFTS, minima, strict=True):
        np.multiply(low, factor, out=permuted)
        permuted += shift
        np.minimum.reduceat(permuted, starts, out=row)
    found = np.full((BANDS * ROWS, counts.size), 0xFFFFFFFF, np.uint32)
    found[:, some] = minima
    return found


def band_hashes(values: np.ndarray) -> np.ndarray:
    """(BANDS, texts) uint64 of signatures. Different bands with one hash (p 2^-64) only cost a comparison."""
    mixed = np.full((BANDS, values.shape[1]), BASE, np.uint64)
    for i in range(ROWS):
        mixed ^= values[i::ROWS]
        fmix(mixed)
    return mixed
