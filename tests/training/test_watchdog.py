"""The watchdog barks at a hang, says where, and at nothing else."""

import ctypes
import io
import sys
import threading
import time

from w2v_jax.training.watchdog import Watchdog

LONG = 0.25  # seconds without a beat


def wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def dumps(folder, process=0):
    path = folder / f"stacks-{process}.txt"
    return path.read_text().count("Current thread") if path.exists() else 0


def a_place_where_a_thread_hangs(event):
    event.wait()


def test_a_hang_is_dumped_and_named(tmp_path, caplog, capfd):
    release = threading.Event()
    hanging = threading.Thread(target=a_place_where_a_thread_hangs, args=(release,))
    hanging.start()
    with Watchdog(LONG, tmp_path / "run", process=3) as watchdog:
        watchdog.beat(41)
        wait_for(lambda: len(caplog.messages) >= 2)  # again after as long
    release.set()
    hanging.join()
    text = (tmp_path / "run" / "stacks-3.txt").read_text()
    assert dumps(tmp_path / "run", 3) >= 2
    assert "after step 41" in text
    assert "a_place_where_a_thread_hangs" in text
    assert "test_a_hang_is_dumped_and_named" in text, "the main thread is missing"
    assert "a_place_where_a_thread_hangs" in capfd.readouterr().err
    first = caplog.messages[0]
    assert "the last was step 41" in first
    assert "stacks-3.txt" in first
    assert "hang_seconds" in first


def test_before_the_first_update_it_speaks_of_the_compilation(tmp_path, caplog):
    with Watchdog(LONG, tmp_path):
        wait_for(lambda: caplog.messages)
    assert "compilation" in caplog.messages[0]
    assert "since the start" in (tmp_path / "stacks-0.txt").read_text()


def test_silent_while_updates_finish_and_after_the_end(tmp_path, caplog):
    with Watchdog(4 * LONG, tmp_path) as watchdog:
        for step in range(30):  # twice as long as the limit
            watchdog.beat(step)
            time.sleep(LONG / 4)
        before = time.monotonic()
    assert time.monotonic() - before < LONG, "did not end at once"
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}
    time.sleep(5 * LONG)
    assert not caplog.messages
    assert not list(tmp_path.iterdir())


def test_zero_seconds_switch_it_off(tmp_path):
    with Watchdog(0, tmp_path) as watchdog:
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}
        watchdog.beat(1)


def test_stderr_without_a_descriptor_and_a_folder_that_cannot_be(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    (tmp_path / "file").touch()
    with Watchdog(LONG, tmp_path), Watchdog(LONG, tmp_path / "file"):
        wait_for(lambda: len(caplog.messages) >= 2)
    assert dumps(tmp_path) >= 1
    assert any("cannot be written" in message for message in caplog.messages)


def test_a_thread_that_keeps_the_interpreter_to_itself(tmp_path, capfd):
    with Watchdog(LONG, tmp_path) as watchdog:
        time.sleep(LONG / 2)
        watchdog.beat(1)
        ctypes.PyDLL(None).usleep(int(3 * LONG * 1e6))  # PyDLL does not let go of the lock
        assert "Timeout" in capfd.readouterr().err
