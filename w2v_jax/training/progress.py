"""What the terminal says of a training while it runs: what is compiled, rates, the time left."""

import contextlib
import datetime
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from w2v_jax.training.metrics import Measure

WINDOWS = 5  # log lines whose updates say how long the rest will take
SLOW = 2.0  # seconds of a compilation from which on it is worth a line


class Progress:
    """Rates since the last log line, and the line itself.

    An update is compiled when its batch has a shape that was not there before. The time of that
    counts to no rate, and the time left is known once an update went without it.
    """

    def __init__(self, start: int, num_steps: int, clock: Mapping[str, float], measure: Measure):
        self._num_steps, self._measure = num_steps, measure
        self._trained = clock["seconds_trained"]
        self._begin = self._time = time.monotonic()
        self._step, self._data = start, clock[measure.total]
        self._shapes: set[tuple] = set()
        self._compiled = 0  # updates since the last log line that were compiled
        self._paces: deque[tuple[float, int]] = deque(maxlen=WINDOWS)  # (seconds, updates)

    def seconds(self) -> float:
        """Seconds trained, those before a restart included."""
        return self._trained + time.monotonic() - self._begin

    def leave_out(self, seconds: float) -> None:
        """The rates to come do not count the last `seconds`."""
        self._time += seconds

    @contextlib.contextmanager
    def update(self, batch: Any) -> Iterator[None]:
        """Around the call of an update: says how long it was compiled, where that took a while.

        batch: arrays [A, B, ...].
        """
        shape = tuple(np.shape(x) for x in jax.tree.leaves(batch))
        if shape in self._shapes:
            yield
            return
        self._shapes.add(shape)
        begin = time.monotonic()
        yield
        took = time.monotonic() - begin
        self.leave_out(took)
        self._compiled += 1
        if took > SLOW:
            print(f"compiled the update{self._rows(shape)} in {took:.1f} s", flush=True)

    def _rows(self, shape: tuple) -> str:
        """How many rows of which length: of the largest array [A, B, S]."""
        largest = max(shape, key=math.prod, default=())
        if len(largest) < 3:
            return ""
        length = largest[2] / self._measure.per_row
        return f" for {largest[0] * largest[1]} rows of {length:.3g} {self._measure.unit}"

    def rates(self, step: int, clock: Mapping[str, float], waited: float) -> dict[str, float]:
        now = time.monotonic()
        elapsed = max(now - self._time, 1e-9)
        updates = step - self._step
        if self._compiled < updates:
            self._paces.append((elapsed, updates))
        self._compiled = 0
        measure, total = self._measure, clock[self._measure.total]
        rates = {
            f"time/{measure.rate}": (total - self._data) / elapsed * measure.scale,
            f"time/{measure.total}": total,
            "time/seconds": self.seconds(),
            "time/seconds_per_step": elapsed / updates,
            "time/loader_wait_share": waited / elapsed,
        }
        self._time, self._step, self._data = now, step, total
        return rates

    def left(self, step: int) -> str:
        """The time that the updates to come will take at the pace of the last windows; "" before
        there is a pace."""
        if not self._paces:
            return ""
        seconds, updates = map(sum, zip(*self._paces, strict=True))
        left = round(seconds / updates * (self._num_steps - step))
        return f"left {datetime.timedelta(seconds=left)}"

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        rate = self._measure.shown.format(scalars[f"time/{self._measure.rate}"])
        shown = {k.removeprefix("train/"): v for k, v in scalars.items() if k.startswith("train/")}
        shown = "  ".join(f"{k} {v:.4g}" for k, v in shown.items() if k != "skipped" or v)
        parts = (
            # what one looks for first: lines are longer than many terminals are wide
            f"step {step}/{self._num_steps}", self.left(step), rate,
            f"wait {scalars['time/loader_wait_share']:.1%}", shown,
        )  # fmt: skip
        print("  ".join(filter(None, parts)), flush=True)


def compiling(shapes: int, folder: str | None) -> str:
    """What is said before the first update: that it is compiled, how often, and where that is kept.

    shapes: of batches, of which each has its own program; folder: JAX's cache, None without one.
    """
    what = f"once for each of {shapes} shapes of batch" if shapes > 1 else "once"
    return f"compiling the update, {what}" + (f"; then it is read from {folder}" if folder else "")
