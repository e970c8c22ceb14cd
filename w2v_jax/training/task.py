"""What the training machinery asks of a kind of training; `tasks` holds the kinds themselves."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import optax

Variables = dict[str, Any]  # {"params": ..., "stats": ...}, as a Linen module takes them
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight)
Schedule = Callable[[jax.Array], jax.Array]  # of the updates done before


class Context(NamedTuple):
    """What a loss may ask of its surroundings."""

    step: jax.Array  # int32 scalar, updates done before
    key: jax.Array  # of the update: equal for all its micro-batches
    micro_key: jax.Array  # of the micro-batch
    teacher: Variables | None = None  # the followed variables, without a gradient


class Follower(NamedTuple):
    """Parameters that follow those that are trained: f <- decay f + (1 - decay) p after an update.

    An average of the weights and the teacher of a student are the same thing, used otherwise.
    """

    decay: Schedule
    of: str = ""  # the sub-tree that is followed, "encoder/context"; empty: all parameters
    evaluates: bool = True  # evaluation and export take them in the place of the trained ones


def averaged(decay: float) -> Follower | None:
    """The average of all parameters that is evaluated; None for 0. It moves by no more than
    (1 + t) / (10 + t), so that it does not remember the first values for long."""
    if not decay:
        return None
    return Follower(lambda step: jnp.minimum(decay, (1 + step) / (10 + step)))


@flax.struct.dataclass
class LossOutput:
    """What a loss returns of one micro-batch besides its sum."""

    weight: jax.Array  # by which the sum over all micro-batches is divided
    metrics: Metrics
    stats: Any  # running statistics after it, {} without any


class Trainable(Protocol):
    """What an update asks of a task (`tasks.task.Task`)."""

    seed: int
    optimizer: optax.GradientTransformation
    schedule: Schedule
    follower: Follower | None
    freeze: str  # this sub-tree of the parameters does not move for freeze_steps updates
    freeze_steps: int

    def init(self) -> Variables:
        """The first variables, in boxes with their logical axis names."""

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """(loss summed over a micro-batch, LossOutput); batch arrays are [B, ...]."""
