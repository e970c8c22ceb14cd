"""Small pieces shared by all networks: projections with logical axis names, norms, positions."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.kernels.depthwise_conv import depthwise_conv
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS, group_norm, masked_moments
from w2v_jax.models.kernels.positional_conv import positional_conv
from w2v_jax.models.kernels.rows import layer_norm, rows
from w2v_jax.models.settings import Execution


def boxed(init, *axes: str):
    """An initializer whose parameter carries logical axis names (see training/sharding.py)."""
    return nn.with_logical_partitioning(init, axes)


def bert_dense(features: int, axes: tuple[str, str], dtype, *, name: str, bias=True) -> nn.Dense:
    """Linear layer drawn from N(0, 0.02), bias 0; `axes` name the kernel's two axes."""
    return nn.Dense(
        features,
        use_bias=bias,
        dtype=dtype,
        kernel_init=boxed(nn.initializers.normal(0.02), *axes),
        bias_init=boxed(nn.initializers.zeros, axes[1]),
        name=name,
    )


def torch_dense(fan_in: int, features: int, axes: tuple[str, str], dtype, *, name: str) -> nn.Dense:
    """Linear layer with torch's default init, which the projections of the reference keep:
    kernel and bias U(+-1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=boxed(uniform, *axes),
        bias_init=boxed(uniform, axes[1]),
        name=name,
    )


class LayerNorm(nn.Module):
    """Layer norm over the channels of [B, T, D] with what stands around it, see kernels/rows.py;
    statistics in float32."""

    execution: Execution
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, branch: jax.Array | None = None, words=None, **options):
        """layer norm(x + dropout(branch)); words and options (rate, activation, both) as of
        kernels.rows.rows."""
        shape = (x.shape[-1],)
        scale = self.param("scale", boxed(nn.initializers.ones, "norm"), shape)
        bias = self.param("bias", boxed(nn.initializers.zeros, "norm"), shape)
        x = x.astype(self.execution.compute_dtype)
        return rows(
            x, branch, words, scale, bias, eps=self.eps, choice=self.execution.rows, **options
        )


class Parameters(nn.Module):
    """Parameters as another module of that name has them: {name: (initialiser, shape)}."""

    shapes: Mapping[str, tuple]

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        return {name: self.param(name, *rest) for name, rest in self.shapes.items()}


def frame_mask(length: jax.Array | None, frames: int) -> jax.Array | None:
    """True where a frame is speech: length int32 [B] -> bool [B, T]. None stays None."""
    if length is None:
        return None
    return jnp.arange(frames)[None, :] < length[:, None]


def zero_padding(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """x [B, T, ...] with 0 in the padding; `where`, so that not even NaN passes."""
    if mask is None:
        return x
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, 0)


class GroupNorm(nn.Module):
    """Per utterance, over time and the channels of a group; padding does not count.

    groups == C normalises every channel over time, the norm of wav2vec 2.0 BASE's first layer.
    """

    groups: int
    dtype: jnp.dtype = jnp.float32
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """x [B, T, C], mask bool [B, T] or None -> [B, T, C]."""
        c = x.shape[-1]
        scale = self.param("scale", boxed(nn.initializers.ones, "norm"), (c,))
        bias = self.param("bias", boxed(nn.initializers.zeros, "norm"), (c,))
        return group_norm(x, mask, scale, bias, self.groups, self.eps).astype(self.dtype)


class BatchNorm(nn.Module):
    """Over batch and time, counting valid frames alone (the mean is global on a mesh).

    Running statistics live in the collection `stats` with torch's conventions: momentum 0.1,
    unbiased running variance, eps 1e-5.
    """

    dtype: jnp.dtype = jnp.float32
    momentum: float = 0.1
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        c = x.shape[-1]
        scale = self.param("scale", boxed(nn.initializers.ones, "norm"), (c,))
        bias = self.param("bias", boxed(nn.initializers.zeros, "norm"), (c,))
        running_mean = self.variable("stats", "mean", jnp.zeros, (c,))
        running_var = self.variable("stats", "var", jnp.ones, (c,))
        if train:
            mean, var, count = masked_moments(x, mask, (0, 1))
            mean, var, count = mean.reshape(c), var.reshape(c), count.reshape(())
            if not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1, 1)
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        y = (x.astype(jnp.float32) - mean) * jax.lax.rsqrt(var + self.eps)
        return (y * scale + bias).astype(self.dtype)


class PositionalConv(nn.Module):
    """activation(grouped convolution over time).

    norm: `weight` normalises the kernel per tap; `batch` is a batch norm of the input instead.
    An even kernel sees one frame more of the past: output t depends on [t - K/2, t + K/2 - 1].
    Source: fairseq wav2vec2.py make_conv_pos, same_pad.py; transformers modeling_hubert.py.
    """

    width: int
    kernel: int
    groups: int
    form: str  # of the kernel positional_conv
    dtype: jnp.dtype = jnp.float32
    activation: str = "gelu"
    norm: str = "weight"

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """x [B, T, D] -> [B, T, D]; the caller zeroes padded frames before. mask bool [B, T] and
        train matter to the batch norm alone."""
        if self.norm == "batch":
            x = zero_padding(BatchNorm(self.dtype, name="norm")(x, mask, train), mask)
        shape = (self.kernel, self.width // self.groups, self.width)
        std = math.sqrt(4 / (self.kernel * self.width))
        drawn = boxed(nn.initializers.normal(std), "conv", "conv_in", "embed")
        if self.norm == "batch":
            weight = self.param("kernel", drawn, shape)
        else:
            direction = self.param("direction", drawn, shape)
            norm = jnp.sqrt(jnp.square(direction).sum((1, 2)))
            # weight norm starts as the identity: the magnitude is the norm of the drawn direction
            magnitude = self.param("magnitude", boxed(lambda _, shape: norm.reshape(shape), "conv"),
                                   (self.kernel,))  # fmt: skip
            weight = direction * (magnitude / norm)[:, None, None]
        bias = self.param("bias", boxed(nn.initializers.zeros, "embed"), (self.width,))
        padding = (self.kernel // 2, (self.kernel - 1) // 2)
        y = positional_conv(x.astype(self.dtype), weight, padding, self.form)
        return ACTIVATIONS[self.activation](y + bias.astype(self.dtype))


class ConvStack(nn.Module):
    """Layers of a grouped convolution over time, a norm of every frame without parameters, and an
    activation.

    An even kernel sees one frame more of the past.
    Source: fairseq wav2vec2.py make_conv_pos of conv_pos_depth > 1; transformers
    modeling_data2vec_audio.py Data2VecAudioPositionalConvLayer.
    """

    width: int
    layers: int
    kernel: int
    groups: int
    form: str  # of the kernel positional_conv
    dtype: jnp.dtype = jnp.float32
    activation: str = "gelu"
    eps: float = 1e-5

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """x [B, T, D] -> [B, T, D]; padded frames, where mask bool [B, T] is False, are 0 before
        every convolution. train changes nothing."""
        shape = (self.kernel, self.width // self.groups, self.width)
        bound = 1 / math.sqrt(shape[0] * shape[1])  # torch's, which fairseq keeps here

        def uniform(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernels = boxed(uniform, "conv", "conv_in", "embed")
        padding = (self.kernel // 2, (self.kernel - 1) // 2)
        for i in range(self.layers):
            parameters = {"kernel": (kernels, shape), "bias": (boxed(uniform, "embed"), shape[-1:])}
            given = Parameters(parameters, name=f"conv_{i}")()
            x = zero_padding(x, mask).astype(self.dtype)
            x = positional_conv(x, given["kernel"], padding, self.form)
            x = layer_norm(x + given["bias"].astype(self.dtype), 1.0, 0.0, self.eps)
            x = ACTIVATIONS[self.activation](x.astype(self.dtype))
        return x


class DepthwiseConv(nn.Module):
    """Kernel [K, 1, D], zeros beyond the ends.

    A frame sees (K - 1) // 2 of the past and K // 2 of the future: of an even kernel one more of
    these, as TensorFlow's SAME. causal: K - 1 of the past. heads: lightweight (arXiv 1901.10430),
    all channels of a head have one kernel, its taps a softmax of the parameters [K, 1, heads].
    """

    kernel: int
    form: str  # of the kernel depthwise_conv
    dtype: jnp.dtype = jnp.float32
    causal: bool = False
    heads: int = 0
    bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, T, D] -> [B, T, D]."""
        channels = "heads" if self.heads else "embed"
        init = boxed(nn.initializers.lecun_normal(), "conv", "conv_in", channels)
        d = x.shape[-1]
        kernel = self.param("kernel", init, (self.kernel, 1, self.heads or d))
        if self.heads:
            kernel = jnp.repeat(jax.nn.softmax(kernel, axis=0), d // self.heads, axis=2)
        past = self.kernel - 1 if self.causal else (self.kernel - 1) // 2
        y = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), past, self.form)
        if self.bias:
            zeros = boxed(nn.initializers.zeros, "embed")
            y = y + self.param("bias", zeros, (d,)).astype(self.dtype)
        return y


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
    """sin (even columns) and cos (odd columns) of positions [P] -> float32 [P, width]."""
    frequency = jnp.exp(jnp.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = positions[:, None].astype(jnp.float32) * frequency
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1).reshape(len(positions), width)


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions of x [B, T, H, d], halves rotated against each other, base 10000."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-jnp.arange(half) / half)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None] * frequency  # [T, d/2]
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
