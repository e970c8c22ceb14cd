"""The door to features of audio: of the layers of a model, MFCC, a mel spectrum."""

import fnmatch
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from w2v_jax.analysis.extractor import Extractor, Features, Part
from w2v_jax.analysis.layers import WINDOW_SECONDS, ModelExtractor, random_variables
from w2v_jax.analysis.spectra import SPECTRA, SpectrumExtractor
from w2v_jax.errors import UserError, some
from w2v_jax.interop import checkpoints
from w2v_jax.interop.exported import encoder_of
from w2v_jax.models.encoder import tap_widths
from w2v_jax.training.sharding import make_mesh

__all__ = [
    "SPECTRA", "WINDOW_SECONDS", "Extractor", "Features", "Part", "open_extractor", "taps_of",
]  # fmt: skip


def open_extractor(
    name: str | os.PathLike,
    taps: Sequence[str] = (),
    *,
    random_weights: int | None = None,
    batch_seconds: float = WINDOW_SECONDS,
    mesh: Mesh | None = None,
) -> Extractor:
    """MFCC, a mel spectrum or the encoder of a model.

    name: "mfcc" (HuBERT's 39), "mel" (the 80 of layer-wise analyses), or a model, whatever
    `interop.checkpoints.load` takes. taps: of a model, names of `models.encoder.tap_names` or
    patterns of them (hidden_*, which is what is taken if there are none); what has a rate of its
    own is averaged over what every frame of the encoder sees. random_weights: the seed of weights
    that take the place of the trained ones. batch_seconds: audio that is computed together. mesh:
    whose data and fsdp axes batches are cut over; all devices of this process if None.

    Raises UserError where there is no such model or tap.
    """
    if not WINDOW_SECONDS <= batch_seconds < math.inf:
        raise UserError(
            f"--batch_seconds={batch_seconds:g} must be finite, and at least {WINDOW_SECONDS:g}, "
            "the length of a window"
        )
    name = os.fspath(name)
    if name in SPECTRA:
        found = SpectrumExtractor(name)
        if random_weights is not None:
            raise UserError(f"{name} has no weights; leave random_weights out, or name a model")
        _chosen(found.taps, taps, name)
        return found
    variables, config = checkpoints.load(name)
    encoder = encoder_of(config, name)
    chosen = _chosen(tap_widths(encoder), taps or ("hidden_*",), name)
    weights = {kind: tree.get("encoder", {}) for kind, tree in variables.items()}
    if random_weights is not None:
        weights = random_variables(encoder, random_weights)
    mesh = mesh or make_mesh({"data": -1}, jax.local_devices())
    found = ModelExtractor(encoder, weights, chosen, mesh=mesh, batch_seconds=batch_seconds)
    found.description["source"] = name
    if random_weights is not None:
        found.description["random"] = random_weights
    return found


def taps_of(layers: str | int | Sequence[int]) -> tuple[str, ...]:
    """The taps of layers: one number, or several, or "6,9", or "all". Raises UserError for what
    is no number."""
    if isinstance(layers, int):
        layers = (layers,)
    if layers == "all":
        return ("hidden_*",)
    names = layers.split(",") if isinstance(layers, str) else [str(layer) for layer in layers]
    names = [name.strip() for name in names if name.strip()]
    if wrong := [name for name in names if not name.isdecimal()]:
        raise UserError(
            f"--layers={','.join(names)}: {wrong[0]!r} is no number of a layer, nor all; write "
            "6,9 say, and other names in --taps"
        )
    return tuple(f"hidden_{int(name)}" for name in names)


def _chosen(there: Mapping[str, int], taps: Sequence[str], name: str) -> dict[str, int]:
    """Those that the names and patterns ask for, in the order of `there`."""
    if isinstance(taps, str):
        raise UserError(f"taps is {taps!r}; it must be names in a tuple, ({taps!r},)")
    fit = {tap: fnmatch.filter(there, tap) for tap in taps}
    if unknown := [tap for tap, found in fit.items() if not found]:
        raise UserError(f"{name} has no {some(unknown)}; it has {summary(there)}")
    wanted = set(itertools.chain(*fit.values()))
    return {tap: width for tap, width in there.items() if tap in wanted}


def summary(taps: Iterable[str]) -> str:
    """Names in short: hidden_0 to hidden_12."""
    runs: dict[str, list[str]] = {}
    for tap in taps:
        stem, _, number = tap.rpartition("_")
        runs.setdefault(stem if number.isdecimal() else tap, []).append(tap)
    return ", ".join(x[0] if len(x) == 1 else f"{x[0]} to {x[-1]}" for x in runs.values())
