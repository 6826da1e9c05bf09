"""The decoder against Hugging Face's Llama with copied weights, and its pieces against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import model as model_module
from checkpoint import hf_config
from model import IGNORE, Attention, LinearCrossEntropy, Llama, ModelConfig, RMSNorm, apply_rope, rope_tables

SHAPES = {
    "grouped, tied": ModelConfig(96, 32, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=80),
    "multi-head, untied": ModelConfig(64, 16, 2, 4, 4, n_embd=48, ffn_hidden=64, tie_embeddings=False),
    "multi-query, theta 500000": ModelConfig(64, 40, 2, 6, 1, n_embd=48, ffn_hidden=32, rope_theta=500000.0),
}


def pair(shape: ModelConfig) -> tuple[Llama, LlamaForCausalLM]:
    """Our model and transformers' with the same weights, larger than at initialisation so that errors show."""
    torch.manual_seed(0)
    ours = Llama(shape)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs = LlamaForCausalLM(LlamaConfig(**hf_config(shape, 0)))
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return ours, theirs.eval()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_loss_and_gradients_equal_transformers(name):
    shape = SHAPES[name]
    ours, theirs = pair(shape)
    ids = torch.randint(0, shape.vocab_size, (3, shape.block_size))
    targets = torch.randint(0, shape.vocab_size, (3, shape.block_size))
    targets[0, :5] = IGNORE
    expected = theirs(ids).logits
    scale = expected.abs().max()
    assert (ours(ids) - expected).abs().max() < 1e-5 * scale
    loss = ours(ids, targets)
    expected_loss = F.cross_entropy(expected.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert (parameter.grad - gradients[key]).abs().max() < 1e-5 * gradients[key].abs().max() + 1e-6, key


def test_sliced_targets_and_single_tokens_work():
    ours, _ = pair(SHAPES["grouped, tied"])
    window = torch.randint(0, 96, (2, 33))
    whole = ours(window[:, :-1], window[:, 1:])  # views that are not contiguous
    logits = ours(window[:, :-1])
    assert whole.item() == pytest.approx(
        F.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten(), reduction="sum").item()
    )
    assert ours(window[:, :1]).shape == (2, 1, 96)


def test_future_tokens_change_nothing_before_them():
    ours, _ = pair(SHAPES["grouped, tied"])
    ids = torch.randint(0, 96, (1, 32))
    changed = ids.clone()
    changed[0, 20] = (ids[0, 20] + 1) % 96
    a, b = ours(ids), ours(changed)
    assert torch.equal(a[:, :20], b[:, :20]) and not torch.allclose(a[:, 20:], b[:, 20:])


@pytest.mark.parametrize(("n_head", "n_kv_head"), [(4, 4), (4, 2), (4, 1), (6, 3), (6, 2)])
def test_attention_equals_plain_softmax(n_head, n_kv_head):
    """Query head h is served by key/value head h // (H / Hkv)."""
    torch.manual_seed(0)
    B, T, D = 2, 9, 8
    attention = Attention(ModelConfig(8, 16, 1, n_head, n_kv_head, n_head * D, 8))
    x = torch.randn(B, T, n_head * D)
    cos, sin = rope_tables(T, D, 10000.0)
    q, k, v = (p(x).view(B, T, -1, D) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    out = torch.zeros(B, T, n_head, D)
    for h in range(n_head):
        g = h // (n_head // n_kv_head)
        qh, kh = (apply_rope(t.unsqueeze(1), cos, sin)[:, 0] for t in (q[:, :, h], k[:, :, g]))
        scores = qh @ kh.transpose(1, 2) / math.sqrt(D)
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -math.inf)
        out[:, :, h] = scores.softmax(-1) @ v[:, :, g]
    expected = attention.o_proj(out.flatten(2))
    assert (attention(x, cos, sin) - expected).abs().max() < 1e-5


def test_rope_depends_on_distance_only_and_tables_stay_float32():
    cos, sin = rope_tables(600, 16, 10000.0)
    assert cos.dtype == sin.dtype == torch.float32 and len(torch.unique(cos[:, 0])) == 600
    q, k = torch.randn(16), torch.randn(16)

    def score(i, j):
        turned = [apply_rope(t.view(1, 1, 1, 16), cos[p : p + 1], sin[p : p + 1]) for t, p in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(507, 503), abs=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3
    low = Llama(SHAPES["grouped, tied"]).to(torch.bfloat16).model
    assert low.cos.dtype == torch.float32


def test_rms_norm_is_the_formula():
    norm = RMSNorm(8, 1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 8) * 10
    expected = torch.stack([row / math.sqrt(sum(v * v for v in row.tolist()) / 8 + 1e-5) for row in x]) * norm.weight
    assert torch.allclose(norm(x), expected, rtol=1e-5)
    assert norm(x.bfloat16()).dtype == torch.promote_types(norm.weight.dtype, torch.bfloat16)


@pytest.mark.parametrize("chunk", [1, 7 * 33, 1 << 20])
def test_loss_in_chunks_equals_the_whole(chunk, monkeypatch):
    monkeypatch.setattr(model_module, "LOGITS_CHUNK", chunk)
    torch.manual_seed(0)
    x = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(33, 6, dtype=torch.float64, requires_grad=True)
    t = torch.randint(0, 33, (20,))
    t[[3, 7]] = IGNORE
    assert torch.autograd.gradcheck(LinearCrossEntropy.apply, (x, w, t))
    loss = LinearCrossEntropy.apply(x, w, t)
    expected = F.cross_entropy(x @ w.t(), t, ignore_index=IGNORE, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    with torch.no_grad():
        assert LinearCrossEntropy.apply(x, w, t).item() == pytest.approx(expected.item(), rel=1e-12)


def test_bfloat16_autocast_is_close_to_float32():
    ours, _ = pair(SHAPES["grouped, tied"])
    ids, targets = torch.randint(0, 96, (2, 4, 32))
    exact = ours(ids, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours(ids, targets)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(exact.item(), rel=1e-2)


def test_initial_weights():
    shape = ModelConfig(512, 32, n_layer=8, n_head=4, n_kv_head=4, n_embd=128, ffn_hidden=256)
    for name, parameter in Llama(shape).named_parameters():
        if parameter.dim() == 1:
            assert torch.all(parameter == 1), name
            continue
        writes = "o_proj" in name or "down_proj" in name
        assert parameter.std().item() == pytest.approx(0.02 / math.sqrt(2 * 8) if writes else 0.02, rel=0.05), name


def test_weight_decay_is_for_the_matrices_inside_the_blocks():
    for tied in (True, False):
        ours = Llama(ModelConfig(64, 16, 2, 4, 2, 32, 48, tie_embeddings=tied))
        decayed, others = ours.parameter_groups(0.1)
        assert decayed["weight_decay"] == 0.1 and others["weight_decay"] == 0
        names = {id(p): name for name, p in ours.named_parameters()}
        assert sorted(names[id(p)] for p in decayed["params"] + others["params"]) == sorted(names.values())
        assert {names[id(p)].split(".")[-2] for p in decayed["params"]} == {
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
        }  # fmt: skip
        assert ours.num_parameters() == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 5}, r"n_embd \(48\) must be n_head \(5\) times an even head width; try n_head=4"),
        ({"n_kv_head": 3}, r"n_head \(4\) must be divisible by n_kv_head \(3\); try n_kv_head=(2|4)"),
        ({"n_layer": 0}, r"n_layer \(0\) must be at least 1"),
        ({"n_embd": -48}, r"n_embd \(-48\) must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused_with_the_nearest_that_works(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**({"vocab_size": 64, "n_embd": 48, "n_head": 4, "n_kv_head": 2} | change))
