"""prepare_wiki.py killed at random moments, in any stage, ends with the bytes of an uninterrupted run.

The default run kills a few times; `pytest -m slow tests/test_prepare_kill.py -s` 50 times for 1 and for 2 workers.
"""

import bz2
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PYTHON, REPO
from test_dump import HEAD, TAIL, page
from test_prepare_wiki import tree


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A dump of one stream, one of many and a jsonl file: a few parts each, with duplicates among them."""
    folder, draw = tmp_path_factory.mktemp("sources"), random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(3000)]
    texts = [" ".join(draw.choices(words, k=draw.randint(50, 400))) for _ in range(800)]
    texts += draw.sample(texts, 20) + [text.replace(text.split()[9], "changed") for text in draw.sample(texts, 20)]
    pages = [page(number, f"Title {number}", f"'''Text''' of {text}") for number, text in enumerate(texts)]
    for name, size in (("one", len(pages)), ("many", 50)):
        groups = [HEAD, *("".join(pages[i : i + size]) for i in range(0, len(pages), size)), TAIL]
        groups = groups if name == "many" else ["".join(groups)]
        path = folder / f"dewiki-2024010{len(name)}-{name}.xml.bz2"
        path.write_bytes(b"".join(bz2.compress(group.encode()) for group in groups))
    lines = [json.dumps({"text": text + " in a file"}) + "\n" for text in texts]
    (folder / "rows.jsonl").write_text("".join(lines))
    return folder


def start(source: Path, out: Path, workers: int) -> subprocess.Popen:
    """python prepare_wiki.py, small parts, in a process group of its own."""
    code = "import sources, prepare_wiki, configurator; sources.PART_BYTES = 1 << 18; sources.STREAM_BYTES = 1 << 16; "
    code += "configurator.run(prepare_wiki.main, prepare_wiki.PrepareConfig)"
    arguments = [f"--source={source}/*", f"--data_dir={out}", f"--num_workers={workers}", "--vocab_size=600"]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([PYTHON, "-c", code, *arguments], env=environment, start_new_session=True, **pipes)


def finish(process: subprocess.Popen) -> None:
    """Wait for a run that must succeed."""
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]


STAGES = {"documents": "documents.json", "dedup": "dedup/report.json", "tokens": "meta.json"}


@pytest.mark.parametrize(
    ("workers", "kills"),
    [(2, 3), pytest.param(1, 50, marks=pytest.mark.slow), pytest.param(2, 50, marks=pytest.mark.slow)],
)
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(source, tmp_path, workers, kills):
    begin_s = time.monotonic()
    finish(start(source, tmp_path / "whole", workers))
    whole_s = time.monotonic() - begin_s
    expected, draw, killed, runs, stages = tree(tmp_path / "whole"), random.Random(workers), 0, 0, []
    while killed < kills:
        out = tmp_path / f"run{runs}"
        runs += 1
        for _ in range(6):  # then it may end
            process = start(source, out, workers)
            time.sleep(draw.uniform(0.2, 1) * whole_s)
            if process.poll() is not None or killed == kills:
                break
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            stages.append(next((name for name, file in STAGES.items() if not (out / file).is_file()), "end"))
        finish(process if process.poll() is None else start(source, out, workers))
        found = tree(out)
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == ["manifest.json"]  # it names the folder
    print(f"{killed} kills of {workers} workers in {runs} runs: {[(i, stages.count(i)) for i in STAGES]}")
    assert kills < 50 or all(stages.count(name) >= 3 for name in STAGES)
