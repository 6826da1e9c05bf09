"""Instruction data to shards: nothing lost, nothing twice, the right tokens scored, the same bytes after any kill."""

import csv
import dataclasses
import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPO, SHARED
from test_chat_template import FAMILIES, with_tokens, without_markers, write_folder
from test_prepare_wiki import sentence, tree
from tokenizer_kinds import made
from tokenizers import ByteLevelBPETokenizer

import configurator
import prepare_chat
import tokenizer
from chat_shards import Conversations
from chat_template import ChatTemplate
from corpus import sources
from corpus.conversations import REASONS
from prepare_chat import SPLITS, ChatConfig, main
from shards import read_meta, verify

pytestmark = pytest.mark.usefixtures("no_plot")
PART_BYTES = 3000
SETTINGS = {"val_fraction": 0.2, "max_tokens": 600, "num_workers": 1}
TEMPLATE = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Each file gives a few parts, and the manifest's command is the same in every test."""
    monkeypatch.setattr(sources, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(sys, "argv", ["prepare_chat.py"])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder with a tokenizer of 300 ids and ChatML as its template."""
    folder = tmp_path_factory.mktemp("model")
    text = [sentence(random.Random(k), 50) for k in range(20)]
    (folder / "tokenizer.json").write_text(tokenizer.train_bpe(text, 300))
    for name, content in ChatTemplate.load(folder).files().items():
        (folder / name).write_bytes(content)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def turns(*texts: str) -> list[dict]:
    """Messages of user, assistant, user, assistant ..."""
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def as_sharegpt(messages: list[dict]) -> dict:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in messages]}


def as_alpaca(messages: list[dict]) -> dict:
    """One question of two lines and one answer."""
    instruction, _, more = messages[0]["content"].partition("\n\n")
    return {"instruction": instruction, "input": more, "output": messages[1]["content"]}


def make_corpus(folder: Path) -> list[list[dict]]:
    """Three files, one of each format, with planted duplicates and rows to drop; returns what should be kept."""
    draw = random.Random(0)

    def words(count: int) -> str:
        return sentence(draw, count)

    alpaca = [turns(f"{words(8)}\n\n{words(5)}", words(20)) for _ in range(20)]
    alpaca.append(turns("说出彩虹的颜色。\n\n请用中文。", "红、橙、黄、绿、蓝、靛、紫。"))
    sharegpt = [turns(words(6), words(12), words(5), words(9)) for _ in range(20)]
    openai = [[{"role": "system", "content": words(30)}, *turns(words(9), words(9))] for _ in range(3)]
    same_system = {"role": "system", "content": words(120)}
    openai += [[same_system, *turns(f"{k} plus {k}?", f"It is {2 * k}.")] for k in range(6)]
    openai.append(turns("What does <|im_end|> mean?", "It ends a turn: <|im_end|> and so on.\n\n\n  code"))

    near = [messages[:-1] + turns("", messages[-1]["content"].rpartition(" ")[0])[1:] for messages in sharegpt[:4]]
    exact = sharegpt[5:8]
    dropped = {
        "empty_answer": turns("Well?", " "),
        "wrong_order": turns("Well?", "Yes.", "Why?", "So.")[::-1],
        "unanswered": turns("Well?", "Yes.", "Why?"),
        "no_answer": turns("Well?"),
        "too_long": turns("Well?", words(600)),
        "not_in_template": [*turns("Now?", "Let me see."), {"role": "tool", "content": "12:00"}, turns("", "Noon.")[1]],
    }
    rows = [[as_alpaca(m) for m in alpaca], [as_sharegpt(m) for m in [*sharegpt, *near, *exact]]]
    rows.append([{"messages": m} for m in [*openai, *dropped.values()]])
    rows[1] += [{"conversations": [{"from": "critic", "value": "Bad."}]}, {"text": "no conversation"}]

    folder.mkdir(parents=True)
    for name, of_file in zip(("a.json", "b.jsonl", "c.jsonl"), rows, strict=True):
        draw.shuffle(of_file)
        text = json.dumps(of_file) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in of_file)
        (folder / name).write_text(text)
    return [*alpaca, *sharegpt, *openai]


PLANTED = {"exact": 3, "near": 4}
DROPPED = {"empty_answer", "wrong_order", "unanswered", "no_answer", "too_long", "not_in_template"}
DROPPED |= {"unknown_role", "unknown_format"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, list[list[dict]]]:
    """(--source, the conversations that should be kept)."""
    folder = tmp_path_factory.mktemp("corpus") / "rows"
    kept = make_corpus(folder)
    return f"{folder}/*", kept


@pytest.fixture(scope="module")
def template_without_tools(model, tmp_path_factory) -> Path:
    """The model's folder with a template that leaves out what tools say."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("plain") / "model")
    quiet = TEMPLATE.replace("{% for message in messages %}", "{% for message in messages if message.role != 'tool' %}")
    (folder / "chat_template.jinja").write_text(quiet)
    return folder


def prepare(source: str | Path, model: Path, out: Path, **settings) -> Path:
    main(ChatConfig(source=str(source), data_dir=str(out), tokenizer=str(model), **(SETTINGS | settings)))
    return out


@pytest.fixture(scope="module")
def finished_once(corpus, template_without_tools, tmp_path_factory) -> Path:
    """A finished folder, which no test may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PART_BYTES", PART_BYTES)
        patch.setattr(sys, "argv", ["prepare_chat.py"])
        return prepare(corpus[0], template_without_tools, tmp_path_factory.mktemp("finished") / "data")


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A finished folder of the test's own."""
    return shutil.copytree(finished_once, tmp_path / "data")


def read_all(folder: Path, split: str) -> list[tuple[list[int], list[bool]]]:
    """(ids, scored) of every conversation of a split."""
    conversations = Conversations(folder, split)
    read = [conversations.read(number) for number in range(len(conversations))]
    return [(ids.tolist(), scored.tolist()) for ids, scored in read]


def by_hand(folder: Path, messages: list[dict], train_on: str = "assistant") -> tuple[list[int], list[bool]]:
    """The ids of a conversation in ChatML and what is scored, put together turn by turn."""
    encode = tokenizer.Tokenizer.load(folder).encode
    start, end = (tokenizer.Tokenizer.load(folder).hf.token_to_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    ids: list[int] = []
    scored: list[bool] = []
    last = len(messages) - 1
    for number, message in enumerate(messages):
        header = [start, *encode(message["role"] + "\n")]
        content = [*encode(message["content"]), end]
        newline = encode("\n")
        is_scored = message["role"] == "assistant" and (train_on != "last" or number == last)
        ids += header + content + newline
        scored += [False] * len(header) + [is_scored] * len(content) + [False] * len(newline)
    return ids, [True] * len(ids) if train_on == "all" else scored


def refusal(source: str | Path, model: str | Path, out: Path, **settings) -> str:
    """The one-line message that these settings are refused with; the folder is as complete as it was."""
    was_complete = (out / "meta.json").is_file()
    with pytest.raises((ValueError, OSError)) as error:
        prepare(source, model, out, **settings)
    assert "\n" not in str(error.value)
    assert (out / "meta.json").is_file() == was_complete
    return str(error.value)


# --- what is written ---


def test_every_kept_conversation_is_there_once_with_its_ids_and_scores(corpus, finished):
    found = [read_all(finished, split) for split in SPLITS]
    expected = [by_hand(finished, messages) for messages in corpus[1]]
    assert sorted(found[0] + found[1]) == sorted(expected)
    assert found[0] and found[1]


def test_counts_add_up_and_each_reason_has_an_example(corpus, finished):
    report, meta = (json.loads((finished / name).read_text()) for name in ("report.json", "meta.json"))
    counts, duplicates = report["conversations"], report["duplicates"]
    assert {reason for reason in REASONS if counts[reason]} == DROPPED == report["dropped"].keys()
    assert all(counts[reason] == len(report["dropped"][reason]) == 1 for reason in DROPPED)
    assert report["dropped"]["unknown_role"][0][1:] == [
        "message 0 is of 'critic'",
        '{"conversations": [{"from": "critic", "value": "Bad."}]}',
    ]
    assert counts["in"] == counts["kept"] + len(DROPPED)
    assert counts["kept"] == counts["alpaca"] + counts["sharegpt"] + counts["openai"] == duplicates["documents"]
    assert (counts["alpaca"], counts["sharegpt"], counts["openai"]) == (21, 27, 10)
    assert {kind: duplicates[kind] for kind in PLANTED} == PLANTED and duplicates["kept"] == len(corpus[1])

    entries = [entry for split in meta["splits"].values() for entry in split]
    assert sum(entry["documents"] for entry in entries) == duplicates["kept"]
    assert sum(entry["bytes"] for entry in entries) == duplicates["bytes"] - duplicates["bytes_removed"]
    everything = [read_all(finished, split) for split in SPLITS]
    scores = [scored for split in everything for _, scored in split]
    assert sum(entry["scored_tokens"] for entry in entries) == sum(map(sum, scores))
    assert sum(entry["tokens"] for entry in entries) == sum(map(len, scores))
    assert report["lengths"]["longest"] == max(map(len, scores)) <= 600


def test_validation_is_a_hash_of_the_id(finished):
    rows = [row for path in sorted(finished.glob("conversations/*")) for row in pq.read_table(path).to_pylist()]
    ids_of = {row["id"]: np.frombuffer(row["ids"], "<u2").tolist() for row in rows}
    val = [ids for ids, _ in read_all(finished, "val")]
    removed = {row["id"] for row in pq.read_table(finished / "dedup/duplicates.parquet").to_pylist()}
    expected = []
    for row_id, ids in ids_of.items():
        hashed = int(hashlib.sha256(row_id.encode()).hexdigest()[:16], 16) / 2**64
        if row_id not in removed and hashed < 0.2:
            expected.append(ids)
    assert val == expected  # in the order of the source


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_what_is_scored_is_chosen(corpus, model, tmp_path, train_on):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in corpus[1]))
    out = prepare(tmp_path / "in.jsonl", model, tmp_path / "data", train_on=train_on, dedup_threshold=1.0)
    found = read_all(out, "train") + read_all(out, "val")
    assert sorted(found) == sorted(by_hand(out, messages, train_on) for messages in corpus[1])


def write_rows(path: Path, rows: list[dict]) -> None:
    """The rows in a file of the format that its name says."""
    if path.name == "a.json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        cells = [{key: v if isinstance(v, str) else json.dumps(v) for key, v in row.items()} for row in rows]
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(cells)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.csv"])
@pytest.mark.parametrize("form", ["openai", "sharegpt", "alpaca"])
def test_every_format_in_every_file_gives_the_same_tokens(model, tmp_path, name, form):
    conversations = [turns(f'Question {k}\n\nof, "two" lines', sentence(random.Random(k), 9)) for k in range(12)]
    row_of = {"openai": lambda messages: {"messages": messages}, "sharegpt": as_sharegpt, "alpaca": as_alpaca}[form]
    write_rows(tmp_path / name, [{"id": f"{k}", **row_of(m)} for k, m in enumerate(conversations)])
    out = prepare(tmp_path / name, model, tmp_path / "data")
    found = read_all(out, "train") + read_all(out, "val")
    assert sorted(found) == sorted(by_hand(out, messages) for messages in conversations)
    assert json.loads((out / "report.json").read_text())["conversations"][form] == 12


def test_shards_are_cut_between_conversations_and_hold_the_same(corpus, finished, template_without_tools, tmp_path):
    out = prepare(corpus[0], template_without_tools, tmp_path / "cut", shard_tokens=300)
    assert len(read_meta(out)["splits"]["train"]) >= 3 and verify(out) == []
    for split in SPLITS:
        assert read_all(out, split) == read_all(finished, split)


def test_the_folder_opens_as_the_template_that_made_it(finished, template_without_tools):
    given, own = ChatTemplate.load(template_without_tools), ChatTemplate.load(finished)
    assert (own.source, own.end_of_turn) == (given.source, given.end_of_turn)
    messages = turns("Who <|im_end|> are you?", "Nobody.")
    assert own.encode(messages) == given.encode(messages)
    meta = read_meta(finished)
    assert meta["kind"] == "chat" and meta["template"]["sha256"] == given.sha256
    assert meta["vocab_size"] == given.tokenizer.vocab_size == 300
    assert meta["tokenizer"]["sha256"] == hashlib.sha256((finished / "tokenizer.json").read_bytes()).hexdigest()


def test_a_base_model_gets_chatml_and_must_grow(corpus, model, tmp_path, capsys):
    """Its tokenizer has neither a template nor the two tokens."""
    (tmp_path / "base").mkdir()
    plain = ByteLevelBPETokenizer()
    text = [sentence(random.Random(k), 50) for k in range(20)]
    plain.train_from_iterator(text, vocab_size=290, special_tokens=[tokenizer.END_OF_TEXT], show_progress=False)
    plain.save(str(tmp_path / "base/tokenizer.json"))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in corpus[1]))
    out = prepare(tmp_path / "in.jsonl", tmp_path / "base", tmp_path / "data", max_tokens=None, dedup_threshold=1.0)
    found = read_all(out, "train") + read_all(out, "val")
    assert sorted(found) == sorted(by_hand(out, messages) for messages in corpus[1])
    assert f"train.py --init_from={tmp_path}/base gives the model rows" in capsys.readouterr().out
    prepare(tmp_path / "in.jsonl", model, tmp_path / "with template")
    assert "gives the model rows" not in capsys.readouterr().out


def test_conversations_that_hold_an_evaluation_are_dropped(corpus, model, tmp_path):
    question = corpus[1][0][1]["content"]
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": question}) + "\n")
    out = prepare(corpus[0], model, tmp_path / "data", against=f"{tmp_path}/eval.jsonl")
    (row,) = [r for r in pq.read_table(out / "dedup/duplicates.parquet").to_pylist() if r["kind"] == "against"]
    assert row["kept_id"] == "eval.jsonl#0"
    found = read_all(out, "train") + read_all(out, "val")
    assert by_hand(out, corpus[1][0]) not in found and by_hand(out, corpus[1][1]) in found


def test_text_is_not_read_as_conversations(data_dir):
    with pytest.raises(ValueError, match="holds text, not conversations; make some with: python prepare_chat.py"):
        Conversations(data_dir, "train")


# --- templates ---


def test_a_template_that_leaves_out_the_system_message_drops_what_has_one(corpus, model, tmp_path):
    """In silence it would be trained as if it had none."""
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        TEMPLATE.replace("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}")
    )
    out = prepare(corpus[0], folder, tmp_path / "data")
    report = json.loads((out / "report.json").read_text())
    assert report["conversations"]["not_in_template"] == 9
    assert report["dropped"]["not_in_template"][0][1] == "system"


def test_a_conversation_that_the_template_refuses_is_dropped_with_its_words(corpus, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('No system here') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refuse + TEMPLATE)
    out = prepare(corpus[0], folder, tmp_path / "data")
    report = json.loads((out / "report.json").read_text())
    assert report["conversations"]["template"] == 9
    assert "No system here" in report["dropped"]["template"][0][1]


def test_the_date_of_a_template_is_a_setting_and_not_today(corpus, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }} " + TEMPLATE)
    out = prepare(corpus[0], folder, tmp_path / "data", date="2024-07-26")
    ids, _ = read_all(out, "train")[0]
    assert tokenizer.Tokenizer.load(out).decode(ids).startswith("26 Jul 2024 ")


def test_tools_are_declared_by_the_template(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE)
    tools = [{"type": "function", "function": {"name": "add"}}]
    rows = [{"messages": turns(f"Question {k}", f"Answer {k}"), "tools": tools} for k in range(20)]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    out = prepare(tmp_path / "in.json", folder, tmp_path / "with", dedup_threshold=1.0)
    ids, _ = read_all(out, "train")[0]
    assert tokenizer.Tokenizer.load(out).decode(ids).startswith(json.dumps(tools))
    said = refusal(tmp_path / "in.json", model, tmp_path / "without")
    assert "no conversation left of 20 (20 not_in_template)" in said and "(tools)" in said


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_templates_keeps_conversations_of_several_turns(tmp_path, family):
    """With and without a system message; the ids are those of the template itself, the answers what is scored."""
    made_of = FAMILIES[family]
    tokenizer_json = with_tokens(made(made_of.kind), made_of.special)
    folder = write_folder(tmp_path / "model", tokenizer_json, without_markers(made_of.template), **made_of.names)
    conversations = [turns(f"Question {k}?", f"Answer {k}.", "And now?", f"All of {k}.") for k in range(20)]
    conversations += [[{"role": "system", "content": "Be brief."}, *turns(f"{k}?", f"{k}.")] for k in range(20)]
    (tmp_path / "in.json").write_text(json.dumps([{"messages": messages} for messages in conversations]))
    out = prepare(tmp_path / "in.json", folder, tmp_path / "data", dedup_threshold=1.0)

    template = ChatTemplate.load(folder)
    found = read_all(out, "train") + read_all(out, "val")
    assert sorted(ids for ids, _ in found) == sorted(template.encode(messages) for messages in conversations)
    ends = template.tokenizer.hf.id_to_token(template.end_of_turn)
    for ids, scored in found:
        text = prepare_chat.marked_text(template.tokenizer, np.array(ids), np.array(scored), ("⟦", "⟧"))
        answers = [run.partition("⟧")[0] for run in text.split("⟦")[1:]]
        assert all(answer.endswith(ends) for answer in answers)
        assert all(answer.removesuffix(ends).rstrip().endswith(".") for answer in answers)  # Llama 2 writes ". </s>"
        assert len(answers) == (1 if "Be brief." in text else 2)


# --- again, elsewhere, interrupted ---


def test_two_workers_write_the_bytes_of_one(corpus, template_without_tools, finished, tmp_path):
    assert tree(prepare(corpus[0], template_without_tools, tmp_path / "two", num_workers=2)) == tree(finished)


def test_a_second_run_of_a_complete_folder_changes_nothing(corpus, template_without_tools, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    prepare(corpus[0], template_without_tools, finished)
    assert f"{finished} is complete; delete it" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def interrupt_in(owner: object, name: str, call: int):
    """owner.name, which raises KeyboardInterrupt at its call number `call`."""
    real = getattr(owner, name)
    calls = 0

    def stop(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    return stop


STAGES = [  # what is interrupted, at which call, workers of the second run
    (prepare_chat, "make_conversations_part", 2, 2),
    (prepare_chat, "find_duplicates_once", 1, 1),
    (prepare_chat.ConversationWriter, "add", 20, 2),
    (prepare_chat, "lengths_report", 1, 1),
    (prepare_chat, "summary", 1, 1),
]


@pytest.mark.parametrize("owner, name, call, workers", STAGES)
def test_the_same_command_after_an_interrupt_gives_the_same_bytes(
    corpus, template_without_tools, finished_once, tmp_path, monkeypatch, owner, name, call, workers
):
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, interrupt_in(owner, name, call))
        prepare(corpus[0], template_without_tools, out, shard_tokens=500)
    assert not list(out.rglob("*.tmp"))
    if name != "summary":
        with pytest.raises(ValueError, match="unfinished; complete it with: python prepare_chat.py"):
            read_meta(out)
    done = {path: path.stat().st_mtime_ns for path in out.glob("conversations/*")}
    prepare(corpus[0], template_without_tools, out, shard_tokens=500, num_workers=workers)
    whole = prepare(corpus[0], template_without_tools, tmp_path / "whole", shard_tokens=500)
    assert tree(out) == tree(whole)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in done.items())


KILLER = """
import sys
from pathlib import Path
import killer, prepare_chat

source, model, base = sys.argv[1], sys.argv[2], Path(sys.argv[3])
sys.argv = ["prepare_chat.py"]
settings = dict(source=source, tokenizer=model, val_fraction=0.2, max_tokens=600, shard_tokens=1500, num_workers=1)


def run(out):
    prepare_chat.main(prepare_chat.ChatConfig(data_dir=str(out), **settings))


killer.kill_everywhere(run, base, part_bytes=3000)
"""


@pytest.mark.slow
def test_the_same_command_after_kill_9_gives_the_same_bytes(corpus, template_without_tools, tmp_path):
    """Killed before each rename, so with each file written aside once."""
    command = [sys.executable, "-c", KILLER, corpus[0], str(template_without_tools), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO}/tests", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    *problems, last = done.stdout.splitlines()
    assert problems == [] and int(last.removeprefix("kills ")) >= 20


def test_a_folder_is_locked_while_it_is_written(corpus, model, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_chat, "ORPHANS_S", 0)
    real, said = prepare_chat.make_shards, []

    def start_another(*args):
        if not said:
            said.append(refusal(corpus[0], model, tmp_path / "two"))
        return real(*args)

    monkeypatch.setattr(prepare_chat, "make_shards", start_another)
    prepare(corpus[0], model, tmp_path / "two")
    assert said == [f"another process is writing to {tmp_path}/two; stop it, or give another folder"]


# --- what is refused ---

OTHER = {  # another value of each setting that decides what is written
    "train_on": "all",
    "max_tokens": 599,
    "date": "2024-07-26",
    "id_column": "id",
    "dedup_threshold": 0.8,
    "against": str(REPO / "tests/mutants.json"),
    "val_fraction": 0.3,
    "split_by": "file",
    "shard_tokens": 1000,
}


def test_every_setting_is_fixed_in_a_complete_folder(corpus, template_without_tools, finished):
    free = {"source", "data_dir", "tokenizer", "num_workers", "allow_truncated", "show", "verify"}
    free |= {"task_dir"}  # only with tasks in --against: test_against.py
    assert OTHER.keys() == {field.name for field in dataclasses.fields(ChatConfig)} - free
    for key, value in OTHER.items():
        message = refusal(corpus[0], template_without_tools, finished, **{key: value})
        assert f"was begun with {key}=" in message and "delete" in message
    assert "was begun with tokenizer=" in refusal(corpus[0], finished, finished)


FIXED = {  # the stage that is interrupted: a setting that its predecessors fixed, one that may still change
    "make_conversations_part": (None, "train_on"),
    "find_duplicates_once": ("train_on", "dedup_threshold"),
    "make_shards": ("dedup_threshold", "val_fraction"),
    "lengths_report": ("max_tokens", "shard_tokens"),
}


@pytest.mark.parametrize("stage", FIXED)
def test_a_setting_is_fixed_by_the_first_file_that_depends_on_it(corpus, model, tmp_path, monkeypatch, stage):
    fixed, free = FIXED[stage]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_chat, stage, interrupt_in(prepare_chat, stage, 1))
        prepare(corpus[0], model, tmp_path / "data")
    if fixed:
        assert f"{fixed}=" in refusal(corpus[0], model, tmp_path / "data", **{fixed: OTHER[fixed]})
    again = prepare(corpus[0], model, tmp_path / "data", **{free: OTHER[free]})
    assert tree(again) == tree(prepare(corpus[0], model, tmp_path / "fresh", **{free: OTHER[free]}))


def test_shards_of_an_interrupted_call_do_not_stay(corpus, model, tmp_path, monkeypatch):
    """It had begun more of them than the next call needs."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_chat, "lengths_report", interrupt_in(prepare_chat, "lengths_report", 1))
        prepare(corpus[0], model, tmp_path / "data", shard_tokens=500)
    assert (tmp_path / "data/train_00001.bin").is_file()
    again = prepare(corpus[0], model, tmp_path / "data")
    assert tree(again) == tree(prepare(corpus[0], model, tmp_path / "fresh"))


def test_a_tokenizer_may_be_another_until_something_is_encoded(corpus, model, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_chat, "make_conversations_part", interrupt_in(prepare_chat, "make_conversations_part", 1))
        prepare(corpus[0], finished, tmp_path / "other")
    again = prepare(corpus[0], model, tmp_path / "other")
    assert ChatTemplate.load(again).source == TEMPLATE


def test_a_source_that_changes_while_it_is_read_is_refused(corpus, model, tmp_path, monkeypatch):
    folder = shutil.copytree(Path(corpus[0]).parent, tmp_path / "rows")
    real = prepare_chat.make_conversations_part

    def change(*args):
        (folder / "c.jsonl").write_text("")
        return real(*args)

    monkeypatch.setattr(prepare_chat, "make_conversations_part", change)
    message = refusal(f"{folder}/*", model, tmp_path / "data")
    assert message.startswith(f"{folder}/c.jsonl was overwritten while it was read")
    assert not list((tmp_path / "data").rglob("*.parquet"))


WRONG = {
    "no source": ({"source": ""}, "give --source"),
    "no tokenizer": ({"tokenizer": ""}, "give --tokenizer=..., the folder of the model"),
    "no such tokenizer": ({"tokenizer": "nowhere"}, "--tokenizer=nowhere: no such folder; give that of the model"),
    "no such file": ({"source": "nowhere/*.json"}, "nowhere/*.json: no such file"),
    "a text": ({"source": "{rows}/note.txt"}, "note.txt: txt files hold texts, not conversations; give .json"),
    "val_fraction": ({"val_fraction": 1.0}, "val_fraction (1.0) must lie between 0 and 1"),
    "max_tokens": ({"max_tokens": 1}, "max_tokens (1) must be at least 2"),
    "date": ({"date": "26 Jul 2024"}, "date (26 Jul 2024) must be written as 2026-01-31"),
    "threshold": ({"dedup_threshold": 70.0}, "70 % is 0.7"),
    "against": ({"against": "nowhere/*.jsonl"}, "nowhere/*.jsonl: no such file"),
    "shard_tokens": ({"shard_tokens": 0}, "shard_tokens (0) must be at least 1"),
    "workers": ({"num_workers": 0}, "num_workers (0) must be at least 1"),
    "show": ({"show": -1}, "show (-1) must be at least 0"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(corpus, model, tmp_path, kind):
    settings, words = WRONG[kind]
    (tmp_path / "note.txt").write_text("Some text.")
    given = {"source": corpus[0], "tokenizer": str(model), "data_dir": str(tmp_path / "data")} | settings
    given["source"] = given["source"].format(rows=tmp_path)
    with pytest.raises(ValueError) as error:
        main(ChatConfig(**(SETTINGS | given)))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_a_source_of_which_nothing_is_left_says_why_with_an_example(model, tmp_path):
    rows = [{"instruction": "Add.", "instances": []}] * 3 + [{"instruction": "Add.", "output": ""}]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    message = refusal(tmp_path / "in.json", model, tmp_path / "data")
    assert "no conversation left of 4 (3 unknown_format, 1 empty_answer)" in message
    assert message.endswith("the keys of the row are those of no format (keys: instances, instruction)")
    rows = [as_alpaca(turns(f"Question {k}", f"Answer {k}")) for k in range(20)]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    assert (prepare(tmp_path / "in.json", model, tmp_path / "data") / "meta.json").is_file()


def test_ids_of_the_rows_are_used_on_demand_and_must_be_unique(model, tmp_path):
    rows = [as_alpaca(turns(f"Question {k}", sentence(random.Random(k), 20))) | {"id": k} for k in range(20)]
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(rows))
    out = prepare(tmp_path / "a.json", model, tmp_path / "one", id_column="id")
    assert {row["id"] for row in pq.read_table(out / "conversations").to_pylist()} == {str(k) for k in range(20)}
    assert "two documents have the id '" in refusal(tmp_path / "*.json", model, tmp_path / "two", id_column="id")
    assert (prepare(tmp_path / "*.json", model, tmp_path / "three") / "meta.json").is_file()


def test_of_a_damaged_file_what_comes_before_is_kept_on_demand(model, tmp_path):
    rows = [as_alpaca(turns(f"Question {k}", sentence(random.Random(k), 20))) for k in range(50)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(lines)[:-600])
    message = refusal(tmp_path / "in.jsonl.gz", model, tmp_path / "data")
    assert "in.jsonl.gz: damaged near" in message and "--allow_truncated=True keeps" in message
    out = prepare(tmp_path / "in.jsonl.gz", model, tmp_path / "data", allow_truncated=True)
    report = json.loads((out / "report.json").read_text())
    assert report["conversations"]["damaged"] == 1 and 10 < report["conversations"]["kept"] < 50


# --- what a person looks at ---


def test_show_marks_what_is_scored(finished, capsys, monkeypatch):
    main(ChatConfig(data_dir=str(finished), show=3))
    marked = capsys.readouterr().out
    assert marked.count("--- conversation ") == 3 and "\033" not in marked
    blocks = marked.split("--- conversation ")[1:]
    own = tokenizer.Tokenizer.load(finished)
    for block in blocks:
        heading, _, text = block.partition("\n")
        ids, scored = Conversations(finished, "train").read(int(heading.partition(":")[0]))
        assert text.rstrip("\n") == prepare_chat.marked_text(own, ids, scored, ("⟦", "⟧")).rstrip("\n")
        assert text.count("<|im_start|>assistant\n⟦") == text.count("<|im_end|>⟧\n") == text.count("⟦") >= 1

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    main(ChatConfig(data_dir=str(finished), show=3))
    coloured = capsys.readouterr().out
    assert coloured.partition("\n")[2] == marked.partition("\n")[2].replace("⟦", "\033[32m").replace("⟧", "\033[0m")


def test_show_of_an_unfinished_folder_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="has no meta.json"):
        main(ChatConfig(data_dir=str(tmp_path), show=3))
    with pytest.raises(ValueError, match="nothing to show: give --data_dir"):
        main(ChatConfig(show=3))


def test_the_summary_shows_the_counts(finished, capsys):
    shown = prepare_chat.summary(finished)
    assert "  dropped: unknown_role                          1     1.5 %" in shown
    assert "rows read                                       66" in shown and "near duplicates" in shown


@pytest.mark.parametrize("name", ["train_00000.bin", "val_00000.scored.bin", "train_00000.starts.bin"])
@pytest.mark.parametrize("how", ["altered", "missing"])
def test_verify_looks_at_all_files_of_a_shard(finished, name, how):
    main(ChatConfig(data_dir=str(finished), verify=True))
    path = finished / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if how == "missing" else path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} is {how}"):
        main(ChatConfig(data_dir=str(finished), verify=True))


def test_the_command_line(corpus, model, tmp_path):
    arguments = [f"--source={corpus[0]}", f"--tokenizer={model}", f"--data_dir={tmp_path}/data", "--num_workers=2"]
    command = [sys.executable, "prepare_chat.py", *arguments, "--show=1", "--val_fraction=0.2"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-2000:]
    assert "rows read" in done.stdout and "⟦" in done.stdout
    wrong = subprocess.run([*command, "--train_on=user"], cwd=REPO, capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 1 and wrong.stderr.count("\n") == 1 and "train_on" in wrong.stderr


def test_the_named_config_loads():
    cfg, _ = configurator.load(ChatConfig, [str(REPO / "config/chat_alpaca.py")])
    assert cfg.data_dir == "data/alpaca" and cfg.source and cfg.tokenizer


# --- real data ---

REAL = {  # file: rows, what is dropped, exact and near duplicates
    "alpaca_zh_translated_a.json.gz": (9251, {"empty_answer": 13}, 2, 1),
    "llamafactory_alpaca_en_demo.json.gz": (999, {}, 14, 0),
    "llamafactory_alpaca_zh_demo.json.gz": (1000, {}, 8, 0),
    "rasbt_instruction-data.json.gz": (1100, {}, 0, 5),
}


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_instruction_data_is_kept_but_for_what_is_empty_or_twice(model, tmp_path, monkeypatch, name):
    """The rows that are dropped were looked at: their answers are "", "<No output>" or 无输出."""
    monkeypatch.setattr(sources, "PART_BYTES", 1 << 20)
    rows, dropped, exact, near = REAL[name]
    out = prepare(SHARED / "sft" / name, model, tmp_path / "data", max_tokens=None, val_fraction=0.01)
    report = json.loads((out / "report.json").read_text())
    counts, duplicates = report["conversations"], report["duplicates"]
    assert (counts["in"], counts["alpaca"]) == (rows, rows - sum(dropped.values()))
    assert {reason: counts[reason] for reason in REASONS if counts[reason]} == dropped
    assert (duplicates["exact"], duplicates["near"]) == (exact, near)
    assert verify(out) == []


@pytest.mark.real_data
def test_real_files_of_other_kinds_say_what_they_are(model, tmp_path):
    said = refusal(SHARED / "sft/llamafactory_dpo_en_demo.json.gz", model, tmp_path / "pairs")
    assert "300 preference_pair" in said and "preference training" in said
    said = refusal(SHARED / "sft/self_instruct_seed_tasks.jsonl.gz", model, tmp_path / "seeds")
    assert "175 unknown_format" in said and "keys: id, instances" in said
