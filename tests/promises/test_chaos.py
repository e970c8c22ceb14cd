"""A slice of `python -m tests.measure.chaos --damage`."""

from tests.measure.chaos import Chaos


def test_killed_runs_end_in_the_same_bits(tmp_path):
    # with a seed whose first two trials end by one of them each
    chaos = Chaos(tmp_path, seed=10, damage=True, steps=16)
    number = 0
    while not {"SIGKILL", "SIGTERM"} <= {seen.partition(",")[0] for seen in chaos.seen}:
        assert chaos.trial(number) == ""
        number += 1
        assert number < 5
