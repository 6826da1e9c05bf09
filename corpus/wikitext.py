"""MediaWiki's wikitext to plain text: the prose of a page as its readers see it.

The rules are mediawiki.org's: Help:Formatting, Help:Links, Help:Tables, Help:Images, Writing systems/Syntax. Own code:
the kept libraries read 1 to 8 MB/s where a dump of 90 GB wants 20 (docs/data.md). Nothing assumes spaces between words.
"""

import functools
import html
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from corpus.templates.holes import MARK, Hole, Kept, WaitingCall, find_holes, settle
from corpus.templates.rules import Article, Templates, main_script

# In the order of the steps. All work is linear: the body of an element ends at the next opening of the same name and
# attributes end at the next "<", so no search for an end that is missing crosses the page. (A comment without its end
# goes to the end of the page.)
RAW = "nowiki|math|chem|ce|pre|source|syntaxhighlight"  # what is in them is no wikitext; in <code>, <tt>, <poem> it is
NOTES = "ref|maplink|templatedata|templatestyles|includeonly|indicator|section|style|hiero"  # nothing where they stand
BLOCKS = "references|gallery|timeline|imagemap|score|graph|mapframe|inputbox|categorytree"  # a new line
NAMES = f"{RAW}|{NOTES}|{BLOCKS}"
COMMENT = r"<!--(?>(?:[^-]++|-(?!->))*)(?:-->([ \t]*\n)?|\Z)"
ELEMENT = re.compile(rf"(?i){COMMENT}|<({NAMES})\b[^<>]*+(?:(?<=/)>|>((?>(?:[^<]++|<(?!/?\2\b))*))</\2\s*>)")
PARAMETER = re.compile(r"\{\{\{(?<!\{\{\{\{)(?!\{)[^{}|\n]*+(?:\|([^{}]*+))?\}\}\}")
CODE = re.compile(r"(?i)<code\b[^<>]*>((?>(?:[^<]++|<(?!/?code\b))*))</code\s*>")
NOTE_MARK = "\2"
SOURCE_MARK = "\4"  # a citation: a template that shows nothing here, with the title of a work
SOURCED_ITEM = re.compile(r"\n[*#:;]+[ \t]*\x04[^\n]*")  # the remark behind a citation is of no use without it
# How citations name the title in many languages. (A flag or an anchor has none.)
TITLES = "title|titel|titre|titolo|título|titulo|tytuł|titul|cím|titlu|tittel|nimeke|başlık|nhan đề|tiêu đề|judul|tajuk"
TITLES += "|название|заглавие|назва|наслов|заголовок|τίτλος|عنوان|כותרת|शीर्षक|題名|タイトル|書名|标题|標題|제목"
CITATION = re.compile(rf"(?i)\|\s*(?:{TITLES})\s*=")
# Between these a note's mark stands in place of a space: "end.[1]Next". In scripts above U+0E00 words need none.
GLUED_BY_NOTE = re.compile(
    r"\x02(?<=[A-Za-z\u00c0-\u0dff.,;:!?\])'\"]\x02)\x02*(?=(?:\[\[|'')*(?![։،؛؟۔।॥])[A-Za-z\u00c0-\u0dff]|\()"
)
# A note between spaces and a mark; the search begins with the note, as spaces are everywhere.
NOTE_BEFORE_MARK = re.compile(r"\x02(?<= \x02)\x02*+ *+(?=[,.;:!?)])")
NO_SPACE = "\x05"
SPACES_AND_NO_SPACE = re.compile(rf" *+{NO_SPACE}")
BAR = "\x03"
NO_MARKS = {"!": BAR, "=": "&#61;"}  # a bar and a sign that part and name no arguments of the call around them
MATHS_MARKS = re.compile(r"\{(?=[{|])|\}(?=\})|\[(?=\[)|\](?=\])")

TAG = re.compile(  # the HTML that MediaWiki knows, first what begins a line; anything else between < and > is text
    r"(?i)</?(?:(blockquote|br|caption|center|d[dlt]|div|h[1-6]|hr|li|ol|p|pre|source|t[dhr]|table|ul)|abbr|b|bd[io]|big"
    r"|cite|code|data|del|dfn|em|font|i|ins|kbd|link|mark|meta|noinclude|onlyinclude|poem|q|r[bpt]|r[bt]c|ruby|s|samp|small|span"
    rf"|strike|strong|su[bp]|time|tt|u|var|wbr|{NAMES})\b[^<>]*>"
)
SCRIPT = re.compile(r"(?i)<(su[bp])\b[^<>]*>\s*([-+−–]?[0-9]+)\s*</\1\s*>")
RAISED = str.maketrans("0123456789+-−–", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁻")
LOWERED = str.maketrans("0123456789+-−–", "₀₁₂₃₄₅₆₇₈₉₊₋₋₋")
HTML_TABLE = re.compile("(?i)</?table")
TABLE_MARK = re.compile(r"\n[ \t:*#;]*(\{\||\|\})")
# Of a table without its end, or whose {| is in a template: lines of cells, and lines of headings beside such lines.
HEADINGS = r"\n[ \t]*![^\n]*+"
TABLE_ROW = re.compile(
    rf"\n(?=[ \t{{|!])[ \t]*(?:(?:\{{\||\|(?!\}}))[^\n]*+(?:{HEADINGS})*|![^\n!]*!![^\n]*|![^\n]*+(?=\n[ \t]*[|!]))"
)
TABLE_END = re.compile(r"\|\}(?<=\n\|\})")  # without its beginning
CONVERSION_END = re.compile(r"\}-")  # a rare character: three times as fast as `in`
FLAGS = re.compile(r"(?s)(?:\s*([A-Za-z+;\s-]*)\|)?(.*)")  # and the text of a -{conversion}-
# In the order in which MediaWiki chooses for a reader who has set none: zh-hans before zh-tw, wherever they stand.
VARIANTS = """
zh zh-hans zh-hant zh-cn zh-tw zh-hk zh-sg zh-mo zh-my gan gan-hans gan-hant wuu wuu-hans wuu-hant sr sr-ec sr-cyrl
sr-el sr-latn sh sh-latn sh-cyrl kk kk-cyrl kk-kz kk-latn kk-tr kk-arab kk-cn ku ku-latn ku-arab uz uz-latn uz-cyrl tg
tg-latn zh-hans-cn zh-hant-tw zh-hant-hk zh-hans-sg zh-hant-mo zh-hans-my crh crh-latn crh-cyrl iu ike-cans ike-latn
shi shi-latn shi-tfng tly tly-cyrl zgh zgh-latn ban ban-bali mni mni-beng
""".split()
VARIANT = r"\s*({})\s*:".format("|".join(VARIANTS))
NEXT_VARIANT = r"(?:[^;=]*=>)?" + VARIANT.replace("(", "(?:")
VARIANT_TEXTS = re.compile(rf"(?i)(?:^|;|=>){VARIANT}((?>(?:[^;]++|;(?!\s*$|{NEXT_VARIANT}))*))")

PROTOCOL = "(?i:(?:https?|s?ftps?|ircs?|news|nntp|mailto|gopher|telnet|git|svn|ssh|tel|sms|sips?|xmpp|urn|geo|mms):|//)"
OF_ADDRESS = r"[^\s\[\]<>\"']*+"
ADDRESS = rf"(?=\w+:|//){PROTOCOL}(?://\[[\da-fA-F:.]+\])?{OF_ADDRESS}(?>(?:'(?!'){OF_ADDRESS})*)[ \t|]*"
EXTERNAL_LINK = re.compile(rf"\[{ADDRESS}([^\[\]\n]*)\]")
EXTERNAL_LINK_WITH_BRACKET = re.compile(rf"\[{ADDRESS}([^\[\]\n]*+(?>(?:\[(?!{PROTOCOL})[^\[\]\n]*+)*))\]")
# Links with these prefixes stand in the margin, not in the text; [[:fr:Mot]], [[wikt:mot]] and [[s:Mot]] are text.
LANGUAGES = frozenset(
    """
aa ab ace ady af als alt am ami an ang ann anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar bat-smg bbc
bcl bdr be be-tarask be-x-old bew bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam cdo ce ceb ch cho chr chy
ckb closed-zh-tw co cr crh cs csb cu cv cy cz da dag de dga din diq dk dsb dtp dty dv dz ee egl el eml en eo epo es et
eu ext fa fat ff fi fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor got gpe gsw gu guc gur guw
gv ha hak haw he hi hif ho hr hsb ht hu hy hyw hz ia iba id ie ig igl ii ik ilo inh io is it iu ja jam jbo jp jv ka
kaa kab kaj kbd kbp kcg kg kge ki kj kk kl km kn knc ko koi kr krc ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li
lij lld lmo ln lo lrc lt ltg lv lzh mad mai map-bms mdf mg mh mhr mi min minnan mk ml mn mni mnw mo mos mr mrj ms mt
mus mwl my myv mzn na nah nan nap nb nds nds-nl ne new ng nia nl nn no nov nqo nr nrm nso nup nv ny oc olo om or os pa
pag pam pap pcd pcm pdc pfl pi pih pl pms pnb pnt ppl ps pt pwn qu rki rm rmy rn ro roa-rup roa-tara rsk ru rue rup rw
sa sah sat sc scn sco sd se sg sgs sh shi shn shy si simple sk skr sl sm smn sn so sq sr srn ss st stq su sv sw syl
szl szy ta tay tcy tdd te tet tg th ti tig tk tl tly tn to tok tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec
vep vi vls vo vro wa war wo wuu xal xh xmf yi yo yue za zea zgh zh zh-cfr zh-classical zh-cn zh-min-nan zh-tw zh-yue
zu
""".split()
)
MEDIA = re.compile(r"(?i)[^:]+\.(?:jpe?g|png|svg|gif|tiff?|webp|og[gvam]|webm|mp3|wav|flac|midi?|pdf|djvu)\s*$")
PIPE_TRICK = re.compile(r"\s*[(（][^()（）]*[)）]\s*$|,.*$")
OPEN_LINK = re.compile(r"\[\[([^\[\]|:\n]*):(?:[^\[\n]|\[(?!\[))*")

MAGIC = re.compile(r"__(\w{2,30}?)__")
APOSTROPHES = re.compile("(''+)")
LITERAL = "\1"  # an apostrophe that is one: it is not counted when bold and italics are
ITALICS = re.compile("''+")
MANY_APOSTROPHES = re.compile("''''+")
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|\w{2,31});")
# The joiners U+200C and U+200D are not among what is removed: Persian and Hindi need them.
PLAIN = dict.fromkeys("\xa0\u2002\u2003\u2009\u200a\u202f", " ")
PLAIN |= dict.fromkeys("\xad\u200b\u200e\u200f\u2060\ufeff", "")

AFTER_BRACKET = re.compile(r"\([\s,;:，、；：،؛]++")
AFTER_WIDE_BRACKET = re.compile(r"（[\s,;:，、；：]++")
EMPTY_BRACKETS = re.compile(r"\(\)(?<![A-Za-z0-9_]\(\))")  # f() stays
EMPTY_PAIRS = ("[]", "「」", "『』", "【】", "《》", "〈〉", "〔〕", "［］", "«»", "‹›", "“”", "„“", "‘’")
SEVERAL_SPACES = re.compile("   *")  # faster than "  +"
SEMICOLON_AT_END = re.compile(r";\)")
SEPARATORS_AT_END = re.compile(r"(?<![,; (])[,;][,; ]*+\)(?<=;\))")  # "b, ; ;)" but not ":) or ;)"
SPACE_AND_SEMICOLON = re.compile(";(?<= ;)")
SEPARATOR_FIRST = re.compile(r"(\n[*#:]+)[ \t]*[,;][ \t,;]*+")  # of a list's item
# Spaces before marks, and marks that follow each other. A search for one character that looks behind itself is twice as
# fast as `in` for two, and most texts have none of them.
UNTIDY = {
    re.compile(r",(?<=[ ,],)"): {" ,": ",", ",,": ","},
    re.compile(r"\)(?<=[ ,]\))"): {" )": ")", ",)": ")"},
    re.compile(r"\.(?<= \.)[ \n]"): {" . ": ". ", " .\n": ".\n"},
}
UNTIDY_WIDE = {"（）": "", "，）": "）", "；）": "）", "、）": "）"}
LINE_START = re.compile(r"\n[ \t]+")
LIST_ITEM = re.compile(r"\n(-{4,}|[*#:;]+)[ \t]*([^\n]*)")
LEFT_OF_ITEM = " \t,.;:*·•–—->()（）、，。"  # an item with nothing else had words that are gone
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


@dataclass(frozen=True)
class Prose:
    """What is left of an article."""

    text: str
    holes: list[Hole]  # where templates in its sentences show what the text has not


def plain_text(
    wikitext: str, hidden: frozenset[str] = HIDDEN, templates: Templates | None = None, title: str = ""
) -> str:
    """The text of `prose`."""
    return prose(wikitext, hidden, templates or english_templates(), title).text


@functools.cache
def english_templates() -> Templates:
    """The rules of the tables, those of the English Wikipedia first."""
    return Templates("en")


def prose(wikitext: str, hidden: frozenset[str], templates: Templates, title: str, keep_holes: bool = True) -> Prose:
    """The prose of a page as a reader sees it: no tables, notes, pictures or categories, and no markup.

    hidden: lower-case names of the namespaces whose links show no text, see `hidden_namespaces`. templates: what they
    show in this wiki. title: of the page, for {{PAGENAME}}. keep_holes: False drops the sentences that have one.
    Formulas stay as LaTeX between dollars and code as it is. What is never closed loses its mark, not the text after
    it; only a comment goes on to the end of the page, as in MediaWiki. Time is linear.
    """
    text = "\n" + wikitext.replace("\0", "").replace(BAR, "") + "\n"
    article = Article(title, main_script(wikitext))
    kept: Kept = []  # \0number\0 stands for an entry: text that no later step may touch, or a call of a template

    # elements, templates, tables
    text = MANY_APOSTROPHES.sub(literal_apostrophes, text)
    text = parameters(text)
    text = without_elements(text, kept)
    text = nested(text, "{{", "}}", lambda inside: template(inside, templates, article, kept))
    text = SOURCED_ITEM.sub("", text).replace(SOURCE_MARK, NOTE_MARK)
    text = without_note_marks(text)
    text = text.replace(BAR, "|")
    text = CODE.sub(lambda match: keep(restore(inline(TAG.sub("", match[1]), hidden), kept), kept), text)
    text = without_tables(text)
    text = settle(text, kept, lambda inside, alone: template_in_place(inside, alone, templates, article, kept))

    # conversion marks, links, characters
    # the switches are upper-case in every script that has case; __init__ is a word
    text = MAGIC.sub(lambda match: "" if match[1] == match[1].upper() else match[0], text)
    text = inline(text, hidden)
    text = TABLE_END.sub("", text)
    text = TABLE_ROW.sub("", text)  # not before the links: the lines of a caption may begin with a bar
    text, holes = find_holes(text, kept, keep_holes, NOTE_MARK)
    text = without_note_marks(text)

    # what removals leave, lists, headings
    text = tidy(text, f"\n{wikitext}\n")
    text = LIST_ITEM.sub(list_item, text)
    text = sections(text)
    return Prose(restore(text, kept).strip(), holes)


def inline(text: str, hidden: frozenset[str]) -> str:
    """`text` without the marks that stand within lines: conversion, links, bold and italics, entities."""
    if CONVERSION_END.search(text):
        text = nested(text, "-{", "}-", conversion)
    text = EXTERNAL_LINK.sub(r"\1", text)
    text = nested(text, "[[", "]]", lambda inside: link(inside, hidden))
    text = EXTERNAL_LINK_WITH_BRACKET.sub(r"\1", text)
    text = OPEN_LINK.sub(lambda match: "" if match[1].strip().lower() in hidden else match[0], text)
    return characters(text)


# --- elements: <ref>, <math>, <code> ... ---


def without_elements(text: str, kept: Kept) -> str:
    """`text` without comments, notes and pictures; formulas and code are kept, with marks in their places."""
    text = ELEMENT.sub(lambda match: element(match, kept), text)
    return without_note_marks(text)


def without_note_marks(text: str) -> str:
    """`text` with a space where a note stood in the place of one, and without the space before a note that is gone.

    end.[1]Next -> end. Next       word [1], and -> word, and
    """
    if NOTE_MARK not in text:
        return text
    if NOTE_BEFORE_MARK.search(text):
        text = NOTE_BEFORE_MARK.sub(NO_SPACE, text)
        text = SPACES_AND_NO_SPACE.sub("", text)
    return GLUED_BY_NOTE.sub(" ", text).replace(NOTE_MARK, "")


def element(match: re.Match, kept: Kept) -> str:
    """Nothing for comments, notes and pictures; for formulas and code a mark that points into `kept`."""
    line_end, name, content = match.groups()
    if not name:
        begins_line = match.string[match.start() - 1] == "\n"
        return "" if begins_line else (line_end or "")  # a line that holds a comment only is no blank line

    name = name.lower()
    if name == "ref":  # the most
        return NOTE_MARK
    content = content or ""
    if name in ("math", "chem", "ce"):
        latex = " ".join(content.split()).rstrip("\\")  # a backslash at the end stood before a space
        return keep("$" + MATHS_MARKS.sub(r"\g<0> ", latex) + "$", kept)
    if name == "nowiki":
        return keep(entities(content), kept)
    if name == "pre":
        return "\n" + keep(entities(re.sub(r"(?i)</?nowiki\s*/?>", "", content)), kept) + "\n"
    if name in ("source", "syntaxhighlight"):  # entities are code here
        is_inline = re.search(r"(?i)^<\w+[^<>]*\sinline\b", match[0])
        code = keep(content.strip("\n"), kept)
        return code if is_inline else f"\n{code}\n"
    return "\n" if name in BLOCKS.split("|") else ""


def parameters(text: str) -> str:
    """`text` with the defaults of {{{parameters}}}: no article is called with arguments. {{{1|{{{2|a}}}}}} is a."""
    count = 1
    levels = 0
    while count and levels < 5:
        text, count = PARAMETER.subn(lambda match: match[1] or "", text)
        levels += 1
    return text


def script(match: re.Match) -> str:
    """The number in <sup> or <sub>, as characters where it would run into another: 10⁶, m², 101₂ and H2O."""
    name, number = match.groups()
    if name.lower() == "sup":
        return number.translate(RAISED)
    is_behind_digit = match.string[match.start() - 1].isdigit()
    return number.translate(LOWERED) if is_behind_digit else number


def keep(text: str, kept: Kept) -> str:
    """The mark that stands for `text`, which no later step touches."""
    kept.append(text.replace(LITERAL, "'"))
    return f"\0{len(kept) - 1}\0"


def restore(text: str, kept: Kept) -> str:
    """`text` with what was kept in the places of its marks; calls of templates that still wait show nothing."""

    def content(match: re.Match) -> str:
        entry = kept[int(match[1])]
        return entry if isinstance(entry, str) else ""

    return MARK.sub(content, text)


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
        is_too_deep = len(opened) >= 100  # than any article is; without a limit the joins are quadratic in the depth
        if after_closing and not is_too_deep:  # most pairs hold no other
            pieces += [render(inside), after_closing.pop(0)]
        else:
            if not is_too_deep:
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


def new_line(inside: str) -> str:
    """A table shows no prose, and parts what stands before it from what stands behind it."""
    return "\n"


def template(inside: str, templates: Templates, article: Article, kept: Kept) -> str:
    """What {{inside}} shows; a mark that points into `kept` if the line where it stands decides that.

    What shows nothing may stand as a note does, in the place of a space: see GLUED_BY_NOTE.
    """
    inside = inside.replace(NOTE_MARK, "").replace(SOURCE_MARK, "")
    name = inside.strip()
    if name in NO_MARKS:
        return NO_MARKS[name]
    shown = templates.show(inside, article, None, lambda inside: settled(inside, templates, article, kept))
    if shown is None:
        kept.append(WaitingCall(inside))
        return f"\0{len(kept) - 1}\0"
    if shown:
        return without_elements(shown, kept) if "<" in shown else shown
    is_citation = CITATION.search(inside) is not None
    return SOURCE_MARK if is_citation else NOTE_MARK


def settled(inside: str, templates: Templates, article: Article, kept: Kept) -> str:
    """A call with what the calls in its arguments show: {{uc:\\0 3 \\0}} -> {{uc:haus}}. Unknown ones stay."""
    if "\0" not in inside:
        return inside

    def shown(match: re.Match) -> str:
        entry = kept[int(match[1])]
        if isinstance(entry, str):
            return match[0]
        text = template_in_place(entry.inside, False, templates, article, kept)
        return match[0] if text is None else text

    return MARK.sub(shown, inside)


def template_in_place(inside: str, alone: bool, templates: Templates, article: Article, kept: Kept) -> str | None:
    """The text that {{inside}} shows: what stands in the rule's elements and tables is not text. None: not known."""
    shown = templates.show(inside, article, alone, lambda inside: settled(inside, templates, article, kept))
    if not shown:
        return shown
    shown = without_elements(shown, kept)
    shown = without_tables("\n" + shown)
    shown = shown.strip("\n")
    is_list = shown.startswith(("*", "#", ":", ";"))
    return "\n" + shown if is_list else shown


def without_tables(text: str) -> str:
    """`text` without tables, and with its other tags gone or made line ends."""
    if HTML_TABLE.search(text):
        text = HTML_TABLE.sub(lambda match: match[0].lower(), text)
        text = nested(text, "<table", "</table>", new_line)
    text = SCRIPT.sub(script, text)
    text = TAG.sub(lambda match: "\n" if match[1] else "", text)
    text = TABLE_MARK.sub(r"\n\1", text)
    return nested(text, "\n{|", "\n|}", new_line)


def conversion(inside: str) -> str:
    """What -{inside}- shows a reader who has chosen no variant: nothing for rules that only set or hide a word.

    Of zh-tw:電腦;zh-cn:计算机 the second, as zh-cn comes first among VARIANTS.
    """
    flags, text = FLAGS.match(inside).groups()
    if flags and flags.strip() in "HT-":
        return ""
    if flags and flags.strip() == "R":  # raw
        return text
    variants = VARIANT_TEXTS.findall(text)
    if not variants:
        return text
    return min(variants, key=lambda variant: VARIANTS.index(variant[0].lower()))[1].strip()


def link(inside: str, hidden: frozenset[str]) -> str:
    """The words that [[inside]] shows: nothing for files, categories and links to other languages."""
    target, bar, label = inside.lstrip().partition("|")
    if ":" in target:
        namespace, _, title = target.partition(":")
        prefix = namespace.strip().lower()
        is_media = bool(prefix) and MEDIA.match(title)
        if prefix in hidden or prefix in LANGUAGES or is_media:
            return ""

    if not bar:
        target = target.removeprefix(":")
        return target.replace("'", LITERAL) if "''" in target else target
    if not label.strip():
        return PIPE_TRICK.sub("", target.rpartition(":")[2]).replace("'", LITERAL)
    label = label.lstrip("|")  # [[a||b]] is a slip
    return quotes(label) if "''" in label else label


# --- characters ---


def entities(text: str) -> str:
    """`text` with the characters that entities name; without its semicolon nothing is an entity."""
    return ENTITY.sub(lambda match: html.unescape(match[0]), text)


def characters(text: str) -> str:
    """`text` without bold and italics, its entities resolved, all spaces of one kind."""
    text = lines_with_bold(text)
    text = ITALICS.sub("", text).replace(LITERAL, "'")
    text = entities(text)
    for character, plain in PLAIN.items():
        text = text.replace(character, plain)
    return text


def lines_with_bold(text: str) -> str:
    """`text` with `quotes` of the lines that have a mark of bold; other lines, the most, are only looked through."""
    pieces = []
    done = 0  # so much of the text is in pieces
    bold = text.find("'''")
    while bold >= 0:
        start = text.rfind("\n", done, bold) + 1 or done
        end = text.find("\n", bold)
        if end < 0:
            end = len(text)
        pieces += [text[done:start], quotes(text[start:end])]
        done = end
        bold = text.find("'''", done)
    return "".join([*pieces, text[done:]])


def literal_apostrophes(match: re.Match) -> str:
    """A run of four apostrophes is one and a mark of bold; of more than five, five are marks and the others are meant.

    They are told apart before anything is left out: afterwards, four or six are two marks with nothing between them.
    """
    length = len(match[0])
    marks = 3 if length == 4 else 5
    return LITERAL * (length - marks) + "'" * marks


def quotes(line: str) -> str:
    """A line without bold and italics, by MediaWiki's rules (Parser::doQuotes).

    If both are odd in number, one apostrophe of a mark of bold is meant: the first behind a word of one letter, else
    the first behind a longer word, else the first behind a space.

        l'''Avare''      bold 1, italics 1      l' and ''Avare''
        '''''a'' b'''   bold 2, italics 2      a b
    """
    pieces = APOSTROPHES.split(line)  # text, mark, text, mark ... text
    bold = []  # places of the marks of bold alone
    n_bold = n_italics = 0
    for i in range(1, len(pieces), 2):
        length = len(pieces[i])
        if length in (4, 6, 10):  # two equal marks: what was between them is gone
            continue
        if length == 3:
            bold.append(i)
        if length > 5:
            pieces[i - 1] += "'" * (length - 5)
        n_bold += length != 2
        n_italics += length != 3

    if bold and n_bold % 2 and n_italics % 2:
        meant = min(bold, key=lambda i: word_before(pieces[i - 1]))
        pieces[meant - 1] += "'"
    return "".join(pieces[::2])


def word_before(text: str) -> int:
    """What stands before a mark: 0 for a word of one letter, 1 for a longer one or nothing, 2 for a space."""
    if text[-1:] == " ":
        return 2
    return 0 if text[-2:-1] == " " else 1


def tidy(text: str, wikitext: str) -> str:
    """`text` without the marks that have no partner and the empty brackets and spaces that removals leave.

    Empty brackets that were in `wikitext` are the author's, who writes of them; so are spaces before marks, and items
    that begin with a comma.
    """
    text = STRAY.sub(" ", text)
    text = AFTER_BRACKET.sub("(", text)
    text = EMPTY_BRACKETS.sub(" ", text)
    for pair in EMPTY_PAIRS:
        if pair[0] in text and pair in text and pair not in wikitext:
            text = text.replace(pair, "")
    text = SEVERAL_SPACES.sub(" ", text)
    for untidy, replacements in UNTIDY.items():
        if untidy.search(text):
            for wrong, right in replacements.items():
                if wrong not in wikitext:
                    text = text.replace(wrong, right)
    if SEMICOLON_AT_END.search(text):
        text = SEPARATORS_AT_END.sub(")", text)
    if SPACE_AND_SEMICOLON.search(text) and " ;" not in wikitext:
        text = text.replace(" ;", ";")
    if SEPARATOR_FIRST.search(text) and not SEPARATOR_FIRST.search(wikitext):
        text = SEPARATOR_FIRST.sub(r"\1 ", text)
    if "）" in text:
        text = AFTER_WIDE_BRACKET.sub("（", text)
        for wrong, right in UNTIDY_WIDE.items():
            text = text.replace(wrong, right)
    return LINE_START.sub("\n", text)


# --- lists and headings ---


def list_item(match: re.Match) -> str:
    """Two spaces for each level above and "- "; nothing for an empty item; a term and its definition on one line."""
    marks, text = match.groups()
    if not text.strip(LEFT_OF_ITEM):
        return ""
    kind = marks[-1]
    if kind == ";":
        return "\n" + re.sub(" +:(?!:) *", ": ", text, count=1)
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
