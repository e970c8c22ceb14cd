import hashlib

import numpy as np
import pytest

from w2v_jax.data.order import SMALL, Interleaving, permuted, permuted_each


def computed(positions, size, key):
    """The way that large permutations go, for any size."""
    count = len(positions)
    return permuted_each(positions, np.full(count, size), key, np.zeros((1, count), int))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, SMALL, SMALL + 1, 100_003])
def test_every_place_once(size):
    for permute in (permuted, computed):
        assert np.array_equal(np.sort(permute(np.arange(size), size, (1, 2))), np.arange(size))


def test_order_is_pinned():
    """A change of these numbers changes the data of every run that continues."""
    large = permuted(np.array([0, 1, 2, 9_999_999]), 10_000_000, (0, 1, 0, 0))
    assert large.tolist() == [7048490, 9424125, 3587623, 5187958]
    assert permuted(np.arange(4), 1000, (0, 1, 0, 0)).tolist() == [144, 255, 317, 766]
    streams, turns = Interleaving([5, 3, 2], (0, 0))(np.arange(3000))
    digest = hashlib.sha256(np.stack([streams, turns]).tobytes()).hexdigest()
    assert digest[:16] == "f2f23b187556dda3"


def test_computed_permutations_look_random():
    size, bins = 200_000, 50
    orders = [computed(np.arange(size), size, (0, epoch)) for epoch in range(4)]
    for i, order in enumerate(orders):
        assert (order == np.arange(size)).sum() < 10
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.01
        cells = np.arange(size) * bins // size * bins + order * bins // size
        counts, expected = np.bincount(cells, minlength=bins**2), size / bins**2
        chi = ((counts - expected) ** 2 / expected).sum() / bins**2
        assert 0.8 < chi < 1.2, "as often from every stretch to every stretch as chance has it"
        for other in orders[:i]:
            assert (order == other).sum() < 10


def test_many_permutations_at_once():
    sizes = np.array([1, 3, 70, 1000, 5000])
    parts = np.stack([np.arange(5), [0, 0, 1, 0, 2]])
    which = np.repeat(np.arange(5), sizes)
    positions = np.concatenate([np.arange(size) for size in sizes])
    shuffle = np.random.default_rng(0).permutation(len(which))
    which, positions = which[shuffle], positions[shuffle]
    found = permuted_each(positions, sizes[which], (1,), parts[:, which])
    for i, size in enumerate(sizes):
        mine = which == i
        assert np.array_equal(np.sort(found[mine]), np.arange(size))
        alone = permuted_each(positions[mine], sizes[which][mine], (1,), parts[:, which][:, mine])
        assert np.array_equal(found[mine], alone)
    two = [permuted_each(np.arange(99), np.full(99, 99), (1,), np.full((1, 99), i)) for i in (0, 1)]
    assert (two[0] == two[1]).sum() < 10


def test_streams_have_their_shares_and_turns():
    shares = np.array([0.5, 0.3, 0.1999, 0.0001])
    deal = Interleaving(shares, (3,))
    streams, turns = deal(np.arange(50_000))
    for i, share in enumerate(shares):
        mine = streams == i
        assert np.array_equal(turns[mine], np.arange(mine.sum())), "every turn once, in order"
        counts = np.cumsum(mine)[999::1000]
        assert np.abs(counts - share * np.arange(1000, 50_001, 1000)).max() <= 2
    again = np.random.default_rng(0).permutation(50_000)[:500]
    for part, whole in zip(deal(again), (streams, turns), strict=True):
        assert np.array_equal(part, whole[again])


def test_very_many_streams():
    """More than a cycle of 1000 has room for: the cycle grows."""
    shares = np.random.default_rng(0).uniform(0.1, 1, 300)
    deal = Interleaving(shares, (0,))
    count = 2 * deal.cycle
    streams, turns = deal(np.arange(count))
    counts = np.bincount(streams, minlength=300)
    others = np.arange(300) != shares.argmax()
    ideal = count * shares / shares.sum()
    np.testing.assert_allclose(counts[others], ideal[others], atol=1)
    assert all(np.array_equal(turns[streams == i], np.arange(counts[i])) for i in range(0, 300, 30))
