"""Processes that work on parts of a corpus, the same result for any number of them; and the seconds of each stage."""

import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from multiprocessing import reduction
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

import atomic

ORPHANS_S = 5  # the workers of a killed run end sooner, and its folder is free

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextlib.contextmanager
def worker_pool(num_workers: int, killed: str) -> Iterator[Callable[..., Future]]:
    """A function submit(work, *args) to fresh processes, which an interrupt or an error in the block stops at once.

    killed: the message of the ValueError that says a worker was killed from outside.
    """
    # spawn: the same on every platform, and no thread of pyarrow or tokenizers is copied half-alive
    spawn = multiprocessing.get_context("spawn")
    begin = {"initializer": begin_worker, "initargs": (HeldLocks(),)}
    pool = concurrent.futures.ProcessPoolExecutor(num_workers, spawn, **begin)

    def submit(work: Callable, *args: Any) -> Future:
        with interrupts_ignored():  # also by workers that are started here: Ctrl-C reaches the parent, which stops them
            return pool.submit(work, *args)

    try:
        yield submit
    except concurrent.futures.process.BrokenProcessPool:
        raise ValueError(killed) from None
    except BaseException:
        with interrupts_ignored():  # a second Ctrl-C would leave before the workers have ended
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C does nothing within the `with` block, and nothing ever in processes that are started there."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


class HeldLocks:
    """The locks that this process holds. A process that is started with it holds them, too, from its first moment on.

    So a folder stays locked until the last worker of a killed run has ended: until then one may still rename a file.
    A lock belongs to an open file (flock), which is handed down as standard output is; nothing need be done with it.
    """

    def __reduce__(self) -> tuple:
        # Called while a process is being started, and only then. DupFd has the descriptor stay open in that process.
        return list, ([reduction.DupFd(descriptor) for descriptor in atomic.HELD],)


def begin_worker(locks: list) -> None:
    """The first call in a worker. locks: what has become of HeldLocks; they are held already."""
    end_with_parent()


def end_with_parent() -> None:
    """In a worker: end when the parent was killed. Otherwise it would wait for its next job for ever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def map_parts(
    work: Callable[[Job], Result],
    jobs: Iterable[tuple[Job, int]],
    num_workers: int,
    desc: str,
    total: int | None = None,
    unit: str = "B",
) -> list[Result]:
    """Run work(job) for every (job, size) in `num_workers` processes with a progress bar; results in the order of jobs.

    The bar counts sizes, `total` together (None: jobs is a list). Jobs are taken from their iterator only a few ahead
    of the workers, so it may make them, large ones, while they work. An interrupt or an error stops the workers at
    once: what they had begun is lost, what they had finished stays.
    """
    if total is None:
        total = sum(size for _, size in jobs)
    jobs = iter(jobs)
    first_two = list(itertools.islice(jobs, 2))
    jobs = itertools.chain(first_two, jobs)

    # Hidden where it would show nothing, and where no terminal is.
    hide = None if total else True
    with tqdm(total=total, desc=desc, unit=unit, unit_scale=True, disable=hide) as bar:
        if num_workers == 1 or len(first_two) < 2:
            return map_here(work, jobs, bar)
        killed = f"{desc}: a worker process was killed (out of memory?); try --num_workers=1"
        with worker_pool(num_workers, killed) as submit:
            return map_in_workers(work, jobs, submit, 2 * num_workers, bar)


def map_here(work: Callable[[Job], Result], jobs: Iterable[tuple[Job, int]], bar: tqdm) -> list[Result]:
    """map_parts in this process."""
    results = []
    for job, size in jobs:
        results.append(work(job))
        bar.update(size)
    return results


def map_in_workers(
    work: Callable[[Job], Result],
    jobs: Iterable[tuple[Job, int]],
    submit: Callable[..., Future],
    ahead: int,
    bar: tqdm,
) -> list[Result]:
    """map_parts by `submit`, with at most `ahead` jobs submitted and not finished."""
    results: dict[int, Result] = {}  # by the number of the job: they finish in any order
    waiting: dict[Future, tuple[int, int]] = {}  # future: (number of the job, size)

    def collect(return_when: str) -> None:
        for future in concurrent.futures.wait(waiting, return_when=return_when).done:
            number, size = waiting.pop(future)
            results[number] = future.result()
            bar.update(size)

    for number, (job, size) in enumerate(jobs):
        waiting[submit(work, job)] = (number, size)
        if len(waiting) >= ahead:
            collect(concurrent.futures.FIRST_COMPLETED)
    collect(concurrent.futures.ALL_COMPLETED)
    return [results[number] for number in range(len(results))]


def read_cached(read: Callable[..., Result], path: Path, *more: Any) -> Result:
    """read(path, *more), which is called once in each process for all its parts, and again when the file has changed.

    more: must be hashable.
    """
    return _read_cached(read, path, path.stat().st_mtime_ns, *more)


@functools.lru_cache(maxsize=2)
def _read_cached(read: Callable[..., Result], path: Path, mtime_ns: int, *more: Any) -> Result:
    return read(path, *more)


def print_now(line: str) -> None:
    """Print a line that somebody waits for."""
    print(line, flush=True)


@contextlib.contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Leave the seconds spent inside the `with` block in seconds[name]."""
    start_s = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start_s, 2)
