"""Features on disk: written row by row, in any order, and mapped into memory.

A folder holds

    features.json    the format, what the features are of, taps and widths, dtype, frames, digest of
                     the manifest
    bounds.npy       int64 [rows + 1]: row i has the frames bounds[i] to bounds[i + 1] of every tap;
                     known before anything is computed, from the lengths in the manifest
    TAP.npy          float16 or float32 [frames, width] of every tap; 0 where nothing was computed
    done.npy         bool [rows]: the row's features are here, and on the disk
    failed.npy       bool [rows]: the row could not be read and is zeros, or an older try was so
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError, brief, some
from w2v_jax.places import check_empty, is_remote, write_whole, writing

FORMAT = "w2v_jax features 1"
DTYPES = ("float16", "float32")
INDEX = "features.json"
MEGABYTE = 1 << 20


class FeatureStore:
    """Features of the rows of a manifest, mapped into memory."""

    def __init__(self, folder: str | os.PathLike):
        """Raises UserError for a folder that holds no features, or damaged ones."""
        self.folder = Path(folder)
        content = read_index(self.folder)
        try:
            self.taps: dict[str, int] = dict(content["taps"])
            self.description: dict[str, Any] = content["description"]
            self.manifest_digest: str = content["manifest"]
            self.dtype: str = content["dtype"]
            self.first_time: float = content["first_time"]  # seconds, see `times`
            self.seconds_per_frame: float = content["seconds_per_frame"]
            self.bounds = np.load(self.folder / "bounds.npy", mmap_mode="r")
            shapes = {tap: (content["frames"], width) for tap, width in self.taps.items()}
            self.done, self.failed = (
                self._mapped(name, "bool", (len(self),)) for name in ("done", "failed")
            )
            self._arrays = {tap: self._mapped(tap, self.dtype, x) for tap, x in shapes.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.folder} holds damaged features ({brief(error)}); remove it and write them "
                "again"
            ) from None

    def _mapped(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.memmap:
        found = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        if found.dtype != dtype or found.shape != shape:
            raise ValueError(f"{name}.npy is {found.dtype} {found.shape}, not {dtype} {shape}")
        return found

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return round(self.seconds_per_frame * SAMPLE_RATE)

    @property
    def complete(self) -> bool:
        """Whether every row is here, or could not be read."""
        return bool((self.done | self.failed).all())

    def __getitem__(self, tap: str) -> np.memmap:
        """All frames of a tap, [frames, width]. Raises UserError for one that is not here."""
        if tap not in self._arrays:
            raise UserError(f"{self.folder} has no {tap}; it has {some(self.taps)}")
        return self._arrays[tap]

    def of(self, tap: str, row: int) -> np.ndarray:
        """Those of a row, [T, width]; zeros where it could not be read."""
        return self[tap][self.bounds[row] : self.bounds[row + 1]]

    def times(self, row: int) -> np.ndarray:
        """Seconds float64 [T] of the middle of what each of its frames sees."""
        frames = int(self.bounds[row + 1] - self.bounds[row])
        return self.first_time + np.arange(frames) * self.seconds_per_frame


def read_index(folder: Path) -> dict[str, Any]:
    """What features.json says. Raises UserError where there is none."""
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no features ({brief(error)}); write them with python -m "
            "w2v_jax.features"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{folder}/{INDEX} is not of the format {FORMAT!r}; write the features again"
        )
    return content


class FeatureWriter:
    """Fills a folder of features, which may have some rows already.

    A row counts as done once its values are on the disk. Files are written, not mapped: a full disk
    is then an error and not the end of the process, and memory holds no pages of them.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        taps: Mapping[str, int],
        description: Mapping[str, Any],
        frames: np.ndarray,
        times: np.ndarray,
        manifest: str,
        dtype: str = "float16",
    ):
        """frames int64 [rows]; times: seconds of two frames; manifest: its digest. Raises UserError
        for a folder with something else, or features of something else, in it."""
        self.folder = Path(folder)
        bounds = np.concatenate([[0], np.cumsum(frames, dtype=np.int64)])
        content = {
            "format": FORMAT, "taps": dict(taps), "dtype": dtype, "frames": int(bounds[-1]),
            "first_time": float(times[0]), "seconds_per_frame": float(times[1] - times[0]),
            "manifest": manifest, "description": dict(description),
        }  # fmt: skip
        check_local(folder)
        if (self.folder / INDEX).exists():
            check_same(self.folder, content)
        else:
            check_empty(self.folder, "--output")
            with writing(f"--output={folder}"):
                _create(self.folder, content, bounds)
        store = FeatureStore(self.folder)
        self._bounds, self._taps, self._dtype = bounds, dict(taps), np.dtype(dtype)
        self.done, self.failed = np.array(store.done), np.array(store.failed)
        self._offsets = {name: store[name].offset for name in self._taps}
        self._marks = store.done.offset
        self._check_room(content["frames"] * sum(taps.values()) * self._dtype.itemsize)
        with writing(f"--output={folder}"):
            self._files = {
                name: os.open(self.folder / f"{name}.npy", os.O_RDWR)
                for name in (*self._taps, "done", "failed")
            }
        self._lock()
        self._new: dict[int, bool] = {}  # rows since the last flush: whether they are there
        self._written: dict[int, int] = {}  # frames of rows that are there in part

    def _lock(self) -> None:
        try:
            fcntl.flock(self._files["done"], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                self.close()
                raise UserError(
                    f"--output={self.folder} is being written by another run; wait for its end, or "
                    "name another folder"
                ) from None  # file systems without locks have other words

    def _check_room(self, size: int) -> None:
        """Raises UserError where the disk cannot take what is still to come."""
        there = sum((self.folder / f"{tap}.npy").stat().st_blocks * 512 for tap in self._taps)
        free, missing = shutil.disk_usage(self.folder).free, size - there
        if missing > free:
            raise UserError(
                f"--output={self.folder}: {size / MEGABYTE:,.0f} MB are to be written, and the "
                f"disk has {free / MEGABYTE:,.0f} MB; make room, or take fewer --layers, or "
                "--dtype=float16"
            )

    def write(self, row: int, first: int, arrays: Mapping[str, np.ndarray]) -> bool:
        """The frames from `first` on of a row, tap -> [frames, width]. Returns whether the row is
        whole with them. Raises UserError where they cannot be written."""
        with writing(self.folder):
            for tap, x in arrays.items():
                self._put(tap, int(self._bounds[row]) + first, self._rounded(tap, x))
        written = self._written.pop(row, 0) + len(next(iter(arrays.values())))
        whole = written >= self._bounds[row + 1] - self._bounds[row]
        if whole:
            self._new[row] = True
        else:
            self._written[row] = written
        return whole

    def _rounded(self, tap: str, x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(x, self._dtype)
        if np.isinf(found).any() and np.isfinite(x).all():
            raise UserError(
                f"{tap} reaches {np.abs(x).max():.4g}, which is beyond {self._dtype}; set "
                "--dtype=float32 and name another folder"
            )
        return found

    def _put(self, tap: str, frame: int, x: np.ndarray) -> None:
        place = self._offsets[tap] + frame * self._taps[tap] * self._dtype.itemsize
        _write_all(self._files[tap], memoryview(x).cast("B") if x.size else b"", place)

    def fail(self, row: int) -> None:
        """Marks a row as one that cannot be read; what is there of it becomes zeros."""
        self._written.pop(row, 0)  # an earlier run may have written some, too
        frames = int(self._bounds[row + 1] - self._bounds[row])
        with writing(self.folder):
            for first in range(0, frames, 10_000):
                count = min(10_000, frames - first)
                for tap, width in self._taps.items():
                    zeros = np.zeros((count, width), self._dtype)
                    self._put(tap, int(self._bounds[row]) + first, zeros)
        self._new[row] = False

    def flush(self) -> None:
        """Rows that were written since the last time are on the disk, then marked."""
        if not self._new:
            return
        with writing(self.folder):
            for tap in self._taps:
                os.fdatasync(self._files[tap])
            for row, there in self._new.items():
                self.done[row], self.failed[row] = there, not there
            for name, marks in (("failed", self.failed), ("done", self.done)):
                _write_all(self._files[name], marks.tobytes(), self._marks)
                os.fdatasync(self._files[name])
        self._new = {}

    def close(self) -> None:
        for file in self._files.values():
            os.close(file)


@contextlib.contextmanager
def written(*arguments, **keywords) -> Iterator[FeatureWriter]:
    """A `FeatureWriter` that is flushed at the end, and closed in any case."""
    writer = FeatureWriter(*arguments, **keywords)
    try:
        yield writer
        writer.flush()
    finally:
        writer.close()


def _write_all(file: int, data, place: int) -> None:
    data = memoryview(data)
    while data:
        count = os.pwrite(file, data, place)
        data, place = data[count:], place + count


def _create(folder: Path, content: Mapping[str, Any], bounds: np.ndarray) -> None:
    """Makes the folder with all its files, or nothing: whatever is found later is well-formed."""
    made = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    np.save(made / "bounds.npy", bounds)
    rows = (len(bounds) - 1,)
    files = {"done": ("bool", rows), "failed": ("bool", rows)}
    files |= {
        tap: (content["dtype"], (content["frames"], width))
        for tap, width in content["taps"].items()
    }
    for name, (dtype, shape) in files.items():
        with (made / f"{name}.npy").open("wb") as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)
    write_whole(made / INDEX, json.dumps(content, indent=1) + "\n")
    os.replace(made, folder)


def check_local(folder: str | os.PathLike) -> None:
    """Raises UserError for a folder in a bucket."""
    if is_remote(folder):
        raise UserError(
            f"--output={folder}: features are written in any order, to a local disk; name a folder "
            "there"
        )


def check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raises UserError where the features in a folder are others than those that are wanted."""
    there = read_index(folder)
    old, new = there["description"], wanted["description"]
    names = old.get("source"), new.get("source")
    if names[0] == names[1]:
        names = names[0], f"{names[1]} with other weights"
    found = {
        "--checkpoint": names if old.get("digest") != new["digest"] else ("", ""),
        "--layers or --taps": (", ".join(there["taps"]), ", ".join(wanted["taps"])),
        "--dtype": (there["dtype"], wanted["dtype"]),
        "--data": tuple(f"the manifest {x['manifest'][:12]}" for x in (there, wanted)),
    }
    for flag, (before, now) in found.items():
        if before != now:
            raise UserError(
                f"--output={folder} holds features of another {flag} ({before} there, {now} here); "
                "name another folder, or remove that one"
            )
