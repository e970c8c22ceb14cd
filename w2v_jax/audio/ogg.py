"""The links of an Ogg file: what was put end to end, each a file of its own.

libsndfile reads the first link only, and where all have one serial number, as when a file is put
behind itself, it takes the end of the last for that of the first.
"""

from typing import NamedTuple

_HEADER = 27  # bytes of a page before its table
_FIRST, _LAST = 2, 4  # flags of the first and last page of a stream


class Link(NamedTuple):
    """span: (first, stop) of its bytes; cut: whether its last page lacks bytes; ended: whether its
    last page is marked so."""

    span: tuple[int, int]
    cut: bool
    ended: bool


def links(data: bytes) -> list[Link]:
    """The links of a file, one if it is not chained.

    A link begins at a first page that follows another page: the streams of a link (sound, picture)
    have theirs one after the other.
    """
    found: list[Link] = []
    begin, place, flags, cut = 0, data.find(b"OggS"), _FIRST, False
    while place >= 0:
        if place + _HEADER > len(data):
            cut = True
            break
        if data[place + 5] & _FIRST and not flags & _FIRST:
            found.append(Link((begin, place), cut, bool(flags & _LAST)))
            begin = place
        flags = data[place + 5]
        table = data[place + _HEADER : place + _HEADER + data[place + _HEADER - 1]]
        after = place + _HEADER + len(table) + sum(table)
        cut = after > len(data)
        if data[after : after + 4] != b"OggS":  # the end, or damage
            after = data.find(b"OggS", place + 4)
        place = after
    return [*found, Link((begin, len(data)), cut, bool(flags & _LAST))]
