"""What the terminal says while audio is worked through."""

import datetime
import time
from collections import deque

EVERY = 15.0  # seconds between two lines
LINES = 6  # the pace is that since the oldest of so many


class Progress:
    """A line now and then: rows, hours, the time left."""

    def __init__(self, rows: int, frames: int, rate: float):
        """Of so many rows and frames, of which `rate` make a second."""
        self._rows, self._hours, self._per_hour = rows, frames / rate / 3600, rate * 3600
        self._done = self._frames = 0
        # (when, hours by then) of the last lines: programs are compiled in the first
        self._lines = deque([(time.monotonic(), 0.0)], maxlen=LINES)

    def add(self, frames: int, *, whole: bool) -> None:
        """Frames of a row, the last of it if `whole`."""
        self._done += whole
        self._frames += frames

    def due(self) -> bool:
        """Whether a line is."""
        return time.monotonic() - self._lines[-1][0] >= EVERY

    def line(self) -> str:
        now, hours = time.monotonic(), self._frames / self._per_hour
        begin, before = self._lines[0]
        self._lines.append((now, hours))
        parts = [f"{self._done:,}/{self._rows:,}", f"{hours:.2f} of {self._hours:.2f} h"]
        if hours > before:
            pace = (hours - before) / (now - begin)
            left = round((self._hours - hours) / pace)
            parts += [f"left {datetime.timedelta(seconds=left)}", f"{pace * 3600:,.1f} h/h"]
        return "  ".join(parts)
