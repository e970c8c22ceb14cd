"""The lengths of some 300 files, ours and those of another decoder.

    python -m tests.measure.audio_lengths

makes files from the package's speech with ffmpeg (and sox, where it is): formats, encoders, rates,
channels, and headers that are odd or wrong. `probe` and `read` must give one length, and that must
be the number of samples that ffmpeg decodes, at 16 kHz. Where it is not, mpg123 is asked, and the
reason stands in REASONS.
"""

import argparse
import collections
import logging
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import soundfile

from w2v_jax.audio.levels import resampled_length
from w2v_jax.audio.waveform import AudioError, probe, read

SAMPLES = Path(__file__).parents[2] / "w2v_jax" / "samples" / "test-clean"
SECONDS = 60  # for one command
RATES = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000)
# name, ending, arguments of ffmpeg; every rate and one or two channels
EVERY = [
    ("wav", "wav", ""),
    ("float", "wav", "-c:a pcm_f32le"),
    ("flac", "flac", ""),
    ("aiff", "aiff", ""),
    ("vorbis", "ogg", "-c:a libvorbis"),
    ("mp3 vbr", "mp3", "-q:a 4"),
    ("mp3 vbr no xing", "mp3", "-q:a 4 -write_xing 0"),
    ("mp3 cbr", "mp3", "-b:a 64k"),
    ("mp3 cbr no xing", "mp3", "-b:a 64k -write_xing 0"),
    ("mp3 abr no xing", "mp3", "-b:a 48k -abr 1 -write_xing 0 -id3v2_version 0"),
    ("m4a aac", "m4a", "-c:a aac"),
    ("mkv aac", "mkv", "-c:a aac"),
    ("adts", "aac", "-c:a aac"),
    ("wma", "wma", "-c:a wmav2"),
]
# those that have few rates, or of which a few are enough
FEW = [
    ("u8", "wav", "-c:a pcm_u8"),
    ("s24", "wav", "-c:a pcm_s24le"),
    ("mu-law", "wav", "-c:a pcm_mulaw"),
    ("mp3 in wav", "wav", "-c:a libmp3lame -q:a 4"),
    ("adpcm", "wav", "-c:a adpcm_ms"),
    ("rf64", "wav", "-rf64 always"),
    ("w64", "w64", ""),
    ("au", "au", ""),
    ("caf", "caf", ""),
    ("ogg flac", "oga", "-c:a flac"),
    ("mp2", "mp2", ""),
    ("alac", "m4a", "-c:a alac"),
    ("mov", "mov", "-c:a pcm_s16le"),
    ("mka flac", "mka", "-c:a flac"),
    ("webm vorbis", "webm", "-c:a libvorbis"),
    ("avi mp3", "avi", "-c:a libmp3lame"),
    ("3gp aac", "3gp", "-c:a aac"),
]
OPUS = [("opus", "opus", "-c:a libopus"), ("webm opus", "webm", "-c:a libopus")]
SOX = ("wav", "flac", "ogg", "mp3", "aiff", "au", "sph", "w64")
REASONS = {
    "chained": "twice the source; ffmpeg leaves in what the encoder added to the first link",
    "webm opus": "as the libraries of ffmpeg 8 in PyAV; ffmpeg 5 cuts the end of the last packet",
    "xing 0 frames": "the length of the source; ffmpeg cuts no padding where the header says 0",
    "joined no xing": "ffmpeg loses the frame before the second ID3 tag",
    "mp3 cut": "ffmpeg makes up what is missing of the last frame",
}


def run(*command: str) -> bytes:
    return subprocess.run(
        command, check=True, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    ).stdout


def independent(path: Path) -> tuple[int, int]:
    """(samples per channel, their rate) that ffmpeg decodes."""
    found = subprocess.run(
        ["ffmpeg", "-v", "quiet", "-nostdin", "-i", f"file:{path}", "-map", "0:a:0", "-ac", "1",
         "-c:a", "pcm_s16le", "-f", "wav", "-"], check=False, capture_output=True, timeout=SECONDS,
    ).stdout  # fmt: skip
    (rate,) = struct.unpack("<I", found[24:28])
    return (len(found) - found.index(b"data") - 8) // 2, rate


def encoded(source: Path, path: Path, rate: int, channels: int, arguments: str) -> Path:
    run(
        "ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(source), "-ar", str(rate), "-ac",
        str(channels), *arguments.split(), str(path),
    )  # fmt: skip
    return path


def _put(place: int | bytes, offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Writes bytes at a place, or behind a mark."""

    def change(data: bytes) -> bytes:
        start = (place if isinstance(place, int) else data.index(place)) + offset
        return data[:start] + value + data[start + len(value) :]

    return change


def _frames(count: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        mark = b"Xing" if b"Xing" in data else b"Info"
        return _put(mark, 8, struct.pack(">I", count))(data)

    return change


ID3V1 = b"TAG" + bytes(125)
ID3V2 = b"ID3\x03\0\0\0\0\x20\0" + b"\xff\xfb\x90\x64" * 1024  # with what looks like frames
# name, what it is made from, what is done
ODD = [
    ("mp3 xing 0 frames", "mp3 vbr", _frames(0)),
    ("mp3 xing 10 frames", "mp3 vbr", _frames(10)),
    ("mp3 xing many frames", "mp3 vbr", _frames(10**6)),
    ("mp3 joined", "mp3 vbr", lambda data: data + data),
    ("mp3 joined no xing", "mp3 vbr no xing", lambda data: data + data),
    ("mp3 id3v1", "mp3 vbr no xing", lambda data: data + ID3V1),
    ("mp3 id3v2", "mp3 vbr no xing", lambda data: ID3V2 + data),
    ("mp3 cut", "mp3 vbr", lambda data: data[: len(data) * 2 // 3]),
    ("mp2 joined", "mp2", lambda data: data + data),
    ("ogg chained", "vorbis", lambda data: data + data),
    ("opus chained", "opus", lambda data: data + data),
    ("wav size 0", "wav", _put(b"data", 4, bytes(4))),
    ("wav sizes 0", "wav", lambda data: _put(4, 0, bytes(4))(_put(b"data", 4, bytes(4))(data))),
    ("wav size -1", "wav", _put(b"data", 4, b"\xff" * 4)),
    ("wav size of sox", "wav", _put(b"data", 4, struct.pack("<I", 0x7FFF_FFDB))),
    ("wav half declared", "wav", _put(b"data", 4, struct.pack("<I", 20_000))),
    ("au size 0", "au", _put(8, 0, bytes(4))),
    ("au size -1", "au", _put(8, 0, b"\xff" * 4)),
    ("flac streamed", "flac", lambda data: _put(22, 0, bytes(4))(_put(21, 0, data[21:22])(data))),
]  # fmt: skip


def files(folder: Path, few: bool = False) -> Iterator[tuple[str, Path]]:
    """(what it is, the file); few: some that take a second."""
    source = folder / "source.wav"
    audio, rate = soundfile.read(sorted(SAMPLES.rglob("*.ogg"))[2], dtype="int16")
    soundfile.write(source, audio[:59_231], rate)
    made: dict[tuple[str, int, int], Path] = {}
    plan = [(*kind, rate, channels) for kind in EVERY for rate in RATES for channels in (1, 2)]
    plan += [(*kind, rate, 2) for kind in FEW for rate in (16_000, 44_100)]
    plan += [(*kind, rate, ch) for kind in OPUS for rate in (16_000, 48_000) for ch in (1, 2)]
    odd_rates = (16_000,) if few else (16_000, 44_100, 48_000)
    if few:
        wanted = {"mp3 vbr no xing", "vorbis", "m4a aac"}
        plan = [p for p in plan if p[0] in wanted and p[3:] == (16_000, 2)]
    for number, (name, ending, arguments, rate, channels) in enumerate(plan):
        path = folder / f"{number}.{ending}"
        made[name, rate, channels] = encoded(source, path, rate, channels, arguments)
        yield f"{name} {rate} Hz {channels} ch", path
    for number, (name, origin, change) in enumerate(ODD):
        for rate in odd_rates:
            path = made.get((origin, rate, 2))
            if path is not None:
                odd = folder / f"odd-{number}-{rate}{path.suffix}"
                odd.write_bytes(change(path.read_bytes()))
                yield f"{name} {rate} Hz 2 ch", odd
    if shutil.which("sox") and not few:
        for ending in SOX:
            for rate in (16_000, 44_100):
                path = folder / f"sox-{rate}.{ending}"
                run("sox", str(source), "-r", str(rate), str(path))
                yield f"sox {ending} {rate} Hz 1 ch", path


def compared(path: Path) -> tuple[int | str, dict[str, int]]:
    """(our length or why there is none, ffmpeg's and, of MP3 where it is another, mpg123's),
    samples at 16 kHz."""
    count, rate = independent(path)
    expected = {"ffmpeg": resampled_length(count, rate)}
    try:
        length = probe(path)
        assert len(read(path)) == probe(path, decode=False) == length, f"{path}: one length"
    except AudioError as error:
        return str(error).removeprefix(f"{path}: "), expected
    if length != expected["ffmpeg"] and path.suffix == ".mp3" and shutil.which("mpg123"):
        count = len(run("mpg123", "-q", "-m", "-s", str(path))) // 2
        expected["mpg123"] = resampled_length(count, rate)
    return length, expected


def reason(what: str) -> str:
    """Why the length is not ffmpeg's."""
    return next((text for key, text in REASONS.items() if key in what), "no reason is known")


def main() -> None:
    logging.disable()  # a line for every odd header
    found: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for what, path in files(Path(folder)):
            ours, others = compared(path)
            same = [name for name, length in others.items() if length == ours]
            found[same[0] if same else "none"] += 1
            if "ffmpeg" not in same:
                theirs = ", ".join(f"{name} {length}" for name, length in others.items())
                print(f"{what}: {ours} ({theirs}): {reason(what)}", flush=True)
    print(
        f"{found.total()} files, {found['ffmpeg']} of the length that ffmpeg decodes, "
        f"{found['mpg123']} more of mpg123's, {found['none']} of neither's"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
