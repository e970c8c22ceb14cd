"""Files of alignments are what Praat and sclite read, and the entry point writes one for each."""

import json
import math
import re

import numpy as np
import pytest
import soundfile

from tests import small
from tests.tools import said
from w2v_jax.align import Aligner, align_recording
from w2v_jax.data.manifest import Manifest
from w2v_jax.decoding.alignment import Alignment, Interval, align
from w2v_jax.decoding.alignment_files import ctm, json_text, text_grid
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet

FOUND = Alignment(
    [Interval('A"B', 0.02, 0.1, math.log(0.5)), Interval("C", 0.1, 0.16, -0.25)],
    [
        Interval("A", 0.02, 0.04, 0.0), Interval('"', 0.04, 0.06, -1.0),
        Interval("B", 0.08, 0.1, -0.5), Interval("C", 0.1, 0.16, -0.25),
    ],
    -0.5,
)  # fmt: skip


def tiers_of(text):
    """{tier: [(start, end, text)]} of a TextGrid, which must be a whole one."""
    head, *items = re.split(r"    item \[\d+\]:\n", text)
    top = dict(re.findall(r"^(xmin|xmax|size) = (\S+)$", head, re.M))
    assert head.startswith('File type = "ooTextFile"\nObject class = "TextGrid"\n\n')
    assert head.endswith("item []:\n")
    assert int(top["size"]) == len(items)
    tiers = {}
    for item in items:
        head, *parts = re.split(r"        intervals \[\d+\]:\n", item)
        numbers = [int(n) for n in re.findall(r"intervals \[(\d+)\]:", item)]
        assert numbers == list(range(1, len(parts) + 1))
        assert f"        intervals: size = {len(parts)}\n" in head
        assert '        class = "IntervalTier"\n' in head
        bounds = re.search(r"        xmin = (\S+)\n        xmax = (\S+)\n", head).groups()
        assert bounds == (top["xmin"], top["xmax"])
        pattern = r' {12}xmin = (\S+)\n {12}xmax = (\S+)\n {12}text = "((?:[^"]|"")*)"\n'
        read = [re.fullmatch(pattern, part).groups() for part in parts]
        assert (read[0][0], read[-1][1]) == bounds
        for (start, end, _), following in zip(read, [*read[1:], (bounds[1],)], strict=True):
            assert end == following[0]
            assert float(start) < float(end)
        name = re.search(r'name = "(\w+)"', head)[1]
        tiers[name] = [(float(a), float(b), label.replace('""', '"')) for a, b, label in read]
    return tiers


def test_text_grid():
    tiers = tiers_of(text_grid(FOUND, 0.2))
    assert tiers == {
        "words": [(0, 0.02, ""), (0.02, 0.1, 'A"B'), (0.1, 0.16, "C"), (0.16, 0.2, "")],
        "letters": [
            (0, 0.02, ""), (0.02, 0.04, "A"), (0.04, 0.06, '"'), (0.06, 0.08, ""),
            (0.08, 0.1, "B"), (0.1, 0.16, "C"), (0.16, 0.2, ""),
        ],
    }  # fmt: skip


def test_text_grid_without_gaps():
    whole = [Interval("AB", -0.0025, 0.3, 0.0)]
    tiers = tiers_of(text_grid(Alignment(whole, whole, 0.0), 0.2))
    assert tiers["words"] == [(0, 0.3, "AB")]


def test_text_grid_of_noise():
    """Times that are no round numbers."""
    log_probs = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    text = "IT IS EVERY WORD OF A TEXT " * 5
    found = align(log_probs, text, Alphabet.english(), 0.02, 0.0025)
    tiers = tiers_of(text_grid(found, 8.0123456789))
    for tier, intervals in (("words", found.words), ("letters", found.letters)):
        assert [label for *_, label in tiers[tier] if label] == [x.text for x in intervals]


def test_json():
    values = json.loads(json_text(FOUND, 0.2))
    assert values.keys() == {"duration", "words", "letters", "score"}
    assert (values["duration"], values["score"]) == (0.2, -0.5)
    assert [Interval(**x) for x in values["words"]] == FOUND.words
    assert [Interval(**x) for x in values["letters"]] == FOUND.letters


def test_ctm():
    assert ctm(FOUND, "my talk") == (
        'my_talk 1 0.020 0.080 A"B 0.5000\nmy_talk 1 0.100 0.060 C 0.7788\n'
    )


@pytest.fixture(scope="module")
def aligner(checkpoint, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("aligned"))
    return Aligner(str(checkpoint), folder, ["textgrid"], overwrite=True)


def run(checkpoint, *arguments, status=0):
    return said("align", f"--checkpoint={checkpoint}", *arguments, status=status)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A manifest of noise: three good rows, one of them a part, and three that fail."""
    folder = tmp_path_factory.mktemp("speech")
    audio = small.noise_batch(1, 32_000)["audio"][0, 0]
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.wav", audio, 16_000, "PCM_16")
    rows = [
        ("a.wav", 0, 32_000, "one two"), ("b.wav", 0, 16_000, "three"),
        ("b.wav", 8_000, 24_000, "four"), ("a.wav", 0, 1_000, "a text that is too long"),
        ("a.wav", 0, 16_000, "7"), ("missing.wav", 0, 16_000, "five"), ("a.wav", 1, 100, ""),
    ]  # fmt: skip
    paths, starts, samples, texts = zip(*rows, strict=True)
    manifest = Manifest(folder, paths, samples, texts, starts=starts)
    manifest.write(folder / "all.tsv")
    return folder, audio


def test_manifest(checkpoint, aligner, speech, tmp_path):
    folder, audio = speech
    printed = run(
        checkpoint, f"--data={folder}/all.tsv", f"--output={tmp_path}",
        "--format=textgrid,json,ctm", status=1,
    )  # fmt: skip
    assert f"3 of 6 utterances aligned, 1 without a text: {tmp_path}" in printed
    assert re.search(r"error: \S+/a.wav: the text needs \d+ frames", printed)
    assert re.search(r"error: \S+/a.wav: transcript '7' has '7'", printed)
    assert re.search(r"error: \S+/missing.wav: ", printed)
    names = ["a.wav-0", "b.wav-1", "b.wav-2"]
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(
        [f"{name}.{end}" for name in names for end in ("TextGrid", "json")] + ["words.ctm"]
    )
    part = aligner.add("part", audio[8_000:], "four")
    (aligner.folder / "part.TextGrid").unlink()
    values = json.loads((tmp_path / "b.wav-2.json").read_text())
    assert values["words"][0]["start"] == part.words[0].start
    assert values["words"][0]["end"] == part.words[0].end
    assert values["words"][0]["score"] == pytest.approx(part.words[0].score, rel=1e-3)
    lines = (tmp_path / "words.ctm").read_text().splitlines()
    assert [line.split()[::4] for line in lines] == [
        ["a.wav-0", "ONE"], ["a.wav-0", "TWO"], ["b.wav-1", "THREE"], ["b.wav-2", "FOUR"],
    ]  # fmt: skip
    grid = tiers_of((tmp_path / "a.wav-0.TextGrid").read_text())
    assert grid["words"][-1][1] == 2.0


def test_recording(aligner, speech, tmp_path, capsys):
    folder, _ = speech
    text = tmp_path / "book.txt"
    text.write_text("One, two;\n\nthree!\n")
    found = align_recording(aligner, f"{folder}/a.wav", str(text))
    assert [word.text for word in found.words] == ["ONE", "TWO", "THREE"]
    assert "3 words aligned" in capsys.readouterr().out
    grid = tiers_of((aligner.folder / "a.TextGrid").read_text())
    assert [label for *_, label in grid["words"] if label] == ["ONE", "TWO", "THREE"]
    assert [path.name for path in aligner.folder.iterdir()] == ["a.TextGrid"]
    text.write_text("One two three. " * 100)
    with pytest.raises(UserError, match="the text needs"):
        align_recording(aligner, f"{folder}/a.wav", str(text))
    text.write_bytes("zwölf".encode("latin-1"))
    with pytest.raises(UserError, match=r"--text=\S+/book\.txt is not UTF-8; convert it"):
        align_recording(aligner, f"{folder}/a.wav", str(text))
    with pytest.raises(UserError, match=r"--text=nothing\.txt cannot be read: no such file"):
        align_recording(aligner, f"{folder}/a.wav", "nothing.txt")
