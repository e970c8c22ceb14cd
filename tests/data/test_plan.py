import hashlib
import itertools
import pickle

import numpy as np
import pytest

from w2v_jax.data.plan import (
    BatchPlan,
    Bucket,
    bucket_edges,
    concatenation,
    crop_buckets,
    pad_buckets,
    sequential,
)
from w2v_jax.errors import UserError

LENGTHS = np.random.default_rng(0).integers(8_000, 100_000, 500)


def plan(seed=1, num_steps=5000):
    buckets = crop_buckets(LENGTHS, [16_000, 32_000, 64_000], 256_000, 2)
    return BatchPlan(buckets, seed=seed, num_steps=num_steps)


def test_crop_buckets_never_pad():
    for bucket in crop_buckets(LENGTHS, [16_000, 32_000, 64_000], 256_000, 2):
        assert (LENGTHS[bucket.items] >= bucket.samples).all()
        assert bucket.rows * bucket.samples == 256_000
    used = np.concatenate([b.items for b in crop_buckets(LENGTHS, [16_000, 64_000], 256_000, 1)])
    assert sorted(used) == list(np.flatnonzero(LENGTHS >= 16_000))


def test_pad_buckets_never_crop():
    edges = bucket_edges(LENGTHS, 8)
    buckets = pad_buckets(LENGTHS, edges, 256_000, 1)
    assert sum(len(b.items) for b in buckets) == len(LENGTHS)
    for bucket in buckets:
        assert (LENGTHS[bucket.items] <= bucket.samples).all()
    padded = sum(len(b.items) * b.samples for b in buckets)
    assert LENGTHS.sum() / padded > 0.85
    assert pad_buckets(LENGTHS, [50_000], 256_000, 1)[0].items.size == (LENGTHS <= 50_000).sum()


def test_batches_are_a_function_of_seed_and_step():
    a, b = plan(), plan()
    order = np.random.default_rng(0).permutation(3000)[:200]
    for step in order:
        np.testing.assert_array_equal(a[step].items, b[int(step)].items)
    again = [plan(seed=2)[s].items for s in range(20)]
    assert not all(np.array_equal(a[s].items, again[s]) for s in range(20))


def test_order_is_pinned():
    """A change of this digest changes the data of every run that continues."""
    digest, pinned = hashlib.sha256(), plan()
    for step in range(2000):
        digest.update(pinned[step].items.tobytes())
    assert digest.hexdigest()[:16] == "617be1e1e99f94bd"


def test_large_buckets_have_epochs_too():
    bucket = Bucket(10, 500, np.arange(100_000, dtype=np.int32) + 7)
    large = BatchPlan([bucket], seed=0, num_steps=10**6)
    epochs = [
        np.concatenate([large[step].items for step in range(start, start + 200)])
        for start in (0, 200)
    ]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), bucket.items)
    assert not np.array_equal(*epochs)
    copy = pickle.loads(pickle.dumps(large))  # as worker processes receive it
    assert np.array_equal(copy[250].items, large[250].items)
    assert isinstance(copy.buckets[0].items, np.ndarray)


def test_every_item_once_per_epoch():
    for bucket_index, bucket in enumerate(plan().buckets):
        p = plan()
        seen = np.concatenate(
            [s.items for s in map(p.__getitem__, range(1500)) if s.samples == bucket.samples]
        )
        n = len(bucket.items)
        for epoch in range(2):
            assert sorted(seen[epoch * n : (epoch + 1) * n]) == sorted(bucket.items), bucket_index
        assert not np.array_equal(seen[:n], seen[n : 2 * n]), "every epoch has its own order"


def test_buckets_are_mixed_in_proportion():
    p = plan()
    counts = np.zeros(len(p.buckets))
    for step in range(2000):
        counts[[b.samples for b in p.buckets].index(p[step].samples)] += 1
    ideal = np.array([len(b.items) / b.rows for b in p.buckets])
    np.testing.assert_allclose(counts / 2000, ideal / ideal.sum(), atol=0.002)


def test_rare_buckets_have_their_turn():
    buckets = [Bucket(10, 8, np.arange(20)), Bucket(20, 8, np.arange(30_000))]
    plan = BatchPlan(buckets, seed=0, num_steps=10**6)
    seen = [plan[step].samples for step in range(6000)]
    assert seen.count(10) == pytest.approx(6000 * 20 / 30_020, abs=1)
    steps = [plan[step].items for step in range(6000) if plan[step].samples == 10]
    assert sorted(np.concatenate(steps)[:20]) == list(range(20))


def test_a_bucket_is_no_larger_than_its_items():
    specs = sequential([Bucket(10, 64, np.arange(5))], 4)
    assert [len(spec.items) for spec in specs] == [8]


def test_sequential_covers_all_once():
    items = np.concatenate(
        [s.items for s in sequential(pad_buckets(LENGTHS, [100_000], 300_000, 3))]
    )
    assert sorted(items[items >= 0]) == list(range(len(LENGTHS)))
    assert len(items) % 3 == 0


def slow_concatenation(samples, speakers, target, seed):
    """A speaker's rows are collected until they are enough; the readable twin."""
    waiting, groups = {}, []
    for row in np.random.default_rng([seed, 2]).permutation(len(samples)):
        rows = waiting.setdefault(speakers[row], [])
        rows.append(int(row))
        if samples[rows].sum() >= target:
            groups.append(waiting.pop(speakers[row]))
    return groups + [rows for _, rows in sorted(waiting.items())]


@pytest.mark.parametrize("target", [1, 250, 10**6])
def test_concatenation_is_that_of_the_slow_one(target):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        samples, speakers = rng.integers(1, 100, (2, rng.integers(0, 200)))
        speakers %= rng.integers(1, 30)
        groups = concatenation(samples, speakers, target, seed=seed)
        expected = slow_concatenation(samples, speakers, target, seed)
        assert [groups[i].tolist() for i in range(len(groups))] == expected
        assert np.array_equal(np.sort(groups.values), np.arange(len(samples)))


def test_nothing_fits():
    with pytest.raises(UserError, match="lengths"):
        BatchPlan(crop_buckets(LENGTHS, [10**6], 10**6, 1), seed=0, num_steps=1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_bucket_edges_are_the_best(count):
    """Against every choice of edges, on small cases."""
    rng = np.random.default_rng(count)
    for _ in range(20):
        lengths = rng.integers(1, 12, 15) * 100 - rng.integers(0, 100, 15)
        rounded = -(-lengths // 100) * 100
        all_edges = np.unique(rounded)

        def cost(edges, lengths=lengths):
            return sum(min(e for e in edges if e >= n) for n in lengths)

        best = min(
            cost([*chosen, all_edges[-1]])
            for chosen in itertools.combinations(all_edges[:-1], min(count, len(all_edges)) - 1)
        )
        edges = bucket_edges(lengths, count, 100)
        assert len(edges) == min(count, len(all_edges))
        assert cost(edges) == best
