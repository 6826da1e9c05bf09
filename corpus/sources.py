"""Where documents come from.

    wikimedia/wikipedia/20231101.en     a config of a data set on the Hugging Face hub: parquet files, downloaded once
    'enwiki-*-pages-articles*.xml.bz2'  MediaWiki dumps, of one stream or many; also .xml, .xml.gz, .xml.zst
    'path/*.jsonl' and so on            your files: .jsonl, .json, .csv, .tsv, .parquet, .txt, .md, .html; also packed
    texts.zip, texts.tar.gz             archives of such files
    's3://bucket/*.parquet', https://   files elsewhere, by fsspec; copied once
    pydocs                              the docstrings of Python and of the packages in requirements.txt: no download;
                                        for prepare_chat.py, questions and answers that are made of them

A source is a list of pieces. A piece is a file, or a part of a file that can be read by itself. Small pieces are
gathered, and long files are cut, into parts of about PART_BYTES: the units of work. A part is read by a pure function,
so any number of processes gives the same documents.

To add a format, write the function that reads its rows and one entry in FORMATS, in the middle of this file.
"""

import contextlib
import csv
import functools
import glob
import io
import itertools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

import errors
from corpus import dump, pydocs, pydocs_chat
from corpus.documents import Document, files_matching, read_counts, read_documents, short_hash, state_of
from corpus.dump import Site
from corpus.files import archives, html_text, remote
from corpus.files.compressed import COMPRESSION, decompressed, open_compressed
from corpus.files.copies import begin_anew, local_copy
from corpus.files.json_objects import read_objects
from corpus.templates.rules import Templates
from corpus.templates.template_pages import TemplatePage, TemplatePages
from corpus.wikitext import prose

PART_BYTES = 8 << 20  # of decompressed text in a part, about
STREAM_BYTES = 2 << 20  # of a multistream dump in a part: compressed, about a quarter
MOST_LOOKED_AT = 10_000  # files of a folder, to find out what it holds
LONGEST_CELL = (1 << 31) - 1  # characters in a cell of a csv file; Python's own limit is 131,072
HUB = re.compile(r"([\w.-]+/[\w.-]+)/([\w.-]+)")
HUB_CONFIG = re.compile(r"(\d{8})\.([\w-]+)")  # date.language, as wikimedia/wikipedia names its folders
# At the beginning of a markdown file: `title: Notes`, then more of these, `  - indented`, `# comment` or blank lines.
FRONT_MATTER = re.compile(
    r"""(?P<mark>---|\+\+\+)[ \t]*\r?\n
        (?P<settings>[\w.-]+[ \t]*[:=].*\n(?:[\w.-]+[ \t]*[:=].*\n|[ \t\#\]}-].*\n|\r?\n)*?)
        (?P=mark)[ \t]*(?:\r?\n|\Z)""",
    re.VERBOSE,
)
TITLE_SETTING = re.compile(r"""^title[ \t]*[:=][ \t]*["']?(.+?)["']?[ \t\r]*$""", re.MULTILINE)
EXTRACTED = re.compile(r'<doc id="([^"]*)" url="([^"]*)" title="(.*?)">\n(.*?)\n*</doc>', re.DOTALL)


@dataclass(frozen=True)
class TemplateSettings:
    """What the templates of a dump show, beside the tables."""

    pages: str = ""  # the folder of corpus/pages.py; "": the pages of the dump are not looked at
    own_table: str = ""  # a file of the user's
    tables: str = ""  # the hash of all tables: when it changes, they are read anew
    keep_holes: bool = True  # False: sentences in which a template shows something unknown are dropped


@dataclass(frozen=True)
class Piece:
    """What one reader reads: a file, some row groups of a parquet file, or a block of a long file."""

    path: str  # of a file on this disk
    name: str  # the path below the common folder of all files; ids that are made here begin with it
    kind: str  # a key of FORMATS
    size_bytes: int
    member: str = ""  # of the archive at `path`: the name of the file inside
    origin: str = ""  # what messages call the file, where that is not `path`
    prefix: str = ""  # of the source's own ids
    row_group: int | None = None  # parquet only
    span: tuple[int, int] | None = None  # of a multistream dump: the bytes of its streams
    block: bytes | None = None  # decompressed; whole rows or pages
    start: int = 0  # the number of the first row in the block
    site: Site | None = None  # dumps only
    templates: TemplateSettings = TemplateSettings()  # dumps only
    failure: str = ""  # why the file ends with this block, if the file is damaged

    @property
    def where(self) -> str:
        """What messages call the file."""
        return self.origin or self.path


class Truncated(ValueError):
    """A file is damaged or cut off: what comes before can be kept."""


@contextmanager
def named(piece: Piece) -> Iterator[None]:
    """Messages name what the user gave: texts.zip/a.txt, and not the archive alone or a copy of the file."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        if not piece.origin or not message.startswith(piece.path):
            raise
        kind = Truncated if isinstance(error, Truncated) else ValueError
        raise kind(piece.origin + message.removeprefix(piece.path)) from None


Row = tuple[int, dict[str, Any]]  # its number in the file, counted from 0, and its fields


def keep_file(piece: Piece, text_column: str | None) -> Iterable[Piece]:
    """The file as one piece."""
    return [piece]


def keep_piece(piece: Piece) -> Iterable[Piece] | None:
    """No blocks: the piece is read as it is, together with its neighbours."""
    return None


@dataclass(frozen=True)
class Format:
    """How the files of one format are read: by their rows, or as documents."""

    suffixes: tuple[str, ...]  # how the names of its files end; .gz, .bz2 or .zst may follow
    read_rows: Callable[[Piece], Iterator[Row]] | None = None
    read_documents: Callable[[Piece], Iterator[Document | str]] | None = None  # see read_part
    # Before anything is read: the pieces of a file (cheap to find), and whether it has the text column.
    split_file: Callable[[Piece, str | None], Iterable[Piece]] = keep_file
    # While parts are made: the blocks of a long piece, each of which becomes a part; None: the piece is not cut.
    cut_long: Callable[[Piece], Iterable[Piece] | None] = keep_piece
    # Read here and there, not from the beginning to the end: inside an archive it is unpacked first.
    needs_file: bool = False


# --- jsonl, json ---


def open_bytes(piece: Piece) -> tuple[Any, Any]:
    """(what is read, a stream of its decompressed bytes) of a piece. The first tells how far the reading is."""
    if piece.block is not None:
        block = io.BytesIO(piece.block)
        return block, block
    if piece.member:
        raw = archives.open_archive(piece.path).open(piece.member)
        return raw, decompressed(raw, piece.member)
    return open_compressed(piece.path)


def open_text(piece: Piece, newline: str = "\n") -> io.TextIOWrapper:
    """The text of a piece, decompressed and decoded."""
    _, stream = open_bytes(piece)
    # A file may begin with a byte-order mark. A later block of it may not.
    encoding = "utf-8" if piece.start else "utf-8-sig"
    return io.TextIOWrapper(stream, encoding=encoding, newline=newline)


def read_jsonl(piece: Piece) -> Iterator[Row]:
    """A JSON object on each line; blank lines are skipped."""
    row = piece.start
    try:
        with open_text(piece) as file:
            for row, line in enumerate(file, piece.start):
                if not line.strip():
                    continue
                fields = json.loads(line)
                if not isinstance(fields, dict):
                    raise ValueError("not a JSON object")
                yield row, fields
    except UnicodeDecodeError:
        raise ValueError(f"{piece.path}: not UTF-8 text near line {row + 1}; is it a binary file?") from None
    except (ValueError, RecursionError) as error:
        wanted = "one JSON object a line is wanted"
        raise ValueError(f"{piece.path}: line {row + 1} cannot be read: {error}; {wanted}") from None
    except OSError as error:
        raise Truncated(f"{piece.path}: damaged after line {row}: {error}") from None
    if piece.failure:
        raise Truncated(f"{piece.path}: {piece.failure}")


def cut_at_newlines(piece: Piece) -> Iterator[Piece] | None:
    """The blocks of a long jsonl file: whole rows."""
    if piece.size_bytes <= PART_BYTES:
        return None
    return cut_file(piece, mark=b"\n", closing=b"")


def cut_file(piece: Piece, mark: bytes, closing: bytes) -> Iterator[Piece]:
    """Blocks of about PART_BYTES, decompressed; each ends with a `mark`. See dump.blocks."""
    row = 0
    before = 0
    for block, position, failure in dump.blocks(open_bytes(piece), PART_BYTES, mark, closing):
        yield replace(piece, size_bytes=position - before, block=block, start=row, failure=failure)
        row += block.count(b"\n")
        before = position


def read_json(piece: Piece) -> Iterator[Row]:
    """The objects of an array; or objects that follow each other, as in a jsonl file that is named .json."""
    row = piece.start
    try:
        with open_text(piece) as file:
            for _, fields in read_objects(file):
                yield row, fields
                row += 1
    except UnicodeDecodeError:
        raise ValueError(f"{piece.path}: not UTF-8 text behind object {row - 1}; is it a binary file?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{piece.path}: object {row} cannot be read: {error}") from None
    except (OSError, EOFError) as error:
        raise Truncated(f"{piece.path}: damaged after {row} objects: {error}") from None
    if piece.failure:
        raise Truncated(f"{piece.path}: {piece.failure}")


def cut_objects(piece: Piece) -> Iterator[Piece] | None:
    """The blocks of a long json file: whole objects, one after the other."""
    if piece.size_bytes <= PART_BYTES:
        return None
    return blocks_of_objects(piece)


def blocks_of_objects(piece: Piece) -> Iterator[Piece]:
    """Blocks of about PART_BYTES characters. Where the file cannot be read, read_json says why."""
    raw, stream = open_bytes(piece)
    before = 0  # where the last block ended in the file
    start = 0  # the number of the first object that waits
    objects: list[str] = []  # what waits, as it is written
    waiting = 0  # characters in them
    failure = ""

    def block() -> Piece:
        content = "\n".join(objects).encode()
        return replace(piece, size_bytes=raw.tell() - before, block=content, start=start, failure=failure)

    with raw, stream:
        file = io.TextIOWrapper(stream, encoding="utf-8-sig")
        try:
            for written, _ in read_objects(file):
                objects.append(written)
                waiting += len(written)
                if waiting >= PART_BYTES:
                    yield block()
                    before = raw.tell()
                    start += len(objects)
                    objects, waiting = [], 0
        except (OSError, EOFError) as error:
            failure = f"damaged after {start + len(objects)} objects: {error}"
        except (ValueError, RecursionError) as error:
            place = f"object {start + len(objects)}"
            raise ValueError(f"{piece.path}: {place} cannot be read: {error}") from None
        yield block()


# --- txt, md, html ---


def read_text(piece: Piece) -> tuple[str, str]:
    """(All of a text file, ""); of a damaged one (its lines before the damage, what is damaged).

    Raises ValueError for a binary file, Truncated when nothing comes before the damage.
    """
    failure = ""
    try:
        with open_text(piece) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{piece.path}: not UTF-8 text at byte {error.start}; is it a binary file?") from None
    except OSError as error:
        failure = f"{piece.path}: damaged: {error}"
        text = "".join(lines_before_damage(piece))
        if not text:
            raise Truncated(failure) from None
    if "\0" in text:
        raise ValueError(f"{piece.path}: holds null bytes; a binary file is not text")
    return text, failure


def lines_before_damage(piece: Piece) -> Iterator[str]:
    """The whole lines of a damaged text file."""
    with contextlib.suppress(OSError), open_text(piece) as file:
        yield from file


def read_txt(piece: Piece) -> Iterator[Row]:
    """The file is one document. Or it has those of WikiExtractor: <doc id=.. url=.. title=..>, plain text, </doc>."""
    text, failure = read_text(piece)
    if not text.startswith('<doc id="'):
        yield 0, {"text": text, "title": Path(piece.name).name}
    else:
        for row, match in enumerate(EXTRACTED.finditer(text)):
            document_id, url, title, body = match.groups()
            yield row, {"id": document_id, "url": url, "title": title, "text": body}
    if failure:
        raise Truncated(failure)


def read_markdown(piece: Piece) -> Iterator[Row]:
    """The file is one document, its marks are kept. The settings before the text (front matter) are left out.

    ---                                  the title is "Notes on rain", the text "# Rain\n..."
    title: Notes on rain
    date: 2024-05-01
    ---
    # Rain
    """
    text, failure = read_text(piece)
    title = Path(piece.name).name
    match = FRONT_MATTER.match(text)
    if match:
        text = text[match.end() :]
        named = TITLE_SETTING.search(match["settings"])
        title = named[1] if named else title
    yield 0, {"text": text, "title": title}
    if failure:
        raise Truncated(failure)


def read_html(piece: Piece) -> Iterator[Row]:
    """The file is one document: the main text of the page, and its <title>."""
    try:
        _, stream = open_bytes(piece)
        with stream:
            page = stream.read()
    except OSError as error:
        raise Truncated(f"{piece.path}: damaged: {error}") from None
    if b"\0" in page and not page.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{piece.path}: holds null bytes; a binary file is not a web page")
    title, text = html_text.main_text(html_text.decode(page))
    yield 0, {"text": text, "title": title or Path(piece.name).name}


def check_html_package(piece: Piece, text_column: str | None) -> list[Piece]:
    """The file as one piece. Raises ValueError when the package that reads pages is missing."""
    html_text.require_package(piece.path)
    return [piece]


# --- csv, tsv ---


def read_csv(piece: Piece, delimiter: str = ",", columns: list[str] | None = None) -> Iterator[Row]:
    """Rows whose columns the first line names. Cells with a delimiter, a quote or a newline stand in double quotes.

    columns: those of a file whose first line is a row already.

    The file is read as a whole, never in blocks: a newline may be part of a cell, and only what stands before it says
    whether it is.
    """
    csv.field_size_limit(LONGEST_CELL)
    header = columns
    row = 0
    try:
        with open_text(piece, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for cells in reader:
                place = f"row {row} (line {reader.line_num})"
                if any("\0" in cell for cell in cells):
                    raise ValueError(f"{place} holds null bytes; is it UTF-16? convert it: iconv -f UTF-16 -t UTF-8")
                if not cells:  # a blank line
                    continue
                if header is None:
                    header = cells
                    continue
                if len(cells) != len(header):
                    advice = "cells that hold a delimiter or a newline must stand in double quotes"
                    named = "the header names" if columns is None else f"wanted are {', '.join(columns)}:"
                    raise ValueError(f"{place} has {len(cells)} cells, {named} {len(header)}; {advice}")
                yield row, dict(zip(header, cells, strict=True))
                row += 1
    except UnicodeDecodeError:
        raise ValueError(f"{piece.path}: not UTF-8 text near row {row}; is it a binary file?") from None
    except csv.Error as error:
        place = f"row {row} (which ends on line {reader.line_num})"
        advice = 'a quote inside a quoted cell is written twice, ""'
        raise ValueError(f"{piece.path}: {place} cannot be read: {error}; {advice}") from None
    except ValueError as error:
        raise ValueError(f"{piece.path}: {error}") from None
    except OSError as error:
        raise Truncated(f"{piece.path}: damaged after row {row}: {error}") from None


def check_csv_columns(piece: Piece, text_column: str | None, delimiter: str = ",") -> list[Piece]:
    """The file as one piece. Raises ValueError when its header has no text column."""
    try:
        with open_text(piece, newline="") as file:
            lines = csv.reader(file, delimiter=delimiter)
            header = next((cells for cells in lines if cells), None)
    except (UnicodeDecodeError, csv.Error, OSError):
        return [piece]  # read_csv says what is wrong, and keeps what can be kept
    if header is not None:
        check_columns(piece.path, header, text_column)
    return [piece]


def check_columns(path: str, columns: list[str], text_column: str | None) -> None:
    """Raise ValueError unless exactly one of `columns` is the text column (None: no column is needed)."""
    if text_column is None:
        return
    names = ", ".join(columns)
    if text_column not in columns:
        advice = "set --text_column"
        if len(columns) == 1 and text_column in re.split("[;,\t|]", names):
            advice = "another delimiter is used: .csv wants commas, .tsv tabs; save it so, or rename it"
        raise ValueError(f"{path}: no column '{text_column}' (columns: {names}); {advice}")
    if columns.count(text_column) > 1:
        raise ValueError(f"{path}: two columns are named '{text_column}' (columns: {names}); rename one")


# --- parquet ---


def split_parquet(piece: Piece, text_column: str | None) -> Iterator[Piece]:
    """The row groups of a parquet file."""
    try:
        file = pq.ParquetFile(piece.path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{piece.path}: not a parquet file: {str(error).splitlines()[0]}") from None
    check_columns(piece.path, file.schema_arrow.names, text_column)

    folder = Path(os.path.abspath(piece.path)).parent.name
    hub_config = HUB_CONFIG.fullmatch(folder)
    prefix = ""
    if hub_config:
        date, language = hub_config.groups()
        prefix = f"{language}wiki/{date}/"

    for group in range(file.num_row_groups):
        size_bytes = file.metadata.row_group(group).total_byte_size
        yield replace(piece, size_bytes=size_bytes, prefix=prefix, row_group=group)


def read_parquet(piece: Piece) -> Iterator[Row]:
    """The rows of one row group."""
    file = pq.ParquetFile(piece.path)
    row = sum(file.metadata.row_group(group).num_rows for group in range(piece.row_group))
    try:
        for batch in file.iter_batches(batch_size=1024, row_groups=[piece.row_group], use_threads=False):
            for fields in batch.to_pylist():
                yield row, fields
                row += 1
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{piece.path}: damaged after row {row}: {str(error).splitlines()[0]}") from None


# --- MediaWiki dumps ---


def split_dump(piece: Piece, text_column: str | None) -> list[Piece]:
    """Runs of streams of a multistream dump; any other dump is one piece."""
    piece = replace(piece, site=dump.read_site(piece.path))
    runs = []
    if piece.path.lower().endswith(".bz2"):
        runs = dump.streams(piece.path, STREAM_BYTES)
    if not runs:
        return [piece]
    return [replace(piece, span=(start, end), size_bytes=end - start) for start, end in runs]


def cut_dump(piece: Piece) -> Iterable[Piece]:
    """The blocks of a dump: whole pages. A run of streams is a block already."""
    if piece.span is not None:
        return [piece]
    return cut_file(piece, mark=dump.PAGE_END, closing=dump.DUMP_END)


def read_dump_pages(piece: Piece) -> Iterator[Document | TemplatePage | str]:
    """The pages of a block: see dump.pages. Raises Truncated after those before a damage."""
    if piece.span is not None:
        data, limit, failure = dump.read_streams(piece.path, *piece.span)
    else:
        data, limit, failure = piece.block, len(piece.block), piece.failure
    try:
        yield from dump.pages(data, limit, piece.site)
    except ValueError as error:
        failure = str(error)
    if failure:
        raise Truncated(f"{piece.path}: {failure}")


def read_dump(piece: Piece) -> Iterator[Document | str]:
    """The articles of a block, as plain text; for other pages the name of their kind."""
    for page in read_dump_pages(piece):
        if isinstance(page, TemplatePage):
            yield "other_namespace"
        elif isinstance(page, Document):
            yield as_prose(page, piece)
        else:
            yield page


def read_pages(piece: Piece) -> Iterator[Document | str]:
    """The same from a file of corpus/pages.py."""
    counts = read_counts(piece.path)
    for kind, number in counts["kinds"].items():
        yield from itertools.repeat(kind, number)
    for fields in read_documents(Path(piece.path), ("id", "title", "url", "text")):
        yield as_prose(Document(*fields), piece)
    if counts["failure"]:
        raise Truncated(counts["failure"])


def as_prose(article: Document, piece: Piece) -> Document:
    """An article in wikitext as its readers see it."""
    templates = templates_of(piece.site, piece.templates)
    result = prose(article.text, piece.site.hidden, templates, article.title, piece.templates.keep_holes)
    return replace(article, text=result.text, holes=tuple(result.holes))


@functools.lru_cache(maxsize=4)
def templates_of(site: Site, settings: TemplateSettings) -> Templates:
    """What the templates of a dump show."""
    pages = None
    learnt: dict[str, Any] = {"rules": {}, "newest": ""}
    if settings.pages:
        folder = Path(settings.pages)
        pages = TemplatePages(folder / "templates.sqlite", site.wiki)
        learnt = errors.read_json(folder / "learnt.json")[site.wiki]
    return Templates(
        language=site.language,
        pages=pages,
        learnt=learnt["rules"],
        own_table=Path(settings.own_table) if settings.own_table else None,
        namespaces=site.template_names,
        now=site.date or dump.day(learnt["newest"].replace("-", "")),
    )


# --- archives ---


def split_archive(piece: Piece, text_column: str | None) -> Iterator[Piece]:
    """The pieces of the files in an archive, in the order of their names.

    Raises ValueError for an archive without files of known formats, an archive in it, and a file with a password.
    """
    path = plain_tar(piece) if piece.kind == "tar" else piece.path
    with named(replace(piece, path=path, origin=piece.where)):
        archive = archives.open_archive(path)
    kinds = formats_by_suffix()
    not_read: Counter[str] = Counter()  # files of unknown formats, by suffix
    for member in sorted(archive.members):
        suffix = format_suffix(member)
        kind = kinds.get(suffix)
        if kind is None:
            not_read[suffix or member] += 1
            continue
        origin = f"{piece.where}/{member}"
        if kind in ("zip", "tar"):
            raise ValueError(f"{origin}: an archive inside an archive; unpack {piece.where} and give its files")
        if archive.is_encrypted(member):
            raise ValueError(f"{origin}: a password is needed; unpack {piece.where} with it and give its files")

        size_bytes = archive.size_bytes(member)
        name = f"{piece.name}/{member}"
        file = Piece(path, name, kind, size_bytes, member=member, origin=origin)
        if FORMATS[kind].needs_file:
            file = replace(file, path=unpack(file), member="")
        with named(file):
            yield from FORMATS[kind].split_file(file, text_column)

    unknown = ", ".join(sorted(not_read))
    if not_read.total() == len(archive.members):
        held = f"only {unknown}" if unknown else "no files"
        raise ValueError(f"{piece.where}: the archive holds {held}; known formats are {', '.join(kinds)}")
    if not_read:
        announce(f"{piece.where}: of unknown formats and not read: {not_read.total()} ({unknown})")


def plain_tar(piece: Piece) -> str:
    """The path of a tar archive that is not compressed: its files can be read in any order."""
    name = re.sub(r"\.tgz$", ".tar.gz", piece.path, flags=re.IGNORECASE)
    if name.lower().endswith(".tar"):
        return piece.path
    origin = os.path.splitext(os.path.abspath(name))[0]

    def write(copy: IO[bytes]) -> None:
        begin_anew(copy)
        with pa.OSFile(piece.path) as raw, decompressed(raw, name) as stream:
            shutil.copyfileobj(stream, copy)

    try:
        return local_copy(origin, state_of(piece.path), write)
    except OSError as error:
        raise ValueError(f"{piece.where}: damaged: {error}") from None


def unpack(piece: Piece) -> str:
    """The path of a copy of a file in an archive."""

    def write(copy: IO[bytes]) -> None:
        begin_anew(copy)
        with archives.open_archive(piece.path).open(piece.member) as member:
            shutil.copyfileobj(member, copy)

    try:
        return local_copy(f"{os.path.abspath(piece.path)}/{piece.member}", state_of(piece.path), write)
    except OSError as error:
        raise ValueError(f"{piece.origin}: damaged: {error}") from None


@functools.cache
def announce(message: str) -> None:
    """Print a message, once."""
    print(message, flush=True)


# --- docstrings ---


def docstring_pieces() -> tuple[list[Piece], dict[str, Any]]:
    """The Python files of the installed packages; and the packages with their versions, as their identity."""
    packages = pydocs.python_packages()
    pieces = []
    for package, version in packages:
        for path, name in pydocs.python_files(package, version):
            pieces.append(Piece(path, name, "pydocs", os.path.getsize(path)))
    return pieces, {"packages": dict(packages)}


def read_docstrings(piece: Piece) -> Iterator[Document]:
    """The docstrings of one Python file."""
    for document in pydocs.docstrings(piece.path, piece.name):
        yield storable(document)


def read_docstring_rows(piece: Piece) -> Iterator[Row]:
    """The conversations about what one Python file defines; the number of each is the line of its docstring."""
    for line, turns in pydocs_chat.conversations(piece.path, piece.name):
        messages = []
        for question, answer in turns:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        yield line, {"messages": messages}


# --- all formats ---

FORMATS = {
    "jsonl": Format((".jsonl", ".ndjson"), read_jsonl, cut_long=cut_at_newlines),
    "json": Format((".json",), read_json, cut_long=cut_objects),
    "csv": Format((".csv",), read_csv, split_file=check_csv_columns),
    "tsv": Format(
        (".tsv",),
        functools.partial(read_csv, delimiter="\t"),
        split_file=functools.partial(check_csv_columns, delimiter="\t"),
    ),
    "parquet": Format((".parquet",), read_parquet, split_file=split_parquet, needs_file=True),
    "txt": Format((".txt",), read_txt),
    "md": Format((".md", ".markdown"), read_markdown),
    "html": Format((".html", ".htm"), read_html, split_file=check_html_package),
    "xml": Format((".xml",), read_documents=read_dump, split_file=split_dump, cut_long=cut_dump, needs_file=True),
    "zip": Format((".zip",), split_file=split_archive),
    "tar": Format((".tar", ".tgz"), split_file=split_archive),
    "pages": Format((), read_documents=read_pages),  # of dumps, from corpus/pages.py
    # no files: --source=pydocs
    "pydocs": Format((), read_rows=read_docstring_rows, read_documents=read_docstrings),
}


def formats_by_suffix() -> dict[str, str]:
    """{suffix: key of FORMATS}."""
    return {suffix: kind for kind, form in FORMATS.items() for suffix in form.suffixes}


# --- from a source to pieces ---


def find_pieces(source: str, text_column: str | None = "text", copy: bool = True) -> tuple[list[Piece], dict[str, Any]]:
    """What `source` names; returns (pieces, identity), where identity (JSON) says what was there, to notice changes.

    text_column: a column that parquet and csv files must have, or None. copy: False when nothing will be read: files at
    an address are not copied to this disk, and are a piece each.
    Raises ValueError for a pattern without files, an unknown format, a file without the text column, and a data set of
    the hub that cannot be had.
    """
    if source == "pydocs":
        return docstring_pieces()

    source = source.removeprefix("file://")
    if remote.is_address(source):
        files = remote_files(source, copy)
        if not copy:
            return [file for file, _ in files], {"files": {file.name: state for file, state in files}}
    else:
        files = local_files(source)
    pieces, identity = [], {}
    for file, state in files:
        with named(file):
            file_pieces = list(FORMATS[file.kind].split_file(file, text_column))
        pieces += file_pieces
        if file_pieces or file.origin:  # a parquet file without rows has none
            identity[file.name] = state
    return pieces, {"files": identity}


def local_files(source: str) -> list[tuple[Piece, list]]:
    """The files that a path or a pattern stands for, and the state of each."""
    paths = find_files(source)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    files = []
    for path in paths:
        name = os.path.relpath(os.path.abspath(path), folder)
        state = state_of(path)
        files.append((Piece(path, name, format_of(path), size_bytes=state[0]), state))
    return files


def remote_files(source: str, copy: bool) -> list[tuple[Piece, list]]:
    """The files at an address, as their copies on this disk (`copy`) or not to be read; and the state of each there."""
    found = remote.find_remote(source)
    addresses = [file.address for file in found]
    kinds = [format_of(address, remote.address_path(address)) for address in addresses]  # before anything is copied
    names = remote.names_below(addresses)
    paths = remote.copy_here(found) if copy else addresses

    files = []
    for file, kind, name, path in zip(found, kinds, names, paths, strict=True):
        size_bytes = os.path.getsize(path) if copy else file.size_bytes or 0
        files.append((Piece(path, name, kind, size_bytes, origin=file.address), file.state))
    return files


def local_states(source: str) -> dict[str, list[int]]:
    """{path: state} of the files of this disk that `source` names: what documents.changed_file looks at again.

    Files at an address, on the hub, and those of packages are read from copies that nobody changes.
    """
    if source == "pydocs" or remote.is_address(source.removeprefix("file://")):
        return {}
    paths = files_matching(os.path.expanduser(source.removeprefix("file://")))
    return {path: state_of(path) for path in paths}


def find_files(source: str) -> list[str]:
    """The sorted paths that a path, a pattern, or a config of a data set on the hub stands for."""
    source = os.path.expanduser(source)
    candidates = files_matching(source)

    hub_name = HUB.fullmatch(source)
    looks_like_a_file = Path(source).suffix in {*formats_by_suffix(), *COMPRESSION}
    if not candidates and hub_name and not looks_like_a_file:
        candidates = glob.glob(f"{download(*hub_name.groups())}/**/*.parquet", recursive=True)

    paths = sorted(path for path in candidates if os.path.isfile(path))
    if not paths:
        advice = "give a quoted pattern such as 'path/*.jsonl', or wikimedia/wikipedia/20231101.en of the hub"
        if Path(source).stem == "pydocs":
            advice = "the docstrings of the installed packages are --source=pydocs"
        if os.path.isdir(source):
            pattern = pattern_for(source.rstrip("/"))
            raise ValueError(f"{source} is a folder; give a quoted pattern of its files, such as '{pattern}'")
        raise ValueError(f"{source}: no such file; {advice}")
    return paths


def pattern_for(folder: str) -> str:
    """The pattern that takes the most files of one known format in a folder and the folders in it."""
    kinds = formats_by_suffix()
    endings: Counter[str] = Counter()  # .jsonl.gz
    deep: set[str] = set()  # those of files in folders of the folder
    for path in itertools.islice(Path(folder).rglob("*"), MOST_LOOKED_AT):
        if format_suffix(path.name) in kinds:
            packed = path.suffix if path.suffix.lower() in COMPRESSION else ""
            ending = Path(path.name.removesuffix(packed)).suffix + packed
            endings[ending] += 1
            if path.parent != Path(folder):
                deep.add(ending)
    if not endings:
        return f"{folder}/*.jsonl"
    ending = endings.most_common(1)[0][0]
    return f"{folder}/**/*{ending}" if ending in deep else f"{folder}/*{ending}"


def describe(pieces: list[Piece]) -> str:
    """How many files of which formats a source is: "12 files, 3.4 MB: 10 jsonl, 2 md"."""
    sizes: dict[tuple[str, str, str], int] = Counter()
    for piece in pieces:
        sizes[piece.kind, piece.path, piece.member] += piece.size_bytes
    kinds = Counter(kind for kind, _, _ in sizes)
    formats = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
    files = "1 file" if len(sizes) == 1 else f"{len(sizes):,} files"
    return f"{files}, {sum(sizes.values()) / 1e6:,.1f} MB: {formats}"


def format_of(origin: str, path: str | None = None) -> str:
    """The key of FORMATS that the name of a file (`path`, if it differs from what messages call it) says.

    Raises ValueError for an unknown one.
    """
    kinds = formats_by_suffix()
    suffix = format_suffix(path or origin)
    if suffix not in kinds:
        if remote.is_address(origin) and "." not in os.path.basename(path or origin):
            advice = f"where it lists its files, a quoted pattern such as '{origin.rstrip('/')}/*.jsonl'"
            raise ValueError(f"{origin}: a folder, or a page; give a file by its full address, or {advice}")
        known = ", ".join([*kinds, *COMPRESSION])
        raise ValueError(f"{origin}: unknown format; known are {known}; rename it, or narrow the pattern")
    return kinds[suffix]


def format_suffix(path: str) -> str:
    """The end of a file's name that says its format: ".jsonl" of "A.JSONL.GZ"."""
    name = Path(path.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSION else name.suffix


def download(repo: str, config: str) -> str:
    """The local folder with the parquet files of a data set's config; what was fetched before is not fetched again."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repo, repo_type="dataset", allow_patterns=f"{config}/*.parquet")
    except OSError as error:
        page = f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/datasets/{repo}/tree/main/{config}"
        why = f"neither a file here nor to be had from the hub ({str(error).splitlines()[0]})"
        advice = f"fetch the .parquet files of {page} into a folder {config}, give --source='{config}/*.parquet'"
        raise ValueError(f"--source={repo}/{config}: {why}; {advice}") from None
    return os.path.join(folder, config)


# --- from pieces to parts ---


def cut_parts(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Gather pieces to parts of about PART_BYTES, and cut long files into blocks, which are parts by themselves."""
    part: list[Piece] = []
    part_bytes = 0
    for piece in pieces:
        with named(piece):
            blocks = FORMATS[piece.kind].cut_long(piece)
        if part and (blocks is not None or part_bytes + piece.size_bytes > PART_BYTES):
            yield part
            part, part_bytes = [], 0
        if blocks is not None:
            with named(piece):
                for block in blocks:
                    yield [block]
        else:
            part.append(piece)
            part_bytes += piece.size_bytes
    if part:
        yield part


def part_path(folder: Path, number: int) -> Path:
    """Where what is made of a part is written."""
    return folder / f"part_{number:05d}.parquet"


def part_jobs(pieces: list[Piece], folder: Path) -> Iterator[tuple[tuple[list[Piece], Path], int]]:
    """Yield ((the part to read, or nothing when its file is there, the path to write), the part's bytes)."""
    for number, part in enumerate(cut_parts(pieces)):
        path = part_path(folder, number)
        part_bytes = sum(piece.size_bytes for piece in part)
        to_read = [] if path.is_file() else part
        yield (to_read, path), part_bytes


# --- from parts to documents ---


def read_part(part: list[Piece], text_column: str = "text", id_column: str | None = "id") -> Iterator[Document | str]:
    """The documents of a part, in order, and for each page of a dump that is none the name of what it is.

    Raises ValueError with file and place for what cannot be read; Truncated after what comes before the place where a
    file is cut off or damaged.
    """
    for piece in part:
        form = FORMATS[piece.kind]
        with named(piece):
            if form.read_documents is not None:
                yield from form.read_documents(piece)
            else:
                for row, fields in form.read_rows(piece):
                    yield make_document(piece, row, fields, text_column, id_column)


def read_rows(piece: Piece) -> Iterator[Row]:
    """The rows of a file, or of a block of it. Raises ValueError for a format that has documents and no rows."""
    reader = FORMATS[piece.kind].read_rows
    if reader is None:
        wanted = ", ".join(suffix for form in FORMATS.values() if form.read_rows for suffix in form.suffixes)
        raise ValueError(f"{piece.where}: {piece.kind} has pages, not rows; give {wanted} files")
    with named(piece):
        yield from reader(piece)


def make_document(piece: Piece, row: int, fields: dict, text_column: str, id_column: str | None) -> Document:
    """A row of a file as a document. Without an id of its own it gets one made of its place and content."""
    if text_column not in fields:
        keys = ", ".join(sorted(fields)) or "none"
        of_rows = [key for key, value in fields.items() if holds_rows(value)]
        advice = "set --text_column"
        if of_rows:
            advice = f"'{of_rows[0]}' holds rows: write them to a file of their own, one JSON object a line"
        raise ValueError(f"{piece.path}: row {row} has no '{text_column}' (keys: {keys}); {advice}")
    text = fields[text_column]
    if text is None:
        text = ""  # dropped as empty
    if not isinstance(text, str):
        kind = type(text).__name__
        advice = "set --text_column"
        if holds_rows(text):
            advice = "it holds rows: write them to a file of their own, one JSON object a line"
        raise ValueError(f"{piece.path}: row {row}: '{text_column}' is no text but {kind}; {advice}")

    own_id = fields.get(id_column)
    if own_id in (None, ""):
        document_id = f"{piece.name}#{row}-{short_hash(text)}"
    else:
        document_id = f"{piece.prefix}{own_id}"
    title = str(fields.get("title") or "")
    url = str(fields.get("url") or "")
    return storable(Document(document_id, title, url, text))


def holds_rows(value: object) -> bool:
    """Whether a field is an array of objects, as in {"data": [{"text": "..."}]}."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def storable(document: Document) -> Document:
    """The document with '?' for lone surrogates: JSON and Python can spell them, no UTF-8 file can hold them."""
    values = (document.id, document.title, document.url, document.text)
    return Document(*(value.encode("utf-8", "replace").decode() for value in values))
