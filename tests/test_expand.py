"""Templates are expanded as MediaWiki does it. Expectations are worked by hand from its help pages."""

import pytest

from corpus.expand import Expansion, TooMuch, Unknown, expand, parse, template_body

TEMPLATES = {
    "echo": "{{{1}}}",
    "two": "[{{{1|none}}}|{{{a|none}}}]",
    "loop": "{{loop}}",
    "double": "{{{1}}}{{{1}}}",
}


def shown(wikitext: str, twins: dict | None = None, language: str = "en", **arguments: str) -> str:
    """`wikitext` expanded, as the body of a template that was called with these arguments; _1 is the first."""
    trees = {name: parse(text) for name, text in TEMPLATES.items()}
    expansion = Expansion(trees.get, twins or {}, language, "Title of the page")
    return expand(parse(wikitext), {name.removeprefix("_"): text for name, text in arguments.items()}, expansion)


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{{1|b|c}}}", "b"),
        ("{{{1}}} {{{1|}}}", "{{{1}}} "),
        ("{{{{{1}}}}}", "{{{{{1}}}}}"),
        ("{{echo|{{echo|x}}}}", "x"),
        ("{{two| x | a = y }}", "[ x |y]"),
        ("{{two|1= x }}", "[x|none]"),
        ("{{two|[[p|a=b]]}}", "[[[p|a=b]]|none]"),
        ("{{two|a=1|a=2}}", "[none|2]"),
        ("-{a|b}-", "-{a|b}-"),
        ("{{two|<nowiki>|}}</nowiki>}}", "[<nowiki>|}}</nowiki>|none]"),
        ("{{a|b", "{{a|b"),
        ("a{{#if:1|* x}}", "a\n* x"),
        ("{{#switch:b|a=1|b|c= 2 |#default=3}}", "2"),
        ("{{#if:{{{1|}}}|{{nobody}}|B}}", "B"),
        ("{{{{{|safesubst:}}}#if:1|yes}}", "yes"),
        ("{{subst:echo|1}}", "{{subst:echo|1}}"),
    ],
)
def test_wikitext(wikitext, expected):
    assert shown(wikitext) == expected


def test_what_nothing_defines_is_named():
    for wikitext, name in [("{{nobody|1}}", "nobody"), ("{{#invoke:Age|main}}", "#invoke:Age"), ("{{#foo:1}}", "#foo")]:
        with pytest.raises(Unknown) as caught:
            shown(wikitext)
        assert caught.value.name == name


@pytest.mark.parametrize("wikitext", ["{{loop}}", "{{double|" * 40 + "x" + "}}" * 40, "{{echo|" * 200 + "}}" * 200])
def test_hostile_templates_end(wikitext):
    with pytest.raises(TooMuch):
        shown(wikitext)


def test_twins_get_the_arguments_of_the_template():
    twins = {"sum": lambda arguments, language: f"{sorted(arguments.items())} {language}"}
    text = shown("{{#python:sum|b=3}}", twins, _1=" 1", b="2")
    assert text == "[('1', '1'), ('b', '3')] en"


def test_the_part_of_a_template_page_that_is_included():
    assert template_body("a<noinclude>b</noinclude><includeonly>c</includeonly><!-- d -->") == "ac"
    assert template_body("a<onlyinclude>b</onlyinclude>c<onlyinclude>d</onlyinclude>") == "bd"
    assert template_body("a\n <!-- b --> \nc<nowiki><!-- d --></nowiki>") == "a\nc<nowiki><!-- d --></nowiki>"
