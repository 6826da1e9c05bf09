"""Several processes against one, in float64 with uneven masks; resumed with others; defects that they see."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import PYTHON, REPO, TINY, flags
from safetensors.torch import load_file

# 8 windows a step, so that 1, 2 and 4 processes and 1, 2 and 4 micro-batches share them evenly; clipping always bites.
SETTINGS = TINY | {"max_iters": 200, "grad_clip": 0.1, "log_interval": 200, "eval_interval": 100, "keep_checkpoints": 9}
EXACT = {"float64": True, "mask": True}


def launch(processes: int, settings: dict, odd: dict, timeout: int = 300) -> subprocess.CompletedProcess:
    """train.py under torchrun, made odd as tests/odd_train.py says; 0 processes: under python."""
    program = [str(Path(PYTHON).with_name("torchrun")), "--standalone", f"--nproc_per_node={processes}"]
    command = [*(program if processes else [PYTHON]), str(REPO / "tests/odd_train.py"), *flags(settings)]
    environment = os.environ | {"ODD": json.dumps(odd), "PYTHONPATH": str(REPO)}
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=timeout)


def finished(*args) -> str:
    """What a run that must succeed prints."""
    done = launch(*args)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(out: Path) -> dict[str, torch.Tensor]:
    """The newest checkpoint's weights."""
    return load_file(out / "latest/model.safetensors")


def worst(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of two sets of weights, relative to the largest weight of the tensor."""
    return max(((a[name] - b[name]).abs().max() / b[name].abs().max()).item() for name in b)


@pytest.fixture(scope="module")
def one(data_dir, tmp_path_factory):
    """200 steps of one process in float64; with 1, 2 and 4 micro-batches, and one defect."""
    out = tmp_path_factory.mktemp("one")
    runs = [{"out_dir": f"{out}/{size}", "batch_size": size} for size in (8, 4, 2)]
    finished(0, SETTINGS | {"data": data_dir}, EXACT | {"runs": runs})
    return out


def test_micro_batches_change_nothing(one):
    for size in (4, 2):
        assert worst(weights(one / str(size)), weights(one / "8")) < 1e-9


@pytest.mark.parametrize(
    ("processes", "mode", "size"),
    [(2, "ddp", 2), (4, "ddp", 2), (2, "fsdp", 2), pytest.param(4, "fsdp", 1, marks=pytest.mark.slow)],
)
def test_processes_change_nothing(processes, mode, size, one, data_dir, tmp_path):
    out, sums = tmp_path / "out", tmp_path / "sums"
    changes = {"data": data_dir, "out_dir": out, "batch_size": size, "parallel": mode, "recompute": mode == "fsdp"}
    finished(processes, SETTINGS | changes, EXACT | {"checksums": str(sums)})
    assert worst(weights(out), weights(one / "8")) < 1e-9
    found = [Path(f"{sums}.{rank}").read_text().splitlines() for rank in range(processes)]
    assert len(found[0]) == 20 and all(other == found[0] for other in found)


def test_float32_goes_the_same_way_for_200_steps(data_dir, tmp_path):
    """Uneven masks again: every logged loss of two processes, in either mode, within 1e-3 of one process'."""
    settings = SETTINGS | {"data": data_dir, "log_interval": 1, "batch_size": 2}
    finished(0, settings, {"mask": True, "runs": [{"out_dir": f"{tmp_path}/one", "batch_size": 8}]})
    runs = [{"out_dir": f"{tmp_path}/{mode}", "parallel": mode} for mode in ("ddp", "fsdp")]
    finished(2, settings, {"mask": True, "runs": runs})
    found = {}
    for name in ("one", "ddp", "fsdp"):
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        found[name] = [row["loss"] for row in rows if "loss" in row]
    assert len(found["one"]) == 200
    for mode in ("ddp", "fsdp"):
        assert found[mode] == pytest.approx(found["one"], rel=1e-3)


def test_resumed_with_other_processes_in_the_other_mode(data_dir, tmp_path):
    """fsdp of 2, ddp of 2, fsdp of 4, one process: 24 steps as one process takes them in one go."""
    settings = SETTINGS | {
        "data": data_dir,
        "batch_size": 2,
        "log_interval": 1,
        "lr_decay_iters": 24,
        "eval_interval": 6,
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fsdp = {"out_dir": f"{parts}", "parallel": "fsdp", "max_iters": 6}
    finished(2, settings, {"runs": [fsdp, fsdp | {"parallel": "ddp", "max_iters": 12}]})
    finished(4, settings, {"runs": [fsdp | {"max_iters": 18}]})
    finished(0, settings, {"runs": [fsdp | {"max_iters": 24}, {"out_dir": f"{whole}", "max_iters": 24}]})
    assert worst(weights(parts), weights(whole)) < 1e-4
    a, b = ([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (parts, whole))
    assert [row.keys() for row in a] == [row.keys() for row in b]
    for key in ("loss", "val_loss", "grad_norm"):
        assert [row[key] for row in a if key in row] == pytest.approx([row[key] for row in b if key in row], rel=1e-3)


def test_fsdp_in_bfloat16_is_ddp_under_autocast(data_dir, tmp_path):
    """The same losses to bfloat16's precision; the master weights stay float32."""
    settings = TINY | {"data": data_dir, "batch_size": 4, "dtype": "bfloat16"}
    finished(2, settings, {"runs": [{"out_dir": f"{tmp_path}/{mode}", "parallel": mode} for mode in ("ddp", "fsdp")]})
    ddp, fsdp = (
        [json.loads(line) for line in (tmp_path / mode / "metrics.jsonl").read_text().splitlines()]
        for mode in ("ddp", "fsdp")
    )
    for key in ("loss", "val_loss"):
        assert [row[key] for row in fsdp if key in row] == pytest.approx([r[key] for r in ddp if key in r], rel=2e-3)
    for tensor in weights(tmp_path / "fsdp").values():
        assert tensor.dtype == torch.float32 and not torch.equal(tensor, tensor.bfloat16().float())


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted_bit_for_bit(processes, compile, data_dir, tmp_path):
    # With 4 the sum of gradients depends on the order in which DDP adds them; with 2 it does not.
    settings = TINY | {"data": data_dir, "batch_size": 2, "lr_decay_iters": 20, "compile": compile}
    runs = [{"out_dir": f"{tmp_path}/whole"}]
    runs += [{"out_dir": f"{tmp_path}/parts", "max_iters": steps} for steps in (7, 20)]
    finished(processes, settings, {"runs": runs})
    whole, parts = (load_file(tmp_path / out / "latest/model.safetensors") for out in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    state = [load_file(tmp_path / out / "latest/training/optimizer.safetensors") for out in ("whole", "parts")]
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])
    rows = [(tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("whole", "parts")]
    assert [row for row in rows[0] if '"loss"' in row] == [row for row in rows[1] if '"loss"' in row]


@pytest.mark.parametrize(
    ("processes", "mutant"),
    [
        (2, "rank left out of the position"),
        (2, "one all-reduce skipped"),
        (0, "accumulation unweighted"),
        (0, "optimizer not restored"),
    ],
)
def test_these_tests_see_a_defect(processes, mutant, one, data_dir, tmp_path):
    """The references above are met to 1e-9 and missed by far with a defect."""
    settings = SETTINGS | {"data": data_dir, "batch_size": 2, "lr_decay_iters": 200}
    restored = mutant != "optimizer not restored"
    if restored:
        finished(processes, settings | {"out_dir": tmp_path / "odd"}, EXACT | {"mutant": mutant})
        assert worst(weights(tmp_path / "odd"), weights(one / "8")) > 1e-6
        return
    runs = [{"out_dir": f"{tmp_path}/{name}", "max_iters": steps} for name, steps in (("a", 10), ("b", 5), ("b", 10))]
    finished(processes, settings, {"runs": runs, "mutant": mutant})
    assert worst(weights(tmp_path / "a"), weights(tmp_path / "b")) > 1e-6


def test_what_is_no_number_is_skipped_on_all_and_named_by_rank(data_dir, tmp_path):
    """Rank 1 has no loss in steps 4 and 5 (pass 0 settles the buckets): both skip them; max_skipped=2 stops the run."""
    settings = TINY | {"data": data_dir, "batch_size": 4, "max_iters": 10, "checkpoint_interval": 2}
    sums = tmp_path / "sums"
    odd = {"poison": [1, [4, 5]], "checksums": str(sums), "runs": [{"out_dir": f"{tmp_path}/on"}]}
    finished(2, settings, odd)
    rows = [json.loads(line) for line in (tmp_path / "on/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("skipped") == 1] == [4, 5]
    assert [row["loss"] is None for row in rows if "loss" in row] == [step in (4, 5) for step in range(1, 11)]
    found = [Path(f"{sums}.{rank}").read_text().splitlines() for rank in range(2)]
    assert found[0] == found[1] and len(found[0]) == 5
    assert found[0][1].split()[1] != found[0][0].split()[1]  # step 4 is after a good step
    done = launch(2, settings | {"max_skipped": 2, "out_dir": tmp_path / "off"}, {"poison": [1, [4, 5]]})
    assert (
        done.returncode and "error: 2 steps in a row were skipped (rank: 1); at step 5 the loss is nan" in done.stderr
    )
    assert f"the newest checkpoint is {tmp_path}/off/latest" in done.stderr
    assert (tmp_path / "off/latest").resolve().name == "step_0000004"


def test_a_full_disk_and_an_uneven_split_are_one_line_for_all(data_dir, tmp_path):
    settings = TINY | {"data": data_dir, "batch_size": 4, "out_dir": tmp_path / "out", "checkpoint_interval": 5}
    done = launch(2, settings, {"full_disk": 2})
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode and errors == ["error: [Errno 28] No space left on device"], done.stderr[-2000:]
    assert "RuntimeError" not in done.stderr and (tmp_path / "out/latest").resolve().name == "step_0000005"
    done = launch(3, settings | {"batch_size": 1}, {})
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "block_size x processes (32 x 3); try --batch_tokens=288" in errors[0]
