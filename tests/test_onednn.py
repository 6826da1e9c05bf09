"""Products in float32 by oneDNN: those of float64, where they are chosen, and that a step of training uses them."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import REPO
from torch import nn

import onednn
from model import Linear, Llama, ModelConfig, linear, target_logprobs
from muon import orthogonalise

WIDTH, OUT = 64, 96
BIASES = [None, torch.linspace(-1, 1, OUT)]
CLOSE = {"atol": 1e-4, "rtol": 1e-5}

pytestmark = [
    pytest.mark.skipif(not onednn.AVAILABLE, reason="this torch has no oneDNN"),
    pytest.mark.usefixtures("unwritten_is_nan"),
]


@pytest.fixture
def on_amd(monkeypatch):
    """A processor where oneDNN leads, and products that are all worth starting it."""
    monkeypatch.setattr(onednn, "leads", lambda: True)
    monkeypatch.setattr(onednn, "WORTH_STARTING", 0)


@pytest.fixture
def by_onednn(monkeypatch):
    """The shapes (of a, of b) of the products that oneDNN computes, a list that grows."""
    shapes = []
    real = torch.ops.mkldnn._linear_pointwise

    def counted(a, b, *rest):
        shapes.append((tuple(a.shape), tuple(b.shape)))
        return real(a, b, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    return shapes


# --- the numbers ---


@pytest.mark.parametrize("bias", BIASES, ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [(40,), (2, 20), (1, 33)])
def test_a_product_is_the_float32_one(rows, bias, on_amd):
    """Also of rows and weights that do not lie one behind the other, and of a parameter."""
    x = torch.randn(2, *rows, 2 * WIDTH)[1, ..., :WIDTH]
    parameter = nn.Parameter(torch.randn(OUT, WIDTH))
    for weight in (parameter, torch.randn(WIDTH, OUT).t(), torch.randn(OUT, 2 * WIDTH)[:, ::2]):
        exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        with torch.no_grad():
            assert onednn.suits(x, weight)
            y = onednn.linear(x, weight, bias)
        assert y.dtype == torch.float32
        assert y.is_contiguous()
        torch.testing.assert_close(y, exact.float(), **CLOSE)


@pytest.mark.parametrize("bias", BIASES, ids=["plain", "bias"])
def test_its_gradients_are_those_of_float64(bias, on_amd, by_onednn):
    """Also where the gradient that comes does not lie in order, and for what is wanted alone."""
    x = torch.randn(2, 50, WIDTH)
    weight = torch.randn(OUT, WIDTH)
    in_order = torch.randn(2, 50, OUT)
    repeated = torch.randn(2, 50, 1).expand(2, 50, OUT)
    other_way_round = torch.randn(OUT, 2, 50).permute(1, 2, 0)
    for grad in (in_order, repeated, other_way_round):
        for wanted in ("x weight bias", "x", "weight", "bias"):
            leaves = {"x": x.clone(), "weight": weight.clone(), "bias": None if bias is None else bias.clone()}
            asked = [leaf.requires_grad_() for name, leaf in leaves.items() if name in wanted and leaf is not None]
            if not asked:
                continue
            by_onednn.clear()
            found = torch.autograd.grad(onednn.linear(**leaves), asked, grad)
            assert len(by_onednn) == 1 + ("x" in wanted) + ("weight" in wanted)

            doubles = [None if leaf is None else leaf.double() for leaf in leaves.values()]
            exact = torch.autograd.grad(F.linear(*doubles), asked, grad.double())
            for one, other in zip(found, exact, strict=True):
                torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize(("frozen", "kept_shape"), [("weight", (OUT, WIDTH)), ("x", (2, 50, WIDTH))])
def test_it_keeps_for_the_gradient_what_that_needs(frozen, kept_shape, on_amd):
    """As F.linear: a frozen weight needs no input, and an input that learns nothing no weight."""
    leaves = {"x": torch.randn(2, 50, WIDTH), "weight": torch.randn(OUT, WIDTH)}
    next(leaf for name, leaf in leaves.items() if name != frozen).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        onednn.linear(**leaves)
    assert kept == [kept_shape]


def test_errors_with_one_huge_feature_are_of_the_size_of_mkls(on_amd):
    """SmolLM2's first token has a feature of 24,800. Here everything else is 1 and below."""
    x = torch.randn(300, 576)
    x[:, 17] = 24800
    weight = 0.05 * torch.randn(1536, 576)
    exact = F.linear(x.double(), weight.double())
    by_mkl = (F.linear(x, weight) - exact).square().mean().sqrt()
    by_onednn = (onednn.linear(x, weight) - exact).square().mean().sqrt()
    assert by_onednn < 5 * by_mkl  # 1.2 to 2.3 times, whatever instructions either of them uses


def test_products_of_many_pairs(on_amd, by_onednn):
    total, a, b = torch.randn(3, 50, 70), torch.randn(3, 50, 40), torch.randn(3, 40, 70)
    exact = a.double() @ b.double()
    torch.testing.assert_close(onednn.products(a, b), exact.float(), **CLOSE)
    sums = onednn.baddbmm(total, a, b, beta=0.5, alpha=-2.0)
    torch.testing.assert_close(sums, (0.5 * total.double() - 2 * exact).float(), **CLOSE)
    assert len(by_onednn) == 6
    assert onednn.products(a[:0], b[:0]).shape == (0, 50, 70)

    matrices = torch.randn(2, 50, 40)
    torch.testing.assert_close(orthogonalise(matrices), orthogonalise(matrices.double()).float(), **CLOSE)
    assert len(by_onednn) == 6 + 5 * 3 * 2  # five rounds of three products, for each of two


@pytest.mark.slow
def test_compiled_it_is_the_same_to_the_bit(on_amd):
    def function(x, weight, bias):
        assert onednn.suits(x, weight)
        return onednn.linear(x, weight, bias)

    x = torch.randn(2, 50, WIDTH, requires_grad=True)
    weight = torch.randn(OUT, WIDTH, requires_grad=True)
    grad = torch.randn(2, 50, OUT)
    results = []
    for run in (function, torch.compile(function, fullgraph=True)):
        y = run(x, weight, BIASES[1])
        results.append((y, *torch.autograd.grad(y, (x, weight), grad)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_torch_without_the_operator_does_without_it():
    """Its name is private, and may go."""
    code = """if True:
        import torch
        torch.ops.mkldnn  # a namespace of operators, with attributes that appear when they are asked for
        class Nothing:
            pass
        torch.ops.mkldnn = Nothing()
        import model, onednn
        assert not onednn.AVAILABLE and not onednn.leads()
        assert model.linear(torch.ones(2000, 64), torch.ones(96, 64)).sum() == 2000 * 64 * 96
    """
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)


# --- where it is chosen ---


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"cpu_name": "AMD EPYC 9655", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC 7763", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Platinum 8488C", "avx512_f": True}, False),
        ({"cpu_name": "Neoverse-V2"}, False),
        ({}, False),
    ],
)
def test_it_leads_on_amd_with_avx512(features, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert onednn.leads.__wrapped__() is expected
    monkeypatch.setattr(onednn, "AVAILABLE", False)
    assert not onednn.leads.__wrapped__()


@pytest.mark.parametrize("leads", [True, False])
def test_it_is_chosen_for_what_f_linear_would_compute_alike(leads, monkeypatch, by_onednn):
    """Not for a few rows, not in another format, not where products may be rounded.

    Where it does not lead: for matrices of many rows only, and where no gradient is wanted.
    """
    x, weight = torch.randn(33, WIDTH), torch.randn(OUT, WIDTH)
    monkeypatch.setattr(onednn, "leads", lambda: leads)
    monkeypatch.setattr(onednn, "WORTH_STARTING", 33 * WIDTH * OUT)
    assert onednn.suits(x, weight) is leads
    with torch.inference_mode():
        assert onednn.suits(x, weight) is leads
    monkeypatch.setattr(onednn, "MANY_ROWS", OUT)
    assert onednn.suits(x, weight) is leads

    with torch.inference_mode():
        assert onednn.suits(x, weight)
        assert not onednn.suits(x[:32], weight)
        assert not onednn.suits(x.bfloat16(), weight.bfloat16())
        assert not onednn.suits(x.double(), weight.double())
        assert onednn.suits(x, weight[:-1]) is False  # no matrix of many rows any more, and not worth it
        with torch.autocast("cpu", torch.bfloat16):
            assert not onednn.suits(x, weight)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
            assert not onednn.suits(x, weight)

        Linear(WIDTH, OUT, bias=False)(x)
        target_logprobs(x, weight, torch.arange(33))
        assert len(by_onednn) == 2
        monkeypatch.setattr(onednn, "AVAILABLE", False)
        assert torch.equal(linear(x, weight), F.linear(x, weight))
        assert len(by_onednn) == 2


# --- a step of training ---


def test_a_step_multiplies_by_it_throughout_and_learns_the_same(on_amd, by_onednn, monkeypatch):
    """Seven matrices a block, each with three products, and three of the head for each chunk of rows."""
    shape = ModelConfig(300, 32, n_layer=2, n_head=4, n_kv_head=2, n_embd=48, ffn_hidden=80)
    model = Llama(shape)
    idx, targets = torch.randint(0, 300, (2, 4, 32)).unbind()

    def step() -> list[torch.Tensor]:
        model.zero_grad()
        loss = model(idx, targets)
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in model.parameters())]

    found = step()
    assert len(by_onednn) == 2 * 7 * 3 + 3
    by_onednn.clear()
    monkeypatch.setattr(onednn, "leads", lambda: False)
    expected = step()
    assert not by_onednn
    model.double()
    exact = step()
    for one, other, reference in zip(found, expected, exact, strict=True):
        scale = reference.abs().max()
        assert (one - reference).abs().max() < 1e-5 * scale
        assert (other - reference).abs().max() < 1e-5 * scale
