import json
import pickle

import numpy as np
import pytest
import soundfile

from w2v_jax.audio.waveform import AudioError, decode_flac, encode
from w2v_jax.data.audio_files import Files
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.shards import BLOCK, Shards, is_shards, verify_shards, write_shards
from w2v_jax.data.sources import open_sources
from w2v_jax.errors import UserError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A manifest of noise: short files, one of half a minute, and two parts of that one."""
    folder = tmp_path_factory.mktemp("speech")
    lengths = [5, 20_000, BLOCK, BLOCK + 1, 7 * BLOCK + 123, 3000, 3 * BLOCK]
    names = [f"{i}.flac" for i in range(5)] + ["4.flac", "4.flac"]
    for name, length in zip(names[:5], lengths, strict=False):
        soundfile.write(folder / name, (RNG.normal(size=length) * 5000).astype(np.int16), 16_000)
    starts = [0, 0, 0, 0, 0, 1234, 2 * BLOCK]
    return Manifest(folder, names, lengths, speakers=[*"aabbccc"], starts=starts)


@pytest.fixture(scope="module", params=["pcm", "flac"])
def shards(request, speech, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / request.param
    write_shards(speech, folder, shard_format=request.param, megabytes=1, processes=1)
    return folder


def test_every_part_is_that_of_the_file(speech, shards):
    files, source = Files(speech), Shards(shards)
    assert len(list(shards.glob("*.arrayrecord"))) == 2
    assert source.manifest.digest == speech.digest
    assert source.manifest.path(4) == speech.path(4)
    for row, size in enumerate(speech.samples.tolist()):
        parts = [(0, size), (size - 1, 1), (size // 3, max(size // 2, 1))]
        if size > 3 * BLOCK:
            parts += [(BLOCK, BLOCK), (BLOCK - 1, 2), (2 * BLOCK, BLOCK + 1)]
        for start, count in parts:
            expected = files.audio(row, start, count)
            assert np.array_equal(source.audio(row, start, count), expected), (row, start, count)
    for start, count in [(-1, 2), (0, 6), (5, 1), (0, 0)]:
        with pytest.raises(AudioError, match=r"0\.flac.*has 5 samples"):
            source.audio(0, start, count)


def test_selection_and_pickling(speech, shards):
    chosen = Shards(shards).select(np.array([6, 1, 4])).select(np.array([False, True, True]))
    copy = pickle.loads(pickle.dumps(chosen))
    for source in (chosen, copy):
        assert source.manifest.samples.tolist() == speech.samples[[1, 4]].tolist()
        expected = Files(speech).audio(4, 100_000, 70_000)
        assert np.array_equal(source.audio(1, 100_000, 70_000), expected)
    assert len(pickle.dumps(chosen)) < 1000


def test_opened_like_a_manifest(speech, shards, tmp_path):
    speech.write(tmp_path / "a.tsv")
    files, packed = open_sources(f"{tmp_path}/*.tsv, {shards}")
    assert (type(files), files.name, type(packed)) == (Files, "a", Shards)
    with pytest.raises(UserError, match="no manifest fits"):
        open_sources(f"{tmp_path}/*.arrow")


def test_interrupted_writing_goes_on(speech, tmp_path, capsys):
    write_shards(speech, tmp_path, megabytes=1, processes=1)
    first, second = sorted(tmp_path.glob("*.arrayrecord"))
    old = first.stat().st_mtime_ns
    whole = second.read_bytes()
    for gone in (tmp_path / "shards.json", second.with_suffix(".json")):
        gone.unlink()
    second.with_suffix(".tmp").write_bytes(b"half")  # where the writer was killed
    assert not is_shards(tmp_path)
    write_shards(speech, tmp_path, megabytes=1, processes=1)
    assert "1 shards were there" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == old
    assert second.read_bytes() == whole
    write_shards(speech, tmp_path, shard_format="flac", megabytes=1, processes=2)
    assert "0 shards were there" in capsys.readouterr().out
    verify_shards(tmp_path, processes=2)


def test_damage_is_found(speech, shards, tmp_path):
    verify_shards(shards, processes=1)
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = max(tmp_path.glob("*.arrayrecord"), key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match=path.name):
        verify_shards(tmp_path, processes=1)
    source = Shards(tmp_path)
    problems = []
    for row, size in enumerate(speech.samples.tolist()):
        try:
            source.audio(row, 0, size)
        except AudioError as error:
            problems.append((row, str(error)))
    ((row, problem),) = problems
    assert speech.path(row) in problem
    assert path.name in problem
    index = json.loads((tmp_path / "shards.json").read_text())
    (tmp_path / "shards.json").write_text(json.dumps(index | {"digest": "0"}))
    with pytest.raises(UserError, match="do not belong together"):
        Shards(tmp_path)


def test_unreadable_rows_stay_unreadable(speech, tmp_path):
    paths = [speech.path(i) for i in range(len(speech))]
    paths[1] = "/nowhere/1.flac"
    manifest = Manifest("/", paths, speech.samples, starts=speech.starts)
    with pytest.raises(UserError, match="1 of 7 rows"):
        write_shards(manifest, tmp_path, processes=1, max_bad_share=0.1)
    assert not is_shards(tmp_path)
    write_shards(manifest, tmp_path, processes=1, max_bad_share=0.2)
    assert "/nowhere/1.flac" in (tmp_path / "unreadable.tsv").read_text()
    verify_shards(tmp_path, processes=1)
    with pytest.raises(AudioError, match=r"nowhere/1\.flac.*could not be read"):
        Shards(tmp_path).audio(1, 0, 10)


def test_flac_bytes():
    audio = (RNG.normal(size=50_000) * 20_000).clip(-32768, 32767).astype(np.int16)
    data = encode(audio, "flac")
    assert np.array_equal(decode_flac(data), audio)
    assert np.array_equal(decode_flac(data, 12_345, 20_000), audio[12_345:32_345])
    with pytest.raises(AudioError, match="damaged"):
        decode_flac(data[:30])
