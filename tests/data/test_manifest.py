"""From folders of audio to a manifest: corpora, the file format, prepare."""

import hashlib
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

import w2v_jax
from w2v_jax.corpora import find as corpora
from w2v_jax.corpora.preparation import prepare, subset
from w2v_jax.data.manifest import Manifest, ManifestError
from w2v_jax.errors import UserError

SAMPLES = Path(w2v_jax.__file__).parent / "samples"
ROOT = SAMPLES.parents[1]


def tone(path: Path, seconds: float, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(round(seconds * rate)) / 9), rate)
    return path


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A LibriSpeech tree beside a plain folder, each with something missing."""
    folder = tmp_path / "corpus"
    for number in range(3):
        tone(folder / "tree/19/198" / f"19-198-000{number}.flac", 1 + number)
    transcript = "19-198-0000 HELLO  THERE\n\n19-198-0001 AGAIN\n19-198-0009 NOBODY\n"
    (folder / "tree/19/198/19-198.trans.txt").write_text(transcript)
    tone(folder / "plain/žába.WAV", 0.5)
    (folder / "plain/žába.txt").write_text("\ufeffŽába\tskáče\n daleko", encoding="utf-8")
    tone(folder / "plain/deeper/b.ogg", 0.5)
    tone(folder / "plain/.hidden.wav", 0.5)
    (folder / "plain/notes.txt").write_text("no audio of this name")
    return folder


FORMATS = pytest.mark.parametrize("suffix", ["tsv", "arrow"])


def table(root: Path, **changes) -> Manifest:
    return Manifest(
        **{
            "root": str(root),
            "paths": [f"é {i}.flac" for i in range(3)],
            "samples": [16_000, 32_000, 48_000],
            "texts": ["HELLO", "", "ŽÁBA"],
            "speakers": ["2", "1", ""],
            "languages": ["en", "", "en"],
        }
        | changes
    )


def segments(root: Path) -> Manifest:
    return table(root, starts=[0, 7, 10**12], corpora=["a", "", "b"])


def columns(manifest: Manifest) -> list[list]:
    return [
        c.tolist()
        for c in (
            manifest.paths, manifest.samples, manifest.texts, manifest.speakers,
            manifest.languages, manifest.starts, manifest.corpora,
        )
    ]  # fmt: skip


@FORMATS
@pytest.mark.parametrize("make", [table, segments, lambda root: table(root).select([])])
def test_round_trip(tmp_path, suffix, make):
    manifest, path = make(tmp_path), tmp_path / "new" / f"m.{suffix}"
    manifest.write(path)
    back = Manifest.read(path)
    assert columns(back) == columns(manifest)
    assert back.samples.dtype == back.starts.dtype == np.int64
    assert back.root == str(tmp_path)
    assert back.digest == manifest.digest
    assert os.listdir(tmp_path / "new") == [path.name]
    back.write(tmp_path / "again.tsv")
    manifest.write(tmp_path / "first.tsv")
    assert (tmp_path / "again.tsv").read_bytes() == (tmp_path / "first.tsv").read_bytes()
    assert hashlib.sha256(
        b"".join((tmp_path / "first.tsv").read_bytes().splitlines(keepends=True)[2:])
    ).hexdigest() == manifest.digest  # fmt: skip


def test_values():
    manifest = table(Path("/audio"))
    assert manifest.path(1) == "/audio/é 1.flac"
    assert manifest.hours == pytest.approx(6 / 3600)
    assert manifest.paths[-1] == "é 2.flac"
    with pytest.raises(IndexError):
        manifest.paths[3]
    with pytest.raises(ValueError, match="same length"):
        table(Path("/audio"), samples=[1])


def test_labels_are_codes_and_sorted_names():
    speakers = table(Path("/audio")).speakers
    assert speakers.names.tolist() == ["", "1", "2"]
    assert speakers.codes.tolist() == [2, 1, 0]
    assert speakers.codes.dtype == np.int32
    part = table(Path("/audio")).select([2, 0, 2])
    assert [part.speakers.names[code] for code in part.speakers.codes] == ["", "2", ""]
    assert part.speakers.counts() == {"": 2, "2": 1}
    assert part.speakers.counts(part.samples) == {"": 96_000, "2": 16_000}


def test_select():
    manifest = segments(Path("/audio"))
    assert manifest.select([2, 0]).paths.tolist() == ["é 2.flac", "é 0.flac"]
    assert manifest.select(manifest.samples > 20_000).texts.tolist() == ["", "ŽÁBA"]
    assert manifest.select([2, 0]).select([1]).starts.tolist() == [0]
    assert manifest.select([2, 1]).select([True, False]).corpora.tolist() == ["b"]
    assert len(manifest.select([])) == 0
    assert manifest.select([]).hours == 0
    for wrong in ([3], [-1], [True]):
        with pytest.raises(IndexError):
            manifest.select(wrong)
    with pytest.raises(IndexError):
        manifest.select([0, 1]).select([2])


@FORMATS
def test_other_processes_get_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    segments(tmp_path).write(path)
    for manifest in (Manifest.read(path), Manifest.read(path).select([2, 0])):
        again = pickle.loads(pickle.dumps(manifest))
        assert columns(again) == columns(manifest)
        assert (again.root, again.digest) == (manifest.root, manifest.digest)


def test_a_file_that_was_replaced_is_noticed(tmp_path):
    path = tmp_path / "m.arrow"
    segments(tmp_path).write(path)
    manifest = Manifest.read(path)
    sent = pickle.dumps(manifest.select([1, 0]))
    table(tmp_path).write(path)
    assert columns(manifest) == columns(segments(tmp_path)), "a mapped file stays what it was"
    with pytest.raises(ManifestError, match="was replaced"):
        pickle.loads(sent)


def test_columns_of_a_file_are_neither_copied_nor_writable(tmp_path):
    path = tmp_path / "m.arrow"
    segments(tmp_path).write(path)
    manifest = Manifest.read(path)
    for column in (manifest.samples, manifest.starts, manifest.speakers.codes):
        assert not column.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
    assert len(pickle.dumps(manifest)) < 500
    assert np.shares_memory(manifest.samples, manifest.samples)


def test_digest_sees_every_column_and_not_the_root(tmp_path):
    digest = table(tmp_path).digest
    assert table(tmp_path / "elsewhere").digest == digest
    assert table(tmp_path).select([1, 0, 2]).digest != digest
    seen = {digest}
    for name in ("paths", "samples", "texts", "speakers", "languages", "starts", "corpora"):
        changed = [7, 7, 7] if name in ("samples", "starts") else ["x", "", ""]
        seen.add(table(tmp_path, **{name: changed}).digest)
    assert len(seen) == 8


def test_digest_of_a_table_of_the_first_version():
    """A run that was begun with an older version goes on."""
    rows = "é 0.flac\t16000\tHELLO\t2\ten\né 1.flac\t32000\t\t1\t\n"
    rows += "é 2.flac\t48000\tŽÁBA\t\ten\n"
    assert table(Path("/audio")).digest == hashlib.sha256(rows.encode()).hexdigest()


@FORMATS
def test_folder_with_audio_and_manifest_moves(tmp_path, suffix):
    name = f"m.{suffix}"
    for root in ("a", "a/audio"):
        table(tmp_path / root).write(tmp_path / "a" / name)
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        assert Manifest.read(tmp_path / "b" / name).root == str(tmp_path / "b" / root[2:])
    table(tmp_path / "audio").write(tmp_path / "a" / name)
    (tmp_path / "a" / name).rename(tmp_path / name)
    assert Manifest.read(tmp_path / name).root == str(tmp_path / "audio")


def test_absolute_paths_stay(tmp_path):
    manifest = Manifest(str(tmp_path), ["/x/y.wav"], [1])
    assert manifest.path(0) == "/x/y.wav"


@FORMATS
def test_names_that_are_not_utf8_survive(tmp_path, suffix):
    name = os.fsdecode(b"caf\xe9.wav")
    manifest = Manifest(str(tmp_path), [name, "b"], [1, 1], speakers=[name, ""])
    manifest.write(tmp_path / f"m.{suffix}")
    back = Manifest.read(tmp_path / f"m.{suffix}")
    assert columns(back) == columns(manifest)
    assert back.paths[0] == name
    assert back.digest == manifest.digest


def test_other_programs_read_strings(tmp_path):
    segments(tmp_path).write(tmp_path / "m.arrow")
    stored = pa.ipc.open_file(tmp_path / "m.arrow").read_all()
    assert stored.column("text").to_pylist() == ["HELLO", "", "ŽÁBA"]
    assert stored.column("speaker").to_pylist() == ["2", "1", ""]


@FORMATS
@pytest.mark.parametrize("text", ["a\tb", "a\nb", "a\rb"])
def test_text_that_breaks_the_table_is_refused(tmp_path, text, suffix):
    manifest = table(tmp_path, texts=["", text, ""])
    with pytest.raises(ManifestError, match=r"row 1, 'é 1\.flac.*tab or a line break"):
        manifest.write(tmp_path / f"m.{suffix}")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda text: "", "not a w2v_jax manifest"),
        (lambda text: "path,samples\n", "not a w2v_jax manifest"),
        (lambda text: text[1:], "not a w2v_jax manifest"),
        (lambda text: text.replace("speaker\t", ""), "not a w2v_jax manifest"),
        (lambda text: text.replace("16000\t", "", 1), "line 3 is damaged"),
        (lambda text: text.replace("HELLO", "HEL\tLO"), "line 3 is damaged"),
        (lambda text: text.replace("48000", "4.8e4"), "line 5 is damaged"),
        (lambda text: text.replace("\t7\t", "\t-7\t"), "line 4 is damaged"),
        (lambda text: text.replace("é 1.flac", ""), "line 4 is damaged"),
        (lambda text: text[:-3], "last line is cut"),
    ],
)
def test_damaged_manifests_say_so(tmp_path, damage, words):
    path = tmp_path / "m.tsv"
    segments(tmp_path).write(path)
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ManifestError, match=words) as caught:
        Manifest.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "python -m w2v_jax.prepare" in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-20], lambda data: data[9:], lambda data: b"x"]
)
def test_damaged_arrow_files_say_so(tmp_path, damage):
    path = tmp_path / "m.arrow"
    segments(tmp_path).write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ManifestError, match=r"not a w2v_jax manifest.*w2v_jax\.prepare"):
        Manifest.read(path)


def test_arrow_files_of_other_programs_are_refused(tmp_path):
    other = pa.RecordBatch.from_pydict({"path": ["a"]})
    with pa.ipc.new_file(str(tmp_path / "m.arrow"), other.schema) as file:
        file.write_batch(other)
    with pytest.raises(ManifestError, match="not a w2v_jax manifest"):
        Manifest.read(tmp_path / "m.arrow")


@FORMATS
def test_missing_or_binary_manifest(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    with pytest.raises(ManifestError, match=r"no such file.*w2v_jax\.prepare"):
        Manifest.read(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ManifestError, match="not a w2v_jax manifest"):
        Manifest.read(path)
    with pytest.raises(ManifestError, match="cannot be written"):
        table(tmp_path).write(path / f"below.{suffix}")


def test_processes_share_the_rows():
    """A slice of `python -m tests.measure.large_manifest --rows=10000000 --workers=8`."""
    program = [sys.executable, "-m", "tests.measure.large_manifest"]
    arguments = [*program, "--rows=300000", "--workers=2"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    megabytes = float(re.search(r"together ([\d.]+) MB", done.stdout)[1])
    assert megabytes < 210, f"strings of all rows would take 240: {done.stdout}"


def test_find_in_a_mixture(mixed):
    corpus = corpora.find(mixed)
    found = [(os.path.relpath(u.path, mixed), u.text, u.speaker) for u in corpus.utterances]
    assert found == [
        ("plain/deeper/b.ogg", "", ""),
        ("plain/žába.WAV", "Žába skáče daleko", ""),
        ("tree/19/198/19-198-0000.flac", "HELLO THERE", "19"),
        ("tree/19/198/19-198-0001.flac", "AGAIN", "19"),
        ("tree/19/198/19-198-0002.flac", "", "19"),
    ]
    (line,) = corpus.lines_without_audio
    assert line.endswith("19-198.trans.txt: 19-198-0009")
    assert corpus.audio_without_line == [str(mixed / "tree/19/198/19-198-0002.flac")]


def test_find_follows_links_but_not_in_circles(mixed, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links/corpus").symlink_to(mixed)
    (mixed / "plain/again").symlink_to(mixed)
    assert len(corpora.find(tmp_path / "links").utterances) == 5


def test_find_the_samples():
    corpus = corpora.find(SAMPLES / "dev-clean")
    assert len(corpus.utterances) == 55
    assert all(u.text and u.speaker == "1001" for u in corpus.utterances)
    assert corpus.lines_without_audio == corpus.audio_without_line == []


def test_find_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        corpora.find(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        corpora.find(tmp_path / "file")


def test_prepare_counts_and_lists_what_it_skips(mixed, tmp_path, capsys):
    (mixed / "plain/broken.wav").write_text("this is text\n" * 99)
    tone(mixed / "plain/short.wav", 0.05)
    tone(mixed / "plain/tab\tname.wav", 1)
    output = tmp_path / "out/m.tsv"
    manifest = prepare([str(mixed)], str(output), language="cs", max_bad_share=0.25)
    assert columns(Manifest.read(output)) == columns(manifest)
    assert manifest.samples.tolist() == [8000, 8000, 16_000, 32_000, 48_000]
    assert set(manifest.languages) == {"cs"}
    assert all(os.path.exists(manifest.path(i)) for i in range(len(manifest)))
    header, *rows = Path(f"{output}.skipped.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "path\treason"
    assert [row.count("\t") for row in rows] == [1] * 4
    for row, words in zip(
        rows,
        ["is not audio that can be read", "tab or a line break", "0.050 s is shorter", "0009"],
        strict=True,
    ):
        assert words in row
    printed = capsys.readouterr().out
    for words in (
        "5 utterances, 0.00 hours, 1 known speakers, 3 transcripts (1 missing from transcript",
        "skipped 2 unreadable, 1 shorter than 0.1 s, 1 transcript lines without audio",
        f"skipped: {mixed}/plain/broken.wav: is not audio",
    ):
        assert words in printed


def test_prepare_removes_an_old_list_and_joins_inputs(mixed, monkeypatch, capsys):
    monkeypatch.chdir(mixed)
    Path("m.tsv.skipped.tsv").touch()
    inputs = ["plain", "tree/19/198", "plain/deeper"]
    Path("tree/19/198/19-198.trans.txt").unlink()
    manifest = prepare(inputs, "m.tsv", min_seconds=0.6, threads=1)
    assert manifest.paths[0] == "tree/19/198/19-198-0000.flac"
    assert len(manifest) == 3
    manifest = prepare(inputs, "m.tsv", threads=1)
    assert len(manifest) == 5
    assert not Path("m.tsv.skipped.tsv").exists()
    assert "nothing skipped" in capsys.readouterr().out
    monkeypatch.chdir("/")
    assert os.path.exists(Manifest.read(mixed / "m.tsv").path(0))


def test_prepare_decodes_unless_told_not_to(tmp_path):
    path = tone(tmp_path / "a.flac", 3)
    path.write_bytes(path.read_bytes()[:-5000])
    tone(tmp_path / "b.flac", 3)
    assert len(prepare([tmp_path], tmp_path / "m.tsv", max_bad_share=0.5)) == 1
    assert len(prepare([tmp_path], tmp_path / "m.tsv", decode=False)) == 2


def test_prepare_draws_a_subset(tmp_path):
    folder = SAMPLES / "dev-clean"
    whole = prepare([folder], tmp_path / "whole.tsv", decode=False)
    part = prepare([folder], tmp_path / "part.tsv", decode=False, minutes=0.5)
    assert 0.5 <= 60 * part.hours < 0.5 + whole.samples.max() / 16000 / 60
    assert part.paths.tolist() == sorted(part.paths)
    assert set(part.paths) < set(whole.paths)
    assert Manifest.read(tmp_path / "part.tsv").digest == part.digest
    larger, other = subset(whole, 1.0, seed=0), subset(whole, 0.5, seed=1)
    assert set(part.paths) < set(larger.paths)
    assert set(part.paths) != set(other.paths)
    with pytest.raises(UserError, match=r"--minutes=600 is more than the 2\.\d minutes"):
        subset(whole, 600, seed=0)


def test_prepare_refuses(mixed, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio files"):
        prepare([tmp_path / "empty"], tmp_path / "m.tsv")
    (mixed / "plain/broken.mp4.wav").touch()
    with pytest.raises(UserError, match=r"1 of 6 .* --max_bad_share=0.1") as caught:
        prepare([mixed], tmp_path / "m.tsv")
    assert "m.tsv.skipped.tsv" in str(caught.value)
    assert "0 bytes" in (tmp_path / "m.tsv.skipped.tsv").read_text()
    assert not (tmp_path / "m.tsv").exists()
    with pytest.raises(UserError, match=r"none of 6 .* --min_seconds=60"):
        prepare([mixed], tmp_path / "m.tsv", min_seconds=60, max_bad_share=1)
    with pytest.raises(UserError, match="is a folder"):
        prepare([mixed], tmp_path)
    with pytest.raises(UserError, match="choose another place"):
        prepare([mixed], tmp_path / "m.tsv.skipped.tsv" / "m.tsv")


def test_command_line(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "w2v_jax.prepare", *arguments]
        environment = os.environ | {"PYTHONPATH": str(SAMPLES.parents[1])}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    done = call(f"--input={SAMPLES}/dev-clean/1001/1", "--output=m.tsv", "--language=en")
    assert done.returncode == 0, done.stderr
    assert "known speakers" in done.stdout
    assert len(Manifest.read(tmp_path / "m.tsv")) > 20
    wrong = call("--input=none", "--output=m.tsv")
    assert wrong.returncode == 2
    assert wrong.stderr.strip().startswith("error: ")
    assert "does not exist" in wrong.stderr
    assert "Traceback" not in wrong.stderr
