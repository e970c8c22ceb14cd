"""The mel spectrum that layer-wise analyses compare layers with (ankitapasad/layerwise-analysis,
codes/prepare/extract_fbank.py): librosa's, of a recording whose largest sample is 0.999."""

import hashlib
from collections.abc import Sequence

import numpy as np

from w2v_jax.audio.logmel import HOP, WINDOW, MelPreset, mel_energies

# of samples that are pre-emphasised already; frames stand around the multiples of the hop
PRESET = MelPreset("layerwise", amplitude=1.0, fft=2048, magnitude=True, slaney=True, low=50.0)
PREEMPHASIS = 0.97
PEAK, FLOOR, RANGE = 0.999, 1e-5, 80.0  # of the samples; of a magnitude; dB below the largest bin


def frames(samples):
    """Frames of `samples`, an int or array."""
    return (samples // HOP + 1) * (samples > 0)


def magnitudes(audio: Sequence, first: int, stop: int) -> tuple[np.ndarray, float]:
    """(of every band of the frames first..stop, float64 [stop - first, 80]; the largest sample that
    they see). audio: int16, or float of +-1, [n] or what can be sliced to such."""
    begin, end = HOP * first - WINDOW // 2, HOP * (stop - 1) + WINDOW // 2
    x = np.asarray(audio[max(begin - 1, 0) : max(end, 0)])
    x = x / (32768 if x.dtype == np.int16 else 1)
    before = x[:1] if begin > 0 else np.zeros(1)
    heard = x[1:] if begin > 0 else x
    y = heard - PREEMPHASIS * np.concatenate([before, heard[:-1]])
    silence = max(-begin, 0)
    y = np.pad(y, (silence, end - begin - silence - len(y)))  # zeros beyond the recording's ends
    return mel_energies(y, PRESET), float(np.abs(x).max(initial=0))


def decibels(found: np.ndarray, peak: float) -> np.ndarray:
    """Magnitudes [T, 80] of a whole recording whose largest sample is `peak` -> float32 [T, 80]:
    decibels, at most 80 below the largest bin, / 80 + 1."""
    scale = PEAK / peak if peak else 1.0
    x = 20 * np.log10(np.maximum(found * scale, FLOOR))
    return (np.maximum(x, x.max(initial=-np.inf) - RANGE) / RANGE + 1).astype(np.float32)


def layerwise_mel(audio: np.ndarray) -> np.ndarray:
    """audio int16, or float of +-1, [n] -> float32 [n // 160 + 1, 80]; frame t is of 400 samples
    around 160 t, zeros beyond the ends."""
    return decibels(*magnitudes(audio, 0, frames(len(audio))))


def digest() -> str:
    """Of the constants that the values depend on."""
    constants = f"mel {PRESET.digest} {PREEMPHASIS} {PEAK} {FLOOR} {RANGE}"
    return hashlib.sha256(constants.encode()).hexdigest()
