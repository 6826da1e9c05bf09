"""prepare_wiki.py with worker processes is killed, in any stage, and ends with the bytes of an uninterrupted run.

The default run kills the parent alone, in two stages. `pytest -m slow tests/test_prepare_kill.py -s` kills parent and
workers at 50 random moments, for 1 and for 2 workers, and prints the stages that were hit.
"""

import bz2
import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import PYTHON, REPO
from test_dump import HEAD, TAIL, page
from test_prepare_wiki import tree

# prepare_wiki.py with small parts. It kills itself when it hands out job number KILL_AT: its workers are at work then.
PROGRAM = """
import concurrent.futures
import os
import signal

import configurator
import prepare_wiki
from corpus import sources

sources.PART_BYTES = 1 << 18
sources.STREAM_BYTES = 1 << 16
prepare_wiki.ORPHANS_S = 120
submit = concurrent.futures.ProcessPoolExecutor.submit
jobs_left = int(os.environ["KILL_AT"])

def deadly_submit(*args):
    global jobs_left
    jobs_left -= 1
    if jobs_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return submit(*args)

concurrent.futures.ProcessPoolExecutor.submit = deadly_submit
configurator.run(prepare_wiki.main, prepare_wiki.PrepareConfig)
"""
# prepare_wiki.py whose workers, in the tokens' stage, stop before a rename until the file GO is there, rename, and end.
# They do not see that their parent was killed.
LATE = """
import os
import time
from pathlib import Path

import configurator
import prepare_wiki
from corpus import pool, sources

sources.PART_BYTES = 1 << 18
sources.STREAM_BYTES = 1 << 16
rename, go = os.rename, Path(os.environ["GO"])

def late_rename(*args):
    go.with_name(f"{os.getpid()}.waits").touch()
    while not go.exists():
        time.sleep(0.01)
    rename(*args)
    os._exit(0)

if __name__ == "__main__":
    configurator.run(prepare_wiki.main, prepare_wiki.PrepareConfig)
else:
    pool.end_with_parent = lambda: None
    os.rename = late_rename
"""
NEVER = 10**9
STAGES = {"documents": "documents.json", "dedup": "dedup/report.json", "tokens": "meta.json"}  # the last file of each


def make_source(folder: Path, documents: int) -> Path:
    """A dump of one stream, one of many and a jsonl file: a few parts each, with duplicates among them."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(3000)]
    texts = [" ".join(draw.choices(words, k=draw.randint(50, 400))) for _ in range(documents)]
    same = draw.sample(texts, 20)
    similar = [text.replace(text.split()[9], "changed") for text in draw.sample(texts, 20)]
    texts += same + similar

    pages = [page(number, f"Title {number}", f"'''Text''' of {text}") for number, text in enumerate(texts)]
    one_stream = bz2.compress("".join([HEAD, *pages, TAIL]).encode())
    (folder / "dewiki-20240103-one.xml.bz2").write_bytes(one_stream)

    groups = ["".join(pages[first : first + 50]) for first in range(0, len(pages), 50)]
    many_streams = [bz2.compress(group.encode()) for group in [HEAD, *groups, TAIL]]
    (folder / "dewiki-20240104-many.xml.bz2").write_bytes(b"".join(many_streams))

    lines = [json.dumps({"text": text + " in a file"}) + "\n" for text in texts]
    (folder / "rows.jsonl").write_text("".join(lines))
    return folder


def start(source: Path, out: Path, workers: int, kill_at: int = NEVER) -> subprocess.Popen:
    """prepare_wiki.py in a process group of its own."""
    return start_program(["-c", PROGRAM], source, out, workers, KILL_AT=str(kill_at))


def start_program(program: list[str], source: Path, out: Path, workers: int, **variables: str) -> subprocess.Popen:
    arguments = [f"--source={source}/*", f"--data_dir={out}", f"--num_workers={workers}"]
    arguments += ["--vocab_size=600", "--val_fraction=0.1"]
    environment = os.environ | {"PYTHONPATH": str(REPO)} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([PYTHON, *program, *arguments], env=environment, start_new_session=True, **pipes)


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that must succeed."""
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when condition() holds."""
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def wait_for_workers(process: subprocess.Popen) -> None:
    """Return when no process of its group runs any more."""
    deadline_s = time.monotonic() + 60
    running = True
    while running:
        assert time.monotonic() < deadline_s, f"workers outlive their parent: {running}"
        time.sleep(0.01)
        running = []
        for candidate in psutil.process_iter(["pid", "status"]):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(candidate.pid) == process.pid and candidate.info["status"] != psutil.STATUS_ZOMBIE:
                    running.append(candidate.pid)


def unfinished_stage(out: Path) -> str:
    """The first stage that has not left its last file; "end" when all have."""
    for stage, last_file in STAGES.items():
        if not (out / last_file).is_file():
            return stage
    return "end"


def assert_same_folder(out: Path, whole: Path) -> None:
    """All files hold the same bytes, but for manifest.json, which names the folder."""
    found, expected = tree(out), tree(whole)
    assert found.keys() == expected.keys() and "lock" not in found
    assert [name for name in found if found[name] != expected[name]] == ["manifest.json"]


@pytest.mark.slow
def test_workers_end_with_a_killed_parent_and_the_next_run_goes_on(tmp_path):
    """The same command right after a kill, while the first run's workers may still write; and after their end."""
    source = make_source(tmp_path, documents=200)
    finish(start(source, tmp_path / "whole", workers=1))

    out = tmp_path / "out"
    first = start(source, out, workers=2, kill_at=3)
    assert first.wait(timeout=120) == -signal.SIGKILL
    assert unfinished_stage(out) == "documents"
    second = start(source, out, workers=2, kill_at=6)
    assert second.wait(timeout=120) == -signal.SIGKILL
    wait_for_workers(first)
    wait_for_workers(second)
    finish(start(source, out, workers=2))
    assert_same_folder(out, tmp_path / "whole")


@pytest.mark.slow
def test_a_run_right_after_a_kill_waits_for_the_workers_that_still_write(tmp_path):
    """Two workers are about to rename tokens/part_x when their parent is killed, and do so when the next run is there.

    Without its waiting, that run found the folders it had begun to make: "tokens/part_00001 exists already".
    """
    (tmp_path / "in").mkdir()
    source = make_source(tmp_path / "in", documents=200)
    finish(start(source, tmp_path / "whole", workers=1))

    (tmp_path / "late.py").write_text(LATE)
    out, go = tmp_path / "out", tmp_path / "go"
    first = start_program([str(tmp_path / "late.py")], source, out, workers=2, GO=str(go))
    wait_until(lambda: len(list(tmp_path.glob("*.waits"))) == 2, "no two workers came to the tokens' stage")
    first.kill()
    first.wait()

    second = start(source, out, workers=2)
    waiting = f"another process is writing to {out}; waiting up to 120 s for it to stop\n"
    assert waiting in iter(second.stdout.readline, "")  # "": it has ended
    go.touch()
    finish(second)
    assert_same_folder(out, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(workers, tmp_path):
    kills = 20
    source = make_source(tmp_path, documents=800)
    begin_s = time.monotonic()
    finish(start(source, tmp_path / "whole", workers))
    whole_s = time.monotonic() - begin_s

    draw = random.Random(workers)
    stages: list[str] = []  # in which it was killed
    runs = 0
    while len(stages) < kills:
        out = tmp_path / f"run{runs}"
        runs += 1
        for _ in range(6):  # then it may end
            process = start(source, out, workers)
            time.sleep(draw.uniform(0.2, 1) * whole_s)
            if process.poll() is not None or len(stages) == kills:
                break
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            stages.append(unfinished_stage(out))
        finish(start(source, out, workers) if process.poll() is not None else process)
        assert_same_folder(out, tmp_path / "whole")

    counts = {stage: stages.count(stage) for stage in STAGES}
    print(f"{kills} kills of {workers} workers in {runs} runs: {counts}")
