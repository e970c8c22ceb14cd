"""The normalised filter score of noisy student training (Park et al., arXiv 2005.09629).

A search gives longer texts lower scores. Of texts of l letters with the score S,

    s = (S - mu l - beta) / (sigma sqrt(l))

is how much better than usual a text is for its length, in standard deviations.
"""

from typing import NamedTuple

import numpy as np

from w2v_jax.errors import UserError

LEAST = 3  # texts that a line and a spread around it can be fitted to


class Line(NamedTuple):
    """What is usual: S = mu l + beta, by least squares; sigma: the standard deviation of
    (S - mu l - beta) / sqrt(l)."""

    mu: float
    beta: float
    sigma: float


def fitted(scores: np.ndarray, letters: np.ndarray) -> Line:
    """The line of texts; those without letters do not count. Raises UserError where none can be
    drawn: too few texts, all of one length, all exactly on it."""
    scores, letters = np.asarray(scores, np.float64), np.asarray(letters, np.float64)
    scores, letters = scores[letters > 0], letters[letters > 0]
    if len(letters) < LEAST or np.ptp(letters) == 0:
        raise UserError(
            f"{len(letters)} texts of {len(np.unique(letters))} lengths are too few to learn from "
            f"how scores fall with length; name a larger --reference"
        )
    across = letters - letters.mean()
    mu = float((across * (scores - scores.mean())).sum() / (across**2).sum())
    beta = float(scores.mean() - mu * letters.mean())
    sigma = float(np.std((scores - mu * letters - beta) / np.sqrt(letters)))
    if not np.isfinite(sigma) or sigma <= 0:
        raise UserError(
            f"the scores of the --reference are {'all on one line' if sigma == 0 else 'no numbers'}"
            "; look whether its utterances differ"
        )
    return Line(mu, beta, sigma)


def normalised(scores: np.ndarray, letters: np.ndarray, line: Line) -> np.ndarray:
    """s float64 [texts]; -inf of a text without letters."""
    scores, letters = np.asarray(scores, np.float64), np.asarray(letters, np.float64)
    some = letters > 0
    found = np.full(len(scores), -np.inf)
    found[some] = (scores[some] - line.mu * letters[some] - line.beta) / (
        line.sigma * np.sqrt(letters[some])
    )
    return found
