import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.decoding.greedy import best_path
from w2v_jax.objectives.ctc import ctc_loss, feasible

FRAMES, LETTERS = 4, 3


def enumerate_loss(logits, label):
    """-log of the summed probability of every path that collapses to `label`."""
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    total = -np.inf
    for path in itertools.product(range(LETTERS), repeat=len(logp)):
        if best_path(np.array(path), len(path)) == list(label):
            total = np.logaddexp(total, sum(logp[t, p] for t, p in enumerate(path)))
    return -total


@pytest.mark.parametrize("label", [[], [1], [1, 2], [1, 1], [2, 1, 2], [1, 2, 1, 2]])
def test_enumeration(label):
    logits = np.random.default_rng(len(label)).normal(size=(1, FRAMES + 2, LETTERS)) * 2
    labels = np.zeros((1, 5), np.int32)
    labels[0, : len(label)] = label
    loss, counted = ctc_loss(
        jnp.array(logits), jnp.array([FRAMES]), labels, jnp.array([len(label)]), jnp.ones(1)
    )
    assert bool(counted[0])
    assert float(loss) == pytest.approx(enumerate_loss(logits[0, :FRAMES], label), rel=1e-4)


def test_infeasible_rows_weigh_nothing():
    logits = jnp.array(np.random.default_rng(0).normal(size=(4, 4, LETTERS)))
    labels = jnp.array([[1, 2, 0, 0], [1, 1, 1, 0], [1, 2, 1, 2], [1, 0, 0, 0]])
    length, frames = jnp.array([2, 3, 4, 1]), jnp.array([4, 4, 3, 4])
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    f = lambda x: ctc_loss(x, frames, labels, length, weight)  # noqa: E731
    (_, counted), grad = jax.value_and_grad(f, has_aux=True)(logits)
    np.testing.assert_array_equal(counted, [True, False, False, False])
    assert float(jnp.abs(grad[0]).max()) > 0
    assert float(jnp.abs(grad[1:]).max()) == 0


def test_feasible_counts_repeats():
    labels = jnp.array([[1, 1, 2], [1, 2, 1]])
    np.testing.assert_array_equal(feasible(jnp.array([3, 3]), labels, jnp.array([3, 3])), [0, 1])
    np.testing.assert_array_equal(feasible(jnp.array([4, 2]), labels, jnp.array([3, 2])), [1, 1])


def test_best_path():
    assert best_path(np.array([0, 1, 1, 0, 1, 2, 2, 0, 3]), 8) == [1, 1, 2]
    assert best_path(np.array([], int), 0) == []
