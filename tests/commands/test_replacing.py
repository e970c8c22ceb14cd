"""No command replaces a file that it did not write."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_jax import samples
from w2v_jax.align import Aligner
from w2v_jax.corpora.preparation import prepare
from w2v_jax.data.shards import Shards, write_shards
from w2v_jax.errors import UserError
from w2v_jax.evaluate import check_output
from w2v_jax.export import check_free
from w2v_jax.places import check_replaceable, place, write_whole
from w2v_jax.training.settings import write_settings
from w2v_jax.transcribe import check_files

SPEECH = str(Path(samples.__file__).parent / "dev-clean")


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "RF64"])
def test_audio_is_never_replaced(tmp_path, format):
    path = tmp_path / "recording"
    soundfile.write(path, np.zeros(1600), 16_000, format=format)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is audio, which is never replaced"):
            check_replaceable(path, "--output", overwrite=overwrite)


@pytest.mark.parametrize(
    "head",
    [
        b"NIST_1A\n", b"\xff\xf1\x50\x80", b"\xff\xfd\x84\x04", b"wvpk", b"MAC ", b"#!AMR\n",
        b"Creative Voice File\x1a", b"\0\0\0\x14ftypM4A ", b"\0\0\0\x08wide", b"\x1aE\xdf\xa3",
        b"0&\xb2u\x8ef\xcf\x11",
    ],
)  # fmt: skip
def test_audio_that_is_not_written_here_is_known_too(tmp_path, head):
    path = tmp_path / "recording"
    path.write_bytes(head + bytes(100))
    with pytest.raises(UserError, match="is audio"):
        check_replaceable(path, "--output", overwrite=True)


def test_what_cannot_be_read_is_there(tmp_path, monkeypatch):
    def closed(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(place(tmp_path)), "open", closed)
    with pytest.raises(UserError, match=r"exists and cannot be read"):
        check_replaceable(tmp_path / "notes", "--output", overwrite=False)


def test_what_is_there_needs_leave(tmp_path):
    path = tmp_path / "notes.txt"
    check_replaceable(path, "--output", overwrite=False)
    check_replaceable(tmp_path / "no" / "folder", "--output", overwrite=False)
    path.write_text("")
    check_replaceable(path, "--output", overwrite=False)
    path.write_text("years of work")
    with pytest.raises(UserError, match=r"--output: \S+notes\.txt exists.*--overwrite"):
        check_replaceable(path, "--output", overwrite=False, ours=b"ours")
    check_replaceable(path, "--output", overwrite=True)
    path.write_text("a file of ours")
    check_replaceable(path, "--output", overwrite=False, ours=b"ours")


def test_writing_whole_leaves_neighbours_alone(tmp_path):
    neighbour = tmp_path / "talk.tmp"
    neighbour.write_text("mine")
    write_whole(tmp_path / "talk.txt", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.tmp", "talk.txt"]
    assert neighbour.read_text() == "mine"


@pytest.mark.parametrize("ending", ["tsv", "arrow"])
def test_manifests(tmp_path, ending):
    path = str(tmp_path / f"train.{ending}")
    for _ in range(2):  # its own manifest is written again
        prepare([SPEECH], path, decode=False)
    Path(path).write_text("something else")
    with pytest.raises(UserError, match="--overwrite"):
        prepare([SPEECH], path, decode=False)
    prepare([SPEECH], path, decode=False, overwrite=True)
    Path(f"{path}.skipped.tsv").write_text("something else")
    with pytest.raises(UserError, match=r"skipped\.tsv exists"):
        prepare([SPEECH], path, decode=False)


def test_evaluation(tmp_path):
    output = f"{tmp_path}/test.tsv"
    check_output(output, True, False)
    for name in ("test.tsv", "test.html", "test.tuned.json"):
        (tmp_path / name).write_text("something else")
        with pytest.raises(UserError, match=f"{name} exists"):
            check_output(output, True, False)
        check_output(output, True, True)
        (tmp_path / name).unlink()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output=\S+ cannot be written: .*; choose another"):
        check_output(f"{tmp_path}/file/test.tsv", False, False)


def test_transcripts(tmp_path):
    mine = tmp_path / "out" / "talk.txt"
    mine.parent.mkdir()
    mine.write_text("what was really said")
    check_files(["talk.wav"], "srt", str(mine.parent))
    with pytest.raises(UserError, match=r"talk\.txt exists"):
        check_files(["talk.wav"], "txt", str(mine.parent))
    check_files(["talk.wav"], "txt", str(mine.parent), overwrite=True)


def test_a_workdir_of_something_else(tmp_path):
    for mine in ('{"model_type": "wav2vec2"}', "[]", "notes"):
        (tmp_path / "config.json").write_text(mine)
        with pytest.raises(UserError, match="does not describe a training run"):
            write_settings(str(tmp_path), {}, {})
        assert (tmp_path / "config.json").read_text() == mine
    (tmp_path / "config.json").unlink()
    for name in ("metrics.jsonl", "parameters.txt"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds {name}, but no config.json of a run"):
            write_settings(str(tmp_path), {}, {})
        (tmp_path / name).unlink()


def test_params_of_something_else(tmp_path):
    (tmp_path / "params").mkdir()
    with pytest.raises(UserError, match="holds a params that is no model"):
        check_free(place(tmp_path), "orbax", False)
    (tmp_path / "params" / "_METADATA").write_text("")  # an export that was not finished
    check_free(place(tmp_path), "orbax", False)


def test_alignments(tmp_path, monkeypatch):
    monkeypatch.setattr("w2v_jax.align.open_recognizer", lambda checkpoint: (None, None))
    (tmp_path / "words.ctm").write_text("something else")
    (tmp_path / "b.TextGrid").write_text("something else")
    for formats, name in ((["ctm"], "words.ctm"), (["json", "textgrid"], "b.TextGrid")):
        with pytest.raises(UserError, match=f"{name} exists"):
            Aligner("", str(tmp_path), formats).check("ab", "words")
        Aligner("", str(tmp_path), formats, overwrite=True).check("ab", "words")
    Aligner("", str(tmp_path), ["json"]).check("ab", "words")


def test_what_is_read_is_not_written(tmp_path):
    path = tmp_path / "m.tsv"
    link = tmp_path / "link.tsv"
    prepare([SPEECH], str(path), decode=False)
    link.symlink_to(path)
    before = path.read_bytes()
    for output in (path, link):
        with pytest.raises(UserError, match="is what is read; name another file"):
            prepare([str(path)], str(output), decode=False, minutes=0.5, overwrite=True)
    assert path.read_bytes() == before


def test_shards_of_another_manifest(tmp_path):
    whole = prepare([SPEECH], str(tmp_path / "m.tsv"), decode=False, minutes=0.3)
    part = whole.select(np.arange(3))
    for _ in range(2):  # those of the same are written again
        write_shards(part, tmp_path / "shards", processes=1)
    with pytest.raises(UserError, match=r"holds those of another manifest.*--overwrite"):
        write_shards(whole, tmp_path / "shards", processes=1)
    assert len(Shards(tmp_path / "shards").manifest) == 3
    write_shards(whole, tmp_path / "shards", processes=1, overwrite=True)
    assert len(Shards(tmp_path / "shards").manifest) == len(whole)
