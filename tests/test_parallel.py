"""Several processes against one, in float64 with uneven masks; resumed by others; the defects that these tests see."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import PYTHON, REPO, TINY, flags
from ranks import Done, Launch, finished, start
from safetensors.torch import load_file

import atomic
import parallel

# 8 windows a step: 1, 2 and 4 processes with 1, 2 and 4 micro-batches share them evenly. Clipping always bites.
SETTINGS = TINY | {"max_iters": 24, "eval_interval": 12, "grad_clip": 0.1, "keep_checkpoints": 9}
EXACT = {"float64": True, "uneven_masks": True}


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's weights."""
    return load_file(out / "latest/model.safetensors")


def moments(out: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's optimizer state."""
    return load_file(out / "latest/training/optimizer.safetensors")


def metrics(out: Path) -> list[dict]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def read_checksums(path: Path, processes: int) -> list[list[str]]:
    """For each rank what the fault "checksums" noted: a line "step hash" for each checkpoint."""
    return [Path(f"{path}.{rank}").read_text().splitlines() for rank in range(processes)]


def column(out: Path, key: str) -> list[float]:
    """One key of metrics.jsonl, where it stands."""
    return [row[key] for row in metrics(out) if key in row]


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference of two sets of tensors, relative to the largest value of the tensor."""
    assert found.keys() == expected.keys()
    differences = []
    for name, tensor in expected.items():
        difference = (found[name] - tensor).abs().max()
        differences.append(difference / tensor.abs().max())
    return max(differences).item()


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Both sets have the same tensors, bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def assert_same_run(a: Path, b: Path, rel: float) -> None:
    """Every row of metrics.jsonl has the same keys, and values that are equal to `rel`, or both None (NaN)."""
    for row, wanted in zip(metrics(a), metrics(b), strict=True):
        assert row.keys() == wanted.keys()
        for key in wanted:
            close = row[key] is None if wanted[key] is None else row[key] == pytest.approx(wanted[key], rel=rel)
            assert close, (key, row, wanted)


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory):
    """24 steps of one process in float64, each of one micro-batch."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finished(0, SETTINGS | {"data": data_dir, "out_dir": out}, EXACT)
    return out


@pytest.mark.parametrize(
    ("processes", "mode", "batch_size"),
    [
        (0, "ddp", 2),
        (2, "ddp", 2),
        (2, "fsdp", 2),
        pytest.param(4, "ddp", 1, marks=pytest.mark.slow),
        pytest.param(4, "fsdp", 1, marks=pytest.mark.slow),
    ],
)
def test_processes_and_micro_batches_change_nothing(processes, mode, batch_size, alone, data_dir, tmp_path):
    """Weights, every logged loss, rate and gradient norm; and all ranks have the same weights at each checkpoint."""
    out, sums = tmp_path / "out", tmp_path / "sums"
    changes = {"data": data_dir, "out_dir": out, "batch_size": batch_size, "parallel": mode, "checkpoint_interval": 4}
    recompute = {"recompute": mode == "fsdp"}
    printed = finished(processes, SETTINGS | changes | recompute, EXACT | {"checksums": str(sums)})

    assert worst(weights(out), weights(alone)) < 1e-9
    assert_same_run(out, alone, 1e-9)
    assert printed.count("step     24 | loss") == 1, "one process prints"

    first, *others = read_checksums(sums, max(1, processes))
    assert len(set(first)) == 6
    assert all(other == first for other in others)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_muon_of_divided_matrices_is_muon_of_whole_ones(processes, data_dir, tmp_path):
    """In float64. Rows of 65 and of 16 and 32, in turns of which the last one is not full; all ranks end alike. The
    loss of one process is NaN in step 5, which all skip."""
    settings = SETTINGS | {"data": data_dir, "optimizer": "muon", "ffn_hidden": 65, "max_iters": 12, "qk_norm": True}
    whole, divided, sums = tmp_path / "whole", tmp_path / "divided", tmp_path / "sums"
    odd = EXACT | {"poison": {"rank": 0, "passes": [5]}}
    finished(0, settings | {"out_dir": whole}, odd)
    changes = {"out_dir": divided, "parallel": "fsdp", "batch_size": 8 // processes}
    finished(processes, settings | changes, odd | {"checksums": str(sums)})

    for out in (whole, divided):
        assert [row["step"] for row in metrics(out) if row.get("skipped")] == [5]
    assert worst(weights(divided), weights(whole)) < 1e-9
    state, expected = moments(divided), moments(whole)
    assert torch.equal(state.pop("rng"), expected.pop("rng"))
    assert worst(state, expected) < 1e-9
    assert_same_run(divided, whole, 1e-9)
    first, *others = read_checksums(sums, processes)
    assert all(other == first for other in others)


@pytest.mark.slow
def test_muon_with_fsdp_resumes_bit_for_bit(data_dir, tmp_path):
    settings = TINY | {"data": data_dir, "batch_size": 2, "max_iters": 8, "optimizer": "muon", "parallel": "fsdp"}
    settings |= {"dtype": "bfloat16"}
    finished(2, settings | {"out_dir": tmp_path / "whole"})
    for steps in (3, 8):
        finished(2, settings | {"out_dir": tmp_path / "parts", "lr_decay_iters": 8, "max_iters": steps})
    assert_same_bits(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert_same_bits(moments(tmp_path / "parts"), moments(tmp_path / "whole"))


@pytest.mark.slow
def test_float32_goes_the_same_way_for_200_steps(data_dir, tmp_path):
    """Uneven masks again: every logged loss of two processes, in either mode, within 1e-3 of one process'."""
    settings = SETTINGS | {"data": data_dir, "max_iters": 200, "eval_interval": 100, "batch_size": 2}
    finished(0, settings | {"out_dir": tmp_path / "alone", "batch_size": 8}, {"uneven_masks": True})
    expected = column(tmp_path / "alone", "loss")
    assert len(expected) == 200
    for mode in ("ddp", "fsdp"):
        finished(2, settings | {"out_dir": tmp_path / mode, "parallel": mode}, {"uneven_masks": True})
        assert column(tmp_path / mode, "loss") == pytest.approx(expected, rel=1e-3)


def test_resumed_by_other_processes_in_the_other_mode_with_sizes_that_they_do_not_divide(data_dir, tmp_path):
    """FSDP of 3, DDP of 2, FSDP of 2, one process: 24 steps as one process takes them in one go.

    Rows of the embedding (320), width (32) and feed-forward width (65) leave a rest when 3 processes divide them, the
    feed-forward width for 2 as well.
    """
    settings = SETTINGS | {"data": data_dir, "ffn_hidden": 65, "lr_decay_iters": 24, "eval_interval": 6}
    settings |= {"batch_tokens": 6 * 32}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finished(0, settings | {"out_dir": whole, "batch_size": 6, "max_iters": 24})

    for processes, mode, batch_size, steps in [
        (3, "fsdp", 2, 6),
        (2, "ddp", 3, 12),
        (2, "fsdp", 3, 18),
        (0, "ddp", 6, 24),
    ]:
        changes = {"out_dir": parts, "parallel": mode, "batch_size": batch_size, "max_iters": steps}
        finished(processes, settings | changes)

    assert_same_run(parts, whole, 1e-3)
    assert worst(weights(parts), weights(whole)) < 1e-4
    state, expected = moments(parts), moments(whole)
    assert torch.equal(state.pop("rng"), expected.pop("rng"))
    assert worst(state, expected) < 1e-3


# Rows that 3 processes do not divide, fewer rows than processes (a bias or norm of 1 or 2), none for a process.
SHAPES = [(7, 5), (4, 3), (3,), (2,), (1,), (1, 6)]


def divide_and_gather() -> None:
    """Fill parameters that FSDP divides, gather them; as a rank of a launch."""
    world = parallel.World()
    world.start(torch.device("cpu"))
    module = torch.nn.ParameterList(torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES)
    torch.distributed.fsdp.fully_shard(module)

    full = [torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in SHAPES]
    with torch.no_grad():
        for parameter, tensor in zip(module, full, strict=True):
            parallel.copy_full(parameter, tensor)
    gathered = parallel.gather(dict(module.named_parameters()))

    if world.rank > 0:
        assert gathered == {}
    else:
        for tensor, wanted in zip(gathered.values(), full, strict=True):
            assert torch.equal(tensor, wanted)
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, "safetensors writes no views of padded storage"
    world.stop()


@pytest.mark.parametrize("processes", [2, 3])
def test_tensors_of_any_size_are_divided_and_gathered(processes):
    done = Launch(processes, divide_and_gather).wait()
    assert done.returncode == 0, done.stderr


def test_fsdp_in_bfloat16_is_ddp_under_autocast(data_dir, tmp_path):
    """The same losses to bfloat16's precision; the master weights stay float32."""
    settings = TINY | {"data": data_dir, "batch_size": 4, "dtype": "bfloat16", "max_iters": 10}
    for mode in ("ddp", "fsdp"):
        finished(2, settings | {"out_dir": tmp_path / mode, "parallel": mode})
    for key in ("loss", "val_loss"):
        assert column(tmp_path / "fsdp", key) == pytest.approx(column(tmp_path / "ddp", key), rel=2e-3)
    for tensor in weights(tmp_path / "fsdp").values():
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, tensor.bfloat16().float())


@pytest.mark.timeout(1800)  # torch.compile in each process
@pytest.mark.parametrize(
    ("processes", "compile"),
    [
        (4, False),
        pytest.param(2, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted_bit_for_bit(processes, compile, data_dir, tmp_path):
    # With 4 the sum of gradients depends on the order in which DDP adds them; with 2 it does not.
    settings = TINY | {"data": data_dir, "batch_size": 2, "max_iters": 12, "lr_decay_iters": 12, "compile": compile}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finished(processes, settings | {"out_dir": whole})
    finished(processes, settings | {"out_dir": parts, "max_iters": 5})
    finished(processes, settings | {"out_dir": parts})

    assert_same_bits(weights(parts), weights(whole))
    assert_same_bits(moments(parts), moments(whole))
    for key in ("loss", "grad_norm"):
        assert column(parts, key) == column(whole, key)


@pytest.mark.parametrize(
    ("processes", "defect"),
    [(2, "rank left out of the position"), (2, "one all-reduce skipped"), (0, "accumulation unweighted")],
)
def test_a_defect_misses_the_reference_by_far(processes, defect, alone, data_dir, tmp_path):
    """The weights of one process are met to 1e-9 above, and missed with a defect."""
    settings = SETTINGS | {"data": data_dir, "out_dir": tmp_path / "odd", "batch_size": 2}
    finished(processes, settings, EXACT | {defect: True})
    assert worst(weights(tmp_path / "odd"), weights(alone)) > 1e-6


def test_an_optimizer_that_is_not_restored_is_seen(data_dir, tmp_path):
    settings = SETTINGS | {"data": data_dir, "lr_decay_iters": 24}
    for out, steps in (("whole", 10), ("parts", 5), ("parts", 10)):
        changes = {"out_dir": tmp_path / out, "max_iters": steps}
        finished(0, settings | changes, {"optimizer not restored": True})
    assert worst(weights(tmp_path / "parts"), weights(tmp_path / "whole")) > 1e-6


def test_steps_with_nan_are_skipped_by_all_and_the_rank_is_named(data_dir, tmp_path):
    """Rank 1's loss is NaN in steps 4 and 5: all skip them; max_skipped=2 stops the run."""
    settings = TINY | {"data": data_dir, "batch_size": 4, "max_iters": 10, "checkpoint_interval": 2}
    sums = tmp_path / "sums"
    poison = {"rank": 1, "passes": [5, 6]}  # the first pass settles DDP's buckets
    finished(2, settings | {"out_dir": tmp_path / "on"}, {"poison": poison, "checksums": str(sums)})

    rows = [row for row in metrics(tmp_path / "on") if "loss" in row]
    assert [row["step"] for row in rows if row.get("skipped") == 1] == [4, 5]
    assert [row["step"] for row in rows if row["loss"] is None] == [4, 5]
    first, second = read_checksums(sums, 2)
    assert first == second
    assert len({line.split()[1] for line in first}) == 5

    settings |= {"max_skipped": 2, "out_dir": tmp_path / "off"}
    done = start(2, settings, {"poison": poison}).wait()
    assert done.returncode
    assert "error: 2 steps in a row were skipped (rank: 1); at step 5 the loss is nan" in done.stderr
    assert f"the newest checkpoint is {tmp_path}/off/latest" in done.stderr
    assert (tmp_path / "off/latest").resolve().name == "step_0000004"


def one_error(done: Done) -> str:
    """The single line that all processes of a failed run print together."""
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: ")
    return error


def test_an_error_of_process_0_alone_is_one_line_and_ends_all(data_dir, tmp_path):
    """The others must not wait for it for ever: a disk that fills up, a folder that another run writes to."""
    out = tmp_path / "out"
    settings = TINY | {"data": data_dir, "batch_size": 4, "out_dir": out, "checkpoint_interval": 5}
    done = start(2, settings, {"full_disk": {"point": "write", "count": 2}}).wait(60)
    error = one_error(done)
    assert f"{out}/step_0000010 cannot be written: " in error and "No space left" in error
    assert f"the last complete checkpoint is {out}/step_0000005; make room" in error
    assert (out / "latest").resolve().name == "step_0000005"

    with atomic.lock(out, 0):
        done = start(2, settings, {"lock_wait": 0.1}).wait(60)
    assert f"another process is writing to {out}" in one_error(done)


def test_a_step_that_processes_cannot_share_is_one_line(data_dir, tmp_path):
    settings = TINY | {"data": data_dir, "batch_size": 1, "out_dir": tmp_path / "out"}
    done = start(3, settings).wait(60)
    assert "block_size x processes (32 x 3); try --batch_tokens=288" in one_error(done)


@pytest.mark.slow
def test_torchrun_and_the_forked_ranks_of_these_tests_are_the_same(data_dir, tmp_path):
    """The command of the README, as a user types it, ends with the bytes that the harness ends with."""
    settings = TINY | {"data": data_dir, "batch_size": 4}
    command = [str(Path(PYTHON).with_name("torchrun")), "--standalone", "--nproc_per_node=2", "train.py"]
    command += flags(settings | {"out_dir": tmp_path / "torchrun"})
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    finished(2, settings | {"out_dir": tmp_path / "forked"})
    for name in ("latest/model.safetensors", "latest/training/optimizer.safetensors", "metrics.jsonl"):
        assert (tmp_path / "torchrun" / name).read_bytes() == (tmp_path / "forked" / name).read_bytes(), name
