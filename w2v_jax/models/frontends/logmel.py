"""Frames of a log-mel spectrum: the input of Google's Conformers, w2v-BERT and BEST-RQ."""

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.audio.logmel import HOP, PRESETS, TINIEST, MelPreset, filterbank, window_of
from w2v_jax.models.frontends.waveform import convolutions_saveable, scale_waveform
from w2v_jax.models.kernels.sharded import per_device
from w2v_jax.models.layers import boxed, frame_mask, torch_dense, zero_padding
from w2v_jax.models.settings import ConfigError, Execution, Settings, free

# (spectrum float32 [B, T, bins], its frames int32 [B]) -> spectrum
Edit = Callable[[jax.Array, jax.Array], jax.Array]


def reflected(x: jax.Array, length: jax.Array | None, width: int) -> jax.Array:
    """x [B, S] with `width` samples more at both ends: each row mirrored at its first sample and at
    its last one, length int32 [B], which does not stand twice."""
    if length is None:
        return jnp.pad(x, ((0, 0), (width, width)), mode="reflect")
    place = jnp.abs(jnp.arange(-width, x.shape[1] + width))[None]
    last = length[:, None] - 1
    place = jnp.where(place > last, 2 * last - place, place)
    return jnp.take_along_axis(x, place.clip(0, x.shape[1] - 1), axis=1)


def framed(x: jax.Array, span: int, count: int) -> jax.Array:
    """x [B, S] -> [B, count, span], a frame per hop. Of whole hops end to end: on a CPU a quarter
    faster than a gather, or than a strided convolution with the Fourier transform in its kernel."""
    blocks = -(-span // HOP)
    short = (count + blocks - 1) * HOP - x.shape[1]
    x = jnp.pad(x, ((0, 0), (0, max(short, 0))))[:, : (count + blocks - 1) * HOP]
    hops = x.reshape(len(x), -1, HOP)
    return jnp.concatenate([hops[:, i : i + count] for i in range(blocks)], axis=-1)[:, :, :span]


def mel_energies(
    audio: jax.Array, preset: MelPreset, length: jax.Array | None = None
) -> jax.Array:
    """Power, or magnitude, of every band: audio int16, or float of +-1, [B, S]; length int32 [B] in
    samples or None -> float32 [B, T, mels]. Frames beyond preset.frames(length) mean nothing.
    Raises UserError where S is less than a frame."""
    samples = audio.shape[1]
    preset.check_length(samples)
    x = scale_waveform(audio, length, normalize=False) * preset.amplitude
    if preset.centred:
        x = reflected(x, length, preset.fft // 2)
    x = framed(x, preset.span, preset.frames(samples))
    if preset.remove_mean:
        x = x - x.mean(-1, keepdims=True)
    if preset.preemphasis:
        first = x[:, :, :1]
        x = x if preset.before else jnp.concatenate([first, x], axis=-1)
        x = x[:, :, 1:] - preset.preemphasis * x[:, :, :-1]
    # which the compiler would not cut into rows: every device would transform all of them
    transform = functools.partial(jnp.fft.rfft, n=preset.fft)
    x = x * window_of(preset.window).astype("float32")
    spectrum = per_device(transform, [x], [("batch", None, None)], 0)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    if preset.magnitude:
        power = jnp.sqrt(jnp.maximum(power, TINIEST))
    filters = filterbank(preset).astype("float32")
    return jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)


def log_mel(audio: jax.Array, preset: MelPreset, length: jax.Array | None = None) -> jax.Array:
    """The log-mel spectrum of every row by itself: audio int16, or float of +-1, [B, S]; length
    int32 [B] in samples or None -> float32 [B, T, mels], 0 beyond preset.frames(length).

    T is preset.frames(S). Raises UserError where that is 0. Whisper's is that of the row alone, of
    any length; its model hears 30 s, of which whoever wants that gives 480,000 samples, the end
    zeros, and counts them in `length`.
    """
    energies = jnp.maximum(mel_energies(audio, preset, length), preset.floor)
    mask = None if length is None else frame_mask(preset.frames(length), energies.shape[1])
    if not preset.range:
        return zero_padding(jnp.log(energies), mask)
    x = jnp.log10(energies)
    heard = x if mask is None else jnp.where(mask[:, :, None], x, -jnp.inf)
    largest = heard.max((1, 2), keepdims=True)
    return zero_padding((jnp.maximum(x, largest - preset.range) + 4) / 4, mask)


def normalized(
    mel: jax.Array, frames: jax.Array | None, *, ddof: int = 0, eps: float = 1e-5
) -> jax.Array:
    """mel [B, T, mels] with mean 0 and variance 1 per utterance and bin, over frames int32 [B] of
    every row or all; 0 beyond."""
    mask = frame_mask(frames, mel.shape[1])
    count = mel.shape[1] if frames is None else frames[:, None, None]
    mean = zero_padding(mel, mask).sum(1, keepdims=True) / jnp.maximum(count, 1)
    centred = zero_padding(mel - mean, mask)
    variance = jnp.square(centred).sum(1, keepdims=True) / jnp.maximum(count - ddof, 1)
    return centred * jax.lax.rsqrt(variance + eps)


@dataclasses.dataclass(frozen=True)
class LogMelConfig(Settings):
    """A log-mel spectrum, and how many of its frames become one: by two convolutions of stride 2
    (40 ms, arXiv 2005.08100), or side by side (w2v-BERT 2.0: 2, 20 ms)."""

    kind: ClassVar[str] = "logmel"
    path: ClassVar[str] = "model.frontend"
    frozen: ClassVar[bool] = False

    preset: str = "google"
    mels: int = 80
    normalization: str = "utterance"
    statistics: str = free("")
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    subsampling: str = "conv"
    channels: int = 256
    projection: int = 256
    stack: int = 2

    def __post_init__(self):
        super().__post_init__()
        for key in ("mean", "std"):
            values = tuple(float(x) for x in getattr(self, key))
            object.__setattr__(self, key, values)
            if len(values) not in ((0, self.mels) if self.normalization == "global" else (0,)):
                raise ConfigError(
                    f"model.frontend.{key} has {len(values)} values, but normalization is "
                    f"{self.normalization} and mels {self.mels}; leave it empty: with "
                    "normalization=global it is read from model.frontend.statistics"
                )
        if len(self.mean) != len(self.std):
            raise ConfigError(
                "of model.frontend.mean and std one is empty; leave both empty, and set "
                "model.frontend.statistics"
            )

    def check_statistics(self) -> None:
        """Raises ConfigError where they are needed and not there."""
        if self.normalization == "global" and not self.mean:
            raise ConfigError(
                "model.frontend.normalization=global needs mean and standard deviation of a "
                "corpus; set --config.model.frontend.statistics to a file that python -m "
                "w2v_jax.mel_statistics wrote, or normalization=utterance"
            )

    @property
    def definition(self) -> MelPreset:
        """What the spectrum is."""
        return dataclasses.replace(PRESETS[self.preset], mels=self.mels)

    @property
    def bins(self) -> int:
        """Of a frame of the spectrum."""
        return self.mels

    @property
    def width(self) -> int:
        """Of a frame."""
        return self.projection if self.subsampling == "conv" else self.mels * self.stack

    @property
    def reduction(self) -> int:
        """Frames of the spectrum from one frame to the next."""
        return 4 if self.subsampling == "conv" else self.stack

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return HOP * self.reduction

    @property
    def receptive_field(self) -> int:
        """Samples without which there is no frame. (With convolutions a frame sees 6 hops more,
        zeros where there is no more audio.)"""
        shortest, more = self.definition.shortest, self.stack - 1
        if self.subsampling == "conv" or not more:
            return shortest
        if self.definition.centred:
            return max(shortest, self.stack * HOP)
        return shortest + more * HOP

    @property
    def middle(self) -> float:
        """Samples from the multiple of the stride where a frame stands to the middle of what it
        sees; with convolutions that is a frame of the spectrum."""
        more = 0 if self.subsampling == "conv" else self.stack - 1
        return self.definition.middle + more * HOP / 2

    @property
    def taps(self) -> dict[str, int]:
        """The width of the spectrum."""
        return {"spectrum": self.mels}

    def pooled(self, tap: str, x: jax.Array, length: jax.Array | None) -> jax.Array:
        """Means [B, T, bins] of the frames of the spectrum [B, its frames, bins] that each frame
        sees; of rows with length int32 [B] in samples, or full ones."""
        count = x.shape[1]
        size, before, frames = self.stack, 0, count // self.stack
        if self.subsampling == "conv":
            size, before, frames = 7, 3, halved(halved(count))
        after = (frames - 1) * self.reduction + size - before - count
        mask = None if length is None else frame_mask(self.mel_frames(length), count)
        x = zero_padding(x, mask)
        there = jnp.ones(x.shape[:2]) if mask is None else mask.astype(x.dtype)

        def sums(x):
            x = x[:, : count + min(after, 0)]
            padding = ((before, max(after, 0)),)
            return nn.pooling.pool(x, 0.0, jax.lax.add, (size,), (self.reduction,), padding)

        return sums(x) / sums(there[:, :, None]).clip(1)

    def mel_frames(self, samples):
        """Frames of the spectrum of `samples`, an int or array."""
        return self.definition.frames(samples)

    def frames(self, samples):
        """Frames of `samples`, an int or array."""
        mel = self.mel_frames(samples)
        return halved(halved(mel)) if self.subsampling == "conv" else mel // self.stack

    def valid_frames(self, length: jax.Array, samples: int, frames: int) -> jax.Array:
        """How many of `frames`, cut from rows of `samples`, count in rows with length int32 [B]."""
        return self.frames(length).clip(0, frames)

    def alone(self) -> "LogMelConfig":
        """Itself: its frames depend on no other row."""
        return self

    def spectrum(
        self, audio: jax.Array, length: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The normalised spectrum: audio int16 or float [B, S], length int32 [B] in samples or None
        -> (float32 [B, T, bins], 0 beyond its frames; frames int32 [B])."""
        preset = self.definition
        mel = log_mel(audio, preset, length)
        frames = jnp.full(len(audio), mel.shape[1]) if length is None else preset.frames(length)
        counted = None if length is None else frames
        if self.normalization == "utterance":
            mel = normalized(mel, counted, ddof=preset.ddof, eps=preset.eps)
        elif self.normalization == "global":
            self.check_statistics()
            mel = (mel - jnp.asarray(self.mean)) / jnp.asarray(self.std)
            mel = zero_padding(mel, frame_mask(counted, mel.shape[1]))
        return mel, frames

    def flops(self, samples: int) -> dict[str, float]:
        """Operations of a forward pass over one row, by part."""
        preset, frames = self.definition, self.mel_frames(samples)
        bins = preset.fft // 2 + 1
        fourier = 2.5 * preset.fft * (preset.fft.bit_length() - 1)  # of real input
        parts = {"spectrum": frames * (fourier + 2.0 * bins * self.mels)}
        if self.subsampling == "conv":
            first, second = halved(frames), halved(halved(frames))
            narrow = halved(halved(self.mels))
            parts["first convolution"] = 18.0 * first * halved(self.mels) * self.channels
            parts["convolutions"] = 18.0 * second * narrow * self.channels**2
            parts["subsampling"] = 2.0 * second * narrow * self.channels * self.projection
        return parts

    def backward_flops(self, samples: int) -> float:
        """Operations of its backward pass: two products per layer, but no gradient of the
        spectrum."""
        parts = self.flops(samples)
        del parts["spectrum"]
        return 2 * sum(parts.values()) - parts.get("first convolution", 0.0)

    def module(self, execution: Execution, padding_leaks: bool, **kwargs) -> nn.Module:
        """(audio [B, S], length int32 [B] in samples or None, edit) -> frames [B, T, C]."""
        return LogMel(self, execution, **kwargs)


def halved(frames):
    """Frames of a convolution of stride 2 over `frames`, an int or array."""
    return (frames + 1) // 2


class LogMel(nn.Module):
    """Log-mel spectrum in float32, normalised, perhaps edited; then fewer and wider frames."""

    config: LogMelConfig
    execution: Execution

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        edit: Edit | None = None,
        kept: jax.Array | None = None,
    ) -> jax.Array:
        """audio int16 or float [B, S], length int32 [B] in samples or None; edit: what becomes of
        the normalised spectrum before it is subsampled, kept int32 [B]: how many of T frames of a
        row are left after that, None for all -> [B, T, C]."""
        cfg = self.config
        mel, frames = cfg.spectrum(audio, length)
        if edit is not None:
            mel = edit(mel, frames)
        if cfg.subsampling == "stack":
            count = mel.shape[1] // cfg.stack
            mel = mel[:, : count * cfg.stack].reshape(len(mel), count, cfg.width)
            return mel.astype(self.execution.compute_dtype)
        make = Subsampling
        if self.execution.remat_features:
            make = nn.remat(Subsampling, policy=convolutions_saveable)
        counted = None if length is None else frames
        if kept is not None:
            counted = cfg.reduction * kept
        return make(cfg, self.execution, name="subsampling")(mel, counted)


class Subsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 with ReLU over time and frequency, then a projection of all
    that a frame has left (arXiv 2005.08100, 2010.10504).

    Zeros stand on both sides, one frame and one bin each, whatever the length: output t sees inputs
    2t - 1 to 2t + 1. (TensorFlow's SAME shifts that by one where the padded length is even, so that
    a row would depend on its batch.) Frames beyond a row's end are set to 0 before each, as if it
    ended there.
    """

    config: LogMelConfig
    execution: Execution

    @nn.compact
    def __call__(self, mel: jax.Array, frames: jax.Array | None) -> jax.Array:
        """mel [B, T, bins], frames int32 [B] or None -> [B, ceil(ceil(T / 2) / 2), projection]."""
        cfg, dtype = self.config, self.execution.compute_dtype
        x = mel.astype(dtype)[:, :, :, None]
        for i in range(2):
            x = zero_padding(x, frame_mask(frames, x.shape[1]))
            x = nn.Conv(
                cfg.channels, (3, 3), (2, 2), padding=((1, 1), (1, 1)), dtype=dtype,
                kernel_init=boxed(
                    nn.initializers.lecun_normal(), "conv", "conv", "conv_in", "conv_out"
                ),
                bias_init=boxed(nn.initializers.zeros, "conv_out"),
                name=f"conv_{i}",
            )(x)  # fmt: skip
            x = jax.nn.relu(x)  # [B, T', bins', channels]
            frames = None if frames is None else halved(frames)
        x = x.reshape(*x.shape[:2], -1)
        axes = ("conv_in", "conv_out")
        return torch_dense(x.shape[-1], cfg.projection, axes, dtype, name="projection")(x)
