"""The processes whose updates are timed, each alone on the card."""

import signal
import time
from pathlib import Path

from benchmarks.gpu_check.children import Children, Clock
from benchmarks.gpu_check.report import FAILED, LEFT_OUT, NO_TIME, OK, Report
from benchmarks.gpu_check.turns import Turn

MARGIN = 8.0  # seconds kept for the report
TURN, TRACE = 40.0, 40.0  # seconds that measuring may take, and what follows it
PATIENCE = 45.0  # seconds left until which the others wait for the first
FRACTION = 0.75  # of the card's memory, at most: what the others hold while they wait is little


class Side:
    """A process that compiles an update, waits, and measures it when it is asked to."""

    def __init__(
        self, name: str, children: Children, folder: Path, arguments: list[str], nice: int
    ):
        folder.mkdir()
        self.name, self.turn = name, Turn(folder)
        self.process = children.start(name, arguments, fraction=FRACTION, nice=nice)

    @property
    def ready(self) -> bool:
        return self.turn.heard("ready") is not None

    @property
    def settled(self) -> bool:
        return self.ready or self.process.poll() is not None


def measure(clock: Clock, children: Children, sides: dict[str, Side], report: Report) -> None:
    """Asks each side that is ready, in their order, while all others are frozen; those that still
    compile go on between. The first is waited for. All that they say is reported."""
    waiting, first = dict(sides), next(iter(sides))
    while waiting and clock.left > MARGIN:
        for name, side in list(waiting.items()):
            if side.process.poll() is not None and not side.ready:
                conclude(waiting.pop(name), children, report)
        side = next((side for side in waiting.values() if side.ready), None)
        if side is None or (first in waiting and side.name != first and clock.left > PATIENCE):
            time.sleep(0.1)
            continue
        others = children.others(side.process)
        for other in others:
            children.signal(other, signal.SIGSTOP)
        try:
            side.turn.say("go", {})
            end = time.monotonic() + min(TURN, clock.left - MARGIN)
            while side.process.poll() is None and side.turn.heard("done") is None:
                if time.monotonic() > end:
                    break
                time.sleep(0.02)
            if side.turn.heard("done") is not None:
                children.wait(side.process, min(TRACE, clock.left - MARGIN))
            conclude(waiting.pop(side.name), children, report)
        finally:
            for other in others:
                children.signal(other, signal.SIGCONT)
    for side in waiting.values():
        report.set(side.name, NO_TIME, f"not {'timed' if side.ready else 'compiled'} in time")


def conclude(side: Side, children: Children, report: Report) -> None:
    """Reports a side whose turn is over."""
    found, left_out = side.turn.heard("done"), side.turn.heard("left_out")
    if found is not None:
        report.set(side.name, OK, **found)
    elif left_out is not None:
        report.set(side.name, LEFT_OUT, left_out["reason"])
    elif side.process.poll() is None:
        report.set(side.name, FAILED, f"no answer within {TURN:g} s")
    else:
        reason = f"status {side.process.returncode}: {children.tail(side.name)}"
        report.set(side.name, FAILED, reason)
    children.end(side.process)
