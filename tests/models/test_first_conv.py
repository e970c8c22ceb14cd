"""The first convolution with its norm folded into the kernel, against one after the other."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax.measuring.speech import speech
from w2v_jax.models.frontends.waveform import FeatureEncoder, WaveformConfig
from w2v_jax.models.kernels.first_conv import folded_conv
from w2v_jax.models.kernels.norm_activation import gelu, group_norm
from w2v_jax.models.settings import Execution

C, SAMPLES, ROWS = 64, 24_000, 3


def inputs(taps: int):
    audio = jnp.asarray(speech(ROWS * SAMPLES).reshape(ROWS, SAMPLES), jnp.float32)
    keys = jax.random.split(jax.random.key(taps), 3)
    kernel = jax.random.normal(keys[0], (taps, C)) * np.sqrt(2 / taps)
    scale = 1 + 0.3 * jax.random.normal(keys[1], (C,))
    return audio, kernel, scale, jax.random.normal(keys[2], (C,))


def plain(x, kernel, scale, bias, stride, frames):
    y = jax.lax.conv_general_dilated(
        x[:, :, None], kernel[:, None].astype(x.dtype), (stride,), "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
    )  # fmt: skip
    mask = None if frames is None else jnp.arange(y.shape[1]) < frames[:, None]
    return gelu(group_norm(y, mask, scale, bias, C, 1e-5).astype(x.dtype))


def both(form, dtype, padded, taps, stride):
    """Values and gradients of the parameters."""
    x, *parameters = inputs(taps)
    count = (SAMPLES - taps) // stride + 1
    frames = jnp.array([count, count - 900, count // 3]) if padded else None
    target = jax.random.normal(jax.random.key(9), (ROWS, count, C))

    def loss(parameters):
        y = form(x.astype(dtype), *parameters, stride, frames)
        return (y.astype(jnp.float32) * target).sum(), y

    with jax.default_matmul_precision("highest"):
        (_, y), gradients = jax.value_and_grad(loss, has_aux=True)(parameters)
    return [y, *gradients]


def errors(found, exact):
    both = [(np.float64(a), np.float64(b)) for a, b in zip(found, exact, strict=True)]
    return [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in both]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("taps", "stride"), [(10, 5), (8, 4), (7, 3), (3, 4)])
def test_values_and_gradients_in_float32(padded, taps, stride):
    arguments = jnp.float32, padded, taps, stride
    found, exact = both(folded_conv, *arguments), both(plain, *arguments)
    assert found[0].shape == exact[0].shape
    assert max(errors(found, exact)) < 1e-4


fused = functools.partial(folded_conv, fused=True, interpret=True)


@pytest.mark.parametrize(("taps", "stride"), [(10, 5), (3, 4), (33, 8), (70, 20)])
def test_the_kernel_in_float32(taps, stride):
    arguments = jnp.float32, True, taps, stride
    assert max(errors(both(fused, *arguments), both(folded_conv, *arguments))) < 1e-5


def test_the_gradient_of_the_audio():
    x, *parameters = inputs(10)
    target = jax.random.normal(jax.random.key(9), (ROWS, SAMPLES // 5 - 1, C))
    with jax.default_matmul_precision("highest"):
        found, exact = (
            jax.grad(lambda x, f=form: (f(x, *parameters, 5, None) * target).sum())(x)
            for form in (fused, plain)
        )
    assert errors([found], [exact])[0] < 1e-4


def test_in_bfloat16_no_worse_than_one_after_the_other():
    exact = both(plain, jnp.float32, True, 10, 5)
    apart = errors(both(plain, jnp.bfloat16, True, 10, 5), exact)
    for form in (folded_conv, fused):
        found = errors(both(form, jnp.bfloat16, True, 10, 5), exact)
        assert all(a < max(1.5 * b, 5e-3) for a, b in zip(found, apart, strict=True)), found


def test_the_same_parameters():
    """Names, shapes and first values are those of the two modules."""
    config = WaveformConfig(conv_layers=((16, 10, 5), (16, 4, 4)))
    audio, length = jnp.ones((2, 8000)), jnp.array([8000, 5000])
    trees, outputs = [], []
    for form in ("folded", "conv"):
        module = FeatureEncoder(config, Execution(first_conv=form))
        variables = nn.meta.unbox(module.init(jax.random.key(0), audio, length))
        trees.append(variables)
        noise = jax.random.normal(jax.random.key(1), audio.shape)
        outputs.append(module.apply(variables, noise, length))
    jax.tree.map(np.testing.assert_array_equal, *trees)
    np.testing.assert_allclose(*outputs, atol=2e-5)
