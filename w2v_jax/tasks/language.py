"""Training of a language model to predict the next token.

`config` is a config of kind "language" (configs/lm.py).
"""

from typing import Any

import jax
import jax.numpy as jnp

from w2v_jax.models.language import LanguageConfig, LanguageModel
from w2v_jax.objectives.language import next_token_loss
from w2v_jax.training.optim import make_optimizer, make_schedule
from w2v_jax.training.state import LossOutput, Task


def make_loss(config, vocabulary: int):
    """The cross entropy of one micro-batch, summed over its tokens.

    Metrics: train/loss in nats per token; train/perplexity is the mean over micro-batches, a little
    above e^loss.
    """
    model = LanguageModel(LanguageConfig.from_dict(config.model), vocabulary, train=True)

    def loss(params, stats, batch, step, keys):
        tokens, length = batch["tokens"], batch["length"]
        logits = model.apply({"params": params}, tokens, rngs={"dropout": keys[1]})
        total, count = next_token_loss(logits, tokens, length)
        size = jnp.float32(tokens.size)
        metrics = {
            "train/loss": (total, count),
            "train/perplexity": (jnp.exp(total / count.clip(1)), jnp.float32(1)),
            "train/padding_share": (size - length.sum(), size),
        }
        return total, LossOutput(count, metrics, stats)

    return loss


def language_task(config, vocabulary: int) -> Task:
    """First parameters, loss and optimizer; `vocabulary`: the number of tokens."""
    model = LanguageModel(LanguageConfig.from_dict(config.model), vocabulary)

    def init() -> Any:
        return model.init(jax.random.key(config.seed), jnp.zeros((1, 8), jnp.int32))

    return Task(
        init, make_loss(config, vocabulary), make_optimizer(config.optim),
        make_schedule(config.optim, config.num_steps), config.seed, ema_decay=config.ema_decay,
    )  # fmt: skip
