"""What the templates of an article show its readers: {{cvt|180|km}} is "180 km (110 mi)".

A rule says what a template shows. It is wikitext, as a Template page is written, and comes from

    1. the table of the wiki's language      tables/ja.txt, one rule a line; and a file of your own
    2. the dump's own Template pages         corpus/templates/template_pages.py; without those that call Lua
    3. the names of countries                corpus/templates/countries.py
    4. the other tables, English first       many wikis took the English names over
    5. where templates of this name stand    corpus/templates/learn.py

What none of them knows shows nothing. In a sentence that leaves a hole, which is counted (holes.py).
Rules of 2, 3 and 5 are not used for templates that stand alone on their line: infoboxes, messages, navigation.
"""

import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import xxhash

from corpus.templates.countries import country_name
from corpus.templates.expand import Expansion, Tree, expand, parse
from corpus.templates.parser_functions import ERROR, FUNCTIONS, VARIABLES
from corpus.templates.template_pages import TemplatePages
from corpus.templates.twins import TWINS
from corpus.templates.units import UNITS
from errors import one_line

TABLES = Path(__file__).with_name("tables")
MOST_CHARS = 1 << 21  # that the templates of one article may show; MediaWiki's limit is 2 MiB as well
SHORT = 5_000  # characters of a rule whose tree is kept in memory
BUDGET = 50_000  # nodes that one call in an article may expand
FUNCTION = re.compile(r"\{\{\s*(#\w+):")
TWIN = re.compile(r"\{\{#python:\s*([^|{}]*?)\s*[|}]")


@functools.lru_cache(maxsize=1 << 14)  # a third of the time; asked for every call of a dump
def canonical(name: str) -> str:
    """A template's name as tables spell it: lower-case, single spaces. " Cite_web " -> "cite web"."""
    return " ".join(name.replace("_", " ").split()).lower()


# --- tables ---


@dataclass(frozen=True)
class Table:
    """The rules of one file."""

    names: dict[str, str]  # {canonical name: wikitext}; "" shows nothing
    prefixes: dict[str, str]  # {"lang-": wikitext with {{{*}}}}
    prefix_lengths: tuple[int, ...]  # the longest first

    def find(self, name: str) -> str | None:
        """The rule for a canonical name, with {{{*}}} filled in; None without one."""
        rule = self.names.get(name)
        if rule is not None:
            return rule
        for length in self.prefix_lengths:
            rule = self.prefixes.get(name[:length])
            if rule is not None and len(name) > length:
                return rule.replace("{{{*}}}", name[length:])
        return None


def read_table(path: Path) -> Table:
    """The rules of a file like tables/en.txt. Raises ValueError with the place of a line that is none."""
    if not path.exists():
        raise ValueError(f"{path}: no such file of templates; write lines such as: name, other name = wikitext")
    with one_line(f"{path}: cannot be read as text: ", OSError, UnicodeDecodeError):
        content = path.read_text(encoding="utf-8")
    return parse_table(path, content)


@functools.lru_cache(maxsize=256)
def parse_table(path: Path, content: str) -> Table:
    """The rules in the content of a file."""
    names: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        left, equals, rule = f"{line} ".partition(" = ")
        place = f"{path}:{number}"
        if not equals:
            raise ValueError(f"{place}: no ' = ' between names and rule; write: name, other name = wikitext")

        for name in left.split(","):
            key = canonical(name)
            is_prefix = len(key) > 1 and key.endswith("*")  # {{*}} is a name
            rules = prefixes if is_prefix else names
            key = key.removesuffix("*") if is_prefix else key
            if not key:
                raise ValueError(f"{place}: an empty name; write: name, other name = wikitext")
            if key in rules:
                raise ValueError(f"{place}: '{key}' has a rule already in this file; delete one of the two")
            rules[key] = rule.strip()
    lengths = {len(prefix) for prefix in prefixes}
    return Table(names, prefixes, tuple(sorted(lengths, reverse=True)))


def check_table(path: Path) -> None:
    """Raise ValueError for a file with a line that is no rule, has an open brace, or calls what is not there."""
    table = read_table(path)
    for name, rule in [*table.names.items(), *table.prefixes.items()]:
        opened, closed = rule.count("{"), rule.count("}")
        if opened != closed:
            raise ValueError(f"{path}: {name}: {opened} braces are opened and {closed} closed in: {rule}")
        for twin in TWIN.findall(rule):
            refuse_unknown(f"{path}: {name}: no Python twin", twin, TWINS)
        for function in FUNCTION.findall(rule):
            refuse_unknown(f"{path}: {name}: no parser function", function.lower(), FUNCTIONS)


def refuse_unknown(complaint: str, name: str, known: Collection[str]) -> None:
    """Raise ValueError for a name that is none of the known ones."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known))}"
    raise ValueError(f"{complaint} '{name}'; {advice}")


def table_paths() -> list[Path]:
    """The files of all languages."""
    return sorted(TABLES.glob("*.txt"))


# Wikis without a table of their own that use the names of another one.
SAME_NAMES = {
    "simple": "en",
    "nb": "no",
    "nn": "no",
    "yue": "zh",
    "zh-yue": "zh",
    "wuu": "zh",
    "gan": "zh",
    "lzh": "zh",
}

# Short names mean other things in other languages, so the table of another one counts only in pages of its script.
# English names are everywhere; those of other languages in Latin script count in their own wikis only.
SCRIPTS = {
    "Chinese characters, kana, Hangul": ("\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af", ("ja", "zh", "ko")),
    "Cyrillic": ("\u0400-\u04ff", ("ru", "uk", "bg", "sr")),
    "Arabic": ("\u0600-\u06ff", ("ar", "fa")),
    "Hebrew": ("\u0590-\u05ff", ("he",)),
    "Greek": ("\u0370-\u03ff", ("el",)),
    "Devanagari": ("\u0900-\u097f", ("hi",)),
    "Bengali": ("\u0980-\u09ff", ("bn",)),
    "Tamil": ("\u0b80-\u0bff", ("ta",)),
    "Thai": ("\u0e00-\u0e7f", ("th",)),
}
LETTERS = {script: re.compile(f"[{letters}]") for script, (letters, _) in SCRIPTS.items()}
OTHER_THAN_LATIN = re.compile("[" + "".join(letters for letters, _ in SCRIPTS.values()) + "]")
LOOKED_AT = 4_000  # characters of a page
SCRIPT_SHARE = 0.1  # of these: a page in Japanese has much markup in Latin letters


def main_script(wikitext: str) -> str:
    """The key of SCRIPTS in which a page is written; "" for Latin and scripts that are not there."""
    begin = wikitext[:LOOKED_AT]
    others = "".join(OTHER_THAN_LATIN.findall(begin))
    if len(others) <= SCRIPT_SHARE * len(begin):
        return ""
    return max(LETTERS, key=lambda script: len(LETTERS[script].findall(others)))


def tables_hash(own_table: Path | None) -> str:
    """What changes when a table does, that of the user included."""
    own = [own_table] if own_table is not None else []
    contents = [path.read_bytes() for path in (*own, *table_paths(), UNITS)]
    return xxhash.xxh3_128_hexdigest(b"\0".join(contents))


# --- all rules of one wiki ---


@dataclass(frozen=True)
class Rule:
    """What a template shows, as wikitext."""

    wikitext: str | None  # None: the body of a page of the dump, which is read when it is needed
    anywhere: bool  # also for a template that stands alone on its line
    page: str = ""  # the name of that page


def same(inside: str) -> str:
    """The call as it is: no call waits in its arguments."""
    return inside


class Templates:
    """The rules of one wiki, and what its templates show by them."""

    def __init__(
        self,
        language: str = "en",
        pages: TemplatePages | None = None,
        learnt: Mapping[str, str] | None = None,
        own_table: Path | None = None,
        namespaces: frozenset[str] = frozenset({"template"}),
        now: date | None = None,
    ):
        """language: of the wiki, as in its address: "en", "zh-yue".

        learnt: {canonical name: wikitext}. own_table: a file of the user's, before all others. namespaces: lower-case
        names that {{Template:name}} may begin with. now: the date of the dump.
        """
        by_language = {path.stem: read_table(path) for path in table_paths()}
        own_language = SAME_NAMES.get(language, language)
        of_language = [by_language[own_language]] if own_language in by_language else []
        own = [read_table(own_table)] if own_table is not None else []
        self.tables = [*own, *of_language]
        english = [by_language["en"]] if "en" in by_language and own_language != "en" else []
        self.other_tables = {"": english}  # by main script of the page
        for script, (_, languages) in SCRIPTS.items():
            others = [by_language[name] for name in languages if name in by_language and name != own_language]
            self.other_tables[script] = [*english, *others]
        self.language = language
        self.pages = pages
        self.learnt = learnt or {}
        self.namespaces = namespaces
        self.now = now
        self.rules = functools.lru_cache(maxsize=1 << 14)(self._rules)
        self.is_known = functools.lru_cache(maxsize=1 << 14)(self._is_known)
        self.short_tree = functools.lru_cache(maxsize=1 << 14)(parse)

    def bare(self, name: str) -> str:
        """A name without that of the namespace: "Template:Cvt" -> "Cvt"."""
        namespace, colon, rest = name.partition(":")
        if colon and canonical(namespace) in self.namespaces:
            return rest
        return name

    def _is_known(self, key: str) -> bool:
        """Whether a table has a rule for a canonical name."""
        others = [table for tables in self.other_tables.values() for table in tables]
        return first_rule([*self.tables, *others], [key]) is not None

    def _rules(self, name: str, script: str) -> tuple[Rule, ...]:
        """The rules for a name as it is written, the best first. If one cannot say what is shown, the next may.

        script: in which the page is written, from `main_script`.
        """
        name = self.bare(name)
        page = self.pages.target(name) if self.pages is not None else None
        keys = [canonical(name)]
        if page is not None:
            keys.append(canonical(page))  # where its redirects lead

        own = first_rule(self.tables, keys)
        other = first_rule(self.other_tables[script], keys)
        if own == "" or own is None and other == "":
            return (Rule("", anywhere=True),)  # a note or a picture, which the page of this wiki would show

        rules = []
        if own is not None:
            rules.append(Rule(own, anywhere=True))
        if page is not None:
            rules.append(Rule(None, anywhere=False, page=page))
        country = country_name(" ".join(name.split()), self.language)
        if country is not None:
            rules.append(Rule(country, anywhere=False))
        if own is None and other is not None:
            rules.append(Rule(other, anywhere=True))
        for key in keys:
            learnt = self.learnt.get(key, self.learnt.get(key.rpartition("-")[0] + "-*"))
            if learnt is not None:
                rules.append(Rule(learnt, anywhere=False))
        return tuple(rules)

    def tree(self, rule: Rule) -> Tree:
        """A rule, parsed."""
        wikitext = self.pages.body(rule.page) if rule.wikitext is None else rule.wikitext
        return self.short_tree(wikitext) if len(wikitext) <= SHORT else parse(wikitext)

    # --- what a call shows ---

    def show(
        self, inside: str, article: "Article", alone: bool | None, settled: Callable[[str], str] = same
    ) -> str | None:
        """The wikitext that {{inside}} shows in an article; None when no rule can say.

        alone: whether it stands alone on its line; None: that is not known yet. By the best rule:

            of a table, that shows nothing      ""           wherever it stands
            of a table                          its text     wherever it stands
            of a page, a country, or learnt     None         when the place is not known: ask again when it is
                                                its text     beside words
                                                None         alone: infoboxes, messages, navigation

        settled: makes text of the calls that wait in `inside`; it is called when a rule or a function needs them.
        """
        name = inside.partition("|")[0]
        rules = self.rules(name, article.script)
        if not rules:
            is_function = "#" in name or ":" in name or name.strip() in VARIABLES
            if not is_function:
                return None
            return self.expanded(settled(inside), article, lambda used: self.find(used, article))

        for rule in rules:
            if alone is None and not rule.anywhere:
                return None
            if alone and not rule.anywhere:
                continue
            if rule.wikitext == "":
                return ""
            shown = self.by_rule(rule, settled(inside), article)
            if shown is not None:
                return shown
        return None

    def by_rule(self, rule: Rule, inside: str, article: "Article") -> str | None:
        """What {{inside}} shows by this rule; None when that cannot be said."""
        tree = self.tree(rule)
        name = canonical(self.bare(inside.partition("|")[0]))

        def find(used: str) -> Tree | None:
            return tree if canonical(used) == name else self.find(used, article)

        shown = self.expanded(inside, article, find)
        is_one_item = shown is not None and shown.startswith("\n") and shown.count("\n") == 1
        if rule.anywhere and is_one_item:
            return shown[1:]  # {{IPA|*ʄ}} is no list, as it would be on a page that shows *ʄ without a tag around it
        return shown

    def expanded(self, inside: str, article: "Article", find: Callable[[str], Tree | None]) -> str | None:
        """{{inside}} with the rules that `find` gives; None when that cannot be said."""
        if article.chars_left <= 0:
            return None
        expansion = Expansion(
            find=find,
            twins=TWINS,
            language=self.language,
            title=article.title,
            budget=BUDGET,
            now=self.now,
        )
        try:
            shown = expand(parse("{{" + inside + "}}"), {}, expansion)
        except ValueError:  # Unknown, TooMuch, or a twin that cannot say
            return None
        article.chars_left -= len(shown)
        return None if ERROR.search(shown) else shown  # "Expression error: ..." is no sentence's word

    def find(self, name: str, article: "Article") -> Tree | None:
        """The parsed rule of a template that another one uses; None without one."""
        rules = self.rules(name, article.script)
        return self.tree(rules[0]) if rules else None


@dataclass
class Article:
    """What of an article decides what its templates show."""

    title: str
    script: str  # from `main_script`
    chars_left: int = MOST_CHARS  # that its templates may still show


def first_rule(tables: Iterable[Table], keys: Iterable[str]) -> str | None:
    """The rule for the first of the canonical names that a table has; the first table counts."""
    for key in keys:
        for table in tables:
            rule = table.find(key)
            if rule is not None:
                return rule
    return None
