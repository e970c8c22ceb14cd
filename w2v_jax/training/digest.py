"""Digests of arrays: the same number on every mesh, another one as soon as a bit differs."""

import copy
import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

GOLDEN = 0x9E3779B1  # 2^32 / golden ratio, made odd: spreads the indices over 32 bits


def digests(tree: Any) -> dict[str, int]:
    """One uint32 for every array of a tree, by its path ("params/encoder/norm/scale").

    The bits of every element are mixed with its index, and the sum modulo 2^32 is taken. Integer
    sums do not depend on their order, so neither do digests on the mesh or the number of processes
    (all of which must call this for global arrays). Any change of one element changes the digest;
    changes of several go unnoticed with a probability of 2^-32. Elements of bool, of integer or of
    real types of up to 8 bytes.
    """
    arrays = {path_name(path): x for path, x in jax.tree.leaves_with_path(tree)}
    if not arrays:
        return {}
    shardings = {x.sharding for x in arrays.values() if isinstance(x, jax.Array)}
    mesh = next((s.mesh for s in shardings if isinstance(s, NamedSharding)), None)
    # every process has the whole of a replicated result
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    values = jax.jit(_digests, out_shardings=everywhere)(list(arrays.values()))
    return dict(zip(arrays, np.asarray(values).tolist(), strict=True))


def path_name(path: tuple) -> str:
    """The path of a leaf as words between slashes, the same for a dataclass and a dict."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _digests(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([_digest(x) for x in arrays])


def _digest(x: jax.Array) -> jax.Array:
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    # 8 bytes become two words in a last axis of their own
    word = jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")
    bits = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    # no reshape: a sharded array stays where it is
    index, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        index += place * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(_mixed(bits ^ (index * jnp.uint32(GOLDEN))), dtype=jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
    """The last step of MurmurHash3: a permutation of the uint32, every bit moves every other.

    A plain product of bits and index would not see the signs of two elements flipped: each adds
    2^31, whatever its factor.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def differing(tree: Any, known: Mapping[str, int]) -> list[str]:
    """The paths of the arrays whose digest is another one, or none, in `known`."""
    return [name for name, digest in digests(tree).items() if known.get(name) != digest]


def seal(meta: Mapping[str, Any], tree: Any) -> dict[str, Any]:
    """A copy of `meta` (JSON) with the digests of a tree of arrays and a checksum over all of it.

    A copy, because it is written later, while the one who called goes on with the original.
    """
    content = {**copy.deepcopy(dict(meta)), "digests": digests(tree)}
    return content | {"crc32": _crc32(content)}


def unseal(sealed: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int] | None]:
    """(meta, digests) of `seal`; digests is None for what was saved without a seal.

    Raises ValueError where the checksum is another one.
    """
    content = dict(sealed)
    if not {"digests", "crc32"} & content.keys():  # one flipped bit leaves one of the two
        return content, None
    if content.pop("crc32", None) != _crc32(content):
        raise ValueError("its description has another checksum")
    known = content.pop("digests")
    return content, known


def _crc32(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
