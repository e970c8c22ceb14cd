"""Reads the rows of a batch; needs neither JAX nor grain, so that worker processes are light."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    rows = np.arange(len(spec.slots)).reshape(accumulation, of, -1)[:, list(parts)]
    return rows.reshape(accumulation, -1)


class Track(NamedTuple):
    """What travels with the audio: integers of every row of a corpus, its rows counted through the
    sources."""

    values: Ragged
    rate: float | None  # values per second, cropped with the audio; None: whole (a transcript)


def batch_arrays(
    shape: tuple[int, int],
    samples: int,
    widths: Mapping[str, int] | None = None,
    rates: Mapping[str, float] | None = None,
    views: Sequence[str] = ("audio",),
) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, type)} of the arrays of a batch with `shape` = (A, B) rows; see `Loader`.

    widths: of the whole tracks, values; rates: of the others, values per second.
    """
    arrays = dict.fromkeys(views, ((*shape, samples), np.int16))
    arrays |= {"length": (shape, np.int32), "id": (shape, np.int32)}
    for name, width in (widths or {}).items():
        arrays |= {name: ((*shape, width), np.int32), f"{name}_length": (shape, np.int32)}
    for name, rate in (rates or {}).items():
        arrays[name] = ((*shape, int(samples * rate) // SAMPLE_RATE), np.int32)
    return arrays


@dataclasses.dataclass
class Loader:
    """Reads those rows of a BatchSpec that belong to this process.

    A batch is a dict of arrays [A, B, ...]: an int16 [A, B, S] for every view (`audio`), length
    int32 [A, B] (samples), id int32 [A, B] (item, -1 fills up). A whole track NAME gives NAME int32
    [A, B, L] (0 beyond the end) and NAME_length int32 [A, B]; a track with a rate NAME int32
    [A, B, S rate / 16000], -1 where it has no value. The batch is a function of the spec and of
    the files alone, whoever reads it. Raises UserError for tracks that cannot be cropped.
    """

    corpus: Corpus
    seed: int
    accumulation: int = 1
    crop: bool = True  # take a random part of `samples`; otherwise the whole item, padded
    grid: int = 1  # crops start at multiples of this many samples: where a frame starts
    tracks: Mapping[str, Track] = dataclasses.field(default_factory=dict)
    # the same crop, augmented in different ways
    views: Mapping[str, Augmentation | None] = dataclasses.field(
        default_factory=lambda: {"audio": None}
    )
    replace_bad: bool = True  # by another item of the bucket; False leaves the row out (id -1)
    max_bad_share: float = 0.05  # of unreadable items before a UserError
    parts: tuple[int, ...] = (0,)  # of the rows of a micro-batch, cut into `of` equal parts, those
    of: int = 1  # that this process reads

    def __post_init__(self):
        self.bad: dict[tuple[str, int], str] = {}
        self._widths, self._rates = {}, {}
        for name, track in self.tracks.items():
            if track.rate is None:
                longest = int(self.corpus.summed(track.values.sizes).max(initial=1))
                self._widths[name] = -(-longest // 8) * 8
            else:
                self._check_rate(name, track.rate)
                self._rates[name] = track.rate

    def _check_rate(self, name: str, rate: float) -> None:
        period = SAMPLE_RATE / rate
        joined = 0 if self.corpus.groups is None else self.corpus.grid
        if period != int(period) or self.grid % int(period) or joined % int(period):
            raise UserError(
                f"the track {name} has {rate:g} values per second, one in {period:g} samples; "
                f"crops start at multiples of {self.grid} samples and joined rows have multiples "
                f"of {self.corpus.grid}, which that must divide"
            )
        for augmentation in self.views.values():
            if augmentation is not None and augmentation.changes_speed:
                raise UserError(
                    f"the track {name} has a value for every {period:g} samples, which a change of "
                    "speed would move; set --config.data.augment.speed_prob=0"
                )

    def __call__(self, spec: BatchSpec) -> dict[str, np.ndarray]:
        """The batch; what could not be read is noted."""
        batch, problems = self.load(spec)
        self.note(problems)
        return batch

    def load(self, spec: BatchSpec) -> tuple[dict[str, np.ndarray], list[Problem]]:
        """The batch and what could not be read for it; changes nothing here."""
        index = own_rows(spec, self.accumulation, self.parts, self.of)
        arrays = batch_arrays(index.shape, spec.samples, self._widths, self._rates, [*self.views])
        batch = {name: np.zeros(*array) for name, array in arrays.items()}
        batch["id"][:] = -1
        for name in self._rates:
            batch[name][:] = -1
        problems: list[Problem] = []
        for at, row in np.ndenumerate(index):
            if spec.slots[row] < 0:
                continue
            item, start, views = self._item(spec, int(row), problems)
            if views is None:
                continue
            for name, audio in views.items():
                batch[name][at][: len(audio)] = audio
            batch["length"][at] = len(next(iter(views.values())))
            batch["id"][at] = item
            for name, track in self.tracks.items():
                values = self._values(track, item, start, batch["length"][at])
                batch[name][at][: len(values)] = values
                if track.rate is None:
                    batch[f"{name}_length"][at] = len(values)
        return batch, problems

    def _values(self, track: Track, item: int, start: int, count: int) -> np.ndarray:
        """Those of a track that belong to `count` samples of an item from `start` on."""
        rows = self.corpus.rows(item)
        if track.rate is None:
            return np.concatenate([track.values[row] for row in rows])
        period = int(SAMPLE_RATE / track.rate)
        parts = []
        for row in rows:
            # a row ends on the grid where tracks have rates: as many values as it has periods
            size = self.corpus.row_length(row) // period
            parts.append(np.full(size, -1, np.int32))
            values = track.values[row][:size]
            parts[-1][: len(values)] = values
        first = start // period
        return np.concatenate(parts)[first : first + int(count) // period]

    def _item(
        self, spec: BatchSpec, row: int, problems: list[Problem]
    ) -> tuple[int, int, dict[str, np.ndarray] | None]:
        """(item, where its crop starts, its views). One that cannot be read is replaced by the next
        of its bucket and source, or, without `replace_bad`, has no audio."""
        bucket, slot = spec.bucket, int(spec.slots[row])
        item = -1
        for number in range(len(bucket.items) if self.replace_bad else 1):
            item = int(bucket.items[bucket.stand_in(slot, number)])
            try:
                return item, *self._crop(spec, row, item, problems)
            except AudioError as error:
                problems.append(("audio", item, str(error)))
            if len(problems) > self.max_bad_share * len(self.corpus):
                break  # the run is about to stop: no need to try them all
        return item, 0, None

    def _crop(
        self, spec: BatchSpec, row: int, item: int, problems: list[Problem]
    ) -> tuple[int, dict[str, np.ndarray]]:
        """(where it starts, the views)."""
        size, samples = self.corpus.length(item), spec.samples
        speeds = {
            name: 1.0 if augmentation is None else augmentation.speed(spec.step, item)
            for name, augmentation in self.views.items()
        }
        start = 0
        if self.crop:
            # a faster crop needs more of the item, as far as there is more
            wanted = {name: min(round(samples * speed), size) for name, speed in speeds.items()}
            counts = dict.fromkeys(speeds, samples)
            rng = np.random.default_rng([self.seed, 3, spec.step, row])
            start = int(rng.integers((size - max(wanted.values())) // self.grid + 1)) * self.grid
        else:
            # a slower utterance must still fit its bucket
            wanted = dict.fromkeys(speeds, size)
            counts = {name: min(round(size / speed), samples) for name, speed in speeds.items()}
        views = {}
        for name, augmentation in self.views.items():
            audio = self.corpus.audio(item, start, wanted[name])
            if augmentation is not None:
                audio, bad = augmentation(audio, counts[name], spec.step, item)
                problems += bad
            views[name] = audio
        return start, views

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
            total = len(self.corpus if kind == "audio" else self._recordings(kind))
            if count > self.max_bad_share * total:
                raise UserError(
                    f"{count} of {total} audio files cannot be read, last: {reason}. "
                    "Run prepare again, or raise max_bad_share"
                )

    def _recordings(self, kind: str) -> Corpus:
        """Those of the first view that has some."""
        given = (view.recordings[kind] for view in self.views.values() if view is not None)
        return next(corpus for corpus in given if corpus is not None)

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
            return len(spec.slots) * spec.samples / SAMPLE_RATE
        return sum(self.corpus.length(int(i)) for i in spec.items if i >= 0) / SAMPLE_RATE
