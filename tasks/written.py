"""Questions whose answers the model writes: a text until a stop string, of which a rule takes what is compared.

The prompts, stop strings and rules are those of lm-evaluation-harness.
"""

import re

from tasks.task import Item, Row, Rule, Writing, task

NOTHING_FOUND = "[invalid]"  # what the harness compares when a rule finds nothing


def first_match(pattern: str) -> Rule:
    """The first place that matches, of it the bracketed part."""

    def find(text: str) -> str:
        match = re.search(pattern, text)
        return match[1].strip() if match else NOTHING_FOUND

    return find


def last_match(pattern: str) -> Rule:
    """The last place that matches."""

    def find(text: str) -> str:
        places = [match[0] for match in re.finditer(pattern, text)]
        return places[-1].strip() if places else NOTHING_FOUND

    return find


def bare_number(answer: str) -> str:
    """What stands after the last "#### ", without commas, dollar signs and a full stop: "#### $1,200." is 1200."""
    answer = answer.replace(",", "").replace("$", "")
    answer = re.sub(r".*#### ", "", answer, flags=re.DOTALL)
    return re.sub(r"\.$", "", answer).lower()


@task(
    "gsm8k",
    hub="openai/gsm8k",
    config="main",
    split="test",
    shots="train",
    headline="strict_match",
    writing=Writing(
        until=["Question:", "</s>", "<|im_end|>"],
        rules={
            "strict_match": first_match(r"#### (\-?[0-9\.\,]+)"),
            "flexible_match": last_match(r"-?[$0-9.,]{2,}|-?[0-9]+"),
        },
        normalise=bare_number,
    ),
)
def gsm8k(row: Row) -> Item:
    """Sums in words of school children, worked in sentences; the last line is "#### 72" (Cobbe et al. 2021, arXiv
    2110.14168). Usually asked with five examples."""
    return Item(f"Question: {row['question']}\nAnswer:", [row["answer"]])
