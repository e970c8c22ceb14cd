"""Audio from the files that a manifest names, read again where the file system was busy."""

import errno
import time

import numpy as np

from w2v_jax.audio.waveform import AudioError, read
from w2v_jax.data.manifest import Manifest

WAITS = (0.0, 0.5, 2.0, 8.0)  # seconds before a file is read again
# what a busy or distant file system answers; a file that is missing or damaged stays so
_TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "ECONNABORTED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR",
        "EIO", "EMFILE", "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENFILE", "ENOMEM", "EREMOTEIO",
        "ESTALE", "ETIMEDOUT",
    )
    if hasattr(errno, name)
)  # fmt: skip


class Files:
    """Audio from the files that a manifest names."""

    def __init__(self, manifest: Manifest, name: str = "", path: str = ""):
        self.manifest = manifest
        self.name = name
        self.path = path

    def audio(self, row: int, start: int, count: int) -> np.ndarray:
        path = self.manifest.path(row)
        start += int(self.manifest.starts[row])
        for attempt, wait in enumerate((*WAITS, None)):
            try:
                return read(path, start, count)
            except (AudioError, OSError) as error:
                # Twice in any case: the reason may be gone by the time it is looked for.
                if wait is None or (attempt and not _passing(path)):
                    if isinstance(error, AudioError):
                        raise
                    reason = (error.strerror or str(error)).lower()
                    raise AudioError(f"{path}: {reason}") from None
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def select(self, rows: np.ndarray) -> "Files":
        return Files(self.manifest.select(rows), self.name, self.path)


def _passing(path: str) -> bool:
    """Whether reading the file fails for a reason that may pass."""
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return error.errno in _TRANSIENT
    return False
