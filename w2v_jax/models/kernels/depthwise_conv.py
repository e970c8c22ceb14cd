"""A convolution over time of every channel by itself."""

import functools

import jax
import jax.numpy as jnp

from w2v_jax.models.kernels import form
from w2v_jax.models.kernels.fused_depthwise import fused_depthwise
from w2v_jax.models.kernels.positional_conv import grouped_conv


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, past: int, choice: str = "auto"
) -> jax.Array:
    """x [B, T, D], kernel [K, 1, D] of the same type -> [B, T, D]: a frame sees `past` before it
    and K - 1 - past after it, zeros beyond the ends.

    The form `conv` is XLA's, which is slow on CPUs, most of all its weight gradient, and on GPUs;
    `shifts` adds K products of shifted rows, many times as fast on CPUs; `fused` is a kernel of a
    GPU (fused_depthwise.py).
    """
    found = form("depthwise_conv", choice)
    if found == "shifts":
        return sum_of_shifts(x, kernel[:, 0], past)
    if found == "fused":
        return fused_depthwise(x, kernel[:, 0], past)
    return grouped_conv(x, kernel, (past, len(kernel) - 1 - past))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def sum_of_shifts(x: jax.Array, kernel: jax.Array, past: int) -> jax.Array:
    """y[t] = sum over k of x[t + k - past] kernel[k]; x [B, T, D], kernel [K, D], summed in
    float32."""
    t, taps = x.shape[1], len(kernel)
    y = _padded(x, past, taps)
    return sum(y[:, k : k + t] * kernel[k].astype(jnp.float32) for k in range(taps)).astype(x.dtype)


def _padded(x: jax.Array, past: int, taps: int) -> jax.Array:
    return jnp.pad(x.astype(jnp.float32), ((0, 0), (past, taps - 1 - past), (0, 0)))


def _backward(past: int, residuals, gradient):
    x, kernel = residuals
    taps, t = len(kernel), x.shape[1]
    y = _padded(x, past, taps)

    def tap(k: jax.Array) -> jax.Array:  # the sums of all taps at once take five times as long
        there = jax.lax.dynamic_slice_in_dim(y, k, t, 1)
        return jnp.einsum("btd,btd->d", there, gradient, preferred_element_type=jnp.float32)

    of_kernel = jax.lax.map(tap, jnp.arange(taps)).astype(kernel.dtype)
    return sum_of_shifts(gradient, kernel[::-1], taps - 1 - past), of_kernel


sum_of_shifts.defvjp(
    lambda x, kernel, past: (sum_of_shifts(x, kernel, past), (x, kernel)), _backward
)
