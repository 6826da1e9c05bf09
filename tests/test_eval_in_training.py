"""Tasks at the evaluations of a run: evaluate.py's figures on each checkpoint, and the same run as without them."""

import json
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, flags
from ranks import Launch, finished, start
from test_lora import SHAPES, make_base
from test_train import config, during_step, metrics, press_ctrl_c, weights

import checkpoint
import configurator
import evaluate
import journal
import parallel
import prepare_chat
import scoring
import train
from model import Llama, ModelConfig
from tasks import in_training, jobs, writing
from tasks.jobs import Asking, make_jobs
from tokenizer import Tokenizer

SETTINGS = {"block_size": 128, "batch_tokens": 4 * 128, "batch_size": 2, "max_iters": 6, "learning_rate": 3e-2}
SETTINGS |= {"warmup_iters": 1, "eval_interval": 3, "checkpoint_interval": 3, "keep_checkpoints": 9, "eval_limit": 20}
NAMES = ("adi", "belu", "komo", "dira", "tane", "sulo", "ribek", "oma")


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(journal, "plot", lambda *args: None)
    monkeypatch.setattr(journal, "plot_scores", lambda *args: None)


def name(i: int) -> str:
    return f"{NAMES[i % 8]} {NAMES[(3 * i + i // 8) % 8]}"


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A task of each kind: choices, answers, a text, and two sets of a family."""
    folder = tmp_path_factory.mktemp("tasks")

    (folder / "blimp").mkdir()
    numbers = range(23)
    choices = [{"context": name(i), "choices": [name(i + k) for k in (1, 2, 3)], "answer": i % 3} for i in numbers]
    choices[4]["context"] = " ".join(map(name, range(60)))  # longer than the context of 128 tokens
    write_jsonl(folder / "choices.jsonl", choices)
    write_jsonl(folder / "answers.jsonl", [{"question": name(i), "answer": name(i + 2)} for i in numbers])
    write_jsonl(folder / "text.jsonl", [{"text": " ".join(name(i) for i in range(80))}])
    for k in (1, 2):
        pairs = [{"sentence_good": f"{name(i)}.", "sentence_bad": f"{name(i + k)} {k}."} for i in range(5 * k)]
        write_jsonl(folder / f"blimp/passive_{k}.jsonl", pairs)
    return folder


def tasks(folder: Path) -> dict[str, str]:
    """The settings that ask all of them."""
    files = ",".join(f"{folder}/{kind}.jsonl" for kind in ("choices", "answers", "text"))
    return {"eval_tasks": f"{files},blimp", "eval_task_dir": str(folder)}


def evaluated(checkpoint_dir: Path, folder: Path, out_dir: Path, **settings) -> dict[str, float]:
    """evaluate.py's figures for the same tasks, under the names of metrics.jsonl."""
    asked = tasks(folder)
    settings = {"checkpoint": str(checkpoint_dir), "limit": 20, "out_dir": str(out_dir), "device": "cpu"} | settings
    settings |= {"tasks": asked["eval_tasks"], "task_dir": asked["eval_task_dir"], "dtype": "float32"}
    evaluate.main(evaluate.EvaluateConfig(**settings))

    scores = json.loads((out_dir / "scores.json").read_text())
    found = {}
    for label, record in (scores["tasks"] | scores["families"]).items():
        if not label.startswith("blimp_"):
            for figure, number in record["figures"].items():
                found[f"eval/{label.removesuffix('-first20')}/{figure}"] = number["value"]
    return {key: value for key, value in found.items() if not key.endswith(("chance", "bytes_per_token"))}


def scores_of(row: dict) -> dict[str, float]:
    """The figures of tasks in a row of metrics.jsonl, without standard errors."""
    return {key: row[key] for key in row if key.startswith("eval/") and not key.endswith("_stderr")}


def losses_of(out_dir: Path) -> list[dict]:
    """The rows of metrics.jsonl without what is said about tasks."""
    return [{key: row[key] for key in row if not key.startswith("eval/")} for row in metrics(out_dir)]


def scored_rows(out_dir: Path) -> list[dict]:
    return [row for row in metrics(out_dir) if scores_of(row)]


# --- the figures ---


@pytest.mark.parametrize("shots", [0, 2])
def test_figures_are_those_of_evaluate_py_on_the_checkpoint(folder, data_dir, tmp_path, shots, capsys):
    """Of each step: with examples, what was computed with earlier weights must not be used."""
    train.main(config(data_dir, tmp_path / "run", **SETTINGS, **tasks(folder), eval_shots=shots))
    printed = capsys.readouterr().out
    assert [row["step"] for row in scored_rows(tmp_path / "run")] == [0, 3, 6]
    suffix = f"-{shots}shot" if shots else ""

    for row in scored_rows(tmp_path / "run")[1:]:
        step = tmp_path / f"run/step_{row['step']:07d}"
        expected = evaluated(step, folder, tmp_path / f"{row['step']}", shots=shots)
        assert f"eval/blimp{suffix}/acc" in expected
        assert scores_of(row) == pytest.approx(expected, rel=1e-5)
        assert row["eval/text/bits_per_byte"] != metrics(tmp_path / "run")[0]["eval/text/bits_per_byte"]

        acc = row[f"eval/choices{suffix}/acc"]
        assert row[f"eval/choices{suffix}/acc_stderr"] == pytest.approx((acc * (1 - acc) / 19) ** 0.5)
        assert f"step {row['step']:>6} | choices{suffix} acc {100 * acc:.1f} ±" in printed

    assert f"eval: choices{suffix}, 20 items of {folder}/choices.jsonl" in printed
    assert f"eval: blimp{suffix}, 15 items of {folder}/blimp/passive_1.jsonl and 1 more" in printed
    if not shots:
        assert printed.count("1 of them cut on the left, longer than the context of 128 tokens") == 1
        assert "(chance 33.3)" in printed


def test_the_precision_is_that_of_training(folder, data_dir, tmp_path):
    """bfloat16 products of float32 weights, and attention in float32: the bits of a text by the model's own loss."""
    train.main(config(data_dir, tmp_path / "run", **SETTINGS, **tasks(folder), dtype="bfloat16"))
    model = checkpoint.load_model(tmp_path / "run/latest").eval()
    tokenizer = Tokenizer.load(tmp_path / "run/latest")
    text = json.loads((folder / "text.jsonl").read_text())["text"]
    ids = torch.tensor([tokenizer.end_of_text, *tokenizer.encode(text)])

    bits = {}
    for dtype in (torch.float32, torch.bfloat16):
        nats = 0.0
        for begin in range(0, len(ids) - 1, 128):
            seen = ids[max(0, min(begin, len(ids) - 129)) :][:129]  # the last window is as long as the others
            new = min(128, len(ids) - 1 - begin)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                nats -= model.token_logprobs(seen[None, :-1], seen[None, 1:])[0, -new:].sum().item()
        bits[dtype] = nats / math.log(2) / len(text.encode())

    found = metrics(tmp_path / "run")[-1]["eval/text/bits_per_byte"]
    assert found == pytest.approx(bits[torch.bfloat16], rel=1e-5)
    assert abs(found - bits[torch.bfloat16]) < 0.1 * abs(found - bits[torch.float32])


def test_a_run_on_conversations_is_asked_by_its_template(folder, data_dir, tmp_path):
    with open(tmp_path / "chat.jsonl", "w", encoding="utf-8") as file:
        for i in range(60):
            turns = [{"role": "user", "content": f"{name(i)} {i}"}, {"role": "assistant", "content": name(i + 1)}]
            file.write(json.dumps({"messages": turns}) + "\n")
    settings = {"source": str(tmp_path / "chat.jsonl"), "tokenizer": str(data_dir), "data_dir": str(tmp_path / "data")}
    prepare_chat.main(prepare_chat.ChatConfig(**settings, num_workers=1, val_fraction=0.2, dedup_threshold=1.0))

    train.main(config(tmp_path / "data", tmp_path / "run", **SETTINGS, **tasks(folder)))
    expected = evaluated(tmp_path / "run/latest", folder, tmp_path / "scores", chat=True)
    found = scores_of(metrics(tmp_path / "run")[-1])
    assert "eval/answers-chat/perplexity" in found
    assert found == pytest.approx(expected, rel=1e-5)


def test_adapters_are_scored_with_their_base(folder, data_dir, tmp_path):
    base = make_base(tmp_path / "base", SHAPES["llama"], data_dir)
    changes = SETTINGS | {"init_from": str(base), "block_size": 64, "lora_rank": 4, "lora_alpha": 12.0}
    model = {key: getattr(train.TrainConfig, key) for key in ("n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden")}
    train.main(config(data_dir, tmp_path / "run", **model | changes, **tasks(folder)))
    found = [scores_of(row) for row in scored_rows(tmp_path / "run")]
    assert found[0]["eval/answers/perplexity"] != pytest.approx(found[-1]["eval/answers/perplexity"], rel=1e-3)
    latest = {"checkpoint": None, "adapter": str(tmp_path / "run/latest")}
    assert found[-1] == pytest.approx(evaluated(base, folder, tmp_path / "scores", **latest), rel=1e-3)


def test_accuracies_are_drawn_beside_what_guessing_gives(folder, data_dir, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(journal, "plot_scores", lambda out_dir, chances: drawn.append(chances))
    train.main(config(data_dir, tmp_path / "run", **SETTINGS, **tasks(folder)))
    wanted = {"eval/choices/acc": pytest.approx(1 / 3), "eval/answers/acc": None, "eval/blimp/acc": 0.5}
    assert drawn == [wanted] * 3


# --- the run ---


def test_the_run_is_the_same_as_without_tasks(folder, data_dir, tmp_path, monkeypatch):
    """Bit for bit, with matrix products in bfloat16; stopped in the middle, and going on with other tasks."""
    changes = SETTINGS | {"dtype": "bfloat16", "max_iters": 9}
    train.main(config(data_dir, tmp_path / "plain", **changes))

    during_step(4, press_ctrl_c, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.main(config(data_dir, tmp_path / "scored", **changes, **tasks(folder)))
    monkeypatch.undo()
    monkeypatch.setattr(journal, "plot", lambda *args: None)
    monkeypatch.setattr(journal, "plot_scores", lambda *args: None)
    others = {"eval_tasks": f"{folder}/answers.jsonl", "eval_limit": 7, "eval_shots": 1}
    train.main(config(data_dir, tmp_path / "scored", **changes | others))

    for file in ("latest/model.safetensors", "latest/training/optimizer.safetensors"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "scored" / file).read_bytes(), file
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "scored")
    names = [sorted({key.split("/")[1] for key in scores_of(row)}) for row in scored_rows(tmp_path / "scored")]
    assert names == [["answers", "blimp", "choices", "text"]] * 2 + [["answers-1shot"]] * 2


def test_ctrl_c_while_tasks_are_scored_stops_after_the_evaluation(folder, data_dir, tmp_path, monkeypatch):
    real = in_training.do_job
    seen = []

    def interrupted(*args):
        seen.append(args)
        if len(seen) == 7:  # the second of five jobs at step 3
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(in_training, "do_job", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3, saved in"):
        train.main(config(data_dir, tmp_path, **SETTINGS, **tasks(folder)))
    first, second = scored_rows(tmp_path)
    assert second["step"] == 3 and second.keys() == first.keys()
    train.main(config(data_dir, tmp_path, **SETTINGS, **tasks(folder)))
    assert [row["step"] for row in scored_rows(tmp_path)] == [0, 3, 6]


def test_logits_that_are_not_numbers_leave_a_line_and_no_scores(folder, data_dir, tmp_path, monkeypatch, capsys):
    real = jobs.score_batch
    seen = []

    def broken(model, batch):
        seen.append(batch)
        if len(seen) == 3:
            raise ValueError(scoring.NOT_FINITE)
        return real(model, batch)

    monkeypatch.setattr(jobs, "score_batch", broken)
    train.main(config(data_dir, tmp_path / "once", **SETTINGS, **tasks(folder)))
    assert [row["step"] for row in scored_rows(tmp_path / "once")] == [3, 6]
    assert "step      0 | (no scores: the logits are not finite" in capsys.readouterr().out

    changes = SETTINGS | {"learning_rate": 1e10, "eval_interval": 2, "max_iters": 2}
    train.main(config(data_dir, tmp_path / "nan", **changes, **tasks(folder)))
    assert "step      2 | (no scores: the validation loss is nan)" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_share_the_batches(folder, data_dir, tmp_path, mode):
    """Figures as of one process, and weights as of two without tasks. No number of batches here is even for all tasks,
    a text has one batch alone, and only some batches have examples in common."""
    settings = TINY | SETTINGS | {"data": data_dir, "parallel": mode, "batch_size": 1, "eval_shots": 2}
    asked = settings | tasks(folder)
    exact = {"float64": True}
    finished(0, asked | {"out_dir": tmp_path / "alone"}, exact)
    printed = finished(2, asked | {"out_dir": tmp_path / "two"}, exact)
    assert printed.count("step      3 | choices-2shot acc ") == 1, "one process prints"
    for row, wanted in zip(scored_rows(tmp_path / "two"), scored_rows(tmp_path / "alone"), strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)

    finished(2, settings | {"out_dir": tmp_path / "plain"}, exact)
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "two")
    plain = weights(tmp_path / "plain")
    assert all(torch.equal(plain[key], value) for key, value in weights(tmp_path / "two").items())


def score_then_train(data_dir: str, tasks_folder: str) -> None:
    """A rank whose model is divided, and gathered for the first time when tasks are scored."""
    device = torch.device("cpu")
    world = parallel.World()
    world.start(device)
    tokenizer = Tokenizer.load(data_dir)
    model = Llama(ModelConfig(tokenizer.vocab_size, block_size=128, n_layer=1, n_head=2, n_kv_head=1, n_embd=16))
    parallel.shard(model, device, torch.float32)

    files = [f"{tasks_folder}/{kind}.jsonl" for kind in ("choices", "text")]
    asked = list(make_jobs(files, Asking(), tokenizer, 128))  # no prefix, whose pass is under no_grad
    model.eval()
    in_training.do_jobs(model, asked, 256, world)
    model.reshard()
    model.train()

    ids = torch.arange(8)[None]
    model(ids, ids).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    world.stop()


def test_what_fsdp_gathers_for_scores_is_trained_on(folder, data_dir):
    done = Launch(2, score_then_train, str(data_dir), str(folder)).wait(60)
    assert done.returncode == 0, done.stderr[-3000:]


def train_with_short_answers(settings: dict) -> None:
    """A rank of a run in which the answers of a batch have as many tokens as its first prompt says."""
    real = writing.decode

    def short(model, prompts, max_new_tokens, *args, **kwargs):
        return real(model, prompts, 1 + sum(prompts[0]) % 7, *args, **kwargs)

    writing.decode = short
    journal.plot = journal.plot_scores = lambda *args: None
    train.main(train.TrainConfig(**settings))


@pytest.mark.parametrize("mode", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_answers_are_written(data_dir, tmp_path, mode):
    """By two processes as by one, though batches need different numbers of passes. No number in one is "[invalid]"."""
    rows = [{"question": name(i), "answer": ("[invalid]", "7")[i % 2]} for i in range(9)]
    write_jsonl(tmp_path / "gsm8k.jsonl", rows)
    settings = TINY | SETTINGS | {"data": str(data_dir), "parallel": mode, "block_size": 320, "batch_tokens": 2 * 320}
    settings |= {"batch_size": 1, "eval_tasks": "gsm8k", "eval_task_dir": str(tmp_path), "max_iters": 1}
    for out, processes in (("alone", 0), ("two", 2)):
        done = Launch(processes, train_with_short_answers, settings | {"out_dir": f"{tmp_path}/{out}"}).wait(60)
        assert done.returncode == 0, done.stderr[-3000:]

    found, expected = (list(map(scores_of, scored_rows(tmp_path / out))) for out in ("two", "alone"))
    assert found == expected and len(found) == 2
    assert found[0]["eval/gsm8k/strict_match"] == pytest.approx(5 / 9)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # torch.compile
@pytest.mark.parametrize(("processes", "mode"), [(0, "ddp"), (2, "fsdp")])
def test_a_compiled_run_is_the_same_as_without_tasks(folder, data_dir, tmp_path, processes, mode):
    """With fsdp the blocks themselves are compiled: scoring must not use up how often they may be."""
    settings = TINY | SETTINGS | {"data": data_dir, "parallel": mode, "batch_size": 1, "compile": True, "n_layer": 3}
    finished(processes, settings | {"out_dir": tmp_path / "plain"})
    scored = start(processes, settings | tasks(folder) | {"out_dir": tmp_path / "scored", "eval_shots": 2}).wait(900)
    assert scored.returncode == 0 and "recompile_limit" not in scored.stderr, scored.stderr[-3000:]
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "scored")
    assert len(scored_rows(tmp_path / "scored")) == 3


# --- bad input ---


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_tasks": "arc_esy"}, "no task is called 'arc_esy'; did you mean 'arc_easy'?"),
        ({"eval_tasks": "arc_easy"}, "has no file for arc_easy, such as arc_easy.jsonl"),
        ({"eval_tasks": "none.jsonl"}, "none.jsonl: no such file"),
        ({"eval_tasks": "blimp,blimp_passive_1"}, "blimp_passive_1 is asked already"),
        ({"eval_tasks": "blimp", "eval_shots": 7}, "only 4 examples that are not the item itself"),
        ({"eval_tasks": "blimp", "eval_limit": 0}, "eval_limit (0) must be at least 1"),
        ({"eval_shots": -1}, "eval_shots (-1) must be at least 0"),
    ],
)
def test_a_mistake_is_one_line_before_weights_are_read(
    folder, data_dir, tmp_path, settings, message, is_there, monkeypatch, capsys
):
    """No folder is left behind; also where the run's folder is there."""
    out_dir = tmp_path / "out"
    if is_there:
        out_dir.mkdir()
    monkeypatch.setattr(train, "build_model", lambda *args: pytest.fail("a model was built"))
    settings = TINY | {"data": data_dir, "out_dir": out_dir, "eval_task_dir": folder} | settings
    monkeypatch.setattr(sys, "argv", ["train.py", *flags(settings)])
    with pytest.raises(SystemExit) as stopped:
        configurator.run(train.main, train.TrainConfig)
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and error.count("\n") == 1 and message in error
    assert is_there or not out_dir.exists()
