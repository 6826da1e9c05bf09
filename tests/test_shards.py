"""Token files: windows that tile, targets that come once, checksums, and folders that are not finished."""

import gc
import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import model
import shards
from sampler import DistributedStreamSampler, permute
from shards import EvalWindows, Shards, WindowDataset, Windows, join_parts, read_meta, token_dtype, verify

T = 8
SIZES = list(range(5 * T + 4))  # tokens in a shard: every size around the borders


def make_folder(folder: Path, sizes: list[int], split: str = "train", vocab_size: int = 1 << 20) -> Shards:
    """A data folder whose tokens are their own places: 0, 1, 2, ... over all shards."""
    folder.mkdir(exist_ok=True)
    dtype, entries, first = token_dtype(vocab_size), [], 0
    for k, size in enumerate(sizes):
        data = np.arange(first, first + size, dtype=dtype).tobytes()
        (folder / f"{split}_{k:05d}.bin").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        entries.append({"file": f"{split}_{k:05d}.bin", "tokens": size, "documents": 1, "bytes": 3, "sha256": digest})
        first += size
    meta = {"format_version": 1, "dtype": dtype.str, "vocab_size": vocab_size, "splits": {split: entries}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return Shards(folder, split)


def get(windows: Windows, epoch: int) -> np.ndarray:
    indices = np.arange(len(windows))
    return windows.get(indices, np.full(len(windows), epoch))


# --- training windows ---


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Shards:
    """A shard of each size in SIZES."""
    return make_folder(tmp_path_factory.mktemp("data"), SIZES)


@pytest.mark.parametrize("epoch", [0, 1, 2, 1000])
def test_windows_of_a_shard_tile_it_without_overlap(many, epoch):
    windows = get(Windows(many, T, seed=3), epoch)
    assert windows.shape == (sum(max(0, size // T - 1) for size in SIZES), T + 1) and windows.dtype == np.int64
    assert np.array_equal(windows, windows[:, :1] + np.arange(T + 1))  # each is a run of the text
    row, first = 0, 0
    for size in SIZES:
        count = max(0, size // T - 1)
        mine = windows[row : row + count]
        assert mine.size == 0 or (mine.min() >= first and mine.max() < first + size)  # inside this shard
        assert np.all(np.diff(mine[:, 0]) == T)  # only the border token is in two windows
        assert count == 0 or mine[0, 0] - first < T
        row, first = row + count, first + size
    assert row == len(windows)


def test_every_epoch_and_every_shard_has_an_offset_of_its_own(tmp_path):
    shards = make_folder(tmp_path, [100] * 20)
    windows = Windows(shards, T, seed=0)
    starts = np.array([get(windows, epoch)[:: len(windows) // 20, 0] - np.arange(20) * 100 for epoch in range(40)])
    assert starts.min() == 0 and starts.max() == T - 1
    assert all(len(set(row)) > 4 for row in starts)  # the shards of one epoch
    assert all(len(set(column)) > 4 for column in starts.T)  # one shard in all epochs
    expected = 800 / T  # each offset about as often as any other (p < 1e-4 beyond 5 sigma)
    assert np.all(np.abs(np.bincount(starts.ravel(), minlength=T) - expected) < 5 * expected**0.5)
    again = np.array([get(Windows(shards, T, seed=0), epoch)[0, 0] for epoch in range(40)])
    other = np.array([get(Windows(shards, T, seed=1), epoch)[0, 0] for epoch in range(40)])
    assert np.array_equal(again, starts[:, 0]) and not np.array_equal(other, starts[:, 0])


def test_an_epoch_shows_almost_every_token_and_some_epochs_show_each(many):
    total = np.zeros(many.tokens, dtype=int)
    for epoch in range(60):
        targets = get(Windows(many, T, seed=5), epoch)[:, 1:]
        seen = np.bincount(targets.ravel(), minlength=many.tokens)
        assert seen.max() == 1  # never twice in an epoch
        assert many.tokens - seen.sum() <= sum(min(size, 2 * T) for size in SIZES)
        total += seen
    first = np.cumsum([0, *SIZES[:-1]])
    long = [(start, size) for start, size in zip(first, SIZES, strict=True) if size >= 2 * T]
    assert all(total[start + 1 : start + size // T * T].min() > 0 for start, size in long)


@given(st.data())
@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_come_alone_as_they_come_together(many, data):
    windows = Windows(many, data.draw(st.integers(1, 12)), seed=7)
    rows = st.tuples(st.integers(0, len(windows) - 1), st.integers(0, 5))
    asked = data.draw(st.lists(rows, min_size=1, max_size=10))
    together = windows.get(*(np.array(column) for column in zip(*asked, strict=True)))
    for row, (index, epoch) in zip(together, asked, strict=True):
        assert np.array_equal(row, windows.get(np.array([index]), np.array([epoch]))[0])
        assert np.array_equal(row, row[0] + np.arange(windows.block_size + 1)) and 0 <= row[0]


@pytest.mark.parametrize("sizes", [[], [0], [2 * T - 1], [T, T, T]])
def test_a_split_too_small_for_one_window_says_what_to_change(tmp_path, sizes):
    with pytest.raises(ValueError, match=f"{sum(sizes)} tokens, too few .* block_size {T}; lower --block_size"):
        Windows(make_folder(tmp_path, sizes), T, seed=0)
    assert len(Windows(make_folder(tmp_path, [2 * T]), T, seed=0)) == 1


def test_reading_opens_each_shard_once_and_reads_no_more_than_the_window(tmp_path, monkeypatch):
    windows = Windows(make_folder(tmp_path, [1000, 1000, 1000]), T, seed=0)
    opened, read = [], []
    real_open, real_read = os.open, os.pread
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args) or real_open(*args))
    monkeypatch.setattr(os, "pread", lambda *args: read.append(args[1]) or real_read(*args))
    for epoch in range(3):
        get(windows, epoch)
    assert len(opened) == 3 and len(read) == 3 * len(windows) and set(read) == {4 * (T + 1)}


# --- the reader ---


def test_a_platform_without_pread_maps_the_file_and_reads_the_same(tmp_path, monkeypatch):
    sizes = [100, 37, 1000]
    windows = Windows(make_folder(tmp_path, sizes), T, seed=0)
    expected, whole = get(windows, 1), windows.shards.all()
    assert all(isinstance(file, int) for file in windows.shards._files)
    monkeypatch.delattr(os, "pread")
    monkeypatch.setattr(os, "open", None)
    again = Windows(Shards(tmp_path, "train"), T, seed=0)
    assert np.array_equal(get(again, 1), expected) and np.array_equal(again.shards.all(), whole)
    assert all(isinstance(file, np.memmap) for file in again.shards._files)
    row = again.shards.read(1, 5, 3)
    assert row.tolist() == [105, 106, 107] and not isinstance(row, np.memmap)  # a copy: it keeps no page mapped


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this platform has no posix_fadvise")
@pytest.mark.parametrize("read_ahead", [False, True])
def test_random_reads_are_announced_and_sequential_ones_not(tmp_path, monkeypatch, read_ahead):
    said = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *args: said.append(args[1:]))
    make_folder(tmp_path, [100, 200])
    shards = Shards(tmp_path, "train", read_ahead=read_ahead)
    assert said == []  # nothing is opened before the first read
    shards.read(0, 0, 5)
    assert said == ([] if read_ahead else [(0, 0, os.POSIX_FADV_RANDOM)] * 2)


def test_files_are_closed_with_the_reader(tmp_path):
    shards = make_folder(tmp_path, [100, 200])
    shards.read(0, 0, 1)
    files = list(shards._files)
    del shards
    gc.collect()
    for file in files:
        with pytest.raises(OSError):
            os.fstat(file)


def test_a_copy_for_another_process_opens_its_own_files(tmp_path):
    windows = Windows(make_folder(tmp_path, [100, 200]), T, seed=0)
    windows.shards.read(0, 0, 1)
    copy = pickle.loads(pickle.dumps(windows))
    assert "_files" not in copy.shards.__dict__
    assert np.array_equal(get(copy, 3), get(windows, 3))
    assert set(copy.shards._files).isdisjoint(windows.shards._files)


def test_a_read_that_comes_in_pieces_is_completed(tmp_path, monkeypatch):
    """Linux reads 2 GB at most in one call."""
    shards, real = make_folder(tmp_path, [1000]), os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, start: real(file, min(size, 300), start))
    assert np.array_equal(shards.all(), np.arange(1000)) and np.array_equal(shards.read(0, 3, 500), np.arange(3, 503))
    (tmp_path / "train_00000.bin").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="train_00000.bin has become shorter; run: python prepare_wiki.py --verify"):
        shards.read(0, 0, 1000)


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_windows_are_a_torch_dataset(tmp_path, context):
    windows = WindowDataset(make_folder(tmp_path, [400, 300]), T, seed=0)
    sampler = DistributedStreamSampler(windows, num_replicas=2, rank=1, seed=9)
    workers = {"num_workers": 1, "multiprocessing_context": context} if context else {}
    for epoch in (1,) if context == "spawn" else (0, 1):  # a spawned worker imports torch: two seconds
        sampler.set_epoch(epoch)
        windows.epoch = epoch
        loader = torch.utils.data.DataLoader(windows, batch_size=5, sampler=sampler, **workers)
        found = torch.cat(list(loader)).numpy()
        indices = [permute(g, len(windows), 9, epoch) for g in range(1, len(windows) - 1, 2)]
        assert found.dtype == np.int64 and np.array_equal(found, get(windows, epoch)[indices])
    assert np.array_equal(windows[3], get(windows, 1)[3]) and len(list(windows)) == len(windows)
    for bad in (-1, len(windows)):
        with pytest.raises(IndexError, match=f"{bad} of {len(windows)}"):
            windows[bad]


def test_ids_beyond_the_vocabulary_name_the_folder(tmp_path):
    shards = make_folder(tmp_path, [100])
    shards.vocab_size = 90
    windows, fixed = Windows(shards, T, seed=0), EvalWindows(shards, T)
    for read in (lambda: [get(windows, epoch) for epoch in range(50)], lambda: list(fixed.batches(3))):
        with pytest.raises(ValueError, match=f"{tmp_path}: the train split has token id 9., the vocabulary ends at 89"):
            read()
    shards.vocab_size = 100
    assert len(get(windows, 0)) and len(list(fixed.batches(3)))


# --- nanoGPT's folders ---


def bare_folder(folder: Path, train: int, val: int) -> Path:
    for name, size in (("train", train), ("val", val)):
        (folder / f"{name}.bin").write_bytes(np.arange(size, dtype="<u2").tobytes())
    (folder / "meta.pkl").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")  # would run a command
    return folder


def test_a_bare_nanogpt_folder_is_read_as_uint16(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bare_folder(tmp_path, 65536, 100)
    train, val = (Shards(tmp_path, split) for split in ("train", "val"))
    assert np.array_equal(train.all(), np.arange(65536)) and np.array_equal(val.all(), np.arange(100))
    assert train.bytes is None and train.vocab_size is None
    assert train.meta["note"].startswith(f"{tmp_path} has no meta.json") and "uint16" in train.meta["note"]
    assert get(Windows(train, 1000, 0), 0).shape == (64, 1001)
    assert verify(tmp_path) == [] and not (tmp_path / "executed").exists()


def test_a_bare_folder_that_is_incomplete_is_refused(tmp_path):
    bare_folder(tmp_path, 100, 100)
    (tmp_path / "val.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match=r"val.bin has 3 bytes, no whole number of uint16"):
        Shards(tmp_path, "train")
    (tmp_path / "val.bin").unlink()
    with pytest.raises(ValueError, match=r"val.bin is missing"):
        Shards(tmp_path, "train")
    (tmp_path / "manifest.json").write_text(json.dumps({"command": "python prepare_wiki.py x"}))
    with pytest.raises(ValueError, match="unfinished; complete it with: python prepare_wiki.py x"):
        Shards(tmp_path, "train")


# --- evaluation windows ---


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 3), st.lists(st.integers(0, 40), min_size=1, max_size=6))
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_token_but_the_first_of_a_shard_is_a_target_once(tmp_path, block_size, batch_size, world_size, sizes):
    shards = make_folder(tmp_path, sizes, "val")
    if max(sizes) < 2:
        with pytest.raises(ValueError, match="val split is empty; raise --val_fraction"):
            EvalWindows(shards, block_size)
        return
    windows, targets, rows, sizes_of = EvalWindows(shards, block_size), [], 0, [[] for _ in range(world_size)]
    for rank in range(world_size):
        for x, y in windows.batches(batch_size, rank, world_size):
            assert x.shape == y.shape == (len(x), block_size) and 0 < len(x) <= batch_size
            assert x.dtype == y.dtype == np.int64
            assert np.array_equal(y[y >= 0], x[y >= 0] + 1)  # the token after the input
            assert np.all(np.diff(y == -100, axis=1) >= 0)  # padding at the end only
            targets += y[y != -100].tolist()
            rows += (y != -100).any(axis=1).sum()
            sizes_of[rank].append(len(x))
    first = np.cumsum([0, *sizes[:-1]]).tolist()
    assert sorted(targets) == [t for t in range(sum(sizes)) if t not in first]
    assert rows == len(windows) and all(of_rank == sizes_of[0] for of_rank in sizes_of)


def test_targets_that_are_not_scored_are_those_of_the_model():
    assert shards.IGNORE == model.IGNORE


def test_batches_are_the_same_at_every_evaluation_and_ranks_differ(many):
    windows = EvalWindows(many, T)
    one, two = (list(windows.batches(3, rank=1, world_size=2)) for _ in range(2))
    assert all(
        np.array_equal(a, b) for left, right in zip(one, two, strict=True) for a, b in zip(left, right, strict=True)
    )
    other = list(windows.batches(3, rank=0, world_size=2))
    assert not {row[0] for _, y in one for row in y} & {row[0] for _, y in other for row in y}


# --- shards ---


@pytest.mark.parametrize("vocab_size, itemsize", [(2, 2), (65535, 2), (65536, 2), (65537, 4), (1 << 31, 4)])
def test_the_dtype_holds_every_id_of_the_vocabulary(vocab_size, itemsize):
    dtype = token_dtype(vocab_size)
    assert dtype.itemsize == itemsize and dtype.kind == "u" and dtype.newbyteorder("<") == dtype
    assert np.array([vocab_size - 1], dtype=dtype)[0] == vocab_size - 1


@pytest.mark.parametrize("vocab_size, dtype", [(65536, "<u2"), (65537, "<u4")])
def test_the_largest_ids_are_read_back(tmp_path, vocab_size, dtype):
    tokens = [0, 1, 255, 256, 65535, vocab_size - 1] * 4
    (tmp_path / "train_00000.bin").write_bytes(b"".join(t.to_bytes(int(dtype[2]), "little") for t in tokens))
    entry = {"file": "train_00000.bin", "tokens": len(tokens), "documents": 1, "bytes": 1, "sha256": ""}
    meta = {"format_version": 1, "dtype": dtype, "vocab_size": vocab_size, "splits": {"train": [entry]}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    shards = Shards(tmp_path, "train")
    assert shards.all().tolist() == tokens and shards.read(0, 4, 2).tolist() == tokens[4:6]
    assert shards.vocab_size == vocab_size and shards.tokens == len(tokens) and shards.dtype == np.dtype(dtype)
    windows = Windows(shards, 12, seed=0)
    assert windows.get(np.array([0]), np.array([0])).max() == vocab_size - 1  # no wrap to a negative id


def test_all_gives_the_first_tokens_over_shards(tmp_path):
    shards = make_folder(tmp_path, [5, 0, 7, 3])
    assert shards.tokens == 15 and shards.bytes == 12
    for limit in (*range(16), 100, None):
        assert shards.all(limit).tolist() == list(range(15))[:limit]


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=40), min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(1, 5),
)
@examples(300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_are_the_same_for_any_size_of_blocks(tmp_path_factory, monkeypatch, ids_of_shards, size, look_ahead):
    """0 ends a document; of two in a row the second ends an empty one; the last of a shard may have no end."""
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setattr(shards, "LOOK_AHEAD", look_ahead)
    make_folder(folder, [len(ids) for ids in ids_of_shards])
    expected = []
    for number, ids in enumerate(ids_of_shards):
        (folder / f"train_{number:05d}.bin").write_bytes(np.array(ids, "<u4").tobytes())
        documents = "".join(map(str, ids)).split("0")
        expected += documents if documents[-1] else documents[:-1]

    reader = Shards(folder, "train")
    blocks = list(reader.blocks(size))
    assert sum(stop - start for _, start, stop in blocks) == reader.tokens
    assert max((stop - start for _, start, stop in blocks), default=0) <= size
    found = [document for block in blocks for document in reader.documents(block, end_of_text=0)]
    assert ["".join(map(str, ids.tolist())) for ids in found] == expected


def test_parts_are_joined_in_order_and_a_shard_begins_when_the_last_is_full(tmp_path):
    sizes = [3, 0, 4, 5, 1, 1, 20, 2]
    parts, first = [], 0
    for k, size in enumerate(sizes):
        parts.append(tmp_path / f"part_{k}")
        parts[-1].mkdir()
        np.arange(first, first + size, dtype="<u2").tofile(parts[-1] / "val.bin")
        counts = {"val": {"documents": size and k + 1, "bytes": 10 * size}, "train": {"documents": 99, "bytes": 99}}
        (parts[-1] / "counts.json").write_text(json.dumps(counts))
        first += size
    entries = join_parts(parts, tmp_path / "out", "val", 2, shard_tokens=7)
    assert [entry["tokens"] for entry in entries] == [7, 7, 20, 2]
    assert [entry["documents"] for entry in entries] == [1 + 3, 4 + 5 + 6, 7, 8]
    assert [entry["bytes"] for entry in entries] == [70, 70, 200, 20]
    data = [(tmp_path / "out" / entry["file"]).read_bytes() for entry in entries]
    assert b"".join(data) == np.arange(first, dtype="<u2").tobytes()
    assert [entry["sha256"] for entry in entries] == [hashlib.sha256(block).hexdigest() for block in data]
    assert sorted(os.listdir(tmp_path / "out")) == [f"val_{k:05d}.bin" for k in range(4)]
    assert [entry["file"] for entry in entries] == sorted(os.listdir(tmp_path / "out"))


def test_parts_without_tokens_make_no_shard(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/val.bin").write_bytes(b"")
    assert join_parts([tmp_path / "part"], tmp_path, "val", 2, 5) == []
    assert os.listdir(tmp_path) == ["part"]


# --- damage ---


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "shortened":
        path.write_bytes(path.read_bytes()[:-4])
    elif how == "lengthened":
        path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    elif how == "altered":
        data = bytearray(path.read_bytes())
        data[5] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["missing", "shortened", "lengthened", "altered"])
def test_verify_names_the_shard_that_is_not_as_it_was_written(tmp_path, how):
    make_folder(tmp_path, [10, 20, 30])
    assert verify(tmp_path) == []
    damage(tmp_path / "train_00001.bin", how)
    (line,) = verify(tmp_path)
    assert line.startswith(f"{tmp_path}/train_00001.bin ") and ("has" in line) == ("ened" in how)
    assert ("missing" in line) == (how == "missing")


def test_verify_looks_at_every_split_and_names_each_damaged_shard(tmp_path):
    meta = make_folder(tmp_path, [10, 20], "train").meta
    meta["splits"] |= make_folder(tmp_path, [5], "val").meta["splits"]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert verify(tmp_path) == []
    damage(tmp_path / "val_00000.bin", "altered")
    damage(tmp_path / "train_00000.bin", "missing")
    found = verify(tmp_path)
    assert len(found) == 2 and "train_00000.bin" in found[0] and "val_00000.bin" in found[1]


@pytest.mark.parametrize("how", ["missing", "shortened", "lengthened"])
def test_a_shard_of_the_wrong_size_is_refused_when_the_folder_is_opened(tmp_path, how):
    make_folder(tmp_path, [10, 20])
    damage(tmp_path / "train_00001.bin", how)
    with pytest.raises(ValueError, match=f"{tmp_path}/train_00001.bin .*meta.json says 80; delete {tmp_path}"):
        Shards(tmp_path, "train")


# --- folders that are not finished ---


def test_an_unfinished_folder_names_the_command_that_completes_it(tmp_path):
    command = "python prepare_wiki.py --source='texts/*.jsonl' --data_dir=data/mine"
    typed = f"{command} --until=documents"  # typed again as it is, it would stop there again
    (tmp_path / "manifest.json").write_text(json.dumps({"command": typed, "settings": {}}))
    for use in (read_meta, verify, lambda folder: Shards(folder, "train")):
        with pytest.raises(ValueError) as error:
            use(tmp_path)
        assert str(error.value).startswith(f"{tmp_path} has no meta.json") and str(error.value).endswith(command)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_anything_names_the_command_that_makes_it(tmp_path, monkeypatch, exists):
    monkeypatch.chdir(REPO)
    folders = {name: tmp_path / name for name in ("pydocs", "chat_pydocs", "alpaca", "mine")}
    if exists:
        for folder in folders.values():
            folder.mkdir()
    with pytest.raises(ValueError, match="has no meta.json.*python prepare_wiki.py config/data_pydocs.py"):
        read_meta(folders["pydocs"])
    with pytest.raises(ValueError, match="has no meta.json.*python prepare_chat.py config/chat_pydocs.py"):
        read_meta(folders["chat_pydocs"])
    with pytest.raises(ValueError, match="has no meta.json.*python prepare_chat.py config/chat_alpaca.py"):
        read_meta(folders["alpaca"])
    with pytest.raises(ValueError, match=f"has no meta.json.*--data_dir={folders['mine']}"):
        read_meta(folders["mine"])


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_format_version_is_refused(tmp_path, version):
    meta = make_folder(tmp_path, [10]).meta
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"format_version": version}))
    with pytest.raises(ValueError, match=f"{tmp_path}/meta.json has format version {version}"):
        read_meta(tmp_path)
