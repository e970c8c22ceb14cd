"""Discrete BERT as it is pre-trained (arXiv 1911.03912): the encoder and a layer of tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.layers import torch_dense


class DiscreteBERT(nn.Module):
    """A distribution over the tokens of a front end of units for every frame."""

    config: EncoderConfig
    train: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        time_mask: jax.Array | None = None,
    ) -> jax.Array:
        """audio [B, S], length int32 [B] or None, time_mask bool [B, T] as in `Encoder` -> logits
        float32 [B, T, V]. Raises ConfigError where the front end has no tokens."""
        cfg = self.config
        cfg.check_tokens()
        out = Encoder(cfg, self.train, name="encoder")(audio, length, time_mask=time_mask)
        return torch_dense(
            cfg.width, cfg.frontend.classes, ("embed", "vocab"), cfg.compute_dtype, name="predict"
        )(out.context).astype(jnp.float32)
