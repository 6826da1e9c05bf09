"""Train a Llama-like model on prepared token shards.

    python train.py config/demo.py                                              one process
    torchrun --standalone --nproc_per_node=8 train.py config/demo.py            DDP; --parallel=fsdp divides the model
    python train.py config/demo.py --out_dir=out/x --learning_rate=1e-3         any setting; --help lists them
    python train.py config/demo.py --data=wiki_en:0.8,wiki_zh:0.2               several corpora, mixed by weight
    python train.py --init_from=path/to/SmolLM --data=wiki --block_size=1024    on from a Hugging Face folder's weights
    python train.py --init_from=path/to/SmolLM --data=alpaca                    fine-tuning on what prepare_chat.py made
    python train.py --init_from=path/to/SmolLM --data=alpaca --lora_rank=16     LoRA: small matrices beside its own

The same command resumes from the newest checkpoint in out_dir. Ctrl-C saves at the next step boundary and leaves.
"""

# In the order of this file: what a step minimises, settings, set-up, evaluation, one step, log lines, checkpoints, and
# `main`, the loop itself.

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import functools
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record
from tqdm import tqdm

import atomic
import checkpoint
import compiling
import float8
import journal
import lora
from batches import Batch, ReadAhead, TokenBatch
from chat_template import ChatTemplate
from device import keep_freed_memory, memory_advice, peak_flops, peak_memory, pick_device, pick_dtype
from errors import one_line, read_json
from loss_scale import LossScale
from mixture import Corpus, Mixture
from model import Llama, ModelConfig, on_meta
from optim import SCHEDULES, Optimizer, learning_rate
from parallel import World, accumulating, copy_full, full_tensor, own_share, replicate, shard
from profiling import StepProfiler, parse_steps
from resume import RunState, Start, find_start
from sample import decode, generate
from tasks import in_training
from tasks.jobs import Asking, Job, check_ids, make_jobs
from tasks.names import split_names
from tokenizer import Tokenizer

LOCK_WAIT_S = 120  # for a run whose launcher was killed: it stops after the step that it is in


# --- what a step minimises ---

# An objective is a function of (model, batch). It returns the loss, summed over the batch's scored tokens (or pairs),
# and named figures, summed likewise. The loop divides both by the count of the whole step: Batch.count, summed over all
# micro-batches and processes. The batch knows its count, and not the objective, because the loop needs it before the
# first backward pass, without waiting for the device. The figures go into metrics.jsonl and the log line under their
# names. Evaluation uses the same function on the validation split; model.training is False there, so that a term which
# only guides the training can be left out.
Objective = Callable[[torch.nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]


def next_token_loss(model: torch.nn.Module, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the scored targets in nats, summed; no figures."""
    return model(batch.inputs, batch.targets, cu_seqlens=batch.cu_seqlens, scored=batch.scored), {}


OBJECTIVES: dict[str, Objective] = {"next_token": next_token_loss}


# --- settings ---


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `python train.py`."""

    data: str = "pydocs"  # folder of prepare_wiki.py or prepare_chat.py, below data/ or a path; several: a:8,b:2
    out_dir: str = "out/run"  # checkpoints, metrics.jsonl, loss.png
    init_from: str | None = None  # start with these weights: a Hugging Face folder of the Llama family, or a run here
    resume_from: str | None = None  # go on from this checkpoint (optimizer and place in the data too) in a new out_dir
    objective: Literal[*OBJECTIVES] = "next_token"  # what a step minimises
    # model; with init_from it is the folder's
    n_layer: int = 4  # blocks of attention and feed-forward network
    n_head: int = 4  # query heads
    n_kv_head: int = 2  # key/value heads, each shared by n_head / n_kv_head query heads
    n_embd: int = 128  # model width
    ffn_hidden: int | None = None  # feed-forward width; None: 8/3 n_embd, rounded up to a multiple of 64
    block_size: int = 128  # tokens in a training window, and the longest context
    rope_theta: float = 10000.0  # base of the rotary frequencies
    tie_embeddings: bool = True  # the output head is the embedding
    qk_norm: bool = False  # norm over each head of the queries and keys: the model is then a Qwen3
    # LoRA: the weights of init_from stay as they are, small matrices beside its own are trained (lora.py)
    lora_rank: int = 0  # width r of the small matrices; 0: no LoRA, all weights are trained
    lora_alpha: float = 32.0  # what they compute is scaled by lora_alpha / lora_rank
    lora_targets: str = " ".join(lora.MATRICES)  # the matrices that get them
    # the optimizer and its schedule
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the matrices of the blocks, and AdamW for the rest
    batch_tokens: int = 1536  # tokens of one optimizer step, over all processes
    batch_size: int = 12  # windows in one forward-backward pass of one process
    max_iters: int = 2000  # optimizer steps
    learning_rate: float = 3e-3  # highest learning rate, reached after the warm-up
    muon_lr: float = 0.01  # the same for Muon's matrices
    muon_even_rows: bool = False  # rows of Muon's momentum are first made equally long: MuonEq
    min_lr: float = 0.0  # learning rate at the end of the decay
    warmup_iters: int = 100  # steps in which the learning rate rises from 0
    lr_decay_iters: int | None = None  # step at which min_lr is reached; None: max_iters
    schedule: Literal[*SCHEDULES] = "linear"  # shape of the decay; wsd: constant, then a decay in the last steps
    decay_iters: int = 400  # wsd: steps of the decay; it can begin at any checkpoint: raise max_iters by these
    weight_decay: float = 0.1  # on the matrices of the blocks
    beta1: float = 0.9  # AdamW: share of the old mean of gradients that is kept in a step
    beta2: float = 0.95  # AdamW: the same for the mean of squared gradients
    grad_clip: float = 1.0  # scale the gradient down to this global norm where it is larger; 0: never
    max_skipped: int = 10  # steps with NaN or infinite loss or gradient are skipped; so many in a row stop the run
    seed: int = 1337  # of the initial weights and the order of the data
    shuffle_run: int = 1  # shuffle groups of so many neighbouring windows; 16 for disks that are slow to seek
    # seeing and saving
    eval_interval: int = 250  # steps between evaluations on the whole validation split
    log_interval: int = 20  # steps between log lines
    checkpoint_interval: int = 250  # steps between checkpoints; one is written at the end as well
    checkpoint_minutes: float | None = None  # write a checkpoint also after so many minutes without one
    keep_checkpoints: int = 2  # how many of the newest checkpoints to keep; the best is kept besides
    sample_prompt: str = "Return the"  # text to continue at each evaluation; with conversations: question to answer
    eval_tasks: str = ""  # score the model on these at each evaluation, as evaluate.py's --tasks: piqa,arc_easy
    eval_task_dir: str | None = None  # folder with the tasks' files (tasks/rows.py); None: from the Hugging Face hub
    eval_limit: int | None = 500  # the first items, of a text documents, of each task only; None: all
    eval_shots: int = 0  # examples before each question
    wandb: bool = False  # log to Weights & Biases too (WANDB_MODE=offline needs no account)
    wandb_project: str = "nonllama"  # project's name there
    # machine
    device: str = "auto"  # cpu, cuda, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # of products; auto: the fastest of the device
    float8: bool = False  # products of the blocks in float8, twice as fast on an RTX 4090, H100 or later
    parallel: Literal["ddp", "fsdp"] = "ddp"  # ddp: each process has the whole model; fsdp: its share of the model
    recompute: bool = False  # compute blocks again for the gradient: a third more work, much less memory
    compile: compiling.Setting = "auto"  # torch.compile: faster steps after a slow first; auto: where it pays
    cuda_graphs: bool = False  # launch a compiled pass as one, for small models on a GPU; takes more memory
    num_threads: int | None = None  # CPU threads of a process; None: torch's choice
    profile_steps: str | None = None  # trace these steps and print what takes their time: 10:15 are the steps 10 to 14

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        self._check_at_least(2, "block_size")
        self._check_at_least(1, "max_iters", "batch_size", "batch_tokens", "shuffle_run", "max_skipped", "num_threads")
        self._check_at_least(1, "eval_interval", "log_interval", "checkpoint_interval", "keep_checkpoints")
        self._check_at_least(0, "learning_rate", "muon_lr", "min_lr", "weight_decay", "grad_clip")
        self._check_at_least(0, "warmup_iters", "decay_iters", "checkpoint_minutes")
        self._check_at_least(0, "eval_shots")
        self._check_at_least(1, "eval_limit")
        if self.profile_steps is not None:
            parse_steps(self.profile_steps, self.max_iters)

        self._check_at_least(0, "lora_rank")
        if self.lora_rank:
            self._check_lora()
        if self.lora_rank and self.float8:
            raise ValueError("--float8 is for training all weights, not for LoRA; leave one of them out")

        if self.optimizer == "muon" and not self.learning_rate:
            raise ValueError("optimizer=muon follows the schedule of learning_rate, which must be above 0")

    def _check_lora(self) -> None:
        if self.init_from is None:
            raise ValueError("lora_rank: LoRA changes a model that there is; name it with --init_from=...")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha ({self.lora_alpha}) must be above 0; try --lora_alpha={2 * self.lora_rank}")
        if self.optimizer == "muon":
            raise ValueError("optimizer=muon is for whole matrices, not for LoRA's factors; choose --optimizer=adamw")

    def _check_at_least(self, smallest: float, *keys: str) -> None:
        for key in keys:
            value = getattr(self, key)
            if value is not None and not value >= smallest:  # NaN is not at least anything
                raise ValueError(f"{key} ({value}) must be at least {smallest}")


def micro_steps(cfg: TrainConfig, world_size: int) -> int:
    """Forward-backward passes of one process in a step. Raises ValueError when the step cannot be cut evenly."""
    row_tokens = cfg.block_size * world_size  # one window for each process
    if cfg.batch_tokens % row_tokens:
        nearest = max(1, round(cfg.batch_tokens / row_tokens)) * row_tokens
        wanted = f"a multiple of block_size x processes ({cfg.block_size} x {world_size})"
        raise ValueError(f"batch_tokens ({cfg.batch_tokens}) must be {wanted}; try --batch_tokens={nearest}")

    windows = cfg.batch_tokens // row_tokens
    if windows % cfg.batch_size:
        sizes = range(1, min(windows, cfg.batch_size) + 1)
        nearest = max(size for size in sizes if windows % size == 0)
        wrong = f"batch_size ({cfg.batch_size}) must divide a process' {windows} windows"
        raise ValueError(f"{wrong}; try --batch_size={nearest}")
    return windows // cfg.batch_size


# --- set-up ---


@dataclass
class Skips:
    """Counts of skipped steps: scalars on the device, read together with the loss, since reading them waits for it."""

    since_log: Tensor  # since the last log line
    by_own_loss: Tensor  # steps since the last log line in which this process' own loss was not finite
    in_a_row: Tensor  # up to now, without a good step between
    longest_row: Tensor  # most in a row since the last log line

    @classmethod
    def none(cls, device: torch.device) -> "Skips":
        """All counts 0."""
        return cls(*[torch.zeros((), device=device) for _ in range(4)])

    def count(self, finite: Tensor, own_finite: Tensor) -> None:
        """Note a step. Bool scalars: all numbers are finite, so it was taken; this process' own loss is."""
        skipped = ~finite
        self.since_log += skipped
        self.by_own_loss += ~own_finite
        self.in_a_row = (self.in_a_row + 1) * skipped
        self.longest_row = torch.maximum(self.longest_row, self.in_a_row)

    def reset_after_log(self) -> None:
        """A log line has been written."""
        for count in (self.since_log, self.by_own_loss, self.longest_row):
            count.zero_()


class Pace:
    """Seconds of optimizer steps since the last log line; evaluations and checkpoints do not count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0

    @contextlib.contextmanager
    def timed_step(self) -> Iterator[None]:
        """Around one step."""
        start_s = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start_s
        self.steps += 1

    def take(self) -> float:
        """Seconds a step; the count begins anew."""
        seconds_per_step = self.seconds / self.steps
        self.seconds = 0.0
        self.steps = 0
        return seconds_per_step


class StopSignal:
    """While it is entered: a first Ctrl-C or SIGTERM sets `received`, which the loop reads; a second acts at once."""

    def __init__(self) -> None:
        self.received = False
        self.handlers: dict[int, Any] = {}  # as they were before

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: Any) -> None:
        self.received = True
        signal.signal(number, self.handlers[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


@dataclass
class Run:
    """What the functions of the loop share. `setup` makes it."""

    cfg: TrainConfig
    world: World
    device: torch.device
    dtype: torch.dtype  # of matrix products
    data: Mixture
    tokenizer: Tokenizer
    objective: Objective
    model: Llama
    compiled: bool  # whether torch.compile is at work
    evaluated: torch.nn.Module  # the model, on a GPU torch.compile of it: evaluation calls it
    parallel: torch.nn.Module  # the model, or torch.compile of it, or DDP around that: training calls it
    optimizer: Optimizer
    files: checkpoint.Files  # of each checkpoint, besides weights and training state
    state: RunState
    skips: Skips
    tasks: list[Job]  # of eval_tasks
    loss_scale: LossScale | None = None  # in float16
    ahead: ReadAhead | None = None  # the host's micro-batches of each step
    log: journal.Journal | journal.NoJournal = field(default_factory=journal.NoJournal)
    bar: tqdm | None = None
    profiler: StepProfiler | None = None  # of process 0, where profile_steps says so
    pace: Pace = field(default_factory=Pace)
    stop_signal: StopSignal = field(default_factory=StopSignal)
    saved_s: float = 0.0  # time.monotonic() when the last checkpoint was written, or the loop began
    text: str = ""  # what the model wrote at the last evaluation
    results: list[in_training.Result] = field(default_factory=list)  # of the tasks, at the last evaluation

    @property
    def step_windows(self) -> int:
        """Windows of one optimizer step, over all processes."""
        return self.cfg.batch_tokens // self.cfg.block_size

    def precision(self) -> contextlib.AbstractContextManager:
        """Around a forward pass: matrix products in `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def traced(self) -> contextlib.AbstractContextManager:
        """Around an optimizer step: a trace of it, if profile_steps asks for one."""
        return contextlib.nullcontext() if self.profiler is None else self.profiler.around(self.state.step)

    def say(self, line: str) -> None:
        """Print a line, above the progress bar; process 0 only."""
        if self.world.rank == 0:
            self.bar.write(line)


def setup(cfg: TrainConfig, on_exit: contextlib.ExitStack) -> tuple[Run, Start]:
    """What every run needs, a finished one too: check the settings, lock out_dir, build the model and the optimizer,
    load or make their values.

    on_exit: gives the lock back.
    """
    cfg.check()
    world = World()
    micro_steps(cfg, world.size)  # only for its error
    data = Mixture(cfg.data, cfg.block_size, cfg.seed, cfg.shuffle_run)
    prompt_ids(cfg, data.tokenizer, data.template)  # only for its error
    device = choose_device(cfg, world)
    dtype = pick_dtype(cfg.dtype, device)
    if cfg.float8:
        float8.check_device(device, dtype)
    if cfg.cuda_graphs:
        compiling.check_cuda_graphs(device, cfg.compile, data.template is not None, is_divided(cfg, world))
    tasks = None
    if not Path(cfg.out_dir).is_dir():  # a mistake leaves no folder behind
        found = find_start(cfg, data)
        tasks = read_tasks(cfg, data, found)
        if cfg.float8:
            float8.use_float8(on_meta(found.shape).model)  # only for its error
    world.start(device)
    world.all_succeed(lock_out_dir, cfg, world, on_exit)
    start = find_start(cfg, data)  # after the lock: another run may have written there while this one waited
    if tasks is None:
        tasks = world.all_succeed(read_tasks, cfg, data, start)
    cfg = start.cfg

    same_sizes = data.template is None and not cfg.eval_tasks  # neither packed rows nor prompts of tasks
    keep_freed_memory(device, same_sizes)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    divided = is_divided(cfg, world)
    compiled = choose_compiling(cfg, start, data, world, device, dtype)
    model = build_model(cfg, start.shape, world, device, dtype, compiled)
    optimizer = Optimizer(model, cfg, device)
    files = files_of_checkpoints(model, start)
    fill_model(model, optimizer, start)

    trained = evaluated = model
    if compiled and not divided:  # fsdp compiles block by block
        trained = compiling.for_training(model, data.template is not None, cfg.cuda_graphs)
        if device.type != "cpu":  # there compiling evaluation, with its other shapes, would take longer than it saves
            evaluated = torch.compile(model)
    run = Run(
        cfg=cfg,
        world=world,
        device=device,
        dtype=dtype,
        data=data,
        tokenizer=start.tokenizer,
        objective=OBJECTIVES[cfg.objective],
        model=model,
        compiled=compiled,
        evaluated=evaluated,
        parallel=trained,
        optimizer=optimizer,
        files=files,
        state=start.state,
        skips=Skips.none(device),
        tasks=tasks,
        loss_scale=make_loss_scale(dtype, device, start),
    )
    return run, start


def choose_compiling(
    cfg: TrainConfig, start: Start, data: Mixture, world: World, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether the run is compiled: in all processes, or in none. What was chosen is said among the notes."""
    if start.state.step >= cfg.max_iters:  # it is finished
        return False
    before = None
    if start.resumed:
        saved = checkpoint.read_state(start.checkpoint)
        before = saved.get("compiled", saved["settings"].get("compile", False) is True)
    flops_per_token = on_meta(start.shape).flops_per_token(cfg.block_size)
    flops = flops_per_token * cfg.max_iters * cfg.batch_tokens / world.size
    packed = data.template is not None
    choice = compiling.choose(cfg.compile, before, flops, device, dtype, packed, is_divided(cfg, world))
    if not choice.on:
        start.notes.append(f"torch.compile: no ({choice.why})")
        return False

    failure = compiling.compiler_error(device)
    (failures,) = world.sum_numbers(failure is not None)
    if failures:
        start.notes.append(f"torch.compile: no, for it fails here: {failure or 'in another process'}")
        return False
    start.notes.append(f"torch.compile: yes ({choice.why})")
    return True


def has_cuda_graphs(run: Run) -> bool:
    """Whether the passes of training are CUDA graphs: not where they are not compiled."""
    return run.cfg.cuda_graphs and run.compiled


def make_loss_scale(dtype: torch.dtype, device: torch.device, start: Start) -> LossScale | None:
    """In float16 the loss' factor, as the checkpoint says; else None."""
    if dtype != torch.float16:
        return None
    loss_scale = LossScale(device)
    saved = checkpoint.read_state(start.checkpoint).get("loss_scale") if start.checkpoint is not None else None
    if saved is not None:
        loss_scale.load(saved)
    return loss_scale


def read_tasks(cfg: TrainConfig, data: Mixture, start: Start) -> list[Job]:
    """What eval_tasks names, encoded by the run's tokenizer; of a run on conversations as questions of its template.

    Raises ValueError for all that can be wrong with them.
    """
    template = data.template
    if template is not None:
        template = replace(template, tokenizer=start.tokenizer)
    asking = Asking(cfg.eval_task_dir, cfg.eval_shots, limit=cfg.eval_limit, template=template)
    names = split_names(cfg.eval_tasks)
    tasks = list(make_jobs(names, asking, start.tokenizer, start.shape.block_size))
    check_ids(tasks, start.shape.vocab_size)
    return tasks


def prepare_loop(run: Run, start: Start, on_exit: contextlib.ExitStack) -> None:
    """Wrap the model for several processes, open the journal, say what is going to happen."""
    cfg = run.cfg
    run.saved_s = time.monotonic()
    if run.world.size > 1 and not is_divided(cfg, run.world):
        zeros = torch.zeros((cfg.batch_size, cfg.block_size), dtype=torch.int64, device=run.device)
        with advice_for_full_memory(cfg):
            run.parallel = replicate(run.parallel, zeros, run.precision)
    if has_cuda_graphs(run):
        run.optimizer.keep_gradients()

    run.ahead = ReadAhead(functools.partial(read_batches, run), cfg.max_iters, run.device)
    on_exit.callback(run.ahead.close)
    run.world.all_succeed(open_journal, run, start)
    no_bar = True if run.world.rank > 0 else None  # None: no bar where the output is not a terminal
    run.bar = tqdm(total=cfg.max_iters, initial=run.state.step, unit=" steps", desc="train", disable=no_bar)
    if cfg.profile_steps is not None and run.world.rank == 0:
        prepare_profiler(run, on_exit)


def prepare_profiler(run: Run, on_exit: contextlib.ExitStack) -> None:
    """A run that goes on after these steps says that there will be no trace."""
    steps = parse_steps(run.cfg.profile_steps, run.cfg.max_iters)
    if run.state.step > steps.start:
        run.say(f"note: step {steps.start} has been taken already: profile_steps={run.cfg.profile_steps} has no effect")
        return
    run.profiler = StepProfiler(steps, Path(run.cfg.out_dir), run.device)
    on_exit.callback(run.profiler.close)


def choose_device(cfg: TrainConfig, world: World) -> torch.device:
    """The device of this process: of several on CUDA, each has its own."""
    device = pick_device(cfg.device)
    if device.type == "cuda" and world.size > 1:
        device = pick_device(f"cuda:{world.local_rank}")
        torch.cuda.set_device(device)
    return device


def lock_out_dir(cfg: TrainConfig, world: World, on_exit: contextlib.ExitStack) -> None:
    """Process 0 creates out_dir and locks it, before anybody looks for a checkpoint in it."""
    if world.rank == 0:
        out_dir = Path(cfg.out_dir)
        out_dir.mkdir(parents=True, exist_ok=True)
        print_now = functools.partial(print, flush=True)
        on_exit.enter_context(atomic.lock(out_dir, LOCK_WAIT_S, print_now))


def is_divided(cfg: TrainConfig, world: World) -> bool:
    """Whether each process has a share of the model only."""
    return cfg.parallel == "fsdp" and world.size > 1


def build_model(
    cfg: TrainConfig, shape: ModelConfig, world: World, device: torch.device, dtype: torch.dtype, compiled: bool
) -> Llama:
    """The model on its device, its weights not yet filled in; divided before it takes memory."""
    model = on_meta(shape)
    adapters = lora.settings_of(cfg)
    if adapters is not None:
        lora.add_adapters(model, adapters)
        lora.narrow_frozen(model, dtype)
    if cfg.float8:
        float8.use_float8(model.model)
    model.model.recompute_blocks = cfg.recompute
    if is_divided(cfg, world):
        if compiled:
            for layer in model.model.layers:
                layer.compile()
        shard(model, device, dtype)
    return model.to_empty(device=device)


def fill_model(model: Llama, optimizer: Optimizer, start: Start) -> None:
    """Give the weights, and the optimizer of a run that goes on, their values."""
    if start.cfg.lora_rank:
        fill_adapters(model, optimizer, start)
    elif start.checkpoint is not None:
        checkpoint.restore(start.checkpoint, model, optimizer)
    elif start.weights is not None:
        checkpoint.load_weights(model, start.weights, start.growth)
    else:
        torch.manual_seed(start.cfg.seed)
        with torch.no_grad():
            for parameter, value in model.initial_weights():
                copy_full(parameter, value)


def fill_adapters(model: Llama, optimizer: Optimizer, start: Start) -> None:
    """With LoRA: the base's weights, and those of a checkpoint's adapters or new ones."""
    checkpoint.load_weights(model, start.weights)
    if start.checkpoint is not None:
        checkpoint.restore(start.checkpoint, model, optimizer)
        return
    torch.manual_seed(start.cfg.seed)
    with torch.no_grad():
        for parameter, value in lora.initial_adapters(model):
            copy_full(parameter, value)


def files_of_checkpoints(model: Llama, start: Start) -> checkpoint.Files:
    """The small files of each checkpoint: its settings, tokenizer, and the chat template of a run on conversations.

    Raises ValueError when the run goes on with adapters of another base.
    """
    if start.template is not None:
        files = checkpoint.chat_files(model, start.template, start.carried)
    else:
        files = checkpoint.small_files(model, start.tokenizer, start.carried)

    adapters = lora.settings_of(start.cfg)
    if adapters is None:
        return files
    base_sha256 = lora.fingerprint(start.weights, start.shape)
    if start.checkpoint is not None:
        lora.check_base(start.checkpoint, start.weights, base_sha256)
    return lora.adapter_files(files, adapters, start.weights, base_sha256)


def open_journal(run: Run, start: Start) -> None:
    """Process 0 writes settings.json, opens the journal, and prints what the run is."""
    if run.world.rank > 0:
        return
    cfg = run.cfg
    out_dir = Path(cfg.out_dir)
    settings = asdict(cfg)
    atomic.write_json(out_dir / "settings.json", settings)
    wandb_options = None
    if cfg.wandb:
        wandb_options = {"project": cfg.wandb_project, "name": out_dir.name, "config": settings}
    run.log = journal.Journal(out_dir, run.state.step if start.resumed else None, wandb_options)

    dtype = str(run.dtype).removeprefix("torch.")
    processes = f"processes: {run.world.size}, threads in each: {torch.get_num_threads()}"
    plan = f"{cfg.max_iters:,} steps of {cfg.batch_tokens:,} tokens"
    parameters = f"{run.model.num_parameters():,} parameters"
    if cfg.lora_rank:
        parameters = f"{run.model.num_parameters(trainable=True):,} trainable parameters of {parameters}"
    print(f"{parameters}; {plan}; {run.device.type}, {dtype}, {processes}")
    print(run.data.describe(cfg.max_iters * run.step_windows))
    for line in in_training.describe(run.tasks, run.model.cfg.block_size):
        print(line)
    if start.checkpoint is not None:
        print(f"resumed from {start.checkpoint}")
    for note in start.notes:
        print(note)
    if cfg.cuda_graphs and not run.compiled:
        print("no CUDA graphs: they replay compiled passes; --compile=True asks for some")
    sys.stdout.flush()


def advice_for_full_memory(cfg: TrainConfig) -> contextlib.AbstractContextManager[None]:
    """Raise ValueError with the numbers to change for any error that says the memory of the device is full."""
    advice = f"lower --batch_size ({cfg.batch_size}; the steps stay the same) or block_size ({cfg.block_size}), "
    advice += "or give --recompute=True, or --parallel=fsdp on more devices"
    return memory_advice(advice)


# --- evaluation ---


@torch.no_grad()
def mean_loss(run: Run, corpus: Corpus) -> float:
    """The objective on a whole validation split, divided by its count; each process takes its share of the batches."""
    # MPS has no float64
    wide = torch.float32 if run.device.type == "mps" else torch.float64
    loss = torch.zeros((), dtype=wide, device=run.device)
    count = 0
    run.evaluated.eval()
    for batch in corpus.val_batches(run.cfg.batch_size, run.world.rank, run.world.size):
        with run.precision():
            batch_loss, _ = run.objective(run.evaluated, batch.to(run.device))
        loss += batch_loss
        count += batch.count
    run.evaluated.train()

    total = torch.stack([loss, torch.tensor(count, dtype=wide, device=run.device)])
    run.world.sum(total)
    return (total[0] / total[1]).item()


def validation_scores(run: Run) -> dict[str, float]:
    """The corpora's losses, weighted by their shares, also as bits per byte; of several corpora each one's loss too."""
    losses = {corpus.name: mean_loss(run, corpus) for corpus in run.data.corpora}
    pairs = zip(run.data.shares, losses.values(), strict=True)
    val_loss = sum(share * loss for share, loss in pairs)

    scores = {"val_loss": val_loss, "val_bits_per_byte": val_loss / run.data.nats_per_bit_per_byte}
    if len(losses) > 1:
        for name, loss in losses.items():
            scores[f"val_loss/{name}"] = loss
    return scores


def score_tasks(run: Run) -> str:
    """Score the model on eval_tasks, into run.results; returns a line that says what they are, or why there are none.

    Nothing that the run does later depends on it. With fsdp every process must ask.
    """
    run.results = []
    if not run.tasks:
        return ""
    if not math.isfinite(run.state.val_loss):
        return f"(no scores: the validation loss is {run.state.val_loss})"

    batch_tokens = run.cfg.batch_size * run.cfg.block_size  # what training has memory for
    run.model.eval()
    with run.precision(), without_compiling(run), advice_for_full_memory(run.cfg):
        try:
            run.results = in_training.do_jobs(run.model, run.tasks, batch_tokens, run.world)
        except ValueError as error:  # logits that are not numbers
            return f"(no scores: {error})"
        finally:
            run.model.train()
    return in_training.line_of(run.results)


def without_compiling(run: Run) -> contextlib.AbstractContextManager[None]:
    """Around passes whose shapes differ each time: blocks that fsdp has compiled run uncompiled.

    torch compiles a function for eight kinds of input and no more: text and tasks would take the places that training
    needs, and the time.
    """
    if not run.compiled:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


def evaluate(run: Run, last: bool) -> None:
    """Measure the validation loss, score the tasks, let the model continue sample_prompt, log it all.

    All processes work on it.
    """
    with advice_for_full_memory(run.cfg):
        scores = validation_scores(run)
    run.state.evaluated = run.state.step
    run.state.val_loss = scores["val_loss"]
    task_line = score_tasks(run)
    run.text = continuation(run, max_new_tokens=100 if last else 40)
    if is_divided(run.cfg, run.world):
        run.model.reshard()  # without a backward pass the root's parameters are left whole

    place = f"step {run.state.step:>6} | "
    metrics = {"step": run.state.step, **scores, **in_training.metrics_of(run.results)}
    run.world.all_succeed(run.log.log, metrics)
    run.say(f"{place}validation loss {scores['val_loss']:.4f} | {scores['val_bits_per_byte']:.4f} bits per byte")
    if task_line:
        run.say(f"{place}{task_line}")
    if not last:
        run.say(f"{place}{run.text!r}")
        run.world.all_succeed(draw_loss, run)


def prompt_ids(cfg: TrainConfig, tokenizer: Tokenizer, template: ChatTemplate | None) -> list[int]:
    """What the model is given at an evaluation: sample_prompt, or, with a template, a user who says it.

    Raises ValueError for a prompt that cannot be encoded.
    """
    with one_line(f"--sample_prompt={cfg.sample_prompt!r:.80}: ", ValueError):
        if template is None:
            ids = tokenizer.encode_prompt(cfg.sample_prompt) or [tokenizer.start]
            return ids[: cfg.block_size - 1]
        ids = template.encode([{"role": "user", "content": cfg.sample_prompt}], generation_prompt=True)
        return ids[-(cfg.block_size - 1) :]  # of a long question its end, where the header of the answer is


def continuation(run: Run, max_new_tokens: int) -> str:
    """sample_prompt with the text that the model continues it with, or why there is none; of an assistant its answer.

    With fsdp every process must ask.
    """
    if not math.isfinite(run.state.val_loss):
        return f"(no text: the validation loss is {run.state.val_loss})"

    cfg, tokenizer, template = run.cfg, run.tokenizer, run.data.template
    ids = prompt_ids(cfg, tokenizer, template)
    stops = tokenizer.stops if template is None else template.stop_ids
    # fsdp: tensors that are made in inference mode could not be trained on again
    sample_tokens = torch.no_grad()(decode) if cfg.parallel == "fsdp" else generate
    run.model.eval()
    try:
        with run.precision(), without_compiling(run):
            arguments = (max_new_tokens, tokenizer.vocab_size, stops, [cfg.seed])
            new = [token for (token,) in sample_tokens(run.model, [ids], *arguments, temperature=0.8)]
    except (ValueError, IndexError) as error:  # logits that are not numbers
        return f"(no text: {error})"
    finally:
        run.model.train()
    return tokenizer.decode(ids + new if template is None else new)


def draw_loss(run: Run) -> dict[str, dict[str, float]]:
    """Draw loss.png and scores.png (process 0); returns the yardsticks of each corpus that has some."""
    if run.world.rank > 0:
        return {}
    yardsticks = {}
    for corpus in run.data.corpora:
        path = corpus.folder / "yardsticks.json"
        if path.is_file():
            yardsticks[corpus.name] = read_json(path)

    alone = len(run.data.corpora) == 1
    lines = yardsticks.get(run.data.corpora[0].name, {}) if alone else {}
    journal.plot(Path(run.cfg.out_dir), lines, run.data.nats_per_bit_per_byte)
    chances = {result.key: result.chance for result in run.results if result.is_accuracy}
    if chances:
        journal.plot_scores(Path(run.cfg.out_dir), chances)
    return yardsticks


def report(run: Run) -> None:
    """Draw the plot, then print the result beside the yardsticks, and a few generated lines."""
    cfg, state = run.cfg, run.state
    yardsticks = draw_loss(run)
    bits = state.val_loss / run.data.nats_per_bit_per_byte
    print(f"\nstep {state.step}: validation loss {state.val_loss:.4f} nats per token = {bits:.4f} bits per byte")
    for name, measured in yardsticks.items():
        values = ", ".join(f"{key} {value:.3f}" for key, value in measured.items())
        text = "the same text" if len(run.data.corpora) == 1 else f"the text of {name}"
        print(f"on {text}: {values} bits per byte")
    done = "continued" if run.data.template is None else "answered"
    print(f"\n--- {cfg.sample_prompt!r}, {done} at temperature 0.8 ---\n{run.text}\n---")
    folder = "an adapter as peft's" if cfg.lora_rank else "a Hugging Face Llama folder"
    print(f"wrote {cfg.out_dir}/latest ({folder}), metrics.jsonl and loss.png beside it")


def show_finished(run: Run, start: Start) -> None:
    """For a run that has had its steps: say so, and show the result as at its end."""
    cfg, state = run.cfg, run.state
    if state.evaluated != state.step:  # it was stopped at this step, which then became the last one
        state.val_loss = validation_scores(run)["val_loss"]
    run.text = continuation(run, 100)
    if run.world.rank == 0:
        folder = start.checkpoint
        for note in start.notes:
            print(note)
        print(f"{folder} has had its {cfg.max_iters} steps; raise --max_iters to go on, or give another --out_dir")
        latest = Path(cfg.out_dir) / "latest"
        if not latest.exists():
            atomic.link(latest, folder.name)
        report(run)
    run.world.stop()


# --- one step ---


@dataclass
class StepResult:
    """What an optimizer step computed: scalars on the device, the same on all processes."""

    loss: Tensor  # mean over all scored tokens of the step
    grad_norm: Tensor  # before clipping
    rate: float  # learning rate
    figures: dict[str, Tensor]  # the objective's, divided like the loss


def read_batches(run: Run, step: int) -> list[Batch]:
    """This process' micro-batches of a step, of batch_size windows each, on the host; for a GPU in pinned memory.

    All processes together read the windows at positions [step * step_windows, (step + 1) * step_windows). With 2
    processes and 2 micro-batches of 3 windows, step 0 reads 0-11: process 0 has 0-2 and 6-8, process 1 3-5 and 9-11.
    """
    size = run.cfg.batch_size
    first = step * run.step_windows + run.world.rank * size
    stride = run.world.size * size
    batches = []
    for i in range(micro_steps(run.cfg, run.world.size)):
        begin = first + i * stride
        positions = np.arange(begin, begin + size)
        batch = run.data.batch(positions)
        batches.append(batch.pinned() if run.device.type == "cuda" else batch)
    return batches


def take_step(run: Run) -> StepResult:
    """One optimizer step: gradients of all micro-batches and processes summed, clipped, applied if they are finite."""
    cfg, world = run.cfg, run.world
    batches = [batch.to(run.device) for batch in run.ahead.take(run.state.step)]
    own_count = sum(batch.count for batch in batches)
    (all_counts,) = world.sum_numbers(own_count)
    count = max(1, all_counts)  # a step may have no scored token

    loss = torch.zeros((), device=run.device)
    figures: dict[str, Tensor] = {}
    with advice_for_full_memory(cfg):
        for i, batch in enumerate(batches):
            if has_cuda_graphs(run):
                torch.compiler.cudagraph_mark_step_begin()  # what the pass before has left may be overwritten
            with accumulating(run.parallel, last=i == len(batches) - 1):
                with run.precision():
                    batch_loss, batch_figures = run.objective(run.parallel, batch)
                    part = batch_loss / count
                whole = part * world.size  # DDP and FSDP average gradients over processes: this makes it a sum
                if run.loss_scale is not None:
                    whole = run.loss_scale.apply(whole)
                whole.backward()
            loss += part.detach()
            for name, value in batch_figures.items():
                figures[name] = figures.get(name, 0) + value.detach() / count

        own_finite = loss.isfinite()
        world.sum(loss)
        for name in figures:
            world.sum(figures[name])
        if run.loss_scale is not None:
            run.loss_scale.remove(run.model.parameters())
        grad_norm = full_tensor(torch.nn.utils.clip_grad_norm_(run.model.parameters(), cfg.grad_clip or math.inf))

        rate = learning_rate(run.state.step, cfg)
        finite = loss.isfinite() & grad_norm.isfinite()
        run.optimizer.step(rate, finite)
        if run.loss_scale is not None:
            figures["loss_scale"] = run.loss_scale.factor.clone()
            run.loss_scale.update(finite)

    run.skips.count(finite, own_finite)
    run.state.step += 1
    return StepResult(loss, grad_norm, rate, figures)


# --- log lines ---


@dataclass
class StepNumbers:
    """What a log line shows, on the host."""

    loss: float
    grad_norm: float
    rate: float
    figures: dict[str, float]
    skipped: float  # steps since the last log line
    skipped_by_own_loss: float
    longest_row: float  # most skipped steps in a row


def read_numbers(run: Run, result: StepResult) -> StepNumbers:
    """Copy a step's numbers to the host. Only here the host waits for the device."""
    skips = run.skips
    scalars = [result.loss, result.grad_norm, skips.since_log, skips.by_own_loss, skips.longest_row]
    scalars += [figure.to(result.loss.dtype) for figure in result.figures.values()]
    loss, grad_norm, skipped, by_own_loss, longest_row, *values = torch.stack(scalars).tolist()
    skips.reset_after_log()
    figures = dict(zip(result.figures, values, strict=True))
    return StepNumbers(loss, grad_norm, result.rate, figures, skipped, by_own_loss, longest_row)


def check_skipped(run: Run, numbers: StepNumbers) -> None:
    """Raise ValueError in all processes when max_skipped steps in a row were skipped."""
    if numbers.longest_row < run.cfg.max_skipped:
        return
    world = run.world
    flags = [numbers.skipped_by_own_loss > 0 and rank == world.rank for rank in range(world.size)]
    ranks = [str(rank) for rank, bad in enumerate(world.sum_numbers(*flags)) if bad]
    where = ", ".join(ranks) or "none, the gradient alone"
    wrong = f"{numbers.longest_row:.0f} steps in a row were skipped (rank: {where})"
    now = f"at step {run.state.step} the loss is {numbers.loss} and the gradient's norm {numbers.grad_norm}"
    advice = f"lower --learning_rate ({run.cfg.learning_rate})"
    raise ValueError(f"{wrong}; {now}; {advice}; {checkpoints_left(run)}")


def log_line(run: Run, numbers: StepNumbers) -> None:
    """Write a step's numbers to metrics.jsonl and speed.jsonl, and print them."""
    cfg, step = run.cfg, run.state.step
    metrics = {"step": step, "loss": numbers.loss, "lr": numbers.rate, "grad_norm": numbers.grad_norm}
    metrics |= run.data.progress(step * run.step_windows)
    metrics |= numbers.figures
    if numbers.skipped:
        metrics["skipped"] = numbers.skipped

    seconds_per_step = run.pace.take()
    tokens_per_s = cfg.batch_tokens / seconds_per_step
    speed = {"tokens_per_s": round(tokens_per_s, 1), "dt_ms": round(1000 * seconds_per_step, 3)}
    peak = peak_flops(run.device) if run.dtype.itemsize == 2 else None
    if peak is not None:
        flops = run.model.flops_per_token(cfg.block_size) * tokens_per_s
        speed["mfu"] = flops / (peak * run.world.size)
    run.world.all_succeed(run.log.log, metrics, speed)

    parts = [f"step {step:>6}", f"loss {numbers.loss:.4f}"]
    parts += [f"{name} {value:.4f}" for name, value in numbers.figures.items()]
    parts += [f"lr {numbers.rate:.2e}", f"grad norm {numbers.grad_norm:.2f}", f"{tokens_per_s:,.0f} tokens/s"]
    if peak is not None:
        parts.append(f"MFU {100 * speed['mfu']:.1f} %")
    if numbers.skipped:
        parts.append(f"skipped {numbers.skipped:.0f}")
    left_s = round((cfg.max_iters - step) * seconds_per_step)
    parts.append(f"{left_s // 60}:{left_s % 60:02d} left")
    run.say(" | ".join(parts))


# --- checkpoints ---


def save_if_due(run: Run, last: bool) -> bool:
    """Write a checkpoint if one is due. Returns whether the run was asked to stop: then one was written."""
    cfg, state = run.cfg, run.state
    on_interval = state.step > 0 and state.step % cfg.checkpoint_interval == 0
    overdue = cfg.checkpoint_minutes is not None and time.monotonic() - run.saved_s >= 60 * cfg.checkpoint_minutes

    # A signal may have reached one process only, and clocks differ: all agree, so that all save at the same step.
    asked = run.stop_signal.received or run.world.orphaned()
    stop, due = run.world.sum_numbers(asked, overdue and run.world.rank == 0)
    if last or stop or due or on_interval:
        save(run)
    return bool(stop)


def save(run: Run) -> None:
    """Write a checkpoint of this step. All processes take part.

    Raises ValueError when a weight is NaN or infinite: such a checkpoint could not be loaded.
    """
    cfg, state, world = run.cfg, run.state, run.world
    if not all_finite(run.model, world):
        wrong = f"at step {state.step} a weight is NaN or infinite, so no checkpoint is written"
        raise ValueError(f"{wrong}; lower --learning_rate ({cfg.learning_rate}); {checkpoints_left(run)}")

    is_best = state.evaluated == state.step and state.val_loss < state.best_val_loss
    if is_best:
        state.best_val_loss = state.val_loss

    saved = asdict(state)
    saved["position"] = state.step * run.step_windows
    saved["settings"] = asdict(cfg)
    saved["threads"] = torch.get_num_threads()
    saved["data"] = run.data.content()
    saved["compiled"] = run.compiled
    if run.loss_scale is not None:
        saved["loss_scale"] = run.loss_scale.state()
    skipped = int(run.skips.in_a_row.item())
    if skipped > 0:
        saved["skipped_in_a_row"] = skipped  # marks this checkpoint as unhealthy: pruning keeps the newest healthy one
    arguments = (state.step, run.model, run.optimizer, run.files, saved, is_best, cfg.keep_checkpoints)
    world.all_succeed(checkpoint.save, Path(cfg.out_dir), *arguments)
    run.saved_s = time.monotonic()


def all_finite(model: Llama, world: World) -> bool:
    """Whether no weight is NaN or infinite, in any process."""
    with torch.no_grad():
        flags = []
        for parameter in model.parameters():
            flags.append(own_share(parameter).isfinite().all())
    broken = not torch.stack(flags).all()
    return not any(world.sum_numbers(broken))


def checkpoints_left(run: Run) -> str:
    """Which checkpoints a run has, for the end of an error: the newest, and the newest with a finite loss."""
    out_dir = Path(run.cfg.out_dir)
    if checkpoint.newest_complete(out_dir) is None:
        return "there is no checkpoint yet"

    latest = out_dir / "latest"
    newest = f"the newest checkpoint is {latest}"
    own = checkpoint.own_checkpoints(out_dir)
    healthy = [step for step, folder in own.items() if checkpoint.is_healthy(checkpoint.read_state(folder))]
    if not healthy:
        return f"{newest}, and its loss is NaN or infinite as well"
    good = own[max(healthy)]
    if good.name == latest.resolve().name:
        return newest
    return f"{newest}, the newest with a finite loss is {good}"


# --- the loop ---


def main(cfg: TrainConfig) -> None:
    """One training run, or the rest of one; no other may write to its out_dir meanwhile."""
    with contextlib.ExitStack() as on_exit:  # gives back the lock and the signals, however the run ends
        # Set up
        run, start = setup(cfg, on_exit)
        cfg, state = run.cfg, run.state
        if state.step >= cfg.max_iters:
            show_finished(run, start)
            return
        prepare_loop(run, start, on_exit)
        on_exit.enter_context(run.stop_signal)

        while True:
            # Once in a while: evaluate, save, stop
            last = state.step >= cfg.max_iters
            evaluation_due = last or state.step % cfg.eval_interval == 0
            if evaluation_due and state.step > state.evaluated:  # a resumed run may have had this one
                evaluate(run, last)
            stop = save_if_due(run, last)
            if last or stop:
                break

            # One optimizer step
            numbers = None
            with run.traced(), run.pace.timed_step():
                result = take_step(run)
                if state.step % cfg.log_interval == 0 or state.step == cfg.max_iters:
                    numbers = read_numbers(run, result)

            # Log
            if numbers is not None:
                check_skipped(run, numbers)
                log_line(run, numbers)
            run.bar.update(1)

        # End
        run.parallel = None  # DDP must be gone before the processes part
        run.world.stop()
        run.bar.close()
        run.log.close()
        if last and run.world.rank == 0:
            report(run)
            print(f"peak memory: {peak_memory(run.device)}")
        if not last:
            leave_early(run)


def leave_early(run: Run) -> None:
    """End the process of a run that was asked to stop; process 0 says where it stands."""
    if run.world.rank == 0:
        saved = f"stopped at step {run.state.step}, saved in {run.cfg.out_dir}/latest"
        raise KeyboardInterrupt(f"{saved}; the same command continues")
    sys.exit(130)


if __name__ == "__main__":
    record(configurator.run)(main, TrainConfig)  # what is not a user's mistake goes into torchrun's summary
