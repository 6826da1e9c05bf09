"""Compare every shard of a data folder with its size and SHA-256 in meta.json.

python verify.py data/pydocs
"""

import sys
from pathlib import Path

import numpy as np

import atomic
from shards import read_meta, wrong_size


def verify(folder: str | Path) -> list[str]:
    """Compare every shard with meta.json; returns one line for each that is missing, shortened or altered."""
    found, meta = [], read_meta(folder)
    for split in meta["splits"].values():
        for entry in split:
            path = Path(folder) / entry["file"]
            if wrong := wrong_size(Path(folder), entry, np.dtype(meta["dtype"])):
                found.append(wrong)
            elif "sha256" in entry and atomic.sha256(path) != entry["sha256"]:
                found.append(f"{path} is altered: its SHA-256 is not the one in meta.json")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python verify.py data/<name>")
    try:
        problems = verify(sys.argv[1])
    except ValueError as error:
        sys.exit(f"error: {error}")
    if problems:
        sys.exit("\n".join(problems))
    note = read_meta(sys.argv[1]).get("note")
    print(f"{note}; no checksums to verify" if note else f"{sys.argv[1]}: every shard is as meta.json says")
