r"""Calls of templates that wait for their line, and the holes in sentences that the unknown ones leave.

What {{name|...}} shows may depend on where it stands: alone on its line it is an infobox or a message, beside words it
is a part of their sentence. So a call waits, as \0number\0, until the others on its line are text. For

    {{Infobox}}                                            a table knows it: nothing
    The {{unknown|1}} is {{cvt|2|km}} long.{{note}}        cvt is in a table; unknown and note wait

the second line becomes "The \0 0 \0 is 2 km (1.2 mi) long.\0 1 \0". There `unknown` is beside words: the dump's own
definition is tried; without one it is a hole. `note` stands where notes stand, so nothing is missing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

MARK = re.compile("\0(\\d+)\0")
MOST_LEVELS = 40  # of calls in arguments of calls
COLON_LINK = re.compile(r"\[\[[^\[\]|:]+:[^\[\]]*\]\]")  # a file, a category, a language
MARKUP = re.compile(r"<[^<>]*>|&\w+;")
WORDS = re.compile(r"[^\W_]")
AFTER_PUNCTUATION = re.compile(r"[.,;:!?)\]»”\"'。、，；：！？」』）](?:\0\d+\0)*$")
BEFORE_SPACE = re.compile(r"(?:\0\d+\0)*(?:\s|$)")

CHARS_BEFORE, CHARS_AFTER, CHARS_OF_CALL = 60, 40, 80  # of the example of a hole
NEAR = 200  # characters before and behind a call that are looked at
LONGEST_NAME = 80

# Where a sentence ends: its mark, closing quotes and brackets; in spaced scripts a space, and what is no small letter.
# Three letters or digits before the mark, or a bracket, a quote, a call: "J. S. Bach" and "Dr. No" end no sentence.
WIDE_END = r"[。！？]+[」』）”]*|।\s*"
SPACED_END = r"(?:(?<=\w\w\w)|(?<=[)\]\"”’»%\0]))[.!?…]+[\"'”’»)\]]*\s+(?![a-z])"
SENTENCE_END = re.compile(f"{WIDE_END}|{SPACED_END}")


@dataclass
class WaitingCall:
    """A call that waits: {{inside}}."""

    inside: str

    @property
    def name(self) -> str:
        """The template's name as it is written."""
        name = " ".join(without_marks(self.inside.partition("|")[0]).split())
        return name[:LONGEST_NAME]


@dataclass(frozen=True)
class Hole:
    """A place in a sentence where a template showed something that is not in the text."""

    name: str
    example: str  # the line around it, with the call as it is written


Kept = list[str | WaitingCall]  # what \0number\0 stands for: text that no step may touch, or a call


def settle(text: str, kept: Kept, show: Callable[[str, bool], str | None]) -> str:
    """`text` with what its waiting calls show; those that `show` does not know stay, if they are beside words.

    show(inside, alone): the text of {{inside}}, in which calls of its arguments may wait; None: not known.
    """
    if not any(isinstance(entry, WaitingCall) for entry in kept):
        return text
    unknown: set[int] = set()  # numbers of calls that stay
    for _ in range(MOST_LEVELS):
        lines = text.split("\n")
        places = [i for i, line in enumerate(lines) if "\0" in line and waiting(line, kept, unknown)]
        if not places:
            return text
        for i in places:
            lines[i] = settle_line(lines[i], kept, show, unknown)
        text = "\n".join(lines)
    return text


def waiting(line: str, kept: Kept, unknown: set[int]) -> list[int]:
    """The numbers of the calls that wait on a line."""
    numbers = [int(match[1]) for match in MARK.finditer(line)]
    return [number for number in numbers if isinstance(kept[number], WaitingCall) and number not in unknown]


def settle_line(line: str, kept: Kept, show: Callable[[str, bool], str | None], unknown: set[int]) -> str:
    """A line with what its waiting calls show. Those that are not known are added to `unknown`, or go if alone."""
    alone = not has_words(line, kept)

    def settled(match: re.Match) -> str:
        number = int(match[1])
        call = kept[number]
        if isinstance(call, str) or number in unknown:
            return match[0]
        shown = show(call.inside, alone)
        if shown is None and not alone:
            unknown.add(number)
            return match[0]
        return shown or ""

    return MARK.sub(settled, line)


def has_words(line: str, kept: Kept) -> bool:
    """Whether a line holds words or formulas beside its calls, its markup and links to files and categories."""
    contents = MARK.sub(lambda match: kept[int(match[1])] if isinstance(kept[int(match[1])], str) else "", line)
    without_markup = MARKUP.sub("", COLON_LINK.sub("", contents))
    return WORDS.search(without_markup) is not None


# --- holes ---


def find_holes(text: str, kept: Kept, keep_sentences: bool, gone: str) -> tuple[str, list[Hole]]:
    """`text` with the character `gone` for each unknown call, or without its sentence; and the holes they leave."""
    holes: list[Hole] = []
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if "\0" not in line:
            continue
        of_line = holes_of_line(line, kept)
        holes += of_line
        if of_line and not keep_sentences:
            line = without_holed_sentences(line, kept)
        lines[i] = MARK.sub(lambda match: match[0] if isinstance(kept[int(match[1])], str) else gone, line)
    return "\n".join(lines), holes


def is_hole(match: re.Match, line: str, kept: Kept) -> bool:
    """Whether a mark in a line is a call that is missed: not one behind punctuation, where notes stand."""
    if isinstance(kept[int(match[1])], str):
        return False
    before = line[max(0, match.start() - NEAR) : match.start()]
    after = line[match.end() : match.end() + NEAR]
    is_note = AFTER_PUNCTUATION.search(before) and BEFORE_SPACE.match(after)
    return not is_note


def holes_of_line(line: str, kept: Kept) -> list[Hole]:
    """The holes of a line, with the words around each: "The road is {{foo|180|km}} long"."""
    if not has_words(line, kept):
        return []
    holes = []
    for match in MARK.finditer(line):
        if is_hole(match, line, kept):
            call = kept[int(match[1])]
            before = without_marks(line[max(0, match.start() - NEAR) : match.start()])[-CHARS_BEFORE:]
            after = without_marks(line[match.end() : match.end() + NEAR])[:CHARS_AFTER]
            inside = without_marks(call.inside)
            if len(inside) > CHARS_OF_CALL:
                inside = inside[:CHARS_OF_CALL] + "..."
            holes.append(Hole(call.name, before + "{{" + inside + "}}" + after))
    return holes


def without_marks(text: str) -> str:
    """`text` without marks, nor parts of them."""
    return MARK.sub("", text).replace("\0", "")


def without_holed_sentences(line: str, kept: Kept) -> str:
    """A line without its sentences that have a hole."""
    pieces = []
    begin = 0
    ends = [match.end() for match in SENTENCE_END.finditer(line)]
    for end in [*ends, len(line)]:
        sentence_holes = [m for m in MARK.finditer(line, begin, end) if is_hole(m, line, kept)]
        if not sentence_holes:
            pieces.append(line[begin:end])
        begin = end
    return "".join(pieces)
