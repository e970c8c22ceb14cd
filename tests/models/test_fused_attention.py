"""The attention kernel of GPUs, interpreted, against formulas in float64."""

import functools
import logging
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.promises.contract import mesh_of
from w2v_jax.models import kernels
from w2v_jax.models.kernels import attention, form
from w2v_jax.models.kernels.attention import Heads, attend, fused
from w2v_jax.models.kernels.attention_blocks import Blocks, Plan
from w2v_jax.models.kernels.dropout import dropout_seed, keeps, scrambled, seeds
from w2v_jax.models.kernels.fused_attention import WIDTHS, fused_attention
from w2v_jax.models.settings import ConfigError
from w2v_jax.training.sharding import RULES

PLAN = Plan(Blocks(32, 16, 4, 2), Blocks(16, 32, 4, 2), Blocks(32, 16, 4, 2))
NAMES = ("y", "query", "key", "value")


def draw(b, t, h, d, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(d), 5)
    arrays = [2 * jax.random.normal(key, (b, t, h, d)).astype(dtype) for key in keys[:4]]
    return arrays, jax.vmap(dropout_seed)(jax.random.split(keys[4], h))


def exact(query, key, value, g, lengths, kept, rate, causal):
    """Output and gradients in float64; kept bool [B, H, T, S]."""
    q, k, v, g = (np.float64(x).transpose(0, 2, 1, 3) for x in (query, key, value, g))
    t, scale = q.shape[2], q.shape[3] ** -0.5
    scores = q @ k.swapaxes(2, 3) * scale
    valid = np.broadcast_to(np.arange(t) < lengths[:, None, None, None], scores.shape)
    valid = valid & np.tril(np.ones((t, t), bool)) if causal else valid
    weights = np.exp(np.where(valid, scores, -np.inf) - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    factor = kept / (1 - rate)
    slope = g @ v.swapaxes(2, 3) * factor
    slope = weights * (slope - (slope * weights).sum(-1, keepdims=True)) * scale
    found = (
        (weights * factor) @ v, slope @ k, slope.swapaxes(2, 3) @ q,
        (weights * factor).swapaxes(2, 3) @ g,
    )  # fmt: skip
    return [x.transpose(0, 2, 1, 3) for x in found]


def both(shape, lengths, rate, causal, dtype=jnp.float32, plan=PLAN):
    (q, k, v, g), words = draw(*shape, dtype)
    b, t = shape[:2]
    rows = jax.vmap(lambda w: seeds(w, (b, t)))(words)  # [H, B, T]
    kept = keeps(rows[..., None], jnp.arange(t, dtype=jnp.uint32), rate).swapaxes(0, 1)
    run = functools.partial(
        fused_attention, length=jnp.array(lengths, jnp.int32), seeds=rows if rate else None,
        rate=rate, causal=causal, plan=plan, interpret=True,
    )  # fmt: skip
    y, pull = jax.vjp(jax.jit(run), q, k, v)
    kept = np.asarray(kept) if rate else np.ones((b, shape[2], t, t), bool)
    return (y, *pull(g)), exact(q, k, v, g, np.array(lengths), kept, rate, causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(
    ("shape", "lengths"),
    [((3, 77, 2, 24), (77, 47, 1)), ((1, 1, 1, 32), (1,)), ((2, 64, 1, 16), (64, 33))],
    ids=str,
)
def test_values_and_gradients(shape, lengths, rate, causal):
    found, expected = both(shape, lengths, rate, causal)
    for name, a, b in zip(NAMES, found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=4e-5, err_msg=name)


@pytest.mark.parametrize("width", [16, 64, 80, 128])
def test_the_blocks_that_are_used(width):
    found, expected = both((1, 130, 1, width), (100,), 0.1, False, jnp.bfloat16, plan=None)
    for name, a, b in zip(NAMES, found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.linalg.norm(np.float64(a) - b) < 0.01 * np.linalg.norm(b), name


def test_what_lies_beyond_a_row_is_never_seen():
    (q, k, v, g), words = draw(2, 40, 2, 16)
    heads, mask = Heads(q, k, v, None, words), jnp.arange(40) < jnp.array([[40], [23]])

    def run(fill):
        there = mask[:, :, None, None]
        cut = heads._replace(key=jnp.where(there, k, fill), value=jnp.where(there, v, fill))
        y, pull = jax.vjp(lambda h: fused(h, mask, 0.2, False, interpret=True), cut)
        return y, *jax.tree.leaves(pull(g)[0]._replace(seeds=None))

    for a, b in zip(run(0.0), run(1e30), strict=True):
        np.testing.assert_array_equal(a, b)
    y = fused(heads, jnp.zeros((2, 40), bool), 0.2, False, interpret=True)
    np.testing.assert_array_equal(y, 0)  # rows without a key


@pytest.mark.parametrize("shape", [(5, 77, 2, 24), (1, 16, 1, 32), (2, 130, 1, 16)], ids=str)
@pytest.mark.parametrize(("rate", "causal"), [(0.0, False), (0.3, True)])
@pytest.mark.parametrize("left", [None, 9])
def test_relative_positions(shape, rate, causal, left):
    (q, k, v, g), words = draw(*shape)
    b, t, h, d = shape
    keys = jax.random.split(jax.random.key(5), 2)
    count = 2 * t - 1 if left is None else left + 5
    positions = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], (count, h, d))
    mask = jnp.arange(t) < jnp.linspace(t, 5, b, dtype=jnp.int32)[:, None]
    heads = Heads(q, k, v, positions, words)

    def run(form):
        y, pull = jax.vjp(jax.jit(lambda h: form(h._replace(seeds=words))), heads)
        return y, *jax.tree.leaves(pull(g)[0]._replace(seeds=None))

    found = run(lambda h: fused(h, mask, rate, causal, left, plan=PLAN, interpret=True))
    whole = dict(mask=mask, rate=rate, causal=causal, left=left, choice="whole")
    expected = run(lambda h: attend(h, **whole))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-5, atol=5e-5)


def test_one_result_on_every_mesh():
    (q, k, v, g), words = draw(4, 40, 2, 16)
    positions = q[::-1], jax.random.normal(jax.random.key(1), (79, 2, 16))
    mask = jnp.arange(40) < jnp.array([40, 23, 40, 7])[:, None]

    def run(heads, g):
        y, pull = jax.vjp(lambda h: fused(h, mask, 0.2, False, interpret=True), heads)
        return y, *jax.tree.leaves(pull(g)[0]._replace(seeds=None))

    heads = Heads(q, k, v, positions, words)
    alone = jax.jit(run)(heads, g)
    for shape in ((2, 2, 2), (1, 1, 8), (8, 1, 1)):  # 8 divides neither rows nor heads
        with jax.set_mesh(mesh_of(*shape)), nn.logical_axis_rules(RULES):
            for a, b in zip(alone, jax.jit(run)(heads, g), strict=True):
                np.testing.assert_allclose(a, b, atol=5e-5)


def test_the_short_form_of_the_hash():
    """Bit for bit the definition that the docstring of `keeps` gives, also at the limit itself."""
    rows = jax.random.bits(jax.random.key(0), (300, 1), jnp.uint32)
    columns = jnp.arange(4000, dtype=jnp.uint32)
    for rate in (0.0, 1e-9, 0.05, 0.1, 0.5, 0.999, 1.0):
        limit = jnp.uint32(min(int(rate * 2.0**32), 2**32 - 1))
        bits = scrambled(rows ^ columns * jnp.uint32(0x9E3779B9))
        np.testing.assert_array_equal(keeps(rows, columns, rate), bits >= limit)
    # seeds whose bits lie around a limit: the scrambling is a bijection, so search a neighbourhood
    bits = np.asarray(scrambled(jnp.arange(2**22, dtype=jnp.uint32)))
    for value in np.sort(bits)[:: 2**18]:
        rate = float(value) / 2**32
        expected = bits >= np.uint32(min(int(rate * 2.0**32), 2**32 - 1))
        found = keeps(jnp.arange(2**22, dtype=jnp.uint32), jnp.zeros(1, jnp.uint32), rate)
        np.testing.assert_array_equal(found, expected)


def test_what_a_platform_or_the_kernel_cannot_do(caplog):
    with pytest.raises(ConfigError, match=r"=fused is a kernel for GPUs .* is for a CPU; set"):
        form("attention", "fused")
    heads = lambda width, dtype: Heads(*[jax.ShapeDtypeStruct((1, 1, 1, width), dtype)] * 3)  # noqa: E731
    assert attention._fusible(heads(64, jnp.bfloat16), "auto")
    assert not attention._fusible(heads(64, jnp.float32), "auto")
    assert attention._fusible(heads(64, jnp.float32), "fused")
    with caplog.at_level(logging.WARNING):
        assert not attention._fusible(heads(WIDTHS[-1] + 8, jnp.bfloat16), "auto")
        assert not attention._fusible(heads(8, jnp.bfloat16), "auto")
    assert "heads of 16 to 128, not of 136" in caplog.text
    assert "not of 8" in caplog.text


def test_attend_takes_the_kernel_on_a_gpu():
    """A program for a GPU, traced on a machine without one."""
    (q, k, v, _), words = draw(1, 32, 2, 16, jnp.bfloat16)
    device = jax.sharding.AbstractDevice("NVIDIA H100", 132, "gpu")
    here = mesh_of(1, 1, 1).abstract_mesh
    mesh = jax.sharding.AbstractMesh(
        here.axis_sizes, here.axis_names, here.axis_types, abstract_device=device
    )
    with jax.sharding.use_abstract_mesh(mesh):
        run = lambda h: attend(h, rate=0.1)  # noqa: E731
        assert "pallas_call" in str(jax.jit(run).trace(Heads(q, k, v, None, words)).jaxpr)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("9.0", "gpu"), ("8.0", "gpu"), ("7.5", "other gpu"), ("gfx942", "other gpu")],
)
def test_gpus_that_have_no_compiler_for_the_kernels(monkeypatch, capability, expected):
    here = types.SimpleNamespace(platform="gpu", device_kind="Card", compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [here])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kernels._runs_kernels.cache_clear()
    assert kernels.platform() == expected
    assert kernels.form("attention", "auto") == ("fused" if expected == "gpu" else "whole")
    assert kernels.form("layers", "auto") == "unroll"
    kernels._runs_kernels.cache_clear()
