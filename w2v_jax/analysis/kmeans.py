"""K-means on the devices: frames are cut over them, distances are computed block by block.

Greedy k-means++ for a start (Arthur and Vassilvitskii, 2007; as in scikit-learn the best of
2 + ln K candidates becomes the next centroid), then Lloyd's iterations over all frames, or
mini-batches (Sculley, 2010). The first centroids are drawn on one device and every block is summed
alone, in float32, and added to the others in an order of its own, in float64 from chunk to chunk:
the same seed gives the same bits on the same mesh, and on another one up to rounding.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from w2v_jax.analysis.ahead import one_ahead
from w2v_jax.analysis.seeding import first_centroids
from w2v_jax.errors import UserError
from w2v_jax.training.sharding import AXES, make_mesh

METHODS = ("lloyd", "minibatch")
LLOYD_FRAMES = 2_000_000  # up to so many all of them are seen in each iteration
BLOCK = 1024  # frames whose distances are in memory at a time on a device
CHUNK = 64  # blocks that are sent to the devices together
BATCH, BATCH_PER_CLUSTER = 8 * BLOCK, 16  # frames of a mini-batch, or so many for each cluster
RESIDENT = 2 << 30  # bytes of frames that a device keeps; what is more is sent in every iteration
TOLERANCE = 3e-5  # of the inertia: an iteration that improves it by less is the last
WINDOW = 25  # mini-batches whose mean inertia is compared with that of those before
BATCH_TOLERANCE = 3e-4
_EXACT = lax.Precision.HIGHEST


class Frames(Protocol):
    """[N, D], in memory or in a file: `frames[a:b]` and `frames[indices]` are arrays."""

    shape: tuple[int, int]

    def __len__(self) -> int: ...

    def __getitem__(self, rows) -> np.ndarray: ...


class Clustering(NamedTuple):
    """inertia: the mean squared distance of a frame to its centroid, of these centroids."""

    centroids: np.ndarray  # float32 [K, D]
    inertia: float
    counts: np.ndarray  # int64 [K], frames of every cluster
    method: str
    iterations: int  # of Lloyd, or mini-batches
    reseeded: int  # clusters that became empty and began anew


class _Sums(NamedTuple):
    """Of the frames that are nearest to every centroid."""

    sums: np.ndarray  # float64 [K, D]
    counts: np.ndarray  # float64 [K]
    inertia: float  # of all frames together
    far: np.ndarray  # float32 [blocks, D]: of every block the frame farthest from its centroid
    far_distance: np.ndarray  # float32 [blocks]


def learn(
    frames: Frames,
    clusters: int,
    *,
    seed: int = 0,
    method: str = "",
    restarts: int = 1,
    iterations: int = 0,
    mesh: Mesh | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Clustering:
    """The best of `restarts` clusterings by the inertia of all frames.

    method: "lloyd", "minibatch", or "" for the first up to LLOYD_FRAMES. iterations: at most, of
    Lloyd 100, mini-batches 1,000 if 0. A cluster that becomes empty begins anew at the frame that
    is farthest from its centroid (of every block one is taken, the farthest first). say: gets a
    line of progress now and then. Raises UserError for more clusters than frames, or than
    different ones, and for values that are not finite.
    """
    count = len(frames)
    if clusters > count:
        raise UserError(
            f"--clusters={clusters} of {count:,} frames: a cluster needs a frame at least; give "
            "more speech, or lower --clusters"
        )
    method = method or ("lloyd" if count <= LLOYD_FRAMES else "minibatch")
    mesh = make_mesh({"data": -1}) if mesh is None else mesh
    chunks = _Chunks(frames, mesh)
    best = None
    for restart in range(restarts):
        rng = np.random.default_rng([seed, restart])
        start = first_centroids(chunks, clusters, rng)
        if method == "lloyd":
            found = _lloyd(chunks, start, iterations or 100, say)
        else:
            found = _minibatch(chunks, start, iterations or 1000, rng, say)
        if restarts > 1:
            say(f"start {restart + 1} of {restarts}: inertia {found.inertia:.6g} per frame")
        if best is None or found.inertia < best.inertia:
            best = found
    return best._replace(centroids=(best.centroids + chunks.shift).astype(np.float32))


def _lloyd(chunks: "_Chunks", centroids: np.ndarray, most: int, say) -> Clustering:
    before, reseeded = np.inf, 0
    for iteration in range(1, most + 1):
        found = chunks.sums(centroids)
        inertia = found.inertia / chunks.count
        say(f"iteration {iteration}: inertia {inertia:.6g} per frame")
        empty = found.counts == 0
        if iteration == most or (not empty.any() and inertia >= before * (1 - TOLERANCE)):
            break
        before = inertia
        centroids = np.where(empty[:, None], centroids, found.sums / _some(found.counts))
        centroids, seeded = _reseeded(centroids, empty, found)
        reseeded += seeded
    return Clustering(
        centroids, inertia, found.counts.astype(np.int64), "lloyd", iteration, reseeded
    )


def _minibatch(chunks: "_Chunks", centroids: np.ndarray, most: int, rng, say) -> Clustering:
    """Every centroid moves to the mean of the frames that were assigned to it in this window: of
    what came before nothing but the place is kept (all of it would hold the centroids where they
    were when they were bad: 1 % more inertia on MFCC)."""
    weights = np.zeros(len(centroids))
    before, window, reseeded = np.inf, [], 0
    for step, batch in enumerate(chunks.batches(len(centroids), most, rng), 1):
        found = chunks.of(batch, centroids)
        weights += found.counts
        move = (found.sums - found.counts[:, None] * centroids) / _some(weights)
        centroids = centroids + move
        window.append(found.inertia / len(batch))
        if len(window) < WINDOW:
            continue
        inertia = float(np.mean(window))
        say(f"mini-batch {step}: inertia {inertia:.6g} per frame")
        centroids, seeded = _reseeded(centroids, weights == 0, found)
        reseeded += seeded
        if not seeded and inertia >= before * (1 - BATCH_TOLERANCE):
            break
        before, window = inertia, []
        weights[:] = 0
    found = chunks.sums(centroids)
    return Clustering(
        centroids, found.inertia / chunks.count, found.counts.astype(np.int64), "minibatch", step,
        reseeded,
    )  # fmt: skip


def _some(counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, counts, 1)[:, None]


def _reseeded(centroids: np.ndarray, empty: np.ndarray, found: _Sums) -> tuple[np.ndarray, int]:
    """(centroids with those that are empty moved to the farthest frames, how many were)."""
    order = np.argsort(-found.far_distance, kind="stable")
    order = order[found.far_distance[order] > 0]
    places = np.flatnonzero(empty)[: len(order)]
    if not len(places):
        return centroids, 0
    centroids = centroids.copy()
    centroids[places] = found.far[order[: len(places)]]
    return centroids, len(places)


class _Chunks:
    """The frames on the devices, as blocks [G, BLOCK, D] around their mean."""

    def __init__(self, frames: Frames, mesh: Mesh):
        self.frames, self.mesh = frames, mesh
        self.count, self.width = frames.shape
        self.shift = self._mean()
        self._near_zero = self.shift.astype(np.float32)
        self._sums = _program(mesh)
        self._kept: dict[int, tuple] = {}
        self._keep = self.count * self.width * 4 <= RESIDENT * mesh.size

    def _mean(self) -> np.ndarray:
        """float64 [D]. Raises UserError for what is not finite."""
        total = np.zeros(self.width)
        for start in range(0, self.count, CHUNK * BLOCK):
            part = np.asarray(self.frames[start : start + CHUNK * BLOCK])
            total += part.sum(0, dtype=np.float64)
            if not np.isfinite(total).all():
                bad = np.flatnonzero(~np.isfinite(part).all(1))
                raise NotFinite(start + int(bad[0]) if len(bad) else start)
        return total / self.count

    def part(self, rows) -> np.ndarray:
        return np.asarray(self.frames[rows], np.float32) - self._near_zero

    def _put(self, part: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """(blocks, how many frames each has), cut over the devices."""
        blocks = -(-len(part) // BLOCK)
        blocks += -blocks % self.mesh.size  # those beyond have none
        padded = np.zeros((blocks * BLOCK, self.width), np.float32)
        padded[: len(part)] = part
        sizes = np.clip(len(part) - BLOCK * np.arange(blocks), 0, BLOCK).astype(np.int32)
        where = NamedSharding(self.mesh, PartitionSpec(AXES))
        return jax.device_put((padded.reshape(blocks, BLOCK, -1), sizes), where)

    def _all(self) -> Iterator[tuple[jax.Array, jax.Array]]:
        for start in range(0, self.count, CHUNK * BLOCK):
            chunk = self._kept.get(start)
            if chunk is None:
                chunk = self._put(self.part(slice(start, start + CHUNK * BLOCK)))
                if self._keep:
                    self._kept[start] = chunk
            yield chunk

    def sums(self, centroids: np.ndarray) -> _Sums:
        """Of all frames."""
        return self._fold(centroids, self._all())

    def of(self, part: np.ndarray, centroids: np.ndarray) -> _Sums:
        return self._fold(centroids, [self._put(part)])

    def _fold(self, centroids, chunks) -> _Sums:
        centroids = jnp.asarray(centroids, jnp.float32)
        sums, counts = np.zeros(centroids.shape), np.zeros(len(centroids))
        inertia, far, distance = 0.0, [], []
        # a chunk is sent while the one before is computed, and no more than these are in memory
        for found in one_ahead(self._sums(centroids, *chunk) for chunk in chunks):
            of_chunk = jax.device_get(found)
            sums += of_chunk[0]
            counts += of_chunk[1]
            inertia += float(of_chunk[2])
            far.append(of_chunk[3])
            distance.append(of_chunk[4])
        return _Sums(sums, counts, inertia, np.concatenate(far), np.concatenate(distance))

    def batches(self, clusters: int, most: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Mini-batches: all frames in a random order, and again in another."""
        size = min(max(BATCH, BATCH_PER_CLUSTER * clusters), self.count)
        order, at = rng.permutation(self.count), 0
        for _ in range(most):
            if at + size > self.count:
                order, at = rng.permutation(self.count), 0
            yield self.part(np.sort(order[at : at + size]))
            at += size


class NotFinite(UserError):
    """Frame number `frame` has a value that is NaN or infinite."""

    def __init__(self, frame: int):
        super().__init__(f"frame {frame:,} has values that are not finite")
        self.frame = frame


@functools.cache
def _program(mesh: Mesh) -> Callable:
    """(centroids [K, D], blocks [G, BLOCK, D], sizes [G]) -> sums, counts, inertia, and of every
    block the farthest frame and its distance."""
    cut, whole = PartitionSpec(AXES), PartitionSpec()
    by_block = jax.shard_map(
        _by_block, mesh=mesh, in_specs=(whole, cut, cut), out_specs=cut, check_vma=False
    )

    def sums(centroids, blocks, sizes):
        sums, counts, inertia, far, distance = lax.with_sharding_constraint(
            by_block(centroids, blocks, sizes), NamedSharding(mesh, whole)
        )
        # one after the other, so that the number of devices does not matter
        zero = jax.tree.map(lambda x: jnp.zeros_like(x[0]), (sums, counts, inertia))
        add = lambda total, x: (jax.tree.map(jnp.add, total, x), None)  # noqa: E731
        return (*lax.scan(add, zero, (sums, counts, inertia))[0], far, distance)

    return jax.jit(sums)


def _by_block(centroids, blocks, sizes):
    clusters = len(centroids)
    half = jnp.square(centroids).sum(1) / 2

    def one(_, block):
        x, size = block
        found, score = nearest(x, centroids, half)
        valid = jnp.arange(len(x)) < size
        found = jnp.where(valid, found, clusters)
        distance = jnp.where(valid, jnp.maximum(jnp.square(x).sum(1) + 2 * score, 0), 0)
        sums, counts = _per_cluster(x, found, clusters)
        far = distance.argmax()
        return None, (sums, counts, distance.sum(), x[far], distance[far])

    return lax.scan(one, None, (blocks, sizes))[1]


def nearest(x, centroids, half):
    """(index of the nearest centroid, |c|^2 / 2 - x.c), of equally near ones the first.

    A minimum and a comparison: argmin takes five times as long on CPUs.
    """
    scores = half - jnp.matmul(x, centroids.T, precision=_EXACT)
    least = scores.min(1)
    index = jnp.arange(len(centroids), dtype=jnp.int32)
    return jnp.where(scores == least[:, None], index, len(centroids)).min(1), least


def _per_cluster(x, nearest, clusters):
    """(sums [K, D], counts [K]); a frame of cluster K belongs to none."""
    if jax.default_backend() == "cpu":
        sums = jnp.zeros((clusters, x.shape[1])).at[nearest].add(x, mode="drop")
        return sums, jnp.zeros(clusters).at[nearest].add(1.0, mode="drop")
    # sums whose order is fixed, which those of scattered numbers are not
    member = (nearest[:, None] == jnp.arange(clusters)).astype(jnp.float32)
    return jnp.matmul(member.T, x, precision=_EXACT), member.sum(0)
