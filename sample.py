"""Write text from a checkpoint: python sample.py --checkpoint=out/demo --prompt='Return the'

    python sample.py --adapter=out/lora --prompt='Return the'
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
from typing import Any, Literal

import torch
from tqdm import tqdm

import checkpoint
import lora
from device import memory_advice, pick_device, weight_dtype
from errors import one_line
from model import Cache, Llama, ModelConfig
from sampler import hash_key
from tokenizer import TextStream, Tokenizer, replace_lone_surrogates

SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny  # below it float32 may be 0, and 0 / 0 is NaN
NOT_FINITE = -1  # stands for the next id of a text whose logits are NaN or infinite
SEPARATOR = "\n\n---"  # between two texts
READ_AT_ONCE = 512  # tokens of each prompt


@dataclass(frozen=True)
class SampleConfig:
    """Settings of `python sample.py`."""

    checkpoint: str | None = None  # a run (its newest checkpoint), or a Hugging Face folder; None: out/demo
    adapter: str | None = None  # a LoRA adapter, of a run or from peft; without --checkpoint beside the base it names
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
    bits: Literal[8, 4] | None = None  # quantize the weights while loading: faster on a CPU; None: as they are
    compile: bool = False  # torch.compile, for GPUs: on a CPU it was slower (docs/LOG.md)

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        check_drawing(self, "num_samples", "batch_size", "max_new_tokens", "top_k")
        if self.prompt and self.prompt_file is not None:
            raise ValueError("give --prompt or --prompt_file, not both")


def check_drawing(cfg: Any, *counts: str) -> None:
    """Raise ValueError for settings that no token can be drawn with. counts: those that must be at least 1, or None."""
    if not 0 <= cfg.temperature < float("inf"):
        raise ValueError(f"temperature ({cfg.temperature}) must be at least 0")
    for key in counts:
        value = getattr(cfg, key)
        if value is not None and value < 1:
            raise ValueError(f"{key} ({value}) must be at least 1")
    if not 0 < cfg.top_p <= 1:
        raise ValueError(f"top_p ({cfg.top_p}) must be above 0 and at most 1")
    if not 0 <= cfg.min_p <= 1:
        raise ValueError(f"min_p ({cfg.min_p}) must be at least 0 and at most 1")


def probabilities(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    """What a next token is drawn from: logits (B, V) -> probabilities (B, V), filtered in the order of the arguments.

    top_k keeps the k likeliest (and those equal to the last of them; Fan et al. 2018, arXiv 1805.04833, 5.4), top_p the
    fewest likeliest that together reach top_p (Holtzman et al. 2020, arXiv 1904.09751, 3.1), min_p those with at least
    min_p times the largest probability (Nguyen et al. 2024, arXiv 2407.01082). temperature: above 0.
    """
    # The largest logit becomes 0: the probabilities stay, and a tiny temperature makes -inf of the others, never NaN.
    logits = logits.float()
    logits = logits - logits.amax(1, keepdim=True)
    logits = logits / max(temperature, SMALLEST_TEMPERATURE)

    if top_k is not None and top_k < logits.shape[1]:
        last_kept = logits.topk(top_k).values[:, -1:]  # (B, 1)
        logits = logits.masked_fill(logits < last_kept, -torch.inf)

    p = logits.softmax(1)
    if top_p < 1:
        p = keep_top_p(p, top_p)

    largest = p.amax(1, keepdim=True)  # (B, 1)
    p = p.masked_fill(p < min_p * largest, 0)
    return p / p.sum(1, keepdim=True)


def keep_top_p(p: torch.Tensor, top_p: float) -> torch.Tensor:
    """p (B, V) with 0 for all but the fewest likeliest tokens that together reach top_p.

    Example, five tokens and top_p = 0.7:

        p            0.10  0.40  0.05  0.25  0.20
        sorted       0.40  0.25  0.20  0.10  0.05
        sum before   0.00  0.40  0.65  0.85  0.95    from 0.7 on the others before have enough
        kept         0.40  0.25  0.20  0     0
        out          0     0.40  0     0.25  0.20
    """
    ordered, places = p.sort(dim=1, descending=True, stable=True)
    sum_before = ordered.cumsum(1) - ordered
    kept = ordered.masked_fill(sum_before >= top_p, 0)
    return torch.zeros_like(p).scatter_(1, places, kept)


def draw(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The token at which the summed probabilities pass u: p (B, V), u (B,) float32 in [0, 1). Returns (B,) ids.

    Example: the sums of p = 0.25, 0.50, 0.25 are 0.25, 0.75, 1.00. So u = 0.1 draws token 0, u = 0.25 and u = 0.6 draw
    token 1, u = 0.75 draws token 2.
    """
    if p.device.type == "mps":  # has no float64, in which u * total stays below total
        return draw(p.cpu(), u.cpu()).to(p.device)

    sums = p.double().cumsum(1)  # (B, V)
    total = sums[:, -1:]  # (B, 1): 1, but for rounding
    target = u.double()[:, None] * total  # (B, 1)
    return torch.searchsorted(sums, target, right=True)[:, 0]


def decode(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    vocab_size: int,
    stops: Iterable[int] = (),
    seeds: Sequence[int] = (),
    ended: set[int] | None = None,
    compile: bool = False,
    cache: Cache | None = None,
    prefix: Cache | None = None,
    **filters: float | None,
) -> Iterator[list[int | None]]:
    """Continue several prompts at once: yields the next id of each, None for those that have ended.

    A text ends at an id of `stops` (which is not shown), after max_new_tokens, when it fills the model's block_size, or
    when the caller adds its row to `ended`. seeds: one a prompt (default 0, 1, ...); a text follows from its prompt and
    seed, not from the others in the batch (but for the rounding of sums in another order). Ids from vocab_size on
    (padding of the embedding) are never drawn. filters: temperature, top_k and so on of `probabilities`; with
    temperature=0 or top_k=1 always the likeliest.

    cache: what a single prompt's first cache.used ids have left there, fewer than all of them; only the others are
    read. Its size counts instead of block_size. prefix: what ids with which all prompts begin, prefix.used of them and
    fewer than any prompt has, have left in a cache of one row; it is not changed.

    Raises ValueError for a prompt that is empty, leaves no room or has an unknown id, and for logits that are NaN or
    infinite.
    """
    block_size = model.cfg.block_size if cache is None else cache.size
    device = model.device
    check_prompts(prompts, block_size, model.cfg.vocab_size)
    stop_ids = set(stops)
    ended = set() if ended is None else ended

    # Prompts, without what is known of them.
    known = max(0 if held is None else held.used for held in (cache, prefix))
    lengths = [len(prompt) for prompt in prompts]
    longest = max(lengths)
    padding = [longest - length for length in lengths]
    tokens = pad_left([prompt[known:] for prompt in prompts], padding).to(device)  # (B, T)

    # Room and random numbers for all steps; the shortest prompt has the most of them before it.
    steps = min(max_new_tokens, block_size - min(lengths))
    if cache is None:
        cache = Cache(model, len(prompts), longest + steps, padding, prefix)
    uniform = uniform_numbers(seeds or range(len(prompts)), steps).to(device)  # (B, steps)

    compiled = torch.compile(model, dynamic=True) if compile else model
    rows = list(range(len(prompts)))  # the texts that are computed
    for step in range(steps):
        if step == 0:
            logits = read_tokens(model, tokens, cache)  # (B, 1, V)
        else:
            logits = compiled(tokens, cache=cache, last=True)  # (B, 1, V)
        logits = logits[:, -1, :vocab_size]  # (B, vocab_size)

        next_ids = choose(logits, uniform[:, step], **filters)  # (B,)
        tokens = next_ids[:, None]  # (B, 1)
        ids = next_ids.tolist()  # waits for the device, once a step
        if NOT_FINITE in ids:
            raise ValueError("the logits are not finite (NaN or infinity): training diverged, or weights are damaged")

        # What each text goes on with; it ends at a stop id and where the context is full.
        drawn: list[int | None] = [None] * len(prompts)
        for row, token in zip(rows, ids, strict=True):
            is_full = lengths[row] + step >= block_size
            if token in stop_ids or is_full:
                ended.add(row)
            if row not in ended:
                drawn[row] = token
        if len(ended) == len(prompts):
            return
        yield drawn

        # Texts that have ended leave the batch when they are half of it, for its cache is copied each time. (A compiled
        # model would be compiled again for fewer rows.)
        going_on = [place for place, row in enumerate(rows) if row not in ended]
        if not going_on:
            return
        if 2 * len(going_on) <= len(rows) and not compile:
            cache.keep_rows(going_on)
            tokens = tokens[going_on]
            uniform = uniform[going_on]
            rows = [rows[place] for place in going_on]


generate = torch.inference_mode()(decode)  # decode itself, under no_grad, for models whose buffers training needs again


def read_tokens(model: Llama, tokens: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Logits behind the last of the tokens (B, T), (B, 1, V); the cache takes all of them in.

    Of each text READ_AT_ONCE are read at a time, so that what a long prompt needs besides its keys and values does not
    grow with it.
    """
    *beginning, last = tokens.split(READ_AT_ONCE, dim=1)
    no_bar = None if beginning else True  # None: no bar where the output is not a terminal
    with tqdm(total=tokens.shape[1], desc="reading", unit=" tokens", leave=False, disable=no_bar) as bar:
        for part in beginning:
            model(part, cache=cache, hidden=True)
            bar.update(part.shape[1])
        return model(last, cache=cache, last=True)


def pad_left(prompts: Sequence[Sequence[int]], padding: Sequence[int]) -> torch.Tensor:
    """The prompts as rows that end together, (B, T): before each as many zeros as `padding` says."""
    rows = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
    return torch.tensor(rows)


def choose(logits: torch.Tensor, u: torch.Tensor, **filters: float | None) -> torch.Tensor:
    """The next id of each text, (B,): drawn, or with temperature=0 or top_k=1 the likeliest.

    logits: (B, V); u: (B,) random numbers in [0, 1). NOT_FINITE where logits are NaN or infinite.
    """
    greedy = filters.get("temperature") == 0 or filters.get("top_k") == 1
    if greedy:
        next_ids = logits.argmax(1)  # (B,)
    else:
        next_ids = draw(probabilities(logits, **filters), u)  # (B,)
    finite = logits.isfinite().all(1)  # (B,)
    next_ids = next_ids.masked_fill(~finite, NOT_FINITE)
    return next_ids


def uniform_numbers(seeds: Iterable[int], steps: int) -> torch.Tensor:
    """Random numbers in [0, 1) for each step of each text, (B, steps) float32; a row follows from its seed alone."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(steps, generator=generator))
    return torch.stack(rows)


def check_prompts(prompts: Sequence[Sequence[int]], block_size: int, vocab_size: int) -> None:
    """Raise ValueError for a prompt that is empty, leaves no room in a context of block_size tokens, or has an id that
    the embedding has no row for (a token that a folder added without a row, such as <pad>)."""
    for prompt in prompts:
        length = len(prompt)
        if not 0 < length < block_size:
            raise ValueError(f"the prompt has {length} tokens, the model's context is {block_size}; shorten the prompt")
        largest = max(prompt)
        if largest >= vocab_size:
            raise ValueError(f"the prompt has a token of id {largest}, but the model's embedding {vocab_size} rows")


def read_prompts(cfg: SampleConfig) -> list[str]:
    """The prompts that the settings name. A file's last line end is not part of its prompt.

    Half an emoji (a lone surrogate, which has no UTF-8) becomes U+FFFD, so that it can be printed.
    """
    if cfg.prompt_file is None:
        return [replace_lone_surrogates(cfg.prompt)]

    if cfg.prompt_file == "-":
        name = "standard input"
        data = sys.stdin.buffer.read()
    else:
        name = cfg.prompt_file
        if not Path(name).is_file():
            raise ValueError(f"--prompt_file={name}: no such file")
        data = Path(cfg.prompt_file).read_bytes()
    with one_line(f"{name}: not UTF-8 text: ", UnicodeDecodeError):
        text = data.decode("utf-8-sig")  # with or without a byte order mark

    if cfg.prompt_file.endswith(".jsonl"):
        return read_prompt_lines(name, text)
    return [text.removesuffix("\n").removesuffix("\r")]


def read_prompt_lines(name: str, text: str) -> list[str]:
    """The prompts of a .jsonl file: each line a JSON string, or an object with a string "prompt".

    Lines end with a line feed only: U+2028 and U+0085, at which str.splitlines cuts, may stand in a JSON string.
    """
    lines = text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise ValueError(f"{name} holds no prompt")

    prompts = []
    for number, line in enumerate(lines, start=1):
        prompt = parse_json(line)
        if isinstance(prompt, dict):
            prompt = prompt.get("prompt")
        if not isinstance(prompt, str):
            raise ValueError(f'{name}:{number}: not a JSON string, nor an object with a string "prompt": {line:.80}')
        prompts.append(replace_lone_surrogates(prompt))
    return prompts


def parse_json(text: str) -> Any:
    """The value of a JSON text; None when it is no JSON, or nested too deeply to be read."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    return None


def stop_strings(stop: str | None) -> list[str]:
    """The strings that --stop names: one, or a JSON list of them."""
    if not stop:
        return []
    if not stop.startswith("["):
        return [stop]

    strings = parse_json(stop)
    if strings is None or not all(isinstance(text, str) and text for text in strings):
        raise ValueError(f"--stop={stop:.80} looks like a JSON list, but is no list of strings that are not empty")
    return strings


@dataclass(frozen=True)
class Prompt:
    """A text to continue, and its ids."""

    text: str
    ids: list[int]


def prompts_to_continue(cfg: SampleConfig, tokenizer: Tokenizer, shape: ModelConfig) -> list[Prompt]:
    """What to generate: each prompt num_samples times. Raises ValueError for prompts that the model cannot take."""
    prompts = []
    for text in read_prompts(cfg):
        ids = tokenizer.encode_prompt(text) or [tokenizer.start]
        prompts += [Prompt(text, ids)] * cfg.num_samples
    check_prompts([prompt.ids for prompt in prompts], shape.block_size, shape.vocab_size)
    return prompts


class Text:
    """One text that is being written: its tokens, and what is not on the screen yet."""

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, stops: Sequence[str]):
        self.stream = TextStream(tokenizer, prompt.ids, stops)
        self.unseen = prompt.text
        self.new_tokens = 0

    def add(self, token: int) -> None:
        """Take the next token in."""
        self.new_tokens += 1
        self.unseen += self.stream.feed(token)

    def take(self) -> str:
        """What is to be printed now."""
        text = self.unseen
        self.unseen = ""
        return text

    def finish(self) -> str:
        """All the rest, when no token follows."""
        return self.take() + self.stream.flush()


def write_batch(texts: list[Text], steps: Iterable[list[int | None]], ended: set[int], is_last: bool) -> None:
    """Print the texts in their order while `steps` brings their tokens: the first as it comes, others in their turn.

    steps: what `decode` yields, and `ended` the set that it was given. is_last: no batch follows.
    """
    shown = 0  # the text that is being printed; the others wait
    for step in steps:
        for text, token in zip(texts, step, strict=True):
            if token is not None:
                text.add(token)
        ended.update(row for row, text in enumerate(texts) if text.stream.stopped)

        print(texts[shown].take(), end="", flush=True)
        while shown in ended and shown < len(texts) - 1:
            print(texts[shown].finish() + SEPARATOR)
            shown += 1

    for row in range(shown, len(texts)):
        end_of_all = is_last and row == len(texts) - 1
        print(texts[row].finish() + ("" if end_of_all else SEPARATOR), flush=True)


def closing_lines(texts: list[Text], prompts: list[Prompt], block_size: int, cfg: SampleConfig, took_s: float) -> str:
    """How many tokens in how many seconds; and whether a text stopped because the context was full."""
    lines = []
    for text, prompt in zip(texts, prompts, strict=True):
        room = block_size - len(prompt.ids)
        if text.new_tokens == room < cfg.max_new_tokens:
            lines = [f"(stopped: the context of {block_size} tokens is full)"]
    tokens = sum(text.new_tokens for text in texts)
    lines.append(f"({tokens} tokens in {took_s:.1f} s, {tokens / took_s:,.1f} tokens/s)")
    return "\n".join(lines)


def main(cfg: SampleConfig) -> None:
    """Load, continue the prompts, print as the text comes."""
    # Settings, tokenizer, prompts: what can be wrong is found before the weights are read.
    cfg.check()
    stops = stop_strings(cfg.stop)
    source = lora.find_source(cfg.checkpoint, cfg.adapter, bits=cfg.bits)
    shape = source.shape
    device = pick_device(cfg.device)
    dtype = weight_dtype(cfg.dtype, device)
    tokenizer = Tokenizer.load(source.small_files)
    checkpoint.check_vocabulary(shape, tokenizer)
    prompts = prompts_to_continue(cfg, tokenizer, shape)

    # Model
    with memory_advice("give --dtype=bfloat16, or a device with more memory"):
        model = source.load(device, dtype).eval()

    # Texts, a batch at a time
    start_s = time.perf_counter()
    texts: list[Text] = []
    advice = f"lower --batch_size ({cfg.batch_size}) or --max_new_tokens ({cfg.max_new_tokens})"
    for begin in range(0, len(prompts), cfg.batch_size):
        end = min(begin + cfg.batch_size, len(prompts))
        batch = [Text(prompt, tokenizer, stops) for prompt in prompts[begin:end]]
        ended: set[int] = set()
        steps = generate(
            model,
            [prompt.ids for prompt in prompts[begin:end]],
            cfg.max_new_tokens,
            tokenizer.vocab_size,
            stops=tokenizer.stops,
            seeds=[hash_key(cfg.seed, number) for number in range(begin, end)],
            ended=ended,
            compile=cfg.compile,
            temperature=cfg.temperature,
            top_k=cfg.top_k,
            top_p=cfg.top_p,
            min_p=cfg.min_p,
        )
        with memory_advice(advice), one_line(f"{source.adapter or source.base}: ", ValueError):
            write_batch(batch, steps, ended, is_last=end == len(prompts))
        texts += batch

    # The last lines go to standard error, so that standard output is the text alone.
    took_s = time.perf_counter() - start_s
    print(closing_lines(texts, prompts, shape.block_size, cfg, took_s), file=sys.stderr)


if __name__ == "__main__":
    configurator.run(main, SampleConfig, show=False)
