"""The hyper-parameters of an encoder and of its pre-training head, as frozen dataclasses."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import jax.numpy as jnp

from w2v_jax.errors import UserError

NORM_GROUPS = 16  # of conformer_norm=group
# what the value `auto` of a key stands for: on CPUs, elsewhere
AUTO = {
    "pos_conv_method": ("fft", "conv"),
    "attention_method": ("heads", "whole"),
    "depthwise_method": ("shifts", "conv"),
}
WAV2VEC2_CONV = ((512, 10, 5),) + ((512, 3, 2),) * 4 + ((512, 2, 2),) * 2


class ConfigError(UserError):
    """A value of the configuration that cannot be used; the message names the key."""


def choices(config, key: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, key)
    if value not in allowed:
        raise ConfigError(f"model.{key} is {value!r}; it must be one of {', '.join(allowed)}")


def dropout_rates(config) -> None:
    for key in (field.name for field in dataclasses.fields(config) if "dropout" in field.name):
        if not 0 <= getattr(config, key) < 1:
            raise ConfigError(
                f"model.{key} is {getattr(config, key)}; it must be 0 or more, below 1"
            )


class FromDict:
    """Adds `from_dict`, which refuses unknown keys by name."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"{cls.__name__} has no key {', '.join(unknown)}; "
                f"its keys: {', '.join(sorted(known))}"
            )
        return cls(**dict(values))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class EncoderConfig(FromDict):
    """Feature encoder, mask and context network. The defaults are wav2vec 2.0 BASE.

    Sources: wav2vec 2.0 (arXiv 2006.11477) section 2 and appendix A; Conformer (2005.08100).
    """

    # feature encoder: (channels, kernel, stride) per convolution
    conv_layers: tuple[tuple[int, int, int], ...] = WAV2VEC2_CONV
    conv_bias: bool = False
    conv_norm: str = "group"  # group: the first layer, every channel over time | layer: every layer
    conv_smoothing: float = 0.0  # 0 to 1: how much the kernels start as averages over time
    conv_activation: str = "gelu"  # | gelu_tanh | relu | swish: also of the positional conv
    normalize_waveform: bool = False  # zero mean, unit variance per utterance
    normalize_eps: float = 1e-5  # added to that variance; transformers: 1e-7
    feature_grad_mult: float = 0.1  # scales the gradient into the feature encoder; 0 freezes it
    feature_norm: bool = True  # layer norm of the features before their projection
    # context network
    block: str = "transformer"  # | conformer
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward: int = 3072
    norm_order: str = "post"  # | pre
    norm_eps: float = 1e-5
    activation: str = "gelu"  # | gelu_tanh | relu | swish
    positions: str = "conv"  # | relative | rotary (the last two: conformer only) | none
    pos_conv_kernel: int = 128
    pos_conv_groups: int = 16
    pos_conv_norm: str = "weight"  # of the kernel | batch: batch norm of the input
    adapter_dim: int = 0  # bottleneck of an adapter in every block (MMS); 0: none
    conformer_kernel: int = 31
    conformer_norm: str = "batch"  # | layer | group: the norm inside the convolution module
    # strided convolutions on top (transformers' add_adapter): fewer frames, perhaps of other width
    output_layers: int = 0
    output_width: int = 0  # 0: as `width`, and then without a projection before the convolutions
    output_stride: int = 2
    # regularisation
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    conformer_dropout: float = 0.1  # at the end of the convolution module
    dropout_input: float = 0.1  # of the projected features, before the mask
    dropout_features: float = 0.1  # of the features that the quantizer sees
    layerdrop: float = 0.05
    # True: group norm, batch norm and depthwise convolution see the padding, as the published
    # checkpoints were trained. False: padding never changes a valid output.
    padding_leaks: bool = False
    # which frames of a padded row count | samples: all whose share of the row, cut into as many
    # parts as there are frames, holds a sample (fairseq's HuBERT; depends on the longest row)
    frame_rule: str = "convolution"
    # execution; changes no number beyond rounding
    dtype: str = "float32"  # of the computation; parameters stay float32
    remat: str = "none"  # | full | dots: what the backward pass computes again in the blocks
    remat_features: bool = False  # and norms and activations of the feature encoder
    scan: bool = True  # one compiled block for all layers; False unrolls them
    pos_conv_method: str = "auto"  # | conv | fft
    attention_method: str = "auto"  # | whole | heads: one head after the other
    depthwise_method: str = "auto"  # | conv | shifts: of the conformer

    def __post_init__(self):
        layers = tuple(tuple(int(x) for x in layer) for layer in self.conv_layers)
        object.__setattr__(self, "conv_layers", layers)
        choices(self, "conv_norm", ("group", "layer"))
        choices(self, "block", ("transformer", "conformer"))
        choices(self, "norm_order", ("post", "pre"))
        for key in ("conv_activation", "activation"):
            choices(self, key, ("gelu", "gelu_tanh", "relu", "swish"))
        choices(self, "positions", ("conv", "relative", "rotary", "none"))
        choices(self, "pos_conv_norm", ("weight", "batch"))
        choices(self, "conformer_norm", ("batch", "layer", "group"))
        choices(self, "frame_rule", ("convolution", "samples"))
        choices(self, "dtype", ("float32", "bfloat16"))
        choices(self, "remat", ("none", "full", "dots"))
        for key, methods in AUTO.items():
            choices(self, key, ("auto", *methods))
        dropout_rates(self)
        for key, divisor in (
            ("num_heads", self.num_heads),
            ("pos_conv_groups", self.pos_conv_groups),
        ):
            if self.width % divisor:
                raise ConfigError(
                    f"model.width {self.width} is not divisible by model.{key} {divisor}"
                )
        if not 0 <= self.conv_smoothing <= 1:
            raise ConfigError(f"model.conv_smoothing is {self.conv_smoothing}; it must be in 0..1")
        if self.conformer_norm == "group" and self.width % NORM_GROUPS:
            raise ConfigError(
                f"model.width {self.width} is not divisible by {NORM_GROUPS}, as "
                "model.conformer_norm=group needs"
            )
        if self.conformer_kernel % 2 == 0:
            raise ConfigError(f"model.conformer_kernel is {self.conformer_kernel}; it must be odd")
        if self.positions == "rotary" and (self.width // self.num_heads) % 2:
            raise ConfigError("model.positions=rotary needs an even width per head")
        if self.adapter_dim and (self.block, self.norm_order) != ("transformer", "pre"):
            raise ConfigError("model.adapter_dim needs transformer blocks with norm_order=pre")
        if self.block == "transformer" and self.positions in ("relative", "rotary"):
            raise ConfigError(
                f"model.positions={self.positions} needs model.block=conformer; "
                "a transformer block takes conv or none"
            )

    @property
    def channels(self) -> int:
        """Channels of the last convolution of the feature encoder."""
        return self.conv_layers[-1][0]

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.dtype)

    @property
    def stride(self) -> int:
        """Samples from one frame of the feature encoder to the next (320)."""
        return math.prod(s for _, _, s in self.conv_layers)

    @property
    def context_stride(self) -> int:
        """Samples from one frame of the encoder's output to the next."""
        return self.stride * self.output_stride**self.output_layers

    @property
    def context_width(self) -> int:
        """Width of the encoder's output."""
        return self.output_width if self.output_layers and self.output_width else self.width

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees (400); a shorter input gives no frame."""
        field, stride = 1, 1
        for _, kernel, s in self.conv_layers:
            field += (kernel - 1) * stride
            stride *= s
        return field

    def frames(self, samples):
        """Frames of the feature encoder for `samples`, an int or array: floor((n - k) / s) + 1 per
        convolution, >= 0."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1
        if isinstance(samples, int):
            return max(samples, 0)
        return samples.clip(0)

    def context_frames(self, frames):
        """Frames of the encoder's output for `frames` of the feature encoder, an int or array."""
        for _ in range(self.output_layers):
            frames = (frames - 1) // self.output_stride + 1
        return frames

    def refuse_output_layers(self, objective: str) -> None:
        """Raises ConfigError where an objective needs the context of every frame."""
        if self.output_layers:
            raise ConfigError(
                f"model.output_layers is {self.output_layers}; {objective} needs 0: it compares "
                "every frame with its context"
            )

    def architecture(self) -> dict[str, Any]:
        """The keys that decide shapes and meaning of the parameters."""
        free = ("conv_smoothing", "feature_grad_mult", "layerdrop", "padding_leaks", "frame_rule")
        free += ("normalize_eps",)
        free += ("dtype", "remat", "remat_features", "scan", *AUTO)
        return {
            key: value
            for key, value in self.to_dict().items()
            if key not in free and "dropout" not in key
        }

    def earlier_keys(self) -> dict[str, Any]:
        """What a run of an earlier version did where it lacks a key of ours."""
        same = self.dropout if self.block == "conformer" else self.conformer_dropout
        return EncoderConfig().to_dict() | {"conformer_dropout": same}

    def check_same(self, other: "EncoderConfig", where: str) -> None:
        """Raises ConfigError naming what differs from the encoder in `where`."""
        old, new = other.architecture(), self.architecture()
        changed = [key for key in new if old[key] != new[key]]
        if changed:
            there = "; ".join(f"{key}: {old[key]} there, {new[key]} here" for key in changed)
            flags = " ".join(f"--config.model.{key}={old[key]}" for key in changed)
            raise ConfigError(
                f"the encoder in {where} is another one ({there}); use a config of the same size, "
                f"or {flags}, or take over what fits with --config.partial_init=True"
            )


@dataclasses.dataclass(frozen=True)
class PredictionConfig(FromDict):
    """The masked-prediction head. The defaults are HuBERT BASE's (arXiv 2106.07447)."""

    classes: tuple[int, ...] = (504,)  # per set of labels; fairseq adds 4 to the clusters
    projection: int = 256  # where context and label embeddings are compared
    tied: bool = False  # one projection for all sets of labels
    label_rate: float = 50.0  # labels per second

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(int(n) for n in self.classes))
        if not self.classes:
            raise ConfigError("prediction.classes is empty; name the classes of every label set")


@dataclasses.dataclass(frozen=True)
class QuantizerConfig(FromDict):
    """Gumbel product quantizer and the contrastive head. The defaults are wav2vec 2.0 BASE."""

    groups: int = 2
    codes: int = 320  # per group
    width: int = 256  # of a quantized vector, all groups together
    projection: int = 256  # where context and target are compared

    def __post_init__(self):
        if self.width % self.groups:
            raise ConfigError(
                f"quantizer.width {self.width} is not divisible by quantizer.groups {self.groups}"
            )
