"""What a template shows that no table and no page of the dump explains, learnt from where its calls stand.

    Er las {{Werk|Faust}} nie.              spaces around it: a part of the sentence; its first argument is shown
    Der Fluss ist {{Maß|12|km}} lang.       a number and a unit: both are shown
    Sie heißt {{Sp|fr|la Loire}}.           the code of a language, and words: the second is shown
    Das gilt als sicher.{{Beleg|2011}}      attached to punctuation, a space behind: a note; nothing is shown

Decided by all calls of a name in the sentences of a dump together, not by one. Names like Sp-fr, Sp-de, which differ in
the code of a language, count together as Sp-*, too.
"""

import bisect
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from corpus.clean import UNSPACED
from corpus.templates.rules import canonical
from corpus.wikitext import ELEMENT

LEAST_USES = 3  # in sentences; of fewer nothing is learnt
MOST_NAMES = 2_000  # that one part of a dump reports
NOTE_SHARE = 0.5  # of the calls, from which a template is a note
USUAL_SHARE = 0.7  # of the calls, from which something counts as their habit

NEAR = 200  # characters before and behind a call that are looked at
PARTS = ("|", "!", "{|")  # what lines of tables and of long calls begin with
CALL = re.compile(r"\{\{([^{}|#:\n]++)((?>(?:\|[^{}]*+)?))\}\}")  # without calls in its arguments
LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]]*)\]\]")
NAMED = re.compile(r"\s*[\w -]+=")
LETTERS = re.compile(r"[^\W_]")
NUMBER = re.compile(r"[\d.,\s−-]*\d[\d.,]*")
UNIT = re.compile(r"\W?[^\W\d_][^\s|]{0,7}")
CODE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z]+)*")
PUNCTUATION = frozenset('.,;:!?)]»”"。、，；：！？」』）')
SPACE_OR_PUNCTUATION = PUNCTUATION | frozenset([" ", "\t", ""])
UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")


@dataclass
class Standing:
    """How the calls of one template stand in sentences."""

    uses: int = 0
    notes: int = 0  # attached to what is before them, with a space behind
    firsts: int = 0  # with a first argument that has letters or digits
    seconds: int = 0  # with a second one
    codes: int = 0  # whose first argument looks like the code of a language
    measures: int = 0  # whose first argument is a number, and the second short: a unit


def look_at_article(wikitext: str, known: Callable[[str], bool], found: dict[str, Standing]) -> None:
    """Add the calls in the sentences of an article to `found`, which is by canonical name.

    known: whether a table has a rule for a canonical name; such calls are passed over.
    """
    notes: list[int] | None = None  # where notes and comments begin and end, in turn; few articles need it
    for match in CALL.finditer(wikitext):
        name = canonical(match[1])
        if known(name):
            continue

        line_start = wikitext.rfind("\n", 0, match.start()) + 1
        line_end = wikitext.find("\n", match.end())
        if line_end < 0:
            line_end = len(wikitext)
        start = max(line_start, match.start() - NEAR)
        before = without_notes(wikitext[start : match.start()])
        after = without_notes(wikitext[match.end() : min(line_end, match.end() + NEAR)])
        is_part = wikitext[line_start:start].lstrip().startswith(PARTS)
        if is_part or not is_sentence(before, after):
            continue

        if notes is None:
            notes = [place for note in ELEMENT.finditer(wikitext) for place in note.span()]
        is_in_note = bisect.bisect(notes, match.start()) % 2 == 1
        if not is_in_note:
            look_at(match[2], before, after, found.setdefault(name, Standing()))


def without_notes(text: str) -> str:
    """A part of a line without notes, and with the words that links show."""
    return LINK.sub(r"\1", ELEMENT.sub("", text))


def most_used(found: Mapping[str, Standing]) -> dict[str, list[int]]:
    """{name: the fields of Standing} of at most MOST_NAMES templates, those of most uses."""
    by_uses = sorted(found, key=lambda name: (-found[name].uses, name))
    return {name: list(dataclasses.astuple(found[name])) for name in by_uses[:MOST_NAMES]}


def is_sentence(before: str, after: str) -> bool:
    """Whether a call stands beside words, `before` or `after` it on its line, and in no table or longer call."""
    is_part = before.lstrip().startswith(PARTS)
    others = CALL.sub("", before + after)
    return not is_part and LETTERS.search(others) is not None


def look_at(arguments: str, before: str, after: str, standing: Standing) -> None:
    """Count a call with these arguments, "|a|b", between `before` and `after`."""
    linked = LINK.sub(r"\1", arguments)
    unnamed = [argument.strip() for argument in linked.split("|")[1:] if not NAMED.match(argument)]
    first = unnamed[0] if unnamed else ""
    second = unnamed[1] if len(unnamed) > 1 else ""

    standing.uses += 1
    standing.notes += is_note(before, arguments, after)
    standing.firsts += LETTERS.search(first) is not None
    standing.seconds += LETTERS.search(second) is not None
    standing.codes += CODE.fullmatch(first) is not None
    standing.measures += NUMBER.fullmatch(first) is not None and UNIT.fullmatch(second) is not None


def is_note(before: str, arguments: str, after: str) -> bool:
    """Whether a call between these two stands as notes do: attached to what is before it, and a space behind.

    Behind a word that holds for calls with arguments only: Tom{{'s}} is no note. In scripts without spaces everything
    is attached to words.
    """
    before = before.rstrip("'")  # of bold and italics
    after = after.lstrip("'")
    if not before or after[:1] not in SPACE_OR_PUNCTUATION:
        return False
    last = before[-1]
    if last in PUNCTUATION:
        return True
    return bool(arguments) and last.isalpha() and UNSPACED_CHARACTER.match(last) is None


def rules_by_standing(parts: Iterable[Mapping[str, list[int]]]) -> dict[str, str]:
    """{canonical name: rule} from what `most_used` gave for the parts of a dump; names that tell nothing have none."""
    total: dict[str, list[int]] = {}
    for part in parts:
        if len(total) > 10 * MOST_NAMES:  # a name that is new after so many is too rare to matter
            part = {name: counts for name, counts in part.items() if name in total}
        for name, counts in part.items():
            before = total.get(name, [0] * len(counts))
            total[name] = [a + b for a, b in zip(before, counts, strict=True)]
    for name in sorted(total):
        prefix, dash, code = name.rpartition("-")
        if prefix and CODE.fullmatch(code):
            before = total.get(f"{prefix}-*", [0] * len(total[name]))
            total[f"{prefix}-*"] = [a + b for a, b in zip(before, total[name], strict=True)]

    rules = {name: rule_of(Standing(*total[name])) for name in sorted(total)}
    return {name: rule for name, rule in rules.items() if rule is not None}


def rule_of(standing: Standing) -> str | None:
    """What a template shows whose calls stand like this; None when they do not tell."""
    if standing.uses < LEAST_USES:
        return None
    if standing.notes >= NOTE_SHARE * standing.uses:
        return ""
    usual = USUAL_SHARE * standing.uses
    if standing.firsts < usual:
        return None  # words, or a picture? A table must say
    if standing.codes >= usual and standing.seconds >= usual:
        return "{{{2}}}"
    if standing.measures >= usual:
        return "{{{1}}} {{{2}}}"
    return "{{{1}}}"
