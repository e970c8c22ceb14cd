"""Norms over time and activations."""

import functools
import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x), exact, in float32 inside. By erf, as torch; jax.nn.gelu takes erfc, which XLA
    computes as two polynomials and a choice. Its backward pass needs x alone."""
    return (_phi(x) * x).astype(x.dtype)


def _phi(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x.astype(jnp.float32) * math.sqrt(0.5))


def _gelu_gradient(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (1 / math.sqrt(2 * math.pi))
    return ((g * (_phi(x) + y * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
}


def masked_moments(
    x: jax.Array, mask: jax.Array | None, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, biased variance (float32, reduced axes kept) and count of x [B, T, ...] over `axes`.

    `axes` contains 1 (time); frames where mask [B, T] is False do not count.
    """
    x = x.astype(jnp.float32)
    if mask is None:
        count = jnp.float32(math.prod(x.shape[axis] for axis in axes))
        mean = x.mean(axes, keepdims=True)
        return mean, jnp.square(x - mean).mean(axes, keepdims=True), count
    frames = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
    rest = math.prod(x.shape[axis] for axis in axes if axis > 1)
    count = frames.sum(tuple(a for a in axes if a < 2), keepdims=True).astype(jnp.float32) * rest
    count = jnp.maximum(count, 1)
    mean = jnp.where(frames, x, 0).sum(axes, keepdims=True) / count
    var = jnp.where(frames, jnp.square(x - mean), 0).sum(axes, keepdims=True) / count
    return mean, var, count


def group_norm(
    x: jax.Array, mask: jax.Array | None, scale: jax.Array, bias: jax.Array, groups: int, eps: float
) -> jax.Array:
    """x [B, T, C] per utterance over time and the channels of a group, float32; frames where mask
    bool [B, T] is False do not count; scale and bias [C]."""
    b, t, c = x.shape
    # an axis of size 1 would make XLA's gradient on CPUs six times slower
    alone = groups == c
    grouped = x if alone else x.reshape(b, t, groups, c // groups)
    mean, var, _ = masked_moments(grouped, mask, (1,) if alone else (1, 3))
    y = ((grouped - mean) * jax.lax.rsqrt(var + eps)).reshape(b, t, c)
    return y * scale + bias
