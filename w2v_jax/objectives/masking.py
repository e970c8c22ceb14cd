"""Span masks over time and channels (wav2vec 2.0 section 3.1, fairseq compute_mask_indices).

Two differences from fairseq, both on purpose: spans may cover the last frame (fairseq's starts
end one short, so it never does), and rows keep their own number of masked frames (fairseq throws
masked frames away until all rows have equally many, which halves the mean span).
"""

import jax
import jax.numpy as jnp


def utterance_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    """One key per utterance from the step's key: masks follow the utterance, not its row."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def span_mask(
    keys: jax.Array, length: jax.Array, size: int, *, prob: float, span: int, minimum: int = 0
) -> jax.Array:
    """Random spans of `span` positions, starts without replacement, overlaps allowed.

    keys [B]; length int32 [B]: positions in use; size: static width of the result. Every row has
    int(prob * length / span + u) spans, u uniform in [0, 1), and at least `minimum`. Where a row
    is too short for that many, the spans shrink: one position at least stays unmasked.
    Returns bool [B, size]. A row's mask does not depend on `size` or on the other rows.
    """

    def row(key: jax.Array, n: jax.Array) -> jax.Array:
        round_key, start_key = jax.random.split(key)
        count = (prob * n / span + jax.random.uniform(round_key)).astype(jnp.int32)
        count = jnp.clip(count, minimum, jnp.maximum(n - 1, 0))
        width = jnp.clip((n - 1) // jnp.maximum(count, 1), 1, span)
        position = jnp.arange(size)
        # element i of a one-dimensional draw depends on the key and i alone: not on `size`
        score = jax.random.uniform(start_key, (size,))
        score = jnp.where(position <= n - width, score, 2.0)
        rank = jnp.argsort(jnp.argsort(score))
        started = jnp.cumsum(rank < count)
        before = jnp.where(position >= width, started[(position - width) % size], 0)
        return (started > before) & (position < n)

    return jax.vmap(row)(keys, length)


def started_spans(keys: jax.Array, size: int, *, prob: float, span: int) -> jax.Array:
    """Spans of `span` positions, of which every position starts one with probability `prob`,
    whatever the others do; they may overlap, and end with the row (BEST-RQ, arXiv 2202.01855).

    keys [B] -> bool [B, size]. What a row masks does not depend on `size` or on the other rows.
    """

    def row(key: jax.Array) -> jax.Array:
        started = jnp.cumsum(jax.random.uniform(key, (size,)) < prob)
        before = jnp.concatenate([jnp.zeros(span, started.dtype), started])[:size]
        return started > before

    return jax.vmap(row)(keys)


def expected_share(prob: float, span: int) -> float:
    """Of the frames, that `span_mask` masks: a span starts at prob / span of them (wav2vec 2.0,
    section 4.2: 49 %)."""
    return 1 - (1 - prob / span) ** span


def max_masked(frames: int, *, prob: float, span: int, minimum: int = 0) -> int:
    """The largest number of frames that `span_mask` can mask in a row of `frames`."""
    return min(frames, max(minimum, int(prob * frames / span + 1)) * span)


def masked_frames(mask: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Indices of the masked frames in order, and which of the slots are real.

    mask bool [B, T] -> (int32 [B, size], bool [B, size]); surplus slots point at unmasked frames.
    """
    index = jnp.argsort(~mask, axis=1, stable=True)[:, :size]
    return index, jnp.arange(size)[None, :] < mask.sum(1, keepdims=True)
