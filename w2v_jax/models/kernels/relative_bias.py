"""Scores of relative positions as kernels of GPUs: one [B, H, T, T] in 16 bits for as long as the
attention of a layer reads it, nothing of the size T x 2T, and no copy for the shift.

A block of queries times a block of distances is a tile of scores along the diagonals. It is stored
where its keys are; the backward pass reads the gradient of the scores along the diagonals.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w2v_jax.models.kernels.triton import dot

_SIZE = 64  # queries of a tile, and distances
_GROUPS = 4  # of the rows of a batch, each with its own sums of the gradient of the distances
_OPTIONS = plgpu.CompilerParams(num_warps=4, num_stages=2)


def padded_keys(time: int) -> int:
    """The last axis of the scores: whole tiles, so that every row begins at a multiple of 16 bytes,
    and at least one place that nobody reads."""
    return _SIZE * pl.cdiv(time + 1, _SIZE)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def relative_bias(query: jax.Array, distances: jax.Array, interpret: bool = False) -> jax.Array:
    """query [B, T, H, d], distances [2T-1, H, d] for T-1 ... -(T-1) -> [B, H, T, padded_keys(T)]:
    query t times the distance to key s; what stands beyond T is not defined."""
    b, t, h, d = query.shape
    return pl.pallas_call(
        functools.partial(_forward_kernel, t, d),
        grid=(pl.cdiv(t, _SIZE), h, b),
        in_specs=[_tile(d), _distances(t, d)],
        out_specs=_whole(t),
        out_shape=jax.ShapeDtypeStruct((b, h, t, padded_keys(t)), query.dtype),
        compiler_params=_OPTIONS, interpret=interpret, name="relative_bias_forward",
    )(query, distances)  # fmt: skip


def _backward(interpret: bool, residuals, gradient):
    query, distances = residuals
    b, t, h, d = query.shape
    of_query = pl.pallas_call(
        functools.partial(_query_kernel, t, d),
        grid=(pl.cdiv(t, _SIZE), h, b),
        in_specs=[_distances(t, d), _whole(t)],
        out_specs=_tile(d),
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        compiler_params=_OPTIONS, interpret=interpret, name="relative_bias_of_queries",
    )(distances, gradient)  # fmt: skip
    groups = min(_GROUPS, b)
    width = pl.next_power_of_2(d)
    sums = pl.pallas_call(
        functools.partial(_distance_kernel, b, t, d, groups),
        grid=(pl.cdiv(2 * t - 1, _SIZE), h, groups),
        in_specs=[
            pl.BlockSpec((b, _SIZE * pl.cdiv(t, _SIZE), None, width), lambda j, h, g: (0, 0, h, 0)),
            pl.BlockSpec((b, None, t, padded_keys(t)), lambda j, h, g: (0, h, 0, 0)),
        ],
        out_specs=pl.BlockSpec((None, _SIZE, None, width), lambda j, h, g: (g, j, h, 0)),
        out_shape=jax.ShapeDtypeStruct((groups, 2 * t - 1, h, d), jnp.float32),
        compiler_params=_OPTIONS, interpret=interpret, name="relative_bias_of_distances",
    )(query, gradient)  # fmt: skip
    return of_query, sums.sum(0).astype(distances.dtype)


relative_bias.defvjp(
    lambda query, distances, interpret: (
        relative_bias(query, distances, interpret), (query, distances),
    ),
    _backward,
)  # fmt: skip


def _tile(d: int) -> pl.BlockSpec:
    """A block of queries of one head."""
    shape = None, _SIZE, None, pl.next_power_of_2(d)
    return pl.BlockSpec(shape, lambda i, h, b: (b, i, h, 0))


def _distances(t: int, d: int) -> pl.BlockSpec:
    shape = _SIZE * pl.cdiv(2 * t - 1, _SIZE), None, pl.next_power_of_2(d)
    return pl.BlockSpec(shape, lambda i, h, b: (0, h, 0))


def _whole(t: int) -> pl.BlockSpec:
    """All scores of one head."""
    return pl.BlockSpec((None, None, t, padded_keys(t)), lambda i, h, b: (b, h, 0, 0))


def _load(ref, begin, count: int, d: int, *of):
    """[size, d padded] of the rows from `begin` on of `count`; 0 beyond. of: leading indices."""
    mask = (begin + jnp.arange(_SIZE) < count)[:, None] & (jnp.arange(ref.shape[-1]) < d)[None, :]
    return plgpu.load(ref.at[*of, pl.ds(begin, _SIZE), :], mask=mask, other=0)


def _diagonals(t: int, query, first):
    """(row, column, mask) of the scores of a block of queries from `query` on at the distances
    number `first` and following, [size, size]. Where the mask is False they name the place that
    nobody reads: the interpreter writes there."""
    row = query + jnp.arange(_SIZE)[:, None]
    column = first + jnp.arange(_SIZE)[None, :] + row - (t - 1)
    mask = (row < t) & (column >= 0) & (column < t)
    return jnp.broadcast_to(jnp.minimum(row, t - 1), mask.shape), jnp.where(mask, column, t), mask


def _blocks_of_distances(t: int, query):
    """Of the distances, which blocks the queries from `query` on meet."""
    first = jnp.maximum(t - 1 - (query + _SIZE - 1), 0)
    last = jnp.minimum(2 * t - 2 - query, 2 * t - 2)
    return jax.lax.div(first, _SIZE), jax.lax.div(last, _SIZE) + 1


def _forward_kernel(t: int, d: int, query_ref, distances_ref, y_ref):
    begin = pl.program_id(0) * _SIZE
    mask = (begin + jnp.arange(_SIZE) < t)[:, None] & (jnp.arange(query_ref.shape[1]) < d)[None, :]
    query = plgpu.load(query_ref, mask=mask, other=0)

    def tile(number, carry):
        first = number * _SIZE
        scores = dot(query, _load(distances_ref, first, 2 * t - 1, d).T)
        row, column, there = _diagonals(t, begin, first)
        plgpu.store(y_ref.at[row, column], scores.astype(y_ref.dtype), mask=there)
        return carry

    jax.lax.fori_loop(*_blocks_of_distances(t, begin), tile, jnp.int32(0))


def _query_kernel(t: int, d: int, distances_ref, g_ref, y_ref):
    begin = pl.program_id(0) * _SIZE

    def tile(number, sums):
        first = number * _SIZE
        row, column, there = _diagonals(t, begin, first)
        g = plgpu.load(g_ref.at[row, column], mask=there, other=0)
        return sums + dot(g, _load(distances_ref, first, 2 * t - 1, d))

    zero = jnp.zeros(y_ref.shape, jnp.float32)
    sums = jax.lax.fori_loop(*_blocks_of_distances(t, begin), tile, zero)
    mask = (begin + jnp.arange(_SIZE) < t)[:, None] & (jnp.arange(y_ref.shape[1]) < d)[None, :]
    plgpu.store(y_ref, sums.astype(y_ref.dtype), mask=mask)


def _distance_kernel(b: int, t: int, d: int, groups: int, query_ref, g_ref, y_ref):
    first = pl.program_id(0) * _SIZE
    group = pl.program_id(2)

    def of_row(number, sums):
        def tile(i, sums):
            begin = i * _SIZE
            row, column, there = _diagonals(t, begin, first)
            g = plgpu.load(g_ref.at[number, row, column], mask=there, other=0)
            return sums + dot(g.T, _load(query_ref, begin, t, d, number))

        low = jnp.maximum(t - 1 - (first + _SIZE - 1), 0)
        high = jnp.minimum(2 * t - 2 - first, t - 1)
        return jax.lax.fori_loop(jax.lax.div(low, _SIZE), jax.lax.div(high, _SIZE) + 1, tile, sums)

    each, more = divmod(b, groups)  # the first `more` groups have one row more
    begin = group * each + jnp.minimum(group, more)
    end = begin + each + (group < more).astype(jnp.int32)
    sums = jax.lax.fori_loop(begin, end, of_row, jnp.zeros(y_ref.shape, jnp.float32))
    mask = first + jnp.arange(_SIZE) < 2 * t - 1
    mask = mask[:, None] & (jnp.arange(y_ref.shape[1]) < d)[None, :]
    plgpu.store(y_ref, sums, mask=mask)
