"""The convolution of the waveform itself, with the norm over time and the GELU behind it."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w2v_jax.models.kernels.fused_rows import normal_curve
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS
from w2v_jax.models.kernels.sharded import per_device
from w2v_jax.models.kernels.triton import dot

_LEAST, _MOST = 16, 64  # taps: of a product of matrix units, of one that the kernels make
_FRAMES, _CHANNELS = 64, 128  # of a tile of the kernels
_SEGMENTS = 8  # of a row, each with its own sums in the backward pass


def folded_conv(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    stride: int,
    frames: jax.Array | None,
    *,
    activation: str = "gelu",
    eps: float = 1e-5,
    fused: bool = False,
    interpret: bool = False,
) -> jax.Array:
    """activation(group_norm(conv(x))), every channel normed over time: x [B, S], kernel [K, C],
    scale and bias [C], these in float32; frames int32 [B]: so many count in the statistics, None
    for all; fused: GELU within a kernel of a GPU. Returns [B, T, C] of the type of x.

    A convolution is linear: mean and variance of what it gives follow from those of the K samples
    under the kernel, a [K, K] matrix per row, and the norm becomes a scaling of the row's kernel
    whose shift is one more tap that sees ones. No pass over [B, T, C] for statistics, forward or
    backward, and no such array between convolution and norm; with `fused` none but the activations.
    The variance of a kernel that stops nearly all of the signal is a small difference of large
    numbers: tests/models/test_first_conv.py holds the relative error in float32 below 1e-4.
    """
    taps = _taps(x, len(kernel), stride)
    kernels = _row_kernels(taps, kernel, scale, bias, frames, eps)
    if not (fused and activation == "gelu" and taps.shape[2] <= _MOST):
        return ACTIVATIONS[activation](jnp.einsum("btk,bkc->btc", taps, kernels))
    run = functools.partial(_product_gelu, interpret=interpret)
    return per_device(run, (taps, kernels), (("batch", None, None),) * 2, 0)


def _taps(x: jax.Array, size: int, stride: int) -> jax.Array:
    """The samples under a kernel, a one, and zeros: [B, S] -> [B, T, a power of 2]."""
    b, samples = x.shape
    frames = (samples - size) // stride + 1
    parts = -(-size // stride)
    needed = (frames + parts - 1) * stride
    x = jnp.pad(x[:, :needed], ((0, 0), (0, max(needed - samples, 0)))).reshape(b, -1, stride)
    taps = jnp.concatenate([x[:, i : i + frames] for i in range(parts)], -1)[..., :size]
    more = max(pl.next_power_of_2(size + 1), _LEAST) - size
    more = jnp.zeros(more, x.dtype).at[0].set(1)
    return jnp.concatenate([taps, jnp.broadcast_to(more, (b, frames, len(more)))], -1)


def _row_kernels(taps, kernel, scale, bias, frames, eps: float) -> jax.Array:
    """What the taps of every row are multiplied with, [B, taps, C]."""
    counted = taps
    if frames is not None:
        counted = jnp.where((jnp.arange(taps.shape[1]) < frames[:, None])[:, :, None], taps, 0)
    exact = functools.partial(
        jnp.einsum, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    sums = exact("btk,btl->bkl", counted, counted)
    one = len(kernel)  # the tap that sees ones
    moments = sums[:, :one, : one + 1] / jnp.maximum(sums[:, one, one], 1)[:, None, None]
    mean_tap = moments[:, :, one]  # [B, K]
    covariance = moments[:, :, :one] - mean_tap[:, :, None] * mean_tap[:, None, :]
    mean = exact("bk,kc->bc", mean_tap, kernel)
    var = exact("kc,bkl,lc->bc", kernel, covariance, kernel)
    factor = scale * jax.lax.rsqrt(jnp.maximum(var, 0) + eps)
    shift = (bias - mean * factor)[:, None]
    rest = jnp.zeros((len(taps), taps.shape[2] - one - 1, kernel.shape[1]))
    return jnp.concatenate([kernel * factor[:, None], shift, rest], 1).astype(taps.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product_gelu(taps: jax.Array, kernels: jax.Array, interpret: bool) -> jax.Array:
    """gelu(taps kernels): [B, T, K], [B, K, C] -> [B, T, C]. Only that is written, and the backward
    pass computes the products again."""
    b, t, k = taps.shape
    c = kernels.shape[2]
    parts = pl.cdiv(c, _CHANNELS)
    frames = lambda size: pl.BlockSpec((None, _FRAMES, size), lambda i, b: (b, i // parts, 0))  # noqa: E731
    return pl.pallas_call(
        functools.partial(_forward_kernel, t, c, interpret),
        # channels vary fastest; the second axis of a grid has 65,535 places at most
        grid=(pl.cdiv(c, _CHANNELS) * pl.cdiv(t, _FRAMES), b),
        in_specs=[frames(k), pl.BlockSpec((None, k, _CHANNELS), lambda i, b: (b, 0, i % parts))],
        out_specs=pl.BlockSpec(
            (None, _FRAMES, _CHANNELS), lambda i, b: (b, i // parts, i % parts)
        ),
        out_shape=jax.ShapeDtypeStruct((b, t, c), taps.dtype),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret, name="first_conv_forward",
    )(taps, kernels)  # fmt: skip


def _backward(interpret: bool, residuals, gradient):
    taps, kernels = residuals
    b, t, k = taps.shape
    c = kernels.shape[2]
    each = pl.cdiv(pl.cdiv(t, _FRAMES), _SEGMENTS)  # tiles of a segment
    time = _FRAMES * each * _SEGMENTS
    found = pl.pallas_call(
        functools.partial(_backward_kernel, t, c, each, interpret),
        grid=(pl.cdiv(c, _CHANNELS), _SEGMENTS, b),
        in_specs=[
            pl.BlockSpec((None, time, k), lambda j, s, b: (b, 0, 0)),
            pl.BlockSpec((None, k, _CHANNELS), lambda j, s, b: (b, 0, j)),
            pl.BlockSpec((None, time, _CHANNELS), lambda j, s, b: (b, 0, j)),
        ],
        out_specs=pl.BlockSpec((None, None, k, _CHANNELS), lambda j, s, b: (b, s, 0, j)),
        out_shape=jax.ShapeDtypeStruct((b, _SEGMENTS, k, c), jnp.float32),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret, name="first_conv_backward",
    )(taps, kernels, gradient)  # fmt: skip

    def plain(taps):  # for who asks for the gradient of the audio; else it is never computed
        return ACTIVATIONS["gelu"](jnp.einsum("btk,bkc->btc", taps, kernels))

    return jax.vjp(plain, taps)[1](gradient)[0], found.sum(1).astype(kernels.dtype)


_product_gelu.defvjp(
    lambda taps, kernels, interpret: (_product_gelu(taps, kernels, interpret), (taps, kernels)),
    _backward,
)


def _frames(t: int, first) -> jax.Array:
    """Which of a tile's frames from `first` on there are, [frames, 1]."""
    return (first + jnp.arange(_FRAMES) < t)[:, None]


def _channels(c: int, number) -> jax.Array:
    """Which of the channels of that tile there are, [1, channels]."""
    return (number * _CHANNELS + jnp.arange(_CHANNELS) < c)[None, :]


def _read(ref, at, size: int, mask):
    shape = size, ref.shape[1]
    return plgpu.load(ref.at[pl.ds(at, size), :], mask=jnp.broadcast_to(mask, shape), other=0)


def _forward_kernel(t: int, c: int, interpret: bool, taps_ref, kernels_ref, y_ref):
    parts = pl.cdiv(c, _CHANNELS)
    number = pl.program_id(0)
    frames = _frames(t, jax.lax.div(number, parts) * _FRAMES)
    channels = _channels(c, jax.lax.rem(number, parts))
    kernels = _read(kernels_ref, 0, kernels_ref.shape[0], channels)
    z = dot(_read(taps_ref, 0, _FRAMES, frames), kernels)
    y = z * normal_curve(z, interpret)[0]
    plgpu.store(y_ref, y.astype(y_ref.dtype), mask=frames & channels)


def _backward_kernel(t, c, each, interpret: bool, taps_ref, kernels_ref, g_ref, of_kernels_ref):
    channels = _channels(c, pl.program_id(0))
    kernels = _read(kernels_ref, 0, kernels_ref.shape[0], channels)

    def tile(number, sums):
        first = number * _FRAMES
        frames = _frames(t, first)
        taps = _read(taps_ref, first, _FRAMES, frames)
        z = dot(taps, kernels)
        phi, density = normal_curve(z, interpret)
        g = _read(g_ref, first, _FRAMES, frames & channels) * (phi + z * density)
        return sums + dot(taps.T, g.astype(taps.dtype))

    begin = pl.program_id(1) * each
    sums = jax.lax.fori_loop(begin, begin + each, tile, jnp.zeros(kernels.shape, jnp.float32))
    plgpu.store(of_kernels_ref, sums, mask=jnp.broadcast_to(channels, sums.shape))
