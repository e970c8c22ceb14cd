"""The table and the picture at the end of launch/quickstart.sh.

python -m w2v_jax.report --runs=runs
"""

import csv
from pathlib import Path

import matplotlib
from absl import flags

from w2v_jax import command_line
from w2v_jax.errors import UserError
from w2v_jax.evaluation.reports import columns
from w2v_jax.evaluation.scoring import Score, score
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


def seeds(runs: Path, name: str) -> list[Path]:
    """The finished runs of one model, one folder per seed."""
    folders = sorted(runs.glob(f"{name}-*"))
    return [folder for folder in folders if (folder / "test.decoded.tsv").exists()]


def spread(values: list[float]) -> str:
    """The mean, and beside it the lowest and highest of several."""
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}-{max(values):.1f})"


def minutes(folders: list[Path]) -> float:
    """The time that training took, on average."""
    times = [curve(read_lines(f / "metrics.jsonl"), "time/seconds")[1][-1] for f in folders]
    return sum(times) / len(times) / 60


def table(runs: Path) -> str:
    """One row per stage: error rates on the test set over all seeds, the contrastive task, the
    minutes of one training."""
    pretrain = read_lines(runs / "pretrain" / "metrics.jsonl")
    models = {label: seeds(runs, name) for name, label in MODELS.items()}
    if not pretrain or not all(models.values()):
        raise UserError(f"{runs} holds no finished quickstart; run launch/quickstart.sh")
    accuracy, perplexity = (curve(pretrain, f"valid/{name}")[1][-1] for name in TASK)
    rows = [["", "seeds", "WER %", "CER %", "contrastive accuracy", "code perplexity", "minutes"]]
    task = [f"{accuracy:.3f}", f"{perplexity:.1f}"]
    rows.append(["pre-training", "", "", "", *task, f"{minutes([runs / 'pretrain']):.1f}"])
    for label, folders in models.items():
        scores = [decoded(folder / "test.decoded.tsv") for folder in folders]
        rates = [spread([s.wer for s in scores]), spread([s.cer for s in scores])]
        rows.append([label, str(len(folders)), *rates, "", "", f"{minutes(folders):.1f}"])
    return "\n".join(columns(rows, left=0))


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
    for color, (name, label) in zip(("C0", "C1"), MODELS.items(), strict=True):
        for i, folder in enumerate(seeds(runs, name)):
            lines = read_lines(folder / "metrics.jsonl")
            axes[2].plot(*curve(lines, "valid/cer"), color, label="" if i else label)
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
