"""Error rates and alignments: what a slow twin finds, and sets with empty texts."""

import random

import numpy as np
import pytest

from w2v_jax.errors import UserError
from w2v_jax.evaluation.scoring import align_words, score, total


def distance(reference, hypothesis) -> int:
    """Fewest substitutions, deletions and insertions, by the textbook's table."""
    table = np.zeros((len(reference) + 1, len(hypothesis) + 1), int)
    table[:, 0], table[0] = range(len(reference) + 1), range(len(hypothesis) + 1)
    for i, a in enumerate(reference, 1):
        for j, b in enumerate(hypothesis, 1):
            same = table[i - 1, j - 1] + (a != b)
            table[i, j] = min(same, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return int(table[-1, -1])


def test_as_the_table_finds():
    rng = random.Random(0)
    texts = [
        [" ".join(rng.choices(["a", "b", "cd"], k=rng.randrange(7))) for _ in range(200)]
        for _ in range(2)
    ]
    aligned = align_words(*texts)
    for reference, hypothesis, found in zip(*texts, aligned, strict=True):
        assert [r for r, _ in found.pairs if r] == reference.split()
        assert [h for _, h in found.pairs if h] == hypothesis.split()
        assert all(r or h for r, h in found.pairs)
        assert len(found.errors) == distance(reference.split(), hypothesis.split())
        assert found.letter_errors == distance(reference, hypothesis)
        assert (found.words, found.letters) == (len(reference.split()), len(reference))
    result = total(aligned)
    assert result == score(*texts)
    words, letters = (sum(getattr(x, name) for x in aligned) for name in ("words", "letters"))
    assert result.words == words
    assert result.wer == pytest.approx(100 * sum(len(x.errors) for x in aligned) / words)
    assert result.cer == pytest.approx(100 * sum(x.letter_errors for x in aligned) / letters)


def test_each_kind_of_error():
    (found,) = align_words(["a b c d"], ["a x c d e"])
    assert found.errors == [("b", "x"), ("", "e")]
    result = score(["a b c d", "e f"], ["a x c d e", "f"])
    assert (result.substitutions, result.deletions, result.insertions) == (1, 1, 1)
    assert result.wer == 50


def test_what_is_written_where_nothing_was_said_is_inserted():
    result = score(["", "a b c d", ""], ["x y", "a b c d", ""])
    assert (result.insertions, result.words, result.wer) == (2, 4, 50)


@pytest.mark.parametrize("references", [[], ["", ""]])
def test_no_words_no_rate(references):
    assert len(align_words(references, references)) == len(references)
    with pytest.raises(UserError, match=f"none of the {len(references)} references has a word"):
        score(references, references)
