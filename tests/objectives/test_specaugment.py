"""SpecAugment: bands and spans of a spectrum, of each row its own."""

import jax
import jax.numpy as jnp
import numpy as np

from w2v_jax.objectives.specaugment import spec_augment

RNG = np.random.default_rng(0)


def test_spec_augment_masks_bands_and_spans():
    rows, length, channels = 300, 200, 80
    keys = jax.random.split(jax.random.key(0), rows)
    frames = jnp.asarray(RNG.integers(20, length + 1, rows), jnp.int32)
    features = jnp.ones((rows, length, channels))
    settings = dict(
        frequency_masks=1, frequency_width=27, time_masks=1, time_width=60, time_share=0.2
    )
    out = np.asarray(jax.jit(lambda *a: spec_augment(*a, **settings))(keys, features, frames))
    time_widths, widths = [], []
    for row, count in zip(out, np.asarray(frames), strict=True):
        gone = row == 0
        channel, time = gone.all(0), gone.all(1)
        assert np.array_equal(gone, channel[None] | time[:, None]), "full bands and spans only"
        for line in (channel, time):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]])))
            assert len(edges) in (0, 2), "one mask is one piece"
        assert not time[count:].any()
        assert time.sum() <= min(60, 0.2 * count)
        time_widths.append(time.sum() / (0.2 * count))
        widths.append(channel.sum())
    assert set(widths) == set(range(28)), "all widths from 0 on occur"
    assert 0.35 < np.mean(time_widths) < 0.6


def test_spec_augment_of_a_row_is_its_own():
    keys = jax.random.split(jax.random.key(1), 4)
    features = jnp.asarray(RNG.normal(size=(4, 50, 20)), jnp.float32)
    frames = jnp.array([50, 30, 50, 10])
    augment = jax.jit(lambda *a: spec_augment(*a, time_width=10, frequency_width=5))
    whole = augment(keys, features, frames)
    alone = augment(keys[1:2], features[1:2], frames[1:2])
    longer = augment(keys, jnp.pad(features, ((0, 0), (0, 25), (0, 0))), frames)
    assert np.array_equal(whole[1], alone[0])
    assert np.array_equal(whole[1, :30], longer[1, :30])
    assert not np.array_equal(whole, features)
