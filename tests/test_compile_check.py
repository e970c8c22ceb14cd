"""What compile_check says of a program: memory, operations, collectives, and whether it fits."""

import json
import math
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from configs import common
from tests import small
from w2v_jax import compile_check
from w2v_jax.errors import UserError
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.flops import contrastive_flops, encoder_flops, training_flops
from w2v_jax.training.collectives import Traffic, collectives
from w2v_jax.training.compiled import Compiled, TooLarge, compile_step, too_large
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.state import LossOutput, Task
from w2v_jax.training.topology import GIB, open_topology

# collectives -----------------------------------------------------------------------------------


def program(function, sizes=(8, 1)):
    """The text of `function` of one row per device, with mesh axes a and b."""
    mesh = jax.make_mesh(sizes, ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    spec = PartitionSpec(("a", "b"))
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=False
    )
    x = jax.ShapeDtypeStruct((8, 1000), jnp.float32, sharding=NamedSharding(mesh, spec))
    return jax.jit(mapped).lower(x).compile().as_text()


@pytest.mark.parametrize(
    ("name", "function", "expected"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, ("a", "b")), Traffic(1, 4000, 7000)),
        ("all-gather", lambda x: jax.lax.all_gather(x, ("a", "b")), Traffic(1, 32000, 28000)),
        (
            "reduce-scatter",
            lambda x: jax.lax.psum_scatter(x[0], ("a", "b"), tiled=True),
            Traffic(1, 4000, 3500),
        ),
        (
            "all-to-all",
            lambda x: jax.lax.all_to_all(x, ("a", "b"), 1, 0, tiled=True),
            Traffic(1, 4000, 3500),
        ),
        (
            "collective-permute",
            lambda x: jax.lax.ppermute(x, "a", [(i, (i + 1) % 8) for i in range(8)]),
            Traffic(1, 4000, 4000),
        ),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_every_kind(name, function, expected):
    assert collectives(program(function)) == {name: expected}


def test_groups_are_those_of_the_axis():
    found = collectives(program(lambda x: jax.lax.psum(x, "b"), sizes=(2, 4)))
    assert found == {"all-reduce": Traffic(1, 4000, 6000)}


def test_loops_within_loops():
    def inner(x, _):
        return jax.lax.psum(x, ("a", "b")) / 8, None

    def outer(x, _):
        x = jax.lax.scan(inner, x, length=3)[0]
        return jax.lax.all_gather(x, ("a", "b")).sum(0), None

    found = collectives(program(lambda x: jax.lax.scan(outer, x, length=5)[0]))
    assert found == {
        "all-reduce": Traffic(15, 15 * 4000, 15 * 7000),
        "all-gather": Traffic(5, 5 * 32000, 5 * 28000),
    }


TPU = """HloModule jit_step, is_scheduled=true, num_partitions=4

%async_fusion.1 (p: bf16[1,8,64]) -> bf16[1,32,64] {
  %p = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[1,32,64]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={1}, frontend_attributes={chain_id="0"}
}

%async_fusion.2 (p: bf16[1,8,64]) -> bf16[1,32,64] {
  %p = bf16[1,8,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[1,32,64]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={1}, frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.3 (p: bf16[64,8]) -> bf16[16,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  %all-reduce.3 = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%p), channel_id=9, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %slice = bf16[16,8]{1,0} dynamic-slice(%all-reduce.3), dynamic_slice_sizes={16,8}
}

%body (p: (s32[], bf16[1,8,64])) -> (s32[], bf16[1,8,64]) {
  %p = (s32[]{:T(128)}, bf16[1,8,64]{2,1,0}) parameter(0)
  %f.1 = bf16[1,32,64]{2,1,0} fusion(%p), kind=kCustom, calls=%async_fusion.1
  %f.2 = bf16[1,32,64]{2,1,0} fusion(%p), kind=kCustom, calls=%async_fusion.2
  %f.3 = bf16[16,8]{1,0} fusion(%f.2), kind=kCustom, calls=%all-reduce-scatter.3
}

%window (p: (u32[], bf16[10,4])) -> (u32[], bf16[10,4]) {
  %p = (u32[]{:T(128)}, bf16[10,4]{1,0}) parameter(0)
  %there = bf16[10,4]{1,0:T(4,128)(2,1)} collective-permute(%p), channel_id=11, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
}

%window_condition (p: (u32[], bf16[10,4])) -> pred[] {
  %bound.1 = u32[]{:T(128)} constant(8), metadata={op_name="dot_general"}
  %counter.1 = u32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%counter.1, %bound.1), direction=LT
}

%condition (p: (s32[], bf16[1,8,64])) -> pred[] {
  %bound = s32[]{:T(128)} constant(12)
  %p = (s32[]{:T(128)}, bf16[1,8,64]{2,1,0}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%counter, %bound), direction=LT
}

ENTRY %main (p: bf16[1,8,64]) -> bf16[1,8,64] {
  %w = (s32[]{:T(128)}, bf16[1,8,64]{2,1,0}) while(%t), condition=%condition, body=%body
  %v = (u32[]{:T(128)}, bf16[10,4]{1,0}) while(%u), condition=%window_condition, body=%window
  %start = (bf16[10,4]{1,0:T(4,128)(2,1)}, bf16[10,4]{1,0:T(4,128)(2,1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  %done = bf16[10,4]{1,0:T(4,128)(2,1)} collective-permute-done(%start)
  %all = (f32[5]{0:T(256)}, /*index=1*/f32[3]{0}) all-reduce(%y, %z), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, to_apply=%add
}
"""  # noqa: E501


def test_as_tpus_write_them():
    """Pieces of one asynchronous collective, a scatter within a fusion, bounds in a condition."""
    found = collectives(TPU)
    assert found == {
        "all-reduce": Traffic(1, 32, 32),
        "all-gather": Traffic(12, 12 * 4096, 12 * 3072),
        "reduce-scatter": Traffic(12, 12 * 1024, 12 * 768),
        # a loop over windows of a product; one with its two semaphores
        "collective-permute": Traffic(9, 8 * 80 + 84, 8 * 80 + 84),
    }


# operations ------------------------------------------------------------------------------------


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
    encoder = EncoderConfig(pos_conv_method="conv", num_layers=4, **changes)
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


# topologies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:2xx2", "cpu:0", "cpu", "v5e:0x4", "gpu:8"])
def test_unknown_topologies(name):
    with pytest.raises(UserError, match="unknown; write cpu:N"):
        open_topology(name)


def test_more_fake_devices_than_there_are():
    assert len(open_topology("cpu:4").devices) == 4
    with pytest.raises(UserError, match="8 CPU devices only"):
        open_topology("cpu:9")


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install libtpu .*--topology=cpu:8"):
        open_topology("v5e:2x4")


@pytest.fixture(scope="module")
def v5e():
    pytest.importorskip("libtpu")
    jax.devices()  # JAX has read the flags of the tests; libtpu ends the process over unknown ones
    flags = os.environ.pop("XLA_FLAGS")
    yield open_topology("v5e:2x2")
    os.environ["XLA_FLAGS"] = flags


def test_slices(v5e):
    assert (len(v5e.devices), v5e.hbm) == (4, 16 * GIB)
    assert v5e.outgoing == 2 * 50e9  # two open axes
    cube = open_topology("v5p:4x4x4")
    assert cube.outgoing == 6 * 100e9  # three rings
    assert open_topology("v5p:2x2x4").outgoing == 3 * 100e9  # a part of a cube has none
    for sizes in ((8, 8, 1), (2, 32, 1), (2, 8, 4)):  # none of them of whole axes of the torus
        mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)), cube.devices)
        assert mesh.devices.shape == sizes
    with pytest.raises(UserError, match="no slice that libtpu knows"):
        open_topology("v5e:3x5")


# the compiled step -----------------------------------------------------------------------------


def dense_task(width: int) -> Task:
    """A step of one square layer, compiled in a second."""

    def init():
        return {"params": {"w": jnp.zeros((width, width))}}

    def loss(params, stats, batch, step, keys):
        y = batch["x"].astype(jnp.float32) @ params["w"]
        return (y**2).sum(), LossOutput(jnp.float32(1), {}, {})

    return Task(init, loss, optax.scale_by_adam(), lambda step: 0.1, 0)


def test_tpu_program(v5e):
    mesh = make_mesh({"data": 4}, v5e.devices)
    arrays = {"x": ((2, 64, 1024), np.int16)}
    found = compile_step(dense_task(1024), mesh, arrays, v5e)
    assert isinstance(found, Compiled)
    parameters = 4 * 1024**2
    assert found.memory.state == 3 * parameters + 8  # the two counters
    assert found.memory.batch == 2 * 16 * 1024 * 2
    assert 0 < found.memory.temporary < 10 * parameters
    assert 3 * parameters < found.memory.total < 5 * parameters
    assert found.traffic["all-reduce"].payload >= parameters


def test_tpu_program_that_does_not_fit(v5e):
    mesh = make_mesh({"data": 4}, v5e.devices)
    found = compile_step(dense_task(40_000), mesh, {"x": ((1, 64, 40_000), np.int16)}, v5e)
    assert isinstance(found, TooLarge)
    assert found.available == 15.75 * GIB
    assert found.needed > found.available


def test_words_of_a_program_that_does_not_fit():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (30.95G) exceeds available HBM (15.75G). HLO module: jit_x."
    )
    report = (
        "Total bytes: 33236652032 (30.95GiB)\n"
        "    7.45GiB( 16%);  468.75MiB;   1992835072;        2; bf16[30,4], bf16[30,63999,512]\n"
        "   11.23GiB( 24%);    1.83GiB;  25611157504;        2; bf16[1024], f32[30,16,999,999]\n"
    )
    found = too_large(message, report)
    assert (found.needed / GIB, found.available / GIB) == (30.95, 15.75)
    assert found.largest == ["1.83 GiB f32[30,16,999,999]", "0.46 GiB bf16[30,63999,512]"]
    assert math.isnan(too_large("RESOURCE_EXHAUSTED: something else", "").needed)


def test_pretraining(capsys):
    config = small.pretraining()
    config.data.update(batch_seconds=32.0, row_multiple=16, accumulation=2)
    (found,) = compile_check.check(config, open_topology("cpu:8"))
    assert json.loads(json.dumps(found)) == found
    # 16 rows of 2 s do as much as 32 of 1 s, and the attention more
    assert (found["rows"], found["seconds"], found["rows_per_device"]) == (16, 2.0, 1)
    parameters = 4 * 3 * 28_000
    assert parameters < found["memory"]["state"] < 1.3 * parameters
    # each micro-batch sums the gradients of the blocks over the devices
    assert found["traffic"]["all-reduce"]["payload"] > 28_000 * 4
    assert found["fits"]
    text = capsys.readouterr().out
    assert "16 rows of 2 s per update (0.01 h): 2 micro-batches of 1 rows per device" in text
    assert "all-reduce" in text


def test_finetuning_with_fsdp():
    config = small.finetuning()
    config.data.update(batch_seconds=24.0, row_multiple=8)
    config.mesh.update(data=1, fsdp=8)
    (found,) = compile_check.check(config, open_topology("cpu:8"))
    assert (found["rows"], found["seconds"]) == (8, 3.0)
    assert found["traffic"]["all-gather"]["payload"] > 0


def test_rows_that_cannot_be_cut():
    config = small.pretraining()
    with pytest.raises(UserError, match=r"row_multiple=8"):
        compile_check.check(config, open_topology("cpu:8"))
