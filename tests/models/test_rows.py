"""Residual sum, dropout, norm and GELU of frames: the kernel of GPUs, interpreted, against the
plain form and that against float64."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import NamedSharding, PartitionSpec

from tests.promises.contract import mesh_of
from w2v_jax.models.kernels import fused_rows
from w2v_jax.models.kernels.dropout import dropout_seed
from w2v_jax.models.kernels.fused_rows import normal_curve
from w2v_jax.models.kernels.rows import fused, layer_norm, rows
from w2v_jax.training.sharding import RULES

KINDS = [  # branch, norm, gelu, both outputs, rate of dropout
    kind for kind in itertools.product((0, 1), (0, 1), (0, 1), (0, 1), (0.0, 0.3))
    if kind[0] or not (kind[3] or kind[4])
]  # fmt: skip


def draw(b, t, d, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(d), 7)
    x, branch, g, of_h = (jax.random.normal(key, (b, t, d)).astype(dtype) for key in keys[:4])
    scale, bias = 1 + 0.3 * jax.random.normal(keys[4], (d,)), jax.random.normal(keys[5], (d,))
    return (x, branch, scale, bias), (of_h, g), dropout_seed(keys[6])


def both_ways(form, arrays, gradients, words, kind, **options):
    branch, norm, _, both, rate = kind

    def run(x, added, scale, bias):
        return form(
            x, added if branch else None, words if rate else None, scale if norm else None,
            bias if norm else None, rate=rate, both=bool(both), **options,
        )  # fmt: skip

    y, pull = jax.vjp(jax.jit(run), *arrays)
    return y, pull(gradients if both else gradients[1])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_kernel_is_the_plain_form(kind):
    given = draw(3, 37, 24)
    found = both_ways(fused, *given, kind, gelu=bool(kind[2]), interpret=True)
    expected = both_ways(rows, *given, kind, activation="gelu" if kind[2] else "")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@pytest.mark.parametrize("width", [1, 512, 768, 1280])
def test_widths_and_bfloat16(width):
    given = draw(2, 9, width, jnp.bfloat16)
    kind = (1, 1, 1, 1, 0.1)
    found = both_ways(fused, *given, kind, gelu=True, interpret=True)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), given[:2])
    expected = both_ways(rows, *wide, given[2], kind, activation="gelu")
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        # a norm of one channel is a difference of equal numbers
        assert np.linalg.norm(np.float64(a) - b) < 0.01 * np.linalg.norm(b) + 0.1 * (width == 1)


def test_many_tiles_of_a_program(monkeypatch):
    """More tiles than programs: each sums several into its row of the gradients of the norm."""
    monkeypatch.setattr(fused_rows, "_PROGRAMS", 3)
    given = draw(2, 7, 2048)
    found = both_ways(fused, *given, (0, 1, 0, 0, 0.0), gelu=False, interpret=True)
    expected = both_ways(rows, *given, (0, 1, 0, 0, 0.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_layer_norm_in_float64():
    (x, _, scale, bias), _, _ = draw(2, 5, 300)
    y = np.float64(x) * 3 + 100
    mean, var = y.mean(-1, keepdims=True), y.var(-1, keepdims=True)
    expected = (y - mean) / np.sqrt(var + 1e-5) * np.float64(scale) + np.float64(bias)
    np.testing.assert_allclose(layer_norm(x * 3 + 100, scale, bias, 1e-5), expected, atol=5e-5)


def test_the_normal_curve():
    z = np.linspace(-9, 9, 100_001, dtype=np.float32)
    phi, density = normal_curve(jnp.asarray(z), True)
    np.testing.assert_allclose(phi, scipy.special.ndtr(np.float64(z)), atol=4e-7)
    expected = np.exp(-0.5 * np.float64(z) ** 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(density, expected, atol=1e-7)


def test_one_result_on_every_mesh():
    given = draw(4, 10, 16)
    kind = (1, 1, 1, 1, 0.3)
    alone = both_ways(fused, *given, kind, gelu=True, interpret=True)
    for shape in ((2, 2, 2), (8, 1, 1)):  # 8 does not divide the rows
        with jax.set_mesh(mesh_of(*shape)), nn.logical_axis_rules(RULES):
            found = both_ways(fused, *given, kind, gelu=True, interpret=True)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, alone)


def test_a_dimension_that_is_cut_stays_so():
    """GELU of the feed-forward on a mesh with a tensor axis: nothing is gathered for the kernel."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (4, 6, 16))
    inner, outer = jax.random.normal(keys[1], (16, 64)), jax.random.normal(keys[2], (64, 16))
    mesh = mesh_of(2, 1, 4)
    place = lambda *axes: NamedSharding(mesh, PartitionSpec(*axes))  # noqa: E731

    def loss(x, inner, outer):
        y = fused(x @ inner, None, None, None, None, rate=0.0, gelu=True, channels="mlp",
                  interpret=True)  # fmt: skip
        return (y @ outer).sum()

    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        places = place("data"), place(None, "tensor"), place("tensor")
        step = jax.jit(jax.grad(loss, (1, 2)), in_shardings=places)
        assert "all-gather" not in step.lower(x, inner, outer).compile().as_text()
