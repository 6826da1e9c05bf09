"""From raw text to clean text: one Unicode form, no control characters, tidy whitespace; filters that name themselves.

Nothing here assumes spaces between words.
"""

import functools
import re
import unicodedata
from collections import Counter
from typing import Any

import numpy as np

LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")  # all but tab and newline; and the byte-order mark
BLANK_LINES = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """Return `text` in Unicode NFC, with \\n line ends, no control characters and at most one blank line in a row.

    Indentation and inner spaces stay. Lone surrogates, which no UTF-8 file can hold, become '?'.
    """
    text = LINE_ENDS.sub("\n", text.encode("utf-8", "replace").decode("utf-8"))
    text = unicodedata.normalize("NFC", CONTROLS.sub("", text))
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return BLANK_LINES.sub("\n\n", lines).strip("\n")


# --- filters ---

# Characters of scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Han. Each counts as a word.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED += "\U00020000-\U0003ffff"
WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")

# Gopher's rules (Rae et al. 2021, arXiv 2112.11446, tables A1 and A2): the largest shares of a text's characters that
# its most frequent n-gram, and n-grams that occurred before, may hold; words of which good English has two.
TOP_NGRAM = {2: 0.20, 3: 0.18, 4: 0.16}
MIN_WORDS = 50  # of a text to which the rules on n-grams apply
REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
LIST_LINE = re.compile(r"(?:[-*•#]+|[|!]+|\d+[.)])\s")
# A page that lists the meanings of its title says so there, or in the line before the list.
MEANINGS = "disambiguation|Begriffsklärung|homonymie|desambiguación|disambigua"
MEANINGS += "|значения|消歧义|消歧義|曖昧さ回避|동음이의"
DISAMBIGUATION_TITLE = re.compile(rf"\((?:{MEANINGS})\)$")
REFERS = r"(?:may|can|could|might)(?: also| either)? (?:refer|relate) to|可以[指是]|可能[指是]|可[指為为]"
DISAMBIGUATION = re.compile(rf"(?m)(?:[^\n]*\n+)?[^\n]{{0,200}}(?:{REFERS})[^\n]{{0,40}}[:：]\s*$")


def reason_to_drop(title: str, text: str, limits: Any) -> str | None:
    """The name of the first filter that drops this (normalised) text, or None.

    limits: settings of the filters, as in PrepareConfig: min_chars, drop_disambiguation, max_list_chars,
    max_repeated_lines, max_repeated_ngrams, script, min_script, english.
    """
    if not text.strip():
        return "empty"
    if len(text) < limits.min_chars:
        return "too_short"
    if limits.drop_disambiguation and (DISAMBIGUATION_TITLE.search(title) or DISAMBIGUATION.match(text)):
        return "disambiguation"
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    if limits.max_list_chars is not None:
        listed = sum(len(line) for line in lines if LIST_LINE.match(line))
        if listed > limits.max_list_chars * sum(map(len, lines)):
            return "mostly_lists"
    if limits.max_repeated_lines is not None:
        paragraphs = [paragraph for paragraph in map(str.strip, text.split("\n\n")) if paragraph]
        if any(repeats(units, limits.max_repeated_lines) for units in (lines, paragraphs)):
            return "repeated_lines"
    if limits.max_repeated_ngrams is not None and repeats_ngrams(text, limits.max_repeated_ngrams):
        return "repeated_ngrams"
    if limits.script is not None and script_share(text, limits.script) < limits.min_script:
        return "wrong_script"
    if limits.english:
        words = text.split()
        if not 3 <= sum(map(len, words)) / len(words) <= 10 or len(STOP_WORDS & {w.lower() for w in words}) < 2:
            return "not_english"
    return None


def repeats(units: list[str], share: float) -> bool:
    """Whether more than `share` of the units, or 2/3 of that of their characters, stood there before (Gopher)."""
    counts = Counter(units)
    chars = sum((count - 1) * len(unit) for unit, count in counts.items())
    return len(units) - len(counts) > share * len(units) or 3 * chars > 2 * share * sum(map(len, units))


def repeats_ngrams(text: str, scale: float) -> bool:
    """Whether the most frequent n-gram, or repeated ones, hold more than `scale` times Gopher's share of the text."""
    words, numbers = WORD.findall(text), dict[str, int]()
    length = 2 if 2 * sum(len(word) == 1 for word in words) > len(words) else 1  # a Chinese word has two characters
    if len(words) < MIN_WORDS * length:
        return False
    grams = word = np.array([numbers.setdefault(i, len(numbers)) for i in words])
    ends = np.cumsum([0, *map(len, words)])
    for n in range(2, 10 * length + 1):
        if len(grams) < 2:
            return False
        # numbers of the n-grams, of those of the (n - 1)-grams and the next word
        pairs = grams[:-1] * len(numbers) + word[n - 1 :]
        _, first, grams, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        if len(first) == len(grams):
            return False  # longer ones are not repeated either
        if n % length or n == length:
            continue
        chars = ends[n:] - ends[:-n]
        if n // length in TOP_NGRAM:
            found = (counts * chars[first])[counts == counts.max()].max()
        else:
            again = np.ones(len(grams), dtype=np.int64)
            again[first] = 0
            covered = np.convolve(again, np.ones(n, dtype=np.int64)) > 0  # words in an n-gram that stood there before
            found = np.diff(ends)[covered].sum()
        if found > scale * (TOP_NGRAM | REPEATED_NGRAMS)[n // length] * ends[-1]:
            return True
    return False


def script_share(text: str, scripts: str) -> float:
    """Share of the words that begin in scripts, as Unicode's names begin: 'LATIN', 'CJK,HIRAGANA,KATAKANA'."""
    wanted, letters = scripts.upper().split(","), Counter(word[0] for word in WORD.findall(text) if word[0].isalpha())
    inside = sum(count for letter, count in letters.items() if script(letter) in wanted)
    return inside / max(1, letters.total())


@functools.lru_cache(maxsize=1 << 16)
def script(letter: str) -> str:
    """The first word of a letter's name in Unicode."""
    return unicodedata.name(letter, "").partition(" ")[0]


FILTERS = ("empty", "too_short", "disambiguation", "mostly_lists", "repeated_lines", "repeated_ngrams", "wrong_script")
FILTERS += ("not_english",)
