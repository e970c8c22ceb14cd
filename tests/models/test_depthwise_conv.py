"""The depthwise convolution as a sum of shifts against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.models.layers import DepthwiseConv


@pytest.mark.parametrize("kernel", [4, 31])
@pytest.mark.parametrize("frames", [3, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2e-2)])
def test_shifts_equal_the_convolution(kernel, frames, dtype, tolerance):
    x, g = jax.random.normal(jax.random.key(0), (2, 3, frames, 8)).astype(dtype)
    found = []
    for form in ("shifts", "conv"):
        module = DepthwiseConv(kernel, form, jnp.dtype(dtype))
        variables = module.init(jax.random.key(1), x)
        y, pull = jax.vjp(module.apply, variables, x)
        assert y.dtype == dtype
        found.append((y, pull(g)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        a, b = (np.asarray(v, np.float32) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))
