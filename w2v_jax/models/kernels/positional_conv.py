"""The grouped convolution over time with a long kernel."""

import functools

import jax
import jax.numpy as jnp
import scipy.fft
from jax.experimental.layout import Layout, with_layout_constraint

from w2v_jax.models.kernels import form, platform
from w2v_jax.models.kernels.sharded import per_device


def positional_conv(
    x: jax.Array, kernel: jax.Array, padding: tuple[int, int], choice: str = "auto"
) -> jax.Array:
    """x [B, T, D], kernel [K, D/groups, D] float32 -> [B, T, D] of the type of x. The form `fft`
    has spectra in float32, `conv` is XLA's in the type of x."""
    if form("positional_conv", choice) == "fft":
        if platform() not in ("gpu", "other gpu"):
            return fft_grouped_conv(x, kernel, padding).astype(x.dtype)
        # XLA gathers all rows on every device for a Fourier transform
        names = (("batch", "time", None), (None, None, None))
        return per_device(functools.partial(_in_rows, padding), (x, kernel), names, 0)
    return grouped_conv(x, kernel.astype(x.dtype), padding)


def _in_rows(padding: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`fft_grouped_conv` between arrays whose fastest axis is the channels. Spectra have time
    there; XLA would give that layout to all activations of the blocks and turn them for every
    product."""
    rows = lambda y: with_layout_constraint(y, Layout((0, 1, 2)))  # noqa: E731
    return rows(fft_grouped_conv(rows(x), kernel, padding).astype(x.dtype))


def grouped_conv(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """XLA's convolution over time of x [B, T, D] with kernel [K, D/groups, D]."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[-1] // kernel.shape[1],
    )  # fmt: skip


def fft_grouped_conv(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """The convolution of x [B, T, D] with kernel [K, D/groups, D] as a product of spectra.

    Equal to `grouped_conv` but for rounding. On CPUs its backward pass is many times
    cheaper: XLA has no fast weight gradient for a grouped convolution with a long kernel. x is cut
    into overlapping blocks of 2K (overlap-save), so that the spectra of the kernel, which are most
    of the memory, stay short.
    """
    b, t, d = x.shape
    taps, per_group, _ = kernel.shape
    groups = d // per_group
    size = scipy.fft.next_fast_len(2 * taps, real=True)
    step = size - taps + 1  # outputs of a block
    blocks = max(-(-t // step), 1)
    before, after = padding[0], blocks * step + taps - 1 - t - padding[0]
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (before, after), (0, 0)))
    x = jnp.stack([x[:, i * step : i * step + size] for i in range(blocks)], 1)
    x = x.reshape(b * blocks, size, d)
    spectrum = jnp.fft.rfft(x, axis=1).reshape(b * blocks, -1, groups, per_group)
    filters = jnp.fft.rfft(kernel.astype(jnp.float32), size, axis=0)
    filters = filters.reshape(-1, per_group, groups, d // groups)
    product = jnp.einsum("bfgi,figo->bfgo", spectrum, filters.conj())
    y = jnp.fft.irfft(product.reshape(b * blocks, -1, d), size, axis=1)[:, :step]
    return y.reshape(b, blocks * step, d)[:, :t]
