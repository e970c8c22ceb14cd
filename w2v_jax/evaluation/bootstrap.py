"""How far an error rate can be trusted: the bootstrap of Bisani and Ney (ICASSP 2004).

The units of a test set are drawn with replacement, as many as there are, again and again. Each
drawing has an error rate, the sum of its errors over the sum of its words, and these scatter as the
rates of other test sets would.

What is drawn is whole speakers, not utterances, where there are enough of them: the errors of a
speaker have causes in common, and drawing utterances as if each were somebody else's gives
intervals that are far too narrow (`pytest
tests/evaluation/test_bootstrap.py -rP` prints how often they hold the truth).
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
MIN_SPEAKERS = 8
_AT_ONCE = 4_000_000  # units drawn at once: 32 MB


def units(speakers: Sequence[str], words: np.ndarray) -> tuple[str, np.ndarray]:
    """("speakers" or "utterances", the unit of every utterance, int [N], counted from 0).

    speakers: one per utterance, '' where it is not known; words int [N]: of the reference.

    Speakers, if every utterance has one and they are at least MIN_SPEAKERS, weighed by their
    words: (sum of words)^2 / sum of words^2, which is their number where all speak equally much.
    With fewer, or when one speaks nearly all, the interval from utterances is given; it is about
    more utterances of the same speakers and says nothing about others.
    """
    _, speaker = np.unique(np.asarray(speakers), return_inverse=True)
    share = np.bincount(speaker, words)
    if all(speakers) and share.sum() ** 2 >= MIN_SPEAKERS * (share**2).sum() > 0:
        return "speakers", speaker
    return "utterances", np.arange(len(words))


def summed(counts: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Counts [N, K] of utterances summed over the utterances of each unit, float64 [U, K]."""
    return np.stack([np.bincount(unit, column) for column in counts.T], axis=1)


def resampled(counts: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Counts [U, K] summed over U units drawn with replacement, float64 [resamples, K]."""
    rng = np.random.default_rng(seed)
    size = len(counts)
    at_once = max(_AT_ONCE // size, 1)
    sums = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        sums.append(times @ counts.astype(np.float64))
    return np.concatenate(sums)


def interval(errors: np.ndarray, words: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of errors / words over resamples, in percent; [resamples] each.

    Resamples without any words have no rate and are left out.
    """
    some = words > 0
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(100 * errors[some] / words[some], [tail, 1 - tail])
    return float(low), float(high)


def probability_of_improvement(before: np.ndarray, after: np.ndarray) -> float:
    """The share of resamples with fewer errors after than before, [resamples] each.

    Equal numbers count one half, so that both directions add up to 1; the paper counts them as no
    improvement.
    """
    return float(np.mean((after < before) + 0.5 * (after == before)))
