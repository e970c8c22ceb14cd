"""Word and letter error rates, by jiwer."""

import dataclasses
from collections.abc import Sequence

import jiwer


@dataclasses.dataclass(frozen=True)
class Score:
    """Errors over a whole set: rates are errors / reference units, in percent."""

    wer: float
    cer: float
    substitutions: int  # of words, as the next three
    deletions: int
    insertions: int
    words: int

    def __str__(self) -> str:
        return (
            f"WER {self.wer:.2f} %  CER {self.cer:.2f} %  ({self.substitutions} substitutions, "
            f"{self.deletions} deletions, {self.insertions} insertions, {self.words} words)"
        )


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """WER and CER of hypotheses against references (normalised texts, same order)."""
    words = jiwer.process_words(list(references), list(hypotheses))
    letters = jiwer.process_characters(list(references), list(hypotheses))
    return Score(
        100 * words.wer,
        100 * letters.cer,
        words.substitutions,
        words.deletions,
        words.insertions,
        words.hits + words.substitutions + words.deletions,
    )
