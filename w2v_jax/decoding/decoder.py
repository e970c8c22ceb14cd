"""From letter probabilities of any length to a text and the times of its words."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from w2v_jax.decoding.alignment import Interval, align
from w2v_jax.decoding.greedy import greedy_text, word_times
from w2v_jax.decoding.pauses import pieces
from w2v_jax.decoding.rescoring import LanguageScorer, rescore
from w2v_jax.decoding.search import SearchOptions, open_search
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import Alphabet

PIECE_FRAMES = 1500  # 30 s of the published models; what a search needs grows with its length


class Decoder:
    """The best path, or the search that the options ask for, rescored where a Transformer is given.

    A search goes through a long recording in pieces, cut at pauses, each a sentence of its own.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        options: SearchOptions,
        language: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
    ):
        """language: variables and config of an exported language model.

        Raises UserError as `open_search` and `LanguageScorer` do.
        """
        self._alphabet, self._options = alphabet, options
        self._scorer = None if language is None else LanguageScorer(*language, alphabet)
        self._search = open_search(alphabet, options) if options.searches else None

    def text(self, log_probs: np.ndarray) -> str:
        """The text for ln p [T, V]."""
        if self._search is None:
            return greedy_text(log_probs, self._alphabet)
        return " ".join(text for _, _, text in self._found(log_probs))

    def words(self, log_probs: np.ndarray, seconds_per_frame: float) -> tuple[str, list[Interval]]:
        """The same text, and when each of its words is spoken.

        Words that cannot be aligned, where a search finds what has no path, share the time of
        their piece by their letters and have the score -inf.
        """
        if self._search is None:
            found = word_times(log_probs, self._alphabet, seconds_per_frame)
            return " ".join(word.text for word in found), found
        texts, found = [], []
        for start, stop, text in self._found(log_probs):
            texts.append(text)
            found += self._aligned(log_probs[start:stop], text, seconds_per_frame, start)
        return " ".join(texts), found

    def _aligned(
        self, log_probs: np.ndarray, text: str, seconds_per_frame: float, start: int
    ) -> list[Interval]:
        offset = start * seconds_per_frame
        try:
            return align(log_probs, text, self._alphabet, seconds_per_frame, offset).words
        except UserError:
            return _shared(text, offset, offset + len(log_probs) * seconds_per_frame)

    def _found(self, log_probs: np.ndarray) -> Iterator[tuple[int, int, str]]:
        """(first frame, end, text) of every piece in which something is said."""
        for start, stop in pieces(log_probs, self._alphabet, PIECE_FRAMES):
            if text := self._searched(log_probs[start:stop]):
                yield start, stop, text

    def _searched(self, log_probs: np.ndarray) -> str:
        hypotheses = self._search(log_probs)
        if self._scorer is not None:
            scores = self._scorer.scores([hypothesis.text for hypothesis in hypotheses])
            hypotheses = rescore(hypotheses, scores, self._options)
        return hypotheses[0].text


def _shared(text: str, start: float, end: float) -> list[Interval]:
    words = text.split()
    ends = np.cumsum([len(word) for word in words])
    edges = start + (end - start) * np.concatenate([[0.0], ends / ends[-1]])
    return [
        Interval(word, float(a), float(b), -math.inf)
        for word, a, b in zip(words, edges, edges[1:], strict=False)
    ]
