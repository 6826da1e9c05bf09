"""--profile_steps: a trace of some steps, and a table of what took their time."""

import gzip
import json

import pytest
from conftest import TINY

import train
from profiling import DEAREST, STEP, parse_steps


def test_a_traced_run_is_the_same_and_leaves_a_trace_of_these_steps(data_dir, run_dir, tmp_path, capsys):
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), profile_steps="3:6", **TINY))
    for name in ("latest/model.safetensors", "latest/training/optimizer.safetensors", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (run_dir / name).read_bytes(), name

    events = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    names = [event.get("name") for event in events]
    assert names.count(STEP) == 3
    assert names.count("Optimizer.step#AdamW.step") == 3
    assert not (tmp_path / "trace.json").exists()

    lines = capsys.readouterr().out.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("operation"))
    rows = lines[begin + 1 : begin + 1 + DEAREST]
    times = [float(row.split()[-4].replace(",", "")) for row in rows]
    assert times == sorted(times, reverse=True)
    assert any(row.startswith("aten::mm ") for row in rows)
    assert lines[begin + 1 + DEAREST] == f"wrote {tmp_path}/trace.json.gz; open it at https://ui.perfetto.dev"


def test_a_run_that_is_past_these_steps_says_so(data_dir, run_dir, tmp_path, capsys):
    settings = TINY | {"max_iters": 4, "profile_steps": "1:3"}
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **settings | {"max_iters": 3}))
    (tmp_path / "trace.json.gz").unlink()
    train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path), **settings))
    assert "note: step 1 has been taken already: profile_steps=1:3 has no effect" in capsys.readouterr().out
    assert not (tmp_path / "trace.json.gz").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "profile_steps=10 is not two steps; write begin:end, for example --profile_steps=10:15"),
        ("a:b", "is not two steps"),
        ("-1:3", "is not two steps"),
        ("7:7", "holds no step"),
        ("15:25", "ends after the run, which has 20 steps"),
    ],
)
def test_what_are_no_steps_of_the_run_is_one_line(data_dir, tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        train.main(train.TrainConfig(data=str(data_dir), out_dir=str(tmp_path / "out"), profile_steps=text, **TINY))
    assert not (tmp_path / "out").exists()
    assert parse_steps("0:20", 20) == range(20)
