"""evaluate.py next to lm-evaluation-harness: are the log-probabilities, and the texts, of each item equal?

    python benchmarks/harness.py --checkpoint=out/smollm2 --task_dir=../shared/data/eval --limit=300
    python benchmarks/harness.py --checkpoint=out/smollm2 --task_dir=../shared/data/eval --limit=300 --shots=5
    python benchmarks/harness.py --checkpoint=out/smollm2 --task_dir=../shared/data/eval --limit=300 --chat

The harness runs in a process of its own, with --python, on the rows that evaluate.py reads. It prints the largest
difference, the decisions that differ, and the CPU-seconds of both, which count on a quiet machine only.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import evaluate
from tasks.rows import file_rows, local_file
from tasks.task import Row, find_task

PEER = Path(__file__).with_name("harness_peer.py")

# our name -> the harness's file below lm_eval/tasks
YAML = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "piqa": "piqa/piqa.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "commonsense_qa": "commonsense_qa/default.yaml",
    "copa": "super_glue/copa/default.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
}
FILTERS = {"strict_match": "strict-match", "flexible_match": "flexible-extract"}  # our figure -> the harness's filter
FAMILIES = {  # of which a set is in a file of its own
    "blimp": "blimp/{}.yaml",
    "mmlu": "mmlu/default/mmlu_{}.yaml",
    "ceval": "ceval/ceval-valid_{}.yaml",
    "cmmlu": "cmmlu/cmmlu_{}.yaml",
}


@dataclass(frozen=True)
class HarnessConfig:
    """Settings of `python benchmarks/harness.py`."""

    checkpoint: str = "out/smollm2"  # a Hugging Face folder
    task_dir: str = "../shared/data/eval"  # local files, as evaluate.py reads them
    tasks: str = "arc_easy,piqa,hellaswag,copa,lambada_openai,blimp_passive_1"
    limit: int = 300  # items of each task
    shots: int = 0
    chat: bool = False
    batch_size: int = 8  # of the harness
    python: str = sys.executable  # the interpreter that has lm_eval


# --- rows with the columns of the hub ---


def hub_arc(row: Row) -> Row:
    """llm-foundry's row as the hub has it."""
    letters = "ABCDE"[: len(row["choices"])]
    choices = {"text": row["choices"], "label": list(letters)}
    question = row["query"].removeprefix("Question: ")
    return {"question": question, "choices": choices, "answerKey": letters[row["gold"]]}


def hub_piqa(row: Row) -> Row:
    """The same for PIQA."""
    goal = row["query"].removeprefix("Question: ").removesuffix("\n")
    return {"goal": goal, "sol1": row["choices"][0], "sol2": row["choices"][1], "label": row["gold"]}


def hub_copa(row: Row) -> Row:
    """The same for COPA: "The man fell, therefore" has the premise "The man fell." and asks for an effect."""
    premise, _, word = row["query"].rpartition(", ")
    question = {"therefore": "effect", "because": "cause"}[word]
    first, second = row["choices"]
    return {"premise": f"{premise}.", "question": question, "choice1": first, "choice2": second, "label": row["gold"]}


def hub_lambada(row: Row) -> Row:
    """The same for LAMBADA."""
    return {"text": f"{row['context']} {row['continuation']}"}


TO_HUB: dict[str, Callable[[Row], Row]] = {
    "arc_easy": hub_arc,
    "arc_challenge": hub_arc,
    "piqa": hub_piqa,
    "copa": hub_copa,
    "lambada_openai": hub_lambada,
}


def hub_rows(name: str, rows: Sequence[Row]) -> list[Row]:
    """Rows of a task with the columns of the hub, which are the ones that the harness reads."""
    is_foundry = "query" in rows[0] or "continuation" in rows[0]
    return [TO_HUB[name](row) for row in rows] if is_foundry else list(rows)


def yaml_of(name: str) -> str:
    """The harness's file of a task."""
    if name in YAML:
        return YAML[name]
    family, _, set_name = name.partition("_")
    return FAMILIES[family].format(set_name)


# --- both sides ---


def write_rows(folder: Path, name: str, items: Sequence[Row], examples: Sequence[Row]) -> dict[str, Any]:
    """Two files that evaluate.py finds, and the same task for the harness."""
    paths = {}
    for key, suffix, rows in (("items", "", items), ("examples", "_shots", examples)):
        path = folder / f"{name}{suffix}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        paths[key] = str(path)
    return {"name": name, "yaml": yaml_of(name), "split": find_task(name).split, **paths}


def write_tasks(names: Sequence[str], task_dir: Path, folder: Path, limit: int, shots: int) -> list[dict[str, Any]]:
    """write_rows for the first `limit` items of each task of task_dir; its last rows are the examples."""
    tasks = []
    for name in names:
        file = local_file(find_task(name), task_dir)
        if file is None:
            raise ValueError(f"{task_dir} has no file for {name}")
        rows = hub_rows(name, file_rows(file))
        count = min(limit, len(rows) - shots - 1)
        tasks.append(write_rows(folder, name, rows[:count], rows[-shots - 1 :]))
    return tasks


def harness_scores(
    checkpoint: str, tasks: list[dict[str, Any]], runs: list[dict[str, Any]], folder: Path, batch_size: int, python: str
) -> list[dict[str, Any]]:
    """What the harness finds, for each run: {"scores": {task: [[[logprob, greedy], ...], ...]}, "cpu_s": ...}.

    cpu_s are the CPU-seconds of the run; scoring_s those of them in which prompts become ids and ids log-probabilities;
    memory_bytes is the largest resident set of the process so far; threads: torch's.
    """
    job = {
        "checkpoint": checkpoint,
        "tasks": tasks,
        "runs": runs,
        "folder": str(folder / "yaml"),
        "batch_size": batch_size,
        "result": str(folder / "harness.json"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    done = subprocess.run([python, str(PEER), str(folder / "job.json")], capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"{python} {PEER.name} failed (pip install lm_eval?): {done.stderr[-2000:]}")
    return json.loads((folder / "harness.json").read_text())


def our_scores(
    checkpoint: str, names: Sequence[str], run: dict[str, Any], task_dir: Path, folder: Path
) -> dict[str, Any]:
    """The same by evaluate.py, which reads task_dir and writes below `folder`."""
    out_dir = folder / f"ours-{run['shots']}-{run['chat']}"
    settings = {"task_dir": str(task_dir), "tasks": ",".join(names), "out_dir": str(out_dir), "device": "cpu"}
    start_s = time.process_time()
    evaluate.main(evaluate.EvaluateConfig(checkpoint, **settings, shots=run["shots"], chat=run["chat"]))
    cpu_s = time.process_time() - start_s

    scores = {}
    for name in names:
        (path,) = [*out_dir.glob(f"{name}.parquet"), *out_dir.glob(f"{name}-*.parquet")]
        rows = pq.read_table(path).to_pylist()
        if "written" in rows[0]:
            scores[name] = [[row["written"], {FILTERS[key]: row[key] for key in FILTERS}] for row in rows]
        else:
            scores[name] = [list(zip(row["logprobs"], row["greedy"], strict=True)) for row in rows]
    return {"cpu_s": cpu_s, "scores": scores}


@dataclass(frozen=True)
class Difference:
    """How far two sides are apart on one task."""

    items: int
    requests: int
    largest: float  # of all log-probabilities, in nats
    greedy: int  # flags that differ
    decisions: list[int]  # items of which another choice is the likeliest


def compare(ours: list[list[list]], theirs: list[list[list]]) -> Difference:
    """Item by item. The two must have asked the same number of requests."""
    largest = 0.0
    greedy = 0
    decisions = []
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        own_logprobs = np.array([logprob for logprob, _ in own])
        other_logprobs = np.array([logprob for logprob, _ in other])
        largest = float(np.maximum(largest, np.abs(own_logprobs - other_logprobs).max()))  # NaN, if one is
        greedy += sum(a != b for (_, a), (_, b) in zip(own, other, strict=True))
        if own_logprobs.argmax() != other_logprobs.argmax():
            decisions.append(number)
    return Difference(len(ours), sum(map(len, ours)), largest, greedy, decisions)


def compare_written(ours: list[list], theirs: list[list]) -> tuple[list[int], list[int]]:
    """Items of which the texts differ, and items of which a filter's decision does."""
    both = list(enumerate(zip(ours, theirs, strict=True)))
    texts = [number for number, ((own, _), (other, _)) in both if own != other]
    decisions = [number for number, ((_, own), (_, other)) in both if own != other]
    return texts, decisions


def main(cfg: HarnessConfig) -> None:
    """Score the tasks on both sides and print how far they are apart."""
    names = cfg.tasks.split(",")
    if cfg.shots:  # the harness shows BLiMP no examples, whatever num_fewshot says
        names = [name for name in names if not name.startswith("blimp")]
    run = {"shots": cfg.shots, "chat": cfg.chat}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tasks = write_tasks(names, Path(cfg.task_dir), folder, cfg.limit, cfg.shots)
        ours = our_scores(cfg.checkpoint, names, run, folder, folder)
        (theirs,) = harness_scores(cfg.checkpoint, tasks, [run], folder, cfg.batch_size, cfg.python)

    print(f"\n{'task':<20} items requests  largest difference  greedy flags  decisions that differ")
    for name in names:
        if name == "gsm8k":
            texts, decisions = compare_written(ours["scores"][name], theirs["scores"][name])
            items = len(ours["scores"][name])
            print(f"{name:<20} {items:>5}  texts that differ: {len(texts)} {texts or ''}, decisions: {decisions}")
            continue
        found = compare(ours["scores"][name], theirs["scores"][name])
        counts = f"{found.items:>5} {found.requests:>8}  {found.largest:>13.1e} nats  {found.greedy:>12}"
        print(f"{name:<20} {counts}  {len(found.decisions)} {found.decisions or ''}")
    print(f"CPU-seconds, reading and tokens included: {ours['cpu_s']:.0f} ours, {theirs['cpu_s']:.0f} the harness's")


if __name__ == "__main__":
    configurator.run(main, HarnessConfig)
