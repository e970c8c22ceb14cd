"""The table and the picture of all scores of layers that a folder has."""

import math
from collections.abc import Iterator, Sequence

from w2v_jax.analysis.points import HEAD, Point, Scores, position, published, scores_of, table
from w2v_jax.analysis.probes import HIDDEN
from w2v_jax.errors import UserError, some
from w2v_jax.evaluation import figures
from w2v_jax.evaluation.figures import LayerCurve
from w2v_jax.evaluation.reports import columns
from w2v_jax.places import Place, check_replaceable, place, write_whole, writing

RANDOM = ", random weights"  # after the name of a model
# scores of each command that are drawn
DRAWN = {
    "cca": ("pwcca",),
    "probe": ("linear", f"hidden {HIDDEN}"),
    "clusters": ("pnmi", "label_purity", "cluster_purity"),
}
TITLES = {
    "pwcca": "CCA similarity (PWCCA)",
    "linear": "accuracy of a linear probe",
    f"hidden {HIDDEN}": "accuracy of a probe with a hidden layer",
    "pnmi": "mutual information with clusters / entropy",
    "label_purity": "purity (HuBERT: phone purity)",
    "cluster_purity": "cluster purity",
}
# of these measures others have published numbers
PUBLISHED = {
    "clusters_phones": {
        "pnmi": "pnmi", "label_purity": "phone_purity", "cluster_purity": "cluster_purity"
    }
}  # fmt: skip


def draw(output: str, overwrite: bool = False, with_published: bool = False) -> None:
    """Writes COMMAND.csv and COMMAND.png of what each command left there, and prints which layer of
    each model is best. with_published: beside the curves those of the table that comes with the
    package, where the measure is the same. Raises UserError where there is nothing to draw."""
    folder = place(output)
    found = {command: list(_measures(folder, command)) for command in DRAWN}
    if not any(found.values()):
        raise UserError(
            f"--output={output} has no scores of layers; compute them with python -m "
            "w2v_jax.analyze cca or probe"
        )
    for command, measures in found.items():
        for path, ours in (
            (f"{output}/{command}.csv", HEAD.encode()), (f"{output}/{command}.png", figures.MARK)
        ):  # fmt: skip
            if measures:
                check_replaceable(path, "--output", overwrite=overwrite, ours=ours)
    matched = set()
    for command, measures in found.items():
        if not measures:
            continue
        panels: dict[str, list[LayerCurve]] = {}
        for measure, scores in measures:
            for score in DRAWN[command]:
                curves = [curve for one in scores if (curve := _curve(one, score))]
                if curves and with_published and (same := PUBLISHED.get(measure, {}).get(score)):
                    curves += _published_curves(same)
                    matched.add(score)
                if curves:
                    panels[f"{measure.partition('_')[2]}: {TITLES[score]}"] = curves
        every = [one for _, scores in measures for one in scores]
        write_whole(folder / f"{command}.csv", table(every))
        with writing(folder / f"{command}.png"):
            (folder / f"{command}.png").write_bytes(figures.layers(panels))
        print("\n".join(columns(_summary(every, DRAWN[command]), left=3)))
        print(f"{output}/{command}.csv, {command}.png\n")
    if with_published and not matched:
        there = some(dict.fromkeys(row.measure for row in published()))
        print(f"nothing here is what was published: {there}")


def _measures(folder: Place, command: str) -> Iterator[tuple[str, list[Scores]]]:
    """(measure, the scores of all models); those of other data or settings than the newest are
    named and left out."""
    found: dict[str, list[Scores]] = {}
    for scores in scores_of(folder, f"{command}_*"):
        found.setdefault(scores.measure, []).append(scores)
    for measure, every in found.items():
        newest = max(every, key=lambda scores: scores.path(folder).stat().mtime)
        others = [scores.name for scores in every if scores.settings != newest.settings]
        if others:
            print(f"{measure}: left out, as of other data or settings: {some(others)}")
        yield measure, [scores for scores in every if scores.settings == newest.settings]


def _curve(scores: Scores, score: str) -> LayerCurve | None:
    """Of what is a layer in the order of layers, or of what has none."""
    points = [point for point in scores.points if point.score == score]
    layers = [point.layer for point in points]
    places = {point.layer: position(point.layer, layers) for point in points}
    points = [p for p in points if math.isfinite(places[p.layer])] or points[:1]
    if not points:
        return None
    points.sort(key=lambda point: places[point.layer])
    return LayerCurve(
        scores.name, [places[p.layer] for p in points], [p.value for p in points],
        [min(p.values) for p in points], [max(p.values) for p in points],
        [p.fitted for p in points if p.fitted is not None],
        [p.floor for p in points if p.floor is not None], scores.name.endswith(RANDOM),
    )  # fmt: skip


def _published_curves(measure: str) -> Iterator[LayerCurve]:
    rows = [row for row in published() if row.measure == measure]
    for name in dict.fromkeys(f"{row.model} as published ({row.data})" for row in rows):
        own = [row for row in rows if f"{row.model} as published ({row.data})" == name]
        values = [row.value for row in own]
        yield LayerCurve(name, [row.layer for row in own], values, values, values)


def _summary(every: Sequence[Scores], drawn: Sequence[str]) -> list[tuple[str, ...]]:
    rows = [("model", "measure", "best layer", "value", "range", "in sample", "floor")]
    for scores in every:
        for score in drawn:
            points = [point for point in scores.points if point.score == score]
            if points:
                best = max(points, key=lambda point: point.value)
                measure = f"{scores.measure}, {score}"
                rows.append((scores.name, measure, best.layer, *_numbers(best)))
    return rows


def _numbers(point: Point) -> tuple[str, str, str, str]:
    return (
        f"{point.value:.3f}", f"{min(point.values):.3f}-{max(point.values):.3f}",
        *("" if x is None else f"{x:.3f}" for x in (point.fitted, point.floor)),
    )  # fmt: skip
