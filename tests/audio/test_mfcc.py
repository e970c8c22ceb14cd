"""MFCC and the mel of layer-wise analyses, against values of the reference implementations."""

import numpy as np
import pytest

from tests.audio.test_mel_spectra import chirp
from w2v_jax.audio import layerwise_mel as layerwise
from w2v_jax.audio.layerwise_mel import layerwise_mel
from w2v_jax.audio.mfcc import deltas, mfcc
from w2v_jax.errors import UserError

# of row 0; fairseq's dump_mfcc_feature.py, torchaudio
CEPSTRA = [
    -46.1488, 28.1973, 16.3030, 139.9804, -16.9202, -60.2901, 88.9308, -58.0012, -82.8365, 39.5247,
    -53.1557, -71.5703, 22.2924,
]  # fmt: skip


def test_mfcc():
    x = mfcc(chirp())
    assert x.shape == (98, 39)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[0, :13], CEPSTRA, atol=0.02)
    np.testing.assert_allclose(x[0, 13:17], [0.0234, 0.2745, 0.6176, -0.2607], atol=0.02)
    np.testing.assert_allclose(x[0, 24:27], [0.0272, 1.0372, 0.0694], atol=0.02)
    np.testing.assert_allclose(x[50, :5], [-41.243, 12.4314, -94.4747, -12.112, -63.813], atol=0.02)
    np.testing.assert_allclose(x.sum(dtype=np.float64), -7064.37, atol=0.5)
    np.testing.assert_allclose(
        x.mean(0)[:5], [-42.391, 13.001, -71.419, 40.690, -39.803], atol=0.01
    )


def test_mfcc_of_other_amplitudes():
    """Not those of int16: they move the first of them, and with the floor the others."""
    x = mfcc(chirp() * 32768)
    np.testing.assert_allclose(x[0, :3], [51.5191, 35.4905, 5.4612], atol=0.02)
    pcm = np.round(chirp() * 32768).astype(np.int16)
    np.testing.assert_allclose(mfcc(pcm)[:, :13], mfcc(pcm / 32768)[:, :13], atol=1e-4)
    silence = mfcc(np.zeros(1000, np.int16))
    np.testing.assert_allclose(silence[:, 0], -76.457, atol=1e-3)
    np.testing.assert_allclose(silence[:, 1:], 0, atol=1e-4)
    with pytest.raises(UserError, match="399 samples is shorter than a frame"):
        mfcc(np.zeros(399, np.int16))


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_deltas_are_slopes(frames):
    """Of a line through five frames, by least squares; beyond the ends stand the first and last."""
    x = np.random.default_rng(0).normal(size=(frames, 3)).astype(np.float32)
    for t, row in enumerate(deltas(x)):
        around = x[np.clip(np.arange(t - 2, t + 3), 0, frames - 1)]
        np.testing.assert_allclose(row, np.polyfit(range(5), around, 1)[0], atol=1e-6)
    assert deltas(x[:0]).shape == (0, 3)


def slow_mel(x):
    """librosa's melspectrogram(power=1) and amplitude_to_db frame by frame, with a Fourier sum."""
    x = x.astype(float) / np.abs(x).max() * 0.999
    y = [x[t] - 0.97 * (x[t - 1] if t else 0.0) for t in range(len(x))]
    hertz = np.arange(1025) * 16_000 / 2048

    def mel(f):
        return f / (200 / 3) if f < 1000 else 15 + np.log(f / 1000) / (np.log(6.4) / 27)

    def back(m):
        return m * 200 / 3 if m < 15 else 1000 * np.exp(np.log(6.4) / 27 * (m - 15))

    low, high = mel(50.0), mel(8000.0)
    corners = [back(low + (high - low) * i / 81) for i in range(82)]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    turns = np.exp(-2j * np.pi * np.arange(1025)[:, None] * np.arange(400)[None] / 2048)
    rows = []
    for t in range(len(x) // 160 + 1):
        frame = [y[k] if 0 <= k < len(y) else 0.0 for k in range(160 * t - 200, 160 * t + 200)]
        magnitude = np.abs(turns @ (hann * frame))
        row = []
        for a, b, c in zip(corners, corners[1:], corners[2:], strict=False):
            weight = np.maximum(0, np.minimum((hertz - a) / (b - a), (c - hertz) / (c - b)))
            row.append(2 / (c - a) * float(weight @ magnitude))
        rows.append(row)
    decibels = 10 * np.log10(np.maximum(1e-10, np.square(rows)))
    return np.maximum(decibels, decibels.max() - 80) / 80 + 1


def test_the_mel_of_layerwise_analyses():
    """The first values are librosa 0.11's, by codes/prepare/extract_fbank.py of the analyses."""
    x = layerwise_mel(chirp())
    assert x.shape == (101, 80)
    first = [0.71991531, 0.79324006, 0.86531813, 0.90113741, 0.89694925]
    np.testing.assert_allclose(x[0, :5], first, atol=1e-5)
    last = [0.74933978, 0.74889545, 0.74874517, 0.74992874, 0.75031947]
    np.testing.assert_allclose(x[-1, :5], last, atol=1e-5)
    np.testing.assert_allclose([x.min(), x.max()], [0.17939448, 1.17939448], atol=1e-5)
    np.testing.assert_allclose(x.sum(dtype=np.float64), 2538.943048612481, atol=1e-2)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 1000])
def test_the_mel_of_short_audio(samples):
    """Against a slow twin, whatever is left at the end."""
    x = (np.random.default_rng(samples).normal(size=samples) * 0.1).astype(np.float32)
    found = layerwise_mel(x)
    assert len(found) == layerwise.frames(samples) == samples // 160 + 1
    np.testing.assert_allclose(found, slow_mel(x), atol=1e-5)


def test_the_mel_of_silence():
    found = layerwise_mel(np.zeros(1000, np.int16))
    assert found.shape == (7, 80)
    np.testing.assert_array_equal(found, np.float32(-100 / 80 + 1))
    assert layerwise.frames(np.array([0, 1])).tolist() == [0, 1]
