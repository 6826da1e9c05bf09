"""Checkpoints: a Hugging Face Llama folder that transformers opens as it is, with the training state beside it.

    out/<run>/step_0001000/  config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
                             generation_config.json, training/{optimizer.safetensors, state.json}
    out/<run>/latest, best -> step_...

A folder is written aside and renamed, `latest` is moved after that: a kill at any moment leaves a loadable checkpoint.

A run with LoRA writes adapter_config.json and adapter_model.safetensors instead of config.json and model.safetensors:
a folder as peft's. The base is not copied.

Folders of Llama, Mistral, Qwen2 and Qwen3 from elsewhere are read as well (hf_config.py says which). Nothing is ever
unpickled. What a person put among the checkpoints is never deleted.
"""

import contextlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from tqdm import tqdm

import atomic
import optim
from chat_template import CONFIG_FILE, TEMPLATE_FILE, ChatTemplate
from errors import one_line, read_json, refuse_lfs_pointer
from hf_config import hf_config, read_config, read_scheme
from model import Llama, ModelConfig, on_meta
from muon import Muon
from parallel import copy_full, gather
from quantized import QuantizedMatrix, Scheme, piece_shapes, put_quantized, round_matrix
from tokenizer import Tokenizer
from vocabulary import Growth

SHARD_BYTES = 5_000_000_000  # weights in one file
HELD_BYTES = 400_000_000  # the same, of a model that is written a tensor at a time
WEIGHT_TYPES = ("F32", "F16", "BF16")  # safetensors' names of the types that weights may be stored as
INTEGER_TYPES = ("I8", "U8")  # of quantized ones
INTEGER_ENDS = (".weight_int8", ".weight_int4")  # how their names end
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
ADAPTER_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
CONVERT = "transformers' AutoModelForCausalLM.from_pretrained(old).save_pretrained(new)"

GENERATION_FILE = "generation_config.json"
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
COMPANIONS = (  # small files that travel with the weights of a folder from elsewhere
    "config.json",
    GENERATION_FILE,
    "tokenizer.json",
    CONFIG_FILE,
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE_FILE,
    "vocab.json",
    "merges.txt",
)

STEP_FOLDER = re.compile(r"step_\d{7,}")  # what `save` names its folders
STAGING_FOLDER = re.compile(r"step_\d{7,}\.tmp")  # the same while they are written or deleted
OPTIMIZER_FILE, STATE_FILE = "training/optimizer.safetensors", "training/state.json"
STATE_FIELDS = {  # what each optimizer remembers of a parameter
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
}

Files = dict[str, bytes]  # content by name
State = dict[str, Any]  # of a run, as JSON
Tensors = dict[str, torch.Tensor]  # by name
AnyOptimizer = optim.Optimizer | torch.optim.Optimizer  # ours consists of one or two parts


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies."""

    path: Path
    name: str  # in that file
    shape: tuple[int, ...]
    dtype: str  # safetensors' name of it


Stored = dict[str, StoredTensor]  # by name


# --- which folder ---


def resolve(path: str | Path, adapter: bool = False) -> Path:
    """The checkpoint folder that `path` means: itself, or a run's newest; with `adapter` one that holds a LoRA adapter.

    Raises ValueError when there is none, or one of the other kind.
    """
    folder = find_folder(Path(path))
    if adapter and not is_adapter(folder):
        raise ValueError(
            f"{folder} is a model, not a LoRA adapter (it has no {ADAPTER_CONFIG}); give --checkpoint={path}"
        )
    if is_adapter(folder) and not adapter:
        advice = (
            f"give --adapter={path} to sample.py or chat.py, or make a model of it: python lora.py --adapter={path}"
        )
        raise ValueError(f"{folder} is a LoRA adapter, not a model; {advice}")
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter, not a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def find_folder(path: Path) -> Path:
    """The folder that `path` means, of a model or an adapter. Raises ValueError when there is none."""
    for folder in (path, path / "latest"):
        if (folder / "config.json").is_file() or is_adapter(folder):
            return folder

    newest = newest_complete(path)  # `latest` was lost, or what it points to
    if newest is None:
        run = path.parent
        others = [folder.name for folder in step_folders(run) if is_complete(folder)]
        advice = "train first, for example: python train.py config/demo.py"
        if others:
            advice = f"{run} has {', '.join(others)}"
        raise ValueError(f"{path} holds no checkpoint; {advice}")
    return newest


def newest_complete(out_dir: Path) -> Path | None:
    """The step_* folder of a run that is complete and has made the most steps; None when no folder is complete."""
    complete = [folder for folder in step_folders(out_dir) if is_complete(folder)]
    return max(complete, key=lambda folder: read_state(folder)["step"], default=None)


def step_folders(out_dir: Path) -> list[Path]:
    """What is named as a checkpoint, in the order of the names."""
    return sorted(path for path in out_dir.glob("step_*") if STEP_FOLDER.fullmatch(path.name))


def is_complete(folder: Path) -> bool:
    """Whether a folder has readable settings, weights and training state; of tensors the headers are read."""
    try:
        if is_adapter(folder):
            read_json(folder / ADAPTER_CONFIG)
        else:
            read_config(folder)
        read_state(folder)
        stored_tensors(folder)
        with open_tensors(folder / OPTIMIZER_FILE):
            return True
    except (ValueError, OSError):
        return False


# --- reading weights ---


def load_model(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    growth: Growth | None = None,
    scheme: Scheme | None = None,
) -> Llama:
    """Build the model of a folder with its weights, float32, float16 or bfloat16 in the files, as `dtype`.

    growth: give it the rows of new tokens. scheme: quantize the weights while they are read. A folder of quantize.py
    gives quantized weights; then there can be no growth and no other scheme. Takes the memory of the weights and of one
    tensor more. Names and shapes are compared before anything is allocated.
    """
    folder = Path(folder)
    own_scheme = read_scheme(folder)
    if own_scheme is not None:
        assert growth is None and scheme in (None, own_scheme), (growth, scheme)
    cfg = read_config(folder, quantized=True)
    if growth is not None:
        cfg = replace(cfg, vocab_size=growth.rows)
    stored = stored_tensors(folder)
    if cfg.n_layer > len(stored):  # before that many layers are made, be they without memory
        raise ValueError(f"{folder}: config.json says {cfg.n_layer} layers, the weights are {len(stored)} tensors")

    model = on_meta(cfg)
    if own_scheme is not None:
        return load_quantized(model, own_scheme, stored, folder, device, dtype)
    sources = find_parameters(model, stored, folder, growth)
    if scheme is not None:
        return load_quantizing(model, scheme, sources, device, dtype)
    model.to(dtype).to_empty(device=device)
    copy_weights(model, sources, growth)
    return model


def load_quantized(
    model: Llama, scheme: Scheme, stored: Stored, folder: Path, device: str | torch.device, dtype: torch.dtype
) -> Llama:
    """Fill a model on "meta" from the folder of quantize.py. Raises ValueError for tensors that do not fit."""
    matrices = put_quantized(model.to(dtype), scheme, dtype)
    pieces = find_pieces(matrices, stored, folder)
    others = {name: stored[name] for name in stored.keys() - {piece.name for piece in pieces.values()}}
    sources = find_parameters(model, others, folder)

    model.to_empty(device=device)
    copy_weights(model, sources)
    for name, matrix in matrices.items():
        ends = piece_shapes(matrix.rows, matrix.columns, matrix.bits, matrix.group_size)
        matrix.fill({end: read_piece(pieces[f"{name}.{end}"]) for end in ends}, device)
    return model


def load_quantizing(
    model: Llama, scheme: Scheme, sources: Stored, device: str | torch.device, dtype: torch.dtype
) -> Llama:
    """Fill a model on "meta" from a folder of float weights, and round each matrix when it has been read."""
    matrices = put_quantized(model.to(dtype), scheme, dtype)
    model.to_empty(device=device)
    copy_weights(model, {name: source for name, source in sources.items() if not is_of(name, matrices)})
    for name, matrix in tqdm(matrices.items(), desc="quantizing", unit=" matrices", leave=False, disable=None):
        source = sources[f"{name}.weight"]
        with open_tensors(source.path) as file:
            tensor = file.get_tensor(source.name)
        refuse_non_finite(tensor, source.path, source.name)
        matrix.fill(round_matrix(tensor, matrix.bits, matrix.group_size), device)
    return model


def is_of(name: str, matrices: dict[str, QuantizedMatrix]) -> bool:
    """Whether a parameter is the weight of one of the matrices."""
    return name.removesuffix(".weight") in matrices and name.endswith(".weight")


def find_pieces(matrices: dict[str, QuantizedMatrix], stored: Stored, folder: Path) -> Stored:
    """The pieces of each matrix by their names. Raises ValueError where one is absent, or of another type or shape."""
    found: Stored = {}
    for matrix_name, matrix in matrices.items():
        wanted = piece_shapes(matrix.rows, matrix.columns, matrix.bits, matrix.group_size)
        for end, (dtype, shape) in wanted.items():
            name = f"{matrix_name}.{end}"
            if name not in stored:
                raise ValueError(f"{folder}: tensor {name!r:.80} is absent")
            piece = stored[name]
            if (piece.dtype, piece.shape) != (dtype, shape):
                wrong = f"{name} is {piece.dtype} of shape {piece.shape}"
                raise ValueError(f"{piece.path}: {wrong}, config.json says {dtype} of shape {shape}")
            found[name] = piece
    return found


def read_piece(piece: StoredTensor) -> torch.Tensor:
    """A piece of a quantized matrix. Raises ValueError for scales that are NaN or infinite."""
    with open_tensors(piece.path) as file:
        tensor = file.get_tensor(piece.name)
    if tensor.is_floating_point():
        refuse_non_finite(tensor, piece.path, piece.name)
    return tensor


def load_weights(model: Llama, folder: Path, growth: Growth | None = None) -> None:
    """Copy a folder's weights into the model, which has the rows of new tokens already where there is a growth.

    Of an adapter's folder those of the adapters, of a model's all the others. Raises ValueError for names or shapes
    that do not fit, NaN, infinity.
    """
    sources = find_parameters(model, stored_tensors(folder), folder, growth)
    copy_weights(model, sources, growth)


def check_vocabulary(cfg: ModelConfig, tokenizer: Tokenizer) -> None:
    """Raise ValueError when the tokenizer has ids that the embedding has no row for."""
    ids, rows = tokenizer.needed_rows, cfg.vocab_size
    if ids > rows:
        raise ValueError(f"the tokenizer has {ids} ids, but the model's embedding {rows} rows (vocab_size): no pair")


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file; read, not mapped: a file cut short meanwhile is an error, not the end of the process."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: the checkpoint is incomplete; take another step_... or get it again")
    refuse_lfs_pointer(path)
    with one_line(f"{path} is damaged: ", safetensors.SafetensorError, OSError):
        with safetensors.safe_open(path, framework="pt", backend="pread") as file:
            yield file


def weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards that the index names; or an adapter's file."""
    if is_adapter(folder):
        return [folder / ADAPTER_FILE]
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return [folder / name for name in shard_names(index)]

    pickles = [path.name for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
    if pickles:
        why = "a pickle: it could run any program and is not opened here; if you trust it, convert it"
        raise ValueError(f"{folder} has its weights in {pickles[0]}, {why}: {CONVERT}")
    return [single]  # whoever opens it says that it is missing


def shard_names(index: Path) -> list[str]:
    """The files that a model.safetensors.index.json names. Raises ValueError for files of another folder."""
    weight_map = read_json(index).get("weight_map")
    if isinstance(weight_map, dict):
        names = sorted({str(name) for name in weight_map.values()})
    else:
        names = [str(weight_map)]

    odd = [name for name in names if Path(name).name != name or not name[:200].endswith(".safetensors")]
    if odd or not names:
        raise ValueError(f"{index}: weight_map must name safetensors files of this folder, not {odd!r:.80}")
    return names


def stored_tensors(folder: Path) -> Stored:
    """Where each tensor of a folder's weights lies, from the headers alone."""
    stored: Stored = {}
    for path in weight_files(folder):
        with open_tensors(path) as file:
            for name in file.keys():
                header = file.get_slice(name)
                if name in stored:
                    raise ValueError(f"{path}: {name!r:.80} is in {stored[name].path.name} as well")
                dtype = header.get_dtype()
                is_integer = dtype in INTEGER_TYPES and name.endswith(INTEGER_ENDS)
                if dtype not in WEIGHT_TYPES and not is_integer:
                    raise ValueError(f"{path}: {name!r:.80} is stored as {dtype}, not as F32, F16 or BF16")
                if not name.endswith("rotary_emb.inv_freq"):  # in old Llama folders; follows from config.json
                    stored[name] = StoredTensor(path, name, tuple(header.get_shape()), dtype)
    return stored


def find_parameters(model: Llama, stored: Stored, folder: Path, growth: Growth | None = None) -> Stored:
    """The stored tensor of each parameter. Raises ValueError unless names and shapes are those of the model, before its
    growth.

    In the folder of an adapter those are looked for that belong to adapters, elsewhere all the others.
    """
    of_adapter = is_adapter(folder)
    parameters = dict(model.named_parameters())  # a tied head is the embedding and has no entry of its own
    wanted = {name: parameters[name] for name in parameters if is_adapter_name(name) == of_adapter}
    names_in_file = {name_in_file(name) for name in wanted}
    is_tied = model.cfg.tie_embeddings and not of_adapter
    sources = untie(stored, folder) if is_tied else stored

    differing = sorted(sources.keys() ^ names_in_file)
    if differing:
        name = differing[0]
        place = "absent" if name in names_in_file else "not part of this model"
        raise ValueError(f"{folder}: tensor {name!r:.80} is {place}")

    config = ADAPTER_CONFIG if of_adapter else "config.json"
    for name, parameter in wanted.items():
        source = sources[name_in_file(name)]
        shape = tuple(parameter.shape)
        if growth is not None and name in (EMBEDDING, HEAD):
            shape = (growth.rows_before, shape[1])
        if source.shape != shape:
            raise ValueError(f"{source.path}: {source.name} has shape {source.shape}, {config} says {shape}")
    return {name: sources[name_in_file(name)] for name in wanted}


def is_adapter_name(name: str) -> bool:
    """Whether a parameter belongs to an adapter (lora.py)."""
    return name.endswith((".lora_A", ".lora_B"))


def name_in_file(name: str) -> str:
    """A parameter's name in the files: that of an adapter's is peft's.

    model.layers.0.self_attn.q_proj.lora_A -> base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
    """
    return f"base_model.model.{name}.weight" if is_adapter_name(name) else name


def untie(stored: Stored, folder: Path) -> Stored:
    """The tensors of a tied model, the matrix that is embedding and head under the embedding's name alone.

    Files have it under either name (safetensors.torch.save_model writes the head's), or under both, equal ones.
    """
    if HEAD not in stored:
        return stored
    others = {name: tensor for name, tensor in stored.items() if name != HEAD}
    if EMBEDDING not in stored:
        return others | {EMBEDDING: stored[HEAD]}

    with open_tensors(stored[HEAD].path) as head, open_tensors(stored[EMBEDDING].path) as embedding:
        if not torch.equal(head.get_tensor(HEAD), embedding.get_tensor(EMBEDDING)):
            raise ValueError(f"{folder}: {HEAD} is not the embedding, but config.json ties the two")
    return others


@torch.no_grad()
def copy_weights(model: Llama, sources: Stored, growth: Growth | None = None) -> None:
    """Copy each parameter from its file, one tensor at a time."""
    parameters = dict(model.named_parameters())
    for path in sorted({source.path for source in sources.values()}):
        names = sorted(name for name, source in sources.items() if source.path == path)
        with open_tensors(path) as file:
            for name in names:
                tensor = file.get_tensor(sources[name].name)
                if growth is not None and name in (EMBEDDING, HEAD):
                    tensor = growth.grown(tensor)  # in the type of the file, as grow.py writes it
                tensor = tensor.to(parameters[name].dtype)
                refuse_non_finite(tensor, path, name)
                copy_full(parameters[name], tensor)


def refuse_non_finite(tensor: torch.Tensor, path: Path, name: str) -> None:
    """Raise ValueError for NaN or infinity."""
    least, most = torch.aminmax(tensor)  # both are NaN when one value is
    if not (least.isfinite() and most.isfinite()):
        raise ValueError(f"{path}: {name} holds NaN or infinity")


# --- small files ---


def companions(folder: str | Path) -> Files:
    """The small files that travel with a folder's weights (its tokenizer, its special ids), for `small_files`."""
    return {name: (Path(folder) / name).read_bytes() for name in COMPANIONS if (Path(folder) / name).is_file()}


def small_files(model: Llama, tokenizer: Tokenizer, carried: Files) -> Files:
    """A checkpoint's files but weights and training state: settings, tokenizer.

    carried: what `companions` read where the model came from; kept, with its special ids, unless the tokenizer is
    another one now.
    """
    tokenizer_json = tokenizer.json.encode()
    if carried.get("tokenizer.json") == tokenizer_json:
        kept = dict(carried)
    else:
        kept = {"tokenizer.json": tokenizer_json}
    origin = json.loads(kept.pop("config.json", b"{}"))

    dtype = str(model.lm_head.weight.dtype).removeprefix("torch.")
    config = hf_config(model.cfg, tokenizer.end_of_text, dtype)
    config["bos_token_id"] = tokenizer.start
    config |= {key: origin[key] for key in SPECIAL_IDS if key in origin}

    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokenizer.special,
        "bos_token": tokenizer.hf.id_to_token(tokenizer.start),
        "model_max_length": model.cfg.block_size,
        "clean_up_tokenization_spaces": False,
    }
    written = {
        "config.json": _json(config),
        GENERATION_FILE: _json({key: config[key] for key in SPECIAL_IDS if key in config}),
        CONFIG_FILE: _json(tokenizer_config),
    }
    return written | kept


def chat_files(model: Llama, template: ChatTemplate, carried: Files) -> Files:
    """A checkpoint's files but weights and training state, for a model that answers by this template.

    Generation ends where an answer ends, and, as before, where a text ends. carried: what `companions` read where the
    model came from; what it says of sampling is kept. The template's variables (bos_token) stay what they were when it
    made the data: no token is named here that its tokenizer does not name.
    """
    tokenizer = template.tokenizer
    files = small_files(model, tokenizer, {})
    made = {name: json.loads(files[name]) for name in ("config.json", GENERATION_FILE, CONFIG_FILE)}
    del made[CONFIG_FILE]["bos_token"]

    ends = {"eos_token_id": [template.end_of_turn, *sorted(tokenizer.stops - {template.end_of_turn})]}
    origin = json.loads(carried.get(GENERATION_FILE, b"{}"))
    sampling = {key: value for key, value in origin.items() if not key.startswith("_")}

    template_files = template.files()
    changed = {
        "config.json": made["config.json"] | ends,
        GENERATION_FILE: sampling | made[GENERATION_FILE] | ends,
        CONFIG_FILE: made[CONFIG_FILE] | json.loads(template_files[CONFIG_FILE]),
    }
    written = {name: _json(content) for name, content in changed.items()}
    return files | written | {TEMPLATE_FILE: template_files[TEMPLATE_FILE]}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


# --- saving ---


def save(
    out_dir: Path, step: int, model: Llama, optimizer: AnyOptimizer, files: Files, state: State, best: bool, keep: int
) -> Path:
    """Write out_dir/step_<step>, move `latest` (and `best`) to it, delete older checkpoints as `prune` says.

    files: what `small_files` made. state: what `read_state` gives back; "skipped_in_a_row" in it, if not 0, says that
    the last steps were skipped. Every process of a run calls it: tensors that are divided are gathered, one by one, in
    the host memory of rank 0, which writes. Raises OSError when it cannot be written; the checkpoints before it stay.
    """
    folder = out_dir / f"step_{step:07d}"
    moments = gather(optimizer_tensors(model, optimizer))
    weights = gather(tensors_to_save(model))
    if not weights:
        return folder  # rank 0 writes it

    try:
        clear_staging(out_dir)
        repair_links(out_dir, state["best_val_loss"])
        previous = latest_step(out_dir)
        if previous in (None, step) and is_complete(folder):
            atomic.link(out_dir / "latest", folder.name)
            return folder  # resumed and stopped again without a step between
        make_way(folder)
        write_folder(folder, weights, moments, files, state)
        for name in ("latest", "best") if best else ("latest",):
            atomic.link(out_dir / name, folder.name)
    except (OSError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"{folder} cannot be written: {reason}; {last_good(out_dir)}") from None

    prune(out_dir, step, previous, keep)
    return folder


def tensors_to_save(model: Llama) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by their names in the files: the adapters alone, where there are some."""
    parameters = dict(model.named_parameters())
    adapters = {name_in_file(name): parameters[name] for name in parameters if is_adapter_name(name)}
    return adapters or parameters


def trainable(model: Llama) -> dict[str, torch.nn.Parameter]:
    """The parameters that the optimizer changes."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def write_folder(
    folder: Path, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor], files: Files, state: State
) -> None:
    """Write a checkpoint aside and rename it."""
    with atomic.new_folder(folder) as temporary:
        (temporary / "training").mkdir()
        (temporary / STATE_FILE).write_bytes(_json(state))
        save_file(moments | {"rng": torch.get_rng_state()}, temporary / OPTIMIZER_FILE)
        write_model(temporary, weights, files)


def write_model(folder: Path, weights: dict[str, torch.Tensor], files: Files) -> None:
    """Write weights, in one file or in shards with their index, and the small files into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    config = folder / "config.json"
    if is_adapter(folder):
        config = folder / ADAPTER_CONFIG
        save_file(weights, folder / ADAPTER_FILE, metadata={"format": "pt"})
    else:
        save_torch_state_dict(weights, folder, max_shard_size=SHARD_BYTES)
    for path in folder.rglob("*.safetensors"):  # written readable by their owner alone: no folder to publish
        shutil.copymode(config, path)


def write_one_by_one(folder: Path, tensors: Iterator[Tensors], shard_bytes: int = HELD_BYTES) -> int:
    """Write tensors into model.safetensors, or into several files and their index. Returns the bytes of all of them.

    tensors: some at a time, by their names. At most shard_bytes and the newest ones are held in memory.
    """
    shards: list[list[str]] = []  # the names in each file
    held: Tensors = {}
    written = 0

    def write_held() -> None:
        nonlocal written
        save_file(held, part_file(folder, len(shards)), metadata={"format": "pt"})
        written += size_of(held)
        shards.append(list(held))
        held.clear()

    for pieces in tensors:
        if held and size_of(held) + size_of(pieces) > shard_bytes:
            write_held()
        held |= pieces
    write_held()

    if len(shards) == 1:
        part_file(folder, 0).rename(folder / "model.safetensors")
        return written
    weight_map = {}
    for number, names in enumerate(shards):
        shard = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        part_file(folder, number).rename(folder / shard)
        weight_map |= dict.fromkeys(names, shard)
    index = {"metadata": {"total_size": written}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_bytes(_json(index))
    return written


def part_file(folder: Path, number: int) -> Path:
    """The name of a file while it is not known how many there will be."""
    return folder / f"part-{number}.safetensors"


def size_of(tensors: Tensors) -> int:
    """Bytes of all of them."""
    return sum(tensor.nbytes for tensor in tensors.values())


def last_good(out_dir: Path) -> str:
    """Where a run can go on from when a save has failed, in words."""
    newest = newest_complete(out_dir)
    if newest is None:
        return "there is no complete checkpoint before it"
    advice = f"make room, or go on elsewhere: --resume_from={newest} --out_dir=..."
    return f"the last complete checkpoint is {newest}; {advice}"


def latest_step(out_dir: Path) -> int | None:
    """The step of the checkpoint that `latest` points to; None when that is missing or unreadable."""
    with contextlib.suppress(ValueError, OSError):
        return read_state(out_dir / "latest")["step"]
    return None


def clear_staging(out_dir: Path) -> None:
    """Delete what a killed save, or a killed deletion, left behind."""
    for path in out_dir.glob("step_*.tmp"):
        if STAGING_FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def repair_links(out_dir: Path, best_val_loss: float) -> None:
    """Make `latest` and `best` links again where a copy of the run followed them, or lost them.

    A copied folder gets the name of its step. If there is one of that name already, it is kept under another name.
    """
    for link in (out_dir / "latest", out_dir / "best"):
        if link.is_symlink() or not link.exists():
            continue
        if not is_complete(link):  # a file with the name of the folder, say
            move_aside(link)
            continue

        home = out_dir / f"step_{read_state(link)['step']:07d}"
        if is_complete(home):
            move_aside(link)
        else:
            make_way(home)
            os.rename(link, home)
        atomic.link(link, home.name)

    if not (out_dir / "best").exists() and math.isfinite(best_val_loss):
        for folder in own_checkpoints(out_dir).values():
            state = read_state(folder)
            if state["evaluated"] == state["step"] and state["val_loss"] == best_val_loss:
                atomic.link(out_dir / "best", folder.name)


def make_way(folder: Path) -> None:
    """Free the name of a checkpoint: delete this program's own of an abandoned branch, keep a person's aside."""
    if not os.path.lexists(folder):
        return
    if folder in own_checkpoints(folder.parent).values():
        delete(folder)
    else:
        move_aside(folder)


def move_aside(path: Path) -> None:
    """Rename to <name>_old1, or the first number that is free."""
    names = (path.with_name(f"{path.name}_old{number}") for number in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    os.rename(path, aside)
    print(f"note: {path} was in the way of a checkpoint; it is {aside} now")


def delete(folder: Path) -> None:
    """Delete a checkpoint: renamed first, so that a kill leaves no half of it under its name."""
    staging = folder.with_name(folder.name + ".tmp")
    os.rename(folder, staging)
    shutil.rmtree(staging)


def own_checkpoints(out_dir: Path) -> dict[int, Path]:
    """Complete checkpoints by step, as `save` leaves them: no links, and no copies under another step's name."""
    own = {}
    for folder in step_folders(out_dir):
        if is_complete(folder) and not folder.is_symlink():
            step = read_state(folder)["step"]
            if folder.name == f"step_{step:07d}":
                own[step] = folder
    return own


def prune(out_dir: Path, step: int, previous: int | None, keep: int) -> None:
    """Delete this program's checkpoints but the `keep` newest, the newest healthy one, `latest` and `best`.

    previous: the step that `latest` pointed to before this save. When a person has set `latest` back to step 10, the
    run goes on from there, and steps above 10 that were not saved since are another branch: they are not counted.
    """
    own = own_checkpoints(out_dir)
    abandoned = {other for other in own if other > step}
    if previous is not None:
        abandoned |= {other for other in own if previous < other < step}

    branch = sorted(own.keys() - abandoned)
    healthy = [other for other in branch if is_healthy(read_state(own[other]))]
    kept = {*branch[-keep:], *healthy[-1:]}
    links = [out_dir / name for name in ("latest", "best")]
    linked = {Path(os.readlink(link)).name for link in links if link.is_symlink()}
    for other, folder in own.items():
        if other not in kept and folder.name not in linked:
            delete(folder)


def is_healthy(state: State) -> bool:
    """Whether the losses of the last step and of the last evaluation were finite, as far as they are known."""
    if state.get("skipped_in_a_row", 0):
        return False
    return state["evaluated"] < 0 or math.isfinite(state["val_loss"])


# --- resuming ---


def read_state(folder: Path) -> State:
    """training/state.json of a checkpoint. Raises ValueError when there is none: weights alone cannot be resumed."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no training state to resume from")
    state = read_json(path)

    for key, least in (("step", 0), ("evaluated", -1)):
        value = state.get(key)
        if type(value) is not int or not least <= value < 2**53:
            raise ValueError(f"{path}: {key}={value!r:.80} is not a step")
    for key in ("val_loss", "best_val_loss"):
        if type(state.get(key)) is not float:  # infinity before the first evaluation, NaN after a bad one
            raise ValueError(f"{path}: {key}={state.get(key)!r:.80} is not a loss")
    if type(state.get("settings")) is not dict:
        raise ValueError(f"{path}: settings={state.get('settings')!r:.80} is not an object")
    return state


def restore(folder: Path, model: Llama, optimizer: AnyOptimizer) -> None:
    """Load weights, optimizer and random generator of a checkpoint written by `save`.

    Names and shapes of all tensors are compared before the first is loaded.
    """
    path = folder / OPTIMIZER_FILE
    with open_tensors(path) as file:
        moments = find_moments(file, path, model, optimizer, read_state(folder)["step"])
        load_weights(model, folder)
        load_optimizer(model, optimizer, read_moments(file, path, moments))
        with one_line(f"{path}: rng is damaged: ", RuntimeError):
            torch.set_rng_state(file.get_tensor("rng"))


def state_fields(optimizer: AnyOptimizer) -> dict[torch.nn.Parameter, tuple[str, ...]]:
    """What the optimizer remembers of each parameter, by the names of torch."""
    fields = {}
    for part in getattr(optimizer, "parts", [optimizer]):
        for group in part.param_groups:
            fields |= dict.fromkeys(group["params"], STATE_FIELDS[type(part)])
    return fields


def optimizer_tensors(model: Llama, optimizer: AnyOptimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as one flat dictionary, `<parameter>/<field>`; zeros before the first update."""
    fields = state_fields(optimizer)
    tensors = {}
    for name, parameter in trainable(model).items():
        state = optimizer.state.get(parameter, {})
        for field in fields[parameter]:
            if field in state:
                tensors[f"{name}/{field}"] = state[field]
            else:
                tensors[f"{name}/{field}"] = torch.zeros(()) if field == "step" else torch.zeros_like(parameter)
    return tensors


def find_moments(file: Any, path: Path, model: Llama, optimizer: AnyOptimizer, step: int) -> list[str]:
    """Names of the optimizer's tensors in a file. Raises ValueError unless they are those that it needs to go on."""
    fields = state_fields(optimizer)
    expected = {"rng": ("U8", tuple(torch.get_rng_state().shape))}
    for name, parameter in trainable(model).items():
        for field in fields[parameter]:
            expected[f"{name}/{field}"] = ("F32", () if field == "step" else tuple(parameter.shape))

    names = set(file.keys())
    if step == 0 and names == {"rng"}:
        return []  # an earlier version wrote no zeros before the first step
    differing = sorted(names ^ expected.keys())
    if differing:
        place = "absent" if differing[0] in expected else "not part of this model's optimizer"
        raise ValueError(f"{path}: tensor {differing[0]!r:.200} is {place}")

    for name, (dtype, shape) in expected.items():
        header = file.get_slice(name)
        found = (header.get_dtype(), tuple(header.get_shape()))
        if found != (dtype, shape):
            raise ValueError(f"{path}: {name} is {found[0]} of shape {found[1]}, not {dtype} of shape {shape}")
    return sorted(expected.keys() - {"rng"})


def read_moments(file: Any, path: Path, names: list[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor, one at a time. Raises ValueError for values that no optimizer writes."""
    for name in names:
        tensor = file.get_tensor(name)
        refuse_non_finite(tensor, path, name)
        if name.endswith(("/step", "/exp_avg_sq")) and tensor.min() < 0:
            raise ValueError(f"{path}: {name} holds numbers below 0")
        yield name, tensor


def load_optimizer(model: Llama, optimizer: AnyOptimizer, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Put back what optimizer_tensors took out, on each parameter's device and divided as it is."""
    parameters = dict(model.named_parameters())
    for key, tensor in tensors:
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        if field == "step":
            moved = tensor.to(parameter.device)
        else:
            moved = torch.empty_like(parameter.detach(), dtype=tensor.dtype)
            copy_full(moved, tensor)
        optimizer.state[parameter][field] = moved
