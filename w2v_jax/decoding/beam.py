"""CTC beam search over words with an n-gram language model.

The score of a text is

    ln p(text | audio) + lm_weight ln p(text) + word_score (number of words)

in natural logarithms; p(text | audio) sums over alignments. Papers that decoded with flashlight and
KenLM give the weight of a base-10 logarithm: see `natural_weight`.
"""

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Collection

import numpy as np

from w2v_jax.decoding.ngram import BEGIN, END, LN10, NGram
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import BOUNDARY, Alphabet

NOTHING = -math.inf


@dataclasses.dataclass(frozen=True)
class BeamOptions:
    """How wide a beam search is, and what it weighs. The weights are fairseq's defaults."""

    beam: int = 50  # hypotheses kept at every frame
    threshold: float = 50.0  # and how much worse than the best one they may be
    letters: int = 0  # letters tried at every frame, the likeliest; 0: all
    lm_weight: float = 2.0 / LN10
    word_score: float = -1.0
    best: int = 1  # hypotheses returned


DEFAULTS = BeamOptions()


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A text and its score, with the parts that it is made of."""

    text: str
    score: float
    acoustic: float  # ln p(text | audio)
    language: float  # ln p(text), end of the sentence included; 0 without a model


def natural_weight(weight: float) -> float:
    """The lm_weight for natural logarithms that equals a published one for base 10."""
    return weight / LN10


class _Language:
    """What is known of the words of a prefix: states of equal content are equal."""

    def __init__(self, lm: NGram | None, words: Collection[str] | None):
        self.lm = lm
        self.words = None if words is None else frozenset(words)
        self._begun = None
        if words is not None:
            self._begun = {word[:end] for word in words for end in range(1, len(word) + 1)}

    def may_begin(self, letters: str) -> bool:
        return self._begun is None or letters in self._begun

    def may_end(self, word: str) -> bool:
        return self.words is None or word in self.words

    def score(self, context: tuple[str, ...], word: str) -> tuple[float, tuple[str, ...]]:
        return (0.0, ()) if self.lm is None else self.lm.score(context, word)


@dataclasses.dataclass(slots=True)
class _Prefix:
    """The texts that begin so: ln p of the frames so far, by what the last of them was."""

    word: str  # the letters of the word that has not ended
    context: tuple[str, ...]  # of the language model
    language: float  # ln p of the words that have ended
    words: int
    blank: float = NOTHING
    other: float = NOTHING  # its last letter, or `|` where no word has begun

    @property
    def acoustic(self) -> float:
        return _sum(self.blank, self.other)


class BeamSearch:
    """Prefix beam search (Hannun et al., arXiv 1408.2873), in Python: for small beams, and where
    flashlight cannot be had."""

    def __init__(
        self,
        alphabet: Alphabet,
        lm: NGram | None = None,
        words: Collection[str] | None = None,
        options: BeamOptions = DEFAULTS,
    ):
        """words: the only ones that may be found; None: any letters."""
        self._alphabet, self._options = alphabet, options
        self._language = _Language(lm, words)
        self._symbols = [
            (i, symbol) for i, symbol in enumerate(alphabet.symbols) if len(symbol) == 1
        ]

    def weighted(self, lm_weight: float, word_score: float) -> "BeamSearch":
        """The same search with other weights."""
        other = copy.copy(self)
        other._options = dataclasses.replace(
            self._options, lm_weight=lm_weight, word_score=word_score
        )
        return other

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """The best texts for ln p [T, V] of the symbols of the alphabet (0 is the blank)."""
        start = (BEGIN,) if self._language.lm else ()
        prefixes = {"": _Prefix("", start, 0.0, 0, blank=0.0)}
        for frame in np.asarray(checked(log_probs), np.float64).tolist():
            prefixes = self._best(self._step(prefixes, frame))
        return self._finished(prefixes)

    def _step(self, prefixes: dict[str, _Prefix], frame: list[float]) -> dict[str, _Prefix]:
        symbols = self._symbols
        if self._options.letters:
            symbols = sorted(symbols, key=lambda s: -frame[s[0]])[: self._options.letters]
        found: dict[str, _Prefix] = {}
        for text, prefix in prefixes.items():
            total = prefix.acoustic
            same = self._same(found, text, prefix)
            same.blank = _sum(same.blank, total + frame[0])
            # no word has begun: another `|` changes nothing
            last = text[-1] if text else BOUNDARY
            for i, symbol in symbols:
                if symbol == last:
                    again = total if symbol == BOUNDARY else prefix.other
                    same.other = _sum(same.other, again + frame[i])
                    if symbol == BOUNDARY:
                        continue
                    chance = prefix.blank + frame[i]
                else:
                    chance = total + frame[i]
                longer = self._longer(found, text, prefix, symbol)
                if longer is not None:
                    longer.other = _sum(longer.other, chance)
        return found

    @staticmethod
    def _same(found: dict[str, _Prefix], text: str, prefix: _Prefix) -> _Prefix:
        if text not in found:
            found[text] = dataclasses.replace(prefix, blank=NOTHING, other=NOTHING)
        return found[text]

    def _longer(
        self, found: dict[str, _Prefix], text: str, prefix: _Prefix, symbol: str
    ) -> _Prefix | None:
        """The prefix with one more symbol; None if no word goes so."""
        longer = found.get(text + symbol)
        if longer is not None:
            return longer
        if symbol != BOUNDARY:
            word = prefix.word + symbol
            if not self._language.may_begin(word):
                return None
            longer = _Prefix(word, prefix.context, prefix.language, prefix.words)
        else:
            if not self._language.may_end(prefix.word):
                return None
            longer = self._ended(prefix)
        found[text + symbol] = longer
        return longer

    def _ended(self, prefix: _Prefix) -> _Prefix:
        """The same with its last word ended."""
        score, context = self._language.score(prefix.context, prefix.word)
        return _Prefix("", context, prefix.language + score, prefix.words + 1)

    def _best(self, prefixes: dict[str, _Prefix]) -> dict[str, _Prefix]:
        scores = {
            text: self._score(prefix.acoustic, prefix.language, prefix.words)
            for text, prefix in prefixes.items()
            if prefix.acoustic > NOTHING
        }
        kept = sorted(scores, key=scores.__getitem__, reverse=True)[: self._options.beam]
        least = scores[kept[0]] - self._options.threshold
        return {text: prefixes[text] for text in kept if scores[text] >= least}

    def _score(self, acoustic: float, language: float, words: int) -> float:
        return acoustic + self._options.lm_weight * language + self._options.word_score * words

    def _finished(self, prefixes: dict[str, _Prefix]) -> list[Hypothesis]:
        acoustic: dict[str, float] = defaultdict(lambda: NOTHING)
        ends: dict[str, tuple[float, int]] = {}
        ended = [
            (text, prefix)
            for text, prefix in prefixes.items()
            if not prefix.word or self._language.may_end(prefix.word)
        ]
        if not ended:  # a narrow beam may be inside words alone: what came before them is left
            ended = [
                (text.removesuffix(prefix.word), dataclasses.replace(prefix, word=""))
                for text, prefix in prefixes.items()
            ]
        for text, prefix in ended:
            end = self._ended(prefix) if prefix.word else prefix
            whole = text.removesuffix(BOUNDARY).replace(BOUNDARY, " ")
            acoustic[whole] = _sum(acoustic[whole], prefix.acoustic)
            ends[whole] = end.language + self._language.score(end.context, END)[0], end.words
        found = [
            Hypothesis(text, self._score(acoustic[text], language, words), acoustic[text], language)
            for text, (language, words) in ends.items()
        ]
        return sorted(found, key=lambda x: -x.score)[: self._options.best]


def checked(log_probs: np.ndarray) -> np.ndarray:
    """ln p as it is. Raises UserError where it is not a number."""
    if np.isnan(log_probs).any():
        raise UserError("the model's output is not a number (NaN); is the checkpoint whole?")
    return log_probs


def _sum(a: float, b: float) -> float:
    """ln(e^a + e^b)"""
    if a < b:
        a, b = b, a
    return a if b == NOTHING else a + math.log1p(math.exp(b - a))
