"""The search by flashlight: the scores of its texts are ours but for the alignments it leaves out."""

import math

import numpy as np
import pytest

from tests.test_beam import ALPHABET, LM, frames
from w2v_jax.decoding.beam import BeamOptions, BeamSearch
from w2v_jax.decoding.ngram import write_arpa
from w2v_jax.errors import UserError

flashlight = pytest.importorskip("w2v_jax.decoding.flashlight")
pytest.importorskip("flashlight.lib.text")

WORDS = {"a", "b", "ab", "ba"}
OPTIONS = BeamOptions(beam=5000, threshold=1e6, lm_weight=0.8, word_score=0.5, best=50)


@pytest.fixture(scope="module")
def arpa(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("lm") / "lm.arpa")
    write_arpa(LM, path)
    return path


def sharpened(log_probs):
    """Nearly one path: then the best alignment is all there is."""
    log_probs = log_probs * 40
    return log_probs - np.log(np.exp(log_probs).sum(-1, keepdims=True))


@pytest.mark.parametrize("seed", range(5))
def test_scores(arpa, seed):
    log_probs = sharpened(frames(6, seed=seed))
    ours = {x.text: x for x in BeamSearch(ALPHABET, LM, WORDS, OPTIONS)(log_probs)}
    for theirs in flashlight.FlashlightSearch(ALPHABET, arpa, WORDS, OPTIONS)(log_probs)[:5]:
        assert theirs.language == pytest.approx(ours[theirs.text].language, abs=1e-4)
        assert theirs.acoustic == pytest.approx(ours[theirs.text].acoustic, abs=1.0)
        parts = theirs.acoustic + 0.8 * theirs.language + 0.5 * len(theirs.text.split())
        assert theirs.score == pytest.approx(parts, abs=1e-3)
