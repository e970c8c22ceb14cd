"""The file of centroids: what k-means found, and of which features, so that no others are taken."""

import dataclasses
import functools
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from w2v_jax.analysis import kmeans
from w2v_jax.analysis.extraction import Extractor, open_extractor
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError, brief
from w2v_jax.places import place, write_whole

FORMAT = "w2v_jax centroids"  # what a file says that it is
COMMAND = "python -m w2v_jax.units"
_BLOCK = 4096  # frames that are assigned at a time


@dataclasses.dataclass(frozen=True)
class Centroids:
    """values float32 [K, D]: centroids of `tap` of `extractor`, the description of an Extractor.

    rate: frames per second; middle: seconds of the middle of what the first one sees. inertia: of
    a frame of those it was learnt of, `frames`. settings: how it was learnt.
    """

    values: np.ndarray
    name: str
    tap: str
    rate: float
    middle: float
    extractor: Mapping[str, Any]
    inertia: float = 0.0
    frames: int = 0
    seed: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """Of the classes: it is the same where units mean the same."""
        found = hashlib.sha256(f"{self.tap} {self.extractor.get('digest')}".encode())
        found.update(np.ascontiguousarray(self.values, np.float32))
        return found.hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """JSON: what is noted beside units."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del found["values"]
        return {"format": FORMAT, "clusters": len(self.values), "centroids": self.digest} | found

    @property
    def features(self) -> str:
        """In words, for messages."""
        return f"{self.tap} of {described(self.extractor)}"

    def write(self, path: str | os.PathLike) -> None:
        """Raises UserError where that cannot be done."""
        note = np.frombuffer(json.dumps(self.description).encode(), np.uint8)
        file = io.BytesIO()  # the note first: it is what shows whose file it is
        np.savez(file, description=note, centroids=self.values)
        write_whole(place(path), file.getvalue())

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Centroids":
        """Raises UserError for what is no such file, or a damaged one."""
        try:
            with place(path).open("rb") as file:
                if not zipfile.is_zipfile(file):
                    raise ValueError("it is no .npz")
                file.seek(0)
                found = np.load(file)
                note = json.loads(found["description"].tobytes())
                values = found["centroids"]
            if note.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            clusters, digest = note.pop("clusters"), note.pop("centroids")
            if values.dtype != np.float32 or values.ndim != 2 or len(values) != clusters:
                raise ValueError(f"{clusters} centroids are {values.dtype} {values.shape}")
            read = cls(values, **note)
            if read.digest != digest:
                raise ValueError("its digest is another one")
        except Exception as error:  # of the storage, of zip files, of JSON
            raise UserError(
                f"--centroids={path} holds no centroids ({brief(error)}); write some with "
                f"{COMMAND} learn"
            ) from None
        return read

    def open_extractor(self, features: str = "") -> Extractor:
        """The extractor that they were learnt of: where it was, or at `features`.

        Raises UserError where there is none, or another one.
        """
        name = features or self.extractor["source"]
        try:
            random = self.extractor.get("random")
            found = open_extractor(name, (self.tap,), random_weights=random)
        except UserError as error:
            if features:
                raise
            raise UserError(
                f"the centroids {self.name} are of {self.features}: {error}; where that has moved "
                "to, set --features"
            ) from None
        digest = found.description["digest"]
        if digest != self.extractor["digest"]:
            raise UserError(
                f"the centroids {self.name} are of {self.features}, and "
                f"{described(found.description)} is not that; name the one they were learnt of "
                f"with --features, or learn others: {COMMAND} learn --features={name}"
            )
        return found


def described(extractor: Mapping[str, Any]) -> str:
    """An extractor's description in words."""
    random = f", random weights of seed {extractor['random']}" if "random" in extractor else ""
    return f"{extractor['source']} (digest {str(extractor['digest'])[:12]}{random})"


def rate_of(stride: int, whose: str) -> float:
    """Frames per second. Raises UserError where a second is no whole number of them: crops begin at
    whole samples, and so must the units in them."""
    if not stride or SAMPLE_RATE % stride:
        raise UserError(
            f"{whose} has a frame every {stride} samples, which does not divide {SAMPLE_RATE:,}: "
            "its units would have no place in a crop; take another model"
        )
    return SAMPLE_RATE / stride


class Nearest:
    """Features [T, D] -> int32 [T], the nearest centroid of each; on a device, block by block.

    |x|^2 - 2 x.c + |c|^2 is least, both taken from the mean of the centroids (float32 keeps more
    of small numbers).
    """

    def __init__(self, values: np.ndarray):
        self._shift = values.mean(0, dtype=np.float64).astype(np.float32)
        centroids = jnp.asarray(values - self._shift)
        half = jnp.square(centroids).sum(1) / 2
        self._run = jax.jit(lambda x: kmeans.nearest(x - self._shift, centroids, half)[0])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(features), _BLOCK):
            part = np.asarray(features[start : start + _BLOCK], np.float32)
            # a few shapes are compiled
            size = min(max(64, 1 << (len(part) - 1).bit_length()), _BLOCK)
            padded = np.pad(part, ((0, size - len(part)), (0, 0)))
            found.append((self._run(padded), len(part)))
        parts = [np.asarray(units)[:count] for units, count in found]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)
