"""Where the audio of a manifest's rows comes from: the files themselves, or shards of them."""

import glob
import os
import shlex
from typing import Protocol

import numpy as np

from w2v_jax.data.audio_files import Files
from w2v_jax.data.manifest import Manifest
from w2v_jax.data.shards import Shards, is_shards
from w2v_jax.errors import UserError
from w2v_jax.places import several


class Source(Protocol):
    """Utterances that can be read by row, in any order, from any thread, a part at a time."""

    manifest: Manifest
    name: str  # for messages: `train` of data/train.arrow
    path: str  # the manifest or folder of shards, beside which its units stand; "" of none

    def audio(self, row: int, start: int, count: int) -> np.ndarray:
        """int16 [count] from sample `start` of the row. Raises AudioError."""

    def select(self, rows: np.ndarray) -> "Source":
        """The source of the given rows, in their order."""


class Row:
    """A row of a source as a sequence of int16 samples: a slice reads that part alone, as
    `audio.waveform.Recording` does of a file. Raises AudioError."""

    def __init__(self, source: Source, row: int):
        self.source, self.row = source, row
        self.path = source.manifest.path(row)

    def __len__(self) -> int:
        return int(self.source.manifest.samples[self.row])

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        if stop <= start:
            return np.zeros(0, np.int16)
        return self.source.audio(self.row, start, stop - start)


def open_sources(names: str) -> list[Source]:
    """The sources in a comma-separated list of manifests and folders of shards, or of patterns
    (`data/*.arrow`), each in sorted order; see `places.several`.

    Raises UserError for a name that fits nothing.
    """
    found = []
    for name in several(names):
        paths = [name]
        if not os.path.exists(name) and glob.has_magic(name):
            paths = sorted(glob.glob(name))
            if not paths:
                raise UserError(
                    f"no manifest fits the pattern {shlex.quote(name)}; python -m w2v_jax.prepare "
                    "writes them"
                )
        for path in paths:
            stem = os.path.splitext(os.path.basename(path))[0]
            shards = is_shards(path)
            found.append(Shards(path) if shards else Files(Manifest.read(path), stem, path))
    return found
