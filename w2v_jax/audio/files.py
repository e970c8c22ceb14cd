"""Opening files, also those that lie in a bucket (gs://bucket/folder), through etils.epath.

What fails there for another reason than a missing file or right is tried again after a while.
"""

import functools
import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

from etils import epath

from w2v_jax.places import is_remote

WAITS = (0.5, 2.0, 8.0)  # seconds before the second, third and last attempt
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError)
_BLOCK = 1 << 18  # bytes per request: libsndfile asks for 8 kB at a time
Answer = TypeVar("Answer")


def retried(action: Callable[[], Answer]) -> Answer:
    """The answer of `action()`, which is tried again where the storage fails."""
    for wait in WAITS:
        try:
            return action()
        except _FINAL:
            raise
        except Exception:  # storage packages have errors of their own
            time.sleep(wait)
    return action()


def cache_folder(kind: str) -> str:
    """Where this machine keeps what is kept for a while: W2V_JAX_CACHE (default
    ~/.cache/w2v_jax)/KIND."""
    folder = os.environ.get("W2V_JAX_CACHE", os.path.expanduser("~/.cache/w2v_jax"))
    return os.path.join(folder, kind)


def local_copy(path: str) -> str:
    """The name of a local copy of a remote file, made where there is none of this version."""
    stat = retried(epath.Path(path).stat)
    key = hashlib.sha256(f"{path} {stat.length} {stat.mtime}".encode()).hexdigest()[:32]
    copy = os.path.join(cache_folder("files"), key + os.path.splitext(path)[1])
    if not os.path.exists(copy):
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        temporary = f"{copy}.{os.getpid()}.tmp"
        remote = RemoteFile(path)
        with open(temporary, "wb") as file:
            shutil.copyfileobj(remote, file, 1 << 24)
        if remote.failure:
            os.remove(temporary)
            raise remote.failure
        os.replace(temporary, copy)
    return copy


def opened(path: str | os.PathLike) -> io.IOBase:
    """A file to read bytes from at any place, local or remote. Raises what opening it raises."""
    return RemoteFile(os.fspath(path)) if is_remote(path) else open(path, "rb", buffering=0)


def after_id3(file: io.IOBase, head: bytes) -> bytes:
    """The first bytes behind the ID3v2 tag of a file, as many as `head`, its first bytes, has."""
    if head[:3] != b"ID3" or len(head) < 10:
        return head
    size = functools.reduce(lambda size, byte: size << 7 | byte & 0x7F, head[6:10], 0)
    file.seek(10 + size)
    return file.read(len(head))


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def identity(path: str | os.PathLike, file: io.IOBase) -> tuple:
    """What tells a file that is `opened` from others and, where it is local, from its versions."""
    if isinstance(file, RemoteFile):
        return os.fspath(path), file.seek(0, os.SEEK_END)
    stat = os.fstat(file.fileno())
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino


def upload(local: str, path: str) -> None:
    """Replaces a remote file by a local one; object stores do so in one step."""
    target = epath.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)

    def action() -> None:
        with open(local, "rb") as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 24)

    retried(action)


class RemoteFile(io.RawIOBase):
    """A remote file to read from at any place; every read is retried.

    libsndfile calls it and cannot pass an exception on: a read that failed for good looks like
    the end of the file, and `failure` has the reason. Raises what opening the file raises.
    """

    def __init__(self, path: str):
        self._path = epath.Path(path)
        self._file = None
        self._position = self._held_at = 0
        self._held = b""  # what was fetched last, from _held_at on
        self.failure: Exception | None = None
        self._length = self._tried(lambda file: file.seek(0, os.SEEK_END))

    def _tried(self, action: Callable[[io.IOBase], Answer]) -> Answer:
        def attempt() -> Answer:
            if self._file is None:
                self._file = self._path.open("rb")
            try:
                return action(self._file)
            except Exception:
                self._file = None  # its connection may be what is broken
                raise

        return retried(attempt)

    def _fetched(self, file: io.IOBase, wanted: int) -> bytes:
        file.seek(self._position)
        return file.read(max(wanted, _BLOCK))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer) -> int:
        wanted = len(buffer)
        if not self._held_at <= self._position <= self._held_at + len(self._held) - wanted:
            try:
                self._held = self._tried(lambda file: self._fetched(file, wanted))
            except Exception as error:
                self.failure = error
                return 0
            self._held_at = self._position
        first = self._position - self._held_at
        data = self._held[first : first + wanted]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
