"""What templates show: tables, the dump's own pages, redirects, the place; and the holes of unknown ones."""

import functools
import re

import pytest

from corpus.templates import rules as templates
from corpus.templates.expand import parse
from corpus.templates.holes import Hole
from corpus.templates.learn import look_at_article
from corpus.templates.rules import Templates, check_table, read_table, table_paths
from corpus.templates.template_pages import TemplatePage, TemplatePages, write_template_pages
from corpus.wikitext import HIDDEN, plain_text, prose


@pytest.fixture
def rules_of(tmp_path, monkeypatch):
    """A function from tables and Template pages to the rules of a wiki in the language xx, with no other tables."""

    def make(tables: dict[str, str], pages: dict[str, str] | None = None, learnt: dict | None = None) -> Templates:
        folder = tmp_path / "tables"
        folder.mkdir(exist_ok=True)
        for language, lines in tables.items():
            (folder / f"{language}.txt").write_text(lines, encoding="utf-8")
        monkeypatch.setattr(templates, "TABLES", folder)

        of_dump = None
        if pages is not None:
            found = []
            for name, body in pages.items():
                target = body.removeprefix("#REDIRECT ") if body.startswith("#REDIRECT ") else ""
                found.append(("xxwiki/1/", TemplatePage(name, "" if target else body, target)))
            path = tmp_path / "templates.sqlite"
            path.unlink(missing_ok=True)
            write_template_pages(path, found)
            of_dump = TemplatePages(path, "xxwiki/1/")
        return Templates("xx", of_dump, learnt)

    return make


def shown(wikitext: str, rules: Templates, **settings) -> str:
    return prose(wikitext, HIDDEN, rules, "The page", **settings).text


# --- the order of the rules ---


def test_the_rules_of_the_language_come_first_then_pages_then_other_tables_then_what_was_learnt(rules_of):
    tables = {"xx": "a = table", "en": "a, b, c, silent = english\nnote ="}
    pages = {"A": "page", "B": "page", "Note": "page", "D": "page"}
    rules = rules_of(tables, pages, {"b": "learnt", "c": "learnt", "d": "learnt", "e": "learnt"})
    text = shown("w {{a}} {{b}} {{c}} {{d}} {{e}} {{note}} {{Template:a}} {{ a }} {{A}} x", rules)
    assert text == "w table page english page learnt table table table x"


def test_a_redirect_leads_to_the_rule_of_its_target(rules_of):
    rules = rules_of(
        {"en": "convert = {{{1}}} {{{2}}}"}, {"Umr": "#REDIRECT Convert", "Convert": "{{#invoke:convert}}"}
    )
    assert shown("It is {{umr|2|km}} long.", rules) == "It is 2 km long."


def test_a_page_that_calls_lua_gives_way_to_the_next_rule_and_a_page_that_calls_itself_to_a_hole(rules_of):
    rules = rules_of({"en": "a = {{{1}}}"}, {"A": "{{#invoke:x|y}}", "Loop": "{{loop|{{{1}}}}}"})
    result = prose("The {{a|word}} and {{loop|x}} here.", HIDDEN, rules, "")
    assert result.text == "The word and here."
    assert [hole.name for hole in result.holes] == ["loop"]


def test_pages_use_parameters_functions_and_other_pages(rules_of):
    pages = {
        "Volume": "{{number|{{{1}}}}} {{#switch:{{{2|l}}}|l=litres|#default={{{2}}}}}{{note|{{{note|}}}}}",
        "Note": "{{#if:{{{1}}}|&#32;({{{1}}})}}",
        "Number": "'''{{formatnum:{{{1}}}}}'''<ref>by hand</ref>",
    }
    rules = rules_of({}, pages)
    text = shown(
        "A barrel of {{volume|1234}}, {{Volume|5|m³|note= about }} and {{#ifeq:a|b|c|d}} of {{PAGENAME}}.", rules
    )
    assert text == "A barrel of 1,234 litres, 5 m³ (about) and d of The page."


# --- the place ---


def test_alone_on_its_line_only_a_table_says_what_a_template_shows(rules_of):
    rules = rules_of({"en": "quote = {{{1}}}"}, {"Message": "This article is bad."}, {"learnt": "{{{1}}}"})
    alone = "{{Message}}\n{{learnt|a}}\n{{unknown|a}}\n* {{Message}}\n{{quote|Said he.}}\n[[Category:A]] {{Message}}"
    result = prose(alone, HIDDEN, rules, "")
    assert result.text == "Said he."
    assert result.holes == []
    assert shown("Text {{Message}}", rules) == "Text This article is bad."


def test_calls_in_arguments_are_settled_where_they_are_shown(rules_of):
    rules = rules_of({"en": "nowrap = {{{1}}}\nhide ="}, {"Twice": "{{{1}}} and {{{1}}}", "Word": "word"})
    result = prose("A {{nowrap|big {{word}}}}, {{twice|{{word}}}}, {{hide|{{unknown|1}}}} end.", HIDDEN, rules, "")
    assert result.text == "A big word, word and word, end."
    assert result.holes == []


def test_words_are_not_glued_where_a_silent_template_stood(rules_of):
    rules = rules_of({"en": "cn =\nshow = {{{1}}}"})
    assert shown("Said so.{{cn}}Next {{show|a{{cn}}}}b, {{#if:{{cn}}|x|y}}.", rules) == "Said so. Next ab, y."


def test_pages_in_arguments_are_text_before_a_function_or_another_call_reads_them(rules_of):
    pages = {"Wert": "5", "Wort": "haus", "Mal": "{{#expr:{{{1}}}*{{{2}}}}}"}
    rules = rules_of({"en": "measure = {{{1}}} {{{2}}}"}, pages)
    for wikitext, text in {
        "{{#switch:{{Wert}}|5=a|b}}": "a",
        "{{#ifeq:{{Wert}}|5|gleich|ungleich}}": "gleich",
        "{{padleft:{{Wert}}|4|0}}": "0005",
        "{{uc:{{Wort}}}}": "HAUS",
        "{{#len:{{Wort}}}}": "4",
        "{{#expr:{{Wert}}*2}}": "10",
        "{{measure|{{Wert}}|km}}": "5 km",
        "{{Mal|{{Wert}}|3}}": "15",
        "{{Mal|{{Mal|2|{{Wert}}}}|3}}": "30",
    }.items():
        result = prose(f"Es ist {wikitext} hier.", HIDDEN, rules, "")
        assert result.text == f"Es ist {text} hier."
        assert result.holes == []


def test_a_list_that_a_page_shows_within_a_line_is_one(rules_of):
    rules = rules_of({}, {"Liste": "* eins\n* zwei"})
    assert shown("Dann:{{Liste}}\nUnd hier.", rules) == "Dann:\n- eins\n- zwei\nUnd hier."


def test_notes_and_formulas_in_a_rule_of_a_table_are_read(rules_of):
    rules = rules_of({"en": "x = {{{1}}}<ref>note</ref><!-- comment --><math>a^2</math>"})
    assert shown("It is {{x|b}} here.", rules) == "It is b$a^2$ here."


def test_an_article_shows_at_most_so_much_by_its_templates(rules_of, monkeypatch):
    monkeypatch.setattr(
        templates.Article, "__init__", functools.partialmethod(templates.Article.__init__, chars_left=30)
    )
    rules = rules_of({"en": "long = 12345678901234567890"})
    result = prose("a {{long}} b {{long}} c {{long}} d", HIDDEN, rules, "")
    assert result.text == "a 12345678901234567890 b 12345678901234567890 c d"
    assert [hole.name for hole in result.holes] == ["long"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["word {{unk|x}} ", "{{unk}} a<!-- ", "a {{unk|b}} <ref>", "a {{unk|b}} <math>"])
def test_many_unknown_calls_on_a_line_take_linear_time(rules_of, unit):
    """Linear work takes a few seconds, quadratic work minutes."""
    prose(unit * 20_000, HIDDEN, rules_of({}), "")
    look_at_article(unit * 20_000, lambda name: False, {})


# --- holes ---


def test_a_hole_is_counted_with_its_sentence_and_its_call(rules_of):
    rules = rules_of({})
    result = prose("It is {{foo bar|180|[[km]]}} long.\n{{foo bar|1}}\n{| \n| a {{foo bar|1}}\n|}", HIDDEN, rules, "")
    assert result.text == "It is long."
    assert result.holes == [Hole("foo bar", "It is {{foo bar|180|[[km]]}} long.")]


@pytest.mark.parametrize(
    "wikitext", ["Said so.{{x|a}} Next.", "Said so.{{x|a}}{{y}}\n", "{{x}}", "* {{x|a}}", "<ref>a {{x}} b</ref>"]
)
def test_a_template_where_notes_stand_leaves_no_hole(rules_of, wikitext):
    assert prose(wikitext, HIDDEN, rules_of({}), "").holes == []


@pytest.mark.parametrize(
    "wikitext", ["{{x|a}}は人である。", "。{{x|a}}は人", "Said so {{x|a}}.", "'''{{x|a}}''' is", "({{x}}) b"]
)
def test_a_template_with_words_around_it_leaves_one(rules_of, wikitext):
    assert [hole.name for hole in prose(wikitext, HIDDEN, rules_of({}), "").holes] == ["x"]


def test_sentences_with_a_hole_can_be_dropped(rules_of):
    first = "Dr. Who is {{x|5}} years old, e.g. here."
    line = f"{first} The second stays! “It is {{{{x|6}}}}.” The third, of [[J. S. Bach]], stays."
    assert shown(line, rules_of({}), keep_holes=False) == "The second stays! The third, of J. S. Bach, stays."
    chinese = "它長{{x|5}}公里。第二句留下。「它高{{x|6}}米！」最後一句。"
    assert shown(chinese, rules_of({}), keep_holes=False) == "第二句留下。最後一句。"
    assert shown("None is lost.{{x}} Really.", rules_of({}), keep_holes=False) == "None is lost. Really."


# --- arguments ---


def test_bars_in_links_part_no_arguments_and_a_bar_template_neither(rules_of):
    rules = rules_of({"en": "first = {{{1}}}\nquote = {{{1}}}"})
    text = shown(
        "A {{first|of [[2001: A Space Odyssey|2001]] and [[wikt:b|b]] [[c]]|second}} {{first|1=a=b}} {{first|a{{!}}b}}",
        rules,
    )
    assert text == "A of 2001 and b c a=b a|b"


def test_lists_in_column_templates_stay_lists(rules_of):
    rules = rules_of({"en": "columns-list = {{{1}}}"})
    assert shown("Before.\n{{columns-list|colwidth=20em|\n* three\n* four\n}}\nAfter.", rules) == (
        "Before.\n\n- three\n- four\n\nAfter."
    )


def test_a_list_mark_that_a_table_shows_within_a_line_begins_no_item(rules_of):
    rules = rules_of({"en": "ipa = {{{1}}}\nlist = {{{1}}}"})
    assert shown("The sound {{ipa|*ʄ}} is rare.", rules) == "The sound *ʄ is rare."
    assert shown("Two:{{list|\n* a\n* b\n}}", rules) == "Two:\n- a\n- b"


def test_the_remark_behind_a_citation_goes_with_it_and_what_stands_behind_a_flag_stays(rules_of):
    rules = rules_of({"en": "cite book, flagicon, anchor ="})
    items = [
        "* {{cite book|title=A|author=B|year=1}} For the general reader.",
        "* {{flagicon|FR|size=1|variant=a|alt=b}} France",
        "* {{anchor|a}} Text. {{cite book|title=A|author=B|year=1}}",
    ]
    assert shown("Two.\n" + "\n".join(items), rules) == "Two.\n- France\n- Text."


# --- tables ---


def test_every_table_can_be_read_and_every_rule_expanded():
    """Rules with Python twins name one that is there, and no rule is wikitext with an open mark."""
    for path in table_paths():
        check_table(path)
        for rule in [*read_table(path).names.values(), *read_table(path).prefixes.values()]:
            assert not any(isinstance(node, str) and ("{{" in node or "}}" in node) for node in parse(rule)), (
                path,
                rule,
            )


@pytest.mark.parametrize(
    "lines, problem",
    [
        ("a b c", ":1: no ' = ' between names and rule"),
        ("# comment\n\na = b\nx, A = c", ":4: 'a' has a rule already"),
        ("a, = c", ":1: an empty name"),
        ("a = {{#iff:{{{1}}}|b|c}}", ": a: no parser function '#iff'; did you mean '#if'?"),
        ("a = {{#python:unheard_of}}", ": a: no Python twin 'unheard_of'; there are age, "),
        ("a = {{#python:convrt}}", ": a: no Python twin 'convrt'; did you mean 'convert'?"),
        ("a = {{#if:{{{1|}}}|x}", ": a: 5 braces are opened and 4 closed in: {{#if:{{{1|}}}|x}"),
    ],
)
def test_a_line_that_is_no_rule_is_named(tmp_path, lines, problem):
    path = tmp_path / "own.txt"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(ValueError, match="own.txt" + re.escape(problem)):
        check_table(path)


def test_a_name_with_a_star_takes_what_stood_for_it(rules_of):
    rules = rules_of({"en": "lang-* = [{{{*}}}] {{{1}}}\nlang-fr-* = ({{{*}}}) {{{1}}}"})
    assert shown("a {{lang-de|Wort}} {{lang-fr-short|mot}} {{lang-|x}}.", rules) == "a [de] Wort (short) mot."


def test_a_table_of_ones_own_comes_before_all_others(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("nowrap = mine\n", encoding="utf-8")
    assert shown("a {{nowrap|b}}", Templates("en", own_table=path)) == "a mine"
    assert plain_text("a {{nowrap|b}}") == "a b"


def test_names_of_another_language_count_only_in_pages_of_its_script(rules_of):
    rules = rules_of({"ja": "en = {{{1}}}", "fr": "x = ×", "ru": "en = русский", "xx": "own = 1"})
    assert shown("しかし、「{{en|I am happy.}}」と言う。", rules) == "しかし、「I am happy.」と言う。"
    assert shown("Он сказал: {{en|I am happy.}}", rules) == "Он сказал: русский"
    assert shown("He said, {{en|I am happy.}}, {{x}} {{own}}", rules) == "He said, 1"


@pytest.mark.parametrize("language, table", [("simple", "en"), ("nn", "no"), ("zh-yue", "zh")])
def test_a_wiki_without_a_table_may_use_that_of_another(language, table):
    assert Templates(language).tables == Templates(table).tables
