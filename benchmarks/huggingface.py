"""Times an update of ours and of HuggingFace transformers on the same work, in turn, on the CPU.

    python benchmarks/huggingface.py --config=configs/wav2vec2.py:base --batch=2 --seconds=15 \
        --pairs=4 --torch_python=/path/to/venv/bin/python

A config of kind "wav2vec2" is compared with Wav2Vec2ForPreTraining (Wav2Vec2ConformerFor...), one
of kind "ctc" with Wav2Vec2ForCTC. --torch_python has torch and transformers; by default it is the
Python of this script. Needs Linux with glibc.

Each side is a process that warms up (ours compiles, either makes one update) and then waits; this
one asks them alternately, ours first, so that nothing else of the comparison runs meanwhile: for an
update that is not measured, as the system took back what the side had freed while it waited, and
for one that is. Both start from the same weights, exported by us, and have the same audio, float32,
all cores, train mode with the same dropout and LayerDrop, the mask settings of the config, AdamW
and no gradient clipping. Both draw masks and negatives within the measured time, transformers with
the functions of its own that its example script calls in the collator (_compute_mask_indices,
_sample_negative_indices). An update of ours ends with the means of its metrics, which transformers
does not compute; ours has a penalty on the features besides. Fine-tuning is that of the updates
after config.freeze_steps, with the feature encoder frozen on both sides if frontend.grad_mult is 0.

Memory is the resident peak of the process: up to the first update (import, compilation), and in the
measured updates, before which memory that is free goes back to the system.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SIDES = Path(__file__).with_name("huggingface_sides.py")
SETTLE = 0.5  # seconds before an update: threads of the other side may spin for a while


class Side:
    """A process of huggingface_sides.py."""

    def __init__(self, worker: str, python: str, arguments: list[str]):
        self.worker = worker
        self._process = subprocess.Popen(
            [python, str(SIDES), worker, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        self.about = self._answer()
        self.updates: list[dict[str, Any]] = []

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"error: the process of {self.worker} ended, see above")
        return json.loads(line)

    def update(self) -> float:
        """The seconds of an update."""
        time.sleep(SETTLE)
        self._process.stdin.write("update\n")
        self._process.stdin.flush()
        self.updates.append(self._answer())
        return self.updates[-1]["seconds"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    @property
    def median(self) -> float:
        return statistics.median(x["seconds"] for x in self.updates)

    def summary(self) -> str:
        """What is said of all updates together, in a line."""
        masked = [x["masked_frames"] for x in self.updates]
        frames = "" if masked[0] is None else f", {statistics.mean(masked):.0f} masked frames"
        peak = max(x["peak_bytes"] for x in self.updates)
        return (f"{self.worker:<6} {self.about['parameters']:,} parameters, median "
                f"{self.median:.3f} s{frames}, loss {self.updates[0]['loss']:.2f}, peak memory "
                f"{peak / 2**30:.2f} GiB (start: {self.about['start_peak_bytes'] / 2**30:.2f} GiB, "
                f"{self.about['start_s']:.0f} s)")  # fmt: skip


def environment() -> dict[str, str]:
    """Of the processes: our package from this repository, no accelerator, no network; pages of
    2 MiB as in launch/env.sh, for both sides, unless GLIBC_TUNABLES says otherwise."""
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown CPU'}, {os.cpu_count()} cores"


def compare(options: argparse.Namespace) -> None:
    """Runs both sides in turn and prints what they took."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            f"--config={options.config}", f"--batch={options.batch}",
            f"--seconds={options.seconds}", f"--model={options.model}", f"--remat={options.remat}",
            f"--folder={folder}", *(["--cold"] if options.cold else []),
        ]  # fmt: skip
        done = subprocess.run([sys.executable, str(SIDES), "export", *arguments], env=environment())
        if done.returncode:
            sys.exit(f"error: {options.config} could not be written for transformers, see above")
        us = Side("ours", sys.executable, arguments)
        them = Side("theirs", options.torch_python, arguments)
        sizes = us.about["parameters"], them.about["parameters"]
        if abs(sizes[0] - sizes[1]) > 0.001 * sizes[1]:
            sys.exit(f"error: {sizes[0]:,} parameters here, {sizes[1]:,} there: not the same model")
        print(f"{options.config} and {them.about['class']}: {options.batch} rows of "
              f"{options.seconds:g} s, float32{', cold' if options.cold else ''}; "
              "ratio: theirs / ours")  # fmt: skip
        ratios = []
        for pair in range(1, options.pairs + 1):
            here, there = us.update(), them.update()
            ratios.append(there / here)
            print(f"pair {pair}: ours {here:.3f} s, theirs {there:.3f} s, ratio {ratios[-1]:.3f}",
                  flush=True)  # fmt: skip
        us.close()
        them.close()
    print(us.summary(), them.summary(), sep="\n")
    versions = us.about["versions"] | them.about["versions"]
    peaks = [max(x["peak_bytes"] for x in side.updates) / 2**30 for side in (us, them)]
    print("masks, and negatives if any, are drawn within the measured time on both sides")
    print("| config | rows x s | ours s | theirs s | ratio: median (least) | ours GiB | theirs GiB "
          "| versions | CPU |")  # fmt: skip
    print(f"| {options.config} {options.model} remat={options.remat} | "
          f"{options.batch} x {options.seconds:g} | "
          f"{us.median:.3f} | {them.median:.3f} | "
          f"{statistics.median(ratios):.3f} ({min(ratios):.3f}) | "
          f"{peaks[0]:.2f} | {peaks[1]:.2f} | "
          f"{', '.join(f'{name} {value}' for name, value in versions.items())} | "
          f"{cpu_model()} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="FILE:ARGUMENT, from the repository's root")
    parser.add_argument("--model", default="", help="KEY=VALUE,... of its model that are changed")
    parser.add_argument("--remat", default="none", help="ours: config.execution.remat")
    parser.add_argument("--batch", type=int, default=2, help="rows per update")
    parser.add_argument("--seconds", type=float, default=15.0, help="audio per row")
    parser.add_argument("--pairs", type=int, default=4, help="updates of either side")
    parser.add_argument("--cold", action="store_true", help="without the unmeasured updates")
    parser.add_argument("--torch_python", default=sys.executable, help="with transformers")
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
