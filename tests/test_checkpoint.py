"""Checkpoints open in transformers, come back exactly, theirs open here, and a failed save leaves the old one."""

import gzip
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PYTHON, REPO, SHARED
from safetensors.torch import load_file, save_file
from test_model import SHAPES, pair, random_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import atomic
import checkpoint
from model import Llama, ModelConfig, RopeScaling
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


def save(out_dir, step, model, optimizer, tokenizer, state, best, keep, carried=None):
    """A checkpoint with its small files."""
    files = checkpoint.small_files(model, tokenizer, carried or {})
    return checkpoint.save(out_dir, step, model, optimizer, files, state, best, keep)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_it_with_equal_logits_and_tokens(tied, tokenizer, tmp_path):
    shape = ModelConfig(320, 32, 2, 4, 2, 32, 64, rope_theta=50000.0, tie_embeddings=tied)
    model, optimizer = trained(shape)
    folder = save(tmp_path, 3, model, optimizer, tokenizer, {"step": 3}, False, 1)
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
    folder = save(tmp_path, 3, model, optimizer, tokenizer, {"step": 3}, True, 1)
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
        save(tmp_path, step, model, optimizer, tokenizer, {"step": step}, best, 2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_0000002", "step_0000004", "step_0000005"]
    assert os.readlink(tmp_path / "latest") == "step_0000005" and os.readlink(tmp_path / "best") == "step_0000002"
    assert checkpoint.resolve(tmp_path) == tmp_path / "latest"
    assert checkpoint.resolve(tmp_path / "step_0000004") == tmp_path / "step_0000004"


def test_the_newest_complete_checkpoint_is_found_behind_damaged_ones(tokenizer, tmp_path):
    model, optimizer = trained(ModelConfig(320, 32, 1, 2, 1, 16, 16), 1)
    assert checkpoint.newest_complete(tmp_path) is None
    for step in range(1, 7):
        save(tmp_path, step, model, optimizer, tokenizer, {"step": step}, False, 9)
    (tmp_path / "step_0000006/training/state.json").unlink()
    (tmp_path / "step_0000005/training/optimizer.safetensors").write_bytes(b"")
    (tmp_path / "step_0000004/config.json").write_text("{")
    weights = tmp_path / "step_0000003/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    shutil.copytree(tmp_path / "step_0000002", tmp_path / "step_0000009_v2")
    assert checkpoint.newest_complete(tmp_path) == tmp_path / "step_0000002"
    shutil.copytree(tmp_path / "step_0000002", tmp_path / "step_10000000")  # seven digits or more
    assert checkpoint.newest_complete(tmp_path) == tmp_path / "step_10000000"


def test_failed_save_leaves_the_old_checkpoint(tokenizer, tmp_path, monkeypatch):
    model, optimizer = trained(ModelConfig(320, 32, 1, 2, 1, 16, 16), 1)
    save(tmp_path, 1, model, optimizer, tokenizer, {"step": 1}, True, 1)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2, model, optimizer, tokenizer, {"step": 2}, True, 1)
    monkeypatch.undo()
    monkeypatch.setattr(atomic, "link", full_disk)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2, model, optimizer, tokenizer, {"step": 2}, True, 1)
    assert checkpoint.read_state(checkpoint.resolve(tmp_path)) == {"step": 1}
    checkpoint.load_model(checkpoint.resolve(tmp_path))
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_is_pickled_and_anyone_may_read(run_dir):
    files = [path for path in checkpoint.resolve(run_dir).resolve().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert len({path.stat().st_mode for path in files}) == 1


def test_damage_is_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(ValueError, match=f"'{name}' is absent"):
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


PLAIN = ModelConfig(64, 24, 2, 4, 2, 32, 48)
SCALED = ModelConfig(64, 24, 2, 4, 2, 32, 48, rope_theta=500000.0, rope_scaling=RopeScaling())


def written(folder: Path, model: torch.nn.Module, **kwargs) -> dict[str, torch.Tensor]:
    """transformers writes its model; returns the tensors it wrote."""
    model.save_pretrained(folder, **kwargs)
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal names, types and bytes."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))
        for name in a
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_round_trip_from_transformers_and_back(name, dtype, tokenizer, tmp_path, monkeypatch):
    """Theirs in several shards, ours in several shards: equal logits, equal bytes, equal settings, each way."""
    shape = SHAPES[name]
    theirs = pair(shape)[1].to(dtype)
    tensors = written(tmp_path / "theirs", theirs, max_shard_size="25KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    ours = checkpoint.load_model(tmp_path / "theirs", dtype=dtype)
    assert ours.cfg == shape and ours.lm_head.weight.dtype == dtype
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 25_000)
    folder = save(tmp_path, 1, ours, torch.optim.AdamW(ours.parameters()), tokenizer, {}, False, 1)
    sizes = [sum(t.nbytes for t in load_file(path).values()) for path in sorted(folder.glob("model*.safetensors"))]
    assert len(sizes) > 1 and max(sizes) <= 25_000
    assert all(a + b > 25_000 for a, b in zip(sizes, sizes[1:], strict=False))  # a new one only when the last is full
    back, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(back) is type(theirs) and back.dtype == dtype
    assert same(written(tmp_path / "back", back), tensors) and checkpoint.read_config(tmp_path / "back") == shape
    if dtype == torch.float32:
        ids = torch.randint(0, shape.vocab_size, (2, shape.block_size))
        expected = theirs(ids).logits
        for logits in (ours(ids), back(ids).logits):
            assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_weights_stored_in_16_bits_are_widened_exactly(stored, tmp_path):
    theirs = pair(PLAIN)[1].to(stored)
    theirs.save_pretrained(tmp_path)
    wide = dict(theirs.float().named_parameters())
    for name, parameter in checkpoint.load_model(tmp_path).named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, wide[name]), name


@pytest.mark.real_data
@torch.no_grad()
def test_a_real_model_reads_10000_tokens_as_in_transformers(tmp_path):
    source = SHARED / "weights/stories260K-hf"
    theirs, auto = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    ours = checkpoint.load_model(source)
    text = gzip.open(SHARED / "other/tinyshakespeare.txt.gz", "rt").read(40_000)
    ids = auto(text, return_tensors="pt").input_ids[0, : 20 * 512].view(20, 512)
    assert ids.numel() >= 10_000
    expected = theirs(ids).logits
    assert (ours(ids) - expected).abs().max() < 1e-4
    assert ours(ids[:, :-1], ids[:, 1:]).item() / ids[:, 1:].numel() < 5  # it was trained: uniform is 6.24
    tokenizer, carried = Tokenizer.load(source), checkpoint.companions(source)
    folder = save(tmp_path, 1, ours, torch.optim.AdamW(ours.parameters()), tokenizer, {}, False, 1, carried)
    assert same(load_file(folder / "model.safetensors"), load_file(source / "model.safetensors"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    config, generation = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "generation_config"))
    for found in (config, generation):
        assert (found["bos_token_id"], found["eos_token_id"]) == (1, 2)


def test_what_travels_with_the_weights_is_kept_while_the_tokenizer_is_the_same(tokenizer, tmp_path):
    model = random_model(ModelConfig(320, 32, 1, 2, 1, 16, 16))
    source = tmp_path / "source"
    source.mkdir()
    ids = {"bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": 3}
    files = {
        "config.json": json.dumps(checkpoint.hf_config(model.cfg, 0) | ids).encode(),
        "generation_config.json": b'{"eos_token_id": [8, 9, 10], "temperature": 0.6}',
        "tokenizer.json": tokenizer.json.encode(),
        "tokenizer_config.json": b'{"eos_token": "<|endoftext|>", "chat_template": "x"}',
        "model.safetensors": b"no companion",
    }
    for name, content in files.items():
        (source / name).write_bytes(content)
    carried = checkpoint.companions(source)
    assert carried == {name: content for name, content in files.items() if name != "model.safetensors"}
    for step, text in ((1, files["tokenizer.json"]), (2, b"of another tokenizer")):
        optimizer = torch.optim.AdamW(model.parameters())
        folder = save(tmp_path, step, model, optimizer, tokenizer, {}, False, 2, carried | {"tokenizer.json": text})
        assert (folder / "tokenizer.json").read_text() == tokenizer.json
        config = json.loads((folder / "config.json").read_text())
        kept = {name: (folder / name).read_bytes() == files[name] for name in files if name in carried}
        if step == 1:
            assert config == json.loads(files["config.json"])
            assert [name for name, equal in kept.items() if not equal] in ([], ["config.json"])
        else:
            assert config["eos_token_id"] == tokenizer.end_of_text and "pad_token_id" not in config
            assert [name for name, equal in kept.items() if equal] == ["tokenizer.json"]
        json.loads((folder / "generation_config.json").read_text())


MEMORY = """
import sys, torch, checkpoint
def kilobytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
checkpoint.load_model(sys.argv[1])  # what the first call imports and allocates
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = kilobytes("VmRSS")
model = checkpoint.load_model(sys.argv[2], dtype=getattr(torch, sys.argv[4]))
loaded = kilobytes("VmHWM") - before
open("/proc/self/clear_refs", "w").write("5")
before = kilobytes("VmRSS")
checkpoint.save_torch_state_dict(dict(model.named_parameters()), sys.argv[3], max_shard_size=10**12)
print(loaded * 1024, (kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("stored", "wanted"), [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")]
)
def test_loading_takes_the_memory_of_the_weights_and_saving_none(stored, wanted, tmp_path):
    for name, shape in (("small", PLAIN), ("large", ModelConfig(4096, 64, 12, 8, 8, 512, 1536))):
        (tmp_path / name).mkdir()
        model = Llama(shape)
        weights = model.num_parameters() * getattr(torch, wanted).itemsize
        (tmp_path / name / "config.json").write_text(json.dumps(checkpoint.hf_config(shape, 0)))
        save_file(
            {key: p.detach().to(getattr(torch, stored)) for key, p in model.named_parameters()},
            tmp_path / name / "model.safetensors",
        )
    command = [PYTHON, "-c", MEMORY, *(str(tmp_path / name) for name in ("small", "large")), str(tmp_path), wanted]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded, saved = map(int, done.stdout.split())
    assert weights > 75e6 and 0.9 * weights < loaded < 1.15 * weights and saved < 0.05 * weights


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ({}, SCALED),
        ({"rope_parameters": None}, SCALED),
        ({"rope_scaling": ..., "rope_theta": ...}, SCALED),
        ({"rope_scaling": {"type": "llama3"}}, SCALED),
        ({"rope_scaling": None}, "contradicts"),
        (
            {"rope_scaling": {"factor": 4.0}},
            "rope_scaling factor=4.0 contradicts 8.0",
        ),
        ({"rope_theta": 10000.0}, "rope_theta=10000.0 contradicts 500000.0"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_theta=500000.0 contradicts 10000.0"),
        ({"rope_scaling": ..., "rope_parameters": {"low_freq_factor": ...}}, "low_freq_factor is missing"),
        ({"rope_scaling": ..., "rope_parameters": {"factor": "8"}}, "factor='8' is not a number"),
        ({"rope_scaling": ..., "rope_parameters": {"high_freq_factor": 0.5}}, "Llama 3.1 has"),
        ({"rope_scaling": ..., "rope_parameters": {"beta_fast": 32}}, "beta_fast=32 is not implemented"),
        ({"rope_scaling": ..., "rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn' is not implemented"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "linear"}}, "rope_type='linear' is not implemented"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "dynamic"}}, "rope_type='dynamic' is not implemented"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not implemented"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not implemented"),
        ({"partial_rotary_factor": 1.0}, SCALED),
        ({"rope_scaling": "llama3"}, "rope_scaling='llama3' is not an object"),
    ],
    ids=str,
)
def test_rope_settings_in_either_spelling(theirs, expected, tmp_path):
    """...: the key is left out; a dictionary: these keys in it are changed. Where we read it, so does transformers."""
    config = checkpoint.hf_config(SCALED, 0)
    for key, value in theirs.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
        if isinstance(value, dict) and ... in value.values():
            config[key] = {inner: v for inner, v in config[key].items() if v is not ...}
    config = {key: value for key, value in config.items() if value is not ...}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"config.json: .*({expected})"):
            checkpoint.read_config(tmp_path)
        return
    assert checkpoint.read_config(tmp_path) == expected
    rope = AutoConfig.from_pretrained(tmp_path).rope_parameters
    assert (rope["rope_theta"], rope["rope_type"], rope["factor"]) == (500000.0, "llama3", 8.0)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", {"num_key_value_heads": ..., "head_dim": ..., "tie_word_embeddings": ...}),
        ("llama", {"num_key_value_heads": None, "head_dim": None}),
        ("llama", {"rope_interleaved": False, "pretraining_tp": 1, "layer_types": ["full_attention"] * 2}),
        ("llama", {"rope_theta": ..., "rope_parameters": ..., "rope_scaling": ...}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 32768, "max_window_layers": 28}),
        ("qwen3", {"sliding_window": None, "max_window_layers": 1, "layer_types": ["full_attention"] * 2}),
        ("mistral", {"sliding_window": None, "attention_dropout": 0.0}),
    ],
    ids=str,
)
def test_what_changes_nothing_is_accepted(family, change, tmp_path):
    switches = {"qkv_bias": family == "qwen2", "qk_norm": family == "qwen3"}
    shape = ModelConfig(64, 24, 2, 4, 4, 32, 48, tie_embeddings=False, **switches)
    config = checkpoint.hf_config(shape, 0) | {"model_type": family} | change
    (tmp_path / "config.json").write_text(json.dumps({key: v for key, v in config.items() if v is not ...}))
    assert checkpoint.read_config(tmp_path) == shape
    known = AutoConfig.from_pretrained(tmp_path)  # these are what transformers makes of it
    assert (known.num_key_value_heads, known.tie_word_embeddings) == (4, False)
    assert getattr(known, "sliding_window", None) is None and known.rope_parameters["rope_theta"] == 10000.0


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (
            "llama",
            {"model_type": "gemma"},
            "model_type='gemma' is not implemented here, only 'llama', 'mistral', 'qwen2', 'qwen3'",
        ),
        ("llama", {"model_type": ...}, "model_type=None"),
        ("llama", {"model_type": ["llama"]}, r"model_type=\['llama'\]"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu' is not implemented here, only 'silu'"),
        ("llama", {"attention_bias": True}, "attention_bias=True is not implemented here, only False"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True"),
        ("llama", {"mlp_bias": True}, "mlp_bias=True"),
        ("llama", {"attention_dropout": 0.1}, "attention_dropout=0.1"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved=True"),
        ("llama", {"sliding_window": 4096}, "sliding_window=4096"),
        ("mistral", {"sliding_window": 4096}, "sliding_window=4096"),
        ("mistral", {"sliding_window": ...}, "sliding_window=4096"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        ("qwen3", {"layer_types": "full_attention"}, "layer_types="),
        ("llama", {"num_experts": 8}, "num_experts=8"),
        ("llama", {"num_local_experts": 8}, "num_local_experts=8"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
        ("llama", {"hidden_size": -32}, r"n_embd \(-32\) must be at least 1"),
        ("llama", {"hidden_size": ...}, "hidden_size is missing"),
        ("llama", {"hidden_size": "32"}, "hidden_size='32' is not a whole number"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers=True is not a whole number"),
        ("llama", {"num_hidden_layers": 1e18}, "num_hidden_layers=1e.18 is not a whole number"),
        ("llama", {"num_hidden_layers": 10**18}, "n_layer .* must be at most"),
        ("llama", {"num_hidden_layers": 1 << 23}, "8388608 layers, the weights are 20 tensors"),
        ("llama", {"max_position_embeddings": 10**18}, "block_size .* must be at most"),
        ("llama", {"vocab_size": 1 << 24}, r"config.json says \(16777216, 32\)"),
        ("llama", {"head_dim": 1 << 20, "num_attention_heads": 16}, r"config.json says \(16777216, 32\)"),
        ("llama", {"head_dim": 7}, "head_dim .7. must be even"),
        ("llama", {"head_dim": "8"}, "head_dim='8' is not a whole number"),
        ("llama", {"vocab_size": None}, "vocab_size=None is not a whole number"),
        ("llama", {"rms_norm_eps": float("nan")}, "norm_eps .nan. must be above 0 and finite"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps='1e-5' is not a number"),
        ("llama", {"rope_theta": 10**400, "rope_parameters": ...}, "config.json"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings=1 is not true or false"),
        ("qwen2", {"model_type": "llama"}, "bias' is not part of this model"),
        ("llama", {"model_type": "qwen3"}, "norm.weight' is absent"),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused_by_name(family, change, message, tmp_path):
    """Before anything is allocated: some of these would take all memory, or for ever."""
    model = random_model(ModelConfig(64, 24, 2, 4, 2, 32, 48, qkv_bias=family == "qwen2", qk_norm=family == "qwen3"))
    save_file(dict(model.named_parameters()), tmp_path / "model.safetensors")
    config = checkpoint.hf_config(model.cfg, 0) | {"model_type": family, "sliding_window": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in (config | change).items() if v is not ...}))
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.load_model(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"vocab_size": ' + b"9" * 5000 + b"}"],
    ids=lambda content: repr(content[:10]),
)
def test_a_config_that_is_no_object_is_one_line(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json: not readable as JSON") as caught:
        checkpoint.load_model(folder)
    assert "\n" not in str(caught.value)


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_never_opened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "consolidated.00.pth"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
        with pytest.raises(ValueError, match=f"{name}, a pickle.*is not opened here; if you trust it, convert it"):
            checkpoint.load_model(folder)
        (folder / name).unlink()
    (folder / "training/optimizer.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(ValueError, match="missing"):
        checkpoint.load_model(folder)
    assert not (tmp_path / "executed").exists()


def test_damaged_training_state_is_one_line(run_dir, folder):
    model = checkpoint.load_model(folder)
    optimizer = torch.optim.AdamW(model.parameters())
    path = folder / "training/optimizer.safetensors"
    tensors = load_file(path)
    for content in ({}, tensors | {"other.weight/exp_avg": torch.zeros(1)}, tensors | {"rng": torch.zeros(3)}):
        save_file(content, path)
        with pytest.raises(ValueError, match="optimizer.safetensors is (not of this model|damaged: .* tensor rng)"):
            checkpoint.restore(folder, model, optimizer)
    path.write_bytes(pickle.dumps("text"))
    with pytest.raises(ValueError, match="optimizer.safetensors is damaged"):
        checkpoint.restore(folder, model, optimizer)


NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_weights_that_are_no_numbers_are_named(value, stored, folder):
    weights = {name: tensor.to(stored) for name, tensor in load_file(folder / "model.safetensors").items()}
    weights[NAME][3, 4] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{NAME} holds NaN or infinity"):
        checkpoint.load_model(folder)


def test_other_types_extra_tensors_and_untied_heads_are_refused(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    embedding = weights["model.embed_tokens.weight"]
    for change, message in (
        ({NAME: weights[NAME].to(torch.int8)}, f"'{NAME}' is stored as I8, not as F32, F16 or BF16"),
        ({NAME: weights[NAME].double()}, f"'{NAME}' is stored as F64"),
        ({"a\nb" * 100: embedding}, r"tensor 'a.nba.nb.* is not part of this model$"),
        ({"lm_head.weight": embedding + 1}, "lm_head.weight is not the embedding, but config.json ties the two"),
        ({"lm_head.weight": embedding.half()}, "lm_head.weight is not the embedding"),
        ({"lm_head.weight": embedding[:5]}, "lm_head.weight is not the embedding"),
    ):
        save_file({name: tensor.contiguous().clone() for name, tensor in (weights | change).items()}, path)
        with pytest.raises(ValueError, match=message) as caught:
            checkpoint.load_model(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    copies = {"lm_head.weight": embedding.clone(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(weights | copies, path)  # as older software wrote them
    assert same(dict(checkpoint.load_model(folder).named_parameters()), weights)


def test_damaged_shards_are_named(tmp_path):
    pair(PLAIN)[1].save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    first, second = sorted((tmp_path / "whole").glob("*.safetensors"))[:2]
    index = json.loads((tmp_path / "whole/model.safetensors.index.json").read_text())

    def refused(
        message: str, shard: bytes | None = first.read_bytes(), weight_map: object = index["weight_map"]
    ) -> None:
        copy = shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (copy / first.name).unlink() if shard is None else (copy / first.name).write_bytes(shard)
        with pytest.raises(ValueError, match=message) as caught:
            checkpoint.load_model(copy)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
        shutil.rmtree(copy)

    content = first.read_bytes()
    refused(f"{first.name} is missing", None)
    refused(f"{first.name} is damaged", content[:-1])
    refused(f"{first.name} is damaged", content + b"x")
    refused(f"{first.name} is damaged", b"\xff" * 8 + content[8:])
    refused(f"{first.name} is damaged", content[:8] + b"[" * (len(content) - 8))
    refused(f"{first.name} is damaged", b"")
    refused(f"{second.name}: .* is in {first.name} as well", second.read_bytes())
    refused("is absent", weight_map={"x": second.name})
    for name in (
        f"../whole/{first.name}",
        str(first),
        "..",
        "",
        "config.json",
        None,
        ["a.safetensors"],
        "a" * 5000 + ".safetensors",
    ):
        refused("weight_map must name safetensors files of this folder", weight_map=index["weight_map"] | {"x": name})
    for weight_map in (None, [], {}, "x.safetensors/"):
        refused("weight_map must name safetensors files of this folder", weight_map=weight_map)
    for name in ("a\0.safetensors", "\ud800.safetensors", "absent.safetensors"):
        refused("is missing", weight_map={"x": name})


def test_a_tokenizer_larger_than_the_embedding_is_refused(tokenizer):
    checkpoint.check_vocabulary(ModelConfig(tokenizer.vocab_size), tokenizer)
    message = f"the tokenizer has {tokenizer.vocab_size} ids, but the model's embedding {tokenizer.vocab_size - 1} rows"
    with pytest.raises(ValueError, match=message):
        checkpoint.check_vocabulary(ModelConfig(tokenizer.vocab_size - 1), tokenizer)


def test_a_stale_folder_is_written_anew_and_the_newest_is_left_alone(tokenizer, tmp_path):
    """Stale: a run was killed before `latest` moved. The newest: a run was resumed and stopped again at once."""
    model, optimizer = trained(ModelConfig(320, 32, 1, 2, 1, 16, 16), 1)
    for step, note in ((1, "kept"), (1, "not written"), (2, "fresh")):
        if step == 2:
            (tmp_path / "step_0000002").mkdir()
            (tmp_path / "step_0000002/half").write_text("of another run")
        save(tmp_path, step, model, optimizer, tokenizer, {"note": note}, False, 5)
    assert checkpoint.read_state(tmp_path / "step_0000001") == {"note": "kept"}
    assert checkpoint.read_state(tmp_path / "latest") == {"note": "fresh"}
    assert not (tmp_path / "latest/half").exists()
