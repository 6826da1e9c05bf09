"""Exams: four listed answers, of which the letter is scored.

MMLU (Hendrycks et al. 2021, arXiv 2009.03300) has 57 subjects; C-Eval (Huang et al. 2023, arXiv 2305.08322) and CMMLU
(Li et al. 2023, arXiv 2306.09212) are exams in Chinese. subjects_zh.tsv has the Chinese names of their subjects.

Rows are those of the data sets on the hub, or of the csv files in the authors' archives:

    MMLU      test/anatomy_test.csv, dev/anatomy_dev.csv      question, A, B, C, D, answer; without a line of names
    C-Eval    val/law_val.csv, dev/law_dev.csv                id, question, A, B, C, D, answer, in dev also explanation
    CMMLU     test/anatomy.csv, dev/anatomy.csv               (a number), Question, A, B, C, D, Answer
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from tasks.task import Item, Row, place_of, task

LETTERS = ["A", "B", "C", "D"]

exam = functools.partial(task, shots="dev", is_family=True)


def listed(question: str, answers: Sequence[str]) -> str:
    """The question and its lettered answers, a line each."""
    lines = [f"{letter}. {answer}" for letter, answer in zip(LETTERS, answers, strict=True)]
    return "\n".join([question.strip(), *lines])


def about(subject: str) -> str:
    """MMLU's first sentence."""
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n"


@exam(
    "mmlu",
    hub="cais/mmlu",
    split="test",
    describe=about,
    archive="{set}_{split}.csv",
    columns=["question", *LETTERS, "answer"],
)
def mmlu(row: Row) -> Item:
    """School, university and profession, in English."""
    if "choices" in row:
        answers = row["choices"]
        answer = row["answer"]
    else:
        answers = [row[letter] for letter in LETTERS]
        answer = place_of(row["answer"], LETTERS)

    return Item(f"{listed(row['question'], answers)}\nAnswer:", LETTERS, answer)


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


@exam("ceval", hub="ceval/ceval-exam", split="val", describe=about_ceval, archive="{set}_{split}.csv")
@exam("cmmlu", hub="haonan-li/cmmlu", split="test", describe=about_cmmlu, archive="{split}/{set}.csv")
def chinese_exam(row: Row) -> Item:
    """School, university and profession, in Chinese."""
    question = row["Question"] if "Question" in row else row["question"]
    letter = row["Answer"] if "Answer" in row else row["answer"]
    answers = [row[each] for each in LETTERS]
    answer = place_of(letter, LETTERS)
    return Item(f"{listed(question, answers)}\n答案：", LETTERS, answer)
