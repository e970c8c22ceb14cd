"""The kernels compile for cards of little and of much memory that its threads share, where the
compiler for GPUs is installed (the extra compile_check_gpu; no GPU is needed)."""

import jax
import jax.numpy as jnp
import pytest

from w2v_jax.measuring.gpu_cards import OPTIONS
from w2v_jax.measuring.topology import open_topology
from w2v_jax.models.kernels.fused_attention import fused_attention
from w2v_jax.models.kernels.fused_depthwise import fused_depthwise
from w2v_jax.training.sharding import make_mesh, replicated


@pytest.fixture
def compiler():
    pytest.importorskip("jax_cuda13_plugin")
    jax.config.update("jax_enable_compilation_cache", False)  # needs the devices to read from it
    yield
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.parametrize("card", ["a10:1", "h200:1"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("width", [64, 80, 128])
@pytest.mark.parametrize("relative", [False, True])
def test_attention(compiler, card, dtype, width, relative):
    place = replicated(make_mesh({"data": -1}, open_topology(card).devices))
    array = lambda *shape, dtype=dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=place)  # noqa: E731
    b, t, h = 2, 199, 4
    heads = [array(b, t, h, width)] * 4
    positions = (array(b, t, h, width), array(2 * t - 1, h, width)) if relative else None

    def step(q, k, v, g, positions, length, seeds):
        run = lambda q, k, v, p: fused_attention(q, k, v, length, seeds, p, rate=0.1)  # noqa: E731
        y, pull = jax.vjp(run, q, k, v, positions)
        return y, pull(g)

    lowered = jax.jit(step).lower(
        *heads, positions, array(b, dtype=jnp.int32), array(h, b, t, dtype=jnp.uint32)
    )
    lowered.compile(OPTIONS)


@pytest.mark.parametrize("card", ["a10:1", "h200:1"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_depthwise_convolution(compiler, card, dtype):
    place = replicated(make_mesh({"data": -1}, open_topology(card).devices))
    array = lambda *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=place)  # noqa: E731

    def step(x, kernel, g):
        y, pull = jax.vjp(lambda x, k: fused_depthwise(x, k, 15), x, kernel)
        return y, pull(g)

    x = array(2, 199, 144)
    jax.jit(step).lower(x, array(31, 144), x).compile(OPTIONS)
