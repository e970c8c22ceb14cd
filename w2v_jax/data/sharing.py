"""Large arrays that worker processes map from a file instead of receiving a copy each."""

import hashlib
import os
import tempfile
import threading
import weakref
from collections.abc import Sequence

import numpy as np

SMALL = 1 << 20  # bytes; smaller arrays travel with the message
_LOCK = threading.Lock()
_OPEN: "weakref.WeakSet[Shared]" = weakref.WeakSet()


class Shared:
    """An array in a temporary file, which is removed when the array's first owner lets go of it.

    Pickled, it is a path: every process that opens it sees the same pages of memory.
    """

    def __init__(self, array: np.ndarray):
        handle, self._path = tempfile.mkstemp(prefix="w2v_jax-", suffix=".npy")
        with os.fdopen(handle, "wb") as file:
            np.save(file, array)
        self.remove = weakref.finalize(self, _remove, self._path, os.getpid())
        _OPEN.add(self)

    def __getstate__(self):
        return {"_path": self._path}

    def open(self) -> np.ndarray:
        return np.load(self._path, mmap_mode="r")


def remove_files() -> None:
    """Removes the files of this process: for an end that calls no finalizers."""
    for shared in list(_OPEN):
        shared.remove()


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner and os.path.exists(path):
        os.remove(path)


class SharedState:
    """Pickles the large arrays among an object's attributes as `Shared`.

    The files live as long as the object that was pickled.
    """

    def __getstate__(self):
        state = {name: value for name, value in self.__dict__.items() if name != "_shared"}
        for name, value in state.items():
            if isinstance(value, np.ndarray) and value.nbytes > SMALL:
                with _LOCK:  # one thread per worker process pickles
                    shared = self.__dict__.setdefault("_shared", {})
                    if name not in shared:
                        shared[name] = Shared(value)
                    state[name] = shared[name]
        return state

    def __setstate__(self, state):
        opened = {k: v.open() if isinstance(v, Shared) else v for k, v in state.items()}
        self.__dict__.update(opened)


class Ragged(SharedState):
    """Arrays of unequal length in one: array i is values[bounds[i]:bounds[i + 1]]."""

    def __init__(self, values: np.ndarray, bounds: np.ndarray):
        self.values = values
        self.bounds = bounds  # int64 [arrays + 1]

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> "Ragged":
        bounds = np.cumsum([0, *map(len, arrays)])
        return cls(np.concatenate(arrays) if len(arrays) else np.zeros(0, np.int32), bounds)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.bounds[i] : self.bounds[i + 1]]

    @property
    def digest(self) -> str:
        """Of all arrays, as integers."""
        found = hashlib.sha256(np.ascontiguousarray(self.bounds, np.int64))
        found.update(np.ascontiguousarray(self.values, np.int32))
        return found.hexdigest()

    def sums(self, of: np.ndarray) -> np.ndarray:
        """Of arrays of indices, none empty: the sum of `of` at the indices of each."""
        return np.add.reduceat(of[self.values], self.bounds[:-1])

    @property
    def sizes(self) -> np.ndarray:
        return np.diff(self.bounds)
