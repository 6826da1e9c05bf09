"""What `make demo` or `make demo-short` left in this checkout: the real corpus, split and checkpoint."""

import json
import subprocess
from collections import Counter, defaultdict

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
    assert not {"transformers", "pytest", "hypothesis", "ruff"} & packages.keys()


def test_yardsticks_are_in_the_order_that_the_readme_shows():
    found = json.loads((FOLDER / "yardsticks.json").read_text(encoding="utf-8"))
    assert found["trigram"] < found["xz -9"] < found["bigram"] < 2.2


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
