"""A small corpus, prepared once a session by the real pipeline, and a small model trained on it."""

import ctypes
import json
import os
import platform
import random
import signal
import sys
from pathlib import Path

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import atomic
import dedup
import prepare_wiki
import train

# A shell ignores Ctrl-C for what it runs in the background; tests that send it, and their processes, must receive it.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_FSYNC = atomic._fsync
REPO = Path(__file__).parents[1]
SHARED = REPO.parent / "shared/data"
PYTHON = sys.executable

# Settings that make every training test small; flags of the command line, too.
TINY = {
    "n_layer": 2,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 32,
    "ffn_hidden": 64,
    "block_size": 32,
    "batch_tokens": 8 * 32,
    "batch_size": 8,
    "max_iters": 20,
    "warmup_iters": 5,
    "learning_rate": 3e-3,
    "eval_interval": 10,
    "checkpoint_interval": 10,
    "log_interval": 1,
    "dtype": "float32",
    "num_threads": 1,
    "sample_prompt": "the ",
}


# Property tests draw a tenth of their examples in `make test`, all of them in `make test-all`, a third in .ci/run.
DIVISORS = {"full": 1, "ci": 3}
DIVISOR = DIVISORS.get(os.environ.get("HYPOTHESIS_PROFILE", ""), 10)
ALL_EXAMPLES = DIVISOR < 10  # of texts and characters, which are not drawn by hypothesis


@pytest.fixture
def unwritten_is_nan():
    """torch fills new tensors with NaN, as it does where algorithms shall be deterministic: what is read before it was
    written shows, here and not on the one machine whose memory holds the wrong bits."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def examples(count: int, **options) -> hypothesis.settings:
    """Settings of a property test that draws `count` examples in the full profile, fewer in the others."""
    drawn = max(10, count // DIVISOR)
    return hypothesis.settings(max_examples=drawn, deadline=None, **options)


def flags(settings: dict) -> list[str]:
    """--key=value arguments."""
    return [f"--{key}={value}" for key, value in settings.items()]


def write_rows(path: Path, rows: list) -> Path:
    """A .jsonl file of these rows, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_documents(path: Path, texts: dict[str, str]) -> Path:
    """A parquet file of documents: {id: text}."""
    columns = {"id": pa.array(texts, pa.string()), "text": pa.array(texts.values(), pa.string())}
    pq.write_table(pa.table(columns), path)
    return path


def pytest_collection_modifyitems(items):
    """Skip what this machine cannot run, and say why."""
    for item in items:
        if "real_data" in item.keywords and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="the folder ../shared/data is not there"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def allocator_calls(monkeypatch) -> list:
    """What glibc's allocator is told: (parameter, value) of mallopt, and "trim" of malloc_trim. It is told so, too.

    The parameters in malloc.h: M_TRIM_THRESHOLD is -1, M_MMAP_THRESHOLD -3, M_MMAP_MAX -4. The pages that a program is
    given are no test: whether a heap is trimmed depends on what lies at its end.
    """
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("memory is kept by a call of glibc")
    open_library = ctypes.CDLL
    libc = open_library(None)
    calls = []

    class Recorder:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            calls.append((parameter, value))
            return libc.mallopt(parameter, value)

        @staticmethod
        def malloc_trim(pad: int) -> int:
            calls.append("trim")
            return libc.malloc_trim(pad)

    def open_or_record(name: str | None, *options, **named_options):
        return Recorder if name is None else open_library(name, *options, **named_options)

    monkeypatch.setattr(ctypes, "CDLL", open_or_record)
    return calls


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Files of tests need not survive a power cut: without fsync a file takes 0.1 ms, with it up to 30."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "_fsync", lambda path: None)
        yield


@pytest.fixture
def real_fsync(monkeypatch, no_fsync):
    """For the few tests that look at the order of fsync and rename."""
    monkeypatch.setattr(atomic, "_fsync", REAL_FSYNC)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A finished data folder: 200 documents of about 60 made-up words each."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    words = ["".join(draw.choice("aeioubdklmnrst") for _ in range(draw.randint(1, 8))) for _ in range(400)]
    with open(folder / "documents.jsonl", "w", encoding="utf-8") as file:
        for _ in range(200):
            text = " ".join(words[min(399, int(draw.expovariate(0.02)))] for _ in range(draw.randint(20, 100)))
            file.write(json.dumps({"text": text + "."}) + "\n")
    out = folder / "data"
    settings = {"source": f"{folder}/*.jsonl", "data_dir": str(out), "vocab_size": 300, "val_fraction": 0.1}
    prepare_wiki.main(prepare_wiki.PrepareConfig(**settings, num_workers=1))
    return out


@pytest.fixture(scope="session")
def run_dir(data_dir, tmp_path_factory) -> Path:
    """A finished run: 20 steps of the tiny model."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(out), **TINY))
    return out


@pytest.fixture(scope="module")
def no_plot():
    """Duplicates without a picture, for runs by the hundred; test_dedup_report.py draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "plot", lambda report, path: path.write_text("no picture"))
        yield
