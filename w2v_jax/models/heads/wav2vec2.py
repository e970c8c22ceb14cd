"""wav2vec 2.0 as it is pre-trained: encoder, quantizer, and the two projections that meet.

Without a quantizer (arXiv 2010.10504) the targets are projections of the features.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from w2v_jax.models.config import EncoderConfig, LinearTargets, QuantizerConfig
from w2v_jax.models.encoder import Encoder
from w2v_jax.models.heads.quantizer import Quantizer
from w2v_jax.models.kernels.dropout import Dropout
from w2v_jax.models.kernels.norm_activation import ACTIVATIONS
from w2v_jax.models.layers import torch_dense


@flax.struct.dataclass
class PretrainingOutput:
    """The targets are those of the masked frames, K = M, or of all frames, K = T."""

    context: jax.Array  # float32 [B, M, projection] of the masked frames
    targets: jax.Array  # float32 [B, K, projection], of codes or of the features themselves
    codes: jax.Array | None  # int32 [B, K, G], None without a quantizer
    code_logits: jax.Array | None  # float32 [B, K, G, V], likewise
    penalty: jax.Array  # float32 scalar, see EncoderOutput


class Projection(nn.Module):
    """`depth` linear layers with GELU between, the inner ones as wide as the input."""

    features: int
    depth: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., C] -> [..., features]."""
        width, axes = x.shape[-1], ("embed", "act_embed")
        for i in range(self.depth - 1):
            x = torch_dense(width, width, axes, self.dtype, name=f"hidden_{i}")(x)
            x = ACTIVATIONS["gelu"](x)
        return torch_dense(width, self.features, axes, self.dtype, name="out")(x)


def projection(
    fan_in: int, quantizer: QuantizerConfig | LinearTargets, dtype, *, name: str
) -> nn.Module:
    """One of the two projections: a linear layer, or several with quantizer.projection_depth."""
    if quantizer.projection_depth > 1:
        return Projection(quantizer.projection, quantizer.projection_depth, dtype, name=name)
    return torch_dense(fan_in, quantizer.projection, ("embed", "act_embed"), dtype, name=name)


class Wav2Vec2Model(nn.Module):
    """Contrastive pre-training model over the masked frames alone.

    everywhere: all frames have targets, not just the masked ones (fairseq's
    negatives_from_everywhere).
    """

    config: EncoderConfig
    quantizer: QuantizerConfig | LinearTargets
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
        clean: jax.Array | None = None,
    ) -> PretrainingOutput:
        """audio [B, S], length int32 [B] or None, time_mask bool [B, T]; masked_frames int32
        [B, M]: the indices of the masked frames (see objectives.masking.masked_frames); noise
        and temperature as in `Quantizer`, noise [B, K, G, V]; clean [B, S]: the waves that the
        targets are of, None for those in `audio`. The gradient of the targets reaches the front
        end either way.
        """
        cfg, dtype = self.config, self.config.compute_dtype
        out = Encoder(cfg, self.train, name="encoder")(
            audio, length, time_mask=time_mask, clean=clean
        )
        take = lambda x: jnp.take_along_axis(x, masked_frames[:, :, None], axis=1)  # noqa: E731
        drop = Dropout(self.quantizer.dropout, deterministic=not self.train)
        features = drop(out.features if self.everywhere else take(out.features))  # [B, K, C]
        codes = logits = None
        if isinstance(self.quantizer, QuantizerConfig):
            quantizer = Quantizer(self.quantizer, dtype, name="quantizer")
            quantized = quantizer(features, noise, temperature)
            features, codes, logits = quantized.vectors, quantized.codes, quantized.logits
        width = features.shape[-1]
        targets = projection(width, self.quantizer, dtype, name="project_targets")(features)
        context = projection(cfg.width, self.quantizer, dtype, name="project_context")(
            take(out.context)
        )
        return PretrainingOutput(
            context.astype(jnp.float32), targets.astype(jnp.float32), codes, logits, out.penalty
        )
