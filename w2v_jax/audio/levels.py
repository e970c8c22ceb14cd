"""Samples as we keep them: int16, of files whose values and lengths are sound."""

import os

import numpy as np

from w2v_jax.errors import AudioError

SAMPLE_RATE = 16_000

_LOUDEST = 16.0  # a float file beyond this is not scaled to -1..1


def resampled_length(frames: int, rate: int) -> int:
    """Returns how many 16 kHz samples `frames` at `rate` Hz are (rounded, halves upwards)."""
    return (2 * frames * SAMPLE_RATE + rate) // (2 * rate)


def quantized(audio: np.ndarray) -> np.ndarray:
    """Values in -1..1 as int16, rounded and clipped."""
    return np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


def check_levels(path: str | os.PathLike, block: np.ndarray) -> None:
    """Raises AudioError for values that are no samples of -1..1."""
    loudest = max(block.max(), -block.min())
    if not np.isfinite(loudest):
        raise AudioError(f"{path}: has NaN or infinite samples")
    if loudest > _LOUDEST:
        raise AudioError(f"{path}: its samples reach {loudest:g}, they must lie in -1..1")
