"""How units are measured: against counts that are worked out by hand, and a slow twin."""

import numpy as np
import pytest

from w2v_jax.analysis.agreement import (
    agreement,
    counts_of,
    joint_counts,
    perplexity,
    table,
    usage,
    usage_table,
)
from w2v_jax.analysis.labels import Intervals, Labels
from w2v_jax.data.sharing import Ragged
from w2v_jax.data.units import Units


def test_numbers_of_two_phones():
    found = agreement(np.array([[4, 1], [0, 5]]))
    assert found.frames == 10
    assert found.information == pytest.approx(0.42281, abs=5e-6)
    assert found.normalized == pytest.approx(0.60999, abs=5e-6)
    assert found.information / found.unit_entropy == pytest.approx(0.62824, abs=5e-6)
    assert (found.label_purity, found.unit_purity) == (0.9, 0.9)
    # labels and units are not the same: phone purity is a maximum over phones
    skewed = agreement(np.array([[4, 1, 1], [0, 2, 2]]))
    assert (skewed.label_purity, skewed.unit_purity) == (0.8, 0.6)


def test_nothing_and_everything():
    assert agreement(np.diag([3, 3, 3])).normalized == pytest.approx(1)
    assert agreement(np.full((3, 4), 7)).normalized == pytest.approx(0, abs=1e-12)
    assert agreement(np.array([[2, 3]])).normalized == 0  # a label that says nothing
    with pytest.raises(ValueError, match="no frame"):
        agreement(np.zeros((2, 2)))


def test_usage_of_units():
    units = Ragged.of([np.array(x, np.uint16) for x in ([1, 1, 1, 2], [], [2, 2], [0])])
    found = usage(units, 8)
    # runs: 111 2 | 22 | 0
    assert (found.frames, found.mean_run, found.used) == (7, 7 / 4, 3 / 8)
    shares = np.array([1, 3, 3]) / 7
    assert found.perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert perplexity(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)


def test_counts_of_frames():
    """A frame has the label in the middle of what it sees; of the other rows nothing counts."""
    units = Units(
        Ragged.of([np.array([0, 1, 2, 2], np.uint16), np.array([1], np.uint16)]), 100.0, 3,
        {"middle": 0.0125},
    )  # fmt: skip
    # middles: 12.5, 22.5, 32.5, 42.5 ms
    said = Intervals(np.array([1, 0]), np.array([0.0, 0.03]), np.array([0.02, 0.04]))
    labels = Labels("phones", ["A", "B"], [said, None], 1.0, [], [])
    assert counts_of(units, labels).tolist() == [[0, 0, 1], [1, 0, 0]]
    counts = joint_counts(np.array([-1, 0, 0, 1]), np.array([2, 2, 2, 0], np.uint16), (2, 3))
    assert counts.tolist() == [[0, 0, 2], [1, 0, 0]]


def test_only_of_phones_it_is_pnmi():
    found = agreement(np.array([[4, 1], [0, 5]]))
    assert "PNMI                       0.6100" in table(found, "phones")
    assert "phone purity               0.9000" in table(found, "phones")
    for kind, name in (("letters", "letter NMI"), ("words", "word NMI"), ("tones", "tone NMI")):
        assert "PNMI" not in table(found, kind)
        assert f"{name} " in table(found, kind)
    assert "mean run" in usage_table(usage(Ragged.of([np.array([0, 0])]), 2), 2)
