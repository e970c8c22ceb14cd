"""What the parts of an update cost, each alone: forward, and forward with backward."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from w2v_jax.training.sharding import BATCH_AXES
from w2v_jax.training.state import TrainState, on_mesh
from w2v_jax.training.task import Trainable


class Part(NamedTuple):
    """A part of the work on a micro-batch that can be timed alone: function(moving, fixed, key),
    whose gradient is that of `moving`."""

    name: str
    function: Callable[..., Any]
    moving: Any
    fixed: Any


class InParts(Trainable, Protocol):
    """A task whose work on a micro-batch can be taken apart."""

    def parts(
        self, state: TrainState, batch: Mapping[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        """With the parameters of `state`; noise(*shape, dtype=) makes inputs on the mesh."""


@dataclasses.dataclass(frozen=True)
class PartTiming:
    """Medians, in seconds, of a part of one micro-batch; of the optimizer `forward_s` is all."""

    part: str
    forward_s: float
    forward_backward_s: float | None
    times: int  # in an update: once per micro-batch

    @property
    def per_update(self) -> float:
        once = self.forward_s if self.forward_backward_s is None else self.forward_backward_s
        return self.times * once


def part_timings(
    task: InParts,
    mesh: Mesh,
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    repeats: int,
) -> Iterator[PartTiming]:
    """Times every part of training on a micro-batch of `batch` (arrays [A, B, ...]).

    The modules are the real ones with the parameters of `state`, the shapes and types those of the
    step; inputs and gradients from above are noise. Compiled alone a part can be slower than in
    the step, where it shares memory traffic with its neighbours, so the sum is no exact account.
    """
    accumulation = len(next(iter(batch.values())))
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def noise(*shape: int, dtype=jnp.float32) -> jax.Array:
        return jax.device_put(jax.random.normal(jax.random.key(2), shape, dtype), rows)

    micro = {name: jax.device_put(array[0], rows) for name, array in batch.items()}
    for name, function, moving, fixed in task.parts(state, micro, mesh, noise):

        def both(moving, above, fixed, key, function=function):
            out, backward = jax.vjp(lambda x: function(x, fixed, key), moving)
            return out, backward(above)

        forward = on_mesh(jax.jit(function), mesh)
        out = forward(moving, fixed, jax.random.key(0))
        above = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape, x.dtype), out)
        above = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), above, out)
        yield PartTiming(
            name,
            _median(forward, (moving, fixed), repeats),
            _median(on_mesh(jax.jit(both), mesh), (moving, above, fixed), repeats),
            accumulation,
        )

    def update(params, grads, opt, step, key):
        updates, opt = task.optimizer.update(grads, opt, params)
        rate = task.schedule(step)
        return jax.tree.map(lambda p, u: p - rate * u, params, updates), opt

    arguments = (state.params, state.params, state.opt, state.step)
    seconds = _median(on_mesh(jax.jit(update), mesh), arguments, repeats)
    yield PartTiming("optimizer", seconds, None, 1)


def _median(function: Callable[..., Any], arguments: tuple, repeats: int) -> float:
    """Seconds of a call with (*arguments, key), each with another key: LayerDrop drops others."""
    jax.block_until_ready(function(*arguments, jax.random.key(0)))
    taken = []
    for i in range(repeats):
        key = jax.block_until_ready(jax.random.key(i))
        begin = time.perf_counter()
        jax.block_until_ready(function(*arguments, key))
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def table(parts: list[PartTiming], step: float) -> str:
    """A line per part of an update of `step` seconds, and one for what no part accounts for."""
    lines = [f"{'per micro-batch':24}  forward ms  forward+backward ms  share of the step"]
    for x in parts:
        both = "" if x.forward_backward_s is None else f"{1000 * x.forward_backward_s:.2f}"
        lines.append(
            f"{x.part:24}  {1000 * x.forward_s:10.2f}  {both:>19}  {x.per_update / step:17.1%}"
        )
    rest = 1 - sum(x.per_update for x in parts) / step
    return "\n".join([*lines, f"{'everything else':24}  {'':10}  {'':19}  {rest:17.1%}"])
