"""The part of harness.py that runs in the environment of lm-evaluation-harness: scores of its own tasks on local rows.

    python benchmarks/harness_peer.py job.json      writes the path that the job calls "result"

It imports nothing of this repository. A task is the harness's own yaml; what changes is where the rows come from, and
that examples are the first ones of a file and not drawn anew for each item.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_task(folder: Path, task: dict[str, Any], harness: Path) -> None:
    """A yaml that includes the harness's, with rows from json files; "changes": other settings that differ."""
    settings = {
        "include": str(harness / "tasks" / task["yaml"]),
        "task": task["name"],
        "tag": None,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {task["split"]: task["items"], "examples": task["examples"]}},
        "training_split": None,
        "fewshot_split": "examples",
        "fewshot_config": {"sampler": "first_n"},
        **task.get("changes", {}),
    }
    (folder / f"{task['name']}.yaml").write_text(json.dumps(settings, indent=1))  # JSON is YAML


def responses(samples: list[dict[str, Any]]) -> list[Any]:
    """Of each item, the [log-probability, greedy] of its requests, or its [text, {filter: whether it is right}]."""
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    if not isinstance(samples[0]["resps"][0][0], str):
        return [[response for (response,) in sample["resps"]] for sample in samples]

    texts: dict[int, str] = {}
    right: dict[int, dict[str, bool]] = {}
    for sample in samples:  # one for each filter
        texts[sample["doc_id"]] = sample["resps"][0][0]
        right.setdefault(sample["doc_id"], {})[sample["filter"]] = bool(sample["exact_match"])
    return [[texts[number], right[number]] for number in texts]


def timed(call: Callable, taken_s: list[float]) -> Callable:
    """The same callable, which notes the CPU-seconds that each call takes."""

    def timed_call(*args: Any, **kwargs: Any) -> Any:
        begin_s = time.process_time()
        result = call(*args, **kwargs)
        taken_s.append(time.process_time() - begin_s)
        return result

    return timed_call


def largest_resident_set() -> int:
    """Of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Do each run of the job, and write what the harness found for each item."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    job = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    for task in job["tasks"]:
        write_task(folder, task, Path(lm_eval.__file__).parent)
    names = [task["name"] for task in job["tasks"]]

    # With its logits_cache lm-eval 0.4.13 gives a request whose ids are those of another one, cut at another place, the
    # wrong log-probabilities: "a b" + "c" beside "a" + "b c" gets the logits of b.
    settings = {"dtype": "float32", "device": "cpu", "batch_size": job["batch_size"], "logits_cache": False}
    model = HFLM(pretrained=job["checkpoint"], **settings)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    taken_s: list[float] = []
    model.loglikelihood = timed(model.loglikelihood, taken_s)
    results = []
    for run in job["runs"]:
        taken_s.clear()
        start_s = time.process_time()
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=names,
            num_fewshot=run["shots"],
            apply_chat_template=run["chat"],
            task_manager=manager,
            bootstrap_iters=0,
        )
        scores = {name: responses(found["samples"][name]) for name in names}
        result = {
            "scores": scores,
            "cpu_s": time.process_time() - start_s,
            "scoring_s": sum(taken_s),
            "memory_bytes": largest_resident_set(),
            "threads": torch.get_num_threads(),
        }
        results.append(result)
    Path(job["result"]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
