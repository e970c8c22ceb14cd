import dataclasses
import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.promises.contract import mesh_of
from tests.reference import hidden_states
from w2v_jax.audio.waveform import read
from w2v_jax.configs import common, wav2vec2
from w2v_jax.data.manifest import Manifest
from w2v_jax.models.config import (
    EncoderConfig,
    PredictionConfig,
    QuantizerConfig,
)
from w2v_jax.models.encoder import Encoder, tap_names
from w2v_jax.models.frontends import FRONTENDS
from w2v_jax.models.frontends.waveform import FeatureEncoder, WaveformConfig
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.models.heads.hubert import Hubert
from w2v_jax.models.heads.wav2vec2 import Wav2Vec2Model
from w2v_jax.models.settings import ConfigError, Execution


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
    model = Wav2Vec2Model(encoder, QuantizerConfig.from_dict(config.quantizer))
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
    encoder = EncoderConfig.from_dict(common.model(size))
    model = Hubert(encoder, PredictionConfig(**common.PREDICTIONS[size]))
    audio = jnp.zeros((1, 16000), jnp.int16)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), audio))
    assert count(shapes["params"]) == whole
    if ctc:
        shapes = jax.eval_shape(lambda: CTCModel(encoder, 32).init(jax.random.key(0), audio))
        assert count(shapes["params"]) == ctc


@pytest.mark.parametrize(
    ("size", "kinds"),
    [("large_lv60k", {"frontend": "waveform"}), ("conformer_rel_large", {"block": "conformer"})],
)
def test_naming_the_kind_that_a_size_has_changes_nothing(size, kinds):
    assert common.model(size, kinds) == common.model(size)
    assert common.model("tiny", kinds) != common.model(size)


@pytest.mark.parametrize(("smoothing", "low", "high"), [(0.0, 0.0, 0.25), (0.8, 0.4, 1.0)])
def test_smoothed_kernels_give_frames_like_their_neighbours(manifests, smoothing, low, high):
    manifest = Manifest.read(manifests["dev"])
    audio = jnp.asarray(read(manifest.path(int(manifest.samples.argmax())))[None, :48000])
    frontend = common.model("quickstart").frontend
    frontend.smoothing = smoothing
    config = WaveformConfig.from_dict(frontend)
    encoder = FeatureEncoder(config, Execution())
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
    config = WaveformConfig()
    assert config.frames(samples) == frames
    assert int(config.frames(np.array([samples]))[0]) == frames
    assert (config.stride, config.receptive_field) == (320, 400)


def test_every_parameter_has_logical_axes():
    shaw = dict(block=dict(kind="conformer", bias=True), positions="shaw")
    for changes in ({}, dict(block="conformer", positions="relative"), shaw):
        model = Encoder(small.encoder(**changes))
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
    config = wav2vec2.get_config("tiny")
    model = Wav2Vec2Model(
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
    config = small.encoder(**{**small.NO_DROPOUT, "layerdrop": 0.5})
    audio = jnp.array(small.noise_batch(1, 8000)["audio"][0])
    model = Encoder(config, train=True)
    variables = model.init({"params": jax.random.key(0), "layerdrop": jax.random.key(1)}, audio)
    run = jax.jit(
        lambda key: (
            model.apply(variables, audio, taps=hidden_states(config), rngs={"layerdrop": key}).taps
        )
    )
    same = []
    for i in range(12):
        states = run(jax.random.key(i))
        states = [states[name] for name in hidden_states(config)]
        same += [bool((a == b).all()) for a, b in itertools.pairwise(states)]
    assert 3 < sum(same) < 21, "half of the layers should be the identity"


def test_misspelt_and_impossible_values_are_named():
    with pytest.raises(ConfigError, match="widht"):
        EncoderConfig.from_dict({"widht": 3})
    with pytest.raises(ConfigError, match=r"model\.block\.kind is 'lstm'; .* transformer, conf"):
        EncoderConfig.from_dict({"block": "lstm"})
    with pytest.raises(ConfigError, match=r"no key model\.positions\.kernel; .* relative: none"):
        EncoderConfig.from_dict({"positions": {"kind": "relative", "kernel": 3}})
    with pytest.raises(ConfigError, match=r"model\.block\.order is 'both'; .* parallel"):
        EncoderConfig.from_dict({"block": {"kind": "conformer", "order": "both"}})
    with pytest.raises(ConfigError, match=r"norm_order=none needs model\.block\.kind=conformer"):
        EncoderConfig(norm_order="none")
    with pytest.raises(ConfigError, match=r"execution\.attention is 'flash'; .* whole, fused"):
        EncoderConfig.from_dict({}, {"attention": "flash"})
    with pytest.raises(ConfigError, match=r"no key execution\.dtyp"):
        EncoderConfig.from_dict({}, {"dtyp": "float32"})
    with pytest.raises(ConfigError, match=r"model\.attention_dropout is 1\.0"):
        EncoderConfig(attention_dropout=1.0)
    with pytest.raises(ConfigError, match="num_heads"):
        EncoderConfig(width=100)
    with pytest.raises(ConfigError, match="conformer"):
        EncoderConfig.from_dict({"positions": "rotary"})


def test_config_survives_json():
    config = small.encoder(block="conformer", positions="relative", output="strided")
    again = EncoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert dataclasses.replace(config, dropout=0.3).architecture() == config.architecture()


AUDIO = small.noise_batch(2, 8000)["audio"][0]


@pytest.fixture(scope="module", params=["transformer", "conformer", "one by one"])
def tapped(request):
    """(config, variables, everything that can be tapped) of an encoder of 6 blocks."""
    changes = {"num_layers": 6, "positions": "none"}
    if request.param != "transformer":
        changes |= {"norm_order": "pre"}
    if request.param == "conformer":
        changes |= {"block": "conformer"}
    config = small.encoder(**changes, layers="unroll" if request.param == "one by one" else "scan")
    variables = nn.meta.unbox(Encoder(config).init(jax.random.key(0), AUDIO))
    return config, variables, taps_of(config, variables, tap_names(config))


def taps_of(config, variables, names):
    run = jax.jit(lambda v, x: Encoder(config).apply(v, x, taps=tuple(names)))
    return jax.device_get(run(variables, AUDIO))


def test_taps_are_what_they_say(tapped):
    """Few are held and many are stacked: the same numbers."""
    config, variables, whole = tapped
    assert list(whole.taps) != []
    assert set(whole.taps) == set(tap_names(config))
    few = taps_of(config, variables, ["hidden_0", "hidden_3", "feed_forward_6", "raw_features"])
    assert set(few.taps) == {"hidden_0", "hidden_3", "feed_forward_6", "raw_features"}
    for name, x in few.taps.items():
        np.testing.assert_allclose(x, whole.taps[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(taps_of(config, variables, []).context, whole.context, atol=1e-5)
    last = f"conv_{len(config.frontend.conv_layers)}"
    np.testing.assert_array_equal(whole.taps[last], whole.taps["raw_features"])
    pre = config.norm_order == "pre"
    if pre:  # nothing stands between them here, neither positions nor norm
        np.testing.assert_array_equal(whole.taps["projected"], whole.taps["hidden_0"])
    assert len({x.tobytes() for x in whole.taps.values()}) == len(whole.taps) - 1 - pre
    if not pre:
        np.testing.assert_array_equal(whole.context, whole.taps["hidden_6"])
    np.testing.assert_allclose(whole.features, whole.taps["features"], atol=1e-6)


@pytest.mark.parametrize("tapped", ["one by one"], indirect=True)
def test_the_feed_forward_that_is_tapped(tapped):
    """Computed again from the hidden state after it, to which a pre-norm block has added it."""
    _, variables, whole = tapped
    block = jax.tree.map(lambda x: x[1], variables["params"]["context"]["layers"]["block"])
    x = whole.taps["hidden_2"] - whole.taps["feed_forward_2"]  # after the attention
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = y @ block["feed_forward"]["inner"]["kernel"]
    y = jax.nn.gelu(y, approximate=False) @ block["feed_forward"]["outer"]["kernel"]
    np.testing.assert_allclose(y, whole.taps["feed_forward_2"], atol=2e-5)


def test_a_tap_holds_what_it_needs_alone():
    config = small.encoder(num_layers=12, width=64, positions="none")
    init = lambda: nn.meta.unbox(Encoder(config).init(jax.random.key(0), AUDIO))  # noqa: E731
    variables = jax.eval_shape(init)
    audio = jax.ShapeDtypeStruct((4, 64_000), jnp.int16)

    def held(*taps):
        run = jax.jit(lambda v, x: Encoder(config).apply(v, x, taps=taps).taps)
        found = run.lower(variables, audio).compile().memory_analysis()
        return found.temp_size_in_bytes + found.output_size_in_bytes

    one = 4 * 199 * 64 * 4  # [B, T, D] in float32
    assert held(*hidden_states(config)) > held("hidden_6") + 10 * one


def test_an_unknown_tap_is_named():
    config = small.encoder()
    with pytest.raises(ConfigError, match="no hidden_9; it has raw_features, features, projected"):
        Encoder(config).init(jax.random.key(0), AUDIO, taps=("hidden_9",))


def test_forms_follow_the_platform_that_a_program_is_for():
    """Compiled for a TPU on a machine with CPUs alone, without being told."""
    config = small.encoder(block="conformer", positions="conv")
    init = lambda: nn.meta.unbox(Encoder(config).init(jax.random.key(0), AUDIO))  # noqa: E731
    variables = jax.eval_shape(init)

    def program(mesh):
        run = jax.jit(lambda v, x: Encoder(config).apply(v, x).context)
        with jax.sharding.use_abstract_mesh(mesh):
            return str(run.trace(variables, AUDIO).jaxpr)

    here = mesh_of(1, 1, 1).abstract_mesh
    device = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
    there = jax.sharding.AbstractMesh(
        here.axis_sizes, here.axis_names, here.axis_types, abstract_device=device
    )
    cpu, tpu = program(here), program(there)
    assert "fft" in cpu
    assert "fft" not in tpu
    assert "feature_group_count=32" in tpu  # the depthwise convolution is XLA's
    assert "feature_group_count=32" not in cpu
    assert cpu.count("scan") > tpu.count("scan")  # no loop over the heads


@pytest.mark.parametrize("kind", FRONTENDS)
def test_a_front_end_knows_its_arithmetic(kind):
    """What it says of frames is what its module gives; one sample less gives one frame less."""
    frontend = FRONTENDS[kind]()
    module = frontend.module(Execution(), False)

    def frames(samples):
        audio = jax.ShapeDtypeStruct((2, samples), jnp.int16)
        made = lambda x: module.init_with_output(jax.random.key(0), x, None)[0]  # noqa: E731
        found = jax.eval_shape(made, audio)
        assert found.shape[2] == frontend.width
        return found.shape[1]

    field, stride = frontend.receptive_field, frontend.stride
    assert frontend.frames(field - 1) == 0
    for samples in (field, field + stride - 1, field + stride, 16_000, 16_001):
        assert frames(samples) == frontend.frames(samples)
    assert [frontend.frames(field + i) for i in (0, stride - 1, stride)] == [1, 1, 2]
    assert all(x > 0 for x in frontend.flops(16_000).values())
