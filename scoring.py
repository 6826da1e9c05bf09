"""Log-probabilities of answers: how likely a model finds each continuation of a context.

(scoring.py knows ids only. tasks/ has the questions, evaluate.py makes ids and metrics of them.)

    plan = Plan(items, model.cfg.block_size, batch_tokens=2048)
    for batch in plan.batches:
        for item, scores in score_batch(model, batch):     # scores: one a request of the item
            ...

Four things make it fast, and none changes a score:

- The requests of an item are a tree: what they begin with alike, mostly the question, is computed once (trees.py).
- What most items begin with, the examples of few-shot prompts, is computed once a run (Prefix).
- Items stand side by side without padding (Forest).
- Logits are computed only at tokens from which an answer is predicted.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import Llama, chunks, log_softmax
from trees import Forest, Prefix, Request, Tree

SHORTEST_PREFIX = 16  # tokens that all items begin with: fewer are not worth a pass of their own
LOOKED_AT = 1000  # items, evenly spaced, that say what most begin with
NOT_FINITE = "the logits are not finite (NaN or infinity): training diverged, or weights are damaged"


@dataclass(frozen=True)
class Score:
    """The answer to a Request."""

    logprob: float  # nats, the sum over the tokens of the continuation
    greedy: bool  # each of these tokens is the likeliest at its place


Item = Sequence[Request]


class CompactItems(Sequence[Item]):
    """Items whose ids take 4 bytes each; lists of Python would take up to 36. An item is unpacked when it is asked for.

    All ids stand in one array. Requests of an item that have the same context share it. The context 5 6 with the
    continuations 7 8 and 9:

        ids         5 6 7 8 9
        places      0 2 2 4    0 2 4 5      of each request: begin and end of its context, then of its continuation
    """

    def __init__(self, items: Iterable[Item] = ()):
        self._ids = array("I")
        self._places = array("Q")
        self._requests = array("Q", [0])  # of each item the number of its first request, and at last that of all
        for item in items:
            self.append(item)

    def append(self, item: Item) -> None:
        """Add an item."""
        context = None
        for request in item:
            if request.context != context:
                context = request.context
                context_place = self._store(context)
            self._places.extend(context_place + self._store(request.continuation))
        self._requests.append(len(self._places) // 4)

    def _store(self, ids: list[int]) -> tuple[int, int]:
        begin = len(self._ids)
        self._ids.extend(ids)
        return begin, len(self._ids)

    def __len__(self) -> int:
        return len(self._requests) - 1

    def __getitem__(self, number: int) -> Item:
        if not 0 <= number < len(self):
            raise IndexError(number)
        item = []
        unpacked = None  # the place of the context
        for request in range(self._requests[number], self._requests[number + 1]):
            context_begin, context_end, begin, end = self._places[4 * request : 4 * request + 4]
            if unpacked != (context_begin, context_end):
                unpacked = (context_begin, context_end)
                context = self._ids[context_begin:context_end].tolist()
            continuation = self._ids[begin:end].tolist()
            item.append(Request(context, continuation))
        return item


def windows(request: Request, block_size: int, stride: int | None = None) -> Iterator[Request]:
    """The request in pieces that a context of block_size tokens holds; mostly it is one piece, the request itself.

    A context that is too long is cut on the left. A continuation that is too long has several windows: the first
    predicts block_size tokens, each later one `stride` more (None: block_size, disjoint windows), and the context of
    each is as long as the model allows. (The rules of lm-evaluation-harness.)

    block_size = 4, context 0, continuation 1 ... 9, and what each window scores in brackets:

        disjoint    0 [1 2 3 4]   4 [5 6 7 8]   5 6 7 8 [9]
        stride 2    0 [1 2 3 4]   2 3 4 [5 6]   4 5 6 [7 8]   5 6 7 8 [9]

    The last id of a window is predicted and not read, so a window has block_size + 1 ids.
    """
    ids = request.context + request.continuation
    begin = len(request.context)
    count = block_size
    while begin < len(ids):
        end = min(begin + count, len(ids))
        start = max(0, end - block_size - 1)
        yield Request(ids[start:begin], ids[begin:end])
        begin = end
        count = stride or block_size


# --- which items are computed together ---


@dataclass(frozen=True)
class Batch:
    """Items that are computed together, behind the same prefix (which may be empty)."""

    items: Sequence[Item]  # all of the plan
    numbers: list[int]  # of those in this batch
    block_size: int
    prefix: Prefix
    tokens: int  # what the model reads, the prefix left out

    @property
    def trees(self) -> list[Tree]:
        """Made anew each time: the trees of all batches would take many times the memory of the ids."""
        skip = len(self.prefix.ids)
        return [Tree(number, in_windows(self.items[number], self.block_size), skip) for number in self.numbers]


class Plan:
    """Which items are computed together.

    Attributes:
        batches: those with the longest items first, so that memory runs out at once or never.
        tokens: what the model reads for all of them, the prefix left out.
    """

    def __init__(self, items: Sequence[Item], block_size: int, batch_tokens: int):
        """batch_tokens: tokens of a batch at most, unless one item has more."""
        some = range(0, len(items), 1 + len(items) // LOOKED_AT)
        contexts = [in_windows(items[number], block_size)[0][0].context for number in some]
        prefix = Prefix(common_beginning_of_most(contexts))

        behind_prefix: dict[int, int] = {}  # the number of an item: the tokens that the model reads for it
        others: dict[int, int] = {}
        for number, item in enumerate(items):
            pieces = in_windows(item, block_size)
            if prefix.ids and all(prefix.begins(window.context) for part in pieces for window in part):
                behind_prefix[number] = len(Tree(number, pieces, skip=len(prefix.ids)).ids)
            else:
                others[number] = len(Tree(number, pieces).ids)

        self.batches = []
        for tokens_of, shared in ((others, Prefix([])), (behind_prefix, prefix)):
            for numbers in in_batches(tokens_of, batch_tokens):
                tokens = sum(tokens_of[number] for number in numbers)
                self.batches.append(Batch(items, numbers, block_size, shared, tokens))
        self.tokens = sum(batch.tokens for batch in self.batches)


def in_windows(item: Item, block_size: int) -> list[list[Request]]:
    """The windows of each request."""
    return [list(windows(request, block_size)) for request in item]


def common_beginning_of_most(contexts: Sequence[list[int]]) -> list[int]:
    """Ids with which at least half of the contexts begin, and go on; empty where they are too few to matter.

    Of sorted contexts, all between two begin with what these two have in common: the first and the third quarter are
    looked at. Sorted, and of each its first ids:

        1 2 7    5 6 1    5 6 4    5 6 9    8 3 3        5 6 1 and 5 6 9 have 5 6 in common, and so has 5 6 4
    """
    contexts = sorted(contexts)
    if len(contexts) < 2:
        return []
    first = contexts[len(contexts) // 4]
    last = contexts[(3 * len(contexts)) // 4]

    longest = min(len(first), len(last)) - 1
    length = 0
    while length < longest and first[length] == last[length]:
        length += 1
    return first[:length] if length >= SHORTEST_PREFIX else []


def in_batches(tokens_of: dict[int, int], batch_tokens: int) -> Iterator[list[int]]:
    """The numbers of items, by {number: tokens}: longest first, as many together as fit."""
    together: list[int] = []
    tokens = 0
    for number in sorted(tokens_of, key=lambda number: (-tokens_of[number], number)):
        if together and tokens + tokens_of[number] > batch_tokens:
            yield together
            together = []
            tokens = 0
        together.append(number)
        tokens += tokens_of[number]
    if together:
        yield together


# --- scores ---


@torch.no_grad()  # not inference_mode: with fsdp what is gathered here is trained on later
def score_batch(model: Llama, batch: Batch) -> list[tuple[int, list[Score]]]:
    """The scores of each request, item by item: [(number of the item, its scores)].

    Softmax in float32 at least; the sum over a continuation in float64. Raises ValueError for logits that are NaN or
    infinite.
    """
    device = model.device

    # Read all nodes.
    trees = batch.trees
    forest = Forest(trees, batch.prefix.read(model), device)
    ids = [token for tree in trees for token in tree.ids]
    x = model(torch.tensor([ids], device=device), cache=forest, hidden=True)[0]  # (N, C)

    # Predict the targets: of each the node before it, counted through all trees.
    nodes: list[int] = []
    targets: list[int] = []
    begin = 0
    for tree in trees:
        for branch in tree.branches:
            nodes += [begin + node for node in branch.predicting]
            targets += branch.targets
        begin += len(tree.ids)
    logprobs, greedy = predict(model, x, np.array(nodes), np.array(targets))
    if not np.isfinite(logprobs).all():
        raise ValueError(NOT_FINITE)

    # Hand the results out, in the same order.
    results = []
    begin = 0
    for tree in trees:
        end = begin + sum(len(branch.targets) for branch in tree.branches)
        results.append((tree.item, add_up(tree, logprobs[begin:end], greedy[begin:end])))
        begin = end
    return results


def predict(model: Llama, x: Tensor, nodes: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each target, (n,), its log-probability in nats, float32, and whether it is the likeliest id.

    x: (N, C), what the model found at each node; nodes: (n,), after which of them each target stands. A node that
    predicts several targets has its logits once.
    """
    head = model.lm_head
    used, which = np.unique(nodes, return_inverse=True)  # target i stands after node used[which[i]]
    x = x[torch.from_numpy(used).to(x.device)]  # (used, C)

    logprobs = np.empty(len(targets), np.float32)
    greedy = np.empty(len(targets), bool)
    for part in chunks(len(x), head.out_features, head.in_features, wants_weight=False):
        of_all = log_softmax(head(x[part]))  # (rows, V)
        likeliest = of_all.argmax(1)  # (rows,)

        here = np.flatnonzero((which >= part.start) & (which < part.stop))
        row = torch.from_numpy(which[here] - part.start).to(x.device)
        target = torch.from_numpy(targets[here]).to(x.device)
        logprobs[here] = of_all[row, target].float().cpu()
        greedy[here] = (likeliest[row] == target).cpu()
    return logprobs, greedy


def add_up(tree: Tree, logprobs: np.ndarray, greedy: np.ndarray) -> list[Score]:
    """A score for each request of the tree, of the results for its targets, branch after branch."""
    scores: dict[int, Score] = {}
    begin = 0
    for branch in tree.branches:
        end = begin + len(branch.targets)
        logprob = float(logprobs[begin:end].sum(dtype=np.float64))
        all_greedy = bool(greedy[begin:end].all())
        begin = end

        # A request that is longer than the context has several branches.
        earlier = scores.get(branch.request, Score(0.0, True))
        scores[branch.request] = Score(earlier.logprob + logprob, earlier.greedy and all_greedy)
    return list(scores.values())


def score(model: Llama, items: Sequence[Item], batch_tokens: int = 2048) -> list[list[Score]]:
    """The scores of all items, in their order."""
    found: dict[int, list[Score]] = {}
    for batch in Plan(items, model.cfg.block_size, batch_tokens).batches:
        found.update(score_batch(model, batch))
    return [found[number] for number in range(len(items))]
