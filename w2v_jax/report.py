"""Draws trainings, one or several against each other, and says how far they came.

python -m w2v_jax.report --workdir=runs/base
python -m w2v_jax.report --workdir=runs/base --workdir=runs/large --output=both.png
python -m w2v_jax.report --runs=runs

Trainings of any kind; curves have the colour of their folder. The last draws those of
launch/quickstart.sh, with its table of results.
"""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from w2v_jax import command_line
from w2v_jax.errors import UserError
from w2v_jax.evaluation import figures
from w2v_jax.evaluation.figures import Run
from w2v_jax.evaluation.reports import columns
from w2v_jax.evaluation.scoring import Score, score
from w2v_jax.places import check_replaceable, place, short_names, writing
from w2v_jax.tasks import TASKS
from w2v_jax.training.settings import read_settings
from w2v_jax.training.writer import read_lines

# what pre-training in the quickstart learns, of its last evaluation: {metric: title}; it has codes
# or not
LEARNT = {"valid/accuracy": "contrastive accuracy", "valid/code_perplexity": "code perplexity"}
TUNED = {
    "finetuned": "pre-trained, then CTC", "scratch": "CTC from scratch",
    "all": "CTC, all transcripts",
}  # fmt: skip


def read(workdir: str, name: str = "") -> tuple[Run, Mapping[str, Any]]:
    """(metrics, settings) of a training. Raises UserError for a folder that is of none, or that has
    no metrics yet."""
    settings = read_settings(workdir)["settings"]
    lines = read_lines(place(workdir) / "metrics.jsonl")
    if not lines:
        raise UserError(
            f"{workdir} has no metrics yet; the first come after config.run.log_steps updates"
        )
    negatives = settings.get("loss", {}).get("negatives", 0)
    chance = {}
    if negatives:
        chance = {"contrastive_bits": math.log2(1 + negatives), "accuracy": 1 / (1 + negatives)}
    if codes := settings.get("random_quantizer", {}).get("codes"):
        chance = {"prediction_bits": math.log2(codes), "accuracy": 1 / codes}
    return Run(name, lines, chance), settings


def summary(runs: Sequence[Run], settings: Sequence[Mapping[str, Any]]) -> str:
    """One row per training: how far it came, and its score on held-out data, last and best."""
    rows = [("", "kind", "updates", "minutes", "held out", "last", "best")]
    for run, values in zip(runs, settings, strict=True):
        kind = str(values.get("kind"))
        step = f"{run.lines[-1]['step']:,} of {values.get('num_steps', 0):,}"
        _, seconds = run.curve("time/seconds")
        minutes = f"{seconds[-1] / 60:.1f}" if seconds else ""
        best_by = TASKS[kind].best_by if kind in TASKS else ""
        steps, scores = run.curve(best_by)
        score = "", "", ""
        if scores:
            best, at = min(zip(scores, steps, strict=True), key=lambda x: (math.isnan(x[0]), x))
            score = best_by.rpartition("/")[2], f"{scores[-1]:.4g}", f"{best:.4g} at {at:,}"
        rows.append((run.name, kind, step, minutes, *score))
    return "\n".join(columns(rows))


def draw(workdirs: Sequence[str], output: str = "", overwrite: bool = False) -> None:
    """Prints the summary of trainings and draws their curves; output: the picture, by default in
    the first of the folders. Raises UserError for folders that are of no training."""
    workdirs = list(dict.fromkeys(path.rstrip("/") or path for path in workdirs))
    if len(workdirs) > figures.MOST_RUNS:
        raise UserError(f"{len(workdirs)} --workdir; a picture can tell {figures.MOST_RUNS} apart")
    found = [read(*pair) for pair in zip(workdirs, short_names(workdirs), strict=True)]
    runs, settings = zip(*found, strict=True)
    output = output or os.path.join(workdirs[0], "report.png")
    write_picture(output, figures.trainings(runs), overwrite)
    print(summary(runs, settings))
    print(f"\ncurves: {output}")


def write_picture(path: str, picture: bytes, overwrite: bool = False) -> None:
    """Raises UserError where it cannot be written, or another file is in its place."""
    stem, ending = os.path.splitext(path)
    if ending.lower() not in ("", ".png"):
        raise UserError(f"--output={path}: the picture is a PNG; name it {stem}.png")
    check_replaceable(path, "--output", overwrite=overwrite, ours=figures.MARK)
    with writing(path):
        file = place(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)


# the quickstart --------------------------------------------------------------------------------


def decoded(path: Path) -> Score:
    """The score of a table that evaluate wrote."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return score([row["reference"] for row in rows], [row["hypothesis"] for row in rows])


class Tuned(NamedTuple):
    """A fine-tuned model that is scored: its training, its greedy texts, and those found with the
    n-gram model, where there is one."""

    run: Run
    greedy: Score
    searched: Score | None


def read_quickstart(runs: Path) -> tuple[Run, dict[str, list[Tuned]]]:
    """(pre-training, {label: fine-tuned models, one per seed}). Raises UserError where it has not
    come to its end."""
    try:
        pretrained, _ = read(str(runs / "pretrain"))
        tuned = {}
        for name, label in TUNED.items():
            for path in sorted(runs.glob(f"{name}-*/test.decoded.tsv")):
                searched = path.with_name("test.lm.decoded.tsv")
                found = decoded(searched) if searched.exists() else None
                one = Tuned(read(str(path.parent))[0], decoded(path), found)
                tuned.setdefault(label, []).append(one)
        needed = {TUNED["finetuned"], TUNED["scratch"]}
        if pretrained.curve("valid/accuracy")[0] and tuned.keys() >= needed:
            return pretrained, tuned
    except UserError:
        pass
    raise UserError(
        f"{runs} holds no finished quickstart; run launch/quickstart.sh {runs}, or name the "
        "folders of trainings with --workdir"
    )


def spread(values: list[float]) -> str:
    """The mean, and beside it the lowest and highest of several."""
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}-{max(values):.1f})"


def minutes(runs: Sequence[Run]) -> str:
    """The time that training took, on average."""
    return f"{sum(run.curve('time/seconds')[1][-1] for run in runs) / len(runs) / 60:.1f}"


def table(pretrained: Run, tuned: Mapping[str, Sequence[Tuned]]) -> str:
    """One row per stage: error rates on the test set over all seeds, what pre-training learnt, the
    minutes of one training."""
    learnt = {name: title for name, title in LEARNT.items() if pretrained.curve(name)[0]}
    searched = all(one.searched for found in tuned.values() for one in found)
    heads = ["WER %", "CER %", *["WER %, n-gram"] * searched]
    rows = [["", "seeds", *heads, *learnt.values(), "minutes"]]
    last = [pretrained.curve(name)[1][-1] for name in learnt]
    task = [f"{value:.3f}" if value < 1 else f"{value:.1f}" for value in last]
    rows.append(["pre-training", "", *[""] * len(heads), *task, minutes([pretrained])])
    for label, found in tuned.items():
        rates = [spread([one.greedy.wer for one in found]), spread([x.greedy.cer for x in found])]
        if searched:
            rates.append(spread([one.searched.wer for one in found]))
        time = minutes([one.run for one in found])
        rows.append([label, str(len(found)), *rates, *[""] * len(learnt), time])
    return "\n".join(columns(rows, left=0))


def quickstart(runs: Path, output: str = "", overwrite: bool = False) -> None:
    """Prints the table and draws the curves of launch/quickstart.sh; output: the picture, by
    default in the folder."""
    pretrained, tuned = read_quickstart(runs)
    print(f"\n{table(pretrained, tuned)}\n")
    curves = {label: [one.run for one in found] for label, found in tuned.items()}
    picture = output or str(runs / "quickstart.png")
    write_picture(picture, figures.quickstart(pretrained, curves), overwrite)
    best = "all" if TUNED["all"] in tuned else "finetuned"
    first = next(iter(sorted(runs.glob(f"{best}-*"))))
    print(f"curves:              {picture}")
    print(f"to read and hear:    {first / 'test.decoded.html'}")
    print(f"all its metrics:     python -m w2v_jax.report --workdir={first}")
    print(f"your own recording:  python -m w2v_jax.transcribe --checkpoint={first / 'export'} FILE")


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    given = flags.FLAGS
    if bool(given.workdir) == bool(given.runs):
        raise UserError(
            "set --workdir=FOLDER, of a training (several draw them against each other), or "
            "--runs=FOLDER, of launch/quickstart.sh"
        )
    if given.runs:
        quickstart(Path(given.runs), given.output, given.overwrite)
    else:
        draw(given.workdir, given.output, given.overwrite)


if __name__ == "__main__":
    flags.DEFINE_multi_string(
        "workdir", [], "folder of a training; given again, runs are drawn against each other"
    )
    flags.DEFINE_string("output", "", "the picture, PNG (default: in the first folder)")
    flags.DEFINE_string("runs", "", "folder of launch/quickstart.sh")
    command_line.define_overwrite()
    command_line.run(main)
