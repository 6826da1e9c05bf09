"""Which window each process reads: logged, while runs are killed and go on with another number of processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from conftest import TINY
from ranks import Launch, start
from torch.utils.data import DataLoader

import checkpoint
from sampler import DistributedStreamSampler, IndexStream
from shards import Shards, Windows

STEP_WINDOWS = 8


def read_log(log: Path) -> dict[int, list[tuple[int, int]]]:
    """Global position -> (index, epoch) of each time that a process read it."""
    found: dict[int, list[tuple[int, int]]] = {}
    for path in log.parent.glob(log.name + ".*"):
        for line in path.read_text().splitlines():
            for position, index, epoch in json.loads(line):
                found.setdefault(position, []).append((index, epoch))
    return found


@pytest.mark.slow
def test_processes_killed_and_resumed_as_others_read_each_index_once(data_dir, tmp_path):
    """4 processes, kill -9; 1, SIGTERM; 2 to the end: over an epoch's border, and the same sets as by the formula.

    With 1 and 2 processes a step has two micro-batches.
    """
    windows = Windows(Shards(data_dir, "train"), TINY["block_size"], 1337)
    n = len(windows)
    steps = n // STEP_WINDOWS + 20  # past the end of the first epoch
    out = tmp_path / "run"
    settings = TINY | {"data": data_dir, "out_dir": out, "max_iters": steps, "checkpoint_interval": 7}
    settings |= {"eval_interval": steps, "log_interval": steps}

    kill_all = {"who": "all", "rank": 0, "point": "backward", "count": 40}
    stop = {"who": "one", "signal": "SIGTERM", "rank": 0, "point": "backward", "count": 40}
    kept: dict[int, list[tuple[int, int]]] = {}
    step = 0
    for processes, batch_size, kill in [(4, 2, kill_all), (1, 4, stop), (2, 2, None)]:
        log = tmp_path / f"processes{processes}"
        faults = {"log_windows": str(log)}
        if kill is not None:
            faults["kill"] = kill
        settings["batch_size"] = batch_size
        done = start(processes, settings, faults).wait()
        assert (done.returncode == 0) == (kill is None), done.stderr

        read = read_log(log)
        assert min(read) == step * STEP_WINDOWS, "begins where the checkpoint says"
        begun = step
        step = checkpoint.read_state(out / "latest")["step"]
        assert step > begun

        trained = {}
        for position in range(begun * STEP_WINDOWS, step * STEP_WINDOWS):
            trained[position] = read.pop(position)
        # what a killed run did after its last checkpoint is lost with it
        next_step = range(step * STEP_WINDOWS, (step + 1) * STEP_WINDOWS)
        ahead = set() if kill is kill_all else set(read)
        assert ahead <= set(next_step), "a run that was asked to stop has read one step more, and no further"
        assert not (kill is None and read), "a run that ends reads nothing it does not train on"
        assert not kept.keys() & trained.keys()
        kept |= trained

    assert step == steps
    assert sorted(kept) == list(range(steps * STEP_WINDOWS))
    assert all(len(times) == 1 for times in kept.values()), "one process reads a position, once"

    first_epoch = [kept[position][0] for position in range(n)]
    assert sorted(first_epoch) == [(index, 0) for index in range(n)], "each index exactly once"
    assert all(kept[position][0][1] == 1 for position in range(n, steps * STEP_WINDOWS))

    _, index, epoch = IndexStream(n, seed=1337).at(np.arange(steps * STEP_WINDOWS))
    places = list(zip(index.tolist(), epoch.tolist(), strict=True))
    for step in range(steps):  # per step the same set, whatever the processes
        positions = range(step * STEP_WINDOWS, (step + 1) * STEP_WINDOWS)
        assert {kept[position][0] for position in positions} == {places[position] for position in positions}, step


def draw(folder: Path, n: int, batches: int) -> None:
    """As a rank: go on with the epoch in `folder` for so many batches of 4, and note what was drawn."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    sampler = DistributedStreamSampler(range(n), seed=3, tail="exact")  # rank and size from torch.distributed
    state = folder / "state.json"
    if state.exists():
        sampler.load_state_dict(json.loads(state.read_text()))
    start = sampler.position

    drawn = []
    for count, batch in enumerate(DataLoader(range(n), batch_size=4, sampler=sampler)):
        if count == batches:
            break
        drawn += batch.tolist()
    (folder / f"from{start}_rank{rank}.json").write_text(json.dumps(drawn))

    dist.barrier()
    if rank == 0:  # the trainer counts: a loader draws ahead
        position = start + batches * 4 * dist.get_world_size()
        state.write_text(json.dumps(sampler.state_at(position)))
    dist.destroy_process_group()


def test_the_sampler_takes_its_rank_from_torch_distributed(tmp_path):
    """3 processes for 10 batches each, then 2 for the rest of the epoch: each index once, none by two."""
    n = 211
    for processes, batches in ((3, 10), (2, 1000)):
        done = Launch(processes, draw, tmp_path, n, batches).wait()
        assert done.returncode == 0, done.stderr

    counts = {}
    drawn = []
    for path in tmp_path.glob("from*.json"):
        indices = json.loads(path.read_text())
        counts[path.stem] = len(indices)
        drawn += indices
    first = {"from0_rank0": 40, "from0_rank1": 40, "from0_rank2": 40}
    assert counts == first | {"from120_rank0": 46, "from120_rank1": 45}
    assert sorted(drawn) == list(range(n))
