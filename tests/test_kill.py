"""Two processes under torchrun, killed (kill -9) wherever it could hurt and started again by the same command.

The default run kills at each point once; `pytest -m slow tests/test_kill.py -s` kills one process, all, or the launcher
at 30 random moments and prints how many hit a save. What comes out is byte for byte the uninterrupted run's.
"""

import json
import os
import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import PYTHON, REPO, TINY, flags
from test_parallel import finished

import atomic

POINTS = [  # rank, point, which time: near enough that launches which save before they stop reach them all in 40 steps
    (0, "append", 3),
    (1, "backward", 3),
    (0, "write", 1),
    (0, "rename", 1),
    (0, "latest", 1),
    (1, "evaluation", 1),
    (0, "fsync", 5),
    (0, "pruning", 3),
]
KILLED = ["one", "all", "launcher"]
SETTINGS = TINY | {"batch_size": 4, "max_iters": 40, "checkpoint_interval": 4, "keep_checkpoints": 1}


def start(settings: dict, odd: dict) -> subprocess.Popen:
    """The launcher and its two processes."""
    command = [str(Path(PYTHON).with_name("torchrun")), "--standalone", "--nproc_per_node=2"]
    command += [str(REPO / "tests/odd_train.py"), *flags(settings)]
    environment = os.environ | {"ODD": json.dumps(odd), "PYTHONPATH": str(REPO)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPO, env=environment, start_new_session=True, **pipes)


def content(out: Path) -> dict[str, bytes]:
    """What a finished run leaves, times and the log of the end apart."""
    files = [path for path in (out / "latest").rglob("*") if path.is_file()] + [out / "metrics.jsonl"]
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
    return {name: data.replace(str(out).encode(), b"") for name, data in found.items()}


@pytest.fixture(scope="module")
def uninterrupted(data_dir, tmp_path_factory):
    """A run that nobody kills."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finished(2, SETTINGS | {"data": data_dir, "out_dir": out}, {})
    return content(out)


@pytest.mark.parametrize("who", ["mixed", *(pytest.param(who, marks=pytest.mark.slow) for who in KILLED)])
def test_killed_at_every_point_it_ends_as_if_nothing_had_been(who, data_dir, tmp_path, uninterrupted):
    """One run, killed at each point in turn: the other process is gone within a minute, and no hand is needed.

    Processes whose launcher was killed stop after the step that they are in; the next launch waits for that.

    Then asked to stop, by SIGTERM to the launcher: both processes save at the same step, and one says so.
    """
    settings = SETTINGS | {"data": data_dir, "out_dir": tmp_path / "run"}
    for i, (rank, point, wait) in enumerate(POINTS):
        victim = KILLED[i % 3] if who == "mixed" else who
        process, begun = start(settings, {"kill": [victim, rank, point, wait]}), time.monotonic()
        process.wait(timeout=120)
        assert process.returncode and time.monotonic() - begun < 90, (victim, point, process.stderr.read())
        if victim == "one":
            error = process.stderr.read()
            assert f"rank      : {rank} " in error and "Signal 9 (SIGKILL)" in error, (point, error)
    with atomic.lock(tmp_path / "run", 60):
        pass  # what the last kill left has stopped
    before = (tmp_path / "run/latest").resolve().name
    process = start(settings, {"slow_save": 0.1})
    while (tmp_path / "run/latest").resolve().name == before and process.poll() is None:
        time.sleep(0.02)
    process.terminate()
    error = process.communicate(timeout=60)[1]
    assert error.count("stopped at step") == 1 and (tmp_path / "run/latest").resolve().name > before, error
    finished(2, settings, {})
    assert content(tmp_path / "run") == uninterrupted
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        ["best", "latest", "lock", "loss.png", "metrics.jsonl", "settings.json", "speed.jsonl", "step_0000040"]
        + ([] if (tmp_path / "run/best").resolve().name == "step_0000040" else [(tmp_path / "run/best").resolve().name])
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_random_moments_it_ends_as_if_nothing_had_been(data_dir, tmp_path, uninterrupted):
    draw, kills, in_saves, runs = random.Random(0), 0, 0, 0
    settings = SETTINGS | {"data": data_dir}
    while kills < 30 or in_saves < 10:
        runs += 1
        settings["out_dir"] = tmp_path / f"run{runs}"
        while True:
            process = start(settings, {"slow_save": 0.3})
            deadline = time.monotonic() + draw.uniform(4, 14)
            while time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.02)
            if process.poll() is None:
                workers = psutil.Process(process.pid).children(recursive=True)
                victims = draw.choice([workers[-1:], workers[:1], workers, [psutil.Process(process.pid), *workers]])
                in_saves += bool(list(settings["out_dir"].glob("*.tmp")))
                kills += 1
                for victim in victims:
                    victim.kill()
            if process.wait(timeout=120) == 0:
                break
        assert content(settings["out_dir"]) == uninterrupted
    print(f"{kills} kills in {runs} runs, {in_saves} of them inside a save; all ended as the uninterrupted run")
