"""manifest.json of a data folder: the command that began it, its settings, and the state of its source.

A setting that no finished file depends on may change, so that the remedy an error names can be typed as it is.
"""

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import atomic
from corpus.report import KINDS
from errors import read_json

BESIDE_DATA = ("README.md", "lock")  # what a folder may hold before it is begun
PACKAGES = ("numpy", "pyarrow", "tokenizers", "tiktoken", "xxhash")  # whose versions are noted


def read_manifest(folder: Path, defaults: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of a folder that was begun, else None. Raises ValueError for a folder with other files.

    defaults: a setting that is newer than the folder had, in effect, its default.
    """
    path = folder / "manifest.json"
    if path.is_file():
        begun = read_json(path)
        begun["settings"] = defaults | begun["settings"]
        return begun
    others = [entry for entry in folder.iterdir() if entry.name not in BESIDE_DATA and entry.suffix != ".tmp"]
    if others:
        raise ValueError(f"{folder} holds other files and no manifest.json; give an empty or new --data_dir")
    return None


def fixed_settings(folder: Path, names: Iterable[str], parts: str, fixed_by: dict[str, tuple[str, ...]]) -> set[str]:
    """The settings on which a finished file depends, and "source" if one depends on the source.

    names: all settings. fixed_by: {pattern of a file: the settings that are fixed when it is there}. All others are
    fixed when a file of the pattern `parts` is there, the first that are made.
    """
    fixed: set[str] = set()
    if any(folder.glob(parts)):
        later = {key for keys in fixed_by.values() for key in keys}
        fixed |= set(names) - later
    for pattern, keys in fixed_by.items():
        if any(folder.glob(pattern)):
            fixed |= set(keys)
    return fixed


def refuse_changes(folder: Path, begun: dict[str, Any], new: dict[str, Any], fixed: set[str]) -> None:
    """Raise ValueError when one of the `fixed` settings, or the source, is not what finished files were made from."""
    ways_out = f"give the earlier settings, or another --data_dir, or delete {folder} to make it again"
    for key, value in new["settings"].items():
        before = begun["settings"][key]
        if key in fixed and before != value:
            raise ValueError(f"{folder} was begun with {key}={before!r}, not {value!r}; {ways_out}")
    if "source" in fixed and begun["source"] != new["source"]:
        change = difference(begun["source"], new["source"])
        raise ValueError(f"{folder} was begun from another state of the source ({change}); {ways_out}")


def write_manifest(folder: Path, begun: dict[str, Any] | None, new: dict[str, Any]) -> None:
    """Write manifest.json with the command of this process, unless nothing has changed or the folder is complete."""
    if begun is not None:
        is_same = begun == {"command": begun["command"], **new}
        if is_same or (folder / "meta.json").is_file():
            return
    command = " ".join(quote_argument(argument) for argument in sys.argv)
    atomic.write_json(folder / "manifest.json", {"command": f"python {command}", **new})


def quote_argument(argument: str) -> str:
    """An argument as it is typed in a shell: --source='a b', not '--source=a b'."""
    key, equals, value = argument.partition("=")
    if equals and key.startswith("--"):
        return key + equals + shlex.quote(value)
    return shlex.quote(argument)


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first entry in which two source identities differ: "files: a.jsonl [9, 1] -> absent"."""
    for kind in new:  # files, packages, template_tables
        old_entries = old.get(kind) or {}
        new_entries = new[kind]
        for name in {**old_entries, **new_entries}:
            before = old_entries.get(name, "absent")
            after = new_entries.get(name, "absent")
            if before != after:
                return f"{kind}: {name} {before} -> {after}"
    return "source"


# --- for meta.json ---


def provenance(settings: dict[str, Any], identity: dict[str, Any], duplicates: dict[str, Any]) -> dict[str, Any]:
    """What a data folder was made from, for its meta.json. identity: of the source; duplicates: dedup's report."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions["python"] = platform.python_version()
    dedup = {key: duplicates.get(key) for key in ("documents", *KINDS, "kept", "settings")}
    return {"source": identity, "settings": settings, "dedup": dedup, "packages": versions}
