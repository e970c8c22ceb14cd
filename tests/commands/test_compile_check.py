"""What compile_check says of a program: memory, operations, collectives, and whether it fits."""

import dataclasses
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import small
from w2v_jax import compile_check
from w2v_jax.errors import UserError
from w2v_jax.measuring.collectives import sent
from w2v_jax.measuring.compiled import Compiled, TooLarge, compile_step, times, too_large
from w2v_jax.measuring.topology import GIB, open_topology
from w2v_jax.training.sharding import make_mesh
from w2v_jax.training.task import LossOutput

# topologies ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["v9:2x2", "v5e", "v5e:2xx2", "cpu:0", "cpu", "v5e:0x4", "gpu:8", "h100", "h100:0", "h100:2x4"],
)
def test_unknown_topologies(name):
    with pytest.raises(UserError, match=r"unknown; write cpu:N, one of v4, .*, or one of h200, "):
        open_topology(name)


def test_more_fake_devices_than_there_are():
    jax.devices()  # the eight of the tests, also where this test is the first
    assert len(open_topology("cpu:4").devices) == 4
    with pytest.raises(UserError, match="8 CPU devices only"):
        open_topology("cpu:9")


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install libtpu .*--topology=cpu:8"):
        open_topology("v5e:2x4")


def test_without_the_compiler_for_gpus(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"plugin for CUDA; pip install .*compile_check_gpu"):
        open_topology("h100:8")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    with pytest.raises(UserError, match=r"needs ptxas.* nvidia-cuda-nvcc"):
        open_topology("h100:8")


@pytest.fixture
def h100():
    pytest.importorskip("jax_cuda13_plugin")
    jax.config.update("jax_enable_compilation_cache", False)  # needs the devices to read from it
    yield open_topology("h100:2")
    jax.config.update("jax_enable_compilation_cache", True)


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


class DenseTask:
    """A step of one square layer, compiled in a second."""

    seed, follower, freeze, freeze_steps = 0, None, "", 0
    optimizer = optax.scale_by_adam()

    def __init__(self, width: int):
        self.width = width

    def schedule(self, step):
        return 0.1

    def init(self):
        return {"params": {"w": jnp.zeros((self.width, self.width))}}

    def loss(self, variables, batch, context):
        y = batch["x"].astype(jnp.float32) @ variables["params"]["w"]
        return (y**2).sum(), LossOutput(jnp.float32(1), {}, {})


def test_tpu_program(v5e):
    mesh = make_mesh({"data": 4}, v5e.devices)
    arrays = {"x": ((2, 64, 1024), np.int16)}
    found = compile_step(DenseTask(1024), mesh, arrays, v5e)
    assert isinstance(found, Compiled)
    parameters = 4 * 1024**2
    assert found.memory.state == 3 * parameters + 8  # the two counters
    assert found.memory.batch == 2 * 16 * 1024 * 2
    assert 0 < found.memory.temporary < 10 * parameters
    assert 3 * parameters < found.memory.total < 5 * parameters
    assert found.traffic["all-reduce"].payload >= parameters


def test_tpu_program_that_does_not_fit(v5e):
    mesh = make_mesh({"data": 4}, v5e.devices)
    found = compile_step(DenseTask(40_000), mesh, {"x": ((1, 64, 40_000), np.int16)}, v5e)
    assert isinstance(found, TooLarge)
    assert found.available == 15.75 * GIB
    assert found.needed > found.available


def test_gpu_program(h100):
    assert (len(h100.devices), h100.devices[0].platform) == (2, "gpu")
    mesh = make_mesh({"data": 2}, h100.devices)
    found = compile_step(DenseTask(1024), mesh, {"x": ((2, 64, 1024), np.int16)}, h100)
    parameters = 4 * 1024**2
    assert found.memory.state == 3 * parameters + 8
    assert found.traffic["all-reduce"].payload >= parameters
    # forward and the gradient of the weights, twice 32 rows of a device
    assert found.flops == 2 * 2 * 2 * 32 * 1024**2
    assert 1e-5 < found.prediction.seconds < 1e-3
    assert "optimizer" in [part.name for part in found.prediction.parts]
    assert found.largest
    assert times(found, h100, 1e9)["communication"] == sent(found.traffic) / 450e9


def test_gpu_that_is_too_small(h100, capsys):
    config = small.pretraining(num_layers=1)
    config.data.update(batch_seconds=32.0, row_multiple=16)
    card = dataclasses.replace(h100.card, memory=2**20)
    (found,) = compile_check.check(config, dataclasses.replace(h100, card=card))
    assert json.loads(json.dumps(found)) == found
    assert not found["fits"]
    text = capsys.readouterr().out
    assert "it does not fit" in text
    assert "remedies" in text
    assert "predicted" in text


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
    config.data.update(batch_seconds=32.0, row_multiple=16)
    config.run.update(accumulation=2)
    (found,) = compile_check.check(config, open_topology("cpu:8"))
    assert json.loads(json.dumps(found)) == found
    # 16 rows of 2 s do as much as 32 of 1 s, and the attention more
    assert (found["rows"], found["audio_seconds"], found["rows_per_device"]) == (16, 2.0, 1)
    parameters = 4 * 3 * 28_000
    assert parameters < found["memory"]["state"] < 1.3 * parameters
    # each micro-batch sums the gradients of the blocks over the devices
    assert found["traffic"]["all-reduce"]["payload"] > 28_000 * 4
    assert found["fits"]
    text = capsys.readouterr().out
    assert "16 rows of 2 s of audio per update (32): 2 micro-batches of 1 rows per device" in text
    assert "all-reduce" in text


def test_finetuning_with_fsdp():
    config = small.finetuning()
    config.data.update(batch_seconds=24.0, row_multiple=8)
    config.run.mesh.update(data=1, fsdp=8)
    (found,) = compile_check.check(config, open_topology("cpu:8"))
    assert (found["rows"], found["audio_seconds"]) == (8, 3.0)
    assert found["traffic"]["all-gather"]["payload"] > 0


def test_rows_that_cannot_be_cut():
    config = small.pretraining()
    with pytest.raises(UserError, match=r"row_multiple=8"):
        compile_check.check(config, open_topology("cpu:8"))
