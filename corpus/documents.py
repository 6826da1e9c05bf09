"""Documents on disk: parquet parts with the columns id, title, url, text.

A part is the unit of work of the data stages: a pure function makes it, written aside and renamed, so that any number
of processes (pool.py) gives the same files and an interrupted run goes on with the parts that are missing.
"""

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from corpus.templates.holes import Hole

ROW_GROUP_BYTES = 8 << 20  # text in one row group of a document part: the memory a reader needs
SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("url", pa.string()), ("text", pa.string())])


@dataclass(frozen=True)
class Document:
    """One text with its unique id."""

    id: str
    title: str
    url: str
    text: str
    holes: tuple[Hole, ...] = ()  # of an article of a dump; not written
    edited: str = ""  # the day of its last edit, "2023-11-01", of an article of a dump; not written


# --- files that are read ---


def state_of(path: str | Path) -> list[int]:
    """The size of a file and when it was changed, in ns: whether it is still what it was."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def changed_file(states: dict[str, list[int]]) -> str | None:
    """The first file whose state is another than in {path: state}, and how: "a.jsonl grew from 9 to 12 bytes"."""
    for path, before in states.items():
        try:
            now = state_of(path)
        except FileNotFoundError:
            return f"{path} was deleted"
        if now[0] > before[0]:
            return f"{path} grew from {before[0]:,} to {now[0]:,} bytes"
        if now != before:
            return f"{path} was overwritten"
    return None


@contextlib.contextmanager
def unchanged_source(states: dict[str, list[int]], done: Path, made: list[Path]) -> Iterator[None]:
    """Raise ValueError when a file of the source changes in the block, in which it is read.

    What was made is deleted then: some of it is of the old file, some of the new one, or of halves of both. An error
    in the block, such as a line that cannot be read, may come from the same change, which is the better reason.

    states: from local_states. done: the file that is written last; when it is there already, nothing is read. made: the
    other files and folders that are written.
    """
    was_done = done.is_file()
    try:
        yield
    except (ValueError, OSError):
        if not was_done:
            refuse_changed_source(states, [done, *made])
        raise
    if not was_done:
        refuse_changed_source(states, [done, *made])


def refuse_changed_source(states: dict[str, list[int]], made: list[Path]) -> None:
    """Raise ValueError, and delete what was made of it, when a file of the source is not in its state any more."""
    changed = changed_file(states)
    if changed is None:
        return
    for path in made:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    advice = "run the same command again when the source is complete"
    raise ValueError(f"{changed} while it was read; what was made of it is deleted; {advice}")


def files_matching(pattern: str) -> list[str]:
    """The sorted files that a path or a pattern names. Either may hold brackets that are part of a name."""
    found = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
    if not found:
        found = glob.glob(pattern.replace("[", "[[]"), recursive=True)
    return sorted(path for path in found if os.path.isfile(path))


# --- ids ---


def short_hash(text: str) -> str:
    """12 hex digits: the part of an id that is made of the content."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))[:12]


def string_array(values: list[str]) -> pa.Array:
    """pa.array(values), which imports pandas where that is installed: 45 MB and half a second in every process.

    Raises ValueError for 2 GB or more.
    """
    return bytes_array([value.encode() for value in values], pa.string())


def bytes_array(data: list[bytes], kind: pa.DataType) -> pa.Array:
    """The same of bytes, which are texts in UTF-8 (pa.string()) or anything (pa.binary())."""
    sizes = [len(value) for value in data]
    offsets = np.cumsum([0, *sizes])  # where each value begins, and the end of the last
    if offsets[-1] >= 1 << 31:
        raise ValueError(f"a document of {max(sizes) / 1e9:.1f} GB: 2 GB is the most; cut the file up")
    offsets_buffer = pa.py_buffer(offsets.astype(np.int32))
    return pa.Array.from_buffers(kind, len(data), [None, offsets_buffer, pa.py_buffer(b"".join(data))])


class DocumentWriter:
    """Writes documents to one parquet file in bounded memory; `counts` go into the file's metadata on close.

    schema: the columns, each an attribute of what is added. One is `text`; they hold strings or bytes.
    """

    def __init__(self, path: str | Path, compression: str = "zstd", schema: pa.Schema = SCHEMA):
        self.schema = schema
        self.writer = pq.ParquetWriter(path, schema, compression=compression)
        self.rows: list[Any] = []
        self.waiting_bytes = 0

    def add(self, document: Any) -> None:
        """Append one document: a Document, or another object with the attributes of the schema."""
        self.rows.append(document)
        self.waiting_bytes += len(document.text)
        if self.waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        columns = []
        for field in self.schema:
            values = [getattr(row, field.name) for row in self.rows]
            is_text = field.type == pa.string()
            columns.append(string_array(values) if is_text else bytes_array(values, field.type))
        self.writer.write_table(pa.table(columns, schema=self.schema))
        self.rows = []
        self.waiting_bytes = 0

    def close(self, counts: dict[str, Any]) -> None:
        """Write what waits, the counts and the footer."""
        if self.rows:
            self._flush()
        self.writer.add_key_value_metadata({"counts": json.dumps(counts)})
        self.writer.close()


def read_counts(path: str | Path) -> dict[str, Any]:
    """The counts that DocumentWriter.close left in a part."""
    return json.loads(pq.read_metadata(path).metadata[b"counts"])


def read_documents(path: Path, columns: tuple = ("id", "text"), rows: np.ndarray | None = None) -> Iterator[tuple]:
    """Yield tuples of `columns` from one document part, or from these of its `rows` (ascending); in bounded memory."""
    file = pq.ParquetFile(path)
    for batch in file.iter_batches(batch_size=1024, columns=list(columns), use_threads=False):
        batch_columns = [batch.column(name) for name in columns]
        if rows is None:
            yield from zip(*(column.to_pylist() for column in batch_columns), strict=True)
            continue
        in_batch = rows[rows < batch.num_rows]
        for row in in_batch.tolist():
            yield tuple(column[row].as_py() for column in batch_columns)  # batch.take imports too much
        rows = rows[len(in_batch) :] - batch.num_rows  # counted from the next batch
