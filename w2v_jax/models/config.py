"""The hyper-parameters of an encoder and of the heads on it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from w2v_jax.errors import some
from w2v_jax.keys.check import MOST, flag, shown
from w2v_jax.models.frontends import FRONTENDS, Frontend, WaveformConfig
from w2v_jax.models.positions import CONVOLUTIONS, POSITIONS, ConvPositions
from w2v_jax.models.settings import (
    ConfigError,
    ModelSettings,
    Settings,
    free,
    member,
    nearest_multiples,
    nested,
)

NORM_GROUPS = 16  # of model.block.norm=group


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Settings):
    """Self-attention, feed-forward."""

    kind: ClassVar[str] = "transformer"
    path: ClassVar[str] = "model.block"

    adapter_dim: int = 0


@dataclasses.dataclass(frozen=True)
class ConformerConfig(Settings):
    """Half feed-forward, self-attention, convolution, half feed-forward (arXiv 2005.08100).

    The defaults are the paper's block; the rest are the ablations of its tables 3 to 5, and
    w2v-BERT 2.0's causal convolution. Its tables 6 and 7 are model.num_heads and `kernel`, the
    activation of table 3 is model.activation.
    """

    kind: ClassVar[str] = "conformer"
    path: ClassVar[str] = "model.block"

    feed_forwards: int = 2
    residual: float = 0.5
    order: str = "attention_first"
    convolution: str = "depthwise"
    causal_convolution: bool = False
    kernel: int = 31
    bias: bool = False
    norm: str = "batch"
    dropout: float = free(0.1)


@dataclasses.dataclass(frozen=True)
class PlainOutput(Settings):
    """The context network's frames as they are."""

    kind: ClassVar[str] = "plain"
    path: ClassVar[str] = "model.output"
    layers: ClassVar[int] = 0


@dataclasses.dataclass(frozen=True)
class StridedOutput(Settings):
    """Strided convolutions on top (transformers' add_adapter): fewer frames, perhaps of other
    width."""

    kind: ClassVar[str] = "strided"
    path: ClassVar[str] = "model.output"

    layers: int = 3
    width: int = 0
    stride: int = 2


@dataclasses.dataclass(frozen=True)
class AttentiveOutput(Settings):
    """Strided convolutions, each before attention and a feed-forward of its own (add_adapter of
    transformers' Wav2Vec2Bert)."""

    kind: ClassVar[str] = "attentive"
    path: ClassVar[str] = "model.output"

    layers: int = 1
    width: int = 0
    stride: int = 2


BLOCKS = {c.kind: c for c in (TransformerConfig, ConformerConfig)}
OUTPUTS = {c.kind: c for c in (PlainOutput, StridedOutput, AttentiveOutput)}


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelSettings):
    """Front end, mask and context network. The defaults are wav2vec 2.0 BASE.

    Source: wav2vec 2.0 (arXiv 2006.11477) section 2 and appendix A.
    """

    frontend: Frontend = nested(FRONTENDS, WaveformConfig)
    block: TransformerConfig | ConformerConfig = nested(BLOCKS, TransformerConfig)
    positions: Settings = nested(POSITIONS, ConvPositions)
    output: PlainOutput | StridedOutput | AttentiveOutput = nested(OUTPUTS, PlainOutput)
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward: int = 3072
    feature_norm: bool = True
    norm_order: str = "post"
    norm_eps: float = 1e-5
    activation: str = "gelu"
    # regularisation
    dropout: float = free(0.1)
    attention_dropout: float = free(0.1)
    activation_dropout: float = free(0.0)
    dropout_input: float = free(0.1)
    layerdrop: float = free(0.05)
    padding_leaks: bool = free(False)

    def __post_init__(self):
        super().__post_init__()
        divisors = {"num_heads": self.num_heads}
        if self.positions.kind in CONVOLUTIONS:
            divisors["positions.groups"] = self.positions.groups
        if self.conformer and self.block.norm == "group":
            divisors["block.norm=group, whose groups are"] = NORM_GROUPS
        for key, divisor in divisors.items():
            if self.width % divisor:
                raise ConfigError(
                    f"model.width {self.width} is not divisible by model.{key} {divisor}; "
                    f"{nearest_multiples('model.width', self.width, divisor)}"
                )
        if self.output.kind == "attentive" and self.context_width % self.num_heads:
            raise ConfigError(
                f"model.output.width {self.context_width} is not divisible by model.num_heads "
                f"{self.num_heads}; "
                + nearest_multiples("model.output.width", self.context_width, self.num_heads)
            )
        positions = self.positions.kind
        if positions in ("relative", "sinusoidal") and self.width % 2:
            raise ConfigError(
                f"model.positions.kind={positions} needs an even width; "
                f"{nearest_multiples('model.width', self.width, 2)}"
            )
        if positions == "rotary" and (self.width // self.num_heads) % 2:
            raise ConfigError(
                f"model.positions.kind=rotary needs an even width per head, which {self.width} / "
                f"{self.num_heads} is not; change model.num_heads"
            )
        if not self.conformer:
            if self.block.adapter_dim and self.norm_order != "pre":
                raise ConfigError(
                    f"model.block.adapter_dim={self.block.adapter_dim} needs model.norm_order=pre; "
                    "set that, or adapter_dim=0"
                )
            if positions in ("relative", "shaw", "rotary"):
                raise ConfigError(
                    f"model.positions.kind={positions} needs model.block.kind=conformer; a "
                    "transformer block takes conv, conv_stack, sinusoidal or none"
                )
            if self.norm_order == "none":
                raise ConfigError(
                    "model.norm_order=none needs model.block.kind=conformer, whose blocks end with "
                    "a norm; set it to post or pre"
                )

    @property
    def conformer(self) -> bool:
        return isinstance(self.block, ConformerConfig)

    @property
    def context_stride(self) -> int:
        """Samples from one frame of the encoder's output to the next."""
        output = self.output
        return self.frontend.stride * (output.stride**output.layers if output.layers else 1)

    @property
    def context_width(self) -> int:
        """Width of the encoder's output."""
        return (self.output.layers and self.output.width) or self.width

    def context_frames(self, frames):
        """Frames of the encoder's output for `frames` of the front end, an int or array."""
        for _ in range(self.output.layers):
            frames = (frames - 1) // self.output.stride + 1
        return frames

    def refuse_output_layers(self, objective: str) -> None:
        """Raises ConfigError where an objective needs the context of every frame."""
        if self.output.layers:
            raise ConfigError(
                f"model.output has {self.output.layers} layers; {objective} needs the kind plain, "
                "as it compares every frame with its context: leave output= out of the config's "
                "argument"
            )

    def check_tokens(self) -> None:
        """Raises ConfigError where there are no tokens to predict."""
        if self.frontend.kind != "units":
            raise ConfigError(
                f"model.frontend.kind={self.frontend.kind} has no tokens, which Discrete BERT "
                "predicts; leave frontend= out of the config's argument, or set frontend=units"
            )

    def check_same(self, other: "EncoderConfig", where: str) -> None:
        """Raises ConfigError naming what differs from the encoder in `where`."""
        changes = self.changes(other)
        if not changes:
            return
        kinds = [key for key in changes if key.endswith(".kind")]
        if kinds:  # its other keys do not exist here: no flag can set them
            names = (key.removeprefix("model.").removesuffix(".kind") for key in kinds)
            parts = (f"{name}={changes[key][0]}" for name, key in zip(names, kinds, strict=True))
            argument = ",".join(parts)
            remedy = f"one with {argument} in its argument (configs/wav2vec2.py:base,{argument})"
        elif changes.keys() & {"model.frontend.mean", "model.frontend.std"}:
            remedy = f"--config.model.frontend.statistics={where}"  # tuples too long for a flag
        else:
            remedy = flags_of(changes)
        raise ConfigError(
            f"the encoder in {where} is another one ({differences(changes)}); use a config of the "
            f"same size, or {remedy}, or take over what fits with --config.run.partial_init=True"
        )


def differences(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """What `Settings.changes` found, for a message."""
    return some(
        (f"{key}: {shown(old)} there, {shown(new)} here" for key, (old, new) in changes.items()),
        MOST, "; ",
    )  # fmt: skip


def flags_of(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """The flags that undo them."""
    return " ".join(flag(key, old, longest=500) for key, (old, _) in changes.items())


def check_part(ours: Settings, theirs: Settings, what: str, where: str, more: str = "") -> None:
    """Raises ConfigError naming how a part of a head, `what`, differs from that in `where`; more:
    after the flags that undo it."""
    instead = "or take over what fits with --config.run.partial_init=True"
    if ours.kind != theirs.kind:  # its other keys do not exist here: no flag can set them
        raise ConfigError(
            f"the {what} in {where} is of {ours.path}.kind={theirs.kind}, here of {ours.kind}; use "
            f"a config with {ours.path}={theirs.kind} in its argument, {instead}"
        )
    if changes := ours.changes(theirs):
        raise ConfigError(
            f"the {what} in {where} is another one ({differences(changes)}); set "
            f"{flags_of(changes)}{more}, {instead}"
        )


@dataclasses.dataclass(frozen=True)
class PredictionConfig(Settings):
    """The masked-prediction head. The defaults are HuBERT BASE's (arXiv 2106.07447)."""

    path: ClassVar[str] = "prediction"

    classes: tuple[int, ...] = (504,)
    projection: int = 256
    tied: bool = False
    label_rate: float = 50.0

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "classes", tuple(int(n) for n in self.classes))


@dataclasses.dataclass(frozen=True)
class RandomQuantizerConfig(Settings):
    """The frozen random codebooks that BEST-RQ takes its labels from (arXiv 2202.01855)."""

    path: ClassVar[str] = "random_quantizer"

    codebooks: int = 1
    codes: int = 8192
    width: int = 16

    @staticmethod
    def check_frontend(frontend: Frontend) -> None:
        """Raises ConfigError where there is no spectrum to take labels from."""
        if not frontend.bins:
            raise ConfigError(
                f"model.frontend.kind={frontend.kind} has no spectrum, of which BEST-RQ makes its "
                "labels; leave frontend= out of the config's argument, or set frontend=logmel"
            )


@dataclasses.dataclass(frozen=True)
class QuantizerConfig(Settings):
    """Gumbel product quantizer and the contrastive head. The defaults are wav2vec 2.0 BASE.

    depth: linear layers before the choice of a code, GELU between, the inner ones `factor` times as
    wide as a feature (fairseq's quantizer_depth and quantizer_factor). projection_depth: of the two
    projections, the inner ones as wide as their input (Wav2Vec-Aug, arXiv 2206.13654; its depths
    and widths are not known to us).
    """

    kind: ClassVar[str] = "gumbel"
    path: ClassVar[str] = "quantizer"

    groups: int = 2
    codes: int = 320
    width: int = 256
    projection: int = 256
    dropout: float = free(0.1)
    depth: int = 1
    factor: int = 3
    projection_depth: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.groups:
            raise ConfigError(
                f"quantizer.width {self.width} is not divisible by quantizer.groups {self.groups}; "
                f"{nearest_multiples('quantizer.width', self.width, self.groups)}"
            )


@dataclasses.dataclass(frozen=True)
class LinearTargets(Settings):
    """No codes: a target is a projection of the features as they are (arXiv 2010.10504)."""

    kind: ClassVar[str] = "linear"
    path: ClassVar[str] = "quantizer"

    projection: int = 256
    dropout: float = free(0.1)
    projection_depth: int = 1


QUANTIZERS = {c.kind: c for c in (QuantizerConfig, LinearTargets)}


def quantizer_of(values: Mapping[str, Any]) -> QuantizerConfig | LinearTargets:
    """Of config.quantizer; of codes where it names no kind."""
    return member(QUANTIZERS, {"kind": QuantizerConfig.kind, **values}, "quantizer")
