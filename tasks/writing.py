"""Answers that a model writes: the likeliest token each time, until a stop string, several answers at once.

(written.py has the tasks. evaluate.py runs them.)
"""

from collections.abc import Iterator, Sequence

from model import Llama
from sample import generate
from tokenizer import Tokenizer

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

    def write(self, model: Llama, prompts: Sequence[Sequence[int]]) -> list[str]:
        """The answer to each prompt."""
        answers = [Answer(self.tokenizer, self.until) for _ in prompts]
        ended: set[int] = set()
        vocab_size = self.tokenizer.vocab_size
        steps = generate(model, prompts, self.max_new_tokens, vocab_size, self.stop_ids, ended=ended, temperature=0)
        for step in steps:
            for row, token in enumerate(step):
                if token is not None and answers[row].add(token):
                    ended.add(row)
        return [answer.text for answer in answers]


def in_batches(prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_tokens: int) -> Iterator[list[int]]:
    """The places of prompts that are answered together, those with the longest prompts first."""
    places = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    while places:
        longest = len(prompts[places[0]]) + max_new_tokens
        rows = max(1, TOKENS_OF_SCORING * batch_tokens // longest)
        yield places[:rows]
        places = places[rows:]
