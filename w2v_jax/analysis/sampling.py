"""Which frames and which pieces of speech are analysed, and what an extractor makes of them.

Drawn as in ankitapasad/layerwise-analysis (codes/prepare): whole utterances for what is compared
frame by frame, so many instances of every label for what is compared piece by piece.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from w2v_jax.analysis.extraction import SPECTRA, Extractor, Features
from w2v_jax.analysis.labels import Labels
from w2v_jax.analysis.store import FeatureStore
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.sources import Row, Source
from w2v_jax.errors import NAMED, UserError, some, warn_left_out

log = logging.getLogger(__name__)
LABELLED = ("phones", "letters", "words")  # what labels may be of


class Utterance(Row):
    """The audio of a row, counted through all sources."""

    def __init__(self, source: Source, row: int, index: int):
        super().__init__(source, row)
        self.index = index


class Utterances:
    """The rows of one or several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self._corpus = Corpus(sources)
        self.manifests = [source.manifest for source in sources]
        self.digest = self._corpus.digest

    def __len__(self) -> int:
        return len(self._corpus)

    def __getitem__(self, index: int) -> Utterance:
        row = self._corpus.row(index)
        return Utterance(row.source, row.row, index)

    def column(self, name: str) -> np.ndarray:
        """`speakers` or `languages` of all rows, str [n]; '' where unknown."""
        return np.array([x for manifest in self.manifests for x in getattr(manifest, name)])


def labels_digest(labels: Labels) -> str:
    """sha256 of what is said when, hexadecimal."""
    found = hashlib.sha256("\n".join((labels.kind, *labels.names)).encode())
    for row in labels.rows:
        for array in row or (np.zeros(0),):
            found.update(np.ascontiguousarray(array).tobytes() + b"|")
    return found.hexdigest()


class Selection(Protocol):
    """What is wanted of some rows."""

    rows: np.ndarray  # int, which

    def take(self, row: int, times: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        """Of a row whose frames have these times: (spans int [n, 2], the frames that are averaged
        for each vector that is wanted; what each is, int [n])."""


class Frames(NamedTuple):
    """Frames of whole utterances, what each is being its label or, without labels, its row."""

    rows: np.ndarray
    labels: Callable[[int, np.ndarray], np.ndarray] | None = None  # (row, times) -> int, -1: none
    most: int = 0  # of a row, drawn at random; 0: all
    seed: int = 0

    def take(self, row: int, times: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        what = np.full(len(times), row) if self.labels is None else self.labels(row, times)
        kept = np.flatnonzero(what >= 0)
        if self.most and len(kept) > self.most:
            random = np.random.default_rng((self.seed, row))
            kept = np.sort(random.choice(kept, self.most, replace=False))
        return np.stack([kept, kept + 1], axis=1), what[kept]


class Nearest(NamedTuple):
    """The frames nearest to those that something else was taken at."""

    rows: np.ndarray
    times: Mapping[int, np.ndarray]  # row -> seconds

    def take(self, row: int, times: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        wanted = self.times[row]
        kept = np.searchsorted((times[1:] + times[:-1]) / 2, wanted)
        return np.stack([kept, kept + 1], axis=1), np.full(len(wanted), row)


class Segments(NamedTuple):
    """Pieces of speech, each averaged over its frames; what each is being its label."""

    of: np.ndarray  # int [n], the row of each
    labels: np.ndarray  # int [n]
    starts: np.ndarray  # float [n], seconds
    ends: np.ndarray
    central: bool  # whether the central third of the frames is taken, or all

    @property
    def rows(self) -> np.ndarray:
        return np.unique(self.of)

    def take(self, row: int, times: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        mine = np.flatnonzero(self.of == row)
        first = np.floor(self.starts[mine] * rate).astype(int)
        stop = np.ceil(self.ends[mine] * rate).astype(int)
        if self.central:
            third = (stop - first + 1) // 3
            first, stop = first + third, stop - third
        first = np.clip(first, 0, len(times) - 1)
        stop = np.clip(stop, first + 1, len(times))
        return np.stack([first, stop], axis=1), self.labels[mine]


class Taken(NamedTuple):
    """What an extractor makes of a selection."""

    arrays: dict[str, np.ndarray]  # tap -> float32 [n, width], mapped from files
    what: np.ndarray  # int [n], see the selections
    times: dict[int, np.ndarray]  # row -> seconds of the first frame of each of its vectors


def draw_rows(rows: int | np.ndarray, most: int, seed: int) -> np.ndarray:
    """`most` of the rows, or of that many, in their order; all where there are no more; 0: all."""
    rows = np.arange(rows) if isinstance(rows, int) else rows
    if not most or len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def draw_segments(
    labels: Labels, most: int, seed: int, *, kinds: int = 0, central: bool = False
) -> Segments:
    """`most` instances of every label, or all where it has fewer; of the `kinds` most frequent
    labels, 0: of all. Those that last no time do not count."""
    rows = [(row, found) for row, found in enumerate(labels.rows) if found is not None]
    of = np.concatenate([np.full(len(found.labels), row) for row, found in rows])
    label, start, end = (
        np.concatenate([getattr(found, name) for _, found in rows])
        for name in ("labels", "starts", "ends")
    )
    lasting = np.flatnonzero(end > start)
    counts = np.bincount(label[lasting], minlength=len(labels.names))
    wanted = np.argsort(-counts, kind="stable")[: kinds or len(counts)]
    random = np.random.default_rng(seed)
    kept = []
    for kind in np.sort(wanted):
        there = lasting[label[lasting] == kind]
        kept.append(random.permutation(there)[:most])
    kept = np.sort(np.concatenate(kept))
    return Segments(of[kept], label[kept], start[kept], end[kept], central)


def collect(
    extractor: Extractor,
    utterances: Utterances,
    selections: Mapping[str, Selection],
    folder: Path,
) -> dict[str, Taken]:
    """What is wanted by each selection, of all taps; every row is heard once.

    Vectors go to files below `folder`: memory holds a few recordings, however many there are. Files
    that cannot be read are named and left out. Raises UserError where a selection gets nothing, or
    features are not finite.
    """
    rows = np.unique(np.concatenate([selection.rows for selection in selections.values()]))
    wanted = {name: set(selection.rows.tolist()) for name, selection in selections.items()}
    what: dict[str, list[np.ndarray]] = {name: [] for name in selections}
    times: dict[str, dict[int, np.ndarray]] = {name: {} for name in selections}
    rate = SAMPLE_RATE / extractor.stride
    failed: list[str] = []
    with ExitStack() as stack:
        files = {
            (name, tap): stack.enter_context((folder / f"{name}.{tap}").open("wb"))
            for name in selections for tap in extractor.taps
        }  # fmt: skip
        found = extractor.many(utterances[row] for row in rows)
        for row, features in zip(rows.tolist(), found, strict=True):
            if isinstance(features, AudioError):
                failed.append(str(features))
                continue
            _check_finite(features, utterances[row].path)
            for name, selection in selections.items():
                if row not in wanted[name] or not len(features.times):
                    continue
                spans, are = selection.take(row, features.times, rate)
                what[name].append(are)
                times[name][row] = features.times[spans[:, 0]]
                for tap, values in features.arrays.items():
                    files[name, tap].write(averaged(values, spans).tobytes())
    warn_left_out(log, f"{len(failed)} recordings that cannot be read", failed[:NAMED], len(failed))
    return {
        name: Taken(_mapped(folder, name, extractor.taps, found), found, times[name])
        for name in selections
        if (found := np.concatenate(what[name] or [np.zeros(0, int)])) is not None
    }


def _check_finite(features: Features, path: str) -> None:
    for tap, values in features.arrays.items():
        if not np.isfinite(values).all():
            raise UserError(
                f"{tap} of {path} has values that are not finite: the model is damaged, or its "
                "training went wrong"
            )


def averaged(values: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """values [T, D], spans [n, 2] -> float32 [n, D], means of values[first:stop]."""
    first, stop = spans.T
    if (stop - first == 1).all():
        return np.ascontiguousarray(values[first], np.float32)
    return np.stack([values[a:b].mean(0, dtype=np.float64) for a, b in spans]).astype(np.float32)


def _mapped(folder: Path, name: str, taps: Mapping[str, int], what: np.ndarray) -> dict:
    if not len(what):
        raise UserError(
            f"no frame is left for {name}: the recordings cannot be read, have no labels, or are "
            "shorter than a frame"
        )
    return {
        tap: np.memmap(folder / f"{name}.{tap}", np.float32, "r", shape=(len(what), width))
        for tap, width in taps.items()
    }


class StoredFeatures:
    """A folder of features, as `python -m w2v_jax.features` writes them, in the place of what made
    them."""

    def __init__(self, folder: str, taps: Sequence[str], utterances: Utterances):
        """taps: names and patterns, of a model. Raises UserError for features of other speech."""
        self._store = store = FeatureStore(folder)
        if store.manifest_digest != utterances.digest:
            raise UserError(
                f"{folder} has the features of another manifest; give --data the one they are of"
            )
        if not store.complete:
            raise UserError(f"{folder} is not complete; run the command that writes it again")
        without = store.description.get("extractor") in SPECTRA  # layers
        wanted = [tap for tap in store.taps if without or any(fnmatch(tap, x) for x in taps)]
        if not wanted:
            raise UserError(f"{folder} has no {some(taps)}; it has {some(store.taps)}")
        self.taps = {tap: store.taps[tap] for tap in wanted}
        self.description = store.description | {"source": folder}
        self.stride = store.stride

    def many(self, recordings: Iterable[Utterance]) -> Iterator[Features | AudioError]:
        """Of utterances of the speech that the features are of, in turn."""
        for recording in recordings:
            row = recording.index
            if self._store.failed[row]:
                yield AudioError(f"{recording.path}: could not be read when features were written")
                continue
            arrays = {tap: self._store.of(tap, row) for tap in self.taps}
            yield Features(arrays, self._store.times(row))
