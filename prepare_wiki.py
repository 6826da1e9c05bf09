"""From documents to token shards: read and clean, find duplicates, train a tokenizer, write shards.

    python prepare_wiki.py config/data_pydocs.py
    python prepare_wiki.py --source='texts/*.jsonl' --data_dir=data/mine
    python prepare_wiki.py --verify --data_dir=data/mine        compares the shards with their checksums

Every stage writes complete files or none; the same command continues an interrupted run and reuses what is finished.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import dataclasses
import functools
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import atomic
from corpus import yardsticks
from corpus.clean import FILTERS, check_scripts, normalise, reason_to_drop, script_names
from corpus.documents import Document, DocumentWriter, read_counts, unchanged_source
from corpus.manifest import fixed_settings, provenance, read_manifest, refuse_changes, write_manifest
from corpus.pages import make_pages
from corpus.pool import ORPHANS_S, map_parts, print_now, read_cached, stage
from corpus.report import count_line
from corpus.sources import (
    Piece,
    TemplateSettings,
    describe,
    find_pieces,
    local_states,
    part_jobs,
    part_path,
    read_part,
)
from corpus.split import Splitter, fraction, source_file
from corpus.tally import EXAMPLE_CHARS, Tally
from corpus.templates.rules import check_table, tables_hash
from dedup import KINDS, check_threshold, find_duplicates_once, threshold_note
from errors import read_json
from shards import FORMAT_VERSION, Shards, join_parts, token_dtype, verify_shards
from tasks.against import check_against
from tokenizer import ENCODINGS, Tokenizer, check_vocab_size, from_tiktoken, train_bpe, train_characters

TOKENIZER_BYTES = 100_000_000  # the vocabulary is trained on about this much of the text, drawn by a hash of the id
SKIPPED = ("other_namespace", "redirect", "damaged")  # what a dump has beside articles
SPLITS = ("train", "val")
HOLES_SHOWN = 100  # templates in the report
HOLES_IN_SUMMARY = 5


Holes = dict[str, tuple[int, str]]  # {name of a template: (holes that it leaves, an example)}


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of `python prepare_wiki.py`."""

    source: str = ""  # wikimedia/wikipedia/20231101.en of the hub, a dump, 'path/*.jsonl', an address, or pydocs
    data_dir: str = ""  # folder to write, such as data/mine
    text_column: str = "text"  # field with the text in jsonl, json, csv and parquet files
    id_column: str | None = "id"  # field with unique ids; where it is absent, ids are made from place and content
    allow_truncated: bool = False  # of a damaged or cut off file keep what comes before
    until: Literal["documents", "dedup", "shards"] = "shards"  # the stage after which to stop; a later call goes on
    holes: Literal["keep", "drop"] = "keep"  # of dumps: sentences in which a template shows something unknown
    templates: str | None = None  # a file of your own lines like those of corpus/templates/tables, for dumps
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
    against: str | None = None  # tasks, or files 'eval/*.jsonl': documents that hold a text of theirs are dropped
    task_dir: str | None = None  # a folder with the files of these tasks; None: from the Hugging Face hub
    tokenizer: str = "bpe"  # 'bpe' (trained here), 'char', a tokenizer.json, its folder, gpt2 or another encoding
    vocab_size: int = 8192  # ids of a BPE trained here, special tokens included
    val_fraction: float = 0.01  # share of the documents held out for validation
    split_by: Literal["id", "file", "position"] = "id"  # hash of id or source file, or the last part of the text
    shard_tokens: int = 100_000_000  # tokens after which a new shard file begins
    yardsticks: bool = True  # measure xz and n-grams on the validation text: train.py shows them beside its loss
    num_workers: int | None = None  # processes; None: one for each CPU core
    verify: bool = False  # only compare the shards of data_dir with their checksums

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not self.source or not self.data_dir:
            advice = "give --source=... and --data_dir=..., or a file such as config/data_pydocs.py"
            raise ValueError(f"nothing to prepare: {advice}")
        if Path(self.data_dir).is_file():
            raise ValueError(f"data_dir ({self.data_dir}) is a file; give a folder, such as data/mine")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction ({self.val_fraction}) must lie between 0 and 1; 0.01 is usual")
        check_threshold("dedup_threshold", self.dedup_threshold)
        self.check_filters()
        if self.shard_tokens < 1:
            raise ValueError(f"shard_tokens ({self.shard_tokens}) must be at least 1")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers ({self.num_workers}) must be at least 1")
        if self.tokenizer == "bpe":
            check_vocab_size(self.vocab_size)
        if self.templates is not None:
            check_table(own_table(self))
        check_against(self.against, self.task_dir)
        if self.tokenizer not in ("bpe", "char") and not Path(self.data_dir, "tokenizer.json").is_file():
            given_tokenizer(self.tokenizer)  # raises if there is none

    def check_filters(self) -> None:
        """Raise ValueError for settings of filters that drop every document, or none though they are on."""
        if self.min_chars < 0:
            raise ValueError(f"min_chars ({self.min_chars}) must be at least 0")
        for name in ("max_list_chars", "max_repeated_lines", "min_script"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                percent = f"; {share:g} % is {share / 100:g}" if 1 < share <= 100 else ""
                raise ValueError(f"{name} ({share}) is a share and must lie between 0 and 1{percent}")
        scale = self.max_repeated_ngrams
        if scale is not None and not 0 < scale < 10:
            meaning = "a multiple of Gopher's limits (1.0); from 10 on nothing is dropped"
            raise ValueError(f"max_repeated_ngrams ({scale}) must lie between 0 and 10: {meaning}")
        if self.script is None:
            return
        check_scripts(self.script)
        if self.min_script == 0:
            raise ValueError("min_script (0) keeps every script; give a share such as 0.5, or no --script")
        if self.english and "LATIN" not in script_names(self.script):
            raise ValueError(f"english=True drops all that is not English, script={self.script} all that is; drop one")


def main(cfg: PrepareConfig) -> None:
    """Run the stages that are not finished yet, or only compare the shards with their checksums."""
    if cfg.verify:
        print(verify_shards(cfg.data_dir))
        return

    cfg.check()
    note = threshold_note("dedup_threshold", cfg.dedup_threshold)
    if note:
        print_now(note)
    is_written = Path(cfg.data_dir, "documents.json").is_file()
    states = local_states(cfg.source)
    pieces, identity = find_pieces(cfg.source, cfg.text_column, copy=not is_written)
    print_now(f"{cfg.source}: {describe(pieces)}")
    is_for_dumps = cfg.templates is not None or cfg.holes == "drop"
    if is_for_dumps and not any(piece.kind == "xml" for piece in pieces):
        print_now("note: --templates and --holes change nothing here: they are for dumps, which have wikitext")
    with atomic.lock(cfg.data_dir, ORPHANS_S, print_now):
        run_stages(cfg, pieces, identity, states)


def run_stages(cfg: PrepareConfig, pieces: list[Piece], identity: dict[str, Any], states: dict[str, list[int]]) -> None:
    """Run the stages that are not finished yet. data_dir is locked.

    pieces, identity: from find_pieces; states: of the source's files before that, from local_states.
    """
    # --- what is to be done ---
    folder = Path(cfg.data_dir)
    workers = cfg.num_workers or os.cpu_count() or 1
    has_dumps = any(piece.kind == "xml" for piece in pieces)
    tables = tables_hash(own_table(cfg)) if has_dumps else None
    check_manifest(folder, cfg, identity, tables)
    if (folder / "meta.json").is_file():
        print(summary(folder))
        print(f"{folder} is complete; delete it to make it again")
        note = other_tables_note(folder, tables)
        if note:
            print(note)
        remove_work(folder)  # left when killed right after meta.json
        return
    seconds: dict[str, float] = {}

    # --- documents ---
    made = [folder / "documents", folder / "pages"]
    with unchanged_source(states, folder / "documents.json", made):
        if has_dumps and not (folder / "documents.json").is_file():
            with stage("pages", seconds):
                pieces = make_dump_pages(cfg, pieces, identity, folder, workers)
        with stage("documents", seconds):
            documents, documents_report = make_documents(cfg, pieces, folder, workers)
    if cfg.until == "documents":
        counts = documents_report["documents"]
        print(f"{counts['kept']:,} of {counts['in']:,} documents are kept, in {folder}/documents")
        holes = documents_report.get("holes")  # of dumps only
        dropped = "what was dropped" if holes is None else f"what was dropped, and {holes['in_sentences']:,} holes"
        print(f"{dropped}, with examples: {folder}/documents.json")
        return

    # --- duplicates ---
    with stage("duplicates", seconds):
        threshold = cfg.dedup_threshold
        duplicates = find_duplicates_once(documents, folder / "dedup", threshold, workers, cfg.against, cfg.task_dir)
    if cfg.until == "dedup":
        print(f"{duplicates['kept']} of {duplicates['documents']} documents stay, see {folder}/dedup/report.json")
        return

    # --- tokens ---
    split = Splitter(cfg.split_by, cfg.val_fraction, folder)
    with stage("tokenizer", seconds):
        make_tokenizer(cfg, documents, split, folder)
    with stage("tokens", seconds):
        meta = make_shards(cfg, documents, split, workers)
    if cfg.yardsticks:
        with stage("yardsticks", seconds):
            make_yardsticks(folder, meta)

    # --- reports; meta.json last: its presence means complete ---
    report = {
        "source": cfg.source,
        **documents_report,
        "duplicates": duplicates,
        "splits": meta["splits"],
        "vocab_size": meta["vocab_size"],
    }
    meta["provenance"] = provenance(settings(cfg), identity, duplicates)
    atomic.write_json(folder / "report.json", report)
    atomic.write_json(folder / "times.json", seconds)
    atomic.write_json(folder / "meta.json", meta)
    remove_work(folder)

    print(summary(folder))
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"wrote {folder} in {sum(seconds.values()):.0f} s: {times}")


def remove_work(folder: Path) -> None:
    """Delete what was needed only to make the shards."""
    for name in ("pages", "tokens"):
        shutil.rmtree(folder / name, ignore_errors=True)


# --- the manifest: which settings a folder was begun with ---


def settings(cfg: PrepareConfig) -> dict[str, Any]:
    """The settings that decide what is written: all but where to, by how many processes, and how far."""
    free = ("data_dir", "num_workers", "until", "allow_truncated", "templates", "yardsticks", "verify")
    return {key: value for key, value in dataclasses.asdict(cfg).items() if key not in free}


# From when this file is there, these settings may not change. Documents depend on all other settings.
FIXED_BY = {
    "dedup/report.json": ("dedup_threshold", "against", "task_dir"),
    "tokenizer.json": ("tokenizer", "vocab_size", "val_fraction", "split_by"),
    "*.bin": ("shard_tokens",),
}
FROM_DOCUMENTS = ("documents", "documents.json", "dedup", "tokenizer.json", "tokenizer_config.json", "tokens")


def check_manifest(folder: Path, cfg: PrepareConfig, identity: dict[str, Any], tables: str | None) -> None:
    """Write folder/manifest.json. Refuse what contradicts a finished file: other settings, or a source that changed.

    tables: the hash of the tables of what templates show, for dumps. A complete folder may have been made with others.
    """
    new = {"settings": settings(cfg), "source": identity, "template_tables": tables}
    begun = read_manifest(folder, settings(PrepareConfig()))
    if begun is not None:
        fixed = fixed_settings(folder, new["settings"], "documents/part_*.parquet", FIXED_BY)
        refuse_changes(folder, begun, new, fixed)
        if "source" in fixed:
            refuse_other_tables(folder, begun, tables)
    write_manifest(folder, begun, new)


def refuse_other_tables(folder: Path, begun: dict[str, Any], tables: str | None) -> None:
    """Raise ValueError when the documents of an unfinished folder were made with other tables."""
    is_complete = (folder / "meta.json").is_file()
    if is_complete or begun.get("template_tables") == tables:
        return
    made = [folder / name for name in FROM_DOCUMENTS if (folder / name).exists()]
    remedy = f"rm -r {' '.join(shlex.quote(str(path)) for path in made)}"
    raise ValueError(f"the tables of what templates show changed since {folder} was begun; read anew: {remedy}")


def other_tables_note(folder: Path, tables: str | None) -> str | None:
    """What to say when the dump of a complete folder was read with other tables of what templates show."""
    made_with = read_json(folder / "manifest.json").get("template_tables")
    if tables is None or made_with == tables:
        return None
    return f"it was made before --templates, or a table of the repository, changed: rm -r {shlex.quote(str(folder))}"


# --- stage 1: documents ---


def own_table(cfg: PrepareConfig) -> Path | None:
    """The user's file of what templates show."""
    return Path(cfg.templates).expanduser() if cfg.templates is not None else None


def make_dump_pages(
    cfg: PrepareConfig, pieces: list[Piece], identity: dict[str, Any], folder: Path, workers: int
) -> list[Piece]:
    """The pieces, with those of dumps as files in folder/pages that know what the templates show."""
    table = own_table(cfg)
    templates = TemplateSettings(
        own_table=str(table) if table is not None else "",
        tables=tables_hash(table),
        keep_holes=cfg.holes == "keep",
    )
    return make_pages(pieces, folder, workers, templates, identity, cfg.allow_truncated)


def make_documents(
    cfg: PrepareConfig, pieces: list[Piece], folder: Path, workers: int
) -> tuple[list[Path], dict[str, Any]]:
    """Read and clean each part into documents/part_00000.parquet and on; returns (paths, documents.json)."""
    done = folder / "documents.json"  # written last
    if not done.is_file():
        jobs = part_jobs(pieces, folder / "documents")
        total_bytes = sum(piece.size_bytes for piece in pieces)
        paths = map_parts(functools.partial(make_documents_part, cfg), jobs, workers, "documents", total_bytes)

        tally = no_counts()
        tally.add_files(paths)
        counts = tally.counts
        if not counts["kept"]:
            shutil.rmtree(folder / "documents")  # nothing finished: the settings may change
            dropped = ", ".join(f"{counts[name]} {name}" for name in FILTERS if counts[name])
            reasons = f" ({dropped})" if dropped else ""
            nothing_left = f"no document left of {counts['in']}{reasons}; check the source, the filters"
            raise ValueError(f"--source={cfg.source}: {nothing_left}")
        report = {"parts": len(paths), "documents": counts, "dropped": tally.examples}
        if any(piece.kind == "pages" for piece in pieces):
            report["holes"] = holes_report(add_holes(paths), cfg.holes)
        atomic.write_json(done, report)

    report = read_json(done)
    return [part_path(folder / "documents", number) for number in range(report["parts"])], report


def make_documents_part(cfg: PrepareConfig, job: tuple[list[Piece], Path]) -> Path:
    """Read, clean and write one part, unless it is no pieces, and return its path.

    What is written is a pure function of the part and the settings.
    """
    part, path = job
    if not part:
        return path

    tally = no_counts()
    holes: Holes = {}
    with atomic.new_file(path) as temporary:
        writer = DocumentWriter(temporary)
        for piece in part:
            with tally.damage(piece.name, cfg.allow_truncated):
                for document in read_part([piece], cfg.text_column, cfg.id_column):
                    if isinstance(document, str):  # a page that is no article
                        tally.counts[document] += 1
                    else:
                        is_kept = add_document(cfg, document, writer, tally)
                        if is_kept:
                            count_holes(document, holes)
        writer.close({**tally.for_file(), "holes": holes})
    return path


def add_document(cfg: PrepareConfig, document: Document, writer: DocumentWriter, tally: Tally) -> bool:
    """Clean one document; then write it, or count why it is dropped. Returns whether it was written."""
    if cfg.split_by == "file":
        source_file(document.id)  # refuses ids that name none while nothing is written yet
    text = normalise(document.text) if cfg.clean else document.text
    reason = reason_to_drop(document.title, text, cfg)

    tally.counts["in"] += 1
    if reason is not None:
        tally.drop(reason, [document.id, document.title, text[:EXAMPLE_CHARS]])
        return False
    tally.counts["kept"] += 1
    tally.counts["bytes"] += len(text.encode())
    writer.add(dataclasses.replace(document, text=text))
    return True


def count_holes(document: Document, holes: Holes) -> None:
    """Add the holes of a document, and the first example of each template."""
    for hole in document.holes:
        count, example = holes.get(hole.name, (0, hole.example))
        holes[hole.name] = (count + 1, example)


def holes_report(holes: Holes, setting: str) -> dict[str, Any]:
    """The number of holes, whether their sentences were kept, and the templates that leave most, with an example."""
    by_count = sorted(holes, key=lambda name: (-holes[name][0], name))
    templates = {}
    for name in by_count[:HOLES_SHOWN]:
        count, example = holes[name]
        templates[name] = {"count": count, "example": example}
    in_sentences = sum(count for count, _ in holes.values())
    return {"in_sentences": in_sentences, "sentences": setting, "templates": templates}


def add_holes(paths: list[Path]) -> Holes:
    """The holes of all parts together."""
    holes: Holes = {}
    for path in paths:
        for name, (count, example) in read_counts(path).get("holes", {}).items():
            before, first_example = holes.get(name, (0, example))
            holes[name] = (before + count, first_example)
    return holes


def no_counts() -> Tally:
    """Zero for everything that is counted."""
    return Tally([*SKIPPED, "in", *FILTERS, "kept", "bytes"])


# --- stage 3: the tokenizer (stage 2, duplicates, is dedup.py) ---


def make_tokenizer(cfg: PrepareConfig, documents: list[Path], split: Splitter, folder: Path) -> None:
    """folder/tokenizer.json, trained on the kept documents, or copied with what names its special tokens."""
    if (folder / "tokenizer.json").is_file():
        return
    split.check(documents)

    if cfg.tokenizer == "char":
        content = train_characters(text for path in documents for _, text in split.kept(path))
    elif cfg.tokenizer == "bpe":
        print(f"training a byte-level BPE of {cfg.vocab_size} ids", flush=True)
        content = train_bpe(texts_to_train_on(documents, split), cfg.vocab_size)
    else:
        tokenizer = given_tokenizer(cfg.tokenizer)
        content = tokenizer.json
        atomic.write_json(folder / "tokenizer_config.json", tokenizer.special)
    atomic.write(folder / "tokenizer.json", content.encode())


def texts_to_train_on(documents: list[Path], split: Splitter) -> Iterator[str]:
    """About TOKENIZER_BYTES of the kept texts, without those for validation."""
    all_bytes = sum(read_counts(path)["bytes"] for path in documents)
    share = TOKENIZER_BYTES / all_bytes
    for path in documents:
        for document_id, text in split.kept(path):
            is_drawn = fraction(f"tokenizer {document_id}") < share
            is_training = split.by == "position" or not split.is_val(document_id)
            if is_drawn and is_training:
                yield text


def given_tokenizer(name: str) -> Tokenizer:
    """A named encoding of tiktoken, or the tokenizer of a file or folder."""
    content = from_tiktoken(name)
    if content is not None:
        return Tokenizer(content)
    if not Path(name).exists():
        known = ", ".join(["bpe", "char", *ENCODINGS])
        raise ValueError(f"--tokenizer={name}: no such tokenizer file, and not one of {known}")
    return Tokenizer.load(name)


# --- stage 4: shards ---


def make_shards(cfg: PrepareConfig, documents: list[Path], split: Splitter, workers: int) -> dict[str, Any]:
    """Encode each part by itself, then join the parts to shards; returns meta.json without its provenance."""
    folder = split.folder
    tokenizer = Tokenizer.load(folder)
    dtype = token_dtype(tokenizer.vocab_size)

    *starts, chars = split.starts(documents)
    parts = [folder / f"tokens/part_{number:05d}" for number in range(len(documents))]
    jobs = []
    for job in zip(documents, parts, starts, strict=True):
        document_path, part, _ = job
        if not part.is_dir():
            jobs.append((job, read_counts(document_path)["bytes"]))
    advice = tokenizer.advice()
    if advice is not None:
        print(advice, flush=True)
    map_parts(functools.partial(encode_part, split, dtype, split.cut(chars)), jobs, workers, "tokens")

    return {
        "format_version": FORMAT_VERSION,
        "dtype": dtype.str,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": {
            "file": "tokenizer.json",
            "sha256": atomic.sha256(folder / "tokenizer.json"),
            "end_of_text": tokenizer.end_of_text,
        },
        "splits": {name: join_parts(parts, folder, name, dtype.itemsize, cfg.shard_tokens) for name in SPLITS},
    }


def encode_part(split: Splitter, dtype: np.dtype, cut: int, job: tuple[Path, Path, int]) -> None:
    """Encode one document part to tokens/part_x/{train,val}.bin; documents end with the end-of-text id."""
    path, part, start = job
    tokenizer = read_cached(Tokenizer.load, split.folder / "tokenizer.json")
    end_of_text = dtype.type(tokenizer.end_of_text).tobytes()

    ids: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    counts = {name: {"documents": 0, "bytes": 0} for name in SPLITS}
    for name, text, is_end in split.pieces(path, start, cut):
        ids[name].append(tokenizer.encode_array(text).astype(dtype).tobytes())
        counts[name]["bytes"] += len(text.encode())
        if is_end:
            ids[name].append(end_of_text)
            counts[name]["documents"] += 1

    with atomic.new_folder(part) as temporary:
        for name in SPLITS:
            (temporary / f"{name}.bin").write_bytes(b"".join(ids[name]))
        (temporary / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


# --- stage 5: yardsticks ---


def make_yardsticks(folder: Path, meta: dict[str, Any]) -> None:
    """folder/yardsticks.json: what a model trained on this folder has to beat."""
    path = folder / "yardsticks.json"
    if not path.is_file():
        train, val = (Shards(folder, name, meta) for name in SPLITS)
        atomic.write_json(path, yardsticks.measure(train, val, Tokenizer.load(folder)))


# --- the summary ---


def summary(folder: Path) -> str:
    """The table that a person reads after preparation."""
    report = read_json(folder / "report.json")
    counts = report["documents"]
    duplicates = report["duplicates"]
    lines: list[str] = []

    def add(name: str, value: int, whole: int | None = None) -> None:
        lines.append(count_line(name, value, whole))

    for name in SKIPPED:
        if counts[name]:
            add(f"skipped: {name}", counts[name])
    add("documents read", counts["in"])
    for name in FILTERS:
        if counts.get(name):  # a filter that is newer than the folder is not there
            add(f"  dropped: {name}", counts[name], counts["in"])
    add("after the filters", counts["kept"])
    for kind, what in KINDS.items():
        if duplicates.get(kind):
            add(f"  dropped: {what}", duplicates[kind], counts["kept"])
    add("  kept", duplicates["kept"], counts["kept"])
    holes = report.get("holes")  # of dumps only
    if holes is not None:
        kept = holes["sentences"] == "keep"
        add(f"holes in {'sentences' if kept else 'dropped sentences'}", holes["in_sentences"])
        for name, of_template in list(holes["templates"].items())[:HOLES_IN_SUMMARY]:
            add(f"  {{{{{name}}}}}", of_template["count"])
    add("bytes kept", duplicates["bytes"] - duplicates["bytes_removed"])

    for name, shards in report["splits"].items():
        tokens = sum(shard["tokens"] for shard in shards)
        text_bytes = sum(shard["bytes"] for shard in shards)
        add(f"{name} tokens", tokens)
        add(f"  documents, {text_bytes / tokens:.2f} bytes a token", sum(shard["documents"] for shard in shards))
    add("vocabulary", report["vocab_size"])

    path = folder / "yardsticks.json"  # a folder may have none
    if path.is_file():
        for name, bits in read_json(path).items():
            lines.append(f"{name + ', bits per byte of validation':<36}{bits:>14.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    configurator.run(main, PrepareConfig)
