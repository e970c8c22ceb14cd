"""K-means on the devices against a slow twin, itself on other meshes, and scikit-learn."""

import jax
import numpy as np
import pytest

from w2v_jax.analysis import kmeans
from w2v_jax.audio import mfcc
from w2v_jax.audio.waveform import samples_of
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError
from w2v_jax.training.sharding import make_mesh

# inertia of `speech` per frame and 100 clusters by scikit-learn 1.9.1, mean of the seeds 0 to 2:
# KMeans(100, n_init=1), and MiniBatchKMeans with HuBERT's values (batch_size=10000, max_iter=100,
# tol=0, max_no_improvement=100, n_init=20, reassignment_ratio=0)
SCIKIT_LEARN = {"lloyd": 1094.27, "minibatch": 1114.97}


def mesh(devices):
    return make_mesh({"data": -1}, jax.devices()[:devices])


def blobs(clusters, count, width=5, seed=0):
    """Points around centres that are far from each other, and which is whose."""
    rng = np.random.default_rng(seed)
    centres = 100 * rng.normal(size=(clusters, width))
    whose = rng.integers(0, clusters, count)
    points = centres[whose] + rng.normal(size=(count, width))
    return points.astype(np.float32), whose, centres


def inertia(frames, centroids):
    """The mean squared distance to the nearest centroid, all distances at once."""
    x, c = frames.astype(np.float64), centroids.astype(np.float64)
    distances = np.square(x[:, None] - c).sum(-1) if len(x) * len(c) < 1e6 else (
        np.square(x).sum(1)[:, None] - 2 * x @ c.T + np.square(c).sum(1)
    )  # fmt: skip
    return distances.min(1).mean()


@pytest.fixture(scope="module")
def speech(manifests):
    """MFCC of the speech in the repository, float32 [N, 39]."""
    (source,) = open_sources(manifests["train"])
    found = []
    for row in range(60):
        audio = samples_of(source.audio(row, 0, int(source.manifest.samples[row])))
        found.append(mfcc.with_deltas(mfcc.cepstra(audio)))
    return np.concatenate(found).astype(np.float32)


@pytest.fixture(scope="module")
def few(speech):
    """As many as make 16 blocks."""
    return speech[:16_000]


@pytest.mark.parametrize("method", kmeans.METHODS)
def test_it_finds_clusters_that_are_far_apart(method):
    points, whose, _ = blobs(40, 9000)
    found = kmeans.learn(points, 40, method=method)
    means = np.stack([points[whose == i].mean(0) for i in range(40)])
    order = [np.square(found.centroids - mean).sum(1).argmin() for mean in means]
    assert sorted(order) == list(range(40))
    # mini-batches: of a window of them, not of all points
    np.testing.assert_allclose(
        found.centroids[order], means, atol=1e-3 if method == "lloyd" else 0.3
    )
    assert found.inertia == pytest.approx(inertia(points, found.centroids), rel=1e-4)
    assert found.counts.sum() == 9000
    if method == "lloyd":
        assert found.counts[order].tolist() == np.bincount(whose).tolist()


def test_an_iteration_is_that_of_lloyd():
    """Against NumPy, from the centroids that two iterations begin with."""
    points = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float32) + 3
    first = kmeans.learn(points, 12, iterations=1)
    second = kmeans.learn(points, 12, iterations=2)
    nearest = np.square(points[:, None] - first.centroids).sum(-1).argmin(1)
    means = np.stack([points[nearest == i].mean(0) for i in range(12)])
    np.testing.assert_allclose(second.centroids, means, atol=1e-5)
    assert first.counts.tolist() == np.bincount(nearest, minlength=12).tolist()
    assert second.inertia < first.inertia
    # the first centroids are frames
    assert np.isclose(first.centroids[:, None], points, atol=1e-6).all(-1).any(1).all()


@pytest.mark.parametrize("method", kmeans.METHODS)
def test_a_seed_gives_the_same_bits(few, method):
    options = dict(method=method, iterations=30)
    found = kmeans.learn(few, 50, seed=3, **options)
    again = kmeans.learn(few, 50, seed=3, **options)
    np.testing.assert_array_equal(found.centroids, again.centroids)
    assert found.inertia == again.inertia
    other = kmeans.learn(few, 50, seed=4, **options)
    assert not np.array_equal(found.centroids, other.centroids)


@pytest.mark.parametrize("method", kmeans.METHODS)
@pytest.mark.parametrize("devices", [1, 3])
def test_another_mesh_gives_the_same_up_to_rounding(few, method, devices):
    options = dict(method=method, iterations=30)
    found = kmeans.learn(few, 50, **options)
    other = kmeans.learn(few, 50, **options, mesh=mesh(devices))
    np.testing.assert_allclose(found.centroids, other.centroids, atol=1e-3)
    assert found.inertia == pytest.approx(other.inertia, rel=1e-6)


def test_frames_that_do_not_stay_on_the_devices(few, monkeypatch):
    """Nor are they sent all at once: eight blocks, and eight blocks."""
    whole = kmeans.learn(few, 20, iterations=5)
    monkeypatch.setattr(kmeans, "CHUNK", 8)
    found = kmeans.learn(few, 20, iterations=5)
    np.testing.assert_allclose(found.centroids, whole.centroids, atol=1e-4)
    assert found.counts.tolist() == whole.counts.tolist()
    monkeypatch.setattr(kmeans, "RESIDENT", 0)
    np.testing.assert_array_equal(kmeans.learn(few, 20, iterations=5).centroids, found.centroids)
    half = few.astype(np.float16)
    found = kmeans.learn(half, 20, iterations=5)
    assert np.isfinite(found.centroids).all()


def test_the_best_of_several_starts(speech):
    alone = kmeans.learn(speech, 30, iterations=3)
    best = kmeans.learn(speech, 30, iterations=3, restarts=4)
    said = []
    assert best.inertia <= alone.inertia
    kmeans.learn(speech, 30, iterations=3, restarts=4, say=said.append)
    starts = [float(line.split()[-3]) for line in said if line.startswith("start ")]
    assert len(starts) == 4
    assert best.inertia == pytest.approx(min(starts), rel=1e-5)


def test_the_start_is_better_than_frames_at_random(speech):
    drawn = speech[np.random.default_rng(0).permutation(len(speech))[:60]]
    greedy = kmeans.learn(speech, 60, iterations=1)
    assert greedy.inertia < 0.85 * inertia(speech, drawn)


def test_an_empty_cluster_begins_anew(monkeypatch):
    """At the frame that is farthest from its centroid."""
    points, whose, centres = blobs(3, 4000)
    start = np.stack([centres[0], centres[1], 1e4 + np.zeros(5)])

    def bad_start(chunks, clusters, rng):
        return start - chunks.shift

    monkeypatch.setattr(kmeans, "first_centroids", bad_start)
    for method in kmeans.METHODS:
        found = kmeans.learn(points, 3, method=method)
        assert found.reseeded == 1
        assert sorted(found.counts.tolist()) == sorted(np.bincount(whose).tolist())


def test_as_many_clusters_as_frames():
    points = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    found = kmeans.learn(points, 30)
    assert found.inertia == pytest.approx(0, abs=1e-5)
    assert found.counts.tolist() == [1] * 30
    assert kmeans.learn(points, 1).centroids[0] == pytest.approx(points.mean(0), abs=1e-6)


def test_what_cannot_be_clustered():
    points = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    with pytest.raises(UserError, match=r"--clusters=31 of 30 frames: .*lower --clusters"):
        kmeans.learn(points[:30], 31)
    same = np.repeat(points[:6], 50, axis=0)
    with pytest.raises(UserError, match="7 clusters, but there are 6 different frames among 300"):
        kmeans.learn(same, 7)
    assert sorted(kmeans.learn(same, 6).counts.tolist()) == [50] * 6
    for value in (np.nan, np.inf, -np.inf):
        wrong = points.copy()
        wrong[4321, 2] = value
        with pytest.raises(kmeans.NotFinite) as raised:
            kmeans.learn(wrong, 10)
        assert raised.value.frame == 4321


@pytest.mark.parametrize("method", kmeans.METHODS)
def test_inertia_of_speech_is_that_of_scikit_learn(speech, method):
    found = kmeans.learn(speech, 100, method=method)
    assert found.inertia < 1.01 * SCIKIT_LEARN[method]
    assert found.inertia > 0.97 * SCIKIT_LEARN["lloyd"]
