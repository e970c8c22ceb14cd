"""HuBERT as it is pre-trained: the encoder, a projection, and an embedding per label."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig, PredictionConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.layers import boxed, torch_dense


@flax.struct.dataclass
class PredictionOutput:
    """One entry of `context` and `embeddings` per set of labels, V classes in each."""

    context: tuple[jax.Array, ...]  # float32 [B, T, projection] of all frames
    embeddings: tuple[jax.Array, ...]  # float32 [V, projection]
    length: jax.Array | None  # int32 [B] frames, None when every row is full
    penalty: jax.Array  # float32 scalar, see EncoderOutput


class Hubert(nn.Module):
    """Masked-prediction model (arXiv 2106.07447 section III; fairseq hubert.py)."""

    config: EncoderConfig
    prediction: PredictionConfig
    train: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None = None,
        time_mask: jax.Array | None = None,
        frames: int | None = None,
    ) -> PredictionOutput:
        """audio [B, S], length int32 [B] or None, time_mask bool [B, T], frames as in `Encoder`."""
        cfg, head, dtype = self.config, self.prediction, self.config.compute_dtype
        cfg.refuse_output_layers("masked prediction")
        out = Encoder(cfg, self.train, name="encoder")(
            audio, length, time_mask=time_mask, frames=frames
        )
        sets = len(head.classes)
        width = head.projection * (1 if head.tied else sets)
        context = torch_dense(
            cfg.width, width, ("embed", "act_embed"), dtype, name="project_context"
        )(out.context).astype(jnp.float32)  # [B, T, projection per set]
        embeddings = self.param(
            "label_embeddings",
            boxed(nn.initializers.uniform(1.0), "vocab", "embed"),
            (sum(head.classes), head.projection),
        )
        ends = [sum(head.classes[: i + 1]) for i in range(sets - 1)]
        parts = (context,) * sets if head.tied else tuple(jnp.split(context, sets, axis=-1))
        return PredictionOutput(parts, tuple(jnp.split(embeddings, ends)), out.length, out.penalty)
