"""The encoder with a linear layer to letters on top (wav2vec 2.0 section 3.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.frontends.logmel import Edit
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.layers import boxed


class CTCModel(nn.Module):
    """Letter logits per frame; id 0 is the blank."""

    config: EncoderConfig
    vocabulary: int
    final_dropout: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        *,
        time_mask: jax.Array | None = None,
        channel_mask: jax.Array | None = None,
        edit: Edit | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """As `Encoder` -> (logits float32 [B, T, L], frames int32 [B] or None)."""
        out = Encoder(self.config, self.train, name="encoder")(
            audio, length, time_mask=time_mask, channel_mask=channel_mask, edit=edit
        )
        x = Dropout(self.final_dropout, deterministic=not self.train)(out.context)
        logits = nn.Dense(
            self.vocabulary,
            dtype=self.config.compute_dtype,
            kernel_init=boxed(nn.initializers.xavier_uniform(), "embed", "vocab"),
            bias_init=boxed(nn.initializers.zeros, "vocab"),
            name="head",
        )(x)
        return logits.astype(jnp.float32), out.length
