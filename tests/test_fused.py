"""Blocks by kernels.cpp against the blocks themselves: all shapes and types of weights, at every step of a text."""

import pytest
import torch

import kernels
import lora
from fused import FusedBlocks, can_be_fused, fuse
from lora import LoraSettings
from model import Cache, Llama, ModelConfig
from quantized import Scheme, put_quantized, round_matrix
from sample import generate

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")

SIZES = dict(vocab_size=64, block_size=48, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=64)
SHAPES = {
    "llama": ModelConfig(**SIZES),
    "qwen2": ModelConfig(**SIZES, qkv_bias=True, tie_embeddings=False),
    "qwen3": ModelConfig(**SIZES, qk_norm=True, head_dim=16),
    "one head a query": ModelConfig(**SIZES | {"n_kv_head": 4, "n_embd": 64}),
}
KINDS = ("float32", "bfloat16", "int8", "int4")


def made(shape: ModelConfig, kind: str) -> Llama:
    """Random weights, large enough for logits that differ."""
    torch.manual_seed(0)
    model = Llama(shape).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    if kind == "bfloat16":
        return model.bfloat16()
    if kind == "float32":
        return model

    weights = {name: parameter.data for name, parameter in model.named_parameters()}
    bits = int(kind.removeprefix("int"))
    for name, matrix in put_quantized(model, Scheme(bits, head_bits=bits), torch.float32).items():
        matrix.fill(round_matrix(weights[f"{name}.weight"], bits, 32))
    return model


def prompts() -> torch.Tensor:
    return torch.randint(64, (3, 5), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits_of_steps(model: Llama) -> list[torch.Tensor]:
    """Two texts of 5 and 3 tokens behind a prefix of 4, then 4 tokens more, of which the last ones are one text's."""
    tokens = prompts()
    prefix = Cache(model, 1, 4)
    steps = [model(tokens[:1, :4], cache=prefix)]
    cache = Cache(model, 2, 16, padding=[0, 2], prefix=prefix)
    steps.append(model(tokens[1:], cache=cache)[:, 2:])
    for place in range(4):
        if place == 2:
            cache.keep_rows([1])
            tokens = tokens[:2]
        steps.append(model(tokens[1:, place : place + 1], cache=cache))
    steps.append(model(tokens))  # without a cache
    return steps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_the_blocks(shape, kind):
    model = made(shape, kind)
    expected = logits_of_steps(model)
    fuse(model)
    assert model.model.fused is not None
    found = logits_of_steps(model)
    model.model.fused = None
    assert all(
        torch.equal(a, b) for a, b in zip(expected, logits_of_steps(model), strict=True)
    )  # weights are as before

    tolerance = {"float32": 1e-5, "bfloat16": 3e-2}.get(kind, 3e-2)  # a rounding that falls the other way is a step
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_does_not_depend_on_those_beside_it(kind):
    """The same ids alone and in a batch, and the same bits of keys and values."""
    model = made(SHAPES["llama"], kind)
    fuse(model)
    rows = prompts().tolist()
    together = list(zip(*generate(model, rows, 12, 64, temperature=0), strict=True))
    alone = [tuple(token for (token,) in generate(model, [row], 12, 64, temperature=0)) for row in rows]
    assert together == alone

    with torch.inference_mode():
        cache, own = Cache(model, 3, 8), Cache(model, 1, 8)
        for place in range(5):
            model(prompts()[:, place : place + 1], cache=cache)
            model(prompts()[1:2, place : place + 1], cache=own)
    assert torch.equal(cache.keys[:, 1:2, :, :5], own.keys[..., :5, :])


def test_weights_are_in_memory_once():
    model = made(SHAPES["llama"], "float32")
    names = [name for name, _ in model.named_parameters()]
    fuse(model)
    assert names == [name for name, _ in model.named_parameters()]
    attn = model.model.layers[0].self_attn
    storages = {linear.weight.untyped_storage().data_ptr() for linear in (attn.q_proj, attn.k_proj, attn.v_proj)}
    assert len(storages) == 1

    model.bfloat16()
    assert model.model.fused is None  # its addresses are those of the old weights


def test_what_does_not_suit_is_left_to_the_blocks():
    model = made(SHAPES["llama"], "float32")
    fuse(model)
    x = torch.zeros(1, 4, 32)
    many = torch.zeros(1, 40, 32)
    with torch.no_grad():
        assert model.model.fused.suits(x, None)
        assert not model.model.fused.suits(many, None)  # float weights, many rows
        with torch.autocast("cpu", torch.bfloat16):
            assert not model.model.fused.suits(x, None)
    assert not model.model.fused.suits(x, None)  # gradients are wanted

    with_adapter = made(SHAPES["llama"], "float32")
    lora.add_adapters(with_adapter, LoraSettings(2, 4, ("q_proj",)))
    assert not can_be_fused(with_adapter)
    odd = made(ModelConfig(**SIZES | {"n_embd": 40, "n_head": 2, "n_kv_head": 1, "head_dim": 20}), "int8")
    assert not can_be_fused(odd)
    assert isinstance(FusedBlocks(made(SHAPES["llama"], "int4")), FusedBlocks)
