"""Tokens of audio: those of NumPy's features, of every row by itself, frozen; and their file."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.audio import logmel
from w2v_jax.audio import mfcc as twin
from w2v_jax.audio.waveform import read
from w2v_jax.data.manifest import Manifest
from w2v_jax.models.frontends import WaveformConfig
from w2v_jax.models.frontends.mfcc import mfcc
from w2v_jax.models.frontends.units import UnitsConfig
from w2v_jax.models.random_quantizer import random_codes
from w2v_jax.models.settings import Execution

LENGTHS = (24_000, 15_900, 9_001)
TOKENIZERS = {
    "kmeans": UnitsConfig(classes=40, width=24),
    "random": UnitsConfig(tokenizer="random", classes=64, width=24),
}


@pytest.fixture(scope="module")
def speech(manifests):
    """Two seconds of it, int16."""
    manifest = Manifest.read(manifests["dev"])
    row = int(np.argmax(manifest.samples))
    return read(manifest.path(row), int(manifest.starts[row]), 32_000)


@pytest.fixture(scope="module")
def built(speech):
    """{tokenizer: (module, variables)}: the centroids are frames of the speech itself."""
    found = {}
    for name, config in TOKENIZERS.items():
        module = config.module(Execution(), False)
        variables = nn.meta.unbox(module.init(jax.random.key(0), speech[None], None))
        if name == "kmeans":
            variables["stats"]["centroids"] = jnp.asarray(twin.mfcc(speech)[::5][:40])
        found[name] = module, variables
    return found


def test_mfcc_of_devices_and_numpy_agree(speech):
    found = jax.jit(mfcc)(speech[None])[0]
    np.testing.assert_allclose(found, twin.mfcc(speech), atol=5e-3)  # C0 of a hundred


def test_mfcc_as_torchaudio_has_it():
    """Values of torchaudio's compliance.kaldi.mfcc and compute_deltas."""
    t = np.arange(16_000) / 16_000
    x = 0.3 * np.sin(2 * np.pi * (200 * t + 900 * t**2)) + 0.1 * np.sin(2 * np.pi * 3000 * t)
    found = np.asarray(mfcc(x.astype(np.float32)[None])[0])
    assert found.shape == (98, 39)
    for row, first, values in (
        (0, 0, [-46.1488, 28.1973, 16.3030, 139.9804, -16.9202]),
        (50, 0, [-41.243, 12.4314, -94.4747, -12.112, -63.813]),
        (0, 13, [0.0234, 0.2745, 0.6176, -0.2607]),
    ):
        np.testing.assert_allclose(found[row, first : first + len(values)], values, atol=2e-3)
    np.testing.assert_allclose(found.sum(), -7064.37, atol=0.1)


def test_mfcc_of_a_row_ends_with_it(speech):
    """As alone, whatever stands behind: the deltas repeat the row's own last frame."""
    rows = np.full((2, 27_000), 31_000, np.int16)
    for row, n in zip(rows, LENGTHS[1:], strict=True):
        row[:n] = speech[:n]
    found = jax.jit(mfcc)(rows, jnp.array(LENGTHS[1:]))
    for row, n in zip(found, LENGTHS[1:], strict=True):
        np.testing.assert_allclose(row[: twin.PRESET.frames(n)], twin.mfcc(speech[:n]), atol=5e-3)


def test_tokens_are_the_nearest_centroids(speech, built):
    """In NumPy, float64; where two are as near as rounding can tell either is right."""
    module, variables = built["kmeans"]
    found = module.apply(variables, speech[None], method="tokens")[0]
    centroids = np.asarray(variables["stats"]["centroids"], np.float64)
    distance = np.square(twin.mfcc(speech)[::2, None] - centroids).sum(-1)
    assert len(found) == len(distance) == 99
    chosen = distance[np.arange(99), np.asarray(found)]
    np.testing.assert_allclose(chosen, distance.min(1), atol=0.1)
    assert (np.asarray(found) == distance.argmin(1)).mean() > 0.97
    assert len(np.unique(found)) > 20


def test_random_tokens_are_those_of_the_normalised_spectrum(speech, built):
    module, variables = built["random"]
    found = module.apply(variables, speech[None], method="tokens")[0]
    mel = logmel.log_mel(speech, logmel.GOOGLE)
    mel = (mel - mel.mean(0)) / np.sqrt(mel.var(0) + 1e-5)
    frames = mel[: len(mel) // 2 * 2].reshape(1, -1, 160)
    drawn = variables["stats"]["quantizer"]
    expected = random_codes(frames, drawn["projection"], drawn["codebook"])[0, :, 0]
    assert len(found) == len(expected)
    assert (np.asarray(found) == np.asarray(expected)).mean() > 0.97
    assert len(np.unique(found)) > 10


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_row_has_its_own_tokens(tokenizer, speech, built):
    """Its padding, its length and its neighbours change none."""
    module, variables = built[tokenizer]
    config = TOKENIZERS[tokenizer]
    tokens = jax.jit(lambda x, n: module.apply(variables, x, n, method="tokens"))
    batch = np.full((3, 27_000), 31_000, np.int16)
    for row, n in zip(batch, LENGTHS, strict=True):
        row[:n] = speech[:n]
    found = np.asarray(tokens(batch, jnp.array(LENGTHS)))
    counts = config.valid_frames(jnp.array(LENGTHS), 27_000, found.shape[1])
    for row, n, count in zip(found, LENGTHS, counts, strict=True):
        alone = np.asarray(tokens(speech[None, :n], jnp.array([n])))[0]
        assert count == config.frames(n) == len(alone)
        np.testing.assert_array_equal(row[:count], alone)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_embedding_alone_is_learnt(tokenizer, speech, built):
    module, variables = built[tokenizer]
    assert list(variables["params"]) == ["embedding"]
    tokens = module.apply(variables, speech[None], method="tokens")

    def total(params):
        return module.apply(variables | {"params": params}, speech[None]).sum()

    gradient = jax.grad(total)(variables["params"])["embedding"]
    counts = np.bincount(np.asarray(tokens).ravel(), minlength=TOKENIZERS[tokenizer].classes)
    np.testing.assert_allclose(gradient, np.repeat(counts[:, None], 24, 1), atol=1e-4)


def test_frames_are_those_of_wav2vec():
    """Of kmeans one for one, at the same samples; a spectrum's pair needs 10 ms more."""
    samples = np.arange(300, 5000, 7)
    expected = WaveformConfig().frames(samples)
    np.testing.assert_array_equal(TOKENIZERS["kmeans"].frames(samples), expected)
    np.testing.assert_array_equal(TOKENIZERS["random"].frames(samples + 161), expected)
    for config in TOKENIZERS.values():
        assert config.frames(config.receptive_field) == 1
        assert config.frames(config.receptive_field - 1) == 0
        assert config.stride == 320
        flops = config.flops(16_000)
        assert set(flops) == {"spectrum", "tokens"}
        assert 1e6 < sum(flops.values()) < 2e7
