"""Beam search: what trying all texts finds, with and without a language model."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from w2v_jax.decoding.beam import BeamOptions, BeamSearch, natural_weight
from w2v_jax.decoding.greedy import best_path
from w2v_jax.decoding.ngram import estimate
from w2v_jax.text.alphabet import Alphabet

ALPHABET = Alphabet(("<pad>", "|", "a", "b"))
LM = estimate([["a"], ["ab", "a"], ["b", "ab"], ["ba"], ["ab"], ["b", "b", "a"]], 2)
WIDE = dict(beam=10_000, threshold=math.inf)


def frames(count, symbols=4, seed=0):
    logits = np.random.default_rng(seed).normal(size=(count, symbols)) * 2
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def exhaustive(log_probs, lm, words, options):
    """{text: score} by summing over all paths."""
    acoustic = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = ALPHABET.decode(best_path(np.array(path), len(path)))
        score = sum(log_probs[t, i] for t, i in enumerate(path))
        acoustic[text] = np.logaddexp(acoustic[text], score)
    scores = {}
    for text, score in acoustic.items():
        if words is not None and not set(text.split()) <= words:
            continue
        language = lm.sentence(text.split()) if lm else 0.0
        scores[text] = score + options.lm_weight * language
        scores[text] += options.word_score * len(text.split())
    return scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lm", [None, LM], ids=["none", "bigram"])
@pytest.mark.parametrize("words", [None, {"a", "ab", "bb"}], ids=["letters", "words"])
def test_as_all_texts_together(seed, lm, words):
    options = BeamOptions(**WIDE, lm_weight=0.8, word_score=0.5, best=100_000)
    log_probs = frames(5, seed=seed)
    expected = exhaustive(log_probs, lm, words, options)
    found = BeamSearch(ALPHABET, lm, words, options)(log_probs)
    assert {x.text for x in found} == expected.keys()
    for x in found:
        assert x.score == pytest.approx(expected[x.text], rel=1e-9)
        if lm:
            assert x.language == pytest.approx(lm.sentence(x.text.split()))
    assert [x.score for x in found] == sorted((x.score for x in found), reverse=True)


def test_a_narrow_beam_is_close():
    options = BeamOptions(beam=30, threshold=20.0, lm_weight=0.8, word_score=0.5)
    same = 0
    for seed in range(20):
        log_probs = frames(7, seed=seed)
        (narrow,) = BeamSearch(ALPHABET, LM, None, options)(log_probs)
        wide = BeamOptions(**WIDE, lm_weight=0.8, word_score=0.5)
        same += narrow.text == BeamSearch(ALPHABET, LM, None, wide)(log_probs)[0].text
    assert same >= 19


def test_few_letters_per_frame():
    log_probs = frames(6, seed=3)
    all_of_them = BeamSearch(ALPHABET, LM, None, BeamOptions(letters=3))(log_probs)
    assert all_of_them == BeamSearch(ALPHABET, LM, None, BeamOptions())(log_probs)
    best = log_probs.copy()
    best[:, 1:][log_probs[:, 1:] < log_probs[:, 1:].max(-1, keepdims=True)] = -np.inf
    one = BeamSearch(ALPHABET, LM, None, BeamOptions(letters=1))(log_probs)
    assert one[0].text == BeamSearch(ALPHABET, LM, None, BeamOptions())(best)[0].text


def test_the_language_model_decides_between_words_that_sound_alike():
    lm = estimate([["a", "b"]] * 5 + [["b", "a"]], 2)
    log_probs = np.full((3, 4), -30.0)
    log_probs[0, 2:] = math.log(0.5)
    log_probs[1, 1] = 0.0
    log_probs[2, 3] = 0.0
    (found,) = BeamSearch(ALPHABET, lm)(log_probs)
    assert found.text == "a b"


def test_silence_and_nothing():
    assert BeamSearch(ALPHABET, LM)(np.zeros((0, 4)))[0].text == ""
    blank = np.full((9, 4), -50.0)
    blank[:, 0] = 0.0
    (found,) = BeamSearch(ALPHABET, LM)(blank)
    assert found.text == ""
    assert found.language == pytest.approx(LM.sentence([]))


def test_a_beam_inside_words_alone_ends_before_them():
    log_probs = np.full((4, 4), -30.0)
    log_probs[[0, 1, 2, 3], [2, 1, 3, 3]] = 0.0  # "a b", and no word is "b"
    (found,) = BeamSearch(ALPHABET, LM, {"a", "ba"}, BeamOptions(beam=1))(log_probs)
    assert found.text == "a"


def test_weights_of_papers():
    """Table 7 of wav2vec 2.0: 2.46 for base-10 logarithms."""
    log10 = LM.sentence(["ab", "a"]) / math.log(10)
    assert natural_weight(2.46) * LM.sentence(["ab", "a"]) == pytest.approx(2.46 * log10)
