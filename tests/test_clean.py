"""Clean text: against a slow character by character reference, and idempotent."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clean import FILTERS, normalise, reason_to_drop


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
@settings(max_examples=400, deadline=None)
def test_normalise_equals_the_reference(text):
    assert normalise(text) == reference(text)


@given(TEXTS)
@example("e\x00\u0301")
@settings(max_examples=400, deadline=None)
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


@given(
    st.text(
        st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF) | st.sampled_from("，。！？《》「」、　：；（）０Ａ"),
        min_size=1,
    )
)
@settings(max_examples=100, deadline=None)
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
def test_a_filter_drops_by_its_name(text, min_chars, reason):
    assert reason_to_drop(text, min_chars) == reason
    assert reason is None or reason in FILTERS


def test_every_filter_is_listed_once():
    reasons = {reason_to_drop(text, 3) for text in ("", "ab", "abc")}
    assert reasons - {None} == set(FILTERS) and len(set(FILTERS)) == len(FILTERS)
