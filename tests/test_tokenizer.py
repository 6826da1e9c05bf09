"""tiktoken's ids against those of the `tokenizers` library, round trips, and the file in transformers."""

import json
import random
import unicodedata

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, models
from tokenizers import Tokenizer as HFTokenizer

from tokenizer import END_OF_TEXT, Tokenizer, train_bpe, train_characters

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


def test_both_engines_cut_the_text_at_the_same_places():
    """Whether a character is a letter, a number or a space: for all numbers and spaces and 3,000 other characters."""
    tokenizer = Tokenizer(train_bpe([sample_text(0)], 300))
    others = [
        chr(c) for c in [*range(0x3400), *range(0xA000, 0xAC00), *range(0xF900, 0x20000), *range(0xE0000, 0xE0200)]
    ]
    numbers = [c for c in others if unicodedata.category(c)[0] in "NZ" or c.isspace()]
    found = sorted({*numbers, *random.Random(0).sample(others, 3000)})
    texts = [f"a{c}a!{c}1{c} {c}" for c in found]
    every_piece = {text[i:j].encode() for text in texts for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {piece: 256 + k for k, piece in enumerate(sorted(every_piece - set(ranks)))}
    engine = tiktoken.Encoding("pieces", pat_str=tokenizer.fast._pat_str, mergeable_ranks=ranks, special_tokens={})
    pre_tokenizer = HFTokenizer.from_str(tokenizer.json).pre_tokenizer
    for text in texts:
        pieces = [text[start:end] for _, (start, end) in pre_tokenizer.pre_tokenize_str(text)]
        assert [engine.decode([i]) for i in engine.encode_ordinary(text)] == pieces


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
