"""Log-probabilities of answers: how likely a model finds each continuation of a context.

(scoring.py knows ids only. tasks/ has the questions, evaluate.py makes ids and metrics of them.)

    plan = Plan(items, model.cfg.block_size, batch_tokens=2048)
    for batch in plan.batches:
        for item, scores in score_batch(model, batch):     # scores: one a request of the item
            ...

Three things make it fast, and none changes a score:

- The requests of an item are a tree: what they begin with alike, mostly the question, is computed once (Tree).
- What nearly all items begin with, the examples of few-shot prompts, is computed once a run (Prefix).
- Logits are computed only at tokens from which an answer is predicted.

Items are sorted by length, so that the rows of a batch need little padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import Cache, Llama, chunks, logprobs_of_all, product_dtype

SHORTEST_PREFIX = 16  # tokens that all items begin with: fewer are not worth a pass of their own
NOT_FINITE = "the logits are not finite (NaN or infinity): training diverged, or weights are damaged"


@dataclass(frozen=True)
class Request:
    """How likely is `continuation` after `context`? Ids, at least one in each."""

    context: list[int]
    continuation: list[int]


@dataclass(frozen=True)
class Score:
    """The answer to a Request."""

    logprob: float  # nats, the sum over the tokens of the continuation
    greedy: bool  # each of these tokens is the likeliest at its place


Item = Sequence[Request]


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


class Tree:
    """The ids that a model reads for the requests of one item: those with the same beginning share it.

    Context 5 6 and the continuations 7 8 and 9 4 2, whose last ids are not read:

        node      0  1  2  3  4
        id        5  6  7  9  4
        depth     0  1  2  2  3      the position of the token
        path of the first request    0 1 2       of the second    0 1 3 4

        node 0   1 . . . .           which nodes (columns) each node (line) sees: those on its path
             1   1 1 . . .
             2   1 1 1 . .
             3   1 1 . 1 .
             4   1 1 . 1 1

    Node 1 predicts both 7 and 9.

    Attributes:
        item: the number of the item.
        ids, depths: of each node.
        paths: the nodes of each window, in their order.
        nodes, targets: all places that are scored: the node, and the id that it has to predict.
        counts: how many of these places belong to each window.
        owners: the request that each window belongs to.
    """

    def __init__(self, item: int, requests: Sequence[Sequence[Request]], skip: int = 0):
        """requests: the windows of each request. skip: ids at the start of each window that are left out (Prefix)."""
        self.item = item
        self.ids: list[int] = []
        self.depths: list[int] = []
        self.paths: list[list[int]] = []
        self.nodes: list[int] = []
        self.targets: list[int] = []
        self.counts: list[int] = []
        self.owners: list[int] = []

        children: dict[tuple[int, int], int] = {}  # (parent, id) -> node; -1 is the parent of the first nodes
        for owner, pieces in enumerate(requests):
            for window in pieces:
                read = (window.context + window.continuation)[skip:-1]
                path = self._add_path(read, children)
                self.paths.append(path)
                self.nodes += path[-len(window.continuation) :]
                self.targets += window.continuation
                self.counts.append(len(window.continuation))
                self.owners.append(owner)

    def _add_path(self, ids: list[int], children: dict[tuple[int, int], int]) -> list[int]:
        """The nodes of these ids, one below the other; those that are not there yet are made."""
        path = []
        node = -1
        for depth, token in enumerate(ids):
            parent = node
            node = children.setdefault((parent, token), len(self.ids))
            if node == len(self.ids):
                self.ids.append(token)
                self.depths.append(depth)
            path.append(node)
        return path

    @property
    def is_chain(self) -> bool:
        """Whether each node but the first has the one before as its parent: ordinary causal attention."""
        return self.depths == list(range(len(self.ids)))

    def sees(self) -> np.ndarray:
        """(nodes, nodes) bool, as drawn above."""
        seen = np.zeros((len(self.ids), len(self.ids)), bool)
        for path in self.paths:
            n = len(path)
            seen[np.ix_(path, path)] |= np.tri(n, dtype=bool)
        return seen

    def scores(self, logprobs: np.ndarray, greedy: np.ndarray) -> list[Score]:
        """What the places in `nodes` add up to for each request."""
        ends = np.cumsum(self.counts)
        totals = np.zeros(self.owners[-1] + 1)
        all_greedy = np.ones(len(totals), bool)
        for owner, count, end in zip(self.owners, self.counts, ends, strict=True):
            totals[owner] += logprobs[end - count : end].sum(dtype=np.float64)
            all_greedy[owner] &= greedy[end - count : end].all()
        return [Score(float(total), bool(is_greedy)) for total, is_greedy in zip(totals, all_greedy, strict=True)]


class Prefix:
    """Ids that many items begin with, and their keys and values, which are computed when they are first asked for."""

    def __init__(self, ids: list[int]):
        self.ids = ids
        self.cache: Cache | None = None

    def read(self, model: Llama) -> Cache:
        """Keys and values of the ids."""
        if self.cache is None:
            self.cache = Cache(model, 1, len(self.ids))
            tokens = torch.tensor([self.ids], device=model.lm_head.weight.device)
            model.model(tokens, cache=self.cache)
        return self.cache


@dataclass
class Batch:
    """Trees that are computed together, a row each, behind the same prefix (which may be empty)."""

    trees: list[Tree]
    prefix: Prefix

    @property
    def tokens(self) -> int:
        """What the model reads, padding left out."""
        return sum(len(tree.ids) for tree in self.trees)


class Plan:
    """Which items are computed together.

    Attributes:
        batches: the longest rows first, so that memory runs out at once or never.
        tokens: what the model reads for all of them, padding and prefix left out.
    """

    def __init__(self, items: Sequence[Item], block_size: int, batch_tokens: int):
        """batch_tokens: rows times tokens of a batch, at most, but for a row that is longer alone."""
        in_windows = [[list(windows(request, block_size)) for request in item] for item in items]

        prefix = Prefix(common_beginning_of_most(in_windows))
        no_prefix = Prefix([])
        behind_prefix: list[Tree] = []
        others: list[Tree] = []
        for number, pieces in enumerate(in_windows):
            fits = prefix.ids and all(begins_with(window.context, prefix.ids) for part in pieces for window in part)
            if fits:
                behind_prefix.append(Tree(number, pieces, skip=len(prefix.ids)))
            else:
                others.append(Tree(number, pieces))

        self.batches = [
            *in_batches(others, no_prefix, batch_tokens),
            *in_batches(behind_prefix, prefix, batch_tokens),
        ]
        self.tokens = sum(batch.tokens for batch in self.batches)


def begins_with(context: list[int], prefix: list[int]) -> bool:
    """Whether the context begins with the prefix and goes on: its last id, which predicts, must stand in the tree."""
    return len(context) > len(prefix) and context[: len(prefix)] == prefix


def common_beginning_of_most(items: Sequence[Sequence[Sequence[Request]]]) -> list[int]:
    """Ids with which at least half of the items' contexts begin; empty where they are too few to matter.

    Of sorted contexts, all between two begin with what these two have in common: the first and the third quarter are
    looked at.
    """
    contexts = sorted(item[0][0].context for item in items)
    if len(contexts) < 2:
        return []
    first = contexts[len(contexts) // 4]
    last = contexts[(3 * len(contexts)) // 4]
    longest = min(len(first), len(last)) - 1
    length = next((i for i in range(longest) if first[i] != last[i]), longest)
    return first[:length] if length >= SHORTEST_PREFIX else []


def in_batches(trees: list[Tree], prefix: Prefix, batch_tokens: int) -> Iterator[Batch]:
    """The trees, longest first, as many in a batch as fit."""
    trees = sorted(trees, key=lambda tree: (-len(tree.ids), tree.item))
    while trees:
        rows = max(1, batch_tokens // len(trees[0].ids))
        yield Batch(trees[:rows], prefix)
        trees = trees[rows:]


class TreeAttention:
    """What the model takes for a Cache: its tokens are a batch of trees, behind what a prefix's cache holds.

    Row b holds the nodes of tree b and padding, which sees itself and the prefix. Nothing new is kept.
    """

    longest_padding = 0

    def __init__(self, trees: list[Tree], width: int, prefix: Cache | None, device: torch.device):
        """width: T, the nodes of the longest tree."""
        self.prefix = prefix
        self.before = 0 if prefix is None else prefix.used

        positions = np.zeros((len(trees), 1, width), np.int64)
        seen = np.zeros((len(trees), 1, width, self.before + width), bool)
        seen[..., : self.before] = True
        seen[..., self.before :] = np.eye(width, dtype=bool)
        for row, tree in enumerate(trees):
            n = len(tree.ids)
            positions[row, 0, :n] = tree.depths
            seen[row, 0, :n, self.before : self.before + n] = tree.sees()

        self.used = self.before + int(positions.max()) + 1  # of the longest path, not of all nodes
        self.positions = torch.from_numpy(positions + self.before).to(device)  # (B, 1, T)
        self.mask = torch.from_numpy(seen).to(device)  # (B, 1, T, before + T)

    def extend(self, T: int) -> Tensor:
        """The positions of the T tokens of each row, (B, 1, T)."""
        assert T == self.positions.shape[-1], (T, self.positions.shape)
        return self.positions

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (B, Hkv, T, D) of the trees. Returns those that they see, (B, Hkv, before + T, D)."""
        if self.prefix is None:
            return k, v
        joined = []
        for stored, new in ((self.prefix.keys, k), (self.prefix.values, v)):
            shared = stored[layer, :, :, : self.before]  # (1, Hkv, before, D)
            shared = shared.expand(len(new), -1, -1, -1)  # (B, Hkv, before, D)
            joined.append(torch.cat((shared, new.to(shared.dtype)), dim=2))
        return joined[0], joined[1]


@torch.inference_mode()
def score_batch(model: Llama, batch: Batch) -> list[tuple[int, list[Score]]]:
    """The scores of each request, item by item: [(number of the item, its scores)].

    Softmax in float32 at least; the sum over a continuation in float64. Raises ValueError for logits that are NaN or
    infinite.
    """
    device = model.lm_head.weight.device
    trees = batch.trees
    B = len(trees)
    T = max(len(tree.ids) for tree in trees)

    # Read all nodes.
    ids = np.zeros((B, T), np.int64)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.ids)] = tree.ids
    tokens = torch.from_numpy(ids).to(device)  # (B, T)
    if not batch.prefix.ids and all(tree.is_chain for tree in trees):
        x = model.model(tokens)  # (B, T, C); padding is on the right, where no token sees it
    else:
        prefix = batch.prefix.read(model) if batch.prefix.ids else None
        x = model.model(tokens, cache=TreeAttention(trees, T, prefix, device))  # (B, T, C)

    # Score the places that are asked for; a node that predicts several ids has its logits once.
    places = np.concatenate([row * T + np.array(tree.nodes) for row, tree in enumerate(trees)])
    targets = np.concatenate([tree.targets for tree in trees])
    rows, which = np.unique(places, return_inverse=True)
    x = x.flatten(0, 1)[torch.from_numpy(rows).to(device)]  # (rows, C)
    logprobs, greedy = predict(model, x, torch.from_numpy(which).to(device), torch.from_numpy(targets).to(device))
    if not np.isfinite(logprobs).all():
        raise ValueError(NOT_FINITE)

    # Hand them out to the items.
    results = []
    begin = 0
    for tree in trees:
        end = begin + len(tree.nodes)
        results.append((tree.item, tree.scores(logprobs[begin:end], greedy[begin:end])))
        begin = end
    return results


def predict(model: Llama, x: Tensor, which: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """For each target, (n,), after the row of x, (rows, C), that `which`, (n,), names: its log-probability in nats,
    and whether it is the likeliest id."""
    weight = model.lm_head.weight
    w = weight.to(product_dtype(x))
    logprobs = torch.empty(len(targets), dtype=torch.float32, device=x.device)
    greedy = torch.empty(len(targets), dtype=torch.bool, device=x.device)
    for part in chunks(x, weight, wants_weight=False):
        of_all = logprobs_of_all(x[part].to(w.dtype), w)  # (chunk, V)
        likeliest = of_all.argmax(1)  # (chunk,)

        here = torch.nonzero((which >= part.start) & (which < part.stop)).flatten()
        row = which[here] - part.start
        target = targets[here]
        logprobs[here] = of_all[row, target].float()
        greedy[here] = likeliest[row] == target
    return logprobs.cpu().numpy(), greedy.cpu().numpy()


def score(model: Llama, items: Sequence[Item], batch_tokens: int = 2048) -> list[list[Score]]:
    """The scores of all items, in their order."""
    found: dict[int, list[Score]] = {}
    for batch in Plan(items, model.cfg.block_size, batch_tokens).batches:
        found.update(score_batch(model, batch))
    return [found[number] for number in range(len(items))]
