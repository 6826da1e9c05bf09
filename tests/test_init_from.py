"""Training on from a folder that transformers wrote: as if it were trained there, resumed exactly, published whole."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY
from ranks import finished
from safetensors.torch import load_file
from tokenizers import Tokenizer as HFTokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

import checkpoint
import prepare_wiki
import train
from mixture import Mixture
from model import Llama
from optim import learning_rate
from resume import MODEL
from shards import Shards
from tokenizer import END_OF_TEXT, Tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 320}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES = {
    "llama": LlamaConfig(**SIZES, rope_parameters=LLAMA3 | {"original_max_position_embeddings": 16}),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=False),
}
# The model is the folder's: these settings stay at their defaults.
SETTINGS = {key: value for key, value in TINY.items() if key not in MODEL} | {"max_iters": 6}


@pytest.fixture(scope="module")
def tokenizer_dir(data_dir, tmp_path_factory):
    """A tokenizer whose end of text is named in tokenizer_config.json alone, as Qwen's is."""
    folder = tmp_path_factory.mktemp("tokenizer")
    text = (data_dir / "tokenizer.json").read_text(encoding="utf-8").replace(END_OF_TEXT, "<end>")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(data_dir, tokenizer_dir, tmp_path_factory):
    """The small corpus, prepared with that tokenizer."""
    out = tmp_path_factory.mktemp("corpus") / "data"
    source = str(data_dir.parent / "*.jsonl")
    cfg = prepare_wiki.PrepareConfig(source, str(out), tokenizer=str(tokenizer_dir), val_fraction=0.1, num_workers=1)
    prepare_wiki.main(cfg)
    return out


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(train.journal, "plot", lambda *args: None)


def written(folder, tokenizer_dir, family):
    """A model that transformers writes, with its tokenizer; no two of its numbers are equal."""
    return write_model(folder, tokenizer_dir, FAMILIES[family])


def write_model(folder, tokenizer_dir, shape):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    shutil.copytree(tokenizer_dir, folder)
    model.generation_config.eos_token_id = [299, 298]
    model.save_pretrained(folder)
    return model


def config(corpus, out_dir, **changes):
    settings = SETTINGS | {"data": str(corpus), "out_dir": str(out_dir)} | changes
    return train.TrainConfig(**settings)


def train_theirs(model, corpus, cfg) -> list[float]:
    """The steps of `cfg` with the model and the loss of transformers; returns the loss of each."""
    optimizer = torch.optim.AdamW(Llama.parameter_groups(model, cfg.weight_decay), betas=(cfg.beta1, cfg.beta2))
    data = Mixture(str(corpus), cfg.block_size, cfg.seed)
    losses = []
    for step in range(cfg.max_iters):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, cfg)

        batch = data.batch(np.arange(8 * step, 8 * step + 8))
        targets = batch.targets.contiguous()
        loss = model(batch.inputs, labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def float64():
    """New tensors are float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_equal_those_of_transformers(family, corpus, tokenizer_dir, tmp_path, float64):
    """In float64, for AdamW amplifies the last bits of a gradient that is almost 0.

    The tables of RoPE, float32 in both, differ in their last bits: weights by 3e-6.
    """
    written(tmp_path / "theirs", tokenizer_dir, family)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float64)
    cfg = config(corpus, tmp_path / "out", init_from=str(tmp_path / "theirs"))
    train.main(cfg)
    losses = train_theirs(theirs, corpus, cfg)
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows if "loss" in row] == pytest.approx(losses, rel=1e-6)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out/latest", dtype=torch.float64).state_dict()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [FAMILIES["qwen2"], Qwen3Config(**SIZES, head_dim=2)], ids=["qwen2", "qwen3"])
def test_biases_and_norms_of_heads_are_divided_like_the_rest(shape, corpus, tokenizer_dir, tmp_path):
    """FSDP of 3 processes, which do not divide the biases of Qwen2 (32, 16); of Qwen3's norms (2) one has nothing."""
    write_model(tmp_path / "theirs", tokenizer_dir, shape)
    settings = SETTINGS | {"data": corpus, "init_from": tmp_path / "theirs", "batch_tokens": 6 * 32}
    settings |= {"max_iters": 3, "warmup_iters": 1}
    finished(0, settings | {"out_dir": tmp_path / "one", "batch_size": 6})
    finished(3, settings | {"out_dir": tmp_path / "three", "batch_size": 2, "parallel": "fsdp"})

    one = load_file(tmp_path / "one/latest/model.safetensors")
    three = load_file(tmp_path / "three/latest/model.safetensors")
    assert one.keys() == three.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(three[name], tensor, atol=1e-4, rtol=1e-4)


def test_what_came_with_the_weights_leaves_with_them(corpus, tokenizer_dir, tmp_path):
    """Tokenizer, chat template, end ids and a context longer than the windows; also from a checkpoint that resumed."""
    theirs = tmp_path / "theirs"
    written(theirs, tokenizer_dir, "qwen2")
    train.main(config(corpus, tmp_path / "out", init_from=str(theirs), max_iters=2))
    train.main(config(corpus, tmp_path / "out", init_from=str(theirs), max_iters=3))

    out = tmp_path / "out/step_0000003"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (theirs / name).read_bytes(), name
    written_config = json.loads((out / "config.json").read_text())
    assert written_config["model_type"] == "qwen2"
    assert written_config["max_position_embeddings"] == 64
    assert AutoTokenizer.from_pretrained(out).eos_token == "<end>"
    assert Tokenizer.load(out).stops == {298, 299}
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    assert (settings["n_layer"], settings["n_embd"], settings["ffn_hidden"]) == (2, 32, 48)


def test_a_resumed_run_equals_an_uninterrupted_one_without_the_first_folder(corpus, tokenizer_dir, tmp_path):
    """The optimizer is new at the beginning and kept from then on; the weights it began from are not needed again."""
    theirs = tmp_path / "theirs"
    written(theirs, tokenizer_dir, "qwen3")
    changes = {"init_from": str(theirs), "lr_decay_iters": 6}
    train.main(config(corpus, tmp_path / "whole", max_iters=6, **changes))
    train.main(config(corpus, tmp_path / "parts", max_iters=3, **changes))
    theirs.rename(tmp_path / "gone")
    train.main(config(corpus, tmp_path / "parts", max_iters=6, **changes))

    whole = load_file(tmp_path / "whole/latest/model.safetensors")
    parts = load_file(tmp_path / "parts/latest/model.safetensors")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_run_of_ours_is_a_beginning_too(corpus, tmp_path):
    train.main(config(corpus, tmp_path / "first", max_iters=2))
    changes = {"init_from": str(tmp_path / "first"), "learning_rate": 0.0, "max_iters": 1}
    train.main(config(corpus, tmp_path / "second", **changes))
    first = load_file(tmp_path / "first/latest/model.safetensors")
    second = load_file(tmp_path / "second/latest/model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert checkpoint.read_state(tmp_path / "second/latest")["step"] == 1


def test_documents_end_with_the_token_that_the_folder_names(corpus, tokenizer_dir):
    tokenizer = Tokenizer.load(corpus)
    assert tokenizer.end_of_text_token == "<end>" and tokenizer.same(Tokenizer.load(tokenizer_dir))
    last = Shards(corpus, "val").all()[-1]
    assert last == tokenizer.end_of_text
    assert last == HFTokenizer.from_file(f"{tokenizer_dir}/tokenizer.json").token_to_id("<end>")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, "n_layer=3, but .*theirs has 2; leave --n_layer out"),
        ({"rope_theta": 5e5}, "rope_theta=500000.0, but .* has 10000.0"),
        ({"block_size": 128, "batch_tokens": 1024}, r"block_size \(128\) is longer than .*; try --block_size=64"),
        ({"init_from": "nowhere"}, "nowhere holds no checkpoint"),
        ({"data": "ours"}, "the data has another tokenizer than .*theirs; prepare it with --tokenizer=.*theirs$"),
        ({"data": "unnamed"}, "the data has another tokenizer than"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    changes, message, corpus, data_dir, tokenizer_dir, tmp_path
):
    written(tmp_path / "theirs", tokenizer_dir, "qwen2")
    if changes.get("data") == "ours":
        changes = {"data": str(data_dir)}
    elif "data" in changes:  # the same tokenizer.json, but its documents end with another token
        changes = {"data": str(shutil.copytree(corpus, tmp_path / "data"))}
        vocab = json.loads((tmp_path / "data/tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        end = next(token for token in vocab if len(token) > 1 and token.isascii())
        (tmp_path / "data/tokenizer_config.json").write_text(json.dumps({"eos_token": end}))
    settings = {"corpus": corpus, "out_dir": tmp_path / "out", "init_from": str(tmp_path / "theirs")}
    with pytest.raises(ValueError, match=message):
        train.main(config(**settings | changes))
    assert not (tmp_path / "out").exists()


def test_resuming_with_another_beginning_is_refused(corpus, tokenizer_dir, tmp_path):
    written(tmp_path / "theirs", tokenizer_dir, "qwen2")
    cfg = config(corpus, tmp_path / "out", init_from=str(tmp_path / "theirs"), max_iters=1)
    train.main(cfg)
    for other in (None, str(tmp_path / "other")):
        with pytest.raises(ValueError, match=f"has init_from=.*theirs but the settings say {other}"):
            train.main(dataclasses.replace(cfg, init_from=other, max_iters=2))
