"""Subtitles from the times of words: SubRip (.srt) and WebVTT (.vtt)."""

import dataclasses
import html
import itertools
import math
from collections.abc import Iterator, Sequence

from w2v_jax.decoding.alignment import Interval

# what guidelines of broadcasters agree on
LINE = 42  # characters; a cue has two lines at most
LONGEST = 7.0  # seconds
SHORTEST = 1.0  # where the next cue leaves the time
PAUSE = 0.6  # seconds of silence that end a cue


@dataclasses.dataclass(frozen=True)
class Cue:
    """One or two lines, and from when to when they are shown, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def cues(words: Sequence[Interval]) -> list[Cue]:
    """Cues with all the words, in their order, which is that of their times; none overlap.

    A cue ends with a pause, when its lines are full, or when it would last too long. Of a word
    that is longer than a line, every line-full gets its share of the time.
    """
    groups: list[list[Interval]] = []
    for word in itertools.chain.from_iterable(map(_broken, words)):
        if groups and _goes_on(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    starts = [*(group[0].start for group in groups), math.inf]
    found = []
    for group, (start, following) in zip(groups, itertools.pairwise(starts), strict=True):
        end = max(min(group[-1].end, start + LONGEST), start + SHORTEST)
        lines = _lines([word.text for word in group])
        found.append(Cue(start, min(end, following), lines))
    return found


def _broken(word: Interval) -> Iterator[Interval]:
    """The word, in parts of at most a line."""
    count = -(-len(word.text) // LINE)
    step = (word.end - word.start) / max(count, 1)
    for i in range(count):
        text, start = word.text[i * LINE : (i + 1) * LINE], word.start + i * step
        yield Interval(text, start, start + step, word.score)


def _goes_on(group: list[Interval], word: Interval) -> bool:
    return (
        word.start - group[-1].end <= PAUSE
        and word.end - group[0].start <= LONGEST
        and bool(_lines([*(x.text for x in group), word.text]))
    )


def _lines(words: list[str]) -> tuple[str, ...]:
    """The words in one line, or in two of nearly the same length; () if they do not fit."""
    whole = " ".join(words)
    if len(whole) <= LINE:
        return (whole,)
    splits = ((" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words)))
    fitting = [split for split in splits if max(map(len, split)) <= LINE]
    return min(fitting, key=lambda split: max(map(len, split)), default=())


def srt(found: Sequence[Cue]) -> str:
    """A SubRip file."""
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n"
        + "".join(f"{line}\n" for line in cue.lines)
        + "\n"
        for number, cue in enumerate(found, 1)
    )


def vtt(found: Sequence[Cue]) -> str:
    """A WebVTT file (W3C, https://www.w3.org/TR/webvtt1)."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        + "".join(f"{html.escape(line, quote=False)}\n" for line in cue.lines)
        + "\n"
        for cue in found
    )


def _clock(seconds: float, point: str) -> str:
    rest, thousandths = divmod(round(max(seconds, 0.0) * 1000), 1000)
    rest, seconds = divmod(rest, 60)
    hours, minutes = divmod(rest, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{thousandths:03d}"
