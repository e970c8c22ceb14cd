"""Every layout of a corpus gives the same kind of manifest."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_jax.audio.waveform import read
from w2v_jax.corpora import find as corpora
from w2v_jax.corpora.preparation import prepare
from w2v_jax.corpora.segments import cut
from w2v_jax.corpora.utterances import audio_names
from w2v_jax.data.audio_files import Files
from w2v_jax.data.corpus import Corpus
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError


def noise(path: Path, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(str(path))).normal(size=round(seconds * 16_000)) * 0.1
    soundfile.write(path, samples.clip(-1, 1), 16_000)
    return path


def common_voice(root: Path) -> Path:
    for number in range(3):
        noise(root / f"de/clips/common_voice_de_{number}.mp3")
    head = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\tsegment\n"
    rows = [
        f"c{number % 2}\tcommon_voice_de_{number}.mp3\tx\tGrüß „Gott\u2028, “ {number}\t2\tde\t\n"
        for number in range(4)
    ]
    (root / "de/train.tsv").write_text(head + "".join(rows[:2]), encoding="utf-8")
    (root / "de/dev.tsv").write_text(head + "".join(rows[2:]), encoding="utf-8")
    return root


def voxpopuli(root: Path) -> Path:
    for name in ("transcribed_data/hr/2016/20160413-PLENARY-17-hr_a",
                 "unlabelled_data/hr/2016/20160413-0900-PLENARY-17_hr_0",
                 "raw_audios/hr/2016/20160413-0900-PLENARY-17_hr"):  # fmt: skip
        noise(root / f"{name}.ogg")
    head = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"
    rows = "20160413-PLENARY-17-hr_a\tHvala, g.\thvala g\t124\ttrain\tmale\n"
    rows += "20160413-PLENARY-17-hr_b\tNe.\tne\t125\ttrain\tmale\n"
    (root / "transcribed_data/hr/asr_train.tsv").write_text(head + rows)
    return root


def mls(root: Path) -> Path:
    noise(root / "mls_polish/train/audio/6892/10349/6892_10349_000000.flac")
    noise(root / "mls_polish/train/audio/6892/10349/6892_10349_000001.flac")
    texts = "6892_10349_000000\tżeby w naprawie\n6892_10349_000009\tnikt\n"
    (root / "mls_polish/train/transcripts.txt").write_text(texts, encoding="utf-8")
    (root / "mls_polish/train/segments.txt").write_text(
        "6892_10349_000000\thttp://archive.org/x.mp3\t401.76\t417.57\n"
    )
    (root / "mls_polish/metainfo.txt").write_text("SPEAKER | GENDER\n")
    return root


def libri_light(root: Path) -> Path:
    noise(root / "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum.flac", 3.0)
    about = {"speaker": "100", "snr": 5.4, "voice_activity": [[0.1, 0.9], [1.0, 1.4], [2.0, 2.9]]}
    path = root / "small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum.json"
    path.write_text(json.dumps(about | {"book_meta": {"id": "812"}}))
    return root


def librispeech(root: Path) -> Path:
    noise(root / "dev-clean/84/121123/84-121123-0000.flac")
    (root / "dev-clean/84/121123/84-121123.trans.txt").write_text("84-121123-0000 GO  DO\n")
    return root


ROWS = {
    common_voice: [
        ("de/clips/common_voice_de_0.mp3", "Grüß „Gott , “ 0", "c0", "de", "common_voice"),
        ("de/clips/common_voice_de_1.mp3", "Grüß „Gott , “ 1", "c1", "de", "common_voice"),
    ],
    voxpopuli: [
        ("raw_audios/hr/2016/20160413-0900-PLENARY-17_hr.ogg", "", "", "hr", "voxpopuli"),
        ("transcribed_data/hr/2016/20160413-PLENARY-17-hr_a.ogg", "hvala g", "124", "hr",
         "voxpopuli"),
        ("unlabelled_data/hr/2016/20160413-0900-PLENARY-17_hr_0.ogg", "", "", "hr", "voxpopuli"),
    ],
    mls: [
        ("mls_polish/train/audio/6892/10349/6892_10349_000000.flac", "żeby w naprawie", "6892",
         "pl", "mls"),
        ("mls_polish/train/audio/6892/10349/6892_10349_000001.flac", "", "6892", "pl", "mls"),
    ],
    libri_light: [
        ("small/100/sea_fairies_0812_librivox_64kb_mp3/01_baum.flac", "", "100", "en",
         "librilight"),
    ],
    librispeech: [("dev-clean/84/121123/84-121123-0000.flac", "GO DO", "84", "", "")],
}  # fmt: skip


def listed(found, root: Path) -> list[tuple]:
    return [
        (str(Path(u.path).relative_to(root)), u.text, u.speaker, u.language, u.corpus)
        for u in found.utterances
    ]


@pytest.mark.parametrize("make", ROWS, ids=lambda make: make.__name__)
def test_layouts_are_recognised(tmp_path, make):
    assert listed(corpora.find(make(tmp_path)), tmp_path) == ROWS[make]


def test_corpora_side_by_side(tmp_path, capsys):
    for make in ROWS:
        make(tmp_path / make.__name__)
    noise(tmp_path / "own.wav")
    found = listed(corpora.find(tmp_path), tmp_path)
    assert len(found) == 1 + sum(map(len, ROWS.values()))
    manifest = prepare([tmp_path], tmp_path / "all.arrow", threads=2)
    assert manifest.corpora.counts() == {
        "": 2, "common_voice": 2, "librilight": 1, "mls": 2, "voxpopuli": 3,
    }  # fmt: skip
    assert set(manifest.languages.counts()) == {"", "de", "en", "hr", "pl"}
    printed = capsys.readouterr().out
    assert printed.count("stands for its folder") == 2
    assert f"{tmp_path}/common_voice/de/train.tsv: stands" in printed


def test_lines_without_audio_and_audio_without_line(tmp_path):
    found = corpora.find(mls(tmp_path))
    assert [line.split(": ")[1] for line in found.lines_without_audio] == ["6892_10349_000009"]
    assert [Path(path).stem for path in found.audio_without_line] == ["6892_10349_000001"]
    found = corpora.find(voxpopuli(tmp_path / "v"))
    assert [line.split(": ")[1] for line in found.lines_without_audio] == [
        "20160413-PLENARY-17-hr_b"
    ]


def test_endings_in_capitals(tmp_path):
    noise(tmp_path / "a/REC001.WAV")
    (tmp_path / "a/REC001.TXT").write_text("hello there\n")
    noise(tmp_path / "b/x 1.FLAC")
    (tmp_path / "b/B.Trans.TXT").write_text("x 1\tan id with a blank\n")
    noise(tmp_path / "c/c.FLAC")
    (tmp_path / "c/c.JSON").write_text('{"speaker": "7", "voice_activity": []}')
    noise(tmp_path / "d.wav")
    (tmp_path / "D.TSV").write_text(f"{tmp_path}\nd.wav\t8000\n")
    (tmp_path / "D.LTR").write_text("H I | Y O U |\n")
    found = {Path(u.path).name: u for u in corpora.find(tmp_path).utterances}
    assert found["REC001.WAV"].text == "hello there"
    assert found["x 1.FLAC"].text == "an id with a blank"
    assert (found["c.FLAC"].corpus, found["c.FLAC"].speaker) == ("librilight", "7")
    (utterance,) = corpora.find(tmp_path / "D.TSV").utterances
    assert utterance.text == "HI YOU"


def test_another_table_of_a_folder_by_its_name(tmp_path):
    common_voice(tmp_path)
    found = corpora.find(tmp_path / "de/dev.tsv")
    assert [Path(u.path).stem for u in found.utterances] == ["common_voice_de_2"]
    assert found.lines_without_audio == [f"{tmp_path}/de/dev.tsv: common_voice_de_3"]


def test_damaged_tables(tmp_path):
    table = common_voice(tmp_path) / "de/train.tsv"
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace("\tde\t\n", "\n"), encoding="utf-8")
    assert [u.language for u in corpora.find(table).utterances] == ["de", "de"], "of the folder"
    for damage in ("\ta\tb\tc\td\te\tf\tg\th\n", "c1\t\tx\tno path\n"):
        table.write_text(text + damage, encoding="utf-8")
        with pytest.raises(UserError, match=r"train\.tsv: line 4 is damaged"):
            corpora.find(table)
    table.write_text(text.replace("sentence\t", "phrase\t"), encoding="utf-8")
    with pytest.raises(UserError, match="lacks the columns sentence"):
        corpora.find(table, "common_voice")


def test_a_layout_that_is_asked_for(tmp_path):
    common_voice(tmp_path)
    assert [u.corpus for u in corpora.find(tmp_path, "folder").utterances] == [""] * 3
    with pytest.raises(UserError, match="nothing of --layout=mls, which is MLS: `mls_LANGUAGE"):
        corpora.find(tmp_path, "mls")
    with pytest.raises(UserError, match="--layout=timit is unknown; choose common_voice, fairseq"):
        corpora.find(tmp_path, "timit")
    with pytest.raises(UserError, match="needs a file"):
        corpora.find(tmp_path, "jsonl")
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"no table of audio that is known.*--layout="):
        corpora.find(tmp_path / "x.csv")


@pytest.mark.parametrize("texts", ["wrd", "ltr", ""])
def test_fairseq_tables(tmp_path, texts):
    noise(tmp_path / "audio/a.flac")
    noise(tmp_path / "audio/b/c.flac")
    (tmp_path / "train.tsv").write_text(f"{tmp_path}/audio\na.flac\t8000\nb/c.flac\t8000\n")
    lines = {"wrd": "HI YOU\nNO\n", "ltr": "H I | Y O U |\nN O |\n"}
    if texts:
        (tmp_path / f"train.{texts}").write_text(lines[texts])
    found = corpora.find(tmp_path / "train.tsv")
    assert [u.text for u in found.utterances] == (["HI YOU", "NO"] if texts else ["", ""])
    assert found.utterances[1].path == str(tmp_path / "audio/b/c.flac")
    manifest = prepare([tmp_path / "train.tsv"], tmp_path / "m.tsv", threads=1)
    assert manifest.samples.tolist() == [8000, 8000]
    if texts:
        (tmp_path / f"train.{texts}").write_text(lines[texts][:-1] + "\nMORE")
        with pytest.raises(UserError, match="3 lines for 2 rows"):
            corpora.find(tmp_path / "train.tsv")
        (tmp_path / f"train.{texts}").unlink()
    (tmp_path / "train.tsv").write_text(f"{tmp_path}/audio\na.flac 8000\n")
    with pytest.raises(UserError, match=r"line 2 is 'a\.flac 8000'"):
        corpora.find(tmp_path / "train.tsv")


def test_json_lines_give_segments_that_are_read_from_their_place(tmp_path):
    whole = read(noise(tmp_path / "long.flac", 4))
    rows = [
        {"audio": "long.flac", "text": "two", "offset": 1.5, "duration": 0.75, "speaker": 7},
        {"audio_filepath": f"{tmp_path}/long.flac", "language": "en", "corpus": "c"},
        {"audio": "long.flac", "text": "end", "offset": 3.0},
        {"audio": "long.flac", "offset": 3.5, "duration": 0.53, "text": "a rounded length"},
        {"audio": "long.flac", "offset": 3.5, "duration": 0.9, "text": "beyond"},
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("\n\n".join(map(json.dumps, rows)))
    manifest = prepare([table], tmp_path / "m.arrow", max_bad_share=0.3, threads=1)
    manifest = Manifest.read(tmp_path / "m.arrow")
    assert list(zip(manifest.starts, manifest.samples, manifest.texts, strict=True)) == [
        (0, 64_000, ""), (24_000, 12_000, "two"), (48_000, 16_000, "end"),
        (56_000, 8_000, "a rounded length"),
    ]  # fmt: skip
    assert manifest.speakers.tolist() == ["", "7", "", ""]
    assert manifest.corpora[0] == "c"
    assert (
        "4.000 s, the part 3.500..4.400 s is beyond its end"
        in Path(f"{tmp_path}/m.arrow.skipped.tsv").read_text()
    )
    part = read(manifest.path(1), int(manifest.starts[1]), int(manifest.samples[1]))
    np.testing.assert_array_equal(part, whole[24_000:36_000])
    for cache in (0, 10**6):
        corpus = Corpus(Files(manifest), cache_bytes=cache)
        for _ in range(2):
            np.testing.assert_array_equal(corpus.audio(1, 5, 100), whole[24_005:24_105])


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "x"}',
        "[1]",
        "{",
        '{"audio": "a", "offset": -1}',
        '{"audio": "a", "duration": -1}',
    ],
)
def test_damaged_json_lines(tmp_path, line):
    (tmp_path / "t.jsonl").write_text('{"audio": "a.flac"}\n' + line)
    with pytest.raises(UserError, match=r"t\.jsonl: line 2 is damaged .* must be like"):
        corpora.find(tmp_path / "t.jsonl")


def test_manifests_are_joined(tmp_path):
    first = prepare([mls(tmp_path / "x")], tmp_path / "x.arrow", threads=1)
    second = prepare([libri_light(tmp_path / "y")], tmp_path / "y.tsv", segment_seconds=1)
    both = prepare([tmp_path / "x.arrow", tmp_path / "y.tsv"], tmp_path / "z.arrow", threads=1)
    assert len(both) == len(first) + len(second)
    assert both.corpora.tolist() == first.corpora.tolist() + second.corpora.tolist()
    assert both.starts.tolist() == first.starts.tolist() + second.starts.tolist()
    paths = [m.path(i) for m in (first, second) for i in range(len(m))]
    assert [both.path(i) for i in range(len(both))] == paths


def test_long_files_are_cut_at_pauses(tmp_path):
    libri_light(tmp_path)
    whole = prepare([tmp_path], tmp_path / "m.tsv", threads=1)
    assert whole.samples.tolist() == [48_000]
    parts = prepare([tmp_path], tmp_path / "m.tsv", segment_seconds=1.5, threads=1)
    assert parts.starts.tolist() == [1_600, 32_000]
    assert parts.samples.tolist() == [20_800, 14_400]
    assert parts.speakers.tolist() == ["100", "100"]


def test_what_has_a_text_is_not_cut(tmp_path):
    noise(tmp_path / "a.wav", 3)
    noise(tmp_path / "b.wav", 3)
    (tmp_path / "a.txt").write_text("HELLO")
    parts = prepare([tmp_path], tmp_path / "m.tsv", segment_seconds=2, threads=1)
    assert parts.samples.tolist() == [48_000, 24_000, 24_000]
    assert parts.texts.tolist() == ["HELLO", "", ""]


@pytest.mark.parametrize("seed", range(5))
def test_cut(seed):
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.uniform(0, 600, 200))
    voice = edges.reshape(-1, 2)
    count, longest = 600 * 16_000, 20 * 16_000
    parts = cut(count, voice, longest)
    ends = [start + samples for start, samples in parts]
    assert all(0 < samples <= longest for _, samples in parts)
    assert all(end <= start for end, (start, _) in zip(ends, parts[1:], strict=False))
    heard = np.zeros(count, bool)
    for start, samples in parts:
        heard[start : start + samples] = True
    for first, last in voice:
        assert heard[round(first * 16_000) : round(last * 16_000)].all(), "no speech is lost"
    full = [samples for _, samples in parts]
    assert np.mean(full) > longest / 2, "parts are as long as they may be"
    assert cut(100, voice, 200) == [(0, 100)]
    assert cut(1000, None, 300) == [(0, 250), (250, 250), (500, 250), (750, 250)]


def test_a_film_beside_its_sound_is_none():
    names = ["a.MP4", "a.wav", "b.mp4", "c.webm", "c.txt", "d.mov", "d.M4A", "e.png", "f.opus"]
    assert audio_names(names) == ["a.wav", "b.mp4", "c.webm", "d.M4A", "f.opus"]


def test_folders_that_cannot_be_read_are_counted(tmp_path, monkeypatch, capsys):
    noise(tmp_path / "a.wav")
    listed, whole = os.scandir, ""

    def closed(path):
        if str(path).endswith("closed") or str(path) == whole:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", closed)
    output = str(tmp_path / "x.tsv")
    prepare([str(tmp_path)], output)
    assert "skipped 1 folders that cannot be read" in capsys.readouterr().out
    assert "closed\tpermission denied" in Path(f"{output}.skipped.tsv").read_text()
    whole = str(tmp_path)
    with pytest.raises(UserError, match="permission denied; make it readable"):
        prepare([str(tmp_path)], output)
