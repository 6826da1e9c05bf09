"""attention_cpu.cpp against torch's attention in float64, and native.py: what is compiled when, and what is not."""

import subprocess

import pytest
import torch
from torch import Tensor

import attention_cpu
import native
from model import Llama, ModelConfig, apply_rope, attention, rope_frequencies, rope_tables

compiled = pytest.mark.skipif(not attention_cpu.available(), reason="no C++ compiler")

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


def with_gradients(function, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> list[Tensor]:
    """The result, and the gradients of q, k and v for a fixed gradient of the result."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    y = function(*leaves, *rest)
    torch.manual_seed(1)
    y.backward(torch.randn(y.shape).to(y.dtype))
    return [y.detach(), *(x.grad for x in leaves)]


def assert_near_float64(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, begins: Tensor) -> None:
    own = with_gradients(attention_cpu.attention, q, k, v, cos, sin, begins)
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
    expected = attention_cpu.attention(q, k, v, cos, sin, rows(q))
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(attention_cpu.attention(*turned, cos, sin, rows(q)), expected)


@compiled
def test_bfloat16_is_computed_in_float32_and_rounded_once():
    q, k, v, cos, sin = arguments((2, 70, 4, 2, 32), torch.bfloat16)
    low = with_gradients(attention_cpu.attention, q, k, v, cos, sin, rows(q))
    y = attention_cpu.attention(q.float(), k.float(), v.float(), cos, sin, rows(q))
    assert low[0].dtype == torch.bfloat16 and torch.equal(low[0], y.bfloat16())

    high = with_gradients(by_torch, q.double(), k.double(), v.double(), cos, sin, rows(q))
    for mine, reference in zip(low, high, strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=2e-2, atol=2e-2)


@compiled
def test_the_number_of_threads_changes_no_bit():
    arrays = arguments((3, 100, 4, 2, 32))
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(with_gradients(attention_cpu.attention, *arrays, rows(arrays[0])))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(other, found[0], strict=True))


@compiled
def test_large_scores_do_not_overflow_and_nan_is_seen_by_those_behind_it_only():
    q, k, v, cos, sin = arguments((1, 60, 2, 1, 16))
    y = attention_cpu.attention(1e4 * q, 1e4 * k, v, cos, sin, rows(q))
    torch.testing.assert_close(y, by_torch(1e4 * q, 1e4 * k, v, cos, sin, rows(q)), rtol=1e-3, atol=1e-3)

    for spoilt in (0, 1, 2):  # q, k, v
        for dtype in (torch.float32, torch.bfloat16):
            arrays = [x.to(dtype).clone() for x in (q, k, v)]
            arrays[spoilt][0, 50] = torch.nan
            y = attention_cpu.attention(*arrays, cos, sin, rows(q))
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


@compiled
def test_a_model_takes_it_on_a_cpu_and_computes_the_same_without_it(monkeypatch):
    torch.manual_seed(0)
    model = Llama(ModelConfig(96, 64, 2, 4, 2, 64, 128, qk_norm=True))
    ids = torch.randint(96, (2, 64))
    calls = []
    real_call = attention_cpu.call
    monkeypatch.setattr(attention_cpu, "call", lambda name, *rest: calls.append(name) or real_call(name, *rest))

    def losses_and_gradient(cu_seqlens: Tensor | None) -> tuple[float, Tensor]:
        model.zero_grad()
        loss = model(ids, ids, cu_seqlens=cu_seqlens)
        loss.backward()
        return loss.item(), model.model.layers[0].self_attn.k_proj.weight.grad.clone()

    for cu_seqlens in (None, torch.tensor([0, 10, 64, 128])):
        calls.clear()
        own = losses_and_gradient(cu_seqlens)
        assert calls == ["attention_forward"] * 2 + ["attention_backward"] * 2
        with monkeypatch.context() as patch:
            patch.setattr(attention_cpu, "available", lambda: False)
            torchs = losses_and_gradient(cu_seqlens)
        assert len(calls) == 4
        assert own[0] == pytest.approx(torchs[0], rel=1e-6)
        torch.testing.assert_close(own[1], torchs[1], rtol=1e-4, atol=1e-5)

    assert not attention_cpu.suits(torch.zeros(1, 1, 1, 8, dtype=torch.float64))
    assert not attention_cpu.suits(torch.zeros(1, 1, 1, 8, dtype=torch.float16))


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
