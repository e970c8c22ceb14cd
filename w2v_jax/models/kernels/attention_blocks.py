"""How the attention kernels are cut into blocks, called over a grid, and read their arrays."""

import functools
import math
import struct
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w2v_jax.models.kernels.dropout import keeps
from w2v_jax.models.kernels.triton import instruction

LOG2E = math.log2(math.e)


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


class Options(NamedTuple):
    """What a kernel is compiled for."""

    rate: float
    causal: bool
    plan: Plan
    interpret: bool  # on the CPU, for tests


class Call:
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
        cut = Cut(self.t, self.d, blocks, options, None if bias is None else len(inputs) - 1)
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


def _sorted(kernel, cut: "Cut", *refs) -> None:
    """Calls a kernel with the reference to the bias first, None where there is none."""
    refs = list(refs)
    bias = None if cut.bias_at is None else refs.pop(cut.bias_at)
    kernel(cut, bias, *refs)


class Cut(NamedTuple):
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
        scale = self.width**-0.5 * LOG2E
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
