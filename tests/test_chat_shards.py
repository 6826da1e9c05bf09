"""Conversation shards: what was written is read back, whatever the lengths and wherever shards are cut."""

import json
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import examples

import chat_shards
from chat_shards import Conversations, ConversationWriter
from shards import verify

lengths_and_seed = st.tuples(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 1000))


def write(folder: Path, conversations: list[tuple[np.ndarray, np.ndarray]], shard_tokens: int) -> dict:
    """A finished folder with a training split; returns its meta.json."""
    with ConversationWriter(folder, "train", np.dtype("<u2"), shard_tokens) as writer:
        for ids, scored in conversations:
            writer.add(ids, scored, text_bytes=7)
    splits = {"train": writer.entries, "val": []}
    meta = {"format_version": 1, "kind": "chat", "dtype": "<u2", "vocab_size": 1000, "splits": splits}
    (folder / "meta.json").write_text(json.dumps(meta))
    return meta


@examples(100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(lengths_and_seed, st.integers(1, 300), st.integers(1, 64))
def test_what_was_written_is_read_back(tmp_path_factory, drawn, shard_tokens, bits_at_once):
    lengths, seed = drawn
    draw = np.random.default_rng(seed)
    written = [(draw.integers(0, 1000, n).astype(np.uint32), draw.random(n) < 0.5) for n in lengths]
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_shards, "BITS_AT_ONCE", bits_at_once)
        meta = write(folder, written, shard_tokens)

    found = Conversations(folder, "train")
    assert len(found) == len(written) and found.lengths.tolist() == lengths
    for number, (ids, scored) in enumerate(written):
        read_ids, read_scored = found.read(number)
        assert read_ids.tolist() == ids.tolist() and read_scored.tolist() == scored.tolist()

    entries = meta["splits"]["train"]
    assert all(entry["tokens"] >= shard_tokens for entry in entries[:-1])  # full, and cut between conversations
    assert sum(entry["tokens"] for entry in entries) == sum(lengths)
    assert sum(entry["scored_tokens"] for entry in entries) == sum(int(scored.sum()) for _, scored in written)
    assert sum(entry["bytes"] for entry in entries) == 7 * len(written)
    assert verify(folder) == []


def test_the_bytes_are_those_of_the_docstring(tmp_path):
    first = np.array([11, 12, 13, 14, 15]), np.array([0, 0, 0, 1, 1], bool)
    second = np.array([21, 22, 23]), np.array([0, 0, 1], bool)
    write(tmp_path, [first, second], 100)
    assert np.fromfile(tmp_path / "train_00000.bin", "<u2").tolist() == [11, 12, 13, 14, 15, 21, 22, 23]
    assert (tmp_path / "train_00000.scored.bin").read_bytes() == b"\x98"
    assert np.fromfile(tmp_path / "train_00000.starts.bin", "<u8").tolist() == [0, 5]


def test_an_error_leaves_no_file_of_the_shard_that_was_being_written(tmp_path):
    ids, scored = np.arange(10), np.ones(10, bool)
    with pytest.raises(KeyboardInterrupt), ConversationWriter(tmp_path, "train", np.dtype("<u2"), 15) as writer:
        for _ in range(3):  # two fill a shard
            writer.add(ids, scored, 1)
        raise KeyboardInterrupt
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["train_00000.bin", "train_00000.scored.bin", "train_00000.starts.bin"]


@pytest.mark.parametrize("kind", ["scored", "starts"])
def test_a_shard_that_lost_a_part_of_itself_is_refused(tmp_path, kind):
    write(tmp_path, [(np.arange(10), np.ones(10, bool))], 100)
    path = tmp_path / f"train_00000.{kind}.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path.name} is missing or damaged; delete"):
        Conversations(tmp_path, "train")
