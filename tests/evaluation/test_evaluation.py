"""The report on a test set: its text, its tables, and the comparison of two recognisers."""

import dataclasses
import random

import numpy as np
import pytest

from w2v_jax.errors import UserError
from w2v_jax.evaluation.reports import Utterance, analyse, columns, compare

FEW = [
    Utterance("a-1", "ann", 1.0, "THE CAT SAT", "THE CAT SAT"),
    Utterance("a-2", "ann", 2.0, "TO THE MAT", "TWO THE MAT"),
    Utterance("b-1", "bob", 3.0, "A DOG AND A CAT", "DOG AND A CAT"),
    Utterance("b-2", "bob", 30.0, "TO BE", "TWO BE OR"),
    Utterance("b-3", "bob", 4.0, "", "OR"),
    Utterance("c-1", "", 6.0, "", ""),
]

TEXT = """\
WER 38.46 %  CER 21.95 %  (2 substitutions, 1 deletions, 2 insertions, 13 words)
95 %: WER 14.29 to 100.00, CER 6.38 to 68.00 (bootstrap over 6 utterances; \
other speakers may differ more)

seconds   utterances   minutes   words   WER %   CER %
<2                 1       0.0       3     0.0     0.0
2-5                3       0.1       8    37.5    20.0
5-10               1       0.1       0       -       -
20+                1       0.5       2   100.0    80.0

speaker   utterances   minutes   words   WER %   CER %
bob                3       0.6       7    57.1    40.0
ann                2       0.1       6    16.7     4.8
unknown            1       0.1       0       -       -

substitutions   deletions   insertions
2 TO -> TWO     1 A         2 OR

b-2: 2 errors, 2 words
  ref TO  BE **
  hyp TWO BE OR

b-3: 1 errors, 0 words
  ref **
  hyp OR

a-2: 1 errors, 3 words
  ref TO  THE MAT
  hyp TWO THE MAT"""


def many(speakers, errors, seed=0):
    """Utterances of ten words of which some share is wrong."""
    rng = random.Random(seed)
    reference = "a b c d e f g h i j"
    return [
        Utterance(
            str(i), f"s{i % speakers}", 5.0, reference,
            "".join("x" if x != " " and rng.random() < errors else x for x in reference),
        )
        for i in range(200)
    ]  # fmt: skip


def test_text():
    assert str(analyse(FEW)) == TEXT


def test_nothing_wrong():
    report = analyse(FEW[:1])
    assert report.wer_interval == report.cer_interval == (0, 0)
    assert len(str(report).splitlines()) == 2


def test_worst_first():
    assert analyse(FEW).worst == (3, 4, 1, 2, 0, 5)
    long = Utterance("d", "", 9.0, "A B C D E F", "")
    more = Utterance("e", "", 9.0, "A B C D E F G H I J K L M N O P Q R S T", "H I J K L M N O P Q")
    assert analyse([*FEW[:4], more, long]).worst == (5, 3, 4, 1, 2, 0)


def test_seeded():
    utterances = many(20, 0.2)
    report = analyse(utterances)
    assert report == analyse(utterances)
    assert report.wer_interval != analyse(utterances, seed=1).wer_interval
    assert (report.unit, report.units) == ("speakers", 20)
    low, high = report.wer_interval
    assert low < report.score.wer < high
    assert [x.wer for x in report.by_speaker] == sorted(
        (x.wer for x in report.by_speaker), reverse=True
    )
    assert "(5 of 20, highest WER first)" in str(report)


def test_speakers_that_differ_widen_the_interval():
    utterances = many(20, 0.1)
    noisy = many(20, 0.5, seed=1)
    mixed = [b if int(b.speaker[1:]) < 5 else a for a, b in zip(utterances, noisy, strict=True)]
    nameless = [dataclasses.replace(x, speaker="") for x in mixed]
    report, by_utterance = analyse(mixed), analyse(nameless)
    assert by_utterance.unit == "utterances"
    assert not by_utterance.by_speaker
    assert np.diff(report.wer_interval) > 1.5 * np.diff(by_utterance.wer_interval)
    assert report.score == by_utterance.score


def test_which_is_better():
    bad, good = many(20, 0.3), many(20, 0.1, seed=1)
    there, back = compare(bad, good), compare(good, bad)
    assert there.improvement == 1
    assert back.improvement == 0
    assert there.wer == pytest.approx(analyse(good).score.wer - analyse(bad).score.wer)
    low, high = there.interval
    assert low < there.wer < high < 0
    assert compare(bad, bad).improvement == 0.5
    close = many(20, 0.3, seed=2)
    assert 0.02 < compare(bad, close).improvement < 0.98
    assert compare(bad, close).improvement + compare(close, bad).improvement == pytest.approx(1)
    assert str(compare(FEW, [dataclasses.replace(x, hypothesis=x.reference) for x in FEW])) == (
        "WER -38.46 (95 %: -100.00 to -14.29), better with probability 0.999 "
        "(paired bootstrap over 6 utterances)"
    )


def test_only_the_same_set_is_compared():
    other = [dataclasses.replace(x, reference="A") if x.name == "b-1" else x for x in FEW]
    for second, words in ((other, "differ from b-1 on"), (FEW[:-1], "6 and 5 utterances")):
        with pytest.raises(UserError, match=words):
            compare(FEW, second)


def test_no_words():
    for use in (analyse, lambda x: compare(x, x)):
        with pytest.raises(UserError, match="none of the 2 references has a word"):
            use(FEW[4:])


def test_a_long_utterance_fits_the_terminal():
    words = [f"word{i}" for i in range(60)]
    long = "x" * 200
    utterance = Utterance("a", "", 9.0, " ".join([long, *words]), " ".join(words))
    lines = str(analyse([utterance])).splitlines()
    texts = [line for line in lines if line.startswith(("  ref ", "  hyp "))]
    assert " ".join(x[6:] for x in texts if x.startswith("  ref ")) == f"{long} {' '.join(words)}"
    assert max(len(x) for x in texts if long not in x and "***" not in x) <= 100


def test_wide_letters_take_two_columns():
    rows = [("天气", "1"), ("abcd", "2"), ("e\u0301tes", "3")]
    assert list(columns(rows)) == ["天气   1", "abcd   2", "e\u0301tes   3"]
