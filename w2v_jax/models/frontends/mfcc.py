"""HuBERT's MFCC of batches on devices; of one recording in NumPy: audio/mfcc.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from w2v_jax.audio.mfcc import CEPSTRA, LIFT, PRESET, REACH
from w2v_jax.models.frontends.logmel import log_mel


@functools.cache
def cosines() -> np.ndarray:
    """From a log-mel spectrum to its liftered cepstra, float32 [mels, 13]."""
    transform = scipy.fft.dct(np.eye(PRESET.mels), norm="ortho", axis=1)[:, :CEPSTRA]
    return (transform * LIFT).astype(np.float32)


def deltas(x: jax.Array, frames: jax.Array | None) -> jax.Array:
    """The slopes of x [B, T, C] over five frames; the first and the last of each row's frames,
    int32 [B] or all, stand for those beyond."""
    rows, total, _ = x.shape
    last = total - 1 if frames is None else jnp.maximum(frames - 1, 0)[:, None]
    found = 0.0
    for n in range(-REACH, REACH + 1):
        place = jnp.broadcast_to((jnp.arange(total)[None] + n).clip(0, last), (rows, total))
        found += n * jnp.take_along_axis(x, place[:, :, None], axis=1)
    return found / (2 * sum(n * n for n in range(1, REACH + 1)))


def mfcc(audio: jax.Array, length: jax.Array | None = None) -> jax.Array:
    """Cepstra, their deltas and the deltas of those of every row by itself: audio int16, or float
    of +-1, [B, S]; length int32 [B] in samples or None -> float32 [B, PRESET.frames(S), 39]. What
    lies beyond a row's frames means nothing. Raises UserError where S is less than a frame."""
    mel = log_mel(audio, PRESET, length)
    frames = None if length is None else PRESET.frames(length)
    cepstra = jnp.matmul(mel, cosines(), precision=jax.lax.Precision.HIGHEST)
    first = deltas(cepstra, frames)
    return jnp.concatenate([cepstra, first, deltas(first, frames)], axis=-1)
