"""The processes of the check: started in groups of their own, frozen while another is measured,
and all of them gone at the end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Over(Exception):
    """Nothing is started any more, or there is no more time."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM has come; its argument is which."""


class Signals:
    """Makes both signals raise Interrupted in the main thread, but not while a process is being
    started there, which would be in nobody's list."""

    def __init__(self):
        self._held, self._came = False, 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _) -> None:
        self._came = number
        if not self._held:
            raise Interrupted(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # no signal is handled here
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._came:
                raise Interrupted(self._came)

    def ignore(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


class Children:
    """logs: a folder for a log of each; cache: of compiled programs, which all share."""

    def __init__(self, logs: Path, cache: Path, signals: Signals | None = None):
        self._logs, self._cache = logs, cache
        self._held = signals.held if signals else nullcontext
        self._alive: dict[subprocess.Popen, str] = {}
        self._lock = threading.Lock()  # a thread starts some
        self._closed = False

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        fraction: float = 0.1,
        nice: int = 0,
        platform: str = "",
        xla_flags: str = "",
    ) -> subprocess.Popen:
        """Starts `python ARGUMENTS` in the root of the repository.

        fraction: of the device's memory, which it may not exceed; as little as it needs is taken.
        nice: so that what has priority is compiled first. xla_flags: beside those of the
        environment. Raises Over once all are ended.
        """
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self._cache), "HF_HUB_OFFLINE": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_CLIENT_MEM_FRACTION": f"{fraction:g}",
        }  # fmt: skip
        env.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # JAX refuses the older name beside it
        if platform:
            env["JAX_PLATFORMS"] = platform
        if xla_flags:
            env["XLA_FLAGS"] = " ".join(filter(None, [env.get("XLA_FLAGS", ""), xla_flags]))
        command = [*(["nice", f"-n{nice}"] if nice else []), sys.executable, *arguments]
        with self._held(), self._lock, (self._logs / f"{name}.log").open("a") as log:
            if self._closed:
                raise Over
            process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self._alive[process] = name
        return process

    def signal(self, process: subprocess.Popen, number: int) -> None:
        """To the process and all that it has started."""
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def end(self, process: subprocess.Popen) -> None:
        self.signal(process, signal.SIGKILL)
        process.wait()

    def others(self, process: subprocess.Popen) -> list[subprocess.Popen]:
        with self._lock:
            return [x for x in self._alive if x is not process and x.poll() is None]

    def wait(self, process: subprocess.Popen, seconds: float) -> int | None:
        """Its status; None where it was not done and has been ended."""
        try:
            return process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            self.end(process)
            return None

    def tail(self, name: str, lines: int = 3) -> str:
        """The end of its log, in a line: what it said of its failure."""
        path = self._logs / f"{name}.log"
        text = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return " / ".join(line.strip()[:300] for line in text[-lines:])

    def close(self) -> None:
        """Ends all of them; no more is started."""
        with self._lock:
            self._closed = True
            for process in self._alive:
                self.signal(process, signal.SIGKILL)
            for process in self._alive:
                process.wait()


class Clock:
    """How much is left of the seconds that the check may take."""

    def __init__(self, budget: float):
        self._begin, self.budget = time.monotonic(), budget

    @property
    def passed(self) -> float:
        return time.monotonic() - self._begin

    @property
    def left(self) -> float:
        return self.budget - self.passed
