"""Small tokenizers of every kind, and texts that are hard to encode: for the tests of tokenizer.py, fast_encode.py."""

import argparse
import functools
import gzip
import inspect
import json
import random

from conftest import ALL_EXAMPLES, SHARED
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import pre_tokenizers as pre

from fast_encode import LLAMA3_PATTERN, QWEN2_PATTERN
from tokenizer import END_OF_TEXT, Tokenizer, train_bpe, train_characters

WORDS = "the quick brown fox don't I'll we've 12 345 6789 (x) == != ... café naïve 机器 学习 模型 def f(): 😀 İ".split()
WORDS += ["\n\n", " ", "\t"]


def sample_text(seed: int, count: int = 4000) -> str:
    draw = random.Random(seed)
    text = " ".join(draw.choice(WORDS) for _ in range(count))
    return text + "机器学习模型" * 30 + "    \n" * 20 + "=" * 50 + f" {END_OF_TEXT}" * 9


SPACES = [" ", "  ", "\n", "\r\n", "\t", "\u3000", "\x85", "\u200b"]
SIGNS = ["'", "'S", "e\u0301", "٣", "½", "\x00", "\ufffd", "한국", "ก", "\u0378", "\U0001f468\u200d"]
PARTS_OF_SPECIAL = [END_OF_TEXT, "<|", "|>", "endoftext"]
PIECES = st.sampled_from([*WORDS, *SPACES, *SIGNS, *PARTS_OF_SPECIAL])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=60) | st.lists(PIECES, max_size=20).map("".join)


def reference_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of the `tokenizers` library, with special tokens taken as text."""
    hf = HFTokenizer.from_str(tokenizer.json)
    hf.encode_special_tokens = True
    return hf.encode(text, add_special_tokens=False).ids


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPLIT_BY = {"llama3": LLAMA3_PATTERN, "qwen2": QWEN2_PATTERN}
# Byte-level ones, which tiktoken encodes, and the others.
FAST = ["ours", "llama3", "qwen2", "gpt2", "smollm"]
SLOW = ["llama2", "mistral", "unigram", "wordpiece", "characters"]


def split_and_bytes(pattern: str, behavior: str = "isolated", invert: bool = False, use_regex: bool = False):
    split = pre.Split(Regex(pattern), behavior=behavior, invert=invert)
    return pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


# Which special tokens a kind has, and which of them every prompt begins with.
SENTENCEPIECE_SPECIAL = ["<unk>", "<s>", "</s>"]
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>"]
BOS = {"llama3": "<|begin_of_text|>", "llama2": "<s>", "mistral": "<s>", "unigram": "<s>"}


@functools.cache
def made(kind: str) -> str:
    """A small tokenizer.json of this kind, trained on sample_text."""
    texts = [sample_text(k).replace(END_OF_TEXT, "") for k in range(3)]
    if kind == "ours":
        return train_bpe(texts, 340)
    if kind == "characters":
        return train_characters([*texts, *HARD, "".join(map(chr, range(256)))])

    if kind == "unigram":
        hf = unigram(texts)
    elif kind == "wordpiece":
        hf = wordpiece(texts)
    elif kind in ("llama2", "mistral"):
        hf = sentencepiece_bpe(texts, kind)
    else:
        hf = byte_level_bpe(texts, kind)
    if kind == "qwen2":
        hf.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("<q>o", normalized=False)])
        hf.add_tokens([AddedToken("e\u0301o\u0302?", normalized=True)])

    if kind in BOS:
        bos = BOS[kind]
        frame = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, hf.token_to_id(bos))])
        hf.post_processor = processors.Sequence([processors.ByteLevel(), frame]) if kind == "llama3" else frame
    return hf.to_str()


def unigram(texts: list[str]) -> HFTokenizer:
    hf = HFTokenizer(models.Unigram())
    hf.normalizer = normalizers.NFKC()
    hf.pre_tokenizer = pre.Metaspace()
    hf.decoder = decoders.Metaspace()
    options = {"vocab_size": 120, "special_tokens": SENTENCEPIECE_SPECIAL, "unk_token": "<unk>"}
    hf.train_from_iterator(texts, trainers.UnigramTrainer(**options, show_progress=False))
    hf.add_special_tokens(SENTENCEPIECE_SPECIAL)
    return hf


def wordpiece(texts: list[str]) -> HFTokenizer:
    hf = HFTokenizer(models.WordPiece(unk_token="<unk>"))
    hf.pre_tokenizer = pre.BertPreTokenizer()
    hf.decoder = decoders.WordPiece(cleanup=False)
    options = {"vocab_size": 150, "special_tokens": SENTENCEPIECE_SPECIAL}
    hf.train_from_iterator(texts, trainers.WordPieceTrainer(**options, show_progress=False))
    hf.add_special_tokens(SENTENCEPIECE_SPECIAL)
    return hf


def sentencepiece_bpe(texts: list[str], kind: str) -> HFTokenizer:
    """SentencePiece as BPE: the older ("llama2") and the newer way ("mistral") to write it down."""
    hf = HFTokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if kind == "llama2":
        hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        hf.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    hf.decoder = decoders.Sequence(steps)

    words = [word for text in texts for word in text.replace("机", "").split(" ")]  # 机: bytes only
    options = {"vocab_size": 400, "special_tokens": [*SENTENCEPIECE_SPECIAL, *BYTES]}
    hf.train_from_iterator(words, trainers.BpeTrainer(**options, show_progress=False))
    spec = json.loads(hf.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in SENTENCEPIECE_SPECIAL]
    hf = HFTokenizer.from_str(json.dumps(spec))
    hf.add_special_tokens(SENTENCEPIECE_SPECIAL)
    return hf


def byte_level_bpe(texts: list[str], kind: str) -> HFTokenizer:
    hf = HFTokenizer(models.BPE(ignore_merges=kind == "llama3"))
    words = pre.ByteLevel(add_prefix_space=False)
    cuts = {"gpt2": words, "smollm": pre.Sequence([pre.Digits(individual_digits=True), words])}
    hf.pre_tokenizer = cuts[kind] if kind in cuts else split_and_bytes(SPLIT_BY[kind])
    hf.normalizer = normalizers.NFC() if kind == "qwen2" else None
    hf.decoder = decoders.ByteLevel()

    # GPT-2's special token is a word of the model, the others' are not.
    first = [END_OF_TEXT] if kind in ("gpt2", "smollm") else []
    options = {"vocab_size": 340, "initial_alphabet": pre.ByteLevel.alphabet(), "special_tokens": first}
    hf.train_from_iterator(texts, trainers.BpeTrainer(**options, show_progress=False))
    hf.add_special_tokens(LLAMA3_SPECIAL if kind == "llama3" else [END_OF_TEXT, "<|im_end|>"])
    return hf


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
MIXED = st.lists(st.sampled_from([*HARD, *WORDS, *SPECIAL, "e", "\u0301", "'", "1", "<tool_call>"]), max_size=6)
ANY_TEXT = TEXTS | st.sampled_from(HARD) | MIXED.map("".join)


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


@functools.cache
def real_texts() -> dict[str, str]:
    """Characters of English, Chinese and code, 20,000 each (100,000 in the full profile); emoji, joined and flagged."""
    count = 100_000 if ALL_EXAMPLES else 20_000

    def read(name: str) -> str:
        with gzip.open(SHARED / name, "rt", encoding="utf-8") as file:
            return file.read(count)

    emoji = [chr(c) for c in [*range(0x1F300, 0x1F650), *range(0x1F680, 0x1F6FF), *range(0x1F900, 0x1FA00)]]
    draw = random.Random(0)
    joined = [draw.choice(emoji) + draw.choice(["", " ", "\u200d", "\ufe0f", "🏽", "!"]) for _ in range(3000)]
    return {
        "English": read("wiki/wikitext-2/wiki.valid.tokens.gz") + read("other/c4_demo.jsonl.gz"),
        "Chinese": read("wiki/text_zh/zhwiki_wiki_18.doc.txt.gz") + read("other/poetry_zh/songci_00000-09000.jsonl.gz"),
        "code": "".join(inspect.getsource(module) for module in (argparse, inspect, random))[: 2 * count],
        "emoji": "".join(emoji + joined)[:count],
    }
