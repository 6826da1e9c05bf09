"""What fewer bits cost: bits per byte of a held-out text and accuracy on tasks, before and after, beside llama.cpp.

    python benchmarks/quantization_quality.py --checkpoint=out/demo --data=data/pydocs
    python benchmarks/quantization_quality.py --checkpoint=out/smollm2 --text=held_out.txt --tasks=arc_easy,piqa
    python benchmarks/quantization_quality.py --checkpoint=out/demo --data=data/pydocs --llama_cpp=env/bin/python

quantize.py makes a folder of each kind in SCHEMES that fits the model; of each the script prints its size, the bits it
needs for a byte of the text, and the accuracies that evaluate.py finds. A row says also by how much the bits differ
from those of the model as it was, computed in float32; in bfloat16 it has a row as well.

Text is read in windows of the context, each after the token that begins a text, and so by llama.cpp as well: it gets
the same ids, and is compared with its own F32. What was made of the same weights is not made again: --out has a folder
for each model, named by their hash.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import json
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

import checkpoint
import evaluate
import lora
import quantize
from benchmarks.bench_generate import last_line
from model import on_meta
from quantized import Scheme
from scoring import score
from shards import Shards, read_meta
from tokenizer import Tokenizer
from trees import Request

BEFORE = "as it was, float32"
BEFORE_SHORT = "as it was, bfloat16"
SCHEMES = {
    "int8, head int8": Scheme(8),
    "int8, head as it was": Scheme(8, head_bits=16),
    "int4 in 32s, head int8": Scheme(4),
    "int4 in 32s, head as it was": Scheme(4, head_bits=16),
    "int4 in 32s, head int4": Scheme(4, head_bits=4),
    "int4 in 64s, head int8": Scheme(4, group_size=64),
    "int4 in 128s, head int8": Scheme(4, group_size=128),
}
BYTES_OF_A_TOKEN = 3  # about
GGUF_BEFORE = "F32"
HASH_LETTERS = 12  # of the name of a model's folder below --out
GGUF_TYPES = (GGUF_BEFORE, "Q8_0", "Q4_1", "Q4_0")

# What the other Python runs: the file, and windows of ids as JSON on standard input; prints the sum of nats.
LLAMA_CPP = """
import json, sys
import numpy as np
from llama_cpp import Llama
windows = json.load(sys.stdin)
longest = max(map(len, windows))
model = Llama(sys.argv[1], n_ctx=longest, n_batch=longest, logits_all=True, verbose=False)
nats = 0.0
for ids in windows:
    model.reset()
    model.eval(ids[:-1])
    logits = np.array(model.scores[: len(ids) - 1], dtype=np.float64)
    highest = logits.max(axis=1)
    normalizers = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    nats += float((normalizers - logits[np.arange(len(ids) - 1), ids[1:]]).sum())
print(nats)
"""


@dataclass(frozen=True)
class QualityConfig:
    """Settings of `python benchmarks/quantization_quality.py`."""

    checkpoint: str = "out/demo"  # a run, or a folder of the Llama family
    text: str = ""  # a held-out text file
    data: str = ""  # or a folder of prepare_wiki.py, whose validation split is read
    max_bytes: int = 200_000  # of the text; of a validation split about so many
    tasks: str = ""  # accuracy on these as well, names as in evaluate.py
    task_dir: str | None = None  # the folder with their files
    limit: int | None = None  # the first items of each task
    only: str = ""  # kinds whose name holds this; the model as it was is always there
    llama_cpp: str = ""  # the Python of an environment with llama-cpp-python
    out: str = "out/quality"  # folders, files and scores; what is there is used

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if bool(self.text) == bool(self.data):
            raise ValueError("give one of --text=FILE and --data=FOLDER: a text that the model was not trained on")
        if self.text and not Path(self.text).is_file():
            raise ValueError(f"--text={self.text}: no such file")
        if not self.schemes():
            raise ValueError(f"no kind has a name with {self.only!r}; there are: {'; '.join(SCHEMES)}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes ({self.max_bytes}) must be at least 1")

    def schemes(self) -> dict[str, Scheme]:
        """The kinds that are asked for."""
        return {kind: scheme for kind, scheme in SCHEMES.items() if self.only in kind}


class Row(NamedTuple):
    """What is known of one kind of weights."""

    size_bytes: int  # of the file, or the files, with weights
    bits_per_byte: float
    accuracies: dict[str, float]  # by tasks


# --- the text ---


class HeldOut(NamedTuple):
    """A text in windows of ids. Each begins with the token that begins a text, and predicts the others."""

    windows: list[list[int]]
    size_bytes: int  # of the text

    def bits_per_byte(self, nats: float) -> float:
        """nats: of all windows."""
        return nats / math.log(2) / self.size_bytes


def read_held_out(cfg: QualityConfig, tokenizer: Tokenizer, block_size: int) -> HeldOut:
    """The beginning of the file, or of the validation split with the tokens that end its documents."""
    if cfg.text:
        beginning = Path(cfg.text).read_bytes()[: cfg.max_bytes]
        ids = tokenizer.encode(beginning.decode(errors="ignore"))
    else:
        meta = read_meta(cfg.data)
        limit = cfg.max_bytes // BYTES_OF_A_TOKEN
        ids = Shards(cfg.data, "val", meta).all(limit=limit).tolist()

    pieces = [ids[begin : begin + block_size] for begin in range(0, len(ids), block_size)]
    windows = [[tokenizer.start, *piece] for piece in pieces]
    text = tokenizer.decode(ids, show_special=False)
    return HeldOut(windows, len(text.encode()))


# --- measuring ---


def our_nats(folder: Path, held_out: HeldOut, dtype: torch.dtype) -> float:
    """What the model of a folder needs for all windows."""
    model = checkpoint.load_model(folder, dtype=dtype).eval()
    items = [[Request(window[:1], window[1:])] for window in held_out.windows]
    return -sum(found.logprob for (found,) in score(model, items))


def llama_cpp_nats(python: str, path: Path, held_out: HeldOut) -> float:
    """The same by llama.cpp."""
    windows = json.dumps(held_out.windows)
    return float(last_line(python, LLAMA_CPP, [str(path)], windows))


def accuracies(cfg: QualityConfig, folder: Path, name: str, dtype: str = "float32") -> dict[str, float]:
    """The headline figure of each task, by evaluate.py."""
    if not cfg.tasks:
        return {}
    out_dir = Path(cfg.out) / "scores" / name
    settings = {"tasks": cfg.tasks, "task_dir": cfg.task_dir, "limit": cfg.limit}
    evaluate.main(evaluate.EvaluateConfig(checkpoint=str(folder), out_dir=str(out_dir), dtype=dtype, **settings))

    scores = json.loads((out_dir / evaluate.SCORES_FILE).read_text())
    in_families = {member for family in scores["families"].values() for member in family["members"]}
    alone = {task: record for task, record in scores["tasks"].items() if task not in in_families}
    records = scores["families"] | alone
    return {task: record["figures"][record["headline"]]["value"] for task, record in records.items()}


def file_name(kind: str) -> str:
    """A kind as the name of a folder: int4-in-32s-head-int8."""
    return kind.replace(",", "").replace(" ", "-")


def fits(scheme: Scheme, shape: checkpoint.ModelConfig) -> bool:
    """Whether its groups fit into the rows of the matrices."""
    try:
        scheme.check_model(on_meta(shape))
    except ValueError:
        return False
    return True


def our_rows(cfg: QualityConfig, folder: Path, held_out: HeldOut) -> dict[str, Row]:
    """All kinds of our folders."""
    size = sum(path.stat().st_size for path in checkpoint.weight_files(folder))
    rows = {}
    for kind, dtype in ((BEFORE, "float32"), (BEFORE_SHORT, "bfloat16")):
        nats = our_nats(folder, held_out, getattr(torch, dtype))
        rows[kind] = Row(size, held_out.bits_per_byte(nats), accuracies(cfg, folder, file_name(kind), dtype))

    shape = checkpoint.read_config(folder)
    for kind, scheme in cfg.schemes().items():
        if not fits(scheme, shape):
            continue
        small = Path(cfg.out) / file_name(kind)
        if not small.exists():
            settings = {"bits": scheme.bits, "group_size": scheme.group_size, "head_bits": scheme.head_bits}
            quantize.main(quantize.QuantizeConfig(checkpoint=str(folder), out=str(small), measure=False, **settings))
        size = sum(path.stat().st_size for path in checkpoint.weight_files(small))
        nats = our_nats(small, held_out, torch.float32)
        rows[kind] = Row(size, held_out.bits_per_byte(nats), accuracies(cfg, small, file_name(kind)))
    return rows


def llama_cpp_rows(cfg: QualityConfig, folder: Path, held_out: HeldOut) -> dict[str, Row]:
    """All kinds of GGUF files."""
    rows = {}
    for kind in GGUF_TYPES:
        path = Path(cfg.out) / f"{kind}.gguf"
        if not path.exists():
            settings = quantize.QuantizeConfig(checkpoint=str(folder), to="gguf", gguf_type=kind, out=str(path))
            quantize.main(settings)
        nats = llama_cpp_nats(cfg.llama_cpp, path, held_out)
        rows[kind] = Row(path.stat().st_size, held_out.bits_per_byte(nats), {})
    return rows


# --- the table ---


def table(rows: dict[str, Row], before: str) -> list[str]:
    """Lines for a reader; changes are relative to the row `before`."""
    tasks = list(rows[before].accuracies)
    width = max(map(len, rows))
    lines = [f"{'':{width}} {'MB':>8} {'bits per byte':>14} {'change':>9}" + "".join(f" {task:>18}" for task in tasks)]
    for kind, row in rows.items():
        change = 100 * (row.bits_per_byte / rows[before].bits_per_byte - 1)
        line = f"{kind:{width}} {row.size_bytes / 1e6:8,.1f} {row.bits_per_byte:14.4f} {change:+8.2f}%"
        lines.append(line + "".join(f" {100 * row.accuracies[task]:17.1f}%" for task in tasks))
    return lines


def main(cfg: QualityConfig) -> None:
    """Measure and print."""
    cfg.check()
    folder = checkpoint.resolve(cfg.checkpoint)
    shape = checkpoint.read_config(folder)
    tokenizer = Tokenizer.load(folder)
    held_out = read_held_out(cfg, tokenizer, shape.block_size)
    own_out = Path(cfg.out) / lora.fingerprint(folder, shape)[:HASH_LETTERS]
    own_out.mkdir(parents=True, exist_ok=True)
    cfg = replace(cfg, out=str(own_out))

    tables = [table(our_rows(cfg, folder, held_out), BEFORE)]
    if cfg.llama_cpp:
        tables.append(["llama.cpp", *table(llama_cpp_rows(cfg, folder, held_out), GGUF_BEFORE)])
    print(f"{cfg.checkpoint}, {held_out.size_bytes:,} bytes of {cfg.text or cfg.data}")
    for lines in tables:
        print("\n".join(lines))


if __name__ == "__main__":
    configurator.run(main, QualityConfig)
