"""The hyper-parameters of an encoder and of the heads on it."""

import dataclasses
from typing import ClassVar

from w2v_jax.models.frontends import FRONTENDS, Frontend, WaveformConfig
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS
from w2v_jax.models.settings import ConfigError, ModelSettings, Settings, choices, free, nested

NORM_GROUPS = 16  # of model.block.norm=group


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Settings):
    """Self-attention, feed-forward."""

    kind: ClassVar[str] = "transformer"
    path: ClassVar[str] = "model.block"

    adapter_dim: int = 0  # bottleneck of an adapter at the end of a block (MMS); 0: none


@dataclasses.dataclass(frozen=True)
class ConformerConfig(Settings):
    """Half feed-forward, self-attention, convolution, half feed-forward (arXiv 2005.08100)."""

    kind: ClassVar[str] = "conformer"
    path: ClassVar[str] = "model.block"

    kernel: int = 31
    norm: str = "batch"  # | layer | group: the norm inside the convolution module
    dropout: float = free(0.1)  # at the end of the convolution module

    def __post_init__(self):
        choices("model.block.norm", self.norm, ("batch", "layer", "group"))
        self.check_rates()
        if self.kernel % 2 == 0:
            raise ConfigError(f"model.block.kernel is {self.kernel}; it must be odd")


@dataclasses.dataclass(frozen=True)
class ConvPositions(Settings):
    """A grouped convolution over time, added to the first block's input."""

    kind: ClassVar[str] = "conv"
    path: ClassVar[str] = "model.positions"

    kernel: int = 128
    groups: int = 16
    norm: str = "weight"  # of the kernel | batch: batch norm of the input
    activation: str = "gelu"  # | gelu_tanh | relu | swish

    def __post_init__(self):
        choices("model.positions.norm", self.norm, ("weight", "batch"))
        choices("model.positions.activation", self.activation, tuple(ACTIVATIONS))


@dataclasses.dataclass(frozen=True)
class RelativePositions(Settings):
    """Transformer-XL's, in the attention of a conformer."""

    kind: ClassVar[str] = "relative"
    path: ClassVar[str] = "model.positions"


@dataclasses.dataclass(frozen=True)
class RotaryPositions(Settings):
    """Rotations of the attention's input, in a conformer."""

    kind: ClassVar[str] = "rotary"
    path: ClassVar[str] = "model.positions"


@dataclasses.dataclass(frozen=True)
class NoPositions(Settings):
    """Nothing says where a frame stands."""

    kind: ClassVar[str] = "none"
    path: ClassVar[str] = "model.positions"


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
    width: int = 0  # 0: as the model's, and then without a projection before the convolutions
    stride: int = 2

    def __post_init__(self):
        if self.layers < 1 or self.stride < 1:
            raise ConfigError(
                f"model.output has {self.layers} layers of stride {self.stride}; both must be at "
                "least 1, or model.output.kind plain"
            )


BLOCKS = {c.kind: c for c in (TransformerConfig, ConformerConfig)}
POSITIONS = {c.kind: c for c in (ConvPositions, RelativePositions, RotaryPositions, NoPositions)}
OUTPUTS = {c.kind: c for c in (PlainOutput, StridedOutput)}


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelSettings):
    """Front end, mask and context network. The defaults are wav2vec 2.0 BASE.

    Source: wav2vec 2.0 (arXiv 2006.11477) section 2 and appendix A.
    """

    frontend: Frontend = nested(FRONTENDS, WaveformConfig)
    block: TransformerConfig | ConformerConfig = nested(BLOCKS, TransformerConfig)
    positions: Settings = nested(POSITIONS, ConvPositions)
    output: PlainOutput | StridedOutput = nested(OUTPUTS, PlainOutput)
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward: int = 3072
    feature_norm: bool = True  # layer norm of the features before their projection
    norm_order: str = "post"  # | pre
    norm_eps: float = 1e-5
    activation: str = "gelu"  # | gelu_tanh | relu | swish: in the feed-forwards
    # regularisation
    dropout: float = free(0.1)
    attention_dropout: float = free(0.1)
    activation_dropout: float = free(0.0)
    dropout_input: float = free(0.1)  # of the projected features, before the mask
    layerdrop: float = free(0.05)
    # True: group norm, batch norm and depthwise convolution see the padding, as the published
    # checkpoints were trained. False: padding never changes a valid output.
    padding_leaks: bool = free(False)

    def __post_init__(self):
        choices("model.norm_order", self.norm_order, ("post", "pre"))
        choices("model.activation", self.activation, tuple(ACTIVATIONS))
        self.check_rates()
        divisors = {"num_heads": self.num_heads}
        if isinstance(self.positions, ConvPositions):
            divisors["positions.groups"] = self.positions.groups
        if self.conformer and self.block.norm == "group":
            divisors["block.norm=group, whose groups are"] = NORM_GROUPS
        for key, divisor in divisors.items():
            if self.width % divisor:
                raise ConfigError(
                    f"model.width {self.width} is not divisible by model.{key} {divisor}"
                )
        positions = self.positions.kind
        if positions == "rotary" and (self.width // self.num_heads) % 2:
            raise ConfigError("model.positions.kind=rotary needs an even width per head")
        if not self.conformer:
            if self.block.adapter_dim and self.norm_order != "pre":
                raise ConfigError("model.block.adapter_dim needs model.norm_order=pre")
            if positions in ("relative", "rotary"):
                raise ConfigError(
                    f"model.positions.kind={positions} needs model.block.kind=conformer; a "
                    "transformer block takes conv or none"
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
                f"model.output has {self.output.layers} layers; {objective} needs the kind plain: "
                "it compares every frame with its context"
            )

    def check_same(self, other: "EncoderConfig", where: str) -> None:
        """Raises ConfigError naming what differs from the encoder in `where`."""
        old, new = other.architecture(), self.architecture()
        changed = [key for key in dict.fromkeys((*new, *old)) if old.get(key) != new.get(key)]
        if changed:
            there = "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} here" for k in changed)
            kinds = [key for key in changed if key.endswith(".kind")]
            flags = " ".join(f"--config.model.{key}={old[key]}" for key in changed if key in old)
            if kinds:  # its other keys do not exist here: no flag can set them
                flags = ",".join(f"{key.removesuffix('.kind')}={old[key]}" for key in kinds)
                flags = f"one with {flags} in its argument (configs/wav2vec2.py:base,{flags})"
            raise ConfigError(
                f"the encoder in {where} is another one ({there}); use a config of the same size, "
                f"or {flags}, or take over what fits with --config.run.partial_init=True"
            )


@dataclasses.dataclass(frozen=True)
class PredictionConfig(Settings):
    """The masked-prediction head. The defaults are HuBERT BASE's (arXiv 2106.07447)."""

    path: ClassVar[str] = "prediction"

    classes: tuple[int, ...] = (504,)  # per set of labels; fairseq adds 4 to the clusters
    projection: int = 256  # where context and label embeddings are compared
    tied: bool = False  # one projection for all sets of labels
    label_rate: float = 50.0  # labels per second

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(int(n) for n in self.classes))
        if not self.classes:
            raise ConfigError("prediction.classes is empty; name the classes of every label set")


@dataclasses.dataclass(frozen=True)
class QuantizerConfig(Settings):
    """Gumbel product quantizer and the contrastive head. The defaults are wav2vec 2.0 BASE."""

    path: ClassVar[str] = "quantizer"

    groups: int = 2
    codes: int = 320  # per group
    width: int = 256  # of a quantized vector, all groups together
    projection: int = 256  # where context and target are compared
    dropout: float = free(0.1)  # of the features that it sees

    def __post_init__(self):
        self.check_rates()
        if self.width % self.groups:
            raise ConfigError(
                f"quantizer.width {self.width} is not divisible by quantizer.groups {self.groups}"
            )
