"""The training program itself on real speech: killed and started again, and by itself."""

import json
import re
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.children import ROOT, Children, Clock, Over
from benchmarks.gpu_check.forms import Keys, flags

# libraries of a GPU sum in an order of their own without it, so that not even two undisturbed runs
# are alike
EXACT = "--xla_gpu_exclude_nondeterministic_ops=true"
TIMES = {  # of a line of metrics, what differs from run to run
    "time/seconds", "time/seconds_per_step", "time/loader_wait_share", "time/audio_hours_per_hour",
}  # fmt: skip
PREPARE = 60.0  # seconds for the manifests of some hundred files
MARGIN = 5.0  # seconds kept for the report


class Program:
    """pretrain on the speech of the package, in `folder`."""

    def __init__(self, children: Children, clock: Clock, folder: Path, gpu: bool):
        self._children, self._clock, self._folder, self._gpu = children, clock, folder, gpu
        self.stopped = threading.Event()  # others need the card
        self.found: dict[str, Any] = {}  # by `resume`, so far
        self.thread: threading.Thread | None = None  # of `resume`

    def prepare(self) -> None:
        """The manifests. Raises RuntimeError."""
        started = {}
        for split in ("train", "dev"):
            source = ROOT / "w2v_jax" / "samples" / f"{split}-clean"
            started[split] = self._children.start(f"prepare-{split}", [
                "-m", "w2v_jax.prepare", f"--input={source}", "--language=en",
                f"--output={self._folder}/{split}.tsv",
            ], platform="cpu")  # fmt: skip
        for split, process in started.items():
            if self._children.wait(process, min(PREPARE, self._clock.left)) != 0:
                raise RuntimeError(f"prepare failed: {self._children.tail(f'prepare-{split}')}")

    def _train(
        self,
        name: str,
        config: str,
        keys: Keys,
        until: Callable[[Path, float], bool],
        *,
        log: str,
        **options: Any,
    ) -> tuple[int | None, float | None]:
        """Trains in the workdir `name` until it ends or, killed, until `until(workdir, seconds)`.

        Returns (its status, None where it was killed; seconds to the first line of metrics).
        """
        workdir = self._folder / name
        known, begin, first = len(metrics(workdir)), time.monotonic(), None
        process = self._children.start(log, [
            "-m", "w2v_jax.pretrain", f"--config={config}", f"--workdir={workdir}",
            f"--config.data.train={self._folder}/train.tsv", *flags(keys),
        ], **options)  # fmt: skip
        while process.poll() is None:
            seconds = time.monotonic() - begin
            if first is None and len(metrics(workdir)) > known:
                first = seconds
            if until(workdir, seconds):
                self._children.end(process)
                return None, first
            if self.stopped.is_set() or self._clock.left < MARGIN:
                self._children.end(process)
            time.sleep(0.01)
        if self.stopped.is_set() or self._clock.left < MARGIN:
            raise Over
        return process.returncode, first

    def resume(self, keys: Keys, **options: Any) -> dict[str, Any]:
        """A run that is killed after its first checkpoint and started again, and one that nobody
        disturbs. Raises RuntimeError and Over."""
        config, save = "configs/quickstart.py:pretrain", keys["run.save_steps"]
        keys = {"data.valid": f"{self._folder}/dev.tsv", "run.log_steps": 10} | keys
        found = self.found = {"config": config, "updates": keys["num_steps"]}
        if self._gpu:
            options["xla_flags"] = found["xla_flags"] = EXACT

        def never(*_) -> bool:
            return False

        def saved(workdir: Path, _: float) -> bool:
            return (workdir / "checkpoints" / str(save)).is_dir()

        def complete(status: int | None, log: str) -> None:
            if status != 0:
                raise RuntimeError(f"{log}: status {status}: {self._children.tail(log)}")

        status, found["first_line_cold_s"] = self._train(
            "whole", config, keys, never, log="pretrain-whole", **options
        )
        complete(status, "pretrain-whole")
        status, found["first_line_warm_s"] = self._train(
            "cut", config, keys, saved, log="pretrain-cut", **options
        )
        if status is not None:
            raise RuntimeError("the run to be killed had ended before")
        status, found["first_line_resumed_s"] = self._train(
            "cut", config, keys, never, log="pretrain-resumed", **options
        )
        complete(status, "pretrain-resumed")
        log = self._children.tail("pretrain-resumed", 10**6)
        # a later checkpoint than the first where the kill came late
        continued = re.findall(r"continues from step (\d+) of", log)
        found["continued_from"] = int(continued[-1]) if continued else 0
        whole, cut = self._folder / "whole", self._folder / "cut"
        last = keys["num_steps"]
        one, two = digests(whole, last), digests(cut, last)
        lines, others = (
            [{k: v for k, v in x.items() if k not in TIMES} for x in metrics(workdir)]
            for workdir in (whole, cut)
        )
        found |= {
            "arrays": len(one), "equal_arrays": sum(two.get(k) == v for k, v in one.items()),
            "lines": len(lines),
            "equal_lines": sum(a == b for a, b in zip(lines, others, strict=False)),
        }  # fmt: skip
        found["equal"] = bool(
            found["continued_from"] and one and one == two and lines and lines == others
        )
        return found | rates(metrics(whole))

    def training(self, config: str, keys: Keys, seconds: float) -> dict[str, Any]:
        """The program alone on the card for about `seconds` after its first update. Raises
        RuntimeError and Over."""
        keys = keys | {
            "data.valid": "", "run.log_steps": 5, "run.save_steps": 10**7, "run.threads": 8,
            "run.cache_gigabytes": 1.0,
        }  # fmt: skip
        begin = self._clock.passed
        state = {}

        def enough(workdir: Path, now: float) -> bool:
            if "first" not in state and metrics(workdir):
                state["first"] = now
            over = "first" in state and now - state["first"] > seconds
            return over or self._clock.left < MARGIN + 2

        status, first = self._train(
            "alone", config, keys, enough, log="pretrain-alone", fraction=0.9
        )
        lines = metrics(self._folder / "alone")
        if status not in (None, 0):
            raise RuntimeError(f"status {status}: {self._children.tail('pretrain-alone')}")
        if len(lines) < 3:
            raise Over
        found = {"config": config, "updates": lines[-1]["step"], "first_line_warm_s": first}
        return found | {"seconds": self._clock.passed - begin} | rates(lines)


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def digests(workdir: Path, step: int) -> dict[str, int]:
    """Of every array of a checkpoint, as it was sealed with."""
    text = (workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text()
    return json.loads(text)["digests"]


def rates(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a run, the lines after its first, in which it compiled."""
    timed = [x for x in lines if "time/seconds_per_step" in x][1:]
    if not timed:
        return {}
    names = {
        "updates_per_second": lambda x: 1 / x["time/seconds_per_step"],
        "audio_hours_per_hour": lambda x: x["time/audio_hours_per_hour"],
        "loader_wait_share": lambda x: x["time/loader_wait_share"],
    }
    return {name: statistics.median(map(value, timed)) for name, value in names.items()}
