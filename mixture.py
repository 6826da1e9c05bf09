"""The data of a run: one corpus, or several mixed by weight, as one endless sequence of training windows.

The window at global position g follows from the settings and g alone: not from ranks, batch sizes or restarts.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sampler import IndexStream
from shards import EvalWindows, Shards, Windows, read_meta
from tokenizer import Tokenizer


@dataclass(frozen=True)
class Corpus:
    """One data folder: its training windows, its whole validation split, and that text's UTF-8 bytes per token."""

    name: str
    windows: Windows
    val: EvalWindows
    bytes_per_token: float


class Mixture:
    """The corpora that `data` names, 'wiki' or 'wiki_en:0.8,wiki_zh:0.2', cut into windows of block_size + 1 tokens.

    run=G keeps groups of G neighbouring windows together in the shuffle, for disks that are slow to seek.
    Attributes: corpora; tokenizer, which they share; order, the IndexStream over them; shares, which sum to 1;
    nats_per_bit_per_byte, the nats per token that one bit per byte is, on validation text in these shares.
    Raises ValueError that names the folder which is missing, unfinished, damaged or of another tokenizer.
    """

    def __init__(self, data: str, block_size: int, seed: int, run: int = 1):
        wanted = parse(data)
        metas = {folder: read_meta(folder) for folder in wanted}
        self.tokenizer, self.corpora, self.block_size = open_tokenizer(metas), [], block_size
        for folder, meta in metas.items():
            train = Shards(folder, "train", meta, read_ahead=run > 1)
            val = Shards(folder, "val", meta, read_ahead=True)  # read from its beginning to its end
            train.vocab_size = val.vocab_size = self.tokenizer.vocab_size
            windows, val_windows = Windows(train, block_size, seed), EvalWindows(val, block_size)
            self.corpora.append(Corpus(folder.name, windows, val_windows, text_bytes(val, self.tokenizer) / val.tokens))
        self.order = IndexStream([len(corpus.windows) for corpus in self.corpora], list(wanted.values()), seed, run=run)
        self.shares = [count / sum(self.order.counts) for count in self.order.counts]
        pairs = zip(self.shares, self.corpora, strict=True)
        self.nats_per_bit_per_byte = math.log(2) * sum(share * corpus.bytes_per_token for share, corpus in pairs)

    def get(self, positions: np.ndarray) -> np.ndarray:
        """The windows at global positions (B,), int64 (B, block_size + 1)."""
        sources, indices, epochs = self.order.at(positions)
        out = np.empty((len(positions), self.block_size + 1), dtype=np.int64)
        for k in np.unique(sources).tolist():
            mine = sources == k
            out[mine] = self.corpora[k].windows.get(indices[mine], epochs[mine])
        return out

    def progress(self, position: int) -> dict[str, float]:
        """Of the first `position` windows: each corpus' share, and the epochs of it that they are."""
        drawn = list(zip(self.corpora, self.order.drawn(position).tolist(), strict=True))
        if len(drawn) == 1:
            return {"epoch": position / len(self.corpora[0].windows)}
        shares = {f"share/{corpus.name}": count / max(1, position) for corpus, count in drawn}
        return shares | {f"epoch/{corpus.name}": count / len(corpus.windows) for corpus, count in drawn}

    def describe(self, position: int) -> str:
        """A line for each corpus: what a run over the first `position` windows takes from it."""
        lines = []
        for corpus, share, count in zip(self.corpora, self.shares, self.order.drawn(position).tolist(), strict=True):
            n, note = len(corpus.windows), corpus.windows.shards.meta.get("note")
            lines.append(f"data: {corpus.name}, {100 * share:.5g} %, {count / n:.2f} epochs of {n:,} windows")
            lines += [f"note: {note}"] if note else []
        return "\n".join(lines)


def parse(data: str) -> dict[Path, float]:
    """Folder -> weight of 'wiki' (weight 1), 'out/x', or 'wiki_en:0.8,wiki_zh:0.2'; a bare name lies below data/."""
    found, parts = dict[Path, float](), [part.strip() for part in data.split(",")]
    for part in parts:
        name, colon, weight = part.rpartition(":")
        if len(parts) > 1 and not colon:
            example = ",".join(f"{part.partition(':')[0]}:{1 / len(parts):.2g}" for part in parts)
            raise ValueError(f"data={data}: each of several corpora needs a weight, for example --data={example}")
        name, weight = (name, weight) if colon else (part, "1")
        folder = Path(name) if "/" in name else Path("data") / name
        if folder.name in (other.name for other in found):
            raise ValueError(f"data={data}: {folder.name} stands twice; give it once, with one weight")
        try:
            found[folder] = float(weight)
        except ValueError:
            raise ValueError(f"data={data}: {weight!r} is no weight; write name:number") from None
    return found


def open_tokenizer(metas: dict[Path, dict[str, Any]]) -> Tokenizer:
    """The tokenizer that all folders share. Raises ValueError when one lacks it or has another."""
    for folder, meta in metas.items():
        if "note" in meta and not (folder / "tokenizer.json").is_file():
            wrong = f"{folder} has token ids but no tokenizer.json; put the one there that made them"
            raise ValueError(f"{wrong} (for GPT-2's ids that of huggingface.co/openai-community/gpt2)")
    (first, tokenizer), *others = [(folder, Tokenizer.load(folder)) for folder in metas]
    for folder, other in others:
        if not other.same(tokenizer):
            raise ValueError(f"{folder} and {first} have different tokenizers; prepare one with --tokenizer={first}")
    return tokenizer


def text_bytes(shards: Shards, tokenizer: Tokenizer) -> int:
    """UTF-8 bytes of a split's text, end-of-text tokens apart; a bare folder does not say, so it is decoded."""
    if shards.bytes is not None:
        return shards.bytes
    ids = shards.check_ids(shards.all())
    return len(tokenizer.decode(ids[ids != tokenizer.end_of_text].tolist()).encode())
