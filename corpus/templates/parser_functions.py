"""MediaWiki's parser functions and variables, by name: {{#if: a | b | c}}, {{lc: A}}, {{PAGENAME}}.

Sources: mediawiki.org's Help:Magic words and Help:Extension:ParserFunctions. A function that returns None cannot say
what a reader sees. Names are English; those that a wiki adds in its own language are nothing's.
"""

import datetime
import html
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Protocol

from corpus.templates import dates, locales
from corpus.templates.expressions import ExpressionError, expression


class Page(Protocol):
    """What is known of the page and its wiki: `corpus.templates.expand.Expansion`."""

    language: str
    title: str
    twins: Mapping[str, Callable[[dict[str, str], str], str]]
    now: datetime.date | None


class Arguments(Protocol):
    """The arguments of a function, from 0, expanded when they are asked for: `corpus.templates.expand.Arguments`."""

    def __len__(self) -> int: ...
    @property
    def expansion(self) -> Page: ...
    def text(self, number: int) -> str: ...
    def texts(self) -> list[str]: ...
    def name(self, number: int) -> str | None: ...
    def value(self, number: int) -> str: ...
    def of_template(self) -> dict[str, str]: ...
    def named(self, start: int) -> dict[str, str]: ...


Function = Callable[[Arguments], str | None]
Variable = Callable[[Page], str | None]

BLANK = " \t\n\r\v"  # what is cut off around arguments; the wide space of Chinese and a no-break space stay
LONGEST_STRING = 1000  # characters that the string functions take
LONGEST_PADDED = 500
NUMERIC = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{2,31});")
ERROR = re.compile(r'<(?:strong|span|p|div)\s[^<>]*?\bclass="(?:[^"<>]*\s)?error(?:\s[^"<>]*)?"')
MARK = re.compile(  # stands for a formula or code, or is one
    r"(\0\d+\0|<nowiki\s*/>|<nowiki\s*>[^<]*</nowiki\s*>|<math\b[^<>]*>[^<]*</math\s*>)"
)


# --- conditions ---


def choose_if(arguments: Arguments) -> str:
    """{{#if: text | where it is not empty | where it is empty}}."""
    return arguments.text(1 if arguments.text(0) else 2)


def choose_ifeq(arguments: Arguments) -> str:
    """{{#ifeq: left | right | where they are equal | where they differ}}; 01 and 1.0 are equal numbers."""
    left = decoded(arguments.text(0))
    right = decoded(arguments.text(1))
    return arguments.text(2 if are_equal(left, right) else 3)


def choose_iferror(arguments: Arguments) -> str:
    """{{#iferror: text | where it holds an error | where it holds none: without this, the text}}."""
    tested = arguments.text(0)
    if ERROR.search(tested):
        return arguments.text(1)
    return arguments.text(2) if len(arguments) > 2 else tested


def choose_ifexpr(arguments: Arguments) -> str:
    """{{#ifexpr: expression | where it is not zero | where it is zero or empty}}."""
    try:
        value = expression(arguments.text(0))
    except ExpressionError as problem:
        return error_text(str(problem))
    is_zero = NUMERIC.fullmatch(value) is not None and float(value) == 0
    return arguments.text(2 if is_zero or not value else 1)


def choose_ifexist(arguments: Arguments) -> str:
    """{{#ifexist: page | where it exists | where not}}: which pages exist is not known here: none does."""
    return arguments.text(2)


def choose_switch(arguments: Arguments) -> str:
    """{{#switch: text | a = A | b | c = B and C | #default = else}}; a last one without "=" is what is else."""
    wanted = decoded(arguments.text(0))
    is_found = False  # by a case without a value: the next value is its
    is_default = False  # the same for #default
    default: int | None = None
    last = ""

    for number in range(1, len(arguments)):
        name = arguments.name(number)
        if name is None:
            last = arguments.value(number)
            case = decoded(last)
            if are_equal(case, wanted):
                is_found = True
            elif case == "#default":
                is_default = True
            continue

        if is_found:
            return arguments.value(number)
        case = decoded(name)
        if are_equal(case, wanted):
            return arguments.value(number)
        if is_default or case == "#default":
            default = number
            is_default = False

    if len(arguments) > 1 and arguments.name(len(arguments) - 1) is None:
        return last
    return "" if default is None else arguments.value(default)


def calculate(arguments: Arguments) -> str:
    """{{#expr: 1 + 1}}, see `corpus.templates.expressions`."""
    try:
        return expression(arguments.text(0))
    except ExpressionError as problem:
        return error_text(str(problem))


def decoded(text: str) -> str:
    """`text` with the characters that its entities name, without outer spaces."""
    return ENTITY.sub(lambda match: html.unescape(match[0]), text).strip(BLANK) if "&" in text else text


def are_equal(left: str, right: str) -> bool:
    """Whether two texts are the same, or the same number."""
    if left == right:
        return True
    if not left or not right or not NUMERIC.fullmatch(left) or not NUMERIC.fullmatch(right):
        return False
    return float(left) == float(right)


def error_text(message: str) -> str:
    """What MediaWiki shows of an error; #iferror knows it."""
    return f'<strong class="error">{html.escape(message, quote=False)}</strong>'


# --- case, padding, addresses ---


def lower_case(arguments: Arguments) -> str:
    """{{lc: Text}}."""
    return outside_marks(arguments.text(0), str.lower)


def upper_case(arguments: Arguments) -> str:
    """{{uc: Text}}."""
    return outside_marks(arguments.text(0), str.upper)


def lower_first(arguments: Arguments) -> str:
    """{{lcfirst: Text}}."""
    text = arguments.text(0)
    if text.startswith("I") and arguments.expansion.language in ("az", "tr"):
        return "\u0131" + text[1:]
    return text[:1].lower() + text[1:]


def upper_first(arguments: Arguments) -> str:
    """{{ucfirst: Text}}."""
    text = arguments.text(0)
    if text.startswith("i") and arguments.expansion.language in ("az", "tr"):
        return "\u0130" + text[1:]
    return text[:1].title() + text[1:]  # upper() knows capitals of Georgian that begin no word


def outside_marks(text: str, change: Callable[[str], str]) -> str:
    """`text` changed, but not the marks that stand for formulas and code."""
    if "\0" not in text and "<" not in text:
        return change(text)
    pieces = MARK.split(text)
    return "".join(piece if number % 2 else change(piece) for number, piece in enumerate(pieces))


def without_marks(text: str) -> str:
    """`text` without the marks that stand for formulas and code."""
    return MARK.sub("", text) if "\0" in text or "<" in text else text


def pad_left(arguments: Arguments) -> str:
    """{{padleft: 7 | 3 | 0}} is 007."""
    return padding(arguments) + arguments.text(0)


def pad_right(arguments: Arguments) -> str:
    """{{padright: 7 | 3 | 0}} is 700."""
    return arguments.text(0) + padding(arguments)


def padding(arguments: Arguments) -> str:
    """What is missing to the wanted length."""
    text, wanted = arguments.text(0), integer(arguments.text(1))
    filling = without_marks(arguments.text(2)) if len(arguments) > 2 else "0"
    missing = min(wanted, LONGEST_PADDED) - len(text)
    if not filling or missing <= 0:
        return ""
    return (filling * missing)[:missing]


def url_encode(arguments: Arguments) -> str:
    """{{urlencode: a b}} is a+b; with |PATH a%20b, with |WIKI a_b."""
    text, kind = without_marks(arguments.text(0)), arguments.text(1).upper()
    if kind == "WIKI":
        return wiki_encoded(text)
    return urllib.parse.quote(text, safe="-_.") if kind == "PATH" else urllib.parse.quote_plus(text, safe="-_.")


def wiki_encoded(text: str) -> str:
    """A title as in the address of its page."""
    return urllib.parse.quote(text.replace(" ", "_"), safe="-_.;@$!*(),/~:")


def anchor_encode(arguments: Arguments) -> str:
    """{{anchorencode: a b}} is a_b."""
    return re.sub(r"[ _]+", "_", without_marks(arguments.text(0))).strip("_")


def full_url(arguments: Arguments) -> str:
    """{{fullurl: page | query}}: the address of a page of the Wikipedia in this language."""
    return f"//{arguments.expansion.language}.wikipedia.org" + local_url(arguments)


def local_url(arguments: Arguments) -> str:
    """{{localurl: page | query}}."""
    title, query = wiki_encoded(arguments.text(0).removeprefix(":").lstrip()), arguments.text(1)
    return f"/w/index.php?title={title}&{query}" if query else f"/wiki/{title}"


def url_decode(arguments: Arguments) -> str:
    """{{#urldecode: a%20b}} is "a b"."""
    return urllib.parse.unquote_plus(arguments.text(0))


# --- strings ---


def integer(text: str) -> int:
    """The number that a text begins with, else 0."""
    match = re.match(r"\s*[+-]?\d{1,18}", text)
    return int(match[0]) if match else 0


def is_too_long(*texts: str) -> bool:
    """Whether a string function refuses its arguments."""
    return any(len(text) >= LONGEST_STRING for text in texts)


TOO_LONG = error_text(f"Error: String exceeds {LONGEST_STRING:,} character limit.")


def length(arguments: Arguments) -> str:
    """{{#len: text}}."""
    return str(len(without_marks(arguments.text(0))))


def position(arguments: Arguments) -> str:
    """{{#pos: text | part | start}}: where a part stands first, from 0; nothing where it does not."""
    text, part, start = arguments.text(0), arguments.text(1) or " ", integer(arguments.text(2))
    if is_too_long(text, part):
        return TOO_LONG
    found = text.find(part, max(start, -len(text)))
    return "" if found < 0 else str(found)


def last_position(arguments: Arguments) -> str:
    """{{#rpos: text | part}}: where a part stands last, from 0; -1 where it does not."""
    text, part = arguments.text(0), arguments.text(1) or " "
    return TOO_LONG if is_too_long(text, part) else str(text.rfind(part))


def substring(arguments: Arguments) -> str:
    """{{#sub: text | start | length}}; what is negative counts from the end, a length of 0 reaches to it."""
    text, start, wanted = arguments.text(0), integer(arguments.text(1)), integer(arguments.text(2))
    if is_too_long(text):
        return TOO_LONG
    if start < 0:
        start = max(0, len(text) + start)
    if wanted == 0:
        return text[start:]
    end = start + wanted if wanted > 0 else len(text) + wanted
    return text[start : max(start, end)]


def count(arguments: Arguments) -> str:
    """{{#count: text | part}}."""
    text, part = arguments.text(0), arguments.text(1) or " "
    return TOO_LONG if is_too_long(text, part) else str(text.count(part))


def replace(arguments: Arguments) -> str:
    """{{#replace: text | part | by | how often}}."""
    text, part, by = arguments.text(0), arguments.text(1) or " ", arguments.text(2)
    most = integer(arguments.text(3)) if len(arguments) > 3 else -1
    if is_too_long(text, part, by):
        return TOO_LONG
    result = text.replace(part, by, most if most >= 0 else -1)
    return TOO_LONG if is_too_long(result) else result


def explode(arguments: Arguments) -> str:
    """{{#explode: text | mark | number | limit}}: one of the pieces between the marks, from 0; -1 is the last."""
    text, mark, number = arguments.text(0), arguments.text(1) or " ", integer(arguments.text(2))
    limit = integer(arguments.text(3))
    if is_too_long(text, mark):
        return TOO_LONG
    pieces = text.split(mark, limit - 1) if limit > 0 else text.split(mark)
    return pieces[number] if -len(pieces) <= number < len(pieces) else ""


def title_parts(arguments: Arguments) -> str:
    """{{#titleparts: a/b/c | number of parts | first part}}."""
    title, parts, first = arguments.text(0), integer(arguments.text(1)), integer(arguments.text(2))
    if not title or re.search(r"[\[\]{}<>|#\n\0]", title):
        return title
    title = re.sub(r"[ _]+", " ", title).strip()
    pieces = (title[:1].upper() + title[1:]).split("/", 24)
    chosen = pieces[first - 1 if first > 0 else first :]
    return "/".join(chosen[:parts] if parts else chosen)


def absolute_path(arguments: Arguments) -> str:
    """{{#rel2abs: ../b | a/c}} is a/b."""
    path, base = arguments.text(0).rstrip(" /"), arguments.text(1) or arguments.expansion.title
    if path in ("", "."):
        return base
    is_relative = path.startswith(("/", "./", "../")) or path == ".."
    steps = f"{base}/{path}" if is_relative else path
    found: list[str] = []
    for step in steps.split("/"):
        if step == "..":
            if not found:
                return error_text(
                    f'Error: Invalid depth in path: "{steps}" (tried to access a node above the root node).'
                )
            found.pop()
        elif step not in ("", "."):
            found.append(step)
    return "/".join(found)


# --- numbers, dates and languages ---


def format_number(arguments: Arguments) -> str:
    """{{formatnum: 1234.5}} is 1,234.5 in English; with |R the reverse, with |NOSEP or |LOSSLESS as it is."""
    text, kind = arguments.text(0), arguments.text(1)
    language = arguments.expansion.language
    if kind in ("NOSEP", "LOSSLESS"):
        return outside_marks(text, lambda piece: locales.digits(piece, language))
    if kind == "R":
        return outside_marks(text, lambda piece: locales.plain_number(piece, language))
    if re.fullmatch(r"-?[\d.]+[eE][+-]?\d{1,2}", text) and text.count(".") < 2:
        text = f"{float(text):.15f}".rstrip("0").rstrip(".")
    return outside_marks(text, lambda piece: locales.formatted(piece, language))


def plural(arguments: Arguments) -> str:
    """{{plural: 2 | page | pages}} is pages; a form "0 = none" is for that number alone."""
    language = arguments.expansion.language
    written = locales.plain_number(arguments.text(0), language)
    number = float(written) if NUMERIC.fullmatch(written) else 0.0
    forms = []
    for form in arguments.texts()[1:]:
        only_for, is_special, text = form.partition("=")
        if is_special and only_for.strip().isdecimal():
            if float(only_for) == number:
                return text.strip()
            continue
        forms.append(form)
    if not forms:
        return ""
    return locales.plural_form(int(number) if number.is_integer() else number, language, forms)


def language_name(arguments: Arguments) -> str | None:
    """{{#language: de}} is Deutsch, {{#language: de | en}} is German; without a code it is the wiki's language."""
    return locales.language_name(arguments.text(0) or arguments.expansion.language, arguments.text(1))


def time(arguments: Arguments) -> str | None:
    """{{#time: j F Y | 2020-03-01 | language}} is 1 March 2020. Without a date it is the dump's day, if it is known."""
    language = arguments.text(2) or arguments.expansion.language
    try:
        return dates.time_text(arguments.text(0), arguments.text(1), language, arguments.expansion.now)
    except dates.DateError as problem:
        return error_text(str(problem))


DATE_FORMS = {"dmy": "j xg Y", "mdy": "F j, Y", "ymd": "Y F j", "ISO 8601": "Y-m-d"}


def format_date(arguments: Arguments) -> str:
    """{{#formatdate: 2009-03-24 | mdy}} is March 24, 2009; what is no full date stays."""
    text, form = arguments.text(0), DATE_FORMS.get(arguments.text(1))
    if form is None:
        return text
    try:
        return dates.time_text(form, text, arguments.expansion.language, None) or text
    except dates.DateError:
        return text


def gender(arguments: Arguments) -> str:
    """{{gender: user | he | she | they}}: of no user it is known."""
    return arguments.text(3) or arguments.text(1)


def on_dump_day(form: str) -> Variable:
    """A variable that is the day of the dump in a form of #time; nothing can be said where it is not known."""
    return lambda page: dates.time_text(form, "", page.language, page.now)


# --- Python twins ---


def call_python(arguments: Arguments) -> str | None:
    """{{#python: convert | abbr = on}}: a twin, with the arguments of the template that holds this, and these."""
    return call_twin(arguments, arguments.text(0), 1)


def call_module(arguments: Arguments) -> str | None:
    """{{#invoke: module | function | ...}}: the twin "module/function", if there is one; else what Lua says is unknown.

    Modules read the arguments of the template that holds the call, and those of the call.
    """
    return call_twin(arguments, f"{arguments.text(0)}/{arguments.text(1)}".replace("_", " ").lower(), 2)


def call_twin(arguments: Arguments, name: str, start: int) -> str | None:
    """What a twin shows, None where it cannot say; the arguments of the call begin at number `start`."""
    twin = arguments.expansion.twins.get(name)
    if twin is None:
        return None
    given = arguments.of_template() | arguments.named(start)
    try:
        return twin(given, arguments.expansion.language)
    except ValueError:
        return None  # the twin's way to say so


# --- what shows nothing, or is not known here ---


def nothing(arguments: Arguments) -> str:
    """What the page's readers do not see: sort keys, titles, notes."""
    return ""


def not_known(arguments: Arguments) -> None:
    """What only the wiki knows: counts of its pages, its messages."""
    return None


SILENT_TAGS = frozenset(
    "ref references templatestyles templatedata indicator section gallery timeline graph imagemap inputbox mapframe"
    " categorytree score".split()
)


def tag(arguments: Arguments) -> str:
    """{{#tag: math | content | attribute = value}} is <math attribute="value">content</math>; notes show nothing."""
    name = arguments.text(0).lower()
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name in SILENT_TAGS:
        return ""
    attributes = ""
    for number in range(2, len(arguments)):
        attribute = arguments.name(number)
        if attribute is not None:
            value = arguments.value(number).strip("\"'")
            attributes += f' {attribute}="{value}"'
    return f"<{name}{attributes}>{arguments.text(1)}</{name}>"


# --- the page ---


def page_name(page: Page) -> str:
    """{{PAGENAME}} and its kind: articles have no namespace, and no pages below them."""
    return harmless_title(page.title)


def harmless_title(title: str) -> str:
    """A title whose first character begins no list: *-algebra is a title."""
    return f"&#{ord(title[0])};{title[1:]}" if title.startswith(("*", ":", ";", "#")) else title


def talk_page_name(page: Page) -> str:
    """{{TALKPAGENAME}}: with the name of the namespace that every wiki knows."""
    return f"Talk:{page.title}"


def encoded_page_name(page: Page) -> str:
    """{{PAGENAMEE}}: as in the page's address."""
    return wiki_encoded(page.title)


def namespace(page: Page) -> str:
    """{{NAMESPACE}}: articles have none."""
    return ""


def same_title(arguments: Arguments) -> str:
    """{{PAGENAME: title}}."""
    return harmless_title(re.sub(r"[ _]+", " ", arguments.text(0)).strip())


NAMESPACES = {-2: "Media", -1: "Special", 0: "", 1: "Talk", 2: "User", 3: "User talk", 4: "Project", 5: "Project talk"}
NAMESPACES |= {6: "File", 7: "File talk", 8: "MediaWiki", 9: "MediaWiki talk", 10: "Template", 11: "Template talk"}
NAMESPACES |= {12: "Help", 13: "Help talk", 14: "Category", 15: "Category talk", 100: "Portal", 101: "Portal talk"}
NAMESPACES |= {118: "Draft", 119: "Draft talk", 710: "TimedText", 828: "Module", 829: "Module talk"}


def namespace_name(arguments: Arguments) -> str | None:
    """{{ns: 6}} is File: the name that every wiki knows, since its own is not known here."""
    text = arguments.text(0)
    if re.fullmatch(r"-?\d{1,9}", text):
        return NAMESPACES.get(int(text))
    wanted = text.replace("_", " ").lower().replace("image", "file")
    return next((name for name in NAMESPACES.values() if name.lower() == wanted), None)


def namespace_of(arguments: Arguments) -> str:
    """{{NAMESPACE: Talk:Page}} is Talk; a wiki's own names are not known here, and a title may hold a colon."""
    before, colon, _ = arguments.text(0).partition(":")
    wanted = before.replace("_", " ").strip().lower()
    return next((name for name in NAMESPACES.values() if colon and name.lower() == wanted), "")


def talk_page_of(arguments: Arguments) -> str:
    """{{TALKPAGENAME: Page}} is Talk:Page; where the title may begin with a namespace, the page itself."""
    title = arguments.text(0)
    return title if ":" in title else f"Talk:{title}"


def special_page(arguments: Arguments) -> str:
    """{{#special: page}}."""
    return f"Special:{arguments.text(0)}"


def text_as_given(arguments: Arguments) -> str:
    """{{bidi: text}}."""
    return arguments.text(0)


def direction_mark(page: Page) -> str:
    """{{DIRECTIONMARK}}: U+200F where one writes from right to left."""
    return "\u200f" if page.language in ("ar", "arc", "arz", "ckb", "dv", "fa", "he", "ps", "ur", "yi") else "\u200e"


# --- by name ---

FUNCTIONS: dict[str, Function] = {  # in any case
    "#if": choose_if,
    "#ifeq": choose_ifeq,
    "#iferror": choose_iferror,
    "#ifexpr": choose_ifexpr,
    "#ifexist": choose_ifexist,
    "#switch": choose_switch,
    "#expr": calculate,
    "lc": lower_case,
    "uc": upper_case,
    "lcfirst": lower_first,
    "ucfirst": upper_first,
    "padleft": pad_left,
    "padright": pad_right,
    "urlencode": url_encode,
    "anchorencode": anchor_encode,
    "fullurl": full_url,
    "canonicalurl": full_url,
    "localurl": local_url,
    "#urldecode": url_decode,
    "#len": length,
    "#pos": position,
    "#rpos": last_position,
    "#sub": substring,
    "#count": count,
    "#replace": replace,
    "#explode": explode,
    "#titleparts": title_parts,
    "#rel2abs": absolute_path,
    "#tag": tag,
    "formatnum": format_number,
    "plural": plural,
    "#language": language_name,
    "#time": time,
    "#timel": time,
    "#formatdate": format_date,
    "#dateformat": format_date,
    "bidi": text_as_given,
    "gender": gender,
    "ns": namespace_name,
    "nse": namespace_name,
    "#special": special_page,
    "int": not_known,
    "grammar": not_known,
    "filepath": not_known,
    "#coordinates": nothing,
    "#related": nothing,
    "#assessment": nothing,
    "#seo": nothing,
    "#python": call_python,
    "#invoke": call_module,
}

TITLE_FUNCTIONS: dict[str, Function] = {  # in capitals only
    "PAGENAME": same_title,
    "FULLPAGENAME": same_title,
    "BASEPAGENAME": same_title,
    "ROOTPAGENAME": same_title,
    "SUBPAGENAME": same_title,
    "DEFAULTSORT": nothing,
    "DEFAULTSORTKEY": nothing,
    "DEFAULTCATEGORYSORT": nothing,
    "DISPLAYTITLE": nothing,
    "PROTECTIONLEVEL": nothing,
    "PROTECTIONEXPIRY": nothing,
    "NOEXTERNALLANGLINKS": nothing,
    "PAGESINCATEGORY": not_known,
    "PAGESIZE": not_known,
    "PAGEID": not_known,
    "NUMBEROFARTICLES": not_known,
    "NUMBERINGROUP": not_known,
    "NAMESPACE": namespace_of,
    "TALKPAGENAME": talk_page_of,
    "REVISIONUSER": not_known,
    "REVISIONTIMESTAMP": not_known,
}

VARIABLES: dict[str, Variable] = {
    "!": lambda page: "|",
    "=": lambda page: "=",
    "PAGENAME": page_name,
    "FULLPAGENAME": page_name,
    "SUBPAGENAME": page_name,
    "BASEPAGENAME": page_name,
    "ROOTPAGENAME": page_name,
    "SUBJECTPAGENAME": page_name,
    "ARTICLEPAGENAME": page_name,
    "TALKPAGENAME": talk_page_name,
    "PAGENAMEE": encoded_page_name,
    "FULLPAGENAMEE": encoded_page_name,
    "BASEPAGENAMEE": encoded_page_name,
    "SUBPAGENAMEE": encoded_page_name,
    "ROOTPAGENAMEE": encoded_page_name,
    "NAMESPACE": namespace,
    "NAMESPACEE": namespace,
    "SUBJECTSPACE": namespace,
    "ARTICLESPACE": namespace,
    "TALKSPACE": lambda page: "Talk",
    "NAMESPACENUMBER": lambda page: "0",
    "REVISIONID": lambda page: "-",  # what Wikipedia's readers get: not empty, as it is in a preview
    "NOEXTERNALLANGLINKS": namespace,
    "noexternallanglinks": namespace,
    "SERVER": lambda page: f"//{page.language}.wikipedia.org",
    "SERVERNAME": lambda page: f"{page.language}.wikipedia.org",
    "CONTENTLANGUAGE": lambda page: page.language,
    "CONTENTLANG": lambda page: page.language,
    "PAGELANGUAGE": lambda page: page.language,
    "DIRECTIONMARK": direction_mark,
    "DIRMARK": direction_mark,
}
DAY_FORMS = {"YEAR": "Y", "MONTH": "m", "MONTH1": "n", "MONTH2": "m", "MONTHNAME": "F", "MONTHNAMEGEN": "xg"}
DAY_FORMS |= {"MONTHABBREV": "M", "DAY": "j", "DAY2": "d", "DOW": "w", "DAYNAME": "l", "WEEK": "W"}
for day_name, day_form in DAY_FORMS.items():  # CURRENTYEAR, LOCALYEAR ...
    VARIABLES["CURRENT" + day_name] = VARIABLES["LOCAL" + day_name] = on_dump_day(day_form)
for unknown_name in "SITENAME CURRENTTIME CURRENTHOUR CURRENTTIMESTAMP REVISIONYEAR PAGEID CURRENTVERSION".split():
    VARIABLES[unknown_name] = lambda page: None
