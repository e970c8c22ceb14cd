"""Stops training runs at random moments; each must end in the bits of an undisturbed one.

    python -m tests.measure.chaos --trials=50            SIGKILL, SIGTERM, SIGINT, full disks
    python -m tests.measure.chaos --trials=50 --damage   and the newest checkpoint is damaged

A trial is a real `python -m w2v_jax.pretrain` in a process of its own, stopped one to three times
and started again until it finishes: at its start, while it compiles (with an empty cache), while it
waits for its first batch (from named pipes that nobody writes to), in a save, anywhere, or by a
disk that has room for a part of what it writes. Signals that can be heard must end it with 75, a
full disk with 2 and one line; no process may be left. Compared are every array of the last
checkpoint and all metrics but the times. --first=20 begins with trial 20.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax

from tests.runs import final
from tests.xla import FLAGS
from w2v_jax.corpora.preparation import prepare
from w2v_jax.training.checkpoint import checkpoint_steps
from w2v_jax.training.loop import PREEMPTED
from w2v_jax.training.writer import read_lines

ROOT = Path(__file__).parents[2]
STEPS = 40
CONFIG = """
from tests import small

def get_config():
    config = small.pretraining(dropout=0.1, layerdrop=0.2)
    config.data.update(crop_seconds=(1.0,), batch_seconds=4.0)
    config.num_steps = STEPS
    config.run.update(log_steps=2, save_steps=5, eval_steps=15)
    return config
"""
SECONDS = 240  # after which a run counts as hanging
PROMPT = 20  # seconds that a signal may take where nothing is to be saved, on a busy machine
DISK = 24 << 20  # bytes
MOMENTS = {"start": 1, "compilation": 3, "first batch": 3, "save": 5, "anywhere": 4, "full disk": 3}
FULL = "cannot be written: no space left on device; make room"


class Run:
    """A run in folders of its own, on a disk of its own where one can be mounted."""

    def __init__(self, folder: Path, name: str, workers: int = 0):
        self.folder, self.disk = folder, folder / name
        self.log, self.audio = folder / f"{name}.log", folder / f"{name}-audio"
        self.cache = folder / f"{name}-cache"
        self.workdir = self.disk / "run"
        self.disk.mkdir()
        tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.disk]
        self.mounted = subprocess.run(tmpfs, check=False, capture_output=True).returncode == 0
        self.read_from("speech")
        for split in ("train", "dev"):
            text = (folder / f"{split}.tsv").read_text()
            (folder / f"{name}-{split}.tsv").write_text(text.replace("speech", self.audio.name))
        self._arguments = [
            sys.executable, "-m", "w2v_jax.pretrain", f"--config={folder}/config.py",
            f"--workdir={self.workdir}", f"--config.data.train={folder}/{name}-train.tsv",
            f"--config.data.valid={folder}/{name}-dev.tsv", f"--config.run.workers={workers}",
        ]  # fmt: skip

    def read_from(self, tree: str) -> None:
        self.audio.unlink(missing_ok=True)
        self.audio.symlink_to(self.folder / tree)

    def start(self, cache: Path | None = None) -> subprocess.Popen:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS, "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(cache or self.folder / "cache"),
        }  # fmt: skip
        with self.log.open("a") as log:
            return subprocess.Popen(
                self._arguments,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def tables(self) -> int:
        """How often the table of parameters was printed: once at every start."""
        return self.log.read_text().count(" per device; mesh:")

    @property
    def lines(self) -> list[dict]:
        return read_lines(self.workdir / "metrics.jsonl")

    @property
    def saving(self) -> bool:
        return any((self.workdir / "checkpoints").glob("*orbax-checkpoint-tmp*"))

    def wait(self, process: subprocess.Popen, condition: Callable[[], bool]) -> None:
        """Until it holds, or the process has ended."""
        while process.poll() is None and not condition():
            time.sleep(0.005)

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", self.disk], check=True)


class Chaos:
    """The trials, and what was seen in them."""

    def __init__(self, folder: Path, seed: int, damage: bool, steps: int = STEPS):
        self.folder, self.seed, self.damage, self.steps = folder, seed, damage, steps
        self.seen = collections.Counter()
        self.longest = collections.Counter()
        (folder / "config.py").write_text(CONFIG.replace("STEPS", str(steps)))
        (folder / "speech").symlink_to(ROOT / "w2v_jax" / "samples")
        for split in ("train", "dev"):
            prepare([f"{folder}/speech/{split}-clean"], f"{folder}/{split}.tsv", decode=False)
        for path in (ROOT / "w2v_jax" / "samples").rglob("*.*"):
            pipe = folder / "pipes" / path.relative_to(ROOT / "w2v_jax" / "samples")
            pipe.parent.mkdir(parents=True, exist_ok=True)
            os.mkfifo(pipe)
        whole = Run(folder, "whole")
        begin = time.monotonic()
        process = whole.start()
        whole.wait(process, lambda: whole.tables > 0)
        table = time.monotonic()
        whole.wait(process, lambda: bool(whole.lines))
        middle = time.monotonic()
        assert process.wait(SECONDS) == 0, whole.log.read_text()
        self.seconds = time.monotonic() - begin
        self.compiles = middle - table
        # the later runs find their programs in the cache, and take about half of this
        self.first, self.rest = (middle - begin) / 2, (time.monotonic() - middle) / 2
        self.expected = final(whole.workdir)
        whole.remove()

    def trial(self, number: int) -> str:
        """What is wrong with how the run ended; "" if nothing is."""
        rng = random.Random(f"{self.seed} {number}")
        run = Run(self.folder, f"trial-{number}", workers=rng.choice((0, 0, 1)))
        try:
            return self._trial(run, rng)
        finally:
            run.remove()

    def _trial(self, run: Run, rng: random.Random) -> str:
        for _ in range(rng.randint(1, 3)):
            (moment,) = rng.choices([*MOMENTS], [*MOMENTS.values()])
            if moment == "full disk":
                problem = self._fill(run, rng)
            else:
                process = self._start_and_wait(run, moment, rng)
                number = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
                problem = self._end(run, process, number, moment)
            if problem:
                return f"{moment}: {problem}: {run.log.read_text()[-2000:]}"
            if self.damage:
                self._damage_newest(run.workdir, rng)
        process = run.start()
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return "the run hangs"
        if status:
            return f"the run ends with {status}: {run.log.read_text()[-2000:]}"
        return self._difference(run)

    def _start_and_wait(self, run: Run, moment: str, rng: random.Random) -> subprocess.Popen:
        tables, known = run.tables if run.log.exists() else 0, len(run.lines)
        cache = None
        if moment == "first batch":
            run.read_from("pipes")
        elif moment == "compilation":  # the second time with what a killed run left in it
            cache = run.cache
        process = run.start(cache)
        run.wait(process, lambda: _listens(process.pid))
        if moment == "start":
            self._sleep(process, rng.uniform(0, self.first))
        elif moment in ("compilation", "first batch"):
            run.wait(process, lambda: run.tables > tables)
            longest = self.compiles if moment == "compilation" else self.first
            self._sleep(process, rng.uniform(0, longest))
        else:
            run.wait(process, lambda: len(run.lines) > known)
            self._sleep(process, rng.uniform(0, self.rest))
        if moment == "save":
            while process.poll() is None and not run.saving:
                time.sleep(0.001)
            self._sleep(process, rng.uniform(0, 0.1))
        return process

    def _sleep(self, process, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.002)

    def _end(self, run: Run, process, number: signal.Signals, moment: str) -> str:
        saving, begin = run.saving, time.monotonic()
        process.send_signal(number)
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"it does not hear {number.name}"
        finally:
            run.read_from("speech")
        seconds = time.monotonic() - begin
        if status == 0:
            self.seen["finished before the signal"] += 1
            return ""
        if status != (-number if number == signal.SIGKILL else PREEMPTED):
            return f"{number.name} ends it with {status}"
        if left := _left_of(process.pid):
            return f"{number.name} leaves the processes {left}"
        self.seen[f"{number.name}, {moment}"] += 1
        self.seen[f"{number.name}, while a checkpoint is written"] += saving
        if number != signal.SIGKILL:
            self.seen["ends with 75"] += 1
            self.longest[moment] = max(self.longest[moment], seconds)
            if moment in ("start", "first batch") and seconds > PROMPT:
                return f"{number.name} ends it after {seconds:.0f} s"
        elif lines := run.lines:
            lost = lines[-1]["step"] - max(checkpoint_steps(run.workdir), default=0)
            self.seen["logged steps lost by SIGKILL"] += max(lost, 0)
        return ""

    def _fill(self, run: Run, rng: random.Random) -> str:
        """A run on a disk that has room for some of what it writes."""
        if not run.mounted:
            self.seen["no disk to fill (not root)"] += 1
            return ""
        ballast = run.disk / "ballast"
        free = shutil.disk_usage(run.disk).free
        with ballast.open("wb") as file:
            file.write(bytes(free - rng.randrange(1 << 20)))
        before = len(run.log.read_text()) if run.log.exists() else 0
        process = run.start()
        status = process.wait(SECONDS)
        ballast.unlink()
        said = run.log.read_text()[before:]
        if status == 0:
            self.seen["finished on a nearly full disk"] += 1
            return ""
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if status != 2 or "Traceback" in said or len(errors) != 1 or FULL not in errors[0]:
            return f"a full disk ends it with {status}"
        (path,) = re.findall(r"error: \S+/run/?(\S*) cannot", errors[0])
        self.seen[f"full disk: {path.partition('/')[0] or '.'}"] += 1
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

    def _difference(self, run: Run) -> str:
        log = run.log.read_text()
        self.seen["damaged checkpoints passed over"] += log.count("WARNING: checkpoint of step")
        found = final(run.workdir)
        if found[0] != self.steps or found[1].keys() != self.expected[1].keys():
            return f"another end: step {found[0]}"
        for name, array in self.expected[1].items():
            if found[1][name].tobytes() != array.tobytes():
                return f"{name} differs"
        if json.dumps(found[2]) != json.dumps(self.expected[2]):
            return "the metrics differ"
        files = [path.name for path in run.workdir.iterdir()]
        halves = {"run.lock", *(name for name in files if name.endswith(".tmp"))} & {*files}
        return f"it leaves {halves}" * bool(halves)


def _listens(process: int) -> bool:
    """Whether a process has a handler for SIGTERM: nothing of ours runs before."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", status)
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _left_of(session: int) -> list[str]:
    """The processes that are still there of a session whose leader has ended."""
    for _ in range(100):
        left = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                text = stat.read_text()
                fields = text.rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] != "Z":
                    left.append(text[:60])
        if not left:
            return []
        time.sleep(0.1)
    return left


def main(trials: int, first: int, seed: int, damage: bool, jobs: int) -> int:
    """Runs the trials, prints what was seen and returns how many failed."""
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), seed, damage)
        print(f"an undisturbed run of {STEPS} updates compiles and ends in {chaos.seconds:.0f} s",
              flush=True)  # fmt: skip
        failed = 0
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            numbers = range(first, trials)
            for number, problem in zip(numbers, pool.map(chaos.trial, numbers), strict=True):
                failed += bool(problem)
                print(f"trial {number}: {problem or 'the same bits'}", flush=True)
        for name, count in sorted(chaos.seen.items()):
            print(f"{name:<50}{count:>6}")
        for name, seconds in sorted(chaos.longest.items()):
            print(f"{f'longest from a signal to the end, {name}':<50}{seconds:>6.1f} s")
        print(f"{trials - first - failed} of {trials - first} ended in the same bits")
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the trial to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damage", action="store_true", help="damage checkpoints as well")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    sys.exit(main(**vars(parser.parse_args())) > 0)
