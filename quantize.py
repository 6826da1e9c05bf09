"""Make a model's weights small integers: python quantize.py --checkpoint=out/demo --bits=8 --out=out/demo-int8

    python quantize.py --checkpoint=path/to/SmolLM2 --bits=4 --out=out/smollm2-int4 --text=held_out.txt
    python quantize.py --checkpoint=out/demo --bits=8 --to=gguf          for llama.cpp, Ollama and LM Studio

The new folder opens in sample.py, chat.py, evaluate.py and serve.py like any other, and is half or a third the size
of bfloat16. quantized.py explains the formats, docs/quantization.md shows what they cost and how fast they are.

One tensor is read, rounded and kept until its file is written, so a model of any size needs little memory here. At last
both models read a text, and the bits they need for a byte of it are printed: how much the rounding has cost.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from gguf import GGMLQuantizationType as Type
from tqdm import tqdm

import atomic
import checkpoint
import gguf_files
from checkpoint import Stored
from device import free_memory, memory_advice
from errors import one_line
from model import Llama, on_meta
from quantized import Pieces, Scheme, quantizable, round_matrix
from scoring import score
from tokenizer import Tokenizer
from trees import Request

DEFAULT_TEXT = Path(__file__).with_name("README.md")
GGUF_TYPES = {16: "F16", 8: "Q8_0", 4: "Q4_1"}  # by bits
MEASURED_BYTES = 10_000  # the beginning of the text


@dataclass(frozen=True)
class QuantizeConfig:
    """Settings of `python quantize.py`."""

    checkpoint: str = "out/demo"  # a run (its newest checkpoint), or a Hugging Face folder of the Llama family
    bits: Literal[8, 4] = 8  # of the weights in the blocks
    group_size: int = 32  # 4 bits: weights that share a scale and a minimum, a multiple of 32
    head_bits: Literal[16, 8, 4] = 8  # of embedding and head; 16: they stay as they are
    to: Literal["folder", "gguf"] = "folder"  # gguf: a file for llama.cpp, Ollama and LM Studio
    # of a GGUF file's blocks; None: Q8_0, or for 4 bits Q4_1
    gguf_type: Literal["Q8_0", "Q4_0", "Q4_1", "F16", "F32"] | None = None
    out: str | None = None  # what is written, which must not exist; None: <checkpoint>-int8, <checkpoint>-Q8_0.gguf
    text: str | None = None  # file of which both models read 10 kB; None: README.md
    measure: bool | None = None  # whether they do; None: where the model's float32 fits into free memory

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if self.gguf_type is not None and self.to != "gguf":
            raise ValueError(f"--gguf_type={self.gguf_type} is for GGUF files; give --to=gguf as well")
        if self.to == "gguf" and (self.text is not None or self.measure):
            raise ValueError("a GGUF file is not measured here; leave out --text and --measure")
        if self.to == "gguf" and self.head_bits == 4 and self.gguf_types()[0] is Type.Q8_0:
            raise ValueError(
                "a head of 4 bits behind blocks of 8 is not written; give --bits=4, or leave out --head_bits"
            )
        if self.checkpoint.endswith(".gguf"):
            advice = f"python gguf_files.py --gguf={self.checkpoint} makes a folder of it"
            raise ValueError(f"{self.checkpoint} is a GGUF file, not a folder; {advice}")

    def gguf_types(self) -> tuple[Type, Type]:
        """Of the blocks, and of embedding and head: the blocks' own type with --head_bits=4, F16 with 16."""
        body = Type[self.gguf_type or GGUF_TYPES[self.bits]]
        if body in gguf_files.FLOATS or self.head_bits == 4:
            return body, body
        return body, Type[GGUF_TYPES[self.head_bits]]


# --- writing ---


def rounded(name: str, tensor: torch.Tensor, scheme: Scheme, matrices: set[str]) -> Pieces:
    """What a parameter becomes in the new folder, by names: its pieces, or itself."""
    module = name.removesuffix(".weight")
    bits = scheme.of(module)
    if module not in matrices or bits == 16:
        return {name: tensor}
    pieces = round_matrix(tensor, bits, scheme.group_size)
    return {f"{module}.{end}": piece for end, piece in pieces.items()}


def new_tensors(model: Llama, sources: Stored, scheme: Scheme) -> Iterator[Pieces]:
    """What each parameter becomes, one parameter at a time, in the order of the model."""
    matrices = {name for name, _, _ in quantizable(model)}
    for name in tqdm(list(sources), desc="quantizing", unit=" tensors", disable=None):
        source = sources[name]
        with checkpoint.open_tensors(source.path) as file:
            tensor = file.get_tensor(source.name)
        checkpoint.refuse_non_finite(tensor, source.path, source.name)
        yield rounded(name, tensor, scheme, matrices)


def small_files(folder: Path, scheme: Scheme) -> checkpoint.Files:
    """The files beside the weights: those of the model, whose config.json says how it is quantized."""
    files = checkpoint.companions(folder)
    config = json.loads(files["config.json"])
    config["quantization_config"] = scheme.as_config()
    return files | {"config.json": (json.dumps(config, indent=1) + "\n").encode()}


def write_folder(out: Path, folder: Path, model: Llama, sources: Stored, scheme: Scheme) -> int:
    """Write the whole new folder; returns the bytes of its weights. model: the shape, on "meta"."""
    with atomic.new_folder(out) as temporary:
        for name, content in small_files(folder, scheme).items():
            (temporary / name).write_bytes(content)
        written = checkpoint.write_one_by_one(temporary, new_tensors(model, sources, scheme))
        for path in temporary.glob("*.safetensors"):  # written readable by their owner alone
            shutil.copymode(temporary / "config.json", path)
    return written


# --- measuring ---


def fits_into_memory(model: Llama) -> bool:
    """Whether the model in float32, and what computing takes besides, fits into the memory that is free."""
    free = free_memory()
    needed = 5 * model.num_parameters()  # bytes: four for each weight, and a quarter of that
    return free is None or needed <= free


def read_text(path: str | None) -> str:
    """The text to measure with."""
    source = DEFAULT_TEXT if path is None else Path(path)
    if not source.is_file():
        raise ValueError(
            f"--text={path}: no such file; leave it out for README.md, or --measure=False to measure nothing"
        )
    with one_line(f"{source}: not UTF-8 text: ", UnicodeDecodeError):
        text = source.read_bytes().decode("utf-8")
    if not text.strip():
        raise ValueError(f"{source} holds no text")
    beginning = text.encode()[:MEASURED_BYTES]
    return beginning.decode("utf-8", errors="ignore")


def bits_per_byte(folder: Path, text: str) -> float:
    """Bits that the model of a folder needs for a byte of the text, in windows of its context."""
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(text)
    model = checkpoint.load_model(folder).eval()
    ((found,),) = score(model, [[Request([tokenizer.start], ids)]])
    return -found.logprob / math.log(2) / len(text.encode())


def measure(before: Path, after: Path, text: str) -> str:
    """Bits per byte of both models, in a line."""
    with memory_advice("--measure=False writes the folder without measuring"):
        old = bits_per_byte(before, text)
        new = bits_per_byte(after, text)
    change = 100 * (new / old - 1)
    return f"bits per byte of {len(text.encode()):,} bytes: {old:.4f} before, {new:.4f} now ({change:+.2f} %)"


# --- the program ---


def main(cfg: QuantizeConfig) -> None:
    """Check, write the folder, measure."""
    # What can be wrong is found before the weights are read.
    cfg.check()
    out = new_path(cfg)
    text = None if cfg.measure is False or cfg.to == "gguf" else read_text(cfg.text)
    folder = checkpoint.resolve(cfg.checkpoint)
    scheme = Scheme(cfg.bits, cfg.group_size, cfg.head_bits)
    shape = checkpoint.read_config(folder)
    tokenizer = Tokenizer.load(folder)
    checkpoint.check_vocabulary(shape, tokenizer)
    model = on_meta(shape)
    sources = checkpoint.find_parameters(model, checkpoint.stored_tensors(folder), folder)
    read = sum(path.stat().st_size for path in checkpoint.weight_files(folder))

    if cfg.to == "gguf":
        export = gguf_files.Export(folder, shape, tokenizer, *cfg.gguf_types())
        written = gguf_files.write_gguf(out, export, sources)
        print(f"{export.body.name}: {read / 1e6:,.1f} MB of weights before, {written / 1e6:,.1f} MB now; wrote {out}")
        return

    scheme.check_model(model)
    written = write_folder(out, folder, model, sources, scheme)
    print(f"{scheme}: {read / 1e6:,.1f} MB of weights before, {written / 1e6:,.1f} MB now; wrote {out}")
    if text is None:
        return
    if cfg.measure or fits_into_memory(model):
        print(measure(folder, out, text))
    else:
        print(
            "bits per byte were not measured: in float32 the model does not fit into free memory; --measure=True tries"
        )


def new_path(cfg: QuantizeConfig) -> Path:
    """What is written. Raises ValueError when it is there already."""
    ending = f"{cfg.gguf_types()[0].name}.gguf" if cfg.to == "gguf" else f"int{cfg.bits}"
    out = Path(cfg.out or f"{cfg.checkpoint.rstrip('/')}-{ending}")
    if out.exists():
        raise ValueError(f"{out} exists already; name another --out")
    return out


if __name__ == "__main__":
    configurator.run(main, QuantizeConfig)
