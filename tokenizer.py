"""Text to token ids and back: a tokenizer trained here, or any Hugging Face tokenizer.json.

Trained here: a byte-level BPE (`train_bpe`), or one id a character (`train_characters`). `Tokenizer.load` opens them
and those of others. Documents and prompts differ: in a document, text that spells a special token is ordinary text
(`encode`); in a prompt it is that token (`encode_prompt`).

fast_encode.py has the engines that are faster than `tokenizers`; tokenizer_files.py has the rules of other people's
files. docs/tokenizer.md explains both.
"""

import copy
import json
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from errors import one_line, refuse_lfs_pointer
from fast_encode import (
    GPT2_PATTERN,
    INSTALL_GIGATOKEN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    PATTERN,
    Encode,
    fast_encoder,
    gigatoken_would_help,
    is_plain_bpe,
    pattern_of,
    pre_tokenizers_by_pattern,
    spell_token,
)
from tokenizer_files import (
    FolderSettings,
    add_folder_tokens,
    check_listed_ids,
    flags_by_id,
    model_without,
    read_settings,
    read_spec,
    tokenizer_config,
    unknown_token,
)

END_OF_TEXT = "<|endoftext|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"  # of a message in a conversation, by ChatML
RESERVED = [TURN_START, TURN_END, END_OF_TEXT]  # the last ids of a BPE that is trained here
SMALLEST_BPE = 256 + len(RESERVED)  # ids: the bytes and these
USUAL_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>")  # what ends a text when no file says so

# tiktoken's encodings: name -> (pattern that cuts like tiktoken's own, id of <|endoftext|>)
ENCODINGS = {
    "gpt2": (GPT2_PATTERN, 50256),
    "cl100k_base": (LLAMA3_PATTERN, 100257),
    "o200k_base": (O200K_PATTERN, 199999),
}

# --- training ---


def check_vocab_size(vocab_size: int) -> None:
    """Raise ValueError for a BPE that has no room for the bytes and the special tokens."""
    if vocab_size < SMALLEST_BPE:
        tokens = ", ".join(RESERVED)
        raise ValueError(f"vocab_size ({vocab_size}) must be at least {SMALLEST_BPE}: 256 bytes and {tokens}")


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """Train a byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909) of `vocab_size` ids; returns tokenizer.json.

    Ids 0-255 are the bytes (in the order of GPT-2's stand-ins), then come the merges, last the special tokens: two for
    conversations, which no document contains, so that a model can learn to chat without growing; and the end of text.
    Raises ValueError when the texts hold too few different words for that many merges.
    """
    check_vocab_size(vocab_size)
    tokenizer = HFTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers_by_pattern()[PATTERN]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(RESERVED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=sys.stderr.isatty(),
    )
    tokenizer.train_from_iterator(texts, trainer)

    largest = tokenizer.get_vocab_size() + len(RESERVED)
    if largest < vocab_size:
        reason = f"only {largest} ids can be learnt from it; set --vocab_size={largest} or less"
        raise ValueError(f"vocab_size ({vocab_size}) is too large for this corpus: {reason}")
    tokenizer.add_special_tokens(RESERVED)
    return tokenizer.to_str()


def train_characters(texts: Iterable[str]) -> str:
    """One id a character, in code point order, last the end-of-text token; returns tokenizer.json's text."""
    characters = sorted(set(chain.from_iterable(texts)))
    ids = {character: i for i, character in enumerate(characters)}

    tokenizer = HFTokenizer(models.WordLevel(ids))
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
        encoding = "gpt2"
    elif path.suffix == ".tiktoken":
        encoding = path.stem
    elif name in ENCODINGS and not path.exists():
        encoding = name
    else:
        return None
    if encoding not in ENCODINGS:
        raise ValueError(f"--tokenizer={name}: unknown encoding; known are {', '.join(ENCODINGS)}")

    with one_line(f"--tokenizer={name}: its table cannot be had; fetch {encoding}.tiktoken, give its path: "):
        ranks = _read_ranks(path)
    pattern, end_of_text = ENCODINGS[encoding]

    vocab = {spell_token(token): rank for token, rank in ranks.items()}
    vocab[END_OF_TEXT] = end_of_text
    tokenizer = HFTokenizer(models.BPE(vocab, _merges_of(ranks)))
    tokenizer.pre_tokenizer = pre_tokenizers_by_pattern()[pattern]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer.to_str()


def _read_ranks(path: Path) -> dict[bytes, int]:
    """tiktoken's table {token: rank}, from a folder, a file, or by name."""
    import tiktoken
    import tiktoken.load

    if path.is_dir():
        return tiktoken.load.data_gym_to_mergeable_bpe_ranks(str(path / "vocab.bpe"), str(path / "encoder.json"))
    if path.suffix == ".tiktoken":
        return tiktoken.load.load_tiktoken_bpe(str(path))
    return tiktoken.get_encoding(path.name)._mergeable_ranks


def _merges_of(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, in the order of the ids: tiktoken joins any of them."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((spell_token(left), spell_token(right)))
    return merges


# --- encoding and decoding ---


class Tokenizer:
    """Encode and decode with a tokenizer.json.

    Attributes:
        vocab_size: ids run from 0 to vocab_size - 1, perhaps with holes.
        needed_rows: the smallest embedding that a model must have: the highest id that a document, end_of_text or start
            can give, plus 1. Below vocab_size when tokenizer_config.json adds tokens (a pad token) that only a prompt
            can contain.
        end_of_text, end_of_text_token: id and spelling of what ends a document.
        stops: all ids at which generation ends, end_of_text included.
        bos: the id that every prompt begins with, or None.
        start: the first id when there is no prompt: bos, else end_of_text (in training it stands before each document).
        json: the text of tokenizer.json.
        named: special tokens that the files name, as text: {"eos_token": "</s>"}.
        special: what tokenizer_config.json has to say for the same ids: special tokens by name, and, where the folder
            adds tokens or changes their flags, added_tokens_decoder.
    """

    def __init__(self, text: str, settings: FolderSettings | None = None):
        """text: a tokenizer.json; settings: what stands beside it. Raises an error for a file that cannot be used."""
        settings = settings or FolderSettings()
        self.json = text
        read_spec(text)  # refuses what would end the interpreter or fill the memory
        self.hf = HFTokenizer.from_str(text)
        self.hf.no_truncation()  # as transformers does: a file may ask to cut or pad every text
        self.hf.no_padding()
        needed_ids = [*self.hf.get_vocab().values()]

        flags_in_file = flags_by_id(self.hf)
        names = add_folder_tokens(self.hf, settings)
        self.named = dict(names)
        self.vocab_size = max(self.hf.get_vocab().values(), default=-1) + 1
        self.split_special_tokens = settings.split_special_tokens

        stops = [i for i in settings.eos_ids if 0 <= i < self.vocab_size]  # some configs say -1 for none
        self.end_of_text_token = names.get("eos_token") or self._usual_end(stops)
        self.end_of_text = self.hf.token_to_id(self.end_of_text_token)
        self.stops = frozenset([self.end_of_text, *stops])
        self._check_end()
        names["eos_token"] = self.end_of_text_token
        self.special = tokenizer_config(names, settings, flags_in_file, flags_by_id(self.hf))

        self.bos = self._first_id_of_prompts()
        self.start = self.end_of_text if self.bos is None else self.bos
        self.needed_rows = max([*needed_ids, *self._non_special_added_tokens(), self.end_of_text, self.start]) + 1

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json, or the one in a folder, with the settings beside it. ValueError names the file."""
        path = Path(path)
        if path.is_dir():
            path = path / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{path}: no such tokenizer file")
        refuse_lfs_pointer(path)

        settings = read_settings(path.parent) if path.name == "tokenizer.json" else None
        with one_line(f"{path}: not a usable tokenizer.json: "):
            tokenizer = cls(path.read_text(encoding="utf-8"), settings)
        if settings is not None:
            check_listed_ids(tokenizer.hf, settings)
        return tokenizer

    def _usual_end(self, stops: list[int]) -> str:
        """What ends a text when no file names it: the first of the stop ids, or a usual name."""
        for token in [*map(self.hf.id_to_token, stops), *USUAL_ENDS]:
            if token is not None and self.hf.token_to_id(token) is not None:
                return token
        raise ValueError(f"the tokenizer has no {END_OF_TEXT} token to end a text with")

    def _check_end(self) -> None:
        """Make the end token special, so that documents have it as text. Raises ValueError where they cannot."""
        added = self.hf.get_added_tokens_decoder().get(self.end_of_text)
        if added is not None and not added.special:
            added.special = True
            self.hf.add_tokens([added])

        token = self.end_of_text_token
        if len(token) == 1 and self.hf.model.token_to_id(token) is not None:
            raise ValueError(f"its end-of-text token {token!r} is a character of the vocabulary: texts would end at it")

    def _first_id_of_prompts(self) -> int | None:
        """The id that the post-processor puts before every text; None when it puts none there."""
        if self.hf.post_processor is None:
            return None
        one_word = HFTokenizer(models.WordLevel({"a": 0}, unk_token="a")).encode("a")
        prompt = self.hf.post_processor.process(one_word)
        if max(prompt.ids) >= self.vocab_size:
            raise ValueError(f"its post-processor adds id {max(prompt.ids)}, the largest is {self.vocab_size - 1}")
        return prompt.ids[0] if prompt.special_tokens_mask[0] else None

    def with_special_tokens(self, tokens: Sequence[str]) -> "Tokenizer":
        """This tokenizer, with these special tokens as well: those that it lacks get the next ids.

        All other ids stay. Raises ValueError where the next id is taken, which a vocabulary with holes can cause.
        """
        added = self.hf.get_added_tokens_decoder().values()
        missing = [token for token in tokens if token not in {have.content for have in added if have.special}]
        if not missing:
            return self

        grown = HFTokenizer.from_str(self.hf.to_str())
        before = {i: token for token, i in grown.get_vocab().items()}
        grown.add_special_tokens(missing)
        for token in missing:
            i = grown.token_to_id(token)
            if before.get(i, token) != token:
                raise ValueError(f"{token!r} cannot be added to the tokenizer: its id {i} is that of {before[i]!r:.40}")

        names = {key: value for key, value in self.special.items() if key.endswith("_token")}
        split = self.split_special_tokens
        settings = FolderSettings(names=names, eos_ids=sorted(self.stops), split_special_tokens=split)
        return Tokenizer(grown.to_str(), settings)

    def same(self, other: "Tokenizer") -> bool:
        """Whether both turn every document into the same ids, its end included."""
        if (self.json, self.end_of_text) != (other.json, other.end_of_text):
            return False
        return self._non_special_added_tokens() == other._non_special_added_tokens()

    def extends(self, other: "Tokenizer") -> bool:
        """Whether this is `other` with more special tokens, or none more: every id of `other` means the same here, and
        a document that spells none of the new tokens has the same ids, its end included.

        A token of `other` may have become special: it had been an ordinary word.
        """
        if self.same(other):
            return True
        if self.end_of_text != other.end_of_text or _steps(self.hf) != _steps(other.hf):
            return False

        before, after = flags_by_id(other.hf), flags_by_id(self.hf)
        for i, flags in before.items():
            now = after.get(i)
            became_special = now is not None and now["special"] and not flags["special"]
            if now is None or now["content"] != flags["content"] or (now != flags and not became_special):
                return False

        words = {i: token for token, i in other.hf.get_vocab().items()}
        for i in after.keys() - before.keys():
            token = after[i]["content"]
            if not after[i]["special"] or words.get(i, token) != token:
                return False
        return True

    def with_stops(self, ids: Iterable[int]) -> "Tokenizer":
        """This tokenizer, with which generation ends at these ids as well."""
        tokenizer = copy.copy(self)
        tokenizer.stops = self.stops.union(ids)
        return tokenizer

    # --- documents ---

    def encode(self, text: str) -> list[int]:
        """Token ids of a document: special tokens are ordinary text, none is added.

        Raises ValueError for a character without an id.
        """
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """The same as uint32 (n,), which saves half of the time."""
        text = replace_lone_surrogates(text)
        ids = np.asarray(self._encode_fast(text), np.uint32)
        if self._special_words and self._is_special_word[ids].any():
            ids = np.array(self._encode_without_special_words(text), np.uint32)
        return ids

    @cached_property
    def _special_words(self) -> dict[str, int]:
        """Special tokens that the model finds in text by itself, whatever the added tokens are.

        Those of a Unigram or WordLevel model are words of its vocabulary. Of a BPE only the end token can be one here
        ("the" as the end of a text): its other special tokens that merges reach stay words, as in transformers.
        """
        model = self.hf.model
        tokens = {self.end_of_text_token}
        if not isinstance(model, models.BPE):
            tokens |= {flags["content"] for flags in flags_by_id(self.hf).values() if flags["special"]}
        tokens -= {unknown_token(read_spec(self.json)["model"])}  # stands for what has no id

        ids = {token: model.token_to_id(token) for token in sorted(tokens) if len(token) > 1}
        return {
            token: i for token, i in ids.items() if i is not None and i in [piece.id for piece in model.tokenize(token)]
        }

    @cached_property
    def _is_special_word(self) -> np.ndarray:
        """(vocab_size,): for each id."""
        is_special = np.zeros(self.vocab_size, bool)
        is_special[list(self._special_words.values())] = True
        return is_special

    def _encode_without_special_words(self, text: str) -> list[int]:
        """Ids of a document by a model that lacks these words, as SentencePiece does not look for them in text."""
        model = self.hf.model
        self.hf.model = self._model_of_documents
        try:
            return self._encode(text)
        finally:
            self.hf.model = model

    @cached_property
    def _model_of_documents(self) -> models.Model:
        return model_without(read_spec(self.json)["model"], self._special_words.keys())

    @cached_property
    def fast(self) -> Encode | None:
        """Encodes by tiktoken or gigatoken; None when their ids are not proven to be those of `tokenizers`."""
        return fast_encoder(self.hf, read_spec(self.json))

    def advice(self) -> str | None:
        """What to install so that documents are encoded faster, in one line; None when nothing helps."""
        if not gigatoken_would_help(self.hf) or self.fast is None:
            return None
        return f"encoding with tiktoken; {INSTALL_GIGATOKEN} for ten times the speed"

    def _encode_fast(self, text: str) -> Sequence[int] | np.ndarray:
        if self.fast is None:
            return self._encode(text)

        normalized = text
        if self.hf.normalizer is not None and not text.isascii():
            normalized = self.hf.normalizer.normalize_str(text)  # unicodedata's version of Unicode may be another
        if any(token in text or token in normalized for token in self._non_special_spellings):
            return self._encode(text)

        # tiktoken's regex overflows its stack on a run of a million spaces; one_line makes any error a ValueError
        with suppress(ValueError), one_line(""):
            return self.fast(normalized)
        return self._encode(text)

    def _non_special_added_tokens(self) -> dict[int, Any]:
        """Added tokens that are not special, such as <tool_call> of Qwen: documents, too, have them as one id."""
        return {i: flags for i, flags in flags_by_id(self.hf).items() if not flags["special"]}

    @cached_property
    def _non_special_spellings(self) -> set[str]:
        """How a text spells them, normalized and not; tiktoken would not find them."""
        spellings = [flags["content"] for flags in self._non_special_added_tokens().values()]
        return {*spellings, *map(normalizers.NFC().normalize_str, spellings)}

    # --- prompts ---

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a prompt: those of transformers' AutoTokenizer for the class PreTrainedTokenizerFast.

        Special tokens that the text spells count as such; what the file's post-processor adds is added, mostly bos.
        (The class LlamaTokenizer of transformers 5 does not use the file's own steps: it loses a space before the first
        word, which SentencePiece and this keep.)
        """
        return self._encode(replace_lone_surrogates(text), special=True, frame=True)

    def encode_rendered(self, text: str, known: dict[str, list[int]] | None = None) -> list[int]:
        """Token ids of what a chat template wrote: special tokens that the text spells count, none is added.

        known: ids of pieces of text, to look up and to add to, where many texts begin alike.
        """
        text = replace_lone_surrogates(text)
        if self._special_cuts is None or any(token in text for token in self._non_special_spellings):
            return self._encode(text, special=True)

        # "<s>Hi</s>" -> "", "<s>", "Hi", "</s>", "": each second piece is a special token
        known = {} if known is None else known
        ids: list[int] = []
        for number, piece in enumerate(self._special_cuts.split(text)):
            if number % 2 == 1:
                ids.append(self.hf.token_to_id(piece))
                continue
            if piece not in known:
                known[piece] = np.asarray(self._encode_fast(piece)).tolist() if piece else []
            ids.extend(known[piece])
        return ids

    @cached_property
    def _special_cuts(self) -> re.Pattern[str] | None:
        """Finds special tokens in a text, the longest first; None where `tokenizers` has to do it.

        What stands between two special tokens may be encoded alone when nothing depends on what comes before, as in
        byte-level BPEs. (SentencePiece puts a space before the first word.) Special tokens that swallow spaces, or are
        whole words only, are not cut here.
        """
        special = [token for token in self.hf.get_added_tokens_decoder().values() if token.special]
        is_plain = not any(t.lstrip or t.rstrip or t.single_word or t.normalized for t in special)
        is_byte_level = pattern_of(self.hf.pre_tokenizer) is not None and is_plain_bpe(self.hf)
        if not (is_plain and is_byte_level) or self.split_special_tokens or self._special_words:
            return None
        longest_first = sorted((token.content for token in special), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def _encode(self, text: str, special: bool = False, frame: bool = False) -> list[int]:
        """Ids by `tokenizers`. special: special tokens that the text spells count; frame: the file's own are added."""
        # a document that spells <|endoftext|> does not end there
        self.hf.encode_special_tokens = not special or self.split_special_tokens
        try:
            with one_line("the tokenizer cannot encode this text: "):
                return self.hf.encode(text, add_special_tokens=frame).ids
        except ValueError:
            known = self.hf.get_vocab()
            unknown = sorted(set(text) - known.keys())
            if not isinstance(self.hf.model, models.WordLevel) or not unknown:
                raise
            raise ValueError(f"the tokenizer has no id for {unknown[:5]!r}; it knows {len(known)} characters") from None

    # --- back to text ---

    def decode(self, ids: Iterable[int], show_special: bool = True) -> str:
        """Text of `ids`, with special tokens or without; bytes that are no UTF-8 become U+FFFD."""
        with one_line("the tokenizer cannot decode these ids: "):
            return self.hf.decode(list(ids), skip_special_tokens=not show_special)


def _steps(hf: HFTokenizer) -> dict[str, Any]:
    """What a tokenizer does with a text, its added tokens left out, in the form in which `tokenizers` writes it."""
    steps = json.loads(hf.to_str())
    del steps["added_tokens"]
    return steps


class TextStream:
    """Text of ids that come one by one, in complete characters; all of it together is decode(all ids), cut before the
    first of the strings `stops`.

    (DecodeStream of `tokenizers` drops what is unfinished at the end, and fails on bytes that are no UTF-8.)
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), stops: Sequence[str] = ()):
        """`prompt`: ids that come before, whose text is not wanted."""
        self.tokenizer = tokenizer
        self.stops = stops
        self.stopped = False  # a stop string has come
        self.stop_beginnings = tuple(stop[:n] for stop in stops for n in range(1, len(stop)))
        # The last ids whose text is out, and those after them whose text is not. Decoders treat the first of all ids
        # differently, so the text of an id is the text of both lists less the text of the first.
        self.shown = list(prompt)
        self.waiting: list[int] = []

    def feed(self, token_id: int) -> str:
        """The text that is certain now, perhaps none; sets `stopped` when a stop string has come."""
        self.waiting.append(token_id)
        token = self.tokenizer.hf.id_to_token(token_id)
        text = self._waiting_text()

        # A run of byte tokens (<0xE6>) becomes U+FFFD from its start when one byte is wrong; an id without a token
        # does not end the run.
        may_be_in_a_run = token is None or token.startswith("<0x")
        if not text or text.endswith("\ufffd"):
            return ""

        # A stop string ends the run as well: nothing follows it.
        has_stop = any(stop in text for stop in self.stops)
        if not has_stop and (may_be_in_a_run or text.endswith(self.stop_beginnings)):
            return ""
        return self.flush()

    def flush(self) -> str:
        """All text that was held back; cut, and `stopped` set, at a stop string."""
        text = self._waiting_text()
        self.shown = self.waiting
        self.waiting = []

        places = [text.find(stop) for stop in self.stops if stop in text]
        if not places:
            return text
        self.stopped = True
        return text[: min(places)]

    def _waiting_text(self) -> str:
        before = self.tokenizer.decode(self.shown)
        return self.tokenizer.decode(self.shown + self.waiting)[len(before) :]


def replace_lone_surrogates(text: str) -> str:
    """`text` with U+FFFD for half a surrogate pair, which has no UTF-8 (as tiktoken does)."""
    with suppress(UnicodeEncodeError):
        return text.encode().decode()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
