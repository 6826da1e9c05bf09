"""Text to token ids and back: a byte-level BPE trained here, or one id a character; saved as tokenizer.json.

BPE text is encoded by tiktoken from the same merges: equal ids, several times as fast as `tokenizers`. Text that spells
a special token is ordinary text.
"""

import json
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import tiktoken
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

END_OF_TEXT = "<|endoftext|>"
# Words with their leading space, numbers by at most two digits, punctuation runs, line ends, spaces. In the manner of
# GPT-4's pattern. No `$`: it is an end of line in one engine and an end of text in the other.
PATTERN = (
    r"'(?:[sdmtSDMT]|ll|ve|re|LL|VE|RE)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """Train a byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909) of `vocab_size` ids; returns tokenizer.json.

    Ids 0-255 are the bytes (in the order of GPT-2's stand-ins), then come the merges, last the end-of-text token.
    Raises ValueError when the texts hold too few different words for that many merges.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size ({vocab_size}) must be at least 257: 256 bytes and the end-of-text token")
    tokenizer = _untrained_bpe()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (possible := tokenizer.get_vocab_size() + 1) < vocab_size:
        raise ValueError(
            f"vocab_size ({vocab_size}) is too large for this corpus: only {possible} ids can be learnt from it; "
            f"set --vocab_size={possible} or less"
        )
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer.to_str()


def _untrained_bpe() -> HFTokenizer:
    tokenizer = HFTokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_characters(texts: Iterable[str]) -> str:
    """One id a character, in code point order, last the end-of-text token; returns tokenizer.json's text."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocab = {character: i for i, character in enumerate(sorted(characters))}
    tokenizer = HFTokenizer(models.WordLevel(vocab))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer.to_str()


class Tokenizer:
    """Encode and decode with a tokenizer.json.

    Attributes: vocab_size (ids run from 0 to vocab_size - 1), end_of_text (its id), json (the file's text).
    """

    def __init__(self, text: str):
        self.json = text
        self.hf = HFTokenizer.from_str(text)
        self.hf.encode_special_tokens = True  # a document that spells <|endoftext|> does not end there
        self.vocab_size = self.hf.get_vocab_size()
        self.end_of_text: int = self.hf.token_to_id(END_OF_TEXT)
        if self.end_of_text is None:
            raise ValueError(f"the tokenizer has no {END_OF_TEXT} token")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json, or the one in a folder. Raises ValueError that names the file."""
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"{path}: no such tokenizer file")
        try:
            return cls(path.read_text(encoding="utf-8"))
        except Exception as error:  # `tokenizers` raises bare Exception for a malformed file
            raise ValueError(f"{path}: not a usable tokenizer.json: {error}") from None

    @cached_property
    def fast(self) -> tiktoken.Encoding | None:
        """tiktoken with the same merges, or None when this is not a BPE trained by train_bpe."""
        spec, ours = json.loads(self.json), json.loads(_untrained_bpe().to_str())
        vocab = spec["model"]["vocab"]
        if any(spec.get(key) != ours[key] for key in ("normalizer", "pre_tokenizer")):
            return None
        if any(spec["model"].get(key) != ours["model"][key] for key in ours["model"].keys() - {"vocab", "merges"}):
            return None
        merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in spec["model"]["merges"]]
        # tiktoken ranks a merge by the id it makes, `tokenizers` by its place in the list: the same when those agree.
        if any(vocab[left + right] != 256 + i for i, (left, right) in enumerate(merges)):
            return None
        as_byte = _byte_of_character()
        ranks = {bytes(as_byte[character] for character in token): rank for token, rank in vocab.items()}
        special = {END_OF_TEXT: self.end_of_text}
        return tiktoken.Encoding("nonllama", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, special tokens as ordinary text. Raises ValueError for a character without an id."""
        if self.fast is not None:
            try:
                return self.fast.encode_ordinary(text)
            except BaseException as panic:  # tiktoken's regex overflows its stack on a run of a million spaces
                if type(panic).__name__ != "PanicException":
                    raise
        try:
            return self.hf.encode(text, add_special_tokens=False).ids
        except Exception:
            known = self.hf.get_vocab()
            unknown = sorted({character for character in text if character not in known})
            raise ValueError(f"the tokenizer has no id for {unknown[:5]!r}; it knows {len(known)} characters") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; the end-of-text token is shown, bytes that are no UTF-8 become U+FFFD."""
        return self.hf.decode(list(ids), skip_special_tokens=False)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (openai/gpt-2, encoder.py): the printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
