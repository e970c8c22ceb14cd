"""Ctrl-C ends a tool with 130 at any moment; what it writes is whole or not there."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from tests import small
from w2v_jax.stopping import INTERRUPTED
from w2v_jax.training.checkpoint import Checkpoints, load_exported
from w2v_jax.training.settings import settings_of, write_settings

ROOT = Path(__file__).parents[2]
NEWEST = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint):
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    variables, config = load_exported(checkpoint)
    described = {key: config[key] for key in ("kind", "model", "alphabet")}
    write_settings(str(folder), settings_of(small.finetuning()), described)
    manager = Checkpoints(folder)
    for step in (NEWEST - 1, NEWEST):
        trees = jax.tree.map(lambda x, step=step: x + step, variables)
        manager.save(step, {"params": trees["params"], "stats": trees.get("stats", {})}, {})
    manager.close()
    return folder


@pytest.fixture(autouse=True)
def heard():
    """What was started in the background inherits a Ctrl-C that is ignored, and passes it on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def begin(run, output):
    """In a process group of its own, as from a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "w2v_jax.export", f"--workdir={run}", f"--output={output}"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def interrupt(process):
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return process.returncode, said, errors


@pytest.mark.parametrize("delay", [0.0, 0.7, 1.4])
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no list of threads")
def test_export(delay, run, tmp_path):
    process = begin(run, tmp_path)
    wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 1, process)  # it listens
    time.sleep(delay)
    status, _, errors = interrupt(process)
    config = tmp_path / "config.json"
    if config.exists():  # all was done, and the interpreter was about to end
        assert status in (0, INTERRUPTED, -signal.SIGINT)
        assert json.loads(config.read_text())["step"] == NEWEST
    else:
        assert status == INTERRUPTED
        assert errors.endswith("\ninterrupted\n")


def test_while_a_checkpoint_is_read(run, tmp_path):
    """No older one is taken for it."""
    meta = run / "checkpoints" / str(NEWEST) / "meta" / "metadata"
    content = meta.read_bytes()
    meta.unlink()
    os.mkfifo(meta)  # a storage that does not answer
    ends = []

    def is_read():
        with contextlib.suppress(OSError):  # nobody reads yet
            ends.append(os.open(meta, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    try:
        process = begin(run, tmp_path / "out")
        wait_for(is_read, process)
        assert interrupt(process)[::2] == (INTERRUPTED, "\ninterrupted\n")
    finally:
        for end in ends:
            os.close(end)
        meta.unlink()
        meta.write_bytes(content)
    assert not (tmp_path / "out").exists()
