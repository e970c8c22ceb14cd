"""Scores of layers as they are kept: a file per model and measure, tables of all, pictures' curves.

FOLDER/MODEL.MEASURE.json holds what was computed of one model, by what settings and of which
weights: the next model adds to the table and the picture without computing the others again.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from w2v_jax.errors import UserError, brief
from w2v_jax.places import Place, check_replaceable, write_whole

FORMAT = "w2v_jax layer scores 1"
COLUMNS = (
    "model", "layer", "measure", "score", "value", "lowest", "highest", "in_sample", "floor",
    "repeats", "frames", "width",
)  # fmt: skip
HEAD = ",".join(COLUMNS)


class Point(NamedTuple):
    """One score of one layer."""

    layer: str  # the tap
    score: str  # pwcca, linear probe ...
    values: list[float]  # on held-out frames, of every sample or seed
    in_sample: list[float]  # on those that it was fitted on; may be empty
    floor: float | None  # the value for labels that say nothing
    frames: int
    width: int

    @property
    def value(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def fitted(self) -> float | None:
        """The value in sample, where there is one."""
        return sum(self.in_sample) / len(self.in_sample) if self.in_sample else None


class Scores(NamedTuple):
    """Those of one model and measure."""

    name: str
    measure: str
    model: dict[str, Any]  # the extractor's description
    settings: dict[str, Any]  # what else the scores depend on
    points: list[Point]

    def path(self, folder: Place) -> Place:
        name = re.sub(r"[^\w.+-]+", "_", self.name)
        return folder / f"{name}.{self.measure}.json"

    def covers(self, other: "Scores", layers: Iterable[str]) -> bool:
        """Whether these are what computing the others would give, of all layers."""
        return (
            self.same_model(other)
            and self.settings == other.settings
            and set(layers) <= {point.layer for point in self.points}
        )

    def same_model(self, other: "Scores") -> bool:
        return self.model["digest"] == other.model["digest"]


def write_scores(scores: Scores, folder: Place) -> None:
    content = {"format": FORMAT} | scores._asdict()
    content["points"] = [point._asdict() for point in scores.points]
    write_whole(scores.path(folder), json.dumps(content, indent=1) + "\n")


def read_scores(path: Place) -> Scores:
    """Raises UserError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        points = [Point(**point) for point in content.pop("points")]
        return Scores(points=points, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no scores of layers ({brief(error)}); take it away or name another "
            "--output"
        ) from None


def scores_of(folder: Place, measure: str = "*") -> list[Scores]:
    """All that are in a folder, of a measure or pattern of measures."""
    found = folder.glob(f"*.{measure}.json") if folder.exists() else ()
    return [read_scores(path) for path in sorted(found)]


def check_name(scores: Scores, folder: Place, overwrite: bool) -> Scores | None:
    """What the folder has under the name and measure. Raises UserError where that is of another
    model."""
    path = scores.path(folder)
    check_replaceable(path, "--output", overwrite=overwrite, ours=FORMAT.encode())
    if not path.exists() or overwrite:
        return None
    there = read_scores(path)
    if there.name != scores.name:
        raise UserError(
            f"--output={folder} has scores of {there.name!r} in {path.name}, where those of "
            f"{scores.name!r} would stand; give it another name with --names"
        )
    if not there.same_model(scores):
        raise UserError(
            f"--output={folder} has scores of another model under the name {scores.name!r}, of "
            f"{there.model.get('source')}; give this one another with --names, or replace those "
            "with --overwrite"
        )
    return there


def table(found: Sequence[Scores]) -> str:
    """CSV, a row per point."""
    file = io.StringIO(newline="")
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(COLUMNS)
    for scores in found:
        layers = [point.layer for point in scores.points]
        for point in sorted(scores.points, key=lambda point: _order(point.layer, layers)):
            numbers = (point.value, min(point.values), max(point.values), point.fitted, point.floor)
            rows.writerow((
                scores.name, point.layer, scores.measure, point.score,
                *("" if x is None else f"{x:.6g}" for x in numbers),
                len(point.values), point.frames, point.width,
            ))  # fmt: skip
    return file.getvalue()


def _order(layer: str, layers: Sequence[str]) -> float:
    place = position(layer, layers)
    return math.inf if math.isnan(place) else place


def position(layer: str, layers: Iterable[str]) -> float:
    """Where a layer stands in a picture: hidden_N at N, the last convolution at -1, those before it
    further left; nan what is no layer."""
    stem, _, number = layer.rpartition("_")
    if not number.isdecimal() or stem not in ("hidden", "conv"):
        return math.nan
    if stem == "hidden":
        return int(number)
    last = max(int(x.rpartition("_")[2]) for x in layers if x.startswith("conv_"))
    return int(number) - last - 1


class Published(NamedTuple):
    """A number of a layer that others have published."""

    model: str
    measure: str
    layer: int
    value: float
    data: str
    source: str


def published() -> list[Published]:
    """The numbers that come with the package."""
    text = (files("w2v_jax.analysis") / "published.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [
        Published(row["model"], row["measure"], int(row["layer"]), float(row["value"]),
                  row["data"], row["source"])
        for row in csv.DictReader(lines)
    ]  # fmt: skip
