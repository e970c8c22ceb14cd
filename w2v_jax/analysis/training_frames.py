"""The frames that centroids are learnt of: those of a random share of recordings."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.analysis import kmeans
from w2v_jax.analysis.centroids import rate_of
from w2v_jax.analysis.extraction import Extractor, Part, open_extractor
from w2v_jax.analysis.progress import Progress
from w2v_jax.analysis.store import INDEX, FeatureStore
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import NAMED, UserError, some, warn_left_out

log = logging.getLogger(__name__)


class TrainingFrames(NamedTuple):
    frames: kmeans.Frames  # [N, D]
    tap: str
    rate: float  # frames per second
    middle: float  # seconds of the middle of what the first frame of a recording sees
    extractor: Mapping[str, Any]  # its description
    recordings: int
    name_of: Callable[[int], str]  # the path of the recording that a frame is of


def read(
    features: str, tap: str, data: str, share: float, seed: int, clusters: int
) -> TrainingFrames:
    """Those of a share of the recordings of `data`, manifests with commas, drawn by the seed.

    features: what `open_extractor` takes, or a folder of `analysis.store`. tap: which of its taps;
    "" where there is but one. Of an extractor they are computed and kept in memory, of a folder
    mapped from it. Raises UserError; for fewer frames than clusters before any is computed.
    """
    corpus = Corpus(open_sources(data))
    if not len(corpus):
        raise UserError(f"--data={data} has no rows")
    count = math.ceil(share * len(corpus))
    rows = np.sort(np.random.default_rng(seed).permutation(len(corpus))[:count])
    said = f"--share={share:g} of --data={data}"
    if (Path(features) / INDEX).is_file():
        return _of_store(features, tap, corpus, rows, clusters, said)
    extractor = open_extractor(features, (tap,) if tap else ())
    return _computed(extractor, features, corpus, rows, clusters, said)


def _only(taps: Mapping[str, int], wanted: str, features: str) -> str:
    """The tap that is meant. Raises UserError where it is not there, or not said which."""
    if wanted not in taps and (wanted or len(taps) > 1):
        what = f"has no {wanted}" if wanted else "has several layers"
        raise UserError(
            f"--features={features} {what}; name one with --layer or --tap: {some(taps, 20)}"
        )
    return wanted or next(iter(taps))


def _check_enough(frames: int, clusters: int, said: str) -> None:
    if frames < clusters:
        raise UserError(
            f"--clusters={clusters} of {frames} frames ({said}): a cluster needs a frame at least; "
            "raise --share, or lower --clusters"
        )


def _of_store(
    folder: str, tap: str, corpus: Corpus, rows: np.ndarray, clusters: int, said: str
) -> TrainingFrames:
    store = FeatureStore(folder)
    tap = _only(store.taps, tap, folder)
    if store.manifest_digest != corpus.digest:
        raise UserError(
            f"--features={folder} is of other recordings than --data; name the manifests that it "
            "was written of"
        )
    there = store.done[rows] & ~store.failed[rows]
    missing, rows = rows[~there], rows[there]
    reasons = [
        f"{corpus.path(int(row))}: not in {folder} yet, or unreadable when that was written"
        for row in missing[:NAMED]
    ]
    warn_left_out(
        log, f"{len(missing)} of {len(missing) + len(rows)} recordings", reasons, len(missing)
    )
    sizes = np.diff(store.bounds)[rows]
    ends = np.cumsum(sizes)
    total = int(sizes.sum())
    _check_enough(total, clusters, f"{said}, of which {len(rows):,} are in {folder}")
    starts = np.repeat(np.asarray(store.bounds)[rows] - (ends - sizes), sizes)
    frames = _Chosen(store[tap], starts + np.arange(total))
    rate = rate_of(store.stride, f"--features={folder}")
    print(f"{len(rows):,} of {len(corpus):,} recordings, {total:,} frames of {tap}, from {folder}",
          flush=True)  # fmt: skip
    return TrainingFrames(
        frames, tap, rate, store.first_time, store.description, len(rows),
        _names(corpus, rows, ends),
    )  # fmt: skip


class _Chosen:
    """Rows of an array in a file, in the order of `index`."""

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self._array, self._index = array, index
        self.shape = len(index), array.shape[1]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows) -> np.ndarray:
        return np.asarray(self._array[self._index[rows]])


def _computed(
    extractor: Extractor, features: str, corpus: Corpus, rows: np.ndarray, clusters: int, said: str
) -> TrainingFrames:
    tap = _only(extractor.taps, "", features)
    rate = rate_of(extractor.stride, f"--features={features}")
    sizes = np.asarray(extractor.frames(corpus.lengths[rows]), np.int64)
    total, width = int(sizes.sum()), extractor.taps[tap]
    _check_enough(total, clusters, said)
    size = total * width * 4
    print(f"{len(rows):,} of {len(corpus):,} recordings, {total:,} frames of {width} numbers of "
          f"{tap}: {size / 1e9:.2f} GB of memory", flush=True)  # fmt: skip
    if size > _memory():
        raise UserError(
            f"{said} takes {size / 1e9:.0f} GB of memory, and there are {_memory() / 1e9:.0f}; "
            "lower --share (an hour is enough for a hundred clusters), or write them to files with "
            "python -m w2v_jax.features and name their folder as --features"
        )
    frames = np.empty((total, width), np.float32)
    starts = np.append(0, np.cumsum(sizes))
    there, reasons = np.ones(len(rows), bool), []
    progress = Progress(len(rows), total, rate)
    for part in extractor.parts(corpus.row(int(row)) for row in rows):
        if not isinstance(part, Part):
            there[part[0]] = False
            reasons.append(str(part[1]))
            continue
        found = part.arrays[tap]
        first = starts[part.recording] + part.first
        frames[first : first + len(found)] = found
        progress.add(len(found), whole=part.first + len(found) == part.total)
        if progress.due():
            print(progress.line(), flush=True)
    bad = len(rows) - int(there.sum())
    warn_left_out(log, f"{bad} of {len(rows)} recordings", reasons[:NAMED], bad)
    if bad:
        frames = frames[np.repeat(there, sizes)]
        rows, sizes = rows[there], sizes[there]
        _check_enough(len(frames), clusters, f"{said}, without {bad} that cannot be read")
    middle = float(extractor.times(1)[0])
    names = _names(corpus, rows, np.cumsum(sizes))
    return TrainingFrames(frames, tap, rate, middle, extractor.description, len(rows), names)


def _names(corpus: Corpus, rows: np.ndarray, ends: np.ndarray) -> Callable[[int], str]:
    def name_of(frame: int) -> str:
        return corpus.path(int(rows[np.searchsorted(ends, frame, side="right")]))

    return name_of


def _memory() -> int:
    """Bytes that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
