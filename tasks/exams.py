"""Exams: four listed answers, of which the letter is scored.

MMLU (Hendrycks et al. 2021, arXiv 2009.03300) has 57 subjects; C-Eval (Huang et al. 2023, arXiv 2305.08322) and CMMLU
(Li et al. 2023, arXiv 2306.09212) are exams in Chinese. subjects_zh.tsv has the Chinese names of their subjects.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from tasks.task import Item, Row, task

LETTERS = ["A", "B", "C", "D"]


def listed(question: str, answers: Sequence[str]) -> str:
    """The question and its lettered answers, a line each."""
    lines = [f"{letter}. {answer}" for letter, answer in zip(LETTERS, answers, strict=True)]
    return "\n".join([question.strip(), *lines])


def about(subject: str) -> str:
    """MMLU's first sentence."""
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


@task("mmlu", hub="cais/mmlu", split="test", shots="dev", is_family=True, describe=about)
def mmlu(row: Row) -> Item:
    """School, university and profession, in English."""
    return Item(f"{listed(row['question'], row['choices'])}\nAnswer:", LETTERS, row["answer"])


@functools.cache
def chinese_names() -> dict[tuple[str, str], str]:
    """{(exam, subject): its name in Chinese}."""
    text = Path(__file__).with_name("subjects_zh.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return {(exam, subject): name for exam, subject, name in rows}


def name_of(exam: str, subject: str) -> str:
    """The subject in Chinese. Raises ValueError for one that the exam does not have."""
    names = chinese_names()
    if (exam, subject) not in names:
        known = [other for of_exam, other in names if of_exam == exam]
        raise ValueError(f"{exam} has no subject {subject!r}; it has {', '.join(known)}")
    return names[exam, subject]


def about_ceval(subject: str) -> str:
    """C-Eval's: the following are single-choice questions of China on this subject, choose the right answer."""
    return f"以下是中国关于{name_of('ceval', subject)}的单项选择题，请选出其中的正确答案。\n\n"


def about_cmmlu(subject: str) -> str:
    """CMMLU's: the following are single-choice questions on this subject, give the right option at once."""
    return f"以下是关于{name_of('cmmlu', subject)}的单项选择题，请直接给出正确答案的选项。\n\n"


@task("ceval", hub="ceval/ceval-exam", split="val", shots="dev", is_family=True, describe=about_ceval)
@task("cmmlu", hub="haonan-li/cmmlu", split="test", shots="dev", is_family=True, describe=about_cmmlu)
def chinese_exam(row: Row) -> Item:
    """School, university and profession, in Chinese."""
    question = row["question"] if "question" in row else row["Question"]
    letter = row["answer"] if "answer" in row else row["Answer"]
    answers = [row[letter] for letter in LETTERS]
    return Item(f"{listed(question, answers)}\n答案：", LETTERS, LETTERS.index(letter))
