"""HuBERT's task: which cluster a masked frame belongs to.

Source: arXiv 2106.07447 section III-B; fairseq hubert.py compute_nce, hubert_criterion.py.
"""

import jax
import jax.numpy as jnp

from w2v_jax.objectives.contrastive import unit


def label_index(frames: int, label_rate: float, frame_rate: float) -> jax.Array:
    """The label of every frame, int32 [T]: label_rate / frame_rate labels pass in one frame."""
    return jnp.floor(jnp.arange(frames) * (label_rate / frame_rate)).astype(jnp.int32)


def class_logits(context: jax.Array, embeddings: jax.Array, temperature: float) -> jax.Array:
    """cosine / temperature of context float32 [..., P] and embeddings [V, P] -> [..., V]."""
    return jnp.einsum("...p,vp->...v", unit(context), unit(embeddings)) / temperature


def masked_prediction_loss(
    context: jax.Array,
    embeddings: jax.Array,
    labels: jax.Array,
    scored: jax.Array,
    temperature: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross entropy over the classes of one label set.

    context float32 [B, T, P]; embeddings float32 [V, P]; the rest as of `class_loss`.
    """
    return class_loss(class_logits(context, embeddings, temperature), labels, scored)


def class_loss(
    logits: jax.Array, labels: jax.Array, scored: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross entropy of logits float32 [B, T, V]; labels int32 [B, T]; scored bool [B, T]: the
    masked frames, or the others.

    Returns the loss in nats summed over scored frames, the number of them whose class wins, no
    other as likely (where all are equal none does), and their number.
    """
    chance = jax.nn.log_softmax(logits, axis=-1)
    own = lambda x: jnp.take_along_axis(x, labels[..., None], axis=-1)  # noqa: E731
    loss = -own(chance)[..., 0]
    # no other class is at least as likely, itself always is
    won = ((logits >= own(logits)).sum(-1) == 1) & scored
    return jnp.where(scored, loss, 0).sum(), won.sum(), scored.sum()
