"""Processes that work on parts of a corpus, the same result for any number of them; and the seconds of each stage."""

import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm


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
