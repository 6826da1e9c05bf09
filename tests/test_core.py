"""CORE: prompts, decisions and means by a plain second way; rows and files; a part is never called CORE."""

import math
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from test_evaluate import figure, run, words, write_jsonl, write_model

import checkpoint
from model import Llama
from tasks.core import CORE
from tasks.task import find_task
from tokenizer import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny", "smollm", block_size=1024)


def made_rows(kind: str, count: int, seed: int = 0) -> list[dict]:
    """Rows of llm-foundry; some texts have spaces and line ends at their borders."""
    rows = []
    for i in range(seed, seed + count):
        question, a, b, c = (words(4 * i + k, 2 + (i + k) % 5) for k in range(4))
        if kind == "choice":
            rows.append({"query": f" {question}\n", "choices": [a, b, c], "gold": i % 3})
        elif kind == "schema":
            rows.append({"context_options": [a, f"{b} "], "continuation": c, "gold": i % 2})
        else:
            rows.append({"context": f"{question} ", "continuation": a})
    return rows


def write_files(folder: Path, names: list[str], count: int) -> dict[str, list[dict]]:
    """The files of these tasks, in a folder of each kind."""
    rows = {}
    for number, name in enumerate(names):
        task = CORE[name]
        rows[name] = made_rows(task.kind, count, seed=50 * number)
        (folder / task.kind).mkdir(exist_ok=True)
        write_jsonl(folder / task.kind / f"{task.file}.jsonl", rows[name])
    return rows


def prompts_of(name: str, row: dict) -> list[tuple[str, str]]:
    """What a row asks, and each answer that is scored after it."""
    answer_line = "\nAnswer:" if name in ("jeopardy", "arc_easy", "arc_challenge", "piqa", "boolq") else ""
    if "query" in row:
        return [(row["query"].strip() + answer_line, f" {choice}") for choice in row["choices"]]
    if "context_options" in row:
        return [(option.strip(), f" {row['continuation']}") for option in row["context_options"]]
    return [(row["context"].strip() + answer_line, f" {row['continuation']}")]


def is_right(model: Llama, tokenizer: Tokenizer, name: str, rows: list[dict], number: int) -> bool:
    """The model's decision about one row, by a forward pass for each answer."""
    others = [row for row in random.Random(1234 + number).sample(rows, CORE[name].shots + 3) if row != rows[number]]
    examples = ""
    for row in others[: CORE[name].shots]:
        question, answer = prompts_of(name, row)[row.get("gold", 0)]
        examples += question + answer + "\n"

    means = []
    for question, answer in prompts_of(name, rows[number]):
        n = len(tokenizer.encode(examples + question))
        ids = torch.tensor([tokenizer.encode(examples + question + answer)])
        with torch.no_grad():
            logprobs = model(ids[:, :-1]).log_softmax(-1)[0, n - 1 :]
        if "continuation" in rows[number] and "gold" not in rows[number]:
            return bool((logprobs.argmax(-1) == ids[0, n:]).all())
        means.append(logprobs.gather(1, ids[0, n:, None]).mean().item())
    return int(np.argmax(means)) == rows[number]["gold"]


def test_decisions_and_mean_by_a_plain_second_way(folder, tmp_path, capsys):
    names = ["arc_easy", "commonsense_qa", "agi_eval_lsat_ar", "winograd", "copa", "jeopardy", "lambada_openai"]
    rows = write_files(tmp_path, names, 24)
    scores, out_dir = run(folder, tasks="core", task_dir=str(tmp_path), out_dir=tmp_path / "out")
    model, tokenizer = checkpoint.load_model(folder), Tokenizer.load(folder)

    centred, errors = [], []
    for name in names:
        key = "acc" if CORE[name].kind == "language" else "acc_tokens"
        right = [is_right(model, tokenizer, name, rows[name], number) for number in range(24)]
        found = pq.read_table(out_dir / f"core_{name}.parquet")[key].to_pylist()
        assert found == right, name
        chance = {"arc_easy": 0.25, "commonsense_qa": 0.403, "agi_eval_lsat_ar": 0.25, "winograd": 0.5, "copa": 0.5}
        baseline = chance.get(name, 0)
        centred.append((np.mean(right) - baseline) / (1 - baseline))
        errors.append(np.std(right, ddof=1) / math.sqrt(24) / (1 - baseline))
        assert figure(scores, f"core_{name}", "centred") == pytest.approx(centred[-1]), name
        assert scores["tasks"][f"core_{name}"]["figures"]["centred"]["error"] == pytest.approx(errors[-1])

    family = scores["families"]["core"]
    assert (family["sets"], len(family["missing"]), family["headline"]) == (7, 15, "mean_of_a_part")
    mean = family["figures"]["mean_of_a_part"]
    assert mean["value"] == pytest.approx(np.mean(centred))
    assert mean["error"] == pytest.approx(math.sqrt(sum(error**2 for error in errors)) / 7)
    assert "a part of CORE, not CORE: there are no files of hellaswag_zeroshot, bigbench" in capsys.readouterr().out

    # The interval of a mean over tasks: each task has the same weight.
    scores, _ = run(folder, tasks="core", task_dir=str(tmp_path), out_dir=tmp_path / "out", bootstrap=1000)
    low, high = scores["families"]["core"]["figures"]["mean_of_a_part"]["interval"]
    assert high - low == pytest.approx(2 * 1.96 * mean["error"] * math.sqrt(23 / 24), rel=0.15)


def test_all_22_tasks_are_core(folder, tmp_path):
    write_files(tmp_path, list(CORE), 14)
    scores, _ = run(folder, tasks="core", task_dir=str(tmp_path), limit=1, out_dir=tmp_path / "out")
    family = scores["families"]["core-first1"]
    assert (family["sets"], family["items"], family["missing"], family["headline"]) == (22, 22, [], "CORE")
    value = np.mean([record["figures"]["centred"]["value"] for record in scores["tasks"].values()])
    assert family["figures"]["CORE"]["value"] == pytest.approx(value)
    shots = [task.shots for task in CORE.values()]
    assert (shots.count(0), shots.count(3), shots.count(10)) == (7, 1, 14)


HUB = {
    "arc_easy": {
        "question": "Why?",
        "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]},
        "answerKey": "C",
    },
    "piqa": {"goal": "How do I?", "sol1": "a", "sol2": "b", "label": 1},
    "winogrande": {"sentence": "Ann met Bea so _ was glad.", "option1": "Ann", "option2": "Bea", "answer": "2"},
    "lambada_openai": {"text": "She wrote to him"},
}
FOUNDRY = {
    "arc_easy": {"query": "Question: Why?", "choices": ["a", "b", "c", "d"], "gold": 2},
    "piqa": {"query": "Question: How do I?\n", "choices": ["a", "b"], "gold": 1},
    "winogrande": {
        "context_options": ["Ann met Bea so Ann", "Ann met Bea so Bea"],
        "continuation": "was glad.",
        "gold": 1,
    },
    "lambada_openai": {"context": "She wrote to", "continuation": "him"},
}


@pytest.mark.parametrize("name", HUB)
def test_rows_of_the_hub_make_the_same_prompts(name):
    """Where core.tsv says so."""
    task = CORE[name]
    assert task.same_as == name and find_task(name)
    ours, theirs = task.read(HUB[name]), task.read(FOUNDRY[name])
    prompts = [[item.context + item.gap + choice for choice in item.choices] for item in (ours, theirs)]
    assert prompts[0] == prompts[1]
    assert (ours.answer, ours.ending) == (theirs.answer, theirs.ending)


@pytest.mark.parametrize(
    ("task_dir", "shots", "message"),
    [
        (None, 0, "core is read from files: give --task_dir with llm-foundry's scripts/eval/local_data"),
        ("empty", 0, "has none of the files of core: agi_eval_lsat_ar.jsonl, arc_challenge.jsonl,"),
        ("other", 0, "another layout: no 'query', only premise"),
        ("few", 0, "10 examples are wanted, but only 3 are not the item itself"),
        ("few", 5, "core has examples of its own and no chat template; ask it by python evaluate.py without"),
    ],
)
def test_what_cannot_be_scored(folder, tmp_path, task_dir, shots, message):
    for name in ("empty", "other", "few"):
        (tmp_path / name).mkdir()
    write_jsonl(tmp_path / "other/copa.jsonl", [{"premise": "a"}])
    write_jsonl(tmp_path / "few/boolq.jsonl", made_rows("choice", 4))
    task_dir = None if task_dir is None else str(tmp_path / task_dir)
    with pytest.raises(ValueError, match=message):
        run(folder, tasks="core", task_dir=task_dir, shots=shots, out_dir=tmp_path / "out")
