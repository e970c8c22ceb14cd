"""The folder that scores of the layers of models are kept in: what is missing is computed."""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2v_jax.analysis import layer_cca, layer_clusters, layer_probes
from w2v_jax.analysis.extraction import Extractor
from w2v_jax.analysis.labels import Labels
from w2v_jax.analysis.points import Point, Scores, check_name, write_scores
from w2v_jax.analysis.sampling import Utterances, labels_digest
from w2v_jax.analysis.vectors import digest
from w2v_jax.places import is_remote, place, writing


def progress(name: str) -> Callable[[str], None]:
    """Says on a terminal what is being done, in one line, which "" takes away."""

    def say(text: str) -> None:
        if sys.stderr.isatty():
            line = f"{name}: {text:.60}" if text else ""
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)

    return say


class LayerScores:
    """Some speech with its labels, and the folder that scores of models are kept in."""

    def __init__(
        self,
        utterances: Utterances,
        labels: Mapping[str, Labels],
        output: str,
        overwrite: bool = False,
    ):
        """labels: by their kind, of what is going to be computed. overwrite: the leave to replace
        the scores of another model of the same name."""
        self.utterances = utterances
        self.labels, self._overwrite = labels, overwrite
        self.folder = place(output)
        with writing(output):
            self.folder.mkdir(parents=True, exist_ok=True)

    def scores(self, name: str, measure: str, extractor: Extractor, kind: str, **settings: Any):
        """Those without their points. kind: of the labels that they depend on, if there are."""
        settings |= {"data": self.utterances.digest}
        if kind in self.labels:
            settings |= {"labels": labels_digest(self.labels[kind])}
        return Scores(name, measure, extractor.description, settings, [])

    def missing(self, scores: Scores, layers: Sequence[str]) -> bool:
        """Whether they are still to be computed. Raises UserError where another model has the
        name."""
        there = check_name(scores, self.folder, self._overwrite)
        if there and there.settings != scores.settings:
            print(f"{scores.path(self.folder)}: of other data or settings, is replaced")
        return there is None or not there.covers(scores, layers)

    def keep(self, scores: Scores, points: list[Point]) -> None:
        """Writes them, with those that are there of other layers."""
        there = check_name(scores, self.folder, self._overwrite)
        if there and there.settings == scores.settings:
            new = {point.layer for point in points}
            points = [*(point for point in there.points if point.layer not in new), *points]
        write_scores(scores._replace(points=points), self.folder)

    @contextlib.contextmanager
    def work(self, name: str) -> Iterator[tuple[Path, Callable[[str], None]]]:
        """(a folder for features, which goes away; what says on a terminal what is being done)."""
        told, where = progress(name), None if is_remote(self.folder) else self.folder
        with tempfile.TemporaryDirectory(prefix=".features-", dir=where) as folder:
            try:
                yield Path(folder), told
            finally:
                told("")

    def cca(
        self, name: str, extractor: Extractor, views: Sequence[str],
        vectors: Mapping[str, np.ndarray], sampling: layer_cca.Sampling,
    ) -> None:  # fmt: skip
        """Computes the views that are missing of a model and keeps them."""
        wanted = {}
        for view in views:
            if view == "intra" and layer_cca.BASE not in extractor.taps:
                print(f"{name}: no {layer_cca.BASE} to compare layers with; without intra")
                continue
            settings, kind = sampling._asdict(), view
            if view == "vectors":
                settings["vectors"], kind = digest(vectors), "words"
            scores = self.scores(name, f"cca_{view}", extractor, kind, **settings)
            if self.missing(scores, layer_cca.compared(view, extractor.taps)):
                wanted[view] = scores
        if wanted:
            with self.work(name) as working:
                found = layer_cca.cca(
                    extractor, self.utterances, tuple(wanted), self.labels, vectors, sampling,
                    *working,
                )  # fmt: skip
                for view, points in found:
                    self.keep(wanted[view], points)

    def cluster(
        self, name: str, extractor: Extractor, kind: str, clustering: layer_clusters.Clustering
    ) -> None:
        """Clusters the layers of a model where that is missing, and keeps the scores."""
        scores = self.scores(name, f"clusters_{kind}", extractor, kind, **clustering._asdict())
        if self.missing(scores, list(extractor.taps)):
            with self.work(name) as working:
                points = layer_clusters.clusters(
                    extractor, self.utterances, kind, self.labels.get(kind), clustering, *working
                )
            self.keep(scores, points)

    def probe(
        self, name: str, extractor: Extractor, targets: Sequence[str], probing: layer_probes.Probing
    ) -> None:
        """Computes the targets that are missing of a model and keeps them."""
        for target in targets:
            scores = self.scores(name, f"probe_{target}", extractor, target, **probing._asdict())
            if not self.missing(scores, list(extractor.taps)):
                continue
            with self.work(name) as working:
                points, division = layer_probes.probes(
                    extractor, self.utterances, target, self.labels.get(target), probing, *working
                )
            print(f"{name}: {division}")
            self.keep(scores, points)
