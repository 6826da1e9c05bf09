"""Growing a vocabulary: what the model knew stays, and transformers opens the folder."""

import dataclasses
import gzip

import pytest
import torch
from conftest import SHARED, examples
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_kinds import changed, made
from transformers import AutoModelForCausalLM, AutoTokenizer

import checkpoint
import grow
from chat_template import ChatTemplate
from grow import GrowConfig
from hf_config import read_config
from model import Llama, ModelConfig
from tokenizer import TURN_END, TURN_START, Tokenizer
from vocabulary import Growth, added_tokens, grow_rows

SHAPE = ModelConfig(vocab_size=1, block_size=64, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=64)


def base(kind: str, rows: int | None = None, tied: bool = False) -> tuple[Llama, Tokenizer]:
    """A small random model of a tokenizer that has not the tokens of conversations."""
    tokenizer = Tokenizer(made(kind))
    torch.manual_seed(0)
    shape = dataclasses.replace(SHAPE, vocab_size=rows or tokenizer.vocab_size, tie_embeddings=tied)
    model = Llama(shape)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model, tokenizer


def write_base(folder, kind: str, dtype=torch.float32, **options):
    model, tokenizer = base(kind, **options)
    model.to(dtype)
    folder.mkdir()
    checkpoint.write_model(folder, dict(model.named_parameters()), checkpoint.small_files(model, tokenizer, {}))
    return folder


def test_rows_are_means():
    """The example of grow_rows, and a token that could not be spelled."""
    matrix = torch.tensor([[1.0, 1.0], [3.0, 5.0]])
    assert grow_rows(matrix, 4, {2: [1]}).tolist() == [[1, 1], [3, 5], [3, 5], [2, 3]]
    assert grow_rows(matrix, 4, {3: [0, 1, 1, 1], 2: []}).tolist() == [[1, 1], [3, 5], [2, 3], [2.5, 4]]
    assert grow_rows(matrix, 2, {0: [1]}).tolist() == [[3, 5], [3, 5]]
    assert grow_rows(matrix.bfloat16(), 3, {}).dtype == torch.bfloat16


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [None, 384])
@torch.no_grad()
def test_what_the_model_knew_stays(tmp_path, rows, tied):
    """With 384 rows for 341 ids no row is added: the next two get the new tokens."""
    folder = write_base(tmp_path / "base", "smollm", rows=rows, tied=tied)
    old, before = Tokenizer.load(folder), checkpoint.load_model(folder)
    assert old.vocab_size == 341 and TURN_END in old.hf.get_vocab()
    new = old.with_special_tokens([TURN_START, "<|end|>", TURN_END])
    model = checkpoint.load_model(folder, growth=Growth.between(old, new, before.cfg.vocab_size))

    taken = [341, 342]
    kept = [i for i in range(before.cfg.vocab_size) if i not in taken]
    ids = torch.tensor([old.encode("the quick brown fox")])
    assert torch.equal(model(ids)[..., kept], before(ids)[..., kept])
    assert model.cfg.vocab_size == model.model.cfg.vocab_size == (rows or 343)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied

    for after, was in ((model.model.embed_tokens, before.model.embed_tokens), (model.lm_head, before.lm_head)):
        for i, token in zip(taken, (TURN_START, "<|end|>"), strict=True):
            expected = was.weight[old.encode(token)].mean(0)
            assert torch.allclose(after.weight[i], expected, atol=1e-6), token


@examples(200)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_a_new_token_is_at_most_as_likely_as_its_pieces(seed, pieces):
    torch.manual_seed(seed)
    head, state = torch.randn(10, 4) * 3, torch.randn(4)
    before = (head @ state).softmax(0)
    after = (grow_rows(head, 12, {10: pieces}) @ state).softmax(0)
    assert after[10] <= before[pieces].mean() + 1e-6
    assert after[11] <= before.mean() + 1e-6


@pytest.mark.real_data
@torch.no_grad()
def test_the_loss_of_old_text_stays():
    """Measured on Shakespeare, in nats a token: means +1e-6, zeros +2e-4."""
    folder = SHARED / "weights/stories260K-hf"
    old = Tokenizer.load(folder)
    new = old.with_special_tokens([TURN_START, TURN_END])
    text = gzip.open(SHARED / "other/tinyshakespeare.txt.gz", "rt").read(3000)
    ids = torch.tensor([[old.start, *old.encode(text)[:511]]])

    base = checkpoint.load_model(folder)
    before = base(ids[:, :-1], ids[:, 1:]).item() / 511
    model = checkpoint.load_model(folder, growth=Growth.between(old, new, base.cfg.vocab_size))
    after = model(ids[:, :-1], ids[:, 1:]).item() / 511
    model.lm_head.weight[512:] = 0
    with_zeros = model(ids[:, :-1], ids[:, 1:]).item() / 511
    assert model.cfg.vocab_size == 576  # was a multiple of 64
    assert abs(after - before) < 1e-5 < 1e-4 < with_zeros - before


@pytest.mark.parametrize("kind", ["gpt2", "llama2", "characters"])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_the_folder_opens_in_transformers(tmp_path, kind, tied):
    folder, out = write_base(tmp_path / "base", kind, tied=tied), tmp_path / "base-chat"
    (folder / "generation_config.json").write_text('{"temperature": 0.7, "do_sample": true, "eos_token_id": 0}')
    grow.main(GrowConfig(checkpoint=str(folder)))

    theirs, auto = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    ours, template = checkpoint.load_model(out), ChatTemplate.load(out)
    messages = [{"role": "user", "content": "the quick fox"}, {"role": "assistant", "content": "brown"}]
    ids = auto.apply_chat_template(messages, return_dict=False)
    assert template.encode(messages) == ids
    assert ids.count(template.end_of_turn) == 2 == ids.count(auto.convert_tokens_to_ids(TURN_START))
    assert torch.allclose(ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits, atol=1e-4)

    base_tokenizer = Tokenizer.load(folder)
    assert template.tokenizer.end_of_text == base_tokenizer.end_of_text
    assert template.stop_ids == {template.end_of_turn, base_tokenizer.end_of_text, 0}
    assert set(theirs.generation_config.eos_token_id) == template.stop_ids
    assert theirs.generation_config.temperature == 0.7
    assert Tokenizer.load(out).stops == template.stop_ids  # sample.py and chat.py stop there


def test_weights_keep_their_type(tmp_path):
    folder = write_base(tmp_path / "base", "gpt2", torch.bfloat16)
    grow.main(GrowConfig(checkpoint=str(folder), out_dir=str(tmp_path / "out")))
    assert grow.stored_dtype(tmp_path / "out") == torch.bfloat16
    assert read_config(tmp_path / "out").vocab_size == read_config(folder).vocab_size + 2 - 1  # it has <|im_end|>


def test_a_model_trained_here_needs_no_new_rows(run_dir, tmp_path, capsys):
    grow.main(GrowConfig(checkpoint=str(run_dir), out_dir=str(tmp_path / "chat")))
    assert "none, it has them all\nrows of the embedding: 320 before, 320 now\n" in capsys.readouterr().out
    template = ChatTemplate.load(tmp_path / "chat")
    assert (template.end_of_turn, template.tokenizer.end_of_text) == (298, 299)


def test_a_template_of_other_tokens(tmp_path):
    folder = write_base(tmp_path / "base", "gpt2")
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"
    (tmp_path / "my.jinja").write_text(source + "{% if add_generation_prompt %}[assistant]{% endif %}")
    settings = {"checkpoint": str(folder), "out_dir": str(tmp_path / "out"), "template": str(tmp_path / "my.jinja")}
    with pytest.raises(ValueError, match="no special token of the tokenizer ends each answer.*grow.py"):
        grow.main(GrowConfig(**settings))

    grow.main(GrowConfig(**settings, tokens="<|end|>"))
    template = ChatTemplate.load(tmp_path / "out")
    ids, scored = template.encode_scored([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert template.tokenizer.decode(ids[scored]) == "b<|end|>"


def test_mistakes_are_one_line(tmp_path):
    folder = write_base(tmp_path / "base", "gpt2")
    with pytest.raises(ValueError, match="base exists already; name another --out_dir"):
        grow.main(GrowConfig(checkpoint=str(folder), out_dir=str(folder)))
    with pytest.raises(ValueError, match="--template=none.jinja: not readable"):
        grow.main(GrowConfig(checkpoint=str(folder), template="none.jinja"))
    with pytest.raises(ValueError, match="the larger tokenizer gives .* the id"):
        added_tokens(Tokenizer(made("gpt2")), Tokenizer(made("ours")))
    assert not (tmp_path / "base-chat").exists()


def test_an_id_that_is_taken_is_refused():
    """A vocabulary with a hole: 4 words, the last with the id 4, which is the number that a new token would get."""

    def move_last(spec):
        words = ["<unk>", "a", "b", "c", "<|endoftext|>"]
        spec["model"]["vocab"] = dict(zip(words, (0, 1, 2, 5, 6), strict=True))
        spec["added_tokens"] = []

    with pytest.raises(ValueError, match="cannot be added to the tokenizer: its id 5 is that of 'c'"):
        Tokenizer(changed("characters", move_last)).with_special_tokens([TURN_START])
