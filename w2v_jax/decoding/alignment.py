"""Forced alignment: when each letter and word of a known text is spoken.

The most probable CTC path of the text (Viterbi; Graves et al., ICML 2006, section 4.1 with max for
the sum). Its 2U + 1 states are blank, letter, blank, ..., letter, blank; `|` counts as a letter.
The search is exact and without a beam: time grows with T U. The path is traced back block by block
from stored starts, so that memory grows with sqrt(T) U: an hour of speech takes 0.3 GB.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import BOUNDARY, Alphabet


class Paths(NamedTuple):
    """Most probable paths of a batch."""

    states: jax.Array  # int32 [B, T]: 2i is the blank before letter i, 2i + 1 the letter; -1: none
    score: jax.Array  # float32 [B]: ln p of the path
    feasible: jax.Array  # bool [B]: there is a path with p > 0; without one all states are -1


def best_paths(
    log_probs: jax.Array, frames: jax.Array, labels: jax.Array, label_length: jax.Array
) -> Paths:
    """The most probable CTC paths of given labels; blank is id 0.

    log_probs float32 [B, T, V], ln p; frames int32 [B]; labels int32 [B, U] without blanks,
    label_length int32 [B]. What stands beyond `frames` and `label_length` does not matter.

    A path needs a frame per letter and one more between two equal neighbours. Of equally probable
    ones it is the path that, seen from its end, is always in the later state. Sums are float64
    (float32 has steps of 1/128 at the -1e5 that an hour reaches): on CPUs and GPUs the result is
    the same to the bit. Not to be called inside another jit, which would round them.
    """
    with jax.enable_x64(True):
        return _best_paths(log_probs, frames, labels, label_length)


def _block_size(frames: int) -> int:
    """Frames per block: a stored start has 16 bytes per letter, a frame of moves 1."""
    return 1 << round(math.log2(4 * math.sqrt(max(frames, 1))))


@jax.jit
def _best_paths(log_probs, frames, labels, label_length) -> Paths:
    rows, total, symbols = log_probs.shape
    size = min(_block_size(total), max(total, 1))
    count = -(-total // size)
    labels = jnp.pad(labels, ((0, 0), (0, 1)))  # a letter for the last blank, which ends no path
    skips = labels != jnp.roll(labels, 1, axis=1)  # there may be no blank before these
    places = labels + symbols * jnp.arange(rows, dtype=jnp.int32)[:, None]  # in a frame [B * V]
    # [blocks, frames, B, V]
    pieces = jnp.pad(log_probs, ((0, 0), (0, count * size - total), (0, 0)))
    pieces = pieces.swapaxes(0, 1).reshape(count, size, rows, symbols)
    inside = (jnp.arange(count * size)[:, None] < frames).reshape(count, size, rows)
    used = (frames.max() + size - 1) // size

    def advance(alphas, frame):
        """ln p of the best paths to the states, blanks and letters [B, U + 1], a frame later.

        Also the states gone back for it: those of the blank times 4, plus those of the letter.
        """
        blank, letter = alphas
        log_prob, going_on = frame
        log_prob = log_prob.astype(jnp.float64)
        before = jnp.pad(letter[:, :-1], ((0, 0), (1, 0)), constant_values=-jnp.inf)
        skipping = jnp.where(skips, before, -jnp.inf)
        nearest = jnp.maximum(letter, blank)
        moves = jnp.where(skipping > nearest, jnp.int8(2), jnp.int8(blank > letter))
        moves += jnp.where(before > blank, jnp.int8(4), jnp.int8(0))
        emission = log_prob.reshape(-1).at[places].get(mode="clip")
        going_on = going_on[:, None]
        blank = jnp.where(going_on, jnp.maximum(blank, before) + log_prob[:, :1], blank)
        letter = jnp.where(going_on, jnp.maximum(nearest, skipping) + emission, letter)
        return (blank, letter), moves

    def forward(block, carry):
        alphas, starts = carry
        starts = jax.tree.map(lambda all_of_them, own: all_of_them.at[block].set(own),
                              starts, alphas)  # fmt: skip
        frame = pieces[block], inside[block]
        return lax.scan(lambda a, f: (advance(a, f)[0], None), alphas, frame)[0], starts

    def back(state, frame):
        moves, going_on = frame
        move = jnp.take_along_axis(moves, state[:, None] // 2, 1)[:, 0]
        gone = jnp.where(state % 2 == 1, move & 3, move >> 2).astype(jnp.int32)
        return jnp.where(going_on, state - gone, state), jnp.where(going_on, state, -1)

    def backward(index, carry):
        block = used - 1 - index
        state, states = carry
        start = jax.tree.map(lambda x: x[block], starts)
        _, moves = lax.scan(advance, start, (pieces[block], inside[block]))
        state, found = lax.scan(back, state, (moves, inside[block]), reverse=True)
        return state, states.at[block].set(found)

    nowhere = jnp.full(labels.shape, -jnp.inf, jnp.float64)
    alphas = nowhere.at[:, 0].set(0.0), nowhere  # before the first frame: in the first blank
    starts = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), alphas)
    (blank, letter), starts = lax.fori_loop(0, used, forward, (alphas, starts))
    last = label_length[:, None]
    blank = jnp.take_along_axis(blank, last, 1)[:, 0]
    letter = jnp.take_along_axis(letter, jnp.maximum(last - 1, 0), 1)[:, 0]
    letter = jnp.where(label_length > 0, letter, -jnp.inf)
    score = jnp.maximum(blank, letter)
    feasible = score > -jnp.inf
    state = (2 * label_length - (letter > blank)).astype(jnp.int32)
    states = jnp.full((count, size, rows), -1, jnp.int32)
    _, states = lax.fori_loop(0, used, backward, (state, states))
    states = states.reshape(count * size, rows).swapaxes(0, 1)[:, :total]
    states = jnp.where(feasible[:, None], states, -1)
    return Paths(states, score.astype(jnp.float32), feasible)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A letter or a word, and when it is spoken."""

    text: str
    start: float  # seconds
    end: float
    score: float  # mean ln p per frame from start to end


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The words and letters of a text in their order, none overlapping; no word boundaries.

    A letter has the frames in which the path is in it. CTC models write a letter in a frame or two
    near its sound and blanks around it: starts are meaningful, the length of a letter is not, and
    the frames between two letters belong to neither. A word reaches from the first frame of its
    first letter to the last frame of its last letter, the blanks between included, so it ends
    early by what its last letter sounds on.
    """

    words: list[Interval]
    letters: list[Interval]
    score: float  # mean ln p per frame, of all frames


def align(
    log_probs: np.ndarray,
    text: str,
    alphabet: Alphabet,
    seconds_per_frame: float,
    offset: float = 0.0,
) -> Alignment:
    """Where the words and letters of a text are in ln p float32 [T, V] of the alphabet's symbols.

    Frame t stands for the seconds [t, t + 1) * seconds_per_frame + offset. In wav2vec 2.0 it is
    computed from 25 ms of audio of which these 20 ms are the first; an offset of 0.0025 puts both
    middles together. Raises UserError where `Alphabet.encode` does, and where the text has no path:
    mostly because it needs more frames than there are.
    """
    labels = alphabet.encode(text)
    frames, symbols = log_probs.shape
    if symbols != len(alphabet):
        raise UserError(
            f"log_probs have {symbols} symbols per frame, the alphabet {len(alphabet)}; give those "
            "of the model that the alphabet comes from"
        )
    states, score = _path(log_probs, labels)
    symbol = np.where(states % 2 == 1, np.append(labels, 0)[states // 2], 0)
    own = log_probs[np.arange(frames), symbol].astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(own)])
    places = 2 * np.arange(len(labels)) + 1
    first = np.searchsorted(states, places, "left")
    last = np.searchsorted(states, places, "right")

    def interval(start: int, stop: int) -> Interval:
        """Of letters start to stop - 1."""
        a, b = int(first[start]), int(last[stop - 1])
        return Interval(
            "".join(alphabet.symbols[i] for i in labels[start:stop]),
            a * seconds_per_frame + offset,
            b * seconds_per_frame + offset,
            float(sums[b] - sums[a]) / (b - a),
        )

    spaces = np.flatnonzero(labels == alphabet.ids[BOUNDARY]).tolist()
    words = zip([0, *(i + 1 for i in spaces)], [*spaces, len(labels)], strict=True)
    letters = [interval(i, i + 1) for i, x in enumerate(labels) if x != alphabet.ids[BOUNDARY]]
    return Alignment([interval(*word) for word in words], letters, score / frames)


def _path(log_probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """(states int32 [T], ln p) of the best path. Raises UserError where there is none."""
    frames, symbols = log_probs.shape
    repeats = int((labels[1:] == labels[:-1]).sum())
    if len(labels) + repeats > frames:
        raise UserError(
            f"the text needs {len(labels) + repeats} frames ({len(labels)} letters and word "
            f"boundaries, {repeats} blanks between equal ones), the audio has {frames}; check that "
            "the text belongs to the audio and is not longer"
        )
    # frames beyond the end cost no time, letters do
    padded = np.zeros((1, _rounded_up(frames, 64, halves=False), symbols), np.float32)
    padded[0, :frames] = log_probs
    letters = np.zeros((1, _rounded_up(len(labels), 32)), np.int32)
    letters[0, : len(labels)] = labels
    counts = np.array([frames], np.int32), np.array([len(labels)], np.int32)
    found = jax.device_get(best_paths(padded, counts[0], letters, counts[1]))
    if not found.feasible[0]:
        raise UserError(
            "the model gives the text the probability 0, or none at all (NaN); check its weights"
        )
    return found.states[0, :frames], float(found.score[0])


def _rounded_up(count: int, least: int, *, halves: bool = True) -> int:
    """A power of two times `least`, with `halves` also one and a half of it: few are compiled."""
    size = least
    while size < count:
        if halves and count <= size + size // 2:
            return size + size // 2
        size *= 2
    return size
