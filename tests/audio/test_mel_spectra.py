"""Log-mel spectra of one recording, against values that the reference implementations gave."""

import dataclasses

import numpy as np
import pytest
import scipy.fft

from w2v_jax.audio.logmel import (
    GOOGLE,
    KALDI,
    PRESETS,
    SEAMLESS,
    WHISPER,
    filterbank,
    log_mel,
    slaney_hertz,
    slaney_scale,
    window_of,
)
from w2v_jax.errors import UserError

WHISPER_128 = dataclasses.replace(WHISPER, mels=128)


def chirp(samples: int = 16_000) -> np.ndarray:
    """The input of all values below: float32 of +-1."""
    t = np.arange(samples) / 16_000
    sweep = 0.3 * np.sin(2 * np.pi * (200 * t + 900 * t**2))
    return (sweep + 0.1 * np.sin(2 * np.pi * 3000 * t)).astype(np.float32)


def window_of_30_seconds() -> np.ndarray:
    return np.pad(chirp(), (0, 464_000))


def test_seamless():
    """transformers' SeamlessM4TFeatureExtractor, before it normalises."""
    mel = log_mel(chirp(), SEAMLESS)
    assert mel.shape == (98, 80)
    np.testing.assert_allclose(mel[0, :5], [14.619, 12.7984, 14.1648, 15.6264, 17.2891], atol=1e-3)
    np.testing.assert_allclose(mel[50, :5], [4.1467, 5.0610, 4.3780, 4.3741, 5.0997], atol=2e-3)
    assert np.array_equal(log_mel(chirp(), KALDI), mel)


def test_kaldi_is_what_huberts_mfcc_begin_with():
    """fairseq's dump_mfcc_feature.py (torchaudio's compliance.kaldi.mfcc): 23 bins of amplitudes of
    +-1, an orthonormal cosine transform, a lifter of 22."""
    mel = log_mel(chirp(), dataclasses.replace(KALDI, mels=23, amplitude=1.0))
    n = np.arange(13)
    found = scipy.fft.dct(mel, norm="ortho")[:, :13] * (1 + 11 * np.sin(np.pi * n / 22))
    first = [-46.1488, 28.1973, 16.3030, 139.9804, -16.9202, -60.2901, 88.9308, -58.0012, -82.8365]
    np.testing.assert_allclose(found[0, :9], first, atol=0.02)
    np.testing.assert_allclose(
        found.mean(0)[:5], [-42.391, 13.001, -71.419, 40.690, -39.803], atol=0.01
    )


@pytest.mark.parametrize("mels", [80, 128])
def test_transformers_hear_the_same(mels):
    """Where it is installed; its feature extractors need no torch."""
    transformers = pytest.importorskip("transformers")
    audio = chirp(40_000)
    whisper = transformers.WhisperFeatureExtractor(feature_size=mels)
    expected = whisper(audio, sampling_rate=16_000, return_tensors="np").input_features[0].T
    padded = np.pad(audio, (0, 440_000))
    preset = dataclasses.replace(WHISPER, mels=mels)
    np.testing.assert_allclose(log_mel(padded, preset), expected, atol=1e-4)
    seamless = transformers.SeamlessM4TFeatureExtractor(feature_size=mels, num_mel_bins=mels)
    expected = seamless._extract_fbank_features(audio)
    preset = dataclasses.replace(SEAMLESS, mels=mels)
    np.testing.assert_allclose(log_mel(audio, preset), expected, atol=2e-3)


def test_kaldi_native_fbank_hears_the_same():
    """Where it is installed."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = 8000
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16_000, (chirp() * 32768).tolist())
    expected = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    found = log_mel(chirp(), KALDI)
    assert found.shape == expected.shape
    off = np.abs(found - expected)  # most in bins where a chirp has nothing: its float32
    assert off.mean() < 2e-3
    assert off.max() < 0.1


def test_torchaudio_hears_the_same():
    """Where it is installed."""
    torchaudio = pytest.importorskip("torchaudio")
    torch = pytest.importorskip("torch")
    kaldi = torchaudio.compliance.kaldi
    wave = torch.from_numpy(chirp() * 32768)[None]
    expected = kaldi.fbank(wave, num_mel_bins=80, high_freq=8000.0, dither=0.0)
    off = np.abs(log_mel(chirp(), KALDI) - expected.numpy())
    assert off.mean() < 2e-3
    assert off.max() < 0.1


@pytest.mark.parametrize(
    ("preset", "low", "high", "total"),
    [(WHISPER, -0.66041, 1.33959, -156_354.4), (WHISPER_128, -0.61134, 1.38866, -231_685.4)],
)
def test_whisper(preset, low, high, total):
    """openai/whisper's log_mel_spectrogram of its window of 30 s."""
    mel = log_mel(window_of_30_seconds(), preset)
    assert mel.shape == (3000, preset.mels)
    np.testing.assert_allclose([mel.min(), mel.max()], [low, high], atol=1e-5)
    np.testing.assert_allclose(mel.sum(dtype=np.float64), total, atol=0.1)
    if preset is WHISPER:
        first = [1.0610, 1.0853, 1.1606, 1.2419, 1.1487]
        np.testing.assert_allclose(mel[0, :5], first, atol=6e-5)


def test_google_of_a_tone():
    """Written out for one frame: the frame's own predecessor in the pre-emphasis, 1,024 points,
    magnitudes, triangles over HTK's mel scale."""
    x = np.round(chirp() * 32768).astype(np.int16)
    frame = x[1600:2001].astype(float)
    frame = (frame[1:] - 0.97 * frame[:-1]) * window_of("hann")
    magnitude = np.abs(np.fft.fft(frame, 1024))[:513]
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    corners = np.linspace(mel(125), mel(7600), 82)
    expected = []
    for left, top, right in zip(corners, corners[1:], corners[2:], strict=False):
        band = 0.0
        for k, value in enumerate(magnitude):
            place = mel(k * 16_000 / 1024)
            if left < place < right:
                up, down = (place - left) / (top - left), (right - place) / (right - top)
                band += value * min(up, down)
        expected.append(np.log(max(band, 1.0)))
    found = log_mel(x, GOOGLE)
    assert found.shape == (1 + (16_000 - 401) // 160, 80)
    np.testing.assert_allclose(found[10], expected, atol=1e-4)


def test_what_silence_gives():
    for preset in PRESETS.values():
        found = log_mel(np.zeros(4000, np.int16), preset)
        floor = -1.5 if preset is WHISPER else np.log(preset.floor)
        np.testing.assert_allclose(found, np.float32(floor), rtol=1e-6)


def test_filters():
    assert filterbank(SEAMLESS).shape == (257, 80)
    assert filterbank(SEAMLESS)[[0, 256]].max() == 0
    assert 0.9 < filterbank(SEAMLESS).max() <= 1
    areas = filterbank(WHISPER_128).sum(0) * 16_000 / 400  # wide ones are sampled finely enough
    np.testing.assert_allclose(areas[-20:], 1, rtol=0.05)
    hertz = np.linspace(0, 8000, 99)
    np.testing.assert_allclose(slaney_hertz(slaney_scale(hertz)), hertz, atol=1e-9)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_frames(preset):
    for samples in (*range(preset.shortest, preset.shortest + 400, 37), 8000, 8159, 8160):
        found = log_mel(np.ones(samples, np.int16), preset)
        assert len(found) == preset.frames(samples) > 0
    assert preset.frames(preset.shortest - 1) == 0
    assert preset.frames(np.array([0, preset.shortest])).tolist() == [0, 1]
    with pytest.raises(UserError, match=f"{preset.shortest - 1} samples is shorter than a frame"):
        log_mel(np.ones(preset.shortest - 1, np.int16), preset)


def test_the_digest_is_of_what_the_spectrum_is():
    digests = {preset.digest for preset in (*PRESETS.values(), WHISPER_128)}
    assert len(digests) == len(PRESETS)  # kaldi and seamless differ in how they are normalised
    assert SEAMLESS.digest == KALDI.digest == dataclasses.replace(KALDI, eps=1.0).digest
    assert dataclasses.replace(KALDI, low=21.0).digest != KALDI.digest
