"""Sums and weights of metrics over a logging window."""

from collections.abc import Mapping

import numpy as np


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
