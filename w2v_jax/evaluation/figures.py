"""Pictures: of trainings, of layers, and of the search for weights of language models."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np

from w2v_jax.errors import UserError
from w2v_jax.evaluation.tuning import Trial, best

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

DPI = 110
SOFTWARE = "w2v_jax"
MARK = f"Software\0{SOFTWARE}".encode()  # by which a picture is known as ours
COLUMNS = 3  # panels side by side
MOST_RUNS = 20  # that colours tell apart
LONGEST = 40  # letters of a name in a legend
ROOM = 160  # letters in a line of it, 8 of them for a key
HELD_OUT = dict(linewidth=2.0, marker="o", markersize=3, zorder=3)


class Panel(NamedTuple):
    """What is drawn over the updates: metrics that end with `name`, whatever their group."""

    name: str
    label: str  # with its unit
    log: bool = False
    most: float | None = None  # the axis begins at 0 and does not go further than this


# in this order, of every kind of training what it has
PANELS = (
    Panel("contrastive_bits", "contrastive loss (bits)"),
    Panel("accuracy", "accuracy at masked frames", most=np.inf),
    Panel("code_perplexity", "code perplexity (all groups)", most=np.inf),
    Panel("prediction_bits", "prediction loss (bits)"),
    Panel("relative_error", "squared error / variance of the targets"),
    Panel("label_perplexity", "perplexity of the labels", most=np.inf),
    Panel("answer_perplexity", "perplexity of the answers", most=np.inf),
    Panel("ctc_loss_per_letter", "CTC loss (nats per letter)"),
    Panel("cer", "CER (%)", most=200.0),
    Panel("wer", "WER (%)", most=200.0),
    Panel("loss", "loss (nats per token)"),
    Panel("perplexity", "perplexity (of tokens)", log=True),
    Panel("word_perplexity", "perplexity (of words)", log=True),
    Panel("gradient_norm", "gradient norm", log=True),
    Panel("learning_rate", "learning rate", most=np.inf),
    Panel("audio_hours_per_hour", "speed (hours of audio per hour)", most=np.inf),
    Panel("tokens_per_second", "speed (tokens per second)", most=np.inf),
)


class Run(NamedTuple):
    """The metrics of a training: lines of its metrics.jsonl; what some would be at chance."""

    name: str
    lines: Sequence[Mapping[str, float]]
    chance: Mapping[str, float] = {}

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric."""
        points = [(line["step"], line[name]) for line in self.lines if name in line]
        return [step for step, _ in points], [value for _, value in points]


def trainings(runs: Sequence[Run]) -> bytes:
    """A picture (PNG) of the metrics of trainings over their updates: a colour for each run, thin
    while it trains, thick on held-out data. Raises UserError where no run has a metric of
    `PANELS`."""
    names = {key.rpartition("/")[2] for run in runs for line in run.lines for key in line}
    panels = [panel for panel in PANELS if panel.name in names]
    if not panels:
        raise UserError("none of these runs has a metric that can be drawn")
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(4.4 * COLUMNS, 3.1 * rows + 0.5), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis, panel in zip(axes.flat, panels, strict=False):
        _draw(axis, panel, runs)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    lines = [Line2D([], [], color=_color(i)) for i in range(len(runs))]
    labels = [_short(run.name) for run in runs]
    for label, style in (
        ("training", dict(linewidth=0.9, alpha=0.7)),
        ("held out", HELD_OUT),
        *([("chance", dict(linestyle=":"))] if any(run.chance for run in runs) else ()),
    ):
        lines.append(Line2D([], [], color="grey", **style))
        labels.append(label)
    side_by_side = max(1, min(len(labels), ROOM // (max(map(len, labels)) + 8)))
    figure.legend(lines, labels, loc="outside upper center", ncols=side_by_side, frameon=False)
    return _png(figure)


def _draw(axis: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    found: list[float] = []
    for i, run in enumerate(runs):
        for group in ("train", "time", "valid"):
            steps, values = run.curve(f"{group}/{panel.name}")
            thin = dict(linewidth=0.9, alpha=0.7, marker="" if len(steps) > 1 else ".")
            axis.plot(steps, values, color=_color(i), **(HELD_OUT if group == "valid" else thin))
            found += [value for value in values if np.isfinite(value)]
    for value in {run.chance[panel.name] for run in runs if panel.name in run.chance}:
        axis.axhline(value, color="grey", linestyle=":")
    axis.set(xlabel="updates", ylabel=panel.label)
    _updates(axis, runs)
    plain = StrMethodFormatter("{x:,g}")
    if panel.log and found and min(found) > 0:
        axis.set_yscale("log")
        wide = max(found) > 20 * min(found)  # labels between the powers of ten would overlap
        axis.yaxis.set_minor_formatter(NullFormatter() if wide else plain)
    elif panel.most and found:
        axis.set_ylim(0, min(1.05 * max(found), panel.most) or 1.0)
    axis.yaxis.set_major_formatter(plain)
    axis.grid(alpha=0.3)


def _updates(axis: Axes, runs: Sequence[Run]) -> None:
    """The horizontal axis, the same for all panels."""
    axis.set_xlim(0, 1.02 * max(line["step"] for run in runs for line in run.lines))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _color(index: int) -> str:
    """Ten strong colours, then ten pale ones."""
    return f"C{index}" if index < 10 else matplotlib.colormaps["tab20"](2 * index - 19)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}"


def quickstart(pretrained: Run, tuned: Mapping[str, Sequence[Run]]) -> bytes:
    """A picture (PNG) of launch/quickstart.sh: what is learnt without labels, and the letter errors
    of the models that were fine-tuned afterwards, {label: a run per seed}."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    known = [panel for panel in PANELS if panel.name in pretrained.chance]
    for axis, panel in zip(axes[:2], known, strict=True):
        for name, label in (("train", "training"), ("valid", "held out")):
            axis.plot(*pretrained.curve(f"{name}/{panel.name}"), label=label)
        axis.axhline(pretrained.chance[panel.name], color="grey", linestyle=":", label="chance")
        axis.set(title="Pre-training", xlabel="updates", ylabel=panel.label)
    for color, (label, runs) in enumerate(tuned.items()):
        for i, run in enumerate(runs):
            axes[2].plot(*run.curve("valid/cer"), f"C{color}", label="" if i else label)
    axes[2].set(title="CTC fine-tuning", xlabel="updates", ylabel="CER on held-out speech (%)")
    axes[1].set_ylim(bottom=0)
    axes[2].set_ylim(0, 105)
    every = [run for runs in tuned.values() for run in runs]
    for axis, runs in zip(axes, ([pretrained], [pretrained], every), strict=True):
        _updates(axis, runs)
        axis.set_title(axis.get_title(), pad=28 if len(tuned) < 3 else 44)
        columns = 3 if axis is not axes[2] else 2  # its labels are long
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False)
        axis.grid(alpha=0.3)
    return _png(figure)


def spreads(groups: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> bytes:
    """A picture (PNG) with a panel per group: of each of its systems a point per seed and a line
    at their mean. label: of the axis, with its unit."""
    longest = max(len(rows) for rows in groups.values())
    figure, axes = plt.subplots(
        -(-len(groups) // 2), min(2, len(groups)), squeeze=False, layout="constrained",
        figsize=(13, -(-len(groups) // 2) * (0.38 * longest + 1.2)),
    )  # fmt: skip
    for axis, (title, rows) in zip(axes.flat, groups.items(), strict=False):
        for place, values in enumerate(rows.values()):
            axis.plot(values, [place] * len(values), "o", color=_color(place), alpha=0.6)
            axis.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=_color(place))
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set(title=title, xlabel=label, ylim=(len(rows) - 0.5, -0.5))
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    return _png(figure)


class LayerCurve(NamedTuple):
    """Scores of the layers of a model. What has no layers has a score at the place nan."""

    name: str
    places: Sequence[float]  # of each layer: blocks from 0 on, convolutions below, the last at -1
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    in_sample: Sequence[float] = ()  # beside `values`, which are on held-out frames
    floor: Sequence[float] = ()  # what they are for labels that say nothing
    dashed: bool = False  # in the colour of the curve that its name begins with


def layers(panels: Mapping[str, Sequence[LayerCurve]]) -> bytes:
    """A picture (PNG) with a panel per measure over the layers: of every model a thick curve with
    the range of its samples, thin what was found in sample, dotted the floor."""
    names = list(dict.fromkeys(curve.name for curves in panels.values() for curve in curves))
    whole = [name for name in names if not any(name.startswith(f"{x}, ") for x in names)]
    color = {
        name: _color(next(i for i, x in enumerate(whole) if name == x or name.startswith(f"{x}, ")))
        for name in names
    }
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.8 * columns, 3.6 * rows + 0.8), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    lines: dict[str, Line2D] = {}
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for curve in curves:
            style = dict(color=color[curve.name], linestyle="--" if curve.dashed else "-")
            lines[_short(curve.name)] = Line2D([], [], **style)
            if np.isnan(curve.places).all():
                axis.axhline(curve.values[0], **style)
                continue
            axis.plot(curve.places, curve.values, **(HELD_OUT | style))
            axis.fill_between(curve.places, curve.low, curve.high, color=style["color"], alpha=0.2)
            thin = dict(color=style["color"], linewidth=0.8)
            for values, drawn, label in (
                (curve.in_sample, "-", "in sample"), (curve.floor, ":", "floor")
            ):  # fmt: skip
                if len(values):
                    axis.plot(curve.places, values, linestyle=drawn, **thin)
                    lines[label] = Line2D([], [], color="grey", linestyle=drawn, linewidth=0.8)
        places = [x for curve in curves for x in curve.places if np.isfinite(x)]
        _layer_axis(axis, places)
        axis.set(title=title, xlabel="layer")
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))  # a curve that is flat looks flat
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    ordered = sorted(lines, key=lambda label: label in ("in sample", "floor"))
    longest = max(map(len, ordered))
    side_by_side = max(1, min(len(ordered), ROOM * columns // COLUMNS // (longest + 8)))
    figure.legend(
        [lines[label] for label in ordered], ordered, loc="outside upper center",
        ncols=side_by_side, frameon=False,
    )  # fmt: skip
    return _png(figure)


def _layer_axis(axis: Axes, places: Sequence[float]) -> None:
    """Names of layers: C1 and on of convolutions, 0 the input of the first block, 1 and on."""
    if not places:
        axis.set_xticks([])
        return
    first, last = int(min(places)), int(max(places))
    step = -(-(last + 1) // 13) if last > 0 else 1
    ticks = [x for x in range(first, last + 1) if x < 0 or x % step == 0]
    axis.set_xticks(ticks, [f"C{x - first + 1}" if x < 0 else str(x) for x in ticks], fontsize=7)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=DPI, metadata={"Software": SOFTWARE})
    plt.close(figure)
    return file.getvalue()


def surface(trials: Mapping[str, Sequence[Trial]]) -> bytes:
    """A picture (PNG) of the error rate over the weights, a panel for every tuned model."""
    figure, axes = plt.subplots(
        1, len(trials), figsize=(6.2 * len(trials), 4.6), layout="constrained", squeeze=False
    )
    for axis, (name, tried) in zip(axes[0], trials.items(), strict=True):
        x, y, wer = np.array([(t.lm_weight, t.word_score, t.wer) for t in tried]).T
        low = wer.min()
        high = max(np.percentile(wer, 80), low + 0.1)  # far from the best all is equally bad
        dots = axis.scatter(x, y, c=wer, s=42, cmap="viridis_r", vmin=low, vmax=high)
        chosen = best(tried)
        axis.plot(chosen.lm_weight, chosen.word_score, "r+", markersize=16, markeredgewidth=2)
        axis.set(
            title=f"{name}: {chosen.wer:.1f} % at {chosen.lm_weight:g}, {chosen.word_score:g}",
            xlabel="LM weight (natural logarithms)", ylabel="word score",
        )  # fmt: skip
        figure.colorbar(dots, ax=axis, label="WER on the development set (%)", extend="max")
    return _png(figure)
