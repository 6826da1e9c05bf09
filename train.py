"""Train a Llama-like model on prepared token shards.

    python train.py config/demo.py                                              one process
    torchrun --standalone --nproc_per_node=8 train.py config/demo.py            DDP; --parallel=fsdp divides the model
    python train.py config/demo.py --out_dir=out/x --learning_rate=1e-3         any setting; --help lists them
    python train.py config/demo.py --data=wiki_en:0.8,wiki_zh:0.2               several corpora, mixed by weight
    python train.py --init_from=path/to/SmolLM --data=wiki --block_size=1024    on from a Hugging Face folder's weights

The same command resumes from the newest checkpoint in out_dir. Ctrl-C saves at the next step boundary and leaves.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import functools
import math
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.distributed.elastic.multiprocessing.errors import record
from tqdm import tqdm

import atomic
import checkpoint
import journal
import sample
from errors import read_json
from mixture import Mixture
from model import IGNORE, Llama, ModelConfig
from optim import Optimizer, learning_rate
from parallel import World, accumulating, copy_full, full_tensor, replicate, shard
from sample import decode, generate, pick_device
from shards import EvalWindows
from tokenizer import Tokenizer

LOCK_WAIT_S = 120  # for a run whose launcher was killed: it stops after the step that it is in
# Of dense matrix products in bfloat16, by a part of the device's name: the makers' data sheets.
PEAK_TFLOPS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}
PEAK_TFLOPS |= {"A10": 125, "RTX 4090": 165, "RTX 3090": 71}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `python train.py`."""

    data: str = "pydocs"  # folder made by prepare_wiki.py (a name below data/, or a path), or several: a:0.8,b:0.2
    out_dir: str = "out/run"  # checkpoints, metrics.jsonl, loss.png
    init_from: str | None = None  # start from these weights: a Hugging Face folder of the Llama family, or a run here
    resume_from: str | None = None  # go on from this checkpoint, its optimizer and place in the data, in a new out_dir
    # model; with init_from it is the folder's
    n_layer: int = 4
    n_head: int = 4  # query heads
    n_kv_head: int = 2  # key/value heads, each shared by n_head / n_kv_head query heads
    n_embd: int = 128  # model width
    ffn_hidden: int | None = None  # feed-forward width; None: 8/3 n_embd, rounded up to a multiple of 64
    block_size: int = 128  # tokens in a training window, and the longest context
    rope_theta: float = 10000.0  # base of the rotary frequencies
    tie_embeddings: bool = True  # the output head is the embedding
    # the optimizer and its schedule
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: for the blocks' matrices, AdamW for the rest
    batch_tokens: int = 1536  # tokens of one optimizer step, over all processes
    batch_size: int = 12  # windows in one forward-backward of one process
    max_iters: int = 2000  # optimizer steps
    learning_rate: float = 3e-3  # at its peak
    muon_lr: float = 0.02  # Muon's at its peak
    min_lr: float = 0.0  # at the end of the decay
    warmup_iters: int = 100  # steps of linear increase from 0
    lr_decay_iters: int | None = None  # step at which min_lr is reached; None: max_iters
    schedule: Literal["linear", "cosine", "wsd"] = "linear"  # shape of the decay; wsd: at the end only
    decay_iters: int = 400  # wsd: steps of the decay; it can begin at any checkpoint: raise max_iters by these
    weight_decay: float = 0.1  # on the matrices inside the blocks
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0  # largest global norm of the gradient; 0: no clipping
    max_skipped: int = 10  # steps in a row with a loss or gradient that is no number, each skipped, until the run stops
    seed: int = 1337  # of the initial weights and the order of the data
    shuffle_run: int = 1  # neighbouring windows that the shuffle keeps together; 16 for disks that are slow to seek
    # seeing and saving
    eval_interval: int = 250  # steps between evaluations on the whole validation split
    log_interval: int = 20  # steps between log lines
    checkpoint_interval: int = 250  # steps between checkpoints; one is written at the end as well
    checkpoint_minutes: float | None = None  # also after so many minutes without one
    keep_checkpoints: int = 2  # newest ones kept; the best is kept besides
    sample_prompt: str = "Return the"  # text continued at each evaluation
    wandb: bool = False  # log to Weights & Biases too (WANDB_MODE=offline needs no account)
    wandb_project: str = "nonllama"
    # machine
    device: str = "auto"  # cpu, cuda, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of matrix products; auto: bfloat16 if the device has it
    parallel: Literal["ddp", "fsdp"] = "ddp"  # each process has the whole model, or (fsdp) its share of it
    recompute: bool = False  # compute blocks again for the gradient: a third more work, much less memory
    compile: bool = False  # torch.compile (needs a C++ compiler; the first step takes 10-60 s)
    num_threads: int | None = None  # CPU threads of a process; None: torch's choice

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        ones = ("max_iters", "batch_size", "batch_tokens", "block_size", "shuffle_run", "max_skipped", "num_threads")
        ones += ("eval_interval", "log_interval", "checkpoint_interval", "keep_checkpoints")
        zeros = ("learning_rate", "muon_lr", "min_lr", "weight_decay", "grad_clip", "warmup_iters", "decay_iters")
        for key, value in (dict.fromkeys(ones, 1) | dict.fromkeys((*zeros, "checkpoint_minutes"), 0)).items():
            if getattr(self, key) is not None and not getattr(self, key) >= value:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least {value}")
        if self.optimizer == "muon" and self.parallel == "fsdp":
            raise ValueError("optimizer=muon needs whole matrices, fsdp divides them; choose --parallel=ddp or adamw")
        if self.optimizer == "muon" and not self.learning_rate:
            raise ValueError("optimizer=muon follows the schedule of learning_rate, which must be above 0")


# What a resumed run may not change: the model, the data, and which tokens make a step.
MODEL = ("n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden", "rope_theta", "tie_embeddings")
RESUME_FIXED = ("data", "init_from", *MODEL, "block_size", "optimizer", "batch_tokens", "seed", "shuffle_run")


def micro_steps(cfg: TrainConfig, world_size: int) -> int:
    """Forward-backward passes of one process in a step. Raises ValueError when the step cannot be cut evenly."""
    row = cfg.block_size * world_size  # tokens of a window for each process
    if cfg.batch_tokens % row:
        nearest = max(1, round(cfg.batch_tokens / row)) * row
        wanted = f"a multiple of block_size x processes ({cfg.block_size} x {world_size})"
        raise ValueError(f"batch_tokens ({cfg.batch_tokens}) must be {wanted}; try --batch_tokens={nearest}")
    mine = cfg.batch_tokens // row
    if mine % cfg.batch_size:
        nearest = max(size for size in range(1, min(mine, cfg.batch_size) + 1) if mine % size == 0)
        wrong = f"batch_size ({cfg.batch_size}) must divide a process' {mine} windows"
        raise ValueError(f"{wrong}; try --batch_size={nearest}")
    return mine // cfg.batch_size


def batch(data: Mixture, first: int, batch_size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The windows at global positions first, first + 1, ...: inputs and targets, each (batch_size, block_size).

    Also how many of the targets are scored, counted before they leave for the device.
    """
    tokens = torch.from_numpy(data.get(np.arange(first, first + batch_size)))  # (batch_size, block_size + 1)
    scored = int((tokens[:, 1:] != IGNORE).sum())
    if device.type == "cuda":
        tokens = tokens.pin_memory().to(device, non_blocking=True)
    return tokens[:, :-1], tokens[:, 1:], scored


@torch.no_grad()
def evaluate(model: torch.nn.Module, windows: EvalWindows, batch_size: int, precision: Callable, world: World) -> float:
    """Mean loss in nats per token over the whole validation split; every process takes its share, then all reduce."""
    device = next(model.parameters()).device
    # nats, tokens scored
    total = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    model.eval()
    for x, y in windows.batches(batch_size, world.rank, world.size):
        x, y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        with precision():
            total[0] += model(x, y)
        total[1] += (y != IGNORE).sum()
    model.train()
    world.sum(total)
    return (total[0] / total[1]).item()


def validate(cfg: TrainConfig, model: Llama, data: Mixture, precision: Callable, world: World) -> dict[str, float]:
    """Metrics of an evaluation: the corpora's losses in their shares, as bits per byte too; each one's if several."""
    losses = {corpus.name: evaluate(model, corpus.val, cfg.batch_size, precision, world) for corpus in data.corpora}
    val_loss = sum(share * loss for share, loss in zip(data.shares, losses.values(), strict=True))
    each = {f"val_loss/{name}": loss for name, loss in losses.items() if len(losses) > 1}
    return {"val_loss": val_loss, "val_bits_per_byte": val_loss / data.nats_per_bit_per_byte, **each}


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 on a device that multiplies it in hardware, else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if features.get("avx512_bf16") or features.get("amx_bf16") else torch.float32


def check_resume(cfg: TrainConfig, folder: Path, saved: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Refuse to continue a run with another model, data or step, and name the setting."""
    for key in RESUME_FIXED:
        had = saved["settings"].get(key, getattr(TrainConfig, key))  # a setting that came later had its default
        if had != getattr(cfg, key):
            wrong = f"checkpoint {folder} has {key}={had} but the settings say {getattr(cfg, key)}"
            raise ValueError(f"{wrong}; give --{key}={had} to resume, or another --out_dir")
    if not Tokenizer.load(folder).same(tokenizer):
        raise ValueError(f"checkpoint {folder} has another tokenizer than the data has now; give another --out_dir")


def model_shape(cfg: TrainConfig, vocab_size: int) -> ModelConfig:
    """The decoder that the settings describe, for a tokenizer of `vocab_size` ids."""
    shape = {key: getattr(cfg, key) for key in (*MODEL, "block_size")}
    shape["vocab_size"] = -(-vocab_size // 64) * 64  # padded: GPUs multiply multiples of 64 faster
    shape["ffn_hidden"] = -(-8 * cfg.n_embd // (3 * 64)) * 64 if cfg.ffn_hidden is None else cfg.ffn_hidden
    return ModelConfig(**shape)


def adopt(cfg: TrainConfig, folder: Path, data: Tokenizer) -> tuple[TrainConfig, ModelConfig, Tokenizer]:
    """The settings with the model of a Hugging Face folder, its shape (with a longer context, maybe), its tokenizer.

    Raises ValueError for a setting that asks for another model, and for data of another tokenizer.
    """
    shape, tokenizer = checkpoint.read_config(folder), Tokenizer.load(folder)
    checkpoint.check_vocabulary(shape, tokenizer)
    if not tokenizer.same(data):
        raise ValueError(f"the data has another tokenizer than {folder}; prepare it with --tokenizer={folder}")
    for key in MODEL:
        if getattr(cfg, key) not in (getattr(TrainConfig, key), getattr(shape, key)):
            raise ValueError(f"{key}={getattr(cfg, key)}, but {folder} has {getattr(shape, key)}; leave --{key} out")
    if cfg.block_size > shape.block_size:
        advice = f"try --block_size={shape.block_size}"
        raise ValueError(f"block_size ({cfg.block_size}) is longer than {folder}'s; {advice}")
    return replace(cfg, **{key: getattr(shape, key) for key in MODEL}), shape, tokenizer


def memory_advice(cfg: TrainConfig) -> contextlib.AbstractContextManager[None]:
    """Raise ValueError with the numbers to change for any error that says the memory of the device is full."""
    advice = f"lower --batch_size ({cfg.batch_size}; the steps stay the same) or block_size ({cfg.block_size}), "
    advice += "or give --recompute=True, or --parallel=fsdp on more devices"
    return sample.memory_advice(advice)


def continuation(cfg: TrainConfig, model: Llama, tokenizer: Tokenizer, precision: Callable, max_new_tokens: int) -> str:
    """sample_prompt and the text that the model continues it with; with fsdp every process must ask."""
    ids = (tokenizer.encode_prompt(cfg.sample_prompt) or [tokenizer.start])[: cfg.block_size - 1]
    model.eval()
    steps = torch.no_grad()(decode) if cfg.parallel == "fsdp" else generate
    steps = steps(model, [ids], max_new_tokens, tokenizer.vocab_size, tokenizer.stops, [cfg.seed], temperature=0.8)
    with precision():
        new = [token for (token,) in steps]
    model.train()
    return tokenizer.decode(ids + new)


def draw_loss(cfg: TrainConfig, data: Mixture) -> dict[str, dict[str, float]]:
    """Draw loss.png; returns the yardsticks of each corpus."""
    files = {corpus.name: corpus.val.shards.folder / "yardsticks.json" for corpus in data.corpora}
    yardsticks = {name: read_json(path) for name, path in files.items() if path.is_file()}
    one = yardsticks.get(data.corpora[0].name, {}) if len(files) == 1 else {}
    journal.plot(Path(cfg.out_dir), one, data.nats_per_bit_per_byte)
    return yardsticks


def report(cfg: TrainConfig, step: int, val_loss: float, data: Mixture, text: str) -> None:
    """Draw the plot, then print the result beside the yardsticks, and a few generated lines."""
    yardsticks, bits = draw_loss(cfg, data), val_loss / data.nats_per_bit_per_byte
    print(f"\nstep {step}: validation loss {val_loss:.4f} nats per token = {bits:.4f} bits per byte")
    for name, found in yardsticks.items():
        values = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
        print(f"on {'the same text' if len(data.corpora) == 1 else f'the text of {name}'}: {values} bits per byte")
    print(f"\n--- {cfg.sample_prompt!r}, continued at temperature 0.8 ---\n{text}\n---")
    print(f"wrote {cfg.out_dir}/latest (a Hugging Face Llama folder), metrics.jsonl and loss.png beside it")


def peak_flops(device: torch.device) -> float | None:
    """What the device could do, None where it is not known."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((tflops * 1e12 for part, tflops in PEAK_TFLOPS.items() if part in name), None)


def peak_memory(device: torch.device) -> str:
    """The most memory that this process has had, on its device or else on the host."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB on the GPU of process 0"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{peak / 1e6:,.0f} MB of process 0"


def main(cfg: TrainConfig) -> None:
    """One training run, or the rest of one; no other may write to its out_dir meanwhile."""
    with contextlib.ExitStack() as held:
        train(cfg, held)


def train(cfg: TrainConfig, held: contextlib.ExitStack) -> None:
    """The run, top to bottom; `held` gives back what it enters there."""
    # setup: check what can be checked before anything is slow
    cfg.check()
    world, out_dir = World(), Path(cfg.out_dir)
    accumulate, step_windows = micro_steps(cfg, world.size), cfg.batch_tokens // cfg.block_size
    data = Mixture(cfg.data, cfg.block_size, cfg.seed, cfg.shuffle_run)
    device = pick_device(cfg.device)
    if device.type == "cuda" and world.size > 1:
        device = pick_device(f"cuda:{world.local_rank}")
        torch.cuda.set_device(device)
    world.start(device)
    lock = functools.partial(atomic.lock, out_dir, LOCK_WAIT_S)
    locked = world.rank == 0 and out_dir.is_dir()
    world.all_succeed(lambda: held.enter_context(lock()) if locked else None)
    folder = None  # the checkpoint to resume from
    if (out_dir / "latest").exists():
        folder = out_dir / (out_dir / "latest").resolve().name
    elif cfg.resume_from is not None:
        folder = checkpoint.resolve(cfg.resume_from).resolve()
    if cfg.init_from is None:
        shape, carried = model_shape(cfg, data.tokenizer.vocab_size), {}
    else:
        origin = folder or checkpoint.resolve(cfg.init_from)
        cfg, shape, data.tokenizer = adopt(cfg, origin, data.tokenizer)
        carried = checkpoint.companions(origin)
    dtype = pick_dtype(cfg.dtype, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    state = {"step": 0, "evaluated": -1, "val_loss": math.inf, "best_val_loss": math.inf}
    if folder is not None:
        saved = checkpoint.read_state(folder)
        check_resume(cfg, folder, saved, data.tokenizer)
        state = {key: saved[key] for key in state}
    precision = functools.partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)

    # model and optimizer: made without memory, divided, then filled
    with torch.device("meta"):
        model = Llama(shape)
    model.model.recompute_blocks = cfg.recompute
    if divided := cfg.parallel == "fsdp" and world.size > 1:
        for layer in model.model.layers if cfg.compile else ():
            layer.compile()
        shard(model, device, dtype)
    model.to_empty(device=device)
    optimizer, files = Optimizer(model, cfg, device), checkpoint.small_files(model, data.tokenizer, carried)
    if folder is not None:
        checkpoint.restore(folder, model, optimizer)
    elif cfg.init_from is not None:
        checkpoint.load_weights(model, origin)
    else:
        torch.manual_seed(cfg.seed)
        with torch.no_grad():
            for parameter, value in model.initial_weights():
                copy_full(parameter, value)
    if state["step"] >= cfg.max_iters:
        text = continuation(cfg, model, data.tokenizer, precision, 100)
        if world.rank == 0:
            print(f"{folder} has had its {cfg.max_iters} steps; raise --max_iters to go on, or give another --out_dir")
            report(cfg, state["step"], state["val_loss"], data, text)
        world.stop()
        return
    parallel = compiled = torch.compile(model) if cfg.compile and not divided else model
    if world.size > 1 and not divided:
        zeros = torch.zeros((cfg.batch_size, cfg.block_size), dtype=torch.int64, device=device)
        with memory_advice(cfg):
            parallel = replicate(compiled, zeros, precision)

    # the journal of rank 0
    settings, threads = asdict(cfg), torch.get_num_threads()
    if world.rank == 0:
        out_dir.mkdir(parents=True, exist_ok=True)
        if not locked:
            held.enter_context(lock())
        atomic.write_json(out_dir / "settings.json", settings)
        wandb = {"project": cfg.wandb_project, "name": out_dir.name, "config": settings} if cfg.wandb else None
        log = journal.Journal(out_dir, state["step"], wandb)
        on = f"{device.type}, {str(dtype).removeprefix('torch.')}, processes: {world.size}, threads in each: {threads}"
        print(f"{model.num_parameters():,} parameters; {cfg.max_iters:,} steps of {cfg.batch_tokens:,} tokens; {on}")
        print(data.describe(cfg.max_iters * step_windows))
        if folder is not None:
            print(f"resumed from {folder}", flush=True)
            if saved.get("threads", threads) != threads:
                print(f"note: it ran with --num_threads={saved['threads']}; the last bits of the results will differ")
    # disable=None: no bar where the output is no terminal
    bar = tqdm(total=cfg.max_iters, initial=state["step"], unit=" steps", desc="train", disable=world.rank > 0 or None)
    interrupted: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        interrupted.append(number)
        signal.signal(number, previous[number])  # a second one acts at once

    for number in previous:
        signal.signal(number, on_signal)

    # loop
    update_s, logged_step, saved_s = 0.0, state["step"], time.monotonic()
    skips = torch.zeros(4, device=device)  # since the last log line; in a row; most in a row; of this process' making
    while True:
        # once in a while: evaluate, save, stop
        step = state["step"]
        last = step >= cfg.max_iters
        if (step % cfg.eval_interval == 0 or last) and step > state["evaluated"]:
            scores = validate(cfg, compiled, data, precision, world)
            state |= {"evaluated": step, "val_loss": scores["val_loss"]}
            text = continuation(cfg, model, data.tokenizer, precision, 100 if last else 40)
            if divided:
                model.reshard()  # without a backward pass the root's parameters are left whole
            if world.rank == 0:
                log.log({"step": step, **scores})
                val_loss, bits = scores["val_loss"], scores["val_bits_per_byte"]
                bar.write(f"step {step:>6} | validation loss {val_loss:.4f} | {bits:.4f} bits per byte")
                if not last:
                    bar.write(f"step {step:>6} | {text!r}")
                    draw_loss(cfg, data)
        overdue = cfg.checkpoint_minutes is not None and time.monotonic() - saved_s >= 60 * cfg.checkpoint_minutes
        # a signal may have reached one process only, and clocks differ: all stop, and save, at the same step
        stop, due = world.agree(bool(interrupted) or world.orphaned(), overdue and world.rank == 0)
        if last or stop or due or (step and step % cfg.checkpoint_interval == 0):
            if best := state["evaluated"] == step and state["val_loss"] < state["best_val_loss"]:
                state["best_val_loss"] = state["val_loss"]
            saved = {**state, "position": step * step_windows, "settings": settings, "threads": threads}
            # all succeed, or all stop: the disk may be full
            world.all_succeed(
                checkpoint.save, out_dir, step, model, optimizer, files, saved, best, cfg.keep_checkpoints
            )
            saved_s = time.monotonic()
        if last or stop:
            break

        # one optimizer step on the windows at positions [step * step_windows, (step + 1) * step_windows)
        start_s = time.perf_counter()
        first, stride = step * step_windows + world.rank * cfg.batch_size, world.size * cfg.batch_size
        batches = [batch(data, first + i * stride, cfg.batch_size, device) for i in range(accumulate)]
        scored = max(1, *world.agree(sum(n for _, _, n in batches)))
        loss = torch.zeros((), device=device)
        with memory_advice(cfg):
            for i, (x, y, _) in enumerate(batches):
                with accumulating(parallel, last=i == accumulate - 1):
                    with precision():
                        part = parallel(x, y) / scored  # summed over the micro-batch, divided by the step's count
                    (part * world.size).backward()  # the mean over processes is taken; the loss is a sum
                loss += part.detach()
            mine = loss.isfinite()
            world.sum(loss)
            norm = full_tensor(torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf))
            finite, rate = loss.isfinite() & norm.isfinite(), learning_rate(step, cfg)
            optimizer.step(rate, finite)
        skipped, in_a_row, most, own = skips.unbind()
        in_a_row.add_(1).mul_(~finite)
        torch.maximum(most, in_a_row, out=most)
        skipped.add_(~finite)
        own.add_(~mine)
        state["step"] = step = step + 1

        # log
        if logging := step % cfg.log_interval == 0 or step == cfg.max_iters:
            values = torch.stack([loss, norm, *skips]).tolist()  # the device is waited for here only
            found = [value if math.isfinite(value) else None for value in values]  # JSON has no NaN
            metrics = {"step": step, "loss": found[0], "lr": rate, "grad_norm": found[1]}
            metrics |= data.progress(step * step_windows) | ({"skipped": values[2]} if values[2] else {})
            if values[4] >= cfg.max_skipped:
                guilty = world.agree(*[bool(values[5]) and rank == world.rank for rank in range(world.size)])
                ranks = ", ".join(str(rank) for rank, bad in enumerate(guilty) if bad) or "none, the gradient alone"
                now = f"at step {step} the loss is {values[0]} and the gradient's norm {values[1]}"
                wrong = f"{values[4]:.0f} steps in a row were skipped (rank: {ranks}); {now}; lower --learning_rate"
                raise ValueError(f"{wrong} ({cfg.learning_rate}); the newest checkpoint is {out_dir}/latest")
            skips[[0, 2, 3]] = 0
        update_s += time.perf_counter() - start_s
        bar.update(1)
        if world.rank == 0 and logging:
            dt_s = update_s / (step - logged_step)
            tokens_per_s, left_s = cfg.batch_tokens / dt_s, round((cfg.max_iters - step) * dt_s)
            speed = {"tokens_per_s": round(tokens_per_s, 1), "dt_ms": round(1000 * dt_s, 3)}
            if peak := peak_flops(device) if dtype == torch.bfloat16 else None:
                speed["mfu"] = model.flops_per_token(cfg.block_size) * tokens_per_s / (peak * world.size)
            log.log(metrics, speed)
            line = f"step {step:>6} | loss {values[0]:.4f} | lr {rate:.2e} | grad norm {values[1]:.2f} | "
            line += f"{tokens_per_s:,.0f} tokens/s | " + (f"MFU {100 * speed['mfu']:.1f} % | " if peak else "")
            line += f"skipped {values[2]:.0f} | " if values[2] else ""
            bar.write(line + f"{left_s // 60}:{left_s % 60:02d} left")
            update_s, logged_step = 0.0, step

    # end
    for number, handler in previous.items():
        signal.signal(number, handler)
    del parallel
    world.stop()
    if world.rank == 0:
        bar.close()
        log.close()
        if last:
            report(cfg, step, state["val_loss"], data, text)
            print(f"peak memory: {peak_memory(device)}")
    if stop and not last:
        if world.rank == 0:
            raise KeyboardInterrupt(f"stopped at step {step}, saved in {out_dir}/latest; the same command continues")
        sys.exit(130)


if __name__ == "__main__":
    record(configurator.run)(main, TrainConfig)  # what is not a user's mistake goes into torchrun's summary
