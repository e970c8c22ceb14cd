"""Metrics on disk: JSON lines, TensorBoard events."""

import json
import os
from collections.abc import Mapping

import tensorboardX

from w2v_jax.places import is_remote, place, write_whole


class Writer:
    """Writes to WORKDIR/metrics.jsonl and WORKDIR/tensorboard. One line is one logged step.

    `start` is the step that training starts from: lines of later steps, left by a run that was
    killed after its last checkpoint, are removed, so the file reads like one undisturbed run.

    Nothing can be added to an object in a bucket: there the whole file is written at every line.
    """

    def __init__(self, workdir: str | os.PathLike, start: int):
        folder = place(workdir)
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= start]
        self._last = [line for line in kept if line["step"] == start]
        self._text = "".join(json.dumps(line) + "\n" for line in kept)
        write_whole(self.path, self._text)
        self._file = None
        if not is_remote(self.path):
            self._file = open(self.path, "a", buffering=1)  # noqa: SIM115 - until close()
        self._events = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def has(self, step: int, prefix: str) -> bool:
        """Whether the file, as it was found, has metrics called `prefix`... at `step`."""
        return any(line["step"] == step and any(k.startswith(prefix) for k in line)
                   for line in self._last)  # fmt: skip

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, **scalars}) + "\n"
        if self._file is not None:
            self._file.write(line)
        else:
            self._text += line
            write_whole(self.path, self._text)
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._events.close()


class NoWriter:
    """Stands for a `Writer` in the processes that write nothing."""

    def has(self, step: int, prefix: str) -> bool:
        return False

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


def read_lines(path: str | os.PathLike) -> list[dict]:
    """The lines of a metrics.jsonl; a last line cut short by a crash is left out."""
    path = place(path)
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(found, dict) or "step" not in found:
            break
        lines.append(found)
    return lines
