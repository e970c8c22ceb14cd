"""Compiles a training step for devices one need not hold, and says what it needs of them."""

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from w2v_jax.measuring.collectives import Traffic, collectives, sent
from w2v_jax.measuring.gpu_alive import alive
from w2v_jax.measuring.gpu_cards import OPTIONS
from w2v_jax.measuring.gpu_program import parse
from w2v_jax.measuring.gpu_time import Prediction, predict
from w2v_jax.measuring.topology import GIB, Topology
from w2v_jax.training.sharding import batch_sharding
from w2v_jax.training.state import abstract_state, jitted_step, on_mesh
from w2v_jax.training.task import Trainable


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    state: int  # parameters, optimizer, averages
    batch: int
    output: int
    temporary: int
    aliased: int  # of the output: lies where the state was

    @property
    def total(self) -> int:
        return self.state + self.batch + self.output + self.temporary - self.aliased


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler said of a program that fits."""

    memory: Memory
    flops: float  # of one device, the body of every loop counted once (so XLA counts)
    bytes_accessed: float  # likewise: to and from the memory of the device
    traffic: dict[str, Traffic]
    compile_seconds: float  # lowering and compiling
    prediction: Prediction | None = None  # for GPUs
    largest: list[str] = dataclasses.field(default_factory=list)  # for GPUs, see `alive`


@dataclasses.dataclass(frozen=True)
class TooLarge:
    """What the compiler said of a program that does not fit."""

    needed: float  # bytes, as far as it says
    available: float
    message: str
    largest: list[str]  # intermediate results, largest first: bytes and shape
    compile_seconds: float


def local_bytes(tree: Any) -> int:
    """Bytes that one device holds of abstract arrays with shardings."""
    sizes = (
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
    return sum(sizes)


Arrays = Mapping[str, tuple[tuple[int, ...], Any]]  # of a batch: name -> (shape, type)


class LoweredStep:
    """The training step as a run would compile it; no array is made.

    step: a `jitted_step`, whose calls then find the program compiled.
    """

    def __init__(
        self, task: Trainable, mesh: Mesh, arrays: Arrays, step: Callable | None = None
    ):
        state = abstract_state(task, mesh)
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
            for name, (shape, dtype) in arrays.items()
        }
        self._held = local_bytes(state), local_bytes(batch)
        step = step or jitted_step(task, mesh)
        self._lowered = on_mesh(step.lower, mesh)(state, batch)

    def compile(self, **options: str | int | bool) -> tuple[Any, Memory | None]:
        """(the program, what it needs of a device; None where the compiler does not say it)."""
        # without options a call of the step finds this program
        program = self._lowered.compile(compiler_options=options or None)
        found = program.memory_analysis()
        if found is None:
            return program, None
        return program, Memory(
            *self._held, found.output_size_in_bytes, found.temp_size_in_bytes,
            found.alias_size_in_bytes,
        )  # fmt: skip


def compile_step(
    task: Trainable, mesh: Mesh, arrays: Arrays, topology: Topology, *, layerdrop: float = 0.0
) -> Compiled | TooLarge:
    """Compiles the training step for a topology; arrays: see data.loader.batch_arrays; layerdrop:
    how often a block is skipped, for the prediction of GPUs."""
    begin = time.monotonic()
    step = LoweredStep(task, mesh, arrays)
    if topology.card is not None:
        return _compile_for_gpus(step, topology, layerdrop, begin)
    if topology.chip is None:
        program, memory = step.compile()
        return _describe(program, memory, program.as_text(), time.monotonic() - begin)
    # libtpu's text of a program with asynchronous collectives is newer than what jaxlib can read,
    # so the program comes from a dump; only that names the largest arrays, too
    with tempfile.TemporaryDirectory() as folder:
        try:
            program, memory = step.compile(xla_dump_to=folder)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            report = _dumped(folder, "-memory-usage-report.txt")
            return too_large(str(error), report, time.monotonic() - begin)
        seconds = time.monotonic() - begin
        return _describe(program, memory, _dumped(folder, ".after_optimizations.txt"), seconds)


def _compile_for_gpus(
    step: LoweredStep, topology: Topology, layerdrop: float, begin: float
) -> Compiled:
    """XLA compiles any size: whether it fits is the caller's to see. It counts nothing for GPUs, so
    operations and bytes are those of the kernels, each as often as it runs."""
    compiled, memory = step.compile(**OPTIONS)
    seconds, text = time.monotonic() - begin, compiled.as_text()
    program = parse(text)
    found = predict(program, topology.card, layerdrop)
    return Compiled(
        memory, found.flops, found.bytes, collectives(text), seconds, found, alive(program)
    )


def _describe(program, memory: Memory, text: str, seconds: float) -> Compiled:
    cost = program.cost_analysis()
    return Compiled(
        memory, cost.get("flops", 0.0), cost.get("bytes accessed", 0.0), collectives(text), seconds
    )


def _dumped(folder: str, ending: str) -> str:
    """The dump of the largest module: small ones may be compiled on the way."""
    files = sorted(Path(folder).glob(f"*{ending}"), key=lambda path: path.stat().st_size)
    return files[-1].read_text() if files else ""


def too_large(message: str, report: str, seconds: float = 0.0) -> TooLarge:
    """From XLA's error and its report of the memory in use (may be empty)."""
    numbers = [float(n) * GIB for n in re.findall(r"\(([\d.]+)G\)", message)]
    found = []
    for line in report.splitlines():
        row = re.match(r"\s*\S+\(\s*\d+%\);\s*([\d.]+)(GiB|MiB);\s*\d+;\s*\d+; (.*)", line)
        if row:
            shape = max(re.findall(r"\w+\[[\d,]+\]", row[3]), key=_elements, default="")
            size = float(row[1]) * (1024 if row[2] == "GiB" else 1)
            found.append((size, f"{size / 1024:.2f} GiB {shape}"))
    found.sort(reverse=True)
    needed, available = numbers[:2] if len(numbers) >= 2 else (math.nan, math.nan)
    first = message.splitlines()[0] if message else ""
    return TooLarge(needed, available, first, [text for _, text in found[:5]], seconds)


def _elements(shape: str) -> int:
    return math.prod(int(n) for n in re.findall(r"\d+", shape.partition("[")[2]))


def times(compiled: Compiled, topology: Topology, model_flops: float) -> dict[str, float]:
    """Seconds per update if nothing but arithmetic, or nothing but communication, took any.

    model_flops: operations of one device. {} for devices whose speed is not known.
    """
    if topology.flops is None:
        return {}
    return {
        "arithmetic": model_flops / topology.flops,
        "communication": sent(compiled.traffic) / topology.outgoing if topology.outgoing else 0.0,
    }
