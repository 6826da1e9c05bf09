"""The training loop against references: an uninterrupted run, the slow way to the validation loss, the schedule."""

import dataclasses
import gc
import inspect
import json
import math
import os
import re
import shutil
import signal
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PYTHON, REPO, TINY, flags
from ranks import Launch, finished, start
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3ForCausalLM

import checkpoint
import configurator
import journal
import loss_scale
import mixture
import prepare_wiki
import sample
import train
from batches import Batch, ReadAhead
from mixture import Mixture, TextCorpus
from model import Llama
from sampler import permute
from shards import Shards, Windows

CONFIGS = [path for path in sorted((REPO / "config").glob("*.py")) if not path.stem.startswith(("data_", "chat_"))]


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """loss.png is drawn in test_journal.py; a run of 20 steps takes half the time without."""
    monkeypatch.setattr(journal, "plot", lambda out_dir, *rest: (Path(out_dir) / "loss.png").write_bytes(b""))


def config(data_dir, out_dir, **changes) -> train.TrainConfig:
    """Tiny settings with some changed."""
    return train.TrainConfig(**{**TINY, "data": str(data_dir), "out_dir": str(out_dir), **changes})


def metrics(out_dir) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (Path(out_dir) / "metrics.jsonl").read_text().splitlines()]


def weights(out_dir) -> dict[str, Tensor]:
    """The newest checkpoint's weights."""
    return load_file(checkpoint.resolve(out_dir) / "model.safetensors")


def same_weights(a, b) -> bool:
    """Whether the newest checkpoints of two runs have the same weights, bit for bit."""
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def during_step(step: int, action: Callable[[], None], monkeypatch) -> None:
    """Call `action` in the update that makes step number `step`, and in each one after it."""
    rate = train.learning_rate

    def hook(taken, cfg):
        if taken >= step - 1:
            action()
        return rate(taken, cfg)

    monkeypatch.setattr(train, "learning_rate", hook)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


# --- resumed runs ---


@pytest.fixture
def quick_loss_scale():
    """In float16 the first steps are skipped, and the factor of the loss grows every third step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "FIRST", 2.0**24)
        patch.setattr(loss_scale, "GROWTH_STEPS", 3)
        yield


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({"batch_tokens": 32 * 32, "max_iters": 42, "learning_rate": 1e-2}, (10, 33)),
        ({"optimizer": "muon", "dtype": "bfloat16", "max_iters": 12}, (6,)),
        ({"dtype": "float16", "max_iters": 16}, (5, 9)),
    ],
    ids=["over an epoch's end", "muon", "float16"],
)
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    data_dir, tmp_path, monkeypatch, quick_loss_scale, changes, stops
):
    """At a checkpoint, and off the checkpoint interval; with several micro-batches in a step."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(config(data_dir, whole, **changes))
    assert 42 * 32 > len(Windows(Shards(data_dir, "train"), 32, 0)), "the first run must pass an epoch's end"

    for stop_at in stops:
        during_step(stop_at, press_ctrl_c, monkeypatch)
        with pytest.raises(KeyboardInterrupt, match=f"stopped at step {stop_at}, saved in .*parts/latest"):
            train.main(config(data_dir, parts, **changes))
        monkeypatch.undo()
        assert os.readlink(parts / "latest") == f"step_{stop_at:07d}"
    train.main(config(data_dir, parts, **changes))

    for name in ("latest/model.safetensors", "latest/training/optimizer.safetensors", "metrics.jsonl"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    a, b = (checkpoint.read_state(path / "latest") for path in (whole, parts))
    assert {**a, "settings": None} == {**b, "settings": None}


def test_a_run_with_qk_norm_is_a_qwen3_to_transformers_and_goes_on(data_dir, tmp_path):
    """Fine-tuned on, it resumes from checkpoints older than the setting, whose settings do not name it."""
    out, tuned = tmp_path / "out", tmp_path / "tuned"
    train.main(config(data_dir, out, qk_norm=True, optimizer="muon", max_iters=4))
    theirs, info = Qwen3ForCausalLM.from_pretrained(out / "latest", output_loading_info=True)
    assert not any(info.values())
    ids = torch.randint(0, 300, (2, 32))
    ours = checkpoint.load_model(checkpoint.resolve(out))
    assert {"q_norm", "k_norm"} < {name.split(".")[-2] for name, _ in ours.named_parameters()}
    torch.testing.assert_close(ours(ids), theirs(ids).logits)

    with pytest.raises(ValueError, match="has qk_norm=True but the settings say False; give --qk_norm=True to resume"):
        train.main(config(data_dir, out, optimizer="muon", max_iters=6))

    train.main(config(data_dir, tuned, init_from=str(out), max_iters=2))
    path = checkpoint.resolve(tuned) / "training/state.json"
    state = json.loads(path.read_text())
    assert state["settings"].pop("qk_norm")
    path.write_text(json.dumps(state))
    train.main(config(data_dir, tuned, init_from=str(out), max_iters=3))


def test_killed_between_checkpoints_repeats_no_line(data_dir, run_dir, tmp_path, monkeypatch):
    def crash():
        raise RuntimeError("killed")

    during_step(15, crash, monkeypatch)
    with pytest.raises(RuntimeError, match="killed"):
        train.main(config(data_dir, tmp_path))
    monkeypatch.undo()
    assert metrics(tmp_path)[-1]["step"] == 14
    train.main(config(data_dir, tmp_path))
    assert (run_dir / "metrics.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()
    assert same_weights(run_dir, tmp_path)


def test_the_best_checkpoint_of_all_is_kept_over_a_restart(data_dir, tmp_path, monkeypatch):
    """Stopped at step 15, between two evaluations, the second of which finds a higher loss than the first."""
    losses = {0: 5.0, 10: 3.0, 20: 4.0}
    with monkeypatch.context() as patch:
        patch.setattr(train, "mean_loss", lambda run, corpus: losses[run.state.step])
        during_step(15, press_ctrl_c, patch)
        with pytest.raises(KeyboardInterrupt):
            train.main(config(data_dir, tmp_path, keep_checkpoints=1))
    monkeypatch.setattr(train, "mean_loss", lambda run, corpus: losses[run.state.step])
    train.main(config(data_dir, tmp_path, keep_checkpoints=1))
    assert os.readlink(tmp_path / "best") == "step_0000010"
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_0000010", "step_0000020"]


def test_the_last_steps_can_be_tried_from_any_checkpoint(data_dir, tmp_path):
    """wsd: a run's decay from step 10 in a folder of its own equals the run that had been planned so."""
    wsd = {"schedule": "wsd", "decay_iters": 5, "keep_checkpoints": 9}
    train.main(config(data_dir, tmp_path / "long", **wsd, max_iters=30))
    train.main(config(data_dir, tmp_path / "planned", **wsd, max_iters=15))
    origin = str(tmp_path / "long/step_0000010")
    for steps in (13, 15):  # interrupted, too: from then on the new folder's own checkpoint counts
        changes = {"max_iters": steps, "lr_decay_iters": 15, "resume_from": origin}
        train.main(config(data_dir, tmp_path / "tried", **wsd | changes))
    assert same_weights(tmp_path / "tried", tmp_path / "planned")
    assert [row["step"] for row in metrics(tmp_path / "tried") if "loss" in row] == [11, 12, 13, 14, 15]
    assert checkpoint.read_state(tmp_path / "long/latest")["step"] == 30


# --- stopping ---


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


def test_a_second_ctrl_c_acts_at_once(data_dir, tmp_path, monkeypatch):
    def press_twice():
        press_ctrl_c()
        press_ctrl_c()

    before = signal.getsignal(signal.SIGINT)
    during_step(3, press_twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt) as interrupt:
        train.main(config(data_dir, tmp_path))
    assert "stopped at step" not in str(interrupt.value)
    assert not (tmp_path / "latest").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_stops_when_another_process_was_asked_to(data_dir, tmp_path, monkeypatch):
    """Its signal is the first of the two numbers that the processes sum at each step boundary."""

    class OtherIsAsked(train.World):
        boundaries = 0

        def sum_numbers(self, *numbers):
            if len(numbers) == 2:
                self.boundaries += 1
                if self.boundaries == 4:
                    return [1.0, 0.0]
            return super().sum_numbers(*numbers)

    monkeypatch.setattr(train, "World", OtherIsAsked)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3, saved in"):
        train.main(config(data_dir, tmp_path))
    assert checkpoint.read_state(tmp_path / "latest")["step"] == 3


def test_ctrl_c_in_the_first_evaluation_loses_no_line(data_dir, run_dir, tmp_path, monkeypatch):
    val_batches = TextCorpus.val_batches

    def interrupted(self, *args):
        press_ctrl_c()
        return val_batches(self, *args)

    monkeypatch.setattr(TextCorpus, "val_batches", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 0, saved in"):
        train.main(config(data_dir, tmp_path))
    monkeypatch.undo()
    train.main(config(data_dir, tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (run_dir / "metrics.jsonl").read_bytes()


def test_a_run_that_ends_where_it_was_stopped_shows_the_loss_of_that_step(data_dir, tmp_path, monkeypatch, capsys):
    """Stopped at step 15, evaluated at step 10; then 15 becomes the last step."""
    settings = {"lr_decay_iters": 20, "max_iters": 16}
    train.main(config(data_dir, tmp_path / "often", **settings, eval_interval=5))
    wanted = {row["step"]: row["val_loss"] for row in metrics(tmp_path / "often") if "val_loss" in row}

    during_step(15, press_ctrl_c, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.main(config(data_dir, tmp_path / "rarely", **settings))
    monkeypatch.undo()
    capsys.readouterr()
    train.main(config(data_dir, tmp_path / "rarely", **settings | {"max_iters": 15}))
    shown = capsys.readouterr().out
    assert f"step 15: validation loss {wanted[15]:.4f} nats" in shown
    assert f"{wanted[10]:.4f}" not in shown


# --- one step ---


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


def test_logged_rate_is_the_formula_at_every_step(data_dir, tmp_path):
    cfg = config(data_dir, tmp_path, schedule="cosine", min_lr=3e-4, lr_decay_iters=16)
    train.main(cfg)
    rates = [row["lr"] for row in metrics(tmp_path) if "lr" in row]
    assert len(rates) == 20
    for step, rate in enumerate(rates):
        expected = 3e-3 * (step + 1) / 5
        if step >= 5:
            done = min(1, (step - 5) / 11)
            expected = 3e-4 + (3e-3 - 3e-4) * (1 + math.cos(math.pi * done)) / 2
        assert rate == pytest.approx(expected), step


def test_grad_clip_0_does_not_clip(data_dir, tmp_path):
    for name, limit in (("never", 0.0), ("high", 1e9), ("low", 1e-3)):
        train.main(config(data_dir, tmp_path / name, grad_clip=limit, max_iters=3))
    assert same_weights(tmp_path / "never", tmp_path / "high")
    assert not same_weights(tmp_path / "never", tmp_path / "low")


def test_recomputed_blocks_train_the_same(data_dir, run_dir, tmp_path):
    train.main(config(data_dir, tmp_path, recompute=True))
    a, b = weights(tmp_path), weights(run_dir)
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in b)


@pytest.mark.slow
def test_compiled_and_plain_checkpoints_have_the_same_names(data_dir, run_dir, tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile on a CPU needs g++")
    train.main(config(data_dir, tmp_path, compile=True, max_iters=3))
    assert weights(tmp_path).keys() == weights(run_dir).keys()
    losses = [[row["loss"] for row in metrics(path) if "loss" in row][:3] for path in (tmp_path, run_dir)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)


def test_nothing_is_kept_of_a_step(data_dir, tmp_path, monkeypatch):
    """After step 20 and after step 40 there are as many tensors, and the windows of no step are held."""
    seen, log = {}, journal.Journal.log

    def note(self, row, speed=None):
        gc.collect()
        tensors = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
        seen[row["step"]] = tensors, tracemalloc.get_traced_memory()[0]
        return log(self, row, speed)

    take = ReadAhead.take

    def take_and_wait(self, step):
        batches = take(self, step)
        if self.coming is not None:
            self.coming[1].result()  # so that what the thread holds is the same each time
        return batches

    monkeypatch.setattr(journal.Journal, "log", note)
    monkeypatch.setattr(ReadAhead, "take", take_and_wait)
    changes = {"eval_interval": 1000, "checkpoint_interval": 1000, "log_interval": 20, "max_iters": 60}
    changes |= {"block_size": 128, "batch_tokens": 8 * 128}  # windows that are large beside what a log line leaves
    tracemalloc.start()
    train.main(config(data_dir, tmp_path, **changes))
    tracemalloc.stop()
    assert seen[40][0] == seen[20][0]
    step_bytes = 8 * 129 * 8  # of the windows of a step, int64
    assert seen[40][1] - seen[20][1] < 10 * step_bytes, "of 20 steps"


# --- objectives and kinds of batch ---


@dataclasses.dataclass(frozen=True)
class PairBatch(Batch):
    """Texts of which the model shall find the first likelier than the second."""

    chosen: Tensor  # (B, T + 1) ids
    rejected: Tensor  # (B, T + 1) ids, the same backwards


@dataclasses.dataclass(frozen=True)
class PairRows:
    """Windows of text, each to be paired with itself read backwards."""

    tokens: np.ndarray  # (B, T + 1)

    def batch(self) -> PairBatch:
        tokens = torch.from_numpy(self.tokens)
        return PairBatch(len(tokens), tokens, tokens.flip(1))


class PairCorpus(TextCorpus):
    """A corpus of another kind."""

    rows_class = PairRows

    def rows(self, indices, epochs):
        return PairRows(self.windows.get(indices, epochs))

    def val_batches(self, batch_size, rank, world_size):
        for inputs, _ in self.val.batches(batch_size, rank, world_size):
            yield PairRows(inputs).batch()


def log_likelihood(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Of each row: (B, T + 1) ids -> (B,) nats."""
    logits = model(tokens[:, :-1])
    nats = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return -nats.sum(1)


def pair_loss(model: torch.nn.Module, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """-log sigmoid(margin), summed over the pairs; the figures are sums as well."""
    margins = log_likelihood(model, batch.chosen) - log_likelihood(model, batch.rejected)
    figures = {"accuracy": (margins > 0).float().sum(), "margin": margins.sum()}
    return -F.logsigmoid(margins).sum(), figures


@pytest.fixture
def pairs_dir(data_dir, tmp_path) -> Path:
    """The data folder, with a meta.json that says that it holds pairs."""
    data = Path(shutil.copytree(data_dir, tmp_path / "data"))
    meta = json.loads((data / "meta.json").read_text())
    (data / "meta.json").write_text(json.dumps(meta | {"kind": "pairs"}))
    return data


def test_another_objective_on_another_kind_of_batch_runs_through_the_same_loop(
    pairs_dir, tmp_path, monkeypatch, capsys
):
    """One micro-batch a step and four: the same weights and figures. The first step's are those of all its pairs."""
    monkeypatch.setitem(train.OBJECTIVES, "pairs", pair_loss)
    monkeypatch.setitem(mixture.CORPUS_KINDS, "pairs", PairCorpus)
    changes = {"objective": "pairs", "max_iters": 12}
    for size in (8, 2):
        train.main(config(pairs_dir, tmp_path / str(size), batch_size=size, **changes))
    ones, fours = weights(tmp_path / "8"), weights(tmp_path / "2")
    for name, tensor in ones.items():
        # as a whole: AdamW can move one weight whose gradient is almost nothing by a step in either direction
        assert (tensor - fours[name]).norm() < 1e-5 * tensor.norm(), name

    rows, others = ([row for row in metrics(tmp_path / size) if "loss" in row] for size in ("8", "2"))
    for row, other in zip(rows, others, strict=True):
        for key in ("loss", "accuracy", "margin", "grad_norm"):
            assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-4), (row["step"], key)
    assert rows[-1]["accuracy"] > rows[0]["accuracy"], "it learns"
    assert "| accuracy " in capsys.readouterr().out

    cfg = config(pairs_dir, "unused")
    torch.manual_seed(cfg.seed)
    model = Llama(checkpoint.read_config(tmp_path / "8/latest"))
    with torch.no_grad():
        torch.manual_seed(cfg.seed)
        for parameter, value in model.initial_weights():
            parameter.copy_(value)
        loss, figures = pair_loss(model, Mixture(cfg.data, cfg.block_size, cfg.seed).batch(np.arange(8)))
    assert rows[0]["loss"] == pytest.approx(loss.item() / 8, rel=1e-4)
    assert rows[0]["margin"] == pytest.approx(figures["margin"].item() / 8, rel=1e-3, abs=1e-4)

    with pytest.raises(ValueError, match="has objective=pairs but the settings say next_token"):
        train.main(config(pairs_dir, tmp_path / "8", **changes | {"objective": "next_token", "max_iters": 20}))


def train_on_pairs(settings: dict) -> None:
    """A run on pairs, as a rank of a launch."""
    train.OBJECTIVES["pairs"] = pair_loss
    mixture.CORPUS_KINDS["pairs"] = PairCorpus
    train.main(train.TrainConfig(**settings))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_another_objective_runs_on_two_processes(pairs_dir, tmp_path, mode):
    """It calls the model twice in a step; losses, figures and gradients are those of one process."""
    settings = TINY | {"data": str(pairs_dir), "objective": "pairs", "max_iters": 12}
    for processes, batch_size in ((0, 8), (2, 2)):
        changes = {"out_dir": f"{tmp_path}/{processes}", "batch_size": batch_size, "parallel": mode}
        done = Launch(processes, train_on_pairs, settings | changes).wait()
        assert done.returncode == 0, done.stderr[-3000:]
    two, one = ([row for row in metrics(tmp_path / name) if "loss" in row] for name in ("2", "0"))
    for row, wanted in zip(two, one, strict=True):
        assert row == pytest.approx(wanted, rel=1e-3, abs=1e-4)


# --- evaluation, log lines, checkpoints ---


def test_evaluation_is_the_mean_over_every_target_of_the_split(data_dir, run_dir):
    model = checkpoint.load_model(checkpoint.resolve(run_dir))
    shards = Shards(data_dir, "val")
    nats = []
    for shard, size in enumerate(shards.sizes.tolist()):
        tokens = torch.from_numpy(shards.read(shard, 0, size).astype(np.int64))
        for begin in range(0, size - 1, 32):
            part = tokens[begin : begin + 33]
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
    assert (run_dir / "loss.png").is_file()

    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != "loss.png"}
    capsys.readouterr()
    train.main(config(data_dir, run_dir))
    shown = capsys.readouterr().out
    assert "has had its 20 steps" in shown and "bits per byte" in shown and "the " in shown
    after = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != "loss.png"}
    assert {k: v for k, v in before.items() if k.is_file()} == {k: v for k, v in after.items() if k.is_file()}


def test_text_and_plot_appear_at_each_evaluation(data_dir, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(journal, "plot", lambda *args: drawn.append(args))
    train.main(config(data_dir, tmp_path, sample_prompt="the du"))
    assert len(drawn) == 3 and capsys.readouterr().out.count("the du") >= 3


def test_the_speed_leaves_out_evaluations_and_checkpoints(data_dir, tmp_path, monkeypatch):
    """By a clock of its own: 2 s a step, 100 s an evaluation, 1000 s a checkpoint."""
    clock = [0.0]
    monkeypatch.setattr(train.time, "perf_counter", lambda: clock[0])

    def taking(seconds, function):
        def slow(*args, **kwargs):
            clock[0] += seconds
            return function(*args, **kwargs)

        return slow

    monkeypatch.setattr(train, "learning_rate", taking(2, train.learning_rate))
    monkeypatch.setattr(train, "validation_scores", taking(100, train.validation_scores))
    monkeypatch.setattr(checkpoint, "save", taking(1000, checkpoint.save))
    train.main(config(data_dir, tmp_path, log_interval=3, eval_interval=2, checkpoint_interval=5))
    rows = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15, 18, 20]
    assert {row["dt_ms"] for row in rows} == {2000.0}
    assert {row["tokens_per_s"] for row in rows} == {128.0}


def test_a_checkpoint_after_so_many_minutes(data_dir, tmp_path, monkeypatch):
    """Steps of 30 s, and 2 minutes: every fourth step, counted from the last checkpoint."""
    clock = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])

    def step_takes_30_s():
        clock[0] += 30

    during_step(1, step_takes_30_s, monkeypatch)
    changes = {"checkpoint_interval": 10, "keep_checkpoints": 99, "checkpoint_minutes": 2.0}
    train.main(config(data_dir, tmp_path, **changes))
    steps = [int(path.name.removeprefix("step_")) for path in sorted(tmp_path.glob("step_*"))]
    assert steps == [4, 8, 10, 14, 18, 20]


def test_wandb_offline_needs_no_account(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train.main(config(data_dir, tmp_path, max_iters=2, wandb=True))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_the_share_of_the_peak_is_shown_where_the_device_is_known(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "peak_flops", lambda device: 1e12)
    train.main(config(data_dir, tmp_path, dtype="bfloat16", max_iters=2))
    row = json.loads((tmp_path / "speed.jsonl").read_text().splitlines()[-1])
    flops = checkpoint.load_model(tmp_path / "latest").flops_per_token(32)
    assert row["mfu"] == pytest.approx(row["tokens_per_s"] * flops / 1e12, rel=1e-4)


# --- NaN, infinity, full memory, full disk ---


def test_weights_that_are_too_large_end_in_one_line(data_dir, tmp_path, capsys):
    """The loss of step 2 and on, and of the evaluation at step 10, is NaN; there is no text to sample."""
    message = r"10 steps in a row were skipped .*; at step 11 the loss is .* and the gradient.s norm nan; lower "
    with pytest.raises(ValueError, match=message) as error:
        train.main(config(data_dir, tmp_path, learning_rate=1e10, warmup_iters=1))
    shown = capsys.readouterr().out
    assert "(no text: the validation loss is " in shown
    assert "the newest checkpoint is" in str(error.value) and "its loss is NaN or infinite as well" in str(error.value)

    with pytest.raises(ValueError, match=r"3 steps in a row were skipped .*; there is no checkpoint yet"):
        train.main(config(data_dir, tmp_path / "soon", learning_rate=1e30, warmup_iters=0, max_skipped=3))


def test_text_that_cannot_be_sampled_does_not_end_the_run(data_dir, tmp_path, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise ValueError("the logits are NaN")
        yield

    monkeypatch.setattr(train, "generate", broken)
    train.main(config(data_dir, tmp_path, max_iters=2))
    assert capsys.readouterr().out.count("(no text: the logits are NaN)") == 2


def test_a_broken_run_keeps_its_last_good_checkpoint(data_dir, tmp_path, monkeypatch):
    """From step 13 on each update is far too large; of the checkpoints after that none pushes out step 12's."""
    rate = train.learning_rate
    monkeypatch.setattr(train, "learning_rate", lambda step, cfg: rate(step, cfg) if step < 12 else 1e10)
    changes = {"checkpoint_interval": 2, "keep_checkpoints": 1, "max_iters": 40, "eval_interval": 100}
    with pytest.raises(ValueError, match="10 steps in a row were skipped") as error:
        train.main(config(data_dir, tmp_path, **changes))
    good = tmp_path / "step_0000012"
    assert f"the newest checkpoint is {tmp_path}/latest, the newest with a finite loss is {good}" in str(error.value)
    monkeypatch.undo()
    train.main(config(data_dir, tmp_path / "again", resume_from=str(good)))
    assert math.isfinite(metrics(tmp_path / "again")[-1]["val_loss"])


def test_a_checkpoint_that_could_not_be_loaded_is_not_written(data_dir, tmp_path, monkeypatch):
    """A weight that no token uses is infinite: the loss does not show it."""
    step = train.Optimizer.step

    def overflowing(self, *args):
        step(self, *args)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.shape == (320, 32):
                parameter.data[-1] = math.inf
                break

    train.main(config(data_dir, tmp_path, max_iters=2, tie_embeddings=False))
    monkeypatch.setattr(train.Optimizer, "step", overflowing)
    with pytest.raises(ValueError, match="at step 4 a weight is NaN or infinite, so no checkpoint is written") as error:
        train.main(config(data_dir, tmp_path, max_iters=4, tie_embeddings=False))
    assert f"the newest checkpoint is {tmp_path}/latest" in str(error.value)
    assert os.readlink(tmp_path / "latest") == "step_0000002"


def test_a_full_memory_is_told_what_to_change(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "evaluate", lambda *args: None)
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: you tried")):

        def full(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(train.Llama, "forward", full)
        with pytest.raises(ValueError, match=r"out of memory: .*; lower --batch_size \(8; .*recompute=True"):
            train.main(config(data_dir, tmp_path, checkpoint_interval=7))


def test_a_disk_that_is_full_at_a_log_line_is_one_line_for_all_processes(data_dir, tmp_path):
    settings = TINY | {"data": data_dir, "batch_size": 4, "out_dir": tmp_path}
    done = start(2, settings, {"full_disk": {"point": "append", "count": 7}}).wait()
    assert done.returncode
    assert done.stderr.splitlines() == ["error: [Errno 28] No space left on device"]


# --- settings ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 100}, r"batch_tokens \(100\) must be .*block_size x processes \(32 x 1\); .*tokens=96"),
        ({"batch_size": 3}, r"batch_size \(3\) must divide a process. 8 windows; try --batch_size=2"),
        ({"n_head": 5}, r"n_embd \(32\) must be n_head \(5\)"),
        ({"block_size": 1}, r"block_size \(1\) must be at least 2"),
        (
            {"block_size": 100_000, "batch_tokens": 100_000, "batch_size": 1},
            "too few for one window of block_size 100000",
        ),
        ({"learning_rate": -1.0}, r"learning_rate \(-1.0\) must be at least 0"),
        ({"learning_rate": math.nan}, r"learning_rate \(nan\) must be at least 0"),
        ({"optimizer": "muon", "learning_rate": 0.0}, "learning_rate, which must be above 0"),
        ({"resume_from": "nowhere"}, "nowhere holds no checkpoint"),
        ({"max_iters": 0}, r"max_iters \(0\) must be at least 1"),
        ({"device": "tpu"}, "--device=tpu cannot be used here"),
        ({"device": "meta"}, "--device=meta holds shapes and no numbers; choose cpu"),
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


def test_unfinished_data_is_one_line_on_the_command_line(data_dir, tmp_path):
    unfinished = shutil.copytree(data_dir, tmp_path / "data")
    (unfinished / "meta.json").unlink()
    command = [PYTHON, "train.py", f"--out_dir={tmp_path / 'out'}", f"--data={unfinished}"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "its preparation is unfinished; complete it with: python" in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_setting_says_what_it_is():
    """--help shows the comment at the end of a setting's line; on a second line it would be lost."""
    for settings in (train.TrainConfig, sample.SampleConfig, prepare_wiki.PrepareConfig):
        source = inspect.getsource(settings)
        for key in settings.__annotations__:
            assert re.search(rf"^    {key}: .+ = .+  # .", source, re.MULTILINE), key


SMALL = {"max_iters": 2, "batch_tokens": 64, "block_size": 32, "eval_interval": 2, "num_threads": 1}


def small_config(path: Path, data_dir: Path, run_dir: Path, **settings) -> train.TrainConfig:
    """A config with two small steps: of a small model, or of one that stands for the folder it begins with."""
    cfg, origins = configurator.load(train.TrainConfig, [str(path), *flags(SMALL | settings | {"data": data_dir})])
    assert any(str(path) in origin for origin in origins.values())
    if cfg.init_from is None:
        return dataclasses.replace(cfg, n_layer=1, ffn_hidden=64)
    return dataclasses.replace(cfg, init_from=str(run_dir))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_starts(path, data_dir, run_dir, tmp_path):
    train.main(small_config(path, data_dir, run_dir, out_dir=tmp_path, batch_size=2))
    assert metrics(tmp_path)[-1]["step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_starts_on_two_processes(path, data_dir, run_dir, tmp_path):
    cfg = small_config(path, data_dir, run_dir, out_dir=tmp_path, batch_size=1, dtype="float32")
    finished(2, dataclasses.asdict(cfg))
    assert metrics(tmp_path)[-1]["step"] == 2
