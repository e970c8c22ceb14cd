"""The experiment of docs/lecture.md on teachers: c-siam and data2vec beside wav2vec 2.0 and HuBERT.

    python -m benchmarks.hubert_line --data=runs/data --runs=runs/hubert --speech=more.tsv
    python -m benchmarks.teachers_line --data=runs/data --runs=runs/hubert --speech=more.tsv

pre-trains on the same audio, for as many updates and with the same network as that experiment,
whose wav2vec 2.0 also goes on on train.tsv alone, one speaker's; fine-tunes all with the labels of
5 minutes and scores them on test.tsv: once per seed. What is finished is not run again, what was
interrupted goes on. --speech: manifests of further speech for pre-training, with commas.
--report: trains nothing.
"""

import argparse
import sys
from collections.abc import Iterator

from benchmarks import chains
from benchmarks.hubert_line import finetuning, pretraining, report
from w2v_jax.errors import UserError

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
STILL = ["--config.warp.enabled=False"]
TRAINED = ("wav2vec2_on", "wav2vec2_longer", "c_siam", "c_siam_still", "data2vec")


def of(name: str, seed: int, args: argparse.Namespace) -> Iterator[chains.Step]:
    """Pre-training, fine-tuning, score of one system."""
    if name.startswith("wav2vec2_"):
        before = args.runs / f"wav2vec2-{seed}" / "pretrain"
        if not (before / "done").exists():
            raise UserError(f"{before} is no finished run; run benchmarks.hubert_line first")
        more = [f"--config.run.init_from={before}", f"--config.num_steps={args.more}"]
        if name == "wav2vec2_on":
            more.append(f"--config.data.train={args.data / 'train.tsv'}")
        yield pretraining(name, seed, args, *more)
    else:
        yield pretraining(name, seed, args, *(STILL if name == "c_siam_still" else []))
    yield from finetuning(name, seed, args)


def main() -> None:
    parser = chains.arguments(__doc__, "runs/hubert")
    parser.add_argument("--updates", type=int, default=1_200, help="of every pre-training")
    parser.add_argument("--more", type=int, default=300, help="updates when wav2vec 2.0 goes on")
    parser.add_argument("--systems", nargs="+", choices=TRAINED, default=TRAINED)
    args = parser.parse_args()
    try:
        if not args.report:
            everything = {
                f"{SYSTEMS[name]}, seed {seed}": of(name, seed, args)
                for seed in args.seeds for name in args.systems
            }  # fmt: skip
            chains.run_all(everything, lambda name: f"{name}: done", args.jobs)
        report(args.runs, SYSTEMS)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
