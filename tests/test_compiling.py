"""--compile: when auto takes torch.compile, what is said, and what happens where the compiler fails."""

import dataclasses
import shutil

import pytest
import torch
from conftest import TINY

import checkpoint
import compiling
import train
from compiling import LONG_RUN_S, choose
from optim import Optimizer

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
LONG = 2 * LONG_RUN_S * compiling.FLOPS_PER_THREAD_16
USUAL = {"setting": "auto", "before": None, "flops": LONG, "device": CPU, "dtype": torch.bfloat16}
USUAL |= {"packed": False, "divided": False}


@pytest.mark.parametrize(
    ("changes", "on"),
    [
        ({}, True),
        ({"flops": LONG / 3}, False),
        ({"flops": LONG / 3, "dtype": torch.float32}, True),
        ({"flops": LONG / 3, "device": CUDA}, True),
        ({"device": CUDA, "divided": True}, True),
        ({"divided": True}, False),
        ({"packed": True}, False),
        ({"packed": True, "setting": True}, True),
        ({"setting": False, "device": CUDA}, False),
        ({"before": False, "device": CUDA}, False),
        ({"before": True, "flops": 1.0}, True),
        ({"before": True, "setting": False}, False),
    ],
)
def test_auto_takes_it_where_it_pays(changes, on, monkeypatch):
    monkeypatch.setattr(compiling, "has_cpp_compiler", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert choose(**USUAL | changes).on is on


def test_two_threads_make_a_run_half_as_long_and_a_compiler_must_be_there(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(compiling, "has_cpp_compiler", lambda: True)
    assert choose(**USUAL).why == "a run of about 8 minutes is too short"
    assert choose(**USUAL | {"flops": 4 * LONG}).on

    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert choose(**USUAL).why == "there is no C++ compiler"


def test_a_compiler_that_fails_is_one_line_and_the_run_is_eager(data_dir, run_dir, tmp_path, monkeypatch, capsys):
    def broken(function):
        raise RuntimeError("cc1plus: out of luck\nand many more lines")

    monkeypatch.setattr(torch, "compile", broken)
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), compile=True, **TINY))
    assert "torch.compile: no, for it fails here: cc1plus: out of luck\n" in capsys.readouterr().out
    name = "latest/model.safetensors"
    assert (tmp_path / name).read_bytes() == (run_dir / name).read_bytes()


@pytest.mark.parametrize(
    ("device", "changes", "message"),
    [
        (CPU, {}, "--cuda_graphs=True is for a GPU, and this run is on cpu; leave it out"),
        (CUDA, {"compile": False}, "--cuda_graphs=True replays compiled passes, and --compile=False has none"),
        (CUDA, {"packed": True}, "--cuda_graphs=True needs batches of one shape, and the packed rows"),
        (CUDA, {"divided": True}, "--cuda_graphs=True cannot be had with --parallel=fsdp"),
    ],
)
def test_where_cuda_graphs_cannot_be_had(device, changes, message):
    usual = {"setting": changes.get("compile", "auto"), "packed": False, "divided": False}
    with pytest.raises(ValueError, match=message):
        compiling.check_cuda_graphs(device, **{key: changes.get(key, value) for key, value in usual.items()})
    compiling.check_cuda_graphs(CUDA, "auto", packed=False, divided=False)


def test_a_run_that_began_uncompiled_says_that_it_has_no_cuda_graphs(data_dir, tmp_path, monkeypatch, capsys):
    cfg = train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **TINY | {"max_iters": 2})
    train.main(cfg)
    monkeypatch.setattr(compiling, "check_cuda_graphs", lambda *arguments: None)
    train.main(dataclasses.replace(cfg, max_iters=3, cuda_graphs=True))
    assert "no CUDA graphs: they replay compiled passes; --compile=True asks for some" in capsys.readouterr().out


def test_cuda_graphs_on_a_cpu_are_refused_and_no_folder_is_left(data_dir, tmp_path):
    settings = TINY | {"cuda_graphs": True}
    with pytest.raises(ValueError, match="is for a GPU"):
        train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path / "out"), **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # torch.compile, twice
def test_a_run_with_cuda_graphs_has_the_same_bits(data_dir, tmp_path, monkeypatch):
    """As far as that can be seen without a GPU: torch then compiles the same, and the gradients stay in their place."""
    if not compiling.has_cpp_compiler():
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    monkeypatch.setattr(compiling, "check_cuda_graphs", lambda *arguments: None)
    marks, modes, kept = [], [], []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    torch_compile, keep_gradients = torch.compile, Optimizer.keep_gradients
    monkeypatch.setattr(torch, "compile", lambda *a, **k: modes.append(k.get("mode")) or torch_compile(*a, **k))
    monkeypatch.setattr(Optimizer, "keep_gradients", lambda self: kept.append(1) or keep_gradients(self))
    settings = TINY | {"compile": True, "max_iters": 4, "n_layer": 1, "batch_size": 2}
    micro_steps = train.micro_steps(train.TrainConfig(**settings), 1)
    assert micro_steps > 1
    for cuda_graphs in (False, True):
        out_dir = tmp_path / str(cuda_graphs)
        cfg = train.TrainConfig(data=str(data_dir), out_dir=str(out_dir), cuda_graphs=cuda_graphs, **settings)
        train.main(cfg)
    assert len(marks) == 4 * micro_steps
    assert modes.count("reduce-overhead") == len(kept) == 1
    for name in ("latest/model.safetensors", "latest/training/optimizer.safetensors"):
        assert (tmp_path / "False" / name).read_bytes() == (tmp_path / "True" / name).read_bytes(), name


def test_auto_goes_on_as_the_run_began(data_dir, tmp_path, monkeypatch, capsys):
    """A run that is made longer is not compiled half way: its last bits would change."""
    cfg = train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **TINY | {"max_iters": 2})
    train.main(cfg)
    assert "torch.compile: no (a run of about 0 minutes is too short)" in capsys.readouterr().out
    assert checkpoint.read_state(tmp_path / "latest")["compiled"] is False

    monkeypatch.setattr(compiling, "LONG_RUN_S", 0)
    train.main(dataclasses.replace(cfg, max_iters=3))
    assert "torch.compile: no (as before it was resumed)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1800)  # torch.compile, several times
def test_compiled_resumes_bit_for_bit(data_dir, tmp_path):
    if not compiling.has_cpp_compiler():
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    settings = TINY | {"compile": True, "max_iters": 8, "lr_decay_iters": 8, "n_layer": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(whole), **settings))
    for steps in (3, 8):
        train.main(train.TrainConfig(data=str(data_dir), out_dir=str(parts), **settings | {"max_iters": steps}))
    assert checkpoint.read_state(parts / "latest")["compiled"] is True
    for name in ("latest/model.safetensors", "latest/training/optimizer.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
