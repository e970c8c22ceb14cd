"""Which kernels a trace of some updates holds, summed by name."""

import collections
import gzip
import json
from pathlib import Path
from typing import Any


def kernels(folder: Path, updates: int) -> dict[str, Any]:
    """Milliseconds of an update: in all kernels together, from the first to the last, and by name.

    Kernels run on the streams of a device; on a CPU what stands for them are the operations of the
    compiled program. Kernels of several streams may overlap, so the busy time can be the longer.
    """
    files = sorted(folder.rglob("*.trace.json.gz"))
    if not files:
        raise FileNotFoundError(f"the profiler wrote no trace into {folder}")
    with gzip.open(files[-1]) as file:
        events = json.load(file)["traceEvents"]
    named = [x for x in events if x.get("ph") == "M"]
    processes = {x["pid"]: x["args"]["name"] for x in named if x["name"] == "process_name"}
    threads = {(x["pid"], x["tid"]): x["args"]["name"] for x in named if x["name"] == "thread_name"}
    gpu = any("GPU" in name for name in processes.values())

    def counts(event: dict) -> bool:
        if event.get("ph") != "X":
            return False
        if not gpu:
            return "hlo_op" in event.get("args", {})
        thread = threads.get((event["pid"], event.get("tid")), "")
        return "GPU" in processes.get(event["pid"], "") and thread.startswith("Stream")

    found = [x for x in events if counts(x)]
    if not found:
        raise ValueError(f"{files[-1].name} holds no kernel; processes: {set(processes.values())}")
    total, count = collections.Counter(), collections.Counter()
    for event in found:
        total[event["name"]] += event["dur"]
        count[event["name"]] += 1
    busy = sum(total.values())
    span = max(x["ts"] + x["dur"] for x in found) - min(x["ts"] for x in found)
    return {
        "busy_ms": busy / 1e3 / updates, "span_ms": span / 1e3 / updates,
        "launches": len(found) / updates,
        "kernels": [
            {
                "name": name, "count": count[name] / updates, "ms": time / 1e3 / updates,
                "share": time / busy,
            }
            for name, time in total.most_common()
        ],
    }  # fmt: skip
