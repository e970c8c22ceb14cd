"""One run in one workdir at a time."""

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from typing import Any

from w2v_jax.errors import UserError
from w2v_jax.places import Place, is_remote, place, unwritable, write_whole

log = logging.getLogger(__name__)

BEAT = 20.0  # seconds between two signs of life
SILENCE = 90.0  # seconds without one after which a run counts as dead
SETTLES = 1.0  # seconds after which an object that two have written is that of the last
SIZE = 512  # bytes of the file: always written whole, and in place


class Lock:
    """Held while a run writes to its workdir; WORKDIR/run.lock says by whom.

    On a disk the kernel holds it (flock, which NFS carries to its server) and lets go of it with
    the process, whatever ended that. Where that decides nothing (a bucket; a file system without
    locks; a file that a process of another host left behind) the holder's signs of life do: it
    rewrites the file every BEAT seconds, and whoever sees no change for SILENCE seconds takes it.
    No two clocks are compared. In a bucket two runs that start within the same second are told
    apart by reading again what was written.

    Raises UserError, on entering, where another run is there or the workdir cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike):
        self._workdir = os.fspath(workdir)
        self._path: Place = place(workdir) / "run.lock"
        self._mine = {
            "host": socket.gethostname(), "process": os.getpid(),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        }  # fmt: skip
        self._beats = 0
        self._made = False  # the workdir, which goes again where nothing comes into it
        self._file: int | None = None  # a descriptor, where there is a disk
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lock":
        try:
            self._made = not self._path.parent.exists()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            alone = not is_remote(self._path) and self._lock()
            self._wait_for_signs_of_life(alone)
            self._write()
            if self._file is None:
                time.sleep(SETTLES)
                if not self._is_mine(found := self._read()):
                    raise self._refusal(found)
        except OSError as error:
            self.release()
            if isinstance(error, FileExistsError):
                raise UserError(f"--workdir={self._workdir} is a file; name a folder") from None
            raise unwritable(f"--workdir={self._workdir}", error) from None
        except BaseException:
            self._close()
            raise
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()
        return self

    def _lock(self) -> bool:
        """Locks the file; False where the file system has no locks."""
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise self._refusal(self._read()) from None
                if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                    self._close()
                    return False
                raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    return True
            self._close()  # its holder removed it in between

    def _wait_for_signs_of_life(self, alone: bool) -> None:
        """alone: no process that shares the locks of this file is there."""
        first = found = self._read()
        if found is None or (alone and not found) or self._is_mine(found):
            return
        if found.get("host") == self._mine["host"] and (alone or _is_gone(found.get("process"))):
            return
        print(f"{self._path} was left by {_named(found)}; waiting up to {SILENCE:.0f} s for a sign "
              "of life of it", flush=True)  # fmt: skip
        end = time.monotonic() + SILENCE
        while time.monotonic() < end:
            time.sleep(min(BEAT / 4, SILENCE))
            found = self._read()
            if found is None:
                return
            if found and found != first:
                raise self._refusal(found)

    def _refusal(self, found: dict[str, Any] | None) -> UserError:
        return UserError(
            f"--workdir={self._workdir} is in use by {_named(found)}; end that run, or choose "
            "another --workdir"
        )

    def _read(self) -> dict[str, Any] | None:
        """What the file says; {} where that is nothing, None where there is no file."""
        try:
            content = json.loads(self._path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _is_mine(self, found: dict[str, Any] | None) -> bool:
        return bool(found) and all(found.get(key) == value for key, value in self._mine.items())

    def _write(self) -> None:
        text = json.dumps(self._mine | {"beats": self._beats}).ljust(SIZE - 1) + "\n"
        if self._file is None:
            write_whole(self._path, text)
        else:  # in place: another file would carry no lock
            os.pwrite(self._file, text.encode(), 0)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            self._beats += 1
            try:
                found = self._read()
                if found and not self._is_mine(found):
                    log.error("%s: %s has taken over this run's folder", self._path, _named(found))
                    return
                self._write()
            except (OSError, UserError) as error:  # a full disk, say; the next may succeed
                log.warning("%s: no sign of life: %s", self._path, error)

    def release(self) -> None:
        """Removes the file, if it is still this run's."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)  # or it could write the file again
        with contextlib.suppress(OSError):
            if self._is_mine(self._read()):
                self._path.unlink()
            if self._made and not is_remote(self._path):
                os.rmdir(self._path.parent)  # refuses unless it is empty
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __exit__(self, *_) -> None:
        self.release()


def _named(found: dict[str, Any] | None) -> str:
    if not found:
        return "another run"
    return (
        f"process {found.get('process')} on host {found.get('host')}, which started at "
        f"{found.get('since')}"
    )


def _is_gone(process: Any) -> bool:
    """Whether there is no such process on this host, or it is this one: after a restart of a
    container numbers begin anew."""
    if not isinstance(process, int) or process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
