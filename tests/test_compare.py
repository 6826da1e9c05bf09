"""evaluate.py --plot: differences by item against plain sums, the table, the picture, and folders without results."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure as Picture
from test_core import made_rows as core_rows
from test_evaluate import made_rows, run, words, write_jsonl, write_model

import checkpoint
import evaluate
from evaluate import EvaluateConfig
from tasks.compare import difference, labels_of, read_scores, table
from tasks.picture import draw_curves, draw_rows
from tokenizer import Tokenizer


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Scores of a model, and of one that differs a little, with another run of the first for fewer items."""
    folder = tmp_path_factory.mktemp("compare")
    one = write_model(folder / "one", "smollm", block_size=1024)
    other = write_model(folder / "other", "smollm", block_size=1024)
    model = checkpoint.load_model(other)
    with torch.no_grad():
        model.lm_head.weight.add_(0.1 * torch.randn(model.lm_head.weight.shape, generator=torch.manual_seed(2)))
    files = checkpoint.small_files(model, Tokenizer.load(other), {})
    checkpoint.write_model(other, dict(model.named_parameters()), files)

    questions = [
        {"context": words(i, 4), "choices": [words(i + 50, 3), words(i + 9, 3)], "answer": i % 2} for i in range(60)
    ]
    paths = [write_jsonl(folder / "mine.jsonl", questions)]
    paths.append(write_jsonl(folder / "texts.jsonl", [{"text": words(i, 5 + 3 * i)} for i in range(25)]))
    (folder / "blimp").mkdir()
    for number, name in enumerate(("passive_1", "passive_2")):
        write_jsonl(folder / f"blimp/{name}.jsonl", made_rows("blimp_passive_1", 10 + 20 * number, seed=50 * number))
    write_jsonl(folder / "copa.jsonl", core_rows("choice", 20))
    write_jsonl(folder / "coqa.jsonl", core_rows("language", 20))
    write_jsonl(folder / "openbook_qa.jsonl", core_rows("choice", 16, seed=40))

    tasks = ",".join([*map(str, paths), "blimp", "core"])
    for model_folder in (one, other):
        run(model_folder, tasks=tasks, task_dir=str(folder), out_dir=folder / f"scores/{model_folder.name}")
    write_jsonl(paths[0], [*questions[:-1], questions[0]])
    run(other, tasks=tasks, task_dir=str(folder), out_dir=folder / "scores/changed")
    return folder / "scores"


def column(folder: Path, label: str, name: str) -> np.ndarray:
    return pq.read_table(folder / f"{label}.parquet")[name].to_numpy(zero_copy_only=False).astype(float)


def test_differences_are_those_of_the_items(results):
    one, other = read_scores(f"{results}/one {results}/other")
    values = column(results / "other", "mine", "acc") - column(results / "one", "mine", "acc")
    found = difference("mine", one, other)
    assert found.is_paired and found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(60))
    alone = math.hypot(one.figure("mine").error, other.figure("mine").error)
    assert found.error < 0.9 * alone, "two models that differ a little are right about the same items"

    bits = [-column(results / name, "texts", "logprob") / math.log(2) for name in ("one", "other")]
    n_bytes = column(results / "one", "texts", "bytes")
    found = difference("texts", one, other)
    ratio = (bits[1] - bits[0]).sum() / n_bytes.sum()
    rest = bits[1] - bits[0] - ratio * n_bytes
    assert found.value == pytest.approx(ratio)
    assert found.value == pytest.approx(other.figure("texts").value - one.figure("texts").value)
    assert found.error == pytest.approx(math.sqrt((rest**2).sum() / 24 / 25) / n_bytes.mean())


def test_a_family_differs_by_all_items_of_its_sets(results):
    one, other = read_scores(f"{results}/one {results}/other")
    labels = ["blimp_passive_1", "blimp_passive_2"]
    values = [column(results / "other", label, "acc") - column(results / "one", label, "acc") for label in labels]
    found = difference("blimp", one, other)
    assert found.is_paired and found.value == pytest.approx(np.concatenate(values).mean())
    variance = sum(len(d) ** 2 * d.var(ddof=1) / len(d) for d in values) / 40**2
    assert found.error == pytest.approx(math.sqrt(variance)) and found.error > 0

    # CORE: the mean over tasks, each stretched by what chance leaves.
    stretch = {"core_copa": 1 / 0.5, "core_openbook_qa": 1 / 0.75, "core_coqa": 1}
    columns = {"core_copa": "acc_tokens", "core_openbook_qa": "acc_tokens", "core_coqa": "acc"}
    means, variances = [], []
    for label, name in columns.items():
        values = stretch[label] * (column(results / "other", label, name) - column(results / "one", label, name))
        means.append(values.mean())
        variances.append(values.var(ddof=1) / len(values))
    found = difference("core", one, other)
    assert found.value == pytest.approx(np.mean(means))
    assert found.error == pytest.approx(math.sqrt(sum(variances)) / 3)


def test_other_items_are_not_paired(results):
    other, changed = read_scores(f"{results}/other {results}/changed")
    found = difference("mine", other, changed)
    assert not found.is_paired
    assert found.error == pytest.approx(math.hypot(other.figure("mine").error, changed.figure("mine").error))
    assert difference("blimp", other, changed).is_paired


def test_the_table_and_the_picture(results, tmp_path, capsys):
    evaluate.main(EvaluateConfig(plot=f"{results}/o*", out_dir=str(tmp_path)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["one", "other", "difference"]
    names = [line.split()[0] for line in lines[1:-2]]
    assert names == ["mine", "texts", "core_copa", "core_openbook_qa", "core_coqa", "blimp", "core"]
    one, other = read_scores(f"{results}/o*")
    more = 100 * (other.figure("mine").value - one.figure("mine").value)
    assert f"{more:+.1f} ±" in lines[1] and lines[1].endswith("paired")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")

    axes = Picture().subplots()
    draw_rows(axes, [one, other], ["mine", "core"])
    dots = [container[0].get_xdata() for container in axes.containers]
    for scores, drawn in zip([one, other], dots, strict=True):
        assert drawn == pytest.approx([100 * scores.figure("mine").value, 100 * scores.figure("core").value])
    (chance,) = [lines for lines in axes.collections if lines.get_label() == "chance"]
    assert [segment[0][0] for segment in chance.get_segments()] == [50.0, 0.0]


def test_steps_of_a_run_are_curves(results, tmp_path):
    """In the order of their steps; a task that only one of them has is shown as well."""
    for step in (1000, 250):
        folder = tmp_path / f"demo-step_{step:07d}"
        folder.mkdir()
        content = json.loads((results / "one/scores.json").read_text())
        content["tasks"]["mine"]["figures"]["acc"]["value"] = step / 2000
        if step == 250:
            del content["tasks"]["texts"]
        (folder / "scores.json").write_text(json.dumps(content))
    found = read_scores(f"{tmp_path}/demo-step_0001000 {tmp_path}/demo-step_0000250")
    axes = Picture().subplots()
    draw_curves(axes, found, ["mine"])
    assert axes.containers[0][0].get_xdata().tolist() == [250, 1000]
    assert axes.containers[0][0].get_ydata().tolist() == [12.5, 50.0]
    assert "texts" in labels_of(found)
    assert "-" in next(line for line in table(found).splitlines() if line.startswith("texts")).split()
    evaluate.main(EvaluateConfig(plot=f"{tmp_path}/demo-*"))
    assert (tmp_path / "scores.png").is_file()


def test_a_folder_without_scores_is_refused(results, tmp_path):
    with pytest.raises(ValueError, match="none has no scores.json; run: python evaluate.py --out_dir="):
        read_scores(f"{results}/one {tmp_path}/none")
