"""What a template shows that no table and no page of the dump explains, learnt from where its calls stand.

    Er las {{Werk|Faust}} nie.              spaces around it: a part of the sentence; its first argument is shown
    Der Fluss ist {{Maß|12|km}} lang.       a number and a unit: both are shown
    Sie heißt {{Sp|fr|la Loire}}.           the code of a language, and words: the second is shown
    Das gilt als sicher.{{Beleg|2011}}      attached to punctuation, a space behind: a note; nothing is shown

Decided by all calls of a name in the sentences of a dump together, not by one. Names like Sp-fr, Sp-de, which differ in
the code of a language, count together as Sp-*, too.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from corpus.clean import UNSPACED
from corpus.templates import canonical

LEAST_USES = 3  # in sentences; of fewer nothing is learnt
MOST_NAMES = 2_000  # that one part of a dump reports
FIRST_PARTS = 16  # of a dump, which are all looked at; then every fourth is
NOTE_SHARE = 0.5  # of the calls, from which a template is a note
USUAL_SHARE = 0.7  # of the calls, from which something counts as their habit

SKIPPED = re.compile(r"(?is)<!--.*?-->|<(ref|math|nowiki|gallery)\b[^<>]*(?:/>|>.*?</\1\s*>)")
CALL = re.compile(r"\{\{([^{}|#:\n]+)((?:\|[^{}]*)?)\}\}")  # without calls in its arguments
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


def is_looked_at(part_number: int) -> bool:
    """Whether the calls in this part of a dump count: those of a long dump need not all be counted."""
    return part_number < FIRST_PARTS or part_number % 4 == 0


def look_at_article(wikitext: str, found: dict[str, Standing]) -> None:
    """Add the calls in the sentences of an article to `found`, which is by canonical name."""
    if "{{" not in wikitext:
        return
    for line in SKIPPED.sub("", wikitext).split("\n"):
        if "{{" in line:
            line = LINK.sub(r"\1", line)
            if is_sentence(line):
                look_at(line, found)


def most_used(found: Mapping[str, Standing]) -> dict[str, list[int]]:
    """{name: the fields of Standing} of at most MOST_NAMES templates, those of most uses."""
    by_uses = sorted(found, key=lambda name: (-found[name].uses, name))
    return {name: list(dataclasses.astuple(found[name])) for name in by_uses[:MOST_NAMES]}


def is_sentence(line: str) -> bool:
    """Whether a line has words beside its calls, and is no part of a table or of a call of several lines."""
    is_part = line.lstrip().startswith(("|", "!", "{|"))
    return not is_part and LETTERS.search(CALL.sub("", line)) is not None


def look_at(line: str, found: dict[str, Standing]) -> None:
    """Count the calls in a line."""
    for match in CALL.finditer(line):
        name, rest = match.groups()
        arguments = [argument.strip() for argument in rest.split("|")[1:] if not NAMED.match(argument)]
        first = arguments[0] if arguments else ""
        second = arguments[1] if len(arguments) > 1 else ""

        standing = found.setdefault(canonical(name), Standing())
        standing.uses += 1
        standing.notes += is_note(line[: match.start()], rest, line[match.end() :])
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
