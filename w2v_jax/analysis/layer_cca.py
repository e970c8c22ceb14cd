"""CCA of the layers of one model with what is known of the speech.

The views that layers are compared with:

mel      the log-mel spectrum of the input, frame by frame
intra    the input of the first block, hidden_0, frame by frame
phones   which phone a piece of speech is (one-hot), averaged over its central third
letters  the same of letters, of alignments by a model of letters
words    which word it is, averaged over all of it
vectors  the vector of that word in a file of them, words without one left out of both views

Protocol: ankitapasad/layerwise-analysis, see `analysis/cca.py` and `analysis/sampling.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2v_jax.analysis.cca import SCORES, similarity
from w2v_jax.analysis.extraction import Extractor, open_extractor
from w2v_jax.analysis.labels import Labels
from w2v_jax.analysis.points import Point
from w2v_jax.analysis.sampling import (
    LABELLED,
    Frames,
    Nearest,
    Selection,
    Taken,
    Utterances,
    collect,
    draw_rows,
    draw_segments,
)
from w2v_jax.errors import UserError

FRAME_VIEWS = ("mel", "intra")
VIEWS = (*FRAME_VIEWS, *LABELLED, "vectors")
BASE = "hidden_0"  # what intra compares with


class Sampling(NamedTuple):
    """How much speech is drawn, how often."""

    samples: int = 3
    seed: int = 0
    utterances: int = 500  # of a sample, for what is compared frame by frame
    instances: int = 200  # of each phone or letter
    words: int = 500  # the most frequent
    word_instances: int = 15


def cca(
    extractor: Extractor,
    utterances: Utterances,
    views: Sequence[str],
    labels: Mapping[str, Labels],
    vectors: Mapping[str, np.ndarray],
    sampling: Sampling,
    folder: Path,
    told: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[str, list[Point]]]:
    """(view, points of every tap) of each view, as soon as it is done.

    labels: those of `LABELLED` that the views need; vectors: of the words of them;
    folder: for features, which stay there; told: hears what is being done.
    Raises UserError for too little speech and features that cannot be compared.
    """
    selections = {
        f"{kind}-{sample}": selection
        for sample in range(sampling.samples)
        for kind, selection in _selections(utterances, views, labels, sampling, sample)
    }
    told(f"features of {len(np.unique(np.concatenate([x.rows for x in selections.values()]))):,} "
         f"of {len(utterances):,} utterances")  # fmt: skip
    taken = collect(extractor, utterances, selections, folder)
    if "mel" in views:
        same = {
            f"mel-{name.partition('-')[2]}": Nearest(np.array(list(found.times)), found.times)
            for name, found in taken.items() if name.startswith("frames-")
        }  # fmt: skip
        taken |= collect(open_extractor("mel"), utterances, same, folder)
    for view in views:
        points: list[Point] = []
        for tap in compared(view, extractor.taps):
            told(f"cca {view}: {tap}")
            try:
                points += _compared(view, tap, taken, labels, vectors, sampling)
            except UserError as error:
                raise UserError(f"{view}, {tap}: {error}") from None
        yield view, points


def compared(view: str, taps: Iterable[str]) -> list[str]:
    """The taps that a view is compared with."""
    if view != "intra":
        return list(taps)
    return [tap for tap in taps if tap.startswith("hidden_") and tap != BASE]


def _selections(
    utterances: Utterances,
    views: Sequence[str],
    labels: Mapping[str, Labels],
    sampling: Sampling,
    sample: int,
) -> Iterator[tuple[str, Selection]]:
    seed = sampling.seed + sample
    if set(views) & set(FRAME_VIEWS):
        yield "frames", Frames(draw_rows(len(utterances), sampling.utterances, seed))
    for kind in ("phones", "letters"):
        if kind in views:
            yield kind, draw_segments(labels[kind], sampling.instances, seed, central=True)
    if {"words", "vectors"} & set(views):
        yield (
            "words",
            draw_segments(labels["words"], sampling.word_instances, seed, kinds=sampling.words),
        )


def _compared(
    view: str,
    tap: str,
    taken: Mapping[str, Taken],
    labels: Mapping[str, Labels],
    vectors: Mapping[str, np.ndarray],
    sampling: Sampling,
) -> list[Point]:
    """A point per score."""
    found, floors, frames = [], [], 0
    for sample in range(sampling.samples):
        seed = sampling.seed + sample
        if view in FRAME_VIEWS:
            layer = taken[f"frames-{sample}"].arrays[tap]
            other = (taken[f"mel-{sample}"].arrays["mel"] if view == "mel"
                     else taken[f"frames-{sample}"].arrays[BASE])  # fmt: skip
            found.append(similarity(other, layer, seed=seed))
        else:
            of = taken[f"{'words' if view == 'vectors' else view}-{sample}"]
            layer, what, other = of.arrays[tap], of.what, None
            if view == "vectors":
                names = labels["words"].names
                known = np.array([names[i] in vectors for i in what])
                if not known.any():
                    raise UserError("none of the words has a vector")
                layer, what = layer[known], what[known]
                other = np.stack([vectors[names[i]] for i in what])
            else:
                other = one_hot(what)
            found.append(similarity(layer, other, seed=seed, labels=what))
            shuffled = np.random.default_rng(seed).permutation(len(other))
            floors.append(similarity(layer, other[shuffled], seed=seed, labels=what[shuffled]))
        frames = max(frames, len(layer))
    return [
        Point(
            tap, score, [one[score].held_out for one in found],
            [one[score].in_sample for one in found],
            float(np.mean([one[score].held_out for one in floors])) if floors else None,
            frames, layer.shape[1],
        )
        for score in SCORES
    ]  # fmt: skip


def one_hot(labels: np.ndarray) -> np.ndarray:
    """float32 [n, kinds that there are]."""
    _, kinds = np.unique(labels, return_inverse=True)
    return np.eye(kinds.max() + 1, dtype=np.float32)[kinds]
