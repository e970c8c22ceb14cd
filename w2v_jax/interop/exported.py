"""The config of an exported model: whether it states what its model is, and its arrays fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from w2v_jax.errors import UserError
from w2v_jax.models.catalogue import encoder_config, expected_shapes, rates
from w2v_jax.models.config import EncoderConfig


def encoder_of(config: Mapping[str, Any], where: str | Path) -> EncoderConfig:
    """The encoder of an exported config in the folder `where`.

    Raises UserError where there is none, and where the file states other rates or another blank
    than its model has.
    """
    if "frontend" not in config.get("model", {}):
        raise UserError(
            f"{where} holds a {config.get('kind')} model, which has no encoder of audio as this "
            "version builds them; use another, or export or convert it again"
        )
    for key, ours in rates(config).items():
        if config.get(key, ours) != ours:
            raise UserError(
                f"{where}/config.json: {key} is {config[key]!r}, but a model like this has "
                f"{ours!r}; export or convert it again"
            )
    return encoder_config(config)


def check_shapes(variables: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises UserError for an array whose shape is not what the config asks for."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(expected_shapes(config)):
        found = variables
        for key in path:
            found = found[key.key]
        if found.shape != leaf.shape:
            name = "/".join(key.key for key in path[1:])
            raise UserError(
                f"the config and the tensors disagree: {name} is {found.shape}, in our layout, "
                f"where {leaf.shape} is expected"
            )
