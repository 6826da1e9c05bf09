"""Conversations packed into training rows: whole ones side by side, so that next to nothing of a row is padding.

A conversation of n tokens takes n - 1 places of a row: each of its tokens but the last is an input, each but the first
a target. Which conversations share a row, best-fit decreasing decides from their lengths alone (Johnson 1974, SIAM J.
Comput. 3(4); for language models Ding et al. 2024, arXiv 2404.10830). That they do not see each other is the part of
model.py (Documents).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from batches import TokenRows
from chat_shards import Conversations
from sampler import permute
from shards import IGNORE


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> tuple[np.ndarray, int]:
    """The row of each item, int64, and the number of rows, which hold `capacity` each.

    lengths: from 1 to capacity, the longest first. Each goes into the fullest row that has room, else into a new one:

        capacity 10, lengths 7 5 3 3 2
            7    new row 0, 3 left
            5    new row 1, 5 left          (row 0 has no room)
            3    row 0, full                (it has less left than row 1)
            3    row 1, 2 left
            2    row 1, full                rows 0 1 0 1 1
    """
    row_of = np.empty(len(lengths), np.int64)
    n_rows = 0
    rows_with: list[list[int]] = [[] for _ in range(capacity + 1)]  # by the places that they have left
    occupied = 0  # bit f is set where rows_with[f] holds a row: the smallest f that is enough is found in one step

    for item, length in enumerate(lengths):
        enough = occupied >> length
        if enough:
            lowest_bit = enough & -enough
            left = length + lowest_bit.bit_length() - 1
            row = rows_with[left].pop()
            if not rows_with[left]:
                occupied ^= 1 << left
        else:
            left = capacity
            row = n_rows
            n_rows += 1

        row_of[item] = row
        left -= length
        rows_with[left].append(row)
        occupied |= 1 << left
    return row_of, n_rows


class Packs:
    """The rows that the conversations of a split are packed into.

    Each epoch packs anew: conversations of one length trade places, by a permutation hashed from (seed, epoch, length).
    So the rows of all epochs are as many and as full, and row i of epoch e follows from the seed and the lengths.

    A conversation that does not fit into a row is cut after the last answer that fits whole; half an answer is never
    learnt. One whose first answer does not fit is left out.

    Attributes: block_size; n_cut and n_left_out, conversations; useful, the share of places that hold a token.
    Raises ValueError when no conversation fits.
    """

    def __init__(self, conversations: Conversations, block_size: int, seed: int):
        self.conversations = conversations
        self.block_size = block_size
        self.seed = seed

        lengths, self.n_cut, self.n_left_out = fitting_lengths(conversations, block_size)
        kept = np.flatnonzero(lengths)
        if kept.size == 0:
            folder, split = conversations.shards.folder, conversations.shards.split
            if len(conversations) == 0:
                raise ValueError(f"{folder}: the {split} split has no conversation; raise --val_fraction or add data")
            wrong = f"{folder}: no conversation of the {split} split fits into block_size {block_size}"
            shortest = int(conversations.lengths.min()) - 1
            raise ValueError(f"{wrong}; raise --block_size (the shortest takes {shortest} places)")

        # By length, the longest first: a stretch of one length trades places in each epoch
        longest_first = np.argsort(-lengths[kept], kind="stable")
        self.sorted = kept[longest_first]  # numbers of conversations
        self.lengths = lengths[self.sorted]  # tokens of each, one more than it takes places
        row_of, n_rows = best_fit_decreasing((self.lengths - 1).tolist(), block_size)
        self.slots = np.argsort(row_of, kind="stable")  # places in `sorted`, row after row
        self.first = np.searchsorted(row_of[self.slots], np.arange(n_rows + 1))  # where in `slots` a row begins

        falling = -self.lengths  # searchsorted wants a rising order
        self.begin_of_length = np.searchsorted(falling, falling, side="left")
        self.end_of_length = np.searchsorted(falling, falling, side="right")
        self.useful = int((self.lengths - 1).sum()) / (n_rows * block_size)

    def __len__(self) -> int:
        return len(self.first) - 1

    def members(self, row: int, epoch: int) -> list[tuple[int, int]]:
        """The conversations in a row of an epoch: number, and tokens of it that are taken."""
        members = []
        for slot in self.slots[self.first[row] : self.first[row + 1]].tolist():
            begin = int(self.begin_of_length[slot])
            n = int(self.end_of_length[slot]) - begin
            length = int(self.lengths[slot])
            place = begin + permute(slot - begin, n, self.seed, epoch, stream=length)
            members.append((int(self.sorted[place]), length))
        return members

    def get(self, indices: np.ndarray, epochs: np.ndarray) -> TokenRows:
        """The rows `indices` of `epochs`, both (B,). What stays of a row at its end is a document without targets.

        A row beyond the last is empty.
        """
        rows = TokenRows.empty(len(indices), self.block_size)
        for b, (index, epoch) in enumerate(zip(indices.tolist(), epochs.tolist(), strict=True)):
            if index >= len(self):
                continue
            place = 0
            for number, length in self.members(index, epoch):
                ids, scored = self.conversations.read(number)
                ids = self.conversations.shards.check_ids(ids[:length]).astype(np.int64)
                end = place + length - 1
                rows.inputs[b, place:end] = ids[:-1]
                rows.targets[b, place:end] = np.where(scored[1:length], ids[1:], IGNORE)
                rows.positions[b, place:end] = np.arange(length - 1)
                place = end
            rows.positions[b, place:] = np.arange(self.block_size - place)
        return rows

    def batches(self, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[TokenRows]:
        """Yield this rank's share of the rows of epoch 0; all ranks get as many batches of the same sizes."""
        padded = -(-len(self) // world_size) * world_size  # the next multiple of world_size
        indices = np.arange(rank, padded, world_size)
        for begin in range(0, len(indices), batch_size):
            wanted = indices[begin : begin + batch_size]
            yield self.get(wanted, np.zeros_like(wanted))


def fitting_lengths(conversations: Conversations, block_size: int) -> tuple[np.ndarray, int, int]:
    """How many tokens of each conversation are taken, int64: all; fewer where it is too long; 0 where it is left out.

    Also the numbers of those that are cut, and of those that are left out.
    """
    lengths = conversations.lengths.copy()
    most = block_size + 1
    n_cut = n_left_out = 0
    for number in np.flatnonzero(lengths > most).tolist():
        _, scored = conversations.read(number)
        lengths[number] = end_of_last_answer(scored, most)
        if lengths[number]:
            n_cut += 1
        else:
            n_left_out += 1
    lengths[lengths < 2] = 0  # a single token predicts nothing
    return lengths, n_cut, n_left_out


def end_of_last_answer(scored: np.ndarray, most: int) -> int:
    """The tokens up to the end of the last answer that ends within the first `most`; 0: none does.

    An answer is a run of scored tokens. scored 0 0 1 1 0 0 1 1 1 0, most 8: the first answer ends after 4 tokens, the
    second would after 9. So it is 4.
    """
    ends = scored[:-1] & ~scored[1:]  # the last token of a run
    places = np.flatnonzero(ends[:most]) + 1
    return int(places[-1]) if places.size else 0
