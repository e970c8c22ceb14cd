"""Chains of commands, each on processors of its own: experiments that can be interrupted."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from w2v_jax.errors import UserError

# (a tool of the package and its arguments, the file that says that it is done)
Step = tuple[list[str], Path]


def run(steps: Iterable[Step], cores: set[int]) -> None:
    """One step after the other; what is done is left out, logs go beside what is left. Raises
    UserError where one fails."""
    for command, left in steps:
        if left.exists():
            continue
        left.parent.mkdir(parents=True, exist_ok=True)
        log = left.parent / f"{command[0]}.log"
        with log.open("a") as file:
            code = subprocess.run(
                [sys.executable, "-m", f"w2v_jax.{command[0]}", *command[1:]],
                stdout=file, stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            ).returncode  # fmt: skip
        if code:
            raise UserError(f"{' '.join(command)} ended with {code}; see {log}")
        left.touch()


def run_all(
    chains: Mapping[str, Iterable[Step]], done: Callable[[str], str], jobs: int = 0
) -> None:
    """All chains, `jobs` at a time, which share the processors (0: one for each); done(name) is
    printed of each that has ended. What goes wrong with one stops no other: it is raised as a
    UserError at the end."""
    here = sorted(os.sched_getaffinity(0))
    jobs = min(jobs or len(here), len(here))
    free: Queue[set[int]] = Queue()
    for job in range(jobs):
        free.put(set(here[job::jobs]))

    def one(name: str) -> str:
        cores = free.get()
        try:
            run(chains[name], cores)
        except UserError as error:
            return str(error)
        finally:
            free.put(cores)
        print(done(name), flush=True)
        return ""

    with ThreadPoolExecutor(jobs) as pool:
        wrong = list(filter(None, pool.map(one, chains)))
    if wrong:
        raise UserError("\n".join(wrong))


def arguments(description: str, runs: str) -> argparse.ArgumentParser:
    """What both experiments take; runs: the usual folder of their runs."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("runs/data"))
    parser.add_argument("--speech", default="", help="manifests of further speech, with commas")
    parser.add_argument("--runs", type=Path, default=Path(runs))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=0, help="at a time; 0: one per processor")
    parser.add_argument("--report", action="store_true", help="train nothing")
    return parser


def audio(args: argparse.Namespace) -> str:
    """The manifests of what is pre-trained on, with commas."""
    return ",".join(filter(None, (str(args.data / "train.tsv"), args.speech)))
