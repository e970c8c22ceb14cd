"""The bootstrap: a slow twin, a case with a known answer, how often the truth is covered."""

import numpy as np
from scipy import stats

from w2v_jax.evaluation import bootstrap


def counted(size, seed=0):
    """Errors and words of utterances."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 30, size)
    return np.stack([rng.binomial(words, 0.1), words], axis=1)


def test_as_drawing_one_by_one():
    counts = counted(30)
    found = bootstrap.resampled(counts, seed=3, resamples=200)
    rng = np.random.default_rng(3)
    slow = [sum(counts[rng.integers(30)] for _ in range(30)) for _ in range(200)]
    np.testing.assert_array_equal(found, slow)


def test_parts_do_not_matter(monkeypatch):
    whole = bootstrap.resampled(counted(7), 0, 100)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 7 * 9)
    np.testing.assert_array_equal(bootstrap.resampled(counted(7), 0, 100), whole)


def test_one_word_each_is_binomial():
    errors = np.arange(400) < 60
    drawn = bootstrap.resampled(np.stack([errors, np.ones(400)], axis=1), seed=0)
    low, high = bootstrap.interval(*drawn.T)
    expected = stats.binom(400, 0.15).ppf([0.025, 0.975]) / 4
    np.testing.assert_allclose((low, high), expected, atol=0.25)  # one error


def test_resamples_without_words_are_left_out():
    errors, words = bootstrap.resampled(np.array([[1, 0], [1, 2], [0, 0]]), 0, 1000).T
    assert (words == 0).any()
    low, high = bootstrap.interval(errors, words)
    assert 0 < low < high < np.inf


def test_units():
    words = np.full(40, 10)
    many = [f"s{i % 8}" for i in range(40)]
    unit, of = bootstrap.units(many, words)
    assert unit == "speakers"
    np.testing.assert_array_equal(of, np.arange(40) % 8)
    np.testing.assert_array_equal(
        bootstrap.summed(np.stack([np.arange(40), words], axis=1), of),
        [[sum(range(i, 40, 8)), 50] for i in range(8)],
    )
    few = [f"s{i % 7}" for i in range(40)]
    unknown = [*many[:-1], ""]
    unequal = np.where(np.arange(40) % 8 == 0, 10_000, 10)
    for speakers, weights in ((few, words), (unknown, words), (many, unequal)):
        unit, of = bootstrap.units(speakers, weights)
        assert unit == "utterances"
        np.testing.assert_array_equal(of, np.arange(40))


def test_the_better_of_two():
    assert bootstrap.probability_of_improvement(np.array([3, 3, 3, 3]), np.array([2, 3, 4, 1])) == (
        0.625
    )


def test_how_often_the_truth_is_covered():
    """Speakers of beta-distributed error rates (5 %, deviation 2.4), 400 utterances in all."""
    rng = np.random.default_rng(0)
    trials = 200
    covered = {}
    for speakers in (8, 40):
        held = np.zeros(2)
        for trial in range(trials):
            words = rng.integers(5, 35, (speakers, 400 // speakers))
            errors = rng.binomial(words, rng.beta(4, 76, (speakers, 1)))
            alone = np.stack([errors, words], axis=-1)
            for i, counts in enumerate((alone.reshape(-1, 2), alone.sum(1))):
                low, high = bootstrap.interval(*bootstrap.resampled(counts, trial, 300).T)
                held[i] += low <= 5 <= high
        covered[speakers] = held / trials
        shares = "{:.0f} % by utterances, {:.0f} % by speakers".format(*100 * covered[speakers])
        print(f"{speakers} speakers: 95 % intervals hold the truth in {shares}")
    assert all(by_speaker > by_utterance + 0.2 for by_utterance, by_speaker in covered.values())
    assert covered[bootstrap.MIN_SPEAKERS][1] > 0.82
    assert covered[40][1] > 0.9
