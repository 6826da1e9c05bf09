"""Part generate of bench.py: text from one model, greedy, next to transformers and llama.cpp.

    OMP_NUM_THREADS=2 python bench.py --part=generate --checkpoint=out/smollm2
    python bench.py --part=generate --checkpoint=out/smollm2 --llama_cpp=path/to/venv/bin/python

Every turn is a process of its own, on the CPU: it loads the folder, reads PROMPT tokens, writes one token to warm up,
and is timed while it writes NEW more, for one text and for eight at once. llama.cpp runs by llama-cpp-python, in the
environment whose Python --llama_cpp names, from GGUF files that quantize.py writes beside the record; one text only.

What is counted are tokens a CPU-second of all threads, and tokens a second. (torch multiplies one row of float32 in one
thread; with two, both wait for memory, and what counts then is the clock.) Memory is the largest resident set of the
whole process. What memory delivers is measured by a copy of 400 MB.
"""

import functools
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import checkpoint
import lora
import quantize
from benchmarks.bench_config import BenchConfig, Figures, Record, TakeTurns
from benchmarks.bench_figures import need, peak_rss, ratios, shown, summary, target, target_lines
from sample import generate

PROMPT, NEW = 32, 256
BATCHES = (1, 8)
KINDS = ("float32", "bfloat16", "int8", "int4")
PEER = "transformers, float32"
GGUF_TYPES = ("Q8_0", "Q4_0")
COPIED_BYTES = 400_000_000

# What the other Python runs: the file, prompt and new tokens, threads; prints one line of JSON.
LLAMA_CPP = """
import json, resource, sys, time
from llama_cpp import Llama
path, prompt, new, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
model = Llama(path, n_ctx=len(prompt) + new + 8, n_threads=threads, n_threads_batch=threads, verbose=False)
steps = model.generate(prompt, temp=0.0, top_k=1)
ids = [next(steps)]
begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
ids += [next(steps) for _ in range(new)]
took_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"took_s": took_s, "cpu_s": cpu_s, "memory_bytes": peak, "ids": [int(i) for i in ids]}))
"""


def prompt_of(vocab_size: int) -> list[int]:
    """The same ids for all, drawn at random."""
    random = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (PROMPT,), generator=random).tolist()


def figures(tokens: int, took_s: float, cpu_s: float, memory_bytes: int) -> Figures:
    """What a turn measured."""
    return {"rate": tokens / cpu_s, "wall_rate": tokens / took_s, "memory_bytes": memory_bytes}


def ours(folder: str, kind: str, batch_size: int, new: int) -> Figures:
    """One turn of ours."""
    bits = {"int8": 8, "int4": 4}.get(kind)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    source = lora.find_source(folder, None, bits=bits)
    model = source.load("cpu", dtype).eval()
    prompts = [prompt_of(source.shape.vocab_size)] * batch_size

    steps = generate(model, prompts, new + 1, source.shape.vocab_size, temperature=0)
    next(steps)
    begin_s = time.perf_counter()
    begin_cpu_s = time.process_time()
    written = sum(1 for _ in steps) * batch_size
    cpu_s = time.process_time() - begin_cpu_s
    return figures(written, time.perf_counter() - begin_s, cpu_s, peak_rss())


def theirs(folder: str, batch_size: int, new: int) -> Figures:
    """One turn of transformers, in float32; what it takes for one token is taken away."""
    transformers = need("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = torch.tensor([prompt_of(model.config.vocab_size)] * batch_size)

    def write(count: int) -> tuple[float, float]:
        begin_s = time.perf_counter()
        begin_cpu_s = time.process_time()
        mask = torch.ones_like(prompts)
        lengths = {"max_new_tokens": count, "min_new_tokens": count}
        model.generate(prompts, attention_mask=mask, do_sample=False, pad_token_id=0, **lengths)
        return time.perf_counter() - begin_s, time.process_time() - begin_cpu_s

    write(1)
    first_s, first_cpu_s = write(1)
    took_s, cpu_s = write(new + 1)
    return figures(new * batch_size, took_s - first_s, cpu_s - first_cpu_s, peak_rss())


def last_line(python: str, script: str, arguments: list[str], given: str = "") -> str:
    """What a script prints at last in the environment with llama.cpp. given: its standard input."""
    done = subprocess.run([python, "-c", script, *arguments], input=given, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"--llama_cpp={python}: {done.stderr.strip().splitlines()[-1]:.200}")
    return done.stdout.splitlines()[-1]


def llama_cpp(python: str, path: str, vocab_size: int, new: int) -> Figures:
    """One turn of llama.cpp."""
    prompt = json.dumps(prompt_of(vocab_size))
    arguments = [path, prompt, str(new), str(torch.get_num_threads())]
    found = json.loads(last_line(python, LLAMA_CPP, arguments))
    return figures(new, found["took_s"], found["cpu_s"], found["memory_bytes"])


def copy_speed() -> float:
    """Bytes a second that a copy reads and writes, the best of five."""
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    target.copy_(source)
    best_s = float("inf")
    for _ in range(5):
        begin_s = time.perf_counter()
        target.copy_(source)
        best_s = min(best_s, time.perf_counter() - begin_s)
    return 2 * COPIED_BYTES / best_s


def case(name: str, batch_size: int) -> str:
    """The name of a row of the table."""
    return f"{name}, {batch_size} at once"


def record(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """All kinds of weights, by all sides."""
    if cfg.new_tokens < 1:
        raise ValueError(f"new_tokens ({cfg.new_tokens}) must be at least 1")
    source = lora.find_source(cfg.checkpoint, None)
    folder = str(source.base)
    weights = {kind: bytes_of_weights(source, kind) for kind in KINDS}

    with tempfile.TemporaryDirectory() as work:
        cases = {}
        for batch_size in BATCHES:
            for kind in KINDS:
                cases[case(kind, batch_size)] = functools.partial(ours, folder, kind, batch_size, cfg.new_tokens)
            cases[case(PEER, batch_size)] = functools.partial(theirs, folder, batch_size, cfg.new_tokens)
        if cfg.llama_cpp:
            for kind in GGUF_TYPES:
                path = str(Path(work) / f"{kind}.gguf")
                quantize.main(quantize.QuantizeConfig(checkpoint=folder, to="gguf", gguf_type=kind, out=path))
                vocab_size = source.shape.vocab_size
                turn = functools.partial(llama_cpp, cfg.llama_cpp, path, vocab_size, cfg.new_tokens)
                cases[case(f"llama.cpp, {kind}", 1)] = turn
        samples = take_turns(cases, cfg.rounds, "generate")

    results: dict[str, dict[str, Any]] = {name: summary(rows) for name, rows in samples.items()}
    over_peer = {
        name: ratios(rows, samples[case(PEER, 8 if name.endswith("8 at once") else 1)], ["rate", "wall_rate"])
        for name, rows in samples.items()
    }
    targets = []
    for kind, least in (("float32", 1.3), ("bfloat16", 1.3)):
        text = f"{kind}: at least {least} times transformers' float32 in tokens a second"
        targets.append(target(text, over_peer[case(kind, 1)]["wall_rate"], least, most=False))
    for kind, least in (("int8", 3), ("int4", 5)):
        text = f"{kind}: at least {least} times transformers' float32 a CPU-second"
        targets.append(target(text, over_peer[case(kind, 1)]["rate"], least, most=False))
    for kind, peer in (("int8", "Q8_0"), ("int4", "Q4_0")):
        measured = None
        if cfg.llama_cpp:
            rows = (samples[case(kind, 1)], samples[case(f"llama.cpp, {peer}", 1)])
            measured = ratios(*rows, ["rate"])["rate"]
        targets.append(target(f"{kind}: at least half of llama.cpp's {peer}", measured, 0.5, most=False))

    return {
        "title": f"{cfg.new_tokens} greedy tokens after {PROMPT}, {cfg.checkpoint}",
        "check": "tests/test_fused.py and tests/test_quantized.py compare logits",
        "copy_bytes_a_second": copy_speed(),
        "weight_bytes": weights,
        "results": results,
        "over_transformers": over_peer,
        "targets": targets,
        "samples": samples,
    }


def bytes_of_weights(source: lora.Source, kind: str) -> int:
    """What is read for each token: all matrices once."""
    numbers = sum(int(torch.Size(tensor.shape).numel()) for tensor in checkpoint.stored_tensors(source.base).values())
    head = source.shape.vocab_size * source.shape.n_embd
    bits = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 5}[kind]
    head_bits = max(bits, 8)
    if not source.shape.tie_embeddings:
        numbers -= head  # of the embedding one row is read
    return ((numbers - head) * bits + head * head_bits) // 8


def table(record: Record) -> list[str]:
    """Lines for a reader: tokens a CPU-second and a second, memory, bytes of weights a second."""
    results = record["results"]
    width = max(map(len, results))
    times = "x transformers"
    heads = f"{'tokens/CPU s (min-max)':>24} {times:>18} {'tokens/s':>20} {times:>18} {'memory, MB':>10} {'GB/s':>6}"
    lines = [f"{'':{width}} {heads}"]
    for name, row in results.items():
        rate = row["wall_rate"]["median"]
        kind, _, batch = name.partition(", ")
        size = record["weight_bytes"].get(kind)
        speed = "-" if size is None else f"{size * rate / int(batch.split()[0]) / 1e9:.1f}"
        over = record["over_transformers"][name]
        memory = f"{row['memory_bytes']['median'] / 1e6:,.0f}"
        cpu = f"{shown(row['rate']):>24} {shown(over['rate']):>18}"
        wall = f"{shown(row['wall_rate']):>20} {shown(over['wall_rate']):>18}"
        lines.append(f"{name:{width}} {cpu} {wall} {memory:>10} {speed:>6}")
    copied = record["copy_bytes_a_second"] / 1e9
    lines.append(f"GB/s: weights that are read; a copy reads and writes {copied:.1f} GB/s")
    return [*lines, *target_lines(record["targets"])]
