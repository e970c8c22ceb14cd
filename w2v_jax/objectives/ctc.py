"""The CTC loss with infeasible alignments left out and counted."""

import jax
import jax.numpy as jnp
import optax


def feasible(frames: jax.Array, labels: jax.Array, label_length: jax.Array) -> jax.Array:
    """True where `frames` suffice: one per letter, one more between two equal neighbours.

    frames, label_length int32 [B]; labels int32 [B, L] -> bool [B].
    """
    inside = jnp.arange(1, labels.shape[1])[None, :] < label_length[:, None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & inside).sum(1)
    return frames >= label_length + repeats


def ctc_loss(
    logits: jax.Array,
    frames: jax.Array,
    labels: jax.Array,
    label_length: jax.Array,
    weight: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """-log p(labels | logits) in nats, summed over utterances; blank is id 0.

    logits [B, T, L]; frames int32 [B]; labels int32 [B, U], label_length int32 [B]; weight float32
    [B]: 0 leaves a row out. An alignment that cannot exist has loss 0 and gradient 0, as torch's
    zero_infinity. Returns (sum, bool [B]: rows that counted).
    """
    # optax takes the softmax in the dtype it is given
    logits = logits.astype(jnp.float32)
    past_end = jnp.arange(logits.shape[1])[None, :] >= frames[:, None]
    past_label = jnp.arange(labels.shape[1])[None, :] >= label_length[:, None]
    loss = optax.ctc_loss(
        logits, past_end.astype(jnp.float32), labels, past_label.astype(jnp.float32), blank_id=0
    )
    counted = feasible(frames, labels, label_length) & (weight > 0)
    return jnp.where(counted, loss * weight, 0).sum(), counted
