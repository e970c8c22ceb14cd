"""Reading audio: exactness, cuts, and files that cannot be used."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import w2v_jax
from w2v_jax.audio import sound
from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, probe, read, resampled_length

SAMPLES = Path(w2v_jax.__file__).parent / "samples"


def speech(seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Real speech, repeated, as float64 at `rate`."""
    paths = sorted(SAMPLES.glob("dev-clean/1001/1/*.ogg"))[:8]
    audio = np.concatenate([soundfile.read(path)[0] for path in paths])
    audio = np.resize(audio, round(seconds * SAMPLE_RATE))
    return np.resize(soxr.resample(audio, SAMPLE_RATE, rate), round(seconds * rate))


def save(path: Path, audio: np.ndarray, rate: int, *format: str) -> Path:
    kind, subtype = format
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with soundfile.SoundFile(path, "w", rate, channels, subtype, format=kind) as file:
        for block in np.array_split(audio, len(audio) // 4000 + 1):
            file.write(block)
    return path


def test_pcm16_is_bit_exact(tmp_path):
    audio = np.random.default_rng(0).integers(-32768, 32768, 40_000).astype(np.int16)
    audio[:2] = -32768, 32767
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, audio, SAMPLE_RATE, subtype="PCM_16")
        whole = read(tmp_path / name)
        assert whole.dtype == np.int16
        np.testing.assert_array_equal(whole, audio)
        np.testing.assert_array_equal(read(tmp_path / name, 12_345, 6_789), audio[12_345:19_134])
        np.testing.assert_array_equal(read(tmp_path / name, 39_999), audio[39_999:])
        assert probe(tmp_path / name) == probe(tmp_path / name, decode=False) == 40_000


def test_floats_are_rounded_and_clipped_and_depths_are_scaled(tmp_path):
    audio = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5] * 100)
    soundfile.write(tmp_path / "a.wav", audio, SAMPLE_RATE, subtype="FLOAT")
    expected = [-32768, -32768, -16384, 0, 16384, 32767, 32767]
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[:7], expected)
    soundfile.write(tmp_path / "a.wav", np.array([-0.6, 0.4, 0.6]) / 32768, SAMPLE_RATE, "FLOAT")
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), [-1, 0, 1])
    for subtype in ("PCM_U8", "PCM_24", "PCM_32", "DOUBLE"):
        soundfile.write(tmp_path / "b.wav", audio / 3, SAMPLE_RATE, subtype=subtype)
        np.testing.assert_allclose(read(tmp_path / "b.wav"), audio / 3 * 32768, atol=260)


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([np.full(1000, 0.5), np.full(1000, -0.25)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, SAMPLE_RATE)
    np.testing.assert_array_equal(read(tmp_path / "a.wav"), np.full(1000, 4096))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 44_101])
def test_other_rates_keep_pitch_time_and_length(tmp_path, rate):
    frames = 3 * rate + 37
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(frames) / rate)
    soundfile.write(tmp_path / "a.wav", tone, rate, subtype="FLOAT")
    audio = read(tmp_path / "a.wav")
    assert len(audio) == resampled_length(frames, rate) == probe(tmp_path / "a.wav")
    expected = 16384 * np.sin(2 * np.pi * 440 * np.arange(len(audio)) / SAMPLE_RATE)
    np.testing.assert_allclose(audio[800:-800], expected[800:-800], atol=2)


def test_resampled_length_is_exact():
    assert resampled_length(2**53 + 1, SAMPLE_RATE) == 2**53 + 1
    assert [resampled_length(n, 32_000) for n in (0, 1, 2, 3, 4)] == [0, 1, 1, 2, 2]
    assert resampled_length(44_100 * 3600, 44_100) == 3600 * SAMPLE_RATE


FORMATS = [
    ("wav", 8_000, "WAV", "PCM_U8"),
    ("wav", 44_100, "WAV", "PCM_16"),
    ("wav", 44_101, "WAV", "PCM_16"),
    ("flac", 44_100, "FLAC", "PCM_16"),
    ("mp3", 44_100, "MP3", "MPEG_LAYER_III"),
    ("mp3", 16_000, "MP3", "MPEG_LAYER_III"),
    ("ogg", 44_100, "OGG", "VORBIS"),
    ("ogg", 16_000, "OGG", "VORBIS"),
    ("opus", 48_000, "OGG", "OPUS"),
    ("opus", 16_000, "OGG", "OPUS"),
]


@pytest.mark.parametrize(("extension", "rate", "kind", "subtype"), FORMATS)
def test_a_part_is_that_part_of_the_whole(tmp_path, extension, rate, kind, subtype):
    source = speech(6, rate)[: 6 * rate - 63]
    path = save(tmp_path / f"a.{extension}", source, rate, kind, subtype)
    whole = read(path)
    assert len(whole) == probe(path) == resampled_length(len(source), rate)
    reference = soxr.resample(source, rate, SAMPLE_RATE)[: len(whole)] * 32768
    assert np.corrcoef(whole, reference)[0, 1] > 0.95
    for start, count in [(0, 16_000), (1, 999), (50_021, 20_000), (len(whole) - 3001, 3001)]:
        part = read(path, start, count).astype(int)
        np.testing.assert_allclose(part, whole[start : start + count], atol=1)
    with pytest.raises(AudioError, match="were asked for"):
        read(path, len(whole) - 100, 101)
    with pytest.raises(AudioError, match="was asked for"):
        read(path, len(whole) + 100, 1)


@pytest.mark.parametrize(("subtype", "apart"), [("OPUS", 150), ("VORBIS", 1)])
def test_ogg_far_from_its_start(tmp_path, subtype, apart):
    path = save(tmp_path / "a.ogg", speech(47), SAMPLE_RATE, "OGG", subtype)
    whole = read(path).astype(int)
    for start in [40 * SAMPLE_RATE + 7, *len(whole) - np.arange(37, 16_000, 4001)]:
        part = read(path, start, min(16_000, len(whole) - start))
        np.testing.assert_allclose(part, whole[start : start + 16_000], atol=apart)
    np.testing.assert_array_equal(part, read(path, start, len(part)))


def test_blocks_do_not_change_the_samples(tmp_path, monkeypatch):
    paths = [
        save(tmp_path / f"a.{e}", speech(5)[:-43], SAMPLE_RATE, k, s)
        for e, r, k, s in FORMATS
        if (e, r) not in [("wav", 44_101), ("wav", 44_100)]
    ]
    once = [read(path) for path in paths]
    monkeypatch.setattr(sound, "BLOCK", 1000)
    for path, audio in zip(paths, once, strict=True):
        np.testing.assert_array_equal(read(path), audio)
        part = read(path, 5000, 20_000).astype(int)
        np.testing.assert_allclose(part, audio[5000:25_000], atol=1)
        assert probe(path) == len(audio)


def test_an_hour_is_not_read_for_a_second(tmp_path):
    rate, second = 8_000, 8_000
    path = tmp_path / "hour.wav"
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 60 * second)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_U8") as file:
        for minute in range(60):
            file.write(noise * (minute == 40))
    tracemalloc.start()
    part = read(path, (40 * 60 - 1) * SAMPLE_RATE, 2 * SAMPLE_RATE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6
    assert len(part) == 2 * SAMPLE_RATE
    assert np.abs(part[: SAMPLE_RATE - 500]).max() < 300 < 2000 < part[SAMPLE_RATE + 500 :].std()
    assert probe(path) == 3600 * SAMPLE_RATE


def test_ten_milliseconds(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.full(441, 0.25), 44_100)
    assert read(tmp_path / "a.flac").shape == (160,)
    assert read(tmp_path / "a.flac", 100, 60).shape == (60,)


def test_real_samples_and_unicode_names(tmp_path):
    path = tmp_path / "žluťoučký kůň 日本 'a\".ogg"
    original = min(SAMPLES.glob("dev-clean/*/*/*.ogg"))
    path.write_bytes(original.read_bytes())
    expected = np.clip(np.rint(soundfile.read(original)[0] * 32768), -32768, 32767)
    np.testing.assert_array_equal(read(path), expected)
    assert probe(str(path)) == len(expected)


def test_flac_of_unknown_length(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, speech(4), SAMPLE_RATE)
    known = read(path)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36-bit sample count of STREAMINFO
    data[22:26] = bytes(4)
    path.write_bytes(data)
    np.testing.assert_array_equal(read(path), known)
    np.testing.assert_array_equal(read(path, 20_000, 1000), known[20_000:21_000])
    assert probe(path) == probe(path, decode=False) == len(known)


def test_wav_written_to_a_pipe_is_not_cut(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(1), SAMPLE_RATE)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert probe(path) == SAMPLE_RATE


def unusable(folder: Path) -> dict[str, tuple[Path, str]]:
    """What is wrong -> (file, words of the message)."""
    text, noise = b"This is a text.\n" * 50, np.random.default_rng(0).bytes(20_000)
    files = {
        "text.wav": (text, "is not audio that can be read"),
        "text.mp3": (text, "no MPEG audio found"),
        "noise.raw": (noise, "is not audio that can be read"),
        "empty.flac": (b"", "the file is empty"),
    }
    cases = {}
    for name, (content, words) in files.items():
        (folder / name).write_bytes(content)
        cases[name] = folder / name, words
    for extension, rate, kind, subtype in FORMATS:
        if extension != "mp3" and rate != 44_101:
            name = f"cut{rate}.{extension}"
            path = save(folder / name, speech(5, rate), rate, kind, subtype)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            cases[name] = path, "cut off|cannot be decoded beyond"
    audio = speech(20)
    audio[300_000] = np.nan
    soundfile.write(folder / "nan.wav", audio, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "int.wav", speech(1) * 32768, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "nothing.wav", np.zeros(0), SAMPLE_RATE)
    soundfile.write(folder / "one.wav", np.zeros(1), 48_000)
    soundfile.write(folder / "rate.wav", np.zeros(100), 3)
    return cases | {
        "nan": (folder / "nan.wav", "NaN or infinite"),
        "scale": (folder / "int.wav", "must lie in -1..1"),
        "no samples": (folder / "nothing.wav", "holds no samples"),
        "a third of a sample": (folder / "one.wav", "holds no samples"),
        "rate": (folder / "rate.wav", "claims 3 samples per second"),
        "missing": (folder / "missing.wav", "no such file"),
        "folder": (folder, "is a directory"),
    }


def test_unusable_files_say_why(tmp_path):
    for name, (path, words) in unusable(tmp_path).items():
        for use in (read, probe):
            with pytest.raises(AudioError, match=words) as caught:
                use(path)
            message = str(caught.value)
            assert message.startswith(f"{path}: "), name
            assert "\n" not in message, name
            assert "Error" not in message, name


def test_intact_part_of_a_damaged_file_can_be_read(tmp_path):
    audio = speech(20)
    audio[100_000] = np.inf
    soundfile.write(tmp_path / "a.wav", audio, SAMPLE_RATE, subtype="FLOAT")
    assert len(read(tmp_path / "a.wav", 0, 16_000)) == 16_000
    assert probe(tmp_path / "a.wav", decode=False) == 320_000
    with pytest.raises(AudioError, match="NaN or infinite"):
        read(tmp_path / "a.wav", 99_000, 16_000)


def test_cut_mp3_has_the_length_that_decodes(tmp_path):
    path = save(tmp_path / "a.mp3", speech(5), SAMPLE_RATE, "MP3", "MPEG_LAYER_III")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert probe(path, decode=False) == probe(path) == len(read(path)) < 3 * SAMPLE_RATE
    with pytest.raises(AudioError, match="were asked for"):
        read(path, 0, 4 * SAMPLE_RATE)
