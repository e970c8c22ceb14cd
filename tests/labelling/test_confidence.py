"""The normalised filter score against a slow twin, and the weights that balance letters."""

import math

import numpy as np
import pytest

from w2v_jax.errors import UserError
from w2v_jax.labelling import balance
from w2v_jax.labelling.confidence import fitted, normalised

SYMBOLS = "ABCDE "


def twin(scores, letters):
    """mu, beta, sigma and s by the normal equations of least squares, one text at a time."""
    pairs = [(s, n) for s, n in zip(scores, letters, strict=True) if n]
    count, total = len(pairs), sum(n for _, n in pairs)
    squares, products = sum(n * n for _, n in pairs), sum(s * n for s, n in pairs)
    points = sum(s for s, _ in pairs)
    mu = (count * products - total * points) / (count * squares - total**2)
    beta = (points - mu * total) / count
    rest = [(s - mu * n - beta) / math.sqrt(n) for s, n in pairs]
    mean = sum(rest) / count
    sigma = math.sqrt(sum((x - mean) ** 2 for x in rest) / count)
    return mu, beta, sigma, lambda s, n: (s - mu * n - beta) / (sigma * math.sqrt(n))


def test_the_formula():
    rng = np.random.default_rng(0)
    letters = rng.integers(0, 60, 50)
    letters[:3] = 0
    scores = -1.7 * letters + 3 + rng.normal(size=50) * np.sqrt(letters + 1)
    line = fitted(scores, letters)
    mu, beta, sigma, s = twin(scores.tolist(), letters.tolist())
    np.testing.assert_allclose(line, (mu, beta, sigma), rtol=1e-9)
    assert abs(line.mu + 1.7) < 0.1
    more, longer = np.array([-8.0, -90.0, 0.0]), np.array([4, 40, 0])
    found = normalised(more, longer, line)
    np.testing.assert_allclose(found[:2], [s(-8, 4), s(-90, 40)], rtol=1e-9)
    assert found[2] == -np.inf


@pytest.mark.parametrize(
    ("scores", "letters", "words"),
    [
        ([-1.0, -2.0], [1, 2], "2 texts of 2 lengths are too few"),
        ([-1.0, -2.0, -3.0], [4, 4, 4], "3 texts of 1 lengths are too few"),
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 1, 2], "2 texts of 2 lengths"),
        ([-1.0, -2.0, -3.0], [1, 2, 3], "all on one line"),
        ([-1.0, np.nan, -3.0], [1, 2, 3], "no numbers"),
    ],
)
def test_what_no_line_goes_through(scores, letters, words):
    with pytest.raises(UserError, match=words):
        fitted(np.array(scores), np.array(letters))


@pytest.fixture
def texts():
    """Texts with too many A, and transcripts with all letters alike."""
    rng = np.random.default_rng(1)
    found = ["".join(rng.choice(list("AAAAB"), 20)) for _ in range(30)]
    found += ["".join(rng.choice(list("ABCDE "), 20)) for _ in range(30)]
    return balance.counts_of(found, SYMBOLS), np.full(6, 100)


def test_letters_are_counted():
    found = balance.counts_of(["AB A", "", "Z?EE"], SYMBOLS)
    assert found.tolist() == [[2, 1, 0, 0, 0, 1], [0] * 6, [0, 0, 0, 0, 2, 0]]


def test_balance_lowers_the_divergence(texts):
    counts, wanted = texts
    found = [balance.divergence(wanted, balance.weights(counts, wanted, b) @ counts)
             for b in (0.0, 0.25, 0.5, 1.0)]  # fmt: skip
    assert sorted(found, reverse=True) == found
    assert len(set(found)) == 4
    assert found[-1] < 0.4 * found[0]
    weights = balance.weights(counts, wanted, 1.0)
    assert weights.min() >= 1 / balance.MOST
    assert weights.max() <= balance.MOST
    assert weights[:30].mean() < 0.5 < 1 < weights[30:].mean()
    assert (balance.weights(counts, wanted, 0.0) == 1).all()
    heard = balance.copies(weights)
    assert balance.divergence(wanted, heard @ counts) < 0.6 * found[0]


def test_copies_are_floor_or_ceil_and_add_up():
    rng = np.random.default_rng(2)
    weights = np.round(rng.uniform(0, 4, 1000), 6)
    weights[::7] = 0
    found = balance.copies(weights)
    assert ((found == np.floor(weights)) | (found == np.ceil(weights))).all()
    assert found.sum() == round(weights.sum())
    assert (balance.copies(np.ones(9)) == 1).all()
    assert (balance.copies(np.full(10, 0.3)) > 0).sum() == 3
