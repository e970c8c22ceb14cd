"""Clusters of the features of every layer, and how much they say of phones or letters, of who
speaks and in which language.

As HuBERT measures its units (`analysis/agreement.py`), of k-means with as many clusters on every
layer: the table of HuBERT BASE in published.csv is of 256.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from w2v_jax.analysis import agreement, kmeans
from w2v_jax.analysis.centroids import Nearest
from w2v_jax.analysis.extraction import Extractor
from w2v_jax.analysis.labels import Labels, frame_labels
from w2v_jax.analysis.points import Point
from w2v_jax.analysis.sampling import Frames, Utterances, collect, draw_rows
from w2v_jax.errors import UserError

COLUMNS = {"language": "languages", "speaker": "speakers"}  # of a manifest
KINDS = ("phones", "letters", *COLUMNS)


class Clustering(NamedTuple):
    """How much speech is clustered, how often."""

    samples: int = 3
    seed: int = 0
    utterances: int = 500
    clusters: int = 256


def named(utterances: Utterances, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows whose language or speaker is known, the names of these, which of them every row has).
    Raises UserError where the manifest has none."""
    of_rows = utterances.column(COLUMNS[kind])
    if not len(rows := np.flatnonzero(of_rows != "")):
        raise UserError(f"the manifest says of no utterance what its {kind} is")
    return rows, *np.unique(of_rows, return_inverse=True)


def clusters(
    extractor: Extractor,
    utterances: Utterances,
    kind: str,
    labels: Labels | None,
    clustering: Clustering,
    folder: Path,
    told: Callable[[str], None] = lambda text: None,
) -> list[Point]:
    """Points of every tap: of utterances that have labels all frames are clustered, those where
    nothing is said do not count. The floor is what shuffled labels give, which is above 0.

    labels: where the kind is of these. Raises UserError for fewer frames than clusters.
    """
    if labels is None:
        rows, names, of_row = named(utterances, kind)
    else:
        rows, names = labels.spoken, labels.names

    def said(row: int, times: np.ndarray) -> np.ndarray:
        if labels is None:
            return np.full(len(times), of_row[row] + 1)
        return frame_labels(labels.rows[row], times) + 1  # from 0 on: all frames are taken

    selections = {
        f"frames-{sample}": Frames(
            draw_rows(rows, clustering.utterances, clustering.seed + sample), said
        )
        for sample in range(clustering.samples)
    }
    told("features")
    taken = collect(extractor, utterances, selections, folder)
    points = []
    for tap, width in extractor.taps.items():
        found, floors = [], []
        for sample, of in enumerate(taken.values()):
            told(f"clusters of {tap}, sample {sample + 1}")
            seed = clustering.seed + sample
            learnt = kmeans.learn(of.arrays[tap], clustering.clusters, seed=seed)
            units = Nearest(learnt.centroids)(of.arrays[tap])
            shape = len(names), clustering.clusters
            what = of.what - 1
            found.append(agreement.agreement(agreement.joint_counts(what, units, shape)))
            where = np.flatnonzero(what >= 0)
            shuffled = np.random.default_rng(seed).permutation(what[where])
            counts = agreement.joint_counts(shuffled, units[where], shape)
            floors.append(agreement.agreement(counts))
        for score, field in (("pnmi", "normalized"), ("label_purity", "label_purity"),
                             ("cluster_purity", "unit_purity")):  # fmt: skip
            values = [getattr(one, field) for one in found]
            floor = float(np.mean([getattr(one, field) for one in floors]))
            points.append(Point(tap, score, values, [], floor, found[0].frames, width))
    return points
