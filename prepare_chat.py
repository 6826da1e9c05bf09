"""From instruction data to token shards that say what is scored: read and encode, find duplicates, write shards.

    python prepare_chat.py --source='alpaca/*.json.gz' --tokenizer=out/smollm2 --data_dir=data/alpaca
    python prepare_chat.py --data_dir=data/alpaca --show=3       examples, with the scored part coloured
    python prepare_chat.py --data_dir=data/alpaca --verify       compares the shards with their checksums

The rows are of the formats of Alpaca, ShareGPT or OpenAI (corpus/conversations.py), in files as prepare_wiki.py reads
them. --tokenizer is a model's folder: its chat template makes the text, its tokenizer the ids.
Every stage writes complete files or none; the same command continues an interrupted run and reuses what is finished.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import dataclasses
import functools
import json
import os
import random
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

import atomic
from chat_shards import Conversations, ConversationWriter
from chat_template import ChatTemplate, TrainOn
from corpus.conversations import CHAT_FORMATS, REASONS, Conversation, Dropped, read_conversation
from corpus.documents import DocumentWriter, unchanged_source
from corpus.manifest import fixed_settings, provenance, read_manifest, refuse_changes, write_manifest
from corpus.pool import ORPHANS_S, map_parts, print_now, read_cached, stage
from corpus.report import count_line
from corpus.sources import (
    FORMATS,
    Piece,
    describe,
    find_pieces,
    local_states,
    make_document,
    part_jobs,
    part_path,
    read_rows,
)
from corpus.split import Splitter, source_file
from corpus.tally import EXAMPLE_CHARS, Tally
from dedup import KINDS, check_threshold, find_duplicates_once, threshold_note
from errors import read_json
from shards import FORMAT_VERSION, token_dtype, verify_shards
from tasks.against import check_against
from tokenizer import Tokenizer

SPLITS = ("train", "val")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),  # by which conversations are compared
        ("messages", pa.string()),  # JSON
        ("ids", pa.binary()),  # token ids in the shards' dtype
        ("scored", pa.binary()),  # one bit a token, the first in the lowest bit of the first byte
    ]
)


@dataclass(frozen=True)
class ChatConfig:
    """Settings of `python prepare_chat.py`."""

    source: str = ""  # files 'path/*.jsonl', a data set of the hub, an address, or pydocs
    data_dir: str = ""  # folder to write, such as data/alpaca
    tokenizer: str = ""  # folder of a model or a run: its tokenizer.json and its chat template, or ChatML without one
    train_on: TrainOn = "assistant"  # what is scored: the assistant's turns, the last of them, or all tokens
    max_tokens: int | None = None  # longer conversations are dropped; None: none is
    date: str = "2026-01-01"  # the day that a template is told which writes the date of today
    id_column: str | None = None  # field with ids that are unique in all files; None: made from place and content
    allow_truncated: bool = False  # of a damaged or cut off file keep what comes before
    dedup_threshold: float = 0.7  # Jaccard similarity of 5-word shingles at which a conversation is a duplicate
    against: str | None = None  # tasks, or files 'eval/*.jsonl': conversations that hold a text of theirs are dropped
    task_dir: str | None = None  # a folder with the files of these tasks; None: from the Hugging Face hub
    val_fraction: float = 0.01  # share of the conversations held out for validation
    split_by: Literal["id", "file"] = "id"  # by a hash of the id, or of the file that a conversation is in
    shard_tokens: int = 100_000_000  # tokens after which a new shard file begins
    num_workers: int | None = None  # processes; None: one for each CPU core
    show: int = 0  # conversations of data_dir to print at the end, with the scored part marked
    verify: bool = False  # only compare the shards of data_dir with their checksums

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not self.source or not self.data_dir:
            raise ValueError("nothing to prepare: give --source=... and --data_dir=...")
        if not self.tokenizer:
            raise ValueError("give --tokenizer=..., the folder of the model that will be trained on this")
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ValueError(f"max_tokens ({self.max_tokens}) must be at least 2")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction ({self.val_fraction}) must lie between 0 and 1; 0.01 is usual")
        check_threshold("dedup_threshold", self.dedup_threshold)
        if self.shard_tokens < 1:
            raise ValueError(f"shard_tokens ({self.shard_tokens}) must be at least 1")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers ({self.num_workers}) must be at least 1")
        if self.show < 0:
            raise ValueError(f"show ({self.show}) must be at least 0")
        day(self.date)
        check_against(self.against, self.task_dir)
        if not has_parts(Path(self.data_dir)):
            given_template(self)


def main(cfg: ChatConfig) -> None:
    """Run the stages that are not finished yet; or only show conversations, or compare the shards with checksums."""
    if cfg.verify:
        print(verify_shards(cfg.data_dir))
        return
    if cfg.show and not cfg.source:
        show(cfg)
        return

    cfg.check()
    note = threshold_note("dedup_threshold", cfg.dedup_threshold)
    if note:
        print_now(note)
    is_read = Path(cfg.data_dir, "conversations.json").is_file()
    states = local_states(cfg.source)
    pieces, identity = find_pieces(cfg.source, None, copy=not is_read)
    check_rows(pieces)
    print_now(f"{cfg.source}: {describe(pieces)}")
    with atomic.lock(cfg.data_dir, ORPHANS_S, print_now):
        run_stages(cfg, pieces, identity, states)
    if cfg.show:
        show(cfg)


def day(text: str) -> datetime:
    """The date that "2026-01-31" spells. Raises ValueError for another form."""
    try:
        return datetime.strptime(text, "%Y-%m-%d")
    except ValueError:
        raise ValueError(f"date ({text}) must be written as 2026-01-31") from None


def check_rows(pieces: list[Piece]) -> None:
    """Raise ValueError for files of texts. (In an archive they are dropped: it cannot be given without them.)"""
    for piece in pieces:
        holds_text = FORMATS[piece.kind].read_rows is None or piece.kind in ("txt", "md", "html")
        if holds_text and not piece.member:
            wanted = "give .json, .jsonl, .csv or .parquet files of instructions and answers"
            raise ValueError(f"{piece.where}: {piece.kind} files hold texts, not conversations; {wanted}")


def run_stages(cfg: ChatConfig, pieces: list[Piece], identity: dict[str, Any], states: dict[str, list[int]]) -> None:
    """Run the stages that are not finished yet. data_dir is locked.

    pieces, identity: from find_pieces; states: of the source's files before that, from local_states.
    """
    # --- what is to be done ---
    folder = Path(cfg.data_dir)
    workers = cfg.num_workers or os.cpu_count() or 1
    check_manifest(folder, cfg, identity)
    if (folder / "meta.json").is_file():
        print(summary(folder))
        print(f"{folder} is complete; delete it to make it again")
        return
    seconds: dict[str, float] = {}

    # --- conversations ---
    done = folder / "conversations.json"
    with unchanged_source(states, done, [folder / "conversations"]), stage("conversations", seconds):
        if not has_parts(folder):
            write_template(cfg, folder)
        parts, read_report = make_conversations(cfg, pieces, folder, workers)

    # --- duplicates ---
    with stage("duplicates", seconds):
        threshold = cfg.dedup_threshold
        duplicates = find_duplicates_once(parts, folder / "dedup", threshold, workers, cfg.against, cfg.task_dir)

    # --- shards ---
    with stage("shards", seconds):
        meta = make_shards(cfg, parts, folder)

    # --- reports; meta.json last: its presence means complete ---
    report = {
        "source": cfg.source,
        **read_report,
        "duplicates": duplicates,
        "splits": meta["splits"],
        "lengths": lengths_report(folder, meta),
        "vocab_size": meta["vocab_size"],
    }
    meta["provenance"] = provenance(settings(cfg), identity, duplicates)
    atomic.write_json(folder / "report.json", report)
    atomic.write_json(folder / "times.json", seconds)
    atomic.write_json(folder / "meta.json", meta)

    print(summary(folder))
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"wrote {folder} in {sum(seconds.values()):.0f} s: {times}")


# --- the manifest: which settings a folder was begun with ---


def settings(cfg: ChatConfig) -> dict[str, Any]:
    """The settings that decide what is written: all but where to, by how many processes, and what is printed."""
    free = ("data_dir", "num_workers", "allow_truncated", "show", "verify")
    return {key: value for key, value in dataclasses.asdict(cfg).items() if key not in free}


# From when this file is there, these settings may not change. The conversations depend on all other settings.
FIXED_BY = {
    "dedup/report.json": ("dedup_threshold", "against", "task_dir"),
    "meta.json": ("val_fraction", "split_by", "shard_tokens"),
}


def check_manifest(folder: Path, cfg: ChatConfig, identity: dict[str, Any]) -> None:
    """Write folder/manifest.json. Refuse what contradicts a finished file: other settings, or a source that changed."""
    new = {"settings": settings(cfg), "source": identity}
    begun = read_manifest(folder, settings(ChatConfig()))
    if begun is not None:
        fixed = fixed_settings(folder, new["settings"], "conversations/part_*.parquet", FIXED_BY)
        refuse_changes(folder, begun, new, fixed)
    write_manifest(folder, begun, new)


# --- the template ---


def has_parts(folder: Path) -> bool:
    """Whether conversations have been encoded: from then on the template and the tokenizer of the folder count."""
    return any(folder.glob("conversations/part_*.parquet"))


def given_template(cfg: ChatConfig) -> ChatTemplate:
    """The template of --tokenizer. Raises ValueError for a folder without a usable one."""
    if not Path(cfg.tokenizer).is_dir():
        raise ValueError(
            f"--tokenizer={cfg.tokenizer}: no such folder; give that of the model, with its tokenizer.json"
        )
    return ChatTemplate.load(cfg.tokenizer, day(cfg.date))


def write_template(cfg: ChatConfig, folder: Path) -> None:
    """Copy the template and the tokenizer into the data folder; say when the model is going to grow."""
    template = given_template(cfg)
    for name, content in template.files().items():
        atomic.write(folder / name, content)
    if template.tokenizer.vocab_size > Tokenizer.load(cfg.tokenizer).vocab_size:
        growth = f"train.py --init_from={cfg.tokenizer} gives the model rows for its tokens"
        print_now(f"note: {cfg.tokenizer} has no chat template and gets ChatML; {growth}")


def load_template(tokenizer_json: Path, date: str) -> ChatTemplate:
    """The template of the data folder that holds this tokenizer.json."""
    return ChatTemplate.load(tokenizer_json.parent, day(date))


MARK = "zebra"
CALL = {"id": "call00000", "type": "function", "function": {"name": MARK, "arguments": {}}}
USER, ANSWER = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}
# What a template may leave out, and a conversation in which only that says MARK.
PROBES = {
    "system": {"messages": [{"role": "system", "content": MARK}, USER, ANSWER]},
    "tool": {"messages": [USER, ANSWER, {"role": "tool", "content": MARK}, ANSWER]},
    "tool_calls": {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}]},
    "tools": {"messages": [USER, ANSWER], "tools": [{"type": "function", "function": {"name": MARK}}]},
}


def left_out(template: ChatTemplate) -> set[str]:
    """The keys of PROBES that the template does not show, so that nothing would be learnt of them, in silence."""
    found = set()
    for name, conversation in PROBES.items():
        try:
            text = template.render(**conversation)
        except ValueError:
            continue  # it refuses them, aloud
        if MARK not in text:
            found.add(name)
    return found


def features_of(conversation: Conversation) -> set[str]:
    """The keys of PROBES that a conversation needs."""
    needed = {message["role"] for message in conversation.messages} & PROBES.keys()
    if any("tool_calls" in message for message in conversation.messages):
        needed.add("tool_calls")
    if conversation.tools:
        needed.add("tools")
    return needed


# --- stage 1: conversations ---


@dataclass(frozen=True)
class EncodedRow:
    """A row of a part: the columns of SCHEMA."""

    id: str
    text: str
    messages: str
    ids: bytes
    scored: bytes


class Encoder:
    """From the fields of a row to an EncodedRow."""

    def __init__(self, cfg: ChatConfig, template: ChatTemplate):
        self.cfg = cfg
        self.template = template
        self.left_out = left_out(template)
        self.dtype = token_dtype(template.tokenizer.vocab_size)

    def encode(self, piece: Piece, row: int, fields: dict[str, Any]) -> tuple[str, EncodedRow]:
        """The format of a row, and what is written of it. Raises Dropped, which says why it is not wanted."""
        conversation = read_conversation(fields)
        ids, scored = self.encode_scored(conversation)

        id_column = self.cfg.id_column
        fields_of_id = {"text": conversation.text(), "id": fields.get(id_column)}
        document = make_document(piece, row, fields_of_id, "text", "id" if id_column else None)
        if self.cfg.split_by == "file":
            source_file(document.id)  # refuses ids that name none while nothing is written yet

        encoded = EncodedRow(
            id=document.id,
            text=document.text,
            messages=storable_json(conversation.messages),
            ids=ids.astype(self.dtype).tobytes(),
            scored=np.packbits(scored, bitorder="little").tobytes(),
        )
        return conversation.format, encoded

    def encode_scored(self, conversation: Conversation) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a conversation, and which are scored. Raises Dropped."""
        not_shown = features_of(conversation) & self.left_out
        if not_shown:
            raise Dropped("not_in_template", ", ".join(sorted(not_shown)))

        variables = {"tools": conversation.tools} if conversation.tools else {}
        try:
            ids, scored = self.template.encode_scored(conversation.messages, self.cfg.train_on, **variables)
        except ValueError as error:
            raise Dropped("template", str(error)) from None

        if not scored.any():
            raise Dropped("nothing_scored")
        limit = self.cfg.max_tokens
        if limit is not None and ids.size > limit:
            raise Dropped("too_long", f"{ids.size} tokens")
        return ids, scored


def no_counts() -> Tally:
    """Zero for everything that is counted."""
    return Tally(["damaged", "in", *REASONS, "kept", *CHAT_FORMATS, "bytes"])


def make_conversations(
    cfg: ChatConfig, pieces: list[Piece], folder: Path, workers: int
) -> tuple[list[Path], dict[str, Any]]:
    """Read and encode each part into conversations/part_00000.parquet and on; returns (paths, conversations.json)."""
    done = folder / "conversations.json"  # written last
    if not done.is_file():
        jobs = part_jobs(pieces, folder / "conversations")
        total_bytes = sum(piece.size_bytes for piece in pieces)
        work = functools.partial(make_conversations_part, cfg, folder)
        paths = map_parts(work, jobs, workers, "conversations", total_bytes)

        tally = no_counts()
        tally.add_files(paths)
        if not tally.counts["kept"]:
            for path in paths:
                path.unlink()  # nothing finished: the settings may change
            raise ValueError(f"--source={cfg.source}: {nothing_left(tally, cfg.source)}")
        report = {"parts": len(paths), "conversations": tally.counts, "dropped": tally.examples}
        atomic.write_json(done, report)

    report = read_json(done)
    return [part_path(folder / "conversations", number) for number in range(report["parts"])], report


def nothing_left(tally: Tally, source: str) -> str:
    """The message for a source of which every row was dropped."""
    counts = tally.counts
    dropped = [name for name in REASONS if counts[name]]
    if not dropped and source == "pydocs":
        return "no docstring of the installed packages answers a question; are they installed without their .py files?"
    if not dropped:
        return "no row in it"
    numbers = ", ".join(f"{counts[name]} {name}" for name in dropped)
    most = max(dropped, key=lambda name: counts[name])
    detail = next((f" ({detail})" for _, detail, _ in tally.examples[most] if detail), "")
    return f"no conversation left of {counts['in']} ({numbers}); {most}: {REASONS[most]}{detail}"


def make_conversations_part(cfg: ChatConfig, folder: Path, job: tuple[list[Piece], Path]) -> Path:
    """Read, encode and write one part, unless it is no pieces, and return its path.

    What is written is a pure function of the part, the settings and the template.
    """
    part, path = job
    if not part:
        return path

    encoder = Encoder(cfg, read_cached(load_template, folder / "tokenizer.json", cfg.date))
    tally = no_counts()
    with atomic.new_file(path) as temporary:
        writer = DocumentWriter(temporary, schema=SCHEMA)
        for piece in part:
            with tally.damage(piece.name, cfg.allow_truncated):
                for row, fields in read_rows(piece):
                    add_row(encoder, piece, row, fields, writer, tally)
        writer.close(tally.for_file())
    return path


def add_row(
    encoder: Encoder,
    piece: Piece,
    row: int,
    fields: dict[str, Any],
    writer: DocumentWriter,
    tally: Tally,
) -> None:
    """Write the conversation in a row, or count why it is dropped, with an example [place, detail, the row]."""
    tally.counts["in"] += 1
    try:
        form, encoded = encoder.encode(piece, row, fields)
    except Dropped as dropped:
        shown = storable_json(fields)
        example = [f"{piece.name}#{row}", dropped.detail[:EXAMPLE_CHARS], shown[:EXAMPLE_CHARS]]
        tally.drop(dropped.reason, example)
        return
    for name in ("kept", form):
        tally.counts[name] += 1
    tally.counts["bytes"] += len(encoded.text.encode())
    writer.add(encoded)


def storable_json(value: Any) -> str:
    """The JSON of a value, with "?" for lone surrogates."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace").decode()


# --- stage 3: shards ---


def make_shards(cfg: ChatConfig, parts: list[Path], folder: Path) -> dict[str, Any]:
    """Write the conversations that are kept, in the order of the source; returns meta.json without its provenance.

    The ids are there already, so one process copies them; after an interrupt it begins anew.
    """
    split = Splitter(cfg.split_by, cfg.val_fraction, folder)
    split.check(parts)
    for path in folder.glob("*.bin"):
        path.unlink()  # of a call that was interrupted, perhaps with other settings

    template = load_template(folder / "tokenizer.json", cfg.date)
    dtype = token_dtype(template.tokenizer.vocab_size)
    train, val = (ConversationWriter(folder, name, dtype, cfg.shard_tokens) for name in SPLITS)
    with train, val:
        for path in parts:
            for row_id, text, ids, scored in split.kept(path, ("id", "text", "ids", "scored")):
                tokens = np.frombuffer(ids, dtype)
                bits = np.unpackbits(np.frombuffer(scored, np.uint8), count=tokens.size, bitorder="little")
                writer = val if split.is_val(row_id) else train
                writer.add(tokens, bits.astype(bool), len(text.encode()))

    return {
        "format_version": FORMAT_VERSION,
        "kind": "chat",
        "dtype": dtype.str,
        "vocab_size": template.tokenizer.vocab_size,
        "tokenizer": {
            "file": "tokenizer.json",
            "sha256": atomic.sha256(folder / "tokenizer.json"),
            "end_of_text": template.tokenizer.end_of_text,
        },
        "template": {"sha256": template.sha256, "end_of_turn": template.end_of_turn, "train_on": cfg.train_on},
        "splits": {"train": train.entries, "val": val.entries},
    }


def lengths_report(folder: Path, meta: dict[str, Any]) -> dict[str, int]:
    """How many tokens the conversations of both splits have: {"50 %": at most so many, ..., "longest": ...}."""
    lengths = np.concatenate([Conversations(folder, name, meta).lengths for name in SPLITS])
    report = {}
    for percent in (50, 90, 99):
        report[f"{percent} %"] = int(np.percentile(lengths, percent, method="higher"))
    report["longest"] = int(lengths.max())
    return report


# --- what a person looks at ---


def summary(folder: Path) -> str:
    """The table that a person reads after preparation."""
    report = read_json(folder / "report.json")
    counts = report["conversations"]
    duplicates = report["duplicates"]
    lines: list[str] = []

    def add(name: str, value: int, whole: int | None = None) -> None:
        lines.append(count_line(name, value, whole))

    if counts["damaged"]:
        add("damaged files", counts["damaged"])
    add("rows read", counts["in"])
    for name in REASONS:
        if counts.get(name):  # a reason that is newer than the folder is not there
            add(f"  dropped: {name}", counts[name], counts["in"])
    add("conversations", counts["kept"])
    for kind, what in KINDS.items():
        if duplicates.get(kind):
            add(f"  dropped: {what}", duplicates[kind], counts["kept"])
    add("  kept", duplicates["kept"], counts["kept"])

    for name, shards in report["splits"].items():
        tokens = sum(shard["tokens"] for shard in shards)
        add(f"{name} conversations", sum(shard["documents"] for shard in shards))
        add("  tokens", tokens)
        add("  of them scored", sum(shard["scored_tokens"] for shard in shards), tokens)
    for share, tokens in report["lengths"].items():
        add("longest conversation" if share == "longest" else f"tokens of {share} of them, at most", tokens)
    add("vocabulary", report["vocab_size"])
    return "\n".join(lines)


COLOUR = ("\033[32m", "\033[0m")  # green, and back
BRACKETS = ("⟦", "⟧")  # where nothing is coloured


def show(cfg: ChatConfig) -> None:
    """Print --show training conversations of a finished folder, the same in every call, their scored part marked."""
    if not cfg.data_dir:
        raise ValueError("nothing to show: give --data_dir=...")
    conversations = Conversations(cfg.data_dir, "train")
    tokenizer = Tokenizer.load(cfg.data_dir)

    if sys.stdout.isatty():
        marks = COLOUR
        print(f"what is {marks[0]}green{marks[1]} is scored")
    else:
        marks = BRACKETS
        print(f"what stands between {marks[0]} and {marks[1]} is scored")

    count = min(cfg.show, len(conversations))
    numbers = random.Random(0).sample(range(len(conversations)), count)
    for number in sorted(numbers):
        ids, scored = conversations.read(number)
        print(f"\n--- conversation {number}: {ids.size} tokens, {scored.sum()} scored ---")
        print(marked_text(tokenizer, ids, scored, marks))


def marked_text(tokenizer: Tokenizer, ids: np.ndarray, scored: np.ndarray, marks: tuple[str, str]) -> str:
    """The text of a conversation with each run of scored tokens between the marks."""
    borders = np.flatnonzero(np.diff(scored)) + 1
    runs = zip(np.split(ids, borders), np.split(scored, borders), strict=True)
    before, behind = marks
    texts = []
    for run, is_scored in runs:
        text = tokenizer.decode(run.tolist())
        texts.append(f"{before}{text}{behind}" if is_scored[0] else text)
    return "".join(texts)


if __name__ == "__main__":
    configurator.run(main, ChatConfig)
