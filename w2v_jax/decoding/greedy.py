"""The best path of a CTC model: argmax per frame, repeats merged, blanks removed."""

import numpy as np

from w2v_jax.decoding.alignment import Interval
from w2v_jax.text.alphabet import BOUNDARY, Alphabet


def best_path(ids: np.ndarray, frames: int) -> list[int]:
    """ids int [T] (argmax per frame), of which `frames` count -> label ids; blank is 0."""
    ids = np.asarray(ids[:frames])
    changed = np.ones(len(ids), bool)
    changed[1:] = ids[1:] != ids[:-1]
    return [int(i) for i in ids[changed & (ids != 0)]]


def greedy_text(log_probs: np.ndarray, alphabet: Alphabet) -> str:
    """The text of the best path through ln p [T, V]."""
    return alphabet.decode(best_path(log_probs.argmax(-1), len(log_probs)))


def word_times(
    log_probs: np.ndarray, alphabet: Alphabet, seconds_per_frame: float
) -> list[Interval]:
    """The words of the best path through ln p [T, V], and when they are spoken.

    The path is its own alignment: that of `alignment.align`, without a search. A word reaches from
    the first frame of its first letter to the end of the last frame of its last one.
    """
    ids = log_probs.argmax(-1)
    letters = np.flatnonzero(np.isin(ids, [*alphabet.ids.values()]))
    words = np.split(letters, np.flatnonzero(ids[letters] == alphabet.ids[BOUNDARY]))
    sums = np.concatenate([[0.0], np.cumsum(log_probs.max(-1), dtype=np.float64)])
    found = []
    for word in words:
        word = word[ids[word] != alphabet.ids[BOUNDARY]]
        if len(word):
            a, b = int(word[0]), int(word[-1]) + 1
            text = alphabet.decode(best_path(ids[a:b], b - a))
            score = float(sums[b] - sums[a]) / (b - a)
            found.append(Interval(text, a * seconds_per_frame, b * seconds_per_frame, score))
    return found
