"""Which search decodes: its options, and the library that runs it."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from w2v_jax.decoding.beam import BeamOptions, BeamSearch, Hypothesis
from w2v_jax.decoding.flashlight import FlashlightSearch, is_installed
from w2v_jax.decoding.lexicon import CLOSED, check_known, is_kenlm_binary, spellable, words_of
from w2v_jax.decoding.ngram import LN10, read_arpa
from w2v_jax.errors import UserError
from w2v_jax.keys.check import check_values, complaint, shown
from w2v_jax.keys.table import SEARCH
from w2v_jax.text.alphabet import Alphabet

log = logging.getLogger(__name__)
Search = Callable[[np.ndarray], list[Hypothesis]]  # of ln p [T, V]; best first, at least one


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How a text is searched for; keys/table.py says what the fields mean. Weights are those of
    natural logarithms.

    The defaults of fairseq: beam 50, threshold 50, weight 2 (base 10), word score -1.
    """

    lm: str = ""
    lexicon: str = ""
    any_word: bool = False
    library: str = "auto"
    beam: int = 50
    threshold: float = 50.0
    letters: int = 0
    lm_weight: float = 2.0 / LN10
    word_score: float = -1.0
    best: int = 50
    transformer_lm: str = ""
    transformer_weight: float = 1.0
    transformer_word_score: float = -1.0
    ngram_weight: float = 0.0

    def __post_init__(self):
        if wrong := complaint(self, table=SEARCH):
            raise UserError(wrong)
        if self.any_word and not self.lm:
            raise UserError("any_word is about the words of lm; set that too")
        if self.any_word and self.lexicon:
            raise UserError("any_word finds words that lexicon forbids; set one of them")

    @classmethod
    def from_config(cls, config) -> "SearchOptions":
        """Of a config, configs/evaluate.py's. Raises UserError for one of something else, and for
        values that make no sense."""
        if "kind" in config:
            raise UserError(
                f"this config is of the kind {shown(config['kind'])}, of a training; what decodes "
                "takes one of configs/evaluate.py"
            )
        return cls(**check_values(config, tuple(SEARCH), SEARCH))

    @property
    def searches(self) -> bool:
        """Whether there is a word to choose; without one the best path is all that is left."""
        return bool(self.lm or self.lexicon or self.transformer_lm)

    @property
    def widths(self) -> BeamOptions:
        fields = (field.name for field in dataclasses.fields(BeamOptions))
        return BeamOptions(**{name: getattr(self, name) for name in fields})


def open_search(alphabet: Alphabet, options: SearchOptions) -> BeamSearch | FlashlightSearch:
    """The search that the options ask for.

    Raises UserError for files that cannot be read, for words that the alphabet cannot write, and
    where flashlight is asked for and not installed.
    """
    closed = bool(options.lm or options.lexicon) and not options.any_word
    binary = bool(options.lm) and is_kenlm_binary(options.lm)  # or it cannot be read
    library = options.library
    if library == "auto":
        library = "flashlight" if closed and is_installed() else "python"
    if library == "flashlight":
        if not closed:
            raise UserError(
                "flashlight finds words of a lexicon; set lexicon, or lm without any_word, or "
                "library=python"
            )
        words = spellable(
            words_of(options.lm, options.lexicon, alphabet), alphabet, options.lexicon or options.lm
        )
        search = FlashlightSearch(alphabet, options.lm, words, options.widths)
        if options.lm and options.lexicon:
            unknown = search.unknown if binary else words.difference(words_of(options.lm))
            check_known(unknown, len(words), options.lm, is_closed=search.is_closed)
        return search
    if binary:
        raise UserError(
            f"{options.lm} is a binary of KenLM; flashlight reads it (pip install flashlight-text, "
            "Python 3.11 or 3.12), the library python reads ARPA files"
        )
    lm = read_arpa(options.lm) if options.lm else None
    words = None
    if options.lexicon:
        words = spellable(words_of("", options.lexicon, alphabet), alphabet, options.lexicon)
        if lm is not None:
            unknown = words.difference(lm.words)
            check_known(unknown, len(words), options.lm, is_closed=lm.is_closed)
    elif lm is not None:
        words = spellable(lm.words, alphabet, options.lm)
        if options.any_word and lm.is_closed:
            log.warning("any_word: other words than those of %s count as <unk>%s",
                        options.lm, CLOSED)  # fmt: skip
    return BeamSearch(alphabet, lm, words if closed else None, options.widths)


_search: BeamSearch | FlashlightSearch  # of this process


def _start(alphabet: Alphabet, options: SearchOptions) -> None:
    global _search
    logging.getLogger("w2v_jax").setLevel(logging.ERROR)  # what is left out was said before
    _search = open_search(alphabet, options)


def _find(task: tuple[np.ndarray, float, float]) -> list[Hypothesis]:
    log_probs, lm_weight, word_score = task
    return _search.weighted(lm_weight, word_score)(log_probs)


class Searches:
    """A search over many utterances, by this process or by several, each with the model."""

    def __init__(self, alphabet: Alphabet, options: SearchOptions, processes: int = 1):
        self._pool = None
        self._own = open_search(alphabet, options)  # errors come before any process is started
        if processes > 1:
            self._own = None
            self._pool = ProcessPoolExecutor(
                processes, get_context("spawn"), initializer=_start, initargs=(alphabet, options)
            )

    def __call__(
        self, utterances: Sequence[np.ndarray], lm_weight: float, word_score: float
    ) -> Iterator[list[Hypothesis]]:
        """The hypotheses for ln p [T, V] of each utterance, in order, under these weights."""
        if self._pool is None:
            return map(self._own.weighted(lm_weight, word_score), utterances)
        tasks = [(log_probs, lm_weight, word_score) for log_probs in utterances]
        return self._pool.map(_find, tasks, chunksize=4)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
