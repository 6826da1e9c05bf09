"""The decoder against transformers with copied weights, against plain formulas, and with a cache against without."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from ranks import Launch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

import parallel
from hf_config import hf_config
from model import (
    IGNORE,
    Cache,
    GatedSilu,
    Linear,
    LinearCrossEntropy,
    Llama,
    ModelConfig,
    RMSNorm,
    RopeScaling,
    TokenLogprobs,
    add_product,
    apply_rope,
    attention,
    chunks,
    rope_frequencies,
    rope_tables,
)

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")

SHAPES = {
    "Llama 2: multi-head, untied": ModelConfig(64, 16, 2, 4, 4, n_embd=48, ffn_hidden=64, tie_embeddings=False),
    "Llama 3: grouped, theta 500000": ModelConfig(96, 40, 2, 6, 2, 48, 32, rope_theta=500000.0, tie_embeddings=False),
    "Llama 3.2: scaled, tied": ModelConfig(
        96, 64, 3, 4, 2, n_embd=64, ffn_hidden=80, rope_theta=500000.0, rope_scaling=RopeScaling(4.0, 1.0, 4.0, 24)
    ),
    "multi-query": ModelConfig(64, 40, 2, 6, 1, n_embd=48, ffn_hidden=32),
    "heads wider than their share": ModelConfig(64, 24, 2, 4, 2, n_embd=32, ffn_hidden=48, head_dim=24),
    "Mistral: heads do not divide the width": ModelConfig(64, 24, 2, 6, 3, n_embd=40, ffn_hidden=48, head_dim=4),
    "Qwen2": ModelConfig(96, 32, 2, 4, 2, 32, 80, rope_theta=1e6, norm_eps=1e-6, qkv_bias=True),
    "Qwen2 with head_dim": ModelConfig(64, 24, 2, 4, 4, 32, 48, head_dim=20, qkv_bias=True, tie_embeddings=False),
    "Qwen3": ModelConfig(96, 32, 2, 4, 2, 32, 80, rope_theta=1e6, norm_eps=1e-6, head_dim=16, qk_norm=True),
}
GROUPED = SHAPES["Llama 3.2: scaled, tied"]


def random_model(shape: ModelConfig) -> Llama:
    """Weights, gains and biases larger than at initialisation, so that errors show."""
    torch.manual_seed(0)
    model = Llama(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def pair(shape: ModelConfig) -> tuple[Llama, torch.nn.Module]:
    """Our model and transformers' with the same weights."""
    ours = random_model(shape)
    config = AutoConfig.for_model(**hf_config(shape, 0))
    theirs = AutoModelForCausalLM.from_config(config)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return ours, theirs.eval()


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5, note: object = "") -> None:
    """The largest difference is below `tolerance` times the largest expected value."""
    difference = (actual - expected).abs().max()
    assert difference < tolerance * expected.abs().max(), (float(difference), note)


def plain_logits(model: Llama, ids: list[int]) -> torch.Tensor:
    """Logits (T, V) of one sequence by the formulas, in float64, one head and one pair of features at a time."""
    cfg = model.cfg
    D = cfg.head_width
    T = len(ids)
    w = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    future = torch.ones(T, T).triu(1).bool()

    def norm(x, name):
        root_mean_square = (x.square().mean(-1, keepdim=True) + cfg.norm_eps).sqrt()
        return x / root_mean_square * w[f"{name}.weight"]

    def project(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def turn(x):
        pairs = torch.complex(x[:, : D // 2], x[:, D // 2 :])
        frequencies = rope_frequencies(D, cfg.rope_theta, cfg.rope_scaling).double()
        angles = torch.arange(T).double()[:, None] * frequencies
        pairs = pairs * torch.exp(1j * angles)
        return torch.cat((pairs.real, pairs.imag), dim=1)

    def attention(x, at):
        q = project(x, at + "q_proj")
        k = project(x, at + "k_proj")
        v = project(x, at + "v_proj")
        heads = []
        for head in range(cfg.n_head):
            shared = head // (cfg.n_head // cfg.n_kv_head)  # the key/value head that serves this query head
            qh = q[:, head * D : (head + 1) * D]
            kh = k[:, shared * D : (shared + 1) * D]
            vh = v[:, shared * D : (shared + 1) * D]
            if cfg.qk_norm:
                qh = norm(qh, at + "q_norm")
                kh = norm(kh, at + "k_norm")
            scores = turn(qh) @ turn(kh).T / math.sqrt(D)
            scores = scores.masked_fill(future, -math.inf)
            heads.append(scores.softmax(-1) @ vh)
        return project(torch.cat(heads, dim=1), at + "o_proj")

    def mlp(x, at):
        gate = project(x, at + "gate_proj")
        up = project(x, at + "up_proj")
        return project(gate * gate.sigmoid() * up, at + "down_proj")

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(cfg.n_layer):
        at = f"model.layers.{layer}."
        x = x + attention(norm(x, at + "input_layernorm"), at + "self_attn.")
        x = x + mlp(norm(x, at + "post_attention_layernorm"), at + "mlp.")
    return project(norm(x, "model.norm"), "lm_head")


@pytest.mark.parametrize("name", SHAPES)
def test_logits_loss_and_gradients_equal_transformers(name):
    shape = SHAPES[name]
    ours, theirs = pair(shape)
    ids = torch.randint(0, shape.vocab_size, (3, shape.block_size))
    targets = torch.randint(0, shape.vocab_size, (3, shape.block_size))
    targets[0, :5] = IGNORE

    expected = theirs(ids).logits
    assert_near(ours(ids), expected)

    loss = ours(ids, targets)
    expected_loss = F.cross_entropy(expected.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6)

    loss.backward()
    expected_loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        expected = gradients[key]
        assert (parameter.grad - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-6, key


@examples(100)
@given(
    n_kv_head=st.integers(1, 3),
    group=st.integers(1, 3),
    half=st.integers(1, 8),
    n_embd=st.integers(1, 5).map(lambda n: 6 * n),
    family=st.sampled_from([{}, {"qkv_bias": True}, {"qk_norm": True}]),
    scaling=st.sampled_from([None, RopeScaling(8.0, 1.0, 4.0, 8)]),
    T=st.integers(1, 20),
)
def test_any_shape_equals_the_plain_formulas(n_kv_head, group, half, n_embd, family, scaling, T):
    shape = ModelConfig(
        24, 20, 2, n_kv_head * group, n_kv_head, n_embd, 16, head_dim=2 * half, rope_scaling=scaling, **family
    )
    model = random_model(shape)
    ids = torch.randint(0, 24, (1, T))
    expected = plain_logits(model, ids[0].tolist())
    with torch.no_grad():
        assert_near(model(ids)[0], expected)


def test_sliced_targets_and_single_tokens_work():
    ours = random_model(GROUPED)
    window = torch.randint(0, 96, (2, 33))
    inputs = window[:, :-1]  # views that are not contiguous
    targets = window[:, 1:]
    logits = ours(inputs)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    assert ours(inputs, targets).item() == pytest.approx(expected)
    assert ours.token_logprobs(inputs, targets).sum().item() == pytest.approx(-expected)
    assert ours(window[:, :1]).shape == (2, 1, 96)


def test_future_tokens_change_nothing_before_them():
    ours = random_model(GROUPED)
    ids = torch.randint(0, 96, (1, 32))
    changed = ids.clone()
    changed[0, 20] = (ids[0, 20] + 1) % 96
    before = ours(ids)
    after = ours(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


def fed(model: Llama, ids: torch.Tensor, sizes: list[int], padding: tuple[int, ...] = ()) -> torch.Tensor:
    """Logits (B, T, V) of `ids` taken in by a cache, sizes[0] tokens, then sizes[1], ... and again from the start."""
    cache = Cache(model, len(ids), ids.shape[1], padding)
    logits = []
    begin = 0
    for size in itertools.cycle(sizes):
        if begin >= ids.shape[1]:
            return torch.cat(logits, dim=1)
        logits.append(model(ids[:, begin : begin + size], cache=cache))
        assert cache.mask is None or cache.mask.any(-1).all()  # padding, too, sees something: itself
        begin += size


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_cached_logits_equal_uncached_at_every_position(name):
    model = random_model(SHAPES[name])
    ids = torch.randint(0, model.cfg.vocab_size, (2, model.cfg.block_size))
    expected = model(ids)
    for sizes in ([1], [100], [7, 1, 1, 4]):
        assert_near(fed(model, ids, sizes), expected, note=sizes)


@pytest.mark.parametrize("sizes", [[1], [16], [100], [5, 1, 1, 4]], ids=str)
@torch.no_grad()
def test_prompts_of_mixed_lengths_equal_one_by_one(sizes):
    """Whatever the padding holds, and wherever the chunks cut it."""
    padding = (6, 0, 13)
    for name, seed in (("Llama 3.2: scaled, tied", 1), ("Qwen3", 2), ("multi-query", 3)):
        model = random_model(SHAPES[name])
        torch.manual_seed(seed)
        ids = torch.randint(0, model.cfg.vocab_size, (3, 24))
        logits = fed(model, ids, sizes, padding)
        for row, pad in enumerate(padding):
            expected = model(ids[row : row + 1, pad:])
            assert_near(logits[row : row + 1, pad:], expected, note=(name, row))


@pytest.mark.parametrize("sizes", [[17], [1], [5, 1, 1, 4]], ids=["whole", "single", "mixed"])
@torch.no_grad()
def test_a_prefix_is_read_once_and_padding_comes_after_it(sizes):
    padding = (6, 0, 13)
    model = random_model(SHAPES["Qwen3"])
    ids = torch.randint(0, model.cfg.vocab_size, (3, 24))
    ids[:, :7] = ids[0, :7]
    prefix = Cache(model, 1, 7)
    model(ids[:1, :7], cache=prefix)
    before = prefix.keys[..., :7, :].clone()  # (the slot after them is not written: it holds anything)

    cache = Cache(model, 3, 24, padding, prefix)
    logits = []
    sizes = itertools.cycle(sizes)
    while cache.used < 24:
        begin = cache.used
        logits.append(model(ids[:, begin : min(begin + next(sizes), 24)], cache=cache))
    logits = torch.cat(logits, dim=1)
    for row, pad in enumerate(padding):
        whole = torch.cat([ids[row : row + 1, :7], ids[row : row + 1, 7 + pad :]], dim=1)
        assert_near(logits[row : row + 1, pad:], model(whole)[:, 7:], note=row)
    assert torch.equal(prefix.keys[..., :7, :], before) and prefix.used == 7


@torch.no_grad()
def test_rows_that_are_kept_go_on_as_if_they_were_alone():
    padding = (6, 0, 13, 2)
    model = random_model(SHAPES["Qwen3"])
    ids = torch.randint(0, model.cfg.vocab_size, (4, 24))
    cache = Cache(model, 4, 24, padding)
    model(ids[:, :20], cache=cache)
    rows = [2, 0]
    cache.keep_rows(rows)
    logits = model(ids[rows, 20:], cache=cache)
    for place, row in enumerate(rows):
        expected = model(ids[row : row + 1, padding[row] :])[:, -4:]
        assert_near(logits[place : place + 1], expected, note=row)


@torch.no_grad()
def test_the_mask_is_the_one_that_is_drawn():
    """The picture in Cache's docstring: "a b c d" and "x y", then one token more."""
    cache = Cache(random_model(GROUPED), 2, 10, padding=(0, 2))

    def drawn(row: int) -> list[str]:
        return ["".join("1" if seen else "." for seen in line) for line in cache.mask[row, 0].tolist()]

    positions = cache.extend(4)
    assert positions[0, 0].tolist() == [0, 1, 2, 3]
    assert positions[1, 0].tolist() == [-2, -1, 0, 1]
    assert drawn(0) == ["1...", "11..", "111.", "1111"]
    assert drawn(1) == ["1...", ".1..", "..1.", "..11"]

    positions = cache.extend(1)
    assert positions.flatten().tolist() == [4, 2]
    assert drawn(0) == ["11111"]
    assert drawn(1) == ["..111"]

    without_padding = Cache(random_model(GROUPED), 2, 10)
    without_padding.extend(4)
    assert without_padding.mask is None, "rows of one length take the fast path of attention"


@torch.no_grad()
def test_the_cache_is_allocated_once_and_refuses_what_does_not_fit():
    model = random_model(GROUPED)
    cache = Cache(model, 2, 10)
    assert cache.keys.shape == cache.values.shape == (3, 2, 2, 10 + 1, 16)  # L, B, Hkv, S + 1, D
    place = cache.keys.data_ptr()
    for size in (4, 1, 5):
        model(torch.zeros(2, size, dtype=torch.long), cache=cache)
    assert cache.used == 10 and cache.keys.data_ptr() == place
    before = cache.keys[..., :10, :].clone()  # (slot 11 is not written: it holds anything)
    with pytest.raises(ValueError, match="the cache has 10 slots, 10 of them taken: no room for 1 more tokens"):
        model(torch.zeros(2, 1, dtype=torch.long), cache=cache)
    assert cache.used == 10 and torch.equal(before, cache.keys[..., :10, :])


@torch.no_grad()
def test_past_the_context_is_a_bug_unless_another_row_is_shorter():
    model = random_model(SHAPES["Llama 2: multi-head, untied"])  # 16 tokens
    ids = torch.zeros(2, 17, dtype=torch.long)
    with pytest.raises(AssertionError):
        model(ids)
    with pytest.raises(AssertionError):
        model(ids, cache=Cache(model, 2, 20))
    model(ids, cache=Cache(model, 2, 20, (0, 5)))


@torch.no_grad()
def test_last_computes_the_head_for_one_position():
    model = random_model(GROUPED)
    ids = torch.randint(0, 96, (2, 9))
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(args[0].shape))
    last = model(ids, cache=Cache(model, 2, 9), last=True)
    assert seen == [(2, 1, 64)] and last.shape == (2, 1, 96)
    assert (last - model(ids)[:, -1:]).abs().max() < 1e-5


@torch.no_grad()
def test_a_model_in_bfloat16_is_close_and_keeps_its_cache_in_float32_on_a_cpu():
    """bfloat16 has 8 bits: 3 layers stay within a few of them."""
    exact = random_model(GROUPED)
    ids = torch.randint(0, 96, (2, 30))
    expected = exact(ids)
    low = random_model(GROUPED).bfloat16()
    assert Cache(low, 1, 1).keys.dtype == torch.float32
    plain = low(ids)
    cached = fed(low, ids, [5, 1])
    padded = fed(low, ids, [5, 1], (0, 4))
    assert plain.dtype == cached.dtype == padded.dtype == torch.bfloat16
    assert_near(plain, expected, 0.04)
    assert_near(cached, expected, 0.04)
    assert_near(padded[0], expected[0], 0.04)


@torch.no_grad()
def test_decoding_compiles_once():
    """Dynamo traces one graph for rows of one length, one more for padded rows, however many tokens follow."""
    model = random_model(GROUPED)
    compiled = torch.compile(model, dynamic=True, backend="eager")
    ids = torch.randint(0, 96, (2, 40))
    for padding in ((), (0, 3)):
        cache, other = Cache(model, 2, 40, padding), Cache(model, 2, 40, padding)
        for cached in (cache, other):
            model(ids[:, :8], cache=cached)
        compiled(ids[:, 8:9].contiguous(), cache=cache)
        expected = model(ids[:, 8:], cache=other)
        with torch.compiler.set_stance("fail_on_recompile"):
            for i in range(9, 40):
                logits = compiled(ids[:, i : i + 1].contiguous(), cache=cache)
                assert_near(logits[:, 0], expected[:, i - 8])


def test_rope_turns_the_worked_example():
    """The numbers in apply_rope's docstring."""
    cos, sin = rope_tables(torch.tensor([2]), rope_frequencies(4, 10000.0))
    out = apply_rope(torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4), cos, sin)
    assert cos[0].tolist() == pytest.approx([-0.416, 1.000, -0.416, 1.000], abs=1e-3)
    assert sin[0].tolist() == pytest.approx([-0.909, -0.020, 0.909, 0.020], abs=1e-3)
    assert out.flatten().tolist() == pytest.approx([-0.416, 1.000, 0.909, 0.020], abs=1e-3)


def test_rope_depends_on_distance_only():
    cos, sin = rope_tables(torch.arange(600), rope_frequencies(16, 10000.0))
    assert cos.dtype == sin.dtype == torch.float32 and len(torch.unique(cos[:, 0])) == 600
    q, k = torch.randn(16), torch.randn(16)

    def turn(features, position):
        return apply_rope(features.view(1, 1, 1, 16), cos[position : position + 1], sin[position : position + 1])

    def score(i, j):
        return (turn(q, i) * turn(k, j)).sum().item()

    assert score(7, 3) == pytest.approx(score(507, 503), abs=1e-4)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


@pytest.mark.parametrize("scaling", [None, RopeScaling(), RopeScaling(32.0, 1.0, 4.0, 8192)])
@pytest.mark.parametrize("D", [64, 128])
def test_rope_equals_transformers_to_the_bit_far_out(D, scaling):
    """At position 100,000 a last bit in a frequency is a hundredth of a radian. After .bfloat16() as well."""
    shape = ModelConfig(8, 131072, 1, 1, 1, D, 8, rope_theta=500000.0, rope_scaling=scaling)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**hf_config(shape, 0))).model.rotary_emb
    positions = torch.arange(0, 131072, 4099)
    expected_cos, expected_sin = theirs(torch.zeros(1), positions[None])
    ours = Llama(shape)
    for model in (ours, ours.bfloat16(), ours.to(torch.float32)):
        cos, sin = rope_tables(positions, model.model.frequencies)
        assert cos.dtype == torch.float32
        minus, plus = sin.chunk(2, dim=1)
        assert torch.equal(cos, expected_cos[0])
        assert torch.equal(plus, expected_sin[0, :, D // 2 :])
        assert torch.equal(minus, -plus)
    if scaling:
        ratio = rope_frequencies(D, 500000.0) / rope_frequencies(D, 500000.0, scaling)
        kept, divided = ratio == 1, ratio == scaling.factor
        assert kept.any() and divided.any() and not (kept | divided).all()


@pytest.mark.filterwarnings("error")  # torch.rms_norm warns of mixed types, once in a process
@pytest.mark.parametrize("bias", [False, True])
def test_a_few_rows_times_a_cut_weight_equal_the_whole_product(bias, monkeypatch):
    """Cut where it helps: not in training, not for many rows, not where the parts would be uneven."""
    monkeypatch.setattr("model.WORTH_THREADS", 1000)
    cuts, bmm = [], torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: cuts.append(len(b)) or bmm(a, b))
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for out, shape, parts in (
            (24, (1, 1, 64), 12),
            (24, (4, 8, 64), 12),
            (18, (2, 1, 64), 6),
            (24, (33, 64), 1),
            (35, (1, 64), 1),
            (8, (1, 64), 1),
        ):
            linear, x = Linear(64, out, bias=bias), torch.randn(shape)
            with torch.inference_mode():
                y = linear(x)
            assert cuts == [parts] * (parts > 1)
            assert linear(x).grad_fn is not None and len(cuts) == (parts > 1)
            torch.testing.assert_close(y, F.linear(x, linear.weight, linear.bias), atol=1e-5, rtol=1e-5)
            cuts.clear()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gate_is_autograds_to_the_bit_and_keeps_its_inputs_alone(dtype):
    gate, up, grad = torch.randn(3, 4, 7, 50, dtype=dtype) * 3
    gate.requires_grad_(True)
    up.requires_grad_(True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = GatedSilu.apply(gate, up)
    wanted = F.silu(gate) * up
    assert torch.equal(y, wanted)
    pairs = [torch.autograd.grad(value, (gate, up), grad) for value in (y, wanted)]
    assert all(torch.equal(found, expected) for found, expected in zip(*pairs, strict=True))
    assert {tensor.data_ptr() for tensor in kept} == {gate.data_ptr(), up.data_ptr()}


def test_rms_norm_is_the_formula():
    norm = RMSNorm(8, 1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 8) * 10
    for row, out in zip(x, norm(x), strict=True):
        mean_square = sum(value * value for value in row.tolist()) / 8
        expected = row / math.sqrt(mean_square + 1e-5) * norm.weight
        assert torch.allclose(out, expected, rtol=1e-5)
    low = norm(x.bfloat16())
    assert low.dtype == torch.bfloat16 and torch.equal(low, norm(x.bfloat16().float()).bfloat16())


def test_attention_keeps_the_dtype_of_its_inputs_under_autocast():
    """A float32 cache is read in float32, whatever the products around it are computed in."""
    q = torch.randn(2, 4, 5, 8)
    k, v = torch.randn(2, 2, 2, 5, 8)
    wanted = attention(q, k, v)
    with torch.autocast("cpu", torch.bfloat16):
        found = attention(q, k, v)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


def test_autocast_keeps_the_input_of_products_once():
    """q, k and v, and gate and up, read the same bfloat16 copy of a normalised input."""
    block = Llama(GROUPED).model.layers[0]
    x = torch.randn(2, 6, GROUPED.n_embd)
    tables = rope_tables(torch.arange(6), rope_frequencies(GROUPED.head_width, 10000.0))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            block(x, *tables)
    inputs = [tensor for tensor in kept if tensor.dtype == torch.bfloat16 and tensor.numel() == x.numel()]
    places = [tensor.data_ptr() for tensor in inputs]
    counts = sorted(places.count(place) for place in set(places))
    assert counts[-2:] == [2, 3]


def small_head():
    """Rows (20, 6), a head (33, 6) and targets in float64; two are not scored."""
    torch.manual_seed(0)
    x = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(33, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 33, (20,))
    targets[[3, 7]] = IGNORE
    return x, w, targets


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_both_losses_in_chunks_equal_cross_entropy(rows, monkeypatch):
    """Values to 12 digits in float64, gradients those of F.cross_entropy and (TokenLogprobs) finite differences."""
    monkeypatch.setattr("model.CHUNK_ROWS", rows)
    monkeypatch.setattr("model.CHUNK_LOGITS", 0)
    x, w, targets = small_head()
    assert (
        len(list(chunks(len(x), *w.shape, wants_weight=True))) == {1: 7, 7: 3, 100: 1}[rows]
    )  # at least C / 2 = 3 rows
    assert torch.autograd.gradcheck(TokenLogprobs.apply, (x, w, targets))

    expected = F.cross_entropy(x @ w.t(), targets, ignore_index=IGNORE, reduction="none")
    fused = LinearCrossEntropy.apply(x, w, targets)
    each = TokenLogprobs.apply(x, w, targets)
    torch.testing.assert_close(each, -expected)
    assert each[[3, 7]].tolist() == [0, 0]
    assert fused.item() == pytest.approx(expected.sum().item(), rel=1e-12)

    wanted = torch.autograd.grad(expected.sum(), (x, w))
    fused_gradients = torch.autograd.grad(fused, (x, w), retain_graph=True)
    torch.testing.assert_close(fused_gradients, wanted)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(fused, (x, w))  # scaled in place: asked once

    scaled = torch.autograd.grad(-3 * LinearCrossEntropy.apply(x, w, targets), (x, w))
    torch.testing.assert_close(scaled, tuple(-3 * gradient for gradient in wanted))
    torch.testing.assert_close(torch.autograd.grad(-each.sum(), (x, w)), wanted)


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["Llama 3.2: scaled, tied", "Llama 3: grouped, theta 500000"])
def test_token_logprobs_of_a_model_weighed_one_by_one(name, low):
    """A sum with a weight for each token, as for preference learning, against log_softmax of the logits."""
    model = random_model(SHAPES[name])
    ids, targets = torch.randint(0, 96, (2, 3, 40))
    targets[0, :5] = IGNORE
    weights = torch.randn(3, 40)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        each = model.token_logprobs(ids, targets)
        loss = model(ids, targets)
    assert each.shape == (3, 40) and each.dtype == torch.float32
    assert not each[0, :5].any() and (each[0, 5:] < 0).all()
    assert each.sum().item() == pytest.approx(-loss.item(), rel=1e-5)

    logprobs = model(ids).log_softmax(-1)
    expected = logprobs.gather(2, targets.clamp(min=0)[:, :, None]).squeeze(2)
    expected = expected.masked_fill(targets == IGNORE, 0)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad((each * weights).sum(), parameters)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), parameters)
    tolerance = 0.1 if low else 1e-4
    assert (each - expected).abs().max() < tolerance
    for computed, wanted in zip(gradients, expected_gradients, strict=True):
        assert (computed - wanted).norm() < tolerance * wanted.norm()


def weigh_tokens_as_a_rank() -> None:
    """Gradients of weighted token_logprobs by DDP and by FSDP equal those of one process on the same batch."""
    world = parallel.World()
    world.start(torch.device("cpu"))
    alone = random_model(GROUPED)
    replicated = torch.nn.parallel.DistributedDataParallel(random_model(GROUPED))
    divided = random_model(GROUPED)
    parallel.shard(divided, torch.device("cpu"), torch.float32)

    torch.manual_seed(1)
    ids, targets = torch.randint(0, 96, (2, 3, 40))
    weights = torch.randn(3, 40)
    (alone.token_logprobs(ids, targets) * weights).sum().backward()
    (replicated(ids, targets, per_token=True) * weights).sum().backward()
    (divided.token_logprobs(ids, targets) * weights).sum().backward()
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(replicated.module.get_parameter(name).grad, parameter.grad)
        torch.testing.assert_close(divided.get_parameter(name).grad.full_tensor(), parameter.grad)
    world.stop()


def test_token_logprobs_of_several_processes_equal_those_of_one():
    done = Launch(2, weigh_tokens_as_a_rank).wait()
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, "FSDP warns of outputs that are views"


@pytest.mark.parametrize("C", [8, 128, 600])
@pytest.mark.parametrize("V", [65, 4096, 49152, 1_000_000])
def test_a_chunk_has_at_least_128_rows_whatever_the_vocabulary(V, C):
    with torch.device("meta"):
        x = torch.empty(1000, C)
        w = torch.empty(V, C)
    parts = list(chunks(len(x), *w.shape, wants_weight=True))
    covered = [row for part in parts for row in range(1000)[part]]
    assert covered == list(range(1000))
    assert all(len(range(1000)[part]) >= 128 for part in parts[:-1])
    if V >= 4096:
        assert parts[0].stop < 1000, "in chunks, not as a whole"


class MadeShapes(TorchDispatchMode):
    """Notes the shape of each tensor that an operator returns, but for views of what it was given."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            before = [x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)]
            if result.untyped_storage().data_ptr() not in before:  # no view
                self.shapes.add(tuple(result.shape))
        return result


def count_flops() -> FlopCounterMode:
    """Counts products; torch's own list leaves addmm_ out."""

    def addmm_flops(total, a, b, out_shape=None, **kwargs):
        return 2 * a[0] * a[1] * b[1]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops})


@pytest.mark.parametrize("onednn_leads", [False, True], ids=["MKL", "oneDNN"])
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("x_learns", "head_learns", "fused_products", "each_products"),
    [(True, True, 3, 4), (True, False, 2, 3), (False, True, 2, 3), (False, False, 1, 1)],
)
def test_a_frozen_head_or_input_costs_no_product_and_no_memory(
    x_learns, head_learns, fused_products, each_products, low, onednn_leads, monkeypatch
):
    monkeypatch.setattr("onednn.leads", lambda: onednn_leads)
    monkeypatch.setattr("onednn.WORTH_STARTING", 0)
    N, V, C = 300, 1000, 8
    x = torch.randn(N, C, requires_grad=x_learns)
    w = torch.randn(V, C, requires_grad=head_learns)
    targets = torch.randint(0, V, (N,))
    for function, products in ((LinearCrossEntropy, fused_products), (TokenLogprobs, each_products)):
        made = MadeShapes()
        with pytest.MonkeyPatch.context() as patch, count_flops() as counter, made:
            patch.setattr("model.CHUNK_LOGITS", 0)
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = function.apply(x, w, targets).sum()
            if loss.requires_grad:
                loss.backward()
        assert counter.get_total_flops() == products * 2 * N * V * C
        assert (N, V) not in made.shapes
        # in bfloat16 the weight itself is converted
        assert ((V, C) in made.shapes) == (head_learns or low)
        assert (x.grad is not None) == x_learns
        assert (w.grad is not None) == head_learns
        x.grad = w.grad = None


def test_the_gradient_of_the_head_lies_where_it_was_summed():
    """A second array as large as the head is 400 MB with 128,256 tokens and a width of 768."""
    x, w, targets = small_head()
    loss = LinearCrossEntropy.apply(x, w, targets)
    _, summed = loss.grad_fn.saved_tensors
    address = summed.data_ptr()
    del summed  # who holds it makes autograd copy it
    loss.backward()
    assert w.grad.data_ptr() == address


@pytest.mark.parametrize(("learns", "last_rows"), [(True, 500 - 2 * 200), (False, 500 - 3 * 128)])
def test_a_frozen_head_needs_few_logits_at_once(learns, last_rows):
    """Its gradient is not read and written with each chunk, so the chunk needs not be large."""
    x = torch.randn(500, 400, requires_grad=True)
    w = torch.randn(1000, 400, requires_grad=learns)
    with pytest.MonkeyPatch.context() as patch, MadeShapes() as made:
        patch.setattr("model.CHUNK_LOGITS", 0)
        LinearCrossEntropy.apply(x, w, torch.randint(0, 1000, (500,))).backward()
    assert min(shape[0] for shape in made.shapes if shape[1:] == (1000,)) == last_rows


def test_a_product_in_a_shorter_format_is_added_a_few_lines_at_a_time(monkeypatch):
    """As a whole it would be there twice more, in both formats: 600 MB with 128,256 tokens and a width of 768."""
    rows, V, C = 64, 1000, 16
    a = torch.randn(rows, V).bfloat16()
    b = torch.randn(rows, C).bfloat16()
    before = torch.randn(V, C)
    total = before.clone()

    monkeypatch.setattr("model.ADDED_NUMBERS", 300 * C)
    with MadeShapes() as made:
        add_product(total, a, b, is_first=False)
    lines = {shape[0] for shape in made.shapes if shape[1:] == (C,)}
    assert lines - {rows} == {300, 100}, "four parts, the last one shorter"

    product = a.t().double() @ b.double()
    assert_near(total.double(), before.double() + product, 2**-8)  # the product is rounded to bfloat16

    total = torch.full((V, C), torch.nan)  # whatever lies where nothing has been written
    add_product(total, a, b, is_first=True)
    assert_near(total.double(), product, 2**-8)


def test_evaluation_computes_no_gradients():
    """Weights want gradients, but nobody will ask for them under no_grad."""
    model = random_model(GROUPED)
    ids, targets = torch.randint(0, 96, (2, 2, 32))
    for context in (torch.no_grad, torch.inference_mode):
        for per_token in (False, True):
            with context(), count_flops() as logits_only:
                model(ids)
            with context(), count_flops() as loss:
                model(ids, targets, per_token=per_token)
            assert loss.get_total_flops() == logits_only.get_total_flops()


@pytest.mark.parametrize("name", ["Llama 3.2: scaled, tied", "Qwen2", "Qwen3"])
def test_bfloat16_autocast_is_close_to_float32(name):
    ours = random_model(SHAPES[name])
    ids, targets = torch.randint(0, 96, (2, 4, 32))
    exact = ours(ids, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = ours(ids, targets)
    assert rounded.dtype == torch.float32 and rounded.item() == pytest.approx(exact.item(), rel=1e-2)


@pytest.mark.parametrize("name", ["Llama 3.2: scaled, tied", "Qwen2"])
def test_recomputed_blocks_give_equal_gradients_and_save_less(name):
    model = random_model(SHAPES[name]).train()
    ids, targets = torch.randint(0, 96, (2, 4, 32))
    results = []
    for model.model.recompute_blocks in (False, True):
        kept: dict[int, int] = {}  # address -> bytes

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        for parameter in model.parameters():
            parameter.grad = None
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(ids, targets)
        saved = sum(kept.values())
        loss.backward()
        results.append((saved, loss.detach(), [parameter.grad for parameter in model.parameters()]))
    (all_saved, loss, gradients), (fewer, again, others) = results
    assert torch.equal(loss, again)
    for gradient, other in zip(gradients, others, strict=True):
        assert torch.equal(gradient, other)
    assert fewer < all_saved / 3
    with torch.no_grad():
        assert torch.equal(model(ids, targets), loss)


@pytest.mark.parametrize("name", SHAPES)
def test_flops_by_formula_equal_torch_counting(name):
    model = random_model(SHAPES[name])
    T = model.cfg.block_size
    ids, targets = torch.randint(0, model.cfg.vocab_size, (2, 3, T))
    with count_flops() as counter, sdpa_kernel(SDPBackend.MATH):
        model(ids, targets).backward()
    assert counter.get_total_flops() == model.flops_per_token(T) * 3 * T


def test_initial_weights():
    for family in ({"qkv_bias": True}, {"qk_norm": True}):
        shape = ModelConfig(512, 32, n_layer=8, n_head=4, n_kv_head=4, n_embd=128, ffn_hidden=256, **family)
        for name, parameter in Llama(shape).named_parameters():
            if parameter.dim() == 1:
                assert torch.all(parameter == (0 if name.endswith("bias") else 1)), name
                continue
            writes = "o_proj" in name or "down_proj" in name
            std = 0.02 / math.sqrt(2 * 8) if writes else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name


@pytest.mark.parametrize("family", [{}, {"tie_embeddings": False}, {"qkv_bias": True}, {"qk_norm": True}], ids=str)
def test_weight_decay_is_for_the_matrices_inside_the_blocks(family):
    ours = Llama(ModelConfig(64, 16, 2, 4, 2, 32, 48, **family))
    name_of = {id(parameter): name for name, parameter in ours.named_parameters()}
    decayed, others = ours.parameter_groups(0.1)
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0

    decayed_names = [name_of[id(parameter)] for parameter in decayed["params"]]
    other_names = [name_of[id(parameter)] for parameter in others["params"]]
    assert sorted(decayed_names + other_names) == sorted(name_of.values())
    kinds = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert sorted({name.split(".")[-2] for name in decayed_names}) == kinds
    assert all(name.endswith("_proj.weight") for name in decayed_names)
    assert ours.num_parameters() == sum(p.numel() for p in ours.parameters())


def test_tied_weights_stay_tied_wherever_the_model_goes():
    """to_empty gives a fresh tensor for each name of a parameter."""
    with torch.device("meta"):
        model = Llama(GROUPED)
    assert model.flops_per_token(64) == Llama(GROUPED).flops_per_token(64)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.model.frequencies, Llama(GROUPED).model.frequencies)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 5}, r"n_embd \(48\) must be n_head \(5\) times an even head width; try n_head=4"),
        ({"n_kv_head": 3}, r"n_head \(4\) must be divisible by n_kv_head \(3\); try n_kv_head=(2|4)"),
        ({"n_layer": 0}, r"n_layer \(0\) must be at least 1"),
        ({"n_embd": -48}, r"n_embd \(-48\) must be at least 1"),
        ({"vocab_size": 10**18}, rf"vocab_size \({10**18}\) must be at most 16777216"),
        ({"head_dim": 0}, r"head_dim \(0\) must be at least 1"),
        ({"head_dim": 7}, r"head_dim \(7\) must be even; try head_dim=8"),
        ({"head_dim": 1 << 23}, r"head_dim \(8388608\) must be at most 4194304"),
        ({"rope_theta": 0.0}, r"rope_theta \(0.0\) must be above 0 and finite; try rope_theta=10000.0"),
        ({"norm_eps": math.nan}, r"norm_eps \(nan\) must be above 0 and finite; try norm_eps=1e-05"),
        ({"qkv_bias": True, "qk_norm": True}, "no model family has both; choose one"),
    ],
)
def test_impossible_shapes_are_refused_with_the_nearest_that_works(change, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**({"vocab_size": 64, "n_embd": 48, "n_head": 4, "n_kv_head": 2} | change))


@pytest.mark.parametrize(
    "wrong",
    [(0.5,), (8.0, 4.0, 4.0), (8.0, 0.0), (math.inf,), (8.0, 1.0, 4.0, 0), (8.0, 1.0, 4.0, 10**400)],
    ids=lambda wrong: str(wrong)[:30],
)
def test_impossible_scaling_is_refused_with_one_that_works(wrong):
    with pytest.raises(ValueError, match=r"cannot be; Llama 3.1 has RopeScaling\(factor=8.0, low_freq_factor=1.0"):
        RopeScaling(*wrong)
