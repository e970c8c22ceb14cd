"""Reads the rows of a batch, and what travels with their audio; needs neither JAX nor grain."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from w2v_jax.audio.augment import change_speed, to_int16
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.data.augmentation import Augmentation
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.plan import BatchSpec
from w2v_jax.data.sharing import Ragged
from w2v_jax.errors import UserError

log = logging.getLogger(__name__)
Problem = tuple[str, int, str]  # what ("audio", "noise of VIEW", ...), which item, why


class Track(NamedTuple):
    """Integers that travel with the audio: a transcript, or labels at a steady rate.

    values    those of every row of the corpus, rows counted through its sources
    rate      values per second, which are cropped with the audio; None: all of them, always
    between   without a rate: the value between two rows of an item, that between words; None: none
    """

    values: Ragged
    rate: float | None = None
    between: int | None = None

    @property
    def period(self) -> float:
        """Samples per value."""
        return SAMPLE_RATE / self.rate


def own_rows(spec: BatchSpec, accumulation: int, parts: Sequence[int], of: int) -> np.ndarray:
    """Which rows of a batch stand where in the arrays of this process, int64 [A, B]: of every
    micro-batch, cut into `of` equal parts, those in `parts`."""
    rows = np.arange(len(spec.slots)).reshape(accumulation, of, -1)[:, list(parts)]
    return rows.reshape(accumulation, -1)


def batch_arrays(
    shape: tuple[int, int],
    samples: int,
    *,
    widths: Mapping[str, int] = MappingProxyType({}),
    rates: Mapping[str, float] = MappingProxyType({}),
    views: Sequence[str] = ("audio",),
) -> dict[str, tuple[tuple[int, ...], type]]:
    """{name: (shape, type)} of the arrays of a batch with `shape` = (A, B) rows; see `Loader`.

    widths: of the tracks without a rate; rates: of the others.
    """
    arrays = dict.fromkeys(views, ((*shape, samples), np.int16))
    arrays |= {"length": (shape, np.int32), "id": (shape, np.int32)}
    for name, width in widths.items():
        arrays[name] = ((*shape, width), np.int32)
        arrays[f"{name}_length"] = (shape, np.int32)
    for name, rate in rates.items():
        arrays[name] = ((*shape, int(samples // (SAMPLE_RATE / rate))), np.int32)
    return arrays


@dataclasses.dataclass
class Loader:
    """Reads those rows of a BatchSpec that belong to this process.

    A batch is a dict of arrays [A, B, ...]:

    audio          int16 [A, B, S]; so is every other view, each augmented in its own way. All are
                   cut from the same start of the same item
    length         int32 [A, B], samples of the item in the views
    id             int32 [A, B], item; -1 fills up
    TRACK          of a track without a rate int32 [A, B, L], 0 beyond the end, and
    TRACK_length   int32 [A, B]. An item of several rows has their values one after the other, with
                   what is `between` them
    TRACK          of one with a rate int32 [A, B, S * rate / 16000], -1 where there is none: in
                   the padding, and where the values of a row end before its audio

    It is a function of the spec and of the files alone, whoever reads it. Raises UserError for
    tracks that do not fit the rows, the grid or the augmentation.
    """

    corpus: Corpus
    seed: int
    accumulation: int = 1
    crop: bool = True  # take a random part of `samples`; otherwise the whole item, padded
    grid: int = 1  # samples; crops start at multiples of it, periods of tracks divide it
    tracks: Mapping[str, Track] = dataclasses.field(default_factory=dict)
    views: Mapping[str, Augmentation | None] = dataclasses.field(
        default_factory=lambda: {"audio": None}
    )
    replace_bad: bool = True  # by another item of the bucket; False leaves the row out (id -1)
    max_bad_share: float = 0.05  # of unreadable items before a UserError
    parts: tuple[int, ...] = (0,)  # of the rows of a micro-batch, cut into `of` equal parts, those
    of: int = 1  # that this process reads

    def __post_init__(self):
        self.bad: dict[tuple[str, int], str] = {}
        self._widths: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        for name, track in self.tracks.items():
            if len(track.values) != self.corpus.num_rows:
                raise UserError(
                    f"the track {name!r} has values of {len(track.values)} utterances, its corpus "
                    f"has {self.corpus.num_rows}; make it for the same manifests"
                )
            if track.rate is None:
                self._widths[name] = -(-self._longest(track) // 8) * 8
            else:
                self._rates[name] = track.rate
                self._check_rate(name, track)
        self._check_speed()

    def _longest(self, track: Track) -> int:
        """Values of an item, at most; at least 1."""
        sizes = track.values.sizes
        if self.corpus.groups is not None:
            sizes = self.corpus.groups.sums(sizes)
            if track.between is not None:
                sizes += self.corpus.groups.sizes - 1
        return int(sizes.max(initial=1))

    def _check_rate(self, name: str, track: Track) -> None:
        grids = {"crops start": self.grid}
        if self.corpus.groups is not None:
            grids["joined utterances end"] = self.corpus.grid
        for what, grid in grids.items():
            if not track.period.is_integer() or grid % track.period:
                raise UserError(
                    f"the track {name!r} has {track.rate:g} values per second, one in "
                    f"{track.period:g} samples, which does not divide {grid}, at whose multiples "
                    f"{what}; give it {SAMPLE_RATE / grid:g} values per second or a multiple that "
                    "fits"
                )

    def _check_speed(self) -> None:
        if self._rates:
            reason = f"the track {next(iter(self._rates))!r} has values at a steady rate"
        elif len(self.views) > 1 and not self.crop:
            reason = f"the views {', '.join(self.views)} must be equally long"
        else:
            return
        for augmentation in self.views.values():
            if augmentation is not None and (prob := augmentation.settings["speed_prob"]):
                raise UserError(
                    f"--config.data.augment.speed_prob={prob:g} changes lengths, but {reason}; "
                    "set it to 0"
                )

    def __call__(self, spec: BatchSpec) -> dict[str, np.ndarray]:
        """The batch; what could not be read is noted."""
        batch, problems = self.load(spec)
        self.note(problems)
        return batch

    def arrays(self, shape: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], type]]:
        """{name: (shape, type)} of the arrays of a batch of all processes."""
        rows, samples = shape
        return self._arrays((self.accumulation, rows // self.accumulation), samples)

    def _arrays(self, shape: tuple[int, int], samples: int):
        return batch_arrays(
            shape, samples, widths=self._widths, rates=self._rates, views=[*self.views]
        )

    def load(self, spec: BatchSpec) -> tuple[dict[str, np.ndarray], list[Problem]]:
        """The batch and what could not be read for it; changes nothing here."""
        index = own_rows(spec, self.accumulation, self.parts, self.of)
        first, *_ = self.views  # all are equally long
        arrays = self._arrays(index.shape, spec.samples)
        batch = {name: np.zeros(shape, kind) for name, (shape, kind) in arrays.items()}
        for name in ("id", *self._rates):
            batch[name][:] = -1
        problems: list[Problem] = []
        for at, row in np.ndenumerate(index):
            if spec.slots[row] < 0:
                continue
            item, found = self._item(spec, int(row), problems)
            if found is None:
                continue
            batch["id"][at] = item
            batch["length"][at] = len(found[first])
            for name, values in found.items():
                batch[name][at][: len(values)] = values
                if name in self._widths:
                    batch[f"{name}_length"][at] = len(values)
        return batch, problems

    def _item(
        self, spec: BatchSpec, row: int, problems: list[Problem]
    ) -> tuple[int, dict[str, np.ndarray] | None]:
        """The item, its views and its tracks. One that cannot be read is replaced by the next of
        its bucket and source, or, without `replace_bad`, has none."""
        bucket, slot = spec.bucket, int(spec.slots[row])
        item = -1
        for number in range(len(bucket.items) if self.replace_bad else 1):
            item = int(bucket.items[bucket.stand_in(slot, number)])
            try:
                return item, self._read(spec, row, item, problems)
            except AudioError as error:
                problems.append(("audio", item, str(error)))
            if len(problems) > self.max_bad_share * len(self.corpus):
                break  # the run is about to stop: no need to try them all
        return item, None

    def _read(
        self, spec: BatchSpec, row: int, item: int, problems: list[Problem]
    ) -> dict[str, np.ndarray]:
        """The views and tracks of an item, without padding."""
        size = self.corpus.length(item)
        speeds = [
            1.0 if augmentation is None else augmentation.speed(spec.step, item, view)
            for view, augmentation in enumerate(self.views.values())
        ]
        start = 0
        if self.crop:  # drawn for the first view; the others begin there too
            last = size - min(round(spec.samples * speeds[0]), size)
            rng = np.random.default_rng([self.seed, 3, spec.step, row])
            start = int(rng.integers(last // self.grid + 1)) * self.grid
        audio: dict[int, np.ndarray] = {}
        found = {}
        for view, (name, augmentation) in enumerate(self.views.items()):
            if self.crop:
                # a faster crop needs more of the item, as far as there is more
                wanted, count = min(round(spec.samples * speeds[view]), size - start), spec.samples
            else:
                # a slower utterance must still fit its bucket
                wanted, count = size, min(round(size / speeds[view]), spec.samples)
            if wanted not in audio:
                audio[wanted] = self.corpus.audio(item, start, wanted)
            if augmentation is not None:
                found[name], bad = augmentation(audio[wanted], count, spec.step, item, view)
                owner = next(key for key, other in self.views.items() if other is augmentation)
                problems += [(f"{kind} of {owner}", which, why) for kind, which, why in bad]
            elif wanted == count:
                found[name] = audio[wanted]
            else:  # the item ends early, as the first view was cut for a slow one
                found[name] = to_int16(change_speed(audio[wanted], wanted / count))
        for name, track in self.tracks.items():
            found[name] = self._values(track, item, start, spec.samples)
        return found

    def _values(self, track: Track, item: int, start: int, count: int) -> np.ndarray:
        """Those of `count` samples from `start` of the item; of a track without a rate all."""
        rows = self.corpus.rows(item)
        if track.rate is None:
            values = [track.values[row] for row, _ in rows]
            if track.between is not None:
                values = [x for part in values for x in (part, [track.between])][:-1]
            return np.concatenate(values)
        period = int(track.period)
        parts = []
        for row, size in rows:
            whole = np.full(size // period, -1, np.int32)
            values = track.values[row][: len(whole)]
            whole[: len(values)] = values
            parts.append(whole)
        first = start // period
        return np.concatenate(parts)[first : first + count // period]

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
            recordings, _, view = kind.partition(" of ")
            total = len(self.views[view].recordings[recordings] if view else self.corpus)
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
        steady = {name: track for name, track in self.tracks.items() if track.rate is not None}
        return {"training manifest": self.corpus.digest} | {
            f"track {name!r}": track.values.digest for name, track in steady.items()
        }

    def metrics(self) -> dict[str, float]:
        """Scalars for the log: how many files could not be read since the start of this process."""
        return {"data/unreadable": float(len(self.bad))}

    def amount(self, spec: BatchSpec) -> float:
        """Seconds of speech in a batch of all processes, padding not counted."""
        if self.crop:
            return len(spec.slots) * spec.samples / SAMPLE_RATE
        return sum(self.corpus.length(int(i)) for i in spec.items if i >= 0) / SAMPLE_RATE
