"""The rows of a table of results, and weights that are tuned for them."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.decoding.test_beam import ALPHABET, frames
from w2v_jax.decoding.rescoring import LanguageScorer
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.evaluation.scoring import score
from w2v_jax.evaluation.systems import GREEDY, NGRAM, TRANSFORMER, Systems
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.text.vocabulary import Vocabulary

UTTERANCES = [frames(9, seed=seed) for seed in range(12)]


@pytest.fixture(scope="module")
def scorer():
    vocabulary = Vocabulary(ALPHABET)
    config = LanguageConfig(width=16, num_layers=1, num_heads=2, feed_forward=32)
    model = LanguageModel(config, len(vocabulary))
    tokens = np.zeros((1, 16), np.int32)
    variables = nn.meta.unbox(jax.jit(lambda: model.init(jax.random.key(0), tokens))())
    described = {
        "model": config.to_dict(), "vocabulary": vocabulary.to_dict(),
        "alphabet": ALPHABET.to_dict(),
    }  # fmt: skip
    return LanguageScorer(variables, described, ALPHABET)


def options(arpa, **more):
    return SearchOptions(lm=arpa, library="python", any_word=True, **more)


def test_as_many_rows_as_there_are_models(arpa, scorer):
    assert [x.system for x in Systems(ALPHABET, SearchOptions(), None)(UTTERANCES)] == [GREEDY]
    found = Systems(ALPHABET, options(arpa, transformer_weight=2.0), scorer)(UTTERANCES)
    assert [x.system for x in found] == [GREEDY, NGRAM, TRANSFORMER]
    assert [x.models for x in found] == ["", arpa, arpa]
    assert len({x.texts for x in found}) == 3
    for x in found:
        assert len(x.texts) == len(UTTERANCES)


def test_a_transformer_without_weight_leaves_the_order_of_the_others(arpa, scorer):
    weights = dict(lm_weight=0.7, word_score=-0.5)
    both = options(
        arpa, **weights, transformer_weight=0.0, transformer_word_score=-0.5, ngram_weight=0.7
    )
    _, ngram, transformer = Systems(ALPHABET, both, scorer)(UTTERANCES)
    assert transformer.texts == ngram.texts


def test_tuning_finds_the_weights_that_made_the_references(arpa, scorer):
    made = Systems(ALPHABET, options(arpa, lm_weight=1.0, word_score=1.0), None)
    references = [text or "a" for text in made(UTTERANCES)[1].texts]
    systems = Systems(ALPHABET, options(arpa, lm_weight=5.0, word_score=-5.0), scorer)
    before = score(references, systems(UTTERANCES)[1].texts).wer
    trials = systems.tune(UTTERANCES, references, 24)
    assert set(trials) == {NGRAM, TRANSFORMER}
    _, ngram, transformer = systems(UTTERANCES)
    found = score(references, ngram.texts).wer
    assert found == min(trial.wer for trial in trials[NGRAM])
    assert found < 0.3 * before
    # the best pair is in use for the Transformer, too
    assert score(references, transformer.texts).wer == min(x.wer for x in trials[TRANSFORMER])
