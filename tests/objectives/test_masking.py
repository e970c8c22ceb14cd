import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.objectives.masking import masked_frames, max_masked, span_mask, utterance_keys


def keys(count, seed=0):
    return utterance_keys(jax.random.key(seed), jnp.arange(count))


def masks(count, length, size=None, **kwargs):
    size = size or length
    return np.asarray(span_mask(keys(count), jnp.full(count, length), size, **kwargs))


def runs(row):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


# masked share and mean run of fairseq's algorithm without trimming, 400 draws
@pytest.mark.parametrize(
    ("length", "prob", "share", "run"),
    [(749, 0.65, 0.490, 14.6), (749, 0.80, 0.569, 16.1), (499, 0.75, 0.546, 15.8),
     (749, 0.50, 0.402, 13.4)],
)  # fmt: skip
def test_statistics(length, prob, share, run):
    found = masks(400, length, prob=prob, span=10, minimum=2)
    assert found.mean() == pytest.approx(share, abs=0.006)
    assert np.concatenate([runs(row) for row in found]).mean() == pytest.approx(run, rel=0.03)


@pytest.mark.parametrize(
    ("width", "prob", "share"), [(768, 0.5, 0.40), (768, 0.25, 0.23), (1024, 0.5, 0.40)]
)
def test_channel_statistics(width, prob, share):
    assert masks(800, width, prob=prob, span=64).mean() == pytest.approx(share, abs=0.015)


def test_every_frame_can_be_masked():
    share = masks(2000, 60, prob=0.65, span=10, minimum=2).mean(0)
    assert share[0] > 0.01
    assert share[-1] > 0.01
    assert share[20:40].std() < 0.04


def test_twin():
    """A slow twin: replay the starts from the same draws and paint span by span."""
    length, size, prob, span = 83, 100, 0.65, 10
    found = masks(20, length, size, prob=prob, span=span, minimum=2)
    for row, key in zip(found, keys(20), strict=True):
        a, b = jax.random.split(key)
        count = max(2, int(prob * length / span + float(jax.random.uniform(a))))
        score = np.array(jax.random.uniform(b, (size,)))
        width = min(span, (length - 1) // count)
        starts = np.argsort(score[: length - width + 1], kind="stable")[:count]
        twin = np.zeros(size, bool)
        for start in starts:
            twin[start : start + width] = True
        np.testing.assert_array_equal(row, twin)


@pytest.mark.parametrize("length", [0, 1, 2, 5, 9, 10, 11, 12, 25, 31])
def test_short_rows_keep_a_frame(length):
    found = masks(200, length, 40, prob=0.8, span=10, minimum=2)
    assert not found[:, length:].any()
    assert (found.sum(1) <= max(length - 1, 0)).all()
    assert (found.sum(1) >= min(2, max(length - 1, 0))).all()


def test_mask_does_not_depend_on_padding_or_neighbours():
    whole = masks(6, 70, 200, prob=0.65, span=10, minimum=2)
    alone = np.asarray(span_mask(keys(6)[3:4], jnp.array([70]), 70, prob=0.65, span=10, minimum=2))
    np.testing.assert_array_equal(whole[3, :70], alone[0])
    assert not whole[:, 70:].any()


def test_masked_frames():
    found = masks(50, 749, prob=0.65, span=10, minimum=2)
    size = max_masked(749, prob=0.65, span=10, minimum=2)
    index, valid = map(np.asarray, masked_frames(jnp.array(found), size))
    assert found.sum(1).max() <= size
    for row, i, v in zip(found, index, valid, strict=True):
        np.testing.assert_array_equal(i[v], np.flatnonzero(row))
        assert not row[i[~v]].any()
