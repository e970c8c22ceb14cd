"""Small slices of tests/measure/fuzz_audio.py and fuzz_configs.py."""

import pytest

from tests.measure import fuzz_configs
from tests.measure.fuzz_audio import KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_counted(kind):
    if kind == "m4a":
        pytest.importorskip("av")
    unreadable, by_damage, slowest, _ = fuzz(kind, 30)
    assert 8 < unreadable <= 30
    assert by_damage["empty"] > 0
    assert slowest < 10


def test_damaged_configs_run_or_are_refused(tmp_path):
    counts, failed = fuzz_configs.fuzz(30, 3, fuzz_configs.corpora(tmp_path))
    assert not failed, failed[0][1]
    assert counts["runs"] > 1
    assert counts["refused"] > 15
