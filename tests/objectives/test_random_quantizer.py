"""BEST-RQ's labels and loss: against slow twins, and what the random codebook promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.models.random_quantizer import RandomQuantizer, random_codes
from w2v_jax.objectives.masking import started_spans, utterance_keys
from w2v_jax.objectives.random_quantizer import (
    code_counts,
    mean_perplexity,
    prediction_loss,
    stacked,
    wholly,
)


def quantizer(seed=0, inputs=40, **values):
    """(projection, codebook)."""
    sizes = {"codebooks": 1, "codes": 64, "width": 8} | values
    drawn = RandomQuantizer(**sizes, inputs=inputs).init(jax.random.key(seed))
    return drawn["stats"]["projection"], drawn["stats"]["codebook"]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_what_is_drawn():
    """Xavier's bound, unit rows that point everywhere, and nothing alike between codebooks."""
    projection, codebook = map(np.asarray, quantizer(codebooks=3, codes=500, inputs=100))
    assert projection.shape == (3, 100, 8)
    bound = np.sqrt(6 / 108)
    assert 0.99 * bound < np.abs(projection).max() <= bound
    np.testing.assert_allclose(projection.std(), bound / np.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(np.linalg.norm(codebook, axis=-1), 1, atol=1e-6)
    assert np.abs(codebook.mean(1)).max() < 0.07
    assert np.abs(codebook[0] - codebook[1]).max() > 0.5
    assert np.abs(projection[0] - projection[1]).max() > 0.1
    assert (quantizer(seed=1)[1] != quantizer(seed=0)[1]).any()
    np.testing.assert_array_equal(quantizer(seed=1)[1], quantizer(seed=1)[1])


def test_labels_are_the_nearest_codes_of_vectors_of_length_one():
    """The paper's formula, argmin |norm(C) - norm(A s)|, in NumPy's float64."""
    projection, codebook = quantizer(codebooks=2)
    x = noise(3, 50, 40)
    found = np.asarray(random_codes(x, projection, codebook))
    assert found.shape == (3, 50, 2)
    for g in range(2):
        z = x.astype(np.float64) @ np.asarray(projection[g], np.float64)
        z /= np.linalg.norm(z, axis=-1, keepdims=True)
        distance = np.linalg.norm(z[:, :, None] - np.asarray(codebook[g]), axis=-1)
        np.testing.assert_array_equal(found[:, :, g], distance.argmin(-1))


@pytest.mark.parametrize("scale", [1e-3, 0.5, 100.0])
def test_labels_do_not_depend_on_the_scale(scale):
    projection, codebook = quantizer()
    x = noise(2, 200, 40)
    labels = random_codes(x, projection, codebook)
    np.testing.assert_array_equal(random_codes(scale * x, projection, codebook), labels)


def test_white_noise_uses_all_codes_and_an_offset_few():
    """Why the spectrum has to be normalised."""
    projection, codebook = quantizer(codes=128)
    x = noise(1, 10_000, 40)
    everywhere = jnp.ones((1, 10_000), bool)
    counts = code_counts(random_codes(x, projection, codebook), everywhere, 128)
    assert counts.sum() == 10_000
    assert (counts > 0).mean() > 0.99
    assert mean_perplexity(counts) > 90
    counts = code_counts(random_codes(x + 10, projection, codebook), everywhere, 128)
    assert mean_perplexity(counts) < 10


def test_stacks():
    x = np.arange(18.0).reshape(1, 9, 2)
    found = stacked(jnp.asarray(x), 4, 3)
    np.testing.assert_array_equal(found[0, :2], x[0, :8].reshape(2, 8))
    np.testing.assert_array_equal(found[0, 2], [16, 17, 0, 0, 0, 0, 0, 0])
    mask = jnp.array([[1, 1, 1, 1, 1, 1, 1, 0, 1]], bool)
    np.testing.assert_array_equal(wholly(mask, 4, 3), [[True, False, False]])
    np.testing.assert_array_equal(wholly(mask, 2, 4), [[True, True, True, False]])


def test_loss():
    logits, counted = noise(2, 5, 3, 7), np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    codes = np.random.default_rng(1).integers(0, 7, (2, 5, 3))
    loss, won, count = prediction_loss(*map(jnp.asarray, (logits, codes, counted)))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(chances, codes[..., None], -1))[..., 0].mean(-1)
    np.testing.assert_allclose(loss, expected[counted].sum(), rtol=1e-5)
    np.testing.assert_allclose(won, (logits.argmax(-1) == codes).mean(-1)[counted].sum())
    assert count == 3
    loss, _, count = prediction_loss(jnp.zeros_like(logits), jnp.asarray(codes), counted)
    np.testing.assert_allclose(loss / count, np.log(7), rtol=1e-6)


def test_perplexity_of_counts():
    assert mean_perplexity(jnp.array([[5.0, 5.0, 0.0], [4.0, 0.0, 0.0]])) == pytest.approx(1.5)
    assert mean_perplexity(jnp.zeros((1, 3))) == 1


def test_spans_start_everywhere():
    """Each a whole span but at the end of the row; 1 - (1 - p)^span of the frames in its middle."""
    keys = utterance_keys(jax.random.key(0), jnp.arange(400))
    mask = np.asarray(started_spans(keys, 300, prob=0.01, span=40))
    np.testing.assert_allclose(mask[:, 40:].mean(), 1 - 0.99**40, atol=0.015)
    np.testing.assert_allclose(mask[:, 0].mean(), 0.01, atol=0.015)
    whole = np.asarray(wholly(mask, 4, 75))
    np.testing.assert_allclose(whole[:, 10:].mean(), 1 - 0.99**37, atol=0.015)
    for row, key in zip(mask[:20], keys, strict=False):
        starts = np.flatnonzero(np.asarray(jax.random.uniform(key, (300,))) < 0.01)
        painted = np.zeros(300, bool)
        for start in starts:
            painted[start : start + 40] = True
        np.testing.assert_array_equal(row, painted)
    np.testing.assert_array_equal(started_spans(keys[7:8], 90, prob=0.01, span=40)[0], mask[7, :90])
    assert started_spans(keys, 20, prob=0.01, span=40).shape == (400, 20)
