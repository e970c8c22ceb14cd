import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import soundfile

from tests import small
from tests.decoding.test_rescoring import WORDS, exported
from w2v_jax import benchmark
from w2v_jax.audio import mel_statistics
from w2v_jax.audio.logmel import GOOGLE
from w2v_jax.benchmark import benchmark_data, benchmark_decode
from w2v_jax.configs import conformer
from w2v_jax.data.audio_files import Files
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.loader import Loader
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchPlan, crop_buckets
from w2v_jax.decoding.ngram import estimate, write_arpa
from w2v_jax.errors import UserError
from w2v_jax.interop.exported import expected_shapes
from w2v_jax.measuring import recognition as timing
from w2v_jax.measuring import speech
from w2v_jax.measuring.recognition import Timing, timed
from w2v_jax.measuring.throughput import rates, stages
from w2v_jax.training.checkpoint import export_model
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
    monkeypatch.setattr(speech, "MINUTES", 1)
    sources = speech.make_corpora(tmp_path)
    assert set(sources) == {"flac", "wav", "opus", "pcm shards", "flac shards"}
    flac, _ = soundfile.read(tmp_path / "flac" / "1.flac", dtype="int16")
    wav, _ = soundfile.read(tmp_path / "wav" / "1.wav", dtype="int16")
    assert np.array_equal(flac, wav)
    assert len(flac) == 14 * 16_000
    assert np.abs(flac.astype(int)).max() > 1000


def export_ctc(folder, alphabet) -> str:
    """A model whose weights are noise."""
    model = small.encoder().to_dict()
    described = {"kind": "ctc", "model": model, "alphabet": alphabet.to_dict()}
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), expected_shapes(described)
    )
    export_model(folder, variables, described)
    return str(folder)


def test_every_part_of_recognition_is_timed(manifests, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "PASSES", 1)
    checkpoint = export_ctc(tmp_path / "ctc", WORDS.alphabet)
    variables, described = exported(WORDS)
    export_model(tmp_path / "lm", nn.meta.unbox(variables), described | {"tokens": len(WORDS)})
    arpa = str(tmp_path / "lm.arpa")
    write_arpa(estimate([["ab", "cd"], ["ab"], ["cad"]], 2), arpa)
    config = small.finetuning(num_layers=1)
    config.letters = "xyz"
    timings = benchmark_decode(
        manifests["test"], checkpoint, config, lm=arpa, transformer_lm=str(tmp_path / "lm"),
        beams=[20, 2], minutes=0.02,
    )  # fmt: skip
    acoustic, greedy, narrow, wide, transformer = timings
    assert "beam 2 " in narrow.part
    assert 0 < greedy.factor < acoustic.factor
    assert "beam 20 " in wide.part
    assert int(transformer.part.split()[1]) > 2, "the texts are those of the widest beam"
    printed = capsys.readouterr().out
    assert "random weights" in printed
    assert f"what follows: {checkpoint}" in printed
    numbers = json.loads(printed.splitlines()[-1])
    assert [part["factor"] for part in numbers["parts"]] == [x.factor for x in timings]
    assert 1.2 <= numbers["seconds"] < 10


def test_random_weights_of_a_model_with_statistics(tmp_path):
    path = tmp_path / "stats.json"
    mel_statistics.write(mel_statistics.MelStatistics(GOOGLE, 2, (1.0,) * 80, (2.0,) * 80), path)
    config = small.shrunk(conformer.get_config("tiny"), {"num_layers": 1})
    config.model.frontend.update(normalization="global", statistics=str(path))
    recognizer, _ = benchmark._random(config)
    assert recognizer.config.frontend.mean == (1.0,) * 80


def test_no_search_without_letters_to_search(config):
    with pytest.raises(UserError, match="set --checkpoint"):
        benchmark_decode(config.data.train, "", config, lm="lm.arpa")


def test_a_part_is_the_median_of_its_passes_without_the_first(monkeypatch):
    now, calls = [0.0], []

    def work(item):
        calls.append(item)
        now[0] += {1: 1000.0, 3: 3.0, 5: 1.0, 7: 2.0}.get(len(calls), 1.0)
        return 2 * item

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    measured, results = timed("doubling", work, [10, 20], 8.0)
    assert results == [20, 40]
    assert measured == Timing("doubling", 3.0 / 8.0, 3)
