"""Checkpoints: a Hugging Face Llama folder that transformers opens as it is, with the training state beside it.

    out/<run>/step_0001000/  config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
                             generation_config.json, training/{optimizer.safetensors, state.json}
    out/<run>/latest, best -> step_...

A folder is written aside and renamed, `latest` is moved after that: a kill at any moment leaves a loadable checkpoint.
Folders of Llama, Mistral, Qwen2 and Qwen3 from elsewhere are read as well; what they ask for and model.py does not
compute is refused by name. Nothing is ever unpickled.
"""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch.optim import Optimizer

import atomic
from errors import one_line, read_json
from model import Llama, ModelConfig, RopeScaling
from parallel import copy_full, gather
from tokenizer import Tokenizer

# Hugging Face's config.json key -> ours
NAMES = {"vocab_size": "vocab_size", "max_position_embeddings": "block_size", "num_hidden_layers": "n_layer"}
NAMES |= {"num_attention_heads": "n_head", "num_key_value_heads": "n_kv_head", "hidden_size": "n_embd"}
NAMES |= {"intermediate_size": "ffn_hidden", "rope_theta": "rope_theta", "rms_norm_eps": "norm_eps"}
NAMES |= {"tie_word_embeddings": "tie_embeddings"}
KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
FAMILIES = {  # model_type -> its class in transformers, and the keys it has besides
    "llama": ("LlamaForCausalLM", {"attention_bias": False, "mlp_bias": False}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", {"use_sliding_window": False}),
    "qwen3": ("Qwen3ForCausalLM", {"use_sliding_window": False, "attention_bias": False}),
}
FIXED = {"hidden_act": "silu", "is_causal": True, "attention_dropout": 0}  # what model.py computes
FIXED |= dict.fromkeys(("attention_bias", "mlp_bias", "use_sliding_window", "rope_interleaved"), False)
FIXED |= dict.fromkeys(("sliding_window", "layer_types", "num_experts", "num_local_experts", "quantization_config"))
FIXED |= dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"))
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
COMPANIONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")
COMPANIONS += ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt")
CONVERT = "transformers' AutoModelForCausalLM.from_pretrained(old).save_pretrained(new)"
STEP_FOLDER = re.compile(r"step_\d{7,}")  # what `save` names its folders
SHARD_BYTES = 5_000_000_000  # weights in one file
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Stored = dict[str, tuple[Path, tuple[int, ...]]]  # file and shape of each tensor
Files = dict[str, bytes]  # content by name
State = dict[str, Any]  # of a run, as JSON


def hf_config(cfg: ModelConfig, end_of_text: int | None, dtype: str = "float32") -> dict[str, Any]:
    """config.json's content for weights stored as dtype; RoPE settings in the spelling of transformers 4 and of 5."""
    plain = "mistral" if cfg.n_embd % cfg.n_head else "llama"  # transformers' Llama wants heads that divide the width
    family = "qwen2" if cfg.qkv_bias else "qwen3" if cfg.qk_norm else plain
    scaling = dataclasses.asdict(cfg.rope_scaling) if cfg.rope_scaling else {}
    rope = {"rope_type": "llama3" if scaling else "default", **scaling}
    architecture, besides = FAMILIES[family]
    config = {"architectures": [architecture], "model_type": family, "hidden_act": FIXED["hidden_act"], **besides}
    config |= {theirs: getattr(cfg, ours) for theirs, ours in NAMES.items()} | {"head_dim": cfg.head_width}
    config |= {"rope_scaling": rope if scaling else None, "rope_parameters": {"rope_theta": cfg.rope_theta, **rope}}
    config |= {"initializer_range": 0.02, "bos_token_id": end_of_text, "eos_token_id": end_of_text}
    return config | {"dtype": dtype, "torch_dtype": dtype}  # the name in transformers 5, and in 4


def read_config(folder: str | Path) -> ModelConfig:
    """The model's shape from config.json. Raises ValueError that names what this program does not implement."""
    path = Path(folder) / "config.json"
    found = read_json(path)
    with one_line(f"{path}: ", ValueError, OverflowError):
        return _shape(found)


def _only(key: str, value: Any, *known: Any) -> Any:
    """`value`, which must be one of those that are implemented here."""
    if value not in known:
        raise ValueError(f"{key}={value!r:.80} is not implemented here, only {', '.join(map(repr, known))}")
    return value


def _shape(found: dict[str, Any]) -> ModelConfig:
    """The shape that config.json's content describes."""
    family = _only("model_type", found.get("model_type"), *FAMILIES)
    asked = {"sliding_window": 4096} | found if family == "mistral" else dict(found)  # 4096: when it says nothing
    if family.startswith("qwen"):
        asked.pop("sliding_window", None)  # inert unless use_sliding_window
    if isinstance(kinds := found.get("layer_types"), list) and all(kind == "full_attention" for kind in kinds):
        del asked["layer_types"]
    for key, value in FIXED.items():
        _only(key, value if asked.get(key) is None else asked[key], value)
    theta, scaling = _rope(found)
    found = {"tie_word_embeddings": False, **found, "rope_theta": theta}
    if found.get("num_key_value_heads") is None:
        found["num_key_value_heads"] = found.get("num_attention_heads")
    settings = {ours: _typed(found, theirs, ModelConfig.__annotations__[ours]) for theirs, ours in NAMES.items()}
    D = None if found.get("head_dim") is None else _typed(found, "head_dim", int)
    settings["head_dim"] = None if D is None or D * settings["n_head"] == settings["n_embd"] else D
    return ModelConfig(**settings, rope_scaling=scaling, qkv_bias=family == "qwen2", qk_norm=family == "qwen3")


def _typed(found: dict[str, Any], key: str, kind: type) -> Any:
    if key not in found:
        raise ValueError(f"{key} is missing")
    if type(found[key]) is not kind and not (kind is float and type(found[key]) is int):
        raise ValueError(f"{key}={found[key]!r:.80} is not {KINDS[kind]}")
    return kind(found[key])


def _rope(found: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """theta and scaling. transformers 4 has them in rope_theta and rope_scaling, 5 in rope_parameters; both may be."""
    top = {key: found[key] for key in ("rope_theta", "partial_rotary_factor") if found.get(key) is not None}
    old = found.get("rope_scaling", {})
    old = {"rope_type": "default"} if old is None else old
    rope: dict[str, Any] = {}
    for name, settings in (("rope_parameters", found.get("rope_parameters") or {}), ("rope_scaling", old), ("", top)):
        if not isinstance(settings, dict):
            raise ValueError(f"{name}={settings!r:.80} is not an object")
        for key, value in settings.items():
            key = "rope_type" if key == "type" else key
            if rope.setdefault(key, value) != value:
                raise ValueError(f"{name} {key}={value!r:.80} contradicts {rope[key]!r:.80} elsewhere in the file")
    kind, theta = rope.pop("rope_type", "default"), _typed({"rope_theta": 10000.0} | rope, "rope_theta", float)
    _only("rope_type", kind, "default", "llama3")
    _only("partial_rotary_factor", rope.pop("partial_rotary_factor", 1), 1)
    fields = RopeScaling.__annotations__ if kind == "llama3" else {}
    if odd := sorted(rope.keys() - fields.keys() - {"rope_theta"}):
        raise ValueError(f"{odd[0]}={rope[odd[0]]!r:.80} is not implemented here for rope_type={kind!r}")
    return theta, RopeScaling(**{key: _typed(rope, key, fields[key]) for key in fields}) if fields else None


def check_vocabulary(cfg: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raise ValueError when the tokenizer has ids that the embedding has no row for."""
    if (ids := tokenizer.vocab_size) > (rows := cfg.vocab_size):
        raise ValueError(f"the tokenizer has {ids} ids, but the model's embedding {rows} rows (vocab_size): no pair")


def resolve(path: str | Path) -> Path:
    """The checkpoint folder that `path` means: itself, or a run's newest. Raises ValueError when there is none."""
    for folder in (Path(path), Path(path) / "latest"):
        if (folder / "config.json").is_file():
            return folder
    raise ValueError(f"{path} holds no checkpoint; train first, for example: python train.py config/demo.py")


def newest_complete(out_dir: Path) -> Path | None:
    """The newest step_* folder of a run that has readable settings, weights and training state; None without one."""
    steps = [path for path in out_dir.glob("step_*") if STEP_FOLDER.fullmatch(path.name)]
    for folder in sorted(steps, key=lambda path: int(path.name.removeprefix("step_")), reverse=True):
        with contextlib.suppress(ValueError, OSError):
            read_config(folder)
            read_state(folder)
            _stored(folder)
            with _open(folder / "training/optimizer.safetensors"):
                return folder
    return None


def load_model(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Llama:
    """Build the model of a folder with its weights, float32, float16 or bfloat16 in the files, as `dtype`.

    Takes the memory of the weights and of one tensor more. Names and shapes are compared before anything is allocated.
    """
    folder = Path(folder)
    cfg, stored = read_config(folder), _stored(folder)
    if cfg.n_layer > len(stored):
        raise ValueError(f"{folder}: config.json says {cfg.n_layer} layers, the weights are {len(stored)} tensors")
    with torch.device("meta"):
        model = Llama(cfg)
    _check(model, stored, folder)
    model.to(dtype).to_empty(device=device)
    _copy(model, stored)
    return model


def load_weights(model: Llama, folder: Path) -> None:
    """Copy a folder's weights into the model. Raises ValueError for names or shapes that do not fit, NaN, infinity."""
    stored = _stored(folder)
    _check(model, stored, folder)
    _copy(model, stored)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A safetensors file; read, not mapped: a file cut short meanwhile is an error, not the end of the process."""
    with one_line(f"{path} is damaged: ", safetensors.SafetensorError, OSError):
        if not path.is_file():
            raise ValueError(f"{path} is missing: the checkpoint is incomplete; take another step_... or get it again")
        with safetensors.safe_open(path, framework="pt", backend="pread") as file:
            yield file


def _weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards that the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if index.is_file() and not single.is_file():
        files = read_json(index).get("weight_map")
        names = sorted(set(map(str, files.values()))) if isinstance(files, dict) else [str(files)]
        odd = [name for name in names if Path(name).name != name or not name[:200].endswith(".safetensors")]
        if odd or not names:
            raise ValueError(f"{index}: weight_map must name safetensors files of this folder, not {odd!r:.80}")
        return [folder / name for name in names]
    pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickles and not single.is_file():
        why = "a pickle: it could run any program and is not opened here; if you trust it, convert it"
        raise ValueError(f"{folder} has its weights in {pickles[0]}, {why}: {CONVERT}")
    return [single]


def _stored(folder: Path) -> Stored:
    """File and shape of each tensor, from the headers alone."""
    stored: Stored = {}
    for path in _weight_files(folder):
        with _open(path) as file:
            for name in file.keys():
                part = file.get_slice(name)
                if name in stored:
                    raise ValueError(f"{path}: {name!r:.80} is in {stored[name][0].name} as well")
                if part.get_dtype() not in ("F32", "F16", "BF16"):
                    raise ValueError(f"{path}: {name!r:.80} is stored as {part.get_dtype()}, not as F32, F16 or BF16")
                if not name.endswith("rotary_emb.inv_freq"):  # in old Llama folders; follows from config.json
                    stored[name] = path, tuple(part.get_shape())
    return stored


def _check(model: Llama, stored: Stored, folder: Path) -> None:
    """Raise ValueError unless the stored tensors are the model's, in name and shape. Drops a copy of a tied head."""
    wanted = dict(model.named_parameters())  # a tied head is the embedding and has no entry of its own
    if model.cfg.tie_embeddings and HEAD in stored and EMBEDDING in stored:
        with _open(stored[HEAD][0]) as one, _open(stored[EMBEDDING][0]) as other:
            if not torch.equal(one.get_tensor(HEAD), other.get_tensor(EMBEDDING)):
                raise ValueError(f"{folder}: {HEAD} is not the embedding, but config.json ties the two")
        del stored[HEAD]
    if odd := sorted(set(stored) ^ set(wanted)):
        place = "absent" if odd[0] in wanted else "not part of this model"
        raise ValueError(f"{folder}: tensor {odd[0]!r:.80} is {place}")
    for name, parameter in wanted.items():
        path, shape = stored[name]
        if shape != parameter.shape:
            raise ValueError(f"{path}: {name} has shape {shape}, config.json says {tuple(parameter.shape)}")


@torch.no_grad()
def _copy(model: Llama, stored: Stored) -> None:
    parameters = dict(model.named_parameters())
    for path in sorted({path for path, _ in stored.values()}):
        with _open(path) as file:
            for name in sorted(parameters.keys() & file.keys()):
                tensor = file.get_tensor(name).to(parameters[name].dtype)
                if not all(value.isfinite() for value in torch.aminmax(tensor)):  # one of them is NaN then
                    raise ValueError(f"{path}: {name} holds NaN or infinity")
                copy_full(parameters[name], tensor)


def optimizer_tensors(model: Llama, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as one flat dictionary, `<parameter>/<field>`."""
    states = {name: optimizer.state.get(parameter, {}) for name, parameter in model.named_parameters()}
    return {f"{name}/{field}": tensor for name, state in states.items() for field, tensor in state.items()}


def load_optimizer(model: Llama, optimizer: Optimizer, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Put back what optimizer_tensors took out, on each parameter's device and divided as it is."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors:
        name, _, field = key.rpartition("/")
        parameter = parameters[name].detach()
        if tensor.shape == parameter.shape:
            copy_full(moved := torch.empty_like(parameter, dtype=tensor.dtype), tensor)
        else:  # the number of steps
            moved = tensor.to(parameter.device)
        optimizer.state[parameters[name]][field] = moved


def companions(folder: str | Path) -> Files:
    """The small files that travel with a folder's weights (its tokenizer, its special ids), for `small_files`."""
    return {name: (Path(folder) / name).read_bytes() for name in COMPANIONS if (Path(folder) / name).is_file()}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def small_files(model: Llama, tokenizer: Tokenizer, carried: Files) -> Files:
    """A checkpoint's files but weights and training state: settings, tokenizer.

    carried: what `companions` read where the model came from; kept, with its special ids, unless the tokenizer is
    another one now.
    """
    text = tokenizer.json.encode()
    carried = dict(carried) if carried.get("tokenizer.json") == text else {"tokenizer.json": text}
    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    came = json.loads(carried.pop("config.json", b"{}"))
    config = hf_config(model.cfg, tokenizer.end_of_text, dtype) | {"bos_token_id": tokenizer.start}
    config |= {key: came[key] for key in SPECIAL if key in came}
    special = tokenizer.special | {"bos_token": tokenizer.hf.id_to_token(tokenizer.start)}
    settings = {"model_max_length": model.cfg.block_size, "clean_up_tokenization_spaces": False}
    made = {"config": config, "generation_config": {key: config[key] for key in SPECIAL if key in config}}
    made["tokenizer_config"] = {"tokenizer_class": "PreTrainedTokenizerFast", **special, **settings}
    return {f"{name}.json": _json(content) for name, content in made.items()} | carried


def save(
    out_dir: Path, step: int, model: Llama, optimizer: Optimizer, files: Files, state: State, best: bool, keep: int
) -> Path:
    """Write out_dir/step_<step>, move `latest` (and `best`) to it, delete all but the `keep` newest and the best.

    files: what `small_files` made. Every process of a run calls it: tensors that are divided are gathered, one by one,
    in the host memory of rank 0, which writes.
    """
    folder, memory = out_dir / f"step_{step:07d}", gather(optimizer_tensors(model, optimizer))
    weights = gather(dict(model.named_parameters()))
    if not weights or (folder.is_dir() and (out_dir / "latest").resolve() == folder.resolve()):
        return folder  # rank 0 writes it; or resumed and stopped again without a step between
    if folder.is_dir():
        shutil.rmtree(folder)  # left by a run that was killed before `latest` moved, or went back to an earlier step
    with atomic.new_folder(folder) as temporary:
        (temporary / "training").mkdir()
        for name, content in (files | {"training/state.json": _json(state)}).items():
            (temporary / name).write_bytes(content)
        save_torch_state_dict(weights, temporary, max_shard_size=SHARD_BYTES)  # one file, or shards and their index
        save_file(memory | {"rng": torch.get_rng_state()}, temporary / "training/optimizer.safetensors")
        for path in temporary.rglob("*.safetensors"):  # written readable by their owner alone: no folder to publish
            shutil.copymode(temporary / "config.json", path)
    for link in ("latest", "best") if best else ("latest",):
        atomic.link(out_dir / link, folder.name)
    pinned = {(out_dir / link).resolve() for link in ("latest", "best")}
    for old in sorted(out_dir.glob("step_*[0-9]"))[:-keep]:
        if old.resolve() not in pinned:
            shutil.rmtree(old)
    return folder


def read_state(folder: Path) -> State:
    """training/state.json of a checkpoint. Raises ValueError when there is none: weights alone cannot be resumed."""
    if not (path := folder / "training/state.json").is_file():
        raise ValueError(f"{folder} has no training state to resume from")
    return json.loads(path.read_text(encoding="utf-8"))


def restore(folder: Path, model: Llama, optimizer: Optimizer) -> None:
    """Load weights, optimizer and random generator of a checkpoint written by `save`."""
    load_weights(model, folder)
    path = folder / "training/optimizer.safetensors"
    with _open(path) as file, one_line(f"{path} is not of this model: ", KeyError, TypeError, RuntimeError):
        tensors = ((name, file.get_tensor(name)) for name in file.keys() if name != "rng")  # one at a time
        load_optimizer(model, optimizer, tensors)
        torch.set_rng_state(file.get_tensor("rng"))
