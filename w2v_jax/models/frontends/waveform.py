"""Frames of a waveform by convolutions: wav2vec 2.0, HuBERT, XLS-R."""

import dataclasses
import functools
import math
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.kernels import form
from w2v_jax.models.kernels.first_conv import folded_conv
from w2v_jax.models.kernels.rows import rows
from w2v_jax.models.layers import GroupNorm, LayerNorm, Parameters, boxed, frame_mask
from w2v_jax.models.settings import ConfigError, Execution, Settings, free

LIGHT_HEADS = 16  # of light-weight convolutions, or the largest of its divisors that fits
KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
WAV2VEC2_CONV = ((512, 10, 5),) + ((512, 3, 2),) * 4 + ((512, 2, 2),) * 2


@dataclasses.dataclass(frozen=True)
class WaveformConfig(Settings):
    """Convolutions over the samples. The defaults are wav2vec 2.0 BASE (arXiv 2006.11477)."""

    kind: ClassVar[str] = "waveform"
    path: ClassVar[str] = "model.frontend"
    bins: ClassVar[int] = 0

    conv_layers: tuple[tuple[int, int, int], ...] = WAV2VEC2_CONV
    bias: bool = False
    norm: str = "group"
    lightweight: int = 0
    activation: str = "gelu"
    normalize: bool = False
    normalize_eps: float = free(1e-5)
    smoothing: float = free(0.0)
    grad_mult: float = free(0.1)
    frame_rule: str = free("convolution")

    def __post_init__(self):
        super().__post_init__()
        layers = tuple(tuple(int(x) for x in layer) for layer in self.conv_layers)
        object.__setattr__(self, "conv_layers", layers)
        if self.lightweight >= len(layers):
            raise ConfigError(
                f"model.frontend.lightweight is {self.lightweight}, of {len(layers)} convolutions "
                f"over the samples; set it to {len(layers) - 1} or less: the first hears one "
                "channel"
            )

    @property
    def width(self) -> int:
        """Channels of a frame."""
        return self.conv_layers[-1][0]

    @property
    def stride(self) -> int:
        """Samples from one frame to the next (320)."""
        return math.prod(stride for _, _, stride in self.conv_layers)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees (400); a shorter input gives no frame."""
        field, stride = 1, 1
        for _, kernel, step in self.conv_layers:
            field += (kernel - 1) * stride
            stride *= step
        return field

    def frames(self, samples):
        """Frames of `samples`, an int or array: floor((n - k) / s) + 1 per convolution, >= 0."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1
        if isinstance(samples, int):
            return max(samples, 0)
        return samples.clip(0)

    def valid_frames(self, length: jax.Array, samples: int, frames: int) -> jax.Array:
        """How many of `frames`, cut from rows of `samples`, count in rows with length int32 [B]."""
        valid = self.frames(length)
        if self.frame_rule == "samples":
            valid = -(-length // (samples // frames))
        return valid.clip(0, frames)

    def alone(self) -> "WaveformConfig":
        """Itself, with a rule of valid frames that depends on no other row."""
        return dataclasses.replace(self, frame_rule="convolution")

    @property
    def middle(self) -> float:
        """Samples from where a frame begins to see to the middle of what it sees."""
        return self.receptive_field / 2

    @property
    def taps(self) -> dict[str, int]:
        """Widths of what the convolutions give, conv_1 and on: conv_7 is the frames themselves."""
        return {f"conv_{i}": layer[0] for i, layer in enumerate(self.conv_layers, start=1)}

    def pooled(self, tap: str, x: jax.Array, length: jax.Array | None) -> jax.Array:
        """Means [B, T, C] of those values of a convolution [B, its frames, C] that lie inside what
        each frame sees: of 400 samples every 320. What counts in a row counts there as well."""
        number = int(tap.removeprefix("conv_"))
        below = dataclasses.replace(self, conv_layers=self.conv_layers[:number], lightweight=0)
        size = (self.receptive_field - below.receptive_field) // below.stride + 1
        x = x.astype(jnp.float32)
        return nn.avg_pool(x, (size,), (self.stride // below.stride,))

    def is_light(self, i: int) -> bool:
        """Whether convolution i is a light-weight one."""
        return i >= len(self.conv_layers) - self.lightweight

    @property
    def frozen(self) -> bool:
        return self.grad_mult == 0

    def flops(self, samples: int) -> dict[str, float]:
        """Operations of a forward pass over one row, by part."""
        parts: dict[str, float] = {}
        channels, length = 1, samples
        for i, (out, kernel, stride) in enumerate(self.conv_layers):
            length = (length - kernel) // stride + 1
            key = "first convolution" if i == 0 else "convolutions"
            weights = kernel * channels * out
            if self.is_light(i):
                weights = (kernel + out) * channels
            parts[key] = parts.get(key, 0.0) + 2.0 * weights * length
            channels = out
        return parts

    def backward_flops(self, samples: int) -> float:
        """Operations of its backward pass: two products per convolution, but no gradient of the
        audio; nothing of a frozen front end."""
        if self.frozen:
            return 0.0
        parts = self.flops(samples)
        return 2 * sum(parts.values()) - parts["first convolution"]

    def module(self, execution: Execution, padding_leaks: bool, **kwargs) -> nn.Module:
        """(audio [B, S], length int32 [B] in samples or None) -> frames [B, T, C]."""
        make = FeatureEncoder
        if execution.remat_features:
            make = nn.remat(FeatureEncoder, policy=convolutions_saveable)
        return make(self, execution, padding_leaks, **kwargs)


def convolutions_saveable(primitive, *_, **__) -> bool:
    """The remat policy of the feature encoder: keeps what convolutions gave, which is costly to
    compute again. Norms and activations, several arrays per convolution, are not."""
    return primitive is jax.lax.conv_general_dilated_p


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
    def init(key, shape, dtype=jnp.float32):
        kernel = KAIMING(key, shape, dtype)
        mean = kernel.mean(0, keepdims=True)
        return mean + (1 - smoothing) * (kernel - mean)

    return init


class LightweightConv(nn.Module):
    """A light-weight convolution (arXiv 1901.10430) with a stride: channels of a head share a
    kernel, whose taps are a softmax of the parameters [K, heads]; a linear layer over them follows.

    Which form Wav2Vec-Aug (arXiv 2206.13654) has in its feature encoder, and in how many layers, is
    not known to us: the number of heads and the linear layer are this repository's choice.
    """

    channels: int
    kernel: int
    stride: int
    bias: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, T, C] -> [B, (T - K) // stride + 1, channels]."""
        heads = math.gcd(x.shape[-1], LIGHT_HEADS)
        init = boxed(nn.initializers.lecun_normal(), "conv", "heads")
        taps = jax.nn.softmax(self.param("kernel", init, (self.kernel, heads)), axis=0)
        taps = jnp.repeat(taps, x.shape[-1] // heads, axis=1).astype(self.dtype)  # [K, C]
        size = self.stride * max((x.shape[1] - self.kernel) // self.stride + 1, 0)
        x = sum(tap * x[:, i:][:, : size : self.stride] for i, tap in enumerate(taps))
        return nn.Dense(
            self.channels, use_bias=self.bias, dtype=self.dtype,
            kernel_init=boxed(KAIMING, "conv_in", "conv_out"),
            bias_init=boxed(nn.initializers.zeros, "conv_out"), name="pointwise",
        )(x)  # fmt: skip


class FeatureEncoder(nn.Module):
    """Convolutions without padding; the usual seven give a frame for 320 samples, which sees 400.

    wav2vec 2.0 section 2; block = convolution -> norm -> activation (exact GELU).
    """

    config: WaveformConfig
    execution: Execution
    padding_leaks: bool = False
    taps: tuple[str, ...] = ()  # of the blocks, as `WaveformConfig.taps` names them

    @nn.compact
    def __call__(self, audio: jax.Array, length: jax.Array | None):
        """audio int16 or float [B, S], length int32 [B] in samples or None -> [B, T, C]; with
        `taps` -> (that, {name: what its block gave [B, its frames, its channels]})."""
        cfg = self.config
        x = scale_waveform(audio, length, cfg.normalize, cfg.normalize_eps)
        x = x[:, :, None].astype(self.execution.compute_dtype)
        found = {}
        for i, tap in enumerate(cfg.taps):
            found[tap] = x = self._block(i, x, length)
        if cfg.frozen:
            x = jax.lax.stop_gradient(x)
        elif cfg.grad_mult != 1:
            x = scale_gradient(x, cfg.grad_mult)
        return (x, {tap: found[tap] for tap in self.taps}) if self.taps else x

    def _block(self, i: int, x: jax.Array, length: jax.Array | None) -> jax.Array:
        cfg, dtype = self.config, self.execution.compute_dtype
        channels, kernel, stride = cfg.conv_layers[i]
        if i == 0 and self._folds():
            return self._first(x[:, :, 0], length)
        if cfg.is_light(i):
            convolution = LightweightConv(
                channels, kernel, stride, cfg.bias, dtype, name=f"conv_{i}"
            )
        else:
            convolution = nn.Conv(
                channels, (kernel,), (stride,), padding="VALID", use_bias=cfg.bias,
                dtype=dtype,
                kernel_init=boxed(
                    smoothed_init(cfg.smoothing if i else 0.0), "conv", "conv_in", "conv_out"
                ),
                bias_init=boxed(nn.initializers.zeros, "conv_out"),
                name=f"conv_{i}",
            )  # fmt: skip
        x = convolution(x)
        if cfg.norm == "layer":
            return LayerNorm(self.execution, name=f"norm_{i}")(x, activation=cfg.activation)
        if i == 0:
            mask = frame_mask(self._counted(length), x.shape[1])
            x = GroupNorm(channels, dtype, name=f"norm_{i}")(x, mask)
        return rows(x, activation=cfg.activation, choice=self.execution.rows)

    def _folds(self) -> bool:
        choice = self.execution.first_conv
        if self.config.norm != "group" or self.config.bias:
            return False
        if choice == "auto" and self.execution.compute_dtype == jnp.float32:
            return False  # it would be a little less exact, for who asks for float32
        return form("first_conv", choice) == "folded"

    def _counted(self, length: jax.Array | None) -> jax.Array | None:
        """Frames of the first convolution that count in its norm, int32 [B]; None for all."""
        if length is None or self.padding_leaks:
            return None
        _, kernel, stride = self.config.conv_layers[0]
        return ((length - kernel) // stride + 1).clip(0)

    def _first(self, x: jax.Array, length: jax.Array | None) -> jax.Array:
        """Convolution, norm and activation of [B, S], with the parameters of the other form."""
        cfg = self.config
        channels, kernel, stride = cfg.conv_layers[0]
        init = boxed(smoothed_init(0.0), "conv", "conv_in", "conv_out")
        weight = Parameters({"kernel": (init, (kernel, 1, channels))}, name="conv_0")()["kernel"]
        norm = Parameters(
            {"scale": (boxed(nn.initializers.ones, "norm"), (channels,)),
             "bias": (boxed(nn.initializers.zeros, "norm"), (channels,))}, name="norm_0",
        )()  # fmt: skip
        return folded_conv(
            x, weight[:, 0], norm["scale"], norm["bias"], stride, self._counted(length),
            activation=cfg.activation, fused=form("rows", self.execution.rows) == "fused",
        )  # fmt: skip
