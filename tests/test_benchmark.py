import numpy as np
import pytest
import soundfile

from tests import small
from w2v_jax import benchmark
from w2v_jax.benchmark import benchmark_data, benchmark_decode
from w2v_jax.data.audio_files import Files
from w2v_jax.data.items import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, crop_buckets
from w2v_jax.data.throughput import rates, stages
from w2v_jax.training.sharding import batch_sharding, make_mesh


@pytest.fixture
def config(manifests):
    config = small.pretraining()
    config.data.update(train=manifests["dev"], batch_seconds=16.0, row_multiple=8)
    return config


def test_prints_a_line_per_source(config, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "WORKERS", (0,))
    config.data.augment.pitch_prob = 0.5
    (row,) = benchmark_data(config, 1.0)
    assert row["source"] == config.data.train
    assert all(row[stage] >= 0 for stage in ("decode", "crop", "augment", "transfer"))
    assert row["decode"] > row["crop"], "Opus is expensive to decode"
    assert row["augment"] > 0.1
    assert 10 < row["0 workers"] < 1e6
    assert config.data.train[-12:] in capsys.readouterr().out


def test_rates_and_stages_measure_the_same_work(manifests):
    """What a core delivers is what the stages cost, up to the overhead of threads."""
    corpus = Corpus(Files(Manifest.read(manifests["dev"])))
    plan = BatchPlan(crop_buckets(corpus.lengths, [16_000], 256_000, 8), seed=0, num_steps=10**6)
    sharding = batch_sharding(make_mesh({"data": -1}))
    loader = Loader(corpus, 0)
    costs = stages(plan, loader, sharding, 1.0)
    _, core = rates(plan, loader, sharding, 1.0, threads=1, workers=0)
    assert core == pytest.approx(1000 / sum(costs.values()), rel=0.7)


def test_makes_a_corpus_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "MINUTES", 1)
    sources = benchmark.make_corpora(tmp_path)
    assert set(sources) == {"flac", "wav", "opus", "pcm shards", "flac shards"}
    flac, _ = soundfile.read(tmp_path / "flac" / "1.flac", dtype="int16")
    wav, _ = soundfile.read(tmp_path / "wav" / "1.wav", dtype="int16")
    assert np.array_equal(flac, wav)
    assert len(flac) == 14 * 16_000
    assert np.abs(flac.astype(int)).max() > 1000
