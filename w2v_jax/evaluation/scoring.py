"""Word and letter error rates, and which word became which, by jiwer."""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property

import jiwer

from w2v_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class WordAlignment:
    """One utterance: (reference word, hypothesis word), '' where one of them has none."""

    pairs: tuple[tuple[str, str], ...]
    letters: int  # of the reference, spaces between its words included
    letter_errors: int

    @cached_property
    def words(self) -> int:
        """Of the reference."""
        return sum(bool(reference) for reference, _ in self.pairs)

    @cached_property
    def errors(self) -> list[tuple[str, str]]:
        """The pairs that are substitutions, deletions ('' second) and insertions ('' first)."""
        return [(reference, found) for reference, found in self.pairs if reference != found]


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


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[WordAlignment]:
    """Each hypothesis beside its reference (normalised texts, same order) with fewest errors."""
    if not references and not hypotheses:
        return []
    words = jiwer.process_words(list(references), list(hypotheses))
    letters = jiwer.process_characters(list(references), list(hypotheses))
    return [
        WordAlignment(
            tuple(pair for chunk in chunks for pair in _pairs(chunk, reference, hypothesis)),
            len(text),
            sum(map(_errors, letter_chunks)),
        )
        for reference, hypothesis, chunks, text, letter_chunks in zip(
            words.references, words.hypotheses, words.alignments,
            letters.references, letters.alignments,
            strict=True,
        )
    ]  # fmt: skip


def total(alignments: Iterable[WordAlignment]) -> Score:
    """The score of a whole set. Raises UserError where no reference has a word."""
    alignments = list(alignments)
    words = sum(x.words for x in alignments)
    if not words:
        raise UserError(
            f"none of the {len(alignments)} references has a word, so there is no error rate; "
            "score a set with transcripts"
        )
    errors = [error for x in alignments for error in x.errors]
    deletions = sum(not found for _, found in errors)
    insertions = sum(not reference for reference, _ in errors)
    letter_errors = sum(x.letter_errors for x in alignments)
    return Score(
        100 * len(errors) / words,
        100 * letter_errors / sum(x.letters for x in alignments),
        len(errors) - deletions - insertions,
        deletions,
        insertions,
        words,
    )


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """WER and CER of hypotheses against references (normalised texts, same order).

    What is written where the reference is empty counts as insertions. Raises as `total` does.
    """
    return total(align_words(references, hypotheses))


def _pairs(
    chunk: jiwer.AlignmentChunk, reference: list[str], hypothesis: list[str]
) -> Iterable[tuple[str, str]]:
    ours = reference[chunk.ref_start_idx : chunk.ref_end_idx]
    theirs = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
    size = max(len(ours), len(theirs))  # both have it, or one has nothing
    return zip(ours or [""] * size, theirs or [""] * size, strict=True)


def _errors(chunk: jiwer.AlignmentChunk) -> int:
    if chunk.type == "equal":
        return 0
    return max(
        chunk.ref_end_idx - chunk.ref_start_idx,
        chunk.hyp_end_idx - chunk.hyp_start_idx,
    )
