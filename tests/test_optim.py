"""The schedule against its formula, Muon against torch's own, and steps that are skipped against steps never taken."""

import math

import pytest
import torch
from test_model import random_model

import muon
import optim
from model import ModelConfig
from optim import Optimizer, learning_rate
from train import TrainConfig

SHAPE = ModelConfig(64, 16, 2, 4, 2, 32, 48)


def gradients(model, seed: int) -> None:
    """The gradient of a random batch."""
    ids = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(seed))
    (model(ids[:, :-1], ids[:, 1:]) / 64).backward()


def taken(cfg: TrainConfig, steps: list[bool | None], keep_gradients: bool = False) -> dict[str, torch.Tensor]:
    """Weights and state after these steps; False: one that is not finite, its gradient NaN; None: none at all."""
    model = random_model(SHAPE)
    optimizer = Optimizer(model, cfg, torch.device("cpu"))
    if keep_gradients:
        optimizer.keep_gradients()
    places = [parameter.grad for parameter in model.parameters()]
    for i, finite in enumerate(steps):
        if finite is not None:
            gradients(model, i)
            gradients(model, 100 + i)
            if not finite:
                model.lm_head.weight.grad.fill_(math.nan)
                model.model.layers[0].mlp.up_proj.weight.grad[3, 2] = math.inf
            optimizer.step(0.01, torch.tensor(finite))
            for parameter, place in zip(model.parameters(), places, strict=True):
                assert parameter.grad is place and (place is None or place.abs().max() == 0)
    found = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        found |= {f"{name}/{field}": value for field, value in optimizer.state[parameter].items()}
    return found


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_skipped_step_is_as_if_it_had_never_been(kind):
    """Weights, both moments and the count of steps; the first step of all may be one, too."""
    cfg = TrainConfig(optimizer=kind)
    for skipped, never in (([True, False, True], [True, None, True]), ([False, True], [None, True])):
        a, b = taken(cfg, skipped), taken(cfg, never)
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_gradients_that_stay_where_they_are_have_the_same_bits(kind):
    """As CUDA graphs want them; one of the steps is skipped, for NaN, and leaves zeros."""
    cfg = TrainConfig(optimizer=kind)
    come_and_go, kept = [taken(cfg, [True, False, True], keep) for keep in (False, True)]
    assert all(torch.equal(come_and_go[name], kept[name]) for name in come_and_go)


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(monkeypatch):
    """Against torch's own, which computes in bfloat16 and one matrix after the other: here both in float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    monkeypatch.setattr(muon, "STACK_NUMBERS", 3 * 32 * 48)  # of the six matrices of this size three at a time
    settings = {"learning_rate": 0.01, "muon_lr": 0.03, "weight_decay": 0.2, "dtype": "float32"}
    cfg = TrainConfig(optimizer="muon", **settings)
    ours, theirs = random_model(SHAPE), random_model(SHAPE)
    first = [parameter.detach().clone() for parameter in theirs.parameters()]
    optimizer = Optimizer(ours, cfg, torch.device("cpu"))
    inner = [p for name, p in theirs.named_parameters() if p.dim() == 2 and "layers" in name]
    outer = [p for name, p in theirs.named_parameters() if p.dim() != 2 or "layers" not in name]
    their_muon = torch.optim.Muon(inner, lr=0.03, weight_decay=0.2, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(outer, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step in range(4):
        gradients(ours, step)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.grad = a.grad.clone()  # Muon amplifies what two models' gradients differ by
        optimizer.step(0.005, torch.tensor(True))  # half the peak, for both
        their_muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = 0.015, 0.005
        their_muon.step()
        adamw.step()
    for a, b, before in zip(ours.parameters(), theirs.parameters(), first, strict=True):
        assert (a - b).norm() < 1e-4 * (b - before).norm()
    for parameter, same in zip(ours.parameters(), theirs.parameters(), strict=True):
        if same in their_muon.state:
            momentum = optimizer.state[parameter]["momentum_buffer"]
            torch.testing.assert_close(momentum, their_muon.state[same]["momentum_buffer"])


def test_in_float16_muon_sees_gradients_that_are_too_small_for_it():
    """Of 1e-8 and less, which are zeros in float16; the size of a whole gradient changes nothing."""
    moved = {}
    for factor in (1.0, 1e-5):
        model = random_model(SHAPE)
        first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        optimizer = Optimizer(model, TrainConfig(optimizer="muon", dtype="float16"), torch.device("cpu"))
        gradients(model, 1)
        for parameter in model.parameters():
            parameter.grad *= factor
        optimizer.step(0.01, torch.tensor(True))
        name = "model.layers.1.mlp.up_proj.weight"
        moved[factor] = model.get_parameter(name).detach() - first[name]
    assert (moved[1e-5] - moved[1.0]).norm() < 0.05 * moved[1.0].norm()


def test_with_even_rows_muon_does_not_ask_how_long_a_row_is():
    """Rows of the gradients from 1e-9 to 1e3 times as long, and one of zeros."""
    lengths = torch.logspace(-9, 3, 24).unsqueeze(1)
    weights = {}
    for name, factors in (("even", torch.ones(24, 1)), ("uneven", lengths)):
        numbers = torch.Generator().manual_seed(1)
        matrix = torch.nn.Parameter(torch.zeros(24, 64))
        optimizer = muon.Muon([{"params": [matrix]}], lr=0.1, dtype=torch.float32, has_even_rows=True)
        for _ in range(3):
            matrix.grad = torch.randn(24, 64, generator=numbers) * factors
            matrix.grad[7] = 0
            optimizer.step(torch.tensor(True))
        weights[name] = matrix.detach()
    assert (weights["uneven"] - weights["even"]).norm() < 1e-4 * weights["even"].norm()
    assert weights["even"][8].any() and not weights["even"][7].any()


def test_orthogonal_matrices_keep_the_directions_and_lose_the_sizes():
    """Singular values from 0.03 to 1 become 0.65 to 1.25, wide and tall, and those of a matrix of zeros stay 0."""
    matrices = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(matrices, full_matrices=False)
    matrices = U @ torch.diag_embed(torch.logspace(-1.5, 0, 24, dtype=torch.float64).expand_as(S)) @ Vh
    for given, left, right in ((matrices, U, Vh), (matrices.mT, Vh.mT, U.mT)):
        sizes = left.mT @ muon.orthogonalise(given) @ right.mT
        found = sizes.diagonal(dim1=-2, dim2=-1)
        assert found.min() > 0.65 and found.max() < 1.25
        torch.testing.assert_close(sizes, torch.diag_embed(found))
    assert not muon.orthogonalise(torch.zeros(1, 3, 4)).any()


def test_linear_and_cosine_go_from_the_peak_to_min_lr():
    options = {"learning_rate": 1.0, "min_lr": 0.1, "warmup_iters": 4, "lr_decay_iters": 14, "max_iters": 99}
    for schedule, half, quarter in (("linear", 0.55, 0.775), ("cosine", 0.55, 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)):
        cfg = TrainConfig(schedule=schedule, **options)
        rates = [learning_rate(step, cfg) for step in range(20)]
        assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
        assert rates[9] == pytest.approx(half)
        assert (rates[6] + rates[7]) / 2 == pytest.approx(quarter, abs=5e-3)
        assert rates[14:] == pytest.approx([0.1] * 6)


def test_a_schedule_is_one_function_and_one_entry(monkeypatch):
    """Cosine with restarts (arXiv 1608.03983): 3 waves."""

    def cosine_with_restarts(step, cfg):
        done = optim.progress(step, cfg.warmup_iters, optim.decay_end(cfg))
        return 0.5 * (1 + math.cos(math.pi * (3 * done % 1)))

    monkeypatch.setitem(optim.SCHEDULES, "cosine_with_restarts", cosine_with_restarts)
    cfg = TrainConfig(schedule="cosine_with_restarts", learning_rate=1.0, warmup_iters=0, max_iters=30)
    rates = [learning_rate(step, cfg) for step in (0, 5, 10, 15, 20, 25)]
    assert rates == pytest.approx([1.0, 0.5] * 3)


def test_wsd_keeps_the_peak_and_decays_at_the_end_wherever_that_is():
    cfg = TrainConfig(schedule="wsd", learning_rate=1.0, min_lr=0.1, warmup_iters=10, max_iters=100, decay_iters=20)
    rates = [learning_rate(step, cfg) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[81:] == pytest.approx([1 - 0.9 * (step - 80) / 20 for step in range(81, 101)])
    longer = TrainConfig(schedule="wsd", learning_rate=1.0, warmup_iters=10, max_iters=300, decay_iters=20)
    assert [learning_rate(step, longer) for step in (80, 100, 280)] == [1.0] * 3 and learning_rate(290, longer) == 0.5
    short = TrainConfig(schedule="wsd", learning_rate=1.0, warmup_iters=10, max_iters=20, decay_iters=400)
    assert learning_rate(15, short) == 0.5  # a decay longer than the run begins after the warm-up
