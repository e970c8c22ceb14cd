"""What a test set says about a recogniser: rates, how certain they are, where the errors are."""

import dataclasses
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.evaluation import bootstrap
from w2v_jax.evaluation.scoring import Score, WordAlignment, align_words, total

LENGTHS = (2, 5, 10, 20)  # seconds that divide utterances into short and long ones
_LENGTH_NAMES = (
    f"<{LENGTHS[0]}",
    *(f"{a}-{b}" for a, b in itertools.pairwise(LENGTHS)),
    f"{LENGTHS[-1]}+",
)
LISTED = 5  # rows of a table in the terminal, where the page has all
SHOWN = 3  # utterances written out in the terminal
WIDTH = 94  # of the words of a line


@dataclasses.dataclass(frozen=True)
class Utterance:
    """What was said and what was recognised: normalised texts, which may be empty."""

    name: str
    speaker: str  # '' where it is not known
    seconds: float
    reference: str
    hypothesis: str


@dataclasses.dataclass(frozen=True)
class Group:
    """Utterances that have something in common; rates in percent, NaN without any words."""

    name: str
    utterances: int
    minutes: float
    words: int
    wer: float
    cer: float

    def cells(self) -> list[str]:
        """The group as a row below `HEADINGS`."""
        rates = ["-" if np.isnan(rate) else f"{rate:.1f}" for rate in (self.wer, self.cer)]
        return [self.name, str(self.utterances), f"{self.minutes:.1f}", str(self.words), *rates]


HEADINGS = ("utterances", "minutes", "words", "WER %", "CER %")


@dataclasses.dataclass(frozen=True)
class Report:
    """The errors on a test set; lists of utterances are in the order in which they were given.

    wer_interval, cer_interval    95 %, in percent
    unit, units                   what was drawn for them (see `bootstrap.units`), and how many
    by_speaker                    highest WER first; empty where no speaker is known
    by_length                     shortest first, lengths that occur
    substitutions                 ((reference word, hypothesis word), times), most frequent first
    deletions, insertions         (word, times), most frequent first
    worst                         every utterance by its index, highest WER first, of equals the
                                  one with more errors; an empty reference counts as one word
    """

    score: Score
    wer_interval: tuple[float, float]
    cer_interval: tuple[float, float]
    unit: Literal["speakers", "utterances"]
    units: int
    minutes: float
    by_speaker: tuple[Group, ...]
    by_length: tuple[Group, ...]
    substitutions: tuple[tuple[tuple[str, str], int], ...]
    deletions: tuple[tuple[str, int], ...]
    insertions: tuple[tuple[str, int], ...]
    alignments: tuple[WordAlignment, ...]
    names: tuple[str, ...]
    worst: tuple[int, ...]

    @property
    def certainty(self) -> str:
        """Where the intervals come from."""
        limit = "; other speakers may differ more" if self.unit == "utterances" else ""
        return f"bootstrap over {self.units} {self.unit}{limit}"

    def __str__(self) -> str:
        """A page for a terminal."""
        return "\n".join(_lines(self))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two recognisers on the same utterances; differences are second minus first, in percent."""

    wer: float
    interval: tuple[float, float]  # 95 %
    improvement: float  # the probability that the second makes fewer errors
    unit: Literal["speakers", "utterances"]
    units: int

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"WER {self.wer:+.2f} (95 %: {low:+.2f} to {high:+.2f}), better with probability "
            f"{self.improvement:.3f} (paired bootstrap over {self.units} {self.unit})"
        )


def analyse(utterances: Sequence[Utterance], *, seed: int = 0) -> Report:
    """The report on a test set; the same seed gives the same intervals.

    Raises UserError where no reference has a word.
    """
    alignments = _aligned(utterances)
    score = total(alignments)
    counts = _counts(alignments)
    speakers = [x.speaker for x in utterances]
    unit, of = bootstrap.units(speakers, counts[:, 1])
    drawn = bootstrap.resampled(bootstrap.summed(counts, of), seed).T
    seconds = np.array([x.seconds for x in utterances])
    bins = np.searchsorted(LENGTHS, seconds, side="right").tolist()
    by_length: dict[str, list[int]] = {_LENGTH_NAMES[i]: [] for i in sorted(set(bins))}
    by_speaker: dict[str, list[int]] = {}
    for i, speaker in enumerate(speakers):
        by_length[_LENGTH_NAMES[bins[i]]].append(i)
        by_speaker.setdefault(speaker or "unknown", []).append(i)
    pairs = Counter(error for x in alignments for error in x.errors)
    frequent = sorted(pairs.items(), key=lambda x: (-x[1], x[0]))
    rate = counts[:, 0] / np.maximum(counts[:, 1], 1)
    return Report(
        score,
        bootstrap.interval(*drawn[:2]),
        bootstrap.interval(*drawn[2:]),
        unit,
        int(of.max()) + 1,
        seconds.sum() / 60,
        tuple(sorted(_groups(by_speaker, counts, seconds), key=_by_rate)) if any(speakers) else (),
        tuple(_groups(by_length, counts, seconds)),
        tuple((pair, times) for pair, times in frequent if all(pair)),
        tuple((word, times) for (word, found), times in frequent if not found),
        tuple((found, times) for (word, found), times in frequent if not word),
        tuple(alignments),
        tuple(x.name for x in utterances),
        tuple(np.lexsort((-counts[:, 0], -rate)).tolist()),
    )


def compare(
    first: Sequence[Utterance], second: Sequence[Utterance], *, seed: int = 0
) -> Comparison:
    """Whether the second recogniser is better: both are judged on the same resamples.

    Raises UserError where they are not about the same utterances in the same order, or no
    reference has a word.
    """
    pairs = zip(first, second, strict=False)
    other = next((a.name for a, b in pairs if (a.name, a.reference) != (b.name, b.reference)), "")
    if other or len(first) != len(second):
        raise UserError(
            f"{len(first)} and {len(second)} utterances cannot be compared"
            + (f", they differ from {other} on" if other else "")
            + "; decode the same manifest twice"
        )
    alignments = _aligned(first)
    total(alignments)
    before, after = _counts(alignments), _counts(_aligned(second))
    words = before[:, 1]
    unit, of = bootstrap.units([x.speaker for x in first], words)
    counts = np.stack([before[:, 0], after[:, 0], words], axis=1)
    one, two, drawn_words = bootstrap.resampled(bootstrap.summed(counts, of), seed).T
    return Comparison(
        100 * float(counts[:, 1].sum() - counts[:, 0].sum()) / int(words.sum()),
        bootstrap.interval(two - one, drawn_words),
        bootstrap.probability_of_improvement(one, two),
        unit,
        int(of.max()) + 1,
    )


def columns(rows: Iterable[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Lines with the cells of a column below each other: the first `left` columns begin, all others
    end at the same place."""
    rows = list(rows)
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        gaps = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [
            cell + gap if i < left else gap + cell
            for i, (cell, gap) in enumerate(zip(row, gaps, strict=True))
        ]
        yield "   ".join(cells).rstrip()


def _aligned(utterances: Sequence[Utterance]) -> list[WordAlignment]:
    return align_words([x.reference for x in utterances], [x.hypothesis for x in utterances])


def _counts(alignments: Sequence[WordAlignment]) -> np.ndarray:
    """Word errors, words, letter errors, letters: int [N, 4]."""
    rows = [(len(x.errors), x.words, x.letter_errors, x.letters) for x in alignments]
    return np.array(rows, np.int64).reshape(-1, 4)


def _groups(members: dict, counts: np.ndarray, seconds: np.ndarray) -> Iterator[Group]:
    for name, rows in members.items():
        errors, words, letter_errors, letters = counts[rows].sum(0).tolist()
        yield Group(
            name, len(rows), seconds[rows].sum() / 60, words,
            100 * errors / words if words else np.nan,
            100 * letter_errors / letters if letters else np.nan,
        )  # fmt: skip


def _by_rate(group: Group) -> tuple[float, str]:
    return (np.inf if np.isnan(group.wer) else -group.wer), group.name


# the terminal ----------------------------------------------------------------------------------


def _lines(report: Report) -> Iterator[str]:
    (low, high), (low_cer, high_cer) = report.wer_interval, report.cer_interval
    yield str(report.score)
    yield (
        f"95 %: WER {low:.2f} to {high:.2f}, CER {low_cer:.2f} to {high_cer:.2f} "
        f"({report.certainty})"
    )
    for name, groups in (("seconds", report.by_length), ("speaker", report.by_speaker)):
        if len(groups) > 1:
            yield ""
            yield from columns([(name, *HEADINGS), *(x.cells() for x in groups[:LISTED])])
            if len(groups) > LISTED:
                yield f"({LISTED} of {len(groups)}, highest WER first)"
    yield from _frequent(report)
    for i in report.worst[:SHOWN]:
        if report.alignments[i].errors:
            yield ""
            yield from _written_out(report.names[i], report.alignments[i])


def _frequent(report: Report) -> Iterator[str]:
    kinds = {
        "substitutions": [(f"{word} -> {found}", n) for (word, found), n in report.substitutions],
        "deletions": report.deletions,
        "insertions": report.insertions,
    }
    kinds = {kind: entries for kind, entries in kinds.items() if entries}
    if kinds:
        yield ""
        yield from columns(
            [
                list(kinds),
                *(
                    [f"{x[i][1]} {x[i][0]}" if i < len(x) else "" for x in kinds.values()]
                    for i in range(min(LISTED, max(map(len, kinds.values()))))
                ),
            ],
            left=len(kinds),
        )


def _written_out(name: str, alignment: WordAlignment) -> Iterator[str]:
    """Reference above hypothesis, in pieces that fit a line; `*` where there is no word."""
    yield f"{name}: {len(alignment.errors)} errors, {alignment.words} words"
    piece: list[tuple[str, str]] = []
    room = WIDTH
    for pair in alignment.pairs:
        room -= max(map(_width, pair)) + 1
        if piece and room < 0:
            yield from _both(piece)
            piece, room = [], WIDTH - max(map(_width, pair)) - 1
        piece.append(pair)
    yield from _both(piece)


def _both(piece: list[tuple[str, str]]) -> Iterator[str]:
    widths = [max(map(_width, pair)) for pair in piece]
    for label, row in zip(("ref", "hyp"), zip(*piece, strict=True), strict=True):
        words = [
            word + " " * (width - _width(word)) if word else "*" * width
            for word, width in zip(row, widths, strict=True)
        ]
        yield f"  {label} {' '.join(words)}".rstrip()


def _width(text: str) -> int:
    """Columns of a terminal."""
    return sum(
        2 if unicodedata.east_asian_width(x) in "WF" else not unicodedata.combining(x) for x in text
    )
