"""Files and folders that are complete or absent: written aside, flushed to disk, then renamed into place.

A process killed at any moment leaves the old version or the new one, and perhaps a `*.tmp` that a later run overwrites.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


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


def lock(
    folder: str | Path, wait_s: float, say: Callable[[str], None] | None = None
) -> contextlib.AbstractContextManager:
    """Hold `folder`/lock until what is returned is left, at the latest when the process ends, however it ends.

    When another process holds it, `say` is told so at once, and the lock is waited for up to wait_s seconds. Raises
    ValueError when the other process holds it still.
    """
    import filelock  # here: it imports ssl and asyncio, and the processes of a pool lock nothing

    file_lock = filelock.FileLock(Path(folder) / "lock")
    with contextlib.suppress(filelock.Timeout):
        return file_lock.acquire(timeout=0)

    if say is not None and wait_s > 0:
        say(f"another process is writing to {folder}; waiting up to {wait_s:g} s for it to stop")
    try:
        return file_lock.acquire(timeout=wait_s)
    except filelock.Timeout:
        raise ValueError(f"another process is writing to {folder}; stop it, or give another folder") from None


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
