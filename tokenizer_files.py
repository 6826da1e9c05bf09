"""What other people's tokenizer files say: special tokens beside tokenizer.json, and what is refused in it.

Special tokens become what transformers' AutoTokenizer makes of them (5.23, class TokenizersBackend, which is
PreTrainedTokenizerFast): the same tokens, the same ids, the same flags. docs/tokenizer.md tells how.
"""

import base64
import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as HFTokenizer

from errors import one_line, read_json

# --- tokenizer.json, before `tokenizers` opens it ---

MOST_IDS = 1 << 24  # 16 million; the largest vocabularies that are published have 1 million
MOST_GROWTH = 1000  # characters that one character may become; SentencePiece's and Unicode's own tables stay below 20

# Characters that one becomes, at most.
GROWTH_OF_TYPE = {
    "NFC": 3,
    "NFD": 4,
    "NFKC": 18,  # U+FDFA is a phrase of 18 letters
    "NFKD": 18,
    "Lowercase": 2,
    "BertNormalizer": 8,  # NFD and lower case, or spaces around Chinese
    "ByteLevel": 4,  # a character for each byte
    "Metaspace": 2,  # a mark before each word
    "WordPiece": 2,
}


def read_spec(text: str) -> dict[str, Any]:
    """The content of a tokenizer.json, checked. Raises ValueError.

    Refused is what ends the interpreter or fills the memory: see `_refuse_prefix`, `check_ids` and `check_growth`. Of a
    key that stands twice the last counts, here and in `tokenizers`.
    """
    spec = json.loads(text, object_pairs_hook=_refuse_prefix)
    if not isinstance(spec, dict):
        raise ValueError(f"it holds a {type(spec).__name__}, not an object")
    check_ids(spec)
    check_growth(spec)
    return spec


def _refuse_prefix(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, unless it is a BPE model with a continuing_subword_prefix: tokenizers 0.23 cuts text inside a
    character there, which ends the interpreter. (WordPiece, which has no merges, may have one.)"""
    has_prefix = any(key == "continuing_subword_prefix" and value for key, value in pairs)
    has_merges = any(key == "merges" for key, _ in pairs)
    if has_prefix and has_merges:
        raise ValueError("a BPE with a continuing_subword_prefix is not supported")
    return dict(pairs)


def check_ids(spec: dict[str, Any]) -> None:
    """Refuse ids that no embedding has a row for. (`tokenizers` gives added tokens the ids after the vocabulary's.)"""
    model = spec.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict):
        return
    for token, i in vocab.items():
        if isinstance(i, int) and i >= MOST_IDS:
            raise ValueError(f"its token {token[:40]!r} has the id {i}; ids must be below {MOST_IDS}")


def check_growth(spec: dict[str, Any]) -> None:
    """Refuse steps that together make more than MOST_GROWTH characters of one: they would fill the memory.

    Ten steps that replace each "a" by "aaaaaaaaaa" make 10,000,000,000 of it.
    """
    bounds = {
        "normalizer and pre-tokenizer": growth(spec.get("normalizer")) * growth(spec.get("pre_tokenizer")),
        "post-processor": growth(spec.get("post_processor")),
        "decoder": growth(spec.get("decoder")),
    }
    for what, most in bounds.items():
        if most > MOST_GROWTH:
            number = f"{most:,.0f}" if most < 1e18 else f"{most:.0e}"
            unit = "tokens" if what == "post-processor" else "characters"
            raise ValueError(f"its {what} may make {number} {unit} of one; at most {MOST_GROWTH:,} are allowed")


def growth(step: Any) -> float:
    """An upper bound of the characters that one character becomes in a step of tokenizer.json, or a sequence of steps.

    A step is known by its keys: `tokenizers` reads older files, whose steps have no "type", by them as well.
    """
    if not isinstance(step, dict):
        return 1
    most: float = GROWTH_OF_TYPE.get(str(step.get("type")), 1)
    for key in ("normalizers", "pretokenizers", "processors", "decoders"):
        if isinstance(step.get(key), list):
            most *= math.prod(map(growth, step[key]))
    if "prepend" in step:
        most *= 1 + len(str(step["prepend"]))
    if "pattern" in step and "content" in step:
        most *= _growth_of_replace(step["pattern"], str(step["content"]))
    if "single" in step and "pair" in step:
        most *= _growth_of_template(step)
    if "precompiled_charsmap" in step:
        most *= _growth_of_charsmap(str(step["precompiled_charsmap"]))
    return most


def _growth_of_replace(pattern: Any, content: str) -> float:
    """Replacing "ab" by "xyz" makes 3 characters of 2. A regular expression may match between characters as well:
    one character has two such places."""
    string = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(string, str) and string:
        return max(1, len(content) / len(string))
    return 1 + 2 * len(content)


def _growth_of_template(step: dict[str, Any]) -> int:
    """Tokens that a template makes of one: "<s> $A" makes 2, one more for each further id that <s> stands for."""
    special = step.get("special_tokens")
    ids_of = {key: token.get("ids", []) for key, token in special.items()} if isinstance(special, dict) else {}

    def count(pieces: list[dict[str, Any]]) -> int:
        names = [piece.get("SpecialToken", {}).get("id") for piece in pieces]
        return sum(len(ids_of.get(name, [0])) for name in names)  # [0]: one id

    with one_line("its post-processor's template is damaged: "):
        return max(count(step["single"]), count(step["pair"]))


def _growth_of_charsmap(charsmap: str) -> int:
    """SentencePiece's table: the size of a trie (4 bytes), the trie, then replacements, each ended by a zero byte."""
    with one_line("its precompiled_charsmap is damaged: "):
        table = base64.b64decode(charsmap)
        trie_size = int.from_bytes(table[:4], "little")
        replacements = table[4 + trie_size :].split(b"\0")
    return max(len(text.decode("utf-8", "replace")) for text in replacements) or 1


# --- a model without its special tokens ---


def unknown_token(model: dict[str, Any]) -> str | None:
    """What stands for text without an id, by the "model" of a tokenizer.json; None when nothing does."""
    if "unk_token" in model:
        return model["unk_token"]
    unk_id = model.get("unk_id")
    return None if unk_id is None else model["vocab"][unk_id][0]


def model_without(model: dict[str, Any], tokens: Collection[str]) -> models.Model:
    """The "model" of a tokenizer.json, which never gives the ids of `tokens`; all other ids stay the same."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: the place is the id, and the empty text is found nowhere
        changed = {**model, "vocab": [["" if token in tokens else token, score] for token, score in vocab]}
    else:
        changed = {**model, "vocab": {token: i for token, i in vocab.items() if token not in tokens}}
    if "merges" in model:
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
        changed["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & set(tokens)]
    return HFTokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": changed})).model


# --- the files beside tokenizer.json ---

# transformers knows these names; any other key that ends with _token names a special token of one model's own.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Special tokens without a name, by the key of transformers 5 and of older ones.
EXTRA, OLD_EXTRA = "extra_special_tokens", "additional_special_tokens"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
Token = str | AddedToken


@dataclass
class FolderSettings:
    """What the files beside a tokenizer.json say of its tokens."""

    names: dict[str, Token] = field(default_factory=dict)  # eos_token: </s>; in the order in which they are added
    extra: list[Token] = field(default_factory=list)  # special tokens without a name
    listed: dict[int, AddedToken] = field(default_factory=dict)  # by the id that the file gives them
    listed_in: str = ""  # the file that lists them
    config_lists: bool = False  # tokenizer_config.json has an added_tokens_decoder
    split_special_tokens: bool = False  # prompts, too, take a special token as text
    eos_ids: list[int] = field(default_factory=list)  # ids that end a text, by generation_config.json or config.json


def read_settings(folder: Path) -> FolderSettings:
    """Read the files of `folder`, in the steps of transformers. Raises ValueError that names the file and the key.

        tokenizer_config.json:   {"eos_token": "</s>", "image_token": "<image>"}
        added_tokens.json:       {"</s>": 2}
        generation_config.json:  {"eos_token_id": [2, 7]}

    give names {"eos_token": "</s>", "image_token": "<image>"}, listed {2: AddedToken("</s>", special=True)} and eos_ids
    [2, 7].
    """
    file = folder / "tokenizer_config.json"
    config = _read_if_there(file)
    found = FolderSettings(eos_ids=_eos_ids(folder))
    found.split_special_tokens = config.get("split_special_tokens") is True

    # The config: its older key for tokens without a name; names of the model's own, which come after the usual ones.
    if OLD_EXTRA in config and not config.get(EXTRA):
        config[EXTRA] = config.pop(OLD_EXTRA)
    own_names = _pop_own_names(config)
    own_names |= _pop_named_extra(config, file)

    # Tokens with ids: a list in the config. Without one, the older files count.
    found.config_lists = "added_tokens_decoder" in config
    if found.config_lists:
        found.listed_in = f"{file}: added_tokens_decoder"
        found.listed = _listed_in_config(config["added_tokens_decoder"], found.listed_in)
    else:
        own_names |= _add_special_map(config, folder / "special_tokens_map.json")
        added_tokens_file = folder / "added_tokens.json"
        found.listed_in = str(added_tokens_file)
        found.listed = _listed_in_added_tokens(added_tokens_file, _special_spellings(config))

    # All names in the order in which transformers adds them, which decides the ids of new tokens.
    config = _with_tokens(config, file)
    usual_names = {key: config[key] for key in NAMED if config.get(key)}
    # own names left in config: those with flags, and any of special_tokens_map.json
    model_names = {key: token for key, token in config.items() if _is_own_name(key) and isinstance(token, Token)}
    found.names = usual_names | model_names | own_names
    extra = config[EXTRA] if EXTRA in config else config.get(OLD_EXTRA)
    found.extra = extra or []
    return found


def _is_own_name(key: str) -> bool:
    return key.endswith("_token") and key not in NAMED


def _pop_own_names(config: dict[str, Any]) -> dict[str, Token]:
    """The model's own names of tokens without flags, {"image_token": "<image>"}, taken out of the config."""
    keys = [key for key, value in config.items() if _is_own_name(key) and isinstance(value, str)]
    return {key: config.pop(key) for key in keys}


def _pop_named_extra(config: dict[str, Any], file: Path) -> dict[str, Token]:
    """Extra tokens that have names, {"image_token": "<image>"}; a list of them stays where it is."""
    if not isinstance(config.get(EXTRA), dict):
        return {}
    extra = config.pop(EXTRA)
    return {name: _token(value, f"{file}: {EXTRA}: {name}") for name, value in extra.items()}


def _add_special_map(config: dict[str, Any], file: Path) -> dict[str, Token]:
    """Add to the config what special_tokens_map.json says, which wins; returns the extra tokens that have names."""
    special_map = _with_tokens(_read_if_there(file), file, special=True)
    named_extra = _pop_named_extra(special_map, file)
    if isinstance(special_map.get(EXTRA), list):
        before = config.get(EXTRA) or []
        special_map[EXTRA] = before + [token for token in special_map[EXTRA] if token not in before]
    config.update(special_map)
    return named_extra


def _with_tokens(config: dict[str, Any], file: Path, special: bool = False) -> dict[str, Any]:
    """A file's content with AddedToken for each special token that has flags. Raises ValueError for what is none."""
    config = dict(config)
    for key, value in config.items():
        where = f"{file}: {key}"
        if value is None or value == "":
            continue
        if key in NAMED or (_is_own_name(key) and isinstance(value, dict)):
            config[key] = _token(value, where, special)
        elif key in (EXTRA, OLD_EXTRA) and not isinstance(value, dict):
            if not isinstance(value, list):
                raise ValueError(f"{where} is {value!r:.80}, not a list of tokens")
            config[key] = [_token(token, where, special) for token in value]
    return config


def _token(value: Any, where: str, special: bool = False) -> Token:
    """A token's text, or its text and flags (special=True overrides its own). Raises ValueError that says `where`."""
    if isinstance(value, Token):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise ValueError(f"{where} is {value!r:.80}, not a token")

    flags = {key: value[key] for key in FLAGS if key in value}
    if special:
        flags["special"] = True
    with one_line(f"{where} is {value!r:.80}, not a token: "):
        return AddedToken(value["content"], **flags)


def _listed_in_config(values: Any, where: str) -> dict[int, AddedToken]:
    """added_tokens_decoder: {"512": {"content": "<|user|>", "special": true, ...}} -> {512: AddedToken(...)}."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {values!r:.80}, not an object")
    listed = {}
    for i, value in values.items():
        token = _token(value, f"{where}: {i[:40]}")
        is_id = re.fullmatch("[0-9]{1,10}", i) is not None
        if not is_id or isinstance(token, str):
            raise ValueError(f"{where} has {i[:40]!r}: {value!r:.80}, not an id and a token with its flags")
        listed[int(i)] = token
    return listed


def _listed_in_added_tokens(file: Path, special: set[str]) -> dict[int, AddedToken]:
    """added_tokens.json: {"<|user|>": 512} -> {512: AddedToken(...)}, special if it is one of `special`."""
    listed = {}
    for content, i in _read_if_there(file).items():
        if type(i) is not int:
            raise ValueError(f"{file}: the id of {content[:40]!r} is {i!r:.80}, not a number")
        is_special = content in special
        listed[i] = AddedToken(content, normalized=not is_special, special=is_special)
    return listed


def _special_spellings(config: dict[str, Any]) -> set[str]:
    """The spellings that make a token of added_tokens.json special.

    Tokens that tokenizer_config.json writes as {"content": ...} do not count: they are still dicts here. transformers
    does the same.
    """
    tokens = [config.get(key) for key in NAMED]
    if isinstance(config.get(EXTRA), list):
        tokens += config[EXTRA]
    return {str(token) for token in tokens if isinstance(token, Token)}


def _read_if_there(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _eos_ids(folder: Path) -> list[int]:
    """The ids that end a text: generation_config.json's eos_token_id, or config.json's if it does not speak of it."""
    files = [folder / "generation_config.json", folder / "config.json"]
    contents = [(file, _read_if_there(file)) for file in files]
    for file, content in contents:
        if "eos_token_id" not in content:
            continue
        ids = content["eos_token_id"]
        if ids is None:
            return []
        ids = ids if isinstance(ids, list) else [ids]
        if any(type(i) is not int for i in ids):
            raise ValueError(f"{file}: eos_token_id is {content['eos_token_id']!r:.80}, not an id or a list of ids")
        return ids
    return []


# --- adding them ---


def add_folder_tokens(hf: HFTokenizer, settings: FolderSettings) -> dict[str, str]:
    """Add to `hf` the tokens of the settings, in the order of transformers; returns those with a name, as text.

    A token that `hf` has keeps its id, and gets the flags of the settings. A new one gets the next id.
    """
    in_file = hf.get_added_tokens_decoder()
    listed = dict(settings.listed)
    if not settings.config_lists:
        listed |= in_file  # added once more, so that those with a name become special

    # A usual name means the token as it is listed, with those flags.
    by_content = {token.content: token for token in listed.values()}
    names = dict(settings.names)
    for key in NAMED:
        if key in names:
            names[key] = by_content.get(str(names[key]), names[key])

    # First what is listed, by id; then what else has a name; then the rest.
    tokens: list[Token] = [listed[i] for i in sorted(listed)]
    known = {token.content for token in [*listed.values(), *in_file.values()]}
    for token in [*names.values(), *settings.extra]:
        if str(token) not in known and token not in tokens:
            tokens.append(token)

    spellings = {key: str(token) for key, token in names.items()}
    named = set(spellings.values())
    hf.add_tokens([_as_special(token, named) for token in tokens])
    return spellings


def _as_special(token: Token, named: set[str]) -> AddedToken:
    """Plain text becomes a special AddedToken; an AddedToken is made special (in place) only if it has a name."""
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if token.content in named:
        token.special = True
    return token


def check_listed_ids(hf: HFTokenizer, settings: FolderSettings) -> None:
    """Raise ValueError, with the file's name, when a file beside tokenizer.json gives a token another id than `hf`."""
    for i, token in settings.listed.items():
        actual = hf.token_to_id(token.content)
        if actual != i:
            reason = (
                f"gives {token.content[:40]!r} the id {str(i)[:20]}, but with this tokenizer.json its id is {actual}"
            )
            raise ValueError(f"{settings.listed_in} {reason}")


Flags = dict[int, dict[str, Any]]


def flags_by_id(hf: HFTokenizer) -> Flags:
    """The added tokens of a tokenizer: {2: {"content": "</s>", "special": True, "rstrip": False, ...}, ...}."""
    return {i: token.__getstate__() for i, token in hf.get_added_tokens_decoder().items()}


def tokenizer_config(names: dict[str, str], settings: FolderSettings, before: Flags, after: Flags) -> dict[str, Any]:
    """What a tokenizer_config.json has to say so that the same tokenizer.json gives the same ids again.

    before, after: the added tokens of tokenizer.json alone, and with the settings.
    """
    config: dict[str, Any] = dict(names)
    changed = {str(i): flags for i, flags in sorted(after.items()) if before.get(i) != flags}
    if changed or settings.config_lists:
        config["added_tokens_decoder"] = changed
    if settings.split_special_tokens:
        config["split_special_tokens"] = True
    return config
