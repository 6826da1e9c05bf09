"""Products in float8, next to the same numbers multiplied in float64; training with them."""

import pytest
import torch
from conftest import TINY
from test_train import metrics

import train
from float8 import BACKWARD, FORWARD, Float8Linear, check_device, quantize
from model import Linear


def rounded(x: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """x as float8 holds it, in float64."""
    x8, scale = quantize(x, kind)
    return x8.double() * scale.double()


def test_the_worked_example():
    x8, scale = quantize(torch.tensor([1.0, -2.0, 0.3]), FORWARD)
    assert x8.tolist() == [224.0, -448.0, 64.0] and scale.item() == pytest.approx(2 / 448)
    zeros, _ = quantize(torch.zeros(3), BACKWARD)
    assert zeros.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e4])
def test_products_and_gradients_are_those_of_the_rounded_numbers(factor):
    """Tensors far from 1 lose no more than others; 30 rows are no multiple of 16."""
    torch.manual_seed(0)
    layer = Float8Linear(32, 48, bias=False)
    x = (factor * torch.randn(2, 15, 32)).requires_grad_()
    grad = factor * torch.randn(2, 15, 48)
    y = layer(x)
    y.backward(grad)

    x_rounded = rounded(x.detach(), FORWARD).flatten(0, 1)
    w_rounded = rounded(layer.weight.detach(), FORWARD)
    g_rounded = rounded(grad, BACKWARD).flatten(0, 1)
    expected = {
        "y": (y.flatten(0, 1), x_rounded @ w_rounded.t()),
        "x": (x.grad.flatten(0, 1), g_rounded @ w_rounded),
        "weight": (layer.weight.grad, g_rounded.t() @ x_rounded),
    }
    for name, (found, wanted) in expected.items():
        worst = (found.double() - wanted).abs().max() / wanted.abs().max()
        assert worst < 1e-5, name


def test_without_gradients_it_is_the_plain_layer():
    layer = Float8Linear(32, 48, bias=True)
    plain = Linear(32, 48, bias=True)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(3, 32)
    with torch.no_grad():
        assert torch.equal(layer(x), plain(x))
    assert not torch.equal(layer(x), plain(x))


def test_a_run_learns_as_in_bfloat16_and_leaves_the_same_files(data_dir, tmp_path):
    losses = []
    for float8 in (False, True):
        out = tmp_path / str(float8)
        settings = TINY | {"dtype": "bfloat16", "float8": float8}
        train.main(train.TrainConfig(data=str(data_dir), out_dir=str(out), **settings))
        losses.append([row["loss"] for row in metrics(out) if "loss" in row])
    plain, in_float8 = losses
    assert in_float8 == pytest.approx(plain, rel=0.02)
    assert in_float8 != plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float32"}, "--float8 goes with products in bfloat16"),
        ({"dtype": "bfloat16", "ffn_hidden": 72}, "multiples of 16, and layers.0.mlp.gate_proj is 72 x 32"),
    ],
)
def test_what_cannot_be_is_one_line(data_dir, tmp_path, changes, message):
    settings = TINY | {"float8": True} | changes
    with pytest.raises(ValueError, match=message):
        train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path / "out"), **settings))
    assert not (tmp_path / "out").exists()


def test_a_gpu_must_have_it(monkeypatch):
    for capability, fits in (((8, 0), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        if fits:
            check_device(torch.device("cuda"), torch.bfloat16)
        else:
            with pytest.raises(ValueError, match="Ada or Hopper"):
                check_device(torch.device("cuda"), torch.bfloat16)
