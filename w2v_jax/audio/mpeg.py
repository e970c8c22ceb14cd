"""The frames of an MPEG audio stream (MP3, MP2, MP1), counted by their headers.

Headers of such files announce a length that decoders believe: libsndfile stops there. Here a file
is as long as its frames are. What its first frame says of the delay of the encoder is cut off, as
decoders of the field do (mpg123, ffmpeg): `delay` + 529 samples at the start and `padding` - 529 at
the end. Of files put end to end only the first delay is: what the others say is of no use amidst.
"""

import functools
import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

LONGEST = 1800  # bytes that no frame has
_DECODER_DELAY = 529
_CHAINED = 3  # frames in a row that are believed to be one stream, where none was before
_BEGINS = re.compile(b"\xff[\xe0-\xff]|ID3|TAG")  # frames and tags
_INFORMATION = re.compile(b"Xing|Info|VBRI")
_FIELDS = (1, 4), (2, 4), (4, 100), (8, 4)  # (flag, bytes) of what Xing tells before the encoder
# kbit/s by (is MPEG-1, layer)
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _described(first: int, second: int) -> tuple[int, int, int, int]:
    """(bytes, samples, rate, layer) of a frame by the second and third byte of its header, or
    zeros where these are none. Free bit rates are not known: nobody uses them."""
    version, layer, bits = first >> 3 & 3, 4 - (first >> 1 & 3), second >> 4
    choice = second >> 2 & 3
    if first < 0xE0 or version == 1 or layer == 4 or bits in (0, 15) or choice == 3:
        return 0, 0, 0, 0
    rate = _RATES[version][choice]
    bitrate = 1000 * _BITRATES[version == 3, layer][bits - 1]
    padding = second >> 1 & 1
    if layer == 1:
        return (12 * bitrate // rate + padding) * 4, 384, rate, layer
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bitrate // rate + padding, samples, rate, layer


_FRAMES = [_described(key >> 8, key & 0xFF) for key in range(1 << 16)]


class Kind(NamedTuple):
    """What all frames of a stream have in common."""

    samples: int
    rate: int
    layer: int
    channels: int


@dataclass(frozen=True)
class Stream:
    """What the frames of a file say.

    header    the first 4 bytes of the first frame
    spans     (first, stop) of the bytes that hold them, without tags, junk and silent frames
    delay, padding    of the encoder in samples, None where nothing is said
    announced frames that the file says it has, None where nothing is said
    other     the kind of the frames that follow the last one, None at the end of the file
    plain     whether decoders that believe the header read it to the end
    """

    kind: Kind
    header: bytes
    spans: tuple[tuple[int, int], ...]
    frames: int
    delay: int | None
    padding: int | None
    announced: int | None
    other: Kind | None
    plain: bool

    @property
    def samples(self) -> int:
        """Samples per channel that are decoded."""
        return self.samples_of(self.frames)

    def samples_of(self, frames: int) -> int:
        """Samples per channel of that many frames, without delay and padding."""
        start = self.delay + _DECODER_DELAY if self.delay is not None else 0
        end = max((self.padding or 0) - _DECODER_DELAY, 0)
        return max(frames * self.kind.samples - start - end, 0)

    def beginning(self) -> bytes:
        """Frames without sound to put before the others, which say how many there are (layer 3).

        Decoders cut off _DECODER_DELAY even where no delay is told: then a second frame, of
        silence, is there to be cut off.
        """
        side = _side_information(self.kind)
        for bits in range(1, 15):
            head = bytes([0xFF, self.header[1] | 1, bits << 4 | self.header[2] & 0x0C])
            length = _FRAMES[head[1] << 8 | head[2]][0]
            if length >= side + 48:
                break
        silence = head + self.header[3:4] + bytes(length - 4)
        told = self.delay is not None
        delay = self.delay if told else self.kind.samples - _DECODER_DELAY
        both = delay << 12 | (self.padding or 0)
        information = bytearray(silence)
        information[side : side + 12] = b"Info" + struct.pack(">II", 1, self.frames + (not told))
        information[side + 12 : side + 16] = b"LAME"
        information[side + 33 : side + 36] = both.to_bytes(3, "big")
        return bytes(information) + (b"" if told else silence)


def _side_information(kind: Kind) -> int:
    """Where the information of a frame of layer 3 begins that has no sound."""
    if kind.samples == 1152:  # MPEG-1
        return 4 + (17 if kind.channels == 1 else 32)
    return 4 + (9 if kind.channels == 1 else 17)


def _kind(data: bytes, place: int) -> Kind | None:
    """That of the frame that begins here; None where none does."""
    if place + 4 > len(data) or data[place] != 0xFF:
        return None
    length, samples, rate, layer = _FRAMES[data[place + 1] << 8 | data[place + 2]]
    channels = 1 if data[place + 3] >> 6 == 3 else 2
    return Kind(samples, rate, layer, channels) if length else None


@functools.lru_cache(64)
def _lengths(kind: Kind) -> dict[int, int]:
    """Bytes of a frame by the second and third byte of its header, for all of one kind."""
    return {key: frame[0] for key, frame in enumerate(_FRAMES) if frame[1:] == kind[:3]}


def _chain(data: bytes, place: int, wanted: int) -> Kind | None:
    """The kind of a stream that has `wanted` frames from here on, or reaches the end."""
    kind = _kind(data, place)
    for _ in range(wanted - 1):
        if kind is None:
            return None
        place += _FRAMES[data[place + 1] << 8 | data[place + 2]][0]
        if place == len(data):
            break
        if _kind(data, place) != kind:
            return None
    return kind


def _after_tag(data: bytes, place: int) -> int:
    """Where the ID3 tag ends that begins here; `place` if none does."""
    if data[place : place + 3] == b"ID3" and place + 10 <= len(data):
        size = 0
        for byte in data[place + 6 : place + 10]:
            size = size << 7 | byte & 0x7F
        return min(place + 10 + size, len(data))
    if data[place : place + 3] == b"TAG" and place + 128 <= len(data):
        return place + 128
    return place


def _found(data: bytes, place: int, kind: Kind | None) -> tuple[int, Kind | None]:
    """(where frames go on, their kind) from a place where no frame of `kind` begins. At the end of
    the data the kind is None. Of the same kind two frames in a row are believed, of another more.
    """
    while place < len(data):
        after = _after_tag(data, place)
        if after > place:
            place = after
            continue
        if data[place] == 0xFF:
            if kind is not None and _chain(data, place, 2) == kind:
                return place, kind
            other = _chain(data, place, _CHAINED)
            if other is not None:
                return place, other
        begin = _BEGINS.search(data, place + 1)
        place = begin.start() if begin else len(data)
    return place, None


def _information(data: bytes, kind: Kind) -> dict[int, tuple]:
    """(frames, delay, padding), each None where it is not told, by the place of the frame that
    tells it and has no sound, if there is a frame."""
    found = {}
    if kind.layer != 3:
        return found
    for match in _INFORMATION.finditer(data):
        if match[0] == b"VBRI":
            frames = int.from_bytes(data[match.start() + 14 : match.start() + 18], "big")
            found[match.start() - 36] = frames, None, None
            continue
        start = match.end()
        flags = int.from_bytes(data[start : start + 4], "big")
        frames = int.from_bytes(data[start + 4 : start + 8], "big") if flags & 1 else None
        encoder = start + 4 + sum(size for flag, size in _FIELDS if flags & flag)
        both = int.from_bytes(data[encoder + 21 : encoder + 24], "big")
        known = data[encoder : encoder + 1].isalpha()
        place = match.start() - _side_information(kind)
        found[place] = (frames, both >> 12, both & 0xFFF) if known else (frames, None, None)
    return found


def begins(head: bytes) -> bool:
    """Whether a frame may begin so; what has one such header only may be something else."""
    return len(head) > 2 and head[0] == 0xFF and _FRAMES[head[1] << 8 | head[2]][0] > 0


def scan(data: bytes) -> Stream | None:
    """The stream in the bytes of a file; None where no frame is found."""
    place, kind = _found(data, 0, None)
    if kind is None:
        return None
    lengths, silent, size = _lengths(kind), _information(data, kind), len(data)
    mono = kind.channels == 1
    spans: list[tuple[int, int]] = []
    frames, joined = 0, False
    announced = delay = padding = other = None
    while place < size:
        begin, length = place, 0
        while place + 4 <= size and data[place] == 0xFF:
            length = lengths.get(data[place + 1] << 8 | data[place + 2], 0)
            if not length or (data[place + 3] >= 0xC0) != mono or place + length > size:
                length = 0
                break
            if place in silent:
                break
            frames += 1
            place += length
            length = 0
        if place > begin:
            spans.append((begin, place))
        if length:  # a frame without sound
            if frames:
                joined = True
            else:
                announced, delay, padding = silent[place]
            place += length
            continue
        place, following = _found(data, place, kind)
        if following not in (None, kind):
            other = following
            break
    if not frames:
        return None
    header = data[spans[0][0] : spans[0][0] + 4]
    if joined or (announced or 0) > frames:  # nothing is known of this end
        padding = None
    first = _after_tag(data, 0)
    plain = (
        (announced, len(spans)) == (frames, 1)
        and delay is not None
        and first in silent
        and spans[0][0] == first + lengths[data[first + 1] << 8 | data[first + 2]]
    )
    return Stream(kind, header, tuple(spans), frames, delay, padding, announced, other, plain)
