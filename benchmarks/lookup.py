"""Would drafts by look-up pay? Speculative decoding whose drafts are copied from the text so far, counted and timed.

    OMP_NUM_THREADS=2 python benchmarks/lookup.py --checkpoint=out/smollm2 --prompts=questions.jsonl --bits=4

A draft is what followed the last NGRAM tokens when they last stood in the prompt or the answer (prompt look-up, Saxena
2023). The model reads the newest token and k drafted ones in one pass; those that it would have written itself are
kept, and one token of its own follows. For greedy text the result is the same, so it can be counted afterwards:

    text       a b c d a b c e ...        after "a b c" the draft is "d a b"; the model writes e: none is kept
    text       a b c d a b c d a f ...    here "d a" is kept, and then the model's own f: three tokens in one pass

A pass over k + 1 tokens costs more than one over a single token; by how much is measured, with a cache of 200 tokens.
The table has tokens a pass, the cost of a pass, and how many times as fast the whole would be.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm import tqdm

import lora
from chat_template import ChatTemplate
from model import Cache, Llama
from sample import SampleConfig, generate, read_prompts

NGRAM = 3
DRAFTED = (1, 2, 3, 4, 6, 8)  # k
ROUNDS = 15  # passes of each length that are timed
KNOWN = 200  # tokens in the cache meanwhile


@dataclass(frozen=True)
class LookupConfig:
    """Settings of `python benchmarks/lookup.py`."""

    checkpoint: str = "out/smollm2"  # a Hugging Face folder with a chat template
    prompts: str = "questions.jsonl"  # one question a line, as for sample.py --prompt_file
    bits: Literal[8, 4] | None = None  # quantize while loading; None: float32
    new_tokens: int = 200  # of an answer, at most

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if self.new_tokens < 1:
            raise ValueError(f"new_tokens ({self.new_tokens}) must be at least 1")


def draft(ids: Sequence[int], k: int) -> list[int]:
    """Up to k tokens that followed the last NGRAM ids when they stood there before; none if they did not."""
    ending = list(ids[-NGRAM:])
    for begin in range(len(ids) - NGRAM - 1, -1, -1):
        if list(ids[begin : begin + NGRAM]) == ending:
            follows = begin + NGRAM
            return list(ids[follows : follows + k])
    return []


def count_passes(prompt: Sequence[int], answer: Sequence[int], k: int) -> list[int]:
    """How many tokens each pass reads until the answer is written."""
    ids = list(prompt)
    passes = []
    written = 0
    while written < len(answer):
        guess = draft(ids, k)
        kept = 0
        while kept < len(guess) and written + kept < len(answer) - 1 and guess[kept] == answer[written + kept]:
            kept += 1
        ids += answer[written : written + kept + 1]
        written += kept + 1
        passes.append(1 + len(guess))
    return passes


@torch.inference_mode()
def pass_times(model: Llama, lengths: Sequence[int]) -> dict[int, float]:
    """Seconds of a pass over so many tokens of one text, the median of interleaved ones."""
    cache = Cache(model, 1, KNOWN + max(lengths))
    model(torch.zeros(1, KNOWN, dtype=torch.long), cache=cache, hidden=True)
    times: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(ROUNDS):
        for length, measured in times.items():
            cache.keep(KNOWN)
            begin_s = time.perf_counter()
            model(torch.zeros(1, length, dtype=torch.long), cache=cache)
            measured.append(time.perf_counter() - begin_s)
    return {length: statistics.median(measured) for length, measured in times.items()}


def main(cfg: LookupConfig) -> None:
    """Write the answers, count, time, print."""
    cfg.check()
    questions = read_prompts(SampleConfig(prompt_file=cfg.prompts))
    source = lora.find_source(cfg.checkpoint, None, bits=cfg.bits)
    template = ChatTemplate.load(source.small_files)
    model = source.load("cpu", torch.float32).eval()

    texts = []
    for question in tqdm(questions, desc="answering", unit=" questions", disable=None):
        prompt = template.encode([{"role": "user", "content": question}], generation_prompt=True)
        steps = generate(model, [prompt], cfg.new_tokens, source.shape.vocab_size, template.stop_ids, temperature=0)
        texts.append((prompt, [token for (token,) in steps]))

    seconds = pass_times(model, range(1, max(DRAFTED) + 2))
    tokens = sum(len(answer) for _, answer in texts)
    print(f"{len(texts)} answers, {tokens:,} tokens; one token a pass: {1000 * seconds[1]:.1f} ms")
    print(f"{'k':>2} {'tokens a pass':>14} {'cost of k + 1 tokens':>21} {'times as fast':>14}")
    for k in DRAFTED:
        passes = [length for prompt, answer in texts for length in count_passes(prompt, answer, k)]
        faster = tokens * seconds[1] / sum(seconds[length] for length in passes)
        print(f"{k:2} {tokens / len(passes):14.2f} {seconds[k + 1] / seconds[1]:21.2f} {faster:14.2f}")


if __name__ == "__main__":
    configurator.run(main, LookupConfig)
