"""Changes to a waveform: speed, pitch, reverberation, noise, gain, bands and pieces that are lost.
What is random is drawn outside.

Waveforms are float32 [n] in units of 16-bit PCM, at 16 kHz; `to_int16` rounds and clips the result
once. No function changes its arguments.
"""

import numpy as np
import scipy.fft
import soxr

from w2v_jax.audio.waveform import SAMPLE_RATE

_FRAME = 512  # samples, 32 ms
_HOP = _FRAME // 2
_EDGE = 50  # Hz
_SEARCH = 160  # samples to either side: together one period of a voice of 50 Hz


def change_speed(audio: np.ndarray, factor: float) -> np.ndarray:
    """The waveform `factor` times as fast, pitch included; float32 [round(n / factor)]
    (speed perturbation, Ko et al. 2015)."""
    count = round(len(audio) / factor)
    out = soxr.resample(audio.astype(np.float32), SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")
    return np.pad(out[:count], (0, max(count - len(out), 0)))


def shift_pitch(audio: np.ndarray, semitones: float) -> np.ndarray:
    """The waveform with every frequency multiplied by 2**(semitones / 12), as long as before.

    WSOLA makes it longer by that factor at the same pitch, resampling makes it as much shorter.
    """
    factor = 2 ** (semitones / 12)
    out = change_speed(_stretch(audio.astype(np.float32), factor), factor)[: len(audio)]
    return np.pad(out, (0, len(audio) - len(out)))


def _stretch(audio: np.ndarray, factor: float) -> np.ndarray:
    """The waveform `factor` times as long at the same pitch (WSOLA, Verhelst and Roelands 1993).

    Overlapping frames of the source are added up at another distance. Each is taken from up to
    _SEARCH samples beside its place: from where it resembles most what followed the frame before.
    """
    count = round(len(audio) * factor)
    frames = -(-count // _HOP) + 1
    source = np.pad(audio, (_HOP + _SEARCH, _FRAME + _HOP + 2 * _SEARCH))
    places = np.rint(np.arange(frames) * _HOP / factor).astype(int).tolist()
    energy = np.cumsum(np.square(source, dtype=np.float64))
    chosen = [_SEARCH]
    for place in places[1:]:
        expected = source[chosen[-1] + _HOP : chosen[-1] + _HOP + _FRAME]
        region = source[place : place + 2 * _SEARCH + _FRAME]
        loud = energy[place + _FRAME : place + _FRAME + 2 * _SEARCH + 1]
        loud = loud - energy[place : place + 2 * _SEARCH + 1]
        likeness = np.correlate(region, expected, "valid") / np.sqrt(loud + 1)
        chosen.append(place + int(likeness.argmax()))
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)  # two of them add up to 1
    parts = source[np.array(chosen)[:, None] + np.arange(_FRAME)] * window
    out = np.zeros((frames + 1, _HOP), np.float32)
    out[:-1] = parts[:, :_HOP]
    out[1:] += parts[:, _HOP:]
    return out.ravel()[_HOP:][:count]


def reverberate(audio: np.ndarray, impulse: np.ndarray) -> np.ndarray:
    """The waveform as heard through an impulse response, at the same level.

    The strongest sample of the response is taken for the direct sound and stays in its place, so
    that transcripts and frames keep their time. A silent response changes nothing.
    """
    impulse = impulse.astype(np.float32)
    direct = int(np.abs(impulse).argmax())
    size = scipy.fft.next_fast_len(len(audio) + len(impulse) - 1, real=True)
    audio = audio.astype(np.float32)
    spectrum = scipy.fft.rfft(audio, size) * scipy.fft.rfft(impulse, size)
    out = scipy.fft.irfft(spectrum, size)[direct:][: len(audio)]
    level = rms(out)
    return out * np.float32(rms(audio) / level) if level > 0 else audio


def add_noise(audio: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """The waveform plus `noise` [n], scaled to be `snr_db` below it over the whole length.

    Where either is silent there is no such level: the waveform comes back unchanged.
    """
    signal, level = rms(audio), rms(noise)
    if signal == 0 or level == 0:
        return audio.astype(np.float32)
    return audio + noise.astype(np.float32) * np.float32(signal / level * 10 ** (-snr_db / 20))


def change_gain(audio: np.ndarray, gain_db: float) -> np.ndarray:
    """The waveform `gain_db` louder, but no louder than 16 bits hold."""
    loudest = float(np.abs(audio.astype(np.float32)).max(initial=0))
    factor = 10 ** (gain_db / 20)
    if factor > 1:
        factor = max(min(factor, 32767 / max(loudest, 1)), 1)
    return audio * np.float32(factor)


def reject_band(audio: np.ndarray, low: float, high: float) -> np.ndarray:
    """The waveform without its frequencies from `low` to `high` Hz; over _EDGE Hz on either side
    they come back along a cosine, so that it does not ring."""
    size = scipy.fft.next_fast_len(max(len(audio), 1), real=True)
    spectrum = scipy.fft.rfft(audio.astype(np.float32), size)
    frequency = np.arange(len(spectrum)) * (SAMPLE_RATE / size)
    outside = np.maximum(low - frequency, frequency - high)
    gain = 0.5 - 0.5 * np.cos(np.pi * np.clip(outside / _EDGE, 0, 1))
    return scipy.fft.irfft(spectrum * gain.astype(np.float32), size)[: len(audio)]


def silence(audio: np.ndarray, start: int, count: int) -> np.ndarray:
    """The waveform with `count` samples from `start` on set to 0."""
    out = audio.astype(np.float32)
    out[start : start + count] = 0
    return out


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0


def to_int16(audio: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(audio), -32768, 32767).astype(np.int16)
