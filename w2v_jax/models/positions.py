"""What can say where a frame stands: the kinds of config.model.positions."""

import dataclasses
from typing import ClassVar

from w2v_jax.models.settings import Settings


@dataclasses.dataclass(frozen=True)
class ConvPositions(Settings):
    """A grouped convolution over time, added to the first block's input."""

    kind: ClassVar[str] = "conv"
    path: ClassVar[str] = "model.positions"
    layers: ClassVar[int] = 1

    kernel: int = 128
    groups: int = 16
    norm: str = "weight"
    activation: str = "gelu"


@dataclasses.dataclass(frozen=True)
class ConvStackPositions(Settings):
    """Grouped convolutions over time in a row, each with a norm and an activation behind it; what
    the last one gives is added to the first block's input (data2vec, arXiv 2202.03555). The
    defaults are its published models'."""

    kind: ClassVar[str] = "conv_stack"
    path: ClassVar[str] = "model.positions"

    layers: int = 5
    kernel: int = 19
    groups: int = 16
    activation: str = "gelu"


@dataclasses.dataclass(frozen=True)
class RelativePositions(Settings):
    """Transformer-XL's, in the attention of a conformer."""

    kind: ClassVar[str] = "relative"
    path: ClassVar[str] = "model.positions"


@dataclasses.dataclass(frozen=True)
class ShawPositions(Settings):
    """A vector per distance of a key, clipped at both ends, in the attention of a conformer (arXiv
    1803.02155). The defaults are w2v-BERT 2.0's."""

    kind: ClassVar[str] = "shaw"
    path: ClassVar[str] = "model.positions"

    left: int = 64
    right: int = 8


@dataclasses.dataclass(frozen=True)
class RotaryPositions(Settings):
    """Rotations of the attention's input, in a conformer."""

    kind: ClassVar[str] = "rotary"
    path: ClassVar[str] = "model.positions"


@dataclasses.dataclass(frozen=True)
class SinusoidalPositions(Settings):
    """Sines and cosines of the frame's number, added to the first block's input (arXiv 1706.03762
    section 3.5; the input is not scaled)."""

    kind: ClassVar[str] = "sinusoidal"
    path: ClassVar[str] = "model.positions"


@dataclasses.dataclass(frozen=True)
class NoPositions(Settings):
    """Nothing says where a frame stands."""

    kind: ClassVar[str] = "none"
    path: ClassVar[str] = "model.positions"


POSITIONS = {
    c.kind: c
    for c in (
        ConvPositions, ConvStackPositions, RelativePositions, ShawPositions, RotaryPositions,
        SinusoidalPositions, NoPositions,
    )
}  # fmt: skip
CONVOLUTIONS = (ConvPositions.kind, ConvStackPositions.kind)
