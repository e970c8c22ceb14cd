"""Small pieces shared by all networks: projections with logical axis names, norms, positions."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import scipy.fft

from w2v_jax.models.config import AUTO


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x * Phi(x), exact, in float32 inside. By erf, as torch; jax.nn.gelu takes erfc, which XLA
    computes as two polynomials and a choice. Its backward pass needs x alone."""
    return (_phi(x) * x).astype(x.dtype)


def _phi(x: jax.Array) -> jax.Array:
    return 0.5 + 0.5 * jax.lax.erf(x.astype(jnp.float32) * math.sqrt(0.5))


def _gelu_gradient(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (1 / math.sqrt(2 * math.pi))
    return ((g * (_phi(x) + y * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "swish": jax.nn.swish,
}


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


def layer_norm(dtype, *, name: str, eps: float = 1e-5) -> nn.LayerNorm:
    """Layer norm over the last axis; statistics in float32 and two passes, as torch."""
    return nn.LayerNorm(
        epsilon=eps,
        dtype=dtype,
        use_fast_variance=False,
        scale_init=boxed(nn.initializers.ones, "norm"),
        bias_init=boxed(nn.initializers.zeros, "norm"),
        name=name,
    )


def chosen(key: str, method: str) -> str:
    """The value of a config's key `method`, on the devices of this process if it is `auto`."""
    return AUTO[key][jax.default_backend() != "cpu"] if method == "auto" else method


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


def masked_moments(
    x: jax.Array, mask: jax.Array | None, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, biased variance (float32, reduced axes kept) and count of x [B, T, ...] over `axes`.

    `axes` contains 1 (time); frames where mask [B, T] is False do not count.
    """
    x = x.astype(jnp.float32)
    if mask is None:
        count = jnp.float32(math.prod(x.shape[axis] for axis in axes))
        mean = x.mean(axes, keepdims=True)
        return mean, jnp.square(x - mean).mean(axes, keepdims=True), count
    frames = mask.reshape(mask.shape + (1,) * (x.ndim - 2))
    rest = math.prod(x.shape[axis] for axis in axes if axis > 1)
    count = frames.sum(tuple(a for a in axes if a < 2), keepdims=True).astype(jnp.float32) * rest
    count = jnp.maximum(count, 1)
    mean = jnp.where(frames, x, 0).sum(axes, keepdims=True) / count
    var = jnp.where(frames, jnp.square(x - mean), 0).sum(axes, keepdims=True) / count
    return mean, var, count


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
        b, t, c = x.shape
        scale = self.param("scale", boxed(nn.initializers.ones, "norm"), (c,))
        bias = self.param("bias", boxed(nn.initializers.zeros, "norm"), (c,))
        # an axis of size 1 would make XLA's gradient on CPUs six times slower
        alone = self.groups == c
        grouped = x if alone else x.reshape(b, t, self.groups, c // self.groups)
        mean, var, _ = masked_moments(grouped, mask, (1,) if alone else (1, 3))
        y = ((grouped - mean) * jax.lax.rsqrt(var + self.eps)).reshape(b, t, c)
        return (y * scale + bias).astype(self.dtype)


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


def grouped_conv(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """XLA's convolution over time of x [B, T, D] with kernel [K, D/groups, D]."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=x.shape[-1] // kernel.shape[1],
    )  # fmt: skip


def fft_grouped_conv(x: jax.Array, kernel: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """The convolution of x [B, T, D] with kernel [K, D/groups, D] as a product of spectra.

    Equal to `grouped_conv` but for rounding. On CPUs its backward pass is many times
    cheaper: XLA has no fast weight gradient for a grouped convolution with a long kernel. x is cut
    into overlapping blocks of 2K (overlap-save), so that the spectra of the kernel, which are most
    of the memory, stay short.
    """
    b, t, d = x.shape
    taps, per_group, _ = kernel.shape
    groups = d // per_group
    size = scipy.fft.next_fast_len(2 * taps, real=True)
    step = size - taps + 1  # outputs of a block
    blocks = -(-t // step)
    before, after = padding[0], blocks * step + taps - 1 - t - padding[0]
    x = jnp.pad(x.astype(jnp.float32), ((0, 0), (before, after), (0, 0)))
    x = jnp.stack([x[:, i * step : i * step + size] for i in range(blocks)], 1)
    x = x.reshape(b * blocks, size, d)
    spectrum = jnp.fft.rfft(x, axis=1).reshape(b * blocks, -1, groups, per_group)
    filters = jnp.fft.rfft(kernel.astype(jnp.float32), size, axis=0)
    filters = filters.reshape(-1, per_group, groups, d // groups)
    product = jnp.einsum("bfgi,figo->bfgo", spectrum, filters.conj())
    y = jnp.fft.irfft(product.reshape(b * blocks, -1, d), size, axis=1)[:, :step]
    return y.reshape(b, blocks * step, d)[:, :t]


class PositionalConv(nn.Module):
    """activation(grouped convolution over time).

    norm: `weight` normalises the kernel per tap; `batch` is a batch norm of the input instead.
    An even kernel sees one frame more of the past: output t depends on [t - K/2, t + K/2 - 1].
    Source: fairseq wav2vec2.py make_conv_pos, same_pad.py; transformers modeling_hubert.py.
    """

    width: int
    kernel: int
    groups: int
    method: str  # conv | fft | auto: fft on CPUs
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
        if chosen("pos_conv_method", self.method) == "fft":
            y = fft_grouped_conv(x, weight, padding).astype(self.dtype)
        else:
            y = grouped_conv(x.astype(self.dtype), weight.astype(self.dtype), padding)
        return ACTIVATIONS[self.activation](y + bias.astype(self.dtype))


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


def relative_shift(x: jax.Array) -> jax.Array:
    """x [B, H, T, 2T-1] indexed by distance (T-1 first) -> [B, H, T, T] indexed by key."""
    b, h, t, p = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(b, h, t * (p + 1))
    return x[..., : t * p].reshape(b, h, t, p)[..., t - 1 :]
