"""Targets made of a teacher's layers, and how far predictions are from them (data2vec, arXiv
2202.03555 sections 3.3 and 3.4)."""

import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

EPS = 1e-5  # of the norm over time, torch's


def averaged_layers(layers: Sequence[jax.Array]) -> jax.Array:
    """Mean of the layers [B, T, D] of full rows, after every channel of every row was brought to
    zero mean and unit variance over time; float32 [B, T, D]."""
    total = 0.0
    for x in layers:
        x = x.astype(jnp.float32)
        x = x - x.mean(1, keepdims=True)
        total = total + x * jax.lax.rsqrt(jnp.square(x).mean(1, keepdims=True) + EPS)
    return total / len(layers)


@flax.struct.dataclass
class Regression:
    """Sums over the frames of a batch that count."""

    error: jax.Array  # float32: of the squared distances of prediction and target
    count: jax.Array  # float32: frames
    target: tuple[jax.Array, jax.Array]  # float32 [D]: sums of its values, and of their squares
    prediction: tuple[jax.Array, jax.Array]

    @property
    def loss(self) -> jax.Array:
        """Sum over the frames of the squared distance, divided by the root of the width."""
        return self.error / math.sqrt(self.target[0].shape[-1])


def regression(prediction: jax.Array, target: jax.Array, counted: jax.Array) -> Regression:
    """Of float32 [B, T, D] over the frames where bool [B, T] is True."""
    keep = counted[:, :, None]

    def sums(x):
        x = jnp.where(keep, x, 0.0)
        return x.sum((0, 1)), jnp.square(x).sum((0, 1))

    error = jnp.where(keep, jnp.square(prediction - target), 0.0).sum()
    return Regression(error, counted.sum().astype(jnp.float32), sums(target), sums(prediction))


def variance(sums: tuple[jax.Array, jax.Array], count: jax.Array) -> jax.Array:
    """Of every channel over `count` frames, [D], as the mean square distance from the mean."""
    total, squares = sums
    count = jnp.maximum(count, 1)
    return jnp.maximum(squares / count - jnp.square(total / count), 0.0)


def spread(sums: tuple[jax.Array, jax.Array], count: jax.Array) -> jax.Array:
    """Mean over the channels of the standard deviation over `count` frames: 0 where all frames are
    alike, the collapse that fairseq's data2vec stops at."""
    return jnp.sqrt(variance(sums, count) + 1e-6).mean()


def products(x: jax.Array, counted: jax.Array) -> jax.Array:
    """Of float32 [B, T, D] the sum over the frames that count of every product of two channels,
    [D, D]."""
    x = jnp.where(counted[:, :, None], x, 0.0)
    return jnp.einsum("btd,bte->de", x, x)


def dimensions(of_products, sums, count) -> jax.Array:
    """How many directions the frames vary in: the participation ratio (sum of the eigenvalues of
    the covariance)^2 / sum of their squares, from 1 to D. The norm over time keeps the standard
    deviation of targets up even where all channels say the same; this falls to 1 then."""
    count = jnp.maximum(count, 1)
    mean = sums[0] / count
    covariance = of_products / count - mean[:, None] * mean[None, :]
    return jnp.square(jnp.trace(covariance)) / jnp.maximum(jnp.square(covariance).sum(), 1e-12)
