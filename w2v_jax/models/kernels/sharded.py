"""Kernels on a mesh: the compiler cannot cut them into parts, so each device runs its own."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec

Names = tuple[str | None, ...]  # the logical names of an array's dimensions


def per_device(
    kernel: Callable, arrays: Sequence[jax.Array | None], names: Sequence[Names], out: int
) -> Any:
    """kernel(*arrays), on the mesh in force each device for the part that it holds of them.

    names: of the dimensions of every array, as in training/sharding.py; a dimension that its axes
    of the mesh do not divide is whole everywhere. All that the kernel returns is cut as the array
    of the number `out`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:
        return kernel(*arrays)
    specs = [_spec(a, n, mesh) for a, n in zip(arrays, names, strict=True)]
    run = jax.shard_map(kernel, in_specs=tuple(specs), out_specs=specs[out], check_vma=False)
    return run(*arrays)


def _spec(array: jax.Array | None, names: Names, mesh: Any) -> PartitionSpec:
    if array is None:
        return PartitionSpec()
    axes = nn.logical_to_mesh_axes(names)
    found = []
    for size, axis in zip(array.shape, axes, strict=True):
        parts = (axis,) if isinstance(axis, str) else tuple(axis or ())
        found.append(None if size % math.prod(mesh.shape[p] for p in parts) else axis)
    return PartitionSpec(*found)
