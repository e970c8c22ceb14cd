"""The mesh and the one table from logical axis names to mesh axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from w2v_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
PARTS = 2  # names of a path that say of which part of the model an array is
# logical name -> mesh axis; a name that is not here, or an axis that does not divide, is replicated
RULES = (
    ("batch", BATCH_AXES),
    ("embed", "fsdp"),
    ("conv_out", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("vocab", "tensor"),
)


def make_mesh(shape: Mapping[str, int], devices=None) -> Mesh:
    """A mesh with axes data, fsdp, tensor; one size may be -1 and takes what is left."""
    devices = jax.devices() if devices is None else devices
    sizes = [shape.get(axis, 1) for axis in AXES]
    known = 1
    for size in sizes:
        known *= size if size != -1 else 1
    text = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1:
        raise UserError(
            f"mesh {text}: only one axis may be -1; set --config.run.mesh.data=-1 alone"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    total = sizes[0] * sizes[1] * sizes[2]
    if total != len(devices) or 0 in sizes:
        raise UserError(
            f"mesh {text} does not fit {len(devices)} devices; set one of --config.run.mesh.data, "
            "fsdp, tensor to -1, or make their product the number of devices"
        )
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=auto, devices=devices)
    except NotImplementedError:  # no whole axes of the TPU's torus multiply to these sizes: cut one
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES, axis_types=auto)


def shards_of_batch(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def local_parts(mesh: Mesh) -> tuple[int, ...]:
    """Which of these parts the devices of this process hold.

    Processes that differ in the tensor axis alone hold the same ones.
    """
    parts = np.arange(shards_of_batch(mesh)).reshape((*mesh.devices.shape[:2], 1))
    local = np.vectorize(lambda device: device.process_index == jax.process_index())(mesh.devices)
    return tuple(int(part) for part in np.unique(np.broadcast_to(parts, local.shape)[local]))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays [A, B, ...]: accumulation axis whole, rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def placement(
    names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh
) -> tuple[PartitionSpec, list[str]]:
    """(spec of an array whose dimensions have these logical names, remarks).

    A dimension whose axis another one has taken stays whole, and one that its mesh axis does not
    divide, of which the remarks tell. So does an array that lacks dimensions of its names: means
    over rows or columns, of Adafactor, which are small.
    """
    if len(names) > len(shape):
        return PartitionSpec(), []
    table = dict(RULES)
    axes, remarks = [], []
    for name, size in zip(names + (None,) * (len(shape) - len(names)), shape, strict=True):
        axis = table.get(name)
        if axis is not None and size % mesh.shape[axis]:
            remarks.append(f"{axis} {mesh.shape[axis]} does not divide {name} {size}")
            axis = None
        axes.append(None if axis in axes else axis)
    return PartitionSpec(*axes), remarks


def tree_shardings(abstract: Any, mesh: Mesh) -> Any:
    """NamedShardings of a tree with `nn.LogicallyPartitioned` boxes (from jax.eval_shape)."""

    def one(spec: PartitionSpec, leaf) -> NamedSharding:
        return NamedSharding(mesh, placement(tuple(spec), leaf.shape, mesh)[0])

    return jax.tree.map(
        one, nn.get_partition_spec(abstract), nn.meta.unbox(abstract),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )  # fmt: skip


class _Parameter(NamedTuple):
    """Of a model on a mesh."""

    name: str
    shape: tuple[int, ...]
    size: int
    local: int  # numbers of it that one device holds
    spec: PartitionSpec
    remarks: list[str]  # why a dimension stays whole


def _parameters(boxed: Any, mesh: Mesh) -> list[_Parameter]:
    specs = jax.tree.leaves(
        nn.get_partition_spec(boxed), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
    found = []
    for (path, leaf), spec in zip(
        jax.tree_util.tree_leaves_with_path(nn.meta.unbox(boxed)), specs, strict=True
    ):
        spec, remarks = placement(tuple(spec), leaf.shape, mesh)
        parts = math.prod(mesh.shape[axis] for axis in spec if axis)
        name = "/".join(str(key.key) for key in path)
        found.append(_Parameter(name, leaf.shape, leaf.size, leaf.size // parts, spec, remarks))
    return found


def parameter_table(boxed: Any, mesh: Mesh) -> str:
    """A line per parameter: path, shape, size, sharding, and why a dimension stays whole.

    boxed: parameters with their logical names, from jax.eval_shape.
    """
    parameters = _parameters(boxed, mesh)
    rows = [("parameter", "shape", "size", "sharding", "")]
    for x in parameters:
        axes = ", ".join(f"{axis} {mesh.shape[axis]}" for axis in x.spec if axis)
        axes = axes if x.local < x.size else "replicated"
        shape = " x ".join(map(str, x.shape))
        rows.append((x.name, shape, f"{x.size:,}", axes, "; ".join(x.remarks)))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        f"{name:<{widths[0]}}  {shape:>{widths[1]}}  {size:>{widths[2]}}  {axes:<{widths[3]}}  "
        f"{remarks}".rstrip()
        for name, shape, size, axes, remarks in rows
    ]
    return "\n".join([*lines, _totals(parameters, mesh)])


def parameter_summary(boxed: Any, mesh: Mesh) -> str:
    """The table in short: a line per part of the model, one with the totals, and one per reason for
    which arrays stay whole."""
    parameters = _parameters(boxed, mesh)
    sizes: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for x in parameters:
        parent = x.name.rpartition("/")[0] or x.name
        part = "/".join(parent.split("/")[:PARTS])
        sizes[part] = sizes.get(part, 0) + x.size
        for remark in x.remarks:
            reasons[remark] = reasons.get(remark, 0) + 1
    name, size = max(map(len, sizes)), len(f"{max(sizes.values()):,}")
    lines = [f"{part:<{name}}  {count:>{size},}" for part, count in sizes.items()]
    lines.append(_totals(parameters, mesh))
    lines += [f"whole in {times} arrays: {reason}" for reason, times in reasons.items()]
    return "\n".join(lines)


def _totals(parameters: Sequence[_Parameter], mesh: Mesh) -> str:
    total, local = sum(x.size for x in parameters), sum(x.local for x in parameters)
    text = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"{total:,} parameters, {local:,} per device; mesh: {text}"
