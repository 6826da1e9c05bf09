"""Score a model on tasks: python evaluate.py --checkpoint=out/demo --tasks=blimp,arc_easy --task_dir=data/eval

    python evaluate.py --checkpoint=out/smollm2 --tasks=hellaswag,piqa --shots=5 --limit=500
    python evaluate.py --adapter=out/lora --tasks=mmlu --chat
    python evaluate.py --checkpoint=out/demo --tasks=my_questions.jsonl,book.txt,data/pydocs
    python evaluate.py --plot='out/scores/demo out/scores/smollm2'
    torchrun --standalone --nproc_per_node=8 evaluate.py --checkpoint=out/smollm2 --tasks=mmlu

Tasks: arc_easy, arc_challenge, piqa, hellaswag, winogrande, openbookqa, commonsense_qa, copa, lambada_openai, gsm8k;
blimp, mmlu, ceval and cmmlu, or one of their sets (blimp_passive_1); core; and files of yours (tasks/rows.py). Prompts,
borders and figures are those of lm-evaluation-harness; of core those of DataComp-LM (tasks/core.py). Without --task_dir
tasks come from the Hugging Face hub.

Each task's items go into a parquet file, the figures into scores.json. A run that was interrupted goes on where it was.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

import atomic
import checkpoint
import lora
from chat_template import ChatTemplate
from device import memory_advice, pick_device, weight_dtype
from model import Llama
from parallel import World
from tasks import core
from tasks.compare import labels_of, read_scores, table
from tasks.figures import figures_of_family
from tasks.jobs import Asking, Job, check_ids, make_jobs, shared_label
from tasks.names import split_names
from tasks.picture import draw
from tasks.results import SCORES_FILE, TaskFiles, versions, write_scores
from tasks.statistics import Figure, as_json, show
from tokenizer import Tokenizer

PICTURE_FILE = "scores.png"
FEWEST_SAMPLES = 100  # of a bootstrap: 5 of them lie outside of the interval
USUAL_BATCH = {"cpu": 2048, "cuda": 16384}  # tokens; docs/evaluation.md


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `python evaluate.py`."""

    checkpoint: str | None = None  # a run (its newest checkpoint), or a Hugging Face folder; None: out/demo
    adapter: str | None = None  # a LoRA adapter, of a run or from peft; without --checkpoint beside the base it names
    tasks: str = ""  # names of tasks, and paths of your files, with commas between them
    task_dir: str | None = None  # a folder with the tasks' files (tasks/rows.py); None: from the Hugging Face hub
    shots: int = 0  # examples before each question
    shots_seed: int | None = None  # draw the examples; None: the first ones of the task's training split
    limit: int | None = None  # the first items of each task only; of a text or corpus the first documents
    chat: bool = False  # ask by the folder's chat template
    stride: int | None = None  # bits per byte: tokens that a window predicts, with the others as context; None: all
    bootstrap: int | None = None  # 95 % intervals from this many samples of the items, 1000 for example; None: without
    plot: str | None = None  # compare results that are there: folders, or patterns, with spaces between them
    out_dir: str | None = None  # results; None: out/scores/<the checkpoint's name>
    batch_tokens: int | None = None  # computed together; None: 2,048, on a GPU 16,384
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the weights; auto: bfloat16 on CUDA, else float32

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not self.task_names():
            raise ValueError("--tasks names no task; try --tasks=arc_easy,piqa (python evaluate.py --help lists them)")
        if self.shots < 0:
            raise ValueError(f"shots ({self.shots}) must be at least 0")
        for key in ("limit", "stride", "batch_tokens"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} ({value}) must be at least 1")
        if self.bootstrap is not None and self.bootstrap < FEWEST_SAMPLES:
            raise ValueError(f"bootstrap ({self.bootstrap}) must be at least {FEWEST_SAMPLES} samples")

    def task_names(self) -> list[str]:
        """What --tasks lists, each once."""
        return split_names(self.tasks)


def results_folder(cfg: EvaluateConfig, source: lora.Source) -> Path:
    """Where the results go: --out_dir, or a folder of the checkpoint's name, below out/scores."""
    if cfg.out_dir is not None:
        return Path(cfg.out_dir).expanduser()
    folder = (source.adapter or source.base).resolve()
    name = folder.name
    if name.startswith("step_"):
        name = f"{folder.parent.name}-{name}"
    return Path("out/scores") / name


# --- scores that are there ---


def compare(plot: str, out_dir: str | None) -> None:
    """Print the table and draw the picture, beside the first folder or into out_dir."""
    all_scores = read_scores(plot)
    if not labels_of(all_scores):
        raise ValueError(f"{plot}: no task was scored")
    print(table(all_scores))
    if len(all_scores) > 1:
        print("(difference: from the first, and its standard error; paired: from the differences of each item)")

    folder = all_scores[0].folder.parent if out_dir is None else Path(out_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    draw(all_scores, folder / PICTURE_FILE)
    print(f"wrote {folder / PICTURE_FILE}")


# --- scoring ---


@dataclass(frozen=True)
class Run:
    """What all tasks of a run have in common."""

    cfg: EvaluateConfig
    source: lora.Source
    out_dir: Path
    model_identity: dict[str, Any]  # hashes of the weights, and their dtype
    batch_tokens: int
    world: World

    def files(self, job: Job) -> TaskFiles:
        """The files of a job, whose results follow from the model and from what it is asked."""
        return TaskFiles(self.out_dir, job, {**self.model_identity, "requests": job.sha256()})

    def say(self, line: str) -> None:
        """Print a line, in one of the processes."""
        if self.world.rank == 0:
            tqdm.write(line)


@torch.inference_mode()  # 8 % faster than no_grad where a small model writes
def do_job(run: Run, model: Llama, job: Job, files: TaskFiles, bar: tqdm) -> list[Any]:
    """The results of all items of a job; what an earlier run has left in partial files is not computed again.

    Each process does every world.size-th batch, and writes to a file of its own.
    """
    world = run.world
    found = files.read_partials()
    bar.update(len(found))

    # Process 0 keeps what was found before the others begin their files anew.
    world.gather(None)
    if world.rank == 0:
        files.begin_partial(0, found)
    world.gather(None)
    if world.rank > 0:
        files.begin_partial(world.rank, {})

    missing = [number for number in range(len(job)) if number not in found]
    rest = job.only(missing)
    batches = rest.batches(model.cfg.block_size, run.batch_tokens)
    done: dict[int, Any] = {}

    def do_own_batches() -> None:
        with open(files.partial(world.rank), "a", encoding="utf-8") as file:
            for batch in batches[world.rank :: world.size]:
                results = rest.do(model, batch)
                for place, result in results:
                    number = missing[place]
                    done[number] = result
                    file.write(files.line(number, result) + "\n")
                file.flush()
                bar.update(min(len(results) * world.size, bar.total - bar.n))

    with memory_advice(f"lower --batch_tokens ({run.batch_tokens})"):
        world.all_succeed(do_own_batches)
    for part in world.gather(done):
        found |= part
    return [found[number] for number in range(len(job))]


def record_of(job: Job, files: TaskFiles, figures: dict[str, Figure], block_size: int) -> dict[str, Any]:
    """What scores.json says about a task."""
    source = job.source
    return {
        "origin": source.origin,
        source.unit: len(source),
        "cut_on_the_left": job.count_cut(block_size),
        "identity": files.identity,
        "figures": as_json(figures),
        "headline": source.headline,
    }


def result_line(label: str, record: dict[str, Any], width: int) -> str:
    """A task in one line of the table; the figure that is usually quoted has a star."""
    count = f"{record['items']:,} items" if "items" in record else f"{record['documents']:,} documents"
    shown = []
    for name, figure in record["figures"].items():
        star = "*" if name == record["headline"] else ""
        shown.append(star + show(name, Figure(**figure)))
    return f"{label:<{width}}  {count:>14}   " + "   ".join(shown)


def family_lines(family: str, record: dict[str, Any], width: int) -> str:
    """A family in one line; of a part of CORE, what is missing in a second one."""
    missing = record.get("missing")
    if missing is None:
        return result_line(f"{family}, {record['sets']} sets", record, width)

    line = result_line(f"{family}, {record['sets']} of {len(core.CORE)} tasks", record, width)
    if missing:
        line += f"\n  a part of CORE, not CORE: there are no files of {', '.join(missing)}"
    return line


def main(cfg: EvaluateConfig) -> None:
    """Read the tasks, score what is not scored yet, and write items and figures."""
    if cfg.plot is not None:
        compare(cfg.plot, cfg.out_dir)
        return

    # Settings, tokenizer, tasks: what can be wrong is found before the weights are read.
    cfg.check()
    source = lora.find_source(cfg.checkpoint, cfg.adapter)
    shape = source.shape
    device = pick_device(cfg.device)
    dtype = weight_dtype(cfg.dtype, device)
    batch_tokens = cfg.batch_tokens or USUAL_BATCH.get(device.type, USUAL_BATCH["cuda"])
    tokenizer = Tokenizer.load(source.small_files)
    template = ChatTemplate.load(source.small_files) if cfg.chat else None
    if template is not None:
        tokenizer = template.tokenizer
    checkpoint.check_vocabulary(shape, tokenizer)
    asking = Asking(cfg.task_dir, cfg.shots, cfg.shots_seed, cfg.limit, cfg.stride, template)
    jobs = list(make_jobs(cfg.task_names(), asking, tokenizer, shape.block_size))
    check_ids(jobs, shape.vocab_size)

    # What the scores follow from
    dtype_name = str(dtype).removeprefix("torch.")
    model_identity = {"weights": lora.fingerprint(source.base, shape), "dtype": dtype_name}
    if source.adapter is not None:
        model_identity["adapter"] = atomic.sha256(source.adapter / checkpoint.ADAPTER_FILE)
    world = World()
    run = Run(cfg, source, results_folder(cfg, source), model_identity, batch_tokens, world)
    if device.type == "cuda" and world.size > 1:
        device = pick_device(f"cuda:{world.local_rank}")

    # Score
    world.start(device)
    with contextlib.ExitStack() as on_exit:
        world.all_succeed(lock, run, on_exit)
        evaluate(run, jobs, device, dtype)
    world.stop()


def lock(run: Run, on_exit: contextlib.ExitStack) -> None:
    """Process 0 keeps other runs out of the folder."""
    if run.world.rank == 0:
        on_exit.enter_context(atomic.lock(run.out_dir, wait_s=0))


def evaluate(run: Run, jobs: list[Job], device: torch.device, dtype: torch.dtype) -> None:
    """Score the jobs, print a line for each, and write scores.json."""
    width = max(len(job.label) for job in jobs)

    # What was scored before
    records = {}
    todo = []
    for job in jobs:
        files = run.files(job)
        record = files.record()
        if record is None:
            todo.append(job)
        else:
            if run.cfg.bootstrap:
                record["figures"] = as_json(job.figures(files.rows(), run.cfg.bootstrap))
            records[job.label] = record
            run.say(f"{result_line(job.label, record, width)}   (scored before)")

    # The others
    if todo:
        with memory_advice("give --dtype=bfloat16, or a device with more memory"):
            model = run.source.load(device, dtype).eval()
        no_bar = True if run.world.rank > 0 else None  # None: no bar where the output is not a terminal
        with tqdm(total=sum(map(len, todo)), unit=" items", disable=no_bar) as bar:
            for job in todo:
                bar.set_description(job.label)
                record = score_and_write(run, model, job, bar)
                records[job.label] = record
                run.say(result_line(job.label, record, width))
                if record["cut_on_the_left"]:
                    context = f"the model's context of {model.cfg.block_size} tokens"
                    run.say(f"  {record['cut_on_the_left']:,} items are longer than {context}: cut on the left")

    # All together
    if run.world.rank == 0:
        families = family_records(run, jobs, records)
        for family, record in families.items():
            run.say(family_lines(family, record, width))
        run.say("(* is the figure that is usually quoted)")
        write_scores(run.out_dir, scores_of(run, records, families))
        run.say(f"wrote {run.out_dir / SCORES_FILE}, and the items of each task beside it")


def score_and_write(run: Run, model: Llama, job: Job, bar: tqdm) -> dict[str, Any]:
    """Do one job and write its items; returns its record."""
    start_s = time.perf_counter()
    files = run.files(job)
    rows = job.rows(do_job(run, model, job, files, bar))
    figures = job.figures(rows, run.cfg.bootstrap or 0)
    record = record_of(job, files, figures, model.cfg.block_size)
    record["seconds"] = round(time.perf_counter() - start_s, 1)
    if run.world.rank == 0:
        files.write_items(rows, record)
    return record


def family_records(run: Run, jobs: Sequence[Job], records: dict[str, Any]) -> dict[str, Any]:
    """The figures of each family of which sets were scored: means over all their items, for CORE over its tasks.

    A family that is asked in two ways has two records, mmlu and mmlu-5shot.
    """
    members: dict[str, list[Job]] = {}
    for job in jobs:
        if job.source.family:
            members.setdefault(shared_label(job), []).append(job)

    families = {}
    samples = run.cfg.bootstrap or 0
    for family, sets in members.items():
        of_sets = [records[job.label] for job in sets]
        rows = [run.files(job).rows() for job in sets] if samples else []
        sources = [job.source for job in sets]
        headline, figures = figures_of_family(sources, of_sets, rows, samples)
        record = {
            "members": [job.label for job in sets],
            "sets": len(sets),
            "items": sum(record["items"] for record in of_sets),
            "headline": headline,
            "figures": as_json(figures),
        }
        if sources[0].family == core.NAME:
            record["missing"] = core.missing([source.name for source in sources])
        families[family] = record
    return families


def scores_of(run: Run, records: dict[str, Any], families: dict[str, Any]) -> dict[str, Any]:
    """What scores.json says."""
    source = run.source
    return {
        "checkpoint": str(source.base),
        "adapter": None if source.adapter is None else str(source.adapter),
        "model": run.model_identity,
        "settings": dataclasses.asdict(run.cfg),
        "versions": versions(),
        "tasks": records,
        "families": families,
    }


if __name__ == "__main__":
    configurator.run(main, EvaluateConfig, show=False)
