"""What wikitext.plain_text is measured by, on slices of real dumps: left-over marks, and the words of a careful parse.

    python benchmarks/wikitext_reference.py --dumps='dumps/*.xml.bz2'

For each dump: articles, left-over marks in all of them, recall and precision of words, MB/s of wikitext beside bz2
and, where they are installed, wikiextractor, wikitextparser and mwparserfromhell (on a sample; one run each).
"""

import bz2
import glob
import html
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator
from corpus.wikitext import hidden_namespaces, is_redirect, plain_text

MARKS = re.compile(r"\{\{|\}\}|\[\[|\]\]|<ref|\{\||\|thumb|'''|^==|__[A-Z]{3,}__|</?[a-z]+>|&[a-z]+;", re.M)
EXEMPT = re.compile(r"<(math|chem|ce|code|pre|source|syntaxhighlight|nowiki)\b[^<>]*(?<!/)>(.*?)</\1\s*>", re.S | re.I)
DROPPED = set("ref references table gallery timeline imagemap score templatedata mapframe graph".split())
CELL = re.compile(r"</?t[dhr]\b[^<>]*>", re.I)  # their ends may be left out, and mwparserfromhell's then are
LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*|simple")


def pages(path: str | Path) -> Iterator[tuple[str, str]]:
    """(title, wikitext) of each article of a dump that is no redirect; of a truncated dump, of its whole pages."""
    try:
        for _, page in ElementTree.iterparse(bz2.open(path)):
            if page.tag.endswith("}page"):
                text = page.findtext("{*}revision/{*}text") or ""
                if page.findtext("{*}ns") == "0" and page.find("{*}redirect") is None and not is_redirect(text):
                    yield page.findtext("{*}title") or "", text
                page.clear()
    except (EOFError, ElementTree.ParseError):
        return


def hidden_of(path: str | Path) -> frozenset[str]:
    """The names, from the head of a dump, of the namespaces whose links show no text."""
    names = []
    for _, element in ElementTree.iterparse(bz2.open(path)):
        if element.tag.endswith("}namespace") and element.get("key") in ("-2", "6", "14"):
            names.append(element.text or "")
        if element.tag.endswith(("}siteinfo", "}page")):
            break
    return hidden_namespaces(names)


def marks(text: str, wikitext: str, hidden: frozenset[str]) -> Counter:
    """Markup left in `text`, by kind; what stands in the mathematics and code of `wikitext` does not count."""
    for match in EXEMPT.finditer(wikitext):
        text = text.replace(html.unescape(match[2]).strip(), "")
    found = Counter(MARKS.findall(text))
    names = "|".join(map(re.escape, hidden))
    link = rf"(?im)\b(?:{names}):[^\s|]+\.(?:jpe?g|png|svg|gif|ogg)\b|^(?:{names}):\S"
    found["link"] = len(re.findall(link, text))
    return +found


def careful_text(wikitext: str, hidden: frozenset[str]) -> str:
    """The text of mwparserfromhell's tree without templates, tables, notes, pictures and empty sections."""
    import mwparserfromhell

    code = mwparserfromhell.parse(CELL.sub("\n", wikitext))
    pieces: list[str] = []
    empty = [True] * 8  # for each level of headings: no text since the last one of this level or above it, from the end
    for node in reversed(code.nodes):
        text = "".join(node_texts([node], hidden))
        level = node.level if isinstance(node, mwparserfromhell.nodes.Heading) else 0
        if level and empty[level]:
            continue  # no text under it
        if level:
            empty[level:] = [True] * (8 - level)
        elif text.strip(" \t\n*#:;"):
            empty = [False] * 8
        pieces.append(text)
    return "".join(reversed(pieces))


def node_texts(tree: Iterable, hidden: frozenset[str]) -> Iterator[str]:
    """The text of each node of mwparserfromhell."""
    from mwparserfromhell import nodes

    for node in tree:
        if isinstance(node, nodes.Wikilink):
            namespace, colon, title = str(node.title).partition(":")
            namespace = namespace.strip().lower()
            if not (colon and (namespace in hidden or (LANGUAGE.fullmatch(namespace) and title[:1] != " "))):
                yield from node_texts((node.title if node.text is None else node.text).nodes, hidden)
        elif isinstance(node, nodes.Tag):
            if str(node.tag).strip().lower() not in DROPPED and node.contents is not None:
                yield from node_texts(node.contents.nodes, hidden)
            yield "\n" if str(node.tag) in ("br", "li", "dd", "dt") else ""
        elif isinstance(node, nodes.Heading):
            yield from node_texts(node.title.nodes, hidden)
        elif isinstance(node, nodes.ExternalLink):
            if node.title is not None:
                yield from node_texts(node.title.nodes, hidden)
            elif not node.brackets:
                yield str(node.url)
        elif isinstance(node, nodes.HTMLEntity):
            yield node.normalize()
        elif isinstance(node, nodes.Text):
            yield str(node)


def words(text: str) -> Counter:
    """Each word with how often it occurs."""
    return Counter(re.findall(r"\w+", text))


def libraries() -> dict[str, Callable[[str], str]]:
    """The kept libraries that are installed, as functions from wikitext to text."""
    found: dict[str, Callable[[str], str]] = {}
    try:
        from wikiextractor.extract import Extractor

        found["wikiextractor"] = lambda text: "\n".join(
            Extractor(1, 1, "", "", []).clean_text(text, expand_templates=False)
        )
    except ImportError:
        pass
    try:
        import wikitextparser

        found["wikitextparser"] = lambda text: wikitextparser.parse(text).plain_text()
    except ImportError:
        pass
    try:
        import mwparserfromhell

        found["mwparserfromhell"] = lambda text: mwparserfromhell.parse(text).strip_code()
    except ImportError:
        pass
    return found


def speed(convert: Callable[[str], object], texts: list[str], runs: int = 1) -> float:
    """MB of wikitext (UTF-8) a second, in the best of `runs`."""
    best = float("inf")
    for _ in range(runs):
        start_s = time.perf_counter()
        for text in texts:
            convert(text)
        best = min(best, time.perf_counter() - start_s)
    return sum(len(text.encode()) for text in texts) / best / 1e6


# --- the report ---


@dataclass(frozen=True)
class ReferenceConfig:
    """Settings of `python benchmarks/wikitext_reference.py`."""

    dumps: str = ""  # pattern of MediaWiki dumps, '.xml.bz2'
    stride: int = 1  # of so many articles one is parsed for its words


@dataclass
class Comparison:
    """The words of our text and of the careful parse, over the articles of a dump."""

    ours: int = 0
    theirs: int = 0
    both: int = 0
    missing: Counter = field(default_factory=Counter)
    extra: Counter = field(default_factory=Counter)
    articles: list[tuple] = field(default_factory=list)  # (recall, precision, words of the parse, title)

    def add(self, title: str, have: Counter, want: Counter) -> None:
        """Count the words of one article: ours and those of the parse."""
        shared = (have & want).total()
        self.ours += have.total()
        self.theirs += want.total()
        self.both += shared
        self.missing += want - have
        self.extra += have - want
        recall = shared / max(1, want.total())
        precision = shared / max(1, have.total())
        self.articles.append((recall, precision, want.total(), title))

    def show(self) -> None:
        """Print the totals, the worst articles and the most frequent differences."""
        recall = self.both / max(1, self.theirs)
        precision = self.both / max(1, self.ours)
        print(f"  recall {recall:.4f} precision {precision:.4f} of {self.theirs:,} words")
        least_recall = sorted(self.articles)[:5]
        print("  least recall:", *(f"{r:.3f} {title} ({n})" for r, _, n, title in least_recall), sep="  ")
        least_precision = sorted(self.articles, key=lambda article: article[1])[:5]
        print("  least precision:", *(f"{p:.3f} {title} ({n})" for _, p, n, title in least_precision), sep="  ")
        print("  missing:", *(f"{word} {count}" for word, count in self.missing.most_common(25)))
        print("  extra:", *(f"{word} {count}" for word, count in self.extra.most_common(25)))


def bz2_speed(path: str) -> float:
    """MB of XML a second that Python's bz2 decompresses."""
    start_s = time.perf_counter()
    size = len(bz2.BZ2Decompressor().decompress(Path(path).read_bytes()))
    return size / (time.perf_counter() - start_s) / 1e6


def report(path: str, stride: int) -> None:
    """Print what the module's docstring says of one dump."""
    articles = list(pages(path))
    hidden = hidden_of(path)
    left: Counter = Counter()
    comparison = Comparison()
    for i, (title, wikitext) in enumerate(articles):
        text = plain_text(wikitext, hidden)
        left += marks(text, wikitext, hidden)
        if i % stride == 0:
            comparison.add(title, words(text), words(careful_text(wikitext, hidden)))
    print(f"{Path(path).name}: {len(articles)} articles, marks {dict(left)}")
    comparison.show()

    texts = [wikitext for _, wikitext in articles]
    sample = list(itertools.islice((text for text in texts[::7] if len(text) < 100_000), 12))
    speeds = {"bz2": bz2_speed(path), "plain_text": speed(lambda text: plain_text(text, hidden), texts, 3)}
    for name, convert in libraries().items():
        speeds[name] = speed(convert, sample)
    print("  MB/s:", *(f"{name} {value:.1f}" for name, value in speeds.items()))


def main(cfg: ReferenceConfig) -> None:
    """Report every dump."""
    paths = sorted(glob.glob(cfg.dumps))
    if not paths:
        raise ValueError(f"--dumps={cfg.dumps}: no such file; give a quoted pattern such as 'dumps/*.xml.bz2'")
    for path in paths:
        report(path, cfg.stride)


if __name__ == "__main__":
    configurator.run(main, ReferenceConfig, show=False)
