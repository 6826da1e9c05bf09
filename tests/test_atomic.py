"""Files and folders are the old version or the new one, whatever happens in between."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import atomic

pytestmark = pytest.mark.usefixtures("real_fsync")
REPO = Path(__file__).parents[1]


def content(path: Path) -> str | dict[str, str] | None:
    """A file's text, a folder's {name: text}, None for what is not there."""
    if path.is_dir():
        return {str(inner.relative_to(path)): inner.read_text() for inner in path.rglob("*") if inner.is_file()}
    return path.read_text() if path.is_file() else None


def write_file(path: Path, text: str) -> None:
    with atomic.new_file(path) as temporary:
        temporary.write_text(text)


def write_folder(path: Path, text: str) -> None:
    with atomic.new_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "a").write_text(text)
        (temporary / "inner/b").write_text(text)


def folder_of(text: str) -> dict[str, str]:
    return {"a": text, "inner/b": text}


# --- files ---


def test_a_new_file_appears_on_exit_and_nothing_else_stays(tmp_path):
    path = tmp_path / "deep/er/file"
    with atomic.new_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent  # a rename across disks would be a copy
    assert content(path) == "new" and os.listdir(path.parent) == ["file"]


def test_the_old_file_is_read_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic.new_file(path) as temporary:
        temporary.write_text("new")
        assert content(path) == "old"
    assert content(path) == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_an_exception_inside_leaves_the_old_file_and_nothing_half_written(tmp_path, old, error):
    path = tmp_path / "file"
    if old:
        path.write_text(old)
    with pytest.raises(error), atomic.new_file(path) as temporary:
        temporary.write_text("ne")
        raise error
    assert content(path) == old and os.listdir(tmp_path) == (["file"] if old else [])


def test_a_file_that_was_never_written_is_an_error_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic.new_file(path):
        pass
    assert content(path) == "old"


def test_json_is_readable_and_equal_values_give_equal_bytes(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": {"名": "数学"}}
    atomic.write_json(tmp_path / "1.json", value)
    atomic.write_json(tmp_path / "2.json", {"b": [1, 2.5, None, True], "a": {"名": "数学"}})
    data = (tmp_path / "1.json").read_bytes()
    assert data == (tmp_path / "2.json").read_bytes() and data.endswith(b"}\n")
    assert "数学" in data.decode() and len(data.splitlines()) > 5
    assert json.loads(data) == value


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path):
    atomic.write_json(tmp_path / "file", 1)
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "file", {"a": object()})
    assert content(tmp_path / "file") == "1\n" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_sha256_is_the_one_of_the_whole_file(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert atomic.sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


# --- folders ---


def test_a_new_folder_appears_on_exit_and_nothing_else_stays(tmp_path):
    path = tmp_path / "deep/folder"
    with atomic.new_folder(path) as temporary:
        (temporary / "a").write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert content(path) == {"a": "new"} and os.listdir(path.parent) == ["folder"]


def test_a_folder_that_exists_is_never_replaced(tmp_path):
    """Two folders cannot be swapped in one step: a kill between two renames would lose both versions."""
    write_folder(tmp_path / "folder", "old")
    with pytest.raises(FileExistsError, match=f"{tmp_path}/folder exists"):
        write_folder(tmp_path / "folder", "new")
    assert content(tmp_path / "folder") == folder_of("old") and os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_leaves_no_folder_and_nothing_half_written(tmp_path, error):
    with pytest.raises(error), atomic.new_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("ne")
        raise error
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_behind_does_not_get_into_the_new_version(tmp_path):
    (tmp_path / "folder.tmp/inner").mkdir(parents=True)
    (tmp_path / "folder.tmp/inner/leftover").write_text("half")
    (tmp_path / "file.tmp").write_text("a long half-written text")
    write_folder(tmp_path / "folder", "new")
    write_file(tmp_path / "file", "new")
    assert content(tmp_path / "folder") == folder_of("new") and content(tmp_path / "file") == "new"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


# --- links ---


def test_a_link_points_where_it_is_told_and_moves(tmp_path):
    for name in ("one", "two"):
        write_folder(tmp_path / name, name)
        atomic.link(tmp_path / "latest", name)
        assert os.readlink(tmp_path / "latest") == name  # relative: the whole folder can be moved
        assert content(tmp_path / "latest") == folder_of(name)
    assert sorted(os.listdir(tmp_path)) == ["latest", "one", "two"]


def test_a_leftover_of_a_killed_move_does_not_stop_the_next(tmp_path):
    os.symlink("nowhere", tmp_path / "latest.tmp")
    atomic.link(tmp_path / "latest", "one")
    assert os.readlink(tmp_path / "latest") == "one" and os.listdir(tmp_path) == ["latest"]


# --- stopped at any moment ---


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of descriptors are read from /proc")
def test_content_is_flushed_to_disk_before_the_rename_and_the_rename_after_it(tmp_path, monkeypatch):
    calls = []

    def spy(name, real, path_of):
        def step(*args):
            calls.append((name, Path(path_of(args[0])).name))
            return real(*args)

        monkeypatch.setattr(os, name, step)

    spy("fsync", os.fsync, lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    spy("replace", os.replace, str)
    spy("rename", os.rename, str)
    write_file(tmp_path / "file", "new")
    assert calls == [("fsync", "file.tmp"), ("replace", "file.tmp"), ("fsync", tmp_path.name)]
    calls.clear()
    write_folder(tmp_path / "folder", "new")
    rename = calls.index(("rename", "folder.tmp"))
    assert {name for _, name in calls[:rename]} == {"a", "b", "inner", "folder.tmp"}
    assert calls[rename + 1 :] == [("fsync", tmp_path.name)]


STEPS = ("fsync", "rename", "replace", "symlink", "unlink", "open", "mkdir", "rmdir")


def write_link(path: Path, text: str) -> None:
    atomic.link(path, text)


def link_target(path: Path) -> str | None:
    return os.readlink(path) if os.path.islink(path) else None


KINDS = {  # how it is written, how it is read, what is read of a version
    "file": (write_file, content, lambda text: text),
    "folder": (write_folder, content, lambda text: folder_of(text) if text != "old" else None),
    "link": (write_link, link_target, lambda text: text),
}


def stop_at(patch: pytest.MonkeyPatch, k: int, after: bool) -> list[str]:
    """Raise KeyboardInterrupt before or after the k-th system call; returns the growing list of calls."""
    calls: list[str] = []

    def stopping(name, real):
        def step(*args, **kwargs):
            calls.append(name)
            if len(calls) == k and not after:
                raise KeyboardInterrupt
            result = real(*args, **kwargs)
            if len(calls) == k:
                raise KeyboardInterrupt
            return result

        return step

    for name in STEPS:
        patch.setattr(os, name, stopping(name, getattr(os, name)))
    return calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_at_any_system_call_leaves_the_old_version_or_the_new(tmp_path, monkeypatch, kind, after):
    write, read, version = KINDS[kind]
    path, outcomes = tmp_path / "thing", []
    for k in range(1, 1000):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path) if kind == "folder" else path.unlink()
        if kind != "folder":  # the old version of a folder is that there is none
            write(path, "old")
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            calls = stop_at(patch, k, after)
            write(path, "new")
        assert read(path) in (version("old"), version("new")), f"lost at call {k}, {calls[k - 1]}"
        outcomes.append(read(path))
        if len(calls) < k:
            break
    assert version("old") in outcomes and outcomes[-1] == version("new") and len(outcomes) > 3


KILLED = """
import os, signal, sys
from pathlib import Path
import atomic

kind, path = sys.argv[1], Path(sys.argv[2])
if kind == "json":
    atomic.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    atomic.write_json(path, "new" * 10000)
with atomic.new_file(path) if kind == "file" else atomic.new_folder(path) as temporary:
    (temporary if kind == "file" else temporary / "a").write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["file", "folder", "json"])
def test_kill_9_inside_leaves_the_old_version_and_the_next_run_writes_the_new(tmp_path, kind):
    path = tmp_path / "thing"
    write, read, version = KINDS["folder" if kind == "folder" else "file"]
    if kind != "folder":
        write(path, "old")
    command = [sys.executable, "-c", KILLED, kind, str(path)]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPO)}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert read(path) == version("old")
    assert "thing.tmp" in os.listdir(tmp_path)  # what was half-written lies beside it
    write(path, "new")
    assert read(path) == version("new") and os.listdir(tmp_path) == ["thing"]


def test_a_lock_is_held_by_one_and_goes_with_its_process(tmp_path):
    with atomic.lock(tmp_path, 0), pytest.raises(ValueError, match=f"another process is writing to {tmp_path}"):
        atomic.lock(tmp_path, 0.2)
    program = "import sys, time, atomic; held = atomic.lock(sys.argv[1], 0); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another process"):
            atomic.lock(tmp_path, 0)
        process.kill()
        with atomic.lock(tmp_path, 10):
            pass


def test_a_lock_leaves_no_file_and_a_new_folder_is_locked_too(tmp_path):
    with atomic.lock(tmp_path / "new/folder", 0):
        with pytest.raises(ValueError, match="another process"):
            atomic.lock(tmp_path / "new/folder", 0)
    assert os.listdir(tmp_path / "new/folder") == []


def test_a_lock_whose_file_was_removed_by_its_last_holder_is_taken_anew(tmp_path, monkeypatch):
    """Between opening the file and locking it, another process may give its lock back."""
    flock, calls = fcntl.flock, []

    def lock_after_removal(*args):
        if not calls:
            os.unlink(tmp_path / "lock")
        calls.append(args)
        flock(*args)

    monkeypatch.setattr(fcntl, "flock", lock_after_removal)
    with atomic.lock(tmp_path, 0):
        assert len(calls) == 2
        with pytest.raises(ValueError, match="another process"):
            atomic.lock(tmp_path, 0)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_and_the_run_goes_on(tmp_path, monkeypatch, number):
    def refuse(*args):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    with atomic.lock(tmp_path, 60, said.append):
        assert len(said) == 1 and f"{tmp_path}: there are no locks here" in said[0]
    assert atomic.HELD == []


def test_a_folder_where_nothing_can_be_written_needs_no_lock(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):  # the folder can be written to, another user's lock file cannot
        atomic.lock(tmp_path, 0)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with atomic.lock(tmp_path, 0):
        assert os.listdir(tmp_path) == []


def test_who_waits_for_a_lock_hears_of_it_once_and_before_the_wait(tmp_path):
    said = []
    with atomic.lock(tmp_path, 60, said.append):
        assert said == []
        with pytest.raises(ValueError, match="another process"):
            atomic.lock(tmp_path, 0, said.append)
        assert said == []  # nothing is waited for
        with pytest.raises(InterruptedError):
            atomic.lock(tmp_path, 60, interrupt)


def interrupt(line: str) -> None:
    raise InterruptedError(line)
