"""The training state and the scan-based update that moves it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from w2v_jax.training.optim import Schedule
from w2v_jax.training.sharding import RULES, batch_sharding, replicated, tree_shardings

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight)


@flax.struct.dataclass
class TrainState:
    """Exactly what a checkpoint holds."""

    step: jax.Array  # int32 scalar: updates done, which is also the index of the next batch
    params: Any
    stats: Any  # running statistics of batch norm, {} without any
    opt: Any
    ema: Any  # moving average of the parameters, {} where none is kept

    @property
    def variables(self) -> dict[str, Any]:
        """What a model is evaluated with: the averaged parameters where there are any."""
        return {"params": self.ema or self.params, "stats": self.stats}

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds: `ema` only where there is one, as before there was any."""
        return {k: v for k, v in vars(self).items() if k != "ema" or v}

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> "TrainState":
        """The state of `saved`."""
        return cls(**{"ema": {}} | saved)

    def starting_from(self, params: Any, stats: Any) -> "TrainState":
        """The state with other first parameters; their average starts there too."""
        ema = jax.tree.map(jnp.copy, params) if self.ema else {}
        return self.replace(params=params, stats=stats, ema=ema)


@flax.struct.dataclass
class LossOutput:
    """What a loss function returns for one micro-batch."""

    weight: jax.Array  # by which the sum over all micro-batches is divided
    metrics: Metrics
    stats: Any


# (params, stats, micro-batch, step, (key of the step, key of the micro-batch))
#   -> (loss sum, LossOutput)
LossFunction = Callable[..., tuple[jax.Array, LossOutput]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and how its parameters move."""

    init: Callable[[], Any]  # the first variables, with their logical axis names
    loss: LossFunction
    optimizer: optax.GradientTransformation
    schedule: Schedule
    seed: int
    freeze: str = ""  # this sub-tree of the parameters does not move for freeze_steps updates
    freeze_steps: int = 0
    ema_decay: float = 0.0  # of the moving average of the parameters; 0: none


def make_train_step(task: Task) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`; batch arrays are [A, B, ...].

    Gradients and (sum, weight) terms are added up over the A micro-batches and divided once: A
    changes no mean. It changes what is drawn for each (dropout, LayerDrop) and what is computed
    over it alone (diversity, negatives of other utterances).

    A non-finite gradient leaves parameters, statistics and optimizer as they were and is reported
    as the metric train/skipped. While a sub-tree is frozen no gradient is computed for it. The
    average of the parameters moves by min(ema_decay, (1 + t) / (10 + t)), so that it does not
    remember their first values for long.
    """
    loss_function, freeze, freeze_steps = task.loss, task.freeze, task.freeze_steps
    gradient = jax.value_and_grad(loss_function, has_aux=True)

    def frozen_gradient(params, *rest):
        moving = {key: value for key, value in params.items() if key != freeze}
        value, grads = jax.value_and_grad(
            lambda part: loss_function(params | part, *rest), has_aux=True
        )(moving)
        return value, grads | {freeze: jax.tree.map(jnp.zeros_like, params[freeze])}

    def value_and_gradient(*args):
        if not freeze_steps:
            return gradient(*args)
        step = args[3]
        return jax.lax.cond(step < freeze_steps, frozen_gradient, gradient, *args)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(task.seed), state.step)

        def gradients(stats, index, part):
            (_, out), grads = value_and_gradient(
                state.params, stats, part, state.step, (key, jax.random.fold_in(key, index))
            )
            return (grads, out.weight, out.metrics), out.stats

        def micro(carry, item):
            sums, stats = carry
            new, stats = gradients(stats, *item)
            return (jax.tree.map(jnp.add, sums, new), stats), None

        size = jax.tree.leaves(batch)[0].shape[0]
        first = jax.tree.map(lambda x: x[0], batch)
        if size == 1:
            sums, stats = gradients(state.stats, jnp.int32(0), first)
        else:
            shapes = jax.eval_shape(gradients, state.stats, jnp.int32(0), first)[0]
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            items = jnp.arange(size), batch
            (sums, stats), _ = jax.lax.scan(micro, (zeros, state.stats), items)
        grads, weight, metrics = sums
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1), grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm)
        updates, opt = task.optimizer.update(grads, state.opt, state.params)
        rate = task.schedule(state.step)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        ema = {}
        if task.ema_decay:
            decay = jnp.minimum(task.ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)  # noqa: E731
        one = jnp.float32(1)
        # a skipped update has no part in the means of the log
        metrics = jax.tree.map(lambda x: jnp.where(finite, x, 0), metrics)
        metrics |= {
            "train/learning_rate": (rate, one),
            "train/gradient_norm": (jnp.where(finite, norm, 0), finite.astype(jnp.float32)),
            "train/skipped": (1 - finite.astype(jnp.float32), one),
        }
        state = TrainState(
            state.step + 1,
            keep(params, state.params),
            keep(stats, state.stats),
            keep(opt, state.opt),
            keep(ema, state.ema),
        )
        return state, metrics

    return train_step


def _boxed_state(task: Task) -> TrainState:
    """The first state, arrays in boxes with their logical axis names."""
    variables = task.init()
    params = variables["params"]
    ema = jax.tree.map(jnp.copy, params) if task.ema_decay else {}
    opt = task.optimizer.init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, variables.get("stats", {}), opt, ema)


def abstract_state(task: Task, mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes, types and shardings of the state on a mesh; no array is made."""
    boxed = jax.eval_shape(lambda: _boxed_state(task))
    put = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(put, nn.meta.unbox(boxed), tree_shardings(boxed, mesh))


def first_state(task: Task, mesh: jax.sharding.Mesh) -> TrainState:
    """The state before the first update; each device makes its own part of it."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(task, mesh))
    return jax.jit(lambda: nn.meta.unbox(_boxed_state(task)), out_shardings=shardings)()


def jitted_step(task: Task, mesh: jax.sharding.Mesh) -> Callable:
    """`make_train_step` jitted for the shardings of a mesh; the state is donated. To be called, or
    lowered, through `on_mesh`."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(task, mesh))
    return jax.jit(
        make_train_step(task),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def build(task: Task, mesh: jax.sharding.Mesh) -> tuple[TrainState, Callable]:
    """The first state on the mesh, and the step compiled for it."""
    return first_state(task, mesh), on_mesh(jitted_step(task, mesh), mesh)


def on_mesh(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    """`function`, called with the mesh and the logical axis rules in force."""

    @functools.wraps(function)
    def call(*args):
        with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
            return function(*args)

    return call
