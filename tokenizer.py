"""Text to token ids and back: a tokenizer trained here, or any Hugging Face tokenizer.json.

Trained here: a byte-level BPE, or one id a character. tiktoken encodes a byte-level BPE when its ids are proven to be
those of `tokenizers`, and is several times as fast; gigatoken, faster still, where it is known to do the same;
`tokenizers` all else. Text that spells a special token is ordinary text, except in a prompt.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import tiktoken.load
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from errors import one_line, read_json, refuse_lfs_pointer

END_OF_TEXT = "<|endoftext|>"
# Words with their leading space, numbers by at most two digits, punctuation runs, line ends, spaces. In the manner of
# GPT-4's pattern. No `$`: it is an end of line in one engine and an end of text in the other.
PATTERN = r"'(?:[sdmtSDMT]|ll|ve|re|LL|VE|RE)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*"
PATTERN += r"|\s*[\r\n]|\s+(?!\S)|\s+"
LLAMA3_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
LLAMA3_PATTERN += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")
# What pre_tokenizers.ByteLevel does by itself.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The same after pre_tokenizers.Digits: a digit stands alone, and spaces before it are cut as at the end of the text.
# The ranges are numbers new in Unicode 17, which Digits knows and \p{N} does not.
SMOLLM_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|[NUMBER]| ?[^\s\p{L}NUMBER]+|\s+(?![^\sNUMBER])|\s+"
SMOLLM_PATTERN = SMOLLM_PATTERN.replace("NUMBER", r"\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K_PATTERN = rf"[^\r\n\p{{L}}\p{{N}}]?(?:{UPPER}*{LOWER}+|{UPPER}+{LOWER}*)(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K_PATTERN += r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPACES = "\t\v\f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
BEFORE_LAST_SPACE = re.compile(rf"(?<=[ {SPACES}])(?=[ {SPACES}][^ {SPACES}\r\n])")  # none of them ends a line
Encode = Callable[[str], Sequence[int] | np.ndarray]
MEMORY_CHARS = 50_000_000  # gigatoken remembers the words it met: after so many characters it begins anew
# tiktoken's encodings by name: how they cut text (in patterns of the same effect, without `$`), the end-of-text id.
ENCODINGS = {"gpt2": (GPT2_PATTERN, 50256), "cl100k_base": (LLAMA3_PATTERN, 100257)}
ENCODINGS["o200k_base"] = O200K_PATTERN, 199999


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """Train a byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909) of `vocab_size` ids; returns tokenizer.json.

    Ids 0-255 are the bytes (in the order of GPT-2's stand-ins), then come the merges, last the end-of-text token.
    Raises ValueError when the texts hold too few different words for that many merges.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size ({vocab_size}) must be at least 257: 256 bytes and the end-of-text token")
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = _pre_tokenizers()[PATTERN], decoders.ByteLevel()
    options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": sys.stderr.isatty()}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size - 1, **options))
    if (most := tokenizer.get_vocab_size() + 1) < vocab_size:
        reason = f"only {most} ids can be learnt from it; set --vocab_size={most} or less"
        raise ValueError(f"vocab_size ({vocab_size}) is too large for this corpus: {reason}")
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer.to_str()


def _pre_tokenizers() -> dict[str, pre_tokenizers.PreTokenizer]:
    """Pre-tokenizers of byte-level BPEs, by the regular expression with which tiktoken cuts text as they do."""
    words, byte_level = (pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut) for cut in (True, False))
    digits = pre_tokenizers.Digits(individual_digits=True)
    found = {GPT2_PATTERN: words, SMOLLM_PATTERN: pre_tokenizers.Sequence([digits, words])}
    for pattern in (PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN, O200K_PATTERN):
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        found[pattern] = pre_tokenizers.Sequence([split, byte_level])
    return found


def train_characters(texts: Iterable[str]) -> str:
    """One id a character, in code point order, last the end-of-text token; returns tokenizer.json's text."""
    characters = sorted(set(chain.from_iterable(texts)))
    tokenizer = HFTokenizer(models.WordLevel({character: i for i, character in enumerate(characters)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer.to_str()


@lru_cache(maxsize=1)
def from_tiktoken(name: str) -> str | None:
    """tokenizer.json's text for a name in ENCODINGS, a file <name>.tiktoken, or a folder with GPT-2's encoder.json and
    vocab.bpe; None for anything else. tiktoken downloads the table of a name that it has not got yet.
    """
    path = Path(name)
    if path.is_dir() and (path / "vocab.bpe").is_file():
        files = str(path / "vocab.bpe"), str(path / "encoder.json")
        known, read = "gpt2", lambda: tiktoken.load.data_gym_to_mergeable_bpe_ranks(*files)
    elif path.suffix == ".tiktoken":
        known, read = path.stem, lambda: tiktoken.load.load_tiktoken_bpe(name)
    elif name in ENCODINGS and not path.exists():
        known, read = name, lambda: tiktoken.get_encoding(name)._mergeable_ranks
    else:
        return None
    if known not in ENCODINGS:
        raise ValueError(f"--tokenizer={name}: unknown encoding; known are {', '.join(ENCODINGS)}")
    with one_line(f"--tokenizer={name}: its table cannot be had; fetch {known}.tiktoken, give its path: "):
        ranks = read()
    pattern, end_of_text = ENCODINGS[known]
    character = {byte: character for character, byte in _byte_of_character().items()}
    spelt = {token: "".join(map(character.get, token)) for token in ranks}
    cuts = [(token[:i], token[i:]) for token in sorted(ranks, key=ranks.get) for i in range(1, len(token))]
    merges = [(spelt[a], spelt[b]) for a, b in cuts if a in ranks and b in ranks]
    vocab = {spelt[token]: rank for token, rank in ranks.items()} | {END_OF_TEXT: end_of_text}
    tokenizer = HFTokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = _pre_tokenizers()[pattern], decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer.to_str()


def tiktoken_encoder(pattern: str, ranks: dict[bytes, int]) -> Callable[[str], list[int]]:
    """tiktoken's encode_ordinary for `pattern`, in two thirds of the time if it has an alternative for line ends.

    The look-ahead in `\\s+(?!\\S)` keeps its regular expressions from an automaton. It acts only where two spaces stand
    before a word: texts are cut between the two, then the rest of the pattern cuts them as the whole would.
    """
    plain = pattern.removesuffix(r"|\s+(?!\S)|\s+")
    eased = plain != pattern and r"[\r\n]" in plain
    pattern = plain + r"|\s+" if eased else pattern
    encode = tiktoken.Encoding("nonllama", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary

    def encode_eased(text: str) -> list[int]:
        cut = "  " in text or any(space in text for space in SPACES)
        return [i for part in BEFORE_LAST_SPACE.split(text) for i in encode(part)] if cut else encode(text)

    return encode_eased if eased else encode


def fast_encoder(pattern: str, ranks: dict[bytes, int], spec: dict[str, Any]) -> Encode:
    """Encodes by gigatoken, ten times as fast, what it is known to encode as tiktoken does; the rest by tiktoken.

    That is every text for GPT-2's cuts, and for Llama 3's and Qwen2's ASCII (its letters are of Unicode 16, not 17).
    """
    slow, made, left = tiktoken_encoder(pattern, ranks), None, 0
    if pattern not in (GPT2_PATTERN, LLAMA3_PATTERN, QWEN2_PATTERN):
        return slow
    plain = json.dumps(spec | {"added_tokens": [], "normalizer": None, "post_processor": None})

    def encode(text: str) -> Sequence[int] | np.ndarray:
        nonlocal made, left
        if pattern != GPT2_PATTERN and not text.isascii():
            return slow(text)
        if left <= 0:
            made, left = gigatoken.Tokenizer.from_json(plain), MEMORY_CHARS
        left -= len(text)
        return made.encode(text)

    return encode


class Tokenizer:
    """Encode and decode with a tokenizer.json.

    Attributes: vocab_size (ids run from 0 to vocab_size - 1, perhaps with holes), end_of_text and end_of_text_token (id
    and spelling of what ends a document), stops (all ids at which generation ends, that one included), bos (the id that
    every prompt begins with, or None), start (the id with which a text begins that has no other: bos, or what ended the
    document before), json (the file's text), special (special tokens by name, eos_token among them).
    """

    def __init__(self, text: str, settings: dict[str, Any] | None = None):
        """`settings`: what stands beside the file, as _settings reads it. Raises an error for an unusable file."""
        self.json, settings = text, settings or {}
        json.loads(text, object_pairs_hook=_refuse_prefix)
        self.hf = HFTokenizer.from_str(text)
        self.hf.no_truncation()  # as transformers does: a file may ask to cut or pad every text
        self.hf.no_padding()
        self.vocab_size = max(self.hf.get_vocab().values(), default=-1) + 1

        stops = settings.get("eos_token_id")
        stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
        if any(type(i) is not int for i in stops):
            raise ValueError(f"eos_token_id is {stops!r}, not ids")
        stops = [i for i in stops if 0 <= i < self.vocab_size]  # some configs say -1 for none
        named = {key: value for key, value in settings.items() if key.endswith("_token")}
        named = {key: value.get("content") if isinstance(value, dict) else value for key, value in named.items()}
        usual = [*map(self.hf.id_to_token, stops), END_OF_TEXT, "</s>", "<|end_of_text|>"]
        eos = named.get("eos_token") or next(filter(self._has, usual), END_OF_TEXT)
        if not self._has(eos):
            raise ValueError(f"the tokenizer has no {eos} token to end a text with")
        self.end_of_text_token, self.end_of_text = eos, self.hf.token_to_id(eos)
        self.stops = frozenset([self.end_of_text, *stops])
        # A token that tokenizer_config.json names is special, as in transformers, whatever tokenizer.json says of it.
        named = {key: token for key, token in named.items() if self._has(token)}
        self.hf.add_special_tokens(list(named.values()))
        self.special = named | {"eos_token": eos}

        self.bos = None
        if self.hf.post_processor is not None:
            word = HFTokenizer(models.WordLevel({"a": 0}, unk_token="a")).encode("a")
            prompt = self.hf.post_processor.process(word)
            if max(prompt.ids) >= self.vocab_size:
                raise ValueError(f"its post-processor adds id {max(prompt.ids)}, the largest is {self.vocab_size - 1}")
            self.bos = prompt.ids[0] if prompt.special_tokens_mask[0] else None
        self.start = self.end_of_text if self.bos is None else self.bos

    def same(self, other: "Tokenizer") -> bool:
        """Whether both turn every document into the same ids, its end included."""
        return (self.json, self.end_of_text) == (other.json, other.end_of_text)

    def _has(self, token: Any) -> bool:
        return isinstance(token, str) and self.hf.token_to_id(token) is not None

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json, or the one in a folder, with the settings beside it. ValueError names the file."""
        path = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not path.is_file():
            raise ValueError(f"{path}: no such tokenizer file")
        refuse_lfs_pointer(path)
        settings = _settings(path.parent) if path.name == "tokenizer.json" else {}
        with one_line(f"{path}: not a usable tokenizer.json: "):
            return cls(path.read_text(encoding="utf-8"), settings)

    @cached_property
    def fast(self) -> Encode | None:
        """Encodes by tiktoken or gigatoken; None when their ids are not proven to be those of `tokenizers`.

        tiktoken merges any two neighbours that together spell a token, the lowest id first; `tokenizers` merges the
        listed pairs, first in the list first. Both do the same on every text when the list is in the order of the ids
        it makes and merging a token's own text, with pairs of lower ids alone, gives that token: each token is then
        reached through one pair of neighbours only, in every text. (What lies between two cuts that survive is merged
        as if it stood alone, so the same text is always cut the same way.) A token that cannot be reached is left out,
        or, when `ignore_merges` lets it stand for a whole word, must stay in three pieces or more.
        """
        model = self.hf.model
        plain = isinstance(model, models.BPE) and not model.dropout and not model.end_of_word_suffix
        if not plain or not isinstance(self.hf.normalizer, normalizers.NFC | None):
            return None
        cuts = _state(self.hf.pre_tokenizer)
        pattern = next((pattern for pattern, known in _pre_tokenizers().items() if _state(known) == cuts), None)
        spec, as_byte = json.loads(self.json), _byte_of_character()
        bpe = spec["model"]
        vocab = {token: i for token, i in bpe["vocab"].items() if token and as_byte.keys() >= set(token)}
        merges = [tuple(pair if isinstance(pair, list) else pair.split(" ")) for pair in bpe["merges"]]
        made = [vocab.get(left + right, -1) for left, right in merges]
        if pattern is None or not as_byte.keys() <= vocab.keys() or made != sorted(made):
            return None
        low = {token: -1 if len(token) == 1 else i for token, i in vocab.items()}
        lower = [(a, b) for (a, b), i in zip(merges, made, strict=True) if low.get(a, i) < i and low.get(b, i) < i]
        alone = models.BPE(vocab, lower)
        pieces = {token: len(alone.tokenize(token)) for token in vocab}
        unreached = {token for token, count in pieces.items() if count > 1}
        if len(set(vocab.values())) < len(vocab) or not unreached.isdisjoint(map("".join, merges)):
            return None
        if not model.ignore_merges:
            vocab = {token: i for token, i in vocab.items() if token not in unreached}
        elif any(pieces[token] == 2 for token in unreached):
            return None
        to_byte = str.maketrans({character: chr(byte) for character, byte in as_byte.items()})
        ranks = {token.translate(to_byte).encode("latin-1"): i for token, i in vocab.items()}
        return fast_encoder(pattern, ranks, spec | {"model": bpe | {"vocab": vocab}})

    @cached_property
    def _not_special(self) -> set[str]:
        """Added tokens that are found in every text, such as <tool_call> of Qwen; tiktoken would not find them."""
        added = [token.content for token in self.hf.get_added_tokens_decoder().values() if not token.special]
        return {*added, *(normalizers.NFC().normalize_str(token) for token in added)}

    def encode(self, text: str) -> list[int]:
        """Token ids of a document: special tokens are ordinary text, none is added.

        Raises ValueError for a character without an id.
        """
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """The same as uint32 (n,), which saves half of the time."""
        text = _valid(text)
        ids = np.asarray(self._encode_fast(text) if self.fast is not None else self._encode(text), np.uint32)
        if (eos := self.end_of_text_token) in text and self.end_of_text in ids:
            # It is a word of the model as well, as all special tokens of a Unigram model are: cut it in two.
            cuts = f"(?<={re.escape(eos[0])})(?={re.escape(eos[1:])})"
            ids = np.array([i for part in re.split(cuts, text) for i in self._encode(part)], np.uint32)
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt: those of transformers' AutoTokenizer for the class PreTrainedTokenizerFast.

        Special tokens that the text spells count as such; what the file's post-processor adds is added, mostly bos.
        (The class LlamaTokenizer of transformers 5 does not use the file's own steps: it loses a space before the first
        word, which SentencePiece and this keep.)
        """
        return self._encode(_valid(text), prompt=True)

    def _encode_fast(self, text: str) -> Sequence[int] | np.ndarray:
        # not by unicodedata: its version of Unicode may be another
        plain = text if self.hf.normalizer is None or text.isascii() else self.hf.normalizer.normalize_str(text)
        if any(token in text or token in plain for token in self._not_special):
            return self._encode(text)
        with suppress(ValueError), one_line(""):  # tiktoken's regex overflows its stack on a run of a million spaces
            return self.fast(plain)
        return self._encode(text)

    def _encode(self, text: str, prompt: bool = False) -> list[int]:
        self.hf.encode_special_tokens = not prompt  # a document that spells <|endoftext|> does not end there
        try:
            with one_line("the tokenizer cannot encode this text: "):
                return self.hf.encode(text, add_special_tokens=prompt).ids
        except ValueError:
            known = self.hf.get_vocab()
            unknown = sorted(set(text) - known.keys())
            if not isinstance(self.hf.model, models.WordLevel) or not unknown:
                raise
            raise ValueError(f"the tokenizer has no id for {unknown[:5]!r}; it knows {len(known)} characters") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are shown, bytes that are no UTF-8 become U+FFFD."""
        with one_line("the tokenizer cannot decode these ids: "):
            return self.hf.decode(list(ids), skip_special_tokens=False)


class TextStream:
    """Text of ids that come one by one, in whole characters; all of it together is decode(all ids), cut before the
    first of the strings `stops`.

    (DecodeStream of `tokenizers` drops what is unfinished at the end, and fails on bytes that are no UTF-8.)
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), stops: Sequence[str] = ()):
        """`prompt`: ids that come before, whose text is not wanted."""
        self.tokenizer, self.stops, self.stopped = tokenizer, stops, False  # stopped: a stop string has come
        self.begun = tuple(stop[:n] for stop in stops for n in range(1, len(stop)))
        self.shown = list(prompt)  # the last ids whose text is out; decoders treat the first of all ids differently
        self.held: list[int] = []

    def feed(self, token_id: int) -> str:
        """The text that is certain now, perhaps none; sets `stopped` when a stop string has come."""
        self.held.append(token_id)
        token, text = self.tokenizer.hf.id_to_token(token_id), self._unseen()
        # A run of byte tokens (<0xE6>) becomes U+FFFD from its start when one byte is wrong; an id without a token
        # does not end the run.
        if not text or text.endswith("\ufffd") or token is None or token.startswith("<0x"):
            return ""
        if text.endswith(self.begun) and not any(stop in text for stop in self.stops):
            return ""
        return self.finish()

    def finish(self) -> str:
        """What was held back because a character, or a stop string, might have been under way."""
        text, self.shown, self.held = self._unseen(), self.held, []
        places = [text.find(stop) for stop in self.stops if stop in text]
        self.stopped |= bool(places)
        return text[: min(places, default=None)]

    def _unseen(self) -> str:
        return self.tokenizer.decode(self.shown + self.held)[len(self.tokenizer.decode(self.shown)) :]


def _refuse_prefix(pairs: list[tuple[str, Any]]) -> None:
    """Raise ValueError for a BPE model's continuing_subword_prefix: tokenizers 0.23 cuts text inside a character there,
    which ends the interpreter. (WordPiece, which has no merges, may have one.)"""
    prefixed = any(key == "continuing_subword_prefix" and value for key, value in pairs)
    if prefixed and any(key == "merges" for key, _ in pairs):
        raise ValueError("a BPE with a continuing_subword_prefix is not supported")


def _state(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> bytes | None:
    """Its JSON, without what has to do with offsets only."""
    return re.sub(b',"trim_offsets":[a-z]+', b"", pre_tokenizer.__getstate__()) if pre_tokenizer is not None else None


def _valid(text: str) -> str:
    """`text` with U+FFFD for half a surrogate pair, which has no UTF-8 (as tiktoken does)."""
    with suppress(UnicodeEncodeError):
        return text.encode().decode()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _settings(folder: Path) -> dict[str, Any]:
    """What stands beside a tokenizer.json: special tokens by name, and eos_token_id; found where transformers looks."""

    def read(name: str) -> dict[str, Any]:
        return read_json(folder / name) if (folder / name).is_file() else {}

    settings = read("tokenizer_config.json")
    if "added_tokens_decoder" not in settings:  # the newer place for what the map said
        settings |= read("special_tokens_map.json")
    return settings | {"eos_token_id": (read("config.json") | read("generation_config.json")).get("eos_token_id")}


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes (openai/gpt-2, encoder.py): the printable ones are themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
