"""Settings of bench.py, and the types that its parts share. Imports nothing large: weighed processes import it too."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Figures = dict[str, Any]  # what one turn measured: name -> number, or None where this system does not tell it
Samples = dict[str, list[Figures]]  # case -> the figures of each round
Record = dict[str, Any]  # what is kept of a part, JSON's types only
TakeTurns = Callable[[dict[str, Callable[[], Figures]], int, str], Samples]  # bench.take_turns(cases, rounds, desc)


@dataclass(frozen=True)
class BenchConfig:
    """Settings of `python bench.py`."""

    part: str = "train"  # names separated by commas, or all (but dedup; those that need files if these are given)
    rounds: int | None = None  # turns of each variant; None: train 7, reader and signatures 5, all others 3
    seconds: float = 1.0  # train, sample: about the length of a turn; at least one call
    size: Literal["small", "10m", "0.8m", "10.6m", "124m"] = "small"  # train: the shape, see bench_model.SIZES
    batch: str = ""  # train: windows x tokens of a step, 2x256; empty: those of the size
    compile: bool = False  # train: torch.compile, for both sides
    # train, on a CPU: freed memory is kept as train.py keeps it, for all sides; or for ours alone, as the scripts do it
    kept_memory: Literal["all", "ours"] = "all"
    nanogpt: str = ""  # train: folder of a checkout of karpathy/nanoGPT, to be compared as well
    nanochat: str = ""  # train: the same for karpathy/nanochat
    litgpt: str = ""  # train: the same for Lightning-AI/litgpt
    device: str = "auto"  # train, sample: cpu, cuda, mps; auto: cuda if there is one
    # train, memory, finetune: of matrix products (autocast); sample, serve: of the weights; auto: as the scripts do it
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    scored: float = 0.54  # finetune: share of the tokens that are learnt; of Alpaca's 54 % are answers
    data: str = ""  # finetune: folder of prepare_chat.py, to say which share of its rows packing uses
    checkpoint: str = "out/smollm2"  # evaluate, serve, generate: a Hugging Face folder
    new_tokens: int = 256  # generate: of a text, after 32
    llama_cpp: str = ""  # generate: the Python of an environment with llama-cpp-python, to be compared as well
    task_dir: str = ""  # evaluate: the folder with the files of hellaswag and arc_easy (tasks/rows.py)
    items: int = 200  # evaluate: the first ones of each task
    largest: int = 10**8  # sampler: samplers that hold a list run up to this n (1e8: 4.8 GB); whole epochs and targets
    file_mb: int = 2000  # reader: size of the token file, which is made beside the record and removed afterwards
    documents: int = 200_000  # tokens: how many, 3 kB each
    encoding: str = ""  # tokens: the path of a file gpt2.tiktoken
    dump: str = ""  # dump: a MediaWiki dump, whole or a slice, .xml or .xml.bz2; its pages are repeated
    dump_mb: int = 300  # dump: decompressed size of what is read
    out: str = ""  # JSON record; empty: out/bench/<part>.json
