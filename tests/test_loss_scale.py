"""float16: the factor of the loss, as torch's GradScaler has it; training with it."""

import pytest
import torch
from conftest import TINY
from test_train import metrics

import checkpoint
import loss_scale
import train
from loss_scale import LossScale


def test_it_grows_and_shrinks_as_torchs_scaler_does(monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 1024.0)
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    own = LossScale(torch.device("cpu"))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.0)

    for finite in (True, True, True, True, False, True, True, False, False, True, True, True, True, True):
        scaler.scale(weight.sum() if finite else weight.sum() * torch.inf).backward()
        scaler.step(optimizer)
        scaler.update()
        weight.grad = None
        own.update(torch.tensor(finite))
        assert own.factor.item() == scaler.get_scale()


def test_what_it_multiplies_it_takes_away_without_rounding():
    own = LossScale(torch.device("cpu"))
    plain, scaled, unused = (torch.nn.Parameter(torch.randn(7, generator=torch.manual_seed(0))) for _ in range(3))
    (plain**3).sum().backward()
    own.apply((scaled**3).sum()).backward()
    assert torch.equal(scaled.grad, plain.grad * loss_scale.FIRST)
    own.remove([scaled, unused])
    assert torch.equal(scaled.grad, plain.grad)


def test_float16_trains_as_float32_and_skips_what_overflows(data_dir, run_dir, tmp_path, monkeypatch):
    """The factor begins too high: steps are skipped, and halve it, until gradients are finite."""
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**24)
    settings = TINY | {"dtype": "float16", "max_iters": 30, "lr_decay_iters": 20}
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **settings))

    rows = [row for row in metrics(tmp_path) if "loss" in row]
    factor = 2.0**24
    for row in rows:
        assert row["loss_scale"] == factor
        if "skipped" in row:
            factor /= 2
    n_skipped = sum("skipped" in row for row in rows)
    assert "skipped" in rows[0] and n_skipped < 10
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=0.02), "the first step changed no weight"
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    taken = next(row for row in rows if "skipped" not in row)
    in_float32 = metrics(run_dir)[1]  # AdamW would not see a factor: the norm does
    assert taken["grad_norm"] == pytest.approx(in_float32["grad_norm"], rel=0.5)
    assert checkpoint.read_state(tmp_path / "latest")["loss_scale"]["factor"] == factor


@pytest.mark.slow
def test_two_processes_in_either_mode_train_as_one(data_dir, tmp_path):
    """Bits differ between the modes, losses by what float16 rounds."""
    from ranks import finished

    losses = {}
    for processes, mode in ((0, "ddp"), (2, "ddp"), (2, "fsdp")):
        out = tmp_path / f"{processes}{mode}"
        settings = TINY | {"data": data_dir, "out_dir": out, "dtype": "float16", "parallel": mode, "batch_size": 4}
        finished(processes, settings | {"max_iters": 10})
        losses[processes, mode] = [row["loss"] for row in metrics(out) if "loss" in row]
    alone, *others = losses.values()
    for other in others:
        assert other == pytest.approx(alone, rel=2e-3)
