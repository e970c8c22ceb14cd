"""Data folders of Kaldi."""

from pathlib import Path

import pytest

from tests.corpora.test_corpora import noise
from w2v_jax.corpora import find as corpora
from w2v_jax.corpora.preparation import prepare
from w2v_jax.errors import UserError


def folder(root: Path, **files: str) -> Path:
    """A data folder of two recordings; files: its further ones."""
    data = root / "data" / "train"
    noise(root / "audio" / "rec one.WAV", 1.0)
    noise(data / "b.flac")
    (data / "wav.scp").write_text(f"rec-a {root}/audio/rec one.WAV\nrec-b  b.flac\n")
    (data / "split2" / "1").mkdir(parents=True)
    (data / "split2" / "1" / "wav.scp").write_text(f"rec-a {root}/audio/rec one.WAV\n")
    for name, text in files.items():
        (data / name).write_text(text)
    return data


def rows(found) -> list[tuple]:
    return [(Path(u.path).name, u.text, u.speaker, u.language, u.start, u.samples)
            for u in found.utterances]  # fmt: skip


def test_recordings_are_utterances(tmp_path):
    data = folder(
        tmp_path, text="rec-a go  on\nrec-c lost\n", utt2spk="rec-a s1\nrec-b s2\n",
        spk2utt="s1 rec-a\ns2 rec-b\n", utt2lang="rec-a en\n",
    )  # fmt: skip
    found = corpora.find(tmp_path / "data")
    assert rows(found) == [
        ("rec one.WAV", "go on", "s1", "en", 0, None), ("b.flac", "", "s2", "", 0, None),
    ]  # fmt: skip
    assert found.lines_without_audio == [f"{data}/text: rec-c"]
    assert found.audio_without_line == [f"{data}/b.flac"]
    assert rows(corpora.find(data / "wav.scp")) == rows(found)


def test_segments(tmp_path, capsys):
    data = folder(
        tmp_path, text="u1 one\nu2 two\nu3 three\n", utt2spk="u1 s\nu2 s\nu3 t\n",
        segments="u1 rec-a 0 0.4\nu2 rec-a 0.40 -1\nu3 rec-b 0.1 0.5\nu4 rec-z 0 1\n",
    )  # fmt: skip
    found = corpora.find(data)
    assert rows(found) == [
        ("rec one.WAV", "one", "s", "", 0, 6400), ("rec one.WAV", "two", "s", "", 6400, None),
        ("b.flac", "three", "t", "", 1600, 6400),
    ]  # fmt: skip
    assert found.lines_without_audio == [f"{data}/segments: u4"]
    manifest = prepare([data], tmp_path / "m.tsv")
    assert manifest.samples.tolist() == [6400, 9600, 6400]
    assert "3 transcripts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("wav.scp", "a sph2pipe -f wav x.sph |\n", "a is a command, 'sph2pipe .*; write"),
        ("wav.scp", "a raw.ark:17\n", "inside an archive"),
        ("wav.scp", "a\n", "a has no path"),
        ("wav.scp", "a b.flac\na b.flac\n", "line 2 has 'a' again"),
        ("text", "rec-a x\nrec-a y\n", "line 2 has 'rec-a' again"),
        ("segments", "u rec-a 0\n", "u 'rec-a 0' is no segment"),
        ("segments", "u rec-a 2 1\n", "is no segment"),
        ("segments", "u rec-a nan 1\n", "is no segment"),
        ("segments", "u rec-a inf 1\n", "is no segment"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, text, words):
    data = folder(tmp_path, **{name: text})
    with pytest.raises(UserError, match=f"{name}: .*{words}"):
        corpora.find(data)
