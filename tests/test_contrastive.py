import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.objectives.contrastive import (
    code_perplexity,
    contrastive_loss,
    diversity_loss,
    gumbel_temperature,
    sample_negatives,
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


def twin(context, targets, codes, negatives, valid, temperature):
    """Frame by frame, in float64, as fairseq writes it."""
    loss, won, frames = 0.0, 0, 0
    for b in range(B):
        for m in np.flatnonzero(valid[b]):
            candidates = [m, *negatives[b, m]]
            c = context[b, m].astype(np.float64)
            logits = []
            for place, k in enumerate(candidates):
                t = targets[b, k].astype(np.float64)
                cosine = c @ t / (np.linalg.norm(c) * np.linalg.norm(t)) / temperature
                same = place > 0 and (codes[b, k] == codes[b, m]).all()
                logits.append(-np.inf if same else cosine)
            logits = np.array(logits)
            loss -= logits[0] - np.logaddexp.reduce(logits)
            won += logits.argmax() == 0 and logits.argmin() != 0
            frames += 1
    return loss, won, frames


def test_twin(case):
    loss, won, frames = contrastive_loss(**case, temperature=0.1)
    expected = twin(**case, temperature=0.1)
    assert float(loss) == pytest.approx(expected[0], rel=1e-5)
    assert (int(won), int(frames)) == expected[1:]


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
