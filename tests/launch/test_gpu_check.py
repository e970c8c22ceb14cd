"""launch/gpu_check.sh: its small form on the CPU, and what it says of parts that failed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu_check import forms
from benchmarks.gpu_check.children import Children, Clock
from benchmarks.gpu_check.golden import Golden
from benchmarks.gpu_check.kernels import kernels
from benchmarks.gpu_check.report import FAILED, NO_TIME, OK, Report
from benchmarks.gpu_check.sides import Side, measure
from tests.xla import FLAGS

ROOT = Path(__file__).parents[2]
UPDATES = [*forms.SMALL.updates]
PARTS = {"golden", *UPDATES, "transformers", "kernels", "resume", "training", "memory"}


def begin(temporary: Path, *arguments: str) -> subprocess.Popen:
    temporary.mkdir()
    return subprocess.Popen(
        ["launch/gpu_check.sh", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env=os.environ | {
            "NO_INSTALL": "1", "PYTHON": sys.executable, "W2V_EXTRAS": "dev",
            "JAX_PLATFORMS": "cpu", "TMPDIR": str(temporary),
            # other tests may run beside it; what is there ends when it is done
            "XLA_FLAGS": FLAGS, "GPU_CHECK_SECONDS": "400",
        },
    )  # fmt: skip


def left_behind(temporary: Path) -> list[str]:
    """Processes that were started with that TMPDIR."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={temporary}".encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:  # has ended
            continue
    return found


def test_small_form(tmp_path):
    folder, temporary = tmp_path / "found", tmp_path / "tmp"
    process = begin(temporary, "--small", str(folder))
    output, _ = process.communicate(timeout=420)
    assert process.returncode == 0, output
    *table, last = output.splitlines()
    found = json.loads(last)
    assert found["status"] == OK
    assert found == json.loads((folder / "gpu_check.json").read_text())
    assert (folder / "gpu_check.txt").read_text() == output
    parts = found["parts"]
    assert parts.keys() == PARTS
    assert {name for name, part in parts.items() if part["status"] != OK} == {"transformers"}
    assert all(any(line.startswith(f"| {name} | ") for line in table) for name in PARTS)

    golden = parts["golden"]
    assert golden["float32"] == golden["bfloat16"] == golden["of"] == 1
    assert golden["of_kernels"] == golden["kernel"] == 0  # they are a GPU's
    kernels = {"kernels", "exact kernels"}
    assert golden["worst"].keys() == golden["tolerance"].keys() - kernels
    for name, worst in golden["worst"].items():
        assert worst["error"] <= golden["tolerance"][name], name
    for name in UPDATES:
        assert 0 < parts[name]["step_min_s"] <= parts[name]["step_median_s"], name
        assert parts[name]["dtype"] == "bfloat16"
    assert parts["resume"]["equal"]
    assert parts["resume"]["equal_arrays"] == parts["resume"]["arrays"] > 50
    assert parts["resume"]["continued_from"] == 10
    assert parts["training"]["updates_per_second"] > 0
    assert len(parts["kernels"]["kernels"]) == 10
    assert set(parts["memory"]["peaks"]) == set(UPDATES)
    assert not list(temporary.iterdir())
    assert not left_behind(temporary)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_it(tmp_path, number):
    folder, temporary = tmp_path / "found", tmp_path / "tmp"
    process = begin(temporary, "--small", str(folder))
    while process.poll() is None and not list(folder.glob("gpu_check.logs/golden*")):
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    found = json.loads(output.splitlines()[-1])
    assert found["status"] == NO_TIME
    assert found["parts"]["base"] == {"status": NO_TIME, "reason": "interrupted"}
    assert not list(temporary.iterdir())
    assert not left_behind(temporary)


def test_without_a_gpu(tmp_path):
    process = begin(tmp_path / "tmp", str(tmp_path / "found"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert output.startswith("error: JAX computes on cpu (cpu), not on an NVIDIA GPU; with one, in")
    assert "launch/gpu_check.sh --small" in output
    assert not (tmp_path / "found").exists()


@pytest.fixture
def children(tmp_path):
    (tmp_path / "logs").mkdir()
    found = Children(tmp_path / "logs", tmp_path / "cache")
    yield found
    found.close()


@pytest.fixture
def report(tmp_path):
    return Report(
        tmp_path, ["golden", "good", "bad", "slow", "late", "kernels"], Clock(60), device={}
    )


SIDE = """
import sys
from benchmarks.gpu_check.turns import Turn
turn = Turn(sys.argv[1])
turn.say("ready", {})
turn.wait()
"""


def test_sides_that_fail_are_told_and_the_others_measured(tmp_path, children, report):
    programs = {
        "bad": SIDE + "print('no memory')\nsys.exit(3)",
        "slow": "import time\ntime.sleep(60)",
        "good": SIDE + "turn.say('done', {'title': 'x'})",
    }
    sides = {
        name: Side(name, children, tmp_path / name, ["-c", program, str(tmp_path / name)], nice=0)
        for name, program in programs.items()
    }
    while not (sides["bad"].ready and sides["good"].ready):
        time.sleep(0.05)
    measure(Clock(10), children, sides, report)
    found = report.parts
    assert found["good"] == {"status": OK, "reason": "", "title": "x"}
    assert found["bad"] == {"status": FAILED, "reason": "status 3: no memory"}
    assert found["slow"] == {"status": NO_TIME, "reason": "not compiled in time"}
    assert report.finish() == 1
    text = (tmp_path / "gpu_check.txt").read_text()
    assert "| bad | failed | status 3: no memory |" in text
    assert "| late | no time | not reached |" in text


def test_golden_cases_that_fail_are_told(tmp_path, children, report):
    golden = Golden(children, tmp_path, ("none-of-this-name",), 0)
    golden.report(report)
    assert report.parts["golden"]["status"] == NO_TIME
    case = {"case": "a", "dtype": "float32", "errors": {"outputs": 2.0}, "problem": "error 2.0"}
    lines = [{"of": 1, "kernels": 0, "tolerance": {"outputs": 1e-5}}, case]
    (tmp_path / "0.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    golden.processes.append(children.start("golden-0", ["-c", ""]))
    golden.processes[0].wait()
    golden.report(report)
    found = report.parts["golden"]
    assert (found["status"], found["reason"]) == (FAILED, "a in float32: error 2.0")
    assert found["worst"] == {"outputs": {"error": 2.0, "case": "a"}}
    lines[1] |= {"problem": ""}
    (tmp_path / "0.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    golden.report(report)
    assert report.parts["golden"]["status"] == NO_TIME, "bfloat16 is not done"


def test_kernels_of_a_gpu(tmp_path):
    """A trace as of a GPU: kernels are what runs on its streams."""

    def event(process, thread, name, start, duration):
        return dict(ph="X", pid=process, tid=thread, name=name, ts=start, dur=duration)

    events = [
        dict(ph="M", pid=1, name="process_name", args={"name": "/device:GPU:0"}),
        dict(ph="M", pid=2, name="process_name", args={"name": "/host:CPU"}),
        dict(ph="M", pid=1, tid=5, name="thread_name", args={"name": "Stream #5(Compute)"}),
        dict(ph="M", pid=1, tid=6, name="thread_name", args={"name": "XLA Modules"}),
        event(1, 5, "gemm", 1000, 3000), event(1, 5, "copy", 4000, 500),
        event(1, 5, "gemm", 6000, 3000), event(1, 6, "module", 0, 9000), event(2, 5, "x", 0, 9),
    ]  # fmt: skip
    (tmp_path / "a").mkdir()
    with gzip.open(tmp_path / "a" / "t.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)
    found = kernels(tmp_path, 2)
    assert (found["busy_ms"], found["span_ms"], found["launches"]) == (3.25, 4.0, 1.5)
    first = found["kernels"][0]
    assert first == {"name": "gemm", "count": 1.0, "ms": 3.0, "share": 6000 / 6500}
    with pytest.raises(FileNotFoundError, match="no trace"):
        kernels(tmp_path / "empty", 1)
