"""Labels with times from the files that people have, and from what is wrong with them."""

import json
import math

import numpy as np
import pytest

from w2v_jax.analysis import label_files, labels
from w2v_jax.data.manifest import Manifest
from w2v_jax.decoding import alignment_files
from w2v_jax.decoding.alignment import Alignment, Interval
from w2v_jax.errors import UserError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.9 ! the end
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.9
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.9
            text = "say ""hi"" 3"
    item [2]:
        class = "TextTier"
        name = "notes"
        xmin = 0
        xmax = 0.9
        points: size = 1
        points [1]:
            number = 0.5
            mark = "<exists> 7"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.9
        intervals: size = 5
        intervals [1]:
            xmin = 0
            xmax = 1e-1
            text = "sil"
        intervals [2]:
            xmin = 0.1
            xmax = 0.3
            text = "HH"
        intervals [3]:
            xmin = 0.3
            xmax = 0.5
            text = "AY1"
        intervals [4]:
            xmin = 0.5
            xmax = 0.7
            text = ""
        intervals [5]:
            xmin = 0.7
            xmax = 0.9
            text = "AY0"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.9
<exists>
3
"IntervalTier"
"words"
0
0.9
1
0
0.9
"say ""hi"" 3"
"TextTier"
"notes"
0
0.9
1
0.5
"<exists> 7"
"IntervalTier"
"phones"
0
0.9
5
0
0.1
"sil"
0.1
0.3
"HH"
0.3
0.5
"AY1"
0.5
0.7
""
0.7
0.9
"AY0"
"""
FOUND = Alignment(
    [Interval("AB", 0.1, 0.4, math.log(0.5)), Interval("C", 0.5, 0.6, -0.25)],
    [Interval("A", 0.1, 0.2, 0.0), Interval("B", 0.2, 0.4, 0.0), Interval("C", 0.5, 0.6, 0.0)],
    -0.5,
)


def manifest(names=("a/one.wav",), seconds=0.9, **columns):
    return Manifest("/corpus", list(names), [round(seconds * 16_000)] * len(names), **columns)


def shown(found, row=0):
    """[(text, start, end)] of a row."""
    times = zip(found.rows[row].starts.round(6), found.rows[row].ends.round(6), strict=True)
    texts = [found.names[i] for i in found.rows[row].labels]
    return [(text, *map(float, x)) for text, x in zip(texts, times, strict=True)]


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


PHONES = [("HH", 0.1, 0.3), ("AY", 0.3, 0.5), ("AY", 0.7, 0.9)]


@pytest.mark.parametrize("text", [
    LONG, SHORT, LONG.encode("utf-16"), SHORT.encode("utf-8-sig"), LONG.replace("\n", "\r\n"),
], ids=["long", "short", "utf-16", "mark", "crlf"])  # fmt: skip
def test_text_grids(tmp_path, text):
    """Stress and silence go; other tiers are asked for by name."""
    folder = write(tmp_path, one_dot_TextGrid=text)
    found = labels.read(folder, manifest())
    assert (found.kind, found.names, found.covered) == ("phones", ["AY", "HH"], 1.0)
    assert shown(found) == PHONES
    words = labels.read(folder, manifest(), tier="words")
    assert words.kind == "words"
    assert shown(words) == [('say "hi" 3', 0.0, 0.9)]
    with pytest.raises(UserError, match=r"no tier of intervals --tier=notes; it has .*words.*phon"):
        labels.read(folder, manifest(), tier="notes")


def test_which_tier_is_meant(tmp_path):
    for name, kind in (("MAU", "phones"), ("speaker 1 - phones", "phones"), ("letters", "letters")):
        text = LONG.replace('name = "phones"', f'name = "{name}"')
        assert labels.read(write(tmp_path, one_dot_TextGrid=text), manifest()).kind == kind
    text = LONG.replace('name = "phones"', 'name = "tones"')
    folder = write(tmp_path, one_dot_TextGrid=text)
    with pytest.raises(UserError, match=r"no tier is called phones or letters, it has .*'tones'"):
        labels.read(folder, manifest())
    found = labels.read(folder, manifest(), tier="tones")
    assert found.kind == "tones"
    assert found.names == ["AY0", "AY1", "HH", "sil"]  # what they mean is not known here
    text = LONG.replace('"words"', '"a - phones"').replace('"phones"', '"b - phones"')
    with pytest.raises(UserError, match="2 tiers may be meant"):
        labels.read(write(tmp_path, one_dot_TextGrid=text), manifest())


def test_frames_have_the_label_of_their_time(tmp_path):
    found = labels.read(write(tmp_path, one_dot_TextGrid=LONG), manifest())
    times = np.array([0.0, 0.05, 0.1, 0.29, 0.3, 0.6, 0.7, 0.89, 0.9, 5.0])
    ids = labels.frame_labels(found.rows[0], times)
    assert [found.names[i] if i >= 0 else "" for i in ids] == [
        "", "", "HH", "HH", "AY", "", "AY", "AY", "", "",
    ]  # fmt: skip
    nothing = labels.Intervals(np.zeros(0, np.int32), np.zeros(0), np.zeros(0))
    assert labels.frame_labels(nothing, times).tolist() == [-1] * len(times)


def test_what_align_writes(tmp_path):
    """Letters, and never phones."""
    grid = alignment_files.text_grid(FOUND, 0.9)
    content = alignment_files.json_text(FOUND, 0.9)
    letters = [("A", 0.1, 0.2), ("B", 0.2, 0.4), ("C", 0.5, 0.6)]
    words = [("AB", 0.1, 0.4), ("C", 0.5, 0.6)]
    for kind, text in (("TextGrid", grid), ("json", content)):
        folder = write(tmp_path / kind, **{f"a__one_dot_{kind}": text})
        found = labels.read(folder, manifest())
        assert (found.kind, found.covered) == ("letters", 1.0)
        assert shown(found) == letters
        assert shown(labels.read(folder, manifest(), tier="words")) == words
        with pytest.raises(UserError, match="--tier=phones"):
            labels.read(folder, manifest(), tier="phones")
    ctm = alignment_files.ctm(FOUND, "a/one two")
    file = tmp_path / "words.ctm"
    file.write_text(ctm)
    found = labels.read(str(file), manifest(["a/one two.wav"]), tier="words")
    assert shown(found) == words
    # all formats together: those with the most in them
    write(tmp_path / "json", words_dot_ctm=ctm)
    assert labels.read(str(tmp_path / "json"), manifest()).kind == "letters"


def test_ctm(tmp_path):
    lines = ";; Kaldi\nutt-1 1 0.10 0.20 HH_B\nutt-1 1 0.30 0.2 AY1_E 0.9\nutt-1 1 0.50 0.1 SIL\n\n"
    folder = write(tmp_path, phones_dot_ctm=lines)
    found = labels.read(folder, manifest(["x/utt-1.flac"]), tier="phones")
    assert shown(found) == [("HH", 0.1, 0.3), ("AY", 0.3, 0.5)]
    assert found.covered == pytest.approx(0.6 / 0.9)
    with pytest.raises(UserError, match="does not say what its tokens are; set --tier=phones"):
        labels.read(folder, manifest(["x/utt-1.flac"]))
    for line in ("utt-1 1 0.1 HH", "utt-1 1 -1 0.2 HH", "utt-1 1 0.1 -0.2 HH", "utt-1 1 nan 1 HH"):
        write(tmp_path, phones_dot_ctm=lines + line)
        with pytest.raises(
            UserError, match=r"phones.ctm: line 6, 'utt-1 .*', is not `file channel"
        ):
            labels.read(folder, manifest(["x/utt-1.flac"]), tier="phones")


def test_files_are_named_by_the_end_of_the_path(tmp_path):
    other = LONG.replace('"HH"', '"B"')
    folder = write(tmp_path, x__a__one_dot_TextGrid=LONG, x__b__one_dot_TextGrid=other)
    found = labels.read(folder, manifest(["a/one.wav", "dev/b/one.wav"]))
    assert [shown(found, row)[0][0] for row in (0, 1)] == ["HH", "B"]
    with pytest.raises(UserError, match=r"x/a/one, x/b/one may both be of c/one"):
        labels.read(folder, manifest(["c/one.wav"]))
    with pytest.raises(UserError, match=r"none of its 2 recordings \(x/a/one, ...\) is one of"):
        labels.read(folder, manifest(["a/two.wav"]))


def test_parts_of_a_recording(tmp_path):
    """From labels of the whole, and from those that align numbers by the part."""
    parts = dict(starts=[0, 4800], texts=["", "SO"])
    found = labels.read(
        write(tmp_path / "whole", one_dot_TextGrid=LONG),
        manifest(["one.wav", "one.wav"], 0.3, **parts),
    )
    assert shown(found, 0) == [("HH", 0.1, 0.3)]
    assert shown(found, 1) == [("AY", 0.0, 0.2)]
    two = dict(starts=[0, 4800], texts=["HI", "SO"])
    grid = alignment_files.text_grid(FOUND, 0.9)
    folder = write(tmp_path / "parts", **{"one_dot_wav-1_dot_TextGrid": grid})
    found = labels.read(folder, manifest(["one.wav", "one.wav"], **two))
    assert found.rows[0] is None
    assert shown(found, 1)[0] == ("A", 0.1, 0.2)


def test_labels_that_do_not_cover_the_audio(tmp_path):
    """Are counted; below a share they are an error."""
    folder = write(tmp_path, one_dot_TextGrid=LONG)
    three = manifest(["one.wav", "two.wav", "three.wav"])
    found = labels.read(folder, three, least_covered=0.3)
    assert found.covered == pytest.approx(1 / 3)
    assert found.missing == ["two.wav", "three.wav"]
    assert found.rows[1:] == [None, None]
    assert (
        "phones of 1 of 3 recordings, 2 kinds; they reach 33.3% of the audio; without: 2 "
        in str(found)
    )
    with pytest.raises(UserError, match=r"33.3% .* less than 50%: give those of all recordings"):
        labels.read(folder, three)
    # those of something longer are of another recording
    write(tmp_path, two_dot_TextGrid=LONG.replace("xmax = 0.9", "xmax = 1.2"))
    found = labels.read(folder, three, least_covered=0.3)
    assert found.longer == ["two.wav"]
    assert found.rows[1] is None
    with pytest.raises(UserError, match=r"all labels end after their audio \(one.wav\)"):
        labels.read(folder, manifest(["one.wav"], 0.5))
    silent = LONG.replace("HH", "sp").replace("AY1", "<p:>").replace("AY0", "spn")
    with pytest.raises(UserError, match="nothing is said in it but silence"):
        labels.read(write(tmp_path / "silent", one_dot_TextGrid=silent), manifest())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one.TextGrid", LONG[:700]),
        ("one.TextGrid", LONG.replace("xmax = 0.3", 'xmax = "0.3"')),
        ("one.TextGrid", LONG.replace("xmax = 0.3", "xmax = 0.05")),
        ("one.TextGrid", "audio"),
        ("one.TextGrid", b"\xff\xfe\x00"),
        ("one.TextGrid", b"\xe9 LATIN"),
        ("one.json", "{"),
        ("one.json", "[]"),
        ("one.json", json.dumps({"duration": 1, "letters": [{"text": 3, "start": 0, "end": 1}]})),
        ("one.json", json.dumps({"duration": 1, "words": []})),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text):
    folder = write(tmp_path, **{name.replace(".", "_dot_"): text})
    with pytest.raises(UserError, match=rf"--labels={folder}: .*{name} is damaged or no align"):
        labels.read(folder, manifest())


def test_what_is_no_folder_of_labels(tmp_path):
    with pytest.raises(UserError, match="does not exist; name a folder or file of alignments"):
        labels.read(str(tmp_path / "nothing"), manifest())
    with pytest.raises(UserError, match=r"has no .TextGrid, .json or .ctm"):
        labels.read(str(tmp_path), manifest())
    grid = alignment_files.text_grid(FOUND, 0.9)
    write(tmp_path, one_dot_TextGrid=LONG, two_dot_TextGrid=grid)
    with pytest.raises(UserError, match="it has letters, files before it have phones; set --tier"):
        labels.read(str(tmp_path), manifest(["one.wav", "two.wav"]))


def test_both_forms_are_the_same():
    assert label_files.text_grid(LONG) == label_files.text_grid(SHORT)
    assert set(label_files.text_grid(LONG)) == {"words", "phones"}
