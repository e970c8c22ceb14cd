"""The search by flashlight: it finds the texts of our own search, at their scores."""

import numpy as np
import pytest

from tests.decoding.test_beam import ALPHABET, LM, frames
from w2v_jax.decoding.beam import BeamOptions, BeamSearch
from w2v_jax.decoding.flashlight import FlashlightSearch
from w2v_jax.errors import UserError

pytest.importorskip("flashlight.lib.text")

WORDS = {"a", "b", "ab", "ba"}
OPTIONS = BeamOptions(beam=5000, threshold=1e6, lm_weight=0.8, word_score=0.5, best=50)


def sharpened(log_probs):
    """One alignment of a text then outweighs all others."""
    log_probs = log_probs * 40
    top = log_probs.max(-1, keepdims=True)
    return log_probs - top - np.log(np.exp(log_probs - top).sum(-1, keepdims=True))


@pytest.mark.parametrize("seed", range(5))
def test_texts_and_scores(arpa, seed):
    log_probs = sharpened(frames(6, seed=seed))
    ours = BeamSearch(ALPHABET, LM, WORDS, OPTIONS)(log_probs)
    theirs = FlashlightSearch(ALPHABET, arpa, WORDS, OPTIONS)(log_probs)
    assert theirs[0].text == ours[0].text
    ours = {x.text: x for x in ours}
    for found in theirs[:5]:
        expected = ours[found.text]
        assert found.language == pytest.approx(expected.language, abs=1e-4)
        assert found.acoustic == pytest.approx(expected.acoustic, abs=2.0)
        assert found.score == pytest.approx(expected.score, abs=2.0)
        parts = found.acoustic + 0.8 * found.language + 0.5 * len(found.text.split())
        assert found.score == pytest.approx(parts, abs=1e-3)


def test_without_a_model():
    log_probs = sharpened(frames(6, seed=1))
    (found,) = FlashlightSearch(ALPHABET, "", WORDS, BeamOptions(word_score=0.0))(log_probs)
    assert found.language == 0.0
    assert found.text == BeamSearch(ALPHABET, None, WORDS, OPTIONS)(log_probs)[0].text


def test_nothing_said(arpa):
    search = FlashlightSearch(ALPHABET, arpa, WORDS, OPTIONS)
    assert search(np.zeros((0, 4)))[0].text == ""
    silence = np.log(np.full((9, 4), 1e-9))
    silence[:, 0] = 0.0
    assert search(silence)[0].text == ""


def test_a_model_that_is_none(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text("once upon a time\n")
    with pytest.raises(UserError, match=r"lm\.arpa cannot be read"):
        FlashlightSearch(ALPHABET, str(path), WORDS)
