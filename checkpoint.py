"""Checkpoints: a Hugging Face Llama folder that transformers opens as it is, with the training state beside it.

    out/<run>/step_0001000/  config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
                             generation_config.json, training/{optimizer.safetensors, state.json}
    out/<run>/latest, best -> step_...

A folder is written aside and renamed, `latest` is moved after that: a kill at any moment leaves a loadable checkpoint.
Nothing is ever unpickled.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

import atomic
from model import Llama, ModelConfig
from tokenizer import END_OF_TEXT, Tokenizer

NAMES = {  # Hugging Face's config.json key -> ours
    "vocab_size": "vocab_size",
    "max_position_embeddings": "block_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "hidden_size": "n_embd",
    "intermediate_size": "ffn_hidden",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
}
FIXED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}


def hf_config(cfg: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """config.json's content; RoPE settings in the spelling of transformers 4 and of 5."""
    return {
        "architectures": ["LlamaForCausalLM"],
        **FIXED,
        **{theirs: getattr(cfg, ours) for theirs, ours in NAMES.items()},
        "head_dim": cfg.n_embd // cfg.n_head,
        "rope_parameters": {"rope_type": "default", "rope_theta": cfg.rope_theta},
        "initializer_range": 0.02,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def read_config(folder: Path) -> ModelConfig:
    """The model's shape from config.json. Raises ValueError that names what this program does not implement."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    for key, value in FIXED.items():
        if found.get(key, value) != value:
            raise ValueError(f"{path}: {key}={found[key]!r} is not implemented here, only {value!r}")
    rope = found.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"{path}: rope_type={rope['rope_type']!r} is not implemented here, only 'default'")
    found.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    found.setdefault("num_key_value_heads", found.get("num_attention_heads"))
    found.setdefault("tie_word_embeddings", False)
    if missing := [key for key in NAMES if key not in found]:
        raise ValueError(f"{path}: {missing[0]} is missing")
    cfg = ModelConfig(**{ours: found[theirs] for theirs, ours in NAMES.items()})
    if found.get("head_dim") not in (None, cfg.n_embd // cfg.n_head):
        raise ValueError(
            f"{path}: head_dim={found['head_dim']} is not implemented here, only hidden_size / num_attention_heads"
        )
    return cfg


def resolve(path: str | Path) -> Path:
    """The checkpoint folder that `path` means: itself, or a run's newest. Raises ValueError when there is none."""
    for folder in (Path(path), Path(path) / "latest"):
        if (folder / "config.json").is_file():
            return folder
    raise ValueError(f"{path} holds no checkpoint; train first, for example: python train.py config/demo.py")


def load_model(folder: Path, device: str | torch.device = "cpu") -> Llama:
    """Build the model of a checkpoint folder with its weights, in float32."""
    model = Llama(read_config(folder))
    load_weights(model, folder)
    return model.to(device)


def load_weights(model: Llama, folder: Path) -> None:
    """Copy model.safetensors into the model. Raises ValueError for names or shapes that do not fit."""
    path = folder / "model.safetensors"
    weights = _read_tensors(path)
    wanted = weights_of(model)
    if odd := sorted(set(weights) ^ set(wanted)):
        place = "absent" if odd[0] in wanted else "not part of this model"
        raise ValueError(f"{path}: tensor {odd[0]} is {place}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if weights[name].shape != parameter.shape:
                raise ValueError(
                    f"{path}: {name} has shape {tuple(weights[name].shape)}, config.json says {tuple(parameter.shape)}"
                )
            parameter.copy_(weights[name])


def weights_of(model: Llama) -> dict[str, torch.Tensor]:
    """Parameters by Hugging Face's names; a tied head is the embedding and has no entry of its own."""
    return dict(model.named_parameters())


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: the checkpoint is incomplete; resume from another step_... folder")
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def optimizer_tensors(model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as one flat dictionary, `<parameter>/<field>`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{field}": tensor
        for group in optimizer.param_groups
        for parameter in group["params"]
        for field, tensor in optimizer.state[parameter].items()
    }


def load_optimizer(model: Llama, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what optimizer_tensors took out, on each parameter's device."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name, _, field = key.rpartition("/")
        optimizer.state[parameters[name]][field] = tensor.to(parameters[name].device)


def save(
    out_dir: Path,
    step: int,
    model: Llama,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    state: dict[str, Any],
    best: bool,
    keep: int,
) -> Path:
    """Write out_dir/step_<step>, move `latest` (and `best`) to it, delete all but the `keep` newest and the best."""
    folder = out_dir / f"step_{step:07d}"
    if folder.is_dir():
        if (out_dir / "latest").resolve() == folder.resolve():
            return folder  # resumed and stopped again without a step between
        shutil.rmtree(folder)  # left by a run that was killed before `latest` moved, or went back to an earlier step
    settings = {"model_max_length": model.cfg.block_size, "clean_up_tokenization_spaces": False}
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    ends = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
    files = {
        "config.json": hf_config(model.cfg, tokenizer.end_of_text),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **special, **settings},
        "generation_config.json": ends,
        "training/state.json": state,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights_of(model).items()}
    memory = {name: tensor.cpu().contiguous() for name, tensor in optimizer_tensors(model, optimizer).items()}
    with atomic.new_folder(folder) as temporary:
        (temporary / "training").mkdir()
        for name, content in files.items():
            (temporary / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (temporary / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
        save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
        save_file(memory | {"rng": torch.get_rng_state()}, temporary / "training/optimizer.safetensors")
        for path in temporary.rglob("*.safetensors"):  # written readable by their owner alone: no folder to publish
            shutil.copymode(temporary / "config.json", path)
    atomic.link(out_dir / "latest", folder.name)
    if best:
        atomic.link(out_dir / "best", folder.name)
    pinned = {(out_dir / link).resolve() for link in ("latest", "best")}
    for old in sorted(out_dir.glob("step_*[0-9]"))[:-keep]:
        if old.resolve() not in pinned:
            shutil.rmtree(old)
    return folder


def read_state(folder: Path) -> dict[str, Any]:
    """training/state.json of a checkpoint. Raises ValueError when there is none: weights alone cannot be resumed."""
    path = folder / "training/state.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no training state to resume from")
    return json.loads(path.read_text(encoding="utf-8"))


def restore(folder: Path, model: Llama, optimizer: torch.optim.Optimizer) -> None:
    """Load weights, optimizer and random generator of a checkpoint written by `save`."""
    load_weights(model, folder)
    tensors = _read_tensors(folder / "training/optimizer.safetensors")
    torch.set_rng_state(tensors.pop("rng"))
    load_optimizer(model, optimizer, tensors)
