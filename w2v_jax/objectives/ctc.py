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

import functools

import jax
import jax.numpy as jnp

from w2v_jax.models.kernels import ctc_recursion
from w2v_jax.models.kernels.ctc_recursion import NEVER, log_add
from w2v_jax.models.kernels.sharded import per_device

_ROWS = ("batch", None)  # the logical names of arrays of rows


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
    *,
    fused: bool = False,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """-log p(labels | logits) in nats, summed over utterances; blank is id 0.

    logits [B, T, L]; frames int32 [B]; labels int32 [B, U], label_length int32 [B]; weight float32
    [B]: 0 leaves a row out; fused: the recursions as kernels of a GPU (interpret: on a CPU, for
    tests). An alignment that cannot exist has loss 0 and gradient 0, as torch's zero_infinity.
    Returns (sum, bool [B]: rows that counted).
    """
    arrays = logits.astype(jnp.float32), frames, labels, label_length
    if fused:
        run = functools.partial(_by_kernel, interpret=interpret)
        loss = per_device(run, arrays, ((*_ROWS, None), _ROWS[:1], _ROWS, _ROWS[:1]), 1)
    else:
        loss = _negative_log_likelihood(*arrays)
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
        entered = log_add(blank, jnp.pad(letter, ((0, 0), (1, 0)), constant_values=NEVER))
        source = jnp.where(same, blank[:, :-1], entered[:, :-1])
        new = _shifted(entered + emit_blank, log_add(letter, source) + emit_letter)
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
        left = log_add(blank, jnp.pad(letter, ((0, 0), (0, 1)), constant_values=NEVER))
        target = jnp.where(same, blank[:, 1:], left[:, 1:])
        new = _shifted(left, log_add(letter, target))[:2]
        inside = (t < frames)[:, None]
        return tuple(jnp.where(inside, *pair) for pair in zip(new, last, strict=True)), posteriors

    steps = jnp.arange(log_probs.shape[1])
    xs = *alphas, blanks, letters, steps
    _, (in_blank, in_letter) = jax.lax.scan(step, last, xs, reverse=True)
    in_letter, in_blank = in_letter.swapaxes(0, 1), in_blank[:, :, 0].T
    gradient = _gradient(log_probs, in_letter, in_blank, frames, labels, cotangent)
    return gradient, None, None, None


_negative_log_likelihood.defvjp(_forward, _backward)


def _gradient(log_probs, in_letter, in_blank, frames, labels, cotangent):
    """Of the logits, from the posteriors of the letters [B, T, U] and of the blank [B, T]."""
    # a product: a scatter has no order of summation on GPUs, and bfloat16 would round (TPU)
    one_hot = jax.nn.one_hot(labels, log_probs.shape[2])
    occupied = jnp.einsum("btu,buv->btv", in_letter, one_hot, precision="highest")
    occupied = occupied.at[:, :, 0].add(in_blank)
    counts = jnp.arange(log_probs.shape[1]) < frames[:, None]
    counts = counts & (cotangent != 0)[:, None]
    gradient = (jnp.exp(log_probs) - occupied) * cotangent[:, None, None]
    return jnp.where(counts[:, :, None], gradient, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _by_kernel(logits, frames, labels, label_length, interpret: bool):
    """`_negative_log_likelihood` by kernels/ctc_recursion.py."""
    return _kernel_forward(logits, frames, labels, label_length, interpret)[0]


def _kernel_forward(logits, frames, labels, label_length, interpret: bool):
    frames = jnp.minimum(frames, logits.shape[1])  # the kernels ask nobody where the array ends
    log_probs = jax.nn.log_softmax(logits)
    size = labels.shape[1]
    wide = ((0, 0), (0, ctc_recursion.width(size) - size))
    letters = jnp.take_along_axis(log_probs, labels[:, None, :], axis=2)
    inside = jnp.arange(size) < label_length[:, None]
    letters = jnp.where(inside[:, None, :], letters, NEVER)
    letters = jnp.pad(letters, (wide[0], *wide), constant_values=NEVER)
    blanks = log_probs[:, :, 0]
    same = jnp.zeros((len(labels), letters.shape[2]), bool)  # as the letter before
    same = same.at[:, 1:size].set(_repeats(labels))
    place = jnp.arange(letters.shape[2])
    # behind the label there is no blank either: the shift would see it
    last = tuple(jnp.where(place == n, 0.0, NEVER) for n in
                 (label_length[:, None], label_length[:, None] - 1))  # fmt: skip
    inputs = letters, blanks, same, frames
    *alphas, blank, letter, scale = ctc_recursion.alphas(*inputs, interpret)
    loss = -(jax.nn.logsumexp(jnp.concatenate([blank + last[0], letter + last[1]], 1), 1) + scale)
    return loss, (log_probs, inputs, alphas, last, labels)


def _kernel_backward(interpret: bool, residuals, cotangent):
    log_probs, inputs, alphas, last, labels = residuals
    in_letter, in_blank = ctc_recursion.posteriors(*inputs, *alphas, last, interpret)
    in_letter = in_letter[:, :, : labels.shape[1]]
    # what the kernels left undefined may be no number
    there = (jnp.arange(log_probs.shape[1]) < inputs[3][:, None])[:, :, None]
    in_letter = jnp.where(there, in_letter, 0)
    gradient = _gradient(log_probs, in_letter, in_blank, inputs[3], labels, cotangent)
    return gradient, None, None, None


_by_kernel.defvjp(_kernel_forward, _kernel_backward)


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
