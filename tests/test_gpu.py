"""What needs a CUDA device: no step waits for it, number formats, compiled and resumed runs."""

import os

import pytest
import torch
from conftest import TINY
from test_train import metrics, weights

import train

pytestmark = pytest.mark.gpu
ON_GPU = TINY | {"device": "cuda", "compile": False}
SAME_BITS = ("latest/model.safetensors", "latest/training/optimizer.safetensors")


@pytest.fixture
def deterministic(monkeypatch):
    """Products and gradients on a GPU are the same bits each time."""
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fresh_compiler():
    """torch compiles a function for eight kinds of input and no more: what came before would take these places."""
    torch._dynamo.reset()


def losses(out) -> list[float]:
    return [row["loss"] for row in metrics(out) if "loss" in row]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_step_waits_for_the_device(data_dir, tmp_path, monkeypatch, dtype, optimizer):
    """A synchronisation is an error, from the third step on: before, libraries make themselves ready."""
    take_step = train.take_step

    def strict(run):
        torch.cuda.set_sync_debug_mode("error" if run.state.step >= 2 else "default")
        try:
            return take_step(run)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(train, "take_step", strict)
    settings = ON_GPU | {"dtype": dtype, "batch_size": 4, "optimizer": optimizer}
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **settings))


def test_it_trains_as_a_cpu_does(data_dir, run_dir, tmp_path):
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **ON_GPU))
    assert losses(tmp_path) == pytest.approx(losses(run_dir), rel=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("compile", [False, True])
def test_half_precision_trains_as_float32(data_dir, run_dir, tmp_path, dtype, compile):
    settings = ON_GPU | {"dtype": dtype, "compile": compile}
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **settings))
    assert losses(tmp_path)[-1] == pytest.approx(losses(run_dir)[-1], rel=2e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("compile", [False, True])
def test_resumed_equals_uninterrupted_bit_for_bit(data_dir, tmp_path, deterministic, dtype, compile):
    settings = ON_GPU | {"dtype": dtype, "compile": compile, "lr_decay_iters": 20}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(whole), **settings))
    for steps in (7, 20):
        train.main(train.TrainConfig(data=str(data_dir), out_dir=str(parts), **settings | {"max_iters": steps}))
    assert weights(parts).keys() == weights(whole).keys()
    for name in SAME_BITS:
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_cuda_graphs_train_as_without(data_dir, tmp_path, optimizer):
    """Of several micro-batches: where autograd takes a graph's own array for their sum, one alone counts."""
    counters = torch._dynamo.utils.counters["inductor"]
    counters.clear()
    losses_of = {}
    for cuda_graphs in (False, True):
        out_dir = tmp_path / str(cuda_graphs)
        settings = ON_GPU | {"compile": True, "batch_size": 2, "optimizer": optimizer, "cuda_graphs": cuda_graphs}
        train.main(train.TrainConfig(data=str(data_dir), out_dir=str(out_dir), **settings))
        losses_of[cuda_graphs] = losses(out_dir)
        recorded = counters["cudagraph_recorded_non_static_inputs"]  # ids and targets of each graph
        assert (recorded > 0) is cuda_graphs
    assert losses_of[True] == pytest.approx(losses_of[False], rel=1e-3)
    assert counters["cudagraph_skips"] == counters["cudagraph_partitions"] == 0, "some pass is no whole graph"


def test_a_trace_holds_what_the_gpu_did(data_dir, tmp_path, capsys):
    settings = ON_GPU | {"profile_steps": "5:8"}
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **settings))
    assert (tmp_path / "trace.json.gz").is_file()
    assert "GPU ms" in capsys.readouterr().out
