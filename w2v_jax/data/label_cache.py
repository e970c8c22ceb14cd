"""The batches of training on pseudo-labels with a cache (slimIPL, arXiv 2010.11524): which of them
are transcribed, which are in the cache, which is replaced by which. A pure function of (seed,
step); the labels themselves are state of the training (`objectives.pseudo_labels`).

Three kinds of updates: on transcribed speech; on a batch of the cache, at times with a fresh one
that takes its place; and those that fill the cache, with a fresh one alone.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.loader import Loader, own_rows
from w2v_jax.data.order import Interleaving, permuted
from w2v_jax.data.plan import BatchPlan, BatchSpec, Bucket
from w2v_jax.data.streams import StreamPlan, stream_seed
from w2v_jax.data.transcripts import LETTERS_PER_SECOND
from w2v_jax.errors import UserError

PSEUDO, FRESH = "pseudo_", "fresh_"  # prefixes: a batch of the cache, and one to be labelled


def row_width(samples: int) -> int:
    """Integers of a row of the cache: its item, how many labels, and the room for them."""
    return 2 + -(-LETTERS_PER_SECOND * samples // SAMPLE_RATE)


def slot_width(batch: int, multiple: int, shortest: int, longest: int) -> int:
    """Integers of a slot of the cache: room for every batch of `batch` samples, or of `multiple`
    rows where these are more, each of `shortest` to `longest` samples."""
    rows = max(batch // max(shortest, 1), multiple)
    letters = -(-LETTERS_PER_SECOND * max(batch, multiple * longest) // SAMPLE_RATE)
    return letters + 3 * rows  # a row rounds up


@dataclasses.dataclass(frozen=True)
class CacheSpec(BatchSpec):
    """A batch that has a slot of the cache."""

    first: int = 0  # where the slot begins


class CacheLoader(Loader):
    """A loader of such batches, with one more array:

    at    int32 [A, B], where the row begins in the cache
    """

    def _arrays(self, shape: tuple[int, int], samples: int):
        return super()._arrays(shape, samples) | {"at": (shape, np.int32)}

    def load(self, spec: CacheSpec):
        batch, problems = super().load(spec)
        rows = own_rows(spec, self.accumulation, self.parts, self.of)
        batch["at"][:] = spec.first + rows * row_width(spec.samples)
        return batch, problems


class CachePlan(StreamPlan):
    """First `start` updates on transcripts, then `cache` that fill the slots, then blocks of
    ratio[0] updates on transcripts and ratio[1] on slots, in random order.

    A slot is of one bucket for good; every bucket has slots, and updates, in its proportion. The
    slots of a bucket are visited in passes, each in a random order of its own; after a visit, in
    the share `replace` of the visits, the slot gets the next fresh batch. slot: integers of a slot.
    Raises UserError for fewer slots than buckets.
    """

    def __init__(
        self,
        transcribed: Sequence[Bucket],
        unlabelled: Sequence[Bucket],
        *,
        start: int,
        cache: int,
        ratio: tuple[int, int],
        replace: float,
        slot: int,
        seed: int,
        num_steps: int,
    ):
        super().__init__({"": transcribed, PSEUDO: unlabelled}, num_steps=num_steps)
        self._transcribed = BatchPlan(transcribed, seed=seed, num_steps=num_steps)
        self._unlabelled = BatchPlan(unlabelled, seed=stream_seed(seed, 1), num_steps=num_steps)
        self._start, self._cache, self._ratio = start, cache, tuple(ratio)
        self._slot, self._seed = slot, seed
        weights = [bucket.weight for bucket in unlabelled]
        self.slots = shared_out(cache, weights)  # of every bucket
        self._turns = Interleaving(weights, (seed, 7))
        self._replaced = [
            Interleaving([1 - replace, replace], (seed, 8, index)) for index in range(len(weights))
        ]

    def parts(self, step: int) -> dict[str, BatchSpec]:
        if step < self._start:
            return {"": self._transcribed[step]}
        number = step - self._start
        if number < self._cache:
            ends = np.cumsum(self.slots)
            index = int(np.searchsorted(ends, number, side="right"))
            own = number - int(ends[index] - self.slots[index])
            return {FRESH: self._cached(index, own, own, step)}
        return self._mixed(number - self._cache, step)

    def _mixed(self, number: int, step: int) -> dict[str, BatchSpec]:
        block, place = divmod(number, sum(self._ratio))
        order = np.random.default_rng((self._seed, 9, block)).permutation(sum(self._ratio))
        transcribed = order < self._ratio[0]
        turn = int((transcribed[:place] == transcribed[place]).sum())  # of its kind in the block
        if transcribed[place]:
            return {"": self._transcribed[self._start + block * self._ratio[0] + turn]}
        (index,), (visit,) = self._turns(np.array([block * self._ratio[1] + turn]))
        index, visit = int(index), int(visit)
        passed, place = divmod(visit, self.slots[index])
        own = int(self._order(index, passed)[place])
        parts = {PSEUDO: self._cached(index, own, self.held(index, own, passed), step)}
        fresh = self._fresh(index, visit)
        return parts | ({} if fresh is None else {FRESH: self._cached(index, own, fresh, step)})

    def _order(self, index: int, passed: int) -> np.ndarray:
        """The slots of a bucket in the order of a pass."""
        count = self.slots[index]
        return permuted(np.arange(count), count, (self._seed, 10, index, passed))

    def _fresh(self, index: int, visit: int) -> int | None:
        """Which batch of the bucket replaces the slot after this visit; None: it stays."""
        (stream,), (turn,) = self._replaced[index](np.array([visit]))
        return self.slots[index] + int(turn) if stream == 1 else None

    def held(self, index: int, own: int, passed: int) -> int:
        """Which batch of the bucket is in its slot number `own` when a pass begins."""
        for earlier in range(passed - 1, -1, -1):
            place = int(np.flatnonzero(self._order(index, earlier) == own)[0])
            fresh = self._fresh(index, earlier * self.slots[index] + place)
            if fresh is not None:
                return fresh
        return own

    def _cached(self, index: int, own: int, number: int, step: int) -> CacheSpec:
        """Batch `number` of a bucket in its slot number `own`."""
        spec = self._unlabelled.batch(index, number, step)
        first = (sum(self.slots[:index]) + own) * self._slot
        return CacheSpec(spec.step, spec.bucket, spec.slots, first)


def shared_out(count: int, weights: Sequence[float]) -> list[int]:
    """`count` in proportion to the weights, at least 1 each. Raises UserError where that is too
    many."""
    if count < len(weights):
        raise UserError(
            f"--config.pseudo.cache={count} slots are fewer than the {len(weights)} lengths of "
            f"unlabelled batches; set --config.pseudo.cache={len(weights)} or more, or lower "
            "--config.pseudo.num_buckets"
        )
    shares = np.array(weights) / np.sum(weights) * (count - len(weights))
    parts = np.floor(shares).astype(int)
    parts[np.argsort(parts - shares, kind="stable")[: count - len(weights) - parts.sum()]] += 1
    return [1 + int(part) for part in parts]
