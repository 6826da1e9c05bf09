"""Runs of two processes are killed (kill -9) wherever it could hurt, or asked to stop, and started again.

What comes out is byte for byte the uninterrupted run's. The default run kills at each point once, without torchrun.
`pytest -m slow tests/test_kill.py -s` kills one process, all, or the launcher under torchrun: at one point, and at 30
random moments; it prints how many hit a save.
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
from ranks import finished, start
from test_parallel import read_checksums

import atomic
import checkpoint

KILLS = [  # who, when rank `rank` comes to `point` for the `count`-th time; few enough for 40 steps with all restarts
    {"who": "one", "rank": 0, "point": "append", "count": 3},
    {"who": "all", "rank": 1, "point": "backward", "count": 3},
    {"who": "launcher", "rank": 0, "point": "write", "count": 1},
    {"who": "one", "rank": 0, "point": "rename", "count": 1},
    {"who": "all", "rank": 0, "point": "latest", "count": 1},
    {"who": "launcher", "rank": 1, "point": "evaluation", "count": 1},
    {"who": "one", "rank": 0, "point": "fsync", "count": 5},
    {"who": "all", "rank": 0, "point": "pruning", "count": 3},
]
SETTINGS = TINY | {"batch_size": 4, "max_iters": 40, "checkpoint_interval": 4, "keep_checkpoints": 1}


def content(out: Path) -> dict[str, bytes]:
    """Name -> bytes of what a finished run leaves, without the name of its folder; times apart."""
    files = [path for path in (out / "latest").rglob("*") if path.is_file()]
    files.append(out / "metrics.jsonl")
    found = {}
    for path in files:
        name = path.relative_to(out).as_posix()
        found[name] = path.read_bytes().replace(str(out).encode(), b"")
    return found


def newest_step(out: Path) -> int:
    """The step of the newest checkpoint; 0 when there is none."""
    latest = out / "latest"
    if not latest.exists():
        return 0
    return checkpoint.read_state(latest)["step"]


def wait_for_the_ranks(out: Path) -> None:
    """Return when no process writes to `out` any more; raises after a minute."""
    with atomic.lock(out, 60):
        pass


@pytest.fixture(scope="module")
def uninterrupted(data_dir, tmp_path_factory):
    """A run that nobody kills."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    finished(2, SETTINGS | {"data": data_dir, "out_dir": out})
    return content(out)


def test_killed_at_every_point_a_run_ends_as_if_nothing_had_been(data_dir, tmp_path, uninterrupted):
    """One run, killed at each point in turn: the other process ends too, and no hand is needed.

    Processes whose launcher was killed stop after the step that they are in; the next launch waits for that. Last, the
    run is asked to stop, by SIGTERM to the launcher while a checkpoint is written: all save, and one says so.
    """
    out = tmp_path / "run"
    settings = SETTINGS | {"data": data_dir, "out_dir": out}
    for kill in KILLS:
        done = start(2, settings, {"kill": kill}).wait(90)
        if kill["who"] == "launcher":
            assert done.returncode == -9
        else:
            assert done.codes[kill["rank"]] == -9, (kill, done.stderr)
            assert done.returncode == 1
    wait_for_the_ranks(out)

    before = newest_step(out)
    stop = {"who": "launcher", "signal": "SIGTERM", "rank": 0, "point": "write", "count": 1}
    done = start(2, settings, {"kill": stop}).wait(90)
    assert done.returncode
    assert done.stderr.count("stopped at step") == 1, done.stderr
    assert before < newest_step(out) < 40

    finished(2, settings)
    assert content(out) == uninterrupted
    files = {"best", "latest", "loss.png", "metrics.jsonl", "settings.json", "speed.jsonl", "step_0000040"}
    files.add((out / "best").resolve().name)
    assert {path.name for path in out.iterdir()} == files


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(rank, data_dir, tmp_path, uninterrupted):
    """Ctrl-C may reach one process only. The one that it does not reach must not wait for it for ever."""
    out = tmp_path / "run"
    settings = SETTINGS | {"data": data_dir, "out_dir": out}
    # in the sixth step: the first pass settles DDP's buckets
    stop = {"who": "one", "signal": "SIGTERM", "rank": rank, "point": "backward", "count": 7}
    done = start(2, settings, {"kill": stop, "checksums": f"{tmp_path}/sums"}).wait(60)
    assert done.returncode
    assert done.stderr == f"\nstopped at step 6, saved in {out}/latest; the same command continues\n"

    first, second = read_checksums(tmp_path / "sums", 2)
    assert first == second
    assert [line.split()[0] for line in first] == ["4", "6"]
    finished(2, settings)
    assert content(out) == uninterrupted


def test_processes_without_a_launcher_save_and_stop(data_dir, tmp_path, uninterrupted):
    """The launcher is killed in step 6. Nobody else would stop its processes: they would go on for 100,000 steps."""
    out = tmp_path / "run"
    settings = SETTINGS | {"data": data_dir, "out_dir": out, "lr_decay_iters": 40}
    kill = {"who": "launcher", "rank": 1, "point": "backward", "count": 7}
    done = start(2, settings | {"max_iters": 100_000}, {"kill": kill}).wait(60)
    assert done.returncode == -9
    wait_for_the_ranks(out)
    assert 6 <= newest_step(out) < 40, "a step or two until the system has noticed"
    finished(2, settings)

    found = content(out)
    assert found.keys() == uninterrupted.keys()
    unlike = [name for name in found if found[name] != uninterrupted[name]]
    assert unlike == ["latest/training/state.json"], "it holds the setting lr_decay_iters"


def start_torchrun(settings: dict, faults: dict) -> subprocess.Popen:
    """torchrun and its two processes."""
    command = [str(Path(PYTHON).with_name("torchrun")), "--standalone", "--nproc_per_node=2"]
    command += [str(REPO / "tests/odd_train.py"), *flags(settings)]
    environment = os.environ | {"ODD": json.dumps(faults), "PYTHONPATH": str(REPO)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPO, env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["one", "all", "launcher"])
def test_under_torchrun_a_killed_run_goes_on_as_well(who, data_dir, tmp_path, uninterrupted):
    """The summary of torchrun names the process; the others end; a launcher's death and SIGTERM are seen."""
    out = tmp_path / "run"
    settings = SETTINGS | {"data": data_dir, "out_dir": out}
    kill = {"who": who, "rank": 1, "point": "backward", "count": 8}
    for _ in range(3):
        process = start_torchrun(settings, {"kill": kill})
        error = process.communicate(timeout=120)[1]
        assert process.returncode
        if "_capture_process_failures" not in error:
            break  # else torch 2.13 read the other process' report while that was being written, and has no summary
    if who == "one":
        assert "rank      : 1 " in error and "Signal 9 (SIGKILL)" in error, error
    wait_for_the_ranks(out)

    stop = {"who": "launcher", "signal": "SIGTERM", "rank": 0, "point": "write", "count": 1}
    process = start_torchrun(settings, {"kill": stop})
    error = process.communicate(timeout=120)[1]
    assert process.returncode
    assert error.count("stopped at step") == 1, error

    process = start_torchrun(settings, {})
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 0, error
    assert content(out) == uninterrupted


RANDOM_KILLS = 15  # KILLS chooses the moments one by one


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_a_run_ends_as_if_nothing_had_been(data_dir, tmp_path, uninterrupted):
    draw = random.Random(0)
    kills = in_saves = runs = 0
    settings = SETTINGS | {"data": data_dir}
    while kills < RANDOM_KILLS:
        runs += 1
        settings["out_dir"] = tmp_path / f"run{runs}"
        returncode = None
        while returncode != 0:
            process = start_torchrun(settings, {"slow_save": 0.3})
            deadline_s = time.monotonic() + draw.uniform(4, 14)
            while time.monotonic() < deadline_s and process.poll() is None:
                time.sleep(0.02)

            if process.poll() is None:
                launcher = psutil.Process(process.pid)
                ranks = launcher.children(recursive=True)
                choices = [ranks[-1:], ranks[:1], ranks, [launcher, *ranks]]
                victims = draw.choice(choices)
                in_saves += bool(list(settings["out_dir"].glob("*.tmp")))
                kills += 1
                for victim in victims:
                    victim.kill()
            returncode = process.wait(timeout=120)
        assert content(settings["out_dir"]) == uninterrupted
    print(f"{kills} kills in {runs} runs, {in_saves} of them inside a save; all ended as the uninterrupted run")
