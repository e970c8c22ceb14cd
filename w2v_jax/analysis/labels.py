"""What is said when: labels with times of every row of a manifest, from files of alignments.

A file is named as the audio is, or by as much of the end of its path as tells it from the others.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from w2v_jax.analysis.label_files import LabelFiles, Said
from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.data.manifest import Manifest
from w2v_jax.errors import UserError, some
from w2v_jax.places import file_names

LEAST_COVERED = 0.5  # share of the audio that labels must reach
TOLERANCE = 0.1  # seconds that labels may be longer than their audio


class Intervals(NamedTuple):
    """The labels of a row, in the order of time; there may be gaps, where nothing is said."""

    labels: np.ndarray  # int32 [n], indices of Labels.names
    starts: np.ndarray  # float64 [n], seconds from the start of the row
    ends: np.ndarray  # float64 [n]


class Labels(NamedTuple):
    """Of all rows of one or several manifests, one after the other."""

    kind: str  # "phones", "letters", "words", or the name of the tier
    names: list[str]  # sorted
    rows: list[Intervals | None]  # None: a row without labels
    covered: float  # share of the audio that labels reach
    missing: list[str]  # paths without labels
    longer: list[str]  # paths whose labels end after the audio; they count as missing

    @property
    def spoken(self) -> np.ndarray:
        """int [n]: the rows in which something is said."""
        return np.array([i for i, row in enumerate(self.rows) if row and len(row.labels)], int)

    def __str__(self) -> str:
        found = sum(row is not None for row in self.rows)
        text = f"{self.kind} of {found:,} of {len(self.rows):,} recordings, {len(self.names):,} "
        text += f"kinds; they reach {self.covered:.1%} of the audio"
        if self.missing:
            text += f"; without: {len(self.missing):,} ({some(self.missing, 2)})"
        if self.longer:
            text += f"; longer than the audio, left out: {len(self.longer):,} "
            text += f"({some(self.longer, 2)})"
        return text


def frame_labels(intervals: Intervals, times: np.ndarray) -> np.ndarray:
    """int32 [T]: the label said at every time (seconds, [T]); -1 where nothing is said."""
    if not len(intervals.labels):
        return np.full(len(times), -1, np.int32)
    # of intervals that overlap the one that began last
    at = np.searchsorted(intervals.starts, times, side="right") - 1
    said = (at >= 0) & (times < intervals.ends[at])
    return np.where(said, intervals.labels[at], np.int32(-1))


def read(
    path: str, *manifests: Manifest, tier: str = "", least_covered: float = LEAST_COVERED
) -> Labels:
    """The labels of all rows, from a file or a folder of them.

    tier: of TextGrids, or "letters" or "words" of our JSON; "" finds one of phones, else of letters
    ("letters" of JSON). A CTM does not say what its tokens are: there it is needed, "phones" say.
    Of phones stress digits are removed, and silence; of words and letters what is empty or stands
    in brackets. Times are from the start of the row where a file is as long as that, or named as
    align names a part of a recording (NAME.flac-3), and from the start of the recording otherwise.

    Raises UserError for files that are missing, damaged or of other audio, for a tier that is not
    there, and where the labels reach less than `least_covered` of the audio.
    """
    files = LabelFiles(path, tier)
    said, longer, missing, reached, total = [], [], [], 0.0, 0.0
    for manifest in manifests:
        for row, found in enumerate(_of_rows(files, manifest)):
            seconds = manifest.samples[row] / SAMPLE_RATE
            total += seconds
            if found is not None and found.extent > seconds + TOLERANCE:
                longer.append(manifest.paths[row])
                found = None
            elif found is None:
                missing.append(manifest.paths[row])
            reached += min(found.extent, seconds) if found else 0
            said.append(found)
    if all(found is None for found in said):
        raise files.nothing(manifests[0], longer)
    covered = reached / max(total, 1e-9)
    names = sorted({text for found in said if found for text in found.texts})
    ids = {text: i for i, text in enumerate(names)}
    rows = [found and _numbered(found, ids) for found in said]
    labels = Labels(files.kind, names, rows, covered, missing, longer)
    if covered < least_covered:
        raise UserError(
            f"--labels={path}: {labels}; that is less than {least_covered:.0%}: give those of all "
            "recordings, or a manifest of those that have labels"
        )
    if not names:
        raise UserError(f"--labels={path}: nothing is said in it but silence; name another --tier")
    return labels


def _numbered(said: Said, ids: dict[str, int]) -> Intervals:
    return Intervals(np.array([ids[x] for x in said.texts], np.int32), said.starts, said.ends)


def _of_rows(files: LabelFiles, manifest: Manifest) -> Iterator[Said | None]:
    paths = list(manifest.paths)
    counts = Counter(paths)
    spoken = [row for row, text in enumerate(manifest.texts) if text]  # which align numbers
    aligned = dict(zip(spoken, file_names([paths[row] for row in spoken]), strict=True))
    for row, path in enumerate(paths):
        (name,) = file_names([path])
        if aligned.get(row, name) != name and (found := files.exactly(aligned[row])):
            yield found
            continue
        found = files.find(name)
        start, seconds = manifest.starts[row] / SAMPLE_RATE, manifest.samples[row] / SAMPLE_RATE
        of_all = found is not None and found.extent > seconds + TOLERANCE
        yield found.part(start, seconds) if of_all and (start or counts[path] > 1) else found
