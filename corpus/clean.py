"""From raw text to clean text: one Unicode form, no control characters, tidy whitespace; and filters by name.

A filter is one function, marked with its name and its settings: see `drops`. Nothing here assumes spaces between words.
"""

import difflib
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LINE_ENDS = re.compile("[\r\x0b\x0c\x85\u2028\u2029]")
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")  # all but tab and newline; and the byte-order mark
ASCII_CONTROLS = bytes([*range(9), *range(11, 32), 127])
C1_CONTROL = re.compile(b"\xc2[\x80-\x9f]")  # U+0080 to U+009F in UTF-8
BLANK_LINES = re.compile(r"\n{3,}")


def has_controls(text: str, data: bytes) -> bool:
    """Whether LINE_ENDS or CONTROLS match in `text`, whose UTF-8 is `data`: six times as fast as they say it."""
    if len(data.translate(None, delete=ASCII_CONTROLS)) < len(data) or C1_CONTROL.search(data):
        return True
    return any(character in text for character in "\u2028\u2029\ufeff")


def one_form(text: str) -> str:
    """Return `text` in Unicode NFC, with \\n line ends and no control characters.

    Lone surrogates, which no UTF-8 file can hold, become '?'.
    """
    data = text.encode("utf-8", "replace")
    text = data.decode("utf-8")
    if has_controls(text, data):
        text = LINE_ENDS.sub("\n", text.replace("\r\n", "\n"))
        text = CONTROLS.sub("", text)
    return unicodedata.normalize("NFC", text)


def normalise(text: str) -> str:
    """Return `text` in one_form, with at most one blank line in a row and no blanks at the ends of lines.

    Indentation and inner spaces stay.
    """
    lines = one_form(text).split("\n")
    text = "\n".join(line.rstrip() for line in lines)
    if "\n\n\n" in text:
        text = BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


# --- how filters are registered ---


@dataclass(frozen=True)
class Page:
    """What the filters look at: a title and its normalised text."""

    title: str
    text: str

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without the spaces around them."""
        stripped = [line.strip() for line in self.text.split("\n")]
        return [line for line in stripped if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines separate, without the spaces around it."""
        stripped = [paragraph.strip() for paragraph in self.text.split("\n\n")]
        return [paragraph for paragraph in stripped if paragraph]


@dataclass(frozen=True)
class Filter:
    """A function that says whether a page is dropped, and the settings whose values it takes after the page."""

    is_dropped: Callable[..., bool]
    settings: tuple[str, ...]


FILTERS: dict[str, Filter] = {}  # by name, in the order in which they are tried: that of this file


def drops(name: str, *settings: str) -> Callable:
    """Mark a function as the filter `name`: reports count what it drops under this name.

    settings: fields of PrepareConfig. Their values are passed to the function after the page. The filter is off while
    the first of them is None or False; without settings it is always on. So this is a new filter,

        @drops("mostly_digits", "max_digits")
        def mostly_digits(page: Page, max_digits: float) -> bool:
            return sum(map(str.isdigit, page.text)) > max_digits * len(page.text)

    with one line in PrepareConfig: `max_digits: float | None = None  # largest share of the characters`.
    """

    def mark(function: Callable[..., bool]) -> Callable[..., bool]:
        FILTERS[name] = Filter(function, settings)
        return function

    return mark


def reason_to_drop(title: str, text: str, cfg: object) -> str | None:
    """The name of the first filter that drops this (normalised) text, or None.

    cfg: has the settings of all filters as attributes, as prepare_wiki.py's PrepareConfig does.
    """
    page = Page(title, text)
    for name, a_filter in FILTERS.items():
        values = [getattr(cfg, setting) for setting in a_filter.settings]
        is_off = bool(values) and (values[0] is None or values[0] is False)
        if not is_off and a_filter.is_dropped(page, *values):
            return name
    return None


# --- the filters ---

# Characters of scripts that put no spaces between words. Each counts as a word. They are the blocks of the scripts
# whose lines Unicode breaks without spaces (UAX 14: Line_Break SA, ID, CJ, AK or AS; but Hangul has spaces), and those
# of Buginese and of Tibetan, which marks syllables.
UNSPACED = (
    "\u0e00-\u0fff"  # Thai, Lao, Tibetan
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u1950-\u1aaf\u1b00-\u1b7f\u1bc0-\u1bff"  # Tai Le, New Tai Lue, Buginese, Tai Tham; Balinese; Batak
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\ua000-\ua4cf\ua980-\uaadf\uff66-\uff9f"  # Yi; Javanese, Burmese, Cham, Tai Viet; narrow kana
    "\U00011000-\U0001107f\U00011300-\U0001137f"  # Brahmi, Grantha
    "\U00011700-\U0001174f\U00011900-\U0001195f"  # Ahom, Dives Akuru
    "\U00011ee0-\U00011f5f"  # Makasar, Kawi
    "\U00016fe0-\U0001b2ff"  # Tangut, Khitan, older kana, Nushu
    "\U00020000-\U0003ffff"  # Han
)
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
# What people write for a script whose letters have another name.
OTHER_SCRIPT_NAMES = {
    "HAN": "CJK",
    "HANZI": "CJK",
    "KANJI": "CJK",
    "CHINESE": "CJK",
    "JAPANESE": "CJK,HIRAGANA,KATAKANA",
    "KOREAN": "HANGUL",
    "ENGLISH": "LATIN",
    "ROMAN": "LATIN",
    "RUSSIAN": "CYRILLIC",
    "HINDI": "DEVANAGARI",
    "BURMESE": "MYANMAR",
}
REFERS = r"(?:may|can|could|might)(?: also| either)? (?:refer|relate) to|可以[指是]|可能[指是]|可[指為为]"
DISAMBIGUATION = re.compile(rf"(?m)(?:[^\n]*\n+)?[^\n]{{0,200}}(?:{REFERS})[^\n]{{0,40}}[:：]\s*$")


@drops("empty")
def is_empty(page: Page) -> bool:
    """Nothing but whitespace."""
    return not page.text.strip()


@drops("too_short", "min_chars")
def is_too_short(page: Page, min_chars: int) -> bool:
    """Fewer characters than `min_chars`."""
    return len(page.text) < min_chars


@drops("disambiguation", "drop_disambiguation")
def is_disambiguation(page: Page, drop_disambiguation: bool) -> bool:
    """A page that lists the meanings of its title."""
    return bool(DISAMBIGUATION_TITLE.search(page.title) or DISAMBIGUATION.match(page.text))


@drops("mostly_lists", "max_list_chars")
def is_mostly_lists(page: Page, max_list_chars: float) -> bool:
    """More than this share of the characters is in items of lists."""
    list_chars = sum(len(line) for line in page.lines if LIST_LINE.match(line))
    all_chars = sum(len(line) for line in page.lines)
    return list_chars > max_list_chars * all_chars


@drops("repeated_lines", "max_repeated_lines")
def has_repeated_lines(page: Page, max_repeated_lines: float) -> bool:
    """More than this share of the lines, or of the paragraphs, stood there before."""
    return repeats(page.lines, max_repeated_lines) or repeats(page.paragraphs, max_repeated_lines)


def repeats(units: list[str], share: float) -> bool:
    """Whether more than `share` of the units, or 2/3 of that of their characters, stood there before (Gopher)."""
    counts = Counter(units)
    repeated = len(units) - len(counts)
    repeated_chars = sum((count - 1) * len(unit) for unit, count in counts.items())
    all_chars = sum(len(unit) for unit in units)
    return repeated > share * len(units) or 3 * repeated_chars > 2 * share * all_chars


@drops("repeated_ngrams", "max_repeated_ngrams")
def has_repeated_ngrams(page: Page, max_repeated_ngrams: float) -> bool:
    """Repeated n-grams hold more than so many times Gopher's shares of the text."""
    return repeats_ngrams(page.text, max_repeated_ngrams)


def repeats_ngrams(text: str, scale: float) -> bool:
    """Whether the most frequent n-gram, or repeated ones, hold more than `scale` times Gopher's share of the text.

    n-grams are numbered from those that are one word shorter. For the words a b a b c, whose numbers are 0 1 0 1 2:

        2-grams       ab ba ab bc    numbers 0 1 0 2: two numbers are equal, so "ab" is repeated
        3-grams       0a 1b 0c       (the number of the first two words, and the third word): all differ, we are done

    Where most words are single characters (Chinese), two characters count as one word: n is 4, 6, 8 ... 20.
    """
    words = WORD.findall(text)
    single_characters = sum(len(word) == 1 for word in words)
    word_length = 2 if 2 * single_characters > len(words) else 1
    if len(words) < MIN_WORDS * word_length:
        return False

    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words])
    chars = np.array([len(word) for word in words])
    starts = np.concatenate([[0], np.cumsum(chars)])  # of each word, in characters; and the end of the last

    grams = ids  # the numbers of the n-grams; at first n = 1
    for n in range(2, 10 * word_length + 1):
        if len(grams) < 2:
            return False
        pairs = grams[:-1] * len(numbers) + ids[n - 1 :]
        _, first, grams, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        if len(first) == len(grams):
            return False  # none is repeated, so no longer one is

        gram_words = n // word_length
        if n % word_length or gram_words < 2:
            continue
        if gram_words in TOP_NGRAM:
            gram_chars = starts[n:] - starts[:-n]
            repeated_chars = top_ngram_chars(counts, gram_chars[first])
            limit = TOP_NGRAM[gram_words]
        else:
            repeated_chars = chars[in_repeated_ngrams(len(grams), first, n)].sum()
            limit = REPEATED_NGRAMS[gram_words]
        if repeated_chars > scale * limit * starts[-1]:
            return True
    return False


def top_ngram_chars(counts: np.ndarray, chars: np.ndarray) -> int:
    """Characters in all occurrences of the most frequent n-gram, the longest of them if several are. By n-gram."""
    most_frequent = counts == counts.max()
    return (counts * chars)[most_frequent].max()


def in_repeated_ngrams(n_grams: int, first: np.ndarray, n: int) -> np.ndarray:
    """Which words are in an n-gram that stood there before: bool, by word. first: the first place of each n-gram."""
    repeated = np.ones(n_grams, dtype=np.int64)
    repeated[first] = 0
    return np.convolve(repeated, np.ones(n, dtype=np.int64)) > 0  # the n-gram at place i covers words i to i + n - 1


@drops("wrong_script", "script", "min_script")
def is_in_another_script(page: Page, script: str, min_script: float) -> bool:
    """A smaller share of the words than `min_script` begins in `script`."""
    return script_share(page.text, script) < min_script


def script_share(text: str, scripts: str) -> float:
    """Share of the words that begin in scripts, as Unicode's names begin: 'LATIN', 'CJK,HIRAGANA,KATAKANA'."""
    wanted = script_names(scripts)
    letters = Counter(word[0] for word in WORD.findall(text) if word[0].isalpha())
    inside = sum(count for letter, count in letters.items() if script_of(letter) in wanted)
    return inside / max(1, letters.total())


def script_names(scripts: str) -> list[str]:
    """The names in 'CJK, Hiragana': ["CJK", "HIRAGANA"]."""
    return [name.strip().upper() for name in scripts.split(",")]


def check_scripts(scripts: str) -> None:
    """Raise ValueError for a name that no letter's name in Unicode begins with: every text would be dropped."""
    letters = (chr(code) for code in range(0x110000) if chr(code).isalpha())
    known = {unicodedata.name(letter, "").partition(" ")[0] for letter in letters}
    for name in script_names(scripts):
        if name in known and name:
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1)
        meant = OTHER_SCRIPT_NAMES.get(name) or (near[0] if near else None)
        examples = "LATIN, CYRILLIC, ARABIC, DEVANAGARI, CJK, HANGUL"
        advice = f"did you mean {meant}?" if meant else f"some that are: {examples} (None: every script)"
        raise ValueError(f"script: '{name}' is no first word of letters' names in Unicode; {advice}")


@functools.lru_cache(maxsize=1 << 16)
def script_of(letter: str) -> str:
    """The first word of a letter's name in Unicode."""
    return unicodedata.name(letter, "").partition(" ")[0]


@drops("not_english", "english")
def is_not_english(page: Page, english: bool) -> bool:
    """Fewer than two stop words, or words of less than 3 or more than 10 letters on average (Gopher)."""
    words = page.text.split()
    mean_length = sum(len(word) for word in words) / len(words)
    stop_words = STOP_WORDS & {word.lower() for word in words}
    return not 3 <= mean_length <= 10 or len(stop_words) < 2
