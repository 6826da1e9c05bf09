"""Part serve of bench.py: tokens a second of serve.py with one, eight and 64 clients, and of sample.py.

    python bench.py --part=serve --checkpoint=out/smollm2

Every turn is a server in a process of its own with 8 rows, on the CPU. The same questions are asked in each (64 clients
ask more of them): texts of about 40 tokens, each continued by 32, greedily. The answers of all turns are compared, for
each must be what it is alone. sample.py's side writes one text after the other, without HTTP, each token in a batch of
one.

What is counted are tokens a second by the clock, from the first question to the last answer, and the server's resident
set. With more clients than rows the others wait: see the time to the first token.
"""

import asyncio
import functools
import statistics
import time

import torch

import lora
from benchmarks.bench_config import BenchConfig, Figures, Record, Samples, TakeTurns
from benchmarks.bench_figures import number, peak_rss, ratios, shown, speed_table, summary, target, target_lines
from benchmarks.serve_load import Question, ask_all, questions, server
from sample import generate
from tokenizer import Tokenizer

ROWS = 8
QUESTIONS = 16
ALONE, SAMPLE = "1 client", "sample.py"
CLIENTS = {ALONE: 1, "8 clients": 8, "64 clients": 64}


def asked_in(clients: int) -> list[Question]:
    """16 questions, or one for each client."""
    return questions(max(QUESTIONS, clients), words=(28, 36), tokens=(32, 32))


def served(checkpoint: str, dtype: str, clients: int) -> Figures:
    """One turn with a server."""
    asked = asked_in(clients)
    with server(checkpoint, "--device=cpu", f"--dtype={dtype}", f"--rows={ROWS}", "--queue=64") as running:
        asyncio.run(ask_all(running.address, asked[:1], 1))  # the first pass allocates
        begin_s = time.perf_counter()
        begin_cpu_s = running.cpu_s()
        answers = asyncio.run(ask_all(running.address, asked, clients))
        took_s = time.perf_counter() - begin_s
        cpu_s = running.cpu_s() - begin_cpu_s
        memory = running.memory_bytes()

    tokens = sum(answer.tokens for answer in answers)
    return {
        "rate": tokens / took_s,
        "rate_cpu": tokens / cpu_s,
        "first_token_s": statistics.median(answer.first_s for answer in answers),
        "memory_bytes": memory,
        "texts": [answer.text for answer in answers],
    }


def sampled(checkpoint: str, dtype: str) -> Figures:
    """One turn of sample.py's generate: the same questions, one after the other."""
    source = lora.find_source(checkpoint, None)
    tokenizer = Tokenizer.load(source.small_files)
    model = source.load("cpu", torch.float32 if dtype == "auto" else getattr(torch, dtype)).eval()
    prompts = [tokenizer.encode_prompt(question.prompt) for question in asked_in(1)]
    tokens = 0
    texts = []
    list(generate(model, [prompts[0]], 4, tokenizer.vocab_size, temperature=0))
    begin_s = time.perf_counter()
    begin_cpu_s = time.process_time()
    for prompt in prompts:
        steps = generate(model, [prompt], 32, tokenizer.vocab_size, tokenizer.stops, temperature=0)
        ids = [token for (token,) in steps]
        tokens += len(ids)
        texts.append(tokenizer.decode([*prompt, *ids])[len(tokenizer.decode(prompt)) :])
    took_s = time.perf_counter() - begin_s
    cpu_s = time.process_time() - begin_cpu_s
    return {
        "rate": tokens / took_s,
        "rate_cpu": tokens / cpu_s,
        "first_token_s": None,
        "memory_bytes": peak_rss(),
        "texts": texts,
    }


def take_texts(samples: Samples) -> str:
    """Compare the answers, and take them out of the samples. Raises ValueError when a text is not what it is alone."""
    texts = {name: [turn.pop("texts") for turn in turns] for name, turns in samples.items()}
    alone = texts[ALONE][0]
    for name in CLIENTS:
        for found in texts[name]:
            if found[: len(alone)] != alone:
                raise ValueError(f"with {name} an answer is not what it is alone")
    same = sum(a == b for a, b in zip(alone, texts[SAMPLE][0], strict=True))
    return f"each answer is what it is alone; {same} of {len(alone)} are also sample.py's, whose products have one row"


def record(cfg: BenchConfig, take_turns: TakeTurns) -> Record:
    """All numbers of clients, and sample.py."""
    lora.find_source(cfg.checkpoint, None)  # only for its error
    cases = {}
    for name, clients in CLIENTS.items():
        cases[name] = functools.partial(served, cfg.checkpoint, cfg.dtype, clients)
    cases[SAMPLE] = functools.partial(sampled, cfg.checkpoint, cfg.dtype)
    samples = take_turns(cases, cfg.rounds, "serve")
    check = take_texts(samples)

    many = samples["8 clients"]
    results = {}
    for name, rows in samples.items():
        results[name] = {**summary(rows), "ours_over_it": ratios(many, rows, ["rate", "memory_bytes"])}
    over_alone = results[ALONE]["ours_over_it"]["rate"]
    over_sample = results[SAMPLE]["ours_over_it"]["rate"]
    return {
        "title": f"{cfg.checkpoint}, {cfg.dtype}, {ROWS} rows: answers of 32 tokens to texts of about 40",
        "check": check,
        "results": results,
        "targets": [
            target("8 clients: at least 3 times the tokens a second of one", over_alone, 3, most=False),
            target("8 clients: at least 3 times sample.py, one text after the other", over_sample, 3, most=False),
        ],
        "samples": samples,
    }


def table(record: Record) -> list[str]:
    """Lines for a reader: tokens a second, memory, and 8 clients over each in the same round."""
    results = record["results"]
    lines = speed_table(results, "tokens/s")
    for name, row in results.items():
        cpu = shown(row["rate_cpu"])
        first = shown(row["first_token_s"], number)
        lines.append(f"{name}: {cpu} tokens a CPU-second, first token after {first} s")
    return [*lines, *target_lines(record["targets"])]
