"""From utterances and the lengths of their files to the rows of a manifest."""

import copy
import dataclasses
import itertools
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.pool import ThreadPool

import numpy as np
from tqdm import tqdm

from w2v_jax.audio.waveform import SAMPLE_RATE, AudioError, probe
from w2v_jax.corpora.utterances import Utterance, at_rate

_SLACK = SAMPLE_RATE // 20  # by which a part may end behind its file: tables round their seconds


@dataclasses.dataclass
class Rows:
    """usable: utterances with `samples` set; bad, short: (path, reason) of those left out.

    A file that cannot be read is listed once, however many utterances it holds; `bad_count`
    counts these.
    """

    usable: list[Utterance] = dataclasses.field(default_factory=list)
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    short: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    bad_count: int = 0


def measure(paths: list[str], decode: bool, threads: int | None) -> dict[str, int | str]:
    """Samples at 16 kHz of every file, or why it cannot be used; `threads` files at a time."""

    def check(path: str) -> int | str:
        if any(character in path for character in "\t\n\r"):
            return "its name holds a tab or a line break; rename it"
        try:
            return probe(path, decode)
        except AudioError as error:
            return str(error).removeprefix(f"{path}: ")

    with ThreadPool(threads or os.cpu_count()) as pool:
        results = pool.imap(check, paths, chunksize=8)
        quiet = not sys.stderr.isatty()
        results = tqdm(results, total=len(paths), unit=" files", disable=quiet)
        return dict(zip(paths, results, strict=True))


def rows(
    utterances: Sequence[Utterance],
    lengths: Mapping[str, int | str],
    *,
    min_seconds: float,
    segment_seconds: float,
) -> Rows:
    """The rows of a manifest and what is left out. Takes the utterances over: it may change them.

    lengths: samples at 16 kHz of every file, or why it cannot be read. `segment_seconds` above 0
    cuts utterances without a text that are longer, see `cut`.
    """
    found = Rows()
    reported = set()
    for utterance in utterances:
        length = lengths[utterance.path]
        if isinstance(length, str):
            found.bad_count += 1
            if utterance.path not in reported:
                reported.add(utterance.path)
                found.bad.append((utterance.path, length))
            continue
        count = length - utterance.start
        if utterance.samples is not None:
            count = min(utterance.samples, count)
        if count < 1 or (utterance.samples or 0) - count > _SLACK:
            first = utterance.start / SAMPLE_RATE
            last = first + (utterance.samples or 0) / SAMPLE_RATE
            found.bad_count += 1
            found.bad.append(
                (
                    utterance.path,
                    f"has {length / SAMPLE_RATE:.3f} s, the part {first:.3f}..{last:.3f} s is "
                    "beyond its end",
                )
            )
            continue
        if count < round(min_seconds * SAMPLE_RATE):
            seconds = count / SAMPLE_RATE
            reason = f"{seconds:.3f} s is shorter than {min_seconds:g} s"
            found.short.append((utterance.path, reason))
            continue
        parts = [(0, count)]
        if segment_seconds and not utterance.text:
            shortest = round(min_seconds * SAMPLE_RATE)
            parts = cut(count, utterance.voice, at_rate(segment_seconds), shortest)
        utterance.voice = None
        for first, samples in parts:
            part = utterance if len(parts) == 1 else copy.copy(utterance)
            part.start, part.samples = utterance.start + first, samples
            found.usable.append(part)
    return found


def cut(
    count: int, voice: np.ndarray | None, longest: int, shortest: int = 1
) -> list[tuple[int, int]]:
    """(start, samples) of parts of `count` samples, none longer than `longest`.

    With `voice`, the stretches of speech in seconds [n, 2], a part is as many of them with the
    pauses between as fit, and what is outside, or shorter than `shortest`, is left out; a stretch
    that is too long is cut as audio without `voice`: into equal parts. Audio that is short enough
    is one part, whatever is in it.
    """
    if count <= longest:
        return [(0, count)]
    stretches = [(0, count)]
    if voice is not None and len(voice):
        inside = np.rint(np.clip(voice * SAMPLE_RATE, 0, count)).astype(int)
        stretches = [(first, last) for first, last in inside.tolist() if first < last]
    parts: list[tuple[int, int]] = []  # first, last
    for first, last in stretches:
        if parts and last - parts[-1][0] <= longest and first >= parts[-1][0]:
            parts[-1] = parts[-1][0], max(last, parts[-1][1])
            continue
        pieces = -(-(last - first) // longest)
        edges = [first + (last - first) * i // pieces for i in range(pieces + 1)]
        parts += itertools.pairwise(edges)
    return [(first, last - first) for first, last in parts if last - first >= shortest]
