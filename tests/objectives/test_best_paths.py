"""Labels made on the device are those that the greedy text would be encoded to."""

import jax.numpy as jnp
import numpy as np

from w2v_jax.decoding.greedy import best_path
from w2v_jax.objectives.pseudo_labels import NOTHING, best_paths, read, written
from w2v_jax.text.alphabet import BOUNDARY, Alphabet, TextError

ALPHABET = Alphabet.english()


def labels_of(ids: np.ndarray, frames: int) -> list[int]:
    try:
        return ALPHABET.encode(ALPHABET.decode(best_path(ids, frames))).tolist()
    except TextError:  # empty
        return []


def test_labels_are_the_encoded_greedy_text():
    rng = np.random.default_rng(0)
    boundary = ALPHABET.ids[BOUNDARY]
    # blank, a special symbol, boundaries and three letters, in short runs
    ids = rng.choice([0, 3, boundary, boundary, 5, 6, 7], (300, 9))
    frames = rng.integers(0, 10, 300)
    logits = np.eye(len(ALPHABET))[ids]
    letters = np.isin(np.arange(len(ALPHABET)), [*ALPHABET.ids.values()])
    labels, counts, blanks = best_paths(
        jnp.asarray(logits), jnp.asarray(frames), jnp.asarray(letters), boundary, 6
    )
    expected = [labels_of(row, n) for row, n in zip(ids, frames, strict=True)]
    assert max(map(len, expected)) > 6
    assert min(map(len, expected)) == 0
    assert counts.tolist() == [len(row) for row in expected]
    for row, found in zip(expected, labels.tolist(), strict=True):
        assert found == (row + [0] * 6)[:6]
    assert blanks.tolist() == [(row[:n] == 0).sum() for row, n in zip(ids, frames, strict=True)]


def test_what_is_written_is_read_again():
    cache = jnp.full(40, NOTHING)
    labels = jnp.arange(6).reshape(2, 3)
    at, items, counts = jnp.array([10, 30]), jnp.array([7, NOTHING]), jnp.array([3, 2])
    cache = written(cache, at, items, counts, labels)
    assert (np.asarray(cache) != NOTHING).sum() == 9
    found = read(cache, jnp.array([30, 10, 20]), 5)
    assert [x.tolist() for x in found[:2]] == [[NOTHING, 7, NOTHING], [2, 3, NOTHING]]
    assert found[2][:2].tolist() == [[3, 4, 5], [0, 1, 2]]
