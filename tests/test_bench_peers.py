"""Part train of bench.py with peers that are checkouts: stand-ins of a few lines, in the folders of a checkout.

That the real ones import is seen when the part is run with them.
"""

import dataclasses
import math
import sys
from pathlib import Path

import pytest
import torch

import bench
from bench import BenchConfig
from benchmarks import bench_memory, bench_model, bench_peers
from benchmarks.bench_model import Size
from benchmarks.bench_peers import Parameters, compare_parameters
from configurator import load
from model import ModelConfig

pytestmark = pytest.mark.bench

TINY = ModelConfig(96, 16, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=64)

# A model of about as many parameters as TINY's, which sees one token: enough to be trained.
STAND_IN = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int = 0
    vocab_size: int = 0
    n_layer: int = 0
    n_head: int = 0
    n_embd: int = 0
    dropout: float = 1.0
    bias: bool = True

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("a line that nobody wants")
        self.seen = []
        V, C = config.vocab_size, config.n_embd
        self.table = nn.Embedding(V, C)
        self.layers = nn.ModuleList(nn.Linear(C, C, bias=config.bias) for _ in range(WIDE * config.n_layer))
        self.head = nn.Linear(C, V, bias=False)
        self.head.weight = self.table.weight
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, idx, targets):
        x = self.table(idx)
        for layer in self.layers:
            x = x + 0.1 * layer(x)
            self.seen.append(layer(x).dtype)
        logits = self.head(x)
        return logits, F.cross_entropy(logits.flatten(0, 1).float(), targets.view(-1))

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        assert (weight_decay, betas, device_type) == (0.1, (0.9, 0.95), "cpu")
        return torch.optim.SGD(self.parameters(), lr=learning_rate)
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(bench_model.SIZES, "small", Size(TINY, 3))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkout(folder: Path, code: str = STAND_IN.replace("WIDE", "9")) -> str:
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    return str(folder)


def test_a_checkout_takes_its_turns_with_its_own_model_and_optimizer(tmp_path, capsys):
    """In float32 as it is; where the part is in bfloat16, under autocast as well."""
    pytest.importorskip("transformers", reason="a peer of the train part; pip install -r requirements-dev.txt")
    cfg = BenchConfig(device="cpu", dtype="bfloat16", nanogpt=checkout(tmp_path / "nanoGPT"))
    part = bench_model.train_part(cfg)
    names = list(part.variants)
    assert names[0] == "NonLlama" and names[2:] == ["nanoGPT float32", "nanoGPT bfloat16"]
    assert len(bench_model.train_part(dataclasses.replace(cfg, dtype="float32")).variants) == 3

    built = {name: build() for name, build in part.variants.items()}
    agreement = part.check(built)
    assert "the others begin at the loss of a guess" in agreement and "nanoGPT float32 21,504" in agreement
    assert "a line that nobody wants" not in capsys.readouterr().out

    plain, narrow = (bench_peers.rows(cfg, torch.bfloat16)[i].build(TINY) for i in (0, 1))
    assert isinstance(plain.optimizer, torch.optim.SGD) and not plain.model.layers[0].bias
    for i, kind in ((0, torch.float32), (1, torch.bfloat16)):
        row = bench_peers.rows(cfg, torch.bfloat16)[i]
        trainer = row.build(TINY)
        ids = torch.zeros(2, 8, dtype=torch.int64)
        with torch.autocast("cpu", row.dtype, enabled=row.autocast):
            trainer.loss_of(trainer.model, ids, ids)
        assert set(trainer.model.seen) == {kind}


def test_a_checkout_that_does_not_import_is_one_line_with_the_fix(tmp_path):
    def refusal(**settings) -> str:
        (row,) = bench_peers.rows(BenchConfig(device="cpu", **settings), torch.float32)
        with pytest.raises(ValueError) as caught:
            row.build(TINY)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    nowhere = str(tmp_path / "nowhere")
    home = "git clone https://github.com/karpathy/nanoGPT"
    assert f"--nanogpt={nowhere} is no checkout" in refusal(nanogpt=nowhere) and home in refusal(nanogpt=nowhere)
    other = checkout(tmp_path / "other", "x = 1\n")
    assert "is no checkout" in refusal(nanogpt=other)
    needy = checkout(tmp_path / "needy", "import no_such_package.part\n")
    assert "needs the package no_such_package; run: pip install torch numpy" in refusal(nanogpt=needy)
    for key in ("nanochat", "litgpt"):
        if key not in sys.modules:
            assert f"--{key}={nowhere} is no checkout of https://github.com/" in refusal(**{key: nowhere})


def test_a_peer_of_another_size_or_that_does_not_learn_is_refused(tmp_path):
    same = Parameters(1000, 800)
    assert "peer 1,005" in compare_parameters({"ours": same, "peer": Parameters(1005, 900)})
    line = compare_parameters({"ours": same, "peer": Parameters(2000, 805)})  # a head of its own
    assert "peer 2,000 (in matrix products 805, the first 800)" in line
    with pytest.raises(ValueError, match="peer has 1,020 parameters and the first has 1,000"):
        compare_parameters({"ours": same, "peer": Parameters(1020, 820)})

    small = checkout(tmp_path / "small", STAND_IN.replace("WIDE", "1"))
    part = bench_model.train_part(BenchConfig(device="cpu", dtype="float32", nanogpt=small))
    with pytest.raises(ValueError, match="nanoGPT float32 has 5,120 parameters"):
        part.check({name: build() for name, build in part.variants.items()})

    for losses in ((9.0, 8.0, 7.0), (4.5, 4.5, 4.5), (4.5, 4.4, math.nan)):
        turns = iter(losses)
        with pytest.raises(ValueError, match="peer is not trained"):
            bench_model.all_learn({"peer": lambda turns=turns: torch.tensor(next(turns))}, 96)


def test_the_batch_is_a_setting():
    assert bench_model.size_of(BenchConfig(batch="2x8")) == Size(dataclasses.replace(TINY, block_size=8), 2)
    assert bench_model.size_of(BenchConfig()) == Size(TINY, 3)
    for batch in ("2", "2x", "0x8", "axb"):
        with pytest.raises(ValueError, match=f"batch \\({batch}\\) must be windows x tokens"):
            bench_model.size_of(load(BenchConfig, [f"--batch={batch}"])[0])


@pytest.mark.parametrize("size", ["0.8m", "10.6m", "124m"])
def test_sizes_have_as_many_parameters_as_nanogpts(size):
    """12 C^2 for a block, one table of tokens and one of positions, a gain for each norm."""
    shape = bench_model.SIZES[size].shape
    C, L = shape.n_embd, shape.n_layer
    wanted = L * 12 * C * C + (shape.vocab_size + shape.block_size) * C + (2 * L + 1) * C
    with torch.device("meta"):
        assert bench_model.Llama(shape).num_parameters() == pytest.approx(wanted, rel=0.01)


def test_memory_is_compared_with_the_same_model_and_full_logits(monkeypatch, tmp_path, capsys):
    """Both have the same loss; ours computes it in chunks, the other side all logits."""

    def here(cases, rounds, desc):
        peaks = {"NonLlama": 50, "full logits": 100}
        return {name: [turn() | {"peak_bytes": peaks[name]}] for name, turn in cases.items()}

    monkeypatch.setattr(bench_memory, "SHAPE", TINY)
    monkeypatch.setattr(bench_memory, "ROWS", 2)
    monkeypatch.setattr(bench_memory, "T", 16)
    monkeypatch.setattr(bench, "take_turns", here)
    cfg = BenchConfig(part="memory", dtype="float32", out=str(tmp_path / "x.json"))
    bench.main(cfg)
    printed = capsys.readouterr().out
    assert "at most 60 % of the memory of full logits: 0.50 (0.50-0.50), met" in printed

    monkeypatch.setattr(bench_memory, "loss_of_full_logits", lambda model, x, y: 2 * model(x, y) / y.numel())
    with pytest.raises(ValueError, match="the sides do not compute the same"):
        bench.main(cfg)
