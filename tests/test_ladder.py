"""The ladder: what is on each rung, a validation set without duplicates, runs that are not made twice."""

import json
import random
from pathlib import Path

import pytest
from conftest import SHARED

from benchmarks import ladder
from benchmarks.dedup_quality import exact, words
from benchmarks.ladder import RUNGS, LadderConfig, climb, main, near_copy, rungs, table
from shards import Shards
from tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("no_plot")


def source_of(folder: Path) -> Path:
    """20 files of 10 documents; each file has an exact and a near copy of one of its own, and a short document."""
    draw, rows = random.Random(0), []
    pool = words(draw, 400)
    for file in range(20):
        texts = [" ".join(draw.choices(pool, k=60)) for _ in range(10)]
        texts += [texts[0], texts[1].replace(texts[1].split()[30], "other"), "too short"]
        rows += [{"id": f"{file:02d}.py#L{k}-0", "title": f"t{file}", "text": text} for k, text in enumerate(texts)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "in.jsonl"


def settings_of(folder: Path, **changes) -> LadderConfig:
    usual = {"source": str(source_of(folder)), "out": str(folder / "out"), "held_out": 0.25, "min_chars": 50}
    return LadderConfig(**(usual | {"vocab_size": 300, "max_iters": 2, "seeds": 2, "num_workers": 1} | changes))


def test_each_rung_holds_what_the_one_below_leaves_and_validation_is_clean(tmp_path):
    (tmp_path / "work").mkdir()
    texts, val, counts = rungs(settings_of(tmp_path, plant=1.0), tmp_path / "work")
    training = round(len(texts["raw"]) / 2 / 13)  # files that are not held out; every document once more
    assert 10 <= training <= 19 and len(texts["raw"]) == 2 * 13 * training
    assert len(texts["cleaned"]) == len([text for text in texts["raw"] if len(text) >= 50])
    assert len(texts["exact"]) == len(set(texts["cleaned"])) < len(texts["cleaned"])
    assert set(texts["MinHash"]) < set(texts["exact"]) and len(texts["MinHash"]) < len(texts["exact"])
    kept = texts["MinHash"]
    assert all(exact(a, b) < 0.7 for i, a in enumerate(kept) for b in kept[:i])
    assert len(val) == (20 - training) * 8  # ten, without the two that have copies in their file
    assert all(exact(text, other) < 0.7 for text in val for other in texts["raw"])
    assert counts["exact"] and counts["near"]


@pytest.mark.parametrize("size", [100, 1000])
def test_a_planted_copy_has_one_word_in_60_changed(size):
    draw = random.Random(1)
    tokens = words(draw, size)
    copy = near_copy(draw, " ".join(tokens)).split()
    changed = sum(a != b for a, b in zip(tokens, copy, strict=True))
    assert size // 60 - 1 <= changed <= size // 60 + 1 and changed > 0
    assert exact(" ".join(tokens), " ".join(copy)) > 0.7


def test_a_run_trains_the_rung_with_the_seed_and_is_not_made_twice(tmp_path, monkeypatch):
    cfg = settings_of(tmp_path, seeds=1)
    held = ladder.prepare(cfg, tmp_path / "out")
    folder = tmp_path / "out/data/exact"
    train, val = (Shards(folder, split) for split in ("train", "val"))
    assert held["rungs"]["exact"]["tokens"] == train.tokens and held["val"]["bytes"] == val.bytes
    text = Tokenizer.load(folder).decode(train.all(50).tolist())
    assert text[:40] in (tmp_path / "in.jsonl").read_text()
    loss = ladder.train(tmp_path / "out", "exact", 5, 2)
    settings = json.loads((tmp_path / "out/runs/exact_5_2/settings.json").read_text())
    assert settings["seed"] == 5 and settings["max_iters"] == 2 and settings["data"] == str(folder)
    assert 3 < loss < 12
    monkeypatch.setattr(ladder.subprocess, "run", None)
    assert ladder.train(tmp_path / "out", "exact", 5, 2) == loss


def test_results_are_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    made = []

    def fake(out: Path, rung: str, seed: int, max_iters: int) -> float:
        made.append((rung, seed))
        return 2.0 - 0.1 * RUNGS.index(rung) + 0.01 * seed

    monkeypatch.setattr(ladder, "train", fake)
    cfg = settings_of(tmp_path)
    main(cfg)
    printed = capsys.readouterr().out
    assert sorted(made) == sorted((rung, seed) for rung in RUNGS for seed in range(2))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["tokens"] == 2 * 12 * 128 and results["bits_per_byte"]["cleaned"] == pytest.approx([1.9, 1.91])
    assert table(results) in printed and "| MinHash |" in printed
    assert "| 1.9050 (1.9000 to 1.9100) | 4.99 % (4.98 to 5.00) |" in printed
    assert (tmp_path / "out/ladder.png").read_bytes().startswith(b"\x89PNG")
    main(LadderConfig(draw=f"{tmp_path}/out,{tmp_path}/out", out=str(tmp_path / "both.png")))
    assert (tmp_path / "both.png").stat().st_size > (tmp_path / "out/ladder.png").stat().st_size
    with pytest.raises(ValueError, match="was made with"):
        climb(settings_of(tmp_path, plant=0.5))


@pytest.mark.real_data
def test_of_a_dump_the_lowest_rung_is_wikitext(tmp_path):
    (tmp_path / "work").mkdir()
    dump = str(SHARED / "wiki/xml/enwiki-table-markup-gensim.xml.bz2")
    cfg = LadderConfig(source=dump, split_by="title", held_out=0.3)
    texts, val, _ = rungs(cfg, tmp_path / "work")
    assert len(texts["raw"]) + len(val) == 5 and val
    assert all("[[" in text for text in texts["raw"]) and not any("[[" in text for text in texts["cleaned"])


@pytest.mark.parametrize("change", [{"plant": -1}, {"held_out": 0}, {"seeds": 0}, {"num_workers": 0}])
def test_settings_that_cannot_work_are_named(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        main(settings_of(tmp_path, **change))
