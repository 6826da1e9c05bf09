"""Integers instead of weights: rounding, the kernels against torch, folders against transformers, what is refused."""

import json
import shutil
import subprocess
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import PYTHON, REPO, examples
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import chat
import checkpoint
import evaluate
import grow
import kernels
import lora
import native
import quantize
import sample
import train
from quantize import QuantizeConfig
from quantized import (
    QuantizedMatrix,
    Scheme,
    parse_scheme,
    restore,
    round_activations,
    round_matrix,
    round_to_int4,
    stack,
)
from sample import SampleConfig

needs_compiler = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")


def matrix_of(weight: torch.Tensor, bits: int, group_size: int = 32) -> QuantizedMatrix:
    matrix = QuantizedMatrix(*weight.shape, bits, group_size)
    matrix.fill(round_matrix(weight, bits, group_size))
    return matrix


# --- rounding ---


def test_the_example_of_the_module():
    pieces = round_to_int4(torch.tensor([[0.11, 0.25, -0.20, 0.40]]), 4)
    assert pieces["weight_int4"].tolist() == [[8 | 11 << 4, 0 | 15 << 4]]
    assert restore(pieces).flatten().tolist() == pytest.approx([0.12, 0.24, -0.20, 0.40], abs=1e-3)


@examples(100)
@given(st.sampled_from([8, 4]), st.sampled_from([32, 64]), st.integers(0, 2**32))
def test_rounding_is_to_the_nearest(bits, group_size, seed):
    """int8: at most half a step off. int4: no group is worse than with the range from its least to its largest weight,
    and weights that lie on such a grid stay what they are."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 2 * group_size, generator=random) * 10 ** torch.randn(5, 1, generator=random)
    weight[0] = 0
    pieces = round_matrix(weight, bits, group_size)
    found = restore(pieces)
    if bits == 8:
        half_step = weight.abs().amax(1, keepdim=True) / 254
        assert ((found - weight).abs() <= half_step * 1.001).all()
        return

    squares, squares_of_plain = errors_of_groups(weight, group_size)
    assert (squares <= squares_of_plain * 1.02 + 1e-9).all()
    again = restore(round_matrix(found, bits, group_size))
    assert torch.allclose(again, found, rtol=2e-3, atol=float(2e-3 * found.abs().max()))


def errors_of_groups(weight: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared errors of each group as int4: ours, and with the range from the least to the largest weight."""
    groups = weight.unflatten(1, (-1, group_size))
    least = groups.amin(2, keepdim=True)
    step = (groups.amax(2, keepdim=True) - least) / 15
    plain = ((groups - least) / step.clamp(min=1e-30)).round() * step + least
    ours = restore(round_matrix(weight, 4, group_size)).reshape(groups.shape)
    return (ours - groups).square().sum(2), (plain - groups).square().sum(2)


def test_smaller_ranges_are_tried():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    squares, squares_of_plain = errors_of_groups(weight, 64)
    assert squares.sum() < 0.95 * squares_of_plain.sum()


def test_activations_are_rounded_in_groups_of_32():
    """A number of 1000 among small ones spoils its own group, and no other."""
    x = torch.linspace(-1, 1, 80)[None]
    x[0, 3] = 1000
    rounded = round_activations(x)
    assert rounded.shape == x.shape
    assert rounded[0, :32].unique().tolist() == [0, 1000]
    assert ((rounded - x).abs()[0, 32:] <= 1 / 254 + 1e-6).all()


# --- the kernels ---


@needs_compiler
@examples(60)
@given(
    bits=st.sampled_from([8, 4]),
    rows=st.integers(1, 40),
    columns=st.integers(1, 5),
    rest=st.integers(0, 31),
    tokens=st.integers(1, 9),
    group_size=st.sampled_from([32, 64, 160]),
)
def test_a_product_is_that_of_torch(bits, rows, columns, rest, tokens, group_size):
    """Octets and groups that are not full; each token alone gives the same bits."""
    columns = columns * group_size if bits == 4 else columns * 32 + rest
    torch.manual_seed(rows)
    weight, x = torch.randn(rows, columns), torch.randn(tokens, columns)
    x[0, : columns // 2] = 0
    matrix = matrix_of(weight, bits, group_size)

    found = matrix.multiply(x)
    expected = F.linear(round_activations(x), restore(round_matrix(weight, bits, group_size)))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(found, torch.cat([matrix.multiply(row[None]) for row in x]))
    assert torch.equal(matrix.restore(), restore(round_matrix(weight, bits, group_size)))


@needs_compiler
@pytest.mark.parametrize("bits", [8, 4])
def test_largest_integers_do_not_overflow(bits):
    """All weights and numbers as large as they get: the sums of pairs stay below 2^15."""
    weight = torch.ones(8, 64)
    weight[:, 0] = -1
    for sign in (1, -1):
        x = torch.full((1, 64), 3.0 * sign)
        expected = F.linear(x, weight)
        assert torch.allclose(matrix_of(weight, bits).multiply(x), expected, rtol=1e-3)


@needs_compiler
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(bits, bad):
    x = torch.ones(2, 64)
    x[1, 5] = bad
    found = matrix_of(torch.randn(8, 64), bits).multiply(x)
    assert found[0].isfinite().all() and not found[1].isfinite().any()


@needs_compiler
@pytest.mark.slow
def test_other_processors_get_the_same(monkeypatch, tmp_path):
    """The loops without AVX2."""
    torch.manual_seed(0)
    matrices = [matrix_of(torch.randn(20, 96), bits) for bits in (8, 4)]
    x = torch.randn(5, 96)
    fast = [matrix.multiply(x) for matrix in matrices]

    monkeypatch.setenv("NONLLAMA_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-mno-avx2", "-mno-avx512f"))
    native.library.cache_clear()
    plain = kernels.library.__wrapped__()
    native.library.cache_clear()
    monkeypatch.setattr(kernels, "library", lambda: plain)
    for matrix, expected in zip(matrices, fast, strict=True):
        assert torch.allclose(matrix.multiply(x), expected, rtol=1e-5, atol=1e-5)


def test_matrices_are_stacked():
    torch.manual_seed(0)
    weights = [torch.randn(16, 64), torch.randn(8, 64)]
    matrices = [matrix_of(weight, 4) for weight in weights]
    before = [matrix.restore() for matrix in matrices]
    together = stack(matrices)
    assert torch.equal(together.restore(), matrix_of(torch.cat(weights), 4).restore())
    for matrix, expected in zip(matrices, before, strict=True):
        assert torch.equal(matrix.restore(), expected)
        assert matrix.packed.untyped_storage().data_ptr() == together.packed.untyped_storage().data_ptr()


# --- folders ---


def quantized(run_dir: Path, out: Path, **settings) -> Path:
    quantize.main(QuantizeConfig(checkpoint=str(run_dir), out=str(out), measure=False, **settings))
    return out


def float_twin(source: Path, folder: Path) -> AutoModelForCausalLM:
    """transformers' model of the folder that was quantized, with the weights that the integers stand for."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    weights = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            pieces = {end: weights[f"{name.removesuffix('.weight')}.{end}"] for end in ends_of(name, weights)}
            parameter.copy_(restore(pieces) if pieces else weights[name])
    return model.eval()


def ends_of(name: str, weights: dict) -> list[str]:
    prefix = name.removesuffix("weight")
    return [key.removeprefix(prefix) for key in weights if key.startswith(prefix) and key != name]


@pytest.mark.parametrize(
    "settings", [{"bits": 8}, {"bits": 4}, {"bits": 4, "head_bits": 16}, {"bits": 4, "head_bits": 4}]
)
def test_logits_are_those_of_the_weights(run_dir, tmp_path, settings):
    """Next to transformers with the weights that the integers stand for, to the rounding of activations; next to torch
    with the same rounding, to that of sums."""
    source = checkpoint.resolve(run_dir)
    folder = quantized(run_dir, tmp_path / "small", **settings)
    ids = torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(0))
    peer = float_twin(source, folder)
    model = checkpoint.load_model(folder).eval()
    with torch.no_grad():
        expected = peer(ids).logits
        found = model(ids)
        of_weights = checkpoint.load_model(source)(ids)
    assert (found - expected).norm() <= 0.02 * expected.norm()
    assert (found - expected).norm() < 0.5 * (found - of_weights).norm() or settings["bits"] == 8

    config = json.loads((folder / "config.json").read_text())
    assert parse_scheme(config) == Scheme(**settings)
    same = load_file(folder / "model.safetensors")
    assert {name for name in same if "norm" in name} == {name for name, _ in peer.named_parameters() if "norm" in name}


@pytest.mark.parametrize("bits", [8, 4])
def test_torch_computes_the_same_without_kernels(run_dir, tmp_path, bits, monkeypatch):
    folder = quantized(run_dir, tmp_path / "small", bits=bits)
    ids = torch.randint(300, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fast = checkpoint.load_model(folder)(ids)
        monkeypatch.setattr(kernels, "library", lambda: None)
        slow = checkpoint.load_model(folder)(ids)
    assert torch.allclose(fast, slow, rtol=1e-2, atol=1e-3 * float(slow.abs().max()))


def test_every_command_opens_it(run_dir, tmp_path, capsys):
    """sample.py writes what it writes when it quantizes while loading; chat.py and evaluate.py open the folder."""
    folder = quantized(run_dir, tmp_path / "small", bits=4)
    texts = []
    for options in ({"checkpoint": str(folder)}, {"checkpoint": str(run_dir), "bits": 4}):
        capsys.readouterr()
        sample.main(SampleConfig(prompt="the ", temperature=0, max_new_tokens=12, **options))
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and len(texts[0]) > 5

    chat.load(chat.ChatConfig(checkpoint=str(folder)))
    text = tmp_path / "held_out.txt"
    text.write_text("the quick brown fox " * 5)
    evaluate.main(evaluate.EvaluateConfig(checkpoint=str(folder), tasks=str(text), out_dir=str(tmp_path / "scores")))
    assert "bits_per_byte" in (tmp_path / "scores/scores.json").read_text()


def test_both_models_are_measured(run_dir, tmp_path, capsys):
    """What is printed is evaluate.py's figure for the same bytes."""
    text = tmp_path / "held_out.txt"
    text.write_text("she sells sea shells, and so do I. " * 4)
    out = tmp_path / "small"
    quantize.main(QuantizeConfig(checkpoint=str(run_dir), out=str(out), text=str(text)))
    line = capsys.readouterr().out.splitlines()[-1]
    for folder, place in ((run_dir, "before"), (out, "now")):
        figure = quantize.bits_per_byte(checkpoint.resolve(folder), text.read_text())
        assert f"{figure:.4f} {place}" in line


@pytest.mark.parametrize(
    ("measure", "free", "said"),
    [
        (False, 10**12, "wrote"),  # the last line is that of the folder
        (None, None, "bits per byte of"),  # the system does not say
        (None, 10**12, "bits per byte of"),
        (None, 1000, "not measured: in float32 the model does not fit into free memory; --measure=True tries"),
        (True, 1000, "bits per byte of"),
    ],
)
def test_what_is_measured_without_asking_fits_into_memory(measure, free, said, run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantize, "free_memory", lambda: free)
    text = tmp_path / "held_out.txt"
    text.write_text("she sells sea shells. ")
    out = str(tmp_path / "small")
    quantize.main(QuantizeConfig(checkpoint=str(run_dir), out=out, text=str(text), measure=measure))
    assert said in capsys.readouterr().out.splitlines()[-1]


def test_shards_hold_the_same(run_dir, tmp_path, monkeypatch):
    whole = quantized(run_dir, tmp_path / "whole", bits=4)
    monkeypatch.setattr(checkpoint, "write_one_by_one", lambda *args: WRITE(*args, shard_bytes=4000))
    cut = quantized(run_dir, tmp_path / "cut", bits=4)
    assert len(list(cut.glob("*.safetensors"))) > 3 and not list(cut.glob("part-*"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(checkpoint.load_model(whole)(ids), checkpoint.load_model(cut)(ids))


WRITE = checkpoint.write_one_by_one


def test_one_file_and_one_matrix_are_held_at_a_time(tmp_path):
    """Of 40 matrices of 4,000 bytes, in files of 20,000, never more than six are in memory."""
    alive = weakref.WeakSet()
    most = 0

    def tensors():
        nonlocal most
        for number in range(40):
            tensor = torch.zeros(4000, dtype=torch.uint8)
            alive.add(tensor)
            most = max(most, len(alive))
            yield {str(number): tensor}
            del tensor

    assert checkpoint.write_one_by_one(tmp_path, tensors(), shard_bytes=20_000) == 160_000
    assert len(list(tmp_path.glob("*.safetensors"))) == 8 and most <= 7


def test_nothing_half_written_stays(run_dir, tmp_path, monkeypatch):
    """Ctrl-C after the first file."""

    def stop(folder, tensors):
        save_file(next(tensors), folder / "part-0.safetensors")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_one_by_one", stop)
    with pytest.raises(KeyboardInterrupt):
        quantized(run_dir, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


# --- what is refused ---


def test_mistakes_are_one_line_that_names_the_fix(run_dir, tmp_path):
    folder = quantized(run_dir, tmp_path / "small", bits=4)
    (tmp_path / "there").mkdir()
    cases = [
        ({"checkpoint": str(folder)}, "the weights are quantized, int4 .*; take the folder that it was made from"),
        ({"checkpoint": str(tmp_path / "none")}, "none holds no checkpoint"),
        ({"out": str(tmp_path / "there")}, "there exists already; name another --out"),
        ({"bits": 4, "group_size": 48}, "group_size=48 must be a multiple of 32"),
        ({"bits": 4, "group_size": 96}, "not a multiple of 96; try --group_size=32"),
        ({"text": "no.txt"}, "no.txt: no such file; leave it out for README.md, or --measure=False"),
        ({"to": "gguf", "text": "no.txt"}, "a GGUF file is not measured here; leave out --text and --measure"),
        ({"to": "gguf", "measure": True}, "a GGUF file is not measured here"),
        ({"to": "gguf", "head_bits": 4}, "a head of 4 bits behind blocks of 8 is not written; give --bits=4"),
    ]
    for settings, message in cases:
        settings = {"checkpoint": str(run_dir), "out": str(tmp_path / "new")} | settings
        with pytest.raises(ValueError, match=message):
            quantize.main(QuantizeConfig(**settings))
        assert not (tmp_path / "new").exists()

    done = subprocess.run([PYTHON, "quantize.py", "--bits=3"], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "bits" in done.stderr and "Traceback" not in done.stderr


def test_integers_are_not_trained_or_changed(run_dir, data_dir, tmp_path):
    folder = str(quantized(run_dir, tmp_path / "small", bits=4))
    with pytest.raises(ValueError, match="is quantized already.*leave out --bits=8"):
        lora.find_source(folder, None, bits=8)
    with pytest.raises(ValueError, match="they can be read, and not changed"):
        grow.main(grow.GrowConfig(checkpoint=folder, out_dir=str(tmp_path / "grown")))
    with pytest.raises(ValueError, match="they can be read, and not changed"):
        train.main(train.TrainConfig(data=str(data_dir), init_from=folder, out_dir=str(tmp_path / "run"), max_iters=2))


def test_damaged_folders_are_named(run_dir, tmp_path):
    whole = quantized(run_dir, tmp_path / "small", bits=4)
    name = "model.layers.0.mlp.up_proj"
    for change, message in (
        (lambda w: w.pop(f"{name}.weight_min"), "up_proj.weight_min' is absent"),
        (lambda w: w.update({f"{name}.weight_scale": torch.zeros(1, 1).half()}), "config.json says F16 of shape"),
        (lambda w: w.update({f"{name}.more": torch.zeros(1)}), "up_proj.more' is not part of this model"),
        (lambda w: w[f"{name}.weight_min"].fill_(float("nan")), "weight_min holds NaN"),
    ):
        weights = load_file(whole / "model.safetensors")
        change(weights)
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            checkpoint.load_model(folder)

    config = json.loads((whole / "config.json").read_text())
    for change in ({"bits": 3}, {"group_size": 33}, {"head_bits": "8"}, {"more": 1}, {"quant_method": "gptq"}):
        with pytest.raises(ValueError, match="quantization_config"):
            parse_scheme({"quantization_config": config["quantization_config"] | change})
