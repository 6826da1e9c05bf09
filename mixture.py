"""The data of a run: one corpus, or several mixed by weight, as one endless sequence of training windows.

The window at global position g follows from the settings and g alone: not from ranks, batch sizes or restarts.
What the loop trains on is a Batch; which kind of batch, the corpus says (CORPUS_KINDS).
"""

import abc
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np

from batches import Batch, TokenRows
from chat_shards import Conversations
from chat_template import ChatTemplate, read_template
from packing import Packs
from sampler import IndexStream
from shards import EvalWindows, Shards, Windows, read_meta
from tokenizer import Tokenizer


class Corpus(abc.ABC):
    """One data folder: rows to train on, and the whole validation split.

    Attributes: name; folder; content, a hash of what the shards hold; notes for the user; windows, the rows to train
    on, of which there are len(); unit, what a row is called; bytes_per_token, UTF-8 bytes of a scored validation token.
    Another kind of corpus is a subclass with an entry in CORPUS_KINDS. Kinds whose rows are of one class can be mixed.
    """

    rows_class: type = TokenRows
    unit: str
    windows: Sized
    bytes_per_token: float

    def __init__(self, folder: Path, meta: dict[str, Any]):
        self.folder = folder
        self.name = folder.name
        self.content = content_hash(meta)
        self.notes: list[str] = []

    @abc.abstractmethod
    def rows(self, indices: np.ndarray, epochs: np.ndarray) -> TokenRows:
        """The rows `indices` of `epochs`, both (B,): TokenRows (B, block_size), or what rows_class says."""

    @abc.abstractmethod
    def val_batches(self, batch_size: int, rank: int, world_size: int) -> Iterator[Batch]:
        """This rank's share of the whole validation split; all ranks get as many batches of the same sizes."""


class TextCorpus(Corpus):
    """Plain text: windows of block_size + 1 tokens."""

    unit = "windows"

    def __init__(
        self, folder: Path, meta: dict[str, Any], tokenizer: Tokenizer, block_size: int, seed: int, read_ahead: bool
    ):
        super().__init__(folder, meta)
        if "note" in meta:
            self.notes.append(meta["note"])

        train = Shards(folder, "train", meta, read_ahead=read_ahead)
        val = Shards(folder, "val", meta, read_ahead=True)  # read from its beginning to its end
        train.vocab_size = val.vocab_size = tokenizer.vocab_size
        self.windows = Windows(train, block_size, seed)
        self.val = EvalWindows(val, block_size)
        self.bytes_per_token = text_bytes(val, tokenizer) / val.tokens

    def rows(self, indices: np.ndarray, epochs: np.ndarray) -> TokenRows:
        """Training windows, (B, block_size)."""
        return TokenRows.windows(self.windows.get(indices, epochs))

    def val_batches(self, batch_size: int, rank: int, world_size: int) -> Iterator[Batch]:
        """As Corpus says."""
        for inputs, targets in self.val.batches(batch_size, rank, world_size):
            yield TokenRows(inputs, targets).batch()


class ChatCorpus(Corpus):
    """Conversations, packed into rows of block_size places."""

    unit = "rows"

    def __init__(
        self, folder: Path, meta: dict[str, Any], tokenizer: Tokenizer, block_size: int, seed: int, read_ahead: bool
    ):
        super().__init__(folder, meta)
        train = Conversations(folder, "train", meta)
        val = Conversations(folder, "val", meta)
        train.shards.vocab_size = val.shards.vocab_size = tokenizer.vocab_size
        self.windows = Packs(train, block_size, seed)
        self.val = Packs(val, block_size, seed)
        self.bytes_per_token = scored_bytes_per_token(val, tokenizer)

        few = f"{len(train):,} conversations in {len(self.windows):,} rows of {block_size} places"
        self.notes.append(f"{few}, {100 * self.windows.useful:.1f} % of them used")
        for packs, split in ((self.windows, ""), (self.val, "of validation, ")):
            if packs.n_cut or packs.n_left_out:
                cut = f"{packs.n_cut:,} are cut after the last answer that fits"
                left_out = f"{packs.n_left_out:,} are left out, since their first answer does not fit"
                self.notes.append(f"{split}too long for block_size {block_size}: {cut}, {left_out}")

    def rows(self, indices: np.ndarray, epochs: np.ndarray) -> TokenRows:
        """Packed rows, (B, block_size)."""
        return self.windows.get(indices, epochs)

    def val_batches(self, batch_size: int, rank: int, world_size: int) -> Iterator[Batch]:
        """As Corpus says."""
        for rows in self.val.batches(batch_size, rank, world_size):
            yield rows.batch()


CORPUS_KINDS: dict[str, type[Corpus]] = {"text": TextCorpus, "chat": ChatCorpus}  # by meta.json's "kind"; none: text


class Mixture:
    """The corpora that `data` names, 'wiki' or 'wiki_en:0.8,wiki_zh:0.2', as one sequence of training windows.

    run=G keeps groups of G neighbouring windows together in the shuffle, for disks that are slow to seek.
    Attributes: corpora; tokenizer, which they share; template, that of the conversations, or None; order, the
    IndexStream over them; shares, which sum to 1; nats_per_bit_per_byte, the nats per scored token that one bit per
    byte is, on validation text in these shares.
    Raises ValueError that names the folder which is missing, unfinished, damaged or of another tokenizer.
    """

    def __init__(self, data: str, block_size: int, seed: int, run: int = 1):
        self.weights = parse(data)
        self.block_size = block_size

        metas = {folder: read_meta(folder) for folder in self.weights}
        self.tokenizer = open_tokenizer(metas)
        self.template = open_template(metas, self.tokenizer)
        kinds = corpus_kinds(metas)
        self.corpora = []
        for folder, meta in metas.items():
            kind = kinds[folder]
            self.corpora.append(kind(folder, meta, self.tokenizer, block_size, seed, read_ahead=run > 1))

        sizes = [len(corpus.windows) for corpus in self.corpora]
        self.order = IndexStream(sizes, list(self.weights.values()), seed, run=run)
        total = sum(self.order.counts)
        self.shares = [count / total for count in self.order.counts]

        pairs = zip(self.shares, self.corpora, strict=True)
        bytes_per_token = sum(share * corpus.bytes_per_token for share, corpus in pairs)
        self.nats_per_bit_per_byte = math.log(2) * bytes_per_token

    def rows(self, positions: np.ndarray) -> TokenRows:
        """The rows at global positions (B,), of block_size places."""
        sources, indices, epochs = self.order.at(positions)
        parts = []
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            parts.append((places, self.corpora[source].rows(indices[places], epochs[places])))

        if len(parts) == 1:
            return parts[0][1]
        return self.corpora[0].rows_class.merge(parts)

    def batch(self, positions: np.ndarray) -> Batch:
        """The rows at global positions (B,) as the kind of batch that the corpora yield, on the host."""
        return self.rows(positions).batch()

    def content(self) -> list[dict[str, Any]]:
        """What the data is, wherever it lies: name, weight and content hash of each corpus, for a checkpoint."""
        described = []
        for corpus, weight in zip(self.corpora, self.weights.values(), strict=True):
            described.append({"name": corpus.name, "weight": weight, "content": corpus.content})
        return described

    def progress(self, position: int) -> dict[str, float]:
        """Of the first `position` windows: each corpus' share, and the epochs of it that they are."""
        if len(self.corpora) == 1:
            return {"epoch": position / len(self.corpora[0].windows)}

        drawn = self.order.drawn(position).tolist()
        shares, epochs = {}, {}
        for corpus, count in zip(self.corpora, drawn, strict=True):
            shares[f"share/{corpus.name}"] = count / max(1, position)
            epochs[f"epoch/{corpus.name}"] = count / len(corpus.windows)
        return shares | epochs

    def describe(self, position: int) -> str:
        """A line for each corpus: what a run over the first `position` windows takes from it."""
        lines = []
        drawn = self.order.drawn(position).tolist()
        for corpus, share, count in zip(self.corpora, self.shares, drawn, strict=True):
            n = len(corpus.windows)
            lines.append(f"data: {corpus.name}, {100 * share:.5g} %, {count / n:.2f} epochs of {n:,} {corpus.unit}")
            lines += [f"note: {note}" for note in corpus.notes]
        return "\n".join(lines)


def parse(data: str) -> dict[Path, float]:
    """Folder -> weight of 'wiki' (weight 1), 'out/x', or 'wiki_en:0.8,wiki_zh:0.2'; a bare name lies below data/."""
    weights: dict[Path, float] = {}
    parts = [part.strip() for part in data.split(",")]
    for part in parts:
        name, colon, weight_text = part.rpartition(":")
        if not colon:
            if len(parts) > 1:
                example = ",".join(f"{each.partition(':')[0]}:{1 / len(parts):.2g}" for each in parts)
                wrong = f"data={data}: each of several corpora needs a weight"
                raise ValueError(f"{wrong}, for example --data={example}")
            name, weight_text = part, "1"

        folder = Path(name) if "/" in name else Path("data") / name
        if folder in weights:
            raise ValueError(f"data={data}: {folder.name} stands twice; give it once, with one weight")
        for earlier in weights:
            if earlier.name == folder.name:
                wrong = f"data={data}: {earlier} and {folder} have the same name, by which the log tells them apart"
                raise ValueError(f"{wrong}; rename one of the folders")

        try:
            weights[folder] = float(weight_text)
        except ValueError:
            raise ValueError(f"data={data}: {weight_text!r} is not a weight; write name:number") from None
    return weights


def corpus_kinds(metas: dict[Path, dict[str, Any]]) -> dict[Path, type[Corpus]]:
    """The class of the corpus in each folder. Raises ValueError for an unknown kind, and for kinds that do not mix."""
    kinds = {folder: meta.get("kind", "text") for folder, meta in metas.items()}
    for folder, kind in kinds.items():
        if kind not in CORPUS_KINDS:
            raise ValueError(f"{folder}/meta.json says kind={kind!r}; known here: {', '.join(CORPUS_KINDS)}")

    classes = {folder: CORPUS_KINDS[kind] for folder, kind in kinds.items()}
    first, *others = kinds
    for folder in others:
        if classes[folder].rows_class is not classes[first].rows_class:
            wrong = f"{first} holds {kinds[first]}, {folder} holds {kinds[folder]}"
            raise ValueError(f"{wrong}, which cannot be mixed")
    return classes


def content_hash(meta: dict[str, Any]) -> str:
    """A hash of what the shards hold, from meta.json alone: their order, sizes and SHA-256 (a bare folder has none)."""
    listed = {}
    for split in ("train", "val"):
        listed[split] = []
        for shard in meta["splits"][split]:
            beside = [file["sha256"] for file in shard.get("beside", {}).values()]  # of conversations
            listed[split].append([shard["tokens"], shard.get("sha256"), *beside])
    text = json.dumps([meta["dtype"], listed])
    return hashlib.sha256(text.encode()).hexdigest()


def open_tokenizer(metas: dict[Path, dict[str, Any]]) -> Tokenizer:
    """The tokenizer of all folders: that of one extends those of the others. Raises ValueError when one has another."""
    for folder, meta in metas.items():
        if "note" in meta and not (folder / "tokenizer.json").is_file():
            wrong = f"{folder} has token ids but no tokenizer.json; put the one there that made them"
            raise ValueError(f"{wrong} (for GPT-2's ids that of huggingface.co/openai-community/gpt2)")

    largest, *others = metas
    tokenizer = Tokenizer.load(largest)
    for folder in others:
        candidate = Tokenizer.load(folder)
        if tokenizer.extends(candidate):
            continue
        if not candidate.extends(tokenizer):
            wrong = f"{folder} and {largest} have different tokenizers"
            raise ValueError(f"{wrong}; prepare one with --tokenizer={largest}")
        largest, tokenizer = folder, candidate
    return tokenizer


def open_template(folders: Iterable[Path], tokenizer: Tokenizer) -> ChatTemplate | None:
    """The chat template of the folders that have one, with the run's tokenizer; None where all are plain text.

    Raises ValueError when two have different ones: no template would fit what the model is trained on.
    """
    found: tuple[str, Path] | None = None
    for folder in folders:
        other = read_template(folder)
        if other is None:
            continue
        if found is not None and other[0] != found[0]:
            wrong = f"{folder} and {found[1].parent} were made with different chat templates"
            raise ValueError(f"{wrong}; prepare one with --tokenizer={found[1].parent}")
        found = other
    return None if found is None else ChatTemplate(found[0], tokenizer, str(found[1]))


def text_bytes(shards: Shards, tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of a split's text without end-of-text tokens; a bare folder does not say, so it is decoded."""
    if shards.bytes is not None:
        return shards.bytes
    ids = shards.check_ids(shards.all())
    text = tokenizer.decode(ids[ids != tokenizer.end_of_text].tolist())
    return len(text.encode())


def scored_bytes_per_token(conversations: Conversations, tokenizer: Tokenizer) -> float:
    """UTF-8 bytes of a scored token, special tokens left out; 1 where nothing is scored."""
    n_bytes = n_tokens = 0
    for number in range(len(conversations)):
        ids, scored = conversations.read(number)
        answer = ids[scored]
        n_tokens += answer.size
        n_bytes += len(tokenizer.decode(answer.tolist(), show_special=False).encode())
    return n_bytes / n_tokens if n_bytes else 1.0
