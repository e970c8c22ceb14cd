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
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from benchmarks.conformer_line import systems
from benchmarks.conformer_line.results import output, report
from benchmarks.conformer_line.systems import SYSTEMS, TABLES
from w2v_jax.errors import UserError
from w2v_jax.report import decoded


def chain(name: str, seed: int, args: argparse.Namespace) -> Iterator[tuple[list[str], Path]]:
    """(command, file that it leaves) of one system and seed, in order."""
    config, data = os.path.relpath(systems.__file__), args.data
    folder = args.runs / f"{name}-{seed}"

    def training(stage: str, train: str, *more: str) -> tuple[list[str], Path]:
        return [
            stage, f"--config={config}:{stage},{name}", f"--workdir={folder / stage}",
            f"--config.data.train={train}", f"--config.data.valid={data / 'dev.tsv'}",
            f"--config.seed={seed}", *more,
        ], folder / stage / "done"  # fmt: skip

    system = SYSTEMS[name]
    everything = str(data / "train.tsv")
    if system.objective:
        yield training("pretrain", ",".join(filter(None, (everything, args.speech))))
    labels = everything if system.supervised else str(data / "labelled.tsv")
    init = [f"--config.run.init_from={folder / 'pretrain'}"] if system.objective else []
    yield training("finetune", labels, *init)
    texts = output(args.runs, name, seed)
    yield [
        "evaluate", f"--checkpoint={folder / 'finetune'}", f"--data={data / 'test.tsv'}",
        f"--output={texts}", "--overwrite",
    ], texts  # fmt: skip


def run(name: str, seed: int, args: argparse.Namespace, core: int) -> None:
    for command, left in chain(name, seed, args):
        if left.exists():
            continue
        left.parent.mkdir(parents=True, exist_ok=True)
        log = args.runs / f"{name}-{seed}" / f"{command[0]}.log"
        with log.open("a") as file:
            code = subprocess.run(
                [sys.executable, "-m", f"w2v_jax.{command[0]}", *command[1:]],
                stdout=file, stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            ).returncode  # fmt: skip
        if code:
            raise UserError(f"{' '.join(command)} ended with {code}; see {log}")
        left.touch()


def run_all(names: Sequence[str], seeds: Sequence[int], args: argparse.Namespace) -> None:
    """Every system with the first seed, then with the next: on as many cores as there are."""
    for manifest in ("train", "labelled", "dev", "test"):
        if not (args.data / f"{manifest}.tsv").exists():
            raise UserError(f"--data={args.data} has no {manifest}.tsv; run launch/quickstart.sh")
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def one(job: tuple[int, str]) -> str:
        """What went wrong: the other systems run all the same."""
        seed, name = job
        core = cores.get()
        try:
            run(name, seed, args, core)
        except UserError as error:
            return str(error)
        finally:
            cores.put(core)
        print(f"{name}, seed {seed}: CER {decoded(output(args.runs, name, seed)).cer:.1f} %",
              flush=True)  # fmt: skip
        return ""

    jobs = [(seed, name) for seed in seeds for name in names]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        wrong = list(filter(None, pool.map(one, jobs)))
    if wrong:
        raise UserError("\n".join(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--speech", default="", help="manifests of further speech, with commas")
    parser.add_argument("--runs", type=Path, default=Path("runs/line"))
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--report", action="store_true", help="train nothing")
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
