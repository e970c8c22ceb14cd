"""Beam search over the words of a lexicon, by flashlight-text with KenLM (`pip install
w2v_jax[decode]`, Python 3.11 and 3.12): what the tables of wav2vec 2.0 were decoded with.

It takes the best alignment of a text where decoding.beam sums over all of them, and bounds what a
word that has begun may still cost by the best word it can become. A word of its lexicon ends with
`|`, which fairseq's models write at the end of a text too, ours do not: a last frame is added in
which it costs nothing.
"""

import copy
import dataclasses
import math
from collections.abc import Collection

import numpy as np

from w2v_jax.decoding.beam import DEFAULTS, BeamOptions, Hypothesis, checked
from w2v_jax.decoding.ngram import ABSENT, LN10, UNKNOWN
from w2v_jax.errors import UserError
from w2v_jax.text.alphabet import BOUNDARY, Alphabet, excerpt

THRESHOLD = 1e9  # stands for none: the library computes with it
IMPOSSIBLE = -1e5


def is_installed() -> bool:
    """Whether the library can be used."""
    try:
        from flashlight.lib.text.decoder import kenlm  # noqa: F401
    except ImportError:
        return False
    return True


class FlashlightSearch:
    """The same calls as `BeamSearch`; only words of the lexicon are found."""

    def __init__(
        self,
        alphabet: Alphabet,
        lm: str,
        words: Collection[str],
        options: BeamOptions = DEFAULTS,
    ):
        """lm: an ARPA file or a binary of KenLM, empty for none; words: spelt with the alphabet.

        Raises UserError where the library is missing or cannot read the model.
        """
        try:
            from flashlight.lib.text import decoder, dictionary
            from flashlight.lib.text.decoder import kenlm
        except ImportError as error:
            raise UserError(
                f"flashlight cannot be imported ({error}); pip install flashlight-text on Python "
                "3.11 or 3.12, or set library=python"
            ) from None
        self._options = options
        self._unit = LN10 if lm else 0.0  # KenLM's logarithms have base 10
        boundary = alphabet.ids[BOUNDARY]
        self._end = np.full((1, len(alphabet)), IMPOSSIBLE, np.float32)
        self._end[0, [0, boundary]] = 0.0
        spellings = {word: [[*word, BOUNDARY]] for word in sorted(words)}
        self._words = dictionary.create_word_dict(spellings | {UNKNOWN: [[]]})
        try:
            self._lm = kenlm.KenLM(lm, self._words) if lm else decoder.ZeroLM()
        # KenLM quotes bytes of the file, which may be no text
        except (RuntimeError, ValueError, MemoryError) as error:
            reason = (str(error).strip().splitlines() or ["no reason is given"])[-1]
            raise UserError(
                f"the language model {lm} cannot be read: {excerpt(reason, 300)}"
            ) from None
        trie, start = decoder.Trie(len(alphabet), boundary), self._lm.start(False)
        _, of_unknown = self._lm.score(start, self._words.get_index(UNKNOWN))
        self.is_closed = of_unknown * LN10 <= ABSENT / 2
        self.unknown = []  # words that score as those do that the model lacks
        for word in spellings:
            index = self._words.get_index(word)
            _, score = self._lm.score(start, index)
            if score == of_unknown:
                self.unknown.append(word)
            trie.insert([*(alphabet.ids[letter] for letter in word), boundary], index, score)
        trie.smear(decoder.SmearingMode.MAX)
        self._parts = (
            trie, self._lm, boundary, 0, self._words.get_index(UNKNOWN), [], False,
        )  # fmt: skip
        self._symbols = len(alphabet)
        self._decoder = self._made()

    def _made(self):
        from flashlight.lib.text import decoder

        options = self._options
        return decoder.LexiconDecoder(
            decoder.LexiconDecoderOptions(
                beam_size=options.beam,
                # the blank counts as one there
                beam_size_token=min(options.letters + 1, self._symbols)
                if options.letters
                else self._symbols,
                beam_threshold=min(options.threshold, THRESHOLD),
                lm_weight=options.lm_weight * self._unit,
                word_score=options.word_score,
                unk_score=-math.inf,
                sil_score=0.0,
                log_add=False,
                criterion_type=decoder.CriterionType.CTC,
            ),
            *self._parts,
        )

    def weighted(self, lm_weight: float, word_score: float) -> "FlashlightSearch":
        """The same search with other weights."""
        other = copy.copy(self)
        other._options = dataclasses.replace(
            self._options, lm_weight=lm_weight, word_score=word_score
        )
        other._decoder = other._made()
        return other

    def __call__(self, log_probs: np.ndarray) -> list[Hypothesis]:
        """The best texts for ln p [T, V] of the symbols of the alphabet (0 is the blank)."""
        emissions = np.concatenate([checked(log_probs), self._end], dtype=np.float32)
        texts: dict[str, Hypothesis] = {}  # the best alignment of each comes first
        for found in self._decoder.decode(emissions.ctypes.data, *emissions.shape):
            text = " ".join(self._words.get_entry(i) for i in found.words if i >= 0)
            language = found.lmScore * self._unit
            texts.setdefault(
                text, Hypothesis(text, found.score, found.emittingModelScore, language)
            )
        return list(texts.values())[: self._options.best]
