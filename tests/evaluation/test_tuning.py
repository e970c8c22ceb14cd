"""The search for weights: near the best of a known surface, the same again, on its plateau."""

import numpy as np

from w2v_jax.evaluation.figures import surface
from w2v_jax.evaluation.tuning import HIGH, LOW, Trial, best, tune


def valley(lm_weight, word_score):
    return 10 + (lm_weight - 1.3) ** 2 + 0.3 * (word_score + 0.7) ** 2


def test_close_to_the_best():
    trials = tune(valley, 64)
    assert len(trials) == 64
    found = best(trials)
    assert abs(found.lm_weight - 1.3) < 0.3
    assert abs(found.word_score + 0.7) < 0.6
    # the second half looks where the first found the least
    first, second = (np.mean([t.wer - 10 for t in half]) for half in (trials[:32], trials[32:]))
    assert second < 0.3 * first
    assert tune(valley, 64) == trials
    assert tune(valley, 64, seed=3) != trials


def test_inside_the_box():
    for trial in tune(lambda a, b: -a - b, 32):
        assert LOW[0] <= trial.lm_weight <= HIGH[0]
        assert LOW[1] <= trial.word_score <= HIGH[1]
    assert len(tune(valley, 3)) == 3


def test_the_middle_of_a_plateau():
    plateau = [Trial(x / 10, 0.0, 5.0) for x in range(11)] + [Trial(3.0, 1.0, 6.0)]
    assert best(plateau).lm_weight == 0.5


def test_the_picture_is_one():
    assert surface({"n-gram": tune(valley, 8), "Transformer": tune(valley, 8)})[:4] == b"\x89PNG"
