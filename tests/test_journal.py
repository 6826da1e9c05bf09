"""metrics.jsonl is rewound on resume, and loss.png is a picture with what it should say."""

import json
import math
import types

import pytest
import wandb
from matplotlib.figure import Figure

import journal


def steps(path):
    """The steps of a journal file's lines."""
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_resume_drops_lines_after_the_checkpoint_and_one_cut_off_by_a_kill(tmp_path):
    log = journal.Journal(tmp_path, None)
    for step in range(8):
        log.log({"step": step, "loss": 1.0}, {"tokens_per_s": 5.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    again = journal.Journal(tmp_path, 5)
    again.log({"step": 6, "loss": 2.0})
    assert steps(tmp_path / "metrics.jsonl") == [0, 1, 2, 3, 4, 5, 6]
    assert steps(tmp_path / "speed.jsonl") == [0, 1, 2, 3, 4, 5]
    journal.Journal(tmp_path, 0)
    assert steps(tmp_path / "metrics.jsonl") == [0], "what was evaluated before the first step"
    journal.Journal(tmp_path, None)
    assert steps(tmp_path / "metrics.jsonl") == [], "another run"


def test_times_stay_out_of_what_is_compared(tmp_path):
    journal.Journal(tmp_path, None).log({"step": 1, "loss": 1.0}, {"tokens_per_s": 5.0, "dt_ms": 3.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 1.0}
    assert json.loads((tmp_path / "speed.jsonl").read_text()) == {"step": 1, "tokens_per_s": 5.0, "dt_ms": 3.0}


@pytest.fixture
def pictures(monkeypatch):
    """The figures that are saved."""
    seen, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: seen.append(self) or savefig(self, *args, **kwargs)
    )
    return seen


def test_plot_shows_both_losses_yardsticks_and_units(tmp_path, pictures):
    log = journal.Journal(tmp_path, None)
    for step, row in ((0, {"val_loss": 4.0}), (1, {"loss": 3.9}), (2, {"loss": 3.5}), (2, {"val_loss": 3.6})):
        log.log({"step": step, **row, "eval/book/bits_per_byte": 3.0})
    journal.plot(tmp_path, {"trigram": 1.7}, 2.0)
    axes = pictures[0].axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["training"].get_xydata().tolist() == [[1, 3.9], [2, 3.5]]
    assert lines["validation"].get_xydata().tolist() == [[0, 4.0], [2, 3.6]]
    assert lines["trigram: 1.700 bits per byte"].get_ydata()[0] == pytest.approx(3.4)
    assert lines["book, bits per byte"].get_ydata()[0] == pytest.approx(6.0)
    assert len({line.get_color() for line in lines.values()}) == 4
    assert axes.get_xlabel() == "optimizer step" and "nats per token" in axes.get_ylabel()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_scores_are_drawn_in_per_cent_with_their_errors(tmp_path, pictures):
    log = journal.Journal(tmp_path, None)
    for step, acc in ((0, 0.24), (100, math.nan), (200, 0.31)):
        log.log({"step": step, "eval/arc/acc": acc, "eval/arc/acc_stderr": 0.02, "eval/own/acc": 0.5})
    journal.plot_scores(tmp_path, {"eval/arc/acc": 0.25, "eval/own/acc": None})
    axes = pictures[0].axes[0]
    arc, chance, own = axes.get_lines()
    assert arc.get_label() == "arc acc" and own.get_label() == "own acc"
    assert arc.get_xdata().tolist() == [0, 200]
    assert arc.get_ydata().tolist() == pytest.approx([24, 31])
    assert chance.get_ydata()[0] == pytest.approx(25) and chance.get_color() == arc.get_color()
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (min(heights), max(heights)) == (pytest.approx(22), pytest.approx(33))
    assert axes.get_ylabel() == "accuracy (%)"
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_a_wandb_id_belongs_to_a_run(tmp_path, monkeypatch):
    """A run that goes on keeps it. One that begins gets a new one, also where another run has left its id."""
    ids = []

    def init(**options):
        assert options["resume"] == "allow" and options["project"] == "p"
        ids.append(options["id"])
        return types.SimpleNamespace(finish=lambda: None, log=lambda *args, **kwargs: None)

    monkeypatch.setattr(wandb, "init", init)
    (tmp_path / "a").mkdir()
    for resumed_at in (None, 5, 0, None, 7):
        journal.Journal(tmp_path / "a", resumed_at, {"project": "p"}).close()
    first, second = ids[0], ids[3]
    assert ids == [first, first, first, second, second]
    assert first != second


def test_numbers_that_are_not_finite_are_null(tmp_path):
    journal.Journal(tmp_path, None).log({"step": 1, "loss": math.nan, "grad_norm": math.inf, "val_loss": -math.inf})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 1,
        "loss": None,
        "grad_norm": None,
        "val_loss": None,
    }
    journal.plot(tmp_path, {}, 2.0)
