"""The centroids that k-means begins with: greedy k-means++ among random frames."""

import math
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from w2v_jax.errors import UserError

START_FRAMES = 1 << 15  # that they are drawn among,
START_PER_CLUSTER = 64  # or so many for each cluster
_EXACT = lax.Precision.HIGHEST


class Chunks(Protocol):
    count: int  # frames

    def part(self, rows: np.ndarray) -> np.ndarray:
        """float32 [rows, D]"""


def first_centroids(chunks: Chunks, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """float64 [K, D], some of the frames. Raises UserError where too few of them differ."""
    count = min(chunks.count, max(START_FRAMES, START_PER_CLUSTER * clusters))
    rows = np.sort(rng.permutation(chunks.count)[:count])
    x = chunks.part(rows)
    candidates = 2 + int(math.log(clusters))
    draws = rng.random((clusters, candidates)).astype(np.float32)
    chosen, left = jax.device_get(_plus_plus(jax.device_put(x, jax.devices()[0]), draws))
    if clusters > 1 and (left[:-1] <= 0).any():
        different = int(np.argmax(left <= 0)) + 1
        raise UserError(
            f"{clusters:,} clusters, but there are {different:,} different frames among {count:,}; "
            "lower --clusters, or take other audio: it may be silent"
        )
    return x[chosen].astype(np.float64)


@jax.jit
def _plus_plus(x, draws):
    """(rows that were chosen [K], sum of squared distances left after each [K]).

    x [N, D]; draws [K, candidates], uniform in [0, 1).
    """
    squares = jnp.square(x).sum(1)

    def distances(rows):
        """[N, candidates]; 0 where it is below what rounding leaves."""
        scales = squares[:, None] + squares[rows]
        found = scales - 2 * jnp.matmul(x, x[rows].T, precision=_EXACT)
        return jnp.where(found > 1e-6 * scales, found, 0)

    def step(near, draw):
        # candidates in proportion to their squared distance
        reached = jnp.cumsum(near)
        rows = jnp.searchsorted(reached, draw * reached[-1], side="right")
        rows = jnp.minimum(rows, len(x) - 1)
        after = jnp.minimum(near[:, None], distances(rows))
        best = after.sum(0).argmin()
        return after[:, best], (rows[best], after[:, best].sum())

    first = jnp.minimum((draws[0, 0] * len(x)).astype(jnp.int32), len(x) - 1)
    near = distances(first[None])[:, 0]
    _, (rows, left) = lax.scan(step, near, draws[1:])
    return jnp.append(first, rows), jnp.append(near.sum(), left)
