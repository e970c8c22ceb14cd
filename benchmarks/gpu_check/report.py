"""What the check found: a part each, as text and as a line of JSON."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.children import Clock

OK, FAILED, NO_TIME, LEFT_OUT = "ok", "failed", "no time", "left out"
GIB = 2**30


class Report:
    """Writes FOLDER/gpu_check.json anew with every part, so that what is known survives whatever
    comes after it."""

    def __init__(self, folder: Path, parts: list[str], clock: Clock, **about: Any):
        self._folder, self._about, self._clock = folder, about, clock
        self.parts = {name: {"status": NO_TIME, "reason": "not reached"} for name in parts}
        self._text = (folder / "gpu_check.txt").open("w")

    def say(self, text: str, *, stamp: bool = True) -> None:
        passed = f"[{self._clock.passed:5.1f}] " if stamp else ""
        for file in (None, self._text):
            print(f"{passed}{text}", file=file, flush=True)

    def about(self, **values: Any) -> None:
        self._about |= values

    def set(self, part: str, status: str, reason: str = "", **values: Any) -> None:
        reason = " ".join(reason.replace("|", "/").split())  # in a row of a table
        self.parts[part] = {"status": status, "reason": reason} | values
        self.say(f"{part}: {status}{f': {reason}' if reason else ''}")
        self._write()

    @property
    def failed(self) -> bool:
        return any(part["status"] == FAILED for part in self.parts.values())

    @property
    def incomplete(self) -> list[str]:
        return [name for name, part in self.parts.items() if part["status"] == NO_TIME]

    def _line(self) -> str:
        status = {"status": FAILED if self.failed else NO_TIME if self.incomplete else OK}
        times = {"seconds": self._clock.passed}
        return json.dumps(rounded(status | self._about | times | {"parts": self.parts}))

    def _write(self) -> str:
        line = self._line()
        (self._folder / "gpu_check.json").write_text(line + "\n")
        return line

    def finish(self) -> int:
        """Prints tables and the line; returns the status to exit with."""
        self.say("", stamp=False)
        for line in table(self._about, self.parts):
            self.say(line, stamp=False)
        if self.incomplete:
            self.say("", stamp=False)
            names = ", ".join(self.incomplete)
            self.say(f"no time for all of: {names}; GPU_CHECK_SECONDS gives more", stamp=False)
        self.say("", stamp=False)
        self.say(self._write(), stamp=False)
        self._text.close()
        return int(self.failed)


def rounded(value: Any) -> Any:
    """The same with six digits of every number: none is known better."""
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list):
        return [rounded(x) for x in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def update_rows(parts: dict[str, dict]) -> list[str]:
    """Of the updates, those of transformers among them."""
    head = (
        "update", "rows x s", "ms, median (least)", "streamed ms", "audio s per s", "of the peak",
        "compiled in s", "program GiB", "peak GiB",
    )  # fmt: skip
    found = [row(*head), row(*["---"] * len(head))]
    for name, part in parts.items():
        if "step_median_s" not in part:
            continue
        found.append(row(
            f"{name}: {part['title']}, {part['dtype']}",
            f"{part['batch']} x {part['audio_seconds']:g}",
            f"{part['step_median_s'] * 1e3:.1f} ({part['step_min_s'] * 1e3:.1f})",
            shown(scaled(part.get("step_streamed_s"), 1e3), ".1f"),
            f"{part['audio_seconds_per_second']:,.0f}", shown(part.get("mfu"), ".1%"),
            shown(part.get("compile_s"), ".1f"),
            shown(scaled(part.get("program_bytes"), 1 / GIB), ".2f"),
            shown(scaled(part.get("peak_memory_bytes"), 1 / GIB), ".2f"),
        ))  # fmt: skip
    return found if len(found) > 2 else []


def kernel_rows(part: dict[str, Any]) -> list[str]:
    if "kernels" not in part:
        return []
    head = (
        f"the longest kernels of a BASE update: {part['launches']:.0f} take {part['busy_ms']:.2f} "
        f"ms in {part['span_ms']:.2f} ms", "ms", "share", "times",
    )  # fmt: skip
    return [row(*head), row("---", "---", "---", "---")] + [
        row(x["name"][:90].replace("|", "/"), f"{x['ms']:.3f}", f"{x['share']:.1%}",
            f"{x['count']:.0f}")
        for x in part["kernels"]
    ]  # fmt: skip


def golden_text(part: dict[str, Any]) -> str:
    errors = ", ".join(
        f"{name} {worst['error']:.1e} ({part['tolerance'][name]:g} allowed; {worst['case']})"
        for name, worst in part.get("worst", {}).items()
    )
    done = f"{part['float32']} of {part['of']} cases in float32 and {part['bfloat16']} in bfloat16"
    if part["of_kernels"]:
        done = f"{part['kernel']} of {part['of_kernels']} kernels as their plain forms; {done}"
    return f"{done}; worst of an array's largest value: {errors or 'none'}"


def rate_text(part: dict[str, Any]) -> str:
    if "updates_per_second" not in part:
        return "no rates"
    return (
        f"{part['updates_per_second']:.2f} updates per s, "
        f"{part['audio_hours_per_hour']:,.0f} audio hours per hour, waiting for "
        f"the loader {part['loader_wait_share']:.1%}"
    )


def resume_text(part: dict[str, Any]) -> str:
    what = "equal" if part["equal"] else "NOT EQUAL"
    flag = f", {part['xla_flags']}" if "xla_flags" in part else ""
    first = [part[f"first_line_{kind}_s"] for kind in ("cold", "warm", "resumed")]
    return (
        f"killed and started again {what} to undisturbed: {part['equal_arrays']} of "
        f"{part['arrays']} arrays, {part['equal_lines']} of {part['lines']} lines of metrics "
        f"({part['updates']} updates, gone on from {part['continued_from']}{flag}); first line of "
        f"metrics after "
        f"{', '.join(shown(x, '.1f') for x in first)} s (cold, warm cache, resumed); "
        f"{rate_text(part)}"
    )


def training_text(part: dict[str, Any]) -> str:
    return (f"{part['updates']} updates of BASE in {part['seconds']:.0f} s, first line after "
            f"{shown(part['first_line_warm_s'], '.1f')} s; {rate_text(part)}")  # fmt: skip


def transformers_text(part: dict[str, Any]) -> str:
    ratio = shown(part.get("theirs_to_ours"), ".2f", " times the time of ours; ")
    return (f"{ratio}{part['drawing_s'] * 1e3:.1f} ms of it draw masks and negatives; "
            f"{', '.join(f'{name} {x}' for name, x in part['versions'].items())}")  # fmt: skip


def memory_text(part: dict[str, Any]) -> str:
    if not part["peaks"]:
        return ""
    total = shown(scaled(part.get("device_bytes"), 1 / GIB), ".1f", " GiB on the device; ")
    peaks = part["peaks"].items()
    return f"{total}most in use, GiB: " + ", ".join(f"{k} {v / GIB:.2f}" for k, v in peaks)


TEXTS = {
    "golden": ("of", golden_text), "resume": ("equal", resume_text),
    "training": ("updates", training_text), "transformers": ("versions", transformers_text),
    "memory": ("peaks", memory_text),
}  # fmt: skip


def table(about: dict[str, Any], parts: dict[str, dict]) -> list[str]:
    """Of all parts: what was found, or why nothing was."""
    head = ", ".join(f"{key} {value}" for key, value in about["device"].items())
    lines = [head, "", row("part", "status", "found"), row("---", "---", "---")]
    for name, part in parts.items():
        needed, text = TEXTS.get(name, ("", None))
        said = [part["reason"], text(part) if text and part.get(needed) is not None else ""]
        lines.append(row(name, part["status"], "; ".join(filter(None, said))))
    for rows in (update_rows(parts), kernel_rows(parts["kernels"])):
        if rows:
            lines += ["", *rows]
    return lines
