"""GGUF files: dequantized by the package gguf, opened by transformers, and read back; what is refused."""

import dataclasses
import json
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from transformers import AutoModelForCausalLM

import checkpoint
import gguf_files
import quantize
from gguf_files import ImportConfig, gguf_name, hf_name, to_halves, to_neighbours
from model import Llama, ModelConfig, RopeScaling
from quantize import QuantizeConfig
from quantized import restore, round_matrix
from tokenizer import Tokenizer

SIZES = dict(block_size=64, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, ffn_hidden=96)
SHAPES = {
    "llama": {"tie_embeddings": False},
    "llama 3.1": {"rope_scaling": RopeScaling(), "rope_theta": 5e5},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 128},  # what transformers takes for every Qwen3 file
}


@pytest.fixture(scope="module", params=SHAPES)
def folder(request, data_dir, tmp_path_factory) -> Path:
    """A random model of each family, with the tokenizer of the small corpus."""
    tokenizer = Tokenizer.load(data_dir)
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=tokenizer.vocab_size + 4, **SIZES, **SHAPES[request.param])
    model = Llama(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("model") / "folder"
    folder.mkdir()
    checkpoint.write_model(folder, dict(model.named_parameters()), checkpoint.small_files(model, tokenizer, {}))
    return folder


def export(folder: Path, path: Path, kind: str) -> gguf.GGUFReader:
    quantize.main(QuantizeConfig(checkpoint=str(folder), to="gguf", gguf_type=kind, out=str(path)))
    return gguf.GGUFReader(path)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_are_read_as_they_were_meant(folder, tmp_path, kind):
    """Q4_1 is our int4, bit for bit; Q8_0 and Q4_0 are gguf's own; embedding and head have eight bits."""
    reader = export(folder, tmp_path / "model.gguf", kind)
    model = checkpoint.load_model(folder)
    weights = dict(model.named_parameters())
    architecture = reader.fields["general.architecture"].contents()
    found = {hf_name(tensor.name): tensor for tensor in reader.tensors if tensor.name != gguf_files.ROPE_FACTORS}
    assert found.keys() == weights.keys()

    for name, weight in weights.items():
        tensor = found[name]
        numbers = torch.from_numpy(quants.dequantize(tensor.data.copy(), tensor.tensor_type))
        if gguf_files.is_turned(name, architecture):
            numbers = to_halves(numbers, model.cfg.head_width)
        if weight.dim() == 1:
            assert torch.equal(numbers, weight)
            continue
        own_kind = Type.Q8_0 if name in (checkpoint.EMBEDDING, checkpoint.HEAD) else Type[kind]
        assert tensor.tensor_type == own_kind
        if own_kind == Type.Q4_1:
            assert torch.equal(numbers, restore(round_matrix(weight, 4, 32)))
        else:
            blocks = quants.quantize(weight.detach().numpy(), own_kind)
            assert torch.equal(numbers, torch.from_numpy(quants.dequantize(blocks, own_kind)))


def test_transformers_opens_it(folder, tmp_path):
    """The same logits, from the floats of the file."""
    export(folder, tmp_path / "model.gguf", "F32")
    ids = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))
    ours = checkpoint.load_model(folder)
    if ours.cfg.rope_scaling is not None:
        pytest.skip("transformers leaves out rope_freqs.weight")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(ours(ids), theirs(ids).logits, rtol=1e-3, atol=1e-4)


def test_a_folder_is_made_of_it_again(folder, tmp_path):
    """Floats as they were, the same shape, and the same ids of a text."""
    export(folder, tmp_path / "model.gguf", "F32")
    gguf_files.main(ImportConfig(gguf=str(tmp_path / "model.gguf"), out=str(tmp_path / "again")))
    before, after = checkpoint.load_model(folder), checkpoint.load_model(tmp_path / "again")
    assert dataclasses.asdict(after.cfg) == dataclasses.asdict(before.cfg)
    for name, weight in before.named_parameters():
        assert torch.equal(weight, after.get_parameter(name)), name

    old, new = Tokenizer.load(folder), Tokenizer.load(tmp_path / "again")
    text = "the quick  brown fox, don't\n\n ünïcode 12 <|endoftext|>"
    assert new.encode_prompt(text) == old.encode_prompt(text)
    assert (new.end_of_text, new.start, new.stops) == (old.end_of_text, old.start, old.stops)


def test_what_is_quantized_comes_back_as_float16(folder, tmp_path):
    reader = export(folder, tmp_path / "model.gguf", "Q8_0")
    gguf_files.main(ImportConfig(gguf=str(tmp_path / "model.gguf"), tokenizer=str(folder)))
    made = checkpoint.load_model(tmp_path / "model")
    (tensor,) = [tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_down.weight"]
    expected = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type)).half().float()
    assert torch.equal(made.get_parameter("model.layers.1.mlp.down_proj.weight"), expected)


def test_the_example_of_the_module():
    rows = torch.arange(12)[:, None]
    assert to_neighbours(rows, 6).flatten().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(to_halves(to_neighbours(rows, 6), 6), rows)
    assert gguf_name("model.layers.31.mlp.up_proj.weight") == "blk.31.ffn_up.weight"
    assert hf_name("blk.31.ffn_up.weight") == "model.layers.31.mlp.up_proj.weight"


def test_mistakes_are_one_line(run_dir, tmp_path):
    export(run_dir, tmp_path / "model.gguf", "F32")
    (tmp_path / "none.gguf").write_text("no")
    (tmp_path / "there").mkdir()
    for settings, message in (
        ({"gguf": str(tmp_path / "absent.gguf")}, "absent.gguf: no such file"),
        ({"gguf": str(tmp_path / "none.gguf")}, "none.gguf: not a readable GGUF file"),
        ({"gguf": str(tmp_path / "model.gguf"), "out": str(tmp_path / "there")}, "there exists already"),
    ):
        with pytest.raises(ValueError, match=message):
            gguf_files.main(ImportConfig(**settings))
    for settings, message in (
        ({"checkpoint": str(tmp_path / "model.gguf")}, "python gguf_files.py --gguf=.*model.gguf makes a folder of it"),
        ({"gguf_type": "Q4_0"}, "give --to=gguf as well"),
        ({"to": "gguf", "out": str(tmp_path / "model.gguf")}, "model.gguf exists already"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize.main(QuantizeConfig(**{"checkpoint": str(run_dir)} | settings))

    with pytest.raises(ValueError, match="tensor 'blk.0.ffn_gate_exps.weight' is not part of a model"):
        hf_name("blk.0.ffn_gate_exps.weight")


def test_a_tokenizer_that_llama_cpp_has_not_is_refused(run_dir, tmp_path):
    folder = checkpoint.resolve(run_dir)
    files = checkpoint.companions(folder)
    spec = json.loads(files["tokenizer.json"])
    spec["pre_tokenizer"] = {"type": "Whitespace"}
    other = tmp_path / "other"
    other.mkdir()
    for name, content in (files | {"tokenizer.json": json.dumps(spec).encode()}).items():
        (other / name).write_bytes(content)
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="only byte-level BPEs are written"):
        export(other, tmp_path / "model.gguf", "F32")
    assert not list(tmp_path.glob("*.gguf*"))
