"""Part serve of bench.py, and the clients that it and the soak share."""

import pytest
from served import tiny_folder

from benchmarks import bench_serve, serve_load
from benchmarks.bench_config import BenchConfig
from benchmarks.soak_serve import growth_of

pytestmark = pytest.mark.bench


def turn(texts, rate) -> dict:
    figures = {"rate": rate, "rate_cpu": rate, "first_token_s": 0.5, "memory_bytes": 10**8}
    return {**figures, "texts": list(texts)}


def samples(many_texts=("a", "b", "c")) -> dict:
    return {
        "1 client": [turn("ab", 10)],
        "8 clients": [turn(many_texts[:2], 40)],
        "64 clients": [turn(many_texts, 50)],
        "sample.py": [{**turn("ax", 20), "first_token_s": None}],
    }


def test_rates_become_targets(tmp_path):
    cfg = BenchConfig("serve", 1, checkpoint=str(tiny_folder(tmp_path / "tiny")))
    record = bench_serve.record(cfg, lambda cases, rounds, desc: samples())
    assert [row["met"] for row in record["targets"]] == [True, False]  # 40 / 10 and 40 / 20
    assert "1 of 2 are also sample.py's" in record["check"]
    lines = "\n".join(bench_serve.table(record))
    assert "at least 3 times the tokens a second of one: 4.00 (4.00-4.00), met" in lines


def test_an_answer_that_is_not_that_of_one_client_is_an_error():
    with pytest.raises(ValueError, match="with 8 clients an answer is not what it is alone"):
        bench_serve.take_texts(samples(("a", "B", "c")))


@pytest.mark.slow
def test_all_turns_write_the_same_texts(tmp_path):
    """Servers in processes of their own, and sample.py's way. The model is small: no two logits are nearly equal."""
    folder = str(tiny_folder(tmp_path / "tiny"))
    many = bench_serve.served(folder, "auto", 8)
    alone = bench_serve.sampled(folder, "auto")
    assert many["texts"] == alone["texts"]
    assert len(set(many["texts"])) > 10
    assert many["rate"] > 0 and many["memory_bytes"] > 10**7


def test_a_server_that_does_not_begin_says_why(tmp_path):
    with (
        pytest.raises(ValueError, match="did not begin: error: .*nothing"),
        serve_load.server(str(tmp_path / "nothing")),
    ):
        pass


def test_growth_compares_the_last_quarter_with_the_first():
    assert growth_of([100, 100, 300, 100, 100, 100, 110, 90]) == pytest.approx(1.1)
