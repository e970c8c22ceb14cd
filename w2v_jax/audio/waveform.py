"""Reads audio files as 16 kHz mono int16: any format of libsndfile, any rate, any channel count.

Samples are counted at 16 kHz everywhere. A file of `frames` at `rate` has
`resampled_length(frames, rate)` of them, whatever the resampler returns.
"""

import functools
import io
import math
import os
import re
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from w2v_jax.audio.files import RemoteFile
from w2v_jax.errors import UserError
from w2v_jax.places import is_remote

SAMPLE_RATE = 16_000

_BLOCK = 1 << 18  # frames decoded at a time
_CONTEXT = SAMPLE_RATE // 10  # heard on both sides of a cut; the HQ filter needs a quarter of it
# In Ogg, decoding begins this much earlier than asked: libsndfile 1.2 seeks to a wrong place in the
# last page of a Vorbis stream, and Opus needs a while until it gives the samples of the whole file.
_OGG_RUN_UP_SECONDS = 30
_LOUDEST = 16.0  # a float file beyond this is not scaled to -1..1
_RATES = range(1_000, 1_000_001)  # a rate outside is a damaged header
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's answer for a FLAC that was streamed

# What libsndfile notes about a file that ends early. It then goes on with what is there.
_CUT_WAV = re.compile(r"^data : (\d+) \(should be \d+\)$", re.MULTILINE)
_CUT_OGG = re.compile(r"^Ogg ?: Last page lacks an end-of-stream bit\.\nOgg ?: Junk", re.MULTILINE)
_STREAMED_WAV = 0x7FFF_0000  # sizes from here on are placeholders of programs that wrote to a pipe


class AudioError(UserError):
    """An audio file that cannot be used; the message is `path: reason`."""


class _Stream(soundfile.SoundFile):
    """A sound file read forwards.

    soundfile seeks to the current position after every read. In Ogg Opus libsndfile 1.2 then
    returns wrong samples at the end of the file, and in a FLAC of unknown length the seek fails.
    """

    def __init__(self, path: str | os.PathLike):
        self.remote = RemoteFile(os.fspath(path)) if is_remote(path) else None
        try:
            super().__init__(self.remote or os.fsencode(path))
        finally:
            if self.remote and self.remote.failure:
                raise self.remote.failure  # libsndfile took it for the end of the file

    def seekable(self) -> bool:
        return False


def resampled_length(frames: int, rate: int) -> int:
    """Returns how many 16 kHz samples `frames` at `rate` Hz are (rounded, halves upwards)."""
    return (2 * frames * SAMPLE_RATE + rate) // (2 * rate)


def read(path: str | os.PathLike, start: int = 0, count: int | None = None) -> np.ndarray:
    """Returns samples start..start+count (to the end without `count`) as int16 [count].

    `start` and `count` are in 16 kHz samples. Channels are averaged; 16-bit PCM at 16 kHz comes
    back bit for bit. Only the wanted part is decoded, so the memory needed is that of the part.
    A part equals the same part of the whole file to within one unit (in Ogg Opus after the first
    30 s only nearly: the decoder's noise depends on where it began), and is always the same for
    the same arguments. In MP3 the length is what decodes, whatever the header announces.

    Raises AudioError for a file that is missing, empty, cut, not audio, has NaN or infinite
    samples, or ends before start+count. `path` may be remote (gs://...): of such a file only the
    needed parts are fetched, and what fails on the way is tried again.
    """
    if start < 0 or (count is not None and count < 1):
        raise ValueError(f"start {start} must not be negative and count {count} must be positive")
    with _open(path) as sound:
        rate = sound.samplerate
        if start and start >= resampled_length(sound.frames, rate):
            total = resampled_length(sound.frames, rate)
            raise AudioError(f"{path}: has {total} samples at 16 kHz, sample {start} was asked for")
        # Output sample k * up lies exactly on source frame k * down: a segment that begins there
        # is resampled on the same grid as the whole file.
        common = math.gcd(rate, SAMPLE_RATE)
        up, down = SAMPLE_RATE // common, rate // common
        context = 0 if rate == SAMPLE_RATE else _CONTEXT
        k = max(start - context, 0) // up
        stop = None
        if count is not None:
            stop = -(-(start + count + context) * rate // SAMPLE_RATE)
        # What is stored as we want it goes through no other numbers: twice as fast.
        stored = rate == SAMPLE_RATE and sound.channels == 1 and sound.subtype == "PCM_16"
        blocks = [
            block[:, 0] if stored else block.mean(axis=1)
            for block in _blocks(path, sound, k * down, stop, "int16" if stored else "float32")
        ]

    audio = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.int16), *blocks])
    remaining = resampled_length(k * down + len(audio), rate) - start
    if remaining < 1:
        raise AudioError(f"{path}: holds no samples" + (f" after {start}" if start else ""))
    if count is None:
        count = remaining
    elif remaining < count:
        raise AudioError(
            f"{path}: has {start + remaining} samples at 16 kHz, "
            f"{start}..{start + count} were asked for"
        )
    if rate != SAMPLE_RATE:
        audio = soxr.resample(audio, rate, SAMPLE_RATE, quality="HQ")
    audio = audio[start - k * up :][:count]
    if stored:
        return audio
    return _quantized(np.pad(audio, (0, count - len(audio))))


def _quantized(audio: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


def samples_of(audio: np.ndarray) -> np.ndarray:
    """Samples at 16 kHz that are in memory already, int16 or float in -1..1, as int16 [n].

    Raises UserError for anything else.
    """
    audio = np.asarray(audio)
    if audio.ndim != 1:
        raise UserError(
            f"audio has the shape {audio.shape}; pass samples of one channel, [n], at 16 kHz"
        )
    if audio.dtype == np.int16:
        return audio
    if not np.issubdtype(audio.dtype, np.floating):
        raise UserError(
            f"audio has the dtype {audio.dtype}; pass int16, or float in -1..1, at 16 kHz"
        )
    audio = audio.astype(np.float32)
    if len(audio):
        _check_levels("audio", audio)
    return _quantized(audio)


def probe(path: str | os.PathLike, decode: bool = True) -> int:
    """Returns the number of 16 kHz samples of a file.

    With `decode` the whole file is decoded, block by block, which proves that `read` can use all
    of it and gives its real length. Without, the header is believed: damage inside the file goes
    unnoticed, and the length of an MP3 without a Xing header is an estimate.

    Raises AudioError as `read` does.
    """
    with _open(path) as sound:
        frames = sound.frames
        if decode or frames == _UNKNOWN_LENGTH:
            frames = sum(len(block) for block in _blocks(path, sound))
            # MP3 is exempt: without a Xing header its length is a guess from the first bit rate.
            if frames < sound.frames < _UNKNOWN_LENGTH and sound.format != "MP3":
                raise AudioError(
                    f"{path}: ends after {frames / sound.samplerate:.2f} s, "
                    f"its header announces {sound.frames / sound.samplerate:.2f} s"
                )
        total = resampled_length(frames, sound.samplerate)
    if total < 1:
        raise AudioError(f"{path}: holds no samples")
    return total


class Recording:
    """A file as a sequence of int16 samples at 16 kHz: a slice reads that part alone.

    Nothing is read before the length or a part is asked for, which raises AudioError as `probe`
    and `read` do.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path

    @functools.cached_property
    def _length(self) -> int:
        return probe(self.path)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(self._length)
        if step != 1:
            raise ValueError(f"samples are read one by one, not in steps of {step}")
        return read(self.path, start, stop - start) if stop > start else np.zeros(0, np.int16)


def _open(path: str | os.PathLike) -> _Stream:
    try:
        sound = _Stream(path)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        raise AudioError(f"{path}: {_reason(path, error)}") from None
    except FileNotFoundError:  # storages have their own words for it
        raise AudioError(f"{path}: no such file or directory") from None
    except Exception as error:
        raise AudioError(f"{path}: cannot be opened ({_first_line(error)})") from None
    notes = sound.extra_info
    wav = _CUT_WAV.search(notes)
    if (wav and int(wav[1]) < _STREAMED_WAV) or _CUT_OGG.search(notes):
        seconds = sound.frames / sound.samplerate
        sound.close()
        raise AudioError(f"{path}: is cut off after {seconds:.2f} s (incomplete copy?)")
    if sound.samplerate not in _RATES:
        sound.close()
        raise AudioError(f"{path}: its header claims {sound.samplerate} samples per second")
    return sound


def _reason(path: str | os.PathLike, error: Exception) -> str:
    try:
        with RemoteFile(os.fspath(path)) if is_remote(path) else open(path, "rb") as file:
            empty = not file.read(1)
    except OSError as failure:
        return (failure.strerror or str(failure)).lower()
    if empty:
        return "the file is empty (0 bytes)"
    # libsndfile says "does not exist or is not a regular file" when it finds no MPEG frame.
    bad_file = getattr(error, "code", None) == 7
    detail = "no MPEG audio found" if bad_file else getattr(error, "error_string", "no header")
    return f"is not audio that can be read ({detail.rstrip('.')})"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _blocks(
    path: str | os.PathLike,
    sound: _Stream,
    start: int = 0,
    stop: int | None = None,
    dtype: str = "float32",
) -> Iterator[np.ndarray]:
    """Yields frames start..stop of the source, or to its end, as `dtype` [n, channels]."""
    run_up = _OGG_RUN_UP_SECONDS * sound.samplerate if sound.format == "OGG" else 0
    position = max(start - run_up, 0)
    try:
        if position:
            sound.seek(position)
        while stop is None or position < stop:
            wanted = _BLOCK if stop is None else min(_BLOCK, stop - position)
            block = sound.read(wanted, dtype=dtype, always_2d=True)
            if sound.remote and sound.remote.failure:
                failure = _first_line(sound.remote.failure)
                raise AudioError(f"{path}: cannot be fetched ({failure})")
            if not len(block):
                return
            if dtype == "float32":
                _check_levels(path, block)
            skip = max(start - position, 0)
            position += len(block)
            if skip < len(block):
                yield block[skip:]
    except soundfile.SoundFileError as error:
        detail = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
        raise AudioError(
            f"{path}: cannot be decoded beyond {position / sound.samplerate:.2f} s ({detail})"
        ) from None


def _check_levels(path: str | os.PathLike, block: np.ndarray) -> None:
    loudest = max(block.max(), -block.min())
    if not np.isfinite(loudest):
        raise AudioError(f"{path}: has NaN or infinite samples")
    if loudest > _LOUDEST:
        raise AudioError(f"{path}: its samples reach {loudest:g}, they must lie in -1..1")


_ENCODINGS = {"flac": ("FLAC", "PCM_16"), "wav": ("WAV", "PCM_16"), "opus": ("OGG", "OPUS")}


def encode(audio: np.ndarray, kind: str) -> bytes:
    """The bytes of a "flac", "wav" or "opus" file with the samples int16 [n] at 16 kHz."""
    file = io.BytesIO()
    container, subtype = _ENCODINGS[kind]
    soundfile.write(file, audio, SAMPLE_RATE, format=container, subtype=subtype)
    return file.getvalue()


def decode_flac(data: bytes, start: int = 0, count: int = -1) -> np.ndarray:
    """Samples start..start+count (or to the end) of a FLAC file in memory, int16, bit for bit.

    What stands before `start` is not decoded. Raises AudioError for damaged bytes.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            if start:
                sound.seek(start)
            return sound.read(count, dtype="int16")
    except soundfile.SoundFileError as error:
        raise AudioError(f"damaged FLAC bytes ({error})") from None
