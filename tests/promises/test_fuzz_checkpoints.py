"""A small slice of tests/measure/fuzz_checkpoints.py."""

import pytest

from tests.measure.fuzz_checkpoints import KINDS, fuzz, make_templates, open_checkpoint


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    make_templates(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_whole_ones_are_read(templates, kind):
    template, _, _, opens, opened = KINDS[kind]
    opens(templates / template / opened)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_ones_are_read_or_refused(templates, kind):
    count = 3 if KINDS[kind][3] is open_checkpoint else 20
    counts, wrong, slowest = fuzz(kind, templates, count, seed=1, apart=False)
    assert not wrong
    assert counts["read"] + counts["refused"] == count
    assert slowest < 10
