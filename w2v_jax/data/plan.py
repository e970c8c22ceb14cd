"""Which utterances stand in which batch: pure functions of (seed, step).

Pre-training crops and never pads; fine-tuning and evaluation pad and never crop. Both sort the
utterances into a few buckets of one length each, so that a handful of shapes is compiled.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from w2v_jax.data.order import Interleaving, permuted, permuted_each
from w2v_jax.data.sharing import Ragged, SharedState
from w2v_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Bucket(SharedState):
    """Items that are batched together: `rows` of them, each cut or padded to `samples`.

    Where several sources are mixed the items are sorted by source: those of source i stand at
    bounds[i]..bounds[i+1] and fill the share shares[i] of the rows.
    """

    samples: int
    rows: int
    items: np.ndarray  # int [n], indices of items, ascending within a source
    bounds: tuple[int, ...] = ()
    shares: tuple[float, ...] = (1.0,)
    weight: float = 0.0  # share of the batches, up to a common factor

    def __post_init__(self):
        set_field = object.__setattr__
        set_field(self, "bounds", self.bounds or (0, len(self.items)))
        set_field(self, "weight", self.weight or len(self.items) / self.rows)

    def stand_in(self, slot: int, number: int) -> int:
        """The slot of the item that replaces the one at `slot` when `number - 1` others failed:
        the next ones of the same source, round and round. Number 0 is the item itself."""
        source = int(np.searchsorted(self.bounds, slot, side="right")) - 1
        first, last = self.bounds[source], self.bounds[source + 1]
        return first + (slot - first + number) % (last - first)


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """The content of one global batch."""

    step: int
    bucket: Bucket
    slots: np.ndarray  # int64 [rows], into bucket.items; -1 is a row that fills up the last batch

    @property
    def samples(self) -> int:
        return self.bucket.samples

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, samples) of the batch: what decides the shapes of its arrays."""
        return len(self.slots), self.samples

    @property
    def parts(self) -> dict[str, "BatchSpec"]:
        """Of a single stream, as of several (data/streams.py)."""
        return {"": self}

    @property
    def items(self) -> np.ndarray:
        """int64 [rows], -1 for rows that fill up."""
        items = self.bucket.items[np.maximum(self.slots, 0)].astype(np.int64)
        return np.where(self.slots < 0, -1, items)


def _rows(samples: int, batch_samples: int, multiple: int) -> int:
    return max(batch_samples // samples // multiple, 1) * multiple


def crop_buckets(
    lengths: np.ndarray, crops: Sequence[int], batch_samples: int, multiple: int
) -> list[Bucket]:
    """An item goes to the longest crop that it can fill; items shorter than all are in none.

    lengths, crops, batch_samples in samples. Every bucket has as many rows (a multiple of
    `multiple`) as fit into batch_samples.
    """
    crops = sorted(crops)
    choice = np.searchsorted(crops, lengths, side="right") - 1
    return _buckets(choice, crops, batch_samples, multiple)


def pad_buckets(
    lengths: np.ndarray, edges: Sequence[int], batch_samples: int, multiple: int
) -> list[Bucket]:
    """An item goes to the shortest edge that holds it; items longer than all are in none."""
    edges = sorted(edges)
    choice = np.searchsorted(edges, lengths, side="left")
    return _buckets(choice, edges, batch_samples, multiple)


def _buckets(choice, sizes, batch_samples, multiple) -> list[Bucket]:
    buckets = [
        Bucket(
            size,
            _rows(size, batch_samples, multiple),
            np.flatnonzero(choice == i).astype(np.int32),
        )
        for i, size in enumerate(sizes)
    ]
    return [bucket for bucket in buckets if len(bucket.items)]


def bucket_edges(lengths: np.ndarray, count: int, step: int = 1600) -> list[int]:
    """The `count` bucket edges (multiples of `step` samples) that need the least padding."""
    edges = np.unique(-(-lengths // step)) * step
    within = np.searchsorted(np.sort(lengths), edges, side="right")  # items up to each edge
    later = np.arange(len(edges))[:, None] < np.arange(len(edges))
    # padded[j]: samples in the best k buckets for the items up to edge j; previous: their edges
    padded, previous = (edges * within).astype(float), []
    for _ in range(min(count, len(edges)) - 1):
        cost = padded[:, None] + edges * (within - within[:, None])
        cost = np.where(later, cost, np.inf)
        previous.append(cost.argmin(0))
        padded = cost.min(0)
    found = [len(edges) - 1]
    for choice in reversed(previous):
        found.append(int(choice[found[-1]]))
    return [int(edges[i]) for i in reversed(found)]


class BatchPlan:
    """An endless sequence of batches, `plan[step]`, for buckets mixed by their weights.

    Within a bucket, and within each source of a mixture, the items come in epochs, each a
    permutation drawn from (seed, bucket, epoch). Nothing is carried from step to step: the position
    of the data is the step.
    """

    def __init__(self, buckets: Sequence[Bucket], *, seed: int, num_steps: int):
        if not buckets:
            raise UserError(
                "no utterance fits the lengths in config.data; compare them with the report above"
            )
        self.buckets = list(buckets)
        self._seed, self._num_steps = seed, num_steps
        self._turns = Interleaving([bucket.weight for bucket in buckets], (seed, 0))
        self._sources = [
            Interleaving(bucket.shares, (seed, 4, index)) for index, bucket in enumerate(buckets)
        ]

    def __len__(self) -> int:
        return self._num_steps

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of all batches."""
        return [(bucket.rows, bucket.samples) for bucket in self.buckets]

    def __getitem__(self, step: int) -> BatchSpec:
        (index,), (turn,) = self._turns(np.array([step]))
        return self.batch(int(index), int(turn), step)

    def batch(self, index: int, turn: int, step: int) -> BatchSpec:
        """The batch number `turn` of a bucket, as that of a step."""
        bucket = self.buckets[index]
        rows = turn * bucket.rows + np.arange(bucket.rows)
        sources, positions = self._sources[index](rows)
        bounds = np.array(bucket.bounds)
        first, sizes = bounds[sources], np.diff(bounds)[sources]
        epochs, offsets = np.divmod(positions, sizes)
        if len(bucket.shares) > 1:
            key = (self._seed, 1, index)
            slots = first + permuted_each(offsets, sizes, key, np.stack([sources, epochs]))
            return BatchSpec(int(step), bucket, slots)
        slots = np.empty_like(rows)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            key = (self._seed, 1, index, epoch)
            slots[here] = permuted(offsets[here], int(sizes[0]), key)
        return BatchSpec(int(step), bucket, slots)


def sequential(buckets: Sequence[Bucket], multiple: int = 1) -> list[BatchSpec]:
    """Every item once, bucket by bucket; the last batch of a bucket is filled up.

    A bucket with fewer items than rows gets as many rows (a multiple of `multiple`) as it needs.
    """
    specs = []
    for bucket in buckets:
        needed = -(-len(bucket.items) // multiple) * multiple
        bucket = dataclasses.replace(bucket, rows=min(bucket.rows, needed))
        count = -(-len(bucket.items) // bucket.rows) * bucket.rows
        slots = np.full(count, -1)
        slots[: len(bucket.items)] = np.arange(len(bucket.items))
        for rows in slots.reshape(-1, bucket.rows):
            specs.append(BatchSpec(len(specs), bucket, rows))
    return specs


def concatenation(samples: np.ndarray, speakers: np.ndarray, target: int, *, seed: int) -> Ragged:
    """Groups short utterances of one speaker, in random order, until each group has `target`
    samples; the rest of a speaker is a shorter group.

    samples: int64 [n]; speakers: integers [n]. The groups come in the order in which the random
    walk through all rows fills them, the rests at the end by speaker.
    """
    order = np.random.default_rng([seed, 2]).permutation(len(samples))
    by_speaker = np.argsort(speakers[order], kind="stable")  # positions in `order`
    rows = order[by_speaker]
    heard = np.cumsum(samples[rows])
    changes = np.flatnonzero(np.diff(speakers[rows])) + 1
    # A group that starts at row i ends before row full[i], unless its speaker ends earlier.
    full = np.searchsorted(heard, heard - samples[rows] + target) + 1
    ends, rests = [], []
    for first, last in itertools.pairwise([0, *changes.tolist(), len(rows)]):
        reach = full[first:last].tolist()
        position = first
        while position < last:
            end = reach[position - first]
            rests.append(end > last)
            position = min(end, last)
            ends.append(position)
    ends, rests = np.array(ends, np.int64), np.array(rests, bool)
    filled_at = np.where(rests, len(rows) + np.arange(len(ends)), by_speaker[ends - 1])
    turn = np.argsort(filled_at)
    sizes = np.diff(ends, prepend=0)
    inside = np.repeat(ends[turn] - sizes[turn].cumsum(), sizes[turn]) + np.arange(len(rows))
    return Ragged(rows[inside].astype(np.int32), np.append(0, sizes[turn].cumsum()))
