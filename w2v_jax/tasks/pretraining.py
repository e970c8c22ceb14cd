"""wav2vec 2.0 pre-training: the contrastive task over masked frames (arXiv 2006.11477, 3.2).

`config` is a config of kind "pretrained" (configs/common.py).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.errors import UserError
from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.heads.wav2vec2 import PretrainingOutput, Wav2Vec2
from w2v_jax.objectives.contrastive import (
    across_batch,
    code_perplexity,
    contrastive_loss,
    diversity_loss,
    gumbel_noise,
    gumbel_temperature,
    sample_cross_negatives,
    sample_negatives,
)
from w2v_jax.objectives.masking import masked_frames, max_masked, span_mask, utterance_keys
from w2v_jax.training.optim import make_optimizer, make_schedule
from w2v_jax.training.state import LossOutput, Task

BITS = 1 / math.log(2)


def masked_prediction(config, *, train: bool):
    """`forward(variables, batch, step, keys) -> (model output, Candidates)`: one pass over the
    masked frames of a batch of full crops, with everything random keyed by utterance.
    """
    encoder = EncoderConfig.from_dict(config.model)
    quantizer = QuantizerConfig.from_dict(config.quantizer)
    settings = config.loss
    if settings.negatives_from not in ("masked", "everywhere"):
        raise UserError(
            f"loss.negatives_from is {settings.negatives_from!r}; it must be masked or everywhere"
        )
    everywhere = settings.negatives_from == "everywhere"
    model = Wav2Vec2(encoder, quantizer, train, everywhere)
    masking = config.masking.to_dict()

    def forward(variables, batch, step, keys, **kwargs):
        step_key, micro_key = keys
        rows, samples = batch["audio"].shape
        frames = encoder.frames(samples)
        mask_keys, negative_keys, gumbel_keys, cross_keys = (
            utterance_keys(jax.random.fold_in(step_key, i), batch["id"]) for i in range(4)
        )
        time_mask = span_mask(mask_keys, jnp.full(rows, frames), frames, **masking)
        size = max_masked(frames, **masking)
        index, valid = masked_frames(time_mask, size)
        present = batch["id"][:, None] >= 0
        valid &= present
        if everywhere:
            own, usable = index, jnp.broadcast_to(present, (rows, frames))
        else:
            own, usable = jnp.broadcast_to(jnp.arange(size), (rows, size)), valid
        gumbel = config.gumbel
        temperature = gumbel_temperature(step, gumbel.start, gumbel.end, gumbel.decay)
        noise = None
        if train:
            noise = gumbel_noise(gumbel_keys, (usable.shape[1], quantizer.groups, quantizer.codes))
        dropout, layerdrop = jax.random.split(micro_key)
        out = model.apply(
            variables, batch["audio"], None, time_mask, index, noise=noise, temperature=temperature,
            rngs={"dropout": dropout, "layerdrop": layerdrop}, **kwargs,
        )  # fmt: skip
        negatives = sample_negatives(negative_keys, usable.sum(1), size, settings.negatives, own)
        if settings.cross_negatives:
            cross = sample_cross_negatives(cross_keys, usable, own, settings.cross_negatives)
            offset = usable.shape[1] * jnp.arange(rows)[:, None, None]
            negatives = jnp.concatenate([negatives + offset, cross], -1)
        return out, Candidates(valid, usable, own, negatives, temperature)

    return forward


class Candidates(NamedTuple):
    """What is asked of the model's output; see `contrastive_loss`."""

    valid: jax.Array  # bool [B, M]: masked frames
    usable: jax.Array  # bool [B, K]: candidates, whose codes count
    own: jax.Array  # int32 [B, M]: the candidate that is the frame itself
    negatives: jax.Array  # int32 [B, M, N]; with cross_negatives into all B * K candidates
    temperature: jax.Array  # of the Gumbel softmax


def score_candidates(settings, out: PretrainingOutput, candidates: Candidates):
    """The contrastive loss, won frames and frame count of a batch."""
    arrays = dict(
        context=out.context, targets=out.targets, codes=out.codes, negatives=candidates.negatives,
        valid=candidates.valid, own=candidates.own, usable=candidates.usable,
    )  # fmt: skip
    if settings.cross_negatives:
        arrays = across_batch(**arrays)
    elif settings.negatives_from == "masked":
        arrays["own"] = None  # frame i is candidate i: no gather
    return contrastive_loss(**arrays, temperature=settings.temperature)


def make_loss(config):
    """The pre-training loss of one micro-batch, summed over its masked frames.

    contrastive + diversity_weight * diversity * frames + penalty_weight * penalty * frames
    (fairseq wav2vec_criterion.py): both extra terms weigh per masked frame.
    """
    forward = masked_prediction(config, train=True)
    settings = config.loss

    def loss(params, stats, batch, step, keys):
        variables = {"params": params, "stats": stats}
        (out, new), candidates = forward(variables, batch, step, keys, mutable=["stats"])
        contrastive, won, count = score_candidates(settings, out, candidates)
        diversity, soft = diversity_loss(out.code_logits, candidates.usable)
        count = count.astype(jnp.float32)
        extra = settings.diversity_weight * diversity + settings.penalty_weight * out.penalty
        hard = code_perplexity(out.codes, candidates.usable, out.code_logits.shape[-1])
        one = jnp.float32(1)
        metrics = {
            "train/contrastive_bits": (contrastive * BITS, count),
            "train/accuracy": (won.astype(jnp.float32), count),
            "train/code_perplexity": (hard, one),
            "train/prob_perplexity": (soft, one),
            "train/feature_penalty": (out.penalty, one),
            "train/temperature": (candidates.temperature, one),
        }
        return contrastive + extra * count, LossOutput(count, metrics, new.get("stats", {}))

    return loss


def pretraining_task(config) -> Task:
    """First parameters, loss and optimizer of a pre-training config."""
    encoder = EncoderConfig.from_dict(config.model)
    model = Wav2Vec2(encoder, QuantizerConfig.from_dict(config.quantizer))

    def init() -> Any:
        return model.init(
            jax.random.key(config.seed),
            jnp.zeros((1, SAMPLE_RATE), jnp.int16),
            None,
            jnp.zeros((1, encoder.frames(SAMPLE_RATE)), bool),
            jnp.zeros((1, 2), jnp.int32),
        )

    return Task(
        init, make_loss(config), make_optimizer(config.optim),
        make_schedule(config.optim, config.num_steps), config.seed, ema_decay=config.ema_decay,
    )  # fmt: skip
