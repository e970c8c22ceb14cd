"""What a description of a model is checked for: it can be built, and its arrays fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from w2v_jax.errors import UserError, brief, some
from w2v_jax.models.catalogue import encoder_config, expected_shapes, kind_of, rates
from w2v_jax.models.config import EncoderConfig
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.vocabulary import Vocabulary

MOST_LAYERS = 10_000


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


def check_model(
    variables: Mapping[str, Any], config: Mapping[str, Any], where: str | Path
) -> None:
    """Raises UserError for a description in `where` of which no model can be built, and for arrays
    that are not this model's."""
    try:
        kind_of(config)
        if "frontend" in config["model"]:
            encoder_of(config, where)
        if "alphabet" in config:
            alphabet = Alphabet.from_dict(config["alphabet"])
        if config["kind"] == "language":
            tokens = len(Vocabulary.from_dict(config["vocabulary"], alphabet))
            if tokens != config["tokens"]:
                raise ValueError(f"tokens is {config['tokens']}, its vocabulary has {tokens}")
        layers = config["model"].get("num_layers", 1)
        if layers > MOST_LAYERS:  # building them would take forever
            raise UserError(f"num_layers is {layers}; a model here has at most {MOST_LAYERS}")
        expected = expected_shapes(config)
    except UserError as error:
        message = str(error)
        raise UserError(message if str(where) in message else f"{where}: {message}") from None
    except Exception as error:  # of values that nobody meant JAX and Flax raise many kinds
        raise UserError(
            f"{where}: its config lacks a value or has one of the wrong kind "
            f"({type(error).__name__}: {brief(error)}); export or download the model again"
        ) from None
    try:
        compare(variables, expected)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def compare(variables: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises UserError naming arrays that are missing, too many, or of another shape than in the
    tree `expected`."""
    ours, theirs = (
        {"/".join(key.key for key in path[1:]): leaf.shape for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (expected, variables))
    )
    shapes = [
        f"{name} is {theirs[name]}, in our layout, where {shape} is expected"
        for name, shape in ours.items()
        if theirs.get(name, shape) != shape
    ]
    lists = {
        "": shapes,
        "missing: ": sorted(ours.keys() - theirs.keys()),
        "without a place: ": sorted(theirs.keys() - ours.keys()),
    }
    wrong = [what + some(names, 3) for what, names in lists.items() if names]
    if wrong:
        raise UserError(f"the config and the tensors disagree: {'; '.join(wrong)}")
