"""softmax(q k) v, for all heads at once, for one after the other, or as a kernel of a GPU."""

import functools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from w2v_jax.models.kernels import form
from w2v_jax.models.kernels.dropout import dropout, keeps, seeds
from w2v_jax.models.kernels.fused_attention import (
    ATTENDED,
    EXCLUDED,
    WIDTHS,
    fused_attention,
)
from w2v_jax.models.kernels.sharded import per_device

log = logging.getLogger(__name__)


def relative_shift(x: jax.Array) -> jax.Array:
    """x [B, H, T, 2T-1] indexed by distance (T-1 first) -> [B, H, T, T] indexed by key."""
    b, h, t, p = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(b, h, t * (p + 1))
    return x[..., : t * p].reshape(b, h, t, p)[..., t - 1 :]


def clipped_shift(x: jax.Array, left: int) -> jax.Array:
    """x [B, H, T, P] indexed by distance, keys `left` before the query first -> [B, H, T, T]
    indexed by key; what lies beyond either end has the number of that end."""
    b, h, t, p = x.shape
    # as above every row moves on by one, in rows of T + P: a gather's gradient would be a scatter
    near = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, t))).reshape(b, h, t * (t + p))
    near = near[..., : t * (t + p - 1)].reshape(b, h, t, t + p - 1)[..., left : left + t]
    index = jnp.arange(t)[None, :] - jnp.arange(t)[:, None] + left
    far = jnp.where(index < 0, x[..., :1], x[..., -1:])
    return jnp.where((index >= 0) & (index < p), near, far)


class Heads(NamedTuple):
    """What attention reads of each of h heads; the last two may be None."""

    query: jax.Array  # [B, T, h, d]
    key: jax.Array  # [B, T, h, d]
    value: jax.Array  # [B, T, h, d]
    # relative positions: queries [B, T, h, d] and distances [2T-1, h, d], or [P, h, d] of `left`
    positions: tuple[jax.Array, jax.Array] | None = None
    seeds: jax.Array | None = None  # uint32 [h, 2], see `dropout_seed`


def attend(
    heads: Heads, *, mask=None, rate=0.0, causal=False, left: int | None = None, choice="auto"
) -> jax.Array:
    """softmax((q k + relative positions) / sqrt(d)) v, softmax in float32.

    mask bool [B, T] of keys, the first of every row, or None; rate: dropout of the probabilities,
    drawn from heads.seeds; causal: no query looks at later keys; left: the distances of
    heads.positions begin with keys so many frames before the query, and keys beyond the first or
    the last have that one; None: they are those of T frames. Returns [B, T, h, d]. A row without
    any key gives finite numbers.

    The form `whole` computes all heads at once. `heads` computes one after the other, and its T x T
    numbers again in the backward pass: on CPUs those of one head stay in the cache, which is three
    times as fast, and no [B, H, T, T] is in memory. `fused` is a kernel of a GPU (see
    fused_attention.py); what that cannot take is computed as `whole`.
    """
    chosen = form("attention", choice)
    if chosen == "heads":
        return one_by_one(heads, mask, rate, causal, left)
    if chosen == "fused" and _fusible(heads, choice):
        return fused(heads, mask, rate, causal, left)
    q, k, v, positions, seed = heads
    keys = None if mask is None else mask[:, None, None, :]
    bias = None
    if positions is not None:
        bias = jnp.einsum("bthd,phd->bhtp", *positions)
        bias = _shifted(bias, left) * q.shape[-1] ** -0.5
    if not rate:
        return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=keys, is_causal=causal)
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    if bias is not None:
        scores += bias
    if causal:
        earlier = jnp.tril(jnp.ones(scores.shape[2:], bool))
        keys = earlier if keys is None else keys & earlier
    if keys is not None:
        scores = jnp.where(keys, scores, EXCLUDED)
    drop = jax.vmap(functools.partial(dropout, rate=rate), in_axes=(1, 0), out_axes=1)
    weights = drop(jax.nn.softmax(scores, axis=-1), seed).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def _shifted(x: jax.Array, left: int | None) -> jax.Array:
    return relative_shift(x) if left is None else clipped_shift(x, left)


def _fusible(heads: Heads, choice: str) -> bool:
    """Whether the kernel of GPUs can take these; says so where it cannot though it was to."""
    width, exact = heads.query.shape[-1], heads.query.dtype == jnp.float32
    if width not in WIDTHS:
        _tell(f"the attention kernel takes heads of {WIDTHS[0]} to {WIDTHS[-1]}, not of {width}")
    else:
        # its products of float32 numbers are slow, for matrix units would round these
        return choice == "fused" or not exact
    return False


@functools.cache
def _tell(why: str) -> None:
    log.warning("%s: all heads at once instead, [B, heads, T, T] in memory", why)


def fused(
    heads: Heads, mask, rate: float, causal: bool, left: int | None = None, **options
) -> jax.Array:
    """`attend` by the kernel of GPUs, each device for the rows and heads that it holds; options of
    fused_attention. That knows distances of all frames: clipped ones are written out, [2T-1, h, d],
    which is little beside the queries."""
    b, t = heads.query.shape[:2]
    length = jnp.full(b, t) if mask is None else mask.sum(1)
    row_seeds = jax.vmap(lambda words: seeds(words, (b, t)))(heads.seeds) if rate else None
    arrays = (heads.query, heads.key, heads.value, length.astype(jnp.int32), row_seeds)
    rows = ("batch", "time", "heads", None)
    names = (rows, rows, rows, ("batch",), ("heads", "batch", "time"))
    if heads.positions is not None:
        queries, distances = heads.positions
        if left is not None:
            distances = distances[(jnp.arange(1 - t, t) + left).clip(0, len(distances) - 1)]
        arrays = (*arrays, queries, distances)
        names = (*names, rows, (None, "heads", None))

    def kernel(*arrays):
        positions = arrays[5:] or None
        return fused_attention(*arrays[:5], positions, rate=rate, causal=causal, **options)

    return per_device(kernel, arrays, names, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def one_by_one(
    heads: Heads, mask: jax.Array | None, rate: float, causal: bool, left: int | None = None
) -> jax.Array:
    """`attend` in a loop over the heads; its gradient needs the output and, per query, the log of
    the sum of exponentials (Dao et al. 2022, arXiv 2205.14135, algorithm 4)."""
    return _forward(heads, mask, rate, causal, left)[0]


def _forward(heads: Heads, mask, rate: float, causal: bool, left: int | None):
    def head(x: Heads) -> tuple[jax.Array, jax.Array]:  # arrays without the axis of the heads
        scores = _scores(x, mask, causal, left)  # [B, T, S]
        best = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - best)
        total = weights.sum(-1, keepdims=True)
        if rate:
            columns = jnp.arange(scores.shape[2], dtype=jnp.uint32)
            kept = keeps(seeds(x.seeds, scores.shape[:2])[:, :, None], columns, rate)
            weights = jnp.where(kept, weights, 0)
        y = _product("bts,bsd->btd", weights.astype(x.value.dtype), x.value)
        y = (y / (total * (1 - rate))).astype(x.value.dtype)
        return y, (best + jnp.log(total))[:, :, 0]

    y, log_total = jax.lax.map(head, _heads_first(heads))
    y, log_total = checkpoint_name((jnp.moveaxis(y, 0, 2), log_total), ATTENDED)
    return y, (heads, mask, y, log_total)


def _backward(rate: float, causal: bool, left: int | None, residuals, gradient):
    """Keys before queries, [B, S, T]: so only one of the five products transposes its T x T."""
    heads, mask, y, log_total = residuals
    delta = (y.astype(jnp.float32) * gradient).sum(-1)  # [B, T, h]

    def head(item):
        x, g, delta, log_total = item
        scale, dtype = x.query.shape[-1] ** -0.5, x.value.dtype
        scores = _scores(x, mask, causal, left).swapaxes(1, 2)
        weights = jnp.exp(scores - log_total[:, None, :])
        slope = _product("bsd,btd->bst", x.value, g)
        dropped = weights
        if rate:
            columns = jnp.arange(scores.shape[1], dtype=jnp.uint32)[:, None]
            kept = keeps(seeds(x.seeds, delta.shape)[:, None, :], columns, rate)
            slope = jnp.where(kept, slope, 0) / (1 - rate)
            dropped = jnp.where(kept, weights, 0) / (1 - rate)
        value = _product("bst,btd->bsd", dropped.astype(dtype), g)
        slope = (weights * (slope - delta[:, None, :]) * scale).astype(dtype)
        query = _product("bst,bsd->btd", slope, x.key)
        key = _product("bst,btd->bsd", slope, x.query)
        positions = None
        if x.positions is not None:
            score = functools.partial(_position_scores, left=left)
            pull = jax.vjp(score, *x.positions)[1]
            positions = pull(slope.swapaxes(1, 2).astype(jnp.float32))
        cast = lambda x: x.astype(dtype)  # noqa: E731
        return Heads(cast(query), cast(key), cast(value), positions)

    first = (_heads_first(heads), jnp.moveaxis(gradient, 2, 0), jnp.moveaxis(delta, 2, 0))
    found = jax.lax.map(head, (*first, log_total))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), found), None


one_by_one.defvjp(_forward, _backward)


def _heads_first(heads: Heads) -> Heads:
    return jax.tree.map(lambda x: jnp.moveaxis(x, -2, 0), heads)


def _product(equation: str, *arrays: jax.Array) -> jax.Array:
    return jnp.einsum(equation, *arrays, preferred_element_type=jnp.float32)


def _position_scores(query: jax.Array, distances: jax.Array, left: int | None) -> jax.Array:
    """Of one head: [B, T, d], [2T-1, d] or [P, d] -> [B, T, S], without the division by sqrt(d)."""
    return _shifted(_product("btd,pd->btp", query, distances)[:, None], left)[:, 0]


def _scores(x: Heads, mask, causal: bool, left: int | None) -> jax.Array:
    """Of one head, [B, T, S]."""
    scores = _product("btd,bsd->bts", x.query, x.key)
    if x.positions is not None:
        scores += _position_scores(*x.positions, left)
    return _excluded(scores * x.query.shape[-1] ** -0.5, mask, causal)


def _excluded(scores: jax.Array, mask, causal: bool) -> jax.Array:
    if mask is not None:
        scores = jnp.where(mask[:, None, :], scores, EXCLUDED)
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, EXCLUDED)
    return scores
