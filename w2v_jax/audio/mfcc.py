"""MFCC with deltas, the features of HuBERT's first units (fairseq dump_mfcc_feature.py, that is
torchaudio's compliance.kaldi.mfcc and compute_deltas): Kaldi's of amplitudes of +-1."""

import dataclasses
import hashlib

import numpy as np
import scipy.fft

from w2v_jax.audio.logmel import KALDI, log_mel

PRESET = dataclasses.replace(KALDI, name="mfcc", mels=23, amplitude=1.0)
CEPSTRA, LIFTER = 13, 22  # C0 is one of them, no energy takes its place
LIFT = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)  # each cepstrum's
REACH = 2  # frames to either side that a delta is taken over
WIDTH = 3 * CEPSTRA


def cepstra(audio: np.ndarray) -> np.ndarray:
    """audio int16, or float of +-1, [n] -> float32 [T, 13]. Raises UserError for less than a
    frame, 400 samples."""
    transformed = scipy.fft.dct(log_mel(audio, PRESET), norm="ortho", axis=1)
    return (transformed[:, :CEPSTRA] * LIFT).astype(np.float32)


def deltas(x: np.ndarray) -> np.ndarray:
    """The slopes of x [T, C] over five frames, the first and last repeated beyond the ends."""
    if not len(x):
        return x
    padded = np.pad(x, ((REACH, REACH), (0, 0)), mode="edge")
    ahead = [padded[REACH + n : REACH + n + len(x)] for n in range(-REACH, REACH + 1)]
    weights = np.arange(-REACH, REACH + 1)
    slopes = sum(w * y for w, y in zip(weights, ahead, strict=True)) / np.square(weights).sum()
    return slopes.astype(np.float32)


def with_deltas(x: np.ndarray) -> np.ndarray:
    """Cepstra [T, 13], their deltas and the deltas of those: [T, 39]."""
    first = deltas(x)
    return np.concatenate([x, first, deltas(first)], axis=1)


def mfcc(audio: np.ndarray) -> np.ndarray:
    """audio int16, or float of +-1, [n] -> float32 [T, 39]; frame t is of the samples from 160 t
    to 160 t + 400. Raises UserError for less than a frame."""
    return with_deltas(cepstra(audio))


def digest() -> str:
    """Of the constants that the values depend on."""
    return hashlib.sha256(f"mfcc {PRESET.digest} {CEPSTRA} {LIFTER} {REACH}".encode()).hexdigest()
