"""LoRA: the model stays as it is, small matrices beside its own learn. This file merges them into a plain model:

    python train.py --init_from=out/smollm2 --data=alpaca --lora_rank=16      trains an adapter: a folder as peft writes
    python sample.py --adapter=out/run --prompt='Return the'                  writes text with base and adapter
    python lora.py --adapter=out/run --out_dir=out/merged                     one plain folder: W + (alpha / r) B A

A matrix W, (out, in), gets A, (r, in), and B, (out, r), and computes W x + (alpha / r) B A x (Hu et al. 2021, arXiv
2106.09685, eq. 3). B is 0 at first, so that training begins at the base. Only A and B have gradients and moments.
docs/finetuning.md has an example with numbers.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import atomic
import checkpoint
from checkpoint import ADAPTER_CONFIG
from device import memory_advice
from errors import read_json
from fused import fuse
from model import Linear, Llama, ModelConfig, on_meta, product_dtype
from quantized import Scheme
from tokenizer import Tokenizer

BASE_FILE = "base.json"  # beside adapter_config.json, in which peft warns of keys that it does not know
LARGEST_RANK = 1 << 20
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of a block

# Keys of an adapter_config.json that do not change what is computed. Others must be off, or are refused by name.
NO_MATTER = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ephemeral_gpu_offload",
    "eva_config",
    "inference_mode",
    "lora_dropout",  # of training
    "lora_ga_config",
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
)
READ_HERE = ("peft_type", "r", "lora_alpha", "target_modules", "init_lora_weights")
OFF = (None, False, "none", {}, [])
SAME_BASE = (None, True, False, "gaussian", "eva", "orthogonal")  # other ways to initialise change the base as well


@dataclass(frozen=True)
class LoraSettings:
    """What the adapters of a model look like."""

    rank: int  # r
    alpha: float  # the change is scaled by alpha / r
    targets: tuple[str, ...]  # names of matrices, or ends of names: q_proj is the one of each block

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.alpha / self.rank


# --- the modules ---


class LoraLinear(Linear):
    """A Linear, frozen, and its change of rank r: W x + bias + (alpha / r) B A x.

    lora_A: (r, in); lora_B: (out, r). The other parameters are those of the Linear that it replaces.
    """

    def __init__(self, linear: Linear, settings: LoraSettings):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = settings.scale
        self.lora_A = nn.Parameter(self.weight.new_empty(settings.rank, self.in_features))
        self.lora_B = nn.Parameter(self.weight.new_empty(self.out_features, settings.rank))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in). Returns (..., out)."""
        x = x.to(product_dtype(x))  # once for both products: autocast would do it for each
        y = super().forward(x)  # (..., out)

        # The scale goes to the narrow tensor, and the change is added while it is multiplied.
        narrow = F.linear(x, self.lora_A) * self.scale  # (..., r)
        rows = torch.addmm(y.flatten(0, -2), narrow.flatten(0, -2), self.lora_B.t())  # (rows, out)
        return rows.view_as(y)

    def change(self) -> Tensor:
        """(alpha / r) B A, (out, in) float32."""
        return self.scale * (self.lora_B.float() @ self.lora_A.float())


def add_adapters(model: Llama, settings: LoraSettings) -> None:
    """Freeze the model, and put LoraLinear in the place of the matrices that settings.targets name. In place.

    The values of A and B are not set. Raises ValueError for a target that no matrix has, and for a rank above the
    smaller side of a matrix.
    """
    matrices = targeted(model, settings.targets)
    smaller_sides = {name: min(linear.in_features, linear.out_features) for name, linear in matrices.items()}
    narrowest = min(smaller_sides, key=smaller_sides.__getitem__)
    largest_rank = smaller_sides[narrowest]
    if settings.rank > largest_rank:
        sides = f"{matrices[narrowest].out_features} x {matrices[narrowest].in_features}"
        wrong = f"lora_rank ({settings.rank}) is above the smaller side of {narrowest}, {sides}"
        raise ValueError(f"{wrong}; try {largest_rank}")

    model.requires_grad_(False)
    for name, linear in matrices.items():
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, LoraLinear(linear, settings))


def without_memory(shape: ModelConfig, settings: LoraSettings) -> Llama:
    """The model with its adapters on torch's device "meta". Raises ValueError as add_adapters does."""
    model = on_meta(shape)
    add_adapters(model, settings)
    return model


def targeted(model: Llama, targets: tuple[str, ...]) -> dict[str, Linear]:
    """The matrices of the blocks whose name is a target, or ends with ".<target>", as peft reads it."""
    matrices = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear) and module is not model.lm_head:
            matrices[name] = module

    found = {}
    for target in targets:
        matching = {name: linear for name, linear in matrices.items() if f".{name}".endswith(f".{target}")}
        if not matching:
            names = sorted({name.rpartition(".")[2] for name in matrices})
            raise ValueError(f"no matrix of the blocks is named {target!r:.80}; there are {', '.join(names)}")
        found |= matching
    if not found:
        raise ValueError("lora_targets names no matrix; try --lora_targets='q_proj v_proj'")
    return {name: linear for name, linear in matrices.items() if name in found}


def narrow_frozen(model: Llama, dtype: torch.dtype) -> None:
    """Hold the frozen matrices of the blocks, and their biases, in the dtype of matrix products.

    Under autocast nothing changes but memory and time: it would round them in each forward pass, and keep the rounded
    ones for the backward pass. Embedding, head and gains stay as they are, since they are used in float32 too.
    """
    for module in model.model.layers.modules():
        if isinstance(module, Linear):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not parameter.requires_grad:
                    setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))


def initial_adapters(model: Llama) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Each A and B with its first value, drawn on the CPU whatever the parameter's device.

    B is 0; A is uniform within 1 / sqrt(in), which is what peft takes (Kaiming's with a = sqrt(5)).
    """
    for name, parameter in model.named_parameters():
        value = torch.zeros(parameter.shape)
        if name.endswith("lora_A"):
            bound = 1 / math.sqrt(parameter.shape[1])
            yield parameter, value.uniform_(-bound, bound)
        elif name.endswith("lora_B"):
            yield parameter, value


# --- the folder ---


def adapter_files(files: checkpoint.Files, settings: LoraSettings, base: Path, base_sha256: str) -> checkpoint.Files:
    """The small files of an adapter's folder: those of a model's (checkpoint.small_files) but config.json, peft's
    settings, and the fingerprint of the base."""
    alpha = int(settings.alpha) if settings.alpha == int(settings.alpha) else settings.alpha
    peft_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base.resolve()),  # a relative one might be read as a name on the hub
        "r": settings.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": list(settings.targets),
        "bias": "none",
        "inference_mode": True,
    }
    kept = {name: content for name, content in files.items() if name != "config.json"}
    made = {ADAPTER_CONFIG: peft_config, BASE_FILE: {"sha256": base_sha256}}
    return kept | {name: (json.dumps(content, indent=1) + "\n").encode() for name, content in made.items()}


def read_settings(folder: Path) -> LoraSettings:
    """What an adapter_config.json says. Raises ValueError, by name, for what is not computed here."""
    path = folder / ADAPTER_CONFIG
    config = read_json(path)

    def refuse(key: str, reason: str) -> None:
        raise ValueError(f"{path}: {key}={config.get(key)!r:.80} {reason}")

    if config.get("peft_type") != "LORA":
        refuse("peft_type", "is not computed here; LORA is")
    for key, value in config.items():
        if key not in (*NO_MATTER, *READ_HERE) and value not in OFF:
            refuse(key, "is not computed here")
    if config.get("init_lora_weights") not in SAME_BASE:
        refuse(
            "init_lora_weights", "changes the base too; save the adapter as plain LoRA (peft: path_initial_model...)"
        )

    rank, alpha, targets = config.get("r"), config.get("lora_alpha"), config.get("target_modules")
    if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
        refuse("r", "is not a rank")
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        refuse("lora_alpha", "is not a number above 0")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        refuse("target_modules", "is not a list of names")
    return LoraSettings(rank, alpha, tuple(sorted(targets)))


def fingerprint(base: Path, shape: ModelConfig) -> str:
    """Hex SHA-256 over name, type, shape and bytes of each tensor of a model's folder, in the order of names.

    How the tensors are divided into files does not count, nor under which name a tied head lies. One tensor is in
    memory at a time; a gigabyte takes about a second.
    """
    stored = checkpoint.stored_tensors(base)
    if shape.tie_embeddings:
        stored = checkpoint.untie(stored, base)

    sha256 = hashlib.sha256()
    for name in sorted(stored):
        with checkpoint.open_tensors(stored[name].path) as file:
            tensor = file.get_tensor(stored[name].name)
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha256.update(tensor.view(torch.uint8).numpy())
    return sha256.hexdigest()


def check_base(adapter: Path, base: Path, base_sha256: str) -> None:
    """Raise ValueError when the adapter was trained on another base. One that peft wrote does not say on which."""
    path = adapter / BASE_FILE
    if not path.is_file():
        named = named_base(adapter)
        if Path(named).name != base.resolve().name:
            print(
                f"note: {adapter} names its base {named!r:.200}; whether {base} is that is not known", file=sys.stderr
            )
        return

    wanted = read_json(path).get("sha256")
    if wanted != base_sha256:
        wrong = f"{adapter} was trained on another base than {base} (sha256 {wanted!s:.12}, not {base_sha256:.12})"
        raise ValueError(f"{wrong}; its own was {named_base(adapter)}")


def named_base(adapter: Path) -> str:
    """What adapter_config.json calls the base: a folder, or a name on the hub."""
    return str(read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")


# --- base and adapter together ---


@dataclass(frozen=True)
class Source:
    """The folders that a model is loaded from, found to fit before any weight is read."""

    base: Path  # config.json and weights
    shape: ModelConfig
    adapter: Path | None = None
    settings: LoraSettings | None = None  # of the adapter
    scheme: Scheme | None = None  # how the base is quantized, or is to be

    @property
    def small_files(self) -> Path:
        """The folder with tokenizer and chat template: the adapter's, where it has them."""
        has_own = self.adapter is not None and (self.adapter / "tokenizer.json").is_file()
        return self.adapter if has_own else self.base

    def load(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Llama:
        """The model, its adapter beside the base's matrices; all of it as `dtype`, or quantized."""
        model = checkpoint.load_model(self.base, device, dtype, scheme=self.scheme)
        if self.adapter is not None:
            add_adapters(model, self.settings)
            checkpoint.load_weights(model, self.adapter)
        fuse(model)
        return model


def find_source(base: str | None, adapter: str | None, default: str = "out/demo", bits: int | None = None) -> Source:
    """The folders that --checkpoint and --adapter mean. base None: the one that the adapter names; without an adapter,
    `default`. bits: 8 or 4: the base is quantized while it is loaded.

    Raises ValueError for an adapter of another base, when a tensor is missing, surplus, or of another shape, and for
    bits that cannot be.
    """
    if adapter is None:
        folder = checkpoint.resolve(base or default)
        shape = checkpoint.read_config(folder, quantized=True)
        return Source(folder, shape, scheme=find_scheme(folder, shape, bits))
    if bits is not None:
        merging = f"python lora.py --adapter={adapter}"
        raise ValueError(f"--bits={bits} with an adapter: merge it first ({merging}), then quantize the merged model")

    adapter_folder = checkpoint.resolve(adapter, adapter=True)
    settings = read_settings(adapter_folder)
    folder = checkpoint.resolve(base) if base is not None else find_base(adapter_folder)
    shape = checkpoint.read_config(folder)

    check_base(adapter_folder, folder, fingerprint(folder, shape))  # before shapes: it says why they differ
    try:
        model = without_memory(shape, settings)
        checkpoint.find_parameters(model, checkpoint.stored_tensors(adapter_folder), adapter_folder)
    except ValueError as error:
        advice = "has it another base? give that with --checkpoint=..."
        raise ValueError(f"{adapter_folder} does not fit {folder}: {error}; {advice}") from None
    return Source(folder, shape, adapter_folder, settings)


def find_scheme(folder: Path, shape: ModelConfig, bits: int | None) -> Scheme | None:
    """How a folder is quantized, or is to be. Raises ValueError for one that is quantized already."""
    own = checkpoint.read_scheme(folder)
    if bits is None:
        return own
    if own is not None:
        raise ValueError(f"{folder} is quantized already, {own}; leave out --bits={bits}")
    scheme = Scheme(bits)
    scheme.check_model(on_meta(shape))
    return scheme


def find_base(adapter: Path) -> Path:
    """The folder that the adapter names as its base. Raises ValueError when it is not on this machine."""
    named = named_base(adapter)
    if not named or not Path(named).is_dir():
        where = f"names its base {named!r:.200}, which is no folder here" if named else "names no base"
        raise ValueError(f"{adapter} {where}; give the base with --checkpoint=...")
    return checkpoint.resolve(named)


# --- merging ---


@dataclass(frozen=True)
class MergeConfig:
    """Settings of `python lora.py`."""

    adapter: str = "out/run"  # a run that trained an adapter, one of its checkpoints, or a folder of peft
    checkpoint: str | None = None  # the base; None: the one that the adapter names
    out_dir: str | None = None  # the folder to write, which must not exist; None: <adapter>-merged
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the written weights; bfloat16 rounds part of the change off


def main(cfg: MergeConfig) -> None:
    """Add the adapter to its base's matrices, and write a plain Hugging Face folder."""
    # What can be wrong is found before the weights are read.
    out_dir = Path(cfg.out_dir or f"{cfg.adapter.rstrip('/')}-merged")
    if out_dir.exists():
        raise ValueError(f"{out_dir} exists already; name another --out_dir")
    adapter = checkpoint.resolve(cfg.adapter, adapter=True)
    base = checkpoint.resolve(cfg.checkpoint) if cfg.checkpoint is not None else find_base(adapter)
    refuse_quantized(base)
    source = find_source(str(base), str(adapter))
    tokenizer = Tokenizer.load(source.small_files)

    # Merge
    dtype = getattr(torch, cfg.dtype)
    with memory_advice("merging takes 4 bytes of memory for each parameter of the base"):
        model = source.load()
        merged = merge(model, dtype)
        model.to(dtype)

    # Write
    files = checkpoint.small_files(model, tokenizer, companions(source))
    with atomic.new_folder(out_dir) as temporary:
        checkpoint.write_model(temporary, dict(model.named_parameters()), files)

    print(f"{merged.matrices} matrices changed by {100 * merged.change:.3g} % of their size")
    if dtype != torch.float32:
        lost = f"{100 * merged.rounding:.0f} % of the change's size"
        print(f"rounding to {cfg.dtype} moves them by {lost}; --dtype=float32 loses nothing")
    print(f"wrote {out_dir}")


def companions(source: Source) -> checkpoint.Files:
    """The small files that travel with a merged model: the adapter's before the base's; config.json has the ids that
    end a text or an answer from the same side as generation_config.json."""
    files = checkpoint.companions(source.base) | checkpoint.companions(source.small_files)
    generation = json.loads(files.get(checkpoint.GENERATION_FILE, b"{}"))
    config = read_json(source.base / "config.json")
    config |= {key: generation[key] for key in checkpoint.SPECIAL_IDS if key in generation}
    return files | {"config.json": json.dumps(config).encode()}


def refuse_quantized(base: Path) -> None:
    """Raise ValueError for a base whose weights are integers: a step between two of them is larger than most changes.

    Measured on SmolLM2-135M in 4 bits, groups of 32: 87 % of what the adapter had gained was lost.
    """
    if read_json(base / "config.json").get("quantization_config"):
        advice = "keep the adapter beside it (--adapter), or merge into the model that it was made from"
        raise ValueError(f"{base} is quantized: rounding would lose most of the adapter's change; {advice}")


@dataclass(frozen=True)
class Merged:
    """What merging did, as ratios of Frobenius norms over all matrices that have an adapter."""

    matrices: int
    change: float  # |D| / |W|, with D = (alpha / r) B A
    rounding: float  # |round(W + D) - (W + D)| / |D|, in the dtype that is written


@torch.no_grad()
def merge(model: Llama, dtype: torch.dtype) -> Merged:
    """Add each adapter to its matrix and take it away, in place, in float32; `dtype` is what will be written."""
    squares = torch.zeros(3, dtype=torch.float64)  # of W, D and the rounding
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    for name, module in adapted:
        change = module.change()
        plain = Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
        plain.weight = nn.Parameter(module.weight + change)
        plain.bias = module.bias
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, plain)

        rounding = plain.weight.to(dtype).float() - plain.weight
        squares += torch.stack([tensor.double().square().sum() for tensor in (module.weight, change, rounding)])

    weight, change, rounding = squares.sqrt().tolist()
    ratio = rounding / change if change > 0 else 0.0
    return Merged(len(adapted), change / weight, ratio)


def describe(settings: LoraSettings) -> str:
    """The adapters in words."""
    return f"LoRA of rank {settings.rank}, alpha {settings.alpha:g}, on {' '.join(settings.targets)}"


def settings_of(cfg: Any) -> LoraSettings | None:
    """The adapters that a run's settings ask for (train.py's lora_rank, lora_alpha, lora_targets); None: none."""
    if not cfg.lora_rank:
        return None
    return LoraSettings(cfg.lora_rank, cfg.lora_alpha, tuple(cfg.lora_targets.split()))


if __name__ == "__main__":
    configurator.run(main, MergeConfig)
