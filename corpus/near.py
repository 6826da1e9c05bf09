"""Near-duplicates: which documents are compared with which, and which of them are removed.

A document is called by its rank, its number in canonical order (0 is the longest). An earlier document removes a later
one, never the other way. The steps:

    buckets        documents with an equal band hash form a bucket
    cells          each bucket of at most CROWD documents becomes a cell; the documents of all larger buckets together,
                   the crowd, get many small cells by their rare shingles (crowd_cells)
    comparisons    a document looks up the later members of its cells; two documents in several common cells are
                   compared once
    removals       a document is removed when its exact Jaccard similarity with one that is kept is at least the
                   threshold

Three documents and three bands, as an example (there are BANDS bands, and the hashes have 64 bits):

    rank   text                    hash in band 0, 1, 2      exact Jaccard similarities:
    0      one two ... hundred     7, 3, 9                   0 and 1: 0.81
    1      0, two words changed    7, 5, 9                   1 and 2: 0.81
    2      1, two words changed    4, 5, 8                   0 and 2: 0.66

    buckets        band 0: hash 7 holds {0, 1}; band 1: hash 5 holds {1, 2}; band 2: hash 9 holds {0, 1}
    cells          0: {0, 1}      1: {1, 2}      2: {0, 1}
    entries        (cell, rank) = (0, 0) (0, 1) (1, 1) (1, 2) (2, 0) (2, 1), each packed into one uint64
    comparisons    0 is kept and looks into cells 0 and 2: the only later member is 1.
    removals       0.81 >= 0.7: 0 removes 1. What is removed looks up nothing, so 2 is not compared with 1.
                   2 is kept: it is like 1, but 1 is not kept, and 0 and 2 are not similar enough.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from corpus.minhash import BANDS

CROWD = 64  # members above which a bucket is not compared pair by pair, but through rare shingles
BLOCK = 1 << 20  # shingles in memory at once
LEVELS = 50  # bars of the histogram of compared similarities, from 0 to 1
ROUNDING = 1e-9  # tolerance before ceil or floor: 0.7 * 10 may come out just above or below 7
LOW_BITS = np.uint64(0xFFFFFFFF)


# --- two numbers in one ---


def pack(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Pairs of numbers below 2^31 and 2^32, each pair as one uint64: high * 2^32 + low.

    Sorted, they are ordered by `high`, then by `low`. An entry (cell, rank) is such a pair: document `rank` in `cell`.
    """
    packed = np.left_shift(high, 32, dtype=np.int64)
    packed |= low
    return packed.view(np.uint64)


def unpack(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(high, low) of what pack made: uint64, uint32."""
    return packed >> np.uint64(32), unpack_low(packed)


def unpack_low(packed: np.ndarray) -> np.ndarray:
    """Only the low numbers, uint32; of entries the ranks."""
    return packed.astype(np.uint32)


# --- buckets: documents with an equal hash ---


def groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which columns of a sorted matrix equal a neighbour: (their indices, the number of the group of each).

    keys: (rows, columns). Example of one row: [[3, 5, 5, 6, 8, 8, 8]] gives ([1, 2, 4, 5, 6], [0, 0, 1, 1, 1]).
    """
    equals_previous = np.zeros(keys.shape[1], bool)
    equals_previous[1:] = np.all(keys[:, 1:] == keys[:, :-1], axis=0)

    in_group = equals_previous.copy()
    in_group[:-1] |= equals_previous[1:]

    begins_group = ~equals_previous[in_group]
    return np.flatnonzero(in_group), np.cumsum(begins_group) - 1


def group_equal(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(Indices that share their hash with another, bucket after bucket and ascending in each; sizes of the buckets).

    Example: hashes [7, 1, 7, 2, 1, 7] give ([1, 4, 0, 2, 5], [2, 3]).
    """
    order = np.argsort(hashes)
    shared, bucket = groups(hashes[order][None])
    members = order[shared]
    by_bucket = np.lexsort((members, bucket))
    sizes = np.bincount(bucket)
    return members[by_bucket], sizes


@dataclass
class Buckets:
    """What the bands say, from bucket_bands."""

    entries: np.ndarray  # (cell, rank) of each document in a bucket of at most CROWD; a bucket is a cell
    n_cells: int  # numbers used for cells so far, from 0; those of larger buckets stay empty
    crowd: np.ndarray  # ranks of the documents in larger buckets, ascending
    pairs_in_buckets: int  # pairs in buckets of at most CROWD; a pair counts in each band that it shares
    pairs_in_crowds: int  # the same of larger buckets


def bucket_bands(bands: Iterable[np.ndarray], ranks: np.ndarray) -> Buckets:
    """Put documents with an equal hash in a band into a bucket, band after band.

    bands: BANDS arrays with the hashes of the documents `ranks` (ascending).
    """
    entries: list[np.ndarray] = []
    in_crowd = np.zeros(ranks.size, bool)
    pairs_in_buckets = pairs_in_crowds = 0
    n_cells = 0

    for hashes in tqdm(bands, desc="bands", total=BANDS, disable=None):
        members, sizes = group_equal(hashes)
        new_cells = np.arange(n_cells, n_cells + sizes.size)
        cells = np.repeat(new_cells, sizes)
        n_cells += sizes.size

        is_crowd = sizes > CROWD
        pairs = sizes * (sizes - 1) // 2
        pairs_in_crowds += int(pairs[is_crowd].sum())
        pairs_in_buckets += int(pairs[~is_crowd].sum())

        of_crowd = np.repeat(is_crowd, sizes)
        in_crowd[members[of_crowd]] = True
        compared = ~of_crowd
        band_entries = pack(cells[compared], ranks[members[compared]])
        entries.append(band_entries)

    return Buckets(
        entries=np.concatenate(entries),
        n_cells=n_cells,
        crowd=ranks[in_crowd],
        pairs_in_buckets=pairs_in_buckets,
        pairs_in_crowds=pairs_in_crowds,
    )


# --- exact similarity ---


def expand_ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges start, start + 1, ... of `counts` numbers, one after the other: (which range, number).

    Example: starts [10, 20], counts [2, 3] give ([0, 0, 1, 1, 1], [10, 11, 20, 21, 22]).
    """
    which = np.repeat(np.arange(counts.size), counts)
    range_begins = np.cumsum(counts) - counts
    offsets = starts - range_begins
    return which, np.arange(which.size) + offsets[which]


class Shingles:
    """Sorted unique shingle hashes of the candidates, in a file that dedup.write_shingles makes.

    starts: by rank, where the document's hashes begin in the file, in uint64; their number stands before them. Those of
    documents that are no candidates begin at 1, after a 0.
    """

    def __init__(self, path: Path, starts: np.ndarray):
        self.values = np.asarray(np.memmap(path, np.uint64, "r"))
        self.starts = starts
        self.sizes = self.values[starts - 1].astype(np.int64)

    def of(self, rank: int) -> np.ndarray:
        """The hashes of one document."""
        start = self.starts[rank]
        return self.values[start : start + self.sizes[rank]]

    def read(self, ranks: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (some of `ranks`, which of these each of their hashes is of, the hashes), about BLOCK at a time."""
        ends = np.cumsum(self.sizes[ranks])
        total = ends[-1] if ends.size else 0
        block_ends = np.arange(BLOCK, total, BLOCK)
        blocks = np.split(ranks, np.searchsorted(ends, block_ends))
        for block in blocks:
            which, positions = expand_ranges(self.starts[block], self.sizes[block])
            yield block, which, self.values[positions]

    def jaccard(self, rank: int, others: np.ndarray) -> np.ndarray:
        """Exact |a & b| / |a | b| of the sets of one document and of each of the others."""
        own = self.of(rank)
        shared_by_block = []
        for block, which, values in self.read(others):
            nearest = np.searchsorted(own, values)
            nearest = np.minimum(nearest, own.size - 1)
            is_shared = own[nearest] == values
            shared = np.bincount(which[is_shared], minlength=block.size)
            shared_by_block.append(shared)

        intersection = np.concatenate(shared_by_block)
        union = own.size + self.sizes[others] - intersection
        return intersection / union


# --- crowds: buckets too large to compare each document with each ---

# A template ("X is a village in the north of ...") puts thousands of documents into one bucket that are not similar
# enough. To compare each with each would be quadratic. Here documents of a crowd meet by what is rare in them, and no
# similar pair is lost (prefix filter: Bayardo et al. 2007; PPJoin, Xiao et al. 2008).
#
# Order the shingles of each document from rare to common: those with the village's name come first, those of the
# template alone last. Two documents with k common shingles have the first of these, in this order, among the first
# n - k + 1 shingles of either, n being its number of shingles: only k - 1 common ones come after it. When J >= t,
#
#     the larger document shares at least ceil(t n)                   of its n shingles,
#     the smaller one shares at least     ceil(2 t / (1 + t) n)       of its n shingles.
#
# With t = 0.7 and n = 10: the larger one shares 7, the first is among its 4 rarest; the smaller one shares 9
# (2 t / (1 + t) = 0.82), the first is among its 2 rarest. A document may be the larger one of one pair and the smaller
# one of another. Call the first n - ceil(2 t / (1 + t) n) + 1 shingles of a document its short prefix, and the first
# n - ceil(t n) + 1 its long prefix. Of two similar documents one has the first common shingle in its short prefix, the
# other in its long one. For n = 10:
#
#     from rare to common      1  2  3  4  5 to 10
#     short prefix             x  x
#     long prefix              x  x  x  x
#     beyond the short one           x  x


@dataclass
class RareShingles:
    """The shingles in the long prefixes of all documents of a crowd; three arrays with an entry for each."""

    hashes: np.ndarray
    ranks: np.ndarray  # whose it is
    beyond_short: np.ndarray  # whether it is in the long prefix, but not in the short one


def rare_shingles(shingles: Shingles, crowd: np.ndarray, threshold: float) -> RareShingles:
    """The shingles by which documents of a crowd meet; without those that occur in one document only."""
    frequency, shift = count_shingles(shingles, crowd)
    short_share = 2 * threshold / (1 + threshold)
    hashes_of_blocks, ranks_of_blocks, beyond_short_of_blocks = [], [], []

    for ranks, which, hashes in shingles.read(crowd):
        often = frequency[hashes >> shift]
        rare_first = np.lexsort((hashes, often, which))  # document after document
        hashes, often = hashes[rare_first], often[rare_first]

        sizes = shingles.sizes[ranks]
        document_begins = np.cumsum(sizes) - sizes
        position = np.arange(which.size) - document_begins[which]  # from 0
        last_long = sizes - np.ceil(threshold * sizes - ROUNDING)
        last_short = sizes - np.ceil(short_share * sizes - ROUNDING)
        beyond_short = position > last_short[which]

        used = (position <= last_long[which]) & (often > 1)
        hashes_of_blocks.append(hashes[used])
        ranks_of_blocks.append(ranks[which[used]])
        beyond_short_of_blocks.append(beyond_short[used])

    return RareShingles(
        hashes=np.concatenate(hashes_of_blocks),
        ranks=np.concatenate(ranks_of_blocks),
        beyond_short=np.concatenate(beyond_short_of_blocks),
    )


def count_shingles(shingles: Shingles, ranks: np.ndarray) -> tuple[np.ndarray, np.uint64]:
    """(How many documents have a shingle, a table by the first bits of its hash; how far to shift a hash for these).

    Shingles with equal first bits are counted together: that costs time, not pairs.
    """
    total = int(shingles.sizes[ranks].sum())
    bits = min(26, total.bit_length() + 1)
    shift = np.uint64(64 - bits)
    frequency = np.zeros(1 << bits, np.uint32)
    for _, _, values in shingles.read(ranks):
        slots, times = np.unique(values >> shift, return_counts=True)
        frequency[slots] += times.astype(np.uint32)
    return frequency, shift


def crowd_cells(
    shingles: Shingles,
    crowd: np.ndarray,
    threshold: float,
    first_cell: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(members, queries): entries of cells in which any two documents of `crowd` with J >= threshold meet.

    Two documents meet when a cell has one of them as a member, and the other one looks it up (a query). Each shingle
    gets two cells, numbered from first_cell: the prefix cell, of the documents that have it in their short prefix, and
    the rest cell, of those that have it beyond. All of them look up the prefix cell. Only those with the shingle in
    their short prefix look up the rest cell as well: two documents of the rest need not meet.
    """
    rare = rare_shingles(shingles, crowd, threshold)
    members, sizes = group_equal(rare.hashes)
    ranks, beyond_short = rare.ranks[members], rare.beyond_short[members]

    shingle = np.repeat(np.arange(sizes.size), sizes)
    prefix_cell = first_cell + 2 * shingle
    in_prefix_cell = pack(prefix_cell, ranks)
    in_rest_cell = pack(prefix_cell + 1, ranks)

    member_entries = np.where(beyond_short, in_rest_cell, in_prefix_cell)
    query_entries = np.concatenate([in_prefix_cell, in_rest_cell[~beyond_short]])
    return member_entries, query_entries


# --- which document is removed ---


class LaterMembers:
    """For each document, the later ones that it has to be compared with if it is kept.

    members, queries: entries (cell, rank). A document looks into the cells of its queries, and finds their members of
    higher rank. ranks: the documents that find any, ascending.
    """

    def __init__(self, members: np.ndarray, queries: np.ndarray):
        members = np.sort(members)
        queries = queries[np.argsort(unpack_low(queries), kind="stable")]

        # Members of one cell are neighbours, in the order of their ranks. Those later than a query's own rank go from
        # where the query stands, or would stand, to the last entry that the cell could have.
        starts = np.searchsorted(members, queries, "right")
        last_of_cells = queries | LOW_BITS
        counts = np.searchsorted(members, last_of_cells, "right") - starts
        finds_any = counts > 0

        self.member_ranks = unpack_low(members)
        self.starts = starts[finds_any]
        self.counts = counts[finds_any]
        query_ranks = unpack_low(queries)[finds_any]
        self.ranks, first_query = np.unique(query_ranks, return_index=True)
        self.query_bounds = np.append(first_query, query_ranks.size)

    def of(self, i: int) -> np.ndarray:
        """The ranks, ascending, of the documents that document ranks[i] meets, each once."""
        own = slice(self.query_bounds[i], self.query_bounds[i + 1])
        starts, counts = self.starts[own], self.counts[own]
        _, positions = expand_ranges(starts, counts)
        return np.unique(self.member_ranks[positions])


@dataclass
class Removals:
    """Which document removes which, from select."""

    similarity: np.ndarray  # by rank: with the document that removes it, 0 where it is kept
    removed_by: np.ndarray  # by rank: the rank of that document, its own where it is kept
    compared_by_similarity: np.ndarray  # pairs whose similarity was computed, in LEVELS steps from 0 to 1
    sizes_too_unlike: int  # pairs that were not compared, since their sizes alone put them below the threshold


def select(
    shingles: Shingles,
    members: np.ndarray,
    queries: np.ndarray,
    threshold: float,
) -> Removals:
    """Compare documents in canonical order; each that is kept removes the later ones like it.

    members, queries: entries as in LaterMembers. Of several kept documents the most similar one is named, of equally
    similar ones the first. What is removed looks up nothing: a bucket of n near-duplicates costs n comparisons.
    """
    n_ranks = shingles.sizes.size
    similarity = np.zeros(n_ranks)
    removed_by = np.arange(n_ranks)
    levels = np.zeros(LEVELS + 1, np.int64)
    sizes_too_unlike = 0

    lookup = LaterMembers(members, queries)
    progress = tqdm(lookup.ranks, desc="duplicates", unit=" docs", disable=None)
    for i, rank in enumerate(progress):
        is_removed = similarity[rank] > 0
        if is_removed:
            continue

        # J is at most the smaller size over the larger one.
        met = lookup.of(i)
        size, met_sizes = shingles.sizes[rank], shingles.sizes[met]
        smaller = np.minimum(size, met_sizes)
        larger = np.maximum(size, met_sizes)
        others = met[smaller >= threshold * larger - 1e-6]  # a pair at the threshold itself is compared
        sizes_too_unlike += met.size - others.size

        jaccard = shingles.jaccard(rank, others)
        level = (jaccard * LEVELS + ROUNDING).astype(np.int64)
        levels += np.bincount(level, minlength=LEVELS + 1)

        is_best = (jaccard >= threshold) & (jaccard > similarity[others])
        removed = others[is_best]
        similarity[removed] = jaccard[is_best]
        removed_by[removed] = rank

    levels[-2] += levels[-1]  # J = 1 belongs to the last step
    return Removals(similarity, removed_by, levels[:-1], sizes_too_unlike)
