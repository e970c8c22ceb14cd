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
import math
import struct
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w2v_jax.models.kernels.dropout import keeps
from w2v_jax.models.kernels.relative_bias import relative_bias
from w2v_jax.models.kernels.triton import dot, instruction

WIDTHS = range(16, 129)  # of a head; others than powers of 2 are padded
_EXCLUDED = 0.7 * float(jnp.finfo(jnp.float32).min)
_LOG2E = math.log2(math.e)


class Blocks(NamedTuple):
    """How a kernel is cut: queries and keys at a time, warps of a program, stages of its loads."""

    queries: int
    keys: int
    warps: int
    stages: int


class Plan(NamedTuple):
    """The blocks of the three kernels."""

    forward: Blocks
    keys: Blocks  # the gradients of keys and values
    queries: Blocks  # the gradient of the queries


# the fastest of 20 on an H200, BASE's shape (heads of 64) and heads of 80
NARROW = Plan(Blocks(64, 64, 4, 3), Blocks(64, 64, 4, 4), Blocks(64, 64, 4, 3))
WIDE = Plan(Blocks(64, 32, 4, 3), Blocks(64, 64, 4, 2), Blocks(64, 32, 4, 3))  # heads above 64
FLOAT32 = Plan(*[Blocks(32, 32, 4, 1)] * 3)  # twice the bytes: what cards of 100 KB can share


class Options(NamedTuple):
    """What a kernel is compiled for."""

    rate: float
    causal: bool
    plan: Plan
    interpret: bool  # on the CPU, for tests


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
    call = _Call(query, options, options.plan.forward, "attention_forward")
    y, log_sum = call(
        _forward_kernel, call.blocks.queries, bias,
        "length", "row_block", "block", "all", "all", out=("block", "row_block"),
        shapes=(query, jax.ShapeDtypeStruct((h, b, t), jnp.float32)),
    )(length, seeds, query, key, value)  # fmt: skip
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
    call = _Call(query, options, options.plan.keys, "attention_gradient_of_keys")
    return call(
        _keys_kernel, call.blocks.keys, bias, "length", "row_all", "row_all", "row_all",
        "all", "block", "block", "all",
        out=("block", "block"), shapes=(key, value),
    )(*arrays)  # fmt: skip


def _gradient_of_queries(options: Options, bias: jax.Array | None, *arrays: jax.Array):
    *_, query, _, _, _ = arrays
    call = _Call(query, options, options.plan.queries, "attention_gradient_of_queries")
    return call(
        _queries_kernel, call.blocks.queries, bias,
        "length", "row_block", "row_block", "row_block", "block", "all", "all", "block",
        out=("block",) if bias is None else ("block", "scores"),
        shapes=(query,) if bias is None else (query, bias),
    )(*arrays)  # fmt: skip


_attention.defvjp(_forward, _backward)


class _Call:
    """A kernel over a grid of (blocks of time, head, row)."""

    def __init__(self, query: jax.Array, options: Options, blocks: Blocks, name: str):
        self.b, self.t, self.h, self.d = query.shape
        limit = max(pl.next_power_of_2(self.t), 16)
        self.blocks = blocks._replace(
            queries=min(blocks.queries, limit), keys=min(blocks.keys, limit)
        )
        self.options, self.name = options, name

    def __call__(self, kernel, size: int, bias: jax.Array | None, *inputs: str, out, shapes):
        """A function of the arrays of `inputs`; the bias comes after them, if there is one."""
        whole = max(self.blocks.queries, self.blocks.keys)
        whole *= pl.cdiv(self.t, whole)  # all of time; what lies beyond its end is never read
        width = pl.next_power_of_2(self.d)
        specs = {
            "length": pl.BlockSpec((1,), lambda i, h, b: (b,)),
            "row_block": pl.BlockSpec((None, None, size), lambda i, h, b: (h, b, i)),
            "row_all": pl.BlockSpec((None, None, whole), lambda i, h, b: (h, b, 0)),
            "block": pl.BlockSpec((None, size, None, width), lambda i, h, b: (b, i, h, 0)),
            "all": pl.BlockSpec((None, whole, None, width), lambda i, h, b: (b, 0, h, 0)),
        }
        if bias is not None:
            shape = None, None, whole, max(whole, bias.shape[3])
            specs["scores"] = pl.BlockSpec(shape, lambda i, h, b: (b, h, 0, 0))
            inputs += ("scores",)
        options, blocks = self.options, self.blocks
        pick = lambda names: jax.tree.map(lambda name: specs[name], names)  # noqa: E731
        cut = _Cut(self.t, self.d, blocks, options, None if bias is None else len(inputs) - 1)
        run = pl.pallas_call(
            functools.partial(_sorted, kernel, cut),
            grid=(pl.cdiv(self.t, size), self.h, self.b),
            in_specs=pick(list(inputs)),
            out_specs=pick(out),
            out_shape=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes),
            compiler_params=plgpu.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
            interpret=options.interpret,
            name=self.name,
        )  # fmt: skip
        return run if bias is None else lambda *arrays: run(*arrays, bias)


def _sorted(kernel, cut: "_Cut", *refs) -> None:
    """Calls a kernel with the reference to the bias first, None where there is none."""
    refs = list(refs)
    bias = None if cut.bias_at is None else refs.pop(cut.bias_at)
    kernel(cut, bias, *refs)


class _Cut(NamedTuple):
    """What a kernel knows of the arrays, and how it reads them by blocks of time: what lies beyond
    its end, or beyond the width of a head, is 0."""

    time: int
    width: int
    blocks: Blocks
    options: Options
    bias_at: int | None  # of the references of a kernel, which is that of the bias

    def scores(self, bias_ref, query, column, products, turned: bool = False):
        """Products of queries and keys plus their bias; query and column: where the tile begins."""
        if bias_ref is None:
            return products
        shape = products.shape[::-1] if turned else products.shape
        mask = (query + jnp.arange(shape[0]) < self.time)[:, None]
        mask = mask & (column + jnp.arange(shape[1]) < self.time)[None, :]
        at = bias_ref.at[pl.ds(query, shape[0]), pl.ds(column, shape[1])]
        bias = plgpu.load(at, mask=mask, other=0)
        return products + (bias.T if turned else bias).astype(jnp.float32)

    def powers(self, scores, minus):
        """2^(scores / sqrt(d) * log2(e) - minus): exponentials of base e, where minus is the
        logarithm of base 2; in two instructions."""
        scale = self.width**-0.5 * _LOG2E
        minus = jnp.broadcast_to(minus, scores.shape)
        if self.options.interpret:
            return jnp.exp2(scores * scale - minus)
        bits = struct.unpack("<I", struct.pack("<f", scale))[0]
        return instruction(
            f"{{ .reg .f32 x; fma.rn.ftz.f32 x, $1, 0f{bits:08X}, $2; ex2.approx.ftz.f32 $0, x; }}",
            scores, -minus,
        )  # fmt: skip

    def kept(self, seed, column):
        """Of the weights, by dropout."""
        return keeps(seed, column.astype(jnp.uint32), self.options.rate)

    def rows(self, ref, begin, size: int, at=0, whole: bool = False):
        """[size, d padded] of the frames from `begin` on, which stand in `ref` from `at` on; whole:
        all of them are there."""
        columns = jnp.arange(ref.shape[-1])
        masks = []
        if self.width < ref.shape[-1]:
            masks.append(columns[None, :] < self.width)
        if not whole:
            masks.append((begin + jnp.arange(size) < self.time)[:, None])
        mask = functools.reduce(jnp.logical_and, masks) if masks else None
        if mask is not None:
            mask = jnp.broadcast_to(mask, (size, ref.shape[-1]))
        return plgpu.load(ref.at[pl.ds(at, size), :], mask=mask, other=None if mask is None else 0)

    def numbers(self, ref, begin, size: int, at=0, whole: bool = False):
        """[size], one number of each frame."""
        mask = None if whole else begin + jnp.arange(size) < self.time
        return plgpu.load(ref.at[pl.ds(at, size)], mask=mask, other=None if whole else 0)

    def write(self, ref, begin, x) -> None:
        """A block [size, d padded] or [size] of the frames from `begin` on."""
        mask = begin + jnp.arange(len(x)) < self.time
        if x.ndim == 2:
            mask = mask[:, None] & (jnp.arange(x.shape[1]) < self.width)[None, :]
        plgpu.store(ref, x.astype(ref.dtype), mask=mask)


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
    scale = cut.width**-0.5 * _LOG2E

    def body(whole, number, carry):
        y, best, total = carry
        first = number * step
        k = cut.rows(k_ref, first, step, first, whole)
        scores = cut.scores(bias_ref, begin, first, dot(q, k.T))
        column = first + jnp.arange(step)
        if not whole:
            scores = jnp.where(_counts(query[:, None], column[None, :], length, causal),
                               scores, _EXCLUDED)  # fmt: skip
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
