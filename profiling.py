"""Where the time of a training step goes: torch.profiler around a few steps of train.py (--profile_steps).

The trace is a file for https://ui.perfetto.dev: every operation with its begin, its end and what it was called from.
"""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import atomic

TRACE = "trace.json.gz"
STEP = "train step"  # what a step is called in the trace
DEAREST = 10  # rows of the table
WIDEST = 60  # characters of an operation's name


def parse_steps(text: str, max_iters: int) -> range:
    """The steps of '10:15', as Python slices count: from 10 on, 15 is the first that is not traced.

    Raises ValueError for what is no such pair, or not within the run.
    """
    example = f"write begin:end, for example --profile_steps={min(10, max_iters - 1)}:{min(15, max_iters)}"
    begin_text, colon, end_text = text.partition(":")
    if not (colon and begin_text.isdecimal() and end_text.isdecimal()):
        raise ValueError(f"profile_steps={text} is not two steps; {example}")

    begin = int(begin_text)
    end = int(end_text)
    if begin >= end:
        raise ValueError(
            f"profile_steps={text} holds no step, for it begins at {begin} and ends before {end}; {example}"
        )
    if end > max_iters:
        raise ValueError(f"profile_steps={text} ends after the run, which has {max_iters} steps; {example}")
    return range(begin, end)


class StepProfiler:
    """Traces the steps in `steps`, writes out_dir/trace.json.gz after the last of them, and prints the dearest.

    Steps are counted from 0: the first one makes step 1 of the log. Nothing that a step computes changes.
    """

    def __init__(self, steps: range, out_dir: Path, device: torch.device):
        self.steps = steps
        self.path = out_dir / TRACE
        self.on_device = device.type == "cuda"
        self.traced: profile | None = None  # while it is at work

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Around the optimizer step number `step`."""
        if step not in self.steps:
            yield
            return

        if self.traced is None:
            self._start()
        with record_function(STEP):
            yield
        if step + 1 == self.steps.stop:
            self._finish()

    def close(self) -> None:
        """Forget a trace whose last step has not come: the run was stopped."""
        if self.traced is not None:
            self.traced.stop()
            self.traced = None

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self.on_device:
            activities.append(ProfilerActivity.CUDA)
        self.traced = profile(activities=activities)
        self.traced.start()

    def _finish(self) -> None:
        if self.on_device:
            torch.cuda.synchronize()
        traced = self.traced
        self.close()

        plain = self.path.with_name("trace.json")
        traced.export_chrome_trace(str(plain))
        with atomic.new_file(self.path) as temporary:
            temporary.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
        print("\n".join(dearest(traced.key_averages(), self.on_device)))
        print(f"wrote {self.path}; open it at https://ui.perfetto.dev", flush=True)


def dearest(averages: list[Any], on_device: bool) -> list[str]:
    """Lines of a table: the operations that took most time, what is called from them left out.

    averages: the profiler's, one an operation. Times are of the GPU where there is one, else of the CPU.
    """
    where = "GPU" if on_device else "CPU"
    rows = []
    for operation in averages:
        time_us = operation.self_device_time_total if on_device else operation.self_cpu_time_total
        if operation.key == STEP and on_device:
            continue  # its time on the GPU is that of all others
        name = "Python, and all that is no operation" if operation.key == STEP else operation.key
        rows.append((time_us, operation.count, name))
    rows.sort(reverse=True)

    total_us = max(1, sum(time_us for time_us, _, _ in rows))
    lines = [f"{'operation':{WIDEST}} {where + ' ms':>10} {'share':>7} {'calls':>7}"]
    for time_us, count, name in rows[:DEAREST]:
        share = f"{100 * time_us / total_us:.1f} %"
        lines.append(f"{name:{WIDEST}.{WIDEST}} {time_us / 1000:>10,.2f} {share:>7} {count:>7,}")
    return lines
