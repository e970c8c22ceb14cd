"""A Transformer language model over the best texts of a beam search (wav2vec 2.0, section 4.3)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from w2v_jax.decoding.beam import Hypothesis
from w2v_jax.decoding.search import SearchOptions
from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.objectives.language import token_log_probs
from w2v_jax.text.alphabet import Alphabet
from w2v_jax.text.vocabulary import Vocabulary, pieces

SHORTEST = 16  # tokens of a row; rows are padded to a power of two


class LanguageScorer:
    """ln p of texts under a language model: `LanguageScorer(*checkpoints.load(path, "language"))`.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        config: Mapping[str, Any],
        alphabet: Alphabet | None = None,
        *,
        batch_tokens: int = 8192,
    ):
        """alphabet: of the recognizer whose texts are to be scored; batch_tokens: at once.

        Raises UserError where the model cannot write what the recognizer writes.
        """
        self.vocabulary = Vocabulary.from_dict(
            config["vocabulary"], Alphabet.from_dict(config["alphabet"])
        )
        if alphabet is not None:
            self.vocabulary.check_writes(alphabet)
        self._batch_tokens = batch_tokens
        self._params = {"params": jax.device_put(variables["params"])}
        self._config = LanguageConfig.from_dict(config["model"], config.get("execution"))
        model = LanguageModel(self._config, len(self.vocabulary))

        def log_probs(params, tokens, length):
            return token_log_probs(model.apply(params, tokens), tokens, length)

        self._log_probs = jax.jit(log_probs)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """ln p of every text, its end included, float64 [texts].

        Words outside the vocabulary count as `<unk>`; what is longer than the rows of the training
        is cut as it was there. Raises TextError for characters that the model does not know.
        """
        rows, owners = [], []
        for i, text in enumerate(texts):
            for piece in pieces(self.vocabulary.encode(text), self._config.max_tokens):
                rows.append(piece)
                owners.append(i)
        sizes = np.array([_power_of_two(max(len(row), SHORTEST)) for row in rows], int)
        scores, owners = np.zeros(len(texts)), np.array(owners, int)
        for size in np.unique(sizes):
            places = np.flatnonzero(sizes == size)
            most = _power_of_two(max(self._batch_tokens // size, 1))
            count = min(_power_of_two(len(places)), most)
            for start in range(0, len(places), count):
                chosen = places[start : start + count]
                tokens, length = np.zeros((count, size), np.int32), np.zeros(count, np.int32)
                for i, place in enumerate(chosen):
                    length[i] = len(rows[place])
                    tokens[i, : length[i]] = rows[place]
                found = jax.device_get(self._log_probs(self._params, tokens, length))
                sums = found.sum(1, dtype=np.float64)[: len(chosen)]
                np.add.at(scores, owners[chosen], sums)
        return scores


def _power_of_two(number: int) -> int:
    """The next one that is not smaller."""
    return 1 << (int(number) - 1).bit_length()


def rescore(
    hypotheses: Sequence[Hypothesis], scores: Sequence[float], options: SearchOptions
) -> list[Hypothesis]:
    """The hypotheses of one utterance with new scores, best first:

        ln p(text | audio) + ngram_weight ln p_ngram + transformer_weight ln p
            + transformer_word_score (number of words)

    scores: ln p of every text, from `LanguageScorer`. An ngram_weight of 0 puts the Transformer in
    the place of the n-gram model, as the paper does. The parts of a hypothesis stay as they are, so
    that it can be scored again with other weights.
    """
    found = [
        dataclasses.replace(
            hypothesis,
            score=hypothesis.acoustic
            + options.ngram_weight * hypothesis.language
            + options.transformer_weight * float(score)
            + options.transformer_word_score * len(hypothesis.text.split()),
        )
        for hypothesis, score in zip(hypotheses, scores, strict=True)
    ]
    return sorted(found, key=lambda hypothesis: -hypothesis.score)
