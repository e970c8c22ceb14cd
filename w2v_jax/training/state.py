"""The training state and the scan-based update that moves it."""

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


@flax.struct.dataclass
class LossOutput:
    """What a loss function returns for one micro-batch."""

    weight: jax.Array  # by which the sum over all micro-batches is divided
    metrics: Metrics
    stats: Any


# (params, stats, micro-batch, step, (key of the step, key of the micro-batch))
#   -> (loss sum, LossOutput)
LossFunction = Callable[..., tuple[jax.Array, LossOutput]]


def init_state(init: Callable[[], Any], optimizer: optax.GradientTransformation) -> TrainState:
    """The boxed state from `init() -> variables`; use under jax.eval_shape or jax.jit."""
    variables = init()
    params = variables["params"]
    stats = variables.get("stats", {})
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))


def make_train_step(
    loss_function: LossFunction,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    seed: int,
    freeze: str = "",
    freeze_steps: int = 0,
) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`; batch arrays are [A, B, ...].

    Gradients and (sum, weight) terms are added up over the A micro-batches and divided once, so
    accumulation changes no result. A non-finite gradient leaves parameters, statistics and
    optimizer as they were and is reported as the metric train/skipped. For the first `freeze_steps`
    updates no gradient is computed for the sub-tree `freeze` of the parameters.
    """
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
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        def micro(carry, item):
            grads, weight, metrics, stats = carry
            index, part = item
            (_, out), new = value_and_gradient(
                state.params, stats, part, state.step, (key, jax.random.fold_in(key, index))
            )
            add = lambda a, b: jax.tree.map(jnp.add, a, b)  # noqa: E731
            return (
                add(grads, new),
                weight + out.weight,
                add(metrics, out.metrics),
                out.stats,
            ), None

        size = jax.tree.leaves(batch)[0].shape[0]
        first = jax.tree.map(lambda x: x[0], batch)
        shapes = jax.eval_shape(
            loss_function, state.params, state.stats, first, state.step, (key, key)
        )[1]
        zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)  # noqa: E731
        carry = (zeros(state.params), jnp.float32(0), zeros(shapes.metrics), state.stats)
        if size == 1:
            carry, _ = micro(carry, (jnp.int32(0), first))
        else:
            carry, _ = jax.lax.scan(micro, carry, (jnp.arange(size), batch))
        grads, weight, metrics, stats = carry
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1), grads)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm)
        updates, opt = optimizer.update(grads, state.opt, state.params)
        rate = schedule(state.step)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
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
        )
        return state, metrics

    return train_step


def build(
    init: Callable[[], Any],
    optimizer: optax.GradientTransformation,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, Callable[[TrainState, Any], tuple[TrainState, Metrics]]]:
    """The initial state on the mesh, and the step compiled for it (the state is donated)."""
    make = lambda: init_state(init, optimizer)  # noqa: E731
    shardings = tree_shardings(jax.eval_shape(make), mesh)
    state = jax.jit(lambda: nn.meta.unbox(make()), out_shardings=shardings)()
    compiled = jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )
    return state, on_mesh(compiled, mesh)


def on_mesh(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    """`function`, called with the mesh and the logical axis rules in force."""

    @functools.wraps(function)
    def call(*args):
        with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
            return function(*args)

    return call
