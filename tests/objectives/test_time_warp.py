import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.models.layers import sinusoids
from w2v_jax.objectives import time_warp
from w2v_jax.objectives.contrastive import contrastive_loss, sample_negatives
from w2v_jax.objectives.masking import utterance_keys
from w2v_jax.objectives.time_warp import Warp

B, STRIDE = 4, 320
RANGES = dict(stretch=(0.8, 1.25), rate=(0.7, 1.4), knot=24_000.0, offset=6_400.0)


def keys(rows=B, seed=0):
    return utterance_keys(jax.random.key(seed), jnp.arange(rows))


def warp_of(rate, offset=0.0, knot=24_000.0):
    rates = jnp.array([rate], jnp.float32).reshape(1, -1)
    return Warp(jnp.array([offset], jnp.float32), rates, jnp.float32(knot))


def twin(warp, row, position):
    """W of one position: the slope summed up in steps of a sample."""
    rates, knot = np.asarray(warp.rates[row], float), float(warp.knot)
    at, steps = float(warp.offset[row]), int(position)
    for i in range(steps):
        at += rates[min(int(i // knot), len(rates) - 1)]
    return at


def test_it_is_the_integral_of_its_rates():
    warp = time_warp.drawn_warp(keys(), 6_000, **RANGES | {"knot": 1_000.0})
    assert warp.rates.shape == (B, 6)
    positions = np.array([0, 1, 999, 1_000, 2_500, 5_999])
    found = time_warp.source(warp, positions)
    for row in range(B):
        expected = [twin(warp, row, position) for position in positions]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-2)
    assert (np.diff(time_warp.source(warp, np.arange(-400, 6_000))) > 0).all()


def test_what_is_drawn():
    warp = time_warp.drawn_warp(keys(400), 120_000, **RANGES)
    rates, offset = np.asarray(warp.rates), np.asarray(warp.offset)
    assert rates.min() >= 0.8 * 0.7 - 0.002
    assert rates.max() <= 1.25 * 1.4 + 0.002
    assert rates.min() < 0.62
    assert rates.max() > 1.6
    assert 0 <= offset.min() < 200
    assert 6_200 < offset.max() <= 6_400
    stretch = np.exp(np.log(rates).mean(1))  # of a row, of five pieces
    assert stretch.std() > np.log(rates).std() / np.sqrt(5) + 0.03  # not of its pieces alone
    still = time_warp.drawn_warp(
        keys(), 9_000, stretch=(1.0, 1.0), rate=(1.0, 1.0), knot=800.0, offset=0.0
    )
    assert (np.asarray(still.rates) == 1).all()
    assert not still.offset.any()


def test_a_row_depends_on_its_key_alone():
    short, long = (time_warp.drawn_warp(keys(), n, **RANGES) for n in (48_000, 96_000))
    np.testing.assert_array_equal(short.rates, long.rates[:, :2])
    np.testing.assert_array_equal(short.offset, long.offset)
    turned = time_warp.drawn_warp(keys()[::-1], 48_000, **RANGES)
    np.testing.assert_array_equal(turned.rates[::-1], short.rates)


def test_twice_as_fast():
    """Targets, frames of a spectrum and samples are every second one."""
    warp = warp_of([2.0])
    x = np.random.default_rng(0).normal(size=(1, 41, 3)).astype(np.float32)
    left = time_warp.frames_left(warp, 41, STRIDE)
    assert left.tolist() == [21]
    np.testing.assert_array_equal(time_warp.aligned(warp, x, STRIDE)[:, :21], x[:, ::2])
    np.testing.assert_array_equal(time_warp.warped_frames(warp, x, 160)[:, :21], x[:, ::2])
    shifted = time_warp.aligned(warp_of([2.0], STRIDE / 2), x, STRIDE)[:, :20]
    np.testing.assert_allclose(shifted, (x[:, :-1:2] + x[:, 1::2]) / 2, atol=1e-6)
    audio = x.reshape(1, -1)
    found = time_warp.warped_audio(warp, audio, 10)[:, 5:60]
    np.testing.assert_array_equal(found, audio[:, :110:2])
    index = jnp.array([[7, 0, 20]])
    some = time_warp.aligned(warp, x, STRIDE, index)
    np.testing.assert_array_equal(some, x[:, [14, 0, 40]])


def test_a_tone_stays_smooth():
    """Between samples: a tone of 1 kHz, heard a tenth slower, is one of 900 Hz."""
    t = np.arange(4_000) / 16_000
    audio = np.sin(2 * np.pi * 1_000 * t)[None].astype(np.float32)
    found = time_warp.warped_audio(warp_of([0.9]), audio, 0.0)[0]
    np.testing.assert_allclose(found[2:], np.sin(2 * np.pi * 900 * t)[2:], atol=5e-3)


def test_a_row_ends_with_its_source():
    warp = time_warp.drawn_warp(keys(50), 64_000, **RANGES)
    left = np.asarray(time_warp.frames_left(warp, 199, STRIDE))
    place = np.asarray(time_warp.source(warp, STRIDE * np.arange(199))) / STRIDE
    for row, count in enumerate(left):
        assert (place[row, :count] <= 198).all()
        assert (place[row, count:] > 198).all()
    assert left.min() < 150
    assert left.max() == 199
    assert 0.8 < left.mean() / 199 < 0.95


@pytest.mark.parametrize("warped", [False, True])
def test_the_shortcut(warped):
    """What knows nothing but where its frames stand finds all targets where both branches have one
    time, and next to none where they have not."""
    frames, rows, size = 750, 8, 300  # of 15 s, so that the offset is not all there is
    positions = jnp.broadcast_to(sinusoids(jnp.arange(frames), 64), (rows, frames, 64))
    rng = np.random.default_rng(0)
    index = np.sort([rng.choice(400, size, replace=False) for _ in range(rows)])
    context, targets = (jnp.take_along_axis(positions, index[:, :, None], 1),) * 2
    if warped:
        warp = time_warp.drawn_warp(keys(rows, 1), frames * STRIDE, **RANGES)
        assert (time_warp.frames_left(warp, frames, STRIDE) > index.max()).all()
        targets = time_warp.aligned(warp, positions, STRIDE, index)
    valid = jnp.ones((rows, size), bool)
    negatives = sample_negatives(keys(rows, 2), valid.sum(1), size, 100)
    loss, won, count = contrastive_loss(context, targets, None, negatives, valid, 0.1)
    accuracy, chance = won / count, np.log(101)
    if warped:  # right where the warp happens to cross the true time
        assert accuracy < 0.06
        assert loss / count > 0.95 * chance
    else:
        assert accuracy == 1
        assert loss / count < chance / 2
