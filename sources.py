"""Where documents come from, and how they are stored: parquet parts with the columns id, title, url, text.

    pydocs                      the docstrings of Python and of the packages that requirements.txt pins, on this machine
    'path/*.jsonl' and so on    your files: .jsonl, .parquet, .txt; also .gz, .bz2, .zst

A source is cut into parts, the units of work. A part is read by a pure function, so that any number of processes gives
the same documents.
"""

import ast
import concurrent.futures
import contextlib
import gc
import glob
import importlib.metadata
import inspect
import io
import json
import multiprocessing
import os
import platform
import re
import signal
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from packaging.requirements import Requirement
from tqdm import tqdm

PART_BYTES = 8 << 20  # files are gathered until a part holds about this much
ROW_GROUP_BYTES = 8 << 20  # text in one row group of a document part: the memory a reader needs
SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("url", pa.string()), ("text", pa.string())])
COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "txt"}


@dataclass(frozen=True)
class Piece:
    """One file, or some row groups of a parquet file."""

    path: str
    name: str  # what document ids begin with: the path below the files' common folder, or package-version/path
    kind: str  # pydocs, jsonl, parquet, txt
    size_bytes: int
    row_group: int | None = None  # parquet only


@dataclass(frozen=True)
class Document:
    """One text with its unique id."""

    id: str
    title: str
    url: str
    text: str


def find_parts(source: str, text_column: str = "text") -> tuple[list[list[Piece]], dict[str, Any]]:
    """Cut `source` into parts; returns (parts, identity), where identity (JSON) says what was there, to notice changes.

    Raises ValueError for a pattern without files, an unknown format or a parquet file without the text column.
    """
    if source == "pydocs":
        packages = python_packages(Path(__file__).with_name("requirements.txt"))
        pieces = [piece for name, version in packages for piece in _python_files(name, version)]
        identity = {"packages": dict(packages)}
    else:
        pieces = _file_pieces(source, text_column)
        files = {piece.path: piece.name for piece in pieces}
        identity = {"files": {name: [os.stat(p).st_size, os.stat(p).st_mtime_ns] for p, name in files.items()}}
    parts: list[list[Piece]] = [[]]
    size_bytes = 0
    for piece in pieces:
        if parts[-1] and size_bytes + piece.size_bytes > PART_BYTES:
            parts.append([])
            size_bytes = 0
        parts[-1].append(piece)
        size_bytes += piece.size_bytes
    return parts, identity


def read_part(part: list[Piece], text_column: str = "text", id_column: str | None = "id") -> Iterator[Document]:
    """Yield the documents of one part, in order. Raises ValueError with file and place for what cannot be read."""
    readers = {"jsonl": _read_jsonl, "parquet": _read_parquet, "txt": _read_txt}
    for piece in part:
        if piece.kind == "pydocs":
            yield from docstrings(piece)
            continue
        for row, fields in readers[piece.kind](piece):
            if text_column not in fields:
                keys = ", ".join(sorted(fields)) or "none"
                raise ValueError(f"{piece.path}: row {row} has no '{text_column}' (keys: {keys}); set --text_column")
            text = fields[text_column] if fields[text_column] is not None else ""  # null: dropped as empty
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"{piece.path}: row {row}: '{text_column}' is no text but {kind}; set --text_column")
            if id_column is not None and fields.get(id_column) not in (None, ""):
                document_id = str(fields[id_column])
            else:
                document_id = f"{piece.name}#{row}-{_short_hash(text)}"
            title, url = (str(fields.get(key) or "") for key in ("title", "url"))
            yield Document(*map(_storable, (document_id, title, url, text)))


def _storable(text: str) -> str:
    """`text`, with '?' for lone surrogates (JSON can spell them): no UTF-8 file can hold one."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()


def _short_hash(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))[:12]


# --- files ---


def _file_pieces(source: str, text_column: str) -> list[Piece]:
    source = os.path.expanduser(source)
    found = [source] if os.path.exists(source) else glob.glob(source, recursive=True)  # a name may hold brackets
    paths = sorted(path for path in found if os.path.isfile(path))
    if not paths:
        raise ValueError(f"--source={source}: no such file; give 'pydocs' or a quoted pattern such as 'path/*.jsonl'")
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    pieces = []
    for path in paths:
        suffixes = [suffix.lower() for suffix in Path(path).suffixes]
        if suffixes and suffixes[-1] in COMPRESSION:
            suffixes.pop()
        kind = FORMATS.get(suffixes[-1] if suffixes else "")
        if kind is None:
            known = ", ".join([*FORMATS, *COMPRESSION])
            raise ValueError(f"{path}: unknown format; known are {known}; rename it, or narrow --source")
        name, size = os.path.relpath(os.path.abspath(path), folder), os.path.getsize(path)
        if kind != "parquet":
            pieces.append(Piece(path, name, kind, size))
            continue
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from None
        if text_column not in file.schema_arrow.names:
            columns = ", ".join(file.schema_arrow.names)
            raise ValueError(f"{path}: no column '{text_column}' (columns: {columns}); set --text_column")
        for group in range(file.num_row_groups):
            pieces.append(Piece(path, name, kind, file.metadata.row_group(group).total_byte_size, group))
    return pieces


def _open_text(path: str) -> io.TextIOWrapper:
    stream = pa.input_stream(path, compression=COMPRESSION.get(Path(path).suffix.lower()), buffer_size=1 << 20)
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n")  # with or without a byte-order mark


def _read_jsonl(piece: Piece) -> Iterator[tuple[int, dict]]:
    row = 0
    try:
        with _open_text(piece.path) as file:
            for row, line in enumerate(file):
                if not line.strip():
                    continue
                fields = json.loads(line)
                if not isinstance(fields, dict):
                    raise ValueError("not a JSON object")
                yield row, fields
    except UnicodeDecodeError:
        raise ValueError(f"{piece.path}: not UTF-8 text near line {row + 1}; is it a binary file?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{piece.path}: line {row + 1} cannot be read: {error}; one JSON object a line is wanted"
        ) from None
    except OSError as error:
        raise ValueError(f"{piece.path}: damaged after line {row}: {error}") from None


def _read_txt(piece: Piece) -> Iterator[tuple[int, dict]]:
    try:
        with _open_text(piece.path) as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{piece.path}: not UTF-8 text at byte {error.start}; is it a binary file?") from None
    except OSError as error:
        raise ValueError(f"{piece.path}: damaged: {error}") from None
    if "\0" in text:
        raise ValueError(f"{piece.path}: holds null bytes; a binary file is not text")
    yield 0, {"text": text, "title": Path(piece.name).name}


def _read_parquet(piece: Piece) -> Iterator[tuple[int, dict]]:
    file = pq.ParquetFile(piece.path)
    first = sum(file.metadata.row_group(group).num_rows for group in range(piece.row_group))
    row = first
    try:
        for batch in file.iter_batches(batch_size=1024, row_groups=[piece.row_group], use_threads=False):
            for fields in batch.to_pylist():
                yield row, fields
                row += 1
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{piece.path}: damaged after row {row}: {str(error).splitlines()[0]}") from None


# --- docstrings ---


def python_packages(requirements: Path) -> list[tuple[str, str]]:
    """Python and the closure of a requirements file as sorted (name, version), whatever else is installed."""
    wanted = []
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            wanted.append(Requirement(line))
    versions: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in done:
                continue
            done.add((name, extra))
            try:
                package = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                raise ValueError(f"the package {name} is not installed; run: pip install -r requirements.txt") from None
            versions[name] = package.version
            for text in package.requires or []:
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    wanted.append(inner)
    return [("python", platform.python_version()), *sorted(versions.items())]


def _python_files(package: str, version: str) -> list[Piece]:
    if package == "python":
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [path.relative_to(root) for path in root.rglob("*.py")]
        found = [path for path in found if path.parts[0] not in ("site-packages", "dist-packages")]
    else:
        distribution = importlib.metadata.distribution(package)
        root = Path(distribution.locate_file(""))
        found = [Path(str(path)) for path in distribution.files or [] if path.suffix == ".py" and path.parts[0] != ".."]
    pieces = []
    for path in sorted(set(found), key=str):
        if not {"test", "tests"} & set(path.parts) and (root / path).is_file():
            name = f"{package}-{version}/{path.as_posix()}"
            pieces.append(Piece(str(root / path), name, "pydocs", os.path.getsize(root / path)))
    return pieces


def docstrings(piece: Piece) -> Iterator[Document]:
    """Yield the docstrings of modules, classes and functions in one Python file, read with `ast`, never imported.

    Of pydoc_data/topics.py the entries of its dictionary are the documents. A file that this Python cannot parse (a
    template, a file for another version) has none.
    """
    source = Path(piece.path).read_bytes()
    if b'"""' not in source and b"'''" not in source and not piece.name.endswith("pydoc_data/topics.py"):
        return  # no docstring of several lines: parsing is most of the cost
    tree = _parse(source)
    if tree is None:
        return
    package, path = piece.name.split("/", 1)
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    name, version = package.rsplit("-", 1)
    url = (
        f"https://docs.python.org/{version[:4]}/" if name == "python" else f"https://pypi.org/project/{name}/{version}/"
    )
    for line, title, text in sorted(_walk(tree, module)):
        yield Document(f"{piece.name}#L{line}-{_short_hash(text)}", title, url, text)


def _parse(source: bytes) -> ast.Module | None:
    gc.disable()  # a large tree without cycles: looking for them doubled the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    finally:
        gc.enable()


def _walk(node: ast.AST, name: str) -> Iterator[tuple[int, str, str]]:
    """Statements only: expressions hold no docstrings, and are most of a tree."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if text := ast.get_docstring(node, clean=False):
            yield node.body[0].lineno, name, inspect.cleandoc(text)
    if isinstance(node, ast.Assign) and name == "pydoc_data.topics" and isinstance(node.value, ast.Dict):
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            yield value.lineno, ast.literal_eval(key), ast.literal_eval(value)
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, []) or []:
            inner = getattr(child, "name", None)
            inner = inner if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else None
            yield from _walk(child, f"{name}.{inner}" if inner else name)


# --- documents on disk ---


class DocumentWriter:
    """Writes documents to one parquet file in bounded memory; `counts` go into the file's metadata on close."""

    def __init__(self, path: str | Path):
        self.writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self.rows: list[Document] = []
        self.waiting_bytes = 0

    def add(self, document: Document) -> None:
        """Append one document."""
        self.rows.append(document)
        self.waiting_bytes += len(document.text)
        if self.waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        columns = [[getattr(row, name) for row in self.rows] for name in SCHEMA.names]
        self.writer.write_table(pa.table(columns, schema=SCHEMA))
        self.rows, self.waiting_bytes = [], 0

    def close(self, counts: dict[str, int]) -> None:
        """Write what waits, the counts and the footer."""
        if self.rows:
            self._flush()
        self.writer.add_key_value_metadata({"counts": json.dumps(counts)})
        self.writer.close()


def read_counts(path: str | Path) -> dict[str, int]:
    """The counts that DocumentWriter.close left in a part."""
    return json.loads(pq.read_metadata(path).metadata[b"counts"])


def read_documents(path: str | Path, columns: tuple[str, ...] = ("id", "text")) -> Iterator[tuple]:
    """Yield tuples of `columns` from one document part, in order, a row group in memory at a time."""
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=list(columns), use_threads=False):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


@contextlib.contextmanager
def worker_pool(num_workers: int, killed: str) -> Iterator[Callable[..., concurrent.futures.Future]]:
    """A function submit(work, *args) to fresh processes, which an interrupt or an error in the block stops at once.

    killed: the message of the ValueError that says a worker was killed from outside.
    """
    # spawn: the same on every platform, and no thread of pyarrow or tokenizers is copied half-alive
    pool = concurrent.futures.ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))

    def submit(work: Callable, *args: Any) -> concurrent.futures.Future:
        # Workers inherit that Ctrl-C is ignored: it reaches the parent, which stops them.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return pool.submit(work, *args)
        finally:
            signal.signal(signal.SIGINT, handler)

    try:
        yield submit
    except concurrent.futures.process.BrokenProcessPool:
        raise ValueError(killed) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def map_parts(work: Callable, jobs: list, num_workers: int, desc: str, sizes: list[int]) -> list:
    """Run work(job) for every job in `num_workers` processes with a progress bar; results in the order of `jobs`.

    sizes: bytes of each job, the unit of the bar. An interrupt or an error stops the workers at once: what they had
    begun is lost, what they had finished stays.
    """
    results: list = [None] * len(jobs)
    with tqdm(total=sum(sizes), desc=desc, unit="B", unit_scale=True, disable=None if jobs else True) as bar:
        if num_workers == 1 or len(jobs) <= 1:
            for i, job in enumerate(jobs):
                results[i] = work(job)
                bar.update(sizes[i])
            return results
        killed = f"{desc}: a worker process was killed (out of memory?); try --num_workers=1"
        with worker_pool(min(num_workers, len(jobs)), killed) as submit:
            futures = {submit(work, job): i for i, job in enumerate(jobs)}
            for future in concurrent.futures.as_completed(futures):
                results[futures[future]] = future.result()
                bar.update(sizes[futures[future]])
    return results
