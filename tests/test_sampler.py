"""permute against a true permutation, ranks against torch's sampler, a resumed run against an uninterrupted one."""

import inspect
import itertools
import json
import math
import os
import pickle
import random
import subprocess
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import PYTHON, REPO, examples
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

import sampler
from benchmarks.sampler_quality import DESIGNS, chi_square, cycles, inversions, p_value, passes, statistics, worst
from sampler import (
    TABLE_MAX,
    TAILS,
    Block,
    DistributedStreamSampler,
    IndexStream,
    Tail,
    hash_key,
    permute,
    quantize,
    schedule,
)

AREAS = [a * b for a in (257, 300, 511) for b in (a - 1, a, a + 1)]  # n = a * b: the network's rectangle is full
EDGES = [2**k + d for k in range(21) for d in (-1, 0, 1) if 2**k + d] + [65538] + [n + d for n in AREAS for d in (0, 1)]


# --- the permutation ---


@pytest.mark.parametrize("sizes", [range(1, 601), EDGES], ids=["small", "edges"])
def test_every_index_comes_exactly_once(sizes):
    for n in sizes:
        images = permute(np.arange(n), n, seed=3)
        assert np.array_equal(np.sort(images), np.arange(n)), n


@given(st.integers(1, 2_000_000), st.integers(0, 2**64 - 1), st.integers(0, 1000), st.integers(0, 5))
@examples(15)
def test_every_index_comes_exactly_once_for_any_size_seed_epoch_and_stream(n, seed, epoch, stream):
    assert np.bincount(permute(np.arange(n), n, seed, epoch, stream), minlength=n).max() == 1


@pytest.mark.parametrize("n", [10**9, 10**12, 2**40 + 1, 2**61, 2**62 - 1])
def test_large_sizes_are_injective_and_in_range(n):
    positions = np.random.default_rng(0).integers(0, n, 1_000_000)
    images = permute(positions, n, seed=5)
    assert images.min() >= 0 and images.max() < n
    by_image, by_position = np.sort(images), np.sort(positions)
    # as many different images as positions; a position that was drawn twice has one image
    assert np.count_nonzero(np.diff(by_image)) == np.count_nonzero(np.diff(by_position)) > 999_000


@given(st.integers(1, 10**15), st.data())
@examples(50)
def test_any_subset_in_any_order_gives_the_same_images(n, data):
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    together = permute(np.array(positions), n, seed=1)
    assert together.tolist() == [permute(p, n, seed=1) for p in positions]
    assert permute(np.array(positions).reshape(1, -1), n, seed=1).shape == (1, len(positions))


FORMS = {
    "list": list,
    "tuple": tuple,
    "range": lambda p: range(10, 60),
    "int32": lambda p: np.array(p, dtype=np.int32),
    "uint8": lambda p: np.array(p, dtype=np.uint8),
    "uint64": lambda p: np.array(p, dtype=np.uint64),
    "every second of more": lambda p: np.repeat(p, 2)[::2],
    "tensor": torch.tensor,
    "int32 tensor": lambda p: torch.tensor(p, dtype=torch.int32),
}


@pytest.mark.parametrize("n", [100, TABLE_MAX + 1, 10**12])
@pytest.mark.parametrize("form", FORMS)
def test_positions_come_in_any_form(n, form):
    positions = list(range(10, 60))
    whole = permute(np.arange(100), n, seed=1)[10:60]
    asked = FORMS[form](positions)
    images = permute(asked, n, seed=1)
    assert isinstance(images, np.ndarray) and images.dtype == np.int64 and np.array_equal(images, whole)
    assert [int(p) for p in asked] == positions, "the caller's array is left alone"
    for one in (positions[3], np.int64(positions[3]), np.uint64(positions[3]), torch.tensor(positions[3])):
        assert type(permute(one, n, seed=1)) is int and permute(one, n, seed=1) == whole[3]
    assert permute(np.array([], dtype=np.int64), n, seed=1).shape == (0,)
    source, index, epoch = IndexStream(n, seed=1).at(asked)
    assert np.array_equal(index, whole) and not source.any() and not epoch.any()


STREAMS = {
    "one source": IndexStream(37, seed=9),
    "in order": IndexStream(37, seed=9, shuffle=False),
    "runs": IndexStream(37, seed=9, run=5),
    "mixture": IndexStream([37, 5, 70_000], [5, 2, 3], seed=9),
    "mixture of runs": IndexStream([37, 5, 400], [5, 2, 1], seed=9, run=3),
}


@pytest.mark.parametrize("name", STREAMS)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=20))
@examples(20)
def test_a_stream_answers_for_any_positions_what_it_answers_in_sequence(name, positions):
    whole = STREAMS[name].at(np.arange(1000))
    for got, expected in zip(STREAMS[name].at(positions), whole, strict=True):
        assert got.tolist() == expected[positions].tolist()
    assert [int(part) for part in STREAMS[name].at(positions[0])] == [int(part[positions[0]]) for part in whole]


@pytest.mark.parametrize("name", STREAMS)
@given(st.integers(1, 70), st.integers(1, 5), st.integers(0, 500), st.data())
@examples(15)
def test_the_order_does_not_depend_on_the_block(name, block, W, start, data):
    stream, rank = STREAMS[name], data.draw(st.integers(0, W - 1))
    tail = "stream" if len(stream.sizes) > 1 else data.draw(st.sampled_from(["stream", "drop", "exact"]))
    drawn = []
    for size in (block, 1000):
        order = DistributedStreamSampler(stream, W, rank, tail=tail, block=size)
        order.seek(start)
        drawn.append([(next_, order.position) for next_ in itertools.islice(order, 150)])
    assert drawn[0] == drawn[1]


def golden() -> dict[str, list]:
    """What is frozen, as JSON: images of the first positions, a mixture far into the run, runs, and three ranks."""
    found = {}
    for n, seed, epoch, stream in [
        (5, 0, 0, 0),
        (65536, 0, 0, 0),
        (65537, 0, 0, 0),
        (65537, 0, 0, 3),
        (10**9, 1337, 2, 0),
        (10**12, 2**64 - 1, 1, 0),
    ]:
        images = permute(np.minimum(np.arange(5), n - 1), n, seed, epoch, stream)
        found[f"n={n} seed={seed} epoch={epoch} stream={stream}"] = images.tolist()
    mixture = IndexStream([70, 10**6, 9], [0.5, 0.3, 0.2], seed=4)
    found["mixture"] = [part.tolist() for part in mixture.at(10**9 + np.arange(8))]
    found["run=4"] = IndexStream(10**6 + 3, seed=2, run=4).at(10**6 + np.arange(-2, 5))[1].tolist()
    ranks = [DistributedStreamSampler(mixture, 3, rank, tail="stream") for rank in range(3)]
    found["ranks"] = [list(itertools.islice(order, 4)) for order in ranks]
    return found


def test_golden_vectors():
    """Frozen: the order of the data is part of a checkpoint. A change here breaks every run that is under way."""
    assert golden() == GOLDEN


def test_golden_vectors_are_those_of_another_process_which_needs_no_torch():
    code = (
        "import itertools, json, sys, numpy as np\n"
        "from sampler import DistributedStreamSampler, IndexStream, permute\n\n"
        f"{inspect.getsource(golden)}\n"
        "print(json.dumps([golden(), hash('text'), 'torch' in sys.modules]))\n"
    )
    env = os.environ | {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    child = subprocess.run([PYTHON, "-c", code], cwd=REPO, env=env, capture_output=True, text=True, check=True)
    vectors, hash_of_text, torch_imported = json.loads(child.stdout)
    assert vectors == GOLDEN and hash_of_text != hash("text"), "another seed of hash()"
    assert not torch_imported, "it is asked for world size and rank only when they are not given"


def test_order_ignores_and_leaves_global_random_state():
    def some():
        mixture = IndexStream([50, 70_000], [1, 2], seed=1)
        drawn = list(itertools.islice(DistributedStreamSampler(mixture, 2, 1, tail="stream"), 1000))
        return drawn, permute(np.arange(100_000), 100_000, seed=1).tolist()

    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    drawn = []
    for seed in (0, 1):
        np.random.seed(seed), torch.manual_seed(seed), random.seed(seed)
        before = state()
        drawn.append(some())
        assert state() == before
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("n", [5000, 200_003])
def test_looks_like_numpys_permutation(n):
    """Agreements between two shuffles are Poisson(1); position and index are uncorrelated over the whole range."""
    orders = [permute(np.arange(n), n, seed, epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    reference = [np.random.default_rng(i).permutation(n) for i in range(4)]
    for family in (orders, reference):
        for i, a in enumerate(family):
            assert abs(np.corrcoef(np.arange(n), a)[0, 1]) < 5 / np.sqrt(n)
            assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 5 / np.sqrt(n)
            assert all((a == b).sum() < 10 for b in family[:i])


def test_seed_and_epoch_are_not_added_up():
    """torch's samplers seed with seed + epoch: epoch 1 of run 0 is epoch 0 of run 1."""
    n = 1_000_000
    orders = {(s, e): permute(np.arange(n), n, s, e) for s, e in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    pairs = itertools.combinations(orders, 2)
    agreements = {(a, b): int((orders[a] == orders[b]).sum()) for a, b in pairs}
    assert agreements == AGREEMENTS and max(agreements.values()) < 8  # each is Poisson(1); 1e6 where they coincide
    assert not np.array_equal(orders[0, 0], permute(np.arange(n), n, 0, 0, stream=1))


def test_bad_arguments_are_named():
    for n in (0, -1, 2**62):
        with pytest.raises(ValueError, match=rf"n \({n}\)"):
            permute(0, n, seed=0)
    for n in (10, 10**9):
        for position in (-1, n, 2**63, [3, n]):
            with pytest.raises(ValueError, match="outside range"):
                permute(position, n, seed=0)
    for wrong in ([0.5], [True], 0.0):
        with pytest.raises(ValueError, match="integers"):
            permute(np.array(wrong), 10, seed=0)


@pytest.mark.parametrize("value", [-1, 2**64, 2**70])
@pytest.mark.parametrize(
    "use",
    [
        hash_key,
        lambda value: permute(0, 10, seed=value),
        lambda value: permute(0, 10, seed=0, epoch=value),
        lambda value: permute(0, 10**6, seed=0, stream=value),
        lambda value: IndexStream(10, seed=value),
        lambda value: DistributedStreamSampler(10, seed=value),
    ],
    ids=["hash_key", "seed", "epoch", "stream", "IndexStream", "sampler"],
)
def test_a_seed_out_of_range_is_refused_and_never_cut_off(use, value):
    with pytest.raises(ValueError, match=f"^{value} is outside"):
        use(value)


def test_key_depends_on_every_value_and_their_order():
    keys = {hash_key(*values) for values in [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0)]}
    assert len(keys) == 7
    single = [hash_key(1 << bit) for bit in range(64)]
    assert len(set(single)) == 64 and all(0 <= key < 2**64 for key in single)
    flipped = np.mean([(hash_key(7) ^ hash_key(7 ^ 1 << bit)).bit_count() for bit in range(64)])
    assert abs(flipped - 32) < 5 * 4 / 8, "each bit of a seed changes half of the key"


@pytest.mark.parametrize("n", [np.int64(100), 100])
@pytest.mark.parametrize("seed", [np.int64(5), np.int32(5)])
def test_numpy_integers_are_integers(n, seed):
    assert permute(3, n, seed) == permute(3, 100, 5)
    assert list(DistributedStreamSampler(100, seed=seed)) == list(DistributedStreamSampler(100, seed=5))


GOLDEN = {
    "n=5 seed=0 epoch=0 stream=0": [3, 4, 0, 1, 2],
    "n=65536 seed=0 epoch=0 stream=0": [37241, 24511, 3197, 32800, 44607],
    "n=65537 seed=0 epoch=0 stream=0": [3827, 28585, 43047, 9259, 26009],
    "n=65537 seed=0 epoch=0 stream=3": [5907, 58614, 43483, 31400, 16684],
    "n=1000000000 seed=1337 epoch=2 stream=0": [272233968, 729205832, 468203135, 425943027, 965908791],
    "n=1000000000000 seed=18446744073709551615 epoch=1 stream=0": [
        831085678759,
        424718195251,
        408624113035,
        261508808486,
        718997310543,
    ],
    "mixture": [
        [0, 2, 0, 1, 0, 1, 0, 2],
        [48, 1, 16, 993057, 40, 383057, 6, 4],
        [7142857, 22221883, 7142857, 300, 7142857, 300, 7142857, 22221883],
    ],
    "run=4": [348880, 348881, 846854, 846855, 846856, 6024, 6025],
    "ranks": [[7, 947740, 1000076, 690316], [991070, 1000073, 4, 6], [44, 8, 11, 275025]],
}
AGREEMENTS = {  # in 1e6 positions, of (seed, epoch) with (seed, epoch)
    ((0, 0), (0, 1)): 1,
    ((0, 0), (1, 0)): 1,
    ((0, 0), (1, 1)): 0,
    ((0, 1), (1, 0)): 1,
    ((0, 1), (1, 1)): 1,
    ((1, 0), (1, 1)): 0,
}


# --- the examples of docstrings and docs ---

SHIFTS = {4: [2, 0, 3], 3: [1, 2, 0, 1]}  # rows for each column, columns for each row, as written there


@pytest.fixture
def by_hand(monkeypatch):
    """The network with two rounds, whose hash is a list of small numbers."""
    monkeypatch.setattr(sampler, "ROUNDS", 2)
    monkeypatch.setattr(sampler, "_shift", lambda half, key, m: np.array(SHIFTS[m], np.uint64)[half.astype(int)])
    return lambda n: sampler._feistel(np.arange(n, dtype=np.uint64), n, 0).tolist()


def test_the_network_by_hand(by_hand):
    cells = sampler._rounds(np.arange(12, dtype=np.uint64), 4, 3, [0, 0]).tolist()
    assert (cells[0], cells[3], cells[5]) == (6, 10, 0) and (cells[10], cells[11]) == (11, 8)
    assert by_hand(10)[3] == 8 and sorted(by_hand(10)) == list(range(10))
    text = (REPO / "docs/sampler.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2:-1] for line in text.splitlines() if line.startswith(("| position", "| index"))]
    positions, images = ([int(cell) for cell in row] for row in rows)
    assert positions == list(range(11)) and images == by_hand(11)


def test_ranks_by_hand():
    """The three processes of docs/sampler.md."""
    text = (REPO / "docs/sampler.md").read_text(encoding="utf-8")
    for name, W, rank in (("one process", 1, 0), ("rank 0 of 2", 2, 0), ("rank 1 of 2", 2, 1), ("rank 2 of 3", 3, 2)):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(name))
        assert [int(word) for word in line.split(name)[1].split()] == list(DistributedStreamSampler(10, W, rank))


def test_weights_and_schedule_by_hand():
    assert quantize([0.5, 0.3, 0.2], period=8) == [4, 2, 2]
    assert schedule([3, 1]).tolist() == [0, 0, 1, 0]
    assert IndexStream([5, 5], [3, 1]).before.tolist() == [0, 1, 0, 2]


def test_a_block_says_how_many_indices_it_has_handed_out():
    block = Block([7, 2, 9])
    assert block.taken() == 0
    for count, index in enumerate(block, start=1):
        assert block.taken() == count, f"{index} is counted while it is being worked on"
    assert block.taken() == 3 and next(iter(block), None) is None


# --- quality, and the test of the test ---


def test_inversions_and_cycles_are_counted_right():
    for n in (1, 2, 3, 7, 8, 9, 64, 101):
        order = np.random.default_rng(n).permutation(n)
        assert inversions(order) == sum(order[i] > order[j] for i in range(n) for j in range(i + 1, n))
        seen = []
        for i in range(n):
            if i not in seen:
                orbit = [i]
                while order[orbit[-1]] != i:
                    orbit.append(order[orbit[-1]])
                seen += orbit + [None]
        assert cycles(order) == seen.count(None)
        assert np.array_equal(order, np.random.default_rng(n).permutation(n)), "left alone"


def test_the_statistics_of_true_shuffles_are_standard_normal():
    source = np.random.default_rng(0)
    z = np.array([list(statistics(lambda n, s, e: source.permutation(n), 2000, 10).values()) for _ in range(60)])
    assert np.all(np.abs(z.mean(axis=0)) < 4.5 / np.sqrt(len(z)))
    assert abs(z.std() - 1) < 0.1 and np.all(np.abs(z.std(axis=0) - 1) < 0.45)


@pytest.mark.parametrize(("n", "keys"), [(4097, 200), (65537, 24), (131072, 16)])
def test_no_pattern_shows(n, keys):
    found = statistics(lambda n, seed, epoch: permute(np.arange(n), n, seed, epoch), n, keys)
    assert passes(found), worst(found)


def stale(n, seed, epoch):
    """A sampler whose set_epoch was forgotten."""
    return np.random.default_rng(seed).permutation(n)


def added(n, seed, epoch):
    """torch's: one number from seed and epoch."""
    return np.random.default_rng(seed + epoch).permutation(n)


@pytest.mark.parametrize(
    ("design", "n", "keys", "shows_in"),
    [
        (DESIGNS["numpy permutation (control)"], 65537, 16, None),
        (DESIGNS["Feistel, 4 rounds"], 65537, 16, "lag b"),
        (DESIGNS["Feistel, 4 rounds"], 131072, 16, "b"),
        (DESIGNS["affine map"], 65537, 16, ""),
        (DESIGNS["chunk-local shuffle, 10 chunks"], 4097, 16, ""),
        (stale, 4097, 16, "epochs"),
        (added, 4097, 16, "seed + epoch"),
        (lambda n, seed, epoch: np.random.default_rng(epoch).permutation(n), 4097, 16, "seeds"),
        (lambda n, seed, epoch: np.sort(np.random.default_rng((seed, epoch)).permutation(n)), 4097, 16, ""),
    ],
    ids=["control", "4 rounds", "4 rounds, 2^17", "affine", "chunk-local", "stale", "added", "no seed", "no shuffle"],
)
def test_the_same_suite_fails_what_is_no_true_shuffle(design, n, keys, shows_in):
    found = statistics(design, n, keys)
    assert passes(found) == (shows_in is None)
    assert shows_in is None or shows_in in worst(found)[0], worst(found)


def test_the_designs_of_the_table_are_those_of_the_sampler():
    for n, design in ((4097, "table (argsort of hashes)"), (65537, "Feistel, 8 rounds")):
        expected = permute(np.arange(n), n, 3, 1)
        agreeing = [name for name, order in DESIGNS.items() if np.array_equal(order(n, 3, 1), expected)]
        assert agreeing == [design]


@pytest.mark.parametrize("vary", ["seed", "epoch", "stream"])
@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_orders_of_a_tiny_range_are_equally_likely(n, vary):
    names = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    draws = range(60 * len(names))
    seen = [names[tuple(permute(np.arange(n), n, **({"seed": 0} | {vary: k})).tolist())] for k in draws]
    assert p_value(chi_square(np.bincount(seen, minlength=len(names)))) > 1e-5


# --- several sources ---


@pytest.mark.parametrize(
    "weights", [[1, 1], [0.8, 0.2], [5, 3, 1], [0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02], [1000, 1]]
)
def test_every_prefix_of_a_mixture_is_within_one_sample_of_its_shares(weights):
    counts = quantize(weights, 4096)
    pattern = schedule(counts)
    taken = np.cumsum(pattern[:, None] == np.arange(len(counts)), axis=0)
    wanted = np.arange(1, len(pattern) + 1)[:, None] * np.array(counts) / len(pattern)
    assert np.abs(taken - wanted).max() < 1 and taken[-1].tolist() == counts
    shares = np.array(weights) / sum(weights)
    assert np.abs(np.array(counts) / sum(counts) - shares).max() < 1 / 4096


@given(st.lists(st.integers(0, 60), min_size=2, max_size=9).filter(any))
@examples(60)
def test_the_schedule_keeps_tijdemans_bound(counts):
    pattern, period, K = schedule(counts), sum(counts), sum(count > 0 for count in counts)
    taken = np.cumsum(pattern[:, None] == np.arange(len(counts)), axis=0)
    off = np.abs(period * taken - np.arange(1, period + 1)[:, None] * np.array(counts)).max()
    assert taken[-1].tolist() == counts
    assert off == 0 if K == 1 else off * (2 * K - 2) <= period * (2 * K - 3)


WEIGHTS = st.sampled_from([0.0, 1.0, 2.0, 3.0]) | st.floats(1e-6, 1000)


@given(st.lists(WEIGHTS, min_size=1, max_size=8).filter(any), st.integers(1, 5000))
@examples(200)
def test_weights_are_rounded_by_largest_remainder(weights, period):
    exact = [Fraction(weight) / sum(map(Fraction, weights)) * period for weight in weights]
    if all(weight.is_integer() for weight in weights) and sum(weights) <= period:
        assert quantize(weights, period) == weights
        return
    if any(0 < share < Fraction(999999, 1000000) for share in exact):
        with pytest.raises(ValueError, match="below one part"):
            quantize(weights, period)
        return
    if any(0 < share < Fraction(1000001, 1000000) for share in exact):
        return  # on the border, where floating point decides
    counts = quantize(weights, period)
    assert sum(counts) == period and all(abs(c - share) < 1 + 1e-6 for c, share in zip(counts, exact, strict=True))
    rest = [float(share - math.floor(share)) for share in exact]
    up = [r for r, c, share in zip(rest, counts, exact, strict=True) if c > share]
    down = [r for r, c, share in zip(rest, counts, exact, strict=True) if c < share]
    assert min(up, default=1) >= max(down, default=0) - 1e-6


def test_a_weight_whose_share_underflows_is_refused():
    with pytest.raises(ValueError, match="below one part"):
        quantize([2.0, 5e-324])


@pytest.mark.parametrize("weights", [[1000, 1], [0.5, 0.3, 0.2], [0.67, 0.15, 0.045, 0.045, 0.045, 0.025, 0.02]])
def test_a_mixture_keeps_its_shares_from_anywhere(weights):
    """Far into a run too, and over any stretch: what stands at g says how many of its source came before."""
    stream = IndexStream([100 + k for k in range(len(weights))], weights, shuffle=False)
    period, counts, sizes = sum(stream.counts), np.array(stream.counts), np.array(stream.sizes)
    draw_ = np.random.default_rng(0)
    g = np.concatenate([draw_.integers(0, 3 * period, 3000), draw_.integers(0, 10**12, 3000)])
    source, index, epoch = stream.at(g)
    before = epoch * sizes[source] + index
    assert np.abs(before * period - g * counts[source]).max() < period
    for start in draw_.integers(0, 10**12, 50).tolist():
        length = int(draw_.integers(1, 3000))
        taken = np.bincount(stream.at(start + np.arange(length))[0], minlength=len(counts))
        assert np.abs(taken * period - length * counts).max() < 2 * period


def test_each_source_of_a_mixture_has_its_own_epochs_in_its_own_order():
    stream = IndexStream([70, 1000, 9], [0.5, 0.3, 0.2], seed=4)
    source, index, epoch = stream.at(np.arange(3000))
    for k, n in enumerate(stream.sizes):
        mine = source == k
        local = np.arange(mine.sum())
        assert epoch[mine].tolist() == (local // n).tolist()
        assert index[mine].tolist() == [permute(int(i % n), n, 4, int(i // n), k) for i in local]


def test_a_mixture_of_one_source_is_that_source():
    plain = IndexStream(50, seed=3)
    for weight in (1, 7, 0.3):
        for got, expected in zip(IndexStream([50], [weight], seed=3).at(range(200)), plain.at(range(200)), strict=True):
            assert np.array_equal(got, expected)
    some = IndexStream([50, 20], [3, 0], seed=3).at(range(200))
    assert not some[0].any() and np.array_equal(some[1], plain.at(range(200))[1])


def test_a_source_with_weight_zero_is_never_drawn_and_order_can_be_kept():
    source, index, _ = IndexStream([5, 5, 5], [1, 0, 2], shuffle=False).at(np.arange(300))
    assert set(source.tolist()) == {0, 2} and index[source == 0].tolist() == [i % 5 for i in range(100)]


@pytest.mark.parametrize(("n", "run"), [(1000, 8), (1003, 16), (7, 16), (70_001, 2)])
def test_runs_keep_neighbours_together_and_still_cover_each_epoch_once(n, run):
    stream = IndexStream(n, seed=2, run=run)
    epochs = [stream.at(np.arange(e * n, (e + 1) * n))[1] for e in range(3)]
    for order in epochs:
        assert np.array_equal(np.sort(order), np.arange(n))
        groups = order[: n // run * run].reshape(-1, run)
        assert np.all((groups - groups[:, :1]) % n == np.arange(run))
    assert not np.array_equal(epochs[0], epochs[1])
    if n % run and n > run:
        assert set(epochs[0][n // run * run :].tolist()) != set(epochs[1][n // run * run :].tolist())


# --- ranks ---


def ranks(dataset, W, **options):
    """One sampler for each rank. (An IndexStream has its own seed.)"""
    return [DistributedStreamSampler(dataset, W, r, seed=7, **options) for r in range(W)]


def draw(samplers, rows):
    """`rows` samples of each rank: (rows, W)."""
    return np.array([list(itertools.islice(s, rows)) for s in samplers]).T.reshape(rows, -1)


@pytest.mark.parametrize("W", range(1, 10))
@pytest.mark.parametrize("n", [1, 5, 8, 100, 70_003])
def test_ranks_together_draw_each_index_once(n, W):
    samplers = ranks(n, W, tail="exact")
    lengths = [len(s) for s in samplers]
    exact = [list(s) for s in samplers]
    assert sorted(sum(exact, [])) == list(range(n)) and lengths == [len(e) for e in exact]
    assert max(lengths) - min(lengths) <= 1
    samplers = ranks(n, W)
    lengths = [len(s) for s in samplers]
    dropped = [list(s) for s in samplers]
    assert lengths == [n // W] * W == [len(d) for d in dropped]
    drawn = sum(dropped, [])
    assert len(set(drawn)) == len(drawn) == n // W * W and max(drawn, default=0) < n
    assert [s.position for s in samplers] == [n] * W, "the next epoch begins on all ranks"


def test_the_last_sample_of_an_epoch_is_not_counted_beyond_it():
    """Of 4 ranks only 2 have a third sample of 10: all stand at 10, whether or not they were asked for a fourth."""
    samplers = ranks(10, 4, tail="exact")
    for s in samplers:
        left = iter(s)
        drawn = [next(left) for _ in range(len(s))]
        assert s.position == (10 if len(drawn) == 3 else 8)
        assert next(left, None) is None and s.position == 10


@given(st.integers(1, 400), st.integers(1, 12), st.integers(0, 3), st.integers(1, 50))
@examples(60)
def test_every_epoch_is_drawn_once_for_any_size_number_of_ranks_and_block(n, W, epoch, block):
    for tail in ("drop", "exact"):
        samplers = ranks(n, W, tail=tail, block=block)
        for s in samplers:
            s.set_epoch(epoch)
        lengths, drawn = [len(s) for s in samplers], [list(s) for s in samplers]
        assert lengths == [len(d) for d in drawn]
        together = sum(drawn, [])
        assert len(set(together)) == len(together) == (n if tail == "exact" else n // W * W)
        assert all(0 <= index < n for index in together)
        assert all(s.epoch == epoch + 1 and s.position == (epoch + 1) * n for s in samplers)


def test_the_dropped_tail_differs_between_epochs():
    samplers = ranks(103, 8)
    tails = [set(range(103)) - set(sum((list(s) for s in samplers), [])) for _ in range(4)]
    assert all(len(tail) == 7 for tail in tails) and len(set(map(frozenset, tails))) > 1


@pytest.mark.parametrize("W", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 1000])
def test_stands_in_for_torchs_distributed_sampler(n, W):
    """Same lengths, same number of samples, same meaning of set_epoch; without shuffling the same samples."""

    def epochs(make):
        """The indices of each rank in epochs 0, 1, 0."""
        found = []
        samplers = [make(rank) for rank in range(W)]
        for epoch in (0, 1, 0):
            for s in samplers:
                s.set_epoch(epoch)
            lengths = [len(s) for s in samplers]
            found.append([list(s) for s in samplers])
            assert lengths == [len(drawn) for drawn in found[-1]]
        return found

    data = torch.arange(n)
    torchs = epochs(lambda rank: DistributedSampler(data, W, rank, seed=3, drop_last=True))
    own = epochs(lambda rank: DistributedStreamSampler(data, W, rank, seed=3))
    for found in (torchs, own):
        for epoch in found:
            together = sum(epoch, [])
            assert len(set(together)) == len(together) and set(together) <= set(range(n))
        assert found[0] == found[2]
        assert n // W < 7 or found[0] != found[1]
    assert [[len(drawn) for drawn in epoch] for epoch in torchs] == [[len(drawn) for drawn in epoch] for epoch in own]
    torchs = epochs(lambda rank: DistributedSampler(data, W, rank, shuffle=False, drop_last=True))
    own = epochs(lambda rank: DistributedStreamSampler(data, W, rank, shuffle=False))
    assert torchs[0] == own[0]  # torch: the same in each epoch; here the tail of an epoch is dropped, no sample moved
    assert torchs == own


def test_ranks_come_from_torch_distributed(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    order = DistributedStreamSampler(10, shuffle=False)
    assert (order.num_replicas, order.rank, list(order)) == (3, 2, [2, 5, 8])
    order = DistributedStreamSampler(10, 2, 0, shuffle=False)
    assert (order.num_replicas, order.rank, list(order)) == (2, 0, [0, 2, 4, 6, 8])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    order = DistributedStreamSampler(10, shuffle=False)
    assert (order.num_replicas, order.rank, list(order)) == (1, 0, list(range(10)))


def wrap_around(positions, n, end):
    """What torch's DistributedSampler fills a last row with: the epoch's first samples."""
    begin = end - n
    return begin + (positions - begin) % n


def padded_rows(left, num_replicas, rank):
    return -(-left // num_replicas)


@pytest.mark.parametrize("W", [1, 2, 3, 4, 11])
@pytest.mark.parametrize("n", [4, 9, 10, 64])
def test_a_new_tail_is_one_entry(monkeypatch, n, W):
    """One that fills the last row as torch does; from the middle of an epoch too."""
    monkeypatch.setitem(TAILS, "wrap", Tail(rows=padded_rows, beyond=wrap_around))
    for rank in range(W):
        torchs = list(DistributedSampler(torch.arange(n), W, rank, shuffle=False))
        order = DistributedStreamSampler(n, W, rank, shuffle=False, tail="wrap", block=3)
        assert len(order) == len(torchs) and list(order) == torchs and order.position == n
        assert list(order) == torchs, "the second epoch"
        if W < n:
            order.seek(W)
            assert list(order) == torchs[1:] and order.position == n
        order = DistributedStreamSampler(n, W, rank, seed=5, tail="wrap")
        order.set_epoch(1)
        whole = permute(np.arange(n), n, 5, epoch=1)
        assert list(order) == [whole[(rank + row * W) % n] for row in range(-(-n // W))]


# --- resuming ---


@pytest.mark.parametrize("tail", ["stream", "drop", "exact"])
def test_resume_at_every_point_equals_uninterrupted(tail):
    def drawn(order, count):
        """The next samples, over as many epochs as they take."""
        found = []
        while len(found) < count:
            found += itertools.islice(order, count - len(found))
        return found

    def make():
        return DistributedStreamSampler(23, 2, 1, seed=7, tail=tail, block=7)

    whole = drawn(make(), 60)
    for k in range(60):
        first = make()
        head = drawn(first, k)
        state = json.loads(json.dumps(first.state_dict()))
        again = make()
        again.load_state_dict(state)
        again.load_state_dict(state)  # twice is once
        assert again.state_dict() == state
        assert head + drawn(again, 60 - k) == whole, k


def test_world_size_may_change_in_mid_epoch():
    n, drawn, state = 200_003, [], None
    for W, rows in ((8, 5000), (3, 20_001), (5, 7000), (1, 65_000)):
        samplers = ranks(n, W, tail="stream")
        for s in samplers:
            if state:
                s.load_state_dict(state)
        drawn += draw(samplers, rows).ravel().tolist()
        states = [s.state_dict() for s in samplers]
        assert all(s == states[0] for s in states), "the state is the same on every rank"
        state = states[0]
    assert state["position"] == n and sorted(drawn) == list(range(n))
    assert drawn == permute(np.arange(n), n, seed=7).tolist()


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 60)), min_size=1, max_size=6))
@examples(40)
def test_world_size_may_change_at_any_time_over_any_epochs(n, legs):
    """The ranks' rows, one after the other, are the stream: nothing lost, repeated or moved at the end of an epoch."""
    for stream in (IndexStream(n, seed=7), IndexStream([n, 7, 100], [5, 1, 3], seed=7)):
        position, steps = 0, []
        for W, rows in legs:
            samplers = ranks(stream, W, tail="stream", block=32)
            for s in samplers:
                s.load_state_dict(s.state_at(position))
            steps += draw(samplers, rows).tolist()
            assert {s.position for s in samplers} == {position + W * rows}
            position += W * rows
        source, index, _ = stream.at(np.arange(position))
        whole = iter((index + np.cumsum([0, *stream.sizes])[source]).tolist())
        for step in steps:
            expected = list(itertools.islice(whole, len(step)))
            assert step == expected if len(stream.sizes) == 1 else sorted(step) == sorted(expected)


@pytest.mark.parametrize("tail", ["drop", "exact"])
def test_world_size_may_change_within_an_epoch_that_ends(tail):
    n, drawn, state = 1003, [], None
    for W, rows in ((8, 41), (3, 57), (5, 31), (2, None)):
        samplers = ranks(n, W, tail=tail)
        if state:
            for s in samplers:
                s.load_state_dict(state)
                s.set_epoch(0)  # as a trainer does that does not know the position
        for s in samplers:
            drawn += itertools.islice(s, rows)
        state = samplers[0].state_dict()
        assert all(s.state_dict() == state for s in samplers)
    left = n - 8 * 41 - 3 * 57 - 5 * 31
    assert left % 2 == 1 and len(set(drawn)) == len(drawn) == (n if tail == "exact" else n - 1)
    assert state["position"] == n


@pytest.mark.parametrize("start", [0, 4999 - 4, 12_345])
def test_a_global_batch_is_the_same_set_for_any_world_size(start):
    """16 samples a step: from any position, across the border of an epoch, of one source and of a mixture."""
    for stream in (IndexStream(5000, seed=7), IndexStream([5000, 30], [2, 1], seed=7)):
        steps = {}
        for W in (1, 2, 4, 8):
            samplers = ranks(stream, W, tail="stream", block=256)
            for s in samplers:
                s.seek(start)
            steps[W] = np.sort(draw(samplers, 800 // W).reshape(-1, 16))
        assert all(np.array_equal(steps[W], steps[1]) for W in steps)


def test_a_mixture_resumes_like_a_single_source():
    stream = IndexStream([70, 1000, 9], [0.5, 0.3, 0.2], seed=4)
    whole = draw(ranks(stream, 3, tail="stream", block=256), 500)
    samplers = ranks(stream, 3, tail="stream", block=256)
    head = draw(samplers, 123)
    state = json.loads(json.dumps(samplers[2].state_dict()))
    assert state["position"] == 369 and type(state["position"]) is int
    again = ranks(stream, 3, tail="stream", block=256)
    for s in again:
        s.load_state_dict(state)
    assert np.array_equal(np.concatenate([head, draw(again, 377)]), whole)


@pytest.mark.parametrize("W", [2, 3, 4, 8])
@pytest.mark.parametrize("K", [2, 3, 4, 8, 9])
def test_a_mixture_gives_each_rank_its_share(W, K):
    """Where W divides the period, plain striding would give a rank the same sources for ever."""
    stream = IndexStream([10_000] * K, [1] * K, seed=1)
    drawn = draw(ranks(stream, W, tail="stream"), 4000)
    shares = np.stack([(drawn // 10_000 == k).mean(axis=0) for k in range(K)])
    assert np.abs(shares - 1 / K).max() < 0.03
    source, index, _ = stream.at(np.arange(4000 * W))
    assert sorted(drawn.ravel().tolist()) == sorted((index + 10_000 * source).tolist())


@pytest.mark.parametrize("weights", [[1023, 1], [0.999, 0.001]])
def test_a_rare_source_reaches_every_rank(weights):
    drawn = draw(ranks(IndexStream([1000, 1000], weights, seed=1), 4, tail="stream"), 50_000)
    rare = (drawn >= 1000).sum(axis=0)
    expected = 200_000 * weights[1] / sum(weights)
    assert abs(rare.sum() - expected) < 4
    assert np.abs(rare - expected / 4).max() < 5 * math.sqrt(expected / 4)


def test_set_epoch_is_that_of_distributed_sampler():
    sampler_, epochs = DistributedStreamSampler(50, 1, 0, seed=3), []
    for epoch in range(3):
        sampler_.set_epoch(epoch)
        epochs.append(list(sampler_))
    assert epochs[0] != epochs[1] != epochs[2]
    sampler_.set_epoch(1)
    assert list(sampler_) == epochs[1]
    half = list(itertools.islice(sampler_, 20))
    state = sampler_.state_dict()
    other = DistributedStreamSampler(50, 1, 0, seed=3)
    other.load_state_dict(state)
    other.set_epoch(2)  # the epoch the state is in: no effect
    assert half == epochs[2][:20] and list(other) == epochs[2][20:]
    other.load_state_dict(state)
    other.set_epoch(0)
    assert list(other) == epochs[0]
    other.load_state_dict(state)
    assert next(iter(other)) == epochs[2][20]
    other.set_epoch(2)  # has drawn since: back to the beginning, as always
    assert list(other) == epochs[2]


def test_state_is_small_and_another_order_is_refused_by_name():
    for n in (1, 10**6, 10**12, 2**62 - 1):
        states = [s.state_dict() for s in ranks(n, 4)]
        assert all(state == states[0] for state in states)
        assert json.loads(json.dumps(states[0])) == states[0] and len(json.dumps(states[0])) < 1024
    order = DistributedStreamSampler(IndexStream([10**12] * 7, [1, 2, 3, 4, 5, 6, 7], seed=2**64 - 1), tail="stream")
    order.seek(2**62 - 1)
    assert len(json.dumps(order.state_dict())) < 1024
    base = DistributedStreamSampler(100, 1, 0, seed=1)
    state = base.state_at(40)
    for key, value in (("seed", 2), ("sizes", [99]), ("weights", [2]), ("shuffle", False), ("run", 4), ("algo", 0)):
        with pytest.raises(ValueError, match=key):
            base.load_state_dict(state | {key: value})
        assert base.position == 0 and not base.loaded, "a refused state changes nothing"
    for bad in (-1, 2**62, 1.5, "7"):
        with pytest.raises(ValueError, match="position"):
            base.load_state_dict(state | {"position": bad})
    for missing in state:
        with pytest.raises(ValueError, match=f"no '{missing}'"):
            base.load_state_dict({key: value for key, value in state.items() if key != missing})
    assert base.position == 0 and not base.loaded


# --- loaders ---


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_dataloader(workers):
    """Three epochs with the workers kept: the sampler's own, without a call to set_epoch."""
    data = torch.arange(101) * 3
    expected = DistributedStreamSampler(data, 2, 1, seed=5)
    order = DistributedStreamSampler(data, 2, 1, seed=5)
    loader = DataLoader(data, batch_size=8, sampler=order, num_workers=workers, persistent_workers=workers > 0)
    seen = []
    for _ in range(3):
        assert len(loader) == 7
        seen.append((torch.cat(list(loader)) // 3).tolist())
        assert seen[-1] == list(expected) and len(set(seen[-1])) == 50
    assert seen[0] != seen[1] != seen[2]
    consumed = 4 * 8 * 2
    batches = list(itertools.islice(loader, 4))
    if workers:
        assert order.position > 3 * 101 + consumed, "workers draw ahead, which is what state_at is for"
    again = DistributedStreamSampler(data, 2, 1, seed=5)
    again.load_state_dict(order.state_at(3 * 101 + consumed))
    assert (torch.cat(batches) // 3).tolist() + list(again) == list(expected)


def test_pickled_samplers_continue_where_they_stood():
    stream = IndexStream([50, 20], [3, 1], seed=3)
    for dataset, tail in ((40, "exact"), (stream, "stream")):
        order = DistributedStreamSampler(dataset, 2, 1, tail=tail)
        order.seek(6)
        head = list(itertools.islice(order, 5))
        copy = pickle.loads(pickle.dumps(order))
        assert copy.state_dict() == order.state_dict() == order.state_at(16)
        rest = list(itertools.islice(order, 9))
        assert list(itertools.islice(copy, 9)) == rest and not set(head) & set(rest)


@pytest.mark.parametrize("drop_last", [False, True])
def test_batch_sampler(drop_last):
    whole = list(DistributedStreamSampler(100, 3, 1, seed=5))
    batches = BatchSampler(DistributedStreamSampler(100, 3, 1, seed=5), 8, drop_last)
    assert len(batches) == (4 if drop_last else 5)
    found = list(batches)
    assert found == [whole[i : i + 8] for i in range(0, 32 if drop_last else 33, 8)]
    data = torch.arange(100)
    loader = DataLoader(data, batch_sampler=BatchSampler(DistributedStreamSampler(data, 3, 1, seed=5), 8, drop_last))
    assert [batch.tolist() for batch in loader] == found


def test_two_iterators_are_independent_and_making_one_changes_nothing():
    order = DistributedStreamSampler(40, 1, 0)
    whole = permute(np.arange(40), 40, 0).tolist()
    order.seek(3)
    a, b = iter(order), iter(order)
    assert order.position == 3 and order.state_dict()["position"] == 3
    fast, slow = [next(a) for _ in range(20)], [next(b) for _ in range(5)]
    for _ in range(10):
        fast.append(next(a)), slow.append(next(b))
    assert fast == whole[3:33] and slow == whole[3:18]
    assert slow + list(b) == whole[3:] == fast + list(a)


@pytest.fixture
def stateful_loader():
    """torchdata's loader, which saves and loads the sampler's state by itself."""
    reason = "torchdata is not installed; it is in requirements-dev.txt"
    module = pytest.importorskip("torchdata.stateful_dataloader", reason=reason)

    def make(workers):
        data = torch.arange(51)
        order = DistributedStreamSampler(data, 2, 1, seed=5)
        return order, module.StatefulDataLoader(data, batch_size=4, sampler=order, num_workers=workers)

    return make


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_dataloader_resumes_in_mid_epoch(stateful_loader, workers):
    expected = DistributedStreamSampler(51, 2, 1, seed=5)
    whole = [list(expected) for _ in range(4)]
    order, loader = stateful_loader(workers)
    states = []
    for epoch in range(3):
        seen = []
        for batch in loader:
            seen += batch.tolist()
            states.append((epoch, len(seen), pickle.dumps(loader.state_dict())))
        assert seen == whole[epoch]
    for (epoch, count, state), set_epoch in itertools.product(states[2:21:5], (False, True)):
        order, loader = stateful_loader(workers)
        loader.load_state_dict(pickle.loads(state))
        for e in (epoch, epoch + 1):
            if set_epoch:
                order.set_epoch(e)
            rest = torch.cat(list(loader)).tolist()
            assert rest == whole[e][count if e == epoch else 0 :], (epoch, count, set_epoch)
    order, loader = stateful_loader(workers)
    loader.load_state_dict(pickle.loads(states[6][2]))  # an epoch is complete: the next one follows
    assert states[6][:2] == (0, 25) and torch.cat(list(loader)).tolist() == whole[1]


# --- errors ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IndexStream(0), "sizes"),
        (lambda: IndexStream([5, -1], [1, 1]), "sizes"),
        (lambda: IndexStream(2**62), "sizes"),
        (lambda: IndexStream([5, 5]), "2 sources need as many weights"),
        (lambda: IndexStream([5, 5], [1, -1]), "weight -1"),
        (lambda: IndexStream([5, 5], [0, 0]), "sum to 0"),
        (lambda: IndexStream([5, 5], [1.5, math.nan]), "weight nan"),
        (lambda: IndexStream([5, 5], [1.0, 1e-9]), "below one part in 65536"),
        (lambda: IndexStream(5, run=0), "run"),
        (lambda: IndexStream(5, seed=-1), "-1"),
        (lambda: IndexStream(5).at([-1]), "positions"),
        (lambda: IndexStream(5).at([0.5]), "positions"),
        (lambda: DistributedStreamSampler([]), "sizes"),
        (lambda: DistributedStreamSampler(5, 2, 2), r"rank \(2\)"),
        (lambda: DistributedStreamSampler(5, 2, -1), r"rank \(-1\)"),
        (lambda: DistributedStreamSampler(5, 0, 0), r"num_replicas \(0\)"),
        (lambda: DistributedStreamSampler(5, tail="last"), "tail='last' must be one of: drop, exact, stream"),
        (lambda: DistributedStreamSampler(5, total=3), "total"),
        (lambda: DistributedStreamSampler(5, tail="stream", total=-1), "total"),
        (lambda: DistributedStreamSampler(5, block=0), "block"),
        (lambda: DistributedStreamSampler(5).seek(-1), "position"),
        (lambda: DistributedStreamSampler(5).set_epoch(-1), "position"),
        (lambda: DistributedStreamSampler(IndexStream([5, 5], [1, 1])), "mixed sources have no common epoch"),
        (lambda: DistributedStreamSampler(IndexStream([5, 5], [1, 1]), tail="stream").set_epoch(1), "drop set_epoch"),
    ],
)
def test_what_cannot_work_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_position_beyond_int64_is_refused(shuffle):
    with pytest.raises(ValueError, match="positions must be"):
        IndexStream(5, shuffle=shuffle).at(np.array([2**63], dtype=np.uint64))


def test_an_iteration_begins_with_a_small_block_whatever_the_size_of_an_epoch(monkeypatch):
    """The first index must not wait for thousands of others, nor, at n = 1, for thousands of epochs' permutations."""
    asked, at = [], IndexStream.at
    monkeypatch.setattr(IndexStream, "at", lambda self, g: asked.append(len(g)) or at(self, g))
    next(iter(DistributedStreamSampler(1, tail="stream")))
    assert asked == [sampler.FIRST_BLOCK]
    asked.clear()
    for _ in itertools.islice(DistributedStreamSampler(10**9, block=1000), 5000):
        pass
    assert asked == [256, 512, 1000, 1000, 1000, 1000, 1000]


def test_an_endless_stream_has_no_length_and_total_ends_it():
    with pytest.raises(TypeError, match="total"):
        len(DistributedStreamSampler(5, tail="stream"))
    some = ranks(5, 2, tail="stream", total=12)
    assert [len(s) for s in some] == [6, 6]
    assert [len(list(s)) for s in some] == [6, 6]
    assert [len(s) for s in some] == [0, 0]


# --- cost ---


@pytest.mark.parametrize("kind", ["stream", "drop", "rank of eight", "mixture"])
def test_memory_is_flat_in_n(kind):
    def peak(n):
        tracemalloc.start()
        dataset = IndexStream([n, n], [2, 1]) if kind == "mixture" else n
        W = 8 if kind == "rank of eight" else 1
        order = DistributedStreamSampler(dataset, W, W - 1, tail="drop" if kind == "drop" else "stream")
        sum(itertools.islice(order, 40_000))
        bytes_ = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_

    small, large = peak(10**6), peak(10**12)
    assert large < 8e6 and abs(large / small - 1) < 0.2


def test_a_seek_computes_nothing_that_lies_before(monkeypatch):
    computed, permute_ = [], sampler.permute
    monkeypatch.setattr(sampler, "permute", lambda pos, *key: computed.append(pos.size) or permute_(pos, *key))
    order = DistributedStreamSampler(10**12, 4, 1, tail="stream", block=100)
    order.load_state_dict(order.state_at(10**11))
    assert computed == []
    list(itertools.islice(order, 101))
    assert computed == [100, 100]
