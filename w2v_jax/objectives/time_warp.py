"""Monotone warps of time, so that where a frame stands does not say which frame it is.

Positions are in samples from the middle of an encoder's first frame, which is position 0 in the
source and in the output: frame t of the output is heard at W(t * stride) of the source, and its
target is the source's frame W(t * stride) / stride. The form of W is this repository's choice: what
the functions of c-siam (arXiv 2205.14054) are is not known to us.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Warp(NamedTuple):
    """A piecewise linear W per row: output position -> source position."""

    offset: jax.Array  # float32 [B]: W(0)
    rates: jax.Array  # float32 [B, K]: its slope between two knots, the first and last go on
    knot: jax.Array  # float32: samples of the output from one knot to the next


def drawn_warp(
    keys: jax.Array,
    samples: int,
    *,
    stretch: tuple[float, float],
    rate: tuple[float, float],
    knot: float,
    offset: float,
) -> Warp:
    """A warp for rows of `samples`, one per key [B].

    The slope is a row's stretch times a rate of every piece between knots, `knot` samples apart,
    both drawn log-uniformly from and to: as often faster as slower. W(0) is drawn uniformly from 0
    to `offset` samples. What a row is given depends on its key alone, longer rows go on. Slopes are
    multiples of 1 / 256, the rest whole samples, so that products are exact in float32: W(t) has
    the same bits on any number of devices.
    """
    knot = max(round(knot), 1)
    pieces = max(math.ceil(samples / knot), 1)

    def row(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        stretch_key, rate_key, offset_key = jax.random.split(key, 3)
        slope = _log_uniform(stretch_key, (), *stretch) * _log_uniform(rate_key, (pieces,), *rate)
        first = jnp.round(offset * jax.random.uniform(offset_key))
        return first, jnp.round(256 * slope) / 256

    return Warp(*jax.vmap(row)(keys), jnp.float32(knot))


def _log_uniform(key: jax.Array, shape: tuple, low: float, high: float) -> jax.Array:
    # element i of a one-dimensional draw depends on the key and i alone
    share = jax.random.uniform(key, shape)
    return jnp.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def source(warp: Warp, position: jax.Array) -> jax.Array:
    """W of output positions [N], float32 [B, N]."""
    position = jnp.asarray(position, jnp.float32)
    piece = jnp.floor(position / warp.knot).clip(0, warp.rates.shape[1] - 1)
    index = piece.astype(jnp.int32)
    begun = jnp.cumsum(warp.knot * warp.rates, 1) - warp.knot * warp.rates  # before each piece
    at_knot = warp.offset[:, None] + begun
    return at_knot[:, index] + warp.rates[:, index] * (position - piece * warp.knot)


def frames_left(warp: Warp, frames: int, stride: int) -> jax.Array:
    """How many frames of the output have a place among `frames` of the source, int32 [B]; one where
    not even W(0) has, which hears the last."""
    there = source(warp, stride * jnp.arange(frames)) <= stride * (frames - 1)
    return there.sum(1).astype(jnp.int32).clip(1)


def linear(x: jax.Array, place: jax.Array) -> jax.Array:
    """x [B, T, C] at places float32 [B, N] between its frames -> [B, N, C]; before the first and
    after the last frame it is these."""
    last = x.shape[1] - 1
    place = place.clip(0, last)
    left = jnp.floor(place).clip(0, max(last - 1, 0))
    share = (place - left)[:, :, None].astype(x.dtype)
    index = left.astype(jnp.int32)
    take = lambda i: jnp.take_along_axis(x, i[:, :, None], axis=1, mode="clip")  # noqa: E731
    return (1 - share) * take(index) + share * take(index + 1)


def cubic(x: jax.Array, place: jax.Array) -> jax.Array:
    """x [B, S] at places float32 [B, N] between its samples -> [B, N], through the samples and
    smooth (Catmull-Rom); before the first and after the last it is these. No filter is before it:
    what a slope above 1 moves beyond half the sampling rate is folded back."""
    last = x.shape[1] - 1
    place = place.clip(0, last)
    left = jnp.floor(place)
    t, index = place - left, left.astype(jnp.int32)
    before, here, after, later = (
        jnp.take_along_axis(x, (index + i).clip(0, last), axis=1) for i in range(-1, 3)
    )
    bend = 2 * before - 5 * here + 4 * after - later
    twist = 3 * (here - after) + later - before
    return here + 0.5 * t * (after - before + t * (bend + t * twist))


def warped_audio(warp: Warp, audio: jax.Array, middle: float) -> jax.Array:
    """Samples float [B, S] as the warp hears them, [B, S]; middle: samples to position 0."""
    place = source(warp, jnp.arange(audio.shape[1]) - middle) + middle
    return cubic(audio, place)


def warped_frames(warp: Warp, x: jax.Array, hop: int, first: float = 0.0) -> jax.Array:
    """Frames [B, T, C], one every `hop` samples, as the warp hears them, [B, T, C]; first: where
    the middle of the first one is."""
    place = (source(warp, hop * jnp.arange(x.shape[1]) + first) - first) / hop
    return linear(x, place)


def aligned(warp: Warp, targets: jax.Array, stride: int, index: jax.Array | None = None):
    """Targets of the source [B, T, D] moved to the time of the output: [B, T, D], or of its frames
    `index` int32 [B, M] alone, [B, M, D]."""
    place = source(warp, stride * jnp.arange(targets.shape[1])) / stride
    if index is not None:
        place = jnp.take_along_axis(place, index, axis=1)
    return linear(targets, place)
