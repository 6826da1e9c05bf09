"""The Template pages of dumps on disk: a file that any number of processes read, a page at a time."""

import functools
import sqlite3
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MOST_REDIRECTS = 5
BESIDE = ("/doc", "/sandbox", "/testcases", "/styles.css")  # pages about a template, which no article uses


@dataclass(frozen=True)
class TemplatePage:
    """A page of the namespace of templates."""

    name: str  # without that of the namespace, as `page_name` spells it
    body: str  # what another page gets of it: wikitext; "" for a redirect
    target: str  # of a redirect; else ""

    @property
    def is_template(self) -> bool:
        """Whether articles can use it: documentation and trials stand beside templates."""
        return not self.name.lower().endswith(BESIDE)


def page_name(name: str) -> str:
    """A name as MediaWiki spells it: "cite_web " -> "Cite web". Case counts but in the first letter."""
    name = " ".join(name.replace("_", " ").split())
    return name[:1].upper() + name[1:]


def write_template_pages(path: Path, pages: Iterable[tuple[str, TemplatePage]]) -> None:
    """Write (wiki, page) pairs to a new file. If a page is there twice, the last counts."""
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE pages (wiki TEXT, name TEXT, body BLOB, target TEXT, PRIMARY KEY (wiki, name))")
    rows = (
        (wiki, page.name, zlib.compress(page.body.encode("utf-8", "replace"), 1), page.target)
        for wiki, page in pages
        if page.is_template
    )
    database.executemany("INSERT OR REPLACE INTO pages VALUES (?, ?, ?, ?)", rows)
    database.commit()
    database.close()


class TemplatePages:
    """The Template pages of one wiki in a file."""

    def __init__(self, path: Path, wiki: str):
        self.database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        self.wiki = wiki
        self.target = functools.lru_cache(maxsize=1 << 14)(self._target)
        self.body = functools.lru_cache(maxsize=1 << 9)(self._body)

    def _target(self, name: str) -> str | None:
        """The name of the page that `name` leads to by redirects, itself without one; None if there is no such page."""
        query = "SELECT name, target FROM pages WHERE wiki = ? AND name = ?"
        for _ in range(MOST_REDIRECTS):
            row = self.database.execute(query, (self.wiki, page_name(name))).fetchone()
            if row is None:
                return None
            name, target = row
            if not target:
                return name
            name = target
        return None

    def _body(self, name: str) -> str:
        """The wikitext of a page, by its name from `target`."""
        query = "SELECT body FROM pages WHERE wiki = ? AND name = ?"
        (body,) = self.database.execute(query, (self.wiki, name)).fetchone()
        return zlib.decompress(body).decode()
