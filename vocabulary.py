"""More tokens for a model that has been trained: their ids, and their rows in the embedding and in the head.

A new row is the mean of the rows of the pieces that spelled the token so far ("<|", "im", "_start", "|>"): the model
begins with what it knows of them, and the probabilities of other text stay. Rows that no token uses are taken first.
grow.py writes the larger model as a folder; `train.py --init_from` makes it while it reads the weights.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from tokenizer import Tokenizer

ROWS = 64  # a matrix with a multiple of 64 rows is multiplied faster on a GPU


@dataclass(frozen=True)
class Growth:
    """How the matrices (V, C) of a vocabulary change when its tokenizer gets more tokens.

    Attributes: tokens, the new ones with their ids; pieces, for each new id the ids that spelled it so far; rows_before
    and rows, V without and with them.
    """

    tokens: dict[str, int]
    pieces: dict[int, list[int]]
    rows_before: int
    rows: int

    @classmethod
    def between(cls, old: Tokenizer, new: Tokenizer, rows_before: int) -> Self:
        """What a model of `rows_before` rows needs for the ids that `new` has and `old` has not.

        More rows are made only when the ids do not fit into those that there are. Where the number of rows was a
        multiple of 64 it is one again. Raises ValueError when an old id is another now.
        """
        rows = max(rows_before, new.vocab_size)
        if rows > rows_before and rows_before % ROWS == 0:
            rows = -(-rows // ROWS) * ROWS

        tokens = added_tokens(old, new)
        pieces = {i: pieces_of(old, token, rows_before) for token, i in tokens.items()}
        return cls(tokens, pieces, rows_before, rows)

    def grown(self, matrix: Tensor) -> Tensor:
        """The embedding or the head, (rows_before, C), with its new rows, (rows, C), in the same type."""
        return grow_rows(matrix, self.rows, self.pieces)

    def __str__(self) -> str:
        """<|im_start|> 50257, <|im_end|> 50258."""
        return ", ".join(f"{token} {i}" for token, i in self.tokens.items())


def added_tokens(old: Tokenizer, new: Tokenizer) -> dict[str, int]:
    """The tokens, with their ids, that `new` has and `old` has not. Raises ValueError when an old id is another now."""
    before, after = old.hf.get_vocab(), new.hf.get_vocab()
    for token, i in before.items():
        if after.get(token) != i:
            raise ValueError(f"the larger tokenizer gives {token[:40]!r} the id {after.get(token)}, not {i}")
    added = {token: i for token, i in after.items() if token not in before}
    return dict(sorted(added.items(), key=lambda item: item[1]))


def pieces_of(old: Tokenizer, token: str, rows: int) -> list[int]:
    """The ids by which a model has read this text so far; none where its tokenizer cannot spell it."""
    try:
        ids = old.encode(token)
    except ValueError:  # a tokenizer of characters that lacks "<"
        return []
    return [i for i in ids if i < rows]


@torch.no_grad()
def grow_rows(matrix: Tensor, rows: int, pieces: dict[int, list[int]]) -> Tensor:
    """A matrix (V, C) with `rows` rows: row i is the mean of the rows pieces[i], other new rows are the mean of all.

    With rows 0: (1, 1), 1: (3, 5), rows = 4 and pieces {2: [1]} row 2 is (3, 5) and row 3 is (2, 3).
    Why the mean: the new logit is the mean of old logits, so by Jensen's inequality its probability is at most the mean
    of theirs. Zeros have the logit 0, which may be the largest of all.
    """
    grown = matrix.new_empty(rows, matrix.shape[1])
    grown[: len(matrix)] = matrix
    grown[len(matrix) :] = matrix.mean(dim=0, dtype=torch.float32)
    for i, ids in pieces.items():
        old_rows = matrix[ids] if ids else matrix
        grown[i] = old_rows.mean(dim=0, dtype=torch.float32)
    return grown
