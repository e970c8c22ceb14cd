"""From a manifest to global device arrays, through grain: batch = f(seed, step)."""

import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, read
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.plan import BatchSpec, Groups, concatenation
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet, TextError

log = logging.getLogger(__name__)
MAX_NAMED = 20  # transcripts left out that are named one by one


class Corpus:
    """Items that can be read by index: an utterance each, or a few short ones put end to end."""

    def __init__(
        self,
        manifest: Manifest,
        groups: Groups | None = None,
        *,
        cache_bytes: int = 0,
    ):
        self.manifest = manifest
        self._groups = groups
        if groups is None:
            self.lengths = manifest.samples
        else:
            self.lengths = groups.sums(manifest.samples)
        self._cache: dict[int, np.ndarray] = {}
        self._room = cache_bytes
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.lengths)

    def _read(self, row: int, start: int, count: int) -> np.ndarray:
        cached = self._cache.get(row)
        if cached is None:
            size, first = int(self.manifest.samples[row]), int(self.manifest.starts[row])
            if 2 * size > self._room:
                return read(self.manifest.path(row), first + start, count)
            cached = read(self.manifest.path(row), first, size)
            with self._lock:
                if row not in self._cache and cached.nbytes <= self._room:
                    self._cache[row] = cached
                    self._room -= cached.nbytes
        return cached[start : start + count]

    def audio(self, item: int, start: int, count: int) -> np.ndarray:
        """int16 [count] from sample `start` of the item. Raises AudioError."""
        if self._groups is None:
            return self._read(item, start, count)
        parts = []
        for row in self._groups[item]:
            size = int(self.manifest.samples[row])
            if start < size and count > 0:
                parts.append(self._read(row, start, min(count, size - start)))
                count -= len(parts[-1])
            start = max(start - size, 0)
        return np.concatenate(parts)


def concatenated(manifest: Manifest, target: int, *, seed: int, cache_bytes: int = 0) -> Corpus:
    """A corpus whose items are short utterances of one speaker joined up to `target` samples."""
    groups = concatenation(manifest.samples, manifest.speakers.codes, target, seed=seed)
    return Corpus(manifest, groups, cache_bytes=cache_bytes)


def transcribed(manifest: Manifest, alphabet: Alphabet) -> tuple[Manifest, list[np.ndarray]]:
    """The rows whose transcript the alphabet can write, and their labels.

    The others are counted and named in the log, the first with the reason. Raises UserError where
    none is left.
    """
    keep, labels, bad = [], [], []
    for row, text in enumerate(manifest.texts):
        try:
            labels.append(alphabet.encode(text))
            keep.append(row)
        except TextError as error:
            bad.append(f"{manifest.path(row)}: {error}")
    if bad:
        log.warning("%d of %d transcripts are left out:", len(bad), len(manifest))
        for line in bad[:MAX_NAMED]:
            log.warning("  %s", line)
        if len(bad) > MAX_NAMED:
            log.warning("  and %d more", len(bad) - MAX_NAMED)
    if not keep:
        reason = f"; first: {bad[0]}" if bad else ""
        raise UserError(f"none of {len(manifest)} utterances has a usable transcript{reason}")
    return manifest.select(np.array(keep)), labels


@dataclasses.dataclass
class Loader:
    """Reads the rows of a BatchSpec that belong to this process.

    A batch is a dict of arrays [A, B, ...]: audio int16 [A, B, S], length int32 [A, B] (samples),
    id int32 [A, B] (item, -1 fills up) and, with labels, labels int32 [A, B, L] (0 beyond the end)
    and label_length int32 [A, B].
    """

    corpus: Corpus
    seed: int
    accumulation: int = 1
    crop: bool = True  # take a random part of `samples`; otherwise the whole item, padded
    labels: Sequence[np.ndarray] | None = None
    replace_bad: bool = True  # by another item of the bucket; False leaves the row out (id -1)
    max_bad_share: float = 0.05  # of unreadable items before a UserError
    process: int = 0
    processes: int = 1

    def __post_init__(self):
        self.bad: dict[int, str] = {}
        longest = max((len(label) for label in self.labels), default=1) if self.labels else 1
        self._label_width = -(-longest // 8) * 8

    def __call__(self, spec: BatchSpec) -> dict[str, np.ndarray]:
        rows = len(spec.items)
        index = np.arange(rows).reshape(self.accumulation, self.processes, -1)[:, self.process]
        shape = index.shape
        batch = {
            "audio": np.zeros((*shape, spec.samples), np.int16),
            "length": np.zeros(shape, np.int32),
            "id": np.full(shape, -1, np.int32),
        }
        if self.labels is not None:
            batch["labels"] = np.zeros((*shape, self._label_width), np.int32)
            batch["label_length"] = np.zeros(shape, np.int32)
        for place, row in np.ndenumerate(index):
            if spec.items[row] < 0:
                continue
            item, audio = self._item(spec, int(row))
            if audio is None:
                continue
            batch["audio"][place][: len(audio)] = audio
            batch["length"][place] = len(audio)
            batch["id"][place] = item
            if self.labels is not None:
                label = self.labels[item]
                batch["labels"][place][: len(label)] = label
                batch["label_length"][place] = len(label)
        return batch

    def _item(self, spec: BatchSpec, row: int) -> tuple[int, np.ndarray | None]:
        """The item and its audio. One that cannot be read is replaced by the next of its bucket,
        or, without `replace_bad`, has no audio."""
        items = spec.bucket.items
        first = int(spec.items[row])
        place = int(np.searchsorted(items, first))
        for offset in range(len(items) if self.replace_bad else 1):
            item = int(items[(place + offset) % len(items)])
            count = int(self.corpus.lengths[item])
            start = 0
            if self.crop:
                spare = count - spec.samples
                start = int(
                    np.random.default_rng([self.seed, 3, spec.step, row]).integers(spare + 1)
                )
                count = spec.samples
            try:
                return item, self.corpus.audio(item, start, count)
            except AudioError as error:
                self._report(item, error)
        return first, None

    def _report(self, item: int, error: AudioError) -> None:
        if item in self.bad:
            return
        self.bad[item] = str(error)
        log.warning("%s: %s", "replaced" if self.replace_bad else "left out", error)
        share = len(self.bad) / len(self.corpus)
        if share > self.max_bad_share:
            raise UserError(
                f"{len(self.bad)} of {len(self.corpus)} audio files cannot be read, last: {error}. "
                "Run prepare again, or raise max_bad_share"
            )


def audio_seconds(spec: BatchSpec, corpus: Corpus, crop: bool) -> float:
    """Seconds of speech in a batch, padding not counted."""
    if crop:
        return len(spec.items) * spec.samples / SAMPLE_RATE
    return float(corpus.lengths[spec.items[spec.items >= 0]].sum()) / SAMPLE_RATE


def iterate(
    specs: Any, loader: Loader, *, start: int = 0, threads: int = 2, sharding=None
) -> Iterator[tuple[dict[str, Any], float]]:
    """Yields (batch, seconds of audio) of specs[start], specs[start + 1], ...

    specs: a BatchPlan or a list of BatchSpec. With `sharding` the batch consists of global
    jax.Arrays, put on the devices one batch ahead; without, of NumPy arrays.
    """

    def load(spec: BatchSpec):
        return loader(spec), audio_seconds(spec, loader.corpus, loader.crop)

    dataset = grain.MapDataset.source(specs).map(load)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(dataset.to_iter_dataset(options))
    iterator.set_state({"next_index": start})

    def put(item):
        batch, seconds = item
        if sharding is None:
            return batch, seconds
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }, seconds

    previous = None
    for item in iterator:
        current = put(item)
        if previous is not None:
            yield previous
        previous = current
    if previous is not None:
        yield previous


def check_rows(buckets, parts: int, accumulation: int) -> None:
    """Raises UserError where a bucket's rows cannot be cut into equal parts."""
    for bucket in buckets:
        if bucket.rows % (parts * accumulation):
            raise UserError(
                f"{bucket.rows} rows of {bucket.samples / SAMPLE_RATE:g} s are not divisible by "
                f"accumulation * data * fsdp = {accumulation} * {parts}; set "
                f"--config.data.row_multiple={parts * accumulation}"
            )
