"""The config of an exported model: what it says besides the sizes, and whether its arrays fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.models.config import EncoderConfig, PredictionConfig, QuantizerConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.models.heads.hubert import Hubert
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.vocabulary import Vocabulary


def rates(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an exported config states beside kind, model and head: samples and frames of the
    output per second and, with a CTC head, the id of the blank. Nothing of a language model."""
    if config["kind"] == "language":
        return {}
    encoder = EncoderConfig.from_dict(config["model"])
    blank = {"blank": 0} if config["kind"] == "ctc" else {}
    frame_rate = SAMPLE_RATE / encoder.context_stride
    return {"sample_rate": SAMPLE_RATE, "frame_rate": frame_rate, **blank}


def encoder_of(config: Mapping[str, Any], where: str | Path) -> EncoderConfig:
    """The encoder of an exported config in the folder `where`.

    Raises UserError where the file states other rates or another blank than its model has.
    """
    for key, ours in rates(config).items():
        if config.get(key, ours) != ours:
            raise UserError(
                f"{where}/config.json: {key} is {config[key]!r}, but a model like this has "
                f"{ours!r}; export or convert it again"
            )
    return EncoderConfig.from_dict(config["model"])


def expected_shapes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of an exported config (kind, model and its head) as shapes."""
    kind = config["kind"]
    if kind == "language":
        vocabulary = Vocabulary.from_dict(
            config["vocabulary"], Alphabet.from_dict(config["alphabet"])
        )
        model = LanguageModel(LanguageConfig.from_dict(config["model"]), len(vocabulary))
        tokens = jnp.zeros((1, 8), jnp.int32)
        return jax.eval_shape(lambda: nn.meta.unbox(model.init(jax.random.key(0), tokens)))
    encoder = EncoderConfig.from_dict(config["model"])
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
