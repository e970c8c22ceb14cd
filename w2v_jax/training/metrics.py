"""Sums and weights of metrics over a logging window, and in what data is measured."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Measure:
    """In what the data of a run is measured."""

    name: str  # of an amount: audio_seconds
    per_row: int  # positions of a row (samples, tokens) that are an amount of 1
    scale: float  # in the log, amounts and the time of rates are divided by this
    total: str  # scalars (group time) of all data since the first update,
    rate: str  # and of that per unit of time
    unit: str  # of the amounts of batches
    shown: str  # the rate in the progress line


AUDIO = Measure(
    "audio_seconds", 16_000, 3600, "hours_heard", "audio_hours_per_hour", "s of audio",
    "audio {:.3g} h/h",
)  # fmt: skip
TOKENS = Measure("tokens", 1, 1, "tokens_read", "tokens_per_second", "tokens", "{:,.0f} tokens/s")


class Window:
    """Adds up (sum, weight) pairs between two log lines. Its content is part of a checkpoint, so
    that the first log line after a restart is the one an undisturbed run would have written."""

    def __init__(self, content: Mapping[str, list[float]] | None = None):
        self.content = {name: list(pair) for name, pair in (content or {}).items()}

    def add(self, metrics: Mapping[str, tuple]) -> None:
        for name, (total, weight) in metrics.items():
            pair = self.content.setdefault(name, [0.0, 0.0])
            pair[0] += float(np.asarray(total))
            pair[1] += float(np.asarray(weight))

    def means(self) -> dict[str, float]:
        """sum / weight of every metric that has a weight; the window is empty afterwards."""
        means = {name: s / w for name, (s, w) in self.content.items() if w}
        self.content = {}
        return means
