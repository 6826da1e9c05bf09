"""Copies on this disk of files that cannot be read where they lie: at an address, or packed inside an archive.

They are kept in ~/.cache/nonllama (or $NONLLAMA_CACHE) and used again while the original is the same. Whoever needs the
room deletes the folder: what is wanted is copied again.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock

from corpus.documents import short_hash


def copies_folder() -> Path:
    """Where copies are kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "nonllama"
    return Path(os.environ.get("NONLLAMA_CACHE") or default).expanduser()


def copy_path(origin: str, state: list) -> Path:
    """Where the copy of `origin`, in this state (JSON: its size, its time ...), is or will be.

    The names of the file and of its folder stay: dates and languages are read from them. The rest is a hash.
    """
    names = [name for name in PurePosixPath(origin).parts[-2:] if name not in ("..", "/")]
    folder = copies_folder() / short_hash(json.dumps([origin, state]))
    return folder.joinpath(*names)


def local_copy(origin: str, state: list, write: Callable[[IO[bytes]], None]) -> str:
    """The path of a complete copy of `origin`.

    write: called with a file to write to if there is no copy. The file holds what an earlier call wrote before it was
    interrupted; `write` goes on behind that, or calls begin_anew.
    """
    target = copy_path(origin, state)
    if target.is_file():
        return str(target)

    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_file():  # written by another process while this one waited
            return str(target)
        partial = Path(f"{target}.part")
        partial.touch()
        with open(partial, "r+b") as file:
            file.seek(0, os.SEEK_END)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    return str(target)


def begin_anew(file: IO[bytes]) -> None:
    """Forget what an earlier call wrote."""
    file.seek(0)
    file.truncate()
