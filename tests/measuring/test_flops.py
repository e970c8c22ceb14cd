"""The arithmetic of a model: as PyTorch counts it, and as XLA does."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.configs import best_rq, common
from w2v_jax.data.loader import batch_arrays
from w2v_jax.measuring.flops import contrastive_flops, encoder_flops, training_flops
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.tasks.best_rq import BestRQ
from w2v_jax.tasks.wav2vec2 import Wav2Vec2
from w2v_jax.training.task import Context

FORMS = {"attention": "whole", "positional_conv": "conv", "depthwise_conv": "conv"}


@pytest.mark.parametrize(
    ("size", "gigaflops"),
    [("base", 45.908), ("large", 119.165), ("xlsr_1b", 329.585), ("xlsr_2b", 701.898)],
)
def test_training_flops(size, gigaflops):
    """Per second of audio in rows of 15 s, as PyTorch's FlopCounterMode finds them."""
    encoder = EncoderConfig.from_dict(common.model(size))
    quantizer = QuantizerConfig(**common.QUANTIZERS[size])
    forward = encoder_flops(encoder, 240_000)
    forward |= contrastive_flops(encoder, quantizer, 240_000, 0.4894, 100)
    found = training_flops(encoder, forward, 240_000) / 15e9
    np.testing.assert_allclose(found, gigaflops, rtol=1e-4)


def test_training_flops_of_a_conformer():
    encoder = EncoderConfig.from_dict({"block": "conformer", "positions": "relative"})
    forward = encoder_flops(encoder, 240_000)
    forward |= contrastive_flops(encoder, QuantizerConfig(), 240_000, 0.4894, 100)
    np.testing.assert_allclose(training_flops(encoder, forward, 240_000) / 15e9, 74.865, rtol=1e-4)


def lowered_flops(**changes):
    execution = {"layers": changes.pop("layers")} | FORMS
    encoder = EncoderConfig.from_dict({"num_layers": 4} | changes, execution)
    model, audio = Encoder(encoder), jax.ShapeDtypeStruct((1, 240_000), jnp.int16)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), audio)
    forward = jax.jit(lambda p, x: model.apply(p, x).context)
    return encoder, forward.lower(nn.meta.unbox(params), audio).cost_analysis()["flops"]


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(block="conformer", positions="relative", norm_order="pre"),
        dict(block=dict(kind="conformer", feed_forwards=1), positions="shaw", norm_order="none"),
        dict(block=dict(kind="conformer", convolution="none"), positions="none"),
    ],
    ids=["transformer", "conformer", "clipped distances", "no convolution"],
)
def test_encoder_flops_are_those_of_the_program(changes):
    """XLA also counts norms, activations and softmax."""
    encoder, found = lowered_flops(layers="unroll", **changes)
    expected = sum(encoder_flops(encoder, 240_000).values())
    assert 1 < found / expected < 1.05


@pytest.mark.parametrize("source", ["masked", "everywhere"])
def test_update_flops_are_those_of_a_training_gradient(source):
    """XLA also counts norms, activations, softmax, and the slots of masked frames left empty."""
    config = common.pretraining("base")
    config.loss.negatives_from = source
    config.model.update(num_layers=2, layerdrop=0.0)
    config.execution.update(FORMS, layers="unroll")
    task, samples = Wav2Vec2(config), 240_000
    variables = jax.eval_shape(lambda: nn.meta.unbox(task.init()))
    micro = {
        name: jax.ShapeDtypeStruct(shape[1:], dtype)
        for name, (shape, dtype) in batch_arrays((1, 2), samples).items()
    }

    def gradient(params, micro):
        context = Context(0, jax.random.key(0), jax.random.key(1))
        loss = lambda params: task.loss({"params": params, "stats": {}}, micro, context)  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(params)

    found = jax.jit(gradient).lower(variables["params"], micro).cost_analysis()["flops"]
    assert 1 < found / (2 * task.training_flops(samples)) < 1.05


def test_codes_cost_what_the_program_says():
    """Of BEST-RQ, with every frame masked: labels forward, answers forward and backward."""

    def of(codes):
        config = best_rq.get_config("base")
        config.random_quantizer.codes, config.mel_masking.prob = codes, 1.0
        config.model.num_layers = 1
        config.execution.update(FORMS, layers="unroll")
        task, samples = BestRQ(config), 160_000
        variables = jax.eval_shape(lambda: nn.meta.unbox(task.init()))
        micro = {
            name: jax.ShapeDtypeStruct(shape[1:], dtype)
            for name, (shape, dtype) in batch_arrays((1, 2), samples).items()
        }

        def gradient(params, stats, micro):
            context = Context(0, jax.random.key(0), jax.random.key(1))
            loss = lambda params: task.loss({"params": params, "stats": stats}, micro, context)  # noqa: E731
            return jax.value_and_grad(loss, has_aux=True)(params)

        lowered = jax.jit(gradient).lower(variables["params"], variables["stats"], micro)
        return lowered.cost_analysis()["flops"], 2 * task.training_flops(samples)

    (few, expected_few), (many, expected_many) = of(1024), of(8192)
    assert 1 < (many - few) / (expected_many - expected_few) < 1.05


def test_blocks_that_layerdrop_skips_do_not_count():
    config = common.pretraining("base")

    def flops(skips=False, **model):
        config.model.update(model)
        return Wav2Vec2(config).training_flops(240_000, layerdrop=skips)

    most = flops()
    without_blocks = 2 * flops(num_layers=6) - most
    assert 0 < without_blocks < most
    assert flops(num_layers=12) == flops() == most
    config.model.layerdrop = 0.25
    expected = without_blocks + 0.75 * (most - without_blocks)
    np.testing.assert_allclose(flops(skips=True), expected)
    assert flops() == most


def test_xla_counts_the_body_of_a_loop_once():
    """Why the operations of a compiled step are not those of the model."""
    _, once = lowered_flops(layers="scan")
    one = encoder_flops(EncoderConfig(num_layers=1), 240_000)
    assert 1 < once / sum(one.values()) < 1.05
