"""SpecAugment of log-mel features (Park et al. 2019, 2020), on the device."""

import jax
import jax.numpy as jnp


def spec_augment(
    keys: jax.Array,
    features: jax.Array,
    frames: jax.Array,
    *,
    frequency_masks: int = 2,
    frequency_width: int = 27,
    time_masks: int = 2,
    time_width: int = 100,
    time_share: float = 1.0,
    fill: float = 0.0,
) -> jax.Array:
    """Features [B, T, D] with bands of channels and spans of time set to `fill`.

    keys: a key per row; what a row loses depends on its key and its number of `frames` int32 [B]
    alone. Every mask has a width drawn evenly from 0..width and a place drawn evenly from those
    where it fits; masks may overlap. A time mask is no wider than `time_share` of the row's frames.
    The usual widths are the paper's policy LD; there is no time warping. With features whose mean
    is 0 the usual fill is their mean.
    """
    length, channels = features.shape[1:]

    def row(key, count):
        time_key, frequency_key = jax.random.split(key)
        widest = jnp.minimum(time_width, (time_share * count).astype(jnp.int32))
        return (
            _covered(time_key, time_masks, widest, count, length)[:, None]
            | _covered(frequency_key, frequency_masks, frequency_width, channels, channels)[None]
        )

    return jnp.where(jax.vmap(row)(keys, frames), jnp.asarray(fill, features.dtype), features)


def _covered(key, masks: int, widest, count, size: int) -> jax.Array:
    """bool [size]: what `masks` masks of 0..widest of the first `count` places cover."""
    width_key, place_key = jax.random.split(key)
    width = jax.random.randint(width_key, (masks, 1), 0, jnp.minimum(widest, count) + 1)
    first = jax.random.randint(place_key, (masks, 1), 0, count - width + 1)
    place = jnp.arange(size)
    return ((place >= first) & (place < first + width)).any(0)
