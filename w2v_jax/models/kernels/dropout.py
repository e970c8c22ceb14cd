"""Dropout whose mask costs next to nothing.

On CPUs and TPUs JAX's generator needs more time for a mask than the layer for its product: some
80 operations per element, in loops that no other operation fuses with. Here the key gives two
words by that generator, and a hash of them and the element's position gives the rest: 10 operations
that fuse with the multiplication, are computed again in the backward pass instead of stored, and
depend on the position alone, on any mesh.

The hash is `lowbias32` of Chris Wellons' Hash Prospector: when a bit of the input flips, every bit
of the output does in nearly half of all cases (nullprogram.com/blog/2018/07/31).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def scrambled(x: jax.Array) -> jax.Array:
    """A bijection of uint32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def seeds(words: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A seed for every row of an array: words uint32 [2], random -> uint32 [*shape]."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return scrambled(scrambled(index + words[0]) ^ words[1])


def keeps(seed: jax.Array, column: jax.Array, rate: float) -> jax.Array:
    """False with probability `rate` for an element of a row: uint32 that broadcast -> bool.

    It is scrambled(seed ^ place) >= limit, place and limit below, with what depends on rows or on
    columns alone taken out of the work per element: the first shift, and of the last one, which
    changes the lower half of the bits, all but what decides where the upper half is the limit's.
    """
    # neighbours lie far apart: multiples of 2^32 / golden ratio
    place = column * jnp.uint32(0x9E3779B9)
    limit = min(math.floor(rate * 2.0**32), 2**32 - 1)
    x = ((seed ^ (seed >> 16)) ^ (place ^ (place >> 16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return (x ^ jnp.uint32(limit >> 16)) >= jnp.uint32(limit)


def dropout_seed(key: jax.Array) -> jax.Array:
    """What `dropout` draws from, uint32 [2]."""
    return jax.random.bits(key, (2,), jnp.uint32)


def dropout(x: jax.Array, words: jax.Array, rate: float) -> jax.Array:
    """x with a share of `rate` set to 0 and the rest divided by 1 - rate."""
    columns = jnp.arange(x.shape[-1], dtype=jnp.uint32)
    kept = keeps(seeds(words, x.shape[:-1])[..., None], columns, rate)
    return jnp.where(kept, x / (1 - rate), 0)


def dropped(x: jax.Array, words: jax.Array | None, rate: float) -> jax.Array:
    """`dropout`, or x where there are no words to draw from."""
    return x if words is None else dropout(x, words, rate)


class Dropout(nn.Module):
    """`dropout` by the stream "dropout", or nothing where `deterministic` or rate is 0."""

    rate: float
    deterministic: bool

    def words(self) -> jax.Array | None:
        """What the layer draws from, for who drops by themselves; None for nothing to drop."""
        if self.deterministic or self.rate == 0:
            return None
        return dropout_seed(self.make_rng("dropout"))

    def __call__(self, x: jax.Array) -> jax.Array:
        return dropped(x, self.words(), self.rate)
