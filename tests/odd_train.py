"""train.py made odd for tests: what ODD says in JSON, then the settings on the command line.

runs: settings of several runs, one after another in one launch (the command line's are common to all)
float64: default type of all tensors
mask: targets to leave out differ from window to window
mutant: a defect that the tests must see
checksums: file for the weights' hash on each rank at each checkpoint
kill: [who, rank, point, n]: kill -9 of "one" (the rank), "all" processes or the "launcher", when this rank comes to the
    point for the n-th time
poison: [rank, steps]: no number comes out of these steps on this rank
full_disk: n: there is no room for the n-th checkpoint
slow_save: seconds that each file of a checkpoint takes longer
"""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import time

import configurator  # noqa: F401

# isort: split
import psutil
import torch

import atomic
import checkpoint
import journal
import model
import parallel
import train

ODD, RANK = json.loads(os.environ.get("ODD", "{}")), int(os.environ.get("RANK", "0"))
batch = train.batch


def masked_batch(data, first, batch_size, device):
    """Leaves out the first few targets of each window: how many follows from its global position."""
    x, y, scored = batch(data, first, batch_size, device)
    y = y.clone()
    for row in range(batch_size):
        left_out = (first + row) * 7 % 29
        y[row, :left_out] = model.IGNORE
    return x, y, int((y != model.IGNORE).sum())


def come_to(who: str, place, name: str, wait: int):
    """`place.name` kills `who` the `wait`-th time that it is called."""
    function, count, launcher = getattr(place, name), iter(range(1, 1 << 40)), os.getppid()

    def deadly(*args, **kwargs):
        if next(count) == wait:
            workers = [child.pid for child in psutil.Process(launcher).children()]
            mine = os.getpid()
            for pid in {"one": [mine], "launcher": [launcher], "all": sorted(workers, key=lambda i: i == mine)}[who]:
                os.kill(pid, signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(place, name, deadly)


POINTS = {  # where a process can be killed
    "write": (checkpoint, "save_file"),
    "fsync": (atomic, "_fsync"),
    "rename": (os, "rename"),
    "latest": (os, "symlink"),
    "pruning": (shutil, "rmtree"),
    "append": (journal, "_append"),
    "backward": (model.LinearCrossEntropy, "backward"),
    "evaluation": (train, "evaluate"),
}


def mutate(name: str) -> None:
    """Put one defect in."""
    if name == "rank left out of the position":
        masked = train.batch
        world = parallel.World()
        train.batch = lambda data, first, size, device: masked(data, first - world.rank * size, size, device)
    elif name == "accumulation unweighted":
        masked, forward = train.batch, model.Llama.forward

        def mean_loss(self, idx, targets=None, **kwargs):
            loss = forward(self, idx, targets, **kwargs)
            return loss if targets is None or not self.training else loss / (targets != model.IGNORE).sum()

        train.batch = lambda *args: (*masked(*args)[:2], 1)
        model.Llama.forward = mean_loss
    elif name == "one all-reduce skipped":
        accumulating, passes = train.accumulating, iter(range(1 << 40))
        train.accumulating = lambda model, last: accumulating(model, last and next(passes) != 20)
    elif name == "optimizer not restored":
        checkpoint.load_optimizer = lambda *args: None
    else:
        raise AssertionError(name)


def note_checksums(path: str) -> None:
    """At each checkpoint: step, rank and a hash of this rank's weights."""
    save = checkpoint.save

    def noting(out_dir, step, llama, *args, **kwargs):
        digest = hashlib.sha256()
        for parameter in llama.parameters():
            digest.update(parallel.whole(parameter.detach()).numpy().tobytes())
        with open(f"{path}.{RANK}", "a", encoding="utf-8") as file:
            file.write(f"{step} {digest.hexdigest()}\n")
        return save(out_dir, step, llama, *args, **kwargs)

    checkpoint.save = noting


def main(cfg: train.TrainConfig) -> None:
    """One run, or those that ODD lists."""
    runs, start, stop = ODD.get("runs", [{}]), parallel.World.start, parallel.World.stop
    for i, changes in enumerate(runs):  # a process group cannot be made twice: the first run's serves all
        parallel.World.start = start if i == 0 else lambda self, device: None
        parallel.World.stop = stop if i == len(runs) - 1 else lambda self: None
        train.main(dataclasses.replace(cfg, **changes))


if ODD.get("float64"):
    torch.set_default_dtype(torch.float64)
if ODD.get("mask"):
    train.batch = masked_batch
if "mutant" in ODD:
    mutate(ODD["mutant"])
if "checksums" in ODD:
    note_checksums(ODD["checksums"])
if "kill" in ODD and ODD["kill"][1] == RANK:
    come_to(ODD["kill"][0], *POINTS[ODD["kill"][2]], ODD["kill"][3])
if "poison" in ODD and ODD["poison"][0] == RANK:
    forward, calls = model.Llama.forward, iter(range(1 << 40))

    def poisoned(self, idx, targets=None, **kwargs):
        loss = forward(self, idx, targets, **kwargs)
        return loss * float("nan") if self.training and next(calls) in ODD["poison"][1] else loss

    model.Llama.forward = poisoned
if "full_disk" in ODD:
    save_file, saves = checkpoint.save_file, iter(range(1, 1 << 40))

    def failing(tensors, path, *args):
        if "optimizer" in str(path) and next(saves) == ODD["full_disk"]:
            raise OSError(28, "No space left on device")
        return save_file(tensors, path, *args)

    checkpoint.save_file = failing
if "slow_save" in ODD:
    quick_save = checkpoint.save_file

    def slow_save(*args):
        time.sleep(ODD["slow_save"])
        return quick_save(*args)

    checkpoint.save_file = slow_save
main.__module__ = "train"
train.record(configurator.run)(main, train.TrainConfig)
