"""Part generate of bench.py on a small model. No time or memory is asserted."""

import pytest

import checkpoint
import lora
from benchmarks import bench_generate
from benchmarks.bench_config import BenchConfig

pytestmark = pytest.mark.bench


def test_all_sides_write_as_many_tokens(run_dir, monkeypatch):
    """Each turn is of the same tokens, and says what it took."""
    monkeypatch.setattr(bench_generate, "PROMPT", 4)  # the model's context is 32
    folder = str(checkpoint.resolve(run_dir))
    pytest.importorskip("transformers")
    turns = [bench_generate.ours(folder, kind, 2, 4) for kind in bench_generate.KINDS]
    turns.append(bench_generate.theirs(folder, 2, 4))
    for turn in turns:
        assert turn.keys() == turns[0].keys() and turn["wall_rate"] > 0


def test_the_table_has_ratios_and_targets(run_dir, monkeypatch):
    """Made-up rates: bfloat16 at 1.5, int8 at 3 and int4 at 6 times transformers' are enough, float32 at 1 is not."""
    rates = {"float32": 10, "bfloat16": 15, "int8": 30, "int4": 60, "transformers": 10, "llama.cpp": 100}
    monkeypatch.setattr(bench_generate, "copy_speed", lambda: 8e9)

    def take_turns(cases, rounds, desc):
        found = {}
        for name in cases:
            rate = rates[name.partition(",")[0]]
            found[name] = [{"rate": rate, "wall_rate": rate, "memory_bytes": 1e8}]
        return found

    cfg = BenchConfig(checkpoint=str(run_dir), rounds=1, llama_cpp="python")
    record = bench_generate.record(cfg, take_turns)
    lines = "\n".join(bench_generate.table(record))
    assert [row["met"] for row in record["targets"]] == [False, True, True, True, False, True]
    assert "6.00 (6.00-6.00)" in lines and "reads and writes 8.0 GB/s" in lines


def test_weights_that_are_read_are_counted(run_dir):
    """float32: all numbers of the file, four bytes each; a tied head counts once."""
    source = lora.find_source(str(run_dir), None)
    model = checkpoint.load_model(source.base)
    assert bench_generate.bytes_of_weights(source, "float32") == 4 * model.num_parameters()
    assert bench_generate.bytes_of_weights(source, "int4") < bench_generate.bytes_of_weights(source, "int8")
