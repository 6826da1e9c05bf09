"""Fast encoding of byte-level BPEs: tiktoken, or gigatoken where it is installed, with the ids of `tokenizers`.

`fast_encoder(hf, spec)` gives a function text -> ids, or None when the ids of tiktoken are not proven to be those of
`tokenizers`. The proof, with a worked example of a few merges, is in docs/tokenizer.md. Each of its conditions is a
function here.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

Encode = Callable[[str], Sequence[int] | np.ndarray]

# --- patterns: how text is cut into pieces before merges join the bytes of each piece ---
#
# Alternatives of regular expressions; the first that matches at a place cuts there. No `$` in any of them: it means an
# end of line in one engine, and an end of text in the other.

# The last two of each pattern: spaces but the last one before a word (it belongs to the word), then any spaces.
SPACES_BEFORE_A_WORD = r"\s+(?!\S)"
ANY_SPACES = r"\s+"
SPACE_RUNS = [SPACES_BEFORE_A_WORD, ANY_SPACES]

# What is trained here, in the manner of GPT-4's.
PATTERN = "|".join(
    [
        r"'(?:[sdmtSDMT]|ll|ve|re|LL|VE|RE)",  # the ends of don't, we'll, I'VE
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # a word, with the space or the sign before it
        r"\p{N}{1,2}",  # a number, by at most two digits
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # a run of signs, with the space before it and the line ends after it
        r"\s*[\r\n]",  # one line end, with the spaces before it
        *SPACE_RUNS,
    ]
)

LLAMA3_PATTERN = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",  # a number, by at most three digits
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",  # line ends, with the spaces before them
        *SPACE_RUNS,
    ]
)

# As Llama 3's, but a digit stands alone.
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")

# What pre_tokenizers.ByteLevel does by itself.
GPT2_PATTERN = "|".join(
    [
        r"'s|'t|'re|'ve|'m|'ll|'d",
        r" ?\p{L}+",  # a word, with the space before it
        r" ?\p{N}+",  # a number
        r" ?[^\s\p{L}\p{N}]+",  # a run of signs
        *SPACE_RUNS,
    ]
)

# GPT-2's after pre_tokenizers.Digits: a digit stands alone, and a run of spaces before it stays one piece (before a
# word its last space belongs to the word).
# The ranges are numbers new in Unicode 17, which Digits knows and \p{N} does not.
NUMBER = r"\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}"
SMOLLM_PATTERN = "|".join(
    [
        r"'s|'t|'re|'ve|'m|'ll|'d",
        r" ?\p{L}+",
        rf"[{NUMBER}]",
        rf" ?[^\s\p{{L}}{NUMBER}]+",
        rf"\s+(?![^\s{NUMBER}])",
        ANY_SPACES,
    ]
)

# GPT-4o's: words are also cut where capital letters begin (camelCase), and the end of don't belongs to the word.
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K_PATTERN = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?(?:{UPPER}*{LOWER}+|{UPPER}+{LOWER}*)(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        *SPACE_RUNS,
    ]
)


@cache
def pre_tokenizers_by_pattern() -> dict[str, pre_tokenizers.PreTokenizer]:
    """The pre-tokenizers of byte-level BPEs, by the pattern with which tiktoken cuts text as they do."""
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Digits(individual_digits=True)

    known = {GPT2_PATTERN: bytes_of_words, SMOLLM_PATTERN: pre_tokenizers.Sequence([digits, bytes_of_words])}
    for pattern in (PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN, O200K_PATTERN):
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        known[pattern] = pre_tokenizers.Sequence([split, bytes_only])
    return known


def pattern_of(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> str | None:
    """The pattern with which tiktoken cuts text as this pre-tokenizer does; None for one that is not known."""
    if pre_tokenizer is None:
        return None
    for pattern, known in pre_tokenizers_by_pattern().items():
        if _without_offsets(known) == _without_offsets(pre_tokenizer):
            return pattern
    return None


def _without_offsets(pre_tokenizer: pre_tokenizers.PreTokenizer) -> bytes:
    """Its JSON, without the option that has to do with offsets only."""
    return re.sub(b',"trim_offsets":[a-z]+', b"", pre_tokenizer.__getstate__())


# --- bytes as characters ---


@cache
def byte_of_character() -> dict[str, int]:
    """The byte of each of the 256 characters that stand for bytes in a vocabulary (openai/gpt-2, encoder.py).

    A printable byte stands for itself ("A" for 0x41); the others have the characters from U+0100 on, in order: a space
    is "Ġ" (U+0120), since 0x20 is the 33rd byte that is not printable.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}

    others = [byte for byte in range(256) if byte not in printable]
    for place, byte in enumerate(others):
        table[chr(256 + place)] = byte
    return table


@cache
def character_of_byte() -> dict[int, str]:
    """The other way round: 0x20 -> "Ġ"."""
    return {byte: character for character, byte in byte_of_character().items()}


def spell_token(token: bytes) -> str:
    """A token's bytes as the characters that stand for them: b" a" -> "Ġa"."""
    return "".join(map(character_of_byte().__getitem__, token))


# --- when tiktoken's ids are those of tokenizers ---

Vocab = dict[str, int]
Merges = list[tuple[str, str]]


def fast_encoder(hf: HFTokenizer, spec: dict[str, Any]) -> Encode | None:
    """A function text -> ids by the fastest engine at hand; None when its ids are not proven to be those of `hf`.

    hf: the tokenizer. spec: the content of its tokenizer.json. The text must be normalized (NFC) where `hf` does that.

    tiktoken merges any two neighbours that together spell a token, the lowest id first. `tokenizers` merges the pairs
    of a list, the first in the list first. Both do the same on every text when the list is in the order of the ids
    that it makes, and every token that it makes comes out when the token's own text is merged (docs/tokenizer.md).
    """
    pattern = pattern_of(hf.pre_tokenizer)
    if pattern is None or not is_plain_bpe(hf):
        return None

    model = spec["model"]
    merges = read_merges(model)
    vocab = tokens_of_bytes(model["vocab"])
    if not (has_every_byte(vocab) and ids_differ(vocab) and merges_are_in_id_order(merges, vocab)):
        return None

    pieces = pieces_of_tokens(merges, vocab)
    if not every_merged_token_is_reachable(merges, pieces):
        return None

    unreachable = {token for token, count in pieces.items() if count > 1}
    if hf.model.ignore_merges:
        if not whole_words_are_never_merged(unreachable, pieces):
            return None
    else:
        vocab = {token: i for token, i in vocab.items() if token not in unreachable}  # no text ever gets their ids

    return _fastest_engine(pattern, vocab, spec)


def is_plain_bpe(hf: HFTokenizer) -> bool:
    """Whether nothing but cuts and merges makes the ids (and NFC before them): no dropout, no marks on word ends."""
    model = hf.model
    if not isinstance(model, models.BPE) or model.dropout or model.end_of_word_suffix:
        return False
    return hf.normalizer is None or isinstance(hf.normalizer, normalizers.NFC)


def read_merges(model: dict[str, Any]) -> Merges:
    """The merge list: pairs, which older files write as "a b"."""
    return [tuple(pair if isinstance(pair, list) else pair.split(" ")) for pair in model["merges"]]


def tokens_of_bytes(vocab: Vocab) -> Vocab:
    """The tokens that a text can give: not empty, and spelt with the characters that stand for bytes."""
    characters = byte_of_character().keys()
    return {token: i for token, i in vocab.items() if token and characters >= set(token)}


def has_every_byte(vocab: Vocab) -> bool:
    """Whether each byte is a token, so that no text has an unknown part."""
    return byte_of_character().keys() <= vocab.keys()


def ids_differ(vocab: Vocab) -> bool:
    """Whether no two tokens share an id: tiktoken orders merges by the ids."""
    return len(set(vocab.values())) == len(vocab)


def merges_are_in_id_order(merges: Merges, vocab: Vocab) -> bool:
    """Whether an earlier pair of the list makes a lower id.

    Pairs that make the same token must be adjacent; that follows from sorted, as ids differ.
    """
    made = [vocab.get(left + right, -1) for left, right in merges]
    return made == sorted(made)


def pieces_of_tokens(merges: Merges, vocab: Vocab) -> dict[str, int]:
    """For each token, how many pieces its own text becomes by merges whose parts have lower ids than what they make.

    1: merging reaches the token. Bytes count as lower than every token that is made, whatever their ids.
    """

    def order(token: str) -> float:
        return -1 if len(token) == 1 else vocab.get(token, math.inf)

    rising = []
    for left, right in merges:
        made = vocab.get(left + right, -1)
        if order(left) < made and order(right) < made:
            rising.append((left, right))

    bpe = models.BPE(vocab, rising)
    return {token: len(bpe.tokenize(token)) for token in vocab}


def every_merged_token_is_reachable(merges: Merges, pieces: dict[str, int]) -> bool:
    """Whether each token that the list makes comes out when its own text is merged."""
    return all(pieces.get(left + right, 1) == 1 for left, right in merges)


def whole_words_are_never_merged(unreachable: set[str], pieces: dict[str, int]) -> bool:
    """Whether tiktoken's merges never make a token that only a whole word may become (`ignore_merges`).

    tiktoken merges any two neighbours that spell a token. That cannot happen if the token's own text, merged by the
    list, stays in three pieces or more: it is never down to two.
    """
    return all(pieces[token] >= 3 for token in unreachable)


# --- engines ---

INSTALL_GIGATOKEN = "pip install gigatoken==0.10.0"
# gigatoken remembers the words it met, without a limit; after so many characters it begins anew.
MEMORY_CHARS = 50_000_000
# gigatoken gives tiktoken's ids for every text cut by GPT-2's pattern. With the patterns of Llama 3 and Qwen2 it uses
# newer Unicode tables (17, not 16) and differs on new letters, so it gets only ASCII text.
ASCII_PATTERNS = (LLAMA3_PATTERN, QWEN2_PATTERN)
GIGATOKEN_PATTERNS = (GPT2_PATTERN, *ASCII_PATTERNS)


def gigatoken_is_installed() -> bool:
    """Whether gigatoken can be imported: it is optional, tiktoken gives the same ids."""
    try:
        import gigatoken  # noqa: F401
    except ImportError:
        return False
    return True


def gigatoken_would_help(hf: HFTokenizer) -> bool:
    """Whether text would be encoded faster if gigatoken were installed."""
    return pattern_of(hf.pre_tokenizer) in GIGATOKEN_PATTERNS and not gigatoken_is_installed()


def _fastest_engine(pattern: str, vocab: Vocab, spec: dict[str, Any]) -> Encode:
    """gigatoken for what it is known to encode as tiktoken does, where it is installed; else tiktoken."""
    to_byte = str.maketrans({character: chr(byte) for character, byte in byte_of_character().items()})
    ranks = {token.translate(to_byte).encode("latin-1"): i for token, i in vocab.items()}
    by_tiktoken = tiktoken_encoder(pattern, ranks)
    if pattern not in GIGATOKEN_PATTERNS or not gigatoken_is_installed():
        return by_tiktoken

    plain = {**spec, "added_tokens": [], "normalizer": None, "post_processor": None}
    plain["model"] = {**spec["model"], "vocab": vocab}
    return GigatokenEncoder(json.dumps(plain), by_tiktoken, pattern in ASCII_PATTERNS)


class GigatokenEncoder:
    """Encodes by gigatoken, ten times as fast as tiktoken."""

    def __init__(self, tokenizer_json: str, by_tiktoken: Encode, ascii_only: bool):
        """ascii_only: text that is not ASCII goes to `by_tiktoken`."""
        self.tokenizer_json = tokenizer_json
        self.by_tiktoken = by_tiktoken
        self.ascii_only = ascii_only
        self.engine = None
        self.chars_left = 0  # until the engine is made anew

    def __call__(self, text: str) -> Sequence[int] | np.ndarray:
        if self.ascii_only and not text.isascii():
            return self.by_tiktoken(text)

        if self.chars_left <= 0:
            import gigatoken

            self.engine = gigatoken.Tokenizer.from_json(self.tokenizer_json)
            self.chars_left = MEMORY_CHARS
        self.chars_left -= len(text)
        return self.engine.encode(text)


# Whitespace except the plain space, \r and \n.
OTHER_SPACES = "\t\v\f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# Between two spaces of which the second stands directly before a word.
BEFORE_LAST_SPACE = re.compile(rf"(?<=[ {OTHER_SPACES}])(?=[ {OTHER_SPACES}][^ {OTHER_SPACES}\r\n])")


def tiktoken_encoder(pattern: str, ranks: dict[bytes, int]) -> Encode:
    r"""tiktoken's encode_ordinary for `pattern`, in two thirds of the time if it has an alternative for line ends.

    A look-ahead, `\s+(?!\S)`, makes tiktoken use its slow backtracking regex engine instead of a finite automaton. It
    acts only where two spaces stand before a word. So texts are cut between the two first, and the pattern without it
    cuts the parts as the whole pattern would: "a  b" -> "a ", " b" -> "a", " ", " b". GPT-2's pattern is left whole: it
    has no alternative for line ends, so its look-ahead acts before the last of several line ends as well.
    """
    import tiktoken

    def encode_ordinary(pattern: str) -> Encode:
        encoding = tiktoken.Encoding("nonllama", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        return encoding.encode_ordinary

    rest = pattern.removesuffix("|" + "|".join(SPACE_RUNS))
    cuts_line_ends = r"[\r\n]" in rest
    if rest == pattern or not cuts_line_ends:
        return encode_ordinary(pattern)

    encode_part = encode_ordinary(f"{rest}|{ANY_SPACES}")

    def encode(text: str) -> list[int]:
        may_need_cuts = "  " in text or any(space in text for space in OTHER_SPACES)
        if not may_need_cuts:
            return encode_part(text)
        return [i for part in BEFORE_LAST_SPACE.split(text) for i in encode_part(part)]

    return encode
