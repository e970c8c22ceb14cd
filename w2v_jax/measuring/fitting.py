"""Whether an update fits the devices, before anything large is read or made."""

import concurrent.futures
import contextlib
import functools
import math
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from w2v_jax.errors import UserError
from w2v_jax.measuring.compiled import Arrays, LoweredStep, Memory, local_bytes
from w2v_jax.training.metrics import Measure
from w2v_jax.training.sharding import batch_sharding
from w2v_jax.training.state import TrainState, abstract_state, jitted_step, on_mesh
from w2v_jax.training.task import Metrics, Trainable

SLOW = 2.0  # seconds of a later compilation from which on it is worth a line
REMEDY = (
    "lower --config.data.{amount}, raise --config.run.accumulation (smaller micro-batches), or set "
    "--config.execution.remat=full"
)


def host_bytes() -> int:
    """Bytes of memory that this process has or can get, those that it has left in a container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, AttributeError, TypeError, IndexError):  # no Linux
        free = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
        own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        limits.append(int(free[1]) * 1024 + own)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            limits.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(limits)


def device_bytes(mesh: Mesh) -> float:
    """Bytes of memory of one device of this process; of a CPU, its part of the host's."""
    here = jax.process_index()
    devices = [device for device in mesh.devices.flat if device.process_index == here]
    if devices[0].platform == "cpu":
        return host_bytes() / len(devices)
    # a platform that does not say it refuses nothing
    return (devices[0].memory_stats() or {}).get("bytes_limit", math.inf)


class _Reads(threading.local):
    """How many programs this thread read from the folder of compiled ones instead of compiling."""

    count = 0

    def hear(self, event: str, **_: Any) -> None:
        self.count += event == "/jax/compilation_cache/cache_hits"


_reads = _Reads()
jax.monitoring.register_event_listener(_reads.hear)


class FittingStep:
    """The training step, `step(state, batch) -> (state, metrics)`; every batch shape is compiled,
    and its memory compared with the device's, before it runs for the first time.

    amount: the key of config.data that says how large a batch is; measure: of its rows. Raises
    UserError where a shape does not fit.
    """

    def __init__(self, task: Trainable, mesh: Mesh, amount: str, measure: Measure):
        self._task, self._mesh, self._measure = task, mesh, measure
        self._remedy = REMEDY.format(amount=amount)
        self._step = jitted_step(task, mesh)
        self._call = on_mesh(self._step, mesh)
        self._known: set = set()
        self._coming: dict[tuple, concurrent.futures.Future] = {}
        self._ran = False

    @functools.cached_property
    def _state(self) -> int:
        """Bytes of the state on a device."""
        return local_bytes(abstract_state(self._task, self._mesh))

    def check_held(self, arrays: Arrays) -> None:
        """Compares state and batch alone, which need no compilation."""
        batch = local_bytes(
            {
                name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(self._mesh))
                for name, (shape, dtype) in arrays.items()
            }
        )
        self._compare(Memory(self._state, batch, 0, 0, 0), "even without intermediate results ")

    def prepare(self, shapes: Sequence[Arrays]) -> None:
        """Compiles the step for batches of these shapes, the first of which is needed first, side
        by side. Returns when that one is ready if it was only read from the folder of compiled
        programs, as the others then are while the training runs; else when all are ready: kernels
        that are tried out beside a training would look slow, and stay in the folder.

        Several processes compile what they need when they need it, in the same order.
        """
        if len(shapes) == 1 or jax.process_count() > 1:
            self.compile(shapes[0])
            return
        print(
            f"compiling the update for {len(shapes)} shapes of batches side by side ({_kept()}) "
            "...", flush=True,
        )  # fmt: skip
        begin = time.monotonic()
        pool = concurrent.futures.ThreadPoolExecutor(min(len(shapes), os.cpu_count() or 1))
        for arrays in shapes:
            self._coming[_shapes(arrays)] = pool.submit(self._compile, arrays)
        first, *others = self._coming.values()
        try:
            read = first.result()[1]
            for other in () if read else others:
                other.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown(wait=False)
        what = "the first is read" if read else "all are compiled"
        print(f"{what} after {time.monotonic() - begin:.1f} s", flush=True)

    def compile(self, arrays: Arrays) -> Memory | None:
        """Compiles the step for a batch, what a call then finds, and says so; what it needs of a
        device, None where the compiler does not say it."""
        if coming := self._coming.get(_shapes(arrays)):
            return coming.result()[0]
        first = not self._known
        if first:
            print(f"compiling the update{self._rows(arrays)} ({_kept()}) ...", flush=True)
        begin = time.monotonic()
        memory, _ = self._compile(arrays, silent=first)
        if first:
            print(f"compiled in {time.monotonic() - begin:.1f} s", flush=True)
        return memory

    def _compile(self, arrays: Arrays, *, silent: bool = False) -> tuple[Memory | None, bool]:
        """(what it needs of a device, whether the program was read and not compiled)."""
        begin, reads = time.monotonic(), _reads.count
        try:
            _, memory = LoweredStep(self._task, self._mesh, arrays, self._step).compile()
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                raise self._refusal(str(error).splitlines()[0][:300]) from None
            raise
        took, read = time.monotonic() - begin, _reads.count > reads
        if took > SLOW and not (silent or read):
            print(f"compiled the update{self._rows(arrays)} in {took:.1f} s", flush=True)
        if memory is not None:
            self._compare(memory)
        self._known.add(_shapes(arrays))
        return memory, read

    def _rows(self, arrays: Arrays) -> str:
        """How many rows of which length: of the largest array [A, B, S]."""
        largest = max((shape for shape, _ in arrays.values()), key=math.prod, default=())
        if len(largest) < 3:
            return ""
        length = largest[2] / self._measure.per_row
        return f" for {largest[0] * largest[1]} rows of {length:.3g} {self._measure.unit}"

    def _compare(self, memory: Memory, what: str = "") -> None:
        if self._ran and self._mesh.devices.flat[0].platform == "cpu":
            return  # what other processes of this host take comes and goes: no run ends for it
        room = device_bytes(self._mesh)
        needed = memory.total + memory.batch  # the next batch is there one update ahead
        if needed <= room:
            return
        parts = f"{memory.state / 1e9:.2f} of state, {memory.batch / 1e9:.2f} of the batch"
        if memory.temporary:
            parts += f", {memory.temporary / 1e9:.2f} of intermediate results"
        raise self._refusal(
            f"it needs {what}{needed / 1e9:.2f} GB of a device ({parts}, and of the next batch), "
            f"which has {room / 1e9:.2f} GB"
        )

    def _refusal(self, reason: str) -> UserError:
        return UserError(f"an update does not fit: {reason}; {self._remedy}")

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        arrays = {name: (x.shape, x.dtype) for name, x in batch.items()}
        if _shapes(arrays) not in self._known:
            self.compile(arrays)
        self._ran = True
        return self._call(state, batch)

    @contextlib.contextmanager
    def speaking(self):
        """An allocation that fails inside, on the host or on a device, becomes a UserError."""
        try:
            yield
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not out_of_memory(error):
                raise
            reason = (str(error).splitlines() or ["out of memory"])[0][:300]
            raise self._refusal(reason) from None


def _kept() -> str:
    """That it is done once, and where the compiled program is kept."""
    folder = jax.config.jax_compilation_cache_dir
    return "done once for each shape" + (f", then read from {folder}" if folder else "")


def _shapes(arrays: Arrays) -> tuple:
    return tuple(sorted((name, tuple(shape)) for name, (shape, _) in arrays.items()))


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
