"""Training on several corpora from files and shards, mixed and augmented, with a worker process."""

import numpy as np
import pytest

from tests import small
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import sequential
from w2v_jax.data.shards import write_shards
from w2v_jax.errors import UserError
from w2v_jax.run import run
from w2v_jax.tasks import make_task
from w2v_jax.training.settings import settings_of
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.writer import read_lines


@pytest.fixture
def config(manifests, tmp_path):
    write_shards(Manifest.read(manifests["dev"]), tmp_path / "dev-shards", processes=1)
    config = small.pretraining()
    config.data.update(
        train=f"{manifests['test']},{tmp_path}/dev-shards", mix="weights", mix_weights=(1.0, 3.0),
        crop_seconds=(1.0,),
    )  # fmt: skip
    config.run.update(workers=1)  # fmt: skip
    config.data.augment.update(speed_prob=0.5, noise_prob=0.5, noise_manifest=manifests["dev"])
    config.num_steps = 2
    config.run.update(log_steps=1, save_steps=2)
    config.run.mesh.data = 1
    config.run.mesh.fsdp = 8
    return config


def test_training_reads_all_of_it(config, tmp_path, capsys):
    run(config, str(tmp_path / "run"))
    out = capsys.readouterr().out
    assert "mix: dev-shards 75.0% of the audio" in out
    assert "wait " in out
    lines = list(read_lines(tmp_path / "run" / "metrics.jsonl"))
    for line in lines:
        assert 0 <= line["time/loader_wait_share"] <= 1
        assert line["data/unreadable"] == 0
        assert np.isfinite(line["train/contrastive_bits"])
    # what decides the data is part of the run's settings, who reads it is not
    settings = settings_of(config)
    config.run.workers = 0
    assert settings_of(config) == settings
    config.data.mix_weights = (1.0, 1.0)
    with pytest.raises(UserError, match="mix_weights"):
        run(config, str(tmp_path / "run"))


def test_transcripts_of_joined_utterances(manifests):
    config = small.finetuning()
    config.data.update(concatenate_seconds=4.0, max_seconds=30.0, row_multiple=8)
    task = make_task(config)
    mesh = make_mesh(config.run.mesh)
    data = task.open(manifests["dev"], mesh)
    texts = Manifest.read(manifests["dev"]).texts
    corpus = data.loader.corpus
    assert len(corpus) > 1.5 * len(texts)
    heard = 0
    for spec in sequential(data.buckets, 8):
        batch = data.loader(spec)
        for item, length, labels in zip(
            *(batch[name].reshape(-1, *batch[name].shape[2:])
              for name in ("id", "labels_length", "labels")), strict=True,
        ):  # fmt: skip
            if item >= 0:
                expected = " ".join(texts[row] for row in corpus.groups[item])
                assert task.alphabet.decode(labels[:length]) == task.alphabet.normalize(expected)
                heard += 1
    assert heard == len(corpus)
    assert task.open(manifests["dev"], mesh, held_out=True).loader.corpus.groups is None
