"""What libsndfile decodes, to its end: where it would stop too early, it is helped.

    MP3, MP2    as long as their frames are, whatever the header says or does not say (`mpeg`)
    Ogg         all links of a chain, one after the other (`ogg`)
    WAV, AU     samples that follow although their header says 0 (`headers`)
    FLAC        refused where its last frame is not the one that its header announces (`flac`)
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile

from w2v_jax.audio import flac
from w2v_jax.audio.headers import data_without_size
from w2v_jax.audio.levels import check_levels
from w2v_jax.audio.links import (
    Link,
    Stream,
    check_complete,
    check_fetched,
    links_of,
    note,
    open_link,
)
from w2v_jax.errors import AudioError

BLOCK = 1 << 18  # frames decoded at a time
# In Ogg, decoding begins this much earlier than asked: libsndfile 1.2 seeks to a wrong place in the
# last page of a Vorbis stream, and Opus needs a while until it gives the samples of the whole file.
_OGG_RUN_UP_SECONDS = 30
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's answer for a FLAC that was streamed
_UNSIZED = "WAV", "WAVEX", "RF64", "AU"  # formats whose header may say 0
_STEP = 1024  # frames decoded at a time to find damage
_MUCH = 4096  # bytes that are no longer taken for a header or a tag alone
_NO_CHUNK = re.compile(r"^\*\*\* Unknown chunk marker \(\w+\) at position (\w+)\.", re.MULTILINE)


@contextlib.contextmanager
def _elsewhere(file: io.IOBase) -> Iterator[None]:
    """libsndfile may be reading a remote file: it must find the place where it was."""
    place = file.tell()
    try:
        yield
    finally:
        file.seek(place)


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
        self._links = links_of(path, file, head)
        self._stream = open_link(path, file, self._links[0])
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
        notes = stream.extra_info
        check_complete(self._path, stream, notes)
        self._note_rest(_NO_CHUNK.search(notes) if stream.format in ("WAV", "WAVEX") else None)

    def _with_size(self) -> Stream | None:
        """The samples of a file whose header says that it has none."""
        pieces = data_without_size(self._file, self._file.seek(0, os.SEEK_END))
        if pieces is None:
            return None
        self.close()
        self._links = (Link(pieces),)
        self._stream = stream = open_link(self._path, self._file, self._links[0])
        seconds = stream.frames / stream.samplerate
        note(f"{self._path}: its header says 0 s; the {seconds:.2f} s that follow are read")
        return stream

    def _note_rest(self, end: re.Match | None) -> None:
        """Says so where more follows than the header counts; raises AudioError if that is 0.

        end: where libsndfile found no more chunks, if it did not come to the end.
        """
        if not end and self.frames != 0:
            return
        with _elsewhere(self._file):
            size = self._file.seek(0, os.SEEK_END)
        rest = size - int(end[1], 0) if end else 0
        if self.frames == 0 and size > _MUCH:
            raise AudioError(
                f"{self._path}: holds no samples by its header, though the file has {size} bytes; "
                "write it again with a program that reads it"
            )
        if self.frames and rest > _MUCH:
            note(
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
                    self._stream = open_link(self._path, self._file, link)
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
        with _elsewhere(self._file):
            found = flac.announced_and_end(self._file)
        if found:
            announced, end = (samples / self.rate for samples in found)
            raise AudioError(
                f"{self._path}: its header announces {announced:.2f} s, by its last frame it has "
                f"{end:.2f} s (cut, or several files put end to end?); decode it with ffmpeg or "
                "flac, and write it again"
            )

    def _link_blocks(
        self, link: Link, start: int, stop: int | None, dtype: str
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
                check_fetched(path, self._file)
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

    def _reached(self, link: Link, position: int) -> int:
        """How far a block from `position` on, which cannot be decoded whole, can be."""
        with (
            contextlib.suppress(soundfile.SoundFileError),
            open_link(self._path, self._file, link) as stream,
        ):
            stream.seek(position)
            while read := len(stream.read(_STEP)):
                position += read
        return position
