"""Answers of several models to the same held-out questions, side by side, and how many of them end by themselves.

    python benchmarks/answers.py --models='out/smollm2 out/sft' --adapters='out/lora' --data=data/alpaca

The questions are the first validation conversations up to their first answer, as their template wrote them. Answers are
the likeliest tokens (temperature 0). An answer ends by itself when the model writes a token that ends a turn before
--max_new_tokens.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator
import lora
from chat_shards import Conversations
from chat_template import ChatTemplate
from sample import generate


@dataclass(frozen=True)
class AnswersConfig:
    """Settings of `python benchmarks/answers.py`."""

    models: str = ""  # folders or runs, with spaces between them
    adapters: str = ""  # adapters, each beside the base that it names
    data: str = ""  # folder of prepare_chat.py, whose validation conversations are asked
    count: int = 40  # questions
    show: int = 10  # of which so many are printed, the first ones
    longest: int = 200  # questions of more tokens are passed over
    max_new_tokens: int = 256  # an answer that is longer has not ended by itself
    batch_size: int = 20  # questions that are answered at once


def questions_of(data: Path, cfg: AnswersConfig) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of the first questions, with the header of the answer; and those of the answers that are known."""
    conversations = Conversations(data, "val")
    questions, answers = [], []
    for number in range(len(conversations)):
        ids, scored = conversations.read(number)
        begin = int(np.flatnonzero(scored)[0])
        if begin > cfg.longest:
            continue
        rest = np.flatnonzero(~scored[begin:])
        end = begin + int(rest[0]) if rest.size else len(ids)
        questions.append(ids[:begin].tolist())
        answers.append(ids[begin:end].tolist())
        if len(questions) == cfg.count:
            break
    return questions, answers


def answer_all(
    source: lora.Source, template: ChatTemplate, questions: list[list[int]], cfg: AnswersConfig
) -> tuple[list[list[int]], int]:
    """The ids of each answer, and how many ended by themselves."""
    model = source.load().eval()
    answers: list[list[int]] = [[] for _ in questions]
    n_ended = 0
    bar = tqdm(range(0, len(questions), cfg.batch_size), desc=str(source.adapter or source.base), unit=" batches")
    for begin in bar:
        batch = questions[begin : begin + cfg.batch_size]
        vocab_size = template.tokenizer.vocab_size
        steps = generate(model, batch, cfg.max_new_tokens, vocab_size, template.stop_ids, temperature=0)
        for ids in steps:
            for row, token in enumerate(ids):
                if token is not None:
                    answers[begin + row].append(token)
        for answer in answers[begin : begin + len(batch)]:
            n_ended += len(answer) < cfg.max_new_tokens
    return answers, n_ended


def main(cfg: AnswersConfig) -> None:
    """Ask, count, print."""
    data = Path(cfg.data)
    questions, known = questions_of(data, cfg)
    template = ChatTemplate.load(data)
    decode = template.tokenizer.decode

    sources = [lora.find_source(model, None) for model in cfg.models.split()]
    sources += [lora.find_source(None, adapter) for adapter in cfg.adapters.split()]
    written = {}
    print(f"| model | ended before {cfg.max_new_tokens} tokens, of {len(questions)} | tokens of an answer, median |")
    print("|---|---|---|")
    for source in sources:
        answers, n_ended = answer_all(source, template, questions, cfg)
        name = str(source.adapter or source.base)
        written[name] = answers
        share = 100 * n_ended / len(questions)
        median = int(np.median([len(answer) for answer in answers]))
        print(f"| {name} | {n_ended} ({share:.0f} %) | {median} |", flush=True)

    for number in range(min(cfg.show, len(questions))):
        print(f"\n{number + 1}. question: {decode(questions[number], show_special=False)!r}")
        print(f"   data: {decode(known[number], show_special=False)!r}")
        for name, answers in written.items():
            print(f"   {name}: {decode(answers[number], show_special=False)!r}")


if __name__ == "__main__":
    configurator.run(main, AnswersConfig)
