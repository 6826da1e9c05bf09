"""Corpora mixed by weight: every window where the schedule puts it, and mistakes in --data by name."""

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from tokenizers import Tokenizer as HFTokenizer

import mixture
import train
from chat_template import ChatTemplate, chatml
from mixture import Mixture, parse
from sampler import IndexStream
from shards import IGNORE, EvalWindows, Shards, Windows
from tokenizer import Tokenizer


@pytest.fixture(scope="module")
def pair(data_dir, tmp_path_factory) -> tuple[Path, Path]:
    """Two corpora with one tokenizer: the small one of the session, and its first 2,000 tokens doubled in value."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(data_dir, folder / "a")
    shutil.copytree(data_dir, folder / "b")
    meta = json.loads((folder / "b/meta.json").read_text())
    for split in ("train", "val"):
        shards = Shards(folder / "a", split)
        tokens = (shards.all(2000 if split == "train" else 300)[::-1]).astype(shards.dtype)
        (folder / f"b/{split}_00000.bin").write_bytes(tokens.tobytes())
        meta["splits"][split][0] |= {"tokens": len(tokens), "bytes": 2 * len(tokens)}
    (folder / "b/meta.json").write_text(json.dumps(meta))
    return folder / "a", folder / "b"


def test_windows_come_from_the_source_index_and_epoch_of_the_schedule(pair):
    data = Mixture(f"{pair[0]}:0.7,{pair[1]}:0.3", 32, seed=5)
    windows = [Windows(Shards(folder, "train"), 32, 5) for folder in pair]
    stream = IndexStream([len(each) for each in windows], [0.7, 0.3], seed=5)
    positions = np.arange(3 * len(windows[1]), 3 * len(windows[1]) + 200)
    seen = set()
    rows = data.rows(positions)
    for inputs, targets, source, index, epoch in zip(rows.inputs, rows.targets, *stream.at(positions), strict=True):
        seen.add((int(source), int(epoch)))
        window = windows[source].get(np.array([index]), np.array([epoch]))[0]
        assert np.array_equal(inputs, window[:-1]) and np.array_equal(targets, window[1:])
    assert len(seen) > 2, "both sources, and more than one epoch of the smaller"
    shuffled = np.random.default_rng(0).permutation(positions)
    assert np.array_equal(data.rows(shuffled).targets, rows.targets[shuffled - positions[0]])
    assert rows.positions is None, "each window is a document of its own"


def test_only_scored_targets_are_counted(data_dir, monkeypatch):
    data = Mixture(str(data_dir), 32, seed=0)
    read = data.rows

    def masked(positions):
        rows = read(positions)
        rows.targets[0, :5] = IGNORE
        rows.targets[2] = IGNORE
        return rows

    monkeypatch.setattr(data, "rows", masked)
    assert data.batch(np.arange(4)).count == 4 * 32 - 5 - 32
    counts = [batch.count for batch in data.corpora[0].val_batches(7, 0, 1)]
    shards = Shards(data_dir, "val")
    assert sum(counts) == shards.tokens - len(shards.sizes), "the last windows are filled up with IGNORE"


def test_a_batch_moves_with_all_its_tensors(data_dir):
    batch = Mixture(str(data_dir), 32, seed=0).batch(np.arange(4))
    moved = batch.to(torch.device("meta"))
    assert moved.inputs.device.type == moved.targets.device.type == "meta"
    assert moved.count == batch.count == 128


def test_corpora_of_several_kinds_or_an_unknown_kind_are_refused(pair, tmp_path):
    data = Path(shutil.copytree(pair[0], tmp_path / "c"))
    meta = json.loads((data / "meta.json").read_text())
    (data / "meta.json").write_text(json.dumps(meta | {"kind": "song"}))
    with pytest.raises(ValueError, match="c/meta.json says kind='song'; known here: text"):
        Mixture(str(data), 32, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        song = type("Song", (mixture.TextCorpus,), {"rows_class": None})
        patch.setitem(mixture.CORPUS_KINDS, "song", song)
        with pytest.raises(ValueError, match="holds text, .*c holds song, which cannot be mixed"):
            Mixture(f"{pair[0]}:1,{data}:1", 32, seed=0)


def test_progress_counts_what_was_drawn(pair):
    data = Mixture(f"{pair[0]}:3,{pair[1]}:1", 32, seed=0)
    for position in (0, 1, 7, 500, 65536 * 3 + 11):
        sources = data.order.at(np.arange(position))[0]
        found = data.progress(position)
        for k, name in enumerate("ab"):
            count = int((sources == k).sum())
            assert found[f"epoch/{name}"] == count / len(data.corpora[k].windows)
            assert found[f"share/{name}"] == count / max(1, position)
            assert position == 0 or abs(found[f"share/{name}"] - data.shares[k]) <= 1 / position
    assert data.shares == [0.75, 0.25]
    lines = data.describe(1000).splitlines()
    assert lines[0].startswith("data: a, 75 %, ") and f"of {len(data.corpora[1].windows):,} windows" in lines[1]
    alone = Mixture(str(pair[0]), 32, seed=0)
    assert alone.progress(50) == {"epoch": 50 / len(alone.corpora[0].windows)}


def test_bits_per_byte_follow_the_shares(pair):
    data = Mixture(f"{pair[0]}:0.75,{pair[1]}:0.25", 32, seed=0)
    val = Shards(pair[0], "val")
    assert data.nats_per_bit_per_byte == pytest.approx(math.log(2) * (0.75 * val.bytes / val.tokens + 0.25 * 2))


def test_a_run_on_two_corpora_logs_each_and_resumes(pair, tmp_path):
    settings = TINY | {"data": f"{pair[0]}:0.7,{pair[1]}:0.3", "eval_interval": 10}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(train.TrainConfig(**settings, out_dir=str(whole)))
    train.main(train.TrainConfig(**settings | {"max_iters": 10, "lr_decay_iters": 20}, out_dir=str(parts)))
    train.main(train.TrainConfig(**settings, out_dir=str(parts)))
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    assert (whole / "loss.png").stat().st_size > 10_000
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    for row in steps:
        count = 8 * row["step"]
        assert abs(row["share/b"] - 0.3) <= 1 / count + 1 / 65536
        assert row["epoch/b"] * len(Windows(Shards(pair[1], "train"), 32, 0)) == pytest.approx(row["share/b"] * count)
    for row in (row for row in rows if "val_loss" in row):
        assert row["val_loss"] == pytest.approx(0.7 * row["val_loss/a"] + 0.3 * row["val_loss/b"], abs=1e-3)
        assert row["val_loss/a"] != row["val_loss/b"]


def test_only_the_named_corpus_is_evaluated_on_its_whole_split(pair):
    data = Mixture(f"{pair[0]}:1,{pair[1]}:1", 32, seed=0)
    for corpus, folder in zip(data.corpora, pair, strict=True):
        assert len(corpus.val) == len(EvalWindows(Shards(folder, "val"), 32))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("wiki", {"data/wiki": 1}),
        ("out/wiki", {"out/wiki": 1}),
        ("wiki:2", {"data/wiki": 2}),
        ("en:0.8,zh:0.2", {"data/en": 0.8, "data/zh": 0.2}),
        (" en:8 , /tmp/zh:2 ", {"data/en": 8, "/tmp/zh": 2}),
    ],
)
def test_data_names_folders_and_weights(data, found):
    assert parse(data) == {Path(folder): weight for folder, weight in found.items()}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("en,zh:0.2", "each of several corpora needs a weight, for example --data=en:0.5,zh:0.5"),
        ("en:0.8,zh:o.2", "'o.2' is not a weight; write name:number"),
        ("en:0.8,en:0.2", "en stands twice"),
        ("a/en:0.8,b/en:0.2", "a/en and b/en have the same name, .*; rename one of the folders"),
        ("{a}:0.8,{b}:-0.2", "weight -0.2 must be a finite number"),
        ("{a}:0.8,{b}:nan", "weight nan must be a finite number"),
        ("{a}:0,{b}:0", "sum to 0"),
        ("{a}:1.5,{b}:0.000001", "weight 1e-06 of a sum of .* is below one part in 65536"),
        ("{a}:1,nowhere:1", "data/nowhere has no meta.json; make it with"),
    ],
)
def test_mistakes_in_data_are_named(pair, data, message):
    with pytest.raises(ValueError, match=message):
        Mixture(data.format(a=pair[0], b=pair[1]), 32, seed=0)


def test_another_tokenizer_is_refused_with_the_remedy(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "c")
    tokenizer = HFTokenizer.from_file(str(pair[0] / "tokenizer.json"))
    tokenizer.add_tokens(["unheard"])
    tokenizer.save(str(tmp_path / "c/tokenizer.json"))
    with pytest.raises(ValueError, match=f"c and {pair[0]} have different tokenizers.*--tokenizer={pair[0]}$"):
        Mixture(f"{pair[0]}:1,{tmp_path}/c:1", 32, seed=0)


def with_files(folder: Path, target: Path, files: dict[str, bytes]) -> Path:
    """A copy of a data folder, with other small files."""
    shutil.copytree(folder, target)
    for name, content in files.items():
        (target / name).write_bytes(content)
    return target


def test_the_largest_tokenizer_is_that_of_the_run_in_any_order(pair, tmp_path):
    """Three folders, each with more special tokens than the one before; two that each have another are refused."""
    base = Tokenizer.load(pair[0])
    some, more, others = (base.with_special_tokens(tokens) for tokens in (["<a>"], ["<a>", "<b>"], ["<c>"]))
    folders = [pair[0]]
    for name, tokenizer in (("some", some), ("more", more), ("others", others)):
        folders.append(with_files(pair[0], tmp_path / name, {"tokenizer.json": tokenizer.json.encode()}))
    meta = json.loads((tmp_path / "more/meta.json").read_text())
    ids = Shards(pair[0], "train").all()
    ids[::50] = more.vocab_size - 1
    (tmp_path / "more/train_00000.bin").write_bytes(ids.astype(meta["dtype"]).tobytes())

    for order in itertools.permutations(folders[:3]):
        data = Mixture(",".join(f"{folder}:1" for folder in order), 32, seed=0)
        assert data.tokenizer.json == more.json
        assert data.batch(np.arange(100)).inputs.max() == more.vocab_size - 1, "a new id is a valid one"
    for order in itertools.permutations(folders):
        with pytest.raises(ValueError, match=r"have different tokenizers; prepare one with --tokenizer=\S+$"):
            Mixture(",".join(f"{folder}:1" for folder in order), 32, seed=0)


def test_the_template_is_that_of_the_conversations(pair, tmp_path):
    tokenizer = Tokenizer.load(pair[0])
    source = chatml(tokenizer)
    for name, text in (("one", source), ("same", source), ("other", source.replace("assistant", "robot"))):
        with_files(pair[0], tmp_path / name, ChatTemplate(text, tokenizer).files())
    assert Mixture(str(pair[0]), 32, seed=0).template is None
    data = Mixture(f"{pair[0]}:1,{tmp_path}/one:1,{tmp_path}/same:1", 32, seed=0)
    assert data.template.source == source and data.template.tokenizer is data.tokenizer
    with pytest.raises(ValueError, match="/other and .*/one were made with different chat templates; prepare one with"):
        Mixture(f"{tmp_path}/one:1,{pair[0]}:1,{tmp_path}/other:1", 32, seed=0)


def test_the_mixture_of_a_run_cannot_change(pair, tmp_path):
    settings = TINY | {"data": f"{pair[0]}:0.7,{pair[1]}:0.3", "max_iters": 1, "out_dir": str(tmp_path)}
    train.main(train.TrainConfig(**settings))
    for changes in ({"data": f"{pair[0]}:0.6,{pair[1]}:0.4"}, {"shuffle_run": 4}):
        with pytest.raises(ValueError, match=f"has {next(iter(changes))}=.* but the settings say"):
            train.main(train.TrainConfig(**settings | {"max_iters": 2} | changes))


def test_neighbours_stay_together_on_request(data_dir):
    data = Mixture(str(data_dir), 32, seed=0, run=4)
    n = len(data.corpora[0].windows) // 4 * 4
    index = data.order.at(np.arange(n))[1].reshape(-1, 4)
    size = len(data.corpora[0].windows)
    assert np.array_equal((index[:, :1] + np.arange(4)) % size, index)
    assert (
        data.corpora[0].windows.shards.read_ahead
        and not Mixture(str(data_dir), 32, 0).corpora[0].windows.shards.read_ahead
    )


def test_a_bare_nanogpt_folder_trains_with_a_tokenizer_beside_it(data_dir, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for split in ("train", "val"):
        shutil.copy(data_dir / f"{split}_00000.bin", bare / f"{split}.bin")
    with pytest.raises(ValueError, match="bare has token ids but no tokenizer.json; put the one there that made them"):
        Mixture(str(bare), 32, seed=0)
    shutil.copy(data_dir / "tokenizer.json", bare)
    settings = TINY | {"max_iters": 3, "eval_interval": 3}
    for name, data in (("a", data_dir), ("b", bare)):
        train.main(train.TrainConfig(**settings, data=str(data), out_dir=str(tmp_path / name)))
    assert "read as nanoGPT writes them, ids of uint16" in capsys.readouterr().out
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
