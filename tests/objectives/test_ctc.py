import functools
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


def twin(logits, frames, label, length):
    """(loss, gradient [T, V]) of one utterance, state by state in float64; inf and 0 where no
    alignment exists."""
    y = [0]
    for letter in label[:length]:
        y += [int(letter), 0]
    x = np.asarray(logits[:frames], np.float64)
    logp = x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
    alpha = np.full((frames, len(y)), -np.inf)
    beta = np.full((frames, len(y)), -np.inf)  # without the emission of its own frame

    def sources(s):
        skips = s > 1 and y[s] and y[s] != y[s - 2]
        return range(max(s - 1 - bool(skips), 0), s + 1)

    for t in range(frames):
        for s in range(len(y)):
            before = alpha[t - 1, list(sources(s))] if t else [0.0 if s < 2 else -np.inf]
            alpha[t, s] = np.logaddexp.reduce(before) + logp[t, y[s]]
    beta[-1:, -2:] = 0
    for t in reversed(range(frames - 1)):
        for target in range(len(y)):
            for s in sources(target):
                way = beta[t + 1, target] + logp[t + 1, y[target]]
                beta[t, s] = np.logaddexp(beta[t, s], way)
    total = np.logaddexp.reduce(alpha[-1, -2:]) if frames else (-np.inf if length else 0.0)
    gradient = np.zeros(np.shape(logits))
    if total > -np.inf:
        gradient[:frames] = np.exp(logp)
        for t in range(frames):
            for s, letter in enumerate(y):
                gradient[t, letter] -= np.exp(alpha[t, s] + beta[t, s] - total)
    return -total, gradient


LABELS = np.array(
    [
        [3, 1, 4, 1, 5, 2],
        [2, 2, 2, 2, 2, 2],  # a blank between every two
        [4, 4, 1, 3, 3, 2],  # exactly enough frames
        [4, 4, 1, 3, 3, 2],  # one too few
        [0, 0, 0, 0, 0, 0],  # empty
        [5, 1, 1, 0, 0, 0],
        [1, 2, 3, 4, 5, 1],  # no frame
        [0, 0, 0, 0, 0, 0],  # neither frames nor letters
        [2, 3, 2, 0, 0, 0],  # weight 0
    ],
    np.int32,
)
LENGTH = np.array([6, 6, 6, 6, 0, 3, 6, 0, 3], np.int32)
CASE_FRAMES = np.array([14, 14, 8, 7, 10, 14, 0, 0, 14], np.int32)
WEIGHT = np.array([1, 1, 1, 1, 1, 0.5, 1, 1, 0], np.float32)
COUNTED = [True, True, True, False, True, True, False, True, False]


@functools.partial(jax.jit, static_argnames="fused")
def step(logits, frames=CASE_FRAMES, labels=LABELS, length=LENGTH, weight=WEIGHT, fused=False):
    def loss(logits):
        return ctc_loss(logits, frames, labels, length, weight, fused=fused, interpret=True)

    return jax.value_and_grad(loss, has_aux=True)(logits)


BOTH = pytest.mark.parametrize("fused", [False, True], ids=["scan", "fused"])


def case(scale=2.0):
    return (np.random.default_rng(1).normal(size=(len(LABELS), 14, 6)) * scale).astype(np.float32)


def expected(logits):
    losses, gradients = zip(
        *(twin(*row) for row in zip(logits, CASE_FRAMES, LABELS, LENGTH, strict=True)), strict=True
    )
    losses = np.where(COUNTED, losses, 0)
    return (losses * WEIGHT).sum(), np.array(gradients) * (WEIGHT * COUNTED)[:, None, None]


@pytest.mark.parametrize("row", [0, 1, 2, 4, 5])
def test_twin_by_central_differences(row):
    logits, rest = case()[row].astype(np.float64), (CASE_FRAMES[row], LABELS[row], LENGTH[row])
    gradient = np.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        shift = np.zeros_like(logits)
        shift[place] = 1e-4
        gradient[place] = (twin(logits + shift, *rest)[0] - twin(logits - shift, *rest)[0]) / 2e-4
    np.testing.assert_allclose(twin(logits, *rest)[1], gradient, atol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
@BOTH
def test_twin(scale, fused):
    logits = case(scale)
    (loss, counted), gradient = step(logits, fused=fused)
    total, exact = expected(logits)
    np.testing.assert_array_equal(counted, COUNTED)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(gradient, exact, atol=3e-5)


@BOTH
def test_what_does_not_count_has_gradient_zero_whatever_it_is(fused):
    logits = case()
    padding = np.arange(14) >= CASE_FRAMES[:, None]
    clean = step(logits, fused=fused)
    for value in (np.nan, np.inf, -np.inf, 1e30):
        dirty = np.where(padding[:, :, None], np.float32(value), logits)
        dirty[~np.array(COUNTED)] = value
        (loss, counted), gradient = step(dirty, fused=fused)
        assert float(loss) == float(clean[0][0])
        np.testing.assert_array_equal(counted, COUNTED)
        np.testing.assert_array_equal(gradient, clean[1])
        assert not np.asarray(gradient)[padding].any()


@BOTH
def test_padding_of_labels_does_not_matter(fused):
    logits, other = case(), LABELS.copy()
    other[np.arange(6) >= LENGTH[:, None]] = 5
    found, expected = step(logits, fused=fused), step(logits, labels=other, fused=fused)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@BOTH
def test_labels_without_letters(fused):
    logits, none = case(), np.zeros(len(LABELS), np.int32)
    wide = step(logits, length=none, fused=fused)
    narrow = step(logits, labels=LABELS[:, :0], length=none, fused=fused)
    for a, b in zip(jax.tree.leaves(wide), jax.tree.leaves(narrow), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@BOTH
def test_nan_inside_shows(fused):
    logits = case()
    logits[0, 3, 2] = np.nan
    (loss, _), gradient = step(logits, fused=fused)
    assert np.isnan(loss)
    assert np.isnan(gradient[0]).any()
    assert np.isfinite(gradient[1:]).all()


@BOTH
def test_bfloat16(fused):
    half = jnp.asarray(case(), jnp.bfloat16)
    (loss, _), gradient = step(half, fused=fused)
    (full_loss, _), full = step(half.astype(jnp.float32), fused=fused)
    assert (loss.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    assert float(loss) == pytest.approx(float(full_loss), rel=1e-6)
    np.testing.assert_array_equal(gradient, full.astype(jnp.bfloat16))


def test_more_frames_than_there_are():
    """As many as there are count, whoever computes it."""
    more = CASE_FRAMES + 9 * (CASE_FRAMES == 14)
    for a, b in zip(jax.tree.leaves(step(case(), frames=more, fused=True)),
                    jax.tree.leaves(step(case(), fused=True)), strict=True):  # fmt: skip
        np.testing.assert_array_equal(a, b)


def test_large_logits():
    logits = case(1e4)
    (loss, _), gradient = step(logits)
    total, exact = expected(logits)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(gradient, exact, atol=1e-3)


def test_long_utterances_keep_their_digits():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(1, 400, 32)).astype(np.float32)
    label, frames, length = rng.integers(1, 32, 100), np.array([400]), np.array([100])
    (loss, _), gradient = step(logits, frames, label[None], length, np.ones(1, np.float32))
    total, exact = twin(logits[0], 400, label, 100)
    assert float(loss) == pytest.approx(total, rel=1e-6)
    np.testing.assert_allclose(gradient[0], exact, atol=2e-5)  # optax: 2e-4


def test_micro_batches_and_rows_over_devices():
    logits = np.concatenate([case(), case(1.0)])[:16]
    rows = [np.concatenate([x, x])[:16] for x in (CASE_FRAMES, LABELS, LENGTH, WEIGHT)]
    (loss, _), gradient = step(logits, *rows)

    halves = [x.reshape(2, 8, *x.shape[1:]) for x in (logits, *rows)]
    _, (losses, gradients) = jax.jit(
        lambda xs: jax.lax.scan(lambda c, x: (c, (step(*x)[0][0], step(*x)[1])), 0, xs)
    )(halves)
    assert float(losses.sum()) == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_allclose(gradients.reshape(gradient.shape), gradient, atol=1e-6)

    mesh = jax.make_mesh((8,), ("data",))
    over_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    shares = jax.device_put([logits, *rows], over_rows)
    compiled = step.lower(*shares).compile()
    (sharded, _), parts = compiled(*shares)
    assert float(sharded) == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_allclose(parts, gradient, atol=1e-6)
    assert parts.sharding.is_equivalent_to(over_rows, 3)
    # the sum is all that devices tell each other
    text = compiled.as_text()
    assert text.count(" all-reduce(") == 1
    assert not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
