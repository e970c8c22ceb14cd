"""The list of utterances every other step works on: path, length, text, speaker, language."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError

_MARK = "#w2v_jax-manifest\troot="
_COLUMNS = ("path", "samples", "text", "speaker", "language")
# File names are bytes: one that is not UTF-8 must survive a round trip.
_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}


class ManifestError(UserError):
    """A manifest that cannot be read or written."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """Utterances as columns of equal length; row i is one utterance.

    root       absolute folder that relative paths start from
    paths      object [n] of str, relative to `root` or absolute
    samples    int64 [n], length at 16 kHz
    texts, speakers, languages    object [n] of str, '' where unknown

    Sequences are accepted for the columns and turned into arrays.
    """

    root: str
    paths: np.ndarray
    samples: np.ndarray
    texts: np.ndarray
    speakers: np.ndarray
    languages: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "root", os.path.abspath(self.root))
        object.__setattr__(self, "samples", np.asarray(self.samples, np.int64))
        for name in ("paths", "texts", "speakers", "languages"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=object))
        if len({len(column) for column in self._columns()}) != 1:
            raise ValueError("the columns of a manifest must have the same length")

    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.paths, self.samples, self.texts, self.speakers, self.languages

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, i: int) -> str:
        """Returns the absolute path of utterance i."""
        return os.path.join(self.root, self.paths[i])

    @property
    def hours(self) -> float:
        """The length of all utterances together."""
        return float(self.samples.sum()) / SAMPLE_RATE / 3600

    def select(self, rows: np.ndarray) -> "Manifest":
        """Returns the manifest of the given rows: indices, in their order, or a mask [n]."""
        rows = np.asarray(rows)
        if rows.size == 0:
            rows = rows.astype(np.int64)
        return Manifest(self.root, *(column[rows] for column in self._columns()))

    @cached_property
    def digest(self) -> str:
        """sha256 of all rows, hexadecimal. It does not depend on `root`: a corpus may move."""
        digest = hashlib.sha256()
        for line in self._lines():
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _lines(self) -> Iterator[str]:
        return ("\t".join(map(str, row)) + "\n" for row in zip(*self._columns(), strict=True))

    def write(self, path: str | os.PathLike) -> None:
        """Writes a UTF-8 table: a line with the root, a line of column names, a line per row.

        A root that is the manifest's own folder or lies below it is written relative to that
        folder, so that audio and manifest can be moved together; any other is written absolute.
        The file is replaced in one step. Raises ManifestError for a tab or a line break in a
        value, and where the file cannot be written.
        """
        path = os.path.abspath(path)
        for i, line in enumerate(self._lines()):
            if line.count("\t") != len(_COLUMNS) - 1 or line.count("\n") != 1 or "\r" in line:
                raise ManifestError(
                    f"{path}: row {i}, {self.paths[i]!r}, has a tab or a line break in its name "
                    "or text; remove it"
                )
        root = os.path.relpath(self.root, os.path.dirname(path))
        if root.split(os.sep)[0] == os.pardir:
            root = self.root
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(temporary, "w", **_ENCODING) as file:
                file.write(f"{_MARK}{root}\n" + "\t".join(_COLUMNS) + "\n")
                file.writelines(self._lines())
            os.replace(temporary, path)
        except OSError as error:
            raise ManifestError(
                f"{path}: cannot be written ({error.strerror}); choose another place"
            ) from None

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Manifest":
        """Returns the manifest in a file; a relative root starts from the file's own folder.

        Raises ManifestError for a missing file, a file that is no manifest, and damaged rows.
        """
        path = os.path.abspath(path)
        remedy = f"write it with: python -m w2v_jax.prepare --input=FOLDER --output={path}"
        try:
            with open(path, **_ENCODING) as file:
                mark, names, *lines = [*file.read().split("\n"), ""]
        except OSError as error:
            raise ManifestError(f"{path}: {error.strerror.lower()}; {remedy}") from None
        if not mark.startswith(_MARK) or tuple(names.split("\t")) != _COLUMNS:
            raise ManifestError(f"{path}: not a w2v_jax manifest; {remedy}")
        if any(lines[-2:]):
            raise ManifestError(f"{path}: the last line is cut; {remedy}")
        rows = []
        for number, line in enumerate(lines[:-2], start=3):
            row = line.split("\t")
            if len(row) != len(_COLUMNS) or not row[0] or not row[1].isdecimal():
                raise ManifestError(
                    f"{path}: line {number} is damaged: {line[:80]!r} is not "
                    f"{', '.join(_COLUMNS)}; {remedy}"
                )
            rows.append(row)
        columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
        columns[1] = [int(samples) for samples in columns[1]]
        return cls(os.path.join(os.path.dirname(path), mark.removeprefix(_MARK)), *columns)
