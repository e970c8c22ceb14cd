"""A run that hangs says where."""

import datetime
import faulthandler
import logging
import os
import sys
import threading
import time

from w2v_jax.places import is_remote, place

log = logging.getLogger(__name__)


class Watchdog:
    """Dumps the stacks of all threads when no beat has come for `seconds`, and goes on.

    Used around a training loop that calls beat(step) after every update. The dump goes to stderr
    and, with a time stamp, to the end of FOLDER/stacks-<process>.txt; after every further `seconds`
    without a beat there is another. The run is never ended: what looks like a hang may be a slow
    compilation, and a scheduler has its own limits. 0 seconds switch all of it off.

    A thread that holds the interpreter's lock for good stops this one as well. For that case
    faulthandler's own timer, which needs no lock, dumps to stderr another `seconds` later. For a
    FOLDER in a bucket stderr alone has the dumps.
    """

    def __init__(self, seconds: float, folder: str, *, process: int = 0):
        self._seconds = seconds
        self._path = None if is_remote(folder) else place(folder) / f"stacks-{process}.txt"
        self._closed = threading.Event()
        self._thread = None
        self._beat = (None, 0.0)  # the last step, when it came; replaced as a whole

    def __enter__(self) -> "Watchdog":
        self._beat = (None, time.monotonic())
        if self._seconds > 0:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def beat(self, step: int) -> None:
        """`step` has finished. Costs nothing: the thread looks when its time is over."""
        self._beat = (step, time.monotonic())

    def __exit__(self, *_) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=10)  # for a dump under way
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        seen, due = self._beat, self._beat[1] + self._seconds
        while True:
            wait = max(due - time.monotonic(), 0)
            self._arm(wait + self._seconds)
            if self._closed.wait(wait):
                return
            if self._beat is not seen:
                seen = self._beat
                due = seen[1] + self._seconds
            if (now := time.monotonic()) >= due:
                self._report(seen[0], now - seen[1])
                due = time.monotonic() + self._seconds

    def _arm(self, seconds: float) -> None:
        stderr = _descriptor()
        if stderr is not None:
            faulthandler.dump_traceback_later(seconds, file=stderr)

    def _report(self, step: int | None, quiet: float) -> None:
        # the dump before the words: the thread that hangs may hold the lock of the logging module
        since = "since the start" if step is None else f"after step {step}"
        where = "stderr"
        if self._path is not None:
            where = self._dump(f"process id {os.getpid()}: {quiet:.0f} s {since}")
        if (stderr := _descriptor()) is not None:
            faulthandler.dump_traceback(stderr, all_threads=True)
        if step is None:
            log.warning(
                "no update has finished in the %.0f s since the start. The first one includes the "
                "compilation, which for a large model may take this long: then raise "
                "--config.run.hang_seconds. Otherwise it is the first batch (slow or hanging "
                "storage) or another process that has not started. The run goes on; where every "
                "thread stands: %s", quiet, where,
            )  # fmt: skip
        else:
            log.warning(
                "no update has finished for %.0f s; the last was step %d. Usual causes: storage "
                "or a data worker that hangs, another process that has died or waits elsewhere "
                "(compare the dumps of all), a device that hangs, or an evaluation or a save that "
                "is simply this slow: then raise --config.run.hang_seconds. The run goes on; where "
                "every thread stands: %s", quiet, step, where,
            )  # fmt: skip

    def _dump(self, title: str) -> str:
        """Adds the stacks to the file; where they are."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                file.write(f"{now}, {title}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
                file.write("\n")
        except OSError as error:
            return f"stderr alone, {self._path} cannot be written: {error.strerror}"
        return str(self._path)


def _descriptor() -> int | None:
    """That of stderr, None where a notebook or a test has replaced it by an object without one."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None
