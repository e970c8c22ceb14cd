"""What is counted of masked prediction besides its loss, and what is right without hearing."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from w2v_jax.objectives.masked_prediction import class_loss
from w2v_jax.objectives.random_quantizer import code_counts, mean_perplexity


class Score(NamedTuple):
    """Float32 sums over those frames of a batch that count, for one set of V classes."""

    loss: jax.Array  # cross entropy in nats
    won: jax.Array  # frames whose class wins
    count: jax.Array  # frames
    labels: jax.Array  # [V]: how often every class is the label
    answers: jax.Array  # [V]: and the answer


def cluster_score(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> Score:
    """Arguments as of `class_loss`; frames with a label below 0 do not count."""
    counted = counted & (labels >= 0)
    loss, won, count = class_loss(logits, labels, counted)
    occur = lambda x: code_counts(x[..., None], counted, logits.shape[-1])[0]  # noqa: E731
    whole = (x.astype(jnp.float32) for x in (won, count))
    return Score(loss, *whole, occur(labels), occur(logits.argmax(-1)))


def perplexity(scores: Sequence[Score], of: str) -> jax.Array:
    """exp(entropy) of the "labels" or the "answers", the mean of the sets of labels."""
    found = [mean_perplexity(getattr(score, of)[None]) for score in scores]
    return sum(found) / len(found)


def nearest_known(values: jax.Array, known: jax.Array) -> jax.Array:
    """Of every frame the value of the nearest known one, of two as near that before.

    values int32 [B, T]; known bool [B, T] -> int32 [B, T], -1 in rows without any.
    """
    frames = values.shape[1]
    at = jnp.arange(frames)
    before = jax.lax.cummax(jnp.where(known, at, -2 * frames), axis=1)
    after = jax.lax.cummin(jnp.where(known, at, 3 * frames), axis=1, reverse=True)
    nearest = jnp.where(at - before <= after - at, before, after)
    found = jnp.take_along_axis(values, nearest.clip(0, frames - 1), axis=1)
    return jnp.where(known.any(1, keepdims=True), found, -1)
