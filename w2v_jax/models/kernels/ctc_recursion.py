"""The recursions of CTC over the frames as kernels of GPUs: one program per row goes through them,
where a scan starts a dozen kernels for every frame.

States are two arrays [W], of the blank before letter i and of letter i, W a power of 2 above the
number of letters. A neighbour's state goes through memory: it is written to a row that no frame
before has used, and read again, one place further, behind a barrier.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

NEVER = -1e30  # ln 0, finite: the difference of two is no NaN
_OPTIONS = plgpu.CompilerParams(num_warps=4, num_stages=1)


def width(letters: int) -> int:
    """W for labels of so many letters."""
    return max(pl.next_power_of_2(letters + 1), 32)


def alphas(letters, blanks, same, frames, interpret: bool = False):
    """ln p of all ways to be in a state, less the greatest of the frame.

    letters [B, T, W] and blanks [B, T]: ln p of a letter, of the blank, NEVER behind the label;
    same bool [B, W]: the letter before is the same; frames int32 [B]. Returns blank and letter
    [B, T, W] behind every frame, undefined from `frames` on, and both [B, W] and the sum of what
    was taken off [B] behind the last.
    """
    b, t, w = letters.shape
    number = jax.ShapeDtypeStruct
    f32 = jnp.float32
    return _call(
        _alpha_kernel, (letters, blanks, same.astype(jnp.int32), frames),
        (number((b, t, w), f32), number((b, t, w), f32), number((b, w), f32), number((b, w), f32),
         number((b,), f32)), interpret, "ctc_alphas",
    )  # fmt: skip


def posteriors(letters, blanks, same, frames, alpha_blank, alpha_letter, last, interpret=False):
    """Posterior probabilities of letters [B, T, W] and of the blank [B, T], undefined from `frames`
    on; last: ln p of what may be last, of blanks and letters [B, W]; the others as of `alphas`."""
    b, t, w = letters.shape
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((b, t, w), (b, t), (b, t, w))]
    inputs = letters, blanks, same.astype(jnp.int32), frames, alpha_blank, alpha_letter, *last
    return _call(_posterior_kernel, inputs, shapes, interpret, "ctc_posteriors")[:2]


def _call(kernel, inputs, shapes, interpret: bool, name: str):
    def row(x):
        size = x.shape[1:]
        if not size:  # a number of each row
            return pl.BlockSpec((1,), lambda b: (b,))
        return pl.BlockSpec((None, *size), lambda b: (b, *(0 for _ in size)))

    return pl.pallas_call(
        functools.partial(kernel, interpret), grid=(len(inputs[0]),),
        in_specs=[row(x) for x in inputs], out_specs=[row(x) for x in shapes], out_shape=shapes,
        compiler_params=_OPTIONS, interpret=interpret, name=name,
    )(*inputs)  # fmt: skip


def log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """ln(e^a + e^b)."""
    # log1p would save digits far below the 1e-7 of the shifted maximum, for a fifth more time
    return jnp.maximum(a, b) + jnp.log(1 + jnp.exp(-jnp.abs(a - b)))


def _neighbour(ref, t, x, offset: int, interpret: bool):
    """x of the place `offset` further, NEVER beyond the ends; leaves x in row t of `ref`."""
    place = jnp.arange(len(x))
    plgpu.store(ref.at[t, :], x)
    if not interpret:
        plgpu.debug_barrier()
    there = (place + offset >= 0) & (place + offset < len(x))
    return plgpu.load(ref.at[t, jnp.where(there, place + offset, 0)], mask=there, other=NEVER)


def _alpha_kernel(
    interpret: bool, letters_ref, blanks_ref, same_ref, frames_ref,
    alpha_blank_ref, alpha_letter_ref, blank_ref, letter_ref, scale_ref,
):  # fmt: skip
    frames, same = frames_ref[0], same_ref[...] != 0
    place = jnp.arange(letters_ref.shape[1])

    def step(t, carry):
        blank, letter, before, scale, emit_letter, emit_blank = carry
        more = jnp.minimum(t + 1, letters_ref.shape[0] - 1)  # asked for a frame ahead
        next_letter, next_blank = letters_ref[more, :], blanks_ref[more]
        entered = log_add(blank, before)
        source = jnp.where(same, blank, entered)
        blank, letter = entered + emit_blank, log_add(letter, source) + emit_letter
        top = jnp.maximum(blank.max(), letter.max())
        blank, letter = blank - top, letter - top
        alpha_blank_ref[t, :] = blank
        before = _neighbour(alpha_letter_ref, t, letter, -1, interpret)
        return blank, letter, before, scale + top, next_letter, next_blank

    never = jnp.full(place.shape, NEVER, jnp.float32)
    first = jnp.where(place == 0, jnp.float32(0), never)
    start = first, never, never, jnp.float32(0), letters_ref[0, :], blanks_ref[0]
    blank, letter, _, scale, _, _ = jax.lax.fori_loop(jnp.zeros_like(frames), frames, step, start)
    blank_ref[...], letter_ref[...] = blank, letter
    scale_ref[0] = scale


def _posterior_kernel(
    interpret: bool, letters_ref, blanks_ref, same_ref, frames_ref, alpha_blank_ref,
    alpha_letter_ref, last_blank_ref, last_letter_ref, in_letter_ref, in_blank_ref, passed_ref,
):  # fmt: skip
    frames, same = frames_ref[0], same_ref[...] != 0

    def read(t):
        return letters_ref[t, :], blanks_ref[t], alpha_blank_ref[t, :], alpha_letter_ref[t, :]

    def step(number, carry):
        blank, letter, (emit_letter, emit_blank, alpha_blank, alpha_letter) = carry
        t = frames - 1 - number
        ahead = read(jnp.maximum(t - 1, 0))
        in_blank, in_letter = alpha_blank + blank, alpha_letter + letter
        top = jnp.maximum(in_blank.max(), in_letter.max())
        in_blank, in_letter = jnp.exp(in_blank - top).sum(), jnp.exp(in_letter - top)
        total = in_blank + in_letter.sum()
        in_letter_ref[t, :], in_blank_ref[t] = in_letter / total, in_blank / total
        blank, letter = blank + emit_blank, letter + emit_letter
        left = log_add(blank, letter)
        # of letter i + 1, what letter i may go to: not past the blank where they are the same
        target = _neighbour(passed_ref, t, jnp.where(same, blank, left), 1, interpret)
        letter = log_add(letter, target)
        top = jnp.maximum(left.max(), letter.max())
        return left - top, letter - top, ahead

    start = last_blank_ref[...], last_letter_ref[...], read(jnp.maximum(frames - 1, 0))
    jax.lax.fori_loop(jnp.zeros_like(frames), frames, step, start)
