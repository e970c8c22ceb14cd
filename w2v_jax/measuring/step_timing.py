"""What an update of training costs, and a forward pass: time, memory, compilation."""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from optax.transforms import ConditionallyMaskState

from w2v_jax.measuring.compiled import LoweredStep
from w2v_jax.measuring.topology import peak_flops
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.training.profiling import Profile
from w2v_jax.training.sharding import batch_sharding, tree_shardings
from w2v_jax.training.state import Task, TrainState, first_state, on_mesh

LOSSES = {"pretrained": "train/contrastive_bits", "ctc": "train/ctc_loss"}
TRACED = 3  # updates in a trace


@dataclasses.dataclass(frozen=True)
class StepTiming:
    """Of updates, or of forward passes, that run one by one, each waited for."""

    compile_seconds: float  # lowering and compiling; little where a cache has the program
    seconds: list[float]
    peak_memory: int  # bytes, see `peak_memory`
    loss: float | None  # of the last update, see LOSSES

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
    config,
    task: Task,
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
    total, weight = metrics[LOSSES[config.kind]]
    loss = float(total) / max(float(weight), 1)
    timing = StepTiming(compile_seconds, seconds, peak_memory(), loss)
    _traced(update, profile)
    return timing, state


def inference_timing(
    config,
    task: Task,
    mesh: Mesh,
    batch: Mapping[str, np.ndarray],
    *,
    vocabulary: int | None,
    steps: int,
    profile: str = "",
) -> StepTiming:
    """Of `steps` forward passes over a batch (arrays [1, B, ...]) without mask and dropout: letter
    log-probabilities of a CTC model of `vocabulary` outputs, else the context of the encoder."""
    encoder = EncoderConfig.from_dict(config.model)
    boxed = jax.eval_shape(task.init)
    variables = jax.jit(
        lambda: nn.meta.unbox(task.init()), out_shardings=tree_shardings(boxed, mesh)
    )()
    on_devices = jax.device_put(
        {name: batch[name] for name in ("audio", "length")}, batch_sharding(mesh)
    )

    def forward(variables, batch):
        audio, length = batch["audio"][0], batch["length"][0]
        if vocabulary is not None:
            logits, _ = CTCModel(encoder, vocabulary).apply(variables, audio, length)
            return jax.nn.log_softmax(logits)
        return Encoder(encoder).apply(
            {name: tree["encoder"] for name, tree in variables.items()}, audio
        ).context  # fmt: skip

    begin = time.perf_counter()
    program = on_mesh(jax.jit(forward).lower, mesh)(variables, on_devices).compile()
    compile_seconds = time.perf_counter() - begin
    work = lambda: jax.block_until_ready(program(variables, on_devices))  # noqa: E731
    seconds = _timed(work, steps)
    timing = StepTiming(compile_seconds, seconds, peak_memory(), None)
    _traced(work, profile)
    return timing


def figures(
    timing: StepTiming, config, task: Task, mesh: Mesh, rows: int, seconds: float, flops: float
) -> dict[str, Any]:
    """What `timing` says of `rows` rows of `seconds` that ask for `flops` operations, for JSON.

    mfu: the share of the bfloat16 operations that the devices can do, whatever the dtype; None
    where `peak_flops` does not know them.
    """
    kind, median = mesh.devices.flat[0].device_kind, timing.median
    peak, rate = peak_flops(kind), rows * seconds / median
    parameters = jax.tree.leaves(jax.eval_shape(task.init)["params"])
    return {
        "parameters": sum(x.size for x in parameters), "batch": rows,
        "seconds": seconds,
        "dtype": config.model.dtype, "device": f"{mesh.size} x {kind}",
        "steps": len(timing.seconds), "compile_s": timing.compile_seconds,
        "step_median_s": median, "step_min_s": min(timing.seconds),
        "audio_seconds_per_second": rate, "audio_hours_per_hour": rate,
        "tflops": flops / median / 1e12,
        "mfu": None if peak is None else flops / median / (peak * mesh.size),
        "peak_memory_bytes": timing.peak_memory, "loss": timing.loss,
    }  # fmt: skip
