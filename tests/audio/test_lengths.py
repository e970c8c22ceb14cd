"""A file is read to its end, whatever its header says, and has one length whoever asks."""

import io
import logging
import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.audio.test_waveform import speech
from tests.measure import audio_lengths
from w2v_jax.audio import containers, flac, links, mpeg
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, probe, read
from w2v_jax.corpora.preparation import prepare
from w2v_jax.data.audio_files import Files
from w2v_jax.data.shards import Shards, write_shards
from w2v_jax.errors import UserError

LENGTH = 40_001  # of the recordings below
FRAME, DELAY = 576, 576 + 529  # samples of a frame at 16 kHz, and those before the first of ours
ID3 = b"ID3\x03\0\0\0\0\x08\0" + b"\xff\xf3\x48\xc4" * 256  # a tag with what looks like frames


@pytest.fixture(autouse=True)
def nothing_is_noted_yet(monkeypatch):
    monkeypatch.setattr(links, "_noted", set())


def mp3(seconds_of_silence: float = 0.0, rate: int = SAMPLE_RATE, channels: int = 1) -> bytes:
    """An MP3 of changing bit rate: LENGTH samples of speech, after silence."""
    silence = np.zeros(round(seconds_of_silence * rate))
    audio = np.concatenate([silence, speech(LENGTH / rate, rate)])
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, channels, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE",
        compression_level=0.5,
    ) as out:  # fmt: skip
        out.write(np.stack([audio] * channels, axis=1))
    return file.getvalue()


def mark(data: bytes) -> int:
    """Where the header of an MP3 tells about the file."""
    return re.search(b"Xing|Info", data).start()


def frames(data: bytes) -> int:
    (count,) = struct.unpack(">I", data[mark(data) + 8 : mark(data) + 12])
    return count


def saying(data: bytes, count: int) -> bytes:
    """An MP3 whose header says that it has `count` frames."""
    place = mark(data) + 8
    return data[:place] + struct.pack(">I", count) + data[place + 4 :]


def without_header(data: bytes) -> bytes:
    first = next(m.start() for m in re.finditer(b"\xff[\xf2\xf3]", data) if m.start() > mark(data))
    return data[first:]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def one_length(path: Path) -> np.ndarray:
    """All samples, of which there are as many as everybody says."""
    audio = read(path)
    assert probe(path) == probe(path, decode=False) == len(audio)
    for start in (0, len(audio) // 2, len(audio) - 3001):
        part = read(path, start, 3001).astype(int)
        np.testing.assert_allclose(part, audio[start : start + 3001], atol=1)
    np.testing.assert_allclose(read(path, len(audio) - 7).astype(int), audio[-7:], atol=1)
    with pytest.raises(AudioError, match=f"has {len(audio)} samples"):
        read(path, len(audio) - 10, 11)
    return audio


@pytest.mark.parametrize("count", [0, 10, 10**6])
def test_mp3_is_as_long_as_its_frames(tmp_path, caplog, count):
    data = mp3(1.0)
    whole = one_length(write(tmp_path / "whole.mp3", data))
    assert len(whole) == SAMPLE_RATE + LENGTH
    odd = one_length(write(tmp_path / "odd.mp3", saying(data, count)))
    np.testing.assert_allclose(odd[: len(whole)].astype(int), whole, atol=1)
    if count < 100:
        assert len(odd) == len(whole)
    else:  # what it says of its end is not believed either
        assert len(odd) == frames(data) * FRAME - DELAY
        assert "its header announces 35999.93 s, there are" in caplog.text


@pytest.mark.parametrize("around", [b"", ID3])
def test_mp3_without_a_header_whose_bit_rate_changes(tmp_path, around):
    """Decoders guess its length by the first frame, here of silence: three times too much."""
    for silence in (0.0, 2.0):
        data = mp3(silence)
        whole = read(write(tmp_path / "whole.mp3", data))
        bare = around + without_header(data) + b"TAG" + bytes(125)
        audio = one_length(write(tmp_path / f"{silence}.mp3", bare))
        assert len(audio) == frames(data) * FRAME
        audio = audio[DELAY : DELAY + len(whole)].astype(int)
        np.testing.assert_allclose(audio, whole, atol=1)


def test_mp3_in_wav(tmp_path):
    data = mp3(2.0)
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, 1, SAMPLE_RATE, 4000, 1, 0, 12, 1, 2, 576, 1, 1393)
    rest = b"LIST" + struct.pack("<I", 4) + b"INFO"
    for inside in (data, without_header(data)):
        chunks = b"WAVEfmt " + struct.pack("<I", 30) + fmt
        chunks += b"data" + struct.pack("<I", len(inside)) + inside + bytes(len(inside) % 2) + rest
        wav = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
        audio = one_length(write(tmp_path / "a.wav", wav))
        bare = one_length(write(tmp_path / "a.mp3", inside))
        np.testing.assert_allclose(audio.astype(int), bare, atol=1)


@pytest.mark.parametrize("junk", [b"", ID3, b"junk" * 100])
def test_mp3_put_end_to_end(tmp_path, junk):
    first, second = mp3(1.0), mp3()
    audio = one_length(write(tmp_path / "a.mp3", ID3 + first + junk + second))
    assert len(audio) == (frames(first) + frames(second)) * FRAME - DELAY
    heard = one_length(write(tmp_path / "b.mp3", second)).astype(int)
    again = audio[frames(first) * FRAME : frames(first) * FRAME + LENGTH].astype(int)
    assert np.corrcoef(again[:30_000], heard[:30_000])[0, 1] > 0.999


def test_mp3_that_changes_says_where(tmp_path):
    other = write(tmp_path / "a.mp3", mp3(1.0) + mp3(rate=44_100, channels=2))
    with pytest.raises(AudioError, match=r"after 3\.5\d s from 16000 Hz.* to 44100 Hz, channels 2"):
        read(other)


def test_mpeg_headers():
    data = b"\0" * 1000 + mp3() + b"\xff\xf3\x48\xc4" + b"\0" * 99
    stream = mpeg.scan(data)
    assert (stream.kind.rate, stream.kind.layer, stream.kind.channels) == (SAMPLE_RATE, 3, 1)
    assert (stream.samples, stream.announced) == (LENGTH, stream.frames)
    assert mpeg.scan(np.random.default_rng(0).bytes(30_000)) is None
    assert mpeg.scan(b"\xff" * 5000) is None
    assert mpeg.scan(b"") is None


def ogg(subtype: str, audio: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format="OGG", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_all_links_of_a_chain(tmp_path, subtype, caplog):
    """Also where all have the serial number of the first."""
    made = [ogg(subtype, speech(seconds)) for seconds in (2, 1.5)]
    parts = [read(write(tmp_path / f"{i}.ogg", data)) for i, data in enumerate(made)]
    for order in ([0, 1], [1, 0], [0, 0, 1, 1, 0]):
        chain = write(tmp_path / "chain.ogg", b"".join(made[i] for i in order))
        expected = np.concatenate([parts[i] for i in order])
        np.testing.assert_array_equal(one_length(chain), expected)
    for lost in (100, 2000):
        for first in (b"", made[0]):
            cut = write(tmp_path / "cut.ogg", first + made[1][:-lost])
            with pytest.raises(AudioError, match=r"cut off after|malformed"):
                read(cut)
    last = made[0].rindex(b"OggS")
    page = made[0][:last]
    if subtype == "VORBIS":
        assert len(read(write(tmp_path / "page.ogg", page))) < len(parts[0])
        assert "page.ogg: is not marked as ended after" in caplog.text
    if subtype == "VORBIS":
        other = write(tmp_path / "other.ogg", made[0] + ogg(subtype, speech(1, 8000), 8000))
        with pytest.raises(AudioError, match=r"after 2\.00 s from 16000 to 8000 Hz"):
            read(other)


def pcm(kind: str, audio: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format=kind, subtype="PCM_16")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AU"])
def test_a_size_that_stayed_0(tmp_path, caplog, kind):
    data = bytearray(pcm(kind, speech(2)))
    if kind == "AU":
        data[8:12] = bytes(4)
    elif kind == "RF64":
        data[data.index(b"ds64") + 8 :][:24] = bytes(24)
        place = data.index(b"ds64") + 8
        data[place : place + 24] = bytes(24)
    else:
        place = data.index(b"data") + 4
        data[4:8] = data[place : place + 4] = bytes(4)
    audio = one_length(write(tmp_path / "a.wav", bytes(data)))
    np.testing.assert_array_equal(audio, read(write(tmp_path / "b.wav", pcm("WAV", speech(2)))))
    assert caplog.text.count("a.wav: its header says 0 s; the 2.00 s that follow are read") == 1


def test_a_size_that_is_0(tmp_path):
    listed = b"LIST" + struct.pack("<I", 6000) + bytes(6000)
    path = write(tmp_path / "a.wav", pcm("WAV", np.zeros(0)) + listed)
    with pytest.raises(AudioError, match="holds no samples"):
        read(path)


def test_what_the_header_does_not_count_is_told(tmp_path, caplog):
    data = bytearray(pcm("WAV", speech(2)))
    data[40:44] = struct.pack("<I", 32_000)
    assert len(one_length(write(tmp_path / "a.wav", bytes(data)))) == SAMPLE_RATE
    assert "1.00 s that its header counts; 32000 bytes follow" in caplog.text
    for number in range(60):  # more of them than are worth naming
        write(tmp_path / f"odd{number}.wav", bytes(data))
        assert probe(tmp_path / f"odd{number}.wav") == SAMPLE_RATE
    assert len(caplog.records) == 50
    assert "further files like it are not named" in caplog.records[-1].message
    caplog.clear()
    for number, rest in enumerate((b"LIST", b"id3 ", b"junk")):
        chunk = rest + struct.pack("<I", 30_000) + bytes(30_000)
        write(tmp_path / f"{number}.wav", pcm("WAV", speech(2)) + chunk)
        assert probe(tmp_path / f"{number}.wav") == 2 * SAMPLE_RATE
    assert not caplog.text


def test_files_prepare_and_shards_agree(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.mp3", without_header(mp3(2.0)))
    write(folder / "b.mp3", mp3() + mp3())
    write(folder / "c.ogg", ogg("VORBIS", speech(2)) * 2)
    manifest = prepare([str(folder)], str(tmp_path / "m.tsv"))
    write_shards(manifest, tmp_path / "shards", processes=1)
    shards, files = Shards(tmp_path / "shards"), Files(manifest)
    for row, path in enumerate(sorted(folder.iterdir())):
        audio, size = read(path), int(manifest.samples[row])
        assert size == len(audio)
        np.testing.assert_array_equal(shards.audio(row, 0, size), audio)
        np.testing.assert_array_equal(files.audio(row, 0, size), audio)


def m4a(audio: np.ndarray, rate: int = SAMPLE_RATE, name: str = "a.m4a") -> bytes:
    av = pytest.importorskip("av")
    file = io.BytesIO()
    kind = {"m4a": "ipod", "webm": "webm", "mkv": "matroska", "aac": "adts"}[name.split(".")[-1]]
    codec = "libopus" if kind == "webm" else "aac"
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        values = np.rint(audio * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(values, 2)[None], "s16", "stereo")
        frame.sample_rate = rate
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.m4a", "a.mkv", "a.aac", "a.webm"])
def test_containers_are_read_in_parts_of_one_decoding(tmp_path, name, monkeypatch):
    rate = 48_000 if name == "a.webm" else 44_100
    source = speech(3, rate)
    path = write(tmp_path / name, m4a(source, rate, name))
    decodings, blocks = [], containers._blocks
    monkeypatch.setattr(containers, "_blocks", lambda *args: decodings.append(1) or blocks(*args))
    audio = one_length(path)
    assert len(decodings) == 1
    assert 0 <= len(audio) - 3 * SAMPLE_RATE < 1200, "with what the encoder added"
    heard, source = audio.astype(float), read(write(tmp_path / "a.wav", wav(source, rate)))
    found = [np.corrcoef(heard[s : s + 9000], source[:9000])[0, 1] for s in range(1200)]
    assert max(found) > 0.98
    monkeypatch.setattr(containers, "_IN_MEMORY", 1000)
    write(path, path.read_bytes())  # another version: decoded again, now into a file
    np.testing.assert_array_equal(read(path), audio)
    assert len(decodings) == 2


def wav(audio: np.ndarray, rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, format="WAV")
    return file.getvalue()


def test_damaged_containers_say_where(tmp_path):
    data = m4a(speech(3), SAMPLE_RATE, "a.mkv")
    with pytest.raises(AudioError, match=r"ends after|cannot be decoded beyond|that cannot be"):
        read(write(tmp_path / "cut.mkv", data[: len(data) // 2]))
    with pytest.raises(AudioError, match=r"is Matroska or WebM that cannot be read"):
        read(write(tmp_path / "head.mkv", data[:40]))


def test_without_pyav_the_remedy_is_named(tmp_path, monkeypatch, capsys):
    """The few bytes that tell what a file is are enough."""
    monkeypatch.setitem(sys.modules, "av", None)
    folder = tmp_path / "in"
    folder.mkdir()
    starts = {
        "a.m4a": b"\0\0\0\x20ftypM4A ", "b.webm": b"\x1aE\xdf\xa3", "c.aac": b"\xff\xf1\x60\x40",
        "d.wma": bytes.fromhex("3026b2758e66cf11"), "e.mov": b"\0\0\0\x08wide", "f.amr": b"#!AMR\n",
        "g.oga": b"OggS" + bytes(22) + b"\x01\x33\x7fFLAC",
    }  # fmt: skip
    for name, start in starts.items():
        path = write(folder / name, start.ljust(200, b"\0"))
        with pytest.raises(AudioError, match=r"needs PyAV: pip install 'w2v_jax\[av\]'"):
            read(path)
    with pytest.raises(UserError, match=r"7 of 7 utterances cannot be read.*pip install"):
        prepare([str(folder)], str(tmp_path / "m.tsv"))
    assert "skipped: " in capsys.readouterr().out


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg makes and decodes the files")
def test_lengths_are_those_of_another_decoder(tmp_path):
    pytest.importorskip("av")
    logging.disable()
    try:
        found = {what: audio_lengths.compared(path)
                 for what, path in audio_lengths.files(tmp_path, few=True)}  # fmt: skip
    finally:
        logging.disable(logging.NOTSET)
    assert len(found) > 5
    for what, (ours, others) in found.items():
        known = any(key in what for key in audio_lengths.REASONS)
        assert ours in others.values() or (known and isinstance(ours, int)), what


def test_flac_that_says_too_little(tmp_path):
    """Frames are counted, and so it is told where the file ends."""
    data = pcm("FLAC", speech(2))
    for seconds in (1.0, 3.0):
        count = round(seconds * SAMPLE_RATE)
        odd = data[:21] + bytes([data[21] & 0xF0]) + struct.pack(">I", count) + data[26:]
        path = write(tmp_path / "a.flac", odd)
        words = rf"announces {seconds:.2f} s, by its last frame it has 2\.00 s"
        for use in (read, probe):
            with pytest.raises(AudioError, match=words):
                use(path)
        assert len(read(path, 0, SAMPLE_RATE)) == SAMPLE_RATE, "crops are not searched for it"
    assert len(read(write(path, data))) == 2 * SAMPLE_RATE
    file = io.BytesIO()  # the last frame has 10 bytes, as few as there can be
    soundfile.write(file, np.zeros(3 * 4096, np.int16), SAMPLE_RATE, "PCM_S8", format="FLAC")
    assert len(read(write(path, file.getvalue()))) == 3 * 4096
    joined = write(tmp_path / "joined.flac", data + pcm("FLAC", speech(1)))
    with pytest.raises(AudioError, match=r"several files put end to end"):
        read(joined)
    twice = write(tmp_path / "twice.flac", data + data)
    with pytest.raises(AudioError, match=r"cannot be decoded beyond 1\.9"):
        read(twice)


def test_flac_frames_of_192_samples():
    """The one size of block that is not a power of two times another; and bytes inside of a frame
    that look like the head of one."""
    for number, sizes, end in ((5, 1, 6 * 192), (5, 2, 5 * 192 + 576), (5, 8, 5 * 192 + 256)):
        head = bytes([0xFF, 0xF8, sizes << 4 | 9, 0x08, number])
        head += bytes([flac._checksum(head, 0x07, 8)])
        assert flac._frame_end(head + bytes(20), 192) == end
        assert flac._frame_end(head[:-1] + bytes([head[-1] ^ 1]) + bytes(20), 192) is None
