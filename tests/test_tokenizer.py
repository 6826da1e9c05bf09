"""Ids and text against `tokenizers` and transformers: tokenizers trained here, and those of others; files, streams."""

import base64
import copy
import functools
import itertools
import json
import random
import shutil

import pytest
import tiktoken
from conftest import SHARED, examples
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer_kinds import (
    ANY_TEXT,
    FAST,
    HARD,
    SLOW,
    SPECIAL,
    TEXTS,
    add_word,
    changed,
    made,
    real_texts,
    reference_ids,
    sample_text,
    set_key,
)
from tokenizers import AddedToken, ByteLevelBPETokenizer, decoders, models, processors
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import pre_tokenizers as pre

import checkpoint
from errors import one_line
from model import Llama, ModelConfig
from tokenizer import (
    END_OF_TEXT,
    TURN_END,
    TURN_START,
    TextStream,
    Tokenizer,
    from_tiktoken,
    train_bpe,
    train_characters,
)
from tokenizer_files import growth


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer(train_bpe([sample_text(k) for k in range(3)], 340))


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return Tokenizer(train_characters(["hello\nworld\t", "机器 <|endoftext|> 😀"]))


# --- BPE ---


@given(TEXTS)
@examples(200)
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
    tokenizer = Tokenizer(train_bpe([" 123456 123456 abcdef  abcdef" * 100], 268))
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
    assert 259 < possible < 282
    assert Tokenizer(train_bpe(texts, possible)).vocab_size == possible
    with pytest.raises(ValueError, match=f"only {possible} ids"):
        train_bpe(texts, possible + 1)


@pytest.mark.parametrize("vocab_size", [258, 1, 0, -5])
def test_a_vocabulary_smaller_than_the_bytes_is_refused(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size .{vocab_size}. must be at least 259"):
        train_bpe(["some text"], vocab_size)


def test_bytes_alone_are_a_vocabulary():
    tokenizer = Tokenizer(train_bpe(["some text"], 259))
    assert tokenizer.end_of_text == 258 and len(tokenizer.encode("naïve 机")) == len("naïve 机".encode())
    assert tokenizer.decode(tokenizer.encode("naïve 机")) == "naïve 机"


def test_the_tokens_of_conversations_are_reserved_and_no_document_has_them():
    spelled = "<|im_start|>user <|im_end|><|endoftext|>\n"
    tokenizer = Tokenizer(train_bpe([spelled * 500, sample_text(0)], 340))
    reserved = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    assert [tokenizer.hf.id_to_token(i) for i in range(337, 340)] == reserved
    assert max(tokenizer.encode(spelled)) < 337  # a document
    assert [i for i in tokenizer.encode_prompt(spelled) if i >= 337] == [337, 338, 339]
    assert tokenizer.with_special_tokens(reserved) is tokenizer


def test_bytes_that_are_no_utf8_decode_to_the_replacement_character(bpe):
    ids = bpe.encode("😀\u0378")
    assert "\ufffd" in bpe.decode(ids[:1])


@pytest.mark.parametrize("character", " a=\n机")
def test_a_very_long_run_of_one_character_is_encoded(bpe, character):
    text = f"x{character * 100_000}y"
    assert bpe.decode(bpe.encode(text)) == text


def test_a_run_of_a_million_spaces_is_encoded():
    """tiktoken overflows its stack there, if the pattern has a look-ahead: `tokenizers` takes over."""
    tokenizer = Tokenizer(made("smollm"))
    text = f"x{' ' * 1_000_000}y"
    assert tokenizer.decode(tokenizer.encode(text)) == text


# --- characters ---


def test_character_ids_are_the_places_among_the_sorted_characters(characters):
    found = sorted(set("hello\nworld\t机器 <|endoftext|> 😀"))
    assert characters.vocab_size == len(found) + 1 and characters.end_of_text == len(found)
    assert [characters.encode(c) for c in found] == [[i] for i in range(len(found))]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
@examples(60)
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
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": TRANSFORMERS_CLASS, **names}))
        return Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    return pair


def check_ids(ours: Tokenizer, theirs, text: str) -> None:
    """Documents, prompts and text are those of transformers."""
    ids = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = {ours.end_of_text}  # a word of the vocabulary, or a token that is not special
    if isinstance(ours.hf.model, models.Unigram):
        special |= {ours.hf.token_to_id("<s>")}
    if special & set(ids):
        assert not special & set(ours.encode(text))
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
    @examples(150)
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
    for i, token in tokenizer.hf.get_added_tokens_decoder().items():
        if token.special and token.content != "<unk>":  # what a text has no word for
            assert i in tokenizer.encode_prompt(f"a {token.content}") and i not in tokenizer.encode(
                f"a {token.content}"
            )
    begins = {"llama3": "<|begin_of_text|>", "llama2": "<s>", "mistral": "<s>", "unigram": "<s>"}
    assert tokenizer.bos == (tokenizer.hf.token_to_id(begins[kind]) if kind in begins else None)
    assert tokenizer.encode_prompt("a") == [tokenizer.bos] * (kind in begins) + tokenizer.encode("a")
    assert documents[0] != tokenizer.bos


def small_unigram(**normalizer) -> Tokenizer:
    """Ids: <unk> 0, </s> 1, <s> 2, then the characters a b < / s > from 3."""
    words = [("<unk>", 0.0), ("</s>", 0.0), ("<s>", 0.0), *((character, -2.0) for character in "ab</s>")]
    hf = HFTokenizer(models.Unigram(words, 0, False))
    hf.add_special_tokens(["<unk>", "</s>", "<s>"])
    spec = json.loads(hf.to_str())
    return Tokenizer(json.dumps({**spec, "normalizer": normalizer or None}))


@pytest.mark.parametrize(
    "normalizer, text",
    [
        ({}, "a</s>b"),
        ({"type": "NFKC"}, "a＜/s＞b"),
        ({"type": "Lowercase"}, "a</S>b"),
        ({"type": "Replace", "pattern": {"String": "b"}, "content": "</s>b"}, "ab"),
    ],
)
def test_a_document_that_becomes_the_end_of_text_by_the_normalizer_does_not_end(normalizer, text):
    tokenizer = small_unigram(**normalizer)
    assert tokenizer.encode(text) == [3, 5, 6, 7, 8, 4]
    assert tokenizer.encode("a<s>") == [3, 5, 7, 8]  # other special tokens as well
    assert tokenizer.encode_prompt("a</s>") == [3, 1]  # the model is as it was


def test_a_word_that_is_special_in_a_word_level_model_is_not_its_id_in_a_document():
    hf = HFTokenizer(models.WordLevel({"?": 0, "a": 1, "</s>": 2, "<s>": 3}, unk_token="?"))
    hf.pre_tokenizer = pre.WhitespaceSplit()
    hf.add_special_tokens(["</s>", "<s>", "?"])
    tokenizer = Tokenizer(hf.to_str())
    assert tokenizer.encode("a </s> <s> ? a") == [1, 0, 0, 0, 1] and tokenizer.encode_prompt("a </s>") == [1, 2]


def test_an_end_of_text_that_merges_reach_is_merged_no_further_than_its_parts(tmp_path):
    tokenizer = folder_of(tmp_path, "gpt2", tokenizer_config={"eos_token": "the"})
    ids = tokenizer.encode("xthe the")
    assert tokenizer.end_of_text not in ids and tokenizer.decode(ids) == "xthe the"
    assert tokenizer.fast is not None


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "characters"])
def test_an_end_of_text_that_is_a_character_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="end-of-text token 'e' is a character of the vocabulary"):
        folder_of(tmp_path, kind, tokenizer_config={"eos_token": "e"})
    added = folder_of(tmp_path / "new", kind, tokenizer_config={"eos_token": "\ue123"})  # in no vocabulary
    assert added.end_of_text == added.vocab_size - 1


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


# --- streams ---


@pytest.mark.parametrize("kind", FAST + SLOW)
def test_a_stream_is_the_decoded_text(kind):
    tokenizer = Tokenizer(made(kind))
    byte_ids = [i for i in map(tokenizer.hf.token_to_id, ["<0xE6>", "<0x9C>", "<0xBA>", "<0xFF>"]) if i is not None]
    ids = st.integers(0, tokenizer.vocab_size + 2)  # the last ones are no tokens, as in a padded embedding
    runs = st.lists(ids | st.sampled_from(byte_ids or [0]), max_size=30)

    @given(runs | TEXTS.map(tokenizer.encode_prompt) if kind != "characters" else runs)
    @examples(300)
    def check(ids):
        stream = TextStream(tokenizer)
        assert "".join(map(stream.feed, ids)) + stream.flush() == tokenizer.decode(ids)

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
        pieces = [stream.feed(i) for i in ids] + [stream.flush()]
        assert "\ufffd" not in "".join(pieces) and "".join(pieces) == "机é😀 机x"
        assert kind == "characters" or any("\ufffd" in tokenizer.decode([i]) for i in ids)
        cut = TextStream(tokenizer)  # an unfinished character comes at the end
        assert "".join(map(cut.feed, ids[:2])) + cut.flush() == tokenizer.decode(ids[:2]) != ""


def test_a_token_without_text_does_not_take_the_space_of_the_next_word():
    tokenizer = Tokenizer(changed("llama2", add_word("", False)))
    word = tokenizer.encode("the")
    stream = TextStream(tokenizer)
    assert [stream.feed(i) for i in [*word, 5000, *word]] == ["the", "", " the"] and len(word) == 1


def test_a_stop_string_of_bytes_is_found_before_another_token_comes():
    tokenizer = Tokenizer(made("llama2"))
    newline, begin, word = map(tokenizer.hf.token_to_id, ["<0x0A>", "<0xE6>", "the"])
    stream = TextStream(tokenizer, stops=["\n"])
    assert stream.feed(word) and not stream.stopped
    assert stream.feed(newline) == "" and stream.stopped
    two = TextStream(tokenizer, stops=["\n\n"])
    assert not two.feed(newline) and not two.stopped and not two.feed(newline) and two.stopped
    other = TextStream(tokenizer, stops=["x"])  # without a stop the run may yet be no UTF-8
    assert [*map(other.feed, [newline, begin])] == ["", ""]
    assert other.feed(word) == tokenizer.decode([newline, begin, word])


@pytest.mark.parametrize("kind", FAST + SLOW)
def test_a_stream_after_a_prompt_goes_on_with_its_text(kind):
    tokenizer = Tokenizer(made(kind))
    prompt = tokenizer.encode_prompt("the quick")
    ids = tokenizer.encode_prompt("the quick brown fox")[len(prompt) :]
    stream = TextStream(tokenizer, prompt)
    assert "".join(map(stream.feed, ids)) + stream.flush() == " brown fox"
    assert len(TextStream(tokenizer, prompt).feed(ids[0])) > 0


# --- special tokens of a folder ---


def folder_of(path, kind: str, **files) -> Tokenizer:
    return Tokenizer.load(write_folder(path, made(kind), files))


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
        settings = {"tokenizer_class": TRANSFORMERS_CLASS, **files.get("tokenizer_config", {})}
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
    settings = {"tokenizer_class": TRANSFORMERS_CLASS, "add_bos_token": True, **names}
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


TRANSFORMERS_CLASS = "PreTrainedTokenizerFast"

# --- what the folder says of special tokens, against transformers ---

POOL = ["</s>", "<s>", "<unk>", "<|user|>", "<|x y|>", "the", "<q>"]  # of the tokenizer, of its vocabulary, new


def flagged(draw, content: str) -> dict:
    """A token with its flags, as tokenizer_config.json writes it."""
    flags = {key: draw(st.booleans()) for key in ("lstrip", "rstrip", "single_word", "normalized", "special")}
    return {"content": content, **flags}


@st.composite
def folder_files(draw) -> dict[str, dict]:
    """Files that stand beside a tokenizer.json: tokens in every place that transformers reads, in any of its forms."""

    def token(form_key: str | None = "__type"):
        content = draw(st.sampled_from(POOL))
        if draw(st.booleans()):
            return content
        return {**flagged(draw, content), **({form_key: "AddedToken"} if form_key else {})}

    def some(key: str, value) -> dict:
        return {key: value()} if draw(st.integers(0, 3)) == 0 else {}

    def texts():
        return draw(st.lists(st.sampled_from(POOL), max_size=3))

    config: dict = {}
    for key in ("eos_token", "pad_token", "bos_token", "image_token"):
        config |= some(key, token)
    config |= some("extra_special_tokens", texts) | some("additional_special_tokens", texts)
    config |= some("extra_special_tokens", lambda: {"audio_token": draw(st.sampled_from(POOL))})
    config |= some("split_special_tokens", lambda: True)
    files = {"tokenizer_config": config}
    if draw(st.booleans()):
        listed = [flagged(draw, content) for content in draw(st.permutations(POOL))[: draw(st.integers(0, 4))]]
        config["added_tokens_decoder"] = {"listed": listed}  # their ids follow from the tokenizer.json
    else:
        special = {}
        for key in ("eos_token", "unk_token", "video_token"):
            special |= some(key, lambda: token(None))
        special |= some("additional_special_tokens", texts) | some("extra_special_tokens", texts)
        files["special_tokens_map"] = special
        files["added_tokens"] = {"listed": texts()}
    return files


def give_ids(files: dict[str, dict], hf: HFTokenizer) -> dict[str, dict]:
    """`files` with the ids that listed tokens get: their own, or the next ones."""
    following = itertools.count(max(hf.get_vocab().values()) + 1)
    ids: dict[str, int] = {}

    def id_of(content: str) -> int:
        if content not in ids:
            known = hf.token_to_id(content)
            ids[content] = next(following) if known is None else known
        return ids[content]

    files = copy.deepcopy(files)
    config = files["tokenizer_config"]
    if "added_tokens_decoder" in config:
        listed = config["added_tokens_decoder"]["listed"]
        config["added_tokens_decoder"] = {str(id_of(flags["content"])): flags for flags in listed}
    if "added_tokens" in files:
        files["added_tokens"] = {content: id_of(content) for content in files["added_tokens"]["listed"]}
    return files


def write_folder(folder, tokenizer_json: str, files: dict[str, dict]):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def auto_tokenizer(folder):
    transformers = pytest.importorskip("transformers", reason="transformers is a development package")
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def spelt_texts(theirs, count: int) -> list[str]:
    """Texts that spell the added tokens, whole and in part, between spaces, line ends and letters."""
    draw = random.Random(0)
    contents = [token.content for token in theirs.added_tokens_decoder.values()]
    around = [" ", "  ", "\n", "\t", "a", "yes", "the", "é", ".", "<", "|>", "s>", "\u3000"]
    pieces = [*around, *draw.choices(contents, k=2 * len(around))]
    return ["".join(draw.choices(pieces, k=draw.randint(0, 8))) for _ in range(count)]


def check_folder(folder, count: int) -> Tokenizer:
    """The tokens of a folder, and the ids of `count` texts that spell them, are those of transformers.

    So they are in a folder with the same tokenizer.json and nothing but the tokenizer_config.json that we write.
    """
    ours, theirs = Tokenizer.load(folder), auto_tokenizer(folder)
    files = {"tokenizer_config": {"tokenizer_class": TRANSFORMERS_CLASS, **ours.special}}
    again = write_folder(folder.parent / f"{folder.name}_again", ours.json, files)
    ours_again, theirs_again = Tokenizer.load(again), auto_tokenizer(again)

    tokens = {i: repr(token) for i, token in theirs.added_tokens_decoder.items()}
    for tokenizer in (ours, ours_again):
        assert {i: repr(token) for i, token in tokenizer.hf.get_added_tokens_decoder().items()} == tokens
    assert ours.same(ours_again) and ours_again.special == ours.special

    for text in spelt_texts(theirs, count):
        check_ids(ours, theirs, text)
        assert ours_again.encode_prompt(text) == ours.encode_prompt(text) == theirs_again(text)["input_ids"]
        assert ours_again.encode(text) == ours.encode(text)
    return ours


@pytest.mark.parametrize("kind", ["llama2", "gpt2", "qwen2"])
def test_special_tokens_of_any_folder_are_those_of_transformers(tmp_path, kind):
    """Their ids, their flags, the prompts and the documents that spell them."""

    flagged_pad = {"content": "<s>", "normalized": False, "special": False, "__type": "AddedToken"}

    @given(folder_files())
    @example({"tokenizer_config": {"pad_token": flagged_pad}, "added_tokens": {"listed": ["<s>"]}})
    @examples(150)
    def check(files):
        files = give_ids(files, HFTokenizer.from_str(made(kind)))
        files["tokenizer_config"] = {
            "tokenizer_class": TRANSFORMERS_CLASS,
            "eos_token": "</s>",
            **files["tokenizer_config"],
        }
        check_folder(write_folder(tmp_path / "model", made(kind), files), 20)

    check()


@pytest.mark.parametrize("kind", ["llama2", "gpt2", "unigram"])
@pytest.mark.parametrize("flag", ["normalized", "lstrip", "rstrip", "single_word"])
def test_the_flags_of_a_special_token_count_in_prompts(tmp_path, kind, flag):
    """In tokenizer.json; the settings that name the token do not change them."""
    spec = json.loads(made(kind))
    for token in spec["added_tokens"]:
        token[flag] = not token[flag]
    names = {"eos_token": spec["added_tokens"][-1]["content"], "pad_token": spec["added_tokens"][0]["content"]}
    files = {"tokenizer_config": {"tokenizer_class": TRANSFORMERS_CLASS, **names}}
    check_folder(write_folder(tmp_path / "model", json.dumps(spec), files), 100)


CASES = SHARED.parent / "cases/model"


@pytest.mark.real_data
@pytest.mark.parametrize("case", sorted(path.parent.name for path in CASES.glob("0[12]_*/*/tokenizer.json")))
def test_cases_from_use_give_the_ids_of_transformers(tmp_path, case):
    (folder,) = CASES.glob(f"0[12]_*/{case}")
    shutil.copytree(folder, tmp_path / "model")
    tokenizer = check_folder(tmp_path / "model", 200)
    if case == "decoder_new_id":
        assert tokenizer.stops == {2, 512} and "<|user|>" in tokenizer.decode([5, 512])


@pytest.mark.parametrize(
    "name, content",
    [
        ("tokenizer_config", {"added_tokens_decoder": {"7": {"content": "<new>"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"999": {"content": "</s>"}}}),
        ("added_tokens", {"<new>": 4_000_000_000}),
        ("added_tokens", {"</s>": 0}),
    ],
)
def test_an_id_that_contradicts_the_tokenizer_is_refused_by_the_file_that_says_it(tmp_path, name, content):
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/{name}.json.* gives '.*' the id [0-9]+, but .* its id is"
    ) as error:
        folder_of(tmp_path, "llama2", **{name: content})
    assert len(str(error.value)) < len(str(tmp_path)) + 300


def test_a_token_that_only_the_settings_add_needs_no_row_of_the_model(tmp_path):
    """A pad token without a row of its own is common. The end of text, and what documents may have, need a row."""
    rows = Tokenizer(made("llama2")).vocab_size
    pad = folder_of(tmp_path, "llama2", tokenizer_config={"pad_token": "<pad>", "eos_token": "</s>"})
    assert (pad.vocab_size, pad.needed_rows) == (rows + 1, rows) and pad.encode_prompt("<pad>")[-1] == rows
    end = folder_of(tmp_path, "llama2", tokenizer_config={"eos_token": "<end>"})
    assert end.end_of_text == rows and end.needed_rows == rows + 1
    every = folder_of(tmp_path, "llama2", added_tokens={"<call>": rows}, tokenizer_config={"eos_token": "</s>"})
    assert every.needed_rows == rows + 1 and rows in every.encode("a <call>")
    assert not every.same(Tokenizer(made("llama2"))) and pad.same(Tokenizer(made("llama2")))

    checkpoint.check_vocabulary(ModelConfig(rows), pad)
    for tokenizer in (end, every):
        with pytest.raises(
            ValueError, match=f"the tokenizer has {rows + 1} ids, but the model's embedding {rows} rows"
        ):
            checkpoint.check_vocabulary(ModelConfig(rows), tokenizer)


def test_a_checkpoint_keeps_the_tokens_that_only_the_settings_add(tmp_path):
    """Its tokenizer_config.json gives transformers, and this program, the same ids again."""
    eos = {"__type": "AddedToken", "content": "</s>", "rstrip": True, "special": True}
    settings = {"eos_token": eos, "extra_special_tokens": ["<|user|>"], "image_token": "<image>"}
    more = {"added_tokens": {"<call>": 398}, "generation_config": {"eos_token_id": [2, 400]}}
    tokenizer = folder_of(tmp_path / "came", "llama2", tokenizer_config=settings, **more)
    assert tokenizer.stops == {2, 400}
    model = Llama(ModelConfig(tokenizer.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=8, ffn_hidden=8))
    (tmp_path / "saved").mkdir()
    for name, content in checkpoint.small_files(model, tokenizer, carried={}).items():
        (tmp_path / "saved" / name).write_bytes(content)

    saved, theirs = Tokenizer.load(tmp_path / "saved"), auto_tokenizer(tmp_path / "saved")
    new = [saved.encode_prompt(token)[-1] for token in ("<call>", "<image>", "<|user|>")]
    assert new == [398, 399, 400] and saved.decode(new) == "<call><image><|user|>"
    for text in spelt_texts(theirs, 100):
        check_ids(saved, theirs, text)
        assert saved.encode_prompt(text) == tokenizer.encode_prompt(text)


# --- one tokenizer with more special tokens than another ---


@pytest.mark.parametrize("kind", [*FAST, *SLOW])
def test_more_special_tokens_extend_a_tokenizer(kind, tmp_path):
    """Whatever way its file is written; every document keeps its ids, also one that spells them."""
    base = Tokenizer(made(kind))
    grown = base.with_special_tokens([TURN_START, "<|end|>", TURN_END])
    assert base.extends(base) and grown.extends(base) and not base.extends(grown)
    assert Tokenizer(json.dumps(json.loads(made(kind)), indent=2)).extends(base)

    (tmp_path / "tokenizer.json").write_text(grown.json, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(grown.special), encoding="utf-8")
    opened = Tokenizer.load(tmp_path)
    assert opened.same(grown) and opened.extends(base)
    for text in [*HARD, f"a{TURN_START} b"]:
        assert opened.encode(text) == base.encode(text)

    longer = grown.with_special_tokens(["<|tool|>"])
    assert longer.extends(grown) and longer.extends(base)
    assert not longer.extends(base.with_special_tokens(["<|tool|>"])), "there it has another id"


@pytest.mark.parametrize("kind", ["unigram", "characters", "smollm"])
def test_a_word_that_became_special_extends_a_tokenizer(kind):
    """It keeps its id; a document that spells it had that id, and has not now."""
    hf = HFTokenizer.from_str(made(kind))
    hf.add_tokens([AddedToken("fox", normalized=False)])
    base = Tokenizer(hf.to_str())
    grown = base.with_special_tokens(["fox"])
    fox = base.hf.token_to_id("fox")
    assert grown.extends(base) and not base.extends(grown)
    assert grown.hf.token_to_id("fox") == fox and fox in base.encode("a fox") and fox not in grown.encode("a fox")
    assert grown.encode("a quick hat") == base.encode("a quick hat")


def add_plain(spec):
    spec["added_tokens"].append({"id": spec["added_tokens"][-1]["id"] + 1, "content": "unheard", **FLAGS_OF_WORDS})


FLAGS_OF_WORDS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
OTHERS = {
    "a word more that is not special": add_plain,
    "a word more of the model": lambda spec: spec["model"]["vocab"].update(unheard=5000),
    "merges in another order": lambda spec: spec["model"]["merges"].reverse(),
    "a step more before the model": set_key("normalizer", value={"type": "Lowercase"}),
    "another flag of a special token": lambda spec: spec["added_tokens"][-1].update(rstrip=True),
    "a special token that became a word": lambda spec: spec["added_tokens"][-1].update(special=False),
    "a special token less": lambda spec: spec["added_tokens"].pop(),
    "another end of text": lambda spec: spec["added_tokens"][0].update(content="<|end_of_text|>"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_reads_some_text_in_another_way_does_not_extend_a_tokenizer(case):
    """Each alone, and with a special token more."""
    base, other = Tokenizer(made("smollm")), Tokenizer(changed("smollm", OTHERS[case]))
    assert not other.extends(base)
    assert not other.with_special_tokens(["<|tool|>"]).extends(base)


def test_an_id_that_a_word_has_already_does_not_extend_a_tokenizer():
    """4 words, the last with the id 4, which `tokenizers` gives the next token as well."""
    hf = HFTokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1, "b": 2, "c": 4}, unk_token="a"))
    base = Tokenizer(hf.to_str())
    hf.add_special_tokens(["<|tool|>"])
    assert hf.token_to_id("<|tool|>") == 4 and not Tokenizer(hf.to_str()).extends(base)


# --- tokenizer.json that would fill the memory ---

TEN = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
BYTES_AGAIN = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
CHARSMAP = base64.b64encode((0).to_bytes(4, "little") + b"x" * 40 + b"\0").decode()


def template(token: str, count: int, ids: int) -> dict:
    """A post-processor that puts a token before a text, `count` times, each time with so many ids."""
    single = [{"SpecialToken": {"id": token, "type_id": 0}}] * count + [{"Sequence": {"id": "A", "type_id": 0}}]
    special = {token: {"id": token, "ids": [1] * ids, "tokens": [token] * ids}}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}


BOMBS = {
    "replaced again and again": ("normalizer", {"type": "Sequence", "normalizers": [TEN] * 10}),
    "nested, without types": ("normalizer", {"normalizers": [{"normalizers": [{"type": "Replace", **TEN}] * 5}] * 2}),
    "by a regular expression": (
        "normalizer",
        {"type": "Sequence", "normalizers": [{**TEN, "pattern": {"Regex": "."}}] * 10},
    ),
    "one long replacement": ("normalizer", {**TEN, "content": "a" * 10_000}),
    "prepended": (
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "a" * 99}, TEN, TEN]},
    ),
    "bytes of bytes": ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [BYTES_AGAIN] * 30}),
    "in a table": (
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": CHARSMAP}] * 6},
    ),
    "ids of one special token": ("post_processor", template("<s>", 100, 100)),
    "templates one after the other": (
        "post_processor",
        {"type": "Sequence", "processors": [template("<s>", 2, 2)] * 10},
    ),
    "in the decoder": ("decoder", {"type": "Sequence", "decoders": [TEN] * 10}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_tokenizer_that_makes_a_flood_of_one_character_is_refused_before_it_is_opened(tmp_path, monkeypatch, name):
    key, step = BOMBS[name]
    (tmp_path / "tokenizer.json").write_text(changed("llama2", set_key(key, value=step)))
    monkeypatch.setattr(HFTokenizer, "from_str", lambda text: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match=r"tokenizer.json: .* may make [0-9e,+]+ (characters|tokens) of one; at most"):
        Tokenizer.load(tmp_path)


SPACES = {"type": "Replace", "pattern": {"Regex": " *"}, "content": "▁"}
BERT_OPTIONS = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
STEPS = st.sampled_from(
    [
        *({"type": kind} for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")),
        {"type": "BertNormalizer", **dict.fromkeys(BERT_OPTIONS, True)},
        {"type": "Prepend", "prepend": "▁▁"},
        {"type": "Replace", "pattern": {"String": "▁"}, "content": "ﷺ"},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "机é"},
        SPACES,
        {**SPACES, "pattern": {"Regex": ""}},
    ]
)


@given(st.lists(STEPS, max_size=4), st.text("aİ ﷺ▁é机㌖ᾧﬃ\n\t.", min_size=1, max_size=5))
@examples(2000)
def test_no_normalizer_makes_more_than_its_bound(steps, text):
    normalizer = {"type": "Sequence", "normalizers": steps}
    spec = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
    hf = HFTokenizer.from_str(json.dumps({"model": spec, "normalizer": normalizer, "added_tokens": []}))
    try:
        with one_line(""):  # the library panics where nothing is matched at the end
            normalized = hf.normalizer.normalize_str(text)
    except ValueError:
        return
    assert len(normalized) <= growth(normalizer) * len(text)


TWICE = {  # a place in the tokenizer.json of the kind llama2, and a harmful value of the key
    '"normalizer": {': TEN | {"content": "a" * 2000},
    '"normalizers": [': [TEN] * 4,
    '"prepend": "▁"': "a" * 2000,
    '"content": "▁"}': "a" * 2000,
}


@pytest.mark.parametrize("place", TWICE)
def test_of_a_key_that_stands_twice_the_last_counts_as_in_the_library(place):
    """So a flood cannot hide behind a harmless value."""
    plain = json.dumps(json.loads(made("llama2")), ensure_ascii=False)
    key = place.split(":")[0]
    flood_first = plain.replace(place, f"{key}: {json.dumps(TWICE[place])}, {place}", 1)
    assert flood_first != plain
    assert Tokenizer(flood_first).encode("banana a") == Tokenizer(plain).encode("banana a")


def test_steps_of_known_tokenizers_are_allowed():
    """XLNet's and ALBERT's normalizer is the longest that is in use; a growth within the bound still encodes."""
    replace = [{"type": "Replace", "pattern": {"String": sign}, "content": '"'} for sign in ("``", "''")]
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    steps = [*replace, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, spaces]
    for normalizer in ({"type": "Sequence", "normalizers": steps}, {"type": "Sequence", "normalizers": [TEN] * 2}):
        tokenizer = Tokenizer(changed("unigram", set_key("normalizer", value=normalizer)))
        assert len(tokenizer.encode("a" * 10)) > 0


def test_an_id_beyond_any_vocabulary_is_refused():
    with pytest.raises(ValueError, match="its token 'the' has the id 4294967295; ids must be below 16777216"):
        Tokenizer(changed("llama2", set_key("model", "vocab", "the", value=2**32 - 1)))


def test_holes_among_the_ids_count():
    hf = HFTokenizer(models.WordLevel({"a": 0, "b": 7, "</s>": 90}))
    hf.decoder = decoders.Fuse()
    tokenizer = Tokenizer(hf.to_str())
    assert tokenizer.vocab_size == 91 and tokenizer.end_of_text == 90
    assert tokenizer.decode([0, 5, 7, 90]) == "ab</s>"


# --- real text ---


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
        pytest.param("cl100k", True, END_OF_TEXT, marks=pytest.mark.slow),
    ],
)
def test_real_tokenizers_give_the_ids_of_transformers_on_real_text(tmp_path, name, fast, eos):
    transformers = pytest.importorskip("transformers", reason="transformers is a development package")
    real_tokenizer(name, tmp_path)
    settings = {"tokenizer_class": TRANSFORMERS_CLASS, "eos_token": eos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (ours.fast is not None) == fast
    texts = real_texts()
    for text in [*texts.values(), *HARD, *SPECIAL, *spelt_texts(theirs, 300)]:
        check_ids(ours, theirs, text)
    stream = TextStream(ours)
    ids = ours.encode(texts["emoji"][:1000] + texts["Chinese"][:1000])
    assert "".join(map(stream.feed, ids)) + stream.flush() == ours.decode(ids)


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
        ({"tokenizer_config": {"eos_token": 7}}, "tokenizer_config.json: eos_token is 7, not a token"),
        ({"tokenizer_config": {"eos_token": ["</s>"]}}, "tokenizer_config.json: eos_token is .*, not a token"),
        ({"tokenizer_config": {"pad_token": {"contents": "a"}}}, "tokenizer_config.json: pad_token is .*, not a token"),
        (
            {"tokenizer_config": {"pad_token": {"content": "a", "lstrip": "no"}}},
            "tokenizer_config.json: pad_token is .*, not a",
        ),
        ({"tokenizer_config": {"extra_special_tokens": 3}}, "tokenizer_config.json: extra_special_tokens is 3, not"),
        ({"tokenizer_config": {"added_tokens_decoder": []}}, "tokenizer_config.json: added_tokens_decoder is .., not"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {"content": "a"}}}}, "added_tokens_decoder has 'x': "),
        ({"special_tokens_map": {"eos_token": 7}}, "special_tokens_map.json: eos_token is 7, not a token"),
        ({"added_tokens": {"<a>": "5"}}, "added_tokens.json: the id of '<a>' is '5', not a number"),
        ({"config": {"eos_token_id": "2"}}, "config.json: eos_token_id is '2', not an id"),
        ({"generation_config": {"eos_token_id": [True]}}, "generation_config.json: eos_token_id is .True., not an id"),
        ({"generation_config": {"eos_token_id": {"a": 1}}}, "generation_config.json: eos_token_id is {.*}, not an id"),
        (
            {"generation_config": {"eos_token_id": 341}, "config": {"eos_token_id": 2.5}},
            None,  # generation_config.json is what counts
        ),
    ],
)
def test_wrong_settings_are_refused_by_the_file_that_says_them(tmp_path, settings, says):
    if says is None:
        assert 341 in folder_of(tmp_path, "llama3", **settings).stops
        return
    with pytest.raises(ValueError, match=f"^{tmp_path}/.*{says}") as error:
        folder_of(tmp_path, "llama3", **settings)
    assert "usable" not in str(error.value)


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
    config = {"tokenizer_class": TRANSFORMERS_CLASS, "eos_token": END_OF_TEXT}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    opened = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = (
        "hello world\n机器 lo" if kind == "characters" else sample_text(5, 200).replace(END_OF_TEXT, "") + "\u0378 😀"
    )
    ids = opened(text)["input_ids"]
    assert ids == tokenizer.encode(text) and opened.decode(ids) == text
    assert len(opened) == tokenizer.vocab_size and opened.eos_token_id == tokenizer.end_of_text
