import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.objectives.contrastive import (
    across_batch,
    code_perplexity,
    contrastive_loss,
    diversity_loss,
    gumbel_temperature,
    sample_cross_negatives,
    sample_negatives,
    target_similarity,
)
from w2v_jax.objectives.masking import utterance_keys

B, M, N, Q = 3, 20, 7, 12


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    count = np.array([20, 13, 2])
    keys = utterance_keys(jax.random.key(1), jnp.arange(B))
    return dict(
        context=rng.normal(size=(B, M, Q)).astype(np.float32),
        targets=rng.normal(size=(B, M, Q)).astype(np.float32),
        codes=rng.integers(0, 3, (B, M, 2)),
        negatives=np.asarray(sample_negatives(keys, jnp.array(count), M, N)),
        valid=np.arange(M) < count[:, None],
    )


def twin(context, targets, codes, negatives, valid, temperature, own=None):
    """Frame by frame, in float64, as fairseq writes it."""
    loss, won, frames = 0.0, 0, 0
    for b in range(len(context)):
        for m in np.flatnonzero(valid[b]):
            self = m if own is None else own[b, m]
            candidates = [self, *negatives[b, m]]
            c = context[b, m].astype(np.float64)
            logits = []
            for place, k in enumerate(candidates):
                t = targets[b, k].astype(np.float64)
                cosine = c @ t / (np.linalg.norm(c) * np.linalg.norm(t)) / temperature
                same = place > 0 and (codes[b, k] == codes[b, self]).all()
                logits.append(-np.inf if same else cosine)
            logits = np.array(logits)
            loss -= logits[0] - np.logaddexp.reduce(logits)
            won += logits.argmax() == 0 and logits.argmin() != 0
            frames += 1
    return loss, won, frames


@pytest.mark.parametrize("across", [False, True])
def test_without_codes(case, across):
    """As if every target had a code of its own."""
    unique = np.arange(B * M).reshape(B, M, 1) + np.zeros((1, 1, 2), int)
    expected = contrastive_loss(**case | {"codes": unique}, temperature=0.1)
    arrays = case | {"codes": None}
    if across:
        own = jnp.broadcast_to(jnp.arange(M), (B, M))
        offset = M * jnp.arange(B)[:, None, None]
        arrays = across_batch(
            **arrays | {"negatives": case["negatives"] + offset}, own=own, usable=case["valid"]
        )
    found = contrastive_loss(**arrays, temperature=0.1)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert [int(x) for x in found[1:]] == [int(x) for x in expected[1:]]


def test_similarity_of_targets(case):
    targets, usable = case["targets"], case["valid"]
    total, pairs = target_similarity(targets, usable)
    directions = targets / np.linalg.norm(targets, axis=-1, keepdims=True)
    cosines = [
        directions[b, i] @ directions[b, j]
        for b in range(B)
        for i in np.flatnonzero(usable[b])
        for j in np.flatnonzero(usable[b])
        if i != j
    ]
    assert int(pairs) == len(cosines)
    assert float(total) == pytest.approx(sum(cosines), rel=1e-3)
    alike, pairs = target_similarity(np.ones_like(targets), usable)
    assert float(alike / pairs) == pytest.approx(1)


def test_twin(case):
    loss, won, frames = contrastive_loss(**case, temperature=0.1)
    expected = twin(**case, temperature=0.1)
    assert float(loss) == pytest.approx(expected[0], rel=1e-5)
    assert (int(won), int(frames)) == expected[1:]


@pytest.mark.parametrize("cross", [False, True])
def test_twin_with_candidates_everywhere(case, cross):
    """Negatives from all frames of the utterance, and some from the whole batch."""
    rng, frames = np.random.default_rng(1), M + 9
    keys = utterance_keys(jax.random.key(2), jnp.arange(B))
    own = np.stack([np.sort(rng.permutation(frames)[:M]) for _ in range(B)])
    negatives = sample_negatives(keys, jnp.full(B, frames), M, N, own)
    task = case | dict(
        targets=rng.normal(size=(B, frames, Q)).astype(np.float32),
        codes=rng.integers(0, 3, (B, frames, 2)), negatives=np.asarray(negatives), own=own,
        usable=np.ones((B, frames), bool),
    )  # fmt: skip
    if cross:
        others = sample_cross_negatives(keys, task["usable"], own, 5)
        task["negatives"] = np.concatenate(
            [negatives + frames * np.arange(B)[:, None, None], others], -1
        )
        task = {k: np.asarray(x) for k, x in across_batch(**task).items()}
        assert (np.sort(task["negatives"][0, -1]) // frames != B - 1).any()
    loss, won, count = contrastive_loss(**task, temperature=0.1)
    del task["usable"]  # all are
    expected = twin(**task, temperature=0.1)
    assert float(loss) == pytest.approx(expected[0], rel=1e-5)
    assert (int(won), int(count)) == expected[1:]


def test_candidates_that_do_not_count(case):
    """A row with one masked frame has no negatives: its loss is 0, with or without `own`."""
    case["valid"] = np.arange(M) < np.array([[1], [1], [1]])
    case["negatives"] = np.ones_like(case["negatives"])
    own = np.broadcast_to(np.arange(M), (B, M))
    for rest in ({}, {"own": own}):
        assert float(contrastive_loss(**case, **rest, temperature=0.1)[0]) == 0


def test_negatives_of_the_whole_batch():
    """Uniform over what is present in any row, without the frame itself."""
    present = np.array([[True, True, False], [True, False, False]])
    keys = utterance_keys(jax.random.key(1), jnp.arange(2))
    own = np.array([[1, 0], [0, 0]])
    found = np.asarray(sample_cross_negatives(keys, present, own, 3000))
    share = [np.bincount(x, minlength=6) / 3000 for x in found.reshape(4, -1)]
    np.testing.assert_allclose(share[0], [0.5, 0, 0, 0.5, 0, 0], atol=0.04)
    np.testing.assert_allclose(share[1], [0, 0.5, 0, 0.5, 0, 0], atol=0.04)
    np.testing.assert_allclose(share[2], [0.5, 0.5, 0, 0, 0, 0], atol=0.04)


def test_chance_level():
    """Equal logits among 100 negatives with other codes: log2(101) = 6.658 bits a frame."""
    m = 150
    keys = utterance_keys(jax.random.key(1), jnp.arange(1))
    same = jnp.ones((1, m, 4))
    loss, won, frames = contrastive_loss(
        same, same, jnp.arange(m)[None, :, None], sample_negatives(keys, jnp.array([m]), m, 100),
        jnp.ones((1, m), bool), 0.1,
    )  # fmt: skip
    assert float(loss / frames) / np.log(2) == pytest.approx(6.658, abs=1e-3)
    assert int(won) == 0, "all logits equal is not a win"


def test_collapsed_codebook_gives_zero_not_nan(case):
    case["codes"][:] = 1
    grad, (won, frames) = jax.grad(
        lambda c: (lambda x: (x[0], x[1:]))(
            contrastive_loss(**{**case, "context": c}, temperature=0.1)
        ),
        has_aux=True,
    )(case["context"])
    assert np.isfinite(grad).all()
    assert float(jnp.abs(grad).max()) < 1e-5
    assert int(won) == int(frames)


def test_negatives_are_other_masked_frames(case):
    rows = np.arange(M)[:, None]
    for negatives, valid in zip(case["negatives"], case["valid"], strict=True):
        used = valid.sum()
        assert (negatives[valid] < used).all()
        assert (negatives[valid] != rows[valid]).all()


def test_negatives_are_uniform():
    keys = utterance_keys(jax.random.key(1), jnp.arange(400))
    found = np.asarray(sample_negatives(keys, jnp.full(400, 5), 5, 50))
    share = np.bincount(found[:, 2].ravel(), minlength=5) / found[:, 2].size
    np.testing.assert_allclose(share, [0.25, 0.25, 0, 0.25, 0.25], atol=0.01)


def test_surplus_slots_change_nothing(case):
    whole = contrastive_loss(**case, temperature=0.1)
    case["targets"][~case["valid"]] = 1e3
    case["context"][~case["valid"]] = -1e3
    again = contrastive_loss(**case, temperature=0.1)
    np.testing.assert_array_equal(np.array(whole), np.array(again))


def test_perplexity_and_diversity():
    valid = jnp.ones((1, 64), bool)
    even = jnp.stack([jnp.arange(64) % 8, jnp.arange(64) % 4], -1)[None]
    assert float(code_perplexity(even, valid, 8)) == pytest.approx(12, rel=1e-4)
    loss, soft = diversity_loss(jnp.zeros((1, 64, 2, 320)), valid)
    assert float(soft) == pytest.approx(640, rel=1e-3)
    assert float(loss) == pytest.approx(0, abs=1e-3)
    peaked = jnp.zeros((1, 64, 2, 320)).at[..., 0].set(1e3)
    loss, soft = diversity_loss(peaked, valid)
    assert float(soft) == pytest.approx(2, rel=1e-4)
    assert float(loss) == pytest.approx(0.997, abs=1e-3)


@pytest.mark.parametrize(("step", "expected"), [(32_000, 1.704), (100_000, 1.213), (277_300, 0.5)])
def test_temperature(step, expected):
    assert float(gumbel_temperature(step, 2.0, 0.5, 0.999995)) == pytest.approx(expected, abs=1e-3)
