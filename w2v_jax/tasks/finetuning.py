"""CTC fine-tuning of an encoder (wav2vec 2.0, arXiv 2006.11477, section 3.3).

`config` is a config of kind "ctc" (configs/common.py).
"""

from typing import Any

import jax
import jax.numpy as jnp

from w2v_jax.audio.waveform import SAMPLE_RATE
from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.heads.ctc import CTCModel
from w2v_jax.objectives.ctc import ctc_loss
from w2v_jax.objectives.masking import span_mask, utterance_keys
from w2v_jax.training.optim import make_optimizer, make_schedule
from w2v_jax.training.state import LossOutput, Task


def make_loss(config, vocabulary: int):
    """The CTC loss of one micro-batch, summed over its utterances (fairseq's sentence_avg)."""
    encoder = EncoderConfig.from_dict(config.model)
    model = CTCModel(encoder, vocabulary, config.final_dropout, train=True)
    time, channel = config.time_masking.to_dict(), config.channel_masking.to_dict()

    def loss(params, stats, batch, step, keys):
        step_key, micro_key = keys
        frames = encoder.frames(batch["length"])
        time_keys, channel_keys = (
            utterance_keys(jax.random.fold_in(step_key, i), batch["id"]) for i in range(2)
        )
        rows, samples = batch["audio"].shape
        widths = jnp.full(rows, encoder.width)
        dropout, layerdrop = jax.random.split(micro_key)
        (logits, frames), new = model.apply(
            {"params": params, "stats": stats},
            batch["audio"],
            batch["length"],
            time_mask=span_mask(time_keys, frames, encoder.frames(samples), **time),
            channel_mask=span_mask(channel_keys, widths, encoder.width, **channel),
            rngs={"dropout": dropout, "layerdrop": layerdrop},
            mutable=["stats"],
        )
        present = (batch["id"] >= 0).astype(jnp.float32)
        total, counted = ctc_loss(logits, frames, batch["labels"], batch["label_length"], present)
        count = counted.sum().astype(jnp.float32)
        letters = (batch["label_length"] * counted).sum().astype(jnp.float32)
        metrics = {
            "train/ctc_loss": (total, count),
            "train/ctc_loss_per_letter": (total, letters),
            "train/infeasible": (present.sum() - count, present.sum()),
            "train/padding_share": (
                (batch["audio"].size - batch["length"].sum()).astype(jnp.float32),
                jnp.float32(batch["audio"].size),
            ),
        }
        return total, LossOutput(count, metrics, new.get("stats", {}))

    return loss


def finetuning_task(config, vocabulary: int) -> Task:
    """First parameters, loss and optimizer of a fine-tuning config; `vocabulary`: outputs."""
    model = CTCModel(EncoderConfig.from_dict(config.model), vocabulary)

    def init() -> Any:
        return model.init(jax.random.key(config.seed), jnp.zeros((1, SAMPLE_RATE), jnp.int16))

    frozen = dict(freeze="encoder", freeze_steps=config.freeze_steps)
    return Task(
        init, make_loss(config, vocabulary), make_optimizer(config.optim, **frozen),
        make_schedule(config.optim, config.num_steps), config.seed, **frozen,
        ema_decay=config.ema_decay,
    )  # fmt: skip
