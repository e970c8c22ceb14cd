"""Two streams as one: each the batches that it has alone, where its turn is."""

import pickle

import numpy as np
import pytest

from w2v_jax.data.audio_files import Files
from w2v_jax.data.batches import iterate
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, crop_buckets, pad_buckets
from w2v_jax.data.streams import StreamLoader, stream_seed
from w2v_jax.errors import UserError
from w2v_jax.tasks.task import Data
from w2v_jax.training.sharding import batch_sharding, make_mesh

RATIO = 0.3


@pytest.fixture
def corpora(manifests):
    return [Corpus(Files(Manifest.read(manifests[split]))) for split in ("train", "dev")]


def streams(corpora) -> tuple[Data, Data]:
    """Crops, and whole utterances."""
    crops, whole = corpora
    first = Data(crop_buckets(crops.lengths, [8_000, 16_000], 32_000, 2), Loader(crops, 3))
    size = int(whole.lengths.max())
    padded = pad_buckets(whole.lengths, [size], 2 * size, 2)
    return first, Data(padded, Loader(whole, 3, crop=False))


def test_every_batch_is_that_of_its_streams(corpora):
    first, other = streams(corpora)
    both = first.accompanied(other, "labelled_", RATIO)
    plan = both.plan(seed=7, num_steps=20)
    alone = first.plan(seed=7, num_steps=20)
    others = BatchPlan(other.buckets, seed=stream_seed(7, 1), num_steps=20)
    taken = 0
    for step in range(20):
        spec = plan[step]
        batch, problems = both.loader.load(spec)
        expected = first.loader(alone[step])
        seconds = first.loader.amount(alone[step])
        if "labelled_" in spec.parts:
            labelled = other.loader(others[taken])
            expected |= {f"labelled_{name}": x for name, x in labelled.items()}
            seconds += other.loader.amount(others[taken])
            taken += 1
        assert batch.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name], array, err_msg=f"{name} of step {step}")
        shapes = {name: (x.shape, np.dtype(x.dtype)) for name, x in batch.items()}
        declared = both.loader.arrays(spec.shape)
        assert shapes == {name: (shape, np.dtype(kind)) for name, (shape, kind) in declared.items()}
        assert both.loader.amount(spec) == pytest.approx(seconds)
        assert not problems
    assert 0 < taken < 20


@pytest.mark.parametrize("ratio", [RATIO, 0.9, 1.0])
def test_the_other_stream_has_its_share(corpora, ratio):
    first, other = streams(corpora)
    plan = first.accompanied(other, "labelled_", ratio).plan(seed=0, num_steps=1000)
    parts = [set(plan[step].parts) for step in range(1000)]
    assert all("" in part for part in parts)
    assert sum("labelled_" in part for part in parts) == round(1000 * ratio)
    assert [set(plan[step].parts) for step in (5, 3)] == [parts[5], parts[3]]  # of the step alone


def test_any_start_and_any_workers_give_the_same(corpora):
    first, other = streams(corpora)
    both = first.accompanied(other, "labelled_", 0.5)
    plan = both.plan(seed=1, num_steps=6)
    whole = [batch for batch, _ in iterate(plan, both.loader)]
    assert {len(batch) for batch in whole} == {3, 6}
    worker = pickle.loads(pickle.dumps(both.loader.for_workers(2)))
    late = list(iterate(pickle.loads(pickle.dumps(plan)), worker, start=2))
    for (batch, _), expected in zip(late, whole[2:], strict=True):
        assert batch.keys() == expected.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], expected[name])
    sharding = batch_sharding(make_mesh(dict(data=2, fsdp=1, tensor=4)))
    (batch, _), *_ = iterate(plan, both.loader, sharding=sharding)
    np.testing.assert_array_equal(batch["audio"], whole[0]["audio"])


def test_what_cannot_be_read_is_that_streams(corpora):
    first, other = streams(corpora)
    both = first.accompanied(other, "labelled_", 1.0)
    assert both.loader.metrics() == {"data/unreadable": 0.0, "data/labelled_unreadable": 0.0}
    assert both.loader.meta == {
        "training manifest": corpora[0].digest, "labelled training manifest": corpora[1].digest
    }  # fmt: skip
    problem = ("audio", 0, "no such file")
    both.loader.note([("labelled_", problem)])
    assert both.loader.metrics() == {"data/unreadable": 0.0, "data/labelled_unreadable": 1.0}
    with pytest.raises(UserError, match=f"of {len(corpora[1])} audio files cannot be read"):
        both.loader.note([("labelled_", ("audio", i, "gone")) for i in range(len(corpora[1]))])


def test_streams_share_the_memory_for_audio(corpora):
    crops = corpora[0].with_cache(900)
    one, two = Loader(crops, 3), Loader(corpora[1].with_cache(900), 3)
    loader = StreamLoader({"": one, "b_": two, "c_": two})
    room = lambda loader: [x.corpus.cache_bytes for x in loader.loaders.values()]  # noqa: E731
    assert room(loader) == [450] * 3
    assert loader.loaders["b_"] is loader.loaders["c_"]
    assert loader.metrics().keys() == {"data/unreadable", "data/b_unreadable"}
    assert room(loader.for_workers(2)) == [225] * 3
    assert room(pickle.loads(pickle.dumps(loader))) == [450] * 3
