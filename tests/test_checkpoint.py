"""Checkpoints open in transformers, come back exactly, and a failed save leaves the old one."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import atomic
import checkpoint
from model import Llama, ModelConfig
from tokenizer import END_OF_TEXT, Tokenizer


@pytest.fixture
def folder(run_dir, tmp_path):
    """A copy of the newest checkpoint, to be damaged."""
    return shutil.copytree(checkpoint.resolve(run_dir), tmp_path / "copy")


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    """The tokenizer of the small corpus."""
    return Tokenizer.load(data_dir)


def trained(shape: ModelConfig, steps: int = 3) -> tuple[Llama, torch.optim.Optimizer]:
    """A model after some real optimizer steps, so that every kind of state is there."""
    torch.manual_seed(1)
    model = Llama(shape)
    optimizer = torch.optim.AdamW(model.parameter_groups(0.1), lr=1e-2, fused=True)
    for _ in range(steps):
        ids = torch.randint(0, shape.vocab_size, (2, 9))
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_it_with_equal_logits_and_tokens(tied, tokenizer, tmp_path):
    shape = ModelConfig(320, 32, 2, 4, 2, 32, 64, rope_theta=50000.0, tie_embeddings=tied)
    model, optimizer = trained(shape)
    folder = checkpoint.save(tmp_path, 3, model, optimizer, tokenizer, {"step": 3}, False, 1)
    theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.dtype == torch.float32
    ids = torch.randint(0, 300, (2, 32))
    assert (model(ids) - theirs(ids).logits).abs().max() < 1e-5 * theirs(ids).logits.abs().max()
    ours = checkpoint.load_model(folder)
    assert ours.cfg == shape and torch.equal(ours(ids), model(ids))
    auto = AutoTokenizer.from_pretrained(folder)
    for text in ("the cat", " two  spaces\n\tand more", "naïve 漢字 🙂"):
        assert auto(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
    assert auto.eos_token_id == tokenizer.end_of_text == theirs.generation_config.eos_token_id
    assert auto.decode([tokenizer.end_of_text]) == END_OF_TEXT


def test_training_state_comes_back_exactly(tokenizer, tmp_path):
    model, optimizer = trained(ModelConfig(320, 32, 2, 4, 2, 32, 64))
    rng = torch.get_rng_state()
    folder = checkpoint.save(tmp_path, 3, model, optimizer, tokenizer, {"step": 3}, True, 1)
    other, empty = trained(model.cfg, steps=0)
    checkpoint.restore(folder, other, empty)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    before, after = checkpoint.optimizer_tensors(model, optimizer), checkpoint.optimizer_tensors(other, empty)
    assert before.keys() == after.keys() and len(before) == 3 * len(list(model.parameters()))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_newest_and_best_are_kept_and_linked(tokenizer, tmp_path):
    model, optimizer = trained(ModelConfig(320, 32, 1, 2, 1, 16, 16), 1)
    for step, best in ((1, True), (2, True), (3, False), (4, False), (5, False)):
        checkpoint.save(tmp_path, step, model, optimizer, tokenizer, {"step": step}, best, 2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_0000002", "step_0000004", "step_0000005"]
    assert os.readlink(tmp_path / "latest") == "step_0000005" and os.readlink(tmp_path / "best") == "step_0000002"
    assert checkpoint.resolve(tmp_path) == tmp_path / "latest"
    assert checkpoint.resolve(tmp_path / "step_0000004") == tmp_path / "step_0000004"


def test_failed_save_leaves_the_old_checkpoint(tokenizer, tmp_path, monkeypatch):
    model, optimizer = trained(ModelConfig(320, 32, 1, 2, 1, 16, 16), 1)
    checkpoint.save(tmp_path, 1, model, optimizer, tokenizer, {"step": 1}, True, 1)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, model, optimizer, tokenizer, {"step": 2}, True, 1)
    monkeypatch.undo()
    monkeypatch.setattr(atomic, "link", full_disk)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, model, optimizer, tokenizer, {"step": 2}, True, 1)
    assert checkpoint.read_state(checkpoint.resolve(tmp_path)) == {"step": 1}
    checkpoint.load_model(checkpoint.resolve(tmp_path))
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_is_pickled_and_anyone_may_read(run_dir):
    files = [path for path in checkpoint.resolve(run_dir).resolve().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert len({path.stat().st_mode for path in files}) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "qwen2"), ("hidden_act", "gelu"), ("attention_bias", True), ("rope_scaling", {"type": "yarn"})],
)
def test_what_is_not_implemented_is_refused_by_name(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=key):
        checkpoint.load_model(folder)


def test_damage_is_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(ValueError, match=f"{name} is absent"):
        checkpoint.load_model(folder)
    save_file(weights | {name: torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match=rf"{name} has shape \(3, 3\)"):
        checkpoint.load_model(folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load_model(folder)
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        checkpoint.load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not readable"):
        checkpoint.load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="holds no checkpoint; train first"):
        checkpoint.resolve(folder)


def test_a_stale_folder_is_written_anew_and_the_newest_is_left_alone(tokenizer, tmp_path):
    """Stale: a run was killed before `latest` moved. The newest: a run was resumed and stopped again at once."""
    model, optimizer = trained(ModelConfig(320, 32, 1, 2, 1, 16, 16), 1)
    for step, note in ((1, "kept"), (1, "not written"), (2, "fresh")):
        if step == 2:
            (tmp_path / "step_0000002").mkdir()
            (tmp_path / "step_0000002/half").write_text("of another run")
        checkpoint.save(tmp_path, step, model, optimizer, tokenizer, {"note": note}, False, 5)
    assert checkpoint.read_state(tmp_path / "step_0000001") == {"note": "kept"}
    assert checkpoint.read_state(tmp_path / "latest") == {"note": "fresh"}
    assert not (tmp_path / "latest/half").exists()
