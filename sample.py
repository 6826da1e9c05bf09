"""Write text from a checkpoint: python sample.py --checkpoint=out/demo --prompt='Return the'

(sample.py writes text; sampler.py orders training data.) The tokenizer comes from the checkpoint.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import checkpoint
from model import Llama
from tokenizer import Tokenizer


@dataclass(frozen=True)
class SampleConfig:
    """Settings of `python sample.py`."""

    checkpoint: str = "out/demo"  # a run (its newest checkpoint), or one checkpoint folder
    prompt: str = ""  # text to continue; empty: the start of a new document
    num_samples: int = 1  # texts to write
    max_new_tokens: int = 200  # at most; a text also ends at end-of-text and at the model's block_size
    temperature: float = 0.8  # 0 or top_k=1: always the likeliest token
    top_k: int | None = None  # draw among the k likeliest tokens only; None: among all
    seed: int = 1337  # of the random draws
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: cuda if there is one

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if self.temperature < 0:
            raise ValueError(f"temperature ({self.temperature}) must be at least 0")
        for key in ("num_samples", "max_new_tokens", "top_k"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} ({value}) must be at least 1")


@torch.no_grad()
def generate(
    model: Llama,
    ids: list[int],
    max_new_tokens: int,
    end_of_text: int,
    vocab_size: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Continue `ids` token by token; returns the new ids, the end-of-text id not among them.

    Stops at end_of_text, after max_new_tokens, or when the sequence fills the model's block_size. Ids from vocab_size
    on (padding of the embedding) are never drawn.
    """
    device = model.lm_head.weight.device
    sequence = torch.tensor([ids], device=device)
    new: list[int] = []
    while len(new) < max_new_tokens and sequence.shape[1] < model.cfg.block_size:
        logits = model(sequence)[0, -1, :vocab_size].float()
        if temperature == 0 or top_k == 1:
            token = logits.argmax()
        else:
            logits = logits / temperature
            if top_k is not None and top_k < vocab_size:
                logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
            token = torch.multinomial(logits.softmax(0), 1, generator=generator)[0]
        if token.item() == end_of_text:
            break
        new.append(int(token.item()))
        sequence = torch.cat((sequence, token.view(1, 1)), dim=1)
    return new


def pick_device(name: str) -> torch.device:
    """'auto' is cuda when there is one, else cpu. Raises ValueError for a device this machine lacks."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device={name} cannot be used here: {str(error).splitlines()[0]}") from None


def main(cfg: SampleConfig) -> None:
    """Load, continue the prompt, print."""
    cfg.check()
    folder = checkpoint.resolve(cfg.checkpoint)
    device = pick_device(cfg.device)
    tokenizer = Tokenizer.load(Path(folder))
    model = checkpoint.load_model(folder, device).eval()
    ids = tokenizer.encode(cfg.prompt) or [tokenizer.end_of_text]
    room = model.cfg.block_size - len(ids)
    if room < 1:
        raise ValueError(
            f"the prompt has {len(ids)} tokens, the model's context is {model.cfg.block_size}; shorten the prompt"
        )
    generator = torch.Generator(device).manual_seed(cfg.seed)
    for i in range(cfg.num_samples):
        new = generate(
            model,
            ids,
            cfg.max_new_tokens,
            tokenizer.end_of_text,
            tokenizer.vocab_size,
            cfg.temperature,
            cfg.top_k,
            generator,
        )
        print(("" if i == 0 else "\n---\n") + cfg.prompt + tokenizer.decode(new))
        if len(new) == room < cfg.max_new_tokens:
            print(f"(stopped: the context of {model.cfg.block_size} tokens is full)", file=sys.stderr)


if __name__ == "__main__":
    configurator.run(main, SampleConfig, show=False)
