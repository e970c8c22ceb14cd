"""The two files of a manifest, over Arrow record batches of one schema.

.arrow    Arrow IPC, mapped into memory: opens at once whatever its size, and the processes of
          a machine share one copy. pandas, polars and DuckDB read it too.
.tsv      text, to look at and to write by hand: a line with the root, a line of column names,
          a line per row. All of it is read.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w2v_jax.data.columns import BYTES, NAMES, encode, encode_labels
from w2v_jax.errors import UserError

SCHEMA = {
    "path": BYTES, "samples": pa.int64(), "text": BYTES, "speaker": NAMES, "language": NAMES,
    "start": pa.int64(), "corpus": NAMES,
}  # fmt: skip
_COLUMNS = tuple(SCHEMA)
_OLD_COLUMNS = _COLUMNS[:5]  # of every .tsv whose rows are whole files of no named corpus
MARK = b"w2v_jax-manifest"  # near the beginning of both
_MARK = f"#{MARK.decode()}\troot="
_LINES = 1 << 18  # rows turned into text at a time
# File names are bytes: one that is not UTF-8 must survive a round trip.
_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": "\n"}


class ManifestError(UserError):
    """A manifest that cannot be read or written."""


def make_batch(count: int, columns: Mapping[str, Sequence]) -> pa.RecordBatch:
    """A record batch of columns of `count` str or int; those that are missing are '' or 0."""
    arrays = []
    for name, kind in SCHEMA.items():
        values = columns.get(name)
        if kind == pa.int64():
            arrays.append(pa.array(np.asarray(np.zeros(count) if values is None else values, int)))
        else:
            make = encode if kind == BYTES else encode_labels
            arrays.append(make([""] * count if values is None else values))
    if {len(array) for array in arrays} != {count}:
        raise ValueError("the columns of a manifest must have the same length")
    return pa.RecordBatch.from_arrays(arrays, names=list(SCHEMA))


def text_columns(batch: pa.RecordBatch) -> tuple[str, ...]:
    """The columns of a text file: the last two only where they say something."""
    corpora = batch["corpus"].dictionary.to_pylist()
    plain = not batch["start"].to_numpy().any() and set(corpora) <= {b""}
    return _OLD_COLUMNS if plain else _COLUMNS


def text_lines(batch: pa.RecordBatch) -> Iterator[bytes]:
    """The rows as text, many at a time. Raises ManifestError for a value that breaks it."""
    names = text_columns(batch)
    tab, end, nothing = (pa.scalar(value, BYTES) for value in (b"\t", b"\n", b""))
    for first in range(0, len(batch), _LINES):
        part = batch.slice(first, _LINES)
        rows = pc.binary_join_element_wise(*(_column_as_bytes(part[name]) for name in names), tab)
        _, offsets, data = pc.binary_join_element_wise(rows, nothing, end).buffers()
        text = data[: np.frombuffer(offsets, np.int64)[len(part)]].to_pybytes()
        counts = text.count(b"\t"), text.count(b"\n"), text.count(b"\r")
        if counts != (len(part) * (len(names) - 1), len(part), 0):
            _name_broken_row(first, rows, len(names) - 1)
        yield text


def _column_as_bytes(column: pa.Array) -> pa.Array:
    if column.type == pa.int64():
        return column.cast(pa.large_string()).cast(BYTES)
    return column if column.type == BYTES else column.dictionary.take(column.indices)


def _name_broken_row(first: int, rows: pa.Array, tabs: int) -> None:
    for i, row in enumerate(rows.to_pylist(), start=first):
        if row.count(b"\t") != tabs or b"\n" in row or b"\r" in row:
            raise ManifestError(
                f"row {i}, {row[:80].decode('utf-8', 'replace')!r}, has a tab or a line break in "
                "its name or text; remove it"
            )


def write_text(path: str, root: str, batch: pa.RecordBatch) -> None:
    with open(path, "wb") as file:
        head = f"{_MARK}{root}\n" + "\t".join(text_columns(batch)) + "\n"
        file.write(head.encode("utf-8", "surrogateescape"))
        file.writelines(text_lines(batch))


def read_text(path: str) -> tuple[str, pa.RecordBatch]:
    """(root, rows). Raises ManifestError, OSError."""
    with open(path, **_ENCODING) as file:
        mark, names, *lines = [*file.read().split("\n"), ""]
    names = tuple(names.split("\t"))
    if not mark.startswith(_MARK) or names not in (_COLUMNS, _OLD_COLUMNS):
        raise ManifestError("not a w2v_jax manifest")
    if any(lines[-2:]):
        raise ManifestError("the last line is cut")
    numbers = [i for i, name in enumerate(names) if SCHEMA[name] == pa.int64()]
    rows = []
    for number, line in enumerate(lines[:-2], start=3):
        row = line.split("\t")
        if len(row) != len(names) or not row[0] or not all(row[i].isdecimal() for i in numbers):
            raise ManifestError(
                f"line {number} is damaged: {line[:80]!r} is not {', '.join(names)}"
            )
        for i in numbers:
            row[i] = int(row[i])
        rows.append(row)
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
    return mark.removeprefix(_MARK), make_batch(len(rows), columns)


def write_arrow(path: str, root: str, batch: pa.RecordBatch, digest: str) -> None:
    columns = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            names = _as_text(column.dictionary)
            columns.append(pa.DictionaryArray.from_arrays(column.indices, names))
        else:
            columns.append(_as_text(column) if column.type == BYTES else column)
    meta = {MARK: b"1", b"root": os.fsencode(root), b"digest": digest.encode()}
    stored = pa.RecordBatch.from_arrays(columns, names=list(SCHEMA), metadata=meta)
    # One batch: a column of several could not be seen as one array without a copy.
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, stored.schema) as writer:
        writer.write_batch(stored)


def read_arrow(path: str) -> tuple[str, pa.RecordBatch, str]:
    """(root, rows in mapped memory, digest). Raises ManifestError, OSError."""
    with open(path, "rb"):
        pass  # Arrow's own message for a missing file has no strerror
    try:
        reader = pa.ipc.open_file(pa.memory_map(path))
        meta = reader.schema.metadata or {}
        named = reader.schema.names == list(SCHEMA)
        if MARK not in meta or not named or reader.num_record_batches != 1:
            raise ManifestError("not a w2v_jax manifest")
        stored = reader.get_batch(0)
        stored.validate()
        # Every column in the type that the code works with; no copy, strings are bytes already.
        columns = [_as_bytes(column) for column in stored.columns]
        if [column.type for column in columns] != list(SCHEMA.values()):
            raise ManifestError("not a w2v_jax manifest")
        batch = pa.RecordBatch.from_arrays(columns, names=list(SCHEMA))
        # where strings begin and which names the codes mean: a wrong one would end the process
        # later. The strings themselves are not read.
        batch.validate(full=True)
        root, digest = os.fsdecode(meta[b"root"]), meta[b"digest"].decode()
    except (pa.ArrowException, MemoryError, KeyError, UnicodeDecodeError):
        raise ManifestError("not a w2v_jax manifest, or a damaged one") from None
    numbers = (batch[name].to_numpy() for name, kind in SCHEMA.items() if kind == pa.int64())
    wrong = len(batch) and any(column.min() < 0 for column in numbers)
    if wrong or any(column.null_count for column in batch.columns):
        raise ManifestError("damaged: it has rows without a value, or with a length below 0")
    return root, batch, digest


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
