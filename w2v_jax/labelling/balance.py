"""Weights of utterances with which the letters of the pseudo-labels are as frequent as those of
transcripts.

The histogram of weighted utterances is a mixture of their own, so that EM finds the weights: each
is multiplied by what its letters are worth, the mean of q / p over them (q: of the transcripts, p:
of the mixture), and KL(q || p) falls with every step. Park et al. (arXiv 2005.09629) choose a
subset by a sub-modular function instead.
"""

from collections.abc import Sequence

import numpy as np

STEPS = 50
MOST = 4.0  # of a weight, and of its inverse
UNIT = 1_000_000  # weights are counted in millionths: sums are exact


def counts_of(texts: Sequence[str], symbols: str) -> np.ndarray:
    """How often every symbol occurs: int64 [texts, symbols]; others do not count."""
    place = {symbol: i for i, symbol in enumerate(symbols)}
    found = np.zeros((len(texts), len(symbols)), np.int64)
    for row, text in zip(found, texts, strict=True):
        np.add.at(row, [place[x] for x in text if x in place], 1)
    return found


def divergence(wanted: np.ndarray, counts: np.ndarray) -> float:
    """KL(q || p) in nats of two histograms [symbols], with one of every symbol added to each."""
    q, p = ((x + 1) / (x + 1).sum() for x in (wanted, counts))
    return float((q * np.log(q / p)).sum())


def weights(counts: np.ndarray, wanted: np.ndarray, strength: float) -> np.ndarray:
    """float64 [texts], about 1 on average, of texts with `counts` [texts, symbols].

    strength: from 0, all 1, to 1, as near to the histogram `wanted` as weights between 1/4 and 4
    come in 50 steps. In between the divergence is no larger than in proportion.
    """
    found = np.ones(len(counts))
    if not len(counts) or strength == 0:
        return found
    q = (wanted + 1) / (wanted + 1).sum()
    sizes = np.maximum(counts.sum(1), 1)
    best = divergence(wanted, found @ counts)
    for _ in range(STEPS):
        p = found @ counts + 1
        proposed = found * (counts @ (q / (p / p.sum())) / sizes)
        proposed = np.clip(proposed / proposed.mean(), 1 / MOST, MOST)
        value = divergence(wanted, proposed @ counts)
        if not value < best:
            break
        found, best = proposed, value
    return 1 + strength * (found - 1)


def copies(given: np.ndarray) -> np.ndarray:
    """int64 [texts]: floor or ceil of every weight, in order, so that their sum is that of the
    weights, rounded: what rounding takes from one the next ones get."""
    units = np.round(np.asarray(given, np.float64) * UNIT).astype(np.int64)
    ends = (np.cumsum(units) + UNIT // 2) // UNIT
    return np.diff(ends, prepend=0)
