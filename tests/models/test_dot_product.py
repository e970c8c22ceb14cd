"""Attention one head after the other against all heads at once, and the dropout both draw."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.models.kernels.attention import Heads, attend, fused
from w2v_jax.models.kernels.dropout import Dropout, dropout, dropout_seed

B, T, H, D = 3, 23, 4, 8


def draw(relative: bool | int = False) -> Heads:
    """relative: with distances of all frames, or so many."""
    keys = iter(jax.random.split(jax.random.key(0), 6))
    normal = lambda *shape: 2 * jax.random.normal(next(keys), shape)  # noqa: E731
    q, k, v = (normal(B, T, H, D) for _ in range(3))
    count = 2 * T - 1 if relative is True else relative
    positions = (normal(B, T, H, D), normal(count, H, D)) if relative else None
    seeds = jax.vmap(dropout_seed)(jax.random.split(next(keys), H))
    return Heads(q, k, v, positions, seeds)


@pytest.mark.parametrize("relative", [False, True, 7])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_heads_one_by_one_equal_all_at_once(relative, rate, padded, causal):
    heads = draw(relative)
    # the last row has no key at all
    mask = jnp.arange(T)[None] < jnp.array([[T], [T - 9], [0]]) if padded else None
    target = jax.random.normal(jax.random.key(1), (B, T, H, D))
    if padded:
        target = target.at[-1].set(0)  # nothing is asked of it but numbers

    def loss(arrays, form):
        given = heads._replace(query=arrays[0], key=arrays[1], value=arrays[2], positions=arrays[3])
        left = 5 if relative == 7 else None
        y = attend(given, mask=mask, rate=rate, causal=causal, left=left, choice=form)
        return (y * target).sum(), y

    both = [
        jax.jit(jax.value_and_grad(lambda x, f=form: loss(x, f), has_aux=True))(heads[:4])
        for form in ("heads", "whole")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), *both)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(both))


def clipped(heads, left, right):
    """softmax((q k + q e[clip(distance)]) / sqrt(d)) v with a vector looked up for every pair, as
    arXiv 1803.02155 section 3.2 writes it."""
    q, k, v, (queries, distances) = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), part) for part in heads[:4]
    )
    distance = np.clip(np.arange(T)[None] - np.arange(T)[:, None], -left, right) + left
    scores = np.einsum("bthd,bshd->bhts", q, k)
    scores += np.einsum("bthd,tshd->bhts", queries, distances[distance])
    weights = np.exp(scores / np.sqrt(D))
    return np.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(("left", "right"), [(5, 2), (0, 0), (3, 0), (T - 1, 2), (40, 30)])
@pytest.mark.parametrize("form", ["heads", "whole", "fused"])
def test_clipped_distances(left, right, form):
    heads = draw(left + right + 1)._replace(seeds=None)
    if form == "fused":
        y = fused(heads, None, 0.0, False, left, interpret=True)
    else:
        y = attend(heads, left=left, choice=form)
    np.testing.assert_allclose(y, clipped(heads, left, right), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("form", "at_once"), [("heads", 1), ("whole", 4)])
def test_clipped_distances_take_no_array_of_all_distances(form, at_once):
    """Of the queries and T + P numbers at most, in both directions, and neither gather nor
    scatter."""
    shape = jax.ShapeDtypeStruct((2, 64, 4, 8), jnp.float32)
    positions = shape, jax.ShapeDtypeStruct((9, 4, 8), jnp.float32)
    run = jax.grad(lambda h: attend(h, left=6, choice=form).sum())
    text = str(jax.make_jaxpr(run)(Heads(shape, shape, shape, positions)))
    sizes = [
        math.prod(map(int, dimensions.split(",")))
        for dimensions in re.findall(r"f32\[([\d,]+)\]", text)
    ]
    assert max(sizes) == 2 * at_once * 64 * (64 + 9)
    assert "gather" not in text
    assert "scatter" not in text


@pytest.mark.parametrize("form", ["heads", "whole"])
def test_attention_in_bfloat16_is_near(form):
    heads = draw()
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, heads)
    exact = attend(jax.tree.map(lambda x: x.astype(jnp.float32), low)._replace(seeds=heads.seeds),
                   rate=0.3, choice="whole")  # fmt: skip
    found = attend(low, rate=0.3, choice=form)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(found), exact, atol=0.05)


def test_no_array_of_all_heads_is_in_memory():
    heads = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), draw())

    def temporary(form):
        grad = jax.jit(jax.grad(lambda q, x: attend(
            x._replace(query=q), rate=0.1, choice=form).sum()))  # fmt: skip
        big = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((2, 256, 16, 8), x.dtype) if x.ndim == 4
            else jax.ShapeDtypeStruct((16, 2), x.dtype), heads,
        )  # fmt: skip
        return grad.lower(big.query, big).compile().memory_analysis().temp_size_in_bytes

    whole = 4 * 2 * 16 * 256 * 256
    assert temporary("whole") > whole > 2 * temporary("heads")


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_dropout_rate_and_independence(rate):
    size = 2000
    ones = jnp.ones((size, size))
    found = np.array(dropout(ones, dropout_seed(jax.random.key(3)), rate))
    kept = found > 0
    np.testing.assert_allclose(found[kept], 1 / (1 - rate), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation / size
    noise = (kept - (1 - rate)) / deviation
    # rows, columns, neighbours, powers of two apart, and another key: as of independent draws
    assert abs(noise.mean(0)).max() < 5.5 / np.sqrt(size)
    assert abs(noise.mean(1)).max() < 5.5 / np.sqrt(size)
    assert np.isclose((noise.mean(0) ** 2).mean() * size, 1, atol=0.2)
    assert np.isclose((noise.mean(1) ** 2).mean() * size, 1, atol=0.2)
    for axis in (0, 1):
        for lag in (1, 2, 3, 4, 5, 8, 16, 64, 256, 1024):
            assert abs((noise * np.roll(noise, lag, axis)).mean()) < 5 / size, (axis, lag)
    other = np.array(dropout(ones, dropout_seed(jax.random.key(4)), rate)) > 0
    assert abs((noise * (other - (1 - rate)) / deviation).mean()) < 5 / size


def test_dropout_layer():
    x = jnp.ones((5, 7))
    apply = lambda rate, still, key: Dropout(rate, still).apply(  # noqa: E731
        {}, x, rngs={"dropout": jax.random.key(key)}
    )
    assert (apply(0.5, True, 0) == x).all()
    assert (apply(0.0, False, 0) == x).all()
    assert (apply(0.5, False, 0) == apply(0.5, False, 0)).all()
    assert (apply(0.5, False, 0) != apply(0.5, False, 1)).any()
    gradient = jax.grad(lambda x: Dropout(0.5, False).apply(
        {}, x, rngs={"dropout": jax.random.key(0)}).sum())(x)  # fmt: skip
    np.testing.assert_array_equal(gradient, apply(0.5, False, 0))
