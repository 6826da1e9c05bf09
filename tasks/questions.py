"""Questions in English: the prompts and figures of lm-evaluation-harness, task by task.

Rows are those of the data sets on the hub, or of llm-foundry's local_data (`query`, `choices`, `gold`).
"""

import re

from tasks.task import Item, Row, task


def numbered(answers: list[str], answer: str) -> int:
    """The place of an answer that is given by its label: "B" of A B C D is 1."""
    return list(answers).index(answer.strip())


@task("arc_easy", hub="allenai/ai2_arc", config="ARC-Easy", split="test", shots="train")
@task("arc_challenge", hub="allenai/ai2_arc", config="ARC-Challenge", split="test", shots="train", headline="acc_norm")
def arc(row: Row) -> Item:
    """Science questions of American schools (Clark et al. 2018, arXiv 1803.05457)."""
    if "query" in row:
        return Item(f"{row['query']}\nAnswer:", row["choices"], row["gold"])
    answer = numbered(row["choices"]["label"], row["answerKey"])
    return Item(f"Question: {row['question']}\nAnswer:", row["choices"]["text"], answer)


@task("piqa", hub="baber/piqa", split="validation", shots="train", headline="acc_norm")
def piqa(row: Row) -> Item:
    """How to do things with things, two ways each (Bisk et al. 2019, arXiv 1911.11641)."""
    if "query" in row:
        question = row["query"].removesuffix("\n")
        return Item(f"{question}\nAnswer:", row["choices"], row["gold"])
    return Item(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"])


@task("hellaswag", hub="Rowan/hellaswag", split="validation", shots="train", headline="acc_norm")
def hellaswag(row: Row) -> Item:
    """How a short scene goes on (Zellers et al. 2019, arXiv 1905.07830)."""
    if "query" in row:
        return Item(row["query"], row["choices"], row["gold"])
    scene = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return Item(without_marks(scene), [without_marks(ending) for ending in row["endings"]], int(row["label"]))


def without_marks(text: str) -> str:
    """HellaSwag's texts without the marks of WikiHow: "[title] Cut it [step] Take..." """
    text = text.strip().replace(" [title]", ". ")
    text = re.sub(r"\[.*?\]", "", text)
    return text.replace("  ", " ")


@task("winogrande", hub="allenai/winogrande", config="winogrande_xl", split="validation", shots="train")
def winogrande(row: Row) -> Item:
    """Whom a sentence means (Sakaguchi et al. 2019, arXiv 1907.10641): "The cup did not fit, for the _ was small."

    The sentence's end is scored after each of the two names (Trinh and Le 2018, arXiv 1806.02847, partial scoring).
    """
    before, _, after = row["sentence"].partition("_")
    choices = [before + row["option1"], before + row["option2"]]
    return Item("", choices, numbered(["1", "2"], row["answer"]), ending=after.strip())


@task("openbookqa", hub="allenai/openbookqa", config="main", split="test", shots="train", headline="acc_norm")
def openbookqa(row: Row) -> Item:
    """Elementary science that needs a second fact (Mihaylov et al. 2018, arXiv 1809.02789)."""
    if "query" in row:
        return Item(row["query"], row["choices"], row["gold"])
    return Item(row["question_stem"], row["choices"]["text"], numbered(row["choices"]["label"], row["answerKey"]))


@task("commonsense_qa", hub="tau/commonsense_qa", split="validation", shots="train")
def commonsense_qa(row: Row) -> Item:
    """What everybody knows (Talmor et al. 2019, arXiv 1811.00937); the choices are listed, the letters are scored."""
    listed = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDE", row["choices"]["text"], strict=True))
    question = f"Question: {row['question'].strip()}\n{listed}\nAnswer:"
    return Item(question, list("ABCDE"), numbered(list("ABCDE"), row["answerKey"]))


@task("copa", hub="aps/super_glue", config="copa", split="validation", shots="train")
def copa(row: Row) -> Item:
    """Cause or effect (Roemmele et al. 2011): "The man fell therefore" ...

    In the harness a choice begins with a space after the usual one: so it does here.
    """
    if "query" in row:
        context = row["query"].replace(", therefore", " therefore").replace(", because", " because")
        choices = row["choices"]
        answer = row["gold"]
    else:
        word = {"cause": "because", "effect": "therefore"}[row["question"]]
        context = f"{row['premise'].strip()[:-1]} {word}"
        choices = [row["choice1"], row["choice2"]]
        answer = row["label"]
    return Item(context, [f" {choice[0].lower()}{choice[1:]}" for choice in choices], answer)


@task("lambada_openai", hub="EleutherAI/lambada_openai", config="default", split="test")
def lambada(row: Row) -> Item:
    """The last word of a passage (Paperno et al. 2016, arXiv 1606.06031), in OpenAI's text of it.

    In the harness the word brings its space along, and examples have the usual one before it: so it is here.
    """
    if "continuation" in row:
        context, last_word = row["context"], row["continuation"]
    else:
        context, _, last_word = row["text"].rpartition(" ")
    return Item(context, [f" {last_word}"], gap="")


@task("blimp", hub="nyu-mll/blimp", split="train", is_family=True)
def blimp(row: Row) -> Item:
    """A sentence and a wrong one that differs little (Warstadt et al. 2020, arXiv 1912.00582): 67 sets."""
    return Item("", [row["sentence_good"], row["sentence_bad"]])
