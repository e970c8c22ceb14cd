"""data2vec pre-training: what a teacher hears in the frames that are masked (arXiv 2202.03555).

Configs of the kind "data2vec": configs/data2vec.py.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.keys.check import flag
from w2v_jax.measuring.flops import OF_BLOCKS, training_flops
from w2v_jax.measuring.part_timing import Part
from w2v_jax.models.heads.data2vec import OF_TEACHER, Data2VecModel, heard_by_teacher
from w2v_jax.objectives.regression import (
    Regression,
    averaged_layers,
    dimensions,
    products,
    regression,
    spread,
    variance,
)
from w2v_jax.tasks.crops import CropTask
from w2v_jax.tasks.task import PATIENCE, SKIPPED, Data
from w2v_jax.training.health import Alarm
from w2v_jax.training.optim import warmup_steps
from w2v_jax.training.state import TrainState
from w2v_jax.training.task import Context, Follower, LossOutput, Schedule, Variables


class Data2Vec(CropTask):
    """Crops without padding -> masked frames -> what the teacher's top blocks make of these frames
    where nothing is masked.

    The teacher is the student's blocks, as they were on average over the last updates; front end,
    positions and the norm before the blocks are the student's own, so that all of it is computed
    once and the teacher's pass begins at the projected features. (fairseq's teacher has an average
    of that norm as well.)
    """

    recipe = "data2vec.py:tiny"
    best_by = "valid/relative_error"
    loss_scalar = "train/regression_loss"
    keys = (*CropTask.keys, "masking", "teacher")

    def __init__(self, config):
        super().__init__(config)
        teacher = config.teacher
        self.follower = Follower(
            linear_decay(teacher.start, teacher.end, teacher.steps), OF_TEACHER, evaluates=False
        )
        self.alarms = alarms(warmup_steps=warmup_steps(config.optim, config.num_steps))

    def check(self, values: Mapping[str, Any]) -> None:
        super().check(values)
        config, teacher = self.config, self.config.teacher
        if config.ema_decay:
            raise UserError(
                f"{flag('ema_decay', config.ema_decay)} evaluates an average of the weights; the "
                "average that data2vec keeps is its teacher: set --config.ema_decay=0, and "
                "--config.teacher.end for the teacher"
            )
        if teacher.layers > config.model.num_layers:
            raise UserError(
                f"{flag('teacher.layers', teacher.layers)} is more than the model's "
                f"--config.model.num_layers={config.model.num_layers}; set --config.teacher.layers="
                f"{config.model.num_layers} or less"
            )
        if teacher.start > teacher.end:
            raise UserError(
                f"{flag('teacher.start', teacher.start)} is above "
                f"{flag('teacher.end', teacher.end)}; the teacher slows down: lower the one or "
                "raise the other"
            )

    # model and loss

    def init(self) -> Variables:
        return Data2VecModel(self.encoder).init(
            jax.random.key(self.seed), jnp.zeros((1, SAMPLE_RATE), jnp.int16)
        )

    def forward(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context, *, train: bool,
        **kwargs,
    ) -> tuple[Any, jax.Array]:  # fmt: skip
        return self.masked(Data2VecModel(self.encoder, train), variables, batch, context, **kwargs)

    def targets(
        self, variables: Variables, teacher: Mapping[str, Any], projected: jax.Array
    ) -> jax.Array:
        """float32 [B, T, D] of all frames, without a gradient. teacher: its parameters."""
        layers = self.config.teacher.layers
        heard = heard_by_teacher(
            self.encoder, *jax.lax.stop_gradient((variables, teacher, projected)), layers
        )
        return averaged_layers(heard)

    def loss(
        self, variables: Variables, batch: dict[str, jax.Array], context: Context
    ) -> tuple[jax.Array, LossOutput]:
        (out, new), masked = self.forward(variables, batch, context, train=True, mutable=["stats"])
        targets = self.targets(variables, context.teacher["params"], out.projected)
        found = regression(out.prediction, targets, masked)
        any_masked = (found.count > 0).astype(jnp.float32)
        present = (batch["id"] >= 0).sum().astype(jnp.float32)
        metrics = {
            "train/regression_loss": (found.loss, found.count),
            "train/relative_error": (found.error, varied(found)),
            "train/target_std": (any_masked * spread(found.target, found.count), any_masked),
            "train/prediction_std": (
                any_masked * spread(found.prediction, found.count), any_masked
            ),
            "train/masked_share": (found.count, present * masked.shape[1]),
            "train/teacher_decay": (self.follower.decay(context.step), jnp.float32(1)),
        }  # fmt: skip
        return found.loss, LossOutput(found.count, metrics, new.get("stats", {}))

    def evaluation(self, data: Data, mesh: Mesh) -> Callable[[Variables], dict[str, float]]:
        """The same masks each time, no dropout; the targets are of the teacher as it is."""
        context = self.of_validation()

        def sums(variables: Variables, batch):
            variables = dict(variables)
            teacher = variables.pop("teacher")
            out, masked = self.forward(variables, batch, context, train=False)
            targets = self.targets(variables, teacher, out.projected)
            return regression(out.prediction, targets, masked), products(targets, masked)

        total = self.summed(sums, data, mesh)

        def evaluate(variables: Variables) -> dict[str, float]:
            found, of_products = total(variables)
            if not found.count:
                raise UserError(
                    f"--config.data.valid={self.config.data.valid} has no masked frame; give it "
                    "more audio"
                )
            return {
                "valid/regression_loss": float(found.loss / found.count),
                "valid/relative_error": float(found.error / np.maximum(varied(found), 1e-6)),
                "valid/target_dimensions": float(
                    dimensions(of_products, found.target, found.count)
                ),
                "valid/target_std": float(spread(found.target, found.count)),
                "valid/prediction_std": float(spread(found.prediction, found.count)),
                "valid/masked_frames": float(found.count),
            }

        return evaluate

    # what it costs

    def forward_flops(self, length: int, *, layerdrop: bool = False) -> dict[str, float]:
        whole = super().forward_flops(length)
        width, frames = self.encoder.width, self.encoder.frontend.frames(length)
        teacher = sum(whole.get(part, 0.0) for part in (*OF_BLOCKS, "positions"))
        return super().forward_flops(length, layerdrop=layerdrop) | {
            "answers": 2.0 * frames * width * width,
            "teacher": teacher,
        }

    def training_flops(self, length: int, *, layerdrop: bool = False) -> float:
        forward = self.forward_flops(length, layerdrop=layerdrop)
        teacher = forward.pop("teacher")  # which has no backward pass
        return teacher + training_flops(self.encoder, forward, length)

    def parts(
        self, state: TrainState, batch: dict[str, jax.Array], mesh: Mesh, noise: Callable
    ) -> Iterator[Part]:
        yield from super().parts(state, batch, mesh, noise)
        cfg, (count, samples) = self.encoder, batch["audio"].shape
        frames = cfg.frontend.frames(samples)
        variables = {"params": state.params, "stats": state.stats}

        def teacher(nothing, fixed, key):
            return self.targets(*fixed)

        x = noise(count, frames, cfg.width, dtype=cfg.compute_dtype)
        yield Part("teacher", teacher, (), (variables, state.followed, x))
        arrays = noise(count, frames, cfg.width), noise(count, frames, cfg.width)

        def loss(prediction, target, key):
            return regression(prediction, target, jnp.ones((count, frames), bool)).loss

        yield Part("loss", loss, *arrays)


def varied(found: Regression) -> jax.Array:
    """The error of a prediction that is the mean of the targets."""
    return found.count * variance(found.target, found.count).sum()


def linear_decay(start: float, end: float, steps: int) -> Schedule:
    """Of a teacher: from `start` to `end` over `steps` updates, and `end` from then on."""

    def decay(step):
        return start + (end - start) * jnp.clip((step + 1) / max(steps, 1), 0.0, 1.0)

    return decay


def alarms(*, warmup_steps: int) -> tuple[Alarm, ...]:
    """What can be wrong with the pre-training; warmup_steps: of the schedule. The limits of the two
    standard deviations are those at which fairseq's stops."""
    settled = max(warmup_steps, PATIENCE)
    again = (
        "Start again in another --workdir with a lower --config.optim.peak_lr, a longer "
        "--config.optim.warmup_steps, or a slower teacher (--config.teacher.start, "
        "--config.teacher.end nearer to 1)"
    )
    return (
        SKIPPED,
        Alarm(
            "collapse",
            ("train/target_std", "train/prediction_std"),
            lambda step, s: (
                step >= settled
                and (s["train/target_std"] < 0.1 or s["train/prediction_std"] < 0.01)
            ),
            "the representations collapse: over the masked frames of an update the targets have a "
            "standard deviation of {train/target_std:.3f}, the predictions one of "
            f"{{train/prediction_std:.3f}}, below 0.1 or 0.01. {again}",
        ),
        Alarm(
            "chance",
            ("train/relative_error",),
            lambda step, s: step >= settled and s["train/relative_error"] > 0.98,
            "the predictions are no better than the mean of the targets (error {train/"
            "relative_error:.3f} of theirs), though the warm-up is over: nothing is learnt from "
            "what surrounds a span. Raise --config.data.batch_seconds (--config.run.accumulation "
            "makes it fit) or --config.optim.peak_lr, or mask shorter spans with "
            "--config.masking.span",
        ),
    )
