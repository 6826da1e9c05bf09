"""tasks/rows.py: archives of exams as their authors made them, and data sets of the hub, give the same items."""

import csv
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.rows import load
from tasks.task import find_task

# --- archives of exams ---

SUBJECTS = {"mmlu": ["anatomy", "world_religions"], "ceval": ["law", "physician"], "cmmlu": ["anatomy", "agronomy"]}
FOLDERS = {"mmlu": "mmlu/data", "ceval": "ceval", "cmmlu": "cmmlu/cmmlu_v1_0_1"}  # that the archives make


def exam_rows(subject: str, split: str) -> list[dict]:
    """Questions with all that a csv file has to put in quotes."""
    rows = []
    for number, letter in enumerate("BADC"):
        question = f'{subject}, {split} {number}:\nwhat does "机器" mean?'
        answers = ["a machine", "an engine, large", "None", f"{number}"]
        rows.append({"question": question, "answers": answers, "answer": letter})
    return rows


def as_archived(name: str, rows: list[dict]) -> list[list[str]]:
    """The lines of the authors' csv files."""
    cells = [[row["question"], *row["answers"], row["answer"]] for row in rows]
    if name == "mmlu":
        return cells
    if name == "ceval":
        return [["id", "question", *"ABCD", "answer"], *([str(i), *line] for i, line in enumerate(cells))]
    return [["", "Question", *"ABCD", "Answer"], *([str(i), *line] for i, line in enumerate(cells))]


def on_the_hub(name: str, row: dict) -> dict:
    """A row of the data set on the hub."""
    if name == "mmlu":
        return {"question": row["question"], "choices": row["answers"], "answer": "ABCD".index(row["answer"])}
    lettered = dict(zip("ABCD", row["answers"], strict=True))
    question, answer = ("question", "answer") if name == "ceval" else ("Question", "Answer")
    return {question: row["question"], **lettered, answer: row["answer"]}


def archived_path(name: str, subject: str, split: str) -> str:
    file = f"{split}/{subject}.csv" if name == "cmmlu" else f"{split}/{subject}_{split}.csv"
    return f"{FOLDERS[name]}/{file}"


@pytest.fixture
def archives(tmp_path) -> Path:
    """The three archives, unpacked."""
    for name, subjects in SUBJECTS.items():
        for subject in subjects:
            for split in ("dev", "val", "test"):
                path = tmp_path / archived_path(name, subject, split)
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows(as_archived(name, exam_rows(subject, split)))
    return tmp_path


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_archive_of_an_exam_gives_the_items_of_the_hub(archives, name):
    found = load(name, str(archives))
    assert [questions.name for questions in found] == [f"{name}_{subject}" for subject in sorted(SUBJECTS[name])]
    for questions, subject in zip(found, sorted(SUBJECTS[name]), strict=True):
        task = find_task(questions.name)
        split = "val" if name == "ceval" else "test"
        assert questions.items == [task.read(on_the_hub(name, row)) for row in exam_rows(subject, split)]
        assert questions.examples == [task.read(on_the_hub(name, row)) for row in exam_rows(subject, "dev")]
        assert questions.origin == f"{archives}/{archived_path(name, subject, split)}"
        assert [item.answer for item in questions.items] == [1, 0, 3, 2]

    (alone,) = load(f"{name}_{subject}", str(archives))
    assert (alone.items, alone.description) == (questions.items, questions.description)


def test_files_of_mmlu_may_lie_side_by_side(archives):
    expected = load("mmlu", str(archives))
    flat = archives / "flat/mmlu"
    flat.mkdir(parents=True)
    for path in (archives / "mmlu").rglob("*.csv"):
        path.rename(flat / path.name)
    found = load("mmlu", str(archives / "flat"))
    assert [(each.items, each.examples) for each in found] == [(each.items, each.examples) for each in expected]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("mmlu", "What?,a,b,c,B\n", "row 4 (line 9) has 5 cells, wanted are question, A, B, C, D, answer: 6"),
        ("mmlu", "What?,a,b,c,d,E\n", "row 5: its answer 'E' is none of A, B, C, D"),
        ("mmlu", "What?,a,,c,d,2\n", "row 5: its answer '2' is none of A, B, C, D"),
        ("ceval", "4,What?,a,b,c,d\n", "row 4 (line 10) has 6 cells, the header names 7"),
        ("cmmlu", "4,What?,a,b,c,d,\n", "row 5: its answer '' is none of A, B, C, D"),
    ],
)
def test_a_line_with_another_layout_is_named(archives, name, line, message):
    subject = SUBJECTS[name][0]
    path = archives / archived_path(name, subject, "val" if name == "ceval" else "test")
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(ValueError) as error:
        load(f"{name}_{subject}", str(archives))
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_with_other_columns_is_named(archives):
    path = archives / archived_path("ceval", "law", "val")
    path.write_text("id,frage,A,B,C,D,antwort\n0,Was?,a,b,c,d,A\n")
    with pytest.raises(ValueError, match=r"law_val.csv, row 1: another layout: no 'question', only id, frage, A"):
        load("ceval_law", str(archives))


def test_what_is_not_there_is_said_with_all_its_names(archives):
    with pytest.raises(ValueError, match=r"such as mmlu/law.jsonl or mmlu_law.jsonl or mmlu/law_test.csv"):
        load("mmlu_law", str(archives))


# --- the hub ---


def write_hub(folder: Path, configs: dict[str, dict[str, list[dict]]]) -> None:
    """A data set as it lies on the hub: parquet files of configs and splits, and a README that lists them."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows), path)
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def arc_row(question: str, answer: str) -> dict:
    choices = {"text": ["one", "two", "three"], "label": ["A", "B", "C"]}
    return {"id": "7", "question": question, "choices": choices, "answerKey": answer}


def exam_splits(subject: str) -> dict[str, list[dict]]:
    return {split: [on_the_hub("mmlu", row) for row in exam_rows(subject, split)] for split in ("test", "dev")}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Two data sets, which `datasets` finds by their names in the current folder, and a cache of its own."""
    arc = {"test": [arc_row("Why?", "B"), arc_row("Who?", "C")], "train": [arc_row("When?", "A")]}
    hard = {"test": [arc_row("Whence?", "B")], "train": [arc_row("Whither?", "B")]}
    write_hub(tmp_path / "allenai/ai2_arc", {"ARC-Challenge": hard, "ARC-Easy": arc})
    exams = {name: exam_splits(name) for name in ("all", "anatomy", "auxiliary_train", "world_religions")}
    write_hub(tmp_path / "cais/mmlu", exams)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def go_offline(hub: Path, monkeypatch) -> None:
    """Nothing can be downloaded any more; what was lies in the cache, under the names that data sets of the hub get."""
    for name in ("allenai/ai2_arc", "cais/mmlu"):
        cached = hub / "cache" / Path(name).name
        if cached.is_dir():
            cached.rename(hub / "cache" / name.replace("/", "___"))
        (hub / name).rename(hub / f"{name} is gone")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_task_of_the_hub_is_downloaded_once_and_says_from_where(hub, monkeypatch, capsys):
    prepared = []
    real = datasets.DatasetBuilder._download_and_prepare
    monkeypatch.setattr(
        datasets.DatasetBuilder, "_download_and_prepare", lambda self, **kw: prepared.append(1) or real(self, **kw)
    )
    (first,) = load("arc_easy", None)
    assert [(item.context, item.right) for item in first.items] == [
        ("Question: Why?\nAnswer:", "two"),
        ("Question: Who?\nAnswer:", "three"),
    ]
    assert [item.context for item in first.examples] == ["Question: When?\nAnswer:"]
    (made,) = (hub / "cache/ai2_arc/ARC-Easy/0.0.0").glob("[0-9a-f]*[0-9a-f]")
    assert first.origin == f"hub: allenai/ai2_arc (ARC-Easy), test, revision {made.name}"
    assert f"arc_easy: allenai/ai2_arc (ARC-Easy), test of the hub, downloading: {made}\n" in capsys.readouterr().err

    (again,) = load("arc_easy", None)
    go_offline(hub, monkeypatch)
    (offline,) = load("arc_easy", None)
    assert again == offline == first
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("arc_easy: ")]
    assert [line.partition(" of the hub, ")[2].partition(":")[0] for line in said] == ["downloaded before"] * 2
    assert len(prepared) == 1


def test_sets_of_a_family_are_those_of_the_hub_or_offline_those_that_are_here(hub, monkeypatch, capsys):
    found = load("mmlu", None)
    assert [questions.name for questions in found] == ["mmlu_anatomy", "mmlu_world_religions"]
    task = find_task("mmlu_anatomy")
    assert found[0].items == [task.read(on_the_hub("mmlu", row)) for row in exam_rows("anatomy", "test")]
    assert found[0].examples == [task.read(on_the_hub("mmlu", row)) for row in exam_rows("anatomy", "dev")]

    go_offline(hub, monkeypatch)
    assert load("mmlu", None) == found
    assert "mmlu: the hub cannot be reached; 2 sets are in" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["arc_easy", "mmlu"])
def test_what_the_hub_has_not_is_one_line(hub, monkeypatch, name):
    go_offline(hub, monkeypatch)
    with pytest.raises(ValueError, match="cannot be had from the hub; give local files with --task_dir: ") as error:
        load(name, None)
    assert "\n" not in str(error.value)
