"""Features that need no model, of whole recordings: MFCC, the mel of layer-wise analyses."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.analysis.extractor import Audio, Extractor, Part
from w2v_jax.audio import layerwise_mel, mfcc
from w2v_jax.audio.logmel import HOP, WINDOW
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError

CHUNK = 10_000  # frames that are computed at a time


class Spectrum(NamedTuple):
    """Features that no model is needed for, computed some frames at a time."""

    width: int
    middle: float  # samples from a frame's multiple of the hop to the middle of what it sees
    shortest: int  # samples that give a frame
    digest: Callable[[], str]
    frames: Callable[[Any], Any]
    part: Callable[[Audio, int, int], tuple[np.ndarray, Any]]  # frames first..stop, and a number
    whole: Callable[[np.ndarray, list], np.ndarray]  # of all of them, and these numbers


SPECTRA = {
    "mfcc": Spectrum(
        mfcc.WIDTH, mfcc.PRESET.middle, mfcc.PRESET.shortest, mfcc.digest, mfcc.PRESET.frames,
        lambda audio, first, stop: (
            mfcc.cepstra(np.asarray(audio[HOP * first : HOP * (stop - 1) + WINDOW])), None
        ),
        lambda found, _: mfcc.with_deltas(found),
    ),
    "mel": Spectrum(
        layerwise_mel.PRESET.mels, 0.0, 1, layerwise_mel.digest, layerwise_mel.frames,
        layerwise_mel.magnitudes,
        lambda found, peaks: layerwise_mel.decibels(found, max(peaks)),
    ),
}  # fmt: skip


class SpectrumExtractor(Extractor):
    """MFCC or the mel spectrum of whole recordings, on all cores."""

    def __init__(self, name: str):
        self._spectrum = SPECTRA[name]
        self.taps = {name: self._spectrum.width}
        self.stride, self.receptive_field = HOP, self._spectrum.shortest
        self.description = {
            "extractor": name, "source": name, "digest": self._spectrum.digest(),
            "normalize": False,
        }  # fmt: skip

    def frames(self, samples: Any) -> Any:
        return self._spectrum.frames(samples)

    def times(self, frames: int) -> np.ndarray:
        return (np.arange(frames) * HOP + self._spectrum.middle) / SAMPLE_RATE

    def parts(self, recordings: Iterable[Audio]) -> Iterator[Part | tuple[int, AudioError]]:
        """Whole recordings in their order, of which a few are in memory."""
        cores = os.cpu_count() or 1
        with ThreadPoolExecutor(cores) as threads:
            pending: deque = deque()
            for i, audio in enumerate(recordings):
                pending.append(threads.submit(self._part, i, audio))
                if len(pending) > cores:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _part(self, i: int, audio: Audio) -> Part | tuple[int, AudioError]:
        (name,) = self.taps
        try:
            total = int(self.frames(len(audio)))
            if not total:
                return Part(i, 0, 0, {name: np.zeros((0, self.taps[name]), np.float32)})
            stops = [min(first + CHUNK, total) for first in range(0, total, CHUNK)]
            found = [
                self._spectrum.part(audio, first, stop)
                for first, stop in zip(range(0, total, CHUNK), stops, strict=True)
            ]
        except AudioError as error:
            return i, error
        whole = np.concatenate([x.astype(np.float32) for x, _ in found])
        numbers = [number for _, number in found]
        return Part(i, 0, total, {name: self._spectrum.whole(whole, numbers)})
