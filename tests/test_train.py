"""The training run against references: an uninterrupted run, one process for two, the formula of the schedule."""

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PYTHON, REPO, TINY, flags
from ranks import finished
from safetensors.torch import load_file

import atomic
import checkpoint
import configurator
import train
from mixture import Mixture
from sampler import permute
from shards import Shards, Windows

CONFIGS = sorted(path for path in (REPO / "config").glob("*.py") if not path.name.startswith("data_"))


def config(data_dir, out_dir, **changes) -> train.TrainConfig:
    """Tiny settings with some changed."""
    return train.TrainConfig(**{**TINY, "data": str(data_dir), "out_dir": str(out_dir), **changes})


def metrics(out_dir) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (Path(out_dir) / "metrics.jsonl").read_text().splitlines()]


def weights(out_dir) -> dict[str, torch.Tensor]:
    """The newest checkpoint's weights."""
    return load_file(checkpoint.resolve(out_dir) / "model.safetensors")


def interrupt_after(step, monkeypatch):
    """Ctrl-C during the update that makes step number `step`."""
    rate = train.learning_rate

    def hook(k, cfg):
        if k == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return rate(k, cfg)

    monkeypatch.setattr(train, "learning_rate", hook)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(data_dir, tmp_path, monkeypatch, dtype):
    """Twice: at a checkpoint, and off the checkpoint interval; with several windows in a step and over an epoch."""
    changes = {"dtype": dtype, "batch_tokens": 32 * 32, "max_iters": 60, "learning_rate": 1e-2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(config(data_dir, whole, **changes))
    assert 60 * 32 > len(Windows(Shards(data_dir, "train"), 32, 0)), "the run must pass an epoch's end"
    for stop_at in (10, 33):
        interrupt_after(stop_at, monkeypatch)
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {stop_at}, saved in .*parts/latest"):
            train.main(config(data_dir, parts, **changes))
        monkeypatch.undo()
        assert os.readlink(parts / "latest") == f"step_{stop_at:07d}"
    train.main(config(data_dir, parts, **changes))
    for name in ("latest/model.safetensors", "latest/training/optimizer.safetensors", "metrics.jsonl"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    a, b = (checkpoint.read_state(path / "latest") for path in (whole, parts))
    assert {**a, "settings": None} == {**b, "settings": None}


def test_killed_between_checkpoints_repeats_no_line(data_dir, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(config(data_dir, whole))

    def crash(step, cfg):
        if step == 14:
            raise RuntimeError("killed")
        return rate(step, cfg)

    rate = train.learning_rate
    monkeypatch.setattr(train, "learning_rate", crash)
    with pytest.raises(RuntimeError, match="killed"):
        train.main(config(data_dir, parts))
    monkeypatch.undo()
    assert metrics(parts)[-1]["step"] == 14
    train.main(config(data_dir, parts))
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    assert (whole / "latest/model.safetensors").read_bytes() == (parts / "latest/model.safetensors").read_bytes()


def test_accumulation_changes_nothing(data_dir, tmp_path):
    runs = {}
    for size in (8, 2, 1):
        train.main(config(data_dir, tmp_path / str(size), batch_size=size))
        runs[size] = weights(tmp_path / str(size))
    for size in (2, 1):
        for name, tensor in runs[size].items():
            assert (tensor - runs[8][name]).abs().max() < 1e-4 * runs[8][name].abs().max(), (size, name)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_logged_rate_is_the_formula_at_every_step(data_dir, tmp_path, schedule):
    cfg = config(data_dir, tmp_path, schedule=schedule, min_lr=3e-4, lr_decay_iters=16)
    train.main(cfg)
    rates = [row["lr"] for row in metrics(tmp_path) if "lr" in row]
    for step, rate in enumerate(rates):
        if step < 5:
            expected = 3e-3 * (step + 1) / 5
        else:
            x = min(1, (step - 5) / 11)
            shape = 1 - x if schedule == "linear" else (1 + math.cos(math.pi * x)) / 2
            expected = 3e-4 + (3e-3 - 3e-4) * shape
        assert rate == pytest.approx(expected), step
    assert len(rates) == 20


def test_batches_follow_the_permutation_whatever_the_split(data_dir):
    """Global position g is window permute(g % n) of epoch g // n; accumulation and ranks only cut the sequence."""
    cfg = config(data_dir, "unused", batch_size=4)
    windows = Windows(Shards(data_dir, "train"), cfg.block_size, cfg.seed)
    n = len(windows)
    positions = np.arange(n - 2, n + 2)  # the batch crosses the end of the first epoch
    batch = Mixture(cfg.data, cfg.block_size, cfg.seed).batch(positions)
    for row, g in enumerate(positions.tolist()):
        index = np.array([permute(g % n, n, cfg.seed, g // n)])
        tokens = windows.get(index, np.array([g // n]))[0]
        assert batch.inputs[row].tolist() == tokens[:-1].tolist()
        assert batch.targets[row].tolist() == tokens[1:].tolist()
    assert batch.count == 4 * cfg.block_size


def test_evaluation_is_the_mean_over_every_target_of_the_split(data_dir, run_dir):
    model = checkpoint.load_model(checkpoint.resolve(run_dir))
    shards = Shards(data_dir, "val")
    nats = []
    for shard, size in enumerate(shards.sizes.tolist()):
        tokens = torch.from_numpy(shards.read(shard, 0, size).astype(np.int64))
        for start in range(0, size - 1, 32):
            part = tokens[start : start + 33]
            nats += F.cross_entropy(model(part[None, :-1])[0], part[1:], reduction="none").tolist()
    assert len(nats) == shards.tokens - len(shards.sizes)

    mean = sum(nats) / len(nats)
    assert metrics(run_dir)[-1]["val_loss"] == pytest.approx(mean, rel=1e-6)
    bits = mean / math.log(2) * shards.tokens / shards.bytes
    assert metrics(run_dir)[-1]["val_bits_per_byte"] == pytest.approx(bits, rel=1e-6)


def test_loss_falls_and_the_run_leaves_what_it_promises(run_dir, capsys, data_dir):
    rows = metrics(run_dir)
    assert rows[0]["val_loss"] > rows[-1]["val_loss"] + 0.1
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 10, 20]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))
    speed = [json.loads(line) for line in (run_dir / "speed.jsonl").read_text().splitlines()]
    assert all(row["tokens_per_s"] > 0 for row in speed) and len(speed) == 20
    saved = json.loads((run_dir / "settings.json").read_text())
    assert saved == dataclasses.asdict(config(data_dir, run_dir))
    assert (run_dir / "loss.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != "loss.png"}
    capsys.readouterr()
    train.main(config(data_dir, run_dir))
    shown = capsys.readouterr().out
    assert "has had its 20 steps" in shown and "bits per byte" in shown and "the " in shown
    after = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != "loss.png"}
    assert {k: v for k, v in before.items() if k.is_file()} == {k: v for k, v in after.items() if k.is_file()}


def test_compiled_and_plain_checkpoints_have_the_same_names(data_dir, run_dir, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs g++")
    train.main(config(data_dir, tmp_path, compile=True, max_iters=3))
    assert weights(tmp_path).keys() == weights(run_dir).keys()
    losses = [[row["loss"] for row in metrics(path) if "loss" in row][:3] for path in (tmp_path, run_dir)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_starts(path, data_dir, tmp_path):
    small = {"max_iters": 2, "n_layer": 1, "batch_tokens": 64, "block_size": 32, "batch_size": 2, "eval_interval": 2}
    arguments = [str(path), *flags(small | {"data": data_dir, "out_dir": tmp_path, "num_threads": 1})]
    cfg, origins = configurator.load(train.TrainConfig, arguments)
    train.main(cfg)
    assert metrics(tmp_path)[-1]["step"] == 2
    assert any(str(path) in origin for origin in origins.values())


def test_wandb_offline_needs_no_account(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train.main(config(data_dir, tmp_path, max_iters=2, wandb=True))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 100}, r"batch_tokens \(100\) must be .*block_size x processes \(32 x 1\); .*tokens=96"),
        ({"batch_size": 3}, r"batch_size \(3\) must divide a process. 8 windows; try --batch_size=2"),
        ({"n_head": 5}, r"n_embd \(32\) must be n_head \(5\)"),
        (
            {"block_size": 100_000, "batch_tokens": 100_000, "batch_size": 1},
            "too few for one window of block_size 100000",
        ),
        ({"learning_rate": -1.0}, r"learning_rate \(-1.0\) must be at least 0"),
        ({"learning_rate": math.nan}, r"learning_rate \(nan\) must be at least 0"),
        ({"optimizer": "muon", "parallel": "fsdp"}, "optimizer=muon needs whole matrices, fsdp divides them"),
        ({"optimizer": "muon", "learning_rate": 0.0}, "learning_rate, which must be above 0"),
        ({"resume_from": "nowhere"}, "nowhere holds no checkpoint"),
        ({"max_iters": 0}, r"max_iters \(0\) must be at least 1"),
        ({"device": "tpu"}, "--device=tpu cannot be used here"),
        ({"data": "nowhere/at/all"}, "nowhere/at/all has no meta.json; make it with: python prepare_wiki.py"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(data_dir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train.main(config(data_dir, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_step_that_processes_cannot_share_is_refused(data_dir):
    cfg = config(data_dir, "unused")
    with pytest.raises(ValueError, match=r"\(256\) must be .* \(32 x 3\); try --batch_tokens=288"):
        train.micro_steps(cfg, 3)
    assert [train.micro_steps(dataclasses.replace(cfg, batch_size=2), world) for world in (1, 2, 4)] == [4, 2, 1]


def test_unfinished_data_and_mistakes_are_one_line_on_the_command_line(data_dir, tmp_path):
    unfinished = shutil.copytree(data_dir, tmp_path / "data")
    (unfinished / "meta.json").unlink()
    for args, message in (
        ([f"--data={unfinished}"], "its preparation is unfinished; complete it with: python"),
        (["--learning_rte=1"], "unknown key 'learning_rte'; did you mean 'learning_rate'?"),
    ):
        command = [PYTHON, "train.py", f"--out_dir={tmp_path / 'out'}", *args]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


def test_contradicting_settings_are_refused_by_name(data_dir, run_dir, tmp_path):
    for key, value in (("n_layer", 3), ("seed", 1), ("batch_tokens", 512), ("block_size", 16)):
        with pytest.raises(ValueError, match=f"has {key}={TINY.get(key, 1337)} but the settings say {value}"):
            train.main(config(data_dir, run_dir, max_iters=30, **{key: value}))


def test_a_loss_that_is_no_number_stops_the_run(data_dir, tmp_path):
    message = r"3 steps in a row were skipped .*; at step 4 the loss is .* and the gradient.s norm nan; lower "
    with pytest.raises(ValueError, match=message):
        train.main(config(data_dir, tmp_path, learning_rate=1e30, warmup_iters=0, grad_clip=0.0, max_skipped=3))


def test_ctrl_c_is_one_line_and_the_same_command_continues(data_dir, tmp_path):
    """The real script and a real signal."""
    command = [PYTHON, "train.py", *flags(TINY | {"data": data_dir, "out_dir": tmp_path, "max_iters": 100_000})]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "step     12 | loss" in line:
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(errors.strip().splitlines()) == 1 and "the same command continues" in errors
    assert checkpoint.read_state(tmp_path / "latest")["step"] >= 12


def test_every_config_starts_on_two_processes(data_dir, tmp_path):
    small = {"max_iters": 2, "n_layer": 1, "batch_tokens": 64, "block_size": 32, "batch_size": 1, "eval_interval": 2}
    small |= {"data": str(data_dir), "num_threads": 1, "dtype": "float32"}
    for path in CONFIGS:
        cfg, _ = configurator.load(train.TrainConfig, [str(path), *flags(small | {"out_dir": tmp_path / path.stem})])
        finished(2, dataclasses.asdict(cfg))
        assert metrics(tmp_path / path.stem)[-1]["step"] == 2


def test_the_last_steps_can_be_tried_from_any_checkpoint(data_dir, tmp_path):
    """wsd: a run's decay from step 10 in a folder of its own equals the run that had been planned so."""
    wsd = {"schedule": "wsd", "decay_iters": 5, "keep_checkpoints": 9}
    train.main(config(data_dir, tmp_path / "long", **wsd, max_iters=30))
    train.main(config(data_dir, tmp_path / "planned", **wsd, max_iters=15))
    origin = str(tmp_path / "long/step_0000010")
    for steps in (13, 15):  # interrupted, too: from then on the new folder's own checkpoint counts
        changes = {"max_iters": steps, "lr_decay_iters": 15, "resume_from": origin}
        train.main(config(data_dir, tmp_path / "tried", **wsd | changes))
    tried, planned = weights(tmp_path / "tried"), weights(tmp_path / "planned")
    assert all(torch.equal(tried[name], planned[name]) for name in planned)
    assert [row["step"] for row in metrics(tmp_path / "tried") if "loss" in row] == [11, 12, 13, 14, 15]
    assert checkpoint.read_state(tmp_path / "long/latest")["step"] == 30


def test_a_checkpoint_after_so_many_minutes(data_dir, tmp_path, monkeypatch):
    clock, monotonic = iter(range(1 << 40)), train.time.monotonic
    monkeypatch.setattr(train.time, "monotonic", lambda: monotonic() + 25 * next(clock))  # a call takes 25 s more
    changes = {"checkpoint_interval": 1000, "keep_checkpoints": 99, "checkpoint_minutes": 2.0}
    train.main(config(data_dir, tmp_path, **changes))
    found = [int(path.name[5:]) for path in sorted(tmp_path.glob("step_*"))]
    assert len(found) >= 3 and found[-1] == 20 and len(set(np.diff(found[:-1]))) == 1


def test_text_and_plot_appear_at_each_evaluation(data_dir, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(train.journal, "plot", lambda *args: drawn.append(args))
    train.main(config(data_dir, tmp_path, sample_prompt="the du"))
    assert len(drawn) == 3 and capsys.readouterr().out.count("the du") >= 3


def test_a_full_memory_is_told_what_to_change(data_dir, tmp_path, monkeypatch):
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: you tried")):

        def full(*args, error=error):
            raise error

        monkeypatch.setattr(train.Llama, "forward", full)
        changes = {"eval_interval": 7, "checkpoint_interval": 7}
        monkeypatch.setattr(train, "evaluate", lambda *args: 1.0)
        monkeypatch.setattr(train, "continuation", lambda *args: "")
        with pytest.raises(ValueError, match=r"out of memory: .*; lower --batch_size \(8; .*recompute=True"):
            train.main(config(data_dir, tmp_path, **changes))


def test_recomputed_blocks_train_the_same(data_dir, run_dir, tmp_path):
    train.main(config(data_dir, tmp_path, recompute=True))
    a, b = weights(tmp_path), weights(run_dir)
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in b)


def test_another_number_of_threads_is_noted(data_dir, tmp_path, capsys):
    train.main(config(data_dir, tmp_path, max_iters=2))
    train.main(config(data_dir, tmp_path, max_iters=4, num_threads=2))
    assert "note: it ran with --num_threads=1; the last bits" in capsys.readouterr().out
    torch.set_num_threads(1)


WEIGHED_TRAIN = """
import json, sys
import psutil, train

process, seen, log = psutil.Process(), {}, train.journal.Journal.log

def weighed(self, metrics, speed=None):
    seen[metrics["step"]] = process.memory_info().rss
    return log(self, metrics, speed)

train.journal.Journal.log = weighed
train.main(train.TrainConfig(**json.loads(sys.argv[1])))
print(json.dumps(seen))
"""


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}])
def test_memory_stays_flat_over_2000_steps(changes, data_dir, tmp_path):
    """Between step 300 and step 2000 a process grows by less than 4 MB; a float64 window kept a step would be 8."""
    steps = 2000 if not changes else 600  # Muon takes ten times as long
    settings = TINY | {"data": str(data_dir), "out_dir": str(tmp_path), "max_iters": steps, "log_interval": 100}
    settings |= {"eval_interval": 10**6, "checkpoint_interval": 10**6} | changes
    command = [PYTHON, "-c", WEIGHED_TRAIN, json.dumps(settings)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen[str(steps)] - seen["300"] < 4e6, seen


def test_the_share_of_the_peak_is_shown_where_the_device_is_known(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "peak_flops", lambda device: 1e12)
    train.main(config(data_dir, tmp_path, dtype="bfloat16", max_iters=2))
    row = json.loads((tmp_path / "speed.jsonl").read_text().splitlines()[-1])
    flops = checkpoint.load_model(tmp_path / "latest").flops_per_token(32)
    assert row["mfu"] == pytest.approx(row["tokens_per_s"] * flops / 1e12, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("Tesla K80", None),
    ],
)
def test_peaks_go_by_the_name_of_the_device(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert train.peak_flops(torch.device("cuda")) == peak and train.peak_flops(torch.device("cpu")) is None


def test_two_runs_in_one_folder_do_not_mix(data_dir, run_dir, tmp_path, monkeypatch):
    """The second waits, then says why it does not begin; where a folder is new, too."""
    monkeypatch.setattr(train, "LOCK_WAIT_S", 0.2)
    with atomic.lock(run_dir, 0), pytest.raises(ValueError, match=f"another process is writing to {run_dir}"):
        train.main(config(data_dir, run_dir, max_iters=30))
    before = (run_dir / "latest").resolve()
    train.main(config(data_dir, run_dir))
    assert (run_dir / "latest").resolve() == before
    (tmp_path / "new").mkdir()
    with atomic.lock(tmp_path / "new", 0), pytest.raises(ValueError, match="another process is writing to"):
        train.main(config(data_dir, tmp_path / "new"))
