"""Optimizers and learning-rate schedules of the published recipes."""

import math

import jax.numpy as jnp
import optax

from w2v_jax.training.task import Schedule


def linear_schedule(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """0 -> peak over the warm-up, then linearly to 0 (fairseq polynomial_decay, power 1).

    The first update has peak / warmup_steps, so none is lost at rate 0.
    """

    def schedule(step):
        up = (step + 1) / max(warmup_steps, 1)
        down = (total_steps - step) / max(total_steps - warmup_steps, 1)
        return peak * jnp.clip(jnp.minimum(up, down), 0.0, 1.0)

    return schedule


def inverse_sqrt_schedule(peak: float, warmup_steps: int) -> Schedule:
    """0 -> peak over the warm-up, then peak * sqrt(warm-up / step): the transformer schedule
    (arXiv 1706.03762 section 5.3), whose k / sqrt(width * warm-up) is the peak."""
    warmup = max(warmup_steps, 1)

    def schedule(step):
        n = step + 1
        return peak * jnp.minimum(n / warmup, jnp.sqrt(warmup / n))

    return schedule


def tri_stage_schedule(
    peak: float,
    total_steps: int,
    phases: tuple[float, float, float] = (0.1, 0.4, 0.5),
    init_scale: float = 0.01,
    final_scale: float = 0.05,
) -> Schedule:
    """Linear warm-up, constant, exponential decay (fairseq tri_stage_lr_scheduler.py)."""
    warmup, hold, decay = (int(share * total_steps) for share in phases)

    def schedule(step):
        up = init_scale + (1 - init_scale) * step / max(warmup, 1)
        gone = jnp.clip((step - warmup - hold) / max(decay, 1), 0.0, 1.0)
        return peak * jnp.where(step < warmup, up, jnp.exp(math.log(final_scale) * gone))

    return schedule


def make_schedule(config, total_steps: int) -> Schedule:
    """From config.optim: schedule, peak_lr, phases (tri_stage) or warmup_steps (the others)."""
    if config.schedule == "linear":
        return linear_schedule(config.peak_lr, config.warmup_steps, total_steps)
    if config.schedule == "inverse_sqrt":
        return inverse_sqrt_schedule(config.peak_lr, config.warmup_steps)
    return tri_stage_schedule(config.peak_lr, total_steps, tuple(config.phases))


def warmup_steps(config, total_steps: int) -> int:
    """Updates until the learning rate has its peak."""
    if config.schedule == "tri_stage":
        return int(config.phases[0] * total_steps)
    return config.warmup_steps


SMALLEST_FACTORED = 128  # matrices with fewer rows or columns keep their squares whole
LARGEST_UPDATE = 1.0  # root of the mean square of an array's update, at most (Adafactor's d)


def adam(config) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.b1, config.b2, config.eps)


def adafactor(config) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235) with a learning rate from outside: not relative to the size of a
    parameter, squares that decay by b2 as in Adam, its correction of the first updates included
    (section 7.1), updates that are clipped and then averaged with b1, uncorrected.

    `optax.adafactor` would multiply by the parameters' size, and its decay_rate is an exponent of
    the update's number.
    """

    def decay(step, b2):
        return b2 * (1 - b2**step) / (1 - b2 ** (step + 1))

    return optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=config.b2, epsilon=config.eps, min_dim_size_to_factor=SMALLEST_FACTORED,
            decay_rate_fn=decay,
        ),
        optax.clip_by_block_rms(LARGEST_UPDATE),
        optax.ema(config.b1, debias=False),
    )  # fmt: skip


OPTIMIZERS = {"adam": adam, "adafactor": adafactor}


def make_optimizer(
    config, *, freeze: str = "", freeze_steps: int = 0
) -> optax.GradientTransformation:
    """Adam or Adafactor with decoupled weight decay on all parameters; the step multiplies by
    -learning rate.

    config.optim: kind, b1, b2, eps, weight_decay, clip_norm (0: none). The sub-tree `freeze` does
    not move for `freeze_steps` updates, and its moments start after them.
    """
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    inner = optax.chain(
        OPTIMIZERS[config.kind](config), optax.add_decayed_weights(config.weight_decay)
    )
    if freeze_steps:
        thawed = optax.transforms.conditionally_mask(inner, lambda step: step >= freeze_steps)
        labels = lambda params: {key: "thaw" if key == freeze else "now" for key in params}  # noqa: E731
        inner = optax.multi_transform({"thaw": thawed, "now": inner}, labels)
    return optax.chain(*parts, inner)
