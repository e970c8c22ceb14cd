"""The experiment of docs/lecture.md on teachers: c-siam and data2vec beside wav2vec 2.0 and HuBERT.

    python -m benchmarks.hubert_line --data=runs/data --runs=runs/hubert --speech=more.tsv
    python -m benchmarks.teachers_line --data=runs/data --runs=runs/hubert --speech=more.tsv

pre-trains on the same audio, for as many updates and with the same network as that experiment,
whose wav2vec 2.0 also goes on on train.tsv alone, one speaker's; fine-tunes all with the labels of
5 minutes and scores them on test.tsv: once per seed. What is finished is not run again, what was
interrupted goes on. --speech: manifests of further speech for pre-training, with commas. --labels:
alignments of train.tsv (python -m w2v_jax.align), with which the layers of all systems of both
experiments are probed; --figure: the picture of these. --report: trains nothing.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import chains
from benchmarks.hubert_line import finetuning, pretraining, report
from w2v_jax.analysis.curves import RANDOM
from w2v_jax.analysis.points import position, scores_of
from w2v_jax.errors import UserError
from w2v_jax.evaluation import figures

SYSTEMS = {
    "scratch": "not pre-trained",
    "wav2vec2": "wav2vec 2.0",
    "wav2vec2_on": "it goes on on the speaker",
    "wav2vec2_longer": "it goes on on everything",
    "hubert_1": "HuBERT, iteration 1",
    "hubert_2": "HuBERT, iteration 2",
    "c_siam": "c-siam",
    "c_siam_still": "c-siam without warp",
    "data2vec": "data2vec",
}
TRAINED = {  # config, flags
    "wav2vec2_on": ("configs/continued.py:quickstart",),
    "wav2vec2_longer": ("configs/continued.py:quickstart",),
    "c_siam": ("configs/c_siam.py:quickstart",),
    "c_siam_still": ("configs/c_siam.py:quickstart", "--config.warp.enabled=False"),
    "data2vec": ("configs/data2vec.py:quickstart",),
}
PROBED = ("wav2vec2", "hubert_1", "hubert_2", "c_siam", "c_siam_still", "data2vec")
FRAMES = 20_000  # of letters, for training, development and test together


def of(name: str, seed: int, args: argparse.Namespace) -> Iterator[chains.Step]:
    """Pre-training, fine-tuning, score of one system."""
    more = []
    if name.startswith("wav2vec2_"):
        before = args.runs / f"wav2vec2-{seed}" / "pretrain"
        if not (before / "done").exists():
            raise UserError(f"{before} is no finished run; run benchmarks.hubert_line first")
        more = [f"--config.run.init_from={before}", f"--config.num_steps={args.more}"]
    if name == "wav2vec2_on":
        more.append(f"--config.data.train={args.data / 'train.tsv'}")
    yield pretraining(name, seed, args, *TRAINED[name], *more)
    yield from finetuning(name, seed, args)


def probing(name: str, seed: int, args: argparse.Namespace) -> chains.Step:
    """Probes of the blocks of a model, and of one of them untrained, with the letters of train.tsv;
    utterances are divided by the seed."""
    folder = args.runs / f"{name}-{seed}"
    floor = "--floor" if name == PROBED[0] else "--nofloor"
    return [
        "analyze", "probe", f"--checkpoints={folder / 'pretrain'}", f"--names={name}", floor,
        f"--data={args.data / 'train.tsv'}", f"--labels={args.labels}", "--targets=letters",
        "--layers=", "--taps=hidden_0,hidden_1,hidden_2,hidden_3,hidden_4", "--samples=1",
        f"--seed={seed}", "--utterances=0", f"--frames={FRAMES}", f"--output={folder / 'probe'}",
    ], folder / "probe" / "done"  # fmt: skip


def draw(runs: Path, path: Path) -> None:
    """The accuracy of both probes over the blocks, mean and range over the seeds."""
    panels: dict[str, list[figures.LayerCurve]] = {}
    scores = ("linear", "one linear layer"), ("hidden 512", "two linear layers")
    for score, title in scores:
        for name in PROBED:
            for ending in ("", RANDOM):
                found: dict[str, list[float]] = {}
                folders = runs.glob(f"{name}-[0-9]*/probe")
                for one in (x for folder in folders for x in scores_of(folder)):
                    if one.name == name + ending:
                        for point in (point for point in one.points if point.score == score):
                            found.setdefault(point.layer, []).append(point.value)
                if found:
                    values = list(found.values())
                    panels.setdefault(f"letters of a frame, {title}: accuracy", []).append(
                        figures.LayerCurve(
                            "untrained" if ending else SYSTEMS[name],
                            [position(layer, found) for layer in found],
                            [float(np.mean(x)) for x in values], [min(x) for x in values],
                            [max(x) for x in values], dashed=bool(ending),
                        )
                    )  # fmt: skip
    if not panels:
        raise UserError(f"{runs} has no probes yet; give --labels")
    for title, curves in panels.items():
        print(title)
        for curve in curves:
            print(f"{curve.name:>20}", *(f"{x:.3f} ({a:.3f}-{b:.3f})" for x, a, b in zip(
                curve.values, curve.low, curve.high, strict=True)))  # fmt: skip
    path.write_bytes(figures.layers(panels))


def main() -> None:
    parser = chains.arguments(__doc__, "runs/hubert")
    parser.add_argument("--updates", type=int, default=1_200, help="of every pre-training")
    parser.add_argument("--more", type=int, default=300, help="updates when wav2vec 2.0 goes on")
    parser.add_argument("--systems", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--labels", type=Path, help="alignments of train.tsv, for probes")
    parser.add_argument("--figure", type=Path, help="where the picture of the probes goes")
    args = parser.parse_args()
    try:
        if not args.report:
            everything = {
                f"{SYSTEMS[name]}, seed {seed}": of(name, seed, args)
                for seed in args.seeds for name in args.systems
            }  # fmt: skip
            chains.run_all(everything, lambda name: f"{name}: done", args.jobs)
        if args.labels and not args.report:
            probes = {
                f"probes of {SYSTEMS[name]}, seed {seed}": [probing(name, seed, args)]
                for seed in args.seeds for name in PROBED
            }  # fmt: skip
            chains.run_all(probes, lambda name: f"{name}: done", args.jobs)
        report(args.runs, SYSTEMS)
        if args.figure:
            draw(args.runs, args.figure)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
