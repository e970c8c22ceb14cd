"""BEST-RQ's task: which code of a frozen random codebook a masked frame has (arXiv 2202.01855)."""

import jax
import jax.numpy as jnp


def stacked(x: jax.Array, size: int, count: int) -> jax.Array:
    """`size` frames side by side: x [B, T, D] -> [B, count, size * D], zeros beyond the end."""
    missing = max(count * size - x.shape[1], 0)
    x = jnp.pad(x, ((0, 0), (0, missing)) + ((0, 0),) * (x.ndim - 2))[:, : count * size]
    return x.reshape(len(x), count, -1)


def wholly(mask: jax.Array, size: int, count: int) -> jax.Array:
    """Which of `count` stacks of `size` frames are masked as a whole: bool [B, T] -> [B, count].
    One that reaches beyond the end is not."""
    return stacked(mask, size, count).all(-1)


def code_counts(codes: jax.Array, counted: jax.Array, number: int) -> jax.Array:
    """How often each of `number` codes occurs: int [B, T, G], bool [B, T] -> float32 [G, V]."""
    chosen = codes[..., None] == jnp.arange(number)
    return (chosen & counted[:, :, None, None]).sum((0, 1)).astype(jnp.float32)


def mean_perplexity(counts):
    """exp(entropy) of the counts [G, V], the mean of the codebooks: 1 to V; 1 of no counts."""
    shares = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    return jnp.exp(-jax.scipy.special.xlogy(shares, shares).sum(-1)).mean()


def prediction_loss(
    logits: jax.Array, codes: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross entropy of the codes, the mean of the codebooks.

    logits float32 [B, T, G, V]; codes int32 [B, T, G]; counted bool [B, T] -> float32 scalars: the
    loss in nats summed over the frames that count, the frames whose code wins, and the frames.
    """
    label = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
    loss = (jax.nn.logsumexp(logits, axis=-1) - label).mean(-1)
    won = (logits.argmax(-1) == codes).astype(jnp.float32).mean(-1)
    total = lambda x: jnp.where(counted, x, 0.0).sum()  # noqa: E731
    return total(loss), total(won), counted.sum().astype(jnp.float32)
