"""The links of an Ogg file: what was put end to end, each a file of its own.

libsndfile reads the first link only, and where all have one serial number, as when a file is put
behind itself, it takes the end of the last for that of the first.
"""

_HEADER = 27  # bytes of a page before its table
_FIRST = 2  # flag of the first page of a stream


def links(data: bytes) -> list[tuple[int, int]]:
    """(first, stop) of the bytes of every link, one for a file that is not chained.

    A link begins at a first page that follows another page: the streams of a link (sound, picture)
    have theirs one after the other.
    """
    starts, place, after_first = [0], data.find(b"OggS"), True
    while 0 <= place <= len(data) - _HEADER:
        is_first = bool(data[place + 5] & _FIRST)
        if is_first and not after_first:
            starts.append(place)
        after_first = is_first
        table = data[place + _HEADER : place + _HEADER + data[place + _HEADER - 1]]
        after = place + _HEADER + len(table) + sum(table)
        if data[after : after + 4] != b"OggS":  # the end, or damage
            after = data.find(b"OggS", place + 4)
        place = after
    return list(zip(starts, [*starts[1:], len(data)], strict=True))
