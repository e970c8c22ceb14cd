"""What the input pipeline delivers, and what its stages cost."""

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from w2v_jax.data.batches import iterate
from w2v_jax.data.loader import Loader
from w2v_jax.data.plan import BatchPlan


class _Timed:
    """Stands for an object whose one method `name` is timed, in CPU seconds of this process."""

    def __init__(self, target: Any, name: str):
        self._target, self._name = target, name
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def __len__(self) -> int:
        return len(self._target)

    def _timed(self, *arguments):
        begin = time.process_time()
        try:
            return getattr(self._target, self._name)(*arguments)
        finally:
            self.seconds += time.process_time() - begin

    def audio(self, *arguments):
        return self._timed(*arguments)

    __call__ = _timed


def stages(plan: BatchPlan, loader: Loader, sharding, seconds: float) -> dict[str, float]:
    """CPU milliseconds per second of audio of every stage, one after the other in one thread."""
    views = {
        name: None if changes is None else _Timed(changes, "__call__")
        for name, changes in loader.views.items()
    }
    corpus = _Timed(loader.corpus, "audio")
    loader = dataclasses.replace(loader, corpus=corpus, views=views)
    total = transfer = audio = 0.0
    for step in _for_a_while(seconds):
        spec = plan[step]
        begin = time.process_time()
        batch = loader(spec)
        middle = time.process_time()
        jax.block_until_ready(
            [jax.make_array_from_process_local_data(sharding, x) for x in batch.values()]
        )
        transfer += time.process_time() - middle
        total += middle - begin
        audio += loader.amount(spec)
    decode = corpus.seconds
    augment = sum(changes.seconds for changes in views.values() if changes is not None)
    parts = {"decode": decode, "crop": total - decode - augment, "augment": augment}
    parts["transfer"] = transfer
    return {name: 1000 * value / audio for name, value in parts.items()}


def _for_a_while(seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    step = 0
    while step == 0 or time.monotonic() < end:
        yield step
        step += 1


def rates(
    plan: BatchPlan, loader: Loader, sharding, seconds: float, *, threads: int, workers: int
) -> tuple[float, float]:
    """Seconds of audio per second of time, and per second of CPU time of all processes.

    The clock starts with the second batch: the start of the worker processes is not part of it.
    """
    stream = iterate(plan, loader, threads=threads, workers=workers, sharding=sharding)
    try:
        next(stream)
        begin, used, audio = time.monotonic(), _cpu_seconds(), 0.0
        while time.monotonic() < begin + seconds:
            batch, heard = next(stream)
            jax.block_until_ready(batch)
            audio += heard
        elapsed, used = time.monotonic() - begin, _cpu_seconds() - used
    finally:
        stream.close()
    return audio / elapsed, audio / used


def _cpu_seconds() -> float:
    """CPU time of this process and its living children."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
