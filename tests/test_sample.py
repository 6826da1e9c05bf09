"""Generation: the same greedy text as transformers', the filters, the ends."""

import subprocess

import pytest
import torch
from conftest import PYTHON, REPO
from transformers import AutoModelForCausalLM, AutoTokenizer

import checkpoint
import sample
from model import Llama, ModelConfig
from tokenizer import Tokenizer

SHAPE = ModelConfig(64, 24, 1, 2, 1, 16, 16)


@pytest.fixture(scope="module")
def model():
    """Random weights, large enough for a spread of probabilities."""
    torch.manual_seed(0)
    model = Llama(SHAPE).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(30)
    return model


def draw(model, seed=0, n=20, end=63, vocab=60, **options):
    """Ids drawn after a fixed prompt."""
    return sample.generate(model, [1, 2, 3], n, end, vocab, generator=torch.Generator().manual_seed(seed), **options)


def run(*args):
    """python sample.py, as a user types it."""
    command = [PYTHON, "sample.py", *args]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


def test_greedy_text_equals_transformers(run_dir):
    """Two ways to be greedy, and transformers' generate, from the folder that training wrote."""
    folder = checkpoint.resolve(run_dir)
    theirs, auto = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = auto("the ", return_tensors="pt").input_ids
    room = checkpoint.read_config(folder).block_size - ids.shape[1]
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False)[0]
    expected = expected[expected != auto.eos_token_id].tolist()
    done = run(f"--checkpoint={run_dir}", "--prompt=the ", "--top_k=1", f"--max_new_tokens={room}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == auto.decode(expected, clean_up_tokenization_spaces=False) + "\n"
    ours, tokenizer = checkpoint.load_model(folder).eval(), Tokenizer.load(folder)
    new = sample.generate(ours, ids[0].tolist(), room, tokenizer.end_of_text, tokenizer.vocab_size, temperature=0)
    assert ids[0].tolist() + new == expected


def test_seed_decides(model):
    assert draw(model, 1) == draw(model, 1) != draw(model, 2)


def test_top_k_draws_only_among_the_k_likeliest(model):
    for k in (2, 5):
        seen = set()
        for seed in range(200):
            seen.update(draw(model, seed, n=1, top_k=k))
        likeliest = model(torch.tensor([[1, 2, 3]]))[0, -1, :60].topk(k).indices.tolist()
        assert seen <= set(likeliest) and len(seen) > 1
    assert draw(model, 1, top_k=60) == draw(model, 1, top_k=1000) == draw(model, 1)


def test_frequencies_follow_the_model_and_the_temperature(model):
    """2,000 draws of one token against the exact distribution, chi-square below the 1e-4 quantile's rough bound."""
    logits = model(torch.tensor([[1, 2, 3]]))[0, -1, :60]
    for temperature in (0.7, 1.5):
        expected = (logits / temperature).softmax(0) * 2000
        tokens = [draw(model, seed, n=1, end=-1, temperature=temperature)[0] for seed in range(2000)]
        counts = torch.bincount(torch.tensor(tokens), minlength=60)
        big = expected >= 5
        chi2 = ((counts - expected)[big].square() / expected[big]).sum() + (counts - expected)[~big].sum() ** 2 / max(
            1, expected[~big].sum()
        )
        assert chi2 < big.sum() + 4 * (2 * big.sum()) ** 0.5


def test_ends_at_end_of_text_at_the_limit_and_at_the_context(model):
    free = draw(model, 3, n=15, end=-1)
    assert len(free) == 15
    assert draw(model, 3, n=15, end=free[6]) == free[: free.index(free[6])]
    assert len(draw(model, 3, n=1000, end=-1)) == SHAPE.block_size - 3


def test_padding_ids_are_never_drawn(model):
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]]))[0, -1, 10:].exp().sum() > 0
    assert max(max(draw(model, seed, vocab=10, end=-1)) for seed in range(20)) < 10


def test_mistakes_are_one_line(run_dir, tmp_path):
    for args, message in (
        ([f"--checkpoint={tmp_path}"], "holds no checkpoint; train first"),
        ([f"--checkpoint={run_dir}", "--prompt=" + "the " * 100], "the prompt has"),
        ([f"--checkpoint={run_dir}", "--temperature=-1"], "temperature (-1.0) must be at least 0"),
        ([f"--checkpoint={run_dir}", "--top_k=0"], "top_k (0) must be at least 1"),
        ([f"--checkpoint={run_dir}", "--device=tpu"], "--device=tpu cannot be used here"),
    ):
        done = run(*args)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_says_when_the_context_is_full(run_dir):
    done = run(f"--checkpoint={run_dir}", "--max_new_tokens=500", "--num_samples=2", "--prompt=")
    assert done.returncode == 0, done.stderr
    assert "---" in done.stdout and ("context of 32 tokens is full" in done.stderr or len(done.stdout) < 400)
