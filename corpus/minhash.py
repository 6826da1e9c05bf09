"""Shingles of many texts at once, and their MinHash signatures, equal to datasketch's bit for bit.

A shingle is SHINGLE words in a row. A text goes through these functions in order:

    squeeze         its bytes, with one space for any whitespace
    join_words      the same, with a space around each character of a script that writes none (Han, kana, Thai, ...)
    hash_shingles   a 64-bit hash of each shingle
    signatures      BANDS * ROWS numbers; two texts agree in one with the probability of their Jaccard similarity
    band_hashes     a hash of each band (ROWS of these numbers); texts with an equal band are candidates

Each takes or returns all texts of a batch: numpy is fast when one call does much.
"""

import functools
import itertools

import numpy as np

from corpus.clean import WORD

SHINGLE = 5  # words
BANDS = 25
ROWS = 5  # numbers of a signature in a band

ASCII = bytes(range(0x80))
# A table for bytes.translate: every ASCII character at which str.split cuts becomes a space. Bytes from 0x80 stay: they
# are parts of other characters.
ASCII_SPACES = bytes(i for i in ASCII if chr(i).isspace())
ASCII_SPACES_TO_SPACE = bytes.maketrans(ASCII_SPACES, b" " * len(ASCII_SPACES))
# The others at which str.split cuts, in UTF-8. None lies beyond U+3000.
SPACES_BEYOND_ASCII = [chr(code).encode() for code in range(0x80, 0x3001) if chr(code).isspace()]
# First bytes of characters in UTF-8. clean.UNSPACED lies in U+0E00 to U+3FFFF, whose first bytes are 0xE0 to 0xF0; but
# it holds nothing of U+2000 to U+2FFF (first byte 0xE2), where dashes and quotes are, which many English texts have.
BYTES_OF_SPACED_TEXT = bytes([*range(0xE0), 0xE2])

BASE = 0x9E3779B97F4A7C15  # of the polynomial hash: 2^64 over the golden ratio; odd, so that it has an inverse mod 2^64

# MurmurHash3's finalisers, by bytes of a value: steps of (right shift, factor). The last step only shifts.
FMIX_STEPS = {
    4: (
        (16, 0x85EBCA6B),
        (13, 0xC2B2AE35),
        (16, 1),
    ),
    8: (
        (33, 0xFF51AFD7ED558CCD),
        (33, 0xC4CEB9FE1A85EC53),
        (33, 1),
    ),
}

# The permutations x -> FACTORS[i] * x + SHIFTS[i] mod 2^32 are those of datasketch.MinHash(scheme="affine32", seed=1).
# They are not taken from there: datasketch imports scipy, 50 MB and most of a second. RandomState's numbers never
# change (NumPy Enhancement Proposal 19). A factor is odd, so that the map is one to one.
DRAW = np.random.RandomState(1)
N_PERMUTATIONS = BANDS * ROWS
FACTORS = 1 + 2 * DRAW.randint(0, 1 << 31, N_PERMUTATIONS, np.uint32)
SHIFTS = DRAW.randint(0, 1 << 32, N_PERMUTATIONS, np.uint32)
NO_SHINGLES = 0xFFFFFFFF  # stands in the signature of a text without shingles, as in datasketch


# --- words ---


def squeeze(texts: list[str]) -> list[bytes]:
    """Each text in UTF-8 with one space for any whitespace: " ".join(text.split()), but many texts at once."""
    encoded = [text.encode() for text in texts]

    # Few texts have whitespace beyond ASCII: one look at all that is not ASCII tells.
    not_ascii = b"".join(data for data in encoded if not data.isascii())
    beyond_ascii = not_ascii.translate(None, ASCII)
    if any(space in beyond_ascii for space in SPACES_BEYOND_ASCII):
        encoded = [data if data.isascii() else squeeze_one(data) for data in encoded]

    joined = b"".join(encoded).translate(ASCII_SPACES_TO_SPACE)
    ends = np.cumsum([len(data) for data in encoded])

    # Of a run of spaces only the first stays. A run may go on from one text into the next; strip() removes the rest.
    data = np.frombuffer(joined, np.uint8)
    is_space = data == ord(" ")
    follows_space = is_space[1:] & is_space[:-1]
    repeated = np.flatnonzero(follows_space)
    if repeated.size:
        joined = np.delete(data, repeated).tobytes()
        ends = ends - np.searchsorted(repeated, ends)

    bounds = itertools.pairwise([0, *ends.tolist()])
    return [joined[start:end].strip() for start, end in bounds]


def squeeze_one(data: bytes) -> bytes:
    """One text with one space for any whitespace, also beyond ASCII; slow."""
    words = data.decode().split()
    return " ".join(words).encode()


def join_words(squeezed: bytes) -> bytes:
    """The words of a text (from squeeze) in UTF-8 with one space between them; characters of UNSPACED are words."""
    if squeezed.isascii() or not squeezed.translate(None, BYTES_OF_SPACED_TEXT):  # no slow pass over most texts
        return squeezed

    words: list[str] = []
    for word in squeezed.decode().split(" "):
        if word.isascii():
            words.append(word)
        else:
            words.extend(WORD.findall(word))
    return " ".join(words).encode()


# --- shingles ---


def fmix(values: np.ndarray) -> np.ndarray:
    """Mix the bits of uint32 or uint64 `values` in place (MurmurHash3's finaliser, a one-to-one map); returns them."""
    for shift, factor in FMIX_STEPS[values.itemsize]:
        values ^= values >> values.dtype.type(shift)
        values *= values.dtype.type(factor)
    return values


@functools.cache
def powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(BASE^i, BASE^-i) mod 2^64 for i < 2^bits, uint64."""
    inverse = pow(BASE, -1, 1 << 64)
    base_factors = np.full(1 << bits, BASE, np.uint64)
    base_factors[0] = 1
    inverse_factors = np.full(1 << bits, inverse, np.uint64)
    inverse_factors[0] = 1
    return np.cumprod(base_factors), np.cumprod(inverse_factors)


def hash_shingles(texts: list[bytes], size: int = SHINGLE) -> tuple[np.ndarray, np.ndarray]:
    """(64-bit hashes of the `size`-word shingles of all texts (from join_words), in order; how many each text has).

    Two shingles get one hash with p about 2^-64: among the 10^6 pairs of two articles of 1000 shingles, with 5e-14.

    Example with size = 2 and the texts "a b c" and "dd e":

        data                    a _ b _ c _ d d _ e _        _ is a space; one stands after every word
        position                0 1 2 3 4 5 6 7 8 9 10
        word_ends               1, 3, 5, 8, 10               the words a, b, c, dd, e end there
        word_starts             0, 2, 4, 6, 9
        words_so_far            3, 5                         words up to the end of each text
        counts                  2, 1                         a text of w words has w - size + 1 shingles
        shingle_starts, _ends   (0, 3) (2, 5) (4, 8) (6, 10) "a b", "b c", "c dd", "dd e"

    "c dd" goes from one text into the next. It begins at the last word of a text; in general, the last size - 1 words
    of a text begin no shingle.

    The hash of the bytes from s to e (Karp and Rabin 1987) is the polynomial sum of data[i] * BASE^(i - s). With the
    prefix sums P[e] = sum of data[i] * BASE^i for i < e it is (P[e] - P[s]) * BASE^-s, for all shingles at once.
    The length in bytes is added, then the bits are mixed.
    """
    joined = b" ".join(texts) + b" "
    data = np.frombuffer(joined, np.uint8)
    word_ends = np.flatnonzero(data == ord(" "))
    word_starts = np.append(0, word_ends + 1)

    text_sizes = [len(text) + 1 for text in texts]
    text_ends = np.cumsum(text_sizes)
    words_so_far = np.searchsorted(word_ends, text_ends)
    words_of_text = np.diff(words_so_far, prepend=0)
    counts = np.maximum(words_of_text - (size - 1), 0)

    bits = max(18, data.size.bit_length())  # at least 18: one table serves all usual batches
    base_powers, inverse_powers = powers(bits)
    sums = np.empty(data.size + 1, np.uint64)
    sums[0] = 0
    sums[1:] = data  # in place: numpy's product of uint8 and uint64 is four times slower
    sums[1:] *= base_powers[: data.size]
    np.cumsum(sums, out=sums)

    shingle_ends = word_ends[size - 1 :]
    shingle_starts = word_starts[: shingle_ends.size]
    lengths = (shingle_ends - shingle_starts).astype(np.uint64)
    hashes = sums[shingle_ends] - sums[shingle_starts]
    hashes *= inverse_powers[shingle_starts]
    hashes += lengths

    begins_shingle = np.ones(word_ends.size, bool)
    for i in range(1, size):
        last_words = np.maximum(words_so_far - i, 0)  # the first text may have less than i words
        begins_shingle[last_words] = False
    hashes = hashes[begins_shingle[: hashes.size]]
    return fmix(hashes), counts


# --- signatures ---


def signatures(shingles: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(BANDS * ROWS, texts) uint32: datasketch's MinHash (scheme affine32) of the low 32 bits, all texts in one pass.

    shingles, counts: from hash_shingles. The column of a text without shingles is all NO_SHINGLES, as in datasketch:
    it would equal every other such column.
    """
    with_shingles = np.flatnonzero(counts)
    starts = np.cumsum(counts) - counts
    starts = starts[with_shingles]

    low = fmix(shingles.astype(np.uint32))
    permuted = np.empty_like(low)
    minima = np.empty((N_PERMUTATIONS, with_shingles.size), np.uint32)
    for factor, shift, row in zip(FACTORS, SHIFTS, minima, strict=True):
        np.multiply(low, factor, out=permuted)
        permuted += shift
        np.minimum.reduceat(permuted, starts, out=row)

    values = np.full((N_PERMUTATIONS, counts.size), NO_SHINGLES, np.uint32)
    values[:, with_shingles] = minima
    return values


def band_hashes(values: np.ndarray) -> np.ndarray:
    """(BANDS, texts) uint64 of signatures. Different bands with one hash (p 2^-64) only cost a comparison."""
    n_texts = values.shape[1]
    mixed = np.full((BANDS, n_texts), BASE, np.uint64)
    for i in range(ROWS):
        mixed ^= values[i::ROWS]  # number i of each band
        fmix(mixed)
    return mixed
