"""From audio to the letter probabilities of a CTC model, and to its greedy text."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, Recording
from w2v_jax.decoding.greedy import best_path, greedy_text
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.text.alphabet import Alphabet

WINDOW_SECONDS = 30.0  # longer audio is cut into windows of this length
CONTEXT_SECONDS = 2.0  # which overlap by twice this much; its frames come from the neighbour


@dataclasses.dataclass(frozen=True)
class _Window:
    """A part of a recording, and which of its frames count: left..right, to the end if None."""

    audio: np.ndarray
    left: int
    right: int | None

    @property
    def last(self) -> bool:
        return self.right is None


def alone(config: EncoderConfig) -> EncoderConfig:
    """The encoder as it hears an utterance by itself: published models are scored one at a time,
    without any padding; ours, which pads for the sake of the shapes, equals that only where padding
    does not leak."""
    return dataclasses.replace(config, padding_leaks=False, frontend=config.frontend.alone())


class Recognizer:
    """A CTC model and its alphabet. One compiled program per batch shape."""

    def __init__(self, config: EncoderConfig, alphabet: Alphabet, *, sharding=None):
        """sharding: of the result where the parameters live on a mesh (replicated)."""
        self.config, self.alphabet = config, alphabet
        model = CTCModel(alone(config), len(alphabet))

        def ids(variables, audio, length):
            logits, frames = model.apply(variables, audio, length)
            return logits.argmax(-1).astype(jnp.int32), frames

        def log_probs(variables, audio, length):
            logits, frames = model.apply(variables, audio, length)
            return jax.nn.log_softmax(logits), frames

        self._ids = jax.jit(ids, out_shardings=sharding)
        self._log_probs = jax.jit(log_probs, out_shardings=sharding)
        # of several processes each has a part of what it is given, and needs all of it
        self._whole = jax.jit(lambda x: x, out_shardings=sharding)

    @property
    def seconds_per_frame(self) -> float:
        return self.config.context_stride / SAMPLE_RATE

    def texts(self, variables: Any, batches: Iterable[tuple[dict, float]]) -> dict[int, str]:
        """{item: greedy text} of evaluation batches [1, B, ...]; rows with id -1 are left out.

        Letters are chosen on the device: a few bytes per frame come back.
        """
        return {
            item: self.alphabet.decode(best_path(ids, len(ids)))
            for item, ids in self._rows(self._ids, variables, batches)
        }

    def emissions(
        self, variables: Any, batches: Iterable[tuple[dict, float]]
    ) -> dict[int, np.ndarray]:
        """{item: ln p float32 [T, V]} of the same batches."""
        return dict(self._rows(self._log_probs, variables, batches))

    def _rows(self, model, variables, batches) -> Iterator[tuple[int, np.ndarray]]:
        for batch, _ in batches:
            found = model(variables, batch["audio"][0], batch["length"][0])
            found, frames = jax.device_get(found)
            items = jax.device_get(self._whole(batch["id"][0]))
            for item, row, count in zip(items, found, frames, strict=True):
                if item >= 0:
                    yield int(item), row[:count].copy()  # not a view of the whole batch

    def log_probs(self, variables: Any, audio: np.ndarray | Recording) -> np.ndarray:
        """ln p float32 [T, V] of one recording of any length, of int16 samples.

        Too short to give a frame: T = 0. Raises AudioError.
        """
        (found,) = self.recordings(variables, [audio])
        if isinstance(found, AudioError):
            raise found
        return found

    def text(self, variables: Any, audio: np.ndarray | Recording) -> str:
        """The greedy text of one recording."""
        return greedy_text(self.log_probs(variables, audio), self.alphabet)

    def recordings(
        self, variables: Any, recordings: Iterable[np.ndarray | Recording], rows: int = 1
    ) -> Iterator[np.ndarray | AudioError]:
        """ln p of each recording in turn, or why it could not be read.

        Those longer than WINDOW_SECONDS are cut into windows whose logits are joined. `rows`
        windows, of one or several recordings, are computed together; no more than these and the
        result of one recording are in memory.
        """
        parts: list[np.ndarray] = []
        windows = (window for audio in recordings for window in self._windows(audio))
        while batch := list(itertools.islice(windows, rows)):
            audible = [window for window in batch if isinstance(window, _Window)]
            computed = iter(self._compute(variables, audible, rows))
            for window in batch:
                if isinstance(window, AudioError):
                    parts = []
                    yield window
                    continue
                parts.append(next(computed)[window.left : window.right])
                if window.last:
                    yield np.concatenate(parts)
                    parts = []

    def _windows(self, audio: np.ndarray | Recording) -> Iterator[_Window | AudioError]:
        stride = self.config.context_stride
        window = round(WINDOW_SECONDS * SAMPLE_RATE / stride) * stride
        context = round(CONTEXT_SECONDS * SAMPLE_RATE / stride) * stride
        try:
            for start in itertools.count(0, window - 2 * context):
                last = start + window >= len(audio)
                yield _Window(
                    np.asarray(audio[start : start + window]),
                    context // stride if start else 0,
                    None if last else (window - context) // stride,
                )
                if last:
                    return
        except AudioError as error:
            yield error

    def _compute(self, variables: Any, windows: list[_Window], rows: int) -> Iterator[np.ndarray]:
        """ln p [T, V] of each window."""
        if not windows:
            return
        # padded up to whole seconds, and to all rows, so that few shapes are compiled
        longest = max(len(window.audio) for window in windows)
        longest = max(longest, self.config.frontend.receptive_field)  # a frame at least
        size = max(-(-longest // SAMPLE_RATE), 1) * SAMPLE_RATE
        audio, length = np.zeros((rows, size), np.int16), np.zeros(rows, np.int32)
        for row, window in enumerate(windows):
            audio[row, : len(window.audio)] = window.audio
            length[row] = len(window.audio)
        found, frames = jax.device_get(self._log_probs(variables, audio, length))
        for row in range(len(windows)):
            yield found[row, : max(int(frames[row]), 0)]
