"""Units: integers at a steady rate of every row of a manifest, as k-means writes and HuBERT reads.

Units NAME of data/train.tsv, data/train.arrow or the folder of shards data/train stand beside it,
in the folder data/train.NAME.units:

    values.npy    uint16, or uint32 of more than 65,535 classes: those of all rows end to end
    bounds.npy    int64 [rows + 1]: row i has values[bounds[i]:bounds[i + 1]]
    units.json    what they are, and of which manifest; it is written last
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from w2v_jax.audio.files import local_copy, upload
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.sharing import Ragged
from w2v_jax.data.sources import Source
from w2v_jax.errors import UserError, brief
from w2v_jax.places import Place, absolute, is_remote, place, writing

FORMAT = "w2v_jax units"  # what units.json says that it is
COMMAND = "python -m w2v_jax.units"
SLACK = 0.1  # seconds at the end of a row that may lack values: no frame fits there, as fairseq
_CHUNK = 1 << 24  # values looked at, or written, at a time
_INDEX, _VALUES, _BOUNDS = "units.json", "values.npy", "bounds.npy"


class Units(NamedTuple):
    """Those of all rows of a manifest.

    values     row by row, each below `classes`; a row without any could not be read when they were
               made
    rate       per second; value i of a row is of the samples from i * 16000 / rate on
    source     what made them, JSON; where it has "centroids", their digest, equal digests mean
               that the classes are the same
    """

    values: Ragged
    rate: float
    classes: int
    source: Mapping[str, Any]


class _Mapped(Ragged):
    """Values in a file. Pickled, they are the name of its folder."""

    def __init__(self, folder: str, values: np.ndarray, bounds: np.ndarray, digest: str):
        super().__init__(values, bounds)
        self._folder, self._digest = folder, digest

    @property
    def digest(self) -> str:
        """As it was when they were written: to read a large corpus for it would take minutes."""
        return self._digest

    def __reduce__(self):
        return _mapped, (self._folder, self._digest)


class _Chained(Ragged):
    """The arrays of several, one after the other, where they are; each value higher by `by`."""

    def __init__(self, parts: Sequence[Ragged], by: int = 0):
        self._parts, self._by = list(parts), by
        self._first = np.cumsum([0, *map(len, parts)])

    def __reduce__(self):
        return _Chained, (self._parts, self._by)

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, i: int) -> np.ndarray:
        part = int(np.searchsorted(self._first, i, side="right")) - 1
        found = self._parts[part][i - int(self._first[part])]
        return found.astype(np.int32) + self._by if self._by else found

    @property
    def digest(self) -> str:
        parts = [*(part.digest for part in self._parts), str(self._by)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        return np.concatenate([part.sizes for part in self._parts])


def folder(manifest_path: str | os.PathLike, name: str) -> Place:
    """Where the units `name` of a manifest, or of a folder of shards, stand. Raises UserError for a
    name that is none."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(
            f"the units {name!r}: a name consists of letters, digits, _ and -; mfcc100 say"
        )
    path = absolute(manifest_path).rstrip("/")
    stem = path if os.path.isdir(path) else os.path.splitext(path)[0]
    return place(f"{stem}.{name}.units")


def read(manifest_path: str | os.PathLike, name: str, manifest: Manifest) -> Units:
    """The units `name` of a manifest, mapped from their file.

    Raises UserError where there are none, where they are of another manifest or damaged, and for a
    row that has fewer than its audio.
    """
    where = folder(manifest_path, name)
    remedy = (
        f"make them with: {COMMAND} apply --centroids=CENTROIDS.npz --data="
        f"{os.fspath(manifest_path)} --name={name}"
    )
    try:
        index = json.loads((where / _INDEX).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{os.fspath(manifest_path)} has no units {name!r} ({where} is not there); {remedy}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({brief(error)}); {remedy}") from None
    try:
        if index["format"] != FORMAT:
            raise ValueError(f"its format is {index['format']!r}")
        rate, classes = float(index["rate"]), int(index["classes"])
        of, digest, source = index["manifest"], index["digest"], dict(index["source"])
        values = _mapped(os.fspath(where), digest)
        _check_index(values, int(index["values"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: is damaged ({brief(error)}); {remedy}") from None
    if of != manifest.digest:
        raise UserError(
            f"{where} is of another list of utterances than {os.fspath(manifest_path)}, which was "
            f"changed since or has rows left out; {remedy}"
        )
    _check_sizes(values, manifest, rate, f"{where}", remedy)
    return Units(values, rate, classes, source)


def _mapped(where: str, digest: str) -> _Mapped:
    names = [f"{where}/{name}" for name in (_VALUES, _BOUNDS)]
    values, bounds = (
        np.load(local_copy(name) if is_remote(name) else name, mmap_mode="r").view(np.ndarray)
        for name in names
    )  # a view: a slice of a memmap costs ten times that of an array
    return _Mapped(where, values, bounds, digest)


def _check_index(values: Ragged, count: int) -> None:
    """Raises ValueError where values and bounds do not fit each other."""
    array, bounds = values.values, values.bounds
    if array.dtype not in (np.uint16, np.uint32) or array.shape != (count,):
        raise ValueError(f"{_VALUES} has {array.dtype} {array.shape}, not {count} integers")
    fits = bounds.ndim == 1 and len(bounds) and bounds[0] == 0 and bounds[-1] == count
    if not fits or (np.diff(bounds) < 0).any():
        raise ValueError(f"{_BOUNDS} does not fit {_VALUES}")


def _check_sizes(values: Ragged, manifest: Manifest, rate: float, name: str, remedy: str) -> None:
    """Raises UserError for a row that has fewer values than its audio, though some."""
    if len(values) != len(manifest):
        raise UserError(f"{name} has {len(values)} rows, the manifest {len(manifest)}; {remedy}")
    needed = (manifest.samples / SAMPLE_RATE - SLACK) * rate
    few = np.flatnonzero((values.sizes < needed) & (values.sizes > 0))
    if few.size:
        row = int(few[0])
        seconds = manifest.samples[row] / SAMPLE_RATE
        raise UserError(
            f"{name}: {len(few)} of {len(manifest)} rows have fewer values than audio, first row "
            f"{row}, {manifest.paths[row]}: {values.sizes[row]} values at {rate:g} per second for "
            f"{seconds:.2f} s; {remedy}"
        )


def write(
    manifest_path: str | os.PathLike,
    name: str,
    manifest: Manifest,
    values: Ragged,
    *,
    rate: float,
    classes: int,
    source: Mapping[str, Any],
) -> Place:
    """Writes the units `name` of a manifest, whole or not at all, in the place of older ones; where
    they stand.

    values: of any type of integer, row by row; of a row that cannot be read none. Raises UserError
    for values that are no classes, for a row that has fewer than its audio, and where the folder
    cannot be written.
    """
    where = folder(manifest_path, name)
    _check_sizes(values, manifest, rate, f"the units {name!r}", "make them of the whole recording")
    kind = np.uint16 if classes <= np.iinfo(np.uint16).max else np.uint32
    index = {
        "format": FORMAT, "name": name, "rate": rate, "classes": classes,
        "manifest": manifest.digest, "values": len(values.values), "source": dict(source),
    }  # fmt: skip
    with writing(where):
        if is_remote(where):
            with tempfile.TemporaryDirectory() as local:
                _fill(local, values, kind, index)
                if where.exists():
                    where.rmtree()  # what is there without its index is nothing
                for file in (_VALUES, _BOUNDS, _INDEX):
                    upload(os.path.join(local, file), f"{where}/{file}")
            return where
        where.parent.mkdir(parents=True, exist_ok=True)
        temporary = f"{where.parent}/.{where.name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        os.mkdir(temporary)
        try:
            _fill(temporary, values, kind, index)
            with contextlib.suppress(FileNotFoundError):
                # a process that has the old ones mapped keeps them
                os.rename(where, f"{temporary}/old")
            os.rename(temporary, where)
            shutil.rmtree(where / "old", ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return where


def _fill(folder: str, values: Ragged, kind: type, index: dict[str, Any]) -> None:
    """The three files, the index with the digest of the others."""
    digest = hashlib.sha256(np.ascontiguousarray(values.bounds, np.int64))
    array, classes = values.values, index["classes"]
    if not len(array):
        raise UserError("no row has a unit; look whether the audio can be read")
    out = np.lib.format.open_memmap(f"{folder}/{_VALUES}", "w+", kind, (len(array),))
    for start in range(0, len(array), _CHUNK):
        part = np.asarray(array[start : start + _CHUNK])
        if not 0 <= part.min() <= part.max() < classes:
            wrong = int(part.min() if part.min() < 0 else part.max())
            raise UserError(f"a unit is {wrong}; of {classes} classes 0 to {classes - 1} are ones")
        out[start : start + _CHUNK] = part
        digest.update(np.ascontiguousarray(part, kind))
    out.flush()
    np.save(f"{folder}/{_BOUNDS}", np.asarray(values.bounds, np.int64))
    with open(f"{folder}/{_INDEX}", "w") as file:
        json.dump(index | {"digest": digest.hexdigest()}, file, indent=1)


def joined(sources: Sequence[Source], name: str) -> Units:
    """The units `name` of all rows of the sources, see `read`. Raises UserError where those of two
    manifests do not mean the same."""
    found = {source.path: read(source.path, name, source.manifest) for source in sources}
    check_alike(name, found)
    first = found[sources[0].path]
    if len(sources) == 1:
        return first
    return first._replace(values=_Chained([found[source.path].values for source in sources]))


def shifted(values: Ragged, by: int) -> Ragged:
    """Values that are higher by a number, and never in memory as a whole."""
    return _Chained([values], by) if by else values


def check_alike(name: str, found: Mapping[str, Units]) -> None:
    """Raises UserError where the units of two manifests, by path, do not mean the same."""
    (first, of), *others = found.items()
    for path, units in others:
        for what, a, b in (
            ("rate", of.rate, units.rate),
            ("number of classes", of.classes, units.classes),
            ("centroids", of.source.get("centroids"), units.source.get("centroids")),
        ):
            if a != b:
                raise UserError(
                    f"the units {name!r} of {first} and of {path} differ in their {what} ({a} and "
                    f"{b}), so that their classes do not mean the same; make both with the same "
                    f"centroids: {COMMAND} apply --data={first},{path} --name={name}"
                )
