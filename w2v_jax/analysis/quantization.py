"""From audio to units: the nearest centroid of every frame of every row, beside the manifest.

What is done of a manifest is kept in NAME.units.partial beside it until all is, so that a run that
was killed goes on where it was:

    run.json      of which manifest and centroids
    values.npy    the units of all rows end to end
    done.npy      bool [rows]
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2v_jax.analysis.agreement import Usage, usage
from w2v_jax.analysis.centroids import Centroids, Nearest, described, rate_of
from w2v_jax.analysis.extraction import Extractor, Part
from w2v_jax.analysis.progress import Progress
from w2v_jax.audio.files import cache_folder
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import units
from w2v_jax.data.sharing import Ragged
from w2v_jax.data.sources import Row, Source
from w2v_jax.errors import NAMED, UserError, warn_left_out
from w2v_jax.places import Place, is_remote, place, write_whole, writing

log = logging.getLogger(__name__)


class Applied(NamedTuple):
    """What was written of a manifest."""

    where: Place
    rows: int
    usage: Usage
    unreadable: int
    kept: int  # rows that an earlier run had done
    speed: float  # hours of audio per hour


def check_free(source: Source, name: str, centroids: Centroids, *, overwrite: bool) -> bool:
    """Whether the units are to be made: False where they are there, of these centroids.

    Raises UserError where others, or what was begun of others, would be replaced without
    `overwrite`, which removes what is there, but not what was begun of these.
    """
    where = units.folder(source.path, name)
    partial = _partial(where)
    for folder, note in ((where, where / "units.json"), (partial, partial / "run.json")):
        try:
            found = json.loads(note.read_text())
            digest = found.get("source", found).get("centroids")
            of = found["manifest"]
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, AttributeError):
            digest = of = None
        same = (digest, of) == (centroids.digest, source.manifest.digest)
        if same and folder is partial:
            continue  # what was begun of them goes on
        if overwrite:
            with writing(folder):
                place(folder).rmtree()
        elif same:
            return False
        else:
            what = "other centroids" if of == source.manifest.digest else "another manifest"
            raise UserError(
                f"{folder} is there already, of {what}; write another --name={name}, or replace it "
                "with --overwrite"
            )
    return True


def apply(
    source: Source, name: str, centroids: Centroids, extractor: Extractor, max_bad_share: float
) -> Applied:
    """Writes the units of a source. Raises UserError for features that are not finite, where more
    than `max_bad_share` of the rows cannot be read, and where nothing can be written."""
    manifest, where = source.manifest, units.folder(source.path, name)
    rate = rate_of(extractor.stride, described(extractor.description))
    sizes = np.asarray(extractor.frames(manifest.samples), np.int64)
    if not sizes.any():
        raise UserError(
            f"{source.path}: no recording is as long as a frame, {extractor.receptive_field} "
            "samples"
        )
    run = _Run(_partial(where), len(centroids.values), np.append(0, np.cumsum(sizes)))
    run.begin({"manifest": manifest.digest, "centroids": centroids.digest})
    todo = np.flatnonzero(~run.done)
    # of about one length together: little is padded
    todo = todo[np.argsort(-manifest.samples[todo], kind="stable")]
    kept = len(manifest) - len(todo)
    progress, begin = Progress(len(todo), int(sizes[todo].sum()), rate), time.monotonic()
    unreadable, reasons = [], []
    for row, part in _assigned(source, todo, centroids, extractor):
        if isinstance(part, UserError):
            unreadable.append(row)
            reasons += [str(part)][: NAMED - len(reasons)]
        else:
            progress.add(len(part[1]), whole=run.add(row, *part))
        if progress.due():
            run.keep()
            print(progress.line(), flush=True)
    run.keep()
    speed = float(manifest.samples[todo].sum()) / SAMPLE_RATE / (time.monotonic() - begin + 1e-9)
    warn_left_out(log, f"{len(unreadable)} of {len(manifest)} recordings", reasons, len(unreadable))
    if len(unreadable) > max_bad_share * len(manifest):
        raise UserError(
            f"{len(unreadable)} of {len(manifest)} recordings of {source.path} cannot be read; "
            f"repair them, or raise --max_bad_share={max_bad_share:g}"
        )
    values = run.without(unreadable)
    units.write(
        source.path, name, manifest, values, rate=rate, classes=len(centroids.values),
        source=centroids.description,
    )  # fmt: skip
    used = usage(values, len(centroids.values))
    run.remove()
    return Applied(where, len(manifest), used, len(unreadable), kept, speed)


def _assigned(
    source: Source, rows: np.ndarray, centroids: Centroids, extractor: Extractor
) -> Iterator[tuple[int, tuple[int, np.ndarray] | UserError]]:
    """(row, (its first frame, units)) of parts of the rows, or why one cannot be read."""
    nearest = Nearest(centroids.values)
    for part in extractor.parts(Row(source, int(row)) for row in rows):
        if not isinstance(part, Part):
            yield int(rows[part[0]]), part[1]
            continue
        row, features = int(rows[part.recording]), part.arrays[centroids.tap]
        if not np.isfinite(features).all():
            raise not_finite(source.manifest.path(row), centroids.features)
        yield row, (part.first, nearest(features))


def not_finite(path: str, features: str) -> UserError:
    """What is said of a recording whose features are no numbers."""
    return UserError(
        f"{path}: {features} is not finite (NaN or infinite) there; look at "
        "the model, and at the recording"
    )


def _partial(where: Place) -> Path:
    """The folder of what is done of units; of those in a bucket it is on this machine."""
    if not is_remote(where):
        return Path(f"{os.fspath(where)}.partial")
    name = hashlib.sha256(os.fspath(where).encode()).hexdigest()
    return Path(cache_folder("units"), f"{name}.partial")


class _Run:
    """The units of a manifest while they are made."""

    def __init__(self, folder: Path, classes: int, bounds: np.ndarray):
        self._folder, self._bounds = folder, bounds
        self._kind = np.uint16 if classes <= np.iinfo(np.uint16).max else np.uint32
        self._missing = np.diff(bounds)  # frames of every row that have no unit yet

    def begin(self, of: dict[str, str]) -> None:
        """With what an earlier run has left, or anew."""
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._open("r+")
            except (OSError, ValueError):  # there is none, or it was killed while it made them
                self._open("w+")
                self._done[:] = self._missing == 0
            write_whole(self._folder / "run.json", json.dumps(of) + "\n")
        self.done = np.array(self._done)
        self._missing[self.done] = 0

    def _open(self, mode: str) -> None:
        sizes = {"values": (self._kind, int(self._bounds[-1])), "done": (bool, len(self._missing))}
        found = {}
        for name, (kind, size) in sizes.items():
            path = self._folder / f"{name}.npy"
            if mode == "w+":
                found[name] = np.lib.format.open_memmap(path, mode, kind, (size,))
                _take_room(path)
            else:
                found[name] = np.load(path, mmap_mode=mode)
            if found[name].shape != (size,) or found[name].dtype != kind:
                raise ValueError(f"{path} is of other units")
        self._values, self._done = found["values"], found["done"]

    def add(self, row: int, first: int, found: np.ndarray) -> bool:
        """Units from frame `first` of a row on; whether it has all of them now."""
        start = self._bounds[row] + first
        self._values[start : start + len(found)] = found
        self._missing[row] -= len(found)
        self.done[row] = self._missing[row] == 0
        return bool(self.done[row])

    def keep(self) -> None:
        """To the file: units first, then the rows that have them."""
        with writing(self._folder):
            self._values.flush()
            self._done[:] = self.done
            self._done.flush()

    def without(self, rows: list[int]) -> Ragged:
        """All of them; of `rows` none."""
        if not rows:
            return Ragged(self._values, self._bounds)
        sizes = np.diff(self._bounds)
        there = np.ones(len(sizes), bool)
        there[rows] = False
        bounds = np.append(0, np.cumsum(np.where(there, sizes, 0)))
        return Ragged(self._values[np.repeat(there, sizes)], bounds)

    def remove(self) -> None:
        del self._values, self._done
        shutil.rmtree(self._folder, ignore_errors=True)


def _take_room(path: Path) -> None:
    """Raises OSError where the disk has none for the file: mapped, it would end the process."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
