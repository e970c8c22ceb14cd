"""Which utterances stand in which batch: pure functions of (seed, step).

Pre-training crops and never pads; fine-tuning and evaluation pad and never crop. Both sort the
utterances into a few buckets of one length each, so that a handful of shapes is compiled.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from w2v_jax.errors import UserError

CYCLE = 1000  # steps over which the buckets are mixed in proportion


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Items that are batched together: `rows` of them, each cut or padded to `samples`."""

    samples: int
    rows: int
    items: np.ndarray  # int64, indices of items


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """The content of one global batch. Item -1 is a row that fills up the last batch."""

    samples: int
    items: np.ndarray  # int64 [rows]
    step: int
    bucket: Bucket


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
        Bucket(size, _rows(size, batch_samples, multiple), np.flatnonzero(choice == i))
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
    """An endless sequence of batches, `plan[step]`, for buckets mixed by their share of the audio.

    Within a bucket the items come in epochs, each a permutation drawn from (seed, bucket, epoch).
    Nothing is carried from step to step: the position of the data is the step.
    """

    def __init__(self, buckets: Sequence[Bucket], *, seed: int, num_steps: int):
        if not buckets:
            raise UserError(
                "no utterance fits the lengths in config.data; compare them with the report above"
            )
        self.buckets = list(buckets)
        self._seed, self._num_steps = seed, num_steps
        batches = np.array([len(b.items) / b.rows for b in buckets])
        self._share = batches / batches.sum()

    def __len__(self) -> int:
        return self._num_steps

    def _used(self, cycle: int) -> np.ndarray:
        """Batches of every bucket in the cycles before `cycle`; a rare bucket has its turn too."""
        used = np.floor(cycle * CYCLE * self._share + 0.5).astype(int)
        largest = int(self._share.argmax())
        used[largest] += cycle * CYCLE - used.sum()
        return used

    @functools.lru_cache(maxsize=2)  # noqa: B019 a plan lives as long as its run
    def _cycle(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """(the bucket of every step of a cycle, the batches of every bucket before the cycle)."""
        before = self._used(cycle)
        order = np.repeat(np.arange(len(self.buckets)), self._used(cycle + 1) - before)
        return np.random.default_rng([self._seed, 0, cycle]).permutation(order), before

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def _epoch(self, index: int, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self._seed, 1, index, epoch])
        return rng.permutation(self.buckets[index].items)

    def __getitem__(self, step: int) -> BatchSpec:
        cycle, place = divmod(int(step), CYCLE)
        order, before = self._cycle(cycle)
        index = int(order[place])
        earlier = int(before[index]) + np.count_nonzero(order[:place] == index)
        bucket = self.buckets[index]
        position = earlier * bucket.rows + np.arange(bucket.rows)
        epochs, offsets = np.divmod(position, len(bucket.items))
        items = [self._epoch(index, int(e))[o] for e, o in zip(epochs, offsets, strict=True)]
        return BatchSpec(bucket.samples, np.array(items), int(step), bucket)


def sequential(buckets: Sequence[Bucket], multiple: int = 1) -> list[BatchSpec]:
    """Every item once, bucket by bucket; the last batch of a bucket is filled up with -1.

    A bucket with fewer items than rows gets as many rows (a multiple of `multiple`) as it needs.
    """
    specs = []
    for bucket in buckets:
        needed = -(-len(bucket.items) // multiple) * multiple
        bucket = dataclasses.replace(bucket, rows=min(bucket.rows, needed))
        count = -(-len(bucket.items) // bucket.rows) * bucket.rows
        items = np.full(count, -1)
        items[: len(bucket.items)] = bucket.items
        for rows in items.reshape(-1, bucket.rows):
            specs.append(BatchSpec(bucket.samples, rows, len(specs), bucket))
    return specs


class Groups(Sequence[np.ndarray]):
    """Arrays of row indices, one after the other in one array: a million of them are cheap."""

    def __init__(self, rows: np.ndarray, ends: np.ndarray):
        self.rows, self.ends = rows, ends  # group i is rows[ends[i - 1] : ends[i]]

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> np.ndarray:
        i = range(len(self))[i]
        return self.rows[self.ends[i - 1] if i else 0 : self.ends[i]]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """int64 [groups], the sum of `values` over the rows of each group."""
        return np.diff(np.cumsum(values[self.rows])[self.ends - 1], prepend=0)


def concatenation(samples: np.ndarray, speakers: np.ndarray, target: int, *, seed: int) -> Groups:
    """Groups short utterances of one speaker, in random order, until each group has `target`
    samples; the rest of a speaker is a shorter group.

    samples: int64 [n]; speakers: integers [n]. The groups come in the order in which the random
    walk through all rows fills them, the rests at the end by speaker.
    """
    order = np.random.default_rng([seed, 2]).permutation(len(samples))
    by_speaker = np.argsort(speakers[order], kind="stable")  # places in `order`
    rows = order[by_speaker]
    heard = np.cumsum(samples[rows])
    changes = np.flatnonzero(np.diff(speakers[rows])) + 1
    # A group that starts at row i ends before row full[i], unless its speaker ends earlier.
    full = np.searchsorted(heard, heard - samples[rows] + target) + 1
    ends, rests = [], []
    for first, last in itertools.pairwise([0, *changes.tolist(), len(rows)]):
        reach = full[first:last].tolist()
        place = first
        while place < last:
            end = reach[place - first]
            rests.append(end > last)
            place = min(end, last)
            ends.append(place)
    ends, rests = np.array(ends, np.int64), np.array(rests, bool)
    filled_at = np.where(rests, len(rows) + np.arange(len(ends)), by_speaker[ends - 1])
    turn = np.argsort(filled_at)
    sizes = np.diff(ends, prepend=0)
    inside = np.repeat(ends[turn] - sizes[turn].cumsum(), sizes[turn]) + np.arange(len(rows))
    return Groups(rows[inside], sizes[turn].cumsum())
