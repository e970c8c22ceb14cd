"""From samples to frames: waveform scaling and the convolutional feature encoder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.layers import ACTIVATIONS, GroupNorm, boxed, frame_mask, layer_norm


def scale_waveform(
    audio: jax.Array, length: jax.Array | None, normalize: bool, eps: float = 1e-5
) -> jax.Array:
    """PCM int16 or float [B, S] -> float32 [B, S]; what lies beyond `length` becomes 0.

    int16 is divided by 32768. `normalize` gives every utterance mean 0 and variance 1, padding not
    counted; `eps` is added to the variance before (1e-5: fairseq raw_audio_dataset.py).
    """
    x = audio.astype(jnp.float32)
    if audio.dtype == jnp.int16:
        x = x / 32768
    mask = frame_mask(length, x.shape[1])
    if mask is not None:
        x = jnp.where(mask, x, 0)
    if not normalize:
        return x
    count = x.shape[1] if length is None else jnp.maximum(length, 1)[:, None]
    mean = x.sum(1, keepdims=True) / count
    centred = x - mean if mask is None else jnp.where(mask, x - mean, 0)
    var = jnp.square(centred).sum(1, keepdims=True) / count
    return centred * jax.lax.rsqrt(var + eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """The identity, whose gradient is multiplied by `factor`."""
    return x


scale_gradient.defvjp(lambda x, factor: (x, None), lambda factor, _, g: (g * factor,))


def smoothed_init(smoothing: float):
    """Initialiser of a convolution [K, in, out]: torch's kaiming_normal_ (fan_in, not truncated),
    whose deviations from each kernel's mean over time are multiplied by 1 - smoothing.

    Independent taps cancel the envelope that the activation before them has rectified, so the
    frames of a new feature encoder hardly resemble their neighbours (correlation 0.1 between
    20 ms frames of speech) and nothing about a masked frame can be predicted. Averaging taps
    keep the envelope (correlation 0.6 at smoothing 0.8).
    """
    normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

    def init(key, shape, dtype=jnp.float32):
        kernel = normal(key, shape, dtype)
        mean = kernel.mean(0, keepdims=True)
        return mean + (1 - smoothing) * (kernel - mean)

    return init


class FeatureEncoder(nn.Module):
    """Seven convolutions without padding: 320 samples (20 ms) per frame, 400 samples seen.

    wav2vec 2.0 section 2; block = convolution -> norm -> activation (exact GELU).
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, length: jax.Array | None) -> jax.Array:
        """x float32 [B, S], length int32 [B] in samples or None -> [B, T, C]."""
        cfg = self.config
        dtype = cfg.compute_dtype
        x = x[:, :, None].astype(dtype)
        for i, (channels, kernel, stride) in enumerate(cfg.conv_layers):
            x = nn.Conv(
                channels, (kernel,), (stride,), padding="VALID", use_bias=cfg.conv_bias,
                dtype=dtype,
                kernel_init=boxed(
                    smoothed_init(cfg.conv_smoothing if i else 0.0), "conv", "conv_in", "conv_out"
                ),
                bias_init=boxed(nn.initializers.zeros, "conv_out"),
                name=f"conv_{i}",
            )(x)  # fmt: skip
            length = None if length is None else ((length - kernel) // stride + 1).clip(0)
            if cfg.conv_norm == "layer":
                x = layer_norm(dtype, name=f"norm_{i}")(x)
            elif i == 0:
                mask = None if cfg.padding_leaks else frame_mask(length, x.shape[1])
                x = GroupNorm(channels, dtype, name=f"norm_{i}")(x, mask)
            x = ACTIVATIONS[cfg.conv_activation](x)
        if cfg.feature_grad_mult == 0:
            return jax.lax.stop_gradient(x)
        if cfg.feature_grad_mult != 1:
            x = scale_gradient(x, cfg.feature_grad_mult)
        return x
