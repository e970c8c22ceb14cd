"""Tables of `id<TAB>text`."""

from pathlib import Path

import pytest

from tests.corpora.test_corpora import librispeech, noise
from w2v_jax.corpora import find as corpora
from w2v_jax.errors import UserError


def rows(found, root: Path) -> list[tuple[str, str]]:
    return [(str(Path(u.path).relative_to(root)), u.text) for u in found.utterances]


def test_ids_name_audio_by_path_or_name(tmp_path):
    for name in ("wavs/a.wav", "wavs/b c.WAV", "wavs/deep/d.flac", "wavs/e.wav"):
        noise(tmp_path / name)
    librispeech(tmp_path / "other")  # a corpus of its own beside them
    lines = "id\ttext\na\tone\nb c\ttwo  words\nwavs/deep/d.flac\tthree\nz\tlost\n"
    (tmp_path / "metadata.TSV").write_text(lines)
    found = corpora.find(tmp_path)
    assert rows(found, tmp_path) == [
        ("other/dev-clean/84/121123/84-121123-0000.flac", "GO DO"),
        ("wavs/a.wav", "one"), ("wavs/b c.WAV", "two words"), ("wavs/deep/d.flac", "three"),
        ("wavs/e.wav", ""),
    ]  # fmt: skip
    assert found.lines_without_audio == [f"{tmp_path}/metadata.TSV: z"]
    assert found.audio_without_line == [f"{tmp_path}/wavs/e.wav"]
    # a table alone has what it names
    found = corpora.find(tmp_path / "metadata.TSV")
    assert [text for _, text in rows(found, tmp_path)] == ["one", "two words", "three"]


def test_tables_of_several_parts(tmp_path):
    noise(tmp_path / "a.wav")
    noise(tmp_path / "b.wav")
    (tmp_path / "train.txt").write_text("a\tone\n")
    (tmp_path / "test.txt").write_text("b.wav\ttwo\n")
    (tmp_path / "a.txt").write_text("b\tnot a table but a text\n")
    assert rows(corpora.find(tmp_path), tmp_path) == [("a.wav", "one"), ("b.wav", "two")]


def test_an_id_of_several_files_is_listed(tmp_path):
    noise(tmp_path / "s1/a.wav")
    noise(tmp_path / "s2/a.wav")
    (tmp_path / "text.txt").write_text("a\twhose\ns2/a\ttheirs\n")
    found = corpora.find(tmp_path / "text.txt")
    assert rows(found, tmp_path) == [("s2/a.wav", "theirs")]
    (line,) = found.lines_without_audio
    assert "text.txt: a (several files: " in line


def test_damaged_lines_are_named(tmp_path):
    noise(tmp_path / "a.wav")
    table = tmp_path / "text.txt"
    table.write_text("a\tone\na.wav\ttwo\n")
    with pytest.raises(UserError, match=r"line 2 gives 'a\.wav' a second text"):
        corpora.find(tmp_path)
    table.write_text("a\tone\nno tab\n")
    with pytest.raises(UserError, match="no table of audio that is known"):
        corpora.find(table)
    with pytest.raises(UserError, match="line 2 is 'no tab', not an id, a tab and a text"):
        corpora.find(table, "ids")
