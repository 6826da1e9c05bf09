"""Scores equal those of one request at a time with all logits, whatever the batch, the order, and what is shared."""

import gc
import random

import numpy as np
import pytest
import torch

import scoring
from model import Llama, ModelConfig
from scoring import CompactItems, Plan, windows
from trees import Forest, Request, Tree

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")

SHAPE = ModelConfig(vocab_size=64, block_size=24, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=32)


@pytest.fixture(scope="module")
def model():
    """Random weights, large enough for a spread of probabilities."""
    torch.manual_seed(0)
    model = Llama(SHAPE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() == 2 else 1)
    return model


@torch.no_grad()
def slow_score(model: Llama, request: Request) -> tuple[float, bool]:
    """One forward pass with all logits; a context that is too long is cut on the left."""
    ids = (request.context + request.continuation)[-SHAPE.block_size - 1 :]
    n = len(request.continuation)
    logprobs = model(torch.tensor([ids[:-1]]))[0, -n:].double().log_softmax(1)  # (n, V)
    target = torch.tensor(request.continuation)
    return logprobs.gather(1, target[:, None]).sum().item(), bool((logprobs.argmax(1) == target).all())


def likeliest(model: Llama, context: list[int], n: int) -> list[int]:
    """What the model would write."""
    ids = list(context)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids[-SHAPE.block_size :]]))[0, -1].argmax()))
    return ids[len(context) :]


@pytest.fixture(scope="module")
def items(model):
    """Items of 1 to 4 requests: equal contexts and others, most behind the same 17 ids, some too long for the model."""
    draw = random.Random(0)
    ids = lambda n: [draw.randrange(SHAPE.vocab_size) for _ in range(n)]  # noqa: E731
    examples = ids(17)
    items = []
    for number in range(48):
        context = ids(draw.randint(1, 30)) if number % 4 == 0 else examples + ids(draw.randint(1, 6))
        continuations = [ids(draw.randint(1, 5)) for _ in range(draw.randint(1, 4))]
        continuations.append(continuations[0] + ids(1))  # one that another begins
        contexts = [context] * len(continuations)
        if number % 4 == 1:  # contexts that differ at their end
            contexts = [context[:-1] + ids(1) for _ in continuations]
        if number % 8 == 2 and len(context) < 20:
            continuations[-1] = likeliest(model, context, 3)
        items.append([Request(a, b) for a, b in zip(contexts, continuations, strict=True)])
    return items


@pytest.mark.parametrize("way", ["one_by_one", "padded"])
@pytest.mark.parametrize("batch_tokens", [1, 70, 5000])
def test_scores_are_those_of_each_request_alone(model, items, batch_tokens, way, monkeypatch):
    """By the attention of a CPU, and by that of a GPU."""
    if way == "padded":
        monkeypatch.setattr(Forest, "attend", Forest._attend_padded)
    order = list(range(len(items)))
    random.Random(batch_tokens).shuffle(order)
    found = scoring.score(model, [items[i] for i in order], batch_tokens)

    flags = set()
    for place, i in enumerate(order):
        for request, score in zip(items[i], found[place], strict=True):
            logprob, greedy = slow_score(model, request)
            assert score.logprob == pytest.approx(logprob, abs=1e-4)
            assert score.greedy == greedy
            flags.add(greedy)
    assert flags == {True, False}

    lengths = [len(request.context) + len(request.continuation) - 25 for item in items for request in item]
    assert max(lengths) > 0, "none was cut"


def test_what_requests_share_is_read_once(model):
    """Items behind the same 20 ids, 3 choices of 2 ids each: 20 + 4 * (2 + 3) + 4 * (3 + 3), without padding."""
    examples = list(range(20))
    items = [[Request([*examples, 30 + i, 40], [c, 50]) for c in (1, 2, 3)] for i in range(4)]
    items += [[Request([*examples, 30 + i, 41, 42], [c, 50]) for c in (1, 2, 3)] for i in range(4)]
    read = []
    hook = model.model.register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    scoring.score(model, items)
    hook.remove()
    assert sum(read) == 20 + 4 * (2 + 3) + 4 * (3 + 3)
    assert Plan(items, SHAPE.block_size, 2048).tokens == 4 * (2 + 3) + 4 * (3 + 3)


def test_logits_are_computed_where_an_answer_is_predicted(model):
    rows = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    scoring.score(model, [[Request(list(range(15)), [c]) for c in (1, 2, 3, 4)], [Request([5, 6, 7], [8, 9])]])
    hook.remove()
    assert sum(rows) == 1 + 2


def test_compact_items_are_the_same_items(items):
    """Also those whose requests have contexts of their own, one by one and all; a shared context is kept once."""
    compact = CompactItems(items[:-1])
    compact.append(items[-1])
    assert len(compact) == len(items) and [*compact] == items
    assert compact[7] == items[7]
    for outside in (-1, len(items)):
        with pytest.raises(IndexError):
            compact[outside]

    shared = CompactItems([[Request(list(range(100)), [choice]) for choice in range(4)]])
    assert len(shared._ids) == 100 + 4 and shared._ids.itemsize == 4
    assert len({id(request.context) for request in shared[0]}) == 1


def test_a_plan_holds_no_trees(model, items):
    plan = Plan(CompactItems(items), SHAPE.block_size, 100)
    scoring.score_batch(model, plan.batches[0])
    assert sum(len(batch.trees) for batch in plan.batches) == len(items)
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each) is Tree]


def test_a_tree_is_as_it_is_drawn():
    tree = Tree(0, [[Request([5, 6], [7, 8])], [Request([5, 6], [9, 4, 2])]])
    assert tree.ids == [5, 6, 7, 9, 4]
    assert tree.depths == [0, 1, 2, 2, 3]
    assert [branch.path for branch in tree.branches] == [[0, 1, 2], [0, 1, 3, 4]]
    assert [branch.predicting for branch in tree.branches] == [[1, 2], [1, 3, 4]]
    assert [branch.targets for branch in tree.branches] == [[7, 8], [9, 4, 2]]
    drawn = ["1....", "11...", "111..", "11.1.", "11.11"]
    assert np.array_equal(tree.sees(), [[mark == "1" for mark in line] for line in drawn])


def pieces(stride):
    request = Request([0], list(range(1, 10)))
    return [(window.context, window.continuation) for window in windows(request, 4, stride)]


def test_windows_are_as_they_are_drawn():
    assert pieces(None) == [([0], [1, 2, 3, 4]), ([4], [5, 6, 7, 8]), ([5, 6, 7, 8], [9])]
    assert pieces(2) == [([0], [1, 2, 3, 4]), ([2, 3, 4], [5, 6]), ([4, 5, 6], [7, 8]), ([5, 6, 7, 8], [9])]


def test_an_answer_longer_than_the_context_is_scored_in_windows(model):
    request = Request([1, 2], [3 + i % 50 for i in range(60)])
    ((score,),) = scoring.score(model, [[request]])
    alone = [slow_score(model, window)[0] for window in windows(request, SHAPE.block_size)]
    assert len(alone) == 3
    assert score.logprob == pytest.approx(sum(alone), abs=1e-4)


def test_logits_that_are_not_finite_are_refused():
    broken = Llama(SHAPE).eval()
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match="training diverged"):
        scoring.score(broken, [[Request([1], [2])]])
