"""The mesh and the one table from logical axis names to mesh axes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from w2v_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
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
        raise UserError(f"mesh {text}: only one axis may be -1; set --config.mesh.data=-1 alone")
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    total = sizes[0] * sizes[1] * sizes[2]
    if total != len(devices) or 0 in sizes:
        raise UserError(
            f"mesh {text} does not fit {len(devices)} devices; set one of --config.mesh.data, "
            "fsdp, tensor to -1, or make their product the number of devices"
        )
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes), AXES, axis_types=auto, devices=devices)


def shards_of_batch(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of arrays [A, B, ...]: accumulation axis whole, rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def tree_shardings(abstract: Any, mesh: Mesh) -> Any:
    """NamedShardings of a tree with `nn.LogicallyPartitioned` boxes (from jax.eval_shape).

    A dimension that its mesh axis does not divide stays whole.
    """
    specs = nn.get_partition_spec(abstract)
    table = dict(RULES)

    def one(spec: PartitionSpec, leaf) -> NamedSharding:
        axes, used = [], set()
        for name, size in zip(tuple(spec) + (None,) * leaf.ndim, leaf.shape, strict=False):
            axis = table.get(name)
            if axis in used or (axis is not None and size % mesh.shape[axis]):
                axis = None
            used.add(axis)
            axes.append(axis)
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(
        one, specs, nn.meta.unbox(abstract), is_leaf=lambda x: isinstance(x, PartitionSpec)
    )
