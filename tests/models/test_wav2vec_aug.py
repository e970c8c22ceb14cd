"""The switches of configs/wav2vec_conformer.py and configs/wav2vec_aug.py: what each changes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small
from w2v_jax.configs import wav2vec2, wav2vec_aug, wav2vec_conformer
from w2v_jax.errors import UserError
from w2v_jax.models.frontends.waveform import LightweightConv
from w2v_jax.tasks import make_task
from w2v_jax.training.task import Context

CONTEXT = Context(jnp.int32(0), jax.random.key(1), jax.random.key(2))


def shapes(config):
    params = nn.meta.unbox(jax.eval_shape(make_task(config).init))["params"]
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return {name(path): x.shape for path, x in jax.tree.leaves_with_path(params)}


def changed(key, value):
    """What a switch of the tiny wav2vec 2.0 changes: (names that go, {name: shape} that come)."""
    config = wav2vec2.get_config("tiny")
    before = shapes(config)
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[leaf] = value
    after = shapes(config)
    gone = {name for name in before if after.get(name) != before[name]}
    return gone, {name: x for name, x in after.items() if before.get(name) != x}


def test_each_switch_changes_the_parameters_that_it_names():
    """Of 256 features and channels: 768 = 3 * 256 inside the quantizer."""
    gone, new = changed("quantizer.depth", 3)
    assert gone == {"quantizer/logits/kernel"}
    assert new == {
        "quantizer/hidden_0/kernel": (256, 768), "quantizer/hidden_0/bias": (768,),
        "quantizer/hidden_1/kernel": (768, 768), "quantizer/hidden_1/bias": (768,),
        "quantizer/logits/kernel": (768, 640),
    }  # fmt: skip
    gone, new = changed("quantizer.projection_depth", 2)
    heads = ("project_context", "project_targets")
    assert gone == {f"{head}/{x}" for head in heads for x in ("kernel", "bias")}
    assert new == {
        f"{head}/{name}": shape
        for head in heads
        for name, shape in {
            "hidden_0/kernel": (256, 256), "hidden_0/bias": (256,), "out/kernel": (256, 128),
            "out/bias": (128,),
        }.items()
    }  # fmt: skip
    gone, new = changed("model.frontend.lightweight", 2)
    convolutions = [f"encoder/feature_encoder/conv_{i}" for i in (5, 6)]
    assert gone == {f"{x}/kernel" for x in convolutions}
    assert new == {f"{x}/kernel": (2, 16) for x in convolutions} | {
        f"{x}/pointwise/kernel": (256, 256) for x in convolutions
    }
    assert changed("data.augment.pitch_prob", 0.5) == (set(), {})
    config = wav2vec_aug.get_config("tiny")
    augmented = shapes(config)
    config.loss.targets = "clean"
    assert shapes(config) == augmented


def test_with_all_switches_off_it_is_wav2vec2():
    """The same config: so are parameters, loss and gradients, to the bit."""
    config = wav2vec_aug.get_config("tiny,block=transformer")
    config.data.augment.update(pitch_prob=0.0, band_prob=0.0, drop_prob=0.0)
    config.quantizer.update(depth=1, projection_depth=1)
    config.model.frontend.lightweight = 0
    assert config.to_dict() == wav2vec2.get_config("tiny").to_dict()


@pytest.mark.parametrize(
    ("size", "encoder"),
    [("tiny", 2_087_136), ("l", 115_120_640), ("xl", 610_096_128), ("xxl", 1_044_851_712)],
)
def test_sizes_of_wav2vec_conformer(size, encoder):
    """By the formula of the paper's blocks, and the mask embedding: l 115,120,128 + 512."""
    found = shapes(wav2vec_conformer.get_config(size))
    sizes = {name: int(np.prod(shape)) for name, shape in found.items()}
    inside = sum(n for name, n in sizes.items() if name.startswith("encoder/"))
    width = found["encoder/mask_embedding"][0]
    assert inside == encoder
    assert sum(sizes.values()) - inside == 2 * (width + 1) * width  # the two projections


def test_codes_on_the_same_encoder():
    linear = shapes(wav2vec_conformer.get_config("tiny"))
    codes = shapes(wav2vec_conformer.get_config("tiny,quantizer=gumbel"))
    inside = lambda tree: {k: x for k, x in tree.items() if k.startswith("encoder/")}  # noqa: E731
    assert inside(linear) == inside(codes)
    assert codes.keys() - linear.keys() == {
        "quantizer/codebook", "quantizer/logits/kernel", "quantizer/logits/bias",
    }  # fmt: skip


def pretraining(**loss):
    config = small.pretraining(**small.NO_DROPOUT, frontend__grad_mult=1.0)
    config.quantizer = small.common.quantizer("tiny", "linear")
    config.quantizer.update(projection=16, dropout=0.0)
    with config.unlocked():
        del config.gumbel, config.loss.diversity_weight
    config.loss.update(penalty_weight=0.0, **loss)
    config.data.augment.pitch_prob = 0.5
    return config


def test_clean_targets():
    """The context hears one wave, the targets are of the other; gradients go to both."""
    task = make_task(pretraining(targets="clean"))
    assert task.arrays((1, 2), 16_000).keys() == {"audio", "clean", "length", "id"}
    batch = {key: x[0] for key, x in small.noise_batch(2, 16_000).items()}
    other = small.noise_batch(2, 16_000, seed=5)["audio"][0]
    variables = nn.meta.unbox(jax.jit(task.init)())
    forward = jax.jit(lambda batch: task.forward(variables, batch, CONTEXT, train=True)[0])
    found = forward(batch | {"clean": other})
    alone = forward(batch)
    swapped = forward(batch | {"audio": other})
    np.testing.assert_allclose(found.context, alone.context, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.targets, swapped.targets, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found.targets, alone.targets, atol=1e-2)
    assert not np.allclose(found.context, swapped.context, atol=1e-2)
    # of the same wave twice it is the plain loss
    loss = jax.jit(lambda batch: task.loss(variables, batch, CONTEXT)[0])
    twice = batch | {"clean": batch["audio"]}
    assert float(loss(twice)) == pytest.approx(float(loss(batch)), rel=1e-5)

    def only(part, clean):
        """The gradient in the first convolution through the targets or the context alone."""

        def value(params):
            out, asked = task.forward({"params": params}, batch | clean, CONTEXT, train=False)
            stop = jax.lax.stop_gradient(getattr(out, part))
            return task.score(out.replace(**{part: stop}), asked)[0]

        grads = jax.jit(jax.grad(value))(variables["params"])
        return np.abs(grads["encoder"]["feature_encoder"]["conv_0"]["kernel"]).max()

    assert only("context", {"clean": other}) > 0
    assert only("targets", {"clean": other}) > 0


def test_clean_targets_are_refused_where_nothing_is_augmented():
    config = pretraining(targets="clean")
    config.data.augment.pitch_prob = 0.0
    with pytest.raises(UserError, match=r"nothing is: every --config.data.augment.\*_prob is 0"):
        make_task(config)


def test_clean_targets_are_refused_where_speed_moves_them():
    config = pretraining(targets="clean")
    config.data.augment.speed_prob = 0.3
    with pytest.raises(UserError, match=r"speed_prob=0.3 moves .* set speed_prob=0"):
        make_task(config)


def test_a_lightweight_convolution():
    """Against a loop; as taps are a softmax, a constant passes but for the linear layer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 11, 32)).astype(np.float32)
    layer = LightweightConv(8, 3, 2, True)
    params = nn.meta.unbox(layer.init(jax.random.key(0), x))["params"]
    found = layer.apply({"params": params}, x)
    taps = np.exp(params["kernel"]) / np.exp(params["kernel"]).sum(0)
    assert taps.shape == (3, 16)
    frames = [sum(np.repeat(taps[i], 2) * x[:, 2 * t + i] for i in range(3)) for t in range(5)]
    expected = np.stack(frames, 1) @ params["pointwise"]["kernel"] + params["pointwise"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert layer.apply({"params": params}, x[:, :2]).shape == (2, 0, 8)


@pytest.mark.parametrize("argument", ["tiny", "tiny,quantizer=linear"])
def test_arithmetic_of_deeper_heads(argument):
    """Two operations per weight and frame; of a codebook every entry is one."""
    config = wav2vec_aug.get_config(argument)
    task = make_task(config)
    sizes = {
        name: np.prod(shape)
        for name, shape in shapes(config).items()
        if name.endswith(("kernel", "codebook")) and not name.startswith("encoder/")
    }
    context = sum(n for name, n in sizes.items() if name.startswith("project_context"))
    targets = sum(sizes.values()) - context
    masked = 2 * (1 - (1 - 0.065) ** 10) * task.encoder.frontend.frames(64_000)
    found = task.forward_flops(64_000)
    kind = "targets" if "linear" in argument else "quantizer"
    np.testing.assert_allclose(found[kind], masked * targets, rtol=1e-6)
    np.testing.assert_allclose(found["context projection"], masked * context, rtol=1e-6)
    # of light-weight convolutions: taps of two frames, then a linear layer
    plain = wav2vec_aug.get_config(argument)
    plain.model.frontend.lightweight = 0
    saved = make_task(plain).forward_flops(64_000)["convolutions"] - found["convolutions"]
    frames = [399, 199]  # of the top two convolutions, stride 2 each
    np.testing.assert_allclose(saved, 2 * (2 * 256 * 256 - 256 * (2 + 256)) * sum(frames))
