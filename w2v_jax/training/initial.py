"""First values of a model from arrays that were trained before."""

import logging
from typing import Any

import jax
import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.training.digest import path_name

log = logging.getLogger(__name__)
NAMES = 10  # of a list that are shown


def take_over(current: Any, given: Any, where: str, *, partial: bool = False) -> Any:
    """`current` with the values of `given`, array by array, on the devices they were on.

    current: a tree of jax.Arrays; given: a tree of NumPy arrays read from `where`. Raises UserError
    where one of them lacks an array of the other, or has it in another shape; with `partial` what
    fits is taken over, the rest of `current` stays as it is, and both lists go to the log.
    """
    there = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(given)}
    here = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(current)}
    shapes = {
        f"{name} {there[name].shape} there, {x.shape} here": name
        for name, x in here.items()
        if name in there and there[name].shape != x.shape
    }
    complaints = [
        _listed(f"the model has, {where} lacks", [name for name in here if name not in there]),
        _listed(f"{where} has, the model lacks", [name for name in there if name not in here]),
        _listed("have another shape", list(shapes)),
    ]
    complaints = [text for text in complaints if text]
    if complaints:
        if not partial:
            raise UserError(
                "\n".join(complaints) + "\nuse a config of the same model, or take over what fits "
                "with --config.run.partial_init=True"
            )
        log.warning("the model starts in part from %s\n%s", where, "\n".join(complaints))
    fits = there.keys() & here.keys() - set(shapes.values())
    if not fits:
        raise UserError(f"no array of {where} fits the model; use a config of the same model")

    def put(path, old):
        name = path_name(path)
        return put_like(there[name], old) if name in fits else old

    return jax.tree_util.tree_map_with_path(put, current)


def put_like(new: np.ndarray, old: jax.Array) -> jax.Array:
    """The values of `new` on the devices of `old`, of whichever process."""
    return jax.make_array_from_callback(
        old.shape, old.sharding, lambda index: np.asarray(new[index], old.dtype)
    )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = [f"and {len(names) - NAMES} more"] if len(names) > NAMES else []
    return f"{what} {len(names)} arrays:\n  " + "\n  ".join(names[:NAMES] + more)
