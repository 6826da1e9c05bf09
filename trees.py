"""Requests that begin alike, as a tree: what they share is read once, and each sees its own path only.

(scoring.py makes the trees and adds up what the model finds.)

- Tree: the ids of one item.
- Prefix: ids that many items begin with, the examples of few-shot prompts.
- Forest: several trees side by side, and their attention. The model takes it for a Cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from model import Cache, Llama, attention


@dataclass(frozen=True)
class Request:
    """How likely is `continuation` after `context`? Ids, at least one in each."""

    context: list[int]
    continuation: list[int]


@dataclass(frozen=True)
class Branch:
    """One request in a tree, or one window of it."""

    request: int  # its number in the item
    path: list[int]  # the nodes that it reads, from the first id on
    targets: list[int]  # the ids that the last nodes of the path have to predict, one each

    @property
    def predicting(self) -> list[int]:
        """The nodes that predict the targets."""
        return self.path[-len(self.targets) :]


class Tree:
    """The ids that a model reads for the requests of one item: those with the same beginning share it.

    Context 5 6 and the continuations 7 8 and 9 4 2, whose last ids are not read:

        node      0  1  2  3  4
        id        5  6  7  9  4
        depth     0  1  2  2  3      the position of the token
        path of the first request    0 1 2       its targets    7 8      are predicted by    1 2
        path of the second request   0 1 3 4                    9 4 2                        1 3 4

        node 0   1 . . . .           which nodes (columns) each node (line) sees: those on its path
             1   1 1 . . .
             2   1 1 1 . .
             3   1 1 . 1 .
             4   1 1 . 1 1

    Attributes:
        item: the number of the item.
        ids, depths: of each node. A node stands behind its parent.
        branches: the requests.
    """

    def __init__(self, item: int, requests: Sequence[Sequence[Request]], skip: int = 0):
        """requests: the windows of each request. skip: ids at the start of each window that are left out (Prefix)."""
        self.item = item
        self.ids: list[int] = []
        self.depths: list[int] = []
        self.branches: list[Branch] = []

        children: dict[tuple[int, int], int] = {}  # (parent, id) -> node; -1 is the parent of the first nodes
        for number, windows in enumerate(requests):
            for window in windows:
                read = (window.context + window.continuation)[skip:-1]
                path = self._add_path(read, children)
                self.branches.append(Branch(number, path, window.continuation))

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
        """(nodes, nodes) bool, as drawn above.

        On a path each node sees those before it and itself. The path 0 1 3 4 marks lines and columns 0 1 3 4:

                   0  1  3  4
             0     1  .  .  .
             1     1  1  .  .
             3     1  1  1  .
             4     1  1  1  1
        """
        nodes = len(self.ids)
        seen = np.zeros((nodes, nodes), bool)
        for branch in self.branches:
            causal = np.tri(len(branch.path), dtype=bool)
            lines_and_columns = np.ix_(branch.path, branch.path)
            seen[lines_and_columns] |= causal
        return seen


class Prefix:
    """Ids that many items begin with, and their keys and values, which are computed when they are first asked for."""

    def __init__(self, ids: list[int]):
        self.ids = ids
        self.cache: Cache | None = None

    def begins(self, ids: list[int]) -> bool:
        """Whether these ids begin with it and go on: their last one, which predicts, must not be a part of it."""
        length = len(self.ids)
        return len(ids) > length and ids[:length] == self.ids

    def read(self, model: Llama) -> Cache | None:
        """Keys and values of the ids; None where there are no ids."""
        if self.ids and self.cache is None:
            self.cache = Cache(model, 1, len(self.ids))
            tokens = torch.tensor([self.ids], device=model.device)
            model(tokens, cache=self.cache, hidden=True)
        return self.cache


class Forest:
    """Trees that are read together: one row of N tokens, tree after tree, behind a prefix that all of them see.

    The model takes it for a Cache; nothing new is kept. Outside of attention a token does not care which tree it is in,
    so nothing is padded. In attention a CPU takes the trees one after the other. A GPU, for which that would be many
    small steps, takes all at once, each padded to the largest.
    """

    longest_padding = 0  # what the model asks a Cache for

    def __init__(self, trees: Sequence[Tree], prefix: Cache | None, device: torch.device):
        self.trees = trees
        self.prefix = prefix
        self.before = 0 if prefix is None else prefix.used  # P, tokens of the prefix
        self.one_by_one = device.type == "cpu"

        self.lengths = [len(tree.ids) for tree in trees]
        depths = torch.tensor([depth for tree in trees for depth in tree.depths], device=device)  # (N,)
        self.positions = (self.before + depths)[None, None]  # (1, 1, N)
        self.used = self.before + max(max(tree.depths) for tree in trees) + 1  # the longest path, prefix included

    def extend(self, N: int) -> Tensor:
        """The positions of all tokens, (1, 1, N)."""
        assert sum(self.lengths) == N, (self.lengths, N)
        return self.positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (1, H, N, D); k, v: (1, Hkv, N, D). Returns (1, N, H, D)."""
        if self.one_by_one:
            return self._attend_one_by_one(layer, q, k, v)
        return self._attend_padded(layer, q, k, v)

    def _behind_prefix(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v: (B, Hkv, T, D) of trees. Returns all that these see, (B, Hkv, P + T, D)."""
        if self.prefix is None:
            return k, v
        joined = []
        for stored, new in ((self.prefix.keys, k), (self.prefix.values, v)):
            shared = stored[layer, :, :, : self.before]  # (1, Hkv, P, D)
            shared = shared.expand(len(new), -1, -1, -1)  # (B, Hkv, P, D)
            joined.append(torch.cat((shared, new.to(shared.dtype)), dim=2))
        return joined[0], joined[1]

    # --- one tree after the other ---

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """Of each tree what its n nodes see, (1, 1, n, P + n) bool; None: causal attention."""
        masks: list[Tensor | None] = []
        for tree in self.trees:
            if tree.is_chain and self.prefix is None:
                masks.append(None)
            else:
                prefix_columns = ((0, 0), (self.before, 0))  # P more on the left, which each node sees
                seen = np.pad(tree.sees(), prefix_columns, constant_values=True)  # (n, P + n)
                masks.append(torch.from_numpy(seen)[None, None].to(self.positions.device))
        return masks

    def _attend_one_by_one(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pieces = [x.split(self.lengths, dim=2) for x in (q, k, v)]
        outputs = []
        for mask, q_tree, k_tree, v_tree in zip(self.masks, *pieces, strict=True):
            keys, values = self._behind_prefix(layer, k_tree, v_tree)
            y = attention(q_tree, keys, values, mask)  # (1, n, H, D)
            outputs.append(y)
        return torch.cat(outputs, dim=1)

    # --- all at once ---

    @cached_property
    def places(self) -> Tensor:
        """Where the N tokens stand in B rows of T, a tree each, counted through, (N,)."""
        T = max(self.lengths)
        rows = [row * T + np.arange(length) for row, length in enumerate(self.lengths)]
        return torch.from_numpy(np.concatenate(rows)).to(self.positions.device)

    @cached_property
    def mask(self) -> Tensor | None:
        """What each place sees, (B, 1, T, P + T) bool: padding the prefix and itself. None: causal attention.

        P = 1, and a tree of two nodes in a row of T = 3:

                       prefix    places
            node 0       1       1 . .
            node 1       1       1 1 .
            padding      1       . . 1
        """
        if self.prefix is None and all(tree.is_chain for tree in self.trees):
            return None  # padding is on the right, where no token sees it

        B = len(self.trees)
        T = max(self.lengths)
        P = self.before
        seen = np.zeros((B, 1, T, P + T), bool)
        seen[..., :P] = True
        seen[..., P:] = np.eye(T, dtype=bool)  # itself
        for row, tree in enumerate(self.trees):
            n = len(tree.ids)
            seen[row, 0, :n, P : P + n] = tree.sees()
        return torch.from_numpy(seen).to(self.positions.device)

    def _padded(self, x: Tensor) -> Tensor:
        """(1, H, N, D) as (B, H, T, D), with zeros as padding."""
        B = len(self.trees)
        T = max(self.lengths)
        tokens = x[0].transpose(0, 1)  # (N, H, D)
        rows = tokens.new_zeros(B * T, *tokens.shape[1:])
        rows[self.places] = tokens
        return rows.unflatten(0, (B, T)).transpose(1, 2)

    def _attend_padded(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._behind_prefix(layer, self._padded(k), self._padded(v))
        y = attention(self._padded(q), keys, values, self.mask)  # (B, T, H, D)
        rows = y.flatten(0, 1)  # (B * T, H, D)
        return rows[self.places][None]
