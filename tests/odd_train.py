"""train.py with faults: one function for each, applied by name before the run begins.

    apply({"float64": True, "poison": {"rank": 1, "passes": [4, 5]}})

tests/ranks.py applies them in processes that it forks. Under torchrun this file is the script: ODD holds the faults as
JSON, the command line the settings. Faults touch the modules that train.py uses, and nothing inside train.py.
"""

import configurator  # before torch, as in train.py

# isort: split
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import SafetensorError
from torch.distributed.elastic.multiprocessing.errors import record
from torch.nn.parallel import DistributedDataParallel

import atomic
import checkpoint
import journal
import model
import parallel
import train
from batches import TokenRows
from mixture import Mixture
from shards import EvalWindows, Windows


def this_rank() -> int:
    return int(os.environ.get("RANK", "0"))


def replace_method(place: Any, name: str, make: Callable[[Callable], Callable]) -> None:
    """place.name = make(what place.name was)."""
    setattr(place, name, make(getattr(place, name)))


def counted() -> Callable[[], int]:
    """A function that returns 1, 2, 3, ..."""
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return count


# What is computed, and what is noted


def float64(_: bool) -> None:
    """All tensors are float64: what is equal in exact arithmetic is equal to 1e-9."""
    torch.set_default_dtype(torch.float64)


def uneven_masks(_: bool) -> None:
    """Leave out the first targets of each training window: how many follows from its global position."""

    def masked_rows(rows):
        def masked(self, positions: np.ndarray) -> TokenRows:
            read = rows(self, positions)
            targets = read.targets.copy()
            for row, position in enumerate(positions.tolist()):
                left_out = position * 7 % 29
                targets[row, :left_out] = model.IGNORE
            return TokenRows(read.inputs, targets, read.positions)

        return masked

    replace_method(Mixture, "rows", masked_rows)


def checksums(path: str) -> None:
    """At each checkpoint append to path.<rank>: step and a hash of this rank's weights."""

    def noting(save):
        def note_and_save(out_dir, step, llama, *args, **kwargs):
            digest = hashlib.sha256()
            for parameter in llama.parameters():
                digest.update(parallel.full_tensor(parameter.detach()).numpy().tobytes())
            with open(f"{path}.{this_rank()}", "a", encoding="utf-8") as file:
                file.write(f"{step} {digest.hexdigest()}\n")
            return save(out_dir, step, llama, *args, **kwargs)

        return note_and_save

    replace_method(checkpoint, "save", noting)


def log_windows(path: str) -> None:
    """Append to path.<rank> each time that training windows are read: [[global position, index, epoch], ...]."""
    read = []

    def note_places(get):
        def noted(self, indices, epochs):
            read.extend(zip(indices.tolist(), epochs.tolist(), strict=True))
            return get(self, indices, epochs)

        return noted

    def write_note(get):
        def noted(self, positions):
            read.clear()
            tokens = get(self, positions)
            rows = [[position, *place] for position, place in zip(positions.tolist(), read, strict=True)]
            with open(f"{path}.{this_rank()}", "a", encoding="utf-8") as file:
                file.write(json.dumps(rows) + "\n")
            return tokens

        return noted

    replace_method(Windows, "get", note_places)
    replace_method(Mixture, "rows", write_note)


# What goes wrong

POINTS = {  # where a process can be when a signal comes, or an error
    "write": (checkpoint, "save_file"),
    "fsync": (atomic, "_fsync"),
    "rename": (os, "rename"),
    "latest": (os, "symlink"),
    "pruning": (shutil, "rmtree"),
    "append": (journal, "_append"),
    "backward": (torch.Tensor, "backward"),
    "evaluation": (EvalWindows, "batches"),
}


def kill(what: dict[str, Any]) -> None:
    """Send a signal when rank `rank` comes to `point` for the `count`-th time.

    who: "one" (this rank), "all" ranks, this one last, or the "launcher"; signal: SIGKILL when it is not given.
    """
    if what["rank"] != this_rank():
        return
    number = signal.Signals[what.get("signal", "SIGKILL")]
    launcher = os.getppid()
    count = counted()

    def victims() -> list[int]:
        if what["who"] == "launcher":
            return [launcher]
        if what["who"] == "one":
            return [os.getpid()]
        ranks = [child.pid for child in psutil.Process(launcher).children()]
        return sorted(ranks, key=lambda pid: pid == os.getpid())

    def deadly(function):
        def wrapped(*args, **kwargs):
            if count() == what["count"]:
                for pid in victims():
                    os.kill(pid, number)
            return function(*args, **kwargs)

        return wrapped

    place, name = POINTS[what["point"]]
    replace_method(place, name, deadly)


def poison(what: dict[str, Any]) -> None:
    """On rank `rank` the loss of the training passes `passes`, counted from 1, is NaN."""
    if what["rank"] != this_rank():
        return
    count = counted()

    def poisoned(forward):
        def with_nan(self, ids, targets=None, **kwargs):
            loss = forward(self, ids, targets, **kwargs)
            if self.training and count() in what["passes"]:
                return loss * float("nan")
            return loss

        return with_nan

    replace_method(model.Llama, "forward", poisoned)


def full_disk(what: dict[str, Any]) -> None:
    """There is no room any more when this process comes to `point` for the `count`-th time."""
    count = counted()
    if what["point"] == "write":  # safetensors has an error of its own
        error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    else:
        error = OSError(28, "No space left on device")

    def failing(function):
        def fail(*args, **kwargs):
            if count() == what["count"]:
                raise error
            return function(*args, **kwargs)

        return fail

    place, name = POINTS[what["point"]]
    replace_method(place, name, failing)


def lock_wait(seconds: float) -> None:
    """How long a held lock of out_dir is waited for."""
    train.LOCK_WAIT_S = seconds


def slow_save(seconds: float) -> None:
    """Each file of a checkpoint takes so much longer: random kills hit saves more often."""

    def slower(save_file):
        def save(*args):
            time.sleep(seconds)
            return save_file(*args)

        return save

    replace_method(checkpoint, "save_file", slower)


# Defects that the tests must see


def rank_left_out_of_the_position(_: bool) -> None:
    """Every rank reads the windows of rank 0."""

    def of_rank_0(get):
        return lambda self, positions: get(self, positions - this_rank() * len(positions))

    replace_method(Mixture, "rows", of_rank_0)


def accumulation_unweighted(_: bool) -> None:
    """Each micro-batch counts the same, however many targets it has."""

    def mean_loss(forward):
        def mean(self, ids, targets=None, **kwargs):
            loss = forward(self, ids, targets, **kwargs)
            if targets is None or not self.training:
                return loss
            return loss / (targets != model.IGNORE).sum() * targets.numel()

        return mean

    replace_method(model.Llama, "forward", mean_loss)


def one_all_reduce_skipped(_: bool) -> None:
    """In the 20th forward pass with synchronisation it is off."""
    count = counted()

    def skipping(forward):
        def without_sync(self, *args, **kwargs):
            if self.require_backward_grad_sync and count() == 20:
                with self.no_sync():
                    return forward(self, *args, **kwargs)
            return forward(self, *args, **kwargs)

        return without_sync

    replace_method(DistributedDataParallel, "forward", skipping)


def optimizer_not_restored(_: bool) -> None:
    """A resumed run begins with new moments."""
    checkpoint.load_optimizer = lambda *args: None


FAULTS = {
    "float64": float64,
    "uneven_masks": uneven_masks,
    "checksums": checksums,
    "log_windows": log_windows,
    "kill": kill,
    "poison": poison,
    "full_disk": full_disk,
    "lock_wait": lock_wait,
    "slow_save": slow_save,
    "rank left out of the position": rank_left_out_of_the_position,
    "accumulation unweighted": accumulation_unweighted,
    "one all-reduce skipped": one_all_reduce_skipped,
    "optimizer not restored": optimizer_not_restored,
}


def apply(faults: dict[str, Any]) -> None:
    """Apply each fault, in the order in which they are given. No file is flushed to disk, and no picture is drawn."""
    atomic._fsync = lambda path: None
    journal.plot_scores = lambda *args: None
    journal.plot = lambda out_dir, *rest: (Path(out_dir) / "loss.png").write_bytes(b"")
    for name, value in faults.items():
        FAULTS[name](value)


if __name__ == "__main__":
    apply(json.loads(os.environ.get("ODD", "{}")))
    record(configurator.run)(train.main, train.TrainConfig)
