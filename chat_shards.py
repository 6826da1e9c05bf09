"""Conversations as token files: ids as in shards.py, and beside each file what is scored and where conversations begin.

    train_00000.bin           token ids, one conversation after the other
    train_00000.scored.bin    one bit a token, the first in the lowest bit of the first byte: whether it is learnt
    train_00000.starts.bin    little-endian uint64, one for each conversation: the number of its first token in the file

Conversations of 5 and 3 tokens, of which the last two and the last one are scored, give

    ids     11 12 13 14 15 21 22 23        starts  0 5
    scored   0  0  0  1  1  0  0  1        as bits, lowest first: 10011000 in binary, the byte 0x98

A conversation ends where the next one begins, and none is cut between files: a window of training can be packed from
whole conversations, by the starts alone.
"""

import contextlib
from pathlib import Path
from typing import Any, Self

import numpy as np

import atomic
from shards import Shards, read_meta

BESIDE = ("scored", "starts")  # kinds of the files beside the ids
START_DTYPE = np.dtype("<u8")
BITS_AT_ONCE = 1 << 20  # scored bits that wait to be packed


# --- writing ---


class ConversationWriter:
    """Writes the conversations of one split, a new shard after `shard_tokens` or more.

    Used in a `with` block; at its end `entries` is meta.json's list of shards. After an error no half file is left.
    """

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int):
        self.folder = folder
        self.split = split
        self.dtype = dtype
        self.shard_tokens = shard_tokens
        self.entries: list[dict[str, Any]] = []
        self.shard: _Shard | None = None  # that is being written

    def __enter__(self) -> Self:
        return self

    def add(self, ids: np.ndarray, scored: np.ndarray, text_bytes: int) -> None:
        """Append a conversation. scored: bool, one for each id; text_bytes: UTF-8 bytes of its text, to be counted."""
        if self.shard is None:
            name = f"{self.split}_{len(self.entries):05d}"
            self.shard = _Shard(self.folder, name)
        self.shard.add(ids.astype(self.dtype), scored, text_bytes)
        if self.shard.tokens >= self.shard_tokens:
            self._finish()

    def _finish(self) -> None:
        self.entries.append(self.shard.finish())
        self.shard = None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if self.shard is None:
            return
        if kind is None:
            self._finish()
        else:
            self.shard.open_files.__exit__(kind, error, trace)


class _Shard:
    """The three files of one shard, written aside until finish."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.names = {"ids": f"{name}.bin"} | {kind: f"{name}.{kind}.bin" for kind in BESIDE}
        self.open_files = contextlib.ExitStack()
        self.files = {}
        for kind, file_name in self.names.items():
            temporary = self.open_files.enter_context(atomic.new_file(folder / file_name))
            self.files[kind] = self.open_files.enter_context(open(temporary, "wb"))
        self.tokens = 0
        self.scored_tokens = 0
        self.conversations = 0
        self.text_bytes = 0
        self.waiting: list[np.ndarray] = []  # scored bits
        self.n_waiting = 0

    def add(self, ids: np.ndarray, scored: np.ndarray, text_bytes: int) -> None:
        """Append a conversation."""
        self.files["starts"].write(np.array(self.tokens, START_DTYPE).tobytes())
        self.files["ids"].write(ids.tobytes())
        self.waiting.append(scored)
        self.n_waiting += scored.size
        if self.n_waiting >= BITS_AT_ONCE:
            self._write_bits(self.n_waiting // 8 * 8)  # whole bytes

        self.tokens += ids.size
        self.scored_tokens += int(scored.sum())
        self.conversations += 1
        self.text_bytes += text_bytes

    def _write_bits(self, count: int) -> None:
        """Pack the first `count` bits that wait."""
        bits = np.concatenate(self.waiting)
        self.files["scored"].write(np.packbits(bits[:count], bitorder="little").tobytes())
        self.waiting = [bits[count:]]
        self.n_waiting = bits.size - count

    def finish(self) -> dict[str, Any]:
        """Rename the files into place; returns the shard's entry for meta.json."""
        self._write_bits(self.n_waiting)
        self.open_files.close()
        beside = {}
        for kind in BESIDE:
            path = self.folder / self.names[kind]
            beside[kind] = {"file": path.name, "size_bytes": path.stat().st_size, "sha256": atomic.sha256(path)}
        return {
            "file": self.names["ids"],
            "tokens": self.tokens,
            "scored_tokens": self.scored_tokens,
            "documents": self.conversations,
            "bytes": self.text_bytes,
            "sha256": atomic.sha256(self.folder / self.names["ids"]),
            "beside": beside,
        }


# --- reading ---


class Conversations:
    """Random access to the conversations of one split, numbered through all its shards.

    Attributes: shards, the ids (shards.Shards); starts, for each shard uint64; lengths, int64, the tokens of each
    conversation. Raises ValueError for a folder without conversations, and for a file that is missing or has another
    size than meta.json says.
    """

    def __init__(self, folder: str | Path, split: str, meta: dict[str, Any] | None = None):
        self.shards = Shards(folder, split, meta or read_meta(folder))
        kind = self.shards.meta.get("kind")
        if kind != "chat":
            raise ValueError(f"{folder} holds text, not conversations; make some with: python prepare_chat.py")

        self.starts: list[np.ndarray] = []
        self.scored_paths: list[Path] = []
        lengths = []
        for entry, tokens in zip(self.shards.meta["splits"][split], self.shards.sizes, strict=True):
            paths = {}
            for kind, file in entry["beside"].items():
                paths[kind] = self.shards.folder / file["file"]
                if not paths[kind].is_file() or paths[kind].stat().st_size != file["size_bytes"]:
                    raise ValueError(f"{paths[kind]} is missing or damaged; delete {folder} and prepare it again")
            starts = np.fromfile(paths["starts"], START_DTYPE)
            self.starts.append(starts)
            self.scored_paths.append(paths["scored"])
            lengths.append(np.diff(starts.astype(np.int64), append=tokens))
        self.lengths = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
        # the number of each shard's first conversation, and of all
        self.first = np.cumsum([0, *(starts.size for starts in self.starts)])

    def __len__(self) -> int:
        return int(self.first[-1])

    def begin_in(self, block: tuple[int, int, int]) -> range:
        """The numbers of the conversations that begin in a block of tokens (from Shards.blocks)."""
        shard, start, stop = block
        first, end = np.searchsorted(self.starts[shard], np.array([start, stop], START_DTYPE)).tolist()
        before = int(self.first[shard])
        return range(before + first, before + end)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a conversation in the shards' dtype, and which of them are scored (bool)."""
        shard = int(np.searchsorted(self.first, number, side="right")) - 1
        start = int(self.starts[shard][number - self.first[shard]])
        count = int(self.lengths[number])
        ids = self.shards.read(shard, start, count)

        first_byte = start // 8
        last_byte = (start + count - 1) // 8
        with open(self.scored_paths[shard], "rb") as file:
            file.seek(first_byte)
            packed = np.frombuffer(file.read(last_byte + 1 - first_byte), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")
        begin = start - 8 * first_byte
        return ids, bits[begin : begin + count].astype(bool)
