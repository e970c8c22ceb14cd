"""What a program for GPUs does and how long it takes, read from its text.

programs/step.hlo: a convolution, a block (a product and our attention kernels) that a conditional
may skip, a loop of 8 turns, and their gradients; compiled for an H200, without the kernels' code.
"""

from pathlib import Path

import pytest

from w2v_jax.measuring import gpu_rates as rates
from w2v_jax.measuring.gpu_alive import alive, place
from w2v_jax.measuring.gpu_cards import CARDS
from w2v_jax.measuring.gpu_program import Array, parse
from w2v_jax.measuring.gpu_time import Timing, predict

H200 = CARDS["h200"]
B, T, H, D = 8, 256, 4, 64  # rows, frames, heads, their width
W = H * D


@pytest.fixture(scope="module")
def program():
    return parse((Path(__file__).parent / "programs/step.hlo").read_text())


@pytest.fixture(scope="module")
def kernels(program):
    return {kernel.name: kernel for kernel in Timing(program, H200, layerdrop=0.25).kernels}


def test_arrays():
    assert Array("bf16", (8, 3), (1, 0)).bytes == 48
    assert Array("pred", (8,), (0,)).bytes == 8
    assert str(Array("c64", (2, 3), (1, 0))) == "c64[2,3]"


def test_products(kernels):
    found = kernels["custom-call.5"]
    assert (found.kind, found.part, found.way) == ("product", "attention projections", "forward")
    assert found.flops == 2 * B * T * W * W
    # its input, its weights and its result, without the scratch of the library
    assert found.bytes == 2 * (2 * B * T * W + W * W)
    launch = rates.LAUNCH + rates.LAUNCH_PRODUCT
    assert found.seconds == pytest.approx(found.bytes / rates.COLUMNS + launch)


@pytest.mark.parametrize("name", ["cudnn-conv.1", "cudnn-conv-bw-filter.1"])
def test_convolutions(kernels, name):
    found = kernels[name]
    assert found.part == "feature encoder, other convolutions"
    assert found.flops == 2 * B * 255 * 3 * W * W
    assert found.way == ("backward" if "bw" in name else "forward")


@pytest.mark.parametrize(
    ("name", "times", "rate"),
    [("pallas_call.3", 4, 194e12), ("pallas_call.10", 8, 270e12), ("pallas_call.13", 6, 305e12)],
)
def test_our_attention(kernels, name, times, rate):
    found = kernels[name]
    assert (found.kind, found.part) == ("kernel", "attention")
    assert found.flops == times * B * T**2 * H * D
    assert found.seconds == pytest.approx(found.flops / rate + rates.LAUNCH)
    assert found.count == 0.75  # LayerDrop


def test_loops(kernels):
    """Every turn reads one row and the sum of the last, and writes a sum."""
    found = kernels["loop_add_fusion.1"]
    assert (found.count, found.part, found.way) == (8, "loss and head", "forward")
    assert found.bytes == 3 * 4 * T * W + 4
    # of an update in place only the slice counts
    assert kernels["loop_dynamic_update_slice_fusion"].bytes == 2 * 4 * T * W + 4


def test_prediction(program):
    found = predict(program, H200, 0.25)
    assert found.seconds == pytest.approx(sum(part.seconds for part in found.parts))
    # two conditionals and two loops
    between = 2 * rates.CONDITIONAL + 16 * rates.TURN_OF_LOOP
    assert found.between == pytest.approx(between)
    parts = {part.name: part for part in found.parts}
    assert {"attention", "attention projections", "loss and head", "optimizer"} < parts.keys()
    whole = predict(program, H200)
    of = {part.name: part for part in whole.parts}
    assert parts["attention"].seconds == pytest.approx(0.75 * of["attention"].seconds)
    assert parts["attention"].seconds == pytest.approx(
        parts["attention"].forward + parts["attention"].backward
    )


def test_other_cards(program):
    """The slower a card's memory and arithmetic, the longer it takes."""
    seconds = [predict(program, CARDS[kind]).seconds for kind in ("h200", "h100", "a100", "a10")]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[-1]


def test_what_is_alive(program):
    found = alive(program, most=100)
    assert found[0].startswith("0.03 GiB in 1 x s8[33554432]")  # of a library
    text = "\n".join(found)
    assert f"bf16[{B},{T},{H},{D}] of attention/attention_forward" in text
    assert "(backward)" in text


def test_place():
    path = "jit(f)/transpose(jvp(M))/encoder/closed_call/layers/cond/branch_1_fun/block/norm/mul"
    assert place(path) == "block/norm (backward)"
    assert place("") == "what is summed"
