"""The harness with made-up variants; of each part, that both sides compute the same. No time or memory is asserted.

What depends on the machine (resident memory, the page cache, whole commands) is marked slow.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import PYTHON, REPO, SHARED
from test_packing import draw_conversations, write_folder

import bench
import dedup
from bench import BenchConfig, Part
from benchmarks import (
    bench_dedup,
    bench_evaluate,
    bench_figures,
    bench_finetune,
    bench_model,
    bench_reader,
    bench_sampler,
    bench_wiki,
    dedup_bands,
    plot_sampler,
    sampler_quality,
    synthetic_corpus,
    watch,
)
from benchmarks.bench_model import Size
from configurator import load
from corpus import pydocs
from corpus.documents import read_documents
from model import ModelConfig
from tokenizer import Tokenizer

pytestmark = pytest.mark.bench

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


@pytest.fixture
def few_docstrings(monkeypatch) -> list[str]:
    """Made-up corpora are made of the docstrings of one small package; returns their texts."""
    package = ("packaging", importlib.metadata.version("packaging"))
    monkeypatch.setattr(pydocs, "python_packages", lambda: [package])
    return [document.text for file in pydocs.python_files(*package) for document in pydocs.docstrings(*file)]


def here(cases, rounds, desc):
    """take_turns without processes."""
    return {name: [turn() | {"peak_bytes": 7} for _ in range(rounds)] for name, turn in cases.items()}


class Clock:
    """A clock that only the tested code moves."""

    def __init__(self, monkeypatch):
        self.now_s = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)


# --- figures ---


def test_figures_are_printed_in_the_form_of_their_size():
    assert [bench_figures.number(x) for x in (1.414, 99.99, 100, 4816.4)] == ["1.41", "99.99", "100", "4,816"]
    assert [bench_figures.fraction(x) for x in (0.85, 0.01, 0.0005, 3, 0)] == [
        "0.85",
        "0.01",
        "1/2,000",
        "3.00",
        "0.00",
    ]
    figure = bench_figures.spread([3, 1, 200])
    assert figure == {"median": 3, "min": 1, "max": 200} and bench_figures.shown(figure) == "3.00 (1.00-200)"
    assert bench_figures.largest_of([3, 1, 200]) == {"median": 200, "min": 1, "max": 200}
    assert bench_figures.scaled(figure, 10)["max"] == 2000
    assert bench_figures.shown(None) == "-" and bench_figures.scaled(None, 10) is None


def test_a_target_is_met_at_its_limit_and_not_beyond():
    for most, values in ((True, {1.9: True, 2.0: True, 2.1: False}), (False, {1.9: False, 2.0: True, 2.1: True})):
        for value, met in values.items():
            assert bench_figures.target("x", {"median": value}, 2, most=most)["met"] is met
    missing = bench_figures.target("x", None, 2)
    assert missing["met"] is None and bench_figures.target_lines([missing])[1] == "  x: -, not measured"


def test_ratios_are_taken_within_each_round_of_figures_that_both_have():
    own = [{"a": 2.0, "b": None, "c": 1.0}, {"a": 9.0, "b": None, "c": 1.0}]
    peer = [{"a": 1.0, "b": 1.0, "c": None}, {"a": 3.0, "b": 1.0, "c": None}]
    assert bench_figures.ratios(own, peer, ["a", "b", "c", "d"]) == {"a": {"median": 2.5, "min": 2, "max": 3}}


# --- variants timed in one process ---


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_variants_take_turns(names):
    calls = []
    variants = {name: lambda name=name: calls.append(name) for name in names}
    samples, cpu_samples = bench.measure(variants, rounds=4, seconds=0, device=CPU)
    assert "".join(calls) == names * (1 + 4)  # the warm-up, then the rounds
    for of_variants in (samples, cpu_samples):
        assert {name: len(turns) for name, turns in of_variants.items()} == dict.fromkeys(names, 4)


def test_a_variant_is_made_ready_before_each_turn_outside_of_the_time(monkeypatch):
    clock, order = Clock(monkeypatch), []

    def before_turn(name, call):
        order.append(f"ready {name}")
        clock.now_s += 100

    def variant(name):
        def call():
            order.append(name)
            clock.now_s += 1

        return call

    variants = {name: variant(name) for name in "ab"}
    samples, _ = bench.measure(variants, rounds=2, seconds=1, device=CPU, before_turn=before_turn)
    assert samples == {"a": [1, 1], "b": [1, 1]}
    assert order == 3 * ["ready a", "a", "ready b", "b"]


def test_memory_can_be_kept_for_our_step_alone(allocator_calls):
    """Without that glibc's defaults: 65,536 arrays of their own, the end of the heap given back above 64 MB."""
    for_all = bench_model.train_part(BenchConfig(size="0.8m", device="cpu"))
    assert for_all.before_turn is bench_model.nothing
    part = bench_model.train_part(BenchConfig(size="0.8m", device="cpu", kept_memory="ours"))
    assert part.title == for_all.title + ", freed memory kept for ours alone"

    allocator_calls.clear()
    part.before_turn("NonLlama", lambda: allocator_calls.append("step"))
    assert allocator_calls == [(-4, 0), (-1, 2**31 - 1), "step"]
    allocator_calls.clear()
    part.before_turn("a peer", lambda: allocator_calls.append("step"))
    assert allocator_calls == [(-4, 65536), (-3, 32 * 2**20), (-1, 64 * 2**20), "trim", "step"]


def test_a_sample_is_the_mean_over_the_calls_that_fill_the_turn(monkeypatch):
    """On a clock that only the variants move: a takes 0.5 s for its first call (warming up) and 0.125 s later."""
    clock, calls = Clock(monkeypatch), []

    def variant(name, first_s, later_s):
        def call():
            clock.now_s += later_s if name in calls else first_s
            calls.append(name)

        return call

    variants = {"a": variant("a", 0.5, 0.125), "b": variant("b", 0.25, 0.5), "slow": variant("slow", 4, 4)}
    samples, _ = bench.measure(variants, rounds=2, seconds=1, device=CPU)
    assert samples == {"a": [0.125] * 2, "b": [0.5] * 2, "slow": [4] * 2}
    assert "".join(name[0] for name in calls) == "aaaaa" + "bbb" + "s" + 2 * (8 * "a" + 2 * "b" + "s")


@pytest.mark.parametrize("rounds", [1, 4, 7])
def test_summary_equals_the_obvious_computation(rounds):
    random = np.random.default_rng(rounds)
    samples = {name: random.uniform(0.5, 2, rounds).tolist() for name in ("ours", "peer", "other")}
    results = bench.summarize(samples, units_per_call=1000)
    for name in samples:
        ratios = sorted(samples["peer"][i] / samples[name][i] for i in range(rounds))
        middle = (ratios[(rounds - 1) // 2] + ratios[rounds // 2]) / 2
        assert results[name] == pytest.approx(
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


def hold(megabytes: int):
    """Builds a variant that keeps so much memory from its second call on."""

    def build():
        kept = []
        return lambda: kept.append(np.ones((megabytes if len(kept) == 1 else 0) * MB, dtype=np.uint8))

    return build


def holding_part(cfg: BenchConfig) -> Part:
    """Two variants that differ in memory; at the top level, where a spawned process finds it."""
    ballast = np.ones(256 * MB, dtype=np.uint8)  # a peak that is over before the baseline is taken
    ballast.fill(0)
    return Part({"big": hold(100), "small": hold(20)}, "hold memory", "items", 7, lambda variants: "nothing to check")


def add_part(monkeypatch, name, part):
    """As a contributor would: one entry."""
    monkeypatch.setitem(bench.PARTS, name, bench.in_one_process(part, rounds=7))


def test_the_record_holds_what_the_table_says(monkeypatch, tmp_path, capsys):
    weighed = []

    def alone(what, function, part, cfg, name):
        weighed.append((function, part, name))
        return {"big": 123_400_000, "small": 5_000}[name]

    add_part(monkeypatch, "hold", lambda cfg: Part(dict.fromkeys(["big", "small"], lambda: int), "t", "items", 7, str))
    monkeypatch.setattr(bench, "alone", alone)
    out = tmp_path / "new/record.json"
    bench.main(BenchConfig(part="hold", rounds=3, seconds=0, out=str(out), device="cpu"))
    printed, record = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert bench.table(record) in printed
    assert [(function, name) for function, _, name in weighed] == [
        (bench.peak_memory_here, "big"),
        (bench.peak_memory_here, "small"),
    ]
    row = next(line.split() for line in printed.splitlines() if line.startswith("big"))
    big = record["results"]["big"]
    assert row[1] == f"{1000 * big['median_s']:,.2f}" and row[3] == f"{big['rate']:,.0f}"
    assert row[4:6] == [f"{big['ratio']:.2f}", f"({big['ratio_min']:.2f}-{big['ratio_max']:.2f})"]
    assert row[6] == "123.4"

    assert {name: len(turns) for name, turns in record["samples_s"].items()} == {"big": 3, "small": 3}
    times_only = {name: {k: v for k, v in row.items() if k != "peak_bytes"} for name, row in record["results"].items()}
    assert times_only == bench.summarize(record["samples_s"], 7)
    assert record["settings"]["rounds"] == 3
    assert {"date", "commit", "hardware"} < set(record) and record["hardware"]["threads"] == torch.get_num_threads()


def test_memory_is_what_building_and_calling_add_to_the_baseline(monkeypatch):
    """In this process, on a meter that the part moves."""
    resident = SimpleNamespace(now=0, peak=0)

    def use(amount):
        resident.now += amount
        resident.peak = max(resident.peak, resident.now)

    def baseline():
        resident.peak = resident.now
        return resident.now

    def part(cfg):
        use(1000), use(-900)  # a peak that is over before the baseline is taken
        return Part({"a": lambda: use(10) or (lambda: use(3))}, "", "items", 1, str, memory_calls=4)

    monkeypatch.setattr(bench, "baseline_rss", baseline)
    monkeypatch.setattr(bench, "peak_rss", lambda: resident.peak)
    assert bench.peak_memory_here(part, BenchConfig(device="cpu"), "a") == 10 + 4 * 3
    assert bench.weighed_turn(lambda: use(50) or {"rate": 2}) == {"rate": 2, "peak_bytes": 50}


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a peak cannot be forgotten: the figure is an upper bound"
)
def test_memory_of_a_fresh_process_is_that_of_the_variant():
    """Of each variant alone, without the 256 MB that its part used while it was made."""
    for name, megabytes in (("big", 100), ("small", 20)):
        peak = bench.alone(name, bench.peak_memory_here, holding_part, BenchConfig(device="cpu"), name)
        assert (megabytes - 1) * MB < peak < (megabytes + 20) * MB


def test_variants_that_differ_are_not_timed(monkeypatch):
    def refuse(variants):
        raise ValueError("they differ")

    calls = []
    add_part(monkeypatch, "fake", lambda cfg: Part({"a": lambda: lambda: calls.append("a")}, "", "items", 1, refuse))
    with pytest.raises(ValueError, match="they differ"):
        bench.run_part("fake", BenchConfig(device="cpu"))
    assert not calls


def test_settings_that_cannot_work_are_named(monkeypatch):
    wanted = bench.parts_wanted
    samples = ["sample-10m-1", "sample-10m-8", "sample-124m-1", "sample-124m-8"]
    usual = ["train", *samples, "finetune", "sampler", "reader"]
    assert wanted(BenchConfig(part="all")) == [*usual, "signatures"]  # dedup, which installs two peers, by name only
    assert wanted(BenchConfig(part="all", dump=__file__)) == [*usual, "dump", "signatures"]
    assert "evaluate" in wanted(BenchConfig(part="all", task_dir=str(REPO)))
    assert wanted(BenchConfig(part="dedup,signatures")) == ["dedup", "signatures"]
    with pytest.raises(ValueError, match="part tokens needs --encoding=, the path of a file gpt2.tiktoken; '' is no"):
        wanted(BenchConfig(part="train,tokens"))
    for path in ("", __file__):
        with pytest.raises(
            ValueError, match=f"evaluate needs --task_dir=, the path of a folder .*; '{path}' is no folder"
        ):
            wanted(BenchConfig(part="evaluate", task_dir=path))
    assert wanted(BenchConfig(part="sample,train")) == [*samples, "train"]
    with pytest.raises(ValueError, match=r"unknown part 'trian'; known parts: train.*, all"):
        wanted(load(BenchConfig, ["--part=train,trian"])[0])
    with pytest.raises(ValueError, match=r"rounds \(0\)"):
        wanted(BenchConfig(rounds=0))
    with pytest.raises(ValueError, match=r"largest \(1\).*file_mb \(2000\)"):
        wanted(BenchConfig(largest=1))
    add_part(monkeypatch, "hold", holding_part)
    assert wanted(BenchConfig(part="hold,train")) == ["hold", "train"]
    with pytest.raises(ValueError, match="one file, but there are 2 parts"):
        wanted(BenchConfig(part="hold,train", out="x.json"))
    with pytest.raises(ValueError, match=r"no_such_peer.* pip install -r requirements-dev.txt"):
        bench_figures.need("no_such_peer")


# --- parts train and sample ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_train_compares_equal_mathematics(monkeypatch, dtype):
    pytest.importorskip("transformers", reason="the peer of the train part; pip install -r requirements-dev.txt")
    monkeypatch.setitem(bench_model.SIZES, "small", Size(TINY, 3))
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
    monkeypatch.setitem(bench_model.SIZES, "small", Size(TINY, 3))
    part = bench_model.train_part(BenchConfig(device="cpu", dtype="bfloat16"))
    with pytest.raises(ValueError, match="do not compute the same"):
        part.check({name: build() for name, build in part.variants.items()})


# --- finetune ---


def tiny_finetune(monkeypatch) -> None:
    pytest.importorskip("transformers", reason="a peer of the finetune part; pip install -r requirements-dev.txt")
    pytest.importorskip("peft", reason="a peer of the finetune part; pip install -r requirements-dev.txt")
    monkeypatch.setattr(bench_finetune, "SMOLLM2_135M", TINY)
    monkeypatch.setattr(bench_finetune, "T", 16)
    monkeypatch.setattr(bench, "take_turns", here)


def test_fine_tuning_is_compared_with_transformers_and_peft(monkeypatch, tmp_path, capsys):
    """The same losses after the same steps; ratios within a round; a folder's packing beside it."""
    tiny_finetune(monkeypatch)
    packing = {"packed": 0.9932, "padded to the block": 0.1}
    monkeypatch.setattr(bench_finetune, "useful_places", lambda folder: packing)
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / f"{dtype}.json"
        bench.main(BenchConfig(part="finetune", rounds=2, dtype=dtype, data="x", out=str(out)))
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    names = ["full, NonLlama", "full, transformers", "LoRA, NonLlama", "LoRA, peft", "LoRA, peft, base in bf16"]
    assert list(record["results"]) == names and all(name in printed for name in names)

    rounds = zip(record["samples"]["LoRA, NonLlama"], record["samples"]["LoRA, peft"], strict=True)
    rates = [ours["rate"] / peft["rate"] for ours, peft in rounds]
    ratio = record["results"]["LoRA, peft"]["ours_over_it"]["rate"]
    assert [ratio["min"], ratio["max"]] == pytest.approx(sorted(rates))
    assert record["targets"][-1]["measured"]["median"] == pytest.approx(99.32) and record["targets"][-1]["met"]
    assert "padded to the block: 10.0 %" in printed


@pytest.mark.parametrize("what", ["adapters", "scored"])
def test_fine_tuning_of_another_kind_is_refused(monkeypatch, tmp_path, what):
    tiny_finetune(monkeypatch)
    if what == "adapters":
        monkeypatch.setattr(bench_finetune, "give_adapters", lambda model: model)  # all weights learn
    else:
        monkeypatch.setattr(bench_finetune, "IGNORE", 5)  # a target like others
    with pytest.raises(ValueError, match="do not compute the same; losses of (full|LoRA), NonLlama"):
        bench.main(BenchConfig(part="finetune", rounds=1, dtype="float32", out=str(tmp_path / "x.json")))
    with pytest.raises(ValueError, match=r"scored \(0\) must be above 0 and at most 1"):
        bench.main(BenchConfig(part="finetune", scored=0, out=str(tmp_path / "x.json")))


def test_useful_places_are_those_of_rows_that_are_made(monkeypatch, data_dir, tmp_path):
    conversations = draw_conversations(0, 48, 33)
    folder = write_folder(tmp_path / "chat", conversations, conversations[:3], data_dir)
    monkeypatch.setattr(bench_finetune, "BLOCK", 32)
    useful = bench_finetune.useful_places(folder)

    lengths = [len(ids) - 1 for ids, _ in conversations]
    assert useful["padded to the block"] == pytest.approx(sum(lengths) / (48 * 32))
    assert useful["packed"] > useful["padded to the longest of 16"] > useful["padded to the block"]
    monkeypatch.setattr(bench_finetune, "PADDED_TOGETHER", 48)
    one_batch = bench_finetune.useful_places(folder)["padded to the longest of 48"]
    assert one_batch == pytest.approx(sum(lengths) / (48 * max(lengths)))


# --- evaluate ---


@pytest.fixture
def questions(tmp_path) -> Path:
    """Three items of both tasks, and one more, which is left for an example."""
    folder = tmp_path / "questions"
    folder.mkdir()
    hellaswag = {"activity_label": "A cat", "ctx_a": "It sits.", "ctx_b": "it", "endings": ["eats.", "is."], "label": 1}
    choices = {"text": ["red", "a blue one"], "label": ["A", "B"]}
    arc = {"question": "Which?", "choices": choices, "answerKey": "B"}
    for name, row in (("hellaswag", hellaswag), ("arc_easy", arc)):
        (folder / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 4)
    return folder


def play_the_harness(monkeypatch, off_by: float = 0.0, threads: int = 1) -> list[tuple[str, int]]:
    """A harness that finds what bench_evaluate.ours finds, plus off_by nats; what it is asked, (task, batch size).

    It takes twice our CPU-seconds for one request at a time, and 1.25 times ours in batches.
    """
    asked = []

    def harness_scores(checkpoint, tasks, runs, folder, batch_size, python):
        asked.append((tasks[0]["name"], batch_size))
        name = tasks[0]["name"]
        own = ours(checkpoint, str(folder), name)
        scores = [[[logprob + off_by, greedy] for logprob, greedy in item] for item in own["scores"]]
        takes_s = TAKES_S * (2 if batch_size == 1 else 1.25)
        figures = {"scoring_s": takes_s, "cpu_s": 99.0, "memory_bytes": own["memory_bytes"], "threads": threads}
        return [{"scores": {name: scores}, **figures}]

    def ours_in_a_known_time(*args):
        figures = ours(*args)
        return figures | {"cpu_s": TAKES_S, "rate": len(figures["scores"]) / TAKES_S}

    ours = bench_evaluate.ours
    monkeypatch.setattr(bench_evaluate, "ours", ours_in_a_known_time)
    monkeypatch.setattr(bench_evaluate.harness, "harness_scores", harness_scores)
    monkeypatch.setattr(bench_evaluate.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(bench, "take_turns", here)
    return asked


TAKES_S = 0.5


def test_both_sides_are_asked_the_same_items_and_have_to_agree(monkeypatch, tmp_path, capsys, run_dir, questions):
    asked = play_the_harness(monkeypatch, off_by=9e-4)
    settings = {"part": "evaluate", "checkpoint": str(run_dir), "task_dir": str(questions)}
    cfg = BenchConfig(**settings, rounds=2, items=2, out=str(tmp_path / "x.json"))
    bench.main(cfg)
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "x.json").read_text())

    assert (
        sorted(asked) == [("arc_easy", 1)] * 2 + [("arc_easy", 8)] * 2 + [("hellaswag", 1)] * 2 + [("hellaswag", 8)] * 2
    )
    sides = ("NonLlama", "lm-evaluation-harness", "lm-evaluation-harness, batches of 8")
    names = [f"{title}, {side}" for title in ("HellaSwag", "ARC-easy") for side in sides]
    assert list(record["results"]) == names and all(name in printed for name in names)
    rates = [2 / TAKES_S, 1 / TAKES_S, 1.6 / TAKES_S]
    assert [record["results"][name]["rate"]["median"] for name in names] == rates * 2
    assert [row["measured"]["median"] for row in record["targets"][::2]] == [2, 2]
    assert "log-probabilities agree to 9e-04 nats" in printed and "decisions that differ: 0" in printed
    assert "scores" not in record["samples"][names[0]][0]


def test_our_turn_counts_what_is_left_to_the_model_and_the_tokenizer(monkeypatch, run_dir, questions):
    """Weights and files are read before the clock starts."""
    events = []
    real_load, real_job = bench_evaluate.load, bench_evaluate.scoring_job
    monkeypatch.setattr(bench_evaluate, "load", lambda *args: events.append("files") or real_load(*args))
    monkeypatch.setattr(bench_evaluate, "scoring_job", lambda *args: events.append("ids") or real_job(*args))
    monkeypatch.setattr(bench_evaluate.time, "process_time", lambda: events.append("clock") or float(len(events)))
    turn = bench_evaluate.ours(str(run_dir), str(questions), "arc_easy")
    assert events == ["files", "clock", "ids", "clock"] and turn["cpu_s"] == 2
    assert turn["rate"] == len(turn["scores"]) / 2 == 2 and turn["memory_bytes"] > 1e8


def test_scores_that_differ_and_other_threads_are_refused(monkeypatch, tmp_path, run_dir, questions):
    cfg = BenchConfig("evaluate", 1, checkpoint=str(run_dir), task_dir=str(questions), out=str(tmp_path / "x.json"))
    for off_by in (2e-3, math.nan):
        with monkeypatch.context() as patch:
            play_the_harness(patch, off_by)
            with pytest.raises(ValueError, match="HellaSwag: log-probabilities differ by up to (0.002|nan)"):
                bench.main(cfg)
    play_the_harness(monkeypatch, threads=2)
    with pytest.raises(ValueError, match="ours had 1 threads, and the harness 2; give both the same by OMP_NUM"):
        bench.main(cfg)
    with pytest.raises(ValueError, match=r"items \(0\) must be at least 1"):
        bench.main(dataclasses.replace(cfg, items=0))
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("first", [True, False])
def test_a_loss_that_is_no_number_is_another_loss(first):
    good, bad = torch.tensor(2.0), torch.tensor(math.nan)
    losses = iter([bad, good, good] if first else [good, good, bad])
    with pytest.raises(ValueError, match="do not compute the same"):
        bench_model.same_losses({"ours": lambda dtype: good, "peer": lambda dtype: next(losses)}, torch.float32)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_ways_to_generate_agree_and_one_that_does_not_is_refused(monkeypatch, batch_size):
    monkeypatch.setitem(bench_model.SIZES, "10m", Size(TINY, 4))
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


# --- turns in fresh processes ---


def test_turns_alternate_and_each_is_weighed_in_a_process_of_its_own(monkeypatch):
    order = []
    monkeypatch.setattr(bench, "alone", lambda name, function, turn: order.append((name, function, turn)) or len(order))
    assert bench.take_turns({"a": 1, "b": 2}, 2, "test") == {"a": [1, 3], "b": [2, 4]}
    assert order == 2 * [("a", bench.weighed_turn, 1), ("b", bench.weighed_turn, 2)]


def test_a_process_of_its_own_is_fresh_and_outlives_ctrl_c():
    processes = {bench.alone("a turn", os.getpid) for _ in range(2)}
    assert len(processes | {os.getpid()}) == 3
    # the child does not hear Ctrl-C, which reaches the whole group: the parent stops it; here it is heard again
    assert bench.alone("a turn", signal.getsignal, signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_turn_that_is_killed_is_one_line():
    with pytest.raises(ValueError, match="measures the list was killed .out of memory"):
        bench.alone("the list", signal.raise_signal, signal.SIGKILL)


# --- part sampler ---


@pytest.mark.parametrize("candidate", bench_sampler.CANDIDATES)
def test_every_sampler_draws_each_index_once(candidate):
    candidates = {candidate: bench_sampler.CANDIDATES[candidate]}
    assert "every index once, for each of 1 samplers" in bench_sampler.every_index_once(candidates)


@pytest.mark.parametrize(
    ("change", "replicas"),
    [
        (lambda n, rank: [*range(n - 1, 0, -1), 1], 1),  # 0 is missing
        (lambda n, rank: range(n), 1),  # not shuffled
        (bench_sampler.numpy_permutation, 8),  # every rank draws everything
        (lambda n, rank: [index + 1 for index in bench_sampler.numpy_permutation(n)], 1),
    ],
    ids=["repeats", "in order", "ranks alike", "out of range"],
)
def test_samplers_that_are_no_shuffle_are_not_timed(monkeypatch, change, replicas):
    monkeypatch.setattr(bench_sampler, "CANDIDATES", {"bad": bench_sampler.Candidate(change, replicas)})
    with pytest.raises(ValueError, match="bad: an epoch of n=100,000 is not every index once"):
        bench_sampler.record(BenchConfig(rounds=1), take_turns=lambda *args: pytest.fail("was timed"))


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

    monkeypatch.setitem(bench_sampler.CANDIDATES, "slow", bench_sampler.Candidate(build, replicas=8))
    assert bench_sampler.draw("slow", 800, True) == {"first_s": 3, "rate": 4, "epoch_s": 3 + 99 / 4 + 5}
    monkeypatch.setattr(bench_sampler, "INDICES", 10)
    begin_s = clock.now_s
    assert bench_sampler.draw("slow", 800, False) == {"first_s": 3, "rate": 4, "epoch_s": None}
    assert clock.now_s - begin_s == 3 + 10 / 4


def test_seek_compares_the_far_position_with_position_0(monkeypatch):
    clock = Clock(monkeypatch)

    class Slow(bench_sampler.DistributedStreamSampler):
        def __iter__(self):
            clock.now_s += 5 if self.position else 1
            return super().__iter__()

    monkeypatch.setattr(bench_sampler, "DistributedStreamSampler", Slow)
    assert bench_sampler.seek() == {"near_s": 1, "far_s": 5, "far_over_near": 5}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of the imports hides a small one")
def test_peak_memory_is_that_of_the_list():
    """RandomSampler's grows with n by the bytes an index that predictions use; ours does not."""
    cases = {
        "list 1e6": functools.partial(bench_sampler.draw, bench_sampler.PEER, 10**6, False),
        "list 3e6": functools.partial(bench_sampler.draw, bench_sampler.PEER, 3 * 10**6, False),
        "ours 3e6": functools.partial(bench_sampler.draw, bench_sampler.OURS, 3 * 10**6, False),
    }
    peak = {name: turns[0]["peak_bytes"] for name, turns in bench.take_turns(cases, 1, "test").items()}
    assert peak["list 3e6"] - peak["list 1e6"] == pytest.approx(2e6 * bench_sampler.LIST_BYTES, rel=0.15)
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
        assert bench_sampler.absent(needs[n], n, 10**8, available) == word
    assert bench_sampler.power(10**9) == "1e9" and bench_sampler.power(10**9 + 1) == "1000000001"
    assert bench_sampler.absent(0, 10**12, 10**8, 10**6) is None  # what holds nothing always fits


@pytest.fixture
def small_sampler(monkeypatch):
    """The sampler part in this process, with few indices and 10 GB of memory."""
    monkeypatch.setattr(bench, "take_turns", here)
    monkeypatch.setattr(bench_sampler, "INDICES", 1000)
    monkeypatch.setattr(bench_sampler, "SEEK_REPEATS", 3)
    monkeypatch.setattr(bench_sampler, "available_bytes", lambda: 10**10)


@pytest.mark.parametrize("faster", [1, 300], ids=["as it is", "figures above 100"])
def test_the_sampler_record_holds_every_row_and_what_was_not_run(small_sampler, monkeypatch, tmp_path, capsys, faster):
    draw = bench_sampler.draw
    monkeypatch.setattr(bench_sampler, "draw", lambda *args: (turn := draw(*args)) | {"rate": turn["rate"] * faster})
    out = tmp_path / "sampler.json"
    bench.main(BenchConfig(part="sampler", rounds=2, largest=2000, out=str(out)))
    printed, record = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert bench.table(record) in printed and record["settings"]["rounds"] == 2
    results, names = record["results"], list(bench_sampler.CANDIDATES)
    assert list(results) == [f"{n} {name}" for n in ("2000", "1e9", "1e12") for name in names]
    for key, row in results.items():
        mine = [line for line in printed.splitlines() if f"{line:<38}"[:38].split() == key.split()]
        assert len(mine) >= 1, key
        if row["n"] > 2000 and not row["sampler"].startswith(bench_sampler.OURS):
            word = "not run" if key == "1e9 numpy permutation" else "does not fit"
            assert row["absent"].startswith(word) and row["absent"] in mine[0] and key not in record["samples"]
            continue
        rates = [turn["rate"] for turn in record["samples"][key]]
        assert len(rates) == 2 and row["rate"] == {"median": np.mean(rates), "min": min(rates), "max": max(rates)}
        assert f"{bench_figures.number(np.mean(rates) / 1e6)} (" in mine[0]
        whole = row["n"] == 2000 and "rank" not in row["sampler"]
        assert (row["epoch_s"] is not None) == whole
        if row["n"] == 2000:
            peers = [turn["rate"] for turn in record["samples"][f"2000 {bench_sampler.PEER}"]]
            by_round = [a / b for a, b in zip(rates, peers, strict=True)]
            assert row["of_peer"]["rate"] == {"median": np.mean(by_round), "min": min(by_round), "max": max(by_round)}
        else:
            assert row["of_peer"] == {}


MADE_UP = {"peak_bytes": 1.4e6, "first_s": 1e-3, "rate": 18e6, "epoch_s": 5.4}
LIST = {"peak_bytes": 4.6e9, "first_s": 7.3, "rate": 45e6, "epoch_s": 9.5}
SEEK = {"near_s": 1.0, "far_s": 1.0, "far_over_near": 1.0}


@pytest.fixture
def nothing_to_draw(monkeypatch):
    """The sampler part on a machine of 24 GB, with turns that are made up."""
    monkeypatch.setattr(bench_sampler, "every_index_once", lambda candidates: "")
    monkeypatch.setattr(bench_sampler, "available_bytes", lambda: 24 * 10**9)


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
def test_targets_are_met_or_missed_as_measured(nothing_to_draw, change, missed):
    def turns(cases, rounds, desc):
        common = {key: value for key, value in change.items() if key in MADE_UP}
        made = {name: MADE_UP | common if "NonLlama" in name else LIST for name in cases} | {"seek": SEEK}
        return {name: [made[name] | change.get(name, {})] * rounds for name in cases}

    record = bench_sampler.record(BenchConfig(rounds=3), turns)
    assert [k for k, row in enumerate(record["targets"]) if not row["met"]] == missed
    assert all(row["met"] is not None for row in record["targets"])
    lines = bench_sampler.table(record)
    assert sum(line.endswith(", missed") for line in lines) == len(missed)
    if not change:
        assert "  peak memory at n=1e8 at most 1/1000 of RandomSampler's: 1/3,286 (1/3,286-1/3,286), met" in lines


def made_up_turns(cases, rounds, desc):
    return {name: [MADE_UP | SEEK] * rounds for name in cases}


def test_a_target_without_its_peer_is_not_measured(nothing_to_draw):
    record = bench_sampler.record(BenchConfig(rounds=1, largest=10**9 // 2), made_up_turns)
    assert [row["met"] for row in record["targets"]] == [None, True, True, None, None, True]
    lines = bench_sampler.table(record)
    assert any("first index at n=5e8" in line and "-, not measured" in line for line in lines)


def test_the_pictures_of_the_docs_are_drawn_from_the_record(nothing_to_draw, tmp_path):
    cfg = plot_sampler.PlotConfig(record=str(tmp_path / "sampler.json"), out=str(tmp_path))
    with pytest.raises(ValueError, match="sampler.json is missing; run: python bench.py --part=sampler"):
        plot_sampler.main(cfg)
    record = bench_sampler.record(BenchConfig(rounds=1), made_up_turns)
    (tmp_path / "sampler.json").write_text(json.dumps(record), encoding="utf-8")
    plot_sampler.main(cfg)
    pictures = [path.read_bytes() for path in sorted(tmp_path.glob("*.png"))]
    assert len(pictures) == 2 and all(picture.startswith(b"\x89PNG") for picture in pictures)


def test_the_quality_table_names_what_fails(monkeypatch, capsys):
    designs = {name: sampler_quality.DESIGNS[name] for name in ("table (argsort of hashes)", "affine map")}
    monkeypatch.setattr(sampler_quality, "DESIGNS", designs)
    sampler_quality.main(sampler_quality.QualityConfig(n=1009, seeds=10))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 1009 | 10 | **table (argsort of hashes)** |") and lines[2].endswith("| passes |")
    assert lines[3].startswith("| 1009 | 10 | affine map |") and lines[3].endswith("| **fails** |")
    with pytest.raises(ValueError, match=r"n \(5\)"):
        sampler_quality.main(sampler_quality.QualityConfig(n=5))


# --- part reader ---


@pytest.fixture
def token_file(tmp_path):
    with bench_reader.token_file(tmp_path / "tokens.bin", 4 * 10**6) as path:
        yield path


class PageCache:
    """A page cache in which a file is wholly in memory, or not at all."""

    def __init__(self, monkeypatch, keeps: bool = False):
        self.in_memory = 1.0
        monkeypatch.setattr(bench_reader, "evict", lambda path: setattr(self, "in_memory", 1.0 if keeps else 0.0))
        monkeypatch.setattr(bench_reader, "load_into_memory", lambda path: setattr(self, "in_memory", 1.0))
        monkeypatch.setattr(bench_reader, "resident", lambda path: self.in_memory)


@pytest.fixture
def small_reader(monkeypatch):
    """The reader part in this process, with few windows."""
    monkeypatch.setattr(bench, "take_turns", here)
    monkeypatch.setattr(bench_reader, "WARM_WINDOWS", 100)


def test_the_token_file_is_on_the_disk_and_goes_away(tmp_path, monkeypatch):
    path = tmp_path / "new/tokens.bin"
    with contextlib.suppress(KeyboardInterrupt), bench_reader.token_file(path, 3 * 10**6):
        assert path.stat().st_size == 3 * 10**6
        assert len(np.unique(np.fromfile(path, "<u2"))) == 1 << 16
        raise KeyboardInterrupt
    assert path.parent.is_dir() and not path.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 10**9))
    with pytest.raises(ValueError, match=r"2.0 GB free, the token file takes 1.9 GB .* lower --file_mb .* --out"):
        bench_reader.record(BenchConfig(file_mb=1900, out=str(path)), take_turns=pytest.fail)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("name", bench_reader.READERS)
def test_a_reader_that_returns_other_tokens_is_not_timed(token_file, name, monkeypatch):
    """Each is checked by itself: off by a token, by a window, in the last row only, or of another dtype."""
    build = bench_reader.READERS[name]
    assert "1,024 random windows of 2049 tokens are equal" in bench_reader.same_windows(token_file, {name: build})

    def last_row(batch):
        return np.concatenate([batch[:-1], batch[-1:] + 1])

    for change in (lambda b: np.roll(b, 1, axis=1), lambda b: b[::-1], last_row, lambda b: b.astype(np.int32)):
        wrong = {name: lambda path, change=change: lambda indices: change(build(path)(indices))}
        with pytest.raises(ValueError, match="windows are not those that lie in the file"):
            bench_reader.same_windows(token_file, bench_reader.READERS | wrong)
    monkeypatch.setattr(bench_reader, "READERS", bench_reader.READERS | wrong)
    with pytest.raises(ValueError, match="windows are not those"):
        cfg = BenchConfig(rounds=1, file_mb=4, out=str(token_file.with_name("reader.json")))
        bench_reader.record(cfg, take_turns=lambda *args: pytest.fail("was timed"))


def test_a_turn_reads_the_same_windows_with_every_reader(token_file, monkeypatch):
    """On a clock that only reading moves: half a second a batch of 32 windows."""
    clock, cache, seen = Clock(monkeypatch), PageCache(monkeypatch), []

    def read(indices):
        seen.append((indices.tolist(), cache.in_memory))
        clock.now_s += 0.5

    monkeypatch.setattr(bench_reader, "WARM_WINDOWS", 320)
    monkeypatch.setattr(bench_reader, "READERS", dict.fromkeys(bench_reader.READERS, lambda path: read))
    asked = {}
    for cold, name in itertools.product((True, False), bench_reader.READERS):
        seen.clear()
        turn = bench_reader.read_windows(token_file, name, cold)
        assert turn["rate"] == 64 and turn["in_memory"] == (0 if cold else 1)
        timed = seen[1:]  # the first call is a warm-up
        assert {in_memory for _, in_memory in timed} == {0 if cold else 1}
        asked.setdefault(cold, []).append([indices for indices, _ in timed])
    assert all(turn == asked[cold][0] for cold in asked for turn in asked[cold])
    assert [sum(map(len, asked[cold][0])) for cold in (True, False)] == [32, 320]
    assert len(set(sum(asked[False][0], []))) > 200  # random, over the whole file
    assert 0 <= min(sum(asked[False][0], [])) < 100 and 875 < max(sum(asked[False][0], [])) < 975


def test_a_turn_tells_what_the_process_read_and_grew_by(token_file, monkeypatch):
    usage = iter([{"read_bytes": 100, "RssFile": 5, "RssAnon": 7}, {"read_bytes": 420, "RssFile": 65, "RssAnon": 7}])
    PageCache(monkeypatch)
    monkeypatch.setattr(bench_reader, "usage", lambda: next(usage))
    turn = bench_reader.read_windows(token_file, bench_reader.HELD, cold=True)
    assert (turn["disk_bytes_per_window"], turn["mapped_bytes"], turn["anon_bytes"]) == (320 / 32, 60, 0)


def test_the_reader_record_holds_what_the_table_says(small_reader, monkeypatch, tmp_path, capsys):
    PageCache(monkeypatch)
    out = tmp_path / "reader.json"
    bench.main(BenchConfig(part="reader", rounds=2, file_mb=4, out=str(out)))
    printed, record = capsys.readouterr().out, json.loads(out.read_text(encoding="utf-8"))
    assert bench.table(record) in printed and [path.name for path in tmp_path.iterdir()] == ["reader.json"]
    assert list(record["results"]) == [f"{state} {name}" for state in ("cold", "warm") for name in bench_reader.READERS]
    for key, row in record["results"].items():
        line = next(line for line in printed.splitlines() if line.startswith(key))
        turns, held = record["samples"][key], record["samples"][f"{row['state']} {bench_reader.HELD}"]
        ratio = [a["rate"] / b["rate"] for a, b in zip(turns, held, strict=True)]
        assert row["of_peer"]["rate"] == {"median": np.mean(ratio), "min": min(ratio), "max": max(ratio)}
        for figure in (row["rate"]["median"], np.mean(ratio)):
            assert f"{bench_figures.number(figure)} (" in line
        assert row["spoiled"] is None and line.split()[-1] == ("0.0%" if row["state"] == "cold" else "100.0%")


def test_a_file_system_that_keeps_its_pages_is_not_called_cold(small_reader, monkeypatch, tmp_path):
    """tmpfs is memory: nothing can be dropped."""
    PageCache(monkeypatch, keeps=True)
    record = bench_reader.record(BenchConfig(rounds=1, file_mb=4, out=str(tmp_path / "reader.json")), here)
    assert [row["spoiled"] for row in record["results"].values()] == [
        *["not cold: 100% of the file stayed in memory"] * 3,
        *[None] * 3,
    ]
    assert record["targets"][0]["met"] is None and record["targets"][1]["met"] is not None
    lines = bench_reader.table(record)
    assert sum("(not cold: 100% of the file stayed in memory)" in line for line in lines) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="no posix_fadvise or mincore")
def test_the_page_cache_is_really_emptied_and_filled(small_reader, token_file):
    bench_reader.load_into_memory(token_file)
    assert bench_reader.resident(token_file) == 1
    bench_reader.evict(token_file)
    if bench_reader.resident(token_file) == 1:
        pytest.skip("the file system of the temporary folder keeps pages that it is asked to drop (tmpfs)")
    turns = {name: bench_reader.read_windows(token_file, name, cold=True) for name in bench_reader.READERS}
    ours, held = turns[bench_reader.OURS], turns[bench_reader.HELD]
    assert ours["in_memory"] == 0
    if ours["disk_bytes_per_window"] is not None:  # /proc/self/io may be closed to containers
        assert 4000 < ours["disk_bytes_per_window"] < 20_000  # two or three pages
        assert held["disk_bytes_per_window"] >= ours["disk_bytes_per_window"]
    # a mapped file becomes resident memory, what pread fills is given back
    warm = {name: bench_reader.read_windows(token_file, name, cold=False) for name in bench_reader.READERS}
    assert warm[bench_reader.HELD]["mapped_bytes"] > 1e6 > warm[bench_reader.OURS]["mapped_bytes"]


def test_states_that_are_not_what_they_should_be():
    def share(low, high):
        return {"median": low, "min": low, "max": high}

    spoiled = bench_reader.spoiled
    assert spoiled("cold", share(0, 0.005)) is None and spoiled("warm", share(1, 1)) is None
    assert spoiled("cold", share(0, 0.5)) == "not cold: 50% of the file stayed in memory"
    assert spoiled("warm", share(0.6, 1)) == "not warm: 60% of the file was in memory"
    assert spoiled("cold", None) == "unknown whether cold: no mincore here"


def test_a_system_without_proc_mincore_and_fadvise_gets_a_table(small_reader, tmp_path, monkeypatch):
    """As on macOS."""

    def elsewhere(path, *args, **kwargs):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return open(path, *args, **kwargs)

    monkeypatch.setattr(bench_reader, "open", elsewhere, raising=False)
    monkeypatch.setattr(bench_reader.ctypes, "CDLL", lambda name: object())
    monkeypatch.setattr(bench_reader, "read_ahead_kb", lambda path: None)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    cfg = BenchConfig(part="reader", rounds=1, file_mb=4, out=str(tmp_path / "reader.json"))
    record = bench.run_part("reader", cfg)
    text = bench.table(record)
    assert "read-ahead of the device: unknown" in text and text.count("n/a") == 6 * 3
    assert text.count("(unknown whether cold: no mincore here)") == 3
    assert [row["met"] for row in record["targets"]] == [None] * 3


def test_read_ahead_is_that_of_the_device(tmp_path, monkeypatch):
    number = os.stat(tmp_path).st_dev
    known = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
    if known.is_file():
        assert bench_reader.read_ahead_kb(tmp_path) == int(known.read_text())
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev=os.makedev(4000, 77)))
    assert bench_reader.read_ahead_kb(tmp_path) is None


def ignores_interrupts(pid: int) -> bool:
    """Whether a process ignores SIGINT now, as bench.py does for the moment in which it starts a process."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():  # not on Linux
        return False
    (mask,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigIgn:")]
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def test_ctrl_c_is_one_line_and_leaves_no_file(tmp_path):
    """To the whole process group, as a terminal sends it, while a turn is under way."""
    command = [PYTHON, "bench.py", "--part=reader", "--file_mb=4", f"--out={tmp_path / 'reader.json'}"]
    process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def has_a_turn() -> bool:
        children = psutil.Process(process.pid).children()
        started = any("spawn_main" in " ".join(child.cmdline()) for child in children)
        return started and not ignores_interrupts(process.pid)

    try:
        deadline_s = time.monotonic() + 120
        while process.poll() is None and not has_a_turn() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, complaint = process.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, complaint) == (130, "\ninterrupted; no record of reader was written\n")
    assert not list(tmp_path.iterdir())


# --- watch: what a whole command takes ---


def test_a_command_that_fails_says_why():
    with pytest.raises(ValueError, match="failed: .*no such thing"):
        watch.watch([PYTHON, "-c", "raise SystemExit('no such thing')"])


@pytest.mark.timeout(60)
def test_a_command_that_says_much_does_not_wait_for_a_reader():
    talk = "import sys; sys.stderr.write('x' * 1_000_000 + 'the end'); sys.exit(len(sys.argv) > 1)"
    assert watch.watch([PYTHON, "-c", talk])["seconds"] > 0
    with pytest.raises(ValueError, match="failed: x{993}the end$"):
        watch.watch([PYTHON, "-c", talk, "fail"])


WAIT = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAIT!r}, sys.argv[1]], check=True)"


@pytest.mark.timeout(120)
def test_all_processes_of_a_command_are_weighed(monkeypatch, tmp_path):
    """A parent and its child, which ends when both have been seen."""
    weigh, sums, seen = watch._weigh_tree, [], {}

    def weigh_and_release(psutil_, root, cpu_s_of):
        sums.append(weigh(psutil_, root, cpu_s_of))
        seen.update(cpu_s_of)
        if len(cpu_s_of) > 1:
            (tmp_path / "go").touch()
        return sums[-1]

    monkeypatch.setattr(watch, "_weigh_tree", weigh_and_release)
    figures = watch.watch([PYTHON, "-c", PARENT, str(tmp_path / "go")])
    assert len(seen) == 2 and figures["tree_bytes"] == max(sums) > 0


class MadeUpProcess:
    """What psutil tells of a process: id, memory, CPU seconds; None has ended."""

    def __init__(self, pid, pss=None, cpu_s=None, children=()):
        self.pid, self.pss, self.cpu_s, self.descendants = pid, pss, cpu_s, children

    def children(self, recursive):
        return list(self.descendants)

    def memory_full_info(self):
        if self.pss is None:
            raise psutil.NoSuchProcess(self.pid)
        return SimpleNamespace(pss=self.pss, rss=10**9)

    def cpu_times(self):
        return SimpleNamespace(user=self.cpu_s, system=1.0)


def test_cpu_seconds_are_those_of_workers_that_nobody_waits_for_too(monkeypatch):
    """The last that was seen of each process, and the largest sum of memory at one moment."""
    looks = [
        MadeUpProcess(1, 100, 2.0, [MadeUpProcess(2, 50, 3.0), MadeUpProcess(3)]),
        MadeUpProcess(1, 10, 2.5, [MadeUpProcess(2, 60, 4.0)]),
    ]
    cpu_s_of, sums = {}, []
    for root in looks:
        made_up = SimpleNamespace(Process=lambda pid, root=root: root, Error=psutil.Error)
        sums.append(watch._weigh_tree(made_up, 1, cpu_s_of))
    assert sums == [150, 70] and cpu_s_of == {1: 3.5, 2: 5.0}

    gone = SimpleNamespace(Process=psutil.Process, Error=psutil.Error)
    no_such_process = 2**22 + 1  # above Linux's largest
    assert watch._weigh_tree(gone, no_such_process, cpu_s_of) == 0

    def weigh(psutil_, root, seen):
        seen.update({1: 1000.0, 2: 2000.0})
        return 7

    monkeypatch.setattr(watch, "_weigh_tree", weigh)
    figures = watch.watch([PYTHON, "-c", "pass"])
    assert figures["cpu_s"] == 3000 and figures["tree_bytes"] == 7


def test_watch_from_the_command_line(tmp_path):
    command = [PYTHON, str(REPO / "benchmarks/watch.py"), "--command=echo 'two words' --x=1"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("seconds ") and ", tree_bytes " in shown.stdout
    with pytest.raises(ValueError, match="--command= is empty"):
        watch.main(watch.WatchConfig())


IMPORT_EACH = """
import pathlib, runpy, sys

folder = pathlib.Path(sys.argv[1])
before = list(sys.path)
for script in sorted(folder.glob("*.py")):
    if not script.read_text(encoding="utf-8").splitlines()[-2].startswith("if __name__"):
        continue  # not a script
    sys.path[:] = [str(folder), *before]  # as `python benchmarks/x.py` begins
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(folder.parent)):
            del sys.modules[name]
    runpy.run_path(str(script), run_name="not main")
    print(script.name)
"""


@pytest.mark.slow
def test_every_script_of_benchmarks_finds_its_imports_from_any_folder(tmp_path):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [PYTHON, "-c", IMPORT_EACH, str(REPO / "benchmarks")]
    child = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    mine = {"watch.py", "synthetic_corpus.py", "sampler_quality.py", "plot_sampler.py", "dedup_bands.py"}
    assert mine < set(child.stdout.split())


# --- tokens and dump: whole commands ---


def test_a_corpus_is_made_of_the_words_of_docstrings_and_is_the_same_every_time(tmp_path, few_docstrings):
    found = []
    for folder in ("a", "b"):
        synthetic_corpus.write_corpus(120, tmp_path / folder)
        (part,) = (tmp_path / folder).iterdir()
        found.append([text for (text,) in read_documents(part, ("text",))])
    words = " ".join(few_docstrings).split()
    runs = {" ".join(words[i : i + 3]) for i in range(0, len(words) - 3, 3)}
    assert found[0] == found[1] and len(found[0]) == 120
    split = found[0][0].split(" ")
    assert {" ".join(split[i : i + 3]) for i in range(0, len(split), 3)} <= runs
    changed = [text for text in found[0] if "changed" in text.split(" ")[7::30]]
    assert changed == [found[0][99]] and not set(" ".join(found[0]).split()) - {*words, "changed"}


@pytest.mark.parametrize("differ", [False, True])
def test_both_ways_to_tokens_have_to_write_the_same(monkeypatch, tmp_path, few_docstrings, differ):
    """With stand-ins for the commands: shards in another order are the same tokens, another token is not."""
    commands = []

    def turn(folder, command):
        commands.append(command)
        cfg = load(bench_wiki.EncodeConfig, command[2:])[0]
        shards = [[1, 2, 3], [4]] if cfg.way == "ours" else [[4, 1, 2 + differ, 3]]
        Path(cfg.out).mkdir(parents=True, exist_ok=True)
        for number, ids in enumerate(shards):
            np.array(ids, dtype="<u2").tofile(Path(cfg.out, f"{number}.bin"))
        return {"seconds": 2.0 if cfg.way == "ours" else 9.0, "cpu_s": 1.0, "tree_bytes": 900e6}

    monkeypatch.setattr(bench_wiki, "turn", turn)
    cfg = BenchConfig(rounds=1, documents=20, encoding="gpt2.tiktoken", out=str(tmp_path / "x.json"))
    if differ:
        with pytest.raises(ValueError, match=r"the ways differ: .* \(4, 10\) and \(4, 11\)"):
            bench_wiki.tokens(cfg, here)
        return
    record = bench_wiki.tokens(cfg, here)
    assert [command[:2] for command in commands] == [[sys.executable, bench_wiki.__file__]] * 2
    assert [row["measured"]["median"] for row in record["targets"]] == [4.5, 300]
    assert record["check"] == "both wrote the same 4 tokens" and not list(tmp_path.glob("*.tmp"))
    assert any(line.startswith("nanoGPT's way") and " 9.0 (9.0-9.0)" in line for line in bench_wiki.table(record))


def test_our_way_to_tokens_writes_every_document(tmp_path, few_docstrings, run_dir):
    """The stage of prepare_wiki.py as the part calls it, with a tokenizer that is at hand."""
    synthetic_corpus.write_corpus(150, tmp_path / "documents")
    cfg = bench_wiki.EncodeConfig("ours", str(tmp_path / "documents"), str(run_dir / "latest"), str(tmp_path / "out"))
    bench_wiki.main(cfg)
    texts = list(bench_wiki.all_texts(tmp_path / "documents"))
    tokenizer = Tokenizer.load(run_dir / "latest")
    wanted = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    assert bench_wiki.token_sums(tmp_path / "out")[0] == wanted


def test_a_dump_is_repeated_to_its_size_in_one_stream_and_in_many(tmp_path):
    import bz2

    pages = "".join(f"<page><title>{i}</title></page>\n" for i in range(150))
    (tmp_path / "x.xml").write_text(f"<mediawiki>\n{pages}</mediawiki>\n")
    single, multi = tmp_path / "single.bz2", tmp_path / "multi.bz2"
    size = bench_wiki.large_dump(str(tmp_path / "x.xml"), 20_000, single, multi)
    text = bz2.decompress(single.read_bytes())
    assert bz2.decompress(multi.read_bytes()) == text and len(text) == size and 18_000 < size < 22_000
    assert text.startswith(b"<mediawiki>") and text.endswith(b"</mediawiki>\n")
    streams = multi.read_bytes().count(b"BZh9")
    assert streams == 2 + -(-text.count(b"<page>") // 100)


@pytest.mark.slow
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
        assert row["seconds"]["median"] > 0 and row["tree_bytes"]["median"] > 0
    assert [target["met"] in (True, False) for target in record["targets"]] == [True, True]
    assert not list(tmp_path.glob("*.tmp"))


# --- signatures and dedup ---


def test_signatures_are_timed_three_ways_on_the_same_documents(monkeypatch, tmp_path, capsys, few_docstrings):
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


def test_duplicates_are_timed_as_whole_commands_and_counted(monkeypatch, tmp_path, capsys, few_docstrings):
    """With stand-ins for the commands: what they cost and what they removed is what they say."""
    cpu_s = {"NonLlama": 2.0, "text-dedup": 44.0, "datatrove": 30.0}

    def turn(folder, command):
        if folder.name == "NonLlama":
            assert command[1] == dedup.__file__
            cfg = load(dedup.DedupConfig, command[2:])[0]  # settings that dedup.py knows
            Path(cfg.out).mkdir(parents=True)
            Path(cfg.out, "report.json").write_text('{"exact": 2, "near": 3}')
        if folder.name == "datatrove":
            removed = folder / "out/removed"
            removed.mkdir(parents=True)
            for number in range(2):
                (removed / f"{number}.jsonl").write_text("{}\n" * 7)
        return {"seconds": 1.0, "cpu_s": cpu_s[folder.name], "tree_bytes": 1e8}

    kept = SimpleNamespace(load_from_disk=lambda path: SimpleNamespace(num_rows=290))
    monkeypatch.setattr(bench_dedup, "need", lambda module: kept if module == "datasets" else psutil)
    monkeypatch.setattr(bench_dedup, "environment", lambda name: f"env_{name}/python")
    monkeypatch.setattr(bench_dedup, "DOCUMENTS", 300)
    monkeypatch.setattr(bench_dedup, "INDEXED", 10)
    monkeypatch.setattr(bench_dedup, "turn", turn)
    monkeypatch.setattr(bench, "take_turns", here)
    bench.main(BenchConfig(part="dedup", rounds=1, out=str(tmp_path / "record.json")))
    record, printed = json.loads((tmp_path / "record.json").read_text()), capsys.readouterr().out
    assert record["removed"] == {"NonLlama": 5, "text-dedup": 10, "datatrove": 14}
    assert [row["measured"]["median"] for row in record["targets"]] == [22, 15]
    assert [row["met"] for row in record["targets"]] == [True, False]
    assert "removed: NonLlama 5, text-dedup 10, datatrove 14; a document in MinHashLSH takes" in printed


def test_made_up_bands_are_measured_and_go_away(tmp_path, capsys):
    dedup_bands.main(dedup_bands.BandsConfig(5000, str(tmp_path / "bands")))
    printed = capsys.readouterr().out
    assert "5,000 documents, 25 bands: 25" in printed and printed.count("bytes a document") == 4
    assert not (tmp_path / "bands").exists()
