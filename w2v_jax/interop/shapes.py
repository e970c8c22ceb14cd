"""Whether converted arrays are those of the model that the config describes."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.errors import UserError
from w2v_jax.models.config import EncoderConfig, PredictionConfig, QuantizerConfig
from w2v_jax.models.ctc import CTCModel
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.hubert import Hubert
from w2v_jax.models.wav2vec2 import Wav2Vec2


def expected_shapes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of an exported config (kind, model and its head) as shapes."""
    encoder, kind = EncoderConfig.from_dict(config["model"]), config["kind"]
    audio = jnp.zeros((1, 2 * encoder.receptive_field), jnp.int16)
    rest = ()
    if kind == "pretrained":
        model = Wav2Vec2(encoder, QuantizerConfig.from_dict(config["quantizer"]))
        frames = encoder.frames(audio.shape[1])
        rest = (None, jnp.zeros((1, frames), bool), jnp.zeros((1, 1), jnp.int32))
    elif kind == "hubert":
        model = Hubert(encoder, PredictionConfig.from_dict(config["prediction"]))
    elif kind == "ctc":
        model = CTCModel(encoder, len(config["alphabet"]["symbols"]))
    else:
        model = Encoder(encoder)
    shapes = jax.eval_shape(lambda: nn.meta.unbox(model.init(jax.random.key(0), audio, *rest)))
    if kind == "encoder":
        shapes = {collection: {"encoder": tree} for collection, tree in shapes.items()}
    return shapes


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
