"""Documents on disk, parquet parts with the columns id, title, url, text, and processes that work on parts.

A part is the unit of work of the data stages: a pure function makes it, written aside and renamed, so that any number
of processes gives the same files and an interrupted run goes on with the parts that are missing.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from tqdm import tqdm

ROW_GROUP_BYTES = 8 << 20  # text in one row group of a document part: the memory a reader needs
SCHEMA = pa.schema([("id", pa.string()), ("title", pa.string()), ("url", pa.string()), ("text", pa.string())])


@dataclass(frozen=True)
class Document:
    """One text with its unique id."""

    id: str
    title: str
    url: str
    text: str


def short_hash(text: str) -> str:
    """12 hex digits: the part of an id that is made of the content."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "replace"))[:12]


def string_array(values: list[str]) -> pa.Array:
    """pa.array(values), which imports pandas where that is installed: 45 MB and half a second in every process.

    Raises ValueError for 2 GB or more.
    """
    data = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, data)])
    if ends[-1] >= 1 << 31:
        raise ValueError(f"a document of {max(map(len, data)) / 1e9:.1f} GB: 2 GB is the most; cut the file up")
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(data)))


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
        columns = [string_array([getattr(row, name) for row in self.rows]) for name in SCHEMA.names]
        self.writer.write_table(pa.table(columns, schema=SCHEMA))
        self.rows, self.waiting_bytes = [], 0

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
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=list(columns), use_threads=False):
        found = [batch.column(name) for name in columns]
        if rows is None:
            yield from zip(*(column.to_pylist() for column in found), strict=True)
        else:
            here = rows[rows < batch.num_rows].tolist()
            yield from (tuple(column[row].as_py() for column in found) for row in here)  # batch.take imports too much
            rows = rows[len(here) :] - batch.num_rows


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


def map_parts(
    work: Callable, jobs: Iterable, num_workers: int, desc: str, total: int | None = None, unit: str = "B"
) -> list:
    """Run work(job) for every (job, size) in `num_workers` processes with a progress bar; results in the order of jobs.

    The sizes, `total` together (None: jobs is a list), are what the bar counts. Jobs are taken from their iterator only
    a few ahead of the workers, so it may make them, large ones, while they work. An interrupt or an error stops the
    workers at once: what they had begun is lost, what they had finished stays.
    """
    total = sum(size for _, size in jobs) if total is None else total
    jobs, results = iter(jobs), dict[int, Any]()
    first = list(itertools.islice(jobs, 2))
    jobs, waiting = enumerate(itertools.chain(first, jobs)), dict[concurrent.futures.Future, tuple[int, int]]()
    killed = f"{desc}: a worker process was killed (out of memory?); try --num_workers=1"
    with tqdm(total=total, desc=desc, unit=unit, unit_scale=True, disable=None if total else True) as bar:
        if num_workers == 1 or len(first) < 2:
            for i, (job, size) in jobs:
                results[i] = work(job)
                bar.update(size)
            return list(results.values())

        def take(when: str) -> None:
            for future in concurrent.futures.wait(waiting, return_when=when).done:
                i, size = waiting.pop(future)
                results[i] = future.result()
                bar.update(size)

        with worker_pool(num_workers, killed) as submit:
            for i, (job, size) in jobs:
                waiting[submit(work, job)] = (i, size)
                if len(waiting) >= 2 * num_workers:
                    take(concurrent.futures.FIRST_COMPLETED)
            take(concurrent.futures.ALL_COMPLETED)
    return [results[i] for i in range(len(results))]


def once(read: Callable, path: Path) -> Any:
    """read(path), once in each process for all parts."""
    return _once(read, path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _once(read: Callable, path: Path, mtime_ns: int) -> Any:
    return read(path)


@contextlib.contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Leaves the seconds spent inside the `with` block in seconds[name]."""
    start_s = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start_s, 2)
