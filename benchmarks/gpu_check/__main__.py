"""Does it work on this GPU, and how fast: one command for it, launch/gpu_check.sh.

    python -m benchmarks.gpu_check [--small] [FOLDER]

Side by side, as compiling is most of it: the updates compile, the golden cases are computed, a
training is killed and started again. Then alone on the card, one after the other: the updates, that
of transformers among them, the training program. A part that fails does not end the others. All
that is in FOLDER: gpu_check.txt (what is printed), gpu_check.json (its last line),
gpu_check.kernels.json (all kernels of every update) and gpu_check.logs, of every process.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.gpu_check import forms
from benchmarks.gpu_check.children import Children, Clock, Interrupted, Over, Signals
from benchmarks.gpu_check.golden import Golden
from benchmarks.gpu_check.program import Program
from benchmarks.gpu_check.report import FAILED, LEFT_OUT, NO_TIME, OK, Report
from benchmarks.gpu_check.sides import Side, measure

CHEAP = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # to compile
CHEAPER = " --xla_cpu_use_fusion_emitters=false"  # which later versions may not know
START = 60.0  # seconds in which JAX, and the driver's tool, must answer
TOP = 10  # kernels in the report
PROBE = """
import json, platform, jax
device = jax.devices()[0]
print(json.dumps({"platform": device.platform, "name": device.device_kind,
                  "jax": jax.__version__, "python": platform.python_version()}))
"""


def one_card() -> None:
    """The first of the cards is checked: a mesh over all of them would be another measurement."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ["CUDA_VISIBLE_DEVICES"] = first


def device() -> dict:
    """What JAX computes on, and what the driver says of it."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=START,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        sys.exit(f"error: {sys.executable} did not start JAX within {START:g} s; is the card busy?")
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"error: {sys.executable} cannot start JAX: {last}")
    found = json.loads(probe.stdout.strip().splitlines()[-1]) | {"cores": os.cpu_count()}
    if found["platform"] != "gpu" or not shutil.which("nvidia-smi"):
        return found
    card = os.environ["CUDA_VISIBLE_DEVICES"]
    query = "--query-gpu=memory.total,memory.used,driver_version"
    with contextlib.suppress(subprocess.TimeoutExpired):
        asked = subprocess.run(
            ["nvidia-smi", f"--id={card}", "--format=csv,noheader,nounits", query],
            capture_output=True, text=True, timeout=START, check=False,
        )  # fmt: skip
        fields = [x.strip() for x in asked.stdout.split(",")]
        if len(fields) == 3 and fields[0].isdigit() and fields[1].isdigit():
            found |= {"memory_mib": int(fields[0]), "used_before_mib": int(fields[1])}
            found["driver"] = fields[2]
    return found


def training_and_resume(program: Program, form: forms.Form, report: Report) -> None:
    """In a thread of its own: what is read, then the killed run."""
    try:
        program.prepare()
        found = program.resume(form.resume, nice=5)
        status = OK if found["equal"] else FAILED
        report.set("resume", status, "" if found["equal"] else "not the same bits", **found)
    except Exception as error:  # a part that fails does not end the others
        if isinstance(error, Over) or program.stopped.is_set():
            reason = "not done when the card was needed alone"
            report.set("resume", NO_TIME, reason, **program.found)
        else:
            report.set("resume", FAILED, f"{type(error).__name__}: {error}")


def together(
    clock: Clock, form: forms.Form, sides: dict[str, Side], golden: Golden, thread: threading.Thread
) -> None:
    """Waits until all has been done that is done side by side, or for as long as there is time."""
    first = next(iter(sides.values()))
    while clock.left > form.alone * clock.budget:
        if not golden.running and not thread.is_alive() and all(s.settled for s in sides.values()):
            return
        if clock.passed > form.together * clock.budget and first.settled:
            return
        time.sleep(0.1)


def compared(report: Report, form: forms.Form) -> None:
    """What transformers takes beside ours."""
    ours, theirs = report.parts[next(iter(form.updates))], report.parts["transformers"]
    if theirs["status"] != OK or ours["status"] != OK:
        return
    theirs["theirs_to_ours"] = theirs["step_median_s"] / ours["step_median_s"]
    if ours["peak_flops"]:
        rate = ours["flops_of_all_blocks"] / theirs["step_median_s"]
        theirs["mfu"] = rate / ours["peak_flops"]


def memory(report: Report, about: dict) -> None:
    peaks = {
        name: part["peak_memory_bytes"]
        for name, part in report.parts.items()
        if "peak_memory_bytes" in part
    }
    total = about.get("memory_mib")
    found = {"peaks": peaks, "device_bytes": None if total is None else total * 2**20}
    report.set("memory", OK if peaks else NO_TIME, "" if peaks else "no update ran", **found)


def kernel_part(report: Report, sides: dict[str, Side], folder: Path) -> None:
    """The kernels of the first update; those of all updates in a file."""
    heard = {name: side.turn.heard("kernels") for name, side in sides.items()}
    traced = {name: found for name, found in heard.items() if found and "problem" not in found}
    if traced:
        (folder / "gpu_check.kernels.json").write_text(json.dumps(traced, indent=1) + "\n")
    first = next(iter(sides))
    found = heard[first]
    if found is None:
        why = sides[first].turn.heard("done") is None
        report.set("kernels", NO_TIME if why else FAILED,
                   "the update was not timed" if why else "no trace")  # fmt: skip
    elif "problem" in found:
        report.set("kernels", FAILED, found["problem"])
    else:
        report.set("kernels", OK, **found | {"kernels": found["kernels"][:TOP]})


def alone(clock: Clock, program: Program, form: forms.Form, report: Report) -> None:
    """The training program with the update that was timed first, whose program is in the cache."""
    base = next(iter(form.updates.values()))
    if report.parts[next(iter(form.updates))]["status"] != OK:
        report.set("training", NO_TIME, "its update was not timed, so compiling would take long")
    elif clock.left < form.start:
        report.set("training", NO_TIME, f"{clock.left:.0f} s are left")
    else:
        program.stopped.clear()
        try:
            report.set("training", OK, **program.training(base.config, base.keys, form.training))
        except Over:
            report.set("training", NO_TIME, "it had not made 15 updates")
        except Exception as error:
            report.set("training", FAILED, f"{type(error).__name__}: {error}")


def check(
    form: forms.Form, name: str, about: dict, report: Report, clock: Clock, children: Children,
    program: Program, folder: Path, work: Path,
) -> int:  # fmt: skip
    """All parts, in the order of the docstring above."""
    sides = {}
    for update in form.updates:  # the first is compiled before all others
        sides[update] = Side(update, children, work / update, [
            "-m", "benchmarks.gpu_check.update", name, update, str(work / update),
        ], nice=5 if sides else 0)  # fmt: skip
    first, *rest = sides
    if form.torch:
        base = form.updates[first]
        theirs = Side("transformers", children, work / "transformers", [
            "-m", "benchmarks.gpu_check.torch_update", str(base.rows), str(base.seconds),
            str(work / "transformers"),
        ], nice=5)  # fmt: skip
        sides = {first: sides[first], "transformers": theirs, **{x: sides[x] for x in rest}}
    else:
        report.set("transformers", LEFT_OUT, "not in the small form")
    processes = min(4, max(1, (os.cpu_count() or 1) // 4))
    (work / "golden").mkdir()
    golden = Golden(children, work / "golden", form.golden, processes)
    program.thread = threading.Thread(
        target=training_and_resume, args=(program, form, report), daemon=True
    )
    program.thread.start()
    together(clock, form, sides, golden, program.thread)
    program.stopped.set()
    golden.end()
    program.thread.join()
    golden.report(report)
    report.say("one at a time")
    measure(clock, children, sides, report)
    compared(report, form)
    kernel_part(report, sides, folder)
    for side in sides.values():
        children.end(side.process)
    alone(clock, program, form, report)
    memory(report, about)
    return report.finish()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", default="gpu_check", help="for what is found")
    parser.add_argument("--small", action="store_true", help="tiny models, on whatever there is")
    options = parser.parse_args()
    name = "SMALL" if options.small else "FULL"
    form = getattr(forms, name)
    budget = os.environ.get("GPU_CHECK_SECONDS", "") or form.budget
    try:
        clock = Clock(float(budget))
    except ValueError:
        sys.exit(f"error: GPU_CHECK_SECONDS={budget} is no number of seconds")
    signals = Signals()
    one_card()
    about = device()
    if about["platform"] != "gpu" and not options.small:
        print(
            f"error: JAX computes on {about['platform']} ({about['name']}), not on an NVIDIA GPU; "
            "with one, install its packages (W2V_EXTRAS=gpu launch/gpu_check.sh, or pip install "
            "'.[gpu]'), see that nvidia-smi lists it and leave JAX_PLATFORMS unset; without one, "
            "launch/gpu_check.sh --small checks the check itself",
            file=sys.stderr,
        )
        return 2
    if about["platform"] == "cpu":  # its times say nothing anyway
        cheaper = CHEAPER if about["jax"].startswith("0.10.") else ""
        os.environ.setdefault("XLA_FLAGS", CHEAP + cheaper)
    folder = Path(options.folder).resolve()
    logs = folder / "gpu_check.logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    parts = ["golden", *form.updates, "transformers", "kernels", "resume", "training", "memory"]
    report = Report(folder, parts, clock, check="w2v_jax", form=name.lower(), device=about)
    work = Path(tempfile.mkdtemp(prefix="gpu_check-"))
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or work / "cache")
    report.about(cache_was_empty=not cache.is_dir() or not any(cache.iterdir()))
    children = Children(logs, cache, signals)
    program = Program(children, clock, work, about["platform"] == "gpu")
    try:
        return check(form, name, about, report, clock, children, program, folder, work)
    except Interrupted as error:
        program.stopped.set()
        children.close()
        if program.thread is not None:
            program.thread.join()  # it has nothing left to wait for
        for part in report.parts.values():
            if part["reason"] == "not reached":
                part["reason"] = "interrupted"
        report.finish()
        return 128 + error.args[0]
    finally:
        signals.ignore()
        program.stopped.set()
        children.close()
        with contextlib.suppress(OSError):
            shutil.rmtree(work)


if __name__ == "__main__":
    try:
        status = main()
    except Interrupted as error:  # nothing had been started
        status = 128 + error.args[0]
    sys.stdout.flush()
    os._exit(status)  # no thread is waited for
