"""Prints how well the best guess does that knows where a frame stands, and nothing of what is said:
what the warp of time leaves of the shortcut that it is against.

    python -m tests.measure.warp_shortcut

It knows how often every warp is drawn (the values of configs/c_siam.py), and chooses by the density
of the frame's true place there.
"""

import jax
import jax.numpy as jnp
import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.configs import c_siam
from w2v_jax.objectives import time_warp
from w2v_jax.objectives.masking import span_mask, utterance_keys
from w2v_jax.tasks import make_task

WARPS, ROWS = 20_000, 300  # of which the density is made, that are scored


def best_guess(task, frames: int) -> tuple[float, float]:
    """(bits, accuracy) over the masked frames of crops of so many frames."""
    stride, negatives = task.encoder.frontend.stride, task.config.loss.negatives
    keys = utterance_keys(jax.random.key(5), jnp.arange(WARPS))
    warp = task.warp(keys, frames * stride)
    place = np.asarray(time_warp.source(warp, stride * jnp.arange(frames))) / stride
    left = np.asarray(time_warp.frames_left(warp, frames, stride))
    density = np.empty((frames, frames))  # of the places of every frame
    for t in range(frames):
        counts = np.histogram(place[left > t, t], bins=frames, range=(0, frames))[0] + 0.1
        density[t] = counts / counts.sum()
    masks = span_mask(keys[:ROWS], jnp.asarray(left[:ROWS]), frames, **task.masking)
    rng, bits, won = np.random.default_rng(0), [], []
    for row, mask in enumerate(np.asarray(masks)):
        masked = np.flatnonzero(mask)
        for t in masked:
            others = rng.choice(masked[masked != t], negatives)
            places = place[row, np.append(t, others)].astype(int).clip(0, frames - 1)
            found = density[t, places]
            bits.append(-np.log2(found[0] / found.sum()))
            won.append(found[0] >= found.max())
    return float(np.mean(bits)), float(np.mean(won))


def main() -> None:
    task = make_task(c_siam.get_config("quickstart"))
    chance = np.log2(1 + task.config.loss.negatives)
    for seconds in (4.0, 15.0):
        frames = task.encoder.frontend.frames(round(seconds * SAMPLE_RATE))
        bits, accuracy = best_guess(task, frames)
        print(f"{seconds:g} s: {bits:.2f} bits of {chance:.2f}, right {accuracy:.1%}", flush=True)


if __name__ == "__main__":
    main()
