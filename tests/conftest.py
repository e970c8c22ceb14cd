"""Every test sees 8 CPU devices and a compilation cache that outlives the run."""

import gc
import os
from pathlib import Path

from tests.xla import FLAGS

ROOT = Path(__file__).parent.parent
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FLAGS}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
# by the environment: commands that run in a test's process set what is not there, for all after it
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import pytest  # noqa: E402

# traces are all small objects, a tenth of their time goes to finding those that are left; old ones
# must go as well, or a process of tests grows to 7 GB
gc.set_threshold(50_000, 20, 10)


@pytest.fixture(scope="session")
def manifests(tmp_path_factory):
    """Manifests of the speech in the repository: {"train", "dev", "test"} -> path."""
    from w2v_jax.corpora.preparation import prepare

    folder = tmp_path_factory.mktemp("manifests")
    paths = {}
    for split in ("train", "dev", "test"):
        paths[split] = str(folder / f"{split}.tsv")
        prepare([str(ROOT / "w2v_jax" / "samples" / f"{split}-clean")], paths[split], decode=False)
    return paths


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder of a small CTC model with random weights, as `export` writes it."""
    import flax.linen as nn
    import jax.numpy as jnp

    from tests import small
    from w2v_jax.models.catalogue import rates
    from w2v_jax.models.heads.ctc import CTCModel
    from w2v_jax.text.alphabet import Alphabet
    from w2v_jax.training.checkpoint import export_model

    config = small.encoder()
    audio = jnp.zeros((1, 16000), jnp.int16)
    variables = nn.meta.unbox(jax.jit(CTCModel(config, 32).init)(jax.random.key(0), audio))
    folder = tmp_path_factory.mktemp("export")
    settings = {"kind": "ctc", "model": config.to_dict()}
    alphabet = {"alphabet": Alphabet.english().to_dict()}
    export_model(folder, variables, settings | alphabet | rates(settings))
    return str(folder)


@pytest.fixture(scope="session")
def arpa(tmp_path_factory):
    """The file of a bigram model of a few words."""
    from tests.decoding.test_beam import LM
    from w2v_jax.decoding.ngram import write_arpa

    path = str(tmp_path_factory.mktemp("lm") / "lm.arpa")
    write_arpa(LM, path)
    return path


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The name of a folder of an empty bucket, kept in memory."""
    import fsspec

    from tests.bucket import Bucket
    from w2v_jax.audio import files

    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Bucket, clobber=True)
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    Bucket.failures = 0
    monkeypatch.setattr(files, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setenv("W2V_JAX_CACHE", str(tmp_path / "cache"))
    return "gs://bucket/corpus"
