"""What the pieces of a training step cost, in the form we took and in those we did not.

    PYTHONPATH=. python benchmarks/alternatives.py --size=base --batch=2 --seconds=15

Every piece is compiled alone, at the shapes it has in that model. Forms of a piece are timed in
turn, several times over; the shortest of each counts. Columns: forward pass; forward and backward
pass; temporary memory of the latter.
"""

import argparse
import time
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.configs import common
from w2v_jax.models.config import ConformerConfig, EncoderConfig
from w2v_jax.models.kernels.attention import Heads, attend
from w2v_jax.models.kernels.depthwise_conv import sum_of_shifts
from w2v_jax.models.kernels.dropout import dropout, dropout_seed
from w2v_jax.models.kernels.norm_activation import gelu, group_norm, masked_moments
from w2v_jax.models.kernels.positional_conv import fft_grouped_conv, grouped_conv
from w2v_jax.models.positions import ConvPositions

ROUNDS = 5
Form = tuple[str, Callable, tuple]  # name, function of arrays, arrays


def normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(sum(shape)), shape)


def convolution(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )


def by_products(x, kernel, stride):
    """A convolution without padding as a sum of products of neighbouring frames."""
    taps, _, out = kernel.shape
    frames = (x.shape[1] - taps) // stride + 1
    pieces = -(-taps // stride)
    need = (frames + pieces - 1) * stride
    x = jnp.pad(x, ((0, 0), (0, max(0, need - x.shape[1])), (0, 0)))[:, :need]
    x = x.reshape(len(x), frames + pieces - 1, -1)
    y = 0
    for i in range(pieces):
        part = kernel[i * stride : (i + 1) * stride]
        part = part.reshape(-1, out)
        y += x[:, i : i + frames, : len(part)] @ part
    return y


def channel_norm_of_groups(x, scale, bias):
    """Group norm with a group per channel, as for any other number of groups."""
    b, t, c = x.shape
    grouped = x.reshape(b, t, c, 1)
    mean, var, _ = masked_moments(grouped, None, (1, 3))
    return ((grouped - mean) * jax.lax.rsqrt(var + 1e-5)).reshape(b, t, c) * scale + bias


def one_spectrum(x, kernel, padding):
    """The positional convolution by a transform of the whole row."""
    b, t, d = x.shape
    taps, per_group, _ = kernel.shape
    x = jnp.pad(x, ((0, 0), padding, (0, 0)))
    spectrum = jnp.fft.rfft(x, axis=1).reshape(b, -1, d // per_group, per_group)
    filters = jnp.fft.rfft(kernel, t + taps - 1, axis=0)
    filters = filters.reshape(-1, per_group, d // per_group, per_group)
    product = jnp.einsum("bfgi,figo->bfgo", spectrum, filters.conj())
    return jnp.fft.irfft(product.reshape(b, -1, d), t + taps - 1, axis=1)[:, :t]


def pieces(cfg: EncoderConfig, rows: int, samples: int) -> Iterator[tuple[str, list[Form]]]:
    """(what it is, its forms, ours first)."""
    (channels, first, stride), (_, second, second_stride) = cfg.frontend.conv_layers[:2]
    long = (samples - first) // stride + 1
    x, c = normal(rows, long, channels), channels
    yield "norm of the first convolution", [
        ("over time alone", lambda x, s, b: group_norm(x, None, s, b, c, 1e-5),
         (x, normal(c), normal(c))),
        ("with an axis of size 1", channel_norm_of_groups, (x, normal(c), normal(c))),
    ]  # fmt: skip
    yield (
        "GELU behind it",
        [
            ("erf", gelu, (x,)),
            ("erfc (jax.nn.gelu)", lambda x: jax.nn.gelu(x, approximate=False), (x,)),
        ],
    )
    kernel = normal(second, channels, channels)
    yield (
        "second convolution",
        [
            ("XLA's", lambda x, k: convolution(x, k, second_stride), (x, kernel)),
            ("products", lambda x, k: by_products(x, k, second_stride), (x, kernel)),
        ],
    )
    t, d, h = cfg.frontend.frames(samples), cfg.width, cfg.num_heads
    positions = cfg.positions if cfg.positions.kind == "conv" else ConvPositions()
    taps = positions.kernel
    x, kernel = normal(rows, t, d), normal(taps, d // positions.groups, d)
    around = (taps // 2, (taps - 1) // 2)
    yield (
        "positional convolution",
        [
            ("spectra of blocks", lambda x, k: fft_grouped_conv(x, k, around), (x, kernel)),
            ("a spectrum per row", lambda x, k: one_spectrum(x, k, around), (x, kernel)),
            ("XLA's", lambda x, k: grouped_conv(x, k, around), (x, kernel)),
        ],
    )
    taps = cfg.block.kernel if cfg.block.kind == "conformer" else ConformerConfig().kernel
    kernel, padding = normal(taps, 1, d), ((taps - 1) // 2, taps // 2)
    yield (
        "depthwise convolution of the conformer",
        [
            ("shifts", lambda x, k: sum_of_shifts(x, k[:, 0], padding[0]), (x, kernel)),
            ("spectra of blocks", lambda x, k: fft_grouped_conv(x, k, padding), (x, kernel)),
            ("XLA's", lambda x, k: grouped_conv(x, k, padding), (x, kernel)),
        ],
    )
    wide, key = normal(rows, t, cfg.feed_forward), jax.random.key(0)
    flax_dropout = lambda x: nn.Dropout(0.1, deterministic=False).apply(  # noqa: E731
        {}, x, rngs={"dropout": key})  # fmt: skip
    yield (
        "dropout in the feed-forward",
        [
            ("hash", lambda x: dropout(x, dropout_seed(key), 0.1), (wide,)),
            ("threefry (nn.Dropout)", flax_dropout, (wide,)),
        ],
    )
    q, k, v = (normal(rows, t, h, d // h) + i for i in range(3))
    seeds = jax.vmap(dropout_seed)(jax.random.split(key, h))

    def threefry(q, k, v):
        scores = jnp.einsum("bthd,bshd->bhts", q, k) * q.shape[-1] ** -0.5
        return jnp.einsum("bhts,bshd->bthd", flax_dropout(jax.nn.softmax(scores)), v)

    def ours(form: str, rate: float) -> Callable:
        return lambda *qkv: attend(Heads(*qkv, None, seeds), rate=rate, choice=form)

    yield (
        "attention, dropout 0.1",
        [
            ("head by head, hash", ours("heads", 0.1), (q, k, v)),
            ("all heads, hash", ours("whole", 0.1), (q, k, v)),
            ("all heads, threefry", threefry, (q, k, v)),
        ],
    )
    yield (
        "attention without dropout",
        [
            ("head by head", ours("heads", 0.0), (q, k, v)),
            ("all heads", ours("whole", 0.0), (q, k, v)),
        ],
    )


def milliseconds(functions: list[Callable[[], object]]) -> list[float]:
    """The shortest of several calls of each, in turn; the first calls compile."""
    for function in functions:
        jax.block_until_ready(function())
    best = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for i, function in enumerate(functions):
            begin = time.perf_counter()
            jax.block_until_ready(function())
            best[i] = min(best[i], 1000 * (time.perf_counter() - begin))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="base", choices=sorted(common.SIZES))
    parser.add_argument("--batch", type=int, default=2, help="rows")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a row")
    options = parser.parse_args()
    cfg = EncoderConfig.from_dict(common.model(options.size))
    print(f"{options.size}, {options.batch} rows of {options.seconds:g} s, "
          f"{jax.devices()[0].device_kind}")  # fmt: skip
    for piece, forms in pieces(cfg, options.batch, round(options.seconds * SAMPLE_RATE)):
        programs, memory = [], []
        for _, function, arrays in forms:
            forward = jax.jit(function)
            # the sum of squares: a gradient from above that is not constant
            both = jax.jit(jax.grad(lambda *x, f=function: jnp.square(f(*x)).sum(),
                                    tuple(range(len(arrays)))))  # fmt: skip
            programs += [lambda f=forward, x=arrays: f(*x), lambda f=both, x=arrays: f(*x)]
            analysis = both.lower(*arrays).compile().memory_analysis()
            memory.append(analysis.temp_size_in_bytes / 2**20)
        taken = milliseconds(programs)
        print(piece)
        for i, (name, _, _) in enumerate(forms):
            print(f"  {name:24} {taken[2 * i]:9.1f} ms {taken[2 * i + 1]:9.1f} ms "
                  f"{memory[i]:8.0f} MiB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
