"""Mutants: small defects put into the code on purpose, each with the test that must fail when it is there.

    python tests/mutants.py                          all of them; prints a table; some minutes
    python tests/mutants.py --only=sampler           those whose file, row or test holds this word
    python tests/mutants.py --processes=2

Each entry of mutants.json binds a row (a mistake that users of similar projects met, or a defect that once survived
our own tests) to a change of one place in one file, and to a test. A test that passes in spite of the change is a
defect of the tests: the command ends with exit code 1 and names it. It also does when the text to change is no longer
there, or is there twice, so the list follows the code.
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator  # noqa: E402

REPO = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("mutants.json")
NOT_COPIED = (".git", ".venv", "data", "out", "wandb", ".pytest_cache", ".ruff_cache", ".hypothesis", "__pycache__")
TESTS_FAILED = 1  # pytest's exit code; others mean that no test ran


@dataclass(frozen=True)
class MutantsConfig:
    """Settings of `python tests/mutants.py`."""

    only: str = ""  # run the mutants whose file, row or test holds this word
    processes: int = 2  # mutants tried at the same time, each in a copy of the repository


@dataclass(frozen=True)
class Mutant:
    """One defect and the test that sees it."""

    row: str  # the mistake, in words
    file: str  # where it is put in
    old: str  # the text that is replaced, which the file holds once
    new: str
    test: str  # the test that must fail, as pytest names it


def read_mutants(only: str = "") -> list[Mutant]:
    """The entries of mutants.json that hold the word `only`."""
    entries = json.loads(LIST.read_text(encoding="utf-8"))
    mutants = [Mutant(**entry) for entry in entries]
    return [mutant for mutant in mutants if only in f"{mutant.file} {mutant.row} {mutant.test}"]


def copy_repository(target: Path) -> None:
    """The files of the repository, without what is made from them; ../shared is found from the copy as well."""
    shutil.copytree(REPO, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    shared = REPO.parent / "shared"
    link = target.parent / "shared"
    if shared.is_dir() and not link.exists():
        link.symlink_to(shared)


def run_tests(folder: Path, tests: list[str]) -> subprocess.CompletedProcess:
    """Run these tests in a copy of the repository, slow ones too."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow", *tests]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def try_mutant(mutant: Mutant) -> str:
    """What became of a mutant: 'killed', or what is wrong."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        copy_repository(folder)

        path = folder / mutant.file
        source = path.read_text(encoding="utf-8")
        places = source.count(mutant.old)
        if places != 1:
            return f"the text to change is there {places} times"
        path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")

        done = run_tests(folder, [mutant.test])
    if done.returncode == TESTS_FAILED:
        return "killed"
    if done.returncode == 0:
        return "SURVIVED"
    return f"no test ran: {done.stdout.strip().splitlines()[-1:]} {done.stderr[-200:]}"


def check_tests_pass(mutants: list[Mutant]) -> None:
    """Raise ValueError unless all tests of the list pass on the code as it is."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "copy"
        copy_repository(folder)
        done = run_tests(folder, sorted({mutant.test for mutant in mutants}))
    if done.returncode != 0:
        raise ValueError(f"the tests must pass before any mutant is tried:\n{done.stdout[-2000:]}")


def main(cfg: MutantsConfig) -> None:
    """Try the mutants and print what became of each. Raises ValueError when one was not killed."""
    mutants = read_mutants(cfg.only)
    if not mutants:
        raise ValueError(f"no mutant holds the word {cfg.only!r}")
    check_tests_pass(mutants)

    with concurrent.futures.ThreadPoolExecutor(cfg.processes) as pool:
        results = pool.map(try_mutant, mutants)
        survivors = 0
        print("| what goes wrong | where | test | |\n|---|---|---|---|")
        for mutant, result in zip(mutants, results, strict=True):
            test = mutant.test.removeprefix("tests/")
            print(f"| {mutant.row} | {mutant.file} | {test} | {result} |", flush=True)
            survivors += result != "killed"

    print(f"\n{len(mutants) - survivors} of {len(mutants)} mutants killed")
    if survivors:
        raise ValueError(f"{survivors} mutants were not killed")


if __name__ == "__main__":
    configurator.run(main, MutantsConfig, show=False)
