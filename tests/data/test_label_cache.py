"""The walk through the cache, against one that remembers what it did."""

import numpy as np
import pytest

from w2v_jax.data.audio_files import Files
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.label_cache import (
    FRESH,
    PSEUDO,
    CacheLoader,
    CachePlan,
    row_width,
    shared_out,
    slot_width,
)
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, Bucket, pad_buckets
from w2v_jax.data.streams import stream_seed
from w2v_jax.errors import UserError

START, CACHE, RATIO, REPLACE = 5, 6, (2, 3), 0.3
SLOT = slot_width(64_000, 1, 8_000, 32_000)
TRANSCRIBED = [Bucket(16_000, 4, np.arange(40))]
UNLABELLED = [Bucket(16_000, 4, np.arange(60)), Bucket(32_000, 2, np.arange(60, 80))]


def plan(**changes) -> CachePlan:
    values = dict(start=START, cache=CACHE, ratio=RATIO, replace=REPLACE, slot=SLOT, seed=3)
    return CachePlan(TRANSCRIBED, UNLABELLED, num_steps=10**6, **values | changes)


def test_a_batch_of_the_cache_is_what_was_put_there_last():
    walk, held, turns, visits, replaced = plan(), {}, [], 0, 0
    transcribed = BatchPlan(TRANSCRIBED, seed=3, num_steps=1)
    unlabelled = BatchPlan(UNLABELLED, seed=stream_seed(3, 1), num_steps=1)
    taken = [0, 0]  # fresh batches of every bucket
    for step in range(400):
        parts = walk[step].parts
        if PSEUDO in parts:
            spec = parts[PSEUDO]
            assert spec.items.tolist() == held[spec.first], f"step {step}"
            visits += 1
        if FRESH in parts:
            spec = parts[FRESH]
            index = next(i for i, b in enumerate(UNLABELLED) if b.samples == spec.samples)
            expected = unlabelled.batch(index, taken[index], step)
            assert spec.items.tolist() == expected.items.tolist()
            taken[index] += 1
            if PSEUDO in parts:  # in the place of the batch that is heard
                assert spec.first == parts[PSEUDO].first
                replaced += 1
            held[spec.first] = spec.items.tolist()
        if "" in parts:
            assert parts.keys() == {""}
            assert parts[""].items.tolist() == transcribed[len(turns)].items.tolist()
            turns.append(step)
        assert spec.step == step if parts.keys() != {""} else True
    assert sorted(held) == [i * SLOT for i in range(CACHE)]
    assert replaced == pytest.approx(REPLACE * visits, rel=0.15)
    assert [list(walk[s].parts) for s in range(START + CACHE)] == [[""]] * START + [[FRESH]] * CACHE
    mixed = np.isin(np.arange(START + CACHE, 400), turns)[: 5 * 77].reshape(-1, 5)
    assert (mixed.sum(1) == RATIO[0]).all()
    assert len(np.unique(mixed, axis=0)) > 5  # in random order


def test_every_slot_has_its_turn_and_every_bucket_its_share():
    walk = plan(ratio=(1, 99), start=0)
    seen = [walk[step].parts[PSEUDO] for step in range(CACHE, 1006) if PSEUDO in walk[step].parts]
    slots, counts = np.unique([spec.first // SLOT for spec in seen], return_counts=True)
    assert len(slots) == CACHE
    long = [spec.samples == 32_000 for spec in seen]
    weights = [bucket.weight for bucket in UNLABELLED]
    assert np.mean(long) == pytest.approx(weights[1] / sum(weights), abs=0.01)
    of_long = counts[np.isin(slots, [s.first // SLOT for s in seen if s.samples == 32_000])]
    assert np.ptp(of_long) <= 1  # one more or less: a pass that has begun


def test_rows_stay_within_their_slot():
    for batch, multiple, shortest, longest in ((64_000, 1, 800, 32_000), (64_000, 8, 800, 40_000)):
        slot = slot_width(batch, multiple, shortest, longest)
        for samples in range(shortest, longest, 700):
            rows = max(batch // samples // multiple, 1) * multiple
            assert rows * row_width(samples) <= slot


def test_slots_are_shared_out():
    assert shared_out(10, [1, 1]) == [5, 5]
    assert shared_out(7, [0.5, 0.25, 0.25]) == [3, 2, 2]
    assert shared_out(5, [1000, 1, 1]) == [3, 1, 1]
    with pytest.raises(UserError, match=r"cache=1 slots .* the 2 lengths .*num_buckets"):
        plan(cache=1)


def test_a_row_has_its_place_whoever_reads_it(manifests):
    """Micro-batches, and processes that read a part each."""
    corpus = Corpus(Files(Manifest.read(manifests["dev"])))
    size = int(corpus.lengths.max())
    buckets = pad_buckets(corpus.lengths, [size], 4 * size, 4)
    slot = slot_width(4 * size, 4, size, size)
    values = dict(start=1, cache=3, ratio=(1, 1), replace=0.5, slot=slot, seed=0, num_steps=9)
    spec = CachePlan(TRANSCRIBED, buckets, **values)[2].parts[FRESH]
    whole, _ = CacheLoader(corpus, 0, crop=False).load(spec)
    assert whole["at"].tolist() == [[slot + row * row_width(size) for row in range(4)]]
    halves = [
        CacheLoader(corpus, 0, 2, crop=False, parts=(part,), of=2).load(spec)[0] for part in (0, 1)
    ]
    for name in ("at", "id", "audio"):
        both = np.concatenate([half[name] for half in halves], 1)
        np.testing.assert_array_equal(both.reshape(whole[name].shape), whole[name])
