"""The kinds of exported models: how a module is built from what a description says of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.keys.check import shown
from w2v_jax.models.config import (
    EncoderConfig,
    PredictionConfig,
    RandomQuantizerConfig,
    quantizer_of,
)
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.best_rq import BestRQModel
from w2v_jax.models.heads.c_siam import CSiamModel
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.models.heads.data2vec import Data2VecModel
from w2v_jax.models.heads.discrete_bert import DiscreteBERT
from w2v_jax.models.heads.hubert import Hubert
from w2v_jax.models.heads.predictor import predictor_of
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2Model
from w2v_jax.models.language import LanguageConfig, LanguageModel

Description = Mapping[str, Any]  # kind, model, and what else a kind needs


class Kind(NamedTuple):
    """A kind of model. build(description) -> (module, arguments of its init)."""

    build: Callable[[Description], tuple[nn.Module, tuple]]
    above: str = ""  # where its variables stand in those of a model with a head
    states: Mapping[str, Any] = {}  # what an export says of it besides


def encoder_config(description: Description) -> EncoderConfig:
    """The encoder of a description."""
    return EncoderConfig.from_dict(description["model"], description.get("execution"))


def _audio(encoder: EncoderConfig) -> jax.Array:
    return jnp.zeros((1, 2 * encoder.frontend.receptive_field), jnp.int16)


def _wav2vec2(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    audio = _audio(encoder)
    mask = jnp.zeros((1, encoder.frontend.frames(audio.shape[1])), bool)
    quantizer = quantizer_of(description["quantizer"])
    return Wav2Vec2Model(encoder, quantizer), (audio, None, mask, jnp.zeros((1, 1), jnp.int32))


def _hubert(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    prediction = PredictionConfig.from_dict(description["prediction"])
    return Hubert(encoder, prediction), (_audio(encoder),)


def _best_rq(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    quantizer = RandomQuantizerConfig.from_dict(description["random_quantizer"])
    return BestRQModel(encoder, quantizer), (_audio(encoder),)


def _discrete_bert(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    return DiscreteBERT(encoder), (_audio(encoder),)


def _c_siam(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    predictor = predictor_of(description["predictor"])
    letters = len(description["alphabet"]["symbols"]) if "alphabet" in description else 0
    return CSiamModel(encoder, predictor, letters), (_audio(encoder),)


def _data2vec(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    return Data2VecModel(encoder), (_audio(encoder),)


def _ctc(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    return CTCModel(encoder, len(description["alphabet"]["symbols"])), (_audio(encoder),)


def _encoder(description: Description) -> tuple[nn.Module, tuple]:
    encoder = encoder_config(description)
    return Encoder(encoder), (_audio(encoder),)


def _language(description: Description) -> tuple[nn.Module, tuple]:
    config = LanguageConfig.from_dict(description["model"], description.get("execution"))
    return LanguageModel(config, description["tokens"]), (jnp.zeros((1, 8), jnp.int32),)


MODELS = {
    "wav2vec2": Kind(_wav2vec2),
    "hubert": Kind(_hubert),
    "best_rq": Kind(_best_rq),
    "discrete_bert": Kind(_discrete_bert),
    "c_siam": Kind(_c_siam),
    "data2vec": Kind(_data2vec),
    "ctc": Kind(_ctc, states={"blank": 0}),
    "encoder": Kind(_encoder, above="encoder"),
    "language": Kind(_language),
}


def kind_of(description: Description) -> Kind:
    """Raises UserError for a description of no model that is known here."""
    name = description.get("kind")
    if not isinstance(name, str) or name not in MODELS or "model" not in description:
        raise UserError(
            f"a model of the kind {shown(name)} is none of {', '.join(MODELS)}, or nothing says "
            "how it is built; export or convert it again"
        )
    return MODELS[name]


def rates(description: Description) -> dict[str, Any]:
    """What an export states besides: samples and frames of the output per second where the model
    hears audio, the id of the blank where it writes letters."""
    states = dict(kind_of(description).states)
    if "frontend" not in description["model"]:
        return states
    frame_rate = SAMPLE_RATE / encoder_config(description).context_stride
    return {"sample_rate": SAMPLE_RATE, "frame_rate": frame_rate, **states}


def expected_shapes(description: Description) -> dict[str, Any]:
    """The variables of a description as shapes."""
    kind = kind_of(description)
    model, arguments = kind.build(description)
    shapes = jax.eval_shape(lambda: nn.meta.unbox(model.init(jax.random.key(0), *arguments)))
    if kind.above:
        shapes = {collection: {kind.above: tree} for collection, tree in shapes.items()}
    return shapes
