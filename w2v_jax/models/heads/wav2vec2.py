"""wav2vec 2.0 as it is pre-trained: encoder, quantizer, and the two projections that meet."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig, QuantizerConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.quantizer import Quantizer
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.layers import torch_dense


@flax.struct.dataclass
class PretrainingOutput:
    """The targets are those of the masked frames, K = M, or of all frames, K = T."""

    context: jax.Array  # float32 [B, M, projection] of the masked frames
    targets: jax.Array  # float32 [B, K, projection], quantized
    codes: jax.Array  # int32 [B, K, G]
    code_logits: jax.Array  # float32 [B, K, G, V]
    penalty: jax.Array  # float32 scalar, see EncoderOutput


class Wav2Vec2Model(nn.Module):
    """Contrastive pre-training model over the masked frames alone.

    everywhere: all frames are quantized, not just the masked ones (fairseq's
    negatives_from_everywhere).
    """

    config: EncoderConfig
    quantizer: QuantizerConfig
    train: bool = False
    everywhere: bool = False

    @nn.compact
    def __call__(
        self,
        audio: jax.Array,
        length: jax.Array | None,
        time_mask: jax.Array,
        masked_frames: jax.Array,
        *,
        noise: jax.Array | None = None,
        temperature: jax.Array | float = 1.0,
    ) -> PretrainingOutput:
        """audio [B, S], length int32 [B] or None, time_mask bool [B, T]; masked_frames int32
        [B, M]: the indices of the masked frames (see objectives.masking.masked_frames); noise
        and temperature as in `Quantizer`, noise [B, K, G, V].
        """
        cfg, dtype = self.config, self.config.compute_dtype
        cfg.refuse_output_layers("contrastive pre-training")
        out = Encoder(cfg, self.train, name="encoder")(audio, length, time_mask=time_mask)
        take = lambda x: jnp.take_along_axis(x, masked_frames[:, :, None], axis=1)  # noqa: E731
        drop = Dropout(self.quantizer.dropout, deterministic=not self.train)
        features = drop(out.features if self.everywhere else take(out.features))  # [B, K, C]
        quantized = Quantizer(self.quantizer, dtype, name="quantizer")(features, noise, temperature)
        projection = self.quantizer.projection
        targets = torch_dense(
            self.quantizer.width, projection, ("embed", "act_embed"), dtype, name="project_targets"
        )(quantized.vectors)
        context = torch_dense(
            cfg.width, projection, ("embed", "act_embed"), dtype, name="project_context"
        )(take(out.context))
        return PretrainingOutput(
            context.astype(jnp.float32),
            targets.astype(jnp.float32),
            quantized.codes,
            quantized.logits,
            out.penalty,
        )
