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

    def audio(self, row: int, start: int, count: int) -> np.ndarray:
        """int16 [count] from sample `start` of the row. Raises AudioError."""

    def select(self, rows: np.ndarray) -> "Source":
        """The source of the given rows, in their order."""


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
            found.append(Shards(path) if is_shards(path) else Files(Manifest.read(path), stem))
    return found
