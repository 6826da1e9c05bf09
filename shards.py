"""Token files: `data/<name>/{train,val}_00000.bin` hold ids and nothing else; `meta.json`, written last, says what.

A bare nanoGPT folder (train.bin, val.bin) is read as well.
"""

import json
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import atomic
from sampler import hash_key

FORMAT_VERSION = 1


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 when every id fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def join_parts(parts: list[Path], folder: Path, split: str, itemsize: int, shard_tokens: int) -> list[dict[str, Any]]:
    """Concatenate token parts to folder/split_00000.bin and on, a new shard after `shard_tokens` or more.

    parts: folders with <split>.bin and counts.json, which has each split's documents and UTF-8 bytes. Returns
    meta.json's list of shards (file, tokens, documents, bytes, sha256). Documents are never cut between shards.
    """
    shards, groups = list[dict[str, Any]](), list[list[Path]]([[]])
    for part in parts:
        if sum((i / f"{split}.bin").stat().st_size for i in groups[-1]) >= shard_tokens * itemsize:
            groups.append([])
        if (part / f"{split}.bin").stat().st_size:
            groups[-1].append(part)
    for group in filter(None, groups):
        path = folder / f"{split}_{len(shards):05d}.bin"
        with atomic.new_file(path) as temporary, open(temporary, "wb") as out:
            for part in group:
                with open(part / f"{split}.bin", "rb") as file:
                    shutil.copyfileobj(file, out)
        counts = [json.loads((part / "counts.json").read_text(encoding="utf-8"))[split] for part in group]
        totals = {key: sum(count[key] for count in counts) for key in ("documents", "bytes")}
        tokens = path.stat().st_size // itemsize
        shards.append({"file": path.name, "tokens": tokens, **totals, "sha256": atomic.sha256(path)})
    return shards


def read_meta(folder: str | Path) -> dict[str, Any]:
    """meta.json of a finished data folder. Raises ValueError that names the command which makes or completes it."""
    folder = Path(folder)
    if (folder / "meta.json").is_file():
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if (version := meta.get("format_version")) != FORMAT_VERSION:
            raise ValueError(f"{folder}/meta.json has format version {version}, not {FORMAT_VERSION}; make it anew")
        return meta
    if (folder / "manifest.json").is_file():
        command = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["command"]
        raise ValueError(f"{folder} has no meta.json: its preparation is unfinished; complete it with: {command}")
    if (folder / "train.bin").is_file():
        return _bare_meta(folder)
    config = f"config/data_{folder.name}.py"
    config = config if Path(config).is_file() else f"--source=... --data_dir={folder}"
    raise ValueError(f"{folder} has no meta.json; make it with: python prepare_wiki.py {config}")


def _bare_meta(folder: Path) -> dict[str, Any]:
    """What a folder of nanoGPT tells: train.bin and val.bin hold uint16. meta.pkl, a pickle, is left alone."""
    splits = {}
    for split in ("train", "val"):
        path = folder / f"{split}.bin"
        size = path.stat().st_size if path.is_file() else None
        if size is None or size % 2:
            found = "is missing" if size is None else f"has {size} bytes, no whole number of uint16 ids"
            raise ValueError(f"{path} {found}: not a folder of nanoGPT; prepare it again")
        splits[split] = [{"file": path.name, "tokens": size // 2}]
    note = f"{folder} has no meta.json: train.bin and val.bin are read as nanoGPT writes them, ids of uint16"
    return {"dtype": "<u2", "vocab_size": None, "splits": splits, "note": note}


def wrong_size(folder: Path, entry: dict[str, Any], dtype: np.dtype) -> str | None:
    """What is wrong with the size of a shard in meta.json's list; None: nothing."""
    path, wanted = folder / entry["file"], entry["tokens"] * dtype.itemsize
    size = path.stat().st_size if path.is_file() else None
    found = "is missing" if size is None else f"has {size} bytes"
    return None if size == wanted else f"{path} {found}, meta.json says {wanted}"


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


class Shards:
    """Random access to the tokens of one split.

    Attributes: meta; vocab_size (None in a bare folder, until it is set); dtype; sizes, the tokens of each shard;
    tokens, of all; bytes, of the split's text in UTF-8 (None in a bare folder). read_ahead=False tells the system that
    reads come in random order: a cold read then fetches its own pages, and not up to megabytes that follow.
    """

    def __init__(self, folder: str | Path, split: str, meta: dict[str, Any] | None = None, read_ahead: bool = False):
        self.folder, self.split, self.meta = Path(folder), split, meta or read_meta(folder)
        self.vocab_size, self.dtype = self.meta["vocab_size"], np.dtype(self.meta["dtype"])
        entries = self.meta["splits"][split]
        self.paths = [self.folder / entry["file"] for entry in entries]
        self.sizes = np.array([entry["tokens"] for entry in entries], dtype=np.int64)
        self.tokens, self.read_ahead = int(self.sizes.sum()), read_ahead
        self.bytes = sum(entry["bytes"] for entry in entries) if all("bytes" in entry for entry in entries) else None
        for entry in entries:
            if wrong := wrong_size(self.folder, entry, self.dtype):
                raise ValueError(f"{wrong}; delete {self.folder} and prepare it again")

    @cached_property
    def _files(self) -> list[Any]:
        """Opened once in each process. With pread resident memory stays flat; pages of a mapped file count as own."""
        if not hasattr(os, "pread"):
            return [np.memmap(path, dtype=self.dtype, mode="r") for path in self.paths]
        files = [os.open(path, os.O_RDONLY) for path in self.paths]
        weakref.finalize(self, lambda: [os.close(file) for file in files])
        if hasattr(os, "posix_fadvise") and not self.read_ahead:
            for file in files:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        return files

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_files"}  # a spawned worker opens its own

    def read(self, shard: int, start: int, count: int) -> np.ndarray:
        """`count` tokens of a shard from token `start`, in the shard's dtype."""
        return np.frombuffer(self._bytes(shard, start, count), dtype=self.dtype)

    def rows(self, shards: Sequence[int], starts: Sequence[int], count: int) -> np.ndarray:
        """`count` tokens from each place, (len(starts), count) in the shards' dtype: a read for each, one copy."""
        data = b"".join([self._bytes(shard, start, count) for shard, start in zip(shards, starts, strict=True)])
        return np.frombuffer(data, dtype=self.dtype).reshape(-1, count)

    def _bytes(self, shard: int, start: int, count: int) -> bytes:
        file, begin, size = self._files[shard], start * self.dtype.itemsize, count * self.dtype.itemsize
        if isinstance(file, np.memmap):
            return file[start : start + count].tobytes()
        data = os.pread(file, size, begin)
        while len(data) < size:  # Linux hands out 2 GB at most
            if not (more := os.pread(file, size - len(data), begin + len(data))):
                check = f"python prepare_wiki.py --verify --data_dir={self.folder}"
                raise ValueError(f"{self.paths[shard]} has become shorter; run: {check}")
            data += more
        return data

    def check_ids(self, ids: np.ndarray) -> np.ndarray:
        """`ids`. Raises ValueError for those beyond the vocabulary: on a GPU they end in an assertion without names."""
        if self.vocab_size is not None and ids.size and (largest := int(ids.max())) >= self.vocab_size:
            wrong = f"the {self.split} split has token id {largest}, the vocabulary ends at {self.vocab_size - 1}"
            raise ValueError(f"{self.folder}: {wrong}: another tokenizer made the ids, or a shard is damaged")
        return ids

    def all(self, limit: int | None = None) -> np.ndarray:
        """The first `limit` tokens of the split (None: all of them), shard after shard."""
        ends = np.minimum(np.cumsum(self.sizes), self.tokens if limit is None else limit)
        counts = np.diff(ends, prepend=0).tolist()
        return np.concatenate([self.read(shard, 0, count) for shard, count in enumerate(counts)])


class _Tiles:
    """Windows that tile each shard, numbered through: `counts` for each shard (below 0 is none)."""

    def __init__(self, shards: Shards, block_size: int, counts: np.ndarray, none_at_all: str):
        self.shards, self.block_size = shards, block_size
        # index of each shard's first window, and the total
        self.first = np.concatenate([[0], np.cumsum(np.maximum(0, counts))])
        if not len(self):
            raise ValueError(f"{shards.folder}: the {shards.split} split {none_at_all}")

    def __len__(self) -> int:
        return int(self.first[-1])


class Windows(_Tiles):
    """Training windows of block_size + 1 tokens that tile each shard, shifted by a fresh offset in every epoch.

    A shard of N tokens has max(0, N // block_size - 1) windows; window i of it reads from offset + i * block_size, with
    the offset in [0, block_size) hashed from (seed, epoch, shard). So an epoch sees each token about once, and window
    borders fall elsewhere in the next epoch. len() is the same in all epochs. (A torch Dataset of them: WindowDataset.)
    """

    def __init__(self, shards: Shards, block_size: int, seed: int):
        few = f"has {shards.tokens} tokens, too few for one window of block_size {block_size}"
        super().__init__(shards, block_size, shards.sizes // block_size - 1, f"{few}; lower --block_size or add text")
        self.seed = seed

    def get(self, indices: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Windows as int64 (len(indices), block_size + 1)."""
        owners = np.searchsorted(self.first, indices, side="right") - 1
        places = zip(epochs.tolist(), owners.tolist(), strict=True)
        offsets = [hash_key(self.seed, epoch, shard) % self.block_size for epoch, shard in places]
        starts = (indices - self.first[owners]) * self.block_size + np.array(offsets, dtype=np.int64)
        tokens = self.shards.rows(owners.tolist(), starts.tolist(), self.block_size + 1)
        return self.shards.check_ids(tokens).astype(np.int64)


class WindowDataset(Windows):
    """The training windows as a torch Dataset: dataset[i], and dataset.__getitems__(indices), which a DataLoader takes
    for a whole batch, are those of `epoch`."""

    epoch = 0

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        found = np.asarray(indices, dtype=np.int64)
        if found.size and not (0 <= found.min() and found.max() < len(self)):
            raise IndexError(f"window {found.min()} .. {found.max()} of {len(self)}")
        return self.get(found, np.full(len(found), self.epoch))

    def __getitem__(self, index: int) -> np.ndarray:
        return self.__getitems__([index])[0]


class EvalWindows(_Tiles):
    """Fixed windows from offset 0 of each shard, the last partial one included.

    Every token of the split but the first of each shard is a target exactly once.
    """

    def __init__(self, shards: Shards, block_size: int):
        super().__init__(shards, block_size, -(-(shards.sizes - 1) // block_size), "is empty; raise --val_fraction")

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield this rank's (inputs, targets), int64 (B, block_size); targets beyond a shard's end are -100.

        All ranks get as many batches of the same sizes: a window beyond the last is all -100.
        """
        T = self.block_size
        mine = np.arange(rank, -(-len(self) // world_size) * world_size, world_size)
        for begin in range(0, len(mine), batch_size):
            indices = mine[begin : begin + batch_size]
            rows = np.full((len(indices), T + 1), -100, dtype=np.int64)
            owners = np.searchsorted(self.first, indices, side="right") - 1
            for row, index, shard in zip(rows, indices.tolist(), owners.tolist(), strict=True):
                if index < len(self):
                    start = (index - int(self.first[shard])) * T
                    tokens = self.shards.read(shard, start, min(T + 1, int(self.shards.sizes[shard]) - start))
                    row[: len(tokens)] = tokens
            self.shards.check_ids(rows)
            yield np.maximum(rows[:, :-1], 0), rows[:, 1:]
