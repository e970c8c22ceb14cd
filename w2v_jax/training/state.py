"""The training state and the scan-based update that moves it."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from w2v_jax.training.sharding import RULES, batch_sharding, replicated, tree_shardings
from w2v_jax.training.task import Context, Follower, Metrics, Trainable, Variables

# what a checkpoint calls the followed parameters, by whether they are evaluated: so that it says
# by itself which parameters are the model's
FOLLOWED = {True: "average", False: "teacher"}
CARRIED = "carried"  # of stats: what a training hands from update to update, no part of its model


@flax.struct.dataclass
class TrainState:
    """Exactly what a checkpoint holds."""

    step: jax.Array  # int32 scalar: updates done, which is also the index of the next batch
    params: Any
    stats: Any  # running statistics of batch norm, {} without any
    opt: Any
    followed: Any  # what the task's follower keeps, {} without one
    evaluates: bool = flax.struct.field(pytree_node=False, default=True)

    @property
    def variables(self) -> Variables:
        """What a model is evaluated with: the followed parameters where they are meant for it; if
        they are a teacher's, they come besides, as "teacher"."""
        if self.evaluates:
            return {"params": grafted(self.params, self.followed), "stats": self.stats}
        return {"params": self.params, "stats": self.stats, "teacher": self.followed}

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        saved = dict(step=self.step, params=self.params, stats=self.stats, opt=self.opt)
        return saved | ({FOLLOWED[self.evaluates]: self.followed} if self.followed else {})

    def restored(self, saved: dict[str, Any]) -> "TrainState":
        """The state of `saved`, which has the structure of this one."""
        rest = {k: v for k, v in saved.items() if k not in FOLLOWED.values()}
        return self.replace(**rest, followed=saved.get(FOLLOWED[self.evaluates], {}))

    def starting_from(self, params: Any, stats: Any) -> "TrainState":
        """The state with other first parameters; what follows them starts there too."""
        followed = _copied(params, self.followed)
        return self.replace(params=params, stats=stats, followed=followed)


def grafted(params: Any, part: Any) -> Any:
    """The nested dicts `params` with the leaves that `part` has put in their places."""
    if not isinstance(part, dict):
        return part
    return params | {key: grafted(params[key], value) for key, value in part.items()}


def _copied(params: Any, like: Any) -> Any:
    """Copies of those leaves of `params` that `like` has."""
    if not isinstance(like, dict):
        return jax.tree.map(jnp.copy, params)
    return {key: _copied(params[key], value) for key, value in like.items()}


def followed_part(params: Any, follower: Follower | None) -> Any:
    """The sub-tree of `params` that a follower follows, in its place; {} without a follower."""
    if follower is None:
        return {}
    part, keys = params, [key for key in follower.of.split("/") if key]
    for key in keys:
        part = part[key]
    for key in reversed(keys):
        part = {key: part}
    return part


def make_train_step(task: Trainable) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """`step(state, batch) -> (state, metrics)`; batch arrays are [A, B, ...].

    Gradients and (sum, weight) terms are added up over the A micro-batches and divided once: A
    changes no mean. It changes what is drawn for each (dropout, LayerDrop) and what is computed
    over it alone (diversity, negatives of other utterances).

    A non-finite gradient leaves parameters, statistics and optimizer as they were and is reported
    as the metric train/skipped. Where nothing counts (weight 0) statistics alone move. While a
    sub-tree is frozen no gradient is computed for it. What follows the parameters moves after them;
    a loss sees it as it was before the update.
    """
    follower, freeze, freeze_steps = task.follower, task.freeze, task.freeze_steps

    def loss(params, stats, batch, context):
        return task.loss({"params": params, "stats": stats}, batch, context)

    gradient = jax.value_and_grad(loss, has_aux=True)

    def frozen_gradient(params, *rest):
        moving = {key: value for key, value in params.items() if key != freeze}
        value, grads = jax.value_and_grad(lambda part: loss(params | part, *rest), has_aux=True)(
            moving
        )
        return value, grads | {freeze: jax.tree.map(jnp.zeros_like, params[freeze])}

    def value_and_gradient(params, stats, batch, context):
        if not freeze_steps:
            return gradient(params, stats, batch, context)
        frozen = context.step < freeze_steps
        return jax.lax.cond(frozen, frozen_gradient, gradient, params, stats, batch, context)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(task.seed), state.step)
        teacher = None
        if follower is not None:
            teacher = {"params": state.followed, "stats": state.stats}

        def gradients(stats, index, part):
            context = Context(state.step, key, jax.random.fold_in(key, index), teacher)
            (_, out), grads = value_and_gradient(state.params, stats, part, context)
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
        moved = finite & (weight > 0)
        updates, opt = task.optimizer.update(grads, state.opt, state.params)
        rate = task.schedule(state.step)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        followed = {}
        if follower is not None:
            share = 1 - follower.decay(state.step)
            leaders = followed_part(params, follower)
            followed = jax.tree.map(lambda f, p: f + share * (p - f), state.followed, leaders)

        def chosen(condition, new, old):
            return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)

        one = jnp.float32(1)
        # a skipped update has no part in the means of the log
        metrics = jax.tree.map(lambda x: jnp.where(finite, x, 0), metrics)
        metrics |= {
            "train/learning_rate": (rate, one),
            "train/gradient_norm": (jnp.where(moved, norm, 0), moved.astype(jnp.float32)),
            "train/skipped": (1 - finite.astype(jnp.float32), one),
        }
        state = state.replace(
            step=state.step + 1,
            params=chosen(moved, params, state.params),
            stats=chosen(finite, stats, state.stats),
            opt=chosen(moved, opt, state.opt),
            followed=chosen(moved, followed, state.followed),
        )
        return state, metrics

    return train_step


def _boxed_state(task: Trainable) -> TrainState:
    """The first state, arrays in boxes with their logical axis names."""
    variables = task.init()
    params, follower = variables["params"], task.follower
    return TrainState(
        jnp.zeros((), jnp.int32), params, variables.get("stats", {}), task.optimizer.init(params),
        jax.tree.map(jnp.copy, followed_part(params, follower)),
        follower is None or follower.evaluates,
    )  # fmt: skip


@functools.lru_cache(maxsize=4)  # a start asks for it a dozen times
def boxed_shapes(task: Trainable) -> TrainState:
    """Shapes and types of the state, in boxes with their logical axis names; no array is made."""
    return jax.eval_shape(lambda: _boxed_state(task))


def abstract_state(task: Trainable, mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes, types and shardings of the state on a mesh; no array is made."""
    boxed = boxed_shapes(task)
    put = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
    return jax.tree.map(put, nn.meta.unbox(boxed), tree_shardings(boxed, mesh))


def first_state(task: Trainable, mesh: jax.sharding.Mesh) -> TrainState:
    """The state before the first update; each device makes its own part of it."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(task, mesh))
    return jax.jit(lambda: nn.meta.unbox(_boxed_state(task)), out_shardings=shardings)()


def jitted_step(task: Trainable, mesh: jax.sharding.Mesh) -> Callable:
    """`make_train_step` jitted for the shardings of a mesh; the state is donated. To be called, or
    lowered, through `on_mesh`."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(task, mesh))
    return jax.jit(
        make_train_step(task),
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def on_mesh(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    """`function`, called with the mesh and the logical axis rules in force."""

    @functools.wraps(function)
    def call(*args):
        with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
            return function(*args)

    return call
