"""From GPT-2 to Llama, one part at a time: what each change does to the loss and to the time of a step.

    OMP_NUM_THREADS=1 python benchmarks/gpt_to_llama.py --text=data/tinyshakespeare.txt
    python benchmarks/gpt_to_llama.py --draw=docs/gpt_to_llama.png          the picture of what is there

Each rung keeps all changes of those below it. The parts that Llama has replaced live in this file; the rungs from GQA
on are model.Llama itself. All rungs have the same number of parameters to 1 %, by the width of the feed-forward
network, and see the same tokens in the same order. Every rung chooses from five learning rates of AdamW, or four of
Muon, tried on text that is held out from the training text; the loss of the table is on the validation text, which
decides nothing.

A run that is there is not made again: the same command continues, more --seeds are added.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import dataclasses
import gzip
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import atomic
import prepare_wiki
from device import keep_freed_memory, pick_dtype
from mixture import Mixture
from model import Attention, Linear, Llama, ModelConfig, at_least_float32, product_dtype
from optim import Optimizer, learning_rate
from train import TrainConfig

RUNGS = ("GPT-2", "RMSNorm", "RoPE", "SwiGLU", "GQA", "qk-norm", "Muon")

CPU = torch.device("cpu")
# Shape and batch are those of nanoGPT's README for a CPU.
N_LAYER, N_HEAD, N_EMBD, BLOCK, BATCH = 4, 4, 128, 64, 12
GPT_FFN = 4 * N_EMBD  # of the lowest rung; the others get as many parameters
FFN_STEP = 8  # widths are multiples of it

ADAMW_RATES = (7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2)
MUON_RATES = (0.005, 0.01, 0.02, 0.04)  # of the blocks' matrices
RATE_BESIDE_MUON = 3e-3  # AdamW's, for the rest
CHOICE_SEED = 1000  # of the runs that choose a rate
VAL_FRACTION = 0.1  # of the text, at its end; and of the training text, for the choice

WARM_STEPS, TIMED_STEPS = 3, 20  # of a turn in which a rung is timed


@dataclass(frozen=True)
class ClimbConfig:
    """Settings of `python benchmarks/gpt_to_llama.py`."""

    text: str = "data/tinyshakespeare.txt"  # a text file, also .gz; its characters are the tokens
    out: str = "out/gpt_to_llama"  # folder for data, runs and results.json
    max_iters: int = 1000  # steps of 768 tokens
    choice_iters: int = 250  # steps of a run that chooses a rate
    seeds: int = 3  # runs of each rung
    time_rounds: int = 5  # turns in which the steps of all rungs are timed; 0: they are not
    draw: str = ""  # draw the results that are there into this file, and nothing else

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        for key, least in (("max_iters", 1), ("choice_iters", 1), ("seeds", 1), ("time_rounds", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least {least}")
        if not self.draw and not Path(self.text).is_file():
            raise ValueError(f"{self.text} is no file; put a text there (config/data_shakespeare_char.py says which)")


# --- the parts that Llama has replaced ---


class LayerNorm(nn.LayerNorm):
    """Features minus their mean, over their deviation, times a gain, plus a bias (Ba et al. 2016, arXiv 1607.06450)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C). In float32 at least, and returned in the dtype of the matrix products, as model.RMSNorm."""
        y = F.layer_norm(x.to(at_least_float32(x.dtype)), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.to(product_dtype(x))


class PositionedEmbedding(nn.Embedding):
    """A vector for each token, plus one for each position (GPT-2)."""

    def __init__(self, shape: ModelConfig):
        super().__init__(shape.vocab_size, shape.n_embd)
        self.positions = nn.Parameter(torch.empty(shape.block_size, shape.n_embd))

    def forward(self, idx: Tensor) -> Tensor:
        """idx: (B, T). Returns (B, T, C)."""
        T = idx.shape[1]
        return super().forward(idx) + self.positions[:T]


class BiasedAttention(Attention):
    """Multi-head attention with biases: every query head has a key/value head of its own (GPT-2)."""

    def __init__(self, shape: ModelConfig, layer: int, rotates: bool):
        super().__init__(dataclasses.replace(shape, qkv_bias=True), layer)
        C = shape.n_embd
        self.o_proj = Linear(C, C)
        self.rotates = rotates

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: None = None, documents: None = None) -> Tensor:
        """x: (B, T, C); cos, sin: (T, D), used on rungs with RoPE. Returns (B, T, C)."""
        if not self.rotates:  # by no angle
            cos = torch.ones_like(cos)
            sin = torch.zeros_like(sin)
        return super().forward(x, cos, sin)


class GeluMLP(nn.Module):
    """Two matrices with biases, and a GELU between them (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""

    def __init__(self, shape: ModelConfig):
        super().__init__()
        self.up_proj = Linear(shape.n_embd, shape.ffn_hidden)
        self.down_proj = Linear(shape.ffn_hidden, shape.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, C). Returns (B, T, C)."""
        return self.down_proj(F.gelu(self.up_proj(x)))


# --- the rungs ---


def has(rung: str, part: str) -> bool:
    """Whether a rung has a part: its own and all below it."""
    return RUNGS.index(rung) >= RUNGS.index(part)


def build(rung: str, vocab_size: int, ffn_hidden: int) -> Llama:
    """The model of a rung, its weights not yet drawn: a Llama with older parts in the places of those above the rung.

    From GQA on nothing is replaced.
    """
    shape = ModelConfig(
        vocab_size=vocab_size,
        block_size=BLOCK,
        n_layer=N_LAYER,
        n_head=N_HEAD,
        n_kv_head=N_HEAD // 2 if has(rung, "GQA") else N_HEAD,
        n_embd=N_EMBD,
        ffn_hidden=ffn_hidden,
        qk_norm=has(rung, "qk-norm"),
    )
    llama = Llama(shape)
    decoder = llama.model

    for layer, block in enumerate(decoder.layers):
        if not has(rung, "GQA"):
            block.self_attn = BiasedAttention(shape, layer, rotates=has(rung, "RoPE"))
        if not has(rung, "SwiGLU"):
            block.mlp = GeluMLP(shape)
        if not has(rung, "RMSNorm"):
            block.input_layernorm = LayerNorm(N_EMBD)
            block.post_attention_layernorm = LayerNorm(N_EMBD)
    if not has(rung, "RMSNorm"):
        decoder.norm = LayerNorm(N_EMBD)

    if not has(rung, "RoPE"):
        decoder.embed_tokens = PositionedEmbedding(shape)
        llama.lm_head.weight = decoder.embed_tokens.weight
    return llama


def draw_weights(llama: Llama, seed: int) -> None:
    """The first weights of a run, as train.py draws them."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter, value in llama.initial_weights():
            parameter.copy_(value)


def parameters_of(rung: str, vocab_size: int, ffn_hidden: int) -> int:
    """Parameters of a rung's model."""
    with torch.device("meta"):
        return build(rung, vocab_size, ffn_hidden).num_parameters()


def ffn_width(rung: str, vocab_size: int) -> int:
    """The feed-forward width, a multiple of FFN_STEP, with which a rung has about as many parameters as the lowest."""
    wanted = parameters_of("GPT-2", vocab_size, GPT_FFN)
    narrow = parameters_of(rung, vocab_size, FFN_STEP)
    per_step = parameters_of(rung, vocab_size, 2 * FFN_STEP) - narrow
    steps = 1 + round((wanted - narrow) / per_step)
    return steps * FFN_STEP


def check_that_the_parts_are_llamas(vocab_size: int) -> None:
    """The rung below GQA, without its biases, computes what model.Llama with as many key/value heads computes."""
    own = build("SwiGLU", vocab_size, 64)
    draw_weights(own, seed=0)
    llama = Llama(own.cfg)
    without_biases = {name: value for name, value in own.state_dict().items() if not name.endswith("bias")}
    llama.load_state_dict(without_biases)  # all names and shapes fit; initial biases are 0

    ids = torch.arange(2 * BLOCK).view(2, BLOCK) % vocab_size
    with torch.no_grad():
        ours, theirs = own(ids), llama(ids)
    assert torch.equal(ours, theirs), (ours - theirs).abs().max()


# --- data ---


def prepare(cfg: ClimbConfig, out: Path) -> tuple[Path, Path]:
    """Two data folders: one to choose rates on, of the training text alone, and the one of the results."""
    opener = gzip.open if cfg.text.endswith(".gz") else open
    with opener(cfg.text, "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    training = text[: round((1 - VAL_FRACTION) * len(text))]

    folders = []
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("choice", training), ("final", text)):
        source = out / f"{name}.txt"
        if not source.is_file() or source.read_bytes() != part.encode():  # a new file would be another source
            atomic.write(source, part.encode())
        folder = out / "data" / name
        settings = prepare_wiki.PrepareConfig(
            source=str(source),
            data_dir=str(folder),
            clean=False,
            tokenizer="char",
            split_by="position",
            val_fraction=VAL_FRACTION,
            num_workers=1,
        )
        prepare_wiki.main(settings)
        folders.append(folder)
    return folders[0], folders[1]


# --- training ---


@dataclass(frozen=True)
class Job:
    """One run."""

    rung: str
    rate: float  # the peak: of Muon's matrices on the highest rung, else AdamW's
    seed: int
    max_iters: int
    folder: Path  # its data

    @property
    def name(self) -> str:
        """Of the file that keeps its result."""
        return f"{self.folder.name}-{self.rung}-{self.rate:g}-{self.seed}-{self.max_iters}"

    def settings(self) -> TrainConfig:
        """As train.py has them: config/shakespeare_char.py with warm-up for a shorter run."""
        usual = {
            "batch_tokens": BATCH * BLOCK,
            "batch_size": BATCH,
            "block_size": BLOCK,
            "max_iters": self.max_iters,
            "warmup_iters": self.max_iters // 10,
            "beta2": 0.99,
            "schedule": "linear",
            "seed": self.seed,
        }
        if self.rung == "Muon":
            usual |= {"optimizer": "muon", "learning_rate": RATE_BESIDE_MUON, "muon_lr": self.rate}
        else:
            usual |= {"learning_rate": self.rate}
        return TrainConfig(**usual)


def rates_of(rung: str) -> tuple[float, ...]:
    """What a rung may choose from."""
    return MUON_RATES if rung == "Muon" else ADAMW_RATES


def step_of(job: Job, data: Mixture) -> tuple[Llama, Callable[[int], float]]:
    """The model of a run, and a callable that takes one step of train.py on its batch; it returns the loss."""
    vocab_size = data.tokenizer.vocab_size
    model = build(job.rung, vocab_size, ffn_width(job.rung, vocab_size))
    draw_weights(model, job.seed)
    cfg = job.settings()
    optimizer = Optimizer(model, cfg, CPU)
    dtype = pick_dtype("auto", CPU)

    def step(number: int) -> float:
        positions = np.arange(number * BATCH, (number + 1) * BATCH)
        batch = data.batch(positions)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(batch.inputs, batch.targets) / batch.count
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        optimizer.step(learning_rate(number, cfg), loss.isfinite() & norm.isfinite())
        return loss.item()

    return model, step


@torch.no_grad()
def validation_loss(model: Llama, data: Mixture) -> float:
    """Nats a token on the whole validation text, in the windows of `data`."""
    dtype = pick_dtype("auto", CPU)
    model.eval()
    loss, count = 0.0, 0
    for batch in data.corpora[0].val_batches(BATCH, 0, 1):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss += model(batch.inputs, batch.targets, cu_seqlens=batch.cu_seqlens).item()
        count += batch.count
    return loss / count


def run(job: Job, out: Path) -> float:
    """The validation loss of a run, in nats a character; trained if it is not there yet."""
    note = out / "runs" / f"{job.name}.json"
    if note.is_file():
        return json.loads(note.read_text(encoding="utf-8"))["val_loss"]

    data = Mixture(f"{job.folder}:1", BLOCK, job.seed)
    model, step = step_of(job, data)
    losses = [step(number) for number in tqdm(range(job.max_iters), job.name, unit=" steps", disable=None)]
    val_loss = validation_loss(model, data)
    note.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_json(note, {"val_loss": val_loss, "train_loss": mean(losses[-100:])})
    return val_loss


def seconds_a_step(rungs: dict[str, float], folder: Path, rounds: int) -> dict[str, list[float]]:
    """CPU-seconds of a step of each rung at its rate, one sample a round: A B C ..., A B C ..."""
    data = Mixture(f"{folder}:1", BLOCK, seed=0)
    steps = {}
    for rung, rate in rungs.items():
        _, steps[rung] = step_of(Job(rung, rate, 0, 1000, folder), data)

    samples: dict[str, list[float]] = {rung: [] for rung in rungs}
    for _ in tqdm(range(rounds), "timing", unit=" rounds", disable=None):
        for rung, step in steps.items():
            for number in range(WARM_STEPS):
                step(number)
            begin_s = time.process_time()
            for number in range(TIMED_STEPS):
                step(number)
            samples[rung].append((time.process_time() - begin_s) / TIMED_STEPS)
    return samples


def climb(cfg: ClimbConfig) -> dict[str, Any]:
    """Choose a rate for each rung, train it with every seed, time its steps; writes results.json."""
    out = Path(cfg.out)
    keep_freed_memory(CPU, same_sizes=True)
    choice, final = prepare(cfg, out)
    vocab_size = Mixture(f"{final}:1", BLOCK, seed=0).tokenizer.vocab_size
    check_that_the_parts_are_llamas(vocab_size)

    rates: dict[str, float] = {}
    rows: dict[str, dict[str, Any]] = {}
    for rung in RUNGS:
        tried = {}
        for rate in rates_of(rung):
            tried[rate] = run(Job(rung, rate, CHOICE_SEED, cfg.choice_iters, choice), out)
        rates[rung] = min(tried, key=tried.__getitem__)

        width = ffn_width(rung, vocab_size)
        rows[rung] = {
            "parameters": parameters_of(rung, vocab_size, width),
            "ffn_hidden": width,
            "tried": {f"{rate:g}": loss for rate, loss in tried.items()},
            "rate": rates[rung],
            "val_loss": [],
        }

    for seed in range(cfg.seeds):
        for rung in RUNGS:
            job = Job(rung, rates[rung], seed, cfg.max_iters, final)
            rows[rung]["val_loss"].append(run(job, out))

    results = {"tokens": cfg.max_iters * BATCH * BLOCK, "rungs": rows, "step_s": timing(cfg, rows, final)}
    atomic.write_json(out / "results.json", results)
    return results


def timing(cfg: ClimbConfig, rows: dict[str, dict[str, Any]], folder: Path) -> dict[str, list[float]] | None:
    """CPU-seconds of a step of each rung: those of timing.json if it has as many rounds; None: not asked for."""
    if not cfg.time_rounds:
        return None
    note = Path(cfg.out, "timing.json")
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if all(len(samples) == cfg.time_rounds for samples in known.values()):
            return known

    samples = seconds_a_step({rung: row["rate"] for rung, row in rows.items()}, folder, cfg.time_rounds)
    atomic.write_json(note, samples)
    return samples


# --- what came out ---


def spread(values: list[float], digits: int, middle: Callable[[list[float]], float] = mean) -> str:
    """`mean (min to max)`."""
    return f"{middle(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(results: dict[str, Any]) -> str:
    """Markdown: parameters, rate, loss over the seeds, the change to the rung below within each seed, CPU time."""
    lines = [
        "| rung | parameters | ffn width | rate | nats a character | change | CPU ms a step |",
        "|---|--:|--:|--:|---|---|---|",
    ]
    below = None
    for rung, row in results["rungs"].items():
        losses = row["val_loss"]
        changes = [] if below is None else [own - other for own, other in zip(losses, below, strict=True)]
        times = [1000 * seconds for seconds in results["step_s"][rung]] if results["step_s"] else []
        cells = [
            rung,
            f"{row['parameters']:,}",
            f"{row['ffn_hidden']}",
            f"{row['rate']:g}",
            spread(losses, 3),
            f"{mean(changes):+.3f} ({min(changes):+.3f} to {max(changes):+.3f})" if changes else "",
            spread(times, 1, median) if times else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        below = losses
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw the loss of all seeds on each rung, and the CPU time of a step."""
    from matplotlib.figure import Figure

    rungs = list(results["rungs"])
    labels = [rung if rung == "GPT-2" else f"+ {rung}" for rung in rungs]
    losses = [results["rungs"][rung]["val_loss"] for rung in rungs]
    step_s = results["step_s"]

    figure = Figure(figsize=(8, 6 if step_s else 4), dpi=100, layout="constrained")
    panels = figure.subplots(2 if step_s else 1, 1, squeeze=False, sharex=True)[:, 0]
    for seed, of_seed in enumerate(zip(*losses, strict=True)):
        panels[0].plot(labels, of_seed, "o-", lw=0.8, alpha=0.5, label=f"seed {seed}")
    panels[0].plot(labels, [mean(each) for each in losses], "k_", ms=18, mew=2, label="mean")
    panels[0].set_ylabel("nats a character, validation")
    panels[0].set_title(f"{results['tokens'] / 1e6:.2f} M characters, equal parameters")
    panels[0].legend()

    if step_s:
        panels[1].bar(labels, [1000 * median(step_s[rung]) for rung in rungs], width=0.5)
        panels[1].set_ylabel("CPU ms a step")
    for axes in panels:
        axes.grid(alpha=0.3)

    with atomic.new_file(path) as temporary:
        figure.savefig(temporary, format="png")


def main(cfg: ClimbConfig) -> None:
    """Climb, or draw."""
    cfg.check()
    if cfg.draw:
        results = json.loads(Path(cfg.out, "results.json").read_text(encoding="utf-8"))
        plot(results, Path(cfg.draw))
        print(f"{table(results)}\nwrote {cfg.draw}")
        return

    results = climb(cfg)
    print(table(results))
    plot(results, Path(cfg.out, "gpt_to_llama.png"))
    print(f"wrote {cfg.out}/results.json and gpt_to_llama.png")


if __name__ == "__main__":
    configurator.run(main, ClimbConfig)
