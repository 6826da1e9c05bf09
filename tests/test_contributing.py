"""CONTRIBUTING.md: its examples are put into a copy of the repository, as it says, and their tests pass there."""

import os
import re
import shutil
import subprocess

import pytest
from conftest import PYTHON, REPO

EXAMPLE = re.compile(
    r"^`(?P<path>[\w./]+)`, (?:below `(?P<anchor>[^`]+)`|at the end):\n\n```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def put_in(source: str, anchor: str | None, code: str) -> str:
    """`source` with the code below the line that begins with `anchor`, or at its end."""
    if anchor is None:
        return source + "\n\n" + code
    lines = source.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.strip().startswith(anchor)]
    assert len(places) == 1, (anchor, places)
    below = places[0] + 1
    return "".join([*lines[:below], code, *lines[below:]])


@pytest.mark.slow
def test_the_examples_work_as_they_are_written(tmp_path):
    copy = tmp_path / "repo"
    left_out = shutil.ignore_patterns(".git", ".venv", "data", "out", "docs", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(REPO, copy, ignore=left_out)

    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    examples = list(EXAMPLE.finditer(text))
    assert len(examples) == text.count("```python"), "an example does not say where it goes"

    tests = []
    for example in examples:
        path = copy / example["path"]
        source = path.read_text(encoding="utf-8")
        if example["code"] not in source:  # it is when somebody has made an example part of the code
            path.write_text(put_in(source, example["anchor"], example["code"]), encoding="utf-8")
        if example["path"].startswith("tests/"):
            tests += [f"{example['path']}::{name}" for name in re.findall(r"^def (test_\w+)", example["code"], re.M)]
    assert len(tests) >= 4

    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(tests)} passed" in done.stdout

    ruff = [PYTHON, "-m", "ruff", "check", "--select=F,B", "."]  # names that are missing or unused
    done = subprocess.run(ruff, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
