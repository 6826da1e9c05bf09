"""permute against a true permutation: bijective, independent of how it is asked, frozen."""

import itertools
import json
import math
import pickle
import random
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sampler
from sampler import TABLE_MAX, DistributedStreamSampler, IndexStream, hash_key, permute, quantize, schedule

EDGES = [2**k + d for k in range(1, 21) for d in (-1, 0, 1)] + [257 * 257, 300 * 300, 300 * 301, 300 * 301 + 1]


@pytest.mark.parametrize("sizes", [range(1, 601), EDGES], ids=["small", "edges"])
def test_every_index_comes_exactly_once(sizes):
    for n in sizes:
        images = permute(np.arange(n), n, seed=3)
        assert np.array_equal(np.sort(images), np.arange(n)), n


@given(st.integers(TABLE_MAX + 1, 2_000_000), st.integers(0, 2**64 - 1), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_every_index_comes_exactly_once_for_any_size_seed_and_epoch(n, seed, epoch):
    assert np.bincount(permute(np.arange(n), n, seed, epoch), minlength=n).max() == 1


@pytest.mark.parametrize("n", [10**9, 10**12, 2**40 + 1, 2**61])
def test_large_sizes_are_injective_and_in_range(n):
    positions = np.unique(np.random.default_rng(0).integers(0, n, 1_000_000))
    images = permute(positions, n, seed=5)
    assert images.min() >= 0 and images.max() < n and len(np.unique(images)) == len(positions)


@given(st.integers(1, 10**15), st.data())
@settings(max_examples=50, deadline=None)
def test_any_subset_in_any_order_gives_the_same_images(n, data):
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    together = permute(np.array(positions), n, seed=1)
    assert together.tolist() == [permute(p, n, seed=1) for p in positions]
    assert permute(np.array(positions).reshape(1, -1), n, seed=1).shape == (1, len(positions))


def test_golden_vectors():
    """Frozen: the order of the data is part of a checkpoint. A change here breaks every run that is under way."""
    found = {
        (n, seed, epoch): permute(np.minimum(np.arange(5), n - 1), n, seed, epoch).tolist()
        for n, seed, epoch in [(5, 0, 0), (65536, 0, 0), (65537, 0, 0), (10**9, 1337, 2), (10**12, 2**64 - 1, 1)]
    }
    assert found == GOLDEN


def test_order_ignores_and_leaves_global_random_state():
    np.random.seed(0), torch.manual_seed(0), random.seed(0)
    first = permute(np.arange(100_000), 100_000, seed=1)
    state = np.random.get_state()[1].copy()
    np.random.seed(1), torch.manual_seed(1), random.seed(1)
    assert np.array_equal(first, permute(np.arange(100_000), 100_000, seed=1))
    np.random.seed(0)
    assert np.array_equal(state, np.random.get_state()[1])


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


def test_bad_arguments_are_named():
    for n in (0, -1, 2**62):
        with pytest.raises(ValueError, match=rf"n \({n}\)"):
            permute(0, n, seed=0)
    for position in (-1, 10):
        with pytest.raises(ValueError, match=f"position {position}"):
            permute(position, 10, seed=0)
    with pytest.raises(ValueError, match="integers"):
        permute(np.array([0.5]), 10, seed=0)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=str(seed)):
            permute(0, 10, seed=seed)


def test_key_depends_on_every_value_and_their_order():
    keys = {hash_key(*values) for values in [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0)]}
    assert len(keys) == 7


GOLDEN = {
    (5, 0, 0): [3, 4, 0, 1, 2],
    (65536, 0, 0): [37241, 24511, 3197, 32800, 44607],
    (65537, 0, 0): [3827, 28585, 43047, 9259, 26009],
    (1000000000, 1337, 2): [272233968, 729205832, 468203135, 425943027, 965908791],
    (1000000000000, 18446744073709551615, 1): [831085678759, 424718195251, 408624113035, 261508808486, 718997310543],
}


# --- quality, and the test of the test ---


def statistics(order, n: int) -> dict[str, float]:
    """z-scores of a family of permutations, order(seed) -> (n,): 0 for true shuffles, large where a pattern shows."""
    b = -(-n // (math.isqrt(n - 1) + 1))  # the Feistel network's columns: its structural worst lag
    found = {}
    orders = [order(seed) for seed in range(24)]
    for name, lag in (("lag 1", 1), ("lag 2", 2), ("lag b", b), ("lag 2b", 2 * b)):
        counts = sum(np.bincount((p[lag:] - p[:-lag]) % n * 64 // n, minlength=64) for p in orders)
        found[name] = chi_square(counts)
        centred = [p - (n - 1) / 2 for p in orders]
        r = np.mean([(c[lag:] * c[:-lag]).mean() / (n * n / 12) for c in centred])
        found["serial " + name] = r * math.sqrt(n * len(orders))
    grid = sum(np.bincount(np.arange(n) * 32 // n * 32 + p * 32 // n, minlength=1024) for p in orders)
    found["grid"] = chi_square(grid)
    found["fixed points"] = (sum((p == np.arange(n)).sum() for p in orders) - len(orders)) / math.sqrt(len(orders))
    same = [(a == c).sum() for a, c in itertools.pairwise(orders)]
    found["agreement"] = (sum(same) - len(same)) / math.sqrt(len(same))
    return found


def chi_square(counts: np.ndarray) -> float:
    """Chi-square of equal expectations, as a z-score (Wilson and Hilferty 1931)."""
    expected, k = counts.sum() / len(counts), len(counts) - 1
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return ((chi2 / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))


@pytest.mark.parametrize("n", [65537, 131072, 200_003])
def test_no_pattern_shows(n):
    found = statistics(lambda seed: permute(np.arange(n), n, seed), n)
    reference = statistics(lambda seed: np.random.default_rng(seed).permutation(n), n)
    assert all(z < 5 and -5 < z for z in reference.values()), reference
    assert all(z < 5 for z in found.values()) and all(z > -5 for z in found.values()), found


def test_the_quality_test_fails_four_rounds_and_an_affine_map(monkeypatch):
    n = 131072
    monkeypatch.setattr(sampler, "ROUNDS", 4)
    found = statistics(lambda seed: permute(np.arange(n), n, seed), n)
    assert abs(found["lag b"]) > 6 or abs(found["serial lag b"]) > 6, found
    affine = statistics(lambda seed: (np.arange(n) * (2 * hash_key(seed) % n + 1) + seed) % n, n)
    assert max(map(abs, affine.values())) > 20


@pytest.mark.parametrize("n", [3, 4, 5])
def test_all_orders_of_a_tiny_range_are_equally_likely(n):
    names = {order: i for i, order in enumerate(itertools.permutations(range(n)))}
    draws = 60 * len(names)
    seen = [names[tuple(permute(np.arange(n), n, seed).tolist())] for seed in range(draws)]
    assert abs(chi_square(np.bincount(seen, minlength=len(names)))) < 5


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


def test_each_source_of_a_mixture_has_its_own_epochs_in_its_own_order():
    stream = IndexStream([70, 1000, 9], [0.5, 0.3, 0.2], seed=4)
    source, index, epoch = stream.at(np.arange(3000))
    for k, n in enumerate(stream.sizes):
        mine = source == k
        local = np.arange(mine.sum())
        assert epoch[mine].tolist() == (local // n).tolist()
        assert index[mine].tolist() == [permute(int(i % n), n, 4, int(i // n), k) for i in local]
    some = np.random.default_rng(0).integers(0, 3000, 50)
    for got, whole in zip(stream.at(some), (source, index, epoch), strict=True):
        assert got.tolist() == whole[some].tolist()


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


def ranks(n, W, **options):
    """One sampler for each rank."""
    return [DistributedStreamSampler(n, W, r, seed=7, **options) for r in range(W)]


@pytest.mark.parametrize("W", range(1, 10))
@pytest.mark.parametrize("n", [1, 5, 8, 100, 70_003])
def test_ranks_together_draw_each_index_once(n, W):
    exact = [list(s) for s in ranks(n, W, tail="exact")]
    assert sorted(sum(exact, [])) == list(range(n))
    assert max(map(len, exact)) - min(map(len, exact)) <= 1
    samplers = ranks(n, W)
    lengths = [len(s) for s in samplers]
    dropped = [list(s) for s in samplers]
    assert lengths == [n // W] * W == [len(d) for d in dropped]
    drawn = sum(dropped, [])
    assert len(set(drawn)) == len(drawn) == n // W * W and max(drawn, default=0) < n
    assert [s.position for s in samplers] == [n] * W, "the next epoch begins on all ranks"


def test_the_dropped_tail_differs_between_epochs():
    samplers = ranks(103, 8)
    tails = [set(range(103)) - set(sum((list(s) for s in samplers), [])) for _ in range(4)]
    assert all(len(tail) == 7 for tail in tails) and len(set(map(frozenset, tails))) > 1


def draw(samplers, rows):
    """`rows` samples of each rank: (rows, W)."""
    return np.array([list(itertools.islice(s, rows)) for s in samplers]).T.reshape(rows, -1)


def test_resume_at_every_point_equals_uninterrupted():
    whole = list(itertools.islice(DistributedStreamSampler(23, 1, 0, tail="stream"), 60))
    for k in range(60):
        first = DistributedStreamSampler(23, 1, 0, tail="stream")
        head = list(itertools.islice(first, k))
        state = json.loads(json.dumps(first.state_dict()))
        again = DistributedStreamSampler(23, 1, 0, tail="stream")
        again.load_state_dict(state)
        again.load_state_dict(state)
        assert head + list(itertools.islice(again, 60 - k)) == whole, k


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


def test_a_global_batch_is_the_same_set_for_any_world_size():
    steps = {W: draw(ranks(5000, W, tail="stream"), 800 // W).reshape(-1, 16) for W in (1, 2, 4, 8)}
    for W in (2, 4, 8):
        assert np.array_equal(np.sort(steps[W]), np.sort(steps[1])), W


def test_a_mixture_gives_each_rank_its_share():
    for W in (2, 3, 4):
        stream = IndexStream([10_000, 10_000], [1, 1], seed=1)
        drawn = draw([DistributedStreamSampler(stream, W, r, tail="stream") for r in range(W)], 4000)
        assert np.all(np.abs((drawn < 10_000).mean(axis=0) - 0.5) < 0.03)
        source, index, _ = stream.at(np.arange(4000 * W))
        assert sorted(drawn.ravel().tolist()) == sorted((index + 10_000 * source).tolist())


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


@pytest.mark.parametrize("workers", [0, 2])
def test_plain_dataloader(workers):
    data = torch.arange(101)
    seen = []
    for rank in range(2):
        order = DistributedStreamSampler(data, 2, rank, seed=5)
        loader = torch.utils.data.DataLoader(data, batch_size=8, sampler=order, num_workers=workers)
        assert len(loader) == 7
        seen += torch.cat(list(loader)).tolist()
    assert len(set(seen)) == len(seen) == 100
    again = DistributedStreamSampler(data, 1, 0, seed=5)
    again.load_state_dict(again.state_at(96))
    assert len(again) == 5 and set(seen) >= set(list(again)) - (set(range(101)) - set(seen))


def test_two_iterators_are_independent_and_making_one_changes_nothing():
    order = DistributedStreamSampler(40, 1, 0)
    a, b = iter(order), iter(order)
    assert order.position == 0
    assert [next(a) for _ in range(5)] == [next(b) for _ in range(5)]
    copy = pickle.loads(pickle.dumps(order))
    assert copy.state_dict() == order.state_dict()


def test_state_is_small_and_another_order_is_refused_by_name():
    order = DistributedStreamSampler(IndexStream([10**12] * 7, [1, 2, 3, 4, 5, 6, 7], seed=2**64 - 1), tail="stream")
    assert len(json.dumps(order.state_dict())) < 1024
    base = DistributedStreamSampler(100, 1, 0, seed=1)
    state = base.state_dict()
    for key, value in (("seed", 2), ("sizes", [99]), ("weights", [2]), ("shuffle", False), ("run", 4), ("algo", 0)):
        with pytest.raises(ValueError, match=key):
            base.load_state_dict(state | {key: value})
    for bad in (-1, 2**62, 1.5, "7"):
        with pytest.raises(ValueError, match="position"):
            base.load_state_dict(state | {"position": bad})
    with pytest.raises(ValueError, match="no 'seed'"):
        base.load_state_dict({key: value for key, value in state.items() if key != "seed"})


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
        (lambda: DistributedStreamSampler(5, 2, 2), r"rank \(2\)"),
        (lambda: DistributedStreamSampler(5, 2, -1), r"rank \(-1\)"),
        (lambda: DistributedStreamSampler(5, tail="pad"), "tail='pad'"),
        (lambda: DistributedStreamSampler(5, total=3), "total"),
        (lambda: DistributedStreamSampler(IndexStream([5, 5], [1, 1])), "mixed sources have no common epoch"),
    ],
)
def test_what_cannot_work_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_endless_stream_has_no_length_and_total_ends_it():
    with pytest.raises(TypeError, match="total"):
        len(DistributedStreamSampler(5, tail="stream"))
    some = ranks(5, 2, tail="stream", total=12)
    assert (
        [len(s) for s in some] == [6, 6] and [len(list(s)) for s in some] == [6, 6] and [len(s) for s in some] == [0, 0]
    )


def test_memory_is_flat_in_n():
    def peak(n):
        tracemalloc.start()
        sum(itertools.islice(DistributedStreamSampler(n, 1, 0, tail="stream"), 40_000))
        bytes_ = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_

    small, large = peak(10**6), peak(10**12)
    assert large < 8e6 and abs(large / small - 1) < 0.2
