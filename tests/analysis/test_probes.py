"""Probes find what is planted in a layer, and nothing in noise."""

import numpy as np
import pytest

from w2v_jax.analysis import probes
from w2v_jax.analysis.probes import DEV, TEST, TRAIN, probe, split
from w2v_jax.errors import UserError


@pytest.fixture(scope="module")
def planted():
    """Layers of noise, with a label to be read linearly, and with one that is the product of two
    signs; labels; parts."""
    random = np.random.default_rng(0)
    count = 3000
    labels = random.integers(2, size=count)
    noise = random.standard_normal((count, 8)).astype(np.float32)
    linear = noise.copy()
    linear[:, 3] = 100 + 0.01 * (labels + 0.1 * random.standard_normal(count))  # small, and far off
    product = 0.3 * noise
    sign = random.choice([-1, 1], count)
    product[:, 0] += sign
    product[:, 1] += sign * (2 * labels - 1)
    parts = random.choice([TRAIN, DEV, TEST], count, p=[0.6, 0.2, 0.2])
    return [noise, linear, product], labels, parts


def test_what_each_layer_knows(planted):
    noise, linear, product = probe(*planted).test
    assert abs(noise - 0.5) < 0.1
    assert linear > 0.98
    assert abs(product - 0.5) < 0.1
    noise, linear, product = probe(*planted, hidden=32).test
    assert abs(noise - 0.5) < 0.1
    assert linear > 0.98
    assert product > 0.95
    assert abs(probes.majority(*planted[1:]) - 0.5) < 0.05


def test_layers_do_not_see_each_other(planted, monkeypatch):
    monkeypatch.setattr(probes, "MOST_STEPS", 60)
    arrays, labels, parts = planted
    together = probe(arrays, labels, parts, hidden=16, seed=1)
    for i, array in enumerate(arrays):
        alone = probe([array], labels, parts, hidden=16, seed=1)
        assert alone.test[0] == together.test[i]
        assert alone.dev[0] == together.dev[i]


def test_the_weights_that_are_best_on_development_frames_are_kept(planted, monkeypatch):
    """Where development labels are those of training inverted, the first weights are the best."""
    (_, linear, _), labels, parts = planted
    monkeypatch.setattr(probes, "EVALUATE_STEPS", 1)
    monkeypatch.setattr(probes, "PATIENCE", 300)
    inverted = np.where(parts == DEV, 1 - labels, labels)
    found = probe([linear], inverted, parts)
    assert 300 < found.steps < 400
    assert found.test[0] < 0.9
    assert probe([linear], labels, parts).test[0] > 0.98


def test_splits_keep_groups_together():
    classes = np.repeat([0, 1, 2], [100, 30, 2])
    groups = np.arange(132) // 2
    parts = split(classes, groups, seed=0)
    assert (parts[classes == 2] == -1).all()  # one group alone
    for kind in (0, 1):
        own = parts[classes == kind]
        assert set(own) == {TRAIN, DEV, TEST}
        assert (own == TEST).sum() == (own == DEV).sum() == {0: 10, 1: 4}[kind]
    for group in np.unique(groups):
        assert len(set(parts[groups == group])) == 1
    assert (split(classes, groups, seed=0) == parts).all()
    assert (split(classes, groups, seed=1) != parts).any()


def test_errors(planted):
    arrays, labels, parts = planted
    with pytest.raises(UserError, match="no frame is left for the test"):
        probe(arrays, labels, np.where(parts == TEST, TRAIN, parts))
    with pytest.raises(UserError, match="all frames have the same label"):
        probe(arrays, np.zeros_like(labels), parts)
