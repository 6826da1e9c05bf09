"""The recipe by experiment: what one setting changed does to the loss, chosen blind.

    python benchmarks/recipe.py --text=data/tinyshakespeare.txt                          every change, two seeds
    python benchmarks/recipe.py --text=data/tinyshakespeare.txt --only=muon_lr --seeds=5
    python benchmarks/recipe.py --data=pydocs --only=borders --seeds=5        may documents in a window see each other?
    python benchmarks/recipe.py --data=pydocs --n_layer=6 --n_embd=256 --only='AdamW|muon_lr'      in a larger model

Each run is train.py itself, on config/shakespeare_char.py (with --data: config/demo.py) cut to --max_iters steps, and
one change of CHANGES. All runs see as many tokens. The last tenth of the *training* text is held out, and decides: the
validation text of the config is not read. (With --data the folder's own validation split decides.) The table has each
change's difference to the recipe within each seed, for a seed moves all of them alike.

A run that is there is not made again: the same command continues, and more --seeds are added.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import atomic
import batches
import lora
import muon
import train
from benchmarks.gpt_to_llama import ClimbConfig, prepare, validation_loss
from mixture import Mixture
from model import Llama
from tokenizer import Tokenizer

RECIPES = {"shakespeare": "config/shakespeare_char.py", "data": "config/demo.py"}
RECIPE = "the recipe"
CLOSED = "closed borders between documents"
EVEN = "Muon, even rows"  # as in the recipe of the text
UNEVEN = "Muon, rows as they are"  # as in the recipe of the data
OTHER_SHAPES = ("six layers of 104", "two heads", "one key/value head")  # made for the recipe's own size


@dataclass(frozen=True)
class RecipeConfig:
    """Settings of `python benchmarks/recipe.py`."""

    text: str = "data/tinyshakespeare.txt"  # a text file, also .gz; its characters are the tokens
    data: str = ""  # instead of the text, a folder of prepare_wiki.py; its own validation split is what is held out
    out: str = "out/recipe"  # folder for data, runs and results.json
    only: str = ""  # changes with this in their name, a regular expression; the recipe itself is always there
    n_layer: int | None = None  # blocks of the model; None: the recipe's
    n_embd: int | None = None  # its width, with heads of 64 and feed-forward networks three times as wide
    max_iters: int = 400  # steps of a run; warm-up and decay of the recipe shrink alike
    seeds: int = 2  # runs of each change
    num_threads: int = 1  # CPU threads of a run

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        for key in ("n_layer", "max_iters", "seeds", "num_threads"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")
        if not self.data and not Path(self.text).is_file():
            raise ValueError(f"{self.text} is no file; put a text there (config/data_shakespeare_char.py says which)")
        if self.n_embd is not None and (self.n_embd < 128 or self.n_embd % 128):
            wanted = "a multiple of 128: two heads of 64 share their keys and values"
            raise ValueError(f"n_embd ({self.n_embd}) must be {wanted}")
        try:
            re.compile(self.only)
        except re.error as error:
            raise ValueError(f"only ({self.only!r}) is no regular expression: {error}") from None
        if not self.names():
            raise ValueError(f"no change has a name with {self.only!r}; there are: {', '.join(CHANGES)}")

    def names(self) -> list[str]:
        """The changes that are asked for and are changes. The text is one document, without borders."""
        asked = [name for name in CHANGES if re.search(self.only, name)]
        if self.n_layer is not None or self.n_embd is not None:
            asked = [name for name in asked if name not in OTHER_SHAPES]
        no_changes = (UNEVEN, "beta2=0.95") if self.data else (EVEN, CLOSED)
        return [name for name in asked if name not in no_changes]


# --- changes ---


@dataclass(frozen=True)
class Change:
    """One thing that is not as in the recipe."""

    factors: dict[str, float] = field(default_factory=dict)  # settings that are multiplied
    settings: dict[str, Any] = field(default_factory=dict)  # settings that have another value
    patch: Callable[[int], contextlib.AbstractContextManager] = contextlib.nullcontext  # of the id that ends a text


def first_weights(change: Callable[[str, Tensor, Llama], None]) -> Callable[[int], contextlib.AbstractContextManager]:
    """A patch: change(name, value, model) rewrites each weight's first value in place."""
    usual = Llama.initial_weights

    def changed(model: Llama) -> Iterator[tuple[nn.Parameter, Tensor]]:
        names = {parameter: name for name, parameter in model.named_parameters()}
        for parameter, value in usual(model):
            change(names[parameter], value, model)
            yield parameter, value

    return lambda end_of_text: mock.patch.object(Llama, "initial_weights", changed)


def outputs_begin_at_zero(name: str, value: Tensor, model: Llama) -> None:
    """A block adds nothing to the stream at first (the speedrun records of modded-nanogpt do so)."""
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        value.zero_()


def wide_begin(name: str, value: Tensor, model: Llama) -> None:
    """A standard deviation of 1 / sqrt(width) for the blocks' matrices: 0.088 at a width of 128; GPT-2's is 0.02."""
    if value.dim() == 2 and "embed" not in name:
        value.mul_(1 / math.sqrt(model.cfg.n_embd) / 0.02)


def embedding_of_one(name: str, value: Tensor, model: Llama) -> None:
    """Embeddings of standard deviation 1, for an untied head."""
    if "embed_tokens" in name:
        value.mul_(1 / 0.02)


def momentum_of_muon(momentum: float) -> Callable[[int], contextlib.AbstractContextManager]:
    """A patch: Muon's momentum, where nobody says another (0.95)."""
    return lambda end_of_text: mock.patch.dict(muon.Muon.__init__.__kwdefaults__, momentum=momentum)


# Five polynomials, each for what the one before makes of the singular values: Amsel et al. 2025 (arXiv 2505.16932), for
# values from 1e-3 to 1, made smaller by a 50th so that rounding does no harm; as nanochat's optimizer has them.
POLAR_EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def polar_express(end_of_text: int) -> contextlib.AbstractContextManager:
    """A patch: Muon's singular values come closer to 1, in as many products."""
    return mock.patch("muon.COEFFICIENTS", POLAR_EXPRESS)


def exactly_orthogonal(end_of_text: int) -> contextlib.AbstractContextManager:
    """A patch: Muon's singular values are 1, by the decomposition itself."""

    def decompose(matrices: Tensor) -> Tensor:
        U, S, Vh = torch.linalg.svd(matrices.float(), full_matrices=False)
        is_there = (S > 1e-6 * S.amax(dim=1, keepdim=True)).float()  # without a value a direction is arbitrary
        return U * is_there.unsqueeze(1) @ Vh

    return mock.patch("muon.orthogonalise", decompose)


def even_rows_behind(end_of_text: int) -> contextlib.AbstractContextManager:
    """A patch: NorMuon (Li et al. 2025, arXiv 2510.05491): each row is divided by its usual length, behind Muon.

    The squares of the lengths are running means, of the last 20 steps or so; the matrix as a whole stays as large.
    """
    usual = muon.orthogonalise
    squares: dict[torch.Size, Tensor] = {}  # shape of a stack -> (n, R, 1)

    def changed(matrices: Tensor) -> Tensor:
        updates = usual(matrices)
        square = updates.float().square().mean(dim=2, keepdim=True)
        kept = squares.setdefault(updates.shape, torch.zeros_like(square))
        kept.lerp_(square, 0.05)

        even = updates / kept.sqrt().clamp(min=1e-7)
        size_before = torch.linalg.matrix_norm(updates.float(), keepdim=True)
        size_now = torch.linalg.matrix_norm(even.float(), keepdim=True)
        return even * (size_before / size_now.clamp(min=1e-7))

    one_stack_of_a_shape = 1 << 62
    return mock.patch.multiple(muon, orthogonalise=changed, STACK_NUMBERS=one_stack_of_a_shape)


def batch_ramp(end_of_text: int) -> contextlib.AbstractContextManager:
    """A patch, for settings with 1.5 times the steps and half the batch_size: one micro-batch a step, later two.

    600 steps of micro-batches of 6 windows: steps 0 to 399 read 6 windows each, 400 to 599 read 12, so that each part
    reads 2,400. The rate still falls with the steps: when half of the tokens are read a third of it is left.
    """

    def read(run: train.Run, step: int) -> list[batches.Batch]:
        size = run.cfg.batch_size
        steps_of_one = run.cfg.max_iters * 2 // 3
        begins = [step * size]
        if step >= steps_of_one:
            first = (2 * step - steps_of_one) * size
            begins = [first, first + size]
        return [run.data.batch(np.arange(begin, begin + size)) for begin in begins]

    return mock.patch("train.read_batches", read)


def closed_borders(end_of_text: int) -> contextlib.AbstractContextManager:
    """A patch: no token sees a document before its own, in training and in validation (model.Documents).

    Positions begin anew behind each end of text, here 9:

        inputs      7 8 9 5 6
        positions   0 1 2 0 1
    """
    usual = batches.TokenRows

    def with_positions(inputs: np.ndarray, targets: np.ndarray, positions: np.ndarray | None = None) -> Any:
        if positions is None:
            places = np.broadcast_to(np.arange(inputs.shape[1]), inputs.shape)
            behind_an_end = np.zeros(inputs.shape, bool)
            behind_an_end[:, 1:] = inputs[:, :-1] == end_of_text
            begins = np.where(behind_an_end, places, 0)
            positions = places - np.maximum.accumulate(begins, axis=1)
        return usual(inputs, targets, positions)

    with_positions.windows = lambda tokens: with_positions(tokens[:, :-1], tokens[:, 1:])
    return mock.patch("mixture.TokenRows", with_positions)


CHANGES: dict[str, Change] = {
    RECIPE: Change(),
    "learning_rate / 2": Change({"learning_rate": 0.5}),
    "learning_rate x 2": Change({"learning_rate": 2}),
    "muon_lr / 4": Change({"muon_lr": 0.25}),
    "muon_lr / 2": Change({"muon_lr": 0.5}),
    "muon_lr / 2, warm-up x 3": Change({"muon_lr": 0.5, "warmup_iters": 3}),
    "muon_lr x 2": Change({"muon_lr": 2}),
    "momentum of muon 0.9": Change(patch=momentum_of_muon(0.9)),
    "Muon by Polar Express": Change(patch=polar_express),
    "Muon, exactly orthogonal": Change(patch=exactly_orthogonal),
    UNEVEN: Change(settings={"muon_even_rows": False}),
    EVEN: Change(settings={"muon_even_rows": True}),
    "Muon, even rows behind (NorMuon)": Change(patch=even_rows_behind),
    "AdamW for all": Change(settings={"optimizer": "adamw"}),
    "AdamW for all, learning_rate / 4": Change({"learning_rate": 0.25}, {"optimizer": "adamw"}),
    "AdamW for all, learning_rate / 2": Change({"learning_rate": 0.5}, {"optimizer": "adamw"}),
    "AdamW for all, learning_rate x 2": Change({"learning_rate": 2}, {"optimizer": "adamw"}),
    "no warm-up": Change({"warmup_iters": 0}),
    "warm-up x 3": Change({"warmup_iters": 3}),
    "schedule=cosine": Change(settings={"schedule": "cosine"}),
    "schedule=wsd, the last 40 %": Change({"decay_iters": 0.4}, {"schedule": "wsd"}),
    "min_lr, a tenth of the peak": Change(settings={"min_lr": 3e-4}),
    "weight_decay=0": Change(settings={"weight_decay": 0.0}),
    "weight_decay=0.3": Change(settings={"weight_decay": 0.3}),
    "beta2=0.95": Change(settings={"beta2": 0.95}),
    "beta2=0.999": Change(settings={"beta2": 0.999}),
    "grad_clip=0": Change(settings={"grad_clip": 0.0}),
    "no qk-norm": Change(settings={"qk_norm": False}),
    "an untied head": Change(settings={"tie_embeddings": False}),
    "an untied head, embeddings of 1": Change(
        settings={"tie_embeddings": False}, patch=first_weights(embedding_of_one)
    ),
    "first weights: outputs 0": Change(patch=first_weights(outputs_begin_at_zero)),
    "first weights: 1 / sqrt(width)": Change(patch=first_weights(wide_begin)),
    "half the batch, twice the steps": Change(
        {"batch_tokens": 0.5, "batch_size": 0.5, "max_iters": 2, "warmup_iters": 2}
    ),
    "twice the batch, half the steps": Change(
        {"batch_tokens": 2, "batch_size": 2, "max_iters": 0.5, "warmup_iters": 0.5}
    ),
    "batch ramp: half of it for half of the tokens": Change({"batch_size": 0.5, "max_iters": 1.5}, patch=batch_ramp),
    "six layers of 104": Change(settings={"n_layer": 6, "n_embd": 104, "ffn_hidden": 312}),
    "two heads": Change(settings={"n_head": 2, "n_kv_head": 1}),
    "one key/value head": Change({"ffn_hidden": 400 / 384}, {"n_kv_head": 1}),
    CLOSED: Change(patch=closed_borders),
}


# --- runs ---


def usual_settings(cfg: RecipeConfig, folder: Path) -> dict[str, Any]:
    """The recipe's config file, its times shrunk to max_iters steps."""
    path = ROOT / RECIPES["data" if cfg.data else "shakespeare"]
    recipe, _ = configurator.load(train.TrainConfig, [str(path)])
    settings = dataclasses.asdict(recipe)
    if cfg.n_layer is not None:
        settings["n_layer"] = cfg.n_layer
    if cfg.n_embd is not None:
        heads = cfg.n_embd // 64
        settings |= {"n_embd": cfg.n_embd, "n_head": heads, "n_kv_head": heads // 2, "ffn_hidden": 3 * cfg.n_embd}

    shrunk = cfg.max_iters / settings["max_iters"]
    return settings | {
        "data": str(folder),
        "max_iters": cfg.max_iters,
        "warmup_iters": settings["warmup_iters"] * shrunk,
        "decay_iters": cfg.max_iters,
        "log_interval": cfg.max_iters,
        "num_threads": cfg.num_threads,
    }


def settings_of(change: Change, usual: dict[str, Any], seed: int) -> train.TrainConfig:
    """The settings of a run, but for its folder."""
    settings = dict(usual)
    for key, factor in change.factors.items():
        settings[key] = settings[key] * factor
    settings |= change.settings

    for key in ("max_iters", "warmup_iters", "decay_iters", "batch_tokens", "batch_size", "ffn_hidden"):
        settings[key] = round(settings[key])
    steps = settings["max_iters"]
    times = {"eval_interval": steps, "checkpoint_interval": steps}
    return train.TrainConfig(**settings | times | {"seed": seed})


def digest(settings: train.TrainConfig) -> str:
    """A few letters that differ where settings do: a run of an older recipe is not taken for one of today's."""
    what_counts = dataclasses.asdict(settings)
    for key in ("data", "out_dir", "num_threads"):
        del what_counts[key]
    words = json.dumps(what_counts, sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def loss_behind_borders(out_dir: Path, folder: Path, settings: train.TrainConfig) -> float:
    """Nats a token of a trained model when no token sees a document before its own, however it was trained."""
    model = lora.find_source(str(out_dir), None).load()
    with closed_borders(Tokenizer.load(folder).end_of_text):
        return validation_loss(model, Mixture(f"{folder}:1", settings.block_size, settings.seed))


def run(name: str, cfg: RecipeConfig, folder: Path, seed: int) -> dict[str, float]:
    """What a run reached, in nats a token: val_loss and, with several documents, closed_val_loss.

    Trained if it is not there yet.
    """
    kind = Path(cfg.data or "text").name
    plain_name = "".join(letter if letter.isalnum() else "-" for letter in name)
    change = CHANGES[name]
    settings = settings_of(change, usual_settings(cfg, folder), seed)
    out_dir = Path(cfg.out, "runs", f"{kind}-{plain_name}-{cfg.max_iters}-{seed}-{digest(settings)}")
    note = out_dir / "result.json"
    if note.is_file():
        return json.loads(note.read_text(encoding="utf-8"))

    settings = dataclasses.replace(settings, out_dir=str(out_dir))
    with change.patch(Tokenizer.load(folder).end_of_text), contextlib.redirect_stdout(io.StringIO()):
        train.main(settings)

    lines = (out_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["val_loss"] for line in lines if "val_loss" in json.loads(line)]
    reached = {"val_loss": losses[-1]}
    if cfg.data:
        reached["closed_val_loss"] = loss_behind_borders(out_dir, folder, settings)
    atomic.write_json(note, reached)
    return reached


def held_out(cfg: RecipeConfig) -> Path:
    """The folder of data whose validation split is the last tenth of the training text."""
    if cfg.data:
        return Path(cfg.data) if Path(cfg.data).is_dir() else ROOT / "data" / cfg.data
    choice, _ = prepare(ClimbConfig(text=cfg.text), Path(cfg.out))
    return choice


# --- what came out ---


def table(reached: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: the losses of each change, the best first, and their differences to the recipe within each seed."""
    keys = list(reached[RECIPE][0])
    titles = {"val_loss": "nats a token, held out", "closed_val_loss": "behind closed borders"}
    header = " | ".join(f"{titles[key]} | against the recipe" for key in keys)
    lines = [f"| | {header} |", "|---" + "|--:|--:" * len(keys) + "|"]

    by_loss = sorted(reached, key=lambda name: mean(run["val_loss"] for run in reached[name]))
    for name in by_loss:
        cells = [name]
        for key in keys:
            own = [run[key] for run in reached[name]]
            usual = [run[key] for run in reached[RECIPE]]
            differences = [loss - other for loss, other in zip(own, usual, strict=True)]
            spread = f" ±{stdev(differences):.4f}" if len(differences) > 1 else ""
            cells += [f"{mean(own):.4f}", "" if name == RECIPE else f"{mean(differences):+.4f}{spread}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(cfg: RecipeConfig) -> None:
    """Train what is missing, a seed after the other, and print the table."""
    cfg.check()
    folder = held_out(cfg)
    names = [RECIPE, *(name for name in cfg.names() if name != RECIPE)]

    reached: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in range(cfg.seeds):
        for name in names:
            losses = run(name, cfg, folder, seed)
            reached[name].append(losses)
            print(f"seed {seed} | {name} | {losses['val_loss']:.4f}", flush=True)

    atomic.write_json(Path(cfg.out, "results.json"), reached)
    print(table(reached))


if __name__ == "__main__":
    configurator.run(main, RecipeConfig)
