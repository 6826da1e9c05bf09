"""Clean text: against a slow character by character reference, and idempotent."""

import dataclasses
import unicodedata
from collections import Counter

import pytest
from conftest import examples
from hypothesis import example, given
from hypothesis import strategies as st

from corpus.clean import (
    CONTROLS,
    FILTERS,
    LINE_ENDS,
    REPEATED_NGRAMS,
    TOP_NGRAM,
    has_controls,
    normalise,
    reason_to_drop,
    repeats_ngrams,
    script_share,
)
from prepare_wiki import PrepareConfig


def reference(text: str) -> str:
    """The rules of normalise one after the other, without regular expressions."""
    characters = []
    for i, character in enumerate(text):
        if 0xD800 <= ord(character) <= 0xDFFF:
            characters.append("?")
        elif character == "\r" and text[i + 1 : i + 2] == "\n":
            continue
        elif character in "\r\x0b\x0c\x85\u2028\u2029":  # all line ends of str.splitlines
            characters.append("\n")
        elif character in "\t\n" or (unicodedata.category(character) != "Cc" and character != "\ufeff"):
            characters.append(character)
    lines: list[str] = []
    for line in unicodedata.normalize("NFC", "".join(characters)).split("\n"):
        line = line.rstrip()
        if line or (lines and lines[-1]):
            lines.append(line)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)


NASTY = st.lists(
    st.sampled_from(
        ["a", "b", " ", "  ", "\t", "\n", "\n\n", "\r\n", "\r", "\x00", "\x0b", "\x0c", "\x1b", "\x7f", "\x85", "\x9f"]
        + [
            "\u2028",
            "\u2029",
            "\ufeff",
            "\ud800",
            "\udfff",
            "e",
            "\u0301",
            "\u0323",
            "\u212b",
            "\u1100",
            "\u1161",
            "机",
        ]
        + ["\u00a0", "\u2003", "\u3000", "\u200b", "\U0001f600", "\u0958", "\ufb01"]
    ),
    max_size=12,
).map("".join)
TEXTS = NASTY | st.text(max_size=40) | st.text(st.characters(codec=None), max_size=40)


@given(TEXTS)
@example("e\x00\u0301")  # a control character between a letter and its accent
@examples(400)
def test_normalise_equals_the_reference(text):
    assert normalise(text) == reference(text)


@given(TEXTS)
@example("e\x00\u0301")
@examples(400)
def test_clean_text_stays_as_it_is(text):
    clean = normalise(text)
    assert normalise(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    assert clean.encode("utf-8").decode("utf-8") == clean


@pytest.mark.parametrize(
    "text, expected",
    [
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffTitle\ufeff", "Title"),
        ("a\r\nb\rc\x85d\u2028e\u2029f", "a\nb\nc\nd\ne\nf"),
        ("a\x00b\x1b[0mc\x7fd\x9f", "ab[0mcd"),
        ("a\ud800b\udfffc", "a?b?c"),
        ("a\n\n\n\n\nb\n \n\t\nc", "a\n\nb\n\nc"),
        ("a  \nb\t\nc\u3000\n", "a\nb\nc"),
        ("\n\n    first line indented\n\tand a tab\n", "    first line indented\n\tand a tab"),
        ("def f():\n    if  x:\n        return\t1", "def f():\n    if  x:\n        return\t1"),
        ("a b\u00a0c\u200bd", "a b\u00a0c\u200bd"),
        ("  \n\t\n ", ""),
        ("", ""),
    ],
)
def test_each_rule(text, expected):
    assert normalise(text) == expected


def test_controls_are_found_without_a_look_at_each_character():
    """Every character of the first plane, against the patterns that take controls out."""
    for number in (*range(0xD800), *range(0xE000, 0x10000)):
        text = f"a{chr(number)}b"
        is_there = bool(LINE_ENDS.search(text) or CONTROLS.search(text))
        assert has_controls(text, text.encode()) == is_there, hex(number)


@given(
    st.text(
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF) | st.sampled_from("，。！？《》「」、　：；（）０Ａ"),
        min_size=1,
    )
)
@examples(100)
def test_chinese_is_untouched(text):
    assert normalise(f"“{text}”") == f"“{text}”"


def test_chinese_paragraphs_keep_their_indentation():
    text = "　　床前明月光，疑是地上霜。\n　　举头望明月，低头思故乡。"
    assert normalise(text) == text


@pytest.mark.timeout(20)
def test_a_long_run_of_spaces_is_not_searched_again_from_every_place():
    """Linear work takes milliseconds here, quadratic work an hour."""
    text = "a" + " " * 1_000_000 + "b"
    unchanged = normalise(text + "  ") == text
    assert unchanged


OFF = PrepareConfig()
ENGLISH = "The cat sat on the mat and looked at a bird that had come to the garden with a worm.\n"
PROSE = (
    "王迎军，女，河北唐县人，中共党员，博士生导师、中国工程院院士。曾任华南理工大学校长。一九九八年十二月任材料学院副院长，二零零三年"
    "九月任该校党委书记。其任内筹办了六十年校庆、修筑了博学楼等新校舍，亦推动广州国际校区的建设，并主持多项国家重点科研计划与出版专著。"
)
CHINESE = "猫坐在垫子上，看着一只带着虫子来到花园里的小鸟。它没有动，只是安静地等待天黑。\n"


def drop(text: str, title: str = "", **limits) -> str | None:
    """The filter that drops a text with these settings and no others."""
    return reason_to_drop(title, text, dataclasses.replace(OFF, **limits))


@pytest.mark.parametrize(
    "text, min_chars, reason",
    [
        ("", 1, "empty"),
        ("", 0, "empty"),
        (" \n\t\u3000", 1, "empty"),
        (" \n\t\u3000", 100, "empty"),
        ("abc", 4, "too_short"),
        ("abc", 3, None),
        ("机器学习", 4, None),
        ("机器学习", 5, "too_short"),
        (" a ", 3, None),
    ],
)
def test_short_texts_are_dropped(text, min_chars, reason):
    assert drop(text, min_chars=min_chars) == reason


DROPPED = {
    "disambiguation": (
        "Mercury may refer to:\n\n- Mercury (planet)\n- Mercury (element)",
        {"drop_disambiguation": True},
    ),
    "mostly_lists": ("Works\n" + "- a work of hers\n" * 19, {"max_list_chars": 0.9}),
    "repeated_lines": ("one\ntwo\n" + "the same line\n" * 3, {"max_repeated_lines": 0.3}),
    "repeated_ngrams": (ENGLISH * 4, {"max_repeated_ngrams": 1.0}),
    "wrong_script": (CHINESE + "cat", {"script": "LATIN"}),
    "not_english": ("Die Katze sitzt auf der Matte und sieht den Vogel an.", {"english": True}),
}


@pytest.mark.parametrize("reason", DROPPED)
def test_a_filter_drops_by_its_name_and_only_when_it_is_on(reason):
    text, limits = DROPPED[reason]
    assert drop(text, **limits) == reason and reason in FILTERS
    assert drop(text) is None


def test_ordinary_text_passes_all_filters():
    limits = {"drop_disambiguation": True, "max_list_chars": 0.9, "max_repeated_lines": 0.3, "max_repeated_ngrams": 1.0}
    assert drop(ENGLISH, **limits, script="LATIN", english=True) is None
    assert drop(CHINESE, **limits, script="CJK") is None
    assert drop(ENGLISH + "- another list\n- with items\n", **limits, script="LATIN,CJK", english=True) is None


@pytest.mark.parametrize(
    "title, text, dropped",
    [
        ("Mercury (disambiguation)", "Mercury is a planet and a god.", True),
        ("水星 (消歧义)", "水星是一颗行星。", True),
        ("Mercury", "Mercury\n\nMercury can also refer to:\n- the god", True),
        ("苹果", "苹果可以指：\n- 水果", True),
        ("Mercury", "Mercury is a planet. The name may refer to a god.\n\nMore text.", False),
        ("Law", "Law\n\nA text.\n\nThe word may refer to:\n- this", False),
    ],
)
def test_disambiguation_pages_are_known_by_title_or_first_line(title, text, dropped):
    assert (drop(text, title, drop_disambiguation=True) == "disambiguation") == dropped


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_repeated_lines_are_counted_as_gopher_does(share):
    """Lines or paragraphs that stood there before: their share of the units, or 2/3 of it of the characters."""
    for repeated in range(1, 12):
        units = [f"line number {i}" for i in range(20 - repeated)] + ["line number 0"] * repeated
        for separator in ("\n", "\n\n"):
            by_units = repeated / 20 > share
            by_chars = repeated * len("line number 0") / sum(map(len, units)) > share * 2 / 3
            text = separator.join(units)
            assert (drop(text, max_repeated_lines=share) == "repeated_lines") == (by_units or by_chars)


def test_repeated_paragraphs_count_beside_repeated_lines():
    """One of three paragraphs, but one of 22 lines; and the other way round."""
    many = "\n".join(f"line number {i}" for i in range(20))
    assert drop(f"the same\n\nthe same\n\n{many}", max_repeated_lines=0.3) == "repeated_lines"
    assert drop(f"the same\n\nanother\n\n{many}", max_repeated_lines=0.3) is None
    assert drop("\n".join(["one line"] * 9 + ["another"]), max_repeated_lines=0.3) == "repeated_lines"


def gopher(words: list[str], n: int, most_frequent: bool) -> float:
    """Share of the characters in the most frequent n-gram, or in n-grams that stood there before."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    whole = sum(map(len, words))
    if most_frequent:
        most = max(Counter(grams).values())
        counts = [sum(map(len, gram)) * most for gram, count in Counter(grams).items() if count == most]
        return max(counts) / whole if most > 1 else 0
    covered, seen = set(), set()
    for i, gram in enumerate(grams):
        if gram in seen:
            covered.update(range(i, i + n))
        seen.add(gram)
    return sum(len(words[i]) for i in covered) / whole


DISTINCT = [f"word{i}" for i in range(60)]


@given(
    st.lists(st.sampled_from(["aa", "bb", "ccc", "dddd", "机", "器"]), min_size=45, max_size=90),
    st.sampled_from([0.5, 1, 2, 3]),
)
@example([*DISTINCT, *DISTINCT[:5]], 1)  # one repeated 5-gram: 5 of 65 words stood there before
@example([*DISTINCT, *DISTINCT[:12]], 1)  # and 12 of 72: more than its share
@examples(100)
def test_repeated_ngrams_are_those_of_a_count_by_hand(words, scale):
    """Of texts of 50 words or more; where most are single characters a word is two of them, and 100 are needed."""
    limits, length = TOP_NGRAM | REPEATED_NGRAMS, 1 + (2 * sum(len(word) == 1 for word in words) > len(words))
    grams = {n: gopher(words, n * length, n < 5) for n in limits if len(words) >= n * length}
    expected = len(words) >= 50 * length and any(share > scale * limits[n] for n, share in grams.items())
    assert repeats_ngrams(" ".join(words), scale) == expected


def test_no_filter_takes_spaces_between_words_for_granted():
    """The same text with and without spaces is judged alike where characters count as words."""
    names = "".join(f"第{k}届大阪羽毛球国际挑战赛" for k in range(9))
    for text, repeated in ((CHINESE * 2, False), (CHINESE * 4, True), (names, True), (PROSE, False)):
        assert repeats_ngrams(text, 1.0) == repeats_ngrams(" ".join(text), 1.0) == repeated


def test_scripts_are_those_of_unicode():
    assert script_share("abc (x) 机器", "latin") == 1 / 3 and script_share("abc 12 机器", "CJK,LATIN") == 1
    assert script_share("ひらがなカタカナ漢字", "CJK,HIRAGANA,KATAKANA") == 1
    assert script_share("Привет, мир! 123", "CYRILLIC") == 1 and script_share("123 !?", "LATIN") == 0
