"""A disk that is full, or a quota: one error with the path, and what was whole stays whole.

A limit of this process stands for it: a file may grow no further.
"""

import contextlib
import os
import resource
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from w2v_jax import command_line
from w2v_jax.errors import UserError
from w2v_jax.places import place, unwritable, write_whole
from w2v_jax.training.checkpoint import Checkpoints, checkpoint_steps, export_model
from w2v_jax.training.writer import Writer, read_lines

# Orbax leaves the other writes of a checkpoint that fails to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
REMEDY = "cannot be written: file too large; make room there and run the same command again"


@contextlib.contextmanager
def room(size: int):
    """No file grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noise(step: int) -> dict:
    """Compression finds nothing in it."""
    rng = np.random.default_rng(step)
    return {"w": jnp.asarray(rng.integers(-(2**31), 2**31, (64, 64), np.int32))}


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, noise(step), {"n": step})
    checkpoints.close()  # a save that goes on fails where it is waited for


@pytest.mark.parametrize("size", [0, 3000])
def test_the_newest_whole_checkpoint_stays_and_the_half_one_goes(tmp_path, size):
    save(Checkpoints(tmp_path, keep_last=1), 1)
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    with room(size), pytest.raises(UserError, match=f"{REMEDY}.*; the checkpoint of step 1 is"):
        save(checkpoints, 2)
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    state, meta = checkpoints.restore(noise(0))
    assert meta == {"n": 1}
    np.testing.assert_array_equal(state["w"], noise(1)["w"])
    save(checkpoints, 2)  # when there is room
    assert checkpoint_steps(tmp_path) == [2]


def test_metrics(tmp_path):
    """The half line is left out when they are read; the events do not hang."""
    writer = Writer(tmp_path, 0)
    writer.write(1, {"a": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with room(size + 5), pytest.raises(UserError, match=f"metrics.jsonl {REMEDY}"):
        writer.write(2, {"a": 2.0})
    with room(60_000), pytest.raises(UserError, match=f"tensorboard {REMEDY}"):
        writer.write(3, {f"a{i}": 2.0 for i in range(2000)})  # events take more
    writer.close()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1]


def test_a_small_file_is_not_left_in_part(tmp_path):
    path = place(tmp_path / "config.json")
    write_whole(path, "old")
    with room(5), pytest.raises(UserError, match=f"config.json {REMEDY}"):
        write_whole(path, "a longer text")
    assert path.read_text() == "old"
    assert [x.name for x in tmp_path.iterdir()] == ["config.json"]


def test_an_export(tmp_path):
    with room(2000), pytest.raises(UserError, match=f"params {REMEDY}"):
        export_model(tmp_path, {"params": noise(1), "stats": {}}, {"kind": "ctc"})
    assert not (tmp_path / "config.json").exists()


def test_what_libraries_say_of_it():
    error = RuntimeError("write() failed: No space left on device; writing x.tmp; at byte 9")
    assert "x cannot be written: no space left on device; make room" in str(unwritable("x", error))


def test_any_tool_ends_without_a_trace(capsys, monkeypatch):
    """An error of the storage that nobody has put into words."""

    def main(argv):
        raise OSError(28, os.strerror(28), "/out/file")

    monkeypatch.setattr(command_line.app, "run", lambda guarded, **_: guarded([]))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(SystemExit) as end:
        command_line.run(main)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: /out/file cannot be written: no space left")
