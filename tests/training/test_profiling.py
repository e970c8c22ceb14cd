"""The updates asked for are traced, no others, and a trace is always finished."""

import gzip
import json
import re

import jax
import jax.numpy as jnp
import pytest

from w2v_jax.errors import UserError
from w2v_jax.training.profiling import Profile


@jax.jit
def update(x):
    return jnp.tanh(x @ x)


def run(value, folder, steps, *, fails_at=0):
    x = jnp.eye(64)
    with Profile(value, folder) as profile:
        for step in steps:
            profile.before(step)
            x = update(x)
            if step == fails_at:
                raise KeyError(step)
            profile.after(step, x)


def traced(folder):
    """The updates whose annotation is in the trace, and whether the function ran in it."""
    assert len(list(folder.glob("profile/**/*.xplane.pb"))) == 1
    (path,) = folder.glob("profile/**/*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = {int(e["args"]["step_num"]) for e in events if "step_num" in e.get("args", {})}
    return steps, any("update" in e.get("name", "") for e in events)


def test_a_window_inside_the_run(tmp_path, caplog):
    caplog.set_level("INFO")
    run("3:5", tmp_path, range(1, 9))
    assert traced(tmp_path) == ({3, 4, 5}, True)
    (message,) = caplog.messages
    assert str(tmp_path / "profile") in message
    assert "xprof" in message


def test_a_run_that_continues_inside_the_window(tmp_path):
    run("3:5", tmp_path, range(5, 9))
    assert traced(tmp_path) == ({5}, True)


def test_the_end_of_the_run_ends_the_trace(tmp_path):
    run("3:100", tmp_path, range(1, 5))
    assert traced(tmp_path) == ({3, 4}, True)


def test_an_exception_ends_the_trace(tmp_path):
    with pytest.raises(KeyError):
        run("2:100", tmp_path, range(1, 5), fails_at=3)
    assert traced(tmp_path) == ({2, 3}, True)
    with pytest.raises(RuntimeError, match="No profile"):
        jax.profiler.stop_trace()


@pytest.mark.parametrize(
    ("value", "steps", "words"),
    [("3:5", range(6, 9), "at update 6 already"), ("9:9", range(1, 3), "ended before")],
)
def test_a_window_that_is_missed_is_named(tmp_path, caplog, value, steps, words):
    run(value, tmp_path, steps)
    (message,) = caplog.messages
    assert f"profile_steps={value}" in message
    assert words in message
    assert not (tmp_path / "profile").exists()


def test_off(tmp_path, caplog):
    run("", tmp_path, range(1, 3))
    assert not caplog.messages
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("value", ["100", "5:3", "0:3", "a:b", "1:2:3", "-1:2", " 1:2"])
def test_nonsense_is_refused(value):
    with pytest.raises(UserError, match=re.escape(f"profile_steps={value} ")):
        Profile(value, "nowhere")
