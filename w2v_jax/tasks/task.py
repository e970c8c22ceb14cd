"""What a kind of training tells the rest of the house about itself."""

import abc
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from w2v_jax.data.batches import BatchLoader, Plan, iterate
from w2v_jax.data.plan import BatchPlan, Bucket, sequential
from w2v_jax.data.streams import Accompanied, StreamLoader
from w2v_jax.measuring.part_timing import Part
from w2v_jax.tasks.rules import check_rules
from w2v_jax.training.health import Alarm
from w2v_jax.training.metrics import AUDIO, Measure
from w2v_jax.training.optim import make_optimizer, make_schedule
from w2v_jax.training.sharding import batch_sharding, local_parts, replicated, shards_of_batch
from w2v_jax.training.state import TrainState, on_mesh
from w2v_jax.training.task import Context, Follower, LossOutput, Variables, averaged

BITS = 1 / math.log(2)  # of a nat
PATIENCE = 300  # updates that even a run with a short warm-up gets before it is called stuck
SKIPPED = Alarm(
    "skipped",
    ("train/skipped",),
    lambda step, s: s["train/skipped"] > 0.1,
    "{train/skipped:.0%} of the last updates were skipped, their gradient was not finite. "
    "Start again in another --workdir with a lower --config.optim.peak_lr, with "
    "--config.optim.clip_norm=1, or with --config.execution.dtype=float32 to see whether it is a "
    "matter of precision",
)


class Data(NamedTuple):
    """What is read: items in buckets of one length each, who reads them, and in which order."""

    buckets: list[Bucket]
    loader: BatchLoader
    planned: Callable[..., Plan] | None = None  # planned(seed=, num_steps=), of several streams

    def plan(self, *, seed: int, num_steps: int) -> Plan:
        """The batches of a training."""
        planned = self.planned or functools.partial(BatchPlan, self.buckets)
        return planned(seed=seed, num_steps=num_steps)

    def accompanied(self, other: "Data", prefix: str, ratio: float) -> "Data":
        """With a batch of other data, its arrays behind a prefix, in the share `ratio` (above 0, up
        to 1) of the updates."""
        return Data(
            self.buckets + other.buckets,
            StreamLoader({"": self.loader, prefix: other.loader}),
            functools.partial(Accompanied, self.buckets, other.buckets, prefix, ratio),
        )


class Shape(NamedTuple):
    """Of a batch, all micro-batches and devices together."""

    rows: int
    length: int  # of a row: samples, or tokens


class Task(abc.ABC):
    """A kind of training, made from its config. Raises UserError for values that make no sense.

    Subclasses set what follows and override the methods below; `training.task.Trainable` is the
    part of it that an update needs.
    """

    command: ClassVar[str]  # the entry point that trains it
    recipe: ClassVar[str]  # its smallest recipe, FILE:ARGUMENT of configs/
    best_by: ClassVar[str]  # the scalar of an evaluation that ranks checkpoints, lower is better
    loss_scalar: ClassVar[str]  # the metric of an update that is its loss
    reads: ClassVar[str] = "manifest"  # what config.data.train names: manifest | text
    measure: ClassVar[Measure] = AUDIO
    pads: ClassVar[bool] = True  # whether rows are shorter than their batch
    # the keys and groups of keys of its config; what they are: keys/table.py
    keys: ClassVar[tuple[str, ...]] = (
        "kind", "seed", "num_steps", "ema_decay", "model", "execution", "optim", "run",
        "data.train", "data.valid", "data.row_multiple",
    )  # fmt: skip
    # weights of terms of the loss that are means over a micro-batch: these alone change with
    # config.run.accumulation
    over_micro_batch: ClassVar[tuple[str, ...]] = ()

    alarms: tuple[Alarm, ...] = (SKIPPED,)
    freeze: str = ""  # this sub-tree of the parameters does not move for freeze_steps updates
    freeze_steps: int = 0

    def __init__(self, config):
        self.config, self.seed = config, config.seed
        self.optimizer = make_optimizer(
            config.optim, freeze=self.freeze, freeze_steps=self.freeze_steps
        )
        self.schedule = make_schedule(config.optim, config.num_steps)
        self.follower: Follower | None = averaged(config.ema_decay)

    def check(self, values: Mapping[str, Any]) -> None:
        """Raises UserError where values of its config do not go together; `values`: its leaves."""
        check_rules(values)

    # data

    @abc.abstractmethod
    def open(self, path: str, mesh: Mesh, *, held_out: bool = False) -> Data:
        """The data in the files `path`; says what is in it and what is left out.

        held_out: for evaluation, every item whole or with the same crop each time; the rows of a
        micro-batch at once. Raises UserError where nothing can be used.
        """

    @abc.abstractmethod
    def shapes(self) -> list[Shape]:
        """The shapes of all batches as far as the config decides them, without any data."""

    @abc.abstractmethod
    def arrays(self, shape: tuple[int, int], length: int) -> dict[str, tuple[tuple, type]]:
        """{name: (shape, type)} of the arrays of a batch of (A, B) rows."""

    @abc.abstractmethod
    def example(self, shape: tuple[int, int], length: int) -> dict[str, np.ndarray]:
        """A batch of (A, B) full rows of real data, for measurements: the package's own."""

    def reading(self, mesh: Mesh) -> dict[str, Any]:
        """The fields of a loader that say which rows this process reads."""
        return {"parts": local_parts(mesh), "of": shards_of_batch(mesh)}

    # model and loss

    @abc.abstractmethod
    def init(self) -> Variables:
        """The first variables, in boxes with their logical axis names."""

    def check_initial(self) -> None:  # noqa: B027
        """Raises UserError where config.run.init_from holds no model, without reading it."""

    def begin(self, state: TrainState) -> TrainState:
        """The first state from the random one: with trained weights where config.run.init_from
        names some."""
        return state

    @abc.abstractmethod
    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        """(loss summed over a micro-batch, LossOutput); batch arrays are [B, ...]."""

    @abc.abstractmethod
    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """`evaluate(variables) -> scalars` over all of the held-out data, compiled once; with a
        teacher its parameters are variables["teacher"]."""

    def summed(
        self, function: Callable[[Variables, dict[str, jax.Array]], Any], data: Data, mesh: Mesh
    ) -> Callable[[Variables], Any]:
        """`total(variables)`: what function(variables, micro-batch) gives, a tree of sums, added up
        over all of the held-out data in float64; compiled once."""
        specs = sequential(data.buckets, shards_of_batch(mesh))

        def first(variables, batch):
            return function(variables, jax.tree.map(lambda x: x[0], batch))

        compiled = on_mesh(jax.jit(first, out_shardings=replicated(mesh)), mesh)

        def total(variables: Variables) -> Any:
            found = None
            for batch, _ in iterate(specs, data.loader, sharding=batch_sharding(mesh)):
                part = jax.device_get(compiled(variables, batch))
                part = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
                found = part if found is None else jax.tree.map(np.add, found, part)
            return found

        return total

    @abc.abstractmethod
    def described(self) -> dict[str, Any]:
        """What an export says of the model: kind, model, head, execution."""

    # what it costs

    @abc.abstractmethod
    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        """Operations of the forward pass of an update over one row, by part. layerdrop: on average
        over the blocks that it skips; else all blocks count."""

    @abc.abstractmethod
    def training_flops(self, length: int, *, layerdrop: bool = False) -> float:
        """Operations of forward and backward pass over one row."""

    @abc.abstractmethod
    def inference(self, variables: Variables, batch: dict[str, jax.Array]) -> jax.Array:
        """What the model is used for, without mask and dropout; batch arrays are [B, ...]."""

    @abc.abstractmethod
    def inference_flops(self, length: int) -> float:
        """Operations of `inference` over one row."""

    @abc.abstractmethod
    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        """The parts of the work on a micro-batch, with the parameters of `state`; noise(*shape,
        dtype=) makes inputs where the mesh wants them."""
