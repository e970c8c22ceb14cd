"""A small slice of tests/measure/fuzz_audio.py."""

import pytest

from tests.measure.fuzz_audio import KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_counted(kind):
    if kind == "m4a":
        pytest.importorskip("av")
    unreadable, by_damage, slowest, _ = fuzz(kind, 30)
    assert 8 < unreadable <= 30
    assert by_damage["empty"] > 0
    assert slowest < 10
