"""Reads the rows of a batch; needs neither JAX nor grain, so that worker processes are light."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.data.augmentation import Augmentation
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.plan import BatchSpec
from w2v_jax.data.sharing import Ragged
from w2v_jax.errors import UserError

log = logging.getLogger(__name__)
Problem = tuple[str, int, str]  # what ("audio", "noise", "reverb"), which item, why


def own_rows(spec: BatchSpec, accumulation: int, parts: Sequence[int], of: int) -> np.ndarray:
    """Which rows of a batch stand where in the arrays of this process, int64 [A, B]: of every
    micro-batch, cut into `of` equal parts, those in `parts`."""
    rows = np.arange(len(spec.places)).reshape(accumulation, of, -1)[:, list(parts)]
    return rows.reshape(accumulation, -1)


def batch_arrays(
    shape: tuple[int, int], samples: int, label_width: int | None = None
) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, type)} of the arrays of a batch with `shape` = (A, B) rows; see `Loader`."""
    arrays = {"audio": ((*shape, samples), np.int16)}
    arrays |= {"length": (shape, np.int32), "id": (shape, np.int32)}
    if label_width is not None:
        arrays["labels"] = ((*shape, label_width), np.int32)
        arrays["label_length"] = (shape, np.int32)
    return arrays


@dataclasses.dataclass
class Loader:
    """Reads those rows of a BatchSpec that belong to this process.

    A batch is a dict of arrays [A, B, ...]: audio int16 [A, B, S], length int32 [A, B] (samples),
    id int32 [A, B] (item, -1 fills up) and, with labels, labels int32 [A, B, L] (0 beyond the end)
    and label_length int32 [A, B]. It is a function of the spec and of the files alone, whoever
    reads it.
    """

    corpus: Corpus
    seed: int
    accumulation: int = 1
    crop: bool = True  # take a random part of `samples`; otherwise the whole item, padded
    labels: Ragged | None = None
    augmentation: Augmentation | None = None
    replace_bad: bool = True  # by another item of the bucket; False leaves the row out (id -1)
    max_bad_share: float = 0.05  # of unreadable items before a UserError
    parts: tuple[int, ...] = (0,)  # of the rows of a micro-batch, cut into `of` equal parts, those
    of: int = 1  # that this process reads

    def __post_init__(self):
        self.bad: dict[tuple[str, int], str] = {}
        longest = int(self.labels.sizes.max(initial=1)) if self.labels else 1
        self._label_width = -(-longest // 8) * 8

    def __call__(self, spec: BatchSpec) -> dict[str, np.ndarray]:
        """The batch; what could not be read is noted."""
        batch, problems = self.load(spec)
        self.note(problems)
        return batch

    def load(self, spec: BatchSpec) -> tuple[dict[str, np.ndarray], list[Problem]]:
        """The batch and what could not be read for it; changes nothing here."""
        index = own_rows(spec, self.accumulation, self.parts, self.of)
        shape = index.shape
        width = None if self.labels is None else self._label_width
        batch = {
            name: np.zeros(size, kind)
            for name, (size, kind) in batch_arrays(shape, spec.samples, width).items()
        }
        batch["id"][:] = -1
        problems: list[Problem] = []
        for place, row in np.ndenumerate(index):
            if spec.places[row] < 0:
                continue
            item, audio = self._item(spec, int(row), problems)
            if audio is None:
                continue
            batch["audio"][place][: len(audio)] = audio
            batch["length"][place] = len(audio)
            batch["id"][place] = item
            if self.labels is not None:
                label = self.labels[item]
                batch["labels"][place][: len(label)] = label
                batch["label_length"][place] = len(label)
        return batch, problems

    def _item(
        self, spec: BatchSpec, row: int, problems: list[Problem]
    ) -> tuple[int, np.ndarray | None]:
        """The item and its audio. One that cannot be read is replaced by the next of its bucket and
        source, or, without `replace_bad`, has no audio."""
        bucket, place = spec.bucket, int(spec.places[row])
        item = -1
        for number in range(len(bucket.items) if self.replace_bad else 1):
            item = int(bucket.items[bucket.stand_in(place, number)])
            try:
                return item, self._audio(spec, row, item, problems)
            except AudioError as error:
                problems.append(("audio", item, str(error)))
            if len(problems) > self.max_bad_share * len(self.corpus):
                break  # the run is about to stop: no need to try them all
        return item, None

    def _audio(self, spec: BatchSpec, row: int, item: int, problems: list[Problem]) -> np.ndarray:
        size = self.corpus.length(item)
        speed = 1.0
        if self.augmentation is not None:
            speed = self.augmentation.speed(spec.step, item)
        start = 0
        if self.crop:
            # a faster crop needs more of the item, as far as there is more
            wanted, count = min(round(spec.samples * speed), size), spec.samples
            rng = np.random.default_rng([self.seed, 3, spec.step, row])
            start = int(rng.integers(size - wanted + 1))
        else:
            # a slower utterance must still fit its bucket
            wanted, count = size, min(round(size / speed), spec.samples)
        audio = self.corpus.audio(item, start, wanted)
        if self.augmentation is not None:
            audio, bad = self.augmentation(audio, count, spec.step, item)
            problems += bad
        return audio

    def note(self, problems: Sequence[Problem]) -> None:
        """Counts and names what could not be read, once each. Raises UserError beyond
        `max_bad_share`."""
        for kind, item, reason in problems:
            if (kind, item) in self.bad:
                continue
            self.bad[kind, item] = reason
            done = "left out" if kind != "audio" or not self.replace_bad else "replaced"
            log.warning("%s: %s", done, reason)
            count = sum(k == kind for k, _ in self.bad)
            total = len(self.corpus if kind == "audio" else self.augmentation.recordings[kind])
            if count > self.max_bad_share * total:
                raise UserError(
                    f"{count} of {total} audio files cannot be read, last: {reason}. "
                    "Run prepare again, or raise max_bad_share"
                )

    def for_workers(self, count: int) -> "Loader":
        """The loader of each of `count` worker processes: they share the cache between them."""
        corpus = self.corpus.with_cache(self.corpus.cache_bytes // count)
        return dataclasses.replace(self, corpus=corpus)

    @property
    def meta(self) -> dict[str, str]:
        """What must be the same when a run continues."""
        return {"training manifest": self.corpus.digest}

    def metrics(self) -> dict[str, float]:
        """Scalars for the log: how many files could not be read since the start of this process."""
        return {"data/unreadable": float(len(self.bad))}

    def amount(self, spec: BatchSpec) -> float:
        """Seconds of speech in a batch of all processes, padding not counted."""
        if self.crop:
            return len(spec.places) * spec.samples / SAMPLE_RATE
        return sum(self.corpus.length(int(i)) for i in spec.items if i >= 0) / SAMPLE_RATE
