"""The centroids of a front end of units, from where the config names them into the model."""

from typing import Any

import jax
import numpy as np

from w2v_jax.analysis.centroids import Centroids
from w2v_jax.audio import mfcc
from w2v_jax.errors import UserError
from w2v_jax.interop import checkpoints
from w2v_jax.keys.check import flag
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.frontends.units import UnitsConfig
from w2v_jax.places import place
from w2v_jax.training.initial import put_like
from w2v_jax.training.state import TrainState

KEY = "model.frontend.centroids"
REMEDY = (
    "make some with python -m w2v_jax.units learn --features=mfcc --clusters={classes} "
    "--output=FILE.npz and set --config.model.frontend.centroids=FILE.npz"
)


def with_centroids(config) -> tuple[Any, np.ndarray | None]:
    """(config, centroids float32 [K, 39]): those of the file, or of the model, that
    model.frontend.centroids names, and the config with their digest instead of that name; None
    where it names none. Raises UserError for those of something else than MFCC, and for another
    number than model.frontend.classes."""
    frontend = EncoderConfig.from_dict(config.model).frontend
    if not isinstance(frontend, UnitsConfig) or frontend.random or not frontend.centroids:
        return config, None
    path = frontend.centroids
    found = _of_model(path) if place(path).is_dir() else _of_file(path, frontend.classes)
    if len(found) != frontend.classes:
        raise UserError(
            f"{flag(KEY, path)} has {len(found)} centroids, the model "
            f"{flag('model.frontend.classes', frontend.classes)}; set "
            f"--config.model.frontend.classes={len(found)}"
        )
    config = config.copy_and_resolve_references()
    config.model.frontend.update(centroids="", digest=digest(found))
    return config, found


def digest(centroids: np.ndarray) -> str:
    """By which the units of a manifest know them, too."""
    return Centroids(centroids, "", "mfcc", 0.0, 0.0, {"digest": mfcc.digest()}).digest


def _of_file(path: str, classes: int) -> np.ndarray:
    try:
        found = Centroids.read(path)
    except UserError as error:
        raise UserError(str(error).replace("--centroids=", f"--config.{KEY}=")) from None
    wrong = ""
    if found.extractor.get("extractor") != "mfcc":
        wrong = f"are of {found.features}, not of MFCC"
    elif found.extractor.get("digest") != mfcc.digest():
        wrong = "are of another MFCC than this version's"
    elif found.values.shape[1] != mfcc.WIDTH:
        wrong = f"have {found.values.shape[1]} dimensions; MFCC has {mfcc.WIDTH}"
    elif not np.isfinite(found.values).all():
        wrong = "are not all finite numbers"
    if wrong:
        raise UserError(
            f"the centroids in {flag(KEY, path)} {wrong}; {REMEDY.format(classes=classes)}"
        )
    return found.values


def _of_model(path: str) -> np.ndarray:
    variables, _ = checkpoints.load(path)
    found = variables.get("stats", {}).get("encoder", {}).get("feature_encoder", {})
    if "centroids" not in found:
        raise UserError(
            f"{flag(KEY, path)} is a model without centroids; name one that was trained with "
            "tokenizer=kmeans, or a file that python -m w2v_jax.units learn wrote"
        )
    return np.asarray(found["centroids"], np.float32)


def given_centroids(
    state: TrainState, encoder: EncoderConfig, centroids: np.ndarray | None
) -> TrainState:
    """The state with these centroids, where the front end has a place for some. Raises UserError
    where another model has brought others, and where there are none."""
    if not isinstance(encoder.frontend, UnitsConfig) or encoder.frontend.random:
        return state
    inner = state.stats["encoder"]
    old = inner["feature_encoder"]["centroids"]
    brought = np.asarray(jax.device_get(old))
    if centroids is None or np.array_equal(brought, centroids):
        if not brought.any():
            raise UserError(
                "the model has no centroids to make tokens with; "
                + REMEDY.format(classes=encoder.frontend.classes)
            )
        return state
    if brought.any():
        raise UserError(
            f"the model in --config.run.init_from was trained with other centroids ("
            f"{digest(brought)}) than --config.{KEY} names ({digest(centroids)}), so that its "
            f"tokens mean something else; leave --config.{KEY} empty to go on with its own"
        )
    new = {"centroids": put_like(centroids, old)}
    stats = state.stats | {"encoder": inner | {"feature_encoder": new}}
    return state.starting_from(state.params, stats)
