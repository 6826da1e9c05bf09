"""Parser functions show what mediawiki.org's help pages say. (#expr has a test file of its own.)"""

import datetime

import pytest

from corpus.templates.expand import Expansion, Unknown, expand, parse
from corpus.templates.parser_functions import FUNCTIONS, TITLE_FUNCTIONS, VARIABLES


def shown(wikitext: str, language: str = "en", title: str = "Title", now: datetime.date | None = None) -> str:
    """`wikitext` expanded, on a page of a wiki without templates."""
    return expand(parse(wikitext), {}, Expansion(lambda name: None, {}, language, title, now=now))


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{#if: | yes | no }}{{#if:\n x \n| yes | no }}{{#if:x}}{{#if:|yes}}", "noyes"),
        ("{{#if:0|a=b}}{{ #IF:x|y}}{{#if：x|y}}", "a=byy"),
        ("{{#ifeq: 01 | 1.0 | same | other }} {{#ifeq: 0 | -0 |same}}", "same same"),
        ("{{#ifeq: a | A | same | other }} {{#ifeq:|| same}} {{#ifeq:1e3|1000|same}}", "other same same"),
        ("{{#ifeq: a'b | a&#39;b | same }}{{#ifeq: a'b | a&amp;#39;b | same }}", "same"),
        ("{{#ifexpr: 1 > 0 | yes | no }}{{#ifexpr: -1 * 0 | yes | no }}{{#ifexpr:| yes | no }}", "yesnono"),
        ("{{#ifexpr: 1/0 | yes | no }}", '<strong class="error">Division by zero.</strong>'),
        ("{{#expr: 1 + x }}", '<strong class="error">Expression error: Unrecognized word "x".</strong>'),
        (
            "{{#expr: 1 ; 2 }}",
            '<strong class="error">Expression error: Unrecognized punctuation character ";".</strong>',
        ),
        ("{{#iferror: {{#expr: 1 + x }} | bad | good }}{{#iferror: {{#expr: 1 + 2 }} | bad | good }}", "badgood"),
        ("{{#iferror: {{#expr: 1 + 2 }} | bad }}{{#iferror: {{#expr: x }} }}", "3"),
        (
            '{{#iferror: <span class="my error x">a</span>|bad}}{{#iferror: <span class="errors">a|bad}}',
            'bad<span class="errors">a',
        ),
        ("{{#ifexist: Page | yes | no }}", "no"),
        ("{{#switch: b | a = 1 | b | c = 2 | 3 }}", "2"),
        ("{{#switch: z | a = 1 | b | c = 2 | 3 }}", "3"),
        ("{{#switch: z | a = 1 | #default = d | b = 2 }}", "d"),
        ("{{#switch: z | #default | b = d | c = e }}", "d"),
        ("{{#switch: z | #default = d | b = 2 | last }}", "last"),
        ("{{#switch: b | b = 1 | b = 2 }}{{#switch: z | a = 1 }}{{#switch: 1 | 02 | 01 = yes }}", "1yes"),
        ("{{#switch: a&b | a&amp;b = yes }}{{#switch: | = empty | else }}", "yesempty"),
        ("{{#switch: a | a = b=c }}{{#switch:x}}", "b=c"),
    ],
)
def test_conditions(wikitext, expected):
    assert shown(wikitext) == expected


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("{{lc:ÄB}} {{uc:äb}} {{lcfirst:ÄB}} {{ucfirst:äb}} {{ucfirst:აბ}}", "äb ÄB äB Äb აბ"),
        ("{{uc:a\0001\0b}} {{uc:a<nowiki>b</nowiki><math>c</math>}}", "A\0001\0B A<nowiki>b</nowiki><math>c</math>"),
        ("{{padleft:7|3}} {{padleft:abc|2}} {{padright:a|6|xyz}} {{padleft:|1|\0001\0}}", "007 abc axyzxy "),
        ("{{urlencode:a b/ä}} {{urlencode:a b|WIKI}} {{urlencode:a b|PATH}}", "a+b%2F%C3%A4 a_b a%20b"),
        ("{{#urldecode:a%20b+%C3%A4}} {{anchorencode: a  b_ }}", "a b ä a_b"),
        ("{{fullurl:a b|x=y}} {{localurl:a b}}", "//en.wikipedia.org/w/index.php?title=a_b&x=y /wiki/a_b"),
        ("{{#len: Žmržlina }} {{#pos:Žmržlina|žlina}} {{#rpos:abab|ab}} {{#rpos:a|b}} {{#pos:a|b}}", "8 3 2 -1 "),
        ("{{#sub:Icecream|3}} {{#sub:Icecream|0|3}} {{#sub:Icecream|-3|2}} {{#sub:Icecream|3|-3}}", "cream Ice ea cr"),
        ("{{#count:a,b,c|,}} {{#replace:a-b-c|-|+}} {{#replace:a-b-c|-|+|1}}", "2 a+b+c a+b-c"),
        ("{{#explode:a b c||1}} {{#explode:a/b/c|/|-1}} {{#explode:a/b/c|/|1|2}} {{#explode:a|/|5}}", "b c b/c "),
        ("{{#titleparts:a/b/c/d|2}} {{#titleparts:a/b/c/d|-3}} {{#titleparts:A/b/c/d|1|-2}}", "A/b A c"),
        ("{{#titleparts:A/b/c|0|2}} {{#titleparts:<x>/y|1}}", "b/c <x>/y"),
        (
            "{{#rel2abs:./q|Help:Foo/bar}} {{#rel2abs:../q|Help:Foo/bar}} {{#rel2abs:q|a}}",
            "Help:Foo/bar/q Help:Foo/q q",
        ),
        (
            "{{#tag:math|x^2|display=inline}}{{#tag:ref|note}}{{#tag:sub|a}}",
            '<math display="inline">x^2</math><sub>a</sub>',
        ),
        ("{{!}}{{=}}{{((}}{{))}}{{!!}}", "|={{}}||"),
        ("{{DEFAULTSORT:x}}{{DISPLAYTITLE:x}}{{#coordinates:1|2}}{{REVISIONID}}", "-"),
        ("{{ns:6}} {{ns:user_talk}} {{ns:0}}{{NAMESPACE}}{{NAMESPACE:Talk:a}}", "File User talk Talk"),
    ],
)
def test_texts(wikitext, expected):
    assert shown(wikitext) == expected


def test_the_page():
    assert shown("{{PAGENAME}} {{FULLPAGENAME}} {{PAGENAMEE}}", title="A b: c") == "A b: c A b: c A_b:_c"
    assert shown("a {{PAGENAME}}", title="*-algebra") == "a &#42;-algebra"  # begins no list


def test_the_day_of_the_dump():
    day = datetime.date(2020, 3, 1)
    wikitext = "{{CURRENTYEAR}}-{{CURRENTMONTH}}-{{CURRENTDAY2}} {{LOCALDAY}} {{CURRENTMONTHNAME}} {{#time:j F}}"
    assert shown(wikitext, now=day) == "2020-03-01 1 March 1 March"
    with pytest.raises(Unknown):
        shown("{{CURRENTYEAR}}")


@pytest.mark.parametrize(
    ("language", "wikitext", "expected"),
    [
        ("en", "{{formatnum:1234567.50}} {{formatnum:-1234}} {{formatnum:.5}}", "1,234,567.50 −1,234 .5"),
        ("en", "{{formatnum:1.0E+6}} {{formatnum:a 1234}}", "1,000,000 a 1,234"),
        ("en", "{{formatnum:1,234.5|R}} {{formatnum:−5|R}} {{formatnum:1234|NOSEP}}", "1234.5 -5 1234"),
        ("de", "{{formatnum:1234.5}} {{formatnum:1.234,5|R}}", "1.234,5 1234.5"),
        ("pl", "{{formatnum:1234}} {{formatnum:12345}} {{formatnum:12\xa0345|R}}", "1234 12\xa0345 12345"),
        ("hi", "{{formatnum:1234567}}", "12,34,567"),
        ("fa", "{{formatnum:1234.5}} {{formatnum:۱۲۳۴٫۵|R}}", "۱٬۲۳۴٫۵ 1234.5"),
        ("en", "{{plural:1|a|b}}{{plural:2|a|b}}{{plural:1,000|a|b}} {{plural:0|0=none|a}}", "abb none"),
        ("ru", "{{plural:1|a|b|c}}{{plural:3|a|b|c}}{{plural:5|a|b|c}}{{plural:21|a|b|c}}", "abca"),
        ("ja", "{{plural:1|a|b}}", "a"),
        ("tr", "{{ucfirst:ix}} {{lcfirst:Ix}}", "İx ıx"),
        ("en", "{{#language:de}} {{#language:de|en}} {{#language:pt-br|en}}", "Deutsch German Brazilian Portuguese"),
        ("en", "{{#formatdate:2009-03-24|mdy}} {{#formatdate:May|dmy}}", "March 24, 2009 May"),
    ],
)
def test_languages(language, wikitext, expected):
    assert shown(wikitext, language) == expected


@pytest.mark.parametrize("wikitext", ["{{#language:xqx}}", "{{SITENAME}}", "{{grammar:a|b}}", "{{PAGESINCATEGORY:a}}"])
def test_what_only_the_wiki_knows(wikitext):
    with pytest.raises(Unknown):
        shown(wikitext)


def test_every_name_answers_with_no_and_with_strange_arguments():
    for name in [*FUNCTIONS, *TITLE_FUNCTIONS]:
        for arguments in ["", "|", "-1|-1|-1|-1", "1e999|99999999999999999999|x", "\0001\0|=|==|a=b", "٣|½|²"]:
            try:
                shown("{{" + name + ":" + arguments + "}}")
            except Unknown:
                pass
    for name in VARIABLES:
        try:
            shown("{{" + name + "}}")
        except Unknown:
            pass
