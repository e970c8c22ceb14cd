"""The fixed point of the house: names and shapes of all variables of every published size.

tests/golden/parameters.json was written by the code as it was before its rooms were built, of later
sizes by the code that brought them; a model with the tree of another has that one's name there.
"""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests.reference import GOLDEN
from w2v_jax.configs import best_rq, common, data2vec, discrete_bert, lm
from w2v_jax.models.config import EncoderConfig, PredictionConfig
from w2v_jax.models.heads.hubert import Hubert
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.tasks import make_task

TREES = json.loads((GOLDEN / "parameters.json").read_text())


def hubert(size):
    model = Hubert(
        EncoderConfig.from_dict(common.model(size)), PredictionConfig(**common.PREDICTIONS[size])
    )
    return lambda: model.init(jax.random.key(0), jnp.zeros((1, 16_000), jnp.int16))


def language(size):
    config = lm.get_config(size)
    model = LanguageModel(LanguageConfig.from_dict(config.model, config.execution), 1000)
    return lambda: model.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))


INIT = {
    "wav2vec2": lambda size: make_task(common.pretraining(size)).init,
    "ctc": lambda size: make_task(common.finetuning(size)).init,
    "best_rq": lambda size: make_task(best_rq.get_config(size)).init,
    "discrete_bert": lambda size: make_task(discrete_bert.get_config(size)).init,
    "data2vec": lambda size: make_task(data2vec.get_config(size)).init,
    "hubert": hubert,
    "language": language,
}


@pytest.mark.parametrize("name", TREES["models"])
def test_names_and_shapes(name):
    kind, _, size = name.partition("/")
    expected = TREES["models"][name]
    while isinstance(expected, str):
        expected = TREES["models"][expected]
    found = jax.tree.leaves_with_path(nn.meta.unbox(jax.eval_shape(INIT[kind](size))))
    shapes = {jax.tree_util.keystr(p, simple=True, separator="/"): list(x.shape) for p, x in found}
    assert shapes == expected
    assert {str(x.dtype) for _, x in found} == {TREES["dtype"]}


def test_every_size_is_there():
    sizes = {f"wav2vec2/{size}" for size in common.QUANTIZERS}
    sizes |= {f"ctc/{size}" for size in common.SIZES} | {f"language/{size}" for size in lm.SIZES}
    sizes |= {f"best_rq/{size}" for size in best_rq.SIZES}
    sizes |= {f"discrete_bert/{size}" for size in discrete_bert.SIZES}
    sizes |= {f"data2vec/{size}" for size in (*data2vec.SMALL, *data2vec.PUBLISHED)}
    assert sizes | {f"hubert/{size}" for size in common.PREDICTIONS} == set(TREES["models"])
