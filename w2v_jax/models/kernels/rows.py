"""Residual sum, dropout, layer norm and activation of every frame by itself."""

import functools

import jax
import jax.numpy as jnp

from w2v_jax.models.kernels import form
from w2v_jax.models.kernels.dropout import dropped, seeds
from w2v_jax.models.kernels.fused_rows import WIDEST, fused_rows
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS
from w2v_jax.models.kernels.sharded import per_device


def rows(
    x: jax.Array,
    branch: jax.Array | None = None,
    words: jax.Array | None = None,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    rate: float = 0.0,
    eps: float = 1e-5,
    activation: str = "",
    both: bool = False,
    channels: str | None = None,
    choice: str = "auto",
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """activation(layer norm(h)), h = x + dropout(branch): x and branch [B, T, D]; words uint32 [2]
    of the dropout (`dropout_seed`), None without; scale and bias [D] of the norm, None without;
    `both`: returns h as well, first; channels: the logical name of the last dimension, where there
    is no norm over it. The form `fused` is a kernel of a GPU (fused_rows.py); wider rows than that
    holds are left to XLA, as in the form `plain`, and so is another activation than gelu."""
    taken = x.ndim == 3 and x.shape[-1] <= WIDEST
    if form("rows", choice) == "fused" and taken:
        gelu = activation == "gelu"
        y = fused(
            x, branch, words, scale, bias, rate=rate, channels=channels, eps=eps, gelu=gelu,
            both=both,
        )  # fmt: skip
        if gelu or not activation:
            return y
        act = ACTIVATIONS[activation]
        return (y[0], act(y[1])) if both else act(y)
    h = x
    if branch is not None:
        h = x + dropped(branch, words, rate)
    y = h if scale is None else layer_norm(h, scale, bias, eps).astype(x.dtype)
    y = ACTIVATIONS[activation](y) if activation else y
    return (h, y) if both else y


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Over the last axis, float32; two passes, as torch."""
    y = x.astype(jnp.float32)
    mean = y.mean(-1, keepdims=True)
    var = jnp.square(y - mean).mean(-1, keepdims=True)
    return (y - mean) * (jax.lax.rsqrt(var + eps) * scale) + bias


def fused(x, branch, words, scale, bias, *, rate: float, channels: str | None = None, **options):
    """`rows` by the kernel, each device its own; options of fused_rows."""
    row_seeds = None if words is None else seeds(words, x.shape[:-1])
    kernel = functools.partial(fused_rows, rate=rate, **options)
    frames = ("batch", "time", channels)
    names = (frames, frames, frames[:2], (None,), (None,))
    return per_device(kernel, (x, branch, row_seeds, scale, bias), names, 0)
