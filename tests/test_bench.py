"""The harness with made-up variants; of each part, that both sides compute the same. No time is asserted."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SHARED

import bench
from bench import BenchConfig, Part
from benchmarks import bench_data, bench_dedup, bench_figures, bench_model, bench_wiki
from configurator import load
from corpus import pydocs
from corpus.documents import read_documents
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
    samples = ["sample-10m-1", "sample-10m-8", "sample-124m-1", "sample-124m-8"]
    usual = ["train", *samples, "sampler", "reader"]
    assert BenchConfig(part="all").check() == [*usual, "signatures"]  # dedup, which installs two peers, by name only
    assert BenchConfig(part="all", dump=__file__).check() == [*usual, "dump", "signatures"]
    assert BenchConfig(part="dedup,signatures").check() == ["dedup", "signatures"]
    with pytest.raises(ValueError, match="part tokens needs --encoding=, the path of a file gpt2.tiktoken; '' is no"):
        BenchConfig(part="train,tokens").check()
    assert BenchConfig(part="sample,train").check() == [*samples, "train"]
    with pytest.raises(ValueError, match=r"unknown part 'trian'; known parts: train.*, all"):
        load(BenchConfig, ["--part=train,trian"])[0].check()
    with pytest.raises(ValueError, match=r"rounds \(0\)"):
        BenchConfig(rounds=0).check()
    with pytest.raises(ValueError, match=r"largest \(1\).*file_mb \(2000\)"):
        BenchConfig(largest=1).check()
    monkeypatch.setitem(bench.PARTS, "hold", holding_part)
    assert BenchConfig(part="hold,train").check() == ["hold", "train"]
    with pytest.raises(ValueError, match="one file, but there are 2 parts"):
        BenchConfig(part="hold,train", out="x.json").check()
    with pytest.raises(ValueError, match=r"no_such_peer.* pip install -r requirements-dev.txt"):
        bench.need("no_such_peer")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_train_compares_equal_mathematics(monkeypatch, dtype):
    pytest.importorskip("transformers", reason="the peer of the train part; pip install -r requirements-dev.txt")
    monkeypatch.setitem(bench_model.SIZES, "small", (TINY, 3))
    part = bench_model.train_part(BenchConfig(device="cpu", dtype=dtype))
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
    config_of = bench_model.hf_config
    monkeypatch.setattr(bench_model, "hf_config", lambda *args: config_of(*args) | change)
    monkeypatch.setitem(bench_model.SIZES, "small", (TINY, 3))
    part = bench_model.train_part(BenchConfig(device="cpu", dtype="bfloat16"))
    with pytest.raises(ValueError, match="do not compute the same"):
        part.check({name: build() for name, build in part.variants.items()})


# --- parts whose every turn is a process of its own ---


def in_turn(name: str, log: str) -> dict[str, int]:
    """A turn that leaves its name and process behind, holds 50 MB while it lasts, and outlives a Ctrl-C."""
    held = np.ones(50 * MB, dtype=np.uint8)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{name} {os.getpid()}\n")
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    return {"bytes": held.size}


def test_every_turn_is_a_process_of_its_own(tmp_path):
    log = tmp_path / "log"
    cases = {name: functools.partial(in_turn, name, str(log)) for name in "ab"}
    samples = bench.take_turns(cases, 1, "test")
    order, processes = zip(*(line.split() for line in log.read_text(encoding="utf-8").splitlines()), strict=True)
    assert "".join(order) == "ab" and len({*processes, str(os.getpid())}) == 3
    for turn in samples["a"] + samples["b"]:
        assert turn["bytes"] == 50 * MB and turn["peak_bytes"] > 49 * MB
        if sys.platform == "linux":
            assert turn["peak_bytes"] < 70 * MB
    with pytest.raises(KeyboardInterrupt):  # here it is heard again
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_turns_in_processes_alternate_too(monkeypatch):
    order = []
    monkeypatch.setattr(bench, "alone", lambda name, function, turn: order.append(name) or {"turn": len(order)})
    assert bench.take_turns({"a": None, "b": None}, 2, "test") == {
        "a": [{"turn": 1}, {"turn": 3}],
        "b": [{"turn": 2}, {"turn": 4}],
    }


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_turn_that_is_killed_is_one_line():
    with pytest.raises(ValueError, match="measures the list was killed .out of memory"):
        bench.take_turns({"the list": kill_myself}, 1, "test")


def here(cases, rounds, desc):
    """take_turns without processes."""
    return {name: [turn() | {"peak_bytes": 7} for _ in range(rounds)] for name, turn in cases.items()}


class Clock:
    """A clock that only the tested code moves."""

    def __init__(self, monkeypatch):
        self.now_s = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)


# --- part sampler ---


@pytest.mark.parametrize("candidate", bench_data.CANDIDATES)
def test_every_sampler_draws_each_index_once(candidate):
    found = {candidate: bench_data.CANDIDATES[candidate]}
    assert "every index once, for each of 1 samplers" in bench_data.every_index_once(found)


@pytest.mark.parametrize(
    ("change", "replicas"),
    [
        (lambda n, rank: [*range(n - 1, 0, -1), 1], 1),  # 0 is missing
        (lambda n, rank: range(n), 1),  # not shuffled
        (bench_data.numpy_permutation, 8),  # every rank draws everything
        (lambda n, rank: [index + 1 for index in bench_data.numpy_permutation(n)], 1),
    ],
    ids=["repeats", "in order", "ranks alike", "out of range"],
)
def test_samplers_that_are_no_shuffle_are_not_timed(monkeypatch, change, replicas):
    monkeypatch.setattr(bench_data, "CANDIDATES", {"bad": bench_data.Candidate(change, replicas)})
    with pytest.raises(ValueError, match="bad: an epoch of n=100,000 is not every index once"):
        bench_data.sampler(BenchConfig(rounds=1), take_turns=lambda *args: pytest.fail("was timed"))


def test_first_index_rate_and_epoch_on_a_clock(monkeypatch):
    """Building takes 2 s, the first index 1 s, another 0.25 s, and what comes after the last one 5 s."""
    clock = Clock(monkeypatch)

    def build(n, rank):
        def indices():
            for index in range(n // 8):
                clock.now_s += 0.25 if index else 1
                yield index
            clock.now_s += 5

        clock.now_s += 2
        return indices()

    monkeypatch.setitem(bench_data.CANDIDATES, "slow", bench_data.Candidate(build, replicas=8))
    assert bench_data.draw("slow", 800, True) == {"first_s": 3, "rate": 4, "epoch_s": 3 + 99 / 4 + 5}
    monkeypatch.setattr(bench_data, "INDICES", 10)
    begin_s = clock.now_s
    assert bench_data.draw("slow", 800, False) == {"first_s": 3, "rate": 4, "epoch_s": None}
    assert clock.now_s - begin_s == 3 + 10 / 4


def test_seek_compares_the_far_position_with_position_0(monkeypatch):
    clock = Clock(monkeypatch)

    class Slow(bench_data.DistributedStreamSampler):
        def __iter__(self):
            clock.now_s += 5 if self.position else 1
            return super().__iter__()

    monkeypatch.setattr(bench_data, "DistributedStreamSampler", Slow)
    assert bench_data.seek() == {"near_s": 1, "far_s": 5, "far_over_near": 5}


def test_peak_memory_is_that_of_the_list():
    """RandomSampler's grows with n by the bytes an index that predictions use; ours does not."""
    draw, list_name, ours = bench_data.draw, bench_data.PEER, bench_data.OURS
    cases = {
        "list 1e6": functools.partial(draw, list_name, 10**6, False),
        "list 3e6": functools.partial(draw, list_name, 3 * 10**6, False),
        "ours 3e6": functools.partial(draw, ours, 3 * 10**6, False),
    }
    peak = {name: turns[0]["peak_bytes"] for name, turns in bench.take_turns(cases, 1, "test").items()}
    per_index = bench_data.CANDIDATES[list_name].bytes_per_index
    if sys.platform == "linux":  # elsewhere the peak of the imports hides a small one
        assert peak["list 3e6"] - peak["list 1e6"] == pytest.approx(2e6 * per_index, rel=0.15)
        assert peak["ours 3e6"] < 8e6 < peak["list 1e6"]


def test_what_does_not_fit_is_not_run():
    needs = {n: n * 48 for n in (10**6, 10**8, 10**9)}
    for n, available, word in [
        (10**9, 24 * 10**9, "does not fit: needs about 48 GB"),
        (10**9, 58 * 10**9, "does not fit: needs about 48 GB"),  # it would just so: too near
        (10**9, 64 * 10**9, "not run: above --largest=1e8, needs about 48.0 GB"),
        (10**8, 24 * 10**9, None),
        (10**8, 5 * 10**9, "does not fit: needs about 5 GB"),
        (10**6, 10**9, None),
    ]:
        assert bench_data.absent(needs[n], n, 10**8, available) == word
    assert bench_data.power(10**9) == "1e9" and bench_data.power(10**9 + 1) == "1000000001"
    assert bench_data.absent(0, 10**12, 10**8, 10**6) is None  # what holds nothing always fits


@pytest.fixture
def small_sampler(monkeypatch):
    """The sampler part in this process, with few indices and 10 GB of memory."""
    monkeypatch.setattr(bench, "take_turns", here)
    monkeypatch.setattr(bench_data, "INDICES", 1000)
    monkeypatch.setattr(bench_data, "SEEK_REPEATS", 3)
    monkeypatch.setattr(bench_data, "available_bytes", lambda: 10**10)


def test_the_sampler_record_holds_every_row_and_what_was_not_run(small_sampler, tmp_path, capsys):
    out = tmp_path / "sampler.json"
    bench.main(BenchConfig(part="sampler", rounds=2, largest=2000, out=str(out)))
    printed, record = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert bench.table(record) in printed and record["settings"]["rounds"] == 2
    results, names = record["results"], list(bench_data.CANDIDATES)
    assert list(results) == [f"{n} {name}" for n in ("2000", "1e9", "1e12") for name in names]
    for key, row in results.items():
        mine = [line for line in printed.splitlines() if f"{line:<38}"[:38].split() == key.split()]
        assert len(mine) >= 1, key
        if row["n"] > 2000 and not row["sampler"].startswith(bench_data.OURS):
            word = "not run" if key == "1e9 numpy permutation" else "does not fit"
            assert row["absent"].startswith(word) and row["absent"] in mine[0] and key not in record["samples"]
            continue
        rates = [turn["rate"] for turn in record["samples"][key]]
        assert len(rates) == 2 and row["rate"] == {"median": np.mean(rates), "min": min(rates), "max": max(rates)}
        assert f"{row['rate']['median'] / 1e6:.2f} (" in mine[0]
        whole = row["n"] == 2000 and "rank" not in row["sampler"]
        assert (row["epoch_s"] is not None) == whole
        if row["n"] == 2000:
            peers = [turn["rate"] for turn in record["samples"][f"2000 {bench_data.PEER}"]]
            by_round = [a / b for a, b in zip(rates, peers, strict=True)]
            assert row["of_peer"]["rate"] == {"median": np.mean(by_round), "min": min(by_round), "max": max(by_round)}
        else:
            assert row["of_peer"] == {}


MADE_UP = {"peak_bytes": 1.4e6, "first_s": 1e-3, "rate": 18e6, "epoch_s": 5.4}
LIST = {"peak_bytes": 4.6e9, "first_s": 7.3, "rate": 45e6, "epoch_s": 9.5}


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"peak_bytes": 5e6}, [0]),
        ({"peak_bytes": 9e6}, [0, 1]),
        ({"1e12 NonLlama": {"peak_bytes": 7e6}}, [2]),
        ({"1e12 NonLlama, rank 0 of 8": {"peak_bytes": 9e6}}, [1]),
        ({"first_s": 8e-3}, [3]),
        ({"epoch_s": 7.7}, [4]),
        ({"seek": {"far_over_near": 2.1}}, [5]),
    ],
    ids=str,
)
def test_targets_are_met_or_missed_as_measured(monkeypatch, change, missed):
    monkeypatch.setattr(bench_data, "every_index_once", lambda candidates: "")
    monkeypatch.setattr(bench_data, "available_bytes", lambda: 24 * 10**9)

    def turns(cases, rounds, desc):
        common = {key: value for key, value in change.items() if key in MADE_UP}
        seek = {"seek": {"near_s": 1.0, "far_s": 1.0, "far_over_near": 1.0}}
        made = {name: seek.get(name) or (MADE_UP | common if "NonLlama" in name else LIST) for name in cases}
        return {name: [made[name] | change.get(name, {})] * rounds for name in cases}

    record = bench_data.sampler(BenchConfig(rounds=3), turns)
    assert [k for k, row in enumerate(record["targets"]) if not row["met"]] == missed
    assert all(row["met"] is not None for row in record["targets"])
    lines = bench_data.sampler_table(record)
    assert sum(line.endswith(", missed") for line in lines) == len(missed)
    if not change:
        assert "  peak memory at n=1e8 at most 1/1000 of RandomSampler's: 1/3,286 (1/3,286-1/3,286), met" in lines


def test_a_target_without_its_peer_is_not_measured(small_sampler):
    record = bench_data.sampler(BenchConfig(rounds=1, largest=10**9 // 2), made_up_turns)
    assert [row["met"] for row in record["targets"]] == [None, True, True, None, None, True]
    assert any(
        "first index at n=5e8" in line and "-, not measured" in line for line in bench_data.sampler_table(record)
    )


def made_up_turns(cases, rounds, desc):
    return {name: [MADE_UP | {"near_s": 1.0, "far_s": 1.0, "far_over_near": 1.0}] * rounds for name in cases}


# --- part reader ---


@pytest.fixture
def tokens(tmp_path):
    with bench_data.token_file(tmp_path / "tokens.bin", 4 * 10**6) as path:
        yield path


@pytest.fixture
def small_reader(monkeypatch):
    """The reader part in this process, with few windows."""
    monkeypatch.setattr(bench, "take_turns", here)
    monkeypatch.setattr(bench_data, "WARM_WINDOWS", 100)


def test_the_token_file_is_on_the_disk_and_goes_away(tmp_path, monkeypatch):
    path = tmp_path / "new/tokens.bin"
    with contextlib.suppress(KeyboardInterrupt), bench_data.token_file(path, 3 * 10**6):
        assert path.stat().st_size == 3 * 10**6 <= path.stat().st_blocks * 512  # not sparse
        assert len(np.unique(np.fromfile(path, "<u2"))) == 1 << 16
        raise KeyboardInterrupt
    assert path.parent.is_dir() and not path.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 10**9))
    with pytest.raises(ValueError, match=r"2.0 GB free, the token file takes 1.9 GB .* lower --file_mb .* --out"):
        bench_data.reader(BenchConfig(file_mb=1900, out=str(path)), take_turns=pytest.fail)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("name", bench_data.READERS)
def test_a_reader_that_returns_other_tokens_is_not_timed(tokens, name, monkeypatch):
    """Each is checked by itself: off by a token, by a window, in the last row only, or of another dtype."""
    build = bench_data.READERS[name]
    assert "1,024 random windows of 2049 tokens are equal" in bench_data.same_windows(tokens, {name: build})

    def last_row(batch):
        return np.concatenate([batch[:-1], batch[-1:] + 1])

    for change in (lambda b: np.roll(b, 1, axis=1), lambda b: b[::-1], last_row, lambda b: b.astype(np.int32)):
        wrong = {name: lambda path, change=change: lambda indices: change(build(path)(indices))}
        with pytest.raises(ValueError, match="windows are not those that lie in the file"):
            bench_data.same_windows(tokens, bench_data.READERS | wrong)
    monkeypatch.setattr(bench_data, "READERS", bench_data.READERS | wrong)
    with pytest.raises(ValueError, match="windows are not those"):
        cfg = BenchConfig(rounds=1, file_mb=4, out=str(tokens.with_name("reader.json")))
        bench_data.reader(cfg, take_turns=lambda *args: pytest.fail("was timed"))


def test_a_turn_reads_the_same_windows_with_every_reader(tokens, monkeypatch):
    """On a clock that only reading moves: half a second a batch of 32 windows."""
    clock, seen = Clock(monkeypatch), []

    def noted(path):
        return lambda indices: seen.append(indices.tolist()) or setattr(clock, "now_s", clock.now_s + 0.5)

    monkeypatch.setattr(bench_data, "WARM_WINDOWS", 320)
    monkeypatch.setattr(bench_data, "READERS", dict.fromkeys(bench_data.READERS, noted))
    asked = {}
    for cold, name in itertools.product((True, False), bench_data.READERS):
        seen.clear()
        assert bench_data.read_windows(tokens, name, cold)["rate"] == 64
        asked.setdefault(cold, []).append(seen[1:])  # the first call is a warm-up
    assert all(found == asked[cold][0] for cold in asked for found in asked[cold])
    assert [sum(map(len, asked[cold][0])) for cold in (True, False)] == [32, 320]
    assert len(set(sum(asked[False][0], []))) > 200  # random, over the whole file
    assert 0 <= min(sum(asked[False][0], [])) < 100 and 875 < max(sum(asked[False][0], [])) < 975


def test_the_reader_record_holds_what_the_table_says(small_reader, tmp_path, capsys):
    out = tmp_path / "reader.json"
    bench.main(BenchConfig(part="reader", rounds=2, file_mb=4, out=str(out)))
    printed, record = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert bench.table(record) in printed and [path.name for path in tmp_path.iterdir()] == ["reader.json"]
    assert list(record["results"]) == [f"{state} {name}" for state in ("cold", "warm") for name in bench_data.READERS]
    for key, row in record["results"].items():
        line = next(line for line in printed.splitlines() if line.startswith(key))
        turns, held = record["samples"][key], record["samples"][f"{row['state']} {bench_data.HELD}"]
        ratio = [a["rate"] / b["rate"] for a, b in zip(turns, held, strict=True)]
        assert row["of_peer"]["rate"] == {"median": np.mean(ratio), "min": min(ratio), "max": max(ratio)}
        assert f"{bench_figures.number(row['rate']['median'])} (" in line and f"{np.mean(ratio):.2f} (" in line
        if sys.platform == "linux" and row["state"] == "warm":
            assert row["in_memory"]["min"] == 1 and row["spoiled"] is None and line.split()[-1] == "100.0%"
    if sys.platform == "linux":  # a mapped file becomes resident memory, what pread fills is given back
        mapped = {key: row["mapped_bytes"]["median"] for key, row in record["results"].items()}
        assert mapped[f"warm {bench_data.HELD}"] > 1e6 > mapped[f"warm {bench_data.OURS}"]


@pytest.mark.skipif(sys.platform != "linux", reason="no posix_fadvise or RWF_NOWAIT")
def test_cold_turns_are_cold_or_say_so(small_reader, tokens, tmp_path):
    with open(tokens, "rb") as file:
        for _ in range(50):  # another test may hold the pages for a moment
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
            except BlockingIOError:  # it would have to come from the disk
                break
            time.sleep(0.1)
        else:
            pytest.skip("the file system of the temporary folder keeps pages that it is asked to drop (tmpfs)")
    tokens.read_bytes()
    assert bench_data.resident(tokens) == 1
    bench_data.evict(tokens)
    assert bench_data.resident(tokens) == 0
    turn = bench_data.read_windows(tokens, bench_data.OURS, cold=True)
    assert turn["in_memory"] == 0
    if turn["disk_bytes_per_window"] is not None:  # /proc/self/io may be closed to containers
        assert 4000 < turn["disk_bytes_per_window"] < 20_000  # two or three pages
        held = bench_data.read_windows(tokens, bench_data.HELD, cold=True)
        assert held["disk_bytes_per_window"] >= turn["disk_bytes_per_window"]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs at /dev/shm")
def test_a_file_system_that_keeps_its_pages_is_not_called_cold(small_reader, tmp_path):
    """tmpfs is memory: nothing can be dropped."""
    folder = Path("/dev/shm", f"nonllama_test_{os.getpid()}")
    try:
        record = bench_data.reader(BenchConfig(rounds=1, file_mb=4, out=str(folder / "reader.json")), here)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert [row["spoiled"] for row in record["results"].values()] == [
        *["not cold: 100% of the file stayed in memory"] * 3,
        *[None] * 3,
    ]
    assert [row["met"] is None for row in record["targets"]] == [True, False, False]
    lines = bench_data.reader_table(record)
    assert sum("(not cold: 100% of the file stayed in memory)" in line for line in lines) == 3


def test_states_that_are_not_what_they_should_be():
    def share(low, high):
        return {"median": low, "min": low, "max": high}

    assert bench_data.spoiled("cold", share(0, 0.005)) is None and bench_data.spoiled("warm", share(1, 1)) is None
    assert bench_data.spoiled("cold", share(0, 0.5)) == "not cold: 50% of the file stayed in memory"
    assert bench_data.spoiled("warm", share(0.6, 1)) == "not warm: 60% of the file was in memory"
    assert bench_data.spoiled("cold", None) == "unknown whether cold: no mincore here"


def test_a_system_without_proc_mincore_and_fadvise_gets_a_table(small_reader, tmp_path, monkeypatch):
    """As on macOS."""

    def elsewhere(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return open(path, *args, **kwargs)

    monkeypatch.setattr(bench_data, "open", elsewhere, raising=False)
    monkeypatch.setattr(bench_data.ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(bench_data, "read_ahead_kb", lambda path: None)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    cfg = BenchConfig(part="reader", rounds=1, file_mb=4, out=str(tmp_path / "reader.json"))
    record = bench.run_part("reader", cfg)
    text = bench.table(record)
    assert "read-ahead of the device: unknown" in text and text.count("n/a") == 6 * 3
    assert text.count("(unknown whether cold: no mincore here)") == 3
    assert [row["met"] for row in record["targets"]] == [None] * 3


def test_read_ahead_is_that_of_the_device(tmp_path, monkeypatch):
    found = bench_data.read_ahead_kb(tmp_path)
    number = os.stat(tmp_path).st_dev
    known = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    assert found == (int(known.read_text()) if known.is_file() else found)
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev=os.makedev(4000, 77)))
    assert bench_data.read_ahead_kb(tmp_path) is None


def test_ctrl_c_is_one_line_and_leaves_no_file(tmp_path):
    """To the whole process group, as a terminal sends it."""
    repo, path = Path(__file__).parents[1], tmp_path / "reader_tokens.bin"
    command = [sys.executable, "bench.py", "--part=reader", "--file_mb=4", f"--out={tmp_path / 'reader.json'}"]
    process = subprocess.Popen(command, cwd=repo, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline_s = time.monotonic() + 120
        while not path.exists() and process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.05)
        time.sleep(1)  # into the imports of the first turn's process
        os.killpg(process.pid, signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, complaint) == (130, "\ninterrupted; no record of reader was written\n")
    assert not list(tmp_path.iterdir())


# --- the parts sample ---


@pytest.mark.parametrize("batch_size", [1, 3])
def test_ways_to_generate_agree_and_one_that_does_not_is_refused(monkeypatch, batch_size):
    monkeypatch.setitem(bench_model.SIZES, "10m", (TINY, 4))
    monkeypatch.setattr(bench_model, "NEW_TOKENS", 20)
    part = bench_model.sample_part(BenchConfig(device="cpu"), "10m", batch_size)
    names = ["NonLlama", "transformers"] + ["without"] * (batch_size == 1)
    assert [name.split(" ")[0] for name in part.variants] == names
    built = {name: build() for name, build in part.variants.items()}
    assert all(call().shape == (batch_size, 20) for call in built.values())
    assert part.units_per_call == 20 * batch_size and "first 20 of 20" in part.check(built)
    other = bench_model.start(dataclasses.replace(TINY, block_size=64)).eval()
    with torch.no_grad():
        other.model.norm.weight.mul_(-1)
    prompts = torch.zeros(batch_size, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="only . greedy tokens are equal"):
        part.check(built | {"other": lambda: bench_model.uncached(other, prompts, 20)})


# --- tokens and dump: whole commands ---


def test_a_corpus_is_made_of_the_words_of_docstrings_and_is_the_same_every_time(tmp_path, monkeypatch):
    packages = [("packaging", importlib.metadata.version("packaging"))]
    monkeypatch.setattr(pydocs, "python_packages", lambda: packages)
    files = pydocs.python_files(*packages[0])
    texts = [document.text for file in files for document in pydocs.docstrings(*file)]
    found = []
    for folder in ("a", "b"):
        bench_wiki.corpus(120, str(tmp_path / folder))
        (part,) = (tmp_path / folder).iterdir()
        found.append([text for (text,) in read_documents(part, ("text",))])
    words = " ".join(texts).split()
    runs = {" ".join(words[i : i + 3]) for i in range(0, len(words) - 3, 3)}
    assert found[0] == found[1] and len(found[0]) == 120
    split = found[0][0].split(" ")
    assert {" ".join(split[i : i + 3]) for i in range(0, len(split), 3)} <= runs
    changed = [text for text in found[0] if "changed" in text.split(" ")[7::30]]
    assert changed == [found[0][99]] and not set(" ".join(found[0]).split()) - {*words, "changed"}


@pytest.mark.real_data
@pytest.mark.parametrize("part", ["tokens", "dump"])
def test_whole_commands_are_timed_and_weighed_with_all_their_processes(part, tmp_path, capsys):
    """Both ways to tokens write the same; every row has its seconds and the memory of a tree of processes."""
    files = {"encoding": str(SHARED / "tokenizer/gpt2.tiktoken")}
    files |= {"dump": str(SHARED / "wiki/xml/enwiki-table-markup-gensim.xml.bz2")}
    cfg = BenchConfig(part=part, rounds=1, documents=200, dump_mb=2, out=str(tmp_path / "record.json"), **files)
    bench.main(cfg)
    record, printed = json.loads((tmp_path / "record.json").read_text()), capsys.readouterr().out
    names = {
        "tokens": ["NonLlama", "nanoGPT's way"],
        "dump": ["bzcat", "one stream", "multistream, 1", "multistream, 2"],
    }
    assert list(record["results"]) == names[part] and all(name in printed for name in names[part])
    for row in record["results"].values():
        assert 0 < row["seconds"]["median"] < 100 and row["tree_bytes"]["median"] > 1e5
    assert [target["met"] in (True, False) for target in record["targets"]] == [True, True]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_command_that_fails_says_why():
    with pytest.raises(ValueError, match="failed: .*no such thing"):
        bench_wiki.watch([sys.executable, "-c", "raise SystemExit('no such thing')"])


@pytest.mark.timeout(60)
def test_a_command_that_says_much_does_not_wait_for_a_reader():
    talk = "import sys; sys.stderr.write('x' * 1_000_000 + 'the end'); sys.exit(len(sys.argv) > 1)"
    assert bench_wiki.watch([sys.executable, "-c", talk])["seconds"] > 0
    with pytest.raises(ValueError, match="failed: x{993}the end$"):
        bench_wiki.watch([sys.executable, "-c", talk, "fail"])


def test_cpu_seconds_are_those_of_workers_that_nobody_waits_for_too():
    burn = "import time; end = time.process_time() + 0.8\nwhile time.process_time() < end: pass"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {burn!r}]); time.sleep(3)"
    assert bench_wiki.watch([sys.executable, "-c", parent])["cpu_s"] > 0.7


def test_signatures_are_timed_three_ways_on_the_same_documents(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "take_turns", here)
    monkeypatch.setattr(bench_dedup, "SIGNED", 60)
    bench.main(BenchConfig(part="signatures", rounds=2, out=str(tmp_path / "record.json")))
    record, printed = json.loads((tmp_path / "record.json").read_text()), capsys.readouterr().out
    names = ["NonLlama", "m.update, legacy", "generator"]
    assert list(record["results"]) == names and all(name in printed for name in names)
    assert [len(rows) for rows in record["samples"].values()] == [2, 2, 2]
    ratio = record["targets"][0]["measured"]["median"]
    rates = [[row["rate"] for row in record["samples"][name]] for name in names[:2]]
    assert ratio == pytest.approx(sum(a / b for a, b in zip(*rates, strict=True)) / 2)
    assert not list(tmp_path.glob("*.tmp"))


def test_duplicates_are_timed_as_whole_commands_and_counted(monkeypatch, tmp_path, capsys):
    """The peers are stand-ins here: what they cost is what they burn, what they removed what they say."""
    monkeypatch.setattr(bench_dedup, "DOCUMENTS", 300)
    monkeypatch.setattr(bench_dedup, "INDEXED", 3000)
    own = bench_dedup.commands

    def stand_in(documents, out):
        monkeypatch.setattr(bench_dedup, "environment", lambda name: sys.executable)
        ours = own(documents, out)["NonLlama"]
        rows = "import datasets, sys; datasets.Dataset.from_dict({'a': [1] * 290}).save_to_disk(sys.argv[1])"
        lines = "import sys, pathlib as p; d = p.Path(sys.argv[1]); d.mkdir(parents=True)\n"
        lines += "(d / '0.jsonl').write_text('{}\\n' * 7)"
        kept, gone = out("text-dedup") / "kept", out("datatrove") / "out/removed"
        return {
            "NonLlama": ours,
            "text-dedup": [sys.executable, "-c", rows, str(kept)],
            "datatrove": [sys.executable, "-c", lines, str(gone)],
        }

    monkeypatch.setattr(bench_dedup, "commands", stand_in)
    monkeypatch.setattr(bench, "take_turns", here)
    bench.main(BenchConfig(part="dedup", rounds=1, out=str(tmp_path / "record.json")))
    record, printed = json.loads((tmp_path / "record.json").read_text()), capsys.readouterr().out
    assert record["removed"]["text-dedup"] == 10 and record["removed"]["datatrove"] == 7
    assert record["removed"]["NonLlama"] in (2, 3)  # one in a hundred is a near copy, of J 0.71
    assert record["index_bytes"]["median"] > 1000 and "in MinHashLSH takes" in printed
    assert all(row["cpu_s"]["median"] > 0 for row in record["results"].values())


def test_made_up_bands_are_measured_and_go_away(tmp_path, capsys):
    bench_dedup.bands(5000, str(tmp_path / "bands"))
    printed = capsys.readouterr().out
    assert "5,000 documents, 25 bands: 25" in printed and printed.count("bytes a document") == 4
    assert not (tmp_path / "bands").exists()
