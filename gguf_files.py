"""GGUF, the file of llama.cpp, Ollama and LM Studio: written from a model's folder, and read into one.

    python quantize.py --checkpoint=out/smollm2 --to=gguf --bits=8         out/smollm2-Q8_0.gguf
    python gguf_files.py --gguf=model.gguf --out=out/model                 a folder as of Hugging Face

(The package gguf knows the format of the file and of its blocks; this module knows what stands where in a model of the
Llama family.) Tensors are read and written one at a time.

llama.cpp turns pairs of neighbouring features where Hugging Face's Llama turns i with i + D/2 (model.apply_rope). So
the rows of its query and key matrices are in another order, head by head; with D = 6:

    Hugging Face    0 1 2 3 4 5
    GGUF            0 3 1 4 2 5
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import TokenType, quants
from tqdm import tqdm

import atomic
import checkpoint
from chat_template import TEMPLATE_FILE, read_template
from checkpoint import EMBEDDING, HEAD, Stored
from errors import one_line
from fast_encode import (
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    PATTERN,
    QWEN2_PATTERN,
    SMOLLM_PATTERN,
    pattern_of,
    pre_tokenizers_by_pattern,
)
from hf_config import family_of, hf_config
from model import Llama, ModelConfig, RopeScaling, on_meta, rope_frequencies
from quantized import round_matrix
from tokenizer import Tokenizer

BLOCK = 32  # weights of a row that share a scale, in all types that are written here
FLOATS = {Type.F32: np.float32, Type.F16: np.float16}

NAMES = {  # Hugging Face's name, without its ending: GGUF's; {} is the number of the block
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.self_attn.q_norm": "blk.{}.attn_q_norm",
    "model.layers.{}.self_attn.k_norm": "blk.{}.attn_k_norm",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}
ROPE_FACTORS = "rope_freqs.weight"  # of a context that is stretched as Llama 3.1's

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # by family_of
PRE_TOKENIZERS = {  # how text is cut before the merges: llama.cpp's name of it
    GPT2_PATTERN: "gpt-2",
    SMOLLM_PATTERN: "smollm",
    LLAMA3_PATTERN: "llama-bpe",
    QWEN2_PATTERN: "qwen2",
    O200K_PATTERN: "gpt-4o",
    PATTERN: "llama-bpe",  # the nearest: it differs in numbers of three digits and more, and in I'VE
}
PATTERNS = {name: pattern for pattern, name in PRE_TOKENIZERS.items() if pattern != PATTERN}
BYTE_LEVEL = "gpt2"  # GGUF's name of a byte-level BPE


# --- names and orders ---


def gguf_name(name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight."""
    return translate(name, NAMES)


def hf_name(name: str) -> str:
    """blk.3.ffn_up.weight -> model.layers.3.mlp.up_proj.weight. Raises ValueError for a tensor of another model."""
    return translate(name, {theirs: ours for ours, theirs in NAMES.items()})


def translate(name: str, table: dict[str, str]) -> str:
    """A name by a table whose entries may have {} in the place of a number."""
    stem, _, end = name.rpartition(".")
    number = re.search(r"\.(\d+)\.", stem)
    pattern = stem if number is None else stem.replace(number[0], ".{}.", 1)
    if pattern not in table or end not in ("weight", "bias"):
        raise ValueError(f"tensor {name!r:.80} is not part of a model of the Llama family")
    return f"{table[pattern]}.{end}".format(*number.groups() if number else ())


def to_neighbours(x: torch.Tensor, D: int) -> torch.Tensor:
    """Rows of queries or keys, (heads * D, ...), in the order in which pairs of features are neighbours."""
    halves = x.unflatten(0, (-1, 2, D // 2))  # (heads, 2, D / 2, ...)
    return halves.transpose(1, 2).reshape(x.shape)


def to_halves(x: torch.Tensor, D: int) -> torch.Tensor:
    """The same back to Hugging Face's order."""
    pairs = x.unflatten(0, (-1, D // 2, 2))  # (heads, D / 2, 2, ...)
    return pairs.transpose(1, 2).reshape(x.shape)


def is_turned(name: str, architecture: str) -> bool:
    """Whether a tensor has another order in GGUF; name: Hugging Face's. (Qwen's have not.)"""
    return architecture == "llama" and ".self_attn." in name and name.split(".")[-2] in ("q_proj", "k_proj")


# --- blocks ---


def to_blocks(x: torch.Tensor, kind: Type) -> np.ndarray:
    """A tensor as a file of this type has it: floats, or blocks of bytes (rows, bytes of a row)."""
    numbers = x.float()
    if kind in FLOATS:
        return numbers.numpy().astype(FLOATS[kind])
    if kind == Type.Q4_1:
        return q4_1_blocks(numbers)
    return quants.quantize(numbers.numpy(), kind)


def q4_1_blocks(x: torch.Tensor) -> np.ndarray:
    """(rows, in) as our int4 in groups of 32, whose scale and minimum Q4_1 has as well.

    A block is the scale, the minimum and 16 bytes: byte j has weight j in its low half, weight j + 16 in its high half.
    """
    pieces = round_matrix(x, 4, BLOCK)
    both = pieces["weight_int4"]  # (rows, in / 2)
    q = torch.stack((both & 15, both >> 4), dim=2).flatten(1)  # (rows, in)
    q = q.unflatten(1, (-1, 2, BLOCK // 2))  # (rows, G, 2, 16)
    halves = q[:, :, 0] | (q[:, :, 1] << 4)  # (rows, G, 16)
    ends = torch.stack((pieces["weight_scale"], pieces["weight_min"]), dim=2)  # (rows, G, 2) float16
    blocks = torch.cat((ends.view(torch.uint8), halves), dim=2)  # (rows, G, 20)
    return blocks.flatten(1).numpy()


def type_of(name: str, shape: tuple[int, ...], body: Type, head: Type) -> Type:
    """The type of a tensor: vectors stay float32, rows that are no whole blocks become float16."""
    if len(shape) == 1:
        return Type.F32
    kind = head if name in (EMBEDDING, HEAD) else body
    if kind not in FLOATS and shape[1] % BLOCK:
        return Type.F16
    return kind


# --- writing ---


@dataclass(frozen=True)
class Export:
    """A folder that becomes a GGUF file."""

    folder: Path
    shape: ModelConfig
    tokenizer: Tokenizer
    body: Type  # of the matrices in the blocks
    head: Type  # of embedding and head

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the family."""
        return ARCHITECTURES[family_of(self.shape)]


def write_gguf(path: Path, export: Export, sources: Stored) -> int:
    """Write the file; returns its size in bytes. Raises ValueError for a tokenizer that llama.cpp has not."""
    with atomic.new_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, export.architecture)
        add_shape(writer, export)
        add_tokenizer(writer, export)

        # First what there will be, then one tensor after the other.
        for name, source in sources.items():
            kind = type_of(name, source.shape, export.body, export.head)
            add_info(writer, gguf_name(name), source.shape, kind)
        factors = rope_factors(export.shape)
        if factors is not None:
            add_info(writer, ROPE_FACTORS, factors.shape, Type.F32)

        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name in tqdm(list(sources), desc="writing", unit=" tensors", disable=None):
            writer.write_tensor_data(read_blocks(name, export, sources))
        if factors is not None:
            writer.write_tensor_data(factors)
        writer.close()
    return path.stat().st_size


def add_info(writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], kind: Type) -> None:
    """Announce a tensor."""
    if kind in FLOATS:
        dtype = np.dtype(FLOATS[kind])
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
        return
    byte_shape = quants.quant_shape_to_byte_shape(shape, kind)
    writer.add_tensor_info(name, byte_shape, np.dtype(np.uint8), int(np.prod(byte_shape)), raw_dtype=kind)


def read_blocks(name: str, export: Export, sources: Stored) -> np.ndarray:
    """A tensor of the folder as the file has it."""
    source = sources[name]
    with checkpoint.open_tensors(source.path) as file:
        tensor = file.get_tensor(source.name)
    checkpoint.refuse_non_finite(tensor, source.path, source.name)
    if is_turned(name, export.architecture):
        tensor = to_neighbours(tensor, export.shape.head_width)
    return to_blocks(tensor, type_of(name, source.shape, export.body, export.head))


def add_shape(writer: gguf.GGUFWriter, export: Export) -> None:
    """What config.json says."""
    shape = export.shape
    writer.add_name(export.folder.resolve().name)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{export.body.name}" if export.body != Type.F32 else "ALL_F32"])
    writer.add_context_length(shape.block_size)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.ffn_hidden)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_kv_head)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab_size)


def rope_factors(shape: ModelConfig) -> np.ndarray | None:
    """What each rotary frequency is divided by, (D/2,) float32; None when the context is not stretched."""
    if shape.rope_scaling is None:
        return None
    plain = rope_frequencies(shape.head_width, shape.rope_theta)
    stretched = rope_frequencies(shape.head_width, shape.rope_theta, shape.rope_scaling)
    return (plain / stretched).numpy()


def add_tokenizer(writer: gguf.GGUFWriter, export: Export) -> None:
    """Vocabulary, merges, special tokens and chat template."""
    tokenizer = export.tokenizer
    spec = json.loads(tokenizer.json)
    pattern = pattern_of(tokenizer.hf.pre_tokenizer)
    if spec["model"].get("type") != "BPE" or pattern not in PRE_TOKENIZERS:
        raise ValueError(f"{export.folder}: llama.cpp has no such tokenizer; only byte-level BPEs are written here")
    if pattern == PATTERN:
        tqdm.write("note: llama.cpp cuts numbers by three digits, this tokenizer by two: such prompts get other ids")

    tokens, types = token_rows(tokenizer, export.shape.vocab_size)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in spec["model"]["merges"]]
    writer.add_tokenizer_model(BYTE_LEVEL)
    writer.add_tokenizer_pre(PRE_TOKENIZERS[pattern])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)

    writer.add_bos_token_id(tokenizer.start)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_add_bos_token(tokenizer.bos is not None)
    others = sorted(tokenizer.stops - {tokenizer.end_of_text})
    if others:
        writer.add_eot_token_id(others[0])
    template = read_template(export.folder)
    if template is not None:
        writer.add_chat_template(template[0])


def token_rows(tokenizer: Tokenizer, rows: int) -> tuple[list[str], list[TokenType]]:
    """Spelling and kind of each id; ids without a token (padding of the embedding) are unused."""
    added = tokenizer.hf.get_added_tokens_decoder()
    tokens = []
    types = []
    for i in range(rows):
        token = tokenizer.hf.id_to_token(i)
        if token is None:
            tokens.append(f"[PAD{i}]")
            types.append(TokenType.UNUSED)
            continue
        tokens.append(token)
        if i not in added:
            types.append(TokenType.NORMAL)
        else:
            types.append(TokenType.CONTROL if added[i].special else TokenType.USER_DEFINED)
    return tokens, types


# --- reading ---


@dataclass(frozen=True)
class ImportConfig:
    """Settings of `python gguf_files.py`."""

    gguf: str = ""  # the file to read
    out: str | None = None  # the folder to write, which must not exist; None: the file's name without .gguf
    tokenizer: str | None = None  # folder whose tokenizer is taken; None: the one in the file, a byte-level BPE


class Fields:
    """What a GGUF file says besides its tensors."""

    def __init__(self, path: Path):
        self.path = path
        with one_line(f"{path}: not a readable GGUF file: "):
            self.reader = gguf.GGUFReader(path)
        self.architecture = self.text("general.architecture")
        if self.architecture not in ARCHITECTURES.values():
            known = ", ".join(sorted(set(ARCHITECTURES.values())))
            raise ValueError(f"{path} is a {self.architecture!r:.40} model; only {known} are read here")

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field; {} in its name is the architecture."""
        field = self.reader.fields.get(name.format(self.architecture) if "{}" in name else name)
        return default if field is None else field.contents()

    def need(self, name: str) -> Any:
        """The same. Raises ValueError when it is not there."""
        value = self.get(name)
        if value is None:
            raise ValueError(f"{self.path}: {name.replace('{}.', '')} is missing")
        return value

    def text(self, name: str) -> str:
        """A field that is a text."""
        field = self.reader.fields.get(name)
        return "" if field is None else str(field.contents())


def read_shape(fields: Fields) -> ModelConfig:
    """The model's shape. Raises ValueError for what is not computed here."""
    tensors = {tensor.name: tensor for tensor in fields.reader.tensors}
    if "token_embd.weight" not in tensors:
        raise ValueError(f"{fields.path} has no token_embd.weight: it is a vocabulary, or one part of a divided model")

    heads = fields.need("{}.attention.head_count")
    width = fields.need("{}.embedding_length")
    head_dim = fields.get("{}.attention.key_length", width // heads)
    theta = fields.get("{}.rope.freq_base", 10000.0)
    sizes = {
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "block_size": fields.need("{}.context_length"),
        "n_layer": fields.need("{}.block_count"),
        "n_head": heads,
        "n_kv_head": fields.get("{}.attention.head_count_kv", heads),
        "n_embd": width,
        "ffn_hidden": fields.need("{}.feed_forward_length"),
        "head_dim": None if head_dim * heads == width else head_dim,
    }
    with one_line(f"{fields.path}: ", ValueError, TypeError):
        refuse_other_rope(fields)
        return ModelConfig(
            **sizes,
            rope_theta=float(theta),
            norm_eps=short(fields.need("{}.attention.layer_norm_rms_epsilon")),
            tie_embeddings="output.weight" not in tensors,
            rope_scaling=read_scaling(tensors, head_dim, float(theta)),
            qkv_bias="blk.0.attn_q.bias" in tensors,
            qk_norm="blk.0.attn_q_norm.weight" in tensors,
        )


def short(number: float) -> float:
    """The shortest decimal that is this number in float32: 1e-5 for 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def refuse_other_rope(fields: Fields) -> None:
    """Raise ValueError for positions that are stretched in another way than Llama 3.1's."""
    kind = fields.get("{}.rope.scaling.type", "none")
    if kind != "none":
        raise ValueError(f"rope.scaling.type={kind!r:.40} is not implemented here")


def read_scaling(tensors: dict[str, Any], D: int, theta: float) -> RopeScaling | None:
    """Llama 3.1's stretch of the context, by the factors in the file. Raises ValueError for other factors."""
    if ROPE_FACTORS not in tensors:
        return None
    found = np.array(tensors[ROPE_FACTORS].data, dtype=np.float32)
    for scaling in (RopeScaling(), RopeScaling(factor=32.0)):  # Llama 3.1 and 3.2
        plain = rope_frequencies(D, theta)
        factors = (plain / rope_frequencies(D, theta, scaling)).numpy()
        if factors.shape == found.shape and np.allclose(factors, found, rtol=1e-4):
            return scaling
    raise ValueError(f"{ROPE_FACTORS} are not those of Llama 3.1 or 3.2: not implemented here")


def read_tensors(fields: Fields, shape: ModelConfig) -> Iterator[dict[str, torch.Tensor]]:
    """Each tensor by Hugging Face's name: floats as they are, what is quantized as float16."""
    for tensor in tqdm(fields.reader.tensors, desc="reading", unit=" tensors", disable=None):
        if tensor.name == ROPE_FACTORS:
            continue
        with one_line(f"{fields.path}: ", ValueError):
            name = hf_name(tensor.name)
        yield {name: to_tensor(tensor, is_turned(name, fields.architecture), shape.head_width)}


def to_tensor(tensor: Any, turned: bool, D: int) -> torch.Tensor:
    """What the blocks of a tensor stand for."""
    sizes = [int(size) for size in reversed(tensor.shape)]
    if tensor.tensor_type in FLOATS:
        x = torch.from_numpy(np.array(tensor.data))
    else:
        with one_line(f"tensor {tensor.name}: ", NotImplementedError):
            x = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type))
        x = x.bfloat16() if tensor.tensor_type == Type.BF16 else x.half()
    x = x.reshape(sizes)
    return to_halves(x, D) if turned else x


def check_tensors(fields: Fields, shape: ModelConfig) -> None:
    """Raise ValueError unless names and shapes are those of the model."""
    wanted = {name: tuple(parameter.shape) for name, parameter in on_meta(shape).named_parameters()}
    found = {}
    for tensor in fields.reader.tensors:
        if tensor.name != ROPE_FACTORS:
            with one_line(f"{fields.path}: ", ValueError):
                found[hf_name(tensor.name)] = tuple(int(size) for size in reversed(tensor.shape))
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise ValueError(f"{fields.path}: {name} has the shape {found.get(name)}, the model {wanted.get(name)}")


def made_tokenizer(fields: Fields) -> str:
    """tokenizer.json of what the file holds. Raises ValueError for another kind than a byte-level BPE."""
    kind = fields.text("tokenizer.ggml.model")
    pre = fields.text("tokenizer.ggml.pre")
    if kind != BYTE_LEVEL or pre not in PATTERNS:
        advice = "give the folder of the original model with --tokenizer=..."
        raise ValueError(f"{fields.path}: its tokenizer ({kind}, {pre or 'no name'}) is not read here; {advice}")

    tokens = fields.need("tokenizer.ggml.tokens")
    types = fields.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    merges = [merge.split(" ") for merge in fields.need("tokenizer.ggml.merges")]
    named = (TokenType.CONTROL, TokenType.USER_DEFINED)
    added = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == TokenType.CONTROL,
        }
        for i, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in named
    ]
    vocab = {token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != TokenType.UNUSED}
    pattern = PATTERNS[pre]
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pattern == QWEN2_PATTERN else None,
        "pre_tokenizer": json.loads(pre_tokenizers_by_pattern()[pattern].__getstate__()),
        "post_processor": first_token(fields, tokens),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "ignore_merges": pattern == LLAMA3_PATTERN, "vocab": vocab, "merges": merges},
    }
    return json.dumps(spec, ensure_ascii=False)


def first_token(fields: Fields, tokens: list[str]) -> dict[str, Any] | None:
    """The post-processor that puts the first token before each text, where the file asks for it."""
    if not fields.get("tokenizer.ggml.add_bos_token", False):
        return None
    bos = fields.need("tokenizer.ggml.bos_token_id")
    token = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    special = {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}}
    return {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, second],
        "special_tokens": special,
    }


def tokenizer_files(fields: Fields, cfg: ImportConfig) -> checkpoint.Files:
    """The tokenizer's files: of the folder that the settings name, or made."""
    if cfg.tokenizer is not None:
        return {name: text for name, text in checkpoint.companions(cfg.tokenizer).items() if name != "config.json"}

    tokens = fields.need("tokenizer.ggml.tokens")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for key in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            config[f"{key}_token"] = tokens[number]
    files = {
        "tokenizer.json": made_tokenizer(fields).encode(),
        "tokenizer_config.json": (json.dumps(config, indent=1) + "\n").encode(),
    }
    template = fields.text("tokenizer.chat_template")
    if template:
        files[TEMPLATE_FILE] = template.encode()
    return files


def ends_of_text(fields: Fields) -> list[int]:
    """The ids at which generation ends."""
    ids = [fields.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
    return [i for i in dict.fromkeys(ids) if i is not None]


def stored_dtype(fields: Fields) -> str:
    """What the new folder has most weights in."""
    kinds = {tensor.name: tensor.tensor_type for tensor in fields.reader.tensors}
    return {Type.F32: "float32", Type.BF16: "bfloat16"}.get(kinds["blk.0.attn_q.weight"], "float16")


def read_gguf(path: Path, out: Path, cfg: ImportConfig) -> Llama:
    """Make a folder of a file; returns the model on "meta". Raises ValueError for what is not computed here."""
    fields = Fields(path)
    shape = read_shape(fields)
    check_tensors(fields, shape)
    files = tokenizer_files(fields, cfg)

    ends = ends_of_text(fields)
    bos = fields.get("tokenizer.ggml.bos_token_id")
    config = hf_config(shape, ends[0] if ends else None, stored_dtype(fields))
    special = {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends}
    files |= {
        "config.json": (json.dumps(config | special, indent=1) + "\n").encode(),
        checkpoint.GENERATION_FILE: (json.dumps(special, indent=1) + "\n").encode(),
    }
    with atomic.new_folder(out) as temporary:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        checkpoint.write_one_by_one(temporary, read_tensors(fields, shape))
        Tokenizer.load(temporary)
    return on_meta(shape)


def main(cfg: ImportConfig) -> None:
    """Check, and write the folder."""
    path = Path(cfg.gguf)
    if not cfg.gguf or not path.is_file():
        raise ValueError(f"--gguf={cfg.gguf}: no such file")
    out = Path(cfg.out or path.with_suffix(""))
    if out.exists():
        raise ValueError(f"{out} exists already; name another --out")
    model = read_gguf(path, out, cfg)
    print(f"{model.num_parameters():,} parameters; wrote {out}")


if __name__ == "__main__":
    configurator.run(main, ImportConfig)
