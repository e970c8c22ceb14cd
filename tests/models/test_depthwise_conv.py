"""The depthwise convolution as a sum of shifts, and as the kernel of GPUs, against XLA's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.models.kernels.depthwise_conv import sum_of_shifts
from w2v_jax.models.kernels.fused_depthwise import fused_depthwise
from w2v_jax.models.layers import DepthwiseConv
from w2v_jax.training.sharding import RULES, make_mesh


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"heads": 2}], ids=str)
@pytest.mark.parametrize("kernel", [4, 31])
@pytest.mark.parametrize("frames", [3, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_shifts_equal_the_convolution(options, kernel, frames, dtype, tolerance):
    x, g = jax.random.normal(jax.random.key(0), (2, 3, frames, 8)).astype(dtype)
    found = []
    for form in ("shifts", "conv"):
        module = DepthwiseConv(kernel, form, jnp.dtype(dtype), **options)
        variables = module.init(jax.random.key(1), x)
        y, pull = jax.vjp(module.apply, variables, x)
        assert y.dtype == dtype
        found.append((y, pull(g)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        a, b = (np.asarray(v, np.float32) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))


@pytest.mark.parametrize("form", ["shifts", "conv"])
@pytest.mark.parametrize(
    ("kernel", "causal", "past", "future"),
    [(31, False, 15, 15), (32, False, 15, 16), (1, False, 0, 0), (5, True, 4, 0), (4, True, 3, 0)],
)
def test_what_a_frame_sees(form, kernel, causal, past, future):
    """By the response to a single frame; an even kernel sees one frame more of the future."""
    module = DepthwiseConv(kernel, form, causal=causal)
    x = jnp.zeros((1, 80, 2)).at[0, 40].set(1.0)
    variables = {"params": {"kernel": jnp.arange(1.0, kernel + 1)[:, None, None] * jnp.ones(2)}}
    y = np.asarray(module.apply(variables, x))[0, :, 1]
    # what stands at t is seen from t - future to t + past, by the last tap first
    np.testing.assert_allclose(y[40 - future : 41 + past], np.arange(kernel, 0, -1.0))
    assert np.abs(y).sum() == pytest.approx(kernel * (kernel + 1) / 2)


def test_lightweight_kernels_are_averages_of_a_head():
    module = DepthwiseConv(3, "conv", heads=2)
    taps = jnp.log(jnp.array([[1.0, 1.0], [2.0, 1.0], [5.0, 2.0]]))[:, None]  # two heads
    x = jax.random.normal(jax.random.key(0), (1, 9, 4))
    y = np.asarray(module.apply({"params": {"kernel": taps}}, x))[0]
    x = np.pad(np.asarray(x)[0], ((1, 1), (0, 0)))
    weights = np.repeat([[1 / 8, 1 / 4], [2 / 8, 1 / 4], [5 / 8, 2 / 4]], 2, axis=1)
    expected = sum(x[k : k + 9] * weights[k] for k in range(3))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def both_ways(function, x, kernel, past):
    y, pull = jax.vjp(lambda x, k: function(x, k, past), x, kernel)
    return jax.tree.leaves((y, pull(jnp.sin(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))))


fused = functools.partial(fused_depthwise, interpret=True)


@pytest.mark.parametrize(
    ("taps", "past", "frames", "channels"), [(31, 15, 70, 96), (4, 1, 3, 8), (17, 16, 300, 40)]
)
def test_the_kernel_of_gpus(taps, past, frames, channels):
    """More frames than a segment, fewer than a kernel; channels that fill no tile; causal."""
    x = jax.random.normal(jax.random.key(0), (2, frames, channels))
    kernel = jax.random.normal(jax.random.key(1), (taps, channels))
    found, expected = (both_ways(f, x, kernel, past) for f in (fused, sum_of_shifts))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(b).max())


def test_the_kernel_of_gpus_on_a_mesh():
    """Every device convolves its own rows; the gradient of the kernel is the sum over all."""
    x = jax.random.normal(jax.random.key(0), (4, 40, 8))
    kernel = jax.random.normal(jax.random.key(1), (5, 8))
    alone = both_ways(fused, x, kernel, 2)
    with jax.set_mesh(make_mesh({"data": 4}, jax.devices()[:4])), nn.logical_axis_rules(RULES):
        found = jax.jit(lambda x, k: both_ways(fused, x, k, 2))(x, kernel)
    for a, b in zip(found, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
