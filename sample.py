"""Write text from a checkpoint: python sample.py --checkpoint=out/demo --prompt='Return the'

    python sample.py --checkpoint=some/huggingface/folder --prompt_file=prompts.jsonl --num_samples=3
    echo 'Return the' | python sample.py --prompt_file=-

(sample.py writes text; sampler.py orders training data.) The checkpoint is a run, one of its steps, or any Hugging Face
folder of the Llama family; the tokenizer comes with it.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import checkpoint
from device import pick_device, weight_dtype
from errors import one_line
from model import Cache, Llama
from sampler import hash_key
from tokenizer import TextStream, Tokenizer


@dataclass(frozen=True)
class SampleConfig:
    """Settings of `python sample.py`."""

    checkpoint: str = "out/demo"  # a run (its newest checkpoint), one checkpoint, or a Hugging Face folder
    prompt: str = ""  # text to continue; empty: the start of a new document
    prompt_file: str | None = None  # a file that is the prompt; -: standard input; x.jsonl: one prompt a line
    num_samples: int = 1  # texts for each prompt
    batch_size: int = 8  # texts generated at the same time, at most
    max_new_tokens: int = 200  # at most; a text also ends at end-of-text and where the model's context is full
    temperature: float = 0.8  # 0 or top_k=1: always the likeliest token
    top_k: int | None = None  # draw among the k likeliest tokens only
    top_p: float = 1.0  # ... among the likeliest that together have this probability
    min_p: float = 0.0  # ... among those that have at least this share of the likeliest one's probability
    stop: str | None = None  # end a text before this string; several: a JSON list, '["\n\n", "Q:"]'
    seed: int = 1337  # of the random draws
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of weights and cache; auto: bfloat16 on CUDA, else float32
    compile: bool = False  # torch.compile, for GPUs: on a CPU it was slower (docs/LOG.md)

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature ({self.temperature}) must be at least 0")
        for key in ("num_samples", "batch_size", "max_new_tokens", "top_k"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} ({value}) must be at least 1")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p ({self.top_p}) must be above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p ({self.min_p}) must be at least 0 and at most 1")
        if self.prompt and self.prompt_file is not None:
            raise ValueError("give --prompt or --prompt_file, not both")


def probabilities(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """What a next token is drawn from: logits (B, V) -> probabilities (B, V), filtered in the order of the arguments.

    top_k keeps the k likeliest (and those equal to the last of them; Fan et al. 2018, arXiv 1805.04833, 5.4), top_p the
    fewest likeliest that together reach top_p (Holtzman et al. 2020, arXiv 1904.09751, 3.1), min_p those with at least
    min_p times the largest probability (Nguyen et al. 2024, arXiv 2407.01082). temperature: above 0.
    """
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    p = logits.softmax(1)
    if top_p < 1:
        ordered, places = p.sort(dim=1, descending=True, stable=True)
        beyond = ordered.cumsum(1) - ordered >= top_p  # those before it have top_p already
        p = torch.zeros_like(p).scatter_(1, places, ordered.masked_fill(beyond, 0))
    p = p.masked_fill(p < min_p * p.amax(1, keepdim=True), 0)
    return p / p.sum(1, keepdim=True)


def draw(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The token at which the summed probabilities pass u: p (B, V), u (B,) float32 in [0, 1). Returns (B,) ids."""
    if p.device.type == "mps":  # has no float64, in which u * total stays below total
        return draw(p.cpu(), u.cpu()).to(p.device)
    total = p.double().cumsum(1)
    return torch.searchsorted(total, u.double()[:, None] * total[:, -1:], right=True)[:, 0]


def decode(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    vocab_size: int,
    stops: Iterable[int] = (),
    seeds: Sequence[int] = (),
    ended: set[int] | None = None,
    compile: bool = False,
    **filters: float | None,
) -> Iterator[list[int | None]]:
    """Continue several prompts at once: yields the next id of each, None for those that have ended.

    A text ends at an id of `stops` (which is not shown), after max_new_tokens, when it fills the model's block_size, or
    when the caller adds its row to `ended`. seeds: one a prompt (default 0, 1, ...); a text follows from its prompt and
    seed, not from the others in the batch (but for the rounding of sums in another order). Ids from vocab_size on
    (padding of the embedding) are never drawn. filters: temperature, top_k and so on of `probabilities`; with
    temperature=0 or top_k=1 always the likeliest. Raises ValueError for a prompt that is empty or leaves no room.
    """
    device, block_size, stops = model.lm_head.weight.device, model.cfg.block_size, set(stops)
    lengths = [len(prompt) for prompt in prompts]
    check_prompts(prompts, block_size, model.cfg.vocab_size)
    ended, longest = set() if ended is None else ended, max(lengths)
    steps = min(max_new_tokens, block_size - min(lengths))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or range(len(prompts))]
    uniform = torch.stack([torch.rand(steps, generator=generator) for generator in generators]).to(device)  # (B, steps)
    padding = [longest - n for n in lengths]
    ids = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
    tokens = torch.tensor(ids, device=device)  # (B, T), prompts end together
    cache = Cache(model, len(prompts), longest + steps, padding)
    forward = torch.compile(model, dynamic=True) if compile else model
    for step in range(steps):
        logits = (model if step == 0 else forward)(tokens, cache=cache, last=True)[:, -1, :vocab_size]  # (B, V)
        if filters.get("temperature") == 0 or filters.get("top_k") == 1:
            tokens = logits.argmax(1, keepdim=True)  # (B, 1)
        else:
            tokens = draw(probabilities(logits, **filters), uniform[:, step])[:, None]
        found = tokens[:, 0].tolist()
        ended.update(row for row, token in enumerate(found) if token in stops or lengths[row] + step >= block_size)
        if len(ended) == len(prompts):
            return
        yield [None if row in ended else token for row, token in enumerate(found)]


generate = torch.inference_mode()(decode)  # decode itself, under no_grad, for models whose buffers training needs again


def check_prompts(prompts: Sequence[Sequence[int]], block_size: int, rows: int) -> None:
    """Raise ValueError for a prompt that is empty, leaves no room in a context of block_size tokens, or has an id that
    the embedding has no row for (of a token that the folder adds without a row, such as <pad>)."""
    for prompt in prompts:
        n = len(prompt)
        if not 0 < n < block_size:
            raise ValueError(f"the prompt has {n} tokens, the model's context is {block_size}; shorten the prompt")
        if max(prompt) >= rows:
            raise ValueError(f"the prompt has a token of id {max(prompt)}, but the model's embedding {rows} rows")


def read_prompts(cfg: SampleConfig) -> list[str]:
    """The prompts that the settings name. A file's last line end is not part of its prompt."""
    if cfg.prompt_file is None:
        return [cfg.prompt]
    name = "standard input" if cfg.prompt_file == "-" else cfg.prompt_file
    data = sys.stdin.buffer.read() if cfg.prompt_file == "-" else Path(cfg.prompt_file).read_bytes()
    with one_line(f"{name}: not UTF-8 text: ", UnicodeDecodeError):
        text = data.decode("utf-8")
    if not cfg.prompt_file.endswith(".jsonl"):
        return [text.removesuffix("\n").removesuffix("\r")]
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        found = None
        with contextlib.suppress(ValueError):
            found = json.loads(line)
        prompts.append(found.get("prompt") if isinstance(found, dict) else found)
        if not isinstance(prompts[-1], str):
            raise ValueError(f'{name}:{number}: not a JSON string, nor an object with a string "prompt": {line:.80}')
    if not prompts:
        raise ValueError(f"{name} holds no prompt")
    return prompts


def stop_strings(stop: str | None) -> list[str]:
    """The strings that --stop names: one, or a JSON list of them."""
    if not stop or not stop.startswith("["):
        return [stop] if stop else []
    with contextlib.suppress(ValueError):
        found = json.loads(stop)
        if all(isinstance(text, str) and text for text in found):
            return found
    raise ValueError(f"--stop={stop} looks like a JSON list, but is no list of strings that are not empty")


def main(cfg: SampleConfig) -> None:
    """Load, continue the prompts, print as the text comes."""
    cfg.check()
    stops, folder, device = stop_strings(cfg.stop), checkpoint.resolve(cfg.checkpoint), pick_device(cfg.device)
    tokenizer, shape, prompts = Tokenizer.load(Path(folder)), checkpoint.read_config(folder), read_prompts(cfg)
    checkpoint.check_vocabulary(shape, tokenizer)
    ids = [tokenizer.encode_prompt(prompt) or [tokenizer.start] for prompt in prompts]
    check_prompts(ids, shape.block_size, shape.vocab_size)
    model = checkpoint.load_model(folder, device, weight_dtype(cfg.dtype, device)).eval()
    wanted = [i for i in range(len(prompts)) for _ in range(cfg.num_samples)]  # the prompt of each text
    options = {"max_new_tokens": cfg.max_new_tokens, "vocab_size": tokenizer.vocab_size, "stops": tokenizer.stops}
    options |= {key: getattr(cfg, key) for key in ("temperature", "top_k", "top_p", "min_p", "compile")}
    tokens, start_s, full = 0, time.perf_counter(), False
    for begin in range(0, len(wanted), cfg.batch_size):
        rows = wanted[begin : begin + cfg.batch_size]
        texts = [TextStream(tokenizer, ids[i], stops) for i in rows]
        unseen, new, ended = [prompts[i] for i in rows], [0] * len(rows), set[int]()
        seeds = [hash_key(cfg.seed, begin + row) for row in range(len(rows))]
        shown = 0  # the text that is being written; the others wait for their turn
        for step in generate(model, [ids[i] for i in rows], seeds=seeds, ended=ended, **options):
            for row, token in enumerate(step):
                if token is not None:
                    new[row] += 1
                    unseen[row] += texts[row].feed(token)
            ended.update(row for row, text in enumerate(texts) if text.stopped)
            print(unseen[shown], end="", flush=True)
            unseen[shown] = ""
            while shown in ended and shown < len(rows) - 1:
                print(unseen[shown] + texts[shown].finish() + "\n\n---")
                shown += 1
        for row in range(shown, len(rows)):
            print(unseen[row] + texts[row].finish() + ("\n\n---" if begin + row + 1 < len(wanted) else ""), flush=True)
        tokens += sum(new)
        full |= any(n == shape.block_size - len(ids[i]) < cfg.max_new_tokens for n, i in zip(new, rows, strict=True))
    took_s = time.perf_counter() - start_s
    if full:
        print(f"(stopped: the context of {shape.block_size} tokens is full)", file=sys.stderr)
    print(f"({tokens} tokens in {took_s:.1f} s, {tokens / took_s:,.1f} tokens/s)", file=sys.stderr)


if __name__ == "__main__":
    configurator.run(main, SampleConfig, show=False)
