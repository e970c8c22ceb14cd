"""What the terminal says while a model trains, on a clock of our own."""

import numpy as np
import pytest

from w2v_jax.training import progress
from w2v_jax.training.metrics import AUDIO
from w2v_jax.training.progress import Progress

CLOCK = {"seconds_trained": 0.0, "hours_heard": 0.0}


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def updates(meter, clock, seconds, length=64_000):
    """An update for each of `seconds`, of a batch of 6 rows."""
    batch = {"audio": np.zeros((1, 6, length), np.int16), "length": np.zeros((1, 6), np.int32)}
    for took in seconds:
        with meter.update(batch):
            clock.now += took


def test_compiling_counts_to_no_rate(clock):
    meter = Progress(0, 100, CLOCK, AUDIO)
    updates(meter, clock, [30.0])
    clock.now += 2.0  # the device still computes when the call is back
    scalars = meter.rates(1, CLOCK, 0.0)
    assert scalars["time/seconds_per_step"] == pytest.approx(2.0)
    assert scalars["time/seconds"] == pytest.approx(32.0)
    assert meter.left(1) == "", "every update so far was compiled"
    updates(meter, clock, [2.0, 4.0])
    meter.rates(3, CLOCK, 0.0)
    assert meter.left(3) == "left 0:04:51"
    updates(meter, clock, [9.0, 3.0, 3.0], length=128_000)
    assert meter.rates(6, CLOCK, 0.0)["time/seconds_per_step"] == pytest.approx(2.0)


def test_the_time_left_is_of_several_windows(clock, capsys):
    meter = Progress(10, 1000, CLOCK, AUDIO)
    updates(meter, clock, [5.0])
    for step in range(11, 31):
        updates(meter, clock, [1.0 if step % 2 else 2.0])
        meter.rates(step, CLOCK, 0.0)
    assert meter.left(30) == "left 0:25:52"  # 1.6 s each, not 2
    updates(meter, clock, [2.0])
    scalars = meter.rates(31, {**CLOCK, "hours_heard": 0.1}, 0.5) | {"train/accuracy": 0.5}
    capsys.readouterr()
    meter.show(31, scalars)
    assert capsys.readouterr().out == (
        "step 31/1000  left 0:25:50  audio 180 h/h  wait 25.0%  accuracy 0.5\n"
    )
