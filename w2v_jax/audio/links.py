"""How the bytes of a file have to be read so that libsndfile decodes all of it.

Mostly as they are. Where its header would end the decoding too early, the frames of MPEG audio and
the links of a chained Ogg are looked for, once per process, and read as files of their own.
"""

import io
import logging
import os
import re
import threading
from collections import OrderedDict
from typing import NamedTuple

import soundfile

from w2v_jax.audio import mpeg, ogg
from w2v_jax.audio.files import RemoteFile, first_line, identity
from w2v_jax.audio.headers import data_span, is_mpeg_in_wav
from w2v_jax.audio.spans import Spans
from w2v_jax.errors import AudioError

log = logging.getLogger(__name__)
_lock = threading.Lock()

_RATES = range(1_000, 1_000_001)  # a rate outside is a damaged header
_MPEG_ENDINGS = frozenset({".mp1", ".mp2", ".mp3", ".mpa", ".mpga"})
_OTHERS = b"RIFF", b"RF64", b"fLaC", b"FORM", b".snd", b"OggS"  # what is no MPEG audio by its name
_NOTED = 50  # files with an odd header that a process names
_KNOWN = 32_768  # files of which is known how they have to be read, those that were used last

# What libsndfile notes about a file that ends early. It then goes on with what is there.
_CUT_WAV = re.compile(r"^data : (\d+) \(should be \d+\)$", re.MULTILINE)
_CUT_OGG = re.compile(r"^Ogg ?: Last page lacks an end-of-stream bit\.\nOgg ?: Junk", re.MULTILINE)
_STREAMED_WAV = 0x7FFF_0000  # sizes from here on are placeholders of programs that wrote to a pipe


class Stream(soundfile.SoundFile):
    """A sound file read forwards.

    soundfile seeks to the current position after every read. In Ogg Opus libsndfile 1.2 then
    returns wrong samples at the end of the file, and in a FLAC of unknown length the seek fails.
    """

    def seekable(self) -> bool:
        return False


class Link(NamedTuple):
    """A part of a file that is decoded by itself.

    pieces    the bytes to decode instead of those of the file; None: the file as it is
    frames    how many it has; None where libsndfile is to say so
    claimed   see Spans
    """

    pieces: tuple[bytes | tuple[int, int], ...] | None = None
    frames: int | None = None
    claimed: int = 0


def open_link(path: str | os.PathLike, file: io.IOBase, link: Link) -> Stream:
    source = os.fsencode(path) if not isinstance(file, RemoteFile) else file
    if link.pieces is not None:
        source = Spans(file, link.pieces, link.claimed)
    elif source is file:
        file.seek(0)
    try:
        return Stream(source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        check_fetched(path, file)
        # libsndfile says "does not exist or is not a regular file" when it finds no MPEG frame.
        bad_file = getattr(error, "code", None) == 7
        detail = "no MPEG audio found" if bad_file else getattr(error, "error_string", "no header")
        reason = f"is not audio that can be read ({detail.rstrip('.')})"
        raise AudioError(f"{path}: {reason}") from None


def check_fetched(path: str | os.PathLike, file: io.IOBase) -> None:
    """libsndfile takes a remote file that stays away for the end of the file."""
    if isinstance(file, RemoteFile) and file.failure:
        raise AudioError(f"{path}: cannot be fetched ({first_line(file.failure)})")


def check_complete(path: str | os.PathLike, stream: Stream, notes: str) -> None:
    """Raises AudioError for what the header, by libsndfile's notes of it, shows to be incomplete or
    damaged."""
    wav = _CUT_WAV.search(notes)
    if (wav and int(wav[1]) < _STREAMED_WAV) or _CUT_OGG.search(notes):
        seconds = stream.frames / stream.samplerate
        raise AudioError(f"{path}: is cut off after {seconds:.2f} s (incomplete copy?)")
    if stream.samplerate not in _RATES:
        raise AudioError(f"{path}: its header claims {stream.samplerate} samples per second")


_noted: set[str] = set()


def note(message: str) -> None:
    """Warns once, however often the file is read, and of so many files."""
    with _lock:
        if message in _noted or len(_noted) == _NOTED:
            return
        _noted.add(message)
        last = len(_noted) == _NOTED
    log.warning("%s", message + ("; further files like it are not named" if last else ""))


_known: OrderedDict[tuple, tuple[Link, ...]] = OrderedDict()  # by the identity of the file


def links_of(path: str | os.PathLike, file: io.IOBase, head: bytes) -> tuple[Link, ...]:
    """The links of a file. What has to be looked through for them is so once per process."""
    is_ogg = head.startswith(b"OggS")
    named = os.path.splitext(os.fspath(path))[1].lower() in _MPEG_ENDINGS
    is_mpeg = mpeg.begins(head) or (named and not head.startswith(_OTHERS))
    if not (is_ogg or is_mpeg or is_mpeg_in_wav(head)):
        return (Link(),)
    key = identity(path, file)
    with _lock:
        found = _known.get(key)
        if found is not None:
            _known.move_to_end(key)
    if found is None:
        file.seek(0)
        data = file.read()
        check_fetched(path, file)
        found = _ogg_links(path, file, data) if is_ogg else _mpeg_links(path, data)
        with _lock:
            _known[key] = found
            if len(_known) > _KNOWN:
                _known.popitem(last=False)
    return found


def _mpeg_links(path: str | os.PathLike, data: bytes) -> tuple[Link, ...]:
    first, stop = data_span(data) if is_mpeg_in_wav(data) else (0, len(data))
    found = mpeg.scan(data[first:stop])
    if found is None:
        return (Link(),)  # libsndfile says what it is
    kind, seconds = found.kind, found.samples / found.kind.rate
    if found.other is not None:
        raise AudioError(
            f"{path}: changes after {seconds:.2f} s from {kind.rate} Hz, channels {kind.channels}, "
            f"to {found.other.rate} Hz, channels {found.other.channels}; cut it there, or convert "
            "it, for example to flac"
        )
    if found.announced is not None and found.announced > found.frames:
        announced = found.samples_of(found.announced) / kind.rate
        note(f"{path}: its header announces {announced:.2f} s, there are {seconds:.2f} s")
    if found.plain and not first:
        return (Link(frames=found.samples),)
    spans = tuple((first + begin, first + end) for begin, end in found.spans)
    if kind.layer == 3:
        return (Link((found.beginning(), *spans), found.samples),)
    return (Link(spans, found.samples, mpeg.LONGEST * found.frames),)


def _ogg_links(path: str | os.PathLike, file: io.IOBase, data: bytes) -> tuple[Link, ...]:
    links = ogg.links(data)
    found, rate, seconds = [], 0, 0.0
    for link in links:
        piece = Link((link.span,)) if len(links) > 1 else Link()
        with open_link(path, file, piece) as stream:
            check_complete(path, stream, stream.extra_info)
            rate = rate or stream.samplerate
            if stream.samplerate != rate:
                raise AudioError(
                    f"{path}: changes after {seconds:.2f} s from {rate} to {stream.samplerate} Hz; "
                    "cut it there, or convert it, for example to flac"
                )
            seconds += stream.frames / rate
            found.append(piece._replace(frames=stream.frames))
        if link.cut:
            raise AudioError(f"{path}: is cut off after {seconds:.2f} s (incomplete copy?)")
        if not link.ended:
            note(f"{path}: is not marked as ended after {seconds:.2f} s; it may be incomplete")
    return tuple(found)
