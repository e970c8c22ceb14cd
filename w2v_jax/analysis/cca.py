"""How much two views of the same frames have in common: canonical correlation analysis.

Arithmetic and protocol are those of ankitapasad/layerwise-analysis (codes/tools): frames are dealt
into 10 folds, CCA is fitted on 8, its two regularisers are chosen on one and the score is taken on
the last; three such trials with folds of their own, and their mean. Scores are

pwcca      Morcos et al. 2018: canonical correlations, each with the weight of what its direction
           explains of the view with fewer dimensions; nothing is truncated
mean_cca   the plain mean of the same correlations
svcca      Raghu et al. 2017: the mean of the correlations between what is left of both views when
           each keeps the directions that hold 99 % of its variance

each on held-out frames and on those it was fitted on. The latter is above 0 for views that have
nothing in common, by sqrt(dimensions / frames): read it beside the former, never alone.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from w2v_jax.errors import UserError

SCORES = ("pwcca", "mean_cca", "svcca")
FOLDS, TRIALS = 10, 3
REGULARISERS = (1e-11, 1e-10, 1e-9)  # of covariances whose largest entry is 1
PAIRS = 6  # of one for each view are tried
SVCCA_VARIANCE = 0.99


class Score(NamedTuple):
    """A similarity, 1 for views that are linear maps of each other."""

    held_out: float  # about 0 for views that have nothing in common
    in_sample: float


class Views(NamedTuple):
    """Frames of two views, as many rows as there are frames or an orthogonal image of them that has
    fewer: means, covariances and angles are the same, so nothing below can tell."""

    one: np.ndarray  # [R] the image of 1 in every frame
    x: np.ndarray  # [R, Dx]
    y: np.ndarray  # [R, Dy]

    @property
    def frames(self) -> float:
        return self.one @ self.one

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        return self.one @ self.x / self.frames, self.one @ self.y / self.frames

    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        mean_x, mean_y = self.means()
        return self.x - np.outer(self.one, mean_x), self.y - np.outer(self.one, mean_y)


class Projection(NamedTuple):
    """Canonical directions of two views."""

    a: np.ndarray  # [Dx, K]
    b: np.ndarray  # [Dy, K]


def views(x: np.ndarray, y: np.ndarray) -> Views:
    """x [T, Dx], y [T, Dy] as `Views` of at most 1 + Dx + Dy rows, float64."""
    rows = np.column_stack([np.ones(len(x)), x, y]).astype(np.float64, copy=False)
    if len(rows) > rows.shape[1]:
        rows = np.linalg.qr(rows, mode="r")
    return Views(rows[:, 0], rows[:, 1 : 1 + x.shape[1]], rows[:, 1 + x.shape[1] :])


def joined(parts: Sequence[Views]) -> Views:
    return Views(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Covariances:
    """Of the frames that CCA is fitted on, each view's scaled to a largest entry of 1."""

    def __init__(self, fitted: Views):
        x, y = fitted.centred()
        xx, yy = x.T @ x, y.T @ y
        scale_x, scale_y = np.abs(xx).max(), np.abs(yy).max()
        self._xy = x.T @ y / np.sqrt(scale_x * scale_y)
        # a regulariser moves the eigenvalues alone
        self._x, self._y = np.linalg.eigh(xx / scale_x), np.linalg.eigh(yy / scale_y)

    def fit(self, regulariser_x: float, regulariser_y: float) -> Projection:
        """Of each view the directions that vary less than its regulariser are left out: the
        reference leaves out dimensions that do, but one-hot labels, which add up to 1, have such a
        direction without such a dimension, and along it correlations are of rounding errors."""
        return self._between(
            _whitening(*self._x, self._x[0] >= regulariser_x, regulariser_x),
            _whitening(*self._y, self._y[0] >= regulariser_y, regulariser_y),
        )

    def truncated(self) -> Projection:
        """Between the directions that hold SVCCA_VARIANCE of the variance of each view."""
        return self._between(*(
            _whitening(values, vectors, _largest(values), 0.0)
            for values, vectors in (self._x, self._y)
        ))  # fmt: skip

    def _between(
        self, whiten_x: tuple[np.ndarray, int], whiten_y: tuple[np.ndarray, int]
    ) -> Projection:
        (x, rank_x), (y, rank_y) = whiten_x, whiten_y
        u, _, v = np.linalg.svd(x @ self._xy @ y, full_matrices=False)
        count = min(rank_x, rank_y)
        return Projection(x @ u[:, :count], y @ v[:count].T)


def _largest(values: np.ndarray) -> np.ndarray:
    """bool [D], the fewest of ascending eigenvalues that add up to SVCCA_VARIANCE of them all."""
    values = np.maximum(values, 0)
    return np.cumsum(values) > (1 - SVCCA_VARIANCE) * values.sum()


def _whitening(
    values: np.ndarray, vectors: np.ndarray, kept: np.ndarray, regulariser: float
) -> tuple[np.ndarray, int]:
    """(covariance + regulariser)^-1/2 of the directions that are kept, and how many these are;
    symmetric, on which the signs of canonical directions depend, and on these the weights."""
    vectors = vectors[:, kept]
    return vectors / np.sqrt(values[kept] + regulariser) @ vectors.T, int(kept.sum())


def correlations(part: Views, found: Projection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(correlation of each pair of directions [K], x and y along them [R, K]); 0 where frames do
    not differ along one."""
    x, y = part.centred()
    along_x, along_y = x @ found.a, y @ found.b
    length = np.sqrt((along_x**2).sum(0) * (along_y**2).sum(0))
    dots = (along_x * along_y).sum(0)
    return np.divide(dots, length, out=np.zeros_like(dots), where=length > 0), along_x, along_y


def weighted(part: Views, found: Projection) -> tuple[float, float]:
    """(projection-weighted, plain) mean of the correlations.

    As in the reference, the weight of a direction is the sum over the dimensions of |their inner
    product with it|, of frames that are not centred and directions that the means are added to.
    """
    correlation, along_x, along_y = correlations(part, found)
    mean_x, mean_y = part.means()
    fewer = part.x.shape[1] < part.y.shape[1]
    view, mean, along = (part.x, mean_x, along_x) if fewer else (part.y, mean_y, along_y)
    basis, _ = np.linalg.qr(along + np.outer(part.one, mean[: along.shape[1]]))
    weight = np.abs(basis.T @ view).sum(1)
    return float(weight @ correlation / weight.sum()), float(correlation.mean())


def deal(count: int, random: np.random.Generator, labels: np.ndarray | None = None) -> np.ndarray:
    """The fold of every frame, int [count]: as many in each, of every label where there are some;
    the few that are left over go anywhere."""
    folds = random.integers(FOLDS, size=count)
    groups = [np.arange(count)] if labels is None else [
        np.flatnonzero(labels == label) for label in np.unique(labels)
    ]  # fmt: skip
    for group in groups:
        even = random.permutation(group)[: len(group) // FOLDS * FOLDS]
        folds[even] = np.arange(len(even)) % FOLDS
    return folds


def similarity(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, labels: np.ndarray | None = None
) -> dict[str, Score]:
    """The SCORES between x [T, Dx] and y [T, Dy], two views of the same frames.

    labels [T]: of views of labelled frames, every fold has its share of each. The result depends on
    the seed as far as it decides which frames are held out. Raises UserError for values that are
    not finite, a view that does not vary, and frames too few for the dimensions.
    """
    for values in (x, y):
        if not np.isfinite(values).all():
            raise UserError("some values are not finite; the model, or its input, is damaged")
        if not (values.max(0) > values.min(0)).any():
            raise UserError("all frames of a view are the same")
    random = np.random.default_rng(seed)
    number = deal(len(x), random, labels)
    sizes = np.bincount(number, minlength=FOLDS)
    most, least = max(x.shape[1], y.shape[1]), min(x.shape[1], y.shape[1])
    if len(x) - np.sort(sizes)[-2:].sum() <= most or sizes.min() <= least:
        needed = max(most * FOLDS / (FOLDS - 2), least * FOLDS)
        raise UserError(
            f"{len(x)} frames are too few for CCA of {x.shape[1]} and {y.shape[1]} dimensions, "
            f"which takes more than {needed:.0f}; give it more speech"
        )
    folds = [views(x[number == fold], y[number == fold]) for fold in range(FOLDS)]
    held_out = random.permutation(FOLDS)[: 2 * TRIALS].reshape(TRIALS, 2)
    trials = [_trial(folds, dev, test, random) for dev, test in held_out]
    return {
        name: Score(*np.mean([trial[name] for trial in trials], axis=0).tolist()) for name in SCORES
    }


def _trial(
    folds: Sequence[Views], dev: int, test: int, random: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """{score: (held out, in sample)}."""
    fitted = joined([fold for i, fold in enumerate(folds) if i not in (dev, test)])
    covariances = Covariances(fitted)
    pairs = list(itertools.product(REGULARISERS, REGULARISERS))
    found = [covariances.fit(*pairs[i]) for i in random.permutation(len(pairs))[:PAIRS]]
    best = max(found, key=lambda projection: weighted(folds[dev], projection)[0])
    pwcca, mean = zip(weighted(folds[test], best), weighted(fitted, best), strict=True)
    truncated = covariances.truncated()
    svcca = (float(correlations(part, truncated)[0].mean()) for part in (folds[test], fitted))
    return {"pwcca": pwcca, "mean_cca": mean, "svcca": tuple(svcca)}
