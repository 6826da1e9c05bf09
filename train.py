"""Train a Llama-like model on prepared token shards.

    python train.py config/demo.py                                              one process
    torchrun --standalone --nproc_per_node=8 train.py config/demo.py            DDP
    python train.py config/demo.py --out_dir=out/x --learning_rate=1e-3         any setting; --help lists them
    python train.py config/demo.py --data=wiki_en:0.8,wiki_zh:0.2               several corpora, mixed by weight
    python train.py --init_from=path/to/SmolLM --data=wiki --block_size=1024    on from a Hugging Face folder's weights

The same command resumes from the newest checkpoint in out_dir. Ctrl-C saves at the next step boundary and leaves.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import dataclasses
import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import atomic
import checkpoint
import journal
from mixture import Mixture
from model import IGNORE, Llama, ModelConfig
from sample import generate, pick_device
from shards import EvalWindows
from tokenizer import Tokenizer


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `python train.py`."""

    data: str = "pydocs"  # folder made by prepare_wiki.py (a name below data/, or a path), or several: a:0.8,b:0.2
    out_dir: str = "out/run"  # checkpoints, metrics.jsonl, loss.png
    init_from: str | None = None  # start from these weights: a Hugging Face folder of the Llama family, or a run here
    # model; with init_from it is the folder's
    n_layer: int = 4
    n_head: int = 4  # query heads
    n_kv_head: int = 2  # key/value heads, each shared by n_head / n_kv_head query heads
    n_embd: int = 128  # model width
    ffn_hidden: int | None = None  # feed-forward width; None: 8/3 n_embd, rounded up to a multiple of 64
    block_size: int = 128  # tokens in a training window, and the longest context
    rope_theta: float = 10000.0  # base of the rotary frequencies
    tie_embeddings: bool = True  # the output head is the embedding
    # the optimizer (AdamW) and its schedule
    batch_tokens: int = 1536  # tokens of one optimizer step, over all processes
    batch_size: int = 12  # windows in one forward-backward of one process
    max_iters: int = 2000  # optimizer steps
    learning_rate: float = 3e-3  # at its peak
    min_lr: float = 0.0  # at the end of the decay
    warmup_iters: int = 100  # steps of linear increase from 0
    lr_decay_iters: int | None = None  # step at which min_lr is reached; None: max_iters
    schedule: Literal["linear", "cosine"] = "linear"  # shape of the decay
    weight_decay: float = 0.1  # on the matrices inside the blocks
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0  # largest global norm of the gradient; 0: no clipping
    seed: int = 1337  # of the initial weights and the order of the data
    shuffle_run: int = 1  # neighbouring windows that the shuffle keeps together; 16 for disks that are slow to seek
    # seeing and saving
    eval_interval: int = 250  # steps between evaluations on the whole validation split
    log_interval: int = 20  # steps between log lines
    checkpoint_interval: int = 250  # steps between checkpoints; one is written at the end as well
    keep_checkpoints: int = 2  # newest ones kept; the best is kept besides
    sample_prompt: str = "Return the"  # text continued after training
    wandb: bool = False  # log to Weights & Biases too (WANDB_MODE=offline needs no account)
    wandb_project: str = "nonllama"
    # machine
    device: str = "auto"  # cpu, cuda, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16"] = (
        "auto"  # of the matrix products; auto: bfloat16 where the device has it
    )
    compile: bool = False  # torch.compile (needs a C++ compiler; the first step takes 10-60 s)
    num_threads: int | None = None  # CPU threads of a process; None: torch's choice

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        for key in (
            "max_iters",
            "batch_size",
            "batch_tokens",
            "block_size",
            "shuffle_run",
            "eval_interval",
            "log_interval",
            "checkpoint_interval",
        ):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")
        for key in ("learning_rate", "min_lr", "weight_decay", "grad_clip", "warmup_iters"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 0")
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints ({self.keep_checkpoints}) must be at least 1")
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads ({self.num_threads}) must be at least 1")


# What a resumed run may not change: the model, the data, and which tokens make a step.
MODEL = ("n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden", "rope_theta", "tie_embeddings")
RESUME_FIXED = ("data", "init_from", *MODEL, "block_size", "batch_tokens", "seed", "shuffle_run")


def learning_rate(step: int, cfg: TrainConfig) -> float:
    """The rate of the update that makes step `step` + 1: linear warm-up, then linear or cosine decay to min_lr."""
    if step < cfg.warmup_iters:
        return cfg.learning_rate * (step + 1) / cfg.warmup_iters
    end = cfg.lr_decay_iters if cfg.lr_decay_iters is not None else cfg.max_iters
    done = min(1.0, (step - cfg.warmup_iters) / max(1, end - cfg.warmup_iters))
    left = 1 - done if cfg.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return cfg.min_lr + left * (cfg.learning_rate - cfg.min_lr)


def micro_steps(cfg: TrainConfig, world_size: int) -> int:
    """Forward-backward passes of one process in a step. Raises ValueError when the step cannot be cut evenly."""
    windows = cfg.batch_tokens // cfg.block_size
    if cfg.batch_tokens % cfg.block_size or not windows:
        nearest = max(1, round(cfg.batch_tokens / cfg.block_size)) * cfg.block_size
        raise ValueError(
            f"batch_tokens ({cfg.batch_tokens}) must be a multiple of block_size ({cfg.block_size}); try {nearest}"
        )
    if windows % world_size:
        nearest = max(1, round(windows / world_size)) * world_size * cfg.block_size
        raise ValueError(
            f"batch_tokens ({cfg.batch_tokens}) is {windows} windows, which {world_size} processes cannot share; "
            f"try --batch_tokens={nearest}"
        )
    mine = windows // world_size
    if mine % cfg.batch_size:
        nearest = max(size for size in range(1, min(mine, cfg.batch_size) + 1) if mine % size == 0)
        raise ValueError(
            f"a process has {mine} windows in a step, no multiple of batch_size ({cfg.batch_size}); "
            f"try --batch_size={nearest}"
        )
    return mine // cfg.batch_size


def batch(data: Mixture, first: int, batch_size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets, each (batch_size, block_size): the windows at global positions first, first + 1, ..."""
    tokens = torch.from_numpy(data.get(np.arange(first, first + batch_size)))  # (batch_size, block_size + 1)
    if device.type == "cuda":
        tokens = tokens.pin_memory().to(device, non_blocking=True)
    return tokens[:, :-1], tokens[:, 1:]


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, windows: EvalWindows, batch_size: int, precision: Callable, device: torch.device
) -> float:
    """Mean loss in nats per token over the whole validation split; every process takes its share, then all reduce."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    wide = torch.float32 if device.type == "mps" else torch.float64
    total = torch.zeros(2, dtype=wide, device=device)  # nats, tokens scored
    model.eval()
    for x, y in windows.batches(batch_size, rank, world_size):
        x, y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        with precision():
            total[0] += model(x, y)
        total[1] += (y != IGNORE).sum()
    model.train()
    if dist.is_initialized():
        dist.all_reduce(total)
    return (total[0] / total[1]).item()


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
            raise ValueError(
                f"checkpoint {folder} has {key}={had} but the settings say {getattr(cfg, key)}; "
                f"give --{key}={had} to resume, or another --out_dir"
            )
    if not Tokenizer.load(folder).same(tokenizer):
        raise ValueError(
            f"checkpoint {folder} was trained with another tokenizer than the data has now; give another --out_dir"
        )


def model_shape(cfg: TrainConfig, vocab_size: int) -> ModelConfig:
    """The decoder that the settings describe, for a tokenizer of `vocab_size` ids."""
    return ModelConfig(
        vocab_size=-(-vocab_size // 64) * 64,  # padded: GPUs multiply multiples of 64 faster
        block_size=cfg.block_size,
        n_layer=cfg.n_layer,
        n_head=cfg.n_head,
        n_kv_head=cfg.n_kv_head,
        n_embd=cfg.n_embd,
        ffn_hidden=cfg.ffn_hidden if cfg.ffn_hidden is not None else -(-8 * cfg.n_embd // (3 * 64)) * 64,
        rope_theta=cfg.rope_theta,
        tie_embeddings=cfg.tie_embeddings,
    )


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
        raise ValueError(
            f"block_size ({cfg.block_size}) is longer than the context of {folder}; try --block_size={shape.block_size}"
        )
    return dataclasses.replace(cfg, **{key: getattr(shape, key) for key in MODEL}), shape, tokenizer


def report(cfg: TrainConfig, step: int, val_loss: float, data: Mixture, model: Llama) -> None:
    """Draw the plot, then print the result beside the yardsticks, and a few generated lines."""
    bits, tokenizer = val_loss / data.nats_per_bit_per_byte, data.tokenizer
    yardsticks = {corpus.name: corpus.val.shards.meta["yardsticks"] for corpus in data.corpora}
    one = yardsticks[data.corpora[0].name] if len(yardsticks) == 1 else {}
    journal.plot(Path(cfg.out_dir), one, data.nats_per_bit_per_byte)
    print(f"\nstep {step}: validation loss {val_loss:.4f} nats per token = {bits:.4f} bits per byte")
    for name, found in yardsticks.items():
        if found:
            values = ", ".join(f"{key} {value:.3f}" for key, value in found.items())
            print(f"on {'the same text' if one else f'the text of {name}'}: {values} bits per byte")
    ids = (tokenizer.encode_prompt(cfg.sample_prompt) or [tokenizer.start])[: cfg.block_size - 1]
    steps = generate(model.eval(), [ids], 100, tokenizer.vocab_size, tokenizer.stops, temperature=0.8, seeds=[cfg.seed])
    new = [token for (token,) in steps]
    print(f"\n--- {cfg.sample_prompt!r}, continued at temperature 0.8 ---")
    print(f"{tokenizer.decode(ids + new)}\n---")
    print(f"wrote {cfg.out_dir}/latest (a Hugging Face Llama folder), metrics.jsonl and loss.png beside it")


def main(cfg: TrainConfig) -> None:
    """One training run, or the rest of one."""
    # setup: check what can be checked before anything is slow
    cfg.check()
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    out_dir = Path(cfg.out_dir)
    accumulate, step_windows = micro_steps(cfg, world_size), cfg.batch_tokens // cfg.block_size
    data = Mixture(cfg.data, cfg.block_size, cfg.seed, cfg.shuffle_run)
    folder, resuming = out_dir / (out_dir / "latest").resolve().name, (out_dir / "latest").exists()
    if cfg.init_from is None:
        shape, carried = model_shape(cfg, data.tokenizer.vocab_size), {}
    else:
        origin = folder if resuming else checkpoint.resolve(cfg.init_from)
        cfg, shape, data.tokenizer = adopt(cfg, origin, data.tokenizer)
        carried = checkpoint.companions(origin)
    device = pick_device(cfg.device)
    if device.type == "cuda" and world_size > 1:
        device = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
    dtype = pick_dtype(cfg.dtype, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)

    def precision() -> torch.autocast:
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    # model and optimizer
    torch.manual_seed(cfg.seed)
    model = Llama(shape).to(device) if cfg.init_from is None or resuming else checkpoint.load_model(origin, device)
    groups, betas = model.parameter_groups(cfg.weight_decay), (cfg.beta1, cfg.beta2)
    optimizer = torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=betas, fused=device.type != "mps")

    # resume: everything that must survive a restart is in the checkpoint and in `state`
    state = {"step": 0, "evaluated": -1, "val_loss": math.inf, "best_val_loss": math.inf}
    if resuming:
        saved = checkpoint.read_state(folder)
        check_resume(cfg, folder, saved, data.tokenizer)
        checkpoint.restore(folder, model, optimizer)
        state = {key: saved[key] for key in state}
        if state["step"] >= cfg.max_iters:
            if rank == 0:
                print(
                    f"{folder} has had its {cfg.max_iters} steps; raise --max_iters to go on, or give another --out_dir"
                )
                report(cfg, state["step"], state["val_loss"], data, model)
            return
    if world_size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    compiled = torch.compile(model) if cfg.compile else model
    parallel = DistributedDataParallel(compiled) if world_size > 1 else compiled
    if rank == 0:
        out_dir.mkdir(parents=True, exist_ok=True)
        settings = dataclasses.asdict(cfg)
        atomic.write_json(out_dir / "settings.json", settings)
        wandb = {"project": cfg.wandb_project, "name": out_dir.name, "config": settings} if cfg.wandb else None
        log = journal.Journal(out_dir, state["step"], wandb)
        print(
            f"{model.num_parameters():,} parameters; {cfg.max_iters:,} steps of {cfg.batch_tokens:,} tokens; "
            f"{device.type}, {str(dtype).removeprefix('torch.')}, "
            f"processes: {world_size}, threads in each: {torch.get_num_threads()}"
        )
        print(data.describe(cfg.max_iters * step_windows))
        if state["step"]:
            print(f"resumed from {folder}", flush=True)
        bar = tqdm(total=cfg.max_iters, initial=state["step"], unit=" steps", desc="train", disable=None)
    interrupted: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        interrupted.append(number)
        signal.signal(number, previous[number])  # a second one acts at once

    for number in previous:
        signal.signal(number, on_signal)

    # loop
    update_s, logged_step = 0.0, state["step"]
    while True:
        # once in a while: evaluate, save, stop
        step = state["step"]
        last = step >= cfg.max_iters
        if (step % cfg.eval_interval == 0 or last) and step > state["evaluated"]:
            losses = [evaluate(compiled, corpus.val, cfg.batch_size, precision, device) for corpus in data.corpora]
            val_loss = sum(share * loss for share, loss in zip(data.shares, losses, strict=True))
            state |= {"evaluated": step, "val_loss": val_loss}
            if rank == 0:
                bits = val_loss / data.nats_per_bit_per_byte
                metrics = {"step": step, "val_loss": val_loss, "val_bits_per_byte": bits}
                if len(losses) > 1:
                    pairs = zip(data.corpora, losses, strict=True)
                    metrics |= {f"val_loss/{corpus.name}": loss for corpus, loss in pairs}
                log.log(metrics)
                bar.write(f"step {step:>6} | validation loss {val_loss:.4f} | {bits:.4f} bits per byte")
        stop = bool(interrupted)
        if world_size > 1:  # a signal may have reached one process only: all stop at the same step
            count = torch.tensor(len(interrupted), device=device)
            dist.all_reduce(count)
            stop = bool(count)
        if last or stop or (step and step % cfg.checkpoint_interval == 0):
            best = state["evaluated"] == step and state["val_loss"] < state["best_val_loss"]
            if best:
                state["best_val_loss"] = state["val_loss"]
            if rank == 0:
                saved = {**state, "position": step * step_windows, "settings": dataclasses.asdict(cfg)}
                keep = cfg.keep_checkpoints
                checkpoint.save(out_dir, step, model, optimizer, data.tokenizer, saved, best, keep, carried)
        if last or stop:
            break

        # one optimizer step on the windows at positions [step * step_windows, (step + 1) * step_windows)
        start_s = time.perf_counter()
        rate = learning_rate(step, cfg)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=device)
        for micro_step in range(accumulate):
            first = step * step_windows + (micro_step * world_size + rank) * cfg.batch_size
            x, y = batch(data, first, cfg.batch_size, device)
            syncing = world_size == 1 or micro_step == accumulate - 1
            with contextlib.nullcontext() if syncing else parallel.no_sync():
                with precision():
                    part = parallel(x, y) / cfg.batch_tokens  # summed over the micro-batch, divided by the step's count
                (part * world_size).backward()  # DDP averages over processes; the loss is a sum
            loss += part.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state["step"] = step = step + 1

        # log
        logging = step % cfg.log_interval == 0 or step == cfg.max_iters
        if logging:
            if world_size > 1:
                dist.all_reduce(loss)
            metrics = {"step": step, "loss": loss.item(), "lr": rate, "grad_norm": norm.item()}
            metrics |= data.progress(step * step_windows)
            if not math.isfinite(metrics["loss"]):
                raise ValueError(
                    f"the loss is {metrics['loss']} at step {step}; lower --learning_rate ({cfg.learning_rate}); "
                    f"the newest checkpoint is {out_dir}/latest"
                )
        update_s += time.perf_counter() - start_s
        if rank == 0:
            bar.update(1)
        if rank == 0 and logging:
            dt_s = update_s / (step - logged_step)
            tokens_per_s, left_s = cfg.batch_tokens / dt_s, round((cfg.max_iters - step) * dt_s)
            log.log(metrics, {"tokens_per_s": round(tokens_per_s, 1), "dt_ms": round(1000 * dt_s, 3)})
            bar.write(
                f"step {step:>6} | loss {metrics['loss']:.4f} | lr {rate:.2e} | grad norm {metrics['grad_norm']:.2f} | "
                f"{tokens_per_s:,.0f} tokens/s | {left_s // 60}:{left_s % 60:02d} left"
            )
            update_s, logged_step = 0.0, step

    # end
    for number, handler in previous.items():
        signal.signal(number, handler)
    if world_size > 1:
        # DDP must not be the last owner of the process group: its destructor, which holds the interpreter's lock, waits
        # for gloo's thread, and that may be waiting for the lock (seen once: a run hung after its last line).
        del parallel
        gc.collect()
        dist.destroy_process_group()
    if rank == 0:
        bar.close()
        log.close()
        if last:
            report(cfg, step, state["val_loss"], data, model)
    if stop and not last:
        if rank == 0:
            raise KeyboardInterrupt(f"stopped at step {step}, saved in {out_dir}/latest; the same command continues")
        sys.exit(130)


if __name__ == "__main__":
    configurator.run(main, TrainConfig)
