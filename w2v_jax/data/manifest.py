"""The list of utterances every other step works on: columns, from a few rows to many millions."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from w2v_jax import places
from w2v_jax.audio import files
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data import manifest_files
from w2v_jax.data.columns import Labels, Strings, select
from w2v_jax.data.manifest_files import ManifestError


class Manifest:
    """Utterances as columns of equal length; row i is one utterance, a file or a part of one.

    root        absolute or remote folder that relative paths start from
    paths       Strings [n], relative to `root`, absolute or remote (gs://...)
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
        columns = {
            "path": paths, "samples": samples, "text": texts, "speaker": speakers,
            "language": languages, "start": starts, "corpus": corpora,
        }  # fmt: skip
        self._set(places.absolute(root), manifest_files.make_batch(len(paths), columns))

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
        return places.join(self.root, self.paths[i])

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
        for lines in manifest_files.text_lines(self._compact()):
            digest.update(lines)
        return digest.hexdigest()

    def _compact(self) -> pa.RecordBatch:
        """The selected rows in one piece, with the names that occur in them."""
        arrays = [
            self.paths.arrow(), pa.array(self.samples), self.texts.arrow(),
            self.speakers.without_unused(), self.languages.without_unused(),
            pa.array(self.starts), self.corpora.without_unused(),
        ]  # fmt: skip
        return pa.RecordBatch.from_arrays(arrays, names=self._batch.schema.names)

    def __reduce__(self):
        if self._source is None:
            return _unpickle, (self.root, self._batch, self._rows)
        return _reopen, (*self._source, self._rows)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the rows to an .arrow file or, with any other suffix, as text.

        A root that is the manifest's own folder or lies below it is written relative to that
        folder, so that audio and manifest can be moved together; any other is written absolute.
        The file is replaced in one step: a process that has the old one mapped keeps it. Raises
        ManifestError for a tab or a line break in a value, and where the file cannot be written.
        """
        path = places.absolute(path)
        root = _relative(self.root, os.path.dirname(path))
        try:
            if not places.is_remote(path):
                self._write(path, root)
                return
            with tempfile.TemporaryDirectory() as folder:
                local = os.path.join(folder, os.path.basename(path))
                self._write(local, root)
                files.upload(local, path)
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}; choose another place or other rows") from None
        except Exception as error:  # of the storage
            raise ManifestError(f"{path}: cannot be written ({error})") from None

    def _write(self, path: str, root: str) -> None:
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if path.lower().endswith(".arrow"):
                manifest_files.write_arrow(temporary, root, self._compact(), self.digest)
            else:
                manifest_files.write_text(temporary, root, self._compact())
            os.replace(temporary, path)
        except (OSError, ManifestError) as error:
            if os.path.exists(temporary):
                os.remove(temporary)
            if isinstance(error, ManifestError):
                raise
            raise ManifestError(f"cannot be written ({error.strerror})") from None

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Manifest":
        """Returns the manifest in a file; a relative root starts from the file's own folder.

        A remote file is copied to this machine first, see `files.local_copy`. Of an .arrow file
        the strings and the digest are believed. Raises ManifestError for
        a missing file, a file that is no manifest, and damaged rows.
        """
        path = places.absolute(path)
        remedy = f"write it with: python -m w2v_jax.prepare --input=FOLDER --output={path}"
        source = None
        try:
            local = files.local_copy(path) if places.is_remote(path) else path
            if path.lower().endswith(".arrow"):
                root, batch, digest = manifest_files.read_arrow(local)
                source = path, digest
            else:
                root, batch = manifest_files.read_text(local)
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)  # storages have their own words for it
            reason = os.strerror(errno.ENOENT) if missing else error.strerror or str(error)
            reason = reason.lower()
            raise ManifestError(f"{path}: {reason}; {remedy}") from None
        except ManifestError as error:
            raise ManifestError(f"{path}: {error}; {remedy}") from None
        return object.__new__(cls)._set(_absolute_root(path, root), batch, None, source)


def _relative(root: str, folder: str) -> str:
    """`root` as seen from `folder` where it is that or below, as it is elsewhere."""
    if places.is_remote(root) or places.is_remote(folder):
        below = f"{root.rstrip('/')}/".removeprefix(f"{folder.rstrip('/')}/")
        return root if below == f"{root.rstrip('/')}/" else below.rstrip("/") or os.curdir
    relative = os.path.relpath(root, folder)
    return root if relative.split(os.sep)[0] == os.pardir else relative


def _absolute_root(path: str, root: str) -> str:
    """The root noted in the manifest `path`, from the root of its storage."""
    root = places.join(os.path.dirname(path), root)
    return root.removesuffix("/.") if places.is_remote(root) else os.path.abspath(root)


def _unpickle(root, batch, rows) -> Manifest:
    return object.__new__(Manifest)._set(root, batch, rows)


def _reopen(file: str, digest: str, rows) -> Manifest:
    """In another process: the rows of the mapped file. Raises ManifestError if it was replaced."""
    manifest = Manifest.read(file)
    if manifest.digest != digest:
        raise ManifestError(f"{file}: was replaced while the program ran; start the program again")
    return manifest if rows is None else manifest.select(rows)
