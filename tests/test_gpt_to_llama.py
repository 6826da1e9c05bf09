"""The rungs from GPT-2 to Llama: what each one is, equal sizes, runs that are not made twice, and the table."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from matplotlib.figure import Figure
from torch import nn

import train
from benchmarks import gpt_to_llama
from benchmarks.gpt_to_llama import RUNGS, ClimbConfig, Job, build, draw_weights, ffn_width, has, main, run, table
from mixture import Mixture
from model import RMSNorm

pytestmark = [pytest.mark.usefixtures("no_plot"), pytest.mark.bench]

V = 66


def parts_of(rung: str) -> dict[str, bool]:
    """What a rung's model is made of, by its parameters alone."""
    names = {name: tuple(value.shape) for name, value in build(rung, V, 64).named_parameters()}
    first = "model.layers.0."
    return {
        "LayerNorm": "model.norm.bias" in names,
        "positions": "model.embed_tokens.positions" in names,
        "GELU": first + "mlp.gate_proj.weight" not in names,
        "MHA": names[first + "self_attn.k_proj.weight"] == (128, 128),
        "biases": first + "self_attn.o_proj.bias" in names,
        "qk-norm": first + "self_attn.q_norm.weight" in names,
    }


def test_each_rung_changes_one_part():
    before = parts_of("GPT-2")
    assert before == {key: key != "qk-norm" for key in before}
    changed = {"RMSNorm": {"LayerNorm"}, "RoPE": {"positions"}, "SwiGLU": {"GELU"}, "GQA": {"MHA", "biases"}}
    changed |= {"qk-norm": {"qk-norm"}, "Muon": set()}
    for rung in RUNGS[1:]:
        own = parts_of(rung)
        assert {key for key in own if own[key] != before[key]} == changed[rung]
        before = own
    assert not has("RMSNorm", "RoPE") and has("RoPE", "RMSNorm")


def test_the_lowest_rung_is_pytorchs_gpt2_block():
    """By torch's own TransformerEncoderLayer, with norm first, GELU and biases, on copied weights."""
    torch.manual_seed(0)
    llama = build("GPT-2", V, 64)
    draw_weights(llama, 0)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    block = llama.model.layers[0]
    peer = nn.TransformerEncoderLayer(128, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    own = block.self_attn
    state = {
        "self_attn.in_proj_weight": torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight]),
        "self_attn.in_proj_bias": torch.cat([own.q_proj.bias, own.k_proj.bias, own.v_proj.bias]),
    }
    modules = {"self_attn.out_proj": own.o_proj, "linear1": block.mlp.up_proj, "linear2": block.mlp.down_proj}
    modules |= {"norm1": block.input_layernorm, "norm2": block.post_attention_layernorm}
    for name, module in modules.items():
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    peer.load_state_dict(state)

    x = torch.randn(2, 9, 128)
    mask = nn.Transformer.generate_square_subsequent_mask(9)
    no_turn = torch.full((2, 9, 32), torch.nan)  # what a rung without RoPE does not look at
    torch.testing.assert_close(block(x, *no_turn), peer(x, src_mask=mask, is_causal=True), rtol=1e-4, atol=1e-5)

    ids = torch.randint(V, (2, 9))
    embedded = llama.model.embed_tokens(ids)
    assert torch.equal(embedded[1, 3], llama.lm_head.weight[ids[1, 3]] + llama.model.embed_tokens.positions[3])


def test_the_upper_rungs_are_llamas_and_the_check_sees_a_difference(monkeypatch):
    for rung in ("GQA", "qk-norm", "Muon"):
        assert {type(module).__module__ for module in build(rung, V, 64).modules()} <= {"model"} | {
            "torch.nn.modules." + name for name in ("sparse", "container", "linear")
        }
    assert isinstance(build("RoPE", V, 64).model.norm, RMSNorm)
    gpt_to_llama.check_that_the_parts_are_llamas(V)
    real_init = gpt_to_llama.BiasedAttention.__init__
    never = lambda self, shape, layer, rotates: real_init(self, shape, layer, rotates=False)  # noqa: E731
    monkeypatch.setattr(gpt_to_llama.BiasedAttention, "__init__", never)
    with pytest.raises(AssertionError):
        gpt_to_llama.check_that_the_parts_are_llamas(V)


@pytest.mark.parametrize("vocab_size", [66, 300])
def test_rungs_have_as_many_parameters(vocab_size):
    counts = [build(rung, vocab_size, ffn_width(rung, vocab_size)).num_parameters() for rung in RUNGS]
    assert max(counts) <= 1.01 * counts[0] and min(counts) >= 0.99 * counts[0]
    assert all(ffn_width(rung, vocab_size) % 8 == 0 for rung in RUNGS)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(gpt_to_llama, "N_LAYER", 2)
    monkeypatch.setattr(gpt_to_llama, "N_EMBD", 32)
    monkeypatch.setattr(gpt_to_llama, "GPT_FFN", 256)
    monkeypatch.setattr(gpt_to_llama, "BLOCK", 32)
    monkeypatch.setattr(gpt_to_llama, "BATCH", 8)
    monkeypatch.setattr(gpt_to_llama, "pick_dtype", lambda *args: torch.float32)
    monkeypatch.setattr(gpt_to_llama, "TIMED_STEPS", 1)


class Padded(Mixture):
    """With as many ids as train.py has rows in its embedding: 300 become 320."""

    def __init__(self, *args):
        super().__init__(*args)
        self.tokenizer = SimpleNamespace(vocab_size=320)


def test_a_run_on_llamas_rung_is_train_pys(small, data_dir, tmp_path, monkeypatch):
    """The loop here and train.py's give the same validation loss."""
    monkeypatch.setattr(gpt_to_llama, "Mixture", Padded)
    job = Job("GQA", 3e-3, 5, 6, data_dir)
    own = run(job, tmp_path)

    width = ffn_width("GQA", 320)
    settings = TINY | {"data": str(data_dir), "out_dir": str(tmp_path / "run"), "ffn_hidden": width, "max_iters": 6}
    settings |= {"eval_interval": 6, "warmup_iters": 0, "beta2": 0.99, "seed": 5, "schedule": "linear"}
    train.main(train.TrainConfig(**settings))
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (val_loss,) = [row["val_loss"] for row in rows if row["step"] == 6 and "val_loss" in row]
    assert own == pytest.approx(val_loss, rel=1e-6)


@pytest.mark.slow
def test_a_climb_goes_on_where_it_was_and_prints_its_table(small, tmp_path, monkeypatch, capsys):
    text = "".join(f"the {word} of {i}. " for i, word in enumerate(["sea", "sky", "old house"] * 400))
    (tmp_path / "text.txt").write_text(text)
    usual = {"text": str(tmp_path / "text.txt"), "out": str(tmp_path / "out"), "max_iters": 3, "choice_iters": 2}
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, format: drawn.append(self) or path.write_bytes(b"x"))
    main(ClimbConfig(**usual, seeds=1, time_rounds=1))
    first = json.loads((tmp_path / "out/results.json").read_text())
    assert list(first["rungs"]) == list(RUNGS) and first["tokens"] == 3 * 8 * 32

    trained = []
    step_of = gpt_to_llama.step_of
    monkeypatch.setattr(gpt_to_llama, "step_of", lambda job, data: trained.append(job) or step_of(job, data))
    main(ClimbConfig(**usual, seeds=2, time_rounds=1))
    assert [(job.rung, job.seed) for job in trained] == [(rung, 1) for rung in RUNGS]  # the second seed alone
    second = json.loads((tmp_path / "out/results.json").read_text())
    for rung in RUNGS:
        row = second["rungs"][rung]
        assert row["val_loss"][:1] == first["rungs"][rung]["val_loss"] and len(row["val_loss"]) == 2
        assert row["rate"] == float(min(row["tried"], key=row["tried"].get))
        assert set(map(float, row["tried"])) == set(gpt_to_llama.rates_of(rung))
    assert second["step_s"] == first["step_s"] and len(drawn) == 2

    lines = table(second).splitlines()
    losses = [second["rungs"][rung]["val_loss"] for rung in RUNGS[:2]]
    change = math.fsum(own - below for below, own in zip(*losses, strict=True)) / 2
    assert f"| {change:+.3f} (" in lines[3] and lines[2].startswith("| GPT-2 |")

    capsys.readouterr()
    main(ClimbConfig(**usual, draw=str(tmp_path / "picture.png")))
    assert (tmp_path / "picture.png").is_file() and table(second) in capsys.readouterr().out
    with pytest.raises(ValueError, match="x.txt is no file; put a text there"):
        main(ClimbConfig(text="x.txt"))
