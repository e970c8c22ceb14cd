"""The log-mel front end: as references compute it, of each row by itself, and trainable."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from tests.audio.test_mel_spectra import WHISPER_128, chirp, window_of_30_seconds
from w2v_jax.audio import logmel as twin
from w2v_jax.audio.logmel import PRESETS, SEAMLESS, WHISPER, MelPreset
from w2v_jax.audio.waveform import read
from w2v_jax.configs import common, finetune
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError
from w2v_jax.measuring.flops import encoder_flops, training_flops
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder, tap_names
from w2v_jax.models.frontends.logmel import LogMelConfig, log_mel
from w2v_jax.models.settings import ConfigError, Execution
from w2v_jax.tasks import make_task
from w2v_jax.training.task import Context

SMALL = {"channels": 8, "projection": 24}
STACKED = {"preset": "seamless", "subsampling": "stack"}


def name(value) -> str | None:
    """Of a preset, for the name of a test."""
    return f"{value.name} {value.mels}" if isinstance(value, MelPreset) else None


def encoder(**frontend) -> EncoderConfig:
    """A small one; keys of its front end."""
    model = {"width": 32, "num_layers": 1, "num_heads": 4, "feed_forward": 64}
    positions = {"kind": "conv", "kernel": 16, "groups": 4}
    logmel = {"kind": "logmel"} | SMALL | frontend
    return EncoderConfig.from_dict(model | {"positions": positions, "frontend": logmel})


def built(config: LogMelConfig, execution=None, samples=16_000):
    """(its module, variables)."""
    module = config.module(execution or Execution(), False)
    audio = jnp.zeros((1, samples), jnp.int16)
    return module, nn.meta.unbox(jax.jit(module.init)(jax.random.key(0), audio, None))


def speech(manifests, row=0):
    manifest = Manifest.read(manifests["dev"])
    return read(manifest.path(row), int(manifest.starts[row]), int(manifest.samples[row]))


@pytest.mark.parametrize("preset", [*PRESETS.values(), WHISPER_128], ids=name)
def test_devices_and_numpy_agree(preset, manifests):
    """On speech, which has no bins that rounding alone fills."""
    audio = speech(manifests)[:40_000]
    found = jax.jit(lambda x: log_mel(x, preset))(jnp.asarray(audio)[None])[0]
    np.testing.assert_allclose(found, twin.log_mel(audio, preset), atol=2e-4)


def test_seamless_normalised_and_stacked():
    """transformers' SeamlessM4TFeatureExtractor."""
    config = LogMelConfig(**STACKED)
    x = jax.jit(built(config)[0].apply)({}, jnp.asarray(chirp())[None], None)[0]
    assert x.shape == (49, 160)
    for row, first, values in (
        (0, 0, [2.1636, 2.7464, 3.1610, 3.4197, 3.4337]),
        (0, 80, [0.4579, 2.4439, 2.4327, 2.5816, 3.0889]),
        (24, 0, [-0.1123, -0.5406, -0.2139, -0.2815, -0.1586]),
    ):
        np.testing.assert_allclose(x[row, first : first + 5], values, atol=1e-3)
    np.testing.assert_allclose(jnp.abs(x).sum(), 5597.42, rtol=1e-4)


def test_of_an_odd_number_of_frames_the_last_is_left_out(manifests):
    """Where transformers pads it to a pair and masks the pair: 48 count, and are the same."""
    config = LogMelConfig(**STACKED)
    audio = speech(manifests)[:15_900]
    assert config.mel_frames(15_900) == 97
    assert config.frames(15_900) == 48
    x = built(config)[0].apply({}, audio[None], None)
    assert x.shape == (1, 48, 160)
    mel = twin.log_mel(audio, SEAMLESS)
    expected = (mel - mel.mean(0)) / np.sqrt(mel.var(0, ddof=1) + 1e-7)  # over all 97
    np.testing.assert_allclose(x[0], expected[:96].reshape(48, 160), atol=1e-3)


@pytest.mark.parametrize(
    ("preset", "total"), [(WHISPER, -156_354.4), (WHISPER_128, -231_685.4)], ids=name
)
def test_whisper_of_its_window(preset, total):
    """Whether a batch says that the whole window counts, or its rows are as long as that."""
    audio = jnp.asarray(window_of_30_seconds())[None]
    compute = jax.jit(lambda x, n: log_mel(x, preset, n))
    longer = jnp.pad(audio, ((0, 0), (0, 3000)), constant_values=0.5)
    for x, length in ((audio, None), (audio, [480_000]), (longer, [480_000])):
        found = compute(x, None if length is None else jnp.array(length))[:, :3000]
        np.testing.assert_allclose(found.sum(dtype=jnp.float32), total, rtol=2e-6)
        np.testing.assert_allclose(found.max() - found.min(), 2.0, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("normalization", ["none", "utterance"])
def test_a_row_is_its_own(preset, normalization):
    """Its length, what stands behind its end and its neighbours change no bin of it."""
    config = LogMelConfig(preset=preset, normalization=normalization)
    compute = jax.jit(config.spectrum)
    rng = np.random.default_rng(0)
    audio = (rng.normal(size=(3, 9000)) * [[100], [3000], [9000]]).astype(np.int16)
    length = jnp.array([9000, 4321, 5000])
    mel, frames = compute(audio, length)
    for row, n in enumerate(length.tolist()):
        alone, (count,) = compute(audio[row : row + 1, :n], None)
        assert int(frames[row]) == int(count) == alone.shape[1] == config.mel_frames(n)
        np.testing.assert_allclose(mel[row, : int(count)], alone[0], atol=3e-5)
        assert not mel[row, int(count) :].any()


@pytest.mark.parametrize("samples", [8000, 8160, 8320, 8480])  # 48 to 51 frames: 12 to 13 of 40 ms
@pytest.mark.parametrize("execution", [{}, {"remat_features": True}], ids=str)
def test_padding_ends_before_the_convolutions(samples, execution):
    module, variables = built(LogMelConfig(**SMALL), Execution(**execution))
    # a bias makes padding that is not set to zero again visible
    variables = jax.tree.map(lambda x: x + 0.1, variables)
    apply = jax.jit(module.apply)
    rng = np.random.default_rng(0)
    audio = (rng.normal(size=(1, samples)) * 3000).astype(np.int16)
    alone = apply(variables, audio, None)
    assert alone.shape[1] == module.config.frames(samples)
    for more in (0, 80, 160, 320, 480, 1000):
        padded = np.pad(audio, ((0, 1), (0, more)), constant_values=999)
        found = apply(variables, padded, jnp.array([samples, samples + more]))
        atol = 2e-6 * float(jnp.abs(alone).max())
        np.testing.assert_allclose(found[0, : alone.shape[1]], alone[0], atol=atol)


def test_an_output_frame_sees_seven_frames():
    """7 of 10 ms around every fourth one, 2t - 1 to 2t + 1 of each convolution."""
    module, variables = built(LogMelConfig(normalization="none", **SMALL))
    audio = small.noise_batch(1, 16_000)["audio"][0]

    def energy(edit):
        return jnp.abs(module.apply(variables, audio, None, edit)[0, 5]).sum()

    edited = jax.grad(lambda d: energy(lambda mel, frames: mel + d))(jnp.zeros((1, 98, 80)))
    seen = np.flatnonzero(np.abs(edited[0]).sum(1))
    assert set(seen) <= set(range(17, 24))
    assert {17, 23} <= set(seen)


def test_parameters_of_the_subsampling():
    """9d + d + 9d^2 + d + 20d^2 + d of Conformer S (arXiv 2005.08100), d = 144."""
    _, variables = built(LogMelConfig(channels=144, projection=144))
    d = 144
    assert sum(x.size for x in jax.tree.leaves(variables)) == 29 * d * d + 12 * d
    shapes = jax.tree.map(jnp.shape, variables["params"]["subsampling"])
    assert shapes["projection"]["kernel"] == (20 * d, d)
    _, wide = built(LogMelConfig(mels=128, channels=4, projection=6))
    assert wide["params"]["subsampling"]["projection"]["kernel"].shape == (32 * 4, 6)


@pytest.mark.parametrize("more", [{}, STACKED, {"preset": "whisper"}], ids=str)
def test_the_protocol(more):
    config = LogMelConfig(**more)
    shortest = config.receptive_field
    assert config.frames(shortest - 1) == 0
    assert config.frames(shortest) == 1
    assert config.frames(shortest + config.stride) == 2
    samples = np.arange(0, 6000, 7)
    assert config.frames(samples).tolist() == [config.frames(int(n)) for n in samples]
    found = jax.jit(lambda n: config.valid_frames(n, 4000, config.frames(4000)))(samples)
    assert found.tolist() == np.minimum(config.frames(samples), config.frames(4000)).tolist()
    assert config.alone() == config
    assert hash(config) == hash(LogMelConfig(**more))


def test_gradients_are_finite():
    """Of parameters, and of the audio where it is silent, too."""
    for name in PRESETS:
        module, variables = built(LogMelConfig(preset=name, **SMALL), samples=8000)

        def loss(params, audio, module=module):
            out = module.apply({"params": params}, audio, jnp.array([8000, 3000]))
            return jnp.square(out).sum()

        noise = 0.1 * jax.random.normal(jax.random.key(1), (8000,))
        audio = jnp.stack([noise, jnp.zeros(8000)])
        grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], audio)
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(grads))
        assert float(jnp.abs(grads[1][0]).max()) > 0
        assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(grads[0]))


def test_bfloat16_keeps_the_spectrum():
    config = LogMelConfig(**SMALL)
    seen = []
    module, variables = built(config, Execution(dtype="bfloat16"))
    audio = jnp.asarray(chirp())[None]
    out = module.apply(variables, audio, None, lambda mel, frames: seen.append(mel) or mel)
    assert out.dtype == jnp.bfloat16
    assert seen[0].dtype == jnp.float32
    np.testing.assert_array_equal(seen[0], config.spectrum(audio)[0])
    exact = built(config)[0].apply(variables, audio, None)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05)


def test_edits_and_the_unedited_spectrum():
    """An edit sees the normalised spectrum and its frames; the tap is what it saw."""
    config = encoder()
    model = Encoder(config)
    audio = small.noise_batch(2, 16_000)["audio"][0]
    length = jnp.array([16_000, 9000])
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), audio))

    @jax.jit
    def apply(scale):
        edit = lambda mel, frames: mel * scale * (frames > 60)[:, None, None]  # noqa: E731
        return model.apply(variables, audio, length, edit=edit, taps=("spectrum", "raw_features"))

    plain = model.apply(variables, audio, length, taps=("spectrum", "raw_features"))
    spectrum, frames = config.frontend.spectrum(audio, length)
    assert frames.tolist() == [98, 54]
    for out in (plain, apply(2.0), apply(0.0)):
        np.testing.assert_allclose(out.taps["spectrum"], spectrum, atol=1e-5)
    np.testing.assert_allclose(apply(1.0).taps["raw_features"][0], plain.taps["raw_features"][0],
                               atol=1e-5)  # fmt: skip
    assert float(jnp.abs(apply(1.0).taps["raw_features"][1] - plain.taps["raw_features"][1]).max())
    assert "spectrum" in tap_names(config)
    assert "spectrum" not in tap_names(small.encoder())


def test_the_waveform_has_no_spectrum_to_edit():
    model = Encoder(small.encoder())
    with pytest.raises(ConfigError, match="kind=waveform has no spectrum to edit"):
        model.init(jax.random.key(0), jnp.zeros((1, 4000)), edit=lambda mel, frames: mel)


def test_operations():
    """XLA also counts windows, logarithms, norms and activations, and leaves out products with the
    zeros around a convolution's input."""
    config = EncoderConfig.from_dict(
        {"num_layers": 1, "frontend": {"kind": "logmel", "projection": 768}},
        {"layers": "unroll", "attention": "whole", "positional_conv": "conv"},
    )
    module, _ = built(config.frontend)
    audio = jax.ShapeDtypeStruct((1, 240_000), jnp.int16)
    shapes = jax.eval_shape(lambda x: nn.meta.unbox(module.init(jax.random.key(0), x)), audio)
    lowered = jax.jit(lambda p, x: module.apply(p, x)).lower(shapes, audio)
    parts = config.frontend.flops(240_000)
    assert 0.99 < lowered.cost_analysis()["flops"] / sum(parts.values()) < 1.02
    forward = encoder_flops(config, 240_000)
    assert "feature projection" not in forward  # its frames are as wide as the model
    rest = sum(forward.values()) - sum(parts.values())
    learnt = sum(parts.values()) - parts["spectrum"]
    expected = 3 * rest + parts["spectrum"] + 3 * learnt - parts["first convolution"]
    np.testing.assert_allclose(training_flops(config, forward, 240_000), expected)
    stacked = LogMelConfig(**STACKED)
    assert stacked.backward_flops(240_000) == 0
    assert set(stacked.flops(240_000)) == {"spectrum"}


def test_audio_without_a_frame():
    model = Encoder(encoder())
    with pytest.raises(UserError, match=r"of 400 samples is shorter than a frame.*401 samples"):
        model.init(jax.random.key(0), jnp.zeros((1, 400), jnp.int16))


def test_what_is_refused():
    numbers = (0.0,) * 80
    for keys, words in (
        (dict(mean=numbers), "mean has 80 values, but normalization is utterance"),
        (dict(mean=(0.0,), normalization="global"), "mean has 1 values, but .* mels 80"),
        (dict(mean=numbers, normalization="global"), "of model.frontend.mean and std one is empty"),
        (dict(preset="librosa"), "preset is 'librosa'; it must be one of google, kaldi"),
    ):
        with pytest.raises(ConfigError, match=words):
            LogMelConfig(**keys)
    with pytest.raises(ConfigError, match=r"=global needs mean .*w2v_jax.mel_statistics wrote"):
        LogMelConfig(normalization="global").spectrum(jnp.zeros((1, 4000)))


def test_choosing_it_in_an_argument():
    """With its own keys; those of the waveform are refused beside them."""
    config = finetune.get_config("split=10h,size=base,frontend=logmel")
    frontend = make_task(config).encoder.frontend
    assert (frontend.channels, frontend.projection) == (768, 768)
    assert config.time_masking.prob == config.channel_masking.prob == 0
    assert config.spec_augment.frequency_masks == 2
    with config.model.frontend.unlocked():
        config.model.frontend.grad_mult = 1.0
    of = r"which belongs to model\.frontend\.kind="
    with pytest.raises(UserError, match=rf"grad_mult, {of}waveform; here that is logmel"):
        make_task(config)
    plain = finetune.get_config("split=10h,size=tiny")
    assert "spec_augment" not in plain
    with plain.unlocked():
        plain.spec_augment = config.spec_augment
    with pytest.raises(UserError, match=rf"spec_augment.*{of}logmel; here that is waveform"):
        make_task(plain)


def test_remedies_do_not_name_keys_of_the_waveform():
    for make in (common.finetuning, common.pretraining):
        for kind, named in (("logmel", False), ("waveform", True)):
            alarms = make_task(make("tiny", {"frontend": kind})).alarms
            assert any("model.frontend" in alarm.words for alarm in alarms) == named


def test_ctc_hears_less_of_what_is_augmented():
    """Its masks are keyed by utterance, and none are drawn where there are none."""
    config = common.finetuning("tiny", {"frontend": "logmel"})
    small.shrunk(config, {"frontend": {"kind": "logmel"} | SMALL} | small.NO_DROPOUT)
    config.freeze_steps = 0
    batch = {k: v[0] for k, v in small.labelled_batch(2, 16_000).items()}

    def loss(batch, **masks):
        config.spec_augment.update(masks)
        task = make_task(config)
        variables = nn.meta.unbox(task.init())
        key = jax.random.key(3)
        return float(task.loss(variables, batch, Context(jnp.int32(0), key, key))[0])

    augmented = loss(batch)
    assert loss({k: v[::-1] for k, v in batch.items()}) == pytest.approx(augmented, rel=1e-5)
    plain = loss(batch, frequency_masks=0, time_masks=0)
    assert abs(plain - augmented) > 1e-3
