"""Long recordings are searched, aligned and subtitled in pieces, cut where nobody speaks."""

import numpy as np

from w2v_jax.text.alphabet import BOUNDARY, Alphabet


def pieces(log_probs: np.ndarray, alphabet: Alphabet, most: int) -> list[tuple[int, int]]:
    """(first frame, end) of parts of ln p [T, V] of at most `most` frames each, in order.

    Each is cut in its second half, in the middle of the longest pause between two words; where no
    word ends there, of the longest run of blanks; where there is none either, at its end.
    """
    ids = log_probs.argmax(-1)
    silent = (ids == 0) | (ids == alphabet.ids[BOUNDARY])
    found, start = [], 0
    while len(ids) - start > most:
        low = start + most // 2
        stop = _cut(silent[low : start + most], ids[low : start + most]) + low
        found.append((start, stop))
        start = stop
    return [*found, (start, len(ids))]


def _cut(silent: np.ndarray, ids: np.ndarray) -> int:
    """The frame to cut before; len(ids) if there is no pause."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]])))
    runs = edges.reshape(-1, 2)
    if not len(runs):
        return len(ids)
    words = np.array([ids[a:b].any() for a, b in runs])  # a boundary among the blanks
    if words.any():
        runs = runs[words]
    first, end = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    return max(int(first + end) // 2, 1)
