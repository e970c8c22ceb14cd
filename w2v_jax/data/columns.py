"""Columns of strings in Arrow memory: a string is decoded when it is asked for, never earlier."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BYTES = pa.large_binary()
NAMES = pa.dictionary(pa.int32(), BYTES)
CHUNK = 1 << 16  # rows decoded at a time where all are wanted


class Strings(Sequence[str]):
    """A read-only column of str, which may be longer than Python objects would allow.

    `column[i]` is a str; `column[rows]`, with a slice, a mask or an array of indices, a column
    that shares the memory. Bytes that are not UTF-8 become lone surrogates, as in file names.
    """

    def __init__(self, values: pa.LargeBinaryArray | pa.DictionaryArray, rows=None):
        self.values = values
        self.rows = rows  # integers [n] or None, which is every row

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    def __getitem__(self, i):
        if isinstance(i, int | np.integer):
            if not -len(self) <= i < len(self):
                raise IndexError(f"row {i} of {len(self)}")
            row = i % len(self) if self.rows is None else self.rows[i]
            return self.values[int(row)].as_py().decode("utf-8", "surrogateescape")
        return type(self)(self.values, select(i, self.rows, len(self)))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            for value in self.arrow(start, start + CHUNK).to_pylist():
                yield value.decode("utf-8", "surrogateescape")

    def arrow(self, start: int = 0, stop: int | None = None) -> pa.LargeBinaryArray:
        """The bytes of rows start..stop."""
        if self.rows is None:
            part = self.values[start:stop]
        else:
            part = self.values.take(pa.array(self.rows[start:stop]))
        return part if part.type == BYTES else part.dictionary.take(part.indices)

    def tolist(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3])) + (", ..." if len(self) > 3 else "")
        return f"{type(self).__name__}([{shown}], {len(self)} rows)"


class Labels(Strings):
    """A column of strings of which many are equal: an integer per row, a table of names.

    The names are sorted, so codes compare as their names do. After a selection there may be names
    that no row has any more.
    """

    @cached_property
    def codes(self) -> np.ndarray:
        """int32 [n], indices of `names`; without a selection a view of the stored column."""
        codes = self.values.indices.to_numpy()
        return codes if self.rows is None else codes[self.rows]

    @property
    def names(self) -> Strings:
        """The sorted names, '' among them where some rows have none."""
        return Strings(self.values.dictionary)

    def counts(self, weights: np.ndarray | None = None) -> dict[str, int]:
        """How many rows, or how much of the integer `weights` [n], every name that occurs has."""
        rows = np.bincount(self.codes, minlength=len(self.names))
        totals = rows
        if weights is not None:
            totals = np.zeros(len(rows), np.int64)
            np.add.at(totals, self.codes, weights)
        return {self.names[i]: int(totals[i]) for i in np.flatnonzero(rows)}

    def without_unused(self) -> pa.DictionaryArray:
        """The column with the names that occur."""
        used = np.bincount(self.codes, minlength=len(self.names)) > 0
        codes = (np.cumsum(used, dtype=np.int32) - np.int32(1))[self.codes]
        names = self.values.dictionary.take(pa.array(np.flatnonzero(used)))
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), names)


def select(wanted, rows: np.ndarray | None, count: int) -> np.ndarray:
    """Row indices [m] of the `wanted` (indices, a mask, a slice) among `count` rows, or among
    `rows` where these are a selection already. Raises IndexError for a row that is none."""
    if isinstance(wanted, slice):
        wanted = np.arange(*wanted.indices(count))
    wanted = np.asarray(wanted)
    if wanted.dtype == bool:
        if wanted.shape != (count,):
            raise IndexError(f"a mask of shape {wanted.shape} for {count} rows")
        wanted = np.flatnonzero(wanted)
    if wanted.size and not 0 <= wanted.min() <= wanted.max() < count:
        raise IndexError(f"rows {wanted.min()}..{wanted.max()} of {count}")
    if rows is not None:
        return rows[wanted.astype(np.int64, copy=False)]
    return wanted.astype(np.int32 if count < 2**31 else np.int64)


def encode(values: Iterable[str]) -> pa.LargeBinaryArray:
    """Arrow memory of strings; lone surrogates become the bytes they stand for."""
    if isinstance(values, Strings):
        return values.arrow()
    return pa.array((value.encode("utf-8", "surrogateescape") for value in values), BYTES)


def encode_labels(values: Iterable[str]) -> pa.DictionaryArray:
    """Arrow memory of strings of which many are equal."""
    if isinstance(values, Labels):
        return values.without_unused()
    found = encode(values).dictionary_encode()
    order = pc.sort_indices(found.dictionary).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes = pa.array(rank[found.indices.to_numpy()], pa.int32())
    return pa.DictionaryArray.from_arrays(codes, found.dictionary.take(pa.array(order)))
