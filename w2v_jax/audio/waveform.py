"""Reads audio files as 16 kHz mono int16: any format, any rate, any channel count.

Samples are counted at 16 kHz everywhere. A file of `frames` at `rate` has
`resampled_length(frames, rate)` of them, whatever the resampler returns. `sound` reads what
libsndfile knows, `containers` the rest; by its first bytes a file is one or the other.
"""

import contextlib
import functools
import io
import math
import os
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

from w2v_jax.audio import containers
from w2v_jax.audio.files import after_id3, first_line, opened
from w2v_jax.audio.levels import SAMPLE_RATE, check_levels, quantized, resampled_length
from w2v_jax.audio.sound import Sound
from w2v_jax.errors import AudioError, UserError

_CONTEXT = SAMPLE_RATE // 10  # heard on both sides of a cut; the HQ filter needs a quarter of it


def read(path: str | os.PathLike, start: int = 0, count: int | None = None) -> np.ndarray:
    """Returns samples start..start+count (to the end without `count`) as int16 [count].

    `start` and `count` are in 16 kHz samples. Channels are averaged; 16-bit PCM at 16 kHz comes
    back bit for bit. Only the wanted part is decoded, so the memory needed is that of the part.
    A part equals the same part of the whole file to within one unit (in Ogg Opus after the first
    30 s only nearly: the decoder's noise depends on where it began), and is always the same for
    the same arguments. In MP3 the length is what decodes, whatever the header announces.

    Raises AudioError for a file that is missing, empty, cut, not audio, has NaN or infinite
    samples, or ends before start+count. `path` may be remote (gs://...): what fails on the way is
    tried again, and only the needed parts are fetched, but for MP3, Ogg and what PyAV reads, which
    are looked through whole when a process first opens them.
    """
    if start < 0 or (count is not None and count < 1):
        raise ValueError(f"start {start} must not be negative and count {count} must be positive")
    with _open(path) as sound:
        if isinstance(sound, np.ndarray):
            return _part(path, sound, start, count)
        rate = sound.rate
        if start and sound.frames is not None and start >= resampled_length(sound.frames, rate):
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
        stored = rate == SAMPLE_RATE and sound.pcm16
        blocks = [
            block[:, 0] if stored else block.mean(axis=1)
            for block in sound.blocks(k * down, stop, "int16" if stored else "float32")
        ]

    audio = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros(0, np.int16), *blocks])
    remaining = resampled_length(k * down + len(audio), rate) - start
    if remaining < 1:
        raise AudioError(f"{path}: holds no samples" + (f" after {start}" if start else ""))
    if count is None:
        count = remaining
    elif remaining < count:
        raise _too_short(path, start + remaining, start, count)
    if rate != SAMPLE_RATE:
        audio = soxr.resample(audio, rate, SAMPLE_RATE, quality="HQ")
    audio = audio[start - k * up :][:count]
    if stored:
        return audio
    return quantized(np.pad(audio, (0, count - len(audio))))


def _part(
    path: str | os.PathLike, samples: np.ndarray, start: int, count: int | None
) -> np.ndarray:
    count = max(len(samples) - start, 1) if count is None else count
    if start + count > len(samples):
        raise _too_short(path, len(samples), start, count)
    return np.array(samples[start : start + count])


def _too_short(path: str | os.PathLike, total: int, start: int, count: int) -> AudioError:
    return AudioError(
        f"{path}: has {total} samples at 16 kHz, {start}..{start + count} were asked for"
    )


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
        check_levels("audio", audio)
    return quantized(audio)


def probe(path: str | os.PathLike, decode: bool = True) -> int:
    """Returns the number of 16 kHz samples of a file.

    With `decode` the whole file is decoded, block by block, which proves that `read` can use all
    of it. Without, what the file says of itself is believed (of an MP3 its frames are counted):
    damage inside goes unnoticed. The length is the same.

    Raises AudioError as `read` does.
    """
    with _open(path) as sound:
        if isinstance(sound, np.ndarray):
            return len(sound)
        frames = sound.frames
        if decode or frames is None:
            frames = sum(len(block) for block in sound.blocks())
        total = resampled_length(frames, sound.rate)
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


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[Sound | np.ndarray]:
    """The sound of a file, or all its samples where it is not read in parts."""
    try:
        file = opened(path)
    except FileNotFoundError:  # storages have their own words for it
        raise AudioError(f"{path}: no such file or directory") from None
    except OSError as error:
        raise AudioError(f"{path}: {(error.strerror or first_line(error)).lower()}") from None
    except Exception as error:
        raise AudioError(f"{path}: cannot be opened ({first_line(error)})") from None
    with file:
        try:
            with _sound(path, file) as sound:
                yield sound
        except OSError as error:
            raise AudioError(f"{path}: {(error.strerror or first_line(error)).lower()}") from None


def _sound(
    path: str | os.PathLike, file: io.IOBase
) -> contextlib.AbstractContextManager[Sound | np.ndarray]:
    head = file.read(containers.HEAD)
    if not head and not getattr(file, "failure", None):
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    head = after_id3(file, head)
    what = containers.kind(head)
    if not what:
        return Sound(path, file, head)
    found = containers.samples(path, file, what)
    if not len(found):
        raise AudioError(f"{path}: holds no samples")
    return contextlib.nullcontext(found)


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
