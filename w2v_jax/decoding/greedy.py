"""The best path of a CTC model: argmax per frame, repeats merged, blanks removed."""

import numpy as np


def best_path(ids: np.ndarray, frames: int) -> list[int]:
    """ids int [T] (argmax per frame), of which `frames` count -> label ids; blank is 0."""
    ids = np.asarray(ids[:frames])
    changed = np.ones(len(ids), bool)
    changed[1:] = ids[1:] != ids[:-1]
    return [int(i) for i in ids[changed & (ids != 0)]]
