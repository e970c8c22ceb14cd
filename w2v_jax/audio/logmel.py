"""Log-mel spectra: what each family of models means by them, and their NumPy form.

The definitions in use (`PRESETS`, and HuBERT's MFCC, which begins as `kaldi` does) differ in all
but the hop; a model hears the one it was trained with. The form for batches on devices is
models/frontends/logmel.py: it takes windows and filters from here.
"""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError

HOP = 160  # samples from one frame to the next, 10 ms
WINDOW = 400  # samples of a frame, 25 ms
TINIEST = 1e-20  # power below which a magnitude counts as this: its root has a gradient


@dataclasses.dataclass(frozen=True)
class MelPreset:
    """The constants of one definition, at 16 kHz."""

    name: str
    mels: int = 80
    amplitude: float = 32768.0  # of a sample at full scale
    centred: bool = False  # frames stand around multiples of the hop, reflected at the ends
    remove_mean: bool = False  # of every frame
    preemphasis: float = 0.0
    before: int = 0  # 1: pre-emphasis sees the sample before a frame; 0: the first one twice
    window: str = "hann"  # periodic; povey: the symmetric one to the power of 0.85
    fft: int = 512
    magnitude: bool = False  # instead of power
    slaney: bool = False  # Slaney's scale and triangles of equal area; or HTK's and equal height
    low: float = 20.0  # Hz
    high: float = 8000.0
    floor: float = 1.1920929e-07  # float32's epsilon
    range: float = 0.0  # decades below the largest value that are kept (Whisper); 0: ln of all
    ddof: int = 0  # of the standard deviation over an utterance
    eps: float = 1e-5  # added to its square

    @property
    def span(self) -> int:
        """Samples that a frame sees."""
        return WINDOW + self.before

    @property
    def shortest(self) -> int:
        """Samples that give a frame. Reflection needs more than half a window."""
        return self.fft // 2 + 1 if self.centred else self.span

    @property
    def middle(self) -> float:
        """Samples from a multiple of the hop to the middle of the window that stands there."""
        return 0.0 if self.centred else self.before + WINDOW / 2

    def frames(self, samples: Any) -> Any:
        """Frames of `samples`, an int or array."""
        if self.centred:
            return samples // HOP * (samples >= self.shortest)
        return ((samples - self.span) // HOP + 1) * (samples >= self.span)

    def check_length(self, samples: int) -> None:
        """Raises UserError for a recording without a frame."""
        if samples < self.shortest:
            raise UserError(
                f"audio of {samples} samples is shorter than a frame of the log-mel preset "
                f"{self.name}, {self.shortest} samples; leave such recordings out "
                "(--config.data.min_seconds)"
            )

    @functools.cached_property
    def digest(self) -> str:
        """Of the constants that the spectrum depends on."""
        values = dataclasses.asdict(self)
        for key in ("name", "ddof", "eps"):
            del values[key]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


# Google's line (2010.10504, BEST-RQ). The papers (Conformer 2005.08100 on) say 80 channels, 25 ms
# windows and a hop of 10 ms, and no more. The rest is what lingvo's MelAsrFrontend does by default,
# without its noise of 8 units; its mean and deviation per bin are ours to choose (a corpus's).
GOOGLE = MelPreset(
    "google", preemphasis=0.97, before=1, fft=1024, magnitude=True, low=125.0, high=7600.0,
    floor=1.0,
)  # fmt: skip
# Kaldi's fbank without dither, for int16 amplitudes. HuBERT's MFCC: mels=23, amplitude=1.0
KALDI = MelPreset("kaldi", remove_mean=True, preemphasis=0.97, window="povey")
# w2v-BERT 2.0 (transformers seamless_m4t/feature_extraction): Kaldi's, normalised per utterance
SEAMLESS = dataclasses.replace(KALDI, name="seamless", ddof=1, eps=1e-7)
# whisper/audio.py; 80 bins, in large-v3 and turbo 128
WHISPER = MelPreset(
    "whisper", amplitude=1.0, centred=True, fft=400, slaney=True, low=0.0, floor=1e-10, range=8.0
)
PRESETS = {preset.name: preset for preset in (GOOGLE, KALDI, SEAMLESS, WHISPER)}


@functools.cache
def window_of(kind: str) -> np.ndarray:
    """float64 [400]."""
    if kind == "povey":
        return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)


def slaney_scale(hertz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear up to 1 kHz, 27 steps for a factor of 6.4 above."""
    above = 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4)
    return np.where(hertz < 1000, hertz * 3 / 200, above)


def slaney_hertz(mel: np.ndarray) -> np.ndarray:
    """Its inverse."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def htk_scale(hertz: np.ndarray) -> np.ndarray:
    """The mel scale of HTK and Kaldi."""
    return 1127 * np.log1p(hertz / 700)


@functools.cache
def filterbank(preset: MelPreset) -> np.ndarray:
    """Weights float64 [fft / 2 + 1, mels]: triangles whose corners are evenly spaced in mel; their
    sides are straight over mel, or with `slaney` over Hz and the area is 1."""
    frequency = np.arange(preset.fft // 2 + 1) * SAMPLE_RATE / preset.fft
    scale = slaney_scale if preset.slaney else htk_scale
    ends = scale(np.array([preset.low, preset.high]))
    corners = np.linspace(*ends, preset.mels + 2)
    if preset.slaney:
        corners, place = slaney_hertz(corners), frequency
    else:
        place = htk_scale(frequency)
    left, top, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (place[:, None] - left) / (top - left)
    falling = (right - place[:, None]) / (right - top)
    weights = np.maximum(np.minimum(rising, falling), 0)
    return weights * 2 / (right - left) if preset.slaney else weights


def mel_energies(audio: np.ndarray, preset: MelPreset) -> np.ndarray:
    """Power, or magnitude, of every band: audio int16, or float of +-1, [n] -> float64 [T, mels].
    Raises UserError for less than a frame."""
    preset.check_length(len(audio))
    x = audio.astype(np.float64) * (preset.amplitude / (32768 if audio.dtype == np.int16 else 1))
    if preset.centred:
        x = np.pad(x, preset.fft // 2, mode="reflect")
    count = preset.frames(len(audio))
    frames = np.lib.stride_tricks.sliding_window_view(x, preset.span)[::HOP][:count]
    if preset.remove_mean:
        frames = frames - frames.mean(1, keepdims=True)
    if preset.preemphasis:
        if not preset.before:
            frames = np.concatenate([frames[:, :1], frames], axis=1)
        frames = frames[:, 1:] - preset.preemphasis * frames[:, :-1]
    spectrum = np.abs(np.fft.rfft(frames * window_of(preset.window), preset.fft))
    return (spectrum if preset.magnitude else spectrum**2) @ filterbank(preset)


def log_mel(audio: np.ndarray, preset: MelPreset) -> np.ndarray:
    """The log-mel spectrum of one recording, int16 or float of +-1, [n] -> float32 [T, mels]."""
    energies = np.maximum(mel_energies(audio, preset), preset.floor)
    if not preset.range:
        return np.log(energies).astype(np.float32)
    x = np.log10(energies)
    return ((np.maximum(x, x.max() - preset.range) + 4) / 4).astype(np.float32)
