"""Which augmentation an utterance gets: a pure function of (seed, step, item)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from w2v_jax.audio.augment import (
    add_noise,
    change_gain,
    change_speed,
    reject_band,
    reverberate,
    shift_pitch,
    silence,
    to_int16,
)
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.sources import open_sources

# in the order in which they are applied; a new one comes last, as its place is part of its key
KINDS = ("speed", "pitch", "reverb", "noise", "gain", "band", "drop")
# of config.data.augment; every probability is per utterance
DEFAULTS = {
    "speed_prob": 0.0,
    "speed_factors": (0.9, 1.1),
    "pitch_prob": 0.0,
    "pitch_semitones": 3.0,
    "reverb_prob": 0.0,
    "reverb_manifest": "",
    "noise_prob": 0.0,
    "noise_manifest": "",
    "noise_snr_db": (5.0, 20.0),
    "gain_prob": 0.0,
    "gain_db": (-6.0, 6.0),
    "band_prob": 0.0,
    "band_share": 0.15,
    "drop_prob": 0.0,
    "drop_count": 5,
    "drop_seconds": 0.1,
}
_CACHE = 64_000_000  # bytes of recordings kept in memory, of each kind
_TRIES = 4  # recordings of noise that are tried before the utterance goes without


class Augmentation:
    """Draws and applies what `settings` (config.data.augment) allow.

    Every kind has a stream of random numbers of its own, so that switching one on or off changes
    no other; so has every view of an utterance, which are counted from 0.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        seed: int,
        noise: Corpus | None = None,
        impulses: Corpus | None = None,
    ):
        self.settings = dict(settings)
        self._seed = seed
        self.recordings = {"noise": noise, "reverb": impulses}

    def _draw(self, kind: str, step: int, item: int, view: int) -> np.random.Generator | None:
        """The random numbers of this utterance and kind, or None where it is spared."""
        prob = self.settings[f"{kind}_prob"]
        if not prob:
            return None
        key = [self._seed, 5, KINDS.index(kind), step, item]
        rng = np.random.default_rng([*key, view] if view else key)
        return rng if rng.random() < prob else None

    def speed(self, step: int, item: int, view: int = 0) -> float:
        """How much faster the utterance is to be; 1 leaves it alone."""
        rng = self._draw("speed", step, item, view)
        return float(rng.choice(self.settings["speed_factors"])) if rng else 1.0

    def __call__(
        self, audio: np.ndarray, count: int, step: int, item: int, view: int = 0
    ) -> tuple[np.ndarray, list[tuple[str, int, str]]]:
        """(int16 [count], recordings that could not be read: (kind, item, reason)).

        audio: int16 [n], brought to `count` samples by its speed.
        """
        if not len(audio):
            return audio, []
        out, bad = audio, []
        if count != len(audio):
            out = change_speed(out, len(audio) / count)
        if rng := self._draw("pitch", step, item, view):
            widest = self.settings["pitch_semitones"]
            out = shift_pitch(out, rng.uniform(-widest, widest))
        if (rng := self._draw("reverb", step, item, view)) and (
            impulse := self._recording("reverb", rng, None, bad)
        ) is not None:
            out = reverberate(out, impulse)
        if (rng := self._draw("noise", step, item, view)) and (
            noise := self._recording("noise", rng, count, bad)
        ) is not None:
            out = add_noise(out, noise, rng.uniform(*self.settings["noise_snr_db"]))
        if rng := self._draw("gain", step, item, view):
            out = change_gain(out, rng.uniform(*self.settings["gain_db"]))
        if rng := self._draw("band", step, item, view):
            out = reject_band(out, *_band(rng, self.settings["band_share"]))
        if rng := self._draw("drop", step, item, view):
            for _ in range(self.settings["drop_count"]):
                size = round(rng.uniform(0, self.settings["drop_seconds"]) * SAMPLE_RATE)
                out = silence(out, int(rng.integers(max(len(out) - size, 0) + 1)), size)
        return (out if out is audio else to_int16(out)), bad

    def _recording(self, kind: str, rng, count: int | None, bad: list) -> np.ndarray | None:
        """A recording drawn evenly, or `count` samples of it, repeated where it is shorter."""
        corpus = self.recordings[kind]
        for item in self._choices(rng, len(corpus)):
            size = corpus.length(item)
            wanted = size if count is None else min(count, size)
            start = int(rng.integers(size - wanted + 1))
            try:
                audio = corpus.audio(item, start, wanted)
            except AudioError as error:
                bad.append((kind, item, str(error)))
                continue
            return audio if count is None else np.resize(audio, count)
        return None

    @staticmethod
    def _choices(rng, size: int) -> Iterator[int]:
        return (int(rng.integers(size)) for _ in range(_TRIES))


def _band(rng: np.random.Generator, share: float) -> tuple[float, float]:
    """(from, to) in Hz of a random band, at most this share of the mel scale up to 8 kHz."""
    top = 1127 * np.log1p(SAMPLE_RATE / 2 / 700)
    width = rng.uniform(0, share)
    low = rng.uniform(0, 1 - width)
    low, high = (float(700 * np.expm1(x * top / 1127)) for x in (low, low + width))
    return low, high


def open_augmentation(settings: Mapping[str, Any], seed: int) -> Augmentation | None:
    """The augmentation of config.data.augment with its recordings; None where nothing is on."""
    if not any(settings[f"{kind}_prob"] for kind in KINDS):
        return None
    recordings = [
        Corpus(open_sources(path), cache_bytes=_CACHE) if path else None
        for path in (settings["noise_manifest"], settings["reverb_manifest"])
    ]
    return Augmentation(settings, seed, *recordings)
