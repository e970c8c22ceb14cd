"""Where a FLAC file ends by the number of its last frame, whatever its header announces."""

import functools
import io
import os

_TAIL = 1 << 16  # bytes at the end of a file in which its last frame begins, if it is looked for
_SHORTEST = 10  # bytes of a frame


@functools.cache
def _table(polynomial: int, bits: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            high = value >> bits - 1
            value = (value << 1 & (1 << bits) - 1) ^ (polynomial if high else 0)
        table.append(value)
    return table


def _checksum(data: bytes, polynomial: int, bits: int) -> int:
    table, mask, value = _table(polynomial, bits), (1 << bits) - 1, 0
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
    return value


def _frame_end(data: bytes, block: int) -> int | None:
    """The sample behind the frame that begins `data`, None where none does. `block`: samples in
    each frame of a file whose frames are counted, and not their samples."""
    head = data[:20]
    sizes, rate, first = head[2] >> 4, head[2] & 15, head[4]
    length = 0 if first < 0x80 else 8 - (first ^ 0xFF).bit_length()  # of its UTF-8
    place = 5 + max(length - 1, 0)
    if sizes == 0 or rate == 15 or head[3] & 1 or head[3] >> 4 > 10 or length == 1:
        return None
    number = first & (0x7F if not length else (1 << 7 - length) - 1 if length < 7 else 0)
    for byte in head[5:place]:
        number = number << 6 | byte & 0x3F
    extra = {6: 1, 7: 2}.get(sizes, 0)
    if extra:
        size = int.from_bytes(head[place : place + extra], "big") + 1
    elif sizes == 1:
        size = 192
    else:
        size = 576 << sizes - 2 if sizes < 6 else 1 << sizes
    place += extra + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if place >= len(head) or _checksum(head[:place], 0x07, 8) != head[place]:
        return None
    return (number if head[1] & 1 else number * block) + size


def announced_and_end(file: io.IOBase) -> tuple[int, int] | None:
    """(samples that the header announces, the sample behind the last frame) of a file, where they
    are not the same. None where they are, or where there is nothing to compare."""
    file.seek(0)
    head = file.read(42)
    total = int.from_bytes(head[21:26], "big") & (1 << 36) - 1
    if head[:4] != b"fLaC" or len(head) < 42 or not total:
        return None
    block = int.from_bytes(head[10:12], "big")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _TAIL, 42))
    data = file.read(_TAIL)
    place = len(data) - _SHORTEST + 1
    while (place := data.rfind(b"\xff", 0, place)) >= 0:
        if len(data) - place < _SHORTEST or data[place + 1] & 0xFE != 0xF8:
            continue
        end = _frame_end(data[place:], block)
        if end == total:
            return None
        # Of bytes that look like the head of a frame, the checksum of the frame is asked.
        if end is not None and not _checksum(data[place:], 0x8005, 16):
            return total, end
    return None
