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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

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
from benchmarks.bench_figures import spread
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
    vocab_size: int = 4096
    max_iters: int = 400  # steps of 1,536 tokens
    seeds: int = 3
    num_workers: int = 2  # runs at the same time, one thread each
    draw: str = ""  # results to draw instead: folders, separated by commas

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        for key in ("max_iters", "seeds", "num_workers"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")
        if not 0 < self.held_out < 1 or self.plant < 0:
            raise ValueError(f"held_out ({self.held_out}) must lie between 0 and 1, plant ({self.plant}) not below 0")


# --- the documents of each rung ---


def pages(piece: Piece) -> Iterator[Document]:
    """The articles of a part of a dump as they are, with their markup."""
    data, limit, _ = dump.read_streams(piece.path, *piece.span) if piece.span else (piece.block, len(piece.block), "")
    return (page for page in dump.pages(data, limit, piece.site) if isinstance(page, Document))


def read_all(cfg: LadderConfig) -> Iterator[tuple[Document, str]]:
    """Each document of the source, and its text without markup."""
    for part in cut_parts(find_pieces(cfg.source)[0]):
        if part[0].kind == "xml":
            yield from ((page, plain_text(page.text, part[0].site.hidden)) for page in pages(part[0]))
        else:
            yield from ((document, document.text) for document in read_part(part))


def near_copy(draw: random.Random, text: str) -> str:
    """`text` with one word in PLANTED_WORDS replaced by another of its words."""
    words = text.split(" ")
    for i in range(draw.randrange(PLANTED_WORDS), len(words), PLANTED_WORDS):
        words[i] = draw.choice(words)
    return " ".join(words)


def rungs(cfg: LadderConfig, work: Path) -> tuple[dict[str, list[str]], list[str], dict[str, Any]]:
    """(training texts of each rung, validation texts, counts); the same in every call."""
    draw, limits = random.Random(0), PrepareConfig(min_chars=cfg.min_chars)
    found = []  # (held out, raw document, its text without markup)
    for document, text in read_all(cfg):
        key = document.title if cfg.split_by == "title" else source_file(document.id)
        found.append((fraction(f"ladder {key}") < cfg.held_out, document, text))
    training = [row for row in found if not row[0]]
    for i in range(round(cfg.plant * len(training))):
        _, document, text = draw.choice(training)
        seed, near = draw.random(), i % 2
        raw, plain = (near_copy(random.Random(seed), t) if near else t for t in (document.text, text))
        found.append((False, replace(document, id=f"{document.id}+{i}", text=raw), plain))
    kept, held, raw = {}, set(), []
    writer = DocumentWriter(work / "documents.parquet")
    for is_held, document, text in found:
        raw += [] if is_held else [document.text]
        text = normalise(text)
        if reason_to_drop(document.title, text, limits) is None:
            writer.add(replace(document, text=text))
            kept[document.id] = text
            held |= {document.id} if is_held else set()
    writer.close({})
    report = find_duplicates([work / "documents.parquet"], work / "dedup", cfg.threshold, cfg.num_workers)
    rows = pq.read_table(work / "dedup/duplicates.parquet").to_pylist()
    gone = {row["id"] for row in rows}
    like_another = gone | {row["kept_id"] for row in rows}
    training = {i: text for i, text in kept.items() if i not in held}
    texts = {"raw": raw, "cleaned": list(training.values())}
    # not by `kind`: what equals a near-duplicate is named one as well
    texts["exact"] = list({" ".join(text.split()): text for text in training.values()}.values())
    texts["MinHash"] = [text for i, text in training.items() if i not in gone]
    counts = {key: report[key] for key in ("documents", "exact", "near", "bytes_by_kind")}
    return texts, [kept[i] for i in sorted(held - like_another)], counts


def write_tokens(folder: Path, tokenizer: Tokenizer, texts: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """A data folder of train.py: splits `train` and `val` of these texts."""
    dtype, splits = token_dtype(tokenizer.vocab_size), {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    for split, of_split in texts.items():
        end, file = np.array([tokenizer.end_of_text], dtype), folder / f"{split}_00000.bin"
        ids = np.concatenate([part for text in of_split for part in (tokenizer.encode_array(text).astype(dtype), end)])
        ids.tofile(file)
        totals = {"documents": len(of_split), "bytes": sum(len(text.encode()) for text in of_split)}
        splits[split] = [{"file": file.name, "tokens": ids.size, **totals}]
    meta = {"format_version": FORMAT_VERSION, "dtype": dtype.str, "vocab_size": tokenizer.vocab_size, "splits": splits}
    atomic.write_json(folder / "meta.json", meta)
    return splits


def prepare(cfg: LadderConfig, out: Path) -> dict[str, Any]:
    """Make the data folder of each rung; returns what they hold. What is there with these settings stays."""
    settings = {key: getattr(cfg, key) for key in DATA_SETTINGS}
    note = out / "data.json"
    if note.is_file():
        found = json.loads(note.read_text(encoding="utf-8"))
        if found["settings"] != settings:
            raise ValueError(f"{out} was made with {found['settings']}; give another --out, or delete it")
        return found
    (out / "work").mkdir(parents=True, exist_ok=True)
    texts, val, counts = rungs(cfg, out / "work")
    tokenizer = Tokenizer(train_bpe(texts["MinHash"], cfg.vocab_size))
    splits = {rung: write_tokens(out / "data" / rung, tokenizer, {"train": texts[rung], "val": val}) for rung in RUNGS}
    found = {"settings": settings, "duplicates": counts}
    found["rungs"] = {rung: parts["train"][0] for rung, parts in splits.items()}
    found["val"] = splits["raw"]["val"][0]
    atomic.write_json(note, found)
    return found


DATA_SETTINGS = ("source", "split_by", "held_out", "min_chars", "plant", "threshold", "vocab_size")


# --- training ---


def train(out: Path, rung: str, seed: int, max_iters: int) -> float:
    """Validation loss in bits per byte after max_iters steps on a rung; trained if it is not there yet."""
    run = out / "runs" / f"{rung}_{seed}_{max_iters}"
    log, steps = run / "metrics.jsonl", []
    command = [sys.executable, str(Path(__file__).parents[1] / "train.py"), "config/demo.py", f"--out_dir={run}"]
    command += [
        f"--data={out}/data/{rung}",
        f"--seed={seed}",
        f"--max_iters={max_iters}",
        f"--eval_interval={max_iters}",
    ]
    command += ["--num_threads=1", "--keep_checkpoints=1", "--checkpoint_interval=100"]
    for attempt in range(2):
        rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        steps = [row["val_bits_per_byte"] for row in rows if row["step"] == max_iters and "val_bits_per_byte" in row]
        if steps or attempt:
            break
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{' '.join(command)}: {done.stderr[-300:]}")
    return steps[-1]


def climb(cfg: LadderConfig) -> dict[str, Any]:
    """Prepare, train every rung with every seed, write results.json."""
    out = Path(cfg.out)
    data = prepare(cfg, out)
    jobs = [(rung, seed) for seed in range(cfg.seeds) for rung in RUNGS]
    losses: dict[str, list[float]] = {rung: [0.0] * cfg.seeds for rung in RUNGS}
    with concurrent.futures.ThreadPoolExecutor(cfg.num_workers) as pool:
        futures = {pool.submit(train, out, *job, cfg.max_iters): job for job in jobs}
        try:
            for future in tqdm(concurrent.futures.as_completed(futures), "runs", len(jobs), disable=None):
                rung, seed = futures[future]
                losses[rung][seed] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            raise
    tokens = cfg.max_iters * BATCH_TOKENS
    results = data | {"tokens": tokens, "seeds": cfg.seeds, "bits_per_byte": losses}
    atomic.write_json(out / "results.json", results)
    return results


# --- what came out ---


def table(results: dict[str, Any]) -> str:
    """Markdown: what each rung holds, the loss over the seeds, the difference to raw within each seed."""
    lines = ["| rung | documents | MB | epochs | bits per byte | less than raw |", "|---|--:|--:|--:|---|---|"]
    raw = results["bits_per_byte"]["raw"]
    for rung in RUNGS:
        held, losses = results["rungs"][rung], results["bits_per_byte"][rung]
        less = spread(100 * (1 - loss / base) for loss, base in zip(losses, raw, strict=True))
        change = f"{mean(100 * (1 - a / b) for a, b in zip(losses, raw, strict=True)):.2f} %"
        change += f" ({less['min']:.2f} to {less['max']:.2f})"
        lines.append(
            f"| {rung} | {held['documents']:,} | {held['bytes'] / 1e6:.1f} | {results['tokens'] / held['tokens']:.2f} "
            f"| {mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f}) | {'' if rung == 'raw' else change} |"
        )
    return "\n".join(lines)


def plot(folders: list[Path], path: Path) -> None:
    """Draw the losses of all seeds on each rung, a panel for each folder's results."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(folders), 4), dpi=100, layout="constrained")
    for axes, folder in zip(figure.subplots(1, len(folders), squeeze=False)[0], folders, strict=True):
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        losses = results["bits_per_byte"]
        for seed in range(results["seeds"]):
            axes.plot(RUNGS, [losses[rung][seed] for rung in RUNGS], "o-", lw=0.8, alpha=0.5, label=f"seed {seed}")
        axes.plot(RUNGS, [mean(losses[rung]) for rung in RUNGS], "k_-", ms=18, mew=2, label="mean")
        axes.set(
            ylabel="bits per byte, validation", title=f"{folder.name}: {results['tokens'] / 1e6:.2f} M tokens each"
        )
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
    held = results["val"]
    print(f"validation: {held['documents']:,} documents, {held['bytes']:,} bytes; {results['tokens']:,} tokens a run")
    print(table(results))
    plot([Path(cfg.out)], Path(cfg.out, "ladder.png"))
    print(f"wrote {cfg.out}/results.json and ladder.png")


if __name__ == "__main__":
    configurator.run(main, LadderConfig)
