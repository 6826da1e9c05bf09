"""The fast engines against `tokenizers` and tiktoken: the same cuts and the same ids, or not used at all."""

import functools
import itertools
import json
import random
import sys
import unicodedata

import pytest
import tiktoken
import tiktoken_ext.openai_public as openai_public
from conftest import ALL_EXAMPLES, SHARED, examples
from hypothesis import example, given
from tiktoken.load import load_tiktoken_bpe
from tokenizer_kinds import (
    FAST,
    HARD,
    SLOW,
    TEXTS,
    add_word,
    changed,
    made,
    real_texts,
    reference_ids,
    sample_text,
    set_key,
    split_and_bytes,
)
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models
from tokenizers import pre_tokenizers as pre

import fast_encode
import prepare_wiki
from fast_encode import (
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    PATTERN,
    QWEN2_PATTERN,
    SMOLLM_PATTERN,
    tiktoken_encoder,
)
from tokenizer import END_OF_TEXT, Tokenizer, from_tiktoken

# --- the ids of `tokenizers`, by each engine ---


@pytest.fixture
def no_gigatoken(monkeypatch):
    """As on a machine where gigatoken is not installed."""
    monkeypatch.setitem(sys.modules, "gigatoken", None)


def test_the_engine_is_gigatoken_where_it_is_installed_and_has_the_pattern():
    pytest.importorskip("gigatoken")
    engines = {kind: type(Tokenizer(made(kind)).fast) for kind in FAST}
    by_gigatoken = [kind for kind, engine in engines.items() if engine is fast_encode.GigatokenEncoder]
    assert by_gigatoken == ["llama3", "qwen2", "gpt2"]
    assert all(Tokenizer(made(kind)).advice() is None for kind in FAST + SLOW)


def test_without_gigatoken_tiktoken_gives_the_same_ids(no_gigatoken):
    """And says once what would be faster: prepare_wiki.py prints it."""
    advice = "encoding with tiktoken; pip install gigatoken==0.10.0 for ten times the speed"
    for kind in FAST:
        tokenizer = Tokenizer(made(kind))
        assert tokenizer.fast is not None and not isinstance(tokenizer.fast, fast_encode.GigatokenEncoder)
        assert tokenizer.advice() == (advice if kind in ("llama3", "qwen2", "gpt2") else None)
        for text in [*HARD, sample_text(4, 300)]:
            assert tokenizer.encode(text) == reference_ids(tokenizer, text)
    assert Tokenizer(changed("gpt2", drop_byte)).advice() is None  # gigatoken would not be used either


def test_gigatoken_gets_no_letters_that_are_newer_than_the_tables_of_the_others():
    """U+16EA0 is a letter since Unicode 17: gigatoken knows it, tiktoken and `tokenizers` cut before it."""
    vocab = {character: byte for character, byte in fast_encode.byte_of_character().items()}
    first_byte = fast_encode.character_of_byte()[0xF0]
    hf = HFTokenizer(models.BPE(vocab | {f"a{first_byte}": 256}, [("a", first_byte)]))
    hf.pre_tokenizer = PRE_TOKENIZERS["llama3"][1]
    hf.add_special_tokens([END_OF_TEXT])
    tokenizer = Tokenizer(hf.to_str())
    assert tokenizer.fast is not None
    assert tokenizer.encode("a\U00016ea0") == reference_ids(tokenizer, "a\U00016ea0") == list("a\U00016ea0".encode())


def test_gigatoken_forgets_the_words_it_met_from_time_to_time(monkeypatch):
    pytest.importorskip("gigatoken")
    monkeypatch.setattr(fast_encode, "MEMORY_CHARS", 10)
    engines = spy_on_gigatoken(monkeypatch)
    tokenizer = Tokenizer(made("gpt2"))
    for text in ("the quick", "brown fox", "the quick", "brown fox"):  # 9 characters each
        assert tokenizer.encode(text) == reference_ids(tokenizer, text)
    assert len(engines) == 2


def test_preparing_says_once_what_would_be_faster_and_gives_the_same_tokens(tmp_path, capsys, monkeypatch):
    (tmp_path / "tokenizer.json").write_text(made("gpt2"), encoding="utf-8")
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": sample_text(k, 100)}) for k in range(20)))
    settings = {
        "source": f"{tmp_path}/*.jsonl",
        "tokenizer": f"{tmp_path}/tokenizer.json",
        "num_workers": 1,
        "val_fraction": 0.2,
    }

    def prepare(name: str) -> tuple[bytes, int]:
        folder = tmp_path / name
        capsys.readouterr()
        prepare_wiki.main(prepare_wiki.PrepareConfig(data_dir=str(folder), **settings))
        return (folder / "train_00000.bin").read_bytes(), capsys.readouterr().out.count("pip install gigatoken")

    with_it, said = prepare("with")
    assert said == int(not fast_encode.gigatoken_is_installed())
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    assert prepare("without") == (with_it, 1)
    assert prepare("without") == (with_it, 0)  # nothing is left to encode


@pytest.mark.parametrize("kind", FAST)
def test_ids_are_those_of_the_tokenizers_library(kind):
    tokenizer = Tokenizer(made(kind))
    assert tokenizer.fast is not None  # otherwise tokenizers would be compared with itself

    @given(TEXTS)
    @example(f"a{END_OF_TEXT}b {END_OF_TEXT}{END_OF_TEXT}")
    @example(" " * 50 + "x" + "\n" * 50)
    @examples(300)
    def check(text):
        assert tokenizer.encode(text) == reference_ids(tokenizer, text)

    check()


# --- cuts ---


PRE_TOKENIZERS = {
    "ours": (PATTERN, split_and_bytes(PATTERN)),
    "llama3": (LLAMA3_PATTERN, split_and_bytes(LLAMA3_PATTERN)),
    "qwen2": (QWEN2_PATTERN, split_and_bytes(QWEN2_PATTERN)),
    "gpt2": (GPT2_PATTERN, pre.ByteLevel(add_prefix_space=False)),
    "o200k": (O200K_PATTERN, split_and_bytes(O200K_PATTERN)),
    "smollm": (SMOLLM_PATTERN, pre.Sequence([pre.Digits(True), pre.ByteLevel(add_prefix_space=False)])),
}


def check_cuts(kind: str, texts: list[str]) -> None:
    """tiktoken's regular expression cuts texts where the pre-tokenizer does."""
    pattern, pre_tokenizer = PRE_TOKENIZERS[kind]
    expected = [[text[start:end] for _, (start, end) in pre_tokenizer.pre_tokenize_str(text)] for text in texts]

    # A vocabulary of those pieces: a piece that no pre-tokenizer made comes out in bytes.
    ranks = {bytes([byte]): byte for byte in range(256)}
    pieces = {piece.encode() for cut_text in expected for piece in cut_text}
    for piece in sorted(pieces - ranks.keys()):
        ranks[piece] = len(ranks)
    piece_of = {i: piece for piece, i in ranks.items()}

    encode = tiktoken_encoder(pattern, ranks)
    for text, cut_text in zip(texts, expected, strict=True):
        assert [piece_of[i].decode(errors="replace") for i in encode(text)] == cut_text, text


def around(characters: list[str]) -> list[str]:
    """A text for each character, in which it stands in many places."""
    return [f"a{c}a!{c}1{c} {c}{c}'{c}\n{c}  {c}!'S{c}'l{c}" for c in characters]


def runs_of_spaces() -> list[str]:
    """Texts of spaces of all kinds, line ends and a few words: where a pattern's look-ahead acts."""
    draw, alphabet = random.Random(0), [*" \t\n\r\v\x1c\x85\xa0\u2028\u3000", " ", " ", "\n", *"aA1.'/", "'s", "机"]
    return ["".join(draw.choices(alphabet, k=draw.randint(1, 12))) for _ in range(20_000 if ALL_EXAMPLES else 4000)]


def some_characters() -> list[str]:
    """All numbers and spaces, and some other characters: 500, in the full profile 2,000."""
    ranges = [range(0x3400), range(0xA000, 0xAC00), range(0xF900, 0x20000), range(0xE0000, 0xE0200)]
    others = [chr(c) for c in itertools.chain(*ranges)]
    numbers = [c for c in others if unicodedata.category(c)[0] in "NZ" or c.isspace()]
    new = [*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)]  # numbers of Unicode 17
    return sorted({*numbers, *map(chr, new), *random.Random(0).sample(others, 2000 if ALL_EXAMPLES else 500)})


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_both_engines_cut_runs_of_spaces_at_the_same_places(kind):
    check_cuts(kind, runs_of_spaces())


@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_both_engines_cut_the_text_at_the_same_places(kind):
    """Whether a character is a letter, a number or a space."""
    check_cuts(kind, around(some_characters()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", PRE_TOKENIZERS)
def test_both_engines_cut_at_the_same_places_for_every_character(kind):
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(every), 2000):
        check_cuts(kind, around(every[start : start + 2000]))


# --- which tokenizers tiktoken may encode ---


def swap_merges(spec):
    """The list is no longer in the order of the ids."""
    merges = spec["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def swap_ids(spec):
    """In the order of the ids again, but parts come after what they make."""
    swap_merges(spec)
    merges, vocab = spec["model"]["merges"], spec["model"]["vocab"]
    first, last = "".join(merges[0]), "".join(merges[-1])
    vocab[first], vocab[last] = vocab[last], vocab[first]


def drop_byte(spec):
    del spec["model"]["vocab"]["ÿ"]


def every_split(spec):
    """All pairs that make a token, as a tokenizer.json made of tiktoken's ranks lists them (Llama 3)."""
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    tokens = ["".join(pair) for pair in merges]
    pairs = [(token[:i], token[i:]) for token in tokens for i in range(1, len(token))]
    spec["model"]["merges"] = [list(pair) for pair in pairs if pair[0] in vocab and pair[1] in vocab]
    assert len(spec["model"]["merges"]) > len(merges)


NFC = {"type": "NFC"}
LOWER = {"type": "Sequence", "normalizers": [NFC, {"type": "Lowercase"}]}
PRE = ("pre_tokenizer", "pretokenizers")
# What was changed: in which kind, how, and whether the ids are still provably the same.
NEAR_MISSES = {
    "merges in another order": ("llama3", swap_merges, False),
    "a part after what it makes": ("llama3", swap_ids, False),
    "every split listed": ("llama3", every_split, True),
    "merges not ignored": ("llama3", set_key("model", "ignore_merges", value=False), True),
    "merges ignored": ("qwen2", set_key("model", "ignore_merges", value=True), True),
    "a whole word of two pieces": ("llama3", add_word("Ġquickf", True), False),
    "a whole word of many pieces": ("llama3", add_word("Ġzyxwvut", True), True),
    "a word out of reach": ("llama3", add_word("Ġquickf", False), True),
    "a word that is no bytes": ("llama3", add_word("机器", True), True),
    "an empty word": ("llama3", add_word("", True), True),
    "two words of one id": ("llama3", add_word("Ġzyxwvut", True, 300), False),
    "dropout": ("gpt2", set_key("model", "dropout", value=0.5), False),
    "end of words": ("gpt2", set_key("model", "end_of_word_suffix", value="e"), False),
    "a byte is missing": ("gpt2", drop_byte, False),
    "normalizer NFC": ("llama3", set_key("normalizer", value=NFC), True),
    "normalizer NFKC": ("llama3", set_key("normalizer", value={"type": "NFKC"}), False),
    "normalizer lower case": ("qwen2", set_key("normalizer", value=LOWER), False),
    "space before the text": ("gpt2", set_key("pre_tokenizer", "add_prefix_space", value=True), False),
    "space before the text, split": ("llama3", set_key(*PRE, 1, "add_prefix_space", value=True), False),
    "cut twice": ("llama3", set_key(*PRE, 1, "use_regex", value=True), False),
    "not cut": ("gpt2", set_key("pre_tokenizer", "use_regex", value=False), False),
    "matches removed": ("llama3", set_key(*PRE, 0, "behavior", value="Removed"), False),
    "matches inverted": ("llama3", set_key(*PRE, 0, "invert", value=True), False),
    "another pattern": ("llama3", set_key(*PRE, 0, "pattern", value={"Regex": r"\p{N}{1,4}|\s+|\S"}), False),
    "offsets": ("llama3", set_key(*PRE, 1, "trim_offsets", value=False), True),
    "the pattern as a string": ("llama3", set_key(*PRE, 0, "pattern", value={"String": LLAMA3_PATTERN}), False),
    "digits in runs": ("smollm", set_key(*PRE, 0, "individual_digits", value=False), False),
    "no cuts": ("llama3", set_key("pre_tokenizer", value=None), False),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_tokenizer_that_is_nearly_another_takes_the_right_path_and_gives_its_own_ids(name):
    kind, change, provable = NEAR_MISSES[name]
    tokenizer = Tokenizer(changed(kind, change))
    assert (tokenizer.fast is not None) == provable
    if name == "dropout":
        return  # its ids are random
    for text in [*HARD, sample_text(9, 300), " quickfox quickf zyxwvut zyxwvuts", "THE QUICK brown", "ÿ ﬁ"]:
        assert tokenizer.encode(text) == reference_ids(tokenizer, text)


def random_bpe(seed: int) -> str:
    """A tokenizer.json over the letters a and b: now proper, now with its merges or ids in disorder, or odd tokens."""
    draw = random.Random(seed)
    tokens, merges = ["a", "b"], []
    for _ in range(draw.randint(2, 8)):
        left, right = draw.choice(tokens), draw.choice(tokens)
        if left + right not in tokens and len(left + right) < 8:
            tokens.append(left + right)
            merges.append([left, right])
    ids = {token: 1000 + k for k, token in enumerate(tokens[2:])}

    if draw.random() < 0.4:  # every pair that makes a token, as in a table of tiktoken's
        pairs = [[token[:i], token[i:]] for token in ids for i in range(1, len(token))]
        merges = [pair for pair in pairs if pair[0] in tokens and pair[1] in tokens]
    if draw.random() < 0.4:  # a token that no merge makes
        ids.setdefault("".join(draw.choices("ab", k=draw.randint(2, 6))), 2000)
    if draw.random() < 0.3:  # other ids, the merges in their order
        ids = dict(zip(ids, draw.sample(sorted(ids.values()), len(ids)), strict=True))
        merges.sort(key=lambda pair: ids["".join(pair)])
    if draw.random() < 0.2:
        draw.shuffle(merges)

    spec = json.loads(made("ours"))
    letters = {token: i for token, i in spec["model"]["vocab"].items() if len(token) == 1}
    spec["model"] |= {"vocab": letters | ids, "merges": merges, "ignore_merges": draw.random() < 0.5}
    spec["added_tokens"][0]["id"] = 3000
    return json.dumps(spec)


@pytest.mark.parametrize("kind", ["ours", "gpt2", "llama3"])  # by tiktoken, by gigatoken, by gigatoken as it is ASCII
def test_whatever_the_merges_engines_are_used_only_where_their_ids_are_the_same(kind):
    """60 odd vocabularies (300 in the full profile), each on all texts of up to 7 letters a and b; once 30,000 with
    tiktoken, 1,500 with gigatoken: no difference.
    """
    texts = ["".join(letters) for n in range(1, 8) for letters in itertools.product("ab", repeat=n)]
    fast = 0
    seeds = 300 if ALL_EXAMPLES else 60
    for seed in range(seeds):
        hf = HFTokenizer.from_str(random_bpe(seed))
        hf.pre_tokenizer = PRE_TOKENIZERS[kind][1]
        tokenizer = Tokenizer(hf.to_str())
        if tokenizer.fast is not None:
            fast += 1
            expected = [tokenizer.hf.encode(text, add_special_tokens=False).ids for text in texts]
            assert [list(tokenizer.fast(text)) for text in texts] == expected, seed
    assert seeds / 3 < fast < seeds * 5 / 6


# --- tiktoken's encodings ---

TABLES = SHARED / "tokenizer"
TABLE_OF = {"gpt2": "gpt2", "cl100k_base": "cl100k_base", "o200k_base": "gpt2"}  # o200k_base's own is not there


@functools.cache
def ranks_of(table: str) -> dict[bytes, int]:
    return load_tiktoken_bpe(str(TABLES / f"{table}.tiktoken"))


def openai(name: str, monkeypatch) -> tiktoken.Encoding:
    """tiktoken's own encoding, with its own pattern, from the tables here."""
    ranks = ranks_of(TABLE_OF[name])
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: ranks)
    return tiktoken.Encoding(**{**getattr(openai_public, name)(), "explicit_n_vocab": None})


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", TABLE_OF)
def test_named_encodings_give_the_ids_of_tiktoken(tmp_path, monkeypatch, name):
    """From a file <name>.tiktoken, and by name where tiktoken has the table; the end of a text has tiktoken's id.

    The engines forget what they met several times on the way.
    """
    theirs = openai(name, monkeypatch)
    file = tmp_path / f"{name}.tiktoken"
    file.write_bytes((TABLES / f"{TABLE_OF[name]}.tiktoken").read_bytes())
    text = from_tiktoken(str(file))
    if name == "gpt2":
        assert from_tiktoken(str(TABLES / "gpt2")) == text  # encoder.json and vocab.bpe
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: theirs)
    assert from_tiktoken(name) == text

    monkeypatch.setattr(fast_encode, "MEMORY_CHARS", 20_000)
    ours = Tokenizer(text)
    assert ours.fast is not None and ours.end_of_text == theirs.eot_token
    assert ours.end_of_text == {"gpt2": 50256, "cl100k_base": 100257, "o200k_base": 199999}[name]
    engines = spy_on_gigatoken(monkeypatch)
    for sample in [*real_texts().values(), *HARD]:
        assert ours.encode(sample) == theirs.encode_ordinary(sample)
        assert ours._encode(sample) == theirs.encode_ordinary(sample)  # what transformers will do with the file
    for sample in [*runs_of_spaces(), *around(some_characters())]:
        assert ours.encode(sample) == theirs.encode_ordinary(sample), sample
    assert engines is None or len(engines) > 1 or name == "o200k_base"


def spy_on_gigatoken(monkeypatch) -> list | None:
    """A list that grows with each engine that gigatoken makes; None where it is not installed."""
    try:
        import gigatoken
    except ImportError:
        return None
    engines, load = [], gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda spec: engines.append(spec) or load(spec))
    return engines


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name, memory_chars", [("gpt2", 50_000), ("cl100k_base", 10_000)])  # its ASCII alone
def test_gigatoken_gives_the_ids_of_tiktoken_for_every_character(monkeypatch, name, memory_chars):
    pytest.importorskip("gigatoken")
    monkeypatch.setattr(fast_encode, "MEMORY_CHARS", memory_chars)
    theirs = openai(name, monkeypatch)
    ours = Tokenizer(from_tiktoken(str(TABLES / f"{name}.tiktoken")))
    engines = spy_on_gigatoken(monkeypatch)
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for text in [*around(every), *runs_of_spaces(), *real_texts().values()]:
        assert ours.encode(text) == theirs.encode_ordinary(text), text
    assert len(engines) > 1
