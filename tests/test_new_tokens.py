"""A base model meets data with more special tokens: it grows while it is read, and the chat template travels on."""

import json
import shutil

import pytest
import torch
from conftest import TINY
from ranks import finished
from safetensors.torch import load_file
from test_grow import write_base
from tokenizer_kinds import made, sample_text
from transformers import AutoModelForCausalLM, AutoTokenizer

import chat
import checkpoint
import grow
import prepare_chat
import prepare_wiki
import train
from chat_template import TEMPLATE_FILE, ChatTemplate, read_template
from resume import MODEL
from shards import Shards
from tokenizer import TURN_END, TURN_START, Tokenizer, train_bpe
from vocabulary import Growth

KIND = "llama3"  # has no token of ChatML, and begins every text with one of its own
SETTINGS = {key: value for key, value in TINY.items() if key not in MODEL}
SETTINGS |= {"max_iters": 3, "checkpoint_interval": 3, "eval_interval": 3, "lr_decay_iters": 3, "warmup_iters": 1}
MESSAGES = [
    {"role": "system", "content": "the quick fox"},
    {"role": "user", "content": "brown?"},
    {"role": "assistant", "content": "fox"},
]


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(train.journal, "plot", lambda *args: None)


@pytest.fixture(scope="module")
def text(data_dir, tmp_path_factory):
    """The small corpus, prepared with the tokenizer of the base models."""
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "tokenizer.json").write_text(made(KIND), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<|begin_of_text|>"}')
    settings = {"source": f"{data_dir.parent}/*.jsonl", "tokenizer": str(folder / "tokenizer.json")}
    prepare_wiki.main(prepare_wiki.PrepareConfig(**settings, data_dir=str(folder / "text"), num_workers=1))
    return folder / "text"


def write_chat(folder, text, template: ChatTemplate):
    """The text as if it were conversations: with a template, and the ids of its tokens here and there."""
    shutil.copytree(text, folder)
    shards = Shards(text, "train")
    ids = shards.all()
    ids[::7] = template.end_of_turn
    ids[3::70] = template.tokenizer.vocab_size - 1
    (folder / "train_00000.bin").write_bytes(ids.astype(shards.dtype).tobytes())
    for name, content in template.files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def conversations(text):
    """With ChatML, as prepare_chat.py writes it for a base model."""
    return write_chat(text.parent / "chat", text, ChatTemplate.load(text))


def config(data, out_dir, **changes):
    return train.TrainConfig(**SETTINGS | {"data": str(data), "out_dir": str(out_dir)} | changes)


def contents(folder) -> dict[str, bytes]:
    """The files of a checkpoint by name, but the training state, which names the run's settings."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(("tied", "rows", "dtype"), [(True, None, torch.float32), (False, 384, torch.bfloat16)])
def test_a_run_from_the_base_is_a_run_from_what_grow_writes(conversations, tmp_path, capsys, tied, rows, dtype):
    """Each file of the checkpoints after three steps, bit for bit, and the weights before; transformers opens them."""
    base = write_base(tmp_path / "base", KIND, dtype, tied=tied, rows=rows)
    (base / "generation_config.json").write_text('{"temperature": 0.7, "do_sample": true, "eos_token_id": 2}')
    grow.main(grow.GrowConfig(checkpoint=str(base)))

    capsys.readouterr()
    train.main(config(conversations, tmp_path / "direct", init_from=str(base)))
    assert f"the vocabulary grows by 2 tokens: {TURN_START} 342, {TURN_END} 343\n" in capsys.readouterr().out
    train.main(config(conversations, tmp_path / "grown", init_from=f"{base}-chat"))
    assert "grows" not in capsys.readouterr().out
    assert contents(tmp_path / "direct/latest") == contents(tmp_path / "grown/latest")

    train.main(config(conversations, tmp_path / "still", init_from=str(base), learning_rate=0.0, max_iters=1))
    still = checkpoint.load_model(tmp_path / "still/latest").state_dict()
    written = checkpoint.load_model(f"{base}-chat").state_dict()
    assert all(torch.equal(still[name], written[name]) for name in written)
    assert still[checkpoint.EMBEDDING].shape[0] == (rows or 344)

    latest = tmp_path / "direct/latest"
    theirs, ours = AutoModelForCausalLM.from_pretrained(latest), checkpoint.load_model(latest)
    ids = torch.tensor([AutoTokenizer.from_pretrained(latest).apply_chat_template(MESSAGES, return_dict=False)])
    assert torch.allclose(ours(ids), theirs(ids).logits, atol=1e-4)
    assert theirs.generation_config.temperature == 0.7
    assert theirs.generation_config.eos_token_id[0] == 343
    assert Tokenizer.load(latest).stops == {2, 341, 343}


def test_a_stopped_run_that_grew_equals_an_uninterrupted_one(conversations, tmp_path):
    """The base is not needed again, and its rows do not grow twice."""
    base = write_base(tmp_path / "base", KIND)
    train.main(config(conversations, tmp_path / "whole", init_from=str(base)))
    train.main(config(conversations, tmp_path / "parts", init_from=str(base), max_iters=2))
    base.rename(tmp_path / "gone")
    train.main(config(conversations, tmp_path / "parts", init_from=str(base)))
    assert contents(tmp_path / "whole/latest") == contents(tmp_path / "parts/latest")
    whole, parts = (load_file(tmp_path / name / "latest" / checkpoint.OPTIMIZER_FILE) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(("parallel", "tied"), [pytest.param("ddp", True, marks=pytest.mark.slow), ("fsdp", False)])
def test_the_same_rows_in_several_processes(conversations, tmp_path, parallel, tied):
    """3 processes, which do not divide the 344 rows evenly."""
    base = write_base(tmp_path / "base", KIND, tied=tied)
    grow.main(grow.GrowConfig(checkpoint=str(base)))
    settings = SETTINGS | {"data": conversations, "init_from": base, "out_dir": tmp_path / "out", "learning_rate": 0.0}
    printed = finished(3, settings | {"batch_tokens": 6 * 32, "batch_size": 2, "max_iters": 1, "parallel": parallel})
    assert printed.count("the vocabulary grows by 2 tokens") == 1
    trained, written = load_file(tmp_path / "out/latest/model.safetensors"), load_file(f"{base}-chat/model.safetensors")
    assert trained.keys() == written.keys()
    assert all(torch.equal(trained[name], written[name]) for name in written)


def test_the_number_of_rows_stays_a_multiple_of_64():
    old = Tokenizer(train_bpe([sample_text(0)], 320))
    new = old.with_special_tokens(["<|a|>", "<|b|>"])
    assert [Growth.between(old, new, rows).rows for rows in (320, 321, 322, 384)] == [384, 322, 322, 384]
    assert str(Growth.between(old, new, 320)) == "<|a|> 320, <|b|> 321"


@pytest.mark.parametrize("begin", ["new weights", "base", "mixed with text"])
def test_the_template_travels_with_every_checkpoint(text, conversations, tmp_path, capsys, begin):
    """Also after a restart: text and ids of transformers, an answer of chat.py, and where generation ends."""
    data, changes = conversations, {}
    if begin == "base":
        changes["init_from"] = str(write_base(tmp_path / "base", KIND))
    elif begin == "new weights":
        data = shutil.copytree(conversations, tmp_path / "data")  # names no bos_token: its templates write none
        named = json.loads((data / "tokenizer_config.json").read_text())
        assert named.pop("bos_token") == "<|begin_of_text|>"
        (data / "tokenizer_config.json").write_text(json.dumps(named))
    elif begin == "mixed with text":
        data = f"{text}:0.5,{conversations}:0.5"
    train.main(config(data, tmp_path / "out", **changes, max_iters=2))
    first = contents(tmp_path / "out/latest")
    train.main(config(data, tmp_path / "out", **changes))
    latest = tmp_path / "out/latest"
    small = set(first) - {"model.safetensors"}
    assert all(contents(latest)[name] == first[name] for name in small)

    chat_data = data if begin == "new weights" else conversations
    template, auto = ChatTemplate.load(chat_data), AutoTokenizer.from_pretrained(latest)
    assert (latest / TEMPLATE_FILE).read_text() == json.loads(first["tokenizer_config.json"])["chat_template"]
    assert auto.apply_chat_template(MESSAGES, tokenize=False) == template.render(MESSAGES)
    assert auto.apply_chat_template(MESSAGES, return_dict=False) == template.encode(MESSAGES)
    assert ChatTemplate.load(latest).special == template.special, "variables of templates, such as bos_token"
    assert auto.eos_token_id == template.tokenizer.end_of_text == 341
    for name in ("config.json", "generation_config.json"):
        assert json.loads(first[name])["eos_token_id"] == [343, 341]

    capsys.readouterr()
    chat.main(chat.ChatConfig(checkpoint=str(latest), prompt="fox", max_new_tokens=4, device="cpu"))
    assert "ChatML is used" not in capsys.readouterr().err


def test_a_run_on_the_models_own_template_keeps_what_travelled(text, conversations, tmp_path, capsys):
    """Every small file of the instruct model's folder; and with another template in the data that one, with a note."""
    base = write_base(tmp_path / "base", KIND)
    grow.main(grow.GrowConfig(checkpoint=str(base)))
    instruct = tmp_path / "base-chat"
    (instruct / "special_tokens_map.json").write_text('{"pad_token": "<|im_end|>"}')
    data = write_chat(tmp_path / "own", text, ChatTemplate.load(instruct))
    train.main(config(data, tmp_path / "out", init_from=str(instruct), max_iters=1))
    before, after = contents(instruct), contents(tmp_path / "out/latest")
    for name in before.keys() - {"model.safetensors", "config.json"}:
        assert before[name] == after[name], name
    assert json.loads(before["config.json"])["eos_token_id"] == json.loads(after["config.json"])["eos_token_id"]

    other = ChatTemplate.load(instruct).source.replace("assistant", "robot")
    other_data = write_chat(tmp_path / "other", text, ChatTemplate(other, Tokenizer.load(instruct)))
    capsys.readouterr()
    for max_iters in (1, 2):
        train.main(config(other_data, tmp_path / "robot", init_from=str(instruct), max_iters=max_iters))
        note = f"note: {other_data}/{TEMPLATE_FILE} is not the template in {instruct}/{TEMPLATE_FILE}; checkpoints get"
        assert (note in capsys.readouterr().out) == (max_iters == 1)
        assert read_template(tmp_path / "robot/latest")[0] == other
        assert ChatTemplate.load(tmp_path / "robot/latest").stop_ids == {341, 343}


def test_text_with_the_smaller_tokenizer_trains_a_model_that_has_grown(text, tmp_path):
    """Its ids are the model's too, and the tokenizer and the template stay the model's."""
    base = write_base(tmp_path / "base", KIND)
    grow.main(grow.GrowConfig(checkpoint=str(base)))
    for max_iters in (1, 2):
        train.main(config(text, tmp_path / "out", init_from=f"{base}-chat", max_iters=max_iters))
        before, after = contents(tmp_path / "base-chat"), contents(tmp_path / "out/latest")
        for name in before.keys() - {"model.safetensors", "config.json"}:
            assert before[name] == after[name], name


def test_a_model_with_a_template_keeps_it_when_text_has_more_tokens(text, tmp_path):
    base = write_base(tmp_path / "base", KIND)
    grow.main(grow.GrowConfig(checkpoint=str(base)))
    data = shutil.copytree(text, tmp_path / "text")
    larger = Tokenizer.load(tmp_path / "base-chat").with_special_tokens(["<|tool|>"])
    (data / "tokenizer.json").write_text(larger.json)
    train.main(config(data, tmp_path / "out", init_from=f"{base}-chat", max_iters=1))
    assert read_template(tmp_path / "out/latest")[0] == read_template(tmp_path / "base-chat")[0]
    template = ChatTemplate.load(tmp_path / "out/latest")
    assert template.tokenizer.json == larger.json and template.stop_ids == {341, 343}


def test_a_run_does_not_grow_when_it_goes_on(text, conversations, tmp_path):
    """The optimizer has the old size."""
    base = write_base(tmp_path / "base", KIND)
    data = shutil.copytree(text, tmp_path / "text")
    for out_dir, init_from in (("a", str(base)), ("b", None)):
        train.main(config(data, tmp_path / out_dir, init_from=init_from, max_iters=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(conversations / name, data / name)
    for out_dir, init_from in (("a", str(base)), ("b", None)):
        with pytest.raises(ValueError, match="has another tokenizer than the data has now; give another --out_dir"):
            train.main(config(data, tmp_path / out_dir, init_from=init_from, max_iters=2))


def test_data_of_another_tokenizer_is_refused_before_anything_is_written(data_dir, tmp_path):
    base = write_base(tmp_path / "base", KIND)
    with pytest.raises(ValueError, match="the data has another tokenizer than .*base; prepare it with --tokenizer="):
        train.main(config(data_dir, tmp_path / "out", init_from=str(base)))
    assert not (tmp_path / "out").exists()


def test_from_a_base_model_to_an_assistant(text, tmp_path, capsys):
    """The three commands: prepare_chat.py, train.py on conversations and plain text, chat.py; and transformers."""
    base = write_base(tmp_path / "base", KIND)
    words = sample_text(1, 400).split()
    with open(tmp_path / "chat.jsonl", "w", encoding="utf-8") as file:
        for k in range(0, 240, 4):
            question, answer = " ".join(words[k : k + 3]), " ".join(words[k + 2 : k + 4])
            turns = [{"role": "user", "content": f"{k}: {question}"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")
    settings = {"source": str(tmp_path / "chat.jsonl"), "tokenizer": str(base), "data_dir": str(tmp_path / "data")}
    prepare_chat.main(prepare_chat.ChatConfig(**settings, num_workers=1, val_fraction=0.1, dedup_threshold=1.0))

    assert f"train.py --init_from={base} gives the model rows" in capsys.readouterr().out
    changes = {"init_from": str(base), "block_size": 64, "batch_tokens": 8 * 64}
    train.main(config(f"{text}:0.5,{tmp_path}/data:0.5", tmp_path / "out", **changes))
    assert "the vocabulary grows by 2 tokens" in capsys.readouterr().out

    latest = tmp_path / "out/latest"
    auto, template = AutoTokenizer.from_pretrained(latest), ChatTemplate.load(tmp_path / "data")
    assert auto.apply_chat_template(MESSAGES, tokenize=False) == template.render(MESSAGES)
    ids = auto.apply_chat_template(MESSAGES, return_dict=False)
    assert ids == template.encode(MESSAGES) and ids[0] == template.tokenizer.bos and ids.count(343) == 3
    logits = AutoModelForCausalLM.from_pretrained(latest)(torch.tensor([ids])).logits
    assert torch.allclose(checkpoint.load_model(latest)(torch.tensor([ids])), logits, atol=1e-4)

    chat.main(chat.ChatConfig(checkpoint=str(latest), prompt="fox", max_new_tokens=4, device="cpu"))
    printed = capsys.readouterr()
    assert printed.out.strip() and "ChatML is used" not in printed.err
