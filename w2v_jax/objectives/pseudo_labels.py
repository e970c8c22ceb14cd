"""Labels that a CTC model makes for itself, and the cache that keeps them.

The cache is one int32 array. A row of a batch begins at its place `at` with the item (-1: none) and
the number of its labels, then the labels.
"""

import jax
import jax.numpy as jnp

NOTHING = -1  # in the place of an item


def best_paths(
    logits: jax.Array, frames: jax.Array, letters: jax.Array, boundary: int, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Greedy labels as transcripts are encoded: repeats merged, blanks and special symbols removed,
    single boundaries between words and none at the ends.

    logits [B, T, V]; frames int32 [B] that count; letters bool [V]: ids that are letters or the
    boundary. Returns (labels int32 [B, size], 0 beyond the end; their count int32 [B], above `size`
    where there is no room for all; blank frames int32 [B]).
    """
    ids = logits.argmax(-1)
    valid = jnp.arange(ids.shape[1]) < frames[:, None]
    before = jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    written = valid & (ids != before) & letters[ids]

    def row(ids: jax.Array, written: jax.Array) -> tuple[jax.Array, jax.Array]:
        index = jnp.arange(len(ids))
        # the letter written before each frame; a boundary follows a letter
        last = jax.lax.cummax(jnp.where(written, index, -1))
        last = jnp.pad(last[:-1], (1, 0), constant_values=-1)
        between = (last >= 0) & (ids[last] != boundary)
        written = written & ((ids != boundary) | between)
        count = written.sum()
        place = jnp.where(written, jnp.cumsum(written) - 1, size)
        labels = jnp.zeros(size, jnp.int32).at[place].set(ids.astype(jnp.int32), mode="drop")
        end = jnp.where(written, index, -1).max()
        trailing = (end >= 0) & (ids[end] == boundary)
        count = count - trailing
        return jnp.where(jnp.arange(size) < count, labels, 0), count.astype(jnp.int32)

    labels, counts = jax.vmap(row)(ids, written)
    return labels, counts, (valid & (ids == 0)).sum(-1)


def read(cache: jax.Array, at: jax.Array, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(items int32 [B], counts int32 [B], labels int32 [B, width - 2]) of the rows at `at` [B]."""
    rows = cache[at[:, None] + jnp.arange(width)]
    return rows[:, 0], rows[:, 1], rows[:, 2:]


def written(
    cache: jax.Array, at: jax.Array, items: jax.Array, counts: jax.Array, labels: jax.Array
) -> jax.Array:
    """The cache with these rows; NOTHING as the item of a row that is not to be used."""
    rows = jnp.concatenate([items[:, None], counts[:, None], labels], 1)
    return cache.at[at[:, None] + jnp.arange(rows.shape[1])].set(rows)
