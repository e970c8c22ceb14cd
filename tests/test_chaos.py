"""A slice of `python -m tests.chaos`: two trials, the second with damaged checkpoints."""

import pytest

from tests.chaos import Chaos


@pytest.mark.parametrize("damage", [False, True])
def test_killed_runs_end_in_the_same_bits(tmp_path, damage):
    chaos = Chaos(tmp_path, seed=2, damage=damage)
    assert chaos.trial(0) == ""
    assert chaos.seen["SIGKILL"] + chaos.seen["SIGTERM"] >= 1
