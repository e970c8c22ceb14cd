"""Next-token prediction."""

import jax
import jax.numpy as jnp
import optax


def token_log_probs(logits: jax.Array, tokens: jax.Array, length: jax.Array) -> jax.Array:
    """ln p(token | those before), float32 [B, L-1], of tokens [:, 1:]; 0 beyond the end.

    logits [B, L, V]: at every token those of the next; tokens int32 [B, L], the first of a row is
    given; length int32 [B], the first included.
    """
    logits, next_tokens = logits[:, :-1].astype(jnp.float32), tokens[:, 1:]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, next_tokens)
    valid = jnp.arange(1, tokens.shape[1])[None, :] < length[:, None]
    return jnp.where(valid, -loss, 0)


def next_token_loss(
    logits: jax.Array, tokens: jax.Array, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross entropy in nats, (sum, number of predicted tokens); arguments as `token_log_probs`."""
    count = (length - 1).clip(0).sum().astype(jnp.float32)
    return -token_log_probs(logits, tokens, length).sum(), count
