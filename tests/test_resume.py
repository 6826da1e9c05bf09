"""Where a run begins: which checkpoint, the same text, the same settings; two runs in one folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from test_train import config, metrics, no_picture, same_weights  # noqa: F401 (a fixture)

import atomic
import checkpoint
import resume
import train
from mixture import Mixture
from shards import Shards


@pytest.fixture
def copy(run_dir, tmp_path) -> Path:
    """A copy of the finished run: step_0000010, step_0000020 and the links."""
    return Path(shutil.copytree(run_dir, tmp_path / "copy", symlinks=True))


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- which checkpoint ---


def test_without_latest_the_newest_complete_checkpoint_counts(copy, data_dir, capsys):
    (copy / "latest").unlink()
    train.main(config(data_dir, copy, max_iters=22))
    assert f"note: {copy}/latest is missing; step_0000020 is the newest complete checkpoint" in capsys.readouterr().out
    assert [row["step"] for row in metrics(copy) if "loss" in row] == list(range(1, 23))


def test_a_finished_run_without_latest_gets_it_back(copy, data_dir, capsys):
    (copy / "latest").unlink()
    train.main(config(data_dir, copy))
    shown = capsys.readouterr().out
    assert "latest is missing; step_0000020 is the newest complete" in shown and "has had its 20 steps" in shown
    assert (copy / "latest").resolve() == copy / "step_0000020"


def test_where_latest_points_nowhere_the_newest_complete_checkpoint_counts(copy, run_dir, data_dir, capsys):
    shutil.rmtree(copy / "step_0000020")
    train.main(config(data_dir, copy))
    assert f"note: {copy}/latest points nowhere; step_0000010 is the newest complete" in capsys.readouterr().out
    assert (copy / "metrics.jsonl").read_bytes() == (run_dir / "metrics.jsonl").read_bytes()
    assert same_weights(copy, run_dir)


def test_a_copy_in_which_links_became_text_or_folders_goes_on(copy, run_dir, data_dir, capsys, tmp_path):
    (copy / "latest").unlink()
    (copy / "latest").write_text("step_0000020")
    train.main(config(data_dir, copy, max_iters=22))
    assert f"note: {copy}/latest is a file, not a link; step_0000020 is the newest" in capsys.readouterr().out

    followed = Path(shutil.copytree(run_dir, tmp_path / "followed", symlinks=False))
    train.main(config(data_dir, followed, max_iters=22))
    assert same_weights(copy, followed) and (followed / "latest").is_symlink()

    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "latest").symlink_to(run_dir / "step_0000020")
    train.main(config(data_dir, outside, max_iters=22))
    assert same_weights(copy, outside)


def test_a_run_with_damaged_checkpoints_alone_does_not_begin_anew(copy, data_dir):
    (copy / "latest").unlink()
    for step in ("step_0000010", "step_0000020"):
        (copy / step / "training/optimizer.safetensors").unlink()
    before = content(copy)
    with pytest.raises(ValueError, match="has no `latest`, and no complete checkpoint .step_00000.0 is damaged.; move"):
        train.main(config(data_dir, copy, max_iters=30))
    assert content(copy) == before


def test_resume_from_is_refused_where_it_would_have_no_effect(copy, run_dir, data_dir, tmp_path):
    origin = str(run_dir / "step_0000010")
    with pytest.raises(ValueError, match="has a checkpoint already .step_0000020.: --resume_from=.* would have no"):
        train.main(config(data_dir, copy, max_iters=30, resume_from=origin))

    train.main(config(data_dir, tmp_path / "new", max_iters=12, resume_from=origin))
    with pytest.raises(ValueError, match="has a checkpoint already .step_0000012.: --resume_from="):
        train.main(config(data_dir, tmp_path / "new", max_iters=30, resume_from=str(run_dir / "step_0000020")))


def test_resume_from_begins_a_journal_of_its_own(run_dir, data_dir, tmp_path):
    """Lines that another run left in the folder, killed before its first checkpoint, are not this run's."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.jsonl").write_text('{"step": 3, "loss": 9.0}\n')
    train.main(config(data_dir, out, max_iters=12, resume_from=str(run_dir / "step_0000010")))
    assert [row["step"] for row in metrics(out) if "loss" in row] == [11, 12]


def test_resume_from_a_run_that_has_had_its_steps_is_refused(run_dir, data_dir, tmp_path):
    with pytest.raises(ValueError, match="step_0000020 is at step 20, so --max_iters=20 leaves nothing to do; raise"):
        train.main(config(data_dir, tmp_path / "out", resume_from=str(run_dir)))
    assert not (tmp_path / "out").exists()


# --- two runs in one folder ---


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "folder that is there"])
def test_a_run_that_waited_for_another_sees_what_that_one_wrote(run_dir, data_dir, tmp_path, monkeypatch, there):
    """The other run writes its checkpoints while this one waits for the lock."""
    out = tmp_path / "out"
    if there:
        out.mkdir()
    lock = atomic.lock

    def wait_for_other_run(folder, wait_s, say):
        shutil.copytree(run_dir, folder, symlinks=True, dirs_exist_ok=True)
        return lock(folder, wait_s, say)

    monkeypatch.setattr(atomic, "lock", wait_for_other_run)
    with pytest.raises(ValueError, match="step_0000020 has n_layer=2 but the settings say 3"):
        train.main(config(data_dir, out, n_layer=3))
    assert content(out) == content(run_dir)


def test_a_run_says_at_once_that_it_waits_and_then_why_it_does_not_begin(run_dir, data_dir, monkeypatch, capsys):
    monkeypatch.setattr(train, "LOCK_WAIT_S", 0.2)
    before = content(run_dir)
    with atomic.lock(run_dir, 0), pytest.raises(ValueError, match=f"another process is writing to {run_dir}"):
        train.main(config(data_dir, run_dir, max_iters=30))
    assert f"another process is writing to {run_dir}; waiting up to 0.2 s" in capsys.readouterr().out
    assert content(run_dir) == before


# --- the same settings, the same text ---


def test_contradicting_settings_are_refused_by_name(data_dir, run_dir):
    for key, value in (("n_layer", 3), ("seed", 1), ("batch_tokens", 512), ("block_size", 16)):
        with pytest.raises(ValueError, match=f"has {key}={TINY.get(key, 1337)} but the settings say {value}"):
            train.main(config(data_dir, run_dir, max_iters=30, **{key: value}))


def test_another_number_of_threads_is_noted(copy, data_dir, capsys):
    path = copy / "step_0000020/training/state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threads": 2}))
    train.main(config(data_dir, copy, max_iters=21))
    assert "note: it ran with --num_threads=2; the last bits" in capsys.readouterr().out


@pytest.fixture
def data(data_dir, tmp_path) -> Path:
    """A copy of the data folder, to be moved or changed."""
    return Path(shutil.copytree(data_dir, tmp_path / "data"))


def write_tokens(data: Path, tokens: np.ndarray) -> None:
    """Other text in the training shard of a data folder, as prepare_wiki.py would have written it."""
    path = data / "train_00000.bin"
    path.write_bytes(tokens.tobytes())
    meta = json.loads((data / "meta.json").read_text())
    meta["splits"]["train"][0] |= {"tokens": len(tokens), "sha256": atomic.sha256(path)}
    (data / "meta.json").write_text(json.dumps(meta))


def test_other_text_in_the_same_folder_is_refused(data, tmp_path):
    train.main(config(data, tmp_path / "out", max_iters=2))
    before = content(tmp_path / "out")
    write_tokens(data, Shards(data, "train").all()[::-1])
    with pytest.raises(ValueError, match="the text of data is not the one that checkpoint .*step_0000002 was"):
        train.main(config(data, tmp_path / "out", max_iters=4))
    assert content(tmp_path / "out") == before


def test_the_same_text_may_lie_elsewhere(data, tmp_path):
    train.main(config(data, tmp_path / "out", max_iters=2))
    moved = data.rename(tmp_path / "elsewhere")
    train.main(config(moved, tmp_path / "out", max_iters=4))
    assert checkpoint.read_state(tmp_path / "out/latest")["step"] == 4

    write_tokens(moved, Shards(moved, "train").all()[::-1])
    with pytest.raises(ValueError, match="has data=.*elsewhere but the settings say .*third; give --data=.*elsewhere"):
        train.main(config(moved.rename(tmp_path / "third"), tmp_path / "out", max_iters=6))


def test_a_bare_folder_is_known_by_its_sizes(data, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for split in ("train", "val"):
        shutil.copy(data / f"{split}_00000.bin", bare / f"{split}.bin")
    shutil.copy(data / "tokenizer.json", bare)
    before = Mixture(str(bare), 32, seed=0).content()
    assert Mixture(str(shutil.copytree(bare, tmp_path / "b/bare")), 32, seed=0).content() == before
    with open(bare / "train.bin", "ab") as file:
        file.write(bytes(2))
    assert Mixture(str(bare), 32, seed=0).content() != before


def test_a_note_of_the_text_that_a_person_edited_is_one_line(copy, data_dir):
    path = copy / "step_0000020/training/state.json"
    for damaged in (3, [3], [{}]):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": damaged}))
        with pytest.raises(ValueError, match="state.json: data is damaged"):
            train.main(config(data_dir, copy, max_iters=22))


def test_rates_that_differ_from_the_checkpoints_are_noted(copy, data_dir):
    """A new default halves a rate without anybody having asked for it."""
    saved = checkpoint.read_state(copy / "latest")["settings"]
    cfg = config(data_dir, copy, learning_rate=0.5, optimizer="muon", muon_lr=0.25)
    had = saved | {"learning_rate": 0.5, "muon_lr": 0.75, "beta2": 0.5}
    assert resume.changed_rates(cfg, had) == [
        "note: it ran with --muon_lr=0.75; from here on it is 0.25",
        f"note: it ran with --beta2=0.5; from here on it is {cfg.beta2}",
    ]
    adamw = dataclasses.replace(cfg, optimizer="adamw", beta2=0.5)
    assert resume.changed_rates(adamw, had) == []

    del had["muon_even_rows"]  # from before there was such a setting
    even_rows = dataclasses.replace(cfg, muon_lr=0.75, beta2=0.5, muon_even_rows=True)
    (note,) = resume.changed_rates(even_rows, had)
    assert note == "note: it ran with --muon_even_rows=False; from here on it is True"

    resumed = config(data_dir, copy, max_iters=22, weight_decay=0.5)
    notes = resume.find_start(resumed, Mixture(resumed.data, resumed.block_size, resumed.seed)).notes
    assert any("--weight_decay=" in note for note in notes)


def test_checkpoints_from_before_the_text_was_noted_resume_under_the_same_name(copy, data_dir, data):
    path = copy / "step_0000020/training/state.json"
    state = json.loads(path.read_text())
    del state["data"], state["settings"]["objective"]
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match="has data=.* but the settings say .*; give --data="):
        train.main(config(data, copy, max_iters=22))
    train.main(config(data_dir, copy, max_iters=22))
    assert "data" in checkpoint.read_state(copy / "latest")


def test_every_setting_of_the_model_and_the_step_is_compared():
    """A new setting that changes weights or steps must be fixed on resume, or stand here."""
    may_change = {"out_dir", "data", "resume_from", "batch_size", "max_iters", "learning_rate", "muon_lr", "min_lr"}
    may_change |= {"muon_even_rows"}
    may_change |= {"warmup_iters", "lr_decay_iters", "schedule", "decay_iters", "weight_decay", "beta1", "beta2"}
    may_change |= {"grad_clip", "max_skipped", "eval_interval", "log_interval", "checkpoint_interval"}
    may_change |= {"checkpoint_minutes", "keep_checkpoints", "sample_prompt", "wandb", "wandb_project"}
    may_change |= {"device", "dtype", "parallel", "recompute", "compile", "num_threads", "profile_steps", "float8"}
    may_change |= {"eval_tasks", "eval_task_dir", "eval_limit", "eval_shots", "cuda_graphs"}
    assert set(train.TrainConfig.__annotations__) == may_change | set(resume.RESUME_FIXED)
