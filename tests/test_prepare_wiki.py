"""The data job from files to shards: nothing lost, nothing twice, and the same bytes after any interruption."""

import collections
import dataclasses
import functools
import gzip
import hashlib
import json
import os
import random
import resource
import shlex
import shutil
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import ByteLevelBPETokenizer

import atomic
import configurator
import dedup
import prepare_wiki
from corpus import clean, sources
from corpus.clean import normalise
from prepare_wiki import SPLITS, PrepareConfig, main
from shards import Shards, read_meta, verify
from tokenizer import END_OF_TEXT, Tokenizer

REPO = Path(__file__).parents[1]
PART_BYTES = sources.PART_BYTES
pytestmark = pytest.mark.usefixtures("no_plot")
SHAKESPEARE = Path(__file__).parents[2] / "shared/data/other/tinyshakespeare.txt.gz"
SETTINGS = {"vocab_size": 300, "val_fraction": 0.2, "min_chars": 20, "num_workers": 1, "yardsticks": False}
PLANTED = {"in": 66, "empty": 2, "too_short": 4, "exact": 5, "near": 7, "kept": 48}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Every file is a part, and the manifest's command is the same in every test."""
    monkeypatch.setattr(sources, "PART_BYTES", 1)
    monkeypatch.setattr(sys, "argv", ["prepare_wiki.py"])


def sentence(draw: random.Random, count: int) -> str:
    words = ["".join(draw.choice("aeioubdklmnrst") for _ in range(draw.randint(2, 8))) for _ in range(count)]
    return " ".join(words)


def make_corpus(folder: Path) -> list[str]:
    """Three jsonl files with planted duplicates and short documents; returns the texts that should be kept."""
    draw = random.Random(0)
    kept = [sentence(draw, draw.randint(30, 60)) for _ in range(40)]
    kept += ["".join(chr(draw.randrange(0x4E00, 0x4E00 + 500)) for _ in range(60)) + "。" for _ in range(6)]
    kept += [f"A text that spells {END_OF_TEXT} in the middle: " + sentence(draw, 30)]
    kept += ["def f():\r\n    return 'cafe\u0301'  \r\n\r\n\r\n\r\n" + sentence(draw, 30)]
    near = [text.rpartition(" ")[0].rpartition(" ")[0] for text in kept[:7]]  # shorter: the original stays
    rows = [{"text": text} for text in [*kept, *near, *kept[10:15], "", " \n\t", "short", "短", "x" * 19, "tiny"]]
    draw.shuffle(rows)
    folder.mkdir(parents=True)
    for k in range(3):
        (folder / f"{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[k::3]))
    return [normalise(text) for text in kept]


def write_large(source: str, folder: Path) -> None:
    """The files of `source`, each as large as a part by a row without text."""
    for path in Path(source).parent.iterdir():
        row = json.dumps({"text": "", "padding": "x" * PART_BYTES})
        (folder / path.name).write_text(path.read_text() + row + "\n")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[str, list[str]]:
    """(--source, the texts that should be kept)."""
    folder = tmp_path_factory.mktemp("corpus") / "texts"
    kept = make_corpus(folder)
    return f"{folder}/*.jsonl", kept


def prepare(source: str | Path, out: Path, **settings) -> Path:
    main(PrepareConfig(source=str(source), data_dir=str(out), **(SETTINGS | settings)))
    return out


@pytest.fixture(scope="module")
def finished_once(corpus, tmp_path_factory) -> Path:
    """A finished folder, which no test may change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PART_BYTES", 1)
        patch.setattr(sys, "argv", ["prepare_wiki.py"])
        return prepare(corpus[0], tmp_path_factory.mktemp("finished") / "data")


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A finished folder of the test's own."""
    return shutil.copytree(finished_once, tmp_path / "data")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the one with the seconds."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "times.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def documents_of(folder: Path, split: str) -> list[str]:
    """The texts of a split, cut at the end-of-text ids."""
    tokenizer, shards = Tokenizer.load(folder), Shards(folder, split)
    texts = []
    for shard in range(len(shards.sizes)):
        ids = shards.read(shard, 0, int(shards.sizes[shard]))
        ends = np.flatnonzero(ids == tokenizer.end_of_text)
        assert ends.size and ends[-1] == len(ids) - 1  # a shard ends with a document
        texts += [tokenizer.decode(piece[:-1].tolist()) for piece in np.split(ids, ends[:-1] + 1)]
    return texts


def stored(folder: Path) -> dict[str, str]:
    """{id: text} of all documents that the first stage wrote."""
    paths = sorted((folder / "documents").glob("*.parquet"))
    return {row["id"]: row["text"] for path in paths for row in pq.read_table(path).to_pylist()}


def refusal(source: str | Path, out: Path, **settings) -> str:
    """The one-line message that these settings are refused with; the folder is not complete."""
    before = (out / "meta.json").read_bytes() if (out / "meta.json").is_file() else None
    with pytest.raises((ValueError, OSError)) as error:
        prepare(source, out, **settings)
    assert "\n" not in str(error.value)
    assert before == ((out / "meta.json").read_bytes() if (out / "meta.json").is_file() else None)
    return str(error.value)


def test_settings_of_dumps_are_said_to_change_nothing_for_other_sources(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "Some words of a text."}\n')
    prepare(source, tmp_path / "plain", until="documents", min_chars=1)
    assert "note:" not in capsys.readouterr().out
    prepare(source, tmp_path / "drop", until="documents", min_chars=1, holes="drop")
    assert "note: --templates and --holes change nothing here" in capsys.readouterr().out


# --- what is written ---


def test_counts_add_up_to_what_was_planted(finished):
    report, meta = (json.loads((finished / name).read_text()) for name in ("report.json", "meta.json"))
    counts, duplicates = report["documents"], report["duplicates"]
    assert {key: counts[key] for key in ("in", "empty", "too_short")} == {
        k: PLANTED[k] for k in ("in", "empty", "too_short")
    }
    assert {key: duplicates[key] for key in ("exact", "near", "kept")} == {
        k: PLANTED[k] for k in ("exact", "near", "kept")
    }
    assert counts["in"] == counts["empty"] + counts["too_short"] + counts["kept"]
    assert counts["kept"] == duplicates["documents"] == len(stored(finished))
    entries = [entry for split in meta["splits"].values() for entry in split]
    assert sum(entry["documents"] for entry in entries) == duplicates["kept"]
    assert sum(entry["bytes"] for entry in entries) == duplicates["bytes"] - duplicates["bytes_removed"]
    assert counts["bytes"] == duplicates["bytes"] == sum(len(text.encode()) for text in stored(finished).values())
    assert meta["provenance"]["dedup"]["near"] == duplicates["near"] and report["splits"] == meta["splits"]


def test_decoding_the_shards_gives_back_exactly_the_kept_documents(corpus, finished):
    train, val = (documents_of(finished, split) for split in ("train", "val"))
    assert sorted(train + val) == sorted(corpus[1])
    assert train and val and not set(train) & set(val)


def test_documents_come_in_the_order_of_the_source_and_end_with_the_end_of_text(finished):
    removed = {row["id"] for row in pq.read_table(finished / "dedup/duplicates.parquet").to_pylist()}
    texts = [text for document_id, text in stored(finished).items() if document_id not in removed]
    for split in SPLITS:
        found = documents_of(finished, split)
        assert found == [text for text in texts if text in set(found)]
        entries = json.loads((finished / "meta.json").read_text())["splits"][split]
        ids = Shards(finished, split).all()
        assert np.count_nonzero(ids == Tokenizer.load(finished).end_of_text) == sum(e["documents"] for e in entries)
        assert ids.max() < 300


def test_validation_is_a_hash_of_the_id(finished):
    val = set(documents_of(finished, "val"))
    for document_id, text in stored(finished).items():
        if text in val:
            assert int(hashlib.sha256(document_id.encode()).hexdigest()[:16], 16) / 2**64 < 0.2
    kept = set(documents_of(finished, "train"))
    for document_id, text in stored(finished).items():
        if text in kept and list(stored(finished).values()).count(text) == 1:
            assert int(hashlib.sha256(document_id.encode()).hexdigest()[:16], 16) / 2**64 >= 0.2


def test_the_tokenizer_is_trained_on_the_training_documents_only(corpus, tmp_path, monkeypatch):
    seen: list[str] = []
    real = prepare_wiki.train_bpe
    monkeypatch.setattr(prepare_wiki, "train_bpe", lambda texts, size: real(seen.extend(texts) or seen, size))
    out = prepare(corpus[0], tmp_path / "data")
    assert seen == documents_of(out, "train")


def test_meta_tells_what_the_files_are(corpus, finished):
    meta = read_meta(finished)
    assert verify(finished) == [] and not (finished / "tokens").exists()
    assert (meta["dtype"], meta["vocab_size"], meta["tokenizer"]["end_of_text"]) == ("<u2", 300, 299)
    assert meta["tokenizer"]["sha256"] == hashlib.sha256((finished / "tokenizer.json").read_bytes()).hexdigest()
    assert meta["provenance"]["settings"]["source"] == corpus[0]
    assert set(meta["provenance"]["source"]["files"]) == {"0.jsonl", "1.jsonl", "2.jsonl"}


def test_shards_are_cut_between_documents_and_hold_the_same_tokens(corpus, finished, tmp_path):
    out = prepare(corpus[0], tmp_path / "cut", shard_tokens=500)
    for split in SPLITS:
        whole, cut = Shards(finished, split), Shards(out, split)
        assert np.array_equal(whole.all(), cut.all()) and documents_of(out, split) == documents_of(finished, split)
    assert len(cut.sizes) >= 2 and len(Shards(out, "train").sizes) >= 3


def test_the_cut_into_parts_does_not_change_the_tokens(corpus, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 1 << 30)
    out = prepare(corpus[0], tmp_path / "one part")
    assert len(list((out / "documents").iterdir())) == 1 and len(list((finished / "documents").iterdir())) >= 3
    for name in ("train_00000.bin", "val_00000.bin", "tokenizer.json", "dedup/duplicates.parquet"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_without_cleaning_every_character_is_kept(tmp_path):
    texts = [f"\ufeff {k} caf\u0065\u0301\r\n\n\n\n\x00 " + sentence(random.Random(k), 20) + " \n" for k in range(20)]
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"text": text, "id": f"{k}"}) + "\n" for k, text in enumerate(texts))
    )
    out = prepare(tmp_path / "in.jsonl", tmp_path / "data", clean=False, vocab_size=260)
    assert sorted(documents_of(out, "train") + documents_of(out, "val")) == sorted(texts)


def test_a_vocabulary_beyond_65536_is_written_as_uint32(tmp_path):
    """An id that does not fit into uint16 must not wrap."""
    found = [chr(c) for c in range(0x20, 0x30000) if unicodedata.category(chr(c)) in ("Lo", "Ll", "Lu", "So")][:66_000]
    (tmp_path / "in.txt").write_text("".join(found), encoding="utf-8")
    settings = {"clean": False, "tokenizer": "char", "split_by": "position", "val_fraction": 0.01}
    out = prepare(tmp_path / "in.txt", tmp_path / "data", **settings)
    ids = np.concatenate([Shards(out, split).all() for split in ("train", "val")])
    assert ids.dtype == np.dtype("<u4") and ids.tolist() == list(range(66_001))


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_tokenizer_made_elsewhere_is_used_as_it_is(corpus, finished, tmp_path, form):
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"text": f"{k} {text}"}) + "\n" for k, text in enumerate(corpus[1]))
    )
    tokenizer = finished if form == "folder" else finished / "tokenizer.json"
    out = prepare(tmp_path / "in.jsonl", tmp_path / "other", tokenizer=str(tokenizer), vocab_size=5)
    assert (out / "tokenizer.json").read_bytes() == (finished / "tokenizer.json").read_bytes()
    assert sorted(documents_of(out, "train") + documents_of(out, "val")) == sorted(
        f"{k} {t}" for k, t in enumerate(corpus[1])
    )


def test_a_tokenizer_of_another_kind_is_used_as_it_is(corpus, tmp_path):
    """A tokenizer.json as GPT-2 has it."""
    gpt2 = ByteLevelBPETokenizer()
    gpt2.train_from_iterator(corpus[1], vocab_size=300, special_tokens=[END_OF_TEXT], show_progress=False)
    gpt2.save(str(tmp_path / "tokenizer.json"))
    out = prepare(corpus[0], tmp_path / "data", tokenizer=str(tmp_path / "tokenizer.json"))
    assert sorted(documents_of(out, "train") + documents_of(out, "val")) == sorted(corpus[1])


def test_a_part_that_loses_all_its_documents_does_no_harm(corpus, tmp_path):
    shutil.copytree(Path(corpus[0]).parent, tmp_path / "texts")
    (tmp_path / "texts/1b.jsonl").write_text('{"text": "too short"}\n{"text": ""}\n')
    (tmp_path / "texts/1c.jsonl").write_text("")
    (tmp_path / "texts/1d.jsonl").write_text(json.dumps({"text": corpus[1][0]}) + "\n")  # only a duplicate
    out = prepare(tmp_path / "texts/*.jsonl", tmp_path / "data")
    assert sorted(documents_of(out, "train") + documents_of(out, "val")) == sorted(corpus[1])
    counts = json.loads((out / "report.json").read_text())["documents"]
    assert (counts["in"], counts["empty"], counts["too_short"]) == (
        PLANTED["in"] + 3,
        PLANTED["empty"] + 1,
        PLANTED["too_short"] + 1,
    )


def test_the_summary_shows_the_counts(corpus, tmp_path, capsys):
    prepare(corpus[0], tmp_path / "data")
    shown = dict(
        line.rsplit(maxsplit=1) for line in capsys.readouterr().out.replace(" %", "").splitlines() if "  " in line
    )
    assert shown["documents read"] == str(PLANTED["in"]) and shown["vocabulary"] == "300"
    for name in ("empty", "too_short", "exact duplicates", "near duplicates"):
        planted = PLANTED[name.split(" ")[0]]
        assert any(key.split() == f"dropped: {name} {planted}".split() for key in map(str.strip, shown))


# --- the split ---


def test_split_by_file_keeps_the_documents_of_a_file_together(tmp_path):
    draw = random.Random(0)
    for k in range(20):
        rows = [{"text": f"{k}: {sentence(draw, 30)}"} for _ in range(5)]
        (tmp_path / f"{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = prepare(tmp_path / "*.jsonl", tmp_path / "data", split_by="file")
    files = {
        split: collections.Counter(text.split(":")[0] for text in documents_of(out, split))
        for split in ("train", "val")
    }
    assert not set(files["train"]) & set(files["val"]) and len(files["train"]) + len(files["val"]) == 20
    assert set(files["train"].values()) == {5} == set(files["val"].values())
    by_id = prepare(tmp_path / "*.jsonl", tmp_path / "by id", split_by="id")
    assert {t.split(":")[0] for t in documents_of(by_id, "train")} & {
        t.split(":")[0] for t in documents_of(by_id, "val")
    }


def test_split_by_file_keeps_them_together_when_rows_have_ids_too(tmp_path):
    """Or refuses: it must not split by id in silence."""
    draw = random.Random(0)
    for k in range(20):
        rows = [{"text": f"{k}: {sentence(draw, 30)}", "id": f"id{k}-{n}"} for n in range(5)]
        (tmp_path / f"{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        out = prepare(tmp_path / "*.jsonl", tmp_path / "data", split_by="file")
    except ValueError as error:
        assert "split_by" in str(error)
    else:
        train, val = ({text.split(":")[0] for text in documents_of(out, split)} for split in ("train", "val"))
        assert not train & val


POSITION = {"clean": False, "tokenizer": "char", "split_by": "position", "val_fraction": 0.1, "min_chars": 1}


@pytest.mark.parametrize("length", [10, 99, 1000, 4321])
def test_split_by_position_on_characters_is_nanogpts_cut(tmp_path, length):
    data = "".join(random.Random(length).choices("ab cdé\n机器.!", k=length))
    (tmp_path / "in.txt").write_bytes(data.encode())
    out = prepare(tmp_path / "in.txt", tmp_path / "data", **POSITION)
    stoi = {character: i for i, character in enumerate(sorted(set(data)))}  # as data/shakespeare_char/prepare.py does
    n = len(data)
    train, val = data[: int(n * 0.9)], data[int(n * 0.9) :]
    assert Shards(out, "train").all().tolist() == [stoi[c] for c in train]
    assert Shards(out, "val").all().tolist() == [*(stoi[c] for c in val), len(stoi)]


@pytest.mark.parametrize("val_fraction", [0.1, 0.35, 0.6])
def test_split_by_position_cuts_one_stream_of_several_documents(tmp_path, val_fraction):
    texts = [sentence(random.Random(k), 5 * k + 8) for k in range(6)]
    for k in range(2):
        rows = [json.dumps({"text": text}) + "\n" for text in texts[3 * k : 3 * k + 3]]
        (tmp_path / f"{k}.jsonl").write_text("".join(rows))
    out = prepare(tmp_path / "*.jsonl", tmp_path / "data", **(POSITION | {"val_fraction": val_fraction}))
    tokenizer = Tokenizer.load(out)
    train, val = (tokenizer.decode(Shards(out, split).all().tolist()) for split in ("train", "val"))
    assert train + val == "".join(text + END_OF_TEXT for text in texts)
    assert len(train.replace(END_OF_TEXT, "")) == int(sum(map(len, texts)) * (1 - val_fraction))
    entries = read_meta(out)["splits"]
    assert [sum(e["documents"] for e in entries[s]) for s in entries] == [t.count(END_OF_TEXT) for t in (train, val)]


@pytest.mark.real_data
@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason=f"{SHAKESPEARE} is not there")
def test_tiny_shakespeare_has_nanogpts_token_counts(tmp_path):
    arguments = [
        str(REPO / "config/data_shakespeare_char.py"),
        f"--source={SHAKESPEARE}",
        f"--data_dir={tmp_path}/data",
    ]
    cfg, _ = configurator.load(PrepareConfig, arguments)
    main(cfg)
    train, val = (Shards(tmp_path / "data", split) for split in ("train", "val"))
    assert (train.tokens, val.tokens) == (1_003_854, 111_540 + 1)  # nanoGPT's, and one end-of-text
    assert train.vocab_size == 65 + 1


def test_the_named_configs_load():
    for path in sorted((REPO / "config").glob("data_*.py")):
        cfg, _ = configurator.load(PrepareConfig, [str(path)])
        cfg.check()
        assert Path(cfg.data_dir) == Path("data") / path.stem.removeprefix("data_")


# --- the same bytes every time ---


def test_two_workers_write_the_bytes_of_one(corpus, finished, tmp_path):
    assert tree(prepare(corpus[0], tmp_path / "two", num_workers=2)) == tree(finished)


def test_a_second_run_of_a_complete_folder_changes_nothing(corpus, tmp_path, capsys):
    out = prepare(corpus[0], tmp_path / "data")
    shown = capsys.readouterr().out.splitlines()
    before = tree(out), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepare(corpus[0], out, num_workers=2)
    assert (tree(out), {path: path.stat().st_mtime_ns for path in out.rglob("*")}) == before
    *again, last = capsys.readouterr().out.splitlines()
    assert again[0] == shown[0] and again[0].endswith("3 files, 0.0 MB: 3 jsonl")
    assert "is complete" in last and len(again) > 10 and again[1:] == shown[2:-1]  # the same table


AGAIN = [  # function, the call of it that is interrupted, workers of the second run
    ("make_documents_part", 2, 1),
    ("find_duplicates_once", 1, 2),
    ("encode_part", 3, 2),
    ("join_parts", 2, 1),
    ("summary", 1, 1),
]


@pytest.mark.parametrize("stage, call, workers", AGAIN)
def test_the_same_command_after_an_interrupt_gives_the_same_bytes(
    corpus, finished_once, tmp_path, monkeypatch, stage, call, workers
):
    """Ctrl-C in the middle of each stage; what was finished is not made again, by one worker or by two."""
    out, calls, real = tmp_path / "stopped", 0, getattr(prepare_wiki, stage)

    def stop(*args):
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_wiki, stage, stop)
        prepare(corpus[0], out)
    if stage != "summary":
        with pytest.raises(ValueError, match="unfinished; complete it with: python prepare_wiki.py"):
            read_meta(out)
    done = {p: p.stat().st_mtime_ns for p in [*out.glob("documents/*"), *out.glob("tok*")] if p.suffix != ".tmp"}
    prepare(corpus[0], out, num_workers=workers)
    assert tree(out) == tree(finished_once)
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in done.items() if path.is_file())


def calls_once(function, then):
    """`function`, but its first call calls then() before."""
    calls = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            then()
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("stage", ["make_documents_part", "sketch_documents", "encode_part"])
def test_a_second_run_in_a_folder_is_refused_and_does_no_harm(corpus, finished, tmp_path, monkeypatch, stage):
    """While the first is in the middle of a stage; the second with the same and with another setting, or dedup.py."""
    out = tmp_path / "two"
    monkeypatch.setattr(prepare_wiki, "ORPHANS_S", 0)

    def start_others():
        before = tree(out)
        for min_chars in (20, 1):
            with pytest.raises(ValueError, match=f"another process is writing to {out}; stop it, or give another"):
                prepare(corpus[0], out, min_chars=min_chars)
        for folder in (out, out / "dedup"):
            with pytest.raises(ValueError, match=f"{folder} belongs to prepare_wiki.py --data_dir={out}"):
                dedup.main(dedup.DedupConfig(source=f"{finished}/documents/*.parquet", out=str(folder)))
        assert tree(out) == before

    owner = dedup if stage == "sketch_documents" else prepare_wiki
    monkeypatch.setattr(owner, stage, calls_once(getattr(owner, stage), start_others))
    prepare(corpus[0], out)
    assert tree(out) == tree(finished)  # without a lock file, too


def test_verify_takes_no_lock(finished):
    with atomic.lock(finished, 0):
        main(PrepareConfig(verify=True, data_dir=str(finished)))


KILLER = """
import sys
from pathlib import Path
import killer, prepare_wiki

source, base = sys.argv[1], Path(sys.argv[2])
sys.argv = ["prepare_wiki.py"]
settings = dict(source=source, vocab_size=300, val_fraction=0.2, min_chars=20, num_workers=1)


def run(out):
    prepare_wiki.main(prepare_wiki.PrepareConfig(data_dir=str(out), **settings))


killer.kill_everywhere(run, base)
"""


@pytest.mark.slow
def test_the_same_command_after_kill_9_gives_the_same_bytes(corpus, tmp_path):
    """Killed before each rename, so with each file written aside once, and before the last tidying up."""
    command = [sys.executable, "-c", KILLER, corpus[0], str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO}/tests", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    *problems, last = done.stdout.splitlines()
    assert problems == [] and int(last.removeprefix("kills ")) >= 15


FULL_DISK = """
import json, resource, sys
import prepare_wiki; from corpus import sources

sources.PART_BYTES = 1
source, out = sys.argv[1:]
sys.argv = ["prepare_wiki.py"]
cfg = prepare_wiki.PrepareConfig(
    source=source, data_dir=out, vocab_size=300, val_fraction=0.2, min_chars=20, num_workers=1, yardsticks=False
)
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
limits = dict.fromkeys(["make_documents", "find_duplicates_once", "make_tokenizer", "make_shards"], 0)
errors = {name: [] for name in limits}


def limited(name, real):
    def stage(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[name], most))
        try:
            return real(*args)
        except OSError as error:
            errors[name].append(str(error))
            limits[name] = 3 * limits[name] + 300
            raise
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return stage


for name in limits:
    setattr(prepare_wiki, name, limited(name, getattr(prepare_wiki, name)))
for _ in range(100):
    try:
        prepare_wiki.main(cfg)
        break
    except OSError:
        pass
print(json.dumps(errors), file=sys.stderr)
"""


def test_a_full_disk_in_any_stage_is_an_error_and_the_same_command_goes_on(corpus, finished, tmp_path):
    """No file may be larger than n bytes, n from 0 in each stage: it fails several times, each time further on."""
    command = [sys.executable, "-c", FULL_DISK, corpus[0], str(tmp_path / "again")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, errors in json.loads(done.stderr.splitlines()[-1]).items():
        assert len(errors) >= 2 and all("File too large" in error for error in errors), name
    again, whole = tree(tmp_path / "again"), tree(finished) | {"dedup/report.png": b""}  # drawn by the command alone
    assert again.pop("dedup/report.png").endswith(b"IEND\xaeB`\x82") and not whole.pop("dedup/report.png")
    assert again == whole


@pytest.mark.slow
def test_the_command_line_with_two_processes_and_a_full_disk_on_the_way(corpus, finished_once, tmp_path):
    """Started as a script: workers import prepare_wiki.py as their main module. First no file may grow beyond 3 kB."""
    write_large(corpus[0], tmp_path)
    flags = [f"--{key}={value}" for key, value in (SETTINGS | {"num_workers": 2}).items()]
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    failed = command_line(f"--source={tmp_path}/*.jsonl", f"--data_dir={tmp_path}/data", *flags, preexec_fn=limit)
    assert failed.returncode == 1 and failed.stderr.count("\n") == 1 and "File too large" in failed.stderr
    done = command_line(f"--source={tmp_path}/*.jsonl", f"--data_dir={tmp_path}/data", *flags)
    assert done.returncode == 0 and done.stderr == "" and "documents read" in done.stdout
    assert len(list((tmp_path / "data/documents").iterdir())) == 3
    for split in SPLITS:
        assert Shards(tmp_path / "data", split).all().tolist() == Shards(finished_once, split).all().tolist()


# --- what is refused ---

# no finished file depends on these
FREE = {"source", "data_dir", "num_workers", "until", "allow_truncated", "templates", "yardsticks", "verify"}
# another value of each other setting; where any will do, it is this word
ALONE_REFUSED = {"task_dir"}  # without a task in against
DECIDING = {field.name for field in dataclasses.fields(PrepareConfig)} - FREE - ALONE_REFUSED
OTHER = dict.fromkeys(sorted(DECIDING), "another") | {
    "dedup_threshold": 0.8,
    "against": str(REPO / "requirements.txt"),
    "tokenizer": "char",
    "vocab_size": 301,
    "val_fraction": 0.3,
    "split_by": "file",
    "shard_tokens": 1000,
    "min_chars": 21,
    "max_list_chars": 0.8,
    "max_repeated_lines": 0.3,
    "max_repeated_ngrams": 1.0,
    "script": "LATIN",
    "min_script": 0.6,
    "holes": "drop",
}


@pytest.mark.parametrize("complete", [True, False])
def test_a_changed_setting_is_refused_with_its_name_and_the_ways_out(corpus, finished, complete):
    """Every setting that decides what is written."""
    if not complete:
        (finished / "meta.json").unlink()
    before = tree(finished)
    for key, value in OTHER.items():
        message = refusal(corpus[0], finished, **{key: value})
        old = getattr(PrepareConfig(**SETTINGS), key)
        assert f"{key}={old!r}, not {value!r}" in message
        assert "another --data_dir" in message and f"delete {finished}" in message and "earlier settings" in message
    assert tree(finished) == before


@dataclasses.dataclass(frozen=True)
class NewerConfig(PrepareConfig):
    """A later version, with a filter and a setting of its own."""

    max_digits: float | None = None  # largest share of the characters
    min_words: int = 3  # another one, whose default is a number


def test_a_new_filter_is_a_function_and_a_setting(corpus, finished, tmp_path, monkeypatch):
    """It drops what it should and is counted by name; a folder that was finished before it existed is not refused."""
    monkeypatch.setattr(clean, "FILTERS", filters := dict(clean.FILTERS))
    monkeypatch.setattr(prepare_wiki, "FILTERS", filters)
    monkeypatch.setattr(prepare_wiki, "PrepareConfig", NewerConfig)

    @clean.drops("mostly_digits", "max_digits")
    def mostly_digits(page: clean.Page, max_digits: float) -> bool:
        return sum(map(str.isdigit, page.text)) > max_digits * len(page.text)

    before = tree(finished)
    settings = SETTINGS | {"source": corpus[0], "data_dir": str(finished)}
    main(NewerConfig(**settings))
    assert tree(finished) == before
    with pytest.raises(ValueError, match="was begun with max_digits=None, not 0.5; give"):
        main(NewerConfig(**settings, max_digits=0.5))

    rows = [json.dumps({"text": text}) + "\n" for text in ["12345 67890 " * 3, *corpus[1]]]
    (tmp_path / "in.jsonl").write_text("".join(rows))
    main(NewerConfig(**settings | {"source": f"{tmp_path}/in.jsonl", "data_dir": f"{tmp_path}/new"}, max_digits=0.5))
    report = json.loads((tmp_path / "new/report.json").read_text())
    assert report["documents"]["mostly_digits"] == 1 and report["dropped"]["mostly_digits"][0][2].startswith("12345")


REMEDIES = {
    "vocabulary too large": {"vocab_size": 260},
    "no validation": {"val_fraction": 0.5, "vocab_size": 260},
    "nothing long enough": {"min_chars": 5, "vocab_size": 260},
    "another column": {"text_column": "body", "vocab_size": 260},
    "no training by position": {"val_fraction": 0.5, "split_by": "position", "tokenizer": "char"},
    "ids that name no file": {"id_column": None, "split_by": "file", "vocab_size": 260},
    "several": {"tokenizer": "char", "split_by": "position", "dedup_threshold": 0.9, "shard_tokens": 50},
}


@pytest.mark.parametrize("kind", REMEDIES)
def test_the_remedy_that_an_error_names_can_be_typed_as_it_is(tmp_path, kind):
    """A setting may change until a finished file depends on it; the result is that of a fresh folder."""
    key, draw = "body" if kind == "another column" else "text", random.Random(0)
    for k in range(20):
        row = {key: sentence(draw, 30)} | ({"id": f"own {k}"} if kind == "ids that name no file" else {})
        (tmp_path / f"{k}.jsonl").write_text(json.dumps(row) + "\n")
    wrong = {
        "vocabulary too large": {"vocab_size": 50_000},
        "several": {"vocab_size": 50_000, "dedup_threshold": 0.9},
        "no validation": {"val_fraction": 1e-9},
        "nothing long enough": {"min_chars": 10_000},
        "no training by position": REMEDIES[kind] | {"val_fraction": 0.999999},
        "ids that name no file": {"split_by": "file", "vocab_size": 260},
    }
    refusal(tmp_path / "*.jsonl", tmp_path / "data", **wrong.get(kind, {}))
    again = prepare(tmp_path / "*.jsonl", tmp_path / "data", **REMEDIES[kind])
    assert tree(again) == tree(prepare(tmp_path / "*.jsonl", tmp_path / "fresh", **REMEDIES[kind]))


FIXED = {  # the stage that is interrupted: a setting that its predecessors fixed, one that may still change
    "find_duplicates_once": ("min_chars", "dedup_threshold"),
    "make_tokenizer": ("dedup_threshold", "vocab_size"),
    "encode_part": ("val_fraction", "shard_tokens"),
    "summary": ("shard_tokens", None),
}


@pytest.mark.parametrize("stage", FIXED)
def test_a_setting_is_fixed_by_the_first_file_that_depends_on_it(corpus, tmp_path, monkeypatch, stage):
    fixed, free = FIXED[stage]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_wiki, stage, lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare(corpus[0], tmp_path / "data")
    before = tree(tmp_path / "data")
    assert f"{fixed}=" in refusal(corpus[0], tmp_path / "data", **{fixed: OTHER[fixed]})
    assert tree(tmp_path / "data") == before
    if free:
        again = prepare(corpus[0], tmp_path / "data", **{free: OTHER[free]})
        assert tree(again) == tree(prepare(corpus[0], tmp_path / "fresh", **{free: OTHER[free]}))
        assert read_meta(again)["provenance"]["settings"][free] == OTHER[free]


@pytest.mark.parametrize("change", ["edited", "touched", "added", "removed"])
def test_a_changed_source_is_refused_with_the_file_and_the_ways_out(corpus, tmp_path, change):
    shutil.copytree(Path(corpus[0]).parent, tmp_path / "texts")
    out = prepare(tmp_path / "texts/*.jsonl", tmp_path / "data")
    before = tree(out)
    path = tmp_path / ("texts/9.jsonl" if change == "added" else "texts/1.jsonl")
    if change == "removed":
        path.unlink()
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        path.write_text('{"text": "another text"}\n')
    message = refusal(tmp_path / "texts/*.jsonl", out)
    assert path.name in message and "another --data_dir" in message and f"delete {out}" in message
    assert tree(out) == before


def test_a_folder_with_other_files_is_refused(corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    assert "holds other files" in refusal(corpus[0], tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


@pytest.mark.parametrize("name", [None, "README.md", "manifest.json.tmp", "lock"])
def test_a_folder_that_is_empty_or_has_a_readme_or_was_just_begun_is_taken(corpus, tmp_path, name):
    (tmp_path / "data").mkdir()
    if name:
        (tmp_path / "data" / name).write_text("what this is")
    prepare(corpus[0], tmp_path / "data")
    assert read_meta(tmp_path / "data")["vocab_size"] == 300
    assert name != "README.md" or (tmp_path / "data/README.md").read_text() == "what this is"


def test_a_data_dir_that_is_a_file_is_refused(corpus, tmp_path):
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refusal(corpus[0], tmp_path / "file")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"val_fraction": 0}, "val_fraction (0) must lie between 0 and 1"),
        ({"val_fraction": 1.0}, "val_fraction (1.0) must lie between 0 and 1"),
        ({"dedup_threshold": 0}, "dedup_threshold (0) must be above 0"),
        ({"dedup_threshold": 1.1}, "dedup_threshold (1.1) must be above 0"),
        ({"shard_tokens": 0}, "shard_tokens (0) must be at least 1"),
        ({"num_workers": 0}, "num_workers (0) must be at least 1"),
        ({"vocab_size": 258}, "vocab_size (258) must be at least 259"),
        ({"tokenizer": "/none/tokenizer.json"}, "/none/tokenizer.json: no such tokenizer file"),
        (
            {"tokenizer": "gpt3"},
            "gpt3: no such tokenizer file, and not one of bpe, char, gpt2, cl100k_base, o200k_base",
        ),
        ({"dedup_threshold": 0.2}, "0.2) is too low: only 0.8 % of the pairs with this similarity are found"),
        ({"dedup_threshold": 70}, "at most 1; 0.7 is usual; 70 % is 0.7"),
        ({"min_chars": -1}, "min_chars (-1) must be at least 0"),
        ({"max_list_chars": 80}, "max_list_chars (80) is a share and must lie between 0 and 1; 80 % is 0.8"),
        ({"max_list_chars": -0.1}, "max_list_chars (-0.1) is a share"),
        ({"max_list_chars": float("nan")}, "max_list_chars (nan) is a share"),
        ({"max_repeated_lines": 1.1}, "max_repeated_lines (1.1) is a share"),
        ({"max_repeated_ngrams": 0}, "max_repeated_ngrams (0) must lie between 0 and 10"),
        ({"max_repeated_ngrams": 80}, "max_repeated_ngrams (80) must lie between 0 and 10"),
        ({"min_script": 50}, "min_script (50) is a share and must lie between 0 and 1; 50 % is 0.5"),
        ({"min_script": 0, "script": "LATIN"}, "min_script (0) keeps every script"),
        ({"script": "Cyrilic"}, "'CYRILIC' is no first word of letters' names in Unicode; did you mean CYRILLIC?"),
        ({"script": "CJK,Kanji"}, "script: 'KANJI' is no first word of letters' names in Unicode; did you mean CJK?"),
        ({"script": "CJK,"}, "script: '' is no first word"),
        ({"script": ""}, "script: '' is no first word"),
        ({"script": "CJK", "english": True}, "english=True drops all that is not English"),
        ({"source": ""}, "give --source=... and --data_dir=..."),
        ({"data_dir": ""}, "give --source=... and --data_dir=..."),
        ({"data_dir": __file__}, f"data_dir ({__file__}) is a file; give a folder"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(corpus, tmp_path, settings, words):
    with pytest.raises(ValueError) as error:
        main(PrepareConfig(**({"source": corpus[0], "data_dir": str(tmp_path / "data")} | SETTINGS | settings)))
    assert words in str(error.value)
    assert os.listdir(tmp_path) == []


def test_names_of_scripts_may_have_spaces_and_any_case(tmp_path):
    path = tmp_path / "in.jsonl"
    texts = ["これはひらがなの文です", "漢字文字列", "an English text"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = {"min_chars": 1, "until": "documents", "script": "CJK, hiragana"}
    assert sorted(stored(prepare(path, tmp_path / "data", **settings)).values()) == sorted(texts[:2])


def test_a_low_threshold_says_how_many_pairs_are_found(corpus, tmp_path, capsys):
    for threshold, note in ((0.5, "55 % of the pairs whose similarity is just 0.5 are found"), (0.7, None)):
        prepare(corpus[0], tmp_path / str(threshold), dedup_threshold=threshold, until="documents")
        shown = capsys.readouterr().out
        assert note in shown if note else "note:" not in shown


# --- a source that changes while it is read ---


def change(path: Path, how: str) -> str:
    """Change a file; returns what is said of it."""
    size = path.stat().st_size
    if how == "deleted":
        path.unlink()
        return f"{path} was deleted"
    if how == "grown":
        with open(path, "a") as file:
            file.write('{"text": "one more"}\n')
        return f"{path} grew from {size:,} to {size + 21:,} bytes"
    if how == "cut":
        path.write_text('{"text": "cut')
    else:
        path.write_text(path.read_text())  # the same bytes, at another time
        os.utime(path, ns=(1, 1))
    return f"{path} was overwritten"


@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize("how", ["deleted", "grown", "cut", "overwritten"])
def test_a_source_that_changes_while_it_is_read_is_refused_and_no_part_is_kept(tmp_path, monkeypatch, how, when):
    """The second file changes before the first, second or third is read."""
    make_corpus(tmp_path / "texts")
    out, calls, real = tmp_path / "data", [], prepare_wiki.make_documents_part
    said = []

    def make_part(*args):
        calls.append(args)
        if len(calls) == when:
            said.append(change(tmp_path / "texts/1.jsonl", how))
        return real(*args)

    monkeypatch.setattr(prepare_wiki, "make_documents_part", make_part)
    message = refusal(tmp_path / "texts/*.jsonl", out)
    assert message.startswith(said[0]) and "run the same command again when the source is complete" in message
    assert os.listdir(out) == ["manifest.json"]

    if how == "cut":
        (tmp_path / "texts/1.jsonl").write_text('{"text": "a whole line at last"}\n')
    prepare(tmp_path / "texts/*.jsonl", out)  # the same command goes on, with what is there now
    assert tree(out).keys() >= {"meta.json", "documents.json"}


def test_a_source_that_changes_after_it_was_read_is_not_looked_at(tmp_path, monkeypatch):
    make_corpus(tmp_path / "texts")
    real = prepare_wiki.find_duplicates_once
    monkeypatch.setattr(
        prepare_wiki, "find_duplicates_once", calls_once(real, lambda: change(tmp_path / "texts/1.jsonl", "grown"))
    )
    assert (prepare(tmp_path / "texts/*.jsonl", tmp_path / "data") / "meta.json").is_file()


def bad_source(folder: Path, kind: str) -> tuple[str, dict]:
    """A source that cannot be prepared, and the settings to try."""
    text = sentence(random.Random(0), 40)
    if kind == "no file":
        return "none.jsonl", {}
    if kind == "empty file":
        (folder / "in.jsonl").write_text("")
    elif kind == "binary as text":
        (folder / "in.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\xff")
    elif kind == "binary as jsonl":
        (folder / "in.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\xff")
    elif kind == "no text column":
        pq.write_table(pa.table({"body": [text]}), folder / "in.parquet")
    elif kind == "damaged line":
        (folder / "in.jsonl").write_text(json.dumps({"text": text}) + '\n{"text": "cut\n')
    elif kind == "truncated gzip":
        (folder / "in.txt.gz").write_bytes(gzip.compress(text.encode())[:-9])
    elif kind == "equal ids":
        (folder / "in.jsonl").write_text((json.dumps({"text": text, "id": "same"}) + "\n") * 2)
    elif kind == "unknown format":
        (folder / "in.docx").write_text(text)
    else:
        rows = [{"text": sentence(random.Random(k), 40)} for k in range(20)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "vocabulary too large": {"vocab_size": 50_000},
        "nothing long enough": {"min_chars": 10_000},
        "no validation": {"val_fraction": 1e-9, "vocab_size": 260},
        "no training": {"val_fraction": 1 - 1e-9, "vocab_size": 260},
        "no training by position": {"val_fraction": 0.999999, "tokenizer": "char", "split_by": "position"},
    }
    return "in.*", settings.get(kind, {})


BAD = {
    "no file": "none.jsonl: no such file",
    "empty file": "no document left of 0",
    "binary as text": "in.txt: not UTF-8 text",
    "binary as jsonl": "in.jsonl: not UTF-8 text",
    "no text column": "in.parquet: no column 'text' (columns: body)",
    "damaged line": "in.jsonl: line 2 ",
    "truncated gzip": "in.txt.gz: damaged",
    "equal ids": "two documents have the id 'same'",
    "unknown format": "in.docx: unknown format",
    "vocabulary too large": "vocab_size (50000) is too large for this corpus: only ",
    "nothing long enough": "no document left of 20 (20 too_short)",
    "no validation": "all 20 documents fell into the train split and none into val; raise --val_fraction",
    "no training": "all 20 documents fell into the val split and none into train; lower --val_fraction",
    "no training by position": "val_fraction (0.999999)",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_input_is_one_line_and_no_complete_folder(tmp_path, kind):
    (tmp_path / "in").mkdir()
    pattern, settings = bad_source(tmp_path / "in", kind)
    assert BAD[kind] in refusal(tmp_path / "in" / pattern, tmp_path / "data", **settings)


@pytest.mark.parametrize("part_bytes", [1 << 16, PART_BYTES])  # as blocks, and as a whole
@pytest.mark.parametrize("cut, rows", [(0, 20_000), (200, 19_900), (40_000, 15_000)])
def test_of_a_gzip_file_every_row_before_the_damage_is_kept(tmp_path, monkeypatch, part_bytes, cut, rows):
    """Members with zero bytes behind them are a whole file. References: the lines that zlib gives."""
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    draw = random.Random(0)
    lines = [json.dumps({"text": f"row {i} {draw.randbytes(4).hex()} "}) + "\n" for i in range(20_000)]
    members = [gzip.compress("".join(lines[:10]).encode()), gzip.compress("".join(lines[10:]).encode())]
    data = b"".join(members)
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(data[:-cut] if cut else data + bytes(1000))
    unpacked = zlib.decompressobj(31).decompress(members[0])
    unpacked += zlib.decompressobj(31).decompress(members[1][: len(members[1]) - cut])
    assert unpacked.count(b"\n") >= rows

    settings = {"until": "documents", "min_chars": 1}
    if cut:
        message = refusal(path, tmp_path / "data", **settings)
        assert "in.jsonl.gz: damaged " in message and "--allow_truncated=True keeps what comes" in message
    out = prepare(path, tmp_path / "data", allow_truncated=cut > 0, **settings)
    counts = json.loads((out / "documents.json").read_text())["documents"]
    assert counts["kept"] == unpacked.count(b"\n") and counts.get("damaged", 0) == (cut > 0)


def command_line(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "prepare_wiki.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)


@pytest.mark.parametrize("kind", ["vocabulary too large"])
def test_a_bad_input_on_the_command_line_is_one_line_and_exit_code_1(tmp_path, kind):
    (tmp_path / "in").mkdir()
    pattern, settings = bad_source(tmp_path / "in", kind)
    flags = [f"--{key}={value}" for key, value in (SETTINGS | settings).items()]
    failed = command_line(f"--source={tmp_path}/in/{pattern}", f"--data_dir={tmp_path}/data", *flags)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1 and BAD[kind] in failed.stderr
    assert not (tmp_path / "data/meta.json").exists()


def test_verify_compares_the_shards_with_their_checksums(finished):
    """Without any other setting: not even the source has to be there."""
    good = command_line("--verify", f"--data_dir={finished}")
    assert good.returncode == 0 and good.stdout.splitlines()[-1] == f"{finished}: every shard is as meta.json says"
    with open(finished / "train_00000.bin", "r+b") as file:
        file.write(b"\1\1")
    bad = command_line("--verify", f"--data_dir={finished}")
    assert bad.returncode == 1 and bad.stderr.count("\n") == 1 and bad.stderr.startswith("error: ")
    assert "train_00000.bin is altered" in bad.stderr
    with pytest.raises(ValueError, match="give --data_dir="):
        main(PrepareConfig(verify=True))


def test_verify_says_that_a_bare_folder_has_no_checksums(tmp_path, capsys):
    for split in SPLITS:
        (tmp_path / f"{split}.bin").write_bytes(bytes(20))
    main(PrepareConfig(verify=True, data_dir=str(tmp_path)))
    assert capsys.readouterr().out.endswith("no checksums to verify\n")


def test_yardsticks_are_written_before_the_folder_is_complete_unless_they_are_switched_off(corpus, tmp_path, capsys):
    out = prepare(corpus[0], tmp_path / "with", yardsticks=True)
    found = json.loads((out / "yardsticks.json").read_text())
    assert list(found) == ["xz -9", "bigram", "trigram"]
    assert f"trigram, bits per byte of validation {found['trigram']:.3f}" in " ".join(capsys.readouterr().out.split())
    assert (out / "yardsticks.json").stat().st_mtime_ns <= (out / "meta.json").stat().st_mtime_ns
    out = prepare(corpus[0], tmp_path / "without")
    assert not (out / "yardsticks.json").exists() and "bits per byte" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument",
    ["config/data_pydocs.py", "--source=a/*.jsonl", "--source=a b/[0-9]?.txt", "my config.py", "--source=it's/*.txt"]
    + ["--source=$HOME/x", "--source=a;b&c(d)", "--min_chars=3", "--data_dir=data/~x"],
)
def test_the_command_that_completes_a_folder_can_be_pasted_into_a_shell(corpus, tmp_path, monkeypatch, argument):
    monkeypatch.setattr(sys, "argv", ["prepare_wiki.py", argument])
    monkeypatch.setattr(prepare_wiki, "make_documents", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus[0], tmp_path / "data")
    with pytest.raises(ValueError) as error:
        read_meta(tmp_path / "data")
    command = str(error.value).split("complete it with: ")[1]
    printed = subprocess.run(
        ["sh", "-c", command.replace("python ", "printf '%s\\n' ", 1)], capture_output=True, text=True, cwd=tmp_path
    )
    assert printed.stdout.splitlines() == ["prepare_wiki.py", argument] == shlex.split(command)[1:]


def test_split_by_file_chosen_after_the_documents_is_refused_too_when_ids_name_no_file(tmp_path):
    """Never a silent split by id: the documents were written while split_by was still 'id'."""
    draw = random.Random(0)
    rows = [json.dumps({"text": sentence(draw, 30), "id": f"own {k}"}) for k in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    refusal(tmp_path / "in.jsonl", tmp_path / "data", vocab_size=50_000)
    assert "needs ids that name a file" in refusal(tmp_path / "in.jsonl", tmp_path / "data", split_by="file")
