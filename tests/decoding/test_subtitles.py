"""Cues are short, in time and complete; the files are what players read."""

import numpy as np
import pytest

from w2v_jax.decoding.alignment import Interval
from w2v_jax.decoding.subtitles import Cue, cues, srt, vtt


def spoken(*words):
    return [Interval(text, start, end, -0.1) for text, start, end in words]


@pytest.mark.parametrize("seed", range(20))
def test_every_cue_keeps_the_limits(seed):
    rng = np.random.default_rng(seed)
    time, words = 0.0, []
    for _ in range(300):
        start = time + rng.exponential(0.3)
        time = start + rng.exponential(0.2 + seed / 5) + 0.02  # also very slow speech
        letters = int(rng.choice([1, 5, 9, 41, 42, 43, 90], p=[0.2, 0.3, 0.4, *[0.025] * 4]))
        words.append(Interval("x" * letters, start, time, 0.0))
    found = cues(words)
    for cue, following in zip(found, [*found[1:], None], strict=True):
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 for line in cue.lines)
        assert 0 < cue.end - cue.start <= 7.0 + 1e-9
        room = following is None or following.start - cue.start > 1.0
        assert not room or cue.end - cue.start >= 1.0 - 1e-9
        assert following is None or cue.end <= following.start
    shown = "".join("".join(cue.lines) for cue in found).replace(" ", "")
    assert shown == "".join(word.text for word in words)
    assert cues([]) == []


def test_a_pause_ends_a_cue():
    words = spoken(("one", 1.0, 1.2), ("two", 1.7, 2.5), ("three", 3.2, 3.3), ("four", 3.95, 4.0))
    assert cues(words) == [
        Cue(1.0, 2.5, ("one two",)), Cue(3.2, 3.95, ("three",)), Cue(3.95, 4.95, ("four",)),
    ]  # fmt: skip


def test_a_cue_ends_before_it_lasts_too_long():
    words = spoken(("one", 0, 3), ("two", 3, 6), ("three", 6, 9))
    assert cues(words) == [Cue(0, 6, ("one two",)), Cue(6, 9, ("three",))]


def test_lines_are_balanced():
    (cue,) = cues(spoken(*((letter * 10, i, i + 1) for i, letter in enumerate("abcd"))))
    assert cue.lines == ("a" * 10 + " " + "b" * 10, "c" * 10 + " " + "d" * 10)
    (cue,) = cues(spoken(("a" * 15, 0, 1), ("b" * 10, 1, 2), ("c" * 20, 2, 3)))
    assert cue.lines == ("a" * 15 + " " + "b" * 10, "c" * 20)


def test_a_long_word_gets_its_share_of_the_time():
    found = cues(spoken(("x" * 100, 0, 6)))
    assert [len(line) for cue in found for line in cue.lines] == [42, 42, 16]
    assert [(cue.start, cue.end) for cue in found] == [(0, 4), (4, 6)]


FOUND = [Cue(0.0, 59.9996, ("A & B", "<C>")), Cue(3661.0204, 3662.5, ("D",))]


def test_srt():
    assert srt(FOUND) == (
        "1\n00:00:00,000 --> 00:01:00,000\nA & B\n<C>\n\n"
        "2\n01:01:01,020 --> 01:01:02,500\nD\n\n"
    )  # fmt: skip
    assert srt([]) == ""


def test_vtt():
    assert vtt(FOUND) == (
        "WEBVTT\n\n00:00:00.000 --> 00:01:00.000\nA &amp; B\n&lt;C&gt;\n\n"
        "01:01:01.020 --> 01:01:02.500\nD\n\n"
    )
    assert vtt([]) == "WEBVTT\n\n"
