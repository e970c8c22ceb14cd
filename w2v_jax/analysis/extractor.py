"""What makes features of audio, whatever they are."""

import abc
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.audio.waveform import AudioError, Recording, samples_of
from w2v_jax.data.sources import Row

Audio = np.ndarray | Recording | Row  # int16 samples at 16 kHz, in memory or in a file


class Features(NamedTuple):
    """Of one recording."""

    arrays: dict[str, np.ndarray]  # tap -> float32 [T, width]
    times: np.ndarray  # float64 [T], seconds of the middle of what every frame sees


class Part(NamedTuple):
    """Some frames of one of several recordings."""

    recording: int  # which of them, from 0 on
    first: int  # the first of these frames
    total: int  # frames of the recording
    arrays: dict[str, np.ndarray]  # tap -> float32 [frames, width]


class Extractor(abc.ABC):
    """Of a model, or of none."""

    taps: dict[str, int]  # name -> width
    stride: int  # samples from one frame to the next
    receptive_field: int  # samples without which there is no frame
    description: dict[str, Any]  # JSON: what the features are of; `digest` tells two of them apart

    @abc.abstractmethod
    def frames(self, samples: Any) -> Any:
        """Frames of `samples`, an int or array."""

    @abc.abstractmethod
    def times(self, frames: int) -> np.ndarray:
        """Seconds float64 [frames] of the middle of what every frame sees."""

    @abc.abstractmethod
    def parts(self, recordings: Iterable[Audio]) -> Iterator[Part | tuple[int, AudioError]]:
        """All frames of all recordings in any order, or which could not be read and why: nothing of
        it comes after that, some may have before. Memory depends on no number of them, and with a
        model on no length."""

    def many(self, recordings: Iterable[Any]) -> Iterator[Features | AudioError]:
        """Of each in turn, or why it could not be read; of one without a frame T is 0.

        recordings: `Audio`, or what calling takes. Raises UserError for what is none of these.
        """
        waiting: dict[int, list[Part] | AudioError] = {}
        turn = 0
        for part in self.parts(map(_audio, recordings)):
            if isinstance(part, Part):
                waiting.setdefault(part.recording, []).append(part)
            else:
                waiting[part[0]] = part[1]
            while turn in waiting and (found := self._joined(waiting[turn])) is not None:
                del waiting[turn]
                turn += 1
                yield found

    def _joined(self, parts: list[Part] | AudioError) -> Features | AudioError | None:
        """None while some are missing."""
        if isinstance(parts, AudioError):
            return parts
        total = parts[0].total
        if sum(len(part.arrays[next(iter(self.taps))]) for part in parts) < total:
            return None
        parts = sorted(parts, key=lambda part: part.first)
        arrays = {tap: np.concatenate([part.arrays[tap] for part in parts]) for tap in self.taps}
        return Features(arrays, self.times(total))

    def __call__(self, audio: np.ndarray | str | os.PathLike) -> Features:
        """Of a file, or of samples at 16 kHz, int16 or float of +-1. Raises UserError for what is
        neither, AudioError for a file that cannot be read."""
        (found,) = self.many([audio])
        if isinstance(found, AudioError):
            raise found
        return found


class _Unreadable:
    """What fails as soon as it is to be heard, as a file that cannot be read does."""

    def __init__(self, error: AudioError):
        self._error = error

    def __len__(self) -> int:
        raise self._error


def _audio(given: Any) -> Any:
    """`Audio` of a file, or of samples of other types. Raises UserError for what is neither."""
    if isinstance(given, Recording | Row):
        return given
    if isinstance(given, str | os.PathLike):
        return Recording(given)
    try:
        return samples_of(given)
    except AudioError as error:
        return _Unreadable(error)
