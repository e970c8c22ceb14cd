"""What stands between two products of a block, as one kernel on GPUs: each number is read once.

    h = x + dropout(branch);   y = gelu(layer norm(h))

where any of the three may be missing. Forward and backward hold whole rows (the channels of a
frame) in registers; the backward pass computes statistics and activation again from h, and leaves
the gradients of scale and bias as one row per program, which the compiler sums: every run gives the
same bits. XLA makes three to five passes of each of these.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from w2v_jax.models.kernels.dropout import keeps
from w2v_jax.models.kernels.triton import instruction

WIDEST = 8192  # channels of a row that a program holds
_ELEMENTS = 4096  # of a tile: so many numbers of each array at a time
_FLAT = 1024
_PROGRAMS = 1056  # of a backward pass with a norm: 8 for each of the 132 processors of an H100
# erf of Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: exact to 1.5e-7
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


class Rows(NamedTuple):
    """What is computed of every row."""

    rate: float = 0.0  # dropout of the branch
    norm: bool = False
    eps: float = 1e-5
    gelu: bool = False
    branch: bool = False
    both: bool = False  # h is an output besides y
    interpret: bool = False  # on the CPU, for tests


def fused_rows(
    x: jax.Array,
    branch: jax.Array | None = None,
    seeds: jax.Array | None = None,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    rate: float = 0.0,
    eps: float = 1e-5,
    gelu: bool = False,
    both: bool = False,
    interpret: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """y, or (h, y) for `both`: x and branch [..., D]; seeds uint32 [...] of the dropout of the
    branch's rows (`dropout.seeds`) or None; scale and bias float32 [D] of the layer norm or None;
    gelu: exact, in float32. Everything in float32 inside; h and y have the type of x."""
    shape = x.shape
    rows = Rows(
        rate if seeds is not None else 0.0, scale is not None, eps, gelu, branch is not None, both,
        interpret,
    )  # fmt: skip
    width = shape[-1]
    if not rows.norm and not rows.branch and x.size % _FLAT == 0:
        width = _FLAT  # no row is a whole: as wide as fills a tile
    flat = lambda a: None if a is None else a.reshape(-1, width)  # noqa: E731
    seeds = None if not rows.rate else seeds.reshape(-1)
    found = _rows(flat(x), flat(branch), seeds, scale, bias, rows)
    return jax.tree.map(lambda a: a.reshape(shape), found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _rows(x, branch, seeds, scale, bias, rows: Rows):
    return _forward(x, branch, seeds, scale, bias, rows)[0]


def _forward(x, branch, seeds, scale, bias, rows: Rows):
    tile = _Tile(x, rows)
    inputs = {"x": x, "branch": branch, "seeds": seeds, "scale": scale, "bias": bias}
    outputs = {"h": x if rows.branch else None, "y": x}
    found = tile.call(_forward_kernel, pl.cdiv(len(x), tile.size), inputs, outputs, "rows_forward")
    h = found.get("h", x)
    return (h, found["y"]) if rows.both else found["y"], (h, seeds, scale, bias)


def _backward(rows: Rows, residuals, gradient):
    h, seeds, scale, bias = residuals
    of_h, of_y = gradient if rows.both else (None, gradient)
    tile = _Tile(h, rows)
    programs = pl.cdiv(len(h), tile.size)
    if rows.norm:
        programs = min(programs, _PROGRAMS)
    partial = jax.ShapeDtypeStruct((programs, h.shape[1]), jnp.float32) if rows.norm else None
    found = tile.call(
        _backward_kernel, programs,
        {"h": h, "of_h": of_h, "of_y": of_y, "seeds": seeds, "scale": scale, "bias": bias},
        {"of_x": h, "of_branch": h if rows.rate else None, "of_scale": partial, "of_bias": partial},
        "rows_backward",
    )  # fmt: skip
    of_branch = found.get("of_branch", found["of_x"]) if rows.branch else None
    sums = (found[k].sum(0) if rows.norm else None for k in ("of_scale", "of_bias"))
    return found["of_x"], of_branch, None, *sums


_rows.defvjp(_forward, _backward)


class _Tile:
    """Rows that a program holds at a time."""

    def __init__(self, x: jax.Array, rows: Rows):
        self.count, self.width = x.shape
        self.rows = rows
        self.columns = pl.next_power_of_2(self.width)
        self.size = max(_ELEMENTS // self.columns, 1)

    def call(self, kernel, programs: int, inputs: dict, outputs: dict, name: str) -> dict:
        """Runs a kernel with the arrays that are not None, which it gets by name."""
        inputs, outputs = ({k: v for k, v in d.items() if v is not None} for d in (inputs, outputs))
        names = [*inputs, *outputs]

        def run(*refs):
            kernel(self, programs, dict(zip(names, refs, strict=True)))

        whole = pl.BlockSpec(memory_space=pl.ANY)
        found = pl.pallas_call(
            run, grid=(programs,), in_specs=[whole] * len(inputs), out_specs=[whole] * len(outputs),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs.values()],
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
            interpret=self.rows.interpret, name=name,
        )(*inputs.values())  # fmt: skip
        return dict(zip(outputs, found, strict=True))

    def _mask(self, number):
        inside = (number * self.size + jnp.arange(self.size) < self.count)[:, None]
        return inside & (jnp.arange(self.columns) < self.width)[None, :]

    def _place(self, ref, number):
        return ref.at[pl.ds(number * self.size, self.size), pl.ds(0, self.columns)]

    def read(self, ref, number) -> jax.Array:
        """The tile of a number, float32 [rows, columns]; 0 beyond the array."""
        x = plgpu.load(self._place(ref, number), mask=self._mask(number), other=0)
        return x.astype(jnp.float32)

    def write(self, ref, number, x) -> None:
        plgpu.store(self._place(ref, number), x.astype(ref.dtype), mask=self._mask(number))

    def vector(self, ref) -> jax.Array:
        """Scale or bias, [1, columns]."""
        mask = jnp.arange(self.columns) < self.width
        return plgpu.load(ref.at[pl.ds(0, self.columns)], mask=mask, other=0)[None, :]

    def kept(self, ref, number, x) -> jax.Array:
        """Dropout of a tile."""
        mask = number * self.size + jnp.arange(self.size) < self.count
        seed = plgpu.load(ref.at[pl.ds(number * self.size, self.size)], mask=mask, other=0)
        column = jnp.arange(self.columns).astype(jnp.uint32)
        kept = keeps(seed[:, None], column[None, :], self.rows.rate)
        return jnp.where(kept, x * (1 / (1 - self.rows.rate)), 0)

    def normal(self, h) -> tuple[jax.Array, jax.Array]:
        """A tile with mean 0 and variance 1 in every row, and the factor that made it so."""
        mean = h.sum(1, keepdims=True) * (1 / self.width)
        centred = h - mean
        if self.columns != self.width:
            centred = jnp.where((jnp.arange(self.columns) < self.width)[None, :], centred, 0)
        var = jnp.sum(centred * centred, 1, keepdims=True) * (1 / self.width)
        factor = jax.lax.rsqrt(var + self.rows.eps)
        return centred * factor, factor


def normal_curve(z: jax.Array, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """Phi(z) and the density of the normal distribution at z, of a tile in a kernel: GELU is z
    Phi(z), its slope Phi(z) + z density(z)."""
    if interpret:
        t = 1 / (1 + jnp.abs(z) * (_P * math.sqrt(0.5)))
        e = jnp.exp(-0.5 * z * z)
    else:
        t = instruction("rcp.approx.ftz.f32 $0, $1;", 1 + jnp.abs(z) * (_P * math.sqrt(0.5)))
        e = instruction("ex2.approx.ftz.f32 $0, $1;", z * z * (-0.5 * math.log2(math.e)))
    tail = 0.5 * e * t * functools.reduce(lambda sum, a: sum * t + a, reversed(_A))
    return jnp.where(z < 0, tail, 1 - tail), e * (1 / math.sqrt(2 * math.pi))


def _forward_kernel(tile: _Tile, programs: int, refs: dict) -> None:
    number, rows = pl.program_id(0), tile.rows
    y = tile.read(refs["x"], number)
    if rows.branch:
        branch = tile.read(refs["branch"], number)
        h = y + (tile.kept(refs["seeds"], number, branch) if rows.rate else branch)
        tile.write(refs["h"], number, h)
        y = h.astype(refs["h"].dtype).astype(jnp.float32)  # as the backward pass reads it
    if rows.norm:
        y = tile.normal(y)[0] * tile.vector(refs["scale"]) + tile.vector(refs["bias"])
    if rows.gelu:
        y *= normal_curve(y, rows.interpret)[0]
    tile.write(refs["y"], number, y)


def _backward_kernel(tile: _Tile, programs: int, refs: dict) -> None:
    rows = tile.rows

    def one(number, sums):
        h, g = tile.read(refs["h"], number), tile.read(refs["of_y"], number)
        z = h
        if rows.norm:
            unit, factor = tile.normal(h)
            scale = tile.vector(refs["scale"])
            z = unit * scale + tile.vector(refs["bias"]) if rows.gelu else unit
        if rows.gelu:
            phi, density = normal_curve(z, rows.interpret)
            g *= phi + z * density
        if rows.norm:
            sums = sums[0] + (g * unit).sum(0), sums[1] + g.sum(0)
            g *= scale
            of_unit = (g * unit).sum(1, keepdims=True) * (1 / tile.width)
            g = factor * (g - g.sum(1, keepdims=True) * (1 / tile.width) - unit * of_unit)
        if "of_h" in refs:
            g += tile.read(refs["of_h"], number)
        tile.write(refs["of_x"], number, g)
        if rows.rate:
            tile.write(refs["of_branch"], number, tile.kept(refs["seeds"], number, g))
        return sums

    program = pl.program_id(0)
    if not rows.norm:
        one(program, None)
        return
    tiles = pl.cdiv(tile.count, tile.size)
    each, more = divmod(tiles, programs)  # the first `more` programs have one tile more
    begin = program * each + jnp.minimum(program, more)
    end = begin + each + (program < more).astype(jnp.int32)
    zero = jnp.zeros(tile.columns, jnp.float32)
    sums = jax.lax.fori_loop(begin, end, one, (zero, zero))
    for ref, x in zip((refs["of_scale"], refs["of_bias"]), sums, strict=True):
        mask = jnp.arange(tile.columns) < tile.width
        plgpu.store(ref.at[program, pl.ds(0, tile.columns)], x, mask=mask)
