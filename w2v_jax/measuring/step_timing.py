"""What an update of training costs, and a forward pass: time, memory, compilation."""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from optax.transforms import ConditionallyMaskState

from w2v_jax.measuring.compiled import LoweredStep
from w2v_jax.measuring.topology import peak_flops
from w2v_jax.training.metrics import Measure
from w2v_jax.training.profiling import Profile
from w2v_jax.training.sharding import batch_sharding, tree_shardings
from w2v_jax.training.state import TrainState, boxed_shapes, first_state, on_mesh
from w2v_jax.training.task import Trainable, Variables

TRACED = 3  # updates in a trace


class Timed(Trainable, Protocol):
    """What measuring asks of a task."""

    config: Any
    loss_scalar: str  # the metric of an update that is its loss
    measure: Measure

    def inference(self, variables: Variables, batch: Mapping[str, jax.Array]) -> jax.Array:
        """What the model is used for; batch arrays are [B, ...]."""


@dataclasses.dataclass(frozen=True)
class StepTiming:
    """Of updates, or of forward passes, that run one by one, each waited for."""

    compile_seconds: float  # lowering and compiling; little where a cache has the program
    seconds: list[float]
    peak_memory: int  # bytes, see `peak_memory`
    loss: float | None  # of the last update

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def peak_memory() -> int:
    """Bytes: the most that a device of this process has held; on CPUs the most that the process
    itself has, whatever for."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [x["peak_bytes_in_use"] for x in stats if "peak_bytes_in_use" in x]
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _timed(work: Callable[[], Any], steps: int) -> list[float]:
    """Seconds of every call; one before them is not measured. `work` returns when it is done."""
    work()
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return seconds


def _traced(work: Callable[[], Any], folder: str) -> None:
    with Profile(f"1:{TRACED}" if folder else "", folder) as profile:
        for step in range(1, TRACED + 1 if folder else 1):
            profile.before(step)
            profile.after(step, work())


def at_step(state: TrainState, step: int) -> TrainState:
    """The state as if `step` updates had been made: its counter and those of the optimizer that
    decide what is frozen."""

    def moved(counter: jax.Array) -> jax.Array:
        return jax.device_put(np.array(step, counter.dtype), counter.sharding)

    def unfrozen(node):
        frozen = isinstance(node, ConditionallyMaskState)
        return node._replace(step=moved(node.step)) if frozen else node

    opt = jax.tree.map(
        unfrozen, state.opt, is_leaf=lambda node: isinstance(node, ConditionallyMaskState)
    )
    return state.replace(step=moved(state.step), opt=opt)


def training_timing(
    task: Timed,
    mesh: Mesh,
    batch: Mapping[str, np.ndarray],
    *,
    steps: int,
    profile: str = "",
) -> tuple[StepTiming, TrainState]:
    """Of `steps` updates on the same batch (arrays [A, B, ...]), after the last one that leaves
    anything frozen; and the state after them. profile: a folder for a trace of further updates."""
    begin = time.perf_counter()
    arrays = {name: (x.shape, x.dtype) for name, x in batch.items()}
    program, _ = LoweredStep(task, mesh, arrays).compile()
    compile_seconds = time.perf_counter() - begin
    on_devices = jax.device_put(dict(batch), batch_sharding(mesh))
    state, metrics = at_step(first_state(task, mesh), task.freeze_steps), {}

    def update():
        nonlocal state, metrics
        state, metrics = program(state, on_devices)
        return jax.block_until_ready((state, metrics))

    seconds = _timed(update, steps)
    total, weight = metrics[task.loss_scalar]
    loss = float(total) / max(float(weight), 1)
    timing = StepTiming(compile_seconds, seconds, peak_memory(), loss)
    _traced(update, profile)
    return timing, state


def inference_timing(
    task: Timed,
    mesh: Mesh,
    batch: Mapping[str, np.ndarray],
    *,
    steps: int,
    profile: str = "",
) -> StepTiming:
    """Of `steps` times what the model is used for, without mask and dropout, on a batch (arrays
    [1, B, ...])."""
    boxed = jax.eval_shape(task.init)
    variables = jax.jit(
        lambda: nn.meta.unbox(task.init()), out_shardings=tree_shardings(boxed, mesh)
    )()
    on_devices = jax.device_put(dict(batch), batch_sharding(mesh))

    def forward(variables, batch):
        return task.inference(variables, jax.tree.map(lambda x: x[0], batch))

    begin = time.perf_counter()
    program = on_mesh(jax.jit(forward).lower, mesh)(variables, on_devices).compile()
    compile_seconds = time.perf_counter() - begin
    work = lambda: jax.block_until_ready(program(variables, on_devices))  # noqa: E731
    seconds = _timed(work, steps)
    timing = StepTiming(compile_seconds, seconds, peak_memory(), None)
    _traced(work, profile)
    return timing


def figures(
    timing: StepTiming, task: Timed, mesh: Mesh, rows: int, length: int, flops: float
) -> dict[str, Any]:
    """What `timing` says of `rows` rows of `length` that ask for `flops` operations, for JSON.

    mfu: the share of the bfloat16 operations that the devices can do, whatever the dtype; None
    where `peak_flops` does not know them.
    """
    kind, median = mesh.devices.flat[0].device_kind, timing.median
    peak, name, amount = peak_flops(kind), task.measure.name, length / task.measure.per_row
    parameters = jax.tree.leaves(boxed_shapes(task).params)
    return {
        "parameters": sum(x.size for x in parameters), "batch": rows, name: amount,
        "dtype": task.config.execution.dtype, "device": f"{mesh.size} x {kind}",
        "steps": len(timing.seconds), "compile_s": timing.compile_seconds,
        "step_median_s": median, "step_min_s": min(timing.seconds),
        f"{name}_per_second": rows * amount / median,
        "tflops": flops / median / 1e12,
        "mfu": None if peak is None else flops / median / (peak * mesh.size),
        "peak_memory_bytes": timing.peak_memory, "loss": timing.loss,
    }  # fmt: skip
