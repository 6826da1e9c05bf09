"""The benchmarks of small weights: what they count is what they say. No time or memory is asserted."""

import math
import shutil

import pytest
import torch
from conftest import REPO
from safetensors.torch import load_file, save_file

import checkpoint
import kernels
import quantize
from benchmarks import lookup, products, quantization_quality, quantize_memory
from benchmarks.quantization_quality import QualityConfig
from model import ModelConfig
from tokenizer import Tokenizer

pytestmark = pytest.mark.bench


@pytest.mark.parametrize(
    ("ids", "k", "guess"),
    [
        ([1, 2, 3, 4, 1, 2, 3], 2, [4, 1]),
        ([1, 2, 3, 4, 1, 2, 3], 9, [4, 1, 2, 3]),  # as many as there are
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, [5]),  # the last place
        ([1, 2, 3, 4, 5, 6], 3, []),
        ([1, 2], 3, []),
        ([7, 7, 7, 7], 1, [7]),
    ],
)
def test_a_draft_is_what_followed_the_newest_tokens_before(ids, k, guess):
    assert lookup.draft(ids, k) == guess


def test_passes_write_the_answer_and_count_what_they_read():
    prompt = [1, 2, 3, 4, 5, 6]
    # 1 and 2 and 3 without a draft; then the draft 4 5 6 is kept with a 9 behind it; then 1 without a draft
    assert lookup.count_passes(prompt, [1, 2, 3, 4, 5, 6, 9, 1], 3) == [1, 1, 1, 4, 1]
    # the draft 4 5 6 is wrong from its second token on: 4 and 8 are written
    assert lookup.count_passes(prompt, [1, 2, 3, 4, 8], 3) == [1, 1, 1, 4]
    # a draft that goes on behind the end of the answer
    assert lookup.count_passes(prompt, [1, 2, 3, 4], 3) == [1, 1, 1, 4]
    assert lookup.count_passes(prompt, [8, 9, 10], 3) == [1, 1, 1]


@pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")
def test_all_products_are_that_of_the_weights_and_another_is_refused(capsys):
    products.main(products.ProductsConfig(rounds=1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(products.KINDS)

    weight = torch.randn(products.OUT, products.IN)
    with pytest.raises(ValueError, match="does not compute the product"):
        products.checked("a wrong one", lambda x: x @ weight.t() * 1.1, weight)


def test_quality_is_that_of_each_folder_on_the_same_windows(run_dir, tmp_path, capsys):
    text = tmp_path / "held_out.txt"
    text.write_text("she sells sea shells, and so do I. " * 20)
    cfg = QualityConfig(checkpoint=str(run_dir), text=str(text), out=str(tmp_path / "out"))
    quantization_quality.main(cfg)
    printed = capsys.readouterr().out

    folder = checkpoint.resolve(run_dir)
    tokenizer = Tokenizer.load(folder)
    shape = checkpoint.read_config(folder)
    held_out = quantization_quality.read_held_out(cfg, tokenizer, shape.block_size)
    assert held_out.size_bytes == text.stat().st_size
    assert sum(held_out.windows, []).count(tokenizer.start) == len(held_out.windows) > 1
    assert max(map(len, held_out.windows)) == 1 + shape.block_size

    model = checkpoint.load_model(folder).eval()
    with torch.no_grad():
        nats = sum(model(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]])).item() for ids in held_out.windows)
    expected = nats / math.log(2) / held_out.size_bytes
    first = next(line for line in printed.splitlines() if line.startswith("as it was, float32"))
    assert f"{expected:.4f}" in first and "+0.00%" in first
    shown = [kind for kind in quantization_quality.SCHEMES if f"\n{kind} " in printed]
    fitting = [
        kind for kind, scheme in quantization_quality.SCHEMES.items() if quantization_quality.fits(scheme, shape)
    ]
    assert shown == fitting and "int8, head int8" in shown and len(shown) >= 2


def test_what_was_made_of_other_weights_is_not_used(run_dir, tmp_path, capsys):
    """Two models of one name, one after the other, into one --out."""
    text = tmp_path / "held_out.txt"
    text.write_text("she sells sea shells, and so do I. " * 4)
    folder = shutil.copytree(checkpoint.resolve(run_dir), tmp_path / "model")
    cfg = QualityConfig(checkpoint=str(folder), text=str(text), only="int8, head int8", out=str(tmp_path / "out"))
    quantization_quality.main(cfg)

    weights = load_file(folder / "model.safetensors")
    save_file({name: 3 * tensor for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    quantization_quality.main(cfg)
    changes = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.endswith("%")]
    assert len(changes) == 3 and all(abs(float(change.removesuffix("%"))) < 1 for change in changes)


def test_a_split_is_read_instead_of_a_file(run_dir, data_dir):
    folder = checkpoint.resolve(run_dir)
    tokenizer = Tokenizer.load(folder)
    cfg = QualityConfig(data=str(data_dir), max_bytes=300)
    held_out = quantization_quality.read_held_out(cfg, tokenizer, 32)
    ids = [token for window in held_out.windows for token in window[1:]]
    assert len(ids) == 300 // quantization_quality.BYTES_OF_A_TOKEN
    assert held_out.size_bytes == len(tokenizer.decode(ids, show_special=False).encode())


def test_mistakes_are_one_line(tmp_path):
    for settings, message in [
        ({}, "give one of --text=FILE and --data=FOLDER"),
        ({"text": "a", "data": "b"}, "give one of"),
        ({"text": str(tmp_path / "no.txt")}, "no such file"),
        ({"text": str(REPO / "README.md"), "max_bytes": 0}, "must be at least 1"),
        ({"text": str(REPO / "README.md"), "only": "int5"}, "no kind has a name with 'int5'; there are: int8, head"),
    ]:
        with pytest.raises(ValueError, match=message):
            quantization_quality.main(QualityConfig(**settings))
    with pytest.raises(ValueError, match="no kind has a name with 'int5'; there are: int8, int4, GGUF"):
        quantize_memory.main(quantize_memory.MemoryConfig(only="int5"))
    with pytest.raises(ValueError, match="new_tokens"):
        lookup.main(lookup.LookupConfig(new_tokens=0))


@pytest.mark.slow  # a process for each kind
def test_a_generated_model_is_quantized_in_all_ways(run_dir, tmp_path, monkeypatch, capsys):
    shape = ModelConfig(512, 64, 2, 4, 2, 64, 128, tie_embeddings=False)
    monkeypatch.setattr(quantize_memory, "SHAPE", shape)
    cfg = quantize_memory.MemoryConfig(tokenizer=str(run_dir), work=str(tmp_path), layers=1)
    quantize_memory.main(cfg)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in lines[-4:]] == list(quantize_memory.KINDS)
    assert all(" GB (at most 3: " in line for line in lines[-4:]) and not list(tmp_path.iterdir())


def test_a_generated_model_opens(run_dir, tmp_path):
    shape = ModelConfig(512, 64, 1, 4, 2, 64, 128, tie_embeddings=False)
    tokenizer = Tokenizer.load(checkpoint.resolve(run_dir))
    written = quantize_memory.generate(tmp_path / "model", shape, tokenizer)
    model = checkpoint.load_model(tmp_path / "model")
    assert written == 2 * model.num_parameters()
    weights = model.model.layers[0].mlp.up_proj.weight
    assert 0.015 < weights.std() < 0.025 and not torch.equal(weights[0], weights[1])
    quantize.main(
        quantize.QuantizeConfig(checkpoint=str(tmp_path / "model"), out=str(tmp_path / "small"), measure=False)
    )
