"""The arithmetic of a model: as PyTorch counts it, and as XLA does."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.flops import contrastive_flops, encoder_flops, training_flops


@pytest.mark.parametrize(
    ("size", "gigaflops"),
    [("base", 45.908), ("large", 119.165), ("xlsr_1b", 329.585), ("xlsr_2b", 701.898)],
)
def test_training_flops(size, gigaflops):
    """Per second of audio in rows of 15 s, as PyTorch's FlopCounterMode finds them."""
    encoder = EncoderConfig(**common.SIZES[size])
    quantizer = QuantizerConfig(**common.QUANTIZERS[size])
    forward = encoder_flops(encoder, 240_000)
    forward |= contrastive_flops(encoder, quantizer, 240_000, 0.4894, 100)
    np.testing.assert_allclose(training_flops(encoder, forward) / 15e9, gigaflops, rtol=1e-4)


def test_training_flops_of_a_conformer():
    encoder = EncoderConfig(block="conformer", positions="relative")
    forward = encoder_flops(encoder, 240_000)
    forward |= contrastive_flops(encoder, QuantizerConfig(), 240_000, 0.4894, 100)
    np.testing.assert_allclose(training_flops(encoder, forward) / 15e9, 74.865, rtol=1e-4)


def lowered_flops(**changes):
    encoder = EncoderConfig(
        pos_conv_method="conv", attention_method="whole", num_layers=4, **changes
    )
    model, audio = Encoder(encoder), jax.ShapeDtypeStruct((1, 240_000), jnp.int16)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), audio)
    forward = jax.jit(lambda p, x: model.apply(p, x).context)
    return encoder, forward.lower(nn.meta.unbox(params), audio).cost_analysis()["flops"]


@pytest.mark.parametrize(
    "changes",
    [dict(), dict(block="conformer", positions="relative", norm_order="pre")],
    ids=["transformer", "conformer"],
)
def test_encoder_flops_are_those_of_the_program(changes):
    """XLA also counts norms, activations and softmax."""
    encoder, found = lowered_flops(scan=False, **changes)
    expected = sum(encoder_flops(encoder, 240_000).values())
    assert 1 < found / expected < 1.05


def test_xla_counts_the_body_of_a_loop_once():
    """Why the operations of a compiled step are not those of the model."""
    _, once = lowered_flops(scan=True)
    one = encoder_flops(EncoderConfig(num_layers=1), 240_000)
    assert 1 < once / sum(one.values()) < 1.05
