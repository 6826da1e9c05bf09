"""Real torchrun launches with gloo: every index the processes read is logged, runs are killed and go on with others."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
from conftest import PYTHON, REPO, TINY, flags

import checkpoint
from sampler import IndexStream
from shards import Shards, Windows

STEP_WINDOWS = 8

# train.py as it is, with a note of each batch that a process reads: its global positions and what stood there.
LOGGED_TRAIN = """
import json, os, sys, time
import configurator, train
from shards import Windows

log = open(os.environ["INDEX_LOG"] + "." + os.environ.get("RANK", "0"), "a")
batch, get = train.batch, Windows.get

def logged_get(self, indices, epochs):
    found.extend(zip(indices.tolist(), epochs.tolist()))
    return get(self, indices, epochs)

def logged_batch(data, first, batch_size, device):
    found.clear()
    tokens = batch(data, first, batch_size, device)
    log.write(json.dumps([first, found]) + "\\n")
    log.flush()
    time.sleep(float(os.environ.get("PAUSE_S", "0")))
    return tokens

found = []
Windows.get, train.batch = logged_get, logged_batch
configurator.run(train.main, train.TrainConfig)
"""


def launch(script: Path, log: Path, processes: int, settings: dict, pause_s: float = 0) -> subprocess.Popen:
    command = [str(Path(PYTHON).with_name("torchrun")), "--standalone", f"--nproc_per_node={processes}"]
    environment = os.environ | {"INDEX_LOG": str(log), "PYTHONPATH": str(REPO), "PAUSE_S": str(pause_s)}
    command += [str(script), *flags(settings | {"batch_size": min(4, STEP_WINDOWS // processes)})]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPO, env=environment, start_new_session=True, **pipes)


def read_log(log: Path) -> dict[int, list[tuple[int, int]]]:
    """Global position -> (index, epoch) of each time that a process read it."""
    found: dict[int, list[tuple[int, int]]] = {}
    for path in log.parent.glob(log.name + ".*"):
        for line in path.read_text().splitlines():
            first, windows = json.loads(line)
            for i, window in enumerate(windows):
                found.setdefault(first + i, []).append(tuple(window))
    return found


def test_processes_killed_and_resumed_as_others_read_each_index_once(data_dir, tmp_path):
    """4 processes, kill -9; 1, SIGTERM; 2 to the end: over an epoch's border, and the same sets as by the formula."""
    windows = Windows(Shards(data_dir, "train"), TINY["block_size"], TINY.get("seed", 1337))
    n = len(windows)
    steps = n // STEP_WINDOWS + 20  # past the end of the first epoch
    script, out = tmp_path / "logged_train.py", tmp_path / "run"
    script.write_text(LOGGED_TRAIN)
    settings = TINY | {"data": data_dir, "out_dir": out, "max_iters": steps, "checkpoint_interval": 7}
    settings |= {"eval_interval": steps, "log_interval": steps, "warmup_iters": 5}
    kept: dict[int, list[tuple[int, int]]] = {}
    step = 0
    for phase, (processes, kill) in enumerate([(4, signal.SIGKILL), (1, signal.SIGTERM), (2, None)]):
        log = tmp_path / f"phase{phase}"
        process = launch(script, log, processes, settings, pause_s=0 if kill is None else 0.02)
        if kill is not None:
            wanted, deadline = step + 30, time.monotonic() + 240
            while time.monotonic() < deadline and process.poll() is None:
                if (out / "latest").exists() and checkpoint.read_state(out / "latest")["step"] >= wanted:
                    break
                time.sleep(0.05)
            assert process.poll() is None, process.communicate()
            workers = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(kill)  # SIGTERM: the launcher hands it on
            for worker in workers if kill == signal.SIGKILL else []:
                worker.kill()
        output = process.communicate(timeout=240)
        if kill is None:
            assert process.returncode == 0, output
        found = read_log(log)
        assert min(found) == step * STEP_WINDOWS, "begins where the checkpoint says"
        begun, step = step, checkpoint.read_state(out / "latest")["step"]
        assert step > begun
        # what a killed run did after its last checkpoint is lost with it
        mine = {g: found.pop(g) for g in sorted(found) if g < step * STEP_WINDOWS}
        assert kill == signal.SIGKILL or not found, "a run that was asked to stop reads nothing it does not train on"
        assert not kept.keys() & mine.keys()
        kept |= mine
    assert step == steps and sorted(kept) == list(range(steps * STEP_WINDOWS))
    assert all(len(times) == 1 for times in kept.values()), "one process reads a position, once"
    first_epoch = [window for g in range(n) for window in kept[g]]
    assert sorted(first_epoch) == [(index, 0) for index in range(n)], "each index exactly once"
    assert all(kept[g][0][1] == 1 for g in range(n, steps * STEP_WINDOWS))
    _, index, epoch = IndexStream(n, seed=1337).at(np.arange(steps * STEP_WINDOWS))
    for k in range(steps):  # per step the same set, whatever the processes
        part = slice(k * STEP_WINDOWS, (k + 1) * STEP_WINDOWS)
        read = {kept[g][0] for g in range(part.start, part.stop)}
        assert read == set(zip(index[part].tolist(), epoch[part].tolist(), strict=True)), k


SAMPLER_SCRIPT = """
import json, os, sys
import torch.distributed as dist
from torch.utils.data import DataLoader
from sampler import DistributedStreamSampler

folder, n, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
dist.init_process_group("gloo")
rank, W = dist.get_rank(), dist.get_world_size()
sampler = DistributedStreamSampler(range(n), seed=3, tail="exact")  # ranks from torch.distributed
if os.path.exists(folder + "/state.json"):
    sampler.load_state_dict(json.load(open(folder + "/state.json")))
start, found = sampler.position, []
for k, batch in enumerate(DataLoader(range(n), batch_size=4, sampler=sampler)):
    if k == batches:
        break
    found += batch.tolist()
json.dump(found, open(f"{folder}/from{start}_rank{rank}.json", "w"))
dist.barrier()
if rank == 0:  # the trainer counts: a loader draws ahead
    json.dump(sampler.state_at(start + batches * 4 * W), open(folder + "/state.json", "w"))
dist.destroy_process_group()
"""


def test_the_sampler_takes_its_rank_from_torch_distributed(tmp_path):
    """3 processes for 10 batches each, then 2 for the rest of the epoch: each index once, none by two."""
    n, script = 211, tmp_path / "draw.py"
    script.write_text(SAMPLER_SCRIPT)
    for processes, batches in ((3, 10), (2, 1000)):
        command = [str(Path(PYTHON).with_name("torchrun")), "--standalone", f"--nproc_per_node={processes}"]
        command += [str(script), str(tmp_path), str(n), str(batches)]
        environment = os.environ | {"PYTHONPATH": str(REPO)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
    drawn = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("from*.json")}
    assert sorted(drawn) == ["from0_rank0.json", "from0_rank1.json", "from0_rank2.json"] + [
        "from120_rank0.json",
        "from120_rank1.json",
    ]
    assert [len(drawn[f"from0_rank{rank}.json"]) for rank in range(3)] == [40, 40, 40]
    assert [len(drawn[f"from120_rank{rank}.json"]) for rank in range(2)] == [46, 45]
    assert sorted(sum(drawn.values(), [])) == list(range(n))
