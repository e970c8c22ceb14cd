"""HuBERT's objective against a frame-by-frame twin, and its labels' places."""

import numpy as np
import pytest

from w2v_jax.objectives.masked_prediction import label_index, masked_prediction_loss


def test_twin():
    rng = np.random.default_rng(0)
    context = rng.normal(size=(2, 9, 6)).astype(np.float32)
    embeddings = rng.normal(size=(5, 6)).astype(np.float32)
    labels, scored = rng.integers(0, 5, (2, 9)), rng.random((2, 9)) < 0.6
    expected, won = 0.0, 0
    for b, t in zip(*np.nonzero(scored), strict=True):
        x = context[b, t].astype(np.float64)
        cosine = embeddings @ x / (np.linalg.norm(embeddings, axis=1) * np.linalg.norm(x)) / 0.1
        expected += np.logaddexp.reduce(cosine) - cosine[labels[b, t]]
        won += cosine.argmax() == labels[b, t]
    found = masked_prediction_loss(context, embeddings, labels, scored, 0.1)
    assert float(found[0]) == pytest.approx(expected, rel=1e-5)
    assert (int(found[1]), int(found[2])) == (won, scored.sum())
    context[~scored] = np.nan
    again = masked_prediction_loss(context, embeddings, labels, scored, 0.1)
    assert float(again[0]) == float(found[0]), "frames that are not scored change nothing"


@pytest.mark.parametrize(("rate", "expected"), [(50, [0, 1, 2, 3]), (100, [0, 2, 4, 6]),
                                                (25, [0, 0, 1, 1])])  # fmt: skip
def test_labels_of_frames(rate, expected):
    np.testing.assert_array_equal(label_index(4, rate, 50.0), expected)
