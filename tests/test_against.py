"""tasks/against.py: what --against looks for is what evaluate.py reads, in all layouts; and the data jobs drop it."""

import dataclasses
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import write_documents, write_rows

import dedup
import prepare_chat
import prepare_wiki
from corpus.documents import read_documents
from dedup import DedupConfig, find_duplicates
from tasks.against import Against

pytestmark = pytest.mark.usefixtures("no_plot")


def some_words(seed: str, count: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(count))


def texts_of(against: str, task_dir: Path | None = None) -> dict[str, dict[int, str]]:
    """{name: {number: text}}, with one space for any whitespace."""
    found = Against.read(against, None if task_dir is None else str(task_dir)).texts()
    return {each.name: {k: " ".join(text.split()) for k, text in each.texts.items()} for each in found}


# --- what is looked for ---

ROWS = {
    "arc_easy": [
        {"query": "Question: Why is it so?", "choices": ["x", "It is."], "gold": 1},  # of llm-foundry
        {"question": "Who?", "choices": {"text": ["He.", "She."], "label": ["A", "B"]}, "answerKey": "A"},  # of the hub
    ],
    "piqa": [{"goal": "Peel it", "sol1": "with a knife", "sol2": "with a spoon", "label": 0}],
    "hellaswag": [
        {
            "activity_label": "Pie",
            "ctx_a": "He [title] cuts.",
            "ctx_b": "then he",
            "endings": ["x", "eats."],
            "label": "1",
        }
    ],
    "winogrande": [{"sentence": "The _ is hot.", "option1": "tea", "option2": "ice", "answer": "1"}],
    "lambada_openai": [{"text": "I love you"}, {"context": "I hate", "continuation": "him"}],
    "blimp/passive_1": [{"sentence_good": "It was eaten.", "sentence_bad": "It was smiled.", "UID": "passive_1"}],
    "mmlu/anatomy": [{"question": "What beats?", "choices": ["lung", "heart", "eye", "ear"], "answer": 1}],
}
TEXTS = {
    "arc_easy": ["Why is it so? It is.", "Who? He."],
    "piqa": ["Peel it with a knife"],
    "hellaswag": ["Pie: He. cuts. Then he eats."],
    "winogrande": ["The tea is hot."],
    "lambada_openai": ["I love you", "I hate him"],
    "blimp_passive_1": ["It was eaten."],
    "mmlu_anatomy": ["What beats? A. lung B. heart C. eye D. ear B"],
}


@pytest.fixture
def task_dir(tmp_path) -> Path:
    for name, rows in ROWS.items():
        write_rows(tmp_path / f"eval/{name}.jsonl", rows)
    return tmp_path / "eval"


def test_a_text_is_the_question_with_the_right_answer_in_all_layouts(task_dir):
    names = "arc_easy,piqa,hellaswag,winogrande,lambada_openai,blimp,mmlu_anatomy"
    expected = {name: dict(enumerate(texts)) for name, texts in TEXTS.items()}
    assert texts_of(names, task_dir) == expected


def test_core_is_its_tasks(task_dir):
    found = texts_of("core", task_dir)
    assert found["core_piqa"] == dict(enumerate(TEXTS["piqa"])) and found["core_lambada_openai"][1] == "I hate him"
    assert "core_arc_easy" in found and "core_squad" not in found


def test_files_and_tasks_may_be_named_together(task_dir, tmp_path):
    """A row of a file is all its strings; its number counts blank lines, as messages about the file do."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a, b.jsonl").write_text('{"q": "Why?", "n": 1, "a": ["So", "No"]}\n\n{"q": "Who?"}\n')
    own = {"a, b.jsonl": {0: "Why? So No", 2: "Who?"}}
    assert texts_of(f"{tmp_path}/own/*.jsonl, piqa", task_dir) == {"piqa": {0: TEXTS["piqa"][0]}} | own
    assert texts_of(f"{tmp_path}/own/a, b.jsonl") == own


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("arc_esy", "no task is called 'arc_esy'; did you mean 'arc_easy'?"),
        ("copa", "has no file for copa, such as copa.jsonl"),
        ("", "--against names no task and no file"),
        ("{dir}/none/*.jsonl", "none/*.jsonl: no such file"),
        ("{dir}/piqa.jsonl", "holds files of tasks, but no task is named, only"),
        ("{dir}", "is a folder; give a quoted pattern of its files"),
    ],
)
def test_what_is_not_there_is_one_line(task_dir, against, message):
    with pytest.raises(ValueError) as error:
        Against.read(against.format(dir=task_dir), str(task_dir))
    assert message in str(error.value) and "\n" not in str(error.value)


# --- in the data jobs ---


@pytest.fixture
def leaky(tmp_path) -> Path:
    """Four documents, of which "leak" holds a question with its right answer, "wrong" another with a wrong one."""
    right, wrong = some_words("right", 5), some_words("wrong", 5)
    asked = [some_words(f"question {i}", 10) for i in range(2)]
    rows = [{"query": f"Question: {question}?", "choices": [right, wrong], "gold": 0} for question in asked]
    write_rows(tmp_path / "eval/arc_easy.jsonl", rows)
    documents = {
        "leak": f"{some_words('a', 60)} {asked[0]}? {right}. {some_words('b', 60)}",
        "wrong": f"{some_words('c', 60)} {asked[1]}? {wrong}. {some_words('d', 60)}",
    }
    documents |= {f"clean {i}": some_words(f"clean {i}", 120) for i in range(20)}
    write_documents(tmp_path / "in.parquet", documents)
    return tmp_path


def test_dedup_drops_documents_with_an_item_of_a_task(leaky, capsys):
    cfg = DedupConfig(f"{leaky}/in.parquet", f"{leaky}/out", against="arc_easy", task_dir=f"{leaky}/eval")
    dedup.main(cfg)
    (row,) = pq.read_table(leaky / "out/duplicates.parquet").to_pylist()
    assert row == {"id": "leak", "kept_id": "arc_easy#0", "similarity": 1.0, "kind": "against"}
    report = json.loads((leaky / "out/report.json").read_text())
    assert report["evaluation"] == [{"file": "arc_easy", "n": 13, "texts": 2, "too_short": 0}]


def test_prepare_wiki_drops_them_and_keeps_to_its_tasks(leaky):
    settings = {"source": f"{leaky}/in.parquet", "data_dir": f"{leaky}/data", "vocab_size": 280, "num_workers": 1}
    settings |= {"val_fraction": 0.2, "yardsticks": False, "against": "arc_easy"}
    cfg = prepare_wiki.PrepareConfig(**settings, task_dir=f"{leaky}/eval", until="dedup")
    prepare_wiki.main(cfg)
    gone = [document_id for (document_id,) in read_documents(leaky / "data/dedup/duplicates.parquet", ("id",))]
    assert gone == ["leak"]
    (leaky / "eval").rename(leaky / "other")
    with pytest.raises(ValueError, match="was begun with task_dir="):
        prepare_wiki.main(prepare_wiki.PrepareConfig(**settings, task_dir=f"{leaky}/other"))


def test_prepare_chat_drops_conversations_with_an_item(leaky, tmp_path):
    (tmp_path / "model").mkdir()
    text = [some_words(f"{i}", 50) for i in range(20)]
    (tmp_path / "model/tokenizer.json").write_text(prepare_wiki.train_bpe(text, 280))
    question, answer = some_words("question 0", 10), some_words("right", 5)
    turns = [(f"{some_words('e', 3)} {question}", answer), *((text[i], text[i + 10]) for i in range(10))]
    rows = [{"instruction": asked, "input": "", "output": written} for asked, written in turns]
    source = write_rows(tmp_path / "chat.jsonl", rows)

    settings = {"source": str(source), "data_dir": f"{tmp_path}/chat", "tokenizer": f"{tmp_path}/model"}
    settings |= {"against": "arc_easy", "task_dir": f"{tmp_path}/eval", "val_fraction": 0.3, "num_workers": 1}
    prepare_chat.main(prepare_chat.ChatConfig(**settings))
    (row,) = pq.read_table(tmp_path / "chat/dedup/duplicates.parquet").to_pylist()
    assert (row["kept_id"], row["kind"]) == ("arc_easy#0", "against")


@pytest.mark.parametrize("run", [prepare_wiki.PrepareConfig, prepare_chat.ChatConfig])
def test_a_task_that_is_not_there_is_said_before_anything_is_read(leaky, run):
    settings = {"tokenizer": f"{leaky}/none"} if run is prepare_chat.ChatConfig else {}
    cfg = run(
        source=f"{leaky}/in.parquet", data_dir=f"{leaky}/data", against="piqa", task_dir=f"{leaky}/eval", **settings
    )
    with pytest.raises(ValueError, match="has no file for piqa"):
        cfg.check()
    with pytest.raises(ValueError, match="holds files of tasks, but --against names no task"):
        dataclasses.replace(cfg, against=None).check()


def test_another_file_of_a_task_begins_the_work_anew(leaky, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    asked = ([leaky / "in.parquet"], leaky / "out", 0.7, 1, "arc_easy", f"{leaky}/eval")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dedup, "select", interrupt)
        find_duplicates(*asked)
    assert (leaky / "out/work/part_00000.npy").is_file()
    rows = [{"query": some_words("clean 3", 20), "choices": ["a", "b"], "gold": 0}]
    write_rows(leaky / "eval/arc_easy.jsonl", rows)
    find_duplicates(*asked)
    assert pq.read_table(leaky / "out/duplicates.parquet")["id"].to_pylist() == ["clean 3"]
