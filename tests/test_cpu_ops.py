"""cpu_ops.cpp against torch in float64, and native.py: what is compiled when, and what is not."""

import functools
import subprocess

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import cpu_ops
import native
from model import Llama, ModelConfig, apply_rope, attention, rope_frequencies, rope_tables

compiled = pytest.mark.skipif(not cpu_ops.available(), reason="no C++ compiler")

# B, T, H, Hkv, D: one token; fewer than a tile; a block and a bit; several blocks; an odd width; many heads on one
SHAPES = [
    (2, 1, 2, 1, 8),
    (3, 7, 4, 2, 16),
    (2, 49, 4, 4, 32),
    (1, 200, 6, 3, 64),
    (2, 65, 3, 1, 20),
    (1, 96, 8, 1, 128),
]


def arguments(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """q, k, v, cos, sin."""
    B, T, H, Hkv, D = shape
    torch.manual_seed(0)
    q = torch.randn(B, T, H, D).to(dtype)
    k = torch.randn(B, T, Hkv, D).to(dtype)
    v = torch.randn(B, T, Hkv, D).to(dtype)
    return [q, k, v, *rope_tables(torch.arange(T), rope_frequencies(D, 10000.0))]


def rows(q: Tensor) -> Tensor:
    """Where each row begins."""
    B, T = q.shape[:2]
    return torch.arange(B + 1) * T


def by_torch(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> Tensor:
    """The same by torch's attention, a run of tokens after the other."""
    B, T, H, D = q.shape
    outputs = []
    for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        heads_first = [x.flatten(0, 1)[begin:end].transpose(0, 1)[None] for x in (q, k, v)]
        places = torch.arange(begin, end) % (cos.numel() // D)
        turns = cos.reshape(-1, D)[places], sin.reshape(-1, D)[places]
        q_turned, k_turned = (apply_rope(x, *turns) for x in heads_first[:2])
        outputs.append(attention(q_turned, k_turned, heads_first[2])[0])
    return torch.cat(outputs).view(B, T, H, D)


def gradients_of(function, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The result, and the gradients of the leaves."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    y = function(*leaves)
    y.backward(grad.to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


def assert_equal_on_all_threads(function, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The same bits with one thread and with three; returns them."""
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(gradients_of(function, leaves, grad))
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    return found[0]


def with_gradients(function, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> list[Tensor]:
    """What attention gives, and the gradients of q, k and v for a fixed gradient of the result."""
    torch.manual_seed(1)
    grad = torch.randn(q.shape)
    return gradients_of(lambda q, k, v: function(q, k, v, *rest), [q, k, v], grad)


def assert_near_float64(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> None:
    own = with_gradients(cpu_ops.attention, q, k, v, cos, sin, begins)
    exact = with_gradients(by_torch, *(x.double() for x in (q, k, v, cos, sin)), begins)
    for mine, reference in zip(own, exact, strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=1e-5, atol=2e-5)


@compiled
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_torch_in_float64(shape):
    q, *rest = arguments(shape)
    assert_near_float64(q, *rest, rows(q))


@compiled
def test_documents_of_packed_rows_do_not_see_each_other():
    q, k, v, _, _ = arguments((2, 60, 4, 2, 16))
    begins = torch.tensor([0, 1, 50, 60, 120])
    positions = torch.cat([torch.arange(n) for n in begins.diff().tolist()]).view(2, 1, 60)
    cos, sin = rope_tables(positions, rope_frequencies(16, 10000.0))  # (B, 1, T, D)
    assert_near_float64(q, k, v, cos, sin, begins)


@compiled
def test_arrays_that_lie_otherwise_in_memory_are_read_rightly():
    q, k, v, cos, sin = arguments((2, 30, 4, 2, 16))
    expected = cpu_ops.attention(q, k, v, cos, sin, rows(q))
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(cpu_ops.attention(*turned, cos, sin, rows(q)), expected)


@compiled
def test_bfloat16_is_computed_in_float32_and_rounded_once():
    q, k, v, cos, sin = arguments((2, 70, 4, 2, 32), torch.bfloat16)
    low = with_gradients(cpu_ops.attention, q, k, v, cos, sin, rows(q))
    y = cpu_ops.attention(q.float(), k.float(), v.float(), cos, sin, rows(q))
    assert low[0].dtype == torch.bfloat16 and torch.equal(low[0], y.bfloat16())

    high = with_gradients(by_torch, q.double(), k.double(), v.double(), cos, sin, rows(q))
    for mine, reference in zip(low, high, strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=2e-2, atol=2e-2)


@compiled
def test_the_number_of_threads_changes_no_bit():
    q, k, v, cos, sin = arguments((3, 100, 4, 2, 32))
    grad = torch.randn(q.shape)
    assert_equal_on_all_threads(lambda q, k, v: cpu_ops.attention(q, k, v, cos, sin, rows(q)), [q, k, v], grad)


@compiled
def test_large_scores_do_not_overflow_and_nan_is_seen_by_those_behind_it_only():
    q, k, v, cos, sin = arguments((1, 60, 2, 1, 16))
    y = cpu_ops.attention(1e4 * q, 1e4 * k, v, cos, sin, rows(q))
    torch.testing.assert_close(y, by_torch(1e4 * q, 1e4 * k, v, cos, sin, rows(q)), rtol=1e-3, atol=1e-3)

    for spoilt in (0, 1, 2):  # q, k, v
        for dtype in (torch.float32, torch.bfloat16):
            arrays = [x.to(dtype).clone() for x in (q, k, v)]
            arrays[spoilt][0, 50] = torch.nan
            y = cpu_ops.attention(*arrays, cos, sin, rows(q))
            found = [place for place in range(60) if y[0, place].isnan().any()]
            if spoilt == 2:  # a probability of 0 times NaN: those computed in the same tile see it as well
                assert found[-10:] == list(range(50, 60)) and found[0] > 50 - 12
            else:
                assert found == (list(range(50, 60)) if spoilt else [50])


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_knows_the_operators(dtype):
    """Schemas, shapes without data, autograd and torch.compile's tracing, as torch checks them."""
    q, k, v, cos, sin = arguments((2, 20, 4, 2, 8), dtype)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(torch.ops.nonllama.attention, (*leaves, cos, sin, rows(q)), rtol=1e-2, atol=1e-2)
    fixed = [x.detach() for x in leaves]
    y, logsumexp = torch.ops.nonllama.attention(*fixed, cos, sin, rows(q))
    task = (y.clone(), *fixed, cos, sin, rows(q), y, logsumexp)
    torch.library.opcheck(torch.ops.nonllama.attention_backward, task, rtol=1e-2, atol=1e-2)

    logits = torch.randn(5, 33).to(dtype)
    for operator in (torch.ops.nonllama.target_logprobs, torch.ops.nonllama.target_logprobs_with_gradient):
        torch.library.opcheck(operator, (logits, torch.arange(5)), rtol=1e-2, atol=1e-2)


@compiled
def test_a_model_takes_it_on_a_cpu_and_computes_the_same_without_it(monkeypatch):
    torch.manual_seed(0)
    model = Llama(ModelConfig(96, 64, 2, 4, 2, 64, 128, qk_norm=True))
    ids = torch.randint(96, (2, 64))
    calls = []
    real_call = cpu_ops.call
    monkeypatch.setattr(cpu_ops, "call", lambda name, *rest: calls.append(name) or real_call(name, *rest))
    for function in ("rms_norm", "gated_silu", "target_logprobs", "target_logprobs_with_gradient"):
        real = getattr(cpu_ops, function)
        noted = functools.partial(lambda real, name, *args: calls.append(name) or real(*args), real, function)
        monkeypatch.setattr(cpu_ops, function, noted)

    def losses_and_gradient(cu_seqlens: Tensor | None) -> tuple[float, Tensor]:
        model.zero_grad()
        loss = model(ids, ids, cu_seqlens=cu_seqlens)
        loss.backward()
        return loss.item(), model.model.layers[0].self_attn.k_proj.weight.grad.clone()

    for cu_seqlens in (None, torch.tensor([0, 10, 64, 128])):
        calls.clear()
        own = losses_and_gradient(cu_seqlens)
        block = ["rms_norm"] * 3 + ["attention_forward", "rms_norm", "gated_silu"]  # of them two of qk-norm
        loss = ["rms_norm", "target_logprobs_with_gradient"]
        assert calls == [*block, *block, *loss, "attention_backward", "attention_backward"]
        made = len(calls)
        with monkeypatch.context() as patch:
            patch.setattr(cpu_ops, "available", lambda: False)
            torchs = losses_and_gradient(cu_seqlens)
        assert len(calls) == made
        assert own[0] == pytest.approx(torchs[0], rel=1e-6)
        torch.testing.assert_close(own[1], torchs[1], rtol=1e-4, atol=1e-5)

    calls.clear()
    with torch.no_grad():
        loss = model(ids, ids)
        logprobs = model.token_logprobs(ids, ids)
    assert calls.count("target_logprobs") == 2
    assert -logprobs.sum().item() == pytest.approx(loss.item(), rel=1e-6)

    for dtype in (torch.float64, torch.float16):
        x = torch.zeros(1, 1, 1, 8, dtype=dtype)
        assert not cpu_ops.suits(x) and not cpu_ops.suits_eager(x) and not cpu_ops.takes(x)


# --- the loss ---


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("V", [1, 2, 16, 31, 1040, 5000])
def test_the_loss_is_torchs_in_float64(V, dtype):
    """Vocabularies of less than a register, of some and a rest, of several pieces; logits all far below 0, or apart."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(9, V)).to(dtype)
    logits[1] -= 1000
    logits[2, V // 2] = 100
    logits[3, : V // 2] = -torch.inf
    targets = torch.randint(V // 2, V, (9,))
    exact = logits.double().log_softmax(1)
    picked = exact[range(9), targets]
    gradient = exact.exp() - F.one_hot(targets, V)

    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            own = cpu_ops.target_logprobs(logits, targets)
            results.append((own, *cpu_ops.target_logprobs_with_gradient(logits.clone(), targets)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))

    own, again, own_gradient = results[0]
    assert torch.equal(own, again)
    assert own.dtype == torch.float32
    torch.testing.assert_close(own.double(), picked, rtol=1e-6, atol=1e-6)
    assert own_gradient.dtype == dtype
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(own_gradient.double(), gradient, rtol=tolerance, atol=1e-6)
    assert not own_gradient[3, : V // 2].any()  # of -inf: 0, and no number of less than full precision


@compiled
def test_a_large_vocabulary_is_summed_without_a_drift():
    """Equal numbers added to a growing sum are rounded the same way each time."""
    for other in (-0.1, -0.3, -0.7):
        logits = torch.full((1, 200_000), other)
        logits[0, 0] = 0
        exact = logits.double().log_softmax(1)[0, 0].item()
        found = cpu_ops.target_logprobs(logits, torch.tensor([0])).item()
        assert found == pytest.approx(exact, abs=2e-6)


@compiled
def test_a_compiled_model_takes_the_operator_of_the_loss(monkeypatch):
    """Traced by torch.compile, computed by torch's operators and ours: the numbers of eager mode."""
    torch.manual_seed(0)
    model = Llama(ModelConfig(96, 32, 1, 2, 1, 32, 48))
    ids = torch.randint(96, (2, 32))
    calls = []
    real = cpu_ops.softmax_loss
    monkeypatch.setattr(cpu_ops, "softmax_loss", lambda *args: calls.append(1) or real(*args))

    found = []
    for forward in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        calls.clear()
        model.zero_grad()
        loss = forward(ids, ids)
        loss.backward()
        with torch.no_grad():
            scored = forward(ids, ids)
        assert len(calls) == 2
        found.append([loss.detach(), scored, *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@compiled
def test_a_likely_target_keeps_its_small_gradient_in_bfloat16():
    """p = 0.9995: p - 1 is rounded, and not p, which would be 1 in bfloat16."""
    logits = torch.tensor([[7.6, 0.0]]).bfloat16()
    _, gradient = cpu_ops.target_logprobs_with_gradient(logits.clone(), torch.tensor([0]))
    exact = logits.double().softmax(1)[0, 0] - 1
    assert gradient[0, 0].item() == pytest.approx(exact.item(), rel=2**-8)


@compiled
def test_logits_that_lie_otherwise_in_memory_nan_and_wrong_targets():
    logits = torch.randn(40, 7).t()
    targets = torch.arange(7)
    expected = cpu_ops.target_logprobs(logits.contiguous(), targets)
    assert torch.equal(cpu_ops.target_logprobs(logits, targets), expected)
    gradients = [cpu_ops.target_logprobs_with_gradient(x, targets) for x in (logits, logits.contiguous())]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert torch.equal(gradients[0][0], expected)
    assert torch.equal(cpu_ops.target_logprobs(logits, targets.int()), expected)
    with pytest.raises(AssertionError):
        cpu_ops.target_logprobs(logits, targets[:3])
    assert cpu_ops.target_logprobs(logits[:0], targets[:0]).shape == (0,)

    for wrong in (torch.nan, torch.inf):
        spoilt = logits.contiguous()
        spoilt[2, 33] = wrong
        logprobs, gradient = cpu_ops.target_logprobs_with_gradient(spoilt, targets)
        assert logprobs.isnan().nonzero().flatten().tolist() == [2]
        assert gradient.isnan().all(1).nonzero().flatten().tolist() == [2]

    for wrong in (-1, 40):
        targets[3] = wrong
        with pytest.raises(IndexError, match=f"{wrong}"):
            cpu_ops.target_logprobs(logits, targets)


# --- silu(gate) * up, and the norm ---


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_silu_is_torchs_in_float64(dtype):
    torch.manual_seed(0)
    gate, up, grad = (torch.randn(3, 7, 101, dtype=torch.float32).to(dtype) for _ in range(3))
    gate[0, 0, :6] = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4, -20.0])
    own = assert_equal_on_all_threads(cpu_ops.gated_silu, [gate, up], grad)
    exact = gradients_of(lambda gate, up: F.silu(gate) * up, [gate.double(), up.double()], grad.double())
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-8}[dtype]
    for mine, reference in zip(own, exact, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), reference, rtol=tolerance, atol=1e-6)

    gate[1, 2, 3] = torch.nan
    assert cpu_ops.gated_silu(gate, up).isnan().nonzero().tolist() == [[1, 2, 3]]


@compiled
def test_bfloat16_numbers_are_rounded_as_torch_rounds_them():
    """To the nearest, and half-way to the even one: the product of two numbers of 8 digits has 16, often half-way."""
    torch.manual_seed(0)
    gate = torch.randint(128, 256, (37, 101)).to(torch.bfloat16)  # its silu is itself
    up = torch.randint(128, 256, (37, 101)).to(torch.bfloat16) / 128
    up[0, :6] = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0, 1e-38, 3.38e38])
    exact = gate.float() * up.float()
    halfway = (exact.view(torch.int32) & 0xFFFF) == 0x8000
    assert halfway.sum() > 50
    torch.testing.assert_close(cpu_ops.gated_silu(gate, up), exact.bfloat16(), rtol=0, atol=0, equal_nan=True)

    # A NaN whose upper half is full: one more is -0.
    full = torch.full((1, 32), 0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    assert cpu_ops.rms_norm(full, torch.ones(32), 1e-5, torch.bfloat16).isnan().all()


@compiled
@pytest.mark.parametrize("width", [1, 32, 101])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_the_norm_is_torchs_in_float64(given, kept, width):
    """x in one format, the result in another; 45 lines are no multiple of the shares in which gradients are summed."""
    torch.manual_seed(0)
    x = (3 * torch.randn(9, 5, width)).to(given)
    gain = torch.randn(width)
    grad = torch.randn(9, 5, width).to(kept)
    own = assert_equal_on_all_threads(lambda x, gain: cpu_ops.rms_norm(x, gain, 1e-2, kept), [x, gain], grad)
    exact = gradients_of(lambda x, g: F.rms_norm(x, (width,), g, 1e-2), [x.double(), gain.double()], grad.double())
    assert [tensor.dtype for tensor in own] == [kept, given, torch.float32]
    for mine, reference in zip(own, exact, strict=True):
        tolerance = 2**-8 if mine.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(mine.double(), reference, rtol=tolerance, atol=tolerance)


@compiled
def test_a_frozen_gain_gets_no_gradient_and_turned_arrays_are_read_rightly():
    x = torch.randn(6, 4, 8)
    gain = torch.randn(8)
    trained = x.clone().requires_grad_()
    cpu_ops.rms_norm(trained.transpose(0, 1), gain, 1e-5, torch.float32).pow(2).sum().backward()
    expected = x.clone().requires_grad_()
    F.rms_norm(expected, (8,), gain, 1e-5).pow(2).sum().backward()
    torch.testing.assert_close(trained.grad, expected.grad)
    assert gain.grad is None

    gate, up = torch.randn(2, 6, 4)
    turned = cpu_ops.gated_silu(gate.t(), up.t())
    torch.testing.assert_close(turned, (F.silu(gate) * up).t())


# --- native.py ---


@pytest.fixture
def source(monkeypatch, tmp_path):
    """A source file of one function, an empty cache, and a list of the compiler's runs."""
    native.library.cache_clear()
    monkeypatch.delenv("NONLLAMA_NATIVE", raising=False)
    monkeypatch.setenv("NONLLAMA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    (tmp_path / "twice.cpp").write_text('extern "C" int twice(int n) { return 2 * n; }')
    yield tmp_path / "twice.cpp"
    native.library.cache_clear()


@compiled
def test_a_source_is_compiled_once_for_each_text_and_processor(source, monkeypatch):
    runs = []
    real_run = subprocess.run
    monkeypatch.setattr(native.subprocess, "run", lambda command, **kw: runs.append(command) or real_run(command, **kw))

    def compilations() -> int:
        native.library.cache_clear()
        runs.clear()
        assert native.library("twice.cpp").twice(21) == 42
        return sum("-shared" in command for command in runs)

    assert [compilations(), compilations()] == [1, 0]
    monkeypatch.setattr(native, "processor", lambda: "another")
    assert [compilations(), compilations()] == [1, 0]
    source.write_text(source.read_text() + "\n// changed")
    assert [compilations(), compilations()] == [1, 0]
    assert len(list(native.cache_folder().glob("*.so"))) == 3
    assert not list(native.cache_folder().glob("*.tmp"))


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (lambda patch, source: source.write_text("not C++"), "twice.cpp cannot be compiled here, torch computes"),
        (lambda patch, source: patch.setattr(native.shutil, "which", lambda name: None), "there is no g"),
        (lambda patch, source: patch.setenv("NONLLAMA_CACHE", str(source / "x")), "twice.cpp cannot be compiled here"),
    ],
    ids=["broken source", "no compiler", "no place"],
)
def test_what_cannot_be_compiled_is_a_note(source, monkeypatch, capsys, spoil, note):
    spoil(monkeypatch, source)
    assert native.library("twice.cpp") is None and native.library("twice.cpp") is None
    error = capsys.readouterr().err
    assert error.startswith("note: ") and note in error and error.count("\n") == 1


def test_it_can_be_switched_off(source, monkeypatch, capsys):
    monkeypatch.setenv("NONLLAMA_NATIVE", "off")
    assert native.library("twice.cpp") is None and capsys.readouterr().err == ""
