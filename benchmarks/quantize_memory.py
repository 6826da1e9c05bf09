"""How much memory quantize.py needs for a model of 7B: a generated folder, and each kind of output once.

    python benchmarks/quantize_memory.py --tokenizer=out/demo

The folder has the shape of Mistral 7B in bfloat16, 14.5 GB in files of 5 GB, with random weights. It and what becomes
of it are removed afterwards; 20 GB of disk are needed. Each quantize.py is a process of its own. Printed is its peak
resident set, in which pages of mapped files count as well.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

import checkpoint
from model import Llama, ModelConfig, on_meta
from tokenizer import Tokenizer

SHAPE = ModelConfig(
    vocab_size=32000,
    block_size=4096,
    n_layer=32,
    n_head=32,
    n_kv_head=8,
    n_embd=4096,
    ffn_hidden=14336,
    tie_embeddings=False,
)
SHARD_BYTES = 5_000_000_000  # as on the hub
KINDS = {
    "int8": ["--bits=8"],
    "int4": ["--bits=4"],
    "GGUF, Q8_0": ["--bits=8", "--to=gguf"],
    "GGUF, Q4_1": ["--bits=4", "--to=gguf"],
}
MOST_BYTES = 3_000_000_000

# What a process of its own runs: quantize.py, and then a line with its peak.
MEASURED = """
import configurator, quantize
from benchmarks.bench_figures import peak_rss
configurator.run(quantize.main, quantize.QuantizeConfig)
print("peak", peak_rss())
"""


@dataclass(frozen=True)
class MemoryConfig:
    """Settings of `python benchmarks/quantize_memory.py`."""

    tokenizer: str = "out/demo"  # a run or folder whose tokenizer the model gets
    work: str = ""  # where the folders are made; empty: the system's folder for temporary files
    only: str = ""  # kinds whose name holds this
    layers: int = SHAPE.n_layer  # fewer for a trial

    def kinds(self) -> dict[str, list[str]]:
        """Those that are asked for. Raises ValueError where there are none."""
        found = {name: flags for name, flags in KINDS.items() if self.only in name}
        if not found:
            raise ValueError(f"no kind has a name with {self.only!r}; there are: {', '.join(KINDS)}")
        return found


def random_tensors(model: Llama) -> Iterator[dict[str, torch.Tensor]]:
    """Normal numbers of standard deviation 0.02 for each parameter, in bfloat16: one million of them, repeated."""
    random = torch.Generator().manual_seed(0)
    numbers = (0.02 * torch.randn(1_000_003, generator=random)).bfloat16()  # no divisor of a row: rows differ
    for name, parameter in tqdm(list(model.named_parameters()), desc="generating", unit=" tensors", disable=None):
        count = parameter.numel()
        repeated = numbers.repeat(-(-count // len(numbers)))[:count]
        yield {name: repeated.view(parameter.shape).clone()}


def generate(folder: Path, shape: ModelConfig, tokenizer: Tokenizer) -> int:
    """Write the model; returns the bytes of its weights."""
    model = on_meta(shape).bfloat16()
    folder.mkdir()
    for name, content in checkpoint.small_files(model, tokenizer, {}).items():
        (folder / name).write_bytes(content)
    return checkpoint.write_one_by_one(folder, random_tensors(model), SHARD_BYTES)


def peak_of(folder: Path, out: Path, flags: list[str]) -> tuple[int, float]:
    """Peak bytes and seconds of one quantize.py."""
    settings = [f"--checkpoint={folder}", f"--out={out}", "--measure=False", *flags]
    begin_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *settings], cwd=ROOT, capture_output=True, text=True)
    took_s = time.perf_counter() - begin_s
    if done.returncode:
        raise ValueError(f"quantize.py: {done.stderr.strip().splitlines()[-1]:.200}")
    word, peak_bytes = done.stdout.splitlines()[-1].split()
    assert word == "peak", done.stdout
    return int(peak_bytes), took_s


def main(cfg: MemoryConfig) -> None:
    """Generate, quantize, print."""
    kinds = cfg.kinds()
    tokenizer = Tokenizer.load(checkpoint.resolve(cfg.tokenizer))
    shape = ModelConfig(**{**vars(SHAPE), "n_layer": cfg.layers})
    most_gb = MOST_BYTES / 1e9

    with tempfile.TemporaryDirectory(dir=cfg.work or None) as work:
        folder = Path(work) / "model"
        written = generate(folder, shape, tokenizer)
        print(f"{on_meta(shape).num_parameters():,} parameters, {written / 1e9:.1f} GB")
        for name, flags in kinds.items():
            out = Path(work) / "out"
            peak_bytes, took_s = peak_of(folder, out, flags)
            verdict = "met" if peak_bytes <= MOST_BYTES else "NOT met"
            print(
                f"{name:12} peak {peak_bytes / 1e9:.2f} GB (at most {most_gb:.0f}: {verdict}), {took_s:.0f} s",
                flush=True,
            )
            if out.is_dir():
                shutil.rmtree(out)
            else:
                out.unlink()


if __name__ == "__main__":
    configurator.run(main, MemoryConfig)
