"""Forced alignment: the best path is that of a slow twin, which is that of trying all paths."""

import dataclasses
import itertools

import numpy as np
import pytest

from w2v_jax.decoding.alignment import Interval, align, best_paths
from w2v_jax.decoding.greedy import best_path
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet, TextError

ALPHABET = Alphabet(("<pad>", "|", "a", "b"))


def log_softmax(logits):
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def noise(*shape, seed=0, scale=2.0):
    return log_softmax(np.random.default_rng(seed).normal(size=shape) * scale)


def twin(log_probs, labels):
    """(states, ln p) of the best path in float64, the plain way; (None, -inf) without one."""
    symbols = np.zeros(2 * len(labels) + 1, int)
    symbols[1::2] = labels
    scores = np.full(len(symbols), -np.inf)
    scores[0] = 0.0
    came_from = []
    for frame in log_probs.astype(np.float64):
        new, origins = np.empty_like(scores), []
        for s, symbol in enumerate(symbols):
            options = [s, s - 1] if s else [s]
            if s > 2 and symbol and symbol != symbols[s - 2]:
                options.append(s - 2)
            best = max(options, key=scores.__getitem__)  # the first of equals
            new[s] = scores[best] + frame[symbol]
            origins.append(best)
        scores = new
        came_from.append(origins)
    s = max(range(len(symbols))[: -3 if len(symbols) > 2 else None : -1], key=scores.__getitem__)
    score, states = scores[s], []
    if not score > -np.inf:
        return None, -np.inf
    for origins in reversed(came_from):
        states.append(s)
        s = origins[s]
    return states[::-1], score


def run(rows, frames, letters, fill=np.nan):
    """best_paths of [(log_probs [T, V], labels)], padded to `frames` and `letters`."""
    log_probs = np.full((len(rows), frames, rows[0][0].shape[1]), fill, np.float32)
    labels = np.full((len(rows), letters), 77, np.int32)
    for i, (values, label) in enumerate(rows):
        log_probs[i, : len(values)], labels[i, : len(label)] = values, label
    counts = np.array([[len(values), len(label)] for values, label in rows], np.int32)
    return best_paths(log_probs, counts[:, 0], labels, counts[:, 1])


def check(rows, found):
    for i, (values, label) in enumerate(rows):
        states, score = twin(values, label)
        assert bool(found.feasible[i]) == (states is not None)
        assert found.score[i] == np.float32(score)
        ours = np.asarray(found.states[i])
        assert (ours[len(values) :] == -1).all()
        expected = np.full(len(values), -1) if states is None else states
        np.testing.assert_array_equal(ours[: len(values)], expected)


@pytest.mark.parametrize("label", [[], [1], [1, 2], [1, 1], [2, 1, 2], [1, 1, 1]])
def test_the_twin_finds_the_best_of_all_paths(label):
    values = noise(6, 3, seed=len(label))
    score = max(
        sum(values[t, p] for t, p in enumerate(path))
        for path in itertools.product(range(3), repeat=6)
        if best_path(np.array(path), 6) == label
    )
    states, found = twin(values, label)
    assert found == pytest.approx(score, rel=1e-6)
    symbols = np.array([label[s // 2] if s % 2 else 0 for s in states])
    assert best_path(symbols, 6) == label


def test_as_the_twin():
    """Rows of every kind in one batch: padding holds NaN and labels that do not exist."""
    rng = np.random.default_rng(0)
    long = lambda n, **kind: (noise(200, 5, seed=n), rng.integers(1, 5, n), *kind)  # noqa: E731
    rows = [
        long(1), long(40), long(90), long(0),
        (noise(9, 5), [1, 2, 3, 4, 1, 2, 3, 4, 1]),  # a frame per letter
        (noise(5, 5), [1, 1, 1]),  # just enough with repeats
        (noise(4, 5), [1, 1, 1]),  # not enough
        (noise(3, 5), [1, 2, 3, 4]),
        (noise(0, 5), [1]),
        (noise(0, 5), []),
        (np.full((30, 5), -1, np.float32), [1, 2, 2, 3]),  # all paths are equal
    ]  # fmt: skip
    found = run(rows, 210, 95)
    check(rows, found)
    np.testing.assert_array_equal(found.feasible, [1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1])
    again = run(rows, 210, 95, fill=50.0)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_many_ties():
    """Few values, so that most frames have several best ways."""
    rng = np.random.default_rng(1)
    rows = [
        (rng.integers(-2, 0, (t, 4)).astype(np.float32), rng.integers(1, 4, u))
        for t, u in zip(rng.integers(20, 60, 40), rng.integers(1, 20, 40), strict=True)
    ]
    check(rows, run(rows, 60, 20))


def test_probability_zero():
    values = noise(6, 3)
    values[2:4, 0] = -np.inf
    rows = [(values, [1]), (values, []), (values, [1, 1]), (np.full((6, 3), -np.inf), [1, 2])]
    found = run(rows, 8, 2)
    check(rows, found)
    np.testing.assert_array_equal(found.feasible, [True, False, True, False])
    assert (np.asarray(found.states[0])[2:4] == 1).all()
    assert not run([(np.full((6, 3), np.nan), [1, 2])], 8, 2).feasible[0]


def test_float64_decides_what_float32_cannot():
    """Two ways that differ by 1e-3 after sums of -1e5, where float32 has steps of 1/128."""
    values = np.full((4000, 2), -25.3, np.float32)
    values[3500, 1] += 1e-3
    states = run([(values, [1])], 4000, 1).states[0]
    np.testing.assert_array_equal(states, [1] * 3501 + [2] * 499)


def test_a_path_through_many_blocks():
    """600 frames in which the path is known."""
    rng = np.random.default_rng(2)
    labels = rng.integers(1, 30, 150)
    states = np.sort(np.concatenate([np.arange(301), rng.integers(0, 301, 299)]))
    symbols = np.where(states % 2, np.append(labels, 0)[states // 2], 0)
    values = log_softmax(rng.normal(size=(600, 30)) + 12 * np.eye(30)[symbols])
    found = run([(values, labels)], 1000, 200)
    np.testing.assert_array_equal(found.states[0, :600], states)


def peaks(symbols, alphabet=ALPHABET):
    """ln p that is nearly certain of one symbol per frame."""
    return log_softmax(10 * np.eye(len(alphabet))[[alphabet.symbols.index(s) for s in symbols]])


PATH = ["<pad>", "a", "a", "<pad>", "b", "|", "<pad>", "b", "b", "b", "<pad>"]


def test_times():
    values = peaks(PATH)
    found = align(values, "AB, b!".lower(), ALPHABET, 0.02, offset=1.0)
    own = values.max(-1).astype(np.float64)
    letter = pytest.approx(own[1])
    assert [dataclasses.astuple(x) for x in found.letters] == [
        ("a", pytest.approx(1.02), pytest.approx(1.06), letter),
        ("b", pytest.approx(1.08), pytest.approx(1.10), letter),
        ("b", pytest.approx(1.14), pytest.approx(1.20), letter),
    ]
    assert [(x.text, round(x.start, 6), round(x.end, 6)) for x in found.words] == [
        ("ab", 1.02, 1.10), ("b", 1.14, 1.20),
    ]  # fmt: skip
    assert found.score == pytest.approx(own.mean())


def test_scores_are_means_over_frames():
    values = peaks(PATH)
    values[3, :2] = np.log([0.25, 0.75])  # the blank within the first word
    values[9, 3] = np.log(0.5)
    found = align(values, "ab b", ALPHABET, 0.02)
    sure = float(values[1, 2])
    assert found.words[0].score == pytest.approx((3 * sure + np.log(0.25)) / 4)
    assert found.words[1].score == pytest.approx((2 * sure + np.log(0.5)) / 3)
    assert found.letters[2].score == found.words[1].score
    assert found.letters[1].score == pytest.approx(sure)


def test_words_of_the_normalised_text():
    found = align(noise(80, 32), "Don’t  —  stop", Alphabet.english(), 0.02)
    assert [x.text for x in found.words] == ["DON'T", "STOP"]
    assert "".join(x.text for x in found.letters) == "DON'TSTOP"
    assert all(isinstance(x, Interval) and 0 <= x.start < x.end <= 1.6 for x in found.letters)
    ends = [x.end for x in found.letters]
    assert all(a <= b.start for a, b in zip(ends, found.letters[1:], strict=False))


def test_errors():
    with pytest.raises(UserError, match=r"needs 6 frames \(5 letters .*, 1 blanks.*has 5;"):
        align(noise(5, 4), "ab bb", ALPHABET, 0.02)
    assert len(align(noise(6, 4), "ab bb", ALPHABET, 0.02).letters) == 4
    with pytest.raises(TextError, match="'7'"):
        align(noise(5, 4), "a 7", ALPHABET, 0.02)
    with pytest.raises(UserError, match="5 symbols per frame, the alphabet 4"):
        align(noise(5, 5), "a", ALPHABET, 0.02)
    with pytest.raises(UserError, match="NaN"):
        align(np.full((5, 4), np.nan, np.float32), "a", ALPHABET, 0.02)
