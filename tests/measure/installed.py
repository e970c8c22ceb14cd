"""Installs the package from a wheel into a fresh environment, and runs the quickstart with it.

    python -m tests.measure.installed

builds a wheel, makes a virtual environment, installs the wheel there (not editable) and, in another
folder, runs the five steps of launch/quickstart.sh with the command `w2v`: prepare, pretrain,
finetune twice, evaluate, report. 10 minutes on two cores.
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
# what points at a clone, or is none of a new user's settings
LEFT_OUT = {"PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {k: v for k, v in os.environ.items() if k not in LEFT_OUT}
        environment["HOME"] = str(folder)  # an empty cache
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()

        def act(*words: object) -> str:
            began = time.perf_counter()
            result = subprocess.run(
                list(map(str, words)), cwd=elsewhere, env=environment, check=False,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            print(result.stdout, end="")
            shown = " ".join([Path(words[0]).name, *map(str, words[1:3])])
            print(f"-- {shown}: {time.perf_counter() - began:.0f} s", flush=True)
            if result.returncode:
                sys.exit(f"it ended with {result.returncode}")
            return result.stdout

        source = folder / "source"
        act("git", "clone", "--quiet", ROOT, source)
        act(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", f"-w{folder}", source)
        venv.create(folder / "venv", with_pip=True)
        (wheel,) = folder.glob("*.whl")
        act(folder / "venv" / "bin" / "pip", "install", "-q", wheel)
        w2v = folder / "venv" / "bin" / "w2v"
        samples = act(w2v, "samples").strip()
        for split in ("train", "dev", "test"):
            act(w2v, "prepare", f"--input={samples}/{split}-clean", f"--output={split}.tsv")
        act(w2v, "prepare", f"--input={samples}/train-clean", "--minutes=5",
            "--output=labelled.tsv")  # fmt: skip
        act(w2v, "pretrain", "--config=quickstart:pretrain", "--workdir=runs/pretrain",
            "--config.data.train=train.tsv", "--config.data.valid=dev.tsv")  # fmt: skip
        act(w2v, "export", "--workdir=runs/pretrain", "--output=runs/pretrain/export")
        begins = {"finetuned": "runs/pretrain/export", "scratch": ""}
        for name, start in begins.items():
            run = f"runs/{name}-0"
            act(w2v, "finetune", "--config=quickstart:finetune", f"--workdir={run}",
                "--config.data.train=labelled.tsv", "--config.data.valid=dev.tsv",
                f"--config.run.init_from={start}")  # fmt: skip
            act(w2v, "export", f"--workdir={run}", f"--output={run}/export")
            act(w2v, "evaluate", f"--checkpoint={run}/export", "--data=test.tsv",
                f"--output={run}/test.decoded.tsv")  # fmt: skip
        act(w2v, "report", "--runs=runs")


if __name__ == "__main__":
    main()
