"""Front ends: from samples to frames. Each owns its arithmetic and its module; nothing else knows
which there are."""

from typing import Any, Protocol

import flax.linen as nn
import jax

from w2v_jax.models.frontends.logmel import LogMelConfig
from w2v_jax.models.frontends.units import UnitsConfig
from w2v_jax.models.frontends.waveform import WaveformConfig
from w2v_jax.models.settings import Execution


class Frontend(Protocol):
    """What the settings of a front end are asked for."""

    kind: str
    stride: int  # samples from one frame to the next
    receptive_field: int  # samples that one frame sees; a shorter input gives no frame
    width: int  # of a frame
    frozen: bool  # whether it has parameters that do not move
    bins: int  # of the spectrum that its module's `edit` changes; 0: it has none
    middle: float  # samples from frame t's t * stride to the middle of what it sees
    taps: dict[str, int]  # what can be had of its inside, each at its own rate, and its width

    def frames(self, samples: Any) -> Any:
        """Frames of `samples`, an int or array."""

    def valid_frames(self, length: Any, samples: int, frames: int) -> Any:
        """How many of `frames`, cut from rows of `samples`, count in rows with length int32 [B]."""

    def alone(self) -> "Frontend":
        """Itself, with a rule of valid frames that depends on no other row."""

    def pooled(self, tap: str, x: jax.Array, length: jax.Array | None) -> jax.Array:
        """What was tapped, [B, its frames, C], averaged over what each frame sees: [B, T, C]."""

    def flops(self, samples: int) -> dict[str, float]:
        """Operations of a forward pass over one row, by part."""

    def backward_flops(self, samples: int) -> float:
        """Operations of its backward pass."""

    def module(self, execution: Execution, padding_leaks: bool, **kwargs) -> nn.Module:
        """(audio [B, S], length int32 [B] in samples or None) -> frames [B, T, C]; with bins a
        third argument, `edit`, see `logmel.LogMel`, and itself `spectrum(audio, length)`,
        `mel_frames(samples)` and `reduction`; without them it takes `taps`, see
        `waveform.FeatureEncoder`."""


FRONTENDS = {config.kind: config for config in (WaveformConfig, LogMelConfig, UnitsConfig)}
