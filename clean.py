"""From raw text to clean text: one Unicode form, no control characters, tidy whitespace; filters that name themselves.

Nothing here assumes spaces between words.
"""

import re
import unicodedata

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


def reason_to_drop(text: str, min_chars: int) -> str | None:
    """The name of the first filter that drops this (normalised) text, or None."""
    if not text.strip():
        return "empty"
    if len(text) < min_chars:
        return "too_short"
    return None


FILTERS = ("empty", "too_short")
