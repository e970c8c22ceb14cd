"""What recognition costs: seconds of computing per second of audio, by part."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.decoding.beam import Hypothesis
from w2v_jax.decoding.greedy import greedy_text
from w2v_jax.decoding.recognition import Recognizer
from w2v_jax.decoding.rescoring import LanguageScorer, rescore
from w2v_jax.decoding.search import Search, SearchOptions

PASSES = 3
LONGEST = 60.0  # seconds; no further pass is begun after these


@dataclasses.dataclass(frozen=True)
class Timing:
    """A part of recognition: the median of `passes` over all recordings."""

    part: str
    factor: float  # seconds of computing per second of audio: the real-time factor
    passes: int


def timed(
    part: str, work: Callable[[Any], Any], items: Sequence[Any], seconds: float
) -> tuple[Timing, list[Any]]:
    """The time of `work` on every item in turn, which are `seconds` of audio, and its results.

    A pass before those that count compiles, where there is anything to compile: `work` must
    return only when it is done.
    """
    results = [work(item) for item in items]
    taken: list[float] = []
    while not taken or (len(taken) < PASSES and sum(taken) < LONGEST):
        begin = time.perf_counter()
        for item in items:
            work(item)
        taken.append(time.perf_counter() - begin)
    return Timing(part, statistics.median(taken) / seconds, len(taken)), results


def acoustic_timing(
    recognizer: Recognizer, variables: Any, recordings: Sequence[np.ndarray]
) -> tuple[Timing, list[np.ndarray]]:
    """Of the model on one recording (int16) after the other, and ln p [T, V] of each."""
    variables = jax.device_put(variables)
    return timed(
        "acoustic model",
        lambda audio: recognizer.log_probs(variables, audio),
        recordings,
        seconds_of(recordings),
    )


def search_timings(
    recognizer: Recognizer,
    emissions: Sequence[np.ndarray],
    seconds: float,
    searches: Iterable[tuple[str, Search]],
    scorer: LanguageScorer | None = None,
) -> Iterator[Timing]:
    """Of the greedy path, of every (name, search), and of `scorer` on what the last one finds.

    One process, one utterance after the other: ln p [T, V], `seconds` of audio in all.
    """
    yield timed("greedy path", lambda x: greedy_text(x, recognizer.alphabet), emissions, seconds)[0]
    found: list[list[Hypothesis]] = []
    for name, search in searches:
        timing, found = timed(name, search, emissions, seconds)
        yield timing
    if scorer is not None:

        def again(hypotheses: list[Hypothesis]) -> list[Hypothesis]:
            texts = [hypothesis.text for hypothesis in hypotheses]
            return rescore(hypotheses, scorer.scores(texts), SearchOptions())

        best = statistics.mean(map(len, found))
        yield timed(f"Transformer, {best:.0f} texts each", again, found, seconds)[0]


def seconds_of(recordings: Iterable[np.ndarray]) -> float:
    """Of all of them together."""
    return sum(map(len, recordings)) / SAMPLE_RATE


def machine() -> str:
    """The devices and the cores."""
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind}, {os.cpu_count()} cores"


def table(timings: Sequence[Timing]) -> str:
    """A line per part; the first is what the others are compared with."""
    lines = [f"{'':34}  s per s of audio  x real time  % of acoustic model  passes"]
    for timing in timings:
        lines.append(
            f"{timing.part:34}  {timing.factor:16.6f}  {1 / timing.factor:11,.1f}  "
            f"{100 * timing.factor / timings[0].factor:19.2f}  {timing.passes:6}"
        )
    return "\n".join(lines)
