"""What `make demo` and `make chat-demo`, or their short forms, left here: real corpora, splits and checkpoints."""

import json
import subprocess
from collections import Counter, defaultdict

import pyarrow.parquet as pq
import pytest
import torch
from conftest import PYTHON, REPO
from transformers import AutoModelForCausalLM, AutoTokenizer

import shards
from benchmarks.dedup_quality import shingle_hashes
from corpus.pydocs import python_packages
from prepare_wiki import Splitter
from shards import verify

FOLDER = REPO / "data/pydocs"
CHAT_FOLDER = REPO / "data/chat_pydocs"
CHAT_RUNS = [path for name in ("chat-demo", "chat-demo-short") if (path := REPO / "out" / name / "latest").exists()]
RUNS = [path for name in ("demo", "demo-short") if (path := REPO / "out" / name / "latest").exists()]
pytestmark = pytest.mark.skipif(
    not (FOLDER / "meta.json").is_file(), reason="data/pydocs is not there: run make demo or make demo-short"
)


def test_corpus_is_what_the_readme_says():
    report = json.loads((FOLDER / "report.json").read_text(encoding="utf-8"))
    duplicates = report["duplicates"]
    assert 24e6 < duplicates["bytes"] - duplicates["bytes_removed"] < 33e6
    for kind in ("exact", "near"):
        assert 0.01 < duplicates[kind] / duplicates["documents"] < 0.06
    assert 7e6 < report["splits"]["train"][0]["tokens"] < 12e6
    assert verify(FOLDER) == []


def test_packages_are_the_closure_of_requirements_whatever_else_is_installed():
    manifest = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    packages = manifest["source"]["packages"]
    if packages != dict(python_packages(REPO / "requirements.txt")):
        pytest.skip("data/pydocs was made from other packages: delete it and run make demo")
    assert {"python", "torch", "numpy", "sympy"} <= packages.keys()
    assert not {"transformers", "pytest", "hypothesis", "ruff", "gguf", "starlette"} & packages.keys()


def test_yardsticks_are_in_the_order_that_the_readme_shows():
    found = json.loads((FOLDER / "yardsticks.json").read_text(encoding="utf-8"))
    assert found["trigram"] < found["xz -9"] < found["bigram"] < 2.2


@pytest.mark.slow
def test_validation_and_training_share_no_source_file_and_no_exact_or_near_duplicate():
    """All pairs, exactly: count shared shingles through an index of the validation documents."""
    split = Splitter("file", 0.02, FOLDER)
    kept = [row for path in sorted((FOLDER / "documents").glob("*.parquet")) for row in split.kept(path)]
    val = [row for row in kept if split.is_val(row[0])]
    train = [row for row in kept if not split.is_val(row[0])]
    meta = shards.read_meta(FOLDER)
    assert [len(val), len(train)] == [sum(s["documents"] for s in meta["splits"][name]) for name in ("val", "train")]
    assert not {i.split("#")[0] for i, _ in val} & {i.split("#")[0] for i, _ in train}
    assert not {" ".join(text.split()) for _, text in val} & {" ".join(text.split()) for _, text in train}
    owners, sizes = defaultdict(list), []
    for k, (_, text) in enumerate(val):
        hashes = shingle_hashes(text).tolist()
        sizes.append(len(hashes))
        for value in hashes:
            owners[value].append(k)
    for document_id, text in train:
        hashes = shingle_hashes(text).tolist()
        shared = Counter(k for value in hashes if value in owners for k in owners[value])
        for k, both in shared.items():
            assert both / (len(hashes) + sizes[k] - both) < 0.7, (document_id, val[k][0])


@pytest.mark.slow
@pytest.mark.skipif(not RUNS, reason="out/demo is not there: run make demo or make demo-short")
@pytest.mark.parametrize("prompt", ["Return a copy of the array", "Parameters\n----------\n"])
def test_transformers_continues_the_demo_with_the_same_64_tokens(prompt):
    model, tokenizer = (kind.from_pretrained(RUNS[0]) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.dtype == torch.float32
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 64, "do_sample": False}
    expected = tokenizer.decode(model.generate(ids, **options)[0], skip_special_tokens=True)
    command = [PYTHON, "sample.py", f"--checkpoint={RUNS[0]}", f"--prompt={prompt}", "--top_k=1", "--max_new_tokens=64"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected + "\n"


# --- make chat-demo ---


@pytest.mark.skipif(
    not (CHAT_FOLDER / "meta.json").is_file(), reason="data/chat_pydocs is not there: run make chat-demo"
)
def test_questions_are_many_and_those_for_validation_are_about_files_that_no_training_saw():
    report = json.loads((CHAT_FOLDER / "report.json").read_text(encoding="utf-8"))
    counts, duplicates = report["conversations"], report["duplicates"]
    assert 40_000 < duplicates["kept"] < 120_000
    assert counts["too_long"] < 0.05 * counts["in"] and duplicates["kept"] > 0.97 * duplicates["documents"]
    assert verify(CHAT_FOLDER) == []

    rows = [
        row for path in sorted(CHAT_FOLDER.glob("conversations/*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    of_text, of_chat = Splitter("file", 0.02, FOLDER), Splitter("file", 0.02, CHAT_FOLDER)
    asked = {True: set(), False: set()}
    for row in rows:
        is_val = of_chat.is_val(row["id"])
        assert is_val == of_text.is_val(row["id"].replace("#", "#L"))
        messages = json.loads(row["messages"])
        asked[is_val].add(messages[0]["content"])
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            assert answer["content"].strip() and answer["content"] != question["content"]
            assert answer["content"].startswith(">>> ") or answer["content"].rstrip("\"')]")[-1] in ".!"
    assert not asked[True] & asked[False] and len(asked[True]) > 500


@pytest.mark.skipif(not CHAT_RUNS, reason="out/chat-demo is not there: run make chat-demo or make chat-demo-short")
def test_the_chat_model_learnt_to_answer():
    lines = [json.loads(line) for line in (CHAT_RUNS[0].parent / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val_loss"] for line in lines if "val_loss" in line]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.slow
@pytest.mark.skipif(not CHAT_RUNS, reason="out/chat-demo is not there: run make chat-demo or make chat-demo-short")
@pytest.mark.parametrize("question", ["What does numpy.sort do?", "Show an example of networkx.Graph."])
def test_transformers_answers_a_question_with_the_same_tokens(question):
    model, tokenizer = (kind.from_pretrained(CHAT_RUNS[0]) for kind in (AutoModelForCausalLM, AutoTokenizer))
    messages = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**inputs, max_new_tokens=48, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    command = [PYTHON, "chat.py", f"--checkpoint={CHAT_RUNS[0]}", f"--prompt={question}", "--temperature=0"]
    done = subprocess.run([*command, "--max_new_tokens=48"], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected + "\n"
