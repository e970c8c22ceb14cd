"""What does not fit is said before anything large is read or made; nothing is compiled twice."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import small
from w2v_jax.errors import UserError
from w2v_jax.measuring import fitting
from w2v_jax.measuring.compiled import Memory
from w2v_jax.measuring.fitting import FittingStep, device_bytes, host_bytes
from w2v_jax.run import run
from w2v_jax.training.metrics import AUDIO
from w2v_jax.training.sharding import batch_sharding, make_mesh
from w2v_jax.training.state import first_state
from w2v_jax.training.task import LossOutput

ARRAYS = {"audio": ((1, 2, 16000), np.int16)}


class Line:
    """A training of four numbers, which compiles at once."""

    seed, follower, freeze, freeze_steps = 0, None, "", 0
    optimizer, schedule = optax.scale(1.0), staticmethod(lambda step: 0.1)
    traced = 0

    def init(self):
        return {"params": {"w": jnp.ones(4)}}

    def loss(self, variables, batch, context):
        Line.traced += 1
        squares = jnp.square(batch["audio"].reshape(-1, 4) * variables["params"]["w"])
        one = jnp.float32(1)
        return squares.sum(), LossOutput(one, {"train/squares": (squares.sum(), one)}, {})


@pytest.fixture
def step():
    return FittingStep(Line(), make_mesh({"data": 1}, jax.devices()[:1]), "batch_seconds", AUDIO)


def test_compiled_once_and_compared(step, monkeypatch, capsys):
    memory = step.compile(ARRAYS)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("compiling the update for 2 rows of 1 s of audio (done once for each")
    assert second.startswith("compiled in ")
    assert memory.total >= memory.state + memory.batch > 64000
    traced = Line.traced
    batch = {"audio": jax.device_put(np.ones((1, 2, 16000), np.int16), batch_sharding(step._mesh))}
    _, metrics = step(first_state(step._task, step._mesh), batch)
    assert jax.device_get(metrics["train/squares"][0]) == 32000
    assert Line.traced == traced, "a call finds the program"

    monkeypatch.setattr(fitting, "device_bytes", lambda mesh: memory.total + memory.batch - 1)
    step.compile(ARRAYS)  # a host that is short of memory for a while ends no run
    step = FittingStep(Line(), step._mesh, "batch_seconds", AUDIO)
    step.check_held({"audio": ((1, 1, 16000), np.int16)})
    words = r"does not fit: it needs .* GB of a device .* which has .*lower --config.data.batch_sec"
    with pytest.raises(UserError, match=words):
        step.compile(ARRAYS)
    monkeypatch.setattr(fitting, "device_bytes", lambda mesh: memory.batch)
    with pytest.raises(UserError, match="even without intermediate results"):
        step.check_held(ARRAYS)


OTHER = {"audio": ((1, 4, 8000), np.int16)}


def test_side_by_side(step, capsys):
    step.prepare([ARRAYS, OTHER])
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("compiling the update for 2 shapes of batches side by side (done once")
    assert last.startswith("all are compiled after ")
    traced = Line.traced
    state = first_state(step._task, step._mesh)
    for arrays in (OTHER, ARRAYS):
        audio = np.ones(*arrays["audio"])
        batch = {"audio": jax.device_put(audio, batch_sharding(step._mesh))}
        state, _ = step(state, batch)
    assert Line.traced == traced, "calls find both programs"


def test_a_second_start_goes_on_with_the_first_shape(step, monkeypatch, capsys):
    """Where programs are only read, the training waits for none that it does not need yet."""
    go, compiled = threading.Event(), []

    def slow(arrays):
        if arrays is OTHER:
            assert go.wait(30)
        compiled.append(arrays)
        return Memory(1, 1, 1, 1, 0), True

    monkeypatch.setattr(step, "_compile", slow)
    step.prepare([ARRAYS, OTHER])
    assert compiled == [ARRAYS]
    assert "the first is read after" in capsys.readouterr().out
    go.set()
    assert step.compile(OTHER) == Memory(1, 1, 1, 1, 0)
    assert compiled == [ARRAYS, OTHER]


def test_a_first_start_says_what_does_not_fit_before_it_trains(step, monkeypatch):
    def refusing(arrays):
        if arrays is OTHER:
            raise UserError("an update does not fit")
        return None, False

    monkeypatch.setattr(step, "_compile", refusing)
    with pytest.raises(UserError, match="does not fit"):
        step.prepare([ARRAYS, OTHER])


def test_programs_that_are_read_are_heard(tmp_path):
    """In a process of its own: what is compiled once, and where it is kept, is the process's."""
    program = (
        "import jax, jax.numpy as jnp\n"
        "from w2v_jax.measuring import fitting\n"
        f"jax.config.update('jax_compilation_cache_dir', {str(tmp_path)!r})\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))\n"
        "print(fitting._reads.count)\n"
    )
    counts = [int(subprocess.check_output([sys.executable, "-c", program])) for _ in range(2)]
    assert counts[0] == 0 < counts[1]


@pytest.mark.parametrize("dry", [True, False])
def test_a_run_that_cannot_be(dry, manifests, tmp_path, monkeypatch):
    """At once: no batch of an hour is read, nothing is compiled."""
    monkeypatch.setattr(fitting, "host_bytes", lambda: 2**33)
    config = small.pretraining()
    config.data.update(train=manifests["train"], row_multiple=8, batch_seconds=1e6)
    config.run.dry_run = dry
    with pytest.raises(UserError, match=r"does not fit: .*batch_seconds, .*accumulation .*rem"):
        run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_allocation_that_fails(step):
    for error in (MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")):
        with pytest.raises(UserError, match="an update does not fit"), step.speaking():
            raise error
    with pytest.raises(jax.errors.JaxRuntimeError), step.speaking():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_memory_that_is_there():
    assert 2**28 < host_bytes() < 2**45
    mesh = make_mesh({"data": 8})
    assert device_bytes(mesh) == pytest.approx(host_bytes() / 8, rel=0.2)
