"""The search for the weights of a language model on a development set."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.stats import qmc

LOW, HIGH = (0.0, -5.0), (5.0, 5.0)  # of lm_weight and word_score: wav2vec 2.0, appendix B
CLOSER = 0.25  # the second half of the trials: in a box around the best of so much of the width


@dataclasses.dataclass(frozen=True)
class Trial:
    """Weights and the word error rate, in percent, that they gave."""

    lm_weight: float
    word_score: float
    wer: float


def tune(
    wer: Callable[[float, float], float],
    count: int,
    *,
    low: tuple[float, float] = LOW,
    high: tuple[float, float] = HIGH,
    seed: int = 0,
) -> list[Trial]:
    """Tries `count` pairs (lm_weight, word_score) between low and high; wer(*pair) scores one.

    The first half covers the box evenly (a scrambled Sobol sequence), the second a quarter of its
    width around the best of the first: as few dimensions as two need no model of the surface, which
    the paper's Bayesian search has.
    """
    low, high = np.array(low), np.array(high)
    trials = [_try(wer, pair) for pair in _points(low, high, count - count // 2, seed)]
    centre = np.array([best(trials).lm_weight, best(trials).word_score])
    half = CLOSER / 2 * (high - low)
    near = np.clip([centre - half, centre + half], low, high)
    return trials + [_try(wer, pair) for pair in _points(*near, count // 2, seed + 1)]


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the lowest error rate; of equal ones the one nearest to their centre, as the
    middle of a plateau is safer than its edge."""
    lowest = min(trial.wer for trial in trials)
    equal = [trial for trial in trials if trial.wer == lowest]
    pairs = np.array([(trial.lm_weight, trial.word_score) for trial in equal])
    scale = np.array(HIGH) - np.array(LOW)
    distance = (((pairs - pairs.mean(0)) / scale) ** 2).sum(1)
    return equal[int(distance.argmin())]


def _try(wer: Callable[[float, float], float], pair: np.ndarray) -> Trial:
    lm_weight, word_score = (round(float(x), 3) for x in pair)  # as they are printed and reused
    return Trial(lm_weight, word_score, wer(lm_weight, word_score))


def _points(low: np.ndarray, high: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a count that is no power of two
        drawn = qmc.Sobol(2, seed=seed).random(count)
    yield from low + drawn * (high - low)
