"""Files and folders that are complete or absent: written aside, flushed to disk, then renamed into place.

A process killed at any moment leaves the old version or the new one, and perhaps a `*.tmp` that a later run overwrites.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HELD: list[int] = []  # descriptors of the lock files that this process holds
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what a file system without locks answers


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it becomes `path`, on an exception it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on a clean exit it becomes `path`, on an exception it is removed.

    Raises FileExistsError when `path` exists: no system call swaps two folders everywhere, so none is ever replaced.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    temporary = path.with_name(path.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for part in [*temporary.rglob("*"), temporary]:
            _fsync(part)
        os.rename(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def link(path: str | Path, target: str) -> None:
    """Point the symbolic link `path` at `target` (relative to the link's folder) in one step."""
    temporary = Path(path).with_name(Path(path).name + ".tmp")
    temporary.unlink(missing_ok=True)
    os.symlink(target, temporary)
    os.replace(temporary, path)
    _fsync(Path(path).parent)


def write(path: str | Path, data: bytes | memoryview) -> None:
    """Write a whole file."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON: equal values give equal bytes."""
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


class Lock:
    """What `lock` returns: the lock is given back where this is left, at the latest when its processes have ended."""

    def __init__(self, path: Path, descriptor: int | None):
        self.path = path
        self.descriptor = descriptor  # of the locked file; None: nothing is locked
        if descriptor is not None:
            HELD.append(descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        if self.descriptor is None:
            return
        if _is_file_at(self.descriptor, self.path):
            self.path.unlink()
        HELD.remove(self.descriptor)
        os.close(self.descriptor)
        self.descriptor = None


def lock(folder: str | Path, wait_s: float, say: Callable[[str], None] | None = None) -> Lock:
    """Hold `folder`/lock until what is returned is left; both are made if they are not there.

    The lock belongs to this process and to the workers that it starts (pool.py): after kill -9 it is free when the last
    of them has ended, so that whoever gets it next is alone in the folder.

    When another process holds it, `say` is told so at once, and the lock is waited for up to wait_s seconds. Raises
    ValueError when the other process holds it still. A folder where nothing can be written needs no lock. Where the
    file system has none, the run goes on, and `say` is told.
    """
    path = Path(folder) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline_s = time.monotonic() + wait_s
    has_said = False
    while True:
        try:
            descriptor = _try_lock(path)
        except (OSError, ImportError) as error:
            if isinstance(error, ImportError) or error.errno in NO_LOCKS:
                if say is not None:
                    say(f"{folder}: there are no locks here; start no second run that writes there")
            elif os.access(path.parent, os.W_OK):
                raise
            return Lock(path, None)

        if descriptor is not None:
            return Lock(path, descriptor)
        if time.monotonic() >= deadline_s:
            raise ValueError(f"another process is writing to {folder}; stop it, or give another folder")
        if say is not None and not has_said:
            say(f"another process is writing to {folder}; waiting up to {wait_s:g} s for it to stop")
            has_said = True
        time.sleep(0.05)


def _try_lock(path: Path) -> int | None:
    """The descriptor of the file `path`, locked, and made if it is not there; None when another process holds it."""
    import fcntl  # an ImportError on Windows, which has other locks

    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        if _is_file_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # the last holder has removed this file: a lock on it keeps nobody out


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
