"""Where long recordings are cut into pieces."""

import numpy as np
import pytest

from tests import small
from w2v_jax.decoding.greedy import best_path
from w2v_jax.decoding.pauses import pieces
from w2v_jax.text.alphabet import Alphabet

ALPHABET = Alphabet.english()


def one_hot(ids):
    return np.log(np.eye(len(ALPHABET))[ids] * 0.9 + 1e-3)


def greedy(log_probs):
    return ALPHABET.decode(best_path(log_probs.argmax(-1), len(log_probs)))


@pytest.mark.parametrize("frames", [0, 1, 40, 41, 1000])
@pytest.mark.parametrize("most", [1, 2, 40, 999])
def test_pieces_cover_all_frames(frames, most):
    for scale in (0.0, 1.0):  # silence, noise
        log_probs = np.random.default_rng(0).normal(size=(frames, 32)) * scale
        found = pieces(log_probs, ALPHABET, most)
        assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
        assert found[-1][1] == frames
        assert all(0 < stop - start <= most for start, stop in found) or frames == 0
        assert all(stop - start >= most // 2 for start, stop in found[:-1])


@pytest.mark.parametrize("seed", range(5))
def test_cuts_are_between_words(seed):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice([*"ETAONIHS"], rng.integers(1, 8))) for _ in range(80)]
    log_probs = small.spoken(ALPHABET, " ".join(words), seed=seed)
    assert greedy(log_probs) == " ".join(words)
    found = pieces(log_probs, ALPHABET, 120)
    assert len(found) > len(log_probs) / 120
    silent = np.isin(log_probs.argmax(-1), (0, ALPHABET.ids["|"]))
    for _, stop in found[:-1]:
        assert silent[stop - 1 : stop + 1].all()
    assert " ".join(greedy(log_probs[a:b]) for a, b in found) == " ".join(words)


def test_the_longest_pause_is_cut():
    ids = np.full(200, 10)
    ids[:50] = 0  # in the first half
    ids[52:56], ids[60:70], ids[75:95] = 0, 0, 0
    boundary = ALPHABET.ids["|"]
    ids[54], ids[61] = boundary, boundary  # the longest one, 75..95, is inside a word
    assert pieces(one_hot(ids), ALPHABET, 100)[0] == (0, 65)
    ids[54], ids[61] = 0, 0
    assert pieces(one_hot(ids), ALPHABET, 100)[0] == (0, 85)
    ids[50:] = 10
    assert pieces(one_hot(ids), ALPHABET, 100)[0] == (0, 100)
