"""The harness with made-up variants; of the train part, that both sides compute the same. No time is asserted."""

import json
import sys
import time

import numpy as np
import pytest
import torch

import bench
from bench import BenchConfig, Part
from configurator import load
from model import ModelConfig

CPU = torch.device("cpu")
TINY = ModelConfig(96, 16, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=64)
MB = 1 << 20


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads beside other jobs wait for each other: this file took a minute instead of ten seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hold(megabytes: int):
    """Builds a variant that keeps so much memory from its second call on."""

    def build():
        held = []
        return lambda: held.append(np.ones((megabytes if len(held) == 1 else 0) * MB, dtype=np.uint8))

    return build


def holding_part(cfg: BenchConfig) -> Part:
    """Two variants that differ in memory; at the top level, where a spawned process finds it."""
    ballast = np.ones(256 * MB, dtype=np.uint8)  # a peak that is over before the baseline is taken
    ballast.fill(0)
    return Part({"big": hold(100), "small": hold(20)}, "hold memory", "items", 7, lambda variants: "nothing to check")


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_variants_take_turns(names):
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in names}
    samples = bench.measure(variants, rounds=4, seconds=0, device=CPU)
    assert "".join(calls) == names * (1 + 4)  # the warm-up, then the rounds
    assert {name: len(found) for name, found in samples.items()} == dict.fromkeys(names, 4)


def test_a_sample_is_the_mean_over_the_calls_that_fill_the_turn(monkeypatch):
    """On a clock that only the variants move: a takes 0.5 s for its first call (warming up) and 0.125 s later."""
    clock, calls = [0.0], []

    def variant(name, first_s, later_s):
        def call():
            clock[0] += later_s if name in calls else first_s
            calls.append(name)

        return call

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    variants = {"a": variant("a", 0.5, 0.125), "b": variant("b", 0.25, 0.5), "slow": variant("slow", 4, 4)}
    samples = bench.measure(variants, rounds=2, seconds=1, device=CPU)
    assert samples == {"a": [0.125] * 2, "b": [0.5] * 2, "slow": [4] * 2}
    assert "".join(name[0] for name in calls) == "aaaaa" + "bbb" + "s" + 2 * (8 * "a" + 2 * "b" + "s")


@pytest.mark.parametrize("rounds", [1, 4, 7])
def test_summary_equals_the_obvious_computation(rounds):
    random = np.random.default_rng(rounds)
    samples = {name: random.uniform(0.5, 2, rounds).tolist() for name in ("ours", "peer", "other")}
    found = bench.summarize(samples, units_per_call=1000)
    for name in samples:
        ratios = sorted(samples["peer"][i] / samples[name][i] for i in range(rounds))
        middle = (ratios[(rounds - 1) // 2] + ratios[rounds // 2]) / 2
        assert found[name] == pytest.approx(
            {
                "median_s": np.median(samples[name]),
                "min_s": min(samples[name]),
                "max_s": max(samples[name]),
                "rate": 1000 / np.median(samples[name]),
                "ratio": middle,
                "ratio_min": ratios[0],
                "ratio_max": ratios[-1],
            }
        )
    assert bench.summarize({"alone": [1.0, 2.0]}, 1)["alone"]["ratio"] == 1


def test_the_record_holds_what_the_table_says(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(bench.PARTS, "hold", holding_part)
    out = tmp_path / "new/record.json"
    cfg = BenchConfig(part="hold", rounds=3, seconds=0, out=str(out), device="cpu")
    bench.main(cfg)
    printed, record = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert bench.table(record) in printed
    row = next(line.split() for line in printed.splitlines() if line.startswith("big"))
    big, small = (record["results"][name] for name in ("big", "small"))
    assert row[1] == f"{1000 * big['median_s']:,.2f}" and row[3] == f"{big['rate']:,.0f}"
    assert row[4:6] == [f"{big['ratio']:.2f}", f"({big['ratio_min']:.2f}-{big['ratio_max']:.2f})"]
    assert row[6] == f"{big['peak_bytes'] / 1e6:,.1f}"

    assert {name: len(found) for name, found in record["samples_s"].items()} == {"big": 3, "small": 3}
    times_only = {name: {k: v for k, v in row.items() if k != "peak_bytes"} for name, row in record["results"].items()}
    assert times_only == bench.summarize(record["samples_s"], 7)
    assert record["settings"]["rounds"] == 3 and record["check"] == "nothing to check"
    assert {"date", "commit", "hardware"} < set(record) and record["hardware"]["threads"] == torch.get_num_threads()

    # Memory: of each variant alone, without the 256 MB that its part used while it was made.
    for row, held in ((big, 100), (small, 20)):
        assert row["peak_bytes"] > (held - 1) * MB
        if sys.platform == "linux":  # elsewhere a peak cannot be forgotten, and the figure is an upper bound
            assert row["peak_bytes"] < (held + 20) * MB


def test_variants_that_differ_are_not_timed(monkeypatch):
    def refuse(variants):
        raise ValueError("they differ")

    calls = []
    part = Part({"a": lambda: lambda: calls.append("a")}, "", "items", 1, refuse)
    monkeypatch.setitem(bench.PARTS, "fake", lambda cfg: part)
    with pytest.raises(ValueError, match="they differ"):
        bench.run_part("fake", BenchConfig(device="cpu"))
    assert not calls


def test_settings_that_cannot_work_are_named(monkeypatch):
    assert BenchConfig(part="all").check() == list(bench.PARTS)
    with pytest.raises(ValueError, match=r"unknown part 'trian'; known parts: train.*, all"):
        load(BenchConfig, ["--part=train,trian"])[0].check()
    with pytest.raises(ValueError, match=r"rounds \(0\)"):
        BenchConfig(rounds=0).check()
    monkeypatch.setitem(bench.PARTS, "hold", holding_part)
    assert BenchConfig(part="hold,train").check() == ["hold", "train"]
    with pytest.raises(ValueError, match="one file, but there are 2 parts"):
        BenchConfig(part="hold,train", out="x.json").check()
    with pytest.raises(ValueError, match=r"no_such_peer.* pip install -r requirements-dev.txt"):
        bench.need("no_such_peer")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_train_compares_equal_mathematics(monkeypatch, dtype):
    pytest.importorskip("transformers", reason="the peer of the train part; pip install -r requirements-dev.txt")
    monkeypatch.setitem(bench.SIZES, "small", (TINY, 3))
    part = bench.train_part(BenchConfig(device="cpu", dtype=dtype))
    variants = {name: build() for name, build in part.variants.items()}
    ours, theirs = variants.values()
    losses = [[step(torch.float32).item() for _ in range(4)] for step in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-6)
    assert len(set(losses[0])) == 4  # another batch and other weights each time
    assert part.check(variants).count("tolerance") == (1 if dtype == "float32" else 2)
    assert part.units_per_call == 3 * TINY.block_size


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "gelu"}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rms_norm_eps": 1e-3}],
    ids=["activation", "RoPE base", "epsilon"],
)
def test_train_refuses_other_mathematics(monkeypatch, change):
    pytest.importorskip("transformers", reason="the peer of the train part; pip install -r requirements-dev.txt")
    config_of = bench.hf_config
    monkeypatch.setattr(bench, "hf_config", lambda *args: config_of(*args) | change)
    monkeypatch.setitem(bench.SIZES, "small", (TINY, 3))
    part = bench.train_part(BenchConfig(device="cpu", dtype="bfloat16"))
    with pytest.raises(ValueError, match="do not compute the same"):
        part.check({name: build() for name, build in part.variants.items()})
