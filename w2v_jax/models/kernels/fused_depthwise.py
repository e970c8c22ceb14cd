"""The convolution over time of every channel by itself, as a kernel of GPUs.

A program computes a tile of frames and channels, tap by tap; the taps of a tile lie in the cache of
its processor. The gradient of the input is the same convolution, backwards in time. That of the
kernel keeps a sum per tap in registers while it walks over the frames of a segment of a row; the
compiler adds what the segments found: every run gives the same bits. Sums are in float32.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w2v_jax.models.kernels.sharded import per_device

_FRAMES, _CHANNELS = 64, 64  # of a tile
_TAPS = 16  # that a program has sums of
_STEP = 8  # frames at a time in it
_SEGMENT = 256  # frames that it walks over


def fused_depthwise(
    x: jax.Array, kernel: jax.Array, past: int, *, interpret: bool = False
) -> jax.Array:
    """y[t] = sum over k of x[t + k - past] kernel[k], zeros beyond the ends: x [B, T, D], kernel
    [K, D] -> [B, T, D] of the type of x, on a mesh each device its own rows."""
    run = functools.partial(_conv, past=past, interpret=interpret)
    return per_device(run, (x, kernel), (("batch", None, None), (None, None)), 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, past: int, interpret: bool) -> jax.Array:
    b, t, d = x.shape
    parts = pl.cdiv(d, _CHANNELS)
    return pl.pallas_call(
        functools.partial(_forward_kernel, len(kernel), past),
        # channels vary fastest; the second axis of a grid has 65,535 places at most
        grid=(parts * pl.cdiv(t, _FRAMES), b),
        in_specs=[_row(t, d), pl.BlockSpec(kernel.shape, lambda i, b: (0, 0))],
        out_specs=_row(t, d),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret, name="depthwise_forward",
    )(x, kernel)  # fmt: skip


def _backward(past: int, interpret: bool, residuals, gradient):
    x, kernel = residuals
    (b, t, d), taps = x.shape, len(kernel)
    channels, groups, segments = pl.cdiv(d, _CHANNELS), pl.cdiv(taps, _TAPS), pl.cdiv(t, _SEGMENT)
    sums = pl.pallas_call(
        functools.partial(_kernel_gradient, past, groups),
        grid=(channels * groups, segments, b),
        in_specs=[_row(t, d), _row(t, d)],
        out_specs=pl.BlockSpec(
            (None, None, _TAPS, d), lambda i, s, b: (b, s, jax.lax.rem(i, groups), 0)
        ),
        out_shape=jax.ShapeDtypeStruct((b, segments, groups * _TAPS, d), jnp.float32),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret, name="depthwise_gradient_of_kernel",
    )(x, gradient)  # fmt: skip
    of_kernel = sums.sum((0, 1))[:taps].astype(kernel.dtype)
    return _conv(gradient, kernel[::-1], taps - 1 - past, interpret), of_kernel


_conv.defvjp(
    lambda x, kernel, past, interpret: (_conv(x, kernel, past, interpret), (x, kernel)), _backward
)


def _row(t: int, d: int) -> pl.BlockSpec:
    """A whole row of the batch, the last index of the grid; tiles of it are loaded one by one."""
    return pl.BlockSpec((None, t, d), lambda *at: (at[-1], 0, 0))


def _tile(ref, first, frames: int, column) -> jax.Array:
    """float32 [frames, channels] from the frame `first` on, zeros beyond the ends."""
    t, d = ref.shape
    shape = frames, _CHANNELS
    rows = jnp.broadcast_to((first + jnp.arange(frames))[:, None], shape)
    columns = jnp.broadcast_to((column + jnp.arange(_CHANNELS))[None], shape)
    there = (rows >= 0) & (rows < t) & (columns < d)
    return plgpu.load(ref.at[rows, columns], mask=there, other=0).astype(jnp.float32)


def _forward_kernel(taps: int, past: int, x_ref, kernel_ref, y_ref):
    t, d = x_ref.shape
    parts, number = pl.cdiv(d, _CHANNELS), pl.program_id(0)
    first, column = jax.lax.div(number, parts) * _FRAMES, jax.lax.rem(number, parts) * _CHANNELS
    columns = column + jnp.arange(_CHANNELS)
    y = jnp.zeros((_FRAMES, _CHANNELS), jnp.float32)
    for k in range(taps):
        tap = jnp.full(_CHANNELS, k)
        weight = plgpu.load(kernel_ref.at[tap, columns], mask=columns < d, other=0)
        y += _tile(x_ref, first + k - past, _FRAMES, column) * weight.astype(jnp.float32)[None]
    rows = jnp.broadcast_to((first + jnp.arange(_FRAMES))[:, None], y.shape)
    columns = jnp.broadcast_to(columns[None], y.shape)
    there = (rows < t) & (columns < d)
    plgpu.store(y_ref.at[rows, columns], y.astype(y_ref.dtype), mask=there)


def _kernel_gradient(past: int, groups: int, x_ref, g_ref, sums_ref):
    _, d = x_ref.shape
    number, begin = pl.program_id(0), pl.program_id(1) * _SEGMENT
    column = jax.lax.div(number, groups) * _CHANNELS
    tap = jax.lax.rem(number, groups) * _TAPS

    def step(i, sums):
        first = begin + i * _STEP
        g = _tile(g_ref, first, _STEP, column)  # zeros beyond the end: what x is there counts not
        return tuple(
            found + g * _tile(x_ref, first + tap + k - past, _STEP, column)
            for k, found in enumerate(sums)
        )

    zero = jnp.zeros((_STEP, _CHANNELS), jnp.float32)
    sums = jax.lax.fori_loop(0, _SEGMENT // _STEP, step, (zero,) * _TAPS)
    columns = column + jnp.arange(_CHANNELS)
    for k, found in enumerate(sums):
        at = jnp.full(_CHANNELS, k), columns
        plgpu.store(sums_ref.at[at], found.sum(0), mask=columns < d)
