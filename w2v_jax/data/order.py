"""Orders that are computed, not stored: permutations by index, and streams mixed in proportion.

Everything is a pure function of a key (integers, the first of them the seed) and a place in an
endless row, so that the position of the data is one integer.
"""

import functools
from collections.abc import Sequence

import numpy as np

SMALL = 1 << 15  # up to this size a permutation is an array, above it is computed place by place
CYCLE = 1000  # places over which streams are mixed in proportion

_ROUNDS = 6
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd


def permuted(places: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """Where a random permutation of 0..size-1 puts `places`, int64 of their shape.

    The permutation of ten million items is never held in memory. Its order is part of what makes a
    run repeatable; it therefore stands here and not in a library whose versions may change it.
    """
    if size <= SMALL:
        return _permutation(size, key)[places]
    return _feistel(places, size, key)


@functools.lru_cache(maxsize=64)
def _permutation(size: int, key: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(key).permutation(size)


def _feistel(places: np.ndarray, size: int, key: tuple[int, ...]) -> np.ndarray:
    """A Feistel network over the next even number of bits. A place that lands outside 0..size-1 is
    sent through again until it lies inside, which keeps the whole a permutation."""
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)
    out = np.asarray(places).astype(np.uint64)
    todo = np.ones(out.shape, bool)
    while todo.any():
        left, right = out[todo] >> half, out[todo] & mask
        for round_key in keys:
            mixed = (right ^ round_key) * _MULTIPLIER
            mixed = (mixed ^ (mixed >> np.uint64(32))) * _MULTIPLIER
            left, right = right, left ^ (mixed >> np.uint64(32)) & mask
        out[todo] = left << half | right
        todo[todo] = out[todo] >= size
    return out.astype(np.int64)


class Interleaving:
    """Deals the places of an endless row out to streams, in random order but in proportion.

    In every `cycle` of 1000 places (more for very many streams) each stream has its share of them
    to within one place; a stream too rare for one place per cycle has its turn when it is due.
    """

    def __init__(self, shares: Sequence[float], key: tuple[int, ...]):
        shares = np.asarray(shares, float)
        self._shares = shares / shares.sum()
        self._key = key
        # The largest stream takes up what rounding leaves of a cycle: it must be able to.
        needed = (len(shares) + 2) / self._shares.max()
        self.cycle = max(CYCLE, int(np.ceil(needed)))

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the stream of each place, the number of earlier places of that stream), int64."""
        places = np.asarray(places, np.int64)
        if len(self._shares) == 1:
            return np.zeros_like(places), places
        cycles, offsets = np.divmod(places, self.cycle)
        streams, turns = np.empty_like(places), np.empty_like(places)
        for cycle in np.unique(cycles):
            here = cycles == cycle
            order, turn = self._dealt(int(cycle))
            streams[here], turns[here] = order[offsets[here]], turn[offsets[here]]
        return streams, turns

    def _used(self, cycle: int) -> np.ndarray:
        """Places of every stream in the cycles before `cycle`."""
        used = np.floor(cycle * self.cycle * self._shares + 0.5).astype(np.int64)
        largest = int(self._shares.argmax())
        used[largest] += cycle * self.cycle - used.sum()
        return used

    @functools.lru_cache(maxsize=32)  # noqa: B019 an order lives as long as its run
    def _dealt(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """(stream, its turn) of every place of a cycle."""
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
