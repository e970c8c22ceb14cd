"""Probes of the layers of one model: what small classifiers of frozen features tell.

They are asked which phone or letter is said at a frame, or for the language or speaker of its
utterance.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2v_jax.analysis.extraction import Extractor
from w2v_jax.analysis.labels import Labels, frame_labels
from w2v_jax.analysis.layer_clusters import COLUMNS, named
from w2v_jax.analysis.points import Point
from w2v_jax.analysis.probes import HIDDEN, LEAST_GROUPS, majority, probe, split
from w2v_jax.analysis.sampling import LABELLED, Frames, Utterances, collect, draw_rows

TARGETS = ("phones", "letters", *COLUMNS)


class Probing(NamedTuple):
    """How much speech probes are trained on, how often."""

    seeds: int = 3
    seed: int = 0
    utterances: int = 2000
    frames: int = 100_000  # of these; training, development and test together


def probes(
    extractor: Extractor,
    utterances: Utterances,
    target: str,
    labels: Labels | None,
    probing: Probing,
    folder: Path,
    told: Callable[[str], None] = lambda text: None,
) -> tuple[list[Point], str]:
    """(a point per tap and kind of probe, how the speech was divided).

    labels: where the target is of these. Raises UserError where there is too little.
    """
    rows, of_row, groups = _targets(utterances, target, labels)
    rows = draw_rows(rows, probing.utterances, probing.seed)
    most = max(probing.frames // len(rows), 1)

    def at(row: int, times: np.ndarray) -> np.ndarray:
        if labels is None:
            return np.full(len(times), of_row[row])
        return frame_labels(labels.rows[row], times)

    told(f"features of {len(rows):,} of {len(utterances):,} utterances")
    taken = collect(extractor, utterances, {target: Frames(rows, at, most, probing.seed)}, folder)[
        target
    ]
    frame_rows = np.repeat(list(taken.times), [len(x) for x in taken.times.values()])
    heard = np.array(list(taken.times))
    kinds, what = np.unique(taken.what, return_inverse=True)
    results: dict[tuple[str, str], list] = {}
    floors = []
    for seed in range(probing.seed, probing.seed + probing.seeds):
        by_row = split(of_row[heard], groups[heard], seed)
        parts = by_row[np.searchsorted(heard, frame_rows)]
        for width in sorted(set(extractor.taps.values())):
            taps = [tap for tap, own in extractor.taps.items() if own == width]
            arrays = [taken.arrays[tap] for tap in taps]
            for name, hidden in (("linear", 0), (f"hidden {HIDDEN}", HIDDEN)):
                found = probe(arrays, what, parts, hidden=hidden, seed=seed)
                told(f"probe {target}, {name}: {found.steps} updates")
                for tap, test in zip(taps, found.test, strict=True):
                    results.setdefault((tap, name), []).append(float(test))
        floors.append(majority(what, parts))  # each part has frames: otherwise probe has said so
    points = [
        Point(tap, name, values, [], float(np.mean(floors)), len(what), extractor.taps[tap])
        for (tap, name), values in sorted(
            results.items(), key=lambda x: (list(extractor.taps).index(x[0][0]), x[0][1])
        )
    ]
    return points, _division(target, of_row[heard], groups[heard], by_row, len(kinds))


def _targets(
    utterances: Utterances, target: str, labels: Labels | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows that have it, class of every row by which they are divided, group of every row)."""
    every = np.arange(len(utterances))
    if labels is not None:
        return labels.spoken, np.zeros(len(every), int), every
    rows, _, of_row = named(utterances, target)
    groups = every.copy()
    if target == "language":
        speakers, spoken = np.unique(utterances.column("speakers"), return_inverse=True)
        known = speakers[spoken] != ""
        for kind in np.unique(of_row[rows]):
            own = rows[of_row[rows] == kind]
            if known[own].all() and len(np.unique(spoken[own])) >= LEAST_GROUPS:
                groups[own] = -1 - spoken[own]
    return rows, of_row, groups


def _division(
    target: str, of_row: np.ndarray, groups: np.ndarray, parts: np.ndarray, kinds: int
) -> str:
    """What is said of how utterances were divided."""
    every, used = np.unique(of_row), np.unique(of_row[parts >= 0])
    if target in LABELLED:
        return f"{kinds} {target}, divided by utterance"
    by_speaker = np.unique(of_row[groups < 0])
    text = f"{len(used)} {COLUMNS[target]}, divided by "
    if not len(by_speaker):
        text += "utterance"
    elif len(by_speaker) == len(every):
        text += "speaker"
    else:
        text += f"speaker in {len(by_speaker)} of them, by utterance in the others"
    if len(used) < len(every):
        text += f"; {len(every) - len(used)} with fewer than {LEAST_GROUPS} utterances left out"
    return text
