"""Peers of the part train that are repositories and no packages: nanoGPT, nanochat and litgpt.

    python bench.py --part=train --size=10.6m --nanogpt=to/nanoGPT --nanochat=to/nanochat --litgpt=to/litgpt

Each is imported from the folder of its checkout. It brings its own model and its own optimizer, set up as its training
script does for one process. On a CPU nanoGPT and nanochat compute in float32 as they are; what else they can do is a
row of its own.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.bench_config import BenchConfig
from model import ModelConfig

LossOf = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, inputs, targets), (B, T) each -> nats per token
MOST_DIFFERENCE = 0.01  # of the numbers of parameters


class Trainer(NamedTuple):
    """What a peer brings."""

    model: nn.Module
    loss_of: LossOf
    optimizer: torch.optim.Optimizer
    max_norm: float | None  # gradients are clipped to it; None: it does not clip


@dataclass(frozen=True)
class Peer:
    """A repository, and how a model of a shape is built from it."""

    home: str  # where it is to be had
    build: Callable[[Path, ModelConfig, torch.dtype], Trainer]  # (checkout, shape, dtype)
    packages: str  # that it imports and a checkout does not bring


# --- importing ---


@contextlib.contextmanager
def import_advice(key: str, path: str, peer: Peer) -> Iterator[None]:
    """Raise ValueError in one line for a checkout that does not import."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == key:  # not a package that is missing, but the checkout
            raise ValueError(no_checkout(key, path, peer)) from None
        raise ValueError(f"--{key}={path} needs the package {missing}; run: pip install {peer.packages}") from None
    except (OSError, ImportError, AttributeError, SyntaxError) as error:
        raise ValueError(f"{no_checkout(key, path, peer)} ({error})") from None


def no_checkout(key: str, path: str, peer: Peer) -> str:
    """For an error."""
    return f"--{key}={path} is no checkout of {peer.home}; run: git clone {peer.home} {path}"


def module_of_file(file: Path, name: str) -> ModuleType:
    """The module in a file, under a name that no module here has."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def module_of_package(checkout: Path, name: str) -> ModuleType:
    """A module of the package in a checkout. Its folder goes behind all others, so that nothing here is hidden."""
    folder = str(checkout.absolute())
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


# --- the three ---


def nanogpt(checkout: Path, shape: ModelConfig, dtype: torch.dtype) -> Trainer:
    """GPT-2 without biases and dropout, as its train.py sets it up."""
    module = module_of_file(checkout / "model.py", "nanogpt_model")
    config = module.GPTConfig(
        block_size=shape.block_size,
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        dropout=0.0,
        bias=False,
    )
    model = module.GPT(config)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    return Trainer(model, lambda model, x, y: model(x, y.contiguous())[1], optimizer, max_norm=1.0)


def nanochat(checkout: Path, shape: ModelConfig, dtype: torch.dtype) -> Trainer:
    """Its GPT with full attention, and its Muon with AdamW, which torch.compile compiles always."""
    os.environ["NANOCHAT_DTYPE"] = str(dtype).removeprefix("torch.")  # read when it is imported
    module = module_of_package(checkout, "nanochat.gpt")
    config = module.GPTConfig(
        sequence_len=shape.block_size,
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_kv_head=shape.n_head,
        n_embd=shape.n_embd,
        window_pattern="L",
    )
    model = module.GPT(config, pad_vocab_size_to=1)
    model.init_weights()
    return Trainer(model, lambda model, x, y: model(x, y.contiguous()), model.setup_optimizer(), max_norm=None)


def litgpt(checkout: Path, shape: ModelConfig, dtype: torch.dtype) -> Trainer:
    """Our shape in its GPT, tied, with the loss and the AdamW of its pretrain.py."""
    module = module_of_package(checkout, "litgpt.model")
    loss = module_of_package(checkout, "litgpt.utils").chunked_cross_entropy
    config = module.Config(
        block_size=shape.block_size,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_query_groups=shape.n_kv_head,
        n_embd=shape.n_embd,
        intermediate_size=shape.ffn_hidden,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = module.GPT(config)
    model.apply(model._init_weights)
    model.transformer.wte.weight = model.lm_head.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    return Trainer(model, lambda model, x, y: loss(model(x), y), optimizer, max_norm=1.0)


PEERS = {
    "nanogpt": Peer("https://github.com/karpathy/nanoGPT", nanogpt, "torch numpy"),
    "nanochat": Peer("https://github.com/karpathy/nanochat", nanochat, "filelock"),
    "litgpt": Peer("https://github.com/Lightning-AI/litgpt", litgpt, "lightning lightning-utilities torchmetrics"),
}


# --- rows ---


@dataclass(frozen=True)
class Row:
    """A variant of the part: a peer, and what its matrix products are computed in."""

    name: str
    key: str  # of PEERS, and of BenchConfig
    path: str
    dtype: torch.dtype
    autocast: bool  # it leaves the format to torch.autocast

    def build(self, shape: ModelConfig) -> Trainer:
        """Raises ValueError, in one line, where the checkout does not import."""
        peer = PEERS[self.key]
        with import_advice(self.key, self.path, peer), contextlib.redirect_stdout(io.StringIO()):
            return peer.build(Path(self.path), shape, self.dtype)


def rows(cfg: BenchConfig, dtype: torch.dtype) -> list[Row]:
    """The rows that the settings ask for. nanoGPT computes in float32 on a CPU; autocast is a second row."""
    found = []
    short = str(dtype).removeprefix("torch.")
    if cfg.nanogpt:
        found.append(Row("nanoGPT float32", "nanogpt", cfg.nanogpt, torch.float32, autocast=False))
        if dtype != torch.float32:
            found.append(Row(f"nanoGPT {short}", "nanogpt", cfg.nanogpt, dtype, autocast=True))
    if cfg.nanochat:
        found.append(Row(f"nanochat {short}", "nanochat", cfg.nanochat, dtype, autocast=False))
    if cfg.litgpt:
        found.append(Row(f"litgpt {short}", "litgpt", cfg.litgpt, dtype, autocast=dtype != torch.float32))
    return found


# --- parameters ---


class Parameters(NamedTuple):
    """How many a model has."""

    total: int
    in_products: int  # of them in matrices that tokens are multiplied with; the others are looked up, or vectors


def count_parameters(model: nn.Module) -> Parameters:
    """Tied ones once."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    used_by_linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    looked_up = tables - used_by_linear
    total = in_products = 0
    for parameter in model.parameters():
        total += parameter.numel()
        if parameter.dim() == 2 and id(parameter) not in looked_up:
            in_products += parameter.numel()
    return Parameters(total, in_products)


def compare_parameters(counts: dict[str, Parameters]) -> str:
    """A line for the reader. Raises ValueError when a model differs from the first in both counts by more than 1 %.

    nanochat has tables of values in every second layer and a head of its own: there the matrices are equal.
    """
    first, *_ = counts.values()
    parts = []
    for name, own in counts.items():
        differences = [abs(a / b - 1) for a, b in zip(own, first, strict=True)]
        if min(differences) > MOST_DIFFERENCE:
            raise ValueError(f"{name} has {own.total:,} parameters and the first has {first.total:,}; they must agree")
        text = f"{name} {own.total:,}"
        if differences[0] > MOST_DIFFERENCE:
            text += f" (in matrix products {own.in_products:,}, the first {first.in_products:,})"
        parts.append(text)
    return "parameters: " + ", ".join(parts)
