"""softmax(q k) v as one kernel on GPUs: nothing of the size T x T is in memory, but the scores of
relative positions where there are any (relative_bias.py).

A program of the grid holds a block of queries of one row and head and walks over blocks of keys
with the running maximum and sum of Milakov and Gimelshein (2018, arXiv 1805.02867); the backward
pass computes the weights again from the log of the sums, once walking over queries for the
gradients of keys and values and once over keys for that of the queries, as FlashAttention-2 does
(Dao 2023, arXiv 2307.08691). No sums meet in memory, so that every run gives the same bits. Dropout
is the hash of `dropout.py`: the bits of the plain form.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w2v_jax.models.kernels.attention_blocks import LOG2E, Blocks, Call, Options, Plan
from w2v_jax.models.kernels.relative_bias import relative_bias
from w2v_jax.models.kernels.triton import dot

WIDTHS = range(16, 129)  # of a head; others than powers of 2 are padded
EXCLUDED = 0.7 * float(jnp.finfo(jnp.float32).min)  # finite: a query without any key gives numbers
ATTENDED = "attention"  # what a remat policy may keep, so that no forward pass is run again

# the fastest of 20 on an H200, BASE's shape (heads of 64) and heads of 80
NARROW = Plan(Blocks(64, 64, 4, 3), Blocks(64, 64, 4, 4), Blocks(64, 64, 4, 3))
WIDE = Plan(Blocks(64, 32, 4, 3), Blocks(64, 64, 4, 2), Blocks(64, 32, 4, 3))  # heads above 64
FLOAT32 = Plan(*[Blocks(32, 32, 4, 1)] * 3)  # twice the bytes: what cards of 100 KB can share


def fused_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    length: jax.Array,
    seeds: jax.Array | None,
    positions: tuple[jax.Array, jax.Array] | None = None,
    *,
    rate: float = 0.0,
    causal: bool = False,
    plan: Plan | None = None,
    interpret: bool = False,
) -> jax.Array:
    """query, key, value [B, T, H, d]; length int32 [B]: so many keys of a row count; seeds uint32
    [H, B, T]: of the dropout of every query's weights, see `dropout.seeds`, None without;
    positions: queries [B, T, H, d] and distances [2T-1, H, d], see relative_bias.py. Returns
    [B, T, H, d]; 0 for rows without a key."""
    b, t, h, _ = query.shape
    if seeds is None:
        seeds, rate = jnp.zeros((h, b, t), jnp.uint32), 0.0
    if plan is None:
        plan = NARROW if query.shape[-1] <= 64 else WIDE
        plan = FLOAT32 if query.dtype == jnp.float32 else plan
    options = Options(rate, causal, plan, interpret)
    return _attention(query, key, value, length, seeds, positions, options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attention(query, key, value, length, seeds, positions, options: Options) -> jax.Array:
    return _forward(query, key, value, length, seeds, positions, options)[0]


def _forward(query, key, value, length, seeds, positions, options: Options):
    b, t, h, _ = query.shape
    bias = relative_bias(*positions, options.interpret) if positions else None
    call = Call(query, options, options.plan.forward, "attention_forward")
    y, log_sum = call(
        _forward_kernel, call.blocks.queries, bias,
        "length", "row_block", "block", "all", "all", out=("block", "row_block"),
        shapes=(query, jax.ShapeDtypeStruct((h, b, t), jnp.float32)),
    )(length, seeds, query, key, value)  # fmt: skip
    y, log_sum = checkpoint_name((y, log_sum), ATTENDED)
    return y, (query, key, value, length, seeds, positions, y, log_sum)


def _backward(options: Options, residuals, gradient):
    query, key, value, length, seeds, positions, y, log_sum = residuals
    delta = jnp.einsum("bthd,bthd->hbt", y, gradient, preferred_element_type=jnp.float32)
    delta *= 1 - options.rate  # what is kept is divided by that at the end
    arrays = (length, seeds, log_sum, delta, query, key, value, gradient)
    bias = pull = None
    if positions:  # not kept: of one layer at a time
        score = functools.partial(relative_bias, interpret=options.interpret)
        bias, pull = jax.vjp(score, *positions)
    of_key, of_value = _gradient_of_keys(options, bias, *arrays)
    of_query, *of_bias = _gradient_of_queries(options, bias, *arrays)
    return of_query, of_key, of_value, None, None, pull(*of_bias) if positions else None


def _gradient_of_keys(options: Options, bias: jax.Array | None, *arrays: jax.Array):
    *_, query, key, value, _ = arrays
    call = Call(query, options, options.plan.keys, "attention_gradient_of_keys")
    return call(
        _keys_kernel, call.blocks.keys, bias, "length", "row_all", "row_all", "row_all",
        "all", "block", "block", "all",
        out=("block", "block"), shapes=(key, value),
    )(*arrays)  # fmt: skip


def _gradient_of_queries(options: Options, bias: jax.Array | None, *arrays: jax.Array):
    *_, query, _, _, _ = arrays
    call = Call(query, options, options.plan.queries, "attention_gradient_of_queries")
    return call(
        _queries_kernel, call.blocks.queries, bias,
        "length", "row_block", "row_block", "row_block", "block", "all", "all", "block",
        out=("block",) if bias is None else ("block", "scores"),
        shapes=(query,) if bias is None else (query, bias),
    )(*arrays)  # fmt: skip


_attention.defvjp(_forward, _backward)


def _walk(start, full, end, body, carry):
    """body(whole, number, carry) for blocks [start, full), of which all counts, and those up to
    `end`; int32 scalars."""
    carry = jax.lax.fori_loop(start, full, functools.partial(body, True), carry)
    return jax.lax.fori_loop(jnp.maximum(start, full), end, functools.partial(body, False), carry)


def _forward_kernel(
    cut, bias_ref, length_ref, seed_ref, q_ref, k_ref, v_ref, y_ref, log_sum_ref
):
    size, step, causal = cut.blocks.queries, cut.blocks.keys, cut.options.causal
    begin, length = pl.program_id(0) * size, length_ref[0]
    query = begin + jnp.arange(size)
    q = cut.rows(q_ref, begin, size)
    seed = cut.numbers(seed_ref, begin, size)
    scale = cut.width**-0.5 * LOG2E

    def body(whole, number, carry):
        y, best, total = carry
        first = number * step
        k = cut.rows(k_ref, first, step, first, whole)
        scores = cut.scores(bias_ref, begin, first, dot(q, k.T))
        column = first + jnp.arange(step)
        if not whole:
            scores = jnp.where(_counts(query[:, None], column[None, :], length, causal),
                               scores, EXCLUDED)  # fmt: skip
        more = jnp.maximum(best, scores.max(1) * scale)
        weights = cut.powers(scores, more[:, None])
        shrink = jnp.exp2(best - more)
        total = total * shrink + weights.sum(1)
        if cut.options.rate:
            weights = jnp.where(cut.kept(seed[:, None], column[None, :]), weights, 0)
        v = cut.rows(v_ref, first, step, first, whole)
        y = y * shrink[:, None] + dot(weights.astype(v.dtype), v)
        return y, more, total

    y = jnp.zeros((size, q.shape[1]), jnp.float32)
    best, total = jnp.full(size, -jnp.inf, jnp.float32), jnp.zeros(size, jnp.float32)
    full, end = _keys_of(begin, size, step, length, causal)
    y, best, total = _walk(jnp.zeros_like(full), full, end, body, (y, best, total))
    total = jnp.maximum(total, 1e-30)  # a row without a key
    cut.write(y_ref, begin, y / (total * (1 - cut.options.rate))[:, None])
    cut.write(log_sum_ref, begin, best + jnp.log2(total))


def _queries_kernel(
    cut, bias_ref, length_ref, seed_ref, log_sum_ref, delta_ref, q_ref, k_ref, v_ref, g_ref,
    of_q_ref, of_bias_ref=None,
):  # fmt: skip
    size, step, causal = cut.blocks.queries, cut.blocks.keys, cut.options.causal
    begin, length = pl.program_id(0) * size, length_ref[0]
    query = begin + jnp.arange(size)
    q, g = cut.rows(q_ref, begin, size), cut.rows(g_ref, begin, size)
    seed, log_sum, delta = (
        cut.numbers(ref, begin, size)[:, None] for ref in (seed_ref, log_sum_ref, delta_ref)
    )
    factor = cut.width**-0.5 / (1 - cut.options.rate)

    def body(whole, number, of_q):
        first = number * step
        k = cut.rows(k_ref, first, step, first, whole)
        v = cut.rows(v_ref, first, step, first, whole)
        column = (first + jnp.arange(step))[None, :]
        weights = cut.powers(cut.scores(bias_ref, begin, first, dot(q, k.T)), log_sum)
        if not whole:
            weights = jnp.where(_counts(query[:, None], column, length, causal), weights, 0)
        slope = dot(g, v.T)
        if cut.options.rate:
            slope = jnp.where(cut.kept(seed, column), slope, 0)
        slope = weights * (slope - delta)
        if of_bias_ref is not None:
            there = (query < cut.time)[:, None] & (column < cut.time)
            at = of_bias_ref.at[pl.ds(begin, size), pl.ds(first, step)]
            plgpu.store(at, (slope * factor).astype(of_bias_ref.dtype), mask=there)
        return of_q + dot(slope.astype(k.dtype), k)

    full, end = _keys_of(begin, size, step, length, causal)
    if of_bias_ref is not None:  # also what no query looks at: its gradient is 0
        end = jnp.zeros_like(end) + pl.cdiv(cut.time, step)
    zero = jnp.zeros((size, q.shape[1]), jnp.float32)
    of_q = _walk(jnp.zeros_like(full), full, end, body, zero)
    cut.write(of_q_ref, begin, of_q * factor)


def _keys_kernel(
    cut, bias_ref, length_ref, seed_ref, log_sum_ref, delta_ref, q_ref, k_ref, v_ref, g_ref,
    of_k_ref, of_v_ref,
):  # fmt: skip
    """Keys before queries, [keys, queries]: so no T x T is transposed."""
    size, step, causal = cut.blocks.keys, cut.blocks.queries, cut.options.causal
    begin, length = pl.program_id(0) * size, length_ref[0]
    column = (begin + jnp.arange(size))[:, None]
    k, v = cut.rows(k_ref, begin, size), cut.rows(v_ref, begin, size)

    def body(whole, number, carry):
        of_k, of_v = carry
        first = number * step
        q = cut.rows(q_ref, first, step, first, whole)
        g = cut.rows(g_ref, first, step, first, whole)
        seed, log_sum, delta = (
            cut.numbers(ref, first, step, first, whole)[None, :]
            for ref in (seed_ref, log_sum_ref, delta_ref)
        )
        scores = cut.scores(bias_ref, first, begin, dot(k, q.T), turned=True)
        weights = cut.powers(scores, log_sum)
        if causal:
            query = (first + jnp.arange(step))[None, :]
            weights = jnp.where(column <= query, weights, 0)
        slope, dropped = dot(v, g.T), weights
        if cut.options.rate:
            kept = cut.kept(seed, column)
            slope, dropped = jnp.where(kept, slope, 0), jnp.where(kept, weights, 0)
        of_v += dot(dropped.astype(g.dtype), g)
        of_k += dot((weights * (slope - delta)).astype(q.dtype), q)
        return of_k, of_v

    some = (begin < length).astype(jnp.int32)  # nothing for blocks of which no key counts
    full, end = some * (cut.time // step), some * pl.cdiv(cut.time, step)
    zero = jnp.zeros((size, k.shape[1]), jnp.float32)
    start = jax.lax.div(begin, step) if causal else jnp.zeros_like(full)
    of_k, of_v = _walk(start, full, end, body, (zero, zero))
    counts = column < length  # the others met weights of any size, in their own rows alone
    kept = 1 / (1 - cut.options.rate)
    cut.write(of_k_ref, begin, jnp.where(counts, of_k, 0) * (cut.width**-0.5 * kept))
    cut.write(of_v_ref, begin, jnp.where(counts, of_v, 0) * kept)


def _counts(query, column, length, causal: bool):
    """Whether a query looks at a key."""
    valid = column < length
    return valid & (column <= query) if causal else valid


def _keys_of(begin, size: int, step: int, length, causal: bool):
    """Of a block of queries: how many blocks of keys it sees all of, and how many at all."""
    seen, every = (length, length)
    if causal:
        seen, every = jnp.minimum(length, begin + 1), jnp.minimum(length, begin + size)
    return jax.lax.div(seen, step), jax.lax.div(every + step - 1, step)
