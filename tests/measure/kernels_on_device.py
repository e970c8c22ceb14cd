"""The kernels of GPUs on the card at hand, against their plain forms in float32.

    python -m tests.measure.kernels_on_device

prints for each the relative error (Euclidean norms) of the output and of every gradient. Tests
compare the same on CPUs, where the kernels are interpreted: there is no compiler in between, and
nothing happens at the same time.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from w2v_jax.models.kernels.attention import Heads, attend, fused
from w2v_jax.models.kernels.depthwise_conv import sum_of_shifts
from w2v_jax.models.kernels.dropout import dropout_seed
from w2v_jax.models.kernels.first_conv import folded_conv
from w2v_jax.models.kernels.fused_depthwise import fused_depthwise
from w2v_jax.models.kernels.rows import fused as fused_rows
from w2v_jax.models.kernels.rows import rows
from w2v_jax.objectives.ctc import ctc_loss

TOLERANCE = 0.02  # of what is computed in bfloat16; a mistake makes it the order of 1
EXACT = 1e-4  # of what is computed in float32

B, T, H, D = 3, 201, 2, 768
KEY = functools.partial(jax.random.key)


def drawn(number: int, *shape: int, dtype=jnp.bfloat16) -> jax.Array:
    return jax.random.normal(KEY(number), shape).astype(dtype)


def errors(kernel: Callable, plain: Callable, *arrays: jax.Array) -> dict[str, float]:
    """Of kernel(*arrays) and its gradients, where plain computes the same in float32."""

    @functools.partial(jax.jit, static_argnums=0)
    def pulled(function, arrays, gradient):
        y, pull = jax.vjp(function, *arrays)
        return y, pull(gradient.astype(y.dtype))

    wide = [x.astype(jnp.float32) for x in arrays]
    shape = jax.eval_shape(kernel, *arrays).shape
    # values that both types hold, or each side would round them in its own way
    gradient = jnp.round(16 * jax.random.normal(KEY(99), shape)) / 16
    found = pulled(kernel, arrays, gradient)
    with jax.default_matmul_precision("highest"):
        expected = pulled(plain, wide, gradient)
    pairs = zip(*map(jax.tree.leaves, (found, expected)), strict=True)
    error = [np.linalg.norm(np.float64(a) - b) / np.linalg.norm(np.float64(b)) for a, b in pairs]
    names = ["output", *(f"gradient {i}" for i in range(len(error) - 1))]
    return dict(zip(names, map(float, error), strict=True))


def attention(width: int, relative: bool = False, causal: bool = False, **options: Any) -> dict:
    arrays = [drawn(i, B, T, H, width) for i in range(4)][: 4 if relative else 3]
    if relative:
        arrays.append(drawn(5, 2 * T - 1, H, width))
    words = jax.vmap(dropout_seed)(jax.random.split(KEY(6), H))
    mask = jnp.arange(T) < jnp.array([T, 130, 64])[:, None]
    heads = lambda x: Heads(*x[:3], tuple(x[3:]) or None, words)  # noqa: E731
    return errors(
        lambda *x: fused(heads(x), mask, 0.1, causal, **options),
        lambda *x: attend(heads(x), mask=mask, rate=0.1, causal=causal, choice="heads"),
        *arrays,
    )


def of_rows(both: bool = False, activation: str = "", dtype=jnp.bfloat16, **options: Any) -> dict:
    words = dropout_seed(KEY(1))
    arrays = drawn(2, B, T, D, dtype=dtype), drawn(3, B, T, D, dtype=dtype)
    norm = 1 + 0.1 * drawn(4, D, dtype=jnp.float32), drawn(5, D, dtype=jnp.float32)
    joined = lambda y: jnp.stack(y) if both else y  # noqa: E731
    return errors(
        lambda *x: joined(fused_rows(
            x[0], x[1], words, x[2], x[3], rate=0.1, both=both, gelu=bool(activation), **options)),
        lambda *x: joined(rows(
            x[0], x[1], words, x[2], x[3], rate=0.1, both=both, activation=activation,
            choice="plain")),
        *arrays, *norm,
    )  # fmt: skip


def gelu(**options: Any) -> dict:
    return errors(
        lambda x: fused_rows(x, None, None, None, None, rate=0.0, gelu=True, **options),
        lambda x: rows(x, activation="gelu", choice="plain"), drawn(1, 4, 256, 512),
    )  # fmt: skip


def first_conv(**options: Any) -> dict:
    audio, frames = drawn(1, B, 16_000), jnp.array([3199, 1000, 64])
    kernel, scale, bias = (drawn(*x, dtype=jnp.float32) for x in ((2, 10, 512), (3, 512), (4, 512)))
    arrays = 0.3 * kernel, 1 + 0.1 * scale, bias
    return errors(
        lambda *x: folded_conv(audio, *x, 5, frames, fused=True, **options),
        lambda *x: folded_conv(audio.astype(jnp.float32), *x, 5, frames), *arrays,
    )  # fmt: skip


def depthwise(**options: Any) -> dict:
    return errors(
        lambda x, k: fused_depthwise(x, k, 15, **options), lambda x, k: sum_of_shifts(x, k, 15),
        drawn(1, B, T, D), drawn(2, 31, D),
    )


def ctc(**options: Any) -> dict:
    logits = 2 * drawn(1, 4, 300, 32, dtype=jnp.float32)
    labels = jax.random.randint(KEY(2), (4, 90), 1, 32)
    rest = jnp.array([300, 171, 40, 0]), labels, jnp.array([90, 33, 60, 0]), jnp.ones(4)
    return errors(
        lambda x: ctc_loss(x, *rest, fused=True, **options)[0],
        lambda x: ctc_loss(x, *rest)[0], logits,
    )  # fmt: skip


# name -> (what computes the errors, the largest that may be)
CHECKS: dict[str, tuple[Callable[..., dict[str, float]], float]] = {
    "attention": (functools.partial(attention, 64), TOLERANCE),
    "attention, relative positions": (functools.partial(attention, 64, relative=True), TOLERANCE),
    "first convolution": (first_conv, TOLERANCE),
    "rows": (of_rows, TOLERANCE),
    "CTC": (ctc, EXACT),
    "depthwise convolution": (depthwise, TOLERANCE),
    "rows, both outputs": (functools.partial(of_rows, both=True), TOLERANCE),
    "GELU": (gelu, TOLERANCE),
    "attention, wide and causal": (functools.partial(attention, 80, causal=True), TOLERANCE),
    "rows in float32": (
        functools.partial(of_rows, activation="gelu", dtype=jnp.float32), EXACT,
    ),
}  # fmt: skip


def check(name: str, **options: Any) -> tuple[dict[str, float], str]:
    """(errors, what is wrong with them: "" for nothing)."""
    compute, limit = CHECKS[name]
    found = compute(**options)
    over = {k: v for k, v in found.items() if not v <= limit}
    text = ", ".join(f"{k} {v:.1e}" for k, v in over.items())
    return found, f"{text} > {limit:g}" if over else ""


def main() -> None:
    interpret = jax.default_backend() != "gpu"
    for name in CHECKS:
        found, problem = check(name, interpret=interpret)
        text = "  ".join(f"{key} {value:.1e}" for key, value in found.items())
        print(f"{name:32} {'WRONG' if problem else 'right'}  {text}", flush=True)


if __name__ == "__main__":
    main()
