"""From documents to token shards: read and clean, find duplicates, train a tokenizer, write shards.

    python prepare_wiki.py config/data_pydocs.py
    python prepare_wiki.py --source='texts/*.jsonl' --data_dir=data/mine

Every stage writes complete files or none; the same command continues an interrupted run and reuses what is finished.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import atomic
from corpus import yardsticks
from corpus.clean import FILTERS, normalise, reason_to_drop
from corpus.documents import DocumentWriter, read_counts, read_documents
from corpus.pool import map_parts, once, stage
from corpus.sources import Piece, Truncated, cut_parts, find_pieces, read_part
from dedup import KINDS, find_duplicates
from errors import read_json
from shards import FORMAT_VERSION, Shards, join_parts, read_meta, token_dtype, verify
from tokenizer import ENCODINGS, Tokenizer, from_tiktoken, train_bpe, train_characters

TOKENIZER_BYTES = 100_000_000  # the vocabulary is trained on about this much of the text, drawn by a hash of the id
EXAMPLES, EXAMPLE_CHARS = 20, 300  # of what each filter dropped, in the report
SKIPPED = ("other_namespace", "redirect", "damaged")
COUNTS = (*SKIPPED, "in", *FILTERS, "kept", "bytes")
PACKAGES = ("numpy", "pyarrow", "tokenizers", "tiktoken", "xxhash")  # whose versions are noted


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of `python prepare_wiki.py`."""

    source: str = ""  # wikimedia/wikipedia/20231101.en of the hub, a dump, or a pattern: 'path/*.jsonl'
    data_dir: str = ""  # folder to write, such as data/mine
    text_column: str = "text"  # field with the text in jsonl and parquet files
    id_column: str | None = "id"  # field with unique ids; where it is absent, ids are made from place and content
    allow_truncated: bool = False  # of a damaged or cut off file keep what comes before
    until: Literal["documents", "dedup", "shards"] = "shards"  # the stage after which to stop; a later call goes on
    clean: bool = True  # normalise Unicode and whitespace; False keeps every character
    # filters: a document is dropped for the first that applies; None: the filter is off
    min_chars: int = 1  # shorter documents are dropped
    drop_disambiguation: bool = False  # pages that list the meanings of their title
    max_list_chars: float | None = None  # largest share of the characters in lines that are items of lists
    max_repeated_lines: float | None = None  # of lines and paragraphs that stood there before (Gopher: 0.3)
    max_repeated_ngrams: float | None = None  # repeated n-grams, as a multiple of Gopher's limits (1.0)
    script: str | None = None  # that words begin in, as Unicode names it: LATIN, or 'CJK,HIRAGANA,KATAKANA'
    min_script: float = 0.5  # smallest share of the words that do
    english: bool = False  # two of eight stop words, words of 3 to 10 letters on average (Gopher)
    dedup_threshold: float = 0.7  # Jaccard similarity of 5-word shingles at which a document is a duplicate
    against: str | None = None  # files of evaluation texts, 'eval/*.jsonl': documents that contain one are dropped
    tokenizer: str = "bpe"  # 'bpe' (trained here), 'char', a tokenizer.json, its folder, gpt2 or another encoding
    vocab_size: int = 8192  # ids of a BPE trained here, end-of-text token included
    val_fraction: float = 0.01  # share of the documents held out for validation
    split_by: Literal["id", "file", "position"] = "id"  # hash of id or source file, or the last part of the text
    shard_tokens: int = 100_000_000  # tokens after which a new shard file begins
    yardsticks: bool = True  # measure xz and n-grams on the validation text, for train.py to show beside its loss
    num_workers: int | None = None  # processes; None: one for each CPU core
    verify: bool = False  # only compare the shards of data_dir with their checksums

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not self.source or not self.data_dir:
            advice = "give --source=... and --data_dir=..., or a file such as config/data_pydocs.py"
            raise ValueError(f"nothing to prepare: {advice}")
        workers, size = self.num_workers, self.vocab_size
        for key, fits, advice in (
            ("val_fraction", 0 < self.val_fraction < 1, "must lie between 0 and 1; 0.01 is usual"),
            ("dedup_threshold", 0 < self.dedup_threshold <= 1, "must be above 0 and at most 1; 0.7 is usual"),
            ("shard_tokens", self.shard_tokens >= 1, "must be at least 1"),
            ("num_workers", workers is None or workers >= 1, "must be at least 1"),
            ("vocab_size", self.tokenizer != "bpe" or size >= 257, "must be at least 257: 256 bytes and end-of-text"),
        ):
            if not fits:
                raise ValueError(f"{key} ({getattr(self, key)}) {advice}")
        if self.against is not None:
            find_pieces(self.against, None)
        if self.tokenizer not in ("bpe", "char") and not Path(self.data_dir, "tokenizer.json").is_file():
            given_tokenizer(self.tokenizer)


def main(cfg: PrepareConfig) -> None:
    """Run the stages that are not finished yet."""
    if cfg.verify:
        print(verify_shards(cfg.data_dir))
        return
    cfg.check()
    folder, workers = Path(cfg.data_dir), cfg.num_workers or os.cpu_count() or 1
    pieces, identity = find_pieces(cfg.source, cfg.text_column)
    claim(folder, cfg, identity)
    if (folder / "meta.json").is_file():
        print(summary(read_json(folder / "report.json"), yardsticks_of(folder)))
        print(f"{folder} is complete; delete it to make it again")
        shutil.rmtree(folder / "tokens", ignore_errors=True)  # left when killed right after meta.json
        return
    seconds: dict[str, float] = {}
    with stage("documents", seconds):
        documents, counts = make_documents(cfg, pieces, folder, workers)
    if cfg.until == "documents":
        print(f"{len(documents)} parts of documents are in {folder}/documents: {counts['documents']}")
        return
    with stage("duplicates", seconds):
        if not (folder / "dedup/report.json").is_file():
            find_duplicates(documents, folder / "dedup", cfg.dedup_threshold, workers, cfg.against)
        shutil.rmtree(folder / "dedup/work", ignore_errors=True)  # left when killed right after the report
        duplicates = json.loads((folder / "dedup/report.json").read_text(encoding="utf-8"))
    if cfg.until == "dedup":
        print(f"{duplicates['kept']} of {duplicates['documents']} documents stay, see {folder}/dedup/report.json")
        return
    split = Splitter(cfg.split_by, cfg.val_fraction, folder)
    with stage("tokenizer", seconds):
        make_tokenizer(cfg, documents, split, folder)
    with stage("tokens", seconds):
        meta = make_shards(cfg, documents, split, workers)
    with stage("yardsticks", seconds):
        if cfg.yardsticks:
            make_yardsticks(folder, meta)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    found = {key: duplicates.get(key) for key in ("documents", *KINDS, "kept", "settings")}
    meta["provenance"] = {"source": identity, "settings": settings(cfg), "dedup": found, "packages": versions}
    report = {"source": cfg.source, **counts, "duplicates": duplicates}
    report |= {"splits": meta["splits"], "vocab_size": meta["vocab_size"]}
    # meta.json last: its presence means complete
    for name, content in {"report": report, "times": seconds, "meta": meta}.items():
        atomic.write_json(folder / f"{name}.json", content)
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    print(summary(report, yardsticks_of(folder)))
    print(f"wrote {folder} in {sum(seconds.values()):.0f} s: {', '.join(f'{k} {v:.0f} s' for k, v in seconds.items())}")


def settings(cfg: PrepareConfig) -> dict[str, Any]:
    """The settings that decide what is written: all but where to, by how many processes, and how far."""
    free = ("data_dir", "num_workers", "until", "allow_truncated", "yardsticks", "verify")
    return {key: value for key, value in dataclasses.asdict(cfg).items() if key not in free}


# Which settings a finished file depends on: from then on they may not change. Documents depend on all the others.
FIXED_BY = {"dedup/report.json": ("dedup_threshold", "against"), "*.bin": ("shard_tokens",)}
FIXED_BY["tokenizer.json"] = ("tokenizer", "vocab_size", "val_fraction", "split_by")
FIXED_BY["documents/part_*.parquet"] = settings(PrepareConfig()).keys() - set().union(*FIXED_BY.values())


def claim(folder: Path, cfg: PrepareConfig, identity: dict) -> None:
    """Write folder/manifest.json. Refuse what contradicts a finished file: other settings, or a source that changed.

    A setting that no finished file depends on may change, so that the remedy an error names can be typed as it is.
    """
    path, manifest = folder / "manifest.json", {"settings": settings(cfg), "source": identity}
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        defaults = settings(PrepareConfig())  # of settings that are newer than the folder
        fixed = {key for pattern, keys in FIXED_BY.items() if any(folder.glob(pattern)) for key in keys}
        ways = f"give the earlier settings, or another --data_dir, or delete {folder} to make it again"
        for key, value in manifest["settings"].items():
            before = found["settings"].get(key, defaults[key])
            if key in fixed and before != value:
                raise ValueError(f"{folder} was begun with {key}={before!r}, not {value!r}; {ways}")
        if "source" in fixed and found["source"] != identity:
            change = difference(found["source"], identity)
            raise ValueError(f"{folder} was begun from another state of the source ({change}); {ways}")
        if {key: found[key] for key in manifest} == manifest:
            return
    elif folder.is_dir() and any(i.name != "README.md" and i.suffix != ".tmp" for i in folder.iterdir()):
        raise ValueError(f"{folder} holds other files and no manifest.json; give an empty or new --data_dir")
    atomic.write_json(path, {"command": f"python {' '.join(map(_quoted, sys.argv))}"} | manifest)


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    return key + equals + shlex.quote(value) if equals and key.startswith("--") else shlex.quote(argument)


def difference(old: dict, new: dict) -> str:
    """The first entry in which two source identities differ."""
    kind = next(iter(new), "source")
    a, b = old.get(kind, {}), new.get(kind, {})
    changed = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    return f"{kind}: {changed[0]} {a.get(changed[0], 'absent')} -> {b.get(changed[0], 'absent')}" if changed else kind


# --- documents ---


def make_documents(cfg: PrepareConfig, pieces: list[Piece], folder: Path, workers: int) -> tuple[list[Path], dict]:
    """Stage 1: read and clean each part into documents/part_00000.parquet and on; returns (paths, counts)."""
    if not (done := folder / "documents.json").is_file():  # written last

        def jobs() -> Iterator[tuple[tuple[list[Piece], Path], int]]:
            for i, part in enumerate(cut_parts(pieces)):
                path = folder / f"documents/part_{i:05d}.parquet"
                yield ([] if path.is_file() else part, path), sum(piece.size_bytes for piece in part)

        total = sum(piece.size_bytes for piece in pieces)
        paths = map_parts(functools.partial(make_documents_part, cfg), jobs(), workers, "documents", total)
        counts, examples = Counter(dict.fromkeys(COUNTS, 0)), dict[str, list]()
        for path in paths:
            found = read_counts(path)
            for name, rows in found.pop("examples").items():
                examples[name] = [*examples.get(name, []), *rows][:EXAMPLES]
            counts.update(found)
        if not counts["kept"]:
            shutil.rmtree(folder / "documents")  # nothing finished: the settings may change
            dropped = ", ".join(f"{counts[name]} {name}" for name in FILTERS if counts[name])
            left = f"no document left of {counts['in']} ({dropped}); check the source, the filters"
            raise ValueError(f"--source={cfg.source}: {left}")
        atomic.write_json(done, {"parts": len(paths), "documents": counts, "dropped": examples})
    found = json.loads(done.read_text(encoding="utf-8"))
    return [folder / f"documents/part_{i:05d}.parquet" for i in range(found["parts"])], found


def make_documents_part(cfg: PrepareConfig, job: tuple[list[Piece], Path]) -> Path:
    """Read, clean and write one part, unless it is no pieces, and return its path.

    What is written is a pure function of the part and the settings.
    """
    part, path = job
    counts, examples = Counter(dict.fromkeys(COUNTS, 0)), dict[str, list]()
    if not part:
        return path
    with atomic.new_file(path) as temporary:
        writer = DocumentWriter(temporary)
        for piece in part:
            try:
                for document in read_part([piece], cfg.text_column, cfg.id_column):
                    if isinstance(document, str):
                        counts[document] += 1
                        continue
                    if cfg.split_by == "file":
                        source_file(document.id)  # refuses ids that name none while nothing is written yet
                    counts["in"] += 1
                    text = normalise(document.text) if cfg.clean else document.text
                    reason = reason_to_drop(document.title, text, cfg)
                    counts[reason or "kept"] += 1
                    if reason is None:
                        counts["bytes"] += len(text.encode())
                        writer.add(dataclasses.replace(document, text=text))
                    elif len(examples.setdefault(reason, [])) < EXAMPLES:
                        examples[reason].append([document.id, document.title, text[:EXAMPLE_CHARS]])
            except Truncated as error:
                if not cfg.allow_truncated:
                    raise Truncated(f"{error}; --allow_truncated=True keeps what comes before") from None
                counts["damaged"] += 1
                examples.setdefault("damaged", []).append([piece.name, "", str(error)])
        writer.close({**counts, "examples": examples})
    return path


# --- the split ---


def source_file(document_id: str) -> str:
    """The file that an id names, its part before '#'. Raises ValueError for the source's own ids, which name none."""
    name, hash_mark, _ = document_id.rpartition("#")
    if not hash_mark:
        advice = "set --id_column=None (and give an empty --data_dir if documents are there already)"
        raise ValueError(f"split_by=file needs ids that name a file, not '{document_id}'; {advice}")
    return name


def fraction(key: str) -> float:
    """A number in [0, 1) hashed from `key`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def removed_ids(path: Path) -> frozenset[str]:
    """The ids in a duplicates.parquet."""
    return frozenset(document_id for (document_id,) in read_documents(path, ("id",)))


@dataclass(frozen=True)
class Splitter:
    """Which part of a kept document goes to which split."""

    by: str
    val_fraction: float
    folder: Path

    def kept(self, path: Path, columns: tuple[str, ...] = ("id", "text")) -> Iterator[tuple]:
        """`columns`, of which the id is the first, of the documents of a part that dedup left."""
        removed = once(removed_ids, self.folder / "dedup/duplicates.parquet")
        return (row for row in read_documents(path, columns) if row[0] not in removed)

    def is_val(self, document_id: str) -> bool:
        """Whether a hash of the id, or of the source file in it (up to '#'), falls below val_fraction."""
        return fraction(source_file(document_id) if self.by == "file" else document_id) < self.val_fraction

    def cut(self, chars: int) -> int:
        """Where validation begins in `chars` characters of kept text, when the split is by position."""
        return int(chars * (1 - self.val_fraction))

    def chars(self, paths: list[Path]) -> list[int]:
        """Characters of kept text in each part, when the split is by position; else 0, and nothing is read."""
        return [sum(len(text) for _, text in self.kept(path)) if self.by == "position" else 0 for path in paths]

    def check(self, paths: list[Path]) -> None:
        """Raise ValueError when a split would be empty."""
        if self.by == "position":
            chars = sum(self.chars(paths))
            if not 0 < self.cut(chars) < chars:
                raise ValueError(f"one split of {chars} characters is empty; change val_fraction ({self.val_fraction})")
            return
        sides = Counter(self.is_val(i) for path in paths for (i,) in self.kept(path, ("id",)))
        if len(sides) < 2:
            full = "val" if True in sides else "train"
            found = f"all {sides.total()} documents fell into the {full} split and none into the other"
            raise ValueError(f"{found}; change --val_fraction ({self.val_fraction}), or --split_by, or add text")

    def pieces(self, path: Path, start: int, cut: int) -> Iterator[tuple[str, str, bool]]:
        """Yield (split, text, whether the document ends there) for the kept documents of a part.

        start: characters of kept text before this part; cut: where validation begins. Both only for by="position".
        """
        for document_id, text in self.kept(path):
            if self.by != "position":
                yield ("val" if self.is_val(document_id) else "train"), text, True
                continue
            at = min(max(0, cut - start), len(text))
            if at:
                yield "train", text[:at], at == len(text)
            if at < len(text):
                yield "val", text[at:], True
            start += len(text)


# --- tokens ---


def make_tokenizer(cfg: PrepareConfig, documents: list[Path], split: Splitter, folder: Path) -> None:
    """Stage 3: folder/tokenizer.json, trained on the kept documents, or copied with what names its special tokens."""
    if (folder / "tokenizer.json").is_file():
        return
    split.check(documents)
    share = TOKENIZER_BYTES / sum(read_counts(path)["bytes"] for path in documents)
    rows = (row for path in documents for row in split.kept(path))
    kept = (row for row in rows if cfg.tokenizer == "char" or fraction(f"tokenizer {row[0]}") < share)
    if cfg.tokenizer == "char":
        text = train_characters(text for _, text in kept)
    elif cfg.tokenizer == "bpe":
        print(f"training a byte-level BPE of {cfg.vocab_size} ids", flush=True)
        texts = (text for i, text in kept if cfg.split_by == "position" or not split.is_val(i))
        text = train_bpe(texts, cfg.vocab_size)
    else:
        tokenizer = given_tokenizer(cfg.tokenizer)
        text = tokenizer.json
        atomic.write_json(folder / "tokenizer_config.json", tokenizer.special)
    atomic.write(folder / "tokenizer.json", text.encode())


def given_tokenizer(name: str) -> Tokenizer:
    """A named encoding of tiktoken, or the tokenizer of a file or folder."""
    if (text := from_tiktoken(name)) is None and not Path(name).exists():
        known = ", ".join(["bpe", "char", *ENCODINGS])
        raise ValueError(f"--tokenizer={name}: no such tokenizer file, and not one of {known}")
    return Tokenizer(text) if text is not None else Tokenizer.load(name)


def make_shards(cfg: PrepareConfig, documents: list[Path], split: Splitter, workers: int) -> dict[str, Any]:
    """Stage 4: encode each part by itself, then join the parts to shards; returns meta.json without its provenance."""
    folder, tokenizer = split.folder, Tokenizer.load(split.folder)
    dtype = token_dtype(tokenizer.vocab_size)
    *starts, chars = itertools.accumulate(split.chars(documents), initial=0)
    parts = [folder / f"tokens/part_{i:05d}" for i in range(len(documents))]
    jobs = [job for job in zip(documents, parts, starts, strict=True) if not job[1].is_dir()]
    work = functools.partial(encode_part, split, dtype, split.cut(chars))
    map_parts(work, [(job, read_counts(job[0])["bytes"]) for job in jobs], workers, "tokens")
    splits = {i: join_parts(parts, folder, i, dtype.itemsize, cfg.shard_tokens) for i in ("train", "val")}
    meta = {"format_version": FORMAT_VERSION, "dtype": dtype.str, "vocab_size": tokenizer.vocab_size}
    digest = atomic.sha256(folder / "tokenizer.json")
    meta["tokenizer"] = {"file": "tokenizer.json", "sha256": digest, "end_of_text": tokenizer.end_of_text}
    return meta | {"splits": splits}


def encode_part(split: Splitter, dtype: np.dtype, cut: int, job: tuple[Path, Path, int]) -> None:
    """Encode one document part to tokens/part_x/{train,val}.bin; documents end with the end-of-text id."""
    path, part, start = job
    tokenizer = once(Tokenizer.load, split.folder / "tokenizer.json")
    counts, end = {name: {"documents": 0, "bytes": 0} for name in ("train", "val")}, dtype.type(tokenizer.end_of_text)
    found: dict[str, list[bytes]] = {name: [] for name in counts}
    for name, text, ends in split.pieces(path, start, cut):
        found[name] += [tokenizer.encode_array(text).astype(dtype).tobytes(), end.tobytes() if ends else b""]
        counts[name]["documents"] += ends
        counts[name]["bytes"] += len(text.encode())
    with atomic.new_folder(part) as temporary:
        for name, ids in found.items():
            (temporary / f"{name}.bin").write_bytes(b"".join(ids))
        (temporary / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


def make_yardsticks(folder: Path, meta: dict[str, Any]) -> None:
    """Stage 5: folder/yardsticks.json."""
    if (folder / "yardsticks.json").is_file():
        return
    train, val = (Shards(folder, split, meta) for split in ("train", "val"))
    atomic.write_json(folder / "yardsticks.json", yardsticks.measure(train, val, Tokenizer.load(folder)))


def yardsticks_of(folder: Path) -> dict[str, float]:
    """What make_yardsticks measured; nothing for a folder that has none."""
    path = folder / "yardsticks.json"
    return read_json(path) if path.is_file() else {}


def verify_shards(data_dir: str) -> str:
    """What to print about a folder whose shards are as meta.json says. Raises ValueError for any other."""
    if not data_dir:
        raise ValueError("nothing to verify: give --data_dir=...")
    problems = verify(data_dir)
    if problems:
        raise ValueError("; ".join(problems))
    note = read_meta(data_dir).get("note")
    return f"{note}; no checksums to verify" if note else f"{data_dir}: every shard is as meta.json says"


def summary(report: dict[str, Any], bits_per_byte: dict[str, float]) -> str:
    """The table that a person reads after preparation."""
    counts, duplicates = report["documents"], report["duplicates"]
    rows = [(f"skipped: {name}", counts[name], None) for name in SKIPPED if counts[name]]
    rows += [("documents read", counts["in"], None)]
    rows += [(f"  dropped: {name}", counts[name], counts["in"]) for name in FILTERS if counts[name]]
    rows += [("after the filters", counts["kept"], None)]
    rows += [(f"  dropped: {what}", duplicates[i], counts["kept"]) for i, what in KINDS.items() if duplicates.get(i)]
    rows += [("  kept", duplicates["kept"], counts["kept"])]
    rows += [("bytes kept", duplicates["bytes"] - duplicates["bytes_removed"], None)]
    for name, shards in report["splits"].items():
        tokens, size_bytes, documents = (sum(i[key] for i in shards) for key in ("tokens", "bytes", "documents"))
        rows += [(f"{name} tokens", tokens, None)]
        rows += [(f"  documents, {size_bytes / tokens:.2f} bytes a token", documents, None)]
    rows.append(("vocabulary", report["vocab_size"], None))
    shares = [f"{100 * value / whole:>8.1f} %" if whole else "" for _, value, whole in rows]
    lines = [f"{name:<36}{value:>14,}{share}" for (name, value, _), share in zip(rows, shares, strict=True)]
    lines += [f"{name + ', bits per byte of validation':<36}{bits:>14.3f}" for name, bits in bits_per_byte.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    configurator.run(main, PrepareConfig)
