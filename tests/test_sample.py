"""Generation: the same greedy text as transformers', the filters against its own, batches, stops and streams."""

import io
import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import PYTHON, REPO, SHARED, examples
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation import logits_process as theirs

import checkpoint
import configurator
import sample
from device import memory_advice, pick_device
from model import Llama, ModelConfig
from sample import SampleConfig, keep_top_p, probabilities
from tokenizer import TextStream, Tokenizer

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")

SHAPE = ModelConfig(64, 24, 1, 2, 1, 16, 16)


@pytest.fixture(scope="module")
def model():
    """Random weights, large enough for a spread of probabilities."""
    torch.manual_seed(0)
    model = Llama(SHAPE).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(30)
    return model


def complete(model, prompt, n, vocab=60, **options) -> list[int]:
    """The new ids of one prompt."""
    return [token for (token,) in sample.generate(model, [prompt], n, vocab, **options)]


def run(*args, stdin=None):
    """python sample.py, as a user types it."""
    command = [PYTHON, "sample.py", *args]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, input=stdin)


@pytest.fixture
def run_here(monkeypatch, capsys):
    """The same in this process: what it prints, without the seconds that importing torch takes."""

    def run_here(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["sample.py", *args])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = 0
        try:
            configurator.run(sample.main, SampleConfig, show=False)
        except SystemExit as leave:
            code = leave.code
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return run_here


def test_greedy_text_equals_transformers(run_dir):
    """Two ways to be greedy, and transformers' generate, from the folder that training wrote."""
    folder = checkpoint.resolve(run_dir)
    peer, auto = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = auto("the ", return_tensors="pt").input_ids
    room = checkpoint.read_config(folder).block_size - ids.shape[1]
    expected = peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False)[0]
    expected = expected[expected != auto.eos_token_id].tolist()
    done = run(f"--checkpoint={run_dir}", "--prompt=the ", "--top_k=1", f"--max_new_tokens={room}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == auto.decode(expected, clean_up_tokenization_spaces=False) + "\n"
    ours, tokenizer = checkpoint.load_model(folder).eval(), Tokenizer.load(folder)
    new = complete(ours, ids[0].tolist(), room, tokenizer.vocab_size, stops=tokenizer.stops, temperature=0)
    assert ids[0].tolist() + new == expected


STORY = """Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she \
saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do."""


@pytest.mark.real_data
@pytest.mark.parametrize("prompt", ["", "Tom and his dog", "The moon"])
def test_a_real_model_writes_the_text_that_transformers_writes(prompt, run_here):
    folder = SHARED / "weights/stories260K-hf"
    peer = AutoModelForCausalLM.from_pretrained(folder)
    auto = AutoTokenizer.from_pretrained(folder)
    ids = auto(prompt, return_tensors="pt").input_ids
    expected = peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=200, do_sample=False)[0].tolist()
    assert len(expected) == ids.shape[1] + 200

    ours = checkpoint.load_model(folder).eval()
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode_prompt(prompt) == ids[0].tolist()
    new = complete(ours, ids[0].tolist(), 200, tokenizer.vocab_size, temperature=0)
    assert new == expected[ids.shape[1] :]

    done = run_here(f"--checkpoint={folder}", f"--prompt={prompt}", "--temperature=0", "--max_new_tokens=200")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == auto.decode(expected[1:]).strip()  # without the <s> before the prompt
    assert prompt or done.stdout.strip().startswith(STORY), "llama2.c's own text for this model at temperature 0"


@given(
    st.integers(0, 2**32),
    st.floats(0.1, 3),
    st.none() | st.integers(1, 70),
    st.just(1.0) | st.floats(0.01, 1),
    st.just(0.0) | st.floats(0.01, 1),
)
@examples(200)
def test_filters_equal_those_of_transformers(seed, temperature, top_k, top_p, min_p):
    logits = 3 * torch.randn(4, 60, generator=torch.Generator().manual_seed(seed))
    scores = theirs.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        scores = theirs.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        sums = scores.softmax(1).sort(descending=True).values.cumsum(1)
        assume((sums - top_p).abs().min() > 1e-6)  # nearer, the rounding of a sum decides about a token
        scores = theirs.TopPLogitsWarper(top_p)(None, scores)
    if min_p > 0:
        scores = theirs.MinPLogitsWarper(min_p)(None, scores)
    expected = scores.softmax(1)

    p = probabilities(logits, temperature, top_k, top_p, min_p)
    assert torch.allclose(p, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(p > 0, expected > 0)
    assert torch.allclose(p.sum(1), torch.ones(4))


def test_top_p_keeps_the_worked_example():
    """The numbers in keep_top_p's docstring."""
    p = torch.tensor([[0.10, 0.40, 0.05, 0.25, 0.20]])
    assert keep_top_p(p, 0.7).tolist() == [pytest.approx([0, 0.40, 0, 0.25, 0.20])]


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5, "min_p": 0.5}], ids=str)
@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-45, 5e-324])
def test_the_lower_the_temperature_the_greedier_without_overflow(model, temperature, filters):
    """1e-45 is the smallest float32, 5e-324 the smallest float64: as float32 it is 0."""
    greedy = complete(model, [1, 2, 3], 15, temperature=0)
    assert complete(model, [1, 2, 3], 15, temperature=temperature, **filters) == greedy
    tie = torch.tensor([[3.0, -1e30, 3.0, 2.0]])
    assert probabilities(tie, temperature).tolist() == [[0.5, 0, 0.5, 0]]


FILTERS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.5},
    {"top_k": 5},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
]


@pytest.mark.parametrize("filters", FILTERS)
def test_frequencies_follow_the_exact_distribution(model, filters):
    """5,000 texts of two tokens at fixed seeds: the first, and the second after the commonest first, by chi-square."""
    n, prompt = 5000, [1, 2, 3]
    texts = torch.tensor(list(sample.generate(model, [prompt] * n, 2, 60, **filters)))  # (2, n)
    first = texts[0].mode().values.item()
    seconds = texts[1][texts[0] == first]
    with torch.no_grad():
        for tokens, context in ((texts[0], prompt), (seconds, [*prompt, first])):
            logits = model(torch.tensor([context]))[:, -1, :60]
            expected = probabilities(logits, **filters)[0] * len(tokens)
            counts = torch.bincount(tokens, minlength=60)
            assert not counts[expected == 0].any()

            # each commoner token by itself, the rare ones together
            big = expected >= 5
            chi2 = ((counts - expected).square() / expected)[big].sum()
            rare = expected[~big].sum()
            if rare > 1:
                chi2 += (counts[~big].sum() - rare).square() / rare
            freedom = int(big.sum())
            assert chi2 < freedom + 5 * (2 * freedom) ** 0.5 + 5, (float(chi2), freedom)


def test_a_draw_is_the_inverse_of_the_summed_probabilities():
    worked = torch.tensor([[0.25, 0.50, 0.25]])  # in the docstring
    for u, token in ((0.1, 0), (0.25, 1), (0.6, 1), (0.75, 2)):
        assert sample.draw(worked, torch.tensor([u])).item() == token

    p = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    for u, token in ((0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (1 - 2**-24, 4)):
        assert sample.draw(p, torch.tensor([u])).item() == token
    assert sample.draw(p * (1 + 1e-3), torch.tensor([1 - 2**-24])).item() == 4  # nor beyond the end, ever


def test_seed_decides(model):
    texts = {seed: complete(model, [1, 2, 3], 15, seeds=[seed]) for seed in range(3)}
    assert texts[1] == complete(model, [1, 2, 3], 15, seeds=[1])
    assert texts[0] != texts[1] != texts[2] != texts[0]
    state = torch.get_rng_state()
    complete(model, [1, 2, 3], 5)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_greedy_is_top_k_1_and_temperature_0(model):
    greedy = complete(model, [1, 2, 3], 15, temperature=0)
    assert complete(model, [1, 2, 3], 15, top_k=1) == greedy
    assert complete(model, [1, 2, 3], 15, top_p=1e-9) == greedy
    sequence = [1, 2, 3]
    for token in greedy:
        with torch.no_grad():
            assert token == model(torch.tensor([sequence]))[0, -1, :60].argmax()
        sequence.append(token)


@given(st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=20), min_size=1, max_size=5), st.booleans())
@examples(25)
def test_a_batch_equals_its_prompts_one_by_one(prompts, greedy):
    """Different lengths, up to where each fills the context of its own."""
    torch.manual_seed(1)
    model, options = Llama(SHAPE).eval(), {"temperature": 0 if greedy else 1.0}
    together: list[list[int]] = [[] for _ in prompts]
    for step in sample.generate(model, prompts, 100, 60, stops=[7], seeds=range(len(prompts)), **options):
        for row, token in enumerate(step):
            together[row] += [] if token is None else [token]
    for row, prompt in enumerate(prompts):
        assert together[row] == complete(model, prompt, 100, stops=[7], seeds=[row], **options)
        assert 7 not in together[row]


def test_ends_at_a_stop_id_at_the_limit_and_at_the_context(model):
    free = complete(model, [1, 2, 3], 15)
    assert len(free) == 15
    assert complete(model, [1, 2, 3], 15, stops=[free[6], 61]) == free[: free.index(free[6])]
    assert len(complete(model, [1, 2, 3], 1000)) == SHAPE.block_size - 3
    for bad in ([], [1] * SHAPE.block_size):
        with pytest.raises(ValueError, match=f"the prompt has {len(bad)} tokens, the model's context is 24"):
            complete(model, bad, 3)
    with pytest.raises(ValueError, match="the prompt has a token of id 64, but the model's embedding 64 rows"):
        complete(model, [1, 64], 3)


def test_the_caller_can_end_a_text(model):
    ended, steps = set(), []
    for step in sample.generate(model, [[1], [2]], 15, 60, ended=ended):
        steps.append(step)
        if len(steps) == 3:
            ended.add(0)
        if len(steps) == 5:
            ended.add(1)
    assert [step[0] is None for step in steps] == [False] * 3 + [True] * 2
    assert None not in [step[1] for step in steps]


def test_texts_that_have_ended_leave_the_batch(monkeypatch):
    """Each goes on as it would alone: with its own random numbers, and all that it has read before."""
    torch.manual_seed(0)
    model = Llama(SHAPE).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    prompts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10, 11], [12]]
    lengths = [9, 2, 13, 5, 3]
    read = []
    forward = Llama.forward
    monkeypatch.setattr(Llama, "forward", lambda self, idx, **kw: read.append(len(idx)) or forward(self, idx, **kw))
    texts = [[] for _ in prompts]
    ended = set()
    for step in sample.generate(model, prompts, 15, 60, seeds=[3, 1, 4, 1, 5], ended=ended):
        for row, token in enumerate(step):
            if token is not None:
                texts[row].append(token)
        ended.update(row for row, text in enumerate(texts) if len(text) == lengths[row])
    assert read == [5] * 5 + [2] * 4 + [1] * 4
    for prompt, seed, length, text in zip(prompts, [3, 1, 4, 1, 5], lengths, texts, strict=True):
        assert text == complete(model, prompt, 15, seeds=[seed])[:length]


def test_padding_ids_are_never_drawn(model):
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]]))[0, -1, 10:].exp().sum() > 0
    for seed in range(20):
        assert max(complete(model, [1, 2, 3], 20, vocab=10, seeds=[seed])) < 10


def test_the_prompt_is_computed_once_and_then_one_token_at_a_time(model, monkeypatch):
    widths = []
    forward = Llama.forward

    def watched(self, idx, **kw):
        widths.append(idx.shape)
        return forward(self, idx, **kw)

    monkeypatch.setattr(Llama, "forward", watched)
    complete(model, [1, 2, 3, 4, 5], 6)
    assert widths == [(1, 5)] + [(1, 1)] * 5


@pytest.mark.parametrize("at_once", [1, 4, 6, 7, 100])
def test_a_long_prompt_is_read_in_pieces_and_gives_the_same_text(at_once, model, monkeypatch):
    """A batch of two, of 15 and 4 tokens: the second has nothing but padding in the first pieces."""
    prompts = [list(range(1, 16)), [7, 3, 9, 2]]
    whole = list(sample.generate(model, prompts, 6, 60, temperature=0))

    forward = Llama.forward
    tokens_read = []

    def spy(self, idx, *args, **kwargs):
        tokens_read.append(idx.numel())
        return forward(self, idx, *args, **kwargs)

    monkeypatch.setattr(Llama, "forward", spy)
    monkeypatch.setattr(sample, "READ_AT_ONCE", at_once)
    assert list(sample.generate(model, prompts, 6, 60, temperature=0)) == whole
    assert max(tokens_read) <= len(prompts) * at_once
    assert sum(tokens_read) == 2 * 15 + 2 * 5  # each token once: the prompts, and the five that are read again


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 1}, {"top_k": 5, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("step", [0, 4])
def test_logits_that_are_not_finite_are_an_error_at_their_step(model, monkeypatch, step, bad, options):
    """One bad number in one row of two, drawn or not; not in the padding, which is never drawn."""
    forward = Llama.forward
    calls = []

    def poisoned(self, idx, **kw):
        logits = forward(self, idx, **kw)
        logits[0, -1, 63] = torch.nan  # padding
        if len(calls) == step:
            logits[1, -1, 50] = bad
        calls.append(idx)
        return logits

    monkeypatch.setattr(Llama, "forward", poisoned)
    steps = []
    with pytest.raises(ValueError, match="logits are not finite"):
        for tokens in sample.generate(model, [[1, 2, 3], [4]], 10, 60, **options):
            steps.append(tokens)
    assert len(steps) == step


@pytest.mark.parametrize("options", [["--temperature=0"], ["--temperature=0.8"]], ids=str)
def test_a_checkpoint_whose_logits_are_not_finite_is_named(run_dir, tmp_path, run_here, options):
    """Finite weights, so large that no number comes out."""
    folder = tmp_path / "large"
    shutil.copytree(checkpoint.resolve(run_dir), folder)
    weights = load_file(folder / "model.safetensors")
    large = {name: tensor * 1e12 for name, tensor in weights.items()}
    save_file(large, folder / "model.safetensors", metadata={"format": "pt"})
    done = run_here(f"--checkpoint={folder}", "--prompt=the ", *options)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"error: {folder}: the logits are not finite (NaN or infinity)")
    assert done.stderr.count("\n") == 1


def too_many_bytes():
    torch.empty(1 << 60, dtype=torch.uint8)


def more_bytes_than_int64_counts():
    torch.empty(1 << 62)


def no_python_memory():
    bytearray((1 << 63) - 1)


def full_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


OUT_OF_MEMORY = [too_many_bytes, more_bytes_than_int64_counts, no_python_memory, full_gpu]


@pytest.mark.parametrize("fill", OUT_OF_MEMORY)
def test_a_full_memory_is_one_line_with_advice(run_dir, run_here, monkeypatch, fill):
    """For the weights and for the cache, with the errors that torch and Python really raise."""
    arguments = [f"--checkpoint={run_dir}", "--prompt=the "]
    with monkeypatch.context() as patch:
        patch.setattr(sample, "Cache", lambda *args: fill())
        done = run_here(*arguments, "--batch_size=3", "--max_new_tokens=77")
    assert done.returncode == 1 and done.stderr.startswith("error: out of memory: ")
    assert done.stderr.endswith("; lower --batch_size (3) or --max_new_tokens (77)\n") and done.stderr.count("\n") == 1

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load_model", lambda *args, **options: fill())
        done = run_here(*arguments)
    assert done.returncode == 1 and done.stderr.startswith("error: out of memory: ")
    assert done.stderr.endswith("; give --dtype=bfloat16, or a device with more memory\n")


def test_only_process_0_gives_advice_and_other_errors_pass(monkeypatch):
    with pytest.raises(RuntimeError, match="^shapes differ$"), memory_advice("advice"):
        raise RuntimeError("shapes differ")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(RuntimeError, match="out of memory: .*; advice"), memory_advice("advice"):
        full_gpu()


def test_a_device_without_numbers_is_refused():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device=meta holds shapes and no numbers; choose cpu, cuda or mps"):
        pick_device("meta")


class Characters:
    """A stand-in tokenizer: an id is a character."""

    class hf:  # noqa: N801
        id_to_token = staticmethod(chr)

    @staticmethod
    def decode(ids):
        return "".join(map(chr, ids))


@given(st.text("ab\n", max_size=30), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_text_is_cut_before_the_first_stop_string_and_never_shows_a_part_of_it(text, stops):
    # the stop string whose end comes first ends the text; of two with that end the one that begins first
    found = [stop for stop in stops if stop in text]
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in found]
    expected = text
    if ends:
        _, begin = min(ends)
        expected = text[:begin]

    stream, shown = TextStream(Characters, [], stops), ""
    for character in text:
        shown += stream.feed(ord(character))
        assert expected.startswith(shown)
        if stream.stopped:
            break
    assert stream.stopped == bool(ends)
    assert shown + stream.flush() == expected


def test_text_appears_while_it_is_generated(run_dir, capsys, monkeypatch):
    seen, generate = [], sample.generate

    def watched(*args, **options):
        for step in generate(*args, **options):
            yield step
            seen.append(capsys.readouterr().out)

    monkeypatch.setattr(sample, "generate", watched)
    sample.main(SampleConfig(checkpoint=str(run_dir), prompt="the ", max_new_tokens=20, num_samples=2, device="cpu"))
    rest = capsys.readouterr()
    assert seen[0].startswith("the ") and sum(bool(text) for text in seen) > 10
    first, second = ("".join(seen) + rest.out).split("\n\n---\n")
    assert first.startswith("the ") and second.startswith("the ") and first != second
    assert "tokens/s)" in rest.err


def test_prompts_come_from_a_file_standard_input_or_lines(run_dir, tmp_path, run_here):
    plain, lines = tmp_path / "prompt.txt", tmp_path / "prompts.jsonl"
    plain.write_text("the \nba\n")
    lines.write_text('"the "\n{"prompt": "ba"}\n"é"\n')
    arguments = [f"--checkpoint={run_dir}", "--temperature=0", "--max_new_tokens=5"]
    one = run_here(*arguments, "--prompt=the \nba")
    assert one.returncode == 0 and one.stdout.startswith("the \nba")
    assert run_here(*arguments, f"--prompt_file={plain}").stdout == one.stdout
    assert run_here(*arguments, "--prompt_file=-", stdin="the \nba\n").stdout == one.stdout
    many = run_here(*arguments, f"--prompt_file={lines}", "--num_samples=2", "--batch_size=4").stdout
    many = many.removesuffix("\n").split("\n\n---\n")
    expected = [run_here(*arguments, f"--prompt={prompt}").stdout[:-1] for prompt in ("the ", "ba", "é")]
    assert many == [text for text in expected for _ in range(2)]


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ('{"prompt": "a\u2028b"}\n', ["a\u2028b"]),
        ('{"prompt": "a\u0085b"}\n"\x1c \x0b"\n'.replace("\x1c \x0b", "c\u2029d"), ["a\u0085b", "c\u2029d"]),
        ('"a"\r\n"b"\r\n', ["a", "b"]),
        ('\ufeff"a"\n"b"', ["a", "b"]),
        ('"one"\n"\\ud83d"\n{"prompt": "\\ude00x"}\n"\\ud83d\\ude00"\n', ["one", "\ufffd", "\ufffdx", "\U0001f600"]),
    ],
)
def test_lines_of_prompts_as_json_allows_them(tmp_path, content, prompts):
    """Ended by line feeds only; a byte order mark; half an emoji, which has no UTF-8."""
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content.encode())
    assert sample.read_prompts(SampleConfig(prompt_file=str(file))) == prompts


def test_a_plain_prompt_without_byte_order_mark_and_half_characters(tmp_path, run_dir, run_here):
    file = tmp_path / "prompt.txt"
    file.write_bytes("\ufeffthe \u2028\r\n".encode())
    assert sample.read_prompts(SampleConfig(prompt_file=str(file))) == ["the \u2028"]
    done = run_here(f"--checkpoint={run_dir}", "--prompt=the \udcff", "--max_new_tokens=3")
    assert done.returncode == 0 and done.stdout.startswith("the \ufffd"), done.stderr


def test_half_an_emoji_does_not_end_the_job(tmp_path, run_dir, run_here):
    file = tmp_path / "prompts.jsonl"
    file.write_text('"the "\n"\\ud83d"\n"ba"\n')
    done = run_here(f"--checkpoint={run_dir}", f"--prompt_file={file}", "--max_new_tokens=3", "--batch_size=1")
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.split("\n\n---\n")
    assert first.startswith("the ") and second.startswith("\ufffd") and third.startswith("ba")


def test_stop_strings_on_the_command_line(run_dir, run_here):
    arguments = [f"--checkpoint={run_dir}", "--prompt=the ", "--max_new_tokens=25"]
    whole = run_here(*arguments).stdout.removesuffix("\n")
    new = whole.removeprefix("the ")
    stop = new[4:6]
    for given_as in (stop, json.dumps([stop, "never to be seen"])):
        assert run_here(*arguments, f"--stop={given_as}").stdout == "the " + new[: new.find(stop)] + "\n"


def test_mistakes_are_one_line(run_dir, tmp_path, run_here):
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    (tmp_path / "bad.jsonl").write_text('"fine"\n{"text": 1}\n')
    (tmp_path / "number.jsonl").write_text("7\n")
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "deep.jsonl").write_text('"fine"\n' + "[" * 100_000)
    for args, message in (
        ([f"--checkpoint={tmp_path}"], "holds no checkpoint; train first"),
        ([f"--checkpoint={run_dir}/step_0000099"], f"holds no checkpoint; {run_dir} has step_0000010, step_0000020"),
        ([f"--checkpoint={run_dir}", "--prompt=" + "the " * 100], "the prompt has"),
        ([f"--checkpoint={run_dir}", "--temperature=-1"], "temperature (-1.0) must be at least 0"),
        ([f"--checkpoint={run_dir}", "--top_k=0"], "top_k (0) must be at least 1"),
        ([f"--checkpoint={run_dir}", "--top_p=0"], "top_p (0.0) must be above 0 and at most 1"),
        ([f"--checkpoint={run_dir}", "--min_p=2"], "min_p (2.0) must be at least 0 and at most 1"),
        ([f"--checkpoint={run_dir}", "--temperature=nan"], "temperature (nan) must be at least 0"),
        ([f"--checkpoint={run_dir}", "--device=tpu"], "--device=tpu cannot be used here"),
        ([f"--checkpoint={run_dir}", "--device=meta"], "--device=meta holds shapes and no numbers"),
        ([f"--checkpoint={run_dir}", "--stop=[1"], "--stop=[1 looks like a JSON list"),
        ([f"--checkpoint={run_dir}", "--stop=" + "[" * 100_000], "[[[ looks like a JSON list"),
        ([f"--checkpoint={run_dir}", "--stop=[1]"], "--stop=[1] looks like a JSON list, but is no list of strings"),
        ([f"--checkpoint={run_dir}", "--prompt=a", "--prompt_file=-"], "--prompt or --prompt_file, not both"),
        ([f"--checkpoint={run_dir}", f"--prompt_file={tmp_path}/no.txt"], "no.txt: no such file"),
        ([f"--checkpoint={run_dir}", f"--prompt_file={tmp_path}/latin.txt"], "latin.txt: not UTF-8 text"),
        ([f"--checkpoint={run_dir}", f"--prompt_file={tmp_path}/bad.jsonl"], "bad.jsonl:2: not a JSON string"),
        (
            [f"--checkpoint={run_dir}", f"--prompt_file={tmp_path}/number.jsonl"],
            'number.jsonl:1: not a JSON string, nor an object with a string "prompt": 7',
        ),
        ([f"--checkpoint={run_dir}", f"--prompt_file={tmp_path}/none.jsonl"], "none.jsonl holds no prompt"),
        ([f"--checkpoint={run_dir}", f"--prompt_file={tmp_path}/deep.jsonl"], "deep.jsonl:2: not a JSON string"),
    ):
        done = run_here(*args)
        assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert len(done.stderr) < 500


def test_a_prompt_that_spells_a_token_without_a_row_is_refused(run_dir, tmp_path, run_here):
    """Folders add tokens to the tokenizer and not to the model; without them in the prompt all is well."""
    folder = tmp_path / "model"
    shutil.copytree(run_dir / "latest", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = [f"<extra {i}>" for i in range(100)]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

    assert run_here(f"--checkpoint={folder}", "--prompt=the ", "--max_new_tokens=5").returncode == 0
    done = run_here(f"--checkpoint={folder}", "--prompt=the <extra 99>", "--max_new_tokens=5")
    assert done.returncode == 1 and "a token of id 399, but the model's embedding 320 rows" in done.stderr, done.stderr


def test_says_when_the_context_is_full(run_dir, run_here):
    done = run_here(f"--checkpoint={run_dir}", "--max_new_tokens=500", "--num_samples=2", "--prompt=")
    assert done.returncode == 0, done.stderr
    assert "---" in done.stdout and ("context of 32 tokens is full" in done.stderr or len(done.stdout) < 400)
