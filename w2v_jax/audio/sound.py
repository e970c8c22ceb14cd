"""What libsndfile decodes, to its end: where it would stop too early, it is helped.

    MP3, MP2    as long as their frames are, whatever the header says or does not say (`mpeg`)
    Ogg         all links of a chain, one after the other (`ogg`)
    WAV, AU     samples that follow although their header says 0 (`headers`)
"""

import contextlib
import io
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile

from w2v_jax.audio import flac, mpeg, ogg
from w2v_jax.audio.files import RemoteFile, first_line, identity
from w2v_jax.audio.headers import data_span, data_without_size, is_mpeg_in_wav
from w2v_jax.audio.levels import check_levels
from w2v_jax.audio.spans import Spans
from w2v_jax.errors import AudioError

log = logging.getLogger(__name__)
_lock = threading.Lock()

BLOCK = 1 << 18  # frames decoded at a time
# In Ogg, decoding begins this much earlier than asked: libsndfile 1.2 seeks to a wrong place in the
# last page of a Vorbis stream, and Opus needs a while until it gives the samples of the whole file.
_OGG_RUN_UP_SECONDS = 30
_RATES = range(1_000, 1_000_001)  # a rate outside is a damaged header
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's answer for a FLAC that was streamed
_UNSIZED = "WAV", "WAVEX", "RF64", "AU"  # formats whose header may say 0
_STEP = 1024  # frames decoded at a time to find damage
_MUCH = 4096  # bytes that are no longer taken for a header or a tag alone
_MPEG_ENDINGS = frozenset({".mp1", ".mp2", ".mp3", ".mpa", ".mpga"})
_NOTED = 50  # files with an odd header that a process names
_KNOWN = 4096  # files of which is known how they have to be read

# What libsndfile notes about a file that ends early. It then goes on with what is there.
_CUT_WAV = re.compile(r"^data : (\d+) \(should be \d+\)$", re.MULTILINE)
_CUT_OGG = re.compile(r"^Ogg ?: Last page lacks an end-of-stream bit\.\nOgg ?: Junk", re.MULTILINE)
_STREAMED_WAV = 0x7FFF_0000  # sizes from here on are placeholders of programs that wrote to a pipe
_NO_CHUNK = re.compile(r"^\*\*\* Unknown chunk marker \(\w+\) at position (\w+)\.", re.MULTILINE)


class _Stream(soundfile.SoundFile):
    """A sound file read forwards.

    soundfile seeks to the current position after every read. In Ogg Opus libsndfile 1.2 then
    returns wrong samples at the end of the file, and in a FLAC of unknown length the seek fails.
    """

    def seekable(self) -> bool:
        return False


class _Link(NamedTuple):
    """A part of a file that is decoded by itself.

    pieces    the bytes to decode instead of those of the file; None: the file as it is
    frames    how many it has; None where libsndfile is to say so
    claimed   see Spans
    """

    pieces: tuple[bytes | tuple[int, int], ...] | None = None
    frames: int | None = None
    claimed: int = 0


class Sound:
    """An audio file that libsndfile decodes; `close` it.

    rate      Hz
    frames    samples of each channel, None where only decoding tells
    pcm16     whether it is one channel of 16-bit samples

    Raises AudioError for what cannot be read.
    """

    def __init__(self, path: str | os.PathLike, file: io.IOBase, head: bytes):
        """file: the file, open; head: its first bytes, or those behind its ID3 tag."""
        self._path, self._file = path, file
        self._links = _links(path, file, head)
        self._stream = _opened(path, file, self._links[0])
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        stream = self._stream
        if not stream.frames and stream.format in _UNSIZED:
            stream = self._with_size() or stream
        self.rate = stream.samplerate
        frames = [stream.frames if link.frames is None else link.frames for link in self._links]
        self.frames = sum(frames) if frames[0] != _UNKNOWN_LENGTH else None
        self.pcm16 = stream.channels == 1 and stream.subtype == "PCM_16"
        _check(self._path, stream)
        self._note_rest(stream)

    def _with_size(self) -> _Stream | None:
        """The samples of a file whose header says that it has none."""
        pieces = data_without_size(self._file, self._file.seek(0, os.SEEK_END))
        if pieces is None:
            return None
        self.close()
        self._links = (_Link(pieces),)
        self._stream = stream = _opened(self._path, self._file, self._links[0])
        seconds = stream.frames / stream.samplerate
        _note(f"{self._path}: its header says 0 s; the {seconds:.2f} s that follow are read")
        return stream

    def _note_rest(self, stream: _Stream) -> None:
        """Says so where more follows than the header counts; raises AudioError if that is 0."""
        end = _NO_CHUNK.search(stream.extra_info) if stream.format in ("WAV", "WAVEX") else None
        if not end and self.frames != 0:
            return
        size = self._file.seek(0, os.SEEK_END)
        rest = size - int(end[1], 0) if end else 0
        if self.frames == 0 and size > _MUCH:
            raise AudioError(
                f"{self._path}: holds no samples by its header, though the file has {size} bytes; "
                "write it again with a program that reads it"
            )
        if self.frames and rest > _MUCH:
            _note(
                f"{self._path}: is read for the {self.frames / self.rate:.2f} s that its header "
                f"counts; {rest} bytes follow that are no part of it"
            )

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def blocks(
        self, start: int = 0, stop: int | None = None, dtype: str = "float32"
    ) -> Iterator[np.ndarray]:
        """Yields frames start..stop, or to the end, as `dtype` [n, channels]."""
        if stop is None and self._stream.format == "FLAC":
            self._check_flac()
        position = start
        first = 0
        for number, link in enumerate(self._links):
            last = first + link.frames if len(self._links) > 1 else None
            if (last is None or start < last) and (stop is None or stop > first):
                if number:
                    self.close()
                    self._stream = _opened(self._path, self._file, link)
                inside = None if stop is None else stop - first
                for block in self._link_blocks(link, max(start - first, 0), inside, dtype):
                    position += len(block)
                    yield block
            first = last
        end = self.frames if stop is None else stop
        if self.frames is not None and position < min(end, self.frames):
            raise AudioError(
                f"{self._path}: ends after {position / self.rate:.2f} s, "
                f"its header announces {self.frames / self.rate:.2f} s"
            )

    def _check_flac(self) -> None:
        found = flac.announced_and_end(self._file)
        if found:
            announced, end = (samples / self.rate for samples in found)
            raise AudioError(
                f"{self._path}: its header announces {announced:.2f} s, by its last frame it has "
                f"{end:.2f} s (cut, or several files put end to end?); decode it with ffmpeg or "
                "flac, and write it again"
            )

    def _link_blocks(
        self, link: _Link, start: int, stop: int | None, dtype: str
    ) -> Iterator[np.ndarray]:
        path, stream = self._path, self._stream
        run_up = _OGG_RUN_UP_SECONDS * self.rate if stream.format == "OGG" else 0
        position = max(start - run_up, 0)
        try:
            if position:
                stream.seek(position)
            while stop is None or position < stop:
                wanted = BLOCK if stop is None else min(BLOCK, stop - position)
                block = stream.read(wanted, dtype=dtype, always_2d=True)
                _check_fetched(path, self._file)
                if not len(block):
                    return
                if dtype == "float32":
                    check_levels(path, block)
                skip = max(start - position, 0)
                position += len(block)
                if skip < len(block):
                    yield block[skip:]
        except soundfile.SoundFileError as error:
            detail = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
            reached = self._reached(link, position)
            raise AudioError(
                f"{path}: cannot be decoded beyond {reached / self.rate:.2f} s ({detail})"
            ) from None

    def _reached(self, link: _Link, position: int) -> int:
        """How far a block from `position` on, which cannot be decoded whole, can be."""
        with (
            contextlib.suppress(soundfile.SoundFileError),
            _opened(self._path, self._file, link) as stream,
        ):
            stream.seek(position)
            while read := len(stream.read(_STEP)):
                position += read
        return position


def _opened(path: str | os.PathLike, file: io.IOBase, link: _Link) -> _Stream:
    source = os.fsencode(path) if not isinstance(file, RemoteFile) else file
    if link.pieces is not None:
        source = Spans(file, link.pieces, link.claimed)
    elif source is file:
        file.seek(0)
    try:
        return _Stream(source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        _check_fetched(path, file)
        # libsndfile says "does not exist or is not a regular file" when it finds no MPEG frame.
        bad_file = getattr(error, "code", None) == 7
        detail = "no MPEG audio found" if bad_file else getattr(error, "error_string", "no header")
        reason = f"is not audio that can be read ({detail.rstrip('.')})"
        raise AudioError(f"{path}: {reason}") from None


def _check_fetched(path: str | os.PathLike, file: io.IOBase) -> None:
    """libsndfile takes a remote file that stays away for the end of the file."""
    if isinstance(file, RemoteFile) and file.failure:
        raise AudioError(f"{path}: cannot be fetched ({first_line(file.failure)})")


def _check(path: str | os.PathLike, stream: _Stream) -> None:
    """Raises AudioError for what the header shows to be incomplete or damaged."""
    notes = stream.extra_info
    wav = _CUT_WAV.search(notes)
    if (wav and int(wav[1]) < _STREAMED_WAV) or _CUT_OGG.search(notes):
        seconds = stream.frames / stream.samplerate
        raise AudioError(f"{path}: is cut off after {seconds:.2f} s (incomplete copy?)")
    if stream.samplerate not in _RATES:
        raise AudioError(f"{path}: its header claims {stream.samplerate} samples per second")


_noted: set[str] = set()


def _note(message: str) -> None:
    """Warns once, however often the file is read, and of so many files."""
    with _lock:
        if message in _noted or len(_noted) == _NOTED:
            return
        _noted.add(message)
        last = len(_noted) == _NOTED
    log.warning("%s", message + ("; further files like it are not named" if last else ""))


_known: OrderedDict[tuple, tuple[_Link, ...]] = OrderedDict()  # by the identity of the file


def _links(path: str | os.PathLike, file: io.IOBase, head: bytes) -> tuple[_Link, ...]:
    """The links of a file. What has to be looked through for them is so once per process."""
    is_ogg = head.startswith(b"OggS")
    is_mpeg = mpeg.begins(head) or os.path.splitext(os.fspath(path))[1].lower() in _MPEG_ENDINGS
    if not (is_ogg or is_mpeg or is_mpeg_in_wav(head)):
        return (_Link(),)
    key = identity(path, file)
    with _lock:
        found = _known.get(key)
    if found is None:
        file.seek(0)
        data = file.read()
        _check_fetched(path, file)
        found = _ogg_links(path, file, data) if is_ogg else _mpeg_links(path, data)
        with _lock:
            _known[key] = found
            if len(_known) > _KNOWN:
                _known.popitem(last=False)
    return found


def _mpeg_links(path: str | os.PathLike, data: bytes) -> tuple[_Link, ...]:
    first, stop = data_span(data) if is_mpeg_in_wav(data) else (0, len(data))
    found = mpeg.scan(data[first:stop])
    if found is None:
        return (_Link(),)  # libsndfile says what it is
    kind, seconds = found.kind, found.samples / found.kind.rate
    if found.other is not None:
        raise AudioError(
            f"{path}: changes after {seconds:.2f} s from {kind.rate} Hz, channels {kind.channels}, "
            f"to {found.other.rate} Hz, channels {found.other.channels}; cut it there, or convert "
            "it, for example to flac"
        )
    if found.announced is not None and found.announced > found.frames:
        announced = found.samples_of(found.announced) / kind.rate
        _note(f"{path}: its header announces {announced:.2f} s, there are {seconds:.2f} s")
    if found.plain and not first:
        return (_Link(frames=found.samples),)
    spans = tuple((first + begin, first + end) for begin, end in found.spans)
    if kind.layer == 3:
        return (_Link((found.beginning(), *spans), found.samples),)
    return (_Link(spans, found.samples, mpeg.LONGEST * found.frames),)


def _ogg_links(path: str | os.PathLike, file: io.IOBase, data: bytes) -> tuple[_Link, ...]:
    links = ogg.links(data)
    found, rate, seconds = [], 0, 0.0
    for link in links:
        piece = _Link((link.span,)) if len(links) > 1 else _Link()
        with _opened(path, file, piece) as stream:
            _check(path, stream)
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
            _note(f"{path}: is not marked as ended after {seconds:.2f} s; it may be incomplete")
    return tuple(found)
