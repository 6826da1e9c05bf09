"""Run a command; print its seconds, its CPU seconds and the peak memory of all its processes.

    python benchmarks/watch.py --command='python prepare_wiki.py config/data_wiki_simple.py'

The memory is the largest sum of the proportional set sizes (PSS) of the processes that run at the same time: a page
that two processes share is counted once.
"""

import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator
from benchmarks.bench_figures import need

FIRST_WAIT_S, LONGEST_WAIT_S = 0.01, 0.25  # between two looks: a short command is weighed as well


@dataclass(frozen=True)
class WatchConfig:
    """Settings of `python benchmarks/watch.py`."""

    command: str = ""  # as typed in a shell, but without pipes and variables


def watch(command: list[str]) -> dict[str, float]:
    """Run a command; returns wall seconds, CPU seconds, and the peak memory of all its processes in bytes (PSS).

    CPU seconds are those the system counts for processes that were waited for; or the sum of what each process had used
    when it was last seen, if that is more: the workers of a fork server are waited for by nobody.
    Raises ValueError, with the end of what the command wrote to stderr, when it fails.
    """
    psutil = need("psutil")
    waited_before_s = _waited_cpu_s()
    start_s = time.perf_counter()
    errors = tempfile.TemporaryFile()  # a pipe that nobody reads would stop a talkative command after 64 kB
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)

    peak_bytes = 0
    cpu_s_of: dict[int, float] = {}  # process id -> what it had used when it was last seen
    wait_s = FIRST_WAIT_S
    while process.poll() is None:
        peak_bytes = max(peak_bytes, _weigh_tree(psutil, process.pid, cpu_s_of))
        time.sleep(wait_s)
        wait_s = min(LONGEST_WAIT_S, 1.5 * wait_s)

    seconds = time.perf_counter() - start_s
    if process.returncode:
        errors.seek(0)
        complaint = errors.read().decode(errors="replace")[-1000:]
        raise ValueError(f"{' '.join(command)} failed: {complaint}")
    waited_cpu_s = _waited_cpu_s() - waited_before_s
    return {"seconds": seconds, "cpu_s": max(waited_cpu_s, sum(cpu_s_of.values())), "tree_bytes": peak_bytes}


def _waited_cpu_s() -> float:
    """CPU seconds of all children of this process that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _weigh_tree(psutil: Any, root: int, cpu_s_of: dict[int, float]) -> int:
    """Memory of a process and its descendants now, in bytes. Notes the CPU seconds of each in `cpu_s_of`."""
    total = 0
    try:
        tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.Error:
        return 0  # it has just ended
    for process in tree:
        try:
            memory = process.memory_full_info()
            times = process.cpu_times()
        except psutil.Error:
            continue  # it has just ended
        cpu_s_of[process.pid] = times.user + times.system
        total += getattr(memory, "pss", memory.rss)
    return total


def main(cfg: WatchConfig) -> None:
    """Print what a command took."""
    command = shlex.split(cfg.command)
    if not command:
        raise ValueError("--command= is empty; give the command to run, in quotes")
    figures = watch(command)
    print(", ".join(f"{key} {value:,.1f}" for key, value in figures.items()))


if __name__ == "__main__":
    configurator.run(main, WatchConfig, show=False)
