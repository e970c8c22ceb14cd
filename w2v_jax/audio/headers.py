"""Headers of WAV, RF64 and AU whose size of the samples is wrong, and what is to be read instead.

Programs that stop before they write the size leave 0 there: libsndfile reads nothing then, though
the samples follow.
"""

import io
import struct
from collections.abc import Iterator

_LOOKED_AT = 1 << 16  # bytes at the start among which the samples begin
_MPEG = b"\x50\0", b"\x55\0"  # the numbers of layers 2 and 3 among the formats of WAV
Pieces = tuple[bytes, tuple[int, int]]


def data_without_size(file: io.IOBase, size: int) -> Pieces | None:
    """The header with the size that the samples have, and where they lie in a file of `size` bytes
    whose header says that there are none. None where that is true, and for other files."""
    file.seek(0)
    head = file.read(_LOOKED_AT)
    if head[:4] == b".snd":
        first = int.from_bytes(head[4:8], "big")
        if not 24 <= first < min(size, len(head)):
            return None
        return head[:8] + b"\xff" * 4 + head[12:first], (first, size)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return None
    long_sizes = None
    for name, place, _ in _chunks(head):
        if name == b"data":
            if place >= size or _is_chunk(head[place : place + 8], size - place):
                return None
            return _sized(head[:place], long_sizes, size - place), (place, size)
        if name == b"ds64":
            long_sizes = place
    return None


def is_mpeg_in_wav(head: bytes) -> bool:
    """Whether a file that begins so is a WAV file with MPEG audio."""
    return head[:4] == b"RIFF" and head[12:16] == b"fmt " and head[20:22] in _MPEG


def data_span(data: bytes) -> tuple[int, int]:
    """(first, stop) of the samples in the bytes of a WAV file."""
    for name, place, length in _chunks(data):
        if name == b"data":
            return place, min(place + (length or len(data)), len(data))
    return len(data), len(data)


def _chunks(head: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, place, length) of the chunks of a WAV file that begin in its first bytes."""
    place = 12
    while place + 8 <= len(head):
        name, length = struct.unpack("<4sI", head[place : place + 8])
        yield name, place + 8, length
        place += 8 + length + length % 2


def _is_chunk(start: bytes, left: int) -> bool:
    """Whether a chunk of `left` bytes at most begins so, and no samples do."""
    return (
        len(start) == 8
        and start[:4].isascii()
        and start[:4].decode().isprintable()
        and int.from_bytes(start[4:], "little") + 8 <= left
    )


def _sized(head: bytes, long_sizes: int | None, length: int) -> bytes:
    """The header up to the samples, with their `length` in bytes."""
    head = bytearray(head)
    if long_sizes is not None:  # of the file, of the samples; then frames, which follow from these
        head[long_sizes : long_sizes + 16] = struct.pack("<QQ", len(head) + length - 8, length)
        length = 0xFFFF_FFFF
    head[-4:] = struct.pack("<I", min(length, 0xFFFF_FFFF))
    return bytes(head)
