"""CCA: the reference's numbers, what must be 1 and what must be 0, and slow twins."""

import numpy as np
import pytest

from w2v_jax.analysis import cca
from w2v_jax.errors import UserError


def related(random, count, mix):
    """Frames of two views of 6 and 4 dimensions, with three sources in common."""
    common = random.standard_normal((count, 3))
    x = common @ mix[0] + 0.5 * random.standard_normal((count, 6)) + 1.5
    y = common @ mix[1] + 0.7 * random.standard_normal((count, 4)) - 0.3
    return x, y


@pytest.fixture(scope="module")
def frames():
    """(fitted, other) of both views."""
    random = np.random.RandomState(7)  # whose numbers never change
    mix = random.standard_normal((3, 6)), random.standard_normal((3, 4))
    return related(random, 400, mix), related(random, 50, mix)


# printed by CCA.get_cca_score of ankitapasad/layerwise-analysis c030f2a, codes/tools/cca_core.py
@pytest.mark.parametrize(
    ("order", "regularisers", "in_sample", "held_out"),
    [
        ((0, 1), (1e-10, 1e-9), 0.8034190000910868, 0.7669804208348474),
        ((0, 1), (1e-3, 1e-2), 0.8029305574048935, 0.7660574019132526),
        ((1, 0), (1e-10, 1e-9), 0.8088192239625682, 0.7710320611948538),
        ((1, 0), (1e-3, 1e-2), 0.8090517870670472, 0.7712879650746415),
    ],
)
def test_numbers_of_the_reference(frames, order, regularisers, in_sample, held_out):
    fitted, other = ((part[order[0]], part[order[1]]) for part in frames)
    found = cca.Covariances(cca.views(*fitted)).fit(*regularisers)
    assert cca.weighted(cca.views(*fitted), found)[0] == pytest.approx(in_sample, abs=1e-9)
    assert cca.weighted(cca.views(*other), found)[0] == pytest.approx(held_out, abs=1e-9)


def test_an_orthogonal_image_is_as_good_as_the_frames(frames):
    x, y = frames[0]
    short, whole = cca.views(x, y), cca.Views(np.ones(len(x)), x, y)
    assert len(short.one) == 11
    np.testing.assert_allclose(short.means()[0], x.mean(0))
    found = cca.Covariances(whole).fit(1e-10, 1e-10)
    np.testing.assert_allclose(cca.weighted(short, found), cca.weighted(whole, found))


def test_twins_of_the_correlations(frames):
    """Of all frames (Bjoerck and Golub), and of what holds 99 % of the variance (Raghu et al.)."""
    x, y = (part - part.mean(0) for part in frames[0])
    x[:, 5] *= 1e-3  # holds no variance, and is lost
    covariances = cca.Covariances(cca.views(x, y))
    bases = [np.linalg.qr(part)[0] for part in (x, y)]
    expected = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    found = cca.correlations(cca.views(x, y), covariances.fit(1e-11, 1e-11))[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # of the regularisers
    kept = []
    for part in (x, y):
        u, s, _ = np.linalg.svd(part, full_matrices=False)
        kept.append(u[:, : 1 + np.flatnonzero(np.cumsum(s**2) >= 0.99 * (s**2).sum())[0]])
    assert kept[0].shape[1] < 6
    expected = np.linalg.svd(kept[0].T @ kept[1], compute_uv=False)
    found = cca.correlations(cca.views(x, y), covariances.truncated())[0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_linear_maps_are_the_same():
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 12)) + 3
    found = cca.similarity(x, x @ random.standard_normal((12, 12)) - 5)
    for name in ("pwcca", "mean_cca"):
        assert found[name].held_out == pytest.approx(1, abs=1e-6)
        assert found[name].in_sample == pytest.approx(1, abs=1e-6)
    assert found["svcca"].held_out > 0.9  # 99 % of the variance of two bases is not the same


def test_independent_views_have_nothing_in_common_but_what_they_were_fitted_on():
    random = np.random.default_rng(1)
    x, y = random.standard_normal((400, 40)), random.standard_normal((400, 10))
    for found in cca.similarity(x, y).values():
        assert found.in_sample > 0.25
        assert abs(found.held_out) < 0.1


def test_labels():
    """Labels are told by their means; shuffled ones by nothing; the direction along which one-hot
    labels do not vary is none: what tells them without error has a similarity of 1."""
    random = np.random.default_rng(2)
    labels = random.integers(5, size=1000)
    x = random.standard_normal((5, 12))[labels] * 2 + random.standard_normal((1000, 12))
    one_hot = np.eye(5)[labels]
    for value in cca.similarity(x, one_hot, labels=labels)["pwcca"]:
        assert 0.9 < value < 0.96
    shuffled = random.permutation(1000)
    none = cca.similarity(x, one_hot[shuffled], labels=labels[shuffled])["pwcca"]
    assert abs(none.held_out) < 0.1
    exact = np.column_stack([one_hot @ random.standard_normal((5, 5)), x[:, :3]])
    assert cca.similarity(exact, one_hot, labels=labels)["pwcca"].held_out == pytest.approx(1)


def test_folds():
    labels = np.repeat([0, 1, 2], [95, 40, 4])
    folds = cca.deal(len(labels), np.random.default_rng(0), labels)
    for label, least in ((0, 9), (1, 4), (2, 0)):
        counts = np.bincount(folds[labels == label], minlength=cca.FOLDS)
        assert counts.min() >= least
        assert counts.sum() == (labels == label).sum()
    assert (np.bincount(cca.deal(100, np.random.default_rng(0))) == 10).all()


def test_it_is_determined_by_the_seed(frames):
    x, y = frames[0]
    assert cca.similarity(x, y, seed=3) == cca.similarity(x, y, seed=3)
    assert cca.similarity(x, y, seed=3) != cca.similarity(x, y, seed=4)


def test_errors(frames):
    x, y = frames[0]
    with pytest.raises(UserError, match=r"40 frames are too few for CCA of 6 and 4 .* than 40;"):
        cca.similarity(x[:40], y[:40])
    with pytest.raises(UserError, match="not finite"):
        cca.similarity(np.where(x == x.max(), np.nan, x), y)
    with pytest.raises(UserError, match="all frames of a view are the same"):
        cca.similarity(x, np.ones_like(y))
