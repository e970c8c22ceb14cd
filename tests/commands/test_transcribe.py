"""Transcripts from Python, and as files; what the command prints is in test_command_line."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import small
from tests.tools import tool
from w2v_jax.audio.waveform import AudioError, encode
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.errors import UserError
from w2v_jax.transcribe import check_files, load, transcribe

AUDIO = small.noise_batch(1, 16_000 * 3 + 800)["audio"][0, 0]


@pytest.fixture(scope="module")
def transcriber(checkpoint):
    return load(checkpoint)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two recordings of one name, one that is no audio, and a third recording."""
    folder = tmp_path_factory.mktemp("audio")
    paths = [folder / name for name in ("a/x.wav", "a/x.flac", "text.wav", "y.wav")]
    paths[0].parent.mkdir()
    soundfile.write(paths[0], AUDIO, 16_000)
    soundfile.write(paths[1], AUDIO[:32_000], 16_000)
    paths[2].write_text("this is not audio")
    soundfile.write(paths[3], AUDIO[16_000:], 16_000)
    return list(map(str, paths))


def test_a_file_and_its_samples(transcriber, files):
    found = transcriber(files[0])
    assert str(found) == found.text == " ".join(word.text for word in found.words)
    assert len(found.text) > 10
    assert found.duration == 3.05
    assert found.words[0].start < found.words[-1].end <= 3.05
    for samples in (AUDIO, AUDIO / 32768, (AUDIO / 32768).astype(np.float32)):
        assert transcriber(samples) == found
    assert transcriber(Path(files[0])) == found
    assert transcriber(AUDIO[:0]).duration == 0
    with pytest.raises(AudioError, match=re.escape(files[2])):
        transcriber(files[2])


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (AUDIO[None], r"shape \(1, 48800\).*one channel, \[n\]"),
        (np.int16(3), r"shape \(\)"),
        (AUDIO.astype(np.int32), "dtype int32; pass int16, or float in -1..1"),
        (AUDIO.astype(np.float32), r"reach \d+, they must lie in -1\.\.1"),
        (np.array([0.0, np.nan]), "NaN"),
        (b"RIFF", "dtype|shape"),
    ],
)
def test_what_is_no_audio(transcriber, audio, message):
    with pytest.raises(UserError, match=message):
        transcriber(audio)


def test_many_are_looked_at_one_by_one(checkpoint, transcriber, files):
    opened = []

    def watched():
        for file in files:
            opened.append(file)
            yield file

    found = transcriber.many(watched())
    one = transcriber(files[0])
    assert next(found) == one
    assert len(opened) == 1
    rest = list(found)
    assert isinstance(rest[1], AudioError)
    assert [rest[0], rest[2]] == [transcriber(files[1]), transcriber(files[3])]
    texts = list(transcriber.many([AUDIO], times=False))
    assert [(x.text, x.words) for x in texts] == [(one.text, [])]
    together = list(load(checkpoint, batch_seconds=75).many(watched()))
    assert [str(x) for x in together] == [str(one), *map(str, rest)]


def test_files_of_every_kind(transcriber, files, tmp_path, capsys):
    one = transcriber(files[0])
    names = [f"{file.lstrip('/')}-{i}" for i, file in enumerate(files[:2])] + [
        files[3].lstrip("/").removesuffix(".wav")
    ]
    for kind in ("txt", "json", "srt", "vtt"):
        assert transcribe(transcriber, files, kind, str(tmp_path / kind)) == 1
        printed = capsys.readouterr()
        assert printed.out == f"3 of 4 files transcribed: {tmp_path / kind}\n"
        assert printed.err.startswith(f"error: {files[2]}: ")
        written = [path for path in (tmp_path / kind).rglob("*") if path.is_file()]
        assert set(written) == {tmp_path / kind / f"{name}.{kind}" for name in names}
    first = {
        kind: (tmp_path / kind / f"{names[0]}.{kind}").read_text() for kind in os.listdir(tmp_path)
    }
    assert first["txt"] == f"{one.text}\n"
    assert first["vtt"].startswith("WEBVTT\n\n00:00:0")
    shown = [line for line in first["srt"].split("\n") if line and not re.match(r"\d", line)]
    assert "".join(shown).replace(" ", "") == one.text.replace(" ", "")
    values = json.loads(first["json"])
    assert values.keys() == {"file", "duration", "text", "words"}
    assert (values["file"], values["duration"], values["text"]) == (files[0], 3.05, one.text)
    assert [word["text"] for word in values["words"]] == one.text.split()
    assert values["words"][0].keys() == {"text", "start", "end", "score"}


def test_printed(transcriber, files, capsys):
    one, other = transcriber(files[0]).text, transcriber(files[3]).text
    assert transcribe(transcriber, files[:1], "txt") == 0
    assert capsys.readouterr().out == f"{one}\n"
    assert transcribe(transcriber, files[::3], "txt") == 0
    assert capsys.readouterr().out == f"{files[0]}\t{one}\n{files[3]}\t{other}\n"
    assert transcribe(transcriber, files, "json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [files[0], files[1], files[3]]
    assert transcribe(transcriber, files[:1], "vtt") == 0
    assert capsys.readouterr().out.startswith("WEBVTT\n")


def test_errors(checkpoint, transcriber, files, tmp_path):
    with pytest.raises(UserError, match=r"--format=srt of 4 files needs a folder: set --output"):
        check_files(files, "srt")
    with pytest.raises(UserError, match="name it once"):
        check_files(["-", "-"], "txt")
    for seconds in (10.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match=f"--batch_seconds={seconds:g} must be .* at least 30"):
            load(checkpoint, batch_seconds=seconds)
    with pytest.raises(UserError, match=r"nothing\.arpa cannot be read"):
        load(checkpoint, SearchOptions(lm="nothing.arpa"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"/file/\S+ cannot be written"):
        transcribe(transcriber, files[:1], "txt", str(tmp_path / "file"))


def run(checkpoint, *arguments, **options):
    found = tool("transcribe", f"--checkpoint={checkpoint}", *arguments, **options)
    return found.stdout, found.stderr


def test_standard_input_and_search(checkpoint, tmp_path):
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("A\nI\n")
    options = SearchOptions(lexicon=str(lexicon), beam=5, word_score=-3.5, library="python")
    flags = [f"--lexicon={lexicon}", "--beam=5", "--word_score=-3.5", "--library=python"]
    expected = load(checkpoint, options)(AUDIO)
    assert set(expected.text.split()) <= {"A", "I"}
    out, _ = run(checkpoint, *flags, "--format=json", "-", given=encode(AUDIO, "flac"))
    values = json.loads(out)
    assert (values["file"], values["text"]) == ("-", expected.text)
    assert [word["text"] for word in values["words"]] == expected.text.split()


def test_bad_standard_input(transcriber, files, monkeypatch, capsys):
    with open(files[2]) as given:
        monkeypatch.setattr(sys, "stdin", given)
        assert transcribe(transcriber, ["-", files[0]], "txt") == 1
    printed = capsys.readouterr()
    assert printed.out == f"{files[0]}\t{transcriber(files[0])}\n"
    assert printed.err.startswith("error: -: is not audio")


def test_the_error_names_the_flag(checkpoint, files):
    _, errors = run(checkpoint, "--beam=0", files[0], status=2)
    assert "error: beam is 0; it must be a whole number from 1 to 1,000,000" in errors
