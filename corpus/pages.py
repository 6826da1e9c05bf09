"""The pages of dumps on disk, in wikitext, before any of them is read as text: what its templates show must be known.

In folder/pages, of each part of a dump, and then of all:

    part_00000.parquet        its articles: id, title, url, wikitext; and how many pages are something else
    templates_00000.parquet   its Template pages: wiki, name, target of a redirect, wikitext
    templates.sqlite          the Template pages of all parts
    learnt.json               of each wiki: rules for what no table knows (templates/learn.py), the day of the last edit
    begun.json                from which source and beside which tables all this was made

A dump is decompressed once. The work can be interrupted and goes on with the parts that are missing.
"""

import functools
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import atomic
from corpus.documents import Document, DocumentWriter, read_counts, read_documents
from corpus.pool import map_parts
from corpus.sources import Piece, TemplateSettings, Truncated, cut_parts, read_dump_pages, templates_of
from corpus.templates.learn import Standing, look_at_article, most_used, rules_by_standing
from corpus.templates.rules import tables_hash
from corpus.templates.template_pages import TemplatePage, write_template_pages
from errors import read_json


def make_pages(
    pieces: list[Piece],
    folder: Path,
    workers: int,
    settings: TemplateSettings,
    identity: dict[str, Any],
    allow_truncated: bool,
) -> list[Piece]:
    """The pieces, with a file in folder/pages in the place of each part of a dump. Without dumps nothing is done.

    settings: what else says what templates show. identity: of the source, from find_pieces.
    """
    if not any(piece.kind == "xml" for piece in pieces):
        return pieces

    forget_others(folder / "pages", {"source": identity, "tables": tables_hash(None)})
    made: list[Piece] = []
    parts: list[Path] = []
    for is_dump, run in itertools.groupby(pieces, key=lambda piece: piece.kind == "xml"):
        if not is_dump:
            made += run
            continue
        dumps = list(run)
        total_bytes = sum(piece.size_bytes for piece in dumps)
        jobs = page_jobs(dumps, folder / "pages", first=len(parts))
        of_run = map_parts(functools.partial(make_part, allow_truncated), jobs, workers, "pages", total_bytes)
        parts += [Path(piece.path) for piece in of_run]
        made += of_run

    write_rules(parts, folder / "pages")
    settings = replace(settings, pages=str(folder / "pages"))
    return [replace(piece, templates=settings) if piece.kind == "pages" else piece for piece in made]


def forget_others(folder: Path, begun: dict[str, Any]) -> None:
    """Delete pages that were read from another source, or for which rules were learnt beside other tables."""
    path = folder / "begun.json"
    if folder.is_dir() and (not path.is_file() or read_json(path) != begun):
        shutil.rmtree(folder)
    atomic.write_json(path, begun)


def page_jobs(dumps: list[Piece], folder: Path, first: int) -> Iterator[tuple[tuple[Piece, Path], int]]:
    """Yield ((the piece to read, the path to write), its bytes). A piece of a dump is a part by itself."""
    for number, (piece,) in enumerate(cut_parts(dumps), first):
        yield (piece, folder / f"part_{number:05d}.parquet"), piece.size_bytes


def make_part(allow_truncated: bool, job: tuple[Piece, Path]) -> Piece:
    """Write the pages of one piece, unless they are there; returns the piece that reads them.

    What is written is a pure function of the piece.
    """
    piece, path = job
    made = replace(piece, path=str(path), kind="pages", size_bytes=0, span=None, block=None, failure="")
    if path.is_file():
        return replace(made, size_bytes=path.stat().st_size)

    is_known = templates_of(piece.site, TemplateSettings()).is_known
    kinds: Counter = Counter()
    failure = ""
    newest = ""
    standings: dict[str, Standing] = {}
    templates_path = path.with_name(path.name.replace("part_", "templates_"))
    with atomic.new_file(path) as temporary, atomic.new_file(templates_path) as templates_temporary:
        templates = DocumentWriter(templates_temporary, compression="lz4")
        articles = DocumentWriter(temporary, compression="lz4")
        try:
            for page in read_dump_pages(piece):
                if isinstance(page, TemplatePage):
                    kinds["other_namespace"] += 1
                    templates.add(Document(piece.site.wiki, page.name, page.target, page.body))
                elif isinstance(page, Document):
                    look_at_article(page.text, is_known, standings)
                    newest = max(newest, page.edited)
                    articles.add(page)
                else:
                    kinds[page] += 1
        except Truncated as error:
            if not allow_truncated:
                raise Truncated(f"{error}; --allow_truncated=True keeps what comes before") from None
            failure = str(error)
        templates.close({})
        counts = {
            "kinds": kinds,
            "failure": failure,
            "wiki": piece.site.wiki,
            "newest": newest,
            "standings": most_used(standings),
        }
        articles.close(counts)
    return replace(made, size_bytes=path.stat().st_size)


def write_rules(parts: list[Path], folder: Path) -> None:
    """templates.sqlite and learnt.json of all parts."""
    if not (folder / "templates.sqlite").is_file():
        with atomic.new_file(folder / "templates.sqlite") as temporary:
            temporary.unlink(missing_ok=True)
            write_template_pages(temporary, template_pages(parts))
    if not (folder / "learnt.json").is_file():
        of_wiki: dict[str, list[Path]] = {}
        for part in parts:
            of_wiki.setdefault(read_counts(part)["wiki"], []).append(part)

        learnt = {}
        for wiki, its_parts in of_wiki.items():
            rules = rules_by_standing(read_counts(part)["standings"] for part in its_parts)
            newest = max(read_counts(part)["newest"] for part in its_parts)
            learnt[wiki] = {"rules": rules, "newest": newest}
        atomic.write_json(folder / "learnt.json", learnt)


def template_pages(parts: list[Path]) -> Iterator[tuple[str, TemplatePage]]:
    """(wiki, Template page) for those of all parts, in their order."""
    for part in parts:
        path = part.with_name(part.name.replace("part_", "templates_"))
        for wiki, name, target, body in read_documents(path, ("id", "title", "url", "text")):
            yield wiki, TemplatePage(name, body, target)
