"""All that wants a GPU, in a quarter of an hour on one card: tests, speeds, and a run that is killed and goes on.

    python benchmarks/on_gpu.py --nanogpt=path/to/nanoGPT --text=data/tinyshakespeare.txt

It was written for one H200 and has not been run on one. Each part has a limit of time; one that fails or takes longer
is said to, and the next begins. The record, for docs/training.md, is printed and written to out/gpu/record.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator  # before torch and the others

# isort: split
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

import atomic

REPO = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
OUT = Path("out/gpu")
DATA = OUT / "data"
LAST_LINES = 40  # of what a part prints, for the record

# train.py with products and gradients that are the same bits each time
DETERMINISTIC = """
import configurator, torch
torch.use_deterministic_algorithms(True)
import train
configurator.run(train.main, train.TrainConfig)
"""


@dataclass(frozen=True)
class OnGpuConfig:
    """Settings of `python benchmarks/on_gpu.py`."""

    nanogpt: str = ""  # folder of a checkout of karpathy/nanoGPT, to be compared as well
    text: str = ""  # Tiny Shakespeare (config/data_shakespeare_char.py says where it is), to train 10.7M parameters on
    minutes: float = 14.0  # no part begins later


@dataclass(frozen=True)
class Part:
    """A command, and how long it may take."""

    title: str
    command: list[str]
    limit_s: float


def parts(cfg: OnGpuConfig) -> list[Part]:
    """What is run, the most important first."""
    bench = [PYTHON, "bench.py", "--part=train", "--size=124m", "--batch=8x1024", "--rounds=5"]
    if cfg.nanogpt:
        bench.append(f"--nanogpt={Path(cfg.nanogpt).resolve()}")
    short = [f"--data={DATA}", "--checkpoint_interval=1000", "--eval_interval=1000", "--log_interval=5"]
    of_124m = [PYTHON, "train.py", "config/wiki_124m.py", *short, "--max_iters=30", "--batch_size=32"]
    of_1b = [PYTHON, "train.py", "config/wiki_1b_fsdp.py", *short, "--max_iters=15", "--batch_tokens=65536"]
    prepare = [PYTHON, "prepare_wiki.py", "config/data_pydocs.py", "--vocab_size=32768", f"--data_dir={DATA}"]
    return [
        Part("tokens for the runs below", prepare, 120),
        Part("tests that need a GPU", [PYTHON, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"], 240),
        Part("a step of 124M, eager", [*bench, "--compile=False"], 120),
        Part("a step of 124M, compiled", [*bench, "--compile=True"], 150),
        Part("train.py, 124M", [*of_124m, f"--out_dir={OUT}/124m", "--profile_steps=20:25"], 150),
        Part("train.py, 1B", [*of_1b, f"--out_dir={OUT}/1b", "--batch_size=8"], 180),
    ]


def shakespeare(text: str) -> list[Part]:
    """The characters of a text, and a model of 10.7M parameters: the size of nanoGPT's example for a GPU."""
    if not text:
        return []
    text = str(Path(text).resolve())
    folder = OUT / "shakespeare_char"
    characters = [f"--source={text}", f"--data_dir={folder}"]
    prepare = [PYTHON, "prepare_wiki.py", "config/data_shakespeare_char.py", *characters]

    shape = ["--n_layer=6", "--n_head=6", "--n_kv_head=3", "--n_embd=384", "--ffn_hidden=1160", "--block_size=256"]
    steps = ["--batch_size=16", "--batch_tokens=4096", "--max_iters=1200", "--eval_interval=300"]
    train = [PYTHON, "train.py", "config/shakespeare_char.py", f"--data={folder}", *shape, *steps]
    return [
        Part("characters for the run below", prepare, 60),
        Part("Tiny Shakespeare, 10.7M", [*train, f"--out_dir={OUT}/10m"], 120),
        Part("the same with CUDA graphs", [*train, f"--out_dir={OUT}/10m-graphs", "--cuda_graphs=True"], 120),
    ]


def run_part(part: Part) -> str:
    """What a command printed last, and how it ended."""
    start_s = time.monotonic()
    process = subprocess.Popen(
        part.command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=part.limit_s)
        end = f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its workers too
        printed, _ = process.communicate()
        end = f"stopped after {part.limit_s:.0f} s"

    lines = printed.splitlines()[-LAST_LINES:]
    took = f"{end}, {time.monotonic() - start_s:.0f} s"
    return "\n".join([f"## {part.title}: {took}", "", "    " + " ".join(part.command), "", "```", *lines, "```", ""])


def killed_and_resumed() -> str:
    """A run that is killed by SIGKILL behind a checkpoint and goes on, against one that is not: a line."""
    settings = [f"--data={DATA}", "--n_layer=6", "--n_head=8", "--n_kv_head=4", "--n_embd=512", "--block_size=512"]
    settings += ["--batch_tokens=32768", "--batch_size=16", "--max_iters=60", "--checkpoint_interval=20"]
    settings += ["--eval_interval=1000", "--compile=False"]
    command = [PYTHON, "-c", DETERMINISTIC, *settings]
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": str(REPO)}

    def start(out_dir: Path) -> subprocess.Popen:
        """The run, or the rest of it."""
        full = [*command, f"--out_dir={out_dir}"]
        return subprocess.Popen(full, cwd=REPO, env=environment, stdout=subprocess.DEVNULL)

    whole = OUT / "whole"
    parts = OUT / "parts"
    for out_dir in (whole, parts):
        shutil.rmtree(REPO / out_dir, ignore_errors=True)

    start(whole).wait(120)
    killed = start(parts)
    while killed.poll() is None and not (REPO / parts / "step_0000020").exists():
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    start(parts).wait(120)

    names = ("latest/model.safetensors", "latest/training/optimizer.safetensors", "metrics.jsonl")
    same = [atomic.sha256(REPO / whole / name) == atomic.sha256(REPO / parts / name) for name in names]
    words = "the same bits" if all(same) else f"DIFFERENT: {dict(zip(names, same, strict=True))}"
    return f"## Killed behind step 20, resumed, 60 steps: {words}\n"


def main(cfg: OnGpuConfig) -> None:
    """Run the parts while there is time, and write the record."""
    if cfg.text and not Path(cfg.text).is_file():
        raise ValueError(f"{cfg.text} is no file; put a text there (config/data_shakespeare_char.py says which)")
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; the other tests and benchmarks need none")
    jobs: dict[str, Callable[[], str]] = {}  # title -> does it, and says how it went
    jobs |= {part.title: functools.partial(run_part, part) for part in parts(cfg)}
    jobs["killed and resumed"] = killed_and_resumed
    jobs |= {part.title: functools.partial(run_part, part) for part in shakespeare(cfg.text)}

    start_s = time.monotonic()
    record = [f"# {torch.cuda.get_device_name()}, torch {torch.__version__}\n"]
    for title, job in jobs.items():
        if time.monotonic() - start_s > 60 * cfg.minutes:
            record.append(f"## {title}: no time left\n")
            continue
        record.append(job())
        print(record[-1], flush=True)
    atomic.write(REPO / OUT / "record.md", "\n".join(record).encode())


if __name__ == "__main__":
    configurator.run(main, OnGpuConfig)
