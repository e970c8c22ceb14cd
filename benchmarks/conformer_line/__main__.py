"""The experiments of docs/lecture.md on the Conformer line, small enough for two CPU cores.

    launch/quickstart.sh runs     # its manifests are used, and nothing else of it
    python -m benchmarks.conformer_line --data=runs/data --runs=runs/line --speech=more.tsv
    python -m benchmarks.conformer_line --runs=runs/line --report

trains every system of systems.py once per seed, each training on a core of its own, scores it on
test.tsv, prints the tables and draws them. What is finished is not run again, what was interrupted
goes on. --speech: manifests of further speech for pre-training, with commas.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence

from benchmarks import chains
from benchmarks.conformer_line import systems
from benchmarks.conformer_line.results import output, report
from benchmarks.conformer_line.systems import SYSTEMS, TABLES
from w2v_jax.errors import UserError
from w2v_jax.report import decoded


def chain(name: str, seed: int, args: argparse.Namespace) -> Iterator[chains.Step]:
    """Of one system and seed."""
    config, data = os.path.relpath(systems.__file__), args.data
    folder = args.runs / f"{name}-{seed}"

    def training(stage: str, train: str, *more: str) -> chains.Step:
        return [
            stage, f"--config={config}:{stage},{name}", f"--workdir={folder / stage}",
            f"--config.data.train={train}", f"--config.data.valid={data / 'dev.tsv'}",
            f"--config.seed={seed}", *more,
        ], folder / stage / "done"  # fmt: skip

    system = SYSTEMS[name]
    everything = str(data / "train.tsv")
    if system.objective:
        yield training("pretrain", chains.audio(args))
    labels = everything if system.supervised else str(data / "labelled.tsv")
    init = [f"--config.run.init_from={folder / 'pretrain'}"] if system.objective else []
    if args.finetuning and not system.supervised:
        init.append(f"--config.num_steps={args.finetuning}")
    yield training("finetune", labels, *init)
    texts = output(args.runs, name, seed)
    yield [
        "evaluate", f"--checkpoint={folder / 'finetune'}", f"--data={data / 'test.tsv'}",
        f"--output={texts}", "--overwrite",
    ], texts  # fmt: skip


def run_all(names: Sequence[str], seeds: Sequence[int], args: argparse.Namespace) -> None:
    """Every system with the first seed, then with the next."""
    for manifest in ("train", "labelled", "dev", "test"):
        if not (args.data / f"{manifest}.tsv").exists():
            raise UserError(f"--data={args.data} has no {manifest}.tsv; run launch/quickstart.sh")
    jobs = {f"{name}, seed {seed}": (name, seed) for seed in seeds for name in names}

    def said(title: str) -> str:
        return f"{title}: CER {decoded(output(args.runs, *jobs[title])).cer:.1f} %"

    chains.run_all({title: chain(*job, args) for title, job in jobs.items()}, said, args.jobs)


def main() -> None:
    parser = chains.arguments(__doc__, "runs/line")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--finetuning", type=int, default=0, help="updates on few labels")
    args = parser.parse_args()
    try:
        if not args.report:
            names = dict.fromkeys(name for title in args.tables for name in TABLES[title])
            run_all(list(names), args.seeds, args)
        report(args.runs)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
