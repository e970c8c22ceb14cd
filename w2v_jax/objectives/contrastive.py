"""The contrastive task of wav2vec 2.0 (section 3.2) and the diversity loss of its codebooks.

Source: fairseq wav2vec2.py sample_negatives and compute_preds, wav2vec_criterion.py.
"""

import jax
import jax.numpy as jnp

EXCLUDED = -(2.0**30)  # finite, so that a row without any negative left gives loss 0, not NaN


def sample_negatives(
    keys: jax.Array, count: jax.Array, size: int, negatives: int, own: jax.Array | None = None
) -> jax.Array:
    """For every masked frame, other candidates of the same utterance, with replacement.

    keys [B]; count int32 [B]: candidates of each row; size: M; own int32 [B, M]: the candidate
    that is the frame itself, by default candidate i of frame i. Returns int32 [B, M, N], uniform
    over 0..count-1 without the frame itself.
    """
    if own is None:
        own = jnp.broadcast_to(jnp.arange(size), (len(keys), size))

    def row(key: jax.Array, n: jax.Array, own: jax.Array) -> jax.Array:
        others = jnp.maximum(n - 1, 1)
        # floor(u * k) rather than randint: element i of the draw depends on the key and i alone
        drawn = jax.random.uniform(key, (size * negatives,)).reshape(size, negatives)
        index = jnp.minimum((drawn * others).astype(jnp.int32), others - 1)
        return index + (index >= own[:, None])

    return jax.vmap(row)(keys, count, own)


def sample_cross_negatives(
    keys: jax.Array, present: jax.Array, own: jax.Array, negatives: int
) -> jax.Array:
    """For every masked frame, other candidates of the whole batch, with replacement.

    keys [B]; present bool [B, K]: candidates; own int32 [B, M]: the one of its row that is the
    frame itself. Returns int32 [B, M, N], indices into the B * K candidates, uniform over those
    present without the frame itself. (fairseq leaves out the right one in row 0 alone.)
    """
    rows, size = present.shape
    flat = present.ravel()
    order = jnp.argsort(~flat, stable=True)  # the candidates, counted through
    rank = (jnp.cumsum(flat) - 1).reshape(rows, size)
    rank = jnp.take_along_axis(rank, own, axis=1)
    drawn = sample_negatives(keys, jnp.full(rows, flat.sum()), own.shape[1], negatives, rank)
    return order[drawn]


def unit(x: jax.Array) -> jax.Array:
    """x / max(|x|, 1e-8) over the last axis, with a finite gradient at 0."""
    square = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-16))


def contrastive_loss(
    context: jax.Array,
    targets: jax.Array,
    codes: jax.Array | None,
    negatives: jax.Array,
    valid: jax.Array,
    temperature: float,
    own: jax.Array | None = None,
    usable: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """-log softmax of the true target among itself and its negatives, cosine / temperature.

    context float32 [B, M, Q] of the masked frames; targets float32 [B, K, Q] and codes int32
    [B, K, G] of the candidates, None where they have none; negatives int32 [B, M, N]: candidates,
    of which those with the codes of the positive do not count; valid bool [B, M]; own int32
    [B, M]: the positive of every frame, by default candidate i of frame i; usable bool [B, K]:
    candidates that count, by default `valid`. Returns the loss in nats summed over valid frames,
    the number of frames where the positive wins, and the frame count.

    All pairs of an utterance are one [M, K] product. A frame drawn k times weighs k in the
    softmax, so the negatives are counts over that matrix and [B, M, N, Q] never exists.
    """
    b, m, n = negatives.shape
    logits = jnp.einsum("bmq,bkq->bmk", unit(context), unit(targets)) / temperature
    rows = jnp.arange(b)[:, None, None], jnp.arange(m)[None, :, None]
    drawn = jnp.zeros(logits.shape).at[*rows, negatives].add(1.0)
    usable = valid if usable is None else usable
    if own is None:
        positive = jnp.diagonal(logits, axis1=1, axis2=2)  # [B, M]
    else:
        positive = jnp.take_along_axis(logits, own[:, :, None], axis=2)[:, :, 0]
    if codes is None:
        same = (jnp.arange(m) if own is None else own)[..., None] == jnp.arange(logits.shape[2])
    else:
        chosen = codes if own is None else jnp.take_along_axis(codes, own[:, :, None], axis=1)
        same = (chosen[:, :, None, :] == codes[:, None, :, :]).all(-1)  # [B, M, K], own ones too
    drawn = jnp.where(same | ~usable[:, None, :], 0, drawn)
    others = jnp.where(drawn > 0, logits, EXCLUDED)
    best = jax.lax.stop_gradient(jnp.maximum(positive, others.max(-1)))[:, :, None]
    total = jnp.exp(positive - best[:, :, 0]) + (drawn * jnp.exp(others - best)).sum(-1)
    loss = jnp.log(total) + best[:, :, 0] - positive
    # fairseq counts a win unless all logits are equal
    lowest = jnp.where(drawn.sum(-1) < n, EXCLUDED, jnp.where(drawn > 0, logits, jnp.inf).min(-1))
    won = (positive >= others.max(-1)) & (positive > lowest)
    return (loss * valid).sum(), (won & valid).sum(), valid.sum()


def across_batch(
    context: jax.Array,
    targets: jax.Array,
    codes: jax.Array | None,
    negatives: jax.Array,
    valid: jax.Array,
    own: jax.Array,
    usable: jax.Array,
) -> dict[str, jax.Array | None]:
    """The arguments of `contrastive_loss` with the whole batch as one long utterance.

    negatives index the B * K candidates of the batch already, own those of its row.
    """
    b, k = targets.shape[:2]
    arrays = dict(
        context=context, targets=targets, codes=codes, negatives=negatives, valid=valid,
        own=own + k * jnp.arange(b)[:, None], usable=usable,
    )  # fmt: skip
    return jax.tree.map(lambda x: x.reshape(1, x.shape[0] * x.shape[1], *x.shape[2:]), arrays)


def target_similarity(targets: jax.Array, usable: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum of the cosines, number) of all pairs of two targets of an utterance: a mean of 1 is one
    target for all. targets float32 [B, K, Q], usable bool [B, K]."""
    directions = unit(targets) * usable[:, :, None]
    count = usable.sum(1)
    every = jnp.square(directions.sum(1)).sum()  # each with itself, too
    return every - jnp.square(directions).sum(), (count * (count - 1)).sum().astype(jnp.float32)


def direction_moments(
    targets: jax.Array, usable: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(sum, sum of squares, number) of all usable targets, each of length 1: [Q], [Q], scalar."""
    directions = unit(targets) * usable[:, :, None]
    return directions.sum((0, 1)), jnp.square(directions).sum((0, 1)), usable.sum()


def direction_std(total, squares, count):
    """How far the targets are spread: the standard deviation of every dimension of what
    `direction_moments` adds up, their mean times sqrt(Q). 1 of targets of all directions, 0 of a
    single one (the monitor of SimSiam, arXiv 2011.10566). Of arrays of JAX or NumPy."""
    count = abs(count) + (count == 0)
    variance = squares / count - (total / count) ** 2
    return (abs(variance) ** 0.5).mean() * total.shape[-1] ** 0.5


def average_usage(x: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean of x [B, M, G, V] over the valid frames -> [G, V]; global when the batch is sharded."""
    weight = valid.astype(jnp.float32)
    return jnp.einsum("bmgv,bm->gv", x, weight) / jnp.maximum(weight.sum(), 1)


def perplexity(usage: jax.Array) -> jax.Array:
    """exp(entropy) of every group, summed: usage [G, V] -> scalar between G and G * V."""
    return jnp.exp(-(usage * jnp.log(usage + 1e-7)).sum(-1)).sum()


def dead_codes(usage: jax.Array) -> jax.Array:
    """Number of codes that were never chosen: usage [G, V], sums or means of one-hot codes."""
    return (usage == 0).sum()


def diversity_loss(code_logits: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How far the averaged code probabilities are from uniform: (G V - perplexity) / (G V).

    code_logits float32 [B, M, G, V] without noise and temperature. Returns (loss in [0, 1),
    perplexity of the probabilities).
    """
    groups, codes = code_logits.shape[-2:]
    soft = perplexity(average_usage(jax.nn.softmax(code_logits, axis=-1), valid))
    return (groups * codes - soft) / (groups * codes), soft


def code_perplexity(codes: jax.Array, valid: jax.Array, size: int) -> jax.Array:
    """Perplexity of the chosen codes int32 [B, M, G] of `size` per group."""
    return perplexity(average_usage(jax.nn.one_hot(codes, size), valid))


def gumbel_noise(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard Gumbel noise, float32 [B, *shape], one key per utterance."""
    return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)


def gumbel_temperature(step, start: float, end: float, decay: float):
    """max(start * decay ** step, end), per update (wav2vec 2.0 section 4.2)."""
    return jnp.maximum(start * jnp.float32(decay) ** step, end)
