"""A small slice of tests/measure/fuzz_text.py: used, or refused in a paragraph."""

import pytest

from tests.measure.fuzz_text import KINDS, fuzz
from w2v_jax.decoding.flashlight import is_installed


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind):
    if "KenLM" in kind and not is_installed():
        pytest.skip("flashlight is not installed")
    count = 30 if kind == "vocab.json" else 80
    used, refused, _ = fuzz(kind, count, seed=3)
    assert used + refused.total() == count
    assert refused
