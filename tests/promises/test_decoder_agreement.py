"""What tests/measure/decoder_agreement.py judges decoders by."""

import itertools

import numpy as np
import pytest

from tests.measure.decoder_agreement import acoustic, reason
from w2v_jax.decoding.greedy import best_path
from w2v_jax.text.alphabet import Alphabet

ALPHABET = Alphabet.from_letters("AB")


@pytest.mark.parametrize("add", [np.logaddexp, np.maximum])
def test_acoustic_is_what_the_alignments_of_a_text_give(add):
    log_probs = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 6))
    expected: dict[str, float] = {}
    for path in itertools.product(range(4), repeat=6):
        text = ALPHABET.decode(best_path(np.array(path), 6))
        chance = log_probs[range(6), path].sum()
        expected[text] = add(expected.get(text, -np.inf), chance)
    assert {"", "A B", "AA", "B A AB"} < expected.keys()
    for text, chance in expected.items():
        assert acoustic(log_probs, text, ALPHABET, add) == pytest.approx(chance, abs=1e-9)


def test_reasons_of_differences():
    """Scores over all alignments and over the best one, of our text and of the other."""
    assert reason((-2.0, -9.0), (-1.0, -9.5), 1) == "ours missed it"
    assert reason((-1.0, -3.0), (-2.0, -4.0), 1) == "the other missed it"
    assert reason((-1.0, -5.0), (-2.0, -4.0), 1) == "another objective"
    assert reason((-1.0, -5.0), (-2.0, -4.0), 0) == "the other missed it"
    assert reason((-1.0, -5.0), (-1.0, -5.0), 0) == "equal scores"
