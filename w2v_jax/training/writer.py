"""Metrics on disk: JSON lines, TensorBoard events."""

import contextlib
import json
import os
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import directory_check
from tensorboardX.summary import scalar

from w2v_jax.places import is_remote, place, write_whole, writing

UPLOADS = 120.0  # seconds between two of the event file of a run in a bucket


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
            # without a buffer, whose rest would be written, and fail, again when it is closed
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - until close()
        with writing(folder / "tensorboard"):
            self._events = _Events(str(folder / "tensorboard"), start + 1)

    def has(self, step: int, prefix: str) -> bool:
        """Whether the file, as it was found, has metrics called `prefix`... at `step`."""
        return any(line["step"] == step and any(k.startswith(prefix) for k in line)
                   for line in self._last)  # fmt: skip

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, **scalars}) + "\n"
        if self._file is not None:
            with writing(self.path):
                rest = line.encode()
                while rest:  # on a disk that is nearly full a part of it is written first
                    rest = rest[self._file.write(rest) :]
        else:
            self._text += line
            write_whole(self.path, self._text)
        with writing(self.path.parent / "tensorboard"):
            self._events.write(step, scalars)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._events.close()


class _Events:
    """An event file of TensorBoard, written at once and by the thread that calls.

    tensorboardX's own SummaryWriter writes in a thread, which ends where the disk is full; the
    training then waits for ever for the queue between them to empty.
    """

    def __init__(self, folder: str, first_step: int):
        directory_check(folder)
        self._file = EventsWriter(os.path.join(folder, "events"))
        # to a bucket every flush sends the whole file
        self._pause, self._flushed = (UPLOADS if is_remote(folder) else 0.0), 0.0
        # what was written for this step and later ones, by a run that was killed, is forgotten
        start = SessionLog(status=SessionLog.START)
        self._add(step=first_step, session_log=start)
        self._flush()

    def _add(self, **values) -> None:
        self._file.write_event(Event(wall_time=time.time(), **values))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._add(step=step, summary=scalar(name, value))
        self._flush()

    def _flush(self) -> None:
        if time.monotonic() - self._flushed >= self._pause:
            self._flushed = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported
            self._file.close()


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
    for line in path.read_bytes().decode("utf-8", "replace").split("\n"):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(found, dict) or "step" not in found:
            break
        lines.append(found)
    return lines
