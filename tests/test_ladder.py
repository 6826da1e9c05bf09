"""The ladder: what is on each rung, a validation set without duplicates, runs that are not made twice."""

import json
import random
import subprocess
from pathlib import Path

import pytest
from conftest import REPO, SHARED
from matplotlib.figure import Figure

import configurator
import train
from benchmarks import ladder
from benchmarks.dedup_quality import exact, shingles, words
from benchmarks.ladder import RUNGS, LadderConfig, climb, main, make_rungs, near_copy, table
from shards import Shards
from tokenizer import Tokenizer

pytestmark = [pytest.mark.usefixtures("no_plot"), pytest.mark.bench]


def source_of(folder: Path) -> Path:
    """20 files of 10 documents; each file has an exact and a near copy of one of its own, and a short document."""
    draw = random.Random(0)
    pool = words(draw, 400)
    lines = []
    for file in range(20):
        texts = [" ".join(draw.choices(pool, k=60)) for _ in range(10)]
        near = texts[1].replace(texts[1].split()[30], "other")
        for k, text in enumerate([*texts, texts[0], near, "too short"]):
            row = {"id": f"{file:02d}.py#L{k}-0", "title": f"t{file}", "text": text}
            lines.append(json.dumps(row) + "\n")
    (folder / "in.jsonl").write_text("".join(lines))
    return folder / "in.jsonl"


def settings_of(folder: Path, **changes) -> LadderConfig:
    usual = {"source": str(source_of(folder)), "out": str(folder / "out"), "held_out": 0.25, "min_chars": 50}
    usual |= {"vocab_size": 300, "max_iters": 2, "seeds": 2, "num_workers": 1}
    return LadderConfig(**(usual | changes))


def similar_pairs(texts: list[str], others: list[str]) -> list[tuple[int, int]]:
    """Pairs with an exact similarity of at least 0.7, by shingles as strings."""
    sets, other_sets = [[shingles(text) for text in column] for column in (texts, others)]
    pairs = [(i, k) for i in range(len(sets)) for k in range(len(other_sets))]
    return [(i, k) for i, k in pairs if len(sets[i] & other_sets[k]) >= 0.7 * len(sets[i] | other_sets[k])]


def test_each_rung_holds_what_the_one_below_leaves_and_validation_is_clean(tmp_path):
    (tmp_path / "work").mkdir()
    rungs = make_rungs(settings_of(tmp_path, plant=1.0), tmp_path / "work")
    texts = rungs.texts
    training = round(len(texts["raw"]) / 2 / 13)  # files that are not held out; every document once more
    assert 10 <= training <= 19 and len(texts["raw"]) == 2 * 13 * training
    assert texts["cleaned"] == [text for text in texts["raw"] if len(text) >= 50]
    assert len(texts["exact"]) == len(set(texts["cleaned"])) < len(texts["cleaned"])
    assert set(texts["MinHash"]) < set(texts["exact"]) and len(texts["MinHash"]) < len(texts["exact"])
    kept = texts["MinHash"]
    assert similar_pairs(kept, kept) == [(i, i) for i in range(len(kept))]
    assert len(rungs.val) == (20 - training) * 8  # ten, without the two that have copies in their file
    long = [text for text in texts["raw"] if text != "too short"]  # which has no shingle
    assert similar_pairs(rungs.val, long) == []
    assert rungs.duplicates["exact"] and rungs.duplicates["near"]


@pytest.mark.parametrize("size", [100, 1000])
def test_a_planted_copy_has_one_word_in_60_changed(size):
    draw = random.Random(1)
    tokens = words(draw, size)
    copy = near_copy(draw, " ".join(tokens)).split()
    changed = sum(a != b for a, b in zip(tokens, copy, strict=True))
    assert size // 60 - 1 <= changed <= size // 60 + 1 and changed > 0
    assert exact(" ".join(tokens), " ".join(copy)) > 0.7


@pytest.mark.slow
def test_a_run_trains_the_rung_with_the_seed_and_is_not_made_twice(tmp_path, monkeypatch):
    """The command is run in this process: torch is here already."""
    commands = []

    def run_here(command: list[str], cwd: Path, **_) -> subprocess.CompletedProcess:
        commands.append(command)
        assert command[1] == str(REPO / "train.py") and cwd == REPO
        monkeypatch.chdir(cwd)
        cfg, _ = configurator.load(train.TrainConfig, command[2:])
        train.main(cfg)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ladder.subprocess, "run", run_here)
    cfg = settings_of(tmp_path, seeds=1)
    data = ladder.prepare(cfg, tmp_path / "out")
    folder = tmp_path / "out/data/exact"
    train_shards, val_shards = (Shards(folder, split) for split in ("train", "val"))
    assert data["rungs"]["exact"]["tokens"] == train_shards.tokens and data["val"]["bytes"] == val_shards.bytes
    text = Tokenizer.load(folder).decode(train_shards.all(50).tolist())
    assert text[:40] in (tmp_path / "in.jsonl").read_text()

    loss = ladder.train(tmp_path / "out", "exact", 5, 2)
    run = tmp_path / "out/runs/exact_5_2"
    settings = json.loads((run / "settings.json").read_text())
    assert settings["seed"] == 5 and settings["max_iters"] == 2 and settings["data"] == str(folder)
    assert 3 < loss < 12
    assert ladder.train(tmp_path / "out", "exact", 5, 2) == loss and len(commands) == 1
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "val_bits')  # a kill
    assert ladder.train(tmp_path / "out", "exact", 5, 2) == loss and len(commands) == 1


def test_a_run_that_fails_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stderr="out of memory")
    monkeypatch.setattr(ladder.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match=r"train\.py .*--seed=5 .*: out of memory"):
        ladder.train(tmp_path / "out", "exact", 5, 2)


def test_results_are_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    trained, pictures = [], []

    def train_nothing(out: Path, rung: str, seed: int, max_iters: int) -> float:
        trained.append((rung, seed))
        assert out == tmp_path / "out"  # not relative: a run is started from the root of the repository
        return 2.0 - 0.1 * RUNGS.index(rung) + 0.01 * seed

    def keep(figure: Figure, path: Path, **_) -> None:
        pictures.append(figure)
        path.write_text("a picture")

    monkeypatch.setattr(ladder, "train", train_nothing)
    monkeypatch.setattr(Figure, "savefig", keep)
    monkeypatch.chdir(tmp_path)
    main(settings_of(tmp_path, out="out"))
    printed = capsys.readouterr().out
    assert sorted(trained) == sorted((rung, seed) for rung in RUNGS for seed in range(2))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["tokens"] == 2 * 12 * 128 and results["bits_per_byte"]["cleaned"] == pytest.approx([1.9, 1.91])
    assert table(results) in printed and "| MinHash |" in printed
    assert "| 1.9050 (1.9000 to 1.9100) | 4.99 % (4.98 to 5.00) |" in printed

    (axes,) = pictures[0].axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert lines["seed 1"] == pytest.approx([2.01, 1.91, 1.81, 1.71]) and lines["mean"][0] == pytest.approx(2.005)
    main(LadderConfig(draw=f"{tmp_path}/out,{tmp_path}/out", out=str(tmp_path / "both.png")))
    assert len(pictures[1].axes) == 2 and (tmp_path / "both.png").is_file()
    with pytest.raises(ValueError, match="was made with"):
        climb(settings_of(tmp_path, plant=0.5))


@pytest.mark.real_data
def test_of_a_dump_the_lowest_rung_is_wikitext(tmp_path):
    (tmp_path / "work").mkdir()
    dump = str(SHARED / "wiki/xml/enwiki-table-markup-gensim.xml.bz2")
    rungs = make_rungs(LadderConfig(source=dump, split_by="title", held_out=0.3), tmp_path / "work")
    texts = rungs.texts
    assert len(texts["raw"]) + len(rungs.val) == 5 and rungs.val
    assert all("[[" in text for text in texts["raw"]) and not any("[[" in text for text in texts["cleaned"])


@pytest.mark.parametrize("change", [{"plant": -1}, {"held_out": 0}, {"seeds": 0}, {"num_workers": 0}])
def test_settings_that_cannot_work_are_named(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        main(settings_of(tmp_path, **change))
