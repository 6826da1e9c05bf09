"""MediaWiki's wikitext to plain text: the prose of a page as its readers see it.

The rules are mediawiki.org's: Help:Formatting, Help:Links, Help:Tables, Help:Images, Writing systems/Syntax. Own code:
the kept libraries read 1 to 8 MB/s where a dump of 90 GB wants 20 (docs/data.md). Nothing assumes spaces between words.
"""

import html
import re
from collections.abc import Callable, Iterable

# In the order of the steps. All work is linear: the body of an element ends at the next opening of the same name and
# attributes end at the next "<", so no search for an end that is missing crosses the page.
NAMES = "nowiki|math|chem|ce|code|pre|source|syntaxhighlight|ref|references|gallery|timeline|imagemap|score|graph|hiero"
NAMES += "|templatedata|templatestyles|mapframe|maplink|inputbox|categorytree|includeonly|indicator|section|style"
COMMENT = r"<!--(?:[^<-]++|-(?!->)|<(?!!--))*+-->"
ELEMENT = re.compile(rf"(?i){COMMENT}|<({NAMES})\b[^<>]*+(?:(?<=/)>|>((?:[^<]++|<(?!/?\1\b))*+)</\1\s*>)")
MATHS_MARKS = re.compile(r"\{(?=[{|])|\}(?=\})|\[(?=\[)|\](?=\])")

# Templates that carry words of their sentence, in their first or last unnamed argument: those that sentences of the
# English dumps of 2014 and 2016 hold most often, and their synonyms.
FIRST = {*"nihongo abbr asof ill quote cquote quotation blockquote".split()}
LAST = {*"lang transl rtl-lang script nowrap nobr small smaller big mvar math var unicode ipa angbr sc mono".split()}
SIGNS = {"'": "'", "'s": "'s", "!": "|", "=": "&#61;", "snd": " – ", "spaced ndash": " – ", "ndash": "–", "mdash": "—"}
TARGET = re.compile(r"\[\[[^\[\]|:]*\|")  # of a link: its bar parts no arguments
NUMBERED = re.compile(r"^\s*(?:\d|text)\s*=")
OPTION = re.compile(r"(?!\s*(?:\d|text)\s*=)\s*[\w -]+=")

TAG = re.compile(  # the HTML that MediaWiki knows, first what begins a line; anything else between < and > is text
    r"(?i)</?(?:(blockquote|br|caption|center|d[dlt]|div|h[1-6]|hr|li|ol|p|pre|source|t[dhr]|table|ul)|abbr|b|bd[io]|big"
    r"|cite|data|del|dfn|em|font|i|ins|kbd|link|mark|meta|noinclude|onlyinclude|poem|q|r[bpt]|r[bt]c|ruby|s|samp|small|span"
    rf"|strike|strong|su[bp]|time|tt|u|var|wbr|{NAMES})\b[^<>]*>"
)
TABLE_MARK = re.compile(r"\n[ \t:*#;]*(\{\||\|\})")
TABLE_ROW = re.compile(r"\n[ \t]*(?:\{\||\|)[^\n]*")  # of a table without its end
FLAGS = re.compile(r"(?s)(?:\s*([A-Za-z+;\s-]*)\|)?(.*)")  # and the text of a -{conversion}-
VARIANT = re.compile(r"(?:^|;|=>)\s*(?:zh|sr|kk|ku|tg|uz|gan|iu|shi|crh)(?:-\w+)*\s*:([^;]*)")

EXTERNAL_LINK = re.compile(r"(?i)\[(?:(?:https?|ftps?|news|irc|mailto):|//)[^\s\[\]]*+[ \t]*([^\[\]\n]*)\]")
INTERLANGUAGE = re.compile(r"(?!doi:|rfc:)(?:[a-z]{2,3}(?:-[a-z]+)*|simple):(?! )")
MEDIA = re.compile(r"(?i)[^:].*\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gvam]|webm|mp3|wav|flac|midi?|pdf|djvu)\s*$")
PIPE_TRICK = re.compile(r"\s*[(（][^()（）]*[)）]\s*$|,.*$")
OPEN_LINK = re.compile(r"\[\[([^\[\]|:\n]*):(?:[^\[\n]|\[(?!\[))*")

MAGIC = re.compile(r"__(\w{2,30}?)__")
APOSTROPHES = re.compile("''+")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{2,31});")
# The joiners U+200C and U+200D are not among what is removed: Persian and Hindi need them.
SPACES = dict.fromkeys("\xa0\u2002\u2003\u2009\u200a\u202f", " ")
NOTHING = dict.fromkeys("\xad\u200b\u200e\u200f\u2060\ufeff", "")

AFTER_BRACKET = re.compile(r"\([\s,;:]++")
AFTER_WIDE_BRACKET = re.compile(r"（[\s,;:，、；：]++")
EMPTY_BRACKETS = re.compile(r"\(\)(?<![A-Za-z0-9_]\(\))")  # f() stays
SEVERAL_SPACES = re.compile("  +")
UNTIDY = {
    " ,": ",",
    ",,": ",",
    " )": ")",
    ";)": ")",
    ",)": ")",
    " . ": ". ",
    " .\n": ".\n",
    "（）": "",
    "，）": "）",
    "；）": "）",
}
LINE_START = re.compile(r"\n[ \t]+")
LIST_ITEM = re.compile(r"\n(-{4,}|[*#:;]+)[ \t]*([^\n]*)")
HEADING = re.compile(r"\n(==+|=(?=[^\n]*=[ \t]*\n))([^\n]*)")  # = a =; what begins with == is one without its end
STRAY = re.compile(r"(?i)\{\{+|\}\}+|\[\[+|\]\]+|\{\||\|thumb|'''+|</?ref\w*(?:[^<>\n]*>)?")
HIDDEN = frozenset({"file", "image", "media", "category"})  # these names count in every wiki

# MediaWiki's own words for #REDIRECT, of the wikis that have one.
REDIRECT_WORDS = """
redirect aanstuur adkas ailgyfeirio al alih alidirekti alidirektu aýdaw baw-ing beralîkirin birzuzendu doorverwijzing
istiqamətləndirmə lencong ohjaus uudelleenohjaus omdirigering omdiriger pāradresācija patrz przekieruj tam přesměruj
presmeruj preusmeritev preusmeri preusmjeri redirección redireccion redirecció redireccio redirecionamento redirection
rindirizz rinvia rinvio suuna tilvísun trimite weiterleitung yoʻnaltirish yönlendirme yönlendir átirányítás đổi
ανακατευθυνση айдау багыттама буссинаби виж перанакіраванне перанакіраваньне перенаправление перенаправлення
перенаправлено перенапр пренасочване пренасочување преусмери преусмјери равонакунӣ ווייטערפירן הפניה تحويل تغییر_مسیر
تغییرمسیر رجوع_مکرر अनुप्रेषित पुनर्निर्देशन পুননির্দেশ পুনর্নির্দেশ යළියොමුව เปลี่ยนทาง ប្តូរទីតាំងទៅ
넘겨주기 リダイレクト 転送 重定向 重新導向 跳轉
""".split()
REDIRECT = re.compile(rf"(?i)\s*[#＃](?:{'|'.join(REDIRECT_WORDS)})\s*:?\s*\[\[")


# --- the whole ---


def hidden_namespaces(names: Iterable[str]) -> frozenset[str]:
    """What `plain_text` needs to know of a wiki: its names of namespaces -2, 6 and 14 (media, files, categories)."""
    local = {name.replace("_", " ").strip().lower() for name in names}
    return HIDDEN | local


def is_redirect(wikitext: str) -> bool:
    """Whether the page only sends its readers to another one: #REDIRECT [[title]], in the words of many languages.

    A list that begins with "#1 [[title]]" and a text that begins with "#hashtag [[title]]" are no redirects.
    """
    return REDIRECT.match(wikitext) is not None


def plain_text(wikitext: str, hidden: frozenset[str] = HIDDEN) -> str:
    """The prose of a page as a reader sees it: no tables, notes, pictures, categories or templates, and no markup.

    hidden: lower-case names of the namespaces whose links show no text, see `hidden_namespaces`. Formulas stay as LaTeX
    between dollars and code as it is. What is never closed loses its mark, not the text after it. Time is linear.
    """
    text = "\n" + wikitext.replace("\0", "") + "\n"
    kept: list[str] = []  # the text of elements that no later step may touch; \0 and its number stand for it

    # elements, templates
    text = ELEMENT.sub(lambda match: element(match, kept), text)
    text = nested(text, "{{", "}}", template)

    # tables
    text = nested(text, "<table", "</table>", nothing)
    text = TAG.sub(lambda match: "\n" if match[1] else "", text)
    text = TABLE_MARK.sub(r"\n\1", text)
    text = nested(text, "\n{|", "\n|}", nothing)
    text = TABLE_ROW.sub("", text)

    # conversion marks, links
    text = nested(text, "-{", "}-", conversion)
    text = EXTERNAL_LINK.sub(r"\1", text)
    text = nested(text, "[[", "]]", lambda inside: link(inside, hidden))
    text = EXTERNAL_LINK.sub(r"\1", text)
    text = OPEN_LINK.sub(lambda match: "" if match[1].strip().lower() in hidden else match[0], text)

    # characters, lists, headings
    text = characters(text)
    text = tidy(text)
    text = LIST_ITEM.sub(list_item, text)
    text = sections(text)
    return re.sub("\0(\\d+)\0", lambda match: kept[int(match[1])], text).strip()


# --- elements: <ref>, <math>, <code> ... ---


def element(match: re.Match, kept: list[str]) -> str:
    """Nothing for comments, notes and pictures; for formulas and code a mark that points into `kept`."""
    name = (match[1] or "").lower()
    content = match[2] or ""
    if name in ("math", "chem", "ce"):
        latex = " ".join(content.split()).rstrip("\\")  # a backslash at the end stood before a space
        kept.append("$" + MATHS_MARKS.sub(r"\g<0> ", latex) + "$")
    elif name in ("nowiki", "code", "pre", "source", "syntaxhighlight"):
        kept.append(entities(re.sub(r"(?i)</?nowiki\s*/?>", "", content)))
    else:
        return ""
    return f"\0{len(kept) - 1}\0"


# --- what nests: templates, tables, conversion marks, links ---


def nested(text: str, opening: str, closing: str, render: Callable[[str], str]) -> str:
    """`text` with render(inside) for each balanced pair of marks, the innermost first; marks without a partner stay.

    With "[[", "]]" and a `render` that puts what is inside between < and >, for the text "a [[b [[c]] d]] e":

        read            pieces                              opened (places of opening marks in pieces)
        a               "a "
        [[b             "a ", "[[", "b "                    1
        [[c]] d         "a ", "[[", "b ", "[[", "c"         1, 3     then ]] closes the one at 3:
                        "a ", "[[", "b ", "<c>", " d"       1        then ]] closes the one at 1:
        ]] e            "a ", "<b <c> d>", " e"
    """
    first, *rest = text.split(opening)
    pieces = [first]
    opened: list[int] = []
    for part in rest:
        inside, *after_closing = part.split(closing)
        if len(opened) < 100:  # deeper than in any article; without a limit the joins are quadratic in the depth
            opened.append(len(pieces))
        pieces += [opening, inside]
        for after in after_closing:
            if opened:
                start = opened.pop()
                rendered = render("".join(pieces[start + 1 :]))
                pieces[start:] = [rendered, after]
            else:
                pieces += [closing, after]
    return "".join(pieces)


def nothing(inside: str) -> str:
    """A table shows no prose."""
    return ""


def template(inside: str) -> str:
    """The words of the sentence in a template: `lang|fr|mot` -> mot, `convert|20|mi|km` -> 20 mi; of most, nothing."""
    name, _, rest = inside.partition("|")
    name = name.strip().lower()
    has_words = name in FIRST or name in LAST or name in ("convert", "chem") or name.startswith("lang-")
    if not has_words:
        return SIGNS.get(name, "")

    arguments = TARGET.sub("[[", rest).split("|")
    words = [NUMBERED.sub("", argument).strip() for argument in arguments if not OPTION.match(argument)]
    if name == "convert":
        is_range = len(words) > 1 and words[1] in "-–to and or by"  # 20|to|30|mi|km
        return " ".join(words[:4] if is_range else words[:2])
    if name == "chem":
        return "".join(words)
    if name in FIRST:
        return "".join(words[:1])
    return "".join(words[-1:])


def conversion(inside: str) -> str:
    """What -{inside}- shows, in the variant that is named first: rules that only set or hide a word show nothing."""
    flags, text = FLAGS.match(inside).groups()
    if flags and flags.strip() in "HT-":
        return ""
    variant = VARIANT.search(text)
    return variant[1].strip() if variant else text


def link(inside: str, hidden: frozenset[str]) -> str:
    """The words that [[inside]] shows: nothing for files, categories and links to other languages."""
    target, bar, label = inside.lstrip().partition("|")
    if ":" in target:
        namespace, _, title = target.partition(":")
        is_hidden = namespace.strip().lower() in hidden
        is_media = bool(namespace) and MEDIA.match(title)
        if is_hidden or is_media or INTERLANGUAGE.match(target):
            return ""

    if not bar:
        return target.removeprefix(":")
    if not label.strip():
        return PIPE_TRICK.sub("", target.rpartition(":")[2])
    return label


# --- characters ---


def entities(text: str) -> str:
    """`text` with the characters that entities name; without its semicolon nothing is an entity."""
    return ENTITY.sub(lambda match: html.unescape(match[0]), text)


def characters(text: str) -> str:
    """`text` without bold, italics and switches like __NOTOC__, its entities resolved, all spaces of one kind."""
    # the switches are upper-case in every script that has case; __init__ is a word
    text = MAGIC.sub(lambda match: "" if match[1] == match[1].upper() else match[0], text)
    text = "\n".join(without_bold(line) if "'''" in line else line for line in text.split("\n"))
    text = APOSTROPHES.sub("", text)
    text = entities(text)
    for character, plain in (SPACES | NOTHING).items():
        text = text.replace(character, plain)
    return text


def without_bold(line: str) -> str:
    """A line without bold and italics.

    If both are odd in number, as in l'''Avare'', one apostrophe is meant: l'Avare.
    """
    runs = [len(run) for run in APOSTROPHES.findall(line)]
    bold = sum(run != 2 for run in runs)
    italics = sum(run == 2 or run > 4 for run in runs)
    if bold % 2 and italics % 2:
        line = re.sub(r"'''(?<=\w''')(?!')", "'", line, count=1)
    return APOSTROPHES.sub(lambda match: "'" if len(match[0]) == 4 else "", line)


def tidy(text: str) -> str:
    """`text` without the marks that have no partner and the empty brackets and spaces that removals leave."""
    text = STRAY.sub(" ", text)
    text = AFTER_BRACKET.sub("(", text)
    text = AFTER_WIDE_BRACKET.sub("（", text)
    text = EMPTY_BRACKETS.sub(" ", text)
    text = SEVERAL_SPACES.sub(" ", text)
    for wrong, right in UNTIDY.items():
        text = text.replace(wrong, right)
    return LINE_START.sub("\n", text)


# --- lists and headings ---


def list_item(match: re.Match) -> str:
    """Two spaces for each level above and "- "; nothing for an empty item; a term and its definition on one line."""
    marks, text = match.groups()
    if not text:
        return ""
    kind = marks[-1]
    if kind == ";":
        return "\n" + text.replace(" : ", ": ", 1)
    if kind in "*#":
        level = marks.count("*") + marks.count("#")
        return "\n" + "  " * (level - 1) + "- " + text
    return "\n" + text


def sections(text: str) -> str:
    """`text` with its headings as lines of their own, those left out under which no text is left."""
    lead, *rest = HEADING.split(text)
    pieces = [lead]
    waiting: list[tuple[int, str]] = []  # (level, title) of headings, from the outermost in, without text until now
    for marks, title, body in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        level = len(marks)
        waiting = [heading for heading in waiting if heading[0] < level]
        waiting.append((level, title.strip("= \t")))
        if not body.strip():
            continue
        pieces += [f"\n\n{title}" for _, title in waiting]
        pieces += ["\n", body.strip("\n")]
        waiting = []
    return "".join(pieces)
