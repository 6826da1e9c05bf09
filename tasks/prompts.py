"""From items to the ids that a model is asked with: examples before the question, the chat template, the border.

The rules are those of lm-evaluation-harness, so that log-probabilities are equal to its own. docs/evaluation.md follows
one item by hand.
"""

import contextlib
import random
import sys
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from chat_template import ChatTemplate
from scoring import Request
from tasks.rows import Questions
from tasks.task import Item
from tokenizer import Tokenizer

Turn = tuple[str, str]  # a question and an answer
FIRST_SEED = 1234  # of the examples of item 0, where they are drawn for each item
SPARE = 3  # examples drawn in case the item is among them, perhaps more than once


def choose_examples(items: Sequence[Item], pool: Sequence[Item], shots: int, seed: int | None) -> list[list[Item]]:
    """The examples of each item: the first `shots` of the pool (seed: of its rows in an order drawn once), never the
    item itself. Raises ValueError when the pool has too few.

    Nearly all items have the same examples, so that what they read first is computed once.
    """
    if shots == 0:
        return [[] for _ in items]
    first = pool[: shots + 1]
    if seed is not None:
        first = random.Random(seed).sample(list(pool), min(len(pool), shots + 1))

    chosen = []
    for item in items:
        others = [example for example in first if example != item]
        if len(others) < shots:
            raise ValueError(f"--shots={shots}: there are only {len(others)} examples that are not the item itself")
        chosen.append(others[:shots])
    return chosen


def draw_examples(items: Sequence[Item], pool: Sequence[Item], shots: int) -> list[list[Item]]:
    """Other examples for each item, drawn by its number, never the item itself: as CORE does it. Raises ValueError when
    the pool has too few."""
    chosen = []
    for number, item in enumerate(items):
        draw = random.Random(FIRST_SEED + number)
        drawn = draw.sample(pool, min(len(pool), shots + SPARE)) if shots else []
        others = [example for example in drawn if example != item]
        if len(others) < shots:
            raise ValueError(f"{shots} examples are wanted, but only {len(others)} are not the item itself")
        chosen.append(others[:shots])
    return chosen


def turns(item: Item) -> list[Turn]:
    """What stands before each choice, and the choice; with an ending, what the choice is, and the ending."""
    if item.ending:
        return [(choice, item.ending) for choice in item.choices]
    return [(item.context, choice) for choice in item.choices]


def right_turns(examples: Sequence[Item]) -> list[Turn]:
    """The question and the right answer of each example."""
    return [turns(example)[example.answer] for example in examples]


def render(
    question: str, examples: Sequence[Turn], description: str, template: ChatTemplate | None, separator: str = "\n\n"
) -> str:
    """The text that an answer follows: description, examples, question; with a template as a conversation."""
    if template is None:
        shown = [f"{asked} {answer}{separator}" for asked, answer in examples]
        return "".join([description, *shown, question])

    messages = []
    for asked, answer in examples:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": question})

    if description:
        system = {"role": "system", "content": description}
        with contextlib.suppress(ValueError):
            return template.render([system, *messages], generation_prompt=True)
        note_refused_system(template.where)

    try:
        return template.render(messages, generation_prompt=True)
    except ValueError as error:
        way_out = "--shots=0, or no --chat" if examples else "no --chat"
        raise ValueError(f"{error}; give {way_out}") from None


@cache
def note_refused_system(where: str) -> None:
    """Say once that a template takes no system message, as that of Gemma."""
    lost = "the description of a task is left out, as lm-evaluation-harness does"
    print(f"{where} refuses a system message: {lost}", file=sys.stderr)


class Encoder:
    """Ids of contexts and continuations.

    prefix: what stands before a text that has no context: the token that the folder names as its bos_token, else the
    end of text.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        bos = tokenizer.hf.token_to_id(tokenizer.named["bos_token"]) if "bos_token" in tokenizer.named else None
        self.prefix = tokenizer.end_of_text if bos is None else bos
        self.prefix_text = tokenizer.decode([self.prefix])
        self.encode_context = lru_cache(maxsize=16)(self.encode)  # all choices of an item have the same

    def encode(self, text: str) -> list[int]:
        """Ids of a text as a prompt, with bos where the tokenizer puts one; not twice, where a template wrote it."""
        if text.startswith(self.prefix_text):
            return self.tokenizer.encode_rendered(text)
        return self.tokenizer.encode_prompt(text)

    def request(self, context: str, continuation: str) -> Request:
        """Both as ids. Raises ValueError when no id is left to score.

        Spaces at the end of the context belong to the continuation, for tokens mostly begin with their space. Both are
        encoded together, and cut where the context alone would end:

            "Answer: " + "yes"    ->    "Answer:" + " yes"    ->    [..., ":"] [" yes"]
        """
        if not context:
            ids = self.tokenizer.encode_rendered(continuation)
            if ids[:1] == [self.prefix]:
                return self._checked(ids[:1], ids[1:], continuation)
            return self._checked([self.prefix], ids, continuation)

        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        context_ids = self.encode_context(stripped)
        both = self.encode(stripped + continuation)
        return self._checked(context_ids, both[len(context_ids) :], continuation)

    def _checked(self, context: list[int], continuation: list[int], text: str) -> Request:
        if not continuation:
            raise ValueError(f"the answer {text!r:.80} has no token of its own: it melts into the one before")
        return Request(context or [self.prefix], continuation)

    def document(self, text: str) -> Request:
        """A whole text, to be scored from its first token on."""
        return Request([self.prefix], self.tokenizer.encode(text))


def requests(
    questions: Questions, encoder: Encoder, shots: int, seed: int | None, template: ChatTemplate | None
) -> Iterator[list[Request]]:
    """The requests of each item, one a choice. Raises ValueError that names the item which cannot be asked."""
    protocol = questions.protocol
    if protocol is None:
        separator = "\n\n"
        examples = choose_examples(questions.items, questions.examples, shots, seed)
    else:
        separator = protocol.separator
        examples = draw_examples(questions.items, questions.examples, protocol.shots)
    for number, (item, shown) in enumerate(zip(questions.items, examples, strict=True), start=1):
        gap = item.gap if template is None else ""
        try:
            pairs = []
            for question, answer in turns(item):
                context = render(question, right_turns(shown), questions.description, template, separator)
                pairs.append(encoder.request(context, f"{gap}{answer}"))
        except ValueError as error:
            raise ValueError(f"{questions.name}, item {number}: {error}") from None
        yield pairs


def prompts(
    questions: Questions, encoder: Encoder, shots: int, seed: int | None, template: ChatTemplate | None
) -> list[list[int]]:
    """The ids after which the model writes its answer to each item. Raises ValueError that names an item's fault."""
    encoded = []
    examples = choose_examples(questions.items, questions.examples, shots, seed)
    for number, (item, shown) in enumerate(zip(questions.items, examples, strict=True), start=1):
        try:
            text = render(item.context, right_turns(shown), questions.description, template)
            encoded.append(encoder.encode(text) or [encoder.prefix])
        except ValueError as error:
            raise ValueError(f"{questions.name}, item {number}: {error}") from None
    return encoded
