"""The golden cases on the device, shared among processes: compiling is most of their work."""

import json
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.children import Children
from benchmarks.gpu_check.report import FAILED, NO_TIME, OK, Report


class Golden:
    def __init__(self, children: Children, folder: Path, cases: tuple[str, ...], processes: int):
        self._children, self._folder = children, folder
        self.processes: list[subprocess.Popen] = []
        self._ended: list[subprocess.Popen] = []  # here, as there was no more time
        for part in range(processes):
            self.processes.append(children.start(f"golden-{part}", [
                "-m", "tests.measure.golden_on_device", f"--part={part}", f"--of={processes}",
                f"--output={folder}/{part}.jsonl", f"--cases={','.join(cases)}",
            ], nice=10))  # fmt: skip

    @property
    def running(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                self._ended.append(process)
                self._children.end(process)

    def report(self, report: Report) -> None:
        """What the processes have found so far; they are not running any more."""
        lines, broken = [], ""
        for part, process in enumerate(self.processes):
            path = self._folder / f"{part}.jsonl"
            text = path.read_text() if path.exists() else ""
            lines += [json.loads(x) for x in text.splitlines() if x.endswith("}")]
            if process.returncode and process not in self._ended:
                broken = f"a process ended with {process.returncode}: " + self._children.tail(
                    f"golden-{part}"
                )
        about = next((x for x in lines if "of" in x), None)
        if about is None:
            report.set("golden", FAILED if broken else NO_TIME, broken or "no case was reached")
            return
        cases = [x for x in lines if "case" in x]
        found: dict[str, Any] = {"of": about["of"], "tolerance": about["tolerance"], "worst": {}}
        found["of_kernels"] = about["kernels"]
        for kind in ("kernel", "float32", "bfloat16"):
            found[kind] = sum(x["dtype"] == kind and not x["problem"] for x in cases)
        for case in cases:
            for name, error in case["errors"].items():
                if error > found["worst"].get(name, {"error": -1.0})["error"]:
                    found["worst"][name] = {"error": error, "case": case["case"]}
        problems = [f"{x['case']} in {x['dtype']}: {x['problem']}" for x in cases if x["problem"]]
        if broken or problems:
            status, reason = FAILED, "; ".join(filter(None, [broken, *problems[:3]]))
        elif len(cases) < (every := 2 * about["of"] + about["kernels"]):
            status, reason = NO_TIME, f"{len(cases)} of {every} checks were done"
        else:
            status, reason = OK, ""
        report.set("golden", status, reason, **found, problems=problems)
