import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common, wav2vec2
from tests import small
from w2v_jax.audio.waveform import read
from w2v_jax.data.manifest import Manifest
from w2v_jax.models.config import (
    ConfigError,
    EncoderConfig,
    PredictionConfig,
    QuantizerConfig,
)
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.frontends.waveform import FeatureEncoder
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.models.heads.hubert import Hubert
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2


def count(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("size", "whole", "ctc"),
    [
        ("tiny", 5_048_832, None),
        ("base", 95_044_608, 94_396_320),
        ("large", 317_380_864, None),
        ("large_lv60k", 317_390_592, 315_471_520),
        ("xlsr_300m", 317_390_592, None),
        ("xlsr_1b", 965_514_752, None),
        ("xlsr_2b", 2_162_932_352, None),
        # transformers' Wav2Vec2ConformerForPreTraining without its unused positional convolution
        ("conformer_rel_large", 612_121_216, None),
        ("conformer_rope_large", 586_906_240, None),
    ],
)
def test_parameter_counts(size, whole, ctc):
    config = wav2vec2.get_config(size)
    encoder = EncoderConfig.from_dict(config.model)
    model = Wav2Vec2(encoder, QuantizerConfig.from_dict(config.quantizer))
    audio = jnp.zeros((1, 16000), jnp.int16)
    mask, index = jnp.zeros((1, 49), bool), jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), audio, None, mask, index))
    assert count(shapes["params"]) == whole
    if ctc:
        shapes = jax.eval_shape(lambda: CTCModel(encoder, 32).init(jax.random.key(0), audio))
        assert count(shapes["params"]) == ctc


@pytest.mark.parametrize(
    ("size", "whole", "ctc"),
    [
        ("hubert_base", 94_697_600, 94_396_320),
        ("hubert_large", 316_609_408, None),
        ("hubert_xlarge", 964_321_664, None),
    ],
)
def test_parameter_counts_of_hubert(size, whole, ctc):
    encoder = EncoderConfig(**common.SIZES[size])
    model = Hubert(encoder, PredictionConfig(**common.PREDICTIONS[size]))
    audio = jnp.zeros((1, 16000), jnp.int16)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), audio))
    assert count(shapes["params"]) == whole
    if ctc:
        shapes = jax.eval_shape(lambda: CTCModel(encoder, 32).init(jax.random.key(0), audio))
        assert count(shapes["params"]) == ctc


@pytest.mark.parametrize(("smoothing", "low", "high"), [(0.0, 0.0, 0.25), (0.8, 0.4, 1.0)])
def test_smoothed_kernels_give_frames_like_their_neighbours(manifests, smoothing, low, high):
    manifest = Manifest.read(manifests["dev"])
    audio = jnp.asarray(read(manifest.path(int(manifest.samples.argmax())))[None, :48000])
    config = EncoderConfig(**common.SIZES["quickstart"], conv_smoothing=smoothing)
    encoder = FeatureEncoder(config)
    frames = encoder.apply(encoder.init(jax.random.key(0), audio, None), audio, None)[0]
    frames = (frames - frames.mean(-1, keepdims=True)) / frames.std(-1, keepdims=True)
    frames -= frames.mean(0)
    assert low < (frames[1:] * frames[:-1]).sum() / jnp.square(frames[1:]).sum() < high


@pytest.mark.parametrize(
    ("samples", "frames"),
    [
        (399, 0),
        (400, 1),
        (719, 1),
        (720, 2),
        (16000, 49),
        (240000, 749),
        (250000, 781),
        (480000, 1499),
    ],
)
def test_frames(samples, frames):
    config = EncoderConfig()
    assert config.frames(samples) == frames
    assert int(config.frames(np.array([samples]))[0]) == frames
    assert (config.stride, config.receptive_field) == (320, 400)


def test_every_parameter_has_logical_axes():
    for changes in ({}, dict(block="conformer", positions="relative")):
        model = Encoder(EncoderConfig.from_dict({**small.MODEL, **changes}))
        boxed = jax.eval_shape(
            lambda m=model: m.init(jax.random.key(0), jnp.zeros((1, 4000), jnp.int16))
        )["params"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            boxed, is_leaf=lambda x: hasattr(x, "names")
        ):
            assert hasattr(leaf, "names"), path
            assert len(leaf.names) == leaf.value.ndim, path


def test_initial_values():
    """The drawn values follow the reference's initialisation."""
    import flax.linen as nn

    config = wav2vec2.get_config("tiny")
    model = Wav2Vec2(
        EncoderConfig.from_dict(config.model), QuantizerConfig.from_dict(config.quantizer)
    )
    args = (jnp.zeros((1, 4000), jnp.int16), None, jnp.zeros((1, 12), bool), jnp.zeros((1, 2), int))
    params = nn.meta.unbox(jax.jit(lambda: model.init(jax.random.key(0), *args))())["params"]
    encoder = params["encoder"]
    layer = encoder["context"]["layers"]["block"]
    assert float(layer["attention"]["query"]["kernel"].std()) == pytest.approx(0.02, rel=0.02)
    assert not np.allclose(*layer["attention"]["query"]["kernel"][:2]), "layers are drawn apart"
    kernel = encoder["feature_encoder"]["conv_3"]["kernel"]
    assert float(kernel.std()) == pytest.approx((2 / (3 * 256)) ** 0.5, rel=0.02)
    for values in (encoder["mask_embedding"], params["quantizer"]["codebook"]):
        assert 0 <= float(values.min()) < 0.1
        assert 0.9 < float(values.max()) <= 1
    assert float(params["quantizer"]["logits"]["kernel"].std()) == pytest.approx(1, rel=0.02)
    bound = 256**-0.5
    assert float(params["project_context"]["kernel"].max()) == pytest.approx(bound, rel=0.01)
    positions = encoder["context"]["positions"]
    norm = jnp.sqrt(jnp.square(positions["direction"]).sum((1, 2)))
    np.testing.assert_allclose(positions["magnitude"], norm, rtol=1e-5)


def test_layerdrop_skips_whole_layers():
    config = EncoderConfig.from_dict({**small.MODEL, **small.NO_DROPOUT, "layerdrop": 0.5})
    audio = jnp.array(small.noise_batch(1, 8000)["audio"][0])
    model = Encoder(config, train=True)
    variables = model.init({"params": jax.random.key(0), "layerdrop": jax.random.key(1)}, audio)
    run = jax.jit(
        lambda key: (
            model.apply(variables, audio, collect=True, rngs={"layerdrop": key}).hidden_states
        )
    )
    same = []
    for i in range(12):
        states = run(jax.random.key(i))
        same += [bool((states[j] == states[j + 1]).all()) for j in range(config.num_layers)]
    assert 3 < sum(same) < 21, "half of the layers should be the identity"


def test_misspelt_and_impossible_values_are_named():
    with pytest.raises(ConfigError, match="widht"):
        EncoderConfig.from_dict({"widht": 3})
    with pytest.raises(ConfigError, match=r"model\.block"):
        EncoderConfig(block="lstm")
    with pytest.raises(ConfigError, match=r"model\.attention_dropout is 1\.0"):
        EncoderConfig(attention_dropout=1.0)
    with pytest.raises(ConfigError, match="num_heads"):
        EncoderConfig(width=100)
    with pytest.raises(ConfigError, match="conformer"):
        EncoderConfig(positions="rotary")


def test_config_survives_json():
    import json

    config = EncoderConfig(**small.MODEL)
    again = EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert dataclasses.replace(config, dropout=0.3).architecture() == config.architecture()
