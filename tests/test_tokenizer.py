"""Ids and text against `tokenizers` and transformers: tokenizers trained here, and those of others; files, streams."""

import argparse
import functools
import gzip
import inspect
import itertools
import json
import random
import shutil
import unicodedata

import gigatoken
import pytest
import tiktoken
import tiktoken_ext.openai_public as openai_public
from conftest import SHARED
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe
from tokenizers import AddedToken, ByteLevelBPETokenizer, Regex, decoders, models, normalizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import pre_tokenizers as pre

import tokenizer as tokenizer_module
from tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    PATTERN,
    QWEN2_PATTERN,
    SMOLLM_PATTERN,
    TextStream,
    Tokenizer,
    from_tiktoken,
    tiktoken_encoder,
    train_bpe,
    train_characters,
)

WORDS = "the quick brown fox don't I'll we've 12 345 6789 (x) == != ... café naïve 机器 学习 模型 def f(): 😀 İ".split()
WORDS += ["\n\n", " ", "\t"]


def sample_text(seed: int, count: int = 4000) -> str:
    draw = random.Random(seed)
    text = " ".join(draw.choice(WORDS) for _ in range(count))
    return text + "机器学习模型" * 30 + "    \n" * 20 + "=" * 50 + f" {END_OF_TEXT}" * 9


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer(train_bpe([sample_text(k) for k in range(3)], 340))


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return Tokenizer(train_characters(["hello\nworld\t", "机器 <|endoftext|> 😀"]))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=60) | st.lists(
    st.sampled_from([*WORDS, " ", "  ", "\n", "\r\n", "\t", "'", "'S", "\u3000", "\x85", "\u200b", "e\u0301", "٣", "½"])
    | st.sampled_from(
        [END_OF_TEXT, "<|", "|>", "endoftext", "\x00", "\ufffd", "한국", "ก", "\u0378", "\U0001f468\u200d"]
    ),
    max_size=20,
).map("".join)


def reference_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of the `tokenizers` library, with special tokens taken as text."""
    hf = HFTokenizer.from_str(tokenizer.json)
    hf.encode_special_tokens = True
    return hf.encode(text, add_special_tokens=False).ids


# --- BPE ---


@given(TEXTS)
@example(f"a{END_OF_TEXT}b {END_OF_TEXT}{END_OF_TEXT}")
@example(" " * 50 + "x" + "\n" * 50)
@settings(max_examples=300, deadline=None)
def test_ids_are_those_of_the_tokenizers_library(bpe, text):
    assert bpe.fast is not None  # otherwise tokenizers would be compared with itself
    assert bpe.encode(text) == reference_ids(bpe, text)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_bpe_decodes_to_the_text_it_encoded(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


def test_text_that_spells_the_end_of_text_is_text(bpe):
    ids = bpe.encode(f"a{END_OF_TEXT}b")
    assert bpe.end_of_text not in ids and bpe.decode(ids) == f"a{END_OF_TEXT}b"
    assert bpe.decode([*bpe.encode("a"), bpe.end_of_text]) == f"a{END_OF_TEXT}"


def test_ids_are_bytes_then_merges_then_the_end_of_text(bpe):
    vocab = HFTokenizer.from_str(bpe.json).get_vocab()
    assert bpe.vocab_size == 340 == len(vocab)
    assert sorted(vocab.values()) == list(range(340))
    assert bpe.end_of_text == 339 == vocab[END_OF_TEXT]
    assert {len(token) for token, i in vocab.items() if i < 256} == {1}
    assert all(len(token) > 1 for token, i in vocab.items() if i >= 256)
    assert {i for byte in range(128) for i in bpe.encode(chr(byte))} <= set(range(256))


def test_frequent_words_become_one_token(bpe):
    assert len(bpe.encode(" the")) == len(bpe.encode(" quick")) == 1
    assert len(bpe.encode("机器学习")) < len("机器学习".encode()) // 2


def test_numbers_are_cut_to_two_digits_and_words_keep_one_leading_space():
    tokenizer = Tokenizer(train_bpe([" 123456 123456 abcdef  abcdef" * 100], 266))
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(" 123456  abcdef")]
    assert all(len(piece.strip()) <= 2 for piece in pieces if piece.strip().isdigit())
    assert " abcdef" in pieces


def test_training_is_repeatable():
    texts = [sample_text(7)]
    assert train_bpe(texts, 330) == train_bpe(iter(texts), 330)
    assert train_bpe([sample_text(8)], 330) != train_bpe(texts, 330)


def test_a_vocabulary_too_large_for_the_text_names_the_size_that_is_possible():
    texts = ["aaaa bbbb " * 20]
    with pytest.raises(ValueError, match="vocab_size .5000. is too large.*only ([0-9]+) ids") as error:
        train_bpe(texts, 5000)
    possible = int(str(error.value).split("--vocab_size=")[1].split(" ")[0])
    assert 257 < possible < 280
    assert Tokenizer(train_bpe(texts, possible)).vocab_size == possible
    with pytest.raises(ValueError, match=f"only {possible} ids"):
        train_bpe(texts, possible + 1)


@pytest.mark.parametrize("vocab_size", [256, 1, 0, -5])
def test_a_vocabulary_smaller_than_the_bytes_is_refused(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size .{vocab_size}. must be at least 257"):
        train_bpe(["some text"], vocab_size)


def test_bytes_alone_are_a_vocabulary():
    tokenizer = Tokenizer(train_bpe(["some text"], 257))
    assert tokenizer.end_of_text == 256 and len(tokenizer.encode("naïve 机")) == len("naïve 机".encode())
    assert tokenizer.decode(tokenizer.encode("naïve 机")) == "naïve 机"


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character(bpe):
    ids = bpe.encode("😀\u0378")
    assert "\ufffd" in bpe.decode(ids[:1])


@pytest.mark.parametrize("count", [100_000, 2_000_000])
@pytest.mark.parametrize("character", [" ", "a", "=", "\n", "机"])
def test_a_very_long_run_of_one_character_is_encoded(bpe, character, count):
    ids = bpe.encode(f"x{character * count}y")
    assert bpe.decode(ids) == f"x{character * count}y"


# --- characters ---


def test_character_ids_are_the_places_among_the_sorted_characters(characters):
    found = sorted(set("hello\nworld\t机器 <|endoftext|> 😀"))
    assert characters.vocab_size == len(found) + 1 and characters.end_of_text == len(found)
    assert [characters.encode(c) for c in found] == [[i] for i in range(len(found))]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_character_ids_are_an_enumeration_for_any_text(text):
    tokenizer = Tokenizer(train_characters(iter([text[:20], text[20:]])))
    place = {character: i for i, character in enumerate(sorted(set(text)))}
    assert tokenizer.encode(text) == [place[character] for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_characters_round_trip_and_a_spelt_end_of_text_is_text(characters):
    text = f"hello 机器\n\n{END_OF_TEXT}  "
    ids = characters.encode(text)
    assert len(ids) == len(text) and characters.end_of_text not in ids and characters.decode(ids) == text
    assert characters.encode("") == [] and characters.decode([]) == ""
    assert characters.decode([*ids, characters.end_of_text]) == text + END_OF_TEXT


def test_characters_without_an_id_are_named(characters):
    with pytest.raises(ValueError, match=r"no id for \['Q', 'Z'\].*knows"):
        characters.encode("hello ZQZ world")


# --- tokenizers of others ---

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPLIT_BY = {"llama3": LLAMA3_PATTERN, "qwen2": QWEN2_PATTERN}
# Byte-level ones, which tiktoken encodes, and the others.
FAST = ["ours", "llama3", "qwen2", "gpt2", "smollm"]
SLOW = ["llama2", "mistral", "unigram", "wordpiece", "characters"]


def split_and_bytes(pattern: str, behavior: str = "isolated", invert: bool = False, use_regex: bool = False):
    split = pre.Split(Regex(pattern), behavior=behavior, invert=invert)
    return pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


@functools.cache
def made(kind: str) -> str:
    """A small tokenizer.json of this kind, trained on sample_text."""
    texts = [sample_text(k).replace(END_OF_TEXT, "") for k in range(3)]
    if kind in ("ours", "characters"):
        return (
            train_bpe(texts, 340)
            if kind == "ours"
            else train_characters([*texts, *HARD, "".join(map(chr, range(256)))])
        )
    special = ["<unk>", "<s>", "</s>"]
    if kind == "unigram":
        hf = HFTokenizer(models.Unigram())
        hf.pre_tokenizer, hf.decoder = pre.Metaspace(), decoders.Metaspace()
        hf.normalizer = normalizers.NFKC()
        hf.train_from_iterator(
            texts,
            trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False),
        )
    elif kind == "wordpiece":
        hf = HFTokenizer(models.WordPiece(unk_token="<unk>"))
        hf.pre_tokenizer, hf.decoder = pre.BertPreTokenizer(), decoders.WordPiece(cleanup=False)
        hf.train_from_iterator(
            texts, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
        )
    elif kind in ("llama2", "mistral"):  # SentencePiece as BPE: the older and the newer way to write it down
        hf = HFTokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        if kind == "llama2":
            hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            hf.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
        whole = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        hf.decoder = decoders.Sequence(whole)
        words = [word for text in texts for word in text.replace("机", "").split(" ")]  # 机: bytes only
        hf.train_from_iterator(
            words, trainers.BpeTrainer(vocab_size=400, special_tokens=[*special, *BYTES], show_progress=False)
        )
        spec = json.loads(hf.to_str())
        spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in special]
        hf = HFTokenizer.from_str(json.dumps(spec))
    else:
        hf = HFTokenizer(models.BPE(ignore_merges=kind == "llama3"))
        digits = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
        own = {"gpt2": pre.ByteLevel(add_prefix_space=False), "smollm": digits}
        hf.pre_tokenizer = own[kind] if kind in own else split_and_bytes(SPLIT_BY[kind])
        hf.normalizer = normalizers.NFC() if kind == "qwen2" else None
        hf.decoder = decoders.ByteLevel()
        alphabet = pre.ByteLevel.alphabet()
        # GPT-2's special token is a word of the model, the others' are not.
        first = [END_OF_TEXT] if kind in ("gpt2", "smollm") else []
        hf.train_from_iterator(
            texts,
            trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, special_tokens=first, show_progress=False),
        )
        special = {"llama3": ["<|begin_of_text|>", "<|end_of_text|>"]}.get(kind, [END_OF_TEXT, "<|im_end|>"])
    hf.add_special_tokens(special)
    if kind == "qwen2":
        hf.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<q>o", normalized=False)])
        hf.add_tokens([AddedToken("e\u0301o\u0302?", normalized=True)])
    bos = {"llama3": "<|begin_of_text|>", "llama2": "<s>", "mistral": "<s>", "unigram": "<s>"}.get(kind)
    if bos:
        frame = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, hf.token_to_id(bos))])
        hf.post_processor = processors.Sequence([processors.ByteLevel(), frame]) if kind == "llama3" else frame
    return hf.to_str()


HARD = [
    "",
    " ",
    "  leading,  double   triple    ",
    "\n\n\n \n  x\r\n\r\n\ty \r z",
    "I'M we'LL It'S don't 'tis ''s '\u017f 'ſ DON'T they’re",
    "1 12 123 1234 12345 1234567890 3.14 ١٢٣ ½ ² Ⅷ 一二三  1  22   333",
    "e\u0301 o\u0302\u0323 ﬁ Å Å 가 가 \u1100\u1161 क़",
    "👨\u200d👩\u200d👧\u200d👦 👍🏽 🇨🇳🏳\ufe0f\u200d🌈 ☺\ufe0f 😀😀😀",
    "\ue000\uf8ff\U000f0000\u200b\u200c\u200d\u2060\ufeff\u00ad\x00\x7f\x85\xa0\u3000\u2028\u2029",
    "中文，混合English和数字123。机器学习模型",
    "def f(x):\n\tif x != 0:\n\t\treturn {'a': [1, 2]}  # ok\n    \n",
    "https://example.org/a?b=c&d=%20 == != <= -> ... ---- ====",
    "\U00011de0\U00016ff4 \U000105c0 \U00016d63\U00016d67 \u0897",  # new in Unicode 16 and 17
    "<tool_call> x<tool_call>y <tool_call",
    "a <q>o b",
    "a <q>o\u0302 b",
    "a e\u0301o\u0302? b",
    "a \u00e9o\u0302? b",
    "a \u00e9\u00f4? b",
    "▁ ▁▁a <0x41> <0xE6>",
]
SPECIAL = [END_OF_TEXT, "<s>", "</s>", "<unk>", "<|im_end|>", "<|begin_of_text|>", "<|end_of_text|>"]
ANY_TEXT = (
    TEXTS
    | st.sampled_from(HARD)
    | st.lists(st.sampled_from([*HARD, *WORDS, *SPECIAL, "e", "\u0301", "'", "1", "<tool_call>"]), max_size=6).map(
        "".join
    )
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """opened(kind): the Tokenizer of a folder, and what transformers' AutoTokenizer makes of it."""
    transformers = pytest.importorskip("transformers", reason="transformers is a development package")

    @functools.cache
    def pair(kind: str):
        folder = tmp_path_factory.mktemp(kind)
        (folder / "tokenizer.json").write_text(made(kind), encoding="utf-8")
        eos = {"llama3": "<|end_of_text|>", "qwen2": "<|im_end|>", "gpt2": END_OF_TEXT, "smollm": END_OF_TEXT}
        names = {"eos_token": eos.get(kind, END_OF_TEXT if kind in ("ours", "characters") else "</s>")}
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names})
        )
        return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    return pair


def check_ids(ours: Tokenizer, theirs, text: str) -> None:
    """Documents, prompts and text are those of transformers."""
    ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if ours.end_of_text in ids:  # only a Unigram model makes it of a document that spells it
        assert ours.end_of_text_token in text and ours.end_of_text not in ours.encode(text)
    else:
        assert ours.encode(text) == ids
    ids = theirs(text)["input_ids"]
    assert ours.encode_prompt(text) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_every_kind_takes_its_path():
    assert {kind: Tokenizer(made(kind)).fast is not None for kind in FAST + SLOW} == {
        **dict.fromkeys(FAST, True),
        **dict.fromkeys(SLOW, False),
    }


@pytest.mark.parametrize("kind", FAST + [kind for kind in SLOW if kind != "characters"])
def test_ids_and_text_are_those_of_transformers(opened, kind):
    ours, theirs = opened(kind)
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1 and ours.end_of_text == theirs.eos_token_id

    @given(ANY_TEXT)
    @settings(max_examples=150, deadline=None)
    def check(text):
        check_ids(ours, theirs, text)

    check()
    for text in HARD:
        check_ids(ours, theirs, text)


@pytest.mark.parametrize("kind", FAST + SLOW)
def test_a_prompt_parses_special_tokens_and_a_document_does_not(kind):
    tokenizer = Tokenizer(made(kind))
    eos = tokenizer.end_of_text_token
    documents, prompt = tokenizer.encode(f"a {eos} a{eos}{eos}"), tokenizer.encode_prompt(f"a {eos} a")
    assert tokenizer.end_of_text not in documents
    assert prompt.count(tokenizer.end_of_text) == 1
    begins = {"llama3": "<|begin_of_text|>", "llama2": "<s>", "mistral": "<s>", "unigram": "<s>"}
    assert tokenizer.bos == (tokenizer.hf.token_to_id(begins[kind]) if kind in begins else None)
    assert tokenizer.encode_prompt("a") == [tokenizer.bos] * (kind in begins) + tokenizer.encode("a")
    assert documents[0] != tokenizer.bos


def test_a_post_processor_may_add_nothing_or_add_at_the_end():
    hf = HFTokenizer.from_str(made("gpt2"))
    hf.post_processor = processors.ByteLevel()  # GPT-2's
    plain = Tokenizer(hf.to_str())
    assert plain.bos is None and plain.encode_prompt("a b") == plain.encode("a b")
    hf.post_processor = processors.TemplateProcessing(single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, 0)])
    ended = Tokenizer(hf.to_str())
    assert ended.bos is None and ended.encode_prompt("a b") == [*ended.encode("a b"), 0]


@pytest.mark.parametrize("kind", ["ours", "qwen2", "llama2"])
def test_half_a_surrogate_pair_is_a_replacement_character(kind):
    tokenizer = Tokenizer(made(kind))
    for encode in (tokenizer.encode, tokenizer.encode_prompt):
        assert encode("a\ud83d\ude00") == encode("a😀") and encode("é\ud800b\udfff") == encode("é\ufffdb\ufffd")


def test_a_file_that_asks_to_cut_or_pad_does_neither(opened):
    hf = HFTokenizer.from_str(made("llama2"))
    hf.enable_truncation(3)
    hf.enable_padding(length=50, pad_token="<unk>")
    tokenizer = Tokenizer(hf.to_str())
    assert tokenizer.encode(HARD[2]) == opened("llama2")[0].encode(HARD[2])
    assert tokenizer.encode_prompt(HARD[2]) == opened("llama2")[0].encode_prompt(HARD[2])


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
    pieces = {piece.encode() for found in expected for piece in found}
    ranks = {bytes([byte]): byte for byte in range(256)}  # a piece that no pre-tokenizer made is cut in bytes
    ranks |= {piece: 256 + k for k, piece in enumerate(sorted(pieces - set(ranks)))}
    encode, piece_of = tiktoken_encoder(pattern, ranks), {i: piece for piece, i in ranks.items()}
    for text, found in zip(texts, expected, strict=True):
        assert [piece_of[i] for i in encode(text)] == [piece.encode() for piece in found], text


def around(characters: list[str]) -> list[str]:
    """A text for each character, in which it stands in many places."""
    return [f"a{c}a!{c}1{c} {c}{c}'{c}\n{c}  {c}!'S{c}'l{c}" for c in characters]


def runs_of_spaces() -> list[str]:
    """Texts of spaces of all kinds, line ends and a few words: where a pattern's look-ahead acts."""
    draw, alphabet = random.Random(0), [*" \t\n\r\v\x1c\x85\xa0\u2028\u3000", " ", " ", "\n", *"aA1.'/", "'s", "机"]
    return ["".join(draw.choices(alphabet, k=draw.randint(1, 12))) for _ in range(20_000)]


def some_characters() -> list[str]:
    """All numbers and spaces, and 2,000 other characters."""
    ranges = [range(0x3400), range(0xA000, 0xAC00), range(0xF900, 0x20000), range(0xE0000, 0xE0200)]
    others = [chr(c) for c in itertools.chain(*ranges)]
    numbers = [c for c in others if unicodedata.category(c)[0] in "NZ" or c.isspace()]
    new = [*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7)]  # numbers of Unicode 17
    return sorted({*numbers, *map(chr, new), *random.Random(0).sample(others, 2000)})


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


def changed(kind: str, change) -> str:
    """The tokenizer.json of `kind` after change(its JSON)."""
    spec = json.loads(made(kind))
    change(spec)
    return json.dumps(spec)


def add_word(word: str, ignore_merges: bool, word_id: int = 5000):
    """A word that no merges reach."""

    def change(spec):
        spec["model"]["vocab"][word] = word_id
        spec["model"]["ignore_merges"] = ignore_merges

    return change


def set_key(*path, value):
    def change(spec):
        for key in path[:-1]:
            spec = spec[key]
        spec[path[-1]] = value

    return change


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
    spec = json.loads(made("ours"))
    tokens, merges = ["a", "b"], []
    for _ in range(draw.randint(2, 8)):
        left, right = draw.choice(tokens), draw.choice(tokens)
        if left + right not in tokens and len(left + right) < 8:
            tokens.append(left + right)
            merges.append([left, right])
    ids = {token: 1000 + k for k, token in enumerate(tokens[2:])}
    if draw.random() < 0.4:
        pairs = [[token[:i], token[i:]] for token in ids for i in range(1, len(token))]
        merges = [pair for pair in pairs if pair[0] in tokens and pair[1] in tokens]
    if draw.random() < 0.4:
        ids.setdefault("".join(draw.choices("ab", k=draw.randint(2, 6))), 2000)
    if draw.random() < 0.3:
        ids = dict(zip(ids, draw.sample(sorted(ids.values()), len(ids)), strict=True))
        merges.sort(key=lambda pair: ids["".join(pair)])
    if draw.random() < 0.2:
        draw.shuffle(merges)
    vocab = {token: i for token, i in spec["model"]["vocab"].items() if len(token) == 1} | ids
    spec["model"] |= {"vocab": vocab, "merges": merges, "ignore_merges": draw.random() < 0.5}
    spec["added_tokens"][0]["id"] = 3000
    return json.dumps(spec)


@pytest.mark.parametrize("kind", ["ours", "gpt2", "llama3"])  # by tiktoken, by gigatoken, by gigatoken as it is ASCII
def test_whatever_the_merges_engines_are_used_only_where_their_ids_are_the_same(kind):
    """300 odd vocabularies, each on all texts of up to 7 letters a and b; once 30,000 with tiktoken, 1,500 with
    gigatoken: no difference.
    """
    texts = ["".join(letters) for n in range(1, 8) for letters in itertools.product("ab", repeat=n)]
    fast = 0
    for seed in range(300):
        hf = HFTokenizer.from_str(random_bpe(seed))
        hf.pre_tokenizer = PRE_TOKENIZERS[kind][1]
        tokenizer = Tokenizer(hf.to_str())
        if tokenizer.fast is not None:
            fast += 1
            expected = [tokenizer.hf.encode(text, add_special_tokens=False).ids for text in texts]
            assert [list(tokenizer.fast(text)) for text in texts] == expected, seed
    assert 100 < fast < 250


# --- streams ---


@pytest.mark.parametrize("kind", FAST + SLOW)
def test_a_stream_is_the_decoded_text(kind):
    tokenizer = Tokenizer(made(kind))
    byte_ids = [i for i in map(tokenizer.hf.token_to_id, ["<0xE6>", "<0x9C>", "<0xBA>", "<0xFF>"]) if i is not None]
    ids = st.integers(0, tokenizer.vocab_size + 2)  # the last ones are no tokens, as in a padded embedding
    runs = st.lists(ids | st.sampled_from(byte_ids or [0]), max_size=30)

    @given(runs | TEXTS.map(tokenizer.encode_prompt) if kind != "characters" else runs)
    @settings(max_examples=300, deadline=None)
    def check(ids):
        stream = TextStream(tokenizer)
        assert "".join(map(stream.feed, ids)) + stream.finish() == tokenizer.decode(ids)

    check()


@pytest.mark.parametrize("kind", FAST + SLOW)
def test_a_stream_shows_words_at_once_and_characters_whole(kind):
    tokenizer = Tokenizer(made(kind))
    stream = TextStream(tokenizer)
    text = "the quick brown fox"
    pieces = [stream.feed(i) for i in tokenizer.encode(text)]
    assert all(pieces[1:]) and "".join(pieces) == text
    if kind not in ("wordpiece", "unigram"):  # these have no 机, or no id for what they never saw
        stream = TextStream(tokenizer)
        ids = tokenizer.encode("机é😀 机x")
        pieces = [stream.feed(i) for i in ids] + [stream.finish()]
        assert "\ufffd" not in "".join(pieces) and "".join(pieces) == "机é😀 机x"
        assert kind == "characters" or any("\ufffd" in tokenizer.decode([i]) for i in ids)
        cut = TextStream(tokenizer)  # an unfinished character comes at the end
        assert "".join(map(cut.feed, ids[:2])) + cut.finish() == tokenizer.decode(ids[:2]) != ""


def test_a_token_without_text_does_not_take_the_space_of_the_next_word():
    tokenizer = Tokenizer(changed("llama2", add_word("", False)))
    word = tokenizer.encode("the")
    stream = TextStream(tokenizer)
    assert [stream.feed(i) for i in [*word, 5000, *word]] == ["the", "", " the"] and len(word) == 1


@pytest.mark.parametrize("kind", FAST + SLOW)
def test_a_stream_after_a_prompt_goes_on_with_its_text(kind):
    tokenizer = Tokenizer(made(kind))
    prompt = tokenizer.encode_prompt("the quick")
    ids = tokenizer.encode_prompt("the quick brown fox")[len(prompt) :]
    stream = TextStream(tokenizer, prompt)
    assert "".join(map(stream.feed, ids)) + stream.finish() == " brown fox"
    assert len(TextStream(tokenizer, prompt).feed(ids[0])) > 0


# --- special tokens of a folder ---


def folder_of(path, kind: str, **files) -> Tokenizer:
    (path / "tokenizer.json").write_text(made(kind), encoding="utf-8")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return Tokenizer.load(path)


ID = {"<|begin_of_text|>": 340, "<|end_of_text|>": 341}  # of the kind llama3
EOT = {"__type": "AddedToken", "content": "<|begin_of_text|>", "special": True}


@pytest.mark.parametrize(
    "files, eos, stops",
    [
        ({}, 341, {341}),
        ({"tokenizer_config": {"eos_token": "<|begin_of_text|>"}}, 340, {340}),
        ({"tokenizer_config": {"eos_token": EOT}}, 340, {340}),
        ({"tokenizer_config": {"eos_token": None}}, 341, {341}),
        ({"special_tokens_map": {"eos_token": EOT}}, 340, {340}),
        (
            {
                "tokenizer_config": {"eos_token": "<|end_of_text|>"},
                "special_tokens_map": {"eos_token": "<|begin_of_text|>"},
            },
            340,
            {340},
        ),
        (
            {
                "tokenizer_config": {"eos_token": "<|end_of_text|>", "added_tokens_decoder": {}},
                "special_tokens_map": {"eos_token": "<|begin_of_text|>"},
            },
            341,
            {341},
        ),
        ({"config": {"eos_token_id": 340}}, 340, {340}),
        ({"generation_config": {"eos_token_id": [340, 7]}}, 340, {340, 7}),
        ({"generation_config": {"eos_token_id": 340}, "config": {"eos_token_id": 341}}, 340, {340}),
        ({"generation_config": {}, "config": {"eos_token_id": 340}}, 340, {340}),
        ({"config": {"eos_token_id": -1}}, 341, {341}),
        (
            {"tokenizer_config": {"eos_token": "<|end_of_text|>"}, "generation_config": {"eos_token_id": [340, 999]}},
            341,
            {340, 341},
        ),
    ],
)
def test_the_folder_says_what_ends_a_text(tmp_path, files, eos, stops):
    tokenizer = folder_of(tmp_path, "llama3", **files)
    assert (tokenizer.end_of_text, tokenizer.stops) == (eos, stops)
    assert tokenizer.end_of_text_token == tokenizer.hf.id_to_token(eos)
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert (again.end_of_text, again.stops) == (eos, stops)
    (tmp_path / "tokenizer.json").rename(tmp_path / "other.json")
    assert Tokenizer.load(tmp_path / "other.json").end_of_text == 341  # a file of another name stands alone
    if "tokenizer_config" in files or "special_tokens_map" in files:
        transformers = pytest.importorskip("transformers", reason="transformers is a development package")
        (tmp_path / "other.json").rename(tmp_path / "tokenizer.json")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **files.get("tokenizer_config", {})}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True).eos_token_id
        assert theirs == (eos if settings.get("eos_token", EOT) is not None else None)


@pytest.mark.parametrize("kind, eos", [("llama2", "</s>"), ("llama3", "<|end_of_text|>"), ("qwen2", END_OF_TEXT)])
def test_without_settings_the_usual_names_end_a_text(kind, eos):
    assert Tokenizer(made(kind)).end_of_text_token == eos


def test_a_token_that_the_settings_name_is_special_in_prompts_and_never_in_documents(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is a development package")
    hf = HFTokenizer.from_str(made("gpt2"))
    hf.add_tokens([AddedToken("<end>", special=False)])  # wrongly not special
    spec = json.loads(hf.to_str())
    spec["model"]["vocab"]["<begin>"] = 900  # a word of the model only
    names = {"eos_token": "<end>", "bos_token": "<begin>", "pad_token": "<nowhere>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, **names}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours = Tokenizer.load(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "a<begin>b<end>c"
    assert ours.encode_prompt(text) == theirs(text)["input_ids"] and {900, ours.end_of_text} < set(
        theirs(text)["input_ids"]
    )
    assert not {900, ours.end_of_text} & set(ours.encode(text)) and ours.decode(ours.encode(text)) == text
    assert ours.vocab_size == 901  # <nowhere> would be one more row than the model has
    assert ours.fast is not None


def test_holes_among_the_ids_count():
    hf = HFTokenizer(models.WordLevel({"a": 0, "b": 7, "</s>": 90}))
    hf.decoder = decoders.Fuse()
    tokenizer = Tokenizer(hf.to_str())
    assert tokenizer.vocab_size == 91 and tokenizer.end_of_text == 90
    assert tokenizer.decode([0, 5, 7, 90]) == "ab</s>"


# --- real text ---


def real_texts() -> dict[str, str]:
    """100,000 characters each of English, Chinese and code; emoji, joined and flagged."""

    def read(name: str) -> str:
        with gzip.open(SHARED / name, "rt", encoding="utf-8") as file:
            return file.read(100_000)

    emoji = [chr(c) for c in [*range(0x1F300, 0x1F650), *range(0x1F680, 0x1F6FF), *range(0x1F900, 0x1FA00)]]
    draw = random.Random(0)
    joined = [draw.choice(emoji) + draw.choice(["", " ", "\u200d", "\ufe0f", "🏽", "!"]) for _ in range(3000)]
    return {
        "English": read("wiki/wikitext-2/wiki.valid.tokens.gz") + read("other/c4_demo.jsonl.gz"),
        "Chinese": read("wiki/text_zh/zhwiki_wiki_18.doc.txt.gz") + read("other/poetry_zh/songci_00000-09000.jsonl.gz"),
        "code": "".join(inspect.getsource(module) for module in (argparse, inspect, random))[:200_000],
        "emoji": "".join(emoji + joined),
    }


def real_tokenizer(name: str, path) -> None:
    """Write tokenizer.json of one of shared/data's tokenizers."""
    transformers_converter = pytest.importorskip("transformers.convert_slow_tokenizer")
    folder = SHARED / "tokenizer"
    if name == "gpt2":
        hf = HFTokenizer(models.BPE.from_file(str(folder / "gpt2/encoder.json"), str(folder / "gpt2/vocab.bpe")))
        hf.pre_tokenizer, hf.decoder = pre.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        hf.add_special_tokens([END_OF_TEXT])
        hf.save(str(path / "tokenizer.json"))
    elif name == "cl100k":  # as transformers makes Llama 3's tokenizer.json of a file like this
        file = str(folder / "cl100k_base.tiktoken")
        hf = transformers_converter.TikTokenConverter(file).converted()
        hf.add_special_tokens([END_OF_TEXT])
        hf.save(str(path / "tokenizer.json"))
    else:
        file = {"stories260K": SHARED / "weights/stories260K-hf/tokenizer.json"}.get(name, folder / f"{name}.json")
        shutil.copyfile(file, path / "tokenizer.json")


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name, fast, eos",
    [
        ("llama_hf_tokenizer_dolma", False, "</s>"),
        ("stories260K", False, "</s>"),
        ("minimind_tokenizer", True, END_OF_TEXT),
        ("gpt2", True, END_OF_TEXT),
        ("cl100k", True, END_OF_TEXT),
    ],
)
def test_real_tokenizers_give_the_ids_of_transformers_on_real_text(tmp_path, name, fast, eos):
    transformers = pytest.importorskip("transformers", reason="transformers is a development package")
    real_tokenizer(name, tmp_path)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (ours.fast is not None) == fast
    texts = real_texts()
    for text in [*texts.values(), *HARD, *SPECIAL]:
        check_ids(ours, theirs, text)
    if name in ("gpt2", "cl100k"):  # a third opinion: OpenAI's ranks
        file = {"gpt2": "gpt2.tiktoken", "cl100k": "cl100k_base.tiktoken"}[name]
        ranks = load_tiktoken_bpe(str(SHARED / "tokenizer" / file))
        pattern = GPT2_PATTERN if name == "gpt2" else LLAMA3_PATTERN
        openai = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        for text in texts.values():
            assert ours.encode(text) == openai.encode_ordinary(text)
    stream = TextStream(ours)
    ids = ours.encode(texts["emoji"][:1000] + texts["Chinese"][:1000])
    assert "".join(map(stream.feed, ids)) + stream.finish() == ours.decode(ids)


# --- tiktoken's encodings ---


def openai(name: str, monkeypatch) -> tiktoken.Encoding:
    """tiktoken's own encoding, with its own pattern, from the tables here (for o200k_base those of cl100k_base)."""
    tables = SHARED / "tokenizer"
    ranks = load_tiktoken_bpe(str(tables / ("gpt2.tiktoken" if name == "gpt2" else "cl100k_base.tiktoken")))
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda *_, **__: ranks)
    return tiktoken.Encoding(**{**getattr(openai_public, name)(), "explicit_n_vocab": None})


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_named_encodings_give_the_ids_of_tiktoken(tmp_path, monkeypatch, name):
    """From a file <name>.tiktoken, and by name where tiktoken has the table; the end of a text has tiktoken's id."""
    theirs = openai(name, monkeypatch)
    file = tmp_path / f"{name}.tiktoken"
    file.write_bytes((SHARED / "tokenizer/gpt2.tiktoken").read_bytes())
    if name != "gpt2":
        file.write_bytes((SHARED / "tokenizer/cl100k_base.tiktoken").read_bytes())
    text = from_tiktoken(str(file))
    ours = Tokenizer(text)
    assert ours.fast is not None and ours.end_of_text == theirs.eot_token
    assert ours.end_of_text == {"gpt2": 50256, "cl100k_base": 100257, "o200k_base": 199999}[name]
    for sample in [*real_texts().values(), *HARD]:
        assert ours.encode(sample) == theirs.encode_ordinary(sample)
        assert ours._encode(sample) == theirs.encode_ordinary(sample)  # what transformers will do with the file
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: theirs)
    assert from_tiktoken(name) == text


def check_every(name: str, monkeypatch, texts: list[str], memory_chars: int) -> None:
    """Texts and the ids of tiktoken, by an engine that forgets what it met several times on the way."""
    monkeypatch.setattr(tokenizer_module, "MEMORY_CHARS", memory_chars)
    made, load = [], gigatoken.Tokenizer.from_json
    monkeypatch.setattr(gigatoken.Tokenizer, "from_json", lambda spec: made.append(spec) or load(spec))
    theirs, file = openai(name, monkeypatch), SHARED / f"tokenizer/{name}.tiktoken"
    ours = Tokenizer(from_tiktoken(str(file)))
    for text in texts:
        assert ours.encode(text) == theirs.encode_ordinary(text), text
    assert len(made) > 1  # gigatoken was asked


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base"])
def test_gigatoken_gives_the_ids_of_tiktoken(monkeypatch, name):
    check_every(name, monkeypatch, [*runs_of_spaces(), *around(some_characters()), *real_texts().values()], 10_000)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name, memory_chars", [("gpt2", 50_000), ("cl100k_base", 10_000)])  # its ASCII alone
def test_gigatoken_gives_the_ids_of_tiktoken_for_every_character(monkeypatch, name, memory_chars):
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    check_every(name, monkeypatch, [*around(every), *runs_of_spaces(), *real_texts().values()], memory_chars)


@pytest.mark.real_data
def test_the_two_files_of_gpt2_are_its_encoding():
    folder = SHARED / "tokenizer"
    assert from_tiktoken(str(folder / "gpt2")) == from_tiktoken(str(folder / "gpt2.tiktoken"))


def test_a_table_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    def offline(name):
        raise OSError("no route to host\nat all")

    monkeypatch.setattr(tiktoken, "get_encoding", offline)
    with pytest.raises(ValueError, match="fetch o200k_base.tiktoken, give its path: no route to host at all"):
        from_tiktoken("o200k_base")
    with pytest.raises(ValueError, match="unknown encoding; known are gpt2, cl100k_base, o200k_base"):
        from_tiktoken(str(tmp_path / "other.tiktoken"))
    (tmp_path / "gpt2.tiktoken").write_bytes(b"no table")
    with pytest.raises(ValueError, match="gpt2.tiktoken: its table cannot be had"):
        from_tiktoken(str(tmp_path / "gpt2.tiktoken"))
    (tmp_path / "gpt2").mkdir()  # a data folder may have the name of an encoding
    monkeypatch.chdir(tmp_path)
    assert from_tiktoken("gpt2") is None and from_tiktoken(str(tmp_path / "gpt2")) is None


# --- files ---


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_a_file_or_its_folder_loads_with_the_same_ids(tmp_path, request, kind):
    tokenizer = request.getfixturevalue(kind)
    (tmp_path / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        loaded = Tokenizer.load(path)
        assert (loaded.vocab_size, loaded.end_of_text) == (tokenizer.vocab_size, tokenizer.end_of_text)
        assert loaded.encode("hello 机器 world") == tokenizer.encode("hello 机器 world") != []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"no json",
        b'{"model": {}}',
        b"\xff\xfe\x00binary",
        b'{"version": "1.0", "model": {"type": 3}}',
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, bpe, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content if content != b"cut" else bpe.json.encode()[:-100])
    with pytest.raises(ValueError) as error:
        Tokenizer.load(tmp_path)
    assert str(error.value).startswith(f"{path}: not a usable tokenizer.json") and "\n" not in str(error.value)


NESTED = b'{"a":' * 100_000


@pytest.mark.parametrize(
    "name, content",
    [
        ("tokenizer.json", NESTED),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer_config.json", NESTED),
        ("tokenizer_config.json", b"[1, 2]"),
        ("tokenizer_config.json", b'{"eos_token": '),
        ("tokenizer_config.json", b"\xff\xfe"),
        ("special_tokens_map.json", b"3"),
        ("generation_config.json", b"null"),
        ("config.json", b'"text"'),
    ],
)
def test_a_folder_with_a_damaged_file_is_refused_by_its_name(tmp_path, name, content):
    (tmp_path / "tokenizer.json").write_text(made("llama3"), encoding="utf-8")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        Tokenizer.load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / name}: not ") and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 400


def test_an_error_that_quotes_the_file_is_one_short_line(tmp_path):
    spec = {"model": {"type": "BPE", "vocab": {"c": 0}, "merges": [["a\nb" * 1000, "c"]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="Token .a ba b.*") as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < len(str(tmp_path)) + 400


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"tokenizer_config": {"eos_token": "<nowhere>"}}, "no <nowhere> token"),
        ({"tokenizer_config": {"eos_token": 7}}, "no 7 token"),
        ({"tokenizer_config": {"eos_token": ["</s>"]}}, "no .* token"),
        ({"config": {"eos_token_id": "2"}}, "eos_token_id is .'2'.,"),
        ({"generation_config": {"eos_token_id": [True]}}, "eos_token_id is .True.,"),
        ({"generation_config": {"eos_token_id": {"a": 1}}}, "eos_token_id is"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, says):
    with pytest.raises(ValueError, match=f"tokenizer.json: .*{says}"):
        folder_of(tmp_path, "llama3", **settings)


def test_a_post_processor_that_adds_an_id_beyond_the_vocabulary_is_refused():
    spec = json.loads(made("llama2"))
    spec["post_processor"]["special_tokens"]["<s>"]["ids"] = [77_777]
    with pytest.raises(ValueError, match="adds id 77777, the largest is [0-9]{3}$"):
        Tokenizer(json.dumps(spec))


@pytest.mark.parametrize("model", ['{"PREFIX": "#", "VOCAB"}', '{"PREFIX": "#", "VOCAB", "PREFIX": ""}'])
def test_a_bpe_with_a_prefix_of_pieces_is_refused(tmp_path, model):
    """tokenizers 0.23 ends the interpreter on some of these (it cuts a merge's text inside a character)."""
    model = model.replace("PREFIX", "continuing_subword_prefix")
    model = model.replace('"VOCAB"', '"type": "BPE", "vocab": {"a": 0, "#b": 1, "ab": 2}, "merges": [["a", "#b"]]')
    added = '[{"id": 3, "content": "</s>", "special": true}]'
    (tmp_path / "tokenizer.json").write_text(f'{{"model": {model}, "added_tokens": {added}}}')
    with pytest.raises(ValueError, match="tokenizer.json: .*continuing_subword_prefix is not supported"):
        Tokenizer.load(tmp_path)
    assert Tokenizer(made("wordpiece")).encode("quick")  # its model has a prefix too


def test_a_panic_in_the_library_is_an_error_of_one_line(tmp_path):
    """Each of these ends in a Rust panic, which is no Exception."""
    settings = {"type": "Precompiled", "precompiled_charsmap": "/////////w=="}
    (tmp_path / "tokenizer.json").write_text(changed("llama2", set_key("normalizer", value=settings)))
    with pytest.raises(ValueError, match="tokenizer.json: not a usable tokenizer.json: "):
        Tokenizer.load(tmp_path)
    tokenizer = Tokenizer(changed("llama2", set_key("pre_tokenizer", value={"type": "FixedLength", "length": 0})))
    for encode in (tokenizer.encode, tokenizer.encode_prompt):
        with pytest.raises(ValueError, match="cannot encode this text: chunk size"):
            encode("abc")
    strip = {"type": "Strip", "content": "▁", "start": 0, "stop": 9}
    tokenizer = Tokenizer(changed("llama2", set_key("decoder", value=strip)))
    with pytest.raises(ValueError, match="cannot decode these ids: "):
        tokenizer.decode(tokenizer.encode(" "))


def test_a_missing_file_is_named(tmp_path):
    for path, missing in ((tmp_path, tmp_path / "tokenizer.json"), (tmp_path / "x.json", tmp_path / "x.json")):
        with pytest.raises(ValueError) as error:
            Tokenizer.load(path)
        assert str(error.value) == f"{missing}: no such tokenizer file"


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path):
    HFTokenizer(models.WordLevel({"a": 0, "b": 1})).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer.json: .*<\|endoftext\|>"):
        Tokenizer.load(tmp_path)


def other_tokenizers() -> dict[str, str]:
    """tokenizer.json as others write it: GPT-2's kind, without a pre-tokenizer, with few keys, with other merge ids."""
    gpt2 = ByteLevelBPETokenizer()
    gpt2.train_from_iterator([sample_text(0)], vocab_size=300, special_tokens=[END_OF_TEXT], show_progress=False)
    plain = HFTokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    plain.add_special_tokens([END_OF_TEXT])
    keys = ("version", "added_tokens", "model")
    bare = {key: value for key, value in json.loads(plain.to_str()).items() if key in keys}
    draw = random.Random(0)  # words of few letters: merges that overlap, so that their order matters
    letters = " ".join("".join(draw.choices("abc", k=6)) for _ in range(2000))
    shuffled = json.loads(train_bpe([letters], 300))
    merged = ["".join(merge) for merge in shuffled["model"]["merges"]]
    ids = {token: 256 + i for i, token in enumerate(reversed(merged))}
    shuffled["model"]["vocab"] = {token: ids.get(token, i) for token, i in shuffled["model"]["vocab"].items()}
    return {"gpt2": gpt2.to_str(), "plain": plain.to_str(), "bare": json.dumps(bare), "shuffled": json.dumps(shuffled)}


@pytest.mark.parametrize("kind", ["gpt2", "plain", "bare", "shuffled"])
def test_a_tokenizer_from_elsewhere_gives_its_own_ids(kind):
    tokenizer = Tokenizer(other_tokenizers()[kind])
    text = {"gpt2": sample_text(1, 50), "shuffled": "abcabba cabac ccabab"}.get(kind, "abab")
    assert tokenizer.encode(text) == reference_ids(tokenizer, text)
    assert len(tokenizer.encode(text)) > 1 and tokenizer.end_of_text not in tokenizer.encode(text)


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_transformers_opens_the_file_with_equal_ids(tmp_path, request, kind):
    transformers = pytest.importorskip("transformers", reason="transformers is a development package")
    tokenizer = request.getfixturevalue(kind)
    (tmp_path / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = (
        "hello world\n机器 lo" if kind == "characters" else sample_text(5, 200).replace(END_OF_TEXT, "") + "\u0378 😀"
    )
    ids = opened(text)["input_ids"]
    assert ids == tokenizer.encode(text) and opened.decode(ids) == text
    assert len(opened) == tokenizer.vocab_size and opened.eos_token_id == tokenizer.end_of_text
