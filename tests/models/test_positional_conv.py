"""The convolution of the positions as GPUs compute it, on meshes of CPUs."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.promises.contract import mesh_of
from w2v_jax.models.kernels import positional_conv as module
from w2v_jax.training.sharding import RULES, batch_sharding


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (4, 1, 1)])
def test_every_device_transforms_its_own_rows(monkeypatch, shape):
    monkeypatch.setattr(module, "platform", lambda: "gpu")
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (4, 50, 32)), jax.random.normal(keys[1], (16, 8, 32))
    target = jax.random.normal(keys[2], x.shape)
    plain = lambda x, kernel: module.grouped_conv(x, kernel, (8, 7))  # noqa: E731

    def pulled(form, x, kernel):
        y, pull = jax.vjp(form, x, kernel)
        return y, *pull(target)

    expected = pulled(plain, x, kernel)
    mesh = mesh_of(*shape)
    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        rows = jax.device_put(x[None], batch_sharding(mesh))[0]
        step = jax.jit(lambda x, kernel: pulled(
            lambda x, kernel: module.positional_conv(x, kernel, (8, 7), "fft"), x, kernel
        )).lower(rows, kernel).compile()  # fmt: skip
        for a, b in zip(step(rows, kernel), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)
    assert "all-gather" not in step.as_text()
