"""Features of the layers of a model: batches of windows, each as if it were alone."""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from w2v_jax.analysis.ahead import one_ahead
from w2v_jax.analysis.extractor import Audio, Extractor, Part
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.training.digest import path_name
from w2v_jax.training.sharding import BATCH_AXES, replicated, shards_of_batch
from w2v_jax.training.state import on_mesh

WINDOW_SECONDS = 100.0  # longer audio is cut into windows of this length (fairseq: chunks of 100 s)
CONTEXT_SECONDS = 2.0  # which overlap by twice this much; its frames come from the neighbour
STEPS = 4  # lengths of batches to a doubling: so few programs are compiled, so little is padding
POOL = 4  # batches' worth of audio that is sorted by length


def random_variables(encoder: EncoderConfig, seed: int) -> dict[str, Any]:
    """Those of an encoder that has learnt nothing, as NumPy arrays."""
    audio = jnp.zeros((1, 2 * encoder.frontend.receptive_field), jnp.int16)
    init = jax.jit(lambda key: nn.meta.unbox(Encoder(encoder).init(key, audio)))
    return jax.device_get(init(jax.random.key(seed)))


def digest(variables: Any, encoder: EncoderConfig) -> str:
    """sha256 of all arrays and of what the encoder is."""
    found = hashlib.sha256(json.dumps(encoder.to_dict(), sort_keys=True).encode())
    for path, x in sorted(
        (path_name(path), x) for path, x in jax.tree_util.tree_leaves_with_path(variables)
    ):
        found.update(f"{path} {x.dtype} {x.shape}".encode())
        found.update(np.ascontiguousarray(x).data)
    return found.hexdigest()


class _Window(NamedTuple):
    """A part of a recording, and which of its frames count: left..right."""

    recording: int
    audio: Audio
    start: int  # sample
    samples: int
    left: int
    right: int
    first: int  # which frame of the recording `left` is
    total: int


def _read(window: _Window | tuple[int, AudioError]) -> np.ndarray | AudioError:
    if not isinstance(window, _Window):
        return window[1]
    try:
        return np.asarray(window.audio[window.start : window.start + window.samples])
    except AudioError as error:
        return error


class ModelExtractor(Extractor):
    """The encoder of a model. One compiled program per batch shape."""

    def __init__(
        self,
        encoder: EncoderConfig,
        variables: Any,
        taps: Mapping[str, int],
        *,
        mesh: Mesh,
        batch_seconds: float = WINDOW_SECONDS,
    ):
        """variables: of the encoder alone, as NumPy arrays. taps: of `encoder.tap_widths`."""
        self.taps, self.encoder = dict(taps), encoder
        frontend = encoder.frontend
        self.stride, self.receptive_field = frontend.stride, frontend.receptive_field
        self.description = {
            "extractor": "model",
            "digest": digest(variables, encoder),
            "normalize": getattr(frontend, "normalize", getattr(frontend, "normalization", None)),
        }
        self._mesh, self._shards = mesh, shards_of_batch(mesh)
        self._rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
        self._variables = jax.device_put(variables, replicated(mesh))
        self._window = round(WINDOW_SECONDS * SAMPLE_RATE / self.stride) * self.stride
        self._context = round(CONTEXT_SECONDS * SAMPLE_RATE / self.stride) * self.stride
        self._batch = max(round(batch_seconds * SAMPLE_RATE), self._window)
        self._run = on_mesh(jax.jit(functools.partial(extract, alone(encoder), tuple(taps))), mesh)

    def frames(self, samples: Any) -> Any:
        return self.encoder.frontend.frames(samples)

    def times(self, frames: int) -> np.ndarray:
        return (np.arange(frames) * self.stride + self.encoder.frontend.middle) / SAMPLE_RATE

    def parts(self, recordings: Iterable[Audio]) -> Iterator[Part | tuple[int, AudioError]]:
        lost: set[int] = set()  # recordings of which nothing more is to come
        windows = self._windows(recordings, lost)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            pools = iter(lambda: list(self._pool(windows)), [])
            read = ([(x, threads.submit(_read, x)) for x in pool] for pool in pools)
            for pool in one_ahead(read):
                heard = []
                for window, samples in ((x, future.result()) for x, future in pool):
                    if isinstance(samples, np.ndarray):
                        heard.append((window, samples))
                    elif window[0] not in lost:
                        lost.add(window[0])
                        yield window[0], samples
                yield from self._computed([x for x in heard if x[0].recording not in lost])

    def _pool(self, windows: Iterator) -> Iterator[_Window | tuple[int, AudioError]]:
        """The next of them that are POOL batches together."""
        samples = 0
        for window in windows:
            yield window
            size = window.samples if isinstance(window, _Window) else 0
            samples += max(size, SAMPLE_RATE)  # not endlessly many of nothing
            if samples + self._window > POOL * self._batch:
                return

    def _windows(
        self, recordings: Iterable[Audio], lost: Container[int] = ()
    ) -> Iterator[_Window | tuple[int, AudioError]]:
        stride, window, context = self.stride, self._window, self._context
        for i, audio in enumerate(recordings):
            try:
                size = len(audio)
            except AudioError as error:
                yield i, error
                continue
            total = int(self.frames(size))
            for start in itertools.count(0, window - 2 * context):
                first, last = start // stride, start + window >= size
                left = context // stride if start else 0
                right = total - first if last else (window - context) // stride
                samples = min(window, size - start)
                yield _Window(i, audio, start, samples, left, right, first + left, total)
                if last or i in lost:
                    break

    def _computed(self, heard: list[tuple[_Window, np.ndarray]]) -> Iterator[Part]:
        """One batch is computed while the one before goes to its place."""
        pending: deque[tuple[list[_Window], Any]] = deque()
        for batch in self._batches(heard):
            windows = [window for window, _ in batch]
            pending.append((windows, self._run(self._variables, *self._padded(batch))))
            if len(pending) > 1:
                yield from self._split(*pending.popleft())
        for windows, found in pending:
            yield from self._split(windows, found)

    def _split(self, windows: list[_Window], found: Any) -> Iterator[Part]:
        found = jax.device_get(found)
        for row, window in enumerate(windows):
            kept = slice(window.left, window.right)
            arrays = {tap: found[tap][row, kept].copy() for tap in self.taps}
            yield Part(window.recording, window.first, window.total, arrays)

    def _batches(self, heard: list[tuple[_Window, np.ndarray]]) -> Iterator[list]:
        """By length, the longest first, as many as a batch takes of that length."""
        heard = sorted(heard, key=lambda x: -x[0].samples)
        while heard:
            rows = self._most_rows(self._padded_length(heard[0][0].samples))
            yield heard[:rows]
            heard = heard[rows:]

    def _most_rows(self, size: int) -> int:
        """Of a batch whose rows have that many samples."""
        return max(self._batch // size // self._shards, 1) * self._shards

    def _padded_length(self, samples: int) -> int:
        """The next of STEPS lengths per doubling, so that few are compiled."""
        samples = max(samples, self.receptive_field, SAMPLE_RATE)
        halvings = math.floor(STEPS * math.log2(self._window / samples) + 1e-9)
        return max(math.ceil(self._window * 2 ** (-halvings / STEPS)), samples)

    def _padded(self, batch: list[tuple[_Window, np.ndarray]]) -> tuple[jax.Array, jax.Array]:
        """(audio int16 [B, S], length int32 [B]), cut over the devices."""
        size = self._padded_length(batch[0][0].samples)
        doublings = math.ceil(math.log2(max(len(batch) / self._shards, 1)))
        rows = min(self._most_rows(size), self._shards * 2**doublings)
        audio, length = np.zeros((rows, size), np.int16), np.zeros(rows, np.int32)
        for row, (_, samples) in enumerate(batch):
            audio[row, : len(samples)] = samples
            length[row] = len(samples)
        return jax.device_put((audio, length), self._rows)


def alone(encoder: EncoderConfig) -> EncoderConfig:
    """The encoder as one that hears every row of a batch as if there were no other."""
    return dataclasses.replace(encoder, padding_leaks=False, frontend=encoder.frontend.alone())


def extract(
    encoder: EncoderConfig, taps: Sequence[str], variables: Any, audio: jax.Array, length: jax.Array
) -> dict[str, jax.Array]:
    """tap -> float32 [B, T, width]; audio int16 [B, S], length int32 [B]."""
    found = Encoder(encoder).apply(variables, audio, length, taps=taps).taps
    inner = encoder.frontend.taps
    return {
        tap: (encoder.frontend.pooled(tap, x, length) if tap in inner else x).astype(jnp.float32)
        for tap, x in found.items()
    }
