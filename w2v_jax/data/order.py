"""Orders that are computed, not stored: permutations by index, and streams mixed in proportion.

Everything is a pure function of a key (integers, the first of them the seed) and a position in an
endless row, so that the position of the data is one integer.
"""

import functools
from collections.abc import Sequence

import numpy as np

SMALL = 1 << 15  # up to this size a permutation is an array, above it is computed one by one
CYCLE = 1000  # positions over which streams are mixed in proportion

_ROUNDS = 6
_STEP = np.uint64(0xD1342543DE82EF95)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd


def permuted(positions: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Where a random permutation of 0..size-1 puts `positions`, int64 of their shape.

    The permutation of ten million items is never held in memory. Its order is part of what makes a
    run repeatable; it therefore stands here and not in a library whose versions may change it.
    """
    if size <= SMALL:
        return _permutation(size, key)[positions]
    return _feistel(positions, size, _round_keys(key)[:, None])


@functools.lru_cache(maxsize=64)
def _permutation(size: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(size)


def permuted_each(
    positions: np.ndarray, sizes: np.ndarray, key: tuple[int, ...], parts: np.ndarray
) -> np.ndarray:
    """Where `positions` go, each by a permutation of its own: of 0..sizes[i]-1, drawn from the key
    and the numbers parts[:, i]. One pass, however many permutations there are. int64 [n]."""
    keys = _round_keys(key)[:, None]
    for numbers in parts.astype(np.uint64):
        keys = _hashed(keys + numbers * _STEP)
    return _feistel(positions, sizes, keys)


def _feistel(positions: np.ndarray, sizes: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """A Feistel network over the next even number of bits. A position that lands outside is sent
    through again until it lies inside, which keeps the whole a permutation.

    keys: uint64 [rounds, n], or [rounds, 1] where all positions are of one permutation.
    """
    positions, sizes, keys = np.asarray(positions), np.asarray(sizes), np.asarray(keys)
    sizes = np.broadcast_to(sizes, positions.shape).astype(np.uint64)
    keys = np.broadcast_to(keys, (len(keys), *positions.shape))
    bits = np.frexp((sizes - np.uint64(1)).astype(np.float64))[1]  # of the largest position
    half = ((bits + 1) // 2).astype(np.uint64)
    out = positions.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        shift = half[todo]
        mask = (np.uint64(1) << shift) - np.uint64(1)
        left, right = out[todo] >> shift, out[todo] & mask
        for round_keys in keys[:, todo]:
            left, right = right, left ^ _hashed(right ^ round_keys) & mask
        out[todo] = left << shift | right
        todo = todo[out[todo] >= sizes[todo]]
    return out.astype(np.int64)


def _hashed(numbers: np.ndarray) -> np.ndarray:
    """Well mixed bits of uint64, the best of them at the low end."""
    mixed = numbers * _MULTIPLIER
    mixed = (mixed ^ (mixed >> np.uint64(32))) * _MULTIPLIER
    return mixed >> np.uint64(32) ^ mixed << np.uint64(32)


@functools.lru_cache(maxsize=64)
def _round_keys(key: tuple[int, ...]) -> np.ndarray:
    return np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)


class Interleaving:
    """Deals the positions of an endless row out to streams, in random order but in proportion.

    In every `cycle` of 1000 positions (more for very many streams) each stream has its share of
    them to within one; a stream too rare for one per cycle has its turn when it is due.
    """

    def __init__(self, shares: Sequence[float], key: tuple[int, ...]):
        shares = np.asarray(shares, float)
        self._shares = shares / shares.sum()
        self._key = key
        # The largest stream takes up what rounding leaves of a cycle: it must be able to.
        needed = (len(shares) + 2) / self._shares.max()
        self.cycle = max(CYCLE, int(np.ceil(needed)))

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the stream of each position, the number of earlier positions of that stream), int64."""
        positions = np.asarray(positions, np.int64)
        if len(self._shares) == 1:
            return np.zeros_like(positions), positions
        cycles, offsets = np.divmod(positions, self.cycle)
        streams, turns = np.empty_like(positions), np.empty_like(positions)
        for cycle in np.unique(cycles):
            here = cycles == cycle
            order, turn = self._dealt(int(cycle))
            streams[here], turns[here] = order[offsets[here]], turn[offsets[here]]
        return streams, turns

    def _used(self, cycle: int) -> np.ndarray:
        """Positions of every stream in the cycles before `cycle`."""
        used = np.floor(cycle * self.cycle * self._shares + 0.5).astype(np.int64)
        largest = int(self._shares.argmax())
        used[largest] += cycle * self.cycle - used.sum()
        return used

    @functools.lru_cache(maxsize=32)  # noqa: B019 an order lives as long as its run
    def _dealt(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """(stream, its turn) of every position of a cycle."""
        before = self._used(cycle)
        counts = self._used(cycle + 1) - before
        order = np.repeat(np.arange(len(counts)), counts)
        order = np.random.default_rng((*self._key, cycle)).permutation(order)
        turn = np.empty(len(order), np.int64)
        first = np.cumsum(counts) - counts
        turn[np.argsort(order, kind="stable")] = np.arange(len(order)) + np.repeat(
            before - first, counts
        )
        return order, turn
