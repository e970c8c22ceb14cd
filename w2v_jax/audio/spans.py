"""A file made of parts of another, with other bytes between them, without a copy of it."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

_TAG = 128


class Spans(io.RawIOBase):
    """Reads bytes, and spans (first, stop) of a seekable file, one after the other.

    `claimed` bytes more are said to be there, so that a reader which guesses the length from the
    size does not stop too early: nothing can be read there but _TAG zeros at the end, where tags
    are looked for.
    """

    def __init__(
        self, file: io.IOBase, pieces: Sequence[bytes | tuple[int, int]], claimed: int = 0
    ):
        self._file = file
        self._pieces = pieces
        sizes = (len(p) if isinstance(p, bytes) else p[1] - p[0] for p in pieces)
        self._starts = [0, *accumulate(sizes)]
        self._claimed = claimed
        self._position = 0

    @property
    def failure(self) -> Exception | None:
        """Why the file could not be read, if it is remote."""
        return getattr(self._file, "failure", None)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = self._starts[-1] + self._claimed
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: end}[whence]
        self._position = origin + offset
        return self._position

    def readinto(self, buffer) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        if self._position >= self._starts[-1] + self._claimed - _TAG and self._claimed:
            count = min(len(view), self._starts[-1] + self._claimed - self._position)
            view[:count] = bytes(count)
            self._position += count
            return count
        while done < len(view) and 0 <= self._position < self._starts[-1]:
            index = bisect_right(self._starts, self._position) - 1
            inside = self._position - self._starts[index]
            count = min(len(view) - done, self._starts[index + 1] - self._position)
            piece = self._pieces[index]
            if isinstance(piece, bytes):
                data = piece[inside : inside + count]
            else:
                self._file.seek(piece[0] + inside)
                data = self._file.read(count)
            if not data:
                break
            view[done : done + len(data)] = data
            done += len(data)
            self._position += len(data)
        return done
