"""Where documents come from.

    wikimedia/wikipedia/20231101.en     a config of a data set on the Hugging Face hub: parquet files, downloaded once
    'enwiki-*-pages-articles*.xml.bz2'  MediaWiki dumps, of one stream or many; also .xml, .xml.gz, .xml.zst
    'path/*.jsonl' and so on            your files: .jsonl, .parquet, .txt; also .gz, .bz2, .zst

A source is pieces; pieces are gathered, and long files cut, into parts of about PART_BYTES, the units of work. A part
is read by a pure function, so that any number of processes gives the same documents.
"""

import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus import dump
from corpus.documents import Document, short_hash
from corpus.dump import COMPRESSION, Site
from corpus.wikitext import plain_text

PART_BYTES = 8 << 20  # of decompressed text in a part, about
STREAM_BYTES = 2 << 20  # of a multistream dump in a part: compressed, about a quarter
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "txt", ".xml": "xml"}
HUB = re.compile(r"([\w.-]+/[\w.-]+)/([\w.-]+)")
HUB_CONFIG = re.compile(r"(\d{8})\.([\w-]+)")  # date.language, as wikimedia/wikipedia names its folders
EXTRACTED = re.compile(r'<doc id="([^"]*)" url="([^"]*)" title="(.*?)">\n(.*?)\n*</doc>', re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """A file, some row groups of a parquet file, or a block of a long file: what one reader reads."""

    path: str
    name: str  # what made ids begin with: the path below the files' common folder
    kind: str  # jsonl, parquet, txt, xml
    size_bytes: int
    prefix: str = ""  # of the source's own ids
    row_group: int | None = None  # parquet only
    span: tuple[int, int] | None = None  # of a multistream dump: the bytes of its streams
    block: bytes | None = None  # decompressed, whole rows or pages
    start: int = 0  # the row with which the block begins
    site: Site | None = None  # dumps only
    failure: str = ""  # why the file ends with this block, if it is damaged


class Truncated(ValueError):
    """A file is damaged or cut off: what comes before can be kept."""


def find_pieces(source: str, text_column: str | None = "text") -> tuple[list[Piece], dict[str, Any]]:
    """What `source` names; returns (pieces, identity), where identity (JSON) says what was there, to notice changes.

    text_column: a column that parquet files must have, or None.
    Raises ValueError for a pattern without files, an unknown format, a parquet file without the text column, and a data
    set of the hub that cannot be had.
    """
    source = os.path.expanduser(source)
    found = [source] if os.path.exists(source) else glob.glob(source, recursive=True)  # a name may hold brackets
    if not found and (named := HUB.fullmatch(source)) and Path(source).suffix not in {*FORMATS, *COMPRESSION}:
        found = glob.glob(f"{download(*named.groups())}/**/*.parquet", recursive=True)
    if not (paths := sorted(path for path in found if os.path.isfile(path))):
        advice = "give a quoted pattern such as 'path/*.jsonl', or wikimedia/wikipedia/20231101.en of the hub"
        if Path(source).stem == "pydocs":
            advice = "run: python docstrings.py, which writes data/pydocs.jsonl"
        raise ValueError(f"{source}: no such file; {advice}")
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    pieces = [piece for path in paths for piece in _pieces(path, folder, text_column)]
    files = {piece.path: piece.name for piece in pieces}
    return pieces, {"files": {name: [os.stat(p).st_size, os.stat(p).st_mtime_ns] for p, name in files.items()}}


def _pieces(path: str, folder: str, text_column: str | None) -> Iterator[Piece]:
    """The pieces of a file: row groups of parquet, runs of streams of a multistream dump, or all of it."""
    name = Path(path.lower())
    kind = FORMATS.get(Path(name.stem).suffix if name.suffix in COMPRESSION else name.suffix)
    if kind is None:
        known = f"known are {', '.join([*FORMATS, *COMPRESSION])}"
        raise ValueError(f"{path}: unknown format; {known}; rename it, or narrow the pattern")
    whole = Piece(path, os.path.relpath(os.path.abspath(path), folder), kind, os.path.getsize(path))
    if kind == "xml":
        whole = replace(whole, site=dump.read_site(path))
        runs = dump.streams(path, STREAM_BYTES) if path.lower().endswith(".bz2") else []
        yield from [replace(whole, span=(start, end), size_bytes=end - start) for start, end in runs] or [whole]
    elif kind == "parquet":
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from None
        if text_column not in (None, *file.schema_arrow.names):
            columns = ", ".join(file.schema_arrow.names)
            raise ValueError(f"{path}: no column '{text_column}' (columns: {columns}); set --text_column")
        config = HUB_CONFIG.fullmatch(Path(os.path.abspath(path)).parent.name)
        prefix = f"{config[2]}wiki/{config[1]}/" if config else ""
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).total_byte_size
            yield replace(whole, size_bytes=size, prefix=prefix, row_group=group)
    else:
        yield whole


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


def cut_parts(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Gather pieces to parts of about PART_BYTES, and cut long files into blocks, which are parts by themselves."""
    part, size_bytes = [], 0
    for piece in pieces:
        long = piece.kind == "xml" or (piece.kind == "jsonl" and piece.size_bytes > PART_BYTES)
        if part and (long or size_bytes + piece.size_bytes > PART_BYTES):
            yield part
            part, size_bytes = [], 0
        if long:
            yield from ([block] for block in ([piece] if piece.span is not None else _blocks(piece)))
        else:
            part.append(piece)
            size_bytes += piece.size_bytes
    if part:
        yield part


def _blocks(piece: Piece) -> Iterator[Piece]:
    """The blocks of a long file: whole rows of jsonl, whole pages of a dump."""
    xml, row, before = piece.kind == "xml", 0, 0
    marks = (dump.PAGE_END, dump.DUMP_END) if xml else (b"\n", b"")
    for block, position, failure in dump.blocks(piece.path, PART_BYTES, *marks):
        yield replace(piece, size_bytes=position - before, block=block, start=row, failure=failure)
        row, before = row + block.count(b"\n"), position


def read_part(part: list[Piece], text_column: str = "text", id_column: str | None = "id") -> Iterator[Document | str]:
    """The documents of a part, in order, and for each page of a dump that is none the name of what it is.

    Raises ValueError with file and place for what cannot be read; Truncated after what comes before the place where a
    file is cut off or damaged.
    """
    for piece in part:
        if piece.kind == "xml":
            yield from _read_xml(piece)
        else:
            for row, fields in read_rows(piece):
                yield _document(piece, row, fields, text_column, id_column)


def read_rows(piece: Piece) -> Iterator[tuple[int, dict]]:
    """The rows of a jsonl, parquet or txt file, or of a block of it: (number in the file, fields)."""
    readers = {"jsonl": _read_jsonl, "parquet": _read_parquet, "txt": _read_txt}
    if piece.kind not in readers:
        raise ValueError(f"{piece.path}: a dump has pages, not rows; give .jsonl, .parquet or .txt files")
    return readers[piece.kind](piece)


def _document(piece: Piece, row: int, fields: dict, text_column: str, id_column: str | None) -> Document:
    """A row of a file as a document; without an id of its own it gets one made of its place and content."""
    if text_column not in fields:
        keys = ", ".join(sorted(fields)) or "none"
        raise ValueError(f"{piece.path}: row {row} has no '{text_column}' (keys: {keys}); set --text_column")
    text = fields[text_column] if fields[text_column] is not None else ""  # null: dropped as empty
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(f"{piece.path}: row {row}: '{text_column}' is no text but {kind}; set --text_column")
    own = fields.get(id_column)
    document_id = f"{piece.name}#{row}-{short_hash(text)}" if own in (None, "") else f"{piece.prefix}{own}"
    title, url = (str(fields.get(key) or "") for key in ("title", "url"))
    # '?' for lone surrogates (JSON can spell them): no UTF-8 file can hold one
    return Document(*(i.encode("utf-8", "replace").decode() for i in (document_id, title, url, text)))


def _open_text(piece: Piece) -> io.TextIOWrapper:
    stream = io.BytesIO(piece.block) if piece.block is not None else dump.open_compressed(piece.path)[1]
    # with or without a byte-order mark; a block's first row is no first row of a file
    return io.TextIOWrapper(stream, encoding="utf-8" if piece.start else "utf-8-sig", newline="\n")


def _read_jsonl(piece: Piece) -> Iterator[tuple[int, dict]]:
    row = piece.start
    try:
        with _open_text(piece) as file:
            for row, line in enumerate(file, piece.start):
                if not line.strip():
                    continue
                if not isinstance(fields := json.loads(line), dict):
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


def _read_txt(piece: Piece) -> Iterator[tuple[int, dict]]:
    """One document; or those of WikiExtractor, whose output is no XML: <doc id=.. url=.. title=..> and plain text."""
    try:
        with _open_text(piece) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{piece.path}: not UTF-8 text at byte {error.start}; is it a binary file?") from None
    except OSError as error:
        raise Truncated(f"{piece.path}: damaged: {error}") from None
    if "\0" in text:
        raise ValueError(f"{piece.path}: holds null bytes; a binary file is not text")
    if text.startswith('<doc id="'):
        for row, found in enumerate(EXTRACTED.finditer(text)):
            yield row, dict(zip(("id", "url", "title", "text"), found.groups(), strict=True))
    else:
        yield 0, {"text": text, "title": Path(piece.name).name}


def _read_parquet(piece: Piece) -> Iterator[tuple[int, dict]]:
    file = pq.ParquetFile(piece.path)
    row = sum(file.metadata.row_group(group).num_rows for group in range(piece.row_group))
    try:
        for batch in file.iter_batches(batch_size=1024, row_groups=[piece.row_group], use_threads=False):
            for fields in batch.to_pylist():
                yield row, fields
                row += 1
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{piece.path}: damaged after row {row}: {str(error).splitlines()[0]}") from None


def _read_xml(piece: Piece) -> Iterator[Document | str]:
    data, limit, failure = piece.block, len(piece.block or b""), piece.failure
    if piece.span is not None:
        data, limit, failure = dump.read_streams(piece.path, *piece.span)
    try:
        for page in dump.pages(data, limit, piece.site):
            if isinstance(page, Document):
                page = replace(page, text=plain_text(page.text, piece.site.hidden))
            yield page
    except ValueError as error:
        failure = str(error)
    if failure:
        raise Truncated(f"{piece.path}: {failure}")
