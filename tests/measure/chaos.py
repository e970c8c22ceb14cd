"""Kills training runs at random moments; each must end in the bits of an undisturbed one.

    python -m tests.measure.chaos --trials=50            SIGKILL and SIGTERM, in saves too
    python -m tests.measure.chaos --trials=50 --damage   and the newest checkpoint is damaged

A trial is a real `python -m w2v_jax.pretrain` in a process of its own, killed one to three times
and started again until it finishes. Compared are every array of the last checkpoint and all metrics
but the times.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from tests.runs import final
from tests.xla import FLAGS
from w2v_jax.corpora.preparation import prepare
from w2v_jax.training.checkpoint import checkpoint_steps
from w2v_jax.training.loop import PREEMPTED
from w2v_jax.training.writer import read_lines

ROOT = Path(__file__).parents[2]
STEPS = 80
CONFIG = f"""
from tests import small

def get_config():
    config = small.pretraining(dropout=0.1, layerdrop=0.2)
    config.data.update(crop_seconds=(1.0,), batch_seconds=4.0)
    config.num_steps = {STEPS}
    config.run.update(log_steps=2, save_steps=8, eval_steps=30)
    return config
"""
SECONDS = 240  # after which a run counts as hanging


class Chaos:
    """The trials, and what was seen in them."""

    def __init__(self, folder: Path, seed: int, damage: bool):
        self.folder, self.seed, self.damage = folder, seed, damage
        self.seen = collections.Counter()
        (folder / "config.py").write_text(CONFIG)
        for split in ("train", "dev"):
            samples = ROOT / "w2v_jax" / "samples" / f"{split}-clean"
            prepare([str(samples)], str(folder / f"{split}.tsv"), decode=False)
        whole = folder / "whole"
        begin = time.monotonic()
        process = self._start(whole)
        _wait_for_line(whole, process, 0)
        middle = time.monotonic()
        assert process.wait(SECONDS) == 0, (whole / "log").read_text()
        self.seconds = time.monotonic() - begin
        # the later runs find their programs in the cache, and take about half of this
        self.first, self.rest = (middle - begin) / 2, (time.monotonic() - middle) / 2
        self.expected = final(whole)

    def _start(self, workdir: Path) -> subprocess.Popen:
        workdir.mkdir(exist_ok=True)
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
        }  # fmt: skip
        with (workdir / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "w2v_jax.pretrain", f"--config={self.folder}/config.py",
                 f"--workdir={workdir}", f"--config.data.train={self.folder}/train.tsv",
                 f"--config.data.valid={self.folder}/dev.tsv"],
                cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def trial(self, number: int) -> str:
        """What is wrong with how the run ended; "" if nothing is."""
        rng = random.Random(f"{self.seed} {number}")
        workdir = self.folder / f"trial-{number}"
        for _ in range(rng.randint(1, 3)):
            process = self._start(workdir)
            self._wait_for_the_moment(workdir, process, rng)
            number_of_signal = rng.choice((signal.SIGKILL, signal.SIGTERM))
            problem = self._kill(workdir, process, number_of_signal)
            if problem:
                return problem
            if self.damage:
                self._damage_newest(workdir, rng)
        process = self._start(workdir)
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return "the run hangs"
        if status:
            return f"the run ends with {status}: {(workdir / 'log').read_text()[-2000:]}"
        return self._difference(workdir)

    def _wait_for_the_moment(self, workdir: Path, process, rng: random.Random) -> None:
        kind = rng.choices(("start", "save", "anywhere"), (1, 5, 4))[0]
        if kind == "start":
            self._sleep(process, rng.uniform(0, self.first))
            return
        _wait_for_line(workdir, process, len(read_lines(workdir / "metrics.jsonl")))
        self._sleep(process, rng.uniform(0, self.rest))
        while kind == "save" and process.poll() is None and not _saving(workdir):
            time.sleep(0.001)
        if kind == "save":
            self._sleep(process, rng.uniform(0, 0.1))

    def _sleep(self, process, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.002)

    def _kill(self, workdir: Path, process, number: signal.Signals) -> str:
        saving = _saving(workdir)
        process.send_signal(number)
        status = process.wait(SECONDS)
        if status == 0:
            self.seen["finished before the signal"] += 1
            return ""
        if status not in (-number, PREEMPTED):
            return f"{number.name} ends it with {status}: {(workdir / 'log').read_text()[-2000:]}"
        self.seen[number.name] += 1
        self.seen[f"{number.name}, while saving"] += saving
        self.seen["exits with 75"] += status == PREEMPTED
        lines = read_lines(workdir / "metrics.jsonl")
        if not lines:
            self.seen["before the first metrics"] += 1
        elif number == signal.SIGKILL:
            lost = lines[-1]["step"] - max(checkpoint_steps(workdir), default=0)
            self.seen["logged steps lost by SIGKILL"] += max(lost, 0)
        return ""

    def _damage_newest(self, workdir: Path, rng: random.Random) -> None:
        steps = checkpoint_steps(workdir)
        if len(steps) < 2:  # nothing to go back to
            return
        folder = workdir / "checkpoints" / str(steps[-1])
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        path = rng.choice([path for path in files if path.stat().st_size])
        content = bytearray(path.read_bytes())
        if rng.random() < 0.5:
            content = content[: rng.randrange(len(content))]
            self.seen["files cut short"] += 1
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            self.seen["bits flipped"] += 1
        path.write_bytes(content)

    def _difference(self, workdir: Path) -> str:
        log = (workdir / "log").read_text()
        self.seen["damaged checkpoints passed over"] += log.count("WARNING: checkpoint of step")
        found = final(workdir)
        if found[0] != STEPS or found[1].keys() != self.expected[1].keys():
            return f"another end: step {found[0]}"
        for name, array in self.expected[1].items():
            if found[1][name].tobytes() != array.tobytes():
                return f"{name} differs"
        if json.dumps(found[2]) != json.dumps(self.expected[2]):
            return "the metrics differ"
        return ""


def _wait_for_line(workdir: Path, process, known: int) -> None:
    """Until the metrics have more lines than that, or the process ends."""
    while process.poll() is None and len(read_lines(workdir / "metrics.jsonl")) <= known:
        time.sleep(0.02)


def _saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))


def main(trials: int, seed: int, damage: bool, jobs: int) -> int:
    """Runs the trials, prints what was seen and returns how many failed."""
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), seed, damage)
        print(f"an undisturbed run of {STEPS} updates compiles and ends in {chaos.seconds:.0f} s")
        failed = 0
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for number, problem in enumerate(pool.map(chaos.trial, range(trials))):
                failed += bool(problem)
                print(f"trial {number}: {problem or 'the same bits'}", flush=True)
        for name, count in sorted(chaos.seen.items()):
            print(f"{name:<40}{count:>6}")
        print(f"{trials - failed} of {trials} ended in the same bits")
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damage", action="store_true", help="damage checkpoints as well")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    sys.exit(main(**vars(parser.parse_args())) > 0)
