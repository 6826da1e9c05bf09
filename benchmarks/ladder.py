"""Does it help? The ladder raw -> cleaned -> exact -> MinHash: a small model on each, equal tokens, one validation set.

    python benchmarks/ladder.py                                                          the demo corpus
    python benchmarks/ladder.py --source=enwiki-2014.xml.bz2 --split_by=title --plant=1  a dump with planted duplicates
    python benchmarks/ladder.py --draw=out/ladder/pydocs,out/ladder/wiki --out=docs/ladder.png

raw is what the source holds (of a dump: wikitext), cleaned what prepare_wiki.py makes of it, exact and MinHash what
dedup.py leaves of that. A source file (or title) that a hash holds out is in none of them; the validation set is those
of its cleaned documents that have no duplicate anywhere. All rungs share one tokenizer, trained on the last. A
run that is there is not made again: the same command continues, more --seeds are added.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import concurrent.futures
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

import atomic
from corpus import dump
from corpus.clean import normalise, reason_to_drop
from corpus.documents import Document, DocumentWriter
from corpus.sources import Piece, cut_parts, find_pieces, read_part
from corpus.wikitext import plain_text
from dedup import find_duplicates
from prepare_wiki import PrepareConfig, fraction, source_file
from shards import FORMAT_VERSION, token_dtype
from tokenizer import Tokenizer, train_bpe

RUNGS = ("raw", "cleaned", "exact", "MinHash")
PLANTED_WORDS = 60  # of a near copy, one in so many is another: an exact Jaccard similarity of about 0.85
BATCH_TOKENS = 12 * 128  # config/demo.py
NOTE = "data.json"  # in a folder: what its data is made of
# Of these the data folders are made: with others, another folder is asked for.
DATA_SETTINGS = ("source", "split_by", "held_out", "min_chars", "plant", "threshold", "vocab_size")


@dataclass(frozen=True)
class LadderConfig:
    """Settings of `python benchmarks/ladder.py`."""

    source: str = "pydocs"  # as prepare_wiki.py takes it
    out: str = "out/ladder/pydocs"  # folder for data, runs and results.json; with --draw the picture
    split_by: Literal["file", "title"] = "file"  # what is held out as one: the file in an id, or a title
    held_out: float = 0.02  # share of the files or titles
    min_chars: int = 200  # of a cleaned document
    plant: float = 0.0  # copies planted for each document on average, every second with a word in 60 changed
    threshold: float = 0.7  # of near-duplicates
    vocab_size: int = 4096  # of the tokenizer that all rungs share
    max_iters: int = 400  # steps of 1,536 tokens
    seeds: int = 3  # runs of each rung
    num_workers: int = 2  # runs at the same time, one thread each
    draw: str = ""  # results to draw instead: folders, separated by commas

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        for key in ("max_iters", "seeds", "num_workers"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out ({self.held_out}) must lie between 0 and 1")
        if self.plant < 0:
            raise ValueError(f"plant ({self.plant}) must not be below 0")


# --- the documents of each rung ---


@dataclass
class SourceDocument:
    """A document of the source, or a planted copy of one."""

    raw: Document  # as the source holds it
    plain: str  # its text without markup
    is_held_out: bool


@dataclass
class Rungs:
    """The texts of the ladder, from make_rungs; the same in every call."""

    texts: dict[str, list[str]]  # training texts of each rung
    val: list[str]
    duplicates: dict[str, Any]  # counts of dedup.py's report


def pages(piece: Piece) -> Iterator[Document]:
    """The articles of a part of a dump as they are, with their markup."""
    if piece.span:
        data, limit, _ = dump.read_streams(piece.path, *piece.span)
    else:
        data, limit = piece.block, len(piece.block)
    return (page for page in dump.pages(data, limit, piece.site) if isinstance(page, Document))


def read_all(cfg: LadderConfig) -> Iterator[tuple[Document, str]]:
    """Each document of the source, and its text without markup."""
    pieces, _ = find_pieces(cfg.source)
    for part in cut_parts(pieces):
        if part[0].kind == "xml":
            hidden = part[0].site.hidden
            yield from ((page, plain_text(page.text, hidden)) for page in pages(part[0]))
        else:
            yield from ((document, document.text) for document in read_part(part))


def near_copy(draw: random.Random, text: str) -> str:
    """`text` with one word in PLANTED_WORDS replaced by another of its words."""
    words = text.split(" ")
    first = draw.randrange(PLANTED_WORDS)
    for i in range(first, len(words), PLANTED_WORDS):
        words[i] = draw.choice(words)
    return " ".join(words)


def read_source(cfg: LadderConfig) -> list[SourceDocument]:
    """All documents of the source; whether one is held out is a hash of its file or title."""
    documents = []
    for raw, plain in read_all(cfg):
        key = raw.title if cfg.split_by == "title" else source_file(raw.id)
        is_held_out = fraction(f"ladder {key}") < cfg.held_out
        documents.append(SourceDocument(raw, plain, is_held_out))
    return documents


def plant_copies(documents: list[SourceDocument], copies_per_document: float) -> list[SourceDocument]:
    """Copies of training documents at random: exact and near ones in turn."""
    draw = random.Random(0)
    training = [document for document in documents if not document.is_held_out]
    copies = []
    for i in range(round(copies_per_document * len(training))):
        original = draw.choice(training)
        raw_text, plain = original.raw.text, original.plain
        seed = draw.random()
        is_near = i % 2 == 1
        if is_near:
            raw_text = near_copy(random.Random(seed), raw_text)
            plain = near_copy(random.Random(seed), plain)
        raw = replace(original.raw, id=f"{original.raw.id}+{i}", text=raw_text)
        copies.append(SourceDocument(raw, plain, is_held_out=False))
    return copies


def make_rungs(cfg: LadderConfig, work: Path) -> Rungs:
    """Read the source, plant copies, clean, find duplicates; `work` is a folder for the files of that."""
    documents = read_source(cfg)
    documents += plant_copies(documents, cfg.plant)

    # Cleaned: id -> text of what passes the filter, held out or not.
    limits = PrepareConfig(min_chars=cfg.min_chars)
    cleaned: dict[str, str] = {}
    held_out: set[str] = set()
    writer = DocumentWriter(work / "documents.parquet")
    for document in documents:
        raw = document.raw
        text = normalise(document.plain)
        if reason_to_drop(raw.title, text, limits) is None:
            writer.add(replace(raw, text=text))
            cleaned[raw.id] = text
            if document.is_held_out:
                held_out.add(raw.id)
    writer.close({})

    report = find_duplicates([work / "documents.parquet"], work / "dedup", cfg.threshold, cfg.num_workers)
    rows = pq.read_table(work / "dedup/duplicates.parquet").to_pylist()
    removed = {row["id"] for row in rows}
    like_another = removed | {row["kept_id"] for row in rows}

    training = {i: text for i, text in cleaned.items() if i not in held_out}
    # Not by the kind of a removed document: what equals a near-duplicate is named one as well.
    distinct = {" ".join(text.split()): text for text in training.values()}
    texts = {
        "raw": [document.raw.text for document in documents if not document.is_held_out],
        "cleaned": list(training.values()),
        "exact": list(distinct.values()),
        "MinHash": [text for i, text in training.items() if i not in removed],
    }
    val = [cleaned[i] for i in sorted(held_out - like_another)]
    return Rungs(texts, val, {key: report[key] for key in ("documents", "exact", "near", "bytes_by_kind")})


def write_tokens(folder: Path, tokenizer: Tokenizer, texts: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """Write a data folder of train.py; returns what it holds. texts: those of the splits `train` and `val`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")

    dtype = token_dtype(tokenizer.vocab_size)
    end = np.array([tokenizer.end_of_text], dtype)
    splits: dict[str, list[dict[str, Any]]] = {}
    for split, of_split in texts.items():
        parts = []
        for text in of_split:
            parts.append(tokenizer.encode_array(text).astype(dtype))
            parts.append(end)
        ids = np.concatenate(parts)
        file = folder / f"{split}_00000.bin"
        ids.tofile(file)

        entry = {
            "file": file.name,
            "tokens": ids.size,
            "documents": len(of_split),
            "bytes": sum(len(text.encode()) for text in of_split),
        }
        splits[split] = [entry]

    meta = {
        "format_version": FORMAT_VERSION,
        "dtype": dtype.str,
        "vocab_size": tokenizer.vocab_size,
        "splits": splits,
    }
    atomic.write_json(folder / "meta.json", meta)
    return splits


def prepare(cfg: LadderConfig, out: Path) -> dict[str, Any]:
    """Make the data folder of each rung; returns what they hold. What is there with these settings stays."""
    settings = {key: getattr(cfg, key) for key in DATA_SETTINGS}
    made = made_before(out, settings)
    if made is not None:
        return made

    (out / "work").mkdir(parents=True, exist_ok=True)
    rungs = make_rungs(cfg, out / "work")
    tokenizer = Tokenizer(train_bpe(rungs.texts["MinHash"], cfg.vocab_size))

    of_rungs = {}
    for rung in RUNGS:
        splits = write_tokens(out / "data" / rung, tokenizer, {"train": rungs.texts[rung], "val": rungs.val})
        of_rungs[rung] = splits["train"][0]
    data = {
        "settings": settings,
        "duplicates": rungs.duplicates,
        "rungs": of_rungs,
        "val": splits["val"][0],  # the same in all
    }
    atomic.write_json(out / NOTE, data)
    return data


def made_before(out: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run has noted about the data in a folder. Raises ValueError if its settings were others."""
    note = out / NOTE
    if not note.is_file():
        return None
    data = json.loads(note.read_text(encoding="utf-8"))
    if data["settings"] != settings:
        raise ValueError(f"{out} was made with {data['settings']}; give another --out, or delete it")
    return data


# --- training ---


def read_loss(run: Path, step: int) -> float | None:
    """The validation loss of a run after `step` steps, in bits per byte; None if it is not that far."""
    log = run / "metrics.jsonl"
    if not log.is_file():
        return None
    losses = []
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # cut off by a kill
        row = json.loads(line)
        if row["step"] == step and "val_bits_per_byte" in row:
            losses.append(row["val_bits_per_byte"])
    return losses[-1] if losses else None


def train(out: Path, rung: str, seed: int, max_iters: int) -> float:
    """Validation loss in bits per byte after max_iters steps on a rung; trained if it is not there yet."""
    run = out / "runs" / f"{rung}_{seed}_{max_iters}"
    loss = read_loss(run, max_iters)
    if loss is not None:
        return loss

    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "config/demo.py",
        f"--out_dir={run}",
        f"--data={out}/data/{rung}",
        f"--seed={seed}",
        f"--max_iters={max_iters}",
        f"--eval_interval={max_iters}",
        "--num_threads=1",
        "--keep_checkpoints=1",
        "--checkpoint_interval=100",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    loss = read_loss(run, max_iters)
    if done.returncode or loss is None:
        raise ValueError(f"{' '.join(command)}: {done.stderr[-300:]}")
    return loss


def climb(cfg: LadderConfig) -> dict[str, Any]:
    """Prepare, train every rung with every seed, write results.json."""
    out = Path(cfg.out).absolute()  # the runs are started from the root of the repository
    data = prepare(cfg, out)

    losses: dict[str, list[float]] = {rung: [0.0] * cfg.seeds for rung in RUNGS}
    jobs = [(rung, seed) for seed in range(cfg.seeds) for rung in RUNGS]
    with concurrent.futures.ThreadPoolExecutor(cfg.num_workers) as pool:
        futures = {pool.submit(train, out, rung, seed, cfg.max_iters): (rung, seed) for rung, seed in jobs}
        try:
            for future in tqdm(concurrent.futures.as_completed(futures), "runs", len(jobs), disable=None):
                rung, seed = futures[future]
                losses[rung][seed] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            raise

    results = data | {"tokens": cfg.max_iters * BATCH_TOKENS, "seeds": cfg.seeds, "bits_per_byte": losses}
    atomic.write_json(out / "results.json", results)
    return results


# --- what came out ---


def table(results: dict[str, Any]) -> str:
    """Markdown: what each rung holds, the loss over the seeds, the difference to raw within each seed."""
    lines = [
        "| rung | documents | MB | epochs | bits per byte | less than raw |",
        "|---|--:|--:|--:|---|---|",
    ]
    raw_losses = results["bits_per_byte"]["raw"]
    for rung in RUNGS:
        data = results["rungs"][rung]
        losses = results["bits_per_byte"][rung]
        percent_less = [100 * (1 - loss / raw) for loss, raw in zip(losses, raw_losses, strict=True)]
        cells = [
            rung,
            f"{data['documents']:,}",
            f"{data['bytes'] / 1e6:.1f}",
            f"{results['tokens'] / data['tokens']:.2f}",
            f"{mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})",
            "",
        ]
        if rung != "raw":
            cells[-1] = f"{mean(percent_less):.2f} % ({min(percent_less):.2f} to {max(percent_less):.2f})"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(folders: list[Path], path: Path) -> None:
    """Draw the losses of all seeds on each rung, a panel for each folder's results."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(folders), 4), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(folders), squeeze=False)[0]
    for axes, folder in zip(panels, folders, strict=True):
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        losses = results["bits_per_byte"]
        for seed in range(results["seeds"]):
            of_seed = [losses[rung][seed] for rung in RUNGS]
            axes.plot(RUNGS, of_seed, "o-", lw=0.8, alpha=0.5, label=f"seed {seed}")
        means = [mean(losses[rung]) for rung in RUNGS]
        axes.plot(RUNGS, means, "k_-", ms=18, mew=2, label="mean")

        millions = results["tokens"] / 1e6
        axes.set_title(f"{folder.name}: {millions:.2f} M tokens each")
        axes.set_ylabel("bits per byte, validation")
        axes.grid(alpha=0.3)
        axes.legend()

    with atomic.new_file(path) as temporary:
        figure.savefig(temporary, format="png")


def main(cfg: LadderConfig) -> None:
    """Climb, or draw."""
    cfg.check()
    if cfg.draw:
        folders = [Path(name) for name in cfg.draw.split(",")]
        plot(folders, Path(cfg.out))
        print(f"wrote {cfg.out}")
        return

    results = climb(cfg)
    val = results["val"]
    print(f"validation: {val['documents']:,} documents, {val['bytes']:,} bytes; {results['tokens']:,} tokens a run")
    print(table(results))
    plot([Path(cfg.out)], Path(cfg.out, "ladder.png"))
    print(f"wrote {cfg.out}/results.json and ladder.png")


if __name__ == "__main__":
    configurator.run(main, LadderConfig)
