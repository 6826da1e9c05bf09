"""Part evaluate of bench.py: scores of HellaSwag and ARC-easy, next to lm-evaluation-harness.

    OMP_NUM_THREADS=1 python bench.py --part=evaluate --checkpoint=out/smollm2 --task_dir=../shared/data/eval

Every turn is a process of its own, on the CPU, in float32. Both sides are asked the same items of the same files, and
their log-probabilities and decisions are compared in each round.

What is counted are the CPU-seconds in which prompts become ids, and ids log-probabilities. Imports, the reading of
files and weights, and the making of figures are left out on both sides. (Questions become prompts within our time, and
before the harness's.) Memory is the largest resident set of the whole process, with its libraries and weights.

The harness has a turn with one request at a time, which is what it does when it is told nothing, and one with 8, about
the fastest on a CPU (docs/LOG.md has its speed with other numbers). Its batch_size=auto first takes the largest that
does not fail, 64, five times through the model, which would count. The targets are for the harness as it comes.
"""

import functools
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import lora
from benchmarks import harness
from benchmarks.bench_config import BenchConfig, Figures, Record, Samples, TakeTurns
from benchmarks.bench_figures import peak_rss, ratios, speed_table, summary, target, target_lines
from evaluate import USUAL_BATCH
from tasks.jobs import Asking, scoring_job
from tasks.prompts import Encoder
from tasks.rows import load
from tokenizer import Tokenizer

TITLES = {"hellaswag": "HellaSwag", "arc_easy": "ARC-easy"}
OURS = "NonLlama"
AS_IT_COMES = "lm-evaluation-harness"
PEER_BATCHES = {AS_IT_COMES: 1, "lm-evaluation-harness, batches of 8": 8}  # requests at a time
TOLERANCE = 1e-3  # nats, of the log-probability of an answer


def ours(checkpoint: str, task_dir: str, name: str) -> Figures:
    """One turn of ours: items a CPU-second, memory, and the scores themselves."""
    source = lora.find_source(checkpoint, None)
    tokenizer = Tokenizer.load(source.small_files)
    (questions,) = load(name, task_dir)
    model = source.load().eval()

    begin_s = time.process_time()
    job = scoring_job(questions, Asking(), Encoder(tokenizer))
    found = {}
    for batch in job.batches(model.cfg.block_size, USUAL_BATCH["cpu"]):
        found.update(job.do(model, batch))
    cpu_s = time.process_time() - begin_s

    scores = [job.to_json(found[number]) for number in range(len(job))]
    return figures(cpu_s, peak_rss(), torch.get_num_threads(), scores)


def theirs(checkpoint: str, folder: str, task: dict[str, Any], batch_size: int) -> Figures:
    """One turn of the harness, `batch_size` requests at a time."""
    run = {"shots": 0, "chat": False}
    (found,) = harness.harness_scores(checkpoint, [task], [run], Path(folder), batch_size, sys.executable)
    return figures(found["scoring_s"], found["memory_bytes"], found["threads"], found["scores"][task["name"]])


def figures(cpu_s: float, memory_bytes: int, threads: int, scores: list) -> Figures:
    """What a turn measured."""
    rate = len(scores) / cpu_s
    return {"cpu_s": cpu_s, "rate": rate, "memory_bytes": memory_bytes, "threads": threads, "scores": scores}


def take_scores(samples: Samples) -> str:
    """Compare the scores of all sides, and take them out of the samples.

    Raises ValueError for log-probabilities that differ by more than TOLERANCE, and for sides with other threads.
    """
    largest = 0.0
    decisions = 0
    greedy = 0
    for title in TITLES.values():
        own_turns = samples[case(title, OURS)]
        own_scores = [turn.pop("scores") for turn in own_turns]

        for side in PEER_BATCHES:
            peer_turns = samples[case(title, side)]
            for own, scores, peer in zip(own_turns, own_scores, peer_turns, strict=True):
                if own["threads"] != peer["threads"]:
                    counts = f"{own['threads']} threads, and the harness {peer['threads']}"
                    raise ValueError(f"ours had {counts}; give both the same by OMP_NUM_THREADS=1")
                difference = harness.compare(scores, peer.pop("scores"))
                if not difference.largest <= TOLERANCE:  # a NaN is not
                    raise ValueError(f"{title}: log-probabilities differ by up to {difference.largest} nats")
                largest = max(largest, difference.largest)
                decisions += len(difference.decisions)
                greedy += difference.greedy

    agree = f"log-probabilities agree to {largest:.0e} nats (tolerance {TOLERANCE:.0e})"
    return f"{agree}; decisions that differ: {decisions}, greedy flags: {greedy}"


def case(title: str, side: str) -> str:
    """The name of a row of the table."""
    return f"{title}, {side}"


def record(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """Both tasks by all sides."""
    if cfg.items < 1:
        raise ValueError(f"items ({cfg.items}) must be at least 1")
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError("lm_eval is not installed; run: pip install -r requirements-dev.txt")
    lora.find_source(cfg.checkpoint, None)  # only for its error

    with tempfile.TemporaryDirectory() as folder:
        tasks = harness.write_tasks(list(TITLES), Path(cfg.task_dir), Path(folder), cfg.items, shots=0)
        cases = {}
        for task in tasks:
            title = TITLES[task["name"]]
            cases[case(title, OURS)] = functools.partial(ours, cfg.checkpoint, folder, task["name"])
            for side, batch_size in PEER_BATCHES.items():
                cases[case(title, side)] = functools.partial(theirs, cfg.checkpoint, folder, task, batch_size)
        samples = take_turns(cases, cfg.rounds, "evaluate")
    check = take_scores(samples)

    results: dict[str, dict[str, Any]] = {}
    targets = []
    for title in TITLES.values():
        own = samples[case(title, OURS)]
        for side in (OURS, *PEER_BATCHES):
            rows = samples[case(title, side)]
            results[case(title, side)] = {**summary(rows), "ours_over_it": ratios(own, rows, ["rate", "memory_bytes"])}
        over = results[case(title, AS_IT_COMES)]["ours_over_it"]
        fast = f"{title}: at least 3 times the harness's items a CPU-second"
        targets.append(target(fast, over["rate"], 3, most=False))
        targets.append(target(f"{title}: no more memory than the harness", over["memory_bytes"], 1))

    return {
        "title": f"the first {cfg.items:,} items of each task, {cfg.checkpoint}, float32, no examples",
        "check": check,
        "results": results,
        "targets": targets,
        "samples": samples,
    }


def table(record: Record) -> list[str]:
    """Lines for a reader: items a CPU-second, memory, and ours over the harness's in the same round."""
    lines = speed_table(record["results"], "items/CPU s")
    return [*lines, *target_lines(record["targets"])]
