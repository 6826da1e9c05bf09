"""The report's counts against lists made by hand; the picture is a picture of them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from corpus.minhash import BANDS, ROWS
from corpus.report import KINDS, draw_clusters, draw_pairs, draw_text, found_probability, make_report, plot

KIND = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 0, 3], np.int8)
KEPT = np.array([0, 1, 2, 3, 0, 0, 0, 1, 2, 2, 10, 2])
SIMILARITY = np.array([1, 1, 1, 1, 1, 1, 0.7, 0.75, 0.9, 0.96, 1, 0.8])
SIZES = np.arange(1, 13)
DETAILS = {"settings": {"threshold": 0.7}, "compared_by_similarity": [5, 0, 0, 2, 7], "compared": 14}


def report_of(count: int, kind: np.ndarray = KIND) -> dict:
    """The report of the first documents."""
    return make_report(kind[:count], KEPT[:count], SIMILARITY[:count], SIZES[:count], DETAILS)


def test_counts_bytes_and_clusters_are_those_of_the_lists():
    assert list(KINDS) == ["against", "exact", "near"]
    report = report_of(12)
    assert [report[key] for key in ("documents", "against", "exact", "near", "kept")] == [12, 1, 2, 5, 4]
    assert report["bytes"] == 78 and report["bytes_removed"] == 78 - (1 + 2 + 3 + 11)
    assert report["bytes_by_kind"] == {"kept": 17, "against": 4, "exact": 11, "near": 7 + 8 + 9 + 10 + 12}
    assert report["clusters"] == {"2": 1, "3-4": 2}  # 1 with one duplicate, 0 and 2 with three
    assert report["near_at_least"] == {"0.70": 5, "0.75": 4, "0.80": 3, "0.85": 2, "0.90": 2, "0.95": 1}
    assert report["compared"] == 14


@pytest.mark.parametrize("duplicates, name", [(1, "2"), (2, "3-4"), (3, "3-4"), (4, "5-8"), (7, "5-8"), (8, "9-16")])
def test_a_cluster_is_counted_under_its_size(duplicates, name):
    kind = np.array([0] + [2] * duplicates, np.int8)
    report = make_report(kind, np.zeros(kind.size, int), np.ones(kind.size), np.ones(kind.size, int), {})
    assert {key: n for key, n in report["clusters"].items() if n} == {name: 1}


def test_the_curve_is_that_of_independent_bands():
    for s in (0.0, 0.3, 0.7, 1.0):
        missed = 1.0
        for _ in range(BANDS):
            missed *= 1 - s**ROWS
        assert found_probability(s) == pytest.approx(1 - missed)


def check_panels(figure: Figure, report: dict) -> None:
    """Pairs by similarity, the curve and the threshold, clusters, bytes."""
    pairs, clusters, text, curve = figure.axes
    assert pairs.patches[0].get_data().values.tolist() == DETAILS["compared_by_similarity"]
    x, y = curve.lines[0].get_data()
    assert np.allclose(y, found_probability(x)) and curve.lines[1].get_xdata() == [0.7, 0.7]
    assert [bar.get_height() for bar in clusters.patches] == list(report["clusters"].values())
    sizes = [size / 1e6 for name, size in report["bytes_by_kind"].items() if size or name == "kept"]
    assert [bar.get_width() for bar in text.patches] == sizes


def test_the_picture_shows_pairs_curve_clusters_and_bytes(tmp_path, monkeypatch):
    drawn = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), original(self, *a, **k)))
    plot(report_of(12), tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    check_panels(drawn[0], report_of(12))


@pytest.mark.parametrize("count", [12, 0])
def test_without_duplicates_or_documents_there_is_something_to_draw(count):
    report = report_of(count, kind=np.zeros(12, np.int8))
    assert report["clusters"] == {"2": 0} and report["kept"] == count
    figure = Figure()
    for axes, draw in zip(figure.subplots(1, 3), (draw_pairs, draw_clusters, draw_text), strict=True):
        draw(axes, report)
    check_panels(figure, report)
    assert [text.get_text() for text in figure.axes[1].texts] == ["no duplicates"]

    axes = Figure().subplots()
    draw_pairs(axes, report | {"compared_by_similarity": [0] * 50})
    assert [text.get_text() for text in axes.texts] == ["no pair was compared"]
