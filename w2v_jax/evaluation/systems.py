"""The rows of a table of results: the same letter probabilities decoded by ever more knowledge."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from w2v_jax.decoding.beam import Hypothesis
from w2v_jax.decoding.greedy import greedy_text
from w2v_jax.decoding.rescoring import LanguageScorer, rescore
from w2v_jax.decoding.search import Searches, SearchOptions
from w2v_jax.evaluation.scoring import score
from w2v_jax.evaluation.tuning import Trial, best, tune
from w2v_jax.text.alphabet import Alphabet

GREEDY, NGRAM, TRANSFORMER = "greedy", "n-gram", "Transformer"


@dataclasses.dataclass(frozen=True)
class Decoded:
    """The texts that one system found, and the seconds that it took beside the acoustic model: with
    those of the search that a Transformer builds on, what is compiled and processes that start."""

    system: str
    models: str  # files of what it knows of the language
    weights: str
    texts: tuple[str, ...]
    seconds: float


class Systems:
    """Greedy decoding, the search with an n-gram model or a lexicon, and the Transformer, as far as
    the options ask for them. Each begins with what the one before found."""

    def __init__(
        self,
        alphabet: Alphabet,
        options: SearchOptions,
        scorer: LanguageScorer | None,
        processes: int = 1,
    ):
        self._alphabet, self.options, self._scorer = alphabet, options, scorer
        self._searches = None
        if options.searches:
            self._searches = Searches(alphabet, options, processes)

    def tune(
        self, utterances: Sequence[np.ndarray], references: Sequence[str], trials: int
    ) -> dict[str, list[Trial]]:
        """Finds the weights with the fewest word errors on ln p [T, V] of a development set, and
        uses them from here on. The n-gram's come first; the Transformer scores what it found."""
        tried = {}
        if self.options.lm:

            def by_search(*weights: float) -> float:
                found = self._searches(utterances, *weights)
                return score(references, [hypotheses[0].text for hypotheses in found]).wer

            tried[NGRAM] = tune(by_search, trials)
            chosen = best(tried[NGRAM])
            self.options = dataclasses.replace(
                self.options, lm_weight=chosen.lm_weight, word_score=chosen.word_score
            )
        if self._scorer is not None:
            lists = self._search(utterances)
            language = [self._language(hypotheses) for hypotheses in lists]

            def with_weights(weight: float, word_score: float) -> SearchOptions:
                return dataclasses.replace(
                    self.options, transformer_weight=weight, transformer_word_score=word_score
                )

            def by_rescoring(*weights: float) -> float:
                options = with_weights(*weights)
                pairs = zip(lists, language, strict=True)
                return score(references, [rescore(*x, options)[0].text for x in pairs]).wer

            tried[TRANSFORMER] = tune(by_rescoring, 4 * trials)  # cheap: nothing is searched for
            chosen = best(tried[TRANSFORMER])
            self.options = with_weights(chosen.lm_weight, chosen.word_score)
        return tried

    def __call__(self, utterances: Sequence[np.ndarray]) -> list[Decoded]:
        """What each system finds for ln p [T, V] of every utterance."""
        options = self.options
        start = time.perf_counter()
        texts = tuple(greedy_text(log_probs, self._alphabet) for log_probs in utterances)
        found = [Decoded(GREEDY, "", "", texts, time.perf_counter() - start)]
        if self._searches is None:
            return found
        start = time.perf_counter()
        lists = self._search(utterances)
        seconds = time.perf_counter() - start
        lm_weight = f"{options.lm_weight:.3g}" if options.lm else "-"
        weights = f"{lm_weight}, {options.word_score:.3g}"
        name = NGRAM if options.lm else "lexicon" if options.lexicon else "beam"
        texts = tuple(hypotheses[0].text for hypotheses in lists)
        models = ", ".join(filter(None, (options.lm, options.lexicon)))
        found.append(Decoded(name, models, weights, texts, seconds))
        if self._scorer is None:
            return found
        start = time.perf_counter()
        texts = tuple(rescore(x, self._language(x), options)[0].text for x in lists)
        seconds += time.perf_counter() - start
        weights = f"{options.transformer_weight:.3g}, {options.transformer_word_score:.3g}"
        if options.ngram_weight:
            weights += f", n-gram {options.ngram_weight:.3g}"
        models = ", ".join(filter(None, (options.transformer_lm, models)))
        return [*found, Decoded(TRANSFORMER, models, weights, texts, seconds)]

    def close(self) -> None:
        if self._searches is not None:
            self._searches.close()

    def _search(self, utterances: Sequence[np.ndarray]) -> list[list[Hypothesis]]:
        weights = self.options.lm_weight, self.options.word_score
        return list(self._searches(utterances, *weights))

    def _language(self, hypotheses: Sequence[Hypothesis]) -> np.ndarray:
        return self._scorer.scores([hypothesis.text for hypothesis in hypotheses])
