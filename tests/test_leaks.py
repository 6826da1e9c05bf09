"""leaks.py against a slow search word by word: corpora of text and of conversations, files, interruptions."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_rows
from test_against import some_words

import configurator
import leaks
import prepare_chat
import prepare_wiki
from corpus import sketches, sources
from corpus.decontaminate import plain_words
from leaks import LeaksConfig
from shards import Shards
from tasks.against import Against
from tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("no_plot")

CHINESE = "机器学习是人工智能的一个分支它研究如何从数据中学习"


@pytest.fixture(scope="module")
def task_dir(tmp_path_factory) -> Path:
    """A task with long and short items, Chinese ones, two that share words; and a set of short sentences."""
    folder = tmp_path_factory.mktemp("eval")
    lengths = [20, 12, 30, 5, 16, 9, 25, 8, 18, 22, 19, 17]
    rows = []
    for number, length in enumerate(lengths):
        question = some_words(f"question {number}", length)
        rows.append({"query": f"Question: {question}?", "choices": ["no", some_words(f"{number}", 3)], "gold": 1})
    rows.append({"query": f"Question: {CHINESE}？", "choices": ["对", "不对"], "gold": 0})
    rows.append({"query": f"Question: {some_words('question 0', 20)}?", "choices": ["yes", "no"], "gold": 0})
    write_rows(folder / "arc_easy.jsonl", rows)
    sentences = [{"sentence_good": some_words(f"good {i}", 4 + i), "sentence_bad": "no"} for i in range(8)]
    write_rows(folder / "blimp/passive_1.jsonl", sentences)
    return folder


def made_documents(task_dir: Path) -> dict[str, str]:
    """Texts of which some hold items: whole, in part, twice, in capitals, with other punctuation, or nearly."""
    draw = random.Random(1)
    items = [text for each in read_against(task_dir).texts() for text in each.texts.values()]
    texts = {}
    for number in range(60):
        pieces = [some_words(f"document {number}", 30)]
        for _ in range(draw.choice([0, 0, 1, 1, 2, 3])):
            words = draw.choice(items).split()
            begin = draw.choice([0, 0, draw.randrange(len(words))])
            piece = " ".join(words[begin : draw.choice([len(words), draw.randint(begin, len(words))])])
            changed = piece.replace(" ", draw.choice([", ", " — ", " the ", " "]), 3)
            pieces += [draw.choice([piece, piece.upper(), changed]), some_words(f"between {number}", 5)]
        texts[f"id {number}"] = "\n".join(pieces)
    return texts


def read_against(task_dir: Path) -> Against:
    return Against.read("arc_easy,blimp", str(task_dir))


def slow_search(task_dir: Path, documents: dict[str, str]) -> list[dict]:
    """All pairs, by sets of tuples of words, document by document."""
    tasks = []
    for each in read_against(task_dir).texts():
        words = {item: plain_words(text).decode().split() for item, text in each.texts.items()}
        n = int(np.clip(np.percentile([len(of_item) for of_item in words.values()], 5), 8, 13))
        tasks.append((each.name, n, words))

    found = []
    for name, text in documents.items():
        words = plain_words(text).decode().split()
        of_document = []
        for task, n, items in tasks:
            grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            for item, item_words in items.items():
                wanted = {tuple(item_words[i : i + n]) for i in range(len(item_words) - n + 1)}
                held = wanted & set(grams)
                if held:
                    run = longest_run([gram in wanted for gram in grams])
                    shown = " ".join(words[run[0] : run[1] + n - 1])
                    counts = {"n": n, "held": len(held), "ngrams": len(wanted)}
                    of_document.append({"task": task, "item": item, "document": name, **counts, "words": shown})
        found += sorted(of_document, key=lambda leak: (leak["n"], leak["task"], leak["item"]))
    return found


def longest_run(flags: list[bool]) -> tuple[int, int]:
    """Where the first of the longest runs of True begins and ends."""
    best = (0, 0)
    for begin in range(len(flags)):
        end = begin
        while end < len(flags) and flags[end]:
            end += 1
        best = max(best, (begin, end), key=lambda run: run[1] - run[0])
    return best


def run(task_dir: Path, corpus: str | Path, out: Path, **settings) -> tuple[list[dict], dict]:
    """leaks.py in this process; returns its lines and leaks.json."""
    settings = {"tasks": "arc_easy,blimp", "task_dir": str(task_dir), "num_workers": 1} | settings
    leaks.main(LeaksConfig(str(corpus), out_dir=str(out), **settings))
    lines = (out / "leaks.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines], json.loads((out / "leaks.json").read_text())


def prepare(folder: Path, documents: dict[str, str], **settings) -> Path:
    """A finished corpus of several shards."""
    write_rows(folder / "in.jsonl", [{"id": name, "text": text} for name, text in documents.items()])
    settings |= {"source": f"{folder}/in.jsonl", "data_dir": f"{folder}/data", "vocab_size": 290, "num_workers": 1}
    cfg = prepare_wiki.PrepareConfig(**settings, val_fraction=0.3, shard_tokens=4000, clean=False, yardsticks=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PART_BYTES", 2000)
        prepare_wiki.main(cfg)
    return folder / "data"


@pytest.fixture(scope="module")
def corpus(task_dir, tmp_path_factory, no_plot) -> Path:
    return prepare(tmp_path_factory.mktemp("corpus"), made_documents(task_dir))


def decoded(folder: Path) -> dict[str, str]:
    """{"train#0": text}: the documents of a corpus, from all its tokens at once."""
    tokenizer = Tokenizer.load(folder)
    texts = {}
    for split in ("train", "val"):
        ids = Shards(folder, split).all()
        documents = np.split(ids, np.flatnonzero(ids == tokenizer.end_of_text) + 1)[:-1]
        texts |= {f"{split}#{i}": tokenizer.decode(ids[:-1].tolist()) for i, ids in enumerate(documents)}
    return texts


# --- what is found ---


@pytest.mark.parametrize("block_tokens", [37, 1500, 1 << 20])
def test_a_corpus_holds_what_a_slow_search_finds(task_dir, corpus, tmp_path, monkeypatch, block_tokens):
    monkeypatch.setattr(leaks, "BLOCK_TOKENS", block_tokens)
    monkeypatch.setattr(sketches, "BATCH_CHARS", 700)
    texts = decoded(corpus)
    assert len(Shards(corpus, "train").sizes) > 1
    assert sorted(texts.values()) == sorted(made_documents(task_dir).values())
    expected = slow_search(task_dir, texts)
    found, report = run(task_dir, corpus, tmp_path / "out")
    assert found == expected

    assert len(expected) > 30 and {leak["document"].partition("#")[0] for leak in expected} == {"train", "val"}
    assert any("机" in leak["words"] for leak in expected)
    assert report["documents"] == 60
    arc, passive = report["tasks"]
    assert (arc["n"], arc["too_short"]) == (9, 1) and (passive["n"], passive["too_short"]) == (8, 4)
    assert 0 < arc["all"] < arc["half"] < arc["found"]
    for of_task in report["tasks"]:
        pairs = [leak for leak in expected if leak["task"] == of_task["task"]]
        shares = {}
        for leak in pairs:
            shares[leak["item"]] = max(leak["held"] / leak["ngrams"], shares.get(leak["item"], 0))
        assert of_task["found"] == len(shares)
        assert of_task["half"] == sum(share >= 0.5 for share in shares.values())
        assert of_task["all"] == sum(share == 1 for share in shares.values())
        assert of_task["documents"] == len({leak["document"] for leak in pairs})
        strongest = [leak["held"] / leak["ngrams"] for leak in of_task["strongest"]]
        assert strongest == sorted(shares.values(), reverse=True)
        assert all(leak in pairs for leak in of_task["strongest"])


def test_files_hold_what_a_slow_search_finds(task_dir, tmp_path, monkeypatch):
    """Long files in blocks, documents with ids and without; and two processes find the same."""
    monkeypatch.setattr(sources, "PART_BYTES", 2000)
    texts = made_documents(task_dir)
    rows = [{"id": name, "body": text} for name, text in texts.items()]
    write_rows(tmp_path / "in/a.jsonl", rows[:30])
    write_rows(tmp_path / "in/b.jsonl", rows[30:])
    settings = {"corpus": f"{tmp_path}/in/*.jsonl", "text_column": "body"}
    found, _ = run(task_dir, out=tmp_path / "out", **settings)
    assert found == slow_search(task_dir, texts)
    assert run(task_dir, out=tmp_path / "two", **settings, num_workers=2)[0] == found

    (tmp_path / "text.txt").write_text(texts[found[0]["document"]])
    (leak, *_), _ = run(task_dir, tmp_path / "text.txt", tmp_path / "text")
    assert leak["document"].startswith("text.txt#0-") and leak["words"] == found[0]["words"]


def test_conversations_hold_items_too(task_dir, tmp_path):
    """The two splits; an item of which the question is asked and the answer given, and one in an answer."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/tokenizer.json").write_text(prepare_wiki.train_bpe(made_documents(task_dir).values(), 290))
    items = json.loads("[" + ",".join((task_dir / "arc_easy.jsonl").read_text().split("\n")[:3]) + "]")
    questions = [item["query"].removeprefix("Question: ") for item in items]
    turns = [(some_words(f"asked {i}", 12), some_words(f"answered {i}", 12)) for i in range(20)]
    turns[3] = (questions[0], items[0]["choices"][1])
    turns[11] = (turns[11][0], f"You ask: {questions[2]}")
    write_rows(tmp_path / "in.jsonl", [{"instruction": a, "output": b, "input": ""} for a, b in turns])
    settings = {"source": f"{tmp_path}/in.jsonl", "data_dir": f"{tmp_path}/chat", "tokenizer": f"{tmp_path}/model"}
    prepare_chat.main(prepare_chat.ChatConfig(**settings, val_fraction=0.5, num_workers=1))

    shown = {}
    for split in ("train", "val"):
        conversations = prepare_chat.Conversations(tmp_path / "chat", split)
        tokenizer = Tokenizer.load(tmp_path / "chat")
        for number in range(len(conversations)):
            shown[f"{split}#{number}"] = tokenizer.decode(conversations.read(number)[0].tolist())
    expected = [(item, name) for name, text in shown.items() for item in (0, 2) if questions[item] in text]
    found, report = run(task_dir, tmp_path / "chat", tmp_path / "out")
    assert [(leak["item"], leak["document"]) for leak in found if leak["item"] != 13] == expected  # 13 asks as 0
    assert len(expected) == 2
    assert report["documents"] == 20


def test_a_corpus_that_was_made_against_a_task_holds_none_of_its_items(task_dir, corpus, tmp_path):
    found, _ = run(task_dir, corpus, tmp_path / "before")
    settings = {"against": "arc_easy,blimp", "task_dir": str(task_dir)}
    clean = prepare(tmp_path, made_documents(task_dir), **settings)
    after, report = run(task_dir, clean, tmp_path / "after")
    assert after == [] and report["documents"] == 60 - len({leak["document"] for leak in found})
    assert [of_task["found"] for of_task in report["tasks"]] == [0, 0]


# --- interrupted, and again ---


def test_an_interrupted_run_goes_on_where_it_was(task_dir, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(leaks, "BLOCK_TOKENS", 1000)
    run(task_dir, corpus, tmp_path / "whole")
    real = leaks.look_at
    looked = []

    def interrupted(*arguments):
        if len(looked) == 4:
            raise KeyboardInterrupt
        looked.append(1)
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(leaks, "look_at", interrupted)
        run(task_dir, corpus, tmp_path / "out")
    assert not (tmp_path / "out/leaks.json").exists()

    monkeypatch.setattr(leaks, "look_at", lambda *arguments: looked.append(1) or real(*arguments))
    run(task_dir, corpus, tmp_path / "out")
    n_parts = sum(1 for split in ("train", "val") for _ in Shards(corpus, split).blocks(1000))
    assert len(looked) == n_parts > 8
    for name in ("leaks.jsonl", "leaks.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["leaks.json", "leaks.jsonl"]

    capsys.readouterr()
    run(task_dir, corpus, tmp_path / "out")
    assert len(looked) == n_parts and "looked for before" in capsys.readouterr().out
    other, _ = run(task_dir, corpus, tmp_path / "out", tasks="blimp")
    assert len(looked) == 2 * n_parts and {leak["task"] for leak in other} == {"blimp_passive_1"}


def test_what_is_printed(task_dir, corpus, tmp_path, capsys):
    found, report = run(task_dir, corpus, tmp_path / "out", show=1)
    said = capsys.readouterr().out
    strongest = report["tasks"][0]["strongest"][0]
    assert f"arc_easy, item {strongest['item']}, in {strongest['document']}: " in said
    assert said.count(", item ") == 2
    assert "too short: items of fewer than N words, which are not looked for" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tasks=arc_easy", "--corpus names nothing to look through"),
        ("--corpus={data}", "--tasks names no task"),
        ("--corpus={data} --tasks=,", "--tasks names no task and no file; try --tasks='eval/*.jsonl'"),
        ("--corpus={data} --tasks=arc_esy --task_dir={eval}", "no task is called 'arc_esy'; did you mean 'arc_easy'?"),
        ("--corpus={data} --tasks=piqa --task_dir={eval}", "has no file for piqa"),
        ("--corpus={dir}/none --tasks=arc_easy --task_dir={eval}", "none: no such file"),
        (
            "--corpus={dir}/begun --tasks=arc_easy --task_dir={eval}",
            "complete it with: python prepare_wiki.py --x",
        ),
        (
            "--corpus={dir}/bare --tasks=arc_easy --task_dir={eval}",
            "bare has no tokenizer.json: its ids cannot",
        ),
        (
            "--corpus={eval}/*.jsonl --tasks=arc_easy --task_dir={eval}",
            "row 0 has no 'text' (keys: choices,",
        ),
        ("--corpus={data} --tasks=arc_easy --num_workers=0", "num_workers (0) must be at least 1"),
        ("--corpus={data} --tasks=arc_easy --show=-1", "show (-1) must be at least 0"),
    ],
)
def test_mistakes_are_one_line(task_dir, corpus, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/manifest.json").write_text('{"command": "python prepare_wiki.py --x"}')
    (tmp_path / "bare").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"bare/{split}.bin").write_bytes(bytes(20))
    flags = arguments.format(data=corpus, eval=task_dir, dir=tmp_path).split()
    monkeypatch.setattr(sys, "argv", ["leaks.py", f"--out_dir={tmp_path}/out", *flags])
    with pytest.raises(SystemExit) as stopped:
        configurator.run(leaks.main, LeaksConfig, show=False)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
