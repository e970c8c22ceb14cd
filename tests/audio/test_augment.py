import numpy as np
import pytest

from w2v_jax.audio.augment import (
    add_noise,
    change_gain,
    change_speed,
    reject_band,
    reverberate,
    rms,
    shift_pitch,
    silence,
    to_int16,
)
from w2v_jax.audio.waveform import SAMPLE_RATE

RNG = np.random.default_rng(0)


def tone(frequency: float, seconds: float = 2.0) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (8000 * np.sin(2 * np.pi * frequency * time)).astype(np.int16)


def loudest_frequency(audio: np.ndarray) -> float:
    """Hz, to a hundredth of a Fourier bin, from the middle of the waveform."""
    part = audio[len(audio) // 4 : -len(audio) // 4]
    size = 16 * len(part)
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), size))
    return spectrum.argmax() * SAMPLE_RATE / size


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.83])
def test_speed_moves_length_and_pitch(factor):
    audio = tone(440)
    out = change_speed(audio, factor)
    assert len(out) == round(len(audio) / factor)
    assert loudest_frequency(out) == pytest.approx(440 * factor, rel=1e-3)
    assert rms(out) == pytest.approx(rms(audio), rel=0.02)


@pytest.mark.parametrize("semitones", [-7, -3, 0, 0.5, 4, 12])
@pytest.mark.parametrize("frequency", [110, 1000])
def test_pitch_moves_frequency_but_not_length(semitones, frequency):
    audio = tone(frequency)
    out = shift_pitch(audio, semitones)
    assert len(out) == len(audio)
    assert loudest_frequency(out) == pytest.approx(frequency * 2 ** (semitones / 12), rel=2e-3)
    middle = slice(len(audio) // 4, -len(audio) // 4)
    assert rms(out[middle]) == pytest.approx(rms(audio[middle]), rel=0.1)


def test_pitch_keeps_the_time_of_events():
    audio = np.zeros(32_000, np.int16)
    audio[16_000:20_000] = (RNG.normal(size=4000) * 5000).astype(np.int16)
    for semitones in (-4, 4):
        out = np.abs(shift_pitch(audio, semitones))
        loud = np.flatnonzero(out > 2000)
        assert abs(loud[0] - 16_000) < 1000
        assert abs(loud[-1] - 20_000) < 1000


@pytest.mark.parametrize("length", [1, 100, 1024, 5000])
def test_short_waveforms(length):
    audio = (RNG.normal(size=length) * 1000).astype(np.int16)
    for out in (shift_pitch(audio, 3), reverberate(audio, audio), add_noise(audio, audio, 5)):
        assert out.shape == (length,)
        assert np.isfinite(out).all()
    assert len(change_speed(audio, 1.1)) == round(length / 1.1)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5, 30.0])
def test_noise_has_the_level_asked_for(snr):
    audio, noise = tone(300) // 4, (RNG.normal(size=32_000) * 77).astype(np.int16)
    heard = to_int16(add_noise(audio, noise, snr)).astype(np.float64) - audio
    assert 20 * np.log10(rms(audio) / rms(heard)) == pytest.approx(snr, abs=0.1)
    assert np.corrcoef(heard, noise)[0, 1] > 0.99
    nothing = np.zeros_like(audio)
    assert np.array_equal(add_noise(audio, nothing, snr), audio)
    assert np.array_equal(add_noise(nothing, noise, snr), nothing)


def test_reverberation_is_the_convolution_with_the_direct_sound_in_place():
    audio = (RNG.normal(size=8000) * 2000).astype(np.int16)
    impulse = np.zeros(3000, np.int16)
    impulse[40], impulse[1040], impulse[2900] = 20_000, 9000, -4000
    expected = np.convolve(audio.astype(float), impulse.astype(float))[40:8040]
    expected *= rms(audio) / rms(expected)
    np.testing.assert_allclose(reverberate(audio, impulse), expected, atol=1)
    only_direct = np.eye(1, 500, 123)[0] * 30_000
    np.testing.assert_allclose(reverberate(audio, only_direct), audio, atol=0.5)
    assert np.array_equal(reverberate(audio, np.zeros(10, np.int16)), audio)


def test_a_band_is_lost_and_nothing_else():
    low, high = tone(440), tone(2000)
    heard = reject_band(low + high, 1800, 2200)
    middle = slice(4000, -4000)
    assert np.abs(heard - low)[middle].max() < 20
    np.testing.assert_allclose(reject_band(low, 1800, 2200)[middle], low[middle], atol=20)
    assert reject_band(low[:0], 1800, 2200).shape == (0,)


def test_a_piece_is_silenced():
    audio = tone(300)
    out = silence(audio, 100, 50)
    assert not out[100:150].any()
    assert np.array_equal(np.delete(out, slice(100, 150)), np.delete(audio, slice(100, 150)))
    assert audio[100:150].any()


def test_gain_is_exact_and_does_not_clip():
    audio = tone(200)
    for gain in (-12, 6):
        change = 20 * np.log10(rms(change_gain(audio, gain)) / rms(audio))
        assert change == pytest.approx(gain, abs=0.01)
    louder = change_gain(audio, 40)
    assert np.abs(louder).max() == pytest.approx(32767, abs=1)
    full = np.full(100, -32768, np.int16)
    assert np.array_equal(to_int16(change_gain(full, 20)), full)
