"""Continuous batching: each text is what it would be alone, bit for bit; rows join and leave; prefixes are reused."""

import dataclasses
import random
import time

import pytest
import torch
from served import random_model, tiny_tokenizer

import sample
from model import Cache
from serving.engine import CHUNK, Drawing, End, Engine, Failure, Piece, QueueFull, Request, find_batch_sizes
from serving.rows import RowCache

SIZE = 400


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_model(tokenizer.vocab_size)


class Collected(list):
    """The events of one request, taken apart."""

    @property
    def text(self) -> str:
        return "".join(event.text for event in self if isinstance(event, Piece))

    @property
    def logprobs(self) -> list:
        return [written for event in self if isinstance(event, Piece) for written in event.logprobs]

    @property
    def tokens(self) -> list[int]:
        return [written.token for written in self.logprobs]

    @property
    def end(self):
        return self[-1] if self and isinstance(self[-1], End | Failure) else None


def request(prompt, max_new_tokens=8, **options) -> Request:
    """A request that collects its events, with log-probabilities: they show the bits of the logits."""
    options = {"drawing": Drawing(temperature=0), "top_logprobs": 1, **options}
    return Request(list(prompt), max_new_tokens, deliver=Collected().append, **options)


def events(request) -> Collected:
    return request.deliver.__self__


@torch.inference_mode()
def run(engine, *requests, steps=2000):
    """Submit, and step until all have ended."""
    engine.submit(requests)
    for _ in range(steps):
        if all(events(request).end for request in requests):
            return [events(request) for request in requests]
        engine.step()
    raise AssertionError("not at an end")


@pytest.fixture
def engine(model, tokenizer):
    return Engine(model, tokenizer, rows=4, size=SIZE, queue_size=100)


def random_requests(tokenizer, count: int) -> list[Request]:
    draw = random.Random(5)
    made = []
    for number in range(count):
        length = draw.choice([1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, draw.randint(3, 200)])
        prompt = [draw.randrange(3, 60) for _ in range(length)]
        drawing = draw.choice([Drawing(temperature=0), Drawing(1.3), Drawing(1.0, top_k=5), Drawing(0.8, top_p=0.7)])
        stop_ids = frozenset([draw.randrange(3, 60)])
        made.append(request(prompt, draw.randint(1, 40), drawing=drawing, seed=number, stop_ids=stop_ids))
    return made


@torch.inference_mode()
def test_each_text_is_what_it_would_be_alone(model, tokenizer, engine):
    """Twenty-four requests come at random moments to four rows. References: sample.generate, one text at a time; and
    the same engine with one request, whose logits must have the same bits."""
    requests = random_requests(tokenizer, 24)
    draw = random.Random(1)
    left = list(requests)
    most_at_once = 0
    while not all(events(wanted).end for wanted in requests):
        if left and draw.random() < 0.3:
            engine.submit([left.pop(0)])
        engine.step()
        most_at_once = max(most_at_once, engine.running)
    assert most_at_once == 4

    for wanted in requests:
        drawing = dataclasses.asdict(wanted.drawing)
        steps = sample.generate(
            model,
            [wanted.prompt],
            wanted.max_new_tokens,
            tokenizer.vocab_size,
            wanted.stop_ids,
            [wanted.seed],
            **drawing,
        )
        expected = [token for (token,) in steps]
        found = events(wanted)
        assert found.tokens == expected
        assert found.end.reason == ("length" if len(expected) == wanted.max_new_tokens else "stop")

    for wanted in requests[::3]:
        found = events(wanted)
        alone = Engine(model, tokenizer, rows=4, size=SIZE, queue_size=1)
        again = dataclasses.replace(wanted, deliver=Collected().append)
        (events_alone,) = run(alone, again)
        assert events_alone.logprobs == found.logprobs
        assert events_alone.text == found.text


def test_a_conversation_goes_on_in_its_row_with_the_same_bits(model, tokenizer, engine):
    """The further turn reads what is new, from a whole chunk on; others may have been between."""
    first = list(range(3, 3 + 40)) * 4  # 160 tokens: two chunks and a half
    (answer,) = run(engine, request(first))
    run(engine, *[request([5 + i] * 70) for i in range(3)])

    longer = [*first, *answer.tokens, *range(10, 50)]
    (second,) = run(engine, request(longer))
    assert second.end.reused_tokens == 2 * CHUNK
    (fresh,) = run(Engine(model, tokenizer, 4, SIZE, 100), request(longer))
    assert fresh.end.reused_tokens == 0
    assert second.logprobs == fresh.logprobs

    # the third turn reuses what the second has read
    (third,) = run(engine, request([*longer, *second.tokens, 7, 8, 9]))
    assert third.end.reused_tokens == len(longer) // CHUNK * CHUNK > 2 * CHUNK


def test_answers_to_the_same_prompt_read_it_once(model, tokenizer, engine):
    """Four answers at once: three copy the first one's whole chunks. And a row that is in use is not touched."""
    prompt = list(range(3, 53)) * 3  # 150 tokens
    found = run(engine, *[request(prompt, 12, drawing=Drawing(1.0), seed=seed) for seed in range(4)])
    assert [one.end.reused_tokens for one in found] == [0, 128, 128, 128]
    passes = engine.metrics.passes.labels("prompt")._value.get()
    assert passes == 3 + 3  # three chunks once, and the rest of the prompt for each other one

    for seed, one in enumerate(found):
        alone = request(prompt, 12, drawing=Drawing(1.0), seed=seed)
        (expected,) = run(Engine(model, tokenizer, 4, SIZE, 100), alone)
        assert one.logprobs == expected.logprobs


@torch.inference_mode()
def test_a_long_prompt_does_not_stall_the_others(engine):
    """While it is read, chunk by chunk, an answer that runs gets a token each step."""
    running = request([5], 50)
    engine.submit([running])
    engine.step()
    long = request([7] * 350, 2)
    engine.submit([long])
    steps = 0
    while not events(long):
        before = len(engine.writing[0].written)
        engine.step()
        assert len(engine.writing[0].written) == before + 1
        steps += 1
    assert steps == -(-350 // CHUNK)


@torch.inference_mode()
def test_who_has_gone_frees_a_row_at_the_next_step(engine):
    requests = [request([5 + i], 300) for i in range(6)]
    engine.submit(requests)
    for _ in range(10):
        engine.step()
    assert engine.running == 4 and len(engine.waiting) == 2
    requests[1].gone = True
    requests[4].gone = True  # waits: it never has a row
    engine.step()
    assert engine.running == 4 and not engine.waiting and not events(requests[4])
    for one in requests:
        one.gone = True
    engine.step()
    assert engine.running == 0 and len(engine.free) == 4


def test_the_queue_has_an_end(engine):
    engine.queue_size = 3
    engine.submit([request([5]) for _ in range(7)])  # four rows are free
    with pytest.raises(QueueFull):
        engine.submit([request([5])])
    engine.close()
    assert not engine.waiting
    with pytest.raises(QueueFull):
        engine.submit([request([5])])


def test_closing_refuses_those_that_wait_and_ends_those_that_run(engine):
    requests = [request([5 + i], 20) for i in range(6)]
    engine.submit(requests)
    with torch.inference_mode():
        engine.step()
        engine.close()
        assert [events(one).end for one in requests[4:]] == [Failure("the server is being stopped", closing=True)] * 2
        while engine.running:
            engine.step()
    assert [events(one).end.new_tokens for one in requests[:4]] == [20] * 4


def test_a_model_that_fails_loses_its_answers_and_no_more(engine, monkeypatch, capfd):
    (before,) = run(engine, request([5, 6], 6))
    forward = engine.model.forward
    engine.start()
    try:
        monkeypatch.setattr(engine.model, "forward", lambda *args, **kwargs: 1 / 0)
        lost = request([5, 6], 6)
        engine.submit([lost])
        wait_for(lambda: events(lost).end)
        assert "division by zero" in events(lost).end.message
        monkeypatch.setattr(engine.model, "forward", forward)
        again = request([5, 6], 6)
        engine.submit([again])
        wait_for(lambda: events(again).end)
    finally:
        engine.stop()
    assert events(again).logprobs == before.logprobs
    assert "ZeroDivisionError" in capfd.readouterr().err


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_logits_that_are_not_finite_fail_one_answer(model, tokenizer, engine, monkeypatch):
    """NaN in one row is that row's alone, and what its prompt left is not used again."""
    forward = engine.model.forward

    def damaged(idx, **options):
        logits = forward(idx, **options)
        if idx.shape[1] > 1 and int(idx[0, 0]) == 9:
            logits = logits * torch.nan
        return logits

    monkeypatch.setattr(engine.model, "forward", damaged)
    bad, good = run(engine, request([9] * 80), request([5] * 80))
    assert "not finite" in bad.end.message
    assert good.end.new_tokens == 8
    assert [row.held for row in engine.free if row.held] == [[5] * CHUNK]


@torch.inference_mode()
def test_logprobs_are_those_of_the_whole_text(model, tokenizer, engine):
    """Reference: one pass over prompt and answer. Temperature and penalties do not change them."""
    drawing = Drawing(temperature=0.7, top_k=20)
    options = {"drawing": drawing, "presence_penalty": 0.5, "frequency_penalty": 0.3}
    (found,) = run(engine, request([5, 9, 11], 30, top_logprobs=3, **options))
    ids = [5, 9, 11, *found.tokens]
    logprobs = model(torch.tensor([ids]))[0, 2:-1].log_softmax(1)
    for place, written in enumerate(found.logprobs):
        assert written.logprob == pytest.approx(float(logprobs[place, written.token]), abs=1e-4)
        best = logprobs[place].topk(3)
        assert [one.token for one in written.likeliest] == best.indices.tolist()
        assert [one.logprob for one in written.likeliest] == pytest.approx(best.values.tolist(), abs=1e-4)


@torch.inference_mode()
def test_penalties_and_biases_follow_openais_formula(model, tokenizer, engine):
    """Reference: greedy with a usual cache, logit - count * frequency - (count > 0) * presence + bias."""
    bias = {20: 3.0, 21: -100.0}
    options = {"presence_penalty": 1.1, "frequency_penalty": 0.9, "logit_bias": bias}
    (found,) = run(engine, request([5, 9, 11], 40, **options))

    cache = Cache(model, 1, 60)
    tokens = torch.tensor([[5, 9, 11]])
    expected: list[int] = []
    for _ in range(40):
        logits = model(tokens, cache=cache, last=True)[0, -1, : tokenizer.vocab_size].clone()
        for token in range(len(logits)):
            count = expected.count(token)
            logits[token] += bias.get(token, 0) - 0.9 * count - 1.1 * (count > 0)
        expected.append(int(logits.argmax()))
        tokens = torch.tensor([[expected[-1]]])
    assert found.tokens == expected
    (plain,) = run(engine, request([5, 9, 11], 40))
    assert plain.tokens != expected


def test_a_stop_string_ends_a_text_before_it_comes(tokenizer, engine):
    (plain,) = run(engine, request([5, 9, 11], 40))
    stop = plain.text[10:13]
    (found,) = run(engine, request([5, 9, 11], 40, stops=[stop]))
    assert found.text == plain.text[: plain.text.index(stop)]
    assert found.end.reason == "stop"
    assert found.end.new_tokens < 40


def test_the_context_bounds_an_answer(engine):
    (found,) = run(engine, request([5] * (SIZE - 3), 100))
    assert found.end == End("length", 3, 0)


def test_batch_sizes_whose_bits_differ_are_not_used(model, monkeypatch):
    """A model that adds a rounding error for batches of 2 and of 4 rows, and in the second place of 8."""
    forward = model.forward

    def rounding(idx, **options):
        logits = forward(idx, **options)
        if len(idx) in (2, 4):
            logits = logits * (1 + 1e-6)
        return logits

    expected, same_bits = find_batch_sizes(model, RowCache(model, 8, 4))
    assert same_bits and expected[-1] == 8
    monkeypatch.setattr(model, "forward", rounding)
    sizes, same_bits = find_batch_sizes(model, RowCache(model, 8, 4))
    assert same_bits and sizes == [size for size in expected if size not in (2, 4)]

    def by_place(idx, **options):
        logits = forward(idx, **options).clone()
        logits[1:2] *= 1 + 1e-6
        return logits

    monkeypatch.setattr(model, "forward", by_place)
    assert find_batch_sizes(model, RowCache(model, 8, 4)) == ([8], False)


def test_without_exact_bits_nothing_is_padded(model, tokenizer, monkeypatch):
    """One answer is computed in one row, and still is the same text here, where no two logits are nearly equal."""
    engine = Engine(model, tokenizer, 4, SIZE, 100, exact=False)
    batches = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda idx, **options: batches.append(len(idx)) or forward(idx, **options))
    (found,) = run(engine, request([5, 9, 11], 10))
    assert set(batches) == {1}
    (exact,) = run(Engine(model, tokenizer, 4, SIZE, 100), request([5, 9, 11], 10))
    assert found.tokens == exact.tokens
