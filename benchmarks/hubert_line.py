"""The experiment of docs/lecture.md on HuBERT, small enough for two CPU cores.

    launch/quickstart.sh runs     # its manifests are used, and nothing else of it
    python -m benchmarks.hubert_line --data=runs/data --runs=runs/hubert --speech=more.tsv

clusters MFCC, pre-trains wav2vec 2.0 and HuBERT on the same audio for as many updates, clusters a
layer of HuBERT, pre-trains the second iteration on these, fine-tunes all and the same network from
random weights with the labels of 5 minutes, and scores them on test.tsv: once per seed, each seed's
chain on processors of its own. What is finished is not run again, what was interrupted goes on.
--speech: manifests of further speech for pre-training, with commas. --report: trains nothing.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import chains
from w2v_jax.errors import UserError
from w2v_jax.evaluation.reports import columns
from w2v_jax.report import decoded, spread
from w2v_jax.training.writer import read_lines

LAYER, CLUSTERS = 2, 100  # of four blocks; as many clusters as of MFCC: the hours are few
FINETUNING = 600  # updates
# a network that a processor trains at four updates per second
NETWORK = [
    "--config.model.width=128", "--config.model.feed_forward=512", "--config.model.num_layers=4",
    "--config.model.num_heads=4", "--config.model.frontend.conv_layers="
    "((32,10,5),(64,3,2),(64,3,2),(96,3,2),(128,3,2),(128,2,2),(128,2,2))",
]  # fmt: skip
SYSTEMS = {
    "scratch": "not pre-trained", "wav2vec2": "wav2vec 2.0", "hubert_1": "HuBERT, iteration 1",
    "hubert_2": "HuBERT, iteration 2",
}  # fmt: skip


def units(name: str, features: str, seed: int, args: argparse.Namespace) -> Iterator[chains.Step]:
    """Learns clusters and applies them: `features` are the flags that say of what."""
    centroids = args.runs / name / "centroids.npz"
    yield [
        "units", "learn", *features.split(), f"--data={chains.audio(args)}",
        f"--clusters={CLUSTERS}", f"--share={args.share}", f"--seed={seed}",
        f"--output={centroids}",
    ], centroids  # fmt: skip
    yield [
        "units", "apply", f"--centroids={centroids}", f"--name={name}", "--overwrite",
        f"--data={chains.audio(args)},{args.data / 'dev.tsv'}",
    ], args.runs / name / "applied"  # fmt: skip


def pretraining(
    name: str, seed: int, args: argparse.Namespace, config: str, *more: str
) -> chains.Step:
    folder = args.runs / f"{name}-{seed}" / "pretrain"
    return [
        "pretrain", f"--config={config}", f"--workdir={folder}", f"--config.seed={seed}",
        f"--config.data.train={chains.audio(args)}", f"--config.data.valid={args.data / 'dev.tsv'}",
        f"--config.num_steps={args.updates}", "--config.run.eval_steps=500",
        "--config.run.save_steps=500", "--config.run.log_steps=50", *NETWORK, *more,
    ], folder / "done"  # fmt: skip


def finetuning(name: str, seed: int, args: argparse.Namespace) -> Iterator[chains.Step]:
    folder = args.runs / f"{name}-{seed}"
    init = [] if name == "scratch" else [f"--config.run.init_from={folder / 'pretrain'}"]
    yield [
        "finetune", "--config=configs/quickstart.py:finetune,form=wav2vec2",
        f"--workdir={folder / 'finetune'}", f"--config.data.train={args.data / 'labelled.tsv'}",
        f"--config.data.valid={args.data / 'dev.tsv'}", f"--config.seed={seed}",
        f"--config.num_steps={FINETUNING}", "--config.run.eval_steps=100", *NETWORK, *init,
    ], folder / "finetune" / "done"  # fmt: skip
    texts = output(args.runs, name, seed)
    yield [
        "evaluate", f"--checkpoint={folder / 'finetune'}", f"--data={args.data / 'test.tsv'}",
        f"--output={texts}", "--overwrite",
    ], texts  # fmt: skip


def of_wav2vec2(seed: int, args: argparse.Namespace) -> Iterator[chains.Step]:
    yield from finetuning("scratch", seed, args)
    yield pretraining("wav2vec2", seed, args, "configs/quickstart.py:pretrain,form=wav2vec2")
    yield from finetuning("wav2vec2", seed, args)


def of_hubert(seed: int, args: argparse.Namespace) -> Iterator[chains.Step]:
    first, second = (f"configs/hubert.py:quickstart,iteration={i}" for i in (1, 2))
    yield pretraining("hubert_1", seed, args, first, "--config.data.units=('mfcc',)")
    name = f"layer-{seed}"
    model = args.runs / f"hubert_1-{seed}" / "pretrain"
    yield from units(name, f"--features={model} --layer={LAYER}", seed, args)
    yield pretraining("hubert_2", seed, args, second, f"--config.data.units=('{name}',)")
    yield from finetuning("hubert_2", seed, args)
    yield from finetuning("hubert_1", seed, args)


def output(runs: Path, name: str, seed: int) -> Path:
    """What evaluate heard on the test set."""
    return runs / f"{name}-{seed}" / "test.decoded.tsv"


def report(runs: Path, systems: Mapping[str, str]) -> None:
    """The last evaluations of the pre-trainings, and the scores, over all seeds; systems: {name:
    what it is called}."""
    heads = ("", "seeds", "accuracy, masked", "majority label", "nearest label", "label perplexity",
             "CER %", "WER %")  # fmt: skip
    keys = ("accuracy", "majority_accuracy", "copy_accuracy", "label_perplexity")
    rows = []
    for name, title in systems.items():
        folders = sorted(path.parent for path in runs.glob(f"{name}-[0-9]*/test.decoded.tsv"))
        if not folders:
            continue
        scores = [decoded(folder / "test.decoded.tsv") for folder in folders]
        cells = []
        for key in keys:
            found = [
                [line[f"valid/{key}"] for line in read_lines(folder / "pretrain" / "metrics.jsonl")
                 if f"valid/{key}" in line]
                for folder in folders if name != "scratch"
            ]  # fmt: skip
            last = [values[-1] for values in found if values]
            cells.append(f"{sum(last) / len(last):.3g}" if last else "")
        rows.append((title, str(len(folders)), *cells, spread([s.cer for s in scores]),
                     spread([s.wer for s in scores])))  # fmt: skip
    if not rows:
        raise UserError(f"{runs} holds no finished system yet")
    print("\n".join(columns([heads, *rows], left=1)))


def main() -> None:
    parser = chains.arguments(__doc__, "runs/hubert")
    parser.add_argument("--updates", type=int, default=1_200, help="of every pre-training")
    parser.add_argument("--share", type=float, default=0.2, help="of the audio that is clustered")
    args = parser.parse_args()
    try:
        if not args.report:
            everything = {"MFCC": units("mfcc", "--features=mfcc", 0, args)}
            chains.run_all(everything, lambda name: f"{name}: clustered", args.jobs)
            everything = {}
            for seed in args.seeds:
                everything[f"HuBERT, seed {seed}"] = of_hubert(seed, args)
                everything[f"wav2vec 2.0, seed {seed}"] = of_wav2vec2(seed, args)
            chains.run_all(everything, lambda name: f"{name}: done", args.jobs)
        report(args.runs, SYSTEMS)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
