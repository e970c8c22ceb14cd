"""The list of utterances every other step works on: columns, from a few rows to many millions.

Two files hold the same rows; the suffix of the name decides.

    .arrow    Arrow IPC, mapped into memory: opens at once whatever its size, and the processes of
              a machine share one copy. pandas, polars and DuckDB read it too.
    .tsv      text, to look at and to write by hand: a line with the root, a line of column names,
              a line per row. All of it is read.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.columns import BYTES, NAMES, Labels, Strings, encode, encode_labels, select
from w2v_jax.errors import UserError

_MARK = "#w2v_jax-manifest\troot="
_SCHEMA = {
    "path": BYTES, "samples": pa.int64(), "text": BYTES, "speaker": NAMES, "language": NAMES,
    "start": pa.int64(), "corpus": NAMES,
}  # fmt: skip
_COLUMNS = tuple(_SCHEMA)
_OLD_COLUMNS = _COLUMNS[:5]  # of every .tsv whose rows are whole files of no named corpus
_INTEGERS = ("samples", "start")
_LINES = 1 << 18  # rows turned into text at a time
# File names are bytes: one that is not UTF-8 must survive a round trip.
_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}


class ManifestError(UserError):
    """A manifest that cannot be read or written."""


class Manifest:
    """Utterances as columns of equal length; row i is one utterance, a file or a part of one.

    root        absolute folder that relative paths start from
    paths       Strings [n], relative to `root` or absolute
    samples     int64 [n], length at 16 kHz
    texts       Strings [n], '' where unknown
    speakers, languages, corpora    Labels [n] (codes and names), '' where unknown
    starts      int64 [n], first sample at 16 kHz within the file

    The numbers are read-only views of the stored column unless rows were selected. A manifest that
    was read from an .arrow file is pickled as the file's name and the selection.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        paths: Sequence[str],
        samples: Sequence[int],
        texts: Sequence[str] | None = None,
        speakers: Sequence[str] | None = None,
        languages: Sequence[str] | None = None,
        *,
        starts: Sequence[int] | None = None,
        corpora: Sequence[str] | None = None,
    ):
        unknown = [""] * len(paths)
        columns = [
            encode(paths),
            _integers(samples),
            encode(unknown if texts is None else texts),
            encode_labels(unknown if speakers is None else speakers),
            encode_labels(unknown if languages is None else languages),
            _integers(np.zeros(len(paths)) if starts is None else starts),
            encode_labels(unknown if corpora is None else corpora),
        ]
        if len({len(column) for column in columns}) != 1:
            raise ValueError("the columns of a manifest must have the same length")
        self._set(os.path.abspath(root), pa.RecordBatch.from_arrays(columns, names=_COLUMNS))

    def _set(self, root: str, batch: pa.RecordBatch, rows=None, source=None) -> "Manifest":
        self.root = root
        self._batch = batch
        self._rows = rows  # integers [n], which rows of the batch; None: all
        self._source = source  # (.arrow file that the batch is mapped from, its digest) or None
        return self

    def __len__(self) -> int:
        return self._batch.num_rows if self._rows is None else len(self._rows)

    @cached_property
    def paths(self) -> Strings:
        return Strings(self._batch["path"], self._rows)

    @cached_property
    def texts(self) -> Strings:
        return Strings(self._batch["text"], self._rows)

    @cached_property
    def speakers(self) -> Labels:
        return Labels(self._batch["speaker"], self._rows)

    @cached_property
    def languages(self) -> Labels:
        return Labels(self._batch["language"], self._rows)

    @cached_property
    def corpora(self) -> Labels:
        return Labels(self._batch["corpus"], self._rows)

    @cached_property
    def samples(self) -> np.ndarray:
        return self._numbers("samples")

    @cached_property
    def starts(self) -> np.ndarray:
        return self._numbers("start")

    def _numbers(self, name: str) -> np.ndarray:
        column = self._batch[name].to_numpy()
        if self._rows is not None:
            column = column[self._rows]
            column.flags.writeable = False
        return column

    def path(self, i: int) -> str:
        """Returns the absolute path of the file that utterance i is in."""
        return os.path.join(self.root, self.paths[i])

    @property
    def hours(self) -> float:
        """The length of all utterances together."""
        return float(self.samples.sum()) / SAMPLE_RATE / 3600

    def select(self, rows) -> "Manifest":
        """Returns the manifest of the given rows: indices, in their order, or a mask [n].

        It keeps an index into this manifest's columns, four bytes per row.
        """
        rows = select(rows, self._rows, len(self))
        return object.__new__(Manifest)._set(self.root, self._batch, rows, self._source)

    @cached_property
    def digest(self) -> str:
        """sha256 of all rows as an .tsv file has them, hexadecimal.

        It does not depend on `root`: a corpus may move. That of an .arrow file is computed when
        the file is written and believed when it is read.
        """
        if self._source and self._rows is None:
            return self._source[1]
        digest = hashlib.sha256()
        for lines in self._lines():
            digest.update(lines)
        return digest.hexdigest()

    def __reduce__(self):
        if self._source is None:
            return _unpickle, (self.root, self._batch, self._rows)
        return _reopen, (*self._source, self._rows)

    def _text_columns(self) -> tuple[str, ...]:
        plain = not self.starts.any() and set(self.corpora.counts()) <= {""}
        return _OLD_COLUMNS if plain else _COLUMNS

    def _lines(self) -> Iterator[bytes]:
        """The rows as text, many at a time. Raises ManifestError for a value that breaks it."""
        columns = {
            "path": self.paths, "text": self.texts, "speaker": self.speakers,
            "language": self.languages, "corpus": self.corpora, "samples": self.samples,
            "start": self.starts,
        }  # fmt: skip
        names = self._text_columns()
        for first in range(0, len(self), _LINES):
            last = min(first + _LINES, len(self))
            parts = [
                pa.array(columns[name][first:last]).cast(pa.large_string()).cast(BYTES)
                if name in _INTEGERS
                else columns[name].arrow(first, last)
                for name in names
            ]
            tab, end, nothing = (pa.scalar(value, BYTES) for value in (b"\t", b"\n", b""))
            rows = pc.binary_join_element_wise(*parts, tab)
            _, offsets, data = pc.binary_join_element_wise(rows, nothing, end).buffers()
            text = data[: np.frombuffer(offsets, np.int64)[last - first]].to_pybytes()
            counts = text.count(b"\t"), text.count(b"\n"), text.count(b"\r")
            if counts != ((last - first) * (len(names) - 1), last - first, 0):
                self._name_broken_row(first, rows, len(names) - 1)
            yield text

    def _name_broken_row(self, first: int, rows: pa.Array, tabs: int) -> None:
        for i, row in enumerate(rows.to_pylist(), start=first):
            if row.count(b"\t") != tabs or b"\n" in row or b"\r" in row:
                raise ManifestError(
                    f"row {i}, {self.paths[i]!r}, has a tab or a line break in its name or text; "
                    "remove it"
                )

    def write(self, path: str | os.PathLike) -> None:
        """Writes the rows to an .arrow file or, with any other suffix, as text.

        A root that is the manifest's own folder or lies below it is written relative to that
        folder, so that audio and manifest can be moved together; any other is written absolute.
        The file is replaced in one step: a process that has the old one mapped keeps it. Raises
        ManifestError for a tab or a line break in a value, and where the file cannot be written.
        """
        path = os.path.abspath(path)
        root = os.path.relpath(self.root, os.path.dirname(path))
        if root.split(os.sep)[0] == os.pardir:
            root = self.root
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if path.endswith(".arrow"):
                self._write_arrow(temporary, root)
            else:
                with open(temporary, "wb") as file:
                    head = f"{_MARK}{root}\n" + "\t".join(self._text_columns()) + "\n"
                    file.write(head.encode("utf-8", "surrogateescape"))
                    file.writelines(self._lines())
            os.replace(temporary, path)
        except (OSError, ManifestError) as error:
            if os.path.exists(temporary):
                os.remove(temporary)
            if isinstance(error, ManifestError):
                raise ManifestError(f"{path}: {error}") from None
            raise ManifestError(
                f"{path}: cannot be written ({error.strerror}); choose another place"
            ) from None

    def _write_arrow(self, path: str, root: str) -> None:
        columns = [
            _as_text(self.paths.arrow()),
            pa.array(self.samples),
            _as_text(self.texts.arrow()),
            self.speakers.without_unused(),
            self.languages.without_unused(),
            pa.array(self.starts),
            self.corpora.without_unused(),
        ]
        for i, column in enumerate(columns):
            if pa.types.is_dictionary(column.type):
                names = _as_text(column.dictionary)
                columns[i] = pa.DictionaryArray.from_arrays(column.indices, names)
        meta = {"w2v_jax-manifest": "1", "root": os.fsencode(root), "digest": self.digest}
        batch = pa.RecordBatch.from_arrays(columns, names=_COLUMNS, metadata=meta)
        # One batch: a column of several could not be seen as one array without a copy.
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Manifest":
        """Returns the manifest in a file; a relative root starts from the file's own folder.

        Raises ManifestError for a missing file, a file that is no manifest, and damaged rows. Of
        an .arrow file only the frame is checked: its rows and its digest are believed.
        """
        path = os.path.abspath(path)
        remedy = f"write it with: python -m w2v_jax.prepare --input=FOLDER --output={path}"
        try:
            return cls._read_arrow(path) if path.endswith(".arrow") else cls._read_text(path)
        except OSError as error:
            raise ManifestError(f"{path}: {error.strerror.lower()}; {remedy}") from None
        except (ManifestError, pa.ArrowException) as error:
            damaged = isinstance(error, pa.ArrowException)
            detail = "not a w2v_jax manifest, or a cut one" if damaged else error
            raise ManifestError(f"{path}: {detail}; {remedy}") from None

    @classmethod
    def _read_arrow(cls, path: str) -> "Manifest":
        with open(path, "rb"):
            pass  # Arrow's own message for a missing file has no strerror
        reader = pa.ipc.open_file(pa.memory_map(path))
        meta = reader.schema.metadata or {}
        names = tuple(reader.schema.names)
        if b"w2v_jax-manifest" not in meta or names != _COLUMNS or reader.num_record_batches != 1:
            raise ManifestError("not a w2v_jax manifest")
        stored = reader.get_batch(0)
        stored.validate()
        # Every column in the type that the code works with; no copy, strings are bytes already.
        columns = [_as_bytes(column) for column in stored.columns]
        if [column.type for column in columns] != list(_SCHEMA.values()):
            raise ManifestError("not a w2v_jax manifest")
        root = os.path.join(os.path.dirname(path), os.fsdecode(meta[b"root"]))
        batch = pa.RecordBatch.from_arrays(columns, names=_COLUMNS)
        manifest = object.__new__(cls)
        source = path, meta[b"digest"].decode()
        return manifest._set(os.path.abspath(root), batch, None, source)

    @classmethod
    def _read_text(cls, path: str) -> "Manifest":
        with open(path, **_ENCODING) as file:
            mark, names, *lines = [*file.read().split("\n"), ""]
        names = tuple(names.split("\t"))
        if not mark.startswith(_MARK) or names not in (_COLUMNS, _OLD_COLUMNS):
            raise ManifestError("not a w2v_jax manifest")
        if any(lines[-2:]):
            raise ManifestError("the last line is cut")
        numbers = [i for i, name in enumerate(names) if name in _INTEGERS]
        rows = []
        for number, line in enumerate(lines[:-2], start=3):
            row = line.split("\t")
            if len(row) != len(names) or not row[0] or not all(row[i].isdecimal() for i in numbers):
                raise ManifestError(
                    f"line {number} is damaged: {line[:80]!r} is not {', '.join(names)}"
                )
            rows.append(row)
        columns = dict(zip(names, zip(*rows, strict=True), strict=False))
        return cls(
            os.path.join(os.path.dirname(path), mark.removeprefix(_MARK)),
            columns.get("path", ()),
            [int(samples) for samples in columns.get("samples", ())],
            columns.get("text"),
            columns.get("speaker"),
            columns.get("language"),
            starts=[int(start) for start in columns["start"]] if "start" in columns else None,
            corpora=columns.get("corpus"),
        )


def _integers(values) -> pa.Array:
    return pa.array(np.asarray(values, np.int64))


def _as_text(column: pa.Array) -> pa.Array:
    """The column as strings for other programs; as it is where it is not UTF-8."""
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return column


def _as_bytes(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        names = _as_bytes(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, names, safe=False)
    return column.cast(BYTES) if column.type == pa.large_string() else column


def _unpickle(root, batch, rows) -> Manifest:
    return object.__new__(Manifest)._set(root, batch, rows)


def _reopen(file: str, digest: str, rows) -> Manifest:
    """In another process: the rows of the mapped file. Raises ManifestError if it was replaced."""
    manifest = Manifest.read(file)
    if manifest.digest != digest:
        raise ManifestError(f"{file}: was replaced while the program ran; start the program again")
    return manifest if rows is None else manifest.select(rows)
