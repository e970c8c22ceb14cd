"""What a program sends, read from its text: as JAX compiles it here, and as TPUs write it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from w2v_jax.measuring.collectives import Traffic, collectives


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
