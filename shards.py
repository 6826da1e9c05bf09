"""Token files: `data/<name>/{train,val}_00000.bin` hold ids and nothing else; `meta.json`, written last, says what.

In the order of this file: join_parts writes the files, read_meta and verify say what a folder holds and whether it is
as it was written, Shards reads tokens, Windows and EvalWindows cut them into windows for training and for validation.
A bare nanoGPT folder (train.bin, val.bin) is read as well.
"""

import json
import os
import re
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
IGNORE = -100  # a target that is not scored, as in model.py
LOOK_AHEAD = 1 << 14  # tokens read at once to find the end of a document


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 when every id fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


# --- writing ---


def join_parts(parts: list[Path], folder: Path, split: str, itemsize: int, shard_tokens: int) -> list[dict[str, Any]]:
    """Concatenate token parts to folder/split_00000.bin and on, a new shard after `shard_tokens` or more.

    parts: folders with <split>.bin and counts.json, which has each split's documents and UTF-8 bytes. Documents are
    never cut between shards. Returns meta.json's list of shards (file, tokens, documents, bytes, sha256).
    """
    shards = []
    for group in _shard_groups(parts, split, shard_tokens * itemsize):
        path = folder / f"{split}_{len(shards):05d}.bin"
        with atomic.new_file(path) as temporary, open(temporary, "wb") as out:
            for part in group:
                with open(part / f"{split}.bin", "rb") as file:
                    shutil.copyfileobj(file, out)

        counts = [json.loads((part / "counts.json").read_text(encoding="utf-8"))[split] for part in group]
        entry = {
            "file": path.name,
            "tokens": path.stat().st_size // itemsize,
            "documents": sum(count["documents"] for count in counts),
            "bytes": sum(count["bytes"] for count in counts),
            "sha256": atomic.sha256(path),
        }
        shards.append(entry)
    return shards


def _shard_groups(parts: list[Path], split: str, full_bytes: int) -> list[list[Path]]:
    """The parts of each shard, in order: one that has `full_bytes` or more takes no further part.

    Parts of 3, 0, 4, 5 and 20 bytes with full_bytes = 7: [3, 4], [5, 20]. A part without tokens goes nowhere.
    """
    groups = []
    group_bytes = full_bytes  # so that the first part begins a group
    for part in parts:
        part_bytes = (part / f"{split}.bin").stat().st_size
        if part_bytes == 0:
            continue
        if group_bytes >= full_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(part)
        group_bytes += part_bytes
    return groups


# --- what a folder holds ---


def read_meta(folder: str | Path) -> dict[str, Any]:
    """meta.json of a finished data folder. Raises ValueError that names the command which makes or completes it."""
    folder = Path(folder)

    if (folder / "meta.json").is_file():
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        version = meta.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"{folder}/meta.json has format version {version}, not {FORMAT_VERSION}; make it anew")
        return meta

    if (folder / "manifest.json").is_file():
        command = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["command"]
        command = re.sub(r" --until=\S+", "", command)  # it would stop there again
        raise ValueError(f"{folder} has no meta.json: its preparation is unfinished; complete it with: {command}")

    if (folder / "train.bin").is_file():
        return _bare_meta(folder)

    raise ValueError(f"{folder} has no meta.json; make it with: {command_that_makes(folder)}")


def command_that_makes(folder: Path) -> str:
    """The command of the config here that writes a folder of this name, or a general one."""
    configs = Path(__file__).resolve().parent / "config"
    for kind, program in {"data": "prepare_wiki.py", "chat": "prepare_chat.py"}.items():
        for config in sorted(configs.glob(f"{kind}_*.py")):
            if f'data_dir = "data/{folder.name}"' in config.read_text(encoding="utf-8"):
                return f"python {program} config/{config.name}"
    return f"python prepare_wiki.py --source=... --data_dir={folder}"


def _bare_meta(folder: Path) -> dict[str, Any]:
    """What a folder of nanoGPT tells: train.bin and val.bin hold uint16. meta.pkl, a pickle, is left alone."""
    splits = {}
    for split in ("train", "val"):
        path = folder / f"{split}.bin"
        if not path.is_file():
            raise ValueError(f"{path} is missing: not a folder of nanoGPT; prepare it again")
        size = path.stat().st_size
        if size % 2:
            wrong = f"has {size} bytes, no whole number of uint16 ids"
            raise ValueError(f"{path} {wrong}: not a folder of nanoGPT; prepare it again")
        splits[split] = [{"file": path.name, "tokens": size // 2}]

    note = f"{folder} has no meta.json: train.bin and val.bin are read as nanoGPT writes them, ids of uint16"
    return {"dtype": "<u2", "vocab_size": None, "splits": splits, "note": note}


def wrong_size(folder: Path, entry: dict[str, Any], dtype: np.dtype) -> str | None:
    """What is wrong with the size of a shard in meta.json's list; None: nothing."""
    path = folder / entry["file"]
    wanted = entry["tokens"] * dtype.itemsize
    if not path.is_file():
        return f"{path} is missing, meta.json says {wanted}"
    size = path.stat().st_size
    if size != wanted:
        return f"{path} has {size} bytes, meta.json says {wanted}"
    return None


def verify(folder: str | Path) -> list[str]:
    """Compare every shard with meta.json; returns one line for each that is missing, shortened or altered."""
    folder = Path(folder)
    meta = read_meta(folder)
    dtype = np.dtype(meta["dtype"])

    complaints = []
    for entries in meta["splits"].values():
        for entry in entries:
            path = folder / entry["file"]
            wrong = wrong_size(folder, entry, dtype)
            if wrong:
                complaints.append(wrong)
            elif "sha256" in entry and atomic.sha256(path) != entry["sha256"]:
                complaints.append(f"{path} is altered: its SHA-256 is not the one in meta.json")
            for file in entry.get("beside", {}).values():  # of conversations: chat_shards.py
                path = folder / file["file"]
                if not path.is_file():
                    complaints.append(f"{path} is missing")
                elif atomic.sha256(path) != file["sha256"]:
                    complaints.append(f"{path} is altered: its SHA-256 is not the one in meta.json")
    return complaints


def verify_shards(data_dir: str) -> str:
    """What to print about a folder whose shards are as meta.json says. Raises ValueError for any other folder."""
    if not data_dir:
        raise ValueError("nothing to verify: give --data_dir=...")
    problems = verify(data_dir)
    if problems:
        raise ValueError("; ".join(problems))
    note = read_meta(data_dir).get("note")
    if note:
        return f"{note}; no checksums to verify"
    return f"{data_dir}: every shard is as meta.json says"


# --- reading ---


class Shards:
    """Random access to the tokens of one split.

    Attributes: meta; vocab_size (None in a bare folder, until it is set); dtype; sizes, the tokens of each shard;
    tokens, of all; bytes, of the split's text in UTF-8 (None in a bare folder). read_ahead=False tells the system that
    reads come in random order: a cold read then fetches its own pages, and not up to megabytes that follow.
    Raises ValueError for a shard that is missing or has another size than meta.json says.
    """

    def __init__(self, folder: str | Path, split: str, meta: dict[str, Any] | None = None, read_ahead: bool = False):
        self.folder = Path(folder)
        self.split = split
        self.read_ahead = read_ahead
        self.meta = meta or read_meta(folder)
        self.vocab_size = self.meta["vocab_size"]
        self.dtype = np.dtype(self.meta["dtype"])

        entries = self.meta["splits"][split]
        for entry in entries:
            wrong = wrong_size(self.folder, entry, self.dtype)
            if wrong:
                raise ValueError(f"{wrong}; delete {self.folder} and prepare it again")

        self.paths = [self.folder / entry["file"] for entry in entries]
        self.sizes = np.array([entry["tokens"] for entry in entries], dtype=np.int64)
        self.tokens = int(self.sizes.sum())
        self.bytes = None
        if all("bytes" in entry for entry in entries):
            self.bytes = sum(entry["bytes"] for entry in entries)

    @cached_property
    def _files(self) -> list[Any]:
        """Opened once in each process. With pread resident memory stays flat; pages of a mapped file count as own."""
        if not hasattr(os, "pread"):
            return [np.memmap(path, dtype=self.dtype, mode="r") for path in self.paths]

        files = [os.open(path, os.O_RDONLY) for path in self.paths]
        weakref.finalize(self, _close, files)
        if hasattr(os, "posix_fadvise") and not self.read_ahead:
            for file in files:
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        return files

    def __getstate__(self) -> dict[str, Any]:
        """All but the open files: a spawned worker opens its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_files"}

    def read(self, shard: int, start: int, count: int) -> np.ndarray:
        """`count` tokens of a shard from token `start`, in the shard's dtype."""
        return np.frombuffer(self._bytes(shard, start, count), dtype=self.dtype)

    def rows(self, shards: Sequence[int], starts: Sequence[int], count: int) -> np.ndarray:
        """`count` tokens from each place, (len(starts), count) in the shards' dtype: a read for each, one copy."""
        places = zip(shards, starts, strict=True)
        data = b"".join([self._bytes(shard, start, count) for shard, start in places])
        return np.frombuffer(data, dtype=self.dtype).reshape(-1, count)

    def _bytes(self, shard: int, start: int, count: int) -> bytes:
        """The bytes of `count` tokens. Raises ValueError when the file ends before."""
        file = self._files[shard]
        if isinstance(file, np.memmap):
            return file[start : start + count].tobytes()

        begin = start * self.dtype.itemsize
        size = count * self.dtype.itemsize
        data = os.pread(file, size, begin)
        while len(data) < size:  # Linux hands out 2 GB at most
            more = os.pread(file, size - len(data), begin + len(data))
            if not more:
                check = f"python prepare_wiki.py --verify --data_dir={self.folder}"
                raise ValueError(f"{self.paths[shard]} has become shorter; run: {check}")
            data += more
        return data

    def check_ids(self, ids: np.ndarray) -> np.ndarray:
        """`ids`. Raises ValueError for those beyond the vocabulary: on a GPU they end in an assertion without names."""
        if self.vocab_size is None or ids.size == 0:
            return ids
        largest = int(ids.max())
        if largest >= self.vocab_size:
            wrong = f"the {self.split} split has token id {largest}, the vocabulary ends at {self.vocab_size - 1}"
            raise ValueError(f"{self.folder}: {wrong}: another tokenizer made the ids, or a shard is damaged")
        return ids

    def all(self, limit: int | None = None) -> np.ndarray:
        """The first `limit` tokens of the split (None: all of them), shard after shard."""
        limit = self.tokens if limit is None else limit
        ends = np.minimum(np.cumsum(self.sizes), limit)
        counts = np.diff(ends, prepend=0).tolist()  # shards of 5, 7 and 3 tokens, limit 9: 5, 4, 0
        return np.concatenate([self.read(shard, 0, count) for shard, count in enumerate(counts)])

    def blocks(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Cut all shards into pieces of `size` tokens: (shard, start, stop). Shards of 5 and 2 tokens, size 3:

        (0, 0, 3), (0, 3, 5), (1, 0, 2)
        """
        for shard, tokens in enumerate(self.sizes.tolist()):
            for start in range(0, tokens, size):
                yield shard, start, min(start + size, tokens)

    def documents(self, block: tuple[int, int, int], end_of_text: int) -> Iterator[np.ndarray]:
        """The documents that begin in a block (from blocks), whole and without the id that ends each.

        Tokens of a shard, | for end_of_text, cut into blocks of 4. The last document of the first two goes on behind
        its block; in the third none begins:

            a b | c     d | e f     g h i |
            ab, cd      efghi       (none)
        """
        shard, start, stop = block
        ids = self.check_ids(self.read(shard, start, stop - start))
        ends = np.flatnonzero(ids == end_of_text)

        begin = 0
        if start > 0 and self.read(shard, start - 1, 1)[0] != end_of_text:
            if ends.size == 0:
                return
            begin = ends[0] + 1
            ends = ends[1:]
        for end in ends:
            yield ids[begin:end]
            begin = end + 1

        if begin < ids.size:
            yield np.concatenate([ids[begin:], self._up_to_end(shard, stop, end_of_text)])

    def _up_to_end(self, shard: int, start: int, end_of_text: int) -> np.ndarray:
        """The tokens from `start` up to the next end_of_text, or the shard's end."""
        pieces = [np.empty(0, self.dtype)]
        tokens = int(self.sizes[shard])
        for begin in range(start, tokens, LOOK_AHEAD):
            ids = self.check_ids(self.read(shard, begin, min(LOOK_AHEAD, tokens - begin)))
            ends = np.flatnonzero(ids == end_of_text)
            if ends.size:
                pieces.append(ids[: ends[0]])
                break
            pieces.append(ids)
        return np.concatenate(pieces)


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


# --- windows ---


class _Tiles:
    """Windows that tile each shard, numbered through: with counts 3, 0 and 2, shard 0 has windows 0-2, shard 2 has 3-4.

    counts: windows of each shard, below 0 is none. Raises ValueError, which ends with `empty`, when there are none.
    """

    def __init__(self, shards: Shards, block_size: int, counts: np.ndarray, empty: str):
        self.shards = shards
        self.block_size = block_size
        # number of each shard's first window, and the total: 0, 3, 3, 5 in the example
        self.first = np.concatenate([[0], np.cumsum(np.maximum(0, counts))])
        if len(self) == 0:
            raise ValueError(f"{shards.folder}: the {shards.split} split {empty}")

    def __len__(self) -> int:
        return int(self.first[-1])

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        """The shard of each window."""
        return np.searchsorted(self.first, indices, side="right") - 1


class Windows(_Tiles):
    """Training windows of block_size + 1 tokens that tile each shard, shifted by a fresh offset in every epoch.

    A shard of N tokens has max(0, N // block_size - 1) windows; window i of it reads from offset + i * block_size, with
    the offset in [0, block_size) hashed from (seed, epoch, shard). So an epoch sees each token about once, and window
    borders fall elsewhere in the next epoch. len() is the same in all epochs. (A torch Dataset of them: WindowDataset.)

    17 tokens, block_size 4, offset 2 (a window ends with the target of its last input, which begins the next one):

        tokens      0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
        window 0        2 3 4 5 6
        window 1                6 7 8 9 10
        window 2                        10 11 12 13 14
    """

    def __init__(self, shards: Shards, block_size: int, seed: int):
        counts = shards.sizes // block_size - 1
        few = f"has {shards.tokens} tokens, too few for one window of block_size {block_size}"
        super().__init__(shards, block_size, counts, f"{few}; lower --block_size or add text")
        self.seed = seed

    def get(self, indices: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        """Windows as int64 (len(indices), block_size + 1)."""
        owners = self.shard_of(indices)
        places = zip(epochs.tolist(), owners.tolist(), strict=True)
        offsets = [hash_key(self.seed, epoch, shard) % self.block_size for epoch, shard in places]
        number = indices - self.first[owners]  # of the window within its shard
        starts = number * self.block_size + np.array(offsets, dtype=np.int64)

        tokens = self.shards.rows(owners.tolist(), starts.tolist(), self.block_size + 1)
        return self.shards.check_ids(tokens).astype(np.int64)


class WindowDataset(Windows):
    """The training windows of `epoch` as a torch Dataset, for your own DataLoader.

    dataset[i] is one window; dataset.__getitems__(indices), which a DataLoader takes for a whole batch, several.
    """

    epoch = 0

    def __getitems__(self, indices: Sequence[int]) -> np.ndarray:
        asked = np.asarray(indices, dtype=np.int64)
        if asked.size and not (0 <= asked.min() and asked.max() < len(self)):
            raise IndexError(f"window {asked.min()} .. {asked.max()} of {len(self)}")
        return self.get(asked, np.full(len(asked), self.epoch))

    def __getitem__(self, index: int) -> np.ndarray:
        return self.__getitems__([index])[0]


class EvalWindows(_Tiles):
    """Fixed windows from offset 0 of each shard, the last partial one included.

    Every token of the split but the first of each shard is a target exactly once.
    """

    def __init__(self, shards: Shards, block_size: int):
        targets = shards.sizes - 1
        counts = -(-targets // block_size)  # rounded up
        super().__init__(shards, block_size, counts, "is empty; raise --val_fraction")

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield this rank's (inputs, targets), int64 (B, block_size); targets beyond a shard's end are IGNORE.

        All ranks get as many batches of the same sizes: a window beyond the last is all IGNORE.
        """
        padded = -(-len(self) // world_size) * world_size  # the next multiple of world_size
        indices = np.arange(rank, padded, world_size)
        for begin in range(0, len(indices), batch_size):
            rows = self._rows(indices[begin : begin + batch_size])
            self.shards.check_ids(rows)
            inputs, targets = rows[:, :-1], rows[:, 1:]
            yield np.maximum(inputs, 0), targets

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        """Windows as int64 (len(indices), block_size + 1), filled up with IGNORE."""
        rows = np.full((len(indices), self.block_size + 1), IGNORE, dtype=np.int64)
        owners = self.shard_of(indices)
        for row, index, shard in zip(rows, indices.tolist(), owners.tolist(), strict=True):
            if index >= len(self):
                continue
            start = (index - int(self.first[shard])) * self.block_size
            count = min(self.block_size + 1, int(self.shards.sizes[shard]) - start)
            row[:count] = self.shards.read(shard, start, count)
        return rows
