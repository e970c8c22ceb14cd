"""SIGTERM and Ctrl-C end a training with 75 at any moment; nothing of it stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import finish
from w2v_jax.data.batches import iterate
from w2v_jax.stopping import PREEMPTED, Stopped, stop

ROOT = Path(__file__).parents[2]
LISTENS = """
import os, sys, time
from w2v_jax.stopping import stop, Stopped

stop.listen()
def ready():
    print("ready", flush=True)
"""
# what the process is doing when the signal comes -> whether its last line is reached
MOMENTS = {
    # a library that the interpreter waits for: no handler of Python's own is called
    "in a library": ("import ctypes; ready()\nwhile 1: ctypes.CDLL(None).sleep(30)", False),
    "in a pipe": ("os.mkfifo(sys.argv[1]); ready(); open(sys.argv[1])", False),
    "in a compilation": ("with stop.held():\n with stop.nothing_to_save(): ready(); time.sleep(30)",
                         False),
    "in a step": ("with stop.held():\n ready()\n while not stop.asked: time.sleep(0.01)\n"
                  " time.sleep(0.3); print('all saved', flush=True)\n stop.leave()", True),
    "asked before": ("with stop.held():\n ready()\n while not stop.asked: time.sleep(0.01)\n"
                     " with stop.nothing_to_save(): time.sleep(30)", False),
}  # fmt: skip


def begin(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS + code, *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_75(moment, number, tmp_path):
    code, saves = MOMENTS[moment]
    process = begin(code, str(tmp_path / "pipe"))
    started = time.monotonic()
    process.send_signal(number)
    status, output = finish(process)
    assert status == PREEMPTED, output
    assert time.monotonic() - started < 10
    assert ("all saved" in output) == saves
    assert "Traceback" not in output


def test_a_second_ctrl_c_ends_a_save(tmp_path):
    """Two at once, as a terminal and a launcher send them, are one; so are two SIGTERM."""
    process = begin("with stop.held():\n ready()\n time.sleep(30)")
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.2)
    time.sleep(1.2)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == PREEMPTED


def test_a_signal_after_the_end_changes_nothing():
    """While the interpreter ends it has no handlers any more."""
    code = "import atexit; atexit.register(lambda: (ready(), time.sleep(0.5))); stop.finish()"
    process = begin(code)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_what_is_to_be_removed_is(tmp_path):
    """And what cannot be written out does not keep it."""
    code = """
def fails(): raise OSError
with stop.leaving(lambda: os.remove(sys.argv[1])), stop.leaving(fails):
    ready(); time.sleep(30)
"""
    (tmp_path / "file").touch()
    process = begin(code, str(tmp_path / "file"))
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == PREEMPTED
    assert not (tmp_path / "file").exists()


class Slow:
    """A loader whose storage does not answer."""

    parts, of = (0,), 1

    def load(self, spec):
        time.sleep(30)

    def note(self, problems):
        pass


def test_a_signal_is_heard_while_a_batch_is_waited_for():
    stream = iterate([None], Slow())
    begun = time.monotonic()
    with stop.held():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            next(stream)
    assert time.monotonic() - begun < 5
    assert not stop.asked, "the next run of this process is asked nothing"


CONFIG = """
from tests import small

def get_config():
    config = small.pretraining()
    config.data.update(crop_seconds=(1.0,))
    config.run.workers = 1
    return config
"""


@pytest.fixture
def training(tmp_path, manifests):
    (tmp_path / "config.py").write_text(CONFIG)
    process = subprocess.Popen(
        [sys.executable, "-m", "w2v_jax.pretrain", f"--config={tmp_path}/config.py",
         f"--workdir={tmp_path}/run", f"--config.data.train={manifests['train']}"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    yield process
    process.kill()


def test_a_signal_while_the_first_update_compiles(tmp_path, training):
    """An exception out of a handler would end the interpreter under XLA's threads: status -11."""
    while "per device; mesh:" not in training.stdout.readline():
        assert training.poll() is None
    time.sleep(1.0)
    begun = time.monotonic()
    training.send_signal(signal.SIGTERM)
    status, output = finish(training)
    assert status == PREEMPTED, output
    assert time.monotonic() - begun < 15
    assert "asked to stop" in output
    assert "Fatal" not in output
    assert not list((tmp_path / "run").glob("*.tmp"))
    assert not (tmp_path / "run" / "run.lock").exists()
