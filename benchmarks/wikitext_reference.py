"""What wikitext.plain_text is measured by, on slices of real dumps: left-over marks, and the words of a careful parse.

    python benchmarks/wikitext_reference.py ../shared/data/wiki/xml/*.bz2

A row per dump: articles, left-over marks in all of them, recall and precision of words, MB/s of wikitext beside bz2
and, where they are installed, wikiextractor, wikitextparser and mwparserfromhell (on a sample; one run each).
"""

import bz2
import html
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

from corpus.wikitext import hidden_namespaces, is_redirect, plain_text

MARKS = re.compile(r"\{\{|\}\}|\[\[|\]\]|<ref|\{\||\|thumb|'''|^==|__[A-Z]{3,}__|</?[a-z]+>|&[a-z]+;", re.M)
EXEMPT = re.compile(r"<(math|chem|ce|code|pre|source|syntaxhighlight|nowiki)\b[^<>]*(?<!/)>(.*?)</\1\s*>", re.S | re.I)
DROPPED = {
    "ref",
    "references",
    "table",
    "gallery",
    "timeline",
    "imagemap",
    "score",
    "templatedata",
    "mapframe",
    "graph",
}
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


def main(paths: list[str]) -> None:
    """Print what the module's docstring says."""
    for path in paths:
        articles, hidden = list(pages(path)), hidden_of(path)
        left, ours, theirs, both, worst = Counter(), 0, 0, 0, []
        missing, extra = Counter(), Counter()
        for i, (title, wikitext) in enumerate(articles):
            text = plain_text(wikitext, hidden)
            left += marks(text, wikitext, hidden)
            if i % STRIDE == 0:
                have, want = words(text), words(careful_text(wikitext, hidden))
                shared = (have & want).total()
                ours, theirs, both = ours + have.total(), theirs + want.total(), both + shared
                worst.append((shared / max(1, want.total()), shared / max(1, have.total()), want.total(), title))
                missing += want - have
                extra += have - want
        texts = [wikitext for _, wikitext in articles]
        sample = list(itertools.islice((i for i in texts[::7] if len(i) < 100_000), 12))
        start_s = time.perf_counter()
        size = len(bz2.BZ2Decompressor().decompress(Path(path).read_bytes()))
        bz2_speed = size / (time.perf_counter() - start_s) / 1e6
        print(f"{Path(path).name}: {len(articles)} articles, marks {dict(left)}")
        print(f"  recall {both / theirs:.4f} precision {both / ours:.4f} of {theirs:,} words")
        print("  least recall:", *(f"{r:.3f} {title} ({n})" for r, _, n, title in sorted(worst)[:5]), sep="  ")
        print(
            "  least precision:",
            *(f"{p:.3f} {title} ({n})" for _, p, n, title in sorted(worst, key=lambda i: i[1])[:5]),
            sep="  ",
        )
        print("  missing:", *(f"{word} {n}" for word, n in missing.most_common(25)))
        print("  extra:", *(f"{word} {n}" for word, n in extra.most_common(25)))
        speeds = {"bz2": bz2_speed, "plain_text": speed(lambda text, names=hidden: plain_text(text, names), texts, 3)}
        speeds |= {name: speed(convert, sample) for name, convert in libraries().items()}
        print("  MB/s:", *(f"{name} {value:.1f}" for name, value in speeds.items()))


STRIDE = 1  # every so many article is parsed for its words


if __name__ == "__main__":
    main(sys.argv[1:])
