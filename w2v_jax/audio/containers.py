"""Files that libsndfile cannot decode (m4a, mp4, mov, mkv, webm, aac, wma ...), through PyAV.

PyAV brings the libraries of ffmpeg along: `pip install w2v_jax[av]`. Such a file says neither
exactly how long it is nor where a sample lies, and its decoders depend on where they begin. It is
therefore always decoded from its start to its end, and what was decoded last is kept: all parts of
a file that are read one after the other cost one decoding, and are parts of the same samples.
"""

import io
import os
import tempfile
import threading
from collections.abc import Iterator

import numpy as np
import soxr

from w2v_jax.audio.files import first_line, identity
from w2v_jax.audio.levels import SAMPLE_RATE, check_levels, quantized, resampled_length
from w2v_jax.errors import AudioError

_KEPT = 4  # files of which a process keeps the samples
_IN_MEMORY = 16_000 * 600  # samples; what is longer lies in a temporary file without a name
_FRAMES = 64  # of the decoder, about a second, that are worked on at once
_SLACK_SECONDS = 0.2  # by which headers round up
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
HEAD = 36  # bytes that tell what a file is
_IN_OGG = {b"\x7fFLAC": "FLAC in Ogg", b"Speex ": "Speex"}
_STARTS = {
    b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "Windows Media",
    b"ADIF": "AAC",
    b"#!AMR": "AMR",
    b"FLV\x01": "Flash video",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
}


def kind(head: bytes) -> str:
    """What a file is whose first HEAD bytes these are; '' for what is no matter of this module."""
    if head[4:8] in _BOXES:
        return "MP4 or QuickTime"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC"
    if head[:4] == b"OggS":
        return next((name for start, name in _IN_OGG.items() if head[28:].startswith(start)), "")
    return next((name for start, name in _STARTS.items() if head.startswith(start)), "")


_lock = threading.Lock()
_decoded: dict[tuple, np.ndarray] = {}


def samples(path: str | os.PathLike, file: io.IOBase, what: str) -> np.ndarray:
    """All samples at 16 kHz of a file of the kind `what` that is open, int16 [n].

    They may lie in a temporary file. Raises AudioError, also where PyAV is not installed.
    """
    key = identity(path, file)
    with _lock:
        if key in _decoded:
            _decoded[key] = found = _decoded.pop(key)  # now the last
            return found
    found = _collected(path, _resampled(_blocks(path, file, what)))
    with _lock:
        _decoded[key] = found
        while len(_decoded) > _KEPT:
            _decoded.pop(next(iter(_decoded)))
    return found


def _collected(path: str | os.PathLike, blocks: Iterator[np.ndarray]) -> np.ndarray:
    blocks_in_memory, count = [], 0
    for block in blocks:
        blocks_in_memory.append(quantized(block))
        count += len(block)
        if count > _IN_MEMORY:
            break
    else:
        return np.concatenate([np.zeros(0, np.int16), *blocks_in_memory])
    try:
        with tempfile.TemporaryFile() as file:
            for block in blocks_in_memory:
                file.write(block)
            for block in blocks:
                file.write(quantized(block))
            file.flush()
            return np.memmap(file, np.int16, "r")
    except OSError as error:
        folder = tempfile.gettempdir()
        raise AudioError(
            f"{path}: its samples cannot be written to {folder} ({error.strerror}); make room "
            "there, or set TMPDIR"
        ) from None


def _resampled(blocks: Iterator[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
    """The blocks (float32 [n], rate) at 16 kHz, in all as many samples as the length has."""
    stream, frames, given, rate = None, 0, 0, SAMPLE_RATE
    for block, rate in blocks:
        frames += len(block)
        if rate != SAMPLE_RATE:
            stream = stream or soxr.ResampleStream(rate, SAMPLE_RATE, 1, quality="HQ")
            block = stream.resample_chunk(block)
        given += len(block)
        yield block
    if stream:
        rest = resampled_length(frames, rate) - given
        tail = stream.resample_chunk(np.zeros(0, np.float32), last=True)[:rest]
        yield np.pad(tail, (0, rest - len(tail)))


def _blocks(
    path: str | os.PathLike, file: io.IOBase, what: str
) -> Iterator[tuple[np.ndarray, int]]:
    """(samples float32 [n], their rate): the mean of the channels, block by block."""
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{path}: is {what}, which needs PyAV: pip install 'w2v_jax[av]', or convert it, "
            "for example to flac"
        ) from None
    position, rate = 0, 0
    held: list[np.ndarray] = []
    try:
        file.seek(0)
        with av.open(file, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: is {what} without an audio track")
            stream = container.streams.audio[0]
            for frame in container.decode(stream):
                rate = rate or frame.sample_rate
                if frame.sample_rate != rate:
                    raise AudioError(
                        f"{path}: changes from {rate} to {frame.sample_rate} samples per second "
                        f"after {position / rate:.2f} s; convert it, for example to flac"
                    )
                position += frame.samples
                held.append(_mono(frame))
                if len(held) >= _FRAMES:
                    yield _joined(path, held), rate
                    held = []
            if held:
                yield _joined(path, held), rate
            announced = _announced(container, stream)
    except (av.error.FFmpegError, ValueError, NotImplementedError) as error:
        seconds = position / rate if rate else 0.0
        detail = (getattr(error, "strerror", None) or first_line(error)).rstrip(".")
        if position:
            reason = f"cannot be decoded beyond {seconds:.2f} s ({detail})"
        else:
            reason = f"is {what} that cannot be read ({detail})"
        raise AudioError(f"{path}: {reason}") from None
    finally:
        failure = getattr(file, "failure", None)
        if failure:
            raise AudioError(f"{path}: cannot be fetched ({first_line(failure)})") from None
    if rate and position / rate < announced - _SLACK_SECONDS:
        raise AudioError(
            f"{path}: ends after {position / rate:.2f} s, its header announces {announced:.2f} s"
        )


def _announced(container, stream) -> float:
    """Seconds that the header says there are; 0 where it says nothing of the track."""
    if container.format.name == "aac":  # a guess from the first frames
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1
    return container.duration / 1e6 if alone and container.duration else 0.0


def _mono(frame) -> np.ndarray:
    """The mean of the channels as float32 [n] in -1..1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:  # [1, n * channels]
        values = values.reshape(-1, frame.layout.nb_channels).T
    if len(values) == 1 and values.dtype == np.float32:
        return values[0]
    mean = values.mean(axis=0)
    if values.dtype == np.uint8:
        mean = mean / 128 - 1
    elif np.issubdtype(values.dtype, np.integer):
        mean = mean / -float(np.iinfo(values.dtype).min)
    return mean.astype(np.float32)


def _joined(path: str | os.PathLike, frames: list[np.ndarray]) -> np.ndarray:
    block = np.concatenate(frames)
    check_levels(path, block)
    return block
