"""SIGTERM and Ctrl-C: from its first line on a training ends with 75, whatever it is doing.

Nothing is raised out of a signal handler: XLA waits for its compiler in a way that lets such an
exception through, and the interpreter that ends then takes away what the threads of the compiler
stand on (a segmentation fault). Instead a thread of its own hears the signals, also while the main
one is inside of a library. Where nothing is to be saved it ends the process; elsewhere the signal
is remembered, and the loop, and what reads batches, ask for it.

Needs the standard library alone: it listens before anything large is imported.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

PREEMPTED = 75  # exit status (EX_TEMPFAIL): run the same command again
INTERRUPTED = 130  # exit status of a tool that Ctrl-C ends
NUMBERS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 1.0  # seconds after which a second Ctrl-C is one; a terminal and a launcher send two
FAREWELL = 5.0  # seconds that the last words, and what is to be removed, may take


def end_at_interrupt() -> None:
    """Called before anything large is imported by a tool that has nothing to save: from then on
    Ctrl-C ends the process with 130, whatever the main thread is in.

    An exception raised by a handler would surface inside of libraries, which take it for a fault
    of what they read, or drop it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nohup and the like
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def hear() -> None:
        while os.read(read, 1)[0] != signal.SIGINT:
            pass
        try:
            os.write(2, b"\ninterrupted\n")
            if "multiprocessing" in sys.modules:
                for child in sys.modules["multiprocessing"].active_children():
                    child.kill()
        finally:
            os._exit(INTERRUPTED)

    threading.Thread(target=hear, name="interrupts", daemon=True).start()


class Stopped(Exception):
    """The process is asked to stop, and waits for data: nothing is under way."""


class Stop:
    """What the signals of this process ask for. There is one, `stop`."""

    def __init__(self):
        self.asked = False  # to stop as soon as what must be is saved
        self._own = False  # the process is there for its training alone
        self._held = False  # something may have to be saved: no signal ends the process
        self._together = False  # JAX listens to SIGTERM and makes all processes stop at one step
        self._heard_at = 0.0
        self._lock = threading.RLock()  # held by who ends the process, until its end
        self._leaving: list[Callable[[], object]] = []

    def listen(self) -> None:
        """Called by the main thread of a process that only trains: signals end it with 75."""
        read, write = os.pipe()
        os.set_blocking(write, False)
        for number in NUMBERS:
            signal.signal(number, self._remember)
        # a byte for each signal, at once, where Python's handlers wait for the next byte code
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._own = True
        threading.Thread(target=self._hear, args=(read,), name="signals", daemon=True).start()

    def _hear(self, pipe: int) -> None:
        while True:
            (number,) = os.read(pipe, 1)
            if number not in NUMBERS:
                continue
            with self._lock:
                again = self.asked and time.monotonic() - self._heard_at > PATIENCE
                if not self._held or (again and number == signal.SIGINT):
                    self.leave("asked to stop: ends at once, the same command starts again")
                self._remember(number)

    def _remember(self, number: int, frame: object = None) -> None:
        """Also the handler, for where no thread listens."""
        if self._together:
            # JAX tells the other processes; a repeated one changes nothing
            if number == signal.SIGINT:
                os.kill(os.getpid(), signal.SIGTERM)
        elif not self.asked:
            self.asked, self._heard_at = True, time.monotonic()
        elif number == signal.SIGINT and not self._own:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self, *, together: bool = False) -> Iterator[None]:
        """Inside, a signal is remembered as `asked` and nothing more. A second Ctrl-C acts at once.

        together: JAX connects several processes and watches SIGTERM itself: nothing is `asked`
        here, and Ctrl-C is passed on to it.
        """
        numbers = (signal.SIGINT,) if together else NUMBERS
        old = {}
        with self._lock:
            self._held, self._together = True, together
            if not self._own:  # of a notebook or a test: only for now
                self.asked = False
                old = {number: signal.signal(number, self._remember) for number in numbers}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            with self._lock:
                self._held = self._together = False
                self.asked = self.asked and self._own

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """Inside `held`: a signal that came, or comes, ends the process at once if it is there for
        its training alone."""
        ends = self._own and not self._together
        with self._lock:
            if ends and self.asked:
                self.leave("asked to stop: nothing is to be saved, the same command starts again")
            self._held = not ends
        try:
            yield
        finally:
            with self._lock:
                self._held = True

    def finish(self) -> None:
        """All is done: from here on signals change nothing. (An interpreter that ends takes its
        handlers away first, and they would kill it.)"""
        if self._own:
            for number in NUMBERS:
                signal.signal(number, signal.SIG_IGN)

    @contextlib.contextmanager
    def leaving(self, callback: Callable[[], object]) -> Iterator[None]:
        """Inside, callback() is called, by another thread, before `leave` ends the process."""
        self._leaving.append(callback)
        try:
            yield
        finally:
            self._leaving.remove(callback)

    def leave(self, reason: str = "") -> None:
        """Ends the process with 75, whatever its other threads do."""
        with self._lock:
            # a thread of its own, which may wait for a lock that the main one holds
            last = threading.Thread(target=self._take_leave, args=(reason,), daemon=True)
            last.start()
            last.join(FAREWELL)
            os._exit(PREEMPTED)

    def _take_leave(self, reason: str) -> None:
        if reason:
            log.warning("%s", reason)
        for callback in reversed(self._leaving):
            with contextlib.suppress(Exception):
                callback()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


stop = Stop()
