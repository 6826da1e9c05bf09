"""A mistake in a user's file is one line: what is wrong, and in which file, without a traceback.

`configurator.run` prints a ValueError as one line. This module turns other errors into such a ValueError.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs"  # how a file of Git LFS begins that was not downloaded
LONGEST_REASON = 300  # characters of the library's own message; some quote the whole file


@contextmanager
def one_line(prefix: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn an error of these kinds into a ValueError that says `prefix` and the reason, in one short line.

    Without `kinds`, every Exception is turned. So is, always, a panic of a library written in Rust (`tokenizers` has
    some), whose class is a BaseException and no Exception.
    """
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"
        if not is_panic and not isinstance(error, kinds or Exception):
            raise

        reason = " ".join(str(error).split())
        raise ValueError(prefix + reason[:LONGEST_REASON]) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError that names the file when it is no JSON, or not an object."""
    refuse_lfs_pointer(path)
    with one_line(f"{path}: not readable as JSON: "):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content


def refuse_lfs_pointer(path: Path) -> None:
    """Raise ValueError when a file is the few lines that Git LFS leaves in its place until it is downloaded."""
    try:
        with open(path, "rb") as file:
            begin = file.read(len(LFS_POINTER))
    except (OSError, ValueError):
        return  # whoever reads it says what is wrong

    if begin == LFS_POINTER:
        advice = f"fetch it: cd {path.parent}; git lfs install; git lfs pull"
        raise ValueError(f"{path} is a pointer of Git LFS, its content was not downloaded; {advice}")
