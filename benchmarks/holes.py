"""Holes that vanished templates leave in the sentences of a dump: prepare_wiki.py's text compared with the wikitext.

    python benchmarks/holes.py --dumps='dumps/*.xml.bz2'
    python benchmarks/holes.py --dumps='dumps/*.xml.bz2' --code=../before      the same for another checkout
    python benchmarks/holes.py --dumps='dumps/*.xml.bz2' --show=30 --kind=numbers

For each dump, how often in 100 articles

    numbers  a template or parser function inside a sentence holds digits, and none of them is in the text at its place
    words    the same for words in letters
    items    the same where the template is a whole item of a list, or holds items or a quotation
    glued    two words stand together, or lost the dash between them, because a template or tag vanished
    marks    left-over markup, lone apostrophes, " ,", "( ;", empty brackets and quotation marks, bare bullets
    subject  an article begins with a particle, a verb, a mark or a small letter, or without a word of its name

The text is what the command itself writes (`prepare_wiki.py --until=documents`), so any checkout can be judged. The
wikitext is read with mwparserfromhell. Nothing is taken from how corpus/ reads templates; what shows nothing in a
sentence (notes, flags, calls for sources) is a list of its own, benchmarks/holes_silent.txt.

How a place is found: only letters and digits are compared, in one case and without spaces, as every script has them.

    wikitext    The road is {{cvt|180|km}} long and    letters before: theroadis, letters after: longand
    our text    The road is long and                   theroadis()longand: nothing in between, 180 is lost
"""

import fnmatch
import html
import re
import subprocess
import sys
import tempfile
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator
from benchmarks.wikitext_reference import EXEMPT, LANGUAGE, MARKS, hidden_of, pages

KINDS = ("numbers", "words", "items", "glued", "marks", "subject")

# --- what must be known of templates to judge ---

SILENT_FILE = Path(__file__).with_name("holes_silent.txt")
# The arguments of these are computed with: any digit at their place will do.
COMPUTED = re.compile(
    r"#expr|#time|current\w+|local\w+|age|death[ -]date|inflation|format ?price|currency|.*\d ?years? ago|.* to .*"
)
# Their words in letters are units and options; they are numbers or nothing.
NUMERIC = re.compile(r"convert|cvt|val|frac|sfrac|formatnum|nts|pop density|inflation|e|10\^")
# Their arguments say how many spaces.
SPACES = re.compile(r"(?:(?:thin |hair |em |en )?spaces?|nbsp|nbs|nb|thinsp|hsp|emsp|ensp|pad|gap|indent|in)\d*")
FUNCTIONS = "formatnum|uc|lc|ucfirst|lcfirst|plural|padleft|padright|urlencode|int|grammar|gender"
FUNCTION = re.compile(rf"(#\w+|{FUNCTIONS}):(.*)", re.S)
SILENT_FUNCTION = re.compile(r"#tag|#invoke|defaultsort|displaytitle|#if.*|#switch|#seo|#coordinates")
DASHES = re.compile(r"(?:spaced |en|em|n|m| )*(?:ndash|mdash|dash|dashb|snd)b?|·|•|\*|dot|bull|bullet|middot|slash")
TEXT_NAMES = {
    "text",
    "quote",
    "content",
    "alt",
    "label",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
}  # named arguments that a reader sees

DROPPED_TAGS = set(
    "ref references table gallery timeline imagemap score templatedata mapframe maplink graph hiero "
    "indicator section style templatestyles inputbox categorytree includeonly".split()
)
KEPT_TAGS = set("math chem ce code pre source syntaxhighlight".split())  # as they are: not read here
BREAKING_TAGS = set("br hr li dd dt p div blockquote center td th tr h2 h3 h4".split())  # these part words
UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

CALL = 0xF0000  # a call stands in a text as one character: this and its number (a plane that no text uses)
ANY = "\U000efffd"  # what may be dropped or any text: a heading, a formula, code
BREAK = "\U000efffe"  # a tag that parts words
NOTE = "\U000effff"  # a reference
CALLS = re.compile("[\U000f0000-\U000fffff]")
LONG = 24  # letters on each side by which a place is found
GAP = 120  # letters that a call near the place may have become
SHORT = 10  # if it is not found by these, by so many
LIST_MARKS = " \t*#:;-–—.,()"

SIGN = re.compile("[\u2100-\u2bff\U0001d100-\U0001f9ff]")
WORD = re.compile(r"[^\W\d_]+")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

# --- marks and subjects ---

STRAY = {
    "apostrophes": re.compile(r"''+|(?<!\S)'(?!\S)"),
    "space before a mark": re.compile(r"(?<=[\w†]) +[,;:.!?](?=[\s†]|$)(?!\.)", re.M),
    "mark after a bracket": re.compile(r"[(（] *[,;:、，；：]|[,;、，；] *[)）]"),
    "two marks": re.compile(r",\s*,|, *\.(?!\.)|; *[.;,]|、、|，，|、。|，。"),
    "empty brackets": re.compile(r"(?<!\w)\( *\)|（ *）|\[ *\]"),
    "empty quotation marks": re.compile(r"(?<!\S)\"\"(?!\S)|“ *”|「 *」|『 *』|« *»|„ *“|《 *》"),
    "bare bullet": re.compile(r"^ *[-•*] *[.,;:]* *$", re.M),
}
PARTICLE = re.compile(r"[はがをにのともでへやか][^ぁ-ん]|は、|とは|[是為为在][^\w]")
VERB = re.compile(r"(?:is|was|are|were|has|had|refers|means|or|and|of|in)\b|(?:là|ir|beja|est|ist|е|са|бе|був|—|–)\s")


@dataclass(frozen=True)
class Call:
    """A template or parser function as it stands in an article."""

    name: str  # lower-case
    source: str  # its wikitext
    numbers: tuple[str, ...]  # digits of the arguments that a reader sees
    words: tuple[str, ...]  # the same for letters
    spans_lines: bool


@dataclass(frozen=True)
class Hole:
    """Something that a reader of the page sees otherwise."""

    kind: str
    name: str  # of the template, or what kind of mark
    title: str
    source: str  # the place in the wikitext
    ours: str  # the place in our text


@dataclass
class Counts:
    """Holes of the articles of a dump."""

    articles: int = 0
    calls: int = 0  # in sentences, with something to see
    holes: list[Hole] = field(default_factory=list)

    def of(self, kind: str) -> list[Hole]:
        """The holes of one kind."""
        return [hole for hole in self.holes if hole.kind == kind]


# --- the wikitext: letters, and calls as one character each ---


def silent_names(path: Path = SILENT_FILE) -> re.Pattern:
    """What matches the names of templates that show nothing in a sentence."""
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [name.strip() for line in lines if not line.startswith("#") for name in line.split(",")]
    return re.compile("|".join(fnmatch.translate(name) for name in names if name))


class Article:
    """The prose of an article's wikitext, with a character for each template call, and the calls."""

    def __init__(self, wikitext: str, hidden: frozenset[str], title: str = "") -> None:
        import mwparserfromhell

        self.title = title
        self.hidden = hidden
        self.calls: list[Call] = []
        tree = mwparserfromhell.parse(wikitext)
        self.text = "".join(self.texts(tree.nodes))

    def texts(self, tree: Iterable) -> Iterator[str]:
        """The text of each node of mwparserfromhell; nothing of notes, tables, formulas, code and pictures."""
        from mwparserfromhell import nodes

        for node in tree:
            if isinstance(node, nodes.Template):
                self.calls.append(self.call(node))
                yield chr(CALL + len(self.calls) - 1)
            elif isinstance(node, nodes.Wikilink):
                shown = self.link(node)
                if shown is not None:
                    yield from self.texts(shown.nodes)
            elif isinstance(node, nodes.Tag):
                tag = str(node.tag).strip().lower()
                yield BREAK if tag in BREAKING_TAGS and node.wiki_markup is None else ""
                yield NOTE if tag == "ref" else ""
                yield ANY if tag in KEPT_TAGS else ""
                yield str(node.wiki_markup) if node.wiki_markup in ("*", "#", ":", ";") else ""
                if tag not in DROPPED_TAGS | KEPT_TAGS and node.contents is not None:
                    yield from self.texts(node.contents.nodes)
            elif isinstance(node, nodes.ExternalLink):
                if node.title is not None:
                    yield from self.texts(node.title.nodes)
                elif not node.brackets:
                    yield str(node.url)
            elif isinstance(node, nodes.Heading):
                yield "\n" + ANY + "\n"
            elif isinstance(node, nodes.HTMLEntity):
                yield node.normalize()
            elif isinstance(node, nodes.Text):
                yield str(node)

    def link(self, node):
        """What a link shows; None for files, categories and other languages."""
        namespace, colon, title = str(node.title).partition(":")
        namespace = namespace.strip().lower()
        is_language = LANGUAGE.fullmatch(namespace) and title[:1] != " "
        if colon and (namespace in self.hidden or is_language):
            return None
        return node.title if node.text is None else node.text

    def call(self, node) -> Call:
        """A template's name, and the digits and words of the arguments that a reader sees."""
        name = " ".join(str(node.name).replace("_", " ").split()).lower()
        shown = []
        function = FUNCTION.match(str(node.name).strip())
        if function:
            name = function[1].lower()
            shown.append(function[2])
        for parameter in node.params:
            key = str(parameter.name).strip().lower()
            if not parameter.showkey or key in TEXT_NAMES:
                shown.append(self.argument(parameter.value))

        if SPACES.fullmatch(name):
            shown = []  # how many spaces
        elif name in ("pagename", "fullpagename"):
            shown = [self.title]
        elif re.fullmatch("current(?:year|month|day|week)", name):
            shown = ["0"]  # any digit will do
        text = unicodedata.normalize("NFKC", " ".join(shown))
        numbers = tuple(re.sub(r"\D", "", number) for number in NUMBER.findall(text))
        words = tuple(word.casefold() for word in WORD.findall(text))
        return Call(name, str(node), numbers, words, "\n" in str(node).strip())

    def argument(self, value) -> str:
        """The text of an argument, with the arguments of the templates in it."""
        before = len(self.calls)
        text = "".join(self.texts(value.nodes))
        inner = self.calls[before:]
        del self.calls[before:]
        visible = [call for call in inner if not SILENT.match(call.name)]
        numbers = " ".join(" ".join(call.numbers + call.words) for call in visible)
        return re.sub(r"https?://\S+", "", CALLS.sub(" ", text)) + " " + numbers

    def words_of(self, mark: str) -> str:
        """What the call that stands as `mark` may show."""
        call = self.calls[ord(mark) - CALL]
        return "" if is_silent(call) else " ".join(call.words)

    def with_calls(self, text: str) -> str:
        """A piece of self.text with the wikitext of its calls, on one line."""
        text = CALLS.sub(lambda match: self.calls[ord(match[0]) - CALL].source, text)
        for mark, plain in ((BREAK, "<br>"), (ANY, "…"), (NOTE, "<ref>"), ("\n", "⏎")):
            text = text.replace(mark, plain)
        return text

    def wikitext_around(self, start: int, end: int, width: int = 90) -> str:
        """self.text[start:end] and what stands around it, for reading."""
        before = self.with_calls(self.text[max(0, start - width) : start])[-width:]
        after = self.with_calls(self.text[end : end + width])[:width]
        return f"{before}‹{self.with_calls(self.text[start:end])[:400]}›{after}"


SILENT = silent_names()


def letters(text: str) -> tuple[str, list[int]]:
    """The letters and digits of a text, in one case, with the place of each; calls and ANY stay.

    "A {{cvt}} B½"  ->  "a", a call, "b12" and their places in the text
    """
    found = []
    places = []
    for place, character in enumerate(text):
        for plain in unicodedata.normalize("NFKC", character).casefold():
            if plain.isalnum() or plain == ANY or ord(plain) >= CALL:
                found.append(plain)
                places.append(place)
    return "".join(found), places


# --- our text: where is the place of a call? ---


class Text:
    """A text in which places are looked for by the letters around them."""

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self.letters, self.places = letters(raw)
        self.after_last = 0  # where the last place was; the next one is most likely behind it

    def find(self, before: str, after: str, widest: int) -> tuple[int, int] | None:
        """(start, end) of what stands between the letters `before` and `after`, in self.letters; None: not found.

        Both may hold calls, of which any text up to GAP letters may have become. At most `widest` letters are between.
        """
        for length in (LONG, SHORT):
            left = literals(before, length, -1)
            right = literals(after, length, 1)
            for start in (self.after_last, 0):
                place = self.find_between(left, right, widest, start)
                if place:
                    self.after_last = place[0]
                    return place
        return None

    def find_between(self, left: list[str], right: list[str], widest: int, start: int) -> tuple[int, int] | None:
        """The first place from `start` on with these literals on its left and right, the nearest ones first."""
        for first in self.ends(left, start):
            last = first
            while True:
                last = self.letters.find(right[0], last, first + widest + len(right[0])) if right else len(self.letters)
                if last < 0 or last > first + widest:
                    break
                if self.follow(right[1:], last + len(right[0]) if right else last):
                    return first, last
                last += 1
        return None

    def farthest_end(self, place: tuple[int, int], after: str, widest: int) -> int:
        """The last end, at most `widest` letters behind the start of a place, where the letters `after` follow.

        "* {{lang-mt|Alla}} Alla" needs it: the nearest end leaves nothing for the call.
        """
        start, end = place
        right = literals(after, SHORT, 1)
        if not right:
            return end
        farthest = self.letters.rfind(right[0], end, start + widest + len(right[0]))
        return max(end, farthest)

    def ends(self, left: list[str], start: int) -> Iterator[int]:
        """Where the literals on the left of a place end, from `start` on."""
        if not left:
            yield 0  # the place is where the text begins
            return
        found = self.letters.find(left[0], start)
        while found >= 0:
            if self.precede(left[1:], found):
                yield found + len(left[0])
            found = self.letters.find(left[0], found + 1)

    def precede(self, left: list[str], end: int) -> bool:
        """Whether each literal is found before the one that follows it, with no more than GAP letters between."""
        for literal in left:
            end = self.letters.rfind(literal, max(0, end - GAP - len(literal)), end)
            if end < 0:
                return False
        return True

    def follow(self, right: list[str], start: int) -> bool:
        """Whether each literal is found behind the one before it, with no more than GAP letters between."""
        for literal in right:
            found = self.letters.find(literal, start, start + GAP + len(literal))
            if found < 0:
                return False
            start = found + len(literal)
        return True

    def raw_between(self, start: int, end: int) -> str:
        """What stands in the text between two letters: from the letter before `start` to the one at `end`."""
        first = self.places[start - 1] if start else 0
        last = self.places[end] + 1 if end < len(self.places) else len(self.raw)
        return self.raw[first:last]

    def around(self, start: int, end: int, width: int = 90) -> str:
        """The text around a place, on one line."""
        first = self.places[start - 1] + 1 if start else 0
        last = self.places[end] if end < len(self.places) else len(self.raw)
        before = self.raw[max(0, first - width) : first]
        after = self.raw[last : last + width]
        return f"{before}‹{self.raw[first:last]}›{after}".replace("\n", "⏎")


def literals(side: str, length: int, direction: int) -> list[str]:
    """The letters next to a place, the nearest first, cut where a call or ANY stands: `length` of them, if there are.

    direction: -1 for the letters before a place, at the end of `side`; 1 for those after it.
    """
    pieces = [""]
    known = 0
    for character in side[::direction]:
        if known == length or len(pieces) > 3:
            break
        if character == ANY or ord(character) >= CALL:
            pieces.append("")
        else:
            known += 1
            pieces[-1] += character
    return [piece[::direction] for piece in pieces if piece]


# --- templates ---


def kinds_of_calls(article: Article) -> Iterator[tuple[int, str]]:
    """(place in article.text, kind) of each call: in a "sentence", as an "item" of a list, or alone, a "block"."""
    line_start = 0
    for line in article.text.split("\n"):
        outside = [character for character in CALLS.sub("", line) if character.isalnum()]
        is_item = line.lstrip().startswith(("*", "#", ":", ";"))
        is_row = line.lstrip()[:1] in ("|", "!", "{")  # of a table that begins in a template
        for match in CALLS.finditer(line):
            call = article.calls[ord(match[0]) - CALL]
            is_first = not line[: match.start()].strip(LIST_MARKS + "'")
            is_infobox = is_first and call.spans_lines and not is_item
            if is_row or is_infobox:
                kind = "block"
            elif len(outside) >= 4:
                kind = "sentence"
            else:
                kind = "item" if is_item else "block"
            yield line_start + match.start(), kind
        line_start += len(line) + 1


def runs_of_calls(article: Article) -> list[list[tuple[int, str]]]:
    """The calls, as `kinds_of_calls` gives them, in runs: calls with at most two letters between them.

    Which of them shows what cannot be told from the letters around the run.
    """
    runs: list[list[tuple[int, str]]] = []
    for place, kind in kinds_of_calls(article):
        if runs:
            between = article.text[runs[-1][-1][0] + 1 : place]
            is_near = sum(character.isalnum() for character in between) <= 2
        if runs and is_near:
            runs[-1].append((place, kind))
        else:
            runs.append([(place, kind)])
    return runs


def template_holes(title: str, article: Article, ours: Text, counts: Counts) -> Iterator[Hole]:
    """What calls have lost of numbers, words and items, and what is glued where they vanished."""
    all_letters, places = letters(article.text)
    for run in runs_of_calls(article):
        start = run[0][0]
        end = run[-1][0] + 1
        calls = [(article.calls[ord(article.text[place]) - CALL], kind) for place, kind in run]
        seen = [(call, kind) for call, kind in calls if not is_silent(call) and (kind != "block" or holds_items(call))]
        judged = [(call, kind) for call, kind in seen if call.numbers or call.words]
        counts.calls += len(judged)
        if not seen:
            continue

        first = bisect_left(places, start)
        last = bisect_left(places, end)
        size = sum(len("".join(call.numbers + call.words)) for call, _ in calls)
        place = ours.find(all_letters[:first], all_letters[last:], min(6000, 120 + 3 * size))
        source = article.wikitext_around(start, end)
        if place is None:
            yield from (Hole("unplaced", call.name, title, source, "") for call, _ in judged)
            continue

        between = ours.letters[slice(*place)]
        farther = ours.letters[place[0] : ours.farthest_end(place, all_letters[last:], 2 * size + 40 * len(calls))]
        for call, kind in judged:
            lost = what_is_lost(call, between)
            is_sign = lost == "words" and SIGN.search(ours.raw_between(*place))  # {{music|flat}} is ♭
            if lost and not is_sign and what_is_lost(call, farther):
                yield Hole(lost if kind == "sentence" else "items", call.name, title, source, ours.around(*place))

        left = article.text[start - 1 : start]
        right = article.text[end : end + 1]
        in_sentence = [call for call, kind in seen if kind == "sentence"]
        if in_sentence and is_glued(in_sentence, left, right, ours.raw_between(*place)):
            yield Hole("glued", in_sentence[0].name, title, source, ours.around(*place))


def is_silent(call: Call) -> bool:
    """Whether a call shows nothing in a sentence."""
    if call.name.startswith("coor"):
        return re.search(r"display\s*=\s*(?:title|t)\s*[|}]", call.source) is not None  # above the page, not here
    return bool(SILENT.match(call.name) or SILENT_FUNCTION.fullmatch(call.name))


def holds_items(call: Call) -> bool:
    """Whether a template that stands alone holds items of a list, or a quotation."""
    has_items = re.search(r"\n\s*[*#]\s*\w", call.source) is not None
    is_quotation = re.search(r"quote|quotation|poem|verse|引用|zitat|citation bloc", call.name) is not None
    return (has_items or is_quotation) and len(call.words) >= 5


def what_is_lost(call: Call, between: str) -> str | None:
    """ "numbers" or "words", when nothing that the call holds is among the letters at its place."""
    if COMPUTED.fullmatch(call.name) or "output" in call.source:
        has_number = any(character.isdigit() for character in between)
    else:
        has_number = any((number.lstrip("0") or "0") in between for number in call.numbers)
    has_word = any(letters(word)[0] in between for word in call.words)
    if call.numbers:
        is_number = NUMERIC.fullmatch(call.name) is not None
        return None if has_number or (has_word and not is_number) else "numbers"
    return None if has_word else "words"


def is_glued(seen: list[Call], left: str, right: str, between: str) -> bool:
    """Whether what parted two words is gone: `between` begins and ends with the letters that were parted."""
    if not (left.isalnum() and right.isalnum()):
        dashes = [call for call in seen if DASHES.fullmatch(call.name)]
        return bool(dashes) and not re.search(r"[^\w\s]", between)
    if UNSPACED.match(left) or UNSPACED.match(right):
        return False
    return len(between) == 2


def tag_holes(title: str, article: Article, ours: Text) -> Iterator[Hole]:
    """Words that stand together because a tag between them, such as <br>, vanished."""
    all_letters, places = letters(article.text)
    for match in re.finditer(rf"(?<=\w){BREAK}+(?=\w)", article.text):
        first = bisect_left(places, match.start())
        place = ours.find(all_letters[:first], all_letters[first:], 0)
        if place and len(ours.raw_between(*place)) == 2:
            yield Hole("glued", "tag", title, article.wikitext_around(*match.span()), ours.around(*place))


# --- marks and subjects ---


def mark_holes(title: str, article: Article, wikitext: str, ours: str) -> Iterator[Hole]:
    """Marks in our text that the author did not write, by kind."""
    ours = without_code(ours, wikitext)
    theirs = CALLS.sub("X", article.text.replace(NOTE, "†").replace(BREAK, "\n").replace(ANY, "\n"))
    theirs = re.sub(r"[^\S\n]", " ", theirs)  # no-break spaces
    for name, pattern in {"markup": MARKS, **STRAY}.items():
        found = list(pattern.finditer(ours))
        written = len(pattern.findall(theirs)) if name != "markup" else 0
        for match in found[: max(0, len(found) - written)]:
            around = ours[max(0, match.start() - 60) : match.end() + 60].replace("\n", "⏎")
            yield Hole("marks", name, title, match[0].replace("\n", "⏎"), around)


def without_code(ours: str, wikitext: str) -> str:
    """Our text with an X for each line of code and each formula, in which any mark may stand."""
    if "<math" in wikitext:
        ours = re.sub(r"\$[^$\n]+\$", "X", ours)
    for match in EXEMPT.finditer(wikitext):
        for line in html.unescape(match[2]).split("\n"):
            code = line.strip()
            is_long = len(code) > 3
            if is_long:
                ours = ours.replace(code, "X")
            elif code and not code.isalnum():
                ours = ours.replace(f" {code} ", " X ")
    return ours


def subject_hole(title: str, article: Article, ours: str) -> Hole | None:
    """The first sentence, if it has no subject or not the name of the page, and the wikitext has."""
    lead = next((line.strip() for line in ours.split("\n") if len(letters(line)[0]) >= 6), "")
    if lead.startswith("- "):
        return None  # a list
    lines = [line for line in article.text.split("\n") if len(letters(CALLS.sub("", line))[0]) >= 6]
    source = lines[0].strip(" '") if lines else ""
    written = letters(source)[0]
    shown = letters(lead)[0]

    is_mark = lead[:1] in ",;.:)、。，）」』-–—(（"
    begins_oddly = is_mark or lead[:1].islower() or PARTICLE.match(lead) or VERB.match(lead)
    as_written = written[:6] == shown[:6] and source[:1] == lead[:1]
    if lead and begins_oddly and not as_written:
        return Hole("subject", "begins oddly", title, article.with_calls(source[:150]), lead[:150])

    name = letters(re.sub(r"\s*[(（].*", "", title))[0]
    beginning = CALLS.sub(lambda match: article.words_of(match[0]), source[:400])
    in_source = name in letters(beginning)[0]
    if name and in_source and name not in shown[:400]:
        return Hole("subject", "without its name", title, article.with_calls(source[:150]), lead[:150])
    return None


# --- a dump ---


def our_texts(path: str, code: Path) -> dict[str, str]:
    """The text of each article of a dump, by its title, as the prepare_wiki.py of a checkout writes it."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(code / "prepare_wiki.py"), f"--source={path}", f"--data_dir={folder}/data"]
        command += ["--until=documents", "--allow_truncated=True", "--min_chars=0"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=code)
        if done.returncode:
            raise ValueError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
        parts = sorted(Path(folder, "data/documents").glob("*.parquet"))
        rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return {row["title"]: row["text"] for row in rows}


def article_holes(title: str, wikitext: str, ours: str, hidden: frozenset[str], counts: Counts) -> Iterator[Hole]:
    """The holes of one article; `counts` is told how many calls were looked at."""
    article = Article(wikitext, hidden, title)
    text = Text(ours)
    yield from template_holes(title, article, text, counts)
    yield from tag_holes(title, article, text)
    yield from mark_holes(title, article, wikitext, ours)
    subject = subject_hole(title, article, ours)
    if subject:
        yield subject


def count(path: str, code: Path, articles: int | None) -> Counts:
    """The holes of a dump, or of so many of its articles, evenly drawn."""
    texts = our_texts(path, code)
    hidden = hidden_of(path)
    every = [(title, wikitext) for title, wikitext in pages(path) if title in texts]
    if articles is not None and articles < len(every):
        every = [every[i * len(every) // articles] for i in range(articles)]

    counts = Counts(len(every))
    for title, wikitext in every:
        counts.holes += article_holes(title, wikitext, texts[title], hidden, counts)
    return counts


@dataclass(frozen=True)
class HolesConfig:
    """Settings of `python benchmarks/holes.py`."""

    dumps: str = ""  # pattern of MediaWiki dumps, '.xml.bz2'
    code: str = str(ROOT)  # the checkout whose prepare_wiki.py is judged
    articles: int | None = None  # of each dump look at so many articles, evenly drawn; None: at all
    show: int = 0  # so many holes of each kind are printed, evenly drawn, beside their wikitext
    kind: Literal["all", "numbers", "words", "items", "glued", "marks", "subject", "unplaced"] = "all"  # to show

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not glob(self.dumps):
            raise ValueError(f"--dumps={self.dumps}: no such file; give a quoted pattern such as 'dumps/*.xml.bz2'")
        if not Path(self.code, "prepare_wiki.py").is_file():
            raise ValueError(f"--code={self.code}: no prepare_wiki.py there; give the folder of a checkout")


def show(counts: Counts, cfg: HolesConfig) -> None:
    """Print holes beside their wikitext, and which templates leave most of them."""
    kinds = KINDS if cfg.kind == "all" else (cfg.kind,)
    for kind in kinds:
        holes = counts.of(kind)
        names = Counter(hole.name for hole in holes).most_common(25)
        print(f"\n  {kind}:", ", ".join(f"{name} {number}" for name, number in names))
        drawn = min(cfg.show, len(holes))
        for i in range(drawn):
            hole = holes[i * len(holes) // drawn]
            print(f"    {hole.title} [{hole.name}]\n      page {hole.source}\n      ours {hole.ours}")


def main(cfg: HolesConfig) -> None:
    """Count the holes of every dump."""
    cfg.check()
    print(f"{'holes in 100 articles':40}", *(f"{kind:>8}" for kind in KINDS), "   not found")
    for path in sorted(glob(cfg.dumps)):
        counts = count(path, Path(cfg.code).resolve(), cfg.articles)
        per_100 = [100 * len(counts.of(kind)) / max(1, counts.articles) for kind in KINDS]
        name = f"{Path(path).name.removesuffix('.xml.bz2')} ({counts.articles})"
        unplaced = f"   {len(counts.of('unplaced'))} of {counts.calls} calls"
        print(f"{name:40}", *(f"{value:8.1f}" for value in per_100), unplaced)
        if cfg.show:
            show(counts, cfg)


if __name__ == "__main__":
    configurator.run(main, HolesConfig, show=False)
