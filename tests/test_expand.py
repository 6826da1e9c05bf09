"""Templates are expanded as MediaWiki does it. Expectations are worked by hand from its help pages."""

import bz2
import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from conftest import SHARED, examples
from hypothesis import given
from hypothesis import strategies as st

from corpus.templates.expand import Expansion, TooMuch, Unknown, expand, on_new_line, parse, template_body

TEMPLATES = {
    "echo": "{{{1}}}",
    "two": "[{{{1|none}}}/{{{a|none}}}]",
    "loop": "{{#if:{{{1|}}}|{{loop|x}}}}",
    "ping": "{{pong}}",
    "pong": "{{ping}}",
    "double": "{{{1}}}{{{1}}}",
    "list": "* a",
    "name of echo": "echo",
}


def expansion_of(templates: dict[str, str], **others) -> Expansion:
    """For a page called Title, of an English wiki that has these templates."""
    trees = {name: parse(text) for name, text in templates.items()}
    return Expansion(**({"find": trees.get, "twins": {}, "language": "en", "title": "Title"} | others))


def shown(wikitext: str, arguments: dict[str, str] | None = None, **others) -> str:
    """`wikitext` expanded, as the body of a template that was called with these arguments."""
    return expand(parse(wikitext), arguments or {}, expansion_of(TEMPLATES, **others))


# --- parameters ---


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{{1}}} {{{ a }}}", "one A"),
        ("{{{3}}} {{{3|}}} {{{ 3 }}}", "{{{3}}}  {{{ 3 }}}"),
        ("{{{3|b|c}}} {{{3|b=c}}}", "b b=c"),
        ("{{{ {{{3|a}}} }}}", "A"),
        ("{{{|d}}}", "d"),
        # of a run of braces, three are closed before two; what is left stays text
        ("{{{{1}}}}", "{one}"),
        ("{{{{{name}}}|x}}", "x"),
        ("{{{{{{name}}}|x}}}", "x"),
        ("a{{{1}}b", "a{(1)b"),
        ("a{{1}}}b {1}", "a(1)}b {1}"),
    ],
)
def test_parameters(wikitext, expected):
    expansion = expansion_of(TEMPLATES | {"1": "(1)"})
    assert expand(parse(wikitext), {"1": "one", "a": "A", "name": "echo"}, expansion) == expected


# --- calls ---


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{two| x | a = y }}", "[ x /y]"),  # only named arguments lose their outer spaces
        ("{{two|1= x }}", "[x/none]"),
        ("{{two|1=\u3000x\xa0}}{{#if:\xa0|y}}", "[\u3000x\xa0/none]y"),  # these spaces are text
        ("{{two|a=1|a=2|b|1=c}}", "[c/2]"),  # of equal names the last counts
        ("{{two|a==}}", "[none/=]"),
        # what is open inside hides bars and "=" from what is outside
        ("{{two|[[p|a=b]]}}", "[[[p|a=b]]/none]"),
        ("{{two|-{zh:a|b}-}}", "[-{zh:a|b}-/none]"),
        ("{{two|{{echo|1=k}}l=z}}", "[none/none]"),
        ("{{two|<nowiki>|a=</nowiki>}}", "[<nowiki>|a=</nowiki>/none]"),
        ("{{two|<ref name=x>a|b}}</ref>}}", "[<ref name=x>a|b}}</ref>/none]"),
        ("{{two|\0007\0|a=\0008\0}}", "[\0007\0/\0008\0]"),
        ("{{two|\n== h ==\n|a=1}}", "[\n== h ==\n/1]"),  # a heading names no argument
        ("{{two|\na=1}}", "[none/1]"),
        ("{{ two \n| a = {{echo| y }} }}", "[none/y]"),
        ("{{Template:two|x}} {{template: two |x}}", "[x/none] [x/none]"),
        ("{{two#section|x}}", "[x/none]"),
        ("{{ {{name of echo}} |x}}", "x"),
        ("{{safesubst:two|x}}", "[x/none]"),
        ("{{{{{|safesubst:}}}#if:1|yes}}", "yes"),
        # what is no call stays text, what is in it is expanded
        ("{{subst:echo|{{echo|x}}}}", "{{subst:echo|x}}"),
        ("{{}} {{|a}} {{a<b|{{echo|c}}}}", "{{}} {{|a}} {{a<b|c}}"),
        ("{{a|b [[c {{echo|d}}", "{{a|b [[c d"),
        ("{{a|[[b}} {{echo|c}}", "{{a|[[b}} c"),
        ("-{{echo|a}}- -{{{1|b}}}-", "-a- -b-"),
        ("-{ {{echo|a}} }- }- }}", "-{ a }- }- }}"),
    ],
)
def test_calls(wikitext, expected):
    assert shown(wikitext) == expected


def test_a_list_in_the_middle_of_a_line_begins_a_new_line():
    assert shown("a{{list}}\n{{list}}") == "a\n* a\n* a"
    assert shown("{{list}}") == "\n* a"  # as MediaWiki does it: no newline stands before it
    assert expand(parse("* a"), {}, expansion_of({})) == "* a"
    assert on_new_line("{|") == "\n{|"
    assert on_new_line("a") == "a"


def test_only_what_is_used_is_expanded_and_only_once():
    used = []

    def find(name: str):
        used.append(name)
        return parse({"twice": "{{{1}}}{{{1}}}{{#if:{{{2|}}}|a}}", "unused": "{{{2}}}"}.get(name, name))

    expansion = expansion_of({}, find=find)
    text = expand(parse("{{#if:x|{{twice|{{a}}}}|{{b}}}}{{unused|{{c}}}}{{#switch:1|0={{d}}|1=e}}"), {}, expansion)
    assert text == "aa{{{2}}}e"
    assert used == ["twice", "a", "unused"]


def test_what_nothing_defines_is_named():
    cases = {
        "{{nobody|1}}": "nobody",
        "{{#invoke:Age|main}}": "#invoke:Age",
        "{{#foo:1}}": "#foo",
        "{{:Page}}": ":Page",
        "{{int:lang}}": "int",
        "{{#time:Y}}": "#time",
        "{{CURRENTYEAR}}": "CURRENTYEAR",
        "{{SORTIERUNG:a}}": "SORTIERUNG:a",  # functions of one language only
        "{{two|{{two|{{nobody}}}}}}": "nobody",
    }
    for wikitext, name in cases.items():
        with pytest.raises(Unknown) as caught:
            shown(wikitext)
        assert caught.value.name == name


# --- a reference: the innermost call first, by search and replace ---

INNERMOST = re.compile(r"\{\{\{([^{}]*)\}\}\}|\{\{([^{}]*)\}\}")


def slowly(wikitext: str, arguments: dict[str, str], templates: dict[str, str]) -> str:
    """`wikitext` expanded; right where texts hold no marks."""
    while match := INNERMOST.search(wikitext):
        parameter, call = match.groups()
        if parameter is not None:
            name, _, default = parameter.partition("|")
            value = arguments.get(name.strip(), default)
        else:
            name, *parts = call.split("|")
            inner = {}
            number = 0
            for part in parts:
                key, is_named, text = part.partition("=")
                if is_named:
                    inner[key.strip()] = text.strip()
                else:
                    number += 1
                    inner[str(number)] = part
            value = slowly(templates[name.strip()], inner, templates)
        wikitext = wikitext[: match.start()] + value + wikitext[match.end() :]
    return wikitext


WORDS = st.sampled_from(["x", " y ", "", "z\n"])
NAMES = st.sampled_from(["a", "b", "1", "2"])
PARAMETER = st.builds("{{{{{{ {} |{}}}}}}}".format, NAMES, WORDS)


def bodies(names: list[str]) -> st.SearchStrategy[str]:
    """Wikitext with parameters, and calls of these templates with some arguments, named or not."""
    leaf = WORDS | PARAMETER
    if not names:
        return st.lists(leaf, max_size=3).map("".join)

    def longer(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        argument = st.builds("|{}{}".format, st.sampled_from(["", "a=", " b = ", "1="]), inner)
        arguments = st.lists(argument, max_size=3).map("".join)
        call = st.builds("{{{{ {} {} }}}}".format, st.sampled_from(names), arguments)
        return st.lists(call | leaf, max_size=3).map("".join)

    return st.recursive(leaf, longer, max_leaves=8)


@examples(500)
@given(st.data())
def test_templates_that_call_each_other_equal_search_and_replace(data):
    templates = {}
    for name in ["f", "g", "h"]:
        templates[name] = data.draw(bodies(list(templates)))
    arguments = data.draw(st.dictionaries(NAMES, WORDS))
    wikitext = data.draw(bodies(list(templates)))
    expected = slowly(wikitext, arguments, templates)
    assert expand(parse(wikitext), arguments, expansion_of(templates)) == expected


# --- hostile input ---


@pytest.mark.parametrize(
    "wikitext",
    [
        "{{loop|x}}",
        "{{ping}}",
        "{{double|" * 30 + "x" + "}}" * 30,
        "{{echo|" * 90 + "x" + "}}" * 90,
        "{{#if:x|" * 99 + "{{echo|x}}" + "}}" * 99,
        "{{#switch:x" + "|y=1" * 10_000 + "}}",
        "{{echo" + "|y" * 10_000 + "}}",
    ],
)
def test_loops_and_explosions_end(wikitext):
    with pytest.raises(TooMuch):
        shown(wikitext, budget=9_000)


def test_the_budget_is_that_of_all_calls_together():
    expansion = expansion_of(TEMPLATES, budget=10)
    tree = parse("{{echo|x}}")
    with pytest.raises(TooMuch):
        for _ in range(10):
            expand(tree, {}, expansion)


def test_a_call_by_itself_is_parsed_as_one_in_a_longer_text():
    """Flat calls have a parser of their own, which longer texts do not use."""
    pieces = ["a", " b", "|", "=", "\n", "\n==", "}", "]]", "<b>", "[["]
    for length in range(5):
        for inside in itertools.product(pieces, repeat=length):
            call = "{{" + "".join(inside) + "}}"
            assert (*parse(call), *parse("{{z}}")) == parse(call + "{{z}}"), call


@pytest.mark.parametrize(
    "piece", ["{{", "{{{", "[[", "-{", "}}", "{{{{a}}", "{{a|b=", "{{{a|{{b|[[", "\n==", "<nowiki>", "<ref <", "<!--"]
)
def test_marks_without_partner_stay_text_in_linear_time(piece):
    """Quadratic time would take minutes to hours here."""
    wikitext = piece * 100_000
    if piece != "<!--":
        assert "".join(node for node in parse(wikitext) if isinstance(node, str)).startswith(piece[:2])
        assert template_body(wikitext) == wikitext
    else:
        assert template_body(wikitext) == ""


# --- template pages ---


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("a<noinclude>b</noinclude><includeonly>c</includeonly>d", "acd"),
        ("a<NOINCLUDE >b</noinclude\n>c<noinclude/>d", "acd"),
        ("a<noinclude>b", "a"),
        ("a<onlyinclude>b</onlyinclude>c<onlyinclude>d</onlyinclude>", "bd"),
        ("a<onlyinclude>b<noinclude>c</noinclude></onlyinclude>", "b"),
        ("a<onlyinclude>b", "ab"),
        ("a<!-- b -->c", "ac"),
        ("a\n <!-- b --> <!-- c --> \nd", "a\nd"),  # a comment alone on its line takes the line with it
        ("a <!-- b -->\nc", "a \nc"),
        ("a<!-- b", "a"),
        ("<nowiki><noinclude>a</noinclude><!-- b --></nowiki>", "<nowiki><noinclude>a</noinclude><!-- b --></nowiki>"),
        ("<nowiki>a<noinclude>b</noinclude>", "<nowiki>a"),
        ("{{a<noinclude>|b</noinclude>}}<noincluded>", "{{a}}<noincluded>"),
    ],
)
def test_the_part_of_a_page_that_is_included(page, expected):
    assert template_body(page) == expected


# --- twins ---


def test_twins_get_the_arguments_of_the_template_and_their_own():
    def told(arguments: dict[str, str], language: str) -> str:
        return f"{sorted(arguments.items())} {language}"

    twins = {"tell": told, "age/in years": told}
    given_values = {"1": " 1", "b": "2"}
    assert shown("{{#python:tell|b=3}}", given_values, twins=twins) == "[('1', '1'), ('b', '3')] en"
    assert shown("{{#invoke:Age|in_years|4}}", given_values, twins=twins) == "[('1', '4'), ('b', '2')] en"


def test_a_twin_that_cannot_say_what_is_shown_is_unknown():
    def refuse(arguments: dict[str, str], language: str) -> str:
        raise ValueError("no unit")

    with pytest.raises(Unknown, match="#python:refuse"):
        shown("{{#python:refuse}}", twins={"refuse": refuse})


# --- another program on a real wiki ---

LATGALIAN = SHARED / "wiki/xml/ltgwiki-2017-complete.xml.bz2"


def read_pages() -> dict[str, dict[str, str]]:
    """The wikitext of all pages, by number of their namespace and by title without its name."""
    pages: dict[str, dict[str, str]] = {}
    with bz2.open(LATGALIAN) as file:
        for _, element in ET.iterparse(file):
            if element.tag.endswith("}page"):
                namespace = element.findtext("{*}ns")
                title = element.findtext("{*}title")
                if namespace != "0":
                    title = title.partition(":")[2]
                pages.setdefault(namespace, {})[title] = element.findtext("{*}revision/{*}text") or ""
                element.clear()
    return pages


def comparable(wikitext: str) -> str:
    """Without what the other program leaves out or makes up.

    Addresses, switches, lists of notes, spaces; and where links lead that show other words: {{NAMESPACE:title}} and
    {{TALKPAGENAME:title}} are those of the page there.
    """
    without = r"(?:https?:)?//(?:dummy\.host|ltg\.wikipedia\.org)/\S*|<references[^>]*>|__[A-Z]+__"
    without += r"|\[\[Category:[^]]*\]\]|(?<=\[\[)[^]|]*(?=\|)"
    return re.sub(r"\s+", "", re.sub(without, "", wikitext))


@pytest.mark.slow
@pytest.mark.real_data
def test_calls_in_articles_of_a_whole_wiki_equal_wikitextprocessor():
    """347 template pages, 1878 calls; those that need Lua or a missing page are left out."""
    mwparserfromhell = pytest.importorskip("mwparserfromhell")
    wikitextprocessor = pytest.importorskip("wikitextprocessor")
    pages = read_pages()
    other = wikitextprocessor.Wtp(num_threads=1, quiet=True)

    templates = {}
    for title, text in pages["10"].items():
        redirect = re.match(r"\s*#\w+\s*:?\s*\[\[[^]|:]*:([^]|]*)", text)
        body = pages["10"].get(redirect[1].replace("_", " "), "") if redirect else text
        for name in (title, title[:1].lower() + title[1:]):  # the case of the first letter does not count
            templates[name] = parse(template_body(body))
            other.add_page("wikitext", f"Template:{name}", body)
    other.analyze_templates()

    def find(name: str):
        name = name.removeprefix("Taiss:").replace("_", " ")
        return templates.get(name, templates.get(name[:1].lower() + name[1:]))

    equal, different = 0, []
    for title, text in pages["0"].items():
        other.start_page(title)
        for call in mwparserfromhell.parse(text).filter_templates(recursive=False):
            call = re.sub(r"(?s)<!--.*?-->", "", str(call))
            try:
                ours = expand(parse(call), {}, Expansion(find, {}, "ltg", title))
            except Unknown:
                continue
            theirs = other.expand(call, expand_invoke=False)
            if comparable(ours) == comparable(theirs):
                equal += 1
            else:
                different.append(call)

    assert equal > 1800
    assert set(different) == {"{{noexternallanglinks}}"}  # a variable that the other program does not know
