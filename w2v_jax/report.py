"""The table and the picture at the end of launch/quickstart.sh.

python -m w2v_jax.report --runs=runs
"""

import csv
from pathlib import Path

import matplotlib
from absl import flags

from w2v_jax import command_line
from w2v_jax.decoding.scoring import Score, score
from w2v_jax.errors import UserError
from w2v_jax.training.writer import read_lines

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASK = ("accuracy", "code_perplexity")
MODELS = {"finetuned": "pre-trained, then CTC", "scratch": "CTC from scratch"}


def decoded(path: Path) -> Score:
    """The score of a table that evaluate wrote."""
    try:
        rows = list(csv.DictReader(path.open(encoding="utf-8"), delimiter="\t"))
    except OSError:
        raise UserError(f"{path} is missing; run launch/quickstart.sh") from None
    return score([row["reference"] for row in rows], [row["hypothesis"] for row in rows])


def curve(lines: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    return [step for step, _ in points], [value for _, value in points]


def table(runs: Path) -> str:
    """One row per stage: error rates on the test set, contrastive task, minutes of training."""
    lines = {name: read_lines(runs / name / "metrics.jsonl") for name in ("pretrain", *MODELS)}
    if not all(curve(line, "time/seconds")[1] for line in lines.values()):
        raise UserError(f"{runs} holds no finished quickstart; run launch/quickstart.sh")
    last = {name: curve(lines["pretrain"], f"valid/{name}")[1][-1] for name in TASK}
    rows = [["", "WER %", "CER %", "contrastive accuracy", "code perplexity", "minutes"]]
    rows.append(
        ["pre-training", "", "", f"{last['accuracy']:.3f}", f"{last['code_perplexity']:.1f}"]
    )
    for name, label in MODELS.items():
        result = decoded(runs / name / "test.decoded.tsv")
        rows.append([label, f"{result.wer:.1f}", f"{result.cer:.1f}", "", ""])
    for row, name in zip(rows[1:], lines, strict=True):
        row.append(f"{curve(lines[name], 'time/seconds')[1][-1] / 60:.1f}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def picture(runs: Path, path: Path) -> None:
    """The curves: contrastive loss, contrastive accuracy and codes, CER of both models."""
    pretrain = read_lines(runs / "pretrain" / "metrics.jsonl")
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for name, label in (("train", "training"), ("valid", "held out")):
        axes[0].plot(*curve(pretrain, f"{name}/contrastive_bits"), label=label)
        axes[1].plot(*curve(pretrain, f"{name}/accuracy"), label=label)
    axes[0].axhline(6.658, color="grey", linestyle=":", label="chance")
    axes[0].set(title="Pre-training", xlabel="updates", ylabel="contrastive loss (bits)")
    axes[1].axhline(1 / 101, color="grey", linestyle=":", label="chance")
    axes[1].set(title="Pre-training", xlabel="updates", ylabel="contrastive accuracy")
    for name, label in MODELS.items():
        axes[2].plot(*curve(read_lines(runs / name / "metrics.jsonl"), "valid/cer"), label=label)
    axes[2].set(title="CTC fine-tuning", xlabel="updates", ylabel="held-out CER (%)", ylim=(0, 105))
    for axis in axes:
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str]) -> None:
    command_line.no_arguments(argv)
    runs = Path(flags.FLAGS.runs)
    print("\n" + table(runs))
    picture(runs, runs / "quickstart.png")
    print(f"\ncurves: {runs / 'quickstart.png'}; texts: {runs}/*/test.decoded.tsv; "
          f"all metrics: tensorboard --logdir {runs}")  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("runs", "runs", "folder of the quickstart")
    command_line.run(main)
