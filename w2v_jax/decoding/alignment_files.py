"""Alignments as files: Praat's TextGrid, JSON, and the CTM of NIST's scoring tools."""

import dataclasses
import json
import math
from collections.abc import Sequence

from w2v_jax.decoding.alignment import Alignment, Interval


def text_grid(alignment: Alignment, duration: float) -> str:
    """A TextGrid (Praat manual, "TextGrid file formats", the long one) with words and letters.

    Both tiers cover 0 to `duration` seconds without overlap: what lies between is an interval
    without text. What begins before 0 is cut, what ends after the duration lengthens the file.
    """
    tiers = {"words": alignment.words, "letters": alignment.letters}
    ends = [interval.end for interval in alignment.words[-1:]]
    whole = _time(max(duration, *ends))
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0.000000",
        f"xmax = {whole}", "tiers? <exists>", f"size = {len(tiers)}", "item []:",
    ]  # fmt: skip
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        parts = _covering(intervals, whole)
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"',
            "        xmin = 0.000000", f"        xmax = {whole}",
            f"        intervals: size = {len(parts)}",
        ]  # fmt: skip
        for i, (start, end, text) in enumerate(parts, 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{i}]:", f"            xmin = {start}",
                f"            xmax = {end}", f'            text = "{quoted}"',
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    return f"{max(seconds, 0.0):.6f}"


def _covering(intervals: Sequence[Interval], whole: str) -> list[tuple[str, str, str]]:
    """(start, end, text) of the intervals and of the gaps between them, as they are written."""
    parts, reached = [], _time(0.0)
    for interval in intervals:
        start, end = _time(interval.start), _time(interval.end)
        if start != reached:
            parts.append((reached, start, ""))
        parts.append((start, end, interval.text))
        reached = end
    if reached != whole:
        parts.append((reached, whole, ""))
    return parts


def json_text(alignment: Alignment, duration: float) -> str:
    """An object: duration in seconds, score, and words and letters with text, start, end, score."""
    values = {"duration": duration} | dataclasses.asdict(alignment)
    return json.dumps(values, ensure_ascii=False, indent=1) + "\n"


def ctm(alignment: Alignment, name: str, channel: str = "1") -> str:
    """A line per word, as NIST's sclite reads them: file channel start duration word confidence.

    White space in the name becomes `_`. The confidence is exp(score): the geometric mean of the
    probabilities of the word's frames.
    """
    name = "_".join(name.split())
    return "".join(
        f"{name} {channel} {word.start:.3f} {word.end - word.start:.3f} {word.text} "
        f"{math.exp(word.score):.4f}\n"
        for word in alignment.words
    )
