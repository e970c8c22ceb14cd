"""A copy of what the launchers touch, in which training is a tiny program."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

# does what the word of PLAN for this start says: ends with a status ("75,1": one per process or
# worker), waits for SIGTERM and ends with 75 as the training does, or does not end at all
TRAINING = """
import json, os, pathlib, signal, sys, time

flags = dict(flag[2:].split("=", 1) for flag in sys.argv[1:] if "=" in flag)
process = flags.get("process_id", "0")
worker = pathlib.Path.cwd().parent.name
calls = pathlib.Path(os.environ["CALLS"]) / f"{worker}-{process}"
with calls.open("a") as file:
    file.write(json.dumps({"flags": sys.argv[1:], "pid": os.getpid()}) + "\\n")
plan = os.environ["PLAN"].split()[len(calls.read_text().splitlines()) - 1].split(",")
index = int(worker[1:]) if worker in ("w0", "w1") else int(process)
what = plan[index % len(plan)]
if what.isdigit():
    sys.exit(int(what))
signal.signal(signal.SIGTERM, (lambda *_: sys.exit(75)) if what == "wait" else signal.SIG_IGN)
calls.with_suffix(".ready").touch()
time.sleep(60)
"""

# what `python -m venv` would make, without pip
PYTHON = f"""#!/bin/bash
case "$*" in
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"-m pip "*) ;;
*) exec {sys.executable} "$@" ;;
esac
"""


class Sandbox:
    """A copy of what the launchers touch, in which `w2v_jax.fake` is the training."""

    def __init__(self, folder: Path):
        self.root, self.bin, self.calls_to = folder / "repo", folder / "bin", folder / "calls"
        for path in (self.root / "w2v_jax", self.bin, self.calls_to):
            path.mkdir(parents=True)
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for name in ("setup.cfg", "pyproject.toml", ".gitignore"):
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "w2v_jax/__init__.py").touch()
        (self.root / "w2v_jax/fake.py").write_text(TRAINING)
        self.program("python3", PYTHON)
        self.environment = {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder),
            "PYTHON": str(self.bin / "python3"), "CALLS": str(self.calls_to), "PAUSE": "0",
        }  # fmt: skip

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def begin(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
        return subprocess.Popen(
            [f"launch/{script}", *arguments], cwd=self.root, text=True, process_group=0,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self.environment | variables,
            # where the tests run in the background of a shell, it is ignored and cannot be trapped
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip

    def run(self, script: str, *arguments: str, status: int = 0, **variables: str) -> str:
        process = self.begin(script, *arguments, **variables)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == status, output
        return output

    def dry(self, script: str, *arguments: str, **variables: str) -> list[list[str]]:
        """The commands that the dry mode prints, split into words."""
        output = self.run(script, *arguments, DRY="1", **variables)
        return [shlex.split(line) for line in output.splitlines() if not line.startswith("# ")]

    def calls(self, name: str = "0") -> list[list[str]]:
        """The flags of each start of one process of the training."""
        (path,) = self.calls_to.glob(f"*-{name}")
        return [json.loads(line)["flags"] for line in path.read_text().splitlines()]

    def calls_of(self, worker: str) -> list[list[str]]:
        lines = (self.calls_to / f"{worker}-0").read_text().splitlines()
        return [json.loads(line)["flags"] for line in lines]

    def ready(self, count: int) -> None:
        """Waits until so many processes wait for their signal."""
        for _ in range(400):
            if len(list(self.calls_to.glob("*.ready"))) == count:
                return
            time.sleep(0.05)
        raise AssertionError("the training did not start")


TPU = {"TPU_NAME": "slice", "ZONE": "us-west4-a", "ACCELERATOR": "v5litepod-16"}
