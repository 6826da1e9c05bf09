"""Answers that a model writes: the likeliest token each time, until a stop string, several answers at once.

What most prompts begin with, the examples before the question, is read once. (written.py has the tasks, evaluate.py
runs them.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from model import Llama
from sample import decode
from scoring import common_beginning_of_most
from tokenizer import Tokenizer
from trees import Prefix

TOKENS_OF_SCORING = 4  # an answer's tokens are read one by one: this many times the tokens of a scored batch fit


class Answer:
    """A text that is being written."""

    def __init__(self, tokenizer: Tokenizer, until: Sequence[str]):
        self.tokenizer = tokenizer
        self.until = until
        self.ids: list[int] = []
        # A stop string that the newest token completes lies in this many tokens: each has a byte of it at least. One
        # more, for some tokenizers drop a space at the beginning.
        self.newest = 1 + max((len(stop.encode()) for stop in until), default=0)

    def add(self, token: int) -> bool:
        """Take the next token in. Returns whether a stop string is complete."""
        self.ids.append(token)
        newest = self.tokenizer.decode(self.ids[-self.newest :], show_special=False)
        return any(stop in newest for stop in self.until)

    @property
    def text(self) -> str:
        """What has been written before the first stop string, without special tokens."""
        text = self.tokenizer.decode(self.ids, show_special=False)
        for stop in self.until:
            text = text.partition(stop)[0]
        return text


class Writer:
    """Lets a model write answers.

    until: stop strings; those that are special tokens of the tokenizer end an answer as well.
    stop_ids: other ids at which an answer ends.
    """

    def __init__(self, tokenizer: Tokenizer, until: Sequence[str], stop_ids: frozenset[int], max_new_tokens: int):
        special = tokenizer.hf.get_added_tokens_decoder().items()
        self.tokenizer = tokenizer
        self.until = [*until, tokenizer.end_of_text_token]  # it may also be spelled letter by letter
        self.stop_ids = stop_ids.union(token_id for token_id, token in special if token.content in until)
        self.max_new_tokens = max_new_tokens

    @torch.no_grad()  # not inference_mode: with fsdp what is gathered here is trained on later
    def write(self, model: Llama, prompts: Sequence[Sequence[int]], prefix: Prefix) -> list[str]:
        """The answer to each prompt. prefix: ids with which all prompts begin."""
        answers = [Answer(self.tokenizer, self.until) for _ in prompts]
        ended: set[int] = set()
        steps = decode(
            model,
            prompts,
            self.max_new_tokens,
            self.tokenizer.vocab_size,
            self.stop_ids,
            ended=ended,
            prefix=prefix.read(model),
            temperature=0,
        )
        for step in steps:
            for row, token in enumerate(step):
                if token is not None and answers[row].add(token):
                    ended.add(row)
        return [answer.text for answer in answers]


@dataclass(frozen=True)
class Batch:
    """Prompts that are answered together, by their places; all begin with the prefix (which may be empty)."""

    places: list[int]
    prefix: Prefix


def in_batches(prompts: Sequence[list[int]], max_new_tokens: int, batch_tokens: int) -> Iterator[Batch]:
    """All prompts, those that do not share their beginning with most others first; of each kind the longest first."""
    prefix = Prefix(common_beginning_of_most(prompts))
    behind_prefix = []
    others = []
    for place in sorted(range(len(prompts)), key=lambda place: -len(prompts[place])):
        if prefix.ids and prefix.begins(prompts[place]):
            behind_prefix.append(place)
        else:
            others.append(place)

    for places, shared in ((others, Prefix([])), (behind_prefix, prefix)):
        while places:
            longest = len(prompts[places[0]]) + max_new_tokens
            rows = max(1, TOKENS_OF_SCORING * batch_tokens // longest)
            yield Batch(places[:rows], shared)
            places = places[rows:]
