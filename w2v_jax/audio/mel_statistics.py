"""Mean and standard deviation of every mel bin over a corpus, and the file that keeps them."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from w2v_jax.audio.logmel import PRESETS, MelPreset
from w2v_jax.errors import UserError, brief
from w2v_jax.places import place, write_whole

FORMAT = "w2v_jax mel statistics"  # what a file says that it is
COMMAND = "python -m w2v_jax.mel_statistics"


@dataclasses.dataclass(frozen=True)
class MelStatistics:
    """Of `frames` frames of a preset, per bin."""

    preset: MelPreset
    frames: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def collect(spectra: Iterable[np.ndarray], preset: MelPreset) -> MelStatistics:
    """Of spectra [T, mels], frame by frame alike. Raises UserError without two frames, and for a
    bin that never changes."""
    count, total, squares = 0, np.zeros(preset.mels), np.zeros(preset.mels)
    for spectrum in spectra:
        x = spectrum.astype(np.float64)
        count += len(x)
        total += x.sum(0)
        squares += np.square(x).sum(0)
    if count < 2:
        raise UserError("there are no two frames of audio to take statistics of")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if (still := np.flatnonzero(std < 1e-4)).size:
        raise UserError(
            f"bin {still[0]} of {preset.mels} is {mean[still[0]]:.4g} in all {count} frames and "
            "cannot be normalised; take audio with sound at all frequencies, or fewer mels"
        )
    return MelStatistics(preset, count, tuple(mean.tolist()), tuple(std.tolist()))


def write(found: MelStatistics, path: str | os.PathLike) -> None:
    """Raises UserError where that cannot be done."""
    preset = found.preset
    content = {
        "format": FORMAT, "preset": preset.name, "mels": preset.mels, "digest": preset.digest,
        "frames": found.frames, "mean": found.mean, "std": found.std,
    }  # fmt: skip
    write_whole(place(path), json.dumps(content, indent=1) + "\n")


def read(path: str | os.PathLike, preset: MelPreset) -> MelStatistics:
    """Those of a file that `write` wrote, or of a model here that was trained with some: the folder
    of an export or a run. Raises UserError where they are not of this preset, or damaged."""
    content = _content(path)
    remedy = (
        f"write it with {COMMAND} --preset={preset.name} --mels={preset.mels} --output=FILE and "
        "set --config.model.frontend.statistics=FILE"
    )

    def wrong(what: str) -> UserError:
        return UserError(f"--config.model.frontend.statistics={path}: {what}; {remedy}")

    if content.get("format") != FORMAT:
        raise wrong("it holds no statistics of log-mel spectra")
    name, mels = content.get("preset"), content.get("mels")
    if (name, mels) != (preset.name, preset.mels):
        raise wrong(
            f"it is of the preset {name} with {mels} mels, the model has {preset.name} with "
            f"{preset.mels}"
        )
    if content.get("digest") != preset.digest:
        raise wrong(f"it is of another definition of {preset.name} than this version's")
    for key in ("mean", "std"):
        values = content.get(key)
        if not isinstance(values, list) or len(values) != preset.mels:
            raise wrong(f"{key} is not a list of {preset.mels} numbers")
        if not all(_finite(x) and (key == "mean" or x > 0) for x in values):
            of = "finite numbers above 0" if key == "std" else "finite numbers"
            raise wrong(f"{key} does not consist of {of}")
    return MelStatistics(
        preset, content.get("frames", 0), tuple(content["mean"]), tuple(content["std"])
    )


def _finite(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # of an int isfinite raises beyond that


def _content(path: str | os.PathLike) -> dict[str, Any]:
    file = place(path)
    try:
        model = file.is_dir()
        found = json.loads((file / "config.json" if model else file).read_text())
        if model:
            frontend = found.get("described", found)["model"]["frontend"]
            preset = dataclasses.replace(PRESETS[frontend["preset"]], mels=frontend["mels"])
            found = frontend | {"format": FORMAT, "digest": preset.digest}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--config.model.frontend.statistics={path} cannot be read ({brief(error)}); name a "
            f"file that {COMMAND} wrote, or a model that was trained with one"
        ) from None
    return found if isinstance(found, dict) else {}
