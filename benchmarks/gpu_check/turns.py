"""How a process that measures takes its turn on the card: it says that it is ready, waits to be
asked, and says what it found. Imports nothing but the standard library."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def write(path: Path, values: dict[str, Any]) -> None:
    """JSON that is never seen in part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


class Turn:
    """The files `ready`, `go`, `done` and others in a folder that both sides know."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._parent = os.getppid()

    def say(self, name: str, values: dict[str, Any]) -> None:
        write(self.folder / name, values)

    def heard(self, name: str) -> dict[str, Any] | None:
        return read(self.folder / name)

    def wait(self) -> None:
        """Until it is asked for; ends the process where nobody is left to ask."""
        while self.heard("go") is None:
            if os.getppid() != self._parent:
                sys.exit("nobody asks any more")
            time.sleep(0.02)


def timed(update, *, warm: int, most: int, seconds: float) -> list[float]:
    """Seconds of every call of `update`, which returns when it is done: `most` of them after `warm`
    more, or as many, 3 at least, as there is time for."""
    for _ in range(warm):
        update()
    times, begin = [], time.perf_counter()
    while len(times) < most and (len(times) < 3 or time.perf_counter() - begin < seconds):
        now = time.perf_counter()
        update()
        times.append(time.perf_counter() - now)
    return times
