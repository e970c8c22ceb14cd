"""Scores of texts under a language model, and n-best lists in a new order."""

import jax
import numpy as np
import pytest

from w2v_jax.decoding import rescoring
from w2v_jax.decoding.beam import Hypothesis
from w2v_jax.decoding.rescoring import LanguageScorer, rescore
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.errors import UserError
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.text.alphabet import Alphabet, TextError
from w2v_jax.text.vocabulary import Vocabulary

ALPHABET = Alphabet.from_letters("abcd")
LETTERS = Vocabulary(ALPHABET)
WORDS = Vocabulary.most_frequent(ALPHABET, {"ab": 2, "cd": 1}, 2)
CONFIG = LanguageConfig(width=16, num_layers=2, num_heads=2, feed_forward=32)
TEXTS = ["", "a", "ab cd", "d d d", "abcd " * 5 + "a", "cab", "abcd abcd abcd a", "cab"]


def weights(lm_weight, word_score, **more):
    return SearchOptions(transformer_weight=lm_weight, transformer_word_score=word_score, **more)


def exported(vocabulary):
    """An untrained model, as `load_exported` would return it."""
    model = LanguageModel(CONFIG, len(vocabulary))
    config = {
        "kind": "language", "model": CONFIG.to_dict(), "alphabet": vocabulary.alphabet.to_dict(),
        "vocabulary": vocabulary.to_dict(),
    }  # fmt: skip
    return jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4), np.int32)), config


@pytest.fixture(scope="module")
def scorer():
    return LanguageScorer(*exported(LETTERS), ALPHABET)


@pytest.mark.parametrize("vocabulary", [LETTERS, WORDS], ids=lambda v: v.unit)
def test_scores_are_sums_over_tokens(vocabulary):
    """The end is one of them, and so is `<unk>` among words."""
    variables, config = exported(vocabulary)
    tokens = vocabulary.encode("ab a cd")
    model = LanguageModel(CONFIG, len(vocabulary))
    logits = np.asarray(jax.jit(model.apply)(variables, tokens[None])[0])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = sum(np.log(p[i, tokens[i + 1]]) for i in range(len(tokens) - 1))
    scores = LanguageScorer(variables, config).scores(["ab a cd", "ab bb cd", "ab cd cd"])
    assert scores.dtype == np.float64
    assert scores[0] == pytest.approx(expected, rel=1e-6)
    assert (scores[0] == scores[1]) == (vocabulary is WORDS)
    assert scores[2] != scores[0]


def test_neither_neighbours_nor_padding_change_a_score(scorer, monkeypatch):
    together = scorer.scores(TEXTS)
    alone = np.concatenate([scorer.scores([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    few = LanguageScorer(*exported(LETTERS), batch_tokens=32)  # several batches of a shape
    np.testing.assert_allclose(few.scores(TEXTS), together, rtol=1e-5)
    monkeypatch.setattr(rescoring, "SHORTEST", 64)
    np.testing.assert_allclose(scorer.scores(TEXTS), together, rtol=1e-5)
    assert together[5] == together[7]
    assert len(set(together.round(6))) == len(TEXTS) - 1
    assert len(scorer.scores([])) == 0


def test_long_texts_are_cut_as_in_training(scorer):
    variables, config = exported(LETTERS)
    config["model"]["max_tokens"] = 5
    found = LanguageScorer(variables, config).scores(["abcabc", "ab"])
    log_p = scorer._log_probs  # of rows [1, L]
    parts = [LETTERS.encode("abcabc")[place] for place in (slice(0, 5), slice(4, 8))]
    expected = sum(
        float(log_p(variables, piece[None], np.array([len(piece)])).sum()) for piece in parts
    )
    np.testing.assert_allclose(found, [expected, *scorer.scores(["ab"])], rtol=1e-5)


def test_what_the_model_cannot_write_is_an_error(scorer):
    with pytest.raises(TextError, match="'x'"):
        scorer.scores(["a", "x"])
    with pytest.raises(UserError, match=r"'A', 'B'.*other case.*letters=AB"):
        LanguageScorer(*exported(LETTERS), Alphabet.from_letters("AB"))


def test_rescoring_sorts_by_the_new_sum():
    given = [
        Hypothesis("a b", 0.0, acoustic=-1.0, language=-5.0),
        Hypothesis("ab", -9.0, acoustic=-2.0, language=-1.0),
        Hypothesis("", -9.0, acoustic=-9.0, language=-2.0),
    ]
    found = rescore(given, [-4.0, -2.0, -1.0], weights(0.5, -1.0))
    assert [h.text for h in found] == ["ab", "a b", ""]
    assert [h.score for h in found] == [-2 - 1 - 1, -1 - 2 - 2, -9.5]
    assert {(h.text, h.acoustic, h.language) for h in found} == {
        (h.text, h.acoustic, h.language) for h in given
    }
    again = rescore(found, [-2.0, -4.0, -1.0], weights(0.0, 0.0, ngram_weight=1.0))
    assert [h.score for h in again] == [-3, -6, -11]
    with pytest.raises(ValueError, match="zip"):
        rescore(given, [-1.0], weights(1.0, 0.0))
