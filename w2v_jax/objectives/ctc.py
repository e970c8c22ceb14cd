"""CTC with infeasible alignments left out and counted.

Source: Graves et al. 2006, "Connectionist temporal classification", section 4: the forward and
backward variables give the gradient, so none of the recursion is differentiated. A label of U
letters has U + 1 blanks, one before each letter and one behind the last. Both recursions are in
log space and shifted to a maximum of 0 in every frame, which keeps the digits that float32 would
lose in ln p of hundreds of frames.

Against optax.ctc_loss, differentiated through its scan, a gradient step on 2 CPU cores takes 0.5 to
0.8 of the time and 0.45 of the temporary memory, and the error of its gradient is 1/25 or less
(`python -m tests.measure.ctc_speed`; not measured on a GPU or TPU).
"""

import jax
import jax.numpy as jnp

NEVER = -1e30  # ln 0, finite: the difference of two is no NaN


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
    loss = _negative_log_likelihood(logits.astype(jnp.float32), frames, labels, label_length)
    counted = feasible(frames, labels, label_length) & (weight > 0)
    return jnp.where(counted, loss * weight, 0).sum(), counted


@jax.custom_vjp
def _negative_log_likelihood(logits, frames, labels, label_length):
    """float32 [B]; beyond any number where no alignment exists. No gradient where its weight is
    0, whatever the logits are."""
    return _forward(logits, frames, labels, label_length)[0]


def _forward(logits, frames, labels, label_length):
    log_probs = jax.nn.log_softmax(logits)
    letters = jnp.take_along_axis(log_probs, labels[:, None, :], axis=2).transpose(1, 0, 2)
    # nothing goes on behind the label, or the shift would see its padding
    letters = jnp.where(jnp.arange(labels.shape[1]) < label_length[:, None], letters, NEVER)
    blanks = log_probs[:, :, 0].T[:, :, None]
    same = jnp.pad(_repeats(labels), ((0, 0), (1, 0)))  # as the letter before

    def step(carry, x):
        blank, letter, scale = carry  # ln p of all ways to be there, [B, U + 1], [B, U]
        emit_blank, emit_letter, t = x
        entered = _log_add(blank, jnp.pad(letter, ((0, 0), (1, 0)), constant_values=NEVER))
        source = jnp.where(same, blank[:, :-1], entered[:, :-1])
        new = _shifted(entered + emit_blank, _log_add(letter, source) + emit_letter)
        new = *new[:2], scale + new[2]
        inside = (t < frames)[:, None]
        carry = tuple(jnp.where(inside, *pair) for pair in zip(new, carry, strict=True))
        return carry, carry[:2]

    rows, size = labels.shape
    first = jnp.broadcast_to(jnp.where(jnp.arange(size + 1) == 0, 0.0, NEVER), (rows, size + 1))
    start = first, jnp.full((rows, size), NEVER), jnp.zeros((rows, 1))
    steps = jnp.arange(logits.shape[1])
    (blank, letter, scale), alphas = jax.lax.scan(step, start, (blanks, letters, steps))
    last_blank, last_letter = _last(labels, label_length)
    ends = jnp.concatenate([blank + last_blank, letter + last_letter], axis=1)
    loss = -(jax.nn.logsumexp(ends, axis=1) + scale[:, 0])
    return loss, (log_probs, blanks, letters, alphas, frames, labels, label_length)


def _backward(residuals, cotangent):
    log_probs, blanks, letters, alphas, frames, labels, label_length = residuals
    same = jnp.pad(_repeats(labels), ((0, 0), (0, 1)))  # as the letter behind
    last = _last(labels, label_length)

    def step(carry, x):
        blank, letter = carry  # ln p of all that may follow, [B, U + 1], [B, U]
        alpha_blank, alpha_letter, emit_blank, emit_letter, t = x
        in_blank, in_letter, _ = _shifted(alpha_blank + blank, alpha_letter + letter)
        in_blank, in_letter = jnp.exp(in_blank).sum(1, keepdims=True), jnp.exp(in_letter)
        total = in_blank + in_letter.sum(1, keepdims=True)
        posteriors = in_blank / total, in_letter / total
        blank, letter = blank + emit_blank, letter + emit_letter
        left = _log_add(blank, jnp.pad(letter, ((0, 0), (0, 1)), constant_values=NEVER))
        target = jnp.where(same, blank[:, 1:], left[:, 1:])
        new = _shifted(left, _log_add(letter, target))[:2]
        inside = (t < frames)[:, None]
        return tuple(jnp.where(inside, *pair) for pair in zip(new, last, strict=True)), posteriors

    steps = jnp.arange(log_probs.shape[1])
    xs = *alphas, blanks, letters, steps
    _, (in_blank, in_letter) = jax.lax.scan(step, last, xs, reverse=True)
    # a product: a scatter has no order of summation on GPUs, and bfloat16 would round (TPU)
    one_hot = jax.nn.one_hot(labels, log_probs.shape[2])
    occupied = jnp.einsum("tbu,buv->btv", in_letter, one_hot, precision="highest")
    occupied = occupied.at[:, :, 0].add(in_blank[:, :, 0].T)
    counts = (steps < frames[:, None]) & (cotangent != 0)[:, None]
    gradient = (jnp.exp(log_probs) - occupied) * cotangent[:, None, None]
    return jnp.where(counts[:, :, None], gradient, 0), None, None, None


_negative_log_likelihood.defvjp(_forward, _backward)


def _repeats(labels):
    """bool [B, U - 1]: the same letter as its neighbour, so that the blank between is a must."""
    return labels[:, 1:] == labels[:, :-1]


def _last(labels, label_length):
    """ln 1 for the blank and the letter that may be last, ln 0 for others: [B, U + 1], [B, U]."""
    place = jnp.arange(labels.shape[1] + 1)
    blank = jnp.where(place == label_length[:, None], 0.0, NEVER)
    return blank, jnp.where(place[:-1] == label_length[:, None] - 1, 0.0, NEVER)


def _shifted(blank, letter):
    """Both less the maximum of their row, and the maximum [B, 1]."""
    top = jnp.maximum(blank.max(1), letter.max(1, initial=NEVER))[:, None]
    return blank - top, letter - top, top


def _log_add(a, b):
    # log1p would save digits far below the 1e-7 of the shifted maximum, for a fifth more time
    return jnp.maximum(a, b) + jnp.log(1 + jnp.exp(-jnp.abs(a - b)))
