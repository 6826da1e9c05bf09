"""Questions in English: the prompts and figures of lm-evaluation-harness, task by task.

Rows are those of the data sets on the hub, or of llm-foundry's local_data (`query`, `choices`, `gold`).
"""

import re

from tasks.task import Item, Row, place_of, task

# --- several answers to a question ---


@task("arc_easy", hub="allenai/ai2_arc", config="ARC-Easy", split="test", shots="train")
@task("arc_challenge", hub="allenai/ai2_arc", config="ARC-Challenge", split="test", shots="train", headline="acc_norm")
def arc(row: Row) -> Item:
    """Science questions of American schools (Clark et al. 2018, arXiv 1803.05457)."""
    if "query" in row:
        question = row["query"]  # begins with "Question: "
        choices = row["choices"]
        answer = row["gold"]
    else:
        question = f"Question: {row['question']}"
        choices = row["choices"]["text"]
        answer = place_of(row["answerKey"], row["choices"]["label"])

    return Item(f"{question}\nAnswer:", choices, answer)


@task("piqa", hub="baber/piqa", split="validation", shots="train", headline="acc_norm")
def piqa(row: Row) -> Item:
    """How to do things with things, two ways each (Bisk et al. 2019, arXiv 1911.11641)."""
    if "query" in row:
        question = row["query"].removesuffix("\n")  # begins with "Question: "
        choices = row["choices"]
        answer = row["gold"]
    else:
        question = f"Question: {row['goal']}"
        choices = [row["sol1"], row["sol2"]]
        answer = row["label"]

    return Item(f"{question}\nAnswer:", choices, answer)


@task("openbookqa", hub="allenai/openbookqa", config="main", split="test", shots="train", headline="acc_norm")
def openbookqa(row: Row) -> Item:
    """Elementary science that needs a second fact (Mihaylov et al. 2018, arXiv 1809.02789)."""
    if "query" in row:
        return Item(row["query"], row["choices"], row["gold"])

    choices = row["choices"]["text"]
    answer = place_of(row["answerKey"], row["choices"]["label"])
    return Item(row["question_stem"], choices, answer)


@task("commonsense_qa", hub="tau/commonsense_qa", split="validation", shots="train")
def commonsense_qa(row: Row) -> Item:
    """What everybody knows (Talmor et al. 2019, arXiv 1811.00937); the choices are listed, the letters are scored."""
    letters = ["A", "B", "C", "D", "E"]
    choices = row["choices"]["text"]
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True)]
    listed = "\n".join(lines)

    question = row["question"].strip()
    answer = place_of(row["answerKey"], letters)
    return Item(f"Question: {question}\n{listed}\nAnswer:", letters, answer)


# --- how a text goes on ---


@task("hellaswag", hub="Rowan/hellaswag", split="validation", shots="train", headline="acc_norm")
def hellaswag(row: Row) -> Item:
    """How a short scene goes on (Zellers et al. 2019, arXiv 1905.07830)."""
    if "query" in row:
        return Item(row["query"], row["choices"], row["gold"])

    beginning = row["ctx_b"].capitalize()  # of the sentence that the endings complete
    scene = f"{row['activity_label']}: {row['ctx_a']} {beginning}"
    endings = [without_marks(ending) for ending in row["endings"]]
    answer = int(row["label"])
    return Item(without_marks(scene), endings, answer)


def without_marks(text: str) -> str:
    """HellaSwag's texts without the marks of WikiHow: "Pie [title] Cut it [step] Take..." is "Pie. Cut it Take..." """
    text = text.strip()
    text = text.replace(" [title]", ". ")
    text = re.sub(r"\[.*?\]", "", text)
    return text.replace("  ", " ")


@task("copa", hub="aps/super_glue", config="copa", split="validation", shots="train")
def copa(row: Row) -> Item:
    """Cause or effect (Roemmele et al. 2011): "The man fell therefore" ...

    In the harness a choice begins with a space after the usual one: so it does here.
    """
    if "query" in row:
        context = row["query"]
        context = context.replace(", therefore", " therefore")
        context = context.replace(", because", " because")
        choices = row["choices"]
        answer = row["gold"]
    else:
        premise = row["premise"].strip()
        without_full_stop = premise[:-1]
        word = {"cause": "because", "effect": "therefore"}[row["question"]]
        context = f"{without_full_stop} {word}"
        choices = [row["choice1"], row["choice2"]]
        answer = row["label"]

    sentence_parts = [f" {begin_small(choice)}" for choice in choices]
    return Item(context, sentence_parts, answer)


def begin_small(sentence: str) -> str:
    """The sentence as a part of another: "He cried." is "he cried." """
    return sentence[0].lower() + sentence[1:]


@task("lambada_openai", hub="EleutherAI/lambada_openai", config="default", split="test")
def lambada(row: Row) -> Item:
    """The last word of a passage (Paperno et al. 2016, arXiv 1606.06031), in OpenAI's text of it.

    In the harness the word brings its space along, and examples have the usual one before it: so it is here.
    """
    if "continuation" in row:
        context = row["context"]
        last_word = row["continuation"]
    else:
        context, _, last_word = row["text"].rpartition(" ")

    return Item(context, [f" {last_word}"], gap="")


# --- which sentence is right ---


@task("winogrande", hub="allenai/winogrande", config="winogrande_xl", split="validation", shots="train")
def winogrande(row: Row) -> Item:
    """Whom a sentence means (Sakaguchi et al. 2019, arXiv 1907.10641): "The cup did not fit, for the _ was small."

    The sentence's end is scored after each of the two names (Trinh and Le 2018, arXiv 1806.02847, partial scoring).
    """
    beginning, _, end = row["sentence"].partition("_")
    first = beginning + row["option1"]
    second = beginning + row["option2"]
    answer = place_of(row["answer"], ["1", "2"])
    return Item("", [first, second], answer, ending=end.strip())


@task("blimp", hub="nyu-mll/blimp", split="train", is_family=True)
def blimp(row: Row) -> Item:
    """A sentence and a wrong one that differs little (Warstadt et al. 2020, arXiv 1912.00582): 67 sets."""
    return Item("", [row["sentence_good"], row["sentence_bad"]])
